//! A group's state machine, as openraft asks for it: applies entries to the keyspace, makes and installs snapshots.
//!
//! `apply` is pure: what an entry does follows from its bytes and the state alone. Nothing here reads a clock; the
//! stamp in the entry is the only time there is.
//!
//! Invariants: the keyspace and `applied` change under one lock, so a reader never sees one without the other; a
//! snapshot or a verification is cut between two entries, one at a time; an install swaps the whole state at once, after it is durable.

use super::changes::Watch;
use super::chunk;
use super::entry::{Authored, Batch, Calls, Malformed};
use super::snapshot::{CHUNK_BYTES, ChunkWriter, Record, SnapshotRef, SnapshotStore, images_in, put_image};
use super::storage::StorageError;
use super::verify::{self, Hashing, Marked};
use super::waiters::Touched;
use super::{Applied, Entry, LogId, Snapshot, SnapshotMeta, StoredMembership, Types};
use crate::commands;
use crate::env::{self, Paced};
use crate::planted::{self, Bug};
use crate::resp::Args;
use crate::state::events::{Class, Classes, Wanted};
use crate::state::{Chooser, Keyspace, Leaving, Precision, SlotImage, WARMED, eviction};
use crate::types::{GroupId, Stamp};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock, mpsc};
use std::time::Duration;
use tokio::sync::watch;

/// Bytes serialized at a time while a snapshot is made, or a unit more: the lock is held for one such step.
const CUT_BYTES: usize = 128 << 10;
/// Calls after which the worker has a turn for others, between two entries. After a sync that took long many entries wait, and while
/// a snapshot is made each of their calls may have to copy a unit.
const CALLS_IN_A_TURN: usize = 256;

/// Parts of the time for rest, to one of making a snapshot: requests wait for a core no longer than without one.
const CUT_REST: u32 = 3;

/// What waits to be freed at most; more is freed by whoever brings it.
const UNFREED: usize = 256;

/// Frees what takes a while, where nobody waits for it: one thread for all groups.
fn free_aside(garbage: Box<dyn Send>) {
    static BIN: LazyLock<mpsc::SyncSender<Box<dyn Send>>> = LazyLock::new(|| {
        let (bin, garbage) = mpsc::sync_channel::<Box<dyn Send>>(UNFREED);
        env::spawn_thread("drop-state", move || garbage.iter().for_each(drop));
        bin
    });
    // What does not fit comes back in the error, and is dropped with it.
    drop(BIN.try_send(garbage));
}

/// A group's replicated state on this node, shared by apply, reads and snapshots.
pub struct Replica {
    state: Mutex<State>,
    /// Index of the last applied entry, for whoever waits.
    applied: watch::Sender<u64>,
    /// Part of every state that this replica begins with.
    hash_seed: u64,
    /// Of the filters of every state that this replica begins with.
    precision: Precision,
    /// The newest marked entry and the hashes there.
    marked: Arc<watch::Sender<Marked>>,
    /// Entries up to here were in the log when it was opened: nobody waits for the hashes behind their marks.
    replayed_to: AtomicU64,
    /// What apply tells those who wait.
    touched: Touched,
    /// Term of the last applied entry: a leader that has applied one of its own term has applied all before it.
    applied_term: AtomicU64,
    /// The last term that this node led.
    led_term: AtomicU64,
    /// Whom to tell what entries do; nobody for the meta group.
    watch: OnceLock<(GroupId, Arc<Watch>)>,
}

/// What the lock of a [`Replica`] guards.
pub struct State {
    pub keyspace: Keyspace,
    pub applied: Option<LogId>,
    pub membership: StoredMembership,
    /// Rises when the whole state is replaced or is not to be trusted; a snapshot under way of it is then given up.
    generation: u64,
    /// Rises with every cut: whoever works on an older one gives up.
    cut: u64,
    /// The cut that runs is a verification's.
    hashing: bool,
    /// The machine that may change the state.
    incarnation: u64,
    /// Version of the newest snapshot's state.
    saved: u64,
}

impl State {
    /// Changes since the newest snapshot.
    pub(super) fn unsaved(&self) -> u64 {
        self.keyspace.version().saturating_sub(self.saved)
    }
}

impl Replica {
    /// An empty state. `hash_seed` becomes part of the replicated state, so it must be the same on every replica.
    pub fn new(hash_seed: u64, precision: Precision) -> Replica {
        let state = State {
            keyspace: Keyspace::with_filters(hash_seed, precision),
            applied: None,
            membership: StoredMembership::default(),
            generation: 0,
            cut: 0,
            hashing: false,
            incarnation: 0,
            saved: 0,
        };
        Replica {
            state: Mutex::new(state),
            applied: watch::Sender::new(0),
            hash_seed,
            precision,
            marked: Arc::default(),
            replayed_to: AtomicU64::new(0),
            touched: Touched::default(),
            applied_term: AtomicU64::new(0),
            led_term: AtomicU64::new(0),
            watch: OnceLock::new(),
        }
    }

    /// Says whom to tell what entries do.
    pub(super) fn report_to(&self, group: GroupId, watch: Arc<Watch>) {
        let _ = self.watch.set((group, watch));
    }

    /// Says that this node leads, or led, a term.
    pub(super) fn note_led(&self, term: u64) {
        self.led_term.fetch_max(term, Ordering::AcqRel);
    }

    /// How often the state was given to a core that started on it.
    pub(super) fn starts(&self) -> u64 {
        self.state.lock().incarnation
    }

    /// Whom to tell what, if anybody wants anything.
    pub(super) fn watched(&self) -> Option<(GroupId, &Watch, Wanted)> {
        let (group, watch) = self.watch.get()?;
        let wanted = watch.wanted();
        (wanted != Wanted::default()).then_some((*group, &**watch, wanted))
    }

    /// What is to be noted of an entry: events are told by the leader of its term, once.
    fn wanted_of(&self, id: LogId) -> Wanted {
        let Some((_, _, mut wanted)) = self.watched() else { return Wanted::default() };
        let led = id.committed_leader_id().term == self.led_term.load(Ordering::Acquire);
        if !led || id.index() <= self.replayed_to.load(Ordering::Acquire) {
            wanted.events = Classes::default();
        }
        wanted
    }

    /// Whether reads note what they miss.
    pub(super) fn wants_misses(&self) -> bool {
        self.watched().is_some_and(|(_, _, wanted)| wanted.events.has(Class::Miss))
    }

    /// The newest marked entry and the hashes there, to wait on.
    pub(super) fn marked(&self) -> watch::Receiver<Marked> {
        self.marked.subscribe()
    }

    /// Rows that something happened to and that somebody waits for.
    pub(super) fn touched(&self) -> &Touched {
        &self.touched
    }

    /// Says that entries up to `index` were in the log before this start.
    pub(super) fn replays_to(&self, index: u64) {
        self.replayed_to.store(index, Ordering::Release);
    }

    /// Nobody shall take the state on: a snapshot or a hash of it that is being made is given up.
    pub(super) fn distrust(&self) {
        let mut state = self.state.lock();
        state.generation += 1;
        state.cut += 1;
        state.keyspace.abort_cut();
    }

    /// The next images of a cut, maybe none yet. `None` inside: the cut is over. `None` outside: something took its place.
    pub(super) fn next_of_cut(&self, cut: u64) -> OfCut {
        let mut state = self.state.lock();
        if state.cut != cut {
            return None;
        }
        Some(state.keyspace.cut_next(CUT_BYTES))
    }

    /// Runs `f` on the state under its lock. Must be short.
    pub fn with<R>(&self, f: impl FnOnce(&State) -> R) -> R {
        f(&self.state.lock())
    }

    /// The same for what may change what is not replicated, and nothing else.
    pub(super) fn with_mut<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.state.lock())
    }

    /// Index of the last applied entry, to look at or to wait on.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Index of the last applied entry; 0 before the first.
    pub fn applied_index(&self) -> u64 {
        *self.applied.borrow()
    }

    /// Term of the last applied entry; 0 before the first.
    pub fn applied_term(&self) -> u64 {
        self.applied_term.load(Ordering::Acquire)
    }

    fn note_applied(&self, id: Option<LogId>) {
        self.applied_term.store(id.map_or(0, |id| id.committed_leader_id().term), Ordering::Release);
        self.applied.send_replace(id.map_or(0, |id| id.index()));
    }

    /// Waits until the entry at `index` is applied. Ends with `false` if the replica goes away.
    pub async fn wait_applied(&self, index: u64) -> bool {
        if self.applied_index() >= index {
            return true;
        }
        self.applied.subscribe().wait_for(|applied| *applied >= index).await.is_ok()
    }

    /// Throws the state away and gives it to the next machine: what an older one still does is refused from now on.
    fn take_over(&self) -> u64 {
        let incarnation = {
            let mut state = self.state.lock();
            state.incarnation += 1;
            state.incarnation
        };
        let empty =
            self.replace(incarnation, Keyspace::with_filters(self.hash_seed, self.precision), SnapshotMeta::default());
        empty.expect("it was taken over a moment ago, by this very thread");
        incarnation
    }

    fn replace(&self, incarnation: u64, keyspace: Keyspace, meta: SnapshotMeta) -> io::Result<()> {
        let mut state = self.state.lock();
        check_incarnation(&state, incarnation)?;
        let old = std::mem::replace(&mut state.keyspace, keyspace);
        state.saved = state.keyspace.version();
        state.applied = meta.last_log_id;
        state.membership = meta.last_membership;
        state.generation += 1;
        state.cut += 1;
        self.note_applied(state.applied);
        drop(state);
        if let Some((group, watch, _)) = self.watched() {
            watch.with(|hears| hears.replaced(group));
        }
        // Freeing a large state takes a while; nobody should wait for it.
        free_aside(Box::new(old));
        Ok(())
    }

    fn apply(self: &Arc<Self>, incarnation: u64, entry: &Entry) -> io::Result<Applied> {
        let mut state = self.state.lock();
        check_incarnation(&state, incarnation)?;
        let id = entry.log_id;
        assert!(state.applied < Some(id), "entries are applied in order: {:?} before {id}", state.applied);
        // Asked under the lock: a read that comes after the wish is before this entry, or sees it.
        state.keyspace.record(self.wanted_of(id));
        let applied = match entry.payload {
            EntryPayload::Blank => Applied::default(),
            EntryPayload::Membership(ref membership) => {
                state.membership = StoredMembership::new(Some(id), membership.clone());
                Applied::default()
            }
            EntryPayload::Normal(ref batch) => run(&mut state.keyspace, batch)?,
        };
        state.applied = Some(id);
        let hashing = match entry.payload {
            EntryPayload::Normal(ref batch) if batch.is_marked() => self.begin_hashing(&mut state, id.index()),
            _ => None,
        };
        let garbage = state.keyspace.take_garbage();
        let (touched, record) = (state.keyspace.take_touched(), state.keyspace.take_record());
        drop(state);
        if let Some(rows) = touched {
            self.touched.note(rows);
        }
        if let (Some(record), Some((group, watch))) = (record, self.watch.get()) {
            watch.with(|hears| hears.applied(*group, record));
        }
        if let Some(garbage) = garbage {
            free_aside(Box::new(garbage));
        }
        if let Some(hashing) = hashing {
            hashing.start(self.clone(), self.marked.clone());
        }
        self.note_applied(Some(id));
        Ok(applied)
    }

    /// Begins a cut behind a marked entry, unless a snapshot is being made.
    fn begin_hashing(&self, state: &mut State, index: u64) -> Option<Hashing> {
        let replayed = index <= self.replayed_to.load(Ordering::Acquire);
        if replayed || (state.keyspace.cut_running() && !state.hashing) {
            verify::note_mark(&self.marked, index, false);
            return None;
        }
        // Whoever hashes an older cut is not waited for any more.
        state.keyspace.abort_cut();
        state.cut += 1;
        state.hashing = true;
        verify::note_mark(&self.marked, index, true);
        Some(Hashing { index, head: state.keyspace.begin_cut(), cut: state.cut })
    }
}

fn check_incarnation(state: &State, incarnation: u64) -> io::Result<()> {
    match state.incarnation == incarnation {
        true => Ok(()),
        false => Err(io::Error::other("the group has been started anew meanwhile")),
    }
}

/// Runs a batch on a keyspace: the whole meaning of a log entry.
pub(super) fn run(keyspace: &mut Keyspace, batch: &Batch) -> io::Result<Applied> {
    let (stamp, sweep, front, mut calls) = batch.decode().map_err(io::Error::other)?;
    keyspace.advance(&stamp);
    if !sweep.is_empty() {
        keyspace.sweep(&sweep);
    }
    if let Some(limit) = front.limit {
        keyspace.set_limit(limit);
    }
    if let Some(packing) = front.packing {
        keyspace.set_packing(packing);
    }
    for (key, version) in &front.evictions {
        match planted::is(Bug::EvictByReplica) {
            true => evict_somebody(keyspace),
            false => _ = keyspace.evict(key, *version),
        }
    }
    let (mut replies, mut elsewhere) = (Vec::with_capacity(calls.len()), Vec::new());
    // What stands behind a call that is not run may have been sent behind it by the same connection: the rest of the entry
    // waits with it.
    let mut near = VecDeque::new();
    loop {
        if near.is_empty() {
            bring_near(keyspace, &mut calls, &mut near)?;
        }
        let Some(args) = near.pop_front() else { break };
        keyspace.name_author(Authored::of(&front.authored, replies.len()));
        // Each call draws by itself: two that are alike do not draw alike.
        let own = Stamp { seed: commands::atomic::seed_of(stamp.seed, replies.len()), ..stamp };
        let held = !elsewhere.is_empty() && !commands::handover::is(&args);
        let reply = match held {
            true => None,
            false if planted::is(Bug::SlotCheckedAtDoor) => Some(commands::apply(&args, keyspace, &own)),
            false => commands::apply_here(&args, keyspace, &own),
        };
        let reply = reply.unwrap_or_else(|| {
            elsewhere.push(replies.len() as u32);
            commands::handover::elsewhere()
        });
        replies.push(reply);
        calls.give_back(args);
    }
    Ok(Applied { replies, elsewhere })
}

/// Decodes the next calls, and has what they will look up brought near. Of nearly all commands the first argument is a key; of
/// others nothing is found.
fn bring_near(keyspace: &Keyspace, calls: &mut Calls, near: &mut VecDeque<Args>) -> io::Result<()> {
    while near.len() < WARMED
        && let Some(args) = calls.take_next().map_err(io::Error::other)?
    {
        near.push_back(args);
    }
    if near.len() > 1 {
        keyspace.warm(near.iter().filter_map(|args| args.get(1)).map(|key| &key[..]));
    }
    Ok(())
}

/// Removes a key that this replica chooses ([`Bug::EvictByReplica`]).
fn evict_somebody(keyspace: &mut Keyspace) {
    let mut policy = eviction::policy(keyspace.limit().policy, 5, env::seed());
    let leaving = Leaving::default();
    let keys = Chooser::new(keyspace, &leaving);
    let chosen = policy.victim(&keys).and_then(|row| keys.victim(row));
    if let Some((key, version)) = chosen.map(|(key, version, _)| (key.to_vec(), version)) {
        keyspace.evict(&key, version);
    }
}

impl From<Record> for Snapshot {
    fn from(record: Record) -> Snapshot {
        let snapshot = SnapshotRef { number: record.number, chunks: record.chunks, bytes: record.bytes };
        Snapshot { meta: record.meta, snapshot }
    }
}

/// openraft's handle on a replica, for as long as its core lives.
pub struct Machine {
    replica: Arc<Replica>,
    snapshots: SnapshotStore,
    /// The core that this machine belongs to. One that was replaced must not touch its successor's state.
    incarnation: u64,
}

impl Machine {
    /// Loads the published snapshot, if there is one, into the replica. Blocks while it reads.
    pub fn open(replica: Arc<Replica>, snapshots: SnapshotStore) -> Result<Machine, StorageError> {
        let incarnation = replica.take_over();
        if let Some(record) = snapshots.current()? {
            let snapshot = SnapshotRef { number: record.number, chunks: record.chunks, bytes: record.bytes };
            let keyspace = load(&snapshots, snapshot, replica.precision)?;
            replica.replace(incarnation, keyspace, record.meta).map_err(|e| StorageError::Io("snapshot".into(), e))?;
        }
        Ok(Machine { replica, snapshots, incarnation })
    }
}

#[cfg(test)]
impl Replica {
    pub(super) fn corrupt(&self, change: impl FnOnce(&mut Keyspace)) {
        change(&mut self.state.lock().keyspace);
    }
}

#[cfg(test)]
impl Machine {
    pub(super) fn snapshots_for_tests(&self) -> SnapshotStore {
        self.snapshots.clone()
    }
}

fn load(snapshots: &SnapshotStore, snapshot: SnapshotRef, precision: Precision) -> Result<Keyspace, StorageError> {
    let head = snapshots.chunk(snapshot.number, 0)?;
    Keyspace::restore(&head, snapshots.images(snapshot), precision)
        .map_err(|e| StorageError::Io("snapshot".into(), io::Error::other(e)))
}

/// The state that stored chunks hold, all of them in order.
pub(super) fn read_state(chunks: &[Bytes]) -> Result<Keyspace, StorageError> {
    let unpacked = |place: usize| {
        let content = chunk::unpack(place as u32, chunks[place].clone());
        let place = format!("chunk {place} of the state");
        content.map_err(|source| StorageError::Damaged { group: GroupId::META, place, source })
    };
    if chunks.is_empty() {
        let source = Malformed::Short("a state without chunks");
        return Err(StorageError::Damaged { group: GroupId::META, place: "head".to_owned(), source });
    }
    let images = images_in(GroupId::META, (1..chunks.len()).map(unpacked));
    Keyspace::restore(&unpacked(0)?, images, Precision::default())
        .map_err(|e| StorageError::Io("snapshot".into(), io::Error::other(e)))
}

/// Writes a state that nobody changes meanwhile as the chunks of a snapshot.
pub(super) fn write_state(mut keyspace: Keyspace, writer: &mut ChunkWriter) -> Result<(), StorageError> {
    let head = keyspace.begin_cut().to_bytes();
    write_cut(&head, writer, || Some(keyspace.cut_next(CUT_BYTES))).map(|_| ())
}

/// What there is to write of a cut: images, or `None` where it is over; `None` around it where it was given up.
type OfCut = Option<Option<Vec<SlotImage>>>;

/// Writes a cut's head and its images. False if it was given up.
fn write_cut(head: &[u8], writer: &mut ChunkWriter, mut next: impl FnMut() -> OfCut) -> Result<bool, StorageError> {
    writer.push(head)?;
    let mut stream = Vec::with_capacity(2 * CHUNK_BYTES);
    loop {
        let Some(images) = next() else { return Ok(false) };
        let Some(images) = images else { break };
        for image in images {
            put_image(&mut stream, image);
        }
        let whole = stream.len() - stream.len() % CHUNK_BYTES;
        for chunk in stream[..whole].chunks(CHUNK_BYTES) {
            writer.push(chunk)?;
        }
        stream.drain(..whole);
    }
    if !stream.is_empty() {
        writer.push(&stream)?;
    }
    Ok(true)
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = SnapshotRef;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok(self.replica.with(|state| (state.applied, state.membership.clone())))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        let mut in_this_turn = 0;
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let applied = self.replica.apply(self.incarnation, &entry)?;
            in_this_turn += applied.replies.len();
            if let Some(responder) = responder {
                responder.send(applied);
            }
            if in_this_turn >= CALLS_IN_A_TURN {
                in_this_turn = 0;
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    /// Cuts between two entries: openraft calls this from the task that applies.
    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Builder> {
        let mut state = self.replica.state.lock();
        if state.keyspace.cut_running() {
            if !state.hashing {
                return None;
            }
            state.keyspace.abort_cut();
        }
        let head = state.keyspace.begin_cut().to_bytes();
        state.cut += 1;
        state.hashing = false;
        let meta = SnapshotMeta { last_log_id: state.applied, last_membership: state.membership.clone() };
        let (generation, cut, version) = (state.generation, state.cut, state.keyspace.version());
        drop(state);
        let (replica, snapshots) = (self.replica.clone(), self.snapshots.clone());
        Some(Builder { replica, snapshots, head, meta, generation, cut, version })
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        self.try_create_snapshot_builder(true).await.expect("openraft builds one snapshot of a group at a time")
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotRef) -> Result<(), io::Error> {
        let (snapshots, precision) = (self.snapshots.clone(), self.replica.precision);
        let loaded = env::elsewhere("load-snapshot", move || load(&snapshots, snapshot, precision)).await;
        let keyspace = loaded.ok_or_else(|| io::Error::other("loading the snapshot panicked"))??;
        self.snapshots.publish(snapshot, meta.clone()).await?;
        self.replica.replace(self.incarnation, keyspace, meta.clone())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        Ok(self.snapshots.current()?.map(Snapshot::from))
    }
}

/// Writes out a cut that was begun, on a thread of its own.
pub struct Builder {
    replica: Arc<Replica>,
    snapshots: SnapshotStore,
    head: Vec<u8>,
    meta: SnapshotMeta,
    generation: u64,
    cut: u64,
    /// Of the state that was cut.
    version: u64,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = SnapshotRef;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let job = Job {
            replica: self.replica.clone(),
            snapshots: self.snapshots.clone(),
            head: std::mem::take(&mut self.head),
            cut: self.cut,
        };
        let made = env::elsewhere("snapshot", move || job.run()).await;
        let made = made.ok_or_else(|| io::Error::other("making the snapshot panicked"))??;
        // A state that is not to be trusted any more must not become anybody's.
        let trusted = self.replica.with(|state| state.generation == self.generation);
        if planted::is(Bug::AppliedAheadOfState) {
            self.meta.last_log_id = self.replica.with(|state| state.applied);
        }
        if let Some(snapshot) = made.filter(|_| trusted && planted::is(Bug::PurgeBeforePublish)) {
            return Ok(self.publish_later(snapshot));
        }
        if let Some(snapshot) = made.filter(|_| trusted) {
            self.snapshots.publish(snapshot, self.meta.clone()).await?;
            self.replica.with_mut(|state| state.saved = state.saved.max(self.version));
        }
        // Where an install overtook this build, the snapshot that was installed is the one there is.
        let current = self.snapshots.current()?.map(Snapshot::from);
        current.ok_or_else(|| io::Error::other("the state was replaced while its snapshot was made"))
    }
}

impl Builder {
    /// Says that the snapshot is there, and sees to it a little later ([`Bug::PurgeBeforePublish`]).
    fn publish_later(&self, snapshot: SnapshotRef) -> Snapshot {
        let (snapshots, meta) = (self.snapshots.clone(), self.meta.clone());
        tokio::spawn(async move {
            env::sleep(Duration::from_millis(300)).await;
            // Whatever comes of it, nobody waits any more.
            drop(snapshots.publish(snapshot, meta).await);
        });
        Snapshot { meta: self.meta.clone(), snapshot }
    }
}

impl Drop for Builder {
    fn drop(&mut self) {
        // A build that ended early leaves its cut behind; one that ended well has none.
        let mut state = self.replica.state.lock();
        if state.cut == self.cut && state.keyspace.cut_running() {
            state.keyspace.abort_cut();
        }
    }
}

struct Job {
    replica: Arc<Replica>,
    snapshots: SnapshotStore,
    head: Vec<u8>,
    cut: u64,
}

impl Job {
    /// None if the state was replaced meanwhile by a snapshot from elsewhere.
    fn run(self) -> Result<Option<SnapshotRef>, StorageError> {
        let mut writer = self.snapshots.begin()?;
        let head = match planted::is(Bug::HeadAfterCut) {
            true => self.replica.with(|state| state.keyspace.head_afterwards(&self.head)).map(|head| head.to_bytes()),
            false => Ok(self.head),
        };
        let head = head.map_err(|e| StorageError::Io("snapshot".into(), io::Error::other(e)))?;
        let mut pace = Paced::new(CUT_REST);
        let whole = write_cut(&head, &mut writer, || {
            pace.rest();
            self.replica.next_of_cut(self.cut)
        })?;
        if whole { writer.finish().map(Some) } else { Ok(None) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::log_id;
    use super::super::storage::{Options_, Storage, Sync};
    use super::*;
    use crate::env::Instant;
    use crate::resp::Args;
    use crate::types::Stamp;
    use openraft::type_config::TypeConfigExt;

    fn entry(index: u64, key: &str, marked: bool) -> Entry {
        let call: Args = ["SET", key, "value"].iter().map(|w| Bytes::copy_from_slice(w.as_bytes())).collect();
        let batch = Batch::encode(Stamp { now_ms: index, seed: index }, &[], &Default::default(), [call].iter());
        let batch = if marked { batch.marked() } else { batch };
        Entry { log_id: log_id(1, index), payload: EntryPayload::Normal(batch) }
    }

    async fn hash_at(replica: &Replica, index: u64) -> Result<u128, ()> {
        let deadline: Instant = env::now() + Duration::from_secs(30);
        let mut marked = replica.marked();
        let known = marked.wait_for(|m| m.index() == index && m.is_known());
        let known = env::timeout_at(deadline, known).await.expect("it is known in time").unwrap();
        known.hash().ok_or(())
    }

    #[test]
    fn a_snapshot_ends_a_verification_and_a_verification_gives_way_to_a_snapshot() {
        Types::run(async {
            let dir = tempfile::tempdir().unwrap();
            let options = Options_ { sync: Sync::No, ..Options_::default() };
            let storage = Storage::open(dir.path(), &options).unwrap();
            let replica = Arc::new(Replica::new(1, Precision::default()));
            let snapshots = SnapshotStore::open(&storage, GroupId(7)).unwrap();
            let mut machine = Machine::open(replica.clone(), snapshots).unwrap();
            for index in 1..=101 {
                let entry = entry(index, &format!("key:{index}"), index == 101);
                replica.apply(machine.incarnation, &entry).unwrap();
            }
            let first = hash_at(&replica, 101).await.unwrap();

            // A snapshot is being made: the mark behind it gets no hash.
            let mut builder = machine.try_create_snapshot_builder(true).await.unwrap();
            replica.apply(machine.incarnation, &entry(102, "key:101", true)).unwrap();
            assert!(hash_at(&replica, 102).await.is_err());
            builder.build_snapshot().await.unwrap();
            assert_eq!(machine.snapshots.current().unwrap().unwrap().meta.last_log_id, Some(log_id(1, 101)));

            // A verification is under way: the snapshot takes the cut away from it, and is whole.
            let hashing = {
                let mut state = replica.state.lock();
                replica.begin_hashing(&mut state, 102).unwrap()
            };
            assert!(replica.next_of_cut(hashing.cut).unwrap().is_some(), "there is something to hash");
            let mut builder = machine.try_create_snapshot_builder(true).await.unwrap();
            assert!(replica.next_of_cut(hashing.cut).is_none(), "it is not its cut any more");
            builder.build_snapshot().await.unwrap();
            let record = machine.snapshots.current().unwrap().unwrap();
            assert_eq!(record.meta.last_log_id, Some(log_id(1, 102)));
            let copy = load(&machine.snapshots, Snapshot::from(record).snapshot, Precision::default()).unwrap();
            assert_eq!(copy.state_hash(), replica.with(|state| state.keyspace.state_hash()));

            replica.apply(machine.incarnation, &entry(103, "key:102", true)).unwrap();
            assert_ne!(hash_at(&replica, 103).await.unwrap(), first);
            // What was in the log before the start is not hashed again.
            replica.replays_to(104);
            replica.apply(machine.incarnation, &entry(104, "key:103", true)).unwrap();
            assert!(hash_at(&replica, 104).await.is_err());
            // A state that is not trusted is not made into a snapshot.
            let mut builder = machine.try_create_snapshot_builder(true).await.unwrap();
            replica.distrust();
            builder.build_snapshot().await.unwrap();
            let kept = machine.snapshots.current().unwrap().unwrap().meta.last_log_id;
            assert_eq!(kept, Some(log_id(1, 102)), "the snapshot before it stays the current one");
        });
    }
}
