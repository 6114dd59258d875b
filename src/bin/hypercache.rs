//! The server, the demo and the care of configuration files, as one program.
//!
//! It only reads the command line: what is done, the library does. Standard output carries what was asked for, standard
//! error everything else. Exit codes: 0 done, 1 failed, 2 a mistake in the command line or the configuration.

use clap::{Args, Parser, Subcommand};
use hypercache::config::{self, Loaded, Sources};
use hypercache::{demo, node, telemetry};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

// RocksDB uses the same allocator, so that there is one account of memory.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A mistake in the command line or the configuration.
const EXIT_USAGE: u8 = 2;

/// A Raft-replicated, strongly consistent cache cluster that speaks Redis' protocol.
#[derive(Parser)]
#[command(name = "hypercache", version, args_conflicts_with_subcommands = true, arg_required_else_help = true)]
struct Line {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// Runs one node until it is told to stop (SIGTERM).
    Server(Settings),
    /// Runs a whole cluster on this machine, in the foreground.
    Demo(Demo),
    /// Looks after configuration files.
    Config {
        #[command(subcommand)]
        verb: ConfigVerb,
    },
}

#[derive(Args)]
struct Settings {
    /// The configuration file. Defaults < file < environment HYPERCACHE__SECTION__KEY < flags.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Adds N to every port, those of the seeds included.
    #[arg(long, value_name = "N", default_value_t = 0)]
    port_offset: u16,
    /// Sets one setting, such as --set logging.level=debug. May be given again.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// The node's name (node.id).
    #[arg(long, value_name = "NAME")]
    node_id: Option<String>,
    /// What fails together with the node: a rack, a hall, a site (node.zone).
    #[arg(long, value_name = "NAME")]
    zone: Option<String>,
    /// Where the node keeps its files (node.data_dir).
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// On an empty data directory: waits to be added to a cluster that there is (cluster.join).
    #[arg(long)]
    join: bool,
    /// Prints the configuration as it is put together, and ends.
    #[arg(long)]
    print_config: bool,
    /// With --print-config: says where each value comes from.
    #[arg(long, requires = "print_config")]
    sources: bool,
}

#[derive(Args)]
struct Demo {
    /// How many nodes a fresh cluster has [default: 3].
    #[arg(long, value_name = "N")]
    nodes: Option<u64>,
    /// Where the cluster's files are. One that holds a cluster already is started again.
    #[arg(long, value_name = "DIR", default_value = "./data/demo")]
    dir: PathBuf,
    /// Adds N to every port of a fresh cluster.
    #[arg(long, value_name = "N")]
    port_offset: Option<u16>,
    /// Sets one setting on every node. May be given again.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// Kills leaders while 50 connections write, then reads every acknowledged key back.
    #[arg(long)]
    chaos: bool,
    /// How long to go on killing.
    #[arg(long, value_name = "N", default_value_t = 30, requires = "chaos", value_parser = clap::value_parser!(u64).range(3..=86_400))]
    seconds: u64,
}

#[derive(Subcommand)]
enum ConfigVerb {
    /// Says everything that is wrong with a file, with line and column.
    Check { file: PathBuf },
    /// Prints every setting with its meaning and its default.
    Defaults,
}

/// How this process ends badly.
enum Failure {
    Usage(String),
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::Failed(error)
    }
}

fn main() -> ExitCode {
    let line = Line::parse();
    let outcome = match line.verb {
        None => print_config(&line.settings),
        Some(Verb::Server(settings)) if settings.print_config => print_config(&settings),
        Some(Verb::Server(settings)) => server(&settings),
        Some(Verb::Demo(options)) => run_demo(options),
        Some(Verb::Config { verb: ConfigVerb::Check { file } }) => check(&file),
        Some(Verb::Config { verb: ConfigVerb::Defaults }) => {
            print!("{}", config::every_key());
            Ok(())
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(text)) => {
            eprintln!("{text}");
            ExitCode::from(EXIT_USAGE)
        }
        Err(Failure::Failed(error)) => {
            let text = format!("{error:#}");
            // Some say so themselves, with their number.
            let prefix = if text.starts_with("error[") { "" } else { "error: " };
            eprintln!("{prefix}{text}");
            ExitCode::FAILURE
        }
    }
}

impl Settings {
    fn load(&self) -> Result<Loaded, Failure> {
        let mut sources = Sources::of_process(self.config.as_deref());
        sources.port_offset = self.port_offset;
        sources.flags.clone_from(&self.set);
        sources.flags.extend(self.node_id.iter().map(|name| format!("node.id={name}")));
        sources.flags.extend(self.zone.iter().map(|zone| format!("node.zone={zone}")));
        sources.flags.extend(self.data_dir.iter().map(|folder| format!("node.data_dir={}", folder.display())));
        sources.flags.extend(self.join.then(|| "cluster.join=true".to_owned()));
        config::load(&sources).map_err(|problems| Failure::Usage(problems.to_string()))
    }
}

fn print_config(settings: &Settings) -> Result<(), Failure> {
    if !settings.print_config {
        return Err(Failure::Usage("nothing to do: give a command (see --help), or --print-config".to_owned()));
    }
    print!("{}", settings.load()?.print(settings.sources));
    Ok(())
}

fn server(settings: &Settings) -> Result<(), Failure> {
    let loaded = settings.load()?;
    let taken = loaded.taken_ports();
    if !taken.is_empty() {
        let lines: Vec<String> = taken.iter().map(ToString::to_string).collect();
        return Err(Failure::Failed(anyhow::anyhow!(lines.join("\n"))));
    }
    // Held to the end, so that what waits to be logged is written.
    let _logs = telemetry::start(&loaded.config.logging).map_err(anyhow::Error::from)?;
    for warning in &loaded.warnings {
        tracing::warn!(event = "config_warning", "{warning}");
    }
    Ok(node::run(loaded.config)?)
}

fn run_demo(options: Demo) -> Result<(), Failure> {
    let chaos = options.chaos.then(|| Duration::from_secs(options.seconds));
    Ok(demo::run(&demo::Options {
        nodes: options.nodes,
        folder: options.dir,
        port_offset: options.port_offset,
        overrides: options.set,
        chaos,
    })?)
}

fn check(file: &std::path::Path) -> Result<(), Failure> {
    // The file alone: what this shell's environment says is not the file's fault.
    let sources = Sources { file: Some(file), ..Sources::default() };
    let loaded = config::load(&sources).map_err(|problems| Failure::Usage(problems.to_string()))?;
    for warning in &loaded.warnings {
        println!("warning: {warning}");
    }
    let users = node::users(&loaded.config).map_err(|error| Failure::Usage(format!("{error:#}")))?;
    node::check_protection(&loaded.config, &users).map_err(|error| Failure::Usage(format!("{error:#}")))?;
    println!("{}: fine", file.display());
    Ok(())
}
