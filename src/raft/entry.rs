//! What an entry holds, and its bytes in the log and on the wire.
//!
//! The log holds the canonical argument vectors of commands, so a new command does not change the format. The price:
//! what a write command *means* is part of it, so a batch carries a version and golden bytes guard it.
//!
//! ```text
//! batch    version u8 = 1 | now_ms u64 | seed u64 | sweeps u16 { slot u16, first u32, last u32 }* | front
//!          | calls u32 { args u32 { len u32, bytes }* }*
//! front    told u8 | if told & 1: limit { bytes u64, policy u8, samples u8 } | if told & 2: packing { u64 }*8
//!          | if told & 4: authored | evictions u16 { version u64, len u32, key }*
//! authored count u32 { first u32, calls u32, process u64, client u64 }*
//! record   kind u8 (0 blank, 1 batch, 2 membership) | term u64 | payload
//! stored   record | xxh3-64 of (group u32, index u64, record)
//! ```
//!
//! Who is named as an author does not want to be told of its own changes (CLIENT TRACKING NOLOOP). It is for what apply
//! tells the doors, never for what it does: nothing of it is in the state.
//!
//! The highest bit of a batch's version is its *mark*: every replica takes the hash of its state right behind it
//! ([`super::verify`]).
//!
//! All integers are little-endian. A batch is encoded once, by the proposer; log, transport and apply share its bytes.

use super::{Entry, LogId, Membership, log_id};
use crate::resp::Args;
use crate::state::HashRange;
use crate::state::eviction::{Kind, Limit};
use crate::state::{PACKING_NUMBERS, Packing};
use crate::types::{Author, GroupId, Slot, Stamp};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::EntryPayload;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use std::fmt;
use std::ops::Range;

/// Version of the batch format. A larger one is refused, never guessed at.
pub const BATCH_VERSION: u8 = 1;
/// In the version's byte: the batch is marked.
const MARK: u8 = 0x80;

/// Bytes of a range to sweep.
const SWEEP_BYTES: usize = 10;

/// Calls in a row, counted from the first of where they stand, and who sent them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Authored {
    pub first: u32,
    pub calls: u32,
    pub by: Author,
}

/// Bytes of an [`Authored`].
const AUTHORED_BYTES: usize = 24;

impl Authored {
    /// Who sent the call in this place, as a list in the order of the calls has it.
    pub fn of(list: &[Authored], place: usize) -> Option<Author> {
        let last = list.partition_point(|authored| authored.first as usize <= place).checked_sub(1)?;
        let Authored { first, calls, by } = list[last];
        place.checked_sub(first as usize).is_some_and(|nth| nth < calls as usize).then_some(by)
    }

    /// Adds the call in this place, which comes behind those that are there.
    pub fn add(list: &mut Vec<Authored>, place: usize, by: Author) {
        match list.last_mut() {
            Some(last) if last.by == by && (last.first + last.calls) as usize == place => last.calls += 1,
            _ => list.push(Authored { first: place as u32, calls: 1, by }),
        }
    }
}

/// Appends who sent what.
pub fn put_authored(out: &mut BytesMut, list: &[Authored]) {
    out.put_u32_le(list.len() as u32);
    for Authored { first, calls, by } in list {
        out.put_u32_le(*first);
        out.put_u32_le(*calls);
        out.put_u64_le(by.process);
        out.put_u64_le(by.client);
    }
}

/// Takes what [`put_authored`] appended from the front.
pub fn get_authored(b: &mut Bytes, what: &'static str) -> Result<Vec<Authored>, Malformed> {
    let count = take(b, 4, what)?.get_u32_le() as usize;
    let mut all = take(b, count.saturating_mul(AUTHORED_BYTES), what)?;
    let authored = |_| Authored {
        first: all.get_u32_le(),
        calls: all.get_u32_le(),
        by: Author { process: all.get_u64_le(), client: all.get_u64_le() },
    };
    Ok((0..count).map(authored).collect())
}

/// What an entry does about memory and the form of values, before its commands, and who sent some of these.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Front {
    /// What the group may hold from now on.
    pub limit: Option<Limit>,
    /// When values stop being packed from now on.
    pub packing: Option<Packing>,
    /// Who sent which of the commands, in their order.
    pub authored: Vec<Authored>,
    /// Keys that go, each if its version is still this.
    pub evictions: Vec<(Bytes, u64)>,
}

/// In the first byte of a front: there is a limit.
const LIMIT: u8 = 1;
/// The same: it is told when values stop being packed.
const PACKING: u8 = 2;
/// The same: some of the commands' authors are named.
const AUTHORED: u8 = 4;
const PACKING_BYTES: usize = 8 * PACKING_NUMBERS;

/// Keys that one entry evicts, at most.
pub const MAX_EVICTIONS: usize = 4096;

impl Front {
    fn names_authors(&self) -> bool {
        !self.authored.is_empty()
    }

    fn len(&self) -> usize {
        17 + PACKING_BYTES
            + AUTHORED_BYTES * self.authored.len()
            + self.evictions.iter().map(|(key, _)| 12 + key.len()).sum::<usize>()
    }

    fn put(&self, out: &mut BytesMut) {
        let told = [(self.limit.is_some(), LIMIT), (self.packing.is_some(), PACKING), (self.names_authors(), AUTHORED)];
        out.put_u8(told.iter().filter(|(is_told, _)| *is_told).map(|(_, bit)| bit).sum());
        if let Some(limit) = self.limit {
            out.put_u64_le(limit.bytes);
            out.put_u8(limit.policy.number());
            out.put_u8(limit.samples);
        }
        for number in self.packing.iter().flat_map(Packing::numbers) {
            out.put_u64_le(number);
        }
        if self.names_authors() {
            put_authored(out, &self.authored);
        }
        out.put_u16_le(u16::try_from(self.evictions.len()).expect("an entry evicts MAX_EVICTIONS at most"));
        for (key, version) in &self.evictions {
            out.put_u64_le(*version);
            out.put_u32_le(key.len() as u32);
            out.put_slice(key);
        }
    }

    fn take(b: &mut Bytes) -> Result<Front, Malformed> {
        let told = take(b, 1, "batch")?.get_u8();
        if told & !(LIMIT | PACKING | AUTHORED) != 0 {
            return Err(Malformed::Wrong("a batch tells of a limit, of packing and of authors at most"));
        }
        let mut limit = None;
        if told & LIMIT != 0 {
            let mut told = take(b, 10, "batch")?;
            let (bytes, policy, samples) = (told.get_u64_le(), told.get_u8(), told.get_u8());
            let policy = Kind::from_number(policy).ok_or(Malformed::Wrong("an eviction policy that is not known"))?;
            limit = Some(Limit { bytes, policy, samples });
        }
        let mut packing = None;
        if told & PACKING != 0 {
            let mut told = take(b, PACKING_BYTES, "batch")?;
            packing = Some(Packing::from_numbers(std::array::from_fn(|_| told.get_u64_le())));
        }
        let mut authored = Vec::new();
        if told & AUTHORED != 0 {
            authored = get_authored(b, "batch")?;
            if authored.is_empty() {
                return Err(Malformed::Wrong("a batch that names authors names one"));
            }
        }
        let count = take(b, 2, "batch")?.get_u16_le() as usize;
        let mut evictions = Vec::with_capacity(count);
        for _ in 0..count {
            let mut head = take(b, 12, "batch")?;
            let (version, len) = (head.get_u64_le(), head.get_u32_le() as usize);
            evictions.push((take(b, len, "batch")?, version));
        }
        Ok(Front { limit, packing, authored, evictions })
    }
}

/// The commands of one log entry, encoded.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch(pub Bytes);

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "batch of {} bytes", self.0.len())
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Bytes that are not what the format says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("{0} ends early")]
    Short(&'static str),
    #[error("{what} has version {found}, this program knows up to {known}")]
    Version { what: &'static str, found: u8, known: u8 },
    #[error("{0}")]
    Wrong(&'static str),
    #[error("checksum of {0} is wrong")]
    Checksum(&'static str),
}

impl Batch {
    /// Encodes the calls of a batch after their stamp, the ranges to sweep and what is done about memory.
    pub fn encode<'a>(
        stamp: Stamp,
        sweep: &[HashRange],
        front: &Front,
        calls: impl ExactSizeIterator<Item = &'a Args> + Clone,
    ) -> Batch {
        let size: usize = calls.clone().map(|args| 4 + args.iter().map(|a| 4 + a.len()).sum::<usize>()).sum();
        let mut out = BytesMut::with_capacity(1 + 16 + 2 + SWEEP_BYTES * sweep.len() + front.len() + 4 + size);
        out.put_u8(BATCH_VERSION);
        out.put_u64_le(stamp.now_ms);
        out.put_u64_le(stamp.seed);
        out.put_u16_le(u16::try_from(sweep.len()).expect("a tick names fewer than 65,536 ranges"));
        for range in sweep {
            out.put_u16_le(range.slot.0);
            out.put_u32_le(range.first);
            out.put_u32_le(range.last);
        }
        front.put(&mut out);
        out.put_u32_le(calls.len() as u32);
        for args in calls {
            put_args(&mut out, args);
        }
        Batch(out.freeze())
    }

    /// The same batch, marked: behind it the replicas compare their states.
    pub fn marked(self) -> Batch {
        let mut bytes = BytesMut::from(self.0);
        bytes[0] |= MARK;
        Batch(bytes.freeze())
    }

    /// Whether it is marked.
    pub fn is_marked(&self) -> bool {
        self.0.first().is_some_and(|version| version & MARK != 0)
    }

    /// Reads the head; the calls follow through [`Calls::take_next`].
    pub fn decode(&self) -> Result<(Stamp, Vec<HashRange>, Front, Calls), Malformed> {
        let mut b = self.0.clone();
        let version = take(&mut b, 1, "batch")?.get_u8() & !MARK;
        if version != BATCH_VERSION {
            return Err(Malformed::Version { what: "batch", found: version, known: BATCH_VERSION });
        }
        let mut head = take(&mut b, 18, "batch")?;
        let stamp = Stamp { now_ms: head.get_u64_le(), seed: head.get_u64_le() };
        let sweeps = head.get_u16_le() as usize;
        let mut ranges = take(&mut b, sweeps * SWEEP_BYTES, "batch")?;
        let mut range =
            |_| HashRange { slot: Slot(ranges.get_u16_le()), first: ranges.get_u32_le(), last: ranges.get_u32_le() };
        let sweep = (0..sweeps).map(&mut range).collect();
        let front = Front::take(&mut b)?;
        let calls = take(&mut b, 4, "batch")?.get_u32_le();
        Ok((stamp, sweep, front, Calls { left: calls, bytes: b, spent: Vec::new() }))
    }
}

/// The calls of a batch, decoded one after the other without copying.
pub struct Calls {
    left: u32,
    bytes: Bytes,
    /// Calls that were run: the next ones take their place in memory.
    spent: Vec<Args>,
}

impl Calls {
    /// How many calls are left.
    pub fn len(&self) -> usize {
        self.left as usize
    }

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// The next call, or none after the last, with which the bytes end.
    pub fn take_next(&mut self) -> Result<Option<Args>, Malformed> {
        if self.left == 0 {
            return if self.bytes.is_empty() {
                Ok(None)
            } else {
                Err(Malformed::Wrong("a batch goes on behind its calls"))
            };
        }
        self.left -= 1;
        let spent = self.spent.pop().unwrap_or_default();
        get_args_in_place_of(spent, &mut self.bytes).map(Some)
    }

    /// A call that was taken is not needed any more.
    pub fn give_back(&mut self, spent: Args) {
        self.spent.push(spent);
    }
}

/// Appends an argument vector.
pub fn put_args(out: &mut BytesMut, args: &Args) {
    out.put_u32_le(args.len() as u32);
    for arg in args {
        out.put_u32_le(arg.len() as u32);
        out.put_slice(arg);
    }
}

/// Takes an argument vector from the front.
pub fn get_args(b: &mut Bytes) -> Result<Args, Malformed> {
    get_args_in_place_of(Args::new(), b)
}

fn get_args_in_place_of(spent: Args, b: &mut Bytes) -> Result<Args, Malformed> {
    let mut rest = &b[..];
    let n = number(&mut rest)?;
    let mut places = SmallVec::<[Range<usize>; 4]>::new();
    for _ in 0..n {
        let len = number(&mut rest)?;
        let from = b.len() - rest.len();
        rest = rest.get(len..).ok_or(Malformed::Short("call"))?;
        places.push(from..from + len);
    }
    let args = Args::in_place_of(spent, n, |place| b.slice(places[place].clone()));
    let read = b.len() - rest.len();
    b.advance(read);
    Ok(args)
}

/// Takes a number of a call from the front.
fn number(rest: &mut &[u8]) -> Result<usize, Malformed> {
    let (number, behind) = rest.split_first_chunk().ok_or(Malformed::Short("call"))?;
    *rest = behind;
    Ok(u32::from_le_bytes(*number) as usize)
}

/// Takes `n` bytes from the front, or says what ended early.
pub fn take(b: &mut Bytes, n: usize, what: &'static str) -> Result<Bytes, Malformed> {
    if b.len() < n {
        return Err(Malformed::Short(what));
    }
    Ok(b.split_to(n))
}

const BLANK: u8 = 0;
const BATCH: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// Appends the record of an entry (without its index).
pub fn put_record(out: &mut BytesMut, entry: &Entry) {
    let term = entry.log_id.committed_leader_id().term;
    match entry.payload {
        EntryPayload::Blank => {
            out.put_u8(BLANK);
            out.put_u64_le(term);
        }
        EntryPayload::Normal(ref batch) => {
            out.put_u8(BATCH);
            out.put_u64_le(term);
            out.put_slice(&batch.0);
        }
        EntryPayload::Membership(ref membership) => {
            out.put_u8(MEMBERSHIP);
            out.put_u64_le(term);
            out.put_slice(&postcard::to_stdvec(membership).expect("a membership is plain data"));
        }
    }
}

/// Bytes that [`put_record`] appends for this entry, at most (memberships are estimated from above).
pub fn record_len(entry: &Entry) -> usize {
    9 + match entry.payload {
        EntryPayload::Blank => 0,
        EntryPayload::Normal(ref batch) => batch.0.len(),
        EntryPayload::Membership(_) => 1024,
    }
}

/// Reads a record of the entry at `index`.
pub fn get_record(mut record: Bytes, index: u64) -> Result<Entry, Malformed> {
    let mut head = take(&mut record, 9, "log record")?;
    let kind = head.get_u8();
    let id: LogId = log_id(head.get_u64_le(), index);
    let payload = match kind {
        BLANK => EntryPayload::Blank,
        BATCH => EntryPayload::Normal(Batch(record)),
        MEMBERSHIP => {
            let membership: Membership =
                postcard::from_bytes(&record).map_err(|_| Malformed::Wrong("a membership record cannot be read"))?;
            EntryPayload::Membership(membership)
        }
        _ => return Err(Malformed::Wrong("a log record of a kind that is not known")),
    };
    Ok(Entry { log_id: id, payload })
}

/// The bytes under which the log keeps an entry: its record and a checksum that also covers where it belongs.
pub fn stored(group: GroupId, entry: &Entry) -> Bytes {
    let mut out = BytesMut::with_capacity(record_len(entry) + 8);
    put_record(&mut out, entry);
    let sum = checksum(group, entry.log_id.index(), &out);
    out.put_u64_le(sum);
    out.freeze()
}

/// Reads and verifies what [`stored`] wrote.
pub fn from_stored(group: GroupId, index: u64, mut bytes: Bytes) -> Result<Entry, Malformed> {
    if bytes.len() < 17 {
        return Err(Malformed::Short("log record"));
    }
    let record = bytes.split_to(bytes.len() - 8);
    if bytes.get_u64_le() != checksum(group, index, &record) {
        return Err(Malformed::Checksum("a log record"));
    }
    get_record(record, index)
}

fn checksum(group: GroupId, index: u64, record: &[u8]) -> u64 {
    let seed = (u64::from(group.0) << 48) ^ index;
    xxhash_rust::xxh3::xxh3_64_with_seed(record, seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&'static str]) -> Args {
        words.iter().map(|w| Bytes::from_static(w.as_bytes())).collect()
    }

    #[test]
    fn a_batch_reads_back_what_was_written() {
        let calls = [args(&["SET", "a", "1"]), args(&["DEL", ""])];
        let stamp = Stamp { now_ms: 7, seed: 9 };
        let ranges = [HashRange::whole(Slot(5)), HashRange { slot: Slot(16_383), first: 1 << 31, last: u32::MAX }];
        let limit = Some(Limit { bytes: 1 << 40, policy: Kind::S3Fifo, samples: 5 });
        let packing = Some(Packing { set_integers: 3, list: -4, ..Packing::default() });
        let by = Author { process: u64::MAX, client: 3 };
        let authored = vec![Authored { first: 1, calls: 1, by }];
        let evictions = vec![(Bytes::from_static(b"gone"), 77), (Bytes::new(), 1)];
        let front = Front { limit, packing, authored, evictions };
        let batch = Batch::encode(stamp, &ranges, &front, calls.iter());
        let (got, sweep, got_front, mut rest) = batch.decode().unwrap();
        assert_eq!((got, sweep, got_front), (stamp, ranges.to_vec(), front));
        assert_eq!(rest.take_next().unwrap().unwrap(), calls[0]);
        assert_eq!(rest.take_next().unwrap().unwrap(), calls[1]);
        assert!(rest.take_next().unwrap().is_none());
    }

    #[test]
    fn a_mark_changes_one_bit_and_nothing_that_is_read() {
        let batch =
            Batch::encode(Stamp { now_ms: 1, seed: 2 }, &[], &Front::default(), [args(&["SET", "k", "v"])].iter());
        let marked = batch.clone().marked();
        assert!(marked.is_marked() && !batch.is_marked());
        assert_eq!((marked.0[0], &marked.0[1..]), (0x81, &batch.0[1..]));
        let (stamp, _, _, mut calls) = marked.decode().unwrap();
        assert_eq!((stamp.now_ms, calls.take_next().unwrap()), (1, Some(args(&["SET", "k", "v"]))));
        let newer = Batch(Bytes::from_static(&[0x82]));
        assert!(matches!(newer.decode(), Err(Malformed::Version { found: 2, .. })));
    }

    #[test]
    fn what_stands_behind_the_calls_of_a_batch_is_noticed() {
        let batch = Batch::encode(Stamp::default(), &[], &Front::default(), [args(&["SET", "k", "v"])].iter());
        let longer = Batch([&batch.0[..], b"x"].concat().into());
        let (.., mut calls) = longer.decode().unwrap();
        assert_eq!(calls.take_next(), Ok(Some(args(&["SET", "k", "v"]))));
        assert_eq!(calls.take_next(), Err(Malformed::Wrong("a batch goes on behind its calls")));
    }

    #[test]
    fn the_author_of_a_call_is_found_by_its_place() {
        let (a, b) = (Author { process: 1, client: 1 }, Author { process: 1, client: 2 });
        let mut list = Vec::new();
        for (place, by) in [(1, a), (2, a), (3, b), (5, b)] {
            Authored::add(&mut list, place, by);
        }
        assert_eq!(list.len(), 3, "calls in a row are one");
        let found: Vec<Option<Author>> = (0..7).map(|place| Authored::of(&list, place)).collect();
        assert_eq!(found, [None, Some(a), Some(a), Some(b), None, Some(b), None]);
        let mut none = BytesMut::new();
        put_authored(&mut none, &[]);
        let mut front = BytesMut::from(&[AUTHORED][..]);
        front.extend_from_slice(&none);
        front.put_u16_le(0);
        assert!(Front::take(&mut front.freeze()).is_err(), "there is one spelling of a batch without authors");
    }

    #[test]
    fn golden_bytes_of_authors() {
        let authored = vec![Authored { first: 0, calls: 1, by: Author { process: 5, client: 6 } }];
        let front = Front { authored, ..Front::default() };
        let mut out = BytesMut::new();
        front.put(&mut out);
        let hex: String = out.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "040100000000000000010000000500000000000000060000000000000000 00".replace(' ', ""));
    }

    #[test]
    fn golden_bytes_of_a_stored_entry() {
        let limit = Some(Limit { bytes: 9, policy: Kind::VolatileTtl, samples: 7 });
        let front = Front { limit, evictions: vec![(Bytes::from_static(b"e"), 6)], ..Front::default() };
        let range = HashRange { slot: Slot(3), first: 4, last: 5 };
        let batch = Batch::encode(Stamp { now_ms: 1, seed: 2 }, &[range], &front, [args(&["SET", "k", "v"])].iter());
        let entry = Entry { log_id: log_id(4, 5), payload: EntryPayload::Normal(batch) };
        let bytes = stored(GroupId(6), &entry);
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let record = "010400000000000000\
                      0101000000000000000200000000000000010003000400000005000000\
                      010900000000000000080701000600000000000000\
                      0100000065\
                      01000000\
                      0300000003000000534554010000006b0100000076";
        assert_eq!(&hex[..record.len()], record, "the format of what is on disk may not change");
        assert_eq!(from_stored(GroupId(6), 5, bytes).unwrap(), entry);
    }

    #[test]
    fn any_flipped_bit_or_wrong_place_is_noticed() {
        let batch = Batch::encode(Stamp::default(), &[], &Front::default(), [args(&["SET", "k", "v"])].iter());
        let bytes = stored(GroupId(1), &Entry { log_id: log_id(1, 1), payload: EntryPayload::Normal(batch) });
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(from_stored(GroupId(1), 1, bad.into()).is_err(), "bit {bit}");
        }
        assert!(from_stored(GroupId(1), 2, bytes.clone()).is_err());
        assert!(from_stored(GroupId(2), 1, bytes).is_err());
    }

    #[test]
    fn truncated_batches_are_refused_at_every_length() {
        let evictions = vec![(Bytes::from_static(b"e"), 6)];
        let mut authored = Vec::new();
        Authored::add(&mut authored, 0, Author { process: 1, client: 2 });
        let front = Front { limit: Some(Limit::default()), packing: Some(Packing::default()), authored, evictions };
        let batch =
            Batch::encode(Stamp::default(), &[HashRange::whole(Slot(1))], &front, [args(&["SET", "k", "v"])].iter());
        for len in 0..batch.0.len() {
            let cut = Batch(batch.0.slice(..len));
            let read = cut.decode().and_then(|(_, _, _, mut calls)| calls.take_next());
            assert!(read.is_err(), "{len}");
        }
    }
}
