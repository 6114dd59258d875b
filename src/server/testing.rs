//! What the doors' tests stand on: a node of its own with real groups in a temporary directory.
//!
//! The node runs on a thread of its own, since a group's core starts there while the test's thread waits. Both end with
//! the test's runtime, and the directory goes with them.

use crate::cluster::{Cluster, Layout, Members};
use crate::env;
use crate::raft::{Group, Host, HostOptions, Outcome, Timers, storage, wire::Lane};
use crate::resp::Args;
use crate::routing::NodeInfo;
use crate::server::overview::Overview;
use crate::state::View;
use crate::types::{GroupId, Level, NodeId};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Nothing a test's node does takes this long; reached only when a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// A directory and a thread on which nodes run, until this is dropped.
struct Ground {
    dir: PathBuf,
    worker: Handle,
    end: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Ground {
    /// Waits until nothing runs any more: a store that is still being closed when the process ends takes it down.
    fn drop(&mut self) {
        drop(self.end.take());
        let _ = self.thread.take().expect("it is taken here only").join();
    }
}

impl Ground {
    fn new() -> Ground {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let (end, ended) = oneshot::channel::<()>();
        let (tx, rx) = std::sync::mpsc::channel();
        let thread = env::spawn_thread("test-worker", move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            tx.send(runtime.handle().clone()).unwrap();
            let _ = runtime.block_on(ended);
            drop(runtime);
            remove(dir.keep());
        });
        Ground { dir: path, worker: rx.recv().unwrap(), end: Some(end), thread: Some(thread) }
    }

    fn host(&self, me: NodeId, peers: BTreeMap<NodeId, String>) -> (Arc<Members>, Arc<Host>) {
        let dir = self.dir.join(format!("node-{me}"));
        let members = Arc::new(Members::open(&dir, me, &format!("node-{me}"), peers).unwrap());
        let options = HostOptions {
            me,
            data_dir: dir,
            storage: storage::Options_ { sync: crate::raft::Sync::No, ..Default::default() },
            timers: Timers::default(),
            log_lag: 1000,
            snapshot_log_bytes: 64 << 20,
            snapshot_min_interval: Duration::ZERO,
            eventual_without_leader: false,
            verify_interval: Duration::ZERO,
            filter_precision: Default::default(),
        };
        let host = Host::open(options, members.clone(), vec![self.worker.clone()]).unwrap();
        (members, host)
    }
}

/// Removes a directory whose stores are just being closed by those who held them last.
fn remove(dir: PathBuf) {
    for _ in 0..200 {
        if std::fs::remove_dir_all(&dir).is_ok() {
            return;
        }
        // On a thread of its own, without a runtime.
        #[allow(clippy::disallowed_methods)]
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Where node `id` says that its doors are.
fn info(id: NodeId, peer_port: u16) -> NodeInfo {
    let n = id.0 as u16 - 1;
    NodeInfo {
        id,
        name: format!("node-{id}"),
        host: "127.0.0.1".into(),
        peer_port,
        resp_port: 6379 + n,
        cluster_port: 6479 + n,
        http_port: 8080 + n,
        grpc_port: 7070 + n,
        gossip_port: 0,
        zone: String::new(),
    }
}

async fn one_node_on(ground: &Ground, groups: u32) -> Arc<Cluster> {
    let me = NodeId(1);
    let (members, host) = ground.host(me, BTreeMap::new());
    let layout = Layout { nodes: vec![me], groups, replication_factor: 1, ..Layout::default() };
    let cluster = Cluster::new(members, host, info(me, 7000), layout);
    tokio::spawn(cluster.clone().run());
    cluster.ready().await;
    cluster.users_known().await;
    for group in cluster.host().groups() {
        for level in [Level::Linearizable, Level::Eventual] {
            group.barrier(level, env::now() + PATIENCE).await.unwrap();
        }
    }
    cluster
}

/// The nodes on it run until the test's runtime ends.
fn keep(ground: Ground) {
    tokio::spawn(async move {
        let _ground = ground;
        std::future::pending::<()>().await
    });
}

/// A cluster of one node with `groups` data groups, formed and leading all of them.
pub async fn one_node_with(groups: u32) -> Arc<Cluster> {
    let ground = Ground::new();
    let cluster = one_node_on(&ground, groups).await;
    keep(ground);
    cluster
}

/// The first node of a cluster of three: the table says that all hold every group, and the others are there and answer
/// it. They hold nothing, so the groups are still this node's alone, and settled by it alone.
pub async fn one_of_three_with(groups: u32) -> Arc<Cluster> {
    let ground = Ground::new();
    let cluster = one_node_on(&ground, groups).await;
    let all = [1, 2, 3].map(NodeId);
    let mut documents = vec![("table".to_owned(), table_for(&cluster, &all))];
    for id in &all[1..] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let info = info(*id, listener.local_addr().unwrap().port());
        let (members, host) = ground.host(*id, BTreeMap::new());
        tokio::spawn(host.listen(listener, members));
        documents.push((format!("node/{id}"), serde_json::to_string(&info).unwrap()));
    }
    let write = |(key, json): (String, String)| -> Args {
        ["SET".to_owned(), key, json].map(Bytes::from).into_iter().collect()
    };
    let meta = cluster.host().group(GroupId::META).unwrap();
    let outcome = meta.propose_and_wait(documents.into_iter().map(write).collect(), env::now() + PATIENCE).await;
    assert!(matches!(outcome, Outcome::Applied { .. }), "{outcome:?}");
    until(|| cluster.table().nodes.len() == all.len()).await;
    all[1..].iter().for_each(|id| drop(cluster.host().peers().link(*id, Lane::Raft(0))));
    until(|| all.iter().all(|id| cluster.alive(*id))).await;
    keep(ground);
    cluster
}

/// One of three nodes that all hold every group. Which of them leads is left to elections.
pub async fn three_nodes_with(groups: u32) -> Arc<Cluster> {
    all_of_three_with(groups).await.swap_remove(0)
}

/// All three of them.
pub async fn all_of_three_with(groups: u32) -> Vec<Arc<Cluster>> {
    three_with_replicas(groups, 3).await
}

/// Three nodes with so many replicas of each group. Group g is on the nodes from g on, modulo three.
pub async fn three_with_replicas(groups: u32, replication_factor: usize) -> Vec<Arc<Cluster>> {
    let ground = Ground::new();
    let nodes = vec![NodeId(1), NodeId(2), NodeId(3)];
    let mut doors = Vec::new();
    for id in &nodes {
        doors.push((*id, TcpListener::bind("127.0.0.1:0").await.unwrap()));
    }
    let port = |door: &TcpListener| door.local_addr().unwrap().port();
    let peers: BTreeMap<NodeId, String> = doors.iter().map(|(id, d)| (*id, format!("127.0.0.1:{}", port(d)))).collect();
    let mut clusters = Vec::new();
    for (id, door) in doors {
        let (members, host) = ground.host(id, peers.clone());
        let info = info(id, port(&door));
        tokio::spawn(host.clone().listen(door, members.clone()));
        let layout = Layout { nodes: nodes.clone(), groups, replication_factor, ..Layout::default() };
        let cluster = Cluster::new(members, host, info, layout);
        tokio::spawn(cluster.clone().run());
        clusters.push(cluster);
    }
    for cluster in &clusters {
        cluster.ready().await;
        cluster.users_known().await;
        let whole = |g: &Arc<Group>| match g.id() {
            GroupId::META => g.status().voters.len() == nodes.len(),
            _ => g.status().voters.len() == replication_factor,
        };
        until(|| cluster.host().groups().iter().all(whole)).await;
    }
    keep(ground);
    clusters
}

/// The table as it is, but with `nodes` in every group.
fn table_for(cluster: &Cluster, nodes: &[NodeId]) -> String {
    let meta = cluster.host().group(GroupId::META).unwrap();
    let json =
        meta.peek(|keyspace| View::new(keyspace, None).get(b"table").unwrap().value().as_text().unwrap().to_bytes(0));
    let mut table: serde_json::Value = serde_json::from_slice(&json).unwrap();
    for (_, group) in table["groups"].as_object_mut().unwrap() {
        group["voters"] = serde_json::to_value(nodes).unwrap();
    }
    table.to_string()
}

pub async fn until(done: impl Fn() -> bool) {
    let waiting = async {
        while !done() {
            env::sleep(Duration::from_millis(1)).await;
        }
    };
    env::timeout(PATIENCE, waiting).await.expect("it comes about in time");
}

/// The node, recovered and leading.
pub async fn one_node() -> Arc<Overview> {
    Overview::new(one_node_with(1).await)
}
