//! Finding the keys that no queue knows: those that were there before this leader, and those whose eviction did not happen.

use super::{Candidates, Row};
use std::sync::atomic::AtomicU32;

/// Goes round the keyspace, a unit at a time.
#[derive(Debug, Default)]
pub(super) struct Walk {
    cursor: u64,
}

impl Walk {
    /// Shows the keys of the next unit; after the last comes the first again.
    pub fn step(&mut self, keys: &dyn Candidates, visit: &mut dyn FnMut(Row, &AtomicU32)) {
        self.cursor = keys.unit(self.cursor, visit);
    }
}
