//! Keyspace notifications: the bare keyspace must tell what an installed Redis tells, event by event.

mod notation;
mod redis;

use bytes::Bytes;
use hypercache::commands;
use hypercache::resp::{Args, Reply};
use hypercache::state::events::{Classes, Wanted};
use hypercache::state::{Keyspace, View};
use hypercache::types::Stamp;
use redis::{Connection, Redis, words};

/// Everything that a write can tell.
const CLASSES: &str = "EAn";

/// The clock of the bare keyspace: of this century, so that dates are past or to come for both.
const NOW_MS: u64 = 1_700_000_000_000;

struct Bare(Keyspace);

impl Bare {
    fn new() -> Bare {
        let mut keyspace = Keyspace::new(7);
        keyspace.record(Wanted { events: Classes::parse(CLASSES).unwrap(), changes: false });
        Bare(keyspace)
    }

    fn events(&mut self, args: &Args) -> (Reply, Vec<String>) {
        let stamp = Stamp { now_ms: NOW_MS, seed: 0 };
        self.0.advance(&stamp);
        let command = match commands::lookup(args) {
            Ok(command) => command,
            Err(reply) => return (reply, Vec::new()),
        };
        if let Err(reply) = (command.check)(args) {
            return (reply, Vec::new());
        }
        let reply = commands::apply(args, &mut self.0, &stamp);
        let told = self.0.take_record().unwrap_or_default().events;
        let shown = told.into_iter().map(|event| format!("{} {}", event.name, String::from_utf8_lossy(&event.key)));
        (reply, shown.collect())
    }
}

struct Real {
    redis: Redis,
    listener: Connection,
}

impl Real {
    fn start() -> Option<Real> {
        let mut redis = Redis::start()?;
        assert_eq!(redis.answer(&words(&format!("CONFIG SET notify-keyspace-events {CLASSES}"))), Reply::OK);
        let mut listener = redis.connect();
        listener.answer(&words("PSUBSCRIBE __keyevent@0__:*"));
        listener.answer(&words("SUBSCRIBE end"));
        Some(Real { redis, listener })
    }

    fn events(&mut self, args: &Args) -> (Reply, Vec<String>) {
        let reply = self.redis.answer(args);
        self.redis.answer(&words("PUBLISH end end"));
        let mut told = Vec::new();
        loop {
            let Reply::Array(message) = self.listener.next() else { panic!("a message is an array") };
            let text: Vec<String> = message.iter().map(|part| notation::show(part).join("").replace('"', "")).collect();
            match &text[..] {
                [kind, _, _] if kind == "message" => return (reply, told),
                [_, _, channel, key] => told.push(format!("{} {key}", channel.trim_start_matches("__keyevent@0__:"))),
                odd => panic!("{odd:?}"),
            }
        }
    }
}

fn differences(real: &mut Real, bare: &mut Bare, requests: impl Iterator<Item = Args>) -> Vec<String> {
    let mut found = Vec::new();
    for args in requests {
        let ((our_reply, ours), (their_reply, theirs)) = (bare.events(&args), real.events(&args));
        // A number that is wrong is refused by us before anybody knows whether there is such a key.
        if ours != theirs && our_reply.is_error() == their_reply.is_error() {
            found.push(format!("{args:?}: ours {ours:?}, theirs {theirs:?}"));
        }
    }
    found
}

#[test]
fn each_command_tells_what_redis_tells() {
    let Some(mut real) = Real::start() else {
        eprintln!("SKIPPED: no redis-server is installed, events were not compared with Redis");
        return;
    };
    let story = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/events.txt")).unwrap();
    let lines = story.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let requests = lines.map(|line| hypercache::resp::split_words(line.as_bytes()).unwrap());
    let found = differences(&mut real, &mut Bare::new(), requests);
    assert!(found.is_empty(), "{} differences\n{}", found.len(), found.join("\n"));
}

/// Commands of which no time matters, and words that make sense to them now and then.
const NAMES: &[&str] = &[
    "set",
    "set",
    "getset",
    "getdel",
    "getex",
    "setrange",
    "append",
    "incr",
    "decrby",
    "incrbyfloat",
    "mset",
    "msetnx",
    "setnx",
    "del",
    "unlink",
    "expireat",
    "pexpireat",
    "persist",
    "rename",
    "renamenx",
    "flushall",
    "sadd",
    "sadd",
    "srem",
    "smove",
    "sinterstore",
    "sunionstore",
    "copy",
    "sort",
    "rpush",
    "lpush",
    "lpop",
    "linsert",
    "lset",
    "lrem",
    "ltrim",
    "lmove",
    "rpoplpush",
    "lmpop",
    "hset",
    "hset",
    "hsetnx",
    "hdel",
    "hincrby",
    "hincrbyfloat",
    "zadd",
    "zadd",
    "zincrby",
    "zrem",
    "zpopmin",
    "zpopmax",
    "zmpop",
    "zremrangebyrank",
    "zremrangebyscore",
    "zremrangebylex",
    "zrangestore",
    "zunionstore",
    "zinterstore",
    "zdiffstore",
    "geoadd",
    "georadiusbymember",
    "geosearchstore",
];
const WORDS: &[&str] = &[
    "0",
    "1",
    "-1",
    "3",
    "100",
    "0.5",
    "abc",
    "",
    "NX",
    "XX",
    "GT",
    "LT",
    "EXAT",
    "PXAT",
    "KEEPTTL",
    "PERSIST",
    "GET",
    "1000",
    // Far away in seconds and in milliseconds: of a SET in the past Redis says that it was made, and here it is not.
    "4102444800000",
    "4102444800123",
    "a",
    "b",
    "ab",
    "[a",
    "+",
    "LEFT",
    "RIGHT",
    "BEFORE",
    "STORE",
    "REPLACE",
    "MIN",
];

#[test]
fn random_commands_tell_what_redis_tells() {
    let Some(mut real) = Real::start() else {
        eprintln!("SKIPPED: no redis-server is installed, events were not compared with Redis");
        return;
    };
    let mut random = fastrand::Rng::with_seed(3);
    let mut pick = |from: &[&str]| Bytes::copy_from_slice(random.choice(from).copied().unwrap_or("a").as_bytes());
    let requests = (0..60_000).map(|n| {
        let more = n % 5;
        let mut args = vec![pick(NAMES), pick(&["a", "b", "ab", "c", ""])];
        args.extend((0..more).map(|_| pick(WORDS)));
        Args::from(args)
    });
    let requests = requests.filter(|args| !kills_at_once(args));
    let found = differences(&mut real, &mut Bare::new(), requests);
    assert!(
        found.is_empty(),
        "{} differences\n{}",
        found.len(),
        found.iter().take(10).cloned().collect::<Vec<_>>().join("\n")
    );
}

/// Families whose commands are a module's in Redis and tell nothing there.
const SILENT: &[&str] = &["cuckoo", "bloom"];

/// What there is before each of [`FORMS`].
const BEFORE: &[&str] = &[
    "SET a 5",
    "SET b 5",
    "SET dated x EX 100",
    "HSET h a 1 b 2 c 3",
    "HEXPIRE h 50 FIELDS 1 b",
    "RPUSH l c a b d",
    "SADD s a b c",
    "SADD t b d",
    "ZADD z 1 a 2 b 3 c",
    "GEOADD g 13.361389 38.115556 x",
    "PFADD pf a",
    "XADD x 1-1 f v",
    "XADD x 2-1 f v",
    "XGROUP CREATE x g 0",
    "XREADGROUP GROUP g c STREAMS x >",
];

/// Each of the commands that tell something, in a form that changes something.
const FORMS: &[&str] = &[
    "SET k 0",
    "SET b 5 IFEQ 5",
    "DELEX a",
    "DELIFEQ a 5",
    "MSETEX 2 a 1 b 2 EX 100",
    "HEXPIRE h 100 FIELDS 1 a",
    "HPEXPIRE h 1000 FIELDS 1 a",
    "HEXPIREAT h 4102444800 FIELDS 1 a",
    "HPEXPIREAT h 4102444800123 FIELDS 1 a",
    "HPERSIST h FIELDS 1 b",
    "HGETEX h EX 100 FIELDS 1 a",
    "HSETEX h EX 100 FIELDS 1 a 1",
    "HGETDEL h FIELDS 1 a",
    "HSET h d 1",
    "HMSET h d 1",
    "HSETNX h d 1",
    "HDEL h a",
    "HINCRBY h a 1",
    "HINCRBYFLOAT h a 0.5",
    "LPUSH l x",
    "RPUSH l x",
    "LPUSHX l x",
    "RPUSHX l x",
    "LPOP l",
    "RPOP l",
    "LREM l 0 a",
    "LTRIM l 1 2",
    "LSET l 0 x",
    "LINSERT l AFTER a y",
    "LMOVE l m LEFT LEFT",
    "RPOPLPUSH l m",
    "BLMOVE l m LEFT LEFT 0",
    "BRPOPLPUSH l m 0",
    "BLPOP l 0",
    "BRPOP l 0",
    "LMPOP 1 l LEFT",
    "BLMPOP 0 1 l LEFT",
    "SORT l ALPHA STORE m",
    "SADD s x",
    "SREM s a",
    "SMOVE s t a",
    "SPOP s",
    "SDIFFSTORE u s t",
    "SINTERSTORE u s t",
    "SUNIONSTORE u s t",
    "ZADD z 1 x",
    "ZINCRBY z 1 a",
    "ZREM z a",
    "ZPOPMIN z",
    "ZPOPMAX z",
    "ZMPOP 1 z MIN",
    "BZPOPMIN z 0",
    "BZPOPMAX z 0",
    "BZMPOP 0 1 z MIN",
    "ZREMRANGEBYRANK z 0 0",
    "ZREMRANGEBYSCORE z 0 1",
    "ZREMRANGEBYLEX z - +",
    "ZRANGESTORE y z 0 -1",
    "ZUNIONSTORE y 1 z",
    "ZINTERSTORE y 1 z",
    "ZDIFFSTORE y 1 z",
    "GEOADD g 13.3 38.1 y",
    "GEORADIUS g 13 38 200 km STORE y",
    "GEORADIUSBYMEMBER g x 200 km STOREDIST y",
    "GEOSEARCHSTORE y g FROMMEMBER x BYRADIUS 1 km",
    "COPY a k",
    "RESTORE k 0 dump",
    "RENAME a k",
    "RENAMENX a k",
    "EXPIRE a 100",
    "PEXPIRE a 100000",
    "EXPIREAT a 4102444800",
    "PEXPIREAT a 4102444800123",
    "PERSIST dated",
    "GETEX a EX 100",
    "GETDEL a",
    "GETSET a 1",
    "SETNX k 1",
    "SETEX a 100 1",
    "PSETEX a 100000 1",
    "MSET a 1 b 2",
    "MSETNX k 1",
    "DEL a",
    "UNLINK a",
    "INCR a",
    "DECR a",
    "INCRBY a 2",
    "DECRBY a 2",
    "INCRBYFLOAT a 0.5",
    "APPEND a x",
    "SETRANGE a 1 x",
    "SETBIT a 7 0",
    "BITFIELD a SET u8 0 5",
    "BITOP NOT k a",
    "PFADD pf x",
    "PFMERGE k pf",
    "XADD x 4-1 f v",
    "XSETID x 5-5",
    "XGROUP CREATE x new 0",
    "XGROUP SETID x g 1-1",
    "XGROUP CREATECONSUMER x g new",
    "XGROUP DELCONSUMER x g c",
    "XGROUP DESTROY x g",
    "XDEL x 1-1",
    "XTRIM x MAXLEN 1",
];

/// What only moves marks in a group of a stream is no event in Redis.
const QUIET: &[&str] = &["xack", "xclaim", "xautoclaim", "xreadgroup", "flushall", "flushdb"];

#[test]
fn every_command_that_changes_a_key_tells_it() {
    let mut told_by = std::collections::BTreeSet::new();
    for form in FORMS {
        let mut bare = Bare::new();
        for line in BEFORE {
            assert!(!bare.events(&words(line)).0.is_error(), "{line}");
        }
        let mut args = words(form).to_vec();
        if let Some(dump) = args.iter_mut().find(|word| &word[..] == b"dump") {
            let Reply::Bulk(dumped) = commands::read_with(&words("DUMP a"), &View::new(&bare.0, None)) else {
                panic!("a is there")
            };
            *dump = dumped;
        }
        let args = Args::from(args);
        let before = bare.0.version();
        let (reply, told) = bare.events(&args);
        assert!(bare.0.version() > before, "{form} changes nothing: {reply:?}");
        assert!(!told.is_empty(), "{form} tells nothing");
        let command = commands::lookup(&args).ok().unwrap();
        let (name, _) = commands::all().find(|(_, known)| std::ptr::eq(*known, command)).unwrap();
        told_by.insert(name);
    }
    let untold = |name: &String, command: &commands::Command| {
        command.is_write()
            && !told_by.contains(name)
            && !SILENT.contains(&command.spec.family)
            && !QUIET.contains(&name.as_str())
    };
    let missing: Vec<String> =
        commands::all().filter(|(name, command)| untold(name, command)).map(|(name, _)| name).collect();
    assert!(missing.is_empty(), "a form is missing here, and maybe an event: {missing:?}");
}

/// What an installed Redis does not know yet: deadlines of fields as in Redis 7.4 and 8, and RESTORE of what DUMP gave.
#[test]
fn fields_with_deadlines_tell_what_newer_redis_tells() {
    let mut bare = Bare::new();
    for (line, expected) in [
        ("HSETEX h EX 100 FIELDS 3 a 1 b 2 c 3", "new h, hset h, hexpire h"),
        ("HSETEX h FIELDS 1 d 1", "hset h"),
        ("HSETEX h FNX FIELDS 1 d 1", ""),
        ("HEXPIRE h 100 FIELDS 2 a nothing", "hexpire h"),
        ("HEXPIRE h 100 FIELDS 1 nothing", ""),
        ("HPEXPIREAT h 4102444800123 FIELDS 1 a", "hexpire h"),
        ("HEXPIREAT h 4102444800 NX FIELDS 1 a", ""),
        ("HPERSIST h FIELDS 2 a d", "hpersist h"),
        ("HPERSIST h FIELDS 2 a d", ""),
        ("HGETEX h FIELDS 1 a", ""),
        ("HGETEX h PX 1000 FIELDS 1 a", "hexpire h"),
        ("HGETEX h PERSIST FIELDS 1 a", "hpersist h"),
        ("HGETEX h PERSIST FIELDS 1 a", ""),
        ("HGETEX h EXAT 1 FIELDS 1 a", "hdel h"),
        ("HSETEX h PXAT 1 FIELDS 1 x 1", "hset h, hdel h"),
        ("HEXPIRE h 0 FIELDS 2 b nothing", "hdel h"),
        ("HGETDEL h FIELDS 2 c nothing", "hdel h"),
        ("HGETDEL h FIELDS 1 nothing", ""),
        ("HGETDEL h FIELDS 1 d", "hdel h, del h"),
        ("HSET h a 1", "new h, hset h"),
        ("HEXPIREAT h 1 FIELDS 1 a", "hdel h, del h"),
        ("HSET h a 1", "new h, hset h"),
        ("HGETEX h EXAT 1 FIELDS 1 a", "hdel h, del h"),
        ("HSET h a 1", "new h, hset h"),
        ("HSETEX h EXAT 1 FIELDS 1 a 1", "hset h, hdel h, del h"),
        ("DELIFEQ k x", ""),
        ("SET k x", "new k, set k"),
        ("DELIFEQ k x", "del k"),
        ("SET k x", "new k, set k"),
        ("DELEX k IFEQ x", "del k"),
        ("MSETEX 1 k x EX 100", "new k, set k, expire k"),
    ] {
        let (reply, told) = bare.events(&words(line));
        assert!(!reply.is_error(), "{line}: {reply:?}");
        assert_eq!(told.join(", "), expected, "{line}");
    }
    let Reply::Bulk(dump) = commands::read_with(&words("DUMP k"), &View::new(&bare.0, None)) else {
        panic!("k is there")
    };
    for (line, expected) in [
        ("RESTORE other 0 dump", "new other, restore other"),
        ("RESTORE other 0 dump", ""),
        ("RESTORE other 0 dump REPLACE", "new other, restore other"),
        ("RESTORE other 1 dump REPLACE ABSTTL", "del other"),
        ("RESTORE other 1 dump REPLACE ABSTTL", ""),
    ] {
        let mut args = words(line).to_vec();
        args[3] = dump.clone();
        assert_eq!(bare.events(&args.into()).1.join(", "), expected, "{line}");
    }
}

/// A SET that is past already: Redis keeps the key until somebody looks and tells `expired` then, we never store it.
fn kills_at_once(args: &Args) -> bool {
    let dated = args.iter().any(|word| word.eq_ignore_ascii_case(b"exat") || word.eq_ignore_ascii_case(b"pxat"));
    args[0].eq_ignore_ascii_case(b"set")
        && dated
        && args.iter().any(|word| matches!(&word[..], b"1" | b"3" | b"100" | b"1000"))
}
