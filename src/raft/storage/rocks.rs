//! The store on disk: one RocksDB and one writer thread a node.
//!
//! Group commit: the writer takes everything that waits, from every group, writes it as one batch, syncs once and then
//! runs the callbacks. A failed write or sync is fatal: the kernel may have dropped the pages, so nothing that is asked again
//! can be trusted. The process says so and ends; the other replicas have the data.

use super::remover::{Caught, Remover};
use super::torn;
use super::{Disk, EXIT_DISK, Family, Options_, Pair, StorageError, Sync, TableWriter, Write};
use crate::env::{self, files::WriteBehind};
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBRecoveryMode, Options, SstFileWriter, WriteBatch,
    WriteOptions,
};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, mpsc};
use std::time::Duration;

/// A directory beside the data, on the same file system, for files on their way into the store and out of it.
const STAGING: &str = "staging";
/// What a memtable takes from the allocator at a time.
const ARENA_BLOCK: usize = 512 << 10;
/// Groups of writes that the writer may take at once.
const MAX_GATHERED: usize = 4096;
/// Bytes after which the writer stops gathering.
const MAX_GATHERED_BYTES: usize = 32 << 20;

/// Bytes of a table file after which RocksDB has them written: see `env::files`.
const TABLE_BYTES_PER_SYNC: u64 = 1 << 20;

/// Bytes of the log that lie in tables as they were flushed before RocksDB merges them. A merge writes all of the log anew that
/// is kept, and most of it is purged before it is ever read: a few tables at a time, merging was a sixth of the CPU of a
/// cluster that does nothing but write.
const LOG_UNMERGED_BYTES: usize = 512 << 20;
/// The same in tables: whoever reads a piece of the log looks into all of them.
const LOG_UNMERGED_TABLES: std::ops::RangeInclusive<usize> = 4..=32;

/// Table files are compressed by chunk, not by RocksDB; its writer borrows its options for as long as it lives.
static SST_OPTIONS: LazyLock<Options> = LazyLock::new(|| {
    let mut options = Options::default();
    options.set_compression_type(rocksdb::DBCompressionType::None);
    // A chunk is longer and so goes to the file at once, instead of through a buffer.
    options.set_writable_file_max_buffer_size(64 << 10);
    options
});

impl Family {
    fn name(self) -> &'static str {
        match self {
            Family::Log => "log",
            Family::Meta => "meta",
            Family::Snap => "snap",
        }
    }
}

/// RocksDB and its writer.
pub(super) struct Rocks {
    db: Arc<DB>,
    tx: mpsc::Sender<Write>,
    dir: PathBuf,
    remover: Remover,
    syncs: Arc<AtomicU64>,
    /// Declared last: the writer ends when its last sender is gone, and then it is waited for.
    _writer: WriterThread,
}

impl Rocks {
    /// Opens or creates the store in `dir` and starts its writer thread.
    pub fn open(dir: &Path, options: &Options_) -> Result<Rocks, StorageError> {
        let mut base = Options::default();
        base.create_if_missing(true);
        base.create_missing_column_families(true);
        // A log that ends too early is what a power cut leaves and is taken as it is; one with a hole is what it leaves
        // too (see `torn`); anything else is refused. kPointInTime would silently drop acknowledged records, kAbsolute
        // does not survive a plain kill.
        base.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        base.set_recycle_log_file_num(0);
        base.set_track_and_verify_wals_in_manifest(true);
        base.set_paranoid_checks(true);
        base.set_max_background_jobs(options.compaction_threads.max(1));
        base.set_keep_log_file_num(3);
        base.set_max_total_wal_size(4 * options.memtable_bytes as u64);
        base.set_db_write_buffer_size(2 * options.memtable_bytes);
        base.set_max_open_files(256);
        base.set_bytes_per_sync(TABLE_BYTES_PER_SYNC);
        let mut family = Options::default();
        family.set_write_buffer_size(options.memtable_bytes);
        // By default an eighth of the write buffer, at once and for each family: an idle node should stay small.
        family.set_arena_block_size(ARENA_BLOCK);
        family.set_compression_type(rocksdb::DBCompressionType::None);
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&Cache::new_lru_cache(8 << 20));
        family.set_block_based_table_factory(&table);
        let mut log = family.clone();
        let (fewest, most) = LOG_UNMERGED_TABLES.into_inner();
        let unmerged = (LOG_UNMERGED_BYTES / options.memtable_bytes.max(1)).clamp(fewest, most) as i32;
        log.set_level_zero_file_num_compaction_trigger(unmerged);
        // So many bytes of them are reason enough, too.
        log.set_max_bytes_for_level_base(LOG_UNMERGED_BYTES as u64);
        log.set_level_zero_slowdown_writes_trigger(2 * unmerged);
        log.set_level_zero_stop_writes_trigger(3 * unmerged);
        let open = || {
            let families = [(Family::Log, &log), (Family::Meta, &family), (Family::Snap, &family)];
            let families = families.map(|(f, options)| ColumnFamilyDescriptor::new(f.name(), options.clone()));
            DB::open_cf_descriptors(&base, dir, families)
        };
        refuse_wrong_headers(dir)?;
        let opened = match open() {
            Err(e) if e.kind() == rocksdb::ErrorKind::Corruption && cut_torn_tail(dir)? => open(),
            opened => opened,
        };
        let db = opened.map_err(|source| StorageError::Open { path: dir.to_owned(), source })?;
        let db = Arc::new(db);
        let staging = dir.join(STAGING);
        let made = emptied(&staging).and_then(|()| Remover::start(staging.join("dropped")));
        let remover = made.map_err(|e| StorageError::Io(staging, e))?;
        let (tx, rx) = mpsc::channel();
        let syncs = Arc::new(AtomicU64::new(0));
        let writer = Writer { db: db.clone(), rx, options: options.clone(), syncs: syncs.clone() };
        let thread = env::spawn_thread("log-writer", move || writer.run());
        Ok(Rocks { db, tx, dir: dir.to_owned(), remover, syncs, _writer: WriterThread(Some(thread)) })
    }

    fn handle(&self, family: Family) -> &rocksdb::ColumnFamily {
        self.db.cf_handle(family.name()).expect("the family was opened")
    }

    /// Table files of a family whose keys are all in a range, `to` included.
    fn files_within(&self, family: Family, from: &[u8], to: &[u8]) -> Result<Vec<PathBuf>, StorageError> {
        let mut files = self.db.live_files()?;
        files.retain(|file| {
            let (first, last) = (file.start_key.as_deref(), file.end_key.as_deref());
            file.column_family_name == family.name()
                && first.is_some_and(|first| first >= from)
                && last.is_some_and(|last| last <= to)
        });
        Ok(files.iter().map(|file| self.dir.join(file.name.trim_start_matches('/'))).collect())
    }
}

/// Makes a directory, or takes away the files that a process that ended left in it.
fn emptied(dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// RocksDB would take a record of a wrong length for one that was torn, and believe a wrong kind.
fn refuse_wrong_headers(dir: &Path) -> Result<(), StorageError> {
    let found = torn::wrong_header(dir).map_err(|e| StorageError::Io(dir.to_owned(), e))?;
    let Some(torn::WrongHeader { file, at, what }) = found else { return Ok(()) };
    let text = format!(
        "the record at byte {at} is damaged: its {what} is not what was written. It is not repaired by guessing: restore the file, \
         or empty the directory and replace the node"
    );
    Err(StorageError::Io(file, std::io::Error::new(std::io::ErrorKind::InvalidData, text)))
}

/// Whether the log or the manifest had a tail to cut off.
fn cut_torn_tail(dir: &Path) -> Result<bool, StorageError> {
    let cuts = torn::cut(dir).map_err(|e| StorageError::Io(dir.to_owned(), e))?;
    for torn::Cut { file, kept, dropped } in &cuts {
        let file = file.display();
        tracing::warn!(%file, kept, dropped, "log-tail-cut: bytes of the log were never written, as a power cut leaves it; what was never synced was cut off");
    }
    Ok(!cuts.is_empty())
}

impl Disk for Rocks {
    fn write(&self, write: Write) -> Result<(), StorageError> {
        self.tx.send(write).map_err(|_| StorageError::Stopped)
    }

    fn block_on(&self, mut write: Write) -> Result<(), StorageError> {
        let (tx, rx) = mpsc::channel();
        write.done = Box::new(move || {
            let _ = tx.send(());
        });
        self.write(write)?;
        rx.recv().map_err(|_| StorageError::Stopped)
    }

    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        let mut read = rocksdb::ReadOptions::default();
        // A chunk of a snapshot is read once, and would push everything else out.
        read.fill_cache(family != Family::Snap);
        Ok(self.db.get_cf_opt(self.handle(family), key, &read)?)
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
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

    fn last(&self, family: Family, from: &[u8], to: &[u8]) -> Result<Option<Pair>, StorageError> {
        let mut it = self.db.raw_iterator_cf(self.handle(family));
        it.seek_for_prev(to);
        // `to` itself is excluded; keys are fixed-length, so stepping once is enough.
        if it.key() == Some(to) {
            it.prev();
        }
        it.status()?;
        Ok(it.item().filter(|(k, _)| *k >= from).map(|(k, v)| (k.to_vec(), v.to_vec())))
    }

    fn table(&self, family: Family, name: &str) -> Result<Box<dyn TableWriter>, StorageError> {
        let file = self.dir.join(STAGING).join(format!("{name}.sst"));
        let sst = SstFileWriter::create(&SST_OPTIONS);
        sst.open(&file)?;
        let behind = WriteBehind::of(&file).map_err(|e| StorageError::Io(file.clone(), e))?;
        Ok(Box::new(Table { db: self.db.clone(), family, sst, file, behind }))
    }

    fn drop_files(&self, family: Family, from: &[u8], to: &[u8]) -> Result<(), StorageError> {
        let doomed = self.files_within(family, from, to)?;
        let caught: Vec<Caught> = doomed.iter().filter_map(|file| self.remover.catch(file)).collect();
        let dropped = self.db.delete_file_in_range_cf(self.handle(family), from, to);
        caught.into_iter().for_each(|file| self.remover.remove(file));
        Ok(dropped?)
    }

    fn memory_bytes(&self) -> u64 {
        let names =
            ["rocksdb.cur-size-all-mem-tables", "rocksdb.estimate-table-readers-mem", "rocksdb.block-cache-usage"];
        [Family::Log, Family::Meta, Family::Snap]
            .iter()
            .flat_map(|f| names.iter().map(|n| self.db.property_int_value_cf(self.handle(*f), *n)))
            .filter_map(|v| v.ok().flatten())
            .sum()
    }

    fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }
}

/// A table file that is written aside.
struct Table {
    db: Arc<DB>,
    family: Family,
    sst: SstFileWriter<'static>,
    file: PathBuf,
    behind: WriteBehind,
}

impl TableWriter for Table {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        self.sst.put(key, value)?;
        self.behind.wrote(value.len()).map_err(|e| StorageError::Io(self.file.clone(), e))
    }

    fn finish(mut self: Box<Self>) -> Result<(), StorageError> {
        self.sst.finish()?;
        let mut options = rocksdb::IngestExternalFileOptions::default();
        options.set_move_files(true);
        let family = self.db.cf_handle(self.family.name()).expect("the family was opened");
        Ok(self.db.ingest_external_file_cf_opts(family, &options, vec![&self.file])?)
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // After `finish` the file was moved; before, it is of no use to anybody.
        let _ = std::fs::remove_file(&self.file);
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

#[cfg(test)]
mod tests {
    use super::super::{Options_, Sync};
    use super::*;

    fn table_of(store: &Rocks, name: &str, first: u8) {
        let mut table = store.table(Family::Snap, name).unwrap();
        for last in 0..6 {
            table.put(&[first, last], &vec![last; 1 << 20]).unwrap();
        }
        table.finish().unwrap();
    }

    /// Waits until nothing is left to remove.
    fn removed(dir: &Path) {
        let began = env::now();
        while std::fs::read_dir(dir.join(STAGING).join("dropped")).unwrap().count() > 0 {
            assert!(began.elapsed() < Duration::from_secs(30), "dropped files are removed");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_dropped_file_goes_for_good_and_one_that_is_being_read_keeps_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let store = Rocks::open(dir.path(), &Options_ { sync: Sync::No, ..Options_::default() }).unwrap();
        table_of(&store, "one", 1);
        table_of(&store, "two", 2);
        let one = store.files_within(Family::Snap, &[1, 0], &[1, 9]).unwrap();
        let two = store.files_within(Family::Snap, &[2, 0], &[2, 9]).unwrap();
        assert_eq!((one.len(), two.len()), (1, 1), "a file for each table");

        let mut reading = store.db.raw_iterator_cf(store.handle(Family::Snap));
        store.drop_files(Family::Snap, &[1, 0], &[1, 9]).unwrap();
        removed(dir.path());
        reading.seek([1]);
        for last in 0..6 {
            assert!(
                reading.item() == Some((&[1, last][..], &vec![last; 1 << 20][..])),
                "whoever reads it has all of it"
            );
            reading.next();
        }
        reading.status().unwrap();
        drop(reading);
        assert!(store.get(Family::Snap, &[1, 0]).unwrap().is_none());

        store.drop_files(Family::Snap, &[2, 0], &[2, 9]).unwrap();
        removed(dir.path());
        assert!(!one[0].exists() && !two[0].exists());
        assert!(store.get(Family::Snap, &[2, 0]).unwrap().is_none());
    }

    #[test]
    fn what_an_end_of_the_process_left_aside_is_gone_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options_ { sync: Sync::No, ..Options_::default() };
        drop(Rocks::open(dir.path(), &options).unwrap());
        let left = [dir.path().join(STAGING).join("half.sst"), dir.path().join(STAGING).join("dropped").join("7.sst")];
        left.iter().for_each(|file| std::fs::write(file, b"half of a table").unwrap());
        let _store = Rocks::open(dir.path(), &options).unwrap();
        assert!(left.iter().all(|file| !file.exists()));
    }
}
