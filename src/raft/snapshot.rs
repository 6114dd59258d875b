//! Snapshots of a group in the node's store: numbered, in chunks, published by one synced write.
//!
//! ```text
//! chunk 0        everything outside the slots, as it was at the cut
//! chunk 1...     one stream of slot images, each behind its length (u64), cut every CHUNK_BYTES
//! ```
//!
//! How a chunk is stored is [`super::chunk`]'s.
//!
//! Order, which nothing may change: chunks are written aside as a table file, synced, brought into the store; then one
//! synced write makes the snapshot current; only then may the log behind it be purged. A crash before that write leaves
//! chunks that nobody names; they are dropped at the next start. The snapshot before the current one is kept, and so is
//! everything from the oldest snapshot that is pinned on ([`Pin`]), so that a transfer under way can end.

use super::SnapshotMeta;
use super::chunk;
use super::entry::Malformed;
use super::storage::{Family, Storage, StorageError, TableWriter, Write, meta_key, sealed, unsealed};
use crate::state::SlotImage;
use crate::types::GroupId;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Uncompressed bytes of a chunk; the last one is shorter. A slot image may span many.
pub const CHUNK_BYTES: usize = 256 << 10;

/// Version of the snapshot format. A larger one is refused.
pub const SNAPSHOT_VERSION: u8 = 1;

const CURRENT: u8 = b's';

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
    pins: Pins,
}

/// How often each snapshot is pinned.
type Pins = Arc<Mutex<BTreeMap<u64, usize>>>;

/// Keeps a snapshot's chunks, however many are published meanwhile, until it is dropped.
pub struct Pin {
    number: u64,
    pins: Pins,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.pins.lock();
        if let Some(count) = pins.get_mut(&self.number) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.number);
            }
        }
    }
}

impl SnapshotStore {
    /// Opens the group's snapshots and drops chunks that no published snapshot names.
    pub fn open(storage: &Storage, group: GroupId) -> Result<SnapshotStore, StorageError> {
        let store = SnapshotStore {
            group,
            storage: storage.clone(),
            next: Arc::new(AtomicU64::new(1)),
            publishing: Arc::default(),
            pins: Pins::default(),
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

    /// Keeps the chunks of a snapshot that is there now.
    pub fn pin(&self, number: u64) -> Pin {
        *self.pins.lock().entry(number).or_default() += 1;
        Pin { number, pins: self.pins.clone() }
    }

    /// The published snapshot, with its chunks kept.
    pub fn pin_current(&self) -> Result<Option<(Record, Pin)>, StorageError> {
        // Whoever publishes asks for the pins first, and keeps the snapshot that was current then.
        let mut pins = self.pins.lock();
        let Some(record) = self.current()? else { return Ok(None) };
        *pins.entry(record.number).or_default() += 1;
        drop(pins);
        let pin = Pin { number: record.number, pins: self.pins.clone() };
        Ok(Some((record, pin)))
    }

    /// Begins a new snapshot.
    pub fn begin(&self) -> Result<ChunkWriter, StorageError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let table = self.storage.table(Family::Snap, &format!("snapshot-{}-{number}", self.group))?;
        Ok(ChunkWriter { store: self.clone(), table, number, chunks: 0, bytes: 0 })
    }

    /// Makes a finished snapshot the current one: durable when this returns. One that covers less than the current
    /// one (a build that was overtaken by an install) is not: the log behind the current one may be gone.
    pub async fn publish(&self, snapshot: SnapshotRef, meta: SnapshotMeta) -> Result<(), StorageError> {
        let _one_at_a_time = self.publishing.lock().await;
        let current = self.current()?;
        if current.as_ref().is_some_and(|c| c.meta.last_log_id >= meta.last_log_id) {
            return Ok(());
        }
        self.make_current(snapshot, meta, current).await
    }

    /// Makes a finished snapshot current in place of one that covers as much: what that one holds is wrong. Refused if
    /// it covers less, since the log behind the current one may be gone.
    pub async fn publish_instead(&self, snapshot: SnapshotRef, meta: SnapshotMeta) -> Result<(), StorageError> {
        let _one_at_a_time = self.publishing.lock().await;
        let current = self.current()?;
        if current.as_ref().is_some_and(|c| c.meta.last_log_id > meta.last_log_id) {
            return Err(self.damaged("from the leader", Malformed::Wrong("it covers less than the one here")));
        }
        self.make_current(snapshot, meta, current).await
    }

    /// What makes a snapshot the current one, once it is written.
    pub(super) fn record_of(&self, snapshot: SnapshotRef, meta: SnapshotMeta) -> (Family, Bytes, Bytes) {
        let SnapshotRef { number, chunks, bytes } = snapshot;
        let record = Record { version: SNAPSHOT_VERSION, number, chunks, bytes, meta };
        (Family::Meta, meta_key(CURRENT, self.group), sealed(&record))
    }

    async fn make_current(
        &self,
        snapshot: SnapshotRef,
        meta: SnapshotMeta,
        current: Option<Record>,
    ) -> Result<(), StorageError> {
        let SnapshotRef { number, chunks, bytes } = snapshot;
        let pinned = self.pins.lock().keys().next().copied().unwrap_or(u64::MAX);
        let before = current.map_or(0, |r| r.number).min(number).min(pinned);
        let from = chunk_key(self.group, 0, 0);
        let to = chunk_key(self.group, before, 0);
        let write = Write {
            puts: vec![self.record_of(SnapshotRef { number, chunks, bytes }, meta)],
            delete_ranges: vec![(Family::Snap, from.clone(), to.clone())],
            must_sync: true,
            done: Box::new(|| ()),
        };
        self.storage.write_and_wait(write).await?;
        match before {
            0 => Ok(()),
            _ => self.storage.drop_files(Family::Snap, from, chunk_key(self.group, before - 1, u32::MAX)).await,
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
        chunk::unpack(chunk, stored).map_err(|e| self.damaged(&format!("chunk {chunk}"), e))
    }

    /// The slot images of a snapshot in order, each verified.
    pub fn images(&self, snapshot: SnapshotRef) -> impl Iterator<Item = Result<Bytes, StorageError>> + '_ {
        let chunks = (1..snapshot.chunks).map(move |chunk| self.chunk(snapshot.number, chunk));
        images_in(self.group, chunks)
    }

    fn damaged(&self, place: &str, source: Malformed) -> StorageError {
        StorageError::Damaged { group: self.group, place: format!("snapshot {place}"), source }
    }
}

/// Writes a snapshot's chunks aside.
pub struct ChunkWriter {
    store: SnapshotStore,
    table: Box<dyn TableWriter>,
    number: u64,
    chunks: u32,
    bytes: u64,
}

impl ChunkWriter {
    /// Packs and adds a chunk.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), StorageError> {
        let stored = chunk::pack(self.store.storage.snapshot_codec(), self.chunks, chunk);
        self.bytes += chunk.len() as u64;
        self.put(&stored)
    }

    /// Verifies and adds a chunk as another node stores it.
    pub fn push_stored(&mut self, stored: Bytes) -> Result<(), StorageError> {
        let place = format!("chunk {}", self.chunks);
        let length = chunk::check(self.chunks, &stored).map_err(|e| self.store.damaged(&place, e))?;
        self.bytes += length as u64;
        self.put(&stored)
    }

    fn put(&mut self, stored: &[u8]) -> Result<(), StorageError> {
        self.table.put(&chunk_key(self.store.group, self.number, self.chunks), stored)?;
        self.chunks += 1;
        Ok(())
    }

    /// Syncs the file and brings it into the store, not yet published.
    pub fn finish(self) -> Result<SnapshotRef, StorageError> {
        self.table.finish()?;
        Ok(SnapshotRef { number: self.number, chunks: self.chunks, bytes: self.bytes })
    }
}

/// The slot images in a stream of chunks' contents.
pub fn images_in(
    group: GroupId,
    mut chunks: impl Iterator<Item = Result<Bytes, StorageError>>,
) -> impl Iterator<Item = Result<Bytes, StorageError>> {
    // An image that lies in one chunk is shown where it lies; only what spans several is copied together. Of these one is
    // empty at any time.
    let (mut rest, mut joined) = (Bytes::new(), BytesMut::new());
    let mut over = false;
    std::iter::from_fn(move || {
        while !over {
            if length_of_image(&joined).is_some() {
                rest = std::mem::take(&mut joined).freeze();
            }
            if let Some(length) = length_of_image(&rest) {
                rest.advance(8);
                return Some(Ok(rest.split_to(length)));
            }
            joined.extend_from_slice(&std::mem::take(&mut rest));
            match chunks.next() {
                Some(Ok(chunk)) if joined.is_empty() => rest = chunk,
                Some(Ok(chunk)) => joined.extend_from_slice(&chunk),
                Some(Err(e)) => {
                    over = true;
                    return Some(Err(e));
                }
                None => {
                    over = true;
                    let source = Malformed::Short("the last slot image");
                    let short = StorageError::Damaged { group, place: "snapshot end".to_owned(), source };
                    return (!joined.is_empty()).then_some(Err(short));
                }
            }
        }
        None
    })
}

/// The length of the image that this begins with, if all of it is there.
fn length_of_image(stream: &[u8]) -> Option<usize> {
    let length = u64::from_le_bytes(*stream.first_chunk::<8>()?);
    usize::try_from(length).ok().filter(|length| stream.len() - 8 >= *length)
}

/// Adds a slot image to the stream.
pub fn put_image(stream: &mut Vec<u8>, image: SlotImage) {
    let start = stream.len();
    stream.put_u64_le(0);
    image.put_into(stream);
    let length = (stream.len() - start - 8) as u64;
    stream[start..start + 8].copy_from_slice(&length.to_le_bytes());
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
    fn images_come_out_as_they_went_in_however_the_stream_is_cut() {
        let lengths = [0, 1, 7, 40, 0, 9, 300, 2, 0, 8, 5];
        let images: Vec<Vec<u8>> = lengths.iter().enumerate().map(|(i, length)| vec![i as u8; *length]).collect();
        let stream: Vec<u8> =
            images.iter().flat_map(|image| [&(image.len() as u64).to_le_bytes(), image.as_slice()].concat()).collect();
        for at_once in 1..=stream.len() {
            let chunks = || stream.chunks(at_once).map(|chunk| Ok(Bytes::copy_from_slice(chunk)));
            let found: Vec<Bytes> = images_in(GroupId(1), chunks()).map(Result::unwrap).collect();
            assert_eq!(found, images, "{at_once} bytes at a time");
            // Whatever is missing at the end shows.
            let short = stream[..stream.len() - 1].chunks(at_once).map(|chunk| Ok(Bytes::copy_from_slice(chunk)));
            let found: Vec<_> = images_in(GroupId(1), short).collect();
            assert!(found[..images.len() - 1].iter().all(Result::is_ok) && found.len() == images.len());
            assert!(found[images.len() - 1].is_err(), "{at_once} bytes at a time");
        }
    }
}
