//! set: unique elements are added to a few sets that live as long as the run, and at the end nothing may be missing. The
//! workload for faults that could lose what was acknowledged.

use super::append::elements;
use super::{Anomaly, Crowd, Generator, Next, Verdict, Workload, words};
use crate::history::{History, Op};
use crate::outcome::Outcome;
use crate::resp::Reply;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Few enough to be read whole, enough to lie in every group.
const SETS: usize = 8;

pub struct SetWorkload;

struct Client {
    rng: fastrand::Rng,
    worker: usize,
    added: u64,
}

fn key(which: usize) -> String {
    format!("set:{which}")
}

impl Generator for Client {
    fn next(&mut self, _: Option<&Op>) -> Next {
        let key = key(self.rng.usize(0..SETS));
        Next::Call(if self.rng.u8(0..100) < 96 {
            self.added += 1;
            words(&["SADD", &key, &format!("{}.{}", self.worker, self.added)])
        } else {
            words(&["SMEMBERS", &key])
        })
    }
}

/// What reads may and must show of one set.
fn check_set(key: &str, ops: &[&Op], verdict: &mut Verdict) -> usize {
    let element = |op: &Op| op.command().get(2).cloned();
    let added: BTreeMap<String, &Op> =
        ops.iter().filter(|op| op.name() == "SADD").filter_map(|op| Some((element(op)?, *op))).collect();
    let mut acknowledged: Vec<(&String, &Op)> =
        added.iter().filter(|(_, op)| op.is_ok()).map(|(e, op)| (e, *op)).collect();
    acknowledged.sort_by_key(|(_, op)| op.to);
    // Each element is added once, so it must be new.
    for (element, op) in acknowledged.iter().filter(|(_, op)| op.reply() != Some(&Reply::Int(1))) {
        let what = format!("{key} had {element} before it was added");
        verdict.anomalies.push(Anomaly::new("duplicate", what, vec![(*op).clone()]));
    }
    for read in ops.iter().filter(|op| op.name() == "SMEMBERS") {
        let Some(reply) = read.reply() else { continue };
        let Some(list) = elements(reply) else {
            verdict.unexpected(read);
            continue;
        };
        let shown: BTreeSet<&String> = list.iter().collect();
        if shown.len() < list.len() {
            verdict.anomalies.push(Anomaly::new(
                "duplicate",
                format!("{key} holds an element twice"),
                vec![(*read).clone()],
            ));
        }
        for (element, op) in acknowledged.iter().take_while(|(_, op)| op.to < read.from) {
            if !shown.contains(element) {
                let what = format!("{key} was read without {element}, acknowledged before");
                verdict.anomalies.push(Anomaly::new("lost", what, vec![(*op).clone(), brief(read)]));
            }
        }
        for element in &list {
            let why = match added.get(element) {
                None => "nobody added it",
                Some(op) if matches!(op.outcome, Outcome::Failed(_)) => "its addition was refused",
                Some(op) if op.from > read.to => "it was added later",
                Some(_) => continue,
            };
            verdict.anomalies.push(Anomaly::new(
                "from nowhere",
                format!("{key} shows {element}: {why}"),
                vec![brief(read)],
            ));
        }
    }
    acknowledged.len()
}

/// A read without its whole value, which is long.
fn brief(read: &Op) -> Op {
    Op { outcome: Outcome::Ok(Reply::Text("...".to_owned())), ..read.clone() }
}

impl Workload for SetWorkload {
    fn name(&self) -> &'static str {
        "set"
    }

    fn about(&self) -> &'static str {
        "no acknowledged element is missing from a later read, none is there twice or from nowhere"
    }

    fn generators(&self, crowd: &Crowd) -> Vec<Box<dyn Generator>> {
        let one = |worker| Box::new(Client { rng: crowd.rng_of(worker), worker, added: 0 }) as Box<dyn Generator>;
        (0..crowd.workers).map(one).collect()
    }

    fn final_reads(&self, _: &History) -> Vec<Vec<String>> {
        (0..SETS).map(|i| words(&["SMEMBERS", &key(i)])).collect()
    }

    fn check(&self, history: &History, _: Duration) -> Verdict {
        let mut verdict = Verdict::default();
        let sum: usize = history.by_key().iter().map(|(key, ops)| check_set(key, ops, &mut verdict)).sum();
        verdict.notes.push(format!("{sum} acknowledged elements in {SETS} sets"));
        verdict
    }
}
