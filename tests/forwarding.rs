//! Commands through nodes that do not lead: none fails, also while leaders are moved and while nodes are stopped in
//! order and started again.
//!
//! `HYPERCACHE_TEST_OPERATIONS` (20,000) GETs through followers, `HYPERCACHE_TEST_TRANSFERS` (12) transfers,
//! `HYPERCACHE_TEST_CONNECTIONS` (8), `HYPERCACHE_TEST_ROUNDS` (1) times each node is stopped.
//!
//! What a client of a node that is asked to stop (SIGTERM) may see, exactly:
//! - every command that the node read is answered, and not with an error;
//! - then the connection is closed between two replies, never inside of one;
//! - a command that gets no reply because it was sent while the node closed was never read: it has no effect.
//!
//! Clients of the other nodes see nothing at all.

mod cluster;

use cluster::load::{Load, Roaming};
use cluster::{Client, Cluster, Door, Plan, StopAtEnd, bulk, figures, size, wait_until};
use hypercache::env;
use hypercache::resp::Reply;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Keys that are read.
const KEYS: u64 = 200;

fn connections() -> usize {
    size("HYPERCACHE_TEST_CONNECTIONS", 8) as usize
}

fn fill(cluster: &Cluster) {
    let mut client = cluster.client(1);
    (0..KEYS).for_each(|i| client.ok(&["SET", &format!("key:{i}"), &format!("value:{i}")]));
}

/// Readers that never see anything but the value; how long their reads took.
struct Readers<'a> {
    stop: &'a AtomicBool,
    reads: &'a AtomicU64,
}

impl Readers<'_> {
    fn read(&self, mut client: Client, seed: u64) -> Duration {
        let mut slowest = Duration::ZERO;
        let mut i = seed;
        while !self.stop.load(Ordering::Relaxed) {
            i = (i + 7) % KEYS;
            let began = env::now();
            let reply = client.call(&["GET", &format!("key:{i}")]).unwrap_or_else(|e| panic!("a read failed: {e}"));
            assert_eq!(reply, bulk(&format!("value:{i}")));
            slowest = slowest.max(began.elapsed());
            self.reads.fetch_add(1, Ordering::Relaxed);
        }
        slowest
    }
}

#[test]
fn reads_and_writes_through_followers_do_not_fail() {
    let operations = size("HYPERCACHE_TEST_OPERATIONS", 20_000);
    let cluster = Plan::new(3, 4).start();
    fill(&cluster);
    let by_group: Vec<usize> = (1..=4).map(|g| cluster.wait_leader_of(&cluster.key_of_group("x", g), 1)).collect();
    let leaders: Vec<usize> = (0..KEYS).map(|i| by_group[cluster.group_of(&format!("key:{i}")) as usize - 1]).collect();
    let each = operations / connections() as u64;
    let run = |worker: usize| {
        let mut clients: Vec<Client> = cluster.numbers().into_iter().map(|n| cluster.client(n)).collect();
        let mut times = Vec::with_capacity(each as usize);
        for n in 0..each {
            let i = (n * 13 + worker as u64) % KEYS;
            let leader = leaders[i as usize];
            let follower = 1 + (leader + (n % 2) as usize) % 3;
            assert_ne!(follower, leader);
            let began = env::now();
            let reply = clients[follower - 1].must(&["GET", &format!("key:{i}")]);
            times.push(began.elapsed());
            assert_eq!(reply, bulk(&format!("value:{i}")));
        }
        times
    };
    let times: Vec<Duration> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..connections())
            .map(|w| {
                let run = &run;
                scope.spawn(move || run(w))
            })
            .collect();
        workers.into_iter().flat_map(|w| w.join().expect("no read failed")).collect()
    });
    println!("GET through followers: {}, 0 failed", figures(times));

    let mut writes = Vec::new();
    let mut clients: Vec<Client> = cluster.numbers().into_iter().map(|n| cluster.client(n)).collect();
    for i in 0..KEYS {
        let follower = 1 + leaders[i as usize] % 3;
        let (key, value) = (format!("key:{i}"), format!("again:{i}"));
        let began = env::now();
        clients[follower - 1].ok(&["SET", &key, &value]);
        writes.push(began.elapsed());
        // Whoever is asked next sees it.
        let other = 1 + follower % 3;
        assert_eq!(clients[other - 1].must(&["GET", &key]), bulk(&value));
    }
    println!("SET through followers: {}, 0 failed", figures(writes));
    let followers: f64 = cluster
        .numbers()
        .iter()
        .filter_map(|n| {
            cluster.metric(*n, "hypercache_reads_total", &[("level", "linearizable"), ("role", "follower")])
        })
        .sum();
    assert!(followers >= operations as f64 * 0.9, "the reads went through followers: {followers}");
}

/// Asks for the map of slots until told to stop, and says how often. Clients that compare the maps of several nodes give up
/// where each has another hole.
fn maps_without_holes(at: SocketAddr, stop: &AtomicBool) -> u64 {
    let mut client = Client::connect(at).expect("the node serves");
    let mut asked = 0;
    while !stop.load(Ordering::Relaxed) {
        let map = client.must(&["CLUSTER", "SLOTS"]);
        let Reply::Array(rows) = &map else { panic!("{map:?}") };
        let slots = |row: &Reply| match row {
            Reply::Array(row) => match row[..] {
                [Reply::Int(first), Reply::Int(last), ..] => last - first + 1,
                _ => panic!("{row:?}"),
            },
            _ => panic!("{row:?}"),
        };
        assert_eq!(rows.iter().map(slots).sum::<i64>(), 16384, "slots of a map");
        asked += 1;
    }
    asked
}

#[test]
fn nothing_fails_while_leaders_are_transferred() {
    let transfers = size("HYPERCACHE_TEST_TRANSFERS", 12);
    let cluster = Plan::new(3, 2).start();
    fill(&cluster);
    let load = Load::start(&cluster, connections(), &cluster.proxies(&[1, 2, 3]), Roaming::Stay);
    let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    let readers = Readers { stop: &stop, reads: &reads };
    let (mut moved, mut took) = (0, Vec::new());
    let slowest = std::thread::scope(|scope| {
        let _also_after_a_failure = StopAtEnd(&stop);
        let reading: Vec<_> = (0..connections())
            .map(|w| (w, cluster.client(1 + w % 3)))
            .map(|(w, client)| {
                let readers = &readers;
                scope.spawn(move || readers.read(client, w as u64))
            })
            .collect();
        let mapping: Vec<_> = cluster.numbers().iter().map(|n| cluster.node(*n).at(Door::ClusterFace)).collect();
        let stop = &stop;
        let mapping: Vec<_> = mapping.into_iter().map(|at| scope.spawn(move || maps_without_holes(at, stop))).collect();
        for turn in 0..transfers {
            let before = load.acked(&[1, 2]);
            wait_until("both groups take writes", cluster::PATIENCE, || {
                (load.acked(&[1, 2]) > before + 10).then_some(())
            });
            let group = 1 + (turn % 2) as u32;
            let leader = cluster.wait_leader_of(&cluster.key_of_group("x", group), 1);
            let began = env::now();
            if cluster.transfer(group, 1 + leader % 3) {
                moved += 1;
                took.push(began.elapsed());
            }
        }
        stop.store(true, Ordering::Relaxed);
        let maps: u64 = mapping.into_iter().map(|m| m.join().expect("every map is whole")).sum();
        println!("{maps} maps of slots");
        reading.into_iter().map(|r| r.join().expect("no read failed")).max()
    });
    let written = load.stop();
    println!("{moved} of {transfers} transfers done: {}", figures(took));
    println!(
        "{} reads, slowest {slowest:?}; {} writes, slowest {:?}",
        reads.into_inner(),
        written.acked.len(),
        written.slowest
    );
    assert!(moved * 2 > transfers, "too few transfers succeeded to show anything");
    assert_eq!((written.errors.len(), written.broken), (0, 0), "{:?}", written.errors);
    written.check(&cluster);
}

#[test]
fn nothing_fails_when_each_node_in_turn_is_stopped_and_started() {
    let rounds = size("HYPERCACHE_TEST_ROUNDS", 1);
    let mut cluster = Plan::new(3, 4).start();
    fill(&cluster);
    for victim in (0..rounds).flat_map(|_| 1..=3) {
        let others: Vec<usize> = cluster.numbers().into_iter().filter(|n| *n != victim).collect();
        let staying = Load::start(&cluster, connections(), &cluster.proxies(&others), Roaming::Stay);
        let leaving = Load::start(&cluster, connections(), &cluster.proxies(&[victim]), Roaming::Stay);
        let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
        let readers = Readers { stop: &stop, reads: &reads };
        let (took, slowest) = std::thread::scope(|scope| {
            let _also_after_a_failure = StopAtEnd(&stop);
            let reading: Vec<_> = (0..connections())
                .map(|w| (w, cluster.client(others[w % 2])))
                .map(|(w, client)| {
                    let readers = &readers;
                    scope.spawn(move || readers.read(client, w as u64))
                })
                .collect();
            let idle = cluster.client(victim);
            wait_until("everybody writes", cluster::PATIENCE, || {
                (staying.acked(&[1, 2, 3, 4]) > 10 && leaving.acked(&[1, 2, 3, 4]) > 10).then_some(())
            });
            let took = cluster.stop(victim);
            closed_cleanly(idle);
            let at = staying.acked(&[1, 2, 3, 4]);
            wait_until("writes go on without it", cluster::PATIENCE, || {
                (staying.acked(&[1, 2, 3, 4]) > at + 10).then_some(())
            });
            cluster.start(victim);
            cluster.wait_serving();
            let at = leaving.acked(&[1, 2, 3, 4]);
            wait_until("it takes writes again", cluster::PATIENCE, || {
                (leaving.acked(&[1, 2, 3, 4]) > at + 10).then_some(())
            });
            stop.store(true, Ordering::Relaxed);
            (took, reading.into_iter().map(|r| r.join().expect("no read failed")).max())
        });
        let (staying, leaving) = (staying.stop(), leaving.stop());
        println!("node {victim} stopped in {took:?}; reads elsewhere {}, slowest {slowest:?}", reads.into_inner());
        println!("writes elsewhere {}, slowest {:?}", staying.acked.len(), staying.slowest);
        println!("on the node itself: {:?} errors, {} connections closed", leaving.errors, leaving.broken);
        assert_eq!((staying.errors.len(), staying.broken), (0, 0), "clients of other nodes: {:?}", staying.errors);
        assert!(leaving.errors.is_empty(), "what the node read is answered without an error: {:?}", leaving.errors);
        assert!(leaving.broken >= connections() as u64, "every connection of the node was closed");
        staying.check(&cluster);
        leaving.check(&cluster);
        unread_is_without_effect(&cluster, &leaving.unknown);
    }
}

/// A connection on which nothing was asked sees its end and nothing else.
fn closed_cleanly(mut idle: Client) {
    match idle.reply() {
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => (),
        other => panic!("an idle connection ends when its node does: {other:?}"),
    }
}

/// What got no reply was never read.
fn unread_is_without_effect(cluster: &Cluster, keys: &[String]) {
    let mut client = cluster.client(cluster.running()[0]);
    for key in keys {
        assert_eq!(client.must(&["GET", key]), Reply::Nil, "{key} was applied and not answered");
    }
}
