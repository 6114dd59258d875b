//! What the CF and BF commands share: how they read numbers, and how large a filter may be made.
//!
//! Names, arguments, defaults and texts are RedisBloom's as of Redis 8, its errors without a code among them. Where
//! these commands differ is said in `docs/commands.md`.

use super::{bloom, cuckoo};
use crate::resp::{Args, Reply, integer};
use crate::state::FILTER_BYTES_MAX;
use std::ops::RangeInclusive;

/// Items that a filter may be reserved for.
pub(super) const CAPACITY_MAX: i64 = 1 << 30;
pub(super) const EXPANSION_MAX: i64 = 32_768;

/// What a command allocates at once for a filter that it may make: what must be free before it is proposed. 0 for a
/// command that makes none, or that is wrong and will be refused. A filter that grows does so in apply, by a layer.
pub fn reserve_bytes(args: &Args) -> u64 {
    cuckoo::reserve_bytes(args).or_else(|| bloom::reserve_bytes(args)).unwrap_or(0)
}

/// Refuses what is larger than any filter may be.
pub(super) fn check_bytes(bytes: u64) -> Result<(), Reply> {
    if bytes <= FILTER_BYTES_MAX {
        return Ok(());
    }
    let text = format!(
        "ERR Insufficient memory to create filter: it would take {bytes} bytes, at most {FILTER_BYTES_MAX} are allowed"
    );
    Err(Reply::error(text))
}

/// An integer; `bad` is the answer to what is none, `outside` to one out of range.
pub(super) fn number(
    word: &[u8],
    range: RangeInclusive<i64>,
    bad: &'static str,
    outside: impl FnOnce() -> String,
) -> Result<i64, Reply> {
    let number = integer(word).ok_or_else(|| Reply::error(bad))?;
    if range.contains(&number) { Ok(number) } else { Err(Reply::error(outside())) }
}

pub(super) fn not_found() -> Reply {
    Reply::error("ERR not found")
}

pub(super) fn item_exists() -> Reply {
    Reply::error("ERR item exists")
}

pub(super) fn unknown_argument() -> Reply {
    Reply::error("Unknown argument received")
}

/// One line of an INFO.
pub(super) fn line(name: &'static str, value: u64) -> (Reply, Reply) {
    (Reply::status(name), Reply::Int(value as i64))
}
