//! A snapshot taken unit by unit while writers go on.
//!
//! A cut has a number, its *epoch*, one more than the cut before. A unit is *due* if the epoch it carries is an older
//! one. Whoever comes first makes its image and gives it the new epoch: [`Cut::take`] for the snapshot, or a writer just
//! before it changes the unit ([`Cut::save`]), a split or a merge included. So each image shows a unit as it was at
//! the cut, and there is one image for each unit there was. Units that came to be after the cut carry its epoch.
//!
//! ```text
//! cut 8 begins: units at 7, 7, 7     write to the second: its image is saved, 7 8 7; it splits: 7 8 8 7
//! cut_next -> [second] (saved first)  cut_next -> [first] 8 8 8 7   cut_next -> [third]   cut_next -> over
//! ```
//!
//! Saved images wait here until the snapshot takes them: together at most the state at the cut.

use super::codec::SlotImage;
use super::table::Table;
use super::unit::Unit;
use crate::types::Slot;
use std::collections::VecDeque;

/// Units that one step passes at most, those that are not due included: a step is short.
const PASSED_AT_ONCE: usize = 4096;

#[derive(Debug)]
pub(super) struct Cut {
    epoch: u32,
    /// No unit before this slot and upper half of a hash is due.
    next: (usize, u32),
    saved: VecDeque<SlotImage>,
    /// What there was when everything was thrown away: FLUSHALL must not stall on encoding it.
    kept: Option<Table>,
}

impl Cut {
    pub fn new(epoch: u32) -> Cut {
        Cut { epoch, next: (0, 0), saved: VecDeque::new(), kept: None }
    }

    fn image(&self, slot: Slot, unit: &mut Unit) -> Option<SlotImage> {
        if unit.epoch == self.epoch {
            return None;
        }
        unit.epoch = self.epoch;
        Some(SlotImage::of(slot, unit))
    }

    /// Called before a unit changes.
    pub fn save(&mut self, slot: Slot, unit: &mut Unit) {
        let image = self.image(slot, unit);
        self.saved.extend(image);
    }

    /// Called when everything is thrown away. A table that is not needed comes back.
    pub fn keep(&mut self, table: Table) -> Option<Table> {
        if self.kept.is_some() {
            // What came after the first time belongs to no image.
            return Some(table);
        }
        self.kept = Some(table);
        None
    }

    /// Images of about `max_bytes` or none, if all units that were passed are not due; saved ones first, then due
    /// units in order. `None`: the cut is over.
    pub fn take(&mut self, max_bytes: usize, table: &mut Table) -> Option<Vec<SlotImage>> {
        let (mut images, mut bytes) = (Vec::new(), 0);
        while bytes < max_bytes
            && let Some(image) = self.saved.pop_front()
        {
            bytes += image.len();
            images.push(image);
        }
        let mut kept = self.kept.take();
        let table = kept.as_mut().unwrap_or(table);
        let mut passed = 0;
        let mut over = false;
        while bytes < max_bytes && passed < PASSED_AT_ONCE && !over {
            match table.next_unit(self.next.0, self.next.1) {
                None => over = true,
                Some((slot, unit)) => {
                    passed += 1;
                    self.next = match unit.last().checked_add(1) {
                        Some(next) => (usize::from(slot.0), next),
                        None => (usize::from(slot.0) + 1, 0),
                    };
                    if let Some(image) = self.image(slot, unit) {
                        bytes += image.len();
                        images.push(image);
                    }
                }
            }
        }
        self.kept = kept;
        (!over || !images.is_empty()).then_some(images)
    }

    /// What it kept, for whoever frees it.
    pub fn into_kept(self) -> Option<Table> {
        self.kept
    }
}
