//! The group clock: what the leader stamps into entries. Local wall clocks decide nothing in the state machine.
//!
//! The estimate of a group's time is the largest, over all stamps ever received (the node's own included), of
//! *stamp + CLOCK_BOOTTIME passed since it was received*. So an outage between two leaders counts, a message that was
//! delayed can only make the estimate late, and a wall clock that is wrong or jumps does nothing.
//!
//! Invariants: the estimate never goes back; it is slewed towards the wall clock by at most [`SLEW_PPM`] of the time
//! that passed; only a leader that has heard no stamp since its process started takes wall clocks at all (the median of
//! the voters'), and never below the clock in the state.

use crate::env::Instant;
use crate::types::Millis;
use parking_lot::Mutex;

/// How fast the estimate may be moved towards the wall clock, in millionths of the time that passed.
pub const SLEW_PPM: u64 = 500;

/// A wall clock that is further away than this is reported.
pub const ALARM_MS: u64 = 10_000;

/// A replica's estimate of its group's time.
#[derive(Debug, Default)]
pub struct GroupClock(Mutex<Option<Base>>);

/// A point on the estimate, and how it runs on from there.
#[derive(Debug, Clone, Copy)]
struct Base {
    /// In microseconds, so that slewing does not round away.
    us: u64,
    at: Instant,
    /// How far the wall clock was ahead (or behind) when it was last looked at: what may be made up for, slowly.
    wall_ahead_us: i64,
}

impl Base {
    fn estimate_us(self, now: Instant) -> u64 {
        let passed = now.saturating_since(self.at).as_micros() as u64;
        let step = (passed * SLEW_PPM / 1_000_000).min(self.wall_ahead_us.unsigned_abs()) as i64;
        (self.us + passed).saturating_add_signed(step * self.wall_ahead_us.signum())
    }
}

impl GroupClock {
    /// Takes note of a stamp that was received (or written) at `now`.
    pub fn observe(&self, stamp: Millis, now: Instant) {
        let mut base = self.0.lock();
        let us = stamp * 1000;
        if base.is_none_or(|b| us > b.estimate_us(now)) {
            *base = Some(Base { us, at: now, wall_ahead_us: 0 });
        }
    }

    /// The estimate, if any stamp was heard since the process started. Never below one that was given before.
    pub fn estimate(&self, now: Instant) -> Option<Millis> {
        self.0.lock().map(|b| b.estimate_us(now) / 1000)
    }

    /// What a leader stamps at `now`: the estimate, which from here on runs a little towards `wall`. `stored` is the
    /// clock in the state.
    ///
    /// Without any stamp heard yet it begins with `median`, the median of the voters' wall clocks.
    pub fn stamp(&self, now: Instant, wall: Millis, median: impl FnOnce() -> Millis, stored: Millis) -> Millis {
        let mut base = self.0.lock();
        let us = base.map_or_else(|| median() * 1000, |b| b.estimate_us(now)).max(stored * 1000);
        *base = Some(Base { us, at: now, wall_ahead_us: (wall * 1000) as i64 - us as i64 });
        us / 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env;
    use std::time::Duration;

    #[test]
    fn an_outage_counts_and_a_delayed_stamp_does_not_turn_it_back() {
        let clock = GroupClock::default();
        let t0 = env::now();
        clock.observe(1_000, t0);
        let t1 = t0 + Duration::from_secs(60);
        assert_eq!(clock.estimate(t1), Some(61_000));
        clock.observe(2_000, t1);
        assert_eq!(clock.estimate(t1), Some(61_000));
        clock.observe(70_000, t1);
        assert_eq!(clock.estimate(t1), Some(70_000));
    }

    #[test]
    fn a_wall_clock_that_jumps_an_hour_moves_it_by_half_a_millisecond_a_second() {
        for wall in [0, 10_000_000] {
            let clock = GroupClock::default();
            let t0 = env::now();
            clock.observe(5_000_000, t0);
            let stamp = clock.stamp(t0 + Duration::from_secs(10), wall, || unreachable!(), 0);
            assert!(stamp.abs_diff(5_010_000) <= 5, "{stamp}");
        }
    }

    #[test]
    fn a_stamp_is_never_below_an_estimate_that_was_given_before() {
        let clock = GroupClock::default();
        let t0 = env::now();
        clock.stamp(t0, 0, || 5_000_000, 0);
        let later = t0 + Duration::from_secs(3600);
        let given = clock.estimate(later).unwrap();
        assert!(clock.stamp(later, 0, || unreachable!(), 0) >= given);
        // An hour at 500 ppm is 1.8 s, and never more than the wall is behind.
        assert_eq!(given, 5_000_000 + 3_600_000 - 1_800);
        let near = GroupClock::default();
        near.stamp(t0, 10_000_050, || 10_000_000, 0);
        assert_eq!(near.estimate(later), Some(10_000_050 + 3_600_000));
    }

    #[test]
    fn it_never_goes_back_however_often_it_is_stamped() {
        let clock = GroupClock::default();
        let t0 = env::now();
        let mut last = 0;
        for i in 0..10_000u64 {
            let stamp = clock.stamp(t0 + Duration::from_micros(i * 37), 1_000, || 9_000, 0);
            assert!(stamp >= last);
            last = stamp;
        }
    }

    #[test]
    fn the_first_stamp_is_the_median_but_never_below_the_state() {
        let now = env::now();
        assert_eq!(GroupClock::default().stamp(now, 5, || 7_000, 1_000), 7_000);
        assert_eq!(GroupClock::default().stamp(now, 5, || 7_000, 9_000), 9_000);
    }
}
