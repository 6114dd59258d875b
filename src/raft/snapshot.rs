//! Snapshots of a group in the node's store: numbered, in chunks, published by one synced write.
//!
//! ```text
//! chunk 0        everything outside the slots, as it was at the cut
//! chunk 1...     one stream of slot images, each behind its length (u64), cut every CHUNK_BYTES
//! stored chunk   length u32 | lz4 of the chunk | xxh3-64 of all before, seeded with the chunk's place
//! ```
//!
//! Order, which nothing may change: chunks are written aside as a table file, synced, brought into the store; then one
//! synced write makes the snapshot current; only then may the log behind it be purged. A crash before that write leaves
//! chunks that nobody names; they are dropped at the next start. The snapshot before the current one is kept, so that a
//! transfer under way can end.

use super::SnapshotMeta;
use super::entry::Malformed;
use super::storage::{Family, Storage, StorageError, Write, meta_key, sealed, unsealed};
use crate::types::GroupId;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

/// Uncompressed bytes of a chunk; the last one is shorter. A slot image may span many.
pub const CHUNK_BYTES: usize = 256 << 10;

/// The most that a chunk may claim to hold: a guard against lengths that are garbage.
const MAX_CHUNK_BYTES: usize = 16 << 20;

/// Version of the snapshot format. A larger one is refused.
pub const SNAPSHOT_VERSION: u8 = 1;

const CURRENT: u8 = b's';

/// Table files are compressed by chunk, not by RocksDB; its writer borrows its options for as long as it lives.
static SST_OPTIONS: LazyLock<rocksdb::Options> = LazyLock::new(rocksdb::Options::default);

/// What is known of a snapshot beside its chunks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    pub version: u8,
    pub number: u64,
    pub chunks: u32,
    /// Uncompressed.
    pub bytes: u64,
    pub meta: SnapshotMeta,
}

/// Names a snapshot whose chunks are in the store: what openraft passes around.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotRef {
    pub number: u64,
    pub chunks: u32,
    pub bytes: u64,
}

/// The snapshots of one group. Clones share it.
#[derive(Clone)]
pub struct SnapshotStore {
    group: GroupId,
    storage: Storage,
    next: Arc<AtomicU64>,
    publishing: Arc<tokio::sync::Mutex<()>>,
}

impl SnapshotStore {
    /// Opens the group's snapshots and drops chunks that no published snapshot names.
    pub fn open(storage: &Storage, group: GroupId) -> Result<SnapshotStore, StorageError> {
        let store = SnapshotStore {
            group,
            storage: storage.clone(),
            next: Arc::new(AtomicU64::new(1)),
            publishing: Arc::default(),
        };
        let current = store.current()?.map_or(0, |r| r.number);
        let end = chunk_key(GroupId(group.0 + 1), 0, 0);
        let highest = storage.last(Family::Snap, &chunk_key(group, 0, 0), &end)?;
        let highest =
            highest.map_or(0, |(key, _)| u64::from_be_bytes(key[4..12].try_into().expect("keys have 16 bytes")));
        store.next.store(current.max(highest) + 1, Ordering::Relaxed);
        if highest > current {
            let range = (Family::Snap, chunk_key(group, current + 1, 0), end);
            storage.write(Write {
                puts: vec![],
                delete_ranges: vec![range],
                must_sync: false,
                done: Box::new(|| ()),
            })?;
        }
        Ok(store)
    }

    /// The published snapshot, if there is one.
    pub fn current(&self) -> Result<Option<Record>, StorageError> {
        let Some(bytes) = self.storage.get(Family::Meta, &meta_key(CURRENT, self.group))? else { return Ok(None) };
        let record: Record = unsealed(&bytes, "the snapshot record").map_err(|e| self.damaged("record", e))?;
        if record.version > SNAPSHOT_VERSION {
            let e = Malformed::Version { what: "snapshot", found: record.version, known: SNAPSHOT_VERSION };
            return Err(self.damaged("record", e));
        }
        Ok(Some(record))
    }

    /// Begins a new snapshot.
    pub fn begin(&self) -> Result<ChunkWriter, StorageError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let file = self.storage.staging_dir()?.join(format!("snapshot-{}-{number}.sst", self.group));
        let sst = rocksdb::SstFileWriter::create(&SST_OPTIONS);
        sst.open(&file)?;
        Ok(ChunkWriter { store: self.clone(), sst, file, number, chunks: 0, bytes: 0 })
    }

    /// Makes a finished snapshot the current one: durable when this returns. One that covers less than the current
    /// one (a build that was overtaken by an install) is not: the log behind the current one may be gone.
    pub async fn publish(&self, snapshot: SnapshotRef, meta: SnapshotMeta) -> Result<(), StorageError> {
        let _one_at_a_time = self.publishing.lock().await;
        let current = self.current()?;
        if current.as_ref().is_some_and(|c| c.meta.last_log_id >= meta.last_log_id) {
            return Ok(());
        }
        let SnapshotRef { number, chunks, bytes } = snapshot;
        let before = current.map_or(0, |r| r.number).min(number);
        let record = Record { version: SNAPSHOT_VERSION, number, chunks, bytes, meta };
        let from = chunk_key(self.group, 0, 0);
        let to = chunk_key(self.group, before, 0);
        let write = Write {
            puts: vec![(Family::Meta, meta_key(CURRENT, self.group), sealed(&record))],
            delete_ranges: vec![(Family::Snap, from.clone(), to.clone())],
            must_sync: true,
            done: Box::new(|| ()),
        };
        self.storage.write_and_wait(write).await?;
        match before {
            0 => Ok(()),
            _ => self.storage.drop_files(Family::Snap, &from, &chunk_key(self.group, before - 1, u32::MAX)),
        }
    }

    /// A chunk as it is stored, for sending it on.
    pub fn stored_chunk(&self, number: u64, chunk: u32) -> Result<Bytes, StorageError> {
        let found = self.storage.get(Family::Snap, &chunk_key(self.group, number, chunk))?;
        found.map(Bytes::from).ok_or_else(|| self.damaged(&format!("chunk {chunk}"), Malformed::Wrong("it is missing")))
    }

    /// A chunk's content, verified.
    pub fn chunk(&self, number: u64, chunk: u32) -> Result<Bytes, StorageError> {
        let stored = self.stored_chunk(number, chunk)?;
        unpack(chunk, stored).map_err(|e| self.damaged(&format!("chunk {chunk}"), e))
    }

    /// The slot images of a snapshot in order, each verified.
    pub fn images(&self, snapshot: SnapshotRef) -> impl Iterator<Item = Result<Bytes, StorageError>> + '_ {
        let mut next_chunk = 1;
        let mut rest = BytesMut::new();
        let mut failed = false;
        std::iter::from_fn(move || {
            while !failed {
                if let Some(len) = rest.first_chunk::<8>().map(|len| u64::from_le_bytes(*len) as usize)
                    && rest.len() - 8 >= len
                {
                    rest.advance(8);
                    return Some(Ok(rest.split_to(len).freeze()));
                }
                if next_chunk >= snapshot.chunks {
                    failed = true;
                    let short = self.damaged("end", Malformed::Short("the last slot image"));
                    return (!rest.is_empty()).then_some(Err(short));
                }
                match self.chunk(snapshot.number, next_chunk) {
                    Ok(chunk) => rest.extend_from_slice(&chunk),
                    Err(e) => {
                        failed = true;
                        return Some(Err(e));
                    }
                }
                next_chunk += 1;
            }
            None
        })
    }

    fn damaged(&self, place: &str, source: Malformed) -> StorageError {
        StorageError::Damaged { group: self.group, place: format!("snapshot {place}"), source }
    }
}

/// Writes a snapshot's chunks aside.
pub struct ChunkWriter {
    store: SnapshotStore,
    sst: rocksdb::SstFileWriter<'static>,
    file: PathBuf,
    number: u64,
    chunks: u32,
    bytes: u64,
}

impl ChunkWriter {
    /// Packs and adds a chunk.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), StorageError> {
        let stored = pack(self.chunks, chunk);
        self.bytes += chunk.len() as u64;
        self.put(&stored)
    }

    /// Verifies and adds a chunk as another node stores it.
    pub fn push_stored(&mut self, stored: Bytes) -> Result<(), StorageError> {
        let place = format!("chunk {}", self.chunks);
        let content = unpack(self.chunks, stored.clone()).map_err(|e| self.store.damaged(&place, e))?;
        self.bytes += content.len() as u64;
        self.put(&stored)
    }

    fn put(&mut self, stored: &[u8]) -> Result<(), StorageError> {
        self.sst.put(chunk_key(self.store.group, self.number, self.chunks), stored)?;
        self.chunks += 1;
        Ok(())
    }

    /// Syncs the file and brings it into the store, not yet published.
    pub fn finish(mut self) -> Result<SnapshotRef, StorageError> {
        self.sst.finish()?;
        self.store.storage.ingest(Family::Snap, &self.file)?;
        Ok(SnapshotRef { number: self.number, chunks: self.chunks, bytes: self.bytes })
    }
}

impl Drop for ChunkWriter {
    fn drop(&mut self) {
        // After `finish` the file was moved; before, it is of no use to anybody.
        let _ = std::fs::remove_file(&self.file);
    }
}

/// Adds a slot image to the stream.
pub fn put_image(chunk: &mut BytesMut, image: &[u8]) {
    chunk.put_u64_le(image.len() as u64);
    chunk.put_slice(image);
}

fn pack(place: u32, chunk: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(chunk.len() / 2 + 16);
    out.extend_from_slice(&(chunk.len() as u32).to_le_bytes());
    out.extend_from_slice(&lz4_flex::block::compress(chunk));
    let sum = xxhash_rust::xxh3::xxh3_64_with_seed(&out, u64::from(place));
    out.extend_from_slice(&sum.to_le_bytes());
    out
}

fn unpack(place: u32, stored: Bytes) -> Result<Bytes, Malformed> {
    let Some((body, sum)) = stored.split_last_chunk::<8>() else { return Err(Malformed::Short("snapshot chunk")) };
    if xxhash_rust::xxh3::xxh3_64_with_seed(body, u64::from(place)) != u64::from_le_bytes(*sum) {
        return Err(Malformed::Checksum("a snapshot chunk"));
    }
    let Some((len, packed)) = body.split_first_chunk::<4>() else { return Err(Malformed::Short("snapshot chunk")) };
    let len = u32::from_le_bytes(*len) as usize;
    if len > MAX_CHUNK_BYTES {
        return Err(Malformed::Wrong("a snapshot chunk claims to be larger than any"));
    }
    let chunk = lz4_flex::block::decompress(packed, len)
        .map_err(|_| Malformed::Wrong("a snapshot chunk cannot be unpacked"))?;
    if chunk.len() != len {
        return Err(Malformed::Wrong("a snapshot chunk has another length than it says"));
    }
    Ok(chunk.into())
}

fn chunk_key(group: GroupId, number: u64, chunk: u32) -> Bytes {
    let mut key = BytesMut::with_capacity(16);
    key.put_u32(group.0);
    key.put_u64(number);
    key.put_u32(chunk);
    key.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_bound_to_its_place_and_to_its_bytes() {
        let stored = pack(3, b"some slots");
        assert_eq!(unpack(3, stored.clone().into()).unwrap(), &b"some slots"[..]);
        assert_eq!(unpack(4, stored.clone().into()), Err(Malformed::Checksum("a snapshot chunk")));
        for bit in 0..stored.len() * 8 {
            let mut bad = stored.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(unpack(3, bad.into()).is_err(), "bit {bit}");
        }
    }
}
