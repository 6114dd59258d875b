//! groups: a group comes, is given slots of another one, and goes, while clients go on. Two times out of three a node is killed
//! meanwhile and started again, mostly the one that carries it out; it must end all the same.

use super::slots::{listed, owned};
use super::{Injected, Nemesis, between};
use crate::cluster::{self, Cluster, PATIENCE};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::thread;
use std::time::{Duration, Instant};

/// Slots that go to the new group and leave it again: some ten batches each way.
const GIVEN: usize = 300;
/// What one step may take, a node that is down included.
const STEP: Duration = Duration::from_secs(60);

#[derive(Default)]
pub struct Groups {
    now: Option<Life>,
}

struct Life {
    /// As `hypercachectl slots` reads them.
    slots: String,
    /// Who is killed, in front of which step, how long after that step was asked for, and for how long.
    killed: Option<Kill>,
    /// The group that came and went.
    seen: Option<u64>,
}

#[derive(Clone, Copy)]
struct Kill {
    node: usize,
    step: usize,
    delay: Duration,
    down: Duration,
}

impl Life {
    /// Asks for a step, has the kill that belongs to it, and waits for the step's end.
    fn step(&self, cluster: &mut Cluster, number: usize, words: &[&str]) -> Result<Value> {
        let asked = cluster.ctl(words)?;
        // The group that comes first is named from here on: asked for again without its number, another would come.
        let group = asked["group"].to_string();
        let words = match words {
            ["group", "add"] => vec!["group", "add", &group],
            words => words.to_vec(),
        };
        if let Some(kill) = self.killed.filter(|kill| kill.step == number) {
            thread::sleep(kill.delay);
            cluster.kill(&[kill.node])?;
            thread::sleep(kill.down);
            let answer = cluster.ask(kill.node, &["PING"]);
            cluster.start_node(kill.node)?;
            ensure!(answer.is_err(), "node {} answers", kill.node);
        }
        let done = cluster.ctl_at(&cluster.running(), STEP, &[&words[..], &["--wait"]].concat())?;
        ensure!(done["done"] == true, "{words:?} ended without being done: {done}");
        Ok(done)
    }
}

impl Nemesis for Groups {
    fn name(&self) -> &'static str {
        "groups"
    }

    fn about(&self) -> &'static str {
        "a group comes, is given slots, and goes, mostly while a node is killed"
    }

    fn inject(&mut self, cluster: &mut Cluster, rng: &mut fastrand::Rng) -> Result<Option<Injected>> {
        let owned = owned(&cluster.ctl(&["slots", "list"])?)?;
        let (from, mut slots) = owned[rng.usize(0..owned.len())].clone();
        let first = rng.usize(0..slots.len());
        slots.rotate_left(first);
        slots.truncate(GIVEN);
        let mut killed = None;
        if rng.u8(0..3) > 0 {
            let leader = cluster.meta_leader()?;
            let node = if leader > 0 && rng.bool() { leader } else { super::victim(cluster, rng)? };
            killed =
                Some(Kill { node, step: rng.usize(0..3), delay: between(rng, 0, 1500), down: between(rng, 500, 2500) });
        }
        let trouble = killed.map(|kill| format!("; node {} is killed meanwhile", kill.node)).unwrap_or_default();
        let what = format!("a group comes, gets {} slots of group {from}, and goes{trouble}", slots.len());
        let affected = killed.iter().map(|kill| kill.node).collect();
        self.now = Some(Life { slots: listed(&slots), killed, seen: None });
        Ok(Some(Injected { what, affected, hold: Duration::ZERO }))
    }

    fn hold(&mut self, cluster: &mut Cluster, _: Duration) -> Result<()> {
        let life = self.now.as_mut().context("nothing was done")?;
        let added = life.step(cluster, 0, &["group", "add"])?;
        let group = added["group"].as_u64().context("a group has a number")?;
        let name = group.to_string();
        life.step(cluster, 1, &["slots", "move", &life.slots, "--to", &name])?;
        life.step(cluster, 2, &["group", "remove", &name])?;
        life.seen = Some(group);
        Ok(())
    }

    fn prove(&mut self, cluster: &mut Cluster) -> Result<String> {
        let life = self.now.as_ref().context("nothing was done")?;
        let group = life.seen.context("it was not finished")?;
        // The node that is asked may learn a moment later than the leader that it has gone.
        let deadline = Instant::now() + PATIENCE;
        loop {
            let list = cluster.ctl(&["group", "list"])?;
            let rows = list["groups"].as_array().context("group list prints groups")?;
            if rows.iter().all(|row| row["id"].as_u64() != Some(group)) {
                return Ok(format!("group {group} came, and has gone"));
            }
            ensure!(Instant::now() < deadline, "group {group} is still there: {list}");
            thread::sleep(cluster::LOOK_INTERVAL);
        }
    }

    fn heal(&mut self, cluster: &mut Cluster) -> Result<()> {
        self.now = None;
        let down: Vec<usize> = cluster.numbers().into_iter().filter(|n| !cluster.running().contains(n)).collect();
        down.into_iter().try_for_each(|node| cluster.start_node(node))
    }
}
