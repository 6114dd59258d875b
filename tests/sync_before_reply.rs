//! No write is acknowledged before its bytes are on stable storage: with a disk whose syncs take 300 ms (strace delays
//! them), no reply comes earlier than that.
//!
//! A kill or a crash of the process cannot show this, because the page cache survives them.

mod cluster;

use cluster::{Plan, bulk, figures, installed, skipped};
use hypercache::env;
use std::time::Duration;

const DELAY: Duration = Duration::from_millis(300);
const WRITES: usize = 10;

fn reply_times(nodes: usize, setting: &str) -> Option<Vec<Duration>> {
    if !installed("strace") {
        skipped("syncs before replies", "strace is not installed (Debian package strace)");
        return None;
    }
    let delay = "inject=fdatasync,fsync,sync_file_range:delay_exit=300000";
    let strace = [
        "strace",
        "-f",
        "--seccomp-bpf",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "trace=fdatasync,fsync,sync_file_range",
        "-e",
        delay,
    ];
    // With such a disk an election takes longer than the default timers allow for.
    let timers = Plan::new(nodes, 1).set("raft.election_timeout_min_ms=3000").set("raft.election_timeout_max_ms=6000");
    let mut cluster = timers.set(setting).set("storage.unsafe_durability=true").prepare();
    (1..=nodes).for_each(|n| cluster.node_mut(n).wrap = strace.map(str::to_owned).to_vec());
    (1..=nodes).for_each(|n| cluster.start(n));
    cluster.wait_serving();
    let mut client = cluster.client(1);
    let times = (0..WRITES).map(|i| {
        let sent = env::now();
        client.ok(&["SET", "k", &i.to_string()]);
        let took = sent.elapsed();
        assert_eq!(client.must(&["GET", "k"]), bulk(&i.to_string()));
        took
    });
    Some(times.collect())
}

#[test]
fn no_reply_comes_before_the_sync() {
    let Some(times) = reply_times(1, "storage.sync=always") else { return };
    println!("syncs delayed by {DELAY:?}: replies after {}", figures(times.clone()));
    // Less a little: strace counts from when it sees the call end.
    assert!(times.iter().all(|t| *t >= DELAY * 95 / 100), "{times:?}");
}

#[test]
fn the_delay_would_be_seen() {
    // The same disk without syncs: the test above is not passed by a delay of something else.
    let Some(times) = reply_times(1, "storage.sync=no") else { return };
    println!("without syncs: replies after {}", figures(times.clone()));
    assert!(times.iter().all(|t| *t < DELAY), "{times:?}");
}

#[test]
fn nor_in_a_cluster() {
    let Some(times) = reply_times(3, "storage.sync=always") else { return };
    println!("three nodes, syncs delayed by {DELAY:?}: replies after {}", figures(times.clone()));
    assert!(times.iter().all(|t| *t >= DELAY * 95 / 100), "{times:?}");
}
