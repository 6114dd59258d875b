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

mod asked;
mod care;
#[cfg(test)]
mod hooks;
mod leadership;
mod members;
mod reading;
mod status;
mod transfer;
mod writing;

pub use status::{AdminError, GroupStatus};

use super::appends::WantedCommit;
use super::changes::Watch;
use super::clock::GroupClock;
use super::log_store::LogStore;
use super::machine::{Machine, Replica};
use super::network::NetworkFactory;
use super::peers::Peers;
use super::proposer::{self, Proposer, Refusal};
use super::reads::{Freshness, Gate, LEASE_SHARE, Round};
use super::room::Room;
use super::snapshot::SnapshotStore;
use super::storage::{Storage, StorageError};
use super::verify::{self, Verifier};
use super::waiters::Waiters;
use super::{Raft, StoredMembership, Types, Vote};
use crate::env::{self, Instant};
use crate::planted::{self, Bug};
use crate::state::Packing;
use crate::state::Precision;
use crate::state::eviction::Limit;
use crate::types::{GroupId, Leadership, NodeId};
use arc_swap::{ArcSwap, ArcSwapOption};
use openraft::async_runtime::WatchReceiver;
use openraft::{RaftMetrics, ServerState, SnapshotPolicy};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;

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
        let share = if planted::is(Bug::LongLease) { 300 } else { LEASE_SHARE };
        self.election_max * share / 100
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

/// What a core is started on.
struct Loaded {
    log: LogStore,
    machine: Machine,
    snapshots: SnapshotStore,
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
    wanted_terms: Mutex<(Option<Limit>, Option<Packing>)>,
    making_room: AtomicBool,
    gates: [Gate; 3],
    leadership: watch::Sender<Option<Leadership>>,
    /// While nobody is known to lead: who led last, and until when.
    led: Mutex<Option<(NodeId, Instant)>>,
    ready: AtomicBool,
    fresh: Mutex<Option<Freshness>>,
    /// The term in which leadership was offered away: no lease reads in it any more.
    lease_off_term: Arc<AtomicU64>,
    /// The commit that reads at followers wait for.
    wanted: Arc<WantedCommit>,
    /// The highest index of which this node told a follower that it is committed.
    told: Arc<AtomicU64>,
    transferring: tokio::sync::Mutex<()>,
    /// Held while the core is replaced.
    restarting: tokio::sync::Mutex<()>,
    sweeping: AtomicBool,
    closed: AtomicBool,
    /// It has left the cluster: set before `closed`.
    gone: AtomicBool,
    rounds: AtomicU64,
    /// The voter that was the first to confirm this node when it last asked.
    pub(super) quick_voter: AtomicU64,
    /// When the last snapshot was begun, and the bytes that the log had seen by then.
    snapshot_at: Mutex<Option<(Instant, u64)>>,
    /// The last entry of the newest snapshot when the log was last cut to its bytes.
    cut_behind: AtomicU64,
    wall_alarm: AtomicBool,
    pub(super) verifier: Verifier,
    pub(super) waiters: Waiters,
    #[cfg(test)]
    hooks: hooks::Hooks,
}

impl Group {
    pub(super) fn new(
        id: GroupId,
        worker: u16,
        handle: Handle,
        around: Arc<Surroundings>,
        hash_seed: u64,
    ) -> Arc<Group> {
        let replica = Arc::new(Replica::new(hash_seed, around.filter_precision));
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
            wanted_terms: Mutex::default(),
            making_room: AtomicBool::new(false),
            gates: Default::default(),
            leadership: watch::Sender::new(None),
            led: Mutex::new(None),
            ready: AtomicBool::new(false),
            fresh: Mutex::new(None),
            lease_off_term: Arc::default(),
            wanted: Arc::default(),
            told: Arc::default(),
            transferring: tokio::sync::Mutex::new(()),
            restarting: tokio::sync::Mutex::new(()),
            sweeping: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            rounds: AtomicU64::new(0),
            quick_voter: AtomicU64::new(0),
            snapshot_at: Mutex::new(None),
            cut_behind: AtomicU64::new(0),
            wall_alarm: AtomicBool::new(false),
            verifier: Verifier::default(),
            waiters: Waiters::default(),
            #[cfg(test)]
            hooks: hooks::Hooks::default(),
        })
    }

    /// Opens what is on disk and starts everything that runs for the group.
    pub(super) async fn start(self: &Arc<Self>) -> Result<(), StorageError> {
        self.start_core().await?;
        self.spawn(proposer::run(self.clone()));
        self.spawn(self.clone().care());
        self.spawn(self.clone().serve_waiters());
        if self.fenced() {
            tracing::error!(node = %self.me(), group = %self.id, "replica-fenced: it was when the node stopped");
            self.spawn(self.clone().rebuild());
        }
        Ok(())
    }

    /// Loads log and snapshot and starts an openraft core on them, in quarantine if there is a vote.
    async fn start_core(self: &Arc<Self>) -> Result<(), StorageError> {
        let group = self.clone();
        let loaded = env::elsewhere("load-group", move || group.load()).await.ok_or(StorageError::Stopped)?;
        self.start_on(loaded?).await
    }

    /// Loads what is on disk. Blocks meanwhile.
    fn load(&self) -> Result<Loaded, StorageError> {
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
        Ok(Loaded { log, machine, snapshots })
    }

    async fn start_on(self: &Arc<Self>, loaded: Loaded) -> Result<(), StorageError> {
        let Loaded { log, machine, snapshots } = loaded;
        let timers = self.around.timers;
        let quarantined = log.vote().is_some() && !planted::is(Bug::NoQuarantine);
        let quarantine_until = if quarantined { env::now() + timers.quarantine() } else { env::now() };
        let config = Arc::new(self.config(!quarantined || planted::is(Bug::CampaignInQuarantine)));
        let time = Arc::downgrade(self);
        let network = NetworkFactory {
            group: self.id,
            worker: self.worker,
            peers: self.around.peers.clone(),
            time: Arc::new(move |leadership| time.upgrade()?.time_as(leadership)),
            snapshots: snapshots.clone(),
            lease_off_term: self.lease_off_term.clone(),
            wanted: self.wanted.clone(),
            told: self.told.clone(),
            fenced: self.verifier.fenced.clone(),
        };
        let (me, log_for_raft) = (self.around.me, log.clone());
        // Its tasks run where it is made.
        let raft = self.handle.spawn(Raft::new(me, config, network, log_for_raft, machine));
        let raft = raft.await.map_err(|_| StorageError::Stopped)?;
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
            enable_leader_restore: Some(planted::is(Bug::LeaderRestored)),
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
        self.handle.spawn(env::timed(task));
    }

    pub(super) fn core(&self) -> Arc<Core> {
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

    /// What is told to who waits for a group that is closed.
    pub(super) fn farewell(&self) -> Refusal {
        if self.gone.load(Ordering::Acquire) { Refusal::Gone } else { Refusal::ShuttingDown }
    }

    pub(super) fn count_round(&self) {
        self.rounds.fetch_add(1, Ordering::Relaxed);
    }
}

impl Core {
    /// Whether openraft still works on it. Of one that has died the last metrics may look well.
    fn runs(&self) -> bool {
        !self.dead.load(Ordering::Acquire) && self.metrics.borrow_watched().running_state.is_ok()
    }

    /// The term in which this node leads, and the configuration, if it leads.
    pub(super) fn leads(&self) -> Option<(u64, Arc<StoredMembership>)> {
        let metrics = self.metrics.borrow_watched();
        let leads = metrics.state == ServerState::Leader && !self.dead.load(Ordering::Acquire);
        leads.then(|| (metrics.current_term, metrics.membership_config.clone()))
    }

    /// The last vote that was given to the disk.
    pub(super) fn voted(&self) -> Option<Vote> {
        self.log.voted()
    }

    fn voters(&self) -> Vec<NodeId> {
        self.metrics.borrow_watched().membership_config.voter_ids().collect()
    }

    /// Whether this node is its own quorum. A leader need not be a voter: it may lead others out of a change.
    fn is_sole_voter(metrics: &RaftMetrics<Types>) -> bool {
        metrics.membership_config.voter_ids().eq([metrics.id])
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

/// Shares what rarely changes with many readers.
pub(super) type Table<T> = ArcSwap<T>;
