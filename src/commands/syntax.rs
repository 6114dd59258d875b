//! What the families share in reading arguments, and the errors of Redis that more than one of them answers.

use crate::resp::{Reply, integer};
use bytes::Bytes;

/// An integer as Redis reads it, or Redis' error.
pub(super) fn want_integer(text: &[u8]) -> Result<i64, Reply> {
    integer(text).ok_or_else(not_an_integer)
}

/// Whether a word is this option, whatever its case.
pub(super) fn is(word: &[u8], name: &str) -> bool {
    word.eq_ignore_ascii_case(name.as_bytes())
}

pub(super) fn not_an_integer() -> Reply {
    Reply::error("ERR value is not an integer or out of range")
}

pub(super) fn syntax_error() -> Reply {
    Reply::error("ERR syntax error")
}

pub(super) fn wrong_type() -> Reply {
    Reply::error("WRONGTYPE Operation against a key holding the wrong kind of value")
}

pub(super) fn invalid_expire(command: &str) -> Reply {
    Reply::error(format!("ERR invalid expire time in '{command}' command"))
}

/// Makes a reply of a fallible body: both ways out are replies.
pub(super) fn either(result: Result<Reply, Reply>) -> Reply {
    result.unwrap_or_else(|reply| reply)
}

/// The answer of a container's HELP: each line a status, as Redis writes them.
pub(super) fn help(lines: &[&'static str]) -> Reply {
    Reply::Array(lines.iter().map(|line| Reply::Status(Bytes::from_static(line.as_bytes()))).collect())
}
