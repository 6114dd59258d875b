//! Keys as somebody makes them who knows the seed of a group's hashes: the hash is no cryptographic one, so a key can be
//! found for any hash at once. Nothing may break on such keys, whatever they cost.

use super::cuckoo::Precision;
use super::eviction::{Candidates, Row};
use super::table::SPLIT_ABOVE;
use super::unit::hash_of;
use super::{Chooser, HashRange, Keyspace, Leaving, Value, View};
use crate::slot::slot_of;
use crate::types::{SLOTS, Slot, Stamp};
use bytes::BytesMut;
use std::collections::BTreeSet;
use std::convert::Infallible;

const SEED: u64 = 7;
const MANY: u64 = 5_000;

/// What XXH3 mixes in for keys of 32 bytes.
const SECRET: [u64; 4] = [0xBE4B_A423_396C_FEB8, 0x1CAD_21F7_2C81_017C, 0xDB97_9083_E96D_D4DE, 0x1F67_B3B7_A4A4_4072];
const PRIME: u64 = 0x9E37_79B1_85EB_CA87;
const MIX: u64 = 0x1656_6791_9E37_79F9;

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// The inverse of an odd number modulo 2^64.
fn inverse(odd: u64) -> u64 {
    (0..6).fold(odd, |found, _| found.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(found))))
}

/// A key of the slot of `{t}` with this very hash, another one for each number.
fn crafted(number: u64, hash: u64) -> Vec<u8> {
    let mut key = format!("{{t}}{number:013x}").into_bytes();
    // Back through the last mixing; then the half of the key that is still free makes up the difference.
    let mut wanted = hash ^ hash >> 32;
    wanted = wanted.wrapping_mul(inverse(MIX));
    wanted ^= wanted >> 37;
    let left = word(&key, 0) ^ SECRET[0].wrapping_add(SEED);
    let right = word(&key, 8) ^ SECRET[1].wrapping_sub(SEED);
    let product = u128::from(left) * u128::from(right);
    let first = 32u64.wrapping_mul(PRIME).wrapping_add(product as u64 ^ (product >> 64) as u64);
    let rest = wanted.wrapping_sub(first);
    key.extend_from_slice(&(SECRET[2].wrapping_add(SEED) ^ 1).to_le_bytes());
    key.extend_from_slice(&(SECRET[3].wrapping_sub(SEED) ^ rest).to_le_bytes());
    assert_eq!((key.len(), hash_of(SEED, &key)), (32, hash));
    key
}

/// The hash of the key with a number.
type Craft = fn(u64) -> u64;

/// Hashes of keys that are alike in one way or another.
fn alike() -> Vec<(&'static str, Craft)> {
    fn mixed(number: u64) -> u64 {
        number.wrapping_mul(PRIME) ^ number.wrapping_mul(MIX) >> 29
    }
    vec![
        ("equal", |_| 0x1234_5678_9ABC_DEF0),
        ("equal and last of all", |_| u64::MAX),
        ("equal and first of all", |_| 0),
        ("upper halves equal", |number| 0x1234_5678 << 32 | mixed(number) >> 32),
        ("in one unit however deep", |number| 0x0012_3456 << 40 | mixed(number) >> 24),
        ("seven hashes", |number| mixed(number % 7)),
        ("one row", |number| 0x1234_5678_9A40_0000 | number),
    ]
}

fn fresh() -> Keyspace {
    let mut keyspace = Keyspace::new(SEED);
    keyspace.advance(&Stamp { now_ms: 1000, seed: 0 });
    keyspace
}

fn set_all(keyspace: &mut Keyspace, keys: &[Vec<u8>]) {
    for (key, number) in keys.iter().zip(0u64..) {
        // Rows, integers, and values that have no row.
        let value = match number % 3 {
            0 => Value::text(number.to_string().as_bytes()),
            1 => Value::text(format!("v{number}").as_bytes()),
            _ => Value::text(&vec![b'x'; 600]),
        };
        keyspace.set(key, value, (number % 5 == 0).then_some(2000));
    }
}

fn copy(keyspace: &mut Keyspace, during: impl FnOnce(&mut Keyspace)) -> Keyspace {
    let head = keyspace.begin_cut().to_bytes();
    during(keyspace);
    let images: Vec<_> = std::iter::from_fn(|| keyspace.cut_next(1 << 16)).flatten().collect();
    let images = images.into_iter().map(|image| Ok::<_, Infallible>(image.into_bytes()));
    Keyspace::restore(&head, images, Precision::default()).unwrap()
}

#[test]
fn thousands_of_keys_that_are_alike_are_kept_as_any_others() {
    for (name, hash) in alike() {
        let keys: Vec<Vec<u8>> = (0..MANY).map(|number| crafted(number, hash(number))).collect();
        let strangers: Vec<Vec<u8>> = (MANY..MANY + 50).map(|number| crafted(number, hash(number))).collect();
        let mut keyspace = fresh();
        // Ordinary keys beside them, in the same slot.
        let others: Vec<Vec<u8>> = (0..2 * SPLIT_ABOVE).map(|number| format!("{{t}}{number}").into_bytes()).collect();
        set_all(&mut keyspace, &others);
        set_all(&mut keyspace, &keys);
        keyspace.table().check();
        assert_eq!(keyspace.account(), keyspace.recomputed_account(), "{name}");
        assert_eq!(keyspace.len(), MANY + others.len() as u64, "{name}");
        assert!(keys.iter().chain(&others).all(|key| keyspace.contains(key) && keyspace.might_contain(key)), "{name}");
        assert!(strangers.iter().all(|key| !keyspace.contains(key) && !keyspace.remove(key)), "{name}");
        assert!(keyspace.table().units() < 64, "{name}: {} units", keyspace.table().units());

        let hash_before = keyspace.state_hash();
        let copied = copy(&mut keyspace, |keyspace| {
            // Changed in place, made longer, and written anew.
            for key in keys.iter().step_by(4) {
                keyspace.edit(key, |value| {
                    let Value::Text(text) = value else { panic!("only strings are written here") };
                    let mut bytes = BytesMut::from(&text.bytes[..]);
                    bytes.extend_from_slice(&[b'y'; 300]);
                    text.bytes = bytes.freeze();
                });
            }
            keys.iter().skip(1).step_by(4).for_each(|key| keyspace.set(key, Value::text(b"short"), None));
            keyspace.table().check();
        });
        assert_eq!(copied.state_hash(), hash_before, "{name}");
        copied.table().check();

        let (mut met, mut cursor) = (BTreeSet::new(), 0);
        loop {
            let (entries, next) = View::new(&keyspace, None).scan(cursor, 500);
            met.extend(entries.iter().map(|entry| entry.key().to_vec()));
            if next == 0 {
                break;
            }
            assert!(next > cursor, "{name}");
            cursor = next;
        }
        assert_eq!(met.len() as u64, keyspace.len(), "{name}");

        keyspace.advance(&Stamp { now_ms: 2000, seed: 0 });
        let (swept, due) = (keyspace.len(), keyspace.due_ranges(2000, SLOTS));
        assert!(!due.is_empty() && keyspace.sweep(&due) > 0, "{name}");
        assert!(keyspace.due_ranges(2000, SLOTS).is_empty(), "{name}");
        keyspace.table().check();
        assert_eq!(keyspace.account(), keyspace.recomputed_account(), "{name}");
        let gone = keys.iter().filter(|key| !keyspace.contains(key)).count() as u64;
        assert!(gone > 0 && gone <= swept - keyspace.len(), "{name}");

        // All of them go, in no order that the index has.
        for at in 0..keys.len() {
            let key = &keys[at * 2311 % keys.len()];
            let there = keyspace.contains(key);
            let went = if at % 2 == 0 { keyspace.remove(key) } else { keyspace.take(key).is_some() };
            assert_eq!(went, there, "{name}");
        }
        assert!(keys.iter().all(|key| !keyspace.contains(key)), "{name}");
        keyspace.table().check();
        others.iter().for_each(|key| {
            keyspace.remove(key);
        });
        assert_eq!((keyspace.len(), keyspace.table().units()), (0, 0), "{name}");
    }
}

/// Rows cannot tell such keys apart: one victim is found at a time, and each time there is one.
#[test]
fn keys_that_are_alike_can_be_evicted() {
    for (name, hash) in alike() {
        let mut keyspace = fresh();
        keyspace.keep_marks(true);
        (0..200).for_each(|number| keyspace.set(&crafted(number, hash(number)), Value::text(b"v"), None));
        let leaving = Leaving::default();
        for left in (0..200).rev() {
            let (key, version) = {
                let chooser = Chooser::new(&keyspace, &leaving);
                let row = chooser.sample(left, false).unwrap();
                assert!(chooser.may_leave(row) && chooser.mark(row).is_some(), "{name}");
                let (key, version, _) = chooser.victim(row).unwrap();
                (key.to_vec(), version)
            };
            assert!(keyspace.evict(&key, version), "{name}");
            assert_eq!(keyspace.len(), left, "{name}");
        }
        let slot: Slot = slot_of(b"{t}");
        assert!(keyspace.locate_row(Row::new(slot, hash(0))).is_none());
        assert!(keyspace.due_ranges(u64::MAX, 1).is_empty());
        keyspace.sweep(&[HashRange::whole(slot)]);
    }
}
