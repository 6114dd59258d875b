//! What a worker counts on its hot path, and the sums that INFO and the metrics show.
//!
//! Each worker thread owns one [`Counters`] and is its only writer, so that a count costs a load and a store and no
//! shared cache line. Readers add the workers up and may be a moment late. RESETSTAT never writes to a counter: it
//! keeps the sums of that moment and later ones are shown less these.

pub use crate::commands::ordinal::{Ordinal, name, ordinal};

use super::times::Times;
use crate::commands::ordinal;
use crate::resp::Reply;
use crate::types::Level;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Kinds of level as counters tell them apart.
pub const LEVELS: [&str; 4] = ["linearizable", "lease", "bounded", "eventual"];

/// Error codes kept apart; further ones are counted together, since a client can choose the text of some.
const ERROR_CODES_MAX: usize = 128;

fn level_index(level: Level) -> usize {
    match level {
        Level::Linearizable => 0,
        Level::Lease => 1,
        Level::Bounded(_) => 2,
        Level::Eventual => 3,
    }
}

/// Whether the cost of a command does not depend on how much there is.
pub(super) fn is_fast(ordinal: Ordinal) -> bool {
    ordinal.command().spec.complexity == "O(1)"
}

#[derive(Default)]
struct PerCommand {
    calls: AtomicU64,
    nanos: AtomicU64,
    rejected: AtomicU64,
    failed: AtomicU64,
    times: Times,
}

/// One worker's counts, written by its thread alone; or those of all scripts ([`Counters::called_by_script`]).
pub struct Counters {
    pub commands: AtomicU64,
    pub bytes_in: AtomicU64,
    pub bytes_out: AtomicU64,
    pub moved: AtomicU64,
    pub writes: AtomicU64,
    pub hits: AtomicU64,
    pub misses: AtomicU64,
    errors: AtomicU64,
    /// By level; as leader and as follower.
    reads: [[AtomicU64; 2]; 4],
    per_command: Box<[PerCommand]>,
    codes: Mutex<BTreeMap<String, u64>>,
}

/// Adds `n` to a counter of the calling worker's own.
pub fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
}

impl Counters {
    pub fn new() -> Counters {
        Counters {
            commands: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            reads: Default::default(),
            per_command: (0..ordinal::count()).map(|_| PerCommand::default()).collect(),
            codes: Mutex::new(BTreeMap::new()),
        }
    }

    /// A read was answered from this node's replica.
    pub fn read(&self, level: Level, leads: bool, reply: &Reply) {
        add(&self.reads[level_index(level)][usize::from(!leads)], 1);
        add(if matches!(reply, Reply::Nil) { &self.misses } else { &self.hits }, 1);
    }

    /// A command was answered after `took`.
    pub fn called(&self, ordinal: Ordinal, took: Duration, failed: bool) {
        let c = &self.per_command[ordinal.to_index()];
        add(&c.calls, 1);
        add(&c.nanos, took.as_nanos() as u64);
        c.times.record(took);
        if failed {
            add(&c.failed, 1);
        }
    }

    /// A script ran a command. Scripts have threads of their own, one a group, so this alone may be called by several; the time
    /// is part of the script's.
    pub fn called_by_script(&self, ordinal: Ordinal, failed: bool) {
        let c = &self.per_command[ordinal.to_index()];
        c.calls.fetch_add(1, Relaxed);
        c.failed.fetch_add(failed.into(), Relaxed);
    }

    /// A command was refused before it ran.
    pub fn rejected(&self, ordinal: Ordinal) {
        add(&self.per_command[ordinal.to_index()].rejected, 1);
    }

    /// An error went out to a client; `text` begins with its code.
    pub fn error(&self, text: &[u8]) {
        add(&self.errors, 1);
        let code = text.split(|b| *b == b' ').next().unwrap_or_default();
        let code = if code == b"MOVED" {
            add(&self.moved, 1);
            "MOVED".to_owned()
        } else if !code.is_empty() && code.len() <= 32 && code.iter().all(|b| matches!(b, b'A'..=b'Z' | b'_')) {
            String::from_utf8_lossy(code).into_owned()
        } else {
            "ERR".to_owned()
        };
        let mut codes = self.codes.lock();
        let full = codes.len() >= ERROR_CODES_MAX && !codes.contains_key(&code);
        *codes.entry(if full { "OTHER".to_owned() } else { code }).or_default() += 1;
    }
}

impl Default for Counters {
    fn default() -> Counters {
        Counters::new()
    }
}

/// The times of every command by bucket, summed over all workers; in the tables' order, empty for one never called.
pub(super) fn times(workers: &[Arc<Counters>]) -> Vec<Vec<u64>> {
    let mut sums = vec![Vec::new(); workers.first().map_or(0, |worker| worker.per_command.len())];
    for worker in workers {
        sums.iter_mut().zip(&worker.per_command).for_each(|(sum, command)| command.times.add_to(sum));
    }
    sums
}

/// Sums over all workers.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    pub commands: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub moved: u64,
    pub writes: u64,
    pub hits: u64,
    pub misses: u64,
    pub errors: u64,
    pub reads: [[u64; 2]; 4],
    /// Calls, nanoseconds, rejected, failed; by ordinal.
    pub per_command: Vec<[u64; 4]>,
    pub codes: BTreeMap<String, u64>,
}

impl Totals {
    pub fn of(workers: &[Arc<Counters>]) -> Totals {
        let mut t = Totals { per_command: vec![[0; 4]; ordinal::count()], ..Totals::default() };
        for w in workers {
            t.commands += w.commands.load(Relaxed);
            t.bytes_in += w.bytes_in.load(Relaxed);
            t.bytes_out += w.bytes_out.load(Relaxed);
            t.moved += w.moved.load(Relaxed);
            t.writes += w.writes.load(Relaxed);
            t.hits += w.hits.load(Relaxed);
            t.misses += w.misses.load(Relaxed);
            t.errors += w.errors.load(Relaxed);
            for (sum, counts) in t.reads.iter_mut().zip(&w.reads) {
                sum[0] += counts[0].load(Relaxed);
                sum[1] += counts[1].load(Relaxed);
            }
            for (sum, c) in t.per_command.iter_mut().zip(&w.per_command) {
                let counts = [&c.calls, &c.nanos, &c.rejected, &c.failed];
                sum.iter_mut().zip(counts).for_each(|(s, c)| *s += c.load(Relaxed));
            }
            for (code, n) in w.codes.lock().iter() {
                *t.codes.entry(code.clone()).or_default() += n;
            }
        }
        t
    }

    /// What was counted since `start`.
    pub fn since(mut self, start: &Totals) -> Totals {
        let less = |a: &mut u64, b: u64| *a = a.saturating_sub(b);
        less(&mut self.commands, start.commands);
        less(&mut self.bytes_in, start.bytes_in);
        less(&mut self.bytes_out, start.bytes_out);
        less(&mut self.moved, start.moved);
        less(&mut self.writes, start.writes);
        less(&mut self.hits, start.hits);
        less(&mut self.misses, start.misses);
        less(&mut self.errors, start.errors);
        for (a, b) in self.reads.iter_mut().flatten().zip(start.reads.iter().flatten()) {
            less(a, *b);
        }
        for (a, b) in self.per_command.iter_mut().flatten().zip(start.per_command.iter().flatten()) {
            less(a, *b);
        }
        for (code, n) in &mut self.codes {
            less(n, start.codes.get(code).copied().unwrap_or(0));
        }
        self.codes.retain(|_, n| *n > 0);
        self
    }

    /// Name and counts of every command that was called or refused.
    pub fn commands(&self) -> impl Iterator<Item = (&'static str, [u64; 4])> + '_ {
        let rows = ordinal::numbered().map(|(_, name, _)| name).zip(self.per_command.iter().copied());
        rows.filter(|(_, counts)| counts[0] + counts[2] > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resetting_shows_only_what_came_later() {
        let workers = vec![Arc::new(Counters::new()), Arc::new(Counters::new())];
        add(&workers[0].commands, 3);
        workers[1].error(b"ERR x");
        let start = Totals::of(&workers);
        assert_eq!((start.commands, start.errors), (3, 1));
        workers[1].read(Level::Eventual, false, &Reply::Nil);
        add(&workers[1].commands, 1);
        let later = Totals::of(&workers).since(&start);
        assert_eq!((later.commands, later.errors, later.misses), (1, 0, 1));
        assert_eq!(later.reads[3], [0, 1]);
        assert!(later.codes.is_empty());
    }

    #[test]
    fn codes_chosen_by_a_client_do_not_grow_the_table() {
        let c = Counters::new();
        for n in 0..100_000u32 {
            let code: String = format!("{n:05}").bytes().map(|b| char::from(b - b'0' + b'A')).collect();
            c.error(code.as_bytes());
        }
        assert!(c.codes.lock().len() <= ERROR_CODES_MAX + 1);
    }
}
