//! Hashes: fields with values. What concerns deadlines of fields is in `hash_ttl.rs`.
//!
//! Texts and edge cases are Redis 7.2's, HSCAN's NOVALUES is 7.4's. A field that is dead is shown by no command: reads judge
//! by their view, writes find dead fields removed already ([`Keyspace::change`]).

use super::draw::{self, Count};
use super::extended::{self, Extended, Number};
use super::syntax::{Step, either, is, syntax_error, want_integer, wrong_type};
use super::{Command, NUMBER_MAX, ReadCommand, Scope, Spec, WriteCommand, read, write, wrong_arity};
use crate::resp::{Args, Reply, integer};
use crate::state::events::Class;
use crate::state::{Changed, ELEMENT_COST, ENTRY_COST, FieldRef, HashRef, HashValue, Keyspace, Value, View};
use crate::types::Stamp;
use bytes::Bytes;

/// What most commands here say of themselves.
pub(super) const BASE: Spec = Spec {
    name: "",
    arity: 2,
    keys: super::Keys::ONE,
    scope: Scope::OneSlot,
    family: "hash",
    syntax: "",
    summary: "",
    complexity: "O(1)",
    since: "2.0.0",
    denyoom: false,
};

// -- A hash in the keyspace

/// The hash a key holds, if there is such a key; WRONGTYPE if it holds something else.
pub(super) fn hash_of<'a>(view: &View<'a>, key: &[u8]) -> Result<Option<HashRef<'a>>, Reply> {
    view.get(key).map(|entry| entry.value().as_hash().ok_or_else(wrong_type)).transpose()
}

/// A field that is alive.
pub(super) fn field_of<'a>(view: &View<'a>, key: &[u8], name: &[u8]) -> Result<Option<FieldRef<'a>>, Reply> {
    Ok(hash_of(view, key)?.and_then(|hash| living_field(view, hash, name)))
}

pub(super) fn living_field<'a>(view: &View<'_>, hash: HashRef<'a>, name: &[u8]) -> Option<FieldRef<'a>> {
    hash.get(name).filter(|field| view.is_alive_until(field.deadline))
}

/// How many fields are alive.
fn living(view: &View<'_>, hash: HashRef<'_>) -> usize {
    let (count, next) = hash.living(view.clock());
    // Should the next one be dead by now, the answer has to wait.
    view.is_alive_until(next);
    count
}

/// Changes the hash of a key that is there; `None` if there is none.
pub(super) fn change(
    keyspace: &mut Keyspace,
    key: &[u8],
    change: impl FnOnce(&mut HashValue) -> Changed<Reply>,
) -> Option<Reply> {
    keyspace.change(key, |value| value.as_hash_mut().map_or_else(|| Changed::No(wrong_type()), change))
}

/// The same, beginning with an empty hash if there is no such key.
pub(super) fn change_or_create(
    keyspace: &mut Keyspace,
    key: &[u8],
    change: impl FnOnce(&mut HashValue) -> Changed<Reply>,
) -> Reply {
    keyspace.change_or_create(
        key,
        || Value::Hash(HashValue::new()),
        |value| value.as_hash_mut().map_or_else(|| Changed::No(wrong_type()), change),
    )
}

pub(super) fn bulk(bytes: &[u8]) -> Reply {
    Reply::Bulk(Bytes::copy_from_slice(bytes))
}

pub(super) fn value_or_nil(field: Option<FieldRef<'_>>) -> Reply {
    field.map_or(Reply::Nil, |field| bulk(field.value))
}

/// What fields of these many bytes, names and values together, can add to the account.
pub(super) fn fields_cost(fields: usize, bytes: u64) -> u64 {
    /// Lengths of a packed name and value; less than what an element costs otherwise.
    const LENGTHS: usize = 6;
    const { assert!(LENGTHS < ELEMENT_COST) };
    ENTRY_COST + (fields * ELEMENT_COST) as u64 + bytes
}

pub(super) fn all_bytes(args: &Args) -> u64 {
    args.iter().map(|arg| arg.len() as u64).sum()
}

// -- Reading

struct Hget {
    key: Bytes,
    name: Bytes,
}

impl Hget {
    fn of(args: &Args) -> Hget {
        Hget { key: args[1].clone(), name: args[2].clone() }
    }

    /// The living field, shown by `show`.
    fn show(&self, view: &View<'_>, show: impl FnOnce(Option<FieldRef<'_>>) -> Reply) -> Reply {
        either(field_of(view, &self.key, &self.name).map(show))
    }
}

impl ReadCommand for Hget {
    const SPEC: Spec = Spec {
        name: "hget",
        arity: 3,
        syntax: "HGET key field",
        summary: "Returns the value of a field of a hash.",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Hget, Reply> {
        Ok(Hget::of(args))
    }

    fn read(self, view: &View<'_>) -> Reply {
        self.show(view, value_or_nil)
    }
}

struct Hexists(Hget);

impl ReadCommand for Hexists {
    const SPEC: Spec = Spec {
        name: "hexists",
        arity: 3,
        syntax: "HEXISTS key field",
        summary: "Returns whether a hash has a field.",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Hexists, Reply> {
        Ok(Hexists(Hget::of(args)))
    }

    fn read(self, view: &View<'_>) -> Reply {
        self.0.show(view, |field| Reply::int(field.is_some()))
    }
}

struct Hstrlen(Hget);

impl ReadCommand for Hstrlen {
    const SPEC: Spec = Spec {
        name: "hstrlen",
        arity: 3,
        syntax: "HSTRLEN key field",
        summary: "Returns the length of a field's value, 0 if there is none.",
        since: "3.2.0",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Hstrlen, Reply> {
        Ok(Hstrlen(Hget::of(args)))
    }

    fn read(self, view: &View<'_>) -> Reply {
        self.0.show(view, |field| Reply::count(field.map_or(0, |field| field.value.len())))
    }
}

struct Hmget {
    key: Bytes,
    names: Args,
}

impl ReadCommand for Hmget {
    const SPEC: Spec = Spec {
        name: "hmget",
        arity: -3,
        syntax: "HMGET key field [field ...]",
        summary: "Returns the values of several fields of a hash; nil for those it does not have.",
        complexity: "O(N), N the number of fields asked for",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Hmget, Reply> {
        Ok(Hmget { key: args[1].clone(), names: args[2..].into() })
    }

    fn read(self, view: &View<'_>) -> Reply {
        either(hash_of(view, &self.key).map(|hash| {
            let field = |name: &Bytes| living_field(view, hash?, name);
            Reply::Array(self.names.iter().map(|name| value_or_nil(field(name))).collect())
        }))
    }
}

struct Hlen(Bytes);

impl ReadCommand for Hlen {
    const SPEC: Spec =
        Spec { name: "hlen", syntax: "HLEN key", summary: "Returns how many fields a hash has.", ..BASE };

    fn parse(args: &Args) -> Result<Hlen, Reply> {
        Ok(Hlen(args[1].clone()))
    }

    fn read(self, view: &View<'_>) -> Reply {
        either(hash_of(view, &self.0).map(|hash| Reply::count(hash.map_or(0, |hash| living(view, hash)))))
    }
}

/// Of commands that show a whole hash.
const WHOLE: Spec = Spec { complexity: "O(N), N the number of fields", ..BASE };

/// The living fields of a hash.
fn fields<'a>(view: &'a View<'a>, key: &[u8]) -> Result<impl Iterator<Item = FieldRef<'a>>, Reply> {
    let hash = hash_of(view, key)?;
    Ok(hash.into_iter().flat_map(HashRef::iter).filter(|field| view.is_alive_until(field.deadline)))
}

struct Hgetall(Bytes);

impl ReadCommand for Hgetall {
    const SPEC: Spec = Spec {
        name: "hgetall",
        syntax: "HGETALL key",
        summary: "Returns all fields of a hash with their values.",
        ..WHOLE
    };

    fn parse(args: &Args) -> Result<Hgetall, Reply> {
        Ok(Hgetall(args[1].clone()))
    }

    fn read(self, view: &View<'_>) -> Reply {
        let pair = |field: FieldRef<'_>| (bulk(field.name), bulk(field.value));
        either(fields(view, &self.0).map(|fields| Reply::Map(fields.map(pair).collect())))
    }
}

struct Hkeys(Bytes);

impl ReadCommand for Hkeys {
    const SPEC: Spec =
        Spec { name: "hkeys", syntax: "HKEYS key", summary: "Returns the names of all fields of a hash.", ..WHOLE };

    fn parse(args: &Args) -> Result<Hkeys, Reply> {
        Ok(Hkeys(args[1].clone()))
    }

    fn read(self, view: &View<'_>) -> Reply {
        either(fields(view, &self.0).map(|fields| Reply::Array(fields.map(|field| bulk(field.name)).collect())))
    }
}

struct Hvals(Bytes);

impl ReadCommand for Hvals {
    const SPEC: Spec =
        Spec { name: "hvals", syntax: "HVALS key", summary: "Returns the values of all fields of a hash.", ..WHOLE };

    fn parse(args: &Args) -> Result<Hvals, Reply> {
        Ok(Hvals(args[1].clone()))
    }

    fn read(self, view: &View<'_>) -> Reply {
        either(fields(view, &self.0).map(|fields| Reply::Array(fields.map(|field| bulk(field.value)).collect())))
    }
}

struct Hscan {
    key: Bytes,
    step: Step,
    bare: bool,
}

impl ReadCommand for Hscan {
    const SPEC: Spec = Spec {
        name: "hscan",
        arity: -3,
        syntax: "HSCAN key cursor [MATCH pattern] [COUNT count] [NOVALUES]",
        summary: "Goes through a hash in steps; each returns the cursor of the next and some fields with their values.",
        complexity: "O(1) a step, O(N) for all, N the number of fields",
        since: "2.8.0",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Hscan, Reply> {
        let mut bare = false;
        let step = Step::parse(args, 2, |word| {
            let known = is(word, "novalues");
            bare |= known;
            known
        })?;
        Ok(Hscan { key: args[1].clone(), step, bare })
    }

    fn read(self, view: &View<'_>) -> Reply {
        let hash = match hash_of(view, &self.key) {
            Ok(hash) => hash.unwrap_or(HashRef::Packed(&[])),
            Err(reply) => return reply,
        };
        let (fields, next) = hash.scan(self.step.cursor, self.step.count);
        let wanted = |field: &FieldRef<'_>| view.is_alive_until(field.deadline) && self.step.matches(field.name);
        let mut shown = Vec::new();
        for field in fields.into_iter().filter(wanted) {
            shown.push(bulk(field.name));
            if !self.bare {
                shown.push(bulk(field.value));
            }
        }
        Reply::Array(vec![Reply::bulk(next.to_string()), Reply::Array(shown)])
    }
}

// -- Random fields

struct Hrandfield {
    key: Bytes,
    /// `None`: one, not in an array.
    draw: Option<Count>,
    values: bool,
}

impl Hrandfield {
    fn draw<'a>(&self, view: &View<'a>, hash: HashRef<'a>) -> Vec<FieldRef<'a>> {
        let size = living(view, hash);
        let positions = self.draw.unwrap_or(Count::Different(1)).positions(size, draw::of_view(view));
        // In a tree without dead fields a position is found at once; else all are looked at.
        if matches!(hash, HashRef::Tree(_)) && size == hash.len() {
            return positions.into_iter().filter_map(|at| hash.nth(at)).collect();
        }
        let fields: Vec<_> = hash.iter().filter(|field| view.is_alive_until(field.deadline)).collect();
        positions.into_iter().filter_map(|at| fields.get(at).copied()).collect()
    }
}

impl ReadCommand for Hrandfield {
    const SPEC: Spec = Spec {
        name: "hrandfield",
        arity: -2,
        syntax: "HRANDFIELD key [count [WITHVALUES]]",
        summary: "Returns random fields of a hash; a negative count may give the same one twice.",
        complexity: "O(N), N the number of fields asked for",
        since: "6.2.0",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Hrandfield, Reply> {
        let draw = args.get(2).map(|count| Count::parse(count)).transpose()?;
        let values = match &args[3.min(args.len())..] {
            [] => false,
            [word] if is(word, "withvalues") => true,
            _ => return Err(syntax_error()),
        };
        // Twice as many elements as fields have to be counted.
        if values && args.get(2).and_then(|count| integer(count)).is_some_and(|count| count > i64::MAX / 2) {
            return Err(Reply::error("ERR value is out of range"));
        }
        Ok(Hrandfield { key: args[1].clone(), draw, values })
    }

    fn read(self, view: &View<'_>) -> Reply {
        let drawn = match hash_of(view, &self.key) {
            Ok(hash) => hash.map_or(Vec::new(), |hash| self.draw(view, hash)),
            Err(reply) => return reply,
        };
        if self.draw.is_none() {
            return drawn.first().map_or(Reply::Nil, |field| bulk(field.name));
        }
        if self.values {
            return Reply::Pairs(drawn.into_iter().map(|field| (bulk(field.name), bulk(field.value))).collect());
        }
        Reply::Array(drawn.into_iter().map(|field| bulk(field.name)).collect())
    }
}

// -- Writing

/// HSET and HMSET.
struct SetFields {
    key: Bytes,
    pairs: Args,
}

impl SetFields {
    fn parse(args: &Args, command: &str) -> Result<SetFields, Reply> {
        if !args.len().is_multiple_of(2) {
            return Err(wrong_arity(command));
        }
        Ok(SetFields { key: args[1].clone(), pairs: args[2..].into() })
    }

    /// How many fields are new, or an error.
    fn run(&self, keyspace: &mut Keyspace) -> Reply {
        let limits = keyspace.packing().hash;
        let version = keyspace.version();
        let reply = change_or_create(keyspace, &self.key, |hash| {
            let new = self.pairs.chunks_exact(2).filter(|pair| hash.set(&pair[0], &pair[1], 0, limits)).count();
            Changed::Yes(Reply::count(new))
        });
        keyspace.notify_since(version, Class::Hash, "hset", &self.key);
        reply
    }
}

struct Hset(SetFields);

impl WriteCommand for Hset {
    const SPEC: Spec = Spec {
        name: "hset",
        arity: -4,
        syntax: "HSET key field value [field value ...]",
        summary: "Sets fields of a hash; returns how many are new.",
        complexity: "O(N), N the number of fields set",
        denyoom: true,
        ..BASE
    };

    fn parse(args: &Args) -> Result<Hset, Reply> {
        SetFields::parse(args, "hset").map(Hset)
    }

    fn growth(args: &Args) -> u64 {
        fields_cost(args.len() / 2, all_bytes(args))
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        self.0.run(keyspace)
    }
}

struct Hmset(SetFields);

impl WriteCommand for Hmset {
    const SPEC: Spec = Spec {
        name: "hmset",
        syntax: "HMSET key field value [field value ...]",
        summary: "Sets fields of a hash. The old form of HSET.",
        ..Hset::SPEC
    };

    fn parse(args: &Args) -> Result<Hmset, Reply> {
        SetFields::parse(args, "hmset").map(Hmset)
    }

    fn growth(args: &Args) -> u64 {
        Hset::growth(args)
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        match self.0.run(keyspace) {
            Reply::Int(_) => Reply::OK,
            error => error,
        }
    }
}

struct Hsetnx {
    key: Bytes,
    name: Bytes,
    value: Bytes,
}

impl WriteCommand for Hsetnx {
    const SPEC: Spec = Spec {
        name: "hsetnx",
        arity: 4,
        syntax: "HSETNX key field value",
        summary: "Sets a field of a hash that does not have it.",
        complexity: "O(1)",
        ..Hset::SPEC
    };

    fn parse(args: &Args) -> Result<Hsetnx, Reply> {
        Ok(Hsetnx { key: args[1].clone(), name: args[2].clone(), value: args[3].clone() })
    }

    fn growth(args: &Args) -> u64 {
        Hset::growth(args)
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        let (limits, version) = (keyspace.packing().hash, keyspace.version());
        let reply = change_or_create(keyspace, &self.key, |hash| {
            let free = hash.as_ref().get(&self.name).is_none();
            if free {
                hash.set(&self.name, &self.value, 0, limits);
            }
            Changed::when(free, Reply::int(free))
        });
        keyspace.notify_since(version, Class::Hash, "hset", &self.key);
        reply
    }
}

struct Hdel {
    key: Bytes,
    names: Args,
}

impl WriteCommand for Hdel {
    const SPEC: Spec = Spec {
        name: "hdel",
        arity: -3,
        syntax: "HDEL key field [field ...]",
        summary: "Deletes fields of a hash; returns how many there were. A hash without fields is gone.",
        complexity: "O(N), N the number of fields named",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Hdel, Reply> {
        Ok(Hdel { key: args[1].clone(), names: args[2..].into() })
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        let version = keyspace.version();
        let deleted = change(keyspace, &self.key, |hash| {
            let count = self.names.iter().filter(|name| hash.remove(name)).count();
            Changed::when(count > 0, Reply::count(count))
        });
        keyspace.notify_since(version, Class::Hash, "hdel", &self.key);
        deleted.unwrap_or(Reply::Int(0))
    }
}

/// HINCRBY and HINCRBYFLOAT: the value as it will be and the reply, made of the value as it is. A deadline stays.
fn add(
    keyspace: &mut Keyspace,
    event: &'static str,
    key: &[u8],
    name: &[u8],
    sum: impl FnOnce(Option<&[u8]>) -> Result<(Bytes, Reply), Reply>,
) -> Reply {
    let (limits, version) = (keyspace.packing().hash, keyspace.version());
    let reply = change_or_create(keyspace, key, |hash| {
        let old = hash.as_ref().get(name);
        let deadline = old.map_or(0, |old| old.deadline);
        match sum(old.map(|old| old.value)) {
            Ok((value, reply)) => {
                hash.set(name, &value, deadline, limits);
                Changed::Yes(reply)
            }
            Err(reply) => Changed::No(reply),
        }
    });
    keyspace.notify_since(version, Class::Hash, event, key);
    reply
}

struct Hincrby {
    key: Bytes,
    name: Bytes,
    by: i64,
}

impl WriteCommand for Hincrby {
    const SPEC: Spec = Spec {
        name: "hincrby",
        arity: 4,
        syntax: "HINCRBY key field increment",
        summary: "Adds to the integer value of a field; one that does not exist counts as 0.",
        complexity: "O(1)",
        ..Hset::SPEC
    };

    fn parse(args: &Args) -> Result<Hincrby, Reply> {
        Ok(Hincrby { key: args[1].clone(), name: args[2].clone(), by: want_integer(&args[3])? })
    }

    fn growth(args: &Args) -> u64 {
        Hset::growth(args) + NUMBER_MAX
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        add(keyspace, "hincrby", &self.key, &self.name, |old| {
            let old = old.map_or(Some(0), integer).ok_or_else(|| Reply::error("ERR hash value is not an integer"))?;
            let sum = old.checked_add(self.by);
            let sum = sum.ok_or_else(|| Reply::error("ERR increment or decrement would overflow"))?;
            Ok((Bytes::copy_from_slice(itoa::Buffer::new().format(sum).as_bytes()), Reply::Int(sum)))
        })
    }
}

struct Hincrbyfloat {
    key: Bytes,
    name: Bytes,
    by: Extended,
}

impl WriteCommand for Hincrbyfloat {
    const SPEC: Spec = Spec {
        name: "hincrbyfloat",
        arity: 4,
        syntax: "HINCRBYFLOAT key field increment",
        summary: "Adds to the floating-point value of a field; one that does not exist counts as 0.",
        complexity: "O(1)",
        since: "2.6.0",
        ..Hset::SPEC
    };

    fn parse(args: &Args) -> Result<Hincrbyfloat, Reply> {
        let by = match extended::parse(&args[3]) {
            Some(Number::Finite(by)) => by,
            Some(Number::Infinite) => return Err(Reply::error("ERR value is NaN or Infinity")),
            None => return Err(Reply::error("ERR value is not a valid float")),
        };
        Ok(Hincrbyfloat { key: args[1].clone(), name: args[2].clone(), by })
    }

    fn growth(args: &Args) -> u64 {
        Hset::growth(args) + extended::TEXT_MAX
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        add(keyspace, "hincrbyfloat", &self.key, &self.name, |old| {
            let old = old.map_or(Some(Number::Finite(Extended::default())), extended::parse);
            let sum = match old.ok_or_else(|| Reply::error("ERR hash value is not a float"))? {
                Number::Finite(old) => old.add(self.by),
                Number::Infinite => None,
            };
            let sum = sum.ok_or_else(|| Reply::error("ERR increment would produce NaN or Infinity"))?;
            let text = Bytes::from(sum.to_text());
            Ok((text.clone(), Reply::Bulk(text)))
        })
    }
}

/// The family.
pub static HASH: &[Command] = &[
    write::<Hdel>(),
    read::<Hexists>(),
    read::<Hget>(),
    read::<Hgetall>(),
    write::<Hincrby>(),
    write::<Hincrbyfloat>(),
    read::<Hkeys>(),
    read::<Hlen>(),
    read::<Hmget>(),
    write::<Hmset>(),
    read::<Hrandfield>(),
    read::<Hscan>(),
    write::<Hset>(),
    write::<Hsetnx>(),
    read::<Hstrlen>(),
    read::<Hvals>(),
];
