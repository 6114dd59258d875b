//! One run: a cluster, clients, a nemesis, final reads, a verdict.
//!
//! ```text
//! |-- before --|-- fault, healing, quiet, fault, healing, quiet ... --|-- after --| final reads | replicas compared |
//! ```
//!
//! A run fails if an anomaly was found, if an object could not be judged in time, if a fault was not in place, if too few
//! operations succeeded before, during (on the majority's side) or after, if the cluster did not serve again after a fault,
//! if the final reads did not succeed, or if replicas differ at the end. What the harness itself could not do is told
//! apart from all that ([`Failure::Harness`]).

use crate::cluster::{Cluster, Plan};
use crate::history::{Fault, History, Op, Probed};
use crate::nemeses::Nemesis;
use crate::outcome::{self, Outcome};
use crate::resp::Connection;
use crate::stats::{ENOUGH_IN_QUIET, Stats};
use crate::workloads::{Crowd, Generator, Next, Verdict, Workload};
use anyhow::Result;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Data groups of the cluster: enough that a node leads some and follows in others.
const GROUPS: usize = 3;
/// The server's own deadline; it never answers later than this and what forwarding adds.
const REQUEST_TIMEOUT: &str = "limits.request_timeout=2s";
/// After this a client gives an answer up.
const CLIENT_PATIENCE: Duration = Duration::from_secs(4);
/// Before a client knocks again at a door that was closed.
const KNOCKING: Duration = Duration::from_millis(100);
/// Each node is asked so often to write to each group.
const PROBE_INTERVAL: Duration = Duration::from_millis(50);
/// A probe that waits longer is given up and asked anew, as a client would do who wants to know: what had been sent to a
/// leader that then was cut off is held until its link is found dead, although a new request would be served before.
const PROBE_PATIENCE: Duration = Duration::from_millis(200);
/// Time without faults between two, besides what recovering takes.
const QUIET_MS: std::ops::Range<u64> = 1000..2500;
/// By how much a time without faults is made longer at most.
const MOST_QUIET: Duration = Duration::from_secs(20);
/// How often a final read that fails is tried again, at most for [`FINAL_PATIENCE`].
const FINAL_PAUSE: Duration = Duration::from_millis(100);
const FINAL_PATIENCE: Duration = Duration::from_secs(30);
/// What the checker may take.
const CHECK_BUDGET: Duration = Duration::from_secs(120);

/// What a run is made of, besides workload and nemesis.
#[derive(Debug, Clone)]
pub struct Settings {
    pub program: PathBuf,
    /// From the first operation to the last, final reads not included.
    pub time: Duration,
    /// At least this from the beginning of a fault to that of the next.
    pub every: Duration,
    /// Settings of every node, besides those of the run, the workload and the nemesis, over which they go.
    pub set: Vec<String>,
    pub seed: u64,
    /// Operations a second of all clients together, if all are served at once.
    pub rate: u64,
    pub workers_a_node: usize,
    pub namespaces: bool,
    pub folder: PathBuf,
}

/// Why a run did not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The system broke a promise.
    System(String),
    /// The run proves nothing: the fault was not in place, too little happened, or the judge ran out of time.
    NoProof(String),
    /// The harness could not do its own work.
    Harness(String),
}

pub struct Finished {
    pub history: History,
    pub verdict: Verdict,
    pub stats: Stats,
    pub failures: Vec<Failure>,
}

/// Where a run is in time.
struct Stage {
    began: Instant,
    stop: AtomicBool,
    /// Operations that succeeded so far.
    ok: AtomicU64,
}

impl Stage {
    fn now(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Raises the flag when it goes out of scope, so that clients end when anything fails.
struct StopAtEnd<'a>(&'a Stage);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

/// Runs it. An error is the harness's; everything else is in what is returned.
pub fn run(workload: &dyn Workload, nemesis: &mut dyn Nemesis, settings: &Settings) -> Result<Finished> {
    let nodes = nemesis.needs().nodes.unwrap_or(3);
    let mut plan = Plan {
        nodes,
        copies: nodes,
        groups: GROUPS,
        settings: vec![REQUEST_TIMEOUT.to_owned()],
        disk: None,
        environment: Vec::new(),
        namespaces: settings.namespaces,
    };
    std::fs::create_dir_all(&settings.folder)?;
    workload.prepare(&mut plan, settings.seed);
    nemesis.prepare(&mut plan, &settings.folder)?;
    plan.settings.extend(settings.set.iter().cloned());
    let mut cluster = Cluster::start(&settings.program, plan, &settings.folder)?;
    let crowd = Crowd { nodes, workers: settings.workers_a_node * nodes, seed: settings.seed };
    let stage = Stage { began: Instant::now(), stop: AtomicBool::new(false), ok: AtomicU64::new(0) };
    let mut history = History::default();
    let mut failures = Vec::new();
    thread::scope(|scope| {
        let _also_after_a_failure = StopAtEnd(&stage);
        let clients: Vec<_> = workload
            .generators(&crowd)
            .into_iter()
            .enumerate()
            .map(|(worker, mind)| {
                let client = Client::new(&cluster, crowd, worker, settings, &stage);
                scope.spawn(move || client.work(mind))
            })
            .collect();
        let probes = Probe::all(&cluster);
        let probes: Vec<_> = probes.into_iter().map(|probe| scope.spawn(|| probe.work(&stage))).collect();
        let mut times = Schedule::new(settings);
        if let Err(failure) = times.drive(&stage, &mut cluster, nemesis, &mut history.faults) {
            failures.push(failure);
        }
        stage.stop.store(true, Ordering::Relaxed);
        for client in clients {
            history.ops.extend(client.join().unwrap_or_default());
        }
        for probe in probes {
            history.probes.extend(probe.join().unwrap_or_default());
        }
    });
    history.ops.sort_by_key(|op| op.from);
    if failures.is_empty() {
        failures.extend(finish(workload, &cluster, &stage, &mut history));
    }
    history.write(&settings.folder.join("history.jsonl"))?;
    let verdict = judge(workload, &history, &mut failures);
    let stats = Stats::of(&history, cluster.groups.len(), settings.rate);
    failures.extend(stats.too_little(nemesis.name() == "none").map(Failure::NoProof));
    if let Err(e) = cluster.none_ended() {
        failures.push(Failure::System(e.to_string()));
    }
    Ok(Finished { history, verdict, stats, failures })
}

/// Judges a history and says what is wrong with it.
pub fn judge(workload: &dyn Workload, history: &History, failures: &mut Vec<Failure>) -> Verdict {
    let verdict = workload.check(history, CHECK_BUDGET);
    for anomaly in &verdict.anomalies {
        failures.push(Failure::System(format!("{}: {}", anomaly.kind, anomaly.what)));
    }
    if !verdict.undecided.is_empty() {
        failures
            .push(Failure::NoProof(format!("not judged within {CHECK_BUDGET:?}: {}", verdict.undecided.join(", "))));
    }
    failures.extend(verdict.unproven.iter().cloned().map(Failure::NoProof));
    for op in history.ops.iter().filter(|op| matches!(op.outcome, Outcome::Broken(_))) {
        failures.push(Failure::System(format!("the server answered what it must not: {}", op.story())));
    }
    verdict
}

/// Final reads by every node, and the comparison of replicas. Nothing writes any more.
fn finish(workload: &dyn Workload, cluster: &Cluster, stage: &Stage, history: &mut History) -> Vec<Failure> {
    let mut failures = Vec::new();
    let commands = workload.final_reads(history);
    for node in cluster.numbers() {
        let process = FINAL_PROCESS + node;
        let mut connection = None;
        for words in &commands {
            let deadline = Instant::now() + FINAL_PATIENCE;
            loop {
                let op =
                    call(&mut connection, cluster.proxy(node), CLIENT_PATIENCE, stage, (process, node), words.clone());
                let done = op.is_ok();
                let story = op.story();
                history.ops.push(op);
                if done {
                    break;
                }
                if Instant::now() > deadline {
                    failures.push(Failure::System(format!("a final read did not succeed: {story}")));
                    return failures;
                }
                thread::sleep(FINAL_PAUSE);
            }
        }
    }
    if let Err(e) = cluster.verify_replicas() {
        failures.push(Failure::System(format!("hypercachectl verify: {e:#}")));
    }
    failures
}

/// Processes of the final reads, out of the way of all others.
const FINAL_PROCESS: usize = 1_000_000_000;

/// One operation on a connection, which is opened if need be and dropped where nobody knows what will come on it.
fn call(
    connection: &mut Option<Connection>,
    at: std::net::SocketAddr,
    patience: Duration,
    stage: &Stage,
    (process, node): (usize, usize),
    words: Vec<String>,
) -> Op {
    let from = stage.now();
    let outcome = match connection.take().map_or_else(|| Connection::open(at, patience), Ok) {
        // Never sent.
        Err(e) => Outcome::Failed(format!("connecting: {e}")),
        Ok(mut open) => {
            let answer = open.call(&words);
            if answer.is_ok() {
                *connection = Some(open);
            }
            outcome::judge(&words, answer)
        }
    };
    Op { process, node, words, from, to: stage.now(), outcome }
}

/// A client thread.
struct Client<'a> {
    at: std::net::SocketAddr,
    node: usize,
    worker: usize,
    workers: usize,
    /// Mean time from one operation to the next.
    pace: Duration,
    rng: fastrand::Rng,
    stage: &'a Stage,
}

impl<'a> Client<'a> {
    fn new(cluster: &Cluster, crowd: Crowd, worker: usize, settings: &Settings, stage: &'a Stage) -> Client<'a> {
        let node = crowd.node_of(worker);
        let pace = Duration::from_secs_f64(crowd.workers as f64 / settings.rate.max(1) as f64);
        let rng = fastrand::Rng::with_seed(!settings.seed ^ worker as u64);
        Client { at: cluster.proxy(node), node, worker, workers: crowd.workers, pace, rng, stage }
    }

    fn work(mut self, mut mind: Box<dyn Generator>) -> Vec<Op> {
        let mut ops: Vec<Op> = Vec::new();
        let mut process = self.worker;
        let mut connection = None;
        while !self.stage.stopped() {
            let words = match mind.next(ops.last()) {
                Next::Call(words) => words,
                Next::Pause(time) => {
                    thread::sleep(time);
                    continue;
                }
            };
            let began = Instant::now();
            let op = call(&mut connection, self.at, CLIENT_PATIENCE, self.stage, (process, self.node), words);
            if matches!(op.outcome, Outcome::Open(_) | Outcome::Broken(_)) {
                // It may still be at work: whoever goes on is somebody else, also to the server.
                process += self.workers;
                connection = None;
            }
            self.stage.ok.fetch_add(u64::from(op.is_ok()), Ordering::Relaxed);
            let knocked_in_vain = connection.is_none() && matches!(op.outcome, Outcome::Failed(_));
            ops.push(op);
            let pause = self.pace.mul_f64(self.rng.f64() * 2.0);
            thread::sleep(pause.saturating_sub(began.elapsed()).max(if knocked_in_vain {
                KNOCKING
            } else {
                Duration::ZERO
            }));
        }
        ops
    }
}

/// Asks one node to write to one group, all the time: by this it is seen from when to when a group was served.
struct Probe {
    at: std::net::SocketAddr,
    node: usize,
    group: usize,
    key: String,
}

impl Probe {
    fn all(cluster: &Cluster) -> Vec<Probe> {
        let of_node = |node: usize| {
            cluster.groups.iter().enumerate().map(move |(group, g)| {
                let key = cluster.key_of(g, "probe");
                Probe { at: cluster.proxy(node), node, group, key }
            })
        };
        cluster.numbers().into_iter().flat_map(of_node).collect()
    }

    fn work(self, stage: &Stage) -> Vec<Probed> {
        let mut seen = Vec::new();
        let mut connection = None;
        while !stage.stopped() {
            let words = vec!["SET".to_owned(), self.key.clone(), seen.len().to_string()];
            let op = call(&mut connection, self.at, PROBE_PATIENCE, stage, (0, self.node), words);
            let took = Duration::from_micros(op.to - op.from);
            seen.push(Probed { node: self.node, group: self.group, from: op.from, to: op.to, ok: op.is_ok() });
            thread::sleep(PROBE_INTERVAL.saturating_sub(took).max(if op.is_ok() {
                Duration::ZERO
            } else {
                PROBE_INTERVAL / 2
            }));
        }
        seen
    }
}

/// The nemesis's part of a run.
struct Schedule {
    before: Duration,
    faults_until: Duration,
    end: Duration,
    every: Duration,
    rate: u64,
    rng: fastrand::Rng,
}

impl Schedule {
    fn new(settings: &Settings) -> Schedule {
        let edge = (settings.time / 6).clamp(Duration::from_secs(2), Duration::from_secs(8));
        let faults_until = settings.time.saturating_sub(edge);
        Schedule {
            before: edge,
            faults_until,
            end: settings.time,
            every: settings.every,
            rate: settings.rate,
            rng: fastrand::Rng::with_seed(settings.seed),
        }
    }

    fn wait(&self, stage: &Stage, until: Duration) {
        thread::sleep(until.saturating_sub(stage.began.elapsed()));
    }

    /// Time without faults, and longer where the machine was too busy with other things to serve anybody: it is faults
    /// that are to be seen here.
    fn quiet(&self, stage: &Stage, time: Duration) {
        let (began, ok) = (Instant::now(), stage.ok.load(Ordering::Relaxed));
        thread::sleep(time);
        let enough = |elapsed: Duration| {
            let wanted = elapsed.as_millis() as u64 * self.rate / 1000;
            (stage.ok.load(Ordering::Relaxed) - ok) * 100 >= wanted * ENOUGH_IN_QUIET
        };
        while !enough(began.elapsed()) && began.elapsed() < time + MOST_QUIET {
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn drive(
        &mut self,
        stage: &Stage,
        cluster: &mut Cluster,
        nemesis: &mut dyn Nemesis,
        faults: &mut Vec<Fault>,
    ) -> std::result::Result<(), Failure> {
        self.quiet(stage, self.before);
        while stage.began.elapsed() < self.faults_until {
            let begin = stage.now();
            let injected = nemesis.inject(cluster, &mut self.rng).map_err(harness("making the fault"))?;
            let Some(injected) = injected else {
                self.wait(stage, self.faults_until);
                break;
            };
            let placed = stage.now();
            let proof = nemesis.hold(cluster, injected.hold).and_then(|()| nemesis.prove(cluster));
            let healed = nemesis.heal(cluster);
            let mut fault = Fault {
                what: injected.what,
                proof: proof.as_ref().map_or_else(|e| format!("none: {e:#}"), String::clone),
                affected: injected.affected,
                begin,
                placed,
                healed: stage.now(),
                recovered: u64::MAX,
            };
            let serves = cluster.wait_serving();
            fault.recovered = stage.now();
            let what = fault.what.clone();
            faults.push(fault);
            proof.map_err(|e| Failure::NoProof(format!("{what}: not in place: {e:#}")))?;
            healed.map_err(harness("taking the fault back"))?;
            serves.map_err(|e| Failure::System(format!("after {what}: {e:#}")))?;
            let quiet = Duration::from_millis(self.rng.u64(QUIET_MS));
            let next = (stage.began.elapsed() + quiet).max(Duration::from_micros(begin) + self.every);
            self.wait(stage, next.min(self.faults_until.max(stage.began.elapsed() + quiet)));
        }
        // However long the last fault took, what comes after it is seen.
        let after = self.end - self.faults_until;
        self.quiet(stage, after.max(self.end.saturating_sub(stage.began.elapsed())));
        Ok(())
    }
}

fn harness(doing: &str) -> impl Fn(anyhow::Error) -> Failure {
    let doing = doing.to_owned();
    move |e| Failure::Harness(format!("{doing}: {e:#}"))
}
