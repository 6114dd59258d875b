//! The keyspace as an eviction policy sees it.

use super::entry::EntryRef;
use super::eviction::{Candidates, Row};
use super::keyspace::{Keyspace, Located};
use crate::slot::hash_tag as tag_of;
use crate::types::{Millis, SLOTS, Slot};
use hashbrown::HashSet;
use std::hash::BuildHasherDefault;
use std::sync::atomic::AtomicU32;

/// Keys of a hash tag that count as one, at most.
const TAG_MATES_MAX: usize = 1024;
/// Keys that are looked at for the mates of one, at most.
const TAG_LOOKED_MAX: usize = 4 * TAG_MATES_MAX;
/// Keys that are drawn for one with a deadline before the units that have such are looked for.
const VOLATILE_DRAWS: u32 = 16;

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
        assert!(!is_protected(&entry), "a policy asks before it chooses, and this key is protected");
        Some((entry.key, entry.version, entry.cost()))
    }

    fn entry(&self, row: Row) -> Option<EntryRef<'a>> {
        self.keyspace.locate_row(row).map(|located| located.entry)
    }

    /// Some key with a deadline, from the units at or behind a slot that have one.
    fn volatile(&self, first: Slot) -> Option<Row> {
        let slots = (0..SLOTS).map(|nth| Slot(((usize::from(first.0) + nth) % SLOTS) as u16));
        let units = slots.flat_map(|slot| self.keyspace.table().units_of(slot).iter().map(move |unit| (slot, unit)));
        units.filter(|(_, unit)| unit.hint != 0).find_map(|(slot, unit)| {
            let entry = unit.entries().find(|entry| entry.deadline != 0)?;
            Some(Row::new(slot, self.keyspace.hash(entry.key)))
        })
    }
}

/// Keys that are never victims: locks, sessions and fill leases, once they exist.
fn is_protected(_: &EntryRef<'_>) -> bool {
    false
}

fn row_of(located: &Located<'_>) -> Row {
    Row::new(located.slot, located.hash)
}

fn show(located: &Located<'_>, visit: &mut dyn FnMut(Row, &AtomicU32)) {
    if let Some(mark) = located.mark {
        visit(row_of(located), mark);
    }
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
        self.keyspace.locate_row(row).and_then(|located| located.mark)
    }

    fn deadline(&self, row: Row) -> Option<Millis> {
        self.entry(row).and_then(|entry| entry.deadline())
    }

    fn age(&self, row: Row) -> u64 {
        self.entry(row).map_or(u64::MAX, |entry| self.keyspace.version() - entry.version)
    }

    fn may_leave(&self, row: Row) -> bool {
        !self.leaving.contains(&row)
            && self.keyspace.may_change(row.slot())
            && self.entry(row).is_some_and(|entry| !is_protected(&entry))
    }

    fn rests(&self, row: Row) -> bool {
        !self.keyspace.may_change(row.slot())
    }

    fn sample(&self, draw: u64, volatile: bool) -> Option<Row> {
        // One number makes all that are needed: what matters is that they differ.
        let draws =
            std::iter::successors(Some(draw), |last| Some(last.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1)));
        let mut drawn = draws.take(if volatile { VOLATILE_DRAWS as usize } else { 1 });
        let found = drawn.find_map(|draw| {
            let located = self.keyspace.draw_entry([draw, draw.rotate_left(32)])?;
            (!volatile || located.entry.deadline != 0).then(|| row_of(&located))
        });
        found.or_else(|| if volatile { self.volatile(Slot((draw % SLOTS as u64) as u16)) } else { None })
    }

    fn unit(&self, cursor: u64, visit: &mut dyn FnMut(Row, &AtomicU32)) -> u64 {
        let from = Row::from_cursor(cursor);
        let table = self.keyspace.table();
        let Some(slot) = table.next_slot(usize::from(from.slot().0)) else { return 0 };
        let hash = if slot == from.slot() { from.hash() } else { 0 };
        let Some(last) = table.unit(slot, hash).map(|unit| unit.last()) else { return 0 };
        let inside = |located: &Located<'_>| located.slot == slot && (located.hash >> 32) as u32 <= last;
        self.keyspace.walk(slot, hash).take_while(inside).for_each(|located| show(&located, visit));
        match (last.checked_add(1), usize::from(slot.0) + 1) {
            (Some(next), _) => Row::new(slot, u64::from(next) << 32).cursor(),
            (None, SLOTS) => 0,
            (None, next) => Row::new(Slot(next as u16), 0).cursor(),
        }
    }

    fn tag_mates(&self, row: Row, visit: &mut dyn FnMut(Row, &AtomicU32)) {
        let Some(entry) = self.entry(row) else { return };
        let tag = tag_of(entry.key);
        // The key's own unit first: in a slot of one unit that is all there is.
        let first = self.keyspace.table().unit(row.slot(), row.hash()).map_or(0, |unit| u64::from(unit.first()) << 32);
        let here = self.keyspace.walk(row.slot(), first).take_while(|other| other.slot == row.slot());
        let mates = here.take(TAG_LOOKED_MAX).filter(|other| tag_of(other.entry.key) == tag);
        mates.take(TAG_MATES_MAX).for_each(|other| show(&other, visit));
    }
}
