//! Who is to vote where: a plan from what there is, the nodes, and the number of copies. Pure: no clock, no sockets.
//!
//! Invariants: a node stands at most once in a group; what may stay stays, so a plan of its own result changes nothing;
//! no node has more than one vote above another, and none leads more than one group above another, unless zones force it.

use crate::types::{GroupId, NodeId};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use xxhash_rust::xxh3::xxh3_64;

/// The voters of each group; the first of them is the one that should lead.
pub type Target = BTreeMap<GroupId, Vec<NodeId>>;

/// One vote that goes from a node to another. Where the number of copies changes, one of them is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    pub group: GroupId,
    pub from: Option<NodeId>,
    pub to: Option<NodeId>,
}

/// What has to move to come from one target to another, group by group.
pub fn moves(from: &Target, to: &Target) -> Vec<Move> {
    let mut moves = Vec::new();
    for (group, after) in to {
        let none = Vec::new();
        let before = from.get(group).unwrap_or(&none);
        let mut going = before.iter().filter(|node| !after.contains(node)).copied();
        let mut coming = after.iter().filter(|node| !before.contains(node)).copied();
        loop {
            let (from, to) = (going.next(), coming.next());
            if from.is_none() && to.is_none() {
                break;
            }
            moves.push(Move { group: *group, from, to });
        }
    }
    moves
}

/// Places `copies` voters of every group of `current` on `nodes`, given with their zones ("" for none). Those who should not
/// lead stand first nowhere, unless nobody else votes there.
pub fn plan(
    current: &Target,
    nodes: &BTreeMap<NodeId, String>,
    copies: usize,
    may_lead: impl Fn(NodeId) -> bool,
) -> Target {
    let leaders = nodes.keys().copied().filter(|node| may_lead(*node)).collect();
    let mut draft = Draft { target: current.clone(), nodes, leaders };
    draft.target.values_mut().for_each(|voters| {
        voters.retain(|voter| nodes.contains_key(voter));
        voters.truncate(copies);
    });
    draft.fill(copies.min(nodes.len()));
    draft.part_zones();
    draft.level_votes();
    draft.level_leaders();
    draft.target
}

/// How many voters the meta group has on so many nodes.
pub fn meta_voters(nodes: usize) -> usize {
    match nodes {
        5.. => 5,
        3 | 4 => 3,
        few => few,
    }
}

struct Draft<'a> {
    target: Target,
    nodes: &'a BTreeMap<NodeId, String>,
    /// Nodes that may lead.
    leaders: BTreeSet<NodeId>,
}

impl Draft<'_> {
    fn votes(&self) -> BTreeMap<NodeId, usize> {
        let mut votes: BTreeMap<NodeId, usize> = self.nodes.keys().map(|node| (*node, 0)).collect();
        for voter in self.target.values().flatten() {
            *votes.entry(*voter).or_default() += 1;
        }
        votes
    }

    fn zone(&self, node: NodeId) -> Option<&str> {
        self.nodes.get(&node).map(String::as_str).filter(|zone| !zone.is_empty())
    }

    /// How many of the others share a zone with this one.
    fn crowd(&self, node: NodeId, others: &[NodeId]) -> usize {
        let zone = self.zone(node);
        others.iter().filter(|other| **other != node && zone.is_some() && self.zone(**other) == zone).count()
    }

    /// Gives each group as many voters as it should have.
    fn fill(&mut self, copies: usize) {
        let groups: Vec<GroupId> = self.target.keys().copied().collect();
        for group in groups {
            while self.target[&group].len() < copies {
                let (votes, voters) = (self.votes(), &self.target[&group]);
                let free = self.nodes.keys().copied().filter(|node| !voters.contains(node));
                let rank = |node: &NodeId| (self.crowd(*node, voters), votes[node], !weight(group, *node));
                let chosen = free.min_by_key(rank).expect("there are more nodes than voters");
                self.target.get_mut(&group).expect("it was just looked at").push(chosen);
            }
        }
    }

    /// Moves voters that share a zone while another zone has none of their group's.
    fn part_zones(&mut self) {
        let groups: Vec<GroupId> = self.target.keys().copied().collect();
        for group in groups {
            loop {
                let (votes, voters) = (self.votes(), self.target[&group].clone());
                let crowded = voters.iter().rposition(|voter| self.crowd(*voter, &voters) > 0);
                let Some(at) = crowded else { break };
                let rest: Vec<NodeId> = voters.iter().copied().filter(|voter| *voter != voters[at]).collect();
                let free = self.nodes.keys().copied().filter(|node| !voters.contains(node));
                let apart = free.filter(|node| self.crowd(*node, &rest) == 0);
                let Some(better) = apart.min_by_key(|node| (votes[node], !weight(group, *node))) else { break };
                self.target.get_mut(&group).expect("it was just looked at")[at] = better;
            }
        }
    }

    /// Moves votes from the fullest node to the emptiest until none has more than one above another.
    fn level_votes(&mut self) {
        while let Some((group, from, to)) = self.levelling_move() {
            let voters = self.target.get_mut(&group).expect("the move names a group there is");
            let at = voters.iter().position(|voter| *voter == from).expect("the move names one of its voters");
            voters[at] = to;
        }
    }

    fn levelling_move(&self) -> Option<(GroupId, NodeId, NodeId)> {
        let votes = self.votes();
        let mut pairs: Vec<(NodeId, NodeId)> = votes
            .keys()
            .flat_map(|from| votes.keys().map(|to| (*from, *to)))
            .filter(|(from, to)| votes[from] > votes[to] + 1)
            .collect();
        // The widest gap first; where zones leave nothing to move between two nodes, the next.
        pairs.sort_by_key(|(from, to)| (Reverse(votes[from] - votes[to]), *from, *to));
        pairs.into_iter().find_map(|(from, to)| {
            let may = |voters: &Vec<NodeId>| {
                let rest: Vec<NodeId> = voters.iter().copied().filter(|voter| *voter != from).collect();
                rest.len() < voters.len() && !voters.contains(&to) && self.crowd(to, &rest) <= self.crowd(from, &rest)
            };
            let groups = self.target.iter().filter(|(_, voters)| may(voters)).map(|(group, _)| *group);
            groups.max_by_key(|group| weight(*group, to)).map(|group| (group, from, to))
        })
    }

    /// Evens out who stands first, along paths of nodes that vote in one another's groups.
    fn level_leaders(&mut self) {
        for voters in self.target.values_mut() {
            if let Some(first) = voters.iter().position(|voter| self.leaders.contains(voter)) {
                voters[..=first].rotate_right(1);
            }
        }
        while let Some(path) = self.leader_path() {
            for (group, to) in path {
                let voters = self.target.get_mut(&group).expect("the path names groups there are");
                let at = voters.iter().position(|voter| *voter == to).expect("the path leads to voters");
                voters.swap(0, at);
            }
        }
    }

    /// From a node that leads most to one that leads at least two less: the groups that are to have another leader.
    fn leader_path(&self) -> Option<Vec<(GroupId, NodeId)>> {
        let mut led: BTreeMap<NodeId, usize> = self.leaders.iter().map(|node| (*node, 0)).collect();
        for first in self.target.values().filter_map(|voters| voters.first()) {
            led.entry(*first).and_modify(|led| *led += 1);
        }
        let most = *led.values().max()?;
        led.iter().filter(|(_, n)| **n == most).find_map(|(start, _)| {
            let mut came: BTreeMap<NodeId, (GroupId, NodeId)> = BTreeMap::new();
            let (mut seen, mut next) = (BTreeSet::from([*start]), VecDeque::from([*start]));
            while let Some(node) = next.pop_front() {
                if led[&node] + 1 < most {
                    let steps = std::iter::successors(came.get(&node).map(|step| (step, node)), |((_, from), _)| {
                        came.get(from).map(|step| (step, *from))
                    });
                    return Some(steps.map(|((group, _), to)| (*group, to)).collect());
                }
                for (group, voters) in self.target.iter().filter(|(_, voters)| voters.first() == Some(&node)) {
                    for voter in voters.iter().filter(|voter| led.contains_key(voter)) {
                        if seen.insert(*voter) {
                            came.insert(*voter, (*group, node));
                            next.push_back(*voter);
                        }
                    }
                }
            }
            None
        })
    }
}

/// Rendezvous hashing: every group ranks every node in an order of its own, that no other node changes.
fn weight(group: GroupId, node: NodeId) -> u64 {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&group.0.to_le_bytes());
    bytes[4..].copy_from_slice(&node.0.to_le_bytes());
    xxh3_64(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nodes(ids: impl IntoIterator<Item = u64>) -> BTreeMap<NodeId, String> {
        ids.into_iter().map(|id| (NodeId(id), String::new())).collect()
    }

    fn empty(groups: u32) -> Target {
        (1..=groups).map(|group| (GroupId(group), Vec::new())).collect()
    }

    fn spread(counts: impl Iterator<Item = usize>) -> usize {
        let counts: Vec<usize> = counts.collect();
        counts.iter().max().unwrap() - counts.iter().min().unwrap()
    }

    /// Everything that a plan without zones keeps.
    fn check(target: &Target, nodes: &BTreeMap<NodeId, String>, copies: usize) {
        for voters in target.values() {
            let different: BTreeSet<&NodeId> = voters.iter().collect();
            assert_eq!((different.len(), voters.len()), (copies.min(nodes.len()), copies.min(nodes.len())));
            assert!(voters.iter().all(|voter| nodes.contains_key(voter)));
        }
        let votes = |node: &NodeId| target.values().filter(|voters| voters.contains(node)).count();
        let leads = |node: &NodeId| target.values().filter(|voters| voters.first() == Some(node)).count();
        assert!(spread(nodes.keys().map(votes)) <= 1, "votes: {target:?}");
        assert!(spread(nodes.keys().map(leads)) <= 1, "leaders: {target:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        /// Nodes come and go in any order; every plan is even, and a plan of its own result changes nothing.
        #[test]
        fn votes_and_leaders_are_even_and_what_is_even_stays(
            groups in 1..20u32,
            copies in 1..6usize,
            steps in prop::collection::vec(1..9u64, 1..12),
        ) {
            let (mut there, mut target) = (BTreeSet::from([1u64]), empty(groups));
            for step in steps {
                if !there.insert(step) && there.len() > 1 {
                    there.remove(&step);
                }
                let nodes = nodes(there.iter().copied());
                target = plan(&target, &nodes, copies, |_| true);
                check(&target, &nodes, copies);
                prop_assert_eq!(&plan(&target, &nodes, copies, |_| true), &target);
            }
        }

        /// Load max/mean stays within 1.1, or within one vote where so few cannot be divided.
        #[test]
        fn one_more_node_moves_its_share_and_little_else(groups in 8..64u32, n in 3..12u64) {
            let before = plan(&empty(groups), &nodes(1..=n), 3, |_| true);
            let after = plan(&before, &nodes(1..=n + 1), 3, |_| true);
            let moved = moves(&before, &after).len() as f64;
            let all = f64::from(groups) * 3.0;
            prop_assert!(moved <= (all / (n + 1) as f64).ceil(), "{} of {}", moved, all);
            let mean = all / (n + 1) as f64;
            let most = (1..=n + 1).map(|id| after.values().filter(|v| v.contains(&NodeId(id))).count()).max();
            prop_assert!(most.unwrap() as f64 <= (mean * 1.1).max(mean.ceil()));
        }

        /// No two voters of a group share a zone while there are zones enough.
        #[test]
        fn zones_are_kept_apart(groups in 1..12u32, placed in prop::collection::vec(0..4usize, 3..9), begin in 3..9u64) {
            let zones: BTreeMap<NodeId, String> =
                placed.iter().enumerate().map(|(id, zone)| (NodeId(id as u64 + 1), format!("z{zone}"))).collect();
            let different: BTreeSet<&String> = zones.values().collect();
            prop_assume!(different.len() >= 3);
            let before = plan(&empty(groups), &nodes(1..=begin), 3, |_| true);
            let target = plan(&before, &zones, 3, |_| true);
            for voters in target.values() {
                let used: BTreeSet<&String> = voters.iter().map(|voter| &zones[voter]).collect();
                prop_assert_eq!(used.len(), 3, "{:?} in {:?}", voters, zones);
            }
        }
    }

    #[test]
    fn a_node_that_takes_anothers_place_moves_nothing_else() {
        let before = plan(&empty(8), &nodes(1..=3), 3, |_| true);
        let after = plan(&before, &nodes([1, 2, 4]), 3, |_| true);
        let moves = moves(&before, &after);
        assert_eq!(moves.len(), 8);
        assert!(moves.iter().all(|one| (one.from, one.to) == (Some(NodeId(3)), Some(NodeId(4)))));
    }

    #[test]
    fn fewer_copies_are_moves_without_an_aim() {
        let before = plan(&empty(2), &nodes(1..=3), 3, |_| true);
        let after = plan(&before, &nodes([1, 2]), 3, |_| true);
        assert!(moves(&before, &after).iter().all(|one| one.from == Some(NodeId(3)) && one.to.is_none()));
    }

    #[test]
    fn who_should_not_lead_stands_first_nowhere_and_the_others_share_it() {
        let all = nodes(1..=3);
        let target = plan(&plan(&empty(8), &all, 3, |_| true), &all, 3, |node| node != NodeId(1));
        let leads = |id| target.values().filter(|voters| voters[0] == NodeId(id)).count();
        assert_eq!([1, 2, 3].map(leads), [0, 4, 4]);
        assert_eq!(
            plan(&target, &all, 3, |node| node != NodeId(1)),
            target,
            "a plan of its own result changes nothing"
        );
    }

    #[test]
    fn the_meta_group_has_few_voters() {
        assert_eq!([1, 2, 3, 4, 5, 9].map(meta_voters), [1, 2, 3, 3, 5, 5]);
    }
}
