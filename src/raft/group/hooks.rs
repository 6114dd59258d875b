//! What tests do to a group.

use super::{Group, Leadership};
use crate::env;
use crate::raft::Vote;
use crate::raft::wire::GroupTime;
use crate::types::{Level, NodeId};
use openraft::raft::AppendEntriesRequest;
use openraft::vote::RaftLeaderId;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// What tests of the doors do to a group, and what they count.
#[derive(Default)]
pub(super) struct Hooks {
    pub(super) withhold_leave: AtomicBool,
    pub(super) barriers: AtomicU64,
    pub(super) leader: Mutex<Option<NodeId>>,
    pub(super) proposals: Mutex<Vec<usize>>,
}

impl Group {
    /// Writes wait in the queue, as they do while leadership is handed over, or go on.
    pub(crate) fn hold_writes(&self, held: bool) {
        self.proposer.pause(held);
    }

    /// As if a follower had been told that the entry behind the last one is committed, before this node applies it.
    pub(crate) fn tell_ahead(&self) {
        self.told.fetch_max(self.replica.applied_index() + 1, Ordering::SeqCst);
    }

    /// From now on linearizable and lease reads have to wait for a round, as where no lease is in hand.
    pub(crate) fn withhold_leave(&self) {
        self.hooks.barriers.store(0, Ordering::SeqCst);
        self.hooks.withhold_leave.store(true, Ordering::SeqCst);
    }

    pub(in crate::raft) fn withholds_leave(&self, level: Level) -> bool {
        matches!(level, Level::Linearizable | Level::Lease) && self.hooks.withhold_leave.load(Ordering::SeqCst)
    }

    pub(in crate::raft) fn count_barrier(&self) {
        self.hooks.barriers.fetch_add(1, Ordering::SeqCst);
    }

    /// How often somebody waited for leave since it is withheld.
    pub(crate) fn barriers(&self) -> u64 {
        self.hooks.barriers.load(Ordering::SeqCst)
    }

    /// The doors believe that `leader` leads; the group itself knows better.
    pub(crate) fn show_leader(&self, leader: NodeId) {
        *self.hooks.leader.lock() = Some(leader);
    }

    /// The leader's estimate of the time jumps ahead, and dead keys are left to those who read them.
    pub(crate) fn pass_time(&self, passed: Duration) {
        self.sweeping.store(true, Ordering::Release);
        let (now, term) = (env::now(), self.leadership().expect("somebody leads").term);
        let time = self.clock.told(term, now).expect("a group that was written to has a clock");
        self.clock.observe(GroupTime { estimate: time.estimate + passed.as_millis() as u64, ..time }, term, now);
    }

    /// After a restart, a leader of an earlier term is heard first, whose time is so far ahead.
    pub(crate) async fn hear_an_old_leader(&self, ahead: Duration) {
        let term = self.leadership().expect("somebody leads").term - 1;
        let old = Leadership { leader: NodeId(9), term };
        let vote = Vote { leader_id: RaftLeaderId::new(term, old.leader), committed: true };
        let request = AppendEntriesRequest { vote, prev_log_id: None, entries: Vec::new(), leader_commit: None };
        let estimate = self.leader_estimate() + ahead.as_millis() as u64;
        self.clock.forget();
        let _ = self.on_append(request, Some(GroupTime { estimate, timeline: old })).await;
    }

    /// Ends openraft's part, as a fault of the disk or of the program would.
    pub(crate) async fn kill_core(&self) {
        let _ = self.raft().shutdown().await;
    }

    pub(crate) fn me_for_tests(&self) -> NodeId {
        self.me()
    }

    /// Changes this replica's state alone, as a fault in memory or in the program would.
    pub(crate) fn corrupt(&self, change: impl FnOnce(&mut crate::state::Keyspace)) {
        self.replica.corrupt(change);
    }

    /// How many calls each submission had, in order.
    pub(crate) fn proposals(&self) -> Vec<usize> {
        self.hooks.proposals.lock().clone()
    }
}
