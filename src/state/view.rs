//! What a read may see of a keyspace.
//!
//! A key is dead by the state's own clock and by nothing else. A linearizable or lease read is also told the
//! leader's estimate of the time: where that calls a key dead which the state still calls alive, nobody may answer
//! yet. The view notes it ([`View::needs_tick`]); the caller throws the reply away, has a tick committed, and runs
//! the read again **with the same estimate**, which the clock has then reached.
//!
//! A read that is part of an entry ([`View::in_entry`]) answers alike on every replica: chance comes from the entry,
//! and what is a replica's own, such as the bits of filters, is not asked.

use super::collections::Packing;
use super::entry::EntryRef;
use super::keyspace::{Keyspace, STEP, scramble};
use super::ownership::Ownership;
use super::removals::Seen;
use crate::types::{Millis, SLOTS, Slot};
use bytes::Bytes;
use std::cell::{Cell, RefCell};

/// Read access to a keyspace, for one command.
pub struct View<'a> {
    keyspace: &'a Keyspace,
    estimate: Option<Millis>,
    needs_tick: Cell<bool>,
    /// Of a read in an entry: what its random choices are drawn from.
    seed: Option<Cell<u64>>,
    /// Keys that were asked for and are not there, if that is wanted.
    misses: Option<RefCell<Vec<Bytes>>>,
    /// What is read is not noted for eviction.
    quiet: Cell<bool>,
}

/// How far the estimate may be ahead of the clock before an answer about remaining time waits for a tick. Without
/// it TTL would stand still in a group that nobody writes to.
const TTL_SLACK_MS: Millis = 250;

/// Random draws before RANDOMKEY goes through all keys in order: only a keyspace of mostly dead keys needs more.
const RANDOM_TRIES: usize = 100;

/// Low bits of a SCAN cursor that hold the position inside a slot.
pub const CURSOR_HASH_BITS: u32 = 48;
/// The lowest bits of a cursor are 0: who joins the scans of several groups notes there whose place it is.
pub const CURSOR_FREE: u64 = 0xfff;

impl<'a> View<'a> {
    /// `estimate_ms`: the stamp the leader would write now; `None` for reads that do not promise the present.
    pub fn new(keyspace: &'a Keyspace, estimate_ms: Option<Millis>) -> View<'a> {
        View {
            keyspace,
            estimate: estimate_ms,
            needs_tick: Cell::new(false),
            seed: None,
            misses: None,
            quiet: Cell::new(false),
        }
    }

    /// What a read sees that is applied as part of an entry, by the state's clock.
    pub fn in_entry(keyspace: &'a Keyspace, seed: u64) -> View<'a> {
        View { seed: Some(Cell::new(seed)), ..View::new(keyspace, None) }
    }

    /// The same, noting the keys that are asked for and are not there.
    pub fn noting_misses(self) -> View<'a> {
        View { misses: Some(RefCell::default()), ..self }
    }

    /// From now on what is read is not noted for eviction.
    pub fn leave_no_trace(&self) {
        self.quiet.set(true);
    }

    /// The keys that were missed, in order.
    pub fn misses(self) -> Vec<Bytes> {
        self.misses.map_or_else(Vec::new, RefCell::into_inner)
    }

    /// Whether what was read may not be answered before a tick.
    pub fn needs_tick(&self) -> bool {
        self.needs_tick.get()
    }

    /// Which slots the group answers for.
    pub fn ownership(&self) -> &'a Ownership {
        self.keyspace.ownership()
    }

    /// The group clock.
    pub fn clock(&self) -> Millis {
        self.keyspace.clock()
    }

    /// The key's entry, if it is alive.
    #[inline]
    pub fn get(&self, key: &[u8]) -> Option<EntryRef<'a>> {
        let found = if self.quiet.get() { self.keyspace.get(key) } else { self.keyspace.read(key) };
        let found = found.inspect(|entry| self.judge(entry));
        if found.is_none()
            && let Some(misses) = &self.misses
        {
            misses.borrow_mut().push(Bytes::copy_from_slice(key));
        }
        found
    }

    /// The same for who asks about a key and not for it: leaves no trace.
    pub fn look_at(&self, key: &[u8]) -> Option<EntryRef<'a>> {
        self.keyspace.get(key).inspect(|entry| self.judge(entry))
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        self.get(key).is_some()
    }

    /// What there is to remember of a key, so that it can be told later whether it changed.
    pub fn see(&self, key: &[u8]) -> Seen {
        self.look_at(key);
        self.keyspace.see(key)
    }

    /// Whether a key has not changed since this was seen of it.
    pub fn is_as_seen(&self, key: &[u8], seen: Seen) -> bool {
        self.look_at(key);
        self.keyspace.is_as_seen(key, seen)
    }

    /// What the filters say: `false` if the key is surely absent.
    pub fn might_contain(&self, key: &[u8]) -> bool {
        match self.seed {
            None => self.keyspace.might_contain(key),
            // What a filter says of an absent key depends on the replica.
            Some(_) => self.keyspace.locate(key).is_some(),
        }
    }

    #[inline]
    fn judge(&self, entry: &EntryRef<'_>) {
        if self.estimate.is_some_and(|estimate| entry.is_dead(estimate)) {
            self.needs_tick.set(true);
        }
    }

    /// Whether something with this deadline (0: none) inside a value is alive: by the clock, and noted as
    /// [`View::get`] does for keys.
    pub fn is_alive_until(&self, deadline: Millis) -> bool {
        if deadline != 0 && self.estimate.is_some_and(|estimate| deadline <= estimate) && deadline > self.clock() {
            self.needs_tick.set(true);
        }
        deadline == 0 || deadline > self.clock()
    }

    fn is_alive(&self, entry: &EntryRef<'_>) -> bool {
        let alive = !entry.is_dead(self.clock());
        if alive {
            self.judge(entry);
        }
        alive
    }

    /// Time since the entry's last change: by the estimate where there is one, since the state's clock stands still in a group
    /// that nobody writes to.
    pub fn age(&self, entry: &EntryRef<'_>) -> Millis {
        self.since(entry.written_ms())
    }

    /// Time passed since a moment of the group clock: as it is now, where the read promises the present.
    pub fn since(&self, moment: Millis) -> Millis {
        self.clock().max(self.estimate.unwrap_or(0)).saturating_sub(moment)
    }

    /// Time left to the entry, by the state's clock; `None` if it has no deadline.
    pub fn remaining(&self, entry: &EntryRef<'_>) -> Option<Millis> {
        entry.deadline().map(|deadline| self.time_left(deadline))
    }

    /// Time left until a deadline, by the state's clock.
    pub fn time_left(&self, deadline: Millis) -> Millis {
        if self.estimate.is_some_and(|estimate| estimate > self.clock() + TTL_SLACK_MS) {
            self.needs_tick.set(true);
        }
        deadline.saturating_sub(self.clock())
    }

    /// Keys, with those that are dead and not yet swept.
    pub fn len(&self) -> u64 {
        self.keyspace.visible_len()
    }

    pub fn is_empty(&self) -> bool {
        self.keyspace.is_empty()
    }

    /// Keys with a deadline.
    pub fn expires(&self) -> u64 {
        self.keyspace.expires()
    }

    /// The account of memory, in bytes.
    pub fn used_bytes(&self) -> u64 {
        self.keyspace.used_bytes()
    }

    /// Keys of one slot, with those that are dead and not yet swept.
    pub fn slot_len(&self, slot: Slot) -> u64 {
        self.keyspace.slot_len(slot)
    }

    /// Living entries of one slot, by (hash, key).
    pub fn slot_entries(&self, slot: Slot) -> impl Iterator<Item = EntryRef<'a>> {
        let rows = self.keyspace.table().slot_ordered(slot, 0);
        rows.map(|(_, entry, ..)| entry).filter(|entry| self.is_alive(entry))
    }

    /// All living entries: slots in order, inside a slot by (hash, key).
    pub fn entries(&self) -> impl Iterator<Item = EntryRef<'a>> {
        self.keyspace.walk(Slot(0), 0).map(|located| located.entry).filter(|entry| self.is_alive(entry))
    }

    /// One step of a scan: about `count` keys from `cursor` on (0: from the start), and the next cursor (0: the
    /// end). A key that is there during the whole scan is given at least once, on whichever replica each step
    /// runs: a cursor is the slot and the upper hash bits of the next key, and both are replicated.
    pub fn scan(&self, cursor: u64, count: usize) -> (Vec<EntryRef<'a>>, u64) {
        let Ok(first) = u16::try_from(cursor >> CURSOR_HASH_BITS) else { return (Vec::new(), 0) };
        let (mut found, mut seen, mut last) = (Vec::new(), 0, None);
        let border = self.ownership().border(Slot(first));
        for located in self.keyspace.walk(Slot(first), cursor << (64 - CURSOR_HASH_BITS)) {
            if border.is_some_and(|border| located.slot >= border) {
                break;
            }
            // Keys that share a position are given together, or the cursor could not stand between them.
            let place = located.hash >> (64 - CURSOR_HASH_BITS) & !CURSOR_FREE;
            let position = u64::from(located.slot.0) << CURSOR_HASH_BITS | place;
            if seen >= count && last != Some(position) {
                return (found, position);
            }
            last = Some(position);
            seen += 1;
            if self.is_alive(&located.entry) {
                found.push(located.entry);
            }
        }
        (found, border.map_or(0, |border| u64::from(border.0) << CURSOR_HASH_BITS))
    }

    /// When values stop being packed.
    pub fn packing(&self) -> Packing {
        self.keyspace.packing()
    }

    /// A number drawn at random: by the entry's seed for a read in an entry.
    pub fn draw(&self) -> u64 {
        match &self.seed {
            None => self.keyspace.draw(),
            Some(seed) => scramble(seed.replace(seed.get().wrapping_add(STEP))),
        }
    }

    /// A living entry chosen at random; `None` if there is none.
    pub fn random(&self) -> Option<EntryRef<'a>> {
        if self.seed.is_some() {
            // How the keys lie in memory is a replica's own: the next one by hash from a place drawn, which is fairer to
            // keys that stand alone.
            let draw = self.draw();
            let from = self.keyspace.walk(Slot((draw % SLOTS as u64) as u16), scramble(draw));
            let next = from.map(|located| located.entry).find(|entry| self.is_alive(entry));
            return next.or_else(|| self.entries().next());
        }
        for _ in 0..RANDOM_TRIES {
            let drawn = self.keyspace.draw_entry([self.keyspace.draw(), self.keyspace.draw()])?;
            if self.keyspace.ownership().owns(drawn.slot) && self.is_alive(&drawn.entry) {
                return Some(drawn.entry);
            }
        }
        self.entries().next()
    }
}
