//! The group clock: what the leader stamps into entries. Local wall clocks decide nothing in the state machine.
//!
//! The estimate of a group's time is the largest, over all stamps ever received (the node's own included), of
//! *stamp + CLOCK_BOOTTIME passed since it was received*. So an outage between two leaders counts, a message that was
//! delayed can only make the estimate late, and a wall clock that is wrong or jumps does nothing.
//!
//! That holds along one *timeline*: from a leader that began with wall clocks, because it had heard no stamp since its process
//! started, over all leaders that heard from it. Where every voter that is in reach has restarted, another timeline begins, which
//! may be behind the old one as far as wall clocks are wrong; a voter that was cut off meanwhile still has the old one, and
//! would have keys of the new one expire early by the difference. So the timeline goes with every stamp, and who hears a leader of
//! another one follows that: the newest leader's counts.
//!
//! Invariants: along a timeline the estimate never goes back; it is slewed towards the wall clock by at most [`SLEW_PPM`] of the
//! time that passed; only a leader that knows no stamp as new as its state takes wall clocks at all (the median of the
//! voters'), and never below the clock in the state.

use super::wire::GroupTime;
use crate::env::Instant;
use crate::types::{Leadership, Millis};
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
    timeline: Leadership,
    /// Of the newest leader that it was heard from; this node, perhaps.
    term: u64,
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
    /// Takes note of what the leader of `term` said, at `now`.
    pub fn observe(&self, told: GroupTime, term: u64, now: Instant) {
        let GroupTime { estimate, timeline } = told;
        let mut base = self.0.lock();
        let us = estimate * 1000;
        match &mut *base {
            Some(known) if known.timeline == timeline => {
                let term = known.term.max(term);
                *known = match us > known.estimate_us(now) {
                    true => Base { timeline, term, us, at: now, wall_ahead_us: 0 },
                    false => Base { term, ..*known },
                };
            }
            Some(known) if known.term > term => {}
            _ => *base = Some(Base { timeline, term, us, at: now, wall_ahead_us: 0 }),
        }
    }

    /// As after a restart.
    #[cfg(test)]
    pub fn forget(&self) {
        *self.0.lock() = None;
    }

    /// What the leader of `term` says at `now`; nothing before its first stamp.
    pub fn told(&self, term: u64, now: Instant) -> Option<GroupTime> {
        let base = self.0.lock().filter(|base| base.term == term)?;
        Some(GroupTime { estimate: base.estimate_us(now) / 1000, timeline: base.timeline })
    }

    /// The estimate, if any stamp was heard since the process started.
    pub fn estimate(&self, now: Instant) -> Option<Millis> {
        self.0.lock().map(|b| b.estimate_us(now) / 1000)
    }

    /// What `leader` stamps at `now`: the estimate, which from here on runs a little towards `wall`. `stored` is the clock in
    /// the state, and the term of its last entry.
    ///
    /// Without any stamp heard that is as new as the state it begins a timeline, with `median`, the median of the voters' wall clocks.
    pub fn stamp(
        &self,
        leader: Leadership,
        now: Instant,
        wall: Millis,
        median: impl FnOnce() -> Millis,
        stored: (Millis, u64),
    ) -> Millis {
        let mut base = self.0.lock();
        let known = base.filter(|base| base.term >= stored.1);
        let us = known.map_or_else(|| median() * 1000, |known| known.estimate_us(now)).max(stored.0 * 1000);
        let (timeline, wall_ahead_us) =
            (known.map_or(leader, |known| known.timeline), (wall * 1000) as i64 - us as i64);
        let term = known.map_or(leader.term, |known| known.term.max(leader.term));
        *base = Some(Base { timeline, term, us, at: now, wall_ahead_us });
        us / 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env;
    use crate::types::NodeId;
    use std::time::Duration;

    const FIRST: Leadership = Leadership { leader: NodeId(1), term: 1 };

    fn heard(clock: &GroupClock, estimate: Millis, now: Instant) {
        clock.observe(GroupTime { estimate, timeline: FIRST }, 1, now);
    }

    fn stamped(
        clock: &GroupClock,
        now: Instant,
        wall: Millis,
        median: impl FnOnce() -> Millis,
        stored: Millis,
    ) -> Millis {
        clock.stamp(FIRST, now, wall, median, (stored, 0))
    }

    #[test]
    fn an_outage_counts_and_a_delayed_stamp_does_not_turn_it_back() {
        let clock = GroupClock::default();
        let t0 = env::now();
        heard(&clock, 1_000, t0);
        let t1 = t0 + Duration::from_secs(60);
        assert_eq!(clock.estimate(t1), Some(61_000));
        heard(&clock, 2_000, t1);
        assert_eq!(clock.estimate(t1), Some(61_000));
        heard(&clock, 70_000, t1);
        assert_eq!(clock.estimate(t1), Some(70_000));
    }

    #[test]
    fn a_wall_clock_that_jumps_an_hour_moves_it_by_half_a_millisecond_a_second() {
        for wall in [0, 10_000_000] {
            let clock = GroupClock::default();
            let t0 = env::now();
            heard(&clock, 5_000_000, t0);
            let stamp = stamped(&clock, t0 + Duration::from_secs(10), wall, || unreachable!(), 0);
            assert!(stamp.abs_diff(5_010_000) <= 5, "{stamp}");
        }
    }

    #[test]
    fn a_stamp_is_never_below_an_estimate_that_was_given_before() {
        let clock = GroupClock::default();
        let t0 = env::now();
        stamped(&clock, t0, 0, || 5_000_000, 0);
        let later = t0 + Duration::from_secs(3600);
        let given = clock.estimate(later).unwrap();
        assert!(stamped(&clock, later, 0, || unreachable!(), 0) >= given);
        // An hour at 500 ppm is 1.8 s, and never more than the wall is behind.
        assert_eq!(given, 5_000_000 + 3_600_000 - 1_800);
        let near = GroupClock::default();
        stamped(&near, t0, 10_000_050, || 10_000_000, 0);
        assert_eq!(near.estimate(later), Some(10_000_050 + 3_600_000));
    }

    #[test]
    fn it_never_goes_back_however_often_it_is_stamped() {
        let clock = GroupClock::default();
        let t0 = env::now();
        let mut last = 0;
        for i in 0..10_000u64 {
            let stamp = stamped(&clock, t0 + Duration::from_micros(i * 37), 1_000, || 9_000, 0);
            assert!(stamp >= last);
            last = stamp;
        }
    }

    #[test]
    fn the_first_stamp_is_the_median_but_never_below_the_state() {
        let now = env::now();
        assert_eq!(stamped(&GroupClock::default(), now, 5, || 7_000, 1_000), 7_000);
        assert_eq!(stamped(&GroupClock::default(), now, 5, || 7_000, 9_000), 9_000);
    }

    /// Simulated seed 3096: two of three restarted while the third was cut off, one with a wrong wall clock, and went on from
    /// the clock in the state. When the third came to lead, keys expired early by the outage.
    #[test]
    fn who_was_cut_off_while_another_line_began_follows_it() {
        let (cut_off, t0) = (GroupClock::default(), env::now());
        heard(&cut_off, 60_000, t0);
        let (second, later) = (Leadership { leader: NodeId(2), term: 2 }, t0 + Duration::from_secs(5));
        let restarted = GroupClock::default();
        assert_eq!(restarted.told(2, later), None, "it has not stamped yet");
        assert_eq!(restarted.stamp(second, later, 0, || 0, (61_000, 1)), 61_000);
        let told = restarted.told(2, later).unwrap();
        assert_eq!(told, GroupTime { estimate: 61_000, timeline: second });
        assert_eq!(cut_off.estimate(later), Some(65_000));
        cut_off.observe(told, 2, later);
        assert_eq!(cut_off.estimate(later), Some(61_000));
        // What the old leader may still say does not turn it back, nor does a delayed message of the new one.
        heard(&cut_off, 65_000, later);
        cut_off.observe(GroupTime { estimate: 60_500, ..told }, 2, later);
        assert_eq!(cut_off.estimate(later), Some(61_000));
        let third = Leadership { leader: NodeId(3), term: 3 };
        assert_eq!(cut_off.stamp(third, later, 61_000, || unreachable!(), (61_000, 2)), 61_000);
        assert_eq!(cut_off.told(3, later).unwrap().timeline, second, "the timeline goes on");
        restarted.observe(GroupTime { estimate: 61_001, timeline: FIRST }, 4, later);
        assert_eq!(
            restarted.estimate(later),
            Some(61_001),
            "the newest leader's counts, whichever timeline began later"
        );
    }

    #[test]
    fn what_was_heard_before_the_state_came_from_elsewhere_is_out_of_date() {
        let (clock, t0) = (GroupClock::default(), env::now());
        heard(&clock, 60_000, t0);
        let third = Leadership { leader: NodeId(3), term: 3 };
        assert_eq!(clock.stamp(third, t0, 7_000, || 7_000, (9_000, 2)), 9_000);
        assert_eq!(clock.told(3, t0).unwrap().timeline, third);
    }
}
