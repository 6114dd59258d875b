//! Scores, and ranges of them and of members, as they are written in requests.

use super::extended::{self, Number};
use crate::resp::Reply;
use crate::state::SortedRef;
use bytes::Bytes;
use std::ops::Range;

/// A score as Redis reads it, or its error. Never NaN.
pub(super) fn want_score(text: &[u8]) -> Result<f64, Reply> {
    float(text).ok_or_else(|| Reply::error("ERR value is not a valid float"))
}

/// What C's `strtod` reads if it is the whole text and no number that is too large or too small, nor NaN.
pub(super) fn float(text: &[u8]) -> Option<f64> {
    let number = lenient(text)?;
    let body = text.strip_prefix(b"-").or(text.strip_prefix(b"+")).unwrap_or(text);
    let infinite = body.first().is_some_and(u8::is_ascii_alphabetic);
    // The digits before the exponent say whether it is nothing, or only too small to be told from it.
    let end = body.iter().position(|byte| byte.eq_ignore_ascii_case(&b'e')).unwrap_or(body.len());
    let hexadecimal = body.len() > 1 && body[1].eq_ignore_ascii_case(&b'x');
    let nothing = hexadecimal || body[..end].iter().all(|byte| matches!(byte, b'0' | b'.'));
    let (too_large, too_small) = (number.is_infinite() && !infinite, number == 0.0 && !nothing);
    (!too_large && !too_small).then_some(number)
}

/// The same with numbers that are too large or too small.
pub(super) fn lenient(text: &[u8]) -> Option<f64> {
    let (negative, body) = match text {
        [b'-', body @ ..] => (true, body),
        [b'+', body @ ..] => (false, body),
        body => (false, body),
    };
    if let [b'0', b'x' | b'X', _, ..] = body {
        return match extended::parse(text)? {
            Number::Finite(number) => Some(number.to_double()),
            Number::Infinite => None,
        };
    }
    // Past the sign, what Rust reads is what C does.
    if matches!(body.first(), Some(b'+' | b'-')) {
        return None;
    }
    let number: f64 = std::str::from_utf8(body).ok()?.parse().ok()?;
    (!number.is_nan()).then_some(if negative { -number } else { number })
}

/// One end of a range.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct End<T> {
    at: T,
    /// Whether what is there is outside.
    open: bool,
}

/// A range of scores or members, its ends in order.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Span {
    Scores(End<f64>, End<f64>),
    Members(End<Place>, End<Place>),
}

/// A place among members.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Place {
    First,
    At(Bytes),
    Last,
}

impl Span {
    pub fn scores(low: &[u8], high: &[u8]) -> Result<Span, Reply> {
        let end = |text| score_end(text).ok_or_else(|| Reply::error("ERR min or max is not a float"));
        Ok(Span::Scores(end(low)?, end(high)?))
    }

    pub fn members(low: &Bytes, high: &Bytes) -> Result<Span, Reply> {
        let end = |text| member_end(text).ok_or_else(|| Reply::error("ERR min or max not valid string range item"));
        Ok(Span::Members(end(low)?, end(high)?))
    }

    /// The positions of what is inside.
    pub fn positions(&self, sorted: SortedRef<'_>) -> Range<usize> {
        let (start, end) = match self {
            Span::Scores(low, high) => (sorted.below_score(low.at, low.open), sorted.below_score(high.at, !high.open)),
            Span::Members(low, high) => {
                let below = |place: &Place, equal| match place {
                    Place::First => 0,
                    Place::At(member) => sorted.below_member(member, equal),
                    Place::Last => sorted.len(),
                };
                (below(&low.at, low.open), below(&high.at, !high.open))
            }
        };
        start..end.max(start)
    }
}

/// As C reads it: white space may stand before the number, and where nothing stands at all, that is 0.
fn score_end(text: &[u8]) -> Option<End<f64>> {
    let (open, text) = match text {
        [b'(', text @ ..] => (true, text),
        text => (false, text),
    };
    // A C string ends there.
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let trimmed = text.trim_ascii_start();
    let at = if text.is_empty() { 0.0 } else { lenient(trimmed)? };
    Some(End { at, open })
}

fn member_end(text: &Bytes) -> Option<End<Place>> {
    let (at, open) = match text.first()? {
        b'-' if text.len() == 1 => (Place::First, false),
        b'+' if text.len() == 1 => (Place::Last, false),
        b'(' => (Place::At(text.slice(1..)), true),
        b'[' => (Place::At(text.slice(1..)), false),
        _ => return None,
    };
    Some(End { at, open })
}

/// A range of ranks as two numbers say it, negative ones from the end; empty if it is outside.
pub(super) fn ranks((first, last): (i64, i64), len: usize) -> Range<usize> {
    let from_end = |at: i64| if at < 0 { at.saturating_add(len as i64) } else { at };
    let (first, last) = (from_end(first).max(0), from_end(last).min(len as i64 - 1));
    if first > last { 0..0 } else { first as usize..last as usize + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_read_as_c_does() {
        for (text, number) in [
            ("1", 1.0),
            ("+1.5", 1.5),
            ("-.5", -0.5),
            ("1.", 1.0),
            ("1e3", 1000.0),
            ("1E-3", 0.001),
            ("0x10", 16.0),
            ("-0x.8p1", -1.0),
            ("inf", f64::INFINITY),
            ("-INFINITY", f64::NEG_INFINITY),
            ("+inf", f64::INFINITY),
            ("0e5", 0.0),
            ("0.1", 0.1),
            ("5e-324", 5e-324),
            ("0x1p-1074", 5e-324),
            ("0x1.fffffffffffff8p0", 2.0),
        ] {
            assert_eq!(float(text.as_bytes()), Some(number), "{text}");
        }
        assert!(float(b"-0").unwrap().is_sign_negative());
        for text in [
            "", " 1", "1 ", "nan", "-nan", "+-1", "--1", "1e", "e1", ".", "1e400", "1e-400", "0x", "0xg", "infin",
            "1_0", "0x1p2000",
        ] {
            assert_eq!(float(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn ends_of_ranges_are_read_more_leniently() {
        let end = |at, open| Some(End { at, open });
        for (text, expected) in [
            ("1", end(1.0, false)),
            ("(1", end(1.0, true)),
            ("", end(0.0, false)),
            ("(", end(0.0, true)),
            (" 1", end(1.0, false)),
            ("1e400", end(f64::INFINITY, false)),
            ("-inf", end(f64::NEG_INFINITY, false)),
            (" ", None),
            ("1 ", None),
            ("nan", None),
            ("((1", None),
        ] {
            assert_eq!(score_end(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn ranks_are_counted_from_either_end() {
        for (given, expected) in [
            ((0, -1), 0..5),
            ((1, 2), 1..3),
            ((-2, -1), 3..5),
            ((-100, 100), 0..5),
            ((5, 9), 0..0),
            ((3, 1), 0..0),
            ((0, -6), 0..0),
            ((i64::MIN, i64::MAX), 0..5),
            ((i64::MAX, i64::MIN), 0..0),
        ] {
            assert_eq!(ranks(given, 5), expected, "{given:?}");
        }
        assert_eq!(ranks((0, -1), 0), 0..0);
    }
}
