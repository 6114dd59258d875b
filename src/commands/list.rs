//! Lists: pushes, pops and what lies between, without those that wait for an element.
//!
//! One file of more than 800 lines, because all of these are the same few steps on the same value, and half of them is what
//! the commands say of themselves.
//!
//! Texts and edge cases are Redis 7.2's. Positions count from 0, negative ones from the end.

use super::syntax::{is, not_an_integer, syntax_error, want_integer, wrong_type};
use super::{Command, Keys, ReadCommand, Scope, Spec, WriteCommand, read, write, wrong_arity};
use crate::resp::{Args, Reply, integer};
use crate::state::events::Class;
use crate::state::{Changed, ENTRY_COST, End, Keyspace, ListRef, ListValue, Value, View, list_element_cost};
use crate::types::Stamp;
use bytes::Bytes;
use std::ops::Range;

/// What most commands here say of themselves.
const BASE: Spec = Spec {
    name: "",
    arity: 2,
    keys: Keys::ONE,
    scope: Scope::OneSlot,
    family: "list",
    syntax: "",
    summary: "",
    complexity: "O(1)",
    since: "1.0.0",
    denyoom: false,
};

// -- A list in the keyspace

/// The list a key holds, if there is such a key; WRONGTYPE if it holds something else.
fn list_of<'a>(view: &View<'a>, key: &[u8]) -> Result<Option<ListRef<'a>>, Reply> {
    view.get(key).map(|entry| entry.value().as_list().ok_or_else(wrong_type)).transpose()
}

/// Shows a list, an empty one if there is no such key.
fn show(view: &View<'_>, key: &[u8], show: impl FnOnce(ListRef<'_>) -> Reply) -> Reply {
    match list_of(view, key) {
        Ok(list) => show(list.unwrap_or(ListRef::Packed(&[]))),
        Err(reply) => reply,
    }
}

/// Changes the list of a key that is there; `None` if there is none.
pub(super) fn change(
    keyspace: &mut Keyspace,
    key: &[u8],
    change: impl FnOnce(&mut ListValue) -> Changed<Reply>,
) -> Option<Reply> {
    keyspace.change(key, |value| value.as_list_mut().map_or_else(|| Changed::No(wrong_type()), change))
}

/// The same, beginning with an empty list if there is no such key.
fn change_or_create(
    keyspace: &mut Keyspace,
    key: &[u8],
    change: impl FnOnce(&mut ListValue) -> Changed<Reply>,
) -> Reply {
    keyspace.change_or_create(
        key,
        || Value::List(ListValue::new()),
        |value| value.as_list_mut().map_or_else(|| Changed::No(wrong_type()), change),
    )
}

fn bulk(bytes: &[u8]) -> Reply {
    Reply::Bulk(Bytes::copy_from_slice(bytes))
}

/// Takes `count` elements or all there are from an end, the outermost first.
pub(super) fn pop(list: &mut ListValue, end: End, count: usize, limit: i64) -> Vec<Reply> {
    let length = list.as_ref().len();
    let count = count.min(length);
    let (popped, range) = match end {
        End::Front => (list.as_ref().iter_from(0).take(count).map(bulk).collect(), 0..count),
        End::Back => (list.as_ref().iter_back().take(count).map(bulk).collect(), length - count..length),
    };
    list.remove(range, limit);
    popped
}

/// What a pop is told as.
fn popped_event(end: End) -> &'static str {
    match end {
        End::Front => "lpop",
        End::Back => "rpop",
    }
}

/// What a push is told as.
fn pushed_event(end: End) -> &'static str {
    match end {
        End::Front => "lpush",
        End::Back => "rpush",
    }
}

/// The positions that `start` and `stop` name in a list of this length; both belong to it. Empty if there are none.
fn positions(start: i64, stop: i64, length: usize) -> Range<usize> {
    let length = length as i64;
    let inside = |at: i64| if at < 0 { at.saturating_add(length).max(0) } else { at };
    let start = inside(start);
    let stop = if stop < 0 { stop.saturating_add(length) } else { stop.min(length - 1) };
    if start > stop { 0..0 } else { start as usize..stop as usize + 1 }
}

/// The position that `index` names.
fn position(index: i64, length: usize) -> Option<usize> {
    let at = if index < 0 { index.checked_add(length as i64)? } else { index };
    usize::try_from(at).ok().filter(|at| *at < length)
}

/// What elements can add to the account, with their key.
fn growth_of(key: &Bytes, elements: &[Bytes]) -> u64 {
    let elements: usize = elements.iter().map(|element| list_element_cost(element.len())).sum();
    ENTRY_COST + (key.len() + elements) as u64
}

/// LEFT or RIGHT.
pub(super) fn end(word: &[u8]) -> Result<End, Reply> {
    match word {
        word if is(word, "left") => Ok(End::Front),
        word if is(word, "right") => Ok(End::Back),
        _ => Err(syntax_error()),
    }
}

// -- Pushing

struct Push {
    key: Bytes,
    elements: Args,
    end: End,
    /// Only to a list that is there.
    present: bool,
}

impl Push {
    fn of(args: &Args, end: End, present: bool) -> Push {
        Push { key: args[1].clone(), elements: args[2..].into(), end, present }
    }

    fn run(self, keyspace: &mut Keyspace) -> Reply {
        let limit = keyspace.packing().list;
        let push = |list: &mut ListValue| {
            list.push(self.end, &self.elements, limit);
            Changed::Yes(Reply::count(list.as_ref().len()))
        };
        let version = keyspace.version();
        let reply = match self.present {
            true => change(keyspace, &self.key, push).unwrap_or(Reply::Int(0)),
            false => change_or_create(keyspace, &self.key, push),
        };
        keyspace.notify_since(version, Class::List, pushed_event(self.end), &self.key);
        reply
    }
}

struct Lpush(Push);

impl WriteCommand for Lpush {
    const SPEC: Spec = Spec {
        name: "lpush",
        arity: -3,
        syntax: "LPUSH key element [element ...]",
        summary: "Puts elements before the first of a list, one after the other; returns its length.",
        complexity: "O(N), N the number of elements pushed",
        denyoom: true,
        ..BASE
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(Lpush(Push::of(args, End::Front, false)))
    }

    fn growth(args: &Args) -> u64 {
        growth_of(&args[1], &args[2..])
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        self.0.run(keyspace)
    }
}

struct Rpush(Push);

impl WriteCommand for Rpush {
    const SPEC: Spec = Spec {
        name: "rpush",
        syntax: "RPUSH key element [element ...]",
        summary: "Puts elements behind the last of a list; returns its length.",
        ..Lpush::SPEC
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(Rpush(Push::of(args, End::Back, false)))
    }

    fn growth(args: &Args) -> u64 {
        Lpush::growth(args)
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        self.0.run(keyspace)
    }
}

struct Lpushx(Push);

impl WriteCommand for Lpushx {
    const SPEC: Spec = Spec {
        name: "lpushx",
        syntax: "LPUSHX key element [element ...]",
        summary: "Puts elements before the first of a list that exists.",
        since: "2.2.0",
        ..Lpush::SPEC
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(Lpushx(Push::of(args, End::Front, true)))
    }

    fn growth(args: &Args) -> u64 {
        Lpush::growth(args)
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        self.0.run(keyspace)
    }
}

struct Rpushx(Push);

impl WriteCommand for Rpushx {
    const SPEC: Spec = Spec {
        name: "rpushx",
        syntax: "RPUSHX key element [element ...]",
        summary: "Puts elements behind the last of a list that exists.",
        since: "2.2.0",
        ..Lpush::SPEC
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(Rpushx(Push::of(args, End::Back, true)))
    }

    fn growth(args: &Args) -> u64 {
        Lpush::growth(args)
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        self.0.run(keyspace)
    }
}

// -- Popping

struct Pop {
    key: Bytes,
    end: End,
    /// `None`: one, not in an array.
    count: Option<usize>,
}

impl Pop {
    fn parse(args: &Args, end: End, command: &str) -> Result<Pop, Reply> {
        let count = match &args[2..] {
            [] => None,
            [count] => {
                let count = integer(count).and_then(|count| usize::try_from(count).ok());
                Some(count.ok_or_else(|| Reply::error("ERR value is out of range, must be positive"))?)
            }
            _ => return Err(wrong_arity(command)),
        };
        Ok(Pop { key: args[1].clone(), end, count })
    }

    fn run(self, keyspace: &mut Keyspace) -> Reply {
        let (limit, version) = (keyspace.packing().list, keyspace.version());
        let popped = change(keyspace, &self.key, |list| {
            let mut popped = pop(list, self.end, self.count.unwrap_or(1), limit);
            let changed = !popped.is_empty();
            let reply = match self.count {
                Some(_) => Reply::Array(popped),
                None => popped.pop().unwrap_or(Reply::Nil),
            };
            Changed::when(changed, reply)
        });
        keyspace.notify_since(version, Class::List, popped_event(self.end), &self.key);
        popped.unwrap_or(if self.count.is_some() { Reply::NilArray } else { Reply::Nil })
    }
}

struct Lpop(Pop);

impl WriteCommand for Lpop {
    const SPEC: Spec = Spec {
        name: "lpop",
        arity: -2,
        syntax: "LPOP key [count]",
        summary: "Takes elements from the beginning of a list. A list without elements is gone.",
        complexity: "O(N), N the number of elements taken",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Pop::parse(args, End::Front, "lpop").map(Lpop)
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        self.0.run(keyspace)
    }
}

struct Rpop(Pop);

impl WriteCommand for Rpop {
    const SPEC: Spec = Spec {
        name: "rpop",
        syntax: "RPOP key [count]",
        summary: "Takes elements from the end of a list, the last first.",
        ..Lpop::SPEC
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Pop::parse(args, End::Back, "rpop").map(Rpop)
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        self.0.run(keyspace)
    }
}

pub(super) struct Lmpop {
    pub keys: Args,
    end: End,
    pub count: usize,
}

impl Lmpop {
    /// `at`: where the number of keys stands.
    pub fn parse_at(args: &Args, at: usize) -> Result<Lmpop, Reply> {
        let positive = |word: &[u8], what: &str| {
            let number = integer(word).filter(|number| *number > 0);
            number.ok_or_else(|| Reply::error(format!("ERR {what} should be greater than 0")))
        };
        let keys = usize::try_from(positive(&args[at], "numkeys")?).unwrap_or(usize::MAX);
        let (keys, rest) = args[at + 1..].split_at_checked(keys).ok_or_else(syntax_error)?;
        let (word, rest) = rest.split_first().ok_or_else(syntax_error)?;
        let end = end(word)?;
        let count = match rest {
            [] => 1,
            [word, count, rest @ ..] if is(word, "count") => {
                let count = usize::try_from(positive(count, "count")?).unwrap_or(usize::MAX);
                if rest.is_empty() { count } else { return Err(syntax_error()) }
            }
            _ => return Err(syntax_error()),
        };
        Ok(Lmpop { keys: keys.into(), end, count })
    }

    pub fn run(self, keyspace: &mut Keyspace) -> Reply {
        let limit = keyspace.packing().list;
        let Some(key) = self.keys.iter().find(|key| keyspace.contains(key)) else { return Reply::NilArray };
        let version = keyspace.version();
        let popped = change(keyspace, key, |list| {
            let popped = Reply::Array(pop(list, self.end, self.count, limit));
            Changed::Yes(Reply::Array(vec![Reply::Bulk(key.clone()), popped]))
        });
        keyspace.notify_since(version, Class::List, popped_event(self.end), key);
        popped.unwrap_or(Reply::NilArray)
    }
}

impl WriteCommand for Lmpop {
    const SPEC: Spec = Spec {
        name: "lmpop",
        arity: -4,
        keys: Keys::Counted { at: 1, step: 1 },
        syntax: "LMPOP numkeys key [key ...] LEFT | RIGHT [COUNT count]",
        summary: "Takes elements from the first list that exists; returns its key with them.",
        complexity: "O(N + M), N the number of keys, M of elements taken",
        since: "7.0.0",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Lmpop::parse_at(args, 1)
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        self.run(keyspace)
    }
}

// -- From list to list

/// LMOVE and RPOPLPUSH.
pub(super) struct Move {
    pub from: Bytes,
    pub to: Bytes,
    pub take: End,
    pub put: End,
}

impl Move {
    pub fn run(self, keyspace: &mut Keyspace) -> Reply {
        let limit = keyspace.packing().list;
        // Both must be lists before either changes.
        for key in [&self.from, &self.to] {
            match keyspace.get(key) {
                None if key == &self.from => return Reply::Nil,
                Some(entry) if entry.value().as_list().is_none() => return wrong_type(),
                _ => {}
            }
        }
        let put = |list: &mut ListValue, element: &Bytes| list.push(self.put, std::slice::from_ref(element), limit);
        let mut moved = None;
        let reply = change(keyspace, &self.from, |list| {
            let taken = pop(list, self.take, 1, limit).pop().unwrap_or(Reply::Nil);
            if let Reply::Bulk(element) = &taken {
                // A list that is its own destination is never without the element.
                if self.from == self.to {
                    put(list, element);
                }
                moved = Some(element.clone());
            }
            Changed::when(moved.is_some(), taken)
        });
        if let Some(element) = moved {
            if self.from != self.to {
                change_or_create(keyspace, &self.to, |list| {
                    put(list, &element);
                    Changed::Yes(Reply::Nil)
                });
            }
            keyspace.notify(Class::List, pushed_event(self.put), &self.to);
            keyspace.notify_change(Class::List, popped_event(self.take), &self.from);
        }
        reply.unwrap_or(Reply::Nil)
    }
}

/// What an element that leaves a packed list for one that is not can weigh more than before, at most.
const MOVED_MAX: usize = list_element_cost(8 << 10) - (8 << 10);

/// What moving an element to this key can add to the account.
pub(super) fn growth_of_move(to: &Bytes) -> u64 {
    growth_of(to, &[]) + MOVED_MAX as u64
}

struct Lmove(Move);

impl WriteCommand for Lmove {
    const SPEC: Spec = Spec {
        name: "lmove",
        arity: 5,
        keys: Keys::Range { first: 1, last: 2, step: 1 },
        syntax: "LMOVE source destination LEFT | RIGHT LEFT | RIGHT",
        summary: "Takes an element from an end of a list, puts it at an end of another or the same, and returns it.",
        since: "6.2.0",
        denyoom: true,
        ..BASE
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(Lmove(Move { from: args[1].clone(), to: args[2].clone(), take: end(&args[3])?, put: end(&args[4])? }))
    }

    fn growth(args: &Args) -> u64 {
        growth_of_move(&args[2])
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        self.0.run(keyspace)
    }
}

struct Rpoplpush(Move);

impl WriteCommand for Rpoplpush {
    const SPEC: Spec = Spec {
        name: "rpoplpush",
        arity: 3,
        syntax: "RPOPLPUSH source destination",
        summary: "LMOVE source destination RIGHT LEFT.",
        since: "1.2.0",
        ..Lmove::SPEC
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(Rpoplpush(Move { from: args[1].clone(), to: args[2].clone(), take: End::Back, put: End::Front }))
    }

    fn growth(args: &Args) -> u64 {
        Lmove::growth(args)
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        self.0.run(keyspace)
    }
}

// -- Reading

struct Llen(Bytes);

impl ReadCommand for Llen {
    const SPEC: Spec =
        Spec { name: "llen", syntax: "LLEN key", summary: "Returns how many elements a list has.", ..BASE };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(Llen(args[1].clone()))
    }

    fn read(self, view: &View<'_>) -> Reply {
        show(view, &self.0, |list| Reply::count(list.len()))
    }
}

struct Lindex {
    key: Bytes,
    index: i64,
}

impl ReadCommand for Lindex {
    const SPEC: Spec = Spec {
        name: "lindex",
        arity: 3,
        syntax: "LINDEX key index",
        summary: "Returns the element at a position of a list.",
        complexity: "O(log N), N the length of the list",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(Lindex { key: args[1].clone(), index: want_integer(&args[2])? })
    }

    fn read(self, view: &View<'_>) -> Reply {
        show(view, &self.key, |list| {
            position(self.index, list.len()).and_then(|at| list.get(at)).map_or(Reply::Nil, bulk)
        })
    }
}

struct Lrange {
    key: Bytes,
    start: i64,
    stop: i64,
}

impl ReadCommand for Lrange {
    const SPEC: Spec = Spec {
        name: "lrange",
        arity: 4,
        syntax: "LRANGE key start stop",
        summary: "Returns a part of a list; both ends belong to it.",
        complexity: "O(log N + M), N the length of the list, M of the part",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(Lrange { key: args[1].clone(), start: want_integer(&args[2])?, stop: want_integer(&args[3])? })
    }

    fn read(self, view: &View<'_>) -> Reply {
        show(view, &self.key, |list| {
            let range = positions(self.start, self.stop, list.len());
            Reply::Array(list.iter_from(range.start).take(range.len()).map(bulk).collect())
        })
    }
}

struct Lpos {
    key: Bytes,
    element: Bytes,
    /// Which match is the first to count; negative from the end.
    rank: i64,
    /// `None`: one, not in an array; 0: all.
    count: Option<usize>,
    /// Elements to look at; 0: all.
    most: usize,
}

impl ReadCommand for Lpos {
    const SPEC: Spec = Spec {
        name: "lpos",
        arity: -3,
        syntax: "LPOS key element [RANK rank] [COUNT num-matches] [MAXLEN len]",
        summary: "Returns at which positions of a list an element is.",
        complexity: "O(N), N the length of the list or MAXLEN",
        since: "6.0.6",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        const ZERO: &str = "ERR RANK can't be zero: use 1 to start from the first match, 2 from the second ... or use negative to start from the end of the list";
        let mut lpos = Lpos { key: args[1].clone(), element: args[2].clone(), rank: 1, count: None, most: 0 };
        let size = |word: &[u8], what: &str| {
            let number = integer(word).and_then(|number| usize::try_from(number).ok());
            number.ok_or_else(|| Reply::error(format!("ERR {what} can't be negative")))
        };
        for option in args[3..].chunks(2) {
            match option {
                [word, rank] if is(word, "rank") => {
                    lpos.rank = integer(rank).ok_or_else(not_an_integer)?;
                    match lpos.rank {
                        0 => return Err(Reply::error(ZERO)),
                        i64::MIN => {
                            let most = i64::MAX;
                            let text = format!("ERR value is out of range, value must between -{most} and {most}");
                            return Err(Reply::error(text));
                        }
                        _ => {}
                    }
                }
                [word, count] if is(word, "count") => lpos.count = Some(size(count, "COUNT")?),
                [word, most] if is(word, "maxlen") => lpos.most = size(most, "MAXLEN")?,
                _ => return Err(syntax_error()),
            }
        }
        Ok(lpos)
    }

    fn read(self, view: &View<'_>) -> Reply {
        let found = |list: ListRef<'_>| {
            let skipped = usize::try_from(self.rank.unsigned_abs() - 1).unwrap_or(usize::MAX);
            let wanted = match self.count {
                None => 1,
                Some(0) => usize::MAX,
                Some(count) => count,
            };
            let looked_at = if self.most == 0 { usize::MAX } else { self.most };
            let is_match = |(at, element): (usize, &[u8])| (element == &self.element[..]).then_some(at);
            let found: Vec<usize> = if self.rank > 0 {
                let all = list.iter_from(0).take(looked_at).enumerate().filter_map(is_match);
                all.skip(skipped).take(wanted).collect()
            } else {
                let last = list.len().saturating_sub(1);
                let all = list.iter_back().take(looked_at).enumerate().filter_map(is_match);
                all.skip(skipped).take(wanted).map(|at| last - at).collect()
            };
            match self.count {
                None => found.first().map_or(Reply::Nil, |at| Reply::count(*at)),
                Some(_) => Reply::Array(found.into_iter().map(Reply::count).collect()),
            }
        };
        show(view, &self.key, found)
    }
}

// -- Changes inside

struct Lset {
    key: Bytes,
    index: i64,
    element: Bytes,
}

impl WriteCommand for Lset {
    const SPEC: Spec = Spec {
        name: "lset",
        arity: 4,
        syntax: "LSET key index element",
        summary: "Replaces the element at a position of a list.",
        complexity: "O(log N), N the length of the list",
        denyoom: true,
        ..BASE
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(Lset { key: args[1].clone(), index: want_integer(&args[2])?, element: args[3].clone() })
    }

    fn growth(args: &Args) -> u64 {
        growth_of(&args[1], &args[3..])
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        let (limit, version) = (keyspace.packing().list, keyspace.version());
        let set = change(keyspace, &self.key, |list| match position(self.index, list.as_ref().len()) {
            None => Changed::No(Reply::error("ERR index out of range")),
            Some(at) => {
                list.set(at, &self.element, limit);
                Changed::Yes(Reply::OK)
            }
        });
        keyspace.notify_since(version, Class::List, "lset", &self.key);
        set.unwrap_or_else(|| Reply::error("ERR no such key"))
    }
}

struct Linsert {
    key: Bytes,
    after: bool,
    pivot: Bytes,
    element: Bytes,
}

impl WriteCommand for Linsert {
    const SPEC: Spec = Spec {
        name: "linsert",
        arity: 5,
        syntax: "LINSERT key BEFORE | AFTER pivot element",
        summary: "Puts an element before or after the first that equals the pivot; -1 if none does.",
        complexity: "O(N), N the number of elements before the pivot",
        since: "2.2.0",
        denyoom: true,
        ..BASE
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        let after = is(&args[2], "after");
        if !after && !is(&args[2], "before") {
            return Err(syntax_error());
        }
        Ok(Linsert { key: args[1].clone(), after, pivot: args[3].clone(), element: args[4].clone() })
    }

    fn growth(args: &Args) -> u64 {
        growth_of(&args[1], &args[4..])
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        let (limit, version) = (keyspace.packing().list, keyspace.version());
        let inserted = change(keyspace, &self.key, |list| {
            let pivot = list.as_ref().iter_from(0).position(|element| element == &self.pivot[..]);
            let Some(pivot) = pivot else { return Changed::No(Reply::Int(-1)) };
            list.insert(pivot + usize::from(self.after), &self.element, limit);
            Changed::Yes(Reply::count(list.as_ref().len()))
        });
        keyspace.notify_since(version, Class::List, "linsert", &self.key);
        inserted.unwrap_or(Reply::Int(0))
    }
}

struct Lrem {
    key: Bytes,
    count: i64,
    element: Bytes,
}

impl WriteCommand for Lrem {
    const SPEC: Spec = Spec {
        name: "lrem",
        arity: 4,
        syntax: "LREM key count element",
        summary: "Removes elements that equal the one given: the first, with a negative count the last, with 0 all of them.",
        complexity: "O(N), N the length of the list",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(Lrem { key: args[1].clone(), count: want_integer(&args[2])?, element: args[3].clone() })
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        let (limit, version) = (keyspace.packing().list, keyspace.version());
        let removed = change(keyspace, &self.key, |list| {
            let most = usize::try_from(self.count.unsigned_abs()).unwrap_or(usize::MAX);
            let most = if most == 0 { usize::MAX } else { most };
            let is_match = |(at, element): (usize, &[u8])| (element == &self.element[..]).then_some(at);
            let found: Vec<usize> = if self.count >= 0 {
                list.as_ref().iter_from(0).enumerate().filter_map(is_match).take(most).collect()
            } else {
                let last = list.as_ref().len().saturating_sub(1);
                let all = list.as_ref().iter_back().enumerate().filter_map(is_match);
                let mut found: Vec<usize> = all.take(most).map(|at| last - at).collect();
                found.reverse();
                found
            };
            if found.is_empty() {
                return Changed::No(Reply::Int(0));
            }
            list.remove_each(&found, limit);
            Changed::Yes(Reply::count(found.len()))
        });
        keyspace.notify_since(version, Class::List, "lrem", &self.key);
        removed.unwrap_or(Reply::Int(0))
    }
}

struct Ltrim {
    key: Bytes,
    start: i64,
    stop: i64,
}

impl WriteCommand for Ltrim {
    const SPEC: Spec = Spec {
        name: "ltrim",
        arity: 4,
        syntax: "LTRIM key start stop",
        summary: "Removes all elements of a list but a part; both ends belong to it.",
        complexity: "O(N), N the number of elements removed",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(Ltrim { key: args[1].clone(), start: want_integer(&args[2])?, stop: want_integer(&args[3])? })
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        let limit = keyspace.packing().list;
        let trimmed = change(keyspace, &self.key, |list| {
            let length = list.as_ref().len();
            let kept = positions(self.start, self.stop, length);
            list.remove(kept.end..length, limit);
            list.remove(0..kept.start, limit);
            Changed::when(kept.len() < length, Reply::OK)
        });
        // Told even if nothing lay outside, as in Redis.
        if trimmed == Some(Reply::OK) {
            keyspace.notify_change(Class::List, "ltrim", &self.key);
        }
        trimmed.unwrap_or(Reply::OK)
    }
}

/// The family.
pub static LIST: &[Command] = &[
    read::<Lindex>(),
    write::<Linsert>(),
    read::<Llen>(),
    write::<Lmove>(),
    write::<Lmpop>(),
    write::<Lpop>(),
    read::<Lpos>(),
    write::<Lpush>(),
    write::<Lpushx>(),
    read::<Lrange>(),
    write::<Lrem>(),
    write::<Lset>(),
    write::<Ltrim>(),
    write::<Rpop>(),
    write::<Rpoplpush>(),
    write::<Rpush>(),
    write::<Rpushx>(),
];
