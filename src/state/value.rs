//! What a key holds.
//!
//! [`Value`] is owned: what writes hand in and what [`super::Keyspace::edit`] changes. [`ValueRef`] is what reads are
//! shown, wherever it lies. A new type is a new variant of [`Value`] with its arm in each method of the one `impl`
//! below: tag, bytes and back, weight, names. Tags are on disk and never reused.

use bytes::Bytes;
use std::ops::Deref;

/// The value of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Text(Text),
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

impl Form {
    /// The tag of a string of this form.
    pub(super) fn tag(self) -> u8 {
        match self {
            Form::Set => 1,
            Form::Float => 2,
            Form::Edited => 3,
        }
    }

    /// The form that has this tag; `None` if it is another type's.
    pub(super) fn of_tag(tag: u8) -> Option<Form> {
        [Form::Set, Form::Float, Form::Edited].into_iter().find(|form| form.tag() == tag)
    }
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
        }
    }

    /// What tells the type of a value on disk and in memory; 15 at most, so that it fits half a byte.
    pub(super) fn tag(&self) -> u8 {
        match self {
            Value::Text(text) => text.form.tag(),
        }
    }

    /// The value as bytes that can be copied about and that [`Value::from_body`] reads, without making any; `None`
    /// for a type that has to be written out. Only such values lie between others in a chunk.
    pub(super) fn plain_body(&self) -> Option<&Bytes> {
        match self {
            Value::Text(text) => Some(&text.bytes),
        }
    }

    /// Appends the value's bytes.
    pub(super) fn put_body(&self, out: &mut Vec<u8>) {
        match self {
            Value::Text(text) => out.extend_from_slice(&text.bytes),
        }
    }

    /// The value that has this tag and these bytes; `None` if there is none. Copies.
    pub(super) fn from_body(tag: u8, body: &[u8]) -> Option<Value> {
        Form::of_tag(tag).map(|form| Value::formed(Bytes::copy_from_slice(body), form))
    }

    /// As TYPE says it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Text(_) => "string",
        }
    }

    /// As OBJECT ENCODING says it.
    pub fn encoding(&self) -> &'static str {
        match self {
            Value::Text(text) => text_encoding(text.form, &text.bytes),
        }
    }

    /// Bytes of contents, for the account.
    pub fn weight(&self) -> usize {
        match self {
            Value::Text(text) => text.bytes.len(),
        }
    }
}

fn text_encoding(form: Form, bytes: &[u8]) -> &'static str {
    match bytes.len() {
        _ if form == Form::Edited => "raw",
        1..=20 if form == Form::Set && as_integer(bytes).is_some() => "int",
        0..=EMBEDDED_MAX => "embstr",
        _ => "raw",
    }
}

/// The number, if the text is a 64-bit integer in its one canonical spelling.
pub(super) fn as_integer(text: &[u8]) -> Option<i64> {
    if !matches!(text.first(), Some(b'-' | b'0'..=b'9')) || text.len() > 20 {
        return None;
    }
    let value = std::str::from_utf8(text).ok()?.parse::<i64>().ok()?;
    (itoa::Buffer::new().format(value).as_bytes() == text).then_some(value)
}

/// A value as a read is shown it.
#[derive(Debug, Clone, Copy)]
pub enum ValueRef<'a> {
    /// A short value that lies between others: its tag and its bytes.
    Plain(u8, &'a [u8]),
    /// A string that is an integer, kept as one.
    Integer(i64),
    Owned(&'a Value),
}

impl<'a> ValueRef<'a> {
    /// The string, or `None` for another type.
    pub fn as_text(self) -> Option<TextRef<'a>> {
        Some(match self {
            ValueRef::Plain(tag, bytes) => TextRef { form: Form::of_tag(tag)?, content: Content::Here(bytes) },
            ValueRef::Integer(value) => TextRef { form: Form::Set, content: Content::Integer(Digits::of(value)) },
            ValueRef::Owned(value) => {
                let text = value.as_text()?;
                TextRef { form: text.form, content: Content::Shared(&text.bytes) }
            }
        })
    }

    pub fn to_value(self) -> Value {
        match self {
            ValueRef::Plain(tag, bytes) => Value::from_body(tag, bytes).expect("a value is stored under its own tag"),
            ValueRef::Integer(value) => Value::text(&Digits::of(value)),
            ValueRef::Owned(value) => value.clone(),
        }
    }

    /// As TYPE says it.
    pub fn type_name(self) -> &'static str {
        match self {
            ValueRef::Owned(value) => value.type_name(),
            // A plain value is short: looking at a copy is cheap.
            ValueRef::Plain(..) | ValueRef::Integer(_) => self.to_value().type_name(),
        }
    }

    /// As OBJECT ENCODING says it.
    pub fn encoding(self) -> &'static str {
        match self {
            ValueRef::Owned(value) => value.encoding(),
            ValueRef::Plain(..) | ValueRef::Integer(_) => self.to_value().encoding(),
        }
    }

    /// Bytes of contents, for the account.
    pub fn weight(self) -> usize {
        match self {
            ValueRef::Plain(tag, bytes) => match Form::of_tag(tag) {
                Some(_) => bytes.len(),
                None => self.to_value().weight(),
            },
            ValueRef::Integer(value) => Digits::of(value).len(),
            ValueRef::Owned(value) => value.weight(),
        }
    }

    pub(super) fn tag(self) -> u8 {
        match self {
            ValueRef::Plain(tag, _) => tag,
            ValueRef::Integer(_) => Form::Set.tag(),
            ValueRef::Owned(value) => value.tag(),
        }
    }
}

/// A string as a read is shown it; its bytes are what it dereferences to.
#[derive(Debug, Clone, Copy)]
pub struct TextRef<'a> {
    form: Form,
    content: Content<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Content<'a> {
    Here(&'a [u8]),
    Shared(&'a Bytes),
    Integer(Digits),
}

impl TextRef<'_> {
    pub fn form(&self) -> Form {
        self.form
    }

    /// The bytes to keep: copied if there are at most `copy_up_to`, shared with the keyspace if that is possible.
    pub fn to_bytes(&self, copy_up_to: usize) -> Bytes {
        match self.content {
            Content::Shared(bytes) if bytes.len() > copy_up_to => bytes.clone(),
            _ => Bytes::copy_from_slice(self),
        }
    }
}

impl Deref for TextRef<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.content {
            Content::Here(bytes) => bytes,
            Content::Shared(bytes) => bytes,
            Content::Integer(digits) => digits,
        }
    }
}

/// An integer's spelling.
#[derive(Debug, Clone, Copy)]
struct Digits {
    bytes: [u8; 20],
    len: u8,
}

impl Digits {
    fn of(value: i64) -> Digits {
        let mut buffer = itoa::Buffer::new();
        let text = buffer.format(value).as_bytes();
        let mut bytes = [0; 20];
        bytes[..text.len()].copy_from_slice(text);
        Digits { bytes, len: text.len() as u8 }
    }
}

impl Deref for Digits {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
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
