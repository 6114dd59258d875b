//! Both kinds of filter against what was put into them, and their bytes.

use super::*;
use crate::state::{CuckooShape, CuckooValue};
use proptest::prelude::*;

fn item(number: u64) -> Vec<u8> {
    format!("item:{number}").into_bytes()
}

fn add(filter: &mut CuckooValue, number: u64) -> bool {
    let plan = filter.plan(&item(number));
    if let Ok(plan) = &plan {
        filter.insert(plan);
    }
    plan.is_ok()
}

/// A filter loaded from the dump of another one, piece by piece; what is dumped first is made into bytes and back.
fn dumped_and_loaded(filter: &CuckooValue) -> CuckooValue {
    let Some(Piece { mut next, bytes }) = filter.dump(0) else { return filter.clone() };
    assert_eq!(next, 1);
    let mut copy = CuckooValue::from_header(&bytes).unwrap();
    while let Some(piece) = filter.dump(next) {
        assert!(copy.is_loading());
        next = piece.next;
        copy.load(next, &piece.bytes).unwrap();
        copy = CuckooValue::from_bytes(&copy.to_bytes()).unwrap();
        assert_eq!(copy.load(next, &piece.bytes), Ok(()), "a repeated piece changes nothing");
    }
    assert!(!copy.is_loading());
    copy
}

fn shapes() -> impl Strategy<Value = CuckooShape> {
    let sizes = prop_oneof![Just(1u8), Just(2), Just(3), Just(4), Just(255)];
    (1..3000u32, sizes, prop_oneof![1..50u16, Just(65_535)], 0..5u16).prop_map(|(capacity, size, kicks, expansion)| {
        CuckooShape::new(capacity.max(u32::from(size) * 2), size, kicks, expansion)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn what_was_added_is_found_and_counted(
        shape in shapes(),
        steps in prop::collection::vec((any::<bool>(), any::<u32>()), 0..1000),
        different in prop_oneof![1..40u64, 1..5000u64],
    ) {
        let mut filter = CuckooValue::new(shape);
        let mut held = std::collections::BTreeMap::<u64, u64>::new();
        for (add_it, draw) in steps {
            let number = u64::from(draw) % different;
            // Copies of few items need a layer for every few of them: not too many, or the layers become huge.
            if filter.weight() < 50_000 && (add_it || draw % 3 == 0) {
                if add(&mut filter, number) {
                    *held.entry(number).or_default() += 1;
                }
            } else if let Some(copies) = held.get_mut(&number) {
                // Only what was added is removed: that is what a filter asks of its users.
                prop_assert!(filter.remove(&item(number)));
                *copies -= 1;
                if *copies == 0 {
                    held.remove(&number);
                }
            }
        }
        prop_assert_eq!(filter.items(), held.values().sum::<u64>());
        for copy in [&filter, &dumped_and_loaded(&filter), &CuckooValue::from_bytes(&filter.to_bytes()).unwrap()] {
            prop_assert_eq!(copy, &filter);
            for (number, copies) in &held {
                prop_assert!(copy.contains(&item(*number)) && copy.count(&item(*number)) >= *copies, "{}", number);
            }
        }
    }

    #[test]
    fn bloom_filters_find_what_was_added(
        rate in 1e-6..0.3f64,
        capacity in 1..500u64,
        expansion in 0..4u32,
        items in prop::collection::vec(0..1000u64, 0..500),
    ) {
        let mut filter = BloomValue::new(BloomShape::new(rate, capacity, expansion).unwrap());
        let mut held = std::collections::BTreeSet::new();
        for number in items {
            match filter.add(&item(number)) {
                Ok(_) => {
                    held.insert(number);
                }
                Err(full) => {
                    prop_assert!(full == BloomFull::NoLayer || (expansion == 0 && filter.items() == capacity));
                }
            }
        }
        let stored = BloomValue::from_bytes(&filter.to_bytes()).unwrap();
        prop_assert_eq!(&stored, &filter);
        for number in &held {
            prop_assert!(stored.contains(&item(*number)));
        }
        prop_assert!(filter.items() <= held.len() as u64);
    }

    #[test]
    fn garbage_is_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        let _ = CuckooValue::from_bytes(&bytes);
        let _ = BloomValue::from_bytes(&bytes);
        let magic = |magic: &[u8]| sealed([magic, &[1], &bytes].concat());
        let _ = CuckooValue::from_header(&magic(b"HCCF"));
        let mut filter = CuckooValue::new(CuckooShape::new(64, 2, 20, 1));
        let _ = filter.load(u64::from(bytes.len() as u32), &magic(b"HCCP"));
        prop_assert_eq!(filter, CuckooValue::new(CuckooShape::new(64, 2, 20, 1)));
    }
}

#[test]
fn a_hundred_copies_of_an_item_are_counted_one_by_one() {
    let mut filter = CuckooValue::new(CuckooShape::new(1024, 2, 20, 1));
    (0..500).for_each(|number| assert!(add(&mut filter, number)));
    (0..50).for_each(|_| assert!(add(&mut filter, 1000)));
    assert!(filter.count(&item(1000)) >= 50);
    for left in (0..50).rev() {
        assert!(filter.remove(&item(1000)));
        assert!((0..500).all(|number| filter.contains(&item(number))), "{left} left");
    }
    assert_eq!((filter.items(), filter.deletes()), (500, 50));
    // Four copies lie in a layer: thirty-two layers take no more than 128.
    let fits = (0..1000).take_while(|_| add(&mut filter, 1000)).count();
    assert!((100..=128).contains(&fits), "{fits}");
    assert_eq!(filter.plan(&item(1000)), Err(CuckooFull::NoLayer));
}

#[test]
fn a_filter_fills_well_and_grows_by_its_expansion() {
    let mut filter = CuckooValue::new(CuckooShape::new(10_000, 4, 500, 2));
    let first = (0..).take_while(|number| add(&mut filter, *number) && filter.layers() == 1).count();
    assert!(first * 100 > filter.shape().bytes() as usize * 90, "{first} of {}", filter.shape().bytes());
    let weight = filter.weight();
    let second = (1_000_000..).take_while(|number| add(&mut filter, *number) && filter.layers() == 2).count();
    assert!(second > first, "{second} {first}");
    assert!(filter.weight() > weight * 2);
    // The newest layer goes when it is empty, and what it took goes with it.
    for number in (1_000_000..1_000_000 + second as u64).rev() {
        assert!(filter.remove(&item(number)));
    }
    assert!((0..first as u64).all(|number| filter.contains(&item(number))));
    assert!(filter.layers() <= 3);
}

#[test]
fn a_filter_that_may_not_grow_says_so() {
    let mut filter = CuckooValue::new(CuckooShape::new(4, 2, 20, 0));
    let fits = (0..100).filter(|number| add(&mut filter, *number)).count();
    assert!((3..=4).contains(&fits));
    assert_eq!((fits as u64, filter.layers()), (filter.items(), 1));

    // A layer that would be too large is not made, whatever the expansion.
    let mut filter = CuckooValue::new(CuckooShape::new(1 << 16, 1, 1, 32_768));
    let fits = (0..1 << 20).take_while(|number| add(&mut filter, *number)).count();
    assert!(fits < 1 << 16 && filter.layers() == 1);
    assert_eq!(filter.plan(&item(fits as u64)), Err(CuckooFull::NoLayer));
}

#[test]
fn every_damage_of_a_dump_is_noticed() {
    let mut filter = CuckooValue::new(CuckooShape::new(64, 2, 20, 1));
    (0..100).for_each(|number| assert!(add(&mut filter, number)));
    let header = filter.dump(0).unwrap().bytes;
    let piece = filter.dump(1).unwrap();
    let empty = CuckooValue::from_header(&header).unwrap();
    assert_eq!(CuckooValue::header_bytes(&header), Some(filter.layers() as u64 * filter.shape().bytes()));
    for at in 0..header.len() {
        let mut damaged = header.clone();
        damaged[at] ^= 1;
        assert_eq!(CuckooValue::from_header(&damaged), Err(LoadError::Header), "byte {at}");
        assert!(CuckooValue::from_header(&header[..at]).is_err());
    }
    for at in 0..piece.bytes.len() {
        let mut damaged = piece.bytes.clone();
        damaged[at] ^= 1;
        let mut copy = empty.clone();
        assert_eq!(copy.load(piece.next, &damaged), Err(LoadError::Piece), "byte {at}");
        assert_eq!(copy.load(piece.next, &piece.bytes[..at]), Err(LoadError::Piece));
        assert_eq!(copy, empty);
    }
    for next in [0, 1, piece.next - 1, piece.next + 1, u64::MAX] {
        assert_eq!(empty.clone().load(next, &piece.bytes), Err(LoadError::Piece), "as if it ended at {next}");
    }
    let second = filter.dump(piece.next).unwrap();
    assert_eq!(empty.clone().load(second.next, &second.bytes), Err(LoadError::Piece), "the first is missing");
}

#[test]
fn pieces_of_two_states_do_not_fit_together() {
    let mut filter = CuckooValue::new(CuckooShape::new(64, 2, 20, 1));
    (0..60).for_each(|number| assert!(add(&mut filter, number)));
    let mut copy = CuckooValue::from_header(&filter.dump(0).unwrap().bytes).unwrap();
    assert!(filter.remove(&item(3)) && add(&mut filter, 3));
    let later = filter.dump(1).unwrap();
    assert_eq!(copy.load(later.next, &later.bytes), Err(LoadError::Piece));
}

#[test]
fn a_large_dump_comes_in_bounded_pieces() {
    let mut filter = CuckooValue::new(CuckooShape::new(5 << 20, 2, 20, 1));
    (0..1000).for_each(|number| assert!(add(&mut filter, number)));
    let mut position = 1;
    let mut pieces = 0;
    while let Some(piece) = filter.dump(position) {
        assert!(piece.bytes.len() <= PIECE_MAX + 64);
        (position, pieces) = (piece.next, pieces + 1);
    }
    assert_eq!(pieces, 8);
    assert_eq!(dumped_and_loaded(&filter), filter);
    assert_eq!(CuckooValue::new(filter.shape()).dump(0), None, "there is nothing to tell of an empty filter");
}

#[test]
fn what_does_not_fit_is_not_made() {
    let shape = CuckooShape::new(1 << 30, 1, 20, 1);
    assert_eq!(shape.bytes(), 1 << 30);
    let mut header = CuckooValue::new(CuckooShape::new(4, 2, 20, 1));
    assert!(add(&mut header, 1));
    let mut bytes = header.dump(0).unwrap().bytes;
    bytes[5..9].copy_from_slice(&(1u32 << 31).to_le_bytes());
    let unsealed = bytes.len() - 8;
    let huge = sealed(bytes[..unsealed].to_vec());
    assert_eq!(CuckooValue::from_header(&huge), Err(LoadError::TooLarge));
    assert_eq!(CuckooValue::header_bytes(&huge), Some(1 << 32));
}

/// Half the configured rate and the expansion of capacities are the reason why a chain keeps its rate.
#[test]
fn bloom_filters_keep_their_rate() {
    for (rate, expansion) in [(0.1, 2), (0.01, 2), (0.001, 4), (0.01, 0), (0.02, 1)] {
        let capacity = if expansion == 0 { 20_000 } else { 3000 };
        let mut filter = BloomValue::new(BloomShape::new(rate, capacity, expansion).unwrap());
        (0..20_000).for_each(|number| assert!(filter.add(&item(number)).is_ok()));
        let found = (1 << 40..(1 << 40) + 200_000).filter(|number| filter.contains(&item(*number))).count();
        assert!(found as f64 / 200_000.0 <= rate, "{rate} {expansion}: {found} of 200,000");
    }
}

/// If one of these fails, a snapshot on someone's disk would be read wrongly: add a format, change none.
#[test]
fn the_bytes_are_golden() {
    let mut cuckoo = CuckooValue::new(CuckooShape::new(8, 2, 20, 1));
    (0..12).for_each(|number| assert!(add(&mut cuckoo, number)));
    assert!(cuckoo.remove(&item(3)));
    let mut bloom = BloomValue::new(BloomShape::new(0.01, 4, 2).unwrap());
    (0..9).for_each(|number| assert_eq!(bloom.add(&item(number)), Ok(true)));
    assert_eq!(bloom.layer_sizes(), [(4, 64, 8), (8, 128, 9)]);
    let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(hex(cuckoo.to_bytes()), GOLDEN_CUCKOO);
    assert_eq!(hex(cuckoo.dump(0).unwrap().bytes), GOLDEN_HEADER);
    assert_eq!(hex(cuckoo.dump(1).unwrap().bytes), GOLDEN_PIECE);
    assert_eq!(hex(bloom.to_bytes()), GOLDEN_BLOOM);
}

const GOLDEN_CUCKOO: &str = "010400000002140001000100000000000000020005000000000000000600000000000000100000000000000000001dc7001e43676358ded2efb60000";
const GOLDEN_HEADER: &str =
    "48434346010400000002140001000100000000000000020005000000000000000600000000000000321e0cae06b1fada";
const GOLDEN_PIECE: &str = "484343500100000000000000000b00000000000000010000000000000000001dc7001e436737945e6dcb0ce429";
const GOLDEN_BLOOM: &str = "017b14ae47e17a843f0400000000000000020000000200040000000000000005000000000000003c80032c308ae20e1830560826842a40c40c240c8d8c104f";
