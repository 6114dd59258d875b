//! A group's log, as openraft asks for it, on the node's [`Storage`].
//!
//! ```text
//!          purged        flushed           last
//!   ---------|-------------|-----------------|--->  index
//!            [   in RocksDB    ]
//!                   [    in the tail         ]
//! ```
//!
//! Invariants: entries are readable when `append` returns (the tail holds everything that is not flushed); a callback
//! runs after its entries are stable; there is never a hole between `purged` and `last`; `purged <= flushed <= last`
//! except while a snapshot that reaches beyond the log is installed, where `purged` jumps ahead.

use super::entry::{self, Malformed};
use super::storage::{Family, Storage, StorageError, Write, log_key, meta_key, sealed, unsealed};
use super::{Entry, LogId, Types, Vote};
use crate::planted::{self, Bug};
use crate::types::GroupId;
use futures_util::{Stream, StreamExt};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

/// Flushed entries are kept in memory for followers that are a little behind, up to this many bytes a group.
const TAIL_BYTES: usize = 4 << 20;

/// So many bytes of the log, or one entry that is longer, stand between two of its milestones.
const MILE: u64 = 64 << 10;

/// A family with a key and its value, or with the keys where a range begins and ends.
type Kept = (Family, bytes::Bytes, bytes::Bytes);

const VOTE: u8 = b'v';
const PURGED: u8 = b'p';

/// A group's log. Clones share it.
#[derive(Clone)]
pub struct LogStore {
    group: GroupId,
    storage: Storage,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    vote: Option<Vote>,
    /// The same, or the one that is being saved.
    voted: Option<Vote>,
    purged: Option<LogId>,
    last: Option<LogId>,
    /// Entries up to here are stable.
    flushed: u64,
    /// The newest entries, without a hole, ending with `last`.
    tail: VecDeque<Entry>,
    tail_bytes: usize,
    /// Rises with every truncation: a flush that was given before it says nothing about entries after it.
    truncations: u64,
    /// Bytes found in the log when it was opened and appended since, for the snapshot trigger.
    appended_bytes: u64,
    /// Indexes, a [`MILE`] apart, with the bytes of all before them: the log's first entry is one.
    milestones: VecDeque<(u64, u64)>,
}

impl Shared {
    /// Counts an entry that is the last one now.
    fn measure(&mut self, index: u64, bytes: u64) {
        if self.milestones.back().is_none_or(|(_, at)| self.appended_bytes - at >= MILE) {
            self.milestones.push_back((index, self.appended_bytes));
        }
        self.appended_bytes += bytes;
    }

    fn evict(&mut self) {
        while self.tail_bytes > TAIL_BYTES {
            match self.tail.front() {
                Some(front) if front.log_id.index() <= self.flushed => {
                    self.tail_bytes -= entry::record_len(front);
                    self.tail.pop_front();
                }
                _ => return,
            }
        }
    }

    fn check(&self) {
        let first = self.tail.front().map(|e| e.log_id.index());
        let last = self.tail.back().map(|e| e.log_id.index());
        if let (Some(first), Some(last)) = (first, last) {
            assert_eq!(last - first + 1, self.tail.len() as u64, "the tail has no hole");
            assert_eq!(Some(last), self.last.map(|id| id.index()), "the tail ends with the log");
        }
    }
}

impl LogStore {
    /// Opens a group's log and verifies every record of it: a damaged or missing one is an error that says which.
    pub fn open(storage: &Storage, group: GroupId) -> Result<LogStore, StorageError> {
        let damaged = |place: String| move |source| StorageError::Damaged { group, place, source };
        let read_meta = |kind| storage.get(Family::Meta, &meta_key(kind, group));
        let vote = read_meta(VOTE)?.map(|v| unsealed(&v, "the vote").map_err(damaged("vote".into()))).transpose()?;
        let purged: Option<LogId> = read_meta(PURGED)?
            .map(|v| unsealed(&v, "the purge mark").map_err(damaged("purge mark".into())))
            .transpose()?;
        let mut expected = purged.map(|id| id.index() + 1);
        let mut last = purged;
        let mut failure = None;
        let mut shared = Shared {
            vote,
            voted: vote,
            purged,
            last,
            flushed: 0,
            tail: VecDeque::new(),
            tail_bytes: 0,
            truncations: 0,
            appended_bytes: 0,
            milestones: VecDeque::new(),
        };
        storage.scan(Family::Log, &log_key(group, 0), &log_key(GroupId(group.0 + 1), 0), |key, value| {
            let index = u64::from_be_bytes(key[4..].try_into().expect("log keys have twelve bytes"));
            let read = match expected {
                Some(expected) if expected != index => Err(Malformed::Wrong("the entry before it is missing")),
                _ => entry::from_stored(group, index, value.to_vec().into()),
            };
            match read {
                Ok(entry) => last = Some(entry.log_id),
                Err(e) => failure = Some(damaged(format!("log entry {index}"))(e)),
            }
            expected = Some(index + 1);
            shared.measure(index, value.len() as u64);
            failure.is_none()
        })?;
        if let Some(failure) = failure {
            return Err(failure);
        }
        (shared.last, shared.flushed) = (last, last.map_or(0, |id| id.index()));
        Ok(LogStore { group, storage: storage.clone(), shared: Arc::new(Mutex::new(shared)) })
    }

    /// The vote as it is on disk; a replica that has one is restarting and must keep the quarantine.
    pub fn vote(&self) -> Option<Vote> {
        self.shared.lock().vote
    }

    /// The last vote that is saved or being saved: nobody has counted a later one.
    pub fn voted(&self) -> Option<Vote> {
        self.shared.lock().voted
    }

    /// The last entry's id.
    pub fn last(&self) -> Option<LogId> {
        self.shared.lock().last
    }

    /// Bytes found in the log when it was opened, and appended since.
    pub fn appended_bytes(&self) -> u64 {
        self.shared.lock().appended_bytes
    }

    /// The index at which so many bytes of the log begin that end with the entry at `index`: to a [`MILE`], and not before the
    /// log does.
    pub fn begin_of(&self, bytes: u64, index: u64) -> u64 {
        let shared = self.shared.lock();
        let before = shared.milestones.partition_point(|(milestone, _)| *milestone <= index);
        let Some((_, end)) = before.checked_sub(1).map(|last| shared.milestones[last]) else { return 0 };
        let first = shared.milestones.partition_point(|(_, at)| end - (*at).min(end) > bytes);
        shared.milestones[first].0
    }

    fn read(&self, from: u64, to: u64) -> Result<Vec<Entry>, StorageError> {
        let (on_disk_to, mut newest) = {
            let shared = self.shared.lock();
            let Some(last) = shared.last else { return Ok(Vec::new()) };
            let to = to.min(last.index() + 1);
            let first_in_tail = shared.tail.front().map_or(u64::MAX, |e| e.log_id.index());
            let start = from.max(first_in_tail);
            let newest: Vec<Entry> = match start < to {
                true => shared
                    .tail
                    .range((start - first_in_tail) as usize..(to - first_in_tail) as usize)
                    .cloned()
                    .collect(),
                false => Vec::new(),
            };
            (to.min(first_in_tail), newest)
        };
        if from >= on_disk_to {
            return Ok(newest);
        }
        let mut entries = Vec::with_capacity((on_disk_to - from).min(4096) as usize + newest.len());
        let mut failure = None;
        self.storage.scan(
            Family::Log,
            &log_key(self.group, from),
            &log_key(self.group, on_disk_to),
            |key, value| {
                let index = u64::from_be_bytes(key[4..].try_into().expect("log keys have twelve bytes"));
                match entry::from_stored(self.group, index, value.to_vec().into()) {
                    Ok(entry) => entries.push(entry),
                    Err(source) => {
                        failure = Some(StorageError::Damaged {
                            group: self.group,
                            place: format!("log entry {index}"),
                            source,
                        })
                    }
                }
                failure.is_none()
            },
        )?;
        if let Some(failure) = failure {
            return Err(failure);
        }
        entries.append(&mut newest);
        Ok(entries)
    }

    /// Shows every entry that is kept, in order. Blocks.
    pub(super) fn visit(&self, mut show: impl FnMut(Entry)) -> Result<(), StorageError> {
        const PIECE: u64 = 256;
        let (first, last) = {
            let shared = self.shared.lock();
            (shared.purged.map_or(0, |id| id.index() + 1), shared.last.map_or(0, |id| id.index() + 1))
        };
        for from in (first..last).step_by(PIECE as usize) {
            self.read(from, last.min(from + PIECE))?.into_iter().for_each(&mut show);
        }
        Ok(())
    }

    fn give(&self, puts: Vec<Kept>, done: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        Ok(self.storage.write(Write { puts, delete_ranges: Vec::new(), must_sync: false, done })?)
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (from, to) = bounds(&range);
        Ok(self.read(from, to)?)
    }

    /// What replication takes at a time is bounded in bytes, so that one frame stays small.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        const MAX_FRAME_BYTES: usize = 1 << 20;
        let mut entries = self.read(start, end)?;
        let mut bytes = 0;
        let fits = entries.iter().take_while(|e| {
            let first = bytes == 0;
            bytes += entry::record_len(e);
            first || bytes <= MAX_FRAME_BYTES
        });
        let n = fits.count();
        entries.truncate(n);
        Ok(entries)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.shared.lock().vote)
    }

    /// What is applied is read a piece at a time: after a restart that is the whole log behind the snapshot.
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        const PIECE: u64 = 64;
        let (from, to) = bounds(&range);
        let log = self.clone();
        futures_util::stream::unfold((from, VecDeque::new()), move |(next, mut read): (u64, VecDeque<Entry>)| {
            let log = log.clone();
            async move {
                if read.is_empty() && next < to {
                    // A long replay must not keep the worker's other groups from their heartbeats.
                    if next > from {
                        tokio::task::yield_now().await;
                    }
                    match log.read(next, to.min(next + PIECE)) {
                        Ok(entries) => read = entries.into(),
                        Err(e) => return Some((Err(e.into()), (to, VecDeque::new()))),
                    }
                }
                let entry = read.pop_front()?;
                let index = entry.log_id.index();
                // Entries may be missing before the first (purged), never between two.
                if index != next && next != from {
                    let hole = io::Error::other(format!("log entry {next} is missing, {index} is there"));
                    return Some((Err(hole), (to, VecDeque::new())));
                }
                Some((Ok(entry), (index + 1, read)))
            }
        })
        .boxed()
    }
}

/// What the store holds of a log whose entries up to `last` were all purged, and of a vote.
pub(super) fn founding_marks(group: GroupId, vote: &Vote, last: &LogId) -> Vec<Kept> {
    vec![own_vote(group, vote), (Family::Meta, meta_key(PURGED, group), sealed(last))]
}

/// The mark of a log of which nothing is kept, as all of it is covered up to `last`, and the range of all its entries: both for one
/// write, in which the range goes first.
pub(super) fn purge_to(group: GroupId, last: &LogId) -> (Kept, Kept) {
    let all = (Family::Log, log_key(group, 0), log_key(GroupId(group.0 + 1), 0));
    ((Family::Meta, meta_key(PURGED, group), sealed(last)), all)
}

/// What the store holds of a vote.
pub(super) fn own_vote(group: GroupId, vote: &Vote) -> Kept {
    (Family::Meta, meta_key(VOTE, group), sealed(vote))
}

/// First index of a range, and the one after its last.
fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(n) => *n,
        Bound::Excluded(n) => n + 1,
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(n) => n + 1,
        Bound::Excluded(n) => *n,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let shared = self.shared.lock();
        Ok(LogState { last_purged_log_id: shared.purged, last_log_id: shared.last })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    /// Always synced: a vote that is forgotten could be given twice.
    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.shared.lock().voted = Some(*vote);
        let puts = vec![(Family::Meta, meta_key(VOTE, self.group), sealed(vote))];
        let write = Write { puts, delete_ranges: Vec::new(), must_sync: true, done: Box::new(|| ()) };
        self.storage.write_and_wait(write).await?;
        self.shared.lock().vote = Some(*vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut puts = Vec::new();
        let (last, truncations) = {
            let mut shared = self.shared.lock();
            for entry in entries {
                let id = entry.log_id;
                if let Some(last) = shared.last {
                    assert_eq!(last.index() + 1, id.index(), "entries are appended without a hole");
                }
                let stored = entry::stored(self.group, &entry);
                shared.measure(id.index(), stored.len() as u64);
                puts.push((Family::Log, log_key(self.group, id.index()), stored));
                shared.tail_bytes += entry::record_len(&entry);
                shared.tail.push_back(entry);
                shared.last = Some(id);
            }
            shared.evict();
            shared.check();
            (shared.last.map_or(0, |id| id.index()), shared.truncations)
        };
        let shared = self.shared.clone();
        let done = move || {
            {
                let mut shared = shared.lock();
                if shared.truncations == truncations {
                    shared.flushed = shared.flushed.max(last);
                }
            }
            callback.io_completed(Ok(()));
        };
        if planted::is(Bug::AcknowledgeBeforeSync) {
            done();
            return self.give(puts, Box::new(|| ()));
        }
        self.give(puts, Box::new(done))
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let after = last_log_id.map_or(0, |id| id.index() + 1);
        {
            let mut shared = self.shared.lock();
            while shared.tail.back().is_some_and(|e| e.log_id.index() >= after) {
                let gone = shared.tail.pop_back().expect("it was just looked at");
                shared.tail_bytes -= entry::record_len(&gone);
            }
            while shared.milestones.back().is_some_and(|(index, _)| *index >= after) {
                shared.milestones.pop_back();
            }
            // Asked to keep more than there is, it keeps what there is.
            shared.last = shared.last.min(last_log_id);
            shared.flushed = shared.flushed.min(after.saturating_sub(1));
            shared.truncations += 1;
            shared.check();
        }
        let range = (Family::Log, log_key(self.group, after), log_key(GroupId(self.group.0 + 1), 0));
        let write = Write { puts: Vec::new(), delete_ranges: vec![range], must_sync: false, done: Box::new(|| ()) };
        self.storage.write_and_wait(write).await?;
        // Whatever was written before the truncation is on its way to disk in order, so what remains is flushed too.
        let mut shared = self.shared.lock();
        let kept = last_log_id.min(shared.last).map_or(0, |id| id.index());
        shared.flushed = shared.flushed.max(kept);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let upto = log_id.index();
        {
            let mut shared = self.shared.lock();
            while shared.tail.front().is_some_and(|e| e.log_id.index() <= upto) {
                let gone = shared.tail.pop_front().expect("it was just looked at");
                shared.tail_bytes -= entry::record_len(&gone);
            }
            while shared.milestones.get(1).is_some_and(|(index, _)| *index <= upto + 1) {
                shared.milestones.pop_front();
            }
            shared.purged = Some(log_id);
            if shared.last.is_none_or(|last| last.index() <= upto) {
                shared.last = Some(log_id);
                shared.flushed = upto;
            }
        }
        // The entries and the mark go in one batch: a crash leaves both or neither.
        let from = log_key(self.group, 0);
        let to = log_key(self.group, upto + 1);
        let write = Write {
            puts: vec![(Family::Meta, meta_key(PURGED, self.group), sealed(&log_id))],
            delete_ranges: vec![(Family::Log, from.clone(), to.clone())],
            // Whole files are dropped below, and that is durable at once: the mark must not come later.
            must_sync: true,
            done: Box::new(|| ()),
        };
        self.storage.write_and_wait(write).await?;
        // The end is one that belongs to the range: the first entry that is kept must not go with its file.
        Ok(self.storage.drop_files(Family::Log, from, log_key(self.group, upto)).await?)
    }
}
