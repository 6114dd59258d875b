//! watch: optimistic compare-and-set. A client watches a key, reads it, and writes another value in a MULTI that is done only
//! if nothing wrote the key since. What was done must fit into the history of a register as a compare-and-set.
//!
//! An EXEC that was declined says nothing: somebody may have written between WATCH and GET.

use super::{Crowd, Generator, Keys, Next, Verdict, Workload, multi, register, words};
use crate::checkers::linearizable::Register;
use crate::history::{History, Op};
use crate::outcome::Outcome;
use crate::resp::{Reply, THEN};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const CALLS_A_KEY: u64 = 200;
const FINAL_KEYS: usize = 40;

pub struct WatchWorkload;

struct Client {
    keys: Keys,
    rng: fastrand::Rng,
    worker: u64,
    written: u64,
}

fn watch(key: &str) -> Vec<String> {
    [words(&["UNWATCH"]), words(&["WATCH", key]), words(&["GET", key])].join(&THEN.to_owned())
}

impl Generator for Client {
    fn next(&mut self, last: Option<&Op>) -> Next {
        self.written += 1;
        let value = (self.worker * 10_000_000 + self.written).to_string();
        // On the connection that watches: a failed operation would have closed it.
        if let Some(watched) = last.filter(|op| op.name() == "UNWATCH" && op.is_ok()) {
            return Next::Call(multi([words(&["SET", watched.key(), &value])]));
        }
        let key = self.keys.next();
        Next::Call(match self.rng.u8(0..100) {
            0..75 => watch(&key),
            75..85 => words(&["SET", &key, &value]),
            _ => words(&["GET", &key]),
        })
    }
}

/// The operation as one on a register, if it is one there. `watched`: what each process read when it began to watch.
fn as_register(op: &Op, watched: &mut BTreeMap<usize, Option<String>>, verdict: &mut Verdict) -> Option<Op> {
    match op.name() {
        "UNWATCH" => {
            let value = op.reply().and_then(Reply::text).map(str::to_owned);
            watched.insert(op.process, value);
            Some(Op { words: words(&["GET", op.key()]), ..op.clone() })
        }
        "MULTI" => {
            let new = op.queued().next()?.get(2)?;
            let words = match watched.remove(&op.process)? {
                Some(old) => words(&["SET", op.key(), new, "IFEQ", &old]),
                None => words(&["SET", op.key(), new, "NX"]),
            };
            let outcome = match (&op.outcome, op.reply()) {
                (_, Some(Reply::Nil)) => return None,
                (_, Some(Reply::Array(replies))) if replies[..] == [Reply::Text("OK".to_owned())] => {
                    Outcome::Ok(Reply::Text("OK".to_owned()))
                }
                (_, Some(_)) => {
                    verdict.unexpected(op);
                    return None;
                }
                (outcome, None) => Outcome::clone(outcome),
            };
            Some(Op { words, outcome, ..op.clone() })
        }
        _ => Some(op.clone()),
    }
}

impl Workload for WatchWorkload {
    fn name(&self) -> &'static str {
        "watch"
    }

    fn about(&self) -> &'static str {
        "a transaction behind WATCH is done only if the key was not written meanwhile, whoever led"
    }

    fn generators(&self, crowd: &Crowd) -> Vec<Box<dyn Generator>> {
        let make = |worker: usize, keys, rng| Client { keys, rng, worker: worker as u64, written: 0 };
        crowd.generators("watch", CALLS_A_KEY, make)
    }

    fn final_reads(&self, history: &History) -> Vec<Vec<String>> {
        history.last(FINAL_KEYS, Op::key).into_iter().map(|key| words(&["GET", key])).collect()
    }

    fn check(&self, history: &History, budget: Duration) -> Verdict {
        let deadline = Instant::now() + budget;
        let (mut verdict, mut watched) = (Verdict::default(), BTreeMap::new());
        let mut in_order: Vec<&Op> = history.ops.iter().collect();
        in_order.sort_by_key(|op| op.from);
        let mut keys: BTreeMap<&str, Vec<Op>> = BTreeMap::new();
        let mut done = 0;
        for op in in_order {
            if let Some(plain) = as_register(op, &mut watched, &mut verdict) {
                done += usize::from(op.name() == "MULTI" && plain.is_ok());
                keys.entry(op.key()).or_default().push(plain);
            }
        }
        for (key, ops) in &keys {
            register::check_key(&Register, key, &ops.iter().collect::<Vec<_>>(), deadline, &mut verdict);
        }
        verdict.notes.push(format!("{} keys judged, {done} transactions done", keys.len()));
        verdict
    }
}
