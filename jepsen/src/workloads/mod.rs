//! What clients do, and what must hold of what they saw. A workload is a file: which commands a client sends next
//! ([`Generator`]), what is read at the end, and the judge.
//!
//! Each client (worker) talks to the proxy face of one node, worker *i* to node *i* modulo the number of nodes, plus one;
//! so nodes that are cut off are asked, too. Clients of a *lane* share keys: two of each node, or what there are.

mod append;
mod bank;
mod counter;
mod eviction;
mod levels;
mod lock;
mod mset;
mod queue;
mod register;
mod set;
mod ttl;
mod watch;

use crate::cluster::Plan;
use crate::history::{History, Op};
use crate::resp::THEN;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What a client does next.
pub enum Next {
    Call(Vec<String>),
    /// Nothing for so long.
    Pause(Duration),
}

/// One client's mind.
pub trait Generator: Send {
    /// `last` is the client's own last operation, if it made one.
    fn next(&mut self, last: Option<&Op>) -> Next;
}

/// Who takes part in a run.
#[derive(Debug, Clone, Copy)]
pub struct Crowd {
    pub nodes: usize,
    pub workers: usize,
    pub seed: u64,
}

impl Crowd {
    pub fn node_of(&self, worker: usize) -> usize {
        1 + worker % self.nodes
    }

    fn lane_of(&self, worker: usize) -> usize {
        worker / (2 * self.nodes)
    }

    fn rng_of(&self, worker: usize) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.seed.wrapping_mul(1000).wrapping_add(worker as u64))
    }

    /// A generator for each worker, made with the keys of its lane.
    fn generators<G: Generator + 'static>(
        &self,
        name: &str,
        calls_a_key: u64,
        make: impl Fn(usize, Keys, fastrand::Rng) -> G,
    ) -> Vec<Box<dyn Generator>> {
        let lanes: Vec<Arc<AtomicU64>> = (0..=self.lane_of(self.workers)).map(|_| Arc::default()).collect();
        let one = |worker: usize| {
            let lane = self.lane_of(worker);
            let keys = Keys { name: name.to_owned(), lane, calls_a_key, used: lanes[lane].clone() };
            Box::new(make(worker, keys, self.rng_of(worker))) as Box<dyn Generator>
        };
        (0..self.workers).map(one).collect()
    }
}

/// The keys of a lane. Its clients go on to a new key together after a number of calls, because a judge's work grows with
/// the number of unknown outcomes that a key has gathered.
pub struct Keys {
    name: String,
    lane: usize,
    calls_a_key: u64,
    used: Arc<AtomicU64>,
}

impl Keys {
    /// The key of the next call.
    pub fn next(&self) -> String {
        let turn = self.used.fetch_add(1, Ordering::Relaxed) / self.calls_a_key;
        format!("{}:{}:{turn}", self.name, self.lane)
    }
}

/// Something that must not be.
#[derive(Debug, Clone)]
pub struct Anomaly {
    pub kind: String,
    pub what: String,
    /// The operations that show it, for people.
    pub ops: Vec<Op>,
}

impl Anomaly {
    pub fn new(kind: &str, what: impl Into<String>, ops: Vec<Op>) -> Anomaly {
        Anomaly { kind: kind.to_owned(), what: what.into(), ops }
    }
}

/// What a judge says.
#[derive(Debug, Default)]
pub struct Verdict {
    pub anomalies: Vec<Anomaly>,
    /// Objects that could not be judged within the budget. They fail the run.
    pub undecided: Vec<String>,
    /// What did not happen in this run although it has to be seen for the run to prove anything. It fails the run, too.
    pub unproven: Vec<String>,
    /// Figures and remarks for the report.
    pub notes: Vec<String>,
}

impl Verdict {
    pub fn unexpected(&mut self, op: &Op) {
        self.anomalies.push(Anomaly::new("unexpected reply", op.story(), vec![op.clone()]));
    }
}

pub trait Workload: Sync {
    fn name(&self) -> &'static str;
    /// One line for people: what is promised here.
    fn about(&self) -> &'static str;

    /// Asks for what it needs of the cluster.
    fn prepare(&self, _plan: &mut Plan, _seed: u64) {}

    fn generators(&self, crowd: &Crowd) -> Vec<Box<dyn Generator>>;
    /// Commands that every node is asked at the end, when all has healed. All of them must succeed.
    fn final_reads(&self, history: &History) -> Vec<Vec<String>>;
    fn check(&self, history: &History, budget: Duration) -> Verdict;
}

pub fn all() -> Vec<Box<dyn Workload>> {
    vec![
        Box::new(register::RegisterWorkload),
        Box::new(append::AppendWorkload),
        Box::new(set::SetWorkload),
        Box::new(counter::CounterWorkload),
        Box::new(mset::MsetWorkload),
        Box::new(ttl::TtlWorkload),
        Box::new(levels::LevelsWorkload),
        Box::new(lock::LockWorkload),
        Box::new(bank::BankWorkload),
        Box::new(queue::QueueWorkload),
        Box::new(watch::WatchWorkload),
        Box::new(eviction::EvictionWorkload),
    ]
}

/// These commands as one transaction.
fn multi(commands: impl IntoIterator<Item = Vec<String>>) -> Vec<String> {
    let begun = std::iter::once(words(&["MULTI"]));
    let all: Vec<Vec<String>> = begun.chain(commands).chain([words(&["EXEC"])]).collect();
    all.join(&THEN.to_owned())
}

fn words(parts: &[&str]) -> Vec<String> {
    parts.iter().map(|p| (*p).to_owned()).collect()
}

#[cfg(test)]
mod tests;
