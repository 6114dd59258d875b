//! The snapshot file: the state of one group or of all of them, as `hypercachectl snapshot save` writes it.
//!
//! ```text
//! file     magic "HCSNAP\r\n" | version u32 | salt u64 | frame*
//! frame    kind u8 | length u32 | payload | checksum u64
//! kinds    1 opening (JSON)   2 head of a group (JSON)   3 chunk of the group before it   4 end
//! order    opening, then for each group that the opening names: its head and its chunks, then the end
//! end      xxh3-128 of every byte of the file before the end's frame
//! ```
//!
//! Little-endian. A frame's checksum is XXH3-64 of kind, length and payload, seeded with salt + the frame's place in the
//! file, so a frame from elsewhere fails as a changed one does. What a chunk holds is not known here.
//!
//! Invariants: a file under its own name is whole and synced, because it is written aside and renamed; what a
//! [`Reader`] gives was verified, and it says that the file is over only if its last checksum holds.

use crate::env::files::WriteBehind;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

const MAGIC: [u8; 8] = *b"HCSNAP\r\n";
/// The version written, and the newest that is read.
pub const VERSION: u32 = 1;
/// Magic, version and salt.
const START_BYTES: u64 = 20;
/// Kind and length.
const FRAME_HEAD_BYTES: usize = 5;
const SUM_BYTES: usize = 8;
/// The largest payload: a chunk of 16 MiB that did not become smaller.
const PAYLOAD_MAX_BYTES: usize = 32 << 20;
/// What is buffered: room for heads and sums, so that a chunk, which is longer, goes between its place and the file itself.
const BUFFER_BYTES: usize = 16 << 10;

const OPENING: u8 = 1;
const HEAD: u8 = 2;
const CHUNK: u8 = 3;
const END: u8 = 4;

/// What a file says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// The cluster whose state it is.
    pub cluster: String,
    /// Unix time.
    pub created_ms: u64,
    /// Version of the program that wrote it.
    pub program: String,
    /// Whether every group of the cluster is in it, the meta group included.
    pub whole: bool,
    /// The groups in it, in their order.
    pub groups: Vec<u32>,
}

/// What it says of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub group: u32,
    /// Log index and term of the last entry in the state.
    pub index: u64,
    pub term: u64,
    /// The group's clock.
    pub clock_ms: u64,
    pub keys: u64,
    pub chunks: u32,
    /// Uncompressed.
    pub bytes: u64,
}

/// Why a snapshot file cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is not a snapshot file of HyperCache: it does not begin as one", .0.display())]
    Foreign(PathBuf),
    #[error("{} has version {found} of the snapshot file, this program knows up to {VERSION}", path.display())]
    Newer { path: PathBuf, found: u32 },
    #[error("{} is damaged at byte {at}: {what}", path.display())]
    Damaged { path: PathBuf, at: u64, what: String },
}

/// Writes a file aside; it gets its name when it is whole.
pub struct Writer {
    path: PathBuf,
    aside: PathBuf,
    file: BufWriter<File>,
    behind: WriteBehind,
    whole: Xxh3,
    salt: u64,
    at: u64,
    renamed: bool,
}

impl Writer {
    /// Begins a file. `salt` should be another one for each file.
    pub fn create(path: &Path, opening: &Opening, salt: u64) -> Result<Writer, ArchiveError> {
        let mut aside = path.as_os_str().to_owned();
        aside.push(".part");
        let aside = PathBuf::from(aside);
        let made = File::create(&aside).and_then(|file| Ok((file, WriteBehind::of(&aside)?)));
        let (file, behind) = made.map_err(|source| ArchiveError::Io { path: aside.clone(), source })?;
        let (path, file, whole) = (path.to_owned(), BufWriter::with_capacity(BUFFER_BYTES, file), Xxh3::new());
        let mut writer = Writer { path, aside, file, behind, whole, salt, at: 0, renamed: false };
        writer.put(&MAGIC)?;
        writer.put(&VERSION.to_le_bytes())?;
        writer.put(&salt.to_le_bytes())?;
        writer.json(OPENING, opening)?;
        Ok(writer)
    }

    /// Begins a group.
    pub fn head(&mut self, head: &Head) -> Result<(), ArchiveError> {
        self.json(HEAD, head)
    }

    /// Adds the next chunk of the group.
    pub fn chunk(&mut self, chunk: &[u8]) -> Result<(), ArchiveError> {
        self.frame(CHUNK, chunk)
    }

    /// Ends the file, syncs it and gives it its name, in place of one that had it before. Gives its size in bytes.
    pub fn finish(mut self) -> Result<u64, ArchiveError> {
        let whole = self.whole.digest128();
        self.frame(END, &whole.to_le_bytes())?;
        let place = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let named = self.file.flush().and_then(|()| {
            self.file.get_ref().sync_all()?;
            fs::rename(&self.aside, &self.path)?;
            self.renamed = true;
            File::open(place)?.sync_all()
        });
        named.map_err(|source| ArchiveError::Io { path: self.path.clone(), source })?;
        Ok(self.at)
    }

    fn json<T: Serialize>(&mut self, kind: u8, value: &T) -> Result<(), ArchiveError> {
        self.frame(kind, &serde_json::to_vec(value).expect("heads are plain data"))
    }

    fn frame(&mut self, kind: u8, payload: &[u8]) -> Result<(), ArchiveError> {
        assert!(payload.len() <= PAYLOAD_MAX_BYTES, "chunks are far smaller");
        let head = frame_head(kind, payload.len());
        let sum = frame_sum(self.salt, self.at, &head, payload);
        self.put(&head)?;
        self.put(payload)?;
        self.put(&sum.to_le_bytes())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), ArchiveError> {
        self.whole.update(bytes);
        self.at += bytes.len() as u64;
        let written = self.file.write_all(bytes).and_then(|()| self.behind.wrote(bytes.len()));
        written.map_err(|source| ArchiveError::Io { path: self.aside.clone(), source })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.renamed {
            // Half a file is of no use, and on a full disk its room is.
            let _ = fs::remove_file(&self.aside);
        }
    }
}

fn frame_head(kind: u8, length: usize) -> [u8; FRAME_HEAD_BYTES] {
    let mut head = [kind; FRAME_HEAD_BYTES];
    head[1..].copy_from_slice(&(length as u32).to_le_bytes());
    head
}

fn frame_sum(salt: u64, at: u64, head: &[u8], payload: &[u8]) -> u64 {
    let seed = salt.wrapping_add(at);
    xxh3_64_with_seed(payload, seed ^ xxh3_64_with_seed(head, seed))
}

/// A part of a file, verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    Head(Head),
    /// The next chunk of the group before it, and its number in the group.
    Chunk {
        number: u32,
        bytes: Vec<u8>,
    },
}

/// Reads a file from its beginning to its end.
pub struct Reader {
    path: PathBuf,
    file: BufReader<File>,
    /// None if the whole was verified before.
    whole: Option<Xxh3>,
    salt: u64,
    at: u64,
    size: u64,
    opening: Opening,
    /// Groups whose head was read.
    groups_read: usize,
    /// Chunks of the present group: read, and in all.
    chunks: (u32, u32),
    over: bool,
    ended: Option<u128>,
}

impl Reader {
    /// Opens a file and reads what it says of itself.
    pub fn open(path: &Path) -> Result<Reader, ArchiveError> {
        Reader::begin(path, Some(Xxh3::new()))
    }

    /// The same for a file that was read to its verified end before: each part is verified again, the whole is not.
    pub fn reopen(path: &Path) -> Result<Reader, ArchiveError> {
        Reader::begin(path, None)
    }

    fn begin(path: &Path, whole: Option<Xxh3>) -> Result<Reader, ArchiveError> {
        let io = |source| ArchiveError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        let size = file.metadata().map_err(io)?.len();
        let mut reader = Reader {
            path: path.to_owned(),
            file: BufReader::with_capacity(BUFFER_BYTES, file),
            whole,
            salt: 0,
            at: 0,
            size,
            opening: Opening {
                cluster: String::new(),
                created_ms: 0,
                program: String::new(),
                whole: false,
                groups: vec![],
            },
            groups_read: 0,
            chunks: (0, 0),
            over: false,
            ended: None,
        };
        if size < START_BYTES {
            return Err(ArchiveError::Foreign(path.to_owned()));
        }
        let start = reader.take(START_BYTES as usize)?;
        let found = u32::from_le_bytes([start[8], start[9], start[10], start[11]]);
        if start[..8] != MAGIC || found == 0 {
            return Err(ArchiveError::Foreign(path.to_owned()));
        }
        if found > VERSION {
            return Err(ArchiveError::Newer { path: path.to_owned(), found });
        }
        reader.salt = u64::from_le_bytes(start[12..20].try_into().expect("eight of the twenty bytes"));
        reader.opening = match reader.frame()? {
            (OPENING, at, payload) => reader.json(at, &payload)?,
            (_, at, _) => return Err(reader.damaged(at, "the file's opening should stand here")),
        };
        Ok(reader)
    }

    /// What the file says of itself.
    pub fn opening(&self) -> &Opening {
        &self.opening
    }

    /// Bytes read so far, and in all.
    pub fn progress(&self) -> (u64, u64) {
        (self.at, self.size)
    }

    /// The checksum of the whole file, once it was read to its end and if that was compared.
    pub fn checksum(&self) -> Option<u128> {
        self.ended
    }

    /// The next part; none at the verified end.
    pub fn next_part(&mut self) -> Result<Option<Part>, ArchiveError> {
        if self.over {
            return Ok(None);
        }
        let before = self.whole.as_ref().map(Xxh3::digest128);
        let (kind, at, payload) = self.frame()?;
        let (read, all) = self.chunks;
        let groups = self.opening.groups.len();
        match kind {
            CHUNK if read < all => {
                self.chunks.0 += 1;
                Ok(Some(Part::Chunk { number: read, bytes: payload }))
            }
            HEAD if read == all && self.groups_read < groups => {
                let head: Head = self.json(at, &payload)?;
                if head.group != self.opening.groups[self.groups_read] {
                    return Err(self.damaged(at, format!("group {} stands where another should", head.group)));
                }
                self.groups_read += 1;
                self.chunks = (0, head.chunks);
                Ok(Some(Part::Head(head)))
            }
            END if read == all && self.groups_read == groups => {
                if before.is_some_and(|before| payload != before.to_le_bytes()) {
                    return Err(self.damaged(at, "the checksum of the whole file is wrong"));
                }
                if self.at != self.size {
                    return Err(self.damaged(self.at, "something follows behind the end"));
                }
                (self.ended, self.over) = (before, true);
                Ok(None)
            }
            _ => Err(self.damaged(at, format!("a part of kind {kind} does not belong here"))),
        }
    }

    /// The next frame's kind, place and payload.
    fn frame(&mut self) -> Result<(u8, u64, Vec<u8>), ArchiveError> {
        let at = self.at;
        let head = self.take(FRAME_HEAD_BYTES)?;
        let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if length > PAYLOAD_MAX_BYTES {
            return Err(self.damaged(at, "a part claims to be larger than any"));
        }
        let payload = self.take(length)?;
        let sum = self.take(SUM_BYTES)?;
        match frame_sum(self.salt, at, &head, &payload).to_le_bytes() == sum[..] {
            true => Ok((head[0], at, payload)),
            false => Err(self.damaged(at, "the checksum of the part that begins here is wrong")),
        }
    }

    fn take(&mut self, n: usize) -> Result<Vec<u8>, ArchiveError> {
        if self.size - self.at < n as u64 {
            // Room is made for what is there, not for what is announced.
            return Err(self.damaged(self.size, "the file ends here, but it was longer when it was written"));
        }
        let mut bytes = Vec::with_capacity(n);
        let read = (&mut self.file).take(n as u64).read_to_end(&mut bytes);
        let read = read.and_then(|read| if read == n { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) });
        read.map_err(|source| ArchiveError::Io { path: self.path.clone(), source })?;
        if let Some(whole) = &mut self.whole {
            whole.update(&bytes);
        }
        self.at += n as u64;
        Ok(bytes)
    }

    fn json<T: DeserializeOwned>(&self, at: u64, payload: &[u8]) -> Result<T, ArchiveError> {
        serde_json::from_slice(payload).map_err(|e| self.damaged(at, e.to_string()))
    }

    fn damaged(&self, at: u64, what: impl Into<String>) -> ArchiveError {
        ArchiveError::Damaged { path: self.path.clone(), at, what: what.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(group: u32, chunks: u32) -> Head {
        Head { group, index: 7, term: 2, clock_ms: 9, keys: 3, chunks, bytes: 6 }
    }

    fn write(path: &Path) -> u64 {
        let opening =
            Opening { cluster: "c".into(), created_ms: 5, program: "1".into(), whole: true, groups: vec![0, 1] };
        let mut writer = Writer::create(path, &opening, 77).unwrap();
        writer.head(&head(0, 1)).unwrap();
        writer.chunk(b"meta").unwrap();
        writer.head(&head(1, 2)).unwrap();
        writer.chunk(b"abc").unwrap();
        writer.chunk(b"").unwrap();
        writer.finish().unwrap()
    }

    fn read(path: &Path) -> Result<Vec<Part>, ArchiveError> {
        let mut reader = Reader::open(path)?;
        let mut parts = Vec::new();
        while let Some(part) = reader.next_part()? {
            parts.push(part);
        }
        Ok(parts)
    }

    #[test]
    fn a_file_reads_back_what_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let size = write(&path);
        assert_eq!(size, fs::metadata(&path).unwrap().len());
        let chunk = |number, bytes: &[u8]| Part::Chunk { number, bytes: bytes.to_vec() };
        let expected =
            [Part::Head(head(0, 1)), chunk(0, b"meta"), Part::Head(head(1, 2)), chunk(0, b"abc"), chunk(1, b"")];
        assert_eq!(read(&path).unwrap(), expected);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left aside");
    }

    #[test]
    fn golden_bytes_of_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write(&path);
        let bytes = fs::read(&path).unwrap();
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(&bytes[..25]), "4843534e41500d0a010000004d000000000000000148000000");
        let opening = r#"{"cluster":"c","created_ms":5,"program":"1","whole":true,"groups":[0,1]}"#;
        assert_eq!(&bytes[25..25 + opening.len()], opening.as_bytes());
        let (before, end) = bytes.split_at(bytes.len() - 29);
        assert_eq!(hex(&end[..5]), "0410000000");
        assert_eq!(end[5..21], xxhash_rust::xxh3::xxh3_128(before).to_le_bytes());
        let seed = 77 + before.len() as u64;
        let sum = xxh3_64_with_seed(&end[5..21], seed ^ xxh3_64_with_seed(&end[..5], seed));
        assert_eq!(end[21..], sum.to_le_bytes());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write(&path);
        let good = fs::read(&path).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &bad).unwrap();
            let refused = read(&path).expect_err("a bit is wrong");
            if let ArchiveError::Damaged { at, .. } = refused {
                assert!(at <= (bit / 8).max(20) as u64 || at == good.len() as u64, "bit {bit}: {at}");
            }
        }
        for length in 0..good.len() {
            fs::write(&path, &good[..length]).unwrap();
            match read(&path).expect_err("the end is missing") {
                ArchiveError::Damaged { at, .. } => assert_eq!(at, length as u64),
                ArchiveError::Foreign(_) => assert!(length < 20, "{length}"),
                other => panic!("{length}: {other}"),
            }
        }
        fs::write(&path, [&good[..], b"x"].concat()).unwrap();
        assert!(read(&path).is_err(), "something follows behind the end");
    }

    #[test]
    fn a_frame_of_another_file_does_not_fit() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        let opening =
            Opening { cluster: "c".into(), created_ms: 5, program: "1".into(), whole: false, groups: vec![1] };
        for (path, salt, chunk) in [(&one, 1, b"mine"), (&other, 2, b"your")] {
            let mut writer = Writer::create(path, &opening, salt).unwrap();
            writer.head(&head(1, 1)).unwrap();
            writer.chunk(chunk).unwrap();
            writer.finish().unwrap();
        }
        let (mut mixed, foreign) = (fs::read(&one).unwrap(), fs::read(&other).unwrap());
        let at = mixed.windows(4).position(|w| w == b"mine").unwrap();
        mixed[at - 5..at + 12].copy_from_slice(&foreign[at - 5..at + 12]);
        fs::write(&one, mixed).unwrap();
        let refused = read(&one).unwrap_err();
        assert!(matches!(refused, ArchiveError::Damaged { at: place, .. } if place == at as u64 - 5), "{refused}");
    }

    #[test]
    fn a_newer_version_is_named_and_what_is_given_up_is_not_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write(&path);
        let mut bytes = fs::read(&path).unwrap();
        bytes[8] = 9;
        fs::write(&path, bytes).unwrap();
        assert!(matches!(Reader::open(&path), Err(ArchiveError::Newer { found: 9, .. })));
        fs::write(&path, "something else entirely").unwrap();
        assert!(matches!(Reader::open(&path), Err(ArchiveError::Foreign(_))));
        let opening =
            Opening { cluster: "c".into(), created_ms: 5, program: "1".into(), whole: false, groups: vec![1] };
        drop(Writer::create(&path, &opening, 1).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
