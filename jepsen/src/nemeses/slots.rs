//! slots, slots-kill: a thousand slots of a group go to another one, while clients go on. With `kill`, whoever carries it out, or
//! leads the one group or the other, is killed in the middle, and started again; the move must end by itself.

use super::{Injected, Nemesis, between};
use crate::cluster::{self, Cluster, PATIENCE};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::thread;
use std::time::{Duration, Instant};

/// Slots that go at once: some thirty batches.
const MOVED: usize = 1000;
/// What a move may take once nothing goes wrong any more.
const MOVE: Duration = Duration::from_secs(60);

pub struct Slots {
    kill: bool,
    now: Option<Move>,
}

struct Move {
    slots: Vec<u16>,
    to: u32,
    /// Who is killed, how long after the wish, and for how long.
    killed: Option<(usize, Duration, Duration)>,
    /// The epoch of the table before, which each batch that moves raises by one.
    epoch: u64,
    seen: String,
}

impl Slots {
    pub fn new(kill: bool) -> Slots {
        Slots { kill, now: None }
    }
}

fn epoch(list: &Value) -> Result<u64> {
    list["epoch"].as_u64().with_context(|| format!("slots list prints the epoch: {list}"))
}

/// The groups that own slots, and which.
pub(super) fn owned(list: &Value) -> Result<Vec<(u32, Vec<u16>)>> {
    let rows = list["owned"].as_array().context("slots list prints who owns what")?;
    let mut owned = Vec::new();
    for row in rows {
        let group = row["group"].as_u64().context("an owner is a group")? as u32;
        let mut slots = Vec::new();
        for range in row["slots"].as_str().unwrap_or("").split(',').filter(|range| !range.is_empty()) {
            let (first, last) = cluster::parse_range(range)?;
            slots.extend(first..=last);
        }
        if !slots.is_empty() {
            owned.push((group, slots));
        }
    }
    Ok(owned)
}

/// Slots as `hypercachectl slots move` takes them.
pub(super) fn listed(slots: &[u16]) -> String {
    slots.iter().map(u16::to_string).collect::<Vec<_>>().join(",")
}

impl Nemesis for Slots {
    fn name(&self) -> &'static str {
        if self.kill { "slots-kill" } else { "slots" }
    }

    fn about(&self) -> &'static str {
        if self.kill {
            "a thousand slots of a group go to another one, while a node is killed that carries it out or leads one of both"
        } else {
            "a thousand slots of a group go to another one"
        }
    }

    fn inject(&mut self, cluster: &mut Cluster, rng: &mut fastrand::Rng) -> Result<Option<Injected>> {
        let list = cluster.ctl(&["slots", "list"])?;
        let owned = owned(&list)?;
        let (from, mut slots) = owned[rng.usize(0..owned.len())].clone();
        let first = rng.usize(0..slots.len());
        slots.rotate_left(first);
        slots.truncate(MOVED);
        let others: Vec<usize> = (0..cluster.groups.len()).filter(|i| cluster.groups[*i].id != from).collect();
        let to = others[rng.usize(0..others.len())];
        let mut killed = None;
        if self.kill {
            let leaders = cluster.leaders()?;
            let source = cluster.groups.iter().position(|group| group.id == from).context("the group is known")?;
            let node = [cluster.meta_leader()?, leaders[source], leaders[to]][rng.usize(0..3)];
            ensure!(node > 0, "a group has no leader");
            killed = Some((node, between(rng, 0, 2000), between(rng, 500, 3000)));
        }
        let to = cluster.groups[to].id;
        let trouble = killed.map(|(node, ..)| format!("; node {node} is killed meanwhile")).unwrap_or_default();
        let what = format!("{} slots from {} on go from group {from} to group {to}{trouble}", slots.len(), slots[0]);
        let affected = killed.iter().map(|(node, ..)| *node).collect();
        self.now = Some(Move { slots, to, killed, epoch: epoch(&list)?, seen: String::new() });
        Ok(Some(Injected { what, affected, hold: Duration::ZERO }))
    }

    fn hold(&mut self, cluster: &mut Cluster, _: Duration) -> Result<()> {
        let Move { slots, to, killed, seen, .. } = self.now.as_mut().context("nothing was done")?;
        let (list, to) = (listed(slots), to.to_string());
        let words = ["slots", "move", &list, "--to", &to];
        cluster.ctl(&words)?;
        if let Some((node, delay, down)) = killed {
            thread::sleep(*delay);
            let before = epoch(&cluster.ctl(&["slots", "list"])?)?;
            cluster.kill(&[*node])?;
            thread::sleep(*down);
            let answer = cluster.ask(*node, &["PING"]);
            cluster.start_node(*node)?;
            ensure!(answer.is_err(), "node {node} answers");
            *seen = format!(", {before} when the node was killed");
        }
        let done = cluster.ctl_at(&cluster.running(), MOVE, &[&words[..], &["--wait"]].concat())?;
        ensure!(done["done"] == true, "the move ended without being done: {done}");
        Ok(())
    }

    fn prove(&mut self, cluster: &mut Cluster) -> Result<String> {
        let Move { slots, to, epoch: before, seen, .. } = self.now.as_ref().context("nothing was done")?;
        // The node that is asked may learn a moment later than the leader that all is done.
        let deadline = Instant::now() + PATIENCE;
        loop {
            let list = cluster.ctl(&["slots", "list"])?;
            let after = epoch(&list)?;
            let owned = owned(&list)?;
            let there = owned
                .iter()
                .find(|(group, _)| group == to)
                .is_some_and(|(_, all)| slots.iter().all(|slot| all.contains(slot)));
            if after > *before && there {
                return Ok(format!("the table's epoch was {before}{seen}, and {after} when all were with group {to}"));
            }
            ensure!(Instant::now() < deadline, "slots from {} on did not arrive: {list}", slots[0]);
            thread::sleep(cluster::LOOK_INTERVAL);
        }
    }

    fn heal(&mut self, cluster: &mut Cluster) -> Result<()> {
        self.now = None;
        let down: Vec<usize> = cluster.numbers().into_iter().filter(|n| !cluster.running().contains(n)).collect();
        down.into_iter().try_for_each(|node| cluster.start_node(node))
    }
}
