//! What a group's leader tells of the group's configuration, and the one step of a change that it is asked to take. Plain
//! data; `group/members.rs` does it, whoever plans it stands above.

use crate::types::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Version of these messages. A larger one is refused.
pub(super) const VERSION: u8 = 1;

/// A group's configuration as its leader knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    pub version: u8,
    /// Term and index of the entry that holds it.
    pub at: Option<(u64, u64)>,
    /// The term in which `leader` leads.
    pub term: u64,
    /// The sets of voters: one, or two while a change is under way.
    pub voters: Vec<BTreeSet<NodeId>>,
    pub learners: BTreeSet<NodeId>,
    pub leader: NodeId,
    /// Entries of the leader's log that a node has not synced yet; of one that was never heard there is nothing.
    pub behind: BTreeMap<NodeId, u64>,
}

/// One step of a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    AddLearner(NodeId),
    /// Through joint consensus; who votes no longer stays as a learner.
    Voters(BTreeSet<NodeId>),
    RemoveLearner(NodeId),
    /// Hands over leadership.
    Lead(NodeId),
}

impl Step {
    /// The nodes that it gives a copy or a vote that they have not, and whether it is a vote.
    pub(super) fn gives(&self, now: &Configuration) -> Vec<(NodeId, bool)> {
        let votes = |node: &NodeId| now.voters.iter().any(|set| set.contains(node));
        match self {
            Step::AddLearner(node) => vec![(*node, false)],
            Step::Voters(voters) => voters.iter().filter(|node| !votes(node)).map(|node| (*node, true)).collect(),
            Step::RemoveLearner(_) | Step::Lead(_) => Vec::new(),
        }
    }
}

/// A step, and what it was planned for. Another term has another leader, which is asked anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// As in the [`Configuration`].
    pub at: (u64, u64),
    pub term: u64,
    pub step: Step,
}

/// A question for the configuration, or for a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembersAsk {
    pub version: u8,
    pub step: Option<Planned>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_gives_what_was_not_there() {
        let set = |ids: &[u64]| ids.iter().map(|id| NodeId(*id)).collect::<BTreeSet<_>>();
        let (voters, learners, behind) = (vec![set(&[1, 2]), set(&[1, 3])], set(&[4]), BTreeMap::new());
        let now = Configuration { version: VERSION, at: None, term: 1, voters, learners, leader: NodeId(1), behind };
        assert_eq!(Step::AddLearner(NodeId(5)).gives(&now), [(NodeId(5), false)]);
        // What began before is ended, whoever was in it.
        assert_eq!(Step::Voters(set(&[1, 3])).gives(&now), []);
        assert_eq!(Step::Voters(set(&[1, 2, 4])).gives(&now), [(NodeId(4), true)]);
        assert_eq!(Step::RemoveLearner(NodeId(4)).gives(&now), []);
    }
}
