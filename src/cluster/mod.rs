//! Stand-in, to be dropped at the merge: a cluster of this node alone.
use crate::raft::{Group, Host};
use crate::routing::{GroupInfo, NodeInfo, RoutingTable};
use crate::types::{GroupId, NodeId, SLOTS};
use std::collections::BTreeMap;
use std::sync::Arc;

pub struct Cluster {
    table: Arc<RoutingTable>,
    host: Host,
}
impl Cluster {
    pub fn alone() -> Arc<Cluster> {
        let me = NodeInfo {
            id: NodeId(1),
            name: "node-1".into(),
            host: "127.0.0.1".into(),
            peer_port: 7000,
            resp_port: 6379,
            cluster_port: 6479,
            http_port: 8080,
            grpc_port: 7070,
        };
        let ids = [GroupId::META, GroupId(1)];
        let table = RoutingTable {
            epoch: 1,
            slots: vec![GroupId(1); SLOTS].into(),
            groups: ids.iter().map(|id| (*id, GroupInfo { voters: vec![me.id] })).collect(),
            nodes: BTreeMap::from([(me.id, me)]),
        };
        let host = Host(ids.iter().map(|id| Group::new(*id, NodeId(1))).collect());
        Arc::new(Cluster { table: Arc::new(table), host })
    }
    pub fn table(&self) -> Arc<RoutingTable> {
        Arc::clone(&self.table)
    }
    pub fn me(&self) -> NodeInfo {
        self.table.nodes[&NodeId(1)].clone()
    }
    pub fn id(&self) -> String {
        "0123456789abcdef0123456789abcdef01234567".into()
    }
    pub fn alive(&self, _: NodeId) -> bool {
        true
    }
    pub fn host(&self) -> &Host {
        &self.host
    }
}
