//! How much memory the state takes, by a formula over the state alone.
//!
//! The account decides evictions and refusals, so it must be equal on all replicas: it counts lengths and a fixed
//! cost an entry, never what an allocator says. It equals its own recomputation at any time (tested).

use super::value::Value;

/// What an entry costs beside its key and its value: row, index and allocation headers of the present layout,
/// measured once and then fixed. Part of the replicated state's meaning: a change needs a new state version.
pub const ENTRY_COST: u64 = 112;

/// The account of one entry, in bytes.
pub fn cost(key: &[u8], value: &Value) -> u64 {
    ENTRY_COST + key.len() as u64 + value.weight() as u64
}

/// Sums over all entries, dead ones that wait for their sweep included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Account {
    pub keys: u64,
    /// Keys with a deadline.
    pub expires: u64,
    pub bytes: u64,
}

impl Account {
    pub fn add(&mut self, key: &[u8], value: &Value, deadline: u64) {
        self.keys += 1;
        self.expires += u64::from(deadline != 0);
        self.bytes += cost(key, value);
    }

    pub fn subtract(&mut self, key: &[u8], value: &Value, deadline: u64) {
        self.keys -= 1;
        self.expires -= u64::from(deadline != 0);
        self.bytes -= cost(key, value);
    }

    pub fn subtract_all(&mut self, other: Account) {
        self.keys -= other.keys;
        self.expires -= other.expires;
        self.bytes -= other.bytes;
    }
}
