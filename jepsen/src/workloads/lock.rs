//! lock: `SET lock token NX PX ttl` and `DELIFEQ lock token`. For as long as the ttl lasts nobody else gets the lock,
//! unless its holder gave it back.
//!
//! A holder may count on its lock from the reply to `SET` until the ttl has passed since that was *sent*. What happens
//! after that (a holder that was too slow) is what fencing is for, which is not built yet and not judged.

use super::{Anomaly, Crowd, Generator, Next, Verdict, Workload, words};
use crate::history::{History, Op};
use crate::outcome::Outcome;
use crate::resp::Reply;
use std::time::Duration;

const LOCKS: usize = 4;
const TTL_MS: u64 = 3000;
/// See the ttl workload: the group's clock counts milliseconds and is slewed.
const GRAIN_US: u64 = 10_000;

pub struct LockWorkload;

struct Client {
    rng: fastrand::Rng,
    worker: usize,
    tries: u64,
    /// Lock and token.
    held: Option<(String, String)>,
}

impl Generator for Client {
    fn next(&mut self, last: Option<&Op>) -> Next {
        match (last.map(Op::name), last.and_then(Op::reply)) {
            (Some("SET"), Some(reply)) if reply.is_ok() => (),
            // Looked at; it is still held.
            (Some("GET"), _) => (),
            _ => self.held = None,
        }
        if let Some((lock, token)) = &self.held {
            return Next::Call(match self.rng.u8(0..3) {
                0 => words(&["DELIFEQ", lock, token]),
                _ => words(&["GET", lock]),
            });
        }
        self.tries += 1;
        let lock = format!("lock:{}", self.rng.usize(0..LOCKS));
        let token = format!("{}.{}", self.worker, self.tries);
        self.held = Some((lock.clone(), token.clone()));
        Next::Call(words(&["SET", &lock, &token, "NX", "PX", &TTL_MS.to_string()]))
    }
}

/// A lock that somebody has, from when and until when that is sure.
struct Hold<'a> {
    token: &'a str,
    acquired: &'a Op,
    until: u64,
}

fn token(op: &Op) -> &str {
    op.command().get(2).map_or("", String::as_str)
}

fn holds<'a>(ops: &[&'a Op]) -> Vec<Hold<'a>> {
    let acquired = ops.iter().filter(|op| op.name() == "SET" && op.reply().is_some_and(Reply::is_ok));
    acquired
        .map(|op| {
            let releases = ops.iter().filter(|r| r.name() == "DELIFEQ" && token(r) == token(op));
            let released = releases.filter(|r| !matches!(r.outcome, Outcome::Failed(_))).map(|r| r.from).min();
            let until = (op.from + TTL_MS * 1000).saturating_sub(GRAIN_US).min(released.unwrap_or(u64::MAX));
            Hold { token: token(op), acquired: op, until }
        })
        .collect()
}

fn check_lock(lock: &str, ops: &[&Op], verdict: &mut Verdict) -> usize {
    let holds = holds(ops);
    for (i, hold) in holds.iter().enumerate() {
        // In the order of beginnings; who got it while this one had it began after it had, and ended before it ended.
        for other in holds[i + 1..].iter().take_while(|other| other.acquired.from < hold.until) {
            if other.acquired.from > hold.acquired.to && other.acquired.to < hold.until {
                let what = format!("{lock}: {} got what {} had", other.token, hold.token);
                let shown = vec![hold.acquired.clone(), other.acquired.clone()];
                verdict.anomalies.push(Anomaly::new("two holders", what, shown));
            }
        }
    }
    for op in ops.iter().filter(|op| op.is_ok()) {
        let own = |hold: &&Hold| hold.acquired.to < op.from && op.to < hold.until;
        let fits = match (op.name(), op.reply()) {
            ("SET", Some(reply)) => reply.is_ok() || *reply == Reply::Nil,
            // Released within its time: it must have been there. `until` ends where a release begins, so the time is
            // looked at anew.
            ("DELIFEQ", Some(Reply::Int(0))) => {
                let mine = holds.iter().find(|hold| hold.token == token(op));
                mine.is_none_or(|hold| op.to + GRAIN_US > hold.acquired.from + TTL_MS * 1000)
            }
            ("DELIFEQ", Some(Reply::Int(1))) => true,
            ("GET", Some(Reply::Nil)) => !holds.iter().any(|hold| own(&hold)),
            ("GET", Some(Reply::Text(seen))) => holds.iter().filter(own).all(|hold| hold.token == seen),
            _ => false,
        };
        if !fits {
            let holder = holds.iter().find(|h| own(h) || h.token == token(op)).map(|h| h.acquired.clone());
            let what = format!("{lock}: {}", op.story());
            verdict.anomalies.push(Anomaly::new(
                "lock lost",
                what,
                holder.into_iter().chain([(*op).clone()]).collect(),
            ));
        }
    }
    holds.len()
}

impl Workload for LockWorkload {
    fn name(&self) -> &'static str {
        "lock"
    }

    fn about(&self) -> &'static str {
        "a lock by SET NX PX has one holder for as long as its ttl lasts"
    }

    fn generators(&self, crowd: &Crowd) -> Vec<Box<dyn Generator>> {
        let one = |worker| {
            let client = Client { rng: crowd.rng_of(worker), worker, tries: 0, held: None };
            Box::new(client) as Box<dyn Generator>
        };
        (0..crowd.workers).map(one).collect()
    }

    fn final_reads(&self, _: &History) -> Vec<Vec<String>> {
        (0..LOCKS).map(|i| words(&["GET", &format!("lock:{i}")])).collect()
    }

    fn check(&self, history: &History, _: Duration) -> Verdict {
        let mut verdict = Verdict::default();
        let sum: usize = history.by_key().iter().map(|(lock, ops)| check_lock(lock, ops, &mut verdict)).sum();
        verdict.notes.push(format!("{sum} times a lock was taken"));
        verdict
    }
}
