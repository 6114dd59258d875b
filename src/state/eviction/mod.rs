//! Who leaves when memory is short: the policies, as pure code.
//!
//! A policy chooses; it removes nothing. What it chooses becomes `Evict {key, version}` in a log entry, and only that entry
//! removes the key, on all replicas alike (`raft::room`). So everything here belongs to the leader alone: it is in no
//! snapshot and no hash, it may be wrong or empty at any time, and a new leader begins cold.
//!
//! ```text
//!   mark     32 bits beside each key, 0 = nothing is known of it     written by reads and writes  (recency.rs)
//!   queues   rows of 8 bytes, for the policies that keep an order    written by apply and choice  (queue.rs)
//!   ghosts   4 bytes each, of keys that left lately                  s3-fifo only                 (ghost.rs)
//! ```
//!
//! Nothing here reads a clock or draws a random number but from the seed it was given. Invariants:
//! - a choice is bounded work, however many keys there are and whatever they are like;
//! - [`Candidates::may_leave`] is asked of every victim: a protected key, or one whose eviction is under way, is never chosen;
//! - a key that no queue knows of is found by walking: after a change of leader, and after an eviction that did not happen.

mod fifo;
mod ghost;
mod queue;
mod recency;
mod sampled;
mod session;
mod walk;

pub use recency::Recency;

use crate::types::{Millis, Slot};
use std::sync::atomic::AtomicU32;

/// What chooses victims. The names are Redis' where Redis has the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Kind {
    #[default]
    NoEviction,
    S3Fifo,
    AllkeysLru,
    AllkeysLfu,
    AllkeysRandom,
    VolatileLru,
    VolatileLfu,
    VolatileRandom,
    VolatileTtl,
    Fifo,
    Session,
}

/// Every policy with its name and its number in replicated state, which is never reused.
const KINDS: &[(Kind, &str, u8)] = &[
    (Kind::NoEviction, "noeviction", 0),
    (Kind::S3Fifo, "s3-fifo", 1),
    (Kind::AllkeysLru, "allkeys-lru", 2),
    (Kind::AllkeysLfu, "allkeys-lfu", 3),
    (Kind::AllkeysRandom, "allkeys-random", 4),
    (Kind::VolatileLru, "volatile-lru", 5),
    (Kind::VolatileLfu, "volatile-lfu", 6),
    (Kind::VolatileRandom, "volatile-random", 7),
    (Kind::VolatileTtl, "volatile-ttl", 8),
    (Kind::Fifo, "fifo", 9),
    (Kind::Session, "session", 10),
];

impl Kind {
    /// All policies, in the order of their numbers.
    pub fn all() -> impl Iterator<Item = Kind> {
        KINDS.iter().map(|(kind, ..)| *kind)
    }

    /// The policy of this name, in any case; `lru` and `lfu` mean the allkeys ones.
    pub fn parse(name: &str) -> Option<Kind> {
        let name = name.to_ascii_lowercase();
        match name.as_str() {
            "lru" => Some(Kind::AllkeysLru),
            "lfu" => Some(Kind::AllkeysLfu),
            name => KINDS.iter().find(|(_, known, _)| *known == name).map(|(kind, ..)| *kind),
        }
    }

    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Its number in the replicated state.
    pub fn number(self) -> u8 {
        self.row().2
    }

    pub fn from_number(number: u8) -> Option<Kind> {
        KINDS.iter().find(|(.., known)| *known == number).map(|(kind, ..)| *kind)
    }

    fn row(self) -> &'static (Kind, &'static str, u8) {
        KINDS.iter().find(|(kind, ..)| *kind == self).expect("the table has every policy")
    }

    /// Whether only keys with a deadline are chosen.
    pub fn volatile(self) -> bool {
        matches!(self, Kind::VolatileLru | Kind::VolatileLfu | Kind::VolatileRandom | Kind::VolatileTtl)
    }

    /// Whether the policy wants a mark beside each key.
    pub fn marks(self) -> bool {
        !matches!(self, Kind::NoEviction | Kind::AllkeysRandom | Kind::VolatileRandom | Kind::VolatileTtl)
    }
}

/// What a group may hold and who leaves when it is more: part of the group's replicated state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// By the account; 0: no limit.
    pub bytes: u64,
    pub policy: Kind,
    /// Keys that the sampled policies look at for a victim.
    pub samples: u8,
}

impl Default for Limit {
    fn default() -> Limit {
        Limit { bytes: 0, policy: Kind::NoEviction, samples: 5 }
    }
}

/// How a policy and its queues name a key: slot and the upper bits of the key's hash. Two keys may share a row, so rarely
/// that it does not matter: the wrong one of the two may then be taken.
///
/// ```text
///   | 8 bits, zero | slot 14 | hash 42 |
/// ```
///
/// Rows are in the order of (slot, hash), and 0 comes before all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Row(u64);

/// Bits of a key's hash that are in its row.
const HASH_BITS: u32 = 42;

impl Row {
    pub fn new(slot: Slot, hash: u64) -> Row {
        Row(u64::from(slot.0) << HASH_BITS | hash >> (64 - HASH_BITS))
    }

    pub fn slot(self) -> Slot {
        Slot((self.0 >> HASH_BITS) as u16)
    }

    /// The upper bits of the hash, as they stand in it; the lower ones are zero.
    pub fn hash(self) -> u64 {
        self.0 << (64 - HASH_BITS)
    }

    /// The row as a number that is above 0 for all but the very first, for cursors.
    pub fn cursor(self) -> u64 {
        self.0
    }

    /// What [`Row::cursor`] gave.
    pub fn from_cursor(cursor: u64) -> Row {
        Row(cursor & !(0xff << 56))
    }

    /// Whether a key of this slot may be what the row means.
    pub fn is_of(self, hash: u64) -> bool {
        self.hash() == hash >> (64 - HASH_BITS) << (64 - HASH_BITS)
    }
}

/// What a policy may ask of the keys that it chooses among. Nothing here changes a key.
pub trait Candidates {
    /// Keys.
    fn len(&self) -> u64;
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Keys with a deadline.
    fn volatile_len(&self) -> u64;
    /// The present, for policies that measure idle time.
    fn now(&self) -> Millis;
    /// What LRU writes into marks now ([`Recency::newest`]).
    fn turn(&self) -> u32;
    /// The key's mark; none if there is no such key.
    fn mark(&self, row: Row) -> Option<&AtomicU32>;
    /// The key's deadline; none if it has none or there is no such key.
    fn deadline(&self, row: Row) -> Option<Millis>;
    /// Changes of any key since this one was written last; the larger, the longer ago.
    fn age(&self, row: Row) -> u64;
    /// Whether the key is there and may be chosen: not of a protected class, and not chosen already.
    fn may_leave(&self, row: Row) -> bool;
    /// Whether the key is in a slot that does not change now. Queues forget it; when that is over, it is found by walking.
    fn rests(&self, row: Row) -> bool;
    /// Some key, as good as random for a random `draw`; of those with a deadline if `volatile`. None if none was found with
    /// bounded effort.
    fn sample(&self, draw: u64, volatile: bool) -> Option<Row>;
    /// Shows the keys of the first unit at or behind `cursor` (0: the first of all), and gives the cursor behind it, 0 behind
    /// the last.
    fn unit(&self, cursor: u64, visit: &mut dyn FnMut(Row, &AtomicU32)) -> u64;
    /// Shows the keys that share the hash tag of this one, itself among them; a bounded number of them.
    fn tag_mates(&self, row: Row, visit: &mut dyn FnMut(Row, &AtomicU32));
}

/// Chooses victims. Of the leader alone.
pub trait Policy: Send {
    /// A key was added. It has a fresh mark.
    fn inserted(&mut self, row: Row, keys: &dyn Candidates);
    /// The next to go, if there is one that may. It is expected to leave: what orders the policy keeps forget it.
    fn victim(&mut self, keys: &dyn Candidates) -> Option<Row>;
    /// Whether the last victim is one of several that must leave together, and more of them are to come.
    fn unfinished(&self) -> bool {
        false
    }
    /// Keeps queues short and looks for keys that none of them knows: a bounded step, after `inserted` new keys.
    fn tend(&mut self, inserted: usize, keys: &dyn Candidates) {
        let _ = (inserted, keys);
    }
}

/// A policy of this kind that knows nothing yet. `samples`: how many keys the sampled ones look at for a victim.
pub fn policy(kind: Kind, samples: usize, seed: u64) -> Box<dyn Policy> {
    match kind {
        Kind::NoEviction => Box::new(Nobody),
        Kind::S3Fifo => Box::new(fifo::S3Fifo::default()),
        Kind::Fifo => Box::new(fifo::Fifo::default()),
        Kind::Session => Box::new(session::Session::new(samples, seed)),
        sampled => Box::new(sampled::Sampled::new(sampled, samples, seed)),
    }
}

/// `noeviction`.
struct Nobody;

impl Policy for Nobody {
    fn inserted(&mut self, _: Row, _: &dyn Candidates) {}
    fn victim(&mut self, _: &dyn Candidates) -> Option<Row> {
        None
    }
}

/// Pseudo-random numbers from a seed (SplitMix64).
#[derive(Debug, Clone)]
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        scramble(self.0)
    }
}

fn scramble(number: u64) -> u64 {
    let mixed = (number ^ number >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ mixed >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_found_by_name_and_by_number() {
        for kind in Kind::all() {
            assert_eq!(Kind::parse(&kind.name().to_uppercase()), Some(kind));
            assert_eq!(Kind::from_number(kind.number()), Some(kind));
        }
        assert_eq!(Kind::parse("lru"), Some(Kind::AllkeysLru));
        assert_eq!((Kind::parse("mru"), Kind::from_number(200)), (None, None));
    }

    #[test]
    fn a_row_keeps_slot_and_upper_hash() {
        let row = Row::new(Slot(16_383), u64::MAX);
        assert_eq!(row.slot(), Slot(16_383));
        assert!(row.is_of(u64::MAX) && row.is_of(u64::MAX - 1) && !row.is_of(1));
        assert!(Row::new(Slot(1), u64::MAX) < Row::new(Slot(2), 0));
        assert!(row.0 >> 56 == 0, "the upper byte is the queues'");
    }
}
