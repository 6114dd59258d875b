//! A group's snapshot on its way out of a running store, and into the store of a node that is yet to start.
//!
//! Chunks pass as they are stored; nothing is packed anew. A store that is built here looks like that of a replica that
//! has just installed this snapshot and purged its log: the record, the purge mark and a vote of the snapshot's term,
//! written by one synced write after the chunks. The vote makes the first leader's term a later one, and has the
//! replica begin in quarantine like any that has voted.

use super::log_store::founding_marks;
use super::snapshot::{ChunkWriter, Pin, Record, SnapshotStore};
use super::storage::{Options_, Storage, StorageError};
use super::{Membership, SnapshotMeta, StoredMembership, Vote, log_id};
use crate::state::{CutHead, Keyspace};
use crate::types::{GroupId, Millis, NodeId};
use bytes::Bytes;
use openraft::vote::RaftLeaderId;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

/// A published snapshot whose chunks stay as long as this lives.
pub struct Export {
    snapshots: SnapshotStore,
    record: Record,
    clock: Millis,
    keys: u64,
    _pin: Pin,
}

impl Export {
    /// The group's current snapshot; none if it has none.
    pub(super) fn open(snapshots: SnapshotStore) -> Result<Option<Export>, StorageError> {
        let Some((record, pin)) = snapshots.pin_current()? else { return Ok(None) };
        let head = snapshots.chunk(record.number, 0)?;
        let head = CutHead::from_bytes(&head).map_err(|e| unreadable(&e))?;
        Ok(Some(Export { snapshots, record, clock: head.clock(), keys: head.keys(), _pin: pin }))
    }

    /// Index and term of the last entry in it.
    pub fn position(&self) -> (u64, u64) {
        self.record.meta.last_log_id.map_or((0, 0), |id| (id.index(), id.committed_leader_id().term))
    }

    /// The group's clock at the cut.
    pub fn clock(&self) -> Millis {
        self.clock
    }

    /// Keys in it.
    pub fn keys(&self) -> u64 {
        self.keys
    }

    /// How many chunks it has.
    pub fn chunks(&self) -> u32 {
        self.record.chunks
    }

    /// Uncompressed bytes.
    pub fn bytes(&self) -> u64 {
        self.record.bytes
    }

    pub(super) fn meta(&self) -> &SnapshotMeta {
        &self.record.meta
    }

    /// A chunk as it is stored. Blocks while it reads.
    pub fn chunk(&self, chunk: u32) -> Result<Bytes, StorageError> {
        self.snapshots.stored_chunk(self.record.number, chunk)
    }
}

/// The store of a node that is yet to start.
pub struct StoreBuilder {
    storage: Storage,
    me: NodeId,
}

impl StoreBuilder {
    /// Makes the store of `me` in an empty data directory and binds it to the directory's incarnation.
    pub fn create(data_dir: &Path, options: &Options_, me: NodeId, incarnation: u64) -> Result<Self, StorageError> {
        let storage = Storage::open(&data_dir.join("store"), options)?;
        storage.bind(incarnation, false)?;
        Ok(StoreBuilder { storage, me })
    }

    /// Begins a group.
    pub fn group(&self, group: GroupId) -> Result<GroupBuilder, StorageError> {
        let snapshots = SnapshotStore::open(&self.storage, group)?;
        let writer = snapshots.begin()?;
        Ok(GroupBuilder { storage: self.storage.clone(), group, me: self.me, snapshots, writer })
    }
}

/// A group of such a store.
pub struct GroupBuilder {
    storage: Storage,
    group: GroupId,
    me: NodeId,
    snapshots: SnapshotStore,
    writer: ChunkWriter,
}

impl GroupBuilder {
    /// Verifies and adds a chunk as it was stored elsewhere.
    pub fn push(&mut self, stored: Bytes) -> Result<(), StorageError> {
        self.writer.push_stored(stored)
    }

    /// Adds the chunks of a state.
    pub fn push_state(&mut self, keyspace: Keyspace) -> Result<(), StorageError> {
        super::machine::write_state(keyspace, &mut self.writer)
    }

    /// Publishes what was added as the state at (`index`, `term`) of a group with these voters. Durable when this
    /// returns. Gives its uncompressed bytes.
    pub fn finish(self, (index, term): (u64, u64), voters: &BTreeSet<NodeId>) -> Result<u64, StorageError> {
        let last = log_id(term, index);
        let nodes: BTreeMap<NodeId, _> = voters.iter().map(|v| (*v, openraft::impls::EmptyNode {})).collect();
        let membership = Membership::new(vec![voters.clone()], nodes);
        let membership = membership.map_err(|e| StorageError::Io("membership".into(), io::Error::other(e)))?;
        let meta =
            SnapshotMeta { last_log_id: Some(last), last_membership: StoredMembership::new(Some(last), membership) };
        let snapshot = self.writer.finish()?;
        let vote = Vote { leader_id: RaftLeaderId::new(term, self.me), committed: false };
        let mut puts = founding_marks(self.group, &vote, &last);
        puts.push(self.snapshots.record_of(snapshot, meta));
        self.storage.write_and_block(puts)?;
        Ok(snapshot.bytes)
    }
}

/// The state that stored chunks hold, in order. For small ones: all of it is in memory at once.
pub fn state_of(chunks: &[Bytes]) -> Result<Keyspace, StorageError> {
    super::machine::read_state(chunks)
}

fn unreadable(e: &crate::state::RestoreError) -> StorageError {
    StorageError::Io("snapshot".into(), io::Error::other(e.to_string()))
}
