//! What many runs come to: a table on the terminal, and a line in a table that is kept.

use crate::run::{Failure, Finished};
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// How a run ended.
pub enum End {
    Finished(Box<Finished>),
    /// Not tried, with the reason.
    Skipped(String),
    /// The harness could not even begin, or gave up.
    Broke(String),
}

pub struct Row {
    pub workload: String,
    pub nemesis: String,
    pub seed: u64,
    pub end: End,
}

impl Row {
    pub fn passed(&self) -> bool {
        matches!(&self.end, End::Finished(finished) if finished.failures.is_empty())
    }

    pub fn skipped(&self) -> bool {
        matches!(self.end, End::Skipped(_))
    }

    /// One line of the table.
    pub fn line(&self) -> String {
        let name = format!("{:9} {:18} {:>6}", self.workload, self.nemesis, self.seed);
        match &self.end {
            End::Skipped(why) => format!("{name}  SKIPPED: {why}"),
            End::Broke(why) => format!("{name}  HARNESS FAILED: {why}"),
            End::Finished(finished) => {
                let stats = &finished.stats;
                let worst = stats.pauses.iter().flatten().max();
                let worst = worst.map_or("-".to_owned(), |p| format!("{:.2} s", p.as_secs_f64()));
                let answered = stats.answered.map_or("-".to_owned(), |a| format!("{:.2} %", a * 100.0));
                format!(
                    "{name}  {:>7} {:>7} {:>6} {:>5}  {:>6} {:>9} {:>9}  {}",
                    stats.ops,
                    stats.ok,
                    stats.failed,
                    stats.open,
                    finished.history.faults.len(),
                    worst,
                    answered,
                    verdict(&finished.failures),
                )
            }
        }
    }
}

pub const HEAD: &str =
    "workload  nemesis              seed      ops      ok    not  open  faults     pause  answered  verdict";

fn verdict(failures: &[Failure]) -> String {
    let Some(first) = failures.first() else { return "passed".to_owned() };
    let (kind, what) = match first {
        Failure::System(what) => ("VIOLATION", what),
        Failure::NoProof(what) => ("PROVES NOTHING", what),
        Failure::Harness(what) => ("HARNESS FAILED", what),
    };
    let what: String = what.lines().next().unwrap_or_default().chars().take(160).collect();
    let more = if failures.len() > 1 { format!(" (and {} more)", failures.len() - 1) } else { String::new() };
    format!("{kind}: {what}{more}")
}

/// A figure of many: the median, the 99th percentile and the largest.
fn figures(mut all: Vec<Duration>) -> Option<String> {
    all.sort_unstable();
    let at = |percent: usize| all.get(((all.len().max(1) - 1) * percent).div_ceil(100)).map(Duration::as_secs_f64);
    Some(format!("p50 {:.2} s, p99 {:.2} s, most {:.2} s of {}", at(50)?, at(99)?, at(100)?, all.len()))
}

/// Faults after which a group has to elect a new leader, for the figure of how long that takes.
const FAILOVERS: &[&str] = &["kill", "pause", "partition-leader", "power", "fsync-error", "fsync-kill"];

/// The end of what is printed: sums, skipped parts, pauses by fault.
pub fn totals(rows: &[Row]) -> String {
    let finished: Vec<(&Row, &Finished)> = rows
        .iter()
        .filter_map(|row| match &row.end {
            End::Finished(finished) => Some((row, finished.as_ref())),
            _ => None,
        })
        .collect();
    let sum = |of: fn(&Finished) -> usize| finished.iter().map(|(_, f)| of(f)).sum::<usize>();
    let mut text = String::new();
    for nemesis in FAILOVERS {
        let of_nemesis = finished.iter().filter(|(row, _)| row.nemesis == *nemesis);
        if let Some(figures) = figures(of_nemesis.flat_map(|(_, f)| f.stats.pauses.iter().flatten().copied()).collect())
        {
            text.push_str(&format!("longest pause of a group after {nemesis}: {figures}\n"));
        }
    }
    let passed = rows.iter().filter(|row| row.passed()).count();
    let skipped = rows.iter().filter(|row| row.skipped()).count();
    text.push_str(&format!(
        "{} operations under {} faults in {:.0} s: {passed} runs passed, {} failed, {skipped} skipped\n",
        sum(|f| f.stats.ops),
        sum(|f| f.history.faults.len()),
        finished.iter().map(|(_, f)| f.stats.seconds).fold(0.0, |sum, s| sum + s),
        rows.len() - passed - skipped,
    ));
    text
}

/// Day and hour in UTC, from the days since 1970 (Howard Hinnant's civil_from_days).
pub fn date() -> String {
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let z = (seconds / 86_400) as i64 + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + i64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02}", seconds / 3600 % 24, seconds / 60 % 60)
}

/// Adds a line to the kept table: | date | commit | seeds | hours | operations | faults (of classes) | findings |.
pub fn record(file: &Path, commit: &str, rows: &[Row]) -> Result<()> {
    let mut seeds: BTreeSet<u64> = BTreeSet::new();
    let mut classes: BTreeSet<&str> = BTreeSet::new();
    let (mut seconds, mut ops, mut faults, mut findings, mut others) = (0.0, 0, 0, 0, 0);
    for row in rows {
        match &row.end {
            End::Finished(finished) => {
                seeds.insert(row.seed);
                seconds += finished.stats.seconds;
                ops += finished.stats.ops;
                faults += finished.history.faults.len();
                if !finished.history.faults.is_empty() {
                    classes.insert(&row.nemesis);
                }
                let bad = finished.failures.iter().any(|f| matches!(f, Failure::System(_)));
                findings += usize::from(bad);
                others += usize::from(!bad && !finished.failures.is_empty());
            }
            End::Skipped(_) | End::Broke(_) => others += 1,
        }
    }
    let seeds: Vec<String> = seeds.iter().map(u64::to_string).collect();
    let line = format!(
        "| {} | {commit} | {} | {:.2} | {ops} | {faults} of {} kinds | {findings} | {others} |\n",
        date(),
        seeds.join(" "),
        seconds / 3600.0,
        classes.len()
    );
    let mut out = OpenOptions::new().append(true).open(file).with_context(|| file.display().to_string())?;
    out.write_all(line.as_bytes())?;
    Ok(())
}
