//! connections, bandwidth: the links stay, but connections between nodes are cut (`ss -K`), or carry little (`tc tbf`).

use super::{Injected, Needs, Nemesis, between};
use crate::cluster::Cluster;
use crate::net::must;
use anyhow::{Result, ensure};
use std::thread;
use std::time::{Duration, Instant};

/// connections: every connection between nodes is destroyed, again and again.
#[derive(Default)]
pub struct Connections {
    destroyed: usize,
}

/// Between two rounds of destruction.
const ROUND: Duration = Duration::from_millis(300);

impl Connections {
    fn destroy(&mut self, cluster: &Cluster) -> Result<()> {
        for from in cluster.numbers() {
            for to in cluster.numbers().into_iter().filter(|to| *to != from) {
                let address = cluster.net.address(to).to_string();
                let gone = must(cluster.net.on_host(from, "ss").args(["-H", "-K", "-n", "-t", "dst", &address]))?;
                self.destroyed += gone.lines().filter(|line| !line.trim().is_empty()).count();
            }
        }
        Ok(())
    }
}

impl Nemesis for Connections {
    fn name(&self) -> &'static str {
        "connections"
    }

    fn about(&self) -> &'static str {
        "all connections between nodes are destroyed, three times a second"
    }

    fn needs(&self) -> Needs {
        Needs { root: true, programs: &["ip", "nft", "nsenter", "ss"], nodes: None }
    }

    fn inject(&mut self, cluster: &mut Cluster, rng: &mut fastrand::Rng) -> Result<Option<Injected>> {
        self.destroyed = 0;
        self.destroy(cluster)?;
        let what = "all connections between nodes are destroyed".to_owned();
        Ok(Some(Injected { what, affected: Vec::new(), hold: between(rng, 1000, 4000) }))
    }

    fn hold(&mut self, cluster: &mut Cluster, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            thread::sleep(ROUND);
            self.destroy(cluster)?;
        }
        Ok(())
    }

    fn prove(&mut self, _: &mut Cluster) -> Result<String> {
        ensure!(self.destroyed > 0, "not one connection was destroyed");
        Ok(format!("{} ends of connections were destroyed", self.destroyed))
    }

    fn heal(&mut self, _: &mut Cluster) -> Result<()> {
        Ok(())
    }
}

/// bandwidth: what a node sends goes through a narrow pipe.
#[derive(Default)]
pub struct Bandwidth {
    narrowed: Vec<usize>,
}

/// Less than what the clients ask for, replies included.
const RATE: &str = "96kbit";

impl Nemesis for Bandwidth {
    fn name(&self) -> &'static str {
        "bandwidth"
    }

    fn about(&self) -> &'static str {
        "what the leader of most groups sends goes through a pipe of 96 kbit/s"
    }

    fn needs(&self) -> Needs {
        Needs { root: true, programs: &["ip", "nft", "nsenter", "tc"], nodes: None }
    }

    fn inject(&mut self, cluster: &mut Cluster, rng: &mut fastrand::Rng) -> Result<Option<Injected>> {
        let node = cluster.busiest()?;
        let device = cluster.net.device(node);
        let words = ["qdisc", "add", "dev", &device, "root", "tbf", "rate", RATE, "burst", "4kb", "latency", "300ms"];
        must(cluster.net.on_host(node, "tc").args(words))?;
        self.narrowed.push(node);
        let what = format!("node {node} sends at most {RATE}");
        Ok(Some(Injected { what, affected: vec![node], hold: between(rng, 2000, 6000) }))
    }

    fn prove(&mut self, cluster: &mut Cluster) -> Result<String> {
        let node = self.narrowed.last().copied().unwrap_or(1);
        let text =
            must(cluster.net.on_host(node, "tc").args(["-s", "qdisc", "show", "dev", &cluster.net.device(node)]))?;
        let over = text.split("overlimits ").nth(1).and_then(|t| t.split(' ').next()?.parse::<u64>().ok()).unwrap_or(0);
        ensure!(over > 0, "nothing was held back: {text}");
        Ok(format!("{over} times a packet had to wait or was dropped"))
    }

    fn heal(&mut self, cluster: &mut Cluster) -> Result<()> {
        while let Some(node) = self.narrowed.pop() {
            must(cluster.net.on_host(node, "tc").args(["qdisc", "del", "dev", &cluster.net.device(node), "root"]))?;
        }
        Ok(())
    }
}
