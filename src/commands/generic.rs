//! Keys of any type: existence, deadlines, names, scans, and the keyspace as a whole.
//!
//! Texts and edge cases are Redis 7.2's. Time is the group clock: what is left of a ttl is counted by it, and a
//! relative one becomes a deadline in apply. Patterns are in `glob.rs`. More than 800 lines: some thirty commands.

use super::glob;
use super::help::{help, of_lines};
use super::lifecycle::{MallocStats, MemoryDoctor, MemoryStats};
use super::syntax::{cursor, invalid_expire, is, syntax_error, want_integer};
use super::{Command, Keys, Merge, ReadCommand, Scope, Spec, WriteCommand, container, node, quoting, read, write};
use crate::resp::{Args, Reply};
use crate::state::events::Class;
use crate::state::{EntryRef, Keyspace, Value, View};
use crate::types::{Millis, Stamp};
use bytes::Bytes;

/// What most commands here say of themselves.
pub(super) const BASE: Spec = Spec {
    name: "",
    arity: 2,
    keys: Keys::ONE,
    scope: Scope::OneSlot,
    family: "generic",
    syntax: "",
    summary: "",
    complexity: "O(1)",
    since: "1.0.0",
    denyoom: false,
};

/// Of commands that count something over the keys they are given.
const COUNT: Spec = Spec {
    arity: -2,
    keys: Keys::ALL,
    scope: Scope::Split(Merge::Sum),
    complexity: "O(N), N the number of keys",
    ..BASE
};

fn key_of(entry: EntryRef<'_>) -> Reply {
    Reply::Bulk(Bytes::copy_from_slice(entry.key()))
}

/// Removes a key and says so; whether it was there.
pub(super) fn delete(keyspace: &mut Keyspace, key: &[u8]) -> bool {
    let removed = keyspace.remove(key);
    if removed {
        keyspace.notify(Class::Generic, "del", key);
    }
    removed
}

/// Puts a value in the place of whatever there is, as something new even if there is something: so Redis says it of
/// commands that delete before they write.
pub(super) fn put_anew(keyspace: &mut Keyspace, key: &[u8], value: Value, deadline: Option<Millis>) {
    if keyspace.contains(key) {
        keyspace.notify(Class::New, "new", key);
    }
    keyspace.set(key, value, deadline);
}

/// Gives a key that is there another deadline and says so. One that is past already deletes the key.
pub(super) fn set_deadline(keyspace: &mut Keyspace, key: &[u8], deadline: Millis) {
    if deadline <= keyspace.clock() {
        delete(keyspace, key);
    } else {
        keyspace.set_deadline(key, Some(deadline));
        keyspace.notify(Class::Generic, "expire", key);
    }
}

/// Takes the deadline off a key and says so; whether it had one.
pub(super) fn persist(keyspace: &mut Keyspace, key: &[u8]) -> bool {
    let mortal = keyspace.get(key).is_some_and(|entry| entry.deadline().is_some());
    let persists = mortal && keyspace.set_deadline(key, None);
    if persists {
        keyspace.notify(Class::Generic, "persist", key);
    }
    persists
}

// -- Existence

struct Del(Args);

impl WriteCommand for Del {
    const SPEC: Spec = Spec {
        name: "del",
        syntax: "DEL key [key ...]",
        summary: "Deletes keys; returns how many there were.",
        ..COUNT
    };

    fn parse(args: &Args) -> Result<Del, Reply> {
        Ok(Del(args[1..].into()))
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        Reply::count(self.0.iter().filter(|key| delete(keyspace, key)).count())
    }
}

struct Unlink(Del);

impl WriteCommand for Unlink {
    const SPEC: Spec = Spec {
        name: "unlink",
        syntax: "UNLINK key [key ...]",
        summary: "Deletes keys, as DEL does.",
        since: "4.0.0",
        ..COUNT
    };

    fn parse(args: &Args) -> Result<Unlink, Reply> {
        Del::parse(args).map(Unlink)
    }

    fn apply(self, keyspace: &mut Keyspace, stamp: &Stamp) -> Reply {
        self.0.apply(keyspace, stamp)
    }
}

struct Exists(Args);

impl ReadCommand for Exists {
    const SPEC: Spec = Spec {
        name: "exists",
        syntax: "EXISTS key [key ...]",
        summary: "Returns how many of the keys exist; one given twice counts twice.",
        ..COUNT
    };

    fn parse(args: &Args) -> Result<Exists, Reply> {
        Ok(Exists(args[1..].into()))
    }

    fn read(self, view: &View<'_>) -> Reply {
        Reply::count(self.0.iter().filter(|key| view.contains(key)).count())
    }
}

struct MightContain(Args);

impl ReadCommand for MightContain {
    const SPEC: Spec = Spec {
        name: "hc.mightcontain",
        syntax: "HC.MIGHTCONTAIN key [key ...]",
        summary: "Tells of each key whether it may exist (1) or surely does not (0), by the filters alone.",
        since: "hc-0.1",
        scope: Scope::Split(Merge::PerKey),
        ..COUNT
    };

    fn parse(args: &Args) -> Result<MightContain, Reply> {
        Ok(MightContain(args[1..].into()))
    }

    fn read(self, view: &View<'_>) -> Reply {
        Reply::Array(self.0.iter().map(|key| Reply::int(view.might_contain(key))).collect())
    }
}

struct Touch(Exists);

impl ReadCommand for Touch {
    const SPEC: Spec = Spec {
        name: "touch",
        syntax: "TOUCH key [key ...]",
        summary: "Returns how many of the keys exist, and counts as an access to them.",
        since: "3.2.1",
        ..COUNT
    };

    fn parse(args: &Args) -> Result<Touch, Reply> {
        Exists::parse(args).map(Touch)
    }

    fn read(self, view: &View<'_>) -> Reply {
        self.0.read(view)
    }
}

struct Type(Bytes);

impl ReadCommand for Type {
    const SPEC: Spec =
        Spec { name: "type", syntax: "TYPE key", summary: "Returns the type of a key's value, or none.", ..BASE };

    fn parse(args: &Args) -> Result<Type, Reply> {
        Ok(Type(args[1].clone()))
    }

    fn read(self, view: &View<'_>) -> Reply {
        Reply::status(view.get(&self.0).map_or("none", |entry| entry.value().type_name()))
    }
}

// -- Deadlines

/// EXPIRE, PEXPIRE, EXPIREAT and PEXPIREAT.
struct Expire {
    key: Bytes,
    /// Milliseconds, of any sign.
    time: i64,
    absolute: bool,
    when: When,
    command: &'static str,
}

/// NX, XX, GT and LT as they were given.
#[derive(Default)]
struct When {
    nx: bool,
    xx: bool,
    gt: bool,
    lt: bool,
}

impl When {
    fn parse(words: &[Bytes]) -> Result<When, Reply> {
        let mut when = When::default();
        for word in words {
            let option = match word {
                word if is(word, "nx") => &mut when.nx,
                word if is(word, "xx") => &mut when.xx,
                word if is(word, "gt") => &mut when.gt,
                word if is(word, "lt") => &mut when.lt,
                word => return Err(quoting(&["ERR Unsupported option ", ""], &[word])),
            };
            *option = true;
        }
        if when.nx && (when.xx || when.gt || when.lt) {
            return Err(Reply::error("ERR NX and XX, GT or LT options at the same time are not compatible"));
        }
        if when.gt && when.lt {
            return Err(Reply::error("ERR GT and LT options at the same time are not compatible"));
        }
        Ok(when)
    }

    /// A key without a deadline counts as one that lives for ever.
    fn allows(&self, old: Option<Millis>, new: i64) -> bool {
        let later = old.is_some_and(|old| new > old as i64);
        let earlier = old.is_none_or(|old| new < old as i64);
        !(self.nx && old.is_some() || self.xx && old.is_none() || self.gt && !later || self.lt && !earlier)
    }
}

impl Expire {
    fn parse(args: &Args, scale: i64, absolute: bool, command: &'static str) -> Result<Expire, Reply> {
        let when = When::parse(&args[3..])?;
        let time = want_integer(&args[2])?.checked_mul(scale).ok_or_else(|| invalid_expire(command))?;
        Ok(Expire { key: args[1].clone(), time, absolute, when, command })
    }

    fn run(self, keyspace: &mut Keyspace) -> Reply {
        let base = if self.absolute { 0 } else { keyspace.clock() as i64 };
        let Some(deadline) = base.checked_add(self.time) else { return invalid_expire(self.command) };
        let Some(entry) = keyspace.get(&self.key) else { return Reply::Int(0) };
        if !self.when.allows(entry.deadline(), deadline) {
            return Reply::Int(0);
        }
        // Before the beginning of time is long past.
        set_deadline(keyspace, &self.key, Millis::try_from(deadline).unwrap_or(0));
        Reply::Int(1)
    }
}

/// Of the commands that set a deadline.
const EXPIRE: Spec = Spec { arity: -3, ..BASE };

struct ExpireSeconds(Expire);

impl WriteCommand for ExpireSeconds {
    const SPEC: Spec = Spec {
        name: "expire",
        syntax: "EXPIRE key seconds [NX | XX | GT | LT]",
        summary: "Sets the time to live of a key in seconds.",
        ..EXPIRE
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Expire::parse(args, 1000, false, "expire").map(ExpireSeconds)
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        self.0.run(keyspace)
    }
}

struct ExpireMillis(Expire);

impl WriteCommand for ExpireMillis {
    const SPEC: Spec = Spec {
        name: "pexpire",
        syntax: "PEXPIRE key milliseconds [NX | XX | GT | LT]",
        summary: "Sets the time to live of a key in milliseconds.",
        since: "2.6.0",
        ..EXPIRE
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Expire::parse(args, 1, false, "pexpire").map(ExpireMillis)
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        self.0.run(keyspace)
    }
}

struct ExpireAtSeconds(Expire);

impl WriteCommand for ExpireAtSeconds {
    const SPEC: Spec = Spec {
        name: "expireat",
        syntax: "EXPIREAT key unix-time-seconds [NX | XX | GT | LT]",
        summary: "Sets the time at which a key dies.",
        since: "1.2.0",
        ..EXPIRE
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Expire::parse(args, 1000, true, "expireat").map(ExpireAtSeconds)
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        self.0.run(keyspace)
    }
}

struct ExpireAtMillis(Expire);

impl WriteCommand for ExpireAtMillis {
    const SPEC: Spec = Spec {
        name: "pexpireat",
        syntax: "PEXPIREAT key unix-time-milliseconds [NX | XX | GT | LT]",
        summary: "Sets the time at which a key dies, in milliseconds.",
        since: "2.6.0",
        ..EXPIRE
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Expire::parse(args, 1, true, "pexpireat").map(ExpireAtMillis)
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        self.0.run(keyspace)
    }
}

struct Persist(Bytes);

impl WriteCommand for Persist {
    const SPEC: Spec = Spec {
        name: "persist",
        syntax: "PERSIST key",
        summary: "Takes the deadline off a key; returns whether it had one.",
        since: "2.2.0",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Persist, Reply> {
        Ok(Persist(args[1].clone()))
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        Reply::int(persist(keyspace, &self.0))
    }
}

/// The reply of TTL and its kin: -2 without the key, -1 without a deadline, else what `shown` makes of it.
fn time_reply(view: &View<'_>, key: &[u8], absolute: bool, seconds: bool) -> Reply {
    let Some(entry) = view.get(key) else { return Reply::Int(-2) };
    let ms = if absolute { entry.deadline() } else { view.remaining(&entry) };
    Reply::Int(match ms {
        None => -1,
        Some(ms) if seconds => (ms.saturating_add(500) / 1000) as i64,
        Some(ms) => ms as i64,
    })
}

struct Ttl(Bytes);

impl ReadCommand for Ttl {
    const SPEC: Spec = Spec {
        name: "ttl",
        syntax: "TTL key",
        summary: "Returns the seconds a key has to live, by the group clock.",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Ttl, Reply> {
        Ok(Ttl(args[1].clone()))
    }

    fn read(self, view: &View<'_>) -> Reply {
        time_reply(view, &self.0, false, true)
    }
}

struct Pttl(Bytes);

impl ReadCommand for Pttl {
    const SPEC: Spec = Spec {
        name: "pttl",
        syntax: "PTTL key",
        summary: "Returns the milliseconds a key has to live, by the group clock.",
        since: "2.6.0",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Pttl, Reply> {
        Ok(Pttl(args[1].clone()))
    }

    fn read(self, view: &View<'_>) -> Reply {
        time_reply(view, &self.0, false, false)
    }
}

struct ExpireTime(Bytes);

impl ReadCommand for ExpireTime {
    const SPEC: Spec = Spec {
        name: "expiretime",
        syntax: "EXPIRETIME key",
        summary: "Returns the Unix time in seconds at which a key dies.",
        since: "7.0.0",
        ..BASE
    };

    fn parse(args: &Args) -> Result<ExpireTime, Reply> {
        Ok(ExpireTime(args[1].clone()))
    }

    fn read(self, view: &View<'_>) -> Reply {
        time_reply(view, &self.0, true, true)
    }
}

struct PexpireTime(Bytes);

impl ReadCommand for PexpireTime {
    const SPEC: Spec = Spec {
        name: "pexpiretime",
        syntax: "PEXPIRETIME key",
        summary: "Returns the Unix time in milliseconds at which a key dies.",
        since: "7.0.0",
        ..BASE
    };

    fn parse(args: &Args) -> Result<PexpireTime, Reply> {
        Ok(PexpireTime(args[1].clone()))
    }

    fn read(self, view: &View<'_>) -> Reply {
        time_reply(view, &self.0, true, false)
    }
}

// -- Names

/// Moves what is under one name to another, deadline and all; false if there is nothing.
fn rename(keyspace: &mut Keyspace, from: &[u8], to: &[u8]) -> bool {
    if from == to {
        return keyspace.contains(from);
    }
    let Some(entry) = keyspace.take(from) else { return false };
    let deadline = entry.deadline();
    put_anew(keyspace, to, entry.into_value(), deadline);
    keyspace.notify(Class::Generic, "rename_from", from);
    keyspace.notify(Class::Generic, "rename_to", to);
    true
}

/// Of RENAME and RENAMENX.
const RENAME: Spec = Spec { arity: 3, keys: Keys::Range { first: 1, last: 2, step: 1 }, ..BASE };

fn no_such_key() -> Reply {
    Reply::error("ERR no such key")
}

struct Rename {
    from: Bytes,
    to: Bytes,
}

impl WriteCommand for Rename {
    const SPEC: Spec = Spec {
        name: "rename",
        syntax: "RENAME key newkey",
        summary: "Gives a key another name, whatever had that name before.",
        ..RENAME
    };

    fn parse(args: &Args) -> Result<Rename, Reply> {
        Ok(Rename { from: args[1].clone(), to: args[2].clone() })
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        if rename(keyspace, &self.from, &self.to) { Reply::OK } else { no_such_key() }
    }
}

struct RenameNx(Rename);

impl WriteCommand for RenameNx {
    const SPEC: Spec = Spec {
        name: "renamenx",
        syntax: "RENAMENX key newkey",
        summary: "Gives a key another name if no key has that name.",
        ..RENAME
    };

    fn parse(args: &Args) -> Result<RenameNx, Reply> {
        Rename::parse(args).map(RenameNx)
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        let Rename { from, to } = self.0;
        if !keyspace.contains(&from) {
            return no_such_key();
        }
        Reply::int(!keyspace.contains(&to) && rename(keyspace, &from, &to))
    }
}

// -- Scans

struct KeysOf(Bytes);

impl ReadCommand for KeysOf {
    const SPEC: Spec = Spec {
        name: "keys",
        keys: Keys::None,
        scope: Scope::AllGroups(Merge::Concat),
        syntax: "KEYS pattern",
        summary: "Returns all keys that match a pattern.",
        complexity: "O(N), N the number of keys there are",
        ..BASE
    };

    fn parse(args: &Args) -> Result<KeysOf, Reply> {
        Ok(KeysOf(args[1].clone()))
    }

    fn read(self, view: &View<'_>) -> Reply {
        Reply::Array(view.entries().filter(|entry| glob::matches(&self.0, entry.key())).map(key_of).collect())
    }
}

struct Scan {
    cursor: u64,
    pattern: Option<Bytes>,
    count: usize,
    kind: Option<Bytes>,
}

/// Keys looked at in one step of a SCAN that names no COUNT.
const SCAN_COUNT: usize = 10;

impl ReadCommand for Scan {
    const SPEC: Spec = Spec {
        name: "scan",
        arity: -2,
        keys: Keys::None,
        scope: Scope::Cursor,
        syntax: "SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]",
        summary: "Goes through all keys in steps; each step returns the cursor of the next and some keys.",
        complexity: "O(1) a step, O(N) for all, N the number of keys there are",
        since: "2.8.0",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Scan, Reply> {
        let cursor = cursor(&args[1]).ok_or_else(|| Reply::error("ERR invalid cursor"))?;
        let mut scan = Scan { cursor, pattern: None, count: SCAN_COUNT, kind: None };
        for option in args[2..].chunks(2) {
            match option {
                [word, count] if is(word, "count") => {
                    scan.count = usize::try_from(want_integer(count)?).map_err(|_| syntax_error())?;
                    if scan.count == 0 {
                        return Err(syntax_error());
                    }
                }
                [word, pattern] if is(word, "match") => scan.pattern = Some(pattern.clone()),
                [word, kind] if is(word, "type") => scan.kind = Some(kind.clone()),
                _ => return Err(syntax_error()),
            }
        }
        Ok(scan)
    }

    fn read(self, view: &View<'_>) -> Reply {
        let (entries, next) = view.scan(self.cursor, self.count);
        let wanted = |entry: &EntryRef<'_>| {
            self.pattern.as_ref().is_none_or(|pattern| glob::matches(pattern, entry.key()))
                && self.kind.as_ref().is_none_or(|kind| is(kind, entry.value().type_name()))
        };
        let keys = entries.into_iter().filter(wanted).map(key_of).collect();
        Reply::Array(vec![Reply::bulk(next.to_string()), Reply::Array(keys)])
    }
}

struct RandomKey;

impl ReadCommand for RandomKey {
    const SPEC: Spec = Spec {
        name: "randomkey",
        arity: 1,
        keys: Keys::None,
        scope: Scope::AllGroups(Merge::AnyNonNil),
        syntax: "RANDOMKEY",
        summary: "Returns a key chosen at random, nil if there is none.",
        ..BASE
    };

    fn parse(_: &Args) -> Result<RandomKey, Reply> {
        Ok(RandomKey)
    }

    fn read(self, view: &View<'_>) -> Reply {
        view.random().map_or(Reply::Nil, key_of)
    }
}

// -- The keyspace as a whole

struct DbSize;

impl ReadCommand for DbSize {
    const SPEC: Spec = Spec {
        name: "dbsize",
        arity: 1,
        keys: Keys::None,
        scope: Scope::AllGroups(Merge::Sum),
        family: "server",
        syntax: "DBSIZE",
        summary: "Returns the number of keys, dead ones that wait for their sweep included.",
        ..BASE
    };

    fn parse(_: &Args) -> Result<DbSize, Reply> {
        Ok(DbSize)
    }

    fn read(self, view: &View<'_>) -> Reply {
        Reply::Int(view.len() as i64)
    }
}

struct FlushAll;

impl WriteCommand for FlushAll {
    const SPEC: Spec = Spec {
        name: "flushall",
        arity: -1,
        keys: Keys::None,
        scope: Scope::AllGroups(Merge::Same),
        family: "server",
        syntax: "FLUSHALL [ASYNC | SYNC]",
        summary: "Removes all keys.",
        complexity: "O(N), N the number of keys there are",
        ..BASE
    };

    fn parse(args: &Args) -> Result<FlushAll, Reply> {
        match &args[1..] {
            [] => Ok(FlushAll),
            [mode] if is(mode, "async") || is(mode, "sync") => Ok(FlushAll),
            _ => Err(syntax_error()),
        }
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        keyspace.clear();
        Reply::OK
    }
}

struct FlushDb(FlushAll);

impl WriteCommand for FlushDb {
    const SPEC: Spec = Spec {
        name: "flushdb",
        syntax: "FLUSHDB [ASYNC | SYNC]",
        summary: "Removes all keys: there is one database.",
        ..FlushAll::SPEC
    };

    fn parse(args: &Args) -> Result<FlushDb, Reply> {
        FlushAll::parse(args).map(FlushDb)
    }

    fn apply(self, keyspace: &mut Keyspace, stamp: &Stamp) -> Reply {
        self.0.apply(keyspace, stamp)
    }
}

// -- OBJECT and MEMORY

/// Of their subcommands that name a key.
const INSPECT: Spec = Spec { arity: 3, keys: Keys::Range { first: 2, last: 2, step: 1 }, ..BASE };

struct ObjectEncoding(Bytes);

impl ReadCommand for ObjectEncoding {
    const SPEC: Spec = Spec {
        name: "encoding",
        syntax: "OBJECT ENCODING key",
        summary: "Returns how Redis would keep the key's value.",
        since: "2.2.3",
        ..INSPECT
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(ObjectEncoding(args[2].clone()))
    }

    fn read(self, view: &View<'_>) -> Reply {
        view.look_at(&self.0).map_or(Reply::Nil, |entry| Reply::bulk(entry.value().encoding()))
    }
}

struct ObjectFreq(Bytes);

impl ReadCommand for ObjectFreq {
    const SPEC: Spec = Spec {
        name: "freq",
        syntax: "OBJECT FREQ key",
        summary: "Refused: how often a key is read is not part of the replicated state.",
        since: "4.0.0",
        ..INSPECT
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(ObjectFreq(args[2].clone()))
    }

    fn read(self, view: &View<'_>) -> Reply {
        const UNTRACKED: &str = "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when switching between policies at runtime LRU and LFU data will take some time to adjust.";
        view.look_at(&self.0).map_or(Reply::Nil, |_| Reply::error(UNTRACKED))
    }
}

struct ObjectIdletime(Bytes);

impl ReadCommand for ObjectIdletime {
    const SPEC: Spec = Spec {
        name: "idletime",
        syntax: "OBJECT IDLETIME key",
        summary: "Returns the seconds since the key was last written, by the group clock; reads leave no trace in the state.",
        since: "2.2.3",
        ..INSPECT
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(ObjectIdletime(args[2].clone()))
    }

    fn read(self, view: &View<'_>) -> Reply {
        let idle = |entry: EntryRef<'_>| Reply::Int((view.age(&entry) / 1000) as i64);
        view.look_at(&self.0).map_or(Reply::Nil, idle)
    }
}

struct ObjectRefcount(Bytes);

impl ReadCommand for ObjectRefcount {
    const SPEC: Spec = Spec {
        name: "refcount",
        syntax: "OBJECT REFCOUNT key",
        summary: "Returns 1: values are not shared between keys.",
        since: "2.2.3",
        ..INSPECT
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(ObjectRefcount(args[2].clone()))
    }

    fn read(self, view: &View<'_>) -> Reply {
        view.look_at(&self.0).map_or(Reply::Nil, |_| Reply::Int(1))
    }
}

const OBJECT_HELP: Spec = Spec { syntax: "OBJECT HELP", summary: "Says what OBJECT can do.", since: "6.2.0", ..BASE };

const OBJECT_LINES: &[&str] = &[
    "OBJECT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "ENCODING <key>",
    "    Return the kind of internal representation used in order to store the value",
    "    associated with a <key>.",
    "FREQ <key>",
    "    Return the access frequency index of the <key>. The returned integer is",
    "    proportional to the logarithm of the recent access frequency of the key.",
    "IDLETIME <key>",
    "    Return the idle time of the <key>, that is the approximated number of",
    "    seconds elapsed since the last access to the key.",
    "REFCOUNT <key>",
    "    Return the number of references of the value associated with the specified",
    "    <key>.",
    "HELP",
    "    Prints this help.",
];

static OBJECT: &[Command] = &[
    read::<ObjectEncoding>(),
    read::<ObjectFreq>(),
    help(OBJECT_HELP, |_, _| of_lines(OBJECT_LINES)),
    read::<ObjectIdletime>(),
    read::<ObjectRefcount>(),
];

const OBJECT_SPEC: Spec = Spec {
    name: "object",
    arity: -2,
    keys: Keys::None,
    scope: Scope::Local,
    syntax: "OBJECT ENCODING | FREQ | HELP | IDLETIME | REFCOUNT",
    summary: "Tells about a key's value as an object.",
    complexity: "Depends on the subcommand",
    since: "2.2.3",
    ..BASE
};

struct MemoryUsage(Bytes);

impl ReadCommand for MemoryUsage {
    const SPEC: Spec = Spec {
        name: "usage",
        arity: -3,
        family: "server",
        syntax: "MEMORY USAGE key [SAMPLES count]",
        summary: "Returns the bytes a key counts for in the account of memory, which is the same on all replicas.",
        since: "4.0.0",
        ..INSPECT
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        for option in args[3..].chunks(2) {
            match option {
                [word, count] if is(word, "samples") && want_integer(count)? >= 0 => {}
                _ => return Err(syntax_error()),
            }
        }
        Ok(MemoryUsage(args[2].clone()))
    }

    fn read(self, view: &View<'_>) -> Reply {
        view.look_at(&self.0).map_or(Reply::Nil, |entry| Reply::Int(entry.cost() as i64))
    }
}

const MEMORY_HELP: Spec = Spec {
    family: "server",
    syntax: "MEMORY HELP",
    summary: "Says what MEMORY can do.",
    since: "4.0.0",
    ..OBJECT_HELP
};

const MEMORY_LINES: &[&str] = &[
    "MEMORY <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "DOCTOR",
    "    Return memory problems reports.",
    "MALLOC-STATS",
    "    Return internal statistics report from the memory allocator.",
    "STATS",
    "    Return information about the memory usage of the server.",
    "USAGE <key> [SAMPLES <count>]",
    "    Return memory in bytes used by <key> and its value. Nested values are",
    "    sampled up to <count> times (default: 5, 0 means sample all).",
    "HELP",
    "    Prints this help.",
];

static MEMORY: &[Command] = &[
    node::<MemoryDoctor>(),
    help(MEMORY_HELP, |_, _| of_lines(MEMORY_LINES)),
    node::<MallocStats>(),
    node::<MemoryStats>(),
    read::<MemoryUsage>(),
];

const MEMORY_SPEC: Spec = Spec {
    name: "memory",
    family: "server",
    syntax: "MEMORY DOCTOR | HELP | MALLOC-STATS | STATS | USAGE",
    summary: "Tells what keys cost.",
    since: "4.0.0",
    ..OBJECT_SPEC
};

/// The family.
pub static GENERIC: &[Command] = &[
    read::<DbSize>(),
    write::<Del>(),
    read::<Exists>(),
    read::<MightContain>(),
    write::<ExpireSeconds>(),
    write::<ExpireAtSeconds>(),
    read::<ExpireTime>(),
    write::<FlushAll>(),
    write::<FlushDb>(),
    read::<KeysOf>(),
    container(MEMORY_SPEC, MEMORY),
    container(OBJECT_SPEC, OBJECT),
    write::<Persist>(),
    write::<ExpireMillis>(),
    write::<ExpireAtMillis>(),
    read::<PexpireTime>(),
    read::<Pttl>(),
    read::<RandomKey>(),
    write::<Rename>(),
    write::<RenameNx>(),
    read::<Scan>(),
    read::<Touch>(),
    read::<Ttl>(),
    read::<Type>(),
    write::<Unlink>(),
];
