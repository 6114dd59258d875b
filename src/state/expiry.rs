//! Where to look for due keys: the earliest deadline of each slot.
//!
//! A hint of this replica's own. It decides nothing and is in no snapshot: it tells the leader which slots to name
//! in a tick, and apply looks at every key of a named slot itself. A hint may be too early (the key was deleted or
//! got a later deadline) and is then mended when it comes up; it is never too late.

use super::table::Table;
use crate::types::{Millis, SLOTS, Slot};
use std::collections::BTreeSet;

#[derive(Debug, Default)]
pub(super) struct Hints {
    order: BTreeSet<(Millis, u16)>,
    /// The hint of each slot, 0 for none. Allocated with the first deadline.
    of_slot: Vec<Millis>,
}

impl Hints {
    /// A key of this slot has this deadline now.
    pub fn note(&mut self, slot: Slot, deadline: Millis) {
        if deadline != 0 {
            let known = self.of_slot.get(usize::from(slot.0)).copied().unwrap_or(0);
            if known == 0 || deadline < known {
                self.replace(slot, deadline);
            }
        }
    }

    /// The slot's earliest deadline is exactly this, 0 for none.
    pub fn replace(&mut self, slot: Slot, deadline: Millis) {
        if self.of_slot.is_empty() {
            if deadline == 0 {
                return;
            }
            self.of_slot = vec![0; SLOTS];
        }
        let known = &mut self.of_slot[usize::from(slot.0)];
        if *known != deadline {
            if *known != 0 {
                self.order.remove(&(*known, slot.0));
            }
            if deadline != 0 {
                self.order.insert((deadline, slot.0));
            }
            *known = deadline;
        }
    }

    /// Whether a key of this slot may have a deadline.
    pub fn has(&self, slot: Slot) -> bool {
        self.of_slot.get(usize::from(slot.0)).is_some_and(|deadline| *deadline != 0)
    }

    pub fn clear(&mut self) {
        *self = Hints::default();
    }

    /// Not later than the earliest deadline of any key.
    pub fn earliest(&self) -> Option<Millis> {
        self.order.first().map(|(deadline, _)| *deadline)
    }

    /// Slots that hold a key due at `now`, earliest hint first, at most `max`. Hints that were too early are mended
    /// on the way; at most [`MENDED_AT_ONCE`] of them, so that a call is short.
    pub fn due<'a>(&mut self, now: Millis, max: usize, table: impl Fn(Slot) -> Option<&'a Table>) -> Vec<Slot> {
        let looked_at: Vec<(Millis, u16)> =
            self.order.range(..=(now, u16::MAX)).take(max.saturating_add(MENDED_AT_ONCE)).copied().collect();
        let (mut due, mut mended) = (Vec::new(), 0);
        for (_, slot) in looked_at {
            if due.len() == max || mended == MENDED_AT_ONCE {
                break;
            }
            let earliest = table(Slot(slot)).map_or(0, Table::earliest_deadline);
            if earliest != 0 && earliest <= now {
                due.push(Slot(slot));
            } else {
                self.replace(Slot(slot), earliest);
                mended += 1;
            }
        }
        due
    }
}

/// Hints that one search mends at most.
const MENDED_AT_ONCE: usize = 256;
