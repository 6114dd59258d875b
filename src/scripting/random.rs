//! `math.random` and `math.randomseed` as in Redis: the 48-bit generator of POSIX, begun anew for every script: with what
//! the script gives `math.randomseed`, so that it draws the same numbers wherever it runs, or else with a seed of the run.

/// The generator's state, below 2^48.
#[derive(Debug, Clone, Copy)]
pub(super) struct Random(u64);

const MASK: u64 = (1 << 48) - 1;

impl Random {
    /// As after `srand48(seed)`.
    pub fn new(seed: u32) -> Random {
        Random(u64::from(seed) << 16 | 0x330E)
    }

    /// 31 random bits.
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(0x5_DEEC_E66D).wrapping_add(0xB) & MASK;
        (self.0 >> 17) as u32
    }

    /// A number from 0 to 1, 1 excluded.
    pub fn fraction(&mut self) -> f64 {
        const MOST: u32 = i32::MAX as u32;
        f64::from(self.next() % MOST) / f64::from(MOST)
    }
}
