//! SIGKILL of all nodes at once under load: after a restart every acknowledged write is there.
//!
//! `HYPERCACHE_TEST_ROUNDS` (2), `HYPERCACHE_TEST_CONNECTIONS` (16). A kill leaves the page cache alone, so this says
//! nothing about syncs: `power_cut.rs` and `sync_before_reply.rs` do.

mod cluster;

use cluster::load::{Load, Roaming};
use cluster::{Plan, figures, size, wait_until};
use hypercache::env;
use std::time::Duration;

const ENOUGH: usize = 50;

#[test]
fn nothing_acknowledged_is_lost_when_all_nodes_are_killed_at_once() {
    let rounds = size("HYPERCACHE_TEST_ROUNDS", 2);
    let connections = size("HYPERCACHE_TEST_CONNECTIONS", 16) as usize;
    let mut cluster = Plan::new(3, 4).start();
    let mut times: Vec<Duration> = Vec::new();
    let mut before = Vec::new();
    for _ in 1..=rounds {
        let load = Load::start(&cluster, connections, &cluster.proxies(&[1, 2, 3]), Roaming::Next);
        wait_until("every group takes writes", cluster::PATIENCE, || {
            (load.acked(&[1, 2, 3, 4]) >= ENOUGH).then_some(())
        });
        cluster.kill_all(&[1, 2, 3]);
        before.push(load.stop());
        let began = env::now();
        (1..=3).for_each(|n| cluster.start(n));
        cluster.wait_serving();
        times.push(began.elapsed());
        // What earlier rounds wrote must have survived this one, too.
        before.iter().for_each(|written| written.check(&cluster));
    }
    cluster.verify_replicas();
    println!("serving again after: {}", figures(times));
}
