//! Requests as somebody makes them who wants to break the server: right in form, most of them, with arguments from the edges.
//!
//! They follow the syntax that each command tells of itself, so that a new command is met without a word here. Words that
//! are names stand for something; what, is guessed from the name. Where they come from is a [`Choices`]: a generator of
//! random numbers, or the bytes of a fuzzer.

use crate::commands::{self, Command};
use crate::resp::Args;
use bytes::Bytes;

/// What decides.
pub trait Choices {
    /// A number below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize;

    fn one_in(&mut self, end: usize) -> bool {
        self.below(end) == 0
    }

    fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }
}

impl Choices for fastrand::Rng {
    fn below(&mut self, end: usize) -> usize {
        self.usize(..end)
    }
}

/// Keys, and the families whose commands mostly use them.
const KEYS: &[(&str, &[&str])] = &[
    ("string", &["s", "t", "n"]),
    ("bitmap", &["s", "b"]),
    ("hyperloglog", &["p", "q", "s"]),
    ("hash", &["h", "i"]),
    ("list", &["l", "m"]),
    ("set", &["e", "f"]),
    ("sorted-set", &["z", "y", "g"]),
    ("geo", &["g", "z"]),
    ("stream", &["x", "w"]),
    ("cuckoo", &["c"]),
    ("bloom", &["o"]),
];

/// The families whose commands mostly use this key.
pub fn families_of(key: &str) -> impl Iterator<Item = &'static str> + use<'_> {
    KEYS.iter().filter(move |(_, keys)| keys.contains(&key)).map(|(family, _)| *family)
}

const INTEGERS: &[&str] = &[
    "0",
    "1",
    "2",
    "3",
    "5",
    "8",
    "16",
    "63",
    "64",
    "65",
    "100",
    "127",
    "128",
    "255",
    "1000",
    "-1",
    "-2",
    "-3",
    "-100",
    "4095",
    "65535",
    "65536",
    "1000000",
    "2147483647",
    "2147483648",
    "-2147483648",
    "-2147483649",
    "4294967295",
    "4294967296",
    "536870911",
    "536870912",
    "4611686018427387903",
    "9223372036854775806",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775807",
    "-9223372036854775808",
    "-9223372036854775809",
    "18446744073709551614",
    "18446744073709551615",
    "18446744073709551616",
    "70368744177663",
    "70368744177664",
    "9223372036854775",
    "-9223372036854775",
    "1099511627776",
];

const FLOATS: &[&str] = &[
    "0",
    "-0",
    "0.0",
    "1",
    "-1",
    "0.5",
    "1e-320",
    "5e-324",
    "1.7976931348623157e308",
    "-1.7976931348623157e308",
    "1e400",
    "inf",
    "-inf",
    "+inf",
    "nan",
    "-nan",
    "1e17",
    "1e-7",
    "3.0000000000000001",
    "179.9999999",
    "180",
    "-180",
    "85.05112878",
    "-85.05112878",
    "85.0511287799",
    "90",
    "0x10",
    "9007199254740993",
    "6372797.560856",
    "20037508.34",
    "1e300",
    "12.5",
    "13.361389",
    "38.115556",
];

/// Seconds and milliseconds, from now or since 1970, that are long past or far ahead.
const FAR: &[&str] =
    &["0", "-1", "1000000", "3600000", "100000000", "4102444800", "4102444800123", "9223372036854775807"];

const IDS: &[&str] = &[
    "*",
    "0",
    "0-0",
    "0-1",
    "1-1",
    "1",
    "2-*",
    "5-5",
    "-",
    "+",
    "$",
    ">",
    "(1-1",
    "(5",
    "18446744073709551615-18446744073709551615",
    "18446744073709551615-18446744073709551614",
    "18446744073709551615-0",
    "18446744073709551615",
    "18446744073709551614-*",
    "18446744073709551615-*",
    "0-18446744073709551615",
    "(18446744073709551615-18446744073709551615",
    "(0-0",
    "1000-0",
    "2000-1",
];

const WORDS: &[&str] = &[
    "",
    "a",
    "b",
    "c",
    "abc",
    "member",
    "*",
    "?",
    "[a-",
    "[^]",
    "\\",
    "a*b*c*",
    "\0",
    "12",
    "-7",
    "007",
    "hello world",
    "#",
    "nosort",
    "h->a",
    "*->",
    "u8",
    "i64",
    "u63",
    "i1",
    "u64",
    "i65",
    "#0",
    "#100",
    "(1",
    "(inf",
    "[a",
    "(b",
    "-",
    "+",
    "nx",
    "xx",
    "get",
    "ch",
    "incr",
    "km",
    "ft",
    "HYLL",
    "GET",
    "MATCH",
    "COUNT",
    "STORE",
    "ANY",
    "LIMIT",
    "WITHSCORES",
    "BYBOX",
    "FORCE",
    "FIELDS",
];

/// Most bytes that a single call may add: the rest is tried one by one.
pub const GROWTH_MAX: u64 = 2 << 20;

/// Makes requests.
pub struct Nasty<C> {
    pub choices: C,
    /// A dump of something, to restore.
    pub dump: Bytes,
    /// Times are far away or past: nothing dies while it is looked at.
    pub far: bool,
}

/// A piece of a command's syntax.
#[derive(Debug, Clone, PartialEq)]
enum Piece {
    Word(String),
    /// In brackets or angles: may be left out, or not; one of the parts between bars.
    Group {
        optional: bool,
        repeated: bool,
        parts: Vec<Vec<Piece>>,
    },
}

/// Takes a syntax apart: `[x ...]` and `[x | y z]`, one within the other.
fn pieces<'a>(words: &mut impl Iterator<Item = &'a str>, end: Option<&str>) -> (Vec<Vec<Piece>>, bool) {
    let (mut parts, mut repeated) = (vec![Vec::new()], false);
    while let Some(word) = words.next() {
        let piece = match word {
            word if Some(word) == end => break,
            "[" | "<" => {
                let (parts, repeated) = pieces(words, Some(if word == "[" { "]" } else { ">" }));
                Piece::Group { optional: word == "[", repeated, parts }
            }
            "|" => {
                parts.push(Vec::new());
                continue;
            }
            "..." => {
                repeated = true;
                continue;
            }
            word => Piece::Word(word.into()),
        };
        parts.last_mut().expect("it begins with one").push(piece);
    }
    (parts, repeated)
}

impl<C: Choices> Nasty<C> {
    pub fn new(choices: C) -> Nasty<C> {
        Nasty { choices, dump: Bytes::new(), far: false }
    }

    /// A request for a command of the table, which is [`commands::all`] or a part of it.
    pub fn request(&mut self, table: &[(String, &'static Command)]) -> Args {
        let (name, command) = &table[self.choices.below(table.len())];
        let spaced =
            command.spec.syntax.replace('[', " [ ").replace(']', " ] ").replace('<', " < ").replace('>', " > ");
        let name_words = name.split('|').count();
        let mut words = spaced.split_whitespace().skip(name_words);
        let (parts, _) = pieces(&mut words, None);
        let mut out: Vec<Bytes> = name.split('|').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
        self.write(&parts, command.spec.family, &mut out);
        self.disturb(name_words, &mut out);
        out.into()
    }

    /// One of the parts, or all of them with one of the two words beside each bar.
    fn write(&mut self, parts: &[Vec<Piece>], family: &str, out: &mut Vec<Bytes>) {
        if parts.len() > 1 && self.choices.one_in(2) {
            let part = self.choices.below(parts.len());
            return self.sequence(&parts[part], family, out);
        }
        let mut all: Vec<Piece> = Vec::new();
        for part in parts {
            match (all.last().cloned(), part.split_first()) {
                (Some(last), Some((first, rest))) => {
                    if self.choices.one_in(2) {
                        let at = all.len() - 1;
                        all[at] = first.clone();
                    } else {
                        let at = all.len() - 1;
                        all[at] = last;
                    }
                    all.extend_from_slice(rest);
                }
                _ => all.extend_from_slice(part),
            }
        }
        self.sequence(&all, family, out);
    }

    fn sequence(&mut self, pieces: &[Piece], family: &str, out: &mut Vec<Bytes>) {
        let mut at = 0;
        while let Some(piece) = pieces.get(at) {
            at += 1;
            match piece {
                // So many of what follows.
                Piece::Word(word) if word.starts_with("num") && word.len() > 3 && self.choices.below(8) > 0 => {
                    let count = 1 + self.choices.below(3);
                    out.push(Bytes::from(count.to_string()));
                    let end =
                        pieces[at..].iter().position(|piece| matches!(piece, Piece::Group { repeated: true, .. }));
                    let end = end.map_or(pieces.len(), |end| at + end);
                    for _ in 0..count {
                        self.sequence(&pieces[at..end], family, out);
                    }
                    at = end + 1;
                }
                Piece::Word(word) => {
                    let word = self.word(word, family);
                    out.push(word);
                }
                Piece::Group { optional, repeated, parts } => {
                    let times = match (optional, repeated) {
                        (false, _) => 1,
                        (true, false) => usize::from(self.choices.one_in(3)),
                        (true, true) => [0, 0, 1, 2, 5, 40][self.choices.below(6)],
                    };
                    (0..times).for_each(|_| self.write(parts, family, out));
                }
            }
        }
    }

    /// What a word of a syntax stands for: itself, if it is in capitals.
    fn word(&mut self, word: &str, family: &str) -> Bytes {
        let text = Bytes::copy_from_slice;
        if !word.bytes().any(|byte| byte.is_ascii_lowercase()) {
            return text(word.as_bytes());
        }
        if self.choices.one_in(10) {
            return self.any();
        }
        let has = |parts: &[&str]| parts.iter().any(|part| word.contains(part));
        if has(&["key", "source", "dest", "dst", "src"]) && !word.starts_with("num") {
            return text(self.key(family).as_bytes());
        }
        if word == "serialized-value" {
            return self.dump.clone();
        }
        if word.starts_with("id") || has(&["-id", "threshold"]) || family == "stream" && matches!(word, "start" | "end")
        {
            return text(self.choices.of(IDS).as_bytes());
        }
        if has(&["itude", "radius", "width", "height", "score", "error", "min", "max"]) {
            return text(self.choices.of(FLOATS).as_bytes());
        }
        if self.far && has(&["second", "idle", "time"]) || word == "ms" {
            return text(self.choices.of(FAR).as_bytes());
        }
        if has(&["group", "consumer"]) {
            return text(self.choices.of(&["a", "b"]).as_bytes());
        }
        if word == "encoding" {
            return text(
                self.choices.of(&["u8", "i8", "u1", "i1", "u63", "i64", "i63", "u64", "i65", "u0", "i17"]).as_bytes(),
            );
        }
        if has(&["member", "field", "element", "item", "pivot", "value", "message"]) {
            return self.element();
        }
        if word == "pattern" {
            return text(self.choices.of(&["*", "a*", "*->a", "h->*", "#", "nosort", "[", "x?\\"]).as_bytes());
        }
        if word == "type" {
            return text(self.choices.of(&["string", "hash", "zset", "stream", "list"]).as_bytes());
        }
        if word == "increment" && self.choices.one_in(3) {
            return text(self.choices.of(FLOATS).as_bytes());
        }
        self.integer()
    }

    fn integer(&mut self) -> Bytes {
        match self.choices.below(4) {
            0 => Bytes::copy_from_slice(self.choices.of(INTEGERS).as_bytes()),
            _ => Bytes::from((self.choices.below(24) as i64 - 4).to_string()),
        }
    }

    fn element(&mut self) -> Bytes {
        match self.choices.below(16) {
            0 => Bytes::from(vec![b'e'; [63, 64, 65, 127, 128, 500, 1024, 1025, 4096, 9000][self.choices.below(10)]]),
            1 => Bytes::from(vec![0xff; self.choices.below(300)]),
            2 => Bytes::copy_from_slice(self.choices.of(INTEGERS).as_bytes()),
            3 => Bytes::copy_from_slice(self.choices.of(FLOATS).as_bytes()),
            4 => self.sketch(),
            5..9 => Bytes::copy_from_slice(self.choices.of(WORDS).as_bytes()),
            _ => Bytes::from(self.choices.below(200).to_string()),
        }
    }

    /// Something that begins as a HyperLogLog.
    fn sketch(&mut self) -> Bytes {
        let mut bytes = b"HYLL".to_vec();
        bytes.push(self.choices.below(3) as u8);
        bytes.resize(16, 0);
        match self.choices.below(4) {
            0 => bytes.resize(16 + 12_288, [0, 0xff, 0x55][self.choices.below(3)]),
            1 => bytes.extend([0x7f, 0xff]),
            _ => (0..self.choices.below(40)).for_each(|_| bytes.push(self.choices.below(256) as u8)),
        }
        bytes.into()
    }

    fn key(&mut self, family: &str) -> &'static str {
        let own = KEYS.iter().find(|(name, _)| *name == family).filter(|_| self.choices.below(12) > 0);
        let keys = own.map_or_else(|| KEYS[self.choices.below(KEYS.len())].1, |(_, keys)| keys);
        self.choices.of(keys)
    }

    fn any(&mut self) -> Bytes {
        match self.choices.below(6) {
            0 => Bytes::copy_from_slice(self.choices.of(INTEGERS).as_bytes()),
            1 => Bytes::copy_from_slice(self.choices.of(FLOATS).as_bytes()),
            2 => Bytes::copy_from_slice(self.choices.of(IDS).as_bytes()),
            3 => Bytes::copy_from_slice(self.key("").as_bytes()),
            4 => self.element(),
            _ => Bytes::copy_from_slice(self.choices.of(WORDS).as_bytes()),
        }
    }

    /// Now and then a word is missing, stands twice or is another one.
    fn disturb(&mut self, first: usize, out: &mut Vec<Bytes>) {
        while out.len() > first && self.choices.one_in(12) {
            let at = first + self.choices.below(out.len() - first);
            match self.choices.below(3) {
                0 => drop(out.remove(at)),
                1 => out.insert(at, out[at].clone()),
                _ => out[at] = self.any(),
            }
        }
    }

    /// Changes bytes, as damage or a fuzzer would, or somebody who knows the form.
    pub fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..1 + self.choices.below(3) {
            let (at, other) = (self.choices.below(bytes.len() + 1), self.choices.below(bytes.len() + 1));
            let (start, end) = (at.min(other), at.max(other));
            let few = end.min(start + 1 + self.choices.below(12));
            match self.choices.below(9) {
                0 => bytes.truncate(at),
                1 => drop(bytes.drain(start..few)),
                // Something twice, or elsewhere.
                2 => {
                    let piece = bytes[start..few].to_vec();
                    drop(bytes.splice(few..few, piece));
                }
                3 => {
                    let piece: Vec<u8> = bytes.drain(start..few).collect();
                    let to = self.choices.below(bytes.len() + 1);
                    drop(bytes.splice(to..to, piece));
                }
                4 => bytes.insert(at, self.choices.below(256) as u8),
                // A number at its largest.
                5 => drop(bytes.splice(start..few, [0xff; 9].into_iter().chain([1]))),
                6 => (start..few).for_each(|at| bytes[at] = [0, 0xff, 0x80, 0x7f, 1][self.choices.below(5)]),
                _ if at < bytes.len() => match self.choices.below(3) {
                    0 => bytes[at] ^= 1 << self.choices.below(8),
                    1 => bytes[at] = bytes[at].wrapping_add(1),
                    _ => bytes[at] = bytes[at].wrapping_sub(1),
                },
                _ => bytes.push(0),
            }
        }
    }
}

/// Whether trying the call would take long, because it is right and its result is large.
pub fn is_large(args: &Args, growth: Option<u64>) -> bool {
    let makes_filter = [&b"cf."[..], b"bf."].iter().any(|name| args[0].to_ascii_lowercase().starts_with(name));
    growth.unwrap_or(0) > if makes_filter { GROWTH_MAX / 8 } else { GROWTH_MAX }
}

/// Reads and writes of the tables.
pub fn table() -> Vec<(String, &'static Command)> {
    commands::all().filter(|(_, command)| command.is_read() || command.is_write()).collect()
}

/// A key that commands of this value's type use, by what its bytes begin with.
pub fn key_of(value: &[u8]) -> &'static str {
    match value.first() {
        Some(4..=5) => "h",
        Some(6..=7) => "l",
        Some(8..=10) => "e",
        Some(11 | 13) => "z",
        Some(12) => "x",
        Some(14) => "c",
        Some(15) => "o",
        _ => "s",
    }
}
