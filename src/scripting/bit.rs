//! `bit`: operations on 32 bits. Numbers are wrapped into them, results are signed.

use super::environment::{number_argument, raise};
use mlua::{Lua, MultiValue, Result, Table};

/// Adding this leaves an integer's low bits at the end of a double, halves rounded to even.
const SHIFT: f64 = 6_755_399_441_055_744.0;

fn bits(value: f64) -> u32 {
    (value + SHIFT).to_bits() as u32
}

fn signed(value: u32) -> f64 {
    f64::from(value as i32)
}

type Single = fn(u32) -> u32;
type Pair = fn(u32, u32) -> u32;

pub(super) fn table(lua: &Lua) -> Result<Table> {
    let table = lua.create_table()?;
    let folds: [(&str, Pair); 3] = [("band", |a, b| a & b), ("bor", |a, b| a | b), ("bxor", |a, b| a ^ b)];
    for (name, fold) in folds {
        let function = move |lua: &Lua, args: MultiValue| {
            let mut result = bits(number_argument(lua, &args, 0, name)?);
            for at in 1..args.len() {
                result = fold(result, bits(number_argument(lua, &args, at, name)?));
            }
            Ok(signed(result))
        };
        table.raw_set(name, lua.create_function(function)?)?;
    }
    let shifts: [(&str, Pair); 5] = [
        ("lshift", |a, n| a << n),
        ("rshift", |a, n| a >> n),
        ("arshift", |a, n| ((a as i32) >> n) as u32),
        ("rol", u32::rotate_left),
        ("ror", u32::rotate_right),
    ];
    for (name, shift) in shifts {
        let function = move |lua: &Lua, args: MultiValue| {
            let value = bits(number_argument(lua, &args, 0, name)?);
            let by = bits(number_argument(lua, &args, 1, name)?) & 31;
            Ok(signed(shift(value, by)))
        };
        table.raw_set(name, lua.create_function(function)?)?;
    }
    let singles: [(&str, Single); 3] = [("tobit", |a| a), ("bnot", |a| !a), ("bswap", u32::swap_bytes)];
    for (name, single) in singles {
        let function =
            move |lua: &Lua, args: MultiValue| Ok(signed(single(bits(number_argument(lua, &args, 0, name)?))));
        table.raw_set(name, lua.create_function(function)?)?;
    }
    table.raw_set("tohex", lua.create_function(to_hex)?)?;
    Ok(table)
}

fn to_hex(lua: &Lua, args: MultiValue) -> Result<String> {
    let value = bits(number_argument(lua, &args, 0, "tohex")?);
    let wanted = match args.len() {
        0 => return Err(raise(lua, "bad argument #1 to 'tohex' (number expected, got no value)")),
        1 => 8,
        _ => bits(number_argument(lua, &args, 1, "tohex")?) as i32,
    };
    let digits = wanted.unsigned_abs().min(8) as usize;
    let all = if wanted < 0 { format!("{value:08X}") } else { format!("{value:08x}") };
    Ok(all[8 - digits..].to_owned())
}
