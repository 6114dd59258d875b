//! Black-box fault runs of HyperCache: real processes, real sockets, no code of the server.
//!
//! `scripts/jepsen --workload register --nemesis kill --time 60`. How it works and how to add to it: jepsen/README.md.
//! What is proven by what: docs/internals/testing.md.
//!
//! Exit codes: 0 all passed (skipped parts are said aloud), 1 a run failed, 2 wrong usage or nothing could be run.

mod checkers;
mod cluster;
mod disk;
mod history;
mod nemeses;
mod net;
mod outcome;
mod plans;
mod report;
mod resp;
mod run;
mod stats;
mod summary;
mod sys;
mod workloads;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use history::History;
use nemeses::Nemesis;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;
use summary::{End, Row};
use workloads::Workload;

/// Fault runs: real nodes, real faults, clients whose history is judged.
#[derive(Parser)]
struct Arguments {
    /// What the clients do (--list).
    #[arg(long, default_value = "register")]
    workload: String,
    /// What goes wrong (--list).
    #[arg(long, default_value = "kill")]
    nemesis: String,
    /// Seconds of each run, final reads not included.
    #[arg(long)]
    time: Option<u64>,
    /// Decides commands and faults, not how they interleave.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Operations a second of all clients together.
    #[arg(long, default_value_t = 400)]
    rate: u64,
    /// Clients of each node.
    #[arg(long, default_value_t = 4)]
    clients: usize,
    /// At least so many seconds from one fault to the next.
    #[arg(long, default_value_t = 0)]
    every: u64,
    /// A setting of every node, such as `cluster.consistency_level=eventual`; to see a judge find what it should.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// Runs every pair of workload and nemesis that is planned.
    #[arg(long)]
    all: bool,
    /// Of all pairs only every N-th from the K-th on, so that N of these programs do all of them side by side.
    #[arg(long, value_name = "K/N", value_parser = share, requires = "all")]
    share: Option<(usize, usize)>,
    /// Runs the few pairs that belong to a test run.
    #[arg(long)]
    slice: bool,
    /// Says what workloads and nemeses there are.
    #[arg(long)]
    list: bool,
    /// Judges a history that was written before, by the workload's judge.
    #[arg(long, value_name = "HISTORY")]
    check: Option<PathBuf>,
    /// The server; hypercachectl must lie beside it. Default: beside this program.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Where histories, reports and logs go. Default: `jepsen` beside the folder of this program.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Adds a line with the totals to this table.
    #[arg(long, value_name = "TABLE")]
    record: Option<PathBuf>,
}

const DEFAULT_TIME: u64 = 30;

fn main() -> ExitCode {
    match go(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("jepsen: {e:#}");
            ExitCode::from(2)
        }
    }
}

fn go(arguments: &Arguments) -> Result<bool> {
    if arguments.list {
        workloads::all().iter().for_each(|w| println!("workload {:20} {}", w.name(), w.about()));
        nemeses::all().iter().for_each(|n| println!("nemesis  {:20} {}", n.name(), n.about()));
        return Ok(true);
    }
    if let Some(history) = &arguments.check {
        return check(history, find_workload(&arguments.workload)?.as_ref());
    }
    let pairs: Vec<(&str, &str)> = match (arguments.all, arguments.slice) {
        (true, true) => bail!("--all and --slice are two things"),
        (true, false) => {
            let (first, of) = arguments.share.unwrap_or((1, 1));
            plans::ALL.iter().skip(first - 1).step_by(of).copied().collect()
        }
        (false, true) => plans::SLICE.to_vec(),
        (false, false) => vec![(&arguments.workload, &arguments.nemesis)],
    };
    let here = std::env::current_exe()?;
    let beside = here.parent().context("a program is in a folder")?;
    let program = arguments.binary.clone().unwrap_or_else(|| beside.join("hypercache"));
    for file in [&program, &program.with_file_name("hypercachectl")] {
        ensure!(file.is_file(), "{} is not there: build it, or name another with --binary", file.display());
    }
    let out = arguments.out.clone().unwrap_or_else(|| beside.parent().unwrap_or(beside).join("jepsen"));
    // The servers' working directory is this one, but paths go into files as well.
    let out = std::path::absolute(out)?;
    let commit = commit(arguments.binary.is_some());
    println!("{}", summary::HEAD);
    let mut rows = Vec::new();
    for (workload, nemesis) in pairs {
        let row = one(arguments, workload, nemesis, &program, &out, &commit)?;
        println!("{}", row.line());
        rows.push(row);
    }
    print!("{}", summary::totals(&rows));
    println!("reports: {}", out.display());
    if let Some(table) = &arguments.record {
        summary::record(table, &commit, &rows)?;
    }
    Ok(rows.iter().all(|row| row.passed() || row.skipped()))
}

/// `2/3`: the second of three.
fn share(text: &str) -> Result<(usize, usize)> {
    let (first, of) = text.split_once('/').context("K/N is expected")?;
    let (first, of) = (first.parse()?, of.parse()?);
    ensure!((1..=of).contains(&first), "the first share of {of} is 1, the last {of}");
    Ok((first, of))
}

fn find_workload(name: &str) -> Result<Box<dyn Workload>> {
    workloads::all().into_iter().find(|w| w.name() == name).with_context(|| format!("no workload {name}; see --list"))
}

fn find_nemesis(name: &str) -> Result<Box<dyn Nemesis>> {
    nemeses::all().into_iter().find(|n| n.name() == name).with_context(|| format!("no nemesis {name}; see --list"))
}

/// Why a nemesis cannot be had on this machine.
fn missing(nemesis: &dyn Nemesis) -> Option<String> {
    let needs = nemesis.needs();
    if needs.root && !sys::is_root() {
        return Some("only root can do this".to_owned());
    }
    let program = needs.programs.iter().find(|program| !net::installed(program))?;
    Some(format!("{program} is not installed (scripts/packages)"))
}

/// One run, with its report.
fn one(arguments: &Arguments, workload: &str, nemesis: &str, program: &Path, out: &Path, commit: &str) -> Result<Row> {
    let (workload, mut nemesis) = (find_workload(workload)?, find_nemesis(nemesis)?);
    let names = [workload.name().to_owned(), nemesis.name().to_owned()];
    let row = |end| Row { workload: names[0].clone(), nemesis: names[1].clone(), seed: arguments.seed, end };
    if let Some(why) = missing(nemesis.as_ref()) {
        return Ok(row(End::Skipped(why)));
    }
    let time = arguments.time.unwrap_or(if arguments.slice { plans::SLICE_TIME } else { DEFAULT_TIME });
    let stamp = summary::date().replace([' ', ':'], "-");
    let name = format!("{}-{}-{}-{stamp}-{}", workload.name(), nemesis.name(), arguments.seed, std::process::id());
    let settings = run::Settings {
        program: program.to_owned(),
        time: Duration::from_secs(time),
        every: Duration::from_secs(arguments.every),
        set: arguments.set.clone(),
        seed: arguments.seed,
        rate: arguments.rate,
        workers_a_node: arguments.clients,
        namespaces: sys::is_root() && net::PROGRAMS.iter().all(|program| net::installed(program)),
        folder: out.join(name),
    };
    let finished = match run::run(workload.as_ref(), nemesis.as_mut(), &settings) {
        Ok(finished) => finished,
        Err(e) => return Ok(row(End::Broke(format!("{e:#}")))),
    };
    let set: String = arguments.set.iter().map(|setting| format!(" --set {setting}")).collect();
    let repeat = format!(
        "scripts/jepsen --workload {} --nemesis {} --time {time} --seed {} --rate {} --clients {} --every {}{set}",
        workload.name(),
        nemesis.name(),
        arguments.seed,
        arguments.rate,
        arguments.clients,
        arguments.every
    );
    let title = report::Title {
        workload: workload.name(),
        promise: workload.about(),
        nemesis: nemesis.name(),
        fault: nemesis.about(),
        seed: arguments.seed,
        repeat: &repeat,
        commit,
    };
    report::write(&settings.folder, &title, &finished)?;
    if !finished.failures.is_empty() {
        println!("{repeat}\n{}", settings.folder.join("report.html").display());
    }
    Ok(row(End::Finished(Box::new(finished))))
}

fn check(file: &Path, workload: &dyn Workload) -> Result<bool> {
    let history = History::read(file)?;
    let mut failures = Vec::new();
    let verdict = run::judge(workload, &history, &mut failures);
    println!("{} operations; {}", history.ops.len(), verdict.notes.join("; "));
    for anomaly in &verdict.anomalies {
        println!("{}: {}", anomaly.kind, anomaly.what);
        anomaly.ops.iter().for_each(|op| println!("    {}", op.story()));
    }
    verdict.undecided.iter().for_each(|key| println!("not judged in time: {key}"));
    verdict.unproven.iter().for_each(|why| println!("proves nothing: {why}"));
    println!("{}", if failures.is_empty() { "passed" } else { "failed" });
    Ok(failures.is_empty())
}

/// The commit of the working directory, for reports; `?` where the server was built by somebody else.
fn commit(foreign: bool) -> String {
    let git = |words: &[&str]| Command::new("git").args(words).output().ok().filter(|o| o.status.success());
    let Some(head) = git(&["rev-parse", "--short=9", "HEAD"]) else { return "unknown".to_owned() };
    let head = String::from_utf8_lossy(&head.stdout).trim().to_owned();
    let changed = git(&["status", "--porcelain", "--", "src", "Cargo.lock"]).is_some_and(|o| !o.stdout.is_empty());
    match (foreign, changed) {
        (true, _) => format!("{head}?"),
        (false, true) => format!("{head}+"),
        (false, false) => head,
    }
}
