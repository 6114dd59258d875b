//! What a key holds.
//!
//! A new type is a new variant and a new tag in `codec.rs`; tags are never reused.

use super::filters::{BloomValue, CuckooValue};
use bytes::Bytes;

/// The value of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Text(Text),
    Cuckoo(Box<CuckooValue>),
    Bloom(Box<BloomValue>),
}

/// A string, with what Redis remembers of how it came about (OBJECT ENCODING shows it).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    pub bytes: Bytes,
    pub form: Form,
}

/// How a string was last written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// Set as a whole: an integer is kept as one.
    #[default]
    Set,
    /// The result of floating-point arithmetic: never kept as an integer.
    Float,
    /// Changed in place by APPEND or SETRANGE: kept raw.
    Edited,
}

/// Longest string that Redis keeps in one allocation with its header.
const EMBEDDED_MAX: usize = 44;

impl Value {
    /// A string that was set as a whole. Copies: a stored value must not keep a larger buffer alive.
    pub fn text(bytes: &[u8]) -> Value {
        Value::formed(Bytes::copy_from_slice(bytes), Form::Set)
    }

    pub fn formed(bytes: Bytes, form: Form) -> Value {
        Value::Text(Text { bytes, form })
    }

    /// The string, or `None` for another type.
    pub fn as_text(&self) -> Option<&Text> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The cuckoo filter, or `None` for another type.
    pub fn as_cuckoo(&self) -> Option<&CuckooValue> {
        match self {
            Value::Cuckoo(filter) => Some(filter),
            _ => None,
        }
    }

    /// The bloom filter, or `None` for another type.
    pub fn as_bloom(&self) -> Option<&BloomValue> {
        match self {
            Value::Bloom(filter) => Some(filter),
            _ => None,
        }
    }

    /// As TYPE says it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Text(_) => "string",
            // The names of RedisBloom's types, by which clients know them.
            Value::Cuckoo(_) => "MBbloomCF",
            Value::Bloom(_) => "MBbloom--",
        }
    }

    /// As OBJECT ENCODING says it.
    pub fn encoding(&self) -> &'static str {
        match self {
            Value::Text(Text { form: Form::Edited, .. }) => "raw",
            Value::Text(Text { bytes, form }) => match bytes.len() {
                1..=20 if *form == Form::Set && is_integer(bytes) => "int",
                0..=EMBEDDED_MAX => "embstr",
                _ => "raw",
            },
            Value::Cuckoo(_) | Value::Bloom(_) => "raw",
        }
    }

    /// Bytes of contents, for the account.
    pub fn weight(&self) -> usize {
        match self {
            Value::Text(text) => text.bytes.len(),
            Value::Cuckoo(filter) => filter.weight(),
            Value::Bloom(filter) => filter.weight(),
        }
    }
}

/// Whether the text is a 64-bit integer in its one canonical spelling.
fn is_integer(text: &[u8]) -> bool {
    std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse::<i64>().ok())
        .is_some_and(|value| itoa::Buffer::new().format(value).as_bytes() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_those_of_redis() {
        for (text, encoding) in [
            ("", "embstr"),
            ("0", "int"),
            ("-7", "int"),
            ("-0", "embstr"),
            ("007", "embstr"),
            ("+7", "embstr"),
            ("9223372036854775807", "int"),
            ("9223372036854775808", "embstr"),
            ("-9223372036854775808", "int"),
            (&"x".repeat(44), "embstr"),
            (&"x".repeat(45), "raw"),
        ] {
            assert_eq!(Value::text(text.as_bytes()).encoding(), encoding, "{text}");
        }
        assert_eq!(Value::formed("3".into(), Form::Float).encoding(), "embstr");
        assert_eq!(Value::formed("3".into(), Form::Edited).encoding(), "raw");
    }
}
