//! The keyspace under random calls: against a plain map, against its twin, and cut while it changes.

use super::{Keyspace, SlotImage, Value, View};
use crate::slot::slot_of;
use crate::types::{Millis, SLOTS, Slot, Stamp};
use bytes::BytesMut;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::convert::Infallible;

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
            let due = keyspace.due_slots(keyspace.clock(), SLOTS);
            keyspace.sweep(&due);
        }
        Call::SweepOne(k) => {
            keyspace.sweep(&[slot_of(&key(*k)), Slot(u16::MAX)]);
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
            let bytes = entry.value().as_text().unwrap().bytes.to_vec();
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
    Keyspace::restore(head, images.into_iter().map(|image| Ok::<_, Infallible>(image.bytes))).unwrap()
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
        let mut expected: Vec<Slot> = keyspace
            .tables()
            .filter(|(_, table)| table.iter().any(|entry| entry.is_dead(now)))
            .map(|(slot, _)| slot)
            .collect();
        if !expected.is_empty() {
            prop_assert!(keyspace.next_deadline().unwrap() <= now);
        }
        let mut due = keyspace.due_slots(now, SLOTS);
        due.sort();
        expected.sort();
        prop_assert_eq!(&due, &expected);
        prop_assert!(keyspace.due_slots(now, 1).len() == expected.len().min(1));
        // Once swept, nothing is due any more.
        keyspace.advance(&Stamp { now_ms: now, seed: 0 });
        let visible = keyspace.len() - keyspace.sweep(&due);
        prop_assert_eq!(visible, seen(&keyspace).len() as u64);
        prop_assert!(keyspace.due_slots(now, SLOTS).is_empty());
    }

    #[test]
    fn replicas_that_applied_the_same_are_the_same(calls in calls(60), more in calls(10)) {
        let (mut left, mut right) = (fresh(), fresh());
        for call in &calls {
            run(&mut left, call);
            // A replica's own looking around leaves no trace.
            right.due_slots(u64::MAX, 3);
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
        for (call, slots) in during.iter().zip(&steps) {
            run(&mut keyspace, call);
            if *slots > 0 {
                images.extend(keyspace.cut_next(*slots));
            }
        }
        loop {
            let more = keyspace.cut_next(2);
            if more.is_empty() {
                break;
            }
            images.extend(more);
        }
        let copy = restored(&head, images);
        prop_assert_eq!(copy.state_hash(), hash);
        prop_assert_eq!(seen(&copy), moment);
        prop_assert_eq!(copy.account(), copy.recomputed_account());
        // The cut is over: another may begin, and shows what is there now.
        let head = keyspace.begin_cut().to_bytes();
        let images = keyspace.cut_next(SLOTS);
        prop_assert_eq!(restored(&head, images).state_hash(), keyspace.state_hash());
    }

    #[test]
    fn a_copy_goes_on_as_the_original(before in calls(40), after in calls(40)) {
        let mut keyspace = fresh();
        before.iter().for_each(|call| run(&mut keyspace, call));
        let head = keyspace.begin_cut().to_bytes();
        let images = keyspace.cut_next(SLOTS);
        keyspace.abort_cut();
        let mut copy = restored(&head, images);
        for call in &after {
            // Hints differ between the two; what a sweep names comes from the log.
            let named = matches!(call, Call::Sweep).then(|| keyspace.due_slots(keyspace.clock(), SLOTS));
            match named {
                Some(slots) => {
                    prop_assert_eq!(keyspace.sweep(&slots), copy.sweep(&slots));
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
    keyspace.sweep(&[slot_of(b"k")]);
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
    let ttl: fn(&View<'_>) = |view| assert_eq!(view.remaining(view.get(b"k").unwrap()), Some(500));
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
    let images = keyspace.cut_next(SLOTS);
    let restore = |images: &[SlotImage]| {
        let images = images.iter().map(|image| Ok::<_, Infallible>(image.bytes.clone()));
        Keyspace::restore(&head, images).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(restore(&images), Ok(()));
    assert!(restore(&images[1..]).unwrap_err().contains("missing"));
    let twice = [&images[..], &images[..1]].concat();
    assert!(restore(&twice).unwrap_err().contains("twice"));
    let failing = std::iter::once(Err::<Vec<u8>, _>("the disk is gone"));
    assert!(Keyspace::restore(&head, failing).unwrap_err().to_string().contains("the disk is gone"));
}

#[test]
fn an_empty_keyspace_is_small() {
    // A pointer a slot; everything else comes with the first key, the hints with the first deadline.
    assert!(SLOTS * size_of::<usize>() + size_of::<Keyspace>() < 300 << 10);
}
