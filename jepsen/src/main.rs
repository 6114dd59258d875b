//! Black-box fault runs of HyperCache: real processes, real sockets, no code of the server.
//!
//! `scripts/jepsen --workload register --nemesis kill --time 60`. What is proven by what: docs/internals/testing.md; how
//! it works: jepsen/README.md.

mod checkers;
mod cluster;
mod disk;
mod history;
mod nemeses;
mod net;
mod outcome;
mod resp;
mod run;
mod stats;
mod sys;
mod workloads;

use anyhow::{Context, Result};
use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Fault runs: clients, faults, judges.
#[derive(Parser)]
struct Arguments {
    #[arg(long, default_value = "register")]
    workload: String,
    #[arg(long, default_value = "none")]
    nemesis: String,
    /// Seconds from the first operation to the last.
    #[arg(long, default_value_t = 60)]
    time: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, default_value_t = 400)]
    rate: u64,
    #[arg(long)]
    binary: PathBuf,
    #[arg(long)]
    out: PathBuf,
}

fn main() -> ExitCode {
    match go() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("jepsen: {e:#}");
            ExitCode::from(2)
        }
    }
}

fn go() -> Result<bool> {
    let arguments = Arguments::parse();
    let workload = workloads::all().into_iter().find(|w| w.name() == arguments.workload).context("no such workload")?;
    let mut nemesis = nemeses::all().into_iter().find(|n| n.name() == arguments.nemesis).context("no such nemesis")?;
    let settings = run::Settings {
        program: arguments.binary,
        time: Duration::from_secs(arguments.time),
        seed: arguments.seed,
        rate: arguments.rate,
        workers_a_node: 4,
        namespaces: sys::is_root(),
        folder: run::folder_of(&arguments.out, "run")?,
    };
    let finished = run::run(workload.as_ref(), nemesis.as_mut(), &settings)?;
    println!("{:?}\n{:?}\n{:#?}", finished.stats, finished.verdict, finished.failures);
    for f in &finished.history.faults {
        println!("{f:?}");
    }
    Ok(finished.failures.is_empty())
}
