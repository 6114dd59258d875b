//! kill, kill-all: SIGKILL, and a start on the same data after a while.

use super::{Injected, Nemesis, between, victim};
use crate::cluster::Cluster;
use anyhow::{Result, ensure};

/// One node, mostly the one that leads most.
#[derive(Default)]
pub struct Kill {
    killed: Option<usize>,
}

/// Every node at once. What was acknowledged must be on the disks, as far as the page cache reaches.
pub struct KillAll;

/// The doors of nodes that are down refuse connections.
fn nobody_answers(cluster: &Cluster, numbers: &[usize]) -> Result<String> {
    for number in numbers {
        ensure!(!cluster.running().contains(number), "node {number} runs");
        ensure!(cluster.ask(*number, &["PING"]).is_err(), "node {number} answers");
    }
    Ok(format!("no process and no answer at {numbers:?}"))
}

impl Nemesis for Kill {
    fn name(&self) -> &'static str {
        "kill"
    }

    fn about(&self) -> &'static str {
        "kill -9 of one node, mostly the leader of most groups"
    }

    fn inject(&mut self, cluster: &mut Cluster, rng: &mut fastrand::Rng) -> Result<Option<Injected>> {
        let node = victim(cluster, rng)?;
        let leads = cluster.leaders()?.iter().filter(|l| **l == node).count();
        cluster.kill(&[node])?;
        self.killed = Some(node);
        let what = format!("kill -9 of node {node}, which led {leads} groups");
        Ok(Some(Injected { what, affected: vec![node], hold: between(rng, 500, 4000) }))
    }

    fn prove(&mut self, cluster: &mut Cluster) -> Result<String> {
        nobody_answers(cluster, self.killed.as_slice())
    }

    fn heal(&mut self, cluster: &mut Cluster) -> Result<()> {
        self.killed.take().map_or(Ok(()), |node| cluster.start_node(node))
    }
}

impl Nemesis for KillAll {
    fn name(&self) -> &'static str {
        "kill-all"
    }

    fn about(&self) -> &'static str {
        "kill -9 of all nodes at once"
    }

    fn inject(&mut self, cluster: &mut Cluster, rng: &mut fastrand::Rng) -> Result<Option<Injected>> {
        let all = cluster.numbers();
        cluster.kill(&all)?;
        Ok(Some(Injected { what: "kill -9 of all nodes".to_owned(), affected: all, hold: between(rng, 100, 1000) }))
    }

    fn prove(&mut self, cluster: &mut Cluster) -> Result<String> {
        nobody_answers(cluster, &cluster.numbers())
    }

    fn heal(&mut self, cluster: &mut Cluster) -> Result<()> {
        let down: Vec<usize> = cluster.numbers().into_iter().filter(|n| !cluster.running().contains(n)).collect();
        down.into_iter().try_for_each(|n| cluster.start_node(n))
    }
}
