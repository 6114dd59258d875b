//! What a keyspace tells of what happens in it: which of the rows that somebody waits for were written, and the events and
//! changes of an entry (`events.rs`). Nothing of it is replicated, and nothing here changes what is.

use super::Keyspace;
use crate::state::events::{Class, Record, Wanted};
use crate::state::eviction::Row;
use crate::state::expiry::HashRange;
use crate::types::{Author, Slot};
use std::collections::BTreeSet;

impl Keyspace {
    /// The row of a key.
    pub fn row(&self, key: &[u8]) -> Row {
        let (slot, hash) = self.place_of(key);
        Row::new(slot, hash)
    }

    /// Whether it is noted what happens to this row.
    pub fn want(&mut self, row: Row, wanted: bool) {
        match wanted {
            true => drop(self.wanted.insert(row)),
            false => drop(self.wanted.remove(&row)),
        }
    }

    /// Notes nothing any more.
    pub fn want_nothing(&mut self) {
        self.wanted = BTreeSet::new();
        self.touched = Vec::new();
    }

    /// Wanted rows that something happened to since the last call, or may have, if there are any.
    pub fn take_touched(&mut self) -> Option<Vec<Row>> {
        (!self.touched.is_empty()).then(|| std::mem::take(&mut self.touched))
    }

    /// From now on this is noted of what entries do. Not replicated.
    pub fn record(&mut self, wanted: Wanted) {
        self.recorder.want(wanted);
    }

    /// Says who makes the changes that come now, until the next entry; for what is told of them, and nothing else.
    pub fn name_author(&mut self, author: Option<Author>) {
        self.recorder.name_author(author);
    }

    /// Notes an event, if it is wanted: a command says with it what it has just done.
    #[inline]
    pub fn notify(&mut self, class: Class, event: &'static str, key: &[u8]) {
        self.recorder.event(class, event, key);
    }

    /// The same for a change of what a key holds: if the last element went and the key with it, that is told too.
    pub fn notify_change(&mut self, class: Class, event: &'static str, key: &[u8]) {
        if self.recorder.is_on() {
            self.recorder.event(class, event, key);
            if !self.contains(key) {
                self.recorder.event(Class::Generic, "del", key);
            }
        }
    }

    /// The same if anything changed since the keyspace had this version.
    pub fn notify_since(&mut self, version: u64, class: Class, event: &'static str, key: &[u8]) {
        if self.version != version {
            self.notify_change(class, event, key);
        }
    }

    /// What was noted since the last call.
    pub fn take_record(&mut self) -> Option<Record> {
        self.recorder.take()
    }

    /// Of a key that is about to be written: one that was dead expires now, one that was not there is new.
    #[inline]
    pub(super) fn record_set(&mut self, key: &[u8]) {
        if !self.recorder.is_on() {
            return;
        }
        let was = self.locate(key).map(|located| located.entry.is_dead(self.clock));
        if was == Some(true) {
            self.recorder.event(Class::Expired, "expired", key);
        }
        if was != Some(false) {
            self.recorder.event(Class::New, "new", key);
        }
        self.recorder.change(key);
    }

    /// Of what is dead in a range that is about to be swept. Gives the keys that are alive and lose elements.
    pub(super) fn record_due(&mut self, range: HashRange) -> Vec<Vec<u8>> {
        if !self.recorder.is_on() {
            return Vec::new();
        }
        let (mut dead, mut pruning) = (Vec::new(), Vec::new());
        for located in self.walk(range.slot, u64::from(range.first) << 32) {
            if located.slot != range.slot || located.hash >> 32 > u64::from(range.last) {
                break;
            }
            let due = (1..=self.clock).contains(&located.entry.due());
            match located.entry.is_dead(self.clock) {
                true => dead.push(located.entry.key().to_vec()),
                false if due => pruning.push(located.entry.key().to_vec()),
                false => {}
            }
        }
        for key in dead {
            self.recorder.event(Class::Expired, "expired", &key);
            self.recorder.change(&key);
        }
        pruning.iter().for_each(|key| self.recorder.change(key));
        pruning
    }

    /// Notes for who waits that something happened to the key with this hash.
    #[inline]
    pub(super) fn note_touched(&mut self, slot: Slot, hash: u64) {
        if !self.wanted.is_empty() && self.wanted.contains(&Row::new(slot, hash)) {
            self.touched.push(Row::new(slot, hash));
        }
    }
}
