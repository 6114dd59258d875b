//! A snapshot taken slot by slot while writers go on.
//!
//! At the cut every slot that holds keys is *due*. Whoever comes first makes its image: [`Cut::take`] for the
//! snapshot, or a writer just before it changes the slot ([`Cut::save`]). So each image shows the slot as it was at
//! the cut. An image is made once; slots filled after the cut are not in it.
//!
//! ```text
//! cut begins: due = {3, 9, 12}      write to 9: image of 9 saved, due = {3, 12}
//! cut_next(1) -> [9] (saved first)  cut_next(1) -> [3]  cut_next(1) -> [12]  cut_next(1) -> [] over
//! ```
//!
//! Saved images wait here until the snapshot takes them: at most one a slot, together at most the state at the cut.

use super::codec::{SlotImage, encode_slot};
use super::table::Table;
use crate::types::{SLOTS, Slot};
use std::collections::VecDeque;

#[derive(Debug)]
pub(super) struct Cut {
    /// A bit for each slot whose image is still to be made.
    due: Box<[u64; SLOTS / 64]>,
    /// No slot below this is due.
    next: usize,
    saved: VecDeque<Saved>,
}

#[derive(Debug)]
enum Saved {
    Image(SlotImage),
    /// A flushed slot keeps its table until the image is asked for: FLUSHALL must not stall on encoding everything.
    Table(Slot, Box<Table>),
}

impl Cut {
    pub fn new(slots: impl Iterator<Item = Slot>) -> Cut {
        let mut due = Box::new([0; SLOTS / 64]);
        for slot in slots {
            due[usize::from(slot.0) / 64] |= 1 << (slot.0 % 64);
        }
        Cut { due, next: 0, saved: VecDeque::new() }
    }

    fn is_due(&self, slot: Slot) -> bool {
        self.due[usize::from(slot.0) / 64] & 1 << (slot.0 % 64) != 0
    }

    fn done(&mut self, slot: Slot) {
        self.due[usize::from(slot.0) / 64] &= !(1 << (slot.0 % 64));
    }

    /// Called before a slot changes.
    pub fn save(&mut self, slot: Slot, table: Option<&Table>, seed: u64) {
        if self.is_due(slot) {
            self.done(slot);
            let table = table.expect("a slot is due only while it holds what it held at the cut");
            self.saved.push_back(Saved::Image(encode_slot(slot, table, seed)));
        }
    }

    /// Called when a slot is thrown away whole.
    pub fn keep(&mut self, slot: Slot, table: Box<Table>) {
        if self.is_due(slot) {
            self.done(slot);
            self.saved.push_back(Saved::Table(slot, table));
        }
    }

    /// Up to `max` images: saved ones first, then due slots in order. Empty means the cut is over.
    pub fn take<'a>(&mut self, max: usize, seed: u64, table: impl Fn(Slot) -> Option<&'a Table>) -> Vec<SlotImage> {
        let mut images = Vec::new();
        while images.len() < max {
            match self.saved.pop_front() {
                Some(Saved::Image(image)) => images.push(image),
                Some(Saved::Table(slot, table)) => images.push(encode_slot(slot, &table, seed)),
                None => break,
            }
        }
        while images.len() < max && self.next < SLOTS {
            let slot = Slot(self.next as u16);
            self.next += 1;
            if self.is_due(slot) {
                self.done(slot);
                let table = table(slot).expect("a slot is due only while it holds what it held at the cut");
                images.push(encode_slot(slot, table, seed));
            }
        }
        images
    }
}
