//! What was given out and not acknowledged: who has it, and giving it to others. XPENDING, XCLAIM and XAUTOCLAIM.

use super::argument::{interval, strict_id};
use super::group::CREATES;
use super::{BASE, change, entry_reply, id_reply, stream_of};
use crate::commands::syntax::{either, is, syntax_error, want_integer};
use crate::commands::{ReadCommand, Spec, WriteCommand, quoting};
use crate::resp::{Args, Reply, integer};
use crate::state::events::Class;
use crate::state::{Changed, Keyspace, StreamGroup, StreamId, StreamValue, Value, View, one_more};
use crate::types::{Millis, Stamp};
use bytes::Bytes;

/// Pending entries that XAUTOCLAIM looks at for each that it may claim.
const LOOKED_AT: usize = 10;

fn no_group(key: &[u8], group: &[u8]) -> Reply {
    quoting(&["NOGROUP No such key '", "' or consumer group '", "'"], &[key, group])
}

pub(super) struct Xpending {
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

pub(super) struct Xclaim {
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
        // Ids, and from the first word on that is none, options; there may be no id at all.
        let ids: Vec<StreamId> = args[5..].iter().map_while(|word| strict_id(word, 0).ok()).collect();
        let options = Claim::parse(args, 5 + ids.len())?;
        Ok(Xclaim { key: args[1].clone(), group: args[2].clone(), consumer: args[3].clone(), idle, ids, options })
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        either(self.run(keyspace))
    }
}

pub(super) struct Xautoclaim {
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
