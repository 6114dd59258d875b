//! transfer, restart, snapshot: what operators do on purpose, while clients go on.

use super::{Injected, Nemesis, between};
use crate::cluster::{self, Cluster, Plan};
use crate::sys::Signal;
use anyhow::{Result, ensure};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// transfer: leaderships are handed from node to node all the time.
#[derive(Default)]
pub struct Transfer {
    done: usize,
    refused: usize,
    turn: usize,
}

impl Nemesis for Transfer {
    fn name(&self) -> &'static str {
        "transfer"
    }

    fn about(&self) -> &'static str {
        "leaderships are handed from node to node all the time"
    }

    fn inject(&mut self, _: &mut Cluster, rng: &mut fastrand::Rng) -> Result<Option<Injected>> {
        (self.done, self.refused, self.turn) = (0, 0, rng.usize(0..100));
        let what = "leaderships are handed around".to_owned();
        Ok(Some(Injected { what, affected: Vec::new(), hold: between(rng, 2000, 5000) }))
    }

    fn hold(&mut self, cluster: &mut Cluster, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.turn += 1;
            let before = cluster.leaders()?;
            let at = self.turn % before.len();
            let to = 1 + (before[at] + self.turn / 3) % cluster.nodes.len();
            if to == before[at] {
                continue;
            }
            let (group, to) = (cluster.groups[at].id.to_string(), cluster::name(to));
            match cluster.ctl(&["leader", "transfer", "--group", &group, "--to", &to]) {
                Ok(_) => self.done += 1,
                Err(_) => self.refused += 1,
            }
        }
        Ok(())
    }

    fn prove(&mut self, _: &mut Cluster) -> Result<String> {
        ensure!(self.done > 0, "no leadership was handed over, {} tries failed", self.refused);
        Ok(format!("{} leaderships handed over, {} tries failed", self.done, self.refused))
    }

    fn heal(&mut self, _: &mut Cluster) -> Result<()> {
        Ok(())
    }
}

/// restart: every node in turn is stopped with SIGTERM and started again when the others serve.
#[derive(Default)]
pub struct Restart {
    stopped: Vec<usize>,
}

impl Nemesis for Restart {
    fn name(&self) -> &'static str {
        "restart"
    }

    fn about(&self) -> &'static str {
        "a rolling restart with SIGTERM"
    }

    fn inject(&mut self, cluster: &mut Cluster, _: &mut fastrand::Rng) -> Result<Option<Injected>> {
        self.stopped.clear();
        let what = format!("a rolling restart of {:?}", cluster.numbers());
        // One node is down at a time and the others must go on as if nothing had happened.
        Ok(Some(Injected { what, affected: Vec::new(), hold: Duration::ZERO }))
    }

    fn hold(&mut self, cluster: &mut Cluster, _: Duration) -> Result<()> {
        for node in cluster.numbers() {
            cluster.signal(node, Signal::Terminate)?;
            let status = cluster.wait_ended(node)?;
            ensure!(status.success(), "node {node} was asked to stop and ended with {status}");
            self.stopped.push(node);
            thread::sleep(Duration::from_millis(200));
            cluster.start_node(node)?;
            cluster.wait_serving()?;
        }
        Ok(())
    }

    fn prove(&mut self, cluster: &mut Cluster) -> Result<String> {
        ensure!(self.stopped == cluster.numbers(), "only {:?} were stopped", self.stopped);
        Ok(format!("{:?} were stopped, each with exit code 0", self.stopped))
    }

    fn heal(&mut self, cluster: &mut Cluster) -> Result<()> {
        let down: Vec<usize> = cluster.numbers().into_iter().filter(|n| !cluster.running().contains(n)).collect();
        down.into_iter().try_for_each(|node| cluster.start_node(node))
    }
}

/// snapshot: a follower is down while snapshots are taken and logs purged; it must come back by a snapshot.
#[derive(Default)]
pub struct Snapshot {
    down: Option<usize>,
    made: usize,
    /// Why the last one that was not made was not.
    refused: String,
}

impl Nemesis for Snapshot {
    fn name(&self) -> &'static str {
        "snapshot"
    }

    fn about(&self) -> &'static str {
        "snapshots all the time with hardly any log behind them, while a node is down that then needs one"
    }

    fn prepare(&mut self, plan: &mut Plan, _: &Path) -> Result<()> {
        for setting in ["snapshot_log_bytes=64KB", "snapshot_min_interval=0s", "log_lag_entries=10"] {
            plan.settings.push(format!("persistence.{setting}"));
        }
        Ok(())
    }

    fn inject(&mut self, cluster: &mut Cluster, rng: &mut fastrand::Rng) -> Result<Option<Injected>> {
        let node = cluster.numbers()[rng.usize(0..cluster.nodes.len())];
        cluster.kill(&[node])?;
        (self.down, self.made) = (Some(node), 0);
        let what = format!("snapshots all the time while node {node} is down");
        Ok(Some(Injected { what, affected: vec![node], hold: between(rng, 3000, 5000) }))
    }

    fn hold(&mut self, cluster: &mut Cluster, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            // Refused while a group elects its leader.
            match cluster.ctl(&["snapshot", "make", "--all"]) {
                Ok(done) => self.made += done["snapshots"].as_array().map_or(0, Vec::len),
                Err(e) => self.refused = format!("{e:#}"),
            }
        }
        Ok(())
    }

    fn prove(&mut self, _: &mut Cluster) -> Result<String> {
        ensure!(self.made > 0, "no snapshot was made: {}", self.refused);
        Ok(format!("{} snapshots were made", self.made))
    }

    fn heal(&mut self, cluster: &mut Cluster) -> Result<()> {
        self.down.take().map_or(Ok(()), |node| cluster.start_node(node))
    }
}
