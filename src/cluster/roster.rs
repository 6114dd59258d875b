//! The roster: who belongs to the cluster and how, and which nodes are to vote where. A document of the meta group.
//!
//! Pure: what an operator wants becomes another roster, or a refusal. It is written by comparison with the one it was made
//! from, so of two changes at once one begins again (`membership.rs`); what it asks for is brought about by `driver.rs`.
//!
//! Invariants: a number is given out once and its node is never forgotten; one node at a time is joining, and none is
//! admitted while others leave, though several may leave at once, as one of them may wait for another that died, and one that
//! is dead may leave while another joins; the target
//! names nodes that may vote, and every group as often as there are copies, as far as there are nodes.

use super::placement::{self, Target};
use crate::types::{GroupId, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Where it is kept.
pub(super) const ROSTER: &str = "roster";
/// Newest version that is known, and the one that is written.
const VERSION: u32 = 1;

/// How a node belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// Admitted; it is being given copies of all groups.
    Joining,
    Member,
    /// It is to lead nothing, and to vote nowhere if there are enough others.
    Draining,
    /// It votes and leads nowhere as soon as that can be, and then is gone.
    Leaving,
    /// It was removed. Its number is never used again.
    Gone,
}

impl Standing {
    pub fn name(self) -> &'static str {
        match self {
            Standing::Joining => "joining",
            Standing::Member => "member",
            Standing::Draining => "draining",
            Standing::Leaving => "leaving",
            Standing::Gone => "gone",
        }
    }
}

/// A node in the roster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub name: String,
    /// Of its data directory; 0, of which nothing is known, is never written.
    pub incarnation: u64,
    /// Its peer address when it was admitted.
    pub address: String,
    pub standing: Standing,
    /// The node whose place it takes.
    #[serde(default)]
    pub replaces: Option<NodeId>,
    /// What fails together with it, as it said last; empty where nothing is known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub zone: String,
    /// It was silent for so long that others vote in its place, as far as there are any.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub away: bool,
}

/// The document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    pub version: u32,
    /// Voters of each data group, where there are nodes enough.
    pub copies: usize,
    pub nodes: BTreeMap<NodeId, Entry>,
    /// Who votes where when all is done; the meta group among the others.
    pub target: Target,
    /// Leaders are to be brought to the first voters of their groups.
    pub level_leaders: bool,
}

/// Why a wish cannot be granted. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the name {name} is that of node {node}, which belongs to the cluster")]
    UsedName { name: String, node: NodeId },
    #[error("{address} belongs to another cluster ({cluster})")]
    Foreign { address: String, cluster: String },
    #[error("{address} is node {node}, whose data directory is not the one the cluster knows")]
    OtherIncarnation { address: String, node: NodeId },
    #[error("{address} is node {node}, which belongs to the cluster already")]
    Belongs { address: String, node: NodeId },
    #[error("{address} cannot be reached as an empty node that waits to be added: {cause}")]
    Unreachable { address: String, cause: String },
    #[error("it is not known where a node {name} waits: {why}")]
    NotHeard { name: String, why: &'static str },
    #[error("more than one node {name} waits, at {places}")]
    Ambiguous { name: String, places: String },
    #[error("there is no node {0} in the cluster")]
    NoSuchNode(String),
    #[error("node {0} was removed from the cluster")]
    Gone(NodeId),
    #[error("node {node} is {} just now, and one node at a time joins or leaves", standing.name())]
    Busy { node: NodeId, standing: Standing },
    #[error("{left} nodes would be left for {copies} copies of every group")]
    TooFew { left: usize, copies: usize },
    #[error(
        "node {0} votes in this cluster and never came so far: before nodes come or go it must be known who has its number"
    )]
    NeverCame(NodeId),
    #[error("{0} cannot be placed: the cluster has {1} nodes that may vote")]
    CannotPlace(String, usize),
}

impl Roster {
    /// The roster of a cluster that had none so far.
    ///
    /// # Errors
    /// The first voter that is not among the nodes, or of whose directory nothing is known: its number would be given to
    /// another, who would vote with an empty disk.
    pub fn founded(nodes: impl Iterator<Item = (NodeId, Entry)>, target: Target) -> Result<Roster, Refused> {
        let nodes: BTreeMap<NodeId, Entry> = nodes.collect();
        let known = |node: &NodeId| nodes.get(node).is_some_and(|entry| entry.incarnation != 0);
        if let Some(unknown) = nodes.keys().chain(target.values().flatten()).find(|node| !known(node)) {
            return Err(Refused::NeverCame(*unknown));
        }
        let data = target.iter().filter(|(group, _)| **group != GroupId::META);
        let copies = data.map(|(_, voters)| voters.len()).max().unwrap_or(1);
        Ok(Roster { version: VERSION, copies, nodes, target, level_leaders: false })
    }

    pub fn parse(json: &[u8]) -> Result<Roster, String> {
        let roster: Roster = serde_json::from_slice(json).map_err(|e| format!("{ROSTER}: {e}"))?;
        match roster.version > VERSION {
            true => Err(format!("the roster has version {}, this program knows {VERSION}", roster.version)),
            false => Ok(roster),
        }
    }

    pub fn document(&self) -> String {
        serde_json::to_string(self).expect("the roster is plain data")
    }

    pub fn standing(&self, node: NodeId) -> Option<Standing> {
        self.nodes.get(&node).map(|entry| entry.standing)
    }

    /// Nodes of a standing, by number.
    pub fn with(&self, standing: Standing) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes.iter().filter(move |(_, entry)| entry.standing == standing).map(|(node, _)| *node)
    }

    /// Nodes that may be given votes: members that are there.
    fn able(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.with(Standing::Member).filter(|node| !self.nodes[node].away)
    }

    /// With their zones, for a plan.
    pub(super) fn zoned(&self, nodes: impl IntoIterator<Item = NodeId>) -> BTreeMap<NodeId, String> {
        let zone = |node: NodeId| self.nodes.get(&node).map(|entry| entry.zone.clone()).unwrap_or_default();
        nodes.into_iter().map(|node| (node, zone(node))).collect()
    }

    /// The node of this incarnation.
    pub fn find(&self, incarnation: u64) -> Option<NodeId> {
        self.nodes.iter().find(|(_, entry)| entry.incarnation == incarnation).map(|(node, _)| *node)
    }

    /// A node by its name or number; a name means the one that is there, not one that is gone.
    pub fn named(&self, text: &str) -> Result<NodeId, Refused> {
        let there = |(_, entry): &(&NodeId, &Entry)| entry.name == text && entry.standing != Standing::Gone;
        let found = self.nodes.iter().find(there).or_else(|| self.nodes.iter().find(|(n, _)| text.parse() == Ok(n.0)));
        // Who asks again after it was removed asks by the same name.
        let found = found.or_else(|| self.nodes.iter().rev().find(|(_, entry)| entry.name == text));
        found.map(|(node, _)| *node).ok_or_else(|| Refused::NoSuchNode(text.to_owned()))
    }

    /// Some other node is joining or leaving.
    fn check_idle(&self, but: Option<NodeId>) -> Result<(), Refused> {
        let moving = |(node, entry): &(&NodeId, &Entry)| {
            matches!(entry.standing, Standing::Joining | Standing::Leaving) && Some(**node) != but
        };
        match self.nodes.iter().find(moving) {
            Some((node, entry)) => Err(Refused::Busy { node: *node, standing: entry.standing }),
            None => Ok(()),
        }
    }

    /// Admits a node that comes with an empty directory, in the place of another or besides all. One that was admitted
    /// before keeps its number.
    pub fn admit(
        &mut self,
        name: &str,
        address: &str,
        incarnation: u64,
        zone: &str,
        replaces: Option<NodeId>,
    ) -> Result<NodeId, Refused> {
        if let Some(known) = self.find(incarnation) {
            return if self.nodes[&known].standing == Standing::Gone { Err(Refused::Gone(known)) } else { Ok(known) };
        }
        self.check_idle(None)?;
        let holds_name = |(node, entry): &(&NodeId, &Entry)| {
            entry.name == name && entry.standing != Standing::Gone && Some(**node) != replaces
        };
        if let Some((node, _)) = self.nodes.iter().find(holds_name) {
            return Err(Refused::UsedName { name: name.to_owned(), node: *node });
        }
        let given_out = self.nodes.keys().chain(self.target.values().flatten());
        let node = NodeId(given_out.max().map_or(1, |last| last.0 + 1));
        let (name, address, zone) = (name.to_owned(), address.to_owned(), zone.to_owned());
        let entry = Entry { name, incarnation, address, standing: Standing::Joining, replaces, zone, away: false };
        self.nodes.insert(node, entry);
        Ok(node)
    }

    /// Nodes have said in which zones they are. Moves nothing: the next plan reckons with it.
    pub fn note_zones<'a>(&mut self, said: impl Iterator<Item = (NodeId, &'a str)>) {
        for (node, zone) in said {
            if let Some(entry) = self.nodes.get_mut(&node).filter(|entry| entry.zone != zone) {
                entry.zone = zone.to_owned();
            }
        }
    }

    /// These were silent for too long, or are back: votes are placed anew if that is news.
    pub fn note_away(&mut self, nodes: &BTreeSet<NodeId>, away: bool) {
        let mut news = false;
        for node in nodes {
            if let Some(entry) = self.nodes.get_mut(node).filter(|entry| entry.away != away) {
                entry.away = away;
                news = true;
            }
        }
        if news {
            self.plan();
        }
    }

    /// A node that was joining has copies of all groups: it may vote from now on.
    pub fn welcome(&mut self, node: NodeId) {
        let Some(entry) = self.nodes.get_mut(&node).filter(|entry| entry.standing == Standing::Joining) else { return };
        entry.standing = Standing::Member;
        if let Some(old) = entry.replaces {
            for voter in self.target.values_mut().flatten().filter(|voter| **voter == old) {
                *voter = node;
            }
            if let Some(old) = self.nodes.get_mut(&old).filter(|entry| entry.standing != Standing::Gone) {
                old.standing = Standing::Leaving;
            }
        }
        self.plan();
    }

    /// Moves leaders off a node, and votes where others can have them. Says whether they can.
    pub fn drain(&mut self, node: NodeId) -> Result<bool, Refused> {
        self.stand(node, Standing::Draining)?;
        Ok(!self.target.values().flatten().any(|voter| *voter == node))
    }

    /// Takes a drain back.
    pub fn undrain(&mut self, node: NodeId) -> Result<(), Refused> {
        self.stand(node, Standing::Member)
    }

    /// Gives a node that belongs another standing, where nothing else is under way, and plans anew.
    fn stand(&mut self, node: NodeId, standing: Standing) -> Result<(), Refused> {
        self.check_idle(None)?;
        match self.nodes.get_mut(&node) {
            None => return Err(Refused::NoSuchNode(node.to_string())),
            Some(entry) if entry.standing == Standing::Gone => return Err(Refused::Gone(node)),
            Some(entry) => entry.standing = standing,
        }
        self.plan();
        Ok(())
    }

    /// Lets a node go, also while others are leaving: what they wait for may be this one; one that is not alive also while another
    /// joins. `force`: with fewer copies, if there are not enough others.
    pub fn leave(&mut self, node: NodeId, force: bool, alive: bool) -> Result<(), Refused> {
        match self.standing(node) {
            None => return Err(Refused::NoSuchNode(node.to_string())),
            Some(Standing::Gone | Standing::Leaving) => return Ok(()),
            Some(_) if !alive => {}
            Some(_) => {
                if let Some(other) = self.with(Standing::Joining).find(|other| *other != node) {
                    return Err(Refused::Busy { node: other, standing: Standing::Joining });
                }
            }
        }
        let left = self.able().chain(self.with(Standing::Draining)).filter(|n| *n != node).count();
        // One that was never given a vote takes none away.
        let votes = self.target.values().flatten().any(|voter| *voter == node);
        if (votes && left < self.copies && !force) || left == 0 {
            return Err(Refused::TooFew { left, copies: self.copies });
        }
        if votes {
            self.copies = self.copies.min(left);
        }
        self.nodes.get_mut(&node).expect("it has a standing").standing = Standing::Leaving;
        self.plan();
        Ok(())
    }

    /// Evens out votes and leaders, with so many copies if that is said.
    pub fn rebalance(&mut self, copies: Option<usize>) -> Result<(), Refused> {
        self.check_idle(None)?;
        let most = self.able().count();
        if let Some(copies) = copies.filter(|copies| *copies != self.copies) {
            if copies == 0 || copies > most {
                return Err(Refused::CannotPlace(format!("{copies} copies of every group"), most));
            }
            self.copies = copies;
        }
        self.plan();
        self.level_leaders = true;
        Ok(())
    }

    /// Places a group that comes; whether anybody can vote in it.
    pub(super) fn place(&mut self, group: GroupId) -> bool {
        self.target.entry(group).or_default();
        self.plan();
        let placed = self.target.get(&group).is_some_and(|voters| !voters.is_empty());
        if !placed {
            self.target.remove(&group);
        }
        placed
    }

    /// Groups that have gone are placed no more, and the others evened out.
    pub(super) fn forget(&mut self, gone: impl Fn(GroupId) -> bool) {
        let before = self.target.len();
        self.target.retain(|group, _| !gone(*group));
        if self.target.len() < before {
            self.plan();
        }
    }

    /// A node that votes nowhere any more is told to go.
    pub fn dismiss(&mut self, node: NodeId) {
        if let Some(entry) = self.nodes.get_mut(&node) {
            entry.standing = Standing::Gone;
        }
    }

    /// Draws up who votes where.
    fn plan(&mut self) {
        let able: Vec<NodeId> = self.able().collect();
        // Where there is no spare, those that are drained or away go on voting: the ones that do so already, first.
        let away = self.with(Standing::Member).filter(|node| self.nodes[node].away);
        let others: Vec<NodeId> = self.with(Standing::Draining).chain(away).collect();
        let filled = |target: &Target, voters: usize| {
            let mut fill = others.clone();
            fill.sort_by_key(|node| !target.values().flatten().any(|voter| voter == node));
            fill.truncate(voters.saturating_sub(able.len()));
            self.zoned(able.iter().copied().chain(fill))
        };
        let mut data = self.target.clone();
        let meta = Target::from([(GroupId::META, data.remove(&GroupId::META).unwrap_or_default())]);
        let may_vote = filled(&data, self.copies);
        if may_vote.is_empty() {
            return;
        }
        let may_lead = |node| !others.contains(&node);
        let mut after = placement::plan(&data, &may_vote, self.copies, may_lead);
        // Three nodes are enough for a third vote, be one of them away: with two voters the next loss would be one too many.
        let voters = match able.len() + others.len() {
            3.. => placement::meta_voters(able.len()).max(placement::meta_voters(3)),
            _ => placement::meta_voters(may_vote.len()),
        };
        after.extend(placement::plan(&meta, &filled(&meta, voters), voters, may_lead));
        self.level_leaders |= after != self.target;
        self.target = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(id: u64) -> Entry {
        let (name, address) = (format!("node-{id}"), format!("h{id}:7000"));
        let (zone, away) = (String::new(), false);
        Entry { name, incarnation: 1000 + id, address, standing: Standing::Member, replaces: None, zone, away }
    }

    fn roster(nodes: u64, groups: u32) -> Roster {
        let all: Vec<NodeId> = (1..=nodes).map(NodeId).collect();
        let target = (0..=groups).map(|group| (GroupId(group), all.clone())).collect();
        Roster::founded((1..=nodes).map(|id| (NodeId(id), entry(id))), target).unwrap()
    }

    fn join(roster: &mut Roster, id: u64) -> NodeId {
        let node = roster.admit(&format!("node-{id}"), "h:1", 1000 + id, "", None).unwrap();
        roster.welcome(node);
        node
    }

    fn voters(roster: &Roster) -> BTreeSet<NodeId> {
        roster.target.values().flatten().copied().collect()
    }

    #[test]
    fn a_fourth_node_gets_votes_and_the_one_that_goes_loses_them() {
        let mut roster = roster(3, 8);
        let four = roster.admit("node-4", "h4:7000", 1004, "", None).unwrap();
        assert_eq!((four, roster.standing(four)), (NodeId(4), Some(Standing::Joining)));
        assert!(!voters(&roster).contains(&four), "not before it has copies");
        assert_eq!(roster.admit("node-4", "h4:7000", 1004, "", None), Ok(four), "asked twice");
        roster.welcome(four);
        let votes = |r: &Roster, node| r.target.iter().filter(|(g, v)| g.0 > 0 && v.contains(&node)).count();
        assert_eq!((1..=4).map(|id| votes(&roster, NodeId(id))).collect::<Vec<_>>(), [6; 4]);
        assert_eq!(roster.target[&GroupId::META].len(), 3);
        roster.leave(NodeId(2), false, true).unwrap();
        assert_eq!(voters(&roster), [1, 3, 4].map(NodeId).into());
        assert_eq!(roster.leave(NodeId(2), false, true), Ok(()), "asked twice");
        let busy = roster.admit("node-5", "h5:7000", 1005, "", None);
        assert_eq!(busy, Err(Refused::Busy { node: NodeId(2), standing: Standing::Leaving }));
        roster.dismiss(NodeId(2));
        assert_eq!(roster.admit("node-2", "h2:7000", 2002, "", None), Ok(NodeId(5)), "its number stays its own");
        assert_eq!(roster.admit("node-2", "h2:7000", 1002, "", None), Err(Refused::Gone(NodeId(2))));
    }

    #[test]
    fn a_group_that_comes_is_placed_beside_the_others_and_one_that_goes_leaves_its_votes_evened_out() {
        let mut roster = roster(3, 4);
        assert!(join(&mut roster, 4) == NodeId(4) && roster.place(GroupId(5)));
        let votes = |r: &Roster| -> Vec<usize> {
            let of = |id: u64| r.target.iter().filter(|(group, v)| group.0 > 0 && v.contains(&NodeId(id))).count();
            (1..=4).map(of).collect()
        };
        let placed = roster.clone();
        assert_eq!(roster.target[&GroupId(5)].len(), 3);
        assert_eq!((votes(&roster).iter().min(), votes(&roster).iter().max()), (Some(&3), Some(&4)));
        assert!(roster.place(GroupId(5)) && roster.target == placed.target, "asked twice");
        roster.forget(|group| group == GroupId(1));
        assert!(!roster.target.contains_key(&GroupId(1)) && votes(&roster) == [3; 4]);
        let known = roster.clone();
        roster.forget(|group| group == GroupId(1));
        assert_eq!(roster, known, "asked twice");
        let mut empty = Roster { nodes: BTreeMap::new(), ..known };
        assert!(!empty.place(GroupId(6)) && !empty.target.contains_key(&GroupId(6)), "there is nobody to vote");
    }

    #[test]
    fn a_founder_that_never_came_keeps_its_number() {
        let all: Vec<NodeId> = (1..=3).map(NodeId).collect();
        let target = Target::from([(GroupId::META, all)]);
        let two = || (1..=2).map(|id| (NodeId(id), entry(id)));
        assert_eq!(Roster::founded(two(), target.clone()), Err(Refused::NeverCame(NodeId(3))));
        let unmet = (NodeId(3), Entry { incarnation: 0, ..entry(3) });
        assert_eq!(Roster::founded(two().chain([unmet]), target.clone()), Err(Refused::NeverCame(NodeId(3))));
        // Even if a document lacks it.
        let mut roster = Roster { version: VERSION, copies: 3, nodes: two().collect(), target, level_leaders: false };
        assert_eq!(roster.admit("node-4", "h4:7000", 1004, "", None), Ok(NodeId(4)));
    }

    #[test]
    fn three_nodes_do_not_become_two_without_force() {
        let mut roster = roster(3, 8);
        assert_eq!(roster.leave(NodeId(3), false, true), Err(Refused::TooFew { left: 2, copies: 3 }));
        roster.leave(NodeId(3), true, true).unwrap();
        assert_eq!((roster.copies, voters(&roster)), (2, [1, 2].map(NodeId).into()));
        assert!(self::roster(1, 1).leave(NodeId(1), true, true).is_err(), "somebody stays");
    }

    #[test]
    fn a_node_that_died_may_go_while_another_waits_for_it() {
        let mut roster = roster(3, 8);
        let (four, five) = (join(&mut roster, 4), join(&mut roster, 5));
        roster.leave(NodeId(2), false, true).unwrap();
        assert!(voters(&roster).contains(&four));
        roster.leave(four, false, true).unwrap();
        assert_eq!(roster.with(Standing::Leaving).collect::<Vec<_>>(), [NodeId(2), four]);
        assert_eq!(voters(&roster), [NodeId(1), NodeId(3), five].into());
        assert_eq!(roster.leave(five, false, true), Err(Refused::TooFew { left: 2, copies: 3 }));
        assert!(roster.admit("node-6", "h6:7000", 1006, "", None).is_err());
    }

    #[test]
    fn a_node_that_is_still_joining_may_go_again() {
        let mut roster = roster(3, 8);
        let four = roster.admit("node-4", "h4:7000", 1004, "", None).unwrap();
        roster.leave(four, false, true).unwrap();
        assert_eq!((roster.standing(four), roster.copies), (Some(Standing::Leaving), 3));
    }

    #[test]
    fn a_dead_node_may_go_while_another_joins() {
        let mut roster = roster(4, 8);
        roster.rebalance(Some(3)).unwrap();
        let five = roster.admit("node-5", "h5:7000", 1005, "", None).unwrap();
        let busy = Refused::Busy { node: five, standing: Standing::Joining };
        assert_eq!(roster.leave(NodeId(2), false, true), Err(busy));
        roster.leave(NodeId(2), false, false).unwrap();
        assert_eq!(voters(&roster), [1, 3, 4].map(NodeId).into());
        roster.welcome(five);
        assert_eq!(
            (roster.standing(NodeId(2)), roster.standing(five)),
            (Some(Standing::Leaving), Some(Standing::Member))
        );
        assert_eq!(roster.leave(NodeId(3), false, false), Ok(()), "three are left");
    }

    #[test]
    fn without_a_spare_a_drained_node_votes_on_and_leads_nowhere() {
        let mut three = roster(3, 8);
        assert_eq!(three.drain(NodeId(1)), Ok(false));
        assert!(three.target.values().all(|v| v.len() == 3 && v[0] != NodeId(1)));
        three.undrain(NodeId(1)).unwrap();
        let mut four = roster(3, 8);
        join(&mut four, 4);
        assert_eq!(four.drain(NodeId(1)), Ok(true));
        assert_eq!(voters(&four), [2, 3, 4].map(NodeId).into());
    }

    #[test]
    fn who_replaces_another_takes_its_name_and_all_of_its_votes() {
        let mut roster = roster(3, 8);
        let used = roster.admit("node-2", "h2:7000", 2002, "", None);
        assert_eq!(used, Err(Refused::UsedName { name: "node-2".to_owned(), node: NodeId(2) }));
        let new = roster.admit("node-2", "h2:7000", 2002, "", Some(NodeId(2))).unwrap();
        assert!(voters(&roster).contains(&NodeId(2)), "until the new one has copies");
        roster.welcome(new);
        assert_eq!(
            (roster.standing(NodeId(2)), roster.standing(new)),
            (Some(Standing::Leaving), Some(Standing::Member))
        );
        assert_eq!(voters(&roster), [1, 3, 4].map(NodeId).into());
        roster.dismiss(NodeId(2));
        assert_eq!(roster.named("node-2"), Ok(new));
        assert_eq!(roster.named("2"), Ok(NodeId(2)));
    }

    #[test]
    fn who_is_silent_for_long_gives_its_votes_to_a_spare_and_gets_its_share_again() {
        let mut roster = roster(3, 8);
        let dead = BTreeSet::from([NodeId(2)]);
        let before = roster.target.clone();
        roster.note_away(&dead, true);
        let votes =
            |target: &Target| target.values().map(|v| v.iter().copied().collect()).collect::<Vec<BTreeSet<_>>>();
        assert_eq!(votes(&roster.target), votes(&before), "there is no spare: a vote is not given up for nothing");
        assert!(roster.target.values().all(|v| v[0] != NodeId(2)), "and it is not waited for as a leader");
        let four = join(&mut roster, 4);
        assert_eq!(voters(&roster), [NodeId(1), NodeId(3), four].into(), "a spare has come");
        assert_eq!(
            roster.leave(NodeId(3), false, true),
            Err(Refused::TooFew { left: 2, copies: 3 }),
            "the dead do not count"
        );
        roster.note_away(&dead, false);
        let votes = |node| roster.target.iter().filter(|(g, v)| g.0 > 0 && v.contains(&node)).count();
        assert_eq!((1..=4).map(|id| votes(NodeId(id))).collect::<Vec<_>>(), [6; 4]);
    }

    #[test]
    fn a_node_that_is_away_or_drained_takes_no_vote_of_the_meta_group_with_it_where_there_is_no_spare() {
        for copies in [1, 2] {
            let mut roster = roster(3, 8);
            roster.rebalance(Some(copies)).unwrap();
            let meta = |roster: &Roster| roster.target[&GroupId::META].iter().copied().collect::<BTreeSet<_>>();
            let all = BTreeSet::from([1, 2, 3].map(NodeId));
            roster.note_away(&BTreeSet::from([NodeId(2)]), true);
            assert_eq!(meta(&roster), all, "{copies} copies");
            assert!(roster.target.iter().all(|(g, v)| g.0 == 0 || !v.contains(&NodeId(2))), "others vote in its place");
            assert_ne!(roster.target[&GroupId::META][0], NodeId(2));
            let four = join(&mut roster, 4);
            assert_eq!(meta(&roster), [NodeId(1), NodeId(3), four].into(), "a spare has come");
            roster.leave(four, false, true).unwrap();
            roster.dismiss(four);
            assert_eq!(meta(&roster), all);
            roster.note_away(&BTreeSet::from([NodeId(2)]), false);
            assert_eq!(roster.drain(NodeId(3)), Ok(false), "it goes on voting in the meta group");
            assert_eq!(meta(&roster), all);
        }
    }

    #[test]
    fn the_meta_group_has_an_odd_number_of_voters_whoever_is_drained() {
        let mut roster = roster(3, 8);
        for id in [4, 5] {
            join(&mut roster, id);
        }
        assert_eq!(roster.target[&GroupId::META].len(), 5);
        assert_eq!(roster.drain(NodeId(2)), Ok(true), "four are left");
        assert_eq!(roster.target[&GroupId::META].len(), 3);
    }

    #[test]
    fn votes_of_every_group_stand_in_zones_of_their_own_once_they_are_known() {
        let mut roster = roster(3, 8);
        for id in [4, 5, 6] {
            join(&mut roster, id);
        }
        let zone = |node: NodeId| if node.0 <= 3 { ["a", "a", "b"][node.0 as usize - 1] } else { "c" };
        roster.note_zones((1..=6).map(|id| (NodeId(id), zone(NodeId(id)))));
        roster.rebalance(None).unwrap();
        for (group, voters) in &roster.target {
            let zones: BTreeSet<&str> = voters.iter().map(|voter| zone(*voter)).collect();
            assert_eq!(zones.len(), 3, "group {group}: {voters:?}");
        }
    }

    #[test]
    fn more_copies_than_nodes_are_refused() {
        let mut roster = roster(3, 4);
        assert!(matches!(roster.rebalance(Some(4)), Err(Refused::CannotPlace(..))));
        roster.rebalance(Some(1)).unwrap();
        assert!(roster.target.iter().all(|(g, v)| g.0 == 0 || v.len() == 1));
    }

    #[test]
    fn it_reads_back_what_it_wrote_and_refuses_a_later_version() {
        let roster = roster(3, 2);
        assert_eq!(Roster::parse(roster.document().as_bytes()), Ok(roster.clone()));
        let later = Roster { version: 2, ..roster }.document();
        assert!(Roster::parse(later.as_bytes()).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(150))]
        /// Whatever operators want in whatever order: each group has its voters, and only nodes that may vote.
        #[test]
        fn the_target_always_names_nodes_that_may_vote(wishes in prop::collection::vec((0..9u8, 1..9u64), 1..30)) {
            let mut roster = roster(3, 5);
            roster.plan();
            let mut fresh = 5000;
            for (wish, id) in wishes {
                let node = NodeId(id);
                match wish {
                    0 => {
                        fresh += 1;
                        drop(roster.admit(&format!("n{fresh}"), "h:1", fresh, "", None));
                    }
                    1 => roster.with(Standing::Joining).collect::<Vec<_>>().into_iter().for_each(|n| roster.welcome(n)),
                    2 => drop(roster.drain(node)),
                    3 => drop(roster.leave(node, id % 2 == 0, id % 3 > 0)),
                    5 => roster.note_away(&BTreeSet::from([node]), true),
                    6 => roster.note_away(&BTreeSet::from([node]), false),
                    7 => {
                        roster.note_zones(std::iter::once((node, ["a", "b", "c"][(fresh % 3) as usize])));
                        // Refused while a node joins; then the plan is made when it has come.
                        roster.rebalance(None).map(drop).unwrap_or_else(|_| roster.plan());
                    }
                    4 => roster.with(Standing::Leaving).collect::<Vec<_>>().into_iter().for_each(|n| roster.dismiss(n)),
                    _ => drop(roster.undrain(node)),
                }
                let may = |node: &NodeId| matches!(roster.standing(*node), Some(Standing::Member | Standing::Draining));
                prop_assert!(roster.target.values().flatten().all(may), "{:?}", roster);
                let data = roster.target.iter().filter(|(group, _)| **group != GroupId::META);
                prop_assert!(data.clone().all(|(_, v)| v.len() == roster.copies), "{:?}", roster);
                prop_assert!(!roster.target[&GroupId::META].is_empty());
                let again = Roster { level_leaders: false, ..roster.clone() };
                let mut planned = again.clone();
                planned.plan();
                prop_assert_eq!(planned, again, "a plan of its own result changes nothing");
                prop_assert!(roster.nodes.values().filter(|e| e.standing == Standing::Joining).count() <= 1);
            }
        }
    }
}
