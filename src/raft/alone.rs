//! A lone survivor's store is made that of groups of one voter, offline: for a cluster that has lost its majority for good.
//!
//! ```text
//! log of each group   ... last entry | the configuration {this node}, in a term above all that this replica has seen
//! vote                that term, for this node, not committed
//! ```
//!
//! The last configuration of a log is the one that counts, so the node elects itself when it is started, and commits all that
//! stands before. What it never received is lost; what no majority had received may become committed. Nothing is taken from a
//! log, but where the power failed between a snapshot's arrival and the purge of the log that it covers: that purge is in the
//! write. All groups are changed by one synced write.

use super::log_store::{LogStore, own_vote, purge_to};
use super::snapshot::{Record, SnapshotStore};
use super::storage::{Family, Options_, Storage, StorageError, log_key};
use super::{Entry, LogId, Membership, entry, log_id};
use crate::types::{GroupId, NodeId};
use openraft::EntryPayload;
use openraft::vote::RaftLeaderId;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

/// What a store holds of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub group: GroupId,
    /// Of the last entry, in the log or in the snapshot.
    pub term: u64,
    pub index: u64,
    /// By the last configuration that this replica has, committed or not.
    pub voters: BTreeSet<NodeId>,
}

/// The store of a node that does not run.
pub struct Survivor {
    storage: Storage,
    me: NodeId,
    logs: Vec<(GroupId, LogStore)>,
}

impl Survivor {
    /// Opens the store of a data directory that was bound to this incarnation, and verifies every log in it. Blocks.
    ///
    /// # Errors
    /// When the node runs (its store is locked), when the store is another directory's, or damaged.
    pub fn open(data_dir: &Path, options: &Options_, me: NodeId, incarnation: u64) -> Result<Survivor, StorageError> {
        let storage = Storage::open(&data_dir.join("store"), options)?;
        storage.bind(incarnation, true)?;
        let mut logs = Vec::new();
        for group in storage.groups()? {
            logs.push((group, LogStore::open(&storage, group)?));
        }
        Ok(Survivor { storage, me, logs })
    }

    /// Its groups, by number.
    pub fn held(&self) -> Result<Vec<Held>, StorageError> {
        self.logs.iter().map(|(group, log)| self.held_of(*group, log)).collect()
    }

    fn held_of(&self, group: GroupId, log: &LogStore) -> Result<Held, StorageError> {
        let (end, snapshot) = self.end_of(group, log)?;
        let snapshot_ends = ends_with(end, snapshot.as_ref());
        let mut last = snapshot.map(|record| record.meta.last_membership.membership().clone());
        if !snapshot_ends {
            log.visit(|entry| {
                if let EntryPayload::Membership(membership) = entry.payload {
                    last = Some(membership);
                }
            })?;
        }
        let (term, index) = end.map_or((0, 0), |id| (id.committed_leader_id().term, id.index()));
        let voters = last.map(|membership| membership.voter_ids().collect()).unwrap_or_default();
        Ok(Held { group, term, index, voters })
    }

    /// The last entry of a group that is here, in its log or in its snapshot; and the snapshot.
    fn end_of(&self, group: GroupId, log: &LogStore) -> Result<(Option<LogId>, Option<Record>), StorageError> {
        let snapshot = SnapshotStore::open(&self.storage, group)?.current()?;
        let covered = snapshot.as_ref().and_then(|record| record.meta.last_log_id);
        Ok((log.last().max(covered), snapshot))
    }

    /// Has every group consist of this node alone. Durable when it returns; may be done again. Blocks.
    pub fn stand_alone(&self) -> Result<(), StorageError> {
        let (mut puts, mut purged) = (Vec::new(), Vec::new());
        for (group, log) in &self.logs {
            let (end, snapshot) = self.end_of(*group, log)?;
            // One that holds nothing was never begun here: there is nothing to go on from.
            let Some(last) = end else { continue };
            if log.last() != end && ends_with(end, snapshot.as_ref()) {
                let (mark, all) = purge_to(*group, &last);
                puts.push(mark);
                purged.push(all);
            }
            let voted = log.vote().map_or(0, |vote| vote.leader_id.term);
            let term = voted.max(last.committed_leader_id().term) + 1;
            let voters = BTreeSet::from([self.me]);
            let nodes = BTreeMap::from([(self.me, openraft::impls::EmptyNode {})]);
            let membership = Membership::new(vec![voters], nodes);
            let membership = membership.map_err(|e| StorageError::Io("membership".into(), io::Error::other(e)))?;
            let (log_id, payload) = (log_id(term, last.index() + 1), EntryPayload::Membership(membership));
            let entry = Entry { log_id, payload };
            puts.push((Family::Log, log_key(*group, log_id.index()), entry::stored(*group, &entry)));
            let vote = super::Vote { leader_id: RaftLeaderId::new(term, self.me), committed: false };
            puts.push(own_vote(*group, &vote));
        }
        self.storage.change_and_block(puts, purged)
    }
}

/// Whether nothing stands behind what the snapshot covers.
fn ends_with(end: Option<LogId>, snapshot: Option<&Record>) -> bool {
    snapshot.is_some_and(|record| record.meta.last_log_id == end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::log_store::founding_marks;

    const ME: NodeId = NodeId(2);

    #[test]
    fn every_group_ends_with_a_configuration_of_one_in_a_term_above_all() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options_::default();
        let (one, two) = (GroupId(0), GroupId(3));
        {
            let storage = Storage::open(&dir.path().join("store"), &options).unwrap();
            storage.bind(7, false).unwrap();
            for (group, term) in [(one, 4), (two, 9)] {
                let vote = crate::raft::Vote { leader_id: RaftLeaderId::new(term + 2, NodeId(1)), committed: false };
                storage.write_and_block(founding_marks(group, &vote, &log_id(term, 50))).unwrap();
            }
        }
        assert!(Survivor::open(dir.path(), &options, ME, 8).is_err(), "another directory's store");
        let survivor = Survivor::open(dir.path(), &options, ME, 7).unwrap();
        let ends = |s: &Survivor| s.held().unwrap().into_iter().map(|h| (h.group, h.term, h.index)).collect::<Vec<_>>();
        assert_eq!(ends(&survivor), [(one, 4, 50), (two, 9, 50)]);
        survivor.stand_alone().unwrap();
        drop(survivor);
        let survivor = Survivor::open(dir.path(), &options, ME, 7).unwrap();
        assert_eq!(ends(&survivor), [(one, 7, 51), (two, 12, 51)]);
        assert!(survivor.held().unwrap().iter().all(|held| held.voters == BTreeSet::from([ME])));
        let vote = survivor.logs[0].1.vote().unwrap();
        assert_eq!((vote.leader_id.term, vote.committed), (7, false));
    }

    /// The power failed when a snapshot had come and the log was not purged yet: the log ends before it, in another term.
    #[test]
    fn a_group_whose_snapshot_is_ahead_of_its_log_goes_on_behind_the_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options_::default();
        let (group, other) = (GroupId(3), GroupId(4));
        let voters = BTreeSet::from([NodeId(1), ME, NodeId(3)]);
        {
            let storage = Storage::open(&dir.path().join("store"), &options).unwrap();
            storage.bind(7, false).unwrap();
            let vote = crate::raft::Vote { leader_id: RaftLeaderId::new(4, NodeId(1)), committed: false };
            let blank = |group, index| {
                let entry = Entry { log_id: log_id(4, index), payload: EntryPayload::Blank };
                (Family::Log, log_key(group, index), entry::stored(group, &entry))
            };
            let mut puts = founding_marks(group, &vote, &log_id(4, 50));
            puts.extend(founding_marks(other, &vote, &log_id(4, 50)));
            puts.extend([(group, 51), (group, 52), (other, 51)].map(|(group, index)| blank(group, index)));
            let membership = Membership::new_with_defaults(vec![voters.clone()], []);
            let meta = crate::raft::SnapshotMeta {
                last_log_id: Some(log_id(6, 80)),
                last_membership: openraft::StoredMembership::new(Some(log_id(5, 60)), membership),
            };
            let snapshot = crate::raft::snapshot::SnapshotRef { number: 1, chunks: 0, bytes: 0 };
            puts.push(SnapshotStore::open(&storage, group).unwrap().record_of(snapshot, meta));
            storage.write_and_block(puts).unwrap();
        }
        let open = || Survivor::open(dir.path(), &options, ME, 7).unwrap();
        let ends = |s: &Survivor| s.held().unwrap().into_iter().map(|h| (h.group, h.term, h.index)).collect::<Vec<_>>();
        assert_eq!(ends(&open()), [(group, 6, 80), (other, 4, 51)]);
        assert_eq!(open().held().unwrap()[0].voters, voters);
        for term in [7, 8] {
            open().stand_alone().unwrap();
            let survivor = open();
            let index = 80 + term - 6;
            assert_eq!(ends(&survivor), [(group, term, index), (other, term - 2, 51 + term - 6)]);
            assert!(survivor.held().unwrap().iter().all(|held| held.voters == BTreeSet::from([ME])));
            let mut kept = Vec::new();
            survivor.logs[0].1.visit(|entry| kept.push(entry.log_id.index())).unwrap();
            assert_eq!(kept, (81..=index).collect::<Vec<_>>(), "nothing stands where the snapshot is");
        }
    }
}
