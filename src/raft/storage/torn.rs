//! A write-ahead log or a manifest whose end a power cut left unwritten: the size of the file was on the disk before its bytes were.
//!
//! RocksDB tolerates a log that ends too early, and takes a record with a hole for damage, as it must: it cannot tell a
//! block that was never written from one that went bad. The file system can. These files are written from front to back without
//! holes, and a sync that succeeded leaves none; so a hole lies in what was never synced, and nothing that lies behind it
//! was synced either. Nobody was told that any of that is stored, and it may go.
//!
//! A block that was never written need not be a hole: power cuts on ext4 left logs that end in a block of zeros. (Why is supposed and
//! not shown: ext4 may fill blocks beside one that it writes rather than remember which were written.) So a damaged record of which whole sectors are zeros, up to the end of the file, counts as
//! never written as well. Sectors of zeros that have other bytes behind them do not: these may be what somebody wrote. Neither do they
//! where the record is whole once a single bit is turned back: then it was written, and had these zeros.
//!
//! A record that says to be longer than the file is looks torn as well, and RocksDB leaves it and all behind it out without a
//! word, in the log and in its manifest. But one whose checksum is right once a bit of its length is turned back was whole, and its
//! bytes may have been acknowledged: such a file is refused. So is one with a record of a kind that only files have which are used
//! again, as these never are: RocksDB believes it before it looks at the checksum. It was seen to read a manifest for ever; by its
//! source it would leave a log out without a word whose first record is so.
//!
//! Invariant: only a record that is damaged by such a hole is a reason to cut. Bytes that are there and wrong stay, and RocksDB
//! refuses them; what lies before is whole.

use crate::env;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// RocksDB's log format: blocks, in which physical records follow one another; what does not fit a header is padding.
const BLOCK: u64 = 32 << 10;
/// Checksum u32, length u16, kind u8.
const HEADER: u64 = 7;
/// Kinds of the physical records that begin a logical one and go on with it, where it does not fit into the rest of a block.
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
/// The kinds that RocksDB writes into files that were logs before.
const OF_USED_FILES: [u8; 6] = [5, 6, 7, 8, 11, 131];
/// What a disk writes at once, or not at all.
const SECTOR: u64 = 512;

/// What was cut off.
#[derive(Debug)]
pub struct Cut {
    pub file: PathBuf,
    /// The size of the file now, bytes.
    pub kept: u64,
    pub dropped: u64,
}

/// Cuts the manifest and the newest log of `dir` off where the first damaged record begins, if that was never written as a
/// whole. Files without such a record are as they were.
pub fn cut(dir: &Path) -> io::Result<Vec<Cut>> {
    let mut cuts = Vec::new();
    for file in manifest(dir)?.into_iter().chain(newest_log(dir)?) {
        let log = OpenOptions::new().read(true).write(true).open(&file)?;
        let size = log.metadata()?.len();
        let Some(kept) = torn_record(&log, size)? else { continue };
        log.set_len(kept)?;
        log.sync_all()?;
        cuts.push(Cut { file, kept, dropped: size - kept });
    }
    Ok(cuts)
}

/// A record whose header is not what was written.
#[derive(Debug, PartialEq, Eq)]
pub struct WrongHeader {
    pub file: PathBuf,
    /// Where the record begins.
    pub at: u64,
    /// What of it is wrong.
    pub what: &'static str,
}

/// Looks in the manifest and the logs of `dir` for a header that RocksDB would believe although it is damaged.
pub fn wrong_header(dir: &Path) -> io::Result<Option<WrongHeader>> {
    let Some(manifest) = manifest(dir)? else { return Ok(None) };
    for file in [manifest].into_iter().chain(logs(dir)?.into_iter().map(|(_, path)| path)) {
        let log = File::open(&file)?;
        let size = log.metadata()?.len();
        if let Some((at, what)) = record_of_wrong_header(&log, size)? {
            return Ok(Some(WrongHeader { file, at, what }));
        }
    }
    Ok(None)
}

/// The header of a physical record.
struct Header {
    /// Where it begins.
    at: u64,
    sum: u32,
    /// Bytes that the record has behind it, as it says.
    length: u16,
    kind: u8,
    /// Bytes that its block has behind it.
    room: u64,
}

impl Header {
    /// Where the record's own bytes begin, and where they end.
    fn begins(&self) -> u64 {
        self.at + HEADER
    }

    fn ends(&self) -> u64 {
        self.begins() + u64::from(self.length)
    }

    /// Whether the block and a file of this size have so many bytes.
    fn fits(&self, size: u64) -> bool {
        self.ends() <= size && u64::from(self.length) <= self.room
    }
}

/// The next header behind `at`, where the reader stands; then it stands behind the header. None: the file ends before.
fn next_header(reader: &mut BufReader<&File>, at: u64, size: u64) -> io::Result<Option<Header>> {
    let left = BLOCK - at % BLOCK;
    let padding = if left < HEADER { left } else { 0 };
    reader.seek_relative(padding as i64)?;
    let at = at + padding;
    if at + HEADER > size {
        return Ok(None);
    }
    let mut header = [0; HEADER as usize];
    reader.read_exact(&mut header)?;
    let [sum @ .., low, high, kind] = header;
    let (sum, length) = (u32::from_le_bytes(sum), u16::from_le_bytes([low, high]));
    Ok(Some(Header { at, sum, length, kind, room: BLOCK - at % BLOCK - HEADER }))
}

/// Where the first record begins that says to end behind the end of the file, if it would be whole with a length that
/// differs in one bit; or that is of a kind which is never written. By the headers alone: RocksDB looks at the rest.
fn record_of_wrong_header(log: &File, size: u64) -> io::Result<Option<(u64, &'static str)>> {
    let mut reader = BufReader::with_capacity(BLOCK as usize, log);
    let mut at = 0;
    while let Some(header) = next_header(&mut reader, at, size)? {
        if OF_USED_FILES.contains(&header.kind) {
            return Ok(Some((header.at, "kind")));
        }
        if header.fits(size) {
            reader.seek_relative(i64::from(header.length))?;
            at = header.ends();
            continue;
        }
        let mut body = vec![header.kind];
        reader.take(header.room.min(size - header.begins())).read_to_end(&mut body)?;
        return Ok(has_turned_length(&header, &body).then_some((header.at, "length")));
    }
    Ok(None)
}

/// The manifest in use. None: there is no store yet, or RocksDB says what is wrong.
fn manifest(dir: &Path) -> io::Result<Option<PathBuf>> {
    match std::fs::read_to_string(dir.join("CURRENT")) {
        Ok(name) => Ok(Some(dir.join(name.trim_end())).filter(|path| path.is_file())),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The log with the highest number that has bytes.
fn newest_log(dir: &Path) -> io::Result<Option<PathBuf>> {
    Ok(logs(dir)?.into_iter().max().map(|(_, path)| path))
}

/// The logs that have bytes, with their numbers.
fn logs(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut logs = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        let is_log = path.extension().is_some_and(|e| e == "log");
        let number: Option<u64> = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
        if let (true, Some(number)) = (is_log && entry.metadata()?.len() > 0, number) {
            logs.push((number, path));
        }
    }
    Ok(logs)
}

/// Where the first logical record begins of which a part is damaged and was never written. None: there is none, or the first
/// damage was written. A hole in a record whose checksum is right is data: a copy of the file may have made it from zeros.
fn torn_record(mut log: &File, size: u64) -> io::Result<Option<u64>> {
    log.rewind()?;
    let mut reader = BufReader::with_capacity(BLOCK as usize, log);
    let mut at = 0;
    // Where the logical record began of which parts are still to come.
    let mut unfinished = None;
    let mut body = Vec::new();
    while let Some(header) = next_header(&mut reader, at, size)? {
        let begins = unfinished.unwrap_or(header.at);
        body.clear();
        body.push(header.kind);
        if header.fits(size) {
            reader.by_ref().take(u64::from(header.length)).read_to_end(&mut body)?;
        }
        if body.len() != 1 + usize::from(header.length) || masked(crc32c(&body)) != header.sum {
            let ends = header.ends().min(size);
            let is_hole = env::files::next_hole(log, header.at)? < ends;
            let unwritten =
                is_hole || zeros_to_the_end(log, header.at, size)? < ends && !has_turned_bit(log, &header, size)?;
            return Ok(unwritten.then_some(begins));
        }
        unfinished = matches!(header.kind, FIRST | MIDDLE).then_some(begins);
        at = header.ends();
    }
    Ok(None)
}

/// The first sector from which on, and not before `at`, nothing but zeros lies to the end of the file; the end if there is none.
fn zeros_to_the_end(mut log: &File, at: u64, size: u64) -> io::Result<u64> {
    log.seek(SeekFrom::Start(at))?;
    let (mut reader, mut here, mut zeros) = (BufReader::with_capacity(BLOCK as usize, log), at, at);
    loop {
        let bytes = reader.fill_buf()?;
        if bytes.is_empty() {
            return Ok(zeros.next_multiple_of(SECTOR).min(size));
        }
        if let Some(last) = bytes.iter().rposition(|byte| *byte != 0) {
            zeros = here + last as u64 + 1;
        }
        let read = bytes.len();
        here += read as u64;
        reader.consume(read);
    }
}

/// Whether the record would be whole with a length that differs in one bit. `body`: its kind and all that its block has behind it.
fn has_turned_length(header: &Header, body: &[u8]) -> bool {
    (0..u16::BITS).any(|bit| {
        let length = usize::from(header.length ^ (1 << bit));
        body.get(..1 + length).is_some_and(|body| masked(crc32c(body)) == header.sum)
    })
}

/// Whether the record would be whole if one bit of it were another.
fn has_turned_bit(mut log: &File, header: &Header, size: u64) -> io::Result<bool> {
    let mut body = vec![header.kind];
    log.seek(SeekFrom::Start(header.begins()))?;
    log.take(header.room.min(size - header.begins())).read_to_end(&mut body)?;
    let of_length = has_turned_length(header, &body);
    body.truncate(1 + usize::from(header.length));
    let sum = crc32c(&body);
    // What a bit does to the sum depends on how many bits are behind it, and on nothing else.
    let difference = sum ^ unmasked(header.sum);
    let mut effects = std::iter::successors(Some(POLYNOMIAL), |effect| Some(step(*effect))).take(8 * body.len());
    let of_body = effects.any(|effect| effect == difference);
    Ok(of_length || of_body || (masked(sum) ^ header.sum).is_power_of_two())
}

/// CRC-32C, bit by bit: a log is read once, after a power cut.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

const POLYNOMIAL: u32 = 0x82f6_3b78;

/// The sum with one more bit behind it, which is 0.
fn step(crc: u32) -> u32 {
    (crc >> 1) ^ (POLYNOMIAL & 0u32.wrapping_sub(crc & 1))
}

/// As RocksDB stores it, so that a checksum of bytes with checksums in them is none of theirs.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(MASK)
}

const MASK: u32 = 0xa282_ead8;

fn unmasked(sum: u32) -> u32 {
    sum.wrapping_sub(MASK).rotate_left(15)
}

#[cfg(test)]
mod tests {
    use super::super::{Family, Options_, Storage, Write};
    use super::*;
    use bytes::Bytes;
    use std::os::unix::fs::FileExt;

    /// Records of several of the log's blocks each, so that a hole can lie in the middle of one.
    const VALUE_BYTES: usize = 100_000;
    /// What a file system hands out at a time, at most.
    const PAGE: u64 = 4096;

    fn value(number: u8) -> Vec<u8> {
        (0..VALUE_BYTES).map(|at| number.wrapping_mul(31).wrapping_add((at % 251) as u8) | 1).collect()
    }

    fn key(number: u8) -> Bytes {
        Bytes::from(vec![number])
    }

    /// A store of so many synced records, closed; and how long its log was behind each of them.
    fn written(dir: &Path, count: u8) -> Vec<u64> {
        let storage = Storage::open(dir, &Options_::default()).expect("it is new");
        let mut ends = Vec::new();
        for number in 0..count {
            let puts = vec![(Family::Log, key(number), Bytes::from(value(number)))];
            let write = Write { puts, delete_ranges: Vec::new(), must_sync: true, done: Box::new(|| ()) };
            storage.disk.block_on(write).expect("it is written");
            let log = newest_log(dir).expect("the folder is there").expect("there is a log");
            ends.push(std::fs::metadata(log).expect("it is there").len());
        }
        ends
    }

    fn found(dir: &Path, count: u8) -> Result<Vec<u8>, String> {
        let storage = Storage::open(dir, &Options_::default()).map_err(|e| e.to_string())?;
        let get = |number: &u8| storage.disk.get(Family::Log, &[*number]).expect("it can be read");
        let there = (0..count).filter(|number| get(number).is_some_and(|found| found == value(*number)));
        Ok(there.collect())
    }

    fn log(dir: &Path) -> File {
        let path = newest_log(dir).expect("the folder is there").expect("there is a log");
        OpenOptions::new().read(true).write(true).open(path).expect("it can be opened")
    }

    #[test]
    fn a_record_with_a_hole_goes_and_all_behind_it() {
        // The hole lies in the last record, or in one that has others behind it: in its first bytes, its middle, its end.
        for (record, from_start) in [(3, 0), (3, 50_000), (3, VALUE_BYTES as u64), (1, 40_000)] {
            let dir = tempfile::tempdir().expect("a temporary directory can be made");
            let ends = written(dir.path(), 4);
            let begins = ends[record - 1];
            let at = ((begins + from_start) / PAGE).max(begins.div_ceil(PAGE)) * PAGE;
            env::files::punch_hole(&log(dir.path()), at, PAGE).expect("the file system can");
            let there: Vec<u8> = (0..record as u8).collect();
            assert_eq!(found(dir.path(), 4), Ok(there.clone()), "{record}, {from_start}");
            // What was cut off does not come back, and the store goes on.
            assert_eq!(found(dir.path(), 4), Ok(there));
        }
    }

    /// As a power cut left it when the block had been filled with zeros: the node did not start any more.
    #[test]
    fn a_record_that_ends_in_sectors_of_zeros_goes() {
        for from_end in [1, PAGE, VALUE_BYTES as u64 - PAGE] {
            let dir = tempfile::tempdir().expect("a temporary directory can be made");
            let ends = written(dir.path(), 4);
            let from = (ends[3] - from_end) / SECTOR * SECTOR;
            let zeros = vec![0; (ends[3] - from) as usize];
            log(dir.path()).write_all_at(&zeros, from).expect("it is written");
            assert_eq!(found(dir.path(), 4), Ok(vec![0, 1, 2]), "{from_end}");
            assert_eq!(found(dir.path(), 4), Ok(vec![0, 1, 2]), "{from_end}: the store goes on");
        }
    }

    #[test]
    fn a_manifest_whose_end_was_never_written_is_cut_off_there() {
        for hole in [true, false] {
            let dir = tempfile::tempdir().expect("a temporary directory can be made");
            written(dir.path(), 2);
            let path = manifest(dir.path()).expect("it can be read").expect("it is there");
            let file = OpenOptions::new().read(true).write(true).open(&path).expect("it can be opened");
            // The header of a record that goes on into the next page, of which nothing was written.
            let size = file.metadata().expect("it is there").len();
            let page = size.next_multiple_of(PAGE);
            let header = [1, 2, 3, 4, 0, 0x40, 1];
            file.write_all_at(&header, size).expect("it is written");
            file.write_all_at(&vec![7; (page - size) as usize - header.len()], size + 7).expect("it is written");
            match hole {
                true => file.set_len(size + 7 + 0x4000).expect("it can be longer"),
                false => file.write_all_at(&vec![0; (size + 7 + 0x4000 - page) as usize], page).expect("it is written"),
            }
            assert_eq!(found(dir.path(), 2), Ok(vec![0, 1]), "{hole}");
        }
    }

    #[test]
    fn bytes_that_are_there_and_wrong_are_refused() {
        // Also where there is a hole behind the first damage.
        for (wrong, hole) in [(vec![0; PAGE as usize], false), (vec![0xff; 1], false), (vec![0xff; 1], true)] {
            let dir = tempfile::tempdir().expect("a temporary directory can be made");
            let ends = written(dir.path(), 4);
            // Zeros that somebody wrote are not a hole.
            log(dir.path()).write_all_at(&wrong, ends[1] + 2 * PAGE).expect("it is written");
            if hole {
                let at = (ends[2] + 50_000) / PAGE * PAGE;
                env::files::punch_hole(&log(dir.path()), at, PAGE).expect("the file system can");
            }
            let error = found(dir.path(), 4).expect_err("acknowledged bytes are damaged");
            assert!(error.contains("Corruption"), "{error}");
        }
        // A few zeros at the end are not a sector of them.
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let end = *written(dir.path(), 4).last().expect("some were written");
        let few = 3.min(end % SECTOR);
        log(dir.path()).write_all_at(&vec![0; few as usize], end - few).expect("it is written");
        assert!(few > 0 && found(dir.path(), 4).is_err(), "acknowledged bytes are damaged");
    }

    /// RocksDB opened such a store without a word, and without what it held.
    #[test]
    fn a_record_whose_length_is_damaged_is_refused_and_a_torn_one_is_not() {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let ends = written(dir.path(), 4);
        // The part of the last record that begins with the last block is its last.
        let (file, begins) = (log(dir.path()), ends[3] / BLOCK * BLOCK);
        let mut high = [0];
        file.read_exact_at(&mut high, begins + 5).expect("it is there");
        file.write_all_at(&[high[0] ^ 0x40], begins + 5).expect("it is written");
        let error = found(dir.path(), 4).expect_err("what was acknowledged would be gone");
        assert!(error.contains(".log") && error.contains(&format!("byte {begins}")), "{error}");
        file.write_all_at(&high, begins + 5).expect("it is written");
        file.set_len(ends[3] - 1).expect("it can be cut");
        assert_eq!(found(dir.path(), 4), Ok(vec![0, 1, 2]), "it was never synced");
    }

    /// RocksDB read a manifest with such a kind for ever.
    #[test]
    fn a_kind_of_files_that_are_used_again_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        written(dir.path(), 2);
        let manifest = manifest(dir.path()).expect("it can be read").expect("it is there");
        let newest = newest_log(dir.path()).expect("the folder is there").expect("there is a log");
        for path in [manifest, newest] {
            let file = OpenOptions::new().read(true).write(true).open(&path).expect("it can be opened");
            let (mut reader, size) = (BufReader::new(&file), file.metadata().expect("it is there").len());
            let mut headers = Vec::new();
            let mut at = 0;
            while let Some(header) = next_header(&mut reader, at, size).expect("it can be read") {
                reader.seek_relative(i64::from(header.length)).expect("it is there");
                at = header.ends();
                headers.push((header.at, header.kind));
            }
            for (begins, kind) in headers {
                let turned = (0..u8::BITS).map(|bit| kind ^ 1 << bit).find(|kind| OF_USED_FILES.contains(kind));
                file.write_all_at(&[turned.expect("each is a bit from one of these")], begins + 6)
                    .expect("it is written");
                let error = found(dir.path(), 2).expect_err("what was acknowledged would be gone");
                let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
                assert!(error.contains(name) && error.contains(&format!("byte {begins} ")), "{error}");
                file.write_all_at(&[kind], begins + 6).expect("it is written");
            }
        }
        assert_eq!(found(dir.path(), 2), Ok(vec![0, 1]));
    }

    #[test]
    fn a_manifest_with_a_damaged_length_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        written(dir.path(), 1);
        let current = std::fs::read_to_string(dir.path().join("CURRENT")).expect("it is there");
        let path = dir.path().join(current.trim_end());
        let manifest = OpenOptions::new().read(true).write(true).open(&path).expect("it can be opened");
        let mut high = [0];
        manifest.read_exact_at(&mut high, 5).expect("it is there");
        manifest.write_all_at(&[high[0] ^ 0x40], 5).expect("it is written");
        let error = found(dir.path(), 1).expect_err("what was acknowledged would be gone");
        assert!(error.contains("MANIFEST") && error.contains("byte 0"), "{error}");
    }

    #[test]
    fn zeros_that_were_written_are_refused_when_a_bit_of_their_record_turned() {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let storage = Storage::open(dir.path(), &Options_::default()).expect("it is new");
        let puts = vec![(Family::Log, key(0), Bytes::from(vec![0; 5000]))];
        let write = Write { puts, delete_ranges: Vec::new(), must_sync: true, done: Box::new(|| ()) };
        storage.disk.block_on(write).expect("it is written");
        drop(storage);
        let file = log(dir.path());
        let size = file.metadata().expect("it is there").len();
        // In the checksum, the length, the kind, the first bytes, the zeros, the last byte.
        for (at, bit) in [(0, 3), (3, 7), (4, 0), (5, 4), (6, 1), (8, 2), (3000, 5), (size - 1, 0)] {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).expect("it is there");
            file.write_all_at(&[byte[0] ^ 1 << bit], at).expect("it is written");
            assert_eq!(torn_record(&file, size).expect("it can be read"), None, "bit {bit} of byte {at}");
            let error = found(dir.path(), 1).expect_err("acknowledged bytes are damaged");
            assert!(error.contains("Corruption") || error.contains("damaged"), "bit {bit} of byte {at}: {error}");
            file.write_all_at(&byte, at).expect("it is written");
        }
        file.write_all_at(&[1; 2], 3000).expect("it is written");
        assert_eq!(torn_record(&file, size).expect("it can be read"), Some(0), "two bytes are more than a bit");
    }

    #[test]
    fn a_hole_that_stands_for_zeros_is_data() {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let storage = Storage::open(dir.path(), &Options_::default()).expect("it is new");
        let puts = vec![(Family::Log, key(0), Bytes::from(vec![0; VALUE_BYTES]))];
        let write = Write { puts, delete_ranges: Vec::new(), must_sync: true, done: Box::new(|| ()) };
        storage.disk.block_on(write).expect("it is written");
        drop(storage);
        let file = log(dir.path());
        env::files::punch_hole(&file, 4 * PAGE, PAGE).expect("the file system can");
        let size = file.metadata().expect("it is there").len();
        assert_eq!(torn_record(&file, size).expect("it can be read"), None);
    }

    #[test]
    fn checksums_are_those_of_the_standard() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
