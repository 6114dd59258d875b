//! Slots that move between two keyspaces: what arrives, what stays, and that replicas agree at every step.

use super::handover::Sent;
use super::*;
use crate::state::{HashValue, NotTaken, Place, Progress, SlotSet};
use crate::types::SLOTS;
use bytes::Bytes;
use proptest::prelude::*;

/// A group of replicas that lie differently in memory, because one of them was restored from a snapshot on the way.
struct Twins(Vec<Keyspace>);

impl Twins {
    fn new(seed: u64, clock: Millis) -> Twins {
        let mut twins = Twins(vec![Keyspace::new(seed), Keyspace::new(seed)]);
        twins.each(|keyspace| keyspace.advance(&Stamp { now_ms: clock, seed: 0 }));
        twins
    }

    fn each<R: PartialEq + std::fmt::Debug>(&mut self, change: impl Fn(&mut Keyspace) -> R) -> R {
        let mut results = self.0.iter_mut().map(&change);
        let first = results.next().unwrap();
        assert!(results.all(|result| result == first));
        assert_eq!(self.0[0].state_hash(), self.0[1].state_hash(), "replicas that applied the same are equal");
        for keyspace in &self.0 {
            assert!(keyspace.accounts_are_right());
            keyspace.table().check();
        }
        first
    }

    /// The second replica is made anew out of a snapshot of the first.
    fn restart(&mut self) {
        let head = self.0[0].begin_cut();
        let mut images = Vec::new();
        while let Some(more) = self.0[0].cut_next(usize::MAX) {
            images.extend(more.into_iter().map(|image| Ok::<_, String>(image.into_bytes())));
        }
        self.0[1] = Keyspace::restore(&head.to_bytes(), images.into_iter(), Precision::default()).unwrap();
        assert_eq!(self.0[1].ownership(), self.0[0].ownership());
        self.each(|_| ());
    }
}

fn slots_of(keys: &[Vec<u8>]) -> SlotSet {
    keys.iter().map(|key| slot_of(key)).collect()
}

/// Ships everything in parts of `bytes`, each read from another replica and sent twice; replicas restart in the middle.
fn ship(id: u64, source: &mut Twins, target: &mut Twins, bytes: usize) -> usize {
    let (mut next, mut parts) = (Place::FIRST, 0);
    loop {
        let replica = &source.0[parts % 2];
        let excerpt = replica.hand_over(id, next, bytes, 0).expect("it is frozen");
        let other = source.0[(parts + 1) % 2].hand_over(id, next, bytes, 0).unwrap();
        let sent = excerpt.sent;
        let images = excerpt.into_images();
        assert_eq!(images, other.into_images(), "every replica tells the same");
        let progress = target.each(|keyspace| keyspace.install_slots(id, sent, &images));
        assert_eq!(target.each(|keyspace| keyspace.install_slots(id, sent, &images)), progress, "once is enough");
        parts += 1;
        if parts % 3 == 1 {
            source.restart();
            target.restart();
        }
        match progress {
            Ok(Progress::Expects(place)) => next = place,
            Ok(Progress::Whole) => return parts,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn values_lifetimes_and_versions_arrive_and_nothing_else_does() {
    let (mut source, mut target) = (Twins::new(1, 5_000), Twins::new(2, 9_000_000));
    let keys: Vec<Vec<u8>> = (0..400).map(|n| format!("{{m{}}}{n}", n % 40).into_bytes()).collect();
    let moving = slots_of(&keys);
    source.each(|keyspace| {
        keyspace.found_ownership((0..SLOTS as u16).map(Slot).collect());
        for (n, key) in keys.iter().enumerate() {
            let deadline = (n % 3 == 0).then_some(6_000 + n as u64);
            keyspace.set(key, Value::text(format!("value {n}").as_bytes()), deadline);
        }
        keyspace.set(b"stays", Value::text(b"here"), None);
        let mut hash = HashValue::new();
        hash.set(b"f", b"v", 5_700, keyspace.packing().hash);
        hash.set(b"g", b"w", 0, keyspace.packing().hash);
        hash.set(b"gone", b"x", 5_400, keyspace.packing().hash);
        keyspace.set(b"{m1}hash", Value::Hash(hash), None);
        keyspace.set(b"{m1}dead", Value::text(b"soon"), Some(5_001));
        keyspace.advance(&Stamp { now_ms: 5_500, seed: 0 });
    });
    target.each(|keyspace| keyspace.found_ownership(SlotSet::default()));
    let expected = target.each(|keyspace| keyspace.expect_slots(3, moving.clone()));
    assert_eq!(expected, Ok(Progress::Expects(Place::FIRST)));
    assert_eq!(source.each(|keyspace| keyspace.freeze_slots(3, moving.clone())), Ok(Progress::Whole));
    assert!(ship(3, &mut source, &mut target, 700) > 10, "it went in parts");
    // Nobody sees what is on its way, and it does not change.
    let keyspace = &target.0[0];
    assert_eq!((keyspace.visible_len(), keyspace.len() > 300), (0, true));
    assert_eq!(keyspace.walk(Slot(0), 0).count(), 0);
    let whole: Vec<HashRange> = moving.iter().map(HashRange::whole).collect();
    for twins in [&mut source, &mut target] {
        twins.each(|keyspace| {
            keyspace.at_clock(u64::MAX, |_| ());
            keyspace.sweep(&whole)
        });
    }
    assert!(!target.each(|keyspace| keyspace.evict(&keys[1], keyspace.locate(&keys[1]).unwrap().entry.version())));
    assert!(source.0[0].due_ranges(u64::MAX, 100).is_empty());

    assert_eq!(target.each(|keyspace| keyspace.activate_slots(3)), Ok(Progress::Ended));
    assert_eq!(source.each(|keyspace| keyspace.drop_slots(3)), Ok(Progress::Ended));
    let (from, to) = (&source.0[0], &target.0[0]);
    for (n, key) in keys.iter().enumerate() {
        let (was, is) = (from.locate(key).unwrap().entry, to.get(key).unwrap());
        assert_eq!((is.value().to_value(), is.version()), (was.value().to_value(), was.version()));
        let left = |deadline: Option<Millis>, clock: Millis| deadline.map(|deadline| deadline - clock);
        assert_eq!(left(is.deadline(), to.clock()), left(was.deadline(), from.clock()), "{n}");
        assert_eq!(to.clock() - is.written_ms(), from.clock() - was.written_ms());
    }
    let Value::Hash(hash) = to.get(b"{m1}hash").unwrap().value().to_value() else { panic!() };
    assert_eq!(hash.as_ref().get(b"f").unwrap().deadline, to.clock() + 200);
    assert!(hash.as_ref().get(b"gone").is_none(), "a field that was dead by the source's clock lives again");
    let was = from.locate(b"{m1}hash").unwrap().entry.version();
    assert!(to.get(b"{m1}hash").unwrap().version() > was, "who watches is told");
    assert!(!to.contains(b"{m1}dead") && to.locate(b"{m1}dead").is_none(), "the dead stay behind");
    assert!(to.version() >= from.version() - 1, "what is written next has a version of its own");
    assert_eq!((from.visible_len(), from.walk(Slot(0), 0).count()), (1, 1));

    let mut steps = 0;
    while source.each(|keyspace| keyspace.clear_departed(50)) {
        steps += 1;
    }
    assert!(steps >= 7 && source.0[0].len() == 1 && source.0[0].contains(b"stays"));
}

#[test]
fn a_handover_that_comes_to_nothing_leaves_the_source_as_it_was() {
    let (mut source, mut target) = (Twins::new(1, 100), Twins::new(2, 100));
    let keys: Vec<Vec<u8>> = (0..50).map(|n| format!("k{n}").into_bytes()).collect();
    let moving = slots_of(&keys);
    source.each(|keyspace| {
        keyspace.found_ownership((0..SLOTS as u16).map(Slot).collect());
        keys.iter().for_each(|key| keyspace.set(key, Value::text(b"v"), None));
    });
    target.each(|keyspace| keyspace.found_ownership(SlotSet::default()));
    target.each(|keyspace| keyspace.expect_slots(1, moving.clone())).unwrap();
    source.each(|keyspace| keyspace.freeze_slots(1, moving.clone())).unwrap();
    let excerpt = source.0[0].hand_over(1, Place::FIRST, 100, 0).unwrap();
    let sent = excerpt.sent;
    let images = excerpt.into_images();
    target.each(|keyspace| keyspace.install_slots(1, sent, &images)).unwrap();
    assert_eq!(target.each(|keyspace| keyspace.activate_slots(1)), Err(NotTaken::Unfinished));
    for twins in [&mut source, &mut target] {
        assert_eq!(twins.each(|keyspace| keyspace.abort_handover(1)), Ok(Progress::Ended));
    }
    assert!(source.0[0].hand_over(1, Place::FIRST, 100, 0).is_none());
    assert!(keys.iter().all(|key| source.0[0].contains(key) && source.0[0].may_change(slot_of(key))));
    // What came late is not installed, and what came before is cleared before others may come.
    assert_eq!(target.each(|keyspace| keyspace.install_slots(1, sent, &images)), Ok(Progress::Ended));
    assert_eq!(target.each(|keyspace| keyspace.expect_slots(2, moving.clone())), Err(NotTaken::Leftovers));
    while target.each(|keyspace| keyspace.clear_departed(3)) {}
    assert!(target.0[0].is_empty());
    assert!(target.each(|keyspace| keyspace.expect_slots(2, moving.clone())).is_ok());
}

#[test]
fn what_is_damaged_or_of_other_slots_is_not_installed() {
    let mut source = Twins::new(1, 100);
    source
        .each(|keyspace| {
            keyspace.found_ownership((0..SLOTS as u16).map(Slot).collect());
            keyspace.set(b"a", Value::text(b"v"), None);
            keyspace.freeze_slots(1, slots_of(&[b"a".to_vec()]))
        })
        .unwrap();
    let images = source.0[0].hand_over(1, Place::FIRST, 100, 0).unwrap().into_images();
    let sent = Sent { from: Place::FIRST, next: None, version: 9, removed: 0, clock: 100 };
    let mut other = Twins::new(2, 100);
    other
        .each(|keyspace| {
            keyspace.found_ownership(SlotSet::default());
            keyspace.expect_slots(1, slots_of(&[b"b".to_vec()]))
        })
        .unwrap();
    assert_eq!(other.each(|keyspace| keyspace.install_slots(1, sent, &images)), Err(NotTaken::Damaged));
    let damaged = [Bytes::from([&images[0][..], b"x"].concat())];
    assert_eq!(other.each(|keyspace| keyspace.install_slots(1, sent, &damaged)), Err(NotTaken::Damaged));
    assert!(other.0[0].is_empty() && other.0[0].version() == 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// To and fro in parts of any size, with writes to other slots between: no key is lost or changed.
    #[test]
    fn keys_survive_any_number_of_moves(
        moves in prop::collection::vec((prop::collection::vec(0..30u16, 1..20), 50..2_000usize, any::<bool>()), 1..6),
    ) {
        let mut groups = [Twins::new(1, 1_000), Twins::new(2, 2_000)];
        let keys: Vec<Vec<u8>> = (0..150).map(|n| format!("{{t{}}}{n}", n % 30).into_bytes()).collect();
        let tags: Vec<Slot> = (0..30).map(|n| slot_of(format!("t{n}").as_bytes())).collect();
        let all: SlotSet = (0..SLOTS as u16).map(Slot).collect();
        groups[0].each(|keyspace| keyspace.found_ownership(all.clone()));
        groups[1].each(|keyspace| keyspace.found_ownership(SlotSet::default()));
        let mut owner = [0; 30];
        groups[0].each(|keyspace| keys.iter().for_each(|key| keyspace.set(key, Value::text(key), Some(1_000_000))));
        for (number, (chosen, bytes, to)) in moves.into_iter().enumerate() {
            let (id, to) = (number as u64 + 1, usize::from(to));
            let chosen: Vec<u16> = chosen.into_iter().filter(|tag| owner[usize::from(*tag)] != to).collect();
            if chosen.is_empty() {
                continue;
            }
            let moving: SlotSet = chosen.iter().map(|tag| tags[usize::from(*tag)]).collect();
            let [first, second] = &mut groups;
            let (source, target) = if to == 1 { (first, second) } else { (second, first) };
            while target.each(|keyspace| keyspace.clear_departed(20)) {}
            target.each(|keyspace| keyspace.expect_slots(id, moving.clone())).unwrap();
            source.each(|keyspace| keyspace.freeze_slots(id, moving.clone())).unwrap();
            let key = format!("w{number}");
            target.each(|keyspace| keyspace.set(key.as_bytes(), Value::text(b"x"), None));
            ship(id, source, target, bytes);
            target.each(|keyspace| keyspace.activate_slots(id)).unwrap();
            source.each(|keyspace| keyspace.drop_slots(id)).unwrap();
            chosen.iter().for_each(|tag| owner[usize::from(*tag)] = to);
        }
        for (n, key) in keys.iter().enumerate() {
            let found = groups[owner[n % 30]].0[0].get(key).expect("no key is lost");
            let text = found.value().as_text().unwrap().to_bytes(0);
            prop_assert_eq!(&text[..], &key[..]);
            prop_assert!(!groups[1 - owner[n % 30]].0[0].ownership().owns(slot_of(key)));
        }
    }
}
