//! Seeds in processes of their own, several at a time.

use hypercache::planted::Bug;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Seeds in which a planted bug must be found.
const WITHIN: u64 = 40;

/// Seeds from a pinned one on that are tried: any change of the server changes what a seed does.
const NEAR: u64 = 8;

/// For each bug a seed that found it.
const PINNED: &[(Bug, u64)] = &[
    (Bug::AcknowledgeBeforeSync, 21),
    (Bug::CountVoteTwice, 1),
    (Bug::ReadUnconfirmed, 1),
    (Bug::NoQuarantine, 1),
    (Bug::CampaignInQuarantine, 4),
    (Bug::LongLease, 12),
    (Bug::ExpiryByLocalClock, 3),
    (Bug::FollowerSweeps, 1),
    (Bug::RetryUnknown, 28),
    (Bug::AppliedAheadOfState, 6),
    (Bug::LeaderRestored, 1),
];

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

/// Runs seeds; true if all passed.
#[allow(clippy::disallowed_methods)]
pub fn many(from: u64, seeds: u64, jobs: usize) -> bool {
    let began = Instant::now();
    let (passed, failed) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    each(from..from + seeds, jobs, |seed| {
        let output = child(&run_of(seed, None));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        print!("{said}");
        if output.status.success() {
            passed.fetch_add(1, Ordering::Relaxed);
        } else {
            eprint!("{}", String::from_utf8_lossy(&output.stderr));
            failed.lock().expect("nobody panics with it").push(seed);
        }
    });
    let failed = failed.into_inner().expect("nobody panics with it");
    let time = began.elapsed().as_secs_f64();
    let a_minute = seeds as f64 / time * 60.0;
    println!(
        "sim: {} seeds passed, {} failed {failed:?}, in {time:.0} s ({a_minute:.0} a minute)",
        passed.into_inner(),
        failed.len()
    );
    failed.is_empty()
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
            (true, None) | (false, _) => (1..=WITHIN).collect(),
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
