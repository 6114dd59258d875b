//! Finding the keys that no queue knows: those that were there before this leader, and those whose eviction did not happen.

use super::{Candidates, Row};
use std::sync::atomic::AtomicU32;

/// Keys that a step shows at least, unless it has been through [`UNITS`] units by then: where keys are few, each has one to itself.
const KEYS: usize = 128;
const UNITS: usize = 64;

/// Goes round the keyspace, some units at a time.
#[derive(Debug, Default)]
pub(super) struct Walk {
    cursor: u64,
}

impl Walk {
    /// Shows the keys of the next units; after the last comes the first again, in another step.
    pub fn step(&mut self, keys: &dyn Candidates, visit: &mut dyn FnMut(Row, &AtomicU32)) {
        let mut shown = 0;
        for _ in 0..UNITS {
            self.cursor = keys.unit(self.cursor, &mut |row, mark| {
                shown += 1;
                visit(row, mark);
            });
            if shown >= KEYS || self.cursor == 0 {
                return;
            }
        }
    }
}
