//! One RocksDB and one log writer thread a node, for the logs, votes and snapshots of all its groups.
//!
//! Group commit: the writer takes everything that waits, from every group, writes it as one batch, syncs once and then
//! runs the callbacks. So a callback runs only after its bytes are on stable storage (under `sync: always`), and the
//! writes of a group reach the disk in the order in which they were given.
//!
//! A failed write or sync is fatal: the kernel may have dropped the pages, so nothing that is asked again can be
//! trusted. The process says so and ends; the other replicas have the data.
//!
//! ```text
//! column family   key                                   value
//! log             group u32 | index u64                 stored entry (raft::entry)
//! meta            "v" group u32                         vote     (postcard, xxh3)
//!                 "p" group u32                         purged   (postcard, xxh3)
//!                 "s" group u32                         current snapshot (postcard, xxh3)
//!                 "i" 0 u32                             incarnation of the data directory (postcard, xxh3)
//! snap            group u32 | number u64 | chunk u32    chunk (raft::snapshot)
//! ```
//!
//! Keys are big-endian, so that they sort by number.

use super::chunk::{self, SnapshotCodec};
use super::entry::Malformed;
use crate::env;
use crate::types::GroupId;
use bytes::Bytes;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBRecoveryMode, Options, WriteBatch, WriteOptions,
};
use serde::{Serialize, de::DeserializeOwned};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

/// When a write counts as stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sync {
    /// Every group commit is synced before anybody hears of it: what the promises rest on.
    #[default]
    Always,
    /// Synced once a second; a power cut may lose the last second of acknowledged writes.
    EverySecond,
    /// Left to the operating system.
    No,
}

/// What [`Storage::open`] needs to know.
#[derive(Clone)]
pub struct Options_ {
    pub sync: Sync,
    /// The longest a group commit may gather before it is synced; zero: what waits is taken at once.
    pub gather: Duration,
    /// Bytes of a memtable; also what RocksDB preallocates for its write-ahead log.
    pub memtable_bytes: usize,
    pub compaction_threads: i32,
    /// How the chunks of new snapshots are packed.
    pub snapshot_codec: &'static dyn SnapshotCodec,
}

impl std::fmt::Debug for Options_ {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "store synced {:?}, snapshots packed by {}", self.sync, self.snapshot_codec.name())
    }
}

impl Default for Options_ {
    fn default() -> Self {
        Options_ {
            sync: Sync::Always,
            gather: Duration::ZERO,
            memtable_bytes: 16 << 20,
            compaction_threads: 2,
            snapshot_codec: chunk::default_codec(),
        }
    }
}

const BOUND: u8 = b'i';
/// What a memtable takes from the allocator at a time.
const ARENA_BLOCK: usize = 512 << 10;
/// Groups of writes that the writer may take at once.
const MAX_GATHERED: usize = 4096;
/// Bytes after which the writer stops gathering.
const MAX_GATHERED_BYTES: usize = 32 << 20;

/// What cannot be read or written. Nothing here is retried.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error("{path}: {source}")]
    Open { path: PathBuf, source: rocksdb::Error },
    #[error("reading the store failed: {0}")]
    Read(#[from] rocksdb::Error),
    #[error("group {group}, {place}: {source}")]
    Damaged { group: GroupId, place: String, source: Malformed },
    #[error("{0}: {1}")]
    Io(PathBuf, std::io::Error),
    #[error("node.data_dir: the store does not belong to this node's identity: {0}")]
    Foreign(&'static str),
    #[error("the log writer has stopped")]
    Stopped,
}

impl From<StorageError> for std::io::Error {
    fn from(e: StorageError) -> Self {
        std::io::Error::other(e)
    }
}

/// One change for the writer; changes of one group are written in the order given.
pub(super) struct Write {
    pub puts: Vec<(Family, Bytes, Bytes)>,
    pub delete_ranges: Vec<(Family, Bytes, Bytes)>,
    /// Must be on stable storage whatever the policy says (votes, snapshots).
    pub must_sync: bool,
    pub done: Box<dyn FnOnce() + Send>,
}

/// A key and its value.
pub(super) type Pair = (Vec<u8>, Vec<u8>);

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Log,
    Meta,
    Snap,
}

impl Family {
    fn name(self) -> &'static str {
        match self {
            Family::Log => "log",
            Family::Meta => "meta",
            Family::Snap => "snap",
        }
    }
}

/// The node's store. Cheap to clone.
#[derive(Clone)]
pub struct Storage {
    db: Arc<DB>,
    tx: mpsc::Sender<Write>,
    dir: PathBuf,
    snapshot_codec: &'static dyn SnapshotCodec,
    pub(super) syncs: Arc<AtomicU64>,
    /// Declared last: the writer ends when its last sender is gone, and then it is waited for.
    _writer: Arc<WriterThread>,
}

impl Storage {
    /// Opens or creates the store in `dir` and starts its writer thread.
    pub fn open(dir: &Path, options: &Options_) -> Result<Storage, StorageError> {
        let mut base = Options::default();
        base.create_if_missing(true);
        base.create_missing_column_families(true);
        // A torn tail is what a power cut leaves and is cut off; anything else is refused. kPointInTime would
        // silently drop acknowledged records, kAbsolute does not survive a plain kill.
        base.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        base.set_recycle_log_file_num(0);
        base.set_track_and_verify_wals_in_manifest(true);
        base.set_paranoid_checks(true);
        base.set_max_background_jobs(options.compaction_threads.max(1));
        base.set_keep_log_file_num(3);
        base.set_max_total_wal_size(4 * options.memtable_bytes as u64);
        base.set_db_write_buffer_size(2 * options.memtable_bytes);
        base.set_max_open_files(256);
        let mut family = Options::default();
        family.set_write_buffer_size(options.memtable_bytes);
        // By default an eighth of the write buffer, at once and for each family: an idle node should stay small.
        family.set_arena_block_size(ARENA_BLOCK);
        family.set_compression_type(rocksdb::DBCompressionType::None);
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&Cache::new_lru_cache(8 << 20));
        family.set_block_based_table_factory(&table);
        let families =
            [Family::Log, Family::Meta, Family::Snap].map(|f| ColumnFamilyDescriptor::new(f.name(), family.clone()));
        let db = DB::open_cf_descriptors(&base, dir, families)
            .map_err(|source| StorageError::Open { path: dir.to_owned(), source })?;
        let db = Arc::new(db);
        let (tx, rx) = mpsc::channel();
        let syncs = Arc::new(AtomicU64::new(0));
        let writer = Writer { db: db.clone(), rx, options: options.clone(), syncs: syncs.clone() };
        let thread = env::spawn_thread("log-writer", move || writer.run());
        let _writer = Arc::new(WriterThread(Some(thread)));
        Ok(Storage { db, tx, dir: dir.to_owned(), snapshot_codec: options.snapshot_codec, syncs, _writer })
    }

    /// Binds the store to the data directory's incarnation, for good. `established`: the node has met its cluster, so a
    /// store without the mark was emptied, and a node that forgot its votes must not vote again.
    pub fn bind(&self, incarnation: u64, established: bool) -> Result<(), StorageError> {
        let key = meta_key(BOUND, GroupId::META);
        let known = self.get(Family::Meta, &key)?;
        let known: Option<u64> = known
            .map(|v| unsealed(&v, "the store's mark"))
            .transpose()
            .map_err(|source| StorageError::Damaged { group: GroupId::META, place: "mark".to_owned(), source })?;
        match known {
            Some(known) if known == incarnation => Ok(()),
            Some(_) => Err(StorageError::Foreign("it was made by another node")),
            None if established => Err(StorageError::Foreign(
                "it is empty although this node belongs to a cluster; a node that lost its disk must be replaced, it cannot vote again",
            )),
            None => self.write_and_block(vec![(Family::Meta, key, sealed(&incarnation))]),
        }
    }

    /// Waits until everything that was given to the writer so far is written. Blocks.
    pub(super) fn settle(&self) -> Result<(), StorageError> {
        self.block_on_write(Vec::new(), false)
    }

    /// Writes in one batch; on stable storage when this returns. Blocks.
    pub(super) fn write_and_block(&self, puts: Vec<(Family, Bytes, Bytes)>) -> Result<(), StorageError> {
        self.block_on_write(puts, true)
    }

    fn block_on_write(&self, puts: Vec<(Family, Bytes, Bytes)>, must_sync: bool) -> Result<(), StorageError> {
        let (tx, rx) = mpsc::channel();
        let done = Box::new(move || {
            let _ = tx.send(());
        });
        self.write(Write { puts, delete_ranges: Vec::new(), must_sync, done })?;
        rx.recv().map_err(|_| StorageError::Stopped)
    }

    /// How the chunks of new snapshots are packed.
    pub(super) fn snapshot_codec(&self) -> &'static dyn SnapshotCodec {
        self.snapshot_codec
    }

    /// A directory beside the data, on the same file system, for files on their way into the store.
    pub(super) fn staging_dir(&self) -> Result<PathBuf, StorageError> {
        let dir = self.dir.join("staging");
        std::fs::create_dir_all(&dir).map_err(|e| StorageError::Io(dir.clone(), e))?;
        Ok(dir)
    }

    /// Hands a change to the writer. Never blocks; the proposers bound what can be waiting.
    pub(super) fn write(&self, write: Write) -> Result<(), StorageError> {
        self.tx.send(write).map_err(|_| StorageError::Stopped)
    }

    /// Hands a change to the writer and waits until it is stable.
    pub(super) async fn write_and_wait(&self, mut write: Write) -> Result<(), StorageError> {
        let (tx, rx) = tokio::sync::oneshot::channel();
        write.done = Box::new(move || {
            let _ = tx.send(());
        });
        self.write(write)?;
        rx.await.map_err(|_| StorageError::Stopped)
    }

    pub(super) fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        Ok(self.db.get_cf(self.handle(family), key)?)
    }

    /// Visits keys from `from` up to and without `to`, until `visit` says false.
    pub(super) fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StorageError> {
        let mut read = rocksdb::ReadOptions::default();
        read.set_iterate_upper_bound(to.to_vec());
        let mut it = self.db.raw_iterator_cf_opt(self.handle(family), read);
        it.seek(from);
        while let Some((k, v)) = it.item() {
            if !visit(k, v) {
                return Ok(());
            }
            it.next();
        }
        Ok(it.status()?)
    }

    /// The last key below `to` and not below `from`.
    pub(super) fn last(&self, family: Family, from: &[u8], to: &[u8]) -> Result<Option<Pair>, StorageError> {
        let mut it = self.db.raw_iterator_cf(self.handle(family));
        it.seek_for_prev(to);
        // `to` itself is excluded; keys are fixed-length, so stepping once is enough.
        if it.key() == Some(to) {
            it.prev();
        }
        it.status()?;
        Ok(it.item().filter(|(k, _)| *k >= from).map(|(k, v)| (k.to_vec(), v.to_vec())))
    }

    /// Brings a finished table file into a family. The file is moved.
    pub(super) fn ingest(&self, family: Family, file: &Path) -> Result<(), StorageError> {
        let mut options = rocksdb::IngestExternalFileOptions::default();
        options.set_move_files(true);
        Ok(self.db.ingest_external_file_cf_opts(self.handle(family), &options, vec![file])?)
    }

    /// Frees files that lie wholly in a deleted range, `to` included.
    pub(super) fn drop_files(&self, family: Family, from: &[u8], to: &[u8]) -> Result<(), StorageError> {
        Ok(self.db.delete_file_in_range_cf(self.handle(family), from, to)?)
    }

    /// Bytes that RocksDB holds in memory: memtables, block cache and table readers.
    pub fn memory_bytes(&self) -> u64 {
        let names =
            ["rocksdb.cur-size-all-mem-tables", "rocksdb.estimate-table-readers-mem", "rocksdb.block-cache-usage"];
        [Family::Log, Family::Meta, Family::Snap]
            .iter()
            .flat_map(|f| names.iter().map(|n| self.db.property_int_value_cf(self.handle(*f), *n)))
            .filter_map(|v| v.ok().flatten())
            .sum()
    }

    /// How many syncs the writer has made.
    pub fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    fn handle(&self, family: Family) -> &rocksdb::ColumnFamily {
        self.db.cf_handle(family.name()).expect("the family was opened")
    }
}

/// Waits for the writer when the last user of the store goes, so that the store is closed when nobody has it.
struct WriterThread(Option<std::thread::JoinHandle<()>>);

impl Drop for WriterThread {
    fn drop(&mut self) {
        let thread = self.0.take().expect("it is taken here only");
        // A callback may hold the last handle; the writer cannot wait for itself.
        if thread.thread().id() != std::thread::current().id() {
            let _ = thread.join();
        }
    }
}

struct Writer {
    db: Arc<DB>,
    rx: mpsc::Receiver<Write>,
    options: Options_,
    syncs: Arc<AtomicU64>,
}

impl Writer {
    fn run(self) {
        let mut unsynced_since: Option<env::Instant> = None;
        loop {
            // Looked at first: under load there is always a next write.
            if unsynced_since.is_some_and(|since| since.elapsed() >= Duration::from_secs(1)) {
                self.sync_all();
                unsynced_since = None;
            }
            let next = match unsynced_since {
                Some(since) => self.rx.recv_timeout((since + Duration::from_secs(1)).remaining()),
                None => self.rx.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
            };
            match next {
                Ok(first) => {
                    let synced = self.commit(first);
                    if !synced && self.options.sync == Sync::EverySecond {
                        unsynced_since.get_or_insert_with(env::now);
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => (),
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    self.sync_all();
                    return;
                }
            }
        }
    }

    fn sync_all(&self) {
        if let Err(e) = self.db.flush_wal(true) {
            fatal(&e);
        }
        self.syncs.fetch_add(1, Ordering::Relaxed);
    }

    /// Writes `first` and all that waits behind it with one sync, then tells everybody. Returns whether it synced.
    fn commit(&self, first: Write) -> bool {
        let mut batch = WriteBatch::default();
        let mut sync = self.options.sync == Sync::Always;
        let mut callbacks = Vec::new();
        let mut next = Some(first);
        let gather_until = env::now() + self.options.gather;
        while let Some(write) = next.take() {
            for (family, from, to) in &write.delete_ranges {
                batch.delete_range_cf(self.handle(*family), from.as_ref(), to.as_ref());
            }
            for (family, key, value) in &write.puts {
                batch.put_cf(self.handle(*family), key, value);
            }
            sync |= write.must_sync;
            callbacks.push(write.done);
            if callbacks.len() < MAX_GATHERED && batch.size_in_bytes() < MAX_GATHERED_BYTES {
                next = match self.options.gather.is_zero() {
                    true => self.rx.try_recv().ok(),
                    false => self.rx.recv_timeout(gather_until.remaining()).ok(),
                };
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        if let Err(e) = self.db.write_opt(batch, &options) {
            fatal(&e);
        }
        if sync {
            self.syncs.fetch_add(1, Ordering::Relaxed);
        }
        for done in callbacks {
            done();
        }
        sync
    }

    fn handle(&self, family: Family) -> &rocksdb::ColumnFamily {
        self.db.cf_handle(family.name()).expect("the family was opened")
    }
}

/// Ends the process: after a failed write or sync nothing on this disk can be relied on until it is read again.
fn fatal(e: &rocksdb::Error) -> ! {
    tracing::error!(error = %e, "log-write-failed: the disk did not take a write; this node stops so that nothing is acknowledged that is not stored");
    eprintln!("hypercache: the disk did not take a write ({e}); stopping. Check the disk, then start again.");
    std::process::exit(EXIT_DISK);
}

/// Exit code of a node whose disk failed.
pub const EXIT_DISK: i32 = 74;

/// Key of a group's entry.
pub(super) fn log_key(group: GroupId, index: u64) -> Bytes {
    let mut key = [0u8; 12];
    key[..4].copy_from_slice(&group.0.to_be_bytes());
    key[4..].copy_from_slice(&index.to_be_bytes());
    Bytes::copy_from_slice(&key)
}

/// Key of a group's single record of a kind.
pub(super) fn meta_key(kind: u8, group: GroupId) -> Bytes {
    let mut key = [kind; 5];
    key[1..].copy_from_slice(&group.0.to_be_bytes());
    Bytes::copy_from_slice(&key)
}

/// Plain data with a checksum behind it.
pub(super) fn sealed<T: Serialize>(value: &T) -> Bytes {
    let mut bytes = postcard::to_stdvec(value).expect("records are plain data");
    let sum = xxhash_rust::xxh3::xxh3_64(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes.into()
}

/// Reads what [`sealed`] wrote.
pub(super) fn unsealed<T: DeserializeOwned>(bytes: &[u8], what: &'static str) -> Result<T, Malformed> {
    let Some((body, sum)) = bytes.split_last_chunk::<8>() else {
        return Err(Malformed::Short(what));
    };
    if xxhash_rust::xxh3::xxh3_64(body) != u64::from_le_bytes(*sum) {
        return Err(Malformed::Checksum(what));
    }
    postcard::from_bytes(body).map_err(|_| Malformed::Wrong(what))
}
