//! The nodes as processes: started, watched, killed for the chaos, stopped in the end.
//!
//! Invariant: a child that was started is waited for. Its output goes to its log, which is put aside when it has grown
//! large.

use super::signals::{self, Stop};
use super::{Node, layout};
use crate::env;
use anyhow::{Context, bail};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::{Child, Command};

/// How long an orderly stop may take; after it a node is killed.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// How often the children are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// A log that is larger than this is put aside when its node starts, in bytes.
const LOG_BYTES_MAX: u64 = 16 << 20;

/// How much of a log's end is shown.
const TAIL_LINES: usize = 20;
const TAIL_BYTES: u64 = 16 << 10;

/// The processes of a cluster's nodes, in the nodes' order.
pub struct Children<'a> {
    nodes: &'a [Node],
    /// `--set` for each of them.
    overrides: Vec<String>,
    running: Vec<Option<Child>>,
}

impl<'a> Children<'a> {
    pub fn new(nodes: &'a [Node], overrides: Vec<String>) -> Children<'a> {
        Children { nodes, overrides, running: nodes.iter().map(|_| None).collect() }
    }

    /// Starts a node that is not running.
    pub fn start(&mut self, index: usize) -> anyhow::Result<()> {
        let node = &self.nodes[index];
        let program = std::env::current_exe().context("finding this program's file")?;
        let log = self.open_log(index)?;
        let mut command = Command::new(program);
        command.arg("server").arg("--config").arg(&node.file);
        for (name, _) in std::env::vars_os() {
            // One variable for all nodes would give them all the same ports; their files and --set say everything.
            if name.to_string_lossy().starts_with(crate::config::ENVIRONMENT_PREFIX) {
                command.env_remove(name);
            }
        }
        for setting in &self.overrides {
            command.arg("--set").arg(setting);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        signals::tie_to_parent(&mut command);
        self.running[index] = Some(command.spawn().with_context(|| format!("starting {}", node.name()))?);
        Ok(())
    }

    /// SIGKILL, at once. Ready when the process is gone.
    pub async fn kill(&mut self, index: usize) -> anyhow::Result<()> {
        if let Some(mut child) = self.running[index].take() {
            child.kill().await.with_context(|| format!("killing {}", self.nodes[index].name()))?;
        }
        Ok(())
    }

    /// How many have not ended.
    pub fn running(&self) -> usize {
        self.running.iter().flatten().count()
    }

    /// If this node has ended by itself: what to tell about it.
    pub fn ended(&mut self, index: usize) -> Option<String> {
        let status = self.running[index].as_mut()?.try_wait().ok()??;
        self.running[index] = None;
        Some(self.report(index, status))
    }

    /// Waits until a node ends by itself and tells about it.
    pub async fn next_end(&mut self) -> String {
        loop {
            for index in 0..self.nodes.len() {
                if let Some(report) = self.ended(index) {
                    return report;
                }
            }
            env::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Stops all in order; kills those that take too long, or all on a second signal.
    pub async fn stop(&mut self, stop: &mut Stop) -> anyhow::Result<()> {
        self.running.iter().flatten().filter_map(Child::id).for_each(signals::terminate);
        let deadline = env::now() + STOP_LIMIT;
        while self.forget_ended() > 0 {
            let late = tokio::select! {
                biased;
                () = stop.asked() => true,
                () = env::sleep(LOOK_INTERVAL) => env::now() >= deadline,
            };
            if late {
                return self.kill_the_rest().await;
            }
        }
        Ok(())
    }

    /// Forgets the ones that have ended; how many are left.
    fn forget_ended(&mut self) -> usize {
        for child in &mut self.running {
            if child.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None))) {
                *child = None;
            }
        }
        self.running()
    }

    async fn kill_the_rest(&mut self) -> anyhow::Result<()> {
        let mut names = Vec::new();
        for index in 0..self.nodes.len() {
            if self.running[index].is_some() {
                self.kill(index).await?;
                names.push(self.nodes[index].name());
            }
        }
        bail!("did not stop in time and had to be killed: {}", names.join(", "));
    }

    fn report(&self, index: usize, status: ExitStatus) -> String {
        let node = &self.nodes[index];
        let again = format!("hypercache server --config {}", node.file.display());
        format!("{} ended: {status}\n{}\nStart it again with: {again}", node.name(), self.tail(index))
    }

    fn log_path(&self, index: usize) -> PathBuf {
        self.nodes[index].folder.join(layout::LOG)
    }

    fn open_log(&self, index: usize) -> anyhow::Result<File> {
        let path = self.log_path(index);
        if fs::metadata(&path).is_ok_and(|log| log.len() > LOG_BYTES_MAX) {
            fs::rename(&path, path.with_extension("old"))
                .with_context(|| format!("putting {} aside", path.display()))?;
        }
        OpenOptions::new().create(true).append(true).open(&path).with_context(|| format!("opening {}", path.display()))
    }

    /// The end of a node's log, with a line saying what it is.
    pub fn tail(&self, index: usize) -> String {
        let path = self.log_path(index);
        match read_tail(&path) {
            Ok(tail) if tail.is_empty() => format!("its log {} is empty", path.display()),
            Ok(tail) => format!("the end of {}:\n{tail}", path.display()),
            Err(error) => format!("its log {} cannot be read: {error}", path.display()),
        }
    }
}

fn read_tail(path: &PathBuf) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let shown = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    Ok(shown.iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_a_log_is_its_last_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        fs::write(&path, (0..5000).map(|n| format!("line {n}\n")).collect::<String>()).unwrap();
        let tail = read_tail(&path).unwrap();
        assert_eq!(tail.lines().count(), TAIL_LINES);
        assert!(tail.starts_with("    line 4980\n") && tail.ends_with("    line 4999"), "{tail}");
        fs::write(&path, "").unwrap();
        assert_eq!(read_tail(&path).unwrap(), "");
    }
}
