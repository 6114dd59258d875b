//! Measures the cuckoo filter of the keyspace: rate of false positives, false negatives, bits a key, speed.
//!
//! ```text
//! cargo run --release --example filter_rate -- [keys] [operations] [rate ...]
//! cargo run --release --example filter_rate -- 10000000 50000000 0.001 0.01 0.05
//! ```
//!
//! Keys are dealt to 16,384 slots with a filter each, as in a keyspace. A map of each slot decides what is new and
//! what was removed; the operations are inserts and deletes of random keys out of twice as many as there are present,
//! so about half of them find the key there already, or not there. `tests/filter_rate.rs` runs a small slice.

use hashbrown::HashTable;
use hypercache::env;
use hypercache::state::{Precision, UnitFilter};
use hypercache::types::SLOTS;
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_64_with_seed;

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|word| word.parse::<f64>().ok());
    let keys = numbers.next().unwrap_or(10e6) as u64;
    let operations = numbers.next().unwrap_or(50e6) as u64;
    let rates: Vec<f64> = numbers.collect();
    for &rate in if rates.is_empty() { &[0.001, 0.01, 0.05][..] } else { &rates } {
        let Some(precision) = Precision::for_rate(rate) else {
            println!("{rate}: not a rate that a filter can have");
            continue;
        };
        println!("{rate}: {keys} keys, {operations} inserts and deletes, {} bits a fingerprint", precision.bits());
        let mut space = Space::new(precision, SLOTS);
        space.fill(keys);
        println!("  filled          {}", space.findings(keys));
        space.churn(keys * 2, operations);
        space.copies(100);
        println!("  after all that  {}", space.findings(keys));
        println!("  {}", speed(precision, keys));
    }
}

/// What was found of a space of filters.
pub struct Findings {
    pub present: u64,
    pub false_negatives: u64,
    /// Share of absent keys that were answered with "perhaps".
    pub rate: f64,
    /// All bytes of all filters, their own heads included.
    pub bits_per_key: f64,
    pub load: f64,
    /// Filters that are not under their first seed.
    pub reseeded: usize,
}

impl std::fmt::Display for Findings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} present, {} false negatives, rate {:.4} %, {:.2} bits a key, load {:.3}, {} re-seeded",
            self.present,
            self.false_negatives,
            self.rate * 100.0,
            self.bits_per_key,
            self.load,
            self.reseeded
        )
    }
}

/// A slot: the map that decides, and the filter that follows.
#[derive(Default)]
struct Slot {
    map: HashTable<u64>,
    filter: UnitFilter,
}

impl Slot {
    fn insert(&mut self, precision: Precision, hash: u64) {
        if self.map.find(hash, |known| *known == hash).is_none() {
            self.map.insert_unique(hash, hash, |known| *known);
            let Slot { map, filter } = self;
            filter.add(precision, hash, map.len(), || map.iter().copied());
        }
    }

    fn delete(&mut self, precision: Precision, hash: u64) {
        if let Ok(row) = self.map.find_entry(hash, |known| *known == hash) {
            row.remove();
            let Slot { map, filter } = self;
            filter.remove(precision, hash, map.len(), || map.iter().copied());
        }
    }
}

/// A key space of numbered keys.
pub struct Space {
    precision: Precision,
    slots: Vec<Slot>,
    draws: fastrand::Rng,
}

/// The slot and the hash of a numbered key.
fn key(number: u64, slots: usize) -> (usize, u64) {
    let name = number.to_le_bytes();
    (xxh3_64_with_seed(&name, 1) as usize % slots, xxh3_64_with_seed(&name, 2))
}

impl Space {
    pub fn new(precision: Precision, slots: usize) -> Space {
        let slots = (0..slots).map(|_| Slot::default()).collect();
        Space { precision, slots, draws: fastrand::Rng::with_seed(7) }
    }

    /// Inserts the keys 0..`keys`.
    pub fn fill(&mut self, keys: u64) {
        for number in 0..keys {
            let (slot, hash) = key(number, self.slots.len());
            self.slots[slot].insert(self.precision, hash);
        }
    }

    /// Inserts and deletes random keys below `range`.
    pub fn churn(&mut self, range: u64, operations: u64) {
        for _ in 0..operations {
            let (slot, hash) = key(self.draws.u64(..range), self.slots.len());
            if self.draws.bool() {
                self.slots[slot].insert(self.precision, hash);
            } else {
                self.slots[slot].delete(self.precision, hash);
            }
        }
    }

    /// Inserts one key again and again, deletes it again and again, and inserts it once more.
    pub fn copies(&mut self, copies: u32) {
        let (slot, hash) = key(u64::MAX, self.slots.len());
        (0..copies).for_each(|_| self.slots[slot].insert(self.precision, hash));
        (0..copies).for_each(|_| self.slots[slot].delete(self.precision, hash));
        self.slots[slot].insert(self.precision, hash);
    }

    /// Asks for every key that is present, and for at least `questions` that never were.
    pub fn findings(&self, questions: u64) -> Findings {
        let present: u64 = self.slots.iter().map(|slot| slot.map.len() as u64).sum();
        let filters = || self.slots.iter().map(|slot| &slot.filter);
        let missed = |slot: &Slot| slot.map.iter().filter(|hash| !slot.filter.might_contain(**hash)).count() as u64;
        let questions = questions.max(1 << 20);
        let strangers = (1 << 60..(1 << 60) + questions).map(|number| key(number, self.slots.len()));
        let perhaps = strangers.filter(|(slot, hash)| self.slots[*slot].filter.might_contain(*hash)).count();
        Findings {
            present,
            false_negatives: self.slots.iter().map(missed).sum(),
            rate: perhaps as f64 / questions as f64,
            bits_per_key: filters().map(UnitFilter::bytes).sum::<usize>() as f64 * 8.0 / present as f64,
            load: present as f64 / filters().map(UnitFilter::places).sum::<u64>() as f64,
            reseeded: filters().filter(|filter| filter.parameters().seed > 0).count(),
        }
    }
}

/// The time that filters take alone: keys are known beforehand and come slot after slot in turn, so that a filter is
/// rarely in the processor's cache.
fn speed(precision: Precision, keys: u64) -> String {
    let mut known: Vec<Vec<u64>> = vec![Vec::new(); SLOTS];
    (0..keys).map(|number| key(number, SLOTS)).for_each(|(slot, hash)| known[slot].push(hash));
    let deepest = known.iter().map(Vec::len).max().unwrap_or(0);
    let mut filters = vec![UnitFilter::default(); SLOTS];
    let each = |work: &mut dyn FnMut(usize, usize, u64)| {
        let began = env::now();
        for at in 0..deepest {
            for (slot, keys) in known.iter().enumerate() {
                if let Some(hash) = keys.get(at) {
                    work(slot, at, *hash);
                }
            }
        }
        nanoseconds(began.elapsed(), keys)
    };
    let add = each(&mut |slot, at, hash| {
        filters[slot].add(precision, hash, at + 1, || known[slot][..=at].iter().copied());
    });
    let mut found = 0u64;
    let hit = each(&mut |slot, _, hash| found += u64::from(filters[slot].might_contain(hash)));
    let miss = each(&mut |slot, _, hash| found += u64::from(filters[slot].might_contain(!hash)));
    assert!(found >= keys, "every key is found");
    let remove = each(&mut |slot, at, hash| {
        let left = &known[slot][at + 1..];
        filters[slot].remove(precision, hash, left.len(), || left.iter().copied());
    });
    format!("ns each: add {add:.0} (growth included), hit {hit:.0}, miss {miss:.0}, remove {remove:.0}")
}

fn nanoseconds(time: Duration, operations: u64) -> f64 {
    time.as_nanos() as f64 / operations as f64
}
