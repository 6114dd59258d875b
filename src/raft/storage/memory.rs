//! A store in memory that outlives its node, and forgets on a crash what was not synced: what simulations and the
//! conformance suite run on beside RocksDB.
//!
//! ```text
//!          stable            unsynced                queue
//!   ---------------------|------------------|----------------------->  given
//!   [     found after any crash     ]  [ none, some or all of it ]
//!   [           what is read now            ]
//! ```
//!
//! A batch is found whole or not at all, as RocksDB's log does it: a torn record at its end is cut off. What was not synced is
//! found up to some batch, never beyond a gap.
//!
//! The writer is a task of the node, so it dies with it. It takes what waits, spends the time that a disk needs, then
//! publishes the batch and runs the callbacks.
//!
//! A disk may be told to refuse a write, or to have room for so many bytes only, or to turn a bit of what it holds. Where a write
//! fails, RocksDB's writer ends the process; here nothing more is written or told, and whoever runs the node ends it.

use super::{Disk, Family, OF_GROUPS, Options_, Pair, Storage, StorageError, Sync, TableWriter, Write};
use crate::env;
use crate::types::GroupId;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

/// A disk. Clones are the same one.
#[derive(Clone, Default)]
pub struct Platter(Arc<Mutex<State>>);

type Families = [BTreeMap<Bytes, Bytes>; 3];

#[derive(Default)]
struct State {
    /// Found after any crash.
    stable: Families,
    /// What is read: stable, and what was written since.
    current: Families,
    /// Written, not synced.
    unsynced: Vec<Changes>,
    /// Taken by the writer, which waits for the disk.
    under_way: Vec<Write>,
    queue: VecDeque<Write>,
    /// A writer runs.
    writing: bool,
    /// Rises with every crash: a writer of before must do nothing any more.
    life: u64,
    /// How long the disk takes for a sync, at least and at most.
    pace: (Duration, Duration),
    syncs: u64,
    /// The next write fails.
    failing: bool,
    /// Bytes that it still takes, if that is bounded.
    room: Option<u64>,
    /// A write failed, and nothing has been written since.
    failed: bool,
}

/// A bit that was turned: enough to turn it back.
#[derive(Clone)]
pub struct Flipped {
    family: Family,
    key: Bytes,
    was: Bytes,
    is: Bytes,
}

impl Flipped {
    /// Which record it is in.
    pub fn place(&self) -> String {
        let family = ["log", "meta", "snap"][self.family as usize];
        let key: String = self.key.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{family} {key}")
    }
}

/// What one write does to the families.
struct Changes {
    puts: Vec<(Family, Bytes, Bytes)>,
    delete_ranges: Vec<(Family, Bytes, Bytes)>,
}

impl Changes {
    fn run(&self, on: &mut Families) {
        for (family, from, to) in &self.delete_ranges {
            let there = &mut on[*family as usize];
            let gone: Vec<Bytes> = there.range::<[u8], _>(range(from, to)).map(|(key, _)| key.clone()).collect();
            gone.iter().for_each(|key| drop(there.remove(key)));
        }
        for (family, key, value) in &self.puts {
            on[*family as usize].insert(key.clone(), value.clone());
        }
    }
}

fn range<'a>(from: &'a [u8], to: &'a [u8]) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
    // An empty range has its ends in either order, which a map refuses.
    (Bound::Included(from), Bound::Excluded(to.max(from)))
}

impl Platter {
    /// How long a sync takes from now on: something between the two.
    pub fn set_pace(&self, shortest: Duration, longest: Duration) {
        self.0.lock().pace = (shortest, longest);
    }

    /// The node lost its power, or the machine did: of what was not synced, what lies before `kept` (drawn from the number
    /// of batches that might be there) is found again. Returns how many batches were lost.
    pub fn crash(&self, kept: impl FnOnce(usize) -> usize) -> usize {
        let mut state = self.0.lock();
        let state = &mut *state;
        let given = state.under_way.drain(..).chain(state.queue.drain(..));
        let given = given.map(|Write { puts, delete_ranges, .. }| Changes { puts, delete_ranges });
        let maybe: Vec<Changes> = state.unsynced.drain(..).chain(given).collect();
        let kept = kept(maybe.len()).min(maybe.len());
        maybe[..kept].iter().for_each(|changes| changes.run(&mut state.stable));
        state.current = state.stable.clone();
        state.writing = false;
        state.failed = false;
        state.life += 1;
        maybe.len() - kept
    }

    /// The next write fails, as with EIO.
    pub fn fail(&self) {
        self.0.lock().failing = true;
    }

    /// From now on it has room for so many bytes more; a write that does not fit fails, as with ENOSPC.
    pub fn set_room(&self, bytes: u64) {
        self.0.lock().room = Some(bytes);
    }

    /// Bytes that it still takes, if that is bounded.
    pub fn room(&self) -> Option<u64> {
        self.0.lock().room
    }

    /// It takes writes again, from a node that is started anew if one failed.
    pub fn mend(&self) {
        let mut state = self.0.lock();
        (state.failing, state.room) = (false, None);
    }

    /// Whether a write has failed, so that the node must end.
    pub fn failed(&self) -> bool {
        self.0.lock().failed
    }

    /// Turns a bit of one of the records; none if there are none. `dice` choose.
    pub fn flip(&self, dice: [u64; 2]) -> Option<Flipped> {
        let mut state = self.0.lock();
        // The families in turn: records of the log are many, votes and snapshots few.
        let families = [Family::Log, Family::Meta, Family::Snap];
        let family = families.into_iter().cycle().skip((dice[0] % 3) as usize).take(3);
        let family = family.into_iter().find(|family| !state.current[*family as usize].is_empty())?;
        let records = &state.current[family as usize];
        let (key, was) = records.iter().nth((dice[0] / 3 % records.len() as u64) as usize)?;
        let (key, was) = (key.clone(), was.clone());
        let mut bytes = was.to_vec();
        let bit = dice[1] as usize % (bytes.len().max(1) * 8);
        *bytes.get_mut(bit / 8)? ^= 1 << (bit % 8);
        let flipped = Flipped { family, key, was, is: bytes.into() };
        state.exchange(&flipped.key, family, &flipped.was, &flipped.is);
        Some(flipped)
    }

    /// Turns it back, where it still is.
    pub fn unflip(&self, flipped: &Flipped) {
        self.0.lock().exchange(&flipped.key, flipped.family, &flipped.is, &flipped.was);
    }

    /// The groups of which anything lies on it but the mark of one that was dropped.
    pub fn groups(&self) -> BTreeSet<GroupId> {
        let state = self.0.lock();
        let [log, meta, snap] = &state.current;
        let of_groups = meta.keys().filter(|key| OF_GROUPS.contains(&key[0])).map(|key| &key[1..]);
        let named = log.keys().chain(snap.keys()).map(|key| &key[..]).chain(of_groups);
        let number = |key: &[u8]| key.first_chunk().map(|number| GroupId(u32::from_be_bytes(*number)));
        named.filter_map(number).collect()
    }

    /// Opens the store on it.
    pub fn open(&self, options: &Options_) -> Storage {
        let memory = Memory { state: self.0.clone(), sync: options.sync };
        Storage { disk: Arc::new(memory), snapshot_codec: options.snapshot_codec }
    }

    /// How many syncs it has made.
    pub fn syncs(&self) -> u64 {
        self.0.lock().syncs
    }
}

impl State {
    fn exchange(&mut self, key: &Bytes, family: Family, from: &Bytes, to: &Bytes) {
        let unsynced = self.unsynced.iter_mut().flat_map(|changes| &mut changes.puts);
        // What waits to be written is not on the disk yet; what was written lies in up to three places here.
        for (_, _, value) in unsynced.filter(|(f, k, v)| *f == family && k == key && v == from) {
            *value = to.clone();
        }
        for families in [&mut self.stable, &mut self.current] {
            if let Some(value) = families[family as usize].get_mut(key).filter(|value| *value == from) {
                *value = to.clone();
            }
        }
    }

    /// Whether what is under way can be written. If not, nothing more will be.
    fn takes(&mut self) -> bool {
        let record = |(_, key, value): &(Family, Bytes, Bytes)| (key.len() + value.len()) as u64;
        let bytes: u64 = self.under_way.iter().flat_map(|write| &write.puts).map(record).sum();
        let fits = match &mut self.room {
            None => true,
            Some(room) => room.checked_sub(bytes).inspect(|left| *room = *left).is_some(),
        };
        self.failed |= self.failing || !fits;
        !self.failed
    }

    /// Moves what waits to the disk. The callbacks are the caller's to run, without the lock.
    fn take(&mut self) -> bool {
        self.under_way.extend(self.queue.drain(..));
        !self.under_way.is_empty()
    }

    /// Publishes what is under way, synced or not.
    fn publish(&mut self, sync: Sync) -> Vec<Box<dyn FnOnce() + Send>> {
        let synced = sync == Sync::Always || self.under_way.iter().any(|w| w.must_sync);
        let mut callbacks = Vec::new();
        for Write { puts, delete_ranges, done, .. } in self.under_way.drain(..) {
            let changes = Changes { puts, delete_ranges };
            changes.run(&mut self.current);
            self.unsynced.push(changes);
            callbacks.push(done);
        }
        if synced {
            self.sync();
        }
        callbacks
    }

    fn sync(&mut self) {
        for changes in self.unsynced.drain(..) {
            changes.run(&mut self.stable);
        }
        self.syncs += 1;
    }
}

struct Memory {
    state: Arc<Mutex<State>>,
    sync: Sync,
}

impl Memory {
    async fn run(state: Arc<Mutex<State>>, sync: Sync, life: u64) {
        loop {
            let time = {
                let mut state = state.lock();
                if state.life != life {
                    return;
                }
                if !state.take() {
                    state.writing = false;
                    return;
                }
                let (shortest, longest) = state.pace;
                let nanos = fastrand::Rng::with_seed(env::seed()).u64(0..=(longest - shortest).as_nanos() as u64);
                shortest + Duration::from_nanos(nanos)
            };
            env::sleep(time).await;
            let callbacks = {
                let mut state = state.lock();
                if state.life != life || !state.takes() {
                    return;
                }
                state.publish(sync)
            };
            callbacks.into_iter().for_each(|done| done());
        }
    }
}

impl Disk for Memory {
    fn write(&self, write: Write) -> Result<(), StorageError> {
        let mut state = self.state.lock();
        state.queue.push_back(write);
        if !std::mem::replace(&mut state.writing, true) {
            tokio::spawn(Memory::run(self.state.clone(), self.sync, state.life));
        }
        Ok(())
    }

    fn block_on(&self, write: Write) -> Result<(), StorageError> {
        let callbacks = {
            let mut state = self.state.lock();
            state.queue.push_back(write);
            state.take();
            if !state.takes() {
                return Err(StorageError::Stopped);
            }
            state.publish(self.sync)
        };
        callbacks.into_iter().for_each(|done| done());
        Ok(())
    }

    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        Ok(self.state.lock().current[family as usize].get(key).map(|value| value.to_vec()))
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StorageError> {
        let state = self.state.lock();
        for (key, value) in state.current[family as usize].range::<[u8], _>(range(from, to)) {
            if !visit(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn last(&self, family: Family, from: &[u8], to: &[u8]) -> Result<Option<Pair>, StorageError> {
        let state = self.state.lock();
        let last = state.current[family as usize].range::<[u8], _>(range(from, to)).next_back();
        Ok(last.map(|(key, value)| (key.to_vec(), value.to_vec())))
    }

    fn table(&self, family: Family, _name: &str) -> Result<Box<dyn TableWriter>, StorageError> {
        Ok(Box::new(Table { state: self.state.clone(), family, pairs: Vec::new() }))
    }

    /// At once and for good, whatever is synced: as files are that are dropped.
    fn drop_files(&self, family: Family, from: &[u8], to: &[u8]) -> Result<(), StorageError> {
        let mut state = self.state.lock();
        let mut to_and_itself = to.to_vec();
        to_and_itself.push(0);
        let gone = Changes {
            puts: Vec::new(),
            delete_ranges: vec![(family, Bytes::copy_from_slice(from), to_and_itself.into())],
        };
        let state = &mut *state;
        gone.run(&mut state.stable);
        gone.run(&mut state.current);
        Ok(())
    }

    fn memory_bytes(&self) -> u64 {
        0
    }

    fn syncs(&self) -> u64 {
        self.state.lock().syncs
    }
}

/// A table on its way: nothing of it is found before it is finished.
struct Table {
    state: Arc<Mutex<State>>,
    family: Family,
    pairs: Vec<(Bytes, Bytes)>,
}

impl TableWriter for Table {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        self.pairs.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), StorageError> {
        let mut state = self.state.lock();
        let bytes = self.pairs.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum();
        if state.failing || state.room.is_some_and(|room| room < bytes) {
            return Err(StorageError::Io("a table".into(), std::io::Error::other("the disk does not take it")));
        }
        state.room = state.room.map(|room| room - bytes);
        for (key, value) in self.pairs {
            state.stable[self.family as usize].insert(key.clone(), value.clone());
            state.current[self.family as usize].insert(key, value);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Family, meta_key};
    use super::*;

    fn put(n: u32, must_sync: bool) -> Write {
        let puts = vec![(Family::Meta, meta_key(b't', GroupId(n)), Bytes::from_static(b"x"))];
        Write { puts, delete_ranges: Vec::new(), must_sync, done: Box::new(|| ()) }
    }

    /// Something of every kind of three groups, whose keys stand next to each other.
    fn fill(storage: &Storage) {
        let mut puts = Vec::new();
        for group in (8..=10).map(GroupId) {
            puts.extend(b"fpsv".iter().map(|kind| (Family::Meta, meta_key(*kind, group))));
            puts.extend([0, 7, u64::MAX].map(|index| (Family::Log, super::super::log_key(group, index))));
            let chunk = [&group.0.to_be_bytes()[..], &[0xff; 12]].concat();
            puts.push((Family::Snap, Bytes::from(chunk)));
        }
        let puts = puts.into_iter().map(|(family, key)| (family, key, Bytes::from_static(b"x"))).collect();
        storage.write_and_block(puts).unwrap();
    }

    /// How many records there are of each of those.
    fn kept(storage: &Storage) -> [usize; 3] {
        [8, 9, 10].map(|group| {
            let there = |kind: &&u8| storage.get(Family::Meta, &meta_key(**kind, GroupId(group))).unwrap().is_some();
            let mut kept = b"fpsv".iter().filter(there).count();
            for family in [Family::Log, Family::Snap] {
                let [from, to] = [group, group + 1].map(u32::to_be_bytes);
                let count = |_: &[u8], _: &[u8]| {
                    kept += 1;
                    true
                };
                storage.scan(family, &from, &to, count).unwrap();
            }
            kept
        })
    }

    /// On both kinds of disks: they differ in how ranges are deleted.
    #[tokio::test]
    async fn a_group_that_was_dropped_leaves_its_mark_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let platter = Platter::default();
        for storage in [platter.open(&Options_::default()), Storage::open(dir.path(), &Options_::default()).unwrap()] {
            fill(&storage);
            assert_eq!(kept(&storage), [8; 3]);
            let (eight, nine, ten) = (GroupId(8), GroupId(9), GroupId(10));
            assert_eq!(storage.groups().unwrap(), [eight, nine, ten]);
            storage.mark_dropped(nine).unwrap();
            assert_eq!(
                (storage.groups().unwrap(), kept(&storage)),
                (vec![eight, ten], [8; 3]),
                "whatever is left of it"
            );
            storage.delete_dropped(nine).unwrap();
            storage.delete_dropped(nine).unwrap();
            assert_eq!((storage.groups().unwrap(), kept(&storage)), (vec![eight, ten], [8, 0, 8]));
            assert_eq!(storage.dropped().unwrap(), [nine].into());
        }
        assert_eq!(platter.groups(), [GroupId(8), GroupId(10)].into());
    }

    #[tokio::test]
    async fn the_mark_of_a_dropped_group_is_on_the_disk_before_anything_of_it_goes() {
        let platter = Platter::default();
        let options = Options_ { sync: Sync::No, ..Options_::default() };
        let storage = platter.open(&options);
        fill(&storage);
        storage.mark_dropped(GroupId(9)).unwrap();
        // The power goes before anything is deleted.
        platter.crash(|_| 0);
        let storage = platter.open(&options);
        assert_eq!((storage.dropped().unwrap(), kept(&storage)), ([GroupId(9)].into(), [8; 3]));
        storage.delete_dropped(GroupId(9)).unwrap();
        platter.crash(|_| 0);
        let storage = platter.open(&options);
        assert_eq!((storage.dropped().unwrap(), kept(&storage)), ([GroupId(9)].into(), [8, 0, 8]));
    }

    /// Seed 3002: the first entry of a group waited for the disk when its node dropped it, and nothing else was there yet.
    #[tokio::test]
    async fn what_waits_for_the_writer_when_a_group_is_dropped_goes_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let platter = Platter::default();
        for storage in [platter.open(&Options_::default()), Storage::open(dir.path(), &Options_::default()).unwrap()] {
            storage.mark_dropped(GroupId(9)).unwrap();
            let puts = vec![(Family::Log, super::super::log_key(GroupId(9), 0), Bytes::from_static(b"x"))];
            storage.write(Write { puts, delete_ranges: Vec::new(), must_sync: false, done: Box::new(|| ()) }).unwrap();
            storage.delete_dropped(GroupId(9)).unwrap();
            storage.settle().unwrap();
            assert_eq!(kept(&storage), [0; 3]);
        }
    }

    fn found(storage: &Storage) -> Vec<u32> {
        let is_there = |n: &u32| storage.get(Family::Meta, &meta_key(b't', GroupId(*n))).unwrap().is_some();
        (0..10).filter(is_there).collect()
    }

    #[tokio::test]
    async fn a_crash_takes_what_was_not_synced_from_some_batch_on_and_nothing_else() {
        for kept in 0..=3 {
            let platter = Platter::default();
            let options = Options_ { sync: Sync::No, ..Options_::default() };
            let storage = platter.open(&options);
            storage.write_and_wait(put(0, true)).await.unwrap();
            storage.write_and_wait(put(1, false)).await.unwrap();
            storage.write_and_wait(put(2, false)).await.unwrap();
            storage.write(put(3, false)).unwrap();
            assert_eq!(found(&storage), [0, 1, 2], "what the writer has not taken yet is not read");
            assert_eq!(platter.crash(|_| kept), 3 - kept);
            let expected: Vec<u32> = (0..=kept as u32).collect();
            assert_eq!(found(&platter.open(&options)), expected);
        }
    }

    #[tokio::test]
    async fn after_a_write_that_failed_nothing_is_written_or_told_until_the_node_starts_anew() {
        for full in [false, true] {
            let platter = Platter::default();
            let storage = platter.open(&Options_::default());
            storage.write_and_wait(put(1, false)).await.unwrap();
            match full {
                true => platter.set_room(5),
                false => platter.fail(),
            }
            let (told, hears) = tokio::sync::oneshot::channel::<()>();
            let done = Box::new(move || _ = told.send(()));
            storage.write(Write { done, ..put(2, false) }).unwrap();
            let failed = async {
                while !platter.failed() {
                    env::sleep(Duration::from_millis(1)).await;
                }
            };
            env::timeout(Duration::from_secs(30), failed).await.expect("the write fails");
            platter.mend();
            storage.write(put(3, false)).unwrap();
            env::sleep(Duration::from_millis(5)).await;
            platter.crash(|_| 0);
            assert!(hears.await.is_err(), "what failed is not acknowledged");
            let storage = platter.open(&Options_::default());
            storage.write_and_wait(put(4, false)).await.unwrap();
            assert_eq!(found(&storage), [1, 4]);
        }
    }

    #[tokio::test]
    async fn a_bit_is_turned_where_it_lies_and_turned_back() {
        let platter = Platter::default();
        let storage = platter.open(&Options_::default());
        assert!(platter.flip([1, 9]).is_none(), "there is nothing");
        storage.write_and_wait(put(1, false)).await.unwrap();
        let read = |storage: &Storage| storage.get(Family::Meta, &meta_key(b't', GroupId(1))).unwrap().unwrap();
        let flipped = platter.flip([1, 9]).unwrap();
        assert_eq!(read(&storage), [b'x' ^ 2]);
        platter.crash(|_| 0);
        assert_eq!(read(&platter.open(&Options_::default())), [b'x' ^ 2]);
        platter.unflip(&flipped);
        assert_eq!(read(&platter.open(&Options_::default())), *b"x");
    }

    #[tokio::test]
    async fn a_writer_of_before_the_crash_writes_nothing_behind_it() {
        let platter = Platter::default();
        let storage = platter.open(&Options_::default());
        storage.write(put(1, false)).unwrap();
        // It has taken the write and waits for the disk.
        tokio::task::yield_now().await;
        platter.crash(|_| 0);
        let storage = platter.open(&Options_::default());
        storage.write_and_wait(put(2, false)).await.unwrap();
        assert_eq!(found(&storage), [2]);
        assert_eq!(platter.crash(|_| 0), 0, "under `always` nothing is left to lose");
        assert_eq!(found(&platter.open(&Options_::default())), [2]);
    }
}
