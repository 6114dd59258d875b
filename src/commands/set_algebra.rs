//! Several sets taken together: intersection, union, difference, and the same stored under a key.
//!
//! All sources are looked at before anything is answered, so that one of a wrong type is an error whatever the others
//! hold, as in Redis. What is made comes in an order that is the same on all replicas.

use super::generic;
use super::set::{BASE, bulk, set_of};
use super::syntax::{either, is, syntax_error};
use super::{Command, Copied, Keys, ReadCommand, Spec, WriteCommand, read, write};
use crate::resp::{Args, Reply, integer};
use crate::state::events::Class;
use crate::state::{EntryRef, Keyspace, MemberRef, Packing, SetRef, SetValue, Value, View};
use crate::types::Stamp;
use bytes::Bytes;

/// What several sets become, sorted or not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Operation {
    Union,
    Intersection,
    Difference,
}

pub(super) const UNION: u8 = 0;
pub(super) const INTERSECTION: u8 = 1;
pub(super) const DIFFERENCE: u8 = 2;

impl Operation {
    pub(super) const fn of(number: u8) -> Operation {
        match number {
            UNION => Operation::Union,
            INTERSECTION => Operation::Intersection,
            _ => Operation::Difference,
        }
    }

    /// How much of sources of these sizes, in their order, is copied into the result at most.
    pub(super) fn copied(self, mut sizes: impl Iterator<Item = u64>) -> u64 {
        match self {
            Operation::Union => sizes.fold(0, u64::saturating_add),
            Operation::Intersection => sizes.min().unwrap_or(0),
            Operation::Difference => sizes.next().unwrap_or(0),
        }
    }
}

/// Names and texts of the command, and of the one that stores.
const fn spec(operation: Operation, stores: bool) -> Spec {
    let (names, syntaxes, summaries, complexity) = match operation {
        Operation::Union => (
            ["sunion", "sunionstore"],
            ["SUNION key [key ...]", "SUNIONSTORE destination key [key ...]"],
            [
                "Returns the members that any of some sets has.",
                "Stores the members that any of some sets has as a set; returns how many there are.",
            ],
            "O(N*log(N)), N the number of members of all sets",
        ),
        Operation::Intersection => (
            ["sinter", "sinterstore"],
            ["SINTER key [key ...]", "SINTERSTORE destination key [key ...]"],
            [
                "Returns the members that all of some sets have.",
                "Stores the members that all of some sets have as a set; returns how many there are.",
            ],
            "O(N*M*log(N)), N the number of members of the smallest set, M that of sets",
        ),
        Operation::Difference => (
            ["sdiff", "sdiffstore"],
            ["SDIFF key [key ...]", "SDIFFSTORE destination key [key ...]"],
            [
                "Returns the members of a set that none of some others has.",
                "Stores the members of a set that none of some others has as a set; returns how many there are.",
            ],
            "O(N*log(N)), N the number of members of all sets",
        ),
    };
    let at = stores as usize;
    let arity = if stores { -3 } else { -2 };
    let (name, syntax, summary) = (names[at], syntaxes[at], summaries[at]);
    Spec { name, arity, keys: Keys::ALL, syntax, summary, complexity, denyoom: stores, ..BASE }
}

/// The sets of these keys; `None` for a key that is not there.
fn sources<'a>(keys: &[Bytes], get: impl Fn(&[u8]) -> Option<EntryRef<'a>>) -> Result<Vec<Option<SetRef<'a>>>, Reply> {
    keys.iter().map(|key| set_of(get(key))).collect()
}

/// Members that all sets have.
fn intersection<'a>(sets: &[Option<SetRef<'a>>]) -> impl Iterator<Item = MemberRef<'a>> {
    // None where one is missing.
    let mut sets: Vec<SetRef<'a>> = sets.iter().copied().collect::<Option<_>>().unwrap_or_default();
    sets.sort_by_key(|set| set.len());
    let smallest = sets.first().copied();
    let in_all = move |member: &MemberRef<'a>| sets[1..].iter().all(|set| set.contains(member));
    smallest.into_iter().flat_map(SetRef::iter).filter(in_all)
}

/// The largest set, to which the others are added: a copy of it takes an instant.
fn union(sets: &[Option<SetRef<'_>>], packing: &Packing) -> SetValue {
    let place = (0..sets.len()).rev().max_by_key(|at| sets[*at].map_or(0, SetRef::len)).unwrap_or(0);
    let mut all = sets.get(place).copied().flatten().map_or_else(SetValue::new, SetRef::to_set);
    let others = sets.iter().enumerate().filter(|(at, _)| *at != place).filter_map(|(_, set)| *set);
    for member in others.flat_map(SetRef::iter) {
        all.add(&member, packing);
    }
    all
}

/// The first set, without what any other has: taken out of a copy, or left out, whatever is less to do.
fn difference(sets: &[Option<SetRef<'_>>], packing: &Packing) -> SetValue {
    let Some((Some(first), others)) = sets.split_first() else { return SetValue::new() };
    let others: Vec<SetRef<'_>> = others.iter().copied().flatten().collect();
    if others.iter().map(|set| set.len()).sum::<usize>() < first.len() {
        let mut rest = first.to_set();
        for member in others.into_iter().flat_map(SetRef::iter) {
            rest.remove(&member);
        }
        return rest;
    }
    SetValue::of(first.iter().filter(|member| !others.iter().any(|set| set.contains(member))), packing)
}

fn combined(operation: Operation, sets: &[Option<SetRef<'_>>], packing: &Packing) -> SetValue {
    match operation {
        Operation::Union => union(sets, packing),
        Operation::Intersection => SetValue::of(intersection(sets), packing),
        Operation::Difference => difference(sets, packing),
    }
}

/// SUNION, SINTER and SDIFF.
struct Combine<const OPERATION: u8>(Args);

impl<const OPERATION: u8> ReadCommand for Combine<OPERATION> {
    const SPEC: Spec = spec(Operation::of(OPERATION), false);

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(Combine(args[1..].into()))
    }

    fn read(self, view: &View<'_>) -> Reply {
        let operation = Operation::of(OPERATION);
        either(sources(&self.0, |key| view.get(key)).map(|sets| match operation {
            Operation::Intersection => Reply::Set(intersection(&sets).map(bulk).collect()),
            _ => Reply::Set(combined(operation, &sets, &view.packing()).as_ref().iter().map(bulk).collect()),
        }))
    }
}

/// SUNIONSTORE, SINTERSTORE and SDIFFSTORE.
struct Store<const OPERATION: u8> {
    to: Bytes,
    keys: Args,
}

impl<const OPERATION: u8> WriteCommand for Store<OPERATION> {
    const SPEC: Spec = spec(Operation::of(OPERATION), true);

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(Store { to: args[1].clone(), keys: args[2..].into() })
    }

    const COPIED: Option<Copied> = Some(|args, size| {
        let (to, keys) = (&args[1], &args[2..]);
        // What is there already is not added.
        let sizes = keys.iter().map(|key| if key == to { 0 } else { size(key).in_set() });
        Operation::of(OPERATION).copied(sizes)
    });

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        let made = sources(&self.keys, |key| keyspace.get(key));
        let made = made.map(|sets| combined(Operation::of(OPERATION), &sets, &keyspace.packing()));
        either(made.map(|set| {
            let count = set.as_ref().len();
            match count {
                0 => drop(generic::delete(keyspace, &self.to)),
                _ => {
                    keyspace.set(&self.to, Value::Set(set), None);
                    let event = match Operation::of(OPERATION) {
                        Operation::Union => "sunionstore",
                        Operation::Intersection => "sinterstore",
                        Operation::Difference => "sdiffstore",
                    };
                    keyspace.notify(Class::Set, event, &self.to);
                }
            }
            Reply::count(count)
        }))
    }
}

struct Sintercard {
    keys: Args,
    limit: usize,
}

impl ReadCommand for Sintercard {
    const SPEC: Spec = Spec {
        name: "sintercard",
        arity: -3,
        keys: Keys::Counted { at: 1, step: 1 },
        syntax: "SINTERCARD numkeys key [key ...] [LIMIT limit]",
        summary: "Returns how many members all of some sets have, counting up to a limit.",
        complexity: "O(N*M*log(N)), N the number of members of the smallest set, M that of sets",
        since: "7.0.0",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Sintercard, Reply> {
        let number = integer(&args[1]).and_then(|number| usize::try_from(number).ok()).filter(|number| *number > 0);
        let number = number.ok_or_else(|| Reply::error("ERR numkeys should be greater than 0"))?;
        if number > args.len() - 2 {
            return Err(Reply::error("ERR Number of keys can't be greater than number of args"));
        }
        let (keys, options) = args[2..].split_at(number);
        Ok(Sintercard { keys: keys.into(), limit: card_limit(options)? })
    }

    fn read(self, view: &View<'_>) -> Reply {
        let sets = sources(&self.keys, |key| view.get(key));
        either(sets.map(|sets| Reply::count(intersection(&sets).take(self.limit).count())))
    }
}

/// The LIMIT of SINTERCARD and ZINTERCARD; 0 and none at all are no limit.
pub(super) fn card_limit(options: &[Bytes]) -> Result<usize, Reply> {
    let mut limit = 0;
    for option in options.chunks(2) {
        let [word, number] = option else { return Err(syntax_error()) };
        if !is(word, "limit") {
            return Err(syntax_error());
        }
        let number = integer(number).and_then(|number| usize::try_from(number).ok());
        limit = number.ok_or_else(|| Reply::error("ERR LIMIT can't be negative"))?;
    }
    Ok(if limit == 0 { usize::MAX } else { limit })
}

/// The rest of the family.
pub static SET_ALGEBRA: &[Command] = &[
    read::<Combine<DIFFERENCE>>(),
    write::<Store<DIFFERENCE>>(),
    read::<Combine<INTERSECTION>>(),
    read::<Sintercard>(),
    write::<Store<INTERSECTION>>(),
    read::<Combine<UNION>>(),
    write::<Store<UNION>>(),
];
