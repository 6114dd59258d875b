//! What may differ from Redis 7.0, each with its reason, as narrow as it can be said. Nothing else may.
//!
//! Two more lists say what is not asked at all, and a third after which requests chance or a clock has decided what a key holds,
//! so that both servers must forget it.

use bytes::Bytes;
use hypercache::commands::{self, Command};
use hypercache::resp::{Args, Reply};

/// A request that was answered in two ways.
pub struct Case<'a> {
    pub args: &'a Args,
    pub ours: &'a Reply,
    pub theirs: &'a Reply,
    /// Whether it was part of a transaction.
    pub past: bool,
    /// Whether the first of its keys is not there, for Redis.
    pub missing: bool,
    /// Whether it is about a member whose score is no place on the map.
    pub off_the_map: bool,
    /// Whether it leaves no order open, or one reply has another order than what it leaves open.
    pub in_order: bool,
}

/// A difference that is meant.
pub struct Meant {
    /// Commands it is about, in small letters; none: all.
    of: &'static [&'static str],
    pub why: &'static str,
    /// Whether the two servers may hold other things under the keys from now on.
    pub forgets: bool,
    holds: fn(&Case<'_>) -> bool,
}

impl Meant {
    pub fn explains(&self, case: &Case<'_>) -> bool {
        (self.of.is_empty() || self.of.iter().any(|name| is(&case.args[0], name))) && (self.holds)(case)
    }
}

pub static MEANT: &[Meant] = &[
    Meant {
        of: &["georadiusbymember", "georadiusbymember_ro"],
        why: "Redis does not read the radius if there is no key, and stores the nothing that it found",
        forgets: true,
        holds: |case| case.missing && case.ours.is_error() && (case.theirs.is_error() || is_nothing(case.theirs)),
    },
    Meant {
        of: &["copy"],
        why: "there is one database",
        forgets: true,
        holds: |case| {
            let other = |pair: &[Bytes]| is(&pair[0], "db") && number(&pair[1]).is_some_and(|db| (1..16).contains(&db));
            said(case.ours, "ERR DB index is out of range")
                && matches!(case.theirs, Reply::Int(0 | 1))
                && case.args[3..].windows(2).any(other)
        },
    },
    Meant {
        of: &[],
        why: "what is wrong with the arguments is told before anybody looks at the keys, so that it never reaches the log",
        forgets: false,
        holds: |case| {
            let refused = || commands::lookup(case.args).is_ok_and(|command| (command.check)(case.args).is_err());
            let of_keys = OF_KEYS.iter().any(|text| said(case.theirs, text)) || case.missing && is_nothing(case.theirs);
            case.ours.is_error() && of_keys && refused()
        },
    },
    Meant {
        of: &["keys", "smembers", "sinter", "sunion", "sdiff", "hgetall", "hkeys", "hvals"],
        why: "the order of keys, and of the elements of a set or of a large hash, is nobody's promise",
        forgets: false,
        holds: |case| sorted(case.ours) == sorted(case.theirs),
    },
    Meant {
        of: &["sort", "sort_ro"],
        why: "SORT BY leaves open in which order texts of one weight, or a set's elements without any, are answered",
        forgets: false,
        holds: |case| !case.in_order,
    },
    Meant {
        of: &["srandmember", "hrandfield", "zrandmember", "spop", "randomkey"],
        why: "chance decides",
        forgets: false,
        holds: |case| shape(case.ours) == shape(case.theirs),
    },
    Meant {
        of: &["scan", "sscan", "hscan", "zscan"],
        why: "a cursor and what a page has are the server's own",
        forgets: false,
        holds: |case| is_page(case.ours) && is_page(case.theirs),
    },
    Meant {
        of: &["ttl", "pttl", "expiretime", "pexpiretime", "object", "xpending", "xinfo"],
        why: "the two clocks are not one: a millisecond goes by between two replies",
        forgets: false,
        holds: |case| near(case.ours, case.theirs),
    },
    Meant {
        of: &["memory"],
        why: "memory is counted in another way",
        forgets: false,
        holds: |case| matches!((case.ours, case.theirs), (Reply::Int(1..), Reply::Int(1..))),
    },
    Meant {
        of: &[],
        why: "scores and coordinates are written as in Redis 7.2, with the fewest digits that are enough",
        forgets: false,
        holds: |case| {
            matches!(case.args[0].first(), Some(b'z' | b'g' | b'b' | b'Z' | b'G' | b'B'))
                && numbers(case.ours) == numbers(case.theirs)
        },
    },
    Meant {
        of: &["xack"],
        why: "Redis does not read the ids if there is no such group",
        forgets: false,
        holds: |case| case.ours.is_error() && *case.theirs == Reply::Int(0),
    },
    Meant {
        of: &["object"],
        why: "a PFADD or SETBIT that changes nothing leaves the string as it is kept",
        forgets: false,
        holds: |case| ["int", "embstr"].map(Reply::bulk).contains(case.ours) && *case.theirs == Reply::bulk("raw"),
    },
    Meant {
        of: &["client"],
        why: "names of clients and libraries have at most 512 bytes",
        forgets: false,
        holds: |case| {
            let long = |reply: &Reply| matches!(reply, Reply::Bulk(name) if name.len() > 512);
            let refused = case.ours.is_error() && case.args.iter().any(|word| word.len() > 512);
            // The one that Redis has taken.
            refused || is(&case.args[1], "getname") && long(case.theirs) && !long(case.ours)
        },
    },
    Meant {
        of: &["lcs"],
        why: "long strings are refused by LCS, with a text that Redis has for longer ones",
        forgets: false,
        holds: |case| said(case.ours, "ERR String too long for LCS"),
    },
    Meant {
        of: &["xtrim"],
        why: "what an approximate trim leaves depends on the size of a stream's nodes",
        forgets: true,
        holds: |case| {
            case.args.iter().any(|word| &word[..] == b"~")
                && matches!((case.ours, case.theirs), (Reply::Int(_), Reply::Int(_)))
        },
    },
    Meant {
        of: &["xinfo"],
        why: "consumers have an active-time, or inactive, since 7.2",
        forgets: false,
        holds: |case| near(&as_of_7_0(case.ours), case.theirs),
    },
    Meant {
        of: &["xinfo"],
        why: "XREADGROUP makes its consumer although there is nothing to read, since 7.2",
        forgets: false,
        holds: |case| near(&without_idle(&as_of_7_0(case.ours)), &without_idle(case.theirs)),
    },
    Meant {
        of: &["xgroup"],
        why: "XREADGROUP makes its consumer although there is nothing to read, since 7.2",
        forgets: false,
        holds: |case| {
            is(&case.args[1], "createconsumer") && *case.ours == Reply::Int(0) && *case.theirs == Reply::Int(1)
        },
    },
    Meant {
        of: &["geohash", "geosearch", "geosearchstore", "georadiusbymember", "georadiusbymember_ro"],
        why: "a score that is no place is taken for the edge of the map, where Redis does not look for others",
        forgets: true,
        holds: |case| case.off_the_map,
    },
    Meant {
        of: &["pfadd", "pfcount", "pfmerge"],
        why: "a damaged HyperLogLog is refused whatever is asked of it, and in Redis where it is noticed",
        forgets: true,
        holds: |case| said(case.ours, "INVALIDOBJ"),
    },
    Meant {
        of: &["xread", "xreadgroup"],
        why: "the text is that of 7.2",
        forgets: false,
        holds: |case| said(case.ours, "ERR Unbalanced 'xread") && said(case.theirs, "ERR Unbalanced XREAD list"),
    },
    Meant {
        of: &["sort", "sort_ro"],
        why: "Redis takes a number too small for a double, read by an earlier command of a transaction, for a mistake of SORT",
        forgets: true,
        holds: |case| case.past && is_no_weight(case.theirs) && !case.ours.is_error(),
    },
    Meant {
        of: &["xsetid"],
        why: "an id below the largest that was deleted is refused since 7.2",
        forgets: true,
        holds: |case| {
            said(case.ours, "ERR The ID specified in XSETID is smaller than current") && *case.theirs == Reply::OK
        },
    },
    Meant {
        of: &["lpos"],
        why: "the least of all numbers is no rank since 7.2",
        forgets: false,
        holds: |case| said(case.ours, "ERR value is out of range, value must between"),
    },
    Meant {
        of: WITH_TIMEOUT,
        why: "the text is that of 7.2",
        forgets: true,
        holds: |case| {
            said(case.ours, "ERR timeout is out of range") && !said(case.theirs, "ERR timeout is out of range")
        },
    },
    Meant {
        of: &["object"],
        why: "small lists and sets are packed as in 7.2",
        forgets: false,
        holds: |case| {
            let named = |reply: &Reply, names: &[&str]| matches!(reply, Reply::Bulk(name) if names.iter().any(|known| is(name, known)));
            named(case.ours, &["listpack"]) && named(case.theirs, &["quicklist", "hashtable"])
        },
    },
    Meant {
        of: &["object"],
        why: "Redis unpacks a sorted set in order to sort it",
        forgets: false,
        holds: |case| *case.ours == Reply::bulk("listpack") && *case.theirs == Reply::bulk("skiplist"),
    },
    Meant {
        of: &["object"],
        why: "no value is shared by several keys here",
        forgets: false,
        holds: |case| *case.ours == Reply::Int(1) && *case.theirs == Reply::Int(i32::MAX.into()),
    },
];

/// What Redis says when it has looked at the keys.
const OF_KEYS: &[&str] = &[
    "WRONGTYPE",
    "NOGROUP",
    "ERR no such key",
    "ERR The specified keys must contain string values",
    "ERR could not decode requested zset member",
    "ERR The XGROUP subcommand requires the key to exist",
];

const WITH_TIMEOUT: &[&str] = &["blpop", "brpop", "blmove", "brpoplpush", "blmpop", "bzpopmin", "bzpopmax", "bzmpop"];

/// Commands that are not asked.
const LEFT_OUT: &[(&str, &str)] = &[
    ("dump restore", "the form of a dump is our own"),
    ("client|id client|info client|list client|getredir client|trackinginfo", "which connection it is differs"),
    ("client|reply client|no-evict hello auth reset quit select", "it changes the connection that the comparison uses"),
    ("acl|setuser acl|deluser acl|load acl|save acl|log", "users are the whole cluster's: no part of a transaction"),
    ("object|freq", "refused here: reads leave no trace"),
    (
        "save swapdb config|rewrite psync sync module migrate replicaof slaveof debug bgrewriteaof",
        "refused with what to use instead",
    ),
    ("asking readonly readwrite", "refused by a Redis that is no cluster"),
    (
        "command command|count command|docs command|info command|list acl|cat",
        "they tell of all commands, of which we have others",
    ),
];

/// Families that are about a cluster, which a lone Redis is not, or about those who listen.
const LEFT_OUT_FAMILIES: &[&str] = &["cluster", "pubsub"];

pub fn is_left_out(name: &str, command: &Command) -> bool {
    // HELP tells of what there is here.
    name.ends_with("|help")
        || LEFT_OUT_FAMILIES.contains(&command.spec.family)
        || LEFT_OUT.iter().any(|(names, _)| names.split(' ').any(|left_out| left_out == name))
}

pub fn is(word: &Bytes, name: &str) -> bool {
    word.eq_ignore_ascii_case(name.as_bytes())
}

pub fn number(word: &Bytes) -> Option<i64> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

/// Options that Redis 7.0 does not know, by command.
const NEWER: &[(&[&str], &[&str])] = &[
    (&["set"], &["ifeq", "ifne", "ifdeq", "ifdne"]),
    (&["hscan"], &["novalues"]),
    // It takes a command of one word since 7.2.
    (&["command"], &["getkeys", "getkeysandflags"]),
];

/// Requests that are not asked: what comes of them takes too long, or only a clock knows.
/// `at_sea`: it is not known what time it is for Redis.
pub fn not_asked(args: &Args, at_sea: bool) -> bool {
    let name = |names: &[&str]| names.iter().any(|name| is(&args[0], name));
    let short = |at: usize| args.get(at).and_then(number).is_some_and(|ms| (1..1_000_000).contains(&ms));
    // So many copies fill the memory of any server.
    name(&["srandmember", "hrandfield", "zrandmember"]) && args.get(2).and_then(number).is_some_and(|n| n < -10_000)
        // An idle time that may or may not have gone by.
        || name(&["xclaim", "xautoclaim"]) && short(4)
        || name(&["xpending"]) && short(4)
        || name(&["zrank", "zrevrank"]) && args.len() > 3
        // A place at the edge: it has a number beyond all cells in Redis, and is in the last one here.
        || args[0].starts_with(b"geo") && args.iter().any(at_the_edge)
        || NEWER.iter().any(|(of, words)| {
            let newer = |word: &Bytes| words.iter().any(|newer| is(word, newer));
            name(of) && args[1..].iter().any(newer) && (args.len() == 3 || !name(&["command"]))
        })
        // An id that is the time.
        || at_sea && name(&["xadd"]) && args.iter().any(|word| &word[..] == b"*")
}

/// Whether chance, or the size of a stream's nodes, decides what the keys hold afterwards.
pub fn draws(args: &Args) -> bool {
    is(&args[0], "spop") || is(&args[0], "xadd") && args.iter().any(|word| &word[..] == b"~")
}

/// Whether elements are stored in the order of texts that may be the same: then those of a set, sorted or not, lie as they
/// did in its table, and where only a part of them is wanted they lie anyhow, in Redis.
pub fn copies_ties(args: &Args) -> bool {
    let has = |name: &str| args[1..].iter().any(|word| is(word, name));
    is(&args[0], "sort") && has("store") && has("alpha") && has("by")
}

pub fn sorts(args: &Args) -> bool {
    is(&args[0], "sort") || is(&args[0], "sort_ro")
}

pub fn is_no_weight(reply: &Reply) -> bool {
    said(reply, "ERR One or more scores can't be converted into double")
}

pub fn has_limit(args: &Args) -> bool {
    args.iter().any(|word| is(word, "limit"))
}

/// Whether keys may die soon afterwards.
pub fn sets_times(args: &Args) -> bool {
    ["set", "setex", "psetex", "getex", "expire", "pexpire", "expireat", "pexpireat"]
        .iter()
        .any(|name| is(&args[0], name))
}

fn at_the_edge(word: &Bytes) -> bool {
    ["180", "-180", "85.05112878", "-85.05112878"].iter().any(|edge| is(word, edge))
}

fn said(reply: &Reply, code: &str) -> bool {
    matches!(reply, Reply::Error(text) if text.starts_with(code.as_bytes()))
}

fn is_nothing(reply: &Reply) -> bool {
    matches!(reply, Reply::Nil | Reply::NilArray | Reply::Int(-1..=0))
        || items(reply).is_some_and(<[Reply]>::is_empty)
        || matches!(items(reply), Some([Reply::Bulk(_), page]) if items(page).is_some_and(<[Reply]>::is_empty))
}

pub fn items(reply: &Reply) -> Option<&[Reply]> {
    match reply {
        Reply::Array(items) | Reply::Set(items) => Some(items),
        _ => None,
    }
}

fn sorted(reply: &Reply) -> Option<Vec<String>> {
    let mut all: Vec<String> = match reply {
        Reply::Array(items) | Reply::Set(items) => items.iter().map(|item| format!("{item:?}")).collect(),
        Reply::Map(pairs) => pairs.iter().map(|pair| format!("{pair:?}")).collect(),
        _ => return None,
    };
    all.sort();
    Some(all)
}

/// What a reply is, but for its bytes.
pub fn shape(reply: &Reply) -> String {
    match reply {
        Reply::Bulk(_) => "bulk".into(),
        Reply::Array(items) => format!("array {:?}", items.iter().map(shape).collect::<Vec<_>>()),
        Reply::Set(items) => format!("set {:?}", items.iter().map(shape).collect::<Vec<_>>()),
        Reply::Double(_) => "double".into(),
        other => format!("{other:?}"),
    }
}

fn is_page(reply: &Reply) -> bool {
    matches!(items(reply), Some([Reply::Bulk(_), Reply::Array(_)]))
}

/// Whether integers that tell of times differ by little, and nothing else does.
fn near(ours: &Reply, theirs: &Reply) -> bool {
    match (ours, theirs) {
        (Reply::Int(ours), Reply::Int(theirs)) => {
            ours == theirs || ours.abs_diff(*theirs) <= 2000 && *theirs >= 0 && *ours >= 0
        }
        (Reply::Array(ours), Reply::Array(theirs)) => {
            ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(ours, theirs)| near(ours, theirs))
        }
        (Reply::Map(ours), Reply::Map(theirs)) => {
            ours.len() == theirs.len()
                && ours.iter().zip(theirs).all(|(ours, theirs)| ours.0 == theirs.0 && near(&ours.1, &theirs.1))
        }
        _ => ours == theirs,
    }
}

/// The member that a search in a geographic index is around, or those that GEOHASH is asked for.
pub fn places(args: &Args) -> &[Bytes] {
    if is(&args[0], "geohash") {
        return args.get(2..).unwrap_or_default();
    }
    if is(&args[0], "georadiusbymember") || is(&args[0], "georadiusbymember_ro") {
        return args.get(2..3).unwrap_or_default();
    }
    let geo = args[0].len() > 3 && is(&args[0].slice(..3), "geo");
    let at = args.iter().position(|word| geo && is(word, "frommember"));
    at.and_then(|at| args.get(at + 1..at + 2)).unwrap_or_default()
}

/// XINFO without consumers that nothing is pending for.
fn without_idle(reply: &Reply) -> Reply {
    let word = |reply: &Reply, name: &str| *reply == Reply::bulk(name.to_owned());
    let is_idle = |item: &Reply| {
        let fields: Vec<(&Reply, &Reply)> = match item {
            Reply::Map(pairs) => pairs.iter().map(|(name, value)| (name, value)).collect(),
            Reply::Array(items) => items.chunks_exact(2).map(|pair| (&pair[0], &pair[1])).collect(),
            _ => return false,
        };
        let has = |name: &str| fields.iter().any(|(field, _)| word(field, name));
        let nothing = |(name, value): &(&Reply, &Reply)| {
            (word(name, "pel-count") || word(name, "pending")) && **value == Reply::Int(0)
        };
        !has("last-delivered-id") && fields.iter().any(nothing)
    };
    let value = |name: &Reply, value: &Reply| match value {
        Reply::Int(_) if word(name, "consumers") => Reply::Int(0),
        value => without_idle(value),
    };
    match reply {
        Reply::Map(pairs) => Reply::Map(pairs.iter().map(|(name, of)| (name.clone(), value(name, of))).collect()),
        Reply::Array(items) => {
            let before = std::iter::once(&Reply::Nil).chain(items);
            let kept = items.iter().zip(before).filter(|(item, _)| !is_idle(item));
            Reply::Array(kept.map(|(item, before)| value(before, item)).collect())
        }
        other => other.clone(),
    }
}

/// XINFO without what 7.2 tells in addition.
fn as_of_7_0(reply: &Reply) -> Reply {
    let newer = |name: &Reply| [Reply::bulk("active-time"), Reply::bulk("inactive")].contains(name);
    match reply {
        Reply::Map(pairs) => {
            let pairs = pairs.iter().filter(|(name, _)| !newer(name));
            Reply::Map(pairs.map(|(name, value)| (name.clone(), as_of_7_0(value))).collect())
        }
        Reply::Array(items) => {
            let newer = items.iter().position(newer);
            let items =
                items.iter().enumerate().filter(|(at, _)| newer.is_none_or(|newer| *at != newer && *at != newer + 1));
            Reply::Array(items.map(|(_, item)| as_of_7_0(item)).collect())
        }
        other => other.clone(),
    }
}

/// The reply with every text that is a number as that number.
fn numbers(reply: &Reply) -> Reply {
    match reply {
        Reply::Bulk(text) => match std::str::from_utf8(text)
            .ok()
            .and_then(|text| text.parse::<f64>().ok())
            .filter(|value| !value.is_nan())
        {
            Some(value) => Reply::Double(value),
            None => reply.clone(),
        },
        Reply::Array(items) => Reply::Array(items.iter().map(numbers).collect()),
        Reply::Map(pairs) => Reply::Map(pairs.iter().map(|(key, value)| (numbers(key), numbers(value))).collect()),
        _ => reply.clone(),
    }
}
