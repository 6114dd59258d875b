//! LATENCY: the moments at which something took longer than a threshold, a few of each kind, so that a hiccup can be seen
//! afterwards without having been watched.
//!
//! Nothing is kept while `latency-monitor-threshold` is 0, its default. Of one kind at most one sample a second is kept, the
//! longest of it, and at most [`SAMPLES_MAX`].

use crate::commands::node::LatencyEvent;
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};

/// Samples kept of one kind of event, as in Redis.
const SAMPLES_MAX: usize = 160;

/// A command that is not of constant cost, from being read to being answered, its quorum included.
pub(super) const COMMAND: &str = "command";
/// The same of a command whose cost does not depend on how much there is.
pub(super) const FAST_COMMAND: &str = "fast-command";

#[derive(Default)]
pub(super) struct Latency {
    events: Mutex<BTreeMap<&'static str, Samples>>,
}

#[derive(Default)]
struct Samples {
    max_ms: u64,
    /// Unix seconds and milliseconds, the newest last.
    kept: VecDeque<(u64, u64)>,
}

impl Latency {
    pub fn keep(&self, name: &'static str, unix_s: u64, ms: u64) {
        let mut events = self.events.lock();
        let samples = events.entry(name).or_default();
        samples.max_ms = samples.max_ms.max(ms);
        match samples.kept.back_mut() {
            Some((second, longest)) if *second == unix_s => *longest = ms.max(*longest),
            _ => samples.kept.push_back((unix_s, ms)),
        }
        if samples.kept.len() > SAMPLES_MAX {
            samples.kept.pop_front();
        }
    }

    pub fn all(&self) -> Vec<LatencyEvent> {
        let events = self.events.lock();
        let shown = |(name, samples): (&&'static str, &Samples)| LatencyEvent {
            name,
            max_ms: samples.max_ms,
            samples: samples.kept.iter().copied().collect(),
        };
        events.iter().map(shown).collect()
    }

    /// Forgets these kinds, or all if none is named; returns how many there were.
    pub fn reset(&self, names: &[String]) -> usize {
        let mut events = self.events.lock();
        let before = events.len();
        events.retain(|name, _| !names.is_empty() && !names.iter().any(|reset| reset.eq_ignore_ascii_case(name)));
        before - events.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_keeps_its_longest_and_old_ones_go() {
        let latency = Latency::default();
        [(1, 5), (1, 9), (1, 7), (2, 6)].into_iter().for_each(|(s, ms)| latency.keep(COMMAND, s, ms));
        let all = latency.all();
        assert_eq!((all[0].name, all[0].max_ms, all[0].samples.as_slice()), (COMMAND, 9, &[(1, 9), (2, 6)][..]));
        (3..500).for_each(|s| latency.keep(COMMAND, s, 1));
        assert_eq!(latency.all()[0].samples.len(), SAMPLES_MAX);
        assert_eq!(latency.all()[0].max_ms, 9, "the longest ever, although its sample is gone");
    }

    #[test]
    fn kinds_are_forgotten_by_name_or_all() {
        let latency = Latency::default();
        [COMMAND, FAST_COMMAND].into_iter().for_each(|name| latency.keep(name, 1, 1));
        assert_eq!(latency.reset(&["nonsense".to_owned()]), 0);
        assert_eq!(latency.reset(&["COMMAND".to_owned()]), 1);
        assert_eq!(latency.reset(&[]), 1);
        assert!(latency.all().is_empty());
    }
}
