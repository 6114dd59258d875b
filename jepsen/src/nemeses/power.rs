//! power, power-all: the disk loses its power in the middle of everything, its node dies, and what was not synced is gone.
//!
//! With real power the processor stops in the same instant. Here a node runs on for some milliseconds on a file system that
//! is shut down, and ext4 may tell a sync that is under way in that moment that it succeeded although it did not
//! (tests/power_cut.rs measured it). One node's disk may lie like that and nothing is lost, because a majority has
//! everything. Where all disks go at once, the processes are frozen first, so that nobody acknowledges anything between
//! the power cut and the kill.

use super::{Injected, Needs, Nemesis, between, victim};
use crate::cluster::{Cluster, Plan};
use crate::disk;
use crate::sys::Signal;
use anyhow::{Context, Result, ensure};
use std::path::Path;

/// Room for log and snapshots of a run.
const DISK_BYTES: u64 = 768 << 20;

pub struct Power {
    all: bool,
    dead: Vec<usize>,
}

impl Power {
    pub fn new(all: bool) -> Power {
        Power { all, dead: Vec::new() }
    }
}

impl Nemesis for Power {
    fn name(&self) -> &'static str {
        if self.all { "power-all" } else { "power" }
    }

    fn about(&self) -> &'static str {
        if self.all { "the power of all nodes is cut at once" } else { "the power of one node is cut" }
    }

    fn needs(&self) -> Needs {
        Needs { root: true, programs: disk::PROGRAMS, nodes: None }
    }

    fn prepare(&mut self, plan: &mut Plan, _: &Path) -> Result<()> {
        plan.disk = Some(DISK_BYTES);
        // Snapshots and purges are under way when the power goes, too.
        for setting in ["snapshot_log_bytes=256KB", "snapshot_min_interval=0s", "log_lag_entries=50"] {
            plan.settings.push(format!("persistence.{setting}"));
        }
        Ok(())
    }

    fn inject(&mut self, cluster: &mut Cluster, rng: &mut fastrand::Rng) -> Result<Option<Injected>> {
        let nodes = if self.all { cluster.numbers() } else { vec![victim(cluster, rng)?] };
        self.dead = nodes.clone();
        for node in &nodes {
            cluster.signal(*node, Signal::Freeze)?;
        }
        for node in &nodes {
            cluster.node(*node)?.disk.as_ref().context("the node has a disk of its own")?.cut_power()?;
        }
        cluster.kill(&nodes)?;
        Ok(Some(Injected { what: format!("power cut of {nodes:?}"), affected: nodes, hold: between(rng, 200, 3000) }))
    }

    fn prove(&mut self, cluster: &mut Cluster) -> Result<String> {
        for node in &self.dead {
            let at = &cluster.node(*node)?.disk.as_ref().context("the node has a disk of its own")?.mounted_at;
            ensure!(std::fs::write(at.join("probe"), "x").is_err(), "the disk of node {node} can be written to");
        }
        Ok(format!("the disks of {:?} refuse to be written to", self.dead))
    }

    fn heal(&mut self, cluster: &mut Cluster) -> Result<()> {
        for node in std::mem::take(&mut self.dead) {
            let disk = cluster.nodes.get_mut(node - 1).and_then(|n| n.disk.as_mut());
            disk.context("the node has a disk of its own")?.restore_power()?;
            cluster.start_node(node)?;
        }
        Ok(())
    }
}
