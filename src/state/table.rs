//! The keys of one slot, and the only file that knows how entries lie in memory.
//!
//! Small tables on purpose: one that doubles stalls for its own few hundred keys, not for millions. Order inside the
//! table is arbitrary; whoever shows entries to others asks for [`Table::in_order`], by (hash, key), which is the
//! same on every replica because the hash seed is replicated.

use super::account::Account;
use super::eviction::Row;
use super::value::Value;
use crate::types::Millis;
use hashbrown::HashTable;
use hashbrown::hash_table;
use std::sync::atomic::AtomicU32;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// One key and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub(super) key: Box<[u8]>,
    pub(super) value: Value,
    /// 0: none.
    pub(super) deadline: Millis,
    pub(super) version: u64,
    pub(super) written_ms: Millis,
    pub(super) mark: Mark,
}

/// What the leader remembers of accesses (`eviction`): no part of the state, so it makes no difference to equality.
#[derive(Debug, Default)]
pub(super) struct Mark(pub AtomicU32);

impl Clone for Mark {
    fn clone(&self) -> Mark {
        Mark::default()
    }
}

impl PartialEq for Mark {
    fn eq(&self, _: &Mark) -> bool {
        true
    }
}

impl Eq for Mark {}

impl Entry {
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    pub fn value(&self) -> &Value {
        &self.value
    }

    /// When the key dies, by the group clock; `None` if it does not.
    pub fn deadline(&self) -> Option<Millis> {
        (self.deadline != 0).then_some(self.deadline)
    }

    /// The group's version counter at the last change of this key.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The group clock at the last change of this key.
    pub fn written_ms(&self) -> Millis {
        self.written_ms
    }

    /// Dead iff its deadline is not after `clock`.
    pub fn is_dead(&self, clock: Millis) -> bool {
        self.deadline != 0 && self.deadline <= clock
    }
}

/// The replicated hash of a key: the same on all replicas of a group.
pub(super) fn hash_of(seed: u64, key: &[u8]) -> u64 {
    xxh3_64_with_seed(key, seed)
}

/// The hash by which a row is found in the table: made of those bits alone that a [`Row`] keeps, spread so that both ends
/// of the word, which is what the table looks at, are filled.
fn probe(hash: u64) -> u64 {
    let kept = hash >> 22;
    kept | kept << 22
}

#[derive(Debug, Default)]
pub(super) struct Table {
    rows: HashTable<Entry>,
}

impl Table {
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub fn get(&self, hash: u64, key: &[u8]) -> Option<&Entry> {
        self.rows.find(probe(hash), |entry| *entry.key == *key)
    }

    /// The entry that a row means; one of them, should several share it.
    pub fn find_row(&self, seed: u64, row: Row) -> Option<&Entry> {
        self.rows.find(probe(row.hash()), |entry| row.is_of(hash_of(seed, &entry.key)))
    }

    pub fn get_mut(&mut self, hash: u64, key: &[u8]) -> Option<&mut Entry> {
        self.rows.find_mut(probe(hash), |entry| *entry.key == *key)
    }

    /// Puts an entry, and gives back the one it replaced.
    pub fn insert(&mut self, seed: u64, hash: u64, entry: Entry) -> Option<Entry> {
        match self.rows.entry(probe(hash), |old| *old.key == *entry.key, |old| probe(hash_of(seed, &old.key))) {
            hash_table::Entry::Occupied(mut row) => Some(std::mem::replace(row.get_mut(), entry)),
            hash_table::Entry::Vacant(row) => {
                row.insert(entry);
                None
            }
        }
    }

    pub fn remove(&mut self, seed: u64, hash: u64, key: &[u8]) -> Option<Entry> {
        let row = self.rows.find_entry(probe(hash), |entry| *entry.key == *key).ok()?;
        let (entry, _) = row.remove();
        if self.rows.capacity() > SHRINK_ABOVE && self.rows.len() < self.rows.capacity() / 8 {
            // Deleting most of a slot gives its memory back.
            let keep = self.rows.len() * 2;
            self.rows.shrink_to(keep, |entry| probe(hash_of(seed, &entry.key)));
        }
        Some(entry)
    }

    /// Entries in arbitrary order: for sums and searches whose result does not depend on it.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.rows.iter()
    }

    /// Entries with their hashes, by (hash, key).
    pub fn in_order(&self, seed: u64) -> Vec<(u64, &Entry)> {
        let mut rows: Vec<(u64, &Entry)> = self.rows.iter().map(|entry| (hash_of(seed, &entry.key), entry)).collect();
        rows.sort_unstable_by(|(a, left), (b, right)| a.cmp(b).then_with(|| left.key.cmp(&right.key)));
        rows
    }

    /// Removes what is dead at `clock`; gives what was removed.
    pub fn take_dead(&mut self, clock: Millis) -> Account {
        let mut removed = Account::default();
        self.rows.retain(|entry| {
            let dead = entry.is_dead(clock);
            if dead {
                removed.add(&entry.key, &entry.value, entry.deadline);
            }
            !dead
        });
        removed
    }

    /// The earliest deadline, 0 if none.
    pub fn earliest_deadline(&self) -> Millis {
        self.rows.iter().map(|entry| entry.deadline).filter(|&deadline| deadline != 0).min().unwrap_or(0)
    }

    #[cfg(test)]
    pub fn account(&self) -> Account {
        let mut sum = Account::default();
        self.rows.iter().for_each(|entry| sum.add(&entry.key, &entry.value, entry.deadline));
        sum
    }
}

/// Tables smaller than this are not shrunk.
const SHRINK_ABOVE: usize = 64;
