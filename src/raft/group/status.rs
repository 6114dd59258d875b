//! What operators ask of a group, and what they are told.

use super::Group;
use crate::env;
use crate::raft::LogId;
use crate::raft::backup::Export;
use crate::raft::storage::StorageError;
use crate::types::{GroupId, Millis, NodeId};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::InitializeError;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long a snapshot may take that was asked for.
const SNAPSHOT: Duration = Duration::from_secs(600);

/// How often such a snapshot is asked for again.
const SNAPSHOT_AGAIN: Duration = Duration::from_millis(500);

/// Why an operator's wish was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    #[error("this node does not lead group {group}; the leader is {}", leader.map_or("not known".to_owned(), |l| format!("node {l}")))]
    NotLeader { group: GroupId, leader: Option<NodeId> },
    #[error("node {node} is not a voter of group {group}")]
    NotAVoter { group: GroupId, node: NodeId },
    #[error("node {node} keeps silent for a moment after its restart and cannot lead group {group} yet")]
    Quarantined { group: GroupId, node: NodeId },
    #[error("node {node} has not caught up with group {group} or is not in reach")]
    NotCaughtUp { group: GroupId, node: NodeId },
    #[error("it did not happen in time: {0}")]
    Timeout(&'static str),
    #[error("{0}")]
    Failed(String),
}

/// What a node knows of one of its groups.
#[derive(Debug, Clone, Default, Serialize)]
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
    /// 0: none.
    pub limit_bytes: u64,
    /// Keys evicted here since this replica began.
    pub evicted: u64,
    /// Keys swept here since this replica began, because they were dead.
    pub expired: u64,
    /// Changes of the state since its newest snapshot.
    pub unsaved: u64,
    pub clock_ms: Millis,
    pub ready: bool,
    pub proposed_entries: u64,
    pub proposed_calls: u64,
    pub read_rounds: u64,
    /// Leader only: how long ago a quorum last confirmed it.
    pub quorum_age_ms: Option<u64>,
    /// This replica differed from the majority: it answers nothing until it is rebuilt.
    pub fenced: bool,
    /// Log index and Unix time of the last verification led here in which all replicas agreed; 0 for none.
    pub verified: u64,
    pub verified_ms: u64,
    /// Verifications led here, those of them that found a difference, and how often this replica was rebuilt.
    pub verifications: u64,
    pub differences: u64,
    pub rebuilt: u64,
}

impl Group {
    /// Gives a group that has no log yet its first members. Every member may say it; all must say the same.
    pub(in crate::raft) async fn initialize(&self, members: &BTreeSet<NodeId>) -> Result<(), AdminError> {
        let members: BTreeMap<_, _> = members.iter().map(|m| (*m, openraft::impls::EmptyNode {})).collect();
        match self.raft().initialize(members).await {
            Ok(()) => Ok(()),
            Err(openraft::errors::RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(e) => Err(AdminError::Failed(e.to_string())),
        }
    }

    /// Whether the group has a log on this node.
    pub(in crate::raft) fn has_log(&self) -> bool {
        let core = self.core();
        core.log.last().is_some() || core.log.vote().is_some()
    }

    /// Has a snapshot made of everything applied now. Returns the index that it covers.
    pub async fn snapshot(&self) -> Result<u64, AdminError> {
        let wanted = self.replica.applied_index();
        let deadline = env::now() + SNAPSHOT;
        while env::now() < deadline {
            let core = self.core();
            core.raft.trigger().snapshot().await.map_err(|e| AdminError::Failed(e.to_string()))?;
            let reached = core.raft.wait(Some(SNAPSHOT_AGAIN));
            let reached = reached.metrics(|m| m.snapshot.is_some_and(|id| id.index() >= wanted), "snapshot").await;
            if let Ok(metrics) = reached {
                return Ok(metrics.snapshot.map_or(0, |id| id.index()));
            }
            // One that was under way is of an earlier index, and a wish that was declined is not remembered.
        }
        Err(AdminError::Timeout("the snapshot was not finished"))
    }

    /// A snapshot of everything applied now, to be carried elsewhere.
    pub async fn export(&self) -> Result<Export, AdminError> {
        self.snapshot().await?;
        let failed = |e: StorageError| AdminError::Failed(e.to_string());
        let export = Export::open(self.snapshots()).map_err(failed)?;
        export.ok_or_else(|| AdminError::Failed("nothing has been applied yet".to_owned()))
    }

    /// How often its core was started since the process began: what it had applied may be less after each start. None while
    /// there is no core that runs.
    pub fn starts(&self) -> Option<u64> {
        self.core().runs().then(|| self.replica.starts())
    }

    /// Hash of the whole replicated state and the index at which it was taken: equal on all replicas.
    pub fn state_hash(&self) -> (u64, u128) {
        self.replica.with(|state| (state.applied.map_or(0, |id| id.index()), state.keyspace.state_hash()))
    }

    /// How long ago a majority last confirmed this leader. None: it does not lead, or votes alone and is its own majority, whom
    /// nobody confirms while nothing is written.
    pub fn unconfirmed_for(&self) -> Option<Duration> {
        if !self.is_leader() {
            return None;
        }
        let core = self.core();
        let metrics = core.metrics.borrow_watched();
        let several = metrics.membership_config.voter_ids().nth(1).is_some();
        metrics.last_quorum_acked.filter(|_| several).map(|at| at.into_inner().elapsed())
    }

    /// What this node knows of the group.
    pub fn status(&self) -> GroupStatus {
        let core = self.core();
        let runs = core.runs();
        let metrics = core.metrics.borrow_watched();
        let index = |id: &Option<LogId>| id.as_ref().map_or(0, |id| id.index());
        let voters: Vec<NodeId> = metrics.membership_config.voter_ids().collect();
        let learners: Vec<NodeId> = metrics.membership_config.membership().learner_ids().collect();
        let mut status = GroupStatus {
            id: self.id,
            leader: metrics.current_leader.filter(|_| runs),
            term: metrics.current_term,
            voters,
            learners,
            last_log: metrics.last_log_index.unwrap_or(0),
            committed: index(&metrics.cluster_committed).max(index(&metrics.local_committed)),
            applied: 0,
            snapshot: index(&metrics.snapshot),
            purged: index(&metrics.purged),
            ready: self.ready(),
            proposed_entries: self.proposer.entries.load(Ordering::Relaxed),
            proposed_calls: self.proposer.calls.load(Ordering::Relaxed),
            read_rounds: self.rounds.load(Ordering::Relaxed),
            quorum_age_ms: metrics.last_quorum_acked.map(|at| at.into_inner().elapsed().as_millis() as u64),
            ..Default::default()
        };
        drop(metrics);
        status.fenced = self.fenced();
        status.verified = self.verifier.index.load(Ordering::Relaxed);
        status.verified_ms = self.verifier.at_ms.load(Ordering::Relaxed);
        status.verifications = self.verifier.rounds.load(Ordering::Relaxed);
        status.differences = self.verifier.differences.load(Ordering::Relaxed);
        status.rebuilt = self.verifier.rebuilt.load(Ordering::Relaxed);
        self.replica.with(|state| {
            status.applied = state.applied.map_or(0, |id| id.index());
            status.keys = state.keyspace.len();
            status.expires = state.keyspace.expires();
            status.used_bytes = state.keyspace.used_bytes();
            status.limit_bytes = state.keyspace.limit().bytes;
            status.evicted = state.keyspace.evicted();
            status.expired = state.keyspace.expired();
            status.unsaved = state.unsaved();
            status.clock_ms = state.keyspace.clock();
        });
        status
    }

    /// Whether nothing waits and nothing is under way.
    pub fn idle(&self) -> bool {
        self.proposer.idle()
    }

    /// Stops the group. What waits is refused.
    pub(crate) async fn stop(&self) {
        self.closed.store(true, Ordering::Release);
        self.proposer.close(self.farewell());
        self.wake_waiters();
        let _ = self.core().raft.shutdown().await;
    }

    /// The same, and no core is started any more, by whoever was about to.
    pub(in crate::raft) async fn stop_for_good(&self) {
        self.gone.store(true, Ordering::Release);
        self.closed.store(true, Ordering::Release);
        let _nobody_starts_it = self.restarting.lock().await;
        self.stop().await;
        self.ready.store(false, Ordering::Release);
    }
}
