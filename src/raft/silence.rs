//! How suspicious the silence of a peer is: phi-accrual failure detection (Hayashibara and others, 2004). Pure.
//!
//! Phi is the negative decimal logarithm of the chance that a peer which lives is silent for so long, by how long it used to be
//! silent between two beats: 1 is a mistake in one of ten, 8 in one of a hundred million. Advice only: elections have
//! timers of their own.

use crate::env::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// Intervals that are remembered.
const WINDOW: usize = 100;
/// Several connections to a peer beat each for itself: what comes so soon after a beat is the same one.
const SAME: Duration = Duration::from_millis(200);
/// What is assumed before there is any experience.
const EXPECTED_MS: f64 = 500.0;
/// A longer silence was an outage, and says nothing about habits.
const OUTAGE: Duration = Duration::from_secs(10);
/// However regular a peer is: a pause of its machine is no failure.
const DEVIATION_MS_MIN: f64 = 200.0;
/// Larger ones mean no more.
const PHI_MAX: f64 = 99.0;

/// When a peer was heard.
#[derive(Debug, Clone)]
pub struct Beats {
    last: Instant,
    counted: Instant,
    intervals_ms: VecDeque<f64>,
}

impl Beats {
    /// It is heard for the first time.
    pub fn new(now: Instant) -> Beats {
        Beats { last: now, counted: now, intervals_ms: VecDeque::new() }
    }

    /// It is heard again.
    pub fn beat(&mut self, now: Instant) {
        self.last = now;
        let interval = now.saturating_since(self.counted);
        if interval < SAME {
            return;
        }
        self.counted = now;
        if interval < OUTAGE {
            if self.intervals_ms.len() == WINDOW {
                self.intervals_ms.pop_front();
            }
            self.intervals_ms.push_back(interval.as_secs_f64() * 1000.0);
        }
    }

    /// When it was heard last.
    pub fn last(&self) -> Instant {
        self.last
    }

    /// How suspicious its silence is, 0 to [`PHI_MAX`].
    pub fn phi(&self, now: Instant) -> f64 {
        let silent_ms = now.saturating_since(self.last).as_secs_f64() * 1000.0;
        let n = self.intervals_ms.len() as f64;
        let mean = if n == 0.0 { EXPECTED_MS } else { self.intervals_ms.iter().sum::<f64>() / n };
        let variance = self.intervals_ms.iter().map(|ms| (ms - mean).powi(2)).sum::<f64>() / n.max(1.0);
        let y = (silent_ms - mean) / variance.sqrt().max(DEVIATION_MS_MIN);
        // The logistic approximation of the normal distribution.
        let e = (-y * (1.5976 + 0.070_566 * y * y)).exp();
        let later = if y > 0.0 { e / (1.0 + e) } else { 1.0 - 1.0 / (1.0 + e) };
        // Of what cannot be told from certainty the logarithm is no number.
        (-later.log10()).clamp(0.0, PHI_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env;

    /// Heard so often, at these intervals in turn.
    fn heard(times: u32, intervals_ms: &[u64]) -> (Beats, Instant) {
        let mut now = env::now();
        let mut beats = Beats::new(now);
        for i in 0..times as usize {
            now += Duration::from_millis(intervals_ms[i % intervals_ms.len()]);
            beats.beat(now);
        }
        (beats, now)
    }

    fn phi_after(beats: &Beats, last: Instant, ms: u64) -> f64 {
        beats.phi(last + Duration::from_millis(ms))
    }

    #[test]
    fn suspicion_grows_with_silence_and_ends_with_a_beat() {
        let (mut beats, last) = heard(50, &[500]);
        let at: Vec<f64> = [0, 500, 1000, 1700, 3000, 60_000].map(|ms| phi_after(&beats, last, ms)).to_vec();
        assert!(at.is_sorted(), "{at:?}");
        assert!(at[1] < 1.0 && at[3] > 8.0 && at[5] <= PHI_MAX, "{at:?}");
        let again = last + Duration::from_secs(60);
        beats.beat(again);
        assert!(phi_after(&beats, again, 500) < 1.0, "an outage is no habit");
    }

    #[test]
    fn who_is_heard_irregularly_is_given_longer() {
        let ((regular, a), (irregular, b)) = (heard(60, &[500]), heard(60, &[300, 2500]));
        assert!(phi_after(&regular, a, 2500) > 8.0);
        assert!(phi_after(&irregular, b, 2500) < 3.0, "{}", phi_after(&irregular, b, 2500));
    }

    #[test]
    fn beats_of_several_connections_count_as_one() {
        let (together, last) = heard(300, &[1, 2, 497]);
        assert!(phi_after(&together, last, 700) < 2.0, "{}", phi_after(&together, last, 700));
        assert_eq!(heard(300, &[10]).0.intervals_ms.len(), 15, "each 200 ms");
    }

    #[test]
    fn a_peer_that_was_heard_once_is_judged_by_what_is_usual() {
        let (once, at) = heard(0, &[1]);
        assert!(phi_after(&once, at, 400) < 1.0 && phi_after(&once, at, 4000) > 8.0);
    }
}
