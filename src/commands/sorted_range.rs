//! Ranges of sorted sets: by rank, by score or by member; shown, counted, stored or removed.

use super::generic;
use super::score::{Span, ranks};
use super::sorted::{BASE, listed, remove_range, sorted_of};
use super::syntax::{either, is, syntax_error, want_integer};
use super::{Command, Copied, Keys, ReadCommand, Spec, WriteCommand, read, write};
use crate::resp::{Args, Reply};
use crate::state::events::Class;
use crate::state::{Keyspace, ScoredRef, SortedRef, SortedValue, Value, View};
use crate::types::Stamp;
use bytes::Bytes;
use std::ops::Range;

/// What a range is told by.
#[derive(Debug, Clone, PartialEq)]
enum Bounds {
    Ranks(i64, i64),
    Span(Span),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum By {
    Rank,
    Score,
    Member,
}

impl Bounds {
    fn parse(by: By, low: &Bytes, high: &Bytes) -> Result<Bounds, Reply> {
        match by {
            By::Rank => Ok(Bounds::Ranks(want_integer(low)?, want_integer(high)?)),
            By::Score => Span::scores(low, high).map(Bounds::Span),
            By::Member => Span::members(low, high).map(Bounds::Span),
        }
    }

    /// The positions inside; of ranks, counted from the other end if `reverse`.
    fn positions(&self, sorted: SortedRef<'_>, reverse: bool) -> Range<usize> {
        match self {
            Bounds::Ranks(first, last) => {
                let (len, range) = (sorted.len(), ranks((*first, *last), sorted.len()));
                if reverse { len - range.end..len - range.start } else { range }
            }
            Bounds::Span(span) => span.positions(sorted),
        }
    }
}

/// What is asked for by ZRANGE and its older kin.
#[derive(Debug, Clone)]
struct Query {
    bounds: Bounds,
    reverse: bool,
    offset: i64,
    /// Negative: all.
    limit: i64,
    scores: bool,
}

/// Which options a command of the kin has; what it does not leave open, its name has settled.
#[derive(Clone, Copy)]
struct Form {
    /// `None`: BYSCORE and BYLEX say it.
    by: Option<By>,
    /// `None`: REV says it.
    reverse: Option<bool>,
    stores: bool,
}

impl Query {
    /// Reads two bounds and all options behind them.
    fn parse(words: &[Bytes], form: Form) -> Result<Query, Reply> {
        let (mut by, mut reverse, mut limits, mut scores) = (form.by, form.reverse, None, false);
        let mut rest = &words[2..];
        while let Some((word, after)) = rest.split_first() {
            rest = after;
            if !form.stores && is(word, "withscores") {
                scores = true;
            } else if is(word, "limit")
                && let [offset, limit, after @ ..] = after
            {
                limits = Some((want_integer(offset)?, want_integer(limit)?));
                rest = after;
            } else if reverse.is_none() && is(word, "rev") {
                reverse = Some(true);
            } else if by.is_none() && is(word, "bylex") {
                by = Some(By::Member);
            } else if by.is_none() && is(word, "byscore") {
                by = Some(By::Score);
            } else {
                return Err(syntax_error());
            }
        }
        let (by, reverse, (offset, limit)) =
            (by.unwrap_or(By::Rank), reverse.unwrap_or(false), limits.unwrap_or((0, -1)));
        if limit != -1 && by == By::Rank {
            let text = "ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX";
            return Err(Reply::error(text));
        }
        if scores && by == By::Member {
            return Err(Reply::error("ERR syntax error, WITHSCORES not supported in combination with BYLEX"));
        }
        // Backwards a range is told from its upper end; ranks are counted from there.
        let swapped = reverse && by != By::Rank;
        let (low, high) = if swapped { (&words[1], &words[0]) } else { (&words[0], &words[1]) };
        Ok(Query { bounds: Bounds::parse(by, low, high)?, reverse, offset, limit, scores })
    }

    /// The members, in the order in which they are asked for.
    fn members<'a>(&self, sorted: Option<SortedRef<'a>>) -> Box<dyn Iterator<Item = ScoredRef<'a>> + 'a> {
        let Some(sorted) = sorted else { return Box::new(std::iter::empty()) };
        let Range { start, end } = self.bounds.positions(sorted, self.reverse);
        let by_rank = matches!(self.bounds, Bounds::Ranks(..));
        let (offset, limit) = if by_rank { (0, -1) } else { (self.offset, self.limit) };
        // A negative offset is beyond every end, as in Redis.
        let skip = usize::try_from(offset).unwrap_or(usize::MAX).min(end - start);
        let take = usize::try_from(limit).unwrap_or(usize::MAX).min(end - start - skip);
        match self.reverse {
            false => Box::new(sorted.range(start + skip..start + skip + take)),
            true => Box::new(sorted.range(end - skip - take..end - skip).rev()),
        }
    }
}

/// Of the commands that show a range.
const SHOW: Spec =
    Spec { arity: -4, complexity: "O(log(N)+M), N the number of members, M that of members returned", ..BASE };

/// ZRANGE and its older kin.
struct Show<const KIN: usize> {
    key: Bytes,
    query: Query,
}

/// What there is of them.
struct Kin {
    form: Form,
    spec: Spec,
}

const KIN: [Kin; 6] = [
    Kin {
        form: Form { by: None, reverse: None, stores: false },
        spec: Spec {
            name: "zrange",
            syntax: "ZRANGE key start stop [BYSCORE | BYLEX] [REV] [LIMIT offset count] [WITHSCORES]",
            summary: "Returns the members of a sorted set in a range of ranks, scores or members.",
            ..SHOW
        },
    },
    Kin {
        form: Form { by: Some(By::Rank), reverse: Some(true), stores: false },
        spec: Spec {
            name: "zrevrange",
            syntax: "ZREVRANGE key start stop [WITHSCORES]",
            summary: "Returns the members of a sorted set in a range of ranks counted from the end, backwards.",
            ..SHOW
        },
    },
    Kin {
        form: Form { by: Some(By::Score), reverse: Some(false), stores: false },
        spec: Spec {
            name: "zrangebyscore",
            syntax: "ZRANGEBYSCORE key min max [WITHSCORES] [LIMIT offset count]",
            summary: "Returns the members of a sorted set in a range of scores.",
            since: "1.0.5",
            ..SHOW
        },
    },
    Kin {
        form: Form { by: Some(By::Score), reverse: Some(true), stores: false },
        spec: Spec {
            name: "zrevrangebyscore",
            syntax: "ZREVRANGEBYSCORE key max min [WITHSCORES] [LIMIT offset count]",
            summary: "Returns the members of a sorted set in a range of scores, backwards.",
            since: "2.2.0",
            ..SHOW
        },
    },
    Kin {
        form: Form { by: Some(By::Member), reverse: Some(false), stores: false },
        spec: Spec {
            name: "zrangebylex",
            syntax: "ZRANGEBYLEX key min max [LIMIT offset count]",
            summary: "Returns the members of a sorted set in a range of members, where all scores are equal.",
            since: "2.8.9",
            ..SHOW
        },
    },
    Kin {
        form: Form { by: Some(By::Member), reverse: Some(true), stores: false },
        spec: Spec {
            name: "zrevrangebylex",
            syntax: "ZREVRANGEBYLEX key max min [LIMIT offset count]",
            summary: "Returns the members of a sorted set in a range of members, backwards, where all scores are equal.",
            since: "2.8.9",
            ..SHOW
        },
    },
];

impl<const AT: usize> ReadCommand for Show<AT> {
    const SPEC: Spec = KIN[AT].spec;

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(Show { key: args[1].clone(), query: Query::parse(&args[2..], KIN[AT].form)? })
    }

    fn read(self, view: &View<'_>) -> Reply {
        let sorted = sorted_of(view.get(&self.key));
        either(sorted.map(|sorted| listed(self.query.members(sorted), self.query.scores)))
    }
}

struct Zrangestore {
    to: Bytes,
    from: Bytes,
    query: Query,
}

impl WriteCommand for Zrangestore {
    const SPEC: Spec = Spec {
        name: "zrangestore",
        arity: -5,
        keys: Keys::Range { first: 1, last: 2, step: 1 },
        syntax: "ZRANGESTORE dst src min max [BYSCORE | BYLEX] [REV] [LIMIT offset count]",
        summary: "Stores the members of a sorted set in a range as a sorted set; returns how many there are.",
        complexity: "O(log(N)+M*log(M)), N the number of members, M that of members stored",
        since: "6.2.0",
        denyoom: true,
        ..BASE
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        let form = Form { by: None, reverse: None, stores: true };
        Ok(Zrangestore { to: args[1].clone(), from: args[2].clone(), query: Query::parse(&args[3..], form)? })
    }

    const COPIED: Option<Copied> = Some(|args, size| if args[1] == args[2] { 0 } else { size(&args[2]).in_sorted() });

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        let limits = keyspace.packing().sorted;
        let made = sorted_of(keyspace.get(&self.from)).map(|sorted| {
            let mut made = SortedValue::new();
            for here in self.query.members(sorted) {
                made.set(here.member, here.score, limits);
            }
            made
        });
        either(made.map(|made| store(keyspace, "zrangestore", &self.to, made)))
    }
}

/// Stores a sorted set in the place of whatever there is, or removes that; says so and replies with its length.
pub(super) fn store(keyspace: &mut Keyspace, event: &'static str, to: &[u8], made: SortedValue) -> Reply {
    let count = made.as_ref().len();
    match count {
        0 => drop(generic::delete(keyspace, to)),
        _ => {
            keyspace.set(to, Value::Sorted(made), None);
            keyspace.notify(Class::SortedSet, event, to);
        }
    }
    Reply::count(count)
}

/// ZCOUNT and ZLEXCOUNT.
struct CountIn<const MEMBERS: bool> {
    key: Bytes,
    span: Span,
}

impl<const MEMBERS: bool> ReadCommand for CountIn<MEMBERS> {
    const SPEC: Spec = Spec {
        name: if MEMBERS { "zlexcount" } else { "zcount" },
        arity: 4,
        syntax: if MEMBERS { "ZLEXCOUNT key min max" } else { "ZCOUNT key min max" },
        summary: if MEMBERS {
            "Returns how many members a sorted set has in a range of members, where all scores are equal."
        } else {
            "Returns how many members a sorted set has in a range of scores."
        },
        since: if MEMBERS { "2.8.9" } else { "2.0.0" },
        ..BASE
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        let span = if MEMBERS { Span::members(&args[2], &args[3]) } else { Span::scores(&args[2], &args[3]) };
        Ok(CountIn { key: args[1].clone(), span: span? })
    }

    fn read(self, view: &View<'_>) -> Reply {
        let sorted = sorted_of(view.get(&self.key));
        either(sorted.map(|sorted| Reply::count(sorted.map_or(0, |sorted| self.span.positions(sorted).len()))))
    }
}

const BY_RANK: u8 = 0;
const BY_SCORE: u8 = 1;
const BY_MEMBER: u8 = 2;

/// ZREMRANGEBYRANK, ZREMRANGEBYSCORE and ZREMRANGEBYLEX.
struct Remove<const BY: u8> {
    key: Bytes,
    bounds: Bounds,
}

impl<const BY: u8> WriteCommand for Remove<BY> {
    const SPEC: Spec = Spec {
        name: ["zremrangebyrank", "zremrangebyscore", "zremrangebylex"][BY as usize],
        arity: 4,
        syntax: ["ZREMRANGEBYRANK key start stop", "ZREMRANGEBYSCORE key min max", "ZREMRANGEBYLEX key min max"]
            [BY as usize],
        summary: [
            "Removes the members of a sorted set in a range of ranks; returns how many there were.",
            "Removes the members of a sorted set in a range of scores; returns how many there were.",
            "Removes the members of a sorted set in a range of members, where all scores are equal; returns how many.",
        ][BY as usize],
        complexity: "O(log(N)+M*log(N)), N the number of members, M that of members removed",
        since: ["2.0.0", "1.2.0", "2.8.9"][BY as usize],
        ..BASE
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        let by = match BY {
            BY_RANK => By::Rank,
            BY_SCORE => By::Score,
            _ => By::Member,
        };
        Ok(Remove { key: args[1].clone(), bounds: Bounds::parse(by, &args[2], &args[3])? })
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        let version = keyspace.version();
        let choose = |sorted: SortedRef<'_>| self.bounds.positions(sorted, false);
        let removed = remove_range(keyspace, &self.key, choose, |_, range| Reply::count(range.len()));
        keyspace.notify_since(version, Class::SortedSet, Self::SPEC.name, &self.key);
        either(removed.map(|removed| removed.unwrap_or(Reply::Int(0))))
    }
}

/// The family's ranges.
pub static SORTED_RANGE: &[Command] = &[
    read::<CountIn<false>>(),
    read::<CountIn<true>>(),
    read::<Show<0>>(),
    read::<Show<4>>(),
    read::<Show<2>>(),
    write::<Zrangestore>(),
    write::<Remove<BY_MEMBER>>(),
    write::<Remove<BY_RANK>>(),
    write::<Remove<BY_SCORE>>(),
    read::<Show<1>>(),
    read::<Show<5>>(),
    read::<Show<3>>(),
];
