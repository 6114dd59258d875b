//! Leave to read the local state, and reading it. The rounds that give leave where there is none yet are in `reads.rs`.

use super::{Core, Group};
use crate::env::{self, Instant};
use crate::raft::reads::{Freshness, NeedsTick, Permit};
use crate::state::View;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use std::sync::atomic::Ordering;
use tokio::sync::watch;

impl Group {
    pub(in crate::raft) fn ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) && !self.fenced()
    }

    pub(in crate::raft) fn note_fresh(&self, fresh: Freshness) {
        let mut known = self.fresh.lock();
        if known.is_none_or(|k| k.at < fresh.at) {
            *known = Some(fresh);
        }
    }

    /// The instant at which the state here was certainly the newest there was, as far as is known.
    pub(in crate::raft) fn fresh_at(&self) -> Option<Instant> {
        let core = self.core();
        let metrics = core.metrics.borrow_watched();
        if metrics.state == ServerState::Leader {
            if self.replica.applied_term() != metrics.current_term {
                return None;
            }
            // Until it has applied what followers may have shown, the state here is older than the leadership is sure.
            let acked = match Core::is_sole_voter(&metrics) {
                _ if self.replica.applied_index() < self.shown_index() => None,
                true => Some(env::now()),
                false => metrics.last_quorum_acked.map(|at| at.into_inner()),
            };
            return acked.max(self.fresh.lock().map(|f| f.at));
        }
        drop(metrics);
        self.fresh.lock().map(|f| f.at)
    }

    /// How old the state here may be; `u64::MAX` if nothing is known.
    pub(in crate::raft) fn age_ms(&self) -> u64 {
        self.fresh_at().map_or(u64::MAX, |at| at.elapsed().as_millis() as u64)
    }

    /// What a read at the leader sees at least: all that it acknowledged, and all that a follower may have shown. A follower
    /// may apply, and show, what it was told is committed before the leader has applied it itself.
    pub(in crate::raft) fn shown_index(&self) -> u64 {
        self.told.load(Ordering::SeqCst).max(self.replica.applied_index())
    }

    /// Leave to read by the lease once its index is applied, if this node has the lease now.
    pub(in crate::raft) fn lease_permit(&self) -> Option<Permit> {
        let now = env::now();
        let core = self.core.load();
        let core = core.as_ref().filter(|core| !core.dead.load(Ordering::Acquire))?;
        let metrics = core.metrics.borrow_watched();
        let term = metrics.current_term;
        let leads = metrics.state == ServerState::Leader
            && !self.fenced()
            && self.lease_off_term.load(Ordering::Acquire) < term
            && self.replica.applied_term() == term;
        if !leads {
            return None;
        }
        let held = Core::is_sole_voter(&metrics)
            || metrics.last_quorum_acked.is_some_and(|at| now < at.into_inner() + self.around.timers.lease());
        drop(metrics);
        held.then(|| Permit { estimate: Some(self.leader_estimate()), index: self.shown_index() })
    }

    /// The same for a linearizable read where this node is the only voter: it is its own quorum.
    pub(in crate::raft) fn sole_voter_permit(&self) -> Option<Permit> {
        let core = self.core.load();
        let core = core.as_ref().filter(|core| !core.dead.load(Ordering::Acquire))?;
        let metrics = core.metrics.borrow_watched();
        let sole = Core::is_sole_voter(&metrics) && metrics.state == ServerState::Leader && !self.fenced();
        let current = sole && self.replica.applied_term() == metrics.current_term;
        drop(metrics);
        current.then(|| Permit { estimate: Some(self.leader_estimate()), index: self.shown_index() })
    }

    /// Runs a read on the local state under its lock. Must be short.
    pub fn read<R>(&self, permit: &Permit, f: impl FnOnce(&View<'_>) -> R) -> Result<R, NeedsTick> {
        let wants_misses = self.replica.wants_misses();
        let (result, misses) = self.replica.with(|state| {
            // The state may have been loaded anew since leave was given; then it has to catch up first.
            if state.applied.map_or(0, |id| id.index()) < permit.index {
                return Err(NeedsTick);
            }
            let mut view = View::new(&state.keyspace, permit.estimate);
            if wants_misses {
                view = view.noting_misses();
            }
            let result = f(&view);
            if view.needs_tick() { Err(NeedsTick) } else { Ok((result, view.misses())) }
        })?;
        if !misses.is_empty() {
            self.around.watch.with(|hears| hears.missed(misses));
        }
        Ok(result)
    }

    /// The same for what looks at more than a view shows.
    pub(in crate::raft) fn read_state<R>(
        &self,
        permit: &Permit,
        f: impl FnOnce(&crate::state::Keyspace, &View<'_>) -> R,
    ) -> Result<R, NeedsTick> {
        self.replica.with(|state| {
            if state.applied.map_or(0, |id| id.index()) < permit.index {
                return Err(NeedsTick);
            }
            let view = View::new(&state.keyspace, permit.estimate);
            let result = f(&state.keyspace, &view);
            if view.needs_tick() { Err(NeedsTick) } else { Ok(result) }
        })
    }

    /// Looks at the replicated state as it is here, at no level: for INFO, metrics and the like.
    pub fn peek<R>(&self, f: impl FnOnce(&crate::state::Keyspace) -> R) -> R {
        self.replica.with(|state| f(&state.keyspace))
    }

    /// Index of the last applied entry, to wait on.
    pub fn watch_applied(&self) -> watch::Receiver<u64> {
        self.replica.applied()
    }
}
