//! A leader that does not know that it was replaced: reads sent to its node never return what a newer leader has
//! already overwritten, at `linearizable` and at `lease`.
//!
//! `HYPERCACHE_TEST_ROUNDS` (3). The leader is frozen (SIGSTOP) with requests waiting in its sockets, and, where network
//! namespaces can be made, cut off while it keeps running.

mod cluster;

use cluster::{Client, Cluster, Plan, StopAtEnd, bulk, code_of, installed, is_root, must, size, skipped, wait_until};
use hypercache::env::{self, Instant};
use hypercache::resp::Reply;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const LEVELS: [&str; 2] = ["linearizable", "lease"];
/// How long the old leader is asked after it woke up.
const ASKED: Duration = Duration::from_millis(1500);

/// A value of the key at a level, or none if that was refused. Anything else is wrong.
fn value(reply: &Reply) -> Option<u64> {
    match reply {
        Reply::Bulk(bytes) => Some(String::from_utf8_lossy(bytes).parse().expect("values are numbers")),
        _ => {
            let code = code_of(reply);
            assert!(["CLUSTERDOWN", "TRYAGAIN"].contains(&code.as_str()), "{reply:?}");
            None
        }
    }
}

/// Waits until one of `others` takes a write, and gives when that was acknowledged.
fn overwrite(cluster: &Cluster, others: &[usize], new: u64) -> Instant {
    wait_until("the others take a write", cluster::PATIENCE, || {
        let mut client = Client::connect(cluster.node(others[0]).at(cluster::Door::Proxy)).ok()?;
        (client.call(&["SET", "k", &new.to_string()]).ok()? == Reply::OK).then_some(())
    });
    env::now()
}

#[test]
fn a_frozen_leader_never_answers_with_what_was_overwritten() {
    let rounds = size("HYPERCACHE_TEST_ROUNDS", 3);
    let cluster = Plan::new(3, 1).set("limits.request_timeout=2s").start();
    cluster.client(1).ok(&["SET", "k", "0"]);
    let mut answers = [0u64; 2];
    for round in 1..=rounds {
        let old = cluster.wait_leader_of("k", 1);
        let others: Vec<usize> = cluster.numbers().into_iter().filter(|n| *n != old).collect();
        let mut waiting: Vec<(usize, Client)> = (0..8).map(|i| (i % 2, cluster.client(old))).collect();
        for (level, client) in &mut waiting {
            // The leader has answered this connection by its lease just now.
            assert_eq!(value(&client.must(&["HC.READ", LEVELS[*level], "GET", "k"])), Some(round - 1));
        }
        cluster.freeze(old);
        overwrite(&cluster, &others, round);
        for (level, client) in &mut waiting {
            client.send(&["HC.READ", LEVELS[*level], "GET", "k"]).expect("a frozen process has a socket buffer");
        }
        cluster.thaw(old);
        let woken = env::now();
        let mut check = |level: usize, reply: Reply| {
            if let Some(seen) = value(&reply) {
                assert_eq!(seen, round, "{}: the old leader answered with what was overwritten", LEVELS[level]);
                answers[level] += 1;
            }
        };
        for (level, client) in &mut waiting {
            check(*level, client.reply().expect("the old leader answers"));
        }
        while woken.elapsed() < ASKED {
            for (level, client) in &mut waiting {
                check(*level, client.must(&["HC.READ", LEVELS[*level], "GET", "k"]));
            }
        }
        cluster.wait_serving();
    }
    println!("{rounds} frozen leaders, answers afterwards: {answers:?} ({LEVELS:?}), none of them old");
    assert!(answers.iter().all(|n| *n > 0), "some reads were answered again");
}

/// Three network namespaces on a bridge; this process is on the bridge, too, and reaches all of them.
struct Hosts {
    name: String,
    subnet: u8,
}

impl Hosts {
    fn make() -> Hosts {
        let hosts = Hosts { name: format!("hc{}", std::process::id()), subnet: 16 + (std::process::id() % 200) as u8 };
        let bridge = &hosts.name;
        ip(&["link", "add", bridge, "type", "bridge"]);
        ip(&["addr", "add", &format!("{}/24", hosts.address(254)), "dev", bridge]);
        ip(&["link", "set", bridge, "up"]);
        for n in 1..=3 {
            let (space, outer, inner) = (hosts.space(n), format!("{bridge}o{n}"), format!("{bridge}i{n}"));
            ip(&["netns", "add", &space]);
            ip(&["link", "add", &outer, "type", "veth", "peer", "name", &inner]);
            ip(&["link", "set", &inner, "netns", &space]);
            ip(&["link", "set", &outer, "master", bridge, "up"]);
            ip(&["-n", &space, "addr", "add", &format!("{}/24", hosts.address(n)), "dev", &inner]);
            ip(&["-n", &space, "link", "set", &inner, "up"]);
            ip(&["-n", &space, "link", "set", "lo", "up"]);
        }
        hosts
    }

    fn address(&self, n: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.subnet, n)
    }

    fn space(&self, n: u8) -> String {
        format!("{}n{n}", self.name)
    }

    /// Drops everything between this host and the other two; who asks it from outside still reaches it.
    fn cut_off(&self, n: u8) {
        let others: Vec<String> = (1..=3).filter(|o| *o != n).map(|o| self.address(o).to_string()).collect();
        let others = others.join(", ");
        let rules = format!(
            "table ip cut {{\n chain in {{ type filter hook input priority 0; ip saddr {{ {others} }} drop; }}\n \
             chain out {{ type filter hook output priority 0; ip daddr {{ {others} }} drop; }}\n}}\n"
        );
        must(Command::new("ip").args(["netns", "exec", &self.space(n), "nft", &rules]));
    }

    fn heal(&self, n: u8) {
        must(Command::new("ip").args(["netns", "exec", &self.space(n), "nft", "delete", "table", "ip", "cut"]));
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for n in 1..=3 {
            let _ = Command::new("ip").args(["netns", "del", &self.space(n)]).status();
        }
        let _ = Command::new("ip").args(["link", "del", &self.name]).status();
    }
}

fn ip(words: &[&str]) {
    must(Command::new("ip").args(words));
}

#[test]
fn a_leader_that_is_cut_off_and_runs_on_never_answers_with_what_was_overwritten() {
    let missing = ["ip", "nft"].into_iter().find(|program| !installed(program));
    if !is_root() || missing.is_some() {
        return skipped(
            "a leader cut off by the network",
            missing.map_or("only root may make namespaces", |_| "ip and nft are needed"),
        );
    }
    let rounds = size("HYPERCACHE_TEST_ROUNDS", 3).min(20);
    let hosts = Hosts::make();
    let mut plan = Plan::new(3, 1).set("limits.request_timeout=1s");
    plan.hosts = (1..=3).map(|n| hosts.address(n)).collect();
    plan.wrap = (1..=3).map(|n| ["ip", "netns", "exec", &hosts.space(n)].map(str::to_owned).to_vec()).collect();
    let cluster = plan.start();
    cluster.client(1).ok(&["SET", "k", "0"]);
    let (mut during, mut refusals) = (0, 0);
    for round in 1..=rounds {
        let old = cluster.wait_leader_of("k", 1);
        let others: Vec<usize> = cluster.numbers().into_iter().filter(|n| *n != old).collect();
        let stop = AtomicBool::new(false);
        let seen: Mutex<Vec<(Instant, Option<u64>)>> = Mutex::default();
        let acknowledged = std::thread::scope(|scope| {
            let _also_after_a_failure = StopAtEnd(&stop);
            for level in LEVELS.iter().chain(&LEVELS) {
                let mut client = cluster.client(old);
                let (stop, seen) = (&stop, &seen);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let sent = env::now();
                        let reply = client.must(&["HC.READ", level, "GET", "k"]);
                        seen.lock().expect("no reader panics").push((sent, value(&reply)));
                    }
                });
            }
            let answered =
                |n: usize| seen.lock().expect("no reader panics").iter().filter(|s| s.1.is_some()).count() > n;
            wait_until("the old leader is being read from", cluster::PATIENCE, || answered(100).then_some(()));
            hosts.cut_off(old as u8);
            let acknowledged = overwrite(&cluster, &others, round);
            cluster::let_time_pass_until(acknowledged + ASKED * 2);
            assert_eq!(cluster.client(others[0]).must(&["GET", "k"]), bulk(&round.to_string()));
            hosts.heal(old as u8);
            let fresh = || seen.lock().expect("no reader panics").iter().rev().any(|s| s.1 == Some(round));
            wait_until("the healed node answers again", cluster::PATIENCE, || fresh().then_some(()));
            stop.store(true, Ordering::Relaxed);
            acknowledged
        });
        for (sent, value) in seen.into_inner().expect("no reader panics") {
            match value {
                Some(value) if sent > acknowledged => {
                    assert_eq!(value, round, "the cut-off leader answered with what was overwritten")
                }
                Some(value) => assert!(value == round || value == round - 1, "{value} in round {round}"),
                None => refusals += 1,
            }
            during += 1;
        }
        cluster.wait_serving();
    }
    println!(
        "{rounds} leaders cut off: {during} reads sent to them, {refusals} refused, none answered with an old value"
    );
    assert!(refusals > 0, "a leader without a quorum refuses");
}
