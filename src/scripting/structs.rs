//! `struct`: values packed into bytes by a format, and back.
//!
//! `>` `<` byte order, `!n` alignment, `x` a zero byte, `bB` `hH` `lL` `T` `iI[n]` integers, `f` `d` floats, `s` a text
//! that ends in a zero, `c[n]` n bytes of a text (`c0`: all of it; unpacking, as many as the number before says).

use super::environment::{number_argument, raise, text_argument};
use bytes::Bytes;
use mlua::{Lua, MultiValue, Result, Table, Value};

/// Bytes of the largest integer.
const INTEGER_MAX: usize = 32;
/// Where `!` says no number.
const ALIGNMENT: usize = 8;
/// Numbers in a format, and bytes that one option may take.
const NUMBER_MAX: usize = i32::MAX as usize;

pub(super) fn table(lua: &Lua) -> Result<Table> {
    let table = lua.create_table()?;
    table.raw_set("pack", lua.create_function(|lua, args: MultiValue| pack(lua, &args))?)?;
    table.raw_set("unpack", lua.create_function(|lua, args: MultiValue| unpack(lua, &args))?)?;
    table.raw_set("size", lua.create_function(|lua, args: MultiValue| size(lua, &args))?)?;
    Ok(table)
}

/// A format that is being read.
struct Format<'a> {
    lua: &'a Lua,
    text: Bytes,
    at: usize,
    big: bool,
    alignment: usize,
    function: &'static str,
}

/// One option of a format: its letter and the bytes that it stands for.
#[derive(Clone, Copy)]
struct Item {
    letter: u8,
    size: usize,
}

impl<'a> Format<'a> {
    fn new(lua: &'a Lua, args: &MultiValue, function: &'static str) -> Result<Format<'a>> {
        let text = text_argument(lua, args, 0, function)?;
        Ok(Format { lua, text, at: 0, big: false, alignment: 1, function })
    }

    fn bad_argument(&self, number: usize, why: &str) -> mlua::Error {
        raise(self.lua, format!("bad argument #{number} to '{}' ({why})", self.function))
    }

    /// The number that stands here, or what is meant without one.
    fn number(&mut self, otherwise: usize) -> Result<usize> {
        let digits = self.text[self.at..].iter().take_while(|b| b.is_ascii_digit()).count();
        if digits == 0 {
            return Ok(otherwise);
        }
        let figures = &self.text[self.at..self.at + digits];
        self.at += digits;
        let mut number = 0usize;
        for figure in figures {
            number = number * 10 + usize::from(figure - b'0');
            if number > NUMBER_MAX {
                return Err(raise(self.lua, "integral size overflow"));
            }
        }
        Ok(number)
    }

    /// The next option, none at the end. What sets order and alignment is done here.
    fn next_item(&mut self) -> Result<Option<Item>> {
        while let Some(letter) = self.text.get(self.at).copied() {
            self.at += 1;
            let size = match letter {
                b'b' | b'B' | b'x' => 1,
                b'h' | b'H' => 2,
                b'l' | b'L' | b'T' | b'd' => 8,
                b'f' => 4,
                b's' => 0,
                b'c' => self.number(1)?,
                b'i' | b'I' => match self.number(4)? {
                    size if size > INTEGER_MAX => {
                        let text = format!("integral size {size} is larger than limit of {INTEGER_MAX}");
                        return Err(raise(self.lua, text));
                    }
                    size => size,
                },
                _ => {
                    self.control(letter)?;
                    continue;
                }
            };
            return Ok(Some(Item { letter, size }));
        }
        Ok(None)
    }

    fn control(&mut self, letter: u8) -> Result<()> {
        match letter {
            b' ' => {}
            b'>' => self.big = true,
            b'<' => self.big = false,
            b'!' => {
                let alignment = self.number(ALIGNMENT)?;
                if !alignment.is_power_of_two() {
                    return Err(raise(self.lua, format!("alignment {alignment} is not a power of 2")));
                }
                self.alignment = alignment;
            }
            _ => return Err(self.bad_argument(1, &format!("invalid format option '{}'", char::from(letter)))),
        }
        Ok(())
    }

    /// Zero bytes before an item at this position.
    fn padding(&self, position: usize, item: Item) -> usize {
        if item.size == 0 || item.letter == b'c' {
            return 0;
        }
        let size = item.size.min(self.alignment);
        size.wrapping_sub(position & (size - 1)) & (size - 1)
    }

    fn ordered(&self, mut little: Vec<u8>) -> Vec<u8> {
        if self.big {
            little.reverse();
        }
        little
    }
}

fn pack(lua: &Lua, args: &MultiValue) -> Result<mlua::LuaString> {
    let mut format = Format::new(lua, args, "pack")?;
    let (mut out, mut at) = (Vec::new(), 1);
    while let Some(item) = format.next_item()? {
        out.resize(out.len() + format.padding(out.len(), item), 0);
        match item.letter {
            b'x' => out.push(0),
            b's' | b'c' => {
                let text = text_argument(lua, args, at, "pack")?;
                at += 1;
                let size = if item.size == 0 { text.len() } else { item.size };
                if text.len() < size {
                    return Err(format.bad_argument(at + 1, "string too short"));
                }
                out.extend_from_slice(&text[..size]);
                if item.letter == b's' {
                    out.push(0);
                }
            }
            letter => {
                let number = number_argument(lua, args, at, "pack")?;
                at += 1;
                let little = match letter {
                    b'f' => (number as f32).to_le_bytes().to_vec(),
                    b'd' => number.to_le_bytes().to_vec(),
                    _ => {
                        let value = if number < 0.0 { number as i64 as u64 } else { number as u64 };
                        let mut bytes = value.to_le_bytes().to_vec();
                        bytes.resize(item.size, 0);
                        bytes
                    }
                };
                out.extend(format.ordered(little));
            }
        }
    }
    lua.create_string(out)
}

fn unpack(lua: &Lua, args: &MultiValue) -> Result<MultiValue> {
    let mut format = Format::new(lua, args, "unpack")?;
    let data = text_argument(lua, args, 1, "unpack")?;
    let first = if args.len() > 2 { number_argument(lua, args, 2, "unpack")? } else { 1.0 };
    if first < 1.0 {
        return Err(format.bad_argument(3, "offset must be 1 or greater"));
    }
    let mut at = first as usize - 1;
    let mut values: Vec<Value> = Vec::new();
    while let Some(item) = format.next_item()? {
        at += format.padding(at, item);
        let piece = |at: usize, size: usize| at.checked_add(size).and_then(|end| data.get(at..end));
        let Some(bytes) = piece(at, item.size) else { return Err(format.bad_argument(2, "data string too short")) };
        let mut taken = item.size;
        match item.letter {
            b'x' => {}
            b's' => {
                let Some(length) = data[at..].iter().position(|b| *b == 0) else {
                    return Err(raise(lua, "unfinished string in data"));
                };
                values.push(Value::String(lua.create_string(&data[at..at + length])?));
                taken = length + 1;
            }
            b'c' => {
                if item.size == 0 {
                    let size = values.pop().and_then(|value| lua.coerce_number(value).ok().flatten());
                    let Some(size) = size else { return Err(raise(lua, "format 'c0' needs a previous size")) };
                    taken = size as usize;
                }
                let Some(bytes) = piece(at, taken) else {
                    return Err(format.bad_argument(2, "data string too short"));
                };
                values.push(Value::String(lua.create_string(bytes)?));
            }
            letter => {
                let little = format.ordered(bytes.to_vec());
                values.push(Value::Number(number_of(letter, &little)));
            }
        }
        at += taken;
    }
    values.push(Value::Number((at + 1) as f64));
    Ok(values.into_iter().collect())
}

fn number_of(letter: u8, little: &[u8]) -> f64 {
    match letter {
        b'f' => f64::from(f32::from_le_bytes(little.try_into().unwrap_or_default())),
        b'd' => f64::from_le_bytes(little.try_into().unwrap_or_default()),
        _ => {
            // What does not fit 64 bits falls off the upper end.
            let unsigned = little.iter().rev().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
            let bits = (little.len() * 8) as u32;
            let sign = if letter.is_ascii_lowercase() && (1..64).contains(&bits) { u64::MAX << (bits - 1) } else { 0 };
            match letter.is_ascii_lowercase() {
                true if unsigned & sign != 0 => (unsigned | sign) as i64 as f64,
                true => unsigned as i64 as f64,
                false => unsigned as f64,
            }
        }
    }
}

fn size(lua: &Lua, args: &MultiValue) -> Result<usize> {
    let mut format = Format::new(lua, args, "size")?;
    let mut at = 0usize;
    while let Some(item) = format.next_item()? {
        match item.letter {
            b's' => return Err(format.bad_argument(1, "option 's' has no fixed size")),
            b'c' if item.size == 0 => return Err(format.bad_argument(1, "option 'c0' has no fixed size")),
            _ => at = at.saturating_add(format.padding(at, item) + item.size),
        }
    }
    Ok(at)
}
