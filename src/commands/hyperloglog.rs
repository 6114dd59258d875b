//! HyperLogLog: how many different things were seen, to within a per cent, in 12 KB at most.
//!
//! The value is a string in Redis' own representation, so that GET, SET and DUMP carry it between the two; registers,
//! hash and estimator are Redis' too, and so are the numbers. The estimator is Otmar Ertl's ("New cardinality estimation
//! algorithms for HyperLogLog sketches", 2017).
//!
//! ```text
//! header   "HYLL"  encoding(1: 0 dense, 1 sparse)  zero(3)  cached count(8, its highest bit: not valid)
//! dense    16,384 registers of 6 bits, the lowest bits first
//! sparse   00llllll            l+1 registers are 0
//!          01llllll llllllll   l+1 registers are 0
//!          1vvvvvll            l+1 registers are v+1
//! ```
//!
//! The cached count is never written as valid: reading a count must not be a write. One that came with a value of Redis' is
//! believed, as there.

use super::syntax::either;
use super::text::text_of;
use super::{Command, Keys, ReadCommand, Scope, Spec, WriteCommand, read, usual_growth, write};
use crate::resp::{Args, Reply};
use crate::state::events::Class;
use crate::state::{EntryRef, Form, Keyspace, Value, View};
use crate::types::Stamp;
use bytes::Bytes;

/// What most commands here say of themselves.
const BASE: Spec = Spec {
    name: "",
    arity: -2,
    keys: Keys::ONE,
    scope: Scope::OneSlot,
    family: "hyperloglog",
    syntax: "",
    summary: "",
    complexity: "O(N)",
    since: "2.8.9",
    denyoom: false,
};

// -- The representation

const INDEX_BITS: u32 = 14;
const REGISTERS: usize = 1 << INDEX_BITS;
/// Bits of a hash that are not the register's number: the largest register is one more.
const RANK_BITS: usize = 64 - INDEX_BITS as usize;
const HEADER: usize = 16;
const DENSE: usize = HEADER + REGISTERS * 6 / 8;
/// As Redis' hll-sparse-max-bytes: a longer one becomes dense.
const SPARSE_MAX: usize = 3000;
/// Largest register that the sparse form can say.
const SPARSE_VALUE_MAX: u8 = 32;
const HASH_SEED: u64 = 0xadc8_3b19;

/// The registers of a HyperLogLog, and whether they were kept in the dense form.
struct Sketch {
    registers: Box<[u8; REGISTERS]>,
    dense: bool,
}

impl Sketch {
    fn empty() -> Sketch {
        Sketch { registers: Box::new([0; REGISTERS]), dense: false }
    }

    fn decode(bytes: &[u8]) -> Result<Sketch, Reply> {
        let not_one = || Reply::error("WRONGTYPE Key is not a valid HyperLogLog string value.");
        let corrupted = || Reply::error("INVALIDOBJ Corrupted HLL object detected");
        let header = bytes.get(..HEADER).filter(|header| header.starts_with(b"HYLL")).ok_or_else(not_one)?;
        let (mut sketch, body) = (Sketch::empty(), &bytes[HEADER..]);
        match header[4] {
            0 if bytes.len() == DENSE => sketch.read_dense(body),
            1 => sketch.read_sparse(body).ok_or_else(corrupted)?,
            _ => return Err(not_one()),
        }
        Ok(sketch)
    }

    fn read_dense(&mut self, body: &[u8]) {
        self.dense = true;
        // Four registers in three bytes.
        for (four, three) in self.registers.as_chunks_mut::<4>().0.iter_mut().zip(body.as_chunks::<3>().0) {
            let bits = u32::from_le_bytes([three[0], three[1], three[2], 0]);
            *four = [0, 6, 12, 18].map(|shift| (bits >> shift & 63) as u8);
        }
    }

    fn read_sparse(&mut self, mut body: &[u8]) -> Option<()> {
        let mut at = 0;
        while let Some((&code, rest)) = body.split_first() {
            body = rest;
            let (value, run) = match code >> 6 {
                0 => (0, usize::from(code & 63) + 1),
                1 => {
                    let (&low, rest) = body.split_first()?;
                    body = rest;
                    (0, (usize::from(code & 63) << 8 | usize::from(low)) + 1)
                }
                _ => ((code >> 2 & 31) + 1, usize::from(code & 3) + 1),
            };
            self.registers.get_mut(at..at + run)?.fill(value);
            at += run;
        }
        (at == REGISTERS).then_some(())
    }

    fn encode(&self) -> Bytes {
        let sparse = if self.dense { None } else { self.to_sparse() };
        let mut out = vec![0; HEADER];
        out[..4].copy_from_slice(b"HYLL");
        out[4] = u8::from(sparse.is_some());
        out[15] = 0x80;
        match sparse {
            Some(body) => out.extend(body),
            None => out.extend(self.registers.as_chunks::<4>().0.iter().flat_map(|four| {
                let bits = four.iter().rev().fold(0u32, |bits, register| bits << 6 | u32::from(*register));
                let [a, b, c, _] = bits.to_le_bytes();
                [a, b, c]
            })),
        }
        Bytes::from(out)
    }

    /// `None` if that form cannot say it or would be too long.
    fn to_sparse(&self) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        for run in self.registers.chunk_by(|a, b| a == b) {
            let (value, mut left) = (run[0], run.len());
            if value > SPARSE_VALUE_MAX || out.len() > SPARSE_MAX - HEADER {
                return None;
            }
            while left > 0 {
                let most = match value {
                    0 if left > 64 => REGISTERS,
                    0 => 64,
                    _ => 4,
                };
                let length = left.min(most);
                left -= length;
                let said = length - 1;
                match value {
                    0 if most == 64 => out.push(said as u8),
                    0 => out.extend([0x40 | (said >> 8) as u8, said as u8]),
                    value => out.push(0x80 | (value - 1) << 2 | said as u8),
                }
            }
        }
        (out.len() <= SPARSE_MAX - HEADER).then_some(out)
    }

    /// Whether a register changed.
    fn add(&mut self, element: &[u8]) -> bool {
        let hash = murmur64a(element, HASH_SEED);
        let rest = hash >> INDEX_BITS | 1 << RANK_BITS;
        let rank = rest.trailing_zeros() as u8 + 1;
        let register = &mut self.registers[hash as usize % REGISTERS];
        let changed = rank > *register;
        *register = rank.max(*register);
        changed
    }

    fn merge(&mut self, other: &Sketch) {
        self.dense |= other.dense;
        self.registers.iter_mut().zip(other.registers.iter()).for_each(|(mine, theirs)| *mine = (*mine).max(*theirs));
    }

    fn count(&self) -> i64 {
        let mut histogram = [0u32; 64];
        self.registers.iter().for_each(|register| histogram[usize::from(*register)] += 1);
        let m = REGISTERS as f64;
        let mut z = m * tau((m - f64::from(histogram[RANK_BITS + 1])) / m);
        for count in histogram[1..=RANK_BITS].iter().rev() {
            z = (z + f64::from(*count)) * 0.5;
        }
        z += m * sigma(f64::from(histogram[0]) / m);
        match (0.5 / std::f64::consts::LN_2 * m * m / z).round() {
            // No elements make such registers. Redis answers what its processor makes of a number without a place.
            count if count >= i64::MAX as f64 => i64::MIN,
            count => count as i64,
        }
    }
}

fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if z == before {
            return z;
        }
    }
}

fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x).powi(2) * y;
        if z == before {
            return z / 3.0;
        }
    }
}

/// MurmurHash2, 64-bit version for 64-bit machines (Austin Appleby, public domain), read as little-endian everywhere.
fn murmur64a(bytes: &[u8], seed: u64) -> u64 {
    const M: u64 = 0xc6a4_a793_5bd1_e995;
    let mut hash = seed ^ (bytes.len() as u64).wrapping_mul(M);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let mut k = u64::from_le_bytes(*word).wrapping_mul(M);
        k = (k ^ k >> 47).wrapping_mul(M);
        hash = (hash ^ k).wrapping_mul(M);
    }
    if !rest.is_empty() {
        let mut tail = [0; 8];
        tail[..rest.len()].copy_from_slice(rest);
        hash = (hash ^ u64::from_le_bytes(tail)).wrapping_mul(M);
    }
    hash = (hash ^ hash >> 47).wrapping_mul(M);
    hash ^ hash >> 47
}

/// The sketch of an entry, an empty one if there is no entry.
fn sketch_of(entry: Option<EntryRef<'_>>) -> Result<Sketch, Reply> {
    text_of(entry)?.map_or_else(|| Ok(Sketch::empty()), |text| Sketch::decode(&text))
}

/// The count that a value brings along, if it says that it is valid.
fn cached_count(sketch: &[u8]) -> Option<i64> {
    let count = i64::from_le_bytes(*sketch.get(8..)?.first_chunk()?);
    (count >= 0).then_some(count)
}

/// Bytes that a sketch takes at most.
const fn most() -> u64 {
    DENSE as u64
}

// -- The commands

struct Pfadd {
    key: Bytes,
    elements: Args,
}

impl Pfadd {
    fn run(self, keyspace: &mut Keyspace) -> Result<Reply, Reply> {
        let old = keyspace.get(&self.key);
        let is_new = old.is_none();
        let mut sketch = sketch_of(old)?;
        let mut changed = is_new;
        for element in &self.elements {
            changed |= sketch.add(element);
        }
        if changed {
            put(keyspace, &self.key, &sketch);
        }
        Ok(Reply::Int(changed.into()))
    }
}

/// Stores a sketch; the deadline of a key that is there is kept.
fn put(keyspace: &mut Keyspace, key: &[u8], sketch: &Sketch) {
    let value = Value::formed(sketch.encode(), Form::Edited);
    if keyspace.contains(key) {
        keyspace.edit(key, |old| *old = value);
    } else {
        keyspace.set(key, value, None);
    }
    keyspace.notify(Class::String, "pfadd", key);
}

impl WriteCommand for Pfadd {
    const SPEC: Spec = Spec {
        name: "pfadd",
        syntax: "PFADD key [element [element ...]]",
        summary: "Adds elements to a HyperLogLog; returns 1 if its estimate may have changed.",
        denyoom: true,
        ..BASE
    };

    fn parse(args: &Args) -> Result<Pfadd, Reply> {
        Ok(Pfadd { key: args[1].clone(), elements: args[2..].into() })
    }

    fn growth(args: &Args) -> u64 {
        usual_growth(&args[..2].into()).saturating_add(most())
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        either(self.run(keyspace))
    }
}

struct Pfcount(Args);

impl ReadCommand for Pfcount {
    const SPEC: Spec = Spec {
        name: "pfcount",
        keys: Keys::ALL,
        syntax: "PFCOUNT key [key ...]",
        summary: "Estimates how many different elements were added to one or more HyperLogLogs together.",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Pfcount, Reply> {
        Ok(Pfcount(args[1..].into()))
    }

    fn read(self, view: &View<'_>) -> Reply {
        let mut sum = Sketch::empty();
        for key in &self.0 {
            match sketch_of(view.get(key)) {
                Ok(sketch) => sum.merge(&sketch),
                Err(reply) => return reply,
            }
        }
        let cached = || {
            let [key] = &self.0[..] else { return None };
            cached_count(&text_of(Some(view.get(key)?)).ok()??)
        };
        Reply::Int(cached().unwrap_or_else(|| sum.count()))
    }
}

struct Pfmerge {
    target: Bytes,
    sources: Args,
}

impl Pfmerge {
    fn run(self, keyspace: &mut Keyspace) -> Result<Reply, Reply> {
        let mut sum = sketch_of(keyspace.get(&self.target))?;
        for key in &self.sources {
            sum.merge(&sketch_of(keyspace.get(key))?);
        }
        put(keyspace, &self.target, &sum);
        Ok(Reply::OK)
    }
}

impl WriteCommand for Pfmerge {
    const SPEC: Spec = Spec {
        name: "pfmerge",
        keys: Keys::ALL,
        syntax: "PFMERGE destkey [sourcekey [sourcekey ...]]",
        summary: "Merges HyperLogLogs into one.",
        denyoom: true,
        ..BASE
    };

    fn parse(args: &Args) -> Result<Pfmerge, Reply> {
        Ok(Pfmerge { target: args[1].clone(), sources: args[2..].into() })
    }

    fn growth(args: &Args) -> u64 {
        usual_growth(&args[..2].into()).saturating_add(most())
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        either(self.run(keyspace))
    }
}

pub static HYPERLOGLOG: &[Command] = &[write::<Pfadd>(), read::<Pfcount>(), write::<Pfmerge>()];

#[cfg(test)]
mod tests {
    use super::*;

    /// Both forms say the same, and the numbers are near what was added.
    #[test]
    fn it_counts_in_either_form() {
        let mut sketch = Sketch::empty();
        for n in 0..60_000u32 {
            sketch.add(&n.to_le_bytes());
            if n.is_power_of_two() || n == 59_999 {
                let bytes = sketch.encode();
                let again = Sketch::decode(&bytes).unwrap();
                assert_eq!(again.registers, sketch.registers);
                assert_eq!(again.dense, bytes.len() == DENSE);
                let (count, added) = (again.count() as f64, f64::from(n + 1));
                assert!((count - added).abs() <= (added * 0.03).max(1.0), "{count} for {added}");
            }
        }
        assert_eq!(sketch.encode().len(), DENSE);
    }

    #[test]
    fn what_is_none_is_refused() {
        let mut sketch = Sketch::empty();
        for n in 0..100u32 {
            sketch.add(&n.to_le_bytes());
        }
        let bytes = sketch.encode();
        for length in 0..bytes.len() {
            assert!(Sketch::decode(&bytes[..length]).is_err());
        }
        assert!(Sketch::decode(&[&bytes[..], &[0]].concat()).is_err());
    }
}
