//! The RESP doors of a node: the listeners of both faces, a session for each connection, and the way from a request
//! to the group that answers it.
//!
//! ```text
//! listener -> session: bytes -> resp -> dispatch: gates, route -+-> lane of the group -> try_read | barrier | propose
//!                 ^                                             '-> session and node commands, at once
//!                 '--------- ring: replies in the order of requests <------'
//! ```
//!
//! What must never happen here: a lock held across an await, a queue or buffer without a named bound, a command run
//! before its gates, a reply out of order. Connections live on the workers' own runtimes and share nothing on the hot
//! path but the routing table (an atomic load a wake-up) and the keyspace they read.

pub mod accept;
mod changes;
mod clients;
pub mod counters;
mod dispatch;
mod failover;
pub mod grpc;
mod guard;
pub mod http;
mod lane;
mod latency;
mod listener;
mod merge;
pub mod metrics;
mod monitor;
mod node_view;
pub mod overview;
mod parameters;
mod pause;
mod pubsub;
mod remembered;
mod ring;
mod scan;
pub mod scripts;
mod session;
mod slow;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;
mod times;
mod tracking;
mod verify;

pub use clients::Clients;
pub use counters::{Counters, Totals};
pub use node_view::resident_bytes;

use crate::cluster::Cluster;
use crate::commands::session::Face;
use crate::env::{self, Instant};
use crate::resp::Limits;
use crate::routing::{NodeInfo, RoutingTable};
use crate::types::{GroupId, Level, Slot};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

/// What the doors are told at start. `Default` is what tests use: no face at all, small bounds are theirs to set.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the proxy face listens (`server.resp_addr`); None: nowhere.
    pub proxy: Option<SocketAddr>,
    /// Where the cluster face listens (`server.cluster_addr`); None: nowhere.
    pub cluster: Option<SocketAddr>,
    pub level: Level,
    pub request_timeout: Duration,
    /// Zero: a silent connection stays.
    pub idle_timeout: Duration,
    /// How long sessions may take to finish once a stop was asked for.
    pub drain_timeout: Duration,
    pub keepalive: Duration,
    pub max_clients: usize,
    pub limits: Limits,
    /// Bytes of replies that may wait for a client that does not read; beyond it nothing more is read from it.
    pub output_max: usize,
    /// Connections from other machines are refused while the default user needs no password.
    pub protected: bool,
    /// What scripts may take.
    pub scripts: scripts::Options,
    /// For INFO and CONFIG GET.
    pub workers: usize,
    pub sync: String,
    pub config_file: String,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            proxy: None,
            cluster: None,
            level: Level::default(),
            request_timeout: Duration::from_secs(5),
            idle_timeout: Duration::ZERO,
            drain_timeout: Duration::from_secs(10),
            keepalive: Duration::from_secs(300),
            max_clients: 10_000,
            limits: Limits::default(),
            output_max: 64 << 20,
            protected: true,
            scripts: scripts::Options::default(),
            workers: 1,
            sync: "always".to_owned(),
            config_file: String::new(),
        }
    }
}

impl Settings {
    /// The faces that listen, each with the name of its setting.
    fn listens(&self) -> impl Iterator<Item = (Face, &'static str, SocketAddr)> + use<> {
        let proxy = self.proxy.map(|a| (Face::Proxy, "server.resp_addr", a));
        let cluster = self.cluster.map(|a| (Face::Cluster, "server.cluster_addr", a));
        proxy.into_iter().chain(cluster)
    }
}

/// Why the doors could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{setting}: {addr} is taken by another program (Redis often holds 6379); stop it or set another port")]
    PortTaken { setting: &'static str, addr: SocketAddr },
    #[error("{setting}: cannot listen on {addr}: {source}")]
    Listen { setting: &'static str, addr: SocketAddr, source: io::Error },
    #[error("no worker to run sessions on")]
    NoWorkers,
}

/// The routing table with what every request would have to derive from it.
pub(crate) struct Routes {
    table: Arc<RoutingTable>,
    /// The data group, if there is exactly one.
    only: Option<GroupId>,
    /// Data groups that own slots, each with its first, in order of these.
    order: Vec<(Slot, GroupId)>,
}

impl Routes {
    fn new(table: Arc<RoutingTable>) -> Routes {
        let mut order: Vec<(Slot, GroupId)> = Vec::new();
        for (slot, group) in table.slots.iter().enumerate() {
            if *group != GroupId::META && !order.iter().any(|(_, g)| g == group) {
                order.push((Slot(slot as u16), *group));
            }
        }
        let mut groups = table.data_groups();
        let only = groups.next().filter(|_| groups.next().is_none());
        let only = only.filter(|group| order.iter().any(|(_, g)| g == group));
        drop(groups);
        Routes { table, only, order }
    }
}

/// What all sessions of a node share.
pub struct Shared {
    /// This one, for what outlives the call that begins it.
    weak: std::sync::Weak<Shared>,
    cluster: Arc<Cluster>,
    me: NodeInfo,
    settings: Settings,
    live: parameters::Live,
    clients: Clients,
    pubsub: Arc<pubsub::Pubsub>,
    caching: tracking::Caching,
    pause: pause::Pause,
    monitors: monitor::Monitors,
    /// One a worker, and that of the scripts.
    workers: Vec<Arc<Counters>>,
    slow: slow::CommandLogs,
    latency: latency::Latency,
    scripts: Arc<scripts::Scripts>,
    routes: ArcSwap<Routes>,
    /// Commands that touch keys are refused while set.
    loading: AtomicBool,
    /// Writes that grow memory are refused while set.
    memory_full: AtomicBool,
    started: Instant,
    run_id: String,
    /// Totals when RESETSTAT was last called.
    reset: Mutex<Totals>,
    /// Times by command and bucket when RESETSTAT was last called.
    reset_times: Mutex<Vec<Vec<u64>>>,
    /// Instant and commands of the last sample of the rate, and the rate.
    rate: Mutex<(Instant, u64, u64)>,
    peak_bytes: Mutex<u64>,
    saving: AtomicBool,
    save_failed: AtomicBool,
    /// Unix seconds of the last BGSAVE that succeeded, or of the start.
    saved_at: AtomicU64,
    /// SHUTDOWN was called.
    shut_down: tokio::sync::Notify,
}

impl Shared {
    /// The routes of the current table.
    fn routes(&self) -> Arc<Routes> {
        let known = self.routes.load_full();
        let table = self.cluster.table();
        if Arc::ptr_eq(&known.table, &table) {
            return known;
        }
        let fresh = Arc::new(Routes::new(table));
        self.scripts.forget_groups(|group| fresh.table.groups.contains_key(&group));
        self.routes.store(fresh.clone());
        fresh
    }

    /// Counts since start or RESETSTAT.
    pub fn totals(&self) -> Totals {
        Totals::of(&self.workers).since(&self.reset.lock())
    }

    /// Counts since start, which never go back: for metrics.
    pub fn all_time(&self) -> Totals {
        Totals::of(&self.workers)
    }

    pub fn clients(&self) -> &Clients {
        &self.clients
    }
}

/// What [`start`] is given.
pub struct Start {
    pub cluster: Arc<Cluster>,
    pub settings: Settings,
    /// The workers' runtimes. Sessions are dealt out to them in turn.
    pub workers: Vec<Handle>,
    /// Becomes true when the node is to stop.
    pub stop: watch::Receiver<bool>,
}

/// The open doors.
pub struct Server {
    shared: Arc<Shared>,
    addrs: Vec<(Face, SocketAddr)>,
    /// Every listener and session holds a sender.
    alive: mpsc::Receiver<()>,
}

/// Opens the faces that are configured and returns once they listen. Must be called in a runtime, on which
/// connections are accepted from then on.
pub async fn start(start: Start) -> Result<Server, StartError> {
    let Start { cluster, mut settings, workers, stop } = start;
    if workers.is_empty() {
        return Err(StartError::NoWorkers);
    }
    settings.workers = workers.len();
    let live = parameters::Live::new(&settings);
    let by_scripts = Arc::new(Counters::new());
    let pubsub = Arc::new(pubsub::Pubsub::new(&workers));
    let me = cluster.me();
    let shared = Arc::new_cyclic(|weak| Shared {
        weak: weak.clone(),
        scripts: scripts::Scripts::open(
            cluster.clone(),
            settings.scripts,
            live.busy_after_ms(),
            by_scripts.clone(),
            pubsub.clone(),
            weak.clone(),
        ),
        live,
        clients: Clients::default(),
        pubsub,
        caching: tracking::Caching::default(),
        pause: pause::Pause::default(),
        monitors: monitor::Monitors::default(),
        workers: workers.iter().map(|_| Arc::new(Counters::new())).chain([by_scripts]).collect(),
        slow: slow::CommandLogs::default(),
        latency: latency::Latency::default(),
        routes: ArcSwap::from_pointee(Routes::new(cluster.table())),
        loading: AtomicBool::new(false),
        memory_full: AtomicBool::new(false),
        started: env::now(),
        run_id: run_id(),
        reset: Mutex::new(Totals::default()),
        reset_times: Mutex::default(),
        rate: Mutex::new((env::now(), 0, 0)),
        peak_bytes: Mutex::new(0),
        saving: AtomicBool::new(false),
        save_failed: AtomicBool::new(false),
        saved_at: AtomicU64::new(env::wall_ms() / 1000),
        shut_down: tokio::sync::Notify::new(),
        cluster,
        me,
        settings,
    });
    tokio::spawn(follow_users(shared.clone(), stop.clone()));
    shared.cluster.host().receive_with(Box::new(pubsub::peers::Doors(Arc::downgrade(&shared))));
    shared.cluster.host().watch().tell(Box::new(changes::Hears(Arc::downgrade(&shared))));
    let (token, alive) = mpsc::channel(1);
    let mut addrs = Vec::new();
    for (face, setting, addr) in shared.settings.listens() {
        let listener = listener::Listener::bind(face, setting, addr)?;
        addrs.push((face, listener.addr()));
        tokio::spawn(listener.run(shared.clone(), workers.clone(), stop.clone(), token.clone()));
    }
    Ok(Server { shared, addrs, alive })
}

/// Has every connection look at who it is when users change, also those that say nothing: a deleted user's are closed.
async fn follow_users(shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let mut changed = shared.cluster.watch_users();
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            changed = changed.changed() => match changed {
                Ok(()) => shared.clients.wake_all(),
                Err(_) => return,
            },
        }
    }
}

/// 40 hexadecimal digits.
fn run_id() -> String {
    let mut id: String = (0..3).map(|_| format!("{:016x}", env::seed())).collect();
    id.truncate(40);
    id
}

impl Server {
    /// Where a face listens: the port that was given out if none was asked for.
    pub fn addr(&self, face: Face) -> Option<SocketAddr> {
        self.addrs.iter().find(|(f, _)| *f == face).map(|(_, addr)| *addr)
    }

    /// Counters, clients and everything INFO shows (`commands::node::Node`).
    pub fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// While set, commands that touch keys are refused with LOADING.
    pub fn set_loading(&self, loading: bool) {
        self.shared.loading.store(loading, Relaxed);
    }

    /// While set, writes that grow memory are refused with OOM.
    pub fn set_memory_full(&self, full: bool) {
        self.shared.memory_full.store(full, Relaxed);
    }

    /// Resolves when a client said SHUTDOWN.
    pub async fn shut_down_asked(&self) {
        self.shared.shut_down.notified().await
    }

    /// Resolves when the listeners and every session have ended: some time after `stop` became true.
    pub async fn drained(mut self) {
        // Nobody sends; the channel closes with its last sender.
        while self.alive.recv().await.is_some() {}
    }
}
