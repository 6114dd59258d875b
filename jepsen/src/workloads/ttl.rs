//! ttl: keys with a time to live, read by linearizable and lease reads through all nodes until long after their end.
//!
//! What must hold, by the clients' own clock: a key is not gone before its time has passed since its SET was *sent*; once
//! a read has seen it gone, no later read sees it alive; it is not alive long after its time has passed since its SET was
//! *answered*. How long is measured; beyond [`FORGOTTEN`] it is an anomaly. Wall clocks, leader changes and outages are no
//! excuse.

use super::{Anomaly, Crowd, Generator, Next, Verdict, Workload, words};
use crate::history::{History, Op};
use crate::outcome::Outcome;
use crate::resp::Reply;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Keys that are watched at once; each lives for a part of the time that it is watched.
const WATCHED: usize = 16;
const TTL_MS: std::ops::Range<u64> = 300..2000;
/// The group's clock counts whole milliseconds ...
const GRAIN_US: u64 = 5000;
/// ... and is slewed towards a leader's wall clock by at most 500 ppm of what passes; so may the next leader's.
const SLEW: u64 = 1000;
/// A key that is alive for longer after its end was forgotten. What is promised is 150 ms at p99.
const FORGOTTEN: Duration = Duration::from_secs(2);

pub struct TtlWorkload;

/// The keys that all clients watch.
type Watched = Arc<Mutex<VecDeque<String>>>;

struct Client {
    rng: fastrand::Rng,
    worker: usize,
    made: u64,
    watched: Watched,
}

impl Generator for Client {
    fn next(&mut self, last: Option<&Op>) -> Next {
        // A key is watched once its SET is over, so that readers do not fill the time before with nothing.
        if let Some(set) = last.filter(|op| op.name() == "SET") {
            let mut watched = self.watched.lock().unwrap_or_else(|e| e.into_inner());
            watched.push_back(set.key().to_owned());
            if watched.len() > WATCHED {
                watched.pop_front();
            }
        }
        if self.rng.u8(0..100) < 3 {
            self.made += 1;
            let key = format!("ttl:{}:{}", self.worker, self.made);
            return Next::Call(words(&["SET", &key, "1", "PX", &self.rng.u64(TTL_MS).to_string()]));
        }
        let watched = self.watched.lock().unwrap_or_else(|e| e.into_inner());
        if watched.is_empty() {
            return Next::Pause(Duration::from_millis(5));
        }
        let key = &watched[self.rng.usize(0..watched.len())];
        Next::Call(match self.rng.u8(0..3) {
            0 => words(&["HC.READ", "lease", "GET", key]),
            _ => words(&["GET", key]),
        })
    }
}

/// Judges one key; adds by how much it was late, if a read shows it.
fn check_key(key: &str, ops: &[&Op], late: &mut Vec<u64>, verdict: &mut Verdict) {
    let Some(set) = ops.iter().find(|op| op.name() == "SET") else { return };
    let ttl = set.command().get(4).and_then(|t| t.parse::<u64>().ok()).unwrap_or(0) * 1000;
    let mut report = |kind: &str, what: String, shown: Vec<Op>| {
        verdict.anomalies.push(Anomaly::new(kind, format!("{key}: {what}"), shown));
    };
    let mut reads: Vec<(&Op, bool)> = Vec::new();
    for op in ops.iter().filter(|op| op.name() == "GET") {
        match op.reply() {
            Some(Reply::Nil) => reads.push((op, false)),
            Some(Reply::Text(_)) => reads.push((op, true)),
            Some(_) => report("unexpected reply", op.story(), vec![(*op).clone()]),
            None => (),
        }
    }
    if matches!(set.outcome, Outcome::Failed(_)) {
        if let Some((read, _)) = reads.iter().find(|(_, alive)| *alive) {
            report("from nowhere", "its SET was refused".to_owned(), vec![(*set).clone(), (*read).clone()]);
        }
        return;
    }
    // From when on it is known to have been there.
    let seen_alive = reads.iter().filter(|(_, alive)| *alive).map(|(op, _)| op.to).min();
    let there = if set.is_ok() { set.to } else { seen_alive.unwrap_or(u64::MAX) };
    let mut gone: Option<&Op> = None;
    for (read, alive) in &reads {
        if !alive && read.from > there {
            let lived = read.to - set.from;
            if lived + GRAIN_US + ttl / SLEW < ttl {
                let what = format!("gone after {} of {} ms", lived / 1000, ttl / 1000);
                report("early", what, vec![(*set).clone(), (*read).clone()]);
            }
            gone = gone.filter(|g| g.to <= read.to).or(Some(read));
        }
    }
    for (read, _) in reads.iter().filter(|(_, alive)| *alive) {
        if let Some(gone) = gone.filter(|g| g.to < read.from) {
            let what = format!("alive {} ms after it was seen gone", (read.from - gone.to) / 1000);
            report("resurrection", what, vec![(*set).clone(), gone.clone(), (*read).clone()]);
        }
        let over = read.from.saturating_sub(set.to + ttl);
        if set.is_ok() && over > FORGOTTEN.as_micros() as u64 {
            let what = format!("alive {} ms after its end", over / 1000);
            report("forgotten", what, vec![(*set).clone(), (*read).clone()]);
        }
    }
    if set.is_ok() && gone.is_some() {
        let last = reads.iter().filter(|(_, alive)| *alive).map(|(op, _)| op.from.saturating_sub(set.to + ttl)).max();
        late.push(last.unwrap_or(0));
    }
}

impl Workload for TtlWorkload {
    fn name(&self) -> &'static str {
        "ttl"
    }

    fn about(&self) -> &'static str {
        "keys do not go early and, once seen gone, never come back; lateness is measured"
    }

    fn generators(&self, crowd: &Crowd) -> Vec<Box<dyn Generator>> {
        let watched = Watched::default();
        let one = |worker| {
            let client = Client { rng: crowd.rng_of(worker), worker, made: 0, watched: watched.clone() };
            Box::new(client) as Box<dyn Generator>
        };
        (0..crowd.workers).map(one).collect()
    }

    fn final_reads(&self, history: &History) -> Vec<Vec<String>> {
        let sets = history.ops.iter().rev().filter(|op| op.name() == "SET").take(100);
        sets.map(|op| words(&["GET", op.key()])).collect()
    }

    fn check(&self, history: &History, _: Duration) -> Verdict {
        let mut verdict = Verdict::default();
        let mut late = Vec::new();
        for (key, ops) in history.by_key() {
            check_key(key, &ops, &mut late, &mut verdict);
        }
        late.sort_unstable();
        if let Some(most) = late.last() {
            let at = |percent: usize| late[(late.len() - 1) * percent / 100] as f64 / 1000.0;
            let most = *most as f64 / 1000.0;
            verdict.notes.push(format!(
                "{} keys seen to go; late by p50 {:.0} ms, p99 {:.0} ms, most {most:.0} ms (elections included)",
                late.len(),
                at(50),
                at(99)
            ));
        }
        verdict
    }
}
