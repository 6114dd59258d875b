//! Replies as Lua values, and Lua values as replies, in Redis' way: a status and an error are tables with one field, what
//! RESP2 cannot say is said flat until the script asks for RESP3, a list ends at its first nil.

use super::number;
use crate::resp::Reply;
use bytes::Bytes;
use mlua::{Lua, Result, Table, Value};

/// Tables within tables of a script's reply; beyond it the reply says so.
const NESTING_MAX: usize = 256;

/// A reply of a command as the script gets it. An error becomes a table with `err`.
pub(super) fn to_lua(lua: &Lua, reply: &Reply, resp3: bool) -> Result<Value> {
    let string = |bytes: &[u8]| Ok(Value::String(lua.create_string(bytes)?));
    let one = |field: &str, value: Value| {
        let table = lua.create_table_with_capacity(0, 1)?;
        table.raw_set(field, value)?;
        Ok(Value::Table(table))
    };
    match reply {
        Reply::Status(text) => one("ok", string(text)?),
        Reply::Error(text) => one("err", string(text)?),
        Reply::Int(value) => Ok(Value::Number(*value as f64)),
        Reply::Bulk(bytes) => string(bytes),
        Reply::Nil | Reply::NilArray if resp3 => Ok(Value::Nil),
        Reply::Nil | Reply::NilArray => Ok(Value::Boolean(false)),
        Reply::Bool(value) if resp3 => Ok(Value::Boolean(*value)),
        Reply::Bool(value) => Ok(Value::Number(f64::from(u8::from(*value)))),
        Reply::Double(value) if resp3 => one("double", Value::Number(*value)),
        Reply::BigNumber(digits) if resp3 => one("big_number", string(digits)?),
        Reply::BigNumber(digits) => string(digits),
        Reply::Verbatim { format, text } if resp3 => {
            let inner = lua.create_table_with_capacity(0, 2)?;
            inner.raw_set("string", string(text)?)?;
            inner.raw_set("format", string(format)?)?;
            one("verbatim_string", Value::Table(inner))
        }
        Reply::Verbatim { text, .. } => string(text),
        Reply::Double(_) => string(&spelled(reply)),
        Reply::Map(pairs) | Reply::PairMap(pairs) if resp3 => {
            let inner = lua.create_table_with_capacity(0, pairs.len())?;
            for (key, value) in pairs {
                inner.raw_set(to_lua(lua, key, resp3)?, to_lua(lua, value, resp3)?)?;
            }
            one("map", Value::Table(inner))
        }
        Reply::Set(items) if resp3 => {
            let inner = lua.create_table_with_capacity(0, items.len())?;
            for item in items {
                inner.raw_set(to_lua(lua, item, resp3)?, true)?;
            }
            one("set", Value::Table(inner))
        }
        Reply::PairMap(pairs) => list_of_two(lua, pairs, resp3),
        Reply::Pairs(pairs) if resp3 => list_of_two(lua, pairs, resp3),
        Reply::Map(pairs) | Reply::Pairs(pairs) => {
            list(lua, pairs.iter().flat_map(|(key, value)| [key, value]), pairs.len() * 2, resp3)
        }
        Reply::Array(items) | Reply::Set(items) | Reply::Push(items) => list(lua, items.iter(), items.len(), resp3),
        // What only connections are told.
        Reply::Nothing | Reply::Several(_) => Ok(Value::Nil),
    }
}

fn list<'a>(lua: &Lua, items: impl Iterator<Item = &'a Reply>, count: usize, resp3: bool) -> Result<Value> {
    let table = lua.create_table_with_capacity(count, 0)?;
    for (at, item) in items.enumerate() {
        table.raw_set(at + 1, to_lua(lua, item, resp3)?)?;
    }
    Ok(Value::Table(table))
}

/// A list of lists of two.
fn list_of_two(lua: &Lua, pairs: &[(Reply, Reply)], resp3: bool) -> Result<Value> {
    let table = lua.create_table_with_capacity(pairs.len(), 0)?;
    for (at, (first, second)) in pairs.iter().enumerate() {
        table.raw_set(at + 1, list(lua, [first, second].into_iter(), 2, resp3)?)?;
    }
    Ok(Value::Table(table))
}

/// What a double is in RESP2, without the frame around it.
fn spelled(reply: &Reply) -> Bytes {
    let mut out = bytes::BytesMut::new();
    reply.encode(crate::resp::Protocol::Resp2, &mut out);
    let text = out.freeze();
    let start = text.iter().position(|b| *b == b'\n').map_or(0, |at| at + 1);
    text.slice(start..text.len() - 2)
}

/// What a script returned, as a reply. `resp3`: the script chose RESP3, so its booleans are such.
pub(super) fn to_reply(value: &Value, resp3: bool) -> Result<Reply> {
    nested(value, resp3, 0)
}

fn nested(value: &Value, resp3: bool, depth: usize) -> Result<Reply> {
    if depth > NESTING_MAX {
        return Ok(Reply::error("ERR reached lua stack limit"));
    }
    Ok(match value {
        Value::String(text) => Reply::Bulk(copied(&text.as_bytes())),
        Value::Integer(value) => Reply::Int(*value),
        Value::Number(value) => Reply::Int(number::truncated(*value)),
        Value::Boolean(value) if resp3 => Reply::Bool(*value),
        Value::Boolean(true) => Reply::Int(1),
        Value::Table(table) => of_table(table, resp3, depth)?,
        _ => Reply::Nil,
    })
}

fn of_table(table: &Table, resp3: bool, depth: usize) -> Result<Reply> {
    let string = |field: &str| Ok::<_, mlua::Error>(string_of(&table.raw_get::<Value>(field)?));
    if let Some(text) = string("err")? {
        return Ok(Reply::Error(text));
    }
    if let Some(text) = string("ok")? {
        return Ok(Reply::Status(one_line(text)));
    }
    if let Some(value) = number_of(&table.raw_get("double")?) {
        return Ok(Reply::Double(value));
    }
    if let Value::Table(map) = table.raw_get("map")? {
        let mut pairs = Vec::new();
        for pair in map.pairs::<Value, Value>() {
            let (key, value) = pair?;
            pairs.push((nested(&key, resp3, depth + 1)?, nested(&value, resp3, depth + 1)?));
        }
        return Ok(Reply::Map(pairs));
    }
    if let Value::Table(set) = table.raw_get("set")? {
        let mut members = Vec::new();
        for pair in set.pairs::<Value, Value>() {
            members.push(nested(&pair?.0, resp3, depth + 1)?);
        }
        return Ok(Reply::Set(members));
    }
    if let Some(digits) = string("big_number")? {
        return Ok(Reply::BigNumber(one_line(digits)));
    }
    if let Value::Table(inner) = table.raw_get("verbatim_string")? {
        let (text, format) = (string_of(&inner.raw_get("string")?), string_of(&inner.raw_get("format")?));
        if let (Some(text), Some(format)) = (text, format) {
            let mut three = *b"   ";
            three.iter_mut().zip(format.iter()).for_each(|(place, byte)| *place = *byte);
            return Ok(Reply::Verbatim { format: three, text });
        }
    }
    let mut items = Vec::new();
    for at in 1.. {
        match table.raw_get(at)? {
            Value::Nil => break,
            item => items.push(nested(&item, resp3, depth + 1)?),
        }
    }
    Ok(Reply::Array(items))
}

fn one_line(text: Bytes) -> Bytes {
    match text.iter().any(|b| matches!(b, b'\r' | b'\n')) {
        true => text.iter().map(|b| if matches!(b, b'\r' | b'\n') { b' ' } else { *b }).collect(),
        false => text,
    }
}

fn copied(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

/// A string, and nothing else.
fn string_of(value: &Value) -> Option<Bytes> {
    match value {
        Value::String(text) => Some(copied(&text.as_bytes())),
        _ => None,
    }
}

/// The number that a value is. Lua 5.1 has doubles alone; one that is whole comes as an integer here.
pub(super) fn number_of(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(value) => Some(*value as f64),
        Value::Number(value) => Some(*value),
        _ => None,
    }
}

/// What Lua takes for a string: one, or a number.
pub(super) fn text_of(value: &Value) -> Option<Bytes> {
    string_of(value).or_else(|| number_of(value).map(|number| Bytes::from(number::general(number, 14))))
}

/// An argument of `redis.call`: numbers with all their digits.
pub(super) fn argument(value: &Value) -> Option<Bytes> {
    let spelled = |number: f64| match number::as_integer(number) {
        Some(integer) => Bytes::from(integer.to_string()),
        None => Bytes::from(number::general(number, 17)),
    };
    string_of(value).or_else(|| number_of(value).map(spelled))
}
