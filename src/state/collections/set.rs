//! Sets: members, each once.
//!
//! ```text
//! integers  width(1) { number, of that many bytes, little-endian }   ascending; 2, 4 or 8 bytes, whatever all of them need
//! packed    member, member ...   in the order in which they came
//! tree      members by (hash, member)
//! body      of integers and packed: those bytes; of a tree: { member blob } in the tree's order
//! ```
//!
//! A set of nothing but integers begins as such, becomes packed with the first member that is none, and a tree when it
//! grows beyond what [`Packing`] says; it never comes back on its own, as in Redis. Every form is shown alike, and in an
//! order that is the same on all replicas.

use super::body::{Body, put_blob};
use super::packed::{Elements, PACKED_MAX, Packer, are_distinct, element_len, is_packed, splice};
use super::tree::{self, Item, Tree};
use super::{Aggregate, ELEMENT_COST, Packing, Size, order_of, scan_range};
use crate::state::value::{Digits, as_integer};
use bytes::Bytes;
use std::cmp::Ordering;
use std::ops::Deref;
use std::sync::Arc;

pub(in crate::state) const INTEGERS: u8 = 8;
pub(in crate::state) const PACKED: u8 = 9;
pub(in crate::state) const TREE: u8 = 10;

/// A set, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetValue {
    Integers(Bytes),
    Packed(Bytes),
    Tree(Box<Members>),
}

/// The members of a large set.
#[derive(Debug, Clone, Default)]
pub struct Members {
    tree: Tree<Member>,
    /// Bytes of all members.
    bytes: usize,
}

/// The sum follows from the members.
impl PartialEq for Members {
    fn eq(&self, other: &Self) -> bool {
        self.tree == other.tree
    }
}

impl Eq for Members {}

/// A member as it lies in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Member {
    hash: u64,
    bytes: Arc<[u8]>,
}

impl Member {
    fn new(bytes: &[u8]) -> Member {
        Member { hash: order_of(bytes), bytes: bytes.into() }
    }
}

impl Item for Member {
    type Key = u64;

    fn key(&self) -> u64 {
        self.hash
    }
}

/// A member as it is shown; its bytes are what it dereferences to.
#[derive(Debug, Clone, Copy)]
pub enum MemberRef<'a> {
    Here(&'a [u8]),
    Integer(Spelled),
}

/// An integer's spelling.
#[derive(Debug, Clone, Copy)]
pub struct Spelled(Digits);

impl Deref for MemberRef<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            MemberRef::Here(bytes) => bytes,
            MemberRef::Integer(Spelled(digits)) => digits,
        }
    }
}

/// Integers as they lie in a set of nothing else.
#[derive(Debug, Clone, Copy)]
struct Integers<'a> {
    width: usize,
    numbers: &'a [u8],
}

/// The width that a number needs.
fn width_of(number: i64) -> usize {
    match number {
        _ if i16::try_from(number).is_ok() => 2,
        _ if i32::try_from(number).is_ok() => 4,
        _ => 8,
    }
}

impl<'a> Integers<'a> {
    fn of(bytes: &'a [u8]) -> Integers<'a> {
        match bytes.split_first() {
            Some((&width, numbers)) => Integers { width: width.into(), numbers },
            None => Integers { width: 2, numbers: &[] },
        }
    }

    /// The same for bytes that may be anything.
    fn checked(bytes: &'a [u8]) -> Option<Integers<'a>> {
        let integers = Integers::of(bytes);
        let sound = matches!(integers.width, 2 | 4 | 8)
            && integers.numbers.len().is_multiple_of(integers.width)
            && !integers.numbers.is_empty()
            && bytes.len() <= PACKED_MAX;
        // One spelling only: ascending, and no wider than they need.
        let spelled_as_we_do = || {
            let ascending = integers.iter().zip(integers.iter().skip(1)).all(|(left, right)| left < right);
            ascending && integers.iter().map(width_of).max().unwrap_or(0) == integers.width
        };
        (sound && spelled_as_we_do()).then_some(integers)
    }

    fn len(self) -> usize {
        self.numbers.len() / self.width
    }

    fn get(self, at: usize) -> Option<i64> {
        let number = self.numbers.get(at * self.width..(at + 1) * self.width)?;
        Some(match *number {
            [a, b] => i16::from_le_bytes([a, b]).into(),
            [a, b, c, d] => i32::from_le_bytes([a, b, c, d]).into(),
            _ => i64::from_le_bytes(number.try_into().expect("a width is 2, 4 or 8")),
        })
    }

    fn iter(self) -> impl Iterator<Item = i64> + Clone + use<'a> {
        (0..self.len()).map(move |at| self.get(at).expect("it is before the end"))
    }

    /// Where the number is, or where it would be.
    fn find(self, number: i64) -> Result<usize, usize> {
        let (mut start, mut end) = (0, self.len());
        while start < end {
            let middle = (start + end) / 2;
            match self.get(middle).expect("it is before the end").cmp(&number) {
                Ordering::Less => start = middle + 1,
                Ordering::Greater => end = middle,
                Ordering::Equal => return Ok(middle),
            }
        }
        Err(start)
    }

    /// The bytes of these numbers, which must ascend.
    fn encode(numbers: impl Iterator<Item = i64> + Clone) -> Bytes {
        let Some(width) = numbers.clone().map(width_of).max() else { return Bytes::new() };
        let mut out = vec![width as u8];
        numbers.for_each(|number| out.extend_from_slice(&number.to_le_bytes()[..width]));
        Bytes::from(out)
    }

    /// Whether there is room for one more.
    fn has_room(self, number: i64, most: usize) -> bool {
        let count = self.len() + 1;
        count <= most && count * self.width.max(width_of(number)) < PACKED_MAX
    }

    fn with(self, at: usize, number: i64) -> Bytes {
        Integers::encode(self.iter().take(at).chain([number]).chain(self.iter().skip(at)))
    }

    fn without(self, at: usize) -> Bytes {
        Integers::encode(self.iter().take(at).chain(self.iter().skip(at + 1)))
    }
}

/// A set as a read is shown it, wherever it lies.
#[derive(Debug, Clone, Copy)]
pub enum SetRef<'a> {
    Integers(&'a [u8]),
    Packed(&'a [u8]),
    Tree(&'a Members),
}

impl<'a> SetRef<'a> {
    pub fn len(self) -> usize {
        match self {
            SetRef::Integers(bytes) => Integers::of(bytes).len(),
            SetRef::Packed(bytes) => Elements::of(bytes).count(),
            SetRef::Tree(members) => members.tree.len(),
        }
    }

    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    pub fn contains(self, member: &[u8]) -> bool {
        match self {
            SetRef::Integers(bytes) => {
                as_integer(member).is_some_and(|number| Integers::of(bytes).find(number).is_ok())
            }
            SetRef::Packed(bytes) => Elements::of(bytes).any(|element| element == member),
            SetRef::Tree(members) => members.find(member).is_ok(),
        }
    }

    /// The member at a position, of [`SetRef::len`].
    pub fn nth(self, at: usize) -> Option<MemberRef<'a>> {
        match self {
            SetRef::Integers(bytes) => Integers::of(bytes).get(at).map(spell),
            SetRef::Packed(bytes) => Elements::of(bytes).nth(at).map(MemberRef::Here),
            SetRef::Tree(members) => members.tree.get(at).map(|member| MemberRef::Here(&member.bytes)),
        }
    }

    /// All members, in an order that is the same on all replicas.
    pub fn iter(self) -> impl Iterator<Item = MemberRef<'a>> {
        match self {
            SetRef::Integers(bytes) => Iter::Integers(Integers::of(bytes), 0),
            SetRef::Packed(bytes) => Iter::Packed(Elements::of(bytes)),
            SetRef::Tree(members) => Iter::Tree(members.tree.iter()),
        }
    }

    /// One step of SSCAN: about `count` members and the next cursor, 0 at the end. What is no tree is shown at once.
    pub fn scan(self, cursor: u64, count: usize) -> (Vec<MemberRef<'a>>, u64) {
        match self {
            SetRef::Tree(members) => {
                let (range, next) = scan_range(&members.tree, cursor, count);
                (members.tree.range(range).map(|member| MemberRef::Here(&member.bytes)).collect(), next)
            }
            _ => (self.iter().collect(), 0),
        }
    }

    /// A copy; of a large one, in an instant.
    pub fn to_set(self) -> SetValue {
        match self {
            SetRef::Integers(bytes) => SetValue::Integers(Bytes::copy_from_slice(bytes)),
            SetRef::Packed(bytes) => SetValue::Packed(Bytes::copy_from_slice(bytes)),
            SetRef::Tree(members) => SetValue::Tree(members.clone().into()),
        }
    }

    /// How many members there are, and their bytes.
    pub(in crate::state) fn size(self) -> Size {
        let bytes = match self {
            SetRef::Integers(bytes) => Integers::of(bytes).len() * DIGITS_MAX,
            SetRef::Packed(bytes) => bytes.len(),
            SetRef::Tree(members) => members.bytes,
        };
        Size { elements: self.len() as u64, bytes: bytes as u64, ranked: false }
    }
}

/// Longest spelling of an integer.
const DIGITS_MAX: usize = 20;

fn spell<'a>(number: i64) -> MemberRef<'a> {
    MemberRef::Integer(Spelled(Digits::of(number)))
}

enum Iter<'a> {
    Integers(Integers<'a>, usize),
    Packed(Elements<'a>),
    Tree(tree::Iter<'a, Member>),
}

impl<'a> Iterator for Iter<'a> {
    type Item = MemberRef<'a>;

    fn next(&mut self) -> Option<MemberRef<'a>> {
        match self {
            Iter::Integers(integers, at) => {
                *at += 1;
                integers.get(*at - 1).map(spell)
            }
            Iter::Packed(elements) => elements.next().map(MemberRef::Here),
            Iter::Tree(members) => members.next().map(|member| MemberRef::Here(&member.bytes)),
        }
    }
}

impl Members {
    /// Where the member is, or where it would be.
    fn find(&self, member: &[u8]) -> Result<usize, usize> {
        let hash = order_of(member);
        let at = self.tree.partition_point(hash, |other| other.bytes[..] < *member);
        match self.tree.get(at) {
            Some(other) if other.hash == hash && other.bytes[..] == *member => Ok(at),
            _ => Err(at),
        }
    }

    /// Adds a member; whether it is new.
    fn add(&mut self, member: &[u8]) -> bool {
        let Err(at) = self.find(member) else { return false };
        self.tree.insert(at, Member::new(member));
        self.bytes += member.len();
        true
    }

    fn remove_at(&mut self, at: usize) -> Member {
        let member = self.tree.remove(at);
        self.bytes -= member.bytes.len();
        member
    }

    fn weight(&self) -> usize {
        self.bytes + self.tree.len() * ELEMENT_COST
    }
}

impl SetValue {
    /// A set without members: only the beginning of one that has some.
    pub fn new() -> SetValue {
        SetValue::Integers(Bytes::new())
    }

    /// The set of these members.
    pub fn of<'a>(members: impl IntoIterator<Item = MemberRef<'a>>, packing: &Packing) -> SetValue {
        let mut set = SetValue::new();
        for member in members {
            set.add(&member, packing);
        }
        set
    }

    pub fn as_ref(&self) -> SetRef<'_> {
        match self {
            SetValue::Integers(bytes) => SetRef::Integers(bytes),
            SetValue::Packed(bytes) => SetRef::Packed(bytes),
            SetValue::Tree(members) => SetRef::Tree(members),
        }
    }

    /// So many members are about to be added, this one first: should that be more than the form takes, were it empty, it
    /// becomes a tree at once.
    pub fn expect(&mut self, count: usize, first: &[u8], packing: &Packing) {
        let most = match self {
            SetValue::Integers(bytes) if !bytes.is_empty() || as_integer(first).is_some() => packing.set_integers,
            SetValue::Integers(_) | SetValue::Packed(_) => packing.set.entries,
            SetValue::Tree(_) => return,
        };
        if count > most {
            self.members();
        }
    }

    /// Adds a member; whether it is new.
    pub fn add(&mut self, member: &[u8], packing: &Packing) -> bool {
        if let SetValue::Integers(bytes) = self {
            let integers = Integers::of(bytes);
            if let Some(number) = as_integer(member) {
                let Err(at) = integers.find(number) else { return false };
                if integers.has_room(number, packing.set_integers) {
                    *bytes = integers.with(at, number);
                    return true;
                }
            } else {
                let long = self.as_ref().iter().any(|member| member.len() > packing.set.value);
                let mut packer = Packer::default();
                self.as_ref().iter().for_each(|member| packer.put(&member));
                // If this one does not fit beside them, it is for the lines below to find out.
                if !long && self.as_ref().len() < packing.set.entries && packer.len() < PACKED_MAX {
                    *self = SetValue::Packed(packer.finish());
                }
            }
        }
        if let SetValue::Packed(bytes) = self {
            if SetRef::Packed(bytes).contains(member) {
                return false;
            }
            let many = SetRef::Packed(bytes).len() >= packing.set.entries;
            let large = bytes.len() + element_len(member) > PACKED_MAX;
            if !many && !large && member.len() <= packing.set.value {
                *bytes = splice(bytes, usize::MAX, 0, &[member]);
                return true;
            }
        }
        self.members().add(member)
    }

    /// Removes a member; whether it was there.
    pub fn remove(&mut self, member: &[u8]) -> bool {
        let place = match self.as_ref() {
            SetRef::Integers(bytes) => as_integer(member).and_then(|number| Integers::of(bytes).find(number).ok()),
            SetRef::Packed(bytes) => Elements::of(bytes).position(|element| element == member),
            SetRef::Tree(members) => members.find(member).ok(),
        };
        place.is_some_and(|at| {
            self.remove_at(at);
            true
        })
    }

    /// Removes the member at a position and gives it.
    ///
    /// # Panics
    /// If there is none.
    pub fn remove_at(&mut self, at: usize) -> Bytes {
        let member =
            Bytes::copy_from_slice(&self.as_ref().nth(at).expect("a member is removed at a position of the set"));
        match self {
            SetValue::Integers(bytes) => *bytes = Integers::of(bytes).without(at),
            SetValue::Packed(bytes) => *bytes = splice(bytes, at, 1, &[]),
            SetValue::Tree(members) => drop(members.remove_at(at)),
        }
        member
    }

    /// The members as a tree, from now on.
    fn members(&mut self) -> &mut Members {
        if !matches!(self, SetValue::Tree(_)) {
            let mut members = Members::default();
            for member in self.as_ref().iter() {
                members.add(&member);
            }
            *self = SetValue::Tree(members.into());
        }
        match self {
            SetValue::Tree(members) => members,
            _ => unreachable!("it was made a tree just now"),
        }
    }

    /// `None` for bytes that no set has which calls have made; see [`Aggregate::has_each_once`], too.
    pub(in crate::state) fn from_body(tag: u8, body: &[u8]) -> Option<SetValue> {
        match tag {
            INTEGERS => Integers::checked(body).map(|_| SetValue::Integers(Bytes::copy_from_slice(body))),
            PACKED => is_packed(body).map(|_| SetValue::Packed(Bytes::copy_from_slice(body))),
            _ => {
                let (mut body, mut members) = (Body(body), Members::default());
                let mut last: Option<Member> = None;
                while !body.is_empty() {
                    let member = Member::new(body.blob()?);
                    // In order and each once, or it is not what was written.
                    if last.is_some_and(|last| (last.hash, &last.bytes) >= (member.hash, &member.bytes)) {
                        return None;
                    }
                    last = Some(member.clone());
                    members.bytes += member.bytes.len();
                    members.tree.push(member);
                }
                (!members.tree.is_empty()).then(|| SetValue::Tree(members.into()))
            }
        }
    }
}

impl Default for SetValue {
    fn default() -> Self {
        SetValue::new()
    }
}

impl Aggregate for SetValue {
    fn tag(&self) -> u8 {
        match self {
            SetValue::Integers(_) => INTEGERS,
            SetValue::Packed(_) => PACKED,
            SetValue::Tree(_) => TREE,
        }
    }

    fn type_name(&self) -> &'static str {
        "set"
    }

    fn encoding(&self) -> &'static str {
        match self {
            SetValue::Integers(_) => "intset",
            SetValue::Packed(_) => "listpack",
            SetValue::Tree(_) => "hashtable",
        }
    }

    fn plain_body(&self) -> Option<&Bytes> {
        match self {
            SetValue::Integers(bytes) | SetValue::Packed(bytes) => Some(bytes),
            SetValue::Tree(_) => None,
        }
    }

    fn put_body(&self, out: &mut Vec<u8>) {
        match self {
            SetValue::Integers(bytes) | SetValue::Packed(bytes) => out.extend_from_slice(bytes),
            SetValue::Tree(members) => members.tree.iter().for_each(|member| put_blob(out, &member.bytes)),
        }
    }

    fn has_each_once(&self) -> bool {
        match self {
            SetValue::Packed(bytes) => are_distinct(Elements::of(bytes)),
            SetValue::Integers(_) | SetValue::Tree(_) => true,
        }
    }

    fn weight(&self) -> usize {
        match self {
            SetValue::Integers(bytes) | SetValue::Packed(bytes) => bytes.len(),
            SetValue::Tree(members) => members.weight(),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            SetValue::Integers(bytes) | SetValue::Packed(bytes) => bytes.is_empty(),
            SetValue::Tree(members) => members.tree.is_empty(),
        }
    }

    fn unpacking(&self) -> usize {
        (self.as_ref().size().in_set() as usize).saturating_sub(self.weight())
    }
}

#[cfg(test)]
mod tests {
    use super::super::PackedLimits;
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const PACKING: Packing = Packing {
        hash: PackedLimits { entries: 0, value: 0 },
        set: PackedLimits { entries: 8, value: 16 },
        set_integers: 12,
        sorted: PackedLimits { entries: 0, value: 0 },
        list: 0,
    };

    #[derive(Debug, Clone)]
    enum Change {
        Add(Vec<u8>),
        Remove(Vec<u8>),
        RemoveAt(prop::sample::Index),
        Expect(usize, Vec<u8>),
    }

    fn member() -> impl Strategy<Value = Vec<u8>> {
        let integer = prop_oneof![-8..8i64, -40_000..40_000i64, any::<i64>()];
        prop_oneof![
            6 => (0..40u8).prop_map(|number| number.to_string().into_bytes()),
            4 => integer.prop_map(|number| number.to_string().into_bytes()),
            2 => "[a-f]{0,2}".prop_map(String::into_bytes),
            1 => "[a-b]{15,18}".prop_map(String::into_bytes),
            1 => prop_oneof![Just("007"), Just("-0"), Just("+1")].prop_map(|text| text.as_bytes().to_vec()),
        ]
    }

    fn changes() -> impl Strategy<Value = Vec<Change>> {
        let change = prop_oneof![
            12 => member().prop_map(Change::Add),
            4 => member().prop_map(Change::Remove),
            2 => any::<prop::sample::Index>().prop_map(Change::RemoveAt),
            1 => (0..10usize, member()).prop_map(|(count, first)| Change::Expect(count, first)),
        ];
        prop::collection::vec(change, 0..80)
    }

    fn contents(set: SetRef<'_>) -> Vec<Vec<u8>> {
        set.iter().map(|member| member.to_vec()).collect()
    }

    proptest! {
        #[test]
        fn it_is_a_set_in_every_form(changes in changes()) {
            let (mut set, mut model) = (SetValue::new(), BTreeSet::new());
            for change in changes {
                let (weight, unpacking) = (set.weight(), set.unpacking());
                let mut added = 0;
                match &change {
                    Change::Add(member) => {
                        prop_assert_eq!(set.add(member, &PACKING), model.insert(member.clone()));
                        added = member.len() + ELEMENT_COST;
                    }
                    Change::Remove(member) => prop_assert_eq!(set.remove(member), model.remove(member)),
                    Change::RemoveAt(at) if !model.is_empty() => {
                        let at = at.index(model.len());
                        let expected = set.as_ref().nth(at).unwrap().to_vec();
                        prop_assert_eq!(set.remove_at(at), &expected);
                        prop_assert!(model.remove(&expected));
                    }
                    Change::RemoveAt(_) => {}
                    Change::Expect(count, first) => set.expect(*count, first, &PACKING),
                }
                prop_assert!(set.weight() <= weight + unpacking + added, "{:?}", change);
                prop_assert!(set.weight() as u64 <= set.as_ref().size().in_set());
                let shown = set.as_ref();
                prop_assert_eq!((shown.len(), set.is_empty()), (model.len(), model.is_empty()));
                let mut members = contents(shown);
                for (at, member) in members.iter().enumerate() {
                    prop_assert_eq!(&*shown.nth(at).unwrap(), &member[..]);
                    prop_assert!(shown.contains(member));
                }
                members.sort();
                prop_assert!(members.iter().eq(&model));
                let allowed = match set {
                    SetValue::Integers(_) => model.len() <= 12 && model.iter().all(|member| as_integer(member).is_some()),
                    SetValue::Packed(_) => model.len() <= 8 && model.iter().all(|member| member.len() <= 16),
                    SetValue::Tree(_) => true,
                };
                prop_assert!(allowed, "{:?}", set);
            }
            let mut body = Vec::new();
            set.put_body(&mut body);
            let again = SetValue::from_body(set.tag(), &body);
            prop_assert_eq!(again.is_none(), set.is_empty(), "nobody keeps an empty one");
            let again = again.unwrap_or_else(|| set.clone());
            prop_assert_eq!((&again, again.weight()), (&set, set.weight()));
            for length in 0..body.len() {
                if let Some(other) = SetValue::from_body(set.tag(), &body[..length]) {
                    prop_assert!(other.as_ref().len() < model.len());
                }
            }
            prop_assert_eq!(contents(set.as_ref().to_set().as_ref()), contents(set.as_ref()));
            let (mut cursor, mut seen) = (0, Vec::new());
            loop {
                let (members, next) = set.as_ref().scan(cursor, 3);
                seen.extend(members.iter().map(|member| member.to_vec()));
                cursor = next;
                if cursor == 0 {
                    break;
                }
            }
            prop_assert_eq!(seen, contents(set.as_ref()));
        }
    }

    #[test]
    fn integers_have_one_spelling() {
        for bytes in [&[2, 1][..], &[2, 2, 0, 1, 0], &[2, 1, 0, 1, 0], &[4, 1, 0, 0, 0], &[3, 1, 0, 0], &[2], &[0, 1]] {
            assert!(SetValue::from_body(INTEGERS, bytes).is_none(), "{bytes:?}");
        }
        let numbers = [i64::MIN, -40_000, -1, 0, 7, i64::MAX];
        let bytes = Integers::encode(numbers.into_iter());
        assert!(Integers::of(&bytes).iter().eq(numbers));
        assert_eq!(bytes.len(), 1 + 6 * 8);
        assert_eq!(Integers::encode([1, -1].into_iter().rev()).len(), 1 + 2 * 2);
    }
}
