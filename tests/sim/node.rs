//! A simulated node: everything that a server is made of but its threads, its disk, its HTTP and gRPC doors.
//!
//! The wiring follows `src/node.rs`. One runtime is all of its workers.

use crate::plan::Plan;
use crate::story;
use hypercache::cluster::{
    Candidate, ChangeGroups, Cluster, IdentityError, Layout, Members, Memory, MoveSlots, Moving, Past, Stage, Standing,
    Wish, past,
};
use hypercache::env;
use hypercache::env::simulated::{self, Clock};
use hypercache::net;
use hypercache::raft::storage::memory::Platter;
use hypercache::raft::{Group, Host, HostOptions, peers, storage};
use hypercache::routing::NodeInfo;
use hypercache::server::{self, Server, Settings, Start};
use hypercache::types::{GroupId, NodeId};
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

/// How long an operator waits for an answer to a wish.
const WISH: Duration = Duration::from_secs(5);
/// How long a node that was let go takes at most for each part of its end, as `src/node.rs` has it.
const END: Duration = Duration::from_secs(2);

/// What an operator wants of a node.
#[derive(Clone)]
pub enum Asked {
    Transfer(Arc<Group>, NodeId),
    Snapshot(Arc<Group>),
    Wish(Wish),
    Slots(MoveSlots),
    Groups(ChangeGroups),
}

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
    pub asked: RefCell<Vec<Asked>>,
    /// Held by what is under way of that.
    open: Arc<()>,
    /// It belongs to the cluster, or did: a founder, or one that was invited.
    pub belongs: Cell<bool>,
    /// It was let go, and has ended for good.
    pub gone: Cell<bool>,
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
        let founders = plan.nodes;
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
            open: Arc::default(),
            belongs: Cell::new(id <= founders),
            gone: Cell::new(false),
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
            Ok(Ended::LetGo) => return self.end().await,
            Ok(Ended::Stopped) => "its groups have stopped".to_owned(),
            Err(e) => format!("{e:#}"),
        };
        story::tell(&self.name, format!("ENDED BY ITSELF: {failed}"));
        self.serving.set(false);
        *self.failure.borrow_mut() = Some(failed);
        std::future::pending().await
    }

    /// Ends for good. The simulation takes the rest of the process away.
    async fn end(&self) -> turmoil::Result {
        story::tell(&self.name, "ends: it was let go");
        self.serving.set(false);
        *self.cluster.borrow_mut() = None;
        self.gone.set(true);
        std::future::pending().await
    }

    fn founders(&self) -> impl Iterator<Item = NodeId> {
        (1..=self.plan.nodes as u64).map(NodeId)
    }

    /// Waits until it is invited, if it is not a founder. None: it was let go before.
    async fn find_part(&self) -> anyhow::Result<Option<Layout>> {
        let founds = self.id <= self.plan.nodes;
        match past(&self.dir) {
            Err(IdentityError::Removed(_)) => return Ok(None),
            Err(e) => return Err(e.into()),
            Ok(Past::None | Past::Invited(None)) if !founds => {
                let candidate = Candidate::open(&self.dir, &self.name, "")?;
                let (listener, me) = (net::listen(any(PEER_PORT), 0)?, candidate.introduction());
                let invited = peers::wait_for_invitation(&listener, &me, |one| candidate.accept(one)).await;
                assert_eq!(invited.node, NodeId(self.id as u64), "those that wait are taken in by their numbers");
                // Only now it may promise anything: it begins here.
                self.lives.set(1);
                self.started.set(simulated::true_time());
                self.belongs.set(true);
                story::tell(&self.name, "was invited");
            }
            Ok(_) => {}
        }
        Ok(Some(Layout {
            nodes: if founds { self.founders().collect() } else { Vec::new() },
            groups: self.plan.groups,
            replication_factor: 3,
            memory: Memory { limit: self.plan.limit.unwrap_or_default() },
            ..Layout::default()
        }))
    }

    async fn serve(self: &Rc<Node>) -> anyhow::Result<Ended> {
        let me = NodeId(self.id as u64);
        let Some(layout) = self.find_part().await? else { return Ok(Ended::LetGo) };
        let addresses: BTreeMap<NodeId, String> =
            layout.nodes.iter().map(|id| (*id, format!("{}:{PEER_PORT}", name(id.0 as usize)))).collect();
        let members = Arc::new(Members::open(&self.dir, me, &self.name, addresses)?);
        let workers = vec![Handle::current()];
        let options = self.options(me);
        let store = self.platter.open(&options.storage);
        let host = Host::on(store, options, members.clone(), workers.clone())?;
        members.note_bound()?;
        let listener = net::listen(any(PEER_PORT), 0)?;
        tokio::spawn(host.clone().listen(listener, members.clone()));
        let cluster = Cluster::new(members, host.clone(), self.info(me), layout);
        *self.cluster.borrow_mut() = Some(cluster.clone());
        let following = tokio::spawn(cluster.clone().run());
        tokio::select! {
            biased;
            () = cluster.ready() => (),
            () = cluster.removed() => {
                host.stop().await;
                return Ok(Ended::LetGo);
            }
            ended = following => return Ok(ended?.map(|()| Ended::Stopped)?),
        }
        let (server, stop) = self.open_doors(cluster.clone(), workers).await?;
        self.serving.set(true);
        story::tell(&self.name, "serves");
        tokio::select! {
            biased;
            () = cluster.removed() => (),
            () = self.obey_all(&cluster) => (),
        }
        self.serving.set(false);
        let _ = env::timeout(END, host.step_aside()).await;
        let _ = stop.send(true);
        let _ = env::timeout(END, server.drained()).await;
        let _ = env::timeout(END, host.stop()).await;
        Ok(Ended::LetGo)
    }

    /// Does what an operator wants, and watches the disk. Never ends.
    async fn obey_all(&self, cluster: &Arc<Cluster>) {
        loop {
            env::sleep(Duration::from_millis(1)).await;
            cluster.host().set_disk_low(self.platter.room().is_some_and(|room| room < DISK_LOW));
            let asked = std::mem::take(&mut *self.asked.borrow_mut());
            for asked in asked {
                self.obey(cluster, asked);
            }
        }
    }

    /// Begins what an operator wants; how it ends is told.
    fn obey(&self, cluster: &Arc<Cluster>, asked: Asked) {
        let (name, cluster, open) = (self.name.clone(), cluster.clone(), self.open.clone());
        tokio::spawn(async move {
            let _open = open;
            let text = match asked {
                Asked::Transfer(group, to) => {
                    format!("transfer of group {} to {to}: {:?}", group.id(), group.transfer(to).await)
                }
                Asked::Snapshot(group) => format!("snapshot of group {}: {:?}", group.id(), group.snapshot().await),
                Asked::Wish(wish) => {
                    let answer = cluster.wish(&wish, false, env::now() + WISH).await;
                    format!("{wish:?}: {answer:?}")
                }
                Asked::Slots(wish) => {
                    let answer = cluster.move_slots(&wish, false, env::now() + WISH).await;
                    format!("{wish:?}: {:?}", answer.map(|moving| (moving.epoch, moving.under_way)))
                }
                Asked::Groups(wish) => {
                    let answer = cluster.change_groups(&wish, false, env::now() + WISH).await;
                    format!("{wish:?}: {:?}", answer.map(|change| (change.epoch, change.group, change.stage)))
                }
            };
            story::tell(&name, text);
        });
    }

    /// Whether an operator waits for an answer of it.
    pub fn is_asked(&self) -> bool {
        !self.gone.get() && (!self.asked.borrow().is_empty() || Arc::strong_count(&self.open) > 1)
    }

    /// How this node belongs, as the one among `nodes` knows it that has heard most.
    pub fn standing(&self, nodes: &[Rc<Node>]) -> Option<Standing> {
        best_informed(nodes)?.roster()?.standing(NodeId(self.id as u64))
    }

    /// Whether the cluster counts on it: it belongs and was not let go.
    pub fn counts(&self, nodes: &[Rc<Node>]) -> bool {
        self.belongs.get() && !self.gone.get() && self.standing(nodes) != Some(Standing::Gone)
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
            gossip_port: 0,
            zone: String::new(),
        }
    }
}

/// The cluster as the one among `nodes` knows it that has heard most.
fn best_informed(nodes: &[Rc<Node>]) -> Option<Arc<Cluster>> {
    let of = |node: &Rc<Node>| {
        let cluster = node.cluster.borrow().clone()?;
        Some((cluster.host().group(GroupId::META)?.status().applied, cluster))
    };
    nodes.iter().filter_map(of).max_by_key(|(applied, _)| *applied).map(|(_, cluster)| cluster)
}

/// Which slots are on their way, and whose the others are, as who knows it that has heard most.
pub fn moving(nodes: &[Rc<Node>]) -> Option<Moving> {
    best_informed(nodes)?.moving(&MoveSlots { slots: Default::default(), to: None }).ok()
}

/// What slots and groups that are on their way wait for, and how each group stands, as the leader of the meta group says.
pub fn waits(nodes: &[Rc<Node>]) -> Vec<String> {
    let leads = |cluster: &Arc<Cluster>| cluster.host().group(GroupId::META).is_some_and(|meta| meta.is_leader());
    let Some(cluster) = nodes.iter().filter_map(|node| node.cluster.borrow().clone()).find(leads) else {
        return vec!["nobody leads the meta group".to_owned()];
    };
    let all = MoveSlots { slots: Default::default(), to: None };
    let mut told = cluster.moving(&all).map_or_else(|e| vec![e.to_string()], |moving| moving.waiting);
    let coming_or_going =
        stages(nodes).into_keys().filter_map(|id| Some(format!("group {id} {}", cluster.group_waits_for(id)?)));
    told.extend(coming_or_going);
    for group in cluster.host().groups() {
        let (used, limit) = group.peek(|keys| (keys.used_bytes(), keys.limit()));
        let (id, leader, applied) = (group.id(), group.leader(), group.status().applied);
        told.push(format!("group {id} uses {used} of {}, is led by {leader:?} and applied to {applied}", limit.bytes));
    }
    told
}

/// How every group stands that there ever was, and who founds it while it is being begun, as who knows it that has heard most.
pub fn stages(nodes: &[Rc<Node>]) -> BTreeMap<GroupId, (Stage, Vec<NodeId>)> {
    best_informed(nodes).and_then(|cluster| cluster.stages().ok()).unwrap_or_default()
}

/// The groups that there are, the meta group first. Where none comes or goes they are those of the beginning.
pub fn groups(nodes: &[Rc<Node>]) -> Vec<u32> {
    let plan = &nodes[0].plan;
    let stages = if plan.grouping { stages(nodes) } else { BTreeMap::new() };
    if stages.is_empty() {
        return (0..=plan.groups).collect();
    }
    let there = stages.into_iter().filter(|(_, (stage, _))| !matches!(stage, Stage::Coming | Stage::Gone));
    std::iter::once(0).chain(there.map(|(id, _)| id.0)).collect()
}

/// How a node came to its end.
enum Ended {
    LetGo,
    Stopped,
}

pub fn name(id: usize) -> String {
    format!("n{id}")
}

fn any(port: u16) -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, port).into()
}
