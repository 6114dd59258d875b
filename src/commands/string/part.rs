//! Parts of a string changed in place: APPEND and SETRANGE.

use super::BASE;
use crate::commands::syntax::{either, want_integer};
use crate::commands::text::{check_length, edit_bytes, text_of};
use crate::commands::{Spec, WriteCommand, usual_growth};
use crate::resp::{Args, Reply};
use crate::state::events::Class;
use crate::state::{Form, Keyspace, Value};
use crate::types::Stamp;
use bytes::Bytes;

pub(super) struct Append {
    key: Bytes,
    tail: Bytes,
}

impl Append {
    fn run(self, keyspace: &mut Keyspace) -> Result<Reply, Reply> {
        let Some(text) = text_of(keyspace.get(&self.key))? else {
            keyspace.set(&self.key, Value::text(&self.tail), None);
            keyspace.notify(Class::String, "append", &self.key);
            return Ok(Reply::count(self.tail.len()));
        };
        let length = text.len() + self.tail.len();
        check_length(length)?;
        keyspace.edit(&self.key, |value| edit_bytes(value, |bytes| bytes.extend_from_slice(&self.tail)));
        keyspace.notify(Class::String, "append", &self.key);
        Ok(Reply::count(length))
    }
}

impl WriteCommand for Append {
    const SPEC: Spec = Spec {
        name: "append",
        arity: 3,
        syntax: "APPEND key value",
        summary: "Appends to the string value of a key; returns its length.",
        since: "2.0.0",
        denyoom: true,
        ..BASE
    };

    fn parse(args: &Args) -> Result<Append, Reply> {
        Ok(Append { key: args[1].clone(), tail: args[2].clone() })
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        either(self.run(keyspace))
    }
}

pub(super) struct Setrange {
    key: Bytes,
    offset: usize,
    part: Bytes,
}

impl Setrange {
    fn run(self, keyspace: &mut Keyspace) -> Result<Reply, Reply> {
        let old = text_of(keyspace.get(&self.key))?.map(|text| text.len());
        if self.part.is_empty() {
            return Ok(Reply::count(old.unwrap_or(0)));
        }
        let end = self.offset.saturating_add(self.part.len());
        check_length(end)?;
        if old.is_none() {
            keyspace.set(&self.key, Value::formed(Bytes::new(), Form::Edited), None);
        }
        keyspace.edit(&self.key, |value| {
            edit_bytes(value, |bytes| {
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[self.offset..end].copy_from_slice(&self.part);
            })
        });
        keyspace.notify(Class::String, "setrange", &self.key);
        Ok(Reply::count(end.max(old.unwrap_or(0))))
    }
}

impl WriteCommand for Setrange {
    const SPEC: Spec = Spec {
        name: "setrange",
        arity: 4,
        syntax: "SETRANGE key offset value",
        summary: "Overwrites a part of a string value from an offset on, padded with zero bytes; returns its length.",
        since: "2.2.0",
        denyoom: true,
        ..BASE
    };

    fn parse(args: &Args) -> Result<Setrange, Reply> {
        let offset =
            usize::try_from(want_integer(&args[2])?).map_err(|_| Reply::error("ERR offset is out of range"))?;
        Ok(Setrange { key: args[1].clone(), offset, part: args[3].clone() })
    }

    fn growth(args: &Args) -> u64 {
        let end = |call: Setrange| call.offset.saturating_add(call.part.len());
        match Setrange::parse(args).map(end) {
            Ok(end) if check_length(end).is_ok() => usual_growth(args).saturating_add(end as u64),
            // It is answered with an error and adds nothing.
            _ => 0,
        }
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        either(self.run(keyspace))
    }
}
