//! What a group of consumers is given, and what it acknowledges: XREADGROUP and XACK.

use super::argument::{Sources, strict_id};
use super::group::{CREATES, distance, has_holes};
use super::{BASE, change, entry_reply, id_reply, stream_of};
use crate::commands::blocking::{Blocks, TURNS_MAX};
use crate::commands::syntax::either;
use crate::commands::{Keys, Spec, WriteCommand, quoting};
use crate::resp::{Args, Reply};
use crate::state::events::Class;
use crate::state::{Changed, Keyspace, StreamGroup, StreamId, StreamValue, one_more};
use crate::types::{Millis, Stamp};
use bytes::Bytes;

/// What is read of one stream.
#[derive(Clone, Copy)]
enum What {
    /// What nobody in the group was given yet.
    New,
    /// What this consumer was given and has not acknowledged, after an id.
    Pending(StreamId),
}

pub(super) struct Xreadgroup {
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

pub(super) struct Xack {
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

/// What nobody in the group was given yet goes to one of them.
pub(super) const XREADGROUP_BLOCKS: Blocks = Blocks {
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
