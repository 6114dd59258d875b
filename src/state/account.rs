//! How much memory the state takes, by a formula over the state alone.
//!
//! The account decides evictions and refusals, so it must be equal on all replicas: it counts lengths and a fixed
//! cost an entry, never what an allocator says. It equals its own recomputation at any time (tested).

use super::entry::EntryRef;

/// What an entry costs beside its key and its value: flags and numbers of its row, its word of the index, its share
/// of unit, chunk ends and dead rows (`examples/keyspace_memory.rs` measures 20 to 30). Measured once and then fixed.
/// Part of the replicated state's meaning: a change needs a new state version.
pub const ENTRY_COST: u64 = 24;

/// The account of one entry whose value weighs `weight`, in bytes.
#[inline]
pub fn cost(key: &[u8], weight: usize) -> u64 {
    ENTRY_COST + key.len() as u64 + weight as u64
}

/// Sums over entries, dead ones that wait for their sweep included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Account {
    pub keys: u64,
    /// Keys with a deadline.
    pub expires: u64,
    pub bytes: u64,
}

impl Account {
    /// What one entry counts for.
    #[inline]
    pub fn of(entry: &EntryRef<'_>) -> Account {
        Account { keys: 1, expires: u64::from(entry.deadline != 0), bytes: entry.cost() }
    }

    #[inline]
    pub fn add(&mut self, other: Account) {
        self.keys += other.keys;
        self.expires += other.expires;
        self.bytes += other.bytes;
    }

    #[inline]
    pub fn subtract(&mut self, other: Account) {
        self.keys -= other.keys;
        self.expires -= other.expires;
        self.bytes -= other.bytes;
    }
}
