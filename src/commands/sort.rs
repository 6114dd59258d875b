//! SORT and SORT_RO: the elements of a list, a set or a sorted set in an order of their own or of other keys.
//!
//! Patterns reach keys that are not among the arguments, so they are answered only where one group holds all keys; the door
//! refuses them elsewhere ([`reaches_elsewhere`]). Bytes are compared as such, whatever the locale. Texts are Redis 7.2's.

use super::generic::{self, BASE};
use super::score::float;
use super::syntax::{either, is, syntax_error, want_integer, wrong_type};
use super::text::text_of;
use super::{Command, Copied, Keys, ReadCommand, Spec, WriteCommand, read, write};
use crate::resp::{Args, Reply, integer};
use crate::state::events::Class;
use crate::state::{End, EntryRef, Keyspace, ListValue, Value, View};
use crate::types::Stamp;
use bytes::Bytes;
use std::cmp::Ordering;

/// Bytes of what the patterns of GET find, at most: few elements can name the same large value many times, and a STORE has
/// every replica make them all.
const FOUND_MAX: usize = 64 << 20;
/// What one of them counts beside its bytes.
const FOUND_COST: usize = 32;

/// What is asked for.
struct Sort {
    key: Bytes,
    by: By,
    descending: bool,
    alpha: bool,
    /// Elements left out, and how many follow at most.
    limit: Option<(i64, i64)>,
    get: Vec<Bytes>,
    store: Option<Bytes>,
}

/// What elements are ordered by.
enum By {
    Themselves,
    Pattern(Bytes),
    /// A pattern without `*`: as they are.
    Nothing,
}

/// Where a key's value is found: SORT reads through both a view and the keyspace that it changes.
type Find<'a> = dyn Fn(&[u8]) -> Option<EntryRef<'a>> + 'a;

impl Sort {
    fn parse(args: &Args, stores: bool) -> Result<Sort, Reply> {
        let mut sort = Sort {
            key: args[1].clone(),
            by: By::Themselves,
            descending: false,
            alpha: false,
            limit: None,
            get: Vec::new(),
            store: None,
        };
        let mut at = 2;
        while let Some(word) = args.get(at) {
            at += 1;
            match (args.get(at), args.get(at + 1)) {
                _ if is(word, "asc") => sort.descending = false,
                _ if is(word, "desc") => sort.descending = true,
                _ if is(word, "alpha") => sort.alpha = true,
                (Some(skipped), Some(count)) if is(word, "limit") => {
                    sort.limit = Some((want_integer(skipped)?, want_integer(count)?));
                    at += 2;
                }
                (Some(key), _) if stores && is(word, "store") => {
                    sort.store = Some(key.clone());
                    at += 1;
                }
                (Some(pattern), _) if is(word, "by") => {
                    sort.by = if pattern.contains(&b'*') { By::Pattern(pattern.clone()) } else { By::Nothing };
                    at += 1;
                }
                (Some(pattern), _) if is(word, "get") => {
                    sort.get.push(pattern.clone());
                    at += 1;
                }
                _ => return Err(syntax_error()),
            }
        }
        Ok(sort)
    }

    /// The elements as the value has them.
    fn elements(&self, find: &Find<'_>) -> Result<Vec<Bytes>, Reply> {
        let copy = |element: &[u8]| Bytes::copy_from_slice(element);
        let Some(entry) = find(&self.key) else { return Ok(Vec::new()) };
        let value = entry.value();
        // What has an order of its own keeps it or is turned round.
        let backwards = self.descending && matches!(self.by, By::Nothing);
        if let Some(list) = value.as_list() {
            let mut elements: Vec<Bytes> = list.iter_from(0).map(copy).collect();
            if backwards {
                elements.reverse();
            }
            Ok(elements)
        } else if let Some(set) = value.as_set() {
            Ok(set.iter().map(|member| copy(&member)).collect())
        } else if let Some(sorted) = value.as_sorted() {
            let in_order = sorted.iter().map(|scored| copy(scored.member));
            Ok(if backwards { in_order.rev().collect() } else { in_order.collect() })
        } else {
            Err(wrong_type())
        }
    }

    /// The elements in their order, and only those within the limit.
    fn ordered(&self, find: &Find<'_>) -> Result<Vec<Bytes>, Reply> {
        let mut elements = self.elements(find)?;
        // What a set is copied into must not depend on how it is kept.
        let of_a_set = find(&self.key).is_some_and(|entry| entry.value().as_set().is_some());
        let unordered = matches!(self.by, By::Nothing) && !(of_a_set && self.store.is_some());
        if !unordered {
            self.sort(&mut elements, of_a_set, find)?;
        }
        let Some((skipped, count)) = self.limit else { return Ok(elements) };
        let from = usize::try_from(skipped).unwrap_or(0).min(elements.len());
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(elements.len() - from);
        Ok(elements.into_iter().skip(from).take(count).collect())
    }

    /// `unordered`: the elements come in no order of their own, so that those of the same weight must be given one.
    fn sort(&self, elements: &mut [Bytes], unordered: bool, find: &Find<'_>) -> Result<(), Reply> {
        let alpha = self.alpha || matches!(self.by, By::Nothing);
        let mut weighed = Vec::with_capacity(elements.len());
        for element in elements.iter() {
            let weight = match &self.by {
                By::Pattern(pattern) => looked_up(pattern, element, find),
                _ => Some(element.clone()),
            };
            let number = match (&weight, alpha) {
                (Some(text), false) => weight_of(text).ok_or_else(not_a_double)?,
                _ => 0.0,
            };
            weighed.push((number, weight, element.clone()));
        }
        weighed.sort_by(|(a, a_text, a_element), (b, b_text, b_element)| {
            let order = match alpha {
                // What is not there comes first.
                true => a_text.cmp(b_text),
                false => a.partial_cmp(b).unwrap_or(Ordering::Equal),
            };
            let order = if order.is_eq() && (unordered || !alpha) { a_element.cmp(b_element) } else { order };
            if self.descending { order.reverse() } else { order }
        });
        elements.iter_mut().zip(weighed).for_each(|(place, (.., element))| *place = element);
        Ok(())
    }

    /// What the request asks of each element, in order.
    fn output(&self, find: &Find<'_>) -> Result<Vec<Option<Bytes>>, Reply> {
        let elements = self.ordered(find)?;
        if self.get.is_empty() {
            return Ok(elements.into_iter().map(Some).collect());
        }
        let (mut found, mut bytes) = (Vec::new(), 0);
        for element in &elements {
            for pattern in &self.get {
                let one = looked_up(pattern, element, find);
                bytes += FOUND_COST + one.as_ref().map_or(0, Bytes::len);
                if bytes > FOUND_MAX {
                    return Err(Reply::error("ERR what SORT was asked to GET is larger than 64 MiB"));
                }
                found.push(one);
            }
        }
        Ok(found)
    }

    fn reply(&self, find: &Find<'_>) -> Result<Reply, Reply> {
        Ok(Reply::Array(self.output(find)?.into_iter().map(|one| one.map_or(Reply::Nil, Reply::Bulk)).collect()))
    }

    fn run(&self, keyspace: &mut Keyspace) -> Result<Reply, Reply> {
        let Some(to) = &self.store else { return self.reply(&|key| keyspace.get(key)) };
        let output = self.output(&|key| keyspace.get(key))?;
        let count = output.len();
        if count == 0 {
            generic::delete(keyspace, to);
            return Ok(Reply::Int(0));
        }
        let elements: Vec<Bytes> = output.into_iter().map(Option::unwrap_or_default).collect();
        let mut list = ListValue::new();
        list.push(End::Back, &elements, keyspace.packing().list);
        keyspace.set(to, Value::List(list), None);
        keyspace.notify(Class::List, "sortstore", to);
        Ok(Reply::count(count))
    }
}

/// A weight as C reads it: what ends at once, or with a NUL, is a number as far as it goes, and nothing is 0. A decimal
/// number with fewer digits than others because it is so small is none, which only SORT minds.
fn weight_of(text: &[u8]) -> Option<f64> {
    match text.split(|byte| *byte == 0).next().unwrap_or_default() {
        b"" => Some(0.0),
        text => float(text).filter(|number| !number.is_subnormal() || text.contains(&b'x') || text.contains(&b'X')),
    }
}

fn not_a_double() -> Reply {
    Reply::error("ERR One or more scores can't be converted into double")
}

/// What a pattern stands for with an element in the place of its first `*`: the element itself for `#`, a string, or with
/// `->` a field of a hash.
fn looked_up(pattern: &[u8], element: &Bytes, find: &Find<'_>) -> Option<Bytes> {
    if pattern == b"#" {
        return Some(element.clone());
    }
    let star = pattern.iter().position(|byte| *byte == b'*')?;
    let arrow = pattern.windows(2).skip(star + 1).position(|pair| pair == b"->").map(|at| at + star + 1);
    // An arrow with nothing behind it is part of the key's name.
    let arrow = arrow.filter(|at| at + 2 < pattern.len());
    let end = arrow.unwrap_or(pattern.len());
    let key = [&pattern[..star], element, &pattern[star + 1..end]].concat();
    let entry = find(&key)?;
    match arrow {
        Some(arrow) => {
            let field = entry.value().as_hash()?.get(&pattern[arrow + 2..])?;
            Some(Bytes::copy_from_slice(field.value))
        }
        None => text_of(Some(entry)).ok().flatten().map(|text| Bytes::copy_from_slice(&text)),
    }
}

/// Whether a SORT looks at keys that are not among its arguments.
pub fn reaches_elsewhere(command: &Command, args: &Args) -> bool {
    if !matches!(command.spec.name, "sort" | "sort_ro") {
        return false;
    }
    let pattern = |word: &Bytes, what: &Bytes| (is(word, "by") || is(word, "get")) && what.contains(&b'*');
    args.iter().skip(2).zip(args.iter().skip(3)).any(|(word, what)| pattern(word, what))
}

/// The first option of a SORT that looks at keys which no right of a user was asked for. Options are read as far as they are
/// right, and as in Redis any GET counts, even one of the element itself.
pub fn reads_beyond(command: &Command, args: &Args) -> Option<&'static str> {
    if !matches!(command.spec.name, "sort" | "sort_ro") {
        return None;
    }
    let mut rest = args.get(2..)?;
    loop {
        rest = match rest {
            [word, after @ ..] if ["asc", "desc", "alpha"].iter().any(|name| is(word, name)) => after,
            [word, offset, count, after @ ..] if is(word, "limit") => {
                integer(offset).and(integer(count))?;
                after
            }
            [word, _, after @ ..] if is(word, "store") && command.is_write() => after,
            [word, pattern, ..] if is(word, "by") && pattern.contains(&b'*') => return Some("BY"),
            [word, _, after @ ..] if is(word, "by") => after,
            [word, _, ..] if is(word, "get") => return Some("GET"),
            _ => return None,
        };
    }
}

/// The keys that a SORT's patterns name, as far as the elements and what is under those keys tell: nothing beyond the
/// first that its order cannot be told by.
pub fn looks_at(args: &Args, keyspace: &Keyspace) -> Vec<Bytes> {
    let Ok(sort) = Sort::parse(args, true) else { return Vec::new() };
    let keys = std::cell::RefCell::new(Vec::new());
    let find = |key: &[u8]| {
        keys.borrow_mut().push(Bytes::copy_from_slice(key));
        keyspace.get(key)
    };
    // What it answers is of no interest here, not even whether it is an error.
    let _ = sort.output(&find);
    keys.into_inner()
}

struct SortAny(Sort);

impl WriteCommand for SortAny {
    const SPEC: Spec = Spec {
        name: "sort",
        arity: -2,
        keys: Keys::FirstAndStored,
        syntax: "SORT key [BY pattern] [LIMIT offset count] [GET pattern [GET pattern ...]] [ASC | DESC] [ALPHA] [STORE destination]",
        summary: "Returns or stores the elements of a list, a set or a sorted set in order.",
        complexity: "O(N*log(N)), N the number of elements",
        denyoom: true,
        ..BASE
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Sort::parse(args, true).map(SortAny)
    }

    const COPIED: Option<Copied> = Some(|args, size| size(&args[1]).in_set());

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        either(self.0.run(keyspace))
    }
}

struct SortReadOnly(Sort);

impl ReadCommand for SortReadOnly {
    const SPEC: Spec = Spec {
        name: "sort_ro",
        arity: -2,
        keys: Keys::FirstAndStored,
        syntax: "SORT_RO key [BY pattern] [LIMIT offset count] [GET pattern [GET pattern ...]] [ASC | DESC] [ALPHA]",
        summary: "Returns the elements of a list, a set or a sorted set in order.",
        complexity: "O(N*log(N)), N the number of elements",
        since: "7.0.0",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Sort::parse(args, false).map(SortReadOnly)
    }

    fn read(self, view: &View<'_>) -> Reply {
        either(self.0.reply(&|key| view.get(key)))
    }
}

pub(super) static SORT: &[Command] = &[write::<SortAny>(), read::<SortReadOnly>()];
