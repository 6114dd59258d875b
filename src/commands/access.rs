//! What access control must know of every command: its categories, and what it does with its keys.
//!
//! Both are derived from the tables as far as they go: a family is a category, a read reads its keys. What Redis 7.2 declares
//! beyond that, and no kind of command tells, stands in the lists below, and for keys in `key_flags`, and nowhere else. Names of commands that are not built stand there too, so that one that comes is classed as in Redis on its
//! first day. Where a command of ours has no model in Redis, its names are at the end of a list.

use super::key_flags::{self, Flags};
use super::ordinal::{self, Ordinal, ordinal};
use super::{Command, Run};
use crate::resp::Args;
use bytes::Bytes;
use std::sync::LazyLock;

/// The categories, in the order of ACL CAT.
pub static CATEGORIES: [&str; 21] = [
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
];

/// Families whose category has another name.
const FAMILIES: &[(&str, &str)] = &[
    ("generic", "keyspace"),
    ("sorted-set", "sortedset"),
    ("sorted_set", "sortedset"),
    ("zset", "sortedset"),
    ("transactions", "transaction"),
];

/// Commands whose categories are not those of their family; of read, write, fast and so on nothing is said here.
const BESIDE_THEIR_FAMILY: &[(&str, &[&str])] = &[
    (
        "dbsize flushall flushdb migrate swapdb object|encoding object|freq object|idletime object|refcount object|help",
        &["keyspace"],
    ),
    (
        "asking readonly readwrite command command|count command|docs command|getkeys command|getkeysandflags \
         command|help command|info command|list wait waitaof",
        &["connection"],
    ),
    ("sort sort_ro", &["list", "set", "sortedset"]),
    ("lolwut", &["read"]),
    ("memory|usage pubsub|help script function", &[]),
];

/// Commands that take no longer however much there is.
const FAST: &str = "append asking auth bitfield_ro bzpopmax bzpopmin dbsize decr decrby discard echo exists expire \
    expireat expiretime get getbit getdel getex getset hdel hello hexists hget hincrby hincrbyfloat hlen hmget hmset \
    hset hsetnx hstrlen incr incrby incrbyfloat lastsave llen lolwut lpop lpush lpushx mget move multi persist pexpire \
    pexpireat pexpiretime pfadd ping pttl publish quit readonly readwrite renamenx reset role rpop rpush rpushx sadd \
    scard select setnx sismember smismember smove spop spublish srem strlen swapdb time touch ttl type unlink unwatch \
    watch xack xadd xautoclaim xclaim xdel xlen xsetid zadd zcard zcount zincrby zlexcount zmscore zpopmax zpopmin \
    zrank zrem zrevrank zscore \
    digest delex delifeq bf.exists bf.card bf.info cf.exists cf.count cf.info cf.del";

/// Commands for administrators; all of them are dangerous, too.
const ADMIN: &str = "acl|deluser acl|dryrun acl|getuser acl|list acl|load acl|log acl|save acl|setuser acl|users \
    bgrewriteaof bgsave client|kill client|list client|no-evict client|pause client|unblock client|unpause \
    cluster|addslots cluster|addslotsrange cluster|bumpepoch cluster|count-failure-reports cluster|delslots \
    cluster|delslotsrange cluster|failover cluster|flushslots cluster|forget cluster|meet cluster|replicas \
    cluster|replicate cluster|reset cluster|saveconfig cluster|set-config-epoch cluster|setslot cluster|slaves \
    config|get config|resetstat config|rewrite config|set debug failover lastsave latency|doctor latency|graph \
    latency|histogram latency|history latency|latest latency|reset module module|list module|load module|loadex \
    module|unload monitor pfdebug pfselftest psync replconf replicaof role save shutdown slaveof slowlog|get \
    slowlog|len slowlog|reset sync \
    hc.events hc.verify";

/// Commands that can do harm without being for administrators alone.
const DANGEROUS: &str = "flushall flushdb info keys migrate restore restore-asking sort sort_ro swapdb";

/// Commands that write in Redis and are refused here.
const REFUSED_WRITES: &str = "migrate swapdb";

/// Commands that may hold their connection until something happens, but for those that wait for a key.
const WAITING: &str = "wait waitaof";

/// Commands that write something else than keys.
const OTHER_WRITES: &str = "function|delete function|flush function|load function|restore";

fn is_in(list: &str, name: &str) -> bool {
    list.split_whitespace().any(|word| word == name)
}

/// A set of categories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Categories(u32);

impl Categories {
    /// The category of that name, whatever its case.
    pub fn named(name: &[u8]) -> Option<Categories> {
        let at = CATEGORIES.iter().position(|known| known.as_bytes().eq_ignore_ascii_case(name))?;
        Some(Categories(1 << at))
    }

    pub fn has(self, other: Categories) -> bool {
        self.0 & other.0 != 0
    }

    /// In the order of ACL CAT.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        CATEGORIES.iter().enumerate().filter(move |(at, _)| self.0 & (1 << at) != 0).map(|(_, name)| *name)
    }

    fn add(&mut self, name: &str) {
        self.0 |= Categories::named(name.as_bytes()).map_or(0, |one| one.0);
    }
}

fn derive_categories(name: &str, command: &Command) -> Categories {
    let mut all = Categories::default();
    let admin = is_in(ADMIN, name);
    all.add(if is_in(FAST, name) { "fast" } else { "slow" });
    for (told, category) in [
        (command.is_read(), "read"),
        (command.is_write() || is_in(REFUSED_WRITES, name) || is_in(OTHER_WRITES, name), "write"),
        (admin, "admin"),
        (admin || is_in(DANGEROUS, name), "dangerous"),
        (command.blocks.is_some() || is_in(WAITING, name), "blocking"),
    ] {
        if told {
            all.add(category);
        }
    }
    let beside = BESIDE_THEIR_FAMILY.iter().find(|(names, _)| is_in(names, name));
    match (beside, command.run) {
        (Some((_, own)), _) => own.iter().for_each(|category| all.add(category)),
        // In Redis a container alone belongs nowhere.
        (None, Run::Container) => {}
        (None, _) => {
            let family = command.spec.family;
            all.add(FAMILIES.iter().find(|(ours, _)| *ours == family).map_or(family, |(_, redis)| redis));
        }
    }
    all
}

/// What a command does with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeyAccess {
    pub read: bool,
    pub write: bool,
}

/// Of the first key, and of those behind it.
#[derive(Clone, Copy)]
struct Accesses(KeyAccess, KeyAccess);

impl Accesses {
    /// Which permissions stand behind the words of COMMAND INFO.
    fn of((first, rest): (Flags, Flags)) -> Accesses {
        let access = |flags: Flags| KeyAccess {
            read: flags.contains(&"access"),
            write: ["insert", "delete", "update"].iter().any(|flag| flags.contains(flag)),
        };
        Accesses(access(first), access(rest))
    }
}

struct Known {
    categories: Categories,
    accesses: Accesses,
}

static KNOWN: LazyLock<Vec<Known>> = LazyLock::new(|| {
    let one = |(_, name, command): (Ordinal, &str, &Command)| Known {
        categories: derive_categories(name, command),
        accesses: Accesses::of(key_flags::of(name, command)),
    };
    ordinal::numbered().map(one).collect()
});

/// The categories of a command.
pub fn categories(command: &'static Command) -> Categories {
    KNOWN[ordinal(command).to_index()].categories
}

/// The keys of a request, each with what happens to it.
pub fn keys<'a>(command: &'static Command, args: &'a Args) -> impl Iterator<Item = (&'a Bytes, KeyAccess)> + use<'a> {
    let number = ordinal(command);
    let Accesses(first, rest) = match command.spec.name {
        // Only its options say whether it shows what was there.
        "set" => Accesses::of(key_flags::of_call(ordinal::name(number), command, args)),
        _ => KNOWN[number.to_index()].accesses,
    };
    super::keys(command, args).enumerate().map(move |(at, key)| (key, if at == 0 { first } else { rest }))
}

/// The channels of a request, and whether they are patterns. To leave a channel needs no permission.
pub fn channels<'a>(command: &Command, args: &'a Args) -> (&'a [Bytes], bool) {
    let found = match command.spec.name {
        "publish" | "spublish" => args.get(1..2),
        "subscribe" | "ssubscribe" | "psubscribe" => args.get(1..),
        _ => None,
    };
    (found.unwrap_or(&[]), command.spec.name == "psubscribe")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> (&'static Command, Args) {
        let args: Args = line.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
        (super::super::lookup(&args).expect(line), args)
    }

    fn names(line: &str) -> String {
        categories(of(line).0).names().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn categories_are_those_of_redis() {
        for (line, expected) in [
            ("get k", "read string fast"),
            ("set k v", "write string slow"),
            ("del k", "keyspace write slow"),
            ("keys *", "keyspace read slow dangerous"),
            ("config get x", "admin slow dangerous"),
            ("client id", "slow connection"),
            ("client kill id 1", "admin slow dangerous connection"),
            ("ping", "fast connection"),
            ("info", "slow dangerous"),
            ("time", "fast"),
            ("memory usage k", "read slow"),
            ("object encoding k", "keyspace read slow"),
        ] {
            assert_eq!(names(line), expected, "{line}");
        }
    }

    #[test]
    fn keys_carry_what_happens_to_them() {
        for (line, expected) in [
            ("get k", "r"),
            ("exists a b", "- -"),
            ("set k v", "w"),
            ("set k v GET", "rw"),
            ("set GET GET", "w"),
            ("incr k", "rw"),
            ("rename a b", "rw w"),
            ("mset a 1 b 2", "w w"),
        ] {
            let (command, args) = of(line);
            let word = |access: KeyAccess| match (access.read, access.write) {
                (true, true) => "rw",
                (true, false) => "r",
                (false, true) => "w",
                (false, false) => "-",
            };
            let found: Vec<&str> = keys(command, &args).map(|(_, access)| word(access)).collect();
            assert_eq!(found.join(" "), expected, "{line}");
        }
    }

    #[test]
    fn names_in_the_lists_stand_there_once() {
        for list in [FAST, ADMIN, DANGEROUS, WAITING] {
            let mut words: Vec<&str> = list.split_whitespace().collect();
            words.sort_unstable();
            assert!(words.windows(2).all(|pair| pair[0] != pair[1]), "{list}");
        }
    }
}
