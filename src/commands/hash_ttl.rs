//! Deadlines of single fields of hashes, and the commands that read or write fields together with them.
//!
//! Texts and edge cases are Redis 7.4's, those of HGETDEL, HGETEX and HSETEX are 8.0's. Time is the group clock: a relative
//! time becomes a deadline in apply, and one that is not after the clock deletes the field.

use super::hash::{self, BASE, change, change_or_create, hash_of, living_field, value_or_nil};
use super::syntax::{invalid_expire, is, want_integer};
use super::{Command, ReadCommand, Spec, WriteCommand, quoting, read, write, wrong_arity};
use crate::resp::{Args, Reply, integer};
use crate::state::events::Class;
use crate::state::{Changed, DEADLINE_COST, FIELD_DEADLINE_MAX, FieldRef, HashValue, Keyspace, View};
use crate::types::{Millis, Stamp};
use bytes::Bytes;

/// The latest deadline of a field, as in Redis: 2^46 - 1.
const DEADLINE_MAX: i64 = FIELD_DEADLINE_MAX as i64;

// -- Arguments

/// When fields are to die.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Moment {
    ms: i64,
    /// By the group clock, not from it on.
    absolute: bool,
    command: &'static str,
}

impl Moment {
    /// `number` in units of `scale` milliseconds.
    fn parse(number: &[u8], scale: i64, absolute: bool, command: &'static str) -> Result<Moment, Reply> {
        let number = want_integer(number)?;
        if number < 0 {
            return Err(Reply::error("ERR invalid expire time, must be >= 0"));
        }
        let ms = number.checked_mul(scale).filter(|ms| *ms <= DEADLINE_MAX).ok_or_else(|| invalid_expire(command))?;
        Ok(Moment { ms, absolute, command })
    }

    /// The deadline by the clock of the entry; 0 for a moment that is past.
    fn deadline(self, clock: Millis) -> Result<Millis, Reply> {
        let base = if self.absolute { 0 } else { clock as i64 };
        let deadline = base.checked_add(self.ms).filter(|deadline| *deadline <= DEADLINE_MAX);
        let deadline = deadline.ok_or_else(|| invalid_expire(self.command))? as Millis;
        Ok(if deadline <= clock { 0 } else { deadline })
    }

    /// EX, PX, EXAT and PXAT: unit and whether it is absolute.
    fn option(word: &[u8]) -> Option<(i64, bool)> {
        Some(match word {
            word if is(word, "ex") => (1000, false),
            word if is(word, "px") => (1, false),
            word if is(word, "exat") => (1000, true),
            word if is(word, "pxat") => (1, true),
            _ => return None,
        })
    }
}

/// What most commands here say of a number of fields that is none.
const NOT_POSITIVE: &str = "ERR Number of fields must be a positive integer";

/// The names behind `FIELDS numfields`, which stand at `at` and are all of the rest.
fn names(args: &Args, at: usize, not_positive: &'static str) -> Result<Args, Reply> {
    if !args.get(at).is_some_and(|word| is(word, "fields")) {
        return Err(Reply::error("ERR Mandatory argument FIELDS is missing or not at the right position"));
    }
    let count = args.get(at + 1).and_then(|count| integer(count)).filter(|count| *count >= 1);
    let count = count.ok_or_else(|| Reply::error(not_positive))?;
    let names = &args[at + 2..];
    if usize::try_from(count).ok() != Some(names.len()) {
        return Err(Reply::error("ERR The `numfields` parameter must match the number of arguments"));
    }
    Ok(names.into())
}

/// What is said of a field that is not there.
const NO_FIELD: i64 = -2;
/// What is said of a field that has no deadline.
const NO_DEADLINE: i64 = -1;

/// The same answer for every name.
fn for_each(names: &Args, reply: Reply) -> Reply {
    Reply::Array(vec![reply; names.len()])
}

// -- Setting deadlines

/// NX, XX, GT or LT.
#[derive(Debug, Clone, Copy, PartialEq)]
enum When {
    Always,
    Without,
    With,
    Later,
    Earlier,
}

impl When {
    fn of(word: &[u8]) -> Option<When> {
        Some(match word {
            word if is(word, "nx") => When::Without,
            word if is(word, "xx") => When::With,
            word if is(word, "gt") => When::Later,
            word if is(word, "lt") => When::Earlier,
            _ => return None,
        })
    }

    /// `old` and `new` are deadlines; without one (0) a field lives for ever, and a new one that is past is no other.
    fn allows(self, old: Millis, new: Millis) -> bool {
        match self {
            When::Always => true,
            When::Without => old == 0,
            When::With => old != 0,
            When::Later => old != 0 && new > old,
            When::Earlier => old == 0 || new < old,
        }
    }
}

/// HEXPIRE, HPEXPIRE, HEXPIREAT and HPEXPIREAT.
struct Expire {
    key: Bytes,
    moment: Moment,
    when: When,
    names: Args,
}

impl Expire {
    fn parse(args: &Args, scale: i64, absolute: bool, command: &'static str) -> Result<Expire, Reply> {
        let moment = Moment::parse(&args[2], scale, absolute, command)?;
        let when = When::of(&args[3]);
        let at = 3 + usize::from(when.is_some());
        let names = names(args, at, "ERR Parameter `numFields` should be greater than 0")?;
        Ok(Expire { key: args[1].clone(), moment, when: when.unwrap_or(When::Always), names })
    }

    fn run(self, keyspace: &mut Keyspace) -> Reply {
        let deadline = match self.moment.deadline(keyspace.clock()) {
            Ok(deadline) => deadline,
            Err(reply) => return reply,
        };
        let mut dated = false;
        let set = change(keyspace, &self.key, |hash| {
            let mut changed = false;
            let results = self.names.iter().map(|name| {
                let Some(field) = hash.as_ref().get(name) else { return NO_FIELD };
                if !self.when.allows(field.deadline, deadline) {
                    return 0;
                }
                dated = true;
                changed |= date(hash, name, deadline);
                if deadline == 0 { 2 } else { 1 }
            });
            let results = Reply::Array(results.map(Reply::Int).collect());
            Changed::when(changed, results)
        });
        if dated {
            keyspace.notify_change(Class::Hash, dated_event(deadline), &self.key);
        }
        set.unwrap_or_else(|| for_each(&self.names, Reply::Int(NO_FIELD)))
    }
}

/// Gives a field a deadline, or removes it if that is past (0); whether this changed anything.
fn date(hash: &mut HashValue, name: &[u8], deadline: Millis) -> bool {
    if deadline == 0 { hash.remove(name) } else { hash.set_deadline(name, deadline) }
}

/// What a new deadline is told as; one that is past (0) takes the field away.
fn dated_event(deadline: Millis) -> &'static str {
    if deadline == 0 { "hdel" } else { "hexpire" }
}

const EXPIRE: Spec =
    Spec { arity: -6, complexity: "O(N), N the number of fields named", since: "7.4.0", denyoom: true, ..BASE };

struct HexpireSeconds(Expire);

impl WriteCommand for HexpireSeconds {
    const SPEC: Spec = Spec {
        name: "hexpire",
        syntax: "HEXPIRE key seconds [NX | XX | GT | LT] FIELDS numfields field [field ...]",
        summary: "Sets the time to live of fields of a hash in seconds; of each says -2 (no field), 0 (condition), 1 or 2 (deleted).",
        ..EXPIRE
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Expire::parse(args, 1000, false, "hexpire").map(HexpireSeconds)
    }

    fn growth(args: &Args) -> u64 {
        (args.len() * DEADLINE_COST) as u64
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        self.0.run(keyspace)
    }
}

struct HexpireMillis(Expire);

impl WriteCommand for HexpireMillis {
    const SPEC: Spec = Spec {
        name: "hpexpire",
        syntax: "HPEXPIRE key milliseconds [NX | XX | GT | LT] FIELDS numfields field [field ...]",
        summary: "Sets the time to live of fields of a hash in milliseconds.",
        ..EXPIRE
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Expire::parse(args, 1, false, "hpexpire").map(HexpireMillis)
    }

    fn growth(args: &Args) -> u64 {
        HexpireSeconds::growth(args)
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        self.0.run(keyspace)
    }
}

struct HexpireAtSeconds(Expire);

impl WriteCommand for HexpireAtSeconds {
    const SPEC: Spec = Spec {
        name: "hexpireat",
        syntax: "HEXPIREAT key unix-time-seconds [NX | XX | GT | LT] FIELDS numfields field [field ...]",
        summary: "Sets the time at which fields of a hash die.",
        ..EXPIRE
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Expire::parse(args, 1000, true, "hexpireat").map(HexpireAtSeconds)
    }

    fn growth(args: &Args) -> u64 {
        HexpireSeconds::growth(args)
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        self.0.run(keyspace)
    }
}

struct HexpireAtMillis(Expire);

impl WriteCommand for HexpireAtMillis {
    const SPEC: Spec = Spec {
        name: "hpexpireat",
        syntax: "HPEXPIREAT key unix-time-milliseconds [NX | XX | GT | LT] FIELDS numfields field [field ...]",
        summary: "Sets the time at which fields of a hash die, in milliseconds.",
        ..EXPIRE
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Expire::parse(args, 1, true, "hpexpireat").map(HexpireAtMillis)
    }

    fn growth(args: &Args) -> u64 {
        HexpireSeconds::growth(args)
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        self.0.run(keyspace)
    }
}

/// Of commands about named fields.
const NAMED: Spec = Spec { arity: -5, denyoom: false, ..EXPIRE };

struct Hpersist {
    key: Bytes,
    names: Args,
}

impl WriteCommand for Hpersist {
    const SPEC: Spec = Spec {
        name: "hpersist",
        syntax: "HPERSIST key FIELDS numfields field [field ...]",
        summary: "Takes the deadline off fields of a hash; of each says -2 (no field), -1 (no deadline) or 1.",
        ..NAMED
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(Hpersist { key: args[1].clone(), names: names(args, 2, NOT_POSITIVE)? })
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        let version = keyspace.version();
        let persisted = change(keyspace, &self.key, |hash| {
            let mut changed = false;
            let results = self.names.iter().map(|name| match hash.as_ref().get(name) {
                None => NO_FIELD,
                Some(FieldRef { deadline: 0, .. }) => NO_DEADLINE,
                Some(_) => {
                    changed |= hash.set_deadline(name, 0);
                    1
                }
            });
            let results = Reply::Array(results.map(Reply::Int).collect());
            Changed::when(changed, results)
        });
        keyspace.notify_since(version, Class::Hash, "hpersist", &self.key);
        persisted.unwrap_or_else(|| for_each(&self.names, Reply::Int(NO_FIELD)))
    }
}

// -- Asking for deadlines

/// HTTL, HPTTL, HEXPIRETIME and HPEXPIRETIME.
struct Times {
    key: Bytes,
    names: Args,
}

impl Times {
    fn parse(args: &Args) -> Result<Times, Reply> {
        Ok(Times { key: args[1].clone(), names: names(args, 2, NOT_POSITIVE)? })
    }

    /// What is left of a second counts as one.
    fn read(self, view: &View<'_>, absolute: bool, seconds: bool) -> Reply {
        let hash = match hash_of(view, &self.key) {
            Ok(Some(hash)) => hash,
            Ok(None) => return for_each(&self.names, Reply::Int(NO_FIELD)),
            Err(reply) => return reply,
        };
        let time = |name: &Bytes| match living_field(view, hash, name) {
            None => NO_FIELD,
            Some(FieldRef { deadline: 0, .. }) => NO_DEADLINE,
            Some(FieldRef { deadline, .. }) => {
                let ms = if absolute { deadline } else { view.time_left(deadline) };
                (if seconds { ms.div_ceil(1000) } else { ms }) as i64
            }
        };
        Reply::Array(self.names.iter().map(time).map(Reply::Int).collect())
    }
}

struct Httl(Times);

impl ReadCommand for Httl {
    const SPEC: Spec = Spec {
        name: "httl",
        syntax: "HTTL key FIELDS numfields field [field ...]",
        summary: "Returns the seconds fields of a hash have to live, by the group clock; -1 without a deadline, -2 without a field.",
        ..NAMED
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Times::parse(args).map(Httl)
    }

    fn read(self, view: &View<'_>) -> Reply {
        self.0.read(view, false, true)
    }
}

struct Hpttl(Times);

impl ReadCommand for Hpttl {
    const SPEC: Spec = Spec {
        name: "hpttl",
        syntax: "HPTTL key FIELDS numfields field [field ...]",
        summary: "Returns the milliseconds fields of a hash have to live, by the group clock.",
        ..NAMED
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Times::parse(args).map(Hpttl)
    }

    fn read(self, view: &View<'_>) -> Reply {
        self.0.read(view, false, false)
    }
}

struct Hexpiretime(Times);

impl ReadCommand for Hexpiretime {
    const SPEC: Spec = Spec {
        name: "hexpiretime",
        syntax: "HEXPIRETIME key FIELDS numfields field [field ...]",
        summary: "Returns the Unix times in seconds at which fields of a hash die.",
        ..NAMED
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Times::parse(args).map(Hexpiretime)
    }

    fn read(self, view: &View<'_>) -> Reply {
        self.0.read(view, true, true)
    }
}

struct Hpexpiretime(Times);

impl ReadCommand for Hpexpiretime {
    const SPEC: Spec = Spec {
        name: "hpexpiretime",
        syntax: "HPEXPIRETIME key FIELDS numfields field [field ...]",
        summary: "Returns the Unix times in milliseconds at which fields of a hash die.",
        ..NAMED
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Times::parse(args).map(Hpexpiretime)
    }

    fn read(self, view: &View<'_>) -> Reply {
        self.0.read(view, true, false)
    }
}

// -- Values and deadlines together

struct Hgetdel {
    key: Bytes,
    names: Args,
}

impl WriteCommand for Hgetdel {
    const SPEC: Spec = Spec {
        name: "hgetdel",
        syntax: "HGETDEL key FIELDS numfields field [field ...]",
        summary: "Returns the values of fields of a hash and deletes them.",
        since: "8.0.0",
        ..NAMED
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(Hgetdel { key: args[1].clone(), names: names(args, 2, NOT_POSITIVE)? })
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        let version = keyspace.version();
        let taken = change(keyspace, &self.key, |hash| {
            let mut changed = false;
            let values = self.names.iter().map(|name| {
                let value = value_or_nil(hash.as_ref().get(name));
                changed |= hash.remove(name);
                value
            });
            let values = Reply::Array(values.collect());
            Changed::when(changed, values)
        });
        keyspace.notify_since(version, Class::Hash, "hdel", &self.key);
        taken.unwrap_or_else(|| for_each(&self.names, Reply::Nil))
    }
}

/// What a command does to the deadlines of the fields it names.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Dating {
    Keep,
    Persist,
    Set(Moment),
}

impl Dating {
    /// The deadline by the clock of the entry, if a new one is set. 0 for none if there shall be none, and for one past.
    fn deadline(self, clock: Millis) -> Result<Option<Millis>, Reply> {
        match self {
            Dating::Set(moment) => moment.deadline(clock).map(Some),
            Dating::Keep | Dating::Persist => Ok(None),
        }
    }
}

struct Hgetex {
    key: Bytes,
    dating: Dating,
    names: Args,
}

impl WriteCommand for Hgetex {
    const SPEC: Spec = Spec {
        name: "hgetex",
        syntax: "HGETEX key [EX seconds | PX milliseconds | EXAT unix-time-seconds | PXAT unix-time-milliseconds | PERSIST] FIELDS numfields field [field ...]",
        summary: "Returns the values of fields of a hash and gives the fields another deadline, or none.",
        since: "8.0.0",
        ..NAMED
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        let (dating, at) = match Moment::option(&args[2]) {
            Some((scale, absolute)) => (Dating::Set(Moment::parse(&args[3], scale, absolute, "hgetex")?), 4),
            None if is(&args[2], "persist") => (Dating::Persist, 3),
            None => (Dating::Keep, 2),
        };
        Ok(Hgetex { key: args[1].clone(), dating, names: names(args, at, NOT_POSITIVE)? })
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        let deadline = match self.dating.deadline(keyspace.clock()) {
            Ok(deadline) => deadline,
            Err(reply) => return reply,
        };
        let mut dated = false;
        let shown = change(keyspace, &self.key, |hash| {
            let mut changed = false;
            let values = self.names.iter().map(|name| {
                let field = hash.as_ref().get(name);
                dated |= deadline.is_some() && field.is_some();
                let value = value_or_nil(field);
                changed |= match (self.dating, deadline) {
                    (_, Some(deadline)) => date(hash, name, deadline),
                    (Dating::Persist, None) => hash.set_deadline(name, 0),
                    (_, None) => false,
                };
                value
            });
            let values = Reply::Array(values.collect());
            dated |= changed;
            Changed::when(changed, values)
        });
        if dated {
            keyspace.notify_change(Class::Hash, deadline.map_or("hpersist", dated_event), &self.key);
        }
        shown.unwrap_or_else(|| for_each(&self.names, Reply::Nil))
    }
}

struct Hsetex {
    key: Bytes,
    /// `Some(true)`: only if all fields are there; `Some(false)`: only if none is.
    present: Option<bool>,
    /// `None`: fields lose the deadline they have.
    dating: Option<Dating>,
    pairs: Args,
}

impl Hsetex {
    /// The pairs behind `FIELDS`, which stands at `at`.
    fn pairs(args: &Args, at: usize) -> Result<Args, Reply> {
        let arity = || wrong_arity("hsetex");
        let (count, pairs) = args[at + 1..].split_first().filter(|(_, pairs)| pairs.len() > 1).ok_or_else(arity)?;
        let count = integer(count).filter(|count| (1..=i64::from(i32::MAX)).contains(count));
        let count = count.ok_or_else(|| Reply::error("ERR invalid number of fields"))?;
        if pairs.len() as i64 != count * 2 {
            return Err(arity());
        }
        Ok(pairs.into())
    }
}

impl WriteCommand for Hsetex {
    const SPEC: Spec = Spec {
        name: "hsetex",
        arity: -6,
        syntax: "HSETEX key [FNX | FXX] [EX seconds | PX milliseconds | EXAT unix-time-seconds | PXAT unix-time-milliseconds | KEEPTTL] FIELDS numfields field value [field value ...]",
        summary: "Sets fields of a hash with a deadline, or none; returns 1, or 0 if FNX or FXX forbade it.",
        complexity: "O(N), N the number of fields set",
        since: "8.0.0",
        denyoom: true,
        ..NAMED
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        let (mut present, mut dating, mut at) = (None, None, 2);
        while let Some(word) = args.get(at) {
            let timed = Moment::option(word);
            if is(word, "fields") {
                return Ok(Hsetex { key: args[1].clone(), present, dating, pairs: Hsetex::pairs(args, at)? });
            } else if timed.is_some() || is(word, "keepttl") {
                if dating.is_some() {
                    return Err(Reply::error(
                        "ERR Only one of EX, PX, EXAT, PXAT or KEEPTTL arguments can be specified",
                    ));
                }
                dating = Some(match timed {
                    None => Dating::Keep,
                    Some((scale, absolute)) => {
                        at += 1;
                        let number = args.get(at).ok_or_else(|| Reply::error("ERR missing expire time"))?;
                        Dating::Set(Moment::parse(number, scale, absolute, "hsetex")?)
                    }
                });
            } else if is(word, "fxx") || is(word, "fnx") {
                if present.is_some() {
                    return Err(Reply::error("ERR Only one of FXX or FNX arguments can be specified"));
                }
                present = Some(is(word, "fxx"));
            } else {
                return Err(quoting(&["ERR unknown argument: ", ""], &[word]));
            }
            at += 1;
        }
        Err(wrong_arity("hsetex"))
    }

    fn growth(args: &Args) -> u64 {
        let fields = args.len() / 2;
        hash::fields_cost(fields, hash::all_bytes(args)) + (fields * DEADLINE_COST) as u64
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        let deadline = match self.dating.unwrap_or(Dating::Persist).deadline(keyspace.clock()) {
            Ok(deadline) => deadline,
            Err(reply) => return reply,
        };
        let limits = keyspace.packing().hash;
        let reply = change_or_create(keyspace, &self.key, |hash| {
            let mut pairs = self.pairs.chunks_exact(2);
            let is_there = |pair: &[Bytes]| hash.as_ref().get(&pair[0]).is_some();
            if self.present.is_some_and(|wanted| !pairs.clone().all(|pair| is_there(pair) == wanted)) {
                return Changed::No(Reply::Int(0));
            }
            if deadline == Some(0) {
                // Set and dead at once.
                let removed = pairs.filter(|pair| hash.remove(&pair[0])).count() > 0;
                return Changed::when(removed, Reply::Int(1));
            }
            pairs.by_ref().for_each(|pair| {
                let kept = hash.as_ref().get(&pair[0]).map_or(0, |field| field.deadline);
                let kept = if self.dating == Some(Dating::Keep) { kept } else { 0 };
                hash.set(&pair[0], &pair[1], deadline.unwrap_or(kept), limits);
            });
            Changed::Yes(Reply::Int(1))
        });
        if reply == Reply::Int(1) {
            keyspace.notify(Class::Hash, "hset", &self.key);
            if let Some(deadline) = deadline {
                keyspace.notify_change(Class::Hash, dated_event(deadline), &self.key);
            }
        }
        reply
    }
}

/// The rest of the family of hashes.
pub static HASH_TTL: &[Command] = &[
    write::<HexpireSeconds>(),
    write::<HexpireAtSeconds>(),
    read::<Hexpiretime>(),
    write::<Hgetdel>(),
    write::<Hgetex>(),
    write::<Hpersist>(),
    write::<HexpireMillis>(),
    write::<HexpireAtMillis>(),
    read::<Hpexpiretime>(),
    read::<Hpttl>(),
    write::<Hsetex>(),
    read::<Httl>(),
];
