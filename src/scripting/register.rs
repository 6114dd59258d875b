//! `redis.register_function`, and what else a library may use while it registers its functions.

use super::convert;
use super::environment::{Shared, raise_reply};
use super::flags::Flags;
use super::library::{self, BAD_NAME, is_name};
use bytes::Bytes;
use mlua::{Function, Lua, MultiValue, Result, Table, Value};
use std::rc::Rc;

/// What of the table `redis` there is then, besides.
const SHARED: [&str; 7] =
    ["log", "LOG_DEBUG", "LOG_VERBOSE", "LOG_NOTICE", "LOG_WARNING", "REDIS_VERSION", "REDIS_VERSION_NUM"];

const ONLY_ON_LOAD: &str = "ERR redis.register_function can only be called on FUNCTION LOAD command";
const WRONG_NUMBER: &str = "ERR wrong number of arguments to redis.register_function";
const NO_TABLE: &str = "ERR calling redis.register_function with a single argument is only applicable to Lua table \
                        (representing named arguments).";
const UNKNOWN_FLAG: &str = "ERR unknown flag given";

/// The table `redis` of a library that is being run. `redis`: that of scripts.
pub(super) fn table(lua: &Lua, shared: &Rc<Shared>, redis: &Table) -> Result<Table> {
    let table = lua.create_table()?;
    for name in SHARED {
        table.raw_set(name, redis.raw_get::<Value>(name)?)?;
    }
    let shared = shared.clone();
    table.raw_set("register_function", lua.create_function(move |_, args: MultiValue| register(&shared, &args))?)?;
    Ok(table)
}

fn register(shared: &Shared, args: &MultiValue) -> Result<()> {
    let mut loading = shared.loading.borrow_mut();
    let loading = loading.as_mut().ok_or_else(|| raise_reply(ONLY_ON_LOAD))?;
    let (name, callback, description, flags) = match (args.len(), args.front()) {
        (1, Some(Value::Table(named))) => by_name(named)?,
        (1, _) => return Err(raise_reply(NO_TABLE)),
        (2, name) => by_place(name, args.get(1))?,
        _ => return Err(raise_reply(WRONG_NUMBER)),
    };
    let name = String::from_utf8(name.to_vec()).ok().filter(|name| is_name(name.as_bytes()));
    let name = name.ok_or_else(|| raise_reply(BAD_NAME))?;
    if loading.functions.iter().any(|(known, _)| known.name.eq_ignore_ascii_case(&name)) {
        return Err(raise_reply("ERR Function already exists in the library"));
    }
    loading.functions.push((library::Function { name, description, flags }, callback));
    Ok(())
}

type Registered = (Bytes, Function, Option<Bytes>, Flags);

fn by_place(name: Option<&Value>, callback: Option<&Value>) -> Result<Registered> {
    let name = name.and_then(convert::text_of);
    let name = name.ok_or_else(|| raise_reply("ERR first argument to redis.register_function must be a string"))?;
    match callback {
        Some(Value::Function(callback)) => Ok((name, callback.clone(), None, Flags::default())),
        _ => Err(raise_reply("ERR second argument to redis.register_function must be a function")),
    }
}

fn by_name(named: &Table) -> Result<Registered> {
    let (mut name, mut callback, mut description, mut flags) = (None, None, None, Flags::default());
    let text = |value: &Value, or: &'static str| convert::text_of(value).ok_or_else(|| raise_reply(or));
    for pair in named.pairs::<Value, Value>() {
        let (key, value) = pair?;
        let key = text(&key, "ERR named argument key given to redis.register_function is not a string")?;
        match key.to_ascii_lowercase().as_slice() {
            b"function_name" => {
                let or = "ERR function_name argument given to redis.register_function must be a string";
                name = Some(text(&value, or)?);
            }
            b"description" => {
                let or = "ERR description argument given to redis.register_function must be a string";
                description = Some(text(&value, or)?);
            }
            b"callback" => {
                let Value::Function(function) = value else {
                    return Err(raise_reply(
                        "ERR callback argument given to redis.register_function must be a function",
                    ));
                };
                callback = Some(function);
            }
            b"flags" => {
                let Value::Table(list) = value else {
                    let error =
                        "ERR flags argument to redis.register_function must be a table representing function flags";
                    return Err(raise_reply(error));
                };
                flags = read_flags(&list)?;
            }
            _ => return Err(raise_reply("ERR unknown argument given to redis.register_function")),
        }
    }
    let name = name.ok_or_else(|| raise_reply("ERR redis.register_function must get a function name argument"))?;
    let callback = callback.ok_or_else(|| raise_reply("ERR redis.register_function must get a callback argument"))?;
    Ok((name, callback, description, flags))
}

fn read_flags(list: &Table) -> Result<Flags> {
    let mut flags = Flags::default();
    for at in 1.. {
        let name = match list.raw_get::<Value>(at)? {
            Value::Nil => break,
            name => convert::text_of(&name),
        };
        if !name.is_some_and(|name| flags.set(&name.to_ascii_lowercase())) {
            return Err(raise_reply(UNKNOWN_FLAG));
        }
    }
    Ok(flags)
}
