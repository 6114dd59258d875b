//! What is put before the proposer: clients' calls, those of other nodes, and the entries that a leader makes by itself.

use super::Group;
use crate::env::{self, Instant};
use crate::raft::proposer::{OnOutcome, Outcome, Refusal, Submission};
use crate::raft::room::{Admission, Room};
use crate::raft::wire::Proposal;
use crate::resp::Args;
use crate::state::eviction::Limit;
use crate::state::{HashRange, Packing};
use crate::types::{Author, GroupId};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Ranges of slots that one tick sweeps, at most.
const SWEEP_RANGES: usize = 64;

impl Group {
    /// Queues calls in order. `done` runs exactly once, on any thread, and must be quick. Commands find the leader
    /// wherever it is and are tried again inside as long as they are certainly not applied, until the deadline.
    pub fn propose(&self, calls: Vec<Args>, deadline: Instant, done: OnOutcome) {
        self.propose_by(None, calls, deadline, done);
    }

    /// The same for a connection that does not want to be told of what it changes.
    pub fn propose_by(&self, author: Option<Author>, calls: Vec<Args>, deadline: Instant, done: OnOutcome) {
        #[cfg(test)]
        self.hooks.proposals.lock().push(calls.len());
        self.proposer.submit(Submission::new(calls, deadline, None, done).by(author));
    }

    /// The same as [`Group::propose`], waiting for the outcome.
    pub async fn propose_and_wait(&self, calls: Vec<Args>, deadline: Instant) -> Outcome {
        let (tx, rx) = tokio::sync::oneshot::channel();
        let done = move |outcome| {
            let _ = tx.send(outcome);
        };
        self.propose(calls, deadline, Box::new(done));
        rx.await.unwrap_or(Outcome::Unknown { index: None })
    }

    /// Proposes what another node forwarded to the leader of `term`.
    pub(in crate::raft) async fn propose_forwarded(&self, proposal: Proposal) -> Outcome {
        let Proposal { request, term, wait_ms, calls, authored } = proposal;
        tracing::debug!(node = %self.me(), group = %self.id, term, request = format_args!("{request:x}"), calls = calls.len(), "forwarded-here");
        let (tx, rx) = tokio::sync::oneshot::channel();
        let done = move |outcome| {
            let _ = tx.send(outcome);
        };
        let deadline = env::now() + Duration::from_millis(wait_ms);
        let submission = Submission::new(calls, deadline, Some(term), Box::new(done));
        self.proposer.submit(submission.authored(authored));
        rx.await.unwrap_or(Outcome::Unknown { index: None })
    }

    pub(in crate::raft) fn submit_sweep(
        &self,
        ranges: Vec<HashRange>,
        deadline: Instant,
        done: impl FnOnce(Option<u64>) + Send + 'static,
    ) {
        let on_outcome = move |outcome| {
            done(match outcome {
                Outcome::Applied { index, .. } => Some(index),
                _ => None,
            })
        };
        self.proposer.submit(Submission::sweep(ranges, deadline, Box::new(on_outcome)));
    }

    /// Has an entry marked, and says at which index it was applied.
    pub(in crate::raft) fn submit_mark(&self, deadline: Instant, done: impl FnOnce(Option<u64>) + Send + 'static) {
        let on_outcome = move |outcome| {
            done(match outcome {
                Outcome::Applied { index, .. } => Some(index),
                _ => None,
            })
        };
        self.proposer.submit(Submission::mark(deadline, Box::new(on_outcome)));
    }

    /// Why this node takes no writes at present, if it does not. The meta group must stay writable.
    pub(in crate::raft) fn refuses_writes(&self) -> Option<Refusal> {
        // The replies to writes would be computed from a state that is wrong.
        if self.fenced() {
            return Some(Refusal::Recovering);
        }
        let low = self.id != GroupId::META && self.around.disk_low.load(Ordering::Relaxed);
        low.then_some(Refusal::DiskFull)
    }

    /// Proposes a tick that names the ranges in which keys are due, one at a time.
    pub(super) fn sweep_due(self: &Arc<Self>) {
        // The first stamp of a term may have been made before the state had come as far as the log.
        let behind = self.leader_estimate() < self.replica.with(|state| state.keyspace.clock());
        let estimate = if behind { self.stamp() } else { self.leader_estimate() };
        let due = self.replica.with_mut(|state| match state.keyspace.next_deadline() {
            Some(deadline) if deadline <= estimate => state.keyspace.due_ranges(estimate, SWEEP_RANGES),
            _ => Vec::new(),
        });
        if due.is_empty() || self.sweeping.swap(true, Ordering::AcqRel) {
            return;
        }
        let group = self.clone();
        self.submit_sweep(due, env::now() + Duration::from_secs(1), move |_| {
            group.sweeping.store(false, Ordering::Release);
        });
    }

    pub(in crate::raft) fn room(&self) -> &Mutex<Room> {
        &self.room
    }

    pub(in crate::raft) fn reserve_room<'a>(
        &self,
        flight: (u64, u64, u64),
        calls: impl Iterator<Item = &'a Args>,
    ) -> Admission {
        let mut room = self.room.lock();
        self.replica.with_mut(|state| room.reserve(&mut state.keyspace, flight, calls))
    }

    /// Where this node does not lead, or no longer, it keeps nothing for choosing victims.
    pub(super) fn forget_accesses(&self) {
        let mut room = self.room.lock();
        if room.chooses() {
            self.replica.with_mut(|state| room.forget(&mut state.keyspace));
        }
    }

    /// What the cluster wants this group to hold, if that is dealt already, and in which form. Whoever leads the group puts
    /// it into its log, now or later.
    pub fn want(&self, limit: Option<Limit>, packing: Packing) {
        *self.wanted_terms.lock() = (limit, Some(packing));
    }

    /// Proposes the limit and the form that are wanted, and evictions while more is used than it allows; one entry at a time.
    pub(super) fn keep_terms(self: &Arc<Self>) {
        let (limit, packing) = *self.wanted_terms.lock();
        let (known, form, short) = {
            let room = self.room.lock();
            self.replica.with(|state| (state.keyspace.limit(), state.keyspace.packing(), room.short(&state.keyspace)))
        };
        let (limit, packing) = (limit.filter(|wanted| *wanted != known), packing.filter(|wanted| *wanted != form));
        if (limit.is_none() && packing.is_none() && !short) || self.making_room.swap(true, Ordering::AcqRel) {
            return;
        }
        let group = self.clone();
        let done = move |_| group.making_room.store(false, Ordering::Release);
        self.proposer.submit(Submission::terms(limit, packing, env::now() + Duration::from_secs(1), Box::new(done)));
    }
}
