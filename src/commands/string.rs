//! Strings: values of bytes, counters, and the conditional forms of SET and DEL.
//!
//! Options are taken apart in `options`, changes of a part stand in `part`, counters in `number`; the last lines are the table.
//! Texts and edge cases are Redis 7.2's; SET's IF conditions, DELEX, DIGEST and MSETEX are Redis 8.4's, DELIFEQ is
//! Valkey 9's. Time is the group clock: a ttl stays relative until apply makes it a deadline.

mod number;
mod options;
mod part;

use self::number::{Decr, Decrby, Incr, Incrby, Incrbyfloat};
use self::options::{Condition, Expiry, Known, Options};
use self::part::{Append, Setrange};
use super::generic;
use super::syntax::{either, want_integer};
use super::text::{bulk, bulk_or_nil, text_of};
use super::{Command, Keys, Merge, ReadCommand, Scope, Spec, WriteCommand, read, write, wrong_arity};
use crate::resp::{Args, Reply, integer};
use crate::state::events::Class;
use crate::state::{Entry, Keyspace, TextRef, View};
use crate::types::{Millis, Stamp};
use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

/// Writes a string and says so.
fn set_text(keyspace: &mut Keyspace, key: &[u8], text: &[u8], deadline: Option<Millis>, dated: bool) {
    keyspace.set_text(key, text, deadline);
    keyspace.notify(Class::String, "set", key);
    if dated {
        keyspace.notify(Class::Generic, "expire", key);
        // What is dead at once Redis keeps until somebody looks; here it is not stored at all.
        if deadline.is_some_and(|deadline| deadline <= keyspace.clock()) {
            keyspace.notify(Class::Expired, "expired", key);
        }
    }
}

/// What most commands here say of themselves.
const BASE: Spec = Spec {
    name: "",
    arity: 2,
    keys: Keys::ONE,
    scope: Scope::OneSlot,
    family: "string",
    syntax: "",
    summary: "",
    complexity: "O(1)",
    since: "1.0.0",
    denyoom: false,
};

const PAIRS: Keys = Keys::Range { first: 1, last: -1, step: 2 };

// -- GET and its kin

struct Get(Bytes);

impl ReadCommand for Get {
    const SPEC: Spec = Spec { name: "get", syntax: "GET key", summary: "Returns the string value of a key.", ..BASE };

    fn parse(args: &Args) -> Result<Get, Reply> {
        Ok(Get(args[1].clone()))
    }

    fn read(self, view: &View<'_>) -> Reply {
        bulk_or_nil(view.get(&self.0))
    }
}

struct Mget(Args);

impl ReadCommand for Mget {
    const SPEC: Spec = Spec {
        name: "mget",
        arity: -2,
        keys: Keys::ALL,
        scope: Scope::Split(Merge::PerKey),
        syntax: "MGET key [key ...]",
        summary: "Returns the string values of several keys; nil for those that hold none.",
        complexity: "O(N), N the number of keys",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Mget, Reply> {
        Ok(Mget(args[1..].into()))
    }

    fn read(self, view: &View<'_>) -> Reply {
        let values = self.0.iter().map(|key| view.get(key).and_then(|entry| entry.value().as_text()));
        Reply::Array(values.map(|text| text.map_or(Reply::Nil, bulk)).collect())
    }
}

struct Strlen(Bytes);

impl ReadCommand for Strlen {
    const SPEC: Spec = Spec {
        name: "strlen",
        syntax: "STRLEN key",
        summary: "Returns the length of a string value, 0 if there is none.",
        since: "2.2.0",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Strlen, Reply> {
        Ok(Strlen(args[1].clone()))
    }

    fn read(self, view: &View<'_>) -> Reply {
        either(text_of(view.get(&self.0)).map(|text| Reply::count(text.map_or(0, |text| text.len()))))
    }
}

struct Digest(Bytes);

impl ReadCommand for Digest {
    const SPEC: Spec = Spec {
        name: "digest",
        syntax: "DIGEST key",
        summary: "Returns the XXH3 hash of a string value in hexadecimal, for IFDEQ and IFDNE.",
        complexity: "O(N), N the length of the value",
        since: "8.4.0",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Digest, Reply> {
        Ok(Digest(args[1].clone()))
    }

    fn read(self, view: &View<'_>) -> Reply {
        let shown = |text: TextRef<'_>| Reply::bulk(format!("{:016x}", xxh3_64(&text)));
        either(text_of(view.get(&self.0)).map(|text| text.map_or(Reply::Nil, shown)))
    }
}

/// GETRANGE and SUBSTR.
struct Range {
    key: Bytes,
    start: i64,
    end: i64,
}

impl Range {
    fn parse(args: &Args) -> Result<Range, Reply> {
        Ok(Range { key: args[1].clone(), start: want_integer(&args[2])?, end: want_integer(&args[3])? })
    }

    fn read(self, view: &View<'_>) -> Reply {
        match text_of(view.get(&self.key)) {
            Ok(Some(text)) => Reply::Bulk(self.cut(&text)),
            Ok(None) => Reply::EMPTY_BULK,
            Err(reply) => reply,
        }
    }

    /// Both ends belong to it; negative ones count from the end. Only a range that is backwards as written, or
    /// begins behind the string, is empty: one wholly before the string gives the first byte, as in Redis 7.
    fn cut(&self, bytes: &[u8]) -> Bytes {
        let length = bytes.len() as i64;
        if length == 0 || (self.start < 0 && self.end < 0 && self.start > self.end) {
            return Bytes::new();
        }
        let inside = |at: i64| if at < 0 { at.saturating_add(length).max(0) } else { at };
        let (start, end) = (inside(self.start), inside(self.end).min(length - 1));
        if start > end {
            return Bytes::new();
        }
        Bytes::copy_from_slice(&bytes[start as usize..=end as usize])
    }
}

struct Getrange(Range);

impl ReadCommand for Getrange {
    const SPEC: Spec = Spec {
        name: "getrange",
        arity: 4,
        syntax: "GETRANGE key start end",
        summary: "Returns a part of a string value; both ends belong to it.",
        complexity: "O(N), N the length of the part",
        since: "2.4.0",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Getrange, Reply> {
        Range::parse(args).map(Getrange)
    }

    fn read(self, view: &View<'_>) -> Reply {
        self.0.read(view)
    }
}

struct Substr(Range);

impl ReadCommand for Substr {
    const SPEC: Spec = Spec {
        name: "substr",
        syntax: "SUBSTR key start end",
        summary: "The old name of GETRANGE.",
        since: "1.0.0",
        ..Getrange::SPEC
    };

    fn parse(args: &Args) -> Result<Substr, Reply> {
        Range::parse(args).map(Substr)
    }

    fn read(self, view: &View<'_>) -> Reply {
        self.0.read(view)
    }
}

struct Getdel(Bytes);

impl WriteCommand for Getdel {
    const SPEC: Spec = Spec {
        name: "getdel",
        syntax: "GETDEL key",
        summary: "Returns the string value of a key and deletes the key.",
        since: "6.2.0",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Getdel, Reply> {
        Ok(Getdel(args[1].clone()))
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        match text_of(keyspace.get(&self.0)) {
            Ok(Some(_)) => {
                let taken = keyspace.take(&self.0);
                keyspace.notify(Class::Generic, "del", &self.0);
                bulk_or_nil(taken.as_ref().map(Entry::as_ref))
            }
            Ok(None) => Reply::Nil,
            Err(reply) => reply,
        }
    }
}

/// A wrong number is refused whether or not there is such a key: before the log nobody knows. (Redis 7 answers nil
/// without a key.)
struct Getex {
    key: Bytes,
    /// `None`: nothing was said.
    expiry: Option<Expiry>,
}

impl WriteCommand for Getex {
    const SPEC: Spec = Spec {
        name: "getex",
        arity: -2,
        syntax: "GETEX key [EX seconds | PX milliseconds | EXAT unix-time-seconds | PXAT unix-time-milliseconds | PERSIST]",
        summary: "Returns the string value of a key and gives the key another deadline, or none.",
        since: "6.2.0",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Getex, Reply> {
        let options = Options::parse(args, 2, &Known { command: "getex", sets: false, compares: false })?;
        Ok(Getex { key: args[1].clone(), expiry: options.expiry })
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        let old = keyspace.get(&self.key);
        let reply = bulk_or_nil(old);
        let Some(expiry) = self.expiry.filter(|_| old.is_some()) else { return reply };
        match expiry.deadline(keyspace.clock(), old, "getex") {
            Err(reply) => reply,
            Ok(deadline) => {
                if matches!(reply, Reply::Bulk(_)) {
                    match deadline {
                        Some(deadline) => generic::set_deadline(keyspace, &self.key, deadline),
                        None => drop(generic::persist(keyspace, &self.key)),
                    }
                }
                reply
            }
        }
    }
}

// -- SET and its kin

struct Set {
    key: Bytes,
    value: Bytes,
    condition: Condition,
    expiry: Expiry,
    get: bool,
}

impl Set {
    fn run(self, keyspace: &mut Keyspace) -> Result<Reply, Reply> {
        // Most ask nothing of what was there.
        let asks = self.get || self.condition != Condition::Always || self.expiry == Expiry::Keep;
        let old = if asks { keyspace.get(&self.key) } else { None };
        let deadline = self.expiry.deadline(keyspace.clock(), old, "set")?;
        let shown = if self.get { Some(text_of(old)?.map_or(Reply::Nil, bulk)) } else { None };
        let holds = self.condition.holds(old)?;
        if holds {
            set_text(keyspace, &self.key, &self.value, deadline, self.expiry.dates());
        }
        Ok(shown.unwrap_or(if holds { Reply::OK } else { Reply::Nil }))
    }
}

impl WriteCommand for Set {
    const SPEC: Spec = Spec {
        name: "set",
        arity: -3,
        syntax: "SET key value [NX | XX | IFEQ value | IFNE value | IFDEQ digest | IFDNE digest] [GET] [EX seconds | PX milliseconds | EXAT unix-time-seconds | PXAT unix-time-milliseconds | KEEPTTL]",
        summary: "Sets the string value of a key, whatever it held before.",
        denyoom: true,
        ..BASE
    };

    fn parse(args: &Args) -> Result<Set, Reply> {
        let options = Options::parse(args, 3, &Known { command: "set", sets: true, compares: true })?;
        Ok(Set {
            key: args[1].clone(),
            value: args[2].clone(),
            condition: options.condition,
            expiry: options.expiry.unwrap_or(Expiry::None),
            get: options.get,
        })
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        either(self.run(keyspace))
    }
}

struct Setnx {
    key: Bytes,
    value: Bytes,
}

impl WriteCommand for Setnx {
    const SPEC: Spec = Spec {
        name: "setnx",
        arity: 3,
        syntax: "SETNX key value",
        summary: "Sets the string value of a key that does not exist.",
        denyoom: true,
        ..BASE
    };

    fn parse(args: &Args) -> Result<Setnx, Reply> {
        Ok(Setnx { key: args[1].clone(), value: args[2].clone() })
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        let absent = !keyspace.contains(&self.key);
        if absent {
            set_text(keyspace, &self.key, &self.value, None, false);
        }
        Reply::int(absent)
    }
}

/// SETEX and PSETEX.
struct SetFor {
    key: Bytes,
    value: Bytes,
    expiry: Expiry,
    command: &'static str,
}

impl SetFor {
    fn parse(args: &Args, scale: i64, command: &'static str) -> Result<SetFor, Reply> {
        let expiry = Expiry::parse(&args[2], scale, false, command)?;
        Ok(SetFor { key: args[1].clone(), value: args[3].clone(), expiry, command })
    }

    fn run(self, keyspace: &mut Keyspace) -> Reply {
        match self.expiry.deadline(keyspace.clock(), None, self.command) {
            Err(reply) => reply,
            Ok(deadline) => {
                set_text(keyspace, &self.key, &self.value, deadline, true);
                Reply::OK
            }
        }
    }
}

struct Setex(SetFor);

impl WriteCommand for Setex {
    const SPEC: Spec = Spec {
        name: "setex",
        arity: 4,
        syntax: "SETEX key seconds value",
        summary: "Sets the string value of a key and its time to live.",
        since: "2.0.0",
        denyoom: true,
        ..BASE
    };

    fn parse(args: &Args) -> Result<Setex, Reply> {
        SetFor::parse(args, 1000, "setex").map(Setex)
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        self.0.run(keyspace)
    }
}

struct Psetex(SetFor);

impl WriteCommand for Psetex {
    const SPEC: Spec = Spec {
        name: "psetex",
        syntax: "PSETEX key milliseconds value",
        summary: "Sets the string value of a key and its time to live in milliseconds.",
        since: "2.6.0",
        ..Setex::SPEC
    };

    fn parse(args: &Args) -> Result<Psetex, Reply> {
        SetFor::parse(args, 1, "psetex").map(Psetex)
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        self.0.run(keyspace)
    }
}

struct Getset {
    key: Bytes,
    value: Bytes,
}

impl WriteCommand for Getset {
    const SPEC: Spec = Spec {
        name: "getset",
        arity: 3,
        syntax: "GETSET key value",
        summary: "Sets the string value of a key and returns the one before.",
        denyoom: true,
        ..BASE
    };

    fn parse(args: &Args) -> Result<Getset, Reply> {
        Ok(Getset { key: args[1].clone(), value: args[2].clone() })
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        let old = bulk_or_nil(keyspace.get(&self.key));
        if !old.is_error() {
            set_text(keyspace, &self.key, &self.value, None, false);
        }
        old
    }
}

// -- Several keys at once

/// The arguments of MSET and MSETNX: keys and values in turn.
fn pairs(args: &Args, command: &str) -> Result<Args, Reply> {
    if args.len().is_multiple_of(2) { Err(wrong_arity(command)) } else { Ok(args[1..].into()) }
}

fn set_pairs(keyspace: &mut Keyspace, pairs: &[Bytes]) {
    for pair in pairs.chunks_exact(2) {
        set_text(keyspace, &pair[0], &pair[1], None, false);
    }
}

struct Mset(Args);

impl WriteCommand for Mset {
    const SPEC: Spec = Spec {
        name: "mset",
        arity: -3,
        keys: PAIRS,
        syntax: "MSET key value [key value ...]",
        summary: "Sets several keys at once.",
        complexity: "O(N), N the number of keys",
        since: "1.0.1",
        denyoom: true,
        ..BASE
    };

    fn parse(args: &Args) -> Result<Mset, Reply> {
        pairs(args, "mset").map(Mset)
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        set_pairs(keyspace, &self.0);
        Reply::OK
    }
}

struct Msetnx(Args);

impl WriteCommand for Msetnx {
    const SPEC: Spec = Spec {
        name: "msetnx",
        syntax: "MSETNX key value [key value ...]",
        summary: "Sets several keys at once if none of them exists.",
        ..Mset::SPEC
    };

    fn parse(args: &Args) -> Result<Msetnx, Reply> {
        pairs(args, "msetnx").map(Msetnx)
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        let free = !self.0.chunks_exact(2).any(|pair| keyspace.contains(&pair[0]));
        if free {
            set_pairs(keyspace, &self.0);
        }
        Reply::int(free)
    }
}

struct Msetex {
    pairs: Args,
    condition: Condition,
    expiry: Expiry,
}

impl Msetex {
    fn run(self, keyspace: &mut Keyspace) -> Result<Reply, Reply> {
        for pair in self.pairs.chunks_exact(2) {
            if !self.condition.holds(keyspace.get(&pair[0]))? {
                return Ok(Reply::Int(0));
            }
        }
        for pair in self.pairs.chunks_exact(2) {
            let deadline = self.expiry.deadline(keyspace.clock(), keyspace.get(&pair[0]), "msetex")?;
            set_text(keyspace, &pair[0], &pair[1], deadline, self.expiry.dates());
        }
        Ok(Reply::Int(1))
    }
}

impl WriteCommand for Msetex {
    const SPEC: Spec = Spec {
        name: "msetex",
        arity: -4,
        keys: Keys::Counted { at: 1, step: 2 },
        syntax: "MSETEX numkeys key value [key value ...] [NX | XX] [EX seconds | PX milliseconds | EXAT unix-time-seconds | PXAT unix-time-milliseconds | KEEPTTL]",
        summary: "Sets several keys and their deadline at once, if all or none of them exist when that is asked.",
        complexity: "O(N), N the number of keys",
        since: "8.4.0",
        denyoom: true,
        ..BASE
    };

    fn parse(args: &Args) -> Result<Msetex, Reply> {
        let count = integer(&args[1]).filter(|count| (1..=i64::from(i32::MAX)).contains(count));
        let count = count.ok_or_else(|| Reply::error("ERR invalid numkeys value"))? as usize;
        let pairs = args.get(2..2 + count * 2).ok_or_else(|| wrong_arity("msetex"))?;
        let options = Options::parse(args, 2 + count * 2, &Known { command: "msetex", sets: true, compares: false })?;
        let expiry = options.expiry.unwrap_or(Expiry::None);
        Ok(Msetex { pairs: pairs.into(), condition: options.condition, expiry })
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        either(self.run(keyspace))
    }
}

// -- Conditional deletion

/// DELEX and DELIFEQ.
struct DeleteIf {
    key: Bytes,
    condition: Condition,
}

impl DeleteIf {
    fn run(&self, keyspace: &mut Keyspace) -> Reply {
        let Some(old) = keyspace.get(&self.key) else { return Reply::Int(0) };
        either(self.condition.holds(Some(old)).map(|holds| Reply::int(holds && generic::delete(keyspace, &self.key))))
    }
}

struct Delex(DeleteIf);

impl WriteCommand for Delex {
    const SPEC: Spec = Spec {
        name: "delex",
        arity: -2,
        syntax: "DELEX key [IFEQ value | IFNE value | IFDEQ digest | IFDNE digest]",
        summary: "Deletes a key if its string value or the value's digest is, or is not, the one given.",
        complexity: "O(1); O(N) with a digest, N the length of the value",
        since: "8.4.0",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Delex, Reply> {
        let condition = match &args[2..] {
            [] => Condition::Always,
            [name, operand] => Condition::comparison(name, operand)
                .unwrap_or_else(|| Err(Reply::error("ERR Invalid condition. Use IFEQ, IFNE, IFDEQ, or IFDNE")))?,
            _ => return Err(wrong_arity("delex")),
        };
        Ok(Delex(DeleteIf { key: args[1].clone(), condition }))
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        self.0.run(keyspace)
    }
}

struct Delifeq(DeleteIf);

impl WriteCommand for Delifeq {
    const SPEC: Spec = Spec {
        name: "delifeq",
        arity: 3,
        syntax: "DELIFEQ key value",
        summary: "Deletes a key if its string value is the one given.",
        since: "valkey-9.0.0",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Delifeq, Reply> {
        Ok(Delifeq(DeleteIf { key: args[1].clone(), condition: Condition::Equal(args[2].clone()) }))
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        self.0.run(keyspace)
    }
}

/// The family.
pub static STRING: &[Command] = &[
    write::<Append>(),
    write::<Decr>(),
    write::<Decrby>(),
    write::<Delex>(),
    write::<Delifeq>(),
    read::<Digest>(),
    read::<Get>(),
    write::<Getdel>(),
    write::<Getex>(),
    read::<Getrange>(),
    write::<Getset>(),
    write::<Incr>(),
    write::<Incrby>(),
    write::<Incrbyfloat>(),
    read::<Mget>(),
    write::<Mset>(),
    write::<Msetex>(),
    write::<Msetnx>(),
    write::<Psetex>(),
    write::<Set>(),
    write::<Setex>(),
    write::<Setnx>(),
    write::<Setrange>(),
    read::<Strlen>(),
    read::<Substr>(),
];
