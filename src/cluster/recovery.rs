//! A node that was made a cluster of its own (`hypercachectl recover`) tells its meta group so, once it leads it.
//!
//! Invariants: one entry of the log says it all, so there is nothing in between; until then nobody brings the old roster about.

use super::placement::Target;
use super::roster::{Entry, ROSTER, Roster, Standing};
use super::{Cluster, NODE, RETRY, TABLE, TableDocument, WRITE, membership, read_documents};
use crate::env;
use crate::raft::{Group, Outcome};
use crate::resp::Args;
use crate::routing::{GroupInfo, RoutingTable};
use crate::state::View;
use crate::types::{GroupId, Level, NodeId};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

impl Cluster {
    /// Ends when the meta group says that this node is alone, or at once where it is not meant to be.
    pub(super) async fn settle_alone(self: Arc<Self>, meta: Arc<Group>) {
        while self.members.is_forced() {
            env::sleep(RETRY).await;
            let deadline = env::now() + WRITE;
            if !meta.is_leader() || meta.barrier(Level::Linearizable, deadline).await.is_err() {
                continue;
            }
            let calls = match self.words_of_one(&meta) {
                Ok(calls) => calls,
                Err(error) => {
                    tracing::error!(error, "recovery-waits: the meta group cannot be read");
                    continue;
                }
            };
            if let Outcome::Applied { .. } = meta.propose_and_wait(calls, deadline).await {
                tracing::warn!(cluster = %self.id(), "cluster-recovered: this node is a cluster of its own now");
                self.members.note_settled();
            }
        }
    }

    /// What the meta group is told.
    fn words_of_one(&self, meta: &Group) -> Result<Vec<Args>, String> {
        let (routes, ..) = meta.peek(|keyspace| read_documents(&View::new(keyspace, None)))?;
        let json = meta.peek(|keyspace| {
            let view = View::new(keyspace, None);
            view.get(TABLE.as_bytes()).and_then(|e| e.value().as_text()).map(|text| text.to_bytes(0))
        });
        let mut table = TableDocument::parse(&json.ok_or("it holds no table: the cluster was never formed")?)?;
        table.give_up_beginnings();
        let roster = membership::roster_of(meta)?.map(|(_, roster)| roster);
        let roster = alone(roster, &routes, self.me_id(), &self.info.name, |node| self.members.incarnation_of(node));
        let groups = table.groups.keys().map(|id| (*id, GroupInfo { voters: vec![self.me_id()] })).collect();
        let table = TableDocument { cluster: self.id(), epoch: table.epoch + 1, groups, ..table };
        let table = serde_json::to_string(&table).expect("the table is plain data");
        let set = |key: &str, json: String| -> Args {
            [Bytes::from_static(b"SET"), Bytes::copy_from_slice(key.as_bytes()), json.into()].into_iter().collect()
        };
        let others = routes.nodes.keys().filter(|node| **node != self.me_id());
        let delete = |node: &NodeId| -> Args {
            [Bytes::from_static(b"DEL"), format!("{NODE}{node}").into()].into_iter().collect()
        };
        let mut calls = vec![set(TABLE, table), set(ROSTER, roster.document())];
        calls.extend(others.map(delete));
        Ok(calls)
    }
}

/// The roster in which all nodes but one are gone. Their numbers stay theirs.
fn alone(
    known: Option<Roster>,
    routes: &RoutingTable,
    me: NodeId,
    name: &str,
    incarnation_of: impl Fn(NodeId) -> Option<u64>,
) -> Roster {
    let mut roster = known.unwrap_or_default();
    for info in routes.nodes.values().filter(|info| info.id != me) {
        roster.nodes.entry(info.id).or_insert_with(|| Entry {
            name: info.name.clone(),
            // Of a node that was never met nothing is known, and nobody is ever to come as it.
            incarnation: incarnation_of(info.id).unwrap_or(u64::MAX),
            address: String::new(),
            standing: Standing::Gone,
            replaces: None,
            zone: info.zone.clone(),
            away: false,
        });
    }
    roster.nodes.values_mut().for_each(|entry| entry.standing = Standing::Gone);
    let (incarnation, address) = (incarnation_of(me).unwrap_or(u64::MAX), String::new());
    let mine = roster.nodes.remove(&me);
    let (zone, standing) = (mine.map(|entry| entry.zone).unwrap_or_default(), Standing::Member);
    let name = name.to_owned();
    roster.nodes.insert(me, Entry { name, incarnation, address, standing, replaces: None, zone, away: false });
    let groups = routes.groups.keys().copied().chain([GroupId::META]);
    let target: Target = groups.map(|group| (group, vec![me])).collect::<BTreeMap<_, _>>();
    Roster { version: 1, copies: 1, target, level_leaders: false, ..roster }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::NodeInfo;

    fn info(id: u64) -> (NodeId, NodeInfo) {
        let (host, zone, name) = ("h".to_owned(), String::new(), format!("node-{id}"));
        let ports = (1, 2, 3, 4, 5, 6);
        let (peer_port, resp_port, cluster_port, http_port, grpc_port, gossip_port) = ports;
        let id = NodeId(id);
        (id, NodeInfo { id, name, host, peer_port, resp_port, cluster_port, http_port, grpc_port, gossip_port, zone })
    }

    #[test]
    fn all_but_one_are_gone_and_their_numbers_are_not_given_out_again() {
        let mut routes = RoutingTable::unformed();
        routes.nodes = (1..=3).map(info).collect();
        routes.groups = (1..=2).map(|id| (GroupId(id), GroupInfo { voters: vec![NodeId(1)] })).collect();
        let met = |node: NodeId| (node != NodeId(3)).then_some(10 + node.0);
        let mut roster = alone(None, &routes, NodeId(2), "node-2", met);
        let gone: Vec<NodeId> = roster.with(Standing::Gone).collect();
        assert_eq!((gone, roster.standing(NodeId(2))), (vec![NodeId(1), NodeId(3)], Some(Standing::Member)));
        assert!(roster.target.len() == 3 && roster.target.values().all(|voters| voters == &[NodeId(2)]));
        assert_eq!(Roster::parse(roster.document().as_bytes()), Ok(roster.clone()));
        let again = alone(Some(roster.clone()), &routes, NodeId(2), "node-2", met);
        assert_eq!(again, roster, "said twice it is the same");
        assert_eq!(roster.admit("node-1", "h:1", 77, "", None), Ok(NodeId(4)));
    }
}
