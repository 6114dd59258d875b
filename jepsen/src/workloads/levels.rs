//! levels: every read level keeps its own promise, on whichever side of a fault it is asked.
//!
//! Each key has one writer, which always swaps the value that it knows for a higher one (`SET k new IFEQ old`) and, when it
//! does not know, reads first. So the values of a key only grow, whatever happened to a write without an answer, and a
//! read can be judged by one comparison:
//!
//! | level | shows at least |
//! |---|---|
//! | linearizable, lease | what was acknowledged, or shown by such a read, before it was sent |
//! | bounded *ms* | the same, so many milliseconds before it was sent |
//! | eventual | what an eventual read by the same node showed before |
//!
//! and none shows what was not yet asked for, or refused.

use super::{Anomaly, Crowd, Generator, Next, Verdict, Workload, words};
use crate::history::{History, Op};
use crate::outcome::Outcome;
use crate::resp::Reply;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const KEYS: usize = 6;
const BOUND_MS: u64 = 700;
/// Ages are told in whole milliseconds.
const GRAIN_US: u64 = 5000;

pub struct LevelsWorkload;

fn key(which: usize) -> String {
    format!("levels:{which}")
}

struct Writer {
    key: String,
    written: u64,
    /// What the key holds, as far as this writer knows.
    holds: Option<Option<u64>>,
}

impl Generator for Writer {
    fn next(&mut self, last: Option<&Op>) -> Next {
        if let Some(op) = last {
            self.holds = match (op.name(), op.reply()) {
                ("GET", Some(Reply::Nil)) => Some(None),
                ("GET", Some(reply)) => reply.text().and_then(|t| t.parse().ok()).map(Some),
                ("SET", Some(reply)) if reply.is_ok() => Some(Some(self.written)),
                ("SET", _) if matches!(op.outcome, Outcome::Failed(_)) => self.holds,
                _ => None,
            };
        }
        let Some(holds) = self.holds else { return Next::Call(words(&["GET", &self.key])) };
        self.written += 1;
        let new = self.written.to_string();
        Next::Call(match holds {
            None => words(&["SET", &self.key, &new, "NX"]),
            Some(old) => words(&["SET", &self.key, &new, "IFEQ", &old.to_string()]),
        })
    }
}

struct Reader {
    rng: fastrand::Rng,
}

impl Generator for Reader {
    fn next(&mut self, _: Option<&Op>) -> Next {
        let key = key(self.rng.usize(0..KEYS));
        Next::Call(match self.rng.u8(0..10) {
            0..2 => words(&["HC.READ", "linearizable", "GET", &key]),
            2..5 => words(&["HC.READ", "lease", "GET", &key]),
            5..7 => words(&["HC.READ", "bounded", &BOUND_MS.to_string(), "GET", &key]),
            _ => words(&["HC.READ", "eventual", "GET", &key]),
        })
    }
}

/// How much a key had reached by when: moments and values, both growing.
#[derive(Default)]
struct Reached(Vec<(u64, u64)>);

impl Reached {
    fn of(mut events: Vec<(u64, u64)>) -> Reached {
        events.sort_unstable();
        let mut grown: Vec<(u64, u64)> = Vec::new();
        for (at, value) in events {
            if grown.last().is_none_or(|(_, v)| *v < value) {
                grown.push((at, value));
            }
        }
        Reached(grown)
    }

    /// The highest value of before `at`.
    fn before(&self, at: u64) -> u64 {
        let count = self.0.partition_point(|(t, _)| *t < at);
        count.checked_sub(1).map_or(0, |last| self.0[last].1)
    }
}

/// The value that a read shows, 0 for none; nothing if it was not answered so.
fn shown(op: &Op) -> Option<u64> {
    match op.reply()? {
        Reply::Nil => Some(0),
        reply => reply.text()?.parse().ok(),
    }
}

fn level(op: &Op) -> &str {
    if op.words.first().is_some_and(|w| w == "HC.READ") {
        op.words.get(1).map_or("", String::as_str)
    } else {
        "linearizable"
    }
}

fn check_key(key: &str, ops: &[&Op], verdict: &mut Verdict, counted: &mut BTreeMap<String, u64>) {
    let writes: Vec<(&Op, u64)> = ops
        .iter()
        .filter(|op| op.name() == "SET")
        .filter_map(|op| Some((*op, op.command().get(2)?.parse().ok()?)))
        .collect();
    // A swap that met another value changed nothing.
    let done = |op: &Op| op.reply().is_some_and(Reply::is_ok);
    let refused = |op: &Op| matches!(op.outcome, Outcome::Failed(_)) || op.reply().is_some_and(|r| *r == Reply::Nil);
    let never: BTreeSet<u64> = writes.iter().filter(|(op, _)| refused(op)).map(|(_, v)| *v).collect();
    let reads: Vec<(&Op, u64)> =
        ops.iter().filter(|op| op.name() == "GET").filter_map(|op| Some((*op, shown(op)?))).collect();
    let strong = |op: &Op| matches!(level(op), "linearizable" | "lease");
    let acknowledged = writes.iter().filter(|(op, _)| done(op)).map(|(op, v)| (op.to, *v));
    let seen = reads.iter().filter(|(op, _)| strong(op)).map(|(op, v)| (op.to, *v));
    let reached = Reached::of(acknowledged.chain(seen).collect());
    let asked = Reached::of(writes.iter().map(|(op, v)| (op.from, *v)).collect());
    let nodes: BTreeSet<usize> = reads.iter().map(|(op, _)| op.node).collect();
    let eventual: BTreeMap<usize, Reached> = nodes
        .into_iter()
        .map(|node| {
            let by_node = reads.iter().filter(|(op, _)| op.node == node && level(op) == "eventual");
            (node, Reached::of(by_node.map(|(op, v)| (op.to, *v)).collect()))
        })
        .collect();
    for (op, value) in &reads {
        *counted.entry(level(op).to_owned()).or_default() += 1;
        let least = match level(op) {
            "bounded" => reached.before(op.from.saturating_sub(BOUND_MS * 1000 + GRAIN_US)),
            "eventual" => eventual.get(&op.node).map_or(0, |r| r.before(op.from)),
            _ => reached.before(op.from),
        };
        if *value < least {
            let what = format!("{key}: a {} read showed {value}, not {least} or more", level(op));
            let witnesses = writes.iter().chain(&reads).filter(|(o, v)| *v == least && o.to < op.from).take(2);
            let shown = witnesses.map(|(o, _)| (*o).clone()).chain([(*op).clone()]).collect();
            verdict.anomalies.push(Anomaly::new("stale read", what, shown));
        }
        if never.contains(value) || *value > asked.before(op.to + 1) {
            let what = format!("{key}: {value} was shown, which was refused or not yet asked for");
            verdict.anomalies.push(Anomaly::new("from nowhere", what, vec![(*op).clone()]));
        }
    }
}

impl Workload for LevelsWorkload {
    fn name(&self) -> &'static str {
        "levels"
    }

    fn about(&self) -> &'static str {
        "linearizable, lease, bounded and eventual reads each keep their own promise, cut-off nodes included"
    }

    fn generators(&self, crowd: &Crowd) -> Vec<Box<dyn Generator>> {
        let one = |worker: usize| -> Box<dyn Generator> {
            // At least as many readers as writers, on every node.
            match worker < KEYS.min(crowd.workers / 2) {
                true => Box::new(Writer { key: key(worker), written: 0, holds: None }),
                false => Box::new(Reader { rng: crowd.rng_of(worker) }),
            }
        };
        (0..crowd.workers).map(one).collect()
    }

    fn final_reads(&self, _: &History) -> Vec<Vec<String>> {
        (0..KEYS).map(|i| words(&["GET", &key(i)])).collect()
    }

    fn check(&self, history: &History, _: Duration) -> Verdict {
        let mut verdict = Verdict::default();
        let mut counted = BTreeMap::new();
        for (key, ops) in history.by_key() {
            check_key(key, &ops, &mut verdict, &mut counted);
        }
        verdict.notes.push(format!("answered reads by level: {counted:?}"));
        verdict
    }
}
