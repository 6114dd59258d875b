//! A key with what is known of it: owned, and as reads are shown it.

use super::account::cost;
use super::value::{Form, Value, ValueRef};
use crate::types::Millis;
use bytes::Bytes;

/// One key and what is known of it, owned: what was taken out of the keyspace, or lies beside its chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub(super) key: Box<[u8]>,
    pub(super) value: Value,
    /// 0: none.
    pub(super) deadline: Millis,
    pub(super) version: u64,
    pub(super) written_ms: Millis,
}

impl Entry {
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    pub fn value(&self) -> &Value {
        &self.value
    }

    pub fn into_value(self) -> Value {
        self.value
    }

    /// When the key dies, by the group clock; `None` if it does not.
    pub fn deadline(&self) -> Option<Millis> {
        self.as_ref().deadline()
    }

    #[inline]
    pub fn as_ref(&self) -> EntryRef<'_> {
        EntryRef {
            key: &self.key,
            value: ValueRef::Owned(&self.value),
            deadline: self.deadline,
            version: self.version,
            written_ms: self.written_ms,
        }
    }
}

/// One key and what is known of it, in the keyspace.
#[derive(Debug, Clone, Copy)]
pub struct EntryRef<'a> {
    pub(super) key: &'a [u8],
    pub(super) value: ValueRef<'a>,
    /// 0: none.
    pub(super) deadline: Millis,
    pub(super) version: u64,
    pub(super) written_ms: Millis,
}

impl<'a> EntryRef<'a> {
    pub fn key(&self) -> &'a [u8] {
        self.key
    }

    #[inline]
    pub fn value(&self) -> ValueRef<'a> {
        self.value
    }

    /// When the key dies, by the group clock; `None` if it does not.
    pub fn deadline(&self) -> Option<Millis> {
        (self.deadline != 0).then_some(self.deadline)
    }

    /// The group's version counter at the last change of this key.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The group clock at the last change of this key.
    pub fn written_ms(&self) -> Millis {
        self.written_ms
    }

    /// Dead iff its deadline is not after `clock`, or everything in it is dead.
    #[inline]
    pub fn is_dead(&self, clock: Millis) -> bool {
        self.deadline != 0 && self.deadline <= clock || self.value.is_dead(clock)
    }

    /// Not later than the moment at which it, or something in it, dies; 0 if nothing does.
    #[inline]
    pub(super) fn due(&self) -> Millis {
        match (self.deadline, self.value.soonest()) {
            (0, due) | (due, 0) => due,
            (deadline, soonest) => deadline.min(soonest),
        }
    }

    /// What it counts for in the account, in bytes.
    #[inline]
    pub fn cost(&self) -> u64 {
        cost(self.key, self.value.weight())
    }

    /// A copy that outlives the keyspace.
    pub fn to_entry(&self) -> Entry {
        Entry {
            key: self.key.into(),
            value: self.value.to_value(),
            deadline: self.deadline,
            version: self.version,
            written_ms: self.written_ms,
        }
    }
}

/// The value of an entry about to be written.
#[derive(Debug)]
pub(super) enum Drafted<'a> {
    Made(Value),
    /// A string that lies in an image: copied once, to where it stays.
    Text(Form, &'a [u8]),
}

impl From<Value> for Drafted<'_> {
    fn from(value: Value) -> Self {
        Drafted::Made(value)
    }
}

impl Drafted<'_> {
    #[inline]
    pub fn as_ref(&self) -> ValueRef<'_> {
        match self {
            Drafted::Made(value) => ValueRef::Owned(value),
            Drafted::Text(form, bytes) => ValueRef::Plain(form.tag(), bytes),
        }
    }

    fn into_value(self) -> Value {
        match self {
            Drafted::Made(value) => value,
            Drafted::Text(form, bytes) => Value::formed(Bytes::copy_from_slice(bytes), form),
        }
    }
}

/// An entry about to be written.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    pub key: &'a [u8],
    pub value: Drafted<'a>,
    /// 0: none.
    pub deadline: Millis,
    pub version: u64,
    pub written_ms: Millis,
}

impl Draft<'_> {
    #[inline]
    pub fn as_ref(&self) -> EntryRef<'_> {
        EntryRef {
            key: self.key,
            value: self.value.as_ref(),
            deadline: self.deadline,
            version: self.version,
            written_ms: self.written_ms,
        }
    }

    pub fn into_entry(self) -> Entry {
        let Draft { key, value, deadline, version, written_ms } = self;
        Entry { key: key.into(), value: value.into_value(), deadline, version, written_ms }
    }
}
