//! XINFO: what streams, their groups and their consumers are like.

use super::group::{lag, no_group_of};
use super::{BASE, BLOCK, entry_reply, id_reply, stream_of};
use crate::commands::help::{help, of_table};
use crate::commands::syntax::{either, is, subcommand_error, want_integer};
use crate::commands::{Command, Keys, ReadCommand, Scope, Spec, container, read};
use crate::resp::{Args, Reply};
use crate::state::{Consumer, StreamGroup, StreamId, StreamValue, View};
use crate::types::Millis;
use bytes::Bytes;

/// Entries that FULL shows unless it is told.
const SHOWN: usize = 10;

fn line(name: &'static str, value: Reply) -> (Reply, Reply) {
    (Reply::Bulk(Bytes::from_static(name.as_bytes())), value)
}

fn name(bytes: &[u8]) -> Reply {
    Reply::Bulk(Bytes::copy_from_slice(bytes))
}

fn number(value: u64) -> Reply {
    Reply::Int(value as i64)
}

fn or_nil(value: Option<u64>) -> Reply {
    value.map_or(Reply::Nil, number)
}

fn must_exist<'a>(view: &View<'a>, key: &[u8]) -> Result<&'a StreamValue, Reply> {
    stream_of(view.get(key))?.ok_or_else(|| Reply::error("ERR no such key"))
}

struct OfStream {
    key: Bytes,
    /// How many entries of everything to show.
    full: Option<usize>,
}

impl OfStream {
    fn run(self, view: &View<'_>) -> Result<Reply, Reply> {
        let stream = must_exist(view, &self.key)?;
        let first = stream.first().map_or(StreamId::MIN, |entry| entry.id);
        let blocks = stream.len().div_ceil(BLOCK);
        let mut lines = vec![
            line("length", Reply::count(stream.len())),
            line("radix-tree-keys", Reply::count(blocks)),
            line("radix-tree-nodes", Reply::count(blocks + 1)),
            line("last-generated-id", id_reply(stream.last)),
            line("max-deleted-entry-id", id_reply(stream.deleted)),
            line("entries-added", number(stream.added)),
            line("recorded-first-entry-id", id_reply(first)),
        ];
        match self.full {
            None => {
                let shown = |entry: Option<_>| entry.map_or(Reply::Nil, entry_reply);
                lines.extend([
                    line("groups", Reply::count(stream.groups().len())),
                    line("first-entry", shown(stream.first())),
                    line("last-entry", shown(stream.final_entry())),
                ]);
            }
            Some(most) => {
                let entries = stream.range(StreamId::MIN, StreamId::MAX).take(most).map(entry_reply).collect();
                let groups = stream.groups().map(|(name, group)| full_group(stream, name, group, most)).collect();
                lines.extend([line("entries", Reply::Array(entries)), line("groups", Reply::Array(groups))]);
            }
        }
        Ok(Reply::Map(lines))
    }
}

fn full_group(stream: &StreamValue, group_name: &[u8], group: &StreamGroup, most: usize) -> Reply {
    let pending = group.pending_range(StreamId::MIN, StreamId::MAX).take(most).map(|pending| {
        let owner = name(group.owner(pending));
        Reply::Array(vec![id_reply(pending.id), owner, number(pending.given_ms), number(pending.times)])
    });
    let pending = pending.collect();
    Reply::Map(vec![
        line("name", name(group_name)),
        line("last-delivered-id", id_reply(group.last)),
        line("entries-read", or_nil(group.read)),
        line("lag", lag(stream, group).map_or(Reply::Nil, Reply::Int)),
        line("pel-count", Reply::count(group.pending_len())),
        line("pending", Reply::Array(pending)),
        line(
            "consumers",
            Reply::Array(group.consumers().map(|consumer| full_consumer(group, consumer, most)).collect()),
        ),
    ])
}

fn full_consumer(group: &StreamGroup, consumer: &Consumer, most: usize) -> Reply {
    let pending = group.pending_of(consumer, StreamId::MIN, StreamId::MAX).take(most);
    let pending = pending
        .map(|pending| Reply::Array(vec![id_reply(pending.id), number(pending.given_ms), number(pending.times)]));
    Reply::Map(vec![
        line("name", name(consumer.name())),
        line("seen-time", number(consumer.seen_ms)),
        line("active-time", consumer.active_ms.map_or(Reply::Int(-1), number)),
        line("pel-count", Reply::count(consumer.pending())),
        line("pending", Reply::Array(pending.collect())),
    ])
}

impl ReadCommand for OfStream {
    const SPEC: Spec = Spec {
        name: "stream",
        arity: -3,
        keys: Keys::Range { first: 2, last: 2, step: 1 },
        syntax: "XINFO STREAM key [FULL [COUNT count]]",
        summary: "Tells about a stream.",
        ..BASE
    };

    fn parse(args: &Args) -> Result<OfStream, Reply> {
        let full = match args.len() {
            3 => None,
            4 if is(&args[3], "full") => Some(SHOWN),
            6 if is(&args[3], "full") && is(&args[4], "count") => match want_integer(&args[5])? {
                0 => Some(usize::MAX),
                count => Some(usize::try_from(count).unwrap_or(SHOWN)),
            },
            _ => return Err(subcommand_error("XINFO", &args[1])),
        };
        Ok(OfStream { key: args[2].clone(), full })
    }

    fn read(self, view: &View<'_>) -> Reply {
        either(self.run(view))
    }
}

struct Groups(Bytes);

impl ReadCommand for Groups {
    const SPEC: Spec = Spec {
        name: "groups",
        arity: 3,
        keys: Keys::Range { first: 2, last: 2, step: 1 },
        syntax: "XINFO GROUPS key",
        summary: "Tells about the groups of a stream.",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Groups, Reply> {
        Ok(Groups(args[2].clone()))
    }

    fn read(self, view: &View<'_>) -> Reply {
        either(must_exist(view, &self.0).map(|stream| {
            let groups = stream.groups().map(|(group_name, group)| {
                Reply::Map(vec![
                    line("name", name(group_name)),
                    line("consumers", Reply::count(group.consumers().len())),
                    line("pending", Reply::count(group.pending_len())),
                    line("last-delivered-id", id_reply(group.last)),
                    line("entries-read", or_nil(group.read)),
                    line("lag", lag(stream, group).map_or(Reply::Nil, Reply::Int)),
                ])
            });
            Reply::Array(groups.collect())
        }))
    }
}

struct Consumers {
    key: Bytes,
    group: Bytes,
}

impl Consumers {
    fn run(self, view: &View<'_>) -> Result<Reply, Reply> {
        let group = must_exist(view, &self.key)?.group(&self.group);
        let group = group.ok_or_else(|| no_group_of(&self.key, &self.group))?;
        let since = |ms: Millis| number(view.since(ms));
        let consumers = group.consumers().map(|consumer| {
            Reply::Map(vec![
                line("name", name(consumer.name())),
                line("pending", Reply::count(consumer.pending())),
                line("idle", since(consumer.seen_ms)),
                line("inactive", consumer.active_ms.map_or(Reply::Int(-1), since)),
            ])
        });
        Ok(Reply::Array(consumers.collect()))
    }
}

impl ReadCommand for Consumers {
    const SPEC: Spec = Spec {
        name: "consumers",
        arity: 4,
        keys: Keys::Range { first: 2, last: 2, step: 1 },
        syntax: "XINFO CONSUMERS key group",
        summary: "Tells about the consumers of a group.",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Consumers, Reply> {
        Ok(Consumers { key: args[2].clone(), group: args[3].clone() })
    }

    fn read(self, view: &View<'_>) -> Reply {
        either(self.run(view))
    }
}

const XINFO: Spec = Spec {
    name: "xinfo",
    arity: -2,
    keys: Keys::None,
    scope: Scope::Local,
    syntax: "XINFO subcommand",
    summary: "A container for commands that tell about streams.",
    ..BASE
};

static SUBCOMMANDS: &[Command] = &[
    read::<Consumers>(),
    read::<Groups>(),
    help(Spec { syntax: "XINFO HELP", summary: "The subcommands of XINFO.", ..BASE }, |_, _| {
        of_table("XINFO", SUBCOMMANDS)
    }),
    read::<OfStream>(),
];

pub static STREAM_INFO: &[Command] = &[container(XINFO, SUBCOMMANDS)];
