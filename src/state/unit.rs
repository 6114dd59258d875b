//! The keys of one hash range of one slot: the largest thing that is ever copied, saved, swept or freed at once.
//!
//! ```text
//! index   4 bytes a key: 0 | chunk(8) offset(12)   the row in a chunk (`row.rs`)
//!                        1 | number(20)            an owned entry: long, or of a type that has no row
//!                        (the rest of a number above 2^20 stands in the bits above: never in an index of usual size)
//! chunk   row row row .. up to 4 KiB; rows that died stay until the chunk is rewritten
//! ```
//!
//! Invariants:
//! - every word of the index names a row that lives, or an owned entry, and every such one has one word;
//! - `live` is the bytes of living rows, a chunk's `dead` those of its dead ones, and all that lies in chunks is one or
//!   the other;
//! - all hashes of a unit agree in their `depth` uppermost bits with `first`;
//! - the filter was told of every key that came or went: it denies none that is there;
//! - dead bytes are at most a twelfth of the living ones and a little: [`Unit::tidy`].
//!
//! No call does more than rewrite a chunk or the index, but for [`Unit::split`] and [`Unit::merge`].

use super::account::Account;
use super::cuckoo::{Precision, UnitFilter};
use super::entry::{Draft, Entry, EntryRef};
use super::index::{Index, Keys, Neighbours, SPOT_BITS, Walk, size_class};
use super::keyspace::Changed;
use super::row::{self, Row};
use super::value::Value;
use crate::types::Millis;
use smallvec::SmallVec;
use std::sync::atomic::AtomicU32;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The replicated hash of a key: the same on all replicas of a group.
#[inline]
pub(super) fn hash_of(seed: u64, key: &[u8]) -> u64 {
    xxh3_64_with_seed(key, seed)
}

/// Tells keys apart whose hashes are equal: whoever made them so did it for one seed.
fn second_of(seed: u64, key: &[u8]) -> u32 {
    xxh3_64_with_seed(key, !seed) as u32
}

/// Bytes of a chunk at most: an offset has twelve bits.
const CHUNK: usize = 1 << OFFSET_BITS;
const OFFSET_BITS: u32 = 12;
/// Chunks of a unit at most. Keys that find no room any more become owned entries.
const CHUNKS_MAX: usize = 256;
const OWNED: u32 = 1 << (SPOT_BITS - 1);
/// A spot that names nothing: of a key whose old row is gone and whose new one is not written yet. No row is so short that
/// it begins there.
const NOWHERE: u32 = OWNED - 1;
/// A chunk with less room than this counts as full: rewriting it would gain too little.
const WORTH_REWRITING: usize = CHUNK / 8;

/// One part in so many of the living bytes may be dead. Fewer dead ones cost more rewriting of chunks.
const DEAD_SHARE: u32 = 12;
/// Dead bytes beyond that share that are left alone.
const SOME_DEAD: u32 = 64;

const _: () = assert!(CHUNKS_MAX << OFFSET_BITS == OWNED as usize, "chunk and offset fill a spot");
const _: () = assert!(row::ROW_MAX <= WORTH_REWRITING, "a chunk that is not full takes any row");

#[derive(Debug)]
pub(super) struct Unit {
    index: Index,
    chunks: Vec<Chunk>,
    /// Where new rows go.
    active: u8,
    /// Uppermost bits that all hashes share.
    depth: u8,
    /// The upper half of the range's first hash.
    first: u32,
    live: u32,
    dead: u32,
    /// Keys that are due some time: they or something in them have a deadline.
    mortal: u32,
    owned: Option<Box<Slab>>,
    /// Not later than the earliest deadline; 0 if there is none. Kept by `expiry.rs`.
    pub(super) hint: Millis,
    /// The last cut that has no need to save this unit any more.
    pub(super) epoch: u32,
    seed: u64,
    base: Millis,
    /// Says of most absent keys that they are; follows the index.
    filter: UnitFilter,
    precision: Precision,
}

#[derive(Debug, Clone, Default)]
struct Chunk {
    bytes: Vec<u8>,
    dead: u16,
}

/// What a chunk takes for so many bytes: a size of the allocator. Of its largest sizes only those whose slabs are of few
/// chunks and pages: a chunk passes through all of them as it grows, and slabs of eight would stay behind half empty.
fn capacity_for(bytes: usize) -> usize {
    match bytes {
        0..=2048 => size_class(bytes),
        2049..=3072 => 3072,
        _ => CHUNK,
    }
}

impl Chunk {
    fn live(&self) -> usize {
        self.bytes.len() - usize::from(self.dead)
    }

    /// Makes room for so many bytes at its end, growing in the allocator's steps. Gives where they begin.
    fn reserve(&mut self, length: usize) -> usize {
        let (offset, end) = (self.bytes.len(), self.bytes.len() + length);
        if end > self.bytes.capacity() {
            let capacity = capacity_for(end);
            self.bytes.reserve_exact(capacity - offset);
        }
        offset
    }

    /// Takes bytes at its end.
    fn push(&mut self, row: &[u8]) -> usize {
        let offset = self.reserve(row.len());
        self.bytes.extend_from_slice(row);
        offset
    }

    /// Takes at its end what `write` puts into so many bytes.
    fn push_with(&mut self, length: usize, write: impl FnOnce(&mut [u8])) -> usize {
        let offset = self.reserve(length);
        self.bytes.resize(offset + length, 0);
        write(&mut self.bytes[offset..]);
        offset
    }

    /// Its rows with their offsets, dead ones too.
    fn rows(&self, base: Millis) -> impl Iterator<Item = (usize, &[u8], EntryRef<'_>)> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let rest = self.bytes.get(at..).filter(|rest| !rest.is_empty())?;
            let (entry, length) = row::parse(rest, base);
            at += length;
            Some((at - length, &rest[..length], entry))
        })
    }

    fn living(&self, base: Millis) -> impl Iterator<Item = (usize, &[u8], EntryRef<'_>)> {
        self.rows(base).filter(|(_, row, _)| !row::is_dead(row))
    }
}

/// Owned entries by number.
#[derive(Debug, Clone, Default)]
struct Slab {
    entries: Vec<Option<Box<Entry>>>,
    free: Vec<u32>,
}

impl Slab {
    fn insert(&mut self, entry: Box<Entry>) -> u32 {
        if let Some(number) = self.free.pop() {
            self.entries[number as usize] = Some(entry);
            return number;
        }
        self.entries.push(Some(entry));
        u32::try_from(self.entries.len() - 1).ok().filter(|number| *number <= NUMBER_MAX).expect("memory ends before")
    }

    fn get(&self, number: u32) -> &Entry {
        self.entries[number as usize].as_ref().expect("the index names entries that are there")
    }

    fn remove(&mut self, number: u32) -> Box<Entry> {
        self.free.push(number);
        self.entries[number as usize].take().expect("the index names entries that are there")
    }
}

/// What a key's removal left over: freeing a large value is for somebody who has time.
pub(super) type Leftover = Option<Box<Entry>>;

/// What a sweep did to a key.
pub(super) enum Swept {
    /// The version it had, what it counted for, and what is left of it.
    Gone { version: u64, account: Account, leftover: Leftover },
    /// It lost elements: what it counted for, and what it counts for now.
    Pruned { before: Account, after: Account },
}

/// Largest number of an owned entry that a spot can name.
const NUMBER_MAX: u32 = u32::MAX >> 1;

/// The spot of an owned entry: the number's lower bits below [`OWNED`], the upper ones above it. Only a unit whose keys
/// cannot be parted has so many that the spot is wider than a word of the index.
fn owned_spot(number: u32) -> u32 {
    number & (OWNED - 1) | OWNED | (number / OWNED) << SPOT_BITS
}

fn number_of(spot: u32) -> u32 {
    spot & (OWNED - 1) | ((spot >> SPOT_BITS) * OWNED)
}

fn in_chunk(chunk: usize, offset: usize) -> u32 {
    (chunk << OFFSET_BITS | offset) as u32
}

#[inline]
fn chunk_of(spot: u32) -> (usize, usize) {
    ((spot >> OFFSET_BITS) as usize, spot as usize % CHUNK)
}

impl Unit {
    pub fn new(seed: u64, base: Millis, epoch: u32, precision: Precision) -> Unit {
        Unit {
            index: Index::default(),
            chunks: Vec::new(),
            active: 0,
            depth: 0,
            first: 0,
            live: 0,
            dead: 0,
            mortal: 0,
            owned: None,
            hint: 0,
            epoch,
            seed,
            base,
            filter: UnitFilter::default(),
            precision,
        }
    }

    /// A unit of entries that stand by (hash, key), each key once: index and filter are made for as many as there are.
    pub fn of(entries: Vec<(u64, Draft<'_>)>, seed: u64, base: Millis, epoch: u32, precision: Precision) -> Unit {
        let mut unit = Unit::new(seed, base, epoch, precision);
        let hashes: Vec<u64> = entries.iter().map(|(hash, _)| *hash).collect();
        unit.index = Index::with_room(hashes.len());
        for (hash, draft) in entries {
            unit.mortal += u32::from(draft.as_ref().due() != 0);
            let spot = unit.store(draft);
            unit.link(hash, spot, 0);
            // Nearly all chunks will be full: they are made whole at once, and the last one is cut to what it took.
            if let Some(chunk) = unit.chunks.last_mut().filter(|chunk| chunk.bytes.capacity() < CHUNK) {
                chunk.bytes.reserve_exact(CHUNK - chunk.bytes.len());
            }
        }
        if let Some(chunk) = unit.chunks.last_mut() {
            chunk.bytes.shrink_to(capacity_for(chunk.bytes.len()));
        }
        unit.filter = UnitFilter::of(precision, hashes.len(), || hashes.iter().copied());
        unit
    }

    /// What is here now, for whoever reads it later: rows are copied, long values shared. Marks and filter stay behind.
    pub fn copy(&self) -> Unit {
        Unit {
            index: self.index.copy(),
            chunks: self.chunks.clone(),
            owned: self.owned.clone(),
            filter: UnitFilter::default(),
            ..*self
        }
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the living rows.
    pub fn row_bytes(&self) -> usize {
        self.live as usize
    }

    #[inline]
    pub fn depth(&self) -> u8 {
        self.depth
    }

    /// Upper half of the first hash of the range.
    #[inline]
    pub fn first(&self) -> u32 {
        self.first
    }

    /// Upper half of the last hash of the range.
    pub fn last(&self) -> u32 {
        self.first | u32::MAX.checked_shr(u32::from(self.depth)).unwrap_or(0)
    }

    /// The unit that this one was split from has another half: where that begins.
    pub fn sibling(&self) -> Option<u32> {
        Some(self.first ^ 1 << (32 - u32::from(self.depth.checked_sub(1)?) - 1))
    }

    // -- Looking

    #[inline]
    fn key(&self, spot: u32) -> &[u8] {
        if spot & OWNED != 0 {
            return self.slab().get(number_of(spot)).key();
        }
        let (chunk, offset) = chunk_of(spot);
        row::key(&self.chunks[chunk].bytes[offset..])
    }

    #[inline]
    fn slab(&self) -> &Slab {
        self.owned.as_ref().expect("the index names owned entries")
    }

    fn slab_mut(&mut self) -> &mut Slab {
        self.owned.as_mut().expect("the index names owned entries")
    }

    /// Has the part of the index loaded in which a key with this hash would be. The result means nothing.
    pub fn load_index(&self, hash: u64) -> u32 {
        self.index.glance(hash, self.depth)
    }

    /// The same for the row that is probably that key's.
    pub fn load_row(&self, hash: u64) -> u8 {
        let spot = self.index.likely(hash, self.depth).filter(|spot| spot & OWNED == 0);
        let (chunk, offset) = spot.map_or((0, 0), chunk_of);
        self.chunks.get(chunk).and_then(|chunk| chunk.bytes.get(offset)).copied().unwrap_or(0)
    }

    /// Position of a key in the index.
    #[inline]
    pub fn find(&self, hash: u64, key: &[u8]) -> Option<usize> {
        self.index.find(hash, self.depth, || second_of(self.seed, key), |spot| self.key(spot) == key)
    }

    /// Position of a key for whose hash `is` holds, which must mean that it begins with the upper 42 bits of `hash`.
    pub fn find_hash(&self, hash: u64, is: impl Fn(u64) -> bool) -> Option<usize> {
        self.index.find_beginning(hash, self.depth, |spot| is(self.hash(spot)))
    }

    /// The entry at a position of the index.
    #[inline]
    pub fn entry(&self, at: usize) -> EntryRef<'_> {
        self.shown(self.index.spot(at)).0
    }

    /// What a spot names, and the length of its row if it has one.
    #[inline]
    fn shown(&self, spot: u32) -> (EntryRef<'_>, Option<usize>) {
        if spot & OWNED != 0 {
            return (self.slab().get(number_of(spot)).as_ref(), None);
        }
        let (chunk, offset) = chunk_of(spot);
        let (entry, length) = row::parse(&self.chunks[chunk].bytes[offset..], self.base);
        (entry, Some(length))
    }

    /// The mark of the key at a position of the index.
    pub fn mark(&self, at: usize) -> &AtomicU32 {
        self.index.mark(at)
    }

    pub fn take_marks(&mut self) -> Option<Box<[AtomicU32]>> {
        self.index.take_marks()
    }

    /// Position of a key chosen at random, all being equally likely.
    pub fn any(&self, random: u64) -> Option<usize> {
        self.index.any(random)
    }

    /// Entries whose hash is `from` or more, by (hash, key). `from` must not lie behind the unit's range.
    pub fn ordered(&self, from: u64) -> Ordered<'_> {
        // Only hashes of the range have their home here.
        let from = from.max(u64::from(self.first) << 32);
        let mut walk = self.index.walk_from(from, self.depth);
        let ahead = walk.next();
        Ordered { unit: self, from, walk, ahead, here: Neighbours::new() }
    }

    /// Entries in no order: for sums and searches whose result does not depend on it.
    pub fn entries(&self) -> impl Iterator<Item = EntryRef<'_>> {
        let rows = self.chunks.iter().flat_map(|chunk| chunk.living(self.base)).map(|(_, _, entry)| entry);
        rows.chain(self.owned().map(Entry::as_ref))
    }

    /// Those that have no row, in no order.
    pub fn owned(&self) -> impl Iterator<Item = &Entry> {
        self.owned.iter().flat_map(|slab| slab.entries.iter().flatten()).map(Box::as_ref)
    }

    /// Not later than the moment at which the first key, or the first element of one, dies; 0 if none does.
    pub fn earliest_due(&self) -> Millis {
        if self.mortal == 0 {
            return 0;
        }
        self.entries().map(|entry| entry.due()).filter(|&due| due != 0).min().unwrap_or(0)
    }

    // -- Changing

    /// Writes an entry. Gives what the one it replaced counted for, and what is left of that.
    pub fn put(&mut self, hash: u64, draft: Draft<'_>) -> (Option<Account>, Leftover) {
        match self.find(hash, draft.key) {
            Some(at) => {
                let (before, leftover) = self.overwrite(at, draft);
                (Some(before), leftover)
            }
            None => {
                self.mortal += u32::from(draft.as_ref().due() != 0);
                let spot = self.store(draft);
                self.link(hash, spot, 0);
                self.filter_follows(|filter, unit| {
                    filter.add(unit.precision, hash, unit.len(), || unit.hashes());
                });
                (None, None)
            }
        }
    }

    /// Writes another entry in place of the one at a position, whose key it must have. Gives as [`Unit::put`] does.
    fn overwrite(&mut self, at: usize, draft: Draft<'_>) -> (Account, Leftover) {
        let spot = self.index.spot(at);
        let (old, length) = self.shown(spot);
        let (before, was_mortal) = (Account::of(&old), old.due() != 0);
        self.mortal += u32::from(draft.as_ref().due() != 0);
        if let Some(row) = Row::of(&draft, self.base)
            && let Some(length) = length
            && row.len() == length
        {
            let (chunk, offset) = chunk_of(spot);
            row.put(&mut self.chunks[chunk].bytes[offset..offset + length]);
            self.mortal -= u32::from(was_mortal);
            return (before, None);
        }
        let leftover = self.discard(at);
        let spot = self.store(draft);
        self.with_index(|index, unit| index.set_any_spot(at, spot, unit));
        self.tidy();
        (before, leftover)
    }

    /// Lets `change` work on the value at a position, and gives its result and what the entry counts for now.
    pub fn edit<R>(
        &mut self,
        at: usize,
        version: u64,
        written_ms: Millis,
        change: impl FnOnce(&mut Value) -> Changed<R>,
    ) -> (Changed<R>, Account) {
        let spot = self.index.spot(at);
        if spot & OWNED != 0 {
            return self.edit_owned(at, number_of(spot), version, written_ms, change);
        }
        let entry = self.entry(at);
        let mut value = entry.value.to_value();
        let result = change(&mut value);
        if let Changed::No(_) = result {
            return (result, Account::of(&entry));
        }
        let (key, deadline) = (SmallVec::<[u8; row::ROW_MAX]>::from_slice(entry.key), entry.deadline);
        let draft = Draft { key: &key, value: value.into(), deadline, version, written_ms };
        let after = Account::of(&draft.as_ref());
        self.overwrite(at, draft);
        (result, after)
    }

    /// The same for an owned entry, whose value is changed where it is.
    fn edit_owned<R>(
        &mut self,
        at: usize,
        number: u32,
        version: u64,
        written_ms: Millis,
        change: impl FnOnce(&mut Value) -> Changed<R>,
    ) -> (Changed<R>, Account) {
        let slab = self.owned.as_mut().expect("the index names owned entries");
        let entry = slab.entries[number as usize].as_mut().expect("the index names entries that are there");
        let was_mortal = entry.as_ref().as_ref().due() != 0;
        let result = change(&mut entry.value);
        if let Changed::Yes(_) = result {
            (entry.version, entry.written_ms) = (version, written_ms);
        }
        let shown = entry.as_ref().as_ref();
        self.mortal = self.mortal + u32::from(shown.due() != 0) - u32::from(was_mortal);
        let after = Account::of(&shown);
        // It may have become short enough for a row. What is empty is about to go.
        if let Changed::Yes(_) = result
            && !entry.value.is_empty()
            && entry.value.plain_body().is_some_and(|body| body.len() <= row::ROW_MAX)
        {
            let Entry { key, value, deadline, version, written_ms } = (**entry).clone();
            self.overwrite(at, Draft { key: &key, value: value.into(), deadline, version, written_ms });
        }
        (result, after)
    }

    /// Removes the entry at a position and gives what is left of it.
    pub fn remove(&mut self, at: usize) -> Leftover {
        let hash = self.hash(self.index.spot(at));
        let leftover = self.forget(hash, at);
        self.settle();
        leftover
    }

    /// Removes the key with this hash at this position from all but the chunks.
    fn forget(&mut self, hash: u64, at: usize) -> Leftover {
        let leftover = self.discard(at);
        self.index.remove(at);
        self.filter_follows(|filter, unit| filter.remove(unit.precision, hash, unit.len(), || unit.hashes()));
        leftover
    }

    /// Changes the filter by what the unit holds now.
    fn filter_follows(&mut self, change: impl FnOnce(&mut UnitFilter, &Unit)) {
        let mut filter = std::mem::take(&mut self.filter);
        change(&mut filter, self);
        self.filter = filter;
    }

    /// Hashes of all keys.
    fn hashes(&self) -> impl Iterator<Item = u64> {
        let walk = self.index.walk_from(u64::from(self.first) << 32, self.depth);
        walk.map(|(_, at)| self.hash(self.index.spot(at)))
    }

    pub fn filter(&self) -> &UnitFilter {
        &self.filter
    }

    /// Moves the entry at a position out.
    pub fn take(&mut self, at: usize) -> Entry {
        let copy = (self.index.spot(at) & OWNED == 0).then(|| self.entry(at).to_entry());
        let owned = self.remove(at);
        copy.or(owned.map(|entry| *entry)).expect("an entry is in a row or owned")
    }

    /// Removes what is dead at `clock` among hashes whose upper half is in the range: keys, and elements of what they
    /// hold. A key that loses elements has `version` then; one that loses all of them goes.
    pub fn sweep(
        &mut self,
        clock: Millis,
        version: u64,
        range: std::ops::RangeInclusive<u32>,
        mut tell: impl FnMut(Swept),
    ) {
        let due: Vec<(u64, Box<[u8]>)> = self
            .entries()
            .filter(|entry| (1..=clock).contains(&entry.due()))
            .map(|entry| (hash_of(self.seed, entry.key), entry.key.into()))
            .filter(|(hash, _)| range.contains(&((hash >> 32) as u32)))
            .collect();
        for (hash, key) in due {
            let at = self.find(hash, &key).expect("it was met a moment ago");
            let entry = self.entry(at);
            let (before, had, dead) = (Account::of(&entry), entry.version, entry.is_dead(clock));
            if !dead {
                let (pruned, after) = self.edit(at, version, clock, |value| Changed::when(value.prune(clock), ()));
                if !self.entry(at).value.is_empty() {
                    if pruned == Changed::Yes(()) {
                        tell(Swept::Pruned { before, after });
                    }
                    continue;
                }
            }
            let leftover = self.forget(hash, at);
            tell(Swept::Gone { version: had, account: before, leftover });
        }
        self.settle();
    }

    /// After removals: gives back what is not needed any more.
    fn settle(&mut self) {
        self.tidy();
        self.with_index(|index, unit| index.shrink(unit.depth, unit));
        if self.owned.as_ref().is_some_and(|slab| slab.free.len() == slab.entries.len()) {
            self.owned = None;
        }
    }

    /// Forgets what the word at a position names.
    fn discard(&mut self, at: usize) -> Leftover {
        let spot = self.index.spot(at);
        self.mortal -= u32::from(self.entry(at).due() != 0);
        self.index.set_spot(at, NOWHERE);
        if spot & OWNED != 0 {
            return Some(self.slab_mut().remove(number_of(spot)));
        }
        let (chunk, offset) = chunk_of(spot);
        let chunk = &mut self.chunks[chunk];
        let (_, length) = row::parse(&chunk.bytes[offset..], self.base);
        row::kill(&mut chunk.bytes[offset..]);
        chunk.dead += length as u16;
        self.live -= length as u32;
        self.dead += length as u32;
        None
    }

    fn store(&mut self, draft: Draft<'_>) -> u32 {
        let spot = Row::of(&draft, self.base).and_then(|row| {
            let length = row.len();
            self.store_row(length, |chunk| chunk.push_with(length, |bytes| row.put(bytes)))
        });
        spot.unwrap_or_else(|| self.store_owned(Box::new(draft.into_entry())))
    }

    fn store_owned(&mut self, entry: Box<Entry>) -> u32 {
        owned_spot(self.owned.get_or_insert_default().insert(entry))
    }

    /// Lets `push` put a row of this length into a chunk. `None` if there is no room in any.
    fn store_row(&mut self, length: usize, push: impl FnOnce(&mut Chunk) -> usize) -> Option<u32> {
        let chunk = self.room_for(length)?;
        self.live += length as u32;
        Some(in_chunk(chunk, push(&mut self.chunks[chunk])))
    }

    /// Gives a stored entry its word in the index.
    fn link(&mut self, hash: u64, spot: u32, mark: u32) {
        self.with_index(|index, unit| {
            while !index.insert(hash, unit.depth, spot, mark, unit) {
                index.grow(unit.depth, unit);
            }
        });
    }

    /// Changes the index by what the unit's keys are.
    fn with_index(&mut self, change: impl FnOnce(&mut Index, &Unit)) {
        let mut index = std::mem::take(&mut self.index);
        change(&mut index, self);
        self.index = index;
    }

    // -- Chunks

    /// A chunk that takes a row of this length at its end.
    fn room_for(&mut self, length: usize) -> Option<usize> {
        let active = usize::from(self.active);
        if self.chunks.get(active).is_some_and(|chunk| chunk.bytes.len() + length <= CHUNK) {
            return Some(active);
        }
        let emptiest = (0..self.chunks.len()).min_by_key(|&chunk| self.chunks[chunk].live());
        let chunk = match emptiest {
            Some(chunk) if CHUNK - self.chunks[chunk].live() >= WORTH_REWRITING => {
                if self.chunks[chunk].bytes.len() + length > CHUNK {
                    self.rewrite(chunk, length);
                }
                chunk
            }
            _ if self.chunks.len() < CHUNKS_MAX => {
                if self.chunks.len() == self.chunks.capacity() {
                    self.chunks.reserve_exact(1 + self.chunks.len() / 4);
                }
                self.chunks.push(Chunk::default());
                self.chunks.len() - 1
            }
            _ => return None,
        };
        self.active = chunk as u8;
        Some(chunk)
    }

    /// Copies a chunk's living rows together and makes room for so many bytes more.
    fn rewrite(&mut self, chunk: usize, room: usize) {
        let old = std::mem::take(&mut self.chunks[chunk]);
        self.dead -= u32::from(old.dead);
        let mut new = Chunk { bytes: Vec::with_capacity(capacity_for(old.live() + room)), dead: 0 };
        for (offset, row, entry) in old.living(self.base) {
            let to = in_chunk(chunk, new.push(row));
            self.moved(entry.key, in_chunk(chunk, offset), to);
        }
        self.chunks[chunk] = new;
    }

    fn moved(&mut self, key: &[u8], from: u32, to: u32) {
        let hash = hash_of(self.seed, key);
        let at = self.index.find(hash, self.depth, || second_of(self.seed, key), |spot| spot == from);
        let at = at.expect("every living row has its word");
        self.index.set_spot(at, to);
    }

    /// Keeps dead bytes and half-empty chunks few. After one removal a chunk or two are rewritten at most.
    fn tidy(&mut self) {
        if self.live == 0 {
            (self.chunks, self.active, self.dead) = (Vec::new(), 0, 0);
            return;
        }
        while self.dead > self.live / DEAD_SHARE + SOME_DEAD {
            let most = (0..self.chunks.len()).max_by_key(|&chunk| self.chunks[chunk].dead);
            self.rewrite(most.expect("dead bytes lie in a chunk"), 0);
        }
        while self.chunks.len() > 1 && (self.live as usize) < (self.chunks.len() - 1) * CHUNK / 2 {
            self.drop_last();
        }
    }

    /// Moves the rows of the last chunk to others. They have room: there is twice as much as needed.
    fn drop_last(&mut self) {
        let chunk = self.chunks.len() - 1;
        let old = self.chunks.pop().expect("there are two");
        self.dead -= u32::from(old.dead);
        if usize::from(self.active) == chunk {
            self.active = 0;
        }
        for (offset, row, entry) in old.living(self.base) {
            let to = self.room_for(row.len()).expect("a chunk was just given up");
            let to = in_chunk(to, self.chunks[to].push(row));
            self.moved(entry.key, in_chunk(chunk, offset), to);
        }
        if self.chunks.capacity() > 2 * self.chunks.len() {
            self.chunks.shrink_to_fit();
        }
    }

    // -- Splitting

    /// The two halves of its range. What they are marked and saved for stays.
    pub fn split(mut self) -> (Unit, Unit) {
        let (lower, mut upper) = (self.child(), self.child());
        upper.first |= 1 << (31 - self.depth);
        let middle = upper.first;
        let mut halves = [lower, upper];
        self.pour(&mut halves, |hash| usize::from((hash >> 32) as u32 >= middle));
        halves.into()
    }

    /// An empty unit for half of the range or so.
    fn child(&self) -> Unit {
        let mut child = Unit::new(self.seed, self.base, self.epoch, self.precision);
        (child.depth, child.first) = (self.depth + 1, self.first);
        child.index = Index::with_room(self.len() / 2 + self.len() / 16);
        child
    }

    /// One unit of two siblings, the lower first.
    pub fn merge(lower: Unit, upper: Unit) -> Unit {
        let mut whole = Unit::new(lower.seed, lower.base, lower.epoch, lower.precision);
        (whole.depth, whole.first) = (lower.depth - 1, lower.first);
        whole.index = Index::with_room(lower.len() + upper.len());
        for mut half in [lower, upper] {
            half.pour(std::slice::from_mut(&mut whole), |_| 0);
        }
        whole
    }

    /// Moves everything to other units, marks too: each key to the unit that `which` says by its hash.
    fn pour(&mut self, to: &mut [Unit], which: impl Fn(u64) -> usize) {
        let all: Vec<usize> = self.index.walk_from(u64::from(self.first) << 32, self.depth).map(|(_, at)| at).collect();
        for at in all {
            let (spot, mark) = (self.index.spot(at), self.index.mark_of(at));
            let hash = self.hash(spot);
            let unit = &mut to[which(hash)];
            unit.mortal += u32::from(self.entry(at).due() != 0);
            let stored = if spot & OWNED != 0 {
                unit.store_owned(self.slab_mut().remove(number_of(spot)))
            } else {
                let (chunk, offset) = chunk_of(spot);
                let bytes = &self.chunks[chunk].bytes[offset..];
                let (entry, length) = row::parse(bytes, self.base);
                let copied = unit.store_row(length, |chunk| chunk.push(&bytes[..length]));
                copied.unwrap_or_else(|| unit.store_owned(Box::new(entry.to_entry())))
            };
            if mark != 0 {
                unit.index.keep_marks();
            }
            unit.link(hash, stored, mark);
        }
        for unit in to {
            unit.filter_follows(|filter, unit| {
                *filter = UnitFilter::of(unit.precision, unit.len(), || unit.hashes());
            });
        }
    }

    /// Panics if an invariant does not hold.
    #[cfg(test)]
    pub fn check(&self) {
        let living: usize = self.chunks.iter().map(Chunk::live).sum();
        let dead: usize = self.chunks.iter().map(|chunk| usize::from(chunk.dead)).sum();
        assert_eq!((living, dead), (self.live as usize, self.dead as usize));
        assert_eq!(self.entries().count(), self.len());
        assert_eq!(self.entries().filter(|entry| entry.due() != 0).count(), self.mortal as usize);
        assert!(
            dead <= living / DEAD_SHARE as usize + SOME_DEAD as usize,
            "{dead} dead bytes beside {living} living ones"
        );
        assert!(self.chunks.iter().all(|chunk| chunk.bytes.capacity() <= CHUNK));
        let mut last = None;
        for (hash, entry, at) in self.ordered(0) {
            assert!((self.first..=self.last()).contains(&((hash >> 32) as u32)));
            assert_eq!(hash, hash_of(self.seed, entry.key));
            assert_eq!(self.find(hash, entry.key), Some(at));
            assert!(self.filter.might_contain(hash), "a filter never denies a key that is there");
            assert!(last < Some((hash, entry.key)));
            last = Some((hash, entry.key));
        }
        assert_eq!(self.ordered(0).count(), self.len());
        assert!(self.mortal == 0 || (1..=self.earliest_due()).contains(&self.hint));
    }
}

impl Keys for Unit {
    fn hash(&self, spot: u32) -> u64 {
        hash_of(self.seed, self.key(spot))
    }

    fn second(&self, spot: u32) -> u32 {
        second_of(self.seed, self.key(spot))
    }
}

/// Entries of a unit by (hash, key), with their positions in the index.
pub(super) struct Ordered<'a> {
    unit: &'a Unit,
    from: u64,
    walk: Walk<'a>,
    /// The first word of the next home.
    ahead: Option<(usize, usize)>,
    /// Words of this home that are still to come, the next one last.
    here: Neighbours,
}

impl<'a> Iterator for Ordered<'a> {
    type Item = (u64, EntryRef<'a>, usize);

    fn next(&mut self) -> Option<Self::Item> {
        let unit = self.unit;
        while self.here.is_empty() {
            let (home, _) = self.ahead?;
            while let Some((other, at)) = self.ahead
                && other == home
            {
                self.here.push((unit.hash(unit.index.spot(at)), at));
                self.ahead = self.walk.next();
            }
            self.here.retain(|(hash, _)| *hash >= self.from);
            self.here.sort_unstable_by(|(a, left), (b, right)| {
                b.cmp(a).then_with(|| unit.entry(*right).key.cmp(unit.entry(*left).key))
            });
        }
        let (hash, at) = self.here.pop()?;
        Some((hash, unit.entry(at), at))
    }
}
