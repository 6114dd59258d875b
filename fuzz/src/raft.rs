//! The formats of `src/raft`, without what works on them.

#[path = "../../src/raft/chunk.rs"]
pub mod chunk;
#[path = "../../src/raft/entry.rs"]
pub mod entry;
#[path = "../../src/raft/wire.rs"]
pub mod wire;

use crate::types::NodeId;
use openraft::impls::{EmptyNode, leader_id_std};

openraft::declare_raft_types!(
    pub Types:
        D = entry::Batch,
        R = String,
        NodeId = NodeId,
        Node = EmptyNode,
        Term = u64,
        LeaderId = leader_id_std::LeaderId<u64, NodeId>,
        AsyncRuntime = openraft_rt_tokio::TokioRuntime,
);

pub type Entry = openraft::alias::EntryOf<Types>;
pub type LogId = openraft::alias::LogIdOf<Types>;
pub type Vote = openraft::alias::VoteOf<Types>;
pub type Membership = openraft::Membership<NodeId, EmptyNode>;

pub fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(openraft::vote::leader_id_std::CommittedLeaderId::new(term), index)
}
