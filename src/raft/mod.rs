//! Stand-in, to be dropped at the merge: a group of one replica in memory.
use crate::env::{self, Instant};
use crate::resp::{Args, Reply};
use crate::state::{Keyspace, View};
use crate::types::{GroupId, Level, NodeId, Stamp};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub struct Host(pub Vec<Arc<Group>>);
impl Host {
    pub fn group(&self, id: GroupId) -> Option<Arc<Group>> {
        self.0.iter().find(|group| group.id == id).cloned()
    }
    pub fn groups(&self) -> Vec<Arc<Group>> {
        self.0.clone()
    }
}
pub struct Group {
    id: GroupId,
    node: NodeId,
    state: Mutex<Keyspace>,
    applied: AtomicU64,
    snapshot: AtomicU64,
}
pub struct Permit(Level);
pub struct NeedsTick;
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
    pub clock_ms: u64,
}
pub enum Outcome {
    Applied { index: u64, replies: Vec<Reply> },
    NotApplied(Refusal),
    Unknown { index: Option<u64> },
}
pub enum Refusal {
    NoLeader,
    Deadline,
}
impl Refusal {
    pub fn reply(&self) -> Reply {
        match self {
            Refusal::NoLeader => Reply::error("CLUSTERDOWN the group has no leader"),
            Refusal::Deadline => Reply::error("TRYAGAIN not applied before the deadline"),
        }
    }
}
#[derive(Debug, thiserror::Error)]
#[error("it failed")]
pub struct AdminError;

impl Group {
    pub fn new(id: GroupId, node: NodeId) -> Arc<Group> {
        let state = Mutex::new(Keyspace::new(1));
        Arc::new(Group { id, node, state, applied: AtomicU64::new(1), snapshot: AtomicU64::new(0) })
    }
    pub fn id(&self) -> GroupId {
        self.id
    }
    fn apply(&self, calls: &[Args]) -> (u64, Vec<Reply>) {
        let mut state = self.state.lock();
        let stamp = Stamp { now_ms: env::wall_ms(), seed: 1 };
        state.advance(&stamp);
        let replies = calls.iter().map(|call| crate::commands::apply(call, &mut state, &stamp)).collect();
        (self.applied.fetch_add(1, Ordering::SeqCst) + 1, replies)
    }
    pub fn propose(&self, calls: Vec<Args>, deadline: Instant, done: Box<dyn FnOnce(Outcome) + Send>) {
        if deadline.remaining().is_zero() {
            return done(Outcome::NotApplied(Refusal::Deadline));
        }
        let (index, replies) = self.apply(&calls);
        done(Outcome::Applied { index, replies });
    }
    pub fn try_read(&self, level: Level) -> Option<Permit> {
        (level != Level::Linearizable).then_some(Permit(level))
    }
    pub async fn barrier(&self, level: Level, deadline: Instant) -> Result<Permit, Refusal> {
        if deadline.remaining().is_zero() { Err(Refusal::NoLeader) } else { Ok(Permit(level)) }
    }
    pub fn read<R>(&self, permit: &Permit, f: impl FnOnce(&View<'_>) -> R) -> Result<R, NeedsTick> {
        let state = self.state.lock();
        let estimate = matches!(permit.0, Level::Linearizable | Level::Lease).then(env::wall_ms);
        let view = View::new(&state, estimate);
        let seen = f(&view);
        if view.needs_tick() { Err(NeedsTick) } else { Ok(seen) }
    }
    pub async fn tick(&self, deadline: Instant) -> Result<(), Refusal> {
        if deadline.remaining().is_zero() {
            return Err(Refusal::Deadline);
        }
        self.apply(&[]);
        Ok(())
    }
    pub fn leader(&self) -> Option<NodeId> {
        Some(self.node)
    }
    pub fn is_leader(&self) -> bool {
        true
    }
    pub fn status(&self) -> GroupStatus {
        let state = self.state.lock();
        let applied = self.applied.load(Ordering::SeqCst);
        GroupStatus {
            id: self.id,
            leader: Some(self.node),
            term: 1,
            voters: vec![self.node],
            learners: Vec::new(),
            last_log: applied,
            committed: applied,
            applied,
            snapshot: self.snapshot.load(Ordering::SeqCst),
            purged: 0,
            keys: state.len(),
            expires: state.expires(),
            used_bytes: state.used_bytes(),
            clock_ms: state.clock(),
        }
    }
    pub async fn transfer(&self, _: NodeId) -> Result<(), AdminError> {
        Err(AdminError)
    }
    pub async fn snapshot(&self) -> Result<u64, AdminError> {
        let applied = self.applied.load(Ordering::SeqCst);
        self.snapshot.store(applied, Ordering::SeqCst);
        Ok(applied)
    }
    pub fn state_hash(&self) -> (u64, u128) {
        let state = self.state.lock();
        (self.applied.load(Ordering::SeqCst), state.state_hash())
    }
}
