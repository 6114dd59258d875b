//! What the doors' tests stand on: a node of its own with real groups in a temporary directory.

use crate::cluster::{Cluster, Layout, Members};
use crate::raft::{Host, HostOptions, Timers, storage};
use crate::routing::NodeInfo;
use crate::server::overview::Overview;
use crate::types::NodeId;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::runtime::Handle;

/// A cluster of one node with `groups` data groups, formed and leading all of them. Its directory goes with the process
/// at the latest.
pub async fn one_node_with(groups: u32) -> Arc<Cluster> {
    let dir = tempfile::tempdir().unwrap().keep();
    let me = NodeId(1);
    let members = Arc::new(Members::open(&dir, me, "node-1", BTreeMap::new()).unwrap());
    let options = HostOptions {
        me,
        data_dir: dir,
        storage: storage::Options_ { sync: crate::raft::Sync::No, ..Default::default() },
        timers: Timers::default(),
        log_lag: 1000,
        snapshot_log_bytes: 64 << 20,
        snapshot_min_interval: std::time::Duration::ZERO,
        eventual_without_leader: false,
    };
    let host = Host::open(options, members.clone(), vec![worker()]).unwrap();
    let info = NodeInfo {
        id: me,
        name: "node-1".into(),
        host: "127.0.0.1".into(),
        peer_port: 7000,
        resp_port: 6379,
        cluster_port: 6479,
        http_port: 8080,
        grpc_port: 7070,
    };
    let layout = Layout { nodes: vec![me], groups, replication_factor: 1 };
    let cluster = Cluster::new(members, host, info, layout);
    tokio::spawn(cluster.clone().run());
    cluster.ready().await;
    for group in cluster.host().groups() {
        group
            .barrier(crate::types::Level::Linearizable, crate::env::now() + std::time::Duration::from_secs(20))
            .await
            .unwrap();
        group
            .barrier(crate::types::Level::Eventual, crate::env::now() + std::time::Duration::from_secs(20))
            .await
            .unwrap();
    }
    cluster
}

/// A worker thread of its own: a group's core starts on it while the test's thread waits.
fn worker() -> Handle {
    let (tx, rx) = std::sync::mpsc::channel();
    crate::env::spawn_thread("test-worker", move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tx.send(runtime.handle().clone()).unwrap();
        runtime.block_on(std::future::pending::<()>());
    });
    rx.recv().unwrap()
}

/// The node, recovered and leading.
pub async fn one_node() -> Arc<Overview> {
    Overview::new(one_node_with(1).await)
}
