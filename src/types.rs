//! Newtypes that cross modules. Plain data: no behaviour beyond parsing and printing.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// A node of the cluster. Given out by the cluster, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u64);

/// Who leads a group, and in which term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leadership {
    pub leader: NodeId,
    pub term: u64,
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A Raft group. Group 0 is the meta group; data groups count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GroupId(pub u32);

impl GroupId {
    /// The group that holds what the cluster agrees on.
    pub const META: GroupId = GroupId(0);
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A connection that writes, told apart from every other of any node and of any run of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Author {
    /// Drawn by each process when it starts: connections are numbered anew then, and the log outlives them.
    pub process: u64,
    /// The connection's number there.
    pub client: u64,
}

/// One of the [`SLOTS`] parts of the key space, as in Redis Cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Slot(pub u16);

/// Number of slots; a slot is CRC16 of the key's hash tag modulo this.
pub const SLOTS: usize = 16_384;

/// Milliseconds of a group's clock (`docs/internals/guarantees.md`). Starts near Unix time, never goes back.
pub type Millis = u64;

/// What a read promises. The most specific setting wins: request, connection, configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Level {
    /// Sees every write acknowledged before the read began. No clock is trusted.
    #[default]
    Linearizable,
    /// The same while clocks drift less than the configured bound.
    Lease,
    /// Any replica whose state is at most this old.
    Bounded(Duration),
    /// Any replica: some committed prefix.
    Eventual,
}

impl Level {
    /// Parses `linearizable`, `lease`, `eventual`, `bounded` with its age given apart as `bounded:<ms>` or `bounded <ms>`.
    pub fn parse(text: &str) -> Option<Level> {
        let lower = text.trim().to_ascii_lowercase();
        match lower.as_str() {
            "linearizable" => Some(Level::Linearizable),
            "lease" => Some(Level::Lease),
            "eventual" => Some(Level::Eventual),
            other => {
                let age = other.strip_prefix("bounded")?.trim_start_matches([':', ' ', '=']);
                age.parse().ok().map(|ms| Level::Bounded(Duration::from_millis(ms)))
            }
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Level::Linearizable => f.write_str("linearizable"),
            Level::Lease => f.write_str("lease"),
            Level::Bounded(age) => write!(f, "bounded:{}", age.as_millis()),
            Level::Eventual => f.write_str("eventual"),
        }
    }
}

/// What the leader writes beside the commands of an entry, so that apply needs neither clock nor entropy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp {
    /// The leader's estimate of the group's time.
    pub now_ms: Millis,
    /// Seed for every random choice made while the entry is applied.
    pub seed: u64,
}
