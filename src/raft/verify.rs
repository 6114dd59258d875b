//! Replicas that compare their states: HC.VERIFY, and by itself every `cluster.verify_interval`.
//!
//! ```text
//! leader     a marked entry goes into the log; every replica that applies it begins a cut there, and hashes the cut
//!            on a thread of its own, while everything goes on
//! leader     asks every replica for its hash at that index, and compares
//! equal      noted
//! different  a majority of the voters agrees: the others are fenced and rebuilt; no majority: an alarm, no more
//! fenced     marked on disk, answers no read, takes no write as leader, does not campaign, hands leadership over
//! rebuilt    a fresh snapshot of the leader's becomes its own; its core starts again on it and its own log
//! ```
//!
//! Invariants: only a majority of voters with one and the same hash can have a replica fenced, and nobody is rebuilt
//! unless the others in reach are a quorum without it; a fenced replica goes on voting and storing entries (its log is
//! right, its state is not), so fencing takes nothing from the group's quorum; the fence is on disk until the rebuilt
//! state has taken the place of the wrong one.
//!
//! A cut is one at a time. A snapshot ends a verification's cut; a verification does not begin while a snapshot is made.
//! Either way the replica says that it has no hash, and the leader marks another entry a little later.

use super::SnapshotMeta;
use super::group::{AdminError, Group};
use super::machine::Replica;
use super::peers;
use super::snapshot::SnapshotRef;
use super::storage::{Family, Storage, StorageError, Write, meta_key, sealed, unsealed};
use super::wire::{self, FenceOrder, Lane, Method, Opcode, Told, VerifyAsk};
use crate::env::{self, Instant, Paced};
use crate::state::{CutHead, Keyspace, SlotImage, digest};
use crate::types::{GroupId, NodeId, Slot};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot, watch};

/// Version of what the nodes of a verification tell each other. A larger one is refused.
const VERSION: u8 = 1;
/// Between two attempts of a verification of which some replica had no hash to tell.
const AGAIN: Duration = Duration::from_millis(100);
/// How long a verification in the background may take.
const BACKGROUND: Duration = Duration::from_secs(120);
/// How long after a replica was rebuilt or failed to tell the next verification is due.
const SOON: Duration = Duration::from_secs(5);
/// How long an order to be fenced may take.
const FENCE: Duration = Duration::from_secs(2);
/// Between attempts of a fenced replica to be rebuilt.
const REBUILD_AGAIN: Duration = Duration::from_millis(500);
/// How long the leader may take to make its snapshot, and to send each part of it.
const FETCH: Duration = Duration::from_secs(600);
const FETCH_PART: Duration = Duration::from_secs(10);
/// Slots that a log line names.
const SLOTS_NAMED: usize = 8;
/// Parts of the time for rest, to one of hashing: verdicts are waited for, so it is less than for snapshots.
const HASH_REST: u32 = 1;
/// Groups begin their rounds apart from each other, in so many steps of an interval.
const STAGGER_STEPS: u32 = 16;
/// Chunks of a snapshot on their way to the thread that writes them.
const CHUNKS_AHEAD: usize = 8;

const FENCED: u8 = b'f';

/// The hashes of a replica's state at one index.
#[derive(Debug, Default)]
pub(super) struct Digest {
    pub whole: u128,
    pub slots: BTreeMap<Slot, u128>,
}

/// What is known of the newest marked entry: its index, and the hashes of the state there. None while they are being
/// made.
#[derive(Debug, Clone, Default)]
pub(super) struct Marked {
    index: u64,
    digest: Option<Result<Arc<Digest>, Declined>>,
}

#[cfg(test)]
impl Marked {
    pub(super) fn index(&self) -> u64 {
        self.index
    }

    pub(super) fn is_known(&self) -> bool {
        self.digest.is_some()
    }

    pub(super) fn hash(&self) -> Option<u128> {
        self.digest.as_ref()?.as_ref().ok().map(|digest| digest.whole)
    }
}

/// There is no hash at this index, because something else came before it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Declined;

/// What a group keeps for verifications.
#[derive(Default)]
pub(super) struct Verifier {
    one_at_a_time: tokio::sync::Mutex<()>,
    /// When the next one in the background is due; none before the first is planned.
    due: Mutex<Option<Instant>>,
    /// Changes of the state at the last one that found all replicas equal.
    version: AtomicU64,
    running: AtomicBool,
    /// Shared with whoever sends snapshots.
    pub fenced: Arc<AtomicBool>,
    pub index: AtomicU64,
    pub at_ms: AtomicU64,
    pub rounds: AtomicU64,
    pub differences: AtomicU64,
    pub rebuilt: AtomicU64,
}

/// What came of a verification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    pub index: u64,
    pub replicas: Vec<ReplicaVerdict>,
    /// Replicas differ and no majority says which is right.
    pub undecided: bool,
}

/// One replica in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaVerdict {
    pub node: NodeId,
    /// None: it did not answer.
    pub hash: Option<u128>,
    /// Its state is not the majority's.
    pub differs: bool,
    /// Where, if it could be asked.
    pub slots: Vec<Slot>,
}

impl Verdict {
    /// No two replicas that answered differ.
    pub fn agree(&self) -> bool {
        !self.undecided && !self.replicas.iter().any(|replica| replica.differs)
    }
}

/// Compares what the replicas told. Only voters count for the majority.
fn judge(index: u64, voters: &[NodeId], told: Vec<(NodeId, Option<u128>)>) -> Verdict {
    let mut votes: BTreeMap<u128, usize> = BTreeMap::new();
    for (node, hash) in &told {
        if let Some(hash) = hash {
            *votes.entry(*hash).or_default() += usize::from(voters.contains(node));
        }
    }
    let majority = votes.iter().find(|(_, count)| **count > voters.len() / 2).map(|(hash, _)| *hash);
    let replica = |(node, hash): (NodeId, Option<u128>)| {
        let differs = majority.is_some_and(|right| hash.is_some_and(|hash| hash != right));
        ReplicaVerdict { node, hash, differs, slots: Vec::new() }
    };
    let undecided = votes.len() > 1 && majority.is_none();
    Verdict { index, replicas: told.into_iter().map(replica).collect(), undecided }
}

/// A cut that was begun to be hashed.
pub(super) struct Hashing {
    pub index: u64,
    pub head: CutHead,
    pub cut: u64,
}

impl Hashing {
    /// Hashes the cut on a thread of its own and tells whoever waits.
    pub(super) fn start(self, replica: Arc<Replica>, marked: Arc<watch::Sender<Marked>>) {
        env::aside("verify", move || {
            let digest = self.run(&replica).ok_or(Declined);
            marked.send_if_modified(|m| {
                // A later mark has taken its place.
                let mine = m.index == self.index;
                if mine {
                    m.digest = Some(digest.map(Arc::new));
                }
                mine
            });
        });
    }

    fn run(&self, replica: &Replica) -> Option<Digest> {
        let mut digest_ = Digest { whole: self.head.digest(), slots: BTreeMap::new() };
        let mut pace = Paced::new(HASH_REST);
        while let Some(images) = replica.next_of_cut(self.cut)? {
            pace.rest();
            for image in images {
                let (slot, sum) = hash_of(image, self.head.seed())?;
                let total = digest_.slots.entry(slot).or_default();
                *total = total.wrapping_add(sum);
            }
        }
        digest_.whole = digest_.slots.values().fold(digest_.whole, |whole, slot| whole.wrapping_add(*slot));
        Some(digest_)
    }
}

fn hash_of(image: SlotImage, seed: u64) -> Option<(Slot, u128)> {
    let hashed = digest(&image.into_bytes(), seed);
    hashed.inspect_err(|e| tracing::error!(error = %e, "verification-failed: an image made here cannot be read")).ok()
}

/// Notes that the state at `index` is being hashed, or is not.
pub(super) fn note_mark(marked: &watch::Sender<Marked>, index: u64, begun: bool) {
    marked.send_replace(Marked { index, digest: (!begun).then_some(Err(Declined)) });
}

/// Whether this replica was fenced when the node went down.
pub(super) fn fenced_on_disk(storage: &Storage, group: GroupId) -> Result<bool, StorageError> {
    let Some(bytes) = storage.get(Family::Meta, &meta_key(FENCED, group))? else { return Ok(false) };
    let index: u64 = unsealed(&bytes, "the fence").map_err(|source| StorageError::Damaged {
        group,
        place: "fence".to_owned(),
        source,
    })?;
    Ok(index != 0)
}

/// What goes before the chunks of a snapshot that was asked for.
#[derive(Serialize, Deserialize)]
struct Sent {
    meta: SnapshotMeta,
    chunks: u32,
}

impl Group {
    /// Whether this replica differed from the majority and is not rebuilt yet.
    pub fn fenced(&self) -> bool {
        self.verifier.fenced.load(Ordering::Acquire)
    }

    // --- the leader's side ---

    /// Has all replicas compare their states, and deals with those that differ. The leader alone may be asked.
    pub async fn verify(self: &Arc<Self>, deadline: Instant) -> Result<Verdict, AdminError> {
        let turn = env::timeout_at(deadline, self.verifier.one_at_a_time.lock()).await;
        let _one_at_a_time = turn.map_err(|_| AdminError::Timeout("another verification is under way"))?;
        loop {
            if let Some(verdict) = self.attempt_verification(deadline).await? {
                self.settle(&verdict).await;
                return Ok(verdict);
            }
            if env::now() + AGAIN >= deadline {
                return Err(AdminError::Timeout("the replicas had no hash at one index: snapshots are being made"));
            }
            env::sleep(AGAIN).await;
        }
    }

    /// The same wherever this is asked: the leader does it.
    pub async fn verify_at_leader(self: &Arc<Self>, deadline: Instant) -> Result<Verdict, AdminError> {
        let Some(leader) = self.leader() else {
            return Err(AdminError::NotLeader { group: self.id(), leader: None });
        };
        if leader == self.me() {
            return self.verify(deadline).await;
        }
        let failed = |what: &str| AdminError::Failed(format!("node {leader}, which leads group {}: {what}", self.id()));
        let ask =
            VerifyAsk { version: VERSION, index: 0, slots: false, wait_ms: deadline.remaining().as_millis() as u64 };
        let link = self.peers().link(leader, Lane::Forward(self.worker()));
        let answer = link.call(Method::RunVerification, self.id(), |out| wire::put(out, &ask));
        let answer = answer.map_err(|_| failed("it is out of reach"))?;
        match env::timeout_at(deadline, answer.wait()).await {
            Ok(Ok(bytes)) => wire::get(&bytes, "a verdict").map_err(|e| failed(&e.to_string())),
            Ok(Err(e)) => Err(failed(&e.to_string())),
            Err(_) => Err(AdminError::Timeout("the leader did not tell")),
        }
    }

    pub(super) async fn on_run_verification(self: &Arc<Self>, ask: VerifyAsk) -> Result<Verdict, String> {
        check_version(ask.version)?;
        let deadline = env::now() + Duration::from_millis(ask.wait_ms) * 9 / 10;
        self.verify(deadline).await.map_err(|e| e.to_string())
    }

    /// One attempt; none if a replica that is there had something else to do.
    async fn attempt_verification(self: &Arc<Self>, deadline: Instant) -> Result<Option<Verdict>, AdminError> {
        if !self.is_leader() {
            let leader = self.leader().filter(|leader| *leader != self.me());
            return Err(AdminError::NotLeader { group: self.id(), leader });
        }
        let (tx, rx) = oneshot::channel();
        self.submit_mark(deadline, move |index| {
            let _ = tx.send(index);
        });
        let Ok(Some(index)) = rx.await else { return Ok(None) };
        let Ok(own) = self.digest_at(index, deadline).await else { return Ok(None) };
        let (voters, learners) = self.members();
        let others = voters.iter().chain(&learners).copied().filter(|node| *node != self.me());
        let asked = others.map(|node| async move { (node, self.ask(node, index, false, deadline).await) });
        let mut told = vec![(self.me(), Some(own.whole))];
        for (node, answer) in futures_util::future::join_all(asked).await {
            match answer {
                // It is there but has no hash: another attempt may find it ready.
                Some(Told { hash: None, .. }) => return Ok(None),
                answer => told.push((node, answer.and_then(|told| told.hash))),
            }
        }
        told.sort_unstable_by_key(|(node, _)| *node);
        let mut verdict = judge(index, &voters, told);
        self.find_slots(&mut verdict, deadline).await;
        Ok(Some(verdict))
    }

    /// Asks a replica for its hash. None if it is out of reach or does not answer.
    async fn ask(&self, node: NodeId, index: u64, slots: bool, deadline: Instant) -> Option<Told> {
        let wait_ms = deadline.remaining().as_millis() as u64;
        let ask = VerifyAsk { version: VERSION, index, slots, wait_ms };
        let link = self.peers().link(node, Lane::Forward(self.worker()));
        let answer = link.call(Method::Verify, self.id(), |out| wire::put(out, &ask)).ok()?;
        let bytes = env::timeout_at(deadline, answer.wait()).await.ok()?.ok()?;
        wire::get::<Told>(&bytes, "a hash").ok().filter(|told| told.version <= VERSION)
    }

    /// Finds out where those that differ do, held against one that does not.
    async fn find_slots(&self, verdict: &mut Verdict, deadline: Instant) {
        if verdict.agree() || verdict.undecided {
            return;
        }
        let Some(right) = verdict.replicas.iter().find(|r| r.hash.is_some() && !r.differs).map(|r| r.node) else {
            return;
        };
        let right = self.slots_of(right, verdict.index, deadline).await;
        for replica in verdict.replicas.iter_mut().filter(|r| r.differs) {
            let wrong = self.slots_of(replica.node, verdict.index, deadline).await;
            let (Some(right), Some(wrong)) = (&right, wrong) else { continue };
            let all = right.keys().chain(wrong.keys()).filter(|slot| right.get(slot) != wrong.get(slot));
            replica.slots = all.copied().collect::<std::collections::BTreeSet<_>>().into_iter().collect();
        }
    }

    async fn slots_of(&self, node: NodeId, index: u64, deadline: Instant) -> Option<BTreeMap<Slot, u128>> {
        if node == self.me() {
            return self.digest_at(index, deadline).await.ok().map(|digest| digest.slots.clone());
        }
        let told = self.ask(node, index, true, deadline).await?;
        Some(told.slots.into_iter().collect())
    }

    /// Notes what was found, says aloud what is wrong, and has those fenced that differ.
    async fn settle(self: &Arc<Self>, verdict: &Verdict) {
        self.verifier.rounds.fetch_add(1, Ordering::Relaxed);
        if verdict.agree() {
            self.verifier.index.store(verdict.index, Ordering::Relaxed);
            self.verifier.at_ms.store(env::wall_ms(), Ordering::Relaxed);
            return;
        }
        self.verifier.differences.fetch_add(1, Ordering::Relaxed);
        *self.verifier.due.lock() = Some(env::now() + SOON);
        if verdict.undecided {
            tracing::error!(node = %self.me(), group = %self.id(), index = verdict.index, replicas = ?verdict.replicas,
                "replicas-differ-undecided: no majority of the voters holds one state; nothing was changed");
            return;
        }
        let term = self.leadership().map_or(0, |l| l.term);
        for replica in verdict.replicas.iter().filter(|r| r.differs) {
            let slots: Vec<u16> = replica.slots.iter().take(SLOTS_NAMED).map(|slot| slot.0).collect();
            tracing::error!(node = %self.me(), group = %self.id(), index = verdict.index, replica = %replica.node,
                slots_differing = replica.slots.len(), first_slots = ?slots,
                "replica-differs: it is fenced off and rebuilt from the leader");
            if replica.node == self.me() {
                self.fence(verdict.index).await;
                continue;
            }
            let order = FenceOrder { version: VERSION, index: verdict.index, term };
            let link = self.peers().link(replica.node, Lane::Forward(self.worker()));
            let sent = link.call(Method::Fence, self.id(), |out| wire::put(out, &order));
            let heard = match sent {
                Ok(answer) => env::timeout(FENCE, answer.wait()).await.is_ok_and(|answer| answer.is_ok()),
                Err(_) => false,
            };
            if !heard {
                tracing::error!(group = %self.id(), replica = %replica.node, "replica-not-fenced: the next verification tries again");
            }
        }
    }

    /// Begins one where it is due. Called often; the leader only.
    pub(super) fn verify_when_due(self: &Arc<Self>) {
        let interval = self.verify_interval();
        if interval.is_zero() || self.members().0.len() < 2 {
            return;
        }
        let now = env::now();
        {
            let mut due = self.verifier.due.lock();
            let step = 1 + self.id().0 % STAGGER_STEPS;
            let planned = *due.get_or_insert(now + interval * step / STAGGER_STEPS);
            if now < planned {
                return;
            }
            *due = Some(now + interval);
        }
        let version = self.peek(Keyspace::version);
        if version == self.verifier.version.load(Ordering::Relaxed)
            || self.verifier.running.swap(true, Ordering::AcqRel)
        {
            return;
        }
        let group = self.clone();
        self.spawn(async move {
            match group.verify(env::now() + BACKGROUND.min(interval)).await {
                Ok(verdict) if verdict.agree() => group.verifier.version.store(version, Ordering::Relaxed),
                Ok(_) => {}
                Err(e) => tracing::warn!(group = %group.id(), error = %e, "not-verified"),
            }
            group.verifier.running.store(false, Ordering::Release);
        });
    }

    // --- every replica's side ---

    /// The hashes of the state at a marked entry, once it is applied here.
    async fn digest_at(&self, index: u64, deadline: Instant) -> Result<Arc<Digest>, Declined> {
        let applied = env::timeout_at(deadline, self.replica().wait_applied(index)).await;
        if !matches!(applied, Ok(true)) {
            return Err(Declined);
        }
        let mut marked = self.replica().marked();
        let known = marked.wait_for(|m| m.index != index || m.digest.is_some());
        match env::timeout_at(deadline, known).await {
            Ok(Ok(m)) if m.index == index => m.digest.clone().unwrap_or(Err(Declined)),
            _ => Err(Declined),
        }
    }

    pub(super) async fn on_verify(&self, ask: VerifyAsk) -> Result<Told, String> {
        check_version(ask.version)?;
        let digest = self.digest_at(ask.index, env::now() + Duration::from_millis(ask.wait_ms)).await;
        let hash = digest.as_ref().ok().map(|digest| digest.whole);
        let slots = digest.ok().filter(|_| ask.slots).map(|d| d.slots.iter().map(|(s, h)| (*s, *h)).collect());
        Ok(Told { version: VERSION, hash, slots: slots.unwrap_or_default() })
    }

    pub(super) async fn on_fence(self: &Arc<Self>, order: FenceOrder) -> Result<(), String> {
        check_version(order.version)?;
        if self.leadership().is_none_or(|l| l.term != order.term || l.leader == self.me()) {
            return Err("the order is not of the leader that is known here".to_owned());
        }
        self.fence(order.index).await;
        Ok(())
    }

    /// From here on this replica's state is nobody's, until it is rebuilt.
    async fn fence(self: &Arc<Self>, index: u64) {
        if self.verifier.fenced.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::error!(node = %self.me(), group = %self.id(), index,
            "replica-fenced: its state differs from the majority's; it serves nothing until it is rebuilt");
        self.replica().distrust();
        self.stop_campaigning();
        if let Err(e) = self.write_fence(index.max(1)).await {
            tracing::error!(group = %self.id(), error = %e, "fence-not-written: a restart would trust the state again");
        }
        self.spawn(self.clone().rebuild());
    }

    async fn write_fence(&self, index: u64) -> Result<(), StorageError> {
        let puts = vec![(Family::Meta, meta_key(FENCED, self.id()), sealed(&index))];
        let write = Write { puts, delete_ranges: Vec::new(), must_sync: true, done: Box::new(|| ()) };
        self.storage().write_and_wait(write).await
    }

    /// Gets the state anew from the leader, as often as it takes.
    pub(super) async fn rebuild(self: Arc<Self>) {
        let mut last_complaint = String::new();
        while self.fenced() && !self.closed() {
            let step = match self.is_leader() {
                true => self.step_aside().await.map_err(|e| e.to_string()),
                false => self.rebuild_once().await.map_err(|e| e.to_string()),
            };
            if let Err(complaint) = step
                && complaint != last_complaint
            {
                tracing::warn!(node = %self.me(), group = %self.id(), error = %complaint, "replica-not-rebuilt-yet");
                last_complaint = complaint;
            }
            env::sleep(REBUILD_AGAIN).await;
        }
    }

    async fn rebuild_once(self: &Arc<Self>) -> io::Result<()> {
        let leader = self.leader().ok_or_else(|| io::Error::other("the group has no leader"))?;
        let (meta, snapshot) = self.fetch(leader).await?;
        if meta.last_log_id < self.purged() {
            return Err(io::Error::other("the leader's snapshot ends before the log here begins"));
        }
        self.replace_core(meta, snapshot).await?;
        self.write_fence(0).await?;
        self.verifier.fenced.store(false, Ordering::Release);
        self.verifier.rebuilt.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(node = %self.me(), group = %self.id(), "replica-rebuilt: its state is the leader's again");
        Ok(())
    }

    /// Fetches a fresh snapshot into the store, not yet published.
    async fn fetch(&self, leader: NodeId) -> io::Result<(SnapshotMeta, SnapshotRef)> {
        let mut stream = self.peers().dial(leader).await?;
        let mut out = BytesMut::new();
        wire::put_frame(&mut out, Opcode::Request, |out| {
            out.put_u64_le(0);
            out.put_u8(Method::FetchSnapshot as u8);
            out.put_u32_le(self.id().0);
            out.put_u8(VERSION);
            out.put_u64_le(self.me().0);
        });
        stream.write_all(&out).await?;
        let mut buffer = BytesMut::new();
        let answer = env::timeout(FETCH, peers::read_frame(&mut stream, &mut buffer, wire::MAX_FRAME)).await;
        let (opcode, payload) = answer.map_err(|_| io::Error::other("no snapshot came in time"))??;
        let answer = wire::answer_of(opcode, payload);
        let (_, answer) = answer.ok_or_else(|| io::Error::other("the answer to a wish for a snapshot is none"))?;
        let head = answer.map_err(io::Error::other)?;
        let Sent { meta, chunks } = wire::get(&head, "a snapshot's head").map_err(io::Error::other)?;
        let snapshots = self.snapshots();
        let (chunk_tx, mut chunk_rx) = mpsc::channel::<Bytes>(CHUNKS_AHEAD);
        let (done_tx, done_rx) = oneshot::channel();
        env::spawn_thread("rebuild", move || {
            let mut write = || {
                let mut writer = snapshots.begin()?;
                for _ in 0..chunks {
                    // The connection broke: what was written aside goes with the writer.
                    let Some(chunk) = chunk_rx.blocking_recv() else { return Ok(None) };
                    writer.push_stored(chunk)?;
                }
                writer.finish().map(Some)
            };
            let _ = done_tx.send(write());
        });
        for _ in 0..chunks {
            let next = env::timeout(FETCH_PART, peers::read_frame(&mut stream, &mut buffer, wire::MAX_FRAME)).await;
            let (opcode, chunk) = next.map_err(|_| io::Error::other("the snapshot stopped coming"))??;
            if opcode != Opcode::Chunk || chunk_tx.send(chunk).await.is_err() {
                break;
            }
        }
        drop(chunk_tx);
        let written: Result<Option<SnapshotRef>, StorageError> = done_rx.await.map_err(io::Error::other)?;
        let snapshot = written?.ok_or_else(|| io::Error::other("the snapshot broke off"))?;
        Ok((meta, snapshot))
    }

    /// Answers a replica's wish for a fresh snapshot.
    pub(super) async fn send_fresh(
        self: &Arc<Self>,
        mut request: Bytes,
        stream: &mut crate::net::TcpStream,
    ) -> io::Result<()> {
        let made = async {
            if request.len() < 9 {
                return Err("a wish for a snapshot ends early".to_owned());
            }
            check_version(request.get_u8())?;
            let to = NodeId(request.get_u64_le());
            if !self.is_leader() || self.fenced() {
                return Err("this replica does not lead".to_owned());
            }
            if !self.quorum_without(to) {
                return Err("the other replicas in reach are no quorum: it stays as it is until they are".to_owned());
            }
            self.export().await.map_err(|e| e.to_string())
        };
        let made = made.await;
        let mut out = BytesMut::new();
        wire::put_answer(&mut out, 0, made.as_ref(), |out, export| {
            wire::put(out, &Sent { meta: export.meta().clone(), chunks: export.chunks() });
        });
        stream.write_all(&out).await?;
        let Ok(export) = made else { return Ok(()) };
        for chunk in 0..export.chunks() {
            out.clear();
            let stored = export.chunk(chunk)?;
            wire::put_frame(&mut out, Opcode::Chunk, |out| out.put_slice(&stored));
            stream.write_all(&out).await?;
        }
        // The replica hangs up when it has everything.
        stream.shutdown().await
    }
}

fn check_version(version: u8) -> Result<(), String> {
    match version <= VERSION {
        true => Ok(()),
        false => Err(format!("a verification of version {version}, this program knows up to {VERSION}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(ids: &[u64]) -> Vec<NodeId> {
        ids.iter().map(|id| NodeId(*id)).collect()
    }

    fn judged(voters: &[u64], told: &[(u64, Option<u128>)]) -> (bool, bool, Vec<u64>) {
        let told = told.iter().map(|(node, hash)| (NodeId(*node), *hash)).collect();
        let verdict = judge(7, &nodes(voters), told);
        let differing = verdict.replicas.iter().filter(|r| r.differs).map(|r| r.node.0).collect();
        (verdict.agree(), verdict.undecided, differing)
    }

    #[test]
    fn only_a_majority_of_all_voters_says_who_is_wrong() {
        let (a, b, c) = (Some(1), Some(2), Some(3));
        assert_eq!(judged(&[1, 2, 3], &[(1, a), (2, a), (3, a)]), (true, false, vec![]));
        assert_eq!(judged(&[1, 2, 3], &[(1, a), (2, b), (3, a)]), (false, false, vec![2]));
        assert_eq!(judged(&[1, 2, 3], &[(1, b), (2, a), (3, a)]), (false, false, vec![1]));
        assert_eq!(judged(&[1, 2, 3], &[(1, a), (2, b), (3, c)]), (false, true, vec![]));
        // One is down: two that differ are one against one.
        assert_eq!(judged(&[1, 2, 3], &[(1, a), (2, b), (3, None)]), (false, true, vec![]));
        assert_eq!(judged(&[1, 2, 3], &[(1, a), (2, a), (3, None)]), (true, false, vec![]));
        assert_eq!(judged(&[1, 2], &[(1, a), (2, b)]), (false, true, vec![]));
        // Learners are judged but do not judge.
        assert_eq!(judged(&[1, 2, 3], &[(1, a), (2, a), (3, a), (4, b)]), (false, false, vec![4]));
        assert_eq!(judged(&[1, 2, 3], &[(1, a), (2, b), (3, None), (4, a), (5, a)]), (false, true, vec![]));
        assert_eq!(judged(&[1, 2, 3, 4, 5], &[(1, a), (2, b), (3, a), (4, b), (5, a)]), (false, false, vec![2, 4]));
    }
}
