//! How long calls took: one histogram a command and worker, written by the worker's thread alone.
//!
//! A bucket is named by the highest bit of the microseconds and the two bits below it, so that a bound is at most a quarter
//! too high. Nothing is allocated for a command that is never called.

use super::counters::add;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Times below this many microseconds have a bucket each.
const EXACT: usize = 8;
/// Up to 2^33 microseconds, more than two hours; what took longer counts as that.
const BITS_MAX: u32 = 33;
pub(super) const BUCKETS: usize = EXACT + 4 * (BITS_MAX as usize - 3);

/// The times of one command.
#[derive(Default)]
pub(super) struct Times {
    counts: OnceLock<Box<[AtomicU64]>>,
}

impl Times {
    /// By the worker it belongs to alone.
    pub fn record(&self, took: Duration) {
        let counts = self.counts.get_or_init(|| (0..BUCKETS).map(|_| AtomicU64::new(0)).collect());
        add(&counts[bucket(took)], 1);
    }

    /// Adds its counts to `sum`.
    pub fn add_to(&self, sum: &mut Vec<u64>) {
        let Some(counts) = self.counts.get() else { return };
        sum.resize(BUCKETS, 0);
        sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count.load(Relaxed));
    }
}

/// A part of a microsecond counts as a whole one.
fn bucket(took: Duration) -> usize {
    let us = (took.as_nanos().div_ceil(1000) as u64).clamp(1, (1 << BITS_MAX) - 1);
    if us < EXACT as u64 {
        return us as usize;
    }
    let high = us.ilog2();
    EXACT + 4 * (high as usize - 3) + ((us >> (high - 2)) & 3) as usize
}

/// The most microseconds that fall into a bucket.
fn bound(bucket: usize) -> u64 {
    let Some(above) = bucket.checked_sub(EXACT) else { return bucket as u64 };
    ((5 + (above as u64 & 3)) << (above / 4 + 1)) - 1
}

/// Bounds in microseconds with how many times lay within each, for `counts` by bucket; only bounds of buckets that hold any.
pub(super) fn within(counts: &[u64]) -> Vec<(u64, u64)> {
    let mut seen = 0;
    let holds = counts.iter().enumerate().filter(|(_, count)| **count > 0);
    holds
        .map(|(bucket, count)| {
            seen += count;
            (bound(bucket), seen)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn us(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    #[test]
    fn a_time_lies_within_its_bound_and_above_the_one_before() {
        for n in (1..100).chain([127, 128, 1000, 1 << 20, (1 << 20) + 1, u64::from(u32::MAX), (1 << 33) - 1]) {
            let at = bucket(us(n));
            assert!(at < BUCKETS && bound(at - 1) < n && n <= bound(at), "{n} in {at}");
        }
        assert_eq!(bucket(us(1 << 40)), BUCKETS - 1);
        assert_eq!((bucket(Duration::ZERO), bucket(Duration::from_nanos(1001))), (1, 2));
    }

    #[test]
    fn bounds_tell_how_many_took_no_longer() {
        let times = Times::default();
        let mut sum = Vec::new();
        times.add_to(&mut sum);
        assert!(within(&sum).is_empty());
        [1, 1, 3, 100].into_iter().for_each(|n| times.record(us(n)));
        times.add_to(&mut sum);
        assert_eq!(within(&sum), [(1, 2), (3, 3), (111, 4)]);
    }
}
