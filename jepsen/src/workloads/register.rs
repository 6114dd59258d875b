//! register: reads, writes, compare-and-set and deletes of single keys through all nodes. Every key's history must be
//! linearizable, reads by lease included.

use super::{Anomaly, Crowd, Generator, Keys, Next, Verdict, Workload, words};
use crate::checkers::linearizable::{self, Interval, Judgement, Model, Register, RegisterCall};
use crate::history::{History, Op};
use crate::outcome::Outcome;
use crate::resp::Reply;
use std::time::{Duration, Instant};

/// Calls on a key before its lane goes on to the next.
const CALLS_A_KEY: u64 = 150;
/// Keys that are read again by every node at the end: the last ones.
const FINAL_KEYS: usize = 50;

pub struct RegisterWorkload;

struct Client {
    keys: Keys,
    rng: fastrand::Rng,
    worker: u64,
    written: u64,
    /// Key and value last seen, from which to swap.
    seen: Option<(String, String)>,
}

impl Client {
    /// A value that nobody else writes.
    fn new_value(&mut self) -> String {
        self.written += 1;
        (self.worker * 10_000_000 + self.written).to_string()
    }
}

impl Generator for Client {
    fn next(&mut self, last: Option<&Op>) -> Next {
        if let Some(op) = last.filter(|op| op.name() == "GET")
            && let Some(value) = op.reply().and_then(Reply::text)
        {
            self.seen = Some((op.key().to_owned(), value.to_owned()));
        }
        let key = self.keys.next();
        let seen = self.seen.as_ref().filter(|(k, _)| *k == key).map(|(_, value)| value.clone());
        Next::Call(match (self.rng.u8(0..100), seen) {
            (0..35, _) => words(&["GET", &key]),
            (35..45, _) => words(&["HC.READ", "lease", "GET", &key]),
            (45..70, Some(old)) => words(&["SET", &key, &self.new_value(), "IFEQ", &old]),
            (70..73, Some(old)) => words(&["DELIFEQ", &key, &old]),
            (73..76, _) => words(&["DEL", &key]),
            (76..80, _) => words(&["SET", &key, &self.new_value(), "NX"]),
            _ => words(&["SET", &key, &self.new_value()]),
        })
    }
}

/// A call as the checker wants it; none if the reply is not one that the command can have.
pub fn call_of(op: &Op) -> Option<RegisterCall> {
    let number = |word: Option<&String>| word.and_then(|w| w.parse::<u64>().ok());
    let command = op.command();
    let done_by_ok = match op.reply() {
        None => None,
        Some(Reply::Nil) => Some(false),
        Some(reply) if reply.is_ok() => Some(true),
        Some(_) if op.name() == "SET" => return None,
        Some(_) => None,
    };
    let done_by_count = match op.reply() {
        None => None,
        Some(Reply::Int(n @ 0..=1)) => Some(*n == 1),
        Some(_) if op.name().starts_with("DEL") => return None,
        Some(_) => None,
    };
    match (op.name(), command.get(3).map(String::as_str)) {
        ("GET", _) => match op.reply()? {
            Reply::Nil => Some(RegisterCall::Read(None)),
            reply => Some(RegisterCall::Read(Some(reply.text()?.parse().ok()?))),
        },
        ("SET", None) if done_by_ok != Some(false) => Some(RegisterCall::Write(number(command.get(2))?)),
        ("SET", Some("NX")) => Some(RegisterCall::WriteNew { new: number(command.get(2))?, done: done_by_ok }),
        ("SET", Some("IFEQ")) => {
            Some(RegisterCall::Cas { old: number(command.get(4))?, new: number(command.get(2))?, done: done_by_ok })
        }
        ("DEL", _) => Some(RegisterCall::Delete(done_by_count)),
        ("DELIFEQ", _) => Some(RegisterCall::CasDelete { old: number(command.get(2))?, done: done_by_count }),
        _ => None,
    }
}

/// Judges the operations of one key by the rules of a model.
pub fn check_key(
    model: &impl Model<State = Option<u64>, Call = RegisterCall>,
    key: &str,
    ops: &[&Op],
    deadline: Instant,
    verdict: &mut Verdict,
) {
    let mut intervals = Vec::new();
    let mut judged = Vec::new();
    for op in ops.iter().filter(|op| !matches!(op.outcome, Outcome::Failed(_))) {
        if op.name() == "GET" && !op.is_ok() {
            continue;
        }
        match call_of(op) {
            Some(call) => {
                intervals.push(Interval { call, from: op.from, to: Some(op.until()).filter(|to| *to != u64::MAX) });
                judged.push(*op);
            }
            None => verdict.unexpected(op),
        }
    }
    match linearizable::check(model, &intervals, deadline) {
        Judgement::Linearizable => (),
        Judgement::Unknown => verdict.undecided.push(key.to_owned()),
        Judgement::Violation { order, stuck } => {
            let last = order.len().saturating_sub(6);
            let shown = order[last..].iter().chain(&stuck).map(|i| judged[*i].clone()).collect();
            let what =
                format!("{key}: after {} operations in some order none of {} could be next", order.len(), stuck.len());
            verdict.anomalies.push(Anomaly::new("not linearizable", what, shown));
        }
    }
}

impl Workload for RegisterWorkload {
    fn name(&self) -> &'static str {
        "register"
    }

    fn about(&self) -> &'static str {
        "reads (linearizable and lease), writes, compare-and-set and deletes of keys are linearizable"
    }

    fn generators(&self, crowd: &Crowd) -> Vec<Box<dyn Generator>> {
        let make = |worker: usize, keys, rng| Client { keys, rng, worker: worker as u64, written: 0, seen: None };
        crowd.generators("register", CALLS_A_KEY, make)
    }

    fn final_reads(&self, history: &History) -> Vec<Vec<String>> {
        history.last(FINAL_KEYS, Op::key).into_iter().map(|key| words(&["GET", key])).collect()
    }

    fn check(&self, history: &History, budget: Duration) -> Verdict {
        let deadline = Instant::now() + budget;
        let mut verdict = Verdict::default();
        let keys = history.by_key();
        for (key, ops) in &keys {
            check_key(&Register, key, ops, deadline, &mut verdict);
        }
        verdict.notes.push(format!("{} keys judged", keys.len()));
        verdict
    }
}
