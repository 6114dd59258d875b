//! Keys that left lately, by fingerprint: whoever comes back soon was worth keeping.
//!
//! Four bytes a key, in buckets of eight. An entry has 16 bits of the key's hash and a time that rises with what is put in;
//! it counts for as long as fewer keys than the capacity have left since. There is no order to keep and nothing to take
//! out: entries grow old. A wrong answer (1 in 10,000) lets a key into the main queue at once, which is harmless.

use super::Row;

/// Entries of a bucket.
const WAYS: usize = 8;
/// Steps of time in which a capacity passes: what 16 bits can tell apart, and not mistake for the present too soon.
const STEPS: u64 = 4096;
/// A table is made for no fewer keys.
const CAPACITY_MIN: u64 = 256;

/// See the head of this file. An entry is `fingerprint << 16 | time`; 0 is none.
#[derive(Debug, Default)]
pub(super) struct Ghost {
    buckets: Vec<[u32; WAYS]>,
    /// Keys that the table was made for.
    room: u64,
    time: u16,
    /// Keys that left since `time` last rose.
    since: u64,
}

impl Ghost {
    /// A key left; `capacity` keys are to be remembered.
    pub fn insert(&mut self, row: Row, capacity: u64) {
        let capacity = capacity.max(CAPACITY_MIN);
        if capacity > self.room || capacity < self.room / 8 {
            // Made anew, and empty: a store that still grows evicts nothing, so there is little to forget.
            self.room = capacity.saturating_mul(2);
            let buckets = (self.room * 3 / 2 / WAYS as u64).next_power_of_two();
            self.buckets = vec![[0; WAYS]; buckets as usize];
        }
        let (at, fingerprint) = self.place(row);
        let (time, oldest_kept) = (self.time, self.max_age(capacity));
        let entry = u32::from(fingerprint) << 16 | u32::from(time);
        let bucket = &mut self.buckets[at];
        let age = |entry: u32| if entry == 0 { u16::MAX } else { time.wrapping_sub(entry as u16) };
        let known = bucket.iter().position(|&e| e != 0 && (e >> 16) as u16 == fingerprint && age(e) <= oldest_kept);
        let oldest = (0..WAYS).max_by_key(|&way| age(bucket[way])).expect("a bucket has ways");
        bucket[known.unwrap_or(oldest)] = entry;
        self.since += 1;
        if self.since >= Self::step(capacity) {
            self.since = 0;
            self.time = self.time.wrapping_add(1);
        }
    }

    /// Whether the key left lately.
    pub fn contains(&self, row: Row, capacity: u64) -> bool {
        if self.buckets.is_empty() {
            return false;
        }
        let (at, fingerprint) = self.place(row);
        let max_age = self.max_age(capacity.max(CAPACITY_MIN));
        let matches = |&entry: &u32| {
            entry != 0 && (entry >> 16) as u16 == fingerprint && self.time.wrapping_sub(entry as u16) <= max_age
        };
        self.buckets[at].iter().any(matches)
    }

    /// Keys that leave in one step of time.
    fn step(capacity: u64) -> u64 {
        capacity.div_ceil(STEPS)
    }

    fn max_age(&self, capacity: u64) -> u16 {
        (capacity / Self::step(capacity)) as u16
    }

    fn place(&self, row: Row) -> (usize, u16) {
        let hash = super::scramble(row.0);
        // Never 0, which is no entry.
        ((hash >> 16) as usize & (self.buckets.len() - 1), (hash as u16).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Slot;

    fn row(n: u64) -> Row {
        Row::new(Slot((n % 16_384) as u16), n.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    #[test]
    fn what_left_lately_is_known_and_what_left_long_ago_is_not() {
        for capacity in [300, 5_000, 100_000] {
            let mut ghost = Ghost::default();
            (0..5 * capacity).for_each(|n| ghost.insert(row(n), capacity));
            let known = |range: std::ops::Range<u64>| {
                let len = range.end - range.start;
                range.filter(|n| ghost.contains(row(*n), capacity)).count() as f64 / len as f64
            };
            let lately = known(5 * capacity - capacity * 9 / 10..5 * capacity);
            assert!(lately > 0.97, "{capacity}: {lately} of the last are known");
            assert!(known(0..3 * capacity) < 0.005, "{capacity}: {} of the old are known", known(0..3 * capacity));
        }
    }

    #[test]
    fn it_takes_a_few_bytes_a_key() {
        let mut ghost = Ghost::default();
        ghost.insert(row(1), 1_000_000);
        let bytes = ghost.buckets.len() * WAYS * 4;
        assert!(bytes <= 17_000_000, "{bytes}");
    }
}
