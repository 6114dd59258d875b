//! Sets: members, each once. What takes several sets together is in `set_algebra.rs`.
//!
//! Texts and edge cases are Redis 7.2's. SPOP chooses by the entry's seed, so that all replicas choose alike.

use super::draw::{self, Count};
use super::syntax::{Step, either, syntax_error, want_integer, wrong_type};
use super::{Command, Keys, ReadCommand, Scope, Spec, WriteCommand, element_growth, read, write};
use crate::resp::{Args, Reply};
use crate::state::events::Class;
use crate::state::{Changed, EntryRef, Keyspace, MemberRef, SetRef, SetValue, Value, View};
use crate::types::Stamp;
use bytes::Bytes;

/// What most commands here say of themselves.
pub(super) const BASE: Spec = Spec {
    name: "",
    arity: 2,
    keys: Keys::ONE,
    scope: Scope::OneSlot,
    family: "set",
    syntax: "",
    summary: "",
    complexity: "O(1)",
    since: "1.0.0",
    denyoom: false,
};

// -- A set in the keyspace

/// The set an entry holds, if there is one; WRONGTYPE if it holds something else.
pub(super) fn set_of(entry: Option<EntryRef<'_>>) -> Result<Option<SetRef<'_>>, Reply> {
    entry.map(|entry| entry.value().as_set().ok_or_else(wrong_type)).transpose()
}

/// Changes the set of a key that is there; `None` if there is none.
fn change(keyspace: &mut Keyspace, key: &[u8], change: impl FnOnce(&mut SetValue) -> Changed<Reply>) -> Option<Reply> {
    keyspace.change(key, |value| value.as_set_mut().map_or_else(|| Changed::No(wrong_type()), change))
}

/// Adds members; how many are new, or WRONGTYPE.
fn add(keyspace: &mut Keyspace, key: &[u8], members: &[Bytes]) -> Reply {
    let (packing, version) = (keyspace.packing(), keyspace.version());
    let reply = keyspace.change_or_create(
        key,
        || Value::Set(SetValue::new()),
        |value| {
            let Some(set) = value.as_set_mut() else { return Changed::No(wrong_type()) };
            if let Some(first) = members.first() {
                set.expect(members.len(), first, &packing);
            }
            let added = members.iter().filter(|member| set.add(member, &packing)).count();
            Changed::when(added > 0, Reply::count(added))
        },
    );
    keyspace.notify_since(version, Class::Set, "sadd", key);
    reply
}

pub(super) fn bulk(member: MemberRef<'_>) -> Reply {
    Reply::Bulk(Bytes::copy_from_slice(&member))
}

// -- Members

struct Sadd {
    key: Bytes,
    members: Args,
}

impl WriteCommand for Sadd {
    const SPEC: Spec = Spec {
        name: "sadd",
        arity: -3,
        syntax: "SADD key member [member ...]",
        summary: "Adds members to a set; returns how many are new.",
        complexity: "O(N*log(M)), N the number of members given, M that of members there are",
        denyoom: true,
        ..BASE
    };

    fn parse(args: &Args) -> Result<Sadd, Reply> {
        Ok(Sadd { key: args[1].clone(), members: args[2..].into() })
    }

    fn growth(args: &Args) -> u64 {
        element_growth(args, args.len().saturating_sub(2))
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        add(keyspace, &self.key, &self.members)
    }
}

struct Srem {
    key: Bytes,
    members: Args,
}

impl WriteCommand for Srem {
    const SPEC: Spec = Spec {
        name: "srem",
        arity: -3,
        syntax: "SREM key member [member ...]",
        summary: "Removes members from a set; returns how many there were. A set without members is gone.",
        complexity: "O(N*log(M)), N the number of members given, M that of members there are",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Srem, Reply> {
        Ok(Srem { key: args[1].clone(), members: args[2..].into() })
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        let version = keyspace.version();
        let removed = change(keyspace, &self.key, |set| {
            let removed = self.members.iter().filter(|member| set.remove(member)).count();
            Changed::when(removed > 0, Reply::count(removed))
        });
        keyspace.notify_since(version, Class::Set, "srem", &self.key);
        removed.unwrap_or(Reply::Int(0))
    }
}

struct Smove {
    from: Bytes,
    to: Bytes,
    member: Bytes,
}

impl Smove {
    fn run(&self, keyspace: &mut Keyspace) -> Result<bool, Reply> {
        let Some(from) = set_of(keyspace.get(&self.from))? else { return Ok(false) };
        set_of(keyspace.get(&self.to))?;
        if !from.contains(&self.member) || self.from == self.to {
            return Ok(from.contains(&self.member));
        }
        change(keyspace, &self.from, |set| Changed::when(set.remove(&self.member), Reply::OK));
        keyspace.notify_change(Class::Set, "srem", &self.from);
        add(keyspace, &self.to, std::slice::from_ref(&self.member));
        Ok(true)
    }
}

impl WriteCommand for Smove {
    const SPEC: Spec = Spec {
        name: "smove",
        arity: 4,
        keys: Keys::Range { first: 1, last: 2, step: 1 },
        syntax: "SMOVE source destination member",
        summary: "Moves a member from one set to another; returns whether it was there.",
        complexity: "O(log(N)), N the number of members there are",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Smove, Reply> {
        Ok(Smove { from: args[1].clone(), to: args[2].clone(), member: args[3].clone() })
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        either(self.run(keyspace).map(Reply::int))
    }
}

// -- Asking

struct Scard(Bytes);

impl ReadCommand for Scard {
    const SPEC: Spec =
        Spec { name: "scard", syntax: "SCARD key", summary: "Returns how many members a set has.", ..BASE };

    fn parse(args: &Args) -> Result<Scard, Reply> {
        Ok(Scard(args[1].clone()))
    }

    fn read(self, view: &View<'_>) -> Reply {
        either(set_of(view.get(&self.0)).map(|set| Reply::count(set.map_or(0, SetRef::len))))
    }
}

struct Sismember {
    key: Bytes,
    member: Bytes,
}

impl ReadCommand for Sismember {
    const SPEC: Spec = Spec {
        name: "sismember",
        arity: 3,
        syntax: "SISMEMBER key member",
        summary: "Returns whether something is a member of a set.",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Sismember, Reply> {
        Ok(Sismember { key: args[1].clone(), member: args[2].clone() })
    }

    fn read(self, view: &View<'_>) -> Reply {
        let set = set_of(view.get(&self.key));
        either(set.map(|set| Reply::int(set.is_some_and(|set| set.contains(&self.member)))))
    }
}

struct Smismember {
    key: Bytes,
    members: Args,
}

impl ReadCommand for Smismember {
    const SPEC: Spec = Spec {
        name: "smismember",
        arity: -3,
        syntax: "SMISMEMBER key member [member ...]",
        summary: "Returns of each whether it is a member of a set.",
        complexity: "O(N), N the number of members given",
        since: "6.2.0",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Smismember, Reply> {
        Ok(Smismember { key: args[1].clone(), members: args[2..].into() })
    }

    fn read(self, view: &View<'_>) -> Reply {
        either(set_of(view.get(&self.key)).map(|set| {
            let found = |member: &Bytes| Reply::int(set.is_some_and(|set| set.contains(member)));
            Reply::Array(self.members.iter().map(found).collect())
        }))
    }
}

struct Smembers(Bytes);

impl ReadCommand for Smembers {
    const SPEC: Spec = Spec {
        name: "smembers",
        syntax: "SMEMBERS key",
        summary: "Returns all members of a set.",
        complexity: "O(N), N the number of members",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Smembers, Reply> {
        Ok(Smembers(args[1].clone()))
    }

    fn read(self, view: &View<'_>) -> Reply {
        let set = set_of(view.get(&self.0));
        either(set.map(|set| Reply::Set(set.into_iter().flat_map(SetRef::iter).map(bulk).collect())))
    }
}

struct Sscan {
    key: Bytes,
    step: Step,
}

impl ReadCommand for Sscan {
    const SPEC: Spec = Spec {
        name: "sscan",
        arity: -3,
        syntax: "SSCAN key cursor [MATCH pattern] [COUNT count]",
        summary: "Goes through the members of a set in steps; each step returns the cursor of the next and some members.",
        complexity: "O(1) a step, O(N) for all, N the number of members",
        since: "2.8.0",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Sscan, Reply> {
        Ok(Sscan { key: args[1].clone(), step: Step::parse(args, 2, |_| false)? })
    }

    fn read(self, view: &View<'_>) -> Reply {
        either(set_of(view.get(&self.key)).map(|set| {
            let (members, next) = set.map_or((Vec::new(), 0), |set| set.scan(self.step.cursor, self.step.count));
            let members = members.into_iter().filter(|member| self.step.matches(member)).map(bulk).collect();
            Reply::Array(vec![Reply::bulk(next.to_string()), Reply::Array(members)])
        }))
    }
}

// -- At random

struct Spop {
    key: Bytes,
    /// `None`: one, and not as an array.
    count: Option<usize>,
}

impl WriteCommand for Spop {
    const SPEC: Spec = Spec {
        name: "spop",
        arity: -2,
        syntax: "SPOP key [count]",
        summary: "Removes members chosen at random from a set and returns them.",
        complexity: "O(N*log(M)), N the count, M the number of members there are",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Spop, Reply> {
        let count = match &args[2..] {
            [] => None,
            [count] => Some(want_count(count)?),
            _ => return Err(syntax_error()),
        };
        Ok(Spop { key: args[1].clone(), count })
    }

    fn apply(self, keyspace: &mut Keyspace, stamp: &Stamp) -> Reply {
        let (mut draw, version) = (draw::of_entry(stamp), keyspace.version());
        let popped = change(keyspace, &self.key, |set| {
            let positions = draw::different(self.count.unwrap_or(1), set.as_ref().len(), &mut draw);
            if self.count.is_some() && positions.len() == set.as_ref().len() {
                let all = Reply::Set(set.as_ref().iter().map(bulk).collect());
                *set = SetValue::new();
                return Changed::Yes(all);
            }
            // From the end, so that positions stay what they are.
            let mut popped: Vec<Reply> = positions.iter().rev().map(|at| Reply::Bulk(set.remove_at(*at))).collect();
            match self.count {
                Some(_) => Changed::when(!popped.is_empty(), Reply::Set(popped)),
                None => Changed::Yes(popped.pop().expect("a set has a member")),
            }
        });
        keyspace.notify_since(version, Class::Set, "spop", &self.key);
        popped.unwrap_or(if self.count.is_some() { Reply::Set(Vec::new()) } else { Reply::Nil })
    }
}

/// A count that is not negative, as Redis reads it where it says this of one that is.
pub(super) fn want_count(text: &[u8]) -> Result<usize, Reply> {
    let count = want_integer(text).ok().and_then(|count| usize::try_from(count).ok());
    count.ok_or_else(|| Reply::error("ERR value is out of range, must be positive"))
}

struct Srandmember {
    key: Bytes,
    /// `None`: one, and not as an array.
    count: Option<Count>,
}

impl ReadCommand for Srandmember {
    const SPEC: Spec = Spec {
        name: "srandmember",
        arity: -2,
        syntax: "SRANDMEMBER key [count]",
        summary: "Returns members of a set chosen at random, each at most once unless the count is negative.",
        complexity: "O(N*log(M)), N the count, M the number of members there are",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Srandmember, Reply> {
        let count = match &args[2..] {
            [] => None,
            [count] => Some(Count::parse(count)?),
            _ => return Err(syntax_error()),
        };
        Ok(Srandmember { key: args[1].clone(), count })
    }

    fn read(self, view: &View<'_>) -> Reply {
        either(set_of(view.get(&self.key)).map(|set| {
            let count = self.count.unwrap_or(Count::Any(1));
            let positions = count.positions(set.map_or(0, SetRef::len), draw::of_view(view));
            let mut drawn = positions.into_iter().filter_map(|at| set.and_then(|set| set.nth(at)).map(bulk));
            match self.count {
                Some(_) => Reply::Array(drawn.collect()),
                None => drawn.next().unwrap_or(Reply::Nil),
            }
        }))
    }
}

/// The family, but for its algebra.
pub static SET: &[Command] = &[
    write::<Sadd>(),
    read::<Scard>(),
    read::<Sismember>(),
    read::<Smembers>(),
    read::<Smismember>(),
    write::<Smove>(),
    write::<Spop>(),
    read::<Srandmember>(),
    write::<Srem>(),
    read::<Sscan>(),
];
