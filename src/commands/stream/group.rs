//! Groups of consumers: who reads what, and what was given out and not acknowledged.

use super::super::blocking::{Blocks, TURNS_MAX};
use super::argument::{Sources, bound, interval, strict_id};
use super::{BASE, change, entry_reply, id_reply, stream_of};
use crate::commands::help::{help, of_table};
use crate::commands::syntax::{either, is, subcommand_error, syntax_error, want_integer};
use crate::commands::{Command, Keys, ReadCommand, Scope, Spec, WriteCommand, container, quoting, read, write};
use crate::resp::{Args, Reply, integer};
use crate::state::events::Class;
use crate::state::{Changed, Keyspace, StreamGroup, StreamId, StreamValue, Value, View, one_more};
use crate::types::{Millis, Stamp};
use bytes::Bytes;

/// The key of a subcommand.
const SECOND: Keys = Keys::Range { first: 2, last: 2, step: 1 };

/// Pending entries that XAUTOCLAIM looks at for each that it may claim.
const LOOKED_AT: usize = 10;

fn no_group(key: &[u8], group: &[u8]) -> Reply {
    quoting(&["NOGROUP No such key '", "' or consumer group '", "'"], &[key, group])
}

/// Entries of a stream up to an id, ever: what a group that stands there has read. `None` if that cannot be told.
fn distance(stream: &StreamValue, id: StreamId) -> Option<u64> {
    let (added, length) = (stream.added, stream.len() as u64);
    if added == 0 {
        return Some(0);
    }
    if length == 0 && id <= stream.last || id == stream.last {
        return Some(added);
    }
    let first = stream.first()?.id;
    if id > stream.last || (stream.deleted != StreamId::MIN && stream.deleted >= first) {
        return None;
    }
    match id.cmp(&first) {
        std::cmp::Ordering::Less => Some(added.saturating_sub(length)),
        std::cmp::Ordering::Equal => Some(added.saturating_sub(length - 1)),
        std::cmp::Ordering::Greater => None,
    }
}

/// Whether an entry from `id` on was deleted out of the middle, so that counting on from there goes wrong.
fn has_holes(stream: &StreamValue, id: StreamId) -> bool {
    let behind_first = stream.first().is_some_and(|first| stream.deleted >= first.id);
    stream.deleted != StreamId::MIN && behind_first && stream.deleted >= id
}

/// Entries that a group has still to read; `None` if that cannot be told.
pub(super) fn lag(stream: &StreamValue, group: &StreamGroup) -> Option<i64> {
    if stream.added == 0 {
        return Some(0);
    }
    let read = group.read.filter(|_| !has_holes(stream, group.last)).or_else(|| distance(stream, group.last))?;
    // Both numbers may have been set at will.
    Some(stream.added.wrapping_sub(read) as i64)
}

// -- XGROUP

/// The event of a consumer that is made, by whatever names it first.
const CREATES: &str = "xgroup-createconsumer";

/// Where a group begins, and how far that is.
struct Start {
    /// `None`: behind all there is.
    id: Option<StreamId>,
    read: Option<u64>,
    create: bool,
}

impl Start {
    fn parse(args: &Args, may_create: bool) -> Result<Start, Reply> {
        let (mut read, mut create, mut at) = (None, false, 5);
        while let Some(word) = args.get(at) {
            if may_create && is(word, "mkstream") {
                create = true;
                at += 1;
            } else if is(word, "entriesread") && args.len() > at + 1 {
                let wrong = || Reply::error("ERR value for ENTRIESREAD must be positive or -1");
                read = match want_integer(&args[at + 1])? {
                    -1 => None,
                    number => Some(u64::try_from(number).map_err(|_| wrong())?),
                };
                at += 2;
            } else {
                return Err(subcommand_error("XGROUP", &args[1]));
            }
        }
        // An option may be said twice, as long as there are not more words than all of them once.
        if args.len() > if may_create { 8 } else { 7 } {
            return Err(subcommand_error("XGROUP", &args[1]));
        }
        // Behind the options, as in Redis.
        let id = match &args[4][..] {
            b"$" => None,
            word if may_create => Some(strict_id(word, 0)?),
            word => Some(bound(word, 0)?),
        };
        Ok(Start { id, read, create })
    }
}

/// A subcommand's stream, which must be there.
fn must_exist<'a>(keyspace: &'a Keyspace, key: &[u8]) -> Result<&'a StreamValue, Reply> {
    stream_of(keyspace.get(key))?.ok_or_else(|| {
        Reply::error(
            "ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to use the \
             MKSTREAM option to create an empty stream automatically.",
        )
    })
}

pub(super) fn no_group_of(key: &[u8], group: &[u8]) -> Reply {
    quoting(&["NOGROUP No such consumer group '", "' for key name '", "'"], &[group, key])
}

/// A subcommand's group, which must be there.
fn must_have(keyspace: &Keyspace, key: &[u8], group: &[u8]) -> Result<(), Reply> {
    if must_exist(keyspace, key)?.group(group).is_some() {
        return Ok(());
    }
    Err(no_group_of(key, group))
}

struct Create {
    key: Bytes,
    group: Bytes,
    start: Start,
}

impl Create {
    fn run(self, keyspace: &mut Keyspace) -> Result<Reply, Reply> {
        let old = stream_of(keyspace.get(&self.key))?;
        if old.is_none() && !self.start.create {
            must_exist(keyspace, &self.key)?;
        }
        if old.is_some_and(|stream| stream.group(&self.group).is_some()) {
            return Err(Reply::error("BUSYGROUP Consumer Group name already exists"));
        }
        keyspace.change_or_create(
            &self.key,
            || Value::Stream(Box::default()),
            |value| {
                let stream = value.as_stream_mut().expect("its type was just seen");
                let last = self.start.id.unwrap_or(stream.last);
                stream.create_group(&self.group, last, self.start.read);
                Changed::Yes(())
            },
        );
        keyspace.notify(Class::Stream, "xgroup-create", &self.key);
        Ok(Reply::OK)
    }
}

impl WriteCommand for Create {
    const SPEC: Spec = Spec {
        name: "create",
        arity: -5,
        keys: SECOND,
        syntax: "XGROUP CREATE key group id | $ [MKSTREAM] [ENTRIESREAD entries-read]",
        summary: "Makes a group of consumers.",
        denyoom: true,
        ..BASE
    };

    fn parse(args: &Args) -> Result<Create, Reply> {
        Ok(Create { key: args[2].clone(), group: args[3].clone(), start: Start::parse(args, true)? })
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        either(self.run(keyspace))
    }
}

struct Setid {
    key: Bytes,
    group: Bytes,
    start: Start,
}

impl WriteCommand for Setid {
    const SPEC: Spec = Spec {
        name: "setid",
        arity: -5,
        keys: SECOND,
        syntax: "XGROUP SETID key group id | $ [ENTRIESREAD entries-read]",
        summary: "Sets the last entry that a group was given.",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Setid, Reply> {
        Ok(Setid { key: args[2].clone(), group: args[3].clone(), start: Start::parse(args, false)? })
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        either(must_have(keyspace, &self.key, &self.group).map(|()| {
            change(keyspace, &self.key, |stream| {
                let last = self.start.id.unwrap_or(stream.last);
                stream.change_group(&self.group, |group| (group.last, group.read) = (last, self.start.read));
                Changed::Yes(())
            });
            keyspace.notify(Class::Stream, "xgroup-setid", &self.key);
            Reply::OK
        }))
    }
}

struct Destroy {
    key: Bytes,
    group: Bytes,
}

impl WriteCommand for Destroy {
    const SPEC: Spec = Spec {
        name: "destroy",
        arity: 4,
        keys: SECOND,
        syntax: "XGROUP DESTROY key group",
        summary: "Removes a group of consumers.",
        complexity: "O(N), N the number of pending entries",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Destroy, Reply> {
        Ok(Destroy { key: args[2].clone(), group: args[3].clone() })
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        either(must_exist(keyspace, &self.key).map(drop).map(|()| {
            let gone = change(keyspace, &self.key, |stream| {
                let gone = stream.remove_group(&self.group);
                Changed::when(gone, gone)
            });
            if gone {
                keyspace.notify(Class::Stream, "xgroup-destroy", &self.key);
            }
            Reply::Int(gone.into())
        }))
    }
}

/// CREATECONSUMER, and DELCONSUMER if `REMOVES`.
struct OfConsumer<const REMOVES: bool> {
    key: Bytes,
    group: Bytes,
    consumer: Bytes,
}

impl<const REMOVES: bool> OfConsumer<REMOVES> {
    fn parse(args: &Args) -> Self {
        OfConsumer { key: args[2].clone(), group: args[3].clone(), consumer: args[4].clone() }
    }

    fn run(self, keyspace: &mut Keyspace) -> Result<Reply, Reply> {
        must_have(keyspace, &self.key, &self.group)?;
        let (now, version) = (keyspace.clock(), keyspace.version());
        let reply = change(keyspace, &self.key, |stream| {
            let result = stream.change_group(&self.group, |group| match REMOVES {
                true => match group.remove_consumer(&self.consumer) {
                    Some(pending) => Changed::Yes(pending as i64),
                    None => Changed::No(0),
                },
                false => {
                    let new = group.create_consumer(&self.consumer, now);
                    Changed::when(new, new.into())
                }
            });
            result.expect("the group was just seen")
        });
        let event = if REMOVES { "xgroup-delconsumer" } else { CREATES };
        keyspace.notify_since(version, Class::Stream, event, &self.key);
        Ok(Reply::Int(reply))
    }
}

impl WriteCommand for OfConsumer<false> {
    const SPEC: Spec = Spec {
        name: "createconsumer",
        arity: 5,
        keys: SECOND,
        syntax: "XGROUP CREATECONSUMER key group consumer",
        summary: "Makes a consumer in a group.",
        since: "6.2.0",
        denyoom: true,
        ..BASE
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(OfConsumer::parse(args))
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        either(self.run(keyspace))
    }
}

impl WriteCommand for OfConsumer<true> {
    const SPEC: Spec = Spec {
        name: "delconsumer",
        arity: 5,
        keys: SECOND,
        syntax: "XGROUP DELCONSUMER key group consumer",
        summary: "Removes a consumer from a group; returns how many entries it had pending.",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(OfConsumer::parse(args))
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        either(self.run(keyspace))
    }
}

// -- XREADGROUP and XACK

/// What is read of one stream.
#[derive(Clone, Copy)]
enum What {
    /// What nobody in the group was given yet.
    New,
    /// What this consumer was given and has not acknowledged, after an id.
    Pending(StreamId),
}

struct Xreadgroup {
    group: Bytes,
    consumer: Bytes,
    count: usize,
    noack: bool,
    sources: Vec<(Bytes, What)>,
}

impl Xreadgroup {
    fn run(self, keyspace: &mut Keyspace) -> Result<Reply, Reply> {
        for (key, _) in &self.sources {
            let stream = stream_of(keyspace.get(key))?;
            if stream.and_then(|stream| stream.group(&self.group)).is_none() {
                let words = ["NOGROUP No such key '", "' or consumer group '", "' in XREADGROUP with GROUP option"];
                return Err(quoting(&words, &[key, &self.group]));
            }
        }
        let now = keyspace.clock();
        let mut found = Vec::new();
        for (key, what) in &self.sources {
            let mut new = false;
            let entries = change(keyspace, key, |stream| {
                stream.change_group(&self.group, |group| {
                    new = group.create_consumer(&self.consumer, now);
                    group.note_seen(&self.consumer, now, false);
                });
                // The time at which it was seen is a change as well.
                Changed::Yes(match what {
                    What::New => self.read_new(stream, now),
                    What::Pending(after) => Some(self.read_pending(stream, *after, now)),
                })
            });
            if new {
                keyspace.notify(Class::Stream, CREATES, key);
            }
            found.extend(entries.map(|entries| (Reply::Bulk(key.clone()), Reply::Array(entries))));
        }
        Ok(if found.is_empty() { Reply::NilArray } else { Reply::PairMap(found) })
    }

    fn read_new(&self, stream: &mut StreamValue, now: Millis) -> Option<Vec<Reply>> {
        let group = stream.group(&self.group).expect("the group was just seen");
        let (mut read, mut last) = (group.read, group.last);
        let mut entries = Vec::new();
        let mut ids = Vec::new();
        for entry in stream.range(last.next()?, StreamId::MAX).take(self.count) {
            entries.push(entry_reply(entry));
            ids.push(entry.id);
            read = match read {
                Some(read) if !has_holes(stream, entry.id) => Some(one_more(read)),
                _ => distance(stream, entry.id),
            };
            last = entry.id;
        }
        if ids.is_empty() {
            return None;
        }
        stream.change_group(&self.group, |group| {
            (group.read, group.last) = (read, last);
            group.note_seen(&self.consumer, now, true);
            if !self.noack {
                ids.iter().for_each(|id| group.give(*id, &self.consumer, now, 1));
            }
        });
        Some(entries)
    }

    fn read_pending(&self, stream: &mut StreamValue, after: StreamId, now: Millis) -> Vec<Reply> {
        let group = stream.group(&self.group).expect("the group was just seen");
        let consumer = group.consumer(&self.consumer).expect("the consumer was just made");
        let Some(first) = after.next() else { return Vec::new() };
        let pending = group.pending_of(consumer, first, StreamId::MAX).take(self.count).copied();
        let pending: Vec<_> = pending.collect();
        let mut again = Vec::new();
        let replies = pending.into_iter().map(|pending| match stream.get(pending.id) {
            Some(entry) => {
                again.push((pending.id, one_more(pending.times)));
                entry_reply(entry)
            }
            // It is gone, and still pending.
            None => Reply::Array(vec![id_reply(pending.id), Reply::NilArray]),
        });
        let replies = replies.collect();
        stream.change_group(&self.group, |group| {
            again.into_iter().for_each(|(id, times)| group.give(id, &self.consumer, now, times));
        });
        replies
    }
}

impl WriteCommand for Xreadgroup {
    const SPEC: Spec = Spec {
        name: "xreadgroup",
        arity: -7,
        keys: Keys::After { word: "streams" },
        syntax: "XREADGROUP GROUP group consumer [COUNT count] [BLOCK milliseconds] [NOACK] STREAMS key [key ...] id [id ...]",
        summary: "Gives a consumer what nobody in its group was given yet, or again what it has not acknowledged.",
        complexity: "O(log(N)+M) for each stream, M the number of entries returned",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Xreadgroup, Reply> {
        let sources = Sources::parse(args, "xreadgroup")?;
        let (group, consumer) = sources.group.expect("it was asked for");
        let pairs = sources.pairs.into_iter().map(|(key, id)| match &id[..] {
            b">" => Ok((key, What::New)),
            b"$" => Err(Reply::error(
                "ERR The $ ID is meaningless in the context of XREADGROUP: you want to read the history of this \
                 consumer by specifying a proper ID, or use the > ID to get new messages. The $ ID would just return \
                 an empty result set.",
            )),
            // Nothing can come after the last of all ids, so that Redis takes it for `>`.
            id => Ok((key, Some(strict_id(id, 0)?).filter(|id| *id != StreamId::MAX).map_or(What::New, What::Pending))),
        });
        let (count, noack) = (sources.count, sources.noack);
        Ok(Xreadgroup { group, consumer, count, noack, sources: pairs.collect::<Result<_, Reply>>()? })
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        either(self.run(keyspace))
    }
}

struct Xack {
    key: Bytes,
    group: Bytes,
    ids: Vec<StreamId>,
}

impl Xack {
    fn run(self, keyspace: &mut Keyspace) -> Result<Reply, Reply> {
        let stream = stream_of(keyspace.get(&self.key))?;
        if stream.and_then(|stream| stream.group(&self.group)).is_none() {
            return Ok(Reply::Int(0));
        }
        Ok(Reply::count(change(keyspace, &self.key, |stream| {
            let acknowledge = |group: &mut StreamGroup| self.ids.iter().filter(|id| group.acknowledge(**id)).count();
            let count = stream.change_group(&self.group, acknowledge).expect("the group was just seen");
            Changed::when(count > 0, count)
        })))
    }
}

impl WriteCommand for Xack {
    const SPEC: Spec = Spec {
        name: "xack",
        arity: -4,
        syntax: "XACK key group id [id ...]",
        summary: "Acknowledges entries: they are pending no more. Returns how many were.",
        complexity: "O(log(N)) for each",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Xack, Reply> {
        let ids = args[3..].iter().map(|word| strict_id(word, 0)).collect::<Result<_, _>>()?;
        Ok(Xack { key: args[1].clone(), group: args[2].clone(), ids })
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        either(self.run(keyspace))
    }
}

// -- Pending entries

struct Xpending {
    key: Bytes,
    group: Bytes,
    list: Option<List>,
}

struct List {
    idle: Millis,
    first: StreamId,
    last: StreamId,
    count: usize,
    consumer: Option<Bytes>,
}

impl Xpending {
    fn run(self, view: &View<'_>) -> Result<Reply, Reply> {
        let stream = stream_of(view.get(&self.key))?;
        let group = stream.and_then(|stream| stream.group(&self.group));
        let group = group.ok_or_else(|| no_group(&self.key, &self.group))?;
        Ok(match &self.list {
            None => summary(group),
            Some(list) => Reply::Array(list.rows(group, view)),
        })
    }
}

fn summary(group: &StreamGroup) -> Reply {
    let mut all = group.pending_range(StreamId::MIN, StreamId::MAX);
    let first = all.next();
    let Some(first) = first else {
        return Reply::Array(vec![Reply::Int(0), Reply::Nil, Reply::Nil, Reply::NilArray]);
    };
    let last = all.next_back().unwrap_or(first);
    let consumers = group.consumers().filter(|consumer| consumer.pending() > 0).map(|consumer| {
        let name = Reply::Bulk(Bytes::copy_from_slice(consumer.name()));
        Reply::Array(vec![name, Reply::bulk(consumer.pending().to_string())])
    });
    let consumers = Reply::Array(consumers.collect());
    Reply::Array(vec![Reply::count(group.pending_len()), id_reply(first.id), id_reply(last.id), consumers])
}

impl List {
    fn rows(&self, group: &StreamGroup, view: &View<'_>) -> Vec<Reply> {
        let (own, all) = match &self.consumer {
            Some(name) => match group.consumer(name) {
                Some(consumer) => (Some(group.pending_of(consumer, self.first, self.last)), None),
                None => (None, None),
            },
            None => (None, Some(group.pending_range(self.first, self.last))),
        };
        let pending = own.into_iter().flatten().chain(all.into_iter().flatten());
        let idle = pending.map(|pending| (pending, view.since(pending.given_ms)));
        let rows = idle.filter(|(_, idle)| *idle >= self.idle).take(self.count);
        rows.map(|(pending, idle)| {
            let owner = Reply::Bulk(Bytes::copy_from_slice(group.owner(pending)));
            let (idle, times) = (Reply::Int(idle as i64), Reply::Int(pending.times as i64));
            Reply::Array(vec![id_reply(pending.id), owner, idle, times])
        })
        .collect()
    }
}

impl ReadCommand for Xpending {
    const SPEC: Spec = Spec {
        name: "xpending",
        arity: -3,
        syntax: "XPENDING key group [[IDLE min-idle-time] start end count [consumer]]",
        summary: "Tells of entries that were given out and not acknowledged.",
        complexity: "O(log(N)+M), M the number of entries returned",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Xpending, Reply> {
        let (key, group) = (args[1].clone(), args[2].clone());
        if args.len() == 3 {
            return Ok(Xpending { key, group, list: None });
        }
        let mut at = 3;
        let mut idle = 0;
        if (6..=9).contains(&args.len()) && is(&args[3], "idle") {
            idle = want_integer(&args[4])?.max(0) as Millis;
            at = 5;
        }
        // Redis minds no words behind the consumer, as long as there are not many.
        if args.len() < at + 3 || args.len() > 9 {
            return Err(syntax_error());
        }
        let count = usize::try_from(want_integer(&args[at + 2])?.max(0)).unwrap_or(usize::MAX);
        let (first, last) = interval(&args[at], &args[at + 1])?;
        let consumer = args.get(at + 3).cloned();
        Ok(Xpending { key, group, list: Some(List { idle, first, last, count, consumer }) })
    }

    fn read(self, view: &View<'_>) -> Reply {
        either(self.run(view))
    }
}

fn min_idle(word: &[u8], command: &str) -> Result<Millis, Reply> {
    let wrong = || Reply::error(format!("ERR Invalid min-idle-time argument for {command}"));
    integer(word).map(|idle| idle.max(0) as Millis).ok_or_else(wrong)
}

struct Xclaim {
    key: Bytes,
    group: Bytes,
    consumer: Bytes,
    idle: Millis,
    ids: Vec<StreamId>,
    options: Claim,
}

/// The options of XCLAIM.
#[derive(Default)]
struct Claim {
    given: Option<Given>,
    times: Option<u64>,
    force: bool,
    just_ids: bool,
    last: Option<StreamId>,
}

#[derive(Clone, Copy)]
enum Given {
    Ago(i64),
    At(i64),
}

impl Claim {
    fn parse(args: &Args, mut at: usize) -> Result<Claim, Reply> {
        let mut claim = Claim::default();
        let number = |at: usize, name: &str| {
            integer(&args[at]).ok_or_else(|| Reply::error(format!("ERR Invalid {name} option argument for XCLAIM")))
        };
        while let Some(word) = args.get(at) {
            let more = args.len() > at + 1;
            at += 1;
            if is(word, "force") {
                claim.force = true;
            } else if is(word, "justid") {
                claim.just_ids = true;
            } else if is(word, "idle") && more {
                claim.given = Some(Given::Ago(number(at, "IDLE")?));
                at += 1;
            } else if is(word, "time") && more {
                claim.given = Some(Given::At(number(at, "TIME")?));
                at += 1;
            } else if is(word, "retrycount") && more {
                claim.times = Some(number(at, "RETRYCOUNT")?.max(0) as u64);
                at += 1;
            } else if is(word, "lastid") && more {
                claim.last = Some(strict_id(&args[at], 0)?);
                at += 1;
            } else {
                return Err(quoting(&["ERR Unrecognized XCLAIM option '", "'"], &[word]));
            }
        }
        Ok(claim)
    }

    /// When the entry counts as given; never after now.
    fn given_ms(&self, now: Millis) -> Millis {
        let at = match self.given {
            None => return now,
            Some(Given::Ago(ms)) => (now as i64).saturating_sub(ms),
            Some(Given::At(ms)) => ms,
        };
        Millis::try_from(at).ok().filter(|at| *at <= now).unwrap_or(now)
    }
}

/// Whether a group of a stream does not know a consumer yet.
fn is_new(keyspace: &Keyspace, key: &[u8], group: &[u8], consumer: &[u8]) -> bool {
    let stream = keyspace.get(key).and_then(|entry| entry.value().owned()).and_then(Value::as_stream);
    stream.and_then(|stream| stream.group(group)).is_some_and(|group| group.consumer(consumer).is_none())
}

impl Xclaim {
    fn run(self, keyspace: &mut Keyspace) -> Result<Reply, Reply> {
        let stream = stream_of(keyspace.get(&self.key))?;
        if stream.and_then(|stream| stream.group(&self.group)).is_none() {
            return Err(no_group(&self.key, &self.group));
        }
        let (now, new) = (keyspace.clock(), is_new(keyspace, &self.key, &self.group, &self.consumer));
        let claimed = change(keyspace, &self.key, |stream| Changed::Yes(self.claim(stream, now)));
        if new {
            keyspace.notify(Class::Stream, CREATES, &self.key);
        }
        Ok(Reply::Array(claimed))
    }

    fn claim(&self, stream: &mut StreamValue, now: Millis) -> Vec<Reply> {
        let given_ms = self.options.given_ms(now);
        let mut claimed = Vec::new();
        for &id in &self.ids {
            let entry =
                stream.get(id).map(|entry| if self.options.just_ids { id_reply(id) } else { entry_reply(entry) });
            let reply = stream.change_group(&self.group, |group| {
                let pending = group.pending(id).copied();
                let Some(reply) = entry else {
                    // Nobody can be given what is gone.
                    group.acknowledge(id);
                    return None;
                };
                match pending {
                    None if !self.options.force => return None,
                    Some(pending) if now.saturating_sub(pending.given_ms) < self.idle => return None,
                    _ => {}
                }
                let times = pending.map_or(0, |pending| pending.times);
                let times = if self.options.just_ids { times } else { one_more(times) };
                group.create_consumer(&self.consumer, now);
                group.give(id, &self.consumer, given_ms, self.options.times.unwrap_or(times));
                group.note_seen(&self.consumer, now, true);
                Some(reply)
            });
            claimed.extend(reply.flatten());
        }
        stream.change_group(&self.group, |group| {
            group.create_consumer(&self.consumer, now);
            group.note_seen(&self.consumer, now, !claimed.is_empty());
            group.last = group.last.max(self.options.last.unwrap_or(StreamId::MIN));
        });
        claimed
    }
}

impl WriteCommand for Xclaim {
    const SPEC: Spec = Spec {
        name: "xclaim",
        arity: -6,
        syntax: "XCLAIM key group consumer min-idle-time id [id ...] [IDLE ms] [TIME unix-time-milliseconds] [RETRYCOUNT \
                 count] [FORCE] [JUSTID] [LASTID lastid]",
        summary: "Gives pending entries of others to a consumer.",
        complexity: "O(log(N)) for each",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Xclaim, Reply> {
        let idle = min_idle(&args[4], "XCLAIM")?;
        // Ids, and from the first word on that is none, options.
        let ids: Vec<StreamId> = args[5..].iter().map_while(|word| strict_id(word, 0).ok()).collect();
        if ids.is_empty() {
            strict_id(&args[5], 0)?;
        }
        let options = Claim::parse(args, 5 + ids.len())?;
        Ok(Xclaim { key: args[1].clone(), group: args[2].clone(), consumer: args[3].clone(), idle, ids, options })
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        either(self.run(keyspace))
    }
}

struct Xautoclaim {
    key: Bytes,
    group: Bytes,
    consumer: Bytes,
    idle: Millis,
    first: StreamId,
    count: usize,
    just_ids: bool,
}

impl Xautoclaim {
    fn run(self, keyspace: &mut Keyspace) -> Result<Reply, Reply> {
        let stream = stream_of(keyspace.get(&self.key))?;
        if stream.and_then(|stream| stream.group(&self.group)).is_none() {
            return Err(no_group(&self.key, &self.group));
        }
        let (now, new) = (keyspace.clock(), is_new(keyspace, &self.key, &self.group, &self.consumer));
        let reply = change(keyspace, &self.key, |stream| Changed::Yes(self.claim(stream, now)));
        if new {
            keyspace.notify(Class::Stream, CREATES, &self.key);
        }
        Ok(reply)
    }

    fn claim(&self, stream: &mut StreamValue, now: Millis) -> Reply {
        let group = stream.group(&self.group).expect("the group was just seen");
        let (mut claimed, mut gone, mut mine) = (Vec::new(), Vec::new(), Vec::new());
        let mut pending = group.pending_range(self.first, StreamId::MAX);
        let mut tries = self.count.saturating_mul(LOOKED_AT);
        while tries > 0 && mine.len() + gone.len() < self.count {
            let Some(pending) = pending.next() else { break };
            tries -= 1;
            match stream.get(pending.id) {
                None => gone.push(pending.id),
                Some(_) if now.saturating_sub(pending.given_ms) < self.idle => {}
                Some(entry) => {
                    claimed.push(if self.just_ids { id_reply(entry.id) } else { entry_reply(entry) });
                    mine.push((pending.id, if self.just_ids { pending.times } else { one_more(pending.times) }));
                }
            }
        }
        let next = pending.next().map_or(StreamId::MIN, |pending| pending.id);
        drop(pending);
        stream.change_group(&self.group, |group| {
            group.create_consumer(&self.consumer, now);
            group.note_seen(&self.consumer, now, !mine.is_empty());
            for id in gone.iter() {
                group.acknowledge(*id);
            }
            mine.into_iter().for_each(|(id, times)| group.give(id, &self.consumer, now, times));
        });
        let gone = gone.into_iter().map(id_reply).collect();
        Reply::Array(vec![id_reply(next), Reply::Array(claimed), Reply::Array(gone)])
    }
}

impl WriteCommand for Xautoclaim {
    const SPEC: Spec = Spec {
        name: "xautoclaim",
        arity: -6,
        syntax: "XAUTOCLAIM key group consumer min-idle-time start [COUNT count] [JUSTID]",
        summary: "Gives entries that have been pending for long to a consumer, and tells where to go on.",
        complexity: "O(1) if COUNT is small",
        since: "6.2.0",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Xautoclaim, Reply> {
        let idle = min_idle(&args[4], "XAUTOCLAIM")?;
        let (first, _) = interval(&args[5], b"+")?;
        let (mut count, mut just_ids, mut at) = (100, false, 6);
        while let Some(word) = args.get(at) {
            if is(word, "count") && args.len() > at + 1 {
                let most = i64::MAX / 16;
                let wanted = integer(&args[at + 1]).filter(|count| (1..=most).contains(count));
                count = wanted.ok_or_else(|| Reply::error("ERR COUNT must be > 0"))? as usize;
                at += 2;
            } else if is(word, "justid") {
                just_ids = true;
                at += 1;
            } else {
                return Err(syntax_error());
            }
        }
        let (key, group, consumer) = (args[1].clone(), args[2].clone(), args[3].clone());
        Ok(Xautoclaim { key, group, consumer, idle, first, count, just_ids })
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        either(self.run(keyspace))
    }
}

const XGROUP: Spec = Spec {
    name: "xgroup",
    arity: -2,
    keys: Keys::None,
    scope: Scope::Local,
    syntax: "XGROUP subcommand",
    summary: "A container for commands about groups of consumers.",
    ..BASE
};

static SUBCOMMANDS: &[Command] = &[
    write::<Create>(),
    write::<OfConsumer<false>>(),
    write::<OfConsumer<true>>(),
    write::<Destroy>(),
    help(Spec { syntax: "XGROUP HELP", summary: "The subcommands of XGROUP.", ..BASE }, |_, _| {
        of_table("XGROUP", SUBCOMMANDS)
    }),
    write::<Setid>(),
];

/// What nobody in the group was given yet goes to one of them.
const XREADGROUP_BLOCKS: Blocks = Blocks {
    keys: |args| Sources::keys(args, "xreadgroup"),
    timeout: |args| Sources::timeout(args, "xreadgroup"),
    settle: None,
    elements: |args, entry| {
        let Ok(asked) = Xreadgroup::parse(args) else { return 0 };
        let Ok(Some(stream)) = stream_of(Some(entry)) else { return 0 };
        let Some(first) = stream.group(&asked.group).and_then(|group| group.last.next()) else { return 0 };
        stream.range(first, StreamId::MAX).take(TURNS_MAX).count()
    },
    takes: |args| Xreadgroup::parse(args).map_or(1, |asked| asked.count),
    fails: Some(|args, entry| {
        let Ok(asked) = Xreadgroup::parse(args) else { return false };
        let Ok(Some(stream)) = stream_of(entry) else { return true };
        stream.group(&asked.group).is_none()
    }),
};

pub static STREAM_GROUP: &[Command] = &[
    write::<Xack>(),
    write::<Xautoclaim>(),
    write::<Xclaim>(),
    container(XGROUP, SUBCOMMANDS),
    read::<Xpending>(),
    write::<Xreadgroup>().blocking(XREADGROUP_BLOCKS),
];
