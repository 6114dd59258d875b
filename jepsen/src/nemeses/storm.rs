//! storm: a node in trouble and links in trouble at the same time.

use super::{Injected, Needs, Nemesis, connections, kill, links, pause};
use crate::cluster::Cluster;
use anyhow::{Result, anyhow};
use std::time::Duration;

pub struct Storm {
    of_nodes: Vec<Box<dyn Nemesis>>,
    of_links: Vec<Box<dyn Nemesis>>,
    /// Which of each is at work.
    now: Option<(usize, usize)>,
}

impl Storm {
    pub fn new() -> Storm {
        let link = |shape| Box::new(links::Links::new(shape)) as Box<dyn Nemesis>;
        Storm {
            of_nodes: vec![Box::new(kill::Kill::default()), Box::new(pause::Pause::default())],
            of_links: vec![
                link(links::Shape::Halves),
                link(links::Shape::Bridge),
                link(links::Shape::OneWay),
                link(links::Shape::Flap),
                link(links::Shape::Loss),
                Box::new(connections::Connections::default()),
            ],
            now: None,
        }
    }
}

impl Nemesis for Storm {
    fn name(&self) -> &'static str {
        "storm"
    }

    fn about(&self) -> &'static str {
        "a node is killed or frozen, and at the same time links are cut, lossy or broken"
    }

    fn needs(&self) -> Needs {
        Needs { root: true, programs: &["ip", "nft", "nsenter", "ss"], nodes: None }
    }

    fn inject(&mut self, cluster: &mut Cluster, rng: &mut fastrand::Rng) -> Result<Option<Injected>> {
        let chosen = (rng.usize(0..self.of_nodes.len()), rng.usize(0..self.of_links.len()));
        self.now = Some(chosen);
        // Links first: whoever chooses a link's end asks the cluster who leads, which a frozen node would hold up.
        let link = self.of_links[chosen.1].inject(cluster, rng)?;
        let node = self.of_nodes[chosen.0].inject(cluster, rng)?;
        let both: Vec<Injected> = link.into_iter().chain(node).collect();
        let mut affected: Vec<usize> = both.iter().flat_map(|i| i.affected.clone()).collect();
        affected.sort_unstable();
        affected.dedup();
        if affected.len() > 1 || chosen.1 == 1 {
            // Without a majority, or with a bridge that may be the node in trouble.
            affected = cluster.numbers();
        }
        let what = both.iter().map(|i| i.what.as_str()).collect::<Vec<_>>().join("; ");
        let hold = both.iter().map(|i| i.hold).max().unwrap_or_default();
        Ok(Some(Injected { what, affected, hold }))
    }

    fn hold(&mut self, cluster: &mut Cluster, time: Duration) -> Result<()> {
        match self.now {
            Some((_, link)) => self.of_links[link].hold(cluster, time),
            None => Ok(()),
        }
    }

    fn prove(&mut self, cluster: &mut Cluster) -> Result<String> {
        let (node, link) = self.now.ok_or_else(|| anyhow!("nothing was done"))?;
        let [links, nodes] = [self.of_links[link].prove(cluster)?, self.of_nodes[node].prove(cluster)?];
        Ok(format!("{links}; {nodes}"))
    }

    fn heal(&mut self, cluster: &mut Cluster) -> Result<()> {
        let Some((node, link)) = self.now.take() else { return Ok(()) };
        let links = self.of_links[link].heal(cluster);
        self.of_nodes[node].heal(cluster).and(links)
    }
}
