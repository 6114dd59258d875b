//! `cmsgpack`: MessagePack. A table with the keys 1 to n is an array, any other a map; what has no form becomes nil.

use super::environment::{integer_argument, raise, text_argument};
use mlua::{Lua, MultiValue, Result, Table, Value};

/// Tables within tables that are packed; deeper ones become nil.
const NESTING_MAX: usize = 16;
/// Arrays and maps within one another that are unpacked.
const UNPACK_NESTING_MAX: usize = 128;

pub(super) fn table(lua: &Lua) -> Result<Table> {
    let table = lua.create_table()?;
    table.raw_set("pack", lua.create_function(|lua, args: MultiValue| pack(lua, &args))?)?;
    table.raw_set("unpack", lua.create_function(|lua, args: MultiValue| unpack(lua, &args, "unpack", None))?)?;
    let one = |lua: &Lua, args: MultiValue| unpack(lua, &args, "unpack_one", Some((1.0, 1)));
    table.raw_set("unpack_one", lua.create_function(one)?)?;
    let limited = |lua: &Lua, args: MultiValue| {
        let limit = integer_argument(lua, &args, 1, "unpack_limit")?;
        unpack(lua, &args, "unpack_limit", Some((limit, 2)))
    };
    table.raw_set("unpack_limit", lua.create_function(limited)?)?;
    table.raw_set("_NAME", "cmsgpack")?;
    table.raw_set("_VERSION", "lua-cmsgpack 0.4.0")?;
    Ok(table)
}

fn pack(lua: &Lua, args: &MultiValue) -> Result<mlua::LuaString> {
    if args.is_empty() {
        return Err(raise(lua, "bad argument #0 to 'pack' (MessagePack pack needs input.)"));
    }
    let mut out = Vec::new();
    for value in args {
        put(&mut out, value, 0)?;
    }
    lua.create_string(out)
}

fn put(out: &mut Vec<u8>, value: &Value, level: usize) -> Result<()> {
    match value {
        Value::String(text) => put_text(out, &text.as_bytes()),
        Value::Boolean(value) => out.push(if *value { 0xc3 } else { 0xc2 }),
        Value::Integer(value) => put_integer(out, *value),
        Value::Number(value) => put_number(out, *value),
        Value::Table(table) if level < NESTING_MAX => put_table(out, table, level)?,
        _ => out.push(0xc0),
    }
    Ok(())
}

/// A head that says a length in as few bytes as there are forms for it.
fn put_length(out: &mut Vec<u8>, length: usize, short: Option<(u8, usize)>, forms: [u8; 3]) {
    match length {
        _ if short.is_some_and(|(_, below)| length < below) => {
            out.push(short.map_or(0, |(mark, _)| mark) | length as u8);
        }
        0..=0xff if forms[0] != 0 => out.extend([forms[0], length as u8]),
        0..=0xffff => {
            out.push(forms[1]);
            out.extend((length as u16).to_be_bytes());
        }
        _ => {
            out.push(forms[2]);
            out.extend((length as u32).to_be_bytes());
        }
    }
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    put_length(out, text.len(), Some((0xa0, 32)), [0xd9, 0xda, 0xdb]);
    out.extend_from_slice(text);
}

fn put_integer(out: &mut Vec<u8>, value: i64) {
    match value {
        -32..=127 => out.push(value as u8),
        128..=0xff => out.extend([0xcc, value as u8]),
        0x100..=0xffff => {
            out.push(0xcd);
            out.extend((value as u16).to_be_bytes());
        }
        0x1_0000..=0xffff_ffff => {
            out.push(0xce);
            out.extend((value as u32).to_be_bytes());
        }
        0x1_0000_0000.. => {
            out.push(0xcf);
            out.extend(value.to_be_bytes());
        }
        -128..=-33 => out.extend([0xd0, value as u8]),
        -32_768..=-129 => {
            out.push(0xd1);
            out.extend((value as i16).to_be_bytes());
        }
        -2_147_483_648..=-32_769 => {
            out.push(0xd2);
            out.extend((value as i32).to_be_bytes());
        }
        _ => {
            out.push(0xd3);
            out.extend(value.to_be_bytes());
        }
    }
}

fn put_number(out: &mut Vec<u8>, value: f64) {
    let integer = value as i64;
    if integer as f64 == value && value.abs() < 9_223_372_036_854_775_808.0 {
        return put_integer(out, integer);
    }
    match value as f32 {
        short if f64::from(short) == value => {
            out.push(0xca);
            out.extend(short.to_be_bytes());
        }
        _ => {
            out.push(0xcb);
            out.extend(value.to_be_bytes());
        }
    }
}

fn put_table(out: &mut Vec<u8>, table: &Table, level: usize) -> Result<()> {
    let (mut count, mut highest, mut array) = (0usize, 0.0f64, true);
    for pair in table.pairs::<Value, Value>() {
        let (key, _) = pair?;
        count += 1;
        match key {
            Value::Integer(key) if key > 0 => highest = highest.max(key as f64),
            Value::Number(key) if key > 0.0 && key.trunc() == key => highest = highest.max(key),
            _ => array = false,
        }
    }
    if array && highest == count as f64 {
        put_length(out, count, Some((0x90, 16)), [0, 0xdc, 0xdd]);
        for at in 1..=count {
            put(out, &table.raw_get(at)?, level + 1)?;
        }
        return Ok(());
    }
    put_length(out, count, Some((0x80, 16)), [0, 0xde, 0xdf]);
    for pair in table.pairs::<Value, Value>() {
        let (key, value) = pair?;
        put(out, &key, level + 1)?;
        put(out, &value, level + 1)?;
    }
    Ok(())
}

/// Why bytes cannot be unpacked.
enum Trouble {
    Missing,
    Bad,
    Lua(mlua::Error),
}

impl From<mlua::Error> for Trouble {
    fn from(error: mlua::Error) -> Trouble {
        Trouble::Lua(error)
    }
}

/// `limited`: how many values at most, and which argument says where to begin.
fn unpack(lua: &Lua, args: &MultiValue, name: &str, limited: Option<(f64, usize)>) -> Result<MultiValue> {
    let data = text_argument(lua, args, 0, name)?;
    let (limit, offset) = match limited {
        None => (f64::INFINITY, 0.0),
        Some((limit, at)) if args.len() > at => (limit, integer_argument(lua, args, at, name)?),
        Some((limit, _)) => (limit, 0.0),
    };
    if offset < 0.0 || limit < 0.0 {
        let text = format!("Invalid request to unpack with offset of {offset} and limit of {}.", data.len());
        return Err(raise(lua, text));
    }
    if offset > data.len() as f64 {
        return Err(raise(lua, format!("Start offset {offset} greater than input length {}.", data.len())));
    }
    let mut rest = &data[offset as usize..];
    let mut values = Vec::new();
    while !rest.is_empty() && (values.len() as f64) < limit {
        match take(lua, &mut rest, 0) {
            Ok(value) => values.push(value),
            Err(Trouble::Missing) => return Err(raise(lua, "Missing bytes in input.")),
            Err(Trouble::Bad) => return Err(raise(lua, "Bad data format in input.")),
            Err(Trouble::Lua(error)) => return Err(error),
        }
    }
    if limited.is_some() {
        let next = if rest.is_empty() { -1.0 } else { (data.len() - rest.len()) as f64 };
        values.insert(0, Value::Number(next));
    }
    Ok(values.into_iter().collect())
}

fn bytes<'a>(rest: &mut &'a [u8], count: usize) -> std::result::Result<&'a [u8], Trouble> {
    let taken = rest.get(..count).ok_or(Trouble::Missing)?;
    *rest = &rest[count..];
    Ok(taken)
}

fn unsigned(rest: &mut &[u8], size: usize) -> std::result::Result<u64, Trouble> {
    Ok(bytes(rest, size)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

fn take(lua: &Lua, rest: &mut &[u8], level: usize) -> std::result::Result<Value, Trouble> {
    if level > UNPACK_NESTING_MAX {
        return Err(Trouble::Bad);
    }
    let mark = bytes(rest, 1)?[0];
    let number = |value: f64| Ok(Value::Number(value));
    let signed = |value: u64, size: u32| ((value << (64 - 8 * size)) as i64 >> (64 - 8 * size)) as f64;
    match mark {
        0x00..=0x7f => number(f64::from(mark)),
        0xe0..=0xff => number(f64::from(mark as i8)),
        0x80..=0x8f => take_map(lua, rest, usize::from(mark & 15), level),
        0x90..=0x9f => take_array(lua, rest, usize::from(mark & 15), level),
        0xa0..=0xbf => take_text(lua, rest, usize::from(mark & 31)),
        0xc0 => Ok(Value::Nil),
        0xc2 | 0xc3 => Ok(Value::Boolean(mark == 0xc3)),
        0xca => number(f64::from(f32::from_bits(unsigned(rest, 4)? as u32))),
        0xcb => number(f64::from_bits(unsigned(rest, 8)?)),
        0xcc..=0xcf => number(unsigned(rest, 1 << (mark - 0xcc))? as f64),
        0xd0..=0xd3 => {
            let size = 1 << (mark - 0xd0);
            number(signed(unsigned(rest, size)?, size as u32))
        }
        0xc4..=0xc6 | 0xd9..=0xdb => {
            let size = if mark < 0xd0 { mark - 0xc4 } else { mark - 0xd9 };
            let length = unsigned(rest, 1 << size)? as usize;
            take_text(lua, rest, length)
        }
        0xdc | 0xdd => {
            let count = unsigned(rest, if mark == 0xdc { 2 } else { 4 })? as usize;
            take_array(lua, rest, count, level)
        }
        0xde | 0xdf => {
            let count = unsigned(rest, if mark == 0xde { 2 } else { 4 })? as usize;
            take_map(lua, rest, count, level)
        }
        _ => Err(Trouble::Bad),
    }
}

fn take_text(lua: &Lua, rest: &mut &[u8], length: usize) -> std::result::Result<Value, Trouble> {
    Ok(Value::String(lua.create_string(bytes(rest, length)?)?))
}

fn take_array(lua: &Lua, rest: &mut &[u8], count: usize, level: usize) -> std::result::Result<Value, Trouble> {
    let table = lua.create_table()?;
    for at in 1..=count {
        table.raw_set(at, take(lua, rest, level + 1)?)?;
    }
    Ok(Value::Table(table))
}

fn take_map(lua: &Lua, rest: &mut &[u8], count: usize, level: usize) -> std::result::Result<Value, Trouble> {
    let table = lua.create_table()?;
    for _ in 0..count {
        let (key, value) = (take(lua, rest, level + 1)?, take(lua, rest, level + 1)?);
        if matches!(key, Value::Nil) || matches!(key, Value::Number(number) if number.is_nan()) {
            return Err(Trouble::Bad);
        }
        table.raw_set(key, value)?;
    }
    Ok(Value::Table(table))
}
