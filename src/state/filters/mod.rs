//! Filters as values: what the CF and BF commands work on. The filter that the keyspace keeps of its own keys is
//! another one (`cuckoo.rs`).
//!
//! Both kinds are chains of layers that never move what they hold, so growing copies nothing. Both are functions of
//! the calls made: hashes have fixed seeds, and nothing is drawn.

mod bloom;
mod cuckoo;

#[cfg(test)]
mod tests;

pub use bloom::{BloomFull, BloomShape, BloomValue, RATE_CAP};
pub use cuckoo::{CuckooFull, CuckooShape, CuckooValue, Insertion, LoadError, PIECE_MAX, Piece};

use xxhash_rust::xxh3::xxh3_64;

/// Largest filter of either kind, in bytes: as the longest string. Nothing larger is made, loaded or grown into.
pub const FILTER_BYTES_MAX: u64 = 512 << 20;

/// What a value takes beside the contents of its layers: a part of the account's formula.
const VALUE_COST: usize = 64;
const LAYER_COST: usize = 32;

/// Takes the first bytes off a slice; `None` if it is shorter.
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

/// Appends the checksum.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = xxh3_64(&bytes);
    bytes.extend(sum.to_le_bytes());
    bytes
}

/// What stands between magic and checksum, if both are right.
fn unsealed<'a>(bytes: &'a [u8], magic: &[u8]) -> Option<&'a [u8]> {
    let (body, sum) = bytes.split_last_chunk()?;
    if xxh3_64(body) == u64::from_le_bytes(*sum) { body.strip_prefix(magic) } else { None }
}
