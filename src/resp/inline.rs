//! Inline commands: one line of words, quoted as Redis' `sdssplitargs` wants it.
//!
//! Words are parted by white space. `"..."` knows `\n \r \t \b \a`, `\xHH` and `\` before any other byte; `'...'`
//! knows only `\'`. A closing quote must be followed by white space or the end.

use super::Args;
use bytes::Bytes;

/// The words of a line, or `None` if its quotes do not balance. An empty line gives no words.
pub fn split_words(line: &[u8]) -> Option<Args> {
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        let start = rest.iter().position(|b| !is_space(*b)).unwrap_or(rest.len());
        rest = &rest[start..];
        if rest.is_empty() {
            return Some(words.into());
        }
        let mut word = Vec::new();
        rest = take_word(rest, &mut word)?;
        words.push(Bytes::from(word));
    }
}

/// C's `isspace`, and NUL, at which Redis' line ends.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t' | 0x0b | 0x0c | 0)
}

fn take_word<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    while let Some((&byte, after)) = rest.split_first() {
        rest = match byte {
            b'"' => return closed(double_quoted(after, word)?),
            b'\'' => return closed(single_quoted(after, word)?),
            _ if is_space(byte) => return Some(rest),
            _ => {
                word.push(byte);
                after
            }
        };
    }
    Some(rest)
}

/// What follows a closing quote must not touch it.
fn closed(rest: &[u8]) -> Option<&[u8]> {
    rest.first().is_none_or(|b| is_space(*b)).then_some(rest)
}

fn double_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match rest {
            [b'\\', b'x', high, low, after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                word.push(hex(*high) << 4 | hex(*low));
                rest = after;
            }
            [b'\\', escaped, after @ ..] => {
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                rest = after;
            }
            [b'"', after @ ..] => return Some(after),
            [byte, after @ ..] => {
                word.push(*byte);
                rest = after;
            }
            [] => return None,
        }
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match rest {
            [b'\\', b'\'', after @ ..] => {
                word.push(b'\'');
                rest = after;
            }
            [b'\'', after @ ..] => return Some(after),
            [byte, after @ ..] => {
                word.push(*byte);
                rest = after;
            }
            [] => return None,
        }
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit - b'A' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Option<Vec<Vec<u8>>> {
        split_words(line.as_bytes()).map(|args| args.iter().map(|a| a.to_vec()).collect())
    }

    #[test]
    fn quotes_follow_redis() {
        let some = |list: &[&[u8]]| Some(list.iter().map(|w| w.to_vec()).collect::<Vec<_>>());
        assert_eq!(words(""), some(&[]));
        assert_eq!(words("  \t "), some(&[]));
        assert_eq!(words("SET  a   b"), some(&[b"SET", b"a", b"b"]));
        assert_eq!(words(r#"set "a b" 'c d'"#), some(&[b"set", b"a b", b"c d"]));
        assert_eq!(words(r#""\x41\n\"\q\x4""#), some(&[b"A\n\"qx4"]));
        assert_eq!(words(r"'a\'b\n'"), some(&[br"a'b\n"]));
        assert_eq!(words(r#"foo"bar""#), some(&[b"foobar"]));
        assert_eq!(words(r#""" ''"#), some(&[b"", b""]));
        assert_eq!(words(r#""a"b"#), None);
        assert_eq!(words(r#""a"#), None);
        assert_eq!(words(r#""a\"#), None);
        assert_eq!(words("'a"), None);
    }
}
