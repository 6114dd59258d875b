//! append: unique elements are appended to strings, which are read alone and several at once. Judged by searching for
//! cycles (strict serializability), lost and repeated elements.
//!
//! A key's string is a list of elements with a semicolon after each. The keys of a family share a slot by their tag, so
//! an MGET of them is one moment. When there are lists and MULTI, transactions with several steps will join; the judge
//! knows them already.

use super::{Anomaly, Crowd, Generator, Keys, Next, Verdict, Workload, words};
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

fn family_of(key: &str) -> &str {
    key.strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or(key, |(family, _)| family)
}

impl Generator for Client {
    fn next(&mut self, _: Option<&Op>) -> Next {
        let family = self.keys.next();
        let one = key(&family, self.rng.usize(0..KEYS_OF_A_FAMILY));
        Next::Call(match self.rng.u8(0..100) {
            0..55 => {
                self.appended += 1;
                words(&["APPEND", &one, &format!("{}.{};", self.worker, self.appended)])
            }
            55..70 => words(&["GET", &one]),
            _ => many(&family),
        })
    }
}

fn many(family: &str) -> Vec<String> {
    let keys = (0..KEYS_OF_A_FAMILY).map(|i| key(family, i));
    ["MGET".to_owned()].into_iter().chain(keys).collect()
}

/// The elements of a string; none if it is not a list of elements.
pub fn elements(reply: &Reply) -> Option<Vec<String>> {
    match reply {
        Reply::Nil => Some(Vec::new()),
        Reply::Text(text) => {
            let whole = text.strip_suffix(';')?;
            Some(whole.split(';').map(str::to_owned).collect())
        }
        _ => None,
    }
}

/// An operation as the judge wants it; none if the reply is not one that the command can have.
fn transaction(op: &Op) -> Option<Transaction> {
    let command = op.command();
    let end = match op.outcome {
        Outcome::Ok(_) => End::Committed,
        Outcome::Failed(_) => End::Failed,
        Outcome::Open(_) | Outcome::Broken(_) => End::Unknown,
    };
    let steps = match (op.name(), op.reply()) {
        ("APPEND", reply) => {
            if let Some(reply) = reply {
                reply.int()?;
            }
            vec![Step::Append(op.key().to_owned(), command.get(2)?.trim_end_matches(';').to_owned())]
        }
        (_, None) => Vec::new(),
        ("GET", Some(reply)) => vec![Step::Read(op.key().to_owned(), elements(reply)?)],
        ("MGET", Some(reply)) => {
            let read = |(key, reply): (&String, &Reply)| Some(Step::Read(key.clone(), elements(reply)?));
            command.iter().skip(1).zip(reply.array()?).map(read).collect::<Option<_>>()?
        }
        _ => return None,
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
        let mut families: Vec<&str> = Vec::new();
        for op in history.ops.iter().rev() {
            let family = family_of(op.key());
            if families.len() < FINAL_FAMILIES && !families.contains(&family) {
                families.push(family);
            }
        }
        families.into_iter().map(many).collect()
    }

    fn check(&self, history: &History, budget: Duration) -> Verdict {
        let deadline = Instant::now() + budget;
        let mut verdict = Verdict::default();
        let mut families: BTreeMap<&str, Vec<&Op>> = BTreeMap::new();
        for op in &history.ops {
            families.entry(family_of(op.key())).or_default().push(op);
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
