//! Pops of sorted sets that wait for a member: what each asks of a sorted set, and how long.
//!
//! Without the waiting they are the commands of `sorted.rs`, and so they are applied (`blocking.rs`).

use super::blocking::{Blocks, TURNS_MAX, timeout_ms};
use super::sorted::{BASE, Zmpop, bulk, pop};
use super::syntax::either;
use super::{Command, Keys, Spec, WriteCommand, write};
use crate::resp::{Args, Reply};
use crate::state::{EntryRef, Keyspace};
use crate::types::Stamp;

/// BZPOPMIN and BZPOPMAX.
struct Bzpop<const MAX: bool> {
    keys: Args,
}

impl<const MAX: bool> Bzpop<MAX> {
    fn run(&self, keyspace: &mut Keyspace) -> Result<Reply, Reply> {
        for key in &self.keys {
            let popped = pop(keyspace, key, 1, MAX, |members| {
                let mut reply = vec![Reply::Bulk(key.clone())];
                reply.extend(members.iter().flat_map(|here| [bulk(here.member), Reply::Double(here.score)]));
                Reply::Array(reply)
            })?;
            if let Some(popped) = popped {
                return Ok(popped);
            }
        }
        Ok(Reply::NilArray)
    }
}

impl<const MAX: bool> WriteCommand for Bzpop<MAX> {
    const SPEC: Spec = Spec {
        name: if MAX { "bzpopmax" } else { "bzpopmin" },
        arity: -3,
        keys: Keys::Range { first: 1, last: -2, step: 1 },
        syntax: if MAX { "BZPOPMAX key [key ...] timeout" } else { "BZPOPMIN key [key ...] timeout" },
        summary: if MAX {
            "Removes the member with the highest score from the first sorted set that exists; waits until there is one, \
             or for a number of seconds."
        } else {
            "Removes the member with the lowest score from the first sorted set that exists; waits until there is one, \
             or for a number of seconds."
        },
        complexity: "O(K + log(N)), K the number of keys, N that of members",
        since: "5.0.0",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        let last = args.len() - 1;
        timeout_ms(&args[last])?;
        Ok(Bzpop { keys: args[1..last].into() })
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        either(self.run(keyspace))
    }
}

struct Bzmpop(Zmpop);

impl WriteCommand for Bzmpop {
    const SPEC: Spec = Spec {
        name: "bzmpop",
        arity: -5,
        keys: Keys::Counted { at: 2, step: 1 },
        syntax: "BZMPOP timeout numkeys key [key ...] MIN | MAX [COUNT count]",
        summary: "ZMPOP that waits until there is a sorted set, or for a number of seconds.",
        complexity: "O(K + N*log(M)), K the number of keys, N the count, M the number of members there are",
        since: "7.0.0",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        let pop = Zmpop::parse_at(args, 2)?;
        timeout_ms(&args[1])?;
        Ok(Bzmpop(pop))
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        either(self.0.run(keyspace))
    }
}

/// Each member of a sorted set is one for somebody.
fn elements(_: &Args, entry: EntryRef<'_>) -> usize {
    entry.value().as_sorted().map_or(0, |sorted| sorted.len().min(TURNS_MAX))
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
    keys: |args| Zmpop::parse_at(args, 2).map_or(Vec::new(), |pop| pop.keys.to_vec()),
    timeout: |args| timeout_ms(&args[1]).ok(),
    settle: None,
    elements,
    takes: |args| Zmpop::parse_at(args, 2).map_or(1, |pop| pop.count),
    fails: None,
};

/// The family's part that waits.
pub static SORTED_BLOCKING: &[Command] =
    &[write::<Bzmpop>().blocking(MPOP), write::<Bzpop<true>>().blocking(POP), write::<Bzpop<false>>().blocking(POP)];
