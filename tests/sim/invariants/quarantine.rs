//! The restart quarantine: a replica that was started again with a vote on its disk leads nothing before what it may have promised
//! is over. One that never voted has promised nothing: a copy that is given to a node in its second life begins like any.
//!
//! A vote is on the disk before anything is answered for it, and a term is seen only behind that: a copy that was seen in a term,
//! in an earlier life of its node or of its core, holds a vote from then on.

use crate::node::Node;
use crate::observe::{Replicas, Seen, Watcher};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// A little less than the promise, by a clock that is as fast as clocks may be.
const SILENT: Duration = Duration::from_millis(590);

#[derive(Default)]
pub struct Silent {
    /// By node and group.
    copies: BTreeMap<(usize, u32), Known>,
}

/// What is known of a copy.
struct Known {
    /// Of the node, and of the core in it.
    life: (u64, u64),
    /// When that began.
    since: Duration,
    /// It held a vote by then.
    had_voted: bool,
    /// It holds one now.
    votes: bool,
}

impl Silent {
    /// `started`: when the node was started last.
    fn watch(&mut self, seen: &Seen, started: Duration) -> Result<(), String> {
        let life = (seen.life, seen.core);
        let known = self.copies.entry((seen.node, seen.group)).or_insert(Known {
            life,
            since: started,
            had_voted: false,
            votes: false,
        });
        if known.life != life {
            // A core that died is followed by another one in the same life; when that began is not told, only that it is there.
            let since = if known.life.0 == seen.life { seen.at } else { started };
            *known = Known { life, since, had_voted: known.votes, votes: known.votes };
        }
        known.votes |= seen.term > 0;
        let silent = seen.at.saturating_sub(known.since);
        match seen.leads && known.had_voted && silent < SILENT {
            true => Err(format!(
                "quarantine: n{} leads group {} in term {} only {silent:?} after its start",
                seen.node, seen.group, seen.term
            )),
            false => Ok(()),
        }
    }
}

impl Watcher for Silent {
    fn seen(&mut self, seen: &Seen, _all: &Replicas, nodes: &[Rc<Node>]) -> Result<(), String> {
        self.watch(seen, nodes[seen.node - 1].started.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// What the copy of a group on node 1 says at a time, in milliseconds.
    fn says(at: u64, (life, core): (u64, u64), group: u32, term: u64, leads: bool) -> Seen {
        let (voters, learners) = (vec![BTreeSet::from([1])], BTreeSet::new());
        let (last, committed, applied, snapshot, purged, clock_ms) = (0, 0, 0, 0, 0, 0);
        let at = Duration::from_millis(at);
        Seen {
            at,
            node: 1,
            life,
            core,
            group,
            term,
            leads,
            last,
            committed,
            applied,
            snapshot,
            purged,
            voters,
            learners,
            clock_ms,
        }
    }

    fn judged(story: &[(Seen, u64)]) -> bool {
        let mut rule = Silent::default();
        story.iter().all(|(seen, started)| rule.watch(seen, Duration::from_millis(*started)).is_ok())
    }

    #[test]
    fn a_copy_that_voted_keeps_silent_after_each_start_of_its_node_and_of_its_core() {
        let voted = (says(100, (1, 1), 3, 4, false), 0);
        let leads = |at, life| says(at, life, 3, 5, true);
        assert!(judged(&[voted.clone(), (leads(120, (1, 1)), 0)]), "that is its first life");
        assert!(
            !judged(&[voted.clone(), (leads(1500, (2, 1)), 1000)]),
            "a vote of its first life binds it in its second"
        );
        assert!(judged(&[voted.clone(), (leads(1590, (2, 1)), 1000)]));
        assert!(!judged(&[voted.clone(), (says(1010, (2, 1), 3, 4, false), 1000), (leads(1500, (2, 1)), 1000)]));
        let again = (says(1000, (1, 2), 3, 4, false), 0);
        assert!(!judged(&[voted.clone(), again.clone(), (leads(1500, (1, 2)), 0)]), "another core of the same life");
        assert!(judged(&[voted.clone(), again, (leads(1590, (1, 2)), 0)]));
        // In its third life it is bound by what it did in its first, whatever it said in its second.
        assert!(!judged(&[voted, (says(1010, (2, 1), 3, 0, false), 1000), (leads(2100, (3, 1)), 2000)]));
    }

    /// Seed 1082: a node in its second life was given the copy of a group, and led it at once.
    #[test]
    fn a_copy_that_never_voted_may_lead_at_once() {
        let other = (says(100, (1, 1), 2, 4, false), 0);
        let given = (says(1100, (2, 1), 3, 0, false), 1000);
        let leads = (says(1200, (2, 1), 3, 1, true), 1000);
        assert!(judged(&[other, given.clone(), leads.clone()]));
        assert!(!judged(&[given, leads, (says(2100, (3, 1), 3, 2, true), 2000)]), "from then on it has voted");
        // It was there in the first life, and nobody had asked it for a vote.
        assert!(judged(&[(says(100, (1, 1), 3, 0, false), 0), (says(1200, (2, 1), 3, 1, true), 1000)]));
    }
}
