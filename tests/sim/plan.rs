//! What a seed decides: the cluster, its disks and clocks, and which faults come when.

use hypercache::raft::Timers;
use hypercache::state::eviction::{Kind as Policy, Limit};
use std::fmt;
use std::time::Duration;

/// Before the first fault.
pub const CALM: Duration = Duration::from_millis(2500);
/// No fault begins after this; then all is healed.
pub const FAULTS_END: Duration = Duration::from_millis(13_000);

/// From this seed on nodes come and go, clients watch what they swap and do not wait long for a connection, and faults come right behind others. The seeds
/// before mean what they always meant, so that those stay which are pinned for planted bugs.
pub const WIDE: u64 = 1000;
/// From this seed on slots move between groups, too.
pub const MOVING: u64 = 2000;
/// From this seed on groups come and go, too.
pub const GROUPING: u64 = 3000;

/// What is done to the cluster. Nodes are drawn when the fault begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The process is killed; what it wrote is in the machine's memory.
    Kill,
    /// The machine loses its power: some of what was not synced is gone.
    Power,
    /// All machines at once.
    PowerAll,
    /// A node and all others do not hear each other.
    Isolate,
    /// What a node says is not heard.
    Mute,
    /// A node hears nobody.
    Deafen,
    /// Two nodes do not hear each other; a third hears both.
    Bridge,
    /// Messages between nodes take long.
    Delay,
    /// Connections between nodes break now and then, with what they carried.
    Loss,
    /// A disk is slow.
    SlowDisk,
    /// A disk does not take the next write: the node ends, as it must.
    BrokenDisk,
    /// A disk has little room left, or none.
    FullDisk,
    /// A bit of something that is stored is not what it was.
    BitFlip,
    /// A node's clocks run faster or slower than they should, within the bound.
    Drift,
    /// A node's wall clock jumps by up to an hour.
    WallJump,
    /// A follower is kept from its leader until its promise is over; then the leader is cut off, and its other follower
    /// starts anew so quickly that the leader still trusts in its lease.
    Usurp,
    /// A leader hands over.
    Transfer,
    /// A node makes snapshots.
    Snapshot,
    /// An operator has a node come, go or take another's place, or moves votes and leaders.
    Members,
    /// An operator has slots that are written to go to another group, or to stay where they are.
    Slots,
    /// An operator has a group come, be split or go, or stay after all.
    Groups,
}

impl Kind {
    pub const ALL: [Kind; 21] = [
        Kind::Kill,
        Kind::Power,
        Kind::PowerAll,
        Kind::Isolate,
        Kind::Mute,
        Kind::Deafen,
        Kind::Bridge,
        Kind::Delay,
        Kind::Loss,
        Kind::SlowDisk,
        Kind::BrokenDisk,
        Kind::FullDisk,
        Kind::BitFlip,
        Kind::Drift,
        Kind::WallJump,
        Kind::Usurp,
        Kind::Transfer,
        Kind::Snapshot,
        Kind::Members,
        Kind::Slots,
        Kind::Groups,
    ];

    /// What an operator wishes of groups and slots: it meets no node, and one may come upon the other.
    pub fn is_wish(self) -> bool {
        matches!(self, Kind::Slots | Kind::Groups)
    }
}

/// A fault of the schedule.
#[derive(Debug, Clone, Copy)]
pub struct Planned {
    pub at: Duration,
    pub kind: Kind,
    pub lasts: Duration,
    /// Of the leader of a group rather than of any node.
    pub at_leader: bool,
    /// Drawn numbers for whatever the fault has to choose.
    pub dice: [u64; 3],
}

/// Everything that is fixed before the run.
pub struct Plan {
    pub seed: u64,
    /// Whether it is one from [`WIDE`] on.
    pub wide: bool,
    /// Whether it is one from [`MOVING`] on.
    pub moving: bool,
    /// Whether it is one from [`GROUPING`] on.
    pub grouping: bool,
    /// Nodes that found the cluster.
    pub nodes: usize,
    /// Nodes that wait to be taken in; they are numbered behind the founders, in the order in which they are.
    pub spares: usize,
    /// Groups that the cluster begins with.
    pub groups: u32,
    pub clients: usize,
    /// Longest delay of a message in good times.
    pub latency: Duration,
    /// Shortest and longest sync.
    pub disk: (Duration, Duration),
    /// Unix milliseconds by each node's wall clock at the beginning.
    pub walls: Vec<u64>,
    /// Millionths by which each node's clock is too fast.
    pub drifts: Vec<i64>,
    pub log_lag: u64,
    pub snapshot_log_bytes: u64,
    pub request_timeout: Duration,
    pub timers: Timers,
    pub faults: Vec<Planned>,
    /// Many clients, few keys, hardly a pause: what meets in one round of reads or one entry.
    pub crowded: bool,
    /// What the groups of a node may hold together, if anything is to leave.
    pub limit: Option<Limit>,
}

impl Plan {
    pub fn draw(seed: u64) -> Plan {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x0005_eed0_fa11_face);
        let nodes = if rng.u8(..4) == 0 { 5 } else { 3 };
        let ms = Duration::from_millis;
        let slow = rng.u64(0..4);
        let small_snapshots = rng.bool();
        let (wide, moving, grouping) = (seed >= WIDE, seed >= MOVING, seed >= GROUPING);
        let members = wide && rng.u8(..3) == 0;
        let spares = if members { rng.usize(1..3) } else { 0 };
        let mut plan = Plan {
            seed,
            wide,
            moving,
            grouping,
            nodes,
            spares,
            groups: rng.u32(1..3),
            clients: rng.usize(4..8),
            latency: ms(rng.u64(1..12)),
            disk: (ms(slow / 2), ms(1 + slow * 2)),
            walls: (0..nodes + spares).map(|_| 1_700_000_000_000 + rng.u64(..40)).collect(),
            drifts: (0..nodes + spares).map(|_| if rng.bool() { 0 } else { rng.i64(-20_000..=20_000) }).collect(),
            log_lag: if small_snapshots { rng.u64(0..30) } else { 1000 },
            snapshot_log_bytes: if small_snapshots { 4 << 10 } else { 1 << 20 },
            request_timeout: ms(rng.u64(1500..4000)),
            faults: faults(&mut rng, wide, members, moving, grouping),
            timers: timers(&mut rng),
            crowded: rng.u8(..3) == 0,
            limit: (rng.u8(..3) == 0).then(|| limit(&mut rng)),
        };
        if plan.crowded {
            plan.clients = rng.usize(12..18);
            // What a late message shows is shown where many wait for it.
            plan.faults.extend((0..2).map(|_| delay(&mut rng)));
        }
        if moving {
            plan.groups = 2;
            plan.faults.extend(wishes(&mut rng, Kind::Slots));
        }
        if grouping {
            plan.faults.extend(wishes(&mut rng, Kind::Groups));
        }
        plan.faults.sort_by_key(|planned| planned.at);
        plan
    }

    /// All nodes that there are or may be.
    pub fn all(&self) -> usize {
        self.nodes + self.spares
    }
}

fn delay(rng: &mut fastrand::Rng) -> Planned {
    Planned {
        at: CALM + Duration::from_millis(rng.u64(..8000)),
        kind: Kind::Delay,
        lasts: Duration::from_millis(rng.u64(1000..3500)),
        at_leader: false,
        dice: std::array::from_fn(|_| rng.u64(..)),
    }
}

/// What an operator wishes now and then, besides: a move is over so soon that other faults would seldom meet one.
fn wishes(rng: &mut fastrand::Rng, kind: Kind) -> Vec<Planned> {
    let (mut at, mut wishes) = (CALM, Vec::new());
    loop {
        at += Duration::from_millis(rng.u64(100..1000));
        if at >= FAULTS_END {
            return wishes;
        }
        let dice = std::array::from_fn(|_| rng.u64(..));
        wishes.push(Planned { at, kind, lasts: Duration::ZERO, at_leader: false, dice });
    }
}

/// Room for what has no deadline, which all of the workloads but one write, and a good deal of what has one. Only that may
/// leave.
fn limit(rng: &mut fastrand::Rng) -> Limit {
    let policies = [Policy::VolatileTtl, Policy::VolatileRandom, Policy::VolatileLru, Policy::VolatileLfu];
    Limit { bytes: rng.u64(250_000..500_000), policy: policies[rng.usize(..policies.len())], samples: 5 }
}

/// The default, or elections that come soon after the promise is over: what a missing quarantine needs.
fn timers(rng: &mut fastrand::Rng) -> Timers {
    let hasty =
        Timers { heartbeat: Duration::from_millis(40), election_min: Duration::from_millis(100), ..Timers::default() };
    if rng.bool() { hasty } else { Timers::default() }
}

/// A seed has a taste: a few kinds, which it meets again and again, so that they come in all orders and together.
fn faults(rng: &mut fastrand::Rng, wide: bool, members: bool, moving: bool, grouping: bool) -> Vec<Planned> {
    let mut kinds = Kind::ALL.to_vec();
    kinds.retain(|kind| !matches!(kind, Kind::Members | Kind::Slots | Kind::Groups));
    rng.shuffle(&mut kinds);
    kinds.truncate(rng.usize(2..6));
    let mut at = CALM;
    let mut planned = Vec::new();
    loop {
        at += Duration::from_millis(rng.u64(100..1600));
        if at >= FAULTS_END {
            return planned;
        }
        let kind = match members && rng.u8(..3) == 0 {
            true => Kind::Members,
            false if grouping && rng.bool() => Kind::Groups,
            false if moving && rng.bool() => Kind::Slots,
            false => kinds[rng.usize(..kinds.len())],
        };
        let lasts = Duration::from_millis(if rng.u8(..4) == 0 { rng.u64(20..200) } else { rng.u64(200..3500) });
        let (at_leader, dice) = (rng.u8(..3) > 0, std::array::from_fn(|_| rng.u64(..)));
        planned.push(Planned { at, kind, lasts, at_leader, dice });
        let follower = if wide { behind(rng, kind, lasts) } else { None };
        if let Some((kind, after)) = follower {
            let (at, dice) = (at + after, std::array::from_fn(|_| rng.u64(..)));
            planned.push(Planned { at, kind, lasts, at_leader: rng.bool(), dice });
        }
    }
}

/// What comes right behind some faults, because it would hardly meet them by chance: anything while leaders hand over, mostly a
/// cut or a crash where a node comes or goes, and a node that takes a lease over where another has just started again.
fn behind(rng: &mut fastrand::Rng, kind: Kind, lasts: Duration) -> Option<(Kind, Duration)> {
    const APART: [Kind; 5] = [Kind::Isolate, Kind::Mute, Kind::Deafen, Kind::Kill, Kind::Power];
    let any = Kind::ALL[rng.usize(..Kind::Slots as usize)];
    let any = if any == Kind::Members { Kind::Isolate } else { any };
    let ms = rng.u64(5..140);
    match kind {
        Kind::Transfer => Some((any, Duration::from_millis(ms))),
        // Somewhere between its first step and its last.
        Kind::Slots | Kind::Groups if rng.bool() => Some((any, Duration::from_millis(ms * 6))),
        Kind::Slots | Kind::Groups => Some((APART[rng.usize(..APART.len())], Duration::from_millis(ms * 6))),
        Kind::Members if rng.u8(..3) == 0 => Some((any, Duration::from_millis(ms * 6))),
        Kind::Members => Some((APART[rng.usize(..APART.len())], Duration::from_millis(ms * 3))),
        Kind::Kill | Kind::Power if rng.u8(..4) == 0 => Some((Kind::Usurp, lasts + Duration::from_millis(ms * 4))),
        _ => None,
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut kinds: Vec<Kind> = self.faults.iter().map(|planned| planned.kind).collect();
        kinds.sort();
        kinds.dedup();
        write!(
            f,
            "seed {}: {} nodes and {} that wait, {} groups, {} clients, latency {:?}, sync {:?}..{:?}, drifts {:?} ppm, log lag {}, elections from {:?} on, {}memory {:?}, {} faults of {kinds:?}",
            self.seed,
            self.nodes,
            self.spares,
            self.groups,
            self.clients,
            self.latency,
            self.disk.0,
            self.disk.1,
            self.drifts,
            self.log_lag,
            self.timers.election_min,
            if self.crowded { "crowded, " } else { "" },
            self.limit.map(|limit| (limit.bytes, limit.policy.name())),
            self.faults.len()
        )
    }
}
