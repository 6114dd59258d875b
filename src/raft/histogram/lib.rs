//! Histograms of whole numbers in buckets that grow with the numbers, as openraft asks for them.
//!
//! A bucket is named by a number's highest bit and the two bits below it, so a bucket is at most a quarter as wide as the
//! numbers in it: eight buckets for 0 to 7, four for each further power of two. Nothing is computed ahead.

use std::fmt;
use std::marker::PhantomData;

/// Numbers below this have a bucket each.
const EXACT: u64 = 8;
/// Buckets for all of `u64`: one each for 0 to 7, four for each of the 61 powers of two above.
const BUCKETS: usize = EXACT as usize + 4 * 61;

/// Counts of numbers. The type parameter is openraft's and stands for nothing here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    /// Empty until the first number comes: most histograms never see one.
    counts: Vec<u64>,
    total: u64,
    kind: PhantomData<T>,
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Histogram::new()
    }
}

impl<T> Histogram<T> {
    pub fn new() -> Self {
        Histogram { counts: Vec::new(), total: 0, kind: PhantomData }
    }

    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    pub fn record_n(&mut self, value: u64, times: u64) {
        if self.counts.is_empty() {
            self.counts = vec![0; BUCKETS];
        }
        self.counts[bucket(value)] += times;
        self.total += times;
    }

    /// How many numbers were recorded.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The smallest number of the bucket in which the share `p` (0 to 1) of all numbers is reached; 0 if there is none.
    pub fn percentile(&self, p: f64) -> u64 {
        let wanted = (self.total as f64 * p).ceil().max(1.0) as u64;
        let mut seen = 0;
        let reached = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        reached.map_or(0, smallest)
    }

    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total,
            p0_1: self.percentile(0.001),
            p1: self.percentile(0.01),
            p5: self.percentile(0.05),
            p10: self.percentile(0.1),
            p50: self.percentile(0.5),
            p90: self.percentile(0.9),
            p99: self.percentile(0.99),
            p99_9: self.percentile(0.999),
        }
    }
}

/// The bucket of a number.
fn bucket(value: u64) -> usize {
    if value < EXACT {
        return value as usize;
    }
    let high = value.ilog2();
    let next_two = (value >> (high - 2)) as usize & 3;
    EXACT as usize + 4 * (high as usize - 3) + next_two
}

/// The smallest number of a bucket.
fn smallest(bucket: usize) -> u64 {
    let Some(above) = bucket.checked_sub(EXACT as usize) else { return bucket as u64 };
    (4 + (above as u64 & 3)) << (above / 4 + 1)
}

/// What is told of a histogram at a glance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PercentileStats {
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} samples, p50 {}, p90 {}, p99 {}", self.samples, self.p50, self.p90, self.p99)
    }
}

/// Several histograms, a line each.
#[derive(Debug, Clone, Default)]
pub struct AsciiChart {
    lines: Vec<(String, PercentileStats)>,
}

impl AsciiChart {
    pub fn new() -> Self {
        AsciiChart::default()
    }

    #[expect(clippy::should_implement_trait, reason = "the name is openraft's")]
    pub fn add<T>(mut self, name: impl ToString, histogram: Histogram<T>) -> Self {
        self.lines.push((name.to_string(), histogram.percentile_stats()));
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, stats) in &self.lines {
            writeln!(f, "{name}: {stats}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_stand_in_order_without_a_gap_and_hold_their_numbers() {
        for at in 0..BUCKETS {
            assert_eq!(bucket(smallest(at)), at);
            if at > 0 {
                assert_eq!(bucket(smallest(at) - 1), at - 1);
            }
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn a_percentile_is_at_most_a_quarter_too_small() {
        let mut histogram = Histogram::<()>::new();
        (1..=10_000).for_each(|n| histogram.record(n));
        for (share, exact) in [(0.001, 10), (0.5, 5_000), (0.99, 9_900), (1.0, 10_000)] {
            let told = histogram.percentile(share);
            assert!(told <= exact && told * 5 >= exact * 4, "{share}: {told}");
        }
        assert_eq!(Histogram::<()>::new().percentile(0.5), 0);
    }
}
