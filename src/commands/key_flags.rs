//! What a command does to each of its keys, in the words of COMMAND INFO and COMMAND GETKEYSANDFLAGS.
//!
//! A read accesses its keys, a write updates them: that much follows from the kind of a command. What Redis 7.2 declares
//! beyond that stands in the lists below, names of commands that are not built too, so that one that comes is described as
//! in Redis on its first day.

use super::{Command, Run};
use crate::resp::Args;

/// Flags of one key, as Redis orders them.
pub type Flags = &'static [&'static str];

/// Access to the value without telling what is in it, such as its length.
const TELLS: Flags = &["RO"];
const READS: Flags = &["RO", "access"];
const UPDATES: Flags = &["RW", "update"];
const SHOWS_AND_UPDATES: Flags = &["RW", "access", "update"];
const SHOWS_AND_DELETES: Flags = &["RW", "access", "delete"];
const DELETES: Flags = &["RW", "delete"];
const INSERTS: Flags = &["RW", "insert"];
const OVERWRITES: Flags = &["OW", "update"];
const OVERWRITES_NEW: Flags = &["OW", "insert"];
const REMOVES: Flags = &["RM", "delete"];

/// Names, and what those commands do to all of their keys.
const ALL_KEYS: &[(&str, Flags)] = &[
    (
        "exists hexists hlen hstrlen llen memory|usage object|encoding object|freq object|idletime object|refcount scard \
         sismember strlen touch type xlen zcard watch",
        TELLS,
    ),
    ("set setex psetex mset msetex", OVERWRITES),
    ("setnx msetnx", OVERWRITES_NEW),
    ("del unlink", REMOVES),
    ("append lpush lpushx rpush rpushx sadd pfadd hsetnx linsert", INSERTS),
    (
        "getset getex incr incrby incrbyfloat decr decrby hincrby hincrbyfloat zincrby setbit bitfield",
        SHOWS_AND_UPDATES,
    ),
    (
        "getdel lpop rpop lmpop blpop brpop blmpop spop zpopmin zpopmax bzpopmin bzpopmax zmpop bzmpop delex delifeq",
        SHOWS_AND_DELETES,
    ),
    ("hdel srem zrem zremrangebyrank zremrangebyscore zremrangebylex lrem ltrim xdel xtrim", DELETES),
    ("eval evalsha fcall", &["RW", "access", "update"]),
    ("eval_ro evalsha_ro fcall_ro xreadgroup", READS),
];

/// Names, what those commands do to their first key, and to the others.
const FIRST_AND_REST: &[(&str, Flags, Flags)] = &[
    ("lmove rpoplpush blmove brpoplpush smove", SHOWS_AND_DELETES, INSERTS),
    ("rename", SHOWS_AND_DELETES, OVERWRITES),
    ("renamenx", SHOWS_AND_DELETES, OVERWRITES_NEW),
    ("copy sort georadius georadiusbymember", READS, OVERWRITES),
    (
        "bitop geosearchstore sdiffstore sinterstore sunionstore zdiffstore zinterstore zrangestore zunionstore",
        OVERWRITES,
        READS,
    ),
    ("pfmerge", SHOWS_AND_UPDATES, READS),
];

fn is_in(list: &str, name: &str) -> bool {
    list.split_whitespace().any(|word| word == name)
}

/// Flags of the first key and of the others. `name` is the full one: `object|encoding`.
pub fn of(name: &str, command: &Command) -> (Flags, Flags) {
    if let Some((_, first, rest)) = FIRST_AND_REST.iter().find(|(names, ..)| is_in(names, name)) {
        return (first, rest);
    }
    let usual = if matches!(command.run, Run::Write(_)) { UPDATES } else { READS };
    let all = ALL_KEYS.iter().find(|(names, _)| is_in(names, name)).map_or(usual, |(_, flags)| flags);
    (all, all)
}

/// Options with which SET shows the value that it replaces, or whether it is another.
const SET_TELLS: [&str; 5] = ["get", "ifeq", "ifne", "ifdeq", "ifdne"];

/// The same for one request: SET with GET shows the value that it replaces.
pub fn of_call(name: &str, command: &Command, args: &Args) -> (Flags, Flags) {
    let tells = |word: &bytes::Bytes| SET_TELLS.iter().any(|option| word.eq_ignore_ascii_case(option.as_bytes()));
    let gets = name == "set" && args.iter().skip(3).any(tells);
    if gets { (SHOWS_AND_UPDATES, SHOWS_AND_UPDATES) } else { of(name, command) }
}
