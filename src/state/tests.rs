//! The keyspace under random calls: against a plain map, against its twin, and cut while it changes.

use super::cuckoo::Precision;
use super::eviction::Row;
use super::table::SPLIT_ABOVE;
use super::{Changed, End, HashRange, HashValue, Keyspace, ListValue, SlotImage, Value, ValueRef, View, WARMED};
use crate::slot::slot_of;
use crate::types::{Millis, SLOTS, Slot, Stamp};
use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::Ordering;

#[derive(Debug, Clone)]
enum Call {
    Set(u8, u8, Option<u8>),
    Edit(u8, u8),
    Remove(u8),
    Deadline(u8, Option<u8>),
    Pass(u8),
    Sweep,
    SweepOne(u8),
    Clear,
}

fn calls(most: usize) -> impl Strategy<Value = Vec<Call>> {
    let call = prop_oneof![
        8 => (0..12u8, any::<u8>(), prop::option::of(0..40u8)).prop_map(|(k, v, d)| Call::Set(k, v, d)),
        3 => (0..12u8, any::<u8>()).prop_map(|(k, v)| Call::Edit(k, v)),
        3 => (0..12u8).prop_map(Call::Remove),
        3 => (0..12u8, prop::option::of(0..40u8)).prop_map(|(k, d)| Call::Deadline(k, d)),
        3 => (0..10u8).prop_map(Call::Pass),
        2 => Just(Call::Sweep),
        2 => (0..12u8).prop_map(Call::SweepOne),
        1 => Just(Call::Clear),
    ];
    prop::collection::vec(call, 0..most)
}

/// Twelve keys in six slots.
fn key(number: u8) -> Vec<u8> {
    format!("{{{}}}{number}", number / 2).into_bytes()
}

fn run(keyspace: &mut Keyspace, call: &Call) {
    let at = |keyspace: &Keyspace, after: &Option<u8>| after.map(|ms| keyspace.clock() + Millis::from(ms));
    match call {
        Call::Set(k, v, after) => {
            let deadline = at(keyspace, after);
            keyspace.set(&key(*k), Value::text(&[*v; 3]), deadline);
        }
        Call::Edit(k, v) => {
            keyspace.edit(&key(*k), |value| {
                let Value::Text(text) = value else { panic!("only strings are written here") };
                let mut bytes = BytesMut::from(&text.bytes[..]);
                bytes.extend_from_slice(&[*v]);
                text.bytes = bytes.freeze();
            });
        }
        Call::Remove(k) => {
            keyspace.remove(&key(*k));
        }
        Call::Deadline(k, after) => {
            let deadline = at(keyspace, after);
            keyspace.set_deadline(&key(*k), deadline);
        }
        Call::Pass(ms) => {
            let now_ms = keyspace.clock() + Millis::from(*ms);
            keyspace.advance(&Stamp { now_ms, seed: 0 });
        }
        Call::Sweep => {
            let due = keyspace.due_ranges(keyspace.clock(), SLOTS);
            keyspace.sweep(&due);
        }
        Call::SweepOne(k) => {
            let ranges = [slot_of(&key(*k)), Slot(u16::MAX)].map(HashRange::whole);
            keyspace.sweep(&ranges);
        }
        Call::Clear => keyspace.clear(),
    }
}

fn fresh() -> Keyspace {
    let mut keyspace = Keyspace::new(7);
    keyspace.advance(&Stamp { now_ms: 1000, seed: 0 });
    keyspace
}

/// What a reader can see: key -> (value, deadline).
type Seen = BTreeMap<Vec<u8>, (Vec<u8>, Option<Millis>)>;

fn seen(keyspace: &Keyspace) -> Seen {
    View::new(keyspace, None)
        .entries()
        .map(|entry| {
            let bytes = entry.value().as_text().unwrap().to_vec();
            (entry.key().to_vec(), (bytes, entry.deadline()))
        })
        .collect()
}

/// The same calls on a map. Gives whether anything changed.
fn model(map: &mut Seen, clock: &mut Millis, call: &Call) -> bool {
    let before = map.clone();
    let at = |after: &Option<u8>| after.map(|ms| *clock + Millis::from(ms));
    match call {
        Call::Set(k, v, after) => {
            map.insert(key(*k), (vec![*v; 3], at(after)));
        }
        Call::Edit(k, v) => {
            if let Some((value, _)) = map.get_mut(&key(*k)) {
                value.push(*v);
            }
        }
        Call::Remove(k) => {
            map.remove(&key(*k));
        }
        Call::Deadline(k, after) => {
            if let Some((_, deadline)) = map.get_mut(&key(*k)) {
                *deadline = at(after);
            }
        }
        Call::Pass(ms) => *clock += Millis::from(*ms),
        Call::Sweep | Call::SweepOne(_) => {}
        Call::Clear => map.clear(),
    }
    map.retain(|_, (_, deadline)| deadline.is_none_or(|deadline| deadline > *clock));
    *map != before
}

fn restored(head: &[u8], images: Vec<SlotImage>) -> Keyspace {
    let copy = Keyspace::restore(
        head,
        images.into_iter().map(|image| Ok::<_, Infallible>(image.into_bytes())),
        Precision::default(),
    )
    .unwrap();
    copy.table().check();
    copy
}

/// What is left of a cut.
fn rest(keyspace: &mut Keyspace) -> Vec<SlotImage> {
    std::iter::from_fn(|| keyspace.cut_next(1000)).flatten().collect()
}

proptest! {
    #[test]
    fn it_behaves_as_a_map_whose_keys_die(calls in calls(60)) {
        let (mut keyspace, mut map, mut clock) = (fresh(), Seen::new(), 1000);
        for call in &calls {
            let version = keyspace.version();
            run(&mut keyspace, call);
            let changed = model(&mut map, &mut clock, call);
            prop_assert_eq!(&seen(&keyspace), &map);
            prop_assert_eq!(keyspace.account(), keyspace.recomputed_account());
            keyspace.table().check();
            prop_assert!(keyspace.version() > version || !changed || matches!(call, Call::Pass(_)), "{:?}", call);
            for number in 0..12 {
                prop_assert_eq!(keyspace.contains(&key(number)), map.contains_key(&key(number)));
            }
        }
    }

    #[test]
    fn nothing_due_is_overlooked(calls in calls(60), ahead in 0..50u64) {
        let mut keyspace = fresh();
        calls.iter().for_each(|call| run(&mut keyspace, call));
        let now = keyspace.clock() + ahead;
        let table = keyspace.table();
        let dead = |slot: &Slot| table.units_of(*slot).iter().any(|unit| unit.entries().any(|entry| entry.is_dead(now)));
        let expected: Vec<Slot> = table.slots().filter(dead).collect();
        if !expected.is_empty() {
            prop_assert!(keyspace.next_deadline().unwrap() <= now);
        }
        let mut due = keyspace.due_ranges(now, SLOTS);
        due.sort();
        prop_assert_eq!(&due, &expected.iter().copied().map(HashRange::whole).collect::<Vec<_>>());
        prop_assert!(keyspace.due_ranges(now, 1).len() == expected.len().min(1));
        // Once swept, nothing is due any more.
        keyspace.advance(&Stamp { now_ms: now, seed: 0 });
        let visible = keyspace.len() - keyspace.sweep(&due);
        prop_assert_eq!(visible, seen(&keyspace).len() as u64);
        prop_assert!(keyspace.due_ranges(now, SLOTS).is_empty());
    }

    #[test]
    fn replicas_that_applied_the_same_are_the_same(calls in calls(60), more in calls(10)) {
        let (mut left, mut right) = (fresh(), fresh());
        for call in &calls {
            run(&mut left, call);
            // A replica's own looking around leaves no trace.
            right.due_ranges(u64::MAX, 3);
            right.keep_marks(true);
            right.draw_entry([1, 2]).map(|found| found.mark.unwrap().fetch_add(1, Ordering::Relaxed));
            View::new(&right, None).random();
            run(&mut right, call);
        }
        prop_assert_eq!(left.state_hash(), right.state_hash());
        let version = left.version();
        more.iter().for_each(|call| run(&mut left, call));
        prop_assert_eq!(left.state_hash() == right.state_hash(), left.version() == version && left.clock() == right.clock());
    }

    #[test]
    fn a_cut_shows_the_moment_it_was_made(before in calls(40), during in calls(40), steps in prop::collection::vec(0..4usize, 40)) {
        let mut keyspace = fresh();
        before.iter().for_each(|call| run(&mut keyspace, call));
        let (hash, moment) = (keyspace.state_hash(), seen(&keyspace));
        let head = keyspace.begin_cut().to_bytes();
        let mut images = Vec::new();
        for (call, units) in during.iter().zip(&steps) {
            run(&mut keyspace, call);
            if *units > 0 {
                images.extend(keyspace.cut_next(*units * 30).into_iter().flatten());
            }
        }
        images.extend(rest(&mut keyspace));
        let copy = restored(&head, images);
        prop_assert_eq!(copy.state_hash(), hash);
        prop_assert_eq!(seen(&copy), moment);
        prop_assert_eq!(copy.account(), copy.recomputed_account());
        // The cut is over: another may begin, and shows what is there now.
        let head = keyspace.begin_cut().to_bytes();
        let images = rest(&mut keyspace);
        prop_assert_eq!(restored(&head, images).state_hash(), keyspace.state_hash());
    }

    #[test]
    fn a_copy_goes_on_as_the_original(before in calls(40), after in calls(40)) {
        let mut keyspace = fresh();
        before.iter().for_each(|call| run(&mut keyspace, call));
        let head = keyspace.begin_cut().to_bytes();
        let images = rest(&mut keyspace);
        prop_assert!(!keyspace.cut_running());
        let mut copy = restored(&head, images);
        for call in &after {
            // Hints differ between the two; what a sweep names comes from the log.
            let named = matches!(call, Call::Sweep).then(|| keyspace.due_ranges(keyspace.clock(), SLOTS));
            match named {
                Some(ranges) => {
                    prop_assert_eq!(keyspace.sweep(&ranges), copy.sweep(&ranges));
                }
                None => {
                    run(&mut keyspace, call);
                    run(&mut copy, call);
                }
            }
        }
        prop_assert_eq!(keyspace.state_hash(), copy.state_hash());
        prop_assert_eq!(keyspace.account(), copy.account());
    }

    #[test]
    fn a_scan_meets_every_key_that_stays(calls in calls(60), count in 1..5usize, changes in calls(20)) {
        let mut keyspace = fresh();
        calls.iter().for_each(|call| run(&mut keyspace, call));
        let mut stayed = seen(&keyspace);
        let (mut met, mut cursor, mut changes) = (Vec::new(), 0, changes.iter());
        loop {
            let (entries, next) = View::new(&keyspace, None).scan(cursor, count);
            met.extend(entries.iter().map(|entry| entry.key().to_vec()));
            if next == 0 {
                break;
            }
            prop_assert!(next > cursor, "a scan goes forward");
            cursor = next;
            if let Some(call) = changes.next() {
                run(&mut keyspace, call);
                let now = seen(&keyspace);
                stayed.retain(|key, _| now.contains_key(key));
            }
        }
        for key in stayed.keys() {
            prop_assert!(met.contains(key));
        }
        met.sort();
        prop_assert!(met.windows(2).all(|pair| pair[0] != pair[1]), "keys do not move, so none is met twice");
    }
}

#[test]
fn calls_that_change_nothing_leave_the_version_alone() {
    let mut keyspace = fresh();
    keyspace.clear();
    keyspace.remove(b"k");
    keyspace.set_deadline(b"k", Some(5000));
    keyspace.edit(b"k", |_| ());
    keyspace.set(b"k", Value::text(b"v"), Some(1000));
    keyspace.sweep(&[HashRange::whole(slot_of(b"k"))]);
    assert_eq!(keyspace.version(), 0);
    keyspace.set(b"k", Value::text(b"v"), Some(5000));
    keyspace.set_deadline(b"k", Some(5000));
    assert_eq!(keyspace.version(), 1);
    assert_eq!(keyspace.get(b"k").unwrap().version(), 1);
}

#[test]
fn the_clock_never_goes_back() {
    let mut keyspace = fresh();
    keyspace.advance(&Stamp { now_ms: 10, seed: 0 });
    assert_eq!(keyspace.clock(), 1000);
}

#[test]
fn a_read_that_knows_more_than_the_clock_asks_for_a_tick() {
    let mut keyspace = fresh();
    keyspace.set(b"k", Value::text(b"v"), Some(1500));
    let tick = |keyspace: &Keyspace, estimate, read: fn(&View<'_>)| {
        let view = View::new(keyspace, estimate);
        read(&view);
        view.needs_tick()
    };
    let get: fn(&View<'_>) = |view| assert!(view.get(b"k").is_some());
    let all: fn(&View<'_>) = |view| assert_eq!(view.entries().count(), 1);
    let scan: fn(&View<'_>) = |view| assert_eq!(view.scan(0, 10).0.len(), 1);
    let random: fn(&View<'_>) = |view| assert!(view.random().is_some());
    let ttl: fn(&View<'_>) = |view| assert_eq!(view.remaining(&view.get(b"k").unwrap()), Some(500));
    for read in [get, all, scan, random, ttl] {
        assert!(!tick(&keyspace, None, read));
        assert!(!tick(&keyspace, Some(1100), read));
        assert!(tick(&keyspace, Some(1500), read));
    }
    // Remaining time must not stand still, even while the key lives.
    assert!(tick(&keyspace, Some(1400), ttl) && !tick(&keyspace, Some(1400), get));
    keyspace.advance(&Stamp { now_ms: 1500, seed: 0 });
    let view = View::new(&keyspace, Some(1500));
    assert!(view.get(b"k").is_none() && view.random().is_none() && !view.needs_tick());
    assert_eq!(view.len(), 1, "until the sweep");
}

#[test]
fn a_snapshot_that_does_not_add_up_is_refused() {
    let mut keyspace = fresh();
    for number in 0..12 {
        keyspace.set(&key(number), Value::text(b"v"), None);
    }
    let head = keyspace.begin_cut().to_bytes();
    let images: Vec<Bytes> = rest(&mut keyspace).into_iter().map(SlotImage::into_bytes).collect();
    let restore = |images: &[Bytes]| {
        let images = images.iter().map(Ok::<_, Infallible>);
        Keyspace::restore(&head, images, Precision::default()).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(restore(&images), Ok(()));
    let reversed: Vec<Bytes> = images.iter().rev().cloned().collect();
    assert_eq!(restore(&reversed), Ok(()));
    assert!(restore(&images[1..]).unwrap_err().contains("missing"));
    let twice = [&images[..], &images[..1]].concat();
    assert!(restore(&twice).unwrap_err().contains("twice"));
    // The number is right, and yet one is missing.
    let instead = [&images[1..], &images[1..2]].concat();
    assert!(restore(&instead).unwrap_err().contains("twice"));
    let failing = std::iter::once(Err::<Vec<u8>, _>("the disk is gone"));
    assert!(
        Keyspace::restore(&head, failing, Precision::default()).unwrap_err().to_string().contains("the disk is gone")
    );
}

#[test]
fn an_empty_keyspace_is_small() {
    let mut keyspace = fresh();
    keyspace.set(b"k", Value::text(b"v"), None);
    keyspace.remove(b"k");
    let pages = 256 * size_of::<usize>() + 256 * size_of::<u64>();
    assert!(pages + size_of::<Keyspace>() < 8 << 10);
    assert!(keyspace.table().slots().next().is_none() && keyspace.table().units() == 0);
}

// -- Many keys in few slots: splits, merges, rewritten chunks, owned entries

/// A key of a thousand in one slot, or of another thousand in another.
fn one_of_many(number: u16) -> Vec<u8> {
    format!("{{{}}}{number}", number / 10_000).into_bytes()
}

/// Something done to a thousand keys or so, from a number on.
#[derive(Debug, Clone)]
enum Bulk {
    /// With values of about this length, and a deadline this far away for every third.
    Set(u16, usize, Option<u16>),
    Edit(u16),
    Remove(u16),
    Pass(u16),
    /// The leader's ranges.
    Sweep,
    /// Any range of either slot.
    SweepRange(bool, u32, u32),
    Clear,
}

fn bulks(most: usize) -> impl Strategy<Value = Vec<Bulk>> {
    let from = || prop_oneof![0..2500u16, 10_000..10_600u16];
    let length = prop_oneof![6 => 0..60usize, 3 => 60..460usize, 1 => 470..700usize, 1 => 70_000..70_001usize];
    let call = prop_oneof![
        10 => (from(), length, prop::option::of(1..60u16)).prop_map(|(f, l, d)| Bulk::Set(f, l, d)),
        3 => from().prop_map(Bulk::Edit),
        6 => from().prop_map(Bulk::Remove),
        3 => (0..30u16).prop_map(Bulk::Pass),
        3 => Just(Bulk::Sweep),
        2 => any::<(bool, u32, u32)>().prop_map(|(s, a, b)| Bulk::SweepRange(s, a.min(b), a.max(b))),
        1 => Just(Bulk::Clear),
    ];
    prop::collection::vec(call, 1..most)
}

/// The keys of a bulk, and what decides about each: few of them if values are long.
fn members(from: u16, length: usize) -> impl Iterator<Item = (Vec<u8>, usize)> {
    let count = if length > 1000 { 3 } else { 900 };
    (from..from + count).map(|number| (one_of_many(number), usize::from(number) * 7919 % 31))
}

/// `ranges`: what the leader's sweep names, where that is not this keyspace.
fn run_bulk(keyspace: &mut Keyspace, bulk: &Bulk, ranges: Option<&[HashRange]>) {
    match bulk {
        Bulk::Set(from, length, after) => {
            for (key, odd) in members(*from, *length) {
                let deadline = after.filter(|_| odd % 3 == 0).map(|after| keyspace.clock() + Millis::from(after));
                // Every fourth is a number.
                let value =
                    if odd % 4 == 0 { (odd * length).to_string().into_bytes() } else { vec![b'x'; length + odd] };
                keyspace.set(&key, Value::text(&value), deadline);
            }
        }
        Bulk::Edit(from) => {
            for (key, odd) in members(*from, 0).filter(|(_, odd)| odd % 2 == 0) {
                keyspace.edit(&key, |value| {
                    let Value::Text(text) = value else { unreachable!("these calls write strings") };
                    text.bytes = [&text.bytes[..], &[b'e'; 40][..odd]].concat().into();
                });
            }
        }
        Bulk::Remove(from) => members(*from, 0).filter(|(_, odd)| odd % 16 != 3).for_each(|(key, _)| {
            keyspace.remove(&key);
        }),
        Bulk::Pass(ms) => {
            let now_ms = keyspace.clock() + Millis::from(*ms);
            keyspace.advance(&Stamp { now_ms, seed: 0 });
        }
        Bulk::Sweep => {
            let own = keyspace.due_ranges(keyspace.clock(), SLOTS);
            keyspace.sweep(ranges.unwrap_or(&own));
        }
        Bulk::SweepRange(other, first, last) => {
            let slot = slot_of(&one_of_many(if *other { 10_000 } else { 0 }));
            keyspace.sweep(&[HashRange { slot, first: *first, last: *last }]);
        }
        Bulk::Clear => keyspace.clear(),
    }
    drop(keyspace.take_garbage());
}

/// The same on a map.
fn model_bulk(map: &mut Seen, clock: &mut Millis, bulk: &Bulk) {
    match bulk {
        Bulk::Set(from, length, after) => {
            for (key, odd) in members(*from, *length) {
                let deadline = after.filter(|_| odd % 3 == 0).map(|after| *clock + Millis::from(after));
                let value =
                    if odd % 4 == 0 { (odd * length).to_string().into_bytes() } else { vec![b'x'; length + odd] };
                map.insert(key, (value, deadline));
            }
        }
        Bulk::Edit(from) => {
            for (key, odd) in members(*from, 0).filter(|(_, odd)| odd % 2 == 0) {
                if let Some((value, _)) = map.get_mut(&key) {
                    value.extend_from_slice(&[b'e'; 40][..odd]);
                }
            }
        }
        Bulk::Remove(from) => members(*from, 0).filter(|(_, odd)| odd % 16 != 3).for_each(|(key, _)| {
            map.remove(&key);
        }),
        Bulk::Pass(ms) => *clock += Millis::from(*ms),
        Bulk::Sweep | Bulk::SweepRange(..) => {}
        Bulk::Clear => map.clear(),
    }
    map.retain(|_, (_, deadline)| deadline.is_none_or(|deadline| deadline > *clock));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn many_keys_behave_as_a_map_however_they_lie(bulks in bulks(25)) {
        let (mut keyspace, mut map, mut clock) = (fresh(), Seen::new(), 1000);
        let all: Vec<Vec<u8>> = members(0, 0).chain(members(10_000, 0)).map(|(key, _)| key).collect();
        for bulk in &bulks {
            run_bulk(&mut keyspace, bulk, None);
            model_bulk(&mut map, &mut clock, bulk);
            keyspace.table().check();
            prop_assert_eq!(keyspace.account(), keyspace.recomputed_account());
            // Whatever is there of them, nothing comes of it.
            all.chunks(WARMED).for_each(|keys| keyspace.warm(keys.iter().map(|key| &key[..])));
            prop_assert!(seen(&keyspace) == map, "after {:?}", bulk);
            for (key, _) in members(0, 0) {
                prop_assert_eq!(keyspace.contains(&key), map.contains_key(&key));
            }
        }
    }

    #[test]
    fn copies_with_other_units_go_on_alike(before in bulks(12), after in bulks(12)) {
        let mut keyspace = fresh();
        before.iter().for_each(|bulk| run_bulk(&mut keyspace, bulk, None));
        let head = keyspace.begin_cut().to_bytes();
        let mut images = rest(&mut keyspace);
        images.reverse();
        let mut copy = restored(&head, images);
        prop_assert_eq!(copy.state_hash(), keyspace.state_hash());
        for bulk in &after {
            let named = keyspace.due_ranges(keyspace.clock(), SLOTS);
            run_bulk(&mut keyspace, bulk, Some(&named));
            run_bulk(&mut copy, bulk, Some(&named));
            prop_assert_eq!(keyspace.state_hash(), copy.state_hash());
            prop_assert_eq!(keyspace.account(), copy.account());
        }
    }

    #[test]
    fn a_cut_shows_its_moment_while_units_split_and_merge(before in bulks(10), during in bulks(10), steps in prop::collection::vec(0..3usize, 10)) {
        let mut keyspace = fresh();
        before.iter().for_each(|bulk| run_bulk(&mut keyspace, bulk, None));
        let hash = keyspace.state_hash();
        let head = keyspace.begin_cut().to_bytes();
        let mut images = Vec::new();
        for (bulk, steps) in during.iter().zip(&steps) {
            run_bulk(&mut keyspace, bulk, None);
            keyspace.table().check();
            for _ in 0..*steps {
                images.extend(keyspace.cut_next(1).into_iter().flatten());
            }
        }
        images.extend(rest(&mut keyspace));
        prop_assert_eq!(restored(&head, images).state_hash(), hash);
    }

    #[test]
    fn a_scan_of_split_slots_meets_every_key_once(bulks in bulks(10), count in 1..300usize) {
        let mut keyspace = fresh();
        bulks.iter().for_each(|bulk| run_bulk(&mut keyspace, bulk, None));
        let (mut met, mut cursor) = (Vec::new(), 0);
        loop {
            let (entries, next) = View::new(&keyspace, None).scan(cursor, count);
            prop_assert!(entries.len() <= count);
            met.extend(entries.iter().map(|entry| entry.key().to_vec()));
            if next == 0 {
                break;
            }
            cursor = next;
        }
        met.sort();
        prop_assert!(met.iter().eq(seen(&keyspace).keys()));
        // From any place the walk goes on in order.
        let all: Vec<(Slot, u64)> = keyspace.walk(Slot(0), 0).map(|found| (found.slot, found.hash)).collect();
        prop_assert!(all.windows(2).all(|pair| pair[0] <= pair[1]));
        for (at, (slot, hash)) in all.iter().enumerate().step_by(97) {
            prop_assert!(keyspace.walk(*slot, *hash).map(|found| (found.slot, found.hash)).eq(all[at..].iter().copied()));
            let row = Row::new(*slot, *hash);
            prop_assert!(row.is_of(keyspace.hash(keyspace.locate_row(row).unwrap().entry.key())));
        }
    }

    #[test]
    fn marks_stay_with_their_keys(bulks in bulks(12)) {
        let mut keyspace = fresh();
        keyspace.keep_marks(true);
        let mut marks: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
        for (round, bulk) in bulks.iter().enumerate() {
            run_bulk(&mut keyspace, bulk, None);
            marks.retain(|key, _| keyspace.locate(key).is_some());
            if matches!(bulk, Bulk::Clear | Bulk::Remove(_)) {
                continue;
            }
            for found in keyspace.walk(Slot(0), 0) {
                let mark = found.mark.unwrap();
                // A key that is new, or was removed and came again, begins at 0.
                let expected = marks.get(found.entry.key()).copied().unwrap_or(0);
                prop_assert_eq!(mark.load(Ordering::Relaxed), expected);
                if found.hash % 3 == 0 {
                    mark.store(round as u32 + 1, Ordering::Relaxed);
                    marks.insert(found.entry.key().to_vec(), round as u32 + 1);
                }
            }
        }
        keyspace.keep_marks(false);
        prop_assert!(keyspace.walk(Slot(0), 0).all(|found| found.mark.is_none()));
        keyspace.keep_marks(true);
        prop_assert!(keyspace.walk(Slot(0), 0).all(|found| found.mark.unwrap().load(Ordering::Relaxed) == 0));
    }
}

#[test]
fn a_slot_is_split_where_it_is_full_and_made_one_again_where_it_empties() {
    let mut keyspace = fresh();
    let slot = slot_of(&one_of_many(0));
    let units = |keyspace: &Keyspace| keyspace.table().units_of(slot).len();
    let set =
        |keyspace: &mut Keyspace, number: usize| keyspace.set(&one_of_many(number as u16), Value::text(b"v"), None);
    (0..SPLIT_ABOVE).for_each(|number| set(&mut keyspace, number));
    assert_eq!(units(&keyspace), 1);
    set(&mut keyspace, SPLIT_ABOVE);
    assert_eq!(units(&keyspace), 2);
    (0..9999).for_each(|number| set(&mut keyspace, number));
    assert!((10..=32).contains(&units(&keyspace)), "{}", units(&keyspace));
    (100..9999).for_each(|number| assert!(keyspace.remove(&one_of_many(number))));
    assert_eq!((units(&keyspace), keyspace.len()), (1, 100));
    keyspace.table().check();
}

#[test]
fn units_that_are_made_one_during_a_cut_are_both_in_it() {
    let mut keyspace = fresh();
    (0..3000).for_each(|number| keyspace.set(&one_of_many(number), Value::text(b"v"), None));
    // Two halves of one range hold a few keys too many to be one.
    let keys_of = |keyspace: &Keyspace, number: usize| -> Vec<Vec<u8>> {
        let unit = &keyspace.table().units_of(slot_of(&one_of_many(0)))[number];
        unit.entries().map(|entry| entry.key().to_vec()).collect()
    };
    assert_eq!(keyspace.table().units_of(slot_of(&one_of_many(0)))[0].sibling(), Some(1 << 30));
    for half in 0..2 {
        keys_of(&keyspace, half)[130..].iter().for_each(|key| assert!(keyspace.remove(key)));
    }
    let (units, hash) = (keyspace.table().units(), keyspace.state_hash());
    let head = keyspace.begin_cut().to_bytes();
    // The first half becomes one with the second, which nobody has touched since the cut.
    keys_of(&keyspace, 0)[..10].iter().for_each(|key| assert!(keyspace.remove(key)));
    assert!(keyspace.table().units() < units);
    let images = rest(&mut keyspace);
    assert_eq!(restored(&head, images).state_hash(), hash);
}

#[test]
fn drawing_finds_every_key_about_as_often() {
    let mut keyspace = fresh();
    // A slot of many units, one of some hundred keys and a few of one key.
    let mut keys: Vec<Vec<u8>> = (0..3000).chain(10_000..10_300).map(one_of_many).collect();
    keys.extend((0..20).map(|number| format!("alone{number}").into_bytes()));
    keys.iter().for_each(|key| keyspace.set(key, Value::text(b"v"), None));
    let mut drawn: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
    let rounds = 100 * keys.len();
    for _ in 0..rounds {
        let found = keyspace.draw_entry([keyspace.draw(), keyspace.draw()]).unwrap();
        *drawn.entry(found.entry.key().to_vec()).or_default() += 1;
    }
    assert_eq!(drawn.len(), keys.len());
    for (key, times) in drawn {
        assert!((40..=180).contains(&times), "{times} times instead of 100: {}", key.escape_ascii());
    }
    assert!(fresh().draw_entry([1, 2]).is_none());
}

#[test]
fn what_takes_long_to_free_is_left_to_others() {
    let mut keyspace = fresh();
    assert!(keyspace.take_garbage().is_none());
    let long = vec![b'x'; 1 << 20];
    keyspace.set(b"k", Value::text(&long), None);
    keyspace.set(b"k", Value::text(b"short"), None);
    assert!(keyspace.take_garbage().is_some(), "overwritten");
    keyspace.set(b"k", Value::text(&long), None);
    keyspace.remove(b"k");
    assert!(keyspace.take_garbage().is_some(), "removed");
    keyspace.set(b"k", Value::text(&long), Some(2000));
    keyspace.advance(&Stamp { now_ms: 2000, seed: 0 });
    keyspace.sweep(&[HashRange::whole(slot_of(b"k"))]);
    assert!(keyspace.take_garbage().is_some(), "swept");
    keyspace.set(b"k", Value::text(b"short"), None);
    keyspace.remove(b"k");
    assert!(keyspace.take_garbage().is_none(), "nothing long");
    keyspace.set(b"k", Value::text(b"short"), None);
    keyspace.clear();
    assert!(keyspace.take_garbage().is_some(), "flushed");
}

/// Through growth, splits, removals, sweeps and a restored snapshot: no key that is there is denied, and of absent ones
/// no more are taken for present than was asked for.
#[test]
fn filters_deny_no_key_that_is_there_and_most_that_are_not() {
    for rate in [0.001, 0.01, 0.05] {
        let precision = Precision::for_rate(rate).unwrap();
        let mut keyspace = Keyspace::with_filters(9, precision);
        // One slot, so that it splits, and many.
        let key = |n: u32| if n.is_multiple_of(2) { format!("{{one}}{n}") } else { format!("{n}") }.into_bytes();
        for n in 0..20_000 {
            keyspace.set(&key(n), Value::text(b"v"), (n % 10 == 0).then_some(10));
        }
        for n in (0..20_000).step_by(3) {
            keyspace.remove(&key(n));
        }
        keyspace.advance(&Stamp { now_ms: 10, seed: 0 });
        let due = keyspace.due_ranges(10, SLOTS);
        keyspace.sweep(&due);
        let head = keyspace.begin_cut().to_bytes();
        let images: Vec<_> = std::iter::from_fn(|| keyspace.cut_next(1 << 20)).flatten().collect();
        let images = images.into_iter().map(|image| Ok::<_, Infallible>(image.into_bytes()));
        let restored = Keyspace::restore(&head, images, precision).unwrap();
        for keyspace in [&keyspace, &restored] {
            for n in 0..20_000 {
                assert!(keyspace.might_contain(&key(n)) || !keyspace.contains(&key(n)), "{n}");
            }
            let mistaken = (100_000..200_000).filter(|n| keyspace.might_contain(&key(*n))).count();
            assert!(mistaken as f64 <= rate * 100_000.0 * 1.2, "{mistaken} of 100,000 at {rate}");
        }
    }
}

// -- Values of many elements

/// Something done to one of some collections, small and large.
#[derive(Debug, Clone)]
enum Many {
    /// So many fields from a number on, with values of this length, and for every third a deadline this far away.
    Fields(u8, u16, u16, usize, Option<u16>),
    NoFields(u8, u16, u16),
    /// So many elements of this length at an end.
    Push(u8, bool, u16, usize),
    Cut(u8, prop::sample::Index, u16),
    /// A copy, under another name.
    Copy(u8, u8),
    Remove(u8),
    Deadline(u8, u16),
    Pass(u16),
    /// What the leader names.
    Sweep,
    SweepRange(u8, u32, u32),
    /// Strings beside: units split, and join again.
    Strings(bool),
}

fn manys(most: usize) -> impl Strategy<Value = Vec<Many>> {
    let count = || prop_oneof![4 => 1..8u16, 2 => 50..300u16, 1 => 1000..3000u16];
    let length = || prop_oneof![6 => 0..20usize, 2 => 60..70usize, 1 => 1020..1030usize, 1 => 17_000..17_001usize];
    let few = |(count, length): (u16, usize)| (if length > 100 { count.min(5) } else { count }, length);
    let call = prop_oneof![
        6 => (0..6u8, 0..4000u16, (count(), length()).prop_map(few), prop::option::of(1..60u16))
            .prop_map(|(key, from, (n, length), after)| Many::Fields(key, from, n, length, after)),
        3 => (0..6u8, 0..4000u16, count()).prop_map(|(key, from, n)| Many::NoFields(key, from, n)),
        6 => (0..6u8, any::<bool>(), (count(), length()).prop_map(few)).prop_map(|(key, end, (n, length))| Many::Push(key, end, n, length)),
        3 => (0..6u8, any::<prop::sample::Index>(), count()).prop_map(|(key, at, n)| Many::Cut(key, at, n)),
        2 => (0..6u8, 0..6u8).prop_map(|(from, to)| Many::Copy(from, to)),
        1 => (0..6u8).prop_map(Many::Remove),
        1 => (0..6u8, 0..60u16).prop_map(|(key, after)| Many::Deadline(key, after)),
        3 => (0..30u16).prop_map(Many::Pass),
        3 => Just(Many::Sweep),
        2 => (0..6u8, any::<[u32; 2]>()).prop_map(|(key, [a, b])| Many::SweepRange(key, a.min(b), a.max(b))),
        1 => any::<bool>().prop_map(Many::Strings),
    ];
    prop::collection::vec(call, 0..most)
}

/// Six keys that share a slot with the strings.
fn many_key(number: u8) -> Vec<u8> {
    format!("{{0}}many{number}").into_bytes()
}

fn run_many(keyspace: &mut Keyspace, call: &Many, ranges: Option<&[HashRange]>) {
    let packing = keyspace.packing();
    let at = |keyspace: &Keyspace, after: &u16| Some(keyspace.clock() + Millis::from(*after));
    match call {
        Many::Fields(key, from, n, length, after) => {
            let deadline = after.and_then(|after| at(keyspace, &after)).unwrap_or(0);
            keyspace.change_or_create(
                &many_key(*key),
                || Value::Hash(HashValue::new()),
                |value| {
                    let Some(hash) = value.as_hash_mut() else { return Changed::No(()) };
                    for number in *from..from + n {
                        let deadline = if number % 3 == 0 { deadline } else { 0 };
                        hash.set(&number.to_le_bytes(), &vec![*key; *length], deadline, packing.hash);
                    }
                    Changed::Yes(())
                },
            );
        }
        Many::NoFields(key, from, n) => {
            keyspace.change(&many_key(*key), |value| {
                let Some(hash) = value.as_hash_mut() else { return Changed::No(()) };
                let gone = (*from..from + n).filter(|number| hash.remove(&number.to_le_bytes())).count();
                Changed::when(gone > 0, ())
            });
        }
        Many::Push(key, front, n, length) => {
            let elements: Vec<Bytes> = (0..*n).map(|n| vec![n as u8; *length].into()).collect();
            let end = if *front { End::Front } else { End::Back };
            keyspace.change_or_create(
                &many_key(*key),
                || Value::List(ListValue::new()),
                |value| {
                    let Some(list) = value.as_list_mut() else { return Changed::No(()) };
                    list.push(end, &elements, packing.list);
                    Changed::Yes(())
                },
            );
        }
        Many::Cut(key, at, n) => {
            keyspace.change(&many_key(*key), |value| {
                let Some(list) = value.as_list_mut() else { return Changed::No(()) };
                let length = list.as_ref().len();
                let at = at.index(length);
                list.remove(at..(at + usize::from(*n)).min(length), packing.list);
                Changed::Yes(())
            });
        }
        Many::Copy(from, to) => {
            if let Some(entry) = keyspace.get(&many_key(*from)) {
                let (value, deadline) = (entry.value().to_value(), entry.deadline());
                keyspace.set(&many_key(*to), value, deadline);
            }
        }
        Many::Remove(key) => drop(keyspace.remove(&many_key(*key))),
        Many::Deadline(key, after) => {
            let deadline = at(keyspace, after);
            keyspace.set_deadline(&many_key(*key), deadline);
        }
        Many::Pass(ms) => {
            let now_ms = keyspace.clock() + Millis::from(*ms);
            keyspace.advance(&Stamp { now_ms, seed: 0 });
        }
        Many::Sweep => {
            let own = keyspace.due_ranges(keyspace.clock(), SLOTS);
            keyspace.sweep(ranges.unwrap_or(&own));
        }
        Many::SweepRange(key, first, last) => {
            keyspace.sweep(&[HashRange { slot: slot_of(&many_key(*key)), first: *first, last: *last }]);
        }
        Many::Strings(there) => {
            for number in 0..1500 {
                match there {
                    true => keyspace.set(&one_of_many(number), Value::text(b"v"), None),
                    false => drop(keyspace.remove(&one_of_many(number))),
                }
            }
        }
    }
    drop(keyspace.take_garbage());
}

/// All that a reader can see of a key: what it is called, its deadline, and its living elements.
type Shown = (&'static str, Option<Millis>, Vec<(Vec<u8>, Vec<u8>, Millis)>);

fn shown(keyspace: &Keyspace) -> BTreeMap<Vec<u8>, Shown> {
    let view = View::new(keyspace, None);
    let elements = |value: ValueRef<'_>| match (value.as_hash(), value.as_list()) {
        (Some(hash), _) => {
            let living = hash.iter().filter(|field| view.is_alive_until(field.deadline));
            let mut all: Vec<_> = living.map(|f| (f.name.to_vec(), f.value.to_vec(), f.deadline)).collect();
            all.sort();
            all
        }
        (_, Some(list)) => list.iter_from(0).map(|element| (element.to_vec(), Vec::new(), 0)).collect(),
        _ => vec![(value.as_text().unwrap().to_vec(), Vec::new(), 0)],
    };
    let all = view.entries().map(|entry| {
        let value = entry.value();
        (entry.key().to_vec(), (value.type_name(), entry.deadline(), elements(value)))
    });
    all.collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Whatever the state went through, what is dead is seen by nobody, nothing is empty, and a sweep of everything due changes
    /// nothing that is seen.
    #[test]
    fn collections_are_kept_by_the_rules(calls in manys(40), ahead in 0..70u64) {
        let mut keyspace = fresh();
        for call in &calls {
            let (before, version) = (keyspace.state_hash(), keyspace.version());
            let clock = keyspace.clock();
            run_many(&mut keyspace, call, None);
            prop_assert_eq!(keyspace.account(), keyspace.recomputed_account());
            let moved = keyspace.version() > version || keyspace.clock() > clock;
            prop_assert_eq!(keyspace.state_hash() != before, moved, "{:?}", call);
            keyspace.table().check();
        }
        let now = keyspace.clock() + ahead;
        keyspace.advance(&Stamp { now_ms: now, seed: 0 });
        let before = shown(&keyspace);
        prop_assert!(before.values().all(|(_, _, elements)| !elements.is_empty()));
        let due = keyspace.due_ranges(now, SLOTS);
        keyspace.sweep(&due);
        prop_assert!(keyspace.due_ranges(now, SLOTS).is_empty());
        prop_assert_eq!(keyspace.len(), before.len() as u64);
        prop_assert_eq!(shown(&keyspace), before);
        prop_assert_eq!(keyspace.account(), keyspace.recomputed_account());
    }

    /// A copy has other units, other runs and other hints, and goes on alike.
    #[test]
    fn copies_of_collections_go_on_alike(before in manys(30), after in manys(20)) {
        let mut keyspace = fresh();
        before.iter().for_each(|call| run_many(&mut keyspace, call, None));
        let head = keyspace.begin_cut().to_bytes();
        let mut images = rest(&mut keyspace);
        images.reverse();
        let mut copy = restored(&head, images);
        prop_assert_eq!(copy.state_hash(), keyspace.state_hash());
        prop_assert_eq!(copy.account(), keyspace.account());
        for call in &after {
            let named = keyspace.due_ranges(keyspace.clock(), SLOTS);
            run_many(&mut keyspace, call, Some(&named));
            run_many(&mut copy, call, Some(&named));
            prop_assert_eq!(keyspace.version(), copy.version());
            prop_assert_eq!(keyspace.state_hash(), copy.state_hash());
            prop_assert_eq!(keyspace.account(), copy.account());
        }
        prop_assert_eq!(shown(&keyspace), shown(&copy));
    }

    #[test]
    fn a_cut_shows_collections_as_they_were(before in manys(30), during in manys(20), steps in prop::collection::vec(0..3usize, 20)) {
        let mut keyspace = fresh();
        before.iter().for_each(|call| run_many(&mut keyspace, call, None));
        let (hash, moment) = (keyspace.state_hash(), shown(&keyspace));
        let head = keyspace.begin_cut().to_bytes();
        let mut images = Vec::new();
        for (call, steps) in during.iter().zip(&steps) {
            run_many(&mut keyspace, call, None);
            for _ in 0..*steps {
                images.extend(keyspace.cut_next(1).into_iter().flatten());
            }
        }
        images.extend(rest(&mut keyspace));
        let copy = restored(&head, images);
        prop_assert_eq!(copy.state_hash(), hash);
        prop_assert_eq!(shown(&copy), moment);
    }
}

#[test]
fn a_key_dies_with_the_last_of_its_fields() {
    let mut keyspace = fresh();
    let limits = keyspace.packing().hash;
    let mut hash = HashValue::new();
    hash.set(b"a", b"1", 2000, limits);
    hash.set(b"b", b"2", 3000, limits);
    keyspace.set(b"k", Value::Hash(hash.clone()), None);
    keyspace.advance(&Stamp { now_ms: 2999, seed: 0 });
    assert!(keyspace.contains(b"k"));
    let view = View::new(&keyspace, Some(3000));
    assert!(view.contains(b"k") && view.needs_tick(), "it is about to die");
    keyspace.advance(&Stamp { now_ms: 3000, seed: 0 });
    assert!(!keyspace.contains(b"k") && keyspace.len() == 1, "until the sweep");
    // What is written to it now begins anew.
    let set = |value: &mut Value| {
        value.as_hash_mut().unwrap().set(b"c", b"3", 0, limits);
        Changed::Yes(())
    };
    assert_eq!(keyspace.change(b"k", set), None);
    keyspace.change_or_create(b"k", || Value::Hash(HashValue::new()), set);
    assert_eq!(keyspace.get(b"k").unwrap().value().as_hash().unwrap().len(), 1);
    keyspace.set(b"k", Value::Hash(hash), None);
    assert_eq!(keyspace.sweep(&[HashRange::whole(slot_of(b"k"))]), 1);
    assert!(keyspace.is_empty() && keyspace.next_deadline().is_none());
    assert_eq!(keyspace.account(), keyspace.recomputed_account());
}
