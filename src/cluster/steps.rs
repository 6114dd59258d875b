//! The next step of a group from what it is to what it should be. Pure.
//!
//! Invariants: a node votes only after it was a learner that is level with the leader's log, and while it is heard; of each set
//! of voters all but one are in the next, and a majority of the next is heard; who is silent goes before others do; nobody
//! leads a group that is to lose its vote; a copy that is not wanted goes last.

use crate::raft::{Configuration, Step};
use crate::types::NodeId;
use std::collections::BTreeSet;

/// Entries that a learner may be behind the leader's log when it is made a voter: what is under way under load.
pub(super) const LEVEL: u64 = 256;

/// What a group should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub voters: BTreeSet<NodeId>,
    /// Nodes that hold a copy, the voters among them.
    pub copies: BTreeSet<NodeId>,
    /// Nodes that go: a copy that they hold is left to them until their doors are closed, and none is given.
    pub closing: BTreeSet<NodeId>,
    /// Nodes that vote but should not lead.
    pub not_leading: BTreeSet<NodeId>,
    /// Who should lead, if that is to be seen to.
    pub leader: Option<NodeId>,
    /// Nodes that are not heard just now: they are given neither votes nor leadership.
    pub silent: BTreeSet<NodeId>,
}

/// What to do for a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    Settled,
    Do(Step),
    /// It goes on when this node has caught up, which is so many entries behind; none: it is not heard.
    WaitFor(NodeId, Option<u64>),
    /// Nobody can lead, or vote, in the place of who should not.
    Stuck,
}

impl Wanted {
    /// Whether a group with these members is what it should be, by what any of its replicas knows. Who leads apart.
    pub fn has(&self, voters: &[BTreeSet<NodeId>], learners: &BTreeSet<NodeId>) -> bool {
        voters == [self.voters.clone()]
            && self.copies.difference(&self.voters).all(|node| learners.contains(node))
            && learners.iter().all(|node| self.may_hold(node))
    }

    fn may_hold(&self, node: &NodeId) -> bool {
        self.copies.contains(node) || self.closing.contains(node)
    }

    /// Whether this node may go on leading.
    pub fn may_lead(&self, leader: NodeId) -> bool {
        self.voters.contains(&leader) && !self.not_leading.contains(&leader) && self.leader.is_none_or(|l| l == leader)
    }
}

/// The next step.
pub(super) fn next(now: &Configuration, wanted: &Wanted) -> Next {
    let [voters] = &now.voters[..] else {
        // Whoever began the change did not finish it.
        return now.voters.last().map_or(Next::Stuck, |last| finish(now, last, wanted));
    };
    let there = |node: &&NodeId| voters.contains(node) || now.learners.contains(node);
    if let Some(missing) = wanted.copies.iter().find(|node| !there(node)) {
        return Next::Do(Step::AddLearner(*missing));
    }
    if *voters != wanted.voters {
        return change_voters(now, voters, wanted);
    }
    if let Some(extra) = now.learners.iter().find(|node| !wanted.may_hold(node)) {
        return Next::Do(Step::RemoveLearner(*extra));
    }
    if wanted.not_leading.contains(&now.leader) {
        let others = voters.difference(&wanted.not_leading).copied();
        return lead(now, others.collect(), wanted);
    }
    match wanted.leader.filter(|leader| *leader != now.leader && voters.contains(leader)) {
        Some(leader) => lead(now, vec![leader], wanted),
        None => Next::Settled,
    }
}

/// Whether a node that came has as good as all of the leader's log.
pub(super) fn is_level(now: &Configuration, node: NodeId) -> bool {
    now.behind.get(&node).is_some_and(|entries| *entries <= LEVEL)
}

/// Ends a change that stopped halfway; a leader without a vote in the last set hands over to one that has one first.
fn finish(now: &Configuration, last: &BTreeSet<NodeId>, wanted: &Wanted) -> Next {
    if last.contains(&now.leader) {
        return Next::Do(Step::Voters(last.clone()));
    }
    let able: Vec<NodeId> = last.difference(&wanted.not_leading).copied().collect();
    lead(now, if able.is_empty() { last.iter().copied().collect() } else { able }, wanted)
}

fn change_voters(now: &Configuration, voters: &BTreeSet<NodeId>, wanted: &Wanted) -> Next {
    let silent = |node: &NodeId| wanted.silent.contains(node);
    let staying: Vec<NodeId> = voters.intersection(&wanted.voters).copied().collect();
    // Where somebody comes, those who cannot lead yet are no reason to wait.
    let leads_on = wanted.voters.contains(&now.leader);
    if !leads_on && !staying.is_empty() {
        return lead(now, staying, wanted);
    }
    let mut coming: Vec<NodeId> = wanted.voters.difference(voters).copied().collect();
    coming.sort_by_key(|node| (silent(node), !is_level(now, *node)));
    let mut going: Vec<NodeId> =
        voters.difference(&wanted.voters).filter(|node| **node != now.leader).copied().collect();
    going.sort_by_key(|node| !silent(node));
    let mut after = voters.clone();
    if let Some(comes) = coming.first() {
        if silent(comes) || !is_level(now, *comes) {
            return wait_for(now, *comes, wanted);
        }
        after.insert(*comes);
    }
    if let Some(goes) = going.first() {
        after.remove(goes);
    }
    if after == *voters {
        return Next::Stuck;
    }
    // Without those who are heard the group would not even agree on the change.
    match after.iter().find(|node| silent(node)) {
        Some(missed) if after.iter().filter(|node| !silent(node)).count() * 2 <= after.len() => {
            wait_for(now, *missed, wanted)
        }
        _ => Next::Do(Step::Voters(after)),
    }
}

fn wait_for(now: &Configuration, node: NodeId, wanted: &Wanted) -> Next {
    Next::WaitFor(node, now.behind.get(&node).copied().filter(|_| !wanted.silent.contains(&node)))
}

/// Hands leadership to the wanted leader if it is among these, or to the one that is nearest to the leader's log.
fn lead(now: &Configuration, among: Vec<NodeId>, wanted: &Wanted) -> Next {
    let able = |node: &NodeId| is_level(now, *node) && !wanted.silent.contains(node);
    if let Some(first) = wanted.leader.filter(|first| among.contains(first) && able(first)) {
        return Next::Do(Step::Lead(first));
    }
    let nearest = among.iter().copied().filter(able).min_by_key(|node| (now.behind[node], *node));
    match (nearest, among.first()) {
        (Some(nearest), _) => Next::Do(Step::Lead(nearest)),
        (None, Some(node)) => wait_for(now, *node, wanted),
        (None, None) => Next::Stuck,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().map(|id| NodeId(*id)).collect()
    }

    fn wanted(voters: &[u64], copies: &[u64]) -> Wanted {
        let (closing, not_leading) = (BTreeSet::new(), BTreeSet::new());
        let silent = BTreeSet::new();
        Wanted { voters: set(voters), copies: set(copies), closing, not_leading, leader: None, silent }
    }

    fn group(voters: &[u64], learners: &[u64], leader: u64) -> Configuration {
        let behind = voters.iter().chain(learners).map(|id| (NodeId(*id), 0)).collect();
        let (voters, learners) = (vec![set(voters)], set(learners));
        Configuration { version: 1, at: Some((1, 1)), term: 1, voters, learners, leader: NodeId(leader), behind }
    }

    /// What the leader makes of a step; stops halfway through joint consensus if it is to.
    fn take(now: &mut Configuration, step: Step, halfway: bool) {
        let nodes: BTreeSet<NodeId> = now.voters.iter().flatten().chain(&now.learners).copied().collect();
        match step {
            Step::AddLearner(node) => {
                assert!(!nodes.contains(&node));
                now.learners.insert(node);
            }
            Step::Voters(voters) => {
                assert!(!voters.is_empty() && voters.is_subset(&nodes), "who votes was a learner before");
                let last = now.voters.last().unwrap().clone();
                assert!(last.symmetric_difference(&voters).count() <= 2, "one for one");
                now.voters = if halfway && now.voters.len() == 1 { vec![last, voters] } else { vec![voters] };
                now.learners =
                    nodes.into_iter().filter(|node| !now.voters.iter().any(|set| set.contains(node))).collect();
                assert!(now.voters.last().unwrap().contains(&now.leader), "the leader keeps its vote");
            }
            Step::RemoveLearner(node) => assert!(now.learners.remove(&node)),
            Step::Lead(node) => {
                assert!(now.voters.last().unwrap().contains(&node) && now.leader != node);
                now.leader = node;
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        /// From anywhere to anywhere, also when leaders change and changes stop halfway: it ends, and never twice differently.
        #[test]
        fn every_group_comes_to_what_it_should_be(
            from in prop::collection::btree_set(1..8u64, 1..5),
            learners in prop::collection::btree_set(1..8u64, 0..4),
            to in prop::collection::btree_set(1..8u64, 1..5),
            copies in prop::collection::btree_set(1..8u64, 0..7),
            avoid in prop::collection::btree_set(1..8u64, 0..3),
            accidents in prop::collection::vec((0..4u8, 0..8usize), 0..12),
        ) {
            let ids = |of: &BTreeSet<u64>| of.iter().copied().collect::<Vec<_>>();
            let learners: BTreeSet<u64> = learners.difference(&from).copied().collect();
            let mut now = group(&ids(&from), &ids(&learners), *from.first().unwrap());
            let wanted = Wanted {
                not_leading: set(&ids(&avoid)),
                leader: Some(NodeId(*to.last().unwrap())).filter(|_| avoid.is_empty()),
                ..wanted(&ids(&to), &ids(&copies.union(&to).copied().collect()))
            };
            let mut accidents = accidents.into_iter();
            for _ in 0..60 {
                let accident = accidents.next();
                if let Some((0, who)) = accident {
                    // An election: any voter of any set may lead then.
                    let all: BTreeSet<NodeId> = now.voters.iter().flatten().copied().collect();
                    now.leader = *all.iter().nth(who % all.len()).unwrap();
                }
                now.behind = now.voters.iter().flatten().chain(&now.learners).map(|node| (*node, 3)).collect();
                match next(&now, &wanted) {
                    Next::Do(step) => take(&mut now, step, matches!(accident, Some((1, _)))),
                    Next::Settled => break,
                    Next::Stuck => {
                        prop_assert!(wanted.voters.is_subset(&wanted.not_leading), "{now:?}");
                        break;
                    }
                    Next::WaitFor(..) => prop_assert!(false, "nobody is behind: {now:?}"),
                }
            }
            prop_assert!(wanted.has(&now.voters, &now.learners), "{now:?} is not {wanted:?}");
            prop_assert!(wanted.may_lead(now.leader) || wanted.voters.is_subset(&wanted.not_leading));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        /// Whoever is silent: no step gives a vote or leadership to one of them, or leaves less than a majority of voters that
        /// are heard; and as soon as they are back it goes on to the end.
        #[test]
        fn no_step_counts_on_a_node_that_is_silent(
            from in prop::collection::btree_set(1..8u64, 1..6),
            to in prop::collection::btree_set(1..8u64, 1..6),
            silent in prop::collection::btree_set(1..8u64, 0..4),
        ) {
            let ids = |of: &BTreeSet<u64>| of.iter().copied().collect::<Vec<_>>();
            let leader = *from.iter().find(|node| !silent.contains(node)).unwrap_or(from.first().unwrap());
            // A leader leads only by a majority that it hears.
            let silent: BTreeSet<u64> = silent.into_iter().filter(|node| *node != leader).collect();
            prop_assume!(from.difference(&silent).count() * 2 > from.len());
            let mut now = group(&ids(&from), &ids(&to.difference(&from).copied().collect()), leader);
            let mut wanted = Wanted { silent: set(&ids(&silent)), ..wanted(&ids(&to), &ids(&to)) };
            for _ in 0..40 {
                let before = now.clone();
                match next(&now, &wanted) {
                    Next::Do(step) => take(&mut now, step, false),
                    Next::WaitFor(node, _) => {
                        prop_assert!(wanted.silent.contains(&node), "nobody else is waited for: {now:?} {wanted:?}");
                        wanted.silent.clear();
                    }
                    Next::Settled => break,
                    Next::Stuck => prop_assert!(false, "{now:?}"),
                }
                now.behind = now.voters.iter().flatten().chain(&now.learners).map(|node| (*node, 3)).collect();
                let (voters, last) = (&now.voters[0], &before.voters[0]);
                let heard = voters.difference(&wanted.silent).count();
                prop_assert!(voters == last || heard * 2 > voters.len(), "{now:?}, silent {:?}", wanted.silent);
                prop_assert!(voters.difference(last).all(|node| !wanted.silent.contains(node)), "{now:?}");
                prop_assert!(now.leader == before.leader || !wanted.silent.contains(&now.leader), "{now:?}");
            }
            prop_assert!(wanted.has(&now.voters, &now.learners), "{now:?} is not {wanted:?}");
        }
    }

    #[test]
    fn who_is_silent_is_given_no_vote_and_is_the_first_to_lose_one() {
        let silent = |ids: &[u64], wanted: Wanted| Wanted { silent: set(ids), ..wanted };
        let now = group(&[1, 2, 3], &[4, 5], 1);
        let one = wanted(&[1, 2, 4], &[1, 2, 3, 4, 5]);
        assert_eq!(next(&now, &silent(&[4], one)), Next::WaitFor(NodeId(4), None), "it was level when it died");
        let two = wanted(&[1, 4, 5], &[1, 2, 3, 4, 5]);
        assert_eq!(next(&now, &silent(&[4], two.clone())), Next::Do(Step::Voters(set(&[1, 3, 5]))));
        assert_eq!(next(&now, &silent(&[3], two)), Next::Do(Step::Voters(set(&[1, 2, 4]))));
        let fewer = wanted(&[1, 2], &[1, 2, 3, 4, 5]);
        assert_eq!(
            next(&now, &silent(&[2], fewer)),
            Next::WaitFor(NodeId(2), None),
            "two of which one is dead decide nothing"
        );
    }

    #[test]
    fn a_learner_that_is_behind_is_waited_for() {
        let mut now = group(&[1, 2, 3], &[4], 1);
        let wanted = wanted(&[1, 2, 4], &[1, 2, 3, 4]);
        now.behind.insert(NodeId(4), LEVEL + 1);
        assert_eq!(next(&now, &wanted), Next::WaitFor(NodeId(4), Some(LEVEL + 1)));
        now.behind.remove(&NodeId(4));
        assert_eq!(next(&now, &wanted), Next::WaitFor(NodeId(4), None));
        now.behind.insert(NodeId(4), LEVEL);
        assert_eq!(next(&now, &wanted), Next::Do(Step::Voters(set(&[1, 2, 4]))));
    }

    #[test]
    fn a_node_that_goes_keeps_its_copy_and_is_given_none() {
        let wanted = Wanted { closing: set(&[4]), ..wanted(&[1, 2, 3], &[1, 2, 3]) };
        for learners in [&[4][..], &[]] {
            let now = group(&[1, 2, 3], learners, 1);
            assert_eq!(next(&now, &wanted), Next::Settled);
            assert!(wanted.has(&now.voters, &now.learners));
        }
        assert_eq!(next(&group(&[1, 2, 3], &[4, 5], 1), &wanted), Next::Do(Step::RemoveLearner(NodeId(5))));
    }

    #[test]
    fn the_leader_goes_only_after_it_handed_over() {
        let now = group(&[1, 2, 3], &[4], 3);
        let wanted = wanted(&[1, 2, 4], &[1, 2, 4]);
        assert_eq!(next(&now, &wanted), Next::Do(Step::Lead(NodeId(1))));
    }

    #[test]
    fn a_change_that_stopped_halfway_is_ended_by_one_who_votes_on() {
        let mut now = group(&[1, 2, 3], &[], 3);
        now.voters.push(set(&[1, 2, 4]));
        now.behind = [(1, 0), (2, 5), (4, LEVEL + 1)].map(|(node, entries)| (NodeId(node), entries)).into();
        let mut wanted = wanted(&[1, 2, 4], &[1, 2, 4]);
        assert_eq!(next(&now, &wanted), Next::Do(Step::Lead(NodeId(1))));
        wanted.not_leading = set(&[1]);
        assert_eq!(next(&now, &wanted), Next::Do(Step::Lead(NodeId(2))));
        now.leader = NodeId(2);
        assert_eq!(next(&now, &wanted), Next::Do(Step::Voters(set(&[1, 2, 4]))));
    }

    #[test]
    fn one_voter_for_another_goes_through_two() {
        let now = group(&[1], &[2], 1);
        assert_eq!(next(&now, &wanted(&[2], &[1, 2])), Next::Do(Step::Voters(set(&[1, 2]))));
    }
}
