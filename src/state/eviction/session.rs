//! `session`: the keys of one hash tag leave together, those of the tag that was used least recently first.
//!
//! A tag was used when any of its keys was. Tags are sampled as keys are, and a tag that was chosen leaves to its last key
//! before the next is looked for. A key without a tag is one by itself.

use super::recency::lru_idle;
use super::sampled::Pool;
use super::{Candidates, Draws, Policy, Row};
use std::sync::atomic::Ordering::Relaxed;

/// Rounds of samples before a choice gives up.
const ROUNDS: usize = 16;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Session {
    samples: usize,
    draws: Draws,
    /// A key of each good candidate.
    pool: Pool,
    /// What is left of the tag that leaves.
    leaving: Vec<Row>,
}

impl Session {
    pub fn new(samples: usize, seed: u64) -> Session {
        Session { samples: samples.max(1), draws: Draws(seed), pool: Pool::default(), leaving: Vec::new() }
    }

    /// How long no key of this one's tag was used.
    fn idle(row: Row, keys: &dyn Candidates) -> u64 {
        let mut least = u64::MAX;
        keys.tag_mates(row, &mut |_, mark| least = least.min(lru_idle(mark.load(Relaxed), keys.turn())));
        least
    }
}

impl Policy for Session {
    fn inserted(&mut self, _: Row, _: &dyn Candidates) {}

    fn victim(&mut self, keys: &dyn Candidates) -> Option<Row> {
        for _ in 0..ROUNDS {
            while let Some(row) = self.leaving.pop() {
                if keys.may_leave(row) {
                    return Some(row);
                }
            }
            for _ in 0..self.samples {
                let row = keys.sample(self.draws.next(), false)?;
                if keys.may_leave(row) {
                    self.pool.offer(row, Self::idle(row, keys));
                }
            }
            if let Some(row) = self.pool.take() {
                keys.tag_mates(row, &mut |mate, _| self.leaving.push(mate));
            }
        }
        None
    }

    fn unfinished(&self) -> bool {
        !self.leaving.is_empty()
    }
}
