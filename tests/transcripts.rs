//! Runs `tests/commands/*.txt` against the bare keyspace, and against a real Redis if one is installed.

mod notation;
mod redis;
mod transcript;

use bytes::Bytes;
use hypercache::commands::transaction::{self, Exec, Step, Transaction};
use hypercache::commands::{self, Run, atomic, session::Session};
use hypercache::resp::{Args, Reply};
use hypercache::state::{Keyspace, View};
use hypercache::types::Stamp;
use redis::{Redis, words};
use std::cell::RefCell;
use std::collections::BTreeSet;
use transcript::Action;

/// The clock at the beginning of every transcript.
const START_MS: u64 = 1_700_000_000_000;

/// One keyspace and one connection, with nothing around them.
struct Bare {
    keyspace: Keyspace,
    stamp: Stamp,
    session: Session,
    transaction: Transaction,
}

impl Bare {
    fn new() -> Bare {
        Bare {
            keyspace: Keyspace::new(7),
            stamp: Stamp { now_ms: START_MS, seed: 0 },
            session: Session::default(),
            transaction: Transaction::default(),
        }
    }

    fn answer(&mut self, args: &Args) -> Reply {
        let command = match commands::lookup(args) {
            Ok(command) => command,
            Err(refused) => {
                self.transaction.spoil();
                // An EXEC that is wrong ends the transaction it was meant for.
                let exec = args[0].eq_ignore_ascii_case(b"exec") && self.transaction.is_open();
                return if exec { self.transaction.abort(&refused) } else { refused };
            }
        };
        if self.transaction.takes(command) {
            return self.transaction.queue(command, args.clone());
        }
        if let Err(reply) = (command.check)(args) {
            return reply;
        }
        match command.run {
            Run::Read(run) => run(args, &self.view()),
            Run::Write(_) => self.apply(args),
            Run::Session(run) => run(args, &mut self.session),
            Run::Transaction(step) => self.step(step, args),
            Run::Node(_) | Run::Script(_) | Run::Container => Reply::error("ERR needs a node"),
        }
    }

    fn view(&self) -> View<'_> {
        View::new(&self.keyspace, Some(self.stamp.now_ms))
    }

    fn apply(&mut self, args: &Args) -> Reply {
        self.keyspace.advance(&self.stamp);
        commands::apply(args, &mut self.keyspace, &self.stamp)
    }

    fn step(&mut self, step: Step, args: &Args) -> Reply {
        match step {
            Step::Multi => self.transaction.begin(),
            Step::Discard => self.transaction.discard(),
            Step::Unwatch => self.transaction.unwatch(),
            Step::Watch if self.transaction.is_open() => transaction::watch_inside(),
            Step::Watch => {
                let versions = transaction::versions(args, &self.view());
                self.transaction.watch(&args[1..], versions)
            }
            Step::Exec => {
                let Exec { call, writes, weave, .. } = match self.transaction.exec(false) {
                    Ok(exec) => exec,
                    Err(refused) => return refused,
                };
                let keyed = match &call {
                    None => Reply::Array(Vec::new()),
                    Some(call) if writes => self.apply(call),
                    Some(call) => atomic::read(call, &self.view()),
                };
                weave.finish(keyed, |_, args| self.answer(args), |_, _| ())
            }
        }
    }
}

#[test]
fn the_bare_keyspace_answers_as_written() {
    let mut differences = String::new();
    for transcript in transcript::within("tests/commands") {
        let bare = RefCell::new(Bare::new());
        differences += &transcript.run(
            |args| bare.borrow_mut().answer(args),
            |ms| {
                // A tick: what is due goes.
                let Bare { keyspace, stamp, .. } = &mut *bare.borrow_mut();
                stamp.now_ms += ms;
                keyspace.advance(stamp);
                let due = keyspace.due_ranges(keyspace.clock(), usize::MAX);
                keyspace.sweep(&due);
            },
        );
    }
    assert!(differences.is_empty(), "\n{differences}");
}

#[test]
fn every_command_of_the_keyspace_has_a_transcript() {
    let mut seen = BTreeSet::new();
    for step in transcript::within("tests/commands").iter().flat_map(|transcript| &transcript.steps) {
        if let Action::Command { args, .. } = &step.action
            && let Ok(command) = commands::lookup(args)
        {
            seen.insert(std::ptr::from_ref(command));
        }
    }
    let missing: Vec<String> = commands::all()
        .filter(|(_, command)| matches!(command.run, Run::Read(_) | Run::Write(_) | Run::Transaction(_)))
        .filter(|(_, command)| !seen.contains(&std::ptr::from_ref(*command)))
        .map(|(name, _)| name)
        .collect();
    assert!(missing.is_empty(), "no transcript runs {missing:?}");
}

#[test]
fn a_real_redis_answers_as_written() {
    let Some(mut redis) = Redis::start() else {
        eprintln!("SKIPPED: no redis-server is installed, the transcripts were not compared with Redis");
        return;
    };
    let version = redis.version();
    let mut differences = String::new();
    for transcript in transcript::within("tests/commands") {
        if transcript.redis.is_none_or(|needed| needed > version) {
            eprintln!("SKIPPED: {} is not for Redis {version:?}", transcript.path.display());
            continue;
        }
        if let Some(module) = &transcript.module
            && !redis.has_module(module)
        {
            eprintln!("SKIPPED: {} needs the module {module}, which Redis has not loaded", transcript.path.display());
            continue;
        }
        redis.answer(&words("FLUSHALL"));
        differences += &transcript.run(|args| redis.answer(args), |_| panic!("the clock of Redis cannot be moved"));
    }
    assert!(differences.is_empty(), "\n{differences}");
}

/// Random requests from words that make sense now and then. The seed is fixed: a difference stays until it is mended.
struct Requests(fastrand::Rng);

const WORDS: &[&str] = &[
    "0",
    "1",
    "-1",
    "3",
    "-3",
    "5",
    "100",
    "9223372036854775807",
    "-9223372036854775808",
    "0.5",
    "-0.1",
    "1e3",
    "12.0",
    "abc",
    "hello world",
    "",
    "NX",
    "xx",
    "GT",
    "LT",
    "EX",
    "PX",
    "EXAT",
    "PXAT",
    "KEEPTTL",
    "PERSIST",
    "GET",
    "70000",
    "4102444800",
    "4102444800123",
    "LEFT",
    "RIGHT",
    "BEFORE",
    "COUNT",
    "RANK",
    "a*",
    "*",
    "**",
    "[a-c]",
    "?",
    r"\a",
    "[^a]*",
    "*b*",
    "a",
    "b",
    "ab",
    "c",
    "a",
    "b",
    "ab",
];

impl Requests {
    /// Commands whose replies neither time nor order of keys decides.
    const NAMES: &[&str] = &[
        "set",
        "set",
        "set",
        "get",
        "getdel",
        "getex",
        "getset",
        "getrange",
        "setrange",
        "append",
        "strlen",
        "substr",
        "incr",
        "decr",
        "incrby",
        "decrby",
        "incrbyfloat",
        "incrbyfloat",
        "mset",
        "msetnx",
        "mget",
        "setnx",
        "setex",
        "psetex",
        "del",
        "unlink",
        "exists",
        "touch",
        "type",
        "expire",
        "pexpire",
        "expireat",
        "pexpireat",
        "ttl",
        "persist",
        "rename",
        "renamenx",
        "keys",
        "object",
        "flushall",
        "hset",
        "hset",
        "hsetnx",
        "hget",
        "hmget",
        "hgetall",
        "hdel",
        "hlen",
        "hstrlen",
        "hincrby",
        "hincrbyfloat",
        "hscan",
        "lpush",
        "rpush",
        "rpush",
        "lpushx",
        "lpop",
        "rpop",
        "lrange",
        "lindex",
        "lset",
        "linsert",
        "lrem",
        "ltrim",
        "lpos",
        "lmove",
        "rpoplpush",
        "lmpop",
    ];

    /// Commands that Redis 7 asks for their key before it has read all of their arguments: we refuse what is wrong with
    /// these before the log, and so before anyone knows what there is.
    const LATE: &[&str] = &["getex", "hincrby", "hincrbyfloat", "hscan", "lindex", "lset", "lpos", "lrem", "ltrim"];

    fn next(&mut self) -> Args {
        let name = self.0.choice(Self::NAMES).copied().unwrap_or("get");
        let mut line = vec![name];
        if name == "object" {
            line.push("encoding");
        }
        if name != "keys" && self.0.u8(..10) > 0 {
            line.push(self.0.choice(&["a", "b", "ab", "c", "", "abc"]).copied().unwrap_or("a"));
        }
        let more = self.0.usize(..4);
        line.extend((0..more).map(|_| self.0.choice(WORDS).copied().unwrap_or("a")));
        line.into_iter().map(|word| Bytes::copy_from_slice(word.as_bytes())).collect()
    }
}

#[test]
fn a_real_redis_answers_random_requests_alike() {
    let Some(mut redis) = Redis::start() else {
        eprintln!("SKIPPED: no redis-server is installed, random requests were not compared with Redis");
        return;
    };
    let mut bare = Bare::new();
    let mut requests = Requests(fastrand::Rng::with_seed(2));
    let no_such_key = Reply::error("ERR no such key");
    let wrong_type = Reply::error("WRONGTYPE Operation against a key holding the wrong kind of value");
    let mut differences = Vec::new();
    for _ in 0..30_000 {
        let args = requests.next();
        if depends_on_time(&args) {
            continue;
        }
        let [ours, theirs] = [bare.answer(&args), redis.answer(&args)].map(|reply| comparable(&args, reply));
        let late = Requests::LATE.iter().any(|name| name.as_bytes() == &args[0][..]);
        let nothing = matches!(theirs, Reply::Nil | Reply::Array(_)) || theirs == no_such_key;
        let refused_early = ours.is_error() && (theirs == wrong_type || late && nothing);
        if ours != theirs && !refused_early {
            differences.push(format!("{args:?}\n  ours   {ours:?}\n  theirs {theirs:?}"));
        }
    }
    let first: Vec<String> = differences.iter().take(10).cloned().collect();
    assert!(differences.is_empty(), "{} differences\n{}", differences.len(), first.join("\n"));
}

/// A time to live of a few milliseconds or seconds would make the two clocks matter.
fn depends_on_time(args: &Args) -> bool {
    let relative = |word: &Bytes| [&b"ex"[..], b"px"].iter().any(|name| word.eq_ignore_ascii_case(name));
    let short = |word: &Bytes| matches!(&word[..], b"1" | b"3" | b"5" | b"100");
    let sets = args.iter().any(relative) || args[0].ends_with(b"setex") || args[0].ends_with(b"expire");
    sets && args.iter().any(short)
}

/// The reply without what differs between any two servers: the order of keys, and the time left until a fixed date.
fn comparable(args: &Args, mut reply: Reply) -> Reply {
    match &mut reply {
        Reply::Array(items) if &args[0][..] == b"keys" => items.sort_by_key(|item| notation::show(item).join("\n")),
        Reply::Map(pairs) => reply = Reply::Array(pairs.drain(..).flat_map(|(name, value)| [name, value]).collect()),
        // Redis 7.0 has no packed lists.
        Reply::Bulk(name) if &args[0][..] == b"object" && &name[..] == b"quicklist" => *name = "listpack".into(),
        Reply::Int(left) if &args[0][..] == b"ttl" && *left > 1_000_000 => *left = i64::MAX,
        _ => {}
    }
    reply
}
