//! Writers that remember what they were told, so that it can be checked afterwards.
//!
//! Every write has a key of its own, so its end is known exactly:
//!
//! | the reply | afterwards |
//! |---|---|
//! | OK | the key must be there, with its value |
//! | an error that means *not applied* | the key must not be there |
//! | UNCERTAIN, or the connection broke | either |

use super::{Client, Cluster, bulk, code_of};
use hypercache::env::{self, Instant};
use hypercache::resp::Reply;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Keys that one check asks for at once.
const CHECKED_AT_ONCE: usize = 500;

/// What connections do when theirs breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Roaming {
    /// Go on with the next node.
    Next,
    /// Stay with this one: a connection that breaks is counted and tried again here.
    Stay,
}

/// Connections that write until they are told to stop.
pub struct Load {
    shared: Arc<Shared>,
    writers: Vec<JoinHandle<()>>,
}

struct Shared {
    stop: AtomicBool,
    /// When writes were acknowledged, by group.
    acks: Vec<Mutex<Vec<Instant>>>,
    /// What the writers that have ended were told.
    told: Mutex<Vec<Written>>,
}

/// What writers were told.
#[derive(Debug, Default)]
pub struct Written {
    pub acked: Vec<String>,
    /// When the acknowledgement of each of `acked` was here.
    acked_at: Vec<Instant>,
    pub refused: Vec<String>,
    /// Told to be unknown, or never answered.
    pub unknown: Vec<String>,
    /// Error replies by code.
    pub errors: BTreeMap<String, u64>,
    /// Connections that ended while a reply was due.
    pub broken: u64,
    /// The longest that an acknowledged write took.
    pub slowest: Duration,
}

impl Load {
    /// `connections` writers, dealt to `addresses`.
    pub fn start(cluster: &Cluster, connections: usize, addresses: &[SocketAddr], roaming: Roaming) -> Load {
        let groups = cluster.groups;
        let acks = (0..=groups).map(|_| Mutex::default()).collect();
        let shared = Arc::new(Shared { stop: AtomicBool::new(false), acks, told: Mutex::default() });
        let writers = (0..connections)
            .map(|id| {
                let (shared, slots, addresses) = (shared.clone(), cluster.slots.clone(), addresses.to_vec());
                // Two loads of one test must not share keys.
                let name = format!("w{:x}-{id}", env::seed() as u32);
                env::spawn_thread("writer", move || {
                    let told = write(&name, id, &shared, &slots, &addresses, roaming);
                    shared.told.lock().expect("no writer panics").push(told);
                })
            })
            .collect();
        Load { shared, writers }
    }

    /// How many writes of these groups were acknowledged, of the group that has the fewest.
    pub fn acked(&self, groups: &[u32]) -> usize {
        let count = |g: &u32| self.shared.acks[*g as usize].lock().expect("no writer panics").len();
        groups.iter().map(count).min().unwrap_or(0)
    }

    /// How long writes of a group paused around `fault`: to the end of the longest gap between acknowledgements since.
    pub fn resumed_after(&self, group: u32, fault: Instant) -> Duration {
        let acks = self.shared.acks[group as usize].lock().expect("no writer panics");
        let mut since: Vec<Instant> = acks.iter().copied().filter(|at| *at > fault).collect();
        since.push(fault);
        since.sort_unstable();
        let longest = since.windows(2).max_by_key(|w| w[1] - w[0]).expect("some write was acknowledged since");
        longest[1] - fault
    }

    /// Stops the writers and puts together what they were told.
    pub fn stop(self) -> Written {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut all = Written::default();
        self.writers.into_iter().for_each(|writer| writer.join().expect("a writer does not panic"));
        for one in self.shared.told.lock().expect("no writer panics").drain(..) {
            all.acked.extend(one.acked);
            all.acked_at.extend(one.acked_at);
            all.refused.extend(one.refused);
            all.unknown.extend(one.unknown);
            all.broken += one.broken;
            all.slowest = all.slowest.max(one.slowest);
            for (code, n) in one.errors {
                *all.errors.entry(code).or_default() += n;
            }
        }
        all
    }
}

fn write(name: &str, id: usize, shared: &Shared, slots: &[u32], addresses: &[SocketAddr], roaming: Roaming) -> Written {
    let mut told = Written::default();
    let mut at = id % addresses.len();
    let mut client = None;
    let mut number = 0u64;
    while !shared.stop.load(Ordering::Relaxed) {
        let Some(connected) = client.as_mut() else {
            client = Client::connect(addresses[at]).ok();
            if client.is_none() {
                if roaming == Roaming::Next {
                    at = (at + 1) % addresses.len();
                }
                super::pause_before_looking_again();
            }
            continue;
        };
        number += 1;
        let key = format!("{name}:{number}");
        let sent = env::now();
        match connected.call(&["SET", &key, &key]) {
            Ok(reply) if reply == Reply::OK => {
                let now = env::now();
                told.slowest = told.slowest.max(now - sent);
                let group = slots[usize::from(hypercache::slot::slot_of(key.as_bytes()).0)];
                shared.acks[group as usize].lock().expect("no writer panics").push(now);
                told.acked.push(key);
                told.acked_at.push(now);
            }
            Ok(reply) => {
                let code = code_of(&reply);
                assert!(!code.is_empty(), "SET answers OK or an error, not {reply:?}");
                let unknown = code == "UNCERTAIN";
                *told.errors.entry(code).or_default() += 1;
                if unknown { told.unknown.push(key) } else { told.refused.push(key) }
            }
            Err(e) => {
                let silent = matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                assert!(!silent, "a write had no answer of any kind: requests never hang");
                assert_ne!(e.kind(), ErrorKind::InvalidData, "{e}");
                told.broken += 1;
                told.unknown.push(key);
                client = None;
                if roaming == Roaming::Next {
                    at = (at + 1) % addresses.len();
                }
            }
        }
    }
    told
}

impl Written {
    /// Takes what was acknowledged after `at` for unknown; gives those keys.
    pub fn distrust_after(&mut self, at: Instant) -> Vec<String> {
        let told = std::mem::take(&mut self.acked).into_iter().zip(std::mem::take(&mut self.acked_at));
        let (before, after): (Vec<_>, Vec<_>) = told.partition(|(_, acked)| *acked < at);
        (self.acked, self.acked_at) = before.into_iter().unzip();
        let after: Vec<String> = after.into_iter().map(|(key, _)| key).collect();
        self.unknown.extend(after.iter().cloned());
        after
    }

    /// Reads everything back through all running nodes: nothing acknowledged is missing, nothing refused is there.
    pub fn check(&self, cluster: &Cluster) {
        let nodes = cluster.running();
        let (mut lost, mut undead) = (Vec::new(), Vec::new());
        let ask = |keys: &[String], wrong: &mut Vec<String>, expected: fn(&str) -> Reply| {
            for (i, part) in keys.chunks(CHECKED_AT_ONCE).enumerate() {
                let commands: Vec<Vec<&str>> = part.iter().map(|key| vec!["GET", key.as_str()]).collect();
                let replies = cluster.client(nodes[i % nodes.len()]).pipeline(&commands).expect("the cluster serves");
                for (key, reply) in part.iter().zip(replies) {
                    if reply != expected(key) {
                        wrong.push(format!("{key}: {reply:?}"));
                    }
                }
            }
        };
        ask(&self.acked, &mut lost, bulk);
        ask(&self.refused, &mut undead, |_| Reply::Nil);
        println!("{} writes acknowledged, {} of them lost", self.acked.len(), lost.len());
        println!("{} refused, {} of them applied; {} unknown", self.refused.len(), undead.len(), self.unknown.len());
        assert!(lost.is_empty(), "acknowledged and lost: {:?}", &lost[..lost.len().min(10)]);
        assert!(undead.is_empty(), "refused and applied: {:?}", &undead[..undead.len().min(10)]);
        assert!(!self.acked.is_empty(), "a run in which nothing was written shows nothing");
    }
}
