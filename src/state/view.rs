//! What a read may see of a keyspace.
//!
//! A key is dead by the state's own clock and by nothing else. A linearizable or lease read is also told the
//! leader's estimate of the time: where that calls a key dead which the state still calls alive, nobody may answer
//! yet. The view notes it ([`View::needs_tick`]); the caller throws the reply away, has a tick committed, and runs
//! the read again **with the same estimate**, which the clock has then reached.

use super::keyspace::Keyspace;
use super::table::Entry;
use crate::types::{Millis, SLOTS, Slot};
use std::cell::Cell;

/// Read access to a keyspace, for one command.
pub struct View<'a> {
    keyspace: &'a Keyspace,
    estimate: Option<Millis>,
    needs_tick: Cell<bool>,
}

/// How far the estimate may be ahead of the clock before an answer about remaining time waits for a tick. Without
/// it TTL would stand still in a group that nobody writes to.
const TTL_SLACK_MS: Millis = 250;

/// Random draws before RANDOMKEY goes through all keys in order: only a keyspace of mostly dead keys needs more.
const RANDOM_TRIES: usize = 100;

/// Low bits of a SCAN cursor that hold the position inside a slot.
const CURSOR_HASH_BITS: u32 = 48;

impl<'a> View<'a> {
    /// `estimate_ms`: the stamp the leader would write now; `None` for reads that do not promise the present.
    pub fn new(keyspace: &'a Keyspace, estimate_ms: Option<Millis>) -> View<'a> {
        View { keyspace, estimate: estimate_ms, needs_tick: Cell::new(false) }
    }

    /// Whether what was read may not be answered before a tick.
    pub fn needs_tick(&self) -> bool {
        self.needs_tick.get()
    }

    /// The group clock.
    pub fn clock(&self) -> Millis {
        self.keyspace.clock()
    }

    /// The key's entry, if it is alive.
    pub fn get(&self, key: &[u8]) -> Option<&'a Entry> {
        self.keyspace.get(key).inspect(|entry| {
            self.judge(entry);
            self.keyspace.note_read(entry);
        })
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        self.get(key).is_some()
    }

    fn judge(&self, entry: &Entry) {
        if self.estimate.is_some_and(|estimate| entry.is_dead(estimate)) {
            self.needs_tick.set(true);
        }
    }

    fn is_alive(&self, entry: &Entry) -> bool {
        let alive = !entry.is_dead(self.clock());
        if alive {
            self.judge(entry);
        }
        alive
    }

    /// Time left to the entry, by the state's clock; `None` if it has no deadline.
    pub fn remaining(&self, entry: &Entry) -> Option<Millis> {
        let deadline = entry.deadline()?;
        if self.estimate.is_some_and(|estimate| estimate > self.clock() + TTL_SLACK_MS) {
            self.needs_tick.set(true);
        }
        Some(deadline.saturating_sub(self.clock()))
    }

    /// Keys, with those that are dead and not yet swept.
    pub fn len(&self) -> u64 {
        self.keyspace.len()
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
    pub fn slot_entries(&self, slot: Slot) -> impl Iterator<Item = &'a Entry> {
        let rows = self.keyspace.table(slot).map(|table| table.in_order(self.keyspace.hash_seed()));
        rows.into_iter().flatten().map(|(_, entry)| entry).filter(|entry| self.is_alive(entry))
    }

    /// All living entries: slots in order, inside a slot by (hash, key).
    pub fn entries(&self) -> impl Iterator<Item = &'a Entry> {
        self.keyspace.tables().flat_map(|(slot, _)| self.slot_entries(slot))
    }

    /// One step of a scan: about `count` keys from `cursor` on (0: from the start), and the next cursor (0: the
    /// end). A key that is there during the whole scan is given at least once, on whichever replica each step
    /// runs: a cursor is the slot and the upper hash bits of the next key, and both are replicated.
    pub fn scan(&self, cursor: u64, count: usize) -> (Vec<&'a Entry>, u64) {
        let (first, mut from) = (cursor >> CURSOR_HASH_BITS, cursor << (64 - CURSOR_HASH_BITS));
        let (mut found, mut seen) = (Vec::new(), 0);
        for slot in first..SLOTS as u64 {
            let Some(table) = self.keyspace.table(Slot(slot as u16)) else {
                from = 0;
                continue;
            };
            let mut last = None;
            for (hash, entry) in table.in_order(self.keyspace.hash_seed()) {
                if hash < from {
                    continue;
                }
                // Keys that share a position are given together, or the cursor could not stand between them.
                let position = hash >> (64 - CURSOR_HASH_BITS);
                if seen >= count && last != Some(position) {
                    return (found, slot << CURSOR_HASH_BITS | position);
                }
                last = Some(position);
                seen += 1;
                if self.is_alive(entry) {
                    found.push(entry);
                }
            }
            from = 0;
        }
        (found, 0)
    }

    /// A living entry chosen at random; `None` if there is none.
    pub fn random(&self) -> Option<&'a Entry> {
        for _ in 0..RANDOM_TRIES {
            let mut nth = self.keyspace.draw().checked_rem(self.len())?;
            let table = self.keyspace.tables().map(|(_, table)| table).find(|table| {
                let here = nth < table.len() as u64;
                nth -= if here { 0 } else { table.len() as u64 };
                here
            })?;
            if let Some(entry) = table.iter().nth(nth as usize).filter(|entry| self.is_alive(entry)) {
                return Some(entry);
            }
        }
        self.entries().next()
    }
}
