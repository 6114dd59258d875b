//! The policies that look at a few keys at random and keep a pool of the best found so far, as Redis does: LRU, LFU,
//! random and by time to live, over all keys or over those with a deadline.

use super::recency::{lfu_idle, lru_idle};
use super::{Candidates, Draws, Kind, Policy, Row};
use std::sync::atomic::Ordering::Relaxed;

/// Candidates that are kept from one choice to the next.
pub(super) const POOL: usize = 16;
/// Rounds of samples before a choice gives up.
const ROUNDS: usize = 16;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Sampled {
    kind: Kind,
    samples: usize,
    draws: Draws,
    pool: Pool,
}

impl Sampled {
    pub fn new(kind: Kind, samples: usize, seed: u64) -> Sampled {
        Sampled { kind, samples: samples.max(1), draws: Draws(seed), pool: Pool::default() }
    }

    /// How good a victim the key is; none if it is not there.
    fn idle(&self, row: Row, keys: &dyn Candidates) -> Option<u64> {
        match self.kind {
            Kind::VolatileTtl => keys.deadline(row).map(|deadline| u64::MAX - deadline),
            Kind::AllkeysLfu | Kind::VolatileLfu => keys.mark(row).map(|mark| lfu_idle(mark.load(Relaxed), keys.now())),
            _ => keys.mark(row).map(|mark| lru_idle(mark.load(Relaxed), keys.turn())),
        }
    }
}

impl Policy for Sampled {
    fn inserted(&mut self, _: Row, _: &dyn Candidates) {}

    fn victim(&mut self, keys: &dyn Candidates) -> Option<Row> {
        let volatile = self.kind.volatile();
        if keys.is_empty() || (volatile && keys.volatile_len() == 0) {
            return None;
        }
        let may_leave = |row: &Row| keys.may_leave(*row) && (!volatile || keys.deadline(*row).is_some());
        for _ in 0..ROUNDS {
            for _ in 0..self.samples {
                let Some(row) = keys.sample(self.draws.next(), volatile).filter(may_leave) else { continue };
                if matches!(self.kind, Kind::AllkeysRandom | Kind::VolatileRandom) {
                    return Some(row);
                }
                if let Some(idle) = self.idle(row, keys) {
                    self.pool.offer(row, idle);
                }
            }
            while let Some(row) = self.pool.take() {
                if may_leave(&row) {
                    return Some(row);
                }
            }
        }
        None
    }
}

/// The best candidates of several samplings, the best last.
#[derive(Debug, Default)]
pub(super) struct Pool(Vec<(u64, Row)>);

impl Pool {
    pub fn offer(&mut self, row: Row, idle: u64) {
        if self.0.iter().any(|(_, known)| *known == row) {
            return;
        }
        if self.0.len() == POOL {
            if self.0[0].0 >= idle {
                return;
            }
            self.0.remove(0);
        }
        let at = self.0.partition_point(|(known, _)| *known < idle);
        self.0.insert(at, (idle, row));
    }

    pub fn take(&mut self) -> Option<Row> {
        self.0.pop().map(|(_, row)| row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Slot;

    #[test]
    fn the_pool_keeps_the_best_and_gives_them_best_first() {
        let mut pool = Pool::default();
        let row = |n: u64| Row::new(Slot(n as u16), n);
        for n in [5, 50, 3, 40, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 50] {
            pool.offer(row(n), n);
        }
        let order: Vec<Row> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!(order[..3], [row(50), row(40), row(33)]);
        assert_eq!(order.len(), POOL);
    }
}
