//! The globals of a script: Lua's own without what reaches outside, Redis' table, and the libraries. None of them can be
//! changed by a script.
//!
//! ```text
//! the script's globals: an empty table, read through to  -> builtins -> "nonexistent global variable"
//! redis, string, cjson, ..: an empty table each, read through to the real one; writing to any of these is an error
//! ```
//!
//! Lua 5.1 has no tables that are read-only, so scripts get such stand-ins; `prelude.lua` lets `pairs`, `next` and `rawget`
//! see through them. Whatever a script managed to put into a stand-in is removed when it has ended.
//!
//! Errors travel as [`Raised`] and become what a script knows, a table or a text, where it catches them.

use super::caller::Caller;
use super::engine::{INSTRUCTIONS, Limits, Stop, Watch, sha1_hex};
use super::random::Random;
use super::{bit, cjson, cmsgpack, convert, library, register, structs};
use crate::commands::server::REDIS_VERSION;
use crate::resp::{Args, Reply};
use bytes::Bytes;
use mlua::{Error, Function, HookTriggers, Lua, LuaOptions, MultiValue, Result, StdLib, Table, Value, VmState};
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::ffi::c_void;
use std::rc::Rc;

/// What the host raises in a script.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Raised {
    /// An error of a command: a table with `err`.
    #[error("{}", String::from_utf8_lossy(.0))]
    Reply(Bytes),
    /// A text, its place in the script in front.
    #[error("{}", String::from_utf8_lossy(.0))]
    Text(Bytes),
    /// The script must end, and cannot prevent it.
    #[error("the script must stop")]
    Stop,
}

/// An error with its place in front, as Lua's own functions raise it.
pub(super) fn raise(lua: &Lua, text: impl AsRef<[u8]>) -> Error {
    let mut whole = place(lua, 1).into_bytes();
    whole.extend_from_slice(text.as_ref());
    Error::external(Raised::Text(Bytes::from(whole)))
}

/// An error as commands raise it.
pub(super) fn raise_reply(text: &'static str) -> Error {
    Error::external(Raised::Reply(Bytes::from_static(text.as_bytes())))
}

/// `chunk:line: ` of the function at a level of the stack; nothing if it is none of Lua.
fn place(lua: &Lua, level: usize) -> String {
    let of = |debug: &mlua::debug::Debug<'_>| {
        let source = debug.source().short_src.map(|s| s.into_owned()).unwrap_or_default();
        debug.current_line().map(|line| format!("{source}:{line}: "))
    };
    lua.inspect_stack(level, of).flatten().unwrap_or_default()
}

/// What a running script uses.
struct Running {
    /// None while a library registers its functions.
    caller: Option<Caller>,
    watch: Box<dyn Watch>,
}

impl Running {
    /// What `math.random` begins with: another number for every run, as effects are logged and not scripts.
    fn seed(&self) -> u32 {
        self.caller.as_ref().map_or(0, |caller| caller.overlay.seed())
    }
}

/// What the functions of the host share.
#[derive(Default)]
pub(super) struct Shared {
    running: RefCell<Option<Running>>,
    stopped: Cell<Option<Stop>>,
    resp3: Cell<bool>,
    random: Cell<Option<Random>>,
    /// There while a library registers its functions.
    pub(super) loading: RefCell<Option<Loading>>,
    pub(super) json: RefCell<cjson::Options>,
    /// The stand-ins.
    guarded: RefCell<HashSet<*const c_void>>,
}

/// How a script ended.
pub(super) struct Finished {
    pub outcome: std::result::Result<Value, Value>,
    pub caller: Caller,
    pub resp3: bool,
    pub stopped: Option<Stop>,
}

/// What a library, being run, has registered.
#[derive(Default)]
pub(super) struct Loading {
    pub functions: Vec<(library::Function, Function)>,
}

/// See the head of this file.
pub(super) struct Environment {
    lua: Lua,
    shared: Rc<Shared>,
    run: Function,
    builtins: Table,
    /// What a library sees instead of the builtins while it registers its functions.
    registering: Table,
    /// Of the script's globals: says which of the two they are.
    of_globals: Table,
    /// Each stand-in; all are empty between scripts.
    stand_ins: Vec<Table>,
    memory: usize,
}

/// Lua's own functions that scripts have.
const OWN: [&str; 27] = [
    "_VERSION",
    "assert",
    "collectgarbage",
    "error",
    "gcinfo",
    "getmetatable",
    "ipairs",
    "load",
    "loadstring",
    "next",
    "pairs",
    "pcall",
    "rawequal",
    "rawget",
    "rawset",
    "select",
    "setmetatable",
    "tonumber",
    "tostring",
    "type",
    "unpack",
    "xpcall",
    "string",
    "table",
    "math",
    "coroutine",
    "_G",
];

const READ_ONLY: &str = "Attempt to modify a readonly table";

impl Environment {
    pub fn new(limits: Limits) -> Result<Environment> {
        let libraries = StdLib::STRING | StdLib::TABLE | StdLib::MATH;
        let lua = Lua::new_with(libraries, LuaOptions::new().catch_rust_panics(true))?;
        lua.set_memory_limit(limits.memory)?;
        let shared = Rc::new(Shared::default());
        set_hook(&lua, &shared)?;
        let builtins = lua.globals();
        let run = install_prelude(&lua, &shared, &builtins)?;
        let known: Vec<Value> = builtins.pairs::<Value, Value>().map(|p| p.map(|(k, _)| k)).collect::<Result<_>>()?;
        for name in known {
            let keep = convert::text_of(&name).is_some_and(|name| OWN.iter().any(|own| own.as_bytes() == &name[..]));
            if !keep {
                builtins.raw_set(name, Value::Nil)?;
            }
        }
        let math: Table = builtins.raw_get("math")?;
        install_random(&lua, &shared, &math)?;
        builtins.raw_set("redis", redis_table(&lua, &shared)?)?;
        builtins.raw_set("os", os_table(&lua, &shared)?)?;
        builtins.raw_set("bit", bit::table(&lua)?)?;
        builtins.raw_set("cjson", cjson::table(&lua, &shared)?)?;
        builtins.raw_set("cmsgpack", cmsgpack::table(&lua)?)?;
        builtins.raw_set("struct", structs::table(&lua)?)?;
        let (registering, of_globals) = (lua.create_table()?, lua.create_table()?);
        registering.raw_set("redis", register::table(&lua, &shared, &builtins.raw_get("redis")?)?)?;
        let stand_ins = Vec::new();
        let mut environment =
            Environment { lua, shared, run, builtins, registering, of_globals, stand_ins, memory: limits.memory };
        environment.guard()?;
        Ok(environment)
    }

    /// Puts stand-ins in front of every table that scripts share.
    fn guard(&mut self) -> Result<()> {
        let (lua, builtins) = (self.lua.clone(), self.builtins.clone());
        let string: Table = builtins.raw_get("string")?;
        for pair in builtins.clone().pairs::<Value, Value>() {
            let (name, value) = pair?;
            if let Value::Table(table) = value
                && table != builtins
            {
                let stand_in = self.stand_in(&table)?;
                builtins.raw_set(name, stand_in)?;
            }
        }
        let of_strings = lua.create_table()?;
        of_strings.raw_set("__index", builtins.raw_get::<Value>("string")?)?;
        let metatable = lua.create_table()?;
        metatable.raw_set("__index", string)?;
        metatable.raw_set("__metatable", self.stand_in(&of_strings)?)?;
        lua.set_type_metatable::<mlua::LuaString>(Some(metatable));
        let redis: Table = self.registering.raw_get("redis")?;
        let stand_in = self.stand_in(&redis)?;
        self.registering.raw_set("redis", stand_in)?;
        let missing = lua.create_function(|lua, (_, name): (Value, Value)| -> Result<Value> {
            let name = convert::text_of(&name).unwrap_or_default();
            let name = String::from_utf8_lossy(&name);
            Err(raise(lua, format!("Script attempted to access nonexistent global variable '{name}'")))
        })?;
        let last = lua.create_table()?;
        last.raw_set("__index", missing)?;
        redis.set_metatable(Some(last.clone()))?;
        self.registering.set_metatable(Some(last.clone()))?;
        builtins.set_metatable(Some(last))?;
        let globals = self.stand_in(&builtins)?;
        self.of_globals = globals.metatable().expect("a stand-in has one");
        // What a script is shown instead of it cannot be changed either, and says so.
        let shown = lua.create_table()?;
        let shown = self.stand_in(&shown)?;
        self.of_globals.raw_set("__metatable", shown)?;
        builtins.raw_set("_G", &globals)?;
        lua.set_globals(globals)
    }

    fn stand_in(&mut self, real: &Table) -> Result<Table> {
        let (stand_in, metatable) = (self.lua.create_table()?, self.lua.create_table()?);
        let refuse = |lua: &Lua, _: MultiValue| -> Result<()> { Err(raise(lua, READ_ONLY)) };
        metatable.raw_set("__index", real)?;
        metatable.raw_set("__newindex", self.lua.create_function(refuse)?)?;
        metatable.raw_set("__metatable", false)?;
        stand_in.set_metatable(Some(metatable))?;
        self.lua.named_registry_value::<Table>(REAL)?.raw_set(&stand_in, real)?;
        self.shared.guarded.borrow_mut().insert(stand_in.to_pointer());
        self.stand_ins.push(stand_in.clone());
        Ok(stand_in)
    }

    /// Compiles text. The error is Lua's message.
    pub fn compile(&self, text: &[u8], name: &str) -> std::result::Result<Function, Vec<u8>> {
        let chunk = self.lua.load(text).set_name(name).set_mode(mlua::chunk::ChunkMode::Text);
        chunk.into_function().map_err(|error| match error {
            Error::SyntaxError { message, .. } | Error::RuntimeError(message) | Error::MemoryError(message) => {
                message.into_bytes()
            }
            other => other.to_string().into_bytes(),
        })
    }

    /// Runs a function with KEYS and ARGV as globals.
    pub fn run_script(
        &self,
        function: &Function,
        keys: &[Bytes],
        args: &[Bytes],
        caller: Caller,
        watch: Box<dyn Watch>,
    ) -> Finished {
        self.enter(Some(caller), watch);
        let globals = || {
            self.builtins.raw_set("KEYS", self.list(keys)?)?;
            self.builtins.raw_set("ARGV", self.list(args)?)
        };
        let outcome = match globals() {
            Ok(()) => self.invoke(function, MultiValue::new()),
            Err(_) => self.out_of_memory(),
        };
        self.finish(outcome)
    }

    /// Runs a library, so that it makes its functions anew, and then the one of this name with keys and arguments. So none
    /// knows what an earlier call left in the library's variables.
    pub fn run_function(
        &self,
        library: &Function,
        name: &str,
        (keys, args): (&[Bytes], &[Bytes]),
        caller: Caller,
        watch: Box<dyn Watch>,
    ) -> Finished {
        self.enter(Some(caller), watch);
        let outcome = self.register(library).and_then(|functions| {
            let found = functions.into_iter().find(|(function, _)| function.name == name);
            let (_, function) = found.ok_or_else(|| Value::Nil)?;
            let both = self.list(keys).and_then(|keys| Ok((keys, self.list(args)?)));
            let Ok((keys, args)) = both else { return self.out_of_memory() };
            let mut words = MultiValue::with_capacity(2);
            words.extend([Value::Table(keys), Value::Table(args)]);
            self.invoke(&function, words)
        });
        self.finish(outcome)
    }

    /// Runs a library to see what it registers; nothing it could call does anything.
    pub fn load(
        &self,
        library: &Function,
        watch: Box<dyn Watch>,
    ) -> (std::result::Result<Vec<library::Function>, Value>, Option<Stop>) {
        self.enter(None, watch);
        let registered = self.register(library);
        *self.shared.running.borrow_mut() = None;
        let functions = registered.map(|functions| functions.into_iter().map(|(function, _)| function).collect());
        (functions, self.shared.stopped.get())
    }

    fn register(&self, library: &Function) -> std::result::Result<Vec<(library::Function, Function)>, Value> {
        *self.shared.loading.borrow_mut() = Some(Loading::default());
        let seen = |globals: &Table| self.of_globals.raw_set("__index", globals);
        let outcome = match seen(&self.registering) {
            Ok(()) => self.invoke(library, MultiValue::new()),
            Err(_) => self.out_of_memory(),
        };
        let loaded = self.shared.loading.borrow_mut().take().unwrap_or_default();
        // An entry that is there is only changed: no memory is needed for it.
        let back = seen(&self.builtins);
        outcome?;
        back.map_err(|_| Value::Nil)?;
        Ok(loaded.functions)
    }

    fn enter(&self, caller: Option<Caller>, watch: Box<dyn Watch>) {
        self.shared.stopped.set(None);
        *self.shared.running.borrow_mut() = Some(Running { caller, watch });
    }

    fn finish(&self, outcome: std::result::Result<Value, Value>) -> Finished {
        let running = self.shared.running.borrow_mut().take();
        let caller = running.and_then(|running| running.caller).expect("it was put there before the script began");
        Finished { outcome, caller, resp3: self.shared.resp3.get(), stopped: self.shared.stopped.get() }
    }

    fn out_of_memory(&self) -> std::result::Result<Value, Value> {
        self.shared.stopped.set(Some(Stop::Memory));
        Err(Value::Nil)
    }

    pub fn list(&self, items: &[Bytes]) -> Result<Table> {
        let table = self.lua.create_table_with_capacity(items.len(), 0)?;
        for (at, item) in items.iter().enumerate() {
            table.raw_set(at + 1, self.lua.create_string(item)?)?;
        }
        Ok(table)
    }

    /// Runs a function; the error is what it raised, with its place.
    fn invoke(&self, function: &Function, args: MultiValue) -> std::result::Result<Value, Value> {
        let mut all = MultiValue::with_capacity(args.len() + 1);
        all.push_back(Value::Function(function.clone()));
        all.extend(args);
        match self.run.call::<(bool, Value)>(all) {
            Ok((true, value)) => Ok(value),
            Ok((false, value)) => Err(value),
            Err(Error::MemoryError(_)) => {
                self.shared.stopped.set(self.shared.stopped.get().or(Some(Stop::Memory)));
                Err(Value::Nil)
            }
            Err(other) => Err(self.lua.create_string(other.to_string()).map_or(Value::Nil, Value::String)),
        }
    }

    /// Takes back whatever a script left behind.
    pub fn clean(&self) -> Result<()> {
        self.builtins.raw_set("KEYS", Value::Nil)?;
        self.builtins.raw_set("ARGV", Value::Nil)?;
        self.shared.resp3.set(false);
        self.shared.random.set(None);
        *self.shared.json.borrow_mut() = cjson::Options::default();
        for stand_in in &self.stand_ins {
            for pair in stand_in.pairs::<Value, Value>() {
                stand_in.raw_set(pair?.0, Value::Nil)?;
            }
        }
        self.lua.gc_restart();
        // What scripts left lying counts against the limit until it is collected.
        match self.lua.used_memory() > self.memory / 4 {
            true => self.lua.gc_collect(),
            false => Ok(()),
        }
    }
}

/// In the registry: stand-ins with what is behind them.
const REAL: &str = "hypercache-real";

fn set_hook(lua: &Lua, shared: &Rc<Shared>) -> Result<()> {
    let shared = shared.clone();
    lua.set_global_hook(HookTriggers::new().every_nth_instruction(INSTRUCTIONS), move |_, _| {
        if shared.stopped.get().is_none() {
            let running = shared.running.try_borrow();
            let stop = running.ok().and_then(|running| running.as_ref().and_then(|running| running.watch.stop()));
            shared.stopped.set(stop);
        }
        match shared.stopped.get() {
            Some(_) => Err(Error::external(Raised::Stop)),
            None => Ok(VmState::Continue),
        }
    })
}

/// What a raised error is to the script.
fn seen(lua: &Lua, error: Value) -> Result<Value> {
    let Value::Error(inner) = &error else { return Ok(error) };
    match inner.downcast_ref::<Raised>() {
        Some(Raised::Reply(text)) => {
            let table = lua.create_table_with_capacity(0, 4)?;
            table.raw_set("err", lua.create_string(text)?)?;
            Ok(Value::Table(table))
        }
        Some(Raised::Text(text)) => Ok(Value::String(lua.create_string(text)?)),
        Some(Raised::Stop) => Ok(error),
        None => {
            let text = inner.to_string();
            let first = text.lines().next().unwrap_or_default();
            Ok(Value::String(lua.create_string(first)?))
        }
    }
}

fn is_stop(error: &Value) -> bool {
    matches!(error, Value::Error(inner) if matches!(inner.downcast_ref::<Raised>(), Some(Raised::Stop)))
}

/// Runs the prelude: puts its functions among the builtins and gives the one that runs scripts.
fn install_prelude(lua: &Lua, shared: &Rc<Shared>, builtins: &Table) -> Result<Function> {
    let host = lua.create_table()?;
    host.raw_set("is_stop", lua.create_function(|_, error: Value| Ok(is_stop(&error)))?)?;
    let stopping = shared.clone();
    host.raw_set("handler", lua.create_function(move |lua, error: Value| handled(lua, &stopping, error))?)?;
    let caught = lua.create_function(|lua, (error, as_text): (Value, Option<bool>)| {
        if is_stop(&error) {
            return Err(Error::external(Raised::Stop));
        }
        let error = seen(lua, error)?;
        // Scripts of old expect the text of a command's error, not its table.
        match &error {
            Value::Table(table) if as_text == Some(true) => {
                let text: Value = table.get("err")?;
                Ok(if convert::text_of(&text).is_some() { text } else { error })
            }
            _ => Ok(error),
        }
    })?;
    let real = lua.create_table()?;
    lua.set_named_registry_value(REAL, &real)?;
    let prelude = lua.load(include_str!("prelude.lua")).set_name("=redis");
    let (shown, run): (Table, Function) = prelude.call((host, real, caught))?;
    for pair in shown.pairs::<String, Value>() {
        let (name, function) = pair?;
        match name.as_str() {
            "resume" => builtins.raw_get::<Table>("coroutine")?.raw_set(name, function)?,
            _ => builtins.raw_set(name, function)?,
        }
    }
    let guarded = shared.clone();
    builtins.raw_set(
        "setmetatable",
        lua.create_function(move |lua, args: MultiValue| set_metatable(lua, &guarded, &args))?,
    )?;
    let guarded = shared.clone();
    builtins.raw_set("rawset", lua.create_function(move |lua, args: MultiValue| raw_set(lua, &guarded, &args))?)?;
    Ok(run)
}

/// The end of every script that raised an error: notes where it was raised.
fn handled(lua: &Lua, shared: &Shared, error: Value) -> Result<Value> {
    let error = match is_stop(&error) {
        true => {
            let table = lua.create_table()?;
            table.raw_set("err", "stopped")?;
            Value::Table(table)
        }
        false => seen(lua, error)?,
    };
    if convert::text_of(&error).is_some_and(|text| &text[..] == b"not enough memory") {
        shared.stopped.set(Some(Stop::Memory));
    }
    let table = match error {
        Value::Table(table) => table,
        other => {
            let mut text = b"ERR ".to_vec();
            text.extend_from_slice(&shown(&other));
            let table = lua.create_table()?;
            table.raw_set("err", lua.create_string(text)?)?;
            table
        }
    };
    let mut level = 1;
    while let Some((what, source, line)) = lua.inspect_stack(level, |debug| {
        let source = debug.source();
        let line = debug.current_line().map_or(-1, |line| line as i64);
        (source.what.to_owned(), source.source.map(|s| s.into_owned()).unwrap_or_default(), line)
    }) {
        level += 1;
        let ours = source == "=redis" || source == "redis";
        if (what == "C" && level == 2) || ours {
            continue;
        }
        table.raw_set("source", source)?;
        table.raw_set("line", line)?;
        break;
    }
    Ok(Value::Table(table))
}

/// What `tostring` says of a value that is no table.
fn shown(value: &Value) -> Bytes {
    match value {
        Value::Nil => Bytes::from_static(b"nil"),
        Value::Boolean(value) => Bytes::from(value.to_string()),
        other => convert::text_of(other).unwrap_or_else(|| Bytes::from(format!("{}: ?", other.type_name()))),
    }
}

fn set_metatable(lua: &Lua, shared: &Shared, args: &MultiValue) -> Result<Value> {
    let (table, metatable) = match (args.front(), args.get(1)) {
        (Some(Value::Table(table)), Some(Value::Table(metatable))) => (table, Some(metatable.clone())),
        (Some(Value::Table(table)), Some(Value::Nil)) => (table, None),
        (Some(Value::Table(_)), _) => {
            return Err(raise(lua, "bad argument #2 to 'setmetatable' (nil or table expected)"));
        }
        (other, _) => {
            let got = other.map_or("no value", |value| value.type_name());
            return Err(raise(lua, format!("bad argument #1 to 'setmetatable' (table expected, got {got})")));
        }
    };
    if shared.guarded.borrow().contains(&table.to_pointer()) {
        return Err(Error::external(Raised::Text(Bytes::from_static(READ_ONLY.as_bytes()))));
    }
    let protected = match table.metatable() {
        Some(known) => !known.raw_get::<Value>("__metatable")?.is_nil(),
        None => false,
    };
    if protected {
        return Err(raise(lua, "cannot change a protected metatable"));
    }
    // Nothing of a script may run when the host frees what it left.
    if let Some(metatable) = &metatable
        && !metatable.raw_get::<Value>("__gc")?.is_nil()
    {
        return Err(raise(lua, "__gc is not allowed"));
    }
    table.set_metatable(metatable)?;
    Ok(Value::Table(table.clone()))
}

fn raw_set(lua: &Lua, shared: &Shared, args: &MultiValue) -> Result<Value> {
    let (Some(Value::Table(table)), Some(key), Some(value)) = (args.front(), args.get(1), args.get(2)) else {
        return Err(raise(lua, "bad argument #1 to 'rawset' (table expected)"));
    };
    if shared.guarded.borrow().contains(&table.to_pointer()) {
        return Err(Error::external(Raised::Text(Bytes::from_static(READ_ONLY.as_bytes()))));
    }
    table.raw_set(key, value)?;
    Ok(Value::Table(table.clone()))
}

fn install_random(lua: &Lua, shared: &Rc<Shared>, math: &Table) -> Result<()> {
    let state = shared.clone();
    let random = move |lua: &Lua, args: MultiValue| {
        let begun = || Random::new(state.running.borrow().as_ref().map_or(0, Running::seed));
        let mut generator = state.random.get().unwrap_or_else(begun);
        let fraction = generator.fraction();
        state.random.set(Some(generator));
        let number = |at: usize| integer_argument(lua, &args, at, "random");
        match args.len() {
            0 => Ok(fraction),
            1 => match number(0)? {
                upper if upper < 1.0 => Err(raise(lua, "bad argument #1 to 'random' (interval is empty)")),
                upper => Ok((fraction * upper).floor() + 1.0),
            },
            2 => match (number(0)?, number(1)?) {
                (lower, upper) if lower > upper => Err(raise(lua, "bad argument #2 to 'random' (interval is empty)")),
                (lower, upper) => Ok((fraction * (upper - lower + 1.0)).floor() + lower),
            },
            _ => Err(raise(lua, "wrong number of arguments")),
        }
    };
    math.raw_set("random", lua.create_function(random)?)?;
    let state = shared.clone();
    let seed = move |lua: &Lua, args: MultiValue| {
        let seed = integer_argument(lua, &args, 0, "randomseed")?;
        state.random.set(Some(Random::new(seed as i64 as u32)));
        Ok(())
    };
    math.raw_set("randomseed", lua.create_function(seed)?)
}

/// A number, without what is behind its point.
pub(super) fn integer_argument(lua: &Lua, args: &MultiValue, at: usize, function: &str) -> Result<f64> {
    number_argument(lua, args, at, function).map(f64::trunc)
}

/// A number, or a text that spells one.
pub(super) fn number_argument(lua: &Lua, args: &MultiValue, at: usize, function: &str) -> Result<f64> {
    let value = args.get(at).cloned();
    let number = value.clone().and_then(|value| lua.coerce_number(value).ok().flatten());
    number.ok_or_else(|| {
        let got = value.map_or("no value", |value| if value.is_nil() { "nil" } else { value.type_name() });
        raise(lua, format!("bad argument #{} to '{function}' (number expected, got {got})", at + 1))
    })
}

/// A text, or a number as one.
pub(super) fn text_argument(lua: &Lua, args: &MultiValue, at: usize, function: &str) -> Result<Bytes> {
    let value = args.get(at);
    value.and_then(convert::text_of).ok_or_else(|| {
        let got = value.map_or("no value", |value| if value.is_nil() { "nil" } else { value.type_name() });
        raise(lua, format!("bad argument #{} to '{function}' (string expected, got {got})", at + 1))
    })
}

/// `os`, of which scripts have the clock alone.
fn os_table(lua: &Lua, shared: &Rc<Shared>) -> Result<Table> {
    let (os, shared) = (lua.create_table()?, shared.clone());
    let clock = move |_: &Lua, ()| {
        let running = shared.running.borrow();
        Ok(running.as_ref().map_or(0.0, |running| running.watch.seconds()))
    };
    os.raw_set("clock", lua.create_function(clock)?)?;
    Ok(os)
}

/// `redis.call` and `redis.pcall`.
fn call(lua: &Lua, shared: &Shared, args: &MultiValue, raises: bool) -> Result<Value> {
    let arguments: Option<Args> = args.iter().map(convert::argument).collect();
    let reply = match arguments {
        _ if args.is_empty() => Reply::error("ERR Please specify at least one argument for this redis lib call"),
        None => Reply::error("ERR Lua redis lib command arguments must be strings or integers"),
        Some(arguments) => match shared.running.borrow_mut().as_mut() {
            Some(Running { caller: Some(caller), .. }) => caller.call(&arguments),
            _ => Reply::error("ERR redis.call/pcall can only be called inside a script invocation"),
        },
    };
    match reply {
        Reply::Error(text) if raises => Err(Error::external(Raised::Reply(text))),
        reply => convert::to_lua(lua, &reply, shared.resp3.get()),
    }
}

/// Levels of `redis.log`, in their order.
const LEVELS: [&str; 4] = ["LOG_DEBUG", "LOG_VERBOSE", "LOG_NOTICE", "LOG_WARNING"];

fn redis_table(lua: &Lua, shared: &Rc<Shared>) -> Result<Table> {
    let redis = lua.create_table()?;
    for (name, raises) in [("call", true), ("pcall", false)] {
        let shared = shared.clone();
        redis.raw_set(name, lua.create_function(move |lua, args: MultiValue| call(lua, &shared, &args, raises))?)?;
    }
    let version = REDIS_VERSION.split('.').filter_map(|part| part.parse::<u32>().ok());
    redis.raw_set("REDIS_VERSION", REDIS_VERSION)?;
    redis.raw_set("REDIS_VERSION_NUM", version.fold(0, |number, part| number << 8 | part))?;
    for (level, name) in LEVELS.iter().enumerate() {
        redis.raw_set(*name, level)?;
    }
    for (name, value) in [("REPL_NONE", 0), ("REPL_AOF", 1), ("REPL_SLAVE", 2), ("REPL_REPLICA", 2), ("REPL_ALL", 3)] {
        redis.raw_set(name, value)?;
    }
    let user = shared.clone();
    redis.raw_set("acl_check_cmd", lua.create_function(move |_, args: MultiValue| check_command(&user, &args))?)?;
    let shared = shared.clone();
    redis.raw_set("setresp", lua.create_function(move |lua, args: MultiValue| set_resp(lua, &shared, &args))?)?;
    redis.raw_set("log", lua.create_function(|lua, args: MultiValue| log(lua, &args))?)?;
    redis.raw_set("sha1hex", lua.create_function(|_, args: MultiValue| sha1(&args))?)?;
    redis.raw_set("error_reply", lua.create_function(|lua, args: MultiValue| error_reply(lua, &args))?)?;
    redis.raw_set("status_reply", lua.create_function(|lua, args: MultiValue| status_reply(lua, &args))?)?;
    redis.raw_set("set_repl", lua.create_function(|lua, args: MultiValue| set_repl(lua, &args))?)?;
    redis.raw_set("replicate_commands", lua.create_function(|_, _: MultiValue| Ok(true))?)?;
    redis.raw_set("breakpoint", lua.create_function(|_, _: MultiValue| Ok(false))?)?;
    redis.raw_set("debug", lua.create_function(|_, _: MultiValue| Ok(()))?)?;
    Ok(redis)
}

fn set_resp(lua: &Lua, shared: &Shared, args: &MultiValue) -> Result<()> {
    if args.len() != 1 {
        return Err(raise_reply("ERR redis.setresp() requires one argument."));
    }
    match lua.coerce_number(args[0].clone())? {
        Some(version) if version == 2.0 || version == 3.0 => {
            shared.resp3.set(version == 3.0);
            Ok(())
        }
        _ => Err(raise_reply("ERR RESP version must be 2 or 3.")),
    }
}

fn log(lua: &Lua, args: &MultiValue) -> Result<()> {
    if args.len() < 2 {
        return Err(raise_reply("ERR redis.log() requires two arguments or more."));
    }
    let Some(level) = lua.coerce_number(args[0].clone())?.filter(|_| !matches!(args[0], Value::String(_))) else {
        return Err(raise_reply("ERR First argument must be a number (log level)."));
    };
    let words: Vec<Bytes> = args.iter().skip(1).filter_map(convert::text_of).collect();
    let text = words.iter().map(|word| String::from_utf8_lossy(word)).collect::<Vec<_>>().join(" ");
    match level as i64 {
        0 | 1 => tracing::debug!(text, "script-says"),
        2 => tracing::info!(text, "script-says"),
        3 => tracing::warn!(text, "script-says"),
        _ => return Err(raise_reply("ERR Invalid debug level.")),
    }
    Ok(())
}

fn sha1(args: &MultiValue) -> Result<String> {
    if args.len() != 1 {
        return Err(raise_reply("ERR wrong number of arguments"));
    }
    Ok(sha1_hex(&convert::text_of(&args[0]).unwrap_or_default()))
}

fn single(lua: &Lua, field: &str, text: &[u8]) -> Result<Table> {
    let table = lua.create_table_with_capacity(0, 1)?;
    table.raw_set(field, lua.create_string(text)?)?;
    Ok(table)
}

/// The only argument, if it is a text.
fn only_text(args: &MultiValue) -> Option<Bytes> {
    match (args.len(), args.front()) {
        (1, Some(Value::String(text))) => Some(Bytes::copy_from_slice(&text.as_bytes())),
        _ => None,
    }
}

fn error_reply(lua: &Lua, args: &MultiValue) -> Result<Table> {
    let Some(text) = only_text(args) else { return single(lua, "err", b"ERR wrong number or type of arguments") };
    let text = text.strip_prefix(b"-").unwrap_or(&text);
    match text.contains(&b' ') {
        true => single(lua, "err", text),
        false => single(lua, "err", &[b"ERR ", text].concat()),
    }
}

fn status_reply(lua: &Lua, args: &MultiValue) -> Result<Table> {
    match only_text(args) {
        Some(text) => single(lua, "ok", &text),
        None => single(lua, "err", b"ERR wrong number or type of arguments"),
    }
}

/// `redis.acl_check_cmd`: whether the user may run this.
fn check_command(shared: &Shared, args: &MultiValue) -> Result<bool> {
    let arguments: Option<Args> = args.iter().map(convert::argument).collect();
    if args.is_empty() {
        return Err(raise_reply("ERR Please specify at least one argument for this redis.acl_check_cmd() call"));
    }
    let Some(arguments) = arguments else {
        return Err(raise_reply("ERR redis.acl_check_cmd() command arguments must be strings or integers"));
    };
    let permitted = match shared.running.borrow().as_ref() {
        Some(Running { caller: Some(caller), .. }) => caller.permits(&arguments),
        _ => return Err(raise_reply("ERR redis.acl_check_cmd() can only be called inside a script invocation")),
    };
    permitted.ok_or_else(|| raise_reply("ERR Invalid command passed to redis.acl_check_cmd()"))
}

/// Everything a script writes is replicated; the call is there because scripts make it.
fn set_repl(lua: &Lua, args: &MultiValue) -> Result<()> {
    if args.len() != 1 {
        return Err(raise_reply("ERR redis.set_repl() requires one argument."));
    }
    match lua.coerce_number(args[0].clone())? {
        Some(flags) if (0.0..=3.0).contains(&flags) => Ok(()),
        _ => Err(raise_reply("ERR Invalid replication flags. Use REPL_AOF, REPL_REPLICA, REPL_ALL or REPL_NONE.")),
    }
}
