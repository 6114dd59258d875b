//! Stand-in: a cluster of three nodes of which only the first exists.

use crate::raft::{Group, Host};
use crate::routing::{GroupInfo, NodeInfo, RoutingTable};
use crate::types::{GroupId, NodeId, SLOTS};
use arc_swap::ArcSwap;
use std::sync::Arc;

pub struct Cluster {
    table: ArcSwap<RoutingTable>,
    host: Host,
}

impl Cluster {
    /// `groups` data groups whose slots are dealt out in turn, all led by node 1, which is this one.
    pub fn stand_in(groups: u32) -> Arc<Cluster> {
        let node = |n: u64| NodeInfo {
            id: NodeId(n),
            name: format!("node-{n}"),
            host: "127.0.0.1".to_owned(),
            peer_port: 7000 + n as u16,
            resp_port: 6379 + n as u16,
            cluster_port: 6479 + n as u16,
            http_port: 8080 + n as u16,
            grpc_port: 7070 + n as u16,
        };
        let voters = vec![NodeId(1), NodeId(2), NodeId(3)];
        let ids: Vec<GroupId> = (1..=groups).map(GroupId).collect();
        let table = RoutingTable {
            epoch: 1,
            slots: (0..SLOTS).map(|s| GroupId((s as u32) % groups + 1)).collect(),
            groups: ids.iter().map(|g| (*g, GroupInfo { voters: voters.clone() })).collect(),
            nodes: voters.iter().map(|n| (*n, node(n.0))).collect(),
        };
        let groups = ids.iter().map(|g| (*g, Group::stand_in(*g, NodeId(1)))).collect();
        Arc::new(Cluster { table: ArcSwap::from_pointee(table), host: Host { groups } })
    }

    pub fn table(&self) -> Arc<RoutingTable> {
        self.table.load_full()
    }

    pub fn me(&self) -> NodeInfo {
        self.table().nodes[&NodeId(1)].clone()
    }

    pub fn id(&self) -> String {
        "c".repeat(40)
    }

    pub fn alive(&self, _: NodeId) -> bool {
        true
    }

    pub fn host(&self) -> &Host {
        &self.host
    }
}
