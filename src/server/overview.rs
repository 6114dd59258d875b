//! What this node can tell about the cluster, gathered once for every door that shows it: `/api/cluster`, `/readyz`,
//! `/metrics` and the gRPC service.
//!
//! Reads only; never waits, never asks another node. A row is this node's own view: a follower's commit position may
//! lie behind its leader's, and of a group without a replica here only the table's facts are known.

use crate::cluster::Cluster;
use crate::env::{self, Instant};
use crate::raft::Group;
use crate::routing::NodeInfo;
use crate::server::metrics::Metric;
use crate::types::{GroupId, Level, NodeId, SLOTS, Slot};
use parking_lot::Mutex;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Another part's contribution to `/metrics`, called once a scrape. Must be quick and must not block.
pub type Source = Box<dyn Fn() -> Vec<Metric> + Send + Sync>;

/// A leader that no majority has confirmed for so long is not one that can serve.
const QUORUM: Duration = Duration::from_secs(2);

/// The handle that all doors of the node share.
pub struct Overview {
    cluster: Arc<Cluster>,
    started: Instant,
    /// Set at the first moment the node was seen ready, never cleared.
    started_up: AtomicBool,
    sources: Mutex<Vec<Source>>,
}

/// Where a node listens, each `host:port`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Addresses {
    pub peer: String,
    pub resp: String,
    pub cluster: String,
    pub http: String,
    pub grpc: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeRow {
    pub id: u64,
    pub name: String,
    pub addresses: Addresses,
    pub alive: bool,
    pub zone: String,
}

/// One group as this node sees it. Without a replica here (`hosted` is false) positions and sizes are zero.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct GroupRow {
    pub id: u32,
    pub leader: Option<u64>,
    pub voters: Vec<u64>,
    pub learners: Vec<u64>,
    pub term: u64,
    pub commit: u64,
    pub applied: u64,
    pub last_log: u64,
    pub snapshot: u64,
    pub purged: u64,
    pub slots: u32,
    pub slot_ranges: Vec<String>,
    pub keys: u64,
    pub expires: u64,
    pub used_bytes: u64,
    /// 0: none.
    pub limit_bytes: u64,
    pub evicted: u64,
    pub clock_ms: u64,
    pub hosted: bool,
    pub recovered: bool,
    pub fenced: bool,
    /// Slots that are frozen because they are on their way to another group.
    pub frozen_slots: usize,
    pub verified: u64,
    pub verified_ms: u64,
    pub verifications: u64,
    pub differences: u64,
    pub rebuilt: u64,
}

/// Whether the node can serve, and what it still waits for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Readiness {
    pub ready: bool,
    pub waiting: Vec<String>,
}

impl Overview {
    pub fn new(cluster: Arc<Cluster>) -> Arc<Overview> {
        Arc::new(Overview {
            cluster,
            started: env::now(),
            started_up: AtomicBool::new(false),
            sources: Mutex::new(Vec::new()),
        })
    }

    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Adds a part's own metrics to every later scrape. The number of sources is fixed by the wiring, not by clients.
    pub fn add_source(&self, source: Source) {
        self.sources.lock().push(source);
    }

    /// What the added sources say now.
    pub fn sourced(&self) -> Vec<Metric> {
        self.sources.lock().iter().flat_map(|source| source()).collect()
    }

    /// The nodes of the routing table, by id.
    pub fn nodes(&self) -> Vec<NodeRow> {
        let table = self.cluster.table();
        table.nodes.values().map(|info| node_row(info, self.cluster.alive(info.id))).collect()
    }

    /// The groups of the routing table and those hosted here, by id.
    pub fn groups(&self) -> Vec<GroupRow> {
        let table = self.cluster.table();
        let slots = slots_of_groups(&table.slots);
        let hosted: BTreeMap<GroupId, Arc<Group>> =
            self.cluster.host().groups().into_iter().map(|group| (group.id(), group)).collect();
        let ids: BTreeSet<GroupId> = table.groups.keys().chain(hosted.keys()).copied().collect();
        ids.into_iter()
            .map(|id| {
                let mut row = match hosted.get(&id) {
                    Some(group) => group_row(group),
                    None => GroupRow {
                        id: id.0,
                        voters: table.groups.get(&id).map(|info| ids_of(&info.voters)).unwrap_or_default(),
                        ..GroupRow::default()
                    },
                };
                if let Some(ranges) = slots.get(&id) {
                    row.slots = ranges.iter().map(|(first, last)| u32::from(last - first) + 1).sum();
                    row.slot_ranges = ranges.iter().map(range_text).collect();
                }
                row
            })
            .collect()
    }

    /// Ready means: this node hosts groups, each of them has recovered since it was started and knows a leader, and where that
    /// is this node, a majority has lately said so. A group that owns no slots, because it comes or goes, keeps nobody waiting.
    pub fn readiness(&self) -> Readiness {
        let (table, mut groups) = (self.cluster.table(), self.cluster.host().groups());
        let runs = table.slots.chunk_by(|a, b| a == b).map(|run| run[0]);
        let owners: BTreeSet<GroupId> = runs.chain([GroupId::META]).collect();
        groups.retain(|group| owners.contains(&group.id()));
        let mut waiting = Vec::new();
        if groups.is_empty() {
            waiting.push("no group is hosted here yet".to_owned());
        }
        for group in &groups {
            if group.leader().is_none() {
                waiting.push(format!("group {} knows no leader", group.id()));
            } else if let Some(age) = quorum_lost(group) {
                waiting.push(format!(
                    "group {} is led here, and no majority was heard for {} ms",
                    group.id(),
                    age.as_millis()
                ));
            } else if !recovered(group) {
                waiting.push(format!("group {} has not caught up with its leader since it was started", group.id()));
            }
        }
        let ready = waiting.is_empty();
        if ready {
            self.started_up.store(true, Ordering::Relaxed);
        }
        Readiness { ready, waiting }
    }

    /// Ready now or at any earlier question.
    pub fn started_up(&self) -> bool {
        self.started_up.load(Ordering::Relaxed) || self.readiness().ready
    }

    /// The name under which users know a node; its number if the table does not have it.
    pub fn name_of(&self, node: NodeId) -> String {
        self.cluster.table().nodes.get(&node).map_or_else(|| node.to_string(), |info| info.name.clone())
    }

    /// The gRPC address of a node, if the table has it.
    pub fn grpc_of(&self, node: NodeId) -> Option<String> {
        self.cluster.table().nodes.get(&node).map(|info| address(&info.host, info.grpc_port))
    }
}

/// How long a leader was not confirmed by a majority, if that is too long.
fn quorum_lost(group: &Group) -> Option<Duration> {
    group.unconfirmed_for().filter(|age| *age > QUORUM)
}

/// A replica answers no read at all, eventual included, until it has recovered; so this asks for one.
fn recovered(group: &Group) -> bool {
    group.try_read(Level::Eventual).is_some()
}

fn node_row(info: &NodeInfo, alive: bool) -> NodeRow {
    NodeRow {
        id: info.id.0,
        name: info.name.clone(),
        addresses: Addresses {
            peer: address(&info.host, info.peer_port),
            resp: address(&info.host, info.resp_port),
            cluster: address(&info.host, info.cluster_port),
            http: address(&info.host, info.http_port),
            grpc: address(&info.host, info.grpc_port),
        },
        alive,
        zone: info.zone.clone(),
    }
}

fn group_row(group: &Group) -> GroupRow {
    let status = group.status();
    GroupRow {
        id: status.id.0,
        leader: status.leader.map(|id| id.0),
        voters: ids_of(&status.voters),
        learners: ids_of(&status.learners),
        term: status.term,
        commit: status.committed,
        applied: status.applied,
        last_log: status.last_log,
        snapshot: status.snapshot,
        purged: status.purged,
        slots: 0,
        slot_ranges: Vec::new(),
        keys: status.keys,
        expires: status.expires,
        used_bytes: status.used_bytes,
        limit_bytes: status.limit_bytes,
        evicted: status.evicted,
        clock_ms: status.clock_ms,
        hosted: true,
        recovered: recovered(group),
        fenced: status.fenced,
        frozen_slots: group.peek(|keyspace| keyspace.ownership().frozen()),
        verified: status.verified,
        verified_ms: status.verified_ms,
        verifications: status.verifications,
        differences: status.differences,
        rebuilt: status.rebuilt,
    }
}

fn ids_of(nodes: &[NodeId]) -> Vec<u64> {
    nodes.iter().map(|id| id.0).collect()
}

/// `host:port`, with the brackets an IPv6 address needs.
pub fn address(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Runs of neighbouring slots of each group, ascending, both ends included.
fn slots_of_groups(slots: &[GroupId]) -> BTreeMap<GroupId, Vec<(u16, u16)>> {
    debug_assert!(slots.len() <= SLOTS, "a slot number fits in 16 bits");
    let mut ranges: BTreeMap<GroupId, Vec<(u16, u16)>> = BTreeMap::new();
    for (slot, group) in slots.iter().enumerate() {
        let Slot(slot) = Slot(slot as u16);
        let runs = ranges.entry(*group).or_default();
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == slot => *last = slot,
            _ => runs.push((slot, slot)),
        }
    }
    ranges
}

fn range_text((first, last): &(u16, u16)) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::testing::{all_of_three_with, one_node, until};

    #[tokio::test]
    async fn a_lone_node_to_which_nobody_writes_stays_ready() {
        let node = one_node().await;
        let groups = node.cluster.host().groups();
        let idle = |group: &Arc<Group>| group.status().quorum_age_ms.is_some_and(|ms| ms > QUORUM.as_millis() as u64);
        until(|| groups.iter().all(idle)).await;
        let Readiness { ready, waiting } = node.readiness();
        assert!(ready, "{waiting:?}");
    }

    #[tokio::test]
    async fn a_cluster_to_which_nobody_writes_stays_ready() {
        let nodes: Vec<Arc<Overview>> = all_of_three_with(1).await.into_iter().map(Overview::new).collect();
        until(|| nodes.iter().all(|node| node.readiness().ready)).await;
        let since = env::now();
        let mut looks = 0;
        while since.elapsed() < QUORUM * 3 / 2 {
            for node in &nodes {
                let Readiness { ready, waiting } = node.readiness();
                assert!(ready, "after {:?}: {waiting:?}", since.elapsed());
            }
            looks += 1;
            env::sleep(Duration::from_millis(20)).await;
        }
        assert!(looks > 10, "it was looked at only {looks} times");
    }

    #[test]
    fn neighbouring_slots_become_one_range() {
        let slots = [1, 1, 2, 1, 2, 2].map(GroupId);
        let ranges = slots_of_groups(&slots);
        let text = |id| ranges[&GroupId(id)].iter().map(range_text).collect::<Vec<_>>();
        assert_eq!(text(1), ["0-1", "3"]);
        assert_eq!(text(2), ["2", "4-5"]);
    }

    #[test]
    fn an_ipv6_host_gets_brackets() {
        assert_eq!(address("127.0.0.1", 70), "127.0.0.1:70");
        assert_eq!(address("::1", 70), "[::1]:70");
        assert_eq!(address("[::1]", 70), "[::1]:70");
    }
}
