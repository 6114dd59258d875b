//! What keeps a group going: due keys, limits, snapshots, and a core that died.

use super::{Core, Group};
use crate::env;
use crate::planted::{self, Bug};
use crate::raft::changes::Touch;
use crate::raft::snapshot::SnapshotRef;
use crate::raft::storage::{Storage, StorageError};
use crate::raft::wire::Lane;
use crate::raft::{LogId, SnapshotMeta};
use crate::types::NodeId;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often a group looks after itself: due keys, snapshots, a core that died.
pub(super) const CARE: Duration = Duration::from_millis(50);

/// Attempts of a core to start again follow each other at least this far apart.
const RESTART_PAUSE: Duration = Duration::from_millis(500);

impl Group {
    pub(super) async fn care(self: Arc<Self>) {
        let mut touch = Touch::default();
        while !self.closed() {
            env::sleep(CARE).await;
            touch.look(&self);
            let core = self.core();
            let leads = {
                let m = core.metrics.borrow_watched();
                m.state == ServerState::Leader && self.replica.applied_term() == m.current_term
            };
            if !core.runs() && !self.closed() {
                self.restart_core().await;
                continue;
            }
            self.tend_waiters();
            if leads {
                self.ready.store(true, Ordering::Release);
                self.sweep_due();
                self.keep_terms();
                self.verify_when_due();
            } else {
                if planted::is(Bug::FollowerSweeps) {
                    self.sweep_here();
                }
                self.forget_accesses();
            }
            if !self.fenced() {
                self.snapshot_when_due(&core).await;
                self.cut_log(&core).await;
            }
        }
    }

    /// Removes what is dead by this replica's own time ([`Bug::FollowerSweeps`]).
    fn sweep_here(&self) {
        let Some(now) = self.estimate() else { return };
        self.replica.with_mut(|state| {
            let due = state.keyspace.due_ranges(now, usize::MAX);
            state.keyspace.at_clock(now, |keyspace| keyspace.sweep(&due));
        });
    }

    async fn snapshot_when_due(&self, core: &Core) {
        let appended = core.log.appended_bytes();
        let last = *self.snapshot_at.lock();
        if last.is_some_and(|(at, _)| at.elapsed() < self.around.snapshot_min_interval) {
            return;
        }
        if appended.saturating_sub(last.map_or(0, |(_, bytes)| bytes)) >= self.snapshot_growth() {
            *self.snapshot_at.lock() = Some((env::now(), appended));
            if core.raft.trigger().snapshot().await.is_err() {
                tracing::warn!(group = %self.id, "no snapshot: the core has stopped");
            }
        }
    }

    /// Bytes of the log after which a snapshot is due. A state that is larger makes snapshots rarer, so that they never cost more
    /// than the log.
    fn snapshot_growth(&self) -> u64 {
        let used = self.replica.with(|state| state.keyspace.used_bytes());
        self.around.snapshot_log_bytes.max(used)
    }

    /// With each new snapshot the log is cut behind the one before it, to as many bytes as make a snapshot due: whoever is a
    /// little behind is sent less than a snapshot, and whoever was sent the one before and installs it still goes on from there by
    /// log, or would be sent one snapshot after the other for as long as much is written. openraft counts entries, of
    /// which each may be large.
    async fn cut_log(&self, core: &Core) {
        let snapshot = core.metrics.borrow_watched().snapshot.map_or(0, |last| last.index());
        let before = self.cut_behind.swap(snapshot, Ordering::Relaxed);
        if before == snapshot {
            return;
        }
        let kept_from = core.log.begin_of(self.snapshot_growth(), before);
        if kept_from > 0 && core.raft.trigger().purge_log(kept_from - 1).await.is_err() {
            tracing::warn!(group = %self.id, "the log is not cut: the core has stopped");
        }
    }

    async fn restart_core(self: &Arc<Self>) {
        let reason = self.core().metrics.borrow_watched().running_state.clone();
        tracing::error!(node = %self.me(), group = %self.id, reason = ?reason, "group-restarts: its core died; it starts again from disk");
        let _one_at_a_time = self.restarting.lock().await;
        if self.core().runs() || self.closed() {
            return;
        }
        self.stop_core().await;
        env::sleep(RESTART_PAUSE).await;
        if self.closed() {
            return;
        }
        if let Err(e) = self.start_core().await {
            tracing::error!(node = %self.me(), group = %self.id, error = %e, "group-cannot-restart");
        }
    }

    async fn stop_core(&self) {
        self.ready.store(false, Ordering::Release);
        self.note_leadership(None);
        let _ = self.core().raft.shutdown().await;
    }

    /// Puts another snapshot in the place of the group's own, and starts the core on it and the log behind it.
    pub(in crate::raft) async fn replace_core(
        self: &Arc<Self>,
        meta: SnapshotMeta,
        snapshot: SnapshotRef,
    ) -> Result<(), StorageError> {
        let _one_at_a_time = self.restarting.lock().await;
        if self.closed() {
            return Err(StorageError::Stopped);
        }
        self.stop_core().await;
        let published = self.snapshots().publish_instead(snapshot, meta).await;
        // Whatever came of that, the group goes on.
        self.start_core().await?;
        published
    }

    pub(in crate::raft) fn stop_campaigning(&self) {
        self.core().raft.runtime_config().elect(false);
    }

    pub(in crate::raft) fn verify_interval(&self) -> Duration {
        self.around.verify_interval
    }

    pub(in crate::raft) fn storage(&self) -> &Storage {
        &self.around.storage
    }

    /// Voters and learners, as this replica knows them.
    pub(in crate::raft) fn members(&self) -> (Vec<NodeId>, Vec<NodeId>) {
        let core = self.core();
        let metrics = core.metrics.borrow_watched();
        let learners = metrics.membership_config.membership().learner_ids().collect();
        (metrics.membership_config.voter_ids().collect(), learners)
    }

    /// The entry up to which the log is purged.
    pub(in crate::raft) fn purged(&self) -> Option<LogId> {
        self.core().metrics.borrow_watched().purged
    }

    /// Whether the voters in reach are a quorum, `node` not counted.
    pub(in crate::raft) fn quorum_without(&self, node: NodeId) -> bool {
        let voters = self.core().voters();
        let there = |v: &NodeId| *v == self.me() || self.around.peers.link(*v, Lane::Raft(self.worker)).up();
        voters.iter().filter(|v| **v != node && there(v)).count() > voters.len() / 2
    }
}
