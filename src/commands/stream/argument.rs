//! How the stream commands read ids, ranges of them, and `STREAMS key ... id ...`.

use super::super::blocking::whole_timeout_ms;
use super::super::syntax::{is, syntax_error, want_integer};
use super::super::wrong_arity;
use crate::resp::{Args, Reply};
use crate::state::StreamId;
use bytes::Bytes;

fn invalid_id() -> Reply {
    Reply::error("ERR Invalid stream ID specified as stream command argument")
}

fn number(digits: &[u8]) -> Option<u64> {
    // No sign, no space; leading zeros are all right.
    let digits = std::str::from_utf8(digits).ok().filter(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()))?;
    digits.parse().ok()
}

/// `ms-seq`, or `ms` alone with this for the rest.
pub(super) fn strict_id(word: &[u8], seq: u64) -> Result<StreamId, Reply> {
    let mut parts = word.splitn(2, |byte| *byte == b'-');
    let ms = parts.next().and_then(number).ok_or_else(invalid_id)?;
    let seq = parts.next().map_or(Some(seq), number).ok_or_else(invalid_id)?;
    Ok(StreamId { ms, seq })
}

/// The same, or `-` or `+`.
pub(super) fn bound(word: &[u8], seq: u64) -> Result<StreamId, Reply> {
    match word {
        b"-" => Ok(StreamId::MIN),
        b"+" => Ok(StreamId::MAX),
        word => strict_id(word, seq),
    }
}

/// The first and the last id of a range, either of which may be excluded with `(`.
pub(super) fn interval(start: &[u8], end: &[u8]) -> Result<(StreamId, StreamId), Reply> {
    let first = match start.strip_prefix(b"(") {
        None => bound(start, 0)?,
        Some(id) => strict_id(id, 0)?.next().ok_or_else(|| Reply::error("ERR invalid start ID for the interval"))?,
    };
    let last = match end.strip_prefix(b"(") {
        None => bound(end, u64::MAX)?,
        Some(id) => strict_id(id, 0)?.previous().ok_or_else(|| Reply::error("ERR invalid end ID for the interval"))?,
    };
    Ok((first, last))
}

/// The arguments of XREAD and XREADGROUP.
pub(super) struct Sources {
    pub count: usize,
    pub group: Option<(Bytes, Bytes)>,
    pub noack: bool,
    /// Milliseconds to wait, 0 for ever; none: not at all.
    pub block: Option<u64>,
    pub pairs: Vec<(Bytes, Bytes)>,
}

impl Sources {
    pub fn parse(args: &Args, command: &'static str) -> Result<Sources, Reply> {
        let with_group = command == "xreadgroup";
        let (mut count, mut group, mut noack, mut block, mut at) = (usize::MAX, None, false, None, 1);
        loop {
            let word = args.get(at).ok_or_else(syntax_error)?;
            let left = args.len() - at - 1;
            if is(word, "count") && left > 0 {
                // 0 and less mean all, as they always did.
                let wanted = want_integer(&args[at + 1])?;
                count = usize::try_from(wanted).ok().filter(|count| *count > 0).unwrap_or(usize::MAX);
                at += 2;
            } else if is(word, "group") && left >= 2 {
                if !with_group {
                    let text = "ERR The GROUP option is only supported by XREADGROUP. You called XREAD instead.";
                    return Err(Reply::error(text));
                }
                group = Some((args[at + 1].clone(), args[at + 2].clone()));
                at += 3;
            } else if is(word, "block") && left > 0 {
                block = Some(whole_timeout_ms(&args[at + 1])?);
                at += 2;
            } else if is(word, "noack") {
                if !with_group {
                    let text = "ERR The NOACK option is only supported by XREADGROUP. You called XREAD instead.";
                    return Err(Reply::error(text));
                }
                noack = true;
                at += 1;
            } else if is(word, "streams") && left > 0 {
                at += 1;
                break;
            } else {
                return Err(syntax_error());
            }
        }
        let rest = args.get(at..).filter(|rest| !rest.is_empty()).ok_or_else(|| wrong_arity(command))?;
        if !rest.len().is_multiple_of(2) {
            let special = if with_group { ">" } else { "$" };
            let text = format!(
                "ERR Unbalanced '{command}' list of streams: for each stream key an ID or '{special}' must be specified."
            );
            return Err(Reply::error(text));
        }
        if with_group && group.is_none() {
            return Err(Reply::error("ERR Missing GROUP option for XREADGROUP"));
        }
        let (keys, ids) = rest.split_at(rest.len() / 2);
        Ok(Sources { count, group, noack, block, pairs: keys.iter().cloned().zip(ids.iter().cloned()).collect() })
    }
}

impl Sources {
    /// Of [`Blocks::timeout`](super::super::blocking::Blocks).
    pub fn timeout(args: &Args, command: &'static str) -> Option<u64> {
        Sources::parse(args, command).ok()?.block
    }

    /// The keys to wait for.
    pub fn keys(args: &Args, command: &'static str) -> Vec<Bytes> {
        let pairs = Sources::parse(args, command).map_or(Vec::new(), |sources| sources.pairs);
        pairs.into_iter().map(|(key, _)| key).collect()
    }
}
