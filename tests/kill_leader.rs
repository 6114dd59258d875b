//! SIGKILL of a leader under writing connections, again and again: nothing that was acknowledged is lost, nothing that
//! was refused is applied, and writes go on.
//!
//! `HYPERCACHE_TEST_ROUNDS` (3) kills, `HYPERCACHE_TEST_CONNECTIONS` (16) connections. How long writes paused is printed;
//! the only bound on it here is a guard against hanging, since this machine may be busy.

mod cluster;

use cluster::load::{Load, Roaming};
use cluster::{Plan, figures, size, wait_until};
use hypercache::env;
use std::time::Duration;

/// Longer pauses of writes are failures whatever the machine does.
const HANGS: Duration = Duration::from_secs(5);
/// Writes that each group must take before a kill and after it.
const ENOUGH: usize = 20;

#[test]
fn nothing_acknowledged_is_lost_when_leaders_are_killed() {
    let rounds = size("HYPERCACHE_TEST_ROUNDS", 3);
    let connections = size("HYPERCACHE_TEST_CONNECTIONS", 16) as usize;
    let mut cluster = Plan::new(3, 4).start();
    let load = Load::start(&cluster, connections, &cluster.proxies(&[1, 2, 3]), Roaming::Next);
    let mut pauses = Vec::new();
    for round in 1..=rounds {
        let before = load.acked(&[1, 2, 3, 4]);
        wait_until("every group takes writes", cluster::PATIENCE, || {
            (load.acked(&[1, 2, 3, 4]) >= before + ENOUGH).then_some(())
        });
        let victim = cluster.busiest();
        let led = cluster.led_by(victim);
        assert!(!led.is_empty(), "the node that leads most leads something");
        let fault = env::now();
        cluster.kill(victim);
        let others = cluster.running();
        wait_until("another node leads every group of the killed one", HANGS * 2, || {
            let leads: Vec<u32> = others.iter().flat_map(|n| cluster.led_by(*n)).collect();
            led.iter().all(|g| leads.contains(g)).then_some(())
        });
        let at_takeover = led.iter().map(|g| (*g, load.acked(&[*g]))).collect::<Vec<_>>();
        wait_until("writes go on", HANGS * 2, || {
            at_takeover.iter().all(|(g, n)| load.acked(&[*g]) >= n + ENOUGH).then_some(())
        });
        let round_pauses: Vec<Duration> = led.iter().map(|g| load.resumed_after(*g, fault)).collect();
        println!("round {round}: killed node {victim}, groups {led:?} paused {round_pauses:?}");
        pauses.extend(round_pauses);
        cluster.start(victim);
        cluster.wait_serving();
    }
    let written = load.stop();
    println!("writes resumed after: {}", figures(pauses.clone()));
    println!(
        "errors told: {:?}, connections broken: {}, slowest write {:?}",
        written.errors, written.broken, written.slowest
    );
    written.check(&cluster);
    cluster.verify_replicas();
    assert!(pauses.iter().all(|p| *p < HANGS), "writes paused for too long: {pauses:?}");
}
