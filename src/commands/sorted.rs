//! Sorted sets: members with scores. Ranges are in `sorted_range.rs`, what takes several together in `sorted_algebra.rs`.
//!
//! Texts and edge cases are Redis 7.2's; scores are written as Redis 7.2 writes them, with the fewest digits that are
//! enough.

use super::draw::{self, Count};
use super::score::want_score;
use super::set::want_count;
use super::syntax::{Step, either, is, syntax_error, wrong_type};
use super::{Command, Keys, ReadCommand, Scope, Spec, WriteCommand, read, write, wrong_arity};
use crate::resp::{Args, Reply, double, integer};
use crate::state::events::Class;
use crate::state::{
    Changed, ENTRY_COST, EntryRef, Keyspace, PackedLimits, RANKED_COST, ScoredRef, SortedRef, SortedValue, Value, View,
};
use crate::types::Stamp;
use bytes::Bytes;

/// What most commands here say of themselves.
pub(super) const BASE: Spec = Spec {
    name: "",
    arity: 2,
    keys: Keys::ONE,
    scope: Scope::OneSlot,
    family: "sorted-set",
    syntax: "",
    summary: "",
    complexity: "O(log(N)), N the number of members",
    since: "1.2.0",
    denyoom: false,
};

// -- A sorted set in the keyspace

/// The sorted set an entry holds, if there is one; WRONGTYPE if it holds something else.
pub(super) fn sorted_of(entry: Option<EntryRef<'_>>) -> Result<Option<SortedRef<'_>>, Reply> {
    entry.map(|entry| entry.value().as_sorted().ok_or_else(wrong_type)).transpose()
}

/// Changes the sorted set of a key that is there; `None` if there is none.
pub(super) fn change(
    keyspace: &mut Keyspace,
    key: &[u8],
    change: impl FnOnce(&mut SortedValue) -> Changed<Reply>,
) -> Option<Reply> {
    keyspace.change(key, |value| value.as_sorted_mut().map_or_else(|| Changed::No(wrong_type()), change))
}

/// Removes the members at the positions that `choose` names, all of them together with the key; gives the reply that
/// `show` makes of them. `None` if there is no such key.
pub(super) fn remove_range(
    keyspace: &mut Keyspace,
    key: &[u8],
    choose: impl FnOnce(SortedRef<'_>) -> std::ops::Range<usize>,
    show: impl FnOnce(SortedRef<'_>, std::ops::Range<usize>) -> Reply,
) -> Result<Option<Reply>, Reply> {
    let Some(sorted) = sorted_of(keyspace.get(key))? else { return Ok(None) };
    let range = choose(sorted);
    let reply = show(sorted, range.clone());
    if range.len() == sorted.len() {
        // What is large is freed where nobody waits.
        keyspace.remove(key);
    } else if !range.is_empty() {
        change(keyspace, key, |sorted| {
            sorted.remove_range(range);
            Changed::Yes(Reply::OK)
        });
    }
    Ok(Some(reply))
}

pub(super) fn bulk(member: &[u8]) -> Reply {
    Reply::Bulk(Bytes::copy_from_slice(member))
}

/// Members with their scores, or without.
pub(super) fn listed<'a>(members: impl Iterator<Item = ScoredRef<'a>>, scores: bool) -> Reply {
    match scores {
        true => Reply::Pairs(members.map(|here| (bulk(here.member), Reply::Double(here.score))).collect()),
        false => Reply::Array(members.map(|here| bulk(here.member)).collect()),
    }
}

/// What members of these many bytes, all arguments together, can add to the account.
fn members_growth(args: &Args, count: usize) -> u64 {
    ENTRY_COST + (count * RANKED_COST) as u64 + args.iter().map(|arg| arg.len() as u64).sum::<u64>()
}

// -- Writing

/// NX, XX, GT, LT, CH and INCR of ZADD.
#[derive(Debug, Clone, Copy, Default)]
struct Options {
    nx: bool,
    xx: bool,
    gt: bool,
    lt: bool,
    ch: bool,
    incr: bool,
}

impl Options {
    /// Takes a word; whether it is an option.
    fn take(&mut self, word: &[u8]) -> bool {
        let option = match word {
            word if is(word, "nx") => &mut self.nx,
            word if is(word, "xx") => &mut self.xx,
            word if is(word, "gt") => &mut self.gt,
            word if is(word, "lt") => &mut self.lt,
            word if is(word, "ch") => &mut self.ch,
            word if is(word, "incr") => &mut self.incr,
            _ => return false,
        };
        *option = true;
        true
    }
}

/// What became of a member.
#[derive(Clone, Copy, PartialEq)]
enum Outcome {
    Kept,
    /// There already, with this score; whether that is another one.
    Known(f64, bool),
    New(f64),
    NotANumber,
}

impl Options {
    fn write(self, sorted: &mut SortedValue, member: &[u8], score: f64, limits: PackedLimits) -> Outcome {
        let Some(old) = sorted.as_ref().score(member) else {
            if self.xx {
                return Outcome::Kept;
            }
            sorted.set(member, score, limits);
            return Outcome::New(score);
        };
        if self.nx {
            return Outcome::Kept;
        }
        let score = if self.incr { old + score } else { score };
        if score.is_nan() {
            return Outcome::NotANumber;
        }
        if self.lt && score >= old || self.gt && score <= old {
            return Outcome::Kept;
        }
        if score != old {
            sorted.set(member, score, limits);
        }
        Outcome::Known(score, score != old)
    }
}

/// ZADD and ZINCRBY.
struct Zadd {
    key: Bytes,
    options: Options,
    members: Vec<(f64, Bytes)>,
}

impl Zadd {
    fn run(self, sorted: &mut SortedValue, limits: PackedLimits) -> Changed<Reply> {
        sorted.expect(self.members.len(), limits);
        let (mut added, mut updated, mut last) = (0, 0, Outcome::Kept);
        for (score, member) in &self.members {
            last = self.options.write(sorted, member, *score, limits);
            added += usize::from(matches!(last, Outcome::New(_)));
            updated += usize::from(matches!(last, Outcome::Known(_, true)));
        }
        let reply = match last {
            _ if !self.options.incr => Reply::count(if self.options.ch { added + updated } else { added }),
            Outcome::Kept => Reply::Nil,
            Outcome::Known(score, _) | Outcome::New(score) => Reply::Double(score),
            Outcome::NotANumber => Reply::error("ERR resulting score is not a number (NaN)"),
        };
        Changed::when(added + updated > 0, reply)
    }
}

impl WriteCommand for Zadd {
    const SPEC: Spec = Spec {
        name: "zadd",
        arity: -4,
        syntax: "ZADD key [NX | XX] [GT | LT] [CH] [INCR] score member [score member ...]",
        summary: "Adds members with scores to a sorted set, or gives them other scores; returns how many are new.",
        complexity: "O(N*log(M)), N the number of members given, M that of members there are",
        denyoom: true,
        ..BASE
    };

    fn parse(args: &Args) -> Result<Zadd, Reply> {
        let mut options = Options::default();
        let count = args[2..].iter().take_while(|word| options.take(word)).count();
        let pairs = &args[2 + count..];
        if pairs.is_empty() || !pairs.len().is_multiple_of(2) {
            return Err(syntax_error());
        }
        if options.nx && options.xx {
            return Err(Reply::error("ERR XX and NX options at the same time are not compatible"));
        }
        // Of the three at most one.
        if [options.gt, options.lt, options.nx].into_iter().filter(|is_set| *is_set).count() > 1 {
            return Err(Reply::error("ERR GT, LT, and/or NX options at the same time are not compatible"));
        }
        if options.incr && pairs.len() > 2 {
            return Err(Reply::error("ERR INCR option supports a single increment-element pair"));
        }
        let pair = |pair: &[Bytes]| Ok((want_score(&pair[0])?, pair[1].clone()));
        let members = pairs.chunks_exact(2).map(pair).collect::<Result<_, Reply>>()?;
        Ok(Zadd { key: args[1].clone(), options, members })
    }

    fn growth(args: &Args) -> u64 {
        members_growth(args, args.len() / 2)
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        let (limits, key, version) = (keyspace.packing().sorted, self.key.clone(), keyspace.version());
        let event = if self.options.incr { "zincr" } else { "zadd" };
        let reply = keyspace.change_or_create(
            &key,
            || Value::Sorted(SortedValue::new()),
            |value| match value.as_sorted_mut() {
                Some(sorted) => self.run(sorted, limits),
                None => Changed::No(wrong_type()),
            },
        );
        keyspace.notify_since(version, Class::SortedSet, event, &key);
        reply
    }
}

struct Zincrby(Zadd);

impl WriteCommand for Zincrby {
    const SPEC: Spec = Spec {
        name: "zincrby",
        arity: 4,
        syntax: "ZINCRBY key increment member",
        summary: "Adds to the score of a member of a sorted set; one that is not there counts as 0. Returns the score.",
        denyoom: true,
        ..BASE
    };

    fn parse(args: &Args) -> Result<Zincrby, Reply> {
        let options = Options { incr: true, ..Options::default() };
        // In Redis it is a ZADD, and such a word one of its options: then a member is missing.
        if ["nx", "xx", "gt", "lt", "ch", "incr"].iter().any(|option| is(&args[2], option)) {
            return Err(syntax_error());
        }
        let members = vec![(want_score(&args[2])?, args[3].clone())];
        Ok(Zincrby(Zadd { key: args[1].clone(), options, members }))
    }

    fn growth(args: &Args) -> u64 {
        members_growth(args, 1)
    }

    fn apply(self, keyspace: &mut Keyspace, stamp: &Stamp) -> Reply {
        self.0.apply(keyspace, stamp)
    }
}

struct Zrem {
    key: Bytes,
    members: Args,
}

impl WriteCommand for Zrem {
    const SPEC: Spec = Spec {
        name: "zrem",
        arity: -3,
        syntax: "ZREM key member [member ...]",
        summary: "Removes members from a sorted set; returns how many there were. One without members is gone.",
        complexity: "O(N*log(M)), N the number of members given, M that of members there are",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Zrem, Reply> {
        Ok(Zrem { key: args[1].clone(), members: args[2..].into() })
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        let version = keyspace.version();
        let removed = change(keyspace, &self.key, |sorted| {
            let removed = self.members.iter().filter(|member| sorted.remove(member).is_some()).count();
            Changed::when(removed > 0, Reply::count(removed))
        });
        keyspace.notify_since(version, Class::SortedSet, "zrem", &self.key);
        removed.unwrap_or(Reply::Int(0))
    }
}

// -- Asking

struct Zcard(Bytes);

impl ReadCommand for Zcard {
    const SPEC: Spec = Spec {
        name: "zcard",
        syntax: "ZCARD key",
        summary: "Returns how many members a sorted set has.",
        complexity: "O(1)",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Zcard, Reply> {
        Ok(Zcard(args[1].clone()))
    }

    fn read(self, view: &View<'_>) -> Reply {
        either(sorted_of(view.get(&self.0)).map(|sorted| Reply::count(sorted.map_or(0, SortedRef::len))))
    }
}

/// The score of a member, or nil.
fn score_of(sorted: Option<SortedRef<'_>>, member: &[u8]) -> Reply {
    sorted.and_then(|sorted| sorted.score(member)).map_or(Reply::Nil, Reply::Double)
}

struct Zscore {
    key: Bytes,
    member: Bytes,
}

impl ReadCommand for Zscore {
    const SPEC: Spec = Spec {
        name: "zscore",
        arity: 3,
        syntax: "ZSCORE key member",
        summary: "Returns the score of a member of a sorted set.",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Zscore, Reply> {
        Ok(Zscore { key: args[1].clone(), member: args[2].clone() })
    }

    fn read(self, view: &View<'_>) -> Reply {
        either(sorted_of(view.get(&self.key)).map(|sorted| score_of(sorted, &self.member)))
    }
}

struct Zmscore {
    key: Bytes,
    members: Args,
}

impl ReadCommand for Zmscore {
    const SPEC: Spec = Spec {
        name: "zmscore",
        arity: -3,
        syntax: "ZMSCORE key member [member ...]",
        summary: "Returns the scores of members of a sorted set.",
        complexity: "O(N*log(M)), N the number of members given, M that of members there are",
        since: "6.2.0",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Zmscore, Reply> {
        Ok(Zmscore { key: args[1].clone(), members: args[2..].into() })
    }

    fn read(self, view: &View<'_>) -> Reply {
        let sorted = sorted_of(view.get(&self.key));
        either(sorted.map(|sorted| Reply::Array(self.members.iter().map(|member| score_of(sorted, member)).collect())))
    }
}

/// ZRANK, and from the other end ZREVRANK.
struct Zrank<const REVERSE: bool> {
    key: Bytes,
    member: Bytes,
    score: bool,
}

impl<const REVERSE: bool> ReadCommand for Zrank<REVERSE> {
    const SPEC: Spec = Spec {
        name: if REVERSE { "zrevrank" } else { "zrank" },
        arity: -3,
        syntax: if REVERSE { "ZREVRANK key member [WITHSCORE]" } else { "ZRANK key member [WITHSCORE]" },
        summary: if REVERSE {
            "Returns how many members of a sorted set come after one."
        } else {
            "Returns how many members of a sorted set come before one."
        },
        since: "2.0.0",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        let score = match &args[3..] {
            [] => false,
            [word] if is(word, "withscore") => true,
            [_] => return Err(syntax_error()),
            _ => return Err(wrong_arity(Self::SPEC.name)),
        };
        Ok(Zrank { key: args[1].clone(), member: args[2].clone(), score })
    }

    fn read(self, view: &View<'_>) -> Reply {
        either(sorted_of(view.get(&self.key)).map(|sorted| {
            let found = sorted.and_then(|sorted| Some((sorted.rank(&self.member)?, sorted.len())));
            let Some(((rank, score), len)) = found else {
                return if self.score { Reply::NilArray } else { Reply::Nil };
            };
            let rank = Reply::count(if REVERSE { len - 1 - rank } else { rank });
            if self.score { Reply::Array(vec![rank, Reply::Double(score)]) } else { rank }
        }))
    }
}

struct Zscan {
    key: Bytes,
    step: Step,
}

impl ReadCommand for Zscan {
    const SPEC: Spec = Spec {
        name: "zscan",
        arity: -3,
        syntax: "ZSCAN key cursor [MATCH pattern] [COUNT count]",
        summary: "Goes through a sorted set in steps; each returns the cursor of the next and members with scores.",
        complexity: "O(1) a step, O(N) for all, N the number of members",
        since: "2.8.0",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Zscan, Reply> {
        Ok(Zscan { key: args[1].clone(), step: Step::parse(args, 2, |_| false)? })
    }

    fn read(self, view: &View<'_>) -> Reply {
        either(sorted_of(view.get(&self.key)).map(|sorted| {
            let scan = |sorted: SortedRef<'_>| {
                let (members, next) = sorted.scan(self.step.cursor, self.step.count);
                let members = members.into_iter().filter(|here| self.step.matches(here.member));
                (members.flat_map(|here| [bulk(here.member), Reply::bulk(double(here.score))]).collect(), next)
            };
            let (members, next) = sorted.map_or((Vec::new(), 0), scan);
            Reply::Array(vec![Reply::bulk(next.to_string()), Reply::Array(members)])
        }))
    }
}

struct Zrandmember {
    key: Bytes,
    /// `None`: one, and not as an array.
    count: Option<Count>,
    scores: bool,
}

impl ReadCommand for Zrandmember {
    const SPEC: Spec = Spec {
        name: "zrandmember",
        arity: -2,
        syntax: "ZRANDMEMBER key [count [WITHSCORES]]",
        summary: "Returns members of a sorted set chosen at random, each at most once unless the count is negative.",
        complexity: "O(N*log(M)), N the count, M the number of members there are",
        since: "6.2.0",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Zrandmember, Reply> {
        let (count, scores) = match &args[2..] {
            [] => (None, false),
            [count] => (Some(Count::parse(count)?), false),
            [count, rest @ ..] => {
                let count = Count::parse(count)?;
                if rest.len() > 1 || !is(&rest[0], "withscores") {
                    return Err(syntax_error());
                }
                // Twice as many elements as members have to be counted.
                if matches!(count, Count::Different(many) if many > usize::MAX / 4) {
                    return Err(Reply::error("ERR value is out of range"));
                }
                (Some(count), true)
            }
        };
        Ok(Zrandmember { key: args[1].clone(), count, scores })
    }

    fn read(self, view: &View<'_>) -> Reply {
        either(sorted_of(view.get(&self.key)).map(|sorted| {
            let count = self.count.unwrap_or(Count::Any(1));
            let positions = count.positions(sorted.map_or(0, SortedRef::len), draw::of_view(view));
            let mut drawn = positions.into_iter().filter_map(|at| sorted.and_then(|sorted| sorted.nth(at)));
            match self.count {
                Some(_) => listed(drawn, self.scores),
                None => drawn.next().map_or(Reply::Nil, |here| bulk(here.member)),
            }
        }))
    }
}

// -- Taking from an end

/// The positions of this many members at an end.
fn at_end(sorted: SortedRef<'_>, count: usize, max: bool) -> std::ops::Range<usize> {
    let count = count.min(sorted.len());
    if max { sorted.len() - count..sorted.len() } else { 0..count }
}

/// Members from the end on at which they were taken.
fn taken(sorted: SortedRef<'_>, range: std::ops::Range<usize>, max: bool) -> Vec<ScoredRef<'_>> {
    let members = sorted.range(range);
    if max { members.rev().collect() } else { members.collect() }
}

/// Takes members from an end and shows them; `None` if there is no such key.
pub(super) fn pop(
    keyspace: &mut Keyspace,
    key: &[u8],
    count: usize,
    max: bool,
    show: impl FnOnce(&[ScoredRef<'_>]) -> Reply,
) -> Result<Option<Reply>, Reply> {
    let version = keyspace.version();
    let choose = |sorted: SortedRef<'_>| at_end(sorted, count, max);
    let popped = remove_range(keyspace, key, choose, |sorted, range| show(&taken(sorted, range, max)))?;
    keyspace.notify_since(version, Class::SortedSet, if max { "zpopmax" } else { "zpopmin" }, key);
    Ok(popped)
}

/// ZPOPMIN and ZPOPMAX.
struct Zpop<const MAX: bool> {
    key: Bytes,
    count: Option<usize>,
}

impl<const MAX: bool> WriteCommand for Zpop<MAX> {
    const SPEC: Spec = Spec {
        name: if MAX { "zpopmax" } else { "zpopmin" },
        arity: -2,
        syntax: if MAX { "ZPOPMAX key [count]" } else { "ZPOPMIN key [count]" },
        summary: if MAX {
            "Removes the members with the highest scores from a sorted set and returns them."
        } else {
            "Removes the members with the lowest scores from a sorted set and returns them."
        },
        complexity: "O(N*log(M)), N the count, M the number of members there are",
        since: "5.0.0",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        let count = match &args[2..] {
            [] => None,
            [count] => Some(want_count(count)?),
            _ => return Err(syntax_error()),
        };
        Ok(Zpop { key: args[1].clone(), count })
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        let show = |members: &[ScoredRef<'_>]| match self.count {
            Some(_) => listed(members.iter().copied(), true),
            None => {
                Reply::Array(members.iter().flat_map(|here| [bulk(here.member), Reply::Double(here.score)]).collect())
            }
        };
        let popped = pop(keyspace, &self.key, self.count.unwrap_or(1), MAX, show);
        either(popped.map(|popped| popped.unwrap_or(Reply::Array(Vec::new()))))
    }
}

pub(super) struct Zmpop {
    pub keys: Args,
    max: bool,
    pub count: usize,
}

impl Zmpop {
    /// `at`: where the number of keys stands.
    pub fn parse_at(args: &Args, at: usize) -> Result<Zmpop, Reply> {
        let positive = |text: &Bytes| integer(text).and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
        let number = positive(&args[at]).ok_or_else(|| Reply::error("ERR numkeys should be greater than 0"))?;
        let (keys, rest) = args[at + 1..].split_at_checked(number).ok_or_else(syntax_error)?;
        let max = match rest.first() {
            Some(word) if is(word, "max") => true,
            Some(word) if is(word, "min") => false,
            _ => return Err(syntax_error()),
        };
        let count = match &rest[1..] {
            [] => 1,
            [word, count, rest @ ..] if is(word, "count") => {
                let count = positive(count).ok_or_else(|| Reply::error("ERR count should be greater than 0"))?;
                if rest.is_empty() { count } else { return Err(syntax_error()) }
            }
            _ => return Err(syntax_error()),
        };
        Ok(Zmpop { keys: keys.into(), max, count })
    }

    pub fn run(&self, keyspace: &mut Keyspace) -> Result<Reply, Reply> {
        for key in &self.keys {
            let popped = pop(keyspace, key, self.count, self.max, |members| {
                let pair = |here: &ScoredRef<'_>| Reply::Array(vec![bulk(here.member), Reply::Double(here.score)]);
                Reply::Array(vec![Reply::Bulk(key.clone()), Reply::Array(members.iter().map(pair).collect())])
            })?;
            if let Some(popped) = popped {
                return Ok(popped);
            }
        }
        Ok(Reply::NilArray)
    }
}

impl WriteCommand for Zmpop {
    const SPEC: Spec = Spec {
        name: "zmpop",
        arity: -4,
        keys: Keys::Counted { at: 1, step: 1 },
        syntax: "ZMPOP numkeys key [key ...] MIN | MAX [COUNT count]",
        summary: "Removes members from an end of the first sorted set that there is among some, and returns them.",
        complexity: "O(K + N*log(M)), K the number of keys, N the count, M the number of members there are",
        since: "7.0.0",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Zmpop, Reply> {
        Zmpop::parse_at(args, 1)
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        either(self.run(keyspace))
    }
}

/// The family, but for ranges and algebra.
pub static SORTED: &[Command] = &[
    write::<Zadd>(),
    read::<Zcard>(),
    write::<Zincrby>(),
    write::<Zmpop>(),
    read::<Zmscore>(),
    write::<Zpop<true>>(),
    write::<Zpop<false>>(),
    read::<Zrandmember>(),
    read::<Zrank<false>>(),
    write::<Zrem>(),
    read::<Zrank<true>>(),
    read::<Zscan>(),
    read::<Zscore>(),
];
