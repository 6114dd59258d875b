//! Pops and moves of lists that wait for an element: what each asks of a list, and how long.
//!
//! Without the waiting they are the commands of `list.rs`, and so they are applied (`blocking.rs`).

use super::blocking::{Blocks, TURNS_MAX, timeout_ms};
use super::list::{Lmpop, Move, change, end, growth_of_move, pop};
use super::syntax::{either, wrong_type};
use super::{Command, Keys, Scope, Spec, WriteCommand, write};
use crate::resp::{Args, Reply};
use crate::state::events::Class;
use crate::state::{Changed, End, EntryRef, Keyspace};
use crate::types::Stamp;
use bytes::Bytes;

/// What the commands here say of themselves.
const BASE: Spec = Spec {
    name: "",
    arity: -3,
    keys: Keys::Range { first: 1, last: -2, step: 1 },
    scope: Scope::OneSlot,
    family: "list",
    syntax: "",
    summary: "",
    complexity: "O(N), N the number of keys",
    since: "2.0.0",
    denyoom: false,
};

/// BLPOP, and from the other end BRPOP.
struct Bpop<const BACK: bool> {
    keys: Args,
}

impl<const BACK: bool> Bpop<BACK> {
    fn run(&self, keyspace: &mut Keyspace) -> Result<Reply, Reply> {
        let limit = keyspace.packing().list;
        for key in &self.keys {
            match keyspace.get(key) {
                None => continue,
                Some(entry) if entry.value().as_list().is_none() => return Err(wrong_type()),
                Some(_) => {}
            }
            let (end, event) = if BACK { (End::Back, "rpop") } else { (End::Front, "lpop") };
            let popped = change(keyspace, key, |list| {
                let mut reply = vec![Reply::Bulk(key.clone())];
                reply.extend(pop(list, end, 1, limit));
                Changed::Yes(Reply::Array(reply))
            });
            keyspace.notify_change(Class::List, event, key);
            return Ok(popped.unwrap_or(Reply::NilArray));
        }
        Ok(Reply::NilArray)
    }
}

impl<const BACK: bool> WriteCommand for Bpop<BACK> {
    const SPEC: Spec = Spec {
        name: if BACK { "brpop" } else { "blpop" },
        syntax: if BACK { "BRPOP key [key ...] timeout" } else { "BLPOP key [key ...] timeout" },
        summary: if BACK {
            "Takes the last element of the first list that exists; waits until there is one, or for a number of seconds."
        } else {
            "Takes the first element of the first list that exists; waits until there is one, or for a number of seconds."
        },
        ..BASE
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        let last = args.len() - 1;
        timeout_ms(&args[last])?;
        Ok(Bpop { keys: args[1..last].into() })
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        either(self.run(keyspace))
    }
}

struct Blmpop(Lmpop);

impl WriteCommand for Blmpop {
    const SPEC: Spec = Spec {
        name: "blmpop",
        arity: -5,
        keys: Keys::Counted { at: 2, step: 1 },
        syntax: "BLMPOP timeout numkeys key [key ...] LEFT | RIGHT [COUNT count]",
        summary: "LMPOP that waits until there is a list, or for a number of seconds.",
        complexity: "O(N + M), N the number of keys, M of elements taken",
        since: "7.0.0",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        let pop = Lmpop::parse_at(args, 2)?;
        timeout_ms(&args[1])?;
        Ok(Blmpop(pop))
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        self.0.run(keyspace)
    }
}

struct Blmove(Move);

impl WriteCommand for Blmove {
    const SPEC: Spec = Spec {
        name: "blmove",
        arity: 6,
        keys: Keys::Range { first: 1, last: 2, step: 1 },
        syntax: "BLMOVE source destination LEFT | RIGHT LEFT | RIGHT timeout",
        summary: "LMOVE that waits until the source has an element, or for a number of seconds.",
        complexity: "O(1)",
        since: "6.2.0",
        denyoom: true,
        ..BASE
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        let (take, put) = (end(&args[3])?, end(&args[4])?);
        timeout_ms(&args[5])?;
        Ok(Blmove(Move { from: args[1].clone(), to: args[2].clone(), take, put }))
    }

    fn growth(args: &Args) -> u64 {
        growth_of_move(&args[2])
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        self.0.run(keyspace)
    }
}

struct Brpoplpush(Move);

impl WriteCommand for Brpoplpush {
    const SPEC: Spec = Spec {
        name: "brpoplpush",
        arity: 4,
        syntax: "BRPOPLPUSH source destination timeout",
        summary: "BLMOVE source destination RIGHT LEFT timeout.",
        since: "2.2.0",
        ..Blmove::SPEC
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        timeout_ms(&args[3])?;
        Ok(Brpoplpush(Move { from: args[1].clone(), to: args[2].clone(), take: End::Back, put: End::Front }))
    }

    fn growth(args: &Args) -> u64 {
        growth_of_move(&args[2])
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        self.0.run(keyspace)
    }
}

/// Each element of a list is one for somebody.
fn elements(_: &Args, entry: EntryRef<'_>) -> usize {
    entry.value().as_list().map_or(0, |list| list.len().min(TURNS_MAX))
}

const POP: Blocks = Blocks {
    keys: |args| args[1..args.len() - 1].to_vec(),
    timeout: |args| timeout_ms(&args[args.len() - 1]).ok(),
    settle: None,
    elements,
    takes: |_| 1,
    fails: None,
};

const MPOP: Blocks = Blocks {
    keys: |args| Lmpop::parse_at(args, 2).map_or(Vec::new(), |pop| pop.keys.to_vec()),
    timeout: |args| timeout_ms(&args[1]).ok(),
    settle: None,
    elements,
    takes: |args| Lmpop::parse_at(args, 2).map_or(1, |pop| pop.count),
    fails: None,
};

/// Only the source is waited for.
const MOVE: Blocks = Blocks { keys: |args| vec![Bytes::clone(&args[1])], ..POP };

/// The family's part that waits.
pub static LIST_BLOCKING: &[Command] = &[
    write::<Blmove>().blocking(MOVE),
    write::<Blmpop>().blocking(MPOP),
    write::<Bpop<false>>().blocking(POP),
    write::<Bpop<true>>().blocking(POP),
    write::<Brpoplpush>().blocking(MOVE),
];
