//! What a read or write leaves behind at a key: 32 bits, by one relaxed store.
//!
//! ```text
//!   s3-fifo, fifo   | 20 bits, zero | tag 8 | queue 2 | hits 2 |
//!   lru, session    | turn / 16, never 0                       |
//!   lfu             | minute + 1, 24 bits | logarithmic count 8 |
//! ```
//!
//! 0 means that nothing is known: the leader is new. Whoever touches a mark holds the lock of the state, so nothing is lost
//! between load and store; the atomic is there because readers have the keyspace as `&`.

use super::{Kind, scramble};
use crate::types::Millis;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Hits that s3-fifo counts, at most.
pub(super) const HITS_MAX: u32 = 3;
/// Accesses that LRU does not tell apart: what makes 32 bits last for 69 billion of them.
const TURN_SHIFT: u32 = 4;
/// As in Redis: what a new key counts, so that it is not the first to go.
const LFU_NEW: u32 = 5;
/// As Redis' default: the larger, the more accesses it takes to count one up.
const LFU_FACTOR: f64 = 10.0;
const MINUTE_MS: Millis = 60_000;

/// Writes marks, in the way of one policy.
#[derive(Debug)]
pub struct Recency {
    kind: Kind,
    /// Rises with every access: the time of LRU, the dice of LFU.
    turn: AtomicU64,
}

impl Recency {
    pub fn new(kind: Kind) -> Recency {
        Recency { kind, turn: AtomicU64::new(1 << TURN_SHIFT) }
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// A key was read or overwritten.
    pub fn touch(&self, mark: &AtomicU32, now: Millis) {
        match self.kind {
            Kind::S3Fifo => {
                let known = mark.load(Relaxed);
                if known & HITS_MAX < HITS_MAX {
                    mark.store(known + 1, Relaxed);
                }
            }
            Kind::AllkeysLru | Kind::VolatileLru | Kind::Session => mark.store(self.turn(), Relaxed),
            Kind::AllkeysLfu | Kind::VolatileLfu => {
                let count = lfu_count(mark.load(Relaxed), now);
                mark.store(lfu_mark(self.count_up(count), now), Relaxed);
            }
            Kind::NoEviction | Kind::Fifo | Kind::AllkeysRandom | Kind::VolatileRandom | Kind::VolatileTtl => (),
        }
    }

    /// The mark of a key that was just added.
    pub fn fresh(&self, now: Millis) -> u32 {
        match self.kind {
            Kind::AllkeysLru | Kind::VolatileLru | Kind::Session => self.turn(),
            Kind::AllkeysLfu | Kind::VolatileLfu => lfu_mark(LFU_NEW, now),
            _ => 0,
        }
    }

    /// The mark that LRU would write now.
    pub fn newest(&self) -> u32 {
        ((self.turn.load(Relaxed) >> TURN_SHIFT) as u32).max(1)
    }

    fn turn(&self) -> u32 {
        self.step();
        self.newest()
    }

    fn step(&self) -> u64 {
        // Not an atomic addition: the state's lock is held, and one lost step would be no harm.
        let turn = self.turn.load(Relaxed);
        self.turn.store(turn.wrapping_add(1), Relaxed);
        turn
    }

    /// One more with a chance that falls as the count rises.
    fn count_up(&self, count: u32) -> u32 {
        if count == 255 {
            return count;
        }
        let above = f64::from(count.saturating_sub(LFU_NEW));
        let chance = 1.0 / (above * LFU_FACTOR + 1.0);
        let draw = scramble(self.step()) >> 11;
        count + u32::from((draw as f64 / (1u64 << 53) as f64) < chance)
    }
}

/// How good a victim the key is: the larger, the better. By when it was last touched.
pub(super) fn lru_idle(mark: u32, newest: u32) -> u64 {
    match mark {
        0 => u64::from(u32::MAX),
        mark => u64::from(newest.wrapping_sub(mark)),
    }
}

/// The same by how often it was touched.
pub(super) fn lfu_idle(mark: u32, now: Millis) -> u64 {
    u64::from(255 - lfu_count(mark, now))
}

/// The count, less one for each minute since it was last touched.
fn lfu_count(mark: u32, now: Millis) -> u32 {
    if mark == 0 {
        return LFU_NEW;
    }
    let passed = minute(now).wrapping_sub(mark >> 8) & 0xff_ffff;
    // A clock that went back, as between two leaders' estimates, must not look like years.
    let passed = if passed > 0x80_0000 { 0 } else { passed };
    (mark & 0xff).saturating_sub(passed)
}

fn lfu_mark(count: u32, now: Millis) -> u32 {
    minute(now) << 8 | count
}

fn minute(now: Millis) -> u32 {
    (now / MINUTE_MS + 1) as u32 & 0xff_ffff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_saturate_and_leave_the_other_bits() {
        let recency = Recency::new(Kind::S3Fifo);
        let mark = AtomicU32::new(0b1010_1101_1000);
        (0..9).for_each(|_| recency.touch(&mark, 0));
        assert_eq!(mark.load(Relaxed), 0b1010_1101_1011);
    }

    #[test]
    fn whoever_was_touched_later_is_less_idle() {
        let recency = Recency::new(Kind::AllkeysLru);
        let (old, new, never) = (AtomicU32::new(0), AtomicU32::new(0), 0);
        recency.touch(&old, 0);
        (0..100).for_each(|_| recency.touch(&new, 0));
        let newest = new.load(Relaxed);
        let idle = [never, old.load(Relaxed), newest].map(|mark| lru_idle(mark, newest));
        assert!(idle[0] > idle[1] && idle[1] > idle[2], "{idle:?}");
    }

    #[test]
    fn counts_rise_ever_slower_and_fall_with_the_minutes() {
        let recency = Recency::new(Kind::AllkeysLfu);
        let mark = AtomicU32::new(recency.fresh(0));
        let after = |touches: u32| {
            (0..touches).for_each(|_| recency.touch(&mark, 0));
            lfu_count(mark.load(Relaxed), 0)
        };
        // Redis' own table for factor 10: 100 hits give about 10, 1,000 about 18, 100,000 about 142.
        let (hundred, thousand) = (after(100), after(900));
        assert!((7..=13).contains(&hundred) && (14..=24).contains(&thousand), "{hundred} {thousand}");
        let later = 3 * MINUTE_MS;
        assert_eq!(lfu_count(mark.load(Relaxed), later), thousand - 3);
        assert_eq!(lfu_count(mark.load(Relaxed), 10_000 * MINUTE_MS), 0);
    }
}
