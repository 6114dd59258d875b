//! Figures of a run: how many operations, how fast, and how long groups were not served.
//!
//! Availability is measured by the probes, and on the side of the majority: what clients of nodes saw that were killed,
//! frozen or cut off does not count while they were. A group counts as not served from one acknowledged probe to the next,
//! if that took longer than [`GRACE`].

use crate::history::{Fault, History, Op};
use crate::outcome::Outcome;
use std::time::Duration;

/// Probes come twenty times a second from every node; a busy machine makes them late.
pub const GRACE: Duration = Duration::from_millis(250);
/// Of the operations that the clients would have made, so many in a hundred must have succeeded without faults ...
pub const ENOUGH_IN_QUIET: u64 = 20;
/// ... and so many with a fault in place, on the majority's side.
const ENOUGH_IN_TROUBLE: u64 = 5;

#[derive(Debug, Default, Clone)]
pub struct Stats {
    pub ops: usize,
    pub ok: usize,
    pub failed: usize,
    pub open: usize,
    /// Of the operations that succeeded, in microseconds.
    pub p50: u64,
    pub p99: u64,
    pub most: u64,
    /// For each fault the longest time for which a group was not served on the majority's side; none without such a side.
    pub pauses: Vec<Option<Duration>>,
    /// Of the time on the majority's side, the part in which a group was served.
    pub availability: Option<f64>,
    /// Of the operations on the majority's side, the part that succeeded.
    pub answered: Option<f64>,
    pub seconds: f64,
    before: Part,
    during: Part,
    after: Part,
}

/// Operations of a part of the run.
#[derive(Debug, Default, Clone, Copy)]
struct Part {
    ok: u64,
    /// How many there would have been at full pace.
    wanted: u64,
}

impl Stats {
    pub fn of(history: &History, groups: usize, rate: u64) -> Stats {
        let ops = &history.ops;
        let count = |is: fn(&Outcome) -> bool| ops.iter().filter(|op| is(&op.outcome)).count();
        let mut took: Vec<u64> = ops.iter().filter(|op| op.is_ok()).map(|op| op.to - op.from).collect();
        took.sort_unstable();
        let at = |share: f64| took.get(((took.len().max(1) - 1) as f64 * share).round() as usize).copied().unwrap_or(0);
        let end = ops.iter().map(|op| op.to).max().unwrap_or(0);
        let mut stats = Stats {
            ops: ops.len(),
            ok: count(|o| matches!(o, Outcome::Ok(_))),
            failed: count(|o| matches!(o, Outcome::Failed(_))),
            open: count(|o| matches!(o, Outcome::Open(_) | Outcome::Broken(_))),
            p50: at(0.5),
            p99: at(0.99),
            most: at(1.0),
            seconds: end as f64 / 1e6,
            ..Stats::default()
        };
        stats.count_parts(history, rate, end);
        stats.pauses = history.faults.iter().map(|fault| longest_pause(history, fault, groups)).collect();
        stats.availability = availability(history, groups);
        stats.answered = answered(history);
        stats
    }

    fn count_parts(&mut self, history: &History, rate: u64, end: u64) {
        let wanted = |from: u64, to: u64| to.saturating_sub(from) * rate / 1_000_000;
        let first = history.faults.first().map_or(end, |f| f.begin);
        let last = history.faults.last().map_or(0, |f| f.recovered.min(end));
        let within = |op: &Op, from: u64, to: u64| op.is_ok() && op.from >= from && op.from < to;
        let ok = |from: u64, to: u64| history.ops.iter().filter(|op| within(op, from, to)).count() as u64;
        self.before = Part { ok: ok(0, first), wanted: wanted(0, first) };
        self.after = Part { ok: ok(last, end + 1), wanted: wanted(last, end) };
        for fault in &history.faults {
            let nodes = history.ops.iter().map(|op| op.node).max().unwrap_or(1);
            let majority = nodes.saturating_sub(fault.affected.len()) as u64;
            let seen = history
                .ops
                .iter()
                .filter(|op| within(op, fault.begin, fault.healed) && !fault.affected.contains(&op.node));
            self.during.ok += seen.count() as u64;
            self.during.wanted += wanted(fault.begin, fault.healed) * majority / nodes as u64;
        }
    }

    /// What makes the run prove nothing, if anything does.
    pub fn too_little(&self, without_faults: bool) -> Option<String> {
        let enough = |part: &Part, percent: u64| part.ok * 100 >= part.wanted * percent && part.ok > 0;
        let Part { ok, wanted } = self.before;
        if !enough(&self.before, ENOUGH_IN_QUIET) {
            return Some(format!("only {ok} of {wanted} operations succeeded before the first fault"));
        }
        if without_faults {
            return None;
        }
        if self.pauses.is_empty() {
            return Some("there was no fault".to_owned());
        }
        let Part { ok, wanted } = self.during;
        if wanted > 0 && !enough(&self.during, ENOUGH_IN_TROUBLE) {
            return Some(format!("only {ok} of {wanted} operations succeeded on the majority's side during faults"));
        }
        let Part { ok, wanted } = self.after;
        (!enough(&self.after, ENOUGH_IN_QUIET))
            .then(|| format!("only {ok} of {wanted} operations succeeded after the last fault"))
    }
}

/// The part of the operations on the majority's side that succeeded. Of an operation that began before a fault its node
/// may be lost in it; it counts for the fault's side.
fn answered(history: &History) -> Option<f64> {
    let nodes = history.ops.iter().map(|op| op.node).max()?;
    let lost = |op: &Op, f: &Fault| {
        op.to >= f.begin && op.from <= f.recovered && (f.affected.contains(&op.node) || f.affected.len() >= nodes)
    };
    let counted: Vec<&Op> = history.ops.iter().filter(|op| !history.faults.iter().any(|f| lost(op, f))).collect();
    let ok = counted.iter().filter(|op| op.is_ok()).count();
    (!counted.is_empty()).then(|| ok as f64 / counted.len() as f64)
}

/// When a group's probes were acknowledged by nodes outside `not`, in order.
fn acknowledged(history: &History, group: usize, not: impl Fn(usize, u64) -> bool) -> Vec<u64> {
    let seen = history.probes.iter().filter(|p| p.ok && p.group == group && !not(p.node, p.from));
    let mut times: Vec<u64> = seen.map(|p| p.to).collect();
    times.sort_unstable();
    times
}

/// The longest time without an acknowledged probe that overlaps a fault, over all groups.
fn longest_pause(history: &History, fault: &Fault, groups: usize) -> Option<Duration> {
    let nodes = history.probes.iter().map(|p| p.node).max()?;
    (fault.affected.len() < nodes).then(|| {
        let of_group = |group| {
            let times = acknowledged(history, group, |node, _| fault.affected.contains(&node));
            let overlapping = times.windows(2).filter(|pair| pair[1] >= fault.begin && pair[0] <= fault.recovered);
            overlapping.map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
        };
        Duration::from_micros((0..groups).map(of_group).max().unwrap_or(0))
    })
}

fn availability(history: &History, groups: usize) -> Option<f64> {
    let nodes = history.probes.iter().map(|p| p.node).max()?;
    let hit = |f: &&Fault, at: u64| f.begin <= at && at <= f.recovered;
    let without_majority = history.faults.iter().filter(|f| f.affected.len() >= nodes);
    let affected = |node: usize, at: u64| history.faults.iter().any(|f| hit(&f, at) && f.affected.contains(&node));
    let (mut down, mut whole) = (0u64, 0u64);
    for group in 0..groups {
        let times = acknowledged(history, group, affected);
        for pair in times.windows(2) {
            let nobody_could = without_majority.clone().any(|f| f.begin <= pair[1] && pair[0] <= f.recovered);
            if !nobody_could {
                whole += pair[1] - pair[0];
                down += Some(pair[1] - pair[0]).filter(|gap| *gap > GRACE.as_micros() as u64).unwrap_or(0);
            }
        }
    }
    (whole > 0).then(|| 1.0 - down as f64 / whole as f64)
}
