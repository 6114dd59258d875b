//! Where to look for due keys: the earliest deadline of each unit that has one.
//!
//! A hint of this replica's own. It decides nothing and is in no snapshot: it tells the leader which ranges of hashes
//! to name in a tick, and apply looks at every key of a named range itself. A hint may be too early (the key was
//! deleted or got a later deadline) and is then mended when it comes up; it is never too late. Each unit holds its
//! own; here they stand in order. A unit without deadlines costs nothing.

use super::unit::Unit;
use crate::types::{Millis, Slot};
use std::collections::BTreeSet;

/// A part of a slot: the keys whose hash has an upper half from `first` to `last`. What a tick names, so it means the
/// same on replicas whose units have other borders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HashRange {
    pub slot: Slot,
    pub first: u32,
    pub last: u32,
}

impl HashRange {
    /// Everything in a slot.
    pub fn whole(slot: Slot) -> HashRange {
        HashRange { slot, first: 0, last: u32::MAX }
    }
}

/// Deadline, slot, first of the unit's range.
pub(super) type Hint = (Millis, Slot, u32);

#[derive(Debug, Default)]
pub(super) struct Hints {
    order: BTreeSet<Hint>,
}

impl Hints {
    /// A key of this unit has this deadline now, or none (0).
    #[inline]
    pub fn note(&mut self, slot: Slot, unit: &mut Unit, deadline: Millis) {
        if deadline != 0 && (unit.hint == 0 || deadline < unit.hint) {
            self.replace(slot, unit, deadline);
        }
    }

    /// The unit's earliest deadline is exactly this, 0 for none.
    pub fn replace(&mut self, slot: Slot, unit: &mut Unit, deadline: Millis) {
        if unit.hint != deadline {
            if unit.hint != 0 {
                self.order.remove(&(unit.hint, slot, unit.first()));
            }
            if deadline != 0 {
                self.order.insert((deadline, slot, unit.first()));
            }
            unit.hint = deadline;
        }
    }

    /// Not later than the earliest deadline of any key.
    pub fn earliest(&self) -> Option<Millis> {
        self.order.first().map(|(deadline, ..)| *deadline)
    }

    /// The hints up to `now`, earliest first.
    pub fn until(&self, now: Millis) -> impl Iterator<Item = Hint> {
        self.order.range(..=(now, Slot(u16::MAX), u32::MAX)).copied()
    }
}
