//! `cjson`: JSON. A table with elements is an array if its keys are positive integers, any other an object; `cjson.null`
//! is what JSON's null becomes, since a nil would end a list.
//!
//! What a script sets of the options holds until it ends.

use super::convert;
use super::environment::{Shared, raise, text_argument};
use super::number;
use mlua::{Lua, MultiValue, Result, Table, Value};
use std::rc::Rc;

/// What `encode_*` and `decode_*` set.
#[derive(Debug, Clone)]
pub(super) struct Options {
    sparse_convert: bool,
    /// 0: no table is too sparse.
    sparse_ratio: f64,
    sparse_safe: f64,
    encode_depth: usize,
    decode_depth: usize,
    precision: usize,
    encode_invalid: Invalid,
    decode_invalid: bool,
    keep_buffer: bool,
}

/// What becomes of numbers that JSON has no form for.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Invalid {
    Refused,
    Written,
    Null,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            sparse_convert: false,
            sparse_ratio: 2.0,
            sparse_safe: 10.0,
            encode_depth: 1000,
            decode_depth: 1000,
            precision: 14,
            encode_invalid: Invalid::Refused,
            decode_invalid: true,
            keep_buffer: true,
        }
    }
}

/// Tables within tables, whatever is set: the host's own stack has an end.
const NESTING_MAX: usize = 1000;

pub(super) fn table(lua: &Lua, shared: &Rc<Shared>) -> Result<Table> {
    let table = lua.create_table()?;
    let with = |name: &str, function: fn(&Lua, &mut Options, &MultiValue) -> Result<MultiValue>| {
        let shared = shared.clone();
        let function = move |lua: &Lua, args: MultiValue| function(lua, &mut shared.json.borrow_mut(), &args);
        table.raw_set(name, lua.create_function(function)?)
    };
    with("encode", encode)?;
    with("decode", decode)?;
    with("encode_sparse_array", sparse_array)?;
    with("encode_max_depth", |lua, options, args| depth(lua, &mut options.encode_depth, args, "encode_max_depth"))?;
    with("decode_max_depth", |lua, options, args| depth(lua, &mut options.decode_depth, args, "decode_max_depth"))?;
    with("encode_number_precision", precision)?;
    with("encode_invalid_numbers", encode_invalid)?;
    with("decode_invalid_numbers", decode_invalid)?;
    with("encode_keep_buffer", keep_buffer)?;
    let again = shared.clone();
    table.raw_set("new", lua.create_function(move |lua, ()| self::table(lua, &again))?)?;
    table.raw_set("null", Value::NULL)?;
    table.raw_set("_NAME", "cjson")?;
    table.raw_set("_VERSION", "2.1.0")?;
    Ok(table)
}

fn one(value: Value) -> MultiValue {
    std::iter::once(value).collect()
}

fn bad_option(lua: &Lua, number: usize, name: &str, why: &str) -> mlua::Error {
    raise(lua, format!("bad argument #{number} to '{name}' ({why})"))
}

/// An integer within bounds, or what there was if none is given.
fn integer(lua: &Lua, args: &MultiValue, at: usize, name: &str, bounds: (i64, i64)) -> Result<Option<i64>> {
    let Some(value) = args.get(at).filter(|value| !value.is_nil()) else { return Ok(None) };
    let number = lua.coerce_number(value.clone())?.map(|number| number as i64);
    let (least, most) = bounds;
    match number.filter(|number| (least..=most).contains(number)) {
        Some(number) => Ok(Some(number)),
        None => {
            let why = format!("expected integer between {least} and {most}");
            Err(bad_option(lua, at + 1, name, &why))
        }
    }
}

fn boolean(lua: &Lua, args: &MultiValue, at: usize, name: &str) -> Result<Option<bool>> {
    match args.get(at) {
        None | Some(Value::Nil) => Ok(None),
        Some(Value::Boolean(value)) => Ok(Some(*value)),
        Some(other) => match convert::text_of(other).as_deref() {
            Some(b"on") => Ok(Some(true)),
            Some(b"off") => Ok(Some(false)),
            text => {
                let why = format!("invalid option '{}'", String::from_utf8_lossy(text.unwrap_or_default()));
                Err(bad_option(lua, at + 1, name, &why))
            }
        },
    }
}

fn sparse_array(lua: &Lua, options: &mut Options, args: &MultiValue) -> Result<MultiValue> {
    const NAME: &str = "encode_sparse_array";
    let bounds = (0, i64::from(i32::MAX));
    if let Some(convert) = boolean(lua, args, 0, NAME)? {
        options.sparse_convert = convert;
    }
    if let Some(ratio) = integer(lua, args, 1, NAME, bounds)? {
        options.sparse_ratio = ratio as f64;
    }
    if let Some(safe) = integer(lua, args, 2, NAME, bounds)? {
        options.sparse_safe = safe as f64;
    }
    let values = [
        Value::Boolean(options.sparse_convert),
        Value::Number(options.sparse_ratio),
        Value::Number(options.sparse_safe),
    ];
    Ok(values.into_iter().collect())
}

fn depth(lua: &Lua, depth: &mut usize, args: &MultiValue, name: &str) -> Result<MultiValue> {
    if let Some(most) = integer(lua, args, 0, name, (1, i64::from(i32::MAX)))? {
        *depth = most as usize;
    }
    Ok(one(Value::Number(*depth as f64)))
}

fn precision(lua: &Lua, options: &mut Options, args: &MultiValue) -> Result<MultiValue> {
    if let Some(precision) = integer(lua, args, 0, "encode_number_precision", (1, 14))? {
        options.precision = precision as usize;
    }
    Ok(one(Value::Number(options.precision as f64)))
}

fn encode_invalid(lua: &Lua, options: &mut Options, args: &MultiValue) -> Result<MultiValue> {
    const NAME: &str = "encode_invalid_numbers";
    match args.front().and_then(convert::text_of).as_deref() {
        Some(b"null") => options.encode_invalid = Invalid::Null,
        _ => match boolean(lua, args, 0, NAME)? {
            Some(true) => options.encode_invalid = Invalid::Written,
            Some(false) => options.encode_invalid = Invalid::Refused,
            None => {}
        },
    }
    Ok(one(match options.encode_invalid {
        Invalid::Refused => Value::Boolean(false),
        Invalid::Written => Value::Boolean(true),
        Invalid::Null => Value::String(lua.create_string("null")?),
    }))
}

fn decode_invalid(lua: &Lua, options: &mut Options, args: &MultiValue) -> Result<MultiValue> {
    options.decode_invalid = boolean(lua, args, 0, "decode_invalid_numbers")?.unwrap_or(options.decode_invalid);
    Ok(one(Value::Boolean(options.decode_invalid)))
}

fn keep_buffer(lua: &Lua, options: &mut Options, args: &MultiValue) -> Result<MultiValue> {
    options.keep_buffer = boolean(lua, args, 0, "encode_keep_buffer")?.unwrap_or(options.keep_buffer);
    Ok(one(Value::Boolean(options.keep_buffer)))
}

// --- writing

fn encode(lua: &Lua, options: &mut Options, args: &MultiValue) -> Result<MultiValue> {
    if args.len() != 1 {
        return Err(bad_option(lua, 1, "encode", "expected 1 argument"));
    }
    let mut out = Vec::new();
    Writer { lua, options, out: &mut out }.value(&args[0], 0)?;
    Ok(one(Value::String(lua.create_string(out)?)))
}

struct Writer<'a> {
    lua: &'a Lua,
    options: &'a Options,
    out: &'a mut Vec<u8>,
}

impl Writer<'_> {
    fn refuse(&self, value: &Value, why: &str) -> mlua::Error {
        let name = match value {
            Value::Integer(_) | Value::Number(_) => "number",
            Value::LightUserData(_) => "userdata",
            other => other.type_name(),
        };
        raise(self.lua, format!("Cannot serialise {name}: {why}"))
    }

    fn value(&mut self, value: &Value, depth: usize) -> Result<()> {
        match value {
            Value::String(text) => self.text(&text.as_bytes()),
            Value::Integer(number) => self.number(value, *number as f64)?,
            Value::Number(number) => self.number(value, *number)?,
            Value::Boolean(true) => self.out.extend(b"true"),
            Value::Boolean(false) => self.out.extend(b"false"),
            Value::Nil => self.out.extend(b"null"),
            Value::LightUserData(pointer) if pointer.0.is_null() => self.out.extend(b"null"),
            Value::Table(table) => self.table(table, depth + 1)?,
            other => return Err(self.refuse(other, "type not supported")),
        }
        Ok(())
    }

    fn number(&mut self, value: &Value, number: f64) -> Result<()> {
        if number.is_finite() {
            self.out.extend(number::general(number, self.options.precision).into_bytes());
            return Ok(());
        }
        let text: &[u8] = match self.options.encode_invalid {
            Invalid::Refused => return Err(self.refuse(value, "must not be NaN or Inf")),
            Invalid::Null => b"null",
            Invalid::Written if number.is_nan() => b"NaN",
            Invalid::Written if number > 0.0 => b"Infinity",
            Invalid::Written => b"-Infinity",
        };
        self.out.extend(text);
        Ok(())
    }

    fn text(&mut self, text: &[u8]) {
        self.out.push(b'"');
        for byte in text {
            match byte {
                b'"' | b'\\' | b'/' => self.out.extend([b'\\', *byte]),
                8 => self.out.extend(b"\\b"),
                9 => self.out.extend(b"\\t"),
                10 => self.out.extend(b"\\n"),
                12 => self.out.extend(b"\\f"),
                13 => self.out.extend(b"\\r"),
                0..32 | 127 => self.out.extend(format!("\\u{byte:04x}").into_bytes()),
                _ => self.out.push(*byte),
            }
        }
        self.out.push(b'"');
    }

    /// How many elements it has as an array; none if it is an object.
    fn length(&self, table: &Table) -> Result<Option<usize>> {
        let (mut count, mut highest) = (0.0, 0.0f64);
        for pair in table.pairs::<Value, Value>() {
            let key = match pair?.0 {
                Value::Integer(key) => key as f64,
                Value::Number(key) => key,
                _ => return Ok(None),
            };
            if key < 1.0 || key.trunc() != key {
                return Ok(None);
            }
            highest = highest.max(key);
            count += 1.0;
        }
        let Options { sparse_ratio, sparse_safe, sparse_convert, .. } = *self.options;
        if sparse_ratio > 0.0 && highest > count * sparse_ratio && highest > sparse_safe {
            return match sparse_convert {
                true => Ok(None),
                false => Err(self.refuse(&Value::Table(table.clone()), "excessively sparse array")),
            };
        }
        Ok((count > 0.0).then_some(highest as usize))
    }

    fn table(&mut self, table: &Table, depth: usize) -> Result<()> {
        if depth > self.options.encode_depth.min(NESTING_MAX) {
            return Err(raise(self.lua, format!("Cannot serialise, excessive nesting ({depth})")));
        }
        match self.length(table)? {
            Some(length) => {
                self.out.push(b'[');
                for at in 1..=length {
                    if at > 1 {
                        self.out.push(b',');
                    }
                    self.value(&table.raw_get(at)?, depth)?;
                }
                self.out.push(b']');
            }
            None => {
                self.out.push(b'{');
                for (at, pair) in table.pairs::<Value, Value>().enumerate() {
                    let (key, value) = pair?;
                    if at > 0 {
                        self.out.push(b',');
                    }
                    match &key {
                        Value::String(text) => self.text(&text.as_bytes()),
                        other => match convert::number_of(other) {
                            Some(number) => {
                                self.out.push(b'"');
                                self.number(other, number)?;
                                self.out.push(b'"');
                            }
                            None => return Err(self.refuse(other, "table key must be a number or string")),
                        },
                    }
                    self.out.push(b':');
                    self.value(&value, depth)?;
                }
                self.out.push(b'}');
            }
        }
        Ok(())
    }
}

// --- reading

fn decode(lua: &Lua, options: &mut Options, args: &MultiValue) -> Result<MultiValue> {
    if args.len() != 1 {
        return Err(bad_option(lua, 1, "decode", "expected 1 argument"));
    }
    let text = text_argument(lua, args, 0, "decode")?;
    if text.len() >= 2 && (text[0] == 0 || text[1] == 0) {
        return Err(raise(lua, "JSON parser does not support UTF-16 or UTF-32"));
    }
    let mut reader = Reader { lua, options, text: &text, at: 0, depth: 0 };
    let first = reader.token();
    let value = reader.value(first)?;
    match reader.token() {
        (Token::End, _) => Ok(one(value)),
        other => Err(reader.unexpected("the end", &other)),
    }
}

enum Token {
    ObjectBegin,
    ObjectEnd,
    ArrayBegin,
    ArrayEnd,
    Text(Vec<u8>),
    Number(f64),
    Boolean(bool),
    Null,
    Colon,
    Comma,
    End,
    Error(&'static str),
}

/// A token and where it begins.
type Placed = (Token, usize);

struct Reader<'a> {
    lua: &'a Lua,
    options: &'a Options,
    text: &'a [u8],
    at: usize,
    depth: usize,
}

impl Reader<'_> {
    fn unexpected(&self, wanted: &str, (token, at): &Placed) -> mlua::Error {
        let found = match token {
            Token::ObjectBegin => "T_OBJ_BEGIN",
            Token::ObjectEnd => "T_OBJ_END",
            Token::ArrayBegin => "T_ARR_BEGIN",
            Token::ArrayEnd => "T_ARR_END",
            Token::Text(_) => "T_STRING",
            Token::Number(_) => "T_NUMBER",
            Token::Boolean(_) => "T_BOOLEAN",
            Token::Null => "T_NULL",
            Token::Colon => "T_COLON",
            Token::Comma => "T_COMMA",
            Token::End => "T_END",
            Token::Error(what) => what,
        };
        raise(self.lua, format!("Expected {wanted} but found {found} at character {}", at + 1))
    }

    fn token(&mut self) -> Placed {
        while matches!(self.text.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
        let start = self.at;
        let Some(byte) = self.text.get(start).copied() else { return (Token::End, start) };
        let single = match byte {
            b'{' => Some(Token::ObjectBegin),
            b'}' => Some(Token::ObjectEnd),
            b'[' => Some(Token::ArrayBegin),
            b']' => Some(Token::ArrayEnd),
            b':' => Some(Token::Colon),
            b',' => Some(Token::Comma),
            0 => return (Token::End, start),
            _ => None,
        };
        if let Some(token) = single {
            self.at += 1;
            return (token, start);
        }
        if byte == b'"' {
            return self.quoted();
        }
        let rest = &self.text[start..];
        let odd = is_odd_number(rest);
        if byte == b'-' || byte.is_ascii_digit() || (odd && self.options.decode_invalid) {
            return match leading_number(rest).filter(|_| self.options.decode_invalid || !odd) {
                Some((number, length)) => {
                    self.at += length;
                    (Token::Number(number), start)
                }
                None => (Token::Error("invalid number"), start),
            };
        }
        let words = [("true", Token::Boolean(true)), ("false", Token::Boolean(false)), ("null", Token::Null)];
        for (word, token) in words {
            if rest.starts_with(word.as_bytes()) {
                self.at += word.len();
                return (token, start);
            }
        }
        (Token::Error("invalid token"), start)
    }

    fn quoted(&mut self) -> Placed {
        let start = self.at;
        let mut out = Vec::new();
        let mut at = start + 1;
        loop {
            let Some(byte) = self.text.get(at).copied().filter(|byte| *byte != 0) else {
                return (Token::Error("unexpected end of string"), at);
            };
            match byte {
                b'"' => {
                    self.at = at + 1;
                    return (Token::Text(out), start);
                }
                b'\\' => {
                    let plain = match self.text.get(at + 1) {
                        Some(byte @ (b'"' | b'\\' | b'/')) => Some(*byte),
                        Some(b'b') => Some(8),
                        Some(b't') => Some(9),
                        Some(b'n') => Some(10),
                        Some(b'f') => Some(12),
                        Some(b'r') => Some(13),
                        Some(b'u') => None,
                        _ => return (Token::Error("invalid escape code"), at),
                    };
                    match (plain, unicode(&self.text[at..])) {
                        (Some(byte), _) => {
                            out.push(byte);
                            at += 2;
                        }
                        (None, Some((character, length))) => {
                            out.extend(character);
                            at += length;
                        }
                        (None, None) => return (Token::Error("invalid unicode escape code"), at),
                    }
                }
                _ => {
                    out.push(byte);
                    at += 1;
                }
            }
        }
    }

    fn value(&mut self, token: Placed) -> Result<Value> {
        match token.0 {
            Token::Text(text) => Ok(Value::String(self.lua.create_string(text)?)),
            Token::Number(number) => Ok(Value::Number(number)),
            Token::Boolean(value) => Ok(Value::Boolean(value)),
            Token::Null => Ok(Value::NULL),
            Token::ObjectBegin => self.object(),
            Token::ArrayBegin => self.array(),
            _ => Err(self.unexpected("value", &token)),
        }
    }

    fn descend(&mut self) -> Result<()> {
        self.depth += 1;
        if self.depth > self.options.decode_depth.min(NESTING_MAX) {
            let text = format!("Found too many nested data structures ({}) at character {}", self.depth, self.at);
            return Err(raise(self.lua, text));
        }
        Ok(())
    }

    fn object(&mut self) -> Result<Value> {
        self.descend()?;
        let table = self.lua.create_table()?;
        let mut token = self.token();
        if !matches!(token.0, Token::ObjectEnd) {
            loop {
                let Token::Text(key) = token.0 else { return Err(self.unexpected("object key string", &token)) };
                let colon = self.token();
                if !matches!(colon.0, Token::Colon) {
                    return Err(self.unexpected("colon", &colon));
                }
                let first = self.token();
                let value = self.value(first)?;
                table.raw_set(self.lua.create_string(key)?, value)?;
                token = self.token();
                match token.0 {
                    Token::ObjectEnd => break,
                    Token::Comma => token = self.token(),
                    _ => return Err(self.unexpected("comma or object end", &token)),
                }
            }
        }
        self.depth -= 1;
        Ok(Value::Table(table))
    }

    fn array(&mut self) -> Result<Value> {
        self.descend()?;
        let table = self.lua.create_table()?;
        let mut token = self.token();
        if !matches!(token.0, Token::ArrayEnd) {
            for at in 1.. {
                table.raw_set(at, self.value(token)?)?;
                token = self.token();
                match token.0 {
                    Token::ArrayEnd => break,
                    Token::Comma => token = self.token(),
                    _ => return Err(self.unexpected("comma or array end", &token)),
                }
            }
        }
        self.depth -= 1;
        Ok(Value::Table(table))
    }
}

/// `\uXXXX` at the beginning, or two of them that are one character: its bytes, and how long it is.
fn unicode(text: &[u8]) -> Option<(Vec<u8>, usize)> {
    let unit = |at: usize| {
        let digits = text.get(at..at + 6)?.strip_prefix(b"\\u")?;
        let all = digits.iter().all(u8::is_ascii_hexdigit);
        u32::from_str_radix(std::str::from_utf8(digits).ok().filter(|_| all)?, 16).ok()
    };
    let first = unit(0)?;
    let (code, length) = match first {
        0xD800..0xDC00 => {
            let second = unit(6).filter(|low| (0xDC00..0xE000).contains(low))?;
            (0x1_0000 + ((first & 0x3FF) << 10 | second & 0x3FF), 12)
        }
        0xDC00..0xE000 => return None,
        code => (code, 6),
    };
    Some((char::from_u32(code)?.to_string().into_bytes(), length))
}

/// What JSON does not call a number and C does: hexadecimal, infinity, no number.
fn is_odd_number(text: &[u8]) -> bool {
    let unsigned = text.strip_prefix(b"-").or(text.strip_prefix(b"+")).unwrap_or(text);
    let begins = |word: &[u8]| unsigned.len() >= word.len() && unsigned[..word.len()].eq_ignore_ascii_case(word);
    match unsigned {
        [b'0', b'x' | b'X', ..] => true,
        [b'0', b'0'..=b'9', ..] => true,
        [b'0'..=b'9', ..] => false,
        _ => begins(b"inf") || begins(b"nan"),
    }
}

/// The number at the beginning, as `strtod` reads it, and how long it is.
fn leading_number(text: &[u8]) -> Option<(f64, usize)> {
    let sign = usize::from(matches!(text.first(), Some(b'-' | b'+')));
    let factor = if text.first() == Some(&b'-') { -1.0 } else { 1.0 };
    let body = &text[sign..];
    let begins = |word: &[u8]| body.len() >= word.len() && body[..word.len()].eq_ignore_ascii_case(word);
    for (word, value) in [(&b"infinity"[..], f64::INFINITY), (b"inf", f64::INFINITY), (b"nan", f64::NAN)] {
        if begins(word) {
            return Some((factor * value, sign + word.len()));
        }
    }
    if begins(b"0x") {
        let digits = body[2..].iter().take_while(|b| b.is_ascii_hexdigit()).count();
        if digits > 0 {
            let digit = |b: &u8| f64::from(char::from(*b).to_digit(16).unwrap_or(0));
            let value = body[2..2 + digits].iter().fold(0.0, |value, b| value * 16.0 + digit(b));
            return Some((factor * value, sign + 2 + digits));
        }
    }
    let count = |from: usize| body.get(from..).map_or(0, |b| b.iter().take_while(|b| b.is_ascii_digit()).count());
    let whole = count(0);
    let mut length = whole;
    if body.get(length) == Some(&b'.') && (whole > 0 || count(length + 1) > 0) {
        length += 1 + count(length + 1);
    }
    if length == 0 {
        return None;
    }
    if matches!(body.get(length), Some(b'e' | b'E')) {
        let signed = usize::from(matches!(body.get(length + 1), Some(b'-' | b'+')));
        let digits = count(length + 1 + signed);
        if digits > 0 {
            length += 1 + signed + digits;
        }
    }
    let number: f64 = std::str::from_utf8(&body[..length]).ok()?.parse().ok()?;
    Some((factor * number, sign + length))
}
