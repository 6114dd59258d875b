//! append: unique elements are pushed to lists, which are read alone and several at once, in transactions too. Judged by
//! searching for cycles (strict serializability), lost and repeated elements.
//!
//! The keys of a family share a slot by their tag, so that a MULTI of them is one moment.

use super::{Anomaly, Crowd, Generator, Keys, Next, Verdict, Workload, multi, words};
use crate::checkers::cycles::{self, End, Step, Transaction};
use crate::history::{History, Op};
use crate::outcome::Outcome;
use crate::resp::Reply;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Calls on a family of keys before its lane goes on to the next: the judge's work grows with its square.
const CALLS_A_FAMILY: u64 = 250;
const KEYS_OF_A_FAMILY: usize = 3;
const FINAL_FAMILIES: usize = 30;

pub struct AppendWorkload;

struct Client {
    keys: Keys,
    rng: fastrand::Rng,
    worker: usize,
    appended: u64,
}

fn key(family: &str, which: usize) -> String {
    format!("{{{family}}}{which}")
}

impl Generator for Client {
    fn next(&mut self, _: Option<&Op>) -> Next {
        let family = self.keys.next();
        let one = key(&family, self.rng.usize(0..KEYS_OF_A_FAMILY));
        Next::Call(match self.rng.u8(0..100) {
            0..40 => self.push(&one),
            40..55 => read(&one),
            55..80 => {
                let step = |which| {
                    let key = key(&family, which);
                    if self.rng.bool() { self.push(&key) } else { read(&key) }
                };
                multi((0..KEYS_OF_A_FAMILY).map(step))
            }
            _ => multi((0..KEYS_OF_A_FAMILY).map(|which| read(&key(&family, which)))),
        })
    }
}

impl Client {
    fn push(&mut self, key: &str) -> Vec<String> {
        self.appended += 1;
        words(&["RPUSH", key, &format!("{}.{}", self.worker, self.appended)])
    }
}

fn read(key: &str) -> Vec<String> {
    words(&["LRANGE", key, "0", "-1"])
}

/// The elements of a list or set; none if the reply is neither.
pub fn elements(reply: &Reply) -> Option<Vec<String>> {
    reply.array()?.iter().map(|element| element.text().map(str::to_owned)).collect()
}

/// What a command of this workload does, and saw if it was answered.
fn step(command: &[String], reply: Option<&Reply>) -> Option<Option<Step>> {
    let key = command.get(1)?.clone();
    Some(match (command.first()?.as_str(), reply) {
        ("RPUSH", reply) => {
            if let Some(reply) = reply {
                reply.int()?;
            }
            Some(Step::Append(key, command.get(2)?.clone()))
        }
        ("LRANGE", Some(reply)) => Some(Step::Read(key, elements(reply)?)),
        ("LRANGE", None) => None,
        _ => return None,
    })
}

/// An operation as the judge wants it; none if the reply is not one that the command can have.
fn transaction(op: &Op) -> Option<Transaction> {
    let command = op.command();
    let end = match op.outcome {
        Outcome::Ok(_) => End::Committed,
        Outcome::Failed(_) => End::Failed,
        Outcome::Open(_) | Outcome::Broken(_) => End::Unknown,
    };
    let steps: Vec<Step> = if op.name() == "MULTI" {
        let replies = op.reply().map(|reply| reply.array()).map_or(Some(None), |replies| Some(Some(replies?)))?;
        let one = |(at, command)| step(command, replies.map(|all| all.get(at).unwrap_or(&Reply::Nil)));
        op.queued().enumerate().map(one).collect::<Option<Vec<_>>>()?.into_iter().flatten().collect()
    } else {
        step(command, op.reply())?.into_iter().collect()
    };
    Some(Transaction { steps, from: op.from, to: op.until(), end })
}

impl Workload for AppendWorkload {
    fn name(&self) -> &'static str {
        "append"
    }

    fn about(&self) -> &'static str {
        "appends to lists and reads of several lists are strictly serializable; nothing is lost or appended twice"
    }

    fn generators(&self, crowd: &Crowd) -> Vec<Box<dyn Generator>> {
        let make = |worker, keys, rng| Client { keys, rng, worker, appended: 0 };
        crowd.generators("append", CALLS_A_FAMILY, make)
    }

    fn final_reads(&self, history: &History) -> Vec<Vec<String>> {
        let families = history.last(FINAL_FAMILIES, Op::family);
        let lists = |family| (0..KEYS_OF_A_FAMILY).map(move |which| read(&key(family, which)));
        families.into_iter().flat_map(lists).collect()
    }

    fn check(&self, history: &History, budget: Duration) -> Verdict {
        let deadline = Instant::now() + budget;
        let mut verdict = Verdict::default();
        let mut families: BTreeMap<&str, Vec<&Op>> = BTreeMap::new();
        for op in &history.ops {
            families.entry(op.family()).or_default().push(op);
        }
        for (family, ops) in &families {
            if Instant::now() > deadline {
                verdict.undecided.push((*family).to_owned());
                continue;
            }
            let mut known = Vec::new();
            let mut judged = Vec::new();
            for op in ops {
                match transaction(op) {
                    Some(transaction) => {
                        known.push(transaction);
                        judged.push(*op);
                    }
                    None => verdict.unexpected(op),
                }
            }
            for found in cycles::check(&known) {
                let shown = found.shown_by.iter().map(|i| judged[*i].clone()).collect();
                verdict.anomalies.push(Anomaly::new(found.kind, format!("{family}: {}", found.what), shown));
            }
        }
        verdict.notes.push(format!("{} families of {KEYS_OF_A_FAMILY} keys judged", families.len()));
        verdict
    }
}
