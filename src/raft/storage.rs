//! The node's store: the logs, votes and snapshots of all its groups.
//!
//! What is given to it together is written together or not at all, and a callback runs only after its bytes are on stable
//! storage (under `sync: always`). The writes of a group reach the disk in the order in which they were given.
//!
//! ```text
//! column family   key                                   value
//! log             group u32 | index u64                 stored entry (raft::entry)
//! meta            "v" group u32                         vote     (postcard, xxh3)
//!                 "p" group u32                         purged   (postcard, xxh3)
//!                 "s" group u32                         current snapshot (postcard, xxh3)
//!                 "f" group u32                         fenced off (raft::verify)
//!                 "d" group u32                         dropped: never to be held again (postcard, xxh3)
//!                 "i" 0 u32                             incarnation of the data directory (postcard, xxh3)
//! snap            group u32 | number u64 | chunk u32    chunk (raft::snapshot)
//! ```
//!
//! Keys are big-endian, so that they sort by number.

#[cfg(any(test, feature = "sim"))]
pub mod memory;
mod remover;
mod rocks;
mod torn;

use super::chunk::{self, SnapshotCodec};
use super::entry::Malformed;
use crate::env;
use crate::planted::{self, Bug};
use crate::types::GroupId;
use bytes::Bytes;
use rocks::Rocks;
use serde::{Serialize, de::DeserializeOwned};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
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
const DROPPED: u8 = b'd';
/// Kinds of records that a group has while it is held.
const OF_GROUPS: [u8; 4] = *b"fpsv";

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
    #[error("group {0} was dropped here and is never held again")]
    Dropped(GroupId),
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

/// What the bytes are kept on: RocksDB on a disk, or memory that forgets what was not synced.
///
/// Order and atomicity are those of [`Storage`]'s methods of the same names.
pub(super) trait Disk: Send + std::marker::Sync {
    fn write(&self, write: Write) -> Result<(), StorageError>;

    /// Returns when the write is done, whose callback is not run. Blocks.
    fn block_on(&self, write: Write) -> Result<(), StorageError>;

    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError>;

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StorageError>;

    fn last(&self, family: Family, from: &[u8], to: &[u8]) -> Result<Option<Pair>, StorageError>;

    fn table(&self, family: Family, name: &str) -> Result<Box<dyn TableWriter>, StorageError>;

    fn drop_files(&self, family: Family, from: &[u8], to: &[u8]) -> Result<(), StorageError>;

    fn memory_bytes(&self) -> u64;

    fn syncs(&self) -> u64;
}

/// Writes a table aside, key by key in order. Dropped before it is finished it leaves nothing.
pub(super) trait TableWriter: Send {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StorageError>;

    /// Syncs the table and brings it into the store.
    fn finish(self: Box<Self>) -> Result<(), StorageError>;
}

/// The node's store. Cheap to clone.
#[derive(Clone)]
pub struct Storage {
    disk: Arc<dyn Disk>,
    snapshot_codec: &'static dyn SnapshotCodec,
}

impl Storage {
    /// Opens or creates the store in `dir`.
    pub fn open(dir: &Path, options: &Options_) -> Result<Storage, StorageError> {
        Ok(Storage { disk: Arc::new(Rocks::open(dir, options)?), snapshot_codec: options.snapshot_codec })
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

    /// The groups of which there is a vote, a log or a snapshot, by number. Of one that was dropped something may be left.
    pub(super) fn groups(&self) -> Result<Vec<GroupId>, StorageError> {
        let mut groups = BTreeSet::new();
        for kind in *b"psv" {
            groups.append(&mut self.marked(kind)?);
        }
        Ok(groups.difference(&self.dropped()?).copied().collect())
    }

    /// The groups that have a record of a kind. Those of a kind stand together.
    fn marked(&self, kind: u8) -> Result<BTreeSet<GroupId>, StorageError> {
        let mut groups = BTreeSet::new();
        self.scan(Family::Meta, &[kind], &[kind + 1], |key, _| {
            groups.extend(key[1..].try_into().ok().map(|number| GroupId(u32::from_be_bytes(number))));
            true
        })?;
        Ok(groups)
    }

    /// The groups that are never to be held here again.
    pub(super) fn dropped(&self) -> Result<BTreeSet<GroupId>, StorageError> {
        self.marked(DROPPED)
    }

    /// Notes that a group is never to be held here again: whoever forgets how it voted must not vote. Durable when this returns,
    /// and before anything of the group may be deleted. Blocks.
    pub(super) fn mark_dropped(&self, group: GroupId) -> Result<(), StorageError> {
        if planted::is(Bug::DroppedUnmarked) {
            return Ok(());
        }
        self.write_and_block(vec![(Family::Meta, meta_key(DROPPED, group), sealed(&true))])
    }

    /// Deletes all that there is of a group that is marked, and gives its files back. What was there is gone when this returns;
    /// whoever still wrote for it must have stopped, or the next start deletes that. Blocks.
    pub(super) fn delete_dropped(&self, group: GroupId) -> Result<(), StorageError> {
        let marked = self.dropped()?.contains(&group) || planted::is(Bug::DroppedUnmarked);
        assert!(marked, "a group is deleted only behind its mark");
        // What it was given before it stopped may still wait for the writer, and would be written behind this.
        self.settle()?;
        let behind = |family, key: Bytes| (family, key.clone(), Bytes::from([&key[..], &[0]].concat()));
        let mut ranges: Vec<(Family, Bytes, Bytes)> =
            OF_GROUPS.iter().map(|kind| behind(Family::Meta, meta_key(*kind, group))).collect();
        let whole =
            [Family::Log, Family::Snap].map(|family| (family, group_key(group), group_key(GroupId(group.0 + 1))));
        let mut files = Vec::new();
        for (family, from, to) in whole {
            if self.last(family, &from, &to)?.is_some() {
                files.push((family, from, to));
            }
        }
        let mut left = !files.is_empty();
        for (family, key, _) in &ranges {
            left |= self.get(*family, key)?.is_some();
        }
        if !left {
            return Ok(());
        }
        ranges.extend(files.iter().cloned());
        self.change_and_block(Vec::new(), ranges)?;
        for (family, from, to) in files {
            self.disk.drop_files(family, &from, &to)?;
        }
        Ok(())
    }

    /// Waits until everything that was given to the writer so far is written. Blocks.
    pub(super) fn settle(&self) -> Result<(), StorageError> {
        self.disk.block_on(Write {
            puts: Vec::new(),
            delete_ranges: Vec::new(),
            must_sync: false,
            done: Box::new(|| ()),
        })
    }

    /// Writes in one batch; on stable storage when this returns. Blocks.
    pub(super) fn write_and_block(&self, puts: Vec<(Family, Bytes, Bytes)>) -> Result<(), StorageError> {
        self.change_and_block(puts, Vec::new())
    }

    /// Deletes these ranges, then writes, in one batch; on stable storage when this returns. Blocks.
    pub(super) fn change_and_block(
        &self,
        puts: Vec<(Family, Bytes, Bytes)>,
        delete_ranges: Vec<(Family, Bytes, Bytes)>,
    ) -> Result<(), StorageError> {
        self.disk.block_on(Write { puts, delete_ranges, must_sync: true, done: Box::new(|| ()) })
    }

    /// How the chunks of new snapshots are packed.
    pub(super) fn snapshot_codec(&self) -> &'static dyn SnapshotCodec {
        self.snapshot_codec
    }

    /// Hands a change to the writer. Never blocks; the proposers bound what can be waiting.
    pub(super) fn write(&self, write: Write) -> Result<(), StorageError> {
        self.disk.write(write)
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
        self.disk.get(family, key)
    }

    /// Visits keys from `from` up to and without `to`, until `visit` says false.
    pub(super) fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StorageError> {
        self.disk.scan(family, from, to, &mut visit)
    }

    /// The last key below `to` and not below `from`.
    pub(super) fn last(&self, family: Family, from: &[u8], to: &[u8]) -> Result<Option<Pair>, StorageError> {
        self.disk.last(family, from, to)
    }

    /// Begins a table of a family, aside. No other one under way has its name.
    pub(super) fn table(&self, family: Family, name: &str) -> Result<Box<dyn TableWriter>, StorageError> {
        self.disk.table(family, name)
    }

    /// Frees files that lie wholly in a deleted range, `to` included. Aside: the system takes a while for a large one.
    pub(super) async fn drop_files(&self, family: Family, from: Bytes, to: Bytes) -> Result<(), StorageError> {
        let disk = self.disk.clone();
        let dropped = env::elsewhere("drop-files", move || disk.drop_files(family, &from, &to)).await;
        dropped.ok_or(StorageError::Stopped)?
    }

    /// Bytes that the store holds in memory beside the state: memtables, block cache and table readers.
    pub fn memory_bytes(&self) -> u64 {
        self.disk.memory_bytes()
    }

    /// How many syncs the writer has made.
    pub fn syncs(&self) -> u64 {
        self.disk.syncs()
    }
}

/// Exit code of a node whose disk failed.
pub const EXIT_DISK: i32 = 74;

/// What the keys of a group's log and of its snapshots begin with.
fn group_key(group: GroupId) -> Bytes {
    Bytes::copy_from_slice(&group.0.to_be_bytes())
}

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
