//! The replicated state of one group: its slots, clock and version counter, and what writes may do with them.
//!
//! Invariants, whatever is called in whatever order:
//! - `clock` and `version` never go back; a call that changes nothing leaves `version` as it is.
//! - `account` equals the sum over all entries.
//! - No entry is stored with a deadline at or before the clock of its own write.
//! - The earliest deadline of a unit is never before its hint (`expiry.rs`).
//! - Whatever removes a key raises the number of its slot to the version it had (`removals.rs`).
//! - While a cut runs, a unit is changed only after its image is made (`cut.rs`).
//! - Marks and wishes to know of writes are in no hash, account or snapshot.
//! - What lies in a slot that the group does not answer for changes only by the steps of a handover (`ownership.rs`).
//!
//! A dead key is absent to every call here but [`Keyspace::sweep`], which is what removes it from memory, and those
//! that show an entry with its mark.
//!
//! No call on one key does more than rewrite, split or save its unit. What takes long to free is not freed here but
//! collected for [`Keyspace::take_garbage`].

mod handover;
#[cfg(test)]
mod handover_tests;
mod news;
mod snapshot;

pub use handover::{Excerpt, Sent, Survey};

use super::account::Account;
use super::collections::{Packing, Size};
use super::cuckoo::{Precision, UnitFilter};
use super::cut::Cut;
use super::entry::{Draft, Drafted, Entry, EntryRef};
use super::events::{Class, Recorder};
use super::eviction::{Limit, Recency, Row};
use super::expiry::HashRange;
use super::ownership::Ownership;
use super::removals::{Removals, Seen};
use super::table::Table;
use super::unit::{Leftover, Swept, Unit, hash_of};
use super::value::{Form, Value};
use crate::planted::{self, Bug};
use crate::slot::slot_of;
use crate::types::{Millis, Slot, Stamp};
use smallvec::SmallVec;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A removed entry whose value weighs more than this is left to [`Keyspace::take_garbage`].
const FREED_AT_ONCE: usize = 64 << 10;

/// Keys that [`Keyspace::warm`] takes: some tens of loads are under way at a time at most, and what is brought near must still be
/// there when the last of them is looked up.
pub const WARMED: usize = 32;

/// See the head of this file.
#[derive(Debug)]
pub struct Keyspace {
    seed: u64,
    clock: Millis,
    version: u64,
    account: Account,
    removals: Removals,
    table: Table,
    cut: Option<Cut>,
    /// Of the last cut that was begun.
    epoch: u32,
    marks: bool,
    garbage: Garbage,
    /// Draws for RANDOMKEY, a read: not replicated.
    draws: AtomicU64,
    precision: Precision,
    probes: Probes,
    limit: Limit,
    packing: Packing,
    ownership: Ownership,
    /// Where accesses are noted; a leader's own, and only if its policy asks for it.
    recency: Option<Recency>,
    /// Keys that were added since they were last asked for. Kept only beside `recency`.
    arrivals: Vec<Row>,
    /// Keys evicted since this replica was made. Not replicated.
    evicted: u64,
    /// The same for keys that were swept because they were dead.
    expired: u64,
    /// Rows that somebody waits for, and those of them that were written since they were last asked for. Not replicated.
    wanted: BTreeSet<Row>,
    touched: Vec<Row>,
    /// What there is to tell of the current entry, if anybody wants it. Not replicated.
    recorder: Recorder,
}

/// What was asked of the filters, and how they did. Not replicated.
#[derive(Debug, Default)]
struct Probes {
    denied: AtomicU64,
    present: AtomicU64,
    mistaken: AtomicU64,
}

/// How the filters are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FilterStatus {
    /// Memory of all filters.
    pub bytes: u64,
    /// Fingerprints there is place for.
    pub places: u64,
    /// Keys asked for that were surely absent.
    pub denied: u64,
    /// Keys asked for that were there.
    pub present: u64,
    /// Keys asked for that might have been there and were not.
    pub mistaken: u64,
}

impl std::ops::Add for FilterStatus {
    type Output = FilterStatus;

    fn add(self, other: FilterStatus) -> FilterStatus {
        FilterStatus {
            bytes: self.bytes + other.bytes,
            places: self.places + other.places,
            denied: self.denied + other.denied,
            present: self.present + other.present,
            mistaken: self.mistaken + other.mistaken,
        }
    }
}

/// What is to be freed, by dropping it where nobody waits.
#[derive(Debug, Default)]
pub struct Garbage {
    tables: Vec<Table>,
    entries: Vec<Entry>,
    marks: Vec<Box<[AtomicU32]>>,
}

impl Garbage {
    fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.entries.is_empty() && self.marks.is_empty()
    }

    fn put(&mut self, leftover: Leftover) {
        if let Some(entry) = leftover.filter(|entry| entry.value.weight() > FREED_AT_ONCE) {
            self.entries.push(*entry);
        }
    }
}

/// A key where it lies, with its mark: what eviction looks at. It may be dead.
#[derive(Debug, Clone, Copy)]
pub struct Located<'a> {
    pub slot: Slot,
    pub hash: u64,
    pub entry: EntryRef<'a>,
    /// `None` unless marks are kept ([`Keyspace::keep_marks`]). 0 for a new key; an overwrite leaves it as it is.
    pub mark: Option<&'a AtomicU32>,
}

/// What a change says of itself, with its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed<R> {
    Yes(R),
    No(R),
}

impl<R> Changed<R> {
    /// `Yes` if `changed`.
    pub fn when(changed: bool, result: R) -> Changed<R> {
        if changed { Changed::Yes(result) } else { Changed::No(result) }
    }

    pub fn into_inner(self) -> R {
        match self {
            Changed::Yes(result) | Changed::No(result) => result,
        }
    }
}

/// Where an entry is: slot, hash, and position in the index of its unit. Good until the next change.
type Position = (Slot, u64, usize);

impl Keyspace {
    /// An empty keyspace. All replicas of a group must be given the same seed.
    pub fn new(hash_seed: u64) -> Keyspace {
        Keyspace::with_filters(hash_seed, Precision::default())
    }

    /// The same with filters of this precision, which is the replica's own: it changes answers about absent keys only.
    pub fn with_filters(hash_seed: u64, precision: Precision) -> Keyspace {
        Keyspace {
            seed: hash_seed,
            clock: 0,
            version: 0,
            account: Account::default(),
            removals: Removals::default(),
            table: Table::new(hash_seed, 0, precision),
            precision,
            probes: Probes::default(),
            cut: None,
            epoch: 0,
            marks: false,
            garbage: Garbage::default(),
            draws: AtomicU64::new(hash_seed),
            limit: Limit::default(),
            packing: Packing::default(),
            ownership: Ownership::default(),
            recency: None,
            arrivals: Vec::new(),
            evicted: 0,
            expired: 0,
            wanted: BTreeSet::new(),
            touched: Vec::new(),
            recorder: Recorder::default(),
        }
    }

    /// The group clock.
    #[inline]
    pub fn clock(&self) -> Millis {
        self.clock
    }

    /// Called once an entry, before its commands: the clock follows the stamp, and never goes back.
    pub fn advance(&mut self, stamp: &Stamp) {
        self.clock = self.clock.max(stamp.now_ms);
    }

    /// Runs `f` as if the clock still stood at `then`; one that lies ahead changes nothing. For the effects of a script,
    /// which were computed then: what `f` writes has that time, and may be dead when the clock is back.
    pub fn at_clock<R>(&mut self, then: Millis, f: impl FnOnce(&mut Keyspace) -> R) -> R {
        let now = self.clock;
        self.clock = now.min(then);
        let result = f(self);
        self.clock = now;
        result
    }

    /// Puts a copy of another keyspace's entry in its place here. Neither the copy nor its version is a change.
    pub fn adopt(&mut self, entry: Entry) {
        let (slot, hash) = self.place_of(entry.key());
        let Entry { key, value, deadline, version, written_ms } = entry;
        self.put(slot, hash, Draft { key: &key, value: value.into(), deadline, version, written_ms });
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

    /// The replicated hash of a key.
    pub(super) fn hash(&self, key: &[u8]) -> u64 {
        hash_of(self.seed, key)
    }

    fn place_of(&self, key: &[u8]) -> (Slot, u64) {
        (slot_of(key), hash_of(self.seed, key))
    }

    /// Has what a look-up of these keys needs brought near, for all of them at once; at most [`WARMED`] of them. To find a key is to
    /// wait for memory five times, one after the other; but the processor waits for many keys at the same time, if it is asked for
    /// all of them first. Changes nothing.
    pub fn warm<'a>(&self, keys: impl Iterator<Item = &'a [u8]>) {
        let unit = |key| {
            let (slot, hash) = self.place_of(key);
            Some((hash, self.table.unit(slot, hash)?))
        };
        let units: SmallVec<[(u64, &Unit); WARMED]> = keys.take(WARMED).filter_map(unit).collect();
        let words = units.iter().fold(0, |all, (hash, unit)| all ^ unit.load_index(*hash));
        let rows = units.iter().fold(0, |all, (hash, unit)| all ^ unit.load_row(*hash));
        // Else nobody would need what was loaded.
        std::hint::black_box((words, rows));
    }

    /// Where a living key is.
    fn find(&self, key: &[u8]) -> Option<(Position, EntryRef<'_>)> {
        let (slot, hash) = self.place_of(key);
        let unit = self.table.unit(slot, hash)?;
        let at = unit.find(hash, key)?;
        let entry = unit.entry(at);
        (!entry.is_dead(self.clock)).then_some(((slot, hash, at), entry))
    }

    /// The same as [`Keyspace::get`] for who was asked by a client: noted for eviction.
    #[inline]
    pub(super) fn read(&self, key: &[u8]) -> Option<EntryRef<'_>> {
        let (position, entry) = self.find(key)?;
        if let Some(recency) = &self.recency {
            self.touch(recency, position);
        }
        Some(entry)
    }

    fn touch(&self, recency: &Recency, (slot, hash, at): Position) {
        if let Some(unit) = self.table.unit(slot, hash) {
            recency.touch(unit.mark(at), self.clock);
        }
    }

    /// The key's entry, if it is alive by the group clock.
    #[inline]
    pub fn get(&self, key: &[u8]) -> Option<EntryRef<'_>> {
        self.find(key).map(|(_, entry)| entry)
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        self.get(key).is_some()
    }

    /// What there is to remember of a key, so that [`Keyspace::is_as_seen`] can say later whether it changed.
    pub fn see(&self, key: &[u8]) -> Seen {
        self.get(key).map_or(Seen::AbsentSince(self.version), |entry| Seen::Version(entry.version()))
    }

    /// Whether a key has not changed since this was seen of it. Of one that is still absent this may be denied though it
    /// is so (`removals.rs`).
    pub fn is_as_seen(&self, key: &[u8], seen: Seen) -> bool {
        match (self.get(key), seen) {
            (Some(entry), Seen::Version(version)) => entry.version() == version,
            (None, Seen::Absent) => true,
            (None, Seen::AbsentSince(_)) if planted::is(Bug::AbsenceForgotten) => true,
            // It may have come since and be dead, and lie here yet.
            (None, Seen::AbsentSince(version)) => {
                self.removals.of(slot_of(key)) <= version
                    && self.locate(key).is_none_or(|dead| dead.entry.version() <= version)
            }
            (Some(_), _) | (None, Seen::Version(_)) => false,
        }
    }

    /// What the filters say of a key: `false` if it is surely absent. Of one that is dead and not yet swept, too, they
    /// say that it may be there.
    pub fn might_contain(&self, key: &[u8]) -> bool {
        let (slot, hash) = self.place_of(key);
        let unit = self.table.unit(slot, hash);
        let might = unit.is_some_and(|unit| unit.filter().might_contain(hash));
        let counter = match might {
            false => &self.probes.denied,
            true if unit.is_some_and(|unit| unit.find(hash, key).is_some()) => &self.probes.present,
            true => &self.probes.mistaken,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        might
    }

    /// How the filters are. Looks at every unit.
    pub fn filter_status(&self) -> FilterStatus {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let sum = |of: fn(&UnitFilter) -> u64| self.table.all_units().map(|unit| of(unit.filter())).sum();
        FilterStatus {
            bytes: sum(|filter| filter.bytes() as u64),
            places: sum(UnitFilter::places),
            denied: count(&self.probes.denied),
            present: count(&self.probes.present),
            mistaken: count(&self.probes.mistaken),
        }
    }

    /// Writes a key. A deadline that is not after the clock makes this a removal: the key would be dead at once.
    pub fn set(&mut self, key: &[u8], value: Value, deadline: Option<Millis>) {
        self.write(key, value.into(), deadline);
    }

    /// The same for a string that is set as a whole, which is copied once, to where it stays.
    pub fn set_text(&mut self, key: &[u8], text: &[u8], deadline: Option<Millis>) {
        self.write(key, Drafted::Text(Form::Set, text), deadline);
    }

    fn write(&mut self, key: &[u8], value: Drafted<'_>, deadline: Option<Millis>) {
        if deadline.is_some_and(|deadline| deadline <= self.clock) {
            self.remove(key);
            return;
        }
        self.record_set(key);
        let (slot, hash) = self.place_of(key);
        self.version += 1;
        let (version, written_ms) = (self.version, self.clock);
        self.put(slot, hash, Draft { key, value, deadline: deadline.unwrap_or(0), version, written_ms });
    }

    /// Writes an entry as it is; whether the key was there, dead or alive.
    fn put(&mut self, slot: Slot, hash: u64, draft: Draft<'_>) -> bool {
        self.before_change(slot, hash);
        let after = Account::of(&draft.as_ref());
        let (before, leftover) = self.table.put(slot, hash, draft, self.epoch);
        self.garbage.put(leftover);
        self.account.add(after);
        if let Some(before) = before {
            self.account.subtract(before);
        }
        self.note_write(slot, hash, before.is_none());
        before.is_some()
    }

    /// Notes for eviction, and for who waits, that the key with this hash was written.
    fn note_write(&mut self, slot: Slot, hash: u64, new: bool) {
        self.note_touched(slot, hash);
        let Some(recency) = &self.recency else { return };
        let Some(Located { mark: Some(mark), .. }) = self.locate_row(Row::new(slot, hash)) else { return };
        match new {
            true => mark.store(recency.fresh(self.clock), Ordering::Relaxed),
            false => recency.touch(mark, self.clock),
        }
        // What arrives from another group is found by walking once it belongs here.
        if new && self.ownership.serves(slot) {
            self.arrivals.push(Row::new(slot, hash));
        }
    }

    /// Changes a living key's value in place, its deadline kept; `None` if there is no such key. Elements of it that are
    /// dead are removed first. If `change` says that it changed nothing, this counts as no change; a value that is
    /// empty afterwards takes its key with it.
    pub fn change<R>(&mut self, key: &[u8], change: impl FnOnce(&mut Value) -> Changed<R>) -> Option<R> {
        let (position, entry) = self.find(key)?;
        let (before, had) = (Account::of(&entry), entry.version());
        self.before_change(position.0, position.1);
        let clock = self.clock;
        let mut pruned = false;
        let change = |value: &mut Value| {
            pruned = value.prune(clock);
            match change(value) {
                Changed::No(result) if pruned => Changed::Yes(result),
                other => other,
            }
        };
        let (result, after) = match self.table.edit(position, self.version + 1, clock, change)? {
            (Changed::No(result), _) => return Some(result),
            (Changed::Yes(result), after) => (result, after),
        };
        self.account.add(after);
        self.account.subtract(before);
        if self.locate_at(position).entry.value().is_empty() {
            self.drop_at(position, had);
        } else {
            self.version += 1;
            self.note_write(position.0, position.1, false);
        }
        if pruned {
            self.recorder.event(Class::Hash, "hexpired", key);
        }
        self.recorder.change(key);
        Some(result)
    }

    /// The same for a change that is one whatever happens.
    pub fn edit<R>(&mut self, key: &[u8], change: impl FnOnce(&mut Value) -> R) -> Option<R> {
        self.change(key, |value| Changed::Yes(change(value)))
    }

    /// The same as [`Keyspace::change`], beginning with `new` if there is no such key.
    pub fn change_or_create<R>(
        &mut self,
        key: &[u8],
        new: impl FnOnce() -> Value,
        change: impl FnOnce(&mut Value) -> Changed<R>,
    ) -> R {
        if !self.contains(key) {
            let mut value = new();
            let result = change(&mut value);
            if let Changed::Yes(_) = result
                && !value.is_empty()
            {
                self.set(key, value, None);
            }
            return result.into_inner();
        }
        self.change(key, change).expect("the key was there a moment ago")
    }

    fn locate_at(&self, (slot, hash, at): Position) -> Located<'_> {
        let unit = self.table.unit(slot, hash).expect("a position is in a unit");
        self.located(slot, hash, unit, at)
    }

    /// Removes a living key and gives what it held.
    pub fn take(&mut self, key: &[u8]) -> Option<Entry> {
        let (position, entry) = self.find(key)?;
        let (before, had) = (Account::of(&entry), entry.version());
        self.before_change(position.0, position.1);
        self.version += 1;
        self.note_touched(position.0, position.1);
        self.removals.raise(position.0, had);
        let entry = self.table.take(position, saver(&mut self.cut))?;
        self.account.subtract(before);
        self.recorder.change(key);
        Some(entry)
    }

    /// Removes a key; whether it was alive.
    pub fn remove(&mut self, key: &[u8]) -> bool {
        let Some((position, entry)) = self.find(key) else { return false };
        let version = entry.version();
        self.drop_at(position, version);
        self.recorder.change(key);
        true
    }

    /// Removes the entry that was just found here. It had this version before whatever emptied it.
    fn drop_at(&mut self, position: Position, version: u64) {
        self.before_change(position.0, position.1);
        self.version += 1;
        self.removals.raise(position.0, version);
        self.note_touched(position.0, position.1);
        let (before, leftover) =
            self.table.remove(position, saver(&mut self.cut)).expect("the key was found a moment ago");
        self.garbage.put(leftover);
        self.account.subtract(before);
    }

    /// Gives a living key another deadline, or none; whether there is such a key. One that is not after the clock
    /// removes the key. A deadline the key has already changes nothing.
    pub fn set_deadline(&mut self, key: &[u8], deadline: Option<Millis>) -> bool {
        let Some((position, entry)) = self.find(key) else { return false };
        if entry.deadline() == deadline {
            return true;
        }
        if deadline.is_some_and(|deadline| deadline <= self.clock) {
            return self.remove(key);
        }
        // A copy: of a row short, of anything else another reference.
        let value = entry.value().to_value();
        self.version += 1;
        let (version, written_ms) = (self.version, self.clock);
        self.put(
            position.0,
            position.1,
            Draft { key, value: value.into(), deadline: deadline.unwrap_or(0), version, written_ms },
        );
        self.recorder.change(key);
        true
    }

    /// Removes every key; one change, none if there is no key. Takes no time: what there was becomes garbage.
    pub fn clear(&mut self) {
        self.recorder.cleared();
        if self.is_empty() {
            return;
        }
        self.removals.raise_all(self.version);
        self.version += 1;
        self.touched.extend(&self.wanted);
        let table = std::mem::replace(&mut self.table, Table::new(self.seed, self.clock, self.precision));
        let unneeded = match &mut self.cut {
            Some(cut) => cut.keep(table),
            None => Some(table),
        };
        self.garbage.tables.extend(unneeded);
        self.account = Account::default();
    }

    /// What has become garbage since the last call: the caller drops it where it may take a while.
    pub fn take_garbage(&mut self) -> Option<Garbage> {
        (!self.garbage.is_empty()).then(|| std::mem::take(&mut self.garbage))
    }

    // -- Slots

    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    /// Keys of one slot, with those that are dead and not yet swept.
    pub fn slot_len(&self, slot: Slot) -> u64 {
        self.table.slot_len(slot)
    }

    /// Must be called before anything changes in the unit whose range has this hash.
    fn before_change(&mut self, slot: Slot, hash: u64) {
        if let Some(cut) = &mut self.cut
            && let Some(unit) = self.table.unit_mut(slot, hash)
        {
            cut.save(slot, unit);
        }
    }

    // -- Expiry

    /// Not later than the earliest deadline of any key. Not replicated.
    pub fn next_deadline(&self) -> Option<Millis> {
        self.table.hints.earliest()
    }

    /// Ranges that hold a key dead at `now`, the earliest first: what a tick should name. At most `max`, and fewer
    /// where it would take long to look at more. Not replicated, and changes nothing that is.
    pub fn due_ranges(&mut self, now: Millis, max: usize) -> Vec<HashRange> {
        let ownership = &self.ownership;
        self.table.due(now, max, |slot| ownership.serves(slot))
    }

    /// Removes what is dead by the group clock in exactly these ranges, in apply: keys, and elements of what they hold.
    /// Gives how many keys went; each is one change, and all that lost elements together are another.
    pub fn sweep(&mut self, ranges: &[HashRange]) -> u64 {
        let (mut swept, mut pruned) = (0, 0);
        // One version for all: in which order units are swept differs between replicas.
        let version = self.version + 1;
        for &range in ranges.iter().filter(|range| self.ownership.serves(range.slot)).collect::<Vec<_>>() {
            let pruning = self.record_due(range);
            let (first, last) = (
                Row::new(range.slot, u64::from(range.first) << 32),
                Row::new(range.slot, u64::from(range.last) << 32 | u64::from(u32::MAX)),
            );
            self.touched.extend(self.wanted.range(first..=last));
            self.table.sweep(range, self.clock, version, saver(&mut self.cut), |what| match what {
                Swept::Gone { version, account, leftover } => {
                    swept += 1;
                    self.removals.raise(range.slot, version);
                    self.account.subtract(account);
                    self.garbage.put(leftover);
                }
                Swept::Pruned { before, after } => {
                    pruned = 1;
                    self.account.subtract(before);
                    self.account.add(after);
                }
            });
            for key in pruning {
                // That something in it was due was a guess; that it lost something is seen by its version.
                if self.get(&key).is_none_or(|entry| entry.version() == version) {
                    self.notify_change(Class::Hash, "hexpired", &key);
                }
            }
        }
        self.version += swept + pruned;
        self.expired += swept;
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

    /// When values stop being packed.
    pub fn packing(&self) -> Packing {
        self.packing
    }

    /// Sets when values stop being packed, in apply. Those that are there stay as they are until they are written to.
    pub fn set_packing(&mut self, packing: Packing) {
        self.packing = packing;
    }

    /// Bytes that the account may grow by, beside what a change adds, because the key's value stops being packed.
    pub fn unpacking(&self, key: &[u8]) -> u64 {
        self.get(key).map_or(0, |entry| entry.value().unpacking() as u64)
    }

    /// What the key's value has of elements that a command may copy into another.
    pub fn size_of(&self, key: &[u8]) -> Size {
        self.get(key).map_or(Size::default(), |entry| entry.value().size())
    }

    /// Removes a key, dead or alive, if it was not changed since it had this version; whether it was removed. In apply.
    pub fn evict(&mut self, key: &[u8], version: u64) -> bool {
        let (slot, hash) = self.place_of(key);
        let found = self.table.unit(slot, hash).and_then(|unit| {
            let at = unit.find(hash, key)?;
            Some((at, unit.entry(at)))
        });
        let may_leave = |entry: &EntryRef<'_>| entry.version == version && self.ownership.serves(slot);
        let Some((at, _)) = found.filter(|(_, entry)| may_leave(entry)) else { return false };
        self.drop_at((slot, hash, at), version);
        self.recorder.event(Class::Evicted, "evicted", key);
        self.recorder.change(key);
        self.evicted += 1;
        true
    }

    /// Keys swept here because they were dead, since this replica began. Not replicated.
    pub fn expired(&self) -> u64 {
        self.expired
    }

    /// Keys evicted here since this replica began. Not replicated.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// From now on accesses are noted in this way, beginning with nothing known; or not at all. Not replicated.
    pub fn watch(&mut self, recency: Option<Recency>) {
        self.keep_marks(false);
        self.keep_marks(recency.is_some());
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

    // -- Marks: what a replica remembers of reads, for eviction

    /// Whether each key has a mark from now on: a number of this replica's own, four bytes of memory.
    pub fn keep_marks(&mut self, keep: bool) {
        if self.marks && !keep {
            let marks = &mut self.garbage.marks;
            self.table.all_units_mut().for_each(|unit| marks.extend(unit.take_marks()));
        }
        self.marks = keep;
    }

    fn located<'a>(&self, slot: Slot, hash: u64, unit: &'a Unit, at: usize) -> Located<'a> {
        Located { slot, hash, entry: unit.entry(at), mark: self.marks.then(|| unit.mark(at)) }
    }

    /// A key's entry, alive or dead, with its mark.
    pub fn locate(&self, key: &[u8]) -> Option<Located<'_>> {
        let (slot, hash) = self.place_of(key);
        let unit = self.table.unit(slot, hash)?;
        unit.find(hash, key).map(|at| self.located(slot, hash, unit, at))
    }

    /// The entry that a row means, alive or dead. Should several keys share it: one of them.
    pub fn locate_row(&self, row: Row) -> Option<Located<'_>> {
        let unit = self.table.unit(row.slot(), row.hash())?;
        let at = unit.find_hash(row.hash(), |hash| row.is_of(hash))?;
        Some(self.located(row.slot(), row.hash(), unit, at))
    }

    /// An entry drawn at random, alive or dead, in constant time; `random` are two random numbers. Every key is as
    /// likely as any other, up to some per cent where a slot has more than about a thousand keys
    /// (see [`Table::draw`]).
    pub fn draw_entry(&self, random: [u64; 2]) -> Option<Located<'_>> {
        let (slot, unit, at) = self.table.draw(random[0], random[1])?;
        Some(self.located(slot, hash_of(self.seed, unit.entry(at).key), unit, at))
    }

    /// Entries of the group's own slots, alive or dead, by (slot, hash, key) from a slot and a hash in it on.
    pub fn walk(&self, slot: Slot, hash: u64) -> impl Iterator<Item = Located<'_>> {
        let mut next = Some((usize::from(slot.0), hash));
        let rest = std::iter::from_fn(move || {
            let (from, hash) = next?;
            let slot = self.next_owned_slot(from)?;
            next = Some((usize::from(slot.0) + 1, 0));
            Some((slot, if usize::from(slot.0) == from { hash } else { 0 }))
        });
        rest.flat_map(move |(slot, from)| {
            let rows = self.table.slot_ordered(slot, from);
            rows.map(move |(hash, _, unit, at)| self.located(slot, hash, unit, at))
        })
    }

    /// A number that differs from call to call, for reads that choose at random. Never for apply.
    pub(super) fn draw(&self) -> u64 {
        scramble(self.draws.fetch_add(STEP, Ordering::Relaxed))
    }

    #[cfg(test)]
    pub(super) fn recomputed_account(&self) -> Account {
        let mut sum = Account::default();
        self.table.all_units().flat_map(Unit::entries).for_each(|entry| sum.add(Account::of(&entry)));
        sum
    }

    /// Whether the account is the sum over all entries.
    #[cfg(test)]
    pub(crate) fn accounts_are_right(&self) -> bool {
        self.account == self.recomputed_account()
    }

    #[cfg(test)]
    pub(super) fn account(&self) -> Account {
        self.account
    }
}

/// From one random number to the next, which [`scramble`] makes of it (SplitMix64).
pub(super) const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

pub(super) fn scramble(mut draw: u64) -> u64 {
    draw = (draw ^ draw >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    draw = (draw ^ draw >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    draw ^ draw >> 31
}

/// What saves a unit before it changes, while a cut runs.
fn saver(cut: &mut Option<Cut>) -> impl FnMut(Slot, &mut Unit) {
    move |slot, unit| {
        if let Some(cut) = cut {
            cut.save(slot, unit);
        }
    }
}
