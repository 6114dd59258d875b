//! Stand-in: the routing table's plain data, as the contract words it.

use crate::types::{GroupId, NodeId, Slot};
use std::collections::BTreeMap;

#[derive(Debug, Clone)]
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

#[derive(Debug, Clone)]
pub struct GroupInfo {
    pub voters: Vec<NodeId>,
}

#[derive(Debug, Clone)]
pub struct RoutingTable {
    pub epoch: u64,
    pub slots: Box<[GroupId]>,
    pub groups: BTreeMap<GroupId, GroupInfo>,
    pub nodes: BTreeMap<NodeId, NodeInfo>,
}

impl RoutingTable {
    pub fn group_of(&self, slot: Slot) -> GroupId {
        self.slots[slot.0 as usize]
    }

    pub fn data_groups(&self) -> impl Iterator<Item = GroupId> {
        self.groups.keys().copied().filter(|g| *g != GroupId::META)
    }
}
