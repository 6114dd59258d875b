//! Strings that are numbers: INCR, DECR and their kin.

use super::BASE;
use crate::commands::extended::{self, Extended, Number};
use crate::commands::syntax::{either, want_integer};
use crate::commands::text::text_of;
use crate::commands::{Spec, WriteCommand, usual_growth};
use crate::resp::{Args, Reply};
use crate::state::events::Class;
use crate::state::{Form, Keyspace, Value};
use crate::types::Stamp;
use bytes::Bytes;

/// INCR, DECR, INCRBY and DECRBY.
struct Add {
    key: Bytes,
    by: i64,
}

impl Add {
    fn run(&self, keyspace: &mut Keyspace) -> Result<Reply, Reply> {
        let old = match text_of(keyspace.get(&self.key))? {
            Some(text) => Some(want_integer(&text)?),
            None => None,
        };
        let sum = old.unwrap_or(0).checked_add(self.by);
        let sum = sum.ok_or_else(|| Reply::error("ERR increment or decrement would overflow"))?;
        let value = Value::text(itoa::Buffer::new().format(sum).as_bytes());
        match old {
            Some(_) => keyspace.edit(&self.key, |old| *old = value).unwrap_or_default(),
            None => keyspace.set(&self.key, value, None),
        }
        keyspace.notify(Class::String, "incrby", &self.key);
        Ok(Reply::Int(sum))
    }
}

pub(super) struct Incr(Add);

impl WriteCommand for Incr {
    const SPEC: Spec = Spec {
        name: "incr",
        syntax: "INCR key",
        summary: "Adds one to the integer value of a key; a key that does not exist counts as 0.",
        denyoom: true,
        ..BASE
    };

    fn parse(args: &Args) -> Result<Incr, Reply> {
        Ok(Incr(Add { key: args[1].clone(), by: 1 }))
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        either(self.0.run(keyspace))
    }
}

pub(super) struct Decr(Add);

impl WriteCommand for Decr {
    const SPEC: Spec = Spec {
        name: "decr",
        syntax: "DECR key",
        summary: "Takes one from the integer value of a key; a key that does not exist counts as 0.",
        ..Incr::SPEC
    };

    fn parse(args: &Args) -> Result<Decr, Reply> {
        Ok(Decr(Add { key: args[1].clone(), by: -1 }))
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        either(self.0.run(keyspace))
    }
}

pub(super) struct Incrby(Add);

impl WriteCommand for Incrby {
    const SPEC: Spec = Spec {
        name: "incrby",
        arity: 3,
        syntax: "INCRBY key increment",
        summary: "Adds to the integer value of a key; a key that does not exist counts as 0.",
        ..Incr::SPEC
    };

    fn parse(args: &Args) -> Result<Incrby, Reply> {
        Ok(Incrby(Add { key: args[1].clone(), by: want_integer(&args[2])? }))
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        either(self.0.run(keyspace))
    }
}

pub(super) struct Decrby(Add);

impl WriteCommand for Decrby {
    const SPEC: Spec = Spec {
        name: "decrby",
        arity: 3,
        syntax: "DECRBY key decrement",
        summary: "Takes from the integer value of a key; a key that does not exist counts as 0.",
        ..Incr::SPEC
    };

    fn parse(args: &Args) -> Result<Decrby, Reply> {
        let by = want_integer(&args[2])?.checked_neg();
        Ok(Decrby(Add { key: args[1].clone(), by: by.ok_or_else(|| Reply::error("ERR decrement would overflow"))? }))
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        either(self.0.run(keyspace))
    }
}

pub(super) struct Incrbyfloat {
    key: Bytes,
    by: Number,
}

impl Incrbyfloat {
    fn number(text: &[u8]) -> Result<Number, Reply> {
        extended::parse(text).ok_or_else(|| Reply::error("ERR value is not a valid float"))
    }

    fn run(&self, keyspace: &mut Keyspace) -> Result<Reply, Reply> {
        let old = text_of(keyspace.get(&self.key))?.map(|text| Incrbyfloat::number(&text)).transpose()?;
        let sum = match (old.unwrap_or(Number::Finite(Extended::default())), self.by) {
            (Number::Finite(old), Number::Finite(by)) => old.add(by),
            _ => None,
        };
        let sum = sum.ok_or_else(|| Reply::error("ERR increment would produce NaN or Infinity"))?;
        let text = Bytes::from(sum.to_text());
        let value = Value::formed(text.clone(), Form::Float);
        match old {
            Some(_) => keyspace.edit(&self.key, |old| *old = value).unwrap_or_default(),
            None => keyspace.set(&self.key, value, None),
        }
        keyspace.notify(Class::String, "incrbyfloat", &self.key);
        Ok(Reply::Bulk(text))
    }
}

impl WriteCommand for Incrbyfloat {
    const SPEC: Spec = Spec {
        name: "incrbyfloat",
        arity: 3,
        syntax: "INCRBYFLOAT key increment",
        summary: "Adds to the floating-point value of a key; a key that does not exist counts as 0.",
        since: "2.6.0",
        ..Incr::SPEC
    };

    fn parse(args: &Args) -> Result<Incrbyfloat, Reply> {
        Ok(Incrbyfloat { key: args[1].clone(), by: Incrbyfloat::number(&args[2])? })
    }

    fn growth(args: &Args) -> u64 {
        usual_growth(args) + extended::TEXT_MAX
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        either(self.run(keyspace))
    }
}
