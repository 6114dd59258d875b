//! Access control against an installed Redis: what rules make of a user, what the user may do then, and what commands say
//! about themselves.
//!
//! Redis 7.0 is enough. Where 7.2 differs from it, the comparison says so: 7.2 shows `sanitize-payload`, keeps command rules
//! in the order in which they came, and names the user in its refusals.

mod redis;

use bytes::Bytes;
use hypercache::commands::access::{categories, keys};
use hypercache::commands::{self, Command};
use hypercache::resp::{Args, Reply};
use hypercache::security::{Reason, User, check};
use redis::Redis;
use std::collections::{BTreeMap, BTreeSet};

fn words(line: &str) -> Args {
    line.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect()
}

fn text(reply: &Reply) -> String {
    match reply {
        Reply::Status(text) | Reply::Error(text) | Reply::Bulk(text) => String::from_utf8_lossy(text).into_owned(),
        Reply::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(" "),
        other => format!("{other:?}"),
    }
}

/// An array of names and values as a map.
fn fields(reply: &Reply) -> BTreeMap<String, Reply> {
    let Reply::Array(items) = reply else { panic!("{reply:?} is no map") };
    items.chunks_exact(2).map(|pair| (text(&pair[0]), pair[1].clone())).collect()
}

macro_rules! redis_or_skip {
    () => {
        match Redis::start() {
            Some(redis) => redis,
            None => return eprintln!("SKIPPED: no redis-server is installed, nothing was compared with Redis"),
        }
    };
}

/// Rules of which each list is made by chance. Commands are those that both sides have.
const RULES: &[&str] = &[
    "on",
    "off",
    "nopass",
    "resetpass",
    ">x",
    ">y",
    "<x",
    "<y",
    "#zz",
    "~*",
    "~a*",
    "~b",
    "%R~a*",
    "%W~b",
    "%rw~c",
    "%RR~a",
    "allkeys",
    "resetkeys",
    "&*",
    "&ch:*",
    "&x",
    "allchannels",
    "resetchannels",
    "+@all",
    "-@all",
    "+@read",
    "-@read",
    "+@write",
    "-@write",
    "+@string",
    "-@keyspace",
    "+@dangerous",
    "-@dangerous",
    "+@connection",
    "+@fast",
    "-@slow",
    "+@admin",
    "-@admin",
    "+@nope",
    "+get",
    "-get",
    "+GET",
    "+set",
    "-set",
    "+nope",
    "-nope",
    "+config",
    "-config",
    "+config|get",
    "-config|get",
    "-config|set",
    "+config|nope",
    "+config|get|x",
    "+select|0",
    "-select",
    "-select|0",
    "+client|id",
    "-client",
    "+mset",
    "+rename",
    "+del",
    "(~a* +get)",
    "(%W~b +set +@keyspace)",
    "(+@all ~x",
    "(on)",
    "clearselectors",
    "reset",
    "nonsense",
    "+ping",
    "+object",
    "+object|encoding",
];

/// What is asked of every user.
const REQUESTS: &[&str] = &[
    "get a1",
    "get b",
    "get c",
    "set a1 v",
    "set b v",
    "set b v get",
    "set c v",
    "mset a1 1 b 2",
    "mget a1 b",
    "del a1 b",
    "incr b",
    "append b x",
    "getdel c",
    "getex a1",
    "exists a1 zz",
    "type b",
    "strlen a1",
    "rename a1 b",
    "rename b b",
    "expire b 10",
    "ttl a1",
    "object encoding a1",
    "keys *",
    "scan 0",
    "flushall",
    "dbsize",
    "ping",
    "echo x",
    "select 0",
    "select 1",
    "config get x",
    "config set a b",
    "client id",
    "client list",
    "info",
    "auth x",
    "quit",
    "time",
    "memory usage zz",
    "substr a1 0 1",
    "msetnx b 1",
    "persist b",
    "touch b",
    "randomkey",
    "getset b v",
];

#[test]
fn rules_make_of_a_user_what_they_make_of_it_in_redis() {
    let mut redis = redis_or_skip!();
    let mut draws = fastrand::Rng::with_seed(3);
    let mut differences = Vec::new();
    for round in 0..400 {
        redis.answer(&words("acl deluser alice"));
        redis.answer(&words("acl setuser alice"));
        let mut alice = User::new("alice", 0);
        let mut told = Vec::new();
        for _ in 0..draws.usize(1..12) {
            let rule = *draws.choice(RULES).expect("there are rules");
            told.push(rule);
            let theirs = text(&redis.answer(&words(&format!("acl setuser alice {rule}"))));
            let ours = match alice.apply(&words(rule)) {
                Ok(()) => "OK".to_owned(),
                Err(error) => format!("ERR {error}"),
            };
            if ours != theirs {
                differences.push(format!("round {round} {told:?}\n  ours   {ours}\n  theirs {theirs}"));
            }
        }
        compare_user(&mut redis, &alice, &told, &mut differences);
    }
    let first: Vec<String> = differences.iter().take(10).cloned().collect();
    assert!(differences.is_empty(), "{} differences\n{}", differences.len(), first.join("\n"));
}

fn compare_user(redis: &mut Redis, alice: &User, told: &[&str], differences: &mut Vec<String>) {
    let theirs = fields(&redis.answer(&words("acl getuser alice")));
    let flags: Vec<&str> = alice.flags().into_iter().filter(|flag| *flag != "sanitize-payload").collect();
    let their_flags = text(&theirs["flags"]).replace(" sanitize-payload", "");
    let root = alice.root();
    let bytes = |text: Vec<u8>| String::from_utf8(text).unwrap();
    for (what, ours, theirs) in [
        ("flags", flags.join(" "), their_flags),
        ("passwords", alice.hashes().join(" "), text(&theirs["passwords"])),
        ("keys", bytes(root.keys_text()), text(&theirs["keys"])),
        ("channels", bytes(root.channels_text()), text(&theirs["channels"])),
    ] {
        if ours != theirs {
            differences.push(format!("{told:?}: {what}\n  ours   {ours}\n  theirs {theirs}"));
        }
    }
    for request in REQUESTS {
        let args = words(request);
        let command = commands::lookup(&args).expect(request);
        let theirs = text(&redis.answer(&words(&format!("acl dryrun alice {request}"))));
        let ours = match check(alice, command, &args) {
            Ok(()) => "OK".to_owned(),
            // Redis 7.0 names the wrong command here, and nobody.
            Err(denied) if denied.reason == Reason::Command => "no command".to_owned(),
            Err(denied) => denied.full_text().replace("User alice has", "This user has"),
        };
        let theirs = if theirs.ends_with("' command") { "no command".to_owned() } else { theirs };
        if ours != theirs {
            differences.push(format!("{told:?}: {request}\n  ours   {ours}\n  theirs {theirs}"));
        }
    }
}

/// COMMAND INFO of a command, if Redis has it: flags of its keys, and categories.
struct Told {
    categories: BTreeSet<String>,
    /// `RW`, `R`, `W` or nothing, of each range of keys.
    accesses: Vec<String>,
}

fn collect(reply: &Reply, into: &mut BTreeMap<String, Told>) {
    let Reply::Array(info) = reply else { return };
    let list = |reply: &Reply| match reply {
        Reply::Array(items) | Reply::Set(items) => items.clone(),
        _ => Vec::new(),
    };
    let access = |spec: &Reply| {
        let flags: BTreeSet<String> =
            list(&fields(spec)["flags"]).iter().map(|f| text(f).to_ascii_lowercase()).collect();
        let writes = ["insert", "delete", "update"].iter().any(|flag| flags.contains(*flag));
        format!("{}{}", if flags.contains("access") { "R" } else { "" }, if writes { "W" } else { "" })
    };
    let told = Told {
        categories: list(&info[6]).iter().map(|c| text(c).trim_start_matches('@').to_owned()).collect(),
        accesses: list(&info[8]).iter().map(access).collect(),
    };
    into.insert(text(&info[0]), told);
    list(&info[9]).iter().for_each(|sub| collect(sub, into));
}

fn all_of(redis: &mut Redis) -> BTreeMap<String, Told> {
    let Reply::Array(infos) = redis.answer(&words("command")) else { panic!("COMMAND answers an array") };
    let mut all = BTreeMap::new();
    infos.iter().for_each(|info| collect(info, &mut all));
    all
}

/// What Redis 7.2 says otherwise than 7.0, and what is refused here whatever its subcommands do there.
const OTHERWISE: &[&str] = &["wait", "module"];

#[test]
fn categories_are_those_of_redis() {
    let mut redis = redis_or_skip!();
    let theirs = all_of(&mut redis);
    let mut compared = 0;
    for (name, command) in commands::all().filter(|(name, _)| !OTHERWISE.contains(&name.as_str())) {
        let Some(told) = theirs.get(&name) else { continue };
        let ours: BTreeSet<String> = categories(command).names().map(str::to_owned).collect();
        assert_eq!(ours, told.categories, "{name}");
        compared += 1;
    }
    assert!(compared > 100, "only {compared} commands were compared");
}

/// A request with keys enough to show what happens to the first and to those behind it.
fn sample(name: &str, command: &Command) -> Args {
    let mut request = words(&name.replace('|', " ")).to_vec();
    let more = command.spec.arity.unsigned_abs().max(request.len() as u32 + 3) as usize;
    let numbers = matches!(command.spec.keys, commands::Keys::Counted { .. });
    while request.len() < more {
        let at = request.len();
        request.push(Bytes::from(if numbers { "2".to_owned() } else { format!("k{at}") }));
    }
    request.into()
}

#[test]
fn keys_need_the_permissions_that_they_need_in_redis() {
    let mut redis = redis_or_skip!();
    let theirs = all_of(&mut redis);
    let mut compared = 0;
    // Only its options say whether SET shows the old value; the rules above compare that.
    for (name, command) in commands::all().filter(|(name, _)| !["set", "bitfield"].contains(&name.as_str())) {
        let Some(told) = theirs.get(&name).filter(|told| !told.accesses.is_empty()) else { continue };
        let word = |read: bool, write: bool| format!("{}{}", if read { "R" } else { "" }, if write { "W" } else { "" });
        let ours: Vec<String> =
            keys(command, &sample(&name, command)).map(|(_, access)| word(access.read, access.write)).collect();
        let Some(first) = ours.first() else { continue };
        assert_eq!(first, &told.accesses[0], "{name}: the first key");
        if let (Some(last), Some(theirs)) = (ours.get(1), told.accesses.last()) {
            assert_eq!(last, theirs, "{name}: further keys");
        }
        compared += 1;
    }
    assert!(compared > 30, "only {compared} commands were compared");
}
