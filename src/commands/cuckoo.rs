//! Cuckoo filters: the CF commands.
//!
//! The first half takes arguments apart and finds the filter, the second is the commands, the last lines are the
//! table. See `filter.rs` for what is RedisBloom's here.

use super::filter::{CAPACITY_MAX, EXPANSION_MAX, check_bytes, item_exists, line, not_found, number, unknown_argument};
use super::syntax::{either, is, wrong_type};
use super::{Command, Keys, ReadCommand, Scope, Spec, WriteCommand, read, write, wrong_arity};
use crate::resp::{Args, Reply, integer};
use crate::state::{CuckooFull, CuckooShape, CuckooValue, EntryRef, Keyspace, LoadError, Value, View};
use crate::types::Stamp;
use bytes::Bytes;
use std::sync::Arc;

/// What a filter has of which nothing was said.
const CAPACITY: i64 = 1024;
const BUCKET_SIZE: i64 = 2;
const MAX_ITERATIONS: i64 = 20;
const EXPANSION: i64 = 1;

/// What most commands here say of themselves.
const BASE: Spec = Spec {
    name: "",
    arity: 3,
    keys: Keys::ONE,
    scope: Scope::OneSlot,
    family: "cuckoo",
    syntax: "",
    summary: "",
    complexity: "O(L), L the number of layers",
    since: "8.0.0",
    denyoom: false,
};

/// The least filter has two buckets.
fn capacity_range(bucket_size: i64) -> std::ops::RangeInclusive<i64> {
    2 * bucket_size..=CAPACITY_MAX
}

/// All numbers are in their ranges.
fn shape(capacity: i64, bucket_size: i64, max_iterations: i64, expansion: i64) -> Result<CuckooShape, Reply> {
    let shape = CuckooShape::new(capacity as u32, bucket_size as u8, max_iterations as u16, expansion as u16);
    check_bytes(shape.bytes()).map(|()| shape)
}

fn default_shape() -> CuckooShape {
    CuckooShape::new(CAPACITY as u32, BUCKET_SIZE as u8, MAX_ITERATIONS as u16, EXPANSION as u16)
}

/// What a command allocates at once; `None` if it is none of those that make a filter, or is wrong.
pub(super) fn reserve_bytes(args: &Args) -> Option<u64> {
    let name = args.first().filter(|name| name.to_ascii_lowercase().starts_with(b"cf."))?;
    let shape = match &name[3..] {
        word if is(word, "reserve") && args.len() > 2 => Reserve::parse(args).ok()?.shape,
        word if is(word, "insert") || is(word, "insertnx") => Insert::<false>::parse(args).ok()?.shape,
        word if is(word, "add") || is(word, "addnx") => default_shape(),
        word if is(word, "loadchunk") && args.len() == 4 => {
            let load = LoadChunk::parse(args).ok().filter(|load| load.position == 1)?;
            return CuckooValue::header_bytes(&load.bytes);
        }
        _ => return None,
    };
    Some(shape.weight())
}

/// The filter an entry holds, if there is an entry.
fn filter_of(entry: Option<EntryRef<'_>>) -> Result<Option<&CuckooValue>, Reply> {
    entry.map(|entry| entry.value().owned().and_then(Value::as_cuckoo).ok_or_else(wrong_type)).transpose()
}

/// The same, for a command that needs to see all of it: while pieces are missing, nothing can be said of any item.
fn whole_filter_of(entry: Option<EntryRef<'_>>) -> Result<Option<&CuckooValue>, Reply> {
    match filter_of(entry)? {
        Some(filter) if filter.is_loading() => {
            Err(Reply::error("ERR the filter is still being loaded: CF.LOADCHUNK is to bring the rest"))
        }
        filter => Ok(filter),
    }
}

/// What became of an item.
enum Added {
    New,
    Known,
    Full(CuckooFull),
}

fn add(keyspace: &mut Keyspace, key: &[u8], item: &[u8], unique: bool) -> Result<Added, Reply> {
    let filter = whole_filter_of(keyspace.get(key))?.ok_or_else(not_found)?;
    if unique && filter.contains(item) {
        return Ok(Added::Known);
    }
    // Planned before the value is touched: what changes nothing must not count as a change.
    let plan = match filter.plan(item) {
        Ok(plan) => plan,
        Err(full) => return Ok(Added::Full(full)),
    };
    edit(keyspace, key, |filter| filter.insert(&plan));
    Ok(Added::New)
}

/// Changes a filter in place. Its caller has seen that the key holds one.
fn edit(keyspace: &mut Keyspace, key: &[u8], change: impl FnOnce(&mut CuckooValue)) {
    keyspace.edit(key, |value| {
        if let Value::Cuckoo(filter) = value {
            change(Arc::make_mut(filter));
        }
    });
}

fn make_if_absent(keyspace: &mut Keyspace, key: &[u8], shape: CuckooShape) {
    if !keyspace.contains(key) {
        keyspace.set(key, Value::Cuckoo(CuckooValue::new(shape).into()), None);
    }
}

// -- Making

struct Reserve {
    key: Bytes,
    shape: CuckooShape,
}

impl Reserve {
    /// The value of the first pair of that name, or the default.
    fn option(
        args: &Args,
        name: &'static str,
        range: std::ops::RangeInclusive<i64>,
        default: i64,
    ) -> Result<i64, Reply> {
        let Some(pair) = args[3..].chunks_exact(2).find(|pair| is(&pair[0], name)) else { return Ok(default) };
        let value = integer(&pair[1]).ok_or_else(|| Reply::error(format!("Couldn't parse {name}")))?;
        if range.contains(&value) {
            return Ok(value);
        }
        let text = format!("{name}: value must be in the range [{}, {}]", range.start(), range.end());
        Err(Reply::error(text))
    }
}

impl WriteCommand for Reserve {
    const SPEC: Spec = Spec {
        name: "cf.reserve",
        arity: -3,
        syntax: "CF.RESERVE key capacity [BUCKETSIZE bucketsize] [MAXITERATIONS maxiterations] [EXPANSION expansion]",
        summary: "Makes an empty cuckoo filter.",
        complexity: "O(1)",
        denyoom: true,
        ..BASE
    };

    fn parse(args: &Args) -> Result<Reserve, Reply> {
        if args.len().is_multiple_of(2) {
            return Err(wrong_arity("cf.reserve"));
        }
        let capacity = integer(&args[2]).ok_or_else(|| Reply::error("Bad capacity"))?;
        let max_iterations = Reserve::option(args, "MAXITERATIONS", 1..=65_535, MAX_ITERATIONS)?;
        let bucket_size = Reserve::option(args, "BUCKETSIZE", 1..=255, BUCKET_SIZE)?;
        let expansion = Reserve::option(args, "EXPANSION", 0..=EXPANSION_MAX, EXPANSION)?;
        if !capacity_range(bucket_size).contains(&capacity) {
            return Err(Reply::error(format!("Capacity must be in the range [2 * BUCKETSIZE, {CAPACITY_MAX}]")));
        }
        Ok(Reserve { key: args[1].clone(), shape: shape(capacity, bucket_size, max_iterations, expansion)? })
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

struct Add<const UNIQUE: bool> {
    key: Bytes,
    item: Bytes,
}

impl<const UNIQUE: bool> WriteCommand for Add<UNIQUE> {
    const SPEC: Spec = Spec {
        name: if UNIQUE { "cf.addnx" } else { "cf.add" },
        syntax: if UNIQUE { "CF.ADDNX key item" } else { "CF.ADD key item" },
        summary: if UNIQUE {
            "Adds an item to a cuckoo filter unless it may be there; makes the filter if there is none."
        } else {
            "Adds an item to a cuckoo filter, once more if it is there; makes the filter if there is none."
        },
        denyoom: true,
        ..BASE
    };

    fn parse(args: &Args) -> Result<Add<UNIQUE>, Reply> {
        Ok(Add { key: args[1].clone(), item: args[2].clone() })
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        make_if_absent(keyspace, &self.key, default_shape());
        either(add(keyspace, &self.key, &self.item, UNIQUE).map(|added| match added {
            Added::New => Reply::Bool(true),
            Added::Known => Reply::Bool(false),
            Added::Full(CuckooFull::NoRoom) => Reply::error("Filter is full"),
            Added::Full(CuckooFull::NoLayer) => Reply::error("Maximum expansions reached"),
        }))
    }
}

struct Insert<const UNIQUE: bool> {
    key: Bytes,
    create: bool,
    shape: CuckooShape,
    items: Args,
}

impl<const UNIQUE: bool> WriteCommand for Insert<UNIQUE> {
    const SPEC: Spec = Spec {
        name: if UNIQUE { "cf.insertnx" } else { "cf.insert" },
        arity: -4,
        syntax: if UNIQUE {
            "CF.INSERTNX key [CAPACITY capacity] [NOCREATE] ITEMS item [item ...]"
        } else {
            "CF.INSERT key [CAPACITY capacity] [NOCREATE] ITEMS item [item ...]"
        },
        summary: if UNIQUE {
            "Adds items to a cuckoo filter that may not be there yet; can make the filter."
        } else {
            "Adds items to a cuckoo filter; can make the filter."
        },
        complexity: "O(N*L), N the number of items, L that of layers",
        denyoom: true,
        ..BASE
    };

    fn parse(args: &Args) -> Result<Insert<UNIQUE>, Reply> {
        let (mut create, mut capacity, mut at) = (true, CAPACITY, 2);
        while let Some(word) = args.get(at).filter(|word| !is(word, "items")) {
            at += 1;
            if is(word, "nocreate") {
                create = false;
            } else if is(word, "capacity") {
                let value = args.get(at).ok_or_else(|| wrong_arity(Self::SPEC.name))?;
                let outside = || format!("Capacity must be in the range [cf-bucket-size * 2, {CAPACITY_MAX}]");
                capacity = number(value, capacity_range(BUCKET_SIZE), "Bad capacity", outside)?;
                at += 1;
            } else {
                return Err(unknown_argument());
            }
        }
        let items = args.get(at + 1..).filter(|items| !items.is_empty());
        let items = items.ok_or_else(|| wrong_arity(Self::SPEC.name))?.into();
        let shape = shape(capacity, BUCKET_SIZE, MAX_ITERATIONS, EXPANSION)?;
        Ok(Insert { key: args[1].clone(), create, shape, items })
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        if self.create {
            make_if_absent(keyspace, &self.key, self.shape);
        }
        // With NX there are three outcomes, which a truth value could not tell.
        let flag = |flag| if UNIQUE { Reply::Int(i64::from(flag)) } else { Reply::Bool(flag) };
        let added = self.items.iter().map(|item| {
            Ok(match add(keyspace, &self.key, item, UNIQUE)? {
                Added::New => flag(true),
                Added::Known => flag(false),
                Added::Full(_) => Reply::Int(-1),
            })
        });
        either(added.collect::<Result<_, Reply>>().map(Reply::Array))
    }
}

// -- Asking

struct Exists(Bytes, Bytes);

impl ReadCommand for Exists {
    const SPEC: Spec = Spec {
        name: "cf.exists",
        syntax: "CF.EXISTS key item",
        summary: "Whether an item may be in a cuckoo filter; if not, it surely is not.",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Exists, Reply> {
        Ok(Exists(args[1].clone(), args[2].clone()))
    }

    fn read(self, view: &View<'_>) -> Reply {
        let filter = whole_filter_of(view.get(&self.0));
        either(filter.map(|filter| Reply::Bool(filter.is_some_and(|filter| filter.contains(&self.1)))))
    }
}

struct Mexists(Bytes, Args);

impl ReadCommand for Mexists {
    const SPEC: Spec = Spec {
        name: "cf.mexists",
        arity: -3,
        syntax: "CF.MEXISTS key item [item ...]",
        summary: "Whether each item may be in a cuckoo filter.",
        complexity: "O(N*L), N the number of items, L that of layers",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Mexists, Reply> {
        Ok(Mexists(args[1].clone(), args[2..].into()))
    }

    fn read(self, view: &View<'_>) -> Reply {
        either(whole_filter_of(view.get(&self.0)).map(|filter| {
            let found = |item: &Bytes| Reply::Bool(filter.is_some_and(|filter| filter.contains(item)));
            Reply::Array(self.1.iter().map(found).collect())
        }))
    }
}

struct Count(Bytes, Bytes);

impl ReadCommand for Count {
    const SPEC: Spec = Spec {
        name: "cf.count",
        syntax: "CF.COUNT key item",
        summary: "How often an item may have been added to a cuckoo filter; never too low.",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Count, Reply> {
        Ok(Count(args[1].clone(), args[2].clone()))
    }

    fn read(self, view: &View<'_>) -> Reply {
        let filter = whole_filter_of(view.get(&self.0));
        either(filter.map(|filter| Reply::Int(filter.map_or(0, |filter| filter.count(&self.1)) as i64)))
    }
}

struct Info(Bytes);

impl ReadCommand for Info {
    const SPEC: Spec =
        Spec { name: "cf.info", arity: 2, syntax: "CF.INFO key", summary: "The numbers of a cuckoo filter.", ..BASE };

    fn parse(args: &Args) -> Result<Info, Reply> {
        Ok(Info(args[1].clone()))
    }

    fn read(self, view: &View<'_>) -> Reply {
        let info = |filter: &CuckooValue| {
            let shape = filter.shape();
            Reply::Map(vec![
                line("Size", filter.weight() as u64),
                line("Number of buckets", shape.buckets().into()),
                line("Number of filters", filter.layers() as u64),
                line("Number of items inserted", filter.items()),
                line("Number of items deleted", filter.deletes()),
                line("Bucket size", shape.bucket_size().into()),
                line("Expansion rate", shape.expansion().into()),
                line("Max iterations", shape.max_iterations().into()),
            ])
        };
        either(filter_of(view.get(&self.0)).and_then(|filter| filter.map(info).ok_or_else(not_found)))
    }
}

// -- Deleting

struct Del(Bytes, Bytes);

impl WriteCommand for Del {
    const SPEC: Spec = Spec {
        name: "cf.del",
        syntax: "CF.DEL key item",
        summary: "Removes one copy of an item that was added to a cuckoo filter.",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Del, Reply> {
        Ok(Del(args[1].clone(), args[2].clone()))
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        let Del(key, item) = self;
        let present = match whole_filter_of(keyspace.get(&key)) {
            Ok(Some(filter)) => filter.contains(&item),
            Ok(None) => return Reply::error("Not found"),
            Err(reply) => return reply,
        };
        if present {
            edit(keyspace, &key, |filter| {
                filter.remove(&item);
            });
        }
        Reply::Bool(present)
    }
}

// -- Dumping

struct ScanDump {
    key: Bytes,
    position: u64,
}

fn bad_position() -> Reply {
    Reply::error("Invalid position")
}

impl ReadCommand for ScanDump {
    const SPEC: Spec = Spec {
        name: "cf.scandump",
        syntax: "CF.SCANDUMP key iterator",
        summary: "A piece of a cuckoo filter for CF.LOADCHUNK, and the iterator of the next.",
        complexity: "O(N), N the length of the piece, at most 1 MiB",
        ..BASE
    };

    fn parse(args: &Args) -> Result<ScanDump, Reply> {
        let position = integer(&args[2]).and_then(|position| u64::try_from(position).ok());
        Ok(ScanDump { key: args[1].clone(), position: position.ok_or_else(bad_position)? })
    }

    fn read(self, view: &View<'_>) -> Reply {
        let filter = match whole_filter_of(view.get(&self.key)) {
            Ok(filter) => filter,
            Err(reply) => return reply,
        };
        match filter.map(|filter| filter.dump(self.position)) {
            Some(Some(piece)) => Reply::Array(vec![Reply::Int(piece.next as i64), Reply::bulk(piece.bytes)]),
            Some(None) => Reply::Array(vec![Reply::Int(0), Reply::Nil]),
            None => not_found(),
        }
    }
}

struct LoadChunk {
    key: Bytes,
    position: u64,
    bytes: Bytes,
}

impl LoadChunk {
    /// Makes the filter that a header describes.
    fn begin(&self, keyspace: &mut Keyspace) -> Result<Reply, Reply> {
        if filter_of(keyspace.get(&self.key))?.is_some() {
            return Err(item_exists());
        }
        let filter = CuckooValue::from_header(&self.bytes).map_err(refused)?;
        keyspace.set(&self.key, Value::Cuckoo(filter.into()), None);
        Ok(Reply::OK)
    }

    fn go_on(&self, keyspace: &mut Keyspace) -> Result<Reply, Reply> {
        let filter = filter_of(keyspace.get(&self.key))?.ok_or_else(not_found)?;
        if filter.check_piece(self.position, &self.bytes).map_err(refused)? {
            edit(keyspace, &self.key, |filter| {
                filter.load(self.position, &self.bytes).expect("the piece was checked a moment ago");
            });
        }
        Ok(Reply::OK)
    }
}

fn refused(error: LoadError) -> Reply {
    Reply::error(match error {
        LoadError::Header => "Invalid header",
        LoadError::TooLarge => "Couldn't create filter!",
        LoadError::Piece => "Couldn't load chunk!",
    })
}

impl WriteCommand for LoadChunk {
    const SPEC: Spec = Spec {
        name: "cf.loadchunk",
        arity: 4,
        syntax: "CF.LOADCHUNK key iterator data",
        summary: "Loads a piece that CF.SCANDUMP gave, with the iterator that came with it.",
        complexity: "O(N), N the length of the piece, at most 1 MiB",
        denyoom: true,
        ..BASE
    };

    fn parse(args: &Args) -> Result<LoadChunk, Reply> {
        let position = integer(&args[2]).and_then(|position| u64::try_from(position).ok());
        let position = position.filter(|position| *position > 0).ok_or_else(bad_position)?;
        if position == 1 {
            check_bytes(CuckooValue::header_bytes(&args[3]).ok_or_else(|| refused(LoadError::Header))?)?;
        }
        Ok(LoadChunk { key: args[1].clone(), position, bytes: args[3].clone() })
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        either(if self.position == 1 { self.begin(keyspace) } else { self.go_on(keyspace) })
    }
}

pub static CUCKOO: &[Command] = &[
    write::<Add<false>>(),
    write::<Add<true>>(),
    read::<Count>(),
    write::<Del>(),
    read::<Exists>(),
    read::<Info>(),
    write::<Insert<false>>(),
    write::<Insert<true>>(),
    write::<LoadChunk>(),
    read::<Mexists>(),
    write::<Reserve>(),
    read::<ScanDump>(),
];
