//! What goes wrong. A nemesis is a file: the fault, its healing, and the proof that it was in place, without which a run
//! counts as failed. What a nemesis does is drawn from the run's seed.

mod clock;
mod connections;
mod disk_full;
mod fsync;
mod groups;
mod kill;
mod links;
mod members;
mod operator;
mod pause;
mod power;
mod slots;
mod storm;

use crate::cluster::{Cluster, Plan};
use anyhow::Result;
use std::path::Path;
use std::time::Duration;

/// A fault that has been made.
pub struct Injected {
    pub what: String,
    /// Nodes whose clients cannot expect to be served meanwhile. The others are the majority's side.
    pub affected: Vec<usize>,
    /// How long it is left.
    pub hold: Duration,
}

/// What a nemesis cannot do without.
#[derive(Default)]
pub struct Needs {
    /// Root, for namespaces or disks.
    pub root: bool,
    pub programs: &'static [&'static str],
    /// Nodes, if not the usual three.
    pub nodes: Option<usize>,
}

pub trait Nemesis {
    fn name(&self) -> &'static str;
    /// One line for people.
    fn about(&self) -> &'static str;

    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// Asks for what it needs of the cluster. `folder` is the run's own.
    fn prepare(&mut self, _plan: &mut Plan, _folder: &Path) -> Result<()> {
        Ok(())
    }

    /// Makes the fault and returns when it is in place. None where there is nothing to be done, which a run without
    /// faults does all the time.
    fn inject(&mut self, cluster: &mut Cluster, rng: &mut fastrand::Rng) -> Result<Option<Injected>>;

    /// Passes the time of the fault; those that must be kept going are kept going here.
    fn hold(&mut self, _cluster: &mut Cluster, time: Duration) -> Result<()> {
        std::thread::sleep(time);
        Ok(())
    }

    /// Says by what it was seen that the fault is in place; an error if it is not. Called at the end of its time.
    fn prove(&mut self, cluster: &mut Cluster) -> Result<String>;

    /// Takes the fault back. All nodes run afterwards, which need not serve yet.
    fn heal(&mut self, cluster: &mut Cluster) -> Result<()>;
}

pub fn all() -> Vec<Box<dyn Nemesis>> {
    let mut all: Vec<Box<dyn Nemesis>> = vec![
        Box::new(Nothing),
        Box::new(kill::Kill::default()),
        Box::new(kill::KillAll),
        Box::new(pause::Pause::default()),
        Box::new(connections::Connections::default()),
        Box::new(connections::Bandwidth::default()),
        Box::new(clock::Clock::new(false)),
        Box::new(clock::Clock::new(true)),
        Box::new(power::Power::new(false)),
        Box::new(power::Power::new(true)),
        Box::new(disk_full::DiskFull::new()),
        Box::new(operator::Transfer::default()),
        Box::new(operator::Restart::default()),
        Box::new(operator::Snapshot::default()),
        Box::new(members::Members::new(false)),
        Box::new(members::Members::new(true)),
        Box::new(slots::Slots::new(false)),
        Box::new(groups::Groups::default()),
        Box::new(slots::Slots::new(true)),
        Box::new(storm::Storm::new()),
    ];
    use links::Shape;
    let shapes = [Shape::Leader, Shape::Halves, Shape::Bridge, Shape::Ring, Shape::OneWay, Shape::Flap, Shape::Loss];
    all.extend(shapes.map(|shape| Box::new(links::Links::new(shape)) as Box<dyn Nemesis>));
    use fsync::Kind;
    let kinds = [Kind::Error, Kind::Slow, Kind::Lie, Kind::Kill];
    all.extend(kinds.map(|kind| Box::new(fsync::Fsync::new(kind)) as Box<dyn Nemesis>));
    all
}

/// none: no fault. The measure for all others.
struct Nothing;

impl Nemesis for Nothing {
    fn name(&self) -> &'static str {
        "none"
    }

    fn about(&self) -> &'static str {
        "nothing goes wrong"
    }

    fn inject(&mut self, _: &mut Cluster, _: &mut fastrand::Rng) -> Result<Option<Injected>> {
        Ok(None)
    }

    fn prove(&mut self, _: &mut Cluster) -> Result<String> {
        Ok(String::new())
    }

    fn heal(&mut self, _: &mut Cluster) -> Result<()> {
        Ok(())
    }
}

/// A time between two, by chance.
fn between(rng: &mut fastrand::Rng, from_ms: u64, to_ms: u64) -> Duration {
    Duration::from_millis(rng.u64(from_ms..=to_ms))
}

/// The leader of most groups twice out of three times, any node otherwise.
fn victim(cluster: &Cluster, rng: &mut fastrand::Rng) -> Result<usize> {
    if rng.u8(0..3) < 2 {
        return cluster.busiest();
    }
    let running = cluster.running();
    Ok(running[rng.usize(0..running.len())])
}
