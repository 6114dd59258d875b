//! members, members-cut: nodes leave the cluster and come back as new ones, while clients go on.
//!
//! A node is removed in order, or dies with its disk and is replaced. Either way it comes back with an empty directory and
//! under a number that was never given out before. With `cut`, while it goes or while it comes, one of the nodes is cut off
//! or killed: the one it is about, or the leader of the meta group, which carries the change out. The trouble comes before
//! the change is asked for, or in the middle of it. In the end the same command must succeed: repeating it is what the
//! operator is told to do.

use super::{Injected, Needs, Nemesis, between};
use crate::cluster::{self, Cluster, PATIENCE, Plan};
use crate::net::{self, Cut};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// One more than copies: who leaves has somebody to give its votes to.
const NODES: usize = 4;
const COPIES: usize = 3;
/// What one command may take: two states are copied at most, small ones, and a machine may be busy.
const CHANGE: Duration = Duration::from_secs(60);

/// What passes by itself: nobody waits yet at the address of a node that was just started; a node that was just killed is still
/// believed to lead, and does not answer.
const PASSES: [&str; 2] = ["HC-3114", "HC-3001"];

pub struct Members {
    cut: bool,
    now: Option<Fault>,
}

struct Fault {
    /// Who goes, and comes back.
    node: usize,
    /// Its number before.
    number: u64,
    /// It dies with its disk and is replaced, instead of being removed and added.
    dies: bool,
    trouble: Option<Trouble>,
    /// By what the trouble was seen.
    seen: Vec<String>,
}

/// What goes wrong besides.
#[derive(Clone)]
struct Trouble {
    node: usize,
    kind: Kind,
    /// While the node comes back, instead of while it goes.
    coming: bool,
    /// Before the change is asked for.
    first: bool,
    /// How long after that the change is asked for, or the trouble comes.
    delay: Duration,
    lasts: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    CutOff,
    /// What it sends does not arrive; it hears the others.
    Mute,
    Killed,
}

impl Members {
    pub fn new(cut: bool) -> Members {
        Members { cut, now: None }
    }
}

impl Trouble {
    fn choose(cluster: &Cluster, node: usize, dies: bool, rng: &mut fastrand::Rng) -> Result<Trouble> {
        // Who is dead cannot be cut off while it goes.
        let coming = dies || rng.bool();
        let leader = cluster.meta_leader()?;
        let about_itself = leader == 0 || leader == node || rng.bool();
        // Whether somebody who waits to be taken in is killed shows nothing.
        let kinds =
            if about_itself { &[Kind::CutOff, Kind::Mute][..] } else { &[Kind::CutOff, Kind::Mute, Kind::Killed] };
        Ok(Trouble {
            node: if about_itself { node } else { leader },
            kind: kinds[rng.usize(0..kinds.len())],
            coming,
            first: rng.bool(),
            delay: between(rng, 0, 1500),
            lasts: between(rng, 1500, 5000),
        })
    }

    fn words(&self) -> String {
        let node = self.node;
        let what = match self.kind {
            Kind::CutOff => format!("node {node} is cut off"),
            Kind::Mute => format!("nothing that node {node} sends arrives"),
            Kind::Killed => format!("node {node} is killed"),
        };
        let when = if self.coming { "comes back" } else { "goes" };
        format!("; {what} {} it {when}", if self.first { "before" } else { "while" })
    }

    fn begin(&self, cluster: &mut Cluster) -> Result<()> {
        let others = cluster.numbers().into_iter().filter(|n| *n != self.node);
        let cut = |from, to| Cut { from, to, percent: 100 };
        match self.kind {
            Kind::CutOff => {
                cluster.net.cut(&others.flat_map(|n| [cut(self.node, n), cut(n, self.node)]).collect::<Vec<_>>())
            }
            Kind::Mute => cluster.net.cut(&others.map(|n| cut(self.node, n)).collect::<Vec<_>>()),
            Kind::Killed => cluster.kill(&[self.node]),
        }
    }

    /// Takes it back and says by what it was seen.
    fn end(&self, cluster: &mut Cluster) -> Result<String> {
        if self.kind == Kind::Killed {
            let answer = cluster.ask(self.node, &["PING"]);
            cluster.start_node(self.node)?;
            ensure!(answer.is_err(), "node {} answers", self.node);
            return Ok(format!("no answer of node {}", self.node));
        }
        let dropped = cluster.net.dropped()?;
        cluster.net.heal()?;
        ensure!(dropped > 0, "not one packet was dropped");
        Ok(format!("{dropped} packets were dropped"))
    }
}

impl Fault {
    /// Whom an operator asks: everybody but the node that goes or comes.
    fn others(&self, cluster: &Cluster) -> Vec<usize> {
        cluster.running().into_iter().filter(|n| *n != self.node).collect()
    }

    /// A change of members, with the trouble that belongs to this half of the fault.
    fn change(&mut self, cluster: &mut Cluster, coming: bool, words: &[&str]) -> Result<()> {
        if let Some(trouble) = self.trouble.clone().filter(|trouble| trouble.coming == coming) {
            if !trouble.first {
                self.ask(cluster, words)?;
            }
            thread::sleep(trouble.delay);
            trouble.begin(cluster)?;
            let began = Instant::now();
            if trouble.first {
                // Whatever becomes of it now, it is asked for again below.
                let _ = cluster.ctl_at(&self.others(cluster), trouble.lasts, words);
            }
            thread::sleep(trouble.lasts.saturating_sub(began.elapsed()));
            self.seen.push(trouble.end(cluster)?);
        }
        let words: Vec<&str> = words.iter().copied().chain(["--wait"]).collect();
        let told = self.ask(cluster, &words)?;
        ensure!(told["done"] == true, "{words:?} ended without being done: {told}");
        Ok(())
    }

    /// Runs a command that must succeed, again where what is in its way [`PASSES`].
    fn ask(&self, cluster: &Cluster, words: &[&str]) -> Result<Value> {
        let deadline = Instant::now() + CHANGE;
        loop {
            match cluster.ctl_at(&self.others(cluster), CHANGE, words) {
                Err(e) if PASSES.iter().any(|code| format!("{e:#}").contains(code)) && Instant::now() < deadline => {
                    thread::sleep(cluster::LOOK_INTERVAL);
                }
                told => return told.with_context(|| format!("{words:?}")),
            }
        }
    }

    fn go_and_come_back(&mut self, cluster: &mut Cluster) -> Result<()> {
        let (name, address) = (cluster::name(self.node), cluster.peer(self.node).to_string());
        if self.dies {
            cluster.kill(&[self.node])?;
            cluster.start_anew(self.node)?;
            return self.change(cluster, true, &["node", "replace", &name, &address]);
        }
        self.change(cluster, false, &["node", "remove", &name])?;
        let status = cluster.wait_ended(self.node)?;
        ensure!(status.success(), "node {} was removed and ended with {status}", self.node);
        cluster.start_anew(self.node)?;
        self.change(cluster, true, &["node", "add", &address])
    }
}

impl Nemesis for Members {
    fn name(&self) -> &'static str {
        if self.cut { "members-cut" } else { "members" }
    }

    fn about(&self) -> &'static str {
        if self.cut {
            "nodes leave and come back as new ones, while one of them or who carries it out is cut off or killed"
        } else {
            "nodes leave and come back as new ones: removed and added, or lost with their disk and replaced"
        }
    }

    fn needs(&self) -> Needs {
        let programs = if self.cut { net::PROGRAMS } else { &[] };
        Needs { root: self.cut, programs, nodes: Some(NODES) }
    }

    fn prepare(&mut self, plan: &mut Plan, _: &Path) -> Result<()> {
        plan.copies = COPIES;
        Ok(())
    }

    fn inject(&mut self, cluster: &mut Cluster, rng: &mut fastrand::Rng) -> Result<Option<Injected>> {
        let node = super::victim(cluster, rng)?;
        let dies = rng.bool();
        let via = cluster.numbers().into_iter().find(|n| *n != node).context("there are others")?;
        let (number, _) = cluster.standing(via, node)?;
        let trouble = if self.cut { Some(Trouble::choose(cluster, node, dies, rng)?) } else { None };
        let mut affected = vec![node];
        match &trouble {
            // Two of four are away then, and groups of which both are voters have no majority.
            Some(trouble) if trouble.node != node && dies => affected = cluster.numbers(),
            Some(trouble) if trouble.node != node => affected.push(trouble.node),
            _ => {}
        }
        let how = if dies { "dies with its disk and is replaced" } else { "is removed, and comes back" };
        let what = format!("node {node} {how}{}", trouble.as_ref().map(Trouble::words).unwrap_or_default());
        self.now = Some(Fault { node, number, dies, trouble, seen: Vec::new() });
        Ok(Some(Injected { what, affected, hold: Duration::ZERO }))
    }

    fn hold(&mut self, cluster: &mut Cluster, _: Duration) -> Result<()> {
        self.now.as_mut().context("nothing was done")?.go_and_come_back(cluster)
    }

    fn prove(&mut self, cluster: &mut Cluster) -> Result<String> {
        let fault = self.now.as_ref().context("nothing was done")?;
        let via = fault.others(cluster)[0];
        // The node that is asked may have been killed and just be starting, and may learn a moment later than the leader that all
        // is done.
        let deadline = Instant::now() + PATIENCE;
        loop {
            let told = cluster.standing(via, fault.node);
            if let Ok((number, standing)) = &told
                && *number > fault.number
                && standing == "member"
            {
                let seen: String = fault.seen.iter().map(|seen| format!("; {seen}")).collect();
                return Ok(format!("node {} is number {number} now and was {}{seen}", fault.node, fault.number));
            }
            if Instant::now() >= deadline {
                let (number, standing) = told?;
                bail!("node {} is number {number}, {standing}", fault.node);
            }
            thread::sleep(cluster::LOOK_INTERVAL);
        }
    }

    fn heal(&mut self, cluster: &mut Cluster) -> Result<()> {
        self.now = None;
        if self.cut {
            cluster.net.heal()?;
        }
        let down: Vec<usize> = cluster.numbers().into_iter().filter(|n| !cluster.running().contains(n)).collect();
        down.into_iter().try_for_each(|node| cluster.start_node(node))
    }
}
