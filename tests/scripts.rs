//! Runs `tests/scripts/*.txt`, transcripts whose commands are scripts: on the bare keyspace with the engine of scripts, and
//! on a real Redis if one is installed. The format is that of `tests/commands`.

// Each test uses what it needs of it.
#[allow(dead_code)]
mod notation;
mod redis;
mod transcript;

use bytes::Bytes;
use hypercache::commands::script::{self, FunctionCommand, ScriptCommand, key_count, key_count_of_function};
use hypercache::commands::{self, Run};
use hypercache::env;
use hypercache::resp::{Args, Reply};
use hypercache::scripting::{
    Caller, Flags, Interpreter, Libraries, Library, Limits, Overlay, Ran, Rules, STACK_BYTES, Source, Stop, Watch,
    head, sha1_hex,
};
use hypercache::state::{Entry, Keyspace, View};
use hypercache::types::{Millis, Stamp};
use redis::{Redis, words};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

const CLOCK: Millis = 1_700_000_000_000;

#[derive(Clone)]
struct Bare(Rc<RefCell<Keyspace>>);

impl Source for Bare {
    fn entries(&self, keys: &[Bytes], _: Millis) -> Vec<Option<Entry>> {
        let keyspace = self.0.borrow();
        keys.iter().map(|key| keyspace.get(key).map(|entry| entry.to_entry())).collect()
    }

    fn with(&self, look: &mut dyn FnMut(&Keyspace)) {
        look(&self.0.borrow());
    }
}

/// Lets every script go on.
struct Patient;

impl Watch for Patient {
    fn stop(&self) -> Option<Stop> {
        None
    }

    fn seconds(&self) -> f64 {
        0.0
    }
}

struct Stage {
    keyspace: Bare,
    interpreter: Interpreter,
    known: BTreeMap<String, Bytes>,
    libraries: Libraries,
    /// Seeds differ from run to run, and must make no difference.
    seed: u64,
}

impl Stage {
    fn new() -> Stage {
        let mut keyspace = Keyspace::new(7);
        keyspace.advance(&Stamp { now_ms: CLOCK, seed: 0 });
        let interpreter = Interpreter::new(Limits { memory: 64 << 20 }).unwrap();
        Stage {
            keyspace: Bare(Rc::new(RefCell::new(keyspace))),
            interpreter,
            known: BTreeMap::new(),
            libraries: Libraries::default(),
            seed: 0,
        }
    }

    fn answer(&mut self, args: &Args) -> Reply {
        let command = match commands::lookup(args) {
            Ok(command) => command,
            Err(reply) => return reply,
        };
        if let Err(reply) = (command.check)(args) {
            return reply;
        }
        let stamp = Stamp { now_ms: CLOCK, seed: 0 };
        match command.run {
            Run::Read(run) => run(args, &View::new(&self.keyspace.0.borrow(), None)),
            Run::Write(run) => run(args, &mut self.keyspace.0.borrow_mut(), &stamp),
            Run::Script(ScriptCommand::Load) => {
                let sha = sha1_hex(&args[2]);
                match self.interpreter.compile(&sha, &args[2]) {
                    Ok(_) => {
                        self.known.insert(sha.clone(), args[2].clone());
                        Reply::bulk(sha)
                    }
                    Err(reply) => reply,
                }
            }
            Run::Script(ScriptCommand::Function(command)) => self.function(command, args).unwrap_or_else(|error| error),
            Run::Script(ScriptCommand::Fcall { read_only }) => self.call(args, read_only).unwrap_or_else(|error| error),
            Run::Script(kind) => self.run(kind, args),
            _ => Reply::error("ERR needs a node"),
        }
    }

    fn run(&mut self, kind: ScriptCommand, args: &Args) -> Reply {
        let count = key_count(args).unwrap();
        let (keys, arguments) = args[3..].split_at(count);
        let (sha, read_only) = match kind {
            ScriptCommand::Eval { read_only } => {
                let sha = sha1_hex(&args[1]);
                self.known.insert(sha.clone(), args[1].clone());
                (sha, read_only)
            }
            ScriptCommand::EvalSha { read_only } => (String::from_utf8_lossy(&args[1]).to_ascii_lowercase(), read_only),
            _ => return Reply::error("ERR needs a node"),
        };
        let Some(body) = self.known.get(&sha).cloned() else {
            return Reply::error("NOSCRIPT No matching script. Please use EVAL.");
        };
        let flags = match self.interpreter.compile(&sha, &body) {
            Ok(flags) => flags,
            Err(reply) => return reply,
        };
        let run =
            |interpreter: &mut Interpreter, caller| interpreter.eval(&sha, keys, arguments, caller, Box::new(Patient));
        self.stage(flags, read_only, args, run)
    }

    /// Runs something on an overlay and applies what it did.
    fn stage(
        &mut self,
        flags: Flags,
        read_only: bool,
        args: &Args,
        run: impl FnOnce(&mut Interpreter, Caller) -> Ran,
    ) -> Reply {
        if read_only && !flags.compatible && !flags.no_writes {
            return Reply::error("ERR Can not execute a script with write flag using *_ro command.");
        }
        self.seed += 1;
        let overlay = Overlay::new(Box::new(self.keyspace.clone()), CLOCK, self.seed);
        let rules = Rules { read_only: read_only || flags.no_writes, ..Rules::all() };
        let ran = run(&mut self.interpreter, Caller::new(overlay, rules));
        let (effects, replies) = ran.caller.into_overlay().into_effects();
        if !effects.calls.is_empty() {
            let stamp = Stamp { now_ms: CLOCK, seed: 0 };
            let applied = commands::apply(&effects.to_args(), &mut self.keyspace.0.borrow_mut(), &stamp);
            assert_eq!(applied, Reply::Array(replies), "{args:?}: what was applied is not what the script saw");
        }
        ran.reply
    }

    fn call(&mut self, args: &Args, read_only: bool) -> Result<Reply, Reply> {
        let not_found = || Reply::error("ERR Function not found");
        let (library, function) = self.libraries.function(&args[1]).ok_or_else(not_found)?;
        let (library, name, flags) = (library.clone(), function.name.clone(), function.flags);
        let words = args[3..].split_at(key_count_of_function(args)?);
        self.interpreter.compile_library(&library.sha, head(&library.code)?.1)?;
        let run = |interpreter: &mut Interpreter, caller| {
            interpreter.call(&library.sha, &name, words, caller, Box::new(Patient))
        };
        Ok(self.stage(flags, read_only, args, run))
    }

    fn function(&mut self, command: FunctionCommand, args: &Args) -> Result<Reply, Reply> {
        let all = |libraries: &Libraries| -> Vec<Library> { libraries.iter().map(|one| (**one).clone()).collect() };
        let mut stay = all(&self.libraries);
        let reply = match command {
            FunctionCommand::Load => {
                let (code, replace) = script::function_load(args)?;
                let (name, _) = head(code)?;
                if self.libraries.get(&name).is_some() && !replace {
                    return Err(Reply::error(format!("ERR Library '{name}' already exists")));
                }
                let fresh = self.interpreter.register(code.clone(), Box::new(Patient))?;
                self.libraries.may_join(std::slice::from_ref(&fresh), replace, true)?;
                stay.retain(|known| known.name != fresh.name);
                stay.push(fresh);
                Reply::bulk(name)
            }
            FunctionCommand::Delete => {
                let count = stay.len();
                stay.retain(|known| known.name.as_bytes() != args[2]);
                if stay.len() == count {
                    return Err(Reply::error("ERR Library not found"));
                }
                Reply::OK
            }
            FunctionCommand::Flush => {
                stay.clear();
                Reply::OK
            }
            FunctionCommand::List => self.libraries.listed(&script::function_list(args)?),
            FunctionCommand::Help => script::function_help(),
            _ => Reply::error("ERR needs a node"),
        };
        self.libraries = Libraries::of(stay);
        Ok(reply)
    }
}

#[test]
fn scripts_on_the_bare_keyspace_answer_as_written() {
    let all = || {
        let mut differences = String::new();
        for transcript in transcript::within("tests/scripts") {
            let mut stage = Stage::new();
            differences += &transcript.run(|args| stage.answer(args), |_| panic!("no clock moves here"));
        }
        assert!(differences.is_empty(), "\n{differences}");
    };
    env::spawn_thread_with("scripts", STACK_BYTES, all).join().unwrap();
}

#[test]
fn scripts_on_a_real_redis_answer_as_written() {
    let Some(mut redis) = Redis::start() else {
        eprintln!("SKIPPED: no redis-server is installed, the scripts were not compared with Redis");
        return;
    };
    let version = redis.version();
    let mut differences = String::new();
    for transcript in transcript::within("tests/scripts") {
        if transcript.redis.is_none_or(|needed| needed > version) {
            eprintln!("SKIPPED: {} is not for Redis {version:?}", transcript.path.display());
            continue;
        }
        redis.answer(&words("FLUSHALL"));
        redis.answer(&words("FUNCTION FLUSH"));
        differences += &transcript.run(|args| redis.answer(args), |_| panic!("the clock of Redis cannot be moved"));
    }
    assert!(differences.is_empty(), "\n{differences}");
}
