//! All groups of this node: opens them, and answers what peers ask of them.

use super::Snapshot;
use super::carry::Carrier;
use super::changes::Watch;
use super::group::{AdminError, Group, Surroundings, Table, Timers};
use super::network::Offer;
use super::peers::{self, Handled, Identity, Peers};
use super::storage::{Options_ as StorageOptions, Storage, StorageError};
use super::wire::{self, Lane, Method, Opcode};
use crate::env;
use crate::net::{Moving, TcpListener, TcpStream};
use crate::state::Precision;
use crate::types::{GroupId, Leadership, NodeId};
use arc_swap::ArcSwapOption;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How often it is looked whether the node at the other end of a link was removed.
const DISMISSAL_SEEN: Duration = Duration::from_secs(1);
/// How often who installs a snapshot says so.
const WORKING: Duration = Duration::from_millis(500);
/// How long a peer may take to greet.
const GREETING: Duration = Duration::from_secs(2);
/// How long a peer may take to say how much a group uses.
const USED: Duration = Duration::from_millis(500);
/// Connections that may be open at once and have not said yet which peer they are of.
const STRANGERS_MAX: usize = 1024;

/// What [`Host::open`] needs to know.
pub struct HostOptions {
    pub me: NodeId,
    pub data_dir: PathBuf,
    pub storage: StorageOptions,
    pub timers: Timers,
    pub log_lag: u64,
    pub snapshot_log_bytes: u64,
    pub snapshot_min_interval: Duration,
    pub eventual_without_leader: bool,
    /// How often replicas compare their states; zero: when asked only.
    pub verify_interval: Duration,
    /// Of the filters that say of most absent keys that they are.
    pub filter_precision: Precision,
}

/// The groups of this node.
pub struct Host {
    around: Arc<Surroundings>,
    workers: Vec<Handle>,
    groups: Table<BTreeMap<GroupId, Arc<Group>>>,
    opening: tokio::sync::Mutex<()>,
    /// Groups that are never held here again.
    dropped: Mutex<BTreeSet<GroupId>>,
    carrier: OnceLock<Carrier>,
    receiver: ArcSwapOption<Box<dyn Receiver>>,
}

/// Takes what the doors of another node say to this one's.
pub trait Receiver: Send + Sync + 'static {
    /// Takes one request, in the order in which they came on their link, and gives the answer. Must not block. The error
    /// goes back as text.
    fn receive(&self, body: Bytes) -> Result<BytesMut, String>;
}

impl Host {
    /// Opens the node's store. Groups are opened one by one.
    pub fn open(
        options: HostOptions,
        identity: Arc<dyn Identity>,
        workers: Vec<Handle>,
    ) -> Result<Arc<Host>, StorageError> {
        let storage = Storage::open(&options.data_dir.join("store"), &options.storage)?;
        Host::on(storage, options, identity, workers)
    }

    /// The same on a store that is open already.
    pub fn on(
        storage: Storage,
        options: HostOptions,
        identity: Arc<dyn Identity>,
        workers: Vec<Handle>,
    ) -> Result<Arc<Host>, StorageError> {
        assert!(!workers.is_empty(), "a node has at least one worker");
        let (incarnation, established) = identity.incarnation();
        storage.bind(incarnation, established)?;
        let dropped = storage.dropped()?;
        for group in &dropped {
            // Where the process ended before it had, or something was written behind it.
            storage.delete_dropped(*group)?;
        }
        let around = Arc::new(Surroundings {
            me: options.me,
            storage,
            peers: Peers::new(identity, workers.clone()),
            timers: options.timers,
            log_lag: options.log_lag,
            snapshot_log_bytes: options.snapshot_log_bytes,
            snapshot_min_interval: options.snapshot_min_interval,
            eventual_without_leader: options.eventual_without_leader,
            verify_interval: options.verify_interval,
            filter_precision: options.filter_precision,
            disk_low: AtomicBool::new(false),
            watch: Arc::default(),
        });
        Ok(Arc::new(Host {
            around,
            workers,
            groups: Table::from_pointee(BTreeMap::new()),
            opening: tokio::sync::Mutex::default(),
            dropped: Mutex::new(dropped),
            carrier: OnceLock::new(),
            receiver: ArcSwapOption::empty(),
        }))
    }

    /// Who answers what other nodes carry here. Said once; before, all of it is refused.
    pub fn answer_with(&self, carrier: Carrier) {
        // A second one would be a second server on the same host, which nobody makes.
        let _ = self.carrier.set(carrier);
    }

    /// Opens a group and starts it. `hash_seed` is what an empty state hashes keys with: the same on all of its replicas, and
    /// for as long as it lives. Its state is loaded elsewhere. `founders` are its first members if it has no log yet, and are
    /// so before it answers anybody: who has voted cannot be given members any more. Must be called in a runtime.
    pub async fn open_group(
        &self,
        id: GroupId,
        hash_seed: u64,
        founders: Option<BTreeSet<NodeId>>,
    ) -> Result<Arc<Group>, StorageError> {
        let _one_at_a_time = self.opening.lock().await;
        if let Some(group) = self.group(id) {
            return Ok(group);
        }
        if self.is_dropped(id) {
            return Err(StorageError::Dropped(id));
        }
        let worker = id.0 as usize % self.workers.len();
        let group = Group::new(id, worker as u16, self.workers[worker].clone(), self.around.clone(), hash_seed);
        group.start().await?;
        if let Some(founders) = founders.filter(|_| !group.has_log())
            && let Err(e) = group.initialize(&founders).await
        {
            tracing::error!(group = %id, error = %e, "group-not-initialized");
        }
        let mut groups = BTreeMap::clone(&self.groups.load());
        groups.insert(id, group.clone());
        self.groups.store(Arc::new(groups));
        Ok(group)
    }

    /// Gives up a group that has gone, for good: it is never opened here again, whatever table says that it should be. Its replica
    /// may be led, lead or be down; its log, votes and snapshots are deleted. Must be called in a runtime.
    pub async fn drop_group(&self, id: GroupId) -> Result<(), StorageError> {
        let _one_at_a_time = self.opening.lock().await;
        if self.is_dropped(id) {
            return Ok(());
        }
        let storage = self.around.storage.clone();
        // First of all: an empty replica, opened again, would not know how it has voted.
        let marked = env::elsewhere("mark-group", move || storage.mark_dropped(id)).await;
        marked.ok_or(StorageError::Stopped)??;
        self.dropped.lock().insert(id);
        let mut groups = BTreeMap::clone(&self.groups.load());
        let group = groups.remove(&id);
        self.groups.store(Arc::new(groups));
        if let Some(group) = group {
            group.stop_for_good().await;
        }
        let storage = self.around.storage.clone();
        let deleted = env::elsewhere("delete-group", move || storage.delete_dropped(id)).await;
        deleted.ok_or(StorageError::Stopped)??;
        tracing::info!(node = %self.around.me, group = %id, "group-dropped");
        Ok(())
    }

    /// Whether a group was held here, or might have been, and never will be again.
    pub fn is_dropped(&self, id: GroupId) -> bool {
        self.dropped.lock().contains(&id)
    }

    /// Gives a group its first members, if it has no log yet.
    pub async fn initialize(&self, id: GroupId, members: &BTreeSet<NodeId>) -> Result<(), AdminError> {
        let group = self.group(id).ok_or_else(|| AdminError::Failed(format!("group {id} is not on this node")))?;
        if group.has_log() {
            return Ok(());
        }
        group.initialize(members).await
    }

    /// Bytes that a group uses by its account: as it is here, or as one of these voters says; none if nobody says it.
    pub async fn used_bytes(&self, id: GroupId, voters: &[NodeId]) -> Option<u64> {
        if let Some(group) = self.group(id) {
            return Some(group.peek(|keyspace| keyspace.used_bytes()));
        }
        let worker = id.0 as usize % self.workers.len();
        for voter in voters.iter().filter(|voter| **voter != self.around.me) {
            let link = self.around.peers.link(*voter, Lane::Raft(worker as u16));
            let Ok(answer) = link.call(Method::Used, id, |_| ()) else { continue };
            if let Ok(Ok(bytes)) = env::timeout(USED, answer.wait()).await
                && let Ok(used) = wire::get(&bytes, "bytes that are used")
            {
                return Some(used);
            }
        }
        None
    }

    /// A group of this node.
    pub fn group(&self, id: GroupId) -> Option<Arc<Group>> {
        self.groups.load().get(&id).cloned()
    }

    /// All groups of this node, by number, the meta group first.
    pub fn groups(&self) -> Vec<Arc<Group>> {
        self.groups.load().values().cloned().collect()
    }

    /// Says who takes what other nodes' doors say to this node's.
    pub fn receive_with(&self, receiver: Box<dyn Receiver>) {
        self.receiver.store(Some(Arc::new(receiver)));
    }

    /// How many workers groups are pinned to.
    pub fn workers(&self) -> u16 {
        self.workers.len() as u16
    }

    /// The links to other nodes.
    pub fn peers(&self) -> &Arc<Peers> {
        &self.around.peers
    }

    /// Who wants to know what entries do to the replicas here.
    pub fn watch(&self) -> &Watch {
        &self.around.watch
    }

    /// The node's store.
    pub fn storage(&self) -> &Storage {
        &self.around.storage
    }

    /// Refuses writes while the disk is nearly full, or takes them again.
    pub fn set_disk_low(&self, low: bool) {
        self.around.disk_low.store(low, Ordering::Relaxed);
    }

    /// Whether writes are refused because the disk is nearly full.
    pub fn disk_low(&self) -> bool {
        self.around.disk_low.load(Ordering::Relaxed)
    }

    /// Hands over every group that this node leads. What cannot be handed over is left to an election.
    pub async fn step_aside(&self) {
        let leaving: Vec<_> =
            self.groups().into_iter().map(|g| async move { (g.id(), g.step_aside().await) }).collect();
        for (id, result) in futures_util::future::join_all(leaving).await {
            if let Err(e) = result {
                tracing::warn!(group = %id, error = %e, "leadership-not-handed-over");
            }
        }
    }

    /// Stops all groups and links.
    pub async fn stop(&self) {
        futures_util::future::join_all(self.groups().iter().map(|g| g.stop())).await;
        self.around.peers.close();
    }

    /// Takes connections of peers until the process ends.
    pub async fn listen(self: Arc<Self>, listener: TcpListener, identity: Arc<dyn Identity>) {
        let strangers = Arc::new(Semaphore::new(STRANGERS_MAX));
        loop {
            let Ok((stream, from)) = listener.accept().await else {
                env::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let Ok(permit) = strangers.clone().try_acquire_owned() else {
                tracing::warn!(%from, limit = STRANGERS_MAX, "peer-connection-refused");
                continue;
            };
            let (host, identity) = (self.clone(), identity.clone());
            tokio::spawn(async move {
                if let Err(e) = host.receive(stream, &*identity, permit).await {
                    tracing::debug!(%from, error = %e, "peer-connection-ended");
                }
            });
        }
    }

    async fn receive(
        self: Arc<Self>,
        mut stream: TcpStream,
        identity: &dyn Identity,
        stranger: OwnedSemaphorePermit,
    ) -> io::Result<()> {
        let greeted = env::timeout(GREETING, peers::greet(&mut stream, identity)).await;
        drop(stranger);
        let hello = match greeted {
            Ok(Ok(Some(hello))) => hello,
            // Somebody asked who this is, and was told.
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(e)) => {
                tracing::warn!(error = %e, "peer-refused");
                return Err(e);
            }
            Err(_) => return Err(io::Error::other("no greeting in time")),
        };
        match hello.lane {
            Lane::Snapshot => self.receive_snapshot(stream).await,
            Lane::Raft(_) | Lane::Forward(_) | Lane::Messages => {
                let worker = match hello.lane {
                    Lane::Raft(worker) | Lane::Forward(worker) => worker,
                    Lane::Snapshot | Lane::Messages => 0,
                };
                // The connection moves to the worker that its groups are pinned to.
                let stream = Moving::new(stream)?;
                let host = self.clone();
                let mut serving = self.workers[worker as usize % self.workers.len()].spawn(env::timed(async move {
                    peers::serve(stream.arrive()?, move |method, group, payload| {
                        match host.answer_now(method, group, &payload) {
                            Some(answer) => Handled::Now(answer),
                            None => Handled::Soon(host.clone().answer(method, group, payload)),
                        }
                    })
                    .await
                }));
                // A node that was removed while it did not listen has links from before: at its next greeting it hears of it.
                let dismissed = async {
                    while identity.dismissal(&hello).is_none() {
                        env::sleep(DISMISSAL_SEEN).await;
                    }
                };
                tokio::select! {
                    biased;
                    ended = &mut serving => ended.map_err(io::Error::other)?,
                    () = dismissed => {
                        serving.abort();
                        Err(io::Error::other("the peer was removed from the cluster"))
                    }
                }
            }
        }
    }

    /// The answer to what waits for nothing.
    fn answer_now(&self, method: Method, group: GroupId, payload: &Bytes) -> Option<Result<BytesMut, String>> {
        let mut out = BytesMut::new();
        match method {
            Method::Ping => out.put_u64_le(env::wall_ms()),
            Method::Confirm => match (self.group(group), wire::get(payload, "a leadership")) {
                (Some(group), Ok((term, leader))) => wire::put(&mut out, &group.voted_for(Leadership { leader, term })),
                (None, _) => return Some(Err(absent(group))),
                (_, Err(malformed)) => return Some(Err(malformed.to_string())),
            },
            _ => return None,
        }
        Some(Ok(out))
    }

    async fn answer(self: Arc<Self>, method: Method, group: GroupId, payload: Bytes) -> Result<BytesMut, String> {
        let mut out = BytesMut::new();
        if method == Method::Messages {
            let receiver = self.receiver.load_full().ok_or("the doors are not open yet")?;
            return receiver.receive(payload);
        }
        let group = self.group(group).ok_or_else(|| absent(group))?;
        let wrong = |e: super::entry::Malformed| e.to_string();
        match method {
            Method::Append => {
                let (request, told) = wire::get_append(payload).map_err(wrong)?;
                wire::put(&mut out, &group.on_append(request, told).await?);
            }
            Method::Vote => wire::put(&mut out, &group.on_vote(wire::get(&payload, "a vote").map_err(wrong)?).await?),
            Method::PreVote => {
                wire::put(&mut out, &group.on_pre_vote(wire::get(&payload, "a vote").map_err(wrong)?).await?)
            }
            Method::Transfer => {
                wire::put(&mut out, &group.on_transfer(wire::get(&payload, "a transfer").map_err(wrong)?).await?)
            }
            Method::ReadIndex => {
                wire::put(&mut out, &group.on_read_index(wire::get(&payload, "a level").map_err(wrong)?).await?)
            }
            Method::Tick => wire::put(&mut out, &group.on_tick().await?),
            Method::Propose => {
                let proposal = wire::get_propose(payload).map_err(wrong)?;
                wire::put(&mut out, &group.propose_forwarded(proposal).await);
            }
            Method::MayLead => wire::put(&mut out, &group.may_lead()),
            Method::Verify => {
                wire::put(&mut out, &group.on_verify(wire::get(&payload, "a verification").map_err(wrong)?).await?)
            }
            Method::RunVerification => {
                let ask = wire::get(&payload, "a verification").map_err(wrong)?;
                wire::put(&mut out, &group.on_run_verification(ask).await?);
            }
            Method::Used => wire::put(&mut out, &group.peek(|keyspace| keyspace.used_bytes())),
            Method::AskTurn => {
                let (term, id, call) = wire::get_ask_turn(payload).map_err(wrong)?;
                wire::put(&mut out, &group.stand(term, id, call).await);
            }
            Method::LeaveLine => group.leave_line(wire::get(&payload, "a place").map_err(wrong)?),
            Method::Members => {
                wire::put(&mut out, &group.on_members(wire::get(&payload, "a step").map_err(wrong)?).await?)
            }
            Method::Fence => group.on_fence(wire::get(&payload, "an order").map_err(wrong)?).await?,
            Method::Carry => {
                let carrier = self.carrier.get().ok_or_else(|| "this node is not open yet".to_owned())?;
                out.put_slice(&carrier(group.id(), payload).await?);
            }
            Method::Ping | Method::Confirm | Method::Messages | Method::InstallSnapshot | Method::FetchSnapshot => {
                return Err("not on this lane".to_owned());
            }
        }
        Ok(out)
    }

    async fn receive_snapshot(&self, mut stream: TcpStream) -> io::Result<()> {
        let mut buffer = BytesMut::new();
        let (opcode, mut payload) = peers::read_frame(&mut stream, &mut buffer, wire::MAX_FRAME).await?;
        if opcode != Opcode::Request || payload.len() < 13 {
            return Err(io::Error::other("a snapshot begins with a request"));
        }
        payload.advance(8);
        let method = Method::from_u8(payload.get_u8());
        let group = GroupId(payload.get_u32_le());
        if method == Some(Method::FetchSnapshot) {
            let known = self.group(group).ok_or_else(|| io::Error::other(absent(group)))?;
            return known.send_fresh(payload, &mut stream).await;
        }
        let answer = match wire::get::<Offer>(&payload, "a snapshot's offer") {
            Ok(offer) => self.install(group, offer, &mut stream, &mut buffer).await.map_err(|e| e.to_string()),
            Err(e) => Err(e.to_string()),
        };
        let mut out = BytesMut::new();
        wire::put_answer(&mut out, 0, answer.as_ref(), |out, body| out.put_slice(body));
        stream.write_all(&out).await?;
        answer.map(|_| ()).map_err(io::Error::other)
    }

    /// Writes the chunks aside, each verified, and hands the finished snapshot to the group.
    async fn install(
        &self,
        id: GroupId,
        offer: Offer,
        stream: &mut TcpStream,
        buffer: &mut BytesMut,
    ) -> io::Result<BytesMut> {
        let group = self.group(id).ok_or_else(|| io::Error::other(absent(id)))?;
        let mut writer = group.snapshots().begin()?;
        for _ in 0..offer.chunks {
            let read = env::timeout(peers::STALLED, peers::read_frame(stream, buffer, wire::MAX_FRAME)).await;
            let (opcode, chunk) = read.map_err(|_| io::Error::other("the next chunk does not come"))??;
            if opcode != Opcode::Chunk {
                return Err(io::Error::other("a frame among the chunks is none"));
            }
            writer.push_stored(chunk)?;
        }
        let snapshot = writer.finish()?;
        tracing::info!(group = %id, bytes = snapshot.bytes, "snapshot-received");
        let snapshot = Snapshot { meta: offer.meta, snapshot };
        let (raft, mut out) = (group.raft(), BytesMut::new());
        let mut installing = std::pin::pin!(raft.install_full_snapshot(offer.vote, snapshot));
        let response = loop {
            tokio::select! {
                biased;
                response = &mut installing => break response.map_err(io::Error::other)?,
                () = env::sleep(WORKING) => {
                    // Who sent it would wait for an answer that nobody can send any more, where the connection died unheard.
                    wire::put_frame(&mut out, Opcode::Working, |_| ());
                    stream.write_all(&out).await?;
                    out.clear();
                }
            }
        };
        wire::put(&mut out, &response);
        Ok(out)
    }
}

fn absent(group: GroupId) -> String {
    format!("group {group} is not on this node")
}
