//! The replicated state of one group: its slots, clock and version counter, and what writes may do with them.
//!
//! Invariants, whatever is called in whatever order:
//! - `clock` and `version` never go back; a call that changes nothing leaves `version` as it is.
//! - `account` equals the sum over all entries.
//! - A slot without keys has no table.
//! - No entry is stored with a deadline at or before the clock of its own write.
//! - The earliest deadline of a slot is never before its hint (`expiry.rs`).
//! - While a cut runs, a slot is changed only after its image is made (`cut.rs`).
//!
//! A dead key is absent to every call here but [`Keyspace::sweep`], which is what removes it from memory.

use super::account::Account;
use super::codec::{self, CutHead, RestoreError, SlotImage};
use super::cut::Cut;
use super::eviction::{Limit, Recency, Row};
use super::expiry::Hints;
use super::table::{Entry, Mark, Table, hash_of};
use super::value::Value;
use crate::slot::slot_of;
use crate::types::{Millis, SLOTS, Slot, Stamp};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// See the head of this file.
#[derive(Debug)]
pub struct Keyspace {
    seed: u64,
    clock: Millis,
    version: u64,
    account: Account,
    slots: Box<[Option<Box<Table>>]>,
    /// Not replicated, and decides nothing. Locked by [`Keyspace::due_slots`] alone; writers own the keyspace.
    hints: Mutex<Hints>,
    cut: Option<Cut>,
    /// Draws for RANDOMKEY, a read: not replicated.
    draws: AtomicU64,
    limit: Limit,
    /// Where accesses are noted; a leader's own, and only if its policy asks for it.
    recency: Option<Recency>,
    /// Keys that were added since they were last asked for. Kept only beside `recency`.
    arrivals: Vec<Row>,
    /// Keys evicted since this replica was made. Not replicated.
    evicted: u64,
}

impl Keyspace {
    /// An empty keyspace. All replicas of a group must be given the same seed.
    pub fn new(hash_seed: u64) -> Keyspace {
        Keyspace {
            seed: hash_seed,
            clock: 0,
            version: 0,
            account: Account::default(),
            slots: (0..SLOTS).map(|_| None).collect(),
            hints: Mutex::default(),
            cut: None,
            draws: AtomicU64::new(hash_seed),
            limit: Limit::default(),
            recency: None,
            arrivals: Vec::new(),
            evicted: 0,
        }
    }

    /// The group clock.
    pub fn clock(&self) -> Millis {
        self.clock
    }

    /// Called once an entry, before its commands: the clock follows the stamp, and never goes back.
    pub fn advance(&mut self, stamp: &Stamp) {
        self.clock = self.clock.max(stamp.now_ms);
    }

    /// Changes of keys so far.
    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn hash_seed(&self) -> u64 {
        self.seed
    }

    /// Keys, with those that are dead and not yet swept.
    pub fn len(&self) -> u64 {
        self.account.keys
    }

    pub fn is_empty(&self) -> bool {
        self.account.keys == 0
    }

    /// Keys with a deadline.
    pub fn expires(&self) -> u64 {
        self.account.expires
    }

    /// The account of memory, in bytes (`account.rs`).
    pub fn used_bytes(&self) -> u64 {
        self.account.bytes
    }

    // -- Single keys

    /// The key's entry, if it is alive by the group clock.
    pub fn get(&self, key: &[u8]) -> Option<&Entry> {
        self.table(slot_of(key))?.get(hash_of(self.seed, key), key).filter(|entry| !entry.is_dead(self.clock))
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        self.get(key).is_some()
    }

    /// Writes a key. A deadline that is not after the clock makes this a removal: the key would be dead at once.
    pub fn set(&mut self, key: &[u8], value: Value, deadline: Option<Millis>) {
        if deadline.is_some_and(|deadline| deadline <= self.clock) {
            self.remove(key);
            return;
        }
        let (slot, hash, deadline) = (slot_of(key), hash_of(self.seed, key), deadline.unwrap_or(0));
        self.before_change(slot);
        self.version += 1;
        self.account.add(key, &value, deadline);
        let table = self.slots[usize::from(slot.0)].get_or_insert_default();
        if let Some(entry) = table.get_mut(hash, key) {
            self.account.subtract(key, &entry.value, entry.deadline);
            (entry.value, entry.deadline) = (value, deadline);
            (entry.version, entry.written_ms) = (self.version, self.clock);
            touch(&self.recency, entry, self.clock);
        } else {
            let entry = Entry {
                key: key.into(),
                value,
                deadline,
                version: self.version,
                written_ms: self.clock,
                mark: Mark::default(),
            };
            if let Some(recency) = &self.recency {
                entry.mark.0.store(recency.fresh(self.clock), Ordering::Relaxed);
                self.arrivals.push(Row::new(slot, hash));
            }
            table.insert(self.seed, hash, entry);
        }
        self.hints.get_mut().note(slot, deadline);
    }

    /// Changes a living key's value in place, its deadline kept; `None` if there is no such key. Counts as a change
    /// whatever `change` does.
    pub fn edit<R>(&mut self, key: &[u8], change: impl FnOnce(&mut Value) -> R) -> Option<R> {
        self.get(key)?;
        let (slot, hash) = (slot_of(key), hash_of(self.seed, key));
        self.before_change(slot);
        self.version += 1;
        let entry = self.slots[usize::from(slot.0)].as_mut()?.get_mut(hash, key)?;
        self.account.subtract(key, &entry.value, entry.deadline);
        let result = change(&mut entry.value);
        self.account.add(key, &entry.value, entry.deadline);
        entry.version = self.version;
        entry.written_ms = self.clock;
        touch(&self.recency, entry, self.clock);
        Some(result)
    }

    /// Removes a living key and gives what it held.
    pub fn take(&mut self, key: &[u8]) -> Option<Entry> {
        self.get(key)?;
        let slot = slot_of(key);
        self.before_change(slot);
        self.version += 1;
        let table = self.slots[usize::from(slot.0)].as_mut()?;
        let entry = table.remove(self.seed, hash_of(self.seed, key), key)?;
        self.account.subtract(&entry.key, &entry.value, entry.deadline);
        self.drop_if_empty(slot);
        Some(entry)
    }

    /// Removes a key; whether it was alive.
    pub fn remove(&mut self, key: &[u8]) -> bool {
        self.take(key).is_some()
    }

    /// Gives a living key another deadline, or none; whether there is such a key. One that is not after the clock
    /// removes the key. A deadline the key has already changes nothing.
    pub fn set_deadline(&mut self, key: &[u8], deadline: Option<Millis>) -> bool {
        let Some(entry) = self.get(key) else { return false };
        if entry.deadline() == deadline {
            return true;
        }
        if deadline.is_some_and(|deadline| deadline <= self.clock) {
            return self.remove(key);
        }
        let (slot, hash, deadline) = (slot_of(key), hash_of(self.seed, key), deadline.unwrap_or(0));
        self.before_change(slot);
        self.version += 1;
        let entry = self.slots[usize::from(slot.0)]
            .as_mut()
            .and_then(|table| table.get_mut(hash, key))
            .expect("the key was found a moment ago and saving its slot removes nothing");
        self.account.expires -= u64::from(entry.deadline != 0);
        self.account.expires += u64::from(deadline != 0);
        entry.deadline = deadline;
        entry.version = self.version;
        entry.written_ms = self.clock;
        self.hints.get_mut().note(slot, deadline);
        true
    }

    /// Removes every key; one change, none if there is no key.
    pub fn clear(&mut self) {
        if self.is_empty() {
            return;
        }
        self.version += 1;
        for slot in 0..SLOTS {
            if let Some(table) = self.slots[slot].take()
                && let Some(cut) = &mut self.cut
            {
                cut.keep(Slot(slot as u16), table);
            }
        }
        self.account = Account::default();
        self.hints.get_mut().clear();
    }

    // -- Slots

    pub(super) fn table(&self, slot: Slot) -> Option<&Table> {
        self.slots.get(usize::from(slot.0))?.as_deref()
    }

    /// Slots that hold keys, in order, with their tables.
    pub(super) fn tables(&self) -> impl Iterator<Item = (Slot, &Table)> {
        self.slots.iter().enumerate().filter_map(|(slot, table)| Some((Slot(slot as u16), table.as_deref()?)))
    }

    /// Keys of one slot, with those that are dead and not yet swept.
    pub fn slot_len(&self, slot: Slot) -> u64 {
        self.table(slot).map_or(0, |table| table.len() as u64)
    }

    /// Must be called before anything of the slot changes.
    fn before_change(&mut self, slot: Slot) {
        if let Some(cut) = &mut self.cut {
            cut.save(slot, self.slots[usize::from(slot.0)].as_deref(), self.seed);
        }
    }

    fn drop_if_empty(&mut self, slot: Slot) {
        let place = &mut self.slots[usize::from(slot.0)];
        if place.as_ref().is_some_and(|table| table.is_empty()) {
            *place = None;
        }
    }

    // -- Expiry

    /// Not later than the earliest deadline of any key. Not replicated.
    pub fn next_deadline(&self) -> Option<Millis> {
        self.hints.lock().earliest()
    }

    /// Whether a key of this slot may have a deadline. A hint.
    pub(super) fn may_expire(&self, slot: Slot) -> bool {
        self.hints.lock().has(slot)
    }

    /// Slots that hold a key dead at `now`, at most `max`: what a tick should name. Not replicated.
    pub fn due_slots(&self, now: Millis, max: usize) -> Vec<Slot> {
        self.hints.lock().due(now, max, |slot| self.table(slot))
    }

    /// Removes what is dead by the group clock in exactly these slots, in apply. Gives how many keys went; each is
    /// one change.
    pub fn sweep(&mut self, slots: &[Slot]) -> u64 {
        let mut swept = 0;
        for &slot in slots {
            let clock = self.clock;
            if !self.table(slot).is_some_and(|table| table.iter().any(|entry| entry.is_dead(clock))) {
                continue;
            }
            self.before_change(slot);
            let table = self.slots[usize::from(slot.0)].as_mut().expect("the slot holds the dead key just seen");
            let removed = table.take_dead(clock);
            self.hints.get_mut().replace(slot, table.earliest_deadline());
            self.account.subtract_all(removed);
            self.version += removed.keys;
            swept += removed.keys;
            self.drop_if_empty(slot);
        }
        swept
    }

    // -- Memory

    /// What the group may hold, as its log says.
    pub fn limit(&self) -> Limit {
        self.limit
    }

    /// Sets what the group may hold, in apply. Nothing is removed: that is the business of entries that evict.
    pub fn set_limit(&mut self, limit: Limit) {
        self.limit = limit;
    }

    /// Removes a key, dead or alive, if it was not changed since it had this version; whether it was removed. In apply.
    pub fn evict(&mut self, key: &[u8], version: u64) -> bool {
        let (slot, hash) = (slot_of(key), hash_of(self.seed, key));
        if self.table(slot).and_then(|table| table.get(hash, key)).is_none_or(|entry| entry.version != version) {
            return false;
        }
        self.before_change(slot);
        self.version += 1;
        let table = self.slots[usize::from(slot.0)].as_mut().expect("the slot holds the key just seen");
        let entry = table.remove(self.seed, hash, key).expect("the key was just seen");
        self.account.subtract(&entry.key, &entry.value, entry.deadline);
        self.drop_if_empty(slot);
        self.evicted += 1;
        true
    }

    /// Keys evicted here since this replica began. Not replicated.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// From now on accesses are noted in this way, beginning with nothing known; or not at all. Not replicated.
    pub fn watch(&mut self, recency: Option<Recency>) {
        for table in self.slots.iter().flatten() {
            table.iter().for_each(|entry| entry.mark.0.store(0, Ordering::Relaxed));
        }
        self.recency = recency;
        self.arrivals = Vec::new();
    }

    /// How accesses are noted, if they are.
    pub fn recency(&self) -> Option<&Recency> {
        self.recency.as_ref()
    }

    /// Keys added since the last call, while accesses are noted.
    pub fn take_arrivals(&mut self) -> Vec<Row> {
        std::mem::take(&mut self.arrivals)
    }

    /// A read of the key's entry, for recency.
    pub(super) fn note_read(&self, entry: &Entry) {
        touch(&self.recency, entry, self.clock);
    }

    // -- Snapshots

    /// Begins a snapshot: everything outside the slots is captured now, the slots follow with
    /// [`Keyspace::cut_next`] and show this same moment.
    ///
    /// # Panics
    /// If a cut is running.
    pub fn begin_cut(&mut self) -> CutHead {
        assert!(self.cut.is_none(), "one snapshot at a time");
        self.cut = Some(Cut::new(self.tables().map(|(slot, _)| slot)));
        self.head()
    }

    fn head(&self) -> CutHead {
        CutHead {
            seed: self.seed,
            clock: self.clock,
            version: self.version,
            account: self.account,
            slots: self.tables().count() as u32,
            limit: self.limit,
        }
    }

    /// Up to `max_slots` slots as they were at the cut, in no particular order. Empty: all are out, and the cut is
    /// over.
    pub fn cut_next(&mut self, max_slots: usize) -> Vec<SlotImage> {
        let Some(mut cut) = self.cut.take() else { return Vec::new() };
        let images = cut.take(max_slots.max(1), self.seed, |slot| self.table(slot));
        if !images.is_empty() {
            self.cut = Some(cut);
        }
        images
    }

    /// Whether a snapshot is being taken.
    pub fn cut_running(&self) -> bool {
        self.cut.is_some()
    }

    /// Ends a cut whose snapshot failed. Nothing happens if none runs.
    pub fn abort_cut(&mut self) {
        self.cut = None;
    }

    /// The keyspace of a snapshot. Every image must be there, once, in any order; anything odd is an error.
    pub fn restore<B: AsRef<[u8]>, E: std::fmt::Display>(
        head: &[u8],
        images: impl Iterator<Item = Result<B, E>>,
    ) -> Result<Keyspace, RestoreError> {
        let head = CutHead::from_bytes(head)?;
        let mut keyspace = Keyspace::new(head.seed);
        (keyspace.clock, keyspace.version) = (head.clock, head.version);
        keyspace.limit = head.limit;
        let mut slots = 0;
        for image in images {
            let image = image.map_err(|error| RestoreError::Source(error.to_string()))?;
            let (slot, entries) = codec::decode_slot(image.as_ref())?;
            keyspace.restore_slot(slot, entries)?;
            slots += 1;
        }
        if slots != head.slots {
            return Err(RestoreError::Sums("slots are missing or too many"));
        }
        if keyspace.account != head.account {
            return Err(RestoreError::Sums("keys, deadlines or bytes differ"));
        }
        Ok(keyspace)
    }

    fn restore_slot(&mut self, slot: Slot, entries: Vec<Entry>) -> Result<(), RestoreError> {
        if self.table(slot).is_some() {
            return Err(RestoreError::Twice(slot));
        }
        let mut table = Box::<Table>::default();
        for entry in entries {
            if slot_of(&entry.key) != slot {
                return Err(RestoreError::Damaged { part: "slot image", what: "a key of another slot" });
            }
            self.account.add(&entry.key, &entry.value, entry.deadline);
            table.insert(self.seed, hash_of(self.seed, &entry.key), entry);
        }
        self.hints.get_mut().note(slot, table.earliest_deadline());
        if !table.is_empty() {
            self.slots[usize::from(slot.0)] = Some(table);
        }
        Ok(())
    }

    /// A hash of the whole state, equal on equal states: head and entries, however they lie in memory. Looks at
    /// every key: for comparing replicas now and then, not for a hot path.
    pub fn state_hash(&self) -> u128 {
        let mut bytes = Vec::new();
        let mut sum = xxh3_128_with_seed(&self.head().to_bytes(), self.seed);
        for (_, table) in self.tables() {
            for entry in table.iter() {
                bytes.clear();
                codec::encode_entry(&mut bytes, entry);
                // Addition does not depend on order, and unlike XOR does not let equal terms cancel.
                sum = sum.wrapping_add(xxh3_128_with_seed(&bytes, self.seed));
            }
        }
        sum
    }

    /// A number that differs from call to call, for reads that choose at random. Never for apply.
    pub(super) fn draw(&self) -> u64 {
        let mut draw = self.draws.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        draw = (draw ^ draw >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        draw = (draw ^ draw >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        draw ^ draw >> 31
    }

    #[cfg(test)]
    pub(super) fn recomputed_account(&self) -> Account {
        let mut sum = Account::default();
        for (_, table) in self.tables() {
            let part = table.account();
            sum.keys += part.keys;
            sum.expires += part.expires;
            sum.bytes += part.bytes;
        }
        sum
    }

    #[cfg(test)]
    pub(super) fn account(&self) -> Account {
        self.account
    }
}

fn touch(recency: &Option<Recency>, entry: &Entry, now: Millis) {
    if let Some(recency) = recency {
        recency.touch(&entry.mark.0, now);
    }
}
