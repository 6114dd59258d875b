//! What the families share in reading arguments, and the errors of Redis that more than one of them answers.

use super::{QUOTED, glob, quoting};
use crate::resp::{Args, Reply, integer};
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

/// A cursor as C's `strtoul` reads it: a sign and no digits at all are taken, and a zero byte ends it.
pub(super) fn cursor(text: &[u8]) -> Option<u64> {
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() {
        return text.is_empty().then_some(0);
    }
    let number: u64 = std::str::from_utf8(digits).ok().filter(|_| digits[0].is_ascii_digit())?.parse().ok()?;
    Some(if negative { number.wrapping_neg() } else { number })
}

/// What a step of SCAN or one of its kin is asked for.
pub(super) struct Step {
    pub cursor: u64,
    pattern: Option<Bytes>,
    /// Elements to look at; positive.
    pub count: usize,
}

/// Elements looked at in one step that names no COUNT.
const STEP_COUNT: usize = 10;

impl Step {
    /// Reads the cursor at `at` and all arguments behind it. `other` is asked about a word that is an option of none but
    /// its own command, and says whether it knows it.
    pub fn parse(args: &Args, at: usize, mut other: impl FnMut(&[u8]) -> bool) -> Result<Step, Reply> {
        let cursor = cursor(&args[at]).ok_or_else(|| Reply::error("ERR invalid cursor"))?;
        let mut step = Step { cursor, pattern: None, count: STEP_COUNT };
        let mut rest = args[at + 1..].iter();
        while let Some(word) = rest.next() {
            if is(word, "count") {
                let count = want_integer(rest.next().ok_or_else(syntax_error)?)?;
                step.count = usize::try_from(count).ok().filter(|count| *count > 0).ok_or_else(syntax_error)?;
            } else if is(word, "match") {
                step.pattern = Some(rest.next().ok_or_else(syntax_error)?.clone());
            } else if !other(word) {
                return Err(syntax_error());
            }
        }
        Ok(step)
    }

    /// Whether the pattern, if there is one, matches.
    pub fn matches(&self, text: &[u8]) -> bool {
        self.pattern.as_ref().is_none_or(|pattern| glob::matches(pattern, text))
    }
}

/// What a subcommand of odd form is answered with.
pub(super) fn subcommand_error(container: &str, word: &[u8]) -> Reply {
    let rest = format!("'. Try {container} HELP.");
    let said = &word[..word.len().min(QUOTED)];
    quoting(&["ERR unknown subcommand or wrong number of arguments for '", &rest], &[said])
}
