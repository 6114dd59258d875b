//! The bytes of a short entry in memory. Never on disk: `codec.rs` has what is.
//!
//! ```text
//! flags(1)  key length v  key  version v  written v  [deadline v]  value
//!
//! flags     bits 0-3 tag of the value, bit 4 it has a deadline, bit 5 the value is an integer, bit 7 the row is dead
//! v         LEB128
//! written   distance from the base of the unit, zig-zag: a recent write takes three or four bytes
//! deadline  distance from written
//! value     integer: zig-zag v.  else: length v, bytes
//! ```
//!
//! A dead row keeps its lengths, so that a chunk can be walked from its beginning. These bytes are written and read
//! by this process alone: what cannot be read is a bug and panics.

use super::entry::{Draft, EntryRef};
use super::value::{Form, ValueRef, as_integer};
use crate::types::Millis;

/// Rows up to this many bytes lie in chunks; longer entries are owned. An eighth of a chunk: what is lost at a chunk's
/// end is then a sixteenth of it at most on average.
pub(super) const ROW_MAX: usize = 512;

/// Most that flags and numbers of a row take.
const NUMBERS_MAX: usize = 1 + 2 + 10 + 10 + 10 + 2;

const HAS_DEADLINE: u8 = 1 << 4;
const IS_INTEGER: u8 = 1 << 5;
const IS_DEAD: u8 = 1 << 7;

/// An entry as the parts of its row. How long that is is known before any of it is written: it goes to where it stays at
/// once, and over the row it replaces if that is as long.
#[derive(Debug)]
pub(super) struct Row<'a> {
    flags: u8,
    key: &'a [u8],
    /// The numbers between key and value; without a deadline they are two.
    numbers: [u64; 3],
    value: Body<'a>,
}

#[derive(Debug)]
enum Body<'a> {
    /// Zig-zag.
    Integer(u64),
    Bytes(&'a [u8]),
}

impl<'a> Row<'a> {
    /// The row of an entry; `None` if it is too long, or its value is of a type that does not lie in rows.
    #[inline]
    pub fn of(draft: &'a Draft<'_>, base: Millis) -> Option<Row<'a>> {
        let value = draft.value.as_ref();
        let body = value.plain_body()?;
        if NUMBERS_MAX + draft.key.len() + body.len() > ROW_MAX {
            return None;
        }
        let tag = value.tag();
        let integer = (tag == Form::Set.tag()).then(|| as_integer(body)).flatten();
        let mut flags = tag;
        flags |= if draft.deadline != 0 { HAS_DEADLINE } else { 0 };
        flags |= if integer.is_some() { IS_INTEGER } else { 0 };
        let written = zig_zag(draft.written_ms.wrapping_sub(base) as i64);
        let numbers = [draft.version, written, draft.deadline.wrapping_sub(draft.written_ms)];
        let value = integer.map_or(Body::Bytes(body), |value| Body::Integer(zig_zag(value)));
        Some(Row { flags, key: draft.key, numbers, value })
    }

    #[inline]
    pub fn len(&self) -> usize {
        let numbers = self.numbers().iter().map(|number| number_len(*number)).sum::<usize>();
        let value = match self.value {
            Body::Integer(value) => number_len(value),
            Body::Bytes(body) => number_len(body.len() as u64) + body.len(),
        };
        1 + number_len(self.key.len() as u64) + self.key.len() + numbers + value
    }

    #[inline]
    fn numbers(&self) -> &[u64] {
        &self.numbers[..if self.flags & HAS_DEADLINE != 0 { 3 } else { 2 }]
    }

    /// Writes it over as many bytes.
    #[inline]
    pub fn put(&self, bytes: &mut [u8]) {
        let mut writer = Writer { bytes, at: 0 };
        writer.put(&[self.flags]);
        writer.blob(self.key);
        self.numbers().iter().for_each(|number| writer.number(*number));
        match self.value {
            Body::Integer(value) => writer.number(value),
            Body::Bytes(body) => writer.blob(body),
        }
    }
}

/// The key of the row that begins here.
#[inline]
pub(super) fn key(bytes: &[u8]) -> &[u8] {
    let mut reader = Reader { bytes, at: 1 };
    let length = reader.number() as usize;
    reader.take(length)
}

/// The entry of the row that begins here, and the row's length.
#[inline]
pub(super) fn parse(bytes: &[u8], base: Millis) -> (EntryRef<'_>, usize) {
    let mut reader = Reader { bytes, at: 1 };
    let flags = bytes[0];
    let length = reader.number() as usize;
    let key = reader.take(length);
    let version = reader.number();
    let written_ms = base.wrapping_add(un_zig_zag(reader.number()) as u64);
    let deadline = if flags & HAS_DEADLINE != 0 { written_ms.wrapping_add(reader.number()) } else { 0 };
    let value = if flags & IS_INTEGER != 0 {
        ValueRef::Integer(un_zig_zag(reader.number()))
    } else {
        let length = reader.number() as usize;
        ValueRef::Plain(flags & 0x0f, reader.take(length))
    };
    (EntryRef { key, value, deadline, version, written_ms }, reader.at)
}

#[inline]
pub(super) fn is_dead(bytes: &[u8]) -> bool {
    bytes[0] & IS_DEAD != 0
}

/// From now on the row is only skipped.
#[inline]
pub(super) fn kill(bytes: &mut [u8]) {
    bytes[0] |= IS_DEAD;
}

/// Bytes that a number takes: seven bits in each, and one byte at least.
#[inline]
fn number_len(number: u64) -> usize {
    (70 - (number | 1).leading_zeros() as usize) / 7
}

/// Small distances to either side become small numbers.
#[inline]
fn zig_zag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

#[inline]
fn un_zig_zag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

struct Writer<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Writer<'_> {
    #[inline]
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes[self.at] = number as u8 | 0x80;
            self.at += 1;
            number >>= 7;
        }
        self.bytes[self.at] = number as u8;
        self.at += 1;
    }

    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    #[inline]
    fn blob(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.put(bytes);
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    #[inline]
    fn number(&mut self) -> u64 {
        let (mut number, mut shift) = (0, 0);
        loop {
            let byte = self.bytes[self.at];
            self.at += 1;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return number;
            }
            shift += 7;
        }
    }

    #[inline]
    fn take(&mut self, length: usize) -> &'a [u8] {
        let taken = &self.bytes[self.at..self.at + length];
        self.at += length;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::super::value::Value;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_row_is_read_as_it_was_written(
            key in prop::collection::vec(any::<u8>(), 0..200),
            text in prop_oneof![prop::collection::vec(any::<u8>(), 0..200), any::<i64>().prop_map(|n| n.to_string().into_bytes())],
            form in 0..3usize,
            numbers in any::<[u64; 4]>(),
            shift in 0..64u32,
        ) {
            let form = [Form::Set, Form::Float, Form::Edited][form];
            let [base, version, written_ms, deadline] = numbers.map(|number| number >> shift);
            let draft = Draft { key: &key, value: Value::formed(text.into(), form).into(), deadline, version, written_ms };
            let row = Row::of(&draft, base).unwrap();
            let mut longer = vec![0; row.len()];
            row.put(&mut longer);
            longer.extend_from_slice(b"what follows");
            let (entry, length) = parse(&longer, base);
            prop_assert_eq!(length, row.len());
            prop_assert_eq!(entry.to_entry(), draft.as_ref().to_entry());
            prop_assert_eq!(super::key(&longer), &key[..]);
        }
    }

    #[test]
    fn long_entries_have_no_row_and_the_longest_row_fits() {
        let draft = |key, value: Value| Draft {
            key,
            value: value.into(),
            deadline: 1,
            version: u64::MAX,
            written_ms: u64::MAX,
        };
        let room = ROW_MAX - NUMBERS_MAX;
        let (long, longer) = (vec![b'x'; room], vec![b'x'; room + 1]);
        assert!(Row::of(&draft(&long, Value::text(b"")), 1 << 62).unwrap().len() <= ROW_MAX);
        assert!(Row::of(&draft(b"", Value::text(&long)), 1 << 62).unwrap().len() <= ROW_MAX);
        assert!(Row::of(&draft(&longer, Value::text(b"")), 0).is_none());
        assert!(Row::of(&draft(b"", Value::text(&longer)), 0).is_none());
    }
}
