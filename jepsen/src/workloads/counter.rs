//! counter: INCR of a few counters that live as long as the run. Every reply is the value right after that increment, so
//! no two are the same and they grow with real time; increments with an unknown end explain the rest and no more.

use super::{Anomaly, Crowd, Generator, Next, Verdict, Workload, words};
use crate::history::{History, Op};
use crate::outcome::Outcome;
use crate::resp::Reply;
use std::collections::BTreeMap;
use std::time::Duration;

const COUNTERS: usize = 6;

pub struct CounterWorkload;

struct Client {
    rng: fastrand::Rng,
}

fn key(which: usize) -> String {
    format!("counter:{which}")
}

impl Generator for Client {
    fn next(&mut self, _: Option<&Op>) -> Next {
        let key = key(self.rng.usize(0..COUNTERS));
        Next::Call(match self.rng.u8(0..100) {
            0..70 => words(&["INCR", &key]),
            70..90 => words(&["GET", &key]),
            _ => words(&["HC.READ", "lease", "GET", &key]),
        })
    }
}

/// The value that a definite reply shows; none if it is not one that the command can have.
fn value(op: &Op) -> Option<i64> {
    match op.reply()? {
        Reply::Int(n) if op.name() == "INCR" => Some(*n),
        Reply::Nil if op.name() == "GET" => Some(0),
        Reply::Text(text) if op.name() == "GET" => text.parse().ok(),
        _ => None,
    }
}

fn check_counter(key: &str, ops: &[&Op], verdict: &mut Verdict) {
    let mut known: Vec<(i64, &Op)> = Vec::new();
    for op in ops.iter().filter(|op| op.is_ok()) {
        match value(op) {
            Some(value) => known.push((value, op)),
            None => verdict.unexpected(op),
        }
    }
    let mut taken: BTreeMap<i64, &Op> = BTreeMap::new();
    for (value, op) in known.iter().filter(|(_, op)| op.name() == "INCR") {
        if let Some(other) = taken.insert(*value, op) {
            let what = format!("{key}: two increments made {value}");
            verdict.anomalies.push(Anomaly::new("lost update", what, vec![other.clone(), (*op).clone()]));
        }
    }
    check_real_time(key, &known, verdict);
    check_bounds(key, ops, &known, verdict);
}

/// What ended before another began shows less: an increment in any case, a read no more.
fn check_real_time(key: &str, known: &[(i64, &Op)], verdict: &mut Verdict) {
    let mut by_end: Vec<&(i64, &Op)> = known.iter().collect();
    by_end.sort_by_key(|(_, op)| op.to);
    let mut ended = by_end.into_iter().peekable();
    let mut highest: Option<&(i64, &Op)> = None;
    // `known` is in the order of beginnings.
    for now in known {
        while let Some(before) = ended.next_if(|(_, op)| op.to < now.1.from) {
            highest = Some(highest.map_or(before, |h| if before.0 > h.0 { before } else { h }));
        }
        if let Some((before, earlier)) = highest
            && (now.0 < *before || now.0 == *before && now.1.name() == "INCR")
        {
            let what = format!("{key}: {} after {before} was seen", now.0);
            verdict.anomalies.push(Anomaly::new("went back", what, vec![(*earlier).clone(), now.1.clone()]));
        }
    }
}

/// A value is at least what had been acknowledged and at most what had been asked for.
fn check_bounds(key: &str, ops: &[&Op], known: &[(i64, &Op)], verdict: &mut Verdict) {
    let incr = |op: &&&Op| op.name() == "INCR" && !matches!(op.outcome, Outcome::Failed(_));
    let mut began: Vec<u64> = ops.iter().filter(incr).map(|op| op.from).collect();
    let mut ended: Vec<u64> = ops.iter().filter(incr).filter(|op| op.is_ok()).map(|op| op.to).collect();
    began.sort_unstable();
    ended.sort_unstable();
    for (value, op) in known {
        let least = ended.partition_point(|to| *to < op.from) as i64;
        let most = began.partition_point(|from| *from <= op.to) as i64;
        if *value < least || *value > most {
            let what = format!("{key}: {value}, although it must be between {least} and {most}");
            verdict.anomalies.push(Anomaly::new("out of bounds", what, vec![(*op).clone()]));
        }
    }
}

impl Workload for CounterWorkload {
    fn name(&self) -> &'static str {
        "counter"
    }

    fn about(&self) -> &'static str {
        "no increment is lost or made twice, replies are distinct and grow with real time"
    }

    fn generators(&self, crowd: &Crowd) -> Vec<Box<dyn Generator>> {
        (0..crowd.workers).map(|w| Box::new(Client { rng: crowd.rng_of(w) }) as Box<dyn Generator>).collect()
    }

    fn final_reads(&self, _: &History) -> Vec<Vec<String>> {
        (0..COUNTERS).map(|i| words(&["GET", &key(i)])).collect()
    }

    fn check(&self, history: &History, _: Duration) -> Verdict {
        let mut verdict = Verdict::default();
        for (key, ops) in history.by_key() {
            check_counter(key, &ops, &mut verdict);
        }
        verdict.notes.push(format!("{COUNTERS} counters"));
        verdict
    }
}
