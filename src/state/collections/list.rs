//! Lists: elements in the order they were put in.
//!
//! ```text
//! packed   the elements, one after the other
//! runs     a tree of runs in the list's order; a run is some elements packed in up to a few KB, or one large element
//! body     of runs: { element blob } in order
//! ```
//!
//! How the elements are cut into runs follows from what was done to the list, and means nothing: neither the account nor
//! the bytes on disk know it, so that a restored copy may cut otherwise. What is changed is one run: a push touches the
//! run at its end, and large elements are shared, never copied.

use super::body::{Body, put_blob};
use super::packed::{Elements, PACKED_MAX, element_len, is_packed, put_element, splice};
use super::tree::{Item, Tree};
use super::{Aggregate, ELEMENT_COST};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;

pub(in crate::state) const PACKED: u8 = 6;
pub(in crate::state) const RUNS: u8 = 7;

/// Bytes of a run of more than one element, at most.
const RUN_MAX: usize = 4 << 10;
/// A longer element is a run of its own.
const SMALL_MAX: usize = 1 << 10;

/// What runs cost beside their bytes, as a part of these: headers of runs a half to three quarters full.
const RUN_SHARE: usize = 16;

/// What one more element can add to the account beside its own bytes, and their length.
pub const fn list_element_cost(length: usize) -> usize {
    let packed = length + 6;
    packed + packed.div_ceil(RUN_SHARE) + if length > SMALL_MAX { ELEMENT_COST } else { 0 }
}

/// A list, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListValue {
    Packed(Bytes),
    Runs(Box<Runs>),
}

/// The elements of a large list.
#[derive(Debug, Clone, Default)]
pub struct Runs {
    tree: Tree<Run>,
    /// Of all elements, were they packed.
    bytes: usize,
    /// Elements that are runs of their own.
    large: usize,
}

/// Some elements that stand together.
#[derive(Debug, Clone)]
enum Run {
    Packed { bytes: Arc<Vec<u8>>, count: u32 },
    One(Arc<[u8]>),
}

impl Item for Run {
    type Key = ();

    fn key(&self) {}

    fn measure(&self) -> usize {
        match self {
            Run::Packed { count, .. } => *count as usize,
            Run::One(_) => 1,
        }
    }
}

impl Run {
    fn of(element: &[u8]) -> Run {
        if element.len() > SMALL_MAX {
            return Run::One(element.into());
        }
        let mut bytes = Vec::with_capacity(element_len(element));
        put_element(&mut bytes, element);
        Run::Packed { bytes: bytes.into(), count: 1 }
    }

    fn elements(&self) -> impl Iterator<Item = &[u8]> {
        let (packed, one) = match self {
            Run::Packed { bytes, .. } => (&bytes[..], None),
            Run::One(element) => (&[][..], Some(&element[..])),
        };
        one.into_iter().chain(Elements::of(packed))
    }

    /// Whether it can take this many bytes more.
    fn has_room(&self, length: usize) -> bool {
        matches!(self, Run::Packed { bytes, .. } if bytes.len() + length <= RUN_MAX)
    }

    /// Replaces some of its elements by one or none.
    fn splice(&mut self, gone: Range<usize>, new: Option<&[u8]>) {
        let Run::Packed { bytes, count } = self else { unreachable!("a large element is replaced as a whole") };
        let start = offset(bytes, gone.start);
        let end = start + offset(&bytes[start..], gone.len());
        let mut packed = Vec::new();
        if let Some(new) = new {
            put_element(&mut packed, new);
        }
        *count = *count - gone.len() as u32 + u32::from(new.is_some());
        let bytes = Arc::make_mut(bytes);
        if start == bytes.len() {
            bytes.extend_from_slice(&packed);
        } else {
            bytes.splice(start..end, packed);
        }
    }

    /// Gives back memory that was kept for more elements.
    fn shrink(&mut self) {
        if let Run::Packed { bytes, .. } = self
            && let Some(bytes) = Arc::get_mut(bytes)
        {
            bytes.shrink_to_fit();
        }
    }
}

/// Where the `nth` element begins.
fn offset(bytes: &[u8], nth: usize) -> usize {
    let mut elements = Elements::of(bytes);
    for _ in 0..nth {
        elements.next();
    }
    bytes.len() - elements.rest().len()
}

/// Whether so many elements of so many bytes are packed; `limit` is Redis' `list-max-listpack-size`.
fn fits(limit: i64, bytes: usize, count: usize) -> bool {
    let (most_bytes, most) = bounds(limit);
    bytes <= most_bytes && count <= most
}

fn bounds(limit: i64) -> (usize, usize) {
    match limit {
        0.. => (PACKED_MAX, usize::try_from(limit).unwrap_or(usize::MAX).max(1)),
        -1 => (4 << 10, usize::MAX),
        _ => (PACKED_MAX, usize::MAX),
    }
}

/// An end of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Front,
    Back,
}

/// A list as a read is shown it, wherever it lies.
#[derive(Debug, Clone, Copy)]
pub enum ListRef<'a> {
    Packed(&'a [u8]),
    Runs(&'a Runs),
}

impl<'a> ListRef<'a> {
    pub fn len(self) -> usize {
        match self {
            ListRef::Packed(bytes) => Elements::of(bytes).count(),
            ListRef::Runs(runs) => runs.tree.measure(),
        }
    }

    pub fn is_empty(self) -> bool {
        match self {
            ListRef::Packed(bytes) => bytes.is_empty(),
            ListRef::Runs(runs) => runs.tree.is_empty(),
        }
    }

    pub fn get(self, at: usize) -> Option<&'a [u8]> {
        self.iter_from(at).next()
    }

    /// The elements from a position on.
    pub fn iter_from(self, at: usize) -> impl Iterator<Item = &'a [u8]> {
        let (packed, runs, skipped) = match self {
            ListRef::Packed(bytes) => (Some(Elements::of(bytes)), None, at),
            ListRef::Runs(runs) => match runs.tree.seek(at) {
                Some((place, within)) => (None, Some(runs.tree.iter_from(place).flat_map(Run::elements)), within),
                None => (None, None, 0),
            },
        };
        packed.into_iter().flatten().chain(runs.into_iter().flatten()).skip(skipped)
    }

    /// The elements from the last to the first.
    pub fn iter_back(self) -> impl Iterator<Item = &'a [u8]> {
        let backwards = |elements: Vec<&'a [u8]>| elements.into_iter().rev();
        let (packed, runs) = match self {
            ListRef::Packed(bytes) => (Some(backwards(Elements::of(bytes).collect())), None),
            ListRef::Runs(runs) => {
                (None, Some(runs.tree.iter().rev().flat_map(move |run| backwards(run.elements().collect()))))
            }
        };
        packed.into_iter().flatten().chain(runs.into_iter().flatten())
    }
}

impl Runs {
    fn count(&mut self, element: &[u8]) {
        self.bytes += element_len(element);
        self.large += usize::from(element.len() > SMALL_MAX);
    }

    fn discount(&mut self, element: &[u8]) {
        self.bytes -= element_len(element);
        self.large -= usize::from(element.len() > SMALL_MAX);
    }

    fn push(&mut self, end: End, element: &[u8]) {
        self.count(element);
        let runs = self.tree.len();
        let (place, next) = match end {
            End::Front => (0, 0),
            End::Back => (runs.saturating_sub(1), runs),
        };
        if let Some(run) = self.tree.get(place) {
            if element.len() <= SMALL_MAX && run.has_room(element_len(element)) {
                let at = if end == End::Front { 0 } else { run.measure() };
                self.tree.update(place, |run| run.splice(at..at, Some(element)));
                return;
            }
            self.tree.update(place, Run::shrink);
        }
        self.tree.insert(next, Run::of(element));
    }

    fn insert(&mut self, at: usize, element: &[u8]) {
        if at == 0 || at == self.tree.measure() {
            return self.push(if at == 0 { End::Front } else { End::Back }, element);
        }
        self.count(element);
        let (mut place, within) = self.tree.seek(at).expect("the position is inside the list");
        // Between two runs either may take it.
        let mut takers = vec![(place, within)];
        if within == 0 {
            takers.push((place - 1, self.run(place - 1).measure()));
        }
        takers.retain(|(place, _)| element.len() <= SMALL_MAX && self.run(*place).has_room(element_len(element)));
        if let Some(&(place, within)) = takers.first() {
            self.tree.update(place, |run| run.splice(within..within, Some(element)));
            return;
        }
        if within > 0 {
            let mut right = self.run(place).clone();
            right.splice(0..within, None);
            self.tree.update(place, |run| {
                run.splice(within..run.measure(), None);
                run.shrink();
            });
            place += 1;
            self.tree.insert(place, right);
        }
        self.tree.insert(place, Run::of(element));
        self.mend(place);
    }

    fn run(&self, place: usize) -> &Run {
        self.tree.get(place).expect("a run is asked for by its place")
    }

    /// Joins the run at a place, or the one that was there, with a neighbour, if both fit in one with some room left.
    fn mend(&mut self, place: usize) {
        for left in [place.wrapping_sub(1), place] {
            let mut two = self.tree.range(left..left.saturating_add(2));
            let (Some(Run::Packed { bytes: a, count }), Some(Run::Packed { bytes: b, count: more })) =
                (two.next(), two.next())
            else {
                continue;
            };
            if a.len() + b.len() > RUN_MAX * 3 / 4 {
                continue;
            }
            let joined = Run::Packed { bytes: Arc::new([&a[..], &b[..]].concat()), count: count + more };
            self.tree.remove(left + 1);
            self.tree.update(left, |run| *run = joined);
            return;
        }
    }

    /// Removes some elements of a run; the run too if they are all.
    fn cut(&mut self, place: usize, gone: Range<usize>) {
        let run = self.run(place).clone();
        run.elements().skip(gone.start).take(gone.len()).for_each(|element| self.discount(element));
        if gone.len() == run.measure() {
            self.tree.remove(place);
        } else {
            // The clone would make it one that is shared.
            drop(run);
            self.tree.update(place, |run| run.splice(gone, None));
        }
    }

    fn set(&mut self, at: usize, element: &[u8]) {
        let (place, within) = self.tree.seek(at).expect("the position is inside the list");
        let old = self.run(place).elements().nth(within).expect("it was just found").len();
        let small = element.len() <= SMALL_MAX && old <= SMALL_MAX;
        if small && self.run(place).has_room(element_len(element).saturating_sub(old)) {
            let run = self.run(place).clone();
            run.elements().skip(within).take(1).for_each(|old| self.discount(old));
            drop(run);
            self.count(element);
            self.tree.update(place, |run| run.splice(within..within + 1, Some(element)));
        } else {
            self.cut(place, within..within + 1);
            self.insert(at, element);
        }
    }

    fn remove(&mut self, range: Range<usize>) {
        let Some(end) = range.end.checked_sub(1).filter(|end| *end >= range.start) else { return };
        let (first, from) = self.tree.seek(range.start).expect("the range is inside the list");
        let (last, to) = self.tree.seek(end).expect("the range is inside the list");
        if first == last {
            self.cut(first, from..to + 1);
            return self.mend(first);
        }
        // Those at the ends keep a part, or go with the others.
        self.cut(last, 0..to + 1);
        for run in self.tree.range(first + 1..last).cloned().collect::<Vec<_>>() {
            run.elements().for_each(|element| self.discount(element));
        }
        self.tree.remove_range(first + 1..last);
        self.cut(first, from..self.run(first).measure());
        self.mend(first);
        self.mend(first + 1);
    }

    /// Removes elements at these positions, which ascend.
    fn remove_each(&mut self, mut positions: &[usize]) {
        while let Some(&at) = positions.last() {
            let (place, within) = self.tree.seek(at).expect("the position is inside the list");
            let start = at - within;
            let (others, here) = positions.split_at(positions.partition_point(|at| *at < start));
            let (mut kept, mut gone) = (Vec::new(), here.iter().peekable());
            for (at, element) in self.run(place).clone().elements().enumerate() {
                if gone.next_if_eq(&&(start + at)).is_some() {
                    self.discount(element);
                } else {
                    put_element(&mut kept, element);
                }
            }
            if kept.is_empty() {
                self.tree.remove(place);
            } else {
                kept.shrink_to_fit();
                let count = (self.run(place).measure() - here.len()) as u32;
                self.tree.update(place, |run| *run = Run::Packed { bytes: Arc::new(kept), count });
            }
            self.mend(place);
            positions = others;
        }
    }
}

/// The elements say all.
impl PartialEq for Runs {
    fn eq(&self, other: &Self) -> bool {
        self.tree.measure() == other.tree.measure()
            && ListRef::Runs(self).iter_from(0).eq(ListRef::Runs(other).iter_from(0))
    }
}

impl Eq for Runs {}

impl ListValue {
    /// A list without elements: only the beginning of one that has some.
    pub fn new() -> ListValue {
        ListValue::Packed(Bytes::new())
    }

    pub fn as_ref(&self) -> ListRef<'_> {
        match self {
            ListValue::Packed(bytes) => ListRef::Packed(bytes),
            ListValue::Runs(runs) => ListRef::Runs(runs),
        }
    }

    /// Puts elements at an end, one after the other. `limit` is what [`super::Packing`] says of lists, here and below.
    pub fn push(&mut self, end: End, elements: &[Bytes], limit: i64) {
        if let ListValue::Packed(bytes) = self {
            let added: usize = elements.iter().map(|element| element_len(element)).sum();
            let count = Elements::of(bytes).count() + elements.len();
            if fits(limit, bytes.len() + added, count) {
                let mut elements: Vec<&[u8]> = elements.iter().map(|element| &element[..]).collect();
                let at = if end == End::Back { usize::MAX } else { 0 };
                if end == End::Front {
                    elements.reverse();
                }
                *bytes = splice(bytes, at, 0, &elements);
                return;
            }
        }
        let runs = self.runs();
        elements.iter().for_each(|element| runs.push(end, element));
    }

    /// Inserts before the element at `at`, or at the end.
    pub fn insert(&mut self, at: usize, element: &[u8], limit: i64) {
        if let ListValue::Packed(bytes) = self
            && fits(limit, bytes.len() + element_len(element), Elements::of(bytes).count() + 1)
        {
            *bytes = splice(bytes, at, 0, &[element]);
            return;
        }
        self.runs().insert(at, element);
    }

    /// Replaces the element at `at`, which must be there.
    pub fn set(&mut self, at: usize, element: &[u8], limit: i64) {
        if let ListValue::Packed(bytes) = self {
            let old = Elements::of(bytes).nth(at).map_or(0, element_len);
            if fits(limit, bytes.len() - old + element_len(element), 0) {
                *bytes = splice(bytes, at, 1, &[element]);
                return;
            }
        }
        self.runs().set(at, element);
    }

    /// Removes a range of positions, which must be there.
    pub fn remove(&mut self, range: Range<usize>, limit: i64) {
        if range.is_empty() {
            // Not even its form may change: callers say then that nothing has.
            return;
        }
        match self {
            ListValue::Packed(bytes) => *bytes = splice(bytes, range.start, range.len(), &[]),
            ListValue::Runs(runs) => runs.remove(range),
        }
        self.settle(limit);
    }

    /// Removes the elements at these positions, which must be there and ascend.
    pub fn remove_each(&mut self, positions: &[usize], limit: i64) {
        match self {
            ListValue::Packed(bytes) => {
                let (mut kept, mut gone) = (Vec::with_capacity(bytes.len()), positions.iter().peekable());
                for (at, element) in Elements::of(bytes).enumerate() {
                    if gone.next_if_eq(&&at).is_none() {
                        put_element(&mut kept, element);
                    }
                }
                kept.shrink_to_fit();
                *bytes = kept.into();
            }
            ListValue::Runs(runs) => runs.remove_each(positions),
        }
        self.settle(limit);
    }

    /// After removals: packs again what fits twice.
    fn settle(&mut self, limit: i64) {
        let ListValue::Runs(runs) = self else { return };
        if fits(limit, runs.bytes * 2, runs.tree.measure() * 2) {
            let mut bytes = Vec::with_capacity(runs.bytes);
            ListRef::Runs(runs).iter_from(0).for_each(|element| put_element(&mut bytes, element));
            *self = ListValue::Packed(bytes.into());
        }
    }

    /// The elements as runs, from now on.
    fn runs(&mut self) -> &mut Runs {
        if let ListValue::Packed(bytes) = self {
            let mut runs = Runs::default();
            Elements::of(bytes).for_each(|element| runs.push(End::Back, element));
            *self = ListValue::Runs(runs.into());
        }
        match self {
            ListValue::Runs(runs) => runs,
            ListValue::Packed(_) => unreachable!("it was made runs just now"),
        }
    }

    /// `None` for bytes that no list has which calls have made.
    pub(in crate::state) fn from_body(tag: u8, body: &[u8]) -> Option<ListValue> {
        if tag == PACKED {
            return is_packed(body).map(|_| ListValue::Packed(Bytes::copy_from_slice(body)));
        }
        let (mut body, mut runs) = (Body(body), Runs::default());
        while !body.is_empty() {
            runs.push(End::Back, body.blob()?);
        }
        (!runs.tree.is_empty()).then(|| ListValue::Runs(runs.into()))
    }
}

impl Default for ListValue {
    fn default() -> Self {
        ListValue::new()
    }
}

impl Aggregate for ListValue {
    fn tag(&self) -> u8 {
        match self {
            ListValue::Packed(_) => PACKED,
            ListValue::Runs(_) => RUNS,
        }
    }

    fn type_name(&self) -> &'static str {
        "list"
    }

    fn encoding(&self) -> &'static str {
        match self {
            ListValue::Packed(_) => "listpack",
            ListValue::Runs(_) => "quicklist",
        }
    }

    fn plain_body(&self) -> Option<&Bytes> {
        match self {
            ListValue::Packed(bytes) => Some(bytes),
            ListValue::Runs(_) => None,
        }
    }

    fn put_body(&self, out: &mut Vec<u8>) {
        match self {
            ListValue::Packed(bytes) => out.extend_from_slice(bytes),
            ListValue::Runs(_) => self.as_ref().iter_from(0).for_each(|element| put_blob(out, element)),
        }
    }

    fn weight(&self) -> usize {
        match self {
            ListValue::Packed(bytes) => bytes.len(),
            ListValue::Runs(runs) => runs.bytes + runs.bytes.div_ceil(RUN_SHARE) + runs.large * ELEMENT_COST,
        }
    }

    fn is_empty(&self) -> bool {
        self.as_ref().is_empty()
    }

    fn unpacking(&self) -> usize {
        match self {
            ListValue::Packed(bytes) => {
                let large = Elements::of(bytes).filter(|element| element.len() > SMALL_MAX).count();
                bytes.len().div_ceil(RUN_SHARE) + large * ELEMENT_COST
            }
            ListValue::Runs(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    #[derive(Debug, Clone)]
    enum Call {
        Push(End, usize, usize),
        Insert(prop::sample::Index, usize),
        Set(prop::sample::Index, usize),
        Remove(prop::sample::Index, usize),
        RemoveEach(usize),
        Copy,
    }

    fn calls() -> impl Strategy<Value = Vec<Call>> {
        let length = || prop_oneof![6 => 0..40usize, 2 => 100..400usize, 1 => SMALL_MAX - 1..SMALL_MAX + 2, 1 => 3000..6000usize];
        let end = prop_oneof![Just(End::Front), Just(End::Back)];
        let index = any::<prop::sample::Index>;
        let call = prop_oneof![
            6 => (end, length(), 1..60usize).prop_map(|(end, length, n)| Call::Push(end, length, n)),
            3 => (index(), length()).prop_map(|(at, length)| Call::Insert(at, length)),
            2 => (index(), length()).prop_map(|(at, length)| Call::Set(at, length)),
            3 => (index(), prop_oneof![1..4usize, 1..300usize]).prop_map(|(at, n)| Call::Remove(at, n)),
            1 => (2..9usize).prop_map(Call::RemoveEach),
            1 => Just(Call::Copy),
        ];
        let runs = (call, prop_oneof![3 => Just(1usize), 1 => 1..20usize]);
        prop::collection::vec(runs, 0..60)
            .prop_map(|runs| runs.into_iter().flat_map(|(call, n)| std::iter::repeat_n(call, n)).collect())
    }

    fn assert_equal(list: &ListValue, model: &VecDeque<Bytes>) {
        assert_eq!(list.as_ref().len(), model.len());
        assert!(list.as_ref().iter_from(0).eq(model.iter().map(|element| &element[..])));
        assert!(list.as_ref().iter_back().eq(model.iter().rev().map(|element| &element[..])));
        if let ListValue::Runs(runs) = list {
            runs.tree.check();
            assert_eq!(runs.bytes, model.iter().map(|element| element_len(element)).sum::<usize>());
            assert_eq!(runs.large, model.iter().filter(|element| element.len() > SMALL_MAX).count());
            for run in runs.tree.iter() {
                assert_eq!(run.elements().count(), run.measure());
                assert!(run.measure() > 0 && !matches!(run, Run::Packed { bytes, .. } if bytes.len() > RUN_MAX));
                assert!(run.elements().all(|element| (element.len() > SMALL_MAX) == matches!(run, Run::One(_))));
            }
        }
    }

    proptest! {
        #[test]
        fn it_is_a_deque_in_either_form(calls in calls(), limit in prop_oneof![Just(-2i64), Just(-1), Just(0), Just(16)]) {
            let (mut list, mut model) = (ListValue::new(), VecDeque::new());
            let mut copies = Vec::new();
            for (turn, call) in calls.into_iter().enumerate() {
                let element = |length: usize, n: usize| Bytes::from(vec![(turn + n) as u8; length]);
                let before = list.weight() + list.unpacking();
                let (mut given, mut keyed) = (0, Vec::new());
                match call {
                    Call::Push(end, length, n) => {
                        keyed = (0..n).map(|n| element(length, n)).collect();
                        list.push(end, &keyed, limit);
                        for element in &keyed {
                            match end {
                                End::Front => model.push_front(element.clone()),
                                End::Back => model.push_back(element.clone()),
                            }
                        }
                    }
                    Call::Insert(at, length) => {
                        let at = at.index(model.len() + 1);
                        keyed = vec![element(length, 0)];
                        list.insert(at, &keyed[0], limit);
                        model.insert(at, keyed[0].clone());
                    }
                    Call::Set(at, length) if !model.is_empty() => {
                        let at = at.index(model.len());
                        keyed = vec![element(length, 0)];
                        list.set(at, &keyed[0], limit);
                        model[at] = keyed[0].clone();
                    }
                    Call::Remove(at, n) if !model.is_empty() => {
                        let at = at.index(model.len());
                        let range = at..(at + n).min(model.len());
                        list.remove(range.clone(), limit);
                        model.drain(range);
                    }
                    Call::RemoveEach(step) => {
                        let positions: Vec<usize> = (0..model.len()).filter(|at| at * at % step == 1).collect();
                        list.remove_each(&positions, limit);
                        let mut at = 0;
                        model.retain(|_| (at += 1, positions.binary_search(&(at - 1)).is_err()).1);
                    }
                    Call::Copy => copies.push((list.clone(), model.clone())),
                    _ => {}
                }
                keyed.iter().for_each(|element| given += list_element_cost(element.len()));
                prop_assert!(list.weight() <= before + given, "{} of {}", list.weight(), before + given);
            }
            assert_equal(&list, &model);
            copies.iter().for_each(|(copy, model)| assert_equal(copy, model));
            for at in (0..model.len() + 2).step_by(7) {
                prop_assert_eq!(list.as_ref().get(at), model.get(at).map(|element| &element[..]));
            }
            let mut body = Vec::new();
            list.put_body(&mut body);
            let again = ListValue::from_body(list.tag(), &body);
            prop_assert_eq!(again.is_none(), list.is_empty(), "nobody keeps an empty one");
            let again = again.unwrap_or_else(|| list.clone());
            assert_equal(&again, &model);
            prop_assert_eq!((again.weight(), &again), (list.weight(), &list));
        }
    }

    #[test]
    fn small_elements_lie_close_together() {
        let mut list = ListValue::new();
        for number in 0..100_000u32 {
            list.push(End::Back, &[Bytes::copy_from_slice(&number.to_le_bytes())], -2);
        }
        let ListValue::Runs(runs) = &list else { panic!("half a megabyte is not packed") };
        assert_eq!(runs.tree.len(), 500_000usize.div_ceil(RUN_MAX / 5 * 5));
        let kept: usize = runs
            .tree
            .iter()
            .map(|run| match run {
                Run::Packed { bytes, .. } => bytes.capacity(),
                Run::One(_) => 0,
            })
            .sum();
        assert!(kept < 500_000 + RUN_MAX);
        // Queues that are filled and emptied come back to where they were.
        list.remove(0..99_990, -2);
        assert!(matches!(list, ListValue::Packed(_)));
    }
}
