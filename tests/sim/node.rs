//! A simulated node: everything that a server is made of but its threads, its disk, its HTTP and gRPC doors.
//!
//! The wiring follows `src/node.rs`. One runtime is all of its workers.

use crate::plan::{Kind, Plan};
use crate::story;
use hypercache::cluster::{Cluster, Layout, Members, Memory};
use hypercache::env;
use hypercache::env::simulated::{self, Clock};
use hypercache::net;
use hypercache::raft::storage::memory::Platter;
use hypercache::raft::{Group, Host, HostOptions, storage};
use hypercache::routing::NodeInfo;
use hypercache::server::{self, Server, Settings, Start};
use hypercache::types::NodeId;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;

pub const PEER_PORT: u16 = 7000;
pub const RESP_PORT: u16 = 6379;

/// Bytes on a disk below which its node takes no writes, as `src/node.rs` has it watched.
pub const DISK_LOW: u64 = 64 << 10;

/// What of a node outlives its process, and what whoever looks at it from outside may touch.
pub struct Node {
    pub id: usize,
    pub name: String,
    pub clock: Arc<Clock>,
    pub platter: Platter,
    dir: PathBuf,
    plan: Rc<Plan>,
    /// While it runs.
    pub cluster: RefCell<Option<Arc<Cluster>>>,
    pub serving: Cell<bool>,
    /// When it was started last, in true time.
    pub started: Cell<Duration>,
    /// How often it was started.
    pub lives: Cell<u64>,
    /// What an operator wants of it; done by the node's own task.
    pub asked: RefCell<Vec<(Kind, Arc<Group>, NodeId)>>,
    /// Why it ended by itself.
    pub failure: RefCell<Option<String>>,
}

impl Node {
    pub fn new(id: usize, plan: Rc<Plan>, dir: PathBuf) -> Rc<Node> {
        let name = name(id);
        let clock = Clock::new(&name, Duration::from_secs(1000 * id as u64), plan.walls[id - 1]);
        clock.drift(plan.drifts[id - 1]);
        let platter = Platter::default();
        platter.set_pace(plan.disk.0, plan.disk.1);
        Rc::new(Node {
            id,
            name,
            clock,
            platter,
            dir,
            plan,
            cluster: RefCell::default(),
            serving: Cell::new(false),
            started: Cell::new(Duration::ZERO),
            lives: Cell::new(0),
            asked: RefCell::default(),
            failure: RefCell::default(),
        })
    }

    /// Runs until the simulation stops it. Nothing may be read of the clocks before it is polled.
    pub async fn run(self: Rc<Node>) -> turmoil::Result {
        self.lives.set(self.lives.get() + 1);
        self.clock.enter();
        self.started.set(simulated::true_time());
        story::tell(&self.name, format!("starts, life {}", self.lives.get()));
        let failed = match self.serve().await {
            Ok(()) => "its groups have stopped".to_owned(),
            Err(e) => format!("{e:#}"),
        };
        story::tell(&self.name, format!("ENDED BY ITSELF: {failed}"));
        self.serving.set(false);
        *self.failure.borrow_mut() = Some(failed);
        std::future::pending().await
    }

    async fn serve(self: &Rc<Node>) -> anyhow::Result<()> {
        let me = NodeId(self.id as u64);
        let nodes: Vec<NodeId> = (1..=self.plan.nodes as u64).map(NodeId).collect();
        let addresses: BTreeMap<NodeId, String> =
            nodes.iter().map(|id| (*id, format!("{}:{PEER_PORT}", name(id.0 as usize)))).collect();
        let members = Arc::new(Members::open(&self.dir, me, &self.name, addresses)?);
        let workers = vec![Handle::current()];
        let options = self.options(me);
        let store = self.platter.open(&options.storage);
        let host = Host::on(store, options, members.clone(), workers.clone())?;
        let listener = net::listen(any(PEER_PORT), 0)?;
        tokio::spawn(host.clone().listen(listener, members.clone()));
        let layout = Layout {
            nodes,
            groups: self.plan.groups,
            replication_factor: 3,
            memory: Memory { limit: self.plan.limit.unwrap_or_default() },
            ..Layout::default()
        };
        let cluster = Cluster::new(members, host, self.info(me), layout);
        *self.cluster.borrow_mut() = Some(cluster.clone());
        let following = tokio::spawn(cluster.clone().run());
        tokio::select! {
            biased;
            () = cluster.ready() => (),
            ended = following => return Ok(ended??),
        }
        let _server = self.open_doors(cluster.clone(), workers).await?;
        self.serving.set(true);
        story::tell(&self.name, "serves");
        loop {
            env::sleep(Duration::from_millis(1)).await;
            cluster.host().set_disk_low(self.platter.room().is_some_and(|room| room < DISK_LOW));
            let asked = std::mem::take(&mut *self.asked.borrow_mut());
            for (kind, group, other) in asked {
                self.obey(kind, group, other);
            }
        }
    }

    /// Begins what an operator wants; how it ends is told.
    fn obey(&self, kind: Kind, group: Arc<Group>, other: NodeId) {
        let name = self.name.clone();
        tokio::spawn(async move {
            let ended = match kind {
                Kind::Transfer => group.transfer(other).await.map(|()| 0),
                _ => group.snapshot().await,
            };
            story::tell(&name, format!("{kind:?} of group {} to {other}: {ended:?}", group.id()));
        });
    }

    async fn open_doors(
        &self,
        cluster: Arc<Cluster>,
        workers: Vec<Handle>,
    ) -> anyhow::Result<(Server, watch::Sender<bool>)> {
        let (stop, stopped) = watch::channel(false);
        let settings = Settings {
            proxy: Some(any(RESP_PORT)),
            request_timeout: self.plan.request_timeout,
            protected: false,
            ..Settings::default()
        };
        let server = server::start(Start { cluster, settings, workers, stop: stopped }).await?;
        Ok((server, stop))
    }

    fn options(&self, me: NodeId) -> HostOptions {
        HostOptions {
            me,
            data_dir: self.dir.clone(),
            storage: storage::Options_::default(),
            timers: self.plan.timers,
            log_lag: self.plan.log_lag,
            snapshot_log_bytes: self.plan.snapshot_log_bytes,
            snapshot_min_interval: Duration::from_millis(300),
            eventual_without_leader: false,
            verify_interval: Duration::ZERO,
            filter_precision: Default::default(),
        }
    }

    fn info(&self, me: NodeId) -> NodeInfo {
        NodeInfo {
            id: me,
            name: self.name.clone(),
            host: self.name.clone(),
            peer_port: PEER_PORT,
            resp_port: RESP_PORT,
            cluster_port: 6479,
            http_port: 8080,
            grpc_port: 7070,
            zone: String::new(),
        }
    }
}

pub fn name(id: usize) -> String {
    format!("n{id}")
}

fn any(port: u16) -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, port).into()
}
