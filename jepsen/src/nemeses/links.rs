//! Faults of the network between nodes; clients reach every node all the while, so that the wrong side is asked, too.
//!
//! | name | what is cut |
//! |---|---|
//! | partition-leader | the leader of most groups from all others |
//! | partition-halves | the nodes into two sides, by chance; with three nodes one is alone |
//! | partition-bridge | two sides that see each other only through one node that sees both |
//! | partition-ring | five nodes in a ring, each sees itself and its two neighbours: every node sees a majority, no two the same |
//! | partition-one-way | what one node sends to the others; it still hears them |
//! | partition-flap | the leader alone, on and off several times a second |
//! | loss | a share of all packets between nodes |

use super::{Injected, Needs, Nemesis, between};
use crate::cluster::Cluster;
use crate::net::{self, Cut};
use anyhow::{Result, ensure};
use std::thread;
use std::time::{Duration, Instant};

/// How nodes are cut from one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Leader,
    Halves,
    Bridge,
    Ring,
    OneWay,
    Flap,
    Loss,
}

pub struct Links {
    shape: Shape,
    cuts: Vec<Cut>,
    /// Packets dropped before the last time that the cuts were taken back within one fault.
    dropped: u64,
}

/// Percent of the packets.
const LOSS: u8 = 20;
/// How long a link that flaps is cut, and then whole.
const FLAP: Duration = Duration::from_millis(350);

impl Links {
    pub fn new(shape: Shape) -> Links {
        Links { shape, cuts: Vec::new(), dropped: 0 }
    }

    /// What is cut, in words, and which nodes then cannot reach a majority.
    fn choose(&mut self, cluster: &Cluster, rng: &mut fastrand::Rng) -> Result<(String, Vec<usize>)> {
        let mut nodes = cluster.numbers();
        rng.shuffle(&mut nodes);
        let leader = cluster.busiest()?;
        let some = nodes[0];
        Ok(match self.shape {
            Shape::Leader | Shape::Flap => {
                let others: Vec<usize> = nodes.into_iter().filter(|n| *n != leader).collect();
                self.cuts = both_ways(&[leader], &others);
                (format!("node {leader}, which leads most, is cut off"), vec![leader])
            }
            Shape::Halves => {
                let (minority, majority) = nodes.split_at((nodes.len() - 1) / 2);
                self.cuts = both_ways(minority, majority);
                (format!("{minority:?} cut off from {majority:?}"), minority.to_vec())
            }
            Shape::Bridge => {
                let (bridge, rest) = (nodes[0], &nodes[1..]);
                let (left, right) = rest.split_at(rest.len() / 2);
                self.cuts = both_ways(left, right);
                // Each side has a majority with the bridge, but not the same one.
                (format!("{left:?} and {right:?} see each other only through {bridge}"), Vec::new())
            }
            Shape::Ring => {
                let count = nodes.len();
                let far =
                    |i: usize, j: usize| !matches!((j + count - i) % count, 0 | 1) && (i + count - j) % count != 1;
                self.cuts = pairs(&nodes, far);
                (format!("a ring {nodes:?} in which everybody sees two neighbours"), Vec::new())
            }
            Shape::OneWay => {
                let from = if rng.bool() { leader } else { some };
                let others = cluster.numbers().into_iter().filter(|n| *n != from);
                self.cuts = others.map(|to| Cut { from, to, percent: 100 }).collect();
                (format!("nothing that node {from} sends arrives at the others"), vec![from])
            }
            Shape::Loss => {
                self.cuts = pairs(&nodes, |_, _| true);
                self.cuts.iter_mut().for_each(|cut| cut.percent = LOSS);
                (format!("{LOSS} % of the packets between nodes are lost"), Vec::new())
            }
        })
    }
}

fn both_ways(left: &[usize], right: &[usize]) -> Vec<Cut> {
    let one = |from: usize, to: usize| Cut { from, to, percent: 100 };
    left.iter().flat_map(|a| right.iter().flat_map(move |b| [one(*a, *b), one(*b, *a)])).collect()
}

/// A cut between every two nodes whose places satisfy `is_cut`.
fn pairs(nodes: &[usize], is_cut: impl Fn(usize, usize) -> bool) -> Vec<Cut> {
    let places = (0..nodes.len()).flat_map(|i| (0..nodes.len()).map(move |j| (i, j)));
    let chosen = places.filter(|(i, j)| i != j && is_cut(*i, *j));
    chosen.map(|(i, j)| Cut { from: nodes[i], to: nodes[j], percent: 100 }).collect()
}

impl Nemesis for Links {
    fn name(&self) -> &'static str {
        match self.shape {
            Shape::Leader => "partition-leader",
            Shape::Halves => "partition-halves",
            Shape::Bridge => "partition-bridge",
            Shape::Ring => "partition-ring",
            Shape::OneWay => "partition-one-way",
            Shape::Flap => "partition-flap",
            Shape::Loss => "loss",
        }
    }

    fn about(&self) -> &'static str {
        match self.shape {
            Shape::Leader => "the leader of most groups is cut off from all others",
            Shape::Halves => "a minority, chosen by chance, is cut off",
            Shape::Bridge => "two sides see each other only through one node",
            Shape::Ring => "five nodes, each sees a majority of its own",
            Shape::OneWay => "what one node sends does not arrive; it hears the others",
            Shape::Flap => "the leader is cut off and back several times a second",
            Shape::Loss => "a fifth of all packets between nodes is lost",
        }
    }

    fn needs(&self) -> Needs {
        Needs { root: true, programs: net::PROGRAMS, nodes: (self.shape == Shape::Ring).then_some(5) }
    }

    fn inject(&mut self, cluster: &mut Cluster, rng: &mut fastrand::Rng) -> Result<Option<Injected>> {
        let (what, affected) = self.choose(cluster, rng)?;
        self.dropped = 0;
        cluster.net.cut(&self.cuts)?;
        Ok(Some(Injected { what, affected, hold: between(rng, 2000, 7000) }))
    }

    fn hold(&mut self, cluster: &mut Cluster, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            if self.shape == Shape::Flap {
                thread::sleep(FLAP);
                self.dropped += cluster.net.dropped()?;
                cluster.net.heal()?;
                thread::sleep(FLAP);
                cluster.net.cut(&self.cuts)?;
            } else {
                thread::sleep(end.saturating_duration_since(Instant::now()));
            }
        }
        Ok(())
    }

    fn prove(&mut self, cluster: &mut Cluster) -> Result<String> {
        self.dropped += cluster.net.dropped()?;
        ensure!(self.dropped > 0, "not one packet was dropped");
        Ok(format!("{} packets were dropped", self.dropped))
    }

    fn heal(&mut self, cluster: &mut Cluster) -> Result<()> {
        cluster.net.heal()
    }
}
