//! fsync-error, fsync-slow, fsync-lie, fsync-kill: the syncs of one node's log fail, take long, do nothing, or the process
//! dies within one. strace is attached to the thread that syncs the log, and to no other, for as long as the fault lasts.
//!
//! A node whose sync failed must end (exit code 74) and never try again. A disk that lies is harmless as long as its node
//! keeps its power, so afterwards the node is killed and comes back from its page cache; a disk that lies *and* loses its
//! power has lost what it promised to keep, which no cluster of three survives twice.

use super::{Injected, Needs, Nemesis, between, victim};
use crate::cluster::Cluster;
use crate::net::must;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Error,
    Slow,
    Lie,
    Kill,
}

/// The server's name for the thread that writes and syncs the log (docs/ARCHITECTURE.md).
const WRITER: &str = "log-writer";
const CALLS: &str = "fdatasync,fsync,sync_file_range";
/// How a node ends after a sync failed.
const EXIT_OF_FAILED_DISK: i32 = 74;
/// Within this the fault must have shown.
const SHOWN: Duration = Duration::from_secs(20);

pub struct Fsync {
    kind: Kind,
    node: usize,
    strace: Option<Child>,
    log: PathBuf,
}

impl Fsync {
    pub fn new(kind: Kind) -> Fsync {
        Fsync { kind, node: 0, strace: None, log: PathBuf::new() }
    }

    /// Ends strace, which lets the thread go on, and counts what it did.
    fn detach(&mut self) -> Result<usize> {
        if let Some(mut child) = self.strace.take() {
            // It may have ended with what it was attached to.
            let _ = must(Command::new("kill").args(["-TERM", &child.id().to_string()]));
            child.wait()?;
        }
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        Ok(log.matches("(INJECTED)").count() + log.matches("(DELAYED)").count())
    }

    fn inject_words(&self, rng: &mut fastrand::Rng) -> String {
        match self.kind {
            Kind::Error => format!("{CALLS}:error=EIO:when={}", rng.u8(1..20)),
            Kind::Slow => format!("{CALLS}:delay_exit={}", rng.u32(100_000..400_000)),
            Kind::Lie => format!("{CALLS}:retval=0"),
            Kind::Kill => format!("{CALLS}:signal=KILL:when={}", rng.u8(1..40)),
        }
    }
}

fn log_writer(pid: u32) -> Result<String> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = task?.path();
        if fs::read_to_string(path.join("comm")).unwrap_or_default().trim() == WRITER {
            return Ok(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
        }
    }
    anyhow::bail!("process {pid} has no thread {WRITER}")
}

impl Nemesis for Fsync {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Error => "fsync-error",
            Kind::Slow => "fsync-slow",
            Kind::Lie => "fsync-lie",
            Kind::Kill => "fsync-kill",
        }
    }

    fn about(&self) -> &'static str {
        match self.kind {
            Kind::Error => "a sync of one node's log fails with EIO: the node must end",
            Kind::Slow => "every sync of one node's log takes a tenth to four tenths of a second longer",
            Kind::Lie => "the syncs of one node's log do nothing and say that they did; then it is killed",
            Kind::Kill => "one node dies within a sync of its log",
        }
    }

    fn needs(&self) -> Needs {
        Needs { root: true, programs: &["strace"], nodes: None }
    }

    fn inject(&mut self, cluster: &mut Cluster, rng: &mut fastrand::Rng) -> Result<Option<Injected>> {
        self.node = victim(cluster, rng)?;
        self.log = cluster.node(self.node)?.folder().join("strace");
        let _ = fs::remove_file(&self.log);
        let thread = log_writer(cluster.pid(self.node)?)?;
        let inject = self.inject_words(rng);
        let mut strace = Command::new("strace");
        strace.args(["-q", "-p", &thread, "-e", &format!("trace={CALLS}"), "-e", &format!("inject={inject}"), "-o"]);
        strace.arg(&self.log).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.strace = Some(strace.spawn().context("strace")?);
        let hold = match self.kind {
            Kind::Error | Kind::Kill => Duration::ZERO,
            Kind::Slow | Kind::Lie => between(rng, 2000, 5000),
        };
        let what = format!("node {}: {inject}", self.node);
        Ok(Some(Injected { what, affected: vec![self.node], hold }))
    }

    fn prove(&mut self, cluster: &mut Cluster) -> Result<String> {
        let began = Instant::now();
        let ends = matches!(self.kind, Kind::Error | Kind::Kill);
        while ends && began.elapsed() < SHOWN {
            if let Some(status) = cluster.ended(self.node)? {
                if self.kind == Kind::Error {
                    ensure!(status.code() == Some(EXIT_OF_FAILED_DISK), "node {} ended with {status}", self.node);
                }
                thread::sleep(Duration::from_millis(300));
                let count = self.detach()?;
                let how =
                    if self.kind == Kind::Kill { String::new() } else { format!("; strace changed {count} calls") };
                return Ok(format!("node {} ended: {status}{how}", self.node));
            }
            thread::sleep(Duration::from_millis(20));
        }
        let count = self.detach()?;
        ensure!(!ends, "node {} did not end within {SHOWN:?}, {count} calls changed", self.node);
        ensure!(count > 0, "strace changed no call");
        if self.kind == Kind::Lie {
            cluster.kill(&[self.node])?;
        }
        Ok(format!("strace changed {count} syncs of node {}", self.node))
    }

    fn heal(&mut self, cluster: &mut Cluster) -> Result<()> {
        self.detach()?;
        if self.node != 0 && !cluster.running().contains(&self.node) {
            cluster.start_node(self.node)?;
        }
        Ok(())
    }
}
