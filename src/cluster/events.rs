//! What happens to the cluster, as this node sees it: a feed for operators and programs.
//!
//! A node looks at itself four times a second and tells what is different from the look before: two changes of leader between
//! two looks are one event. Each node has a feed of its own, of what it saw; nothing of it is agreed on, and nobody
//! decides by it.
//!
//! Invariants: numbers rise by one from 1 on; at most [`KEPT`] events are kept, and whoever asks for older ones is told how
//! many are missing; a feed that began anew, because its node did, has another `run`.

use super::life::Stage;
use super::roster::Standing;
use super::{Agreed, Cluster};
use crate::env;
use crate::types::{GroupId, NodeId};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// Events that are kept.
pub const KEPT: usize = 1024;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);
/// Silence of a peer that is less likely than one in a hundred million is suspicious.
pub const SUSPICIOUS_PHI: f64 = 8.0;
/// A wall clock that is farther from this node's is told of.
const CLOCK_APART_MS: u64 = 1_000;

/// What happened. The names are a promise; new ones may come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    NodeAlive,
    NodeSuspected,
    NodeSilent,
    NodeJoining,
    NodeJoined,
    NodeDraining,
    NodeLeaving,
    NodeRemoved,
    NodeAway,
    NodeBack,
    GroupComing,
    GroupAdded,
    GroupLeaving,
    GroupRemoved,
    LeaderChanged,
    LeaderLost,
    MembersChanged,
    SnapshotMade,
    ReplicaFenced,
    ReplicaRebuilt,
    DiskLow,
    DiskRecovered,
    ClockApart,
    ClockAgrees,
    TableChanged,
    SettingsChanged,
}

impl Happening {
    pub fn name(&self) -> &'static str {
        match self {
            Happening::NodeAlive => "node-alive",
            Happening::NodeSuspected => "node-suspected",
            Happening::NodeSilent => "node-silent",
            Happening::NodeJoining => "node-joining",
            Happening::NodeJoined => "node-joined",
            Happening::NodeDraining => "node-draining",
            Happening::NodeLeaving => "node-leaving",
            Happening::NodeRemoved => "node-removed",
            Happening::NodeAway => "node-away",
            Happening::NodeBack => "node-back",
            Happening::GroupComing => "group-coming",
            Happening::GroupAdded => "group-added",
            Happening::GroupLeaving => "group-leaving",
            Happening::GroupRemoved => "group-removed",
            Happening::LeaderChanged => "leader-changed",
            Happening::LeaderLost => "leader-lost",
            Happening::MembersChanged => "members-changed",
            Happening::SnapshotMade => "snapshot-made",
            Happening::ReplicaFenced => "replica-fenced",
            Happening::ReplicaRebuilt => "replica-rebuilt",
            Happening::DiskLow => "disk-low",
            Happening::DiskRecovered => "disk-recovered",
            Happening::ClockApart => "clock-apart",
            Happening::ClockAgrees => "clock-agrees",
            Happening::TableChanged => "table-changed",
            Happening::SettingsChanged => "settings-changed",
        }
    }
}

/// One event, before it has a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    pub what: Happening,
    pub node: Option<NodeId>,
    pub group: Option<GroupId>,
    /// More about it, for people.
    pub text: String,
}

/// One event of the feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub seq: u64,
    /// Unix time in milliseconds, by this node's clock.
    pub at_ms: u64,
    pub news: News,
}

/// What a feed gives who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Events behind the one that was named that are kept no longer.
    pub missed: u64,
    pub events: Vec<Event>,
}

/// The events of this node.
#[derive(Default)]
pub struct Feed {
    /// Drawn when the node began to look: numbers of another run mean nothing here.
    run: AtomicU64,
    kept: Mutex<VecDeque<Event>>,
    /// The newest number.
    newest: watch::Sender<u64>,
}

impl Feed {
    pub fn run(&self) -> u64 {
        self.run.load(Ordering::Relaxed)
    }

    /// The newest number, and word of newer ones.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    fn add(&self, at_ms: u64, news: News) {
        let mut kept = self.kept.lock();
        let seq = kept.back().map_or(1, |last| last.seq + 1);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(Event { seq, at_ms, news });
        self.newest.send_replace(seq);
    }

    /// The first `most` events behind a number; 0 for all that are kept.
    pub fn after(&self, seq: u64, most: usize) -> Batch {
        let kept = self.kept.lock();
        let Some(first) = kept.front().map(|event| event.seq) else { return Batch::default() };
        let begin = (seq + 1).saturating_sub(first) as usize;
        Batch { missed: first.saturating_sub(seq + 1), events: kept.iter().skip(begin).take(most).cloned().collect() }
    }
}

/// How a peer is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    Alive,
    Suspected,
    Silent,
}

/// One group, as far as events tell of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct GroupPicture {
    leader: Option<NodeId>,
    term: u64,
    voters: Vec<BTreeSet<NodeId>>,
    learners: BTreeSet<NodeId>,
    snapshot: u64,
    fenced: bool,
    rebuilt: u64,
}

/// One look.
#[derive(Default)]
struct Picture {
    peers: BTreeMap<NodeId, Heard>,
    apart: BTreeMap<NodeId, i64>,
    standings: BTreeMap<NodeId, (Standing, bool)>,
    stages: Arc<BTreeMap<GroupId, Stage>>,
    groups: BTreeMap<GroupId, GroupPicture>,
    disk_low: bool,
    epoch: u64,
    agreed: Option<Agreed>,
}

impl Picture {
    fn of(cluster: &Cluster) -> Picture {
        let (table, me) = (cluster.table(), cluster.me_id());
        let mut picture = Picture { epoch: table.epoch, stages: cluster.stages.load_full(), ..Picture::default() };
        for node in table.nodes.keys().copied().filter(|node| *node != me) {
            let hearing = cluster.host().peers().hearing(node);
            let heard = match hearing.phi {
                _ if !cluster.alive(node) => Heard::Silent,
                Some(phi) if phi >= SUSPICIOUS_PHI => Heard::Suspected,
                _ => Heard::Alive,
            };
            picture.peers.insert(node, heard);
            let offset = hearing.wall_offset_ms.filter(|ms| ms.unsigned_abs() > CLOCK_APART_MS);
            picture.apart.extend(offset.map(|ms| (node, ms)));
        }
        if let Some(roster) = cluster.roster() {
            picture.standings =
                roster.nodes.iter().map(|(node, entry)| (*node, (entry.standing, entry.away))).collect();
        }
        for group in cluster.host().groups() {
            let (status, (voters, learners)) = (group.status(), group.members_applied());
            let (leader, term, snapshot) = (status.leader, status.term, status.snapshot);
            let (fenced, rebuilt) = (status.fenced, status.rebuilt);
            picture
                .groups
                .insert(group.id(), GroupPicture { leader, term, voters, learners, snapshot, fenced, rebuilt });
        }
        picture.disk_low = cluster.host().disk_low();
        picture.agreed = (table.epoch > 0).then(|| cluster.agreed());
        picture
    }
}

fn about(what: Happening, node: Option<NodeId>, group: Option<GroupId>, text: impl Into<String>) -> News {
    News { what, node, group, text: text.into() }
}

/// What is different, nodes first, then groups, then this node itself.
fn differences(before: &Picture, after: &Picture) -> Vec<News> {
    let mut news = Vec::new();
    for (node, heard) in &after.peers {
        let what = match (before.peers.get(node), heard) {
            (Some(before), heard) if before == heard => continue,
            // That nobody was heard yet is no news.
            (None, Heard::Silent | Heard::Suspected) => continue,
            (_, Heard::Alive) => Happening::NodeAlive,
            (_, Heard::Suspected) => Happening::NodeSuspected,
            (_, Heard::Silent) => Happening::NodeSilent,
        };
        news.push(about(what, Some(*node), None, ""));
    }
    for (node, ms) in after.apart.iter().filter(|(node, _)| !before.apart.contains_key(node)) {
        let text = format!("its wall clock is {ms} ms ahead of this node's");
        news.push(about(Happening::ClockApart, Some(*node), None, text));
    }
    for node in before.apart.keys().filter(|node| !after.apart.contains_key(node) && after.peers.contains_key(node)) {
        news.push(about(Happening::ClockAgrees, Some(*node), None, ""));
    }
    for (node, now) in &after.standings {
        standing(&mut news, *node, before.standings.get(node), *now, before.standings.is_empty());
    }
    for (id, now) in after.stages.iter() {
        stage(&mut news, *id, before.stages.get(id), *now, before.stages.is_empty());
    }
    for (id, group) in &after.groups {
        // What was so when the node began is no news, but for who leads.
        of_group(&mut news, *id, before.groups.get(id), group);
    }
    match (before.disk_low, after.disk_low) {
        (false, true) => news.push(about(Happening::DiskLow, None, None, "writes are refused here")),
        (true, false) => news.push(about(Happening::DiskRecovered, None, None, "writes are taken again")),
        _ => {}
    }
    if before.epoch != after.epoch {
        news.push(about(Happening::TableChanged, None, None, format!("epoch {}", after.epoch)));
    }
    if before.agreed.is_some() && before.agreed != after.agreed {
        news.push(about(Happening::SettingsChanged, None, None, "what CONFIG SET says to all nodes"));
    }
    news
}

fn standing(news: &mut Vec<News>, node: NodeId, before: Option<&(Standing, bool)>, now: (Standing, bool), first: bool) {
    let (standing, away) = now;
    // The first roster tells what was so before.
    if !first && before.map(|(standing, _)| *standing) != Some(standing) {
        let what = match standing {
            Standing::Joining => Happening::NodeJoining,
            Standing::Member => Happening::NodeJoined,
            Standing::Draining => Happening::NodeDraining,
            Standing::Leaving => Happening::NodeLeaving,
            Standing::Gone => Happening::NodeRemoved,
        };
        let text = if before.map(|(s, _)| *s) == Some(Standing::Draining) { "its drain was taken back" } else { "" };
        news.push(about(what, Some(node), None, if standing == Standing::Member { text } else { "" }));
    }
    match (before.is_some_and(|(_, away)| *away), away) {
        (false, true) => {
            let text = "silent for too long: others vote in its place, as far as there are any";
            news.push(about(Happening::NodeAway, Some(node), None, text));
        }
        (true, false) => news.push(about(Happening::NodeBack, Some(node), None, "it gets its share of votes again")),
        _ => {}
    }
}

fn stage(news: &mut Vec<News>, id: GroupId, before: Option<&Stage>, now: Stage, first: bool) {
    let told = |stage| match stage {
        Stage::Coming | Stage::Begun => Happening::GroupComing,
        Stage::Member => Happening::GroupAdded,
        Stage::Leaving => Happening::GroupLeaving,
        Stage::Gone => Happening::GroupRemoved,
    };
    let (what, known) = (told(now), before.map(|stage| told(*stage)));
    // The first table tells what was so before.
    if first || known.as_ref() == Some(&what) {
        return;
    }
    // What can only have been passed between the two looks is told too.
    let passed = match (&known, &what) {
        (None, Happening::GroupAdded) => Some(Happening::GroupComing),
        (Some(Happening::GroupAdded), Happening::GroupRemoved) => Some(Happening::GroupLeaving),
        _ => None,
    };
    news.extend(passed.map(|passed| about(passed, None, Some(id), "")));
    let stays = known == Some(Happening::GroupLeaving) && what == Happening::GroupAdded;
    news.push(about(what, None, Some(id), if stays { "its removal was taken back" } else { "" }));
}

fn of_group(news: &mut Vec<News>, id: GroupId, before: Option<&GroupPicture>, now: &GroupPicture) {
    let mut tell = |what, node, text: String| news.push(about(what, node, Some(id), text));
    let known = before.cloned().unwrap_or_default();
    match now.leader {
        Some(leader) if known.leader != Some(leader) || known.term != now.term => {
            tell(Happening::LeaderChanged, Some(leader), format!("term {}", now.term));
        }
        None if known.leader.is_some() => tell(Happening::LeaderLost, known.leader, format!("term {}", now.term)),
        _ => {}
    }
    let Some(before) = before else { return };
    if !now.voters.is_empty() && (&before.voters, &before.learners) != (&now.voters, &now.learners) {
        tell(Happening::MembersChanged, None, members(now));
    }
    if now.snapshot > before.snapshot {
        tell(Happening::SnapshotMade, None, format!("up to index {}", now.snapshot));
    }
    if now.fenced && !before.fenced {
        tell(Happening::ReplicaFenced, None, "this node's replica differs from the majority".to_owned());
    }
    if now.rebuilt > before.rebuilt {
        tell(Happening::ReplicaRebuilt, None, "this node's replica was rebuilt from the leader".to_owned());
    }
}

fn members(group: &GroupPicture) -> String {
    let list = |nodes: &BTreeSet<NodeId>| nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(",");
    let voters: Vec<String> = group.voters.iter().map(list).collect();
    format!("voters {}, learners {}", voters.join(" to "), list(&group.learners))
}

impl Cluster {
    /// What happened lately, as this node saw it.
    pub fn events(&self) -> &Feed {
        &self.feed
    }

    /// Looks at this node and tells what is new. Never ends.
    pub async fn keep_events(self: Arc<Self>) {
        self.feed.run.store(env::seed(), Ordering::Relaxed);
        let mut before = Picture::default();
        loop {
            let after = Picture::of(&self);
            for news in differences(&before, &after) {
                self.feed.add(env::wall_ms(), news);
            }
            before = after;
            env::sleep(LOOK).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(before: &Picture, after: &Picture) -> Vec<(&'static str, Option<u64>, Option<u32>)> {
        let news = differences(before, after);
        news.iter().map(|one| (one.what.name(), one.node.map(|n| n.0), one.group.map(|g| g.0))).collect()
    }

    fn picture(change: impl FnOnce(&mut Picture)) -> Picture {
        let set = |ids: &[u64]| ids.iter().map(|id| NodeId(*id)).collect::<BTreeSet<_>>();
        let group =
            GroupPicture { leader: Some(NodeId(1)), term: 3, voters: vec![set(&[1, 2])], ..GroupPicture::default() };
        let mut picture = Picture {
            peers: [(NodeId(2), Heard::Alive)].into(),
            standings: [(NodeId(1), (Standing::Member, false)), (NodeId(2), (Standing::Member, false))].into(),
            stages: Arc::new([(GroupId(1), Stage::Member), (GroupId(2), Stage::Leaving)].into()),
            groups: [(GroupId(1), group)].into(),
            epoch: 1,
            ..Picture::default()
        };
        change(&mut picture);
        picture
    }

    #[test]
    fn every_difference_is_told_once_and_sameness_is_not() {
        let before = picture(|_| ());
        assert_eq!(names(&before, &picture(|_| ())), []);
        let group = |change: fn(&mut GroupPicture)| picture(|p| change(p.groups.get_mut(&GroupId(1)).unwrap()));
        let standing = |now| {
            picture(|p| {
                p.standings.insert(NodeId(2), now);
            })
        };
        let stage = |id, now| {
            picture(|p| {
                Arc::make_mut(&mut p.stages).insert(GroupId(id), now);
            })
        };
        let heard = |now| {
            picture(|p| {
                p.peers.insert(NodeId(2), now);
            })
        };
        let (node, of_group) = (|name| vec![(name, Some(2), None)], |name, node| vec![(name, node, Some(1))]);
        let cases = [
            (heard(Heard::Suspected), node("node-suspected")),
            (heard(Heard::Silent), node("node-silent")),
            (standing((Standing::Leaving, false)), node("node-leaving")),
            (standing((Standing::Gone, false)), node("node-removed")),
            (standing((Standing::Member, true)), node("node-away")),
            (
                picture(|p| {
                    p.apart.insert(NodeId(2), 5000);
                }),
                node("clock-apart"),
            ),
            (
                picture(|p| {
                    p.standings.insert(NodeId(3), (Standing::Joining, false));
                }),
                vec![("node-joining", Some(3), None)],
            ),
            (stage(3, Stage::Coming), vec![("group-coming", None, Some(3))]),
            (stage(3, Stage::Member), vec![("group-coming", None, Some(3)), ("group-added", None, Some(3))]),
            (stage(1, Stage::Leaving), of_group("group-leaving", None)),
            (stage(1, Stage::Gone), vec![("group-leaving", None, Some(1)), ("group-removed", None, Some(1))]),
            (stage(2, Stage::Member), vec![("group-added", None, Some(2))]),
            (group(|g| g.leader = Some(NodeId(2))), of_group("leader-changed", Some(2))),
            (group(|g| g.term = 4), of_group("leader-changed", Some(1))),
            (group(|g| g.leader = None), of_group("leader-lost", Some(1))),
            (
                group(|g| {
                    g.learners.insert(NodeId(3));
                }),
                of_group("members-changed", None),
            ),
            (group(|g| g.snapshot = 9), of_group("snapshot-made", None)),
            (group(|g| g.fenced = true), of_group("replica-fenced", None)),
            (group(|g| g.rebuilt = 1), of_group("replica-rebuilt", None)),
            (picture(|p| p.disk_low = true), vec![("disk-low", None, None)]),
            (picture(|p| p.epoch = 2), vec![("table-changed", None, None)]),
        ];
        for (after, told) in cases {
            assert_eq!(names(&before, &after), told);
        }
        assert_eq!(names(&heard(Heard::Silent), &before), node("node-alive"));
        assert_eq!(names(&standing((Standing::Member, true)), &before), node("node-back"));
        assert_eq!(names(&standing((Standing::Draining, false)), &before), node("node-joined"));
        assert_eq!(names(&stage(3, Stage::Coming), &stage(3, Stage::Begun)), [], "it comes still");
        assert_eq!(names(&stage(3, Stage::Coming), &stage(3, Stage::Gone)), [("group-removed", None, Some(3))]);
    }

    #[test]
    fn what_was_so_when_a_node_began_is_no_news() {
        let told = names(
            &Picture::default(),
            &picture(|p| {
                p.peers.insert(NodeId(3), Heard::Silent);
            }),
        );
        let expected =
            [("node-alive", Some(2), None), ("leader-changed", Some(1), Some(1)), ("table-changed", None, None)];
        assert_eq!(told, expected);
    }

    #[test]
    fn numbers_rise_by_one_and_what_is_gone_is_told() {
        let feed = Feed::default();
        assert_eq!(feed.after(0, 10), Batch::default());
        for at in 1..=KEPT as u64 + 5 {
            feed.add(at, about(Happening::TableChanged, None, None, ""));
        }
        let seqs = |batch: &Batch| batch.events.iter().map(|event| event.seq).collect::<Vec<_>>();
        let all = feed.after(0, 2);
        assert_eq!((all.missed, seqs(&all)), (5, vec![6, 7]));
        let next = feed.after(7, 1);
        assert_eq!((next.missed, seqs(&next)), (0, vec![8]));
        let newest = KEPT as u64 + 5;
        assert_eq!((*feed.watch().borrow(), feed.after(newest, 9)), (newest, Batch::default()));
    }
}
