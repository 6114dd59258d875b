//! Sorted sets: members, each once and with a score, in the order of (score, member).
//!
//! ```text
//! packed   member, score, member, score ...   in that order
//! tree     two: members with their scores by (hash, member), and ranks by (score, member); they share the members' bytes
//! body     of a tree: { score float  member blob } in the order of ranks
//! score    as a packed element: a whole number in 1, 2 or 4 bytes if it fits, else eight bytes of a float;
//!          little-endian
//! ```
//!
//! A score is never NaN: callers see to it. Of -0 it is kept that it is 0, as in a packed one of Redis.

use super::body::{Body, put_blob, put_float};
use super::packed::{Elements, PACKED_MAX, PackedLimits, Packer, are_distinct, element_len, is_packed, splice};
use super::tree::{self, Item, Tree};
use super::{Aggregate, RANKED_COST, Size, order_of, scan_range};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;

pub(in crate::state) const PACKED: u8 = 11;
pub(in crate::state) const TREE: u8 = 13;

/// A sorted set, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SortedValue {
    Packed(Bytes),
    Tree(Box<Ranked>),
}

/// The members of a large sorted set.
#[derive(Debug, Clone, Default)]
pub struct Ranked {
    scores: Tree<Scored>,
    ranks: Tree<Rank>,
    /// Bytes of all members.
    bytes: usize,
}

/// The ranks say all: the rest follows from them.
impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.ranks == other.ranks
    }
}

impl Eq for Ranked {}

/// A member as it is found by its bytes.
#[derive(Debug, Clone)]
struct Scored {
    hash: u64,
    score: f64,
    member: Arc<[u8]>,
}

impl Item for Scored {
    type Key = u64;

    fn key(&self) -> u64 {
        self.hash
    }
}

/// A member as it is found by its score.
#[derive(Debug, Clone)]
struct Rank {
    score: f64,
    member: Arc<[u8]>,
}

impl PartialEq for Rank {
    fn eq(&self, other: &Self) -> bool {
        self.score.to_bits() == other.score.to_bits() && self.member == other.member
    }
}

impl Item for Rank {
    type Key = u64;

    fn key(&self) -> u64 {
        place_of(self.score)
    }
}

/// The score; 0 for -0.
fn unsigned_zero(score: f64) -> f64 {
    if score == 0.0 { 0.0 } else { score }
}

/// A number that grows with the score, as long as nobody asks with -0.
fn place_of(score: f64) -> u64 {
    let bits = score.to_bits();
    if bits >> 63 == 0 { bits | 1 << 63 } else { !bits }
}

/// A member with its score, as it is shown.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScoredRef<'a> {
    pub member: &'a [u8],
    pub score: f64,
}

impl ScoredRef<'_> {
    fn is_before(&self, score: f64, member: &[u8]) -> bool {
        (place_of(self.score), self.member) < (place_of(score), member)
    }
}

impl Rank {
    fn show(&self) -> ScoredRef<'_> {
        ScoredRef { member: &self.member, score: self.score }
    }
}

/// A score as a packed element.
fn with_packed_score<R>(score: f64, then: impl FnOnce(&[u8]) -> R) -> R {
    let whole = score as i32;
    if f64::from(whole).to_bits() != score.to_bits() {
        return then(&score.to_le_bytes());
    }
    let width = if i8::try_from(whole).is_ok() {
        1
    } else if i16::try_from(whole).is_ok() {
        2
    } else {
        4
    };
    then(&whole.to_le_bytes()[..width])
}

/// `None` for bytes that are no score.
fn packed_score(element: &[u8]) -> Option<f64> {
    Some(match *element {
        [a] => i8::from_le_bytes([a]).into(),
        [a, b] => i16::from_le_bytes([a, b]).into(),
        [a, b, c, d] => i32::from_le_bytes([a, b, c, d]).into(),
        _ => f64::from_le_bytes(element.try_into().ok()?),
    })
}

fn packed_members(bytes: &[u8]) -> impl Iterator<Item = ScoredRef<'_>> {
    let mut elements = Elements::of(bytes);
    std::iter::from_fn(move || {
        let member = elements.next()?;
        let score = elements.next().and_then(packed_score).expect("a packed sorted set has pairs with a score");
        Some(ScoredRef { member, score })
    })
}

/// A sorted set as a read is shown it, wherever it lies.
#[derive(Debug, Clone, Copy)]
pub enum SortedRef<'a> {
    Packed(&'a [u8]),
    Tree(&'a Ranked),
}

impl<'a> SortedRef<'a> {
    pub fn len(self) -> usize {
        match self {
            SortedRef::Packed(bytes) => Elements::of(bytes).count() / 2,
            SortedRef::Tree(ranked) => ranked.ranks.len(),
        }
    }

    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    pub fn score(self, member: &[u8]) -> Option<f64> {
        match self {
            SortedRef::Packed(bytes) => packed_members(bytes).find(|here| here.member == member).map(|here| here.score),
            SortedRef::Tree(ranked) => Some(ranked.scores.get(ranked.find(member).ok()?)?.score),
        }
    }

    /// How many come before the member, and its score.
    pub fn rank(self, member: &[u8]) -> Option<(usize, f64)> {
        match self {
            SortedRef::Packed(bytes) => packed_members(bytes)
                .enumerate()
                .find(|(_, here)| here.member == member)
                .map(|(at, here)| (at, here.score)),
            SortedRef::Tree(ranked) => {
                let score = self.score(member)?;
                Some((ranked.place(score, member), score))
            }
        }
    }

    /// The member at a position, of [`SortedRef::len`].
    pub fn nth(self, at: usize) -> Option<ScoredRef<'a>> {
        match self {
            SortedRef::Packed(bytes) => packed_members(bytes).nth(at),
            SortedRef::Tree(ranked) => ranked.ranks.get(at).map(Rank::show),
        }
    }

    /// The members at these positions, cut to what there is; from both ends.
    pub fn range(self, range: Range<usize>) -> ScoredIter<'a> {
        match self {
            SortedRef::Packed(bytes) => {
                let members = packed_members(bytes).skip(range.start).take(range.len());
                ScoredIter(Iter::Packed(members.collect::<Vec<_>>().into_iter()))
            }
            SortedRef::Tree(ranked) => ScoredIter(Iter::Tree(ranked.ranks.range(range))),
        }
    }

    /// All members in order.
    pub fn iter(self) -> ScoredIter<'a> {
        self.range(0..usize::MAX)
    }

    /// How many have a smaller score, those with an equal one too if `equal`.
    pub fn below_score(self, score: f64, equal: bool) -> usize {
        let is_below = |other: f64| if equal { other <= score } else { other < score };
        match self {
            SortedRef::Packed(bytes) => packed_members(bytes).take_while(|here| is_below(here.score)).count(),
            SortedRef::Tree(ranked) => ranked.ranks.partition_point(place_of(unsigned_zero(score)), |_| equal),
        }
    }

    /// How many come before a member that need not be there, if all scores are equal; one that is there counts if
    /// `equal`. Where scores differ, the answer is some position.
    pub fn below_member(self, member: &[u8], equal: bool) -> usize {
        let is_below = |other: &[u8]| if equal { other <= member } else { other < member };
        let (mut start, mut end) = (0, self.len());
        while start < end {
            let middle = (start + end) / 2;
            let below = self.nth(middle).is_some_and(|here| is_below(here.member));
            if below { start = middle + 1 } else { end = middle }
        }
        start
    }

    /// One step of ZSCAN: about `count` members and the next cursor, 0 at the end. What is packed is shown at once.
    pub fn scan(self, cursor: u64, count: usize) -> (Vec<ScoredRef<'a>>, u64) {
        match self {
            SortedRef::Packed(bytes) => (packed_members(bytes).collect(), 0),
            SortedRef::Tree(ranked) => {
                let (range, next) = scan_range(&ranked.scores, cursor, count);
                let show = |here: &'a Scored| ScoredRef { member: &here.member, score: here.score };
                (ranked.scores.range(range).map(show).collect(), next)
            }
        }
    }

    /// How many members there are, and their bytes.
    pub(in crate::state) fn size(self) -> Size {
        let bytes = match self {
            SortedRef::Packed(bytes) => bytes.len(),
            SortedRef::Tree(ranked) => ranked.bytes,
        };
        Size { elements: self.len() as u64, bytes: bytes as u64, ranked: true }
    }
}

/// Members in order, from both ends.
#[derive(Debug, Clone)]
pub struct ScoredIter<'a>(Iter<'a>);

#[derive(Debug, Clone)]
enum Iter<'a> {
    Packed(std::vec::IntoIter<ScoredRef<'a>>),
    Tree(tree::Iter<'a, Rank>),
}

impl<'a> Iterator for ScoredIter<'a> {
    type Item = ScoredRef<'a>;

    fn next(&mut self) -> Option<ScoredRef<'a>> {
        match &mut self.0 {
            Iter::Packed(members) => members.next(),
            Iter::Tree(ranks) => ranks.next().map(Rank::show),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match &self.0 {
            Iter::Packed(members) => members.size_hint(),
            Iter::Tree(ranks) => ranks.size_hint(),
        }
    }
}

impl<'a> DoubleEndedIterator for ScoredIter<'a> {
    fn next_back(&mut self) -> Option<ScoredRef<'a>> {
        match &mut self.0 {
            Iter::Packed(members) => members.next_back(),
            Iter::Tree(ranks) => ranks.next_back().map(Rank::show),
        }
    }
}

impl ExactSizeIterator for ScoredIter<'_> {}

impl Ranked {
    /// Where the member is among scores, or where it would be.
    fn find(&self, member: &[u8]) -> Result<usize, usize> {
        let hash = order_of(member);
        let at = self.scores.partition_point(hash, |other| other.member[..] < *member);
        match self.scores.get(at) {
            Some(other) if other.hash == hash && other.member[..] == *member => Ok(at),
            _ => Err(at),
        }
    }

    /// Where a member with this score is among ranks, or would be.
    fn place(&self, score: f64, member: &[u8]) -> usize {
        self.ranks.partition_point(place_of(score), |other| other.member[..] < *member)
    }

    /// Writes a member; its score before.
    fn set(&mut self, member: &[u8], score: f64) -> Option<f64> {
        match self.find(member) {
            Ok(at) => {
                let Scored { score: old, member, .. } = self.scores.get(at).expect("it was just found").clone();
                self.ranks.remove(self.place(old, &member));
                self.scores.update(at, |here| here.score = score);
                self.ranks.insert(self.place(score, &member), Rank { score, member });
                Some(old)
            }
            Err(at) => {
                let (hash, bytes) = (order_of(member), Arc::<[u8]>::from(member));
                self.ranks.insert(self.place(score, member), Rank { score, member: bytes.clone() });
                self.scores.insert(at, Scored { hash, score, member: bytes });
                self.bytes += member.len();
                None
            }
        }
    }

    fn remove_range(&mut self, range: Range<usize>) {
        let leaving: Vec<Arc<[u8]>> = self.ranks.range(range.clone()).map(|rank| rank.member.clone()).collect();
        self.ranks.remove_range(range);
        for member in leaving {
            let at = self.find(&member).expect("who has a rank has a score");
            self.scores.remove(at);
            self.bytes -= member.len();
        }
    }
}

impl SortedValue {
    /// A sorted set without members: only the beginning of one that has some.
    pub fn new() -> SortedValue {
        SortedValue::Packed(Bytes::new())
    }

    pub fn as_ref(&self) -> SortedRef<'_> {
        match self {
            SortedValue::Packed(bytes) => SortedRef::Packed(bytes),
            SortedValue::Tree(ranked) => SortedRef::Tree(ranked),
        }
    }

    /// So many members are about to be written: should that be more than can be packed, it becomes a tree at once.
    pub fn expect(&mut self, count: usize, limits: PackedLimits) {
        if count > limits.entries {
            self.ranked();
        }
    }

    /// Writes a member; its score before, if it was there.
    pub fn set(&mut self, member: &[u8], score: f64, limits: PackedLimits) -> Option<f64> {
        let score = unsigned_zero(score);
        if let SortedValue::Packed(bytes) = self {
            let (mut count, mut place, mut old) = (0, 0, None);
            for (at, here) in packed_members(bytes).enumerate() {
                count += 1;
                place += usize::from(here.is_before(score, member));
                if here.member == member {
                    old = Some((at, here.score, here.is_before(score, member)));
                }
            }
            let many = old.is_none() && count >= limits.entries;
            let large = bytes.len() + element_len(member) + 1 + size_of::<f64>() > PACKED_MAX;
            if !many && !large && member.len() <= limits.value {
                if let Some((at, _, before)) = old {
                    *bytes = splice(bytes, 2 * at, 2, &[]);
                    place -= usize::from(before);
                }
                *bytes = with_packed_score(score, |score| splice(bytes, 2 * place, 0, &[member, score]));
                return old.map(|(_, score, _)| score);
            }
        }
        self.ranked().set(member, score)
    }

    /// Removes a member; its score, if it was there.
    pub fn remove(&mut self, member: &[u8]) -> Option<f64> {
        let (at, score) = self.as_ref().rank(member)?;
        self.remove_range(at..at + 1);
        Some(score)
    }

    /// Removes the members at these positions, which must be there.
    pub fn remove_range(&mut self, range: Range<usize>) {
        match self {
            SortedValue::Packed(bytes) => *bytes = splice(bytes, 2 * range.start, 2 * range.len(), &[]),
            SortedValue::Tree(ranked) => ranked.remove_range(range),
        }
    }

    /// The members as trees, from now on.
    fn ranked(&mut self) -> &mut Ranked {
        if let SortedValue::Packed(bytes) = self {
            let mut ranked = Ranked::default();
            for here in packed_members(bytes) {
                ranked.set(here.member, here.score);
            }
            *self = SortedValue::Tree(ranked.into());
        }
        match self {
            SortedValue::Tree(ranked) => ranked,
            SortedValue::Packed(_) => unreachable!("it was made a tree just now"),
        }
    }

    /// `None` for bytes that no sorted set has which calls have made; see [`Aggregate::has_each_once`], too.
    pub(in crate::state) fn from_body(tag: u8, body: &[u8]) -> Option<SortedValue> {
        let mut last: Option<(u64, &[u8])> = None;
        // In order, and each once, or it is not what was written.
        let mut follows = |score: f64, member| {
            let place = (place_of(score), member);
            !score.is_nan()
                && unsigned_zero(score).to_bits() == score.to_bits()
                && last.replace(place).is_none_or(|last| last < place)
        };
        if tag == PACKED {
            is_packed(body).filter(|n| n % 2 == 0)?;
            let (mut elements, mut again) = (Elements::of(body), Packer::with_room(body.len()));
            while let (Some(member), Some(score)) = (elements.next(), elements.next()) {
                let score = packed_score(score).filter(|score| follows(*score, member))?;
                again.put(member);
                with_packed_score(score, |score| again.put(score));
            }
            // One spelling only.
            return Some(again.finish()).filter(|again| again == body).map(SortedValue::Packed);
        }
        let (mut body, mut ranked) = (Body(body), Ranked::default());
        while !body.is_empty() {
            let (score, member) = (body.float()?, body.blob()?);
            if !follows(score, member) || ranked.set(member, score).is_some() {
                return None;
            }
        }
        (!ranked.ranks.is_empty()).then(|| SortedValue::Tree(ranked.into()))
    }
}

impl Default for SortedValue {
    fn default() -> Self {
        SortedValue::new()
    }
}

impl Aggregate for SortedValue {
    fn tag(&self) -> u8 {
        match self {
            SortedValue::Packed(_) => PACKED,
            SortedValue::Tree(_) => TREE,
        }
    }

    fn type_name(&self) -> &'static str {
        "zset"
    }

    fn encoding(&self) -> &'static str {
        match self {
            SortedValue::Packed(_) => "listpack",
            SortedValue::Tree(_) => "skiplist",
        }
    }

    fn plain_body(&self) -> Option<&Bytes> {
        match self {
            SortedValue::Packed(bytes) => Some(bytes),
            SortedValue::Tree(_) => None,
        }
    }

    fn put_body(&self, out: &mut Vec<u8>) {
        match self {
            SortedValue::Packed(bytes) => out.extend_from_slice(bytes),
            SortedValue::Tree(ranked) => {
                for here in ranked.ranks.iter() {
                    put_float(out, here.score);
                    put_blob(out, &here.member);
                }
            }
        }
    }

    fn has_each_once(&self) -> bool {
        match self {
            SortedValue::Packed(bytes) => are_distinct(Elements::of(bytes).step_by(2)),
            SortedValue::Tree(_) => true,
        }
    }

    fn weight(&self) -> usize {
        match self {
            SortedValue::Packed(bytes) => bytes.len(),
            SortedValue::Tree(ranked) => ranked.bytes + ranked.ranks.len() * RANKED_COST,
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            SortedValue::Packed(bytes) => bytes.is_empty(),
            SortedValue::Tree(ranked) => ranked.ranks.is_empty(),
        }
    }

    fn unpacking(&self) -> usize {
        (self.as_ref().size().in_sorted() as usize).saturating_sub(self.weight())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const LIMITS: PackedLimits = PackedLimits { entries: 8, value: 6 };

    #[derive(Debug, Clone)]
    enum Change {
        Set(Vec<u8>, f64),
        Remove(Vec<u8>),
        RemoveRange(prop::sample::Index, usize),
        Expect(usize),
    }

    fn member() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![20 => "[a-d]{0,2}", 1 => "[a-b]{6,8}"].prop_map(String::into_bytes)
    }

    fn score() -> impl Strategy<Value = f64> {
        prop_oneof![
            6 => (-3..4i32).prop_map(f64::from),
            2 => any::<i32>().prop_map(f64::from),
            2 => (-300..300i32).prop_map(|n| f64::from(n) * 128.0),
            2 => any::<f64>().prop_filter("no score", |score| !score.is_nan()),
            1 => prop::sample::select(vec![-0.0, 0.0, f64::INFINITY, f64::NEG_INFINITY, 0.5, 1e300, 5e-324]),
        ]
    }

    fn changes() -> impl Strategy<Value = Vec<Change>> {
        let change = prop_oneof![
            12 => (member(), score()).prop_map(|(member, score)| Change::Set(member, score)),
            4 => member().prop_map(Change::Remove),
            1 => (any::<prop::sample::Index>(), 0..6usize).prop_map(|(at, n)| Change::RemoveRange(at, n)),
            1 => (0..10usize).prop_map(Change::Expect),
        ];
        prop::collection::vec(change, 0..80)
    }

    /// Members in order, by the plainest means.
    fn in_order(model: &BTreeMap<Vec<u8>, f64>) -> Vec<(Vec<u8>, f64)> {
        let mut all: Vec<_> = model.iter().map(|(member, score)| (member.clone(), *score)).collect();
        all.sort_by(|left, right| left.1.partial_cmp(&right.1).unwrap().then_with(|| left.0.cmp(&right.0)));
        all
    }

    fn bits(score: Option<f64>) -> Option<u64> {
        score.map(f64::to_bits)
    }

    proptest! {
        #[test]
        fn it_is_a_sorted_set_in_either_form(changes in changes(), seeks in prop::collection::vec((score(), member()), 8)) {
            let (mut sorted, mut model) = (SortedValue::new(), BTreeMap::new());
            for change in changes {
                let (weight, unpacking) = (sorted.weight(), sorted.unpacking());
                let mut added = 0;
                match &change {
                    Change::Set(member, score) => {
                        let old = sorted.set(member, *score, LIMITS);
                        prop_assert_eq!(bits(old), bits(model.insert(member.clone(), unsigned_zero(*score))));
                        added = member.len() + RANKED_COST;
                    }
                    Change::Remove(member) => {
                        prop_assert_eq!(bits(sorted.remove(member)), bits(model.remove(member)));
                    }
                    Change::RemoveRange(at, n) => {
                        let all = in_order(&model);
                        let start = at.index(all.len() + 1);
                        let range = start..(start + n).min(all.len());
                        sorted.remove_range(range.clone());
                        model.retain(|member, _| !all[range.clone()].iter().any(|(gone, _)| gone == member));
                    }
                    Change::Expect(count) => sorted.expect(*count, LIMITS),
                }
                prop_assert!(sorted.weight() <= weight + unpacking + added, "{:?}", change);
                prop_assert!(sorted.weight() as u64 <= sorted.as_ref().size().in_sorted());
                if let SortedValue::Tree(ranked) = &sorted {
                    ranked.ranks.check();
                    ranked.scores.check();
                    prop_assert_eq!(ranked.scores.len(), ranked.ranks.len());
                }
                let (shown, all) = (sorted.as_ref(), in_order(&model));
                prop_assert_eq!((shown.len(), sorted.is_empty()), (all.len(), all.is_empty()));
                let expected = all.iter().map(|(member, score)| (&member[..], score.to_bits()));
                prop_assert!(shown.iter().map(|here| (here.member, here.score.to_bits())).eq(expected.clone()));
                prop_assert!(shown.iter().rev().map(|here| (here.member, here.score.to_bits())).eq(expected.rev()));
                for (at, (member, score)) in all.iter().enumerate() {
                    prop_assert_eq!(shown.rank(member), Some((at, *score)));
                    prop_assert_eq!(shown.nth(at), Some(ScoredRef { member, score: *score }));
                }
            }
            let (shown, all) = (sorted.as_ref(), in_order(&model));
            for (score, member) in &seeks {
                prop_assert_eq!(bits(shown.score(member)), bits(model.get(member).copied()));
                prop_assert_eq!(shown.below_score(*score, false), all.iter().filter(|(_, other)| other < score).count());
                prop_assert_eq!(shown.below_score(*score, true), all.iter().filter(|(_, other)| other <= score).count());
            }
            let mut body = Vec::new();
            sorted.put_body(&mut body);
            let again = SortedValue::from_body(sorted.tag(), &body);
            prop_assert_eq!(again.is_none(), sorted.is_empty(), "nobody keeps an empty one");
            let again = again.unwrap_or_else(|| sorted.clone());
            prop_assert_eq!((&again, again.weight()), (&sorted, sorted.weight()));
            for length in 0..body.len() {
                if let Some(other) = SortedValue::from_body(sorted.tag(), &body[..length]) {
                    prop_assert!(other.as_ref().len() < model.len());
                }
            }
            let (mut cursor, mut seen) = (0, Vec::new());
            loop {
                let (members, next) = shown.scan(cursor, 3);
                seen.extend(members.iter().map(|here| here.member.to_vec()));
                cursor = next;
                if cursor == 0 {
                    break;
                }
            }
            seen.sort();
            prop_assert_eq!(seen, model.keys().cloned().collect::<Vec<_>>());
        }

        #[test]
        fn of_one_score_it_is_sorted_by_members(members in prop::collection::btree_set(member(), 0..20), seek in member()) {
            let mut sorted = SortedValue::new();
            members.iter().for_each(|member| assert!(sorted.set(member, 1.5, LIMITS).is_none()));
            let shown = sorted.as_ref();
            prop_assert_eq!(shown.below_member(&seek, false), members.iter().filter(|member| **member < seek).count());
            prop_assert_eq!(shown.below_member(&seek, true), members.iter().filter(|member| **member <= seek).count());
        }

        #[test]
        fn other_bytes_are_refused_or_are_what_would_be_written(bytes in prop::collection::vec(0..12u8, 0..40), tag in prop::sample::select(vec![PACKED, TREE])) {
            if let Some(sorted) = SortedValue::from_body(tag, &bytes) {
                let mut body = Vec::new();
                sorted.put_body(&mut body);
                prop_assert_eq!(body, bytes);
            }
        }
    }
}
