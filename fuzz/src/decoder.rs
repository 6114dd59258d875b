//! The RESP decoder, fed in pieces, against a parser that sees everything at once and is as simple as can be.
//!
//! Input: a byte that says how the rest is cut | what a client sends.

use crate::resp::{Decoder, Limits};
use bytes::BytesMut;

const LIMITS: Limits = Limits { max_bulk: 200, max_args: 12, max_inline: 64, max_buffered: 300 };

type Commands = Vec<Vec<Vec<u8>>>;

fn decoded(bytes: &[u8], piece: usize) -> (Commands, Option<String>) {
    let (mut decoder, mut buf, mut commands) = (Decoder::new(LIMITS), BytesMut::new(), Vec::new());
    for piece in bytes.chunks(piece) {
        buf.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buf) {
                Ok(Some(args)) => commands.push(args.iter().map(|arg| arg.to_vec()).collect()),
                Ok(None) => break,
                Err(error) => return (commands, Some(error.to_string())),
            }
        }
        assert!(decoder.wants(&buf) <= LIMITS.max_bulk + 2);
    }
    (commands, None)
}

/// What ends the reading of a request.
enum End {
    /// More is to come.
    Early,
    Wrong(String),
}

fn wrong(text: &str) -> End {
    End::Wrong(format!("Protocol error: {text}"))
}

/// The whole input, request after request.
fn reference(mut bytes: &[u8]) -> (Commands, Option<String>) {
    let mut commands = Vec::new();
    loop {
        match request(&mut bytes) {
            Ok(words) if words.is_empty() => {}
            Ok(words) => commands.push(words),
            Err(End::Early) => return (commands, None),
            Err(End::Wrong(text)) => return (commands, Some(text)),
        }
    }
}

fn request(bytes: &mut &[u8]) -> Result<Vec<Vec<u8>>, End> {
    match bytes.first() {
        None => Err(End::Early),
        Some(b'*') => {
            let count = number(bytes, "too big mbulk count string")?;
            let count = count.filter(|count| *count <= LIMITS.max_args as i128);
            let count = count.ok_or_else(|| wrong("invalid multibulk length"))?;
            let (mut words, mut sum) = (Vec::new(), 0);
            for _ in 0..count {
                match bytes.first() {
                    None => return Err(End::Early),
                    Some(b'$') => {}
                    Some(other) => return Err(wrong(&format!("expected '$', got '{}'", char::from(*other)))),
                }
                let length = number(bytes, "too big bulk count string")?;
                let length = length.filter(|length| (0..=LIMITS.max_bulk as i128).contains(length));
                let length = length.ok_or_else(|| wrong("invalid bulk length"))? as usize;
                sum += length;
                if sum > LIMITS.max_buffered {
                    return Err(wrong("request exceeds the query buffer limit"));
                }
                if bytes.len() < length + 2 {
                    return Err(End::Early);
                }
                words.push(bytes[..length].to_vec());
                *bytes = &bytes[length + 2..];
            }
            Ok(words)
        }
        Some(_) => {
            let end = bytes.iter().position(|byte| *byte == b'\n');
            if end.unwrap_or(bytes.len()) > LIMITS.max_inline {
                return Err(wrong("too big inline request"));
            }
            let (mut line, rest) = bytes.split_at(end.ok_or(End::Early)?);
            *bytes = &rest[1..];
            line = line.strip_suffix(b"\r").unwrap_or(line);
            let words = words(line).ok_or_else(|| wrong("unbalanced quotes in request"))?;
            if words.len() > LIMITS.max_args {
                return Err(wrong("invalid multibulk length"));
            }
            Ok(words)
        }
    }
}

/// The number of a line that begins with any byte and ends with CR and any byte.
fn number(bytes: &mut &[u8], too_big: &str) -> Result<Option<i128>, End> {
    let end = bytes.iter().skip(1).position(|byte| *byte == b'\r').map(|at| at + 1);
    if end.unwrap_or(bytes.len()) > LIMITS.max_inline {
        return Err(wrong(too_big));
    }
    let end = end.filter(|end| end + 1 < bytes.len()).ok_or(End::Early)?;
    let text = String::from_utf8_lossy(&bytes[1..end]).into_owned();
    *bytes = &bytes[end + 2..];
    // One spelling, and 64 bits.
    let number = text.parse::<i128>().ok().filter(|number| number.to_string() == text);
    Ok(number.filter(|number| i64::try_from(*number).is_ok()))
}

/// Words of an inline request, letter by letter.
fn words(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    // NUL, too: Redis' line ends there.
    let is_space = |byte: u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c | 0);
    let at = |place: usize| line.get(place).copied();
    let hex = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let (mut all, mut place) = (Vec::new(), 0);
    loop {
        while at(place).is_some_and(is_space) {
            place += 1;
        }
        if at(place).is_none() {
            return Some(all);
        }
        let (mut word, mut quote) = (Vec::new(), None);
        loop {
            match (quote, at(place)) {
                (None, None) => break,
                (Some(_), None) => return None,
                (None, Some(byte)) if is_space(byte) => break,
                (None, Some(byte @ (b'"' | b'\''))) => quote = Some(byte),
                (Some(b'"'), Some(b'\\')) if place + 1 < line.len() => {
                    place += 1;
                    let digits = at(place + 1).and_then(hex).zip(at(place + 2).and_then(hex));
                    match (line[place], digits) {
                        (b'x', Some((high, low))) => {
                            word.push(high << 4 | low);
                            place += 2;
                        }
                        (b'n', _) => word.push(b'\n'),
                        (b'r', _) => word.push(b'\r'),
                        (b't', _) => word.push(b'\t'),
                        (b'b', _) => word.push(8),
                        (b'a', _) => word.push(7),
                        (other, _) => word.push(other),
                    }
                }
                (Some(b'\''), Some(b'\\')) if at(place + 1) == Some(b'\'') => {
                    place += 1;
                    word.push(b'\'');
                }
                (Some(open), Some(byte)) if byte == open => {
                    if !at(place + 1).is_none_or(is_space) {
                        return None;
                    }
                    place += 1;
                    break;
                }
                (_, Some(byte)) => word.push(byte),
            }
            place += 1;
        }
        all.push(word);
    }
}

pub fn run(data: &[u8]) {
    let Some((piece, bytes)) = data.split_first() else { return };
    let expected = reference(bytes);
    assert_eq!(decoded(bytes, usize::MAX), expected);
    assert_eq!(decoded(bytes, usize::from(*piece).max(1)), expected);
}
