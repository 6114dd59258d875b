//! One replica of one group on this node: what the doors call, and what keeps it going.
//!
//! A group is pinned to a worker: its openraft core, proposer and rounds run there. Reads run on the reader's own thread.
//!
//! Invariants:
//! - from every start with a vote on disk until [`Timers::quarantine`] has passed, the replica neither grants votes or
//!   pre-votes nor campaigns: openraft keeps the promise behind a lease in memory only;
//! - no read of any level is answered after a start before the replica has applied what a current leader had committed;
//! - while leadership is handed over nothing is proposed, and the old leader serves no lease read in that term again;
//! - a core that dies is started again from disk, which is a start like any other, quarantine included.

use super::appends::WantedCommit;
use super::backup::Export;
use super::changes::{Touch, Watch};
use super::clock::{ALARM_MS, GroupClock};
use super::log_store::LogStore;
use super::machine::{Machine, Replica};
use super::network::NetworkFactory;
use super::peers::Peers;
use super::proposer::{self, OnOutcome, Outcome, Proposer, Refusal, Submission};
use super::reads::{Freshness, Gate, LEASE_SHARE, NeedsTick, Permit, Round};
use super::room::{Admission, Room};
use super::snapshot::{SnapshotRef, SnapshotStore};
use super::storage::{Storage, StorageError};
use super::verify::{self, Verifier};
use super::wire::{self, Lane, Method, Proposal, ReadIndex};
use super::{LogId, Raft, SnapshotMeta, Types};
use crate::env::{self, Instant};
use crate::resp::Args;
use crate::state::eviction::Limit;
use crate::state::{HashRange, Precision, View};
#[cfg(test)]
use crate::types::Level;
use crate::types::{GroupId, Millis, NodeId};
use arc_swap::{ArcSwap, ArcSwapOption};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::InitializeError;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, TransferLeaderResponse, VoteRequest,
    VoteResponse,
};
use openraft::{RaftMetrics, ServerState, SnapshotPolicy};
use parking_lot::Mutex;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// How often a group looks after itself: due keys, snapshots, a core that died.
const CARE: Duration = Duration::from_millis(50);
/// Ranges of slots that one tick sweeps, at most.
const SWEEP_RANGES: usize = 64;
/// How long a snapshot may take that was asked for.
const SNAPSHOT: Duration = Duration::from_secs(600);
/// How often such a snapshot is asked for again.
const SNAPSHOT_AGAIN: Duration = Duration::from_millis(500);
/// How long leadership may take to move before it is settled by an election.
const TRANSFER: Duration = Duration::from_millis(1500);
/// Between campaigns of the nodes of a group that all end their quarantine at once.
const STAGGER: Duration = Duration::from_millis(80);
/// Attempts of a core to start again follow each other at least this far apart.
const RESTART_PAUSE: Duration = Duration::from_millis(500);

/// The timers of Raft.
#[derive(Debug, Clone, Copy)]
pub struct Timers {
    pub heartbeat: Duration,
    pub election_min: Duration,
    /// Also the lease: what voters promise a leader.
    pub election_max: Duration,
    /// How far clocks may drift, in millionths.
    pub drift_ppm: u32,
}

impl Default for Timers {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Timers { heartbeat: ms(100), election_min: ms(300), election_max: ms(600), drift_ppm: 50_000 }
    }
}

impl Timers {
    /// What a voter promises a leader.
    pub fn promise(&self) -> Duration {
        self.election_max
    }

    /// How long after a quorum's confirmation was *sent* the leader may serve lease reads.
    pub fn lease(&self) -> Duration {
        self.election_max * LEASE_SHARE / 100
    }

    /// How long a restarted replica keeps silent: one promise and what clocks may drift meanwhile.
    pub fn quarantine(&self) -> Duration {
        self.promise() + self.promise() * self.drift_ppm / 1_000_000
    }
}

/// What all groups of a node share.
pub(super) struct Surroundings {
    pub me: NodeId,
    pub storage: Storage,
    pub peers: Arc<Peers>,
    pub timers: Timers,
    /// Entries that stay in the log behind a snapshot, for followers that are a little behind.
    pub log_lag: u64,
    /// Log bytes after which a snapshot is made.
    pub snapshot_log_bytes: u64,
    /// No snapshot is made sooner than this after the last one, unless it is asked for.
    pub snapshot_min_interval: Duration,
    /// Answer eventual reads after a restart before a leader was heard.
    pub eventual_without_leader: bool,
    /// How often replicas compare their states; zero: when asked only.
    pub verify_interval: Duration,
    /// Of the filters that say of most absent keys that they are.
    pub filter_precision: Precision,
    /// Raised while the disk is nearly full.
    pub disk_low: AtomicBool,
    /// Who wants to know what entries do.
    pub watch: Arc<Watch>,
}

/// Who leads, and in which term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leadership {
    pub leader: NodeId,
    pub term: u64,
}

/// openraft's part of a group; replaced when it dies.
pub(super) struct Core {
    raft: Raft,
    metrics: openraft::alias::WatchReceiverOf<Types, RaftMetrics<Types>>,
    log: LogStore,
    snapshots: SnapshotStore,
    quarantine_until: Instant,
    /// Raised when openraft's task is gone. After a panic its last metrics still look well.
    dead: AtomicBool,
}

/// A group's replica on this node.
pub struct Group {
    id: GroupId,
    worker: u16,
    handle: Handle,
    around: Arc<Surroundings>,
    replica: Arc<Replica>,
    clock: Arc<GroupClock>,
    core: ArcSwapOption<Core>,
    pub(super) proposer: Proposer,
    room: Mutex<Room>,
    /// What the cluster wants this group to hold, if it is known.
    wanted_limit: Mutex<Option<Limit>>,
    making_room: AtomicBool,
    gates: [Gate; 3],
    leadership: watch::Sender<Option<Leadership>>,
    ready: AtomicBool,
    fresh: Mutex<Option<Freshness>>,
    /// The term in which leadership was offered away: no lease reads in it any more.
    lease_off_term: Arc<AtomicU64>,
    /// The commit that reads at followers wait for.
    wanted: Arc<WantedCommit>,
    transferring: tokio::sync::Mutex<()>,
    /// Held while the core is replaced.
    restarting: tokio::sync::Mutex<()>,
    sweeping: AtomicBool,
    closed: AtomicBool,
    rounds: AtomicU64,
    /// When the last snapshot was begun, and the bytes that the log had seen by then.
    snapshot_at: Mutex<Option<(Instant, u64)>>,
    wall_alarm: AtomicBool,
    pub(super) verifier: Verifier,
    #[cfg(test)]
    hooks: Hooks,
}

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
    pub(super) fn new(id: GroupId, worker: u16, handle: Handle, around: Arc<Surroundings>) -> Arc<Group> {
        let replica = Arc::new(Replica::new(hash_seed(id), around.filter_precision));
        if id != GroupId::META {
            replica.report_to(id, around.watch.clone());
        }
        Arc::new(Group {
            id,
            worker,
            handle,
            replica,
            around,
            clock: Arc::default(),
            core: ArcSwapOption::empty(),
            proposer: Proposer::default(),
            room: Mutex::default(),
            wanted_limit: Mutex::new(None),
            making_room: AtomicBool::new(false),
            gates: Default::default(),
            leadership: watch::Sender::new(None),
            ready: AtomicBool::new(false),
            fresh: Mutex::new(None),
            lease_off_term: Arc::default(),
            wanted: Arc::default(),
            transferring: tokio::sync::Mutex::new(()),
            restarting: tokio::sync::Mutex::new(()),
            sweeping: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            rounds: AtomicU64::new(0),
            snapshot_at: Mutex::new(None),
            wall_alarm: AtomicBool::new(false),
            verifier: Verifier::default(),
            #[cfg(test)]
            hooks: Hooks::default(),
        })
    }

    /// Opens what is on disk and starts everything that runs for the group. Blocks while it loads.
    pub(super) fn start(self: &Arc<Self>) -> Result<(), StorageError> {
        self.start_core()?;
        self.spawn(proposer::run(self.clone()));
        self.spawn(self.clone().care());
        if self.fenced() {
            tracing::error!(node = %self.me(), group = %self.id, "replica-fenced: it was when the node stopped");
            self.spawn(self.clone().rebuild());
        }
        Ok(())
    }

    /// Loads log and snapshot and starts an openraft core on them, in quarantine if there is a vote.
    fn start_core(self: &Arc<Self>) -> Result<(), StorageError> {
        // One for the group's life: its numbers must not be given out twice.
        let known = self.core.load().as_ref().map(|core| core.snapshots.clone());
        let snapshots = match known {
            Some(known) => known,
            None => SnapshotStore::open(&self.around.storage, self.id)?,
        };
        // What an older core gave to the writer is on disk before the log is read.
        self.around.storage.settle()?;
        self.ready.store(false, Ordering::Release);
        *self.fresh.lock() = None;
        *self.snapshot_at.lock() = None;
        let log = LogStore::open(&self.around.storage, self.id)?;
        if verify::fenced_on_disk(&self.around.storage, self.id)? {
            self.verifier.fenced.store(true, Ordering::Release);
        }
        self.replica.replays_to(log.last().map_or(0, |id| id.index()));
        self.ready.store(self.around.eventual_without_leader, Ordering::Release);
        let machine = Machine::open(self.replica.clone(), snapshots.clone())?;
        let timers = self.around.timers;
        let quarantined = log.vote().is_some();
        let quarantine_until = if quarantined { env::now() + timers.quarantine() } else { env::now() };
        let config = Arc::new(self.config(!quarantined));
        let network = NetworkFactory::new(
            self.id,
            self.worker,
            self.around.peers.clone(),
            self.clock.clone(),
            snapshots.clone(),
            self.lease_off_term.clone(),
            self.wanted.clone(),
        );
        let (me, log_for_raft) = (self.around.me, log.clone());
        let (tx, rx) = std::sync::mpsc::channel();
        self.handle.spawn(async move {
            let raft = Raft::new(me, config, network, log_for_raft, machine).await;
            let _ = tx.send(raft);
        });
        let raft = rx.recv().map_err(|_| StorageError::Stopped)?;
        let raft = raft.map_err(|e| StorageError::Io("raft".into(), std::io::Error::other(e)))?;
        let core = Arc::new(Core {
            metrics: raft.metrics(),
            raft,
            log,
            snapshots,
            quarantine_until,
            dead: AtomicBool::new(false),
        });
        self.core.store(Some(core.clone()));
        self.spawn(self.clone().watch_leadership(core.clone()));
        if quarantined {
            self.spawn(self.clone().end_quarantine(core));
        }
        Ok(())
    }

    fn config(&self, elect: bool) -> openraft::Config {
        let timers = &self.around.timers;
        let ms = |d: Duration| d.as_millis() as u64;
        let config = openraft::Config {
            cluster_name: format!("group-{}", self.id),
            heartbeat_interval: ms(timers.heartbeat),
            heartbeat_min_interval: Some(ms(timers.heartbeat) / 2),
            election_timeout_min: ms(timers.election_min),
            election_timeout_max: ms(timers.election_max),
            install_snapshot_timeout: 600_000,
            max_payload_entries: 256,
            replication_lag_threshold: u64::MAX / 2,
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: self.around.log_lag,
            purge_batch_size: 1,
            enable_elect: elect,
            enable_pre_vote: Some(true),
            quorum_loss_probe_interval: Some(2 * ms(timers.election_max)),
            backoff: "20ms 40ms 80ms ..200ms".to_owned(),
            enable_leader_restore: Some(false),
            allow_log_reversion: Some(false),
            ..Default::default()
        };
        config.validate().expect("the configuration checked its timers")
    }

    /// The group's identity.
    pub fn id(&self) -> GroupId {
        self.id
    }

    pub(super) fn me(&self) -> NodeId {
        self.around.me
    }

    pub(super) fn worker(&self) -> u16 {
        self.worker
    }

    pub(super) fn peers(&self) -> &Arc<Peers> {
        &self.around.peers
    }

    pub(super) fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }

    pub(super) fn gate(&self, round: Round) -> &Gate {
        &self.gates[round as usize]
    }

    /// What a voter promises a leader: for so long a leader may be silent and still lead.
    pub(super) fn promise(&self) -> Duration {
        self.around.timers.promise()
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(task);
    }

    fn core(&self) -> Arc<Core> {
        self.core.load_full().expect("a group is reachable only after its core was started")
    }

    pub(super) fn raft(&self) -> Raft {
        self.core().raft.clone()
    }

    /// The group's snapshots, for one that is received.
    pub(super) fn snapshots(&self) -> SnapshotStore {
        self.core().snapshots.clone()
    }

    pub(super) fn closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(super) fn count_round(&self) {
        self.rounds.fetch_add(1, Ordering::Relaxed);
    }

    // --- who leads ---

    pub(super) fn leadership(&self) -> Option<Leadership> {
        *self.leadership.borrow()
    }

    /// Returns when who leads has changed since this was called.
    pub(super) async fn leadership_changed(&self) {
        let _ = self.leadership.subscribe().changed().await;
    }

    /// Returns when somebody else leads, or nobody, or in another term.
    pub(super) async fn leadership_other_than(&self, known: Leadership) {
        let _ = self.leadership.subscribe().wait_for(|now| *now != Some(known)).await;
    }

    /// The leader as far as this node knows.
    pub fn leader(&self) -> Option<NodeId> {
        #[cfg(test)]
        if let Some(shown) = *self.hooks.leader.lock() {
            return Some(shown);
        }
        self.leadership().map(|l| l.leader)
    }

    /// Whether this node leads the group, as far as it knows.
    pub fn is_leader(&self) -> bool {
        self.leader() == Some(self.me())
    }

    async fn watch_leadership(self: Arc<Self>, core: Arc<Core>) {
        let mut metrics = core.raft.server_metrics();
        loop {
            let now = {
                let m = metrics.borrow_watched();
                m.current_leader.map(|leader| Leadership { leader, term: m.vote.leader_id.term })
            };
            if let Some(l) = now.filter(|l| l.leader == self.me()) {
                self.replica.note_led(l.term);
            }
            if self.leadership.send_replace(now) != now {
                match now {
                    Some(l) => {
                        tracing::info!(node = %self.me(), group = %self.id, term = l.term, leader = %l.leader, "leader-changed")
                    }
                    None => tracing::info!(node = %self.me(), group = %self.id, "leader-lost"),
                }
            }
            if metrics.changed().await.is_err() {
                core.dead.store(true, Ordering::Release);
                return;
            }
        }
    }

    async fn end_quarantine(self: Arc<Self>, core: Arc<Core>) {
        let position = core.log_position_of(self.me());
        let turn = (position + self.id.0 as usize) % core.voters().len().max(1);
        env::sleep_until(core.quarantine_until + STAGGER * turn as u32).await;
        while self.fenced() {
            if self.closed() {
                return;
            }
            env::sleep(CARE).await;
        }
        core.raft.runtime_config().elect(true);
        let silent = core.metrics.borrow_watched().current_leader.is_none();
        if silent && core.raft.trigger().elect(true).await.is_err() {
            tracing::warn!(group = %self.id, "the core had stopped before its quarantine ended");
        }
    }

    // --- time ---

    /// The stamp for an entry that is proposed now.
    pub(super) fn stamp(&self) -> Millis {
        let stored = self.replica.with(|state| state.keyspace.clock());
        let wall = env::wall_ms();
        let stamp = self.clock.stamp(env::now(), wall, || self.median_wall(wall), stored);
        let off = stamp.abs_diff(wall) > ALARM_MS;
        if self.wall_alarm.swap(off, Ordering::Relaxed) != off && off {
            tracing::error!(node = %self.me(), group = %self.id, ahead_ms = wall as i64 - stamp as i64,
                "wall-clock-disagrees: this node's wall clock is far from the group's; keys expire by the group's");
        }
        stamp
    }

    /// The group's time as this replica estimates it.
    pub(super) fn estimate(&self) -> Option<Millis> {
        self.clock.estimate(env::now())
    }

    /// The same where this node leads: a leader that has not stamped anything yet does so in thought.
    pub(super) fn leader_estimate(&self) -> Millis {
        self.estimate().unwrap_or_else(|| self.stamp())
    }

    fn median_wall(&self, wall: Millis) -> Millis {
        let voters = self.core().voters();
        let others = voters.iter().filter(|v| **v != self.me());
        let mut offsets: Vec<i64> = others.filter_map(|v| self.around.peers.wall_offset_ms(*v)).collect();
        offsets.push(0);
        offsets.sort_unstable();
        wall.saturating_add_signed(offsets[(offsets.len() - 1) / 2])
    }

    // --- reads ---

    pub(super) fn ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) && !self.fenced()
    }

    pub(super) fn note_fresh(&self, fresh: Freshness) {
        let mut known = self.fresh.lock();
        if known.is_none_or(|k| k.at() < fresh.at()) {
            *known = Some(fresh);
        }
    }

    /// The instant at which the state here was certainly the newest there was, as far as is known.
    pub(super) fn fresh_at(&self) -> Option<Instant> {
        let core = self.core();
        let metrics = core.metrics.borrow_watched();
        if metrics.state == ServerState::Leader {
            if self.replica.applied_term() != metrics.current_term {
                return None;
            }
            return match core.voters_in(&metrics) {
                1 => Some(env::now()),
                _ => metrics.last_quorum_acked.map(|at| at.into_inner()),
            };
        }
        drop(metrics);
        self.fresh.lock().map(|f| f.at())
    }

    /// How old the state here may be; `u64::MAX` if nothing is known.
    pub(super) fn age_ms(&self) -> u64 {
        self.fresh_at().map_or(u64::MAX, |at| at.elapsed().as_millis() as u64)
    }

    /// Leave to read by the lease, if this node has it now.
    pub(super) fn lease_permit(&self) -> Option<Permit> {
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
        let held = core.voters_in(&metrics) == 1
            || metrics.last_quorum_acked.is_some_and(|at| now < at.into_inner() + self.around.timers.lease());
        drop(metrics);
        held.then(|| Permit { estimate: Some(self.leader_estimate()), index: self.replica.applied_index() })
    }

    /// Leave for a linearizable read where this node is the only voter: it is its own quorum.
    pub(super) fn sole_voter_permit(&self) -> Option<Permit> {
        let core = self.core.load();
        let core = core.as_ref().filter(|core| !core.dead.load(Ordering::Acquire))?;
        let metrics = core.metrics.borrow_watched();
        let sole = core.voters_in(&metrics) == 1 && metrics.state == ServerState::Leader && !self.fenced();
        let current = sole && self.replica.applied_term() == metrics.current_term;
        drop(metrics);
        current.then(|| Permit { estimate: Some(self.leader_estimate()), index: self.replica.applied_index() })
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

    /// Looks at the replicated state as it is here, at no level: for INFO, metrics and the like.
    pub fn peek<R>(&self, f: impl FnOnce(&crate::state::Keyspace) -> R) -> R {
        self.replica.with(|state| f(&state.keyspace))
    }

    /// Index of the last applied entry, to wait on.
    pub fn watch_applied(&self) -> watch::Receiver<u64> {
        self.replica.applied()
    }

    // --- writes ---

    /// Queues calls in order. `done` runs exactly once, on any thread, and must be quick. Commands find the leader
    /// wherever it is and are tried again inside as long as they are certainly not applied, until the deadline.
    pub fn propose(&self, calls: Vec<Args>, deadline: Instant, done: OnOutcome) {
        #[cfg(test)]
        self.hooks.proposals.lock().push(calls.len());
        self.proposer.submit(Submission::new(calls, deadline, None, done));
    }

    /// The same, waiting for the outcome.
    pub async fn propose_and_wait(&self, calls: Vec<Args>, deadline: Instant) -> Outcome {
        let (tx, rx) = tokio::sync::oneshot::channel();
        let done = move |outcome| {
            let _ = tx.send(outcome);
        };
        self.propose(calls, deadline, Box::new(done));
        rx.await.unwrap_or(Outcome::Unknown { index: None })
    }

    /// Proposes what another node forwarded to the leader of `term`.
    pub(super) async fn propose_forwarded(&self, proposal: Proposal) -> Outcome {
        let Proposal { request, term, wait_ms, calls } = proposal;
        tracing::debug!(node = %self.me(), group = %self.id, term, request = format_args!("{request:x}"), calls = calls.len(), "forwarded-here");
        let (tx, rx) = tokio::sync::oneshot::channel();
        let done = move |outcome| {
            let _ = tx.send(outcome);
        };
        self.proposer.submit(Submission::new(
            calls,
            env::now() + Duration::from_millis(wait_ms),
            Some(term),
            Box::new(done),
        ));
        rx.await.unwrap_or(Outcome::Unknown { index: None })
    }

    pub(super) fn submit_sweep(
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

    /// Why this node takes no writes at present, if it does not. The meta group must stay writable.
    pub(super) fn refuses_writes(&self) -> Option<Refusal> {
        // The replies to writes would be computed from a state that is wrong.
        if self.fenced() {
            return Some(Refusal::Recovering);
        }
        let low = self.id != GroupId::META && self.around.disk_low.load(Ordering::Relaxed);
        low.then_some(Refusal::DiskFull)
    }

    // --- what keeps it going ---

    async fn care(self: Arc<Self>) {
        let mut touch = Touch::default();
        while !self.closed() {
            env::sleep(CARE).await;
            touch.look(&self);
            let core = self.core();
            let (running, leads) = {
                let m = core.metrics.borrow_watched();
                (
                    m.running_state.is_ok() && !core.dead.load(Ordering::Acquire),
                    m.state == ServerState::Leader && self.replica.applied_term() == m.current_term,
                )
            };
            if !running && !self.closed() {
                self.restart_core().await;
                continue;
            }
            if leads {
                self.ready.store(true, Ordering::Release);
                self.sweep_due();
                self.keep_limit();
                self.verify_when_due();
            } else {
                self.forget_accesses();
            }
            if !self.fenced() {
                self.snapshot_when_due(&core).await;
            }
        }
    }

    /// Proposes a tick that names the ranges in which keys are due, one at a time.
    fn sweep_due(self: &Arc<Self>) {
        let estimate = self.leader_estimate();
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

    // --- memory ---

    pub(super) fn room(&self) -> &Mutex<Room> {
        &self.room
    }

    pub(super) fn reserve_room<'a>(&self, flight: (u64, u64, u64), calls: impl Iterator<Item = &'a Args>) -> Admission {
        let mut room = self.room.lock();
        self.replica.with_mut(|state| room.reserve(&mut state.keyspace, flight, calls))
    }

    /// Where this node does not lead, or no longer, it keeps nothing for choosing victims.
    fn forget_accesses(&self) {
        let mut room = self.room.lock();
        if room.chooses() {
            self.replica.with_mut(|state| room.forget(&mut state.keyspace));
        }
    }

    /// What the cluster wants this group to hold. Whoever leads the group puts it into its log, now or later.
    pub fn want_limit(&self, limit: Limit) {
        *self.wanted_limit.lock() = Some(limit);
    }

    /// Proposes the limit that is wanted, and evictions while more is used than it allows; one entry at a time.
    fn keep_limit(self: &Arc<Self>) {
        let wanted = *self.wanted_limit.lock();
        let (known, short) = {
            let room = self.room.lock();
            self.replica.with(|state| (state.keyspace.limit(), room.short(&state.keyspace)))
        };
        let news = wanted.filter(|wanted| *wanted != known);
        if (news.is_none() && !short) || self.making_room.swap(true, Ordering::AcqRel) {
            return;
        }
        let group = self.clone();
        let done = move |_| group.making_room.store(false, Ordering::Release);
        self.proposer.submit(Submission::limit(news, env::now() + Duration::from_secs(1), Box::new(done)));
    }

    async fn snapshot_when_due(&self, core: &Core) {
        let appended = core.log.appended_bytes();
        let last = *self.snapshot_at.lock();
        if last.is_some_and(|(at, _)| at.elapsed() < self.around.snapshot_min_interval) {
            return;
        }
        // A state that is larger than the threshold makes snapshots rarer, so that they never cost more than the log.
        let used = self.replica.with(|state| state.keyspace.used_bytes());
        let threshold = self.around.snapshot_log_bytes.max(used);
        if appended.saturating_sub(last.map_or(0, |(_, bytes)| bytes)) >= threshold {
            *self.snapshot_at.lock() = Some((env::now(), appended));
            if core.raft.trigger().snapshot().await.is_err() {
                tracing::warn!(group = %self.id, "no snapshot: the core has stopped");
            }
        }
    }

    async fn restart_core(self: &Arc<Self>) {
        let reason = self.core().metrics.borrow_watched().running_state.clone();
        tracing::error!(node = %self.me(), group = %self.id, reason = ?reason, "group-restarts: its core died; it starts again from disk");
        let _one_at_a_time = self.restarting.lock().await;
        if !self.core().dead.load(Ordering::Acquire) && self.core().metrics.borrow_watched().running_state.is_ok() {
            return;
        }
        self.stop_core().await;
        env::sleep(RESTART_PAUSE).await;
        if self.closed() {
            return;
        }
        if let Err(e) = self.start_core_aside().await {
            tracing::error!(node = %self.me(), group = %self.id, error = %e, "group-cannot-restart");
        }
    }

    async fn stop_core(&self) {
        self.ready.store(false, Ordering::Release);
        self.leadership.send_replace(None);
        let _ = self.core().raft.shutdown().await;
    }

    /// Loading blocks, and so does waiting for the core, which starts on this very worker.
    async fn start_core_aside(self: &Arc<Self>) -> Result<(), StorageError> {
        let group = self.clone();
        let (tx, rx) = tokio::sync::oneshot::channel();
        env::spawn_thread("group-restart", move || {
            let _ = tx.send(group.start_core());
        });
        rx.await.map_err(|_| StorageError::Stopped)?
    }

    /// Puts another snapshot in the place of the group's own, and starts the core on it and the log behind it.
    pub(super) async fn replace_core(
        self: &Arc<Self>,
        meta: SnapshotMeta,
        snapshot: SnapshotRef,
    ) -> Result<(), StorageError> {
        let _one_at_a_time = self.restarting.lock().await;
        self.stop_core().await;
        let published = self.snapshots().publish_instead(snapshot, meta).await;
        // Whatever came of that, the group goes on.
        self.start_core_aside().await?;
        published
    }

    pub(super) fn stop_campaigning(&self) {
        self.core().raft.runtime_config().elect(false);
    }

    pub(super) fn verify_interval(&self) -> Duration {
        self.around.verify_interval
    }

    pub(super) fn storage(&self) -> &Storage {
        &self.around.storage
    }

    /// Voters and learners, as this replica knows them.
    pub(super) fn members(&self) -> (Vec<NodeId>, Vec<NodeId>) {
        let core = self.core();
        let metrics = core.metrics.borrow_watched();
        let learners = metrics.membership_config.membership().learner_ids().collect();
        (metrics.membership_config.voter_ids().collect(), learners)
    }

    /// The entry up to which the log is purged.
    pub(super) fn purged(&self) -> Option<LogId> {
        self.core().metrics.borrow_watched().purged
    }

    /// Whether the voters in reach are a quorum, `node` not counted.
    pub(super) fn quorum_without(&self, node: NodeId) -> bool {
        let voters = self.core().voters();
        let there = |v: &NodeId| *v == self.me() || self.around.peers.link(*v, Lane::Raft(self.worker)).up();
        voters.iter().filter(|v| **v != node && there(v)).count() > voters.len() / 2
    }

    /// Has an entry marked, and says at which index it was applied.
    pub(super) fn submit_mark(&self, deadline: Instant, done: impl FnOnce(Option<u64>) + Send + 'static) {
        let on_outcome = move |outcome| {
            done(match outcome {
                Outcome::Applied { index, .. } => Some(index),
                _ => None,
            })
        };
        self.proposer.submit(Submission::mark(deadline, Box::new(on_outcome)));
    }

    // --- what peers ask ---

    pub(super) async fn on_append(
        &self,
        request: AppendEntriesRequest<Types>,
        estimate: Millis,
    ) -> Result<AppendEntriesResponse<Types>, String> {
        if estimate > 0 {
            self.clock.observe(estimate, env::now());
        }
        // Only what the leader committed in its own term covers everything that was ever committed before.
        let term = request.vote.leader_id.term;
        let commit = request.leader_commit.filter(|id| id.committed_leader_id().term == term).map(|id| id.index());
        let response = self.raft().append_entries(request).await.map_err(|e| e.to_string())?;
        if !self.ready()
            && let (AppendEntriesResponse::Success, Some(commit)) = (&response, commit)
            && self.replica.applied_index() >= commit
        {
            self.ready.store(true, Ordering::Release);
        }
        Ok(response)
    }

    /// The core, if it may vote: looked up once, so that what was checked is what is asked.
    fn voting_core(&self) -> Result<Arc<Core>, String> {
        let core = self.core();
        match env::now() < core.quarantine_until {
            true => Err("in quarantine after a restart".to_owned()),
            false => Ok(core),
        }
    }

    pub(super) fn may_lead(&self) -> bool {
        self.voting_core().is_ok()
    }

    pub(super) async fn on_vote(&self, request: VoteRequest<Types>) -> Result<VoteResponse<Types>, String> {
        self.voting_core()?.raft.vote(request).await.map_err(|e| e.to_string())
    }

    pub(super) async fn on_pre_vote(&self, request: VoteRequest<Types>) -> Result<VoteResponse<Types>, String> {
        self.voting_core()?.raft.pre_vote(request).await.map_err(|e| e.to_string())
    }

    pub(super) async fn on_transfer(
        &self,
        request: TransferLeaderRequest<Types>,
    ) -> Result<TransferLeaderResponse<Types>, String> {
        if self.fenced() {
            return Err("this replica is fenced".to_owned());
        }
        self.voting_core()?.raft.handle_transfer_leader(request).await.map_err(|e| e.to_string())
    }

    pub(super) async fn on_read_index(self: &Arc<Self>, quorum: bool) -> Result<ReadIndex, String> {
        self.answer_follower(self.answer_read_index(quorum).await)
    }

    pub(super) async fn on_tick(self: &Arc<Self>) -> Result<ReadIndex, String> {
        self.answer_follower(self.answer_tick().await)
    }

    fn answer_follower(&self, answer: Option<ReadIndex>) -> Result<ReadIndex, String> {
        let answer = answer.ok_or_else(|| "not the leader, or not confirmed".to_owned())?;
        self.wanted.want(answer.index);
        Ok(answer)
    }

    // --- what operators ask ---

    /// Gives a group that has no log yet its first members. Every member may say it; all must say the same.
    pub(super) async fn initialize(&self, members: &BTreeSet<NodeId>) -> Result<(), AdminError> {
        let members: BTreeMap<_, _> = members.iter().map(|m| (*m, openraft::impls::EmptyNode {})).collect();
        match self.raft().initialize(members).await {
            Ok(()) => Ok(()),
            Err(openraft::errors::RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(e) => Err(AdminError::Failed(e.to_string())),
        }
    }

    /// Whether the group has a log on this node.
    pub(super) fn has_log(&self) -> bool {
        let core = self.core();
        core.log.last().is_some() || core.log.vote().is_some()
    }

    /// Hands leadership to `to`: nothing is proposed meanwhile, and what waits goes to the new leader.
    pub async fn transfer(self: &Arc<Self>, to: NodeId) -> Result<(), AdminError> {
        let _one_at_a_time = self.transferring.lock().await;
        let leadership = self.leadership();
        let Some(Leadership { leader, term }) = leadership.filter(|l| l.leader == self.me()) else {
            return match leadership {
                Some(l) if l.leader == to => Ok(()),
                l => Err(AdminError::NotLeader { group: self.id, leader: l.map(|l| l.leader) }),
            };
        };
        if leader == to {
            return Ok(());
        }
        let core = self.core();
        if !core.voters().contains(&to) {
            return Err(AdminError::NotAVoter { group: self.id, node: to });
        }
        // Asked before anything is held back: a target that cannot campaign would cost an election.
        match self.would_lead(to).await {
            Some(true) => (),
            Some(false) => return Err(AdminError::Quarantined { group: self.id, node: to }),
            None => return Err(AdminError::NotCaughtUp { group: self.id, node: to }),
        }
        let _held = Held::new(&self.proposer);
        self.hand_over(&core, to, term).await
    }

    /// Whether `to` says that it may lead; none if it does not answer.
    async fn would_lead(&self, to: NodeId) -> Option<bool> {
        let link = self.around.peers.link(to, Lane::Raft(self.worker));
        let answer = link.call(Method::MayLead, self.id, |_| ()).ok()?;
        let bytes = env::timeout(TRANSFER, answer.wait()).await.ok()?.ok()?;
        wire::get(&bytes, "whether a voter may lead").ok()
    }

    async fn hand_over(&self, core: &Core, to: NodeId, term: u64) -> Result<(), AdminError> {
        let deadline = env::now() + TRANSFER;
        while self.proposer.in_flight() || !core.caught_up(to) {
            if env::now() >= deadline {
                return Err(AdminError::NotCaughtUp { group: self.id, node: to });
            }
            env::sleep(Duration::from_millis(1)).await;
        }
        // From here on the voters' promise is void.
        self.lease_off_term.fetch_max(term, Ordering::AcqRel);
        core.raft.trigger().transfer_leader(to).await.map_err(|e| AdminError::Failed(e.to_string()))?;
        let mut leadership = self.leadership.subscribe();
        let moved = async move {
            let l = leadership.wait_for(|l| l.is_some_and(|l| l.term > term)).await;
            l.ok().and_then(|l| *l)
        };
        match env::timeout(TRANSFER, moved).await {
            Ok(l) if l.is_some_and(|l| l.leader == to) => Ok(()),
            Ok(_) => Err(AdminError::Failed("another node was elected".to_owned())),
            // A leader that offered itself away sends no heartbeats any more: its followers elect when the lease is over.
            Err(_) => Err(AdminError::Timeout("the target did not take over; the group elects a leader by itself")),
        }
    }

    /// Hands leadership to whichever voter has caught up, if this node has it.
    pub async fn step_aside(self: &Arc<Self>) -> Result<(), AdminError> {
        if !self.is_leader() {
            return Ok(());
        }
        let core = self.core();
        let mut last = AdminError::Failed("there is no other voter".to_owned());
        let voters = core.voters();
        let in_reach = |v: &NodeId| *v != self.me() && self.around.peers.link(*v, Lane::Raft(self.worker)).up();
        let (caught_up, behind): (Vec<_>, Vec<_>) =
            voters.into_iter().filter(in_reach).partition(|v| core.caught_up(*v));
        for to in caught_up.into_iter().chain(behind) {
            match self.transfer(to).await {
                Ok(()) => return Ok(()),
                Err(e) => last = e,
            }
        }
        Err(last)
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

    /// Hash of the whole replicated state and the index at which it was taken: equal on all replicas.
    pub fn state_hash(&self) -> (u64, u128) {
        self.replica.with(|state| (state.applied.map_or(0, |id| id.index()), state.keyspace.state_hash()))
    }

    /// What this node knows of the group.
    pub fn status(&self) -> GroupStatus {
        let core = self.core();
        let metrics = core.metrics.borrow_watched();
        let index = |id: &Option<super::LogId>| id.as_ref().map_or(0, |id| id.index());
        let voters: Vec<NodeId> = metrics.membership_config.voter_ids().collect();
        let learners: Vec<NodeId> = metrics.membership_config.membership().learner_ids().collect();
        let mut status = GroupStatus {
            id: self.id,
            leader: metrics.current_leader,
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
        self.proposer.close();
        let _ = self.core().raft.shutdown().await;
    }
}

/// Holds a proposer back for as long as it lives.
struct Held<'a>(&'a Proposer);

impl<'a> Held<'a> {
    fn new(proposer: &'a Proposer) -> Held<'a> {
        proposer.pause(true);
        Held(proposer)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.pause(false);
    }
}

/// What tests of the doors do to a group, and what they count.
#[cfg(test)]
#[derive(Default)]
struct Hooks {
    withhold_leave: AtomicBool,
    barriers: AtomicU64,
    leader: Mutex<Option<NodeId>>,
    proposals: Mutex<Vec<usize>>,
}

#[cfg(test)]
impl Group {
    /// Writes wait in the queue, as they do while leadership is handed over, or go on.
    pub(crate) fn hold_writes(&self, held: bool) {
        self.proposer.pause(held);
    }

    /// From now on linearizable and lease reads have to wait for a round, as where no lease is in hand.
    pub(crate) fn withhold_leave(&self) {
        self.hooks.barriers.store(0, Ordering::SeqCst);
        self.hooks.withhold_leave.store(true, Ordering::SeqCst);
    }

    pub(super) fn withholds_leave(&self, level: Level) -> bool {
        matches!(level, Level::Linearizable | Level::Lease) && self.hooks.withhold_leave.load(Ordering::SeqCst)
    }

    pub(super) fn count_barrier(&self) {
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
        let estimate = self.estimate().expect("a group that was written to has a clock");
        self.clock.observe(estimate + passed.as_millis() as u64, env::now());
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

impl Core {
    fn voters(&self) -> Vec<NodeId> {
        self.metrics.borrow_watched().membership_config.voter_ids().collect()
    }

    fn voters_in(&self, metrics: &RaftMetrics<Types>) -> usize {
        metrics.membership_config.voter_ids().count()
    }

    fn log_position_of(&self, node: NodeId) -> usize {
        self.voters().iter().position(|v| *v == node).unwrap_or(0)
    }

    /// Whether a voter has all of this leader's log.
    fn caught_up(&self, node: NodeId) -> bool {
        let metrics = self.metrics.borrow_watched();
        let Some(replication) = &metrics.replication else { return false };
        let matched = replication.get(&node).and_then(|id| id.as_ref()).map(|id| id.index());
        matched.is_some() && matched == metrics.last_log_index
    }
}

/// Part of the replicated state, so it follows from the group alone.
fn hash_seed(id: GroupId) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(b"hypercache keyspace", u64::from(id.0))
}

/// Shares what rarely changes with many readers.
pub(super) type Table<T> = ArcSwap<T>;
