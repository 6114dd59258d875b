//! mset: several keys of one slot are written by one MSET and read by one MGET. A reader sees all of a write or nothing of
//! it, and the whole is linearizable like one register.

use super::{Anomaly, Crowd, Generator, Keys, Next, Verdict, Workload, register, words};
use crate::checkers::linearizable::Register;
use crate::history::{History, Op};
use crate::outcome::Outcome;
use crate::resp::Reply;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const CALLS_A_FAMILY: u64 = 150;
const KEYS: [&str; 4] = ["a", "b", "c", "d"];
const FINAL_FAMILIES: usize = 40;

pub struct MsetWorkload;

struct Client {
    keys: Keys,
    rng: fastrand::Rng,
    worker: u64,
    written: u64,
}

fn read(family: &str) -> Vec<String> {
    ["MGET".to_owned()].into_iter().chain(KEYS.iter().map(|k| format!("{{{family}}}{k}"))).collect()
}

impl Generator for Client {
    fn next(&mut self, _: Option<&Op>) -> Next {
        let family = self.keys.next();
        if self.rng.bool() {
            return Next::Call(read(&family));
        }
        self.written += 1;
        let value = (self.worker * 10_000_000 + self.written).to_string();
        let pairs = KEYS.iter().flat_map(|k| [format!("{{{family}}}{k}"), value.clone()]);
        Next::Call(["MSET".to_owned()].into_iter().chain(pairs).collect())
    }
}

/// The same operation on one register; none, with an anomaly, if the keys disagree.
fn as_register(op: &Op, family: &str, verdict: &mut Verdict) -> Option<Op> {
    if op.name() == "MSET" {
        let value = op.command().get(2)?;
        return Some(Op { words: words(&["SET", family, value]), ..op.clone() });
    }
    let outcome = match op.reply() {
        None => op.outcome.clone(),
        Some(reply) => {
            let values = reply.array().unwrap_or_default();
            let Some(first) = values.first().filter(|_| values.len() == KEYS.len()) else {
                verdict.unexpected(op);
                return None;
            };
            if values.iter().any(|v| v != first) {
                let what = format!("{family}: a part of a write was seen without the rest");
                verdict.anomalies.push(Anomaly::new("torn write", what, vec![op.clone()]));
                return None;
            }
            Outcome::Ok(Reply::clone(first))
        }
    };
    Some(Op { words: words(&["GET", family]), outcome, ..op.clone() })
}

impl Workload for MsetWorkload {
    fn name(&self) -> &'static str {
        "mset"
    }

    fn about(&self) -> &'static str {
        "a write of several keys in one slot is seen whole or not at all, and linearizable"
    }

    fn generators(&self, crowd: &Crowd) -> Vec<Box<dyn Generator>> {
        let make = |worker: usize, keys, rng| Client { keys, rng, worker: worker as u64, written: 0 };
        crowd.generators("mset", CALLS_A_FAMILY, make)
    }

    fn final_reads(&self, history: &History) -> Vec<Vec<String>> {
        history.last(FINAL_FAMILIES, Op::family).into_iter().map(read).collect()
    }

    fn check(&self, history: &History, budget: Duration) -> Verdict {
        let deadline = Instant::now() + budget;
        let mut verdict = Verdict::default();
        let mut families: BTreeMap<&str, Vec<Op>> = BTreeMap::new();
        for op in &history.ops {
            if let Some(register) = as_register(op, op.family(), &mut verdict) {
                families.entry(op.family()).or_default().push(register);
            }
        }
        for (family, ops) in &families {
            register::check_key(&Register, family, &ops.iter().collect::<Vec<_>>(), deadline, &mut verdict);
        }
        verdict.notes.push(format!("{} families of {} keys judged", families.len(), KEYS.len()));
        verdict
    }
}
