//! What a handover of slots does with their keys: reads them out of the source, puts them into the target, clears away what
//! is nobody's any more. Who answers for which slot: `ownership.rs`.
//!
//! Frozen slots do not change between the freeze and its end, so every replica of the source that has applied the freeze
//! reads the same out of them, by (slot, hash), and may be asked. What a target does with it is decided by what it is told in
//! its own log, and by its own state.
//!
//! Invariants: what was told is installed once and in order, as a whole or not at all; the target's version counter is above
//! every version that it takes over; remaining lifetimes are kept, whatever the two clocks say.

use super::Keyspace;
use crate::state::codec;
use crate::state::entry::{Draft, Drafted, Entry, EntryRef};
use crate::state::ownership::{NotTaken, Ownership, Place, Progress, Side, SlotSet};
use crate::types::{Millis, Slot};
use bytes::Bytes;

/// Entries that one look at the source passes, at most: the lock is held meanwhile.
const PASSED_AT_ONCE: usize = 8192;

/// Part of what a source hands over.
#[derive(Debug)]
pub struct Excerpt {
    pub sent: Sent,
    /// The source's clock by its log: what is dead by it stays behind.
    dead_at: Millis,
    entries: Vec<(Slot, Vec<Entry>)>,
}

impl Excerpt {
    /// The images of it. Takes a while: not to be called under a lock.
    pub fn into_images(mut self) -> Vec<Bytes> {
        let entries = self.entries.iter_mut().flat_map(|(_, entries)| entries);
        for entry in entries {
            // Elements that nobody sees any more do not live again by another clock. Who watches the key is told.
            if entry.value.prune(self.dead_at) {
                entry.version = self.sent.version;
            }
        }
        self.entries.into_iter().map(|(slot, entries)| codec::image_of(slot, &entries)).collect()
    }
}

/// What slots hold that are to be handed over.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// By the account.
    pub bytes: u64,
    /// Bytes of the largest entry in an image, about.
    pub largest: usize,
    /// Where that one is.
    pub key: Option<(Slot, Bytes)>,
}

/// What comes with the images that a target installs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    pub from: Place,
    /// Where the next one begins; none behind the last.
    pub next: Option<Place>,
    /// The source's version counter.
    pub version: u64,
    /// At least the version of every key of these slots that is gone (`removals.rs`).
    pub removed: u64,
    /// The source's clock, or a later estimate of its time if that was given.
    pub clock: Millis,
}

impl Keyspace {
    /// Which slots this group answers for.
    pub fn ownership(&self) -> &Ownership {
        &self.ownership
    }

    /// Keys, with those that are dead and not yet swept, without what is on its way here or was handed over.
    pub fn visible_len(&self) -> u64 {
        if !self.ownership.guards() {
            return self.len();
        }
        let mut hidden = 0;
        let mut from = 0;
        while let Some(slot) = self.table.next_slot(from) {
            from = usize::from(slot.0) + 1;
            if !self.ownership.owns(slot) {
                hidden += self.table.slot_len(slot);
            }
        }
        self.len() - hidden
    }

    /// The first slot from this one on that holds keys of the group.
    pub(super) fn next_owned_slot(&self, from: usize) -> Option<Slot> {
        let mut from = from;
        loop {
            let slot = self.table.next_slot(from)?;
            if self.ownership.owns(slot) {
                return Some(slot);
            }
            from = usize::from(slot.0) + 1;
        }
    }

    /// Whether what lies in a slot may expire and be evicted.
    pub fn may_change(&self, slot: Slot) -> bool {
        self.ownership.serves(slot)
    }

    // -- In apply

    /// Says what the group owned before its first handover.
    pub fn found_ownership(&mut self, slots: SlotSet) {
        if self.ownership.found(slots) {
            self.version += 1;
        }
    }

    /// The source answers no more for these slots. Who waits for keys there is told that something happened to them, and so
    /// is everybody who keeps what was read here.
    ///
    /// # Errors
    /// When the step cannot be taken; nothing is changed then. So it is with every step below.
    pub fn freeze_slots(&mut self, id: u64, slots: SlotSet) -> Result<Progress, NotTaken> {
        let (progress, new) = self.ownership.freeze(id, slots)?;
        if new {
            self.version += 1;
            let frozen = |row: &&super::Row| !self.ownership.serves(row.slot());
            let rows: Vec<_> = self.wanted.iter().filter(frozen).copied().collect();
            self.touched.extend(rows);
            self.recorder.cleared();
        }
        Ok(progress)
    }

    /// The target expects these slots.
    pub fn expect_slots(&mut self, id: u64, slots: SlotSet) -> Result<Progress, NotTaken> {
        if self.ownership.expected(id).is_err() && slots.iter().any(|slot| self.slot_len(slot) > 0) {
            return Err(match slots.iter().any(|slot| self.ownership.owns(slot)) {
                true => NotTaken::Owned,
                false => NotTaken::Leftovers,
            });
        }
        self.ownership.expect(id, slots)
    }

    /// Puts a part of what is handed over in its place. One that was installed already, or does not come next, changes nothing.
    pub fn install_slots(&mut self, id: u64, sent: Sent, images: &[Bytes]) -> Result<Progress, NotTaken> {
        let expected = self.ownership.expected(id)?;
        if expected != Progress::Expects(sent.from) || sent.next.is_some_and(|next| next <= sent.from) {
            return Ok(expected);
        }
        let decoded: Result<Vec<_>, _> = images.iter().map(|image| codec::decode_slot(image)).collect();
        let decoded = decoded.map_err(|_| NotTaken::Damaged)?;
        let handover = self.ownership.handover().ok_or(NotTaken::Unknown)?;
        let misplaced = |(slot, entries): &(Slot, Vec<Draft<'_>>)| {
            !handover.slots.has(*slot) || entries.iter().any(|entry| super::slot_of(entry.key) != *slot)
        };
        if decoded.iter().any(misplaced) {
            return Err(NotTaken::Damaged);
        }
        self.version = self.version.max(sent.version);
        handover.slots.iter().for_each(|slot| self.removals.raise(slot, sent.removed));
        for (slot, entries) in decoded {
            for entry in entries {
                self.install(slot, entry, sent.clock);
            }
        }
        self.ownership.installed(sent.next);
        self.ownership.expected(id)
    }

    fn install(&mut self, slot: Slot, entry: Draft<'_>, then: Millis) {
        let Draft { key, mut value, deadline, version, written_ms } = entry;
        let now = self.clock;
        // What has died on the way dies here, when this group's log says so.
        let rebase = |moment: Millis| now.saturating_add(moment.saturating_sub(then)).max(now + 1);
        if let Drafted::Made(value) = &mut value {
            value.rebase(then, now);
        }
        let deadline = if deadline == 0 { 0 } else { rebase(deadline) };
        let written_ms = now.saturating_sub(then.saturating_sub(written_ms));
        let hash = super::hash_of(self.seed, key);
        self.put(slot, hash, Draft { key, value, deadline, version, written_ms });
    }

    /// The target owns what it was given.
    pub fn activate_slots(&mut self, id: u64) -> Result<Progress, NotTaken> {
        let (progress, new) = self.ownership.activate(id)?;
        self.version += u64::from(new);
        Ok(progress)
    }

    /// The source owns no more what it has handed over; the keys go with [`Keyspace::clear_departed`].
    pub fn drop_slots(&mut self, id: u64) -> Result<Progress, NotTaken> {
        let (progress, new) = self.ownership.depart(id)?;
        self.version += u64::from(new);
        Ok(progress)
    }

    /// The handover came to nothing: the source goes on, the target keeps nothing of it.
    pub fn abort_handover(&mut self, id: u64) -> Result<Progress, NotTaken> {
        let (progress, new) = self.ownership.abort(id)?;
        self.version += u64::from(new);
        Ok(progress)
    }

    /// Removes up to `max` keys, and those of the same hash as the last, that lie in slots which are neither the group's nor
    /// on their way here; whether there are more.
    pub fn clear_departed(&mut self, max: usize) -> bool {
        let mut left = max;
        let mut from = 0;
        while let Some(slot) = self.table.next_slot(from) {
            if !self.ownership.departed(slot) {
                from = usize::from(slot.0) + 1;
                continue;
            }
            if left == 0 {
                return true;
            }
            // By hash, so that replicas whose units have other borders remove the same.
            let rows =
                self.table.slot_ordered(slot, 0).map(|(hash, entry, ..)| (hash, entry.version, entry.key.to_vec()));
            let rows: Vec<(u64, u64, Vec<u8>)> = rows.take(left).collect();
            left -= rows.len();
            for (hash, version, key) in rows {
                let at = self.table.unit(slot, hash).and_then(|unit| unit.find(hash, &key));
                self.drop_at((slot, hash, at.expect("it was met a moment ago")), version);
            }
        }
        false
    }

    // -- At the source: not in apply

    /// What comes next of a handover of which this group is the source, about `max_bytes`. `now`: an estimate of the group's
    /// time. None if it is not the source of this handover now.
    pub fn hand_over(&self, id: u64, from: Place, max_bytes: usize, now: Millis) -> Option<Excerpt> {
        let handover = self.ownership.handover().filter(|of| of.id == id && of.side == Side::Source)?;
        let clock = self.clock.max(now);
        let removed = handover.slots.iter().map(|slot| self.removals.of(slot)).max().unwrap_or(0);
        let sent = Sent { from, next: None, version: self.version, removed, clock };
        let mut excerpt = Excerpt { sent, dead_at: self.clock, entries: Vec::new() };
        let (mut bytes, entries, removed) = (0, &mut excerpt.entries, &mut excerpt.sent.removed);
        excerpt.sent.next = self.pass(&handover.slots, from, |slot, entry| {
            if entry.is_dead(self.clock) {
                // It stays behind, and that is how it goes.
                *removed = entry.version.max(*removed);
                return false;
            }
            bytes += weight(entry);
            match entries.last_mut() {
                Some((last, entries)) if *last == slot => entries.push(entry.to_entry()),
                _ => entries.push((slot, vec![entry.to_entry()])),
            }
            bytes >= max_bytes
        });
        Some(excerpt)
    }

    /// Adds what these slots hold from a place on, as it is now; where to go on, if that is not all.
    pub fn survey(&self, slots: &SlotSet, from: Place, survey: &mut Survey) -> Option<Place> {
        self.pass(slots, from, |slot, entry| {
            let weight = weight(entry);
            survey.bytes += entry.cost();
            if weight > survey.largest {
                (survey.largest, survey.key) = (weight, Some((slot, Bytes::copy_from_slice(entry.key))));
            }
            false
        })
    }

    /// Shows what lies in these slots by (slot, hash), from a place on, until `visit` has enough or much was passed: the lock
    /// is held meanwhile. Gives the place of the first that was not shown.
    fn pass(&self, slots: &SlotSet, from: Place, mut visit: impl FnMut(Slot, &EntryRef<'_>) -> bool) -> Option<Place> {
        let (mut enough, mut passed, mut last) = (false, 0, from);
        let mut next = Some(usize::from(from.slot.0));
        while let Some(slot) = next.and_then(|from| self.table.next_slot(from)) {
            next = Some(usize::from(slot.0) + 1);
            if !slots.has(slot) {
                continue;
            }
            let first = if slot == from.slot { from.hash } else { 0 };
            for (hash, entry, ..) in self.table.slot_ordered(slot, first) {
                let place = Place { slot, hash };
                // Keys that share a place go together, or the next part could not begin between them.
                if (enough || passed >= PASSED_AT_ONCE) && place > last {
                    return Some(place);
                }
                (last, passed) = (place, passed + 1);
                enough |= visit(slot, &entry);
            }
        }
        None
    }
}

/// Bytes that an entry takes in an image, about.
fn weight(entry: &EntryRef<'_>) -> usize {
    entry.key.len() + entry.value.weight() + 16
}
