//! A follower that was away until the log behind it was purged catches up by snapshot, and then holds the same state.
//!
//! `HYPERCACHE_TEST_OPERATIONS` (4,000) writes of about 1 KB while it is away.

mod cluster;

use cluster::{Plan, bulk, size, wait_until};

const GROUP: &str = "1";

/// By their number alone ten thousand entries of a megabyte would be kept.
#[test]
fn a_log_of_large_entries_is_cut_to_its_bytes() {
    let plan = Plan::new(1, 1).set("persistence.snapshot_log_bytes=3MB").set("persistence.snapshot_min_interval=0s");
    let cluster = plan.start();
    let mut client = cluster.client(1);
    let megabyte = "x".repeat(1 << 20);
    let index = |name| cluster.metric(1, name, &[("group", GROUP)]).unwrap_or(0.0);
    wait_until("the log is purged", cluster::PATIENCE, || {
        client.ok(&["SET", "large", &megabyte]);
        // A snapshot is there a moment before the log is cut behind it.
        let (purged, snapshot) = (index("hypercache_group_purged_index"), index("hypercache_group_snapshot_index"));
        (purged > 0.0 && (5.0..=12.0).contains(&(snapshot - purged))).then_some(())
    });
}

#[test]
fn a_follower_that_fell_behind_the_log_catches_up_by_snapshot() {
    let operations = size("HYPERCACHE_TEST_OPERATIONS", 4_000);
    let plan = Plan::new(3, 1).set("persistence.snapshot_log_bytes=256KB").set("persistence.log_lag_entries=10");
    let mut cluster = plan.set("persistence.snapshot_min_interval=0s").start();
    cluster.client(1).ok(&["SET", "before", "it left"]);
    let leader = cluster.wait_leader_of("any", 1);
    let away = 1 + leader % 3;
    let on = |cluster: &cluster::Cluster, node, name| cluster.metric(node, name, &[("group", GROUP)]).unwrap_or(0.0);
    let left_at = on(&cluster, away, "hypercache_group_last_log_index");
    cluster.stop(away);

    let mut client = cluster.client(leader);
    let filler = "x".repeat(1000);
    for part in 0..operations.div_ceil(100) {
        let keys = (part * 100)..((part + 1) * 100).min(operations);
        let commands: Vec<Vec<String>> =
            keys.map(|i| vec!["SET".into(), format!("key:{}", i % 1500), format!("{i}:{filler}")]).collect();
        client.pipeline(&commands).expect("two of three nodes take writes");
    }
    for i in 0..100 {
        client.must(&["DEL", &format!("key:{i}")]);
        client.must(&["EXPIRE", &format!("key:{}", 100 + i), "1000"]);
    }
    let purged = wait_until("the log is purged beyond what the follower has", cluster::PATIENCE, || {
        // Snapshots are made as the log grows.
        client.ok(&["SET", "grow", &filler.repeat(50)]);
        let purged = on(&cluster, leader, "hypercache_group_purged_index");
        (purged > left_at + 100.0).then_some(purged)
    });
    println!("the follower left at {left_at}, the log begins after {purged}");

    assert!(!cluster.log(away).contains("snapshot-received"), "it needed none so far");
    cluster.start(away);
    cluster.wait_serving();
    wait_until("the follower tells that it received a snapshot", cluster::PATIENCE, || {
        cluster.log(away).contains("snapshot-received").then_some(())
    });
    cluster.verify_replicas();

    // What it holds survives its own restart, too.
    let mut reader = cluster.client(away);
    assert_eq!(reader.must(&["GET", "before"]), bulk("it left"));
    let reply = reader.must(&["GET", "key:1000"]);
    cluster.kill(away);
    cluster.start(away);
    cluster.wait_serving();
    assert_eq!(cluster.client(away).must(&["GET", "key:1000"]), reply);
    cluster.verify_replicas();
}
