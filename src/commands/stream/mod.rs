//! Streams: adding, reading, trimming, and what is told about them. Groups of consumers are in `group.rs`.
//!
//! Ids that the server makes are of the group clock, as every time here. Texts and edge cases are Redis 7.2's. Trimming
//! with `~` removes whole hundreds of entries, as Redis does where entries are short.

mod argument;
mod group;
mod group_read;
mod info;
mod pending;

pub use group::STREAM_GROUP;
pub use info::STREAM_INFO;

use super::blocking::Blocks;
use super::syntax::{either, is, syntax_error, want_integer, wrong_type};
use super::{Command, Keys, ReadCommand, Scope, Spec, WriteCommand, read, write, wrong_arity};
use crate::resp::{Args, Reply};
use crate::state::events::Class;
use crate::state::{Changed, EntryRef, Keyspace, StreamEntry, StreamId, StreamValue, Value, View};
use crate::types::{Millis, Stamp};
use argument::{Sources, interval, strict_id};
use bytes::Bytes;

/// What most commands here say of themselves.
const BASE: Spec = Spec {
    name: "",
    arity: 2,
    keys: Keys::ONE,
    scope: Scope::OneSlot,
    family: "stream",
    syntax: "",
    summary: "",
    complexity: "O(1)",
    since: "5.0.0",
    denyoom: false,
};

/// Entries of a block: what approximate trimming takes at once.
const BLOCK: usize = 100;
/// Entries that approximate trimming takes at most, unless it is told.
const TRIM_MAX: usize = 100 * BLOCK;

/// The stream of an entry, if there is one.
fn stream_of(entry: Option<EntryRef<'_>>) -> Result<Option<&StreamValue>, Reply> {
    entry.map(|entry| entry.value().owned().and_then(Value::as_stream).ok_or_else(wrong_type)).transpose()
}

/// Lets `change` work on the stream of a key, which the caller has seen.
fn change<R>(keyspace: &mut Keyspace, key: &[u8], change: impl FnOnce(&mut StreamValue) -> Changed<R>) -> R {
    let result = keyspace.change(key, |value| change(value.as_stream_mut().expect("the caller has seen a stream")));
    result.expect("the caller has seen the key")
}

/// Removes entries of a stream, if there is one, and answers how many `remove` says that they were.
fn lessen(
    keyspace: &mut Keyspace,
    key: &[u8],
    event: &'static str,
    remove: impl FnOnce(&mut StreamValue) -> usize,
) -> Reply {
    match stream_of(keyspace.get(key)) {
        Ok(Some(_)) => {}
        Ok(None) => return Reply::Int(0),
        Err(reply) => return reply,
    }
    let count = change(keyspace, key, |stream| {
        let count = remove(stream);
        Changed::when(count > 0, count)
    });
    if count > 0 {
        keyspace.notify(Class::Stream, event, key);
    }
    Reply::count(count)
}

fn id_reply(id: StreamId) -> Reply {
    Reply::bulk(id.to_string())
}

fn entry_reply(entry: &StreamEntry) -> Reply {
    let fields = entry.fields().map(|field| Reply::Bulk(Bytes::copy_from_slice(field)));
    Reply::Array(vec![id_reply(entry.id), Reply::Array(fields.collect())])
}

// -- Adding and trimming

/// What a trim goes by.
#[derive(Debug, Clone, Copy)]
enum Threshold {
    Length(usize),
    Id(StreamId),
}

#[derive(Debug, Clone, Copy)]
struct Trim {
    threshold: Threshold,
    /// Whole blocks only, and this many entries at most; 0: any number.
    approximate: Option<usize>,
}

impl Trim {
    /// How many entries go.
    fn count(self, stream: &StreamValue) -> usize {
        let surplus = match self.threshold {
            Threshold::Length(most) => stream.len().saturating_sub(most),
            Threshold::Id(first) => stream.before(first),
        };
        match self.approximate {
            None => surplus,
            Some(0) => surplus / BLOCK * BLOCK,
            Some(most) => surplus.min(most) / BLOCK * BLOCK,
        }
    }
}

/// The options of XADD and XTRIM.
#[derive(Default)]
struct Options {
    create: bool,
    trim: Option<Trim>,
    /// Where the id stands, in XADD.
    id_at: usize,
}

impl Options {
    fn parse(args: &Args, adds: bool) -> Result<Options, Reply> {
        let (mut at, mut create) = (2, true);
        let (mut threshold, mut approximate, mut limit) = (None, false, None);
        let negative = |name: &str| Reply::error(format!("ERR The {name} argument must be >= 0."));
        while let Some(word) = args.get(at) {
            let next = args.get(at + 1);
            if adds && &word[..] == b"*" {
                break;
            }
            let by_length = is(word, "maxlen");
            if (by_length || is(word, "minid")) && next.is_some() {
                if threshold.is_some() {
                    return Err(Reply::error(
                        "ERR syntax error, MAXLEN and MINID options at the same time are not compatible",
                    ));
                }
                approximate = false;
                if args.len() > at + 2 && (&args[at + 1][..] == b"~" || &args[at + 1][..] == b"=") {
                    approximate = &args[at + 1][..] == b"~";
                    at += 1;
                }
                threshold = Some(match by_length {
                    true => {
                        let most = want_integer(&args[at + 1])?;
                        Threshold::Length(usize::try_from(most).map_err(|_| negative("MAXLEN"))?)
                    }
                    false => Threshold::Id(strict_id(&args[at + 1], 0)?),
                });
                at += 2;
            } else if is(word, "limit") && next.is_some() {
                limit = Some(usize::try_from(want_integer(&args[at + 1])?).map_err(|_| negative("LIMIT"))?);
                at += 2;
            } else if adds && is(word, "nomkstream") {
                create = false;
                at += 1;
            } else if adds {
                break;
            } else {
                return Err(syntax_error());
            }
        }
        if adds && let Some(id) = args.get(at) {
            // What is wrong with it is told before what is wrong with the options as a whole.
            NewId::parse(id)?;
        }
        if limit.is_some_and(|limit| limit > 0) && threshold.is_none() {
            return Err(Reply::error("ERR syntax error, LIMIT cannot be used without specifying a trimming strategy"));
        }
        if !adds && threshold.is_none() {
            return Err(Reply::error("ERR syntax error, XTRIM must be called with a trimming strategy"));
        }
        if limit.is_some() && !approximate {
            return Err(Reply::error("ERR syntax error, LIMIT cannot be used without the special ~ option"));
        }
        let approximate = approximate.then(|| limit.unwrap_or(TRIM_MAX));
        Ok(Options { create, trim: threshold.map(|threshold| Trim { threshold, approximate }), id_at: at })
    }
}

/// The id of a new entry, as far as it was said.
#[derive(Debug, Clone, Copy)]
enum NewId {
    Any,
    Of(u64),
    Exactly(StreamId),
}

impl NewId {
    fn parse(word: &[u8]) -> Result<NewId, Reply> {
        if word == b"*" {
            return Ok(NewId::Any);
        }
        if let Some(ms) = word.strip_suffix(b"-*") {
            return Ok(NewId::Of(strict_id(ms, 0)?.ms));
        }
        strict_id(word, 0).map(NewId::Exactly)
    }

    /// The id after `last`; `None` if there is none, or the one that was asked for is not.
    fn after(self, last: StreamId, now: Millis) -> Option<StreamId> {
        match self {
            NewId::Any if now > last.ms => Some(StreamId { ms: now, seq: 0 }),
            NewId::Any => last.next(),
            NewId::Of(ms) if ms == last.ms => last.seq.checked_add(1).map(|seq| StreamId { ms, seq }),
            NewId::Of(ms) => Some(StreamId { ms, seq: 0 }).filter(|id| *id > last),
            NewId::Exactly(id) => Some(id).filter(|id| *id > last),
        }
    }
}

struct Xadd {
    key: Bytes,
    options: Options,
    id: NewId,
    fields: Args,
}

impl Xadd {
    fn run(self, keyspace: &mut Keyspace) -> Result<Reply, Reply> {
        let old = stream_of(keyspace.get(&self.key))?;
        if old.is_none() && !self.options.create {
            return Ok(Reply::Nil);
        }
        let last = old.map_or(StreamId::MIN, |stream| stream.last);
        if last == StreamId::MAX {
            let text = "ERR The stream has exhausted the last possible ID, unable to add more items";
            return Err(Reply::error(text));
        }
        let id = self.id.after(last, keyspace.clock()).ok_or_else(|| {
            Reply::error("ERR The ID specified in XADD is equal or smaller than the target stream top item")
        })?;
        let trimmed = keyspace.change_or_create(
            &self.key,
            || Value::Stream(Box::default()),
            |value| {
                let stream = value.as_stream_mut().expect("its type was just seen");
                stream.add(id, self.fields.iter().map(|field| &field[..]));
                let surplus = self.options.trim.map_or(0, |trim| trim.count(stream));
                stream.trim(surplus);
                Changed::Yes(surplus > 0)
            },
        );
        keyspace.notify(Class::Stream, "xadd", &self.key);
        if trimmed {
            keyspace.notify(Class::Stream, "xtrim", &self.key);
        }
        Ok(id_reply(id))
    }
}

impl WriteCommand for Xadd {
    const SPEC: Spec = Spec {
        name: "xadd",
        arity: -5,
        syntax: "XADD key [NOMKSTREAM] [MAXLEN | MINID [= | ~] threshold [LIMIT count]] * | id field value [field \
                 value ...]",
        summary: "Adds an entry to a stream, which is made if there is none; returns the entry's id.",
        complexity: "O(log(N))",
        denyoom: true,
        ..BASE
    };

    fn parse(args: &Args) -> Result<Xadd, Reply> {
        let options = Options::parse(args, true)?;
        let fields = args.get(options.id_at + 1..).unwrap_or_default();
        // As Redis: the id is looked at first.
        let id = args.get(options.id_at).ok_or_else(|| wrong_arity("xadd")).and_then(|word| NewId::parse(word));
        let id = id?;
        if fields.len() < 2 || !fields.len().is_multiple_of(2) {
            return Err(wrong_arity("xadd"));
        }
        if matches!(id, NewId::Exactly(StreamId::MIN)) {
            return Err(Reply::error("ERR The ID specified in XADD must be greater than 0-0"));
        }
        Ok(Xadd { key: args[1].clone(), id, fields: fields.into(), options })
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        either(self.run(keyspace))
    }
}

struct Xtrim {
    key: Bytes,
    trim: Trim,
}

impl WriteCommand for Xtrim {
    const SPEC: Spec = Spec {
        name: "xtrim",
        arity: -4,
        syntax: "XTRIM key MAXLEN | MINID [= | ~] threshold [LIMIT count]",
        summary: "Removes the oldest entries of a stream; returns how many.",
        complexity: "O(N), N the number of entries removed",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Xtrim, Reply> {
        let trim = Options::parse(args, false)?.trim.expect("XTRIM without a threshold was refused");
        Ok(Xtrim { key: args[1].clone(), trim })
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        lessen(keyspace, &self.key, "xtrim", |stream| {
            let count = self.trim.count(stream);
            stream.trim(count);
            count
        })
    }
}

struct Xdel {
    key: Bytes,
    ids: Vec<StreamId>,
}

impl WriteCommand for Xdel {
    const SPEC: Spec = Spec {
        name: "xdel",
        arity: -3,
        syntax: "XDEL key id [id ...]",
        summary: "Removes entries of a stream by their ids; returns how many there were.",
        complexity: "O(log(N)) for each",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Xdel, Reply> {
        let ids = args[2..].iter().map(|word| strict_id(word, 0)).collect::<Result<_, _>>()?;
        Ok(Xdel { key: args[1].clone(), ids })
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        lessen(keyspace, &self.key, "xdel", |stream| self.ids.iter().filter(|id| stream.delete(**id)).count())
    }
}

struct Xsetid {
    key: Bytes,
    last: StreamId,
    added: Option<u64>,
    deleted: Option<StreamId>,
}

impl Xsetid {
    fn run(self, keyspace: &mut Keyspace) -> Result<Reply, Reply> {
        let stream = stream_of(keyspace.get(&self.key))?.ok_or_else(|| Reply::error("ERR no such key"))?;
        if stream.final_entry().is_some_and(|entry| self.last < entry.id) {
            let text = "ERR The ID specified in XSETID is smaller than the target stream top item";
            return Err(Reply::error(text));
        }
        if self.last < self.deleted.unwrap_or(stream.deleted) {
            let text = "ERR The ID specified in XSETID is smaller than current max_deleted_entry_id";
            return Err(Reply::error(text));
        }
        if self.added.is_some_and(|added| added < stream.len() as u64) {
            let text = "ERR The entries_added specified in XSETID is smaller than the target stream length";
            return Err(Reply::error(text));
        }
        change(keyspace, &self.key, |stream| {
            stream.last = self.last;
            stream.added = self.added.unwrap_or(stream.added);
            stream.deleted = self.deleted.unwrap_or(stream.deleted);
            Changed::Yes(())
        });
        keyspace.notify(Class::Stream, "xsetid", &self.key);
        Ok(Reply::OK)
    }
}

impl WriteCommand for Xsetid {
    const SPEC: Spec = Spec {
        name: "xsetid",
        arity: -3,
        syntax: "XSETID key last-id [ENTRIESADDED entries-added] [MAXDELETEDID max-deleted-id]",
        summary: "Sets the last id of a stream, and its other counters.",
        denyoom: true,
        ..BASE
    };

    fn parse(args: &Args) -> Result<Xsetid, Reply> {
        let last = strict_id(&args[2], 0)?;
        let (mut added, mut deleted, mut at) = (None, None, 3);
        while let Some(word) = args.get(at) {
            let Some(value) = args.get(at + 1) else { return Err(syntax_error()) };
            if is(word, "entriesadded") {
                let positive = || Reply::error("ERR entries_added must be positive");
                added = Some(u64::try_from(want_integer(value)?).map_err(|_| positive())?);
            } else if is(word, "maxdeletedid") {
                let id = strict_id(value, 0)?;
                if id > last {
                    let text = "ERR The ID specified in XSETID is smaller than the provided max_deleted_entry_id";
                    return Err(Reply::error(text));
                }
                // Nothing was ever deleted at 0-0: it says nothing.
                deleted = Some(id).filter(|id| *id != StreamId::MIN);
            } else {
                return Err(syntax_error());
            }
            at += 2;
        }
        Ok(Xsetid { key: args[1].clone(), last, added, deleted })
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        either(self.run(keyspace))
    }
}

// -- Reading

struct Xlen(Bytes);

impl ReadCommand for Xlen {
    const SPEC: Spec =
        Spec { name: "xlen", syntax: "XLEN key", summary: "Returns the number of entries of a stream.", ..BASE };

    fn parse(args: &Args) -> Result<Xlen, Reply> {
        Ok(Xlen(args[1].clone()))
    }

    fn read(self, view: &View<'_>) -> Reply {
        either(stream_of(view.get(&self.0)).map(|stream| Reply::count(stream.map_or(0, StreamValue::len))))
    }
}

/// XRANGE, and XREVRANGE if `REVERSED`.
struct Range<const REVERSED: bool> {
    key: Bytes,
    first: StreamId,
    last: StreamId,
    /// 0 gives a missing array.
    count: usize,
}

impl<const REVERSED: bool> Range<REVERSED> {
    fn parse(args: &Args) -> Result<Self, Reply> {
        let (first, last) = match REVERSED {
            false => interval(&args[2], &args[3])?,
            true => interval(&args[3], &args[2])?,
        };
        let mut count = usize::MAX;
        let mut at = 4;
        while let Some(word) = args.get(at) {
            let value = args.get(at + 1).filter(|_| is(word, "count")).ok_or_else(syntax_error)?;
            count = usize::try_from(want_integer(value)?.max(0)).unwrap_or(usize::MAX);
            at += 2;
        }
        Ok(Range { key: args[1].clone(), first, last, count })
    }

    fn run(self, view: &View<'_>) -> Result<Reply, Reply> {
        let Some(stream) = stream_of(view.get(&self.key))? else { return Ok(Reply::Array(Vec::new())) };
        if self.count == 0 {
            return Ok(Reply::NilArray);
        }
        let entries = stream.range(self.first, self.last);
        Ok(Reply::Array(match REVERSED {
            false => entries.take(self.count).map(entry_reply).collect(),
            true => entries.rev().take(self.count).map(entry_reply).collect(),
        }))
    }
}

impl ReadCommand for Range<false> {
    const SPEC: Spec = Spec {
        name: "xrange",
        arity: -4,
        syntax: "XRANGE key start end [COUNT count]",
        summary: "Returns the entries of a stream with ids in a range.",
        complexity: "O(log(N)+M), M the number of entries returned",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Range::parse(args)
    }

    fn read(self, view: &View<'_>) -> Reply {
        either(self.run(view))
    }
}

impl ReadCommand for Range<true> {
    const SPEC: Spec = Spec {
        name: "xrevrange",
        arity: -4,
        syntax: "XREVRANGE key end start [COUNT count]",
        summary: "Returns the entries of a stream with ids in a range, the last first.",
        complexity: "O(log(N)+M), M the number of entries returned",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Range::parse(args)
    }

    fn read(self, view: &View<'_>) -> Reply {
        either(self.run(view))
    }
}

struct Xread {
    count: usize,
    /// Each key with what to read from it: what comes after an id, or after what is there now.
    sources: Vec<(Bytes, Option<StreamId>)>,
}

impl Xread {
    fn run(self, view: &View<'_>) -> Result<Reply, Reply> {
        let mut found = Vec::new();
        for (key, after) in self.sources {
            let stream = stream_of(view.get(&key))?;
            let (Some(stream), Some(first)) = (stream, after.map(StreamId::next)) else { continue };
            let Some(first) = first else { continue };
            let entries: Vec<Reply> = stream.range(first, StreamId::MAX).take(self.count).map(entry_reply).collect();
            if !entries.is_empty() {
                found.push((Reply::Bulk(key), Reply::Array(entries)));
            }
        }
        Ok(if found.is_empty() { Reply::NilArray } else { Reply::PairMap(found) })
    }
}

impl ReadCommand for Xread {
    const SPEC: Spec = Spec {
        name: "xread",
        arity: -4,
        keys: Keys::After { word: "streams" },
        syntax: "XREAD [COUNT count] [BLOCK milliseconds] STREAMS key [key ...] id [id ...]",
        summary: "Returns what came to streams after given ids.",
        complexity: "O(log(N)+M) for each stream, M the number of entries returned",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Xread, Reply> {
        let sources = Sources::parse(args, "xread")?;
        let pairs = sources.pairs.into_iter().map(|(key, id)| {
            // What comes after all there is now is nothing; one that waits has it settled before.
            let after = match &id[..] {
                b"$" => None,
                b">" => {
                    return Err(Reply::error(
                        "ERR The > ID can be specified only when calling XREADGROUP using the GROUP <group> <consumer> \
                         option.",
                    ));
                }
                id => Some(strict_id(id, 0)?),
            };
            Ok((key, after))
        });
        Ok(Xread { count: sources.count, sources: pairs.collect::<Result<_, Reply>>()? })
    }

    fn read(self, view: &View<'_>) -> Reply {
        either(self.run(view))
    }
}

/// A key that exists holds what comes after an id: as much as anybody asks, to all that ask.
const XREAD_BLOCKS: Blocks = Blocks {
    keys: |args| Sources::keys(args, "xread"),
    timeout: |args| Sources::timeout(args, "xread"),
    settle: Some(settle),
    elements: |args, entry| {
        let Ok(Xread { sources, .. }) = Xread::parse(args) else { return 0 };
        let Ok(Some(stream)) = stream_of(Some(entry)) else { return 0 };
        let newer =
            |after: StreamId| after.next().is_some_and(|first| stream.range(first, StreamId::MAX).next().is_some());
        let asked = sources.iter().filter(|(key, _)| key == entry.key());
        usize::from(asked.filter_map(|(_, after)| *after).any(newer))
    },
    takes: |_| 0,
    fails: None,
};

/// XREAD with the last id of each stream for `$`.
fn settle(args: &Args, view: &View<'_>) -> Reply {
    let keys = Sources::keys(args, "xread").len();
    let mut settled: Vec<Reply> = args.iter().cloned().map(Reply::Bulk).collect();
    for at in args.len() - keys..args.len() {
        if &args[at][..] == b"$" {
            match stream_of(view.get(&args[at - keys])) {
                Ok(stream) => settled[at] = id_reply(stream.map_or(StreamId::MIN, |stream| stream.last)),
                Err(wrong) => return wrong,
            }
        }
    }
    Reply::Array(settled)
}

pub static STREAM: &[Command] = &[
    write::<Xadd>(),
    write::<Xdel>(),
    read::<Xlen>(),
    read::<Range<false>>(),
    read::<Xread>().blocking(XREAD_BLOCKS),
    read::<Range<true>>(),
    write::<Xsetid>(),
    write::<Xtrim>(),
];
