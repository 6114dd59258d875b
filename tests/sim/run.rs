//! One seed: a cluster, clients, faults, then healing and judgement.

use crate::client::Client;
use crate::coverage::Coverage;
use crate::faults::Faults;
use crate::history::{History, Outcome, READ_BOTH};
use crate::invariants::{self, JUDGES, groups, progress, slots};
use crate::node::Node;
use crate::observe::Observer;
use crate::plan::{FAULTS_END, Plan};
use crate::story;
use hypercache::env::{self, simulated};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;
use std::sync::Mutex;
use std::time::Duration;
use turmoil::{Builder, Sim};

const TICK: Duration = Duration::from_millis(1);
/// A cluster forms, and serves after healing, in less than this.
const FORMS: Duration = Duration::from_secs(10);
const SERVES: Duration = Duration::from_secs(15);
/// What an operator wished is brought about after healing in less than this.
const SETTLES: Duration = Duration::from_secs(30);
/// Attempts at a final read, half a second apart.
const ATTEMPTS: usize = 20;

/// What a run came to.
pub struct Verdict {
    pub failure: Option<String>,
    pub virtual_time: Duration,
    pub operations: usize,
    pub done: usize,
    pub coverage: Coverage,
}

/// Panics of the server, which it survives as it does in production: its core starts again.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Run {
    plan: Rc<Plan>,
    nodes: Vec<Rc<Node>>,
    observer: Observer,
    rules: Vec<Box<dyn crate::observe::Watcher>>,
    faults: Faults,
    history: History,
}

/// Runs a seed. Once a process: what is drawn depends on everything that was drawn before.
pub fn run(seed: u64, dir: &Path) -> Verdict {
    simulated::begin(seed);
    story::listen();
    note_panics();
    let plan = Rc::new(Plan::draw(seed));
    story::tell_at(Duration::ZERO, "PLAN", plan.to_string());
    let nodes: Vec<Rc<Node>> =
        (1..=plan.all()).map(|id| Node::new(id, plan.clone(), dir.join(format!("n{id}")))).collect();
    let mut run = Run {
        faults: Faults::new(plan.clone()),
        nodes,
        observer: Observer::default(),
        rules: invariants::watchers(),
        history: Rc::default(),
        plan,
    };
    let mut sim = run.build();
    let failure = run.play(&mut sim).err();
    let virtual_time = sim.elapsed();
    if let Some(failure) = &failure {
        story::tell_at(virtual_time, "FAILED", failure);
    }
    let ops = run.history.borrow();
    let done = ops.iter().filter(|op| matches!(op.outcome, Outcome::Ok(_))).count();
    let verdict = Verdict { failure, virtual_time, operations: ops.len(), done, coverage: run.faults.coverage.clone() };
    story::tell_at(virtual_time, "END", format!("{} operations, {done} succeeded", ops.len()));
    verdict
}

fn note_panics() {
    std::panic::set_hook(Box::new(|info| {
        let what = info.payload_as_str().unwrap_or("a panic without words");
        let place = info.location().map_or_else(String::new, |at| format!("{}:{}", file(at.file()), at.line()));
        let text = format!("panics: {what} ({place})");
        if let Ok(mut panics) = PANICS.lock() {
            panics.push(text);
        }
    }));
}

/// The end of a path: where sources lie is the machine's.
fn file(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

impl Run {
    fn build(&self) -> Sim<'static> {
        let mut builder = Builder::new();
        builder
            .rng_seed(self.plan.seed)
            .epoch(std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000))
            .tick_duration(TICK)
            .simulation_duration(Duration::from_secs(3600))
            .min_message_latency(Duration::ZERO)
            .max_message_latency(self.plan.latency)
            .tcp_capacity(4096)
            .enable_random_order();
        let mut sim = builder.build();
        for node in &self.nodes {
            let again = node.clone();
            sim.host(node.name.clone(), move || again.clone().run());
        }
        sim
    }

    /// Lets a step pass.
    fn step(&mut self, sim: &mut Sim<'_>) -> Result<(), String> {
        sim.step().map_err(|e| format!("the simulation ended: {e}"))?;
        let at = sim.elapsed();
        self.bury(sim);
        self.observer.look(at, &self.nodes, &mut self.rules)?;
        if let Some(panic) = PANICS.lock().map_err(|e| e.to_string())?.first() {
            return Err(panic.clone());
        }
        let ended = self.nodes.iter().filter(|node| !self.faults.excuses(node));
        let mut ended = ended.filter_map(|node| node.failure.borrow().clone().map(|why| (node.name.clone(), why)));
        match ended.next() {
            Some((name, why)) => Err(format!("ended: {name} ended by itself: {why}")),
            None => Ok(()),
        }
    }

    /// Ends the processes of nodes that were let go.
    fn bury(&self, sim: &mut Sim<'_>) {
        for node in self.nodes.iter().filter(|node| node.gone.get()) {
            if sim.is_host_running(node.name.clone()) {
                sim.crash(node.name.clone());
            }
        }
    }

    /// Whether every node that the cluster counts on serves.
    fn all_serve(&self) -> bool {
        self.nodes.iter().all(|node| node.serving.get() || !node.counts(&self.nodes))
    }

    fn until(
        &mut self,
        sim: &mut Sim<'_>,
        what: &str,
        limit: Duration,
        done: impl Fn(&Run) -> bool,
    ) -> Result<(), String> {
        let end = sim.elapsed() + limit;
        while !done(self) {
            if sim.elapsed() > end {
                return Err(format!("progress: {what} took longer than {limit:?}"));
            }
            self.step(sim)?;
        }
        Ok(())
    }

    fn play(&mut self, sim: &mut Sim<'_>) -> Result<(), String> {
        self.until(sim, "forming the cluster", FORMS, Run::all_serve)?;
        let stop = Rc::new(Cell::new(false));
        let over = self.clients(sim, stop.clone());
        while sim.elapsed() < FAULTS_END {
            let at = sim.elapsed();
            self.faults.step(at, sim, &self.nodes, &mut self.observer);
            self.step(sim)?;
        }
        self.faults.heal(sim.elapsed(), sim, &self.nodes, &mut self.observer);
        story::tell_at(sim.elapsed(), "HEALED", "everything");
        stop.set(true);
        self.until(sim, "stopping the clients", SERVES, |_| over.get())?;
        self.until(sim, "starting all nodes again", SERVES, Run::all_serve)?;
        let (moving, grouping) = (self.plan.moving, self.plan.grouping);
        let settled = |run: &Run| {
            // A wish that was on its way while its node was cut off comes through now, and begins something.
            if let Some(node) = run.nodes.iter().find(|node| node.is_asked()) {
                return Err(format!("progress: an operator still waits for an answer of {}", node.name));
            }
            progress::settled(&run.nodes)?;
            if grouping {
                groups::settled(&run.nodes)?;
            }
            if moving { slots::settled(&run.nodes) } else { Ok(()) }
        };
        // Slots that could not go are tried again after a while, and that grows.
        let patience = if moving { SETTLES * 3 } else { SETTLES };
        let _ = self.until(sim, "bringing about what was wished", patience, |run| settled(run).is_ok());
        settled(self)?;
        self.read_all(sim)?;
        let _ = self.until(sim, "becoming equal", SERVES, |run| progress::converged(&run.nodes).is_ok());
        progress::converged(&self.nodes)?;
        if moving {
            slots::owned_once(&self.nodes)?;
        }
        if grouping {
            groups::only_those_of_the_table(&self.nodes)?;
        }
        let ops = self.history.borrow();
        for (_, judge) in JUDGES {
            judge(&ops)?;
        }
        progress::enough(&ops)
    }

    /// Starts the clients; the cell becomes true when all have ended.
    fn clients(&self, sim: &mut Sim<'_>, stop: Rc<Cell<bool>>) -> Rc<Cell<bool>> {
        let over = Rc::new(Cell::new(false));
        let (said, plan, history) = (over.clone(), self.plan.clone(), self.history.clone());
        sim.client("clients", async move {
            let clients = (1..=plan.clients).map(|id| Client::new(id, &plan, history.clone()).run(stop.clone()));
            futures_util::future::join_all(clients).await;
            said.set(true);
            Ok(())
        });
        over
    }

    /// Reads everything that does not expire once more, through some node, until it is answered.
    fn read_all(&mut self, sim: &mut Sim<'_>) -> Result<(), String> {
        let over = Rc::new(Cell::new(false));
        let unread: Rc<RefCell<Vec<String>>> = Rc::default();
        let (said, missed, plan, history) = (over.clone(), unread.clone(), self.plan.clone(), self.history.clone());
        sim.client("reader", async move {
            let written: BTreeSet<String> = {
                let ops = history.borrow();
                ops.iter()
                    .filter(|op| op.key().starts_with(['l', 'r', 'q', 'b', 'c']))
                    .map(|op| op.key().to_owned())
                    .collect()
            };
            let mut client = Client::new(plan.clients + 1, &plan, history.clone());
            for key in written {
                let read: Vec<String> = match key.as_bytes()[0] {
                    b'l' | b'q' => ["LRANGE", &key, "0", "-1"].map(str::to_owned).to_vec(),
                    b'b' => [READ_BOTH, &key].map(str::to_owned).to_vec(),
                    _ => ["GET", &key].map(str::to_owned).to_vec(),
                };
                let mut attempts = 0;
                while !matches!(client.call(read.clone(), true).await, Outcome::Ok(_)) {
                    attempts += 1;
                    if attempts == ATTEMPTS {
                        missed.borrow_mut().push(key);
                        break;
                    }
                    env::sleep(Duration::from_millis(500)).await;
                }
            }
            said.set(true);
            Ok(())
        });
        self.until(sim, "reading everything once more", Duration::from_secs(120), |_| over.get())?;
        match unread.borrow().first() {
            None => Ok(()),
            Some(key) => Err(format!("progress: {key} could not be read after all was healed")),
        }
    }
}
