//! Stand-in: groups of one node in memory, with knobs for tests. Writes are applied on a thread of the group's own.

use crate::commands;
use crate::env::{self, Instant};
use crate::resp::{Args, Reply};
use crate::state::{Keyspace, View};
use crate::types::{GroupId, Level, Millis, NodeId, Stamp};
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Applied { index: u64, replies: Vec<Reply> },
    NotApplied(Refusal),
    Unknown { index: Option<u64> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    NoLeader,
    Deadline,
    Stale { age_ms: u64 },
    ShuttingDown,
    DiskFull,
    Recovering,
    Busy,
}

impl Refusal {
    pub fn reply(&self) -> Reply {
        Reply::error(match self {
            Refusal::Deadline => "TRYAGAIN deadline".to_owned(),
            other => format!("CLUSTERDOWN {other:?}"),
        })
    }
}

impl Outcome {
    pub fn failure_reply(&self) -> Reply {
        match self {
            Outcome::NotApplied(refusal) => refusal.reply(),
            _ => Reply::error("UNCERTAIN the command may have been applied or may still be"),
        }
    }
}

pub type OnOutcome = Box<dyn FnOnce(Outcome) + Send>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permit {
    estimate: Option<Millis>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeedsTick;

#[derive(Debug, Clone, Default)]
pub struct GroupStatus {
    pub id: GroupId,
    pub leader: Option<NodeId>,
    pub term: u64,
    pub voters: Vec<NodeId>,
    pub learners: Vec<NodeId>,
    pub last_log: u64,
    pub committed: u64,
    pub applied: u64,
    pub snapshot: u64,
    pub purged: u64,
    pub keys: u64,
    pub expires: u64,
    pub used_bytes: u64,
    pub clock_ms: Millis,
}

type Job = (Vec<Args>, OnOutcome);

/// Knobs and state of a group.
pub struct Group {
    id: GroupId,
    me: NodeId,
    keyspace: Mutex<Keyspace>,
    jobs: Mutex<VecDeque<Job>>,
    wake: Condvar,
    /// Nothing is applied while set.
    pub held: AtomicBool,
    /// Linearizable and lease reads must wait for a barrier.
    pub no_lease: AtomicBool,
    /// Writes are refused.
    pub refuse: AtomicBool,
    pub leader: AtomicU64,
    /// What the leader would stamp now.
    pub clock: AtomicU64,
    pub proposals: Mutex<Vec<usize>>,
    pub barriers: AtomicU64,
    pub ticks: AtomicU64,
    applied: AtomicU64,
}

impl Group {
    pub fn stand_in(id: GroupId, me: NodeId) -> Arc<Group> {
        let group = Arc::new(Group {
            id,
            me,
            keyspace: Mutex::new(Keyspace::new(7)),
            jobs: Mutex::new(VecDeque::new()),
            wake: Condvar::new(),
            held: AtomicBool::new(false),
            no_lease: AtomicBool::new(false),
            refuse: AtomicBool::new(false),
            leader: AtomicU64::new(me.0),
            clock: AtomicU64::new(1_000_000),
            proposals: Mutex::new(Vec::new()),
            barriers: AtomicU64::new(0),
            ticks: AtomicU64::new(0),
            applied: AtomicU64::new(0),
        });
        let weak = Arc::downgrade(&group);
        env::spawn_thread("stand-in", move || {
            while let Some(group) = weak.upgrade() {
                let mut jobs = group.jobs.lock();
                if group.held.load(SeqCst) || jobs.is_empty() {
                    group.wake.wait_for(&mut jobs, std::time::Duration::from_millis(20));
                }
                if group.held.load(SeqCst) {
                    continue;
                }
                let batch: Vec<Job> = jobs.drain(..).collect();
                drop(jobs);
                for (calls, done) in batch {
                    group.apply(calls, done);
                }
            }
        });
        group
    }

    fn apply(&self, calls: Vec<Args>, done: OnOutcome) {
        if self.refuse.load(SeqCst) {
            return done(Outcome::NotApplied(Refusal::NoLeader));
        }
        let stamp = Stamp { now_ms: self.clock.load(SeqCst), seed: 1 };
        let mut ks = self.keyspace.lock();
        ks.advance(&stamp);
        let replies = calls.iter().map(|c| commands::apply(c, &mut ks, &stamp)).collect();
        drop(ks);
        done(Outcome::Applied { index: self.applied.fetch_add(1, SeqCst) + 1, replies });
    }

    /// Lets go what was held.
    pub fn release(&self) {
        self.held.store(false, SeqCst);
        self.wake.notify_all();
    }

    pub fn id(&self) -> GroupId {
        self.id
    }

    pub fn propose(&self, calls: Vec<Args>, _: Instant, done: OnOutcome) {
        self.proposals.lock().push(calls.len());
        self.jobs.lock().push_back((calls, done));
        self.wake.notify_all();
    }

    pub fn try_read(&self, level: Level) -> Option<Permit> {
        match level {
            Level::Eventual | Level::Bounded(_) => Some(Permit { estimate: None }),
            _ if self.no_lease.load(SeqCst) => None,
            _ => Some(Permit { estimate: Some(self.clock.load(SeqCst)) }),
        }
    }

    pub async fn barrier(self: &Arc<Self>, _: Level, _: Instant) -> Result<Permit, Refusal> {
        self.barriers.fetch_add(1, SeqCst);
        tokio::task::yield_now().await;
        match self.refuse.load(SeqCst) {
            true => Err(Refusal::NoLeader),
            false => Ok(Permit { estimate: Some(self.clock.load(SeqCst)) }),
        }
    }

    pub fn read<R>(&self, permit: &Permit, f: impl FnOnce(&View<'_>) -> R) -> Result<R, NeedsTick> {
        let ks = self.keyspace.lock();
        let view = View::new(&ks, permit.estimate);
        let r = f(&view);
        if view.needs_tick() { Err(NeedsTick) } else { Ok(r) }
    }

    pub async fn tick(self: &Arc<Self>, _: Instant) -> Result<(), Refusal> {
        self.ticks.fetch_add(1, SeqCst);
        tokio::task::yield_now().await;
        self.keyspace.lock().advance(&Stamp { now_ms: self.clock.load(SeqCst), seed: 1 });
        Ok(())
    }

    pub fn leader(&self) -> Option<NodeId> {
        Some(NodeId(self.leader.load(SeqCst))).filter(|l| l.0 != 0)
    }

    pub fn is_leader(&self) -> bool {
        self.leader() == Some(self.me)
    }

    pub fn status(&self) -> GroupStatus {
        let ks = self.keyspace.lock();
        let applied = self.applied.load(SeqCst);
        GroupStatus {
            id: self.id,
            leader: self.leader(),
            term: 1,
            voters: vec![NodeId(1), NodeId(2), NodeId(3)],
            last_log: applied,
            committed: applied,
            applied,
            keys: ks.len(),
            expires: ks.expires(),
            used_bytes: ks.used_bytes(),
            clock_ms: ks.clock(),
            ..GroupStatus::default()
        }
    }
}

/// The groups of this node.
pub struct Host {
    pub groups: BTreeMap<GroupId, Arc<Group>>,
}

impl Host {
    pub fn group(&self, id: GroupId) -> Option<Arc<Group>> {
        self.groups.get(&id).cloned()
    }

    pub fn groups(&self) -> Vec<Arc<Group>> {
        self.groups.values().cloned().collect()
    }
}
