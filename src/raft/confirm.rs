//! A quorum confirms that a leader still leads, without a word to openraft or to the log.
//!
//! The leader asks voters whether the last vote that they gave was for it. A later leader needs the votes of a quorum, any two
//! quorums share a voter, and a voter never goes back: so when a quorum says yes, nobody had been elected since at the moment of asking.
//! What anybody had seen by then is below [`Group::shown_index`]: this leader acknowledges what it has applied, a follower shows what it was told
//! is committed, and what its predecessors acknowledged stands before the entry of its own term that this leader has applied.
//!
//! Invariants:
//! - A voter answers by the vote that it gave to its disk last ([`super::log_store::LogStore::voted`]), which is noted before it is
//!   written, so before anybody hears of it. Metrics would not do: they are told after the vote.
//! - A round counts the answers to its own questions, and nothing that was said before it.
//! - Quorums are those of the configuration that the core told of last. It tells of each before it can make the next, so that it is
//!   at most one behind the log's, and neighbours overlap. A leader counts itself as a voter only where it is one.
//! - No more voters are asked at first than are needed, the one that answered first the last time before others. The rest are asked when
//!   that takes long, or does not do.

use super::group::Group;
use super::reads::{Freshness, Permit};
use super::wire::{self, Lane, Method};
use crate::env;
use crate::planted::{self, Bug};
use crate::types::{Leadership, NodeId};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long the voters that were asked at first may take before all are.
const FIRST: Duration = Duration::from_millis(1);

impl Group {
    /// Leave for the reads that had arrived when this was called, if this node leads and a quorum confirms it.
    pub(super) async fn confirm(self: &Arc<Self>) -> Option<Permit> {
        let begun = env::now();
        let (term, members) = self.core().leads()?;
        if self.replica().applied_term() != term {
            return None;
        }
        // Behind the look at the term, so that it is not below the entry of that term, and before anybody is asked.
        let index = self.shown_index();
        let leadership = Leadership { leader: self.me(), term };
        if !self.voted_for(leadership) {
            return None;
        }
        let quorums = members.membership().get_joint_config();
        let mut confirmed = vec![self.me()];
        let mut others: Vec<NodeId> = members.voter_ids().filter(|voter| *voter != self.me()).collect();
        let quick = NodeId(self.quick_voter.load(Ordering::Relaxed));
        others.sort_by_key(|voter| *voter != quick);
        let at_first = needed(quorums, self.me(), others.len());
        let mut others = others.into_iter();
        let mut asked: FuturesUnordered<_> =
            others.by_ref().take(at_first).map(|v| self.confirmed_by(v, leadership)).collect();
        let mut late = std::pin::pin!(env::sleep(FIRST));
        while !is_quorum(quorums, &confirmed) {
            let rest = tokio::select! {
                biased;
                answer = asked.next() => match answer? {
                    (voter, true) => {
                        confirmed.push(voter);
                        continue;
                    }
                    (_, false) => others.by_ref(),
                },
                () = &mut late, if others.len() > 0 => others.by_ref(),
            };
            asked.extend(rest.map(|voter| self.confirmed_by(voter, leadership)));
        }
        if let Some(first) = confirmed.get(1) {
            self.quick_voter.store(first.0, Ordering::Relaxed);
        }
        self.count_round();
        if !self.replica().wait_applied(index).await {
            return None;
        }
        self.note_fresh(Freshness { at: begun });
        Some(Permit { estimate: Some(self.leader_estimate()), index })
    }

    /// Whether a voter says that it voted for nobody else since.
    async fn confirmed_by(self: &Arc<Self>, voter: NodeId, leadership: Leadership) -> (NodeId, bool) {
        let link = self.peers().link(voter, Lane::Raft(self.worker()));
        let asked = link.call(Method::Confirm, self.id(), |out| wire::put(out, &(leadership.term, leadership.leader)));
        let answer = match asked {
            Ok(asked) => asked.wait().await.ok(),
            Err(_) => None,
        };
        (voter, answer.is_some_and(|bytes| wire::get(&bytes, "a confirmation").unwrap_or(false)))
    }

    /// Whether the last vote of this replica was for that leader in that term.
    pub(super) fn voted_for(&self, leadership: Leadership) -> bool {
        let Leadership { leader, term } = leadership;
        let voted =
            self.core().voted().is_some_and(|vote| (vote.leader_id.term, vote.leader_id.voted_for) == (term, leader));
        voted || planted::is(Bug::ConfirmedBlindly)
    }
}

/// How many of the others have to be asked at first.
fn needed(quorums: &[BTreeSet<NodeId>], leader: NodeId, others: usize) -> usize {
    match quorums {
        [voters] => voters.len() / 2 + 1 - usize::from(voters.contains(&leader)),
        // Two configurations at once, for a moment.
        _ => others,
    }
}

/// Whether these are a majority of each configuration.
fn is_quorum(quorums: &[BTreeSet<NodeId>], confirmed: &[NodeId]) -> bool {
    quorums.iter().all(|voters| 2 * confirmed.iter().filter(|node| voters.contains(node)).count() > voters.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().map(|id| NodeId(*id)).collect()
    }

    #[test]
    fn a_quorum_is_a_majority_of_each_configuration() {
        let of = |quorums: &[&[u64]], confirmed: &[u64]| {
            let quorums: Vec<_> = quorums.iter().map(|ids| nodes(ids)).collect();
            is_quorum(&quorums, &nodes(confirmed).into_iter().collect::<Vec<_>>())
        };
        assert!(of(&[&[1]], &[1]) && !of(&[&[1, 2]], &[1]) && of(&[&[1, 2, 3]], &[1, 3]));
        assert!(!of(&[&[1, 2, 3, 4]], &[1, 2]) && of(&[&[1, 2, 3, 4]], &[1, 2, 4]));
        assert!(!of(&[&[2, 3, 4]], &[1, 2]), "a leader that is no voter does not count");
        assert!(!of(&[&[1, 2, 3], &[3, 4, 5]], &[1, 2, 3]) && of(&[&[1, 2, 3], &[3, 4, 5]], &[1, 3, 4]));
    }

    #[test]
    fn no_more_are_asked_at_first_than_are_needed() {
        let of = |quorums: &[&[u64]], others| {
            let quorums: Vec<_> = quorums.iter().map(|ids| nodes(ids)).collect();
            needed(&quorums, NodeId(1), others)
        };
        assert_eq!(
            [of(&[&[1]], 0), of(&[&[1, 2, 3]], 2), of(&[&[1, 2, 3, 4, 5]], 4), of(&[&[2, 3, 4]], 3)],
            [0, 1, 2, 2]
        );
        assert_eq!(of(&[&[1, 2, 3], &[1, 4, 5]], 4), 4);
    }
}
