//! Bitmaps: strings as rows of bits, and of integers of any width.
//!
//! Bit 0 is the highest bit of the first byte. Texts and edge cases are Redis 7.2's.

use super::generic;
use super::syntax::{either, is, syntax_error, want_integer};
use super::text::{MAX_STRING, edit_bytes, text_of};
use super::{Command, Copied, Keys, ReadCommand, Scope, Spec, WriteCommand, read, usual_growth, write};
use crate::resp::{Args, Reply, integer};
use crate::state::events::Class;
use crate::state::{Changed, Form, Keyspace, Value, View};
use crate::types::Stamp;
use bytes::Bytes;

/// What most commands here say of themselves.
const BASE: Spec = Spec {
    name: "",
    arity: 3,
    keys: Keys::ONE,
    scope: Scope::OneSlot,
    family: "bitmap",
    syntax: "",
    summary: "",
    complexity: "O(1)",
    since: "2.2.0",
    denyoom: false,
};

// -- Arguments

const BITS_MAX: u64 = (MAX_STRING as u64) * 8;

/// The offset of a bit, of `#n` the `n`th one of so many bits each.
fn bit_offset(text: &[u8], width: Option<u32>) -> Result<u64, Reply> {
    let wrong = || Reply::error("ERR bit offset is not an integer or out of range");
    let (text, scale) = match (text.strip_prefix(b"#"), width) {
        (Some(text), Some(width)) => (text, u64::from(width)),
        _ => (text, 1),
    };
    let offset = integer(text).and_then(|offset| u64::try_from(offset).ok()).ok_or_else(wrong)?;
    offset.checked_mul(scale).filter(|offset| *offset < BITS_MAX).ok_or_else(wrong)
}

fn bit(text: &[u8], wrong: &'static str) -> Result<bool, Reply> {
    match text {
        b"0" => Ok(false),
        b"1" => Ok(true),
        _ => Err(Reply::error(wrong)),
    }
}

/// `start` and `end` of BITCOUNT and BITPOS, either counting from the end if negative.
struct Span {
    start: i64,
    /// `None`: to the end, wherever that is.
    end: Option<i64>,
    bits: bool,
}

impl Span {
    const WHOLE: Span = Span { start: 0, end: None, bits: false };

    fn unit(word: Option<&Bytes>) -> Result<bool, Reply> {
        match word {
            None => Ok(false),
            Some(word) if is(word, "byte") => Ok(false),
            Some(word) if is(word, "bit") => Ok(true),
            Some(_) => Err(syntax_error()),
        }
    }

    /// The first and the last bit it means in a string of so many bytes; `None` if it means none.
    fn bits_of(&self, bytes: usize) -> Option<(u64, u64)> {
        let total = bytes as i64 * if self.bits { 8 } else { 1 };
        let (start, end) = (self.start, self.end.unwrap_or(-1));
        let from_end = |at: i64| if at < 0 { (total + at).max(0) } else { at };
        let (start, end) = (from_end(start), from_end(end).min(total - 1));
        if start > end {
            return None;
        }
        Some(if self.bits { (start as u64, end as u64) } else { (start as u64 * 8, end as u64 * 8 + 7) })
    }
}

// -- Bits of bytes

fn get_bit(bytes: &[u8], at: u64) -> bool {
    bytes.get((at / 8) as usize).is_some_and(|byte| byte & (0x80 >> (at % 8)) != 0)
}

fn set_bit(bytes: &mut [u8], at: u64, on: bool) {
    let mask = 0x80 >> (at % 8);
    let byte = &mut bytes[(at / 8) as usize];
    *byte = if on { *byte | mask } else { *byte & !mask };
}

/// The part of a byte that lies between the first and the last bit of a range.
fn mask_of(byte: usize, first: u64, last: u64) -> u8 {
    let start = (byte as u64) * 8;
    let head = if first > start { 0xffu8 >> (first - start) } else { 0xff };
    let tail = if last < start + 7 { 0xffu8 << (start + 7 - last) } else { 0xff };
    head & tail
}

fn count_bits(bytes: &[u8], first: u64, last: u64) -> u64 {
    let (from, to) = ((first / 8) as usize, (last / 8) as usize);
    if to - from < 2 {
        return (from..=to).map(|at| u64::from((bytes[at] & mask_of(at, first, last)).count_ones())).sum();
    }
    let inner = &bytes[from + 1..to];
    let (words, rest) = inner.as_chunks::<8>();
    let ends = [from, to].map(|at| u64::from((bytes[at] & mask_of(at, first, last)).count_ones()));
    ends[0]
        + ends[1]
        + words.iter().map(|word| u64::from(u64::from_ne_bytes(*word).count_ones())).sum::<u64>()
        + rest.iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>()
}

/// The first bit that is `on` in a range.
fn find_bit(bytes: &[u8], on: bool, first: u64, last: u64) -> Option<u64> {
    let (from, to) = ((first / 8) as usize, (last / 8) as usize);
    let none = if on { 0 } else { 0xff };
    let found = |at: usize| {
        let byte = if on { bytes[at] } else { !bytes[at] };
        let byte = byte & mask_of(at, first, last);
        (byte != 0).then(|| at as u64 * 8 + u64::from(byte.leading_zeros()))
    };
    found(from).or_else(|| {
        let inner = bytes.get(from + 1..=to)?;
        inner.iter().position(|byte| *byte != none).and_then(|at| found(from + 1 + at))
    })
}

// -- Single bits

struct Setbit {
    key: Bytes,
    at: u64,
    on: bool,
}

impl Setbit {
    fn run(self, keyspace: &mut Keyspace) -> Result<Reply, Reply> {
        let text = text_of(keyspace.get(&self.key))?;
        let needed = (self.at / 8) as usize + 1;
        let bytes = text.as_deref().unwrap_or_default();
        let (grows, old) = (bytes.len() < needed, get_bit(bytes, self.at));
        if grows || old != self.on {
            let empty = || Value::formed(Bytes::new(), Form::Edited);
            keyspace.change_or_create(&self.key, empty, |value| {
                edit_bytes(value, |bytes| {
                    if grows {
                        bytes.resize(needed, 0);
                    }
                    set_bit(bytes, self.at, self.on);
                });
                Changed::Yes(())
            });
            keyspace.notify(Class::String, "setbit", &self.key);
        }
        Ok(Reply::Int(old.into()))
    }
}

impl WriteCommand for Setbit {
    const SPEC: Spec = Spec {
        name: "setbit",
        arity: 4,
        syntax: "SETBIT key offset value",
        summary: "Sets or clears the bit at an offset of a string, which grows as needed; returns the bit it was.",
        denyoom: true,
        ..BASE
    };

    fn parse(args: &Args) -> Result<Setbit, Reply> {
        let at = bit_offset(&args[2], None)?;
        let on = bit(&args[3], "ERR bit is not an integer or out of range")?;
        Ok(Setbit { key: args[1].clone(), at, on })
    }

    fn growth(args: &Args) -> u64 {
        usual_growth(args).saturating_add(Setbit::parse(args).map_or(0, |call| call.at / 8 + 1))
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        either(self.run(keyspace))
    }
}

struct Getbit {
    key: Bytes,
    at: u64,
}

impl ReadCommand for Getbit {
    const SPEC: Spec = Spec {
        name: "getbit",
        syntax: "GETBIT key offset",
        summary: "Returns the bit at an offset of a string.",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Getbit, Reply> {
        Ok(Getbit { key: args[1].clone(), at: bit_offset(&args[2], None)? })
    }

    fn read(self, view: &View<'_>) -> Reply {
        let text = text_of(view.get(&self.key));
        either(text.map(|text| Reply::Int(text.is_some_and(|text| get_bit(&text, self.at)).into())))
    }
}

// -- Ranges of bits

struct Bitcount {
    key: Bytes,
    span: Span,
}

impl ReadCommand for Bitcount {
    const SPEC: Spec = Spec {
        name: "bitcount",
        arity: -2,
        syntax: "BITCOUNT key [start end [BYTE | BIT]]",
        summary: "Counts the bits that are set in a string, or in a range of it.",
        complexity: "O(N)",
        since: "2.6.0",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Bitcount, Reply> {
        let span = match args.len() {
            2 => Span::WHOLE,
            4 | 5 => {
                let (start, end) = (want_integer(&args[2])?, want_integer(&args[3])?);
                Span { start, end: Some(end), bits: Span::unit(args.get(4))? }
            }
            _ => return Err(syntax_error()),
        };
        Ok(Bitcount { key: args[1].clone(), span })
    }

    fn read(self, view: &View<'_>) -> Reply {
        either(text_of(view.get(&self.key)).map(|text| {
            let Some(text) = text else { return Reply::Int(0) };
            // Unlike BITPOS: what is the wrong way round stays so, however short the string.
            let reversed = self.span.end.is_some_and(|end| self.span.start < 0 && end < 0 && self.span.start > end);
            let range = self.span.bits_of(text.len()).filter(|_| !reversed);
            Reply::Int(range.map_or(0, |(first, last)| count_bits(&text, first, last)) as i64)
        }))
    }
}

struct Bitpos {
    key: Bytes,
    on: bool,
    span: Span,
}

impl ReadCommand for Bitpos {
    const SPEC: Spec = Spec {
        name: "bitpos",
        arity: -3,
        syntax: "BITPOS key bit [start [end [BYTE | BIT]]]",
        summary: "Finds the first bit that is set, or clear, in a string or in a range of it.",
        complexity: "O(N)",
        since: "2.8.7",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Bitpos, Reply> {
        let on = match want_integer(&args[2])? {
            0 => false,
            1 => true,
            _ => return Err(Reply::error("ERR The bit argument must be 1 or 0.")),
        };
        if args.len() > 6 {
            return Err(syntax_error());
        }
        let start = args.get(3).map_or(Ok(0), |word| want_integer(word))?;
        let bits = Span::unit(args.get(5))?;
        let end = args.get(4).map(|word| want_integer(word)).transpose()?;
        Ok(Bitpos { key: args[1].clone(), on, span: Span { start, end, bits } })
    }

    fn read(self, view: &View<'_>) -> Reply {
        either(text_of(view.get(&self.key)).map(|text| {
            let Some(text) = text else { return Reply::Int(if self.on { -1 } else { 0 }) };
            let Some((first, last)) = self.span.bits_of(text.len()) else { return Reply::Int(-1) };
            match find_bit(&text, self.on, first, last) {
                Some(at) => Reply::Int(at as i64),
                // Behind the end a string goes on with clear bits, unless the end was given.
                None if !self.on && self.span.end.is_none() => Reply::Int(text.len() as i64 * 8),
                None => Reply::Int(-1),
            }
        }))
    }
}

// -- Operations on whole strings

#[derive(Clone, Copy, PartialEq)]
enum Operation {
    And,
    Or,
    Xor,
    Not,
}

struct Bitop {
    operation: Operation,
    target: Bytes,
    sources: Args,
}

impl Bitop {
    fn run(self, keyspace: &mut Keyspace) -> Result<Reply, Reply> {
        let mut sources = Vec::with_capacity(self.sources.len());
        for key in &self.sources {
            // Shared if long: no source is copied but into the result.
            sources.push(text_of(keyspace.get(key))?.map_or(Bytes::new(), |text| text.to_bytes(64)));
        }
        let length = sources.iter().map(Bytes::len).max().unwrap_or(0);
        if length == 0 {
            generic::delete(keyspace, &self.target);
            return Ok(Reply::Int(0));
        }
        let mut result = vec![0; length];
        result[..sources[0].len()].copy_from_slice(&sources[0]);
        let combine = |a: u8, b: u8| match self.operation {
            Operation::And => a & b,
            Operation::Or => a | b,
            Operation::Xor => a ^ b,
            Operation::Not => a,
        };
        for source in &sources[1..] {
            // A shorter one goes on with zeros.
            let (common, rest) = result.split_at_mut(source.len());
            common.iter_mut().zip(source).for_each(|(byte, other)| *byte = combine(*byte, *other));
            rest.iter_mut().for_each(|byte| *byte = combine(*byte, 0));
        }
        if self.operation == Operation::Not {
            result.iter_mut().for_each(|byte| *byte = !*byte);
        }
        keyspace.set(&self.target, Value::formed(result.into(), Form::Edited), None);
        keyspace.notify(Class::String, "set", &self.target);
        Ok(Reply::count(length))
    }
}

impl WriteCommand for Bitop {
    const SPEC: Spec = Spec {
        name: "bitop",
        arity: -4,
        keys: Keys::Range { first: 2, last: -1, step: 1 },
        syntax: "BITOP AND | OR | XOR | NOT destkey key [key ...]",
        summary: "Combines strings bit by bit into another; returns its length.",
        complexity: "O(N)",
        since: "2.6.0",
        denyoom: true,
        ..BASE
    };

    fn parse(args: &Args) -> Result<Bitop, Reply> {
        let operation = match &args[1][..] {
            word if is(word, "and") => Operation::And,
            word if is(word, "or") => Operation::Or,
            word if is(word, "xor") => Operation::Xor,
            word if is(word, "not") => Operation::Not,
            _ => return Err(syntax_error()),
        };
        if operation == Operation::Not && args.len() != 4 {
            return Err(Reply::error("ERR BITOP NOT must be called with a single source key."));
        }
        Ok(Bitop { operation, target: args[2].clone(), sources: args[3..].into() })
    }

    const COPIED: Option<Copied> =
        Some(|args, size| args.iter().skip(3).map(|source| size(source).bytes).max().unwrap_or(0));

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        either(self.run(keyspace))
    }
}

// -- Integers of any width

/// `u8`, `i64`, ...
#[derive(Clone, Copy)]
struct Width {
    signed: bool,
    bits: u32,
}

impl Width {
    fn parse(text: &[u8]) -> Result<Width, Reply> {
        let wrong = || {
            Reply::error(
                "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is.",
            )
        };
        let (kind, digits) = text.split_first().ok_or_else(wrong)?;
        let signed = match kind {
            b'i' => true,
            b'u' => false,
            _ => return Err(wrong()),
        };
        let most = if signed { 64 } else { 63 };
        let bits = integer(digits).filter(|bits| (1..=most).contains(bits)).ok_or_else(wrong)?;
        Ok(Width { signed, bits: bits as u32 })
    }

    fn range(self) -> (i128, i128) {
        match self.signed {
            true => (-(1i128 << (self.bits - 1)), (1i128 << (self.bits - 1)) - 1),
            false => (0, (1i128 << self.bits) - 1),
        }
    }

    /// What its lowest bits say.
    fn wrap(self, value: i128) -> i128 {
        let low = value & ((1i128 << self.bits) - 1);
        if self.signed && low >> (self.bits - 1) != 0 { low - (1i128 << self.bits) } else { low }
    }

    fn read(self, bytes: &[u8], at: u64) -> i128 {
        let bits = (at..at + u64::from(self.bits)).fold(0i128, |value, at| value << 1 | i128::from(get_bit(bytes, at)));
        self.wrap(bits)
    }

    fn write(self, bytes: &mut [u8], at: u64, value: i128) {
        (0..self.bits).for_each(|n| set_bit(bytes, at + u64::from(n), value >> (self.bits - 1 - n) & 1 != 0));
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Overflow {
    Wrap,
    Sat,
    Fail,
}

impl Overflow {
    /// The value to write, if one is.
    fn settle(self, width: Width, value: i128) -> Option<i128> {
        let (least, most) = width.range();
        match self {
            _ if (least..=most).contains(&value) => Some(value),
            Overflow::Wrap => Some(width.wrap(value)),
            Overflow::Sat => Some(value.clamp(least, most)),
            Overflow::Fail => None,
        }
    }
}

#[derive(Clone, Copy)]
enum Step {
    Get,
    Set(i64),
    Add(i64),
}

struct Part {
    width: Width,
    at: u64,
    step: Step,
    overflow: Overflow,
}

/// The parts of BITFIELD and BITFIELD_RO.
fn parts(args: &Args, writes: bool) -> Result<Vec<Part>, Reply> {
    let (mut at, mut overflow, mut parts) = (2, Overflow::Wrap, Vec::new());
    while let Some(word) = args.get(at) {
        let rest = args.len() - at - 1;
        let takes = match &word[..] {
            word if is(word, "get") && rest >= 2 => 2,
            word if (is(word, "set") || is(word, "incrby")) && rest >= 3 => 3,
            word if is(word, "overflow") && rest >= 1 => {
                overflow = match &args[at + 1][..] {
                    kind if is(kind, "wrap") => Overflow::Wrap,
                    kind if is(kind, "sat") => Overflow::Sat,
                    kind if is(kind, "fail") => Overflow::Fail,
                    _ => return Err(Reply::error("ERR Invalid OVERFLOW type specified")),
                };
                at += 2;
                continue;
            }
            _ => return Err(syntax_error()),
        };
        let width = Width::parse(&args[at + 1])?;
        let place = bit_offset(&args[at + 2], Some(width.bits))?;
        let step = match takes {
            2 => Step::Get,
            _ if !writes => return Err(Reply::error("ERR BITFIELD_RO only supports the GET subcommand")),
            _ => {
                let number = want_integer(&args[at + 3])?;
                if is(word, "set") { Step::Set(number) } else { Step::Add(number) }
            }
        };
        parts.push(Part { width, at: place, step, overflow });
        at += takes + 1;
    }
    Ok(parts)
}

fn number(value: i128) -> Reply {
    Reply::Int(value as i64)
}

struct Bitfield {
    key: Bytes,
    parts: Vec<Part>,
}

impl Bitfield {
    /// Bytes that the string has afterwards, at least.
    fn length(&self) -> usize {
        let ends = self.parts.iter().filter(|part| !matches!(part.step, Step::Get));
        ends.map(|part| (part.at + u64::from(part.width.bits)).div_ceil(8) as usize).max().unwrap_or(0)
    }

    fn run(self, keyspace: &mut Keyspace) -> Result<Reply, Reply> {
        let length = self.length();
        let text = text_of(keyspace.get(&self.key))?;
        let bytes = text.as_deref().unwrap_or_default();
        // Where no part changes what is there now, none changes what another left.
        if length <= bytes.len() && self.parts.iter().all(|part| part.leaves(bytes)) {
            return Ok(Reply::Array(self.parts.iter().map(|part| part.outcome(bytes).1).collect()));
        }
        let mut replies = Vec::with_capacity(self.parts.len());
        let empty = || Value::formed(Bytes::new(), Form::Edited);
        let mut told = false;
        keyspace.change_or_create(&self.key, empty, |value| {
            edit_bytes(value, |bytes| {
                let grows = bytes.len() < length;
                if grows {
                    bytes.resize(length, 0);
                }
                for part in &self.parts {
                    let before = part.width.read(bytes, part.at);
                    let reply = part.run(bytes);
                    let writes = !matches!(part.step, Step::Get) && reply != Reply::Nil;
                    told |= writes && (grows || part.width.read(bytes, part.at) != before);
                    replies.push(reply);
                }
            });
            Changed::Yes(())
        });
        if told {
            keyspace.notify(Class::String, "setbit", &self.key);
        }
        Ok(Reply::Array(replies))
    }
}

impl Part {
    fn run(&self, bytes: &mut [u8]) -> Reply {
        let (new, reply) = self.outcome(bytes);
        if let Some(new) = new {
            self.width.write(bytes, self.at, new);
        }
        reply
    }

    /// Whether it would leave the bytes as they are.
    fn leaves(&self, bytes: &[u8]) -> bool {
        self.outcome(bytes).0.is_none_or(|new| new == self.width.read(bytes, self.at))
    }

    /// What it would write, if it writes, and its reply.
    fn outcome(&self, bytes: &[u8]) -> (Option<i128>, Reply) {
        let old = self.width.read(bytes, self.at);
        let wanted = match self.step {
            Step::Get => return (None, number(old)),
            // An unsigned field takes the number's bits: a negative one is a very large one.
            Step::Set(value) if !self.width.signed => i128::from(value as u64),
            Step::Set(value) => i128::from(value),
            Step::Add(by) => old + i128::from(by),
        };
        let Some(new) = self.overflow.settle(self.width, wanted) else { return (None, Reply::Nil) };
        (Some(new), number(if matches!(self.step, Step::Set(_)) { old } else { new }))
    }
}

impl WriteCommand for Bitfield {
    const SPEC: Spec = Spec {
        name: "bitfield",
        arity: -2,
        syntax: "BITFIELD key [GET encoding offset | [OVERFLOW WRAP | SAT | FAIL] SET encoding offset value | INCRBY \
                 encoding offset increment ...]",
        summary: "Reads, sets and increments integers of any width that lie in a string.",
        complexity: "O(1) for each part",
        since: "3.2.0",
        denyoom: true,
        ..BASE
    };

    fn parse(args: &Args) -> Result<Bitfield, Reply> {
        Ok(Bitfield { key: args[1].clone(), parts: parts(args, true)? })
    }

    fn growth(args: &Args) -> u64 {
        usual_growth(args).saturating_add(Bitfield::parse(args).map_or(0, |call| call.length() as u64))
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        either(self.run(keyspace))
    }
}

struct BitfieldRo {
    key: Bytes,
    parts: Vec<Part>,
}

impl ReadCommand for BitfieldRo {
    const SPEC: Spec = Spec {
        name: "bitfield_ro",
        arity: -2,
        syntax: "BITFIELD_RO key [GET encoding offset [GET encoding offset ...]]",
        summary: "Reads integers of any width that lie in a string.",
        complexity: "O(1) for each part",
        since: "6.0.0",
        ..BASE
    };

    fn parse(args: &Args) -> Result<BitfieldRo, Reply> {
        Ok(BitfieldRo { key: args[1].clone(), parts: parts(args, false)? })
    }

    fn read(self, view: &View<'_>) -> Reply {
        either(text_of(view.get(&self.key)).map(|text| {
            let bytes = text.as_deref().unwrap_or_default();
            Reply::Array(self.parts.iter().map(|part| number(part.width.read(bytes, part.at))).collect())
        }))
    }
}

pub static BITMAP: &[Command] = &[
    read::<Bitcount>(),
    write::<Bitfield>(),
    read::<BitfieldRo>(),
    write::<Bitop>(),
    read::<Bitpos>(),
    read::<Getbit>(),
    write::<Setbit>(),
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Else a WATCH of the key fails, and who keeps it is told, for nothing.
    #[test]
    fn what_changes_no_bit_is_no_change() {
        let mut keyspace = Keyspace::new(1);
        let mut run = |line: &str| {
            let args = crate::resp::split_words(line.as_bytes()).unwrap();
            let before = keyspace.version();
            let reply = crate::commands::apply(&args, &mut keyspace, &Stamp::default());
            (reply, keyspace.version() - before)
        };
        let numbers = |all: &[i64]| Reply::Array(all.iter().map(|n| Reply::Int(*n)).collect());
        for (line, reply, changes) in [
            ("SETBIT a 0 0", Reply::Int(0), 1),
            ("SETBIT a 0 0", Reply::Int(0), 0),
            ("SETBIT a 0 1", Reply::Int(0), 1),
            ("SETBIT a 0 1", Reply::Int(1), 0),
            ("SETBIT a 90 0", Reply::Int(0), 1),
            ("BITFIELD b GET u8 0", numbers(&[0]), 0),
            ("BITFIELD b SET i5 0 0", numbers(&[0]), 1),
            ("BITFIELD b SET i5 0 0 GET i5 0", numbers(&[0, 0]), 0),
            ("BITFIELD b SET i5 0 1 SET i5 0 0", numbers(&[0, 1]), 1),
            ("BITFIELD b INCRBY i5 0 1 GET i5 0", numbers(&[1, 1]), 1),
            ("BITFIELD b SET u2 0 3 OVERFLOW SAT INCRBY u2 0 1", numbers(&[0, 3]), 1),
            ("BITFIELD b OVERFLOW SAT INCRBY u2 0 1", numbers(&[3]), 0),
            ("BITFIELD b OVERFLOW FAIL INCRBY u2 0 1", Reply::Array(vec![Reply::Nil]), 0),
            ("BITFIELD b SET i5 90 0", numbers(&[0]), 1),
        ] {
            assert_eq!(run(line), (reply, changes), "{line}");
        }
    }

    proptest! {
        #[test]
        fn ranges_are_those_of_bit_by_bit(bytes in prop::collection::vec(prop_oneof![Just(0), Just(255), any::<u8>()], 1..40), ends in any::<[u16; 2]>()) {
            let [a, b] = ends.map(|end| u64::from(end) % (bytes.len() as u64 * 8));
            let (first, last) = (a.min(b), a.max(b));
            let bits: Vec<bool> = (first..=last).map(|at| get_bit(&bytes, at)).collect();
            prop_assert_eq!(count_bits(&bytes, first, last), bits.iter().filter(|on| **on).count() as u64);
            for on in [true, false] {
                let found = bits.iter().position(|bit| *bit == on).map(|at| first + at as u64);
                prop_assert_eq!(find_bit(&bytes, on, first, last), found);
            }
        }

        #[test]
        fn an_integer_is_read_as_it_was_written(
            mut bytes in prop::collection::vec(any::<u8>(), 16), at in 0..60u64, bits in 1..64u32, signed in any::<bool>(), value in any::<i64>(),
        ) {
            let (width, before) = (Width { signed, bits }, bytes.clone());
            let value = width.wrap(value.into());
            width.write(&mut bytes, at, value);
            prop_assert_eq!(width.read(&bytes, at), value);
            // Nothing else changed.
            let inside = at..at + u64::from(bits);
            prop_assert!((0..128).filter(|at| !inside.contains(at)).all(|at| get_bit(&bytes, at) == get_bit(&before, at)));
        }
    }
}
