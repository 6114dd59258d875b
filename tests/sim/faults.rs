//! Does to the simulated cluster what the plan says, and undoes it.

use crate::client;
use crate::coverage::{Coverage, Phase};
use crate::invariants::{groups, progress};
use crate::node::{self, Asked, DISK_LOW, Node, PEER_PORT, moving};
use crate::observe::Observer;
use crate::plan::{Kind, Plan, Planned};
use crate::story;
use hypercache::cluster::{self, ChangeGroups, MoveSlots, Stage, Wish};
use hypercache::raft::storage::memory::Flipped;
use hypercache::slot::slot_of;
use hypercache::types::{GroupId, NodeId};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use turmoil::Sim;

/// Faults that cut links. One at a time, since healing mends all links.
const NETWORK: [Kind; 5] = [Kind::Isolate, Kind::Mute, Kind::Deafen, Kind::Bridge, Kind::Usurp];

/// What happened less long ago than this is what the cluster is doing.
const LATELY: Duration = Duration::from_millis(150);
/// Slots of a group that is split, or goes, at most.
const SMALL: usize = 300;
/// Groups besides those of the beginning.
const MOST: usize = 4;
/// For so long a node that starts is silent, about.
const QUARANTINE: Duration = Duration::from_millis(650);

/// What is to be undone, and when.
struct Standing {
    until: Duration,
    kind: Kind,
    nodes: Vec<usize>,
    /// They are down for it, and start when it is over.
    down: bool,
    /// By how much a wall clock was moved.
    moved_ms: i64,
    flipped: Option<Flipped>,
}

pub struct Faults {
    planned: std::vec::IntoIter<Planned>,
    next: Option<Planned>,
    standing: Vec<Standing>,
    /// The second act of a [`Kind::Usurp`]: when, the leader, and the follower that starts anew.
    usurping: Option<(Duration, usize, usize, u64)>,
    plan: Rc<Plan>,
    /// How often each kind began, by what the cluster was doing then.
    pub coverage: Coverage,
    /// When a leader was last asked to hand over.
    transferred: Option<Duration>,
}

impl Faults {
    pub fn new(plan: Rc<Plan>) -> Faults {
        let mut planned = plan.faults.clone().into_iter();
        let next = planned.next();
        Faults {
            planned,
            next,
            standing: Vec::new(),
            usurping: None,
            plan,
            coverage: Coverage::default(),
            transferred: None,
        }
    }

    /// Begins and ends what is due.
    pub fn step(&mut self, at: Duration, sim: &mut Sim<'_>, nodes: &[Rc<Node>], observer: &mut Observer) {
        self.end_failed(at, sim, nodes, observer);
        while let Some(over) = self.standing.iter().position(|s| s.until <= at) {
            let standing = self.standing.remove(over);
            self.undo(at, standing, sim, nodes, observer);
        }
        if let Some((_, leader, follower, dice)) = self.usurping.take_if(|(due, ..)| *due <= at) {
            self.usurp(at, leader, follower, dice, sim, nodes, observer);
        }
        while let Some(planned) = self.next.take_if(|planned| planned.at <= at) {
            self.begin(at, planned, sim, nodes, observer);
            self.next = self.planned.next();
        }
    }

    /// Ends everything now.
    pub fn heal(&mut self, at: Duration, sim: &mut Sim<'_>, nodes: &[Rc<Node>], observer: &mut Observer) {
        self.end_failed(at, sim, nodes, observer);
        self.next = None;
        self.usurping = None;
        for standing in std::mem::take(&mut self.standing) {
            self.undo(at, standing, sim, nodes, observer);
        }
    }

    /// Ends nodes whose disk did not take a write, as RocksDB's writer does: they start when the disk does.
    fn end_failed(&mut self, at: Duration, sim: &mut Sim<'_>, nodes: &[Rc<Node>], observer: &mut Observer) {
        for node in nodes.iter().filter(|node| node.platter.failed()) {
            story::tell_at(at, &node.name, "ends: its disk did not take a write");
            let luck = self.plan.seed ^ at.as_nanos() as u64;
            self.crash(at, &[node.id], Some(luck), sim, nodes, observer);
            let disk = |s: &&mut Standing| matches!(s.kind, Kind::BrokenDisk | Kind::FullDisk) && s.nodes == [node.id];
            let standing = self.standing.iter_mut().find(disk);
            standing.expect("a disk fails where one was told to").down = true;
        }
    }

    /// Whether a node may end by itself at present: what it reads is not what it wrote.
    pub fn excuses(&self, node: &Node) -> bool {
        let damaged = |s: &Standing| s.kind == Kind::BitFlip && s.nodes.contains(&node.id);
        node.platter.failed() || self.standing.iter().any(damaged)
    }

    fn is_down(&self, node: usize) -> bool {
        self.standing.iter().any(|s| s.down && s.nodes.contains(&node))
    }

    /// Nodes that belong and were not let go.
    fn present(nodes: &[Rc<Node>]) -> Vec<usize> {
        nodes.iter().filter(|node| node.belongs.get() && !node.gone.get()).map(|node| node.id).collect()
    }

    /// Most faults meet the node that comes or goes, if one does.
    fn target(&self, planned: &Planned, nodes: &[Rc<Node>], observer: &Observer) -> usize {
        let groups = node::groups(nodes);
        let group = groups[(planned.dice[0] % groups.len() as u64) as usize];
        let present = Faults::present(nodes);
        let any = present[(planned.dice[1] % present.len() as u64) as usize];
        let moves = |id: &&usize| {
            self.plan.spares > 0
                && matches!(
                    nodes[**id - 1].standing(nodes),
                    Some(cluster::Standing::Joining | cluster::Standing::Leaving)
                )
        };
        let moving = present.iter().find(moves).filter(|_| !planned.dice[2].is_multiple_of(4));
        match (moving, planned.at_leader) {
            (Some(moving), _) => *moving,
            (None, true) => observer.leader(group).unwrap_or(any),
            (None, false) => any,
        }
    }

    fn begin(
        &mut self,
        at: Duration,
        planned: Planned,
        sim: &mut Sim<'_>,
        nodes: &[Rc<Node>],
        observer: &mut Observer,
    ) {
        let target = self.target(&planned, nodes, observer);
        let Planned { kind, lasts, dice, .. } = planned;
        let others: Vec<usize> = Faults::present(nodes).into_iter().filter(|node| *node != target).collect();
        if others.is_empty() {
            return;
        }
        let other = others[(dice[2] % others.len() as u64) as usize];
        // A second fault of a kind on the same link or node would be undone with the first.
        let taken = |s: &Standing| s.kind == kind || (NETWORK.contains(&s.kind) && NETWORK.contains(&kind));
        if !kind.is_wish() && (self.is_down(target) || self.standing.iter().any(taken)) {
            return;
        }
        let phases = self.phases(at, nodes, observer);
        let (mut touched, mut moved_ms, mut flipped) = (vec![target], 0, None);
        let down = matches!(kind, Kind::Kill | Kind::Power | Kind::PowerAll);
        let between = |from: usize, to: usize| (nodes[from - 1].name.clone(), nodes[to - 1].name.clone());
        match kind {
            Kind::Kill => self.crash(at, &[target], None, sim, nodes, observer),
            Kind::Power => self.crash(at, &[target], Some(dice[2]), sim, nodes, observer),
            Kind::PowerAll => {
                touched = Faults::present(nodes).into_iter().filter(|node| !self.is_down(*node)).collect();
                self.crash(at, &touched.clone(), Some(dice[2]), sim, nodes, observer);
            }
            Kind::Isolate => others.iter().for_each(|other| {
                let (a, b) = between(target, *other);
                sim.partition(a, b);
            }),
            Kind::Mute => others.iter().for_each(|other| {
                let (a, b) = between(target, *other);
                sim.partition_oneway(a, b);
            }),
            Kind::Deafen => others.iter().for_each(|other| {
                let (a, b) = between(target, *other);
                sim.partition_oneway(b, a);
            }),
            Kind::Bridge => {
                touched.push(other);
                let (a, b) = between(target, other);
                sim.partition(a, b);
            }
            Kind::Delay => {
                let longest = Duration::from_millis(20 + dice[2] % 280);
                self.each_link(nodes, |a, b| sim.set_link_max_message_latency(a, b, longest));
            }
            Kind::Loss => {
                let rate = 0.001 + (dice[2] % 40) as f64 / 1000.0;
                self.each_link(nodes, |a, b| sim.set_link_fail_rate(a, b, rate));
            }
            Kind::SlowDisk => {
                let slow = Duration::from_millis(10 + dice[2] % 250);
                nodes[target - 1].platter.set_pace(slow / 4, slow);
            }
            Kind::BrokenDisk => nodes[target - 1].platter.fail(),
            Kind::FullDisk => nodes[target - 1].platter.set_room(dice[2] % (DISK_LOW + DISK_LOW / 2)),
            Kind::BitFlip => {
                flipped = nodes[target - 1].platter.flip([dice[1], dice[2]]);
                let Some(flipped) = &flipped else { return };
                story::tell_at(at, "FAULT", format!("BitFlip in {} of n{target}", flipped.place()));
                // What is in memory is not read again: mostly the node starts anew.
                if !dice[2].is_multiple_of(3) {
                    self.crash(at, &[target], None, sim, nodes, observer);
                    let until = at + Duration::from_millis(5 + dice[0] % 100);
                    let nodes = vec![target];
                    let kind = Kind::Kill;
                    self.standing.push(Standing { until, kind, nodes, down: true, moved_ms: 0, flipped: None });
                }
            }
            Kind::Drift => nodes[target - 1].clock.drift(if dice[2] % 2 == 0 { 45_000 } else { -45_000 }),
            Kind::WallJump => {
                let ms = (dice[2] % 3_600_000) as i64;
                moved_ms = if dice[1] % 2 == 0 { ms } else { -ms };
                nodes[target - 1].clock.jump_wall(moved_ms);
            }
            Kind::Usurp => {
                let Some((leader, [early, late])) = self.three(&planned, nodes, observer) else { return };
                if observer.leader(0) != Some(early) {
                    // The one that starts anew must learn of its groups at once: next time.
                    observer
                        .leader(0)
                        .into_iter()
                        .for_each(|meta| Faults::ask(Kind::Transfer, meta, early, nodes, vec![0]));
                    return;
                }
                touched = vec![leader, early, late];
                let (a, b) = between(leader, early);
                sim.partition(a, b);
                self.usurping = Some((at + Duration::from_millis(1300 + dice[2] % 600), leader, late, dice[1]));
            }
            Kind::Transfer | Kind::Snapshot => Faults::ask(kind, target, other, nodes, node::groups(nodes)),
            Kind::Members => {
                let Some(leader) = observer.leader(0).filter(|leader| !self.is_down(*leader)) else { return };
                let wish = self.wish(&planned, nodes);
                story::tell_at(at, "FAULT", format!("{wish:?}"));
                nodes[leader - 1].asked.borrow_mut().push(Asked::Wish(wish));
            }
            Kind::Slots => {
                let Some(leader) = observer.leader(0).filter(|leader| !self.is_down(*leader)) else { return };
                let keys = client::keys_about(at, self.plan.crowded);
                let slots = keys.iter().map(|key| slot_of(key.as_bytes()));
                // Most go to the one group or the other, and some stay where they are by then.
                let to = (dice[1] % 5 > 0).then_some(GroupId(Faults::data_group(dice[0], nodes)));
                let wish = MoveSlots { slots: slots.collect(), to };
                story::tell_at(at, "FAULT", format!("{wish:?}"));
                nodes[leader - 1].asked.borrow_mut().push(Asked::Slots(wish));
            }
            Kind::Groups => {
                let Some(leader) = observer.leader(0).filter(|leader| !self.is_down(*leader)) else { return };
                let wish = Faults::change(dice, nodes);
                story::tell_at(at, "FAULT", format!("{wish:?}"));
                nodes[leader - 1].asked.borrow_mut().push(Asked::Groups(wish));
            }
        }
        self.coverage.note(kind, phases);
        if kind == Kind::Transfer {
            self.transferred = Some(at);
        }
        if kind.is_wish() {
            return;
        }
        story::tell_at(at, "FAULT", format!("{kind:?} at {touched:?} for {lasts:?}"));
        let lasts = if kind == Kind::Usurp { lasts + Duration::from_millis(3000) } else { lasts };
        self.standing.push(Standing { until: at + lasts, kind, nodes: touched, down, moved_ms, flipped });
    }

    /// What the cluster is doing now.
    fn phases(&self, at: Duration, nodes: &[Rc<Node>], observer: &Observer) -> Vec<Phase> {
        let lately = |when: Option<Duration>| when.is_some_and(|when| at.saturating_sub(when) < LATELY);
        let starts = |node: &Rc<Node>| {
            let up = node.cluster.borrow().is_some();
            up && node.lives.get() > 1 && (!node.serving.get() || at.saturating_sub(node.started.get()) < QUARANTINE)
        };
        let groups = node::groups(nodes);
        let phases = [
            (Phase::Electing, groups.iter().any(|group| observer.leaderless(*group))),
            (Phase::Starting, nodes.iter().any(starts)),
            (Phase::CatchingUp, groups.iter().any(|group| observer.lags(*group))),
            (Phase::Snapshot, lately(observer.snapshot_at)),
            (Phase::Transfer, lately(self.transferred)),
            (Phase::Changing, self.plan.spares > 0 && progress::settled(nodes).is_err()),
            (Phase::Moving, self.plan.moving && moving(nodes).is_some_and(|moving| moving.under_way.is_some())),
            (Phase::Grouping, self.plan.grouping && groups::settled(nodes).is_err()),
            (Phase::OtherFault, !self.standing.is_empty()),
        ];
        let holding: Vec<Phase> = phases.into_iter().filter(|(_, holds)| *holds).map(|(phase, _)| phase).collect();
        if holding.is_empty() { vec![Phase::Quiet] } else { holding }
    }

    /// What an operator has done.
    fn wish(&self, planned: &Planned, nodes: &[Rc<Node>]) -> Wish {
        let [which, who, how] = planned.dice;
        let present = Faults::present(nodes);
        let node = nodes[present[(who % present.len() as u64) as usize] - 1].name.clone();
        let spare = nodes.iter().find(|node| !node.belongs.get()).map(|spare| format!("{}:{PEER_PORT}", spare.name));
        match (which % 10, spare) {
            (0..4, Some(address)) => Wish::Add { address },
            (4..6, Some(address)) => Wish::Replace { old: node, address },
            (0..7, _) => Wish::Remove { node, force: how % 3 == 0 },
            (7, _) => Wish::Drain { node, undo: how % 2 == 0 },
            (8, _) => Wish::Rebalance { copies: None },
            // Nobody forbids to go down to few copies, or to one.
            _ => Wish::Rebalance { copies: Some(1 + (how % 3) as usize) },
        }
    }

    /// What an operator has groups do. Those of the beginning have so many slots that they would be under way for minutes: it is
    /// the small ones that go or are split.
    fn change([which, who, how]: [u64; 3], nodes: &[Rc<Node>]) -> ChangeGroups {
        let mut owned: BTreeMap<GroupId, usize> = BTreeMap::new();
        for (first, last, group) in moving(nodes).into_iter().flat_map(|moving| moving.ranges) {
            *owned.entry(group).or_default() += usize::from(last.0 - first.0) + 1;
        }
        let stages = node::stages(nodes);
        let of = |wanted: &[Stage]| -> Vec<GroupId> {
            let small = |id: &GroupId| owned.get(id).is_none_or(|slots| *slots <= SMALL);
            let those = stages.iter().filter(|(id, (stage, _))| wanted.contains(stage) && small(id));
            those.map(|(id, _)| *id).collect()
        };
        let one = |groups: &[GroupId]| groups.get((who % groups.len().max(1) as u64) as usize).copied();
        let has_some = |id: &GroupId| owned.get(id).is_some_and(|slots| *slots > 1);
        let (there, leaving) = (of(&[Stage::Coming, Stage::Begun, Stage::Member]), of(&[Stage::Leaving]));
        let split: Vec<GroupId> = there.iter().copied().filter(has_some).collect();
        if let (1..3, Some(group)) = (which % 10, one(&split)) {
            return ChangeGroups::Split { group, into: None };
        }
        match (which % 10, one(&leaving), one(&there)) {
            (0, Some(group), _) => ChangeGroups::Keep { group },
            (3..7, _, Some(group)) => ChangeGroups::Remove { group, to: Vec::new() },
            (7, _, Some(group)) => ChangeGroups::Remove { group, to: vec![GroupId(1 + (how % 2) as u32)] },
            (_, _, Some(group)) if there.len() >= MOST => ChangeGroups::Remove { group, to: Vec::new() },
            _ => ChangeGroups::Add { group: None },
        }
    }

    /// A group that holds keys.
    fn data_group(dice: u64, nodes: &[Rc<Node>]) -> u32 {
        let groups = &node::groups(nodes)[1..];
        groups[(dice % groups.len() as u64) as usize]
    }

    /// The leader and the followers of a data group of three, if all are up.
    fn three(&self, planned: &Planned, nodes: &[Rc<Node>], observer: &Observer) -> Option<(usize, [usize; 2])> {
        let group = Faults::data_group(planned.dice[0], nodes);
        let leader = observer.leader(group)?;
        let cluster = nodes[leader - 1].cluster.borrow().clone()?;
        let voters = cluster.host().group(GroupId(group))?.status().voters;
        let mut followers: Vec<usize> = voters.iter().map(|id| id.0 as usize).filter(|id| *id != leader).collect();
        if planned.dice[1].is_multiple_of(2) {
            followers.reverse();
        }
        let up = followers.iter().all(|id| !self.is_down(*id));
        followers.try_into().ok().filter(|_| up).map(|followers| (leader, followers))
    }

    #[allow(clippy::too_many_arguments)]
    fn usurp(
        &mut self,
        at: Duration,
        leader: usize,
        follower: usize,
        dice: u64,
        sim: &mut Sim<'_>,
        nodes: &[Rc<Node>],
        observer: &mut Observer,
    ) {
        if self.is_down(follower) || self.is_down(leader) || observer.leader(0) == Some(leader) {
            return;
        }
        story::tell_at(at, "FAULT", format!("Usurp: n{leader} is cut off, n{follower} starts anew"));
        let others = (1..=self.plan.all()).filter(|node| *node != leader);
        others.for_each(|other| sim.partition(nodes[leader - 1].name.clone(), nodes[other - 1].name.clone()));
        self.crash(at, &[follower], None, sim, nodes, observer);
        let until = at + Duration::from_millis(5 + dice % 60);
        let nodes = vec![follower];
        self.standing.push(Standing { until, kind: Kind::Kill, nodes, down: true, moved_ms: 0, flipped: None });
    }

    /// What an operator asks of a node; the answer is only told.
    fn ask(kind: Kind, target: usize, other: usize, nodes: &[Rc<Node>], groups: Vec<u32>) {
        let Some(cluster) = nodes[target - 1].cluster.borrow().clone() else { return };
        for number in groups {
            let Some(group) = cluster.host().group(GroupId(number)) else { continue };
            let asked = match kind {
                Kind::Transfer => Asked::Transfer(group, NodeId(other as u64)),
                _ => Asked::Snapshot(group),
            };
            nodes[target - 1].asked.borrow_mut().push(asked);
        }
    }

    fn each_link(&self, nodes: &[Rc<Node>], mut f: impl FnMut(String, String)) {
        for (at, a) in nodes.iter().enumerate() {
            nodes[at + 1..].iter().for_each(|b| f(a.name.clone(), b.name.clone()));
        }
    }

    /// `luck`: how much of what was not synced is found again; none: all that was written.
    fn crash(
        &self,
        at: Duration,
        which: &[usize],
        luck: Option<u64>,
        sim: &mut Sim<'_>,
        nodes: &[Rc<Node>],
        observer: &mut Observer,
    ) {
        for id in which {
            let node = &nodes[id - 1];
            *node.cluster.borrow_mut() = None;
            *node.failure.borrow_mut() = None;
            node.serving.set(false);
            sim.crash(node.name.clone());
            observer.forget(*id);
            let lost = node.platter.crash(|batches| match luck {
                None => batches,
                Some(luck) => (luck.rotate_left(*id as u32 * 7) % (batches as u64 + 1)) as usize,
            });
            story::tell_at(at, &node.name, format!("goes down, {lost} batches lost"));
        }
    }

    fn undo(&self, at: Duration, standing: Standing, sim: &mut Sim<'_>, nodes: &[Rc<Node>], observer: &mut Observer) {
        let Standing { kind, nodes: touched, moved_ms, down, flipped, .. } = standing;
        let first = &nodes[touched[0] - 1];
        match kind {
            Kind::Kill | Kind::Power | Kind::PowerAll => {
                touched.iter().for_each(|id| sim.bounce(nodes[id - 1].name.clone()));
            }
            Kind::Isolate | Kind::Mute | Kind::Deafen | Kind::Bridge | Kind::Usurp => {
                self.each_link(nodes, |a, b| {
                    sim.repair_oneway(a.clone(), b.clone());
                    sim.repair_oneway(b.clone(), a.clone());
                    sim.repair(a, b);
                });
            }
            Kind::Delay => self.each_link(nodes, |a, b| sim.set_link_max_message_latency(a, b, self.plan.latency)),
            Kind::Loss => {
                // A link that broke just now stays so until somebody mends it, and a cut that stands must stand.
                let cut = self.standing.iter().any(|s| NETWORK.contains(&s.kind));
                self.each_link(nodes, |a, b| {
                    sim.set_link_fail_rate(a.clone(), b.clone(), 0.0);
                    if !cut {
                        sim.repair(a, b);
                    }
                });
            }
            Kind::SlowDisk => first.platter.set_pace(self.plan.disk.0, self.plan.disk.1),
            Kind::BrokenDisk | Kind::FullDisk => {
                first.platter.mend();
                if down {
                    sim.bounce(first.name.clone());
                }
            }
            Kind::BitFlip => {
                flipped.iter().for_each(|flipped| first.platter.unflip(flipped));
                if first.failure.borrow().is_some() {
                    self.crash(at, &touched, None, sim, nodes, observer);
                    sim.bounce(first.name.clone());
                }
            }
            Kind::Drift => first.clock.drift(self.plan.drifts[touched[0] - 1]),
            Kind::WallJump => first.clock.jump_wall(-moved_ms),
            Kind::Transfer | Kind::Snapshot | Kind::Members | Kind::Slots | Kind::Groups => return,
        }
        story::tell_at(at, "HEALED", format!("{kind:?} at {touched:?}"));
    }
}
