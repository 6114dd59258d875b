//! Groups of consumers: making and removing them and their consumers, and how far a group is. What they are given is in
//! `group_read.rs`, what they hold in `pending.rs`; the table of all three closes this file.

use super::argument::{bound, strict_id};
use super::group_read::{XREADGROUP_BLOCKS, Xack, Xreadgroup};
use super::pending::{Xautoclaim, Xclaim, Xpending};
use super::{BASE, change, stream_of};
use crate::commands::help::{help, of_table};
use crate::commands::syntax::{either, is, subcommand_error, want_integer};
use crate::commands::{Command, Keys, Scope, Spec, WriteCommand, container, quoting, read, write};
use crate::resp::{Args, Reply};
use crate::state::events::Class;
use crate::state::{Changed, Keyspace, StreamGroup, StreamId, StreamValue, Value};
use crate::types::Stamp;
use bytes::Bytes;

/// The key of a subcommand.
const SECOND: Keys = Keys::Range { first: 2, last: 2, step: 1 };

/// Entries of a stream up to an id, ever: what a group that stands there has read. `None` if that cannot be told.
pub(super) fn distance(stream: &StreamValue, id: StreamId) -> Option<u64> {
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
pub(super) fn has_holes(stream: &StreamValue, id: StreamId) -> bool {
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

/// The event of a consumer that is made, by whatever names it first.
pub(super) const CREATES: &str = "xgroup-createconsumer";

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

pub static STREAM_GROUP: &[Command] = &[
    write::<Xack>(),
    write::<Xautoclaim>(),
    write::<Xclaim>(),
    container(XGROUP, SUBCOMMANDS),
    read::<Xpending>(),
    write::<Xreadgroup>().blocking(XREADGROUP_BLOCKS),
];
