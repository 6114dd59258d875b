//! Deterministic simulation of whole nodes: the same seed gives the same run, byte for byte.
//!
//! ```text
//! sim run --seed N [--planted BUG] [--trace FILE]     one seed, in this process
//! sim many --seeds N [--from S] [--jobs J]            seeds in processes of their own
//! sim planted [--jobs J]                              every planted bug must be found
//! sim twice [--seeds N] [--from S]                    the same seed twice gives the same trace
//! sim plans [--seeds N] [--from S]                    what seeds decide
//! ```
//!
//! What is simulated and what is not, and what each rule is: `docs/internals/testing.md`. What decides a run is in `plan.rs`,
//! what must hold in `invariants/`.

mod client;
mod coverage;
mod entropy;
mod faults;
mod history;
mod invariants;
mod node;
mod observe;
mod plan;
mod pool;
mod run;
mod story;

use clap::{Parser, Subcommand};
use hypercache::planted::{self, Bug};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "sim", about = "Deterministic simulation of whole nodes")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs one seed in this process
    Run {
        #[arg(long)]
        seed: u64,
        /// A bug to plant, by its name in src/planted.rs
        #[arg(long)]
        planted: Option<String>,
        /// Where to write everything that happened
        #[arg(long)]
        trace: Option<PathBuf>,
    },
    /// Runs seeds, each in a process of its own
    Many {
        #[arg(long, default_value_t = 20)]
        seeds: u64,
        #[arg(long, default_value_t = 1)]
        from: u64,
        #[arg(long, default_value_t = 2)]
        jobs: usize,
        /// Fail also if some fault met the cluster in some phase never
        #[arg(long)]
        whole: bool,
        /// A table to which a line is added
        #[arg(long, requires = "stamp")]
        record: Option<PathBuf>,
        /// What the line begins with: date and commit
        #[arg(long)]
        stamp: Option<String>,
    },
    /// Plants every bug, and fails if one is not found
    Planted {
        /// Only this one
        #[arg(long)]
        bug: Option<String>,
        /// From the seed on that is pinned for each
        #[arg(long)]
        pinned: bool,
        #[arg(long, default_value_t = 2)]
        jobs: usize,
    },
    /// Says what seeds decide, and runs nothing
    Plans {
        #[arg(long, default_value_t = 20)]
        seeds: u64,
        #[arg(long, default_value_t = 1)]
        from: u64,
    },
    /// Runs each seed twice and compares the traces
    Twice {
        #[arg(long, default_value_t = 1)]
        seeds: u64,
        #[arg(long, default_value_t = 1)]
        from: u64,
    },
}

fn bug(name: &str) -> Option<Bug> {
    Bug::ALL.into_iter().find(|bug| format!("{bug:?}").eq_ignore_ascii_case(name))
}

fn main() -> ExitCode {
    let passed = match Cli::parse().command {
        Command::Run { seed, planted, trace } => one(seed, planted.as_deref(), trace),
        Command::Many { seeds, from, jobs, whole, record, stamp } => {
            let record = record.zip(stamp).map(|(file, stamp)| pool::Record { file, stamp });
            pool::many(from, seeds, jobs, whole, record)
        }
        Command::Planted { bug, pinned, jobs } => pool::planted(bug.as_deref(), pinned, jobs),
        Command::Plans { seeds, from } => {
            (from..from + seeds).for_each(|seed| println!("{}", plan::Plan::draw(seed)));
            true
        }
        Command::Twice { seeds, from } => pool::twice(from, seeds),
    };
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Lines of the story that are shown when a seed fails.
const SHOWN: usize = 60;

fn one(seed: u64, name: Option<&str>, trace: Option<PathBuf>) -> bool {
    if let Some(name) = name {
        let Some(bug) = bug(name) else {
            eprintln!("sim: no bug is called {name}; there are {:?}", Bug::ALL);
            return false;
        };
        planted::plant(bug);
    }
    // Names are drawn from the same entropy, so processes tell their directories apart by their numbers.
    let prefix = format!("sim-{}-", std::process::id());
    let dir = tempfile::Builder::new().prefix(&prefix).tempdir().expect("a temporary directory can be made");
    entropy::begin(seed);
    let verdict = run::run(seed, dir.path());
    let told = story::told();
    if let Some(file) = &trace {
        let text = told.join("\n") + "\n";
        std::fs::write(file, text).expect("the trace can be written");
    }
    match &verdict.failure {
        None => println!(
            "seed {seed} ok: {:.1} s, {} operations, {} succeeded, {} faults",
            verdict.virtual_time.as_secs_f64(),
            verdict.operations,
            verdict.done,
            verdict.coverage.faults()
        ),
        Some(failure) => {
            told[told.len().saturating_sub(SHOWN)..].iter().for_each(|line| println!("{line}"));
            println!("seed {seed} FAILED: {failure}");
            let planted = name.map(|name| format!(" --planted {name}")).unwrap_or_default();
            println!("again, with everything that happened: scripts/sim run --seed {seed}{planted} --trace story.txt");
        }
    }
    let (seconds, coverage) = (verdict.virtual_time.as_secs_f64(), verdict.coverage.words());
    println!("{} seconds={seconds} operations={} {coverage}", pool::SUMMARY, verdict.operations);
    verdict.failure.is_none()
}
