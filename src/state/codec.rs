//! Bytes of entries, units and the head of a snapshot.
//!
//! Written to disk and sent to other nodes: what stands here is append-only, versioned, and held by golden bytes in
//! the tests. Numbers are LEB128 (`v`) or little-endian (`u64`); a checksum is XXH3-64 of everything before it.
//!
//! ```text
//! head   "HCH" version(1)  seed u64  clock v  version v  keys v  expires v  bytes v  images v
//!        limit bytes v  policy(1)  samples(1)
//!        packing: entries v and value v of hash, set, sorted; integers of a set v; of a list zig-zag v
//!        removals: floor v  slots v  { slot, less the one before and one more v  version above the floor v }*
//!        from version 5 on: ownership (`ownership.rs`)  checksum u64
//! image  "HCS" version(1)  slot u16  body length u64  count v  entry*  checksum u64
//! entry  type(1)  key length v  key  deadline v  version v  written v  value length v  value
//! ```
//!
//! A head has version 5 if slots of the group ever moved, and 4 otherwise. Both are read.
//!
//! An image is self-delimiting and its entries stand by (hash, key). It shows a unit; where the borders between the
//! units of a slot lie differs from replica to replica, so a slot has any number of images, in any order. The head
//! says how many there are in all.

mod digest;

pub use digest::digest;

use super::account::Account;
use super::collections::body::{put_blob, put_number};
use super::collections::{PACKING_NUMBERS, Packing};
use super::entry::{Draft, Drafted, Entry, EntryRef};
use super::eviction::{Kind, Limit};
use super::ownership::Ownership;
use super::removals::Removals;
use super::unit::Unit;
use super::value::{Form, Value, ValueRef};
use crate::types::{Millis, SLOTS, Slot};
use bytes::{BufMut, Bytes};
use xxhash_rust::xxh3::xxh3_64;

const HEAD_MAGIC: &[u8] = b"HCH";
const IMAGE_MAGIC: &[u8] = b"HCS";
/// The format that is written, and the oldest that is read.
const FORMAT: u8 = 4;
/// The format of a head with ownership.
const OWNING: u8 = 5;
/// Where the body length of an image stands.
const LENGTH_AT: usize = 6;

/// Everything of a keyspace that is outside its slots, at the moment of a cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutHead {
    pub(super) seed: u64,
    pub(super) clock: Millis,
    pub(super) version: u64,
    pub(super) account: Account,
    /// Images that belong to this head. 0 where the hash of a state is taken, which does not depend on units.
    pub(super) images: u64,
    pub(super) limit: Limit,
    pub(super) packing: Packing,
    pub(super) removals: Removals,
    pub(super) ownership: Ownership,
}

/// A unit at the moment of a cut: some or all entries of a slot. Whoever writes waits while it is made, so it is a copy of
/// the unit, whose long values are shared; it is encoded where nobody waits.
#[derive(Debug)]
pub struct SlotImage {
    slot: Slot,
    unit: Unit,
    /// Bytes of the values that have no row.
    owned: usize,
}

impl SlotImage {
    pub(super) fn of(slot: Slot, unit: &Unit) -> SlotImage {
        let unit = unit.copy();
        let owned = unit.owned().map(|entry| entry.value().weight()).sum();
        SlotImage { slot, unit, owned }
    }

    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// Bytes of the image, about.
    pub fn len(&self) -> usize {
        self.unit.row_bytes() + self.owned
    }

    /// Whether no key is in it.
    pub fn is_empty(&self) -> bool {
        self.unit.is_empty()
    }

    /// The image as it is stored. Takes a while: not to be called under a lock.
    pub fn into_bytes(self) -> Bytes {
        let mut out = Vec::with_capacity(64 + self.len() * 5 / 4);
        self.put_into(&mut out);
        Bytes::from(out)
    }

    /// The same, behind what is in `out`.
    pub fn put_into(self, out: &mut Vec<u8>) {
        out.reserve(64 + self.len() * 5 / 4);
        put_image(out, self.slot, self.unit.len(), self.unit.ordered(0).map(|(_, entry, _)| entry));
    }
}

/// The image of some entries of a slot, which stand in its order.
pub(super) fn image_of(slot: Slot, entries: &[Entry]) -> Bytes {
    let mut out = Vec::new();
    put_image(&mut out, slot, entries.len(), entries.iter().map(Entry::as_ref));
    Bytes::from(out)
}

/// Writes an image behind what is in `out`.
fn put_image<'a>(out: &mut Vec<u8>, slot: Slot, count: usize, entries: impl Iterator<Item = EntryRef<'a>>) {
    let start = out.len();
    out.put_slice(IMAGE_MAGIC);
    out.put_u8(FORMAT);
    out.put_u16_le(slot.0);
    out.put_u64_le(0);
    put_number(out, count as u64);
    for entry in entries {
        encode_entry(out, &entry);
    }
    let (length_at, body_at) = (start + LENGTH_AT, start + LENGTH_AT + 8);
    let body = (out.len() - body_at) as u64;
    out[length_at..body_at].copy_from_slice(&body.to_le_bytes());
    let sum = xxh3_64(&out[start..]);
    out.put_u64_le(sum);
}

/// Why a snapshot was not accepted. Nothing is ever repaired: the replica gets another one.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("the {part} has format {found}, newer than {known}, the newest this program knows")]
    Newer { part: &'static str, found: u8, known: u8 },
    #[error("the {part} is damaged: {what}")]
    Damaged { part: &'static str, what: &'static str },
    #[error("a key of slot {} comes twice", .0.0)]
    Twice(Slot),
    #[error("the images do not add up to their head: {0}")]
    Sums(&'static str),
    #[error("reading the snapshot: {0}")]
    Source(String),
}

impl CutHead {
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        let owning = self.ownership != Ownership::default();
        out.put_slice(HEAD_MAGIC);
        out.put_u8(if owning { OWNING } else { FORMAT });
        out.put_u64_le(self.seed);
        let account = &self.account;
        for number in [self.clock, self.version, account.keys, account.expires, account.bytes, self.images] {
            put_number(&mut out, number);
        }
        put_number(&mut out, self.limit.bytes);
        out.put_u8(self.limit.policy.number());
        out.put_u8(self.limit.samples);
        self.packing.numbers().into_iter().for_each(|number| put_number(&mut out, number));
        put_removals(&mut out, &self.removals);
        if owning {
            self.ownership.put(&mut out);
        }
        seal(out)
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<CutHead, RestoreError> {
        let (format, mut reader) = Reader::open("head", HEAD_MAGIC, OWNING, bytes)?;
        let head = CutHead {
            seed: reader.u64()?,
            clock: reader.number()?,
            version: reader.number()?,
            account: Account { keys: reader.number()?, expires: reader.number()?, bytes: reader.number()? },
            images: reader.number()?,
            limit: reader.limit()?,
            packing: reader.packing()?,
            removals: reader.removals()?,
            ownership: if format < OWNING { Ownership::default() } else { reader.ownership()? },
        };
        reader.end()?;
        if format == OWNING && head.ownership == Ownership::default() {
            return Err(reader.damaged("the newer format without what it is for"));
        }
        Ok(head)
    }

    /// The group clock at the cut.
    pub fn clock(&self) -> Millis {
        self.clock
    }

    /// Keys at the cut.
    pub fn keys(&self) -> u64 {
        self.account.keys
    }

    /// How many images belong to this head.
    pub fn images(&self) -> u64 {
        self.images
    }
}

/// The slot of an image and its entries, in the image's order.
pub(super) fn decode_slot(bytes: &[u8]) -> Result<(Slot, Vec<Draft<'_>>), RestoreError> {
    let (_, mut reader) = Reader::open("slot image", IMAGE_MAGIC, FORMAT, bytes)?;
    let slot = u16::from_le_bytes(reader.array()?);
    if usize::from(slot) >= SLOTS {
        return Err(reader.damaged("slot number"));
    }
    if reader.u64()? != reader.rest.len() as u64 {
        return Err(reader.damaged("body length"));
    }
    let count = reader.number()?;
    // An entry takes six bytes at least: room is made for what is there, not for what is announced.
    let mut entries = Vec::with_capacity((count as usize).min(reader.rest.len() / 6));
    for _ in 0..count {
        entries.push(decode_entry(&mut reader)?);
    }
    reader.end()?;
    Ok((Slot(slot), entries))
}

pub(super) fn encode_entry(out: &mut Vec<u8>, entry: &EntryRef<'_>) {
    out.put_u8(entry.value.tag());
    put_blob(out, entry.key);
    put_number(out, entry.deadline);
    put_number(out, entry.version);
    put_number(out, entry.written_ms);
    match entry.value {
        ValueRef::Plain(_, body) => put_blob(out, body),
        ValueRef::Owned(value) => put_value(out, value),
        ValueRef::Integer(value) => put_blob(out, itoa::Buffer::new().format(value).as_bytes()),
    }
}

/// A value's length and bytes.
fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value.plain_body() {
        Some(body) => put_blob(out, body),
        None => {
            let mut body = Vec::with_capacity(value.weight());
            value.put_body(&mut body);
            put_blob(out, &body);
        }
    }
}

fn decode_entry<'a>(reader: &mut Reader<'a>) -> Result<Draft<'a>, RestoreError> {
    let [tag] = reader.array()?;
    let key = reader.blob()?;
    let (deadline, version, written_ms) = (reader.number()?, reader.number()?, reader.number()?);
    let body = reader.blob()?;
    let value = match Form::of_tag(tag) {
        Some(form) => Drafted::Text(form, body),
        None => Value::from_body(tag, body).ok_or(reader.damaged("value"))?.into(),
    };
    Ok(Draft { key, value, deadline, version, written_ms })
}

fn put_removals(out: &mut Vec<u8>, removals: &Removals) {
    put_number(out, removals.floor());
    put_number(out, removals.slots().count() as u64);
    let mut next = 0;
    for (slot, version) in removals.slots() {
        put_number(out, u64::from(slot.0) - next);
        put_number(out, version - removals.floor());
        next = u64::from(slot.0) + 1;
    }
}

/// Appends the checksum.
fn seal(mut out: Vec<u8>) -> Vec<u8> {
    let sum = xxh3_64(&out);
    out.put_u64_le(sum);
    out
}

struct Reader<'a> {
    part: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Checks magic, format and checksum, and stands behind the format byte. `newest`: the newest format that is known.
    fn open(part: &'static str, magic: &[u8], newest: u8, bytes: &'a [u8]) -> Result<(u8, Reader<'a>), RestoreError> {
        let damaged = |what| RestoreError::Damaged { part, what };
        let (&format, rest) =
            bytes.strip_prefix(magic).and_then(<[u8]>::split_first).ok_or(damaged("it does not begin as one"))?;
        match format {
            FORMAT.. if format <= newest => {}
            newer if newer > newest => return Err(RestoreError::Newer { part, found: newer, known: newest }),
            // Older ones were never released.
            _ => return Err(damaged("its format is not read any more")),
        }
        let (rest, sum) = rest.split_last_chunk::<8>().ok_or(damaged("it is cut short"))?;
        if xxh3_64(&bytes[..bytes.len() - 8]) != u64::from_le_bytes(*sum) {
            return Err(damaged("checksum"));
        }
        Ok((format, Reader { part, rest }))
    }

    fn damaged(&self, what: &'static str) -> RestoreError {
        RestoreError::Damaged { part: self.part, what }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RestoreError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(self.damaged("it is cut short"))?;
        self.rest = rest;
        Ok(*head)
    }

    fn u64(&mut self) -> Result<u64, RestoreError> {
        self.array().map(u64::from_le_bytes)
    }

    fn number(&mut self) -> Result<u64, RestoreError> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            number |= bits << shift;
            if byte < 0x80 {
                if byte == 0 && shift > 0 {
                    return Err(self.damaged("a number has a longer spelling than it needs"));
                }
                return Ok(number);
            }
        }
        Err(self.damaged("a number is too long"))
    }

    fn limit(&mut self) -> Result<Limit, RestoreError> {
        let bytes = self.number()?;
        let [policy, samples] = self.array()?;
        let policy = Kind::from_number(policy).ok_or(self.damaged("eviction policy"))?;
        Ok(Limit { bytes, policy, samples })
    }

    fn packing(&mut self) -> Result<Packing, RestoreError> {
        let mut numbers = [0; PACKING_NUMBERS];
        for number in &mut numbers {
            *number = self.number()?;
        }
        Ok(Packing::from_numbers(numbers))
    }

    fn removals(&mut self) -> Result<Removals, RestoreError> {
        let floor = self.number()?;
        let mut removals = Removals::default();
        removals.raise_all(floor);
        let mut next = 0u64;
        for _ in 0..self.number()? {
            let slot = next.checked_add(self.number()?).filter(|slot| *slot < SLOTS as u64);
            let slot = slot.ok_or(self.damaged("slot number"))?;
            let above = self.number()?;
            let version = floor.checked_add(above).filter(|_| above > 0).ok_or(self.damaged("version of a removal"))?;
            removals.raise(Slot(slot as u16), version);
            next = slot + 1;
        }
        Ok(removals)
    }

    fn ownership(&mut self) -> Result<Ownership, RestoreError> {
        let number = |reader: &mut Reader<'a>| reader.number().ok();
        let byte = |reader: &mut Reader<'a>| reader.array::<1>().ok().map(|[byte]| byte);
        Ownership::read(self, number, byte).ok_or(self.damaged("ownership"))
    }

    fn blob(&mut self) -> Result<&'a [u8], RestoreError> {
        let length = self.number()?;
        if length > self.rest.len() as u64 {
            return Err(self.damaged("it is cut short"));
        }
        let (blob, rest) = self.rest.split_at(length as usize);
        self.rest = rest;
        Ok(blob)
    }

    fn end(&self) -> Result<(), RestoreError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.damaged("bytes are left over")) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::collections::{HashValue, SetValue};
    use super::super::entry::Entry;
    use super::super::unit::hash_of;
    use super::super::value::Form;
    use super::*;
    use crate::slot::slot_of;
    use crate::state::cuckoo::Precision;
    use crate::state::{End, ListValue};
    use proptest::prelude::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn entry(key: &[u8], value: Value) -> Entry {
        Entry { key: key.into(), value, deadline: 0, version: 1, written_ms: 2 }
    }

    fn unit_of(entries: &[Entry], seed: u64) -> Unit {
        let mut unit = Unit::new(seed, 1000, 0, Precision::default());
        for Entry { key, value, deadline, version, written_ms } in entries.iter().cloned() {
            unit.put(hash_of(seed, &key), Draft { key: &key, value: value.into(), deadline, version, written_ms });
        }
        unit
    }

    fn image(slot: Slot, entries: &[Entry], seed: u64) -> Bytes {
        SlotImage::of(slot, &unit_of(entries, seed)).into_bytes()
    }

    /// If one of these fails, a snapshot on someone's disk can no longer be read: add a format, change none.
    #[test]
    fn the_bytes_on_disk_are_golden() {
        let account = Account { keys: 1, expires: 1, bytes: 300 };
        let limit = Limit { bytes: 4096, policy: Kind::S3Fifo, samples: 5 };
        let mut removals = Removals::default();
        removals.raise_all(20);
        removals.raise(Slot(3), 41);
        removals.raise(Slot(16_383), 21);
        let head = CutHead {
            seed: 7,
            clock: 1_700_000_000_000,
            version: 42,
            account,
            images: 1,
            limit,
            packing: Packing::default(),
            removals,
            ownership: Ownership::default(),
        };
        assert_eq!(hex(&head.to_bytes()), GOLDEN_HEAD);
        assert_eq!(CutHead::from_bytes(&head.to_bytes()).unwrap(), head);

        let entries = [
            Entry { deadline: 1_700_000_000_500, version: 300, ..entry(b"{t}a", Value::text(b"1")) },
            entry(b"{t}b", Value::formed("0.5".into(), Form::Float)),
            entry(b"{t}c", Value::formed(Bytes::new(), Form::Edited)),
        ];
        assert_eq!(hex(&image(slot_of(b"t"), &entries, 7)), GOLDEN_IMAGE);

        let (mut small, mut large) = (HashValue::new(), HashValue::new());
        let limits = Packing::default().hash;
        small.set(b"f", b"v", 0, limits);
        large.set(b"f", &[b'v'; 65], 0, limits);
        large.set(b"g", b"w", 1_700_000_000_500, limits);
        let entries = [entry(b"{t}d", Value::Hash(small)), entry(b"{t}e", Value::Hash(large))];
        assert_eq!(hex(&image(slot_of(b"t"), &entries, 7)), GOLDEN_HASHES);
    }

    /// A group whose slots move tells it in a head of its own format; the one of before is read as well, as above.
    #[test]
    fn a_head_with_ownership_is_golden() {
        let mut keyspace = crate::state::Keyspace::new(7);
        keyspace.found_ownership("0-99,205".parse().unwrap());
        keyspace.freeze_slots(3, "7".parse().unwrap()).unwrap();
        let source = keyspace.begin_cut();
        assert_eq!(hex(&source.to_bytes()), GOLDEN_OWNING);
        let mut keyspace = crate::state::Keyspace::new(7);
        keyspace.found_ownership("0-99".parse().unwrap());
        keyspace.expect_slots(4, "100".parse().unwrap()).unwrap();
        let target = keyspace.begin_cut();
        for head in [source, target] {
            let bytes = head.to_bytes();
            assert_eq!(CutHead::from_bytes(&bytes).unwrap(), head);
            assert!(head.digest() != CutHead { ownership: Ownership::default(), ..head.clone() }.digest());
            for length in 0..bytes.len() {
                assert!(CutHead::from_bytes(&bytes[..length]).is_err());
            }
            let plain = CutHead { ownership: Ownership::default(), ..head }.to_bytes();
            let mut newer = plain[..plain.len() - 8].to_vec();
            newer[HEAD_MAGIC.len()] = OWNING;
            Ownership::default().put(&mut newer);
            assert!(CutHead::from_bytes(&seal(newer)).is_err(), "the newer format says something of ownership");
        }
    }

    const GOLDEN_OWNING: &str = "4843480507000000000000000002000000000000058001408001408001408004030000000001020063cd01cd010103010707d0a17dae1ea1860b";

    const GOLDEN_HASHES: &str = "48435304133e68000000000000000205047b747d650001024f000166417676767676767676767676767676767676767676767676767676767676767676767676767676767676767676767676767676767676767676767676767676767676f4d395ffbc310167017704047b747d6400010204016601766e49e53b9827b46a";

    const GOLDEN_HEAD: &str = "48434804070000000000000080d095ffbc312a0101ac02018020010580014080014080014080040314020315fb7f01273cec0ac5058670";
    const GOLDEN_IMAGE: &str = "48435304133e29000000000000000301047b747d61f4d395ffbc31ac0202013102047b747d6200010203302e3503047b747d6300010200ab7dda633e7c4acc";

    #[test]
    fn sets_are_golden() {
        let set = |members: &[&[u8]]| {
            let (mut set, packing) = (SetValue::new(), Packing::default());
            members.iter().for_each(|member| assert!(set.add(member, &packing)));
            Value::Set(set)
        };
        let entries = [
            entry(b"{t}f", set(&[b"7", b"-1"])),
            entry(b"{t}g", set(&[b"7", b"100000"])),
            entry(b"{t}h", set(&[b"b", b"7"])),
            entry(b"{t}i", set(&[b"b", &[b'a'; 65], b"7"])),
        ];
        assert_eq!(hex(&image(slot_of(b"t"), &entries, 7)), GOLDEN_SETS);
    }

    const GOLDEN_SETS: &str = "48435304133e81000000000000000409047b747d68000102040162013708047b747d660001020502ffff070008047b747d67000102090407000000a08601000a047b747d69000102460137016241616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616161616118c1d3825122f31f";

    #[test]
    fn lists_are_golden() {
        let list = |limit| {
            let mut list = ListValue::new();
            list.push(End::Back, &["one".into(), "".into(), vec![b'x'; 130].into()], limit);
            Value::List(list)
        };
        let entries = [entry(b"{t}j", list(-2)), entry(b"{t}k", list(1))];
        assert_eq!(hex(&image(slot_of(b"t"), &entries, 7)), GOLDEN_LISTS);
    }

    const GOLDEN_LISTS: &str = "48435304133e29010000000000000206047b747d6a0001028901036f6e650082017878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787807047b747d6b0001028901036f6e6500820178787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878d325d6cb6c3aff93";

    #[test]
    fn a_damaged_image_is_refused_whatever_is_damaged() {
        let entries = [entry(b"{t}a", Value::text(b"1")), entry(b"{t}b", Value::text(b"2"))];
        let image = image(slot_of(b"t"), &entries, 7);
        for at in 0..image.len() {
            let mut bytes = image.to_vec();
            bytes[at] ^= 0x40;
            assert!(decode_slot(&bytes).is_err(), "byte {at}");
            assert!(decode_slot(&image[..at]).is_err(), "cut at {at}");
        }
        let newer = [IMAGE_MAGIC, &[FORMAT + 1], &image[4..]].concat();
        assert!(matches!(decode_slot(&newer), Err(RestoreError::Newer { found: 5, .. })));
        let older = [IMAGE_MAGIC, &[FORMAT - 1], &image[4..]].concat();
        assert!(matches!(decode_slot(&older), Err(RestoreError::Damaged { .. })));
    }

    /// Lengths on both sides of what lies in rows, and long ones, which an image shares.
    fn lengths() -> impl Strategy<Value = usize> {
        prop_oneof![8 => 0..300usize, 2 => 400..600usize, 1 => 16_000..17_000usize]
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            rows in prop::collection::btree_map(any::<[u8; 3]>(), (any::<u8>(), lengths(), any::<[u64; 3]>(), 0..3usize), 0..20),
            seed in any::<u64>(),
        ) {
            let forms = [Form::Set, Form::Float, Form::Edited];
            let mut entries: Vec<Entry> = rows.into_iter().map(|(key, (byte, length, numbers, form))| Entry {
                key: key.into(),
                value: Value::formed(vec![byte; length].into(), forms[form]),
                deadline: numbers[0],
                version: numbers[1],
                written_ms: numbers[2],
            }).collect();
            let image = |entries: &[Entry]| image(Slot(9), entries, seed);
            let bytes = image(&entries);
            let (slot, decoded) = decode_slot(&bytes).unwrap();
            let decoded: Vec<Entry> = decoded.into_iter().map(Draft::into_entry).collect();
            // Order of insertion leaves no trace.
            let reversed: Vec<Entry> = decoded.iter().rev().cloned().collect();
            prop_assert_eq!(image(&reversed), bytes);
            entries.sort_by_key(|entry| (hash_of(seed, &entry.key), entry.key.clone()));
            prop_assert_eq!((slot, decoded), (Slot(9), entries));
        }

        #[test]
        fn garbage_is_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let sealed = seal([IMAGE_MAGIC, &[FORMAT], &bytes].concat());
            let _ = decode_slot(&sealed);
            let sealed = seal([HEAD_MAGIC, &[FORMAT], &bytes].concat());
            let _ = CutHead::from_bytes(&sealed);
        }
    }
}
