//! openraft made ours: entry format, log store, state machine, peers, and the host of all groups of this node.
//! The only folder with openraft's generics in it.
//!
//! A write's way: [`Group::propose`] -> [`proposer`] (many commands, one entry) -> openraft -> [`log_store`] (one sync
//! for all groups) and [`peers`] -> [`machine`] -> the outcome, once a batch. A read's way: [`reads`] (lease, read index
//! or age) -> the keyspace, under its lock, on the reader's own thread.

pub mod alone;
mod appends;
pub mod backup;
pub mod carry;
pub mod changes;
pub mod chunk;
pub mod clock;
mod confirm;
#[cfg(test)]
mod conformance;
pub mod entry;
mod group;
mod host;
mod line;
mod log_store;
mod machine;
mod members;
mod network;
pub mod peers;
mod proposer;
mod reads;
mod room;
mod runtime;
mod silence;
mod snapshot;
pub mod storage;
mod verify;
mod waiters;
pub mod wire;

pub use group::{AdminError, Group, GroupStatus, Timers};
pub use host::{Host, HostOptions, Receiver};
pub use members::{Configuration, Planned, Step};
pub use proposer::{Elsewhere, OnOutcome, Outcome, Refusal};
pub use reads::{NeedsTick, Permit};
pub use runtime::Runtime;
pub use storage::{Storage, StorageError, Sync};
pub use verify::{ReplicaVerdict, Verdict};
#[cfg(test)]
pub(crate) use waiters::Turn;
pub use waiters::{Place, Unplaced};

use crate::resp::Reply;
use crate::types::NodeId;
use openraft::impls::leader_id_std;
use openraft::raft::responder::Responder;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The types that openraft's generics are filled with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Types;

impl openraft::RaftTypeConfig for Types {
    type D = entry::Batch;
    type R = Applied;
    type NodeId = NodeId;
    type Node = openraft::impls::EmptyNode;
    type Term = u64;
    type LeaderId = leader_id_std::LeaderId<u64, NodeId>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Self::D, Self::NodeId, Self::Node>;
    type Entry = openraft::Entry<<Self::LeaderId as openraft::vote::RaftLeaderId>::Committed, Self::Payload>;
    type AsyncRuntime = Runtime;
    type Responder<T>
        = Done<T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub(crate) type Entry = openraft::alias::EntryOf<Types>;
pub(crate) type LogId = openraft::alias::LogIdOf<Types>;
pub(crate) type Vote = openraft::alias::VoteOf<Types>;
pub(crate) type Membership = openraft::Membership<NodeId, openraft::impls::EmptyNode>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<Types>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<Types>;
pub(crate) type Snapshot = openraft::alias::SnapshotOf<Types, snapshot::SnapshotRef>;
pub(crate) type Raft = openraft::Raft<Types, machine::Machine>;

/// A log id. Terms have one leader at most, so term and index say it all.
pub fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(leader_of(term), index)
}

/// The leader of a term, there being one at most.
pub(crate) fn leader_of(term: u64) -> openraft::vote::leader_id_std::CommittedLeaderId<u64> {
    openraft::vote::leader_id_std::CommittedLeaderId::new(term)
}

/// What applying an entry gave: a reply for each call, in order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Applied {
    pub replies: Vec<Reply>,
    /// Places of the calls that were not run, because the group does not answer for their slots; in order.
    pub elsewhere: Vec<u32>,
}

impl fmt::Display for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} replies", self.replies.len())
    }
}

/// Runs a closure with the result of a proposal, on the thread that has it.
pub struct Done<T>(Box<dyn FnOnce(T) + Send>);

impl<T> Done<T> {
    pub(crate) fn new(f: impl FnOnce(T) + Send + 'static) -> Self {
        Done(Box::new(f))
    }
}

impl<T: Send + 'static> Responder<Types, T> for Done<T> {
    fn on_complete(self, result: T) {
        (self.0)(result)
    }
}
