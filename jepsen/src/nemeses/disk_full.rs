//! disk-full: another's file fills the disk of one node, or of all. Writes are refused, reads go on, nothing is lost, and
//! service resumes by itself when there is room again.

use super::{Injected, Needs, Nemesis, between, victim};
use crate::cluster::{Cluster, Plan};
use crate::disk;
use crate::resp::Reply;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

const DISK_BYTES: u64 = 256 << 20;
/// The server looks at its disk five times a second.
const NOTICED: Duration = Duration::from_secs(10);
/// What is left to the node: below its low watermark (16 MB here), above nothing.
const LEFT_BYTES: u64 = 8 << 20;

pub struct DiskFull {
    filled: Vec<usize>,
    refused: String,
}

impl DiskFull {
    pub fn new() -> DiskFull {
        DiskFull { filled: Vec::new(), refused: String::new() }
    }

    fn filler(cluster: &Cluster, node: usize) -> Result<PathBuf> {
        let disk = cluster.node(node)?.disk.as_ref().context("the node has a disk of its own")?;
        Ok(disk.mounted_at.join("somebody-elses-file"))
    }

    fn fill(cluster: &Cluster, node: usize) -> Result<()> {
        let mut file = fs::File::create(Self::filler(cluster, node)?)?;
        let part = vec![0u8; 1 << 20];
        let mut written = 0u64;
        while written < DISK_BYTES && file.write_all(&part).is_ok() {
            written += part.len() as u64;
        }
        file.set_len(written.saturating_sub(LEFT_BYTES))?;
        file.sync_all()?;
        Ok(())
    }
}

impl Nemesis for DiskFull {
    fn name(&self) -> &'static str {
        "disk-full"
    }

    fn about(&self) -> &'static str {
        "another's file fills the disk of one node or of all"
    }

    fn needs(&self) -> Needs {
        Needs { root: true, programs: disk::PROGRAMS, nodes: None }
    }

    fn prepare(&mut self, plan: &mut Plan, _: &Path) -> Result<()> {
        plan.disk = Some(DISK_BYTES);
        for setting in ["ballast_size=4MB", "disk_low_watermark=16MB", "disk_resume_watermark=24MB"] {
            plan.settings.push(format!("storage.{setting}"));
        }
        Ok(())
    }

    fn inject(&mut self, cluster: &mut Cluster, rng: &mut fastrand::Rng) -> Result<Option<Injected>> {
        let nodes = if rng.u8(0..3) == 0 { cluster.numbers() } else { vec![victim(cluster, rng)?] };
        let leaders = cluster.leaders()?;
        self.filled = nodes.clone();
        for node in &nodes {
            Self::fill(cluster, *node)?;
        }
        // A leader of one of these refuses writes; where none of them leads anything there is nothing to be seen.
        let began = Instant::now();
        let groups = cluster.groups.iter().zip(leaders).filter(|(_, leader)| nodes.contains(leader));
        let keys: Vec<String> = groups.map(|(g, _)| cluster.key_of(g, "full")).collect();
        let asked = (1..=cluster.nodes.len()).find(|n| cluster.running().contains(n)).unwrap_or(1);
        self.refused = "leads no group".to_owned();
        for key in keys {
            loop {
                let reply = cluster.ask(asked, &["SET", &key, "1"]);
                if let Ok(Reply::Error(text)) = &reply
                    && text.starts_with("OOM")
                {
                    self.refused = text.clone();
                    break;
                }
                ensure!(began.elapsed() < NOTICED, "a leader whose disk is full takes writes: {reply:?}");
                thread::sleep(Duration::from_millis(50));
            }
        }
        // Groups that these lead are out of service for writes whichever node is asked.
        let affected = cluster.numbers();
        Ok(Some(Injected {
            what: format!("the disks of {nodes:?} are full"),
            affected,
            hold: between(rng, 1000, 4000),
        }))
    }

    fn prove(&mut self, cluster: &mut Cluster) -> Result<String> {
        for node in &self.filled {
            let size = fs::metadata(Self::filler(cluster, *node)?)?.len();
            ensure!(size > DISK_BYTES / 4, "node {node}'s disk was not filled");
        }
        Ok(format!("disks of {:?} filled; a write was refused: {}", self.filled, self.refused))
    }

    fn heal(&mut self, cluster: &mut Cluster) -> Result<()> {
        std::mem::take(&mut self.filled)
            .into_iter()
            .try_for_each(|node| Ok(fs::remove_file(Self::filler(cluster, node)?)?))
    }
}
