//! Stand-in, to be dropped at the merge: only the types that the doors see.
use crate::types::{GroupId, NodeId, Slot};
use std::collections::BTreeMap;

pub use crate::slot::slot_of;

pub struct RoutingTable {
    pub epoch: u64,
    pub slots: Box<[GroupId]>,
    pub groups: BTreeMap<GroupId, GroupInfo>,
    pub nodes: BTreeMap<NodeId, NodeInfo>,
}
pub struct GroupInfo {
    pub voters: Vec<NodeId>,
}
#[derive(Clone)]
pub struct NodeInfo {
    pub id: NodeId,
    pub name: String,
    pub host: String,
    pub peer_port: u16,
    pub resp_port: u16,
    pub cluster_port: u16,
    pub http_port: u16,
    pub grpc_port: u16,
}
impl RoutingTable {
    pub fn group_of(&self, slot: Slot) -> GroupId {
        self.slots[usize::from(slot.0)]
    }
}
