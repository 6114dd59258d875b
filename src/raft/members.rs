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
