//! What a key holds.
//!
//! [`Value`] is owned: what writes hand in and what [`super::Keyspace::change`] changes; a copy takes an instant.
//! [`ValueRef`] is what reads are shown, wherever it lies. A new type implements [`Aggregate`] and is a new variant of
//! [`Value`], with one line in `aggregate`, one in `of_tag` and its accessors. Tags are on disk and never reused.

use super::collections::{
    Aggregate, HashRef, HashValue, ListRef, ListValue, SetRef, SetValue, Size, SortedRef, SortedValue, StreamValue,
    hash, list, set, sorted, stream,
};
use super::filters::{BloomValue, CuckooValue};
use crate::types::Millis;
use bytes::Bytes;
use std::ops::Deref;
use std::sync::Arc;

/// The value of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Text(Text),
    Hash(HashValue),
    Stream(Box<StreamValue>),
    Set(SetValue),
    List(ListValue),
    Sorted(SortedValue),
    Cuckoo(Arc<CuckooValue>),
    Bloom(Arc<BloomValue>),
}

/// Tags of the filters; the strings' are [`Form::tag`], the collections' stand in their files.
const CUCKOO: u8 = 14;
const BLOOM: u8 = 15;

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
    #[inline]
    pub(super) fn tag(self) -> u8 {
        match self {
            Form::Set => 1,
            Form::Float => 2,
            Form::Edited => 3,
        }
    }

    /// The form that has this tag; `None` if it is another type's.
    #[inline]
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
            _ => None,
        }
    }

    /// The hash, or `None` for another type.
    pub fn as_hash_mut(&mut self) -> Option<&mut HashValue> {
        match self {
            Value::Hash(hash) => Some(hash),
            _ => None,
        }
    }

    /// The set, or `None` for another type.
    pub fn as_set_mut(&mut self) -> Option<&mut SetValue> {
        match self {
            Value::Set(set) => Some(set),
            _ => None,
        }
    }

    /// The stream, or `None` for another type.
    pub fn as_stream(&self) -> Option<&StreamValue> {
        match self {
            Value::Stream(stream) => Some(stream),
            _ => None,
        }
    }

    /// The stream, or `None` for another type.
    pub fn as_stream_mut(&mut self) -> Option<&mut StreamValue> {
        match self {
            Value::Stream(stream) => Some(stream),
            _ => None,
        }
    }

    /// The list, or `None` for another type.
    pub fn as_list_mut(&mut self) -> Option<&mut ListValue> {
        match self {
            Value::List(list) => Some(list),
            _ => None,
        }
    }

    /// The sorted set, or `None` for another type.
    pub fn as_sorted_mut(&mut self) -> Option<&mut SortedValue> {
        match self {
            Value::Sorted(sorted) => Some(sorted),
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

    /// What it tells about itself, if it is no string.
    fn aggregate(&self) -> Option<&dyn Aggregate> {
        match self {
            Value::Text(_) => None,
            Value::Hash(hash) => Some(hash),
            Value::Stream(stream) => Some(&**stream),
            Value::Set(set) => Some(set),
            Value::List(list) => Some(list),
            Value::Sorted(sorted) => Some(sorted),
            Value::Cuckoo(filter) => Some(&**filter),
            Value::Bloom(filter) => Some(&**filter),
        }
    }

    /// What tells type and form of a value on disk and in memory; 15 at most, so that it fits half a byte.
    pub(super) fn tag(&self) -> u8 {
        match self {
            Value::Text(text) => text.form.tag(),
            other => other.told(|aggregate| aggregate.tag()),
        }
    }

    /// For what is no string.
    fn told<R>(&self, of: impl FnOnce(&dyn Aggregate) -> R) -> R {
        of(self.aggregate().expect("every value but a string is an aggregate"))
    }

    /// The value as bytes that can be copied about and that [`Value::from_body`] reads, without making any; `None`
    /// for one that has to be written out. Only such values lie between others in a chunk.
    pub(super) fn plain_body(&self) -> Option<&Bytes> {
        match self {
            Value::Text(text) => Some(&text.bytes),
            other => other.aggregate()?.plain_body(),
        }
    }

    /// Appends the value's bytes.
    pub(super) fn put_body(&self, out: &mut Vec<u8>) {
        match self {
            Value::Text(text) => out.extend_from_slice(&text.bytes),
            other => other.told(|aggregate| aggregate.put_body(out)),
        }
    }

    /// The value that has this tag and these bytes; `None` if no call could have made one that has, as far as that is seen
    /// on the way: for a snapshot, whose checksum stands for the rest. Copies.
    pub(super) fn from_body(tag: u8, body: &[u8]) -> Option<Value> {
        match tag {
            hash::PACKED | hash::TREE => HashValue::from_body(tag, body).map(Value::Hash),
            stream::STREAM => StreamValue::from_body(body).map(|stream| Value::Stream(stream.into())),
            set::INTEGERS | set::PACKED | set::TREE => SetValue::from_body(tag, body).map(Value::Set),
            list::PACKED | list::RUNS => ListValue::from_body(tag, body).map(Value::List),
            sorted::PACKED | sorted::TREE => SortedValue::from_body(tag, body).map(Value::Sorted),
            CUCKOO => CuckooValue::from_bytes(body).map(|filter| Value::Cuckoo(filter.into())),
            BLOOM => BloomValue::from_bytes(body).map(|filter| Value::Bloom(filter.into())),
            _ => Form::of_tag(tag).map(|form| Value::formed(Bytes::copy_from_slice(body), form)),
        }
    }

    /// The same of what lies in a row, and so was made here or looked at when it came in.
    fn of_row(tag: u8, body: &[u8]) -> Value {
        let body = Bytes::copy_from_slice(body);
        match tag {
            hash::PACKED => Value::Hash(HashValue::Packed(body)),
            set::INTEGERS => Value::Set(SetValue::Integers(body)),
            set::PACKED => Value::Set(SetValue::Packed(body)),
            list::PACKED => Value::List(ListValue::Packed(body)),
            sorted::PACKED => Value::Sorted(SortedValue::Packed(body)),
            _ => Value::formed(body, Form::of_tag(tag).expect("only strings and what is packed lie in rows")),
        }
    }

    /// The value alone, with its type in front.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![self.tag()];
        self.put_body(&mut out);
        out
    }

    /// What [`Value::to_bytes`] gave; `None` if no call could have made a value that has these bytes. So what comes from
    /// outside may be handled like what was made here, and has the same bytes again.
    pub fn from_bytes(bytes: &[u8]) -> Option<Value> {
        let (tag, body) = bytes.split_first()?;
        Value::from_body(*tag, body).filter(|value| value.aggregate().is_none_or(Aggregate::has_each_once))
    }

    /// As TYPE says it.
    pub fn type_name(&self) -> &'static str {
        self.aggregate().map_or("string", Aggregate::type_name)
    }

    /// As OBJECT ENCODING says it.
    pub fn encoding(&self) -> &'static str {
        match self {
            Value::Text(text) => text_encoding(text.form, &text.bytes),
            other => other.told(|aggregate| aggregate.encoding()),
        }
    }

    /// Bytes of contents, for the account.
    pub fn weight(&self) -> usize {
        match self {
            Value::Text(text) => text.bytes.len(),
            other => other.told(|aggregate| aggregate.weight()),
        }
    }

    /// Whether nothing is left of it and its key goes. Never for a string.
    pub fn is_empty(&self) -> bool {
        self.aggregate().is_some_and(Aggregate::is_empty)
    }

    /// Not later than the earliest deadline of any element; 0 if none has one.
    pub(super) fn soonest(&self) -> Millis {
        self.aggregate().map_or(0, Aggregate::soonest)
    }

    /// Whether it has elements and all are dead at `clock`.
    pub(super) fn is_dead(&self, clock: Millis) -> bool {
        self.aggregate().is_some_and(|aggregate| aggregate.is_dead(clock))
    }

    /// Carries what it holds of times from a clock that says `then` to one that says `now`.
    pub(super) fn rebase(&mut self, then: Millis, now: Millis) {
        match self {
            Value::Hash(hash) => hash.rebase(then, now),
            Value::Stream(stream) => stream.rebase(then, now),
            _ => {}
        }
    }

    /// Removes elements that are dead at `clock`; whether there were any.
    pub(super) fn prune(&mut self, clock: Millis) -> bool {
        match self {
            Value::Hash(hash) => hash.prune(clock) > 0,
            _ => false,
        }
    }
}

impl Aggregate for CuckooValue {
    fn tag(&self) -> u8 {
        CUCKOO
    }

    /// The name of RedisBloom's type, by which clients know it.
    fn type_name(&self) -> &'static str {
        "MBbloomCF"
    }

    fn encoding(&self) -> &'static str {
        "raw"
    }

    fn put_body(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_bytes());
    }

    fn weight(&self) -> usize {
        self.weight()
    }
}

impl Aggregate for BloomValue {
    fn tag(&self) -> u8 {
        BLOOM
    }

    fn type_name(&self) -> &'static str {
        "MBbloom--"
    }

    fn encoding(&self) -> &'static str {
        "raw"
    }

    fn put_body(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_bytes());
    }

    fn weight(&self) -> usize {
        self.weight()
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
#[inline]
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
    /// The value where it is kept as it was written; `None` where it lies in a row.
    #[inline]
    pub fn owned(self) -> Option<&'a Value> {
        match self {
            ValueRef::Owned(value) => Some(value),
            ValueRef::Plain(..) | ValueRef::Integer(_) => None,
        }
    }

    /// The string, or `None` for another type.
    #[inline]
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

    /// The hash, or `None` for another type.
    pub fn as_hash(self) -> Option<HashRef<'a>> {
        match self {
            ValueRef::Plain(hash::PACKED, bytes) => Some(HashRef::Packed(bytes)),
            ValueRef::Owned(Value::Hash(hash)) => Some(hash.as_ref()),
            _ => None,
        }
    }

    /// The set, or `None` for another type.
    pub fn as_set(self) -> Option<SetRef<'a>> {
        match self {
            ValueRef::Plain(set::INTEGERS, bytes) => Some(SetRef::Integers(bytes)),
            ValueRef::Plain(set::PACKED, bytes) => Some(SetRef::Packed(bytes)),
            ValueRef::Owned(Value::Set(set)) => Some(set.as_ref()),
            _ => None,
        }
    }

    /// The list, or `None` for another type.
    pub fn as_list(self) -> Option<ListRef<'a>> {
        match self {
            ValueRef::Plain(list::PACKED, bytes) => Some(ListRef::Packed(bytes)),
            ValueRef::Owned(Value::List(list)) => Some(list.as_ref()),
            _ => None,
        }
    }

    /// The sorted set, or `None` for another type.
    pub fn as_sorted(self) -> Option<SortedRef<'a>> {
        match self {
            ValueRef::Plain(sorted::PACKED, bytes) => Some(SortedRef::Packed(bytes)),
            ValueRef::Owned(Value::Sorted(sorted)) => Some(sorted.as_ref()),
            _ => None,
        }
    }

    /// A copy; of what is large, in an instant.
    pub fn to_value(self) -> Value {
        match self {
            ValueRef::Plain(tag, bytes) => Value::of_row(tag, bytes),
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
    #[inline]
    pub fn weight(self) -> usize {
        match self {
            // What lies in a row weighs its bytes, of whatever type it is.
            ValueRef::Plain(_, bytes) => bytes.len(),
            ValueRef::Integer(value) => Digits::of(value).len(),
            ValueRef::Owned(value) => value.weight(),
        }
    }

    /// Whether nothing is left of it and its key goes.
    pub(super) fn is_empty(self) -> bool {
        match self {
            ValueRef::Plain(tag, bytes) => bytes.is_empty() && Form::of_tag(tag).is_none(),
            ValueRef::Integer(_) => false,
            ValueRef::Owned(value) => value.is_empty(),
        }
    }

    /// Not later than the earliest deadline of any element; 0 if none has one.
    #[inline]
    pub(super) fn soonest(self) -> Millis {
        self.owned().map_or(0, Value::soonest)
    }

    /// Whether it has elements and all are dead at `clock`. What lies in a row has none that die.
    #[inline]
    pub(super) fn is_dead(self, clock: Millis) -> bool {
        self.owned().is_some_and(|value| value.is_dead(clock))
    }

    /// Bytes that the account may grow by, beside what is added, when this stops being packed.
    pub(super) fn unpacking(self) -> usize {
        match self {
            ValueRef::Plain(tag, _) if Form::of_tag(tag).is_some() => 0,
            ValueRef::Plain(..) => self.to_value().aggregate().map_or(0, Aggregate::unpacking),
            ValueRef::Owned(value) => value.aggregate().map_or(0, Aggregate::unpacking),
            ValueRef::Integer(_) => 0,
        }
    }

    /// What there is of elements that can be copied into other values.
    pub(super) fn size(self) -> Size {
        let size = self.as_set().map(SetRef::size).or_else(|| self.as_sorted().map(SortedRef::size));
        size.unwrap_or(Size { elements: 0, bytes: self.weight() as u64, ranked: false })
    }

    #[inline]
    pub(super) fn tag(self) -> u8 {
        match self {
            ValueRef::Plain(tag, _) => tag,
            ValueRef::Integer(_) => Form::Set.tag(),
            ValueRef::Owned(value) => value.tag(),
        }
    }

    /// As [`Value::plain_body`]; `None` for an integer too, whose digits are nowhere.
    #[inline]
    pub(super) fn plain_body(self) -> Option<&'a [u8]> {
        match self {
            ValueRef::Plain(_, body) => Some(body),
            ValueRef::Integer(_) => None,
            ValueRef::Owned(value) => value.plain_body().map(AsRef::as_ref),
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
    #[inline]
    pub fn to_bytes(&self, copy_up_to: usize) -> Bytes {
        match self.content {
            Content::Shared(bytes) if bytes.len() > copy_up_to => bytes.clone(),
            _ => Bytes::copy_from_slice(self),
        }
    }
}

impl Deref for TextRef<'_> {
    type Target = [u8];

    #[inline]
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
pub(super) struct Digits {
    bytes: [u8; 20],
    len: u8,
}

impl Digits {
    pub fn of(value: i64) -> Digits {
        let mut buffer = itoa::Buffer::new();
        let text = buffer.format(value).as_bytes();
        let mut bytes = [0; 20];
        bytes[..text.len()].copy_from_slice(text);
        Digits { bytes, len: text.len() as u8 }
    }
}

impl Deref for Digits {
    type Target = [u8];

    #[inline]
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
