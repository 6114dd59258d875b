//! Several sorted sets, or sets, taken together: union, intersection, difference, and the same stored under a key.
//!
//! A set counts as a sorted one whose scores are all 1. What is made is a sorted set, shown in its order. Scores are put
//! together from the smallest source to the largest, as Redis does, so that sums are rounded alike.

use super::score::float;
use super::set_algebra::{DIFFERENCE, INTERSECTION, Operation, UNION, card_limit};
use super::sorted::{BASE, listed};
use super::sorted_range::store;
use super::syntax::{either, is, syntax_error, want_integer, wrong_type};
use super::{Command, Copied, Keys, ReadCommand, Size, Spec, WriteCommand, read, write};
use crate::resp::{Args, Reply};
use crate::state::{EntryRef, Keyspace, PackedLimits, SetRef, SortedRef, SortedValue, View};
use crate::types::Stamp;
use bytes::Bytes;

/// Names and texts of the command, and of the one that stores.
const fn spec(operation: Operation, stores: bool) -> Spec {
    let (names, syntaxes, summaries, complexity) = match operation {
        Operation::Union => (
            ["zunion", "zunionstore"],
            [
                "ZUNION numkeys key [key ...] [WEIGHTS weight [weight ...]] [AGGREGATE SUM | MIN | MAX] [WITHSCORES]",
                "ZUNIONSTORE destination numkeys key [key ...] [WEIGHTS weight [weight ...]] [AGGREGATE SUM | MIN | MAX]",
            ],
            [
                "Returns the members that any of some sorted sets has.",
                "Stores the members that any of some sorted sets has; returns how many there are.",
            ],
            "O(N*log(N)), N the number of members of all sorted sets",
        ),
        Operation::Intersection => (
            ["zinter", "zinterstore"],
            [
                "ZINTER numkeys key [key ...] [WEIGHTS weight [weight ...]] [AGGREGATE SUM | MIN | MAX] [WITHSCORES]",
                "ZINTERSTORE destination numkeys key [key ...] [WEIGHTS weight [weight ...]] [AGGREGATE SUM | MIN | MAX]",
            ],
            [
                "Returns the members that all of some sorted sets have.",
                "Stores the members that all of some sorted sets have; returns how many there are.",
            ],
            "O(N*M*log(N)), N the number of members of the smallest sorted set, M that of sorted sets",
        ),
        Operation::Difference => (
            ["zdiff", "zdiffstore"],
            ["ZDIFF numkeys key [key ...] [WITHSCORES]", "ZDIFFSTORE destination numkeys key [key ...]"],
            [
                "Returns the members of a sorted set that none of some others has.",
                "Stores the members of a sorted set that none of some others has; returns how many there are.",
            ],
            "O(N*log(N)), N the number of members of all sorted sets",
        ),
    };
    let at = stores as usize;
    let (arity, keys, since) = match stores {
        true if matches!(operation, Operation::Difference) => (-4, Keys::FirstAndCounted { at: 2 }, "6.2.0"),
        true => (-4, Keys::FirstAndCounted { at: 2 }, "2.0.0"),
        false => (-3, Keys::Counted { at: 1, step: 1 }, "6.2.0"),
    };
    let (name, syntax, summary) = (names[at], syntaxes[at], summaries[at]);
    Spec { name, arity, keys, syntax, summary, complexity, since, denyoom: stores, ..BASE }
}

/// How the scores of a member become one.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Aggregation {
    Sum,
    Min,
    Max,
}

impl Aggregation {
    fn put(self, left: f64, right: f64) -> f64 {
        match self {
            Aggregation::Sum => not_nan(left + right),
            Aggregation::Min => left.min(right),
            Aggregation::Max => left.max(right),
        }
    }
}

/// Infinity times nothing, and infinity less infinity, are nothing.
fn not_nan(score: f64) -> f64 {
    if score.is_nan() { 0.0 } else { score }
}

/// A source, whatever type it has.
#[derive(Clone, Copy)]
enum Source<'a> {
    Sorted(SortedRef<'a>),
    Set(SetRef<'a>),
}

impl<'a> Source<'a> {
    fn of(entry: EntryRef<'a>) -> Result<Source<'a>, Reply> {
        let sorted = entry.value().as_sorted().map(Source::Sorted);
        sorted.or_else(|| entry.value().as_set().map(Source::Set)).ok_or_else(wrong_type)
    }

    fn len(self) -> usize {
        match self {
            Source::Sorted(sorted) => sorted.len(),
            Source::Set(set) => set.len(),
        }
    }

    fn score(self, member: &[u8]) -> Option<f64> {
        match self {
            Source::Sorted(sorted) => sorted.score(member),
            Source::Set(set) => set.contains(member).then_some(1.0),
        }
    }

    /// Shows every member with its score, until told to stop.
    fn each(self, mut show: impl FnMut(&[u8], f64) -> bool) {
        match self {
            Source::Sorted(sorted) => drop(sorted.iter().find(|here| !show(here.member, here.score))),
            Source::Set(set) => drop(set.iter().find(|member| !show(member, 1.0))),
        }
    }
}

/// The arguments of all these commands.
struct Query {
    keys: Args,
    /// One a key.
    weights: Vec<f64>,
    aggregation: Aggregation,
    scores: bool,
}

impl Query {
    /// Reads the number of keys at `at`, the keys and all options behind them.
    fn parse(args: &Args, at: usize, operation: Operation, stores: bool, name: &str) -> Result<Query, Reply> {
        let (keys, mut rest) = counted_keys(args, at, name)?;
        let mut query =
            Query { keys: keys.into(), weights: vec![1.0; keys.len()], aggregation: Aggregation::Sum, scores: false };
        let combines = operation != Operation::Difference;
        while let Some((word, after)) = rest.split_first() {
            if combines && is(word, "weights") && after.len() >= keys.len() {
                let (weights, after) = after.split_at(keys.len());
                let weight = |text: &Bytes| float(text).ok_or_else(|| Reply::error("ERR weight value is not a float"));
                query.weights = weights.iter().map(weight).collect::<Result<_, Reply>>()?;
                rest = after;
            } else if combines && is(word, "aggregate") && !after.is_empty() {
                query.aggregation = match &after[0] {
                    word if is(word, "sum") => Aggregation::Sum,
                    word if is(word, "min") => Aggregation::Min,
                    word if is(word, "max") => Aggregation::Max,
                    _ => return Err(syntax_error()),
                };
                rest = &after[1..];
            } else if !stores && is(word, "withscores") {
                query.scores = true;
                rest = after;
            } else {
                return Err(syntax_error());
            }
        }
        Ok(query)
    }

    fn run<'a>(
        &self,
        operation: Operation,
        limits: PackedLimits,
        get: impl Fn(&[u8]) -> Option<EntryRef<'a>>,
    ) -> Result<SortedValue, Reply> {
        let sources = sources(&self.keys, get)?;
        let mut weighted: Vec<(Option<Source<'_>>, f64)> =
            sources.into_iter().zip(self.weights.iter().copied()).collect();
        if operation != Operation::Difference {
            weighted.sort_by_key(|(source, _)| source.map_or(0, Source::len));
        }
        let mut made = SortedValue::new();
        let Some(((first, weight), others)) = weighted.split_first() else { return Ok(made) };
        match operation {
            Operation::Union => {
                for (source, weight) in weighted.iter().filter_map(|(source, weight)| Some(((*source)?, *weight))) {
                    source.each(|member, score| {
                        let score = not_nan(score * weight);
                        let old = made.as_ref().score(member);
                        made.set(member, old.map_or(score, |old| self.aggregation.put(old, score)), limits);
                        true
                    });
                }
            }
            Operation::Intersection => {
                let Some(others) =
                    others.iter().map(|(source, weight)| Some(((*source)?, *weight))).collect::<Option<Vec<_>>>()
                else {
                    return Ok(made);
                };
                let all = |member: &[u8], score: f64| {
                    others.iter().try_fold(not_nan(score * weight), |score, (source, weight)| {
                        Some(self.aggregation.put(score, not_nan(source.score(member)? * weight)))
                    })
                };
                for source in first.iter() {
                    source.each(|member, score| {
                        if let Some(score) = all(member, score) {
                            made.set(member, score, limits);
                        }
                        true
                    });
                }
            }
            Operation::Difference => {
                let others: Vec<Source<'_>> = others.iter().filter_map(|(source, _)| *source).collect();
                for source in first.iter() {
                    source.each(|member, score| {
                        if others.iter().all(|other| other.score(member).is_none()) {
                            made.set(member, score, limits);
                        }
                        true
                    });
                }
            }
        }
        Ok(made)
    }
}

/// The keys behind their number at `at`, and what follows.
fn counted_keys<'a>(args: &'a Args, at: usize, name: &str) -> Result<(&'a [Bytes], &'a [Bytes]), Reply> {
    let number = want_integer(&args[at])?;
    let number = usize::try_from(number).ok().filter(|number| *number > 0);
    let number =
        number.ok_or_else(|| Reply::error(format!("ERR at least 1 input key is needed for '{name}' command")))?;
    args[at + 1..].split_at_checked(number).ok_or_else(syntax_error)
}

fn sources<'a>(keys: &[Bytes], get: impl Fn(&[u8]) -> Option<EntryRef<'a>>) -> Result<Vec<Option<Source<'a>>>, Reply> {
    keys.iter().map(|key| get(key).map(Source::of).transpose()).collect()
}

/// ZUNION, ZINTER and ZDIFF.
struct Combine<const OPERATION: u8>(Query);

impl<const OPERATION: u8> ReadCommand for Combine<OPERATION> {
    const SPEC: Spec = spec(Operation::of(OPERATION), false);

    fn parse(args: &Args) -> Result<Self, Reply> {
        Query::parse(args, 1, Operation::of(OPERATION), false, Self::SPEC.name).map(Combine)
    }

    fn read(self, view: &View<'_>) -> Reply {
        let made = self.0.run(Operation::of(OPERATION), view.packing().sorted, |key| view.get(key));
        either(made.map(|made| listed(made.as_ref().iter(), self.0.scores)))
    }
}

/// ZUNIONSTORE, ZINTERSTORE and ZDIFFSTORE.
struct Store<const OPERATION: u8> {
    to: Bytes,
    query: Query,
}

impl<const OPERATION: u8> WriteCommand for Store<OPERATION> {
    const SPEC: Spec = spec(Operation::of(OPERATION), true);

    fn parse(args: &Args) -> Result<Self, Reply> {
        let query = Query::parse(args, 2, Operation::of(OPERATION), true, Self::SPEC.name)?;
        Ok(Store { to: args[1].clone(), query })
    }

    const COPIED: Option<Copied> = Some(|args, size| {
        let Ok((keys, _)) = counted_keys(args, 2, "") else { return 0 };
        // What is there already is not added, but a set becomes a sorted one.
        let added = |key: &Bytes, size: Size| if *key == args[1] { size.ranking() } else { size.in_sorted() };
        let sizes = keys.iter().map(|key| added(key, size(key)));
        Operation::of(OPERATION).copied(sizes)
    });

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        let made = self.query.run(Operation::of(OPERATION), keyspace.packing().sorted, |key| keyspace.get(key));
        either(made.map(|made| store(keyspace, Self::SPEC.name, &self.to, made)))
    }
}

struct Zintercard {
    keys: Args,
    limit: usize,
}

impl ReadCommand for Zintercard {
    const SPEC: Spec = Spec {
        name: "zintercard",
        arity: -3,
        keys: Keys::Counted { at: 1, step: 1 },
        syntax: "ZINTERCARD numkeys key [key ...] [LIMIT limit]",
        summary: "Returns how many members all of some sorted sets have, counting up to a limit.",
        complexity: "O(N*M*log(N)), N the number of members of the smallest sorted set, M that of sorted sets",
        since: "7.0.0",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Zintercard, Reply> {
        let (keys, options) = counted_keys(args, 1, "zintercard")?;
        Ok(Zintercard { keys: keys.into(), limit: card_limit(options)? })
    }

    fn read(self, view: &View<'_>) -> Reply {
        either(sources(&self.keys, |key| view.get(key)).map(|sources| {
            let Some(mut sources) = sources.into_iter().collect::<Option<Vec<_>>>() else { return Reply::Int(0) };
            sources.sort_by_key(|source| source.len());
            let mut count = 0;
            sources[0].each(|member, _| {
                count += usize::from(sources[1..].iter().all(|other| other.score(member).is_some()));
                count < self.limit
            });
            Reply::count(count)
        }))
    }
}

/// The family's algebra.
pub static SORTED_ALGEBRA: &[Command] = &[
    read::<Combine<DIFFERENCE>>(),
    write::<Store<DIFFERENCE>>(),
    read::<Combine<INTERSECTION>>(),
    read::<Zintercard>(),
    write::<Store<INTERSECTION>>(),
    read::<Combine<UNION>>(),
    write::<Store<UNION>>(),
];
