//! The options of SET, GETEX, MSETEX and DELEX taken apart: deadlines and conditions.

use crate::commands::syntax::{invalid_expire, is, syntax_error, want_integer};
use crate::commands::text::text_of;
use crate::resp::{Args, Reply};
use crate::state::EntryRef;
use crate::types::Millis;
use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

/// What a write does to the key's deadline.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Expiry {
    /// None afterwards.
    None,
    Keep,
    /// By the group clock.
    At(i64),
    /// From the clock of the entry on.
    After(i64),
}

impl Expiry {
    /// `number` in units of `scale` milliseconds; must be positive.
    pub(super) fn parse(number: &[u8], scale: i64, absolute: bool, command: &str) -> Result<Expiry, Reply> {
        let number = want_integer(number)?;
        let ms = number.checked_mul(scale).filter(|ms| *ms > 0).ok_or_else(|| invalid_expire(command))?;
        Ok(if absolute { Expiry::At(ms) } else { Expiry::After(ms) })
    }

    /// Whether it sets a deadline.
    pub(super) fn dates(self) -> bool {
        matches!(self, Expiry::At(_) | Expiry::After(_))
    }

    /// The deadline by the clock of the entry.
    pub(super) fn deadline(
        self,
        clock: Millis,
        old: Option<EntryRef<'_>>,
        command: &str,
    ) -> Result<Option<Millis>, Reply> {
        match self {
            Expiry::None => Ok(None),
            Expiry::Keep => Ok(old.and_then(|old| old.deadline())),
            Expiry::At(ms) => Ok(Some(ms as Millis)),
            Expiry::After(ms) => match (clock as i64).checked_add(ms) {
                Some(deadline) => Ok(Some(deadline as Millis)),
                None => Err(invalid_expire(command)),
            },
        }
    }
}

/// When a conditional write takes place.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Condition {
    Always,
    Absent,
    Present,
    Equal(Bytes),
    NotEqual(Bytes),
    Digest(u64),
    NotDigest(u64),
}

impl Condition {
    /// A comparison by its name; `None` if there is none of that name.
    pub(super) fn comparison(name: &[u8], operand: &Bytes) -> Option<Result<Condition, Reply>> {
        Some(match name {
            name if is(name, "ifeq") => Ok(Condition::Equal(operand.clone())),
            name if is(name, "ifne") => Ok(Condition::NotEqual(operand.clone())),
            name if is(name, "ifdeq") => digest(operand).map(Condition::Digest),
            name if is(name, "ifdne") => digest(operand).map(Condition::NotDigest),
            _ => return None,
        })
    }

    /// An absent key differs from every value.
    pub(super) fn holds(&self, old: Option<EntryRef<'_>>) -> Result<bool, Reply> {
        let old = match self {
            Condition::Always => return Ok(true),
            Condition::Absent => return Ok(old.is_none()),
            Condition::Present => return Ok(old.is_some()),
            _ => text_of(old)?,
        };
        Ok(match self {
            Condition::Equal(value) => old.is_some_and(|old| *old == **value),
            Condition::NotEqual(value) => old.is_none_or(|old| *old != **value),
            Condition::Digest(digest) => old.is_some_and(|old| xxh3_64(&old) == *digest),
            Condition::NotDigest(digest) => old.is_none_or(|old| xxh3_64(&old) != *digest),
            Condition::Always | Condition::Absent | Condition::Present => true,
        })
    }
}

/// A digest as DIGEST writes it.
fn digest(text: &[u8]) -> Result<u64, Reply> {
    let wrong = || Reply::error("ERR digest must be exactly 16 hexadecimal characters");
    if text.len() != 16 || !text.iter().all(u8::is_ascii_hexdigit) {
        return Err(wrong());
    }
    std::str::from_utf8(text).ok().and_then(|text| u64::from_str_radix(text, 16).ok()).ok_or_else(wrong)
}

/// An option that says something about the deadline.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Timing {
    Keep,
    Persist,
    Number { scale: i64, absolute: bool },
}

impl Timing {
    fn of(word: &[u8]) -> Option<Timing> {
        let number = |scale, absolute| Some(Timing::Number { scale, absolute });
        match word {
            word if is(word, "ex") => number(1000, false),
            word if is(word, "px") => number(1, false),
            word if is(word, "exat") => number(1000, true),
            word if is(word, "pxat") => number(1, true),
            word if is(word, "keepttl") => Some(Timing::Keep),
            word if is(word, "persist") => Some(Timing::Persist),
            _ => None,
        }
    }
}

/// Which options a command knows beside EX, PX, EXAT and PXAT.
pub(super) struct Known {
    pub(super) command: &'static str,
    /// NX, XX and KEEPTTL, else PERSIST.
    pub(super) sets: bool,
    /// GET, IFEQ, IFNE, IFDEQ, IFDNE.
    pub(super) compares: bool,
}

/// The options of SET, GETEX or MSETEX.
pub(super) struct Options {
    pub(super) condition: Condition,
    pub(super) get: bool,
    /// `None`: nothing was said.
    pub(super) expiry: Option<Expiry>,
}

impl Options {
    /// Reads all arguments from `at` on. As in Redis an option may be repeated but not contradicted, and what is
    /// wrong with a number is said only when all else is right.
    pub(super) fn parse(args: &Args, mut at: usize, known: &Known) -> Result<Options, Reply> {
        let (mut condition, mut get, mut timing): (_, _, Option<(Timing, &[u8])>) = (Condition::Always, false, None);
        while let Some(word) = args.get(at) {
            let next = args.get(at + 1);
            at += 1;
            if known.sets && is(word, "nx") && matches!(condition, Condition::Always | Condition::Absent) {
                condition = Condition::Absent;
            } else if known.sets && is(word, "xx") && matches!(condition, Condition::Always | Condition::Present) {
                condition = Condition::Present;
            } else if known.compares && is(word, "get") {
                get = true;
            } else if known.compares
                && condition == Condition::Always
                && let Some(comparison) = next.and_then(|operand| Condition::comparison(word, operand))
            {
                condition = comparison?;
                at += 1;
            } else {
                let new = Timing::of(word).ok_or_else(syntax_error)?;
                let allowed = match new {
                    Timing::Keep => known.sets,
                    Timing::Persist => !known.sets,
                    Timing::Number { .. } => next.is_some(),
                };
                if !allowed || timing.is_some_and(|(old, _)| old != new) {
                    return Err(syntax_error());
                }
                let takes_number = matches!(new, Timing::Number { .. });
                timing = Some((new, next.filter(|_| takes_number).map_or(&[], |number| number)));
                at += usize::from(takes_number);
            }
        }
        let expiry = match timing {
            None => None,
            Some((Timing::Keep, _)) => Some(Expiry::Keep),
            Some((Timing::Persist, _)) => Some(Expiry::None),
            Some((Timing::Number { scale, absolute }, number)) => {
                Some(Expiry::parse(number, scale, absolute, known.command)?)
            }
        };
        Ok(Options { condition, get, expiry })
    }
}
