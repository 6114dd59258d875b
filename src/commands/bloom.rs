//! Bloom filters: the BF commands.
//!
//! The first half takes arguments apart and finds the filter, the second is the commands, the last lines are the
//! table. See `filter.rs` for what is RedisBloom's here.

use super::filter::{CAPACITY_MAX, EXPANSION_MAX, check_bytes, item_exists, line, not_found, number, unknown_argument};
use super::syntax::{either, is, wrong_type};
use super::{Command, Keys, ReadCommand, Scope, Spec, WriteCommand, read, write, wrong_arity};
use crate::resp::{Args, Reply};
use crate::state::{BloomFull, BloomShape, BloomValue, EntryRef, Keyspace, Value, View};
use crate::types::Stamp;
use bytes::Bytes;
use std::sync::Arc;

/// What a filter has of which nothing was said.
const RATE: f64 = 0.01;
const CAPACITY: i64 = 100;
const EXPANSION: i64 = 2;

/// What most commands here say of themselves.
const BASE: Spec = Spec {
    name: "",
    arity: 3,
    keys: Keys::ONE,
    scope: Scope::OneSlot,
    family: "bloom",
    syntax: "",
    summary: "",
    complexity: "O(L*H), L the number of layers, H that of hashes",
    since: "8.0.0",
    denyoom: false,
};

/// The share of false positives; `None` if the text is no number.
fn rate(word: &[u8]) -> Option<f64> {
    std::str::from_utf8(word).ok()?.parse().ok().filter(|rate: &f64| !rate.is_nan())
}

fn shape(rate: f64, capacity: i64, expansion: i64) -> Result<BloomShape, Reply> {
    let shape = BloomShape::new(rate, capacity as u64, expansion as u32);
    let shape = shape.ok_or_else(|| Reply::error("ERR could not create filter"))?;
    check_bytes(shape.bytes()).map(|()| shape)
}

/// The filter of which nothing was said.
fn default_shape() -> Result<BloomShape, Reply> {
    shape(RATE, CAPACITY, EXPANSION)
}

/// What a command allocates at once; `None` if it is none of those that make a filter, or is wrong.
pub(super) fn reserve_bytes(args: &Args) -> Option<u64> {
    let name = args.first().filter(|name| name.to_ascii_lowercase().starts_with(b"bf."))?;
    let shape = match &name[3..] {
        word if is(word, "reserve") && args.len() > 3 => Reserve::parse(args).ok()?.shape,
        word if is(word, "insert") && args.len() > 1 => Insert::parse(args).ok()?.shape,
        word if is(word, "add") || is(word, "madd") => default_shape().ok()?,
        _ => return None,
    };
    Some(shape.weight())
}

/// The filter an entry holds, if there is an entry.
fn filter_of(entry: Option<EntryRef<'_>>) -> Result<Option<&BloomValue>, Reply> {
    entry.map(|entry| entry.value().owned().and_then(Value::as_bloom).ok_or_else(wrong_type)).transpose()
}

fn make_if_absent(keyspace: &mut Keyspace, key: &[u8], shape: BloomShape) {
    if !keyspace.contains(key) {
        keyspace.set(key, Value::Bloom(BloomValue::new(shape).into()), None);
    }
}

/// Adds an item to a filter that is there; what it answers.
fn add(keyspace: &mut Keyspace, key: &[u8], item: &[u8]) -> Result<Reply, Reply> {
    let filter = filter_of(keyspace.get(key))?.ok_or_else(not_found)?;
    // Asked before the value is touched: what changes nothing must not count as a change.
    let new = filter.would_add(item).map_err(|full| match full {
        BloomFull::NoScaling => Reply::error("ERR non scaling filter is full"),
        BloomFull::NoLayer => Reply::error("ERR problem inserting into filter"),
    })?;
    if new {
        keyspace.edit(key, |value| {
            if let Value::Bloom(filter) = value {
                Arc::make_mut(filter).add(item).expect("the filter had room a moment ago");
            }
        });
    }
    Ok(Reply::Bool(new))
}

/// Adds items one after another; an error ends the answer, and with it the adding.
fn add_all(keyspace: &mut Keyspace, key: &[u8], items: &Args) -> Reply {
    if let Err(reply) = filter_of(keyspace.get(key)).and_then(|filter| filter.ok_or_else(not_found)) {
        return reply;
    }
    let mut replies = Vec::with_capacity(items.len());
    for item in items {
        match add(keyspace, key, item) {
            Ok(reply) => replies.push(reply),
            Err(reply) => {
                replies.push(reply);
                break;
            }
        }
    }
    Reply::Array(replies)
}

// -- Making

struct Reserve {
    key: Bytes,
    shape: BloomShape,
}

impl WriteCommand for Reserve {
    const SPEC: Spec = Spec {
        name: "bf.reserve",
        arity: -4,
        syntax: "BF.RESERVE key error_rate capacity [EXPANSION expansion] [NONSCALING]",
        summary: "Makes an empty bloom filter.",
        complexity: "O(1)",
        denyoom: true,
        ..BASE
    };

    fn parse(args: &Args) -> Result<Reserve, Reply> {
        if args.len() > 7 {
            return Err(wrong_arity("bf.reserve"));
        }
        let rate = rate(&args[2]).ok_or_else(|| Reply::error("ERR bad error rate"))?;
        if rate <= 0.0 || rate >= 1.0 {
            return Err(Reply::error("ERR error rate must be in the range (0.000000, 1.000000)"));
        }
        let outside = || format!("ERR capacity must be in the range [1, {CAPACITY_MAX}]");
        let capacity = number(&args[3], 1..=CAPACITY_MAX, "ERR bad capacity", outside)?;
        let options = &args[4..];
        let fixed = options.iter().any(|word| is(word, "nonscaling"));
        let mut expansion = if fixed { 0 } else { EXPANSION };
        if let Some(at) = options.iter().position(|word| is(word, "expansion")) {
            let value = options.get(at + 1).ok_or_else(|| Reply::error("ERR no expansion"))?;
            let outside = || format!("ERR expansion must be in the range [0, {EXPANSION_MAX}]");
            expansion = number(value, 0..=EXPANSION_MAX, "ERR bad expansion", outside)?;
        }
        if fixed && expansion > 0 {
            return Err(Reply::error("Nonscaling filters cannot expand"));
        }
        Ok(Reserve { key: args[1].clone(), shape: shape(rate, capacity, expansion)? })
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        match filter_of(keyspace.get(&self.key)) {
            Ok(Some(_)) => item_exists(),
            Ok(None) => {
                make_if_absent(keyspace, &self.key, self.shape);
                Reply::OK
            }
            Err(reply) => reply,
        }
    }
}

// -- Adding

struct Add {
    key: Bytes,
    item: Bytes,
    shape: BloomShape,
}

impl WriteCommand for Add {
    const SPEC: Spec = Spec {
        name: "bf.add",
        syntax: "BF.ADD key item",
        summary: "Adds an item to a bloom filter; makes the filter if there is none.",
        denyoom: true,
        ..BASE
    };

    fn parse(args: &Args) -> Result<Add, Reply> {
        Ok(Add { key: args[1].clone(), item: args[2].clone(), shape: default_shape()? })
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        make_if_absent(keyspace, &self.key, self.shape);
        either(add(keyspace, &self.key, &self.item))
    }
}

struct Madd {
    key: Bytes,
    items: Args,
    shape: BloomShape,
}

impl WriteCommand for Madd {
    const SPEC: Spec = Spec {
        name: "bf.madd",
        arity: -3,
        syntax: "BF.MADD key item [item ...]",
        summary: "Adds items to a bloom filter; makes the filter if there is none.",
        complexity: "O(N*L*H), N the number of items, L that of layers, H that of hashes",
        denyoom: true,
        ..BASE
    };

    fn parse(args: &Args) -> Result<Madd, Reply> {
        Ok(Madd { key: args[1].clone(), items: args[2..].into(), shape: default_shape()? })
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        make_if_absent(keyspace, &self.key, self.shape);
        add_all(keyspace, &self.key, &self.items)
    }
}

struct Insert {
    key: Bytes,
    create: bool,
    shape: BloomShape,
    items: Args,
}

impl WriteCommand for Insert {
    const SPEC: Spec = Spec {
        name: "bf.insert",
        arity: -4,
        syntax: "BF.INSERT key [CAPACITY capacity] [ERROR error] [EXPANSION expansion] [NOCREATE] [NONSCALING] ITEMS item [item ...]",
        summary: "Adds items to a bloom filter; can make the filter.",
        complexity: "O(N*L*H), N the number of items, L that of layers, H that of hashes",
        denyoom: true,
        ..BASE
    };

    fn parse(args: &Args) -> Result<Insert, Reply> {
        let (mut create, mut fixed, mut at) = (true, false, 2);
        let (mut error, mut capacity, mut expansion) = (RATE, CAPACITY, EXPANSION);
        while let Some(word) = args.get(at).filter(|word| !is(word, "items")) {
            at += 1;
            if is(word, "nocreate") {
                create = false;
                continue;
            } else if is(word, "nonscaling") {
                fixed = true;
                continue;
            }
            let value = args.get(at).ok_or_else(|| wrong_arity("bf.insert"));
            at += 1;
            if is(word, "error") {
                let inside = |rate: &f64| *rate > 0.0 && *rate < 1.0;
                error = rate(value?).filter(inside).ok_or_else(|| Reply::error("Bad error rate"))?;
            } else if is(word, "capacity") {
                capacity = number(value?, 1..=CAPACITY_MAX, "Bad capacity", || "Bad capacity".into())?;
            } else if is(word, "expansion") {
                expansion = number(value?, 0..=EXPANSION_MAX, "Bad expansion", || "Bad expansion".into())?;
            } else {
                return Err(unknown_argument());
            }
        }
        let items = args.get(at + 1..).filter(|items| !items.is_empty());
        let items = items.ok_or_else(|| wrong_arity("bf.insert"))?.into();
        let shape = shape(error, capacity, if fixed { 0 } else { expansion })?;
        Ok(Insert { key: args[1].clone(), create, shape, items })
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        if self.create {
            make_if_absent(keyspace, &self.key, self.shape);
        }
        add_all(keyspace, &self.key, &self.items)
    }
}

// -- Asking

struct Exists(Bytes, Bytes);

impl ReadCommand for Exists {
    const SPEC: Spec = Spec {
        name: "bf.exists",
        syntax: "BF.EXISTS key item",
        summary: "Whether an item may be in a bloom filter; if not, it surely is not.",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Exists, Reply> {
        Ok(Exists(args[1].clone(), args[2].clone()))
    }

    fn read(self, view: &View<'_>) -> Reply {
        let filter = filter_of(view.get(&self.0));
        either(filter.map(|filter| Reply::Bool(filter.is_some_and(|filter| filter.contains(&self.1)))))
    }
}

struct Mexists(Bytes, Args);

impl ReadCommand for Mexists {
    const SPEC: Spec = Spec {
        name: "bf.mexists",
        arity: -3,
        syntax: "BF.MEXISTS key item [item ...]",
        summary: "Whether each item may be in a bloom filter.",
        complexity: "O(N*L*H), N the number of items, L that of layers, H that of hashes",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Mexists, Reply> {
        Ok(Mexists(args[1].clone(), args[2..].into()))
    }

    fn read(self, view: &View<'_>) -> Reply {
        either(filter_of(view.get(&self.0)).map(|filter| {
            let found = |item: &Bytes| Reply::Bool(filter.is_some_and(|filter| filter.contains(item)));
            Reply::Array(self.1.iter().map(found).collect())
        }))
    }
}

struct Card(Bytes);

impl ReadCommand for Card {
    const SPEC: Spec = Spec {
        name: "bf.card",
        arity: 2,
        syntax: "BF.CARD key",
        summary: "How many different items were added to a bloom filter, as far as it can tell.",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Card, Reply> {
        Ok(Card(args[1].clone()))
    }

    fn read(self, view: &View<'_>) -> Reply {
        let filter = filter_of(view.get(&self.0));
        either(filter.map(|filter| Reply::Int(filter.map_or(0, BloomValue::items) as i64)))
    }
}

struct Info {
    key: Bytes,
    field: Option<Bytes>,
}

/// The fields of BF.INFO: how each is asked for. They stand in the order of the whole answer.
const FIELDS: [&str; 5] = ["capacity", "size", "filters", "items", "expansion"];

impl ReadCommand for Info {
    const SPEC: Spec = Spec {
        name: "bf.info",
        arity: -2,
        syntax: "BF.INFO key [CAPACITY | SIZE | FILTERS | ITEMS | EXPANSION]",
        summary: "The numbers of a bloom filter, or one of them.",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Info, Reply> {
        if args.len() > 3 {
            return Err(wrong_arity("bf.info"));
        }
        Ok(Info { key: args[1].clone(), field: args.get(2).cloned() })
    }

    fn read(self, view: &View<'_>) -> Reply {
        let filter = match filter_of(view.get(&self.key)) {
            Ok(Some(filter)) => filter,
            Ok(None) => return not_found(),
            Err(reply) => return reply,
        };
        let expansion = match filter.shape().expansion() {
            0 => Reply::Nil,
            expansion => Reply::Int(expansion.into()),
        };
        let mut lines = vec![
            line("Capacity", filter.capacity()),
            line("Size", filter.weight() as u64),
            line("Number of filters", filter.layers() as u64),
            line("Number of items inserted", filter.items()),
            (Reply::status("Expansion rate"), expansion),
        ];
        let Some(field) = self.field else { return Reply::Map(lines) };
        match FIELDS.iter().position(|name| is(&field, name)) {
            Some(at) => Reply::Array(vec![lines.swap_remove(at).1]),
            None => Reply::error("Invalid information value"),
        }
    }
}

pub static BLOOM: &[Command] = &[
    write::<Add>(),
    read::<Card>(),
    read::<Exists>(),
    read::<Info>(),
    write::<Insert>(),
    write::<Madd>(),
    read::<Mexists>(),
    write::<Reserve>(),
];
