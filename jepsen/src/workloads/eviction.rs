//! eviction: far more is written than memory takes, so that keys leave all the time, and is read again long after.
//!
//! Every key has a deadline a day ahead, so that each policy may take it; which policy is decided by the seed. What must
//! hold of such a key is what holds of a register, but that it may be gone at any moment. What was seen gone, overwritten or
//! refused is never seen again: an eviction that a new leader, a snapshot or a restart takes back is found. Under policies
//! that take only what has a deadline there are keys without one, too; these must be what any register is.
//!
//! And memory has its bound: by INFO of every node, whatever happens, and to the byte when nothing is written any more. Writes
//! that are larger than all of it are refused. A run in which no key was evicted proves nothing.

use super::{Anomaly, Crowd, Generator, Keys, Next, Verdict, Workload, multi, register, words};
use crate::checkers::linearizable::{Evicting, Register};
use crate::cluster::Plan;
use crate::history::{History, Op};
use crate::outcome::Outcome;
use crate::resp::Reply;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

/// Even ones take any key, odd ones only those with a deadline.
const POLICIES: [&str; 8] = [
    "s3-fifo",
    "volatile-lru",
    "allkeys-lru",
    "volatile-ttl",
    "allkeys-random",
    "volatile-lfu",
    "fifo",
    "volatile-random",
];
/// Room for some 400 values. At the usual rate it is full within three seconds.
const MAX_MEMORY: &str = "1MB";
const VALUE_BYTES: Range<u64> = 1000..4000;
/// Three times as many as there is room for, read and written by chance.
const COLD_KEYS: usize = 1200;
/// Calls of a client before all go on to other cold keys: some sixty for each key.
const CALLS_AN_ERA: u64 = 6000;
/// Calls on a lane's hot key before it goes on to the next.
const CALLS_A_HOT_KEY: u64 = 150;
/// Keys without a deadline, where the policy spares them.
const KEPT_KEYS: usize = 40;
/// Keys that are read again by every node at the end: the last ones, most of which have left by then.
const FINAL_KEYS: usize = 150;
/// The value of a write for which no group has room, as a number that nothing else writes.
const TOO_LARGE: u64 = 0;
const TOO_LARGE_BYTES: u64 = 1 << 20;
/// Calls of a client before it makes such writes: groups hear of their limits when they serve already.
const SETTLING_CALLS: u64 = 100;
const A_DAY: &str = "86400";

pub struct EvictionWorkload;

fn policy(seed: u64) -> &'static str {
    POLICIES[(seed % POLICIES.len() as u64) as usize]
}

/// The text that stands for a number, and for no other.
pub(super) fn value(number: u64) -> String {
    let length = VALUE_BYTES.start + number.wrapping_mul(7919) % (VALUE_BYTES.end - VALUE_BYTES.start);
    format!("{number:=<width$}", width = length as usize)
}

fn number_of(text: &str) -> Option<u64> {
    if text.len() as u64 == TOO_LARGE_BYTES {
        return Some(TOO_LARGE);
    }
    text.trim_end_matches('=').parse().ok().filter(|number| value(*number) == text)
}

struct Client {
    hot: Keys,
    rng: fastrand::Rng,
    worker: u64,
    calls: u64,
    written: u64,
    /// Whether the policy spares keys without a deadline.
    spares: bool,
}

impl Client {
    /// A value that nobody else writes.
    fn new_value(&mut self) -> String {
        self.written += 1;
        value(self.worker * 10_000_000 + self.written)
    }

    fn cold_key(&mut self) -> String {
        format!("cold:{}:{}", self.calls / CALLS_AN_ERA, self.rng.usize(0..COLD_KEYS))
    }

    fn call_on(&mut self, key: &str, deadline: &[&str]) -> Vec<String> {
        let mut call = match self.rng.u8(0..100) {
            0..42 => return words(&["GET", key]),
            42..58 => return words(&["HC.READ", "lease", "GET", key]),
            58..60 => return words(&["DEL", key]),
            60..67 => words(&["SET", key, &self.new_value(), "NX"]),
            _ => words(&["SET", key, &self.new_value()]),
        };
        call.extend(words(deadline));
        call
    }
}

impl Generator for Client {
    fn next(&mut self, _: Option<&Op>) -> Next {
        self.calls += 1;
        let deadline = ["EX", A_DAY];
        Next::Call(match self.rng.u8(0..200) {
            0 => words(&["INFO", "memory", "stats"]),
            1 if self.calls > SETTLING_CALLS => {
                let key = self.cold_key();
                let last = (TOO_LARGE_BYTES - 1).to_string();
                // Should it be taken, it must be able to leave again.
                multi([words(&["SETRANGE", &key, &last, "x"]), words(&["EXPIRE", &key, A_DAY])])
            }
            2..10 if self.spares => {
                let key = format!("kept:{}", self.rng.usize(0..KEPT_KEYS));
                self.call_on(&key, &[])
            }
            10..50 => {
                let key = self.hot.next();
                self.call_on(&key, &deadline)
            }
            _ => {
                let key = self.cold_key();
                self.call_on(&key, &deadline)
            }
        })
    }
}

/// The same operation with numbers for values; none if it did not end as it can.
fn as_register(op: &Op) -> Option<Op> {
    let command = op.command();
    match op.name() {
        "GET" => {
            let outcome = match op.reply() {
                Some(Reply::Text(text)) => Outcome::Ok(Reply::Text(number_of(text)?.to_string())),
                _ => op.outcome.clone(),
            };
            Some(Op { outcome, ..op.clone() })
        }
        "SET" => {
            let number = number_of(command.get(2)?)?.to_string();
            let mut call = words(&["SET", op.key(), &number]);
            call.extend(command[3..].iter().filter(|word| *word == "NX").cloned());
            Some(Op { words: call, ..op.clone() })
        }
        "MULTI" => {
            let outcome = match op.reply() {
                Some(Reply::Array(_)) => Outcome::Ok(Reply::Text("OK".to_owned())),
                Some(_) => return None,
                None => op.outcome.clone(),
            };
            Some(Op { words: words(&["SET", op.key(), &TOO_LARGE.to_string()]), outcome, ..op.clone() })
        }
        _ => Some(op.clone()),
    }
}

/// What reads found.
#[derive(Default)]
struct Found {
    values: usize,
    nothing: usize,
    /// Nothing, although a write had been acknowledged and nobody ever deletes the key.
    evicted: usize,
}

impl Found {
    fn count(&mut self, ops: &[&Op]) {
        let written = ops.iter().filter(|op| op.name() == "SET" && op.reply().is_some_and(Reply::is_ok));
        let written = written.map(|op| op.to).min().unwrap_or(u64::MAX);
        let deleted = ops.iter().any(|op| op.name() == "DEL");
        for read in ops.iter().filter(|op| op.name() == "GET" && op.is_ok()) {
            if read.reply() != Some(&Reply::Nil) {
                self.values += 1;
                continue;
            }
            self.nothing += 1;
            self.evicted += usize::from(!deleted && written < read.from);
        }
    }
}

/// What a node tells of its memory.
struct Told<'a> {
    op: &'a Op,
    used: u64,
    max: u64,
    evicted: u64,
}

impl<'a> Told<'a> {
    fn by(op: &'a Op) -> Option<Told<'a>> {
        let text = op.reply()?.text()?;
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            value.trim().parse().ok()
        };
        Some(Told { op, used: field("used_memory")?, max: field("maxmemory")?, evicted: field("evicted_keys")? })
    }

    /// What it may use now. While keys are written, a little more than its limit: of keys that were chosen and then
    /// written, and while a group has its larger share already and another still has it, too (decision 9).
    fn bound(&self, is_last: bool) -> u64 {
        if is_last { self.max } else { self.max + self.max / 4 }
    }
}

fn check_memory(history: &History, verdict: &mut Verdict) {
    let mut told = Vec::new();
    for op in history.ops.iter().filter(|op| op.name() == "INFO" && op.is_ok()) {
        match Told::by(op) {
            Some(one) => told.push(one),
            None => verdict.unexpected(op),
        }
    }
    let last: BTreeMap<usize, &Told<'_>> = told.iter().map(|one| (one.op.node, one)).collect();
    // A node that was just started does not know its limit yet.
    for one in told.iter().filter(|one| one.max > 0) {
        let is_last = last.get(&one.op.node).is_some_and(|last| std::ptr::eq(*last, one));
        if one.used > one.bound(is_last) {
            let when = if is_last { " although nothing is written any more" } else { "" };
            let what = format!("node {} uses {} bytes of {}{when}", one.op.node, one.used, one.max);
            verdict.anomalies.push(Anomaly::new("memory not bounded", what, vec![one.op.clone()]));
        }
    }
    let evicted: u64 = last.values().map(|one| one.evicted).sum();
    if evicted == 0 {
        verdict.unproven.push("no key was evicted".to_owned());
    }
    verdict.unproven.extend(last.values().filter(|one| one.max == 0).map(|one| {
        let node = one.op.node;
        format!("node {node} knows no limit of its memory")
    }));
    let full = told.iter().filter(|one| one.max > 0).map(|one| one.used * 100 / one.max).max().unwrap_or(0);
    verdict.notes.push(format!("{evicted} evictions by all nodes together, memory was full to {full} % at most"));
}

impl Workload for EvictionWorkload {
    fn name(&self) -> &'static str {
        "eviction"
    }

    fn about(&self) -> &'static str {
        "what was evicted, overwritten or refused is never seen again, what may not leave stays, and memory has its bound"
    }

    fn prepare(&self, plan: &mut Plan, seed: u64) {
        plan.settings.push(format!("cache.max_memory={MAX_MEMORY}"));
        plan.settings.push(format!("cache.eviction_policy={}", policy(seed)));
    }

    fn generators(&self, crowd: &Crowd) -> Vec<Box<dyn Generator>> {
        let spares = policy(crowd.seed).starts_with("volatile");
        let make =
            |worker: usize, hot, rng| Client { hot, rng, worker: 1 + worker as u64, calls: 0, written: 0, spares };
        crowd.generators("hot", CALLS_A_HOT_KEY, make)
    }

    fn final_reads(&self, history: &History) -> Vec<Vec<String>> {
        let keys = history.last(FINAL_KEYS, Op::key).into_iter().filter(|key| *key != "memory");
        let reads = keys.map(|key| words(&["GET", key]));
        reads.chain([words(&["INFO", "memory", "stats"])]).collect()
    }

    fn check(&self, history: &History, budget: Duration) -> Verdict {
        let deadline = Instant::now() + budget;
        let (mut verdict, mut found) = (Verdict::default(), Found::default());
        let mut keys: BTreeMap<&str, Vec<Op>> = BTreeMap::new();
        for op in history.ops.iter().filter(|op| op.name() != "INFO") {
            match as_register(op) {
                Some(plain) => keys.entry(op.key()).or_default().push(plain),
                None => verdict.unexpected(op),
            }
        }
        for (key, ops) in &keys {
            let ops: Vec<&Op> = ops.iter().collect();
            found.count(&ops);
            match key.starts_with("kept:") {
                true => register::check_key(&Register, key, &ops, deadline, &mut verdict),
                false => register::check_key(&Evicting, key, &ops, deadline, &mut verdict),
            }
        }
        check_memory(history, &mut verdict);
        let Found { values, nothing, evicted } = found;
        let reads = format!("{} keys judged; {values} reads found a value, {nothing} nothing", keys.len());
        verdict.notes.push(format!("{reads}, {evicted} of these certainly after an eviction"));
        verdict
    }
}
