//! The keyspace as an eviction policy sees it.

use super::account::cost;
use super::eviction::{Candidates, Row};
use super::keyspace::Keyspace;
use super::table::{Entry, hash_of};
use crate::slot::hash_tag as tag_of;
use crate::types::{Millis, SLOTS, Slot};
use hashbrown::HashSet;
use std::hash::BuildHasherDefault;
use std::sync::atomic::AtomicU32;

/// Keys of a hash tag that count as one, at most.
const TAG_MATES_MAX: usize = 1024;
/// Slots that a sample looks at before it gives up: all, for a keyspace that is nearly empty; those without a deadline are
/// passed over by their hint.
const SAMPLE_SLOTS: usize = SLOTS;
/// Keys that a sample passes over inside a slot, at most: those without a deadline where one is asked for.
const SAMPLE_KEYS: usize = 512;

/// Rows whose eviction is under way. A row is mixed well enough to be its own hash.
pub type Leaving = HashSet<Row, BuildHasherDefault<RowHasher>>;

/// Takes a row for its own hash.
#[derive(Debug, Default, Clone, Copy)]
pub struct RowHasher(u64);

impl std::hash::Hasher for RowHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0 << 8 | u64::from(*byte));
    }

    fn write_u64(&mut self, row: u64) {
        self.0 = row.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Shows a keyspace to a policy, without what is leaving already.
pub struct Chooser<'a> {
    keyspace: &'a Keyspace,
    leaving: &'a Leaving,
}

impl<'a> Chooser<'a> {
    pub fn new(keyspace: &'a Keyspace, leaving: &'a Leaving) -> Chooser<'a> {
        Chooser { keyspace, leaving }
    }

    /// What a row means: the key, its version, and what it takes by the account.
    pub fn victim(&self, row: Row) -> Option<(&'a [u8], u64, u64)> {
        let entry = self.entry(row)?;
        assert!(!is_protected(entry), "a policy asks before it chooses, and this key is protected");
        Some((&entry.key, entry.version, cost(&entry.key, &entry.value)))
    }

    fn entry(&self, row: Row) -> Option<&'a Entry> {
        self.keyspace.table(row.slot())?.find_row(self.keyspace.hash_seed(), row)
    }

    fn row(&self, slot: Slot, entry: &Entry) -> Row {
        Row::new(slot, hash_of(self.keyspace.hash_seed(), &entry.key))
    }
}

/// Keys that are never victims: locks, sessions and fill leases, once they exist.
fn is_protected(_: &Entry) -> bool {
    false
}

impl Candidates for Chooser<'_> {
    fn len(&self) -> u64 {
        self.keyspace.len()
    }

    fn volatile_len(&self) -> u64 {
        self.keyspace.expires()
    }

    fn now(&self) -> Millis {
        self.keyspace.clock()
    }

    fn turn(&self) -> u32 {
        self.keyspace.recency().map_or(0, |recency| recency.newest())
    }

    fn mark(&self, row: Row) -> Option<&AtomicU32> {
        self.entry(row).map(|entry| &entry.mark.0)
    }

    fn deadline(&self, row: Row) -> Option<Millis> {
        self.entry(row).and_then(Entry::deadline)
    }

    fn age(&self, row: Row) -> u64 {
        self.entry(row).map_or(u64::MAX, |entry| self.keyspace.version() - entry.version)
    }

    fn may_leave(&self, row: Row) -> bool {
        !self.leaving.contains(&row) && self.entry(row).is_some_and(|entry| !is_protected(entry))
    }

    fn sample(&self, draw: u64, volatile: bool) -> Option<Row> {
        let first = draw as usize % SLOTS;
        let slots = (0..SLOTS).map(|nth| Slot(((first + nth) % SLOTS) as u16));
        let slots = slots.filter(|slot| !volatile || self.keyspace.may_expire(*slot)).take(SAMPLE_SLOTS);
        let wanted = |entry: &&Entry| !volatile || entry.deadline != 0;
        slots.filter_map(|slot| Some((slot, self.keyspace.table(slot)?))).find_map(|(slot, table)| {
            let skipped = (draw >> 32) as usize % table.len();
            let found = table.iter().skip(skipped).find(wanted);
            let found = found.or_else(|| table.iter().take(skipped.min(SAMPLE_KEYS)).find(wanted));
            found.map(|entry| self.row(slot, entry))
        })
    }

    fn unit(&self, cursor: u64, visit: &mut dyn FnMut(Row, &AtomicU32)) -> u64 {
        let from = Row::from_cursor(cursor).slot();
        let mut slots = (usize::from(from.0)..SLOTS).map(|slot| Slot(slot as u16));
        let Some(slot) = slots.find(|slot| self.keyspace.table(*slot).is_some()) else { return 0 };
        if let Some(table) = self.keyspace.table(slot) {
            table.iter().for_each(|entry| visit(self.row(slot, entry), &entry.mark.0));
        }
        match usize::from(slot.0) + 1 {
            SLOTS => 0,
            next => Row::new(Slot(next as u16), 0).cursor(),
        }
    }

    fn tag_mates(&self, row: Row, visit: &mut dyn FnMut(Row, &AtomicU32)) {
        let Some(entry) = self.entry(row) else { return };
        let tag = tag_of(&entry.key);
        let Some(table) = self.keyspace.table(row.slot()) else { return };
        let mates = table.iter().filter(|mate| tag_of(&mate.key) == tag).take(TAG_MATES_MAX);
        mates.for_each(|mate| visit(self.row(row.slot(), mate), &mate.mark.0));
    }
}
