//! An interpreter: compiles scripts, runs them, and stops those that take too long or too much.
//!
//! Time is looked at every [`INSTRUCTIONS`] instructions of Lua. What does not come to that, a single call of a function
//! such as `string.find` with a pattern made for it, is not interrupted.

use super::caller::Caller;
use super::convert;
use super::environment::{Environment, Finished};
use super::flags::{self, Flags};
use super::library::{self, Library};
use crate::resp::Reply;
use bytes::Bytes;
use mlua::Function;
use sha1::{Digest, Sha1};
use std::collections::BTreeMap;

/// Instructions of Lua between two looks at the time.
pub(super) const INSTRUCTIONS: u32 = 10_000;
/// Compiled scripts that an interpreter keeps; all are forgotten when there are more.
const COMPILED_MAX: usize = 1000;

/// Compiled libraries that an interpreter keeps; all are forgotten when there are more.
const LIBRARIES_MAX: usize = 200;

const KILLED_SCRIPT: &str = "ERR Script killed by user with SCRIPT KILL...";
const KILLED_FUNCTION: &str = "ERR Script killed by user with FUNCTION KILL...";
const NO_FUNCTION: &str = "ERR Function not found";

/// What a script may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of memory of an interpreter: what all it has compiled takes, and what the running script does.
    pub memory: usize,
}

/// Why a script must not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// SCRIPT KILL or FUNCTION KILL.
    Killed,
    /// It ran for as long as it may.
    Time,
    /// It took more memory than it may.
    Memory,
    /// It takes long, and others that are done wait for it: it is run again when they are answered.
    Aside,
}

/// Says when a running script must stop.
pub trait Watch {
    /// Asked now and then while the script runs.
    fn stop(&self) -> Option<Stop>;
    /// Seconds since the script began, for `os.clock`.
    fn seconds(&self) -> f64;
}

/// How a script ended.
pub struct Ran {
    pub reply: Reply,
    pub caller: Caller,
    /// It was stopped: nothing it did may count.
    pub stopped: Option<Stop>,
}

/// One Lua state. Good for as long as [`Interpreter::is_sound`].
pub struct Interpreter {
    environment: Environment,
    compiled: BTreeMap<String, (Flags, Function)>,
    /// By their names.
    libraries: BTreeMap<String, Function>,
    sound: bool,
}

impl Interpreter {
    /// A fresh one, or why there is no memory for it.
    pub fn new(limits: Limits) -> Result<Interpreter, Reply> {
        let environment = Environment::new(limits).map_err(|e| no_interpreter(&e))?;
        Ok(Interpreter { environment, compiled: BTreeMap::new(), libraries: BTreeMap::new(), sound: true })
    }

    /// False once a script was stopped in it: it may hold anything, and is to be thrown away.
    pub fn is_sound(&self) -> bool {
        self.sound
    }

    /// Compiles a script, or finds it compiled; gives its flags. `sha` is the script's name.
    pub fn compile(&mut self, sha: &str, body: &[u8]) -> Result<Flags, Reply> {
        if let Some((flags, _)) = self.compiled.get(sha) {
            return Ok(*flags);
        }
        let (flags, text) = flags::of_script(body)?;
        let function = self.environment.compile(text, "@user_script").map_err(|message| {
            let mut whole = b"ERR Error compiling script (new function): ".to_vec();
            whole.extend_from_slice(&message);
            Reply::Error(one_line(whole))
        })?;
        if self.compiled.len() >= COMPILED_MAX {
            self.compiled.clear();
        }
        self.compiled.insert(sha.to_owned(), (flags, function));
        Ok(flags)
    }

    /// Runs a script that was compiled. The commands it calls go to `caller`.
    pub fn eval(&mut self, sha: &str, keys: &[Bytes], args: &[Bytes], caller: Caller, watch: Box<dyn Watch>) -> Ran {
        let Some((_, function)) = self.compiled.get(sha).cloned() else {
            let reply = Reply::error("NOSCRIPT No matching script. Please use EVAL.");
            return Ran { reply, caller, stopped: None };
        };
        let finished = self.environment.run_script(&function, keys, args, caller, watch);
        self.conclude(sha, KILLED_SCRIPT, finished)
    }

    /// Compiles a library, or finds it compiled. `sha` is its name here, `text` what is behind its first line.
    pub fn compile_library(&mut self, sha: &str, text: &[u8]) -> Result<(), Reply> {
        if self.libraries.contains_key(sha) {
            return Ok(());
        }
        let function = self
            .environment
            .compile(text, "@user_function")
            .map_err(|message| Reply::Error(one_line([b"ERR Error compiling function: ", &message[..]].concat())))?;
        if self.libraries.len() >= LIBRARIES_MAX {
            self.libraries.clear();
        }
        self.libraries.insert(sha.to_owned(), function);
        Ok(())
    }

    /// Runs a compiled library to see what functions it registers. `watch` stops one that takes too long.
    fn load(&mut self, sha: &str, watch: Box<dyn Watch>) -> Result<Vec<library::Function>, Reply> {
        let Some(library) = self.libraries.get(sha).cloned() else { return Err(Reply::error(NO_FUNCTION)) };
        let (functions, stopped) = self.environment.load(&library, watch);
        self.sound &= stopped.is_none() && self.environment.clean().is_ok();
        let failed = |text: &[u8]| Reply::Error(one_line([b"ERR Error registering functions: ", text].concat()));
        match (functions, stopped) {
            (_, Some(Stop::Memory)) => Err(failed(b"ERR FUNCTION LOAD takes more memory than scripts may")),
            (_, Some(_)) => Err(failed(b"ERR FUNCTION LOAD timeout")),
            (Ok(functions), None) if functions.is_empty() => Err(Reply::error("ERR No functions registered")),
            (Ok(functions), None) => Ok(functions),
            (Err(mlua::Value::Table(error)), None) => {
                let text = error.raw_get::<mlua::Value>("err").ok().as_ref().and_then(convert::text_of);
                Err(failed(&text.unwrap_or_else(|| Bytes::from_static(b"ERR unknown error"))))
            }
            (Err(other), None) => Err(failed(&convert::text_of(&other).unwrap_or_default())),
        }
    }

    /// Makes a library of its code: compiles it and runs it once.
    pub fn register(&mut self, code: Bytes, watch: Box<dyn Watch>) -> Result<Library, Reply> {
        let (name, text) = library::head(&code)?;
        let sha = sha1_hex(&code);
        self.compile_library(&sha, text)?;
        let functions = self.load(&sha, watch)?;
        Ok(Library { name, sha, code, functions })
    }

    /// Runs a function of a compiled library.
    pub fn call(
        &mut self,
        sha: &str,
        name: &str,
        words: (&[Bytes], &[Bytes]),
        caller: Caller,
        watch: Box<dyn Watch>,
    ) -> Ran {
        let Some(library) = self.libraries.get(sha).cloned() else {
            return Ran { reply: Reply::error(NO_FUNCTION), caller, stopped: None };
        };
        let finished = self.environment.run_function(&library, name, words, caller, watch);
        self.conclude(name, KILLED_FUNCTION, finished)
    }

    fn conclude(&mut self, name: &str, killed: &'static str, finished: Finished) -> Ran {
        let Finished { outcome, caller, resp3, mut stopped } = finished;
        let reply = match outcome {
            Ok(value) => convert::to_reply(&value, resp3).unwrap_or_else(|e| failed(name, &e.to_string())),
            Err(value) => match (stopped, &value) {
                (Some(stop), _) => stopped_reply(stop, killed, name, &value),
                (None, mlua::Value::Table(_)) => error_reply(name, &value),
                (None, other) => {
                    let text = convert::text_of(other).unwrap_or_else(|| Bytes::from_static(b"execution failure"));
                    if text.ends_with(b"not enough memory") {
                        stopped = Some(Stop::Memory);
                        stopped_reply(Stop::Memory, killed, name, &value)
                    } else {
                        failed(name, &String::from_utf8_lossy(&text))
                    }
                }
            },
        };
        self.sound &= stopped.is_none() && self.environment.clean().is_ok();
        Ran { reply, caller, stopped }
    }
}

fn no_interpreter(error: &mlua::Error) -> Reply {
    Reply::error(format!("ERR no interpreter for scripts could be made: {error}"))
}

fn failed(name: &str, text: &str) -> Reply {
    let text: String = text.chars().take(100).collect();
    Reply::Error(one_line(format!("ERR Error running script {name}, {text}").into_bytes()))
}

/// The reply to a script that raised an error: its text and where it was raised.
fn error_reply(name: &str, error: &mlua::Value) -> Reply {
    let mlua::Value::Table(table) = error else { return failed(name, "execution failure") };
    let field = |name: &str| table.raw_get::<mlua::Value>(name).ok().as_ref().and_then(convert::text_of);
    let mut text = field("err").map_or_else(|| b"ERR unknown error".to_vec(), |text| text.to_vec());
    if let (Some(source), Some(line)) = (field("source"), field("line")) {
        text.extend_from_slice(format!(" script: {name}, on ").as_bytes());
        text.extend_from_slice(&source);
        text.push(b':');
        text.extend_from_slice(&line);
        text.push(b'.');
    }
    Reply::Error(one_line(text))
}

fn stopped_reply(stop: Stop, killed: &'static str, name: &str, place: &mlua::Value) -> Reply {
    let what = match stop {
        Stop::Killed => killed,
        Stop::Time => "ERR Script killed: it ran for longer than scripts may",
        Stop::Memory => "ERR Script killed: it took more memory than scripts may",
        Stop::Aside => "ERR Script stopped for others",
    };
    if let mlua::Value::Table(table) = place
        && table.raw_set("err", what).is_ok()
    {
        return error_reply(name, place);
    }
    Reply::error(format!("{what} script: {name}"))
}

fn one_line(mut text: Vec<u8>) -> Bytes {
    text.iter_mut().filter(|b| matches!(**b, b'\r' | b'\n')).for_each(|b| *b = b' ');
    Bytes::from(text)
}

/// The name of a script: 40 hexadecimal digits.
pub fn sha1_hex(body: &[u8]) -> String {
    hex(&Sha1::digest(body))
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
