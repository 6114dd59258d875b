//! Keyspace notifications: the bare keyspace must tell what an installed Redis tells, event by event.

mod listener;
mod notation;

use bytes::Bytes;
use hypercache::commands;
use hypercache::resp::{Args, Reply};
use hypercache::state::Keyspace;
use hypercache::state::events::{Classes, Wanted};
use hypercache::types::Stamp;
use listener::{Connection, Redis, words};

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
];

#[test]
fn random_commands_tell_what_redis_tells() {
    let Some(mut real) = Real::start() else {
        eprintln!("SKIPPED: no redis-server is installed, events were not compared with Redis");
        return;
    };
    let mut random = fastrand::Rng::with_seed(3);
    let mut pick = |from: &[&str]| Bytes::copy_from_slice(random.choice(from).copied().unwrap_or("a").as_bytes());
    let requests = (0..20_000).map(|n| {
        let more = n % 4;
        let mut args: Args = [pick(NAMES), pick(&["a", "b", "ab", "c", ""])].into_iter().collect();
        args.extend((0..more).map(|_| pick(WORDS)));
        args
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

/// A SET that is past already: Redis keeps the key until somebody looks and tells `expired` then, we never store it.
fn kills_at_once(args: &Args) -> bool {
    let dated = args.iter().any(|word| word.eq_ignore_ascii_case(b"exat") || word.eq_ignore_ascii_case(b"pxat"));
    args[0].eq_ignore_ascii_case(b"set")
        && dated
        && args.iter().any(|word| matches!(&word[..], b"1" | b"3" | b"100" | b"1000"))
}
