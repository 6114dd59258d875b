//! The keys of all slots: which unit holds a key, and when units are made, split, merged and dropped.
//!
//! ```text
//! pages (256) -> page: 64 slots -> slot: nothing | one unit | units by hash range, in order, without a gap
//! ```
//!
//! Invariants:
//! - a slot without keys has no unit, a page without keys is not there: an idle group takes next to nothing;
//! - the ranges of a slot's units are halves of halves of the whole and cover it;
//! - a unit holds [`SPLIT_ABOVE`] keys at most, so nothing that is done to one takes long; more only where all of them
//!   agree in the first [`DEEPEST`] bits of their hashes, which takes somebody who knows the seed;
//! - the hint of each unit stands in `hints`.
//!
//! Where borders lie depends on the replica's own history, and decides nothing. Whoever shows entries to others does so
//! by (slot, hash, key), which is the same on every replica because the hash seed is replicated.

use super::account::Account;
use super::cuckoo::Precision;
use super::entry::{Draft, Entry, EntryRef};
use super::expiry::{HashRange, Hints};
use super::keyspace::Changed;
use super::unit::{Leftover, Swept, Unit};
use super::value::Value;
use crate::types::{Millis, SLOTS, Slot};

/// Slots of a page.
const PAGE: usize = 64;
const PAGES: usize = SLOTS / PAGE;

/// A unit with more keys than this is split. Small enough that copying, saving or sweeping one takes tens of
/// microseconds; large enough that its header, index ends and chunk ends are a few per cent.
pub(super) const SPLIT_ABOVE: usize = 1024;

/// Two halves that together hold fewer keys than this are made one again.
const MERGE_BELOW: usize = SPLIT_ABOVE / 4;

/// No range is halved more often: with so many keys in agreement more halving would not part them.
const DEEPEST: u8 = 24;

#[derive(Debug)]
pub(super) struct Table {
    seed: u64,
    /// What times of writing are counted from, fixed with the first key.
    base: Millis,
    pages: Box<[Option<Box<Page>>]>,
    /// Keys of each page.
    counts: Box<[u64; PAGES]>,
    units: usize,
    pub(super) hints: Hints,
    precision: Precision,
}

#[derive(Debug)]
struct Page {
    slots: [Place; PAGE],
}

#[derive(Debug, Default)]
enum Place {
    #[default]
    Empty,
    One(Box<Unit>),
    Many(Box<Many>),
}

#[derive(Debug)]
struct Many {
    keys: u64,
    /// The first of each unit's range.
    firsts: Vec<u32>,
    /// In boxes: a split moves thousands of pointers at worst, not thousands of units.
    #[allow(clippy::vec_box)]
    units: Vec<Box<Unit>>,
}

impl Many {
    fn at(&self, hash: u64) -> usize {
        let upper = (hash >> 32) as u32;
        self.firsts.partition_point(|&first| first <= upper) - 1
    }
}

impl Place {
    #[inline]
    fn units(&self) -> &[Box<Unit>] {
        match self {
            Place::Empty => &[],
            Place::One(unit) => std::slice::from_ref(unit),
            Place::Many(many) => &many.units,
        }
    }

    #[inline]
    fn units_mut(&mut self) -> &mut [Box<Unit>] {
        match self {
            Place::Empty => &mut [],
            Place::One(unit) => std::slice::from_mut(unit),
            Place::Many(many) => &mut many.units,
        }
    }

    /// The number of the unit whose range has this hash.
    #[inline]
    fn number(&self, hash: u64) -> usize {
        match self {
            Place::Many(many) => many.at(hash),
            Place::Empty | Place::One(_) => 0,
        }
    }

    fn len(&self) -> u64 {
        match self {
            Place::Empty => 0,
            Place::One(unit) => unit.len() as u64,
            Place::Many(many) => many.keys,
        }
    }
}

/// The place of a slot, where the table's other fields are needed at the same time.
#[inline]
fn place_of(pages: &mut [Option<Box<Page>>], slot: Slot) -> Option<&mut Place> {
    let slot = usize::from(slot.0);
    Some(&mut pages.get_mut(slot / PAGE)?.as_mut()?.slots[slot % PAGE])
}

impl Table {
    pub fn new(seed: u64, base: Millis, precision: Precision) -> Table {
        Table {
            seed,
            base,
            pages: (0..PAGES).map(|_| None).collect(),
            counts: Box::new([0; PAGES]),
            units: 0,
            hints: Hints::default(),
            precision,
        }
    }

    /// How many units there are.
    pub fn units(&self) -> usize {
        self.units
    }

    #[inline]
    fn place(&self, slot: Slot) -> Option<&Place> {
        let slot = usize::from(slot.0);
        Some(&self.pages.get(slot / PAGE)?.as_ref()?.slots[slot % PAGE])
    }

    fn place_mut(&mut self, slot: Slot) -> Option<&mut Place> {
        place_of(&mut self.pages, slot)
    }

    /// The units of a slot in order of their ranges.
    pub fn units_of(&self, slot: Slot) -> &[Box<Unit>] {
        self.place(slot).map_or(&[], Place::units)
    }

    /// The unit whose range has this hash.
    #[inline]
    pub fn unit(&self, slot: Slot, hash: u64) -> Option<&Unit> {
        let place = self.place(slot)?;
        place.units().get(place.number(hash)).map(|unit| &**unit)
    }

    pub fn unit_mut(&mut self, slot: Slot, hash: u64) -> Option<&mut Unit> {
        let place = self.place_mut(slot)?;
        let number = place.number(hash);
        place.units_mut().get_mut(number).map(|unit| &mut **unit)
    }

    /// Keys of a slot.
    pub fn slot_len(&self, slot: Slot) -> u64 {
        self.place(slot).map_or(0, Place::len)
    }

    /// The first slot from this one on that holds keys.
    pub fn next_slot(&self, from: usize) -> Option<Slot> {
        let mut slot = from;
        while slot < SLOTS {
            if self.counts[slot / PAGE] == 0 {
                slot = (slot / PAGE + 1) * PAGE;
            } else if self.slot_len(Slot(slot as u16)) > 0 {
                return Some(Slot(slot as u16));
            } else {
                slot += 1;
            }
        }
        None
    }

    /// Slots that hold keys, in order.
    #[cfg(test)]
    pub fn slots(&self) -> impl Iterator<Item = Slot> {
        let mut from = 0;
        std::iter::from_fn(move || {
            let slot = self.next_slot(from)?;
            from = usize::from(slot.0) + 1;
            Some(slot)
        })
    }

    /// Entries of a slot with hash `from` or more, by (hash, key), with unit and place in it.
    pub fn slot_ordered(
        &self,
        slot: Slot,
        from: u64,
    ) -> impl Iterator<Item = (u64, EntryRef<'_>, &Unit, usize)> + use<'_> {
        let first = self.place(slot).map_or(0, |place| place.number(from));
        let units = &self.units_of(slot)[first..];
        units.iter().flat_map(move |unit| unit.ordered(from).map(|(hash, entry, at)| (hash, entry, &**unit, at)))
    }

    /// All units, in no order.
    pub fn all_units(&self) -> impl Iterator<Item = &Unit> {
        let places = self.pages.iter().flatten().flat_map(|page| &page.slots);
        places.flat_map(|place| place.units()).map(|unit| &**unit)
    }

    pub fn all_units_mut(&mut self) -> impl Iterator<Item = &mut Unit> {
        let places = self.pages.iter_mut().flatten().flat_map(|page| &mut page.slots);
        places.flat_map(|place| place.units_mut()).map(|unit| &mut **unit)
    }

    /// A key drawn at random, by two numbers that are: unit and position. The slot is drawn by its number of keys, in a
    /// slot of many units the unit by its share of the hashes, in the unit each key is as likely as any other. So a
    /// key's chance is off by what its unit's number of keys is off from the mean of its size: some per cent.
    pub fn draw(&self, first: u64, second: u64) -> Option<(Slot, &Unit, usize)> {
        let total: u64 = self.counts.iter().sum();
        let mut nth = first.checked_rem(total)?;
        let page = self.counts.iter().position(|&count| {
            let here = nth < count;
            nth -= if here { 0 } else { count };
            here
        })?;
        let slot = (page * PAGE..(page + 1) * PAGE).map(|slot| Slot(slot as u16)).find(|&slot| {
            let count = self.slot_len(slot);
            let here = nth < count;
            nth -= if here { 0 } else { count };
            here
        })?;
        let units = self.units_of(slot);
        let number = self.place(slot)?.number(second);
        // Empty units are few: what they hold is drawn as their neighbour's.
        let unit = (0..units.len()).map(|next| &units[(number + next) % units.len()]).find(|unit| !unit.is_empty())?;
        Some((slot, unit, unit.any(second.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ first.rotate_left(32))?))
    }

    // -- Changes

    /// Writes an entry; what [`Unit::put`] gives. Units that come to be need no saving for the cut `epoch`.
    pub fn put(&mut self, slot: Slot, hash: u64, draft: Draft<'_>, epoch: u32) -> (Option<Account>, Leftover) {
        let page = usize::from(slot.0) / PAGE;
        if self.units == 0 {
            self.base = draft.written_ms;
        }
        self.pages[page].get_or_insert_with(|| Box::new(Page { slots: [const { Place::Empty }; PAGE] }));
        let place = place_of(&mut self.pages, slot).expect("its page was made just now");
        if let Place::Empty = place {
            *place = Place::One(Box::new(Unit::new(self.seed, self.base, epoch, self.precision)));
            self.units += 1;
        }
        let number = place.number(hash);
        let unit = &mut place.units_mut()[number];
        let due = draft.as_ref().due();
        let (before, leftover) = unit.put(hash, draft);
        self.hints.note(slot, unit, due);
        let full = unit.len() > SPLIT_ABOVE && unit.depth() < DEEPEST;
        if before.is_none() {
            self.counts[page] += 1;
            if let Place::Many(many) = place {
                many.keys += 1;
            }
        }
        if full {
            self.split(slot, number);
        }
        (before, leftover)
    }

    /// Writes entries of a slot that holds none, which stand by (hash, key), each key once. Cheaper than one after the other.
    ///
    /// # Panics
    /// If the slot holds keys, or if these are more than a unit may have.
    pub fn fill(&mut self, slot: Slot, entries: Vec<(u64, Draft<'_>)>, epoch: u32) {
        let page = usize::from(slot.0) / PAGE;
        let Some((_, first)) = entries.first() else { return };
        assert!(entries.len() <= SPLIT_ABOVE, "they are one unit");
        if self.units == 0 {
            self.base = first.written_ms;
        }
        let (keys, due) = (entries.len(), entries.iter().map(|(_, draft)| draft.as_ref().due()));
        let due = due.filter(|due| *due != 0).min().unwrap_or(0);
        let unit = Unit::of(entries, self.seed, self.base, epoch, self.precision);
        self.pages[page].get_or_insert_with(|| Box::new(Page { slots: [const { Place::Empty }; PAGE] }));
        let place = place_of(&mut self.pages, slot).expect("its page was made just now");
        assert!(matches!(place, Place::Empty), "a slot is filled once");
        *place = Place::One(Box::new(unit));
        self.hints.note(slot, &mut place.units_mut()[0], due);
        self.units += 1;
        self.counts[page] += keys as u64;
    }

    /// Changes a value in place: what [`Unit::edit`] gives. The position is one of the unit that has this hash.
    pub fn edit<R>(
        &mut self,
        (slot, hash, at): (Slot, u64, usize),
        version: u64,
        clock: Millis,
        change: impl FnOnce(&mut Value) -> Changed<R>,
    ) -> Option<(Changed<R>, Account)> {
        let place = place_of(&mut self.pages, slot)?;
        let number = place.number(hash);
        let unit = place.units_mut().get_mut(number)?;
        let edited = unit.edit(at, version, clock, change);
        let due = unit.entry(at).due();
        self.hints.note(slot, unit, due);
        Some(edited)
    }

    /// Moves an entry out. `save` is called for a unit that this changes beside the entry's own.
    pub fn take(&mut self, (slot, hash, at): (Slot, u64, usize), save: impl FnMut(Slot, &mut Unit)) -> Option<Entry> {
        let entry = self.unit_mut(slot, hash)?.take(at);
        self.removed(slot, hash, 1, save);
        Some(entry)
    }

    /// The same for an entry that nobody wants.
    pub fn remove(
        &mut self,
        (slot, hash, at): (Slot, u64, usize),
        save: impl FnMut(Slot, &mut Unit),
    ) -> Option<(Account, Leftover)> {
        let unit = self.unit_mut(slot, hash)?;
        let account = Account::of(&unit.entry(at));
        let leftover = unit.remove(at);
        self.removed(slot, hash, 1, save);
        Some((account, leftover))
    }

    /// Removes what is dead at `clock` in a range, and tells of each key; one that loses elements has `version` then.
    /// `save` is called for every unit before it changes.
    pub fn sweep(
        &mut self,
        range: HashRange,
        clock: Millis,
        version: u64,
        mut save: impl FnMut(Slot, &mut Unit),
        mut tell: impl FnMut(Swept),
    ) {
        let HashRange { slot, first, last } = range;
        let mut next = Some(first);
        while let Some(from) = next {
            let hash = u64::from(from) << 32;
            let Some(unit) = self.unit_mut(slot, hash) else { return };
            next = unit.last().checked_add(1).filter(|next| *next <= last);
            // Its earliest deadline is not before its hint.
            if unit.hint == 0 || unit.hint > clock {
                continue;
            }
            let earliest = unit.earliest_due();
            if earliest == 0 || earliest > clock {
                continue;
            }
            save(slot, unit);
            let mut gone = 0;
            unit.sweep(clock, version, first..=last, |what| {
                gone += u64::from(matches!(what, Swept::Gone { .. }));
                tell(what);
            });
            let earliest = unit.earliest_due();
            self.replace_hint(slot, hash, earliest);
            self.removed(slot, hash, gone, &mut save);
        }
    }

    /// After keys were removed from the unit that has this hash.
    fn removed(&mut self, slot: Slot, hash: u64, keys: u64, mut save: impl FnMut(Slot, &mut Unit)) {
        let page = usize::from(slot.0) / PAGE;
        self.counts[page] -= keys;
        if let Some(Place::Many(many)) = self.place_mut(slot) {
            many.keys -= keys;
            if many.keys > 0 {
                while self.merge(slot, hash, &mut save) {}
            }
        }
        if self.slot_len(slot) == 0 {
            self.drop_slot(slot, save);
        }
    }

    fn replace_hint(&mut self, slot: Slot, hash: u64, deadline: Millis) {
        let place = place_of(&mut self.pages, slot).expect("the slot holds a unit");
        let number = place.number(hash);
        self.hints.replace(slot, &mut place.units_mut()[number], deadline);
    }

    fn drop_slot(&mut self, slot: Slot, mut save: impl FnMut(Slot, &mut Unit)) {
        let page = usize::from(slot.0) / PAGE;
        let Some(place) = place_of(&mut self.pages, slot) else { return };
        for unit in place.units_mut() {
            // Those beside the last key's are empty, and belong to a cut all the same.
            save(slot, unit);
            self.hints.replace(slot, unit, 0);
            self.units -= 1;
        }
        *place = Place::Empty;
        if self.counts[page] == 0 {
            self.pages[page] = None;
        }
    }

    fn split(&mut self, slot: Slot, number: usize) {
        let place = place_of(&mut self.pages, slot).expect("a unit just grew there");
        if let Place::One(_) = place {
            let Place::One(unit) = std::mem::take(place) else { unreachable!("it was looked at a moment ago") };
            *place = Place::Many(Box::new(Many { keys: unit.len() as u64, firsts: vec![0], units: vec![unit] }));
        }
        let Place::Many(many) = place else { unreachable!("a slot that holds a unit holds one or many") };
        let mut whole = many.units.remove(number);
        let hint = whole.hint;
        self.hints.replace(slot, &mut whole, 0);
        let (mut lower, mut upper) = whole.split();
        for half in [&mut lower, &mut upper] {
            // For one of the halves it may be too early, never too late.
            self.hints.replace(slot, half, hint);
        }
        many.firsts.insert(number + 1, upper.first());
        many.units.insert(number, Box::new(upper));
        many.units.insert(number, Box::new(lower));
        self.units += 1;
    }

    /// Makes the unit that has this hash one with its other half, if both have few keys; whether it did.
    fn merge(&mut self, slot: Slot, hash: u64, save: &mut impl FnMut(Slot, &mut Unit)) -> bool {
        let Some(place) = place_of(&mut self.pages, slot) else { return false };
        let Place::Many(many) = place else { return false };
        let number = many.at(hash);
        let unit = &many.units[number];
        let Some(sibling) = unit.sibling() else { return false };
        let lower = number - usize::from(sibling < unit.first());
        let small = unit.len() < MERGE_BELOW
            && many.units.get(lower + 1).is_some_and(|upper| {
                let other = if lower == number { upper } else { &many.units[lower] };
                other.depth() == unit.depth() && other.len() + unit.len() < MERGE_BELOW
            });
        if !small {
            return false;
        }
        let mut halves = [many.units.remove(lower), many.units.remove(lower)];
        many.firsts.remove(lower + 1);
        let hint = halves.iter().map(|half| half.hint).filter(|hint| *hint != 0).min().unwrap_or(0);
        for half in &mut halves {
            save(slot, half);
            self.hints.replace(slot, half, 0);
        }
        let [lower_half, upper_half] = halves;
        let mut whole = Box::new(Unit::merge(*lower_half, *upper_half));
        self.hints.replace(slot, &mut whole, hint);
        self.units -= 1;
        if many.units.is_empty() {
            *place = Place::One(whole);
        } else {
            many.units.insert(lower, whole);
        }
        true
    }

    /// Up to `max` ranges of units that hold a key dead at `now`, earliest first. Hints that were too early are mended
    /// on the way. Looks at [`LOOKED_AT`] keys or a few more: a call is short, and the rest waits for the next. Slots that are
    /// not `changing` are passed over.
    pub fn due(&mut self, now: Millis, max: usize, changing: impl Fn(Slot) -> bool) -> Vec<HashRange> {
        let (mut due, mut looked_at, mut mended) = (Vec::new(), 0, Vec::new());
        for (_, slot, first) in self.hints.until(now).filter(|(_, slot, _)| changing(*slot)) {
            if due.len() >= max || looked_at >= LOOKED_AT {
                break;
            }
            let unit = self.unit(slot, u64::from(first) << 32).expect("hints name units that are there");
            looked_at += unit.len().max(16);
            let earliest = unit.earliest_due();
            if earliest != 0 && earliest <= now {
                due.push(HashRange { slot, first, last: unit.last() });
            } else {
                mended.push((slot, first, earliest));
            }
        }
        for (slot, first, earliest) in mended {
            self.replace_hint(slot, u64::from(first) << 32, earliest);
        }
        due
    }

    /// The unit that comes next, from this slot and this upper half of a hash on.
    pub fn next_unit(&mut self, slot: usize, from: u32) -> Option<(Slot, &mut Unit)> {
        let found = self.next_slot(slot)?;
        let from = if usize::from(found.0) == slot { from } else { 0 };
        self.unit_mut(found, u64::from(from) << 32).map(|unit| (found, unit))
    }

    #[cfg(test)]
    pub fn check(&self) {
        let mut units = 0;
        for (page, place) in self
            .pages
            .iter()
            .enumerate()
            .flat_map(|(page, slots)| slots.iter().flat_map(|page| &page.slots).map(move |place| (page, place)))
        {
            let (mut next, mut keys) = (Some(0), 0);
            for (number, unit) in place.units().iter().enumerate() {
                unit.check();
                assert_eq!(next, Some(unit.first()), "units cover their slot");
                assert!(unit.len() <= SPLIT_ABOVE || unit.depth() == DEEPEST);
                next = unit.last().checked_add(1);
                keys += unit.len() as u64;
                if let Place::Many(many) = place {
                    assert_eq!(many.firsts[number], unit.first());
                }
            }
            units += place.units().len();
            assert!(place.units().is_empty() || next.is_none() && keys > 0);
            assert_eq!(keys, place.len());
            assert!(self.counts[page] >= keys);
        }
        assert_eq!(units, self.units);
        let hints: std::collections::BTreeSet<_> = self.hints.until(Millis::MAX).collect();
        let mut kept = std::collections::BTreeSet::new();
        for slot in self.slots() {
            kept.extend(
                self.units_of(slot).iter().filter(|unit| unit.hint != 0).map(|unit| (unit.hint, slot, unit.first())),
            );
        }
        assert_eq!(hints, kept);
    }
}

/// Keys that one search for due ones looks at: some hundred microseconds. A tick names no more units than these are in,
/// so that its apply is short too.
const LOOKED_AT: usize = 16 << 10;
