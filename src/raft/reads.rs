//! When a local read may be answered: leases, read indexes, ages.
//!
//! - `linearizable`: a quorum confirms the leader in a round that began after the read arrived, and the replica has
//!   applied what anybody may have seen by then: what the leader had applied, and what it had told followers is committed. A follower asks the leader for the index.
//! - `lease`: a quorum confirmed the leader less than [`LEASE_SHARE`] of the voters' promise ago, measured on
//!   CLOCK_BOOTTIME when the read arrived, never remembered. What has to be applied is the same.
//! - `bounded`: the leader's quorum-confirmed age when it answered, plus the time since this replica *sent* the question.
//! - `eventual`: any replica that has caught up once since it started.
//!
//! Reads of a group that wait for the same thing share a round ([`Gate`]): whoever comes while one is under way waits
//! for the next, because a round says nothing about reads that arrived after it began.

use super::group::Group;
use super::proposer::Refusal;
use super::wire::{self, Lane, Method, ReadIndex};
use crate::env::{self, Instant};
use crate::planted::{self, Bug};
use crate::types::{Leadership, Level, Millis};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// Share of the voters' promise that the leader uses, in percent: the rest covers drift of clocks.
pub const LEASE_SHARE: u32 = 70;
/// How long one attempt at a round may take.
const ATTEMPT: Duration = Duration::from_millis(500);
/// How long to wait before another attempt.
const RETRY: Duration = Duration::from_millis(5);

/// Leave to answer a read from the local state now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permit {
    /// The leader's estimate of the group's time; none where the level asks for no more than a committed prefix.
    pub(super) estimate: Option<Millis>,
    /// What the read sees at least.
    pub(super) index: u64,
}

impl Permit {
    /// The index of the log that the read sees at least.
    pub fn index(&self) -> u64 {
        self.index
    }
}

/// The read met a key that the leader's estimate calls dead and the state does not: have a tick applied and read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeedsTick;

/// How fresh a follower's state was, when it last asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Freshness {
    /// The state is at least as new as the leader's was at this instant.
    pub(super) at: Instant,
}

type Waiter = (Instant, oneshot::Sender<Permit>);

/// Lets reads share rounds: one under way, everybody else waits for the next.
#[derive(Default)]
pub(super) struct Gate(Mutex<GateState>);

#[derive(Default)]
struct GateState {
    running: bool,
    waiting: Vec<Waiter>,
}

/// What a gate's round does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Round {
    /// A quorum confirms the leader.
    Quorum,
    /// The leader's lease, or a quorum where it has none.
    Lease,
    /// A tick is committed and applied.
    Tick,
}

impl Gate {
    /// Waits for a round that begins after this call.
    pub(super) async fn pass(group: &Arc<Group>, round: Round, deadline: Instant) -> Result<Permit, Refusal> {
        let (tx, rx) = oneshot::channel();
        let start = {
            let mut state = group.gate(round).0.lock();
            state.waiting.push((deadline, tx));
            !std::mem::replace(&mut state.running, true)
        };
        if start {
            group.spawn(Gate::run(group.clone(), round));
        }
        match env::timeout_at(deadline, rx).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) if group.closed() => Err(group.farewell()),
            _ if group.leadership().is_none() => Err(Refusal::NoLeader),
            _ => Err(Refusal::Deadline),
        }
    }

    /// Makes rounds until nobody waits. A round that fails is made again for those whose deadline lies ahead.
    async fn run(group: Arc<Group>, round: Round) {
        loop {
            let waiting = {
                let mut state = group.gate(round).0.lock();
                let now = env::now();
                state.waiting.retain(|(deadline, tx)| *deadline > now && !tx.is_closed());
                if state.waiting.is_empty() || group.closed() {
                    state.running = false;
                    state.waiting.clear();
                    return;
                }
                std::mem::take(&mut state.waiting)
            };
            match group.attempt(round).await {
                Some(permit) => {
                    let late = match planted::is(Bug::JoinRunningRound) {
                        true => std::mem::take(&mut group.gate(round).0.lock().waiting),
                        false => Vec::new(),
                    };
                    for (_, tx) in waiting.into_iter().chain(late) {
                        let _ = tx.send(permit);
                    }
                }
                None => {
                    group.gate(round).0.lock().waiting.extend(waiting);
                    let _ = env::timeout(RETRY, group.leadership_changed()).await;
                }
            }
        }
    }
}

impl Group {
    /// Leave to read at this level if it can be had without waiting: the hot path.
    pub fn try_read(&self, level: Level) -> Option<Permit> {
        #[cfg(test)]
        if self.withholds_leave(level) {
            return None;
        }
        match level {
            Level::Eventual => self.ready().then(|| Permit { estimate: None, index: self.replica().applied_index() }),
            Level::Lease => self.lease_permit().filter(|permit| self.replica().applied_index() >= permit.index),
            Level::Linearizable => {
                self.sole_voter_permit().filter(|permit| self.replica().applied_index() >= permit.index)
            }
            Level::Bounded(bound) => {
                let now = env::now();
                let fresh = self.fresh_at().is_some_and(|at| now.saturating_since(at) <= bound);
                ((fresh || planted::is(Bug::BoundedUnbounded)) && self.ready())
                    .then(|| Permit { estimate: None, index: self.replica().applied_index() })
            }
        }
    }

    /// Waits for leave to read at this level, until the deadline.
    pub async fn barrier(self: &Arc<Self>, level: Level, deadline: Instant) -> Result<Permit, Refusal> {
        if let Some(permit) = self.try_read(level) {
            return Ok(permit);
        }
        #[cfg(test)]
        self.count_barrier();
        match level {
            Level::Linearizable => Gate::pass(self, Round::Quorum, deadline).await,
            Level::Lease => Gate::pass(self, Round::Lease, deadline).await,
            Level::Eventual => {
                while !self.ready() {
                    if env::now() >= deadline {
                        return Err(Refusal::Recovering);
                    }
                    env::sleep(RETRY).await;
                }
                Ok(Permit { estimate: None, index: self.replica().applied_index() })
            }
            Level::Bounded(bound) => {
                // A fresh answer of the leader satisfies any bound; without one there is nothing to show.
                match Gate::pass(self, Round::Lease, deadline.min(env::now() + bound.max(ATTEMPT))).await {
                    Ok(permit) => Ok(permit),
                    Err(_) => match self.try_read(level) {
                        Some(permit) => Ok(permit),
                        None => Err(Refusal::Stale { age_ms: self.age_ms() }),
                    },
                }
            }
        }
    }

    /// Has a tick committed and applied here, so that what the leader's estimate calls dead is dead.
    pub async fn tick(self: &Arc<Self>, deadline: Instant) -> Result<(), Refusal> {
        Gate::pass(self, Round::Tick, deadline).await.map(|_| ())
    }

    /// One attempt at a round; given up as soon as another leads, since whoever was asked will not answer then.
    async fn attempt(self: &Arc<Self>, round: Round) -> Option<Permit> {
        let leadership = self.leadership()?;
        tokio::select! {
            biased;
            permit = self.attempt_with(leadership, round) => permit,
            () = self.leadership_other_than(leadership) => None,
        }
    }

    async fn attempt_with(self: &Arc<Self>, leadership: Leadership, round: Round) -> Option<Permit> {
        // A tick says nothing of the state, but whoever waits for one reads next.
        if self.fenced() {
            return None;
        }
        if leadership.leader == self.me() {
            let permit = env::timeout(ATTEMPT, self.lead_round(round)).await.ok()??;
            let applied = env::timeout(ATTEMPT, self.replica().wait_applied(permit.index)).await.ok()?;
            applied.then_some(permit)
        } else {
            let sent = env::now();
            let link = self.peers().link(leadership.leader, Lane::Raft(self.worker()));
            let method = if round == Round::Tick { Method::Tick } else { Method::ReadIndex };
            let answer = link.call(method, self.id(), |out| wire::put(out, &(round == Round::Quorum))).ok()?;
            let bytes = env::timeout(ATTEMPT, answer.wait()).await.ok()?.ok()?;
            let read: ReadIndex = wire::get(&bytes, "a read index").ok()?;
            if !env::timeout(ATTEMPT, self.replica().wait_applied(read.index)).await.ok()? {
                return None;
            }
            self.note_fresh(Freshness { at: sent - Duration::from_millis(read.age_ms) });
            Some(Permit { estimate: Some(read.estimate), index: read.index })
        }
    }

    /// The leader's side of a round.
    async fn lead_round(self: &Arc<Self>, round: Round) -> Option<Permit> {
        match round {
            Round::Tick => {
                let (tx, rx) = oneshot::channel();
                self.submit_sweep(Vec::new(), env::now() + ATTEMPT, move |index| {
                    let _ = tx.send(index);
                });
                let index = rx.await.ok()??;
                Some(Permit { estimate: Some(self.leader_estimate()), index })
            }
            Round::Lease if self.lease_permit().is_some() => self.lease_permit(),
            Round::Lease | Round::Quorum if planted::is(Bug::ReadUnconfirmed) => {
                Some(Permit { estimate: Some(self.leader_estimate()), index: self.shown_index() })
            }
            Round::Lease | Round::Quorum => self.confirm().await,
        }
    }

    /// Answers a follower's question for a read index. None if this node does not lead, or cannot show that it does.
    pub(super) async fn answer_read_index(self: &Arc<Self>, quorum: bool) -> Option<ReadIndex> {
        let deadline = env::now() + ATTEMPT;
        if self.leadership().is_none_or(|l| l.leader != self.me()) {
            return None;
        }
        let permit = match quorum {
            true => Gate::pass(self, Round::Quorum, deadline).await.ok()?,
            false => Gate::pass(self, Round::Lease, deadline).await.ok()?,
        };
        // Only a leader's own permit will do: leadership may have moved while it waited.
        self.leadership().filter(|l| l.leader == self.me())?;
        let estimate = permit.estimate.unwrap_or_else(|| self.leader_estimate());
        Some(ReadIndex { index: permit.index, estimate, age_ms: self.age_ms() })
    }

    /// Answers a follower's wish for a tick.
    pub(super) async fn answer_tick(self: &Arc<Self>) -> Option<ReadIndex> {
        if self.leadership().is_none_or(|l| l.leader != self.me()) {
            return None;
        }
        let permit = Gate::pass(self, Round::Tick, env::now() + ATTEMPT).await.ok()?;
        Some(ReadIndex { index: permit.index, estimate: self.leader_estimate(), age_ms: self.age_ms() })
    }
}
