//! Seeds in processes of their own, several at a time.

use crate::coverage::Coverage;
use crate::plan::{GROUPING, MOVING, WIDE};
use hypercache::planted::Bug;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::time::Instant;

/// Seeds in which a planted bug must be found.
const WITHIN: u64 = 40;

/// Seeds from a pinned one on that are tried: any change of the server changes what a seed does.
const NEAR: u64 = 16;

/// For each bug a seed that found it.
const PINNED: &[(Bug, u64)] = &[
    (Bug::AcknowledgeBeforeSync, 31),
    (Bug::CountVoteTwice, 1),
    (Bug::ReadUnconfirmed, 1),
    (Bug::NoQuarantine, 1),
    (Bug::CampaignInQuarantine, 10),
    (Bug::LongLease, WIDE + 9),
    (Bug::ExpiryByLocalClock, 20),
    (Bug::FollowerSweeps, 1),
    (Bug::RetryUnknown, WIDE + 1),
    (Bug::AppliedAheadOfState, 6),
    (Bug::ConfirmedBlindly, 31),
    (Bug::LeaderRestored, 1),
    (Bug::EvictByReplica, 1),
    (Bug::PurgeBeforePublish, 6),
    (Bug::HeadAfterCut, 6),
    (Bug::JoinRunningRound, 17),
    (Bug::BoundedUnbounded, 25),
    (Bug::TimeUpWhenServed, WIDE + 12),
    (Bug::WatchIgnored, WIDE + 1),
    (Bug::AbsenceForgotten, WIDE + 30),
    (Bug::GoneWhileVoting, WIDE + 16),
    (Bug::SlotCheckedAtDoor, MOVING),
    (Bug::StaleRing, MOVING + 16),
    (Bug::DroppedUnmarked, GROUPING),
    (Bug::BuriedUnasked, GROUPING + 190),
    (Bug::FoundedByHearsay, GROUPING),
];

/// Where the search for a seed begins: these need what only wide ones have.
fn first_seed(bug: Bug) -> u64 {
    match bug {
        Bug::TimeUpWhenServed | Bug::WatchIgnored | Bug::AbsenceForgotten | Bug::GoneWhileVoting => WIDE,
        Bug::SlotCheckedAtDoor | Bug::StaleRing => MOVING,
        Bug::DroppedUnmarked | Bug::FoundedByHearsay => GROUPING,
        // One seed in twenty, but not among the first.
        Bug::BuriedUnasked => GROUPING + 160,
        _ => 1,
    }
}

fn child(arguments: &[String]) -> Output {
    let me = std::env::current_exe().expect("the program knows where it is");
    Command::new(me).args(arguments).output().expect("the program can be started again")
}

fn run_of(seed: u64, planted: Option<Bug>) -> Vec<String> {
    let mut arguments = vec!["run".to_owned(), "--seed".to_owned(), seed.to_string()];
    if let Some(bug) = planted {
        arguments.extend(["--planted".to_owned(), format!("{bug:?}")]);
    }
    arguments
}

/// Does `work` for every seed on so many threads.
fn each(seeds: impl Iterator<Item = u64> + Send, jobs: usize, work: impl Fn(u64) + Sync) {
    let seeds = Mutex::new(seeds);
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let next = seeds.lock().expect("nobody panics with it").next();
                    match next {
                        Some(seed) => work(seed),
                        None => return,
                    }
                }
            });
        }
    });
}

/// What begins the line in which a run says what it came to, for whoever runs many.
pub const SUMMARY: &str = "came-to";

/// What many runs came to.
#[derive(Default)]
struct Sum {
    seeds: u64,
    failed: Vec<u64>,
    virtual_seconds: f64,
    operations: u64,
    coverage: Coverage,
}

impl Sum {
    /// Adds a run; what it said to people comes back.
    fn add(&mut self, seed: u64, passed: bool, said: &str) -> String {
        self.seeds += 1;
        if !passed {
            self.failed.push(seed);
        }
        let (summary, rest): (Vec<&str>, Vec<&str>) = said.lines().partition(|line| line.starts_with(SUMMARY));
        for words in summary {
            let number = |name: &str| words.split(' ').find_map(|word| word.strip_prefix(name)?.parse::<f64>().ok());
            self.virtual_seconds += number("seconds=").unwrap_or(0.0);
            self.operations += number("operations=").unwrap_or(0.0) as u64;
            self.coverage.add(words);
        }
        rest.join("\n")
    }

    /// A line of the table that is kept: | date | commit | seeds | virtual hours | operations | faults | findings |.
    fn record(&self, from: u64, kept: &Record) -> std::io::Result<()> {
        let line = format!(
            "| {} | {from}..{} | {:.2} | {} | {} | {} |\n",
            kept.stamp,
            from + self.seeds - 1,
            self.virtual_seconds / 3600.0,
            self.operations,
            self.coverage.faults(),
            self.failed.len()
        );
        std::fs::OpenOptions::new().append(true).open(&kept.file)?.write_all(line.as_bytes())
    }
}

/// Where a line about a run is kept, and what it begins with: date and commit.
pub struct Record {
    pub file: PathBuf,
    pub stamp: String,
}

/// Runs seeds and says which faults met the cluster in which phase; true if all passed. Of many, every fault must have met
/// every phase (`whole`).
#[allow(clippy::disallowed_methods)]
pub fn many(from: u64, seeds: u64, jobs: usize, whole: bool, record: Option<Record>) -> bool {
    let began = Instant::now();
    let sum = Mutex::new(Sum::default());
    each(from..from + seeds, jobs, |seed| {
        let output = child(&run_of(seed, None));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let passed = output.status.success();
        println!("{}", sum.lock().expect("nobody panics with it").add(seed, passed, &said));
        if !passed {
            eprint!("{}", String::from_utf8_lossy(&output.stderr));
        }
    });
    let sum = sum.into_inner().expect("nobody panics with it");
    println!("{}", sum.coverage.table());
    let holes = sum.coverage.holes();
    println!("{holes} pairs of fault and phase did not meet");
    if let Some(record) = record {
        sum.record(from, &record).expect("the table of totals can be written");
    }
    let time = began.elapsed().as_secs_f64();
    println!(
        "sim: {} seeds passed, {} failed {:?}, {} operations under {} faults in {:.0} virtual and {time:.0} real seconds ({:.0} seeds a minute)",
        sum.seeds - sum.failed.len() as u64,
        sum.failed.len(),
        sum.failed,
        sum.operations,
        sum.coverage.faults(),
        sum.virtual_seconds,
        seeds as f64 / time * 60.0
    );
    sum.failed.is_empty() && !(whole && holes > 0)
}

/// Plants each bug and runs seeds until one finds it; true if all were found.
pub fn planted(only: Option<&str>, pinned: bool, jobs: usize) -> bool {
    let bugs: Vec<Bug> = Bug::ALL
        .into_iter()
        .filter(|bug| only.is_none_or(|name| format!("{bug:?}").eq_ignore_ascii_case(name)))
        .collect();
    let mut found: BTreeMap<String, Option<(u64, String)>> = BTreeMap::new();
    for bug in &bugs {
        let pin = PINNED.iter().find(|(known, _)| known == bug).map(|(_, seed)| *seed);
        let seeds: Vec<u64> = match (pinned, pin) {
            (true, Some(seed)) => (seed..seed + NEAR).collect(),
            (true, None) | (false, _) => (first_seed(*bug)..first_seed(*bug) + WITHIN).collect(),
        };
        let first: Mutex<Option<(u64, String)>> = Mutex::new(None);
        each(seeds.into_iter(), jobs, |seed| {
            // Seeds are begun in order, so a later one is not needed any more.
            if first.lock().expect("nobody panics with it").is_some() {
                return;
            }
            let output = child(&run_of(seed, Some(*bug)));
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let marker = format!("seed {seed} FAILED: ");
            if let Some(at) = said.find(&marker) {
                let why = said[at + marker.len()..].lines().next().unwrap_or_default().to_owned();
                let mut first = first.lock().expect("nobody panics with it");
                if first.as_ref().is_none_or(|(known, _)| seed < *known) {
                    *first = Some((seed, why));
                }
            }
        });
        let first = first.into_inner().expect("nobody panics with it");
        match &first {
            Some((seed, why)) => println!("planted {bug:?}: found by seed {seed}: {why}"),
            None => println!("planted {bug:?}: NOT FOUND"),
        }
        found.insert(format!("{bug:?}"), first);
    }
    let missed: Vec<&String> = found.iter().filter(|(_, by)| by.is_none()).map(|(bug, _)| bug).collect();
    println!("sim: {} of {} planted bugs found, missed {missed:?}", found.len() - missed.len(), found.len());
    missed.is_empty() && !found.is_empty()
}

/// Runs each seed twice and compares everything that happened; true if nothing differs.
pub fn twice(from: u64, seeds: u64) -> bool {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    (from..from + seeds).all(|seed| {
        let traces = ["first", "second"].map(|name| trace_of(seed, &dir.path().join(name)));
        match traces[0].iter().zip(&traces[1]).position(|(a, b)| a != b) {
            None if traces[0].len() == traces[1].len() && !traces[0].is_empty() => {
                println!("seed {seed}: {} lines, twice the same", traces[0].len());
                true
            }
            differs => {
                let at = differs.unwrap_or(traces[0].len().min(traces[1].len()));
                println!("seed {seed} is NOT repeatable from line {at} on:");
                traces.iter().for_each(|trace| println!("  {}", trace.get(at).map_or("(end)", String::as_str)));
                false
            }
        }
    })
}

fn trace_of(seed: u64, file: &Path) -> Vec<String> {
    let mut arguments = run_of(seed, None);
    arguments.extend(["--trace".to_owned(), file.display().to_string()]);
    child(&arguments);
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}
