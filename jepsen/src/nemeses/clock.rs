//! clock-jump, clock-strobe: wall clocks that are wrong by hours and jump while nodes run, by a library that is loaded
//! before the system's (`tests/cluster/wrong_clock.c`, compiled here). Nothing that is promised may depend on them.

use super::{Injected, Needs, Nemesis, between};
use crate::cluster::{Cluster, Plan};
use crate::net::must;
use crate::resp::Reply;
use anyhow::{Context, Result, ensure};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

const SOURCE: &str = include_str!("../../../tests/cluster/wrong_clock.c");
/// The most that a clock jumps.
const JUMP_MS: i64 = 3_600_000;
const STROBE_MS: i64 = 2000;
/// Between two jumps of a clock that strobes.
const STROBE: Duration = Duration::from_millis(20);
/// How far from what was set a node's clock may seem when it is asked.
const ASKING_MS: i64 = 5000;

pub struct Clock {
    strobe: bool,
    folder: PathBuf,
    /// What each node's clock is ahead by.
    ahead: Vec<i64>,
    jumps: u64,
}

impl Clock {
    pub fn new(strobe: bool) -> Clock {
        Clock { strobe, folder: PathBuf::new(), ahead: Vec::new(), jumps: 0 }
    }

    fn set(&mut self, node: usize, ahead_ms: i64) -> Result<()> {
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).open(self.folder.join(format!("clock-{node}")));
        file.and_then(|f| f.write_all_at(&ahead_ms.to_ne_bytes(), 0)).context("setting a clock")?;
        self.ahead[node - 1] = ahead_ms;
        self.jumps += 1;
        Ok(())
    }
}

/// What a node's wall clock is ahead of ours, as it tells it.
fn ahead_of_us(cluster: &Cluster, node: usize) -> Result<i64> {
    let reply = cluster.ask(node, &["TIME"])?;
    let seconds =
        reply.array().and_then(|parts| parts.first()).and_then(Reply::text).context("TIME answers with an array")?;
    let ours = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_millis() as i64;
    Ok(seconds.parse::<i64>()? * 1000 - ours)
}

impl Nemesis for Clock {
    fn name(&self) -> &'static str {
        if self.strobe { "clock-strobe" } else { "clock-jump" }
    }

    fn about(&self) -> &'static str {
        if self.strobe {
            "wall clocks jump by up to two seconds fifty times a second"
        } else {
            "wall clocks jump by up to an hour, each its own way"
        }
    }

    fn needs(&self) -> Needs {
        Needs { root: false, programs: &["cc"], nodes: None }
    }

    fn prepare(&mut self, plan: &mut Plan, folder: &Path) -> Result<()> {
        self.folder = fs::canonicalize(folder)?;
        let (source, library) = (self.folder.join("wrong_clock.c"), self.folder.join("wrong_clock.so"));
        fs::write(&source, SOURCE)?;
        must(Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source))?;
        plan.environment.push(("LD_PRELOAD".to_owned(), library.display().to_string()));
        plan.environment.push(("WRONG_CLOCK_FILE".to_owned(), self.folder.join("clock-{node}").display().to_string()));
        self.ahead = vec![0; plan.nodes];
        (1..=plan.nodes).try_for_each(|node| self.set(node, 0))
    }

    fn inject(&mut self, cluster: &mut Cluster, rng: &mut fastrand::Rng) -> Result<Option<Injected>> {
        self.jumps = 0;
        for node in cluster.numbers() {
            self.set(node, rng.i64(-JUMP_MS..=JUMP_MS))?;
        }
        let what = match self.strobe {
            true => format!("wall clocks strobe by {STROBE_MS} ms"),
            false => format!("wall clocks jump to {:?} ms ahead", self.ahead),
        };
        Ok(Some(Injected { what, affected: Vec::new(), hold: between(rng, 1500, 5000) }))
    }

    fn hold(&mut self, cluster: &mut Cluster, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while self.strobe && Instant::now() < end {
            for node in cluster.numbers() {
                let other = if self.ahead[node - 1] == 0 { STROBE_MS } else { 0 };
                self.set(node, other)?;
            }
            thread::sleep(STROBE);
        }
        thread::sleep(end.saturating_duration_since(Instant::now()));
        Ok(())
    }

    fn prove(&mut self, cluster: &mut Cluster) -> Result<String> {
        let mut seen = Vec::new();
        for node in cluster.numbers() {
            let ahead = ahead_of_us(cluster, node)?;
            ensure!((ahead - self.ahead[node - 1]).abs() < ASKING_MS, "node {node} is {ahead} ms ahead");
            seen.push(ahead);
        }
        Ok(format!("{} jumps; TIME says {seen:?} ms ahead", self.jumps))
    }

    /// The clocks stay where they are: a jump back is the next fault's.
    fn heal(&mut self, _: &mut Cluster) -> Result<()> {
        Ok(())
    }
}
