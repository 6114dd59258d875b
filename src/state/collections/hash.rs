//! Hashes: fields with values, and deadlines of their own.
//!
//! ```text
//! packed   name, value, name, value ...   in the order in which the fields came; no field has a deadline
//! tree     fields by (hash of the name, name); beside it what dies by (deadline, hash of the name)
//! body     of a tree: { deadline v  name blob  value blob } in the tree's order
//! ```
//!
//! A field is dead iff its deadline is not after the group's clock, exactly as a key is: who reads judges by the clock
//! it was given, apply removes dead fields when their key is swept or written to ([`HashValue::prune`]). A hash of nothing
//! but dead fields is dead, key and all. Nothing here knows a clock.

use super::body::{Body, put_blob, put_number};
use super::packed::{Elements, PACKED_MAX, PackedLimits, are_distinct, element_len, is_packed, splice};
use super::tree::{Item, Tree};
use super::{Aggregate, ELEMENT_COST, order_of, scan_range};
use crate::types::Millis;
use bytes::Bytes;
use std::cmp::Ordering;
use std::sync::Arc;

pub(in crate::state) const PACKED: u8 = 4;
pub(in crate::state) const TREE: u8 = 5;

/// A hash, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashValue {
    Packed(Bytes),
    Tree(Box<Fields>),
}

/// The fields of a large hash.
#[derive(Debug, Clone, Default)]
pub struct Fields {
    tree: Tree<Field>,
    /// Bytes of names and values.
    bytes: usize,
    /// One for every field that has a deadline.
    due: Tree<Due>,
}

/// The fields say all: the rest follows from them.
impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        self.tree == other.tree
    }
}

impl Eq for Fields {}

/// A field as it lies in the tree: `[deadline] name value` in one allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Field {
    hash: u64,
    bytes: Arc<[u8]>,
    /// Length of the name; the highest bit says that a deadline of eight bytes precedes it.
    name: u32,
}

/// When a field dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Due {
    deadline: Millis,
    /// Of the name. Should fields share it, any of them is meant that has this deadline.
    hash: u64,
}

impl Item for Due {
    type Key = (Millis, u64);

    fn key(&self) -> (Millis, u64) {
        (self.deadline, self.hash)
    }
}

/// What a deadline counts for in the account: its bytes with the field, and what says when it is due.
pub const DEADLINE_COST: usize = 8 + 32;

/// The latest deadline that a field can have, as in Redis.
pub const FIELD_DEADLINE_MAX: Millis = (1 << 46) - 1;

/// Longest name of a field, and so that the length has a bit to spare.
const NAME_BITS: u32 = 31;
const MORTAL: u32 = 1 << NAME_BITS;

impl Item for Field {
    type Key = u64;

    fn key(&self) -> u64 {
        self.hash
    }
}

impl Field {
    fn new(name: &[u8], value: &[u8], deadline: Millis) -> Field {
        let mut bytes = Vec::with_capacity(8 + name.len() + value.len());
        let mut length = u32::try_from(name.len()).expect("an argument is at most 512 MB");
        if deadline != 0 {
            bytes.extend_from_slice(&deadline.to_le_bytes());
            length |= MORTAL;
        }
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(value);
        Field { hash: order_of(name), bytes: bytes.into(), name: length }
    }

    fn show(&self) -> FieldRef<'_> {
        let (deadline, rest) = match self.name & MORTAL {
            0 => (0, &self.bytes[..]),
            _ => {
                let (deadline, rest) = self.bytes.split_first_chunk::<8>().expect("the flag says that it is there");
                (Millis::from_le_bytes(*deadline), rest)
            }
        };
        let (name, value) = rest.split_at((self.name & !MORTAL) as usize);
        FieldRef { name, value, deadline }
    }
}

/// A field as it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldRef<'a> {
    pub name: &'a [u8],
    pub value: &'a [u8],
    /// By the group clock; 0: none.
    pub deadline: Millis,
}

impl FieldRef<'_> {
    /// Dead iff its deadline is not after `clock`.
    pub fn is_dead(&self, clock: Millis) -> bool {
        self.deadline != 0 && self.deadline <= clock
    }
}

/// A hash as a read is shown it, wherever it lies. Dead fields are shown like others.
#[derive(Debug, Clone, Copy)]
pub enum HashRef<'a> {
    Packed(&'a [u8]),
    Tree(&'a Fields),
}

impl<'a> HashRef<'a> {
    /// Fields, dead ones too.
    pub fn len(self) -> usize {
        match self {
            HashRef::Packed(bytes) => Elements::of(bytes).count() / 2,
            HashRef::Tree(fields) => fields.tree.len(),
        }
    }

    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    pub fn get(self, name: &[u8]) -> Option<FieldRef<'a>> {
        match self {
            HashRef::Packed(bytes) => packed_fields(bytes).find(|field| field.name == name),
            HashRef::Tree(fields) => Some(fields.tree.get(fields.find(name).ok()?)?.show()),
        }
    }

    /// The field at a position, of [`HashRef::len`].
    pub fn nth(self, at: usize) -> Option<FieldRef<'a>> {
        match self {
            HashRef::Packed(bytes) => packed_fields(bytes).nth(at),
            HashRef::Tree(fields) => fields.tree.get(at).map(Field::show),
        }
    }

    /// All fields, in an order that is the same on all replicas.
    pub fn iter(self) -> impl Iterator<Item = FieldRef<'a>> {
        let (packed, tree) = match self {
            HashRef::Packed(bytes) => (Some(packed_fields(bytes)), None),
            HashRef::Tree(fields) => (None, Some(fields.tree.iter().map(Field::show))),
        };
        packed.into_iter().flatten().chain(tree.into_iter().flatten())
    }

    /// One step of HSCAN: about `count` fields and the next cursor, 0 at the end. A packed hash is shown at once.
    pub fn scan(self, cursor: u64, count: usize) -> (Vec<FieldRef<'a>>, u64) {
        match self {
            HashRef::Packed(bytes) => (packed_fields(bytes).collect(), 0),
            HashRef::Tree(fields) => {
                let (range, next) = scan_range(&fields.tree, cursor, count);
                (fields.tree.range(range).map(Field::show).collect(), next)
            }
        }
    }

    /// How many fields are alive at `clock`, and when the next of them dies; 0 if none will.
    pub fn living(self, clock: Millis) -> (usize, Millis) {
        match self {
            HashRef::Packed(_) => (self.len(), 0),
            HashRef::Tree(fields) => {
                let dead = fields.dead(clock);
                (fields.tree.len() - dead, fields.due.get(dead).map_or(0, |due| due.deadline))
            }
        }
    }
}

fn packed_fields(bytes: &[u8]) -> impl Iterator<Item = FieldRef<'_>> {
    let mut elements = Elements::of(bytes);
    std::iter::from_fn(move || {
        let name = elements.next()?;
        let value = elements.next().expect("a packed hash has pairs of elements");
        Some(FieldRef { name, value, deadline: 0 })
    })
}

impl Fields {
    /// Where the field is, or where it would be.
    fn find(&self, name: &[u8]) -> Result<usize, usize> {
        let hash = order_of(name);
        let at = self.tree.partition_point(hash, |field| field.show().name.cmp(name) == Ordering::Less);
        match self.tree.get(at) {
            Some(field) if field.hash == hash && field.show().name == name => Ok(at),
            _ => Err(at),
        }
    }

    /// How many fields are dead at `clock`.
    fn dead(&self, clock: Millis) -> usize {
        self.due.partition_point((clock, u64::MAX), |_| true)
    }

    fn count(&mut self, field: FieldRef<'_>) {
        self.bytes += field.name.len() + field.value.len();
        if field.deadline != 0 {
            let due = Due { deadline: field.deadline, hash: order_of(field.name) };
            self.due.insert(self.due.partition_point(due.key(), |_| false), due);
        }
    }

    fn discount(&mut self, field: FieldRef<'_>) {
        self.bytes -= field.name.len() + field.value.len();
        if field.deadline != 0 {
            self.due.remove(self.due.partition_point((field.deadline, order_of(field.name)), |_| false));
        }
    }

    /// Writes a field; whether it is new.
    fn set(&mut self, new: FieldRef<'_>) -> bool {
        let field = Field::new(new.name, new.value, new.deadline);
        match self.find(new.name) {
            Ok(at) => {
                let old = self.tree.get(at).expect("it was just found").clone();
                self.discount(old.show());
                self.tree.update(at, |old| *old = field);
                self.count(new);
                false
            }
            Err(at) => {
                self.tree.insert(at, field);
                self.count(new);
                true
            }
        }
    }

    fn remove_at(&mut self, at: usize) {
        let field = self.tree.remove(at);
        self.discount(field.show());
    }
}

impl HashValue {
    /// A hash without fields: only the beginning of one that has some.
    pub fn new() -> HashValue {
        HashValue::Packed(Bytes::new())
    }

    pub fn as_ref(&self) -> HashRef<'_> {
        match self {
            HashValue::Packed(bytes) => HashRef::Packed(bytes),
            HashValue::Tree(fields) => HashRef::Tree(fields),
        }
    }

    /// Writes a field with a deadline or none (0); whether it is new. One that was dead counts as there: callers
    /// [`prune`](HashValue::prune) first.
    pub fn set(&mut self, name: &[u8], value: &[u8], deadline: Millis, limits: PackedLimits) -> bool {
        if let HashValue::Packed(bytes) = self {
            let place = packed_fields(bytes).position(|field| field.name == name);
            let long = name.len().max(value.len()) > limits.value;
            let many = place.is_none() && Elements::of(bytes).count() / 2 >= limits.entries;
            let large = bytes.len() + element_len(name) + element_len(value) > PACKED_MAX;
            if deadline == 0 && !long && !many && !large {
                let (at, old) = place.map_or((usize::MAX, 0), |place| (2 * place, 2));
                *bytes = splice(bytes, at, old, &[name, value]);
                return place.is_none();
            }
        }
        self.fields().set(FieldRef { name, value, deadline })
    }

    /// Gives a field another deadline, or none (0); whether this changed anything.
    pub fn set_deadline(&mut self, name: &[u8], deadline: Millis) -> bool {
        if self.as_ref().get(name).is_none_or(|field| field.deadline == deadline) {
            return false;
        }
        let fields = self.fields();
        let at = fields.find(name).expect("it was just found");
        let old = fields.tree.get(at).expect("it was just found").clone();
        let (FieldRef { name, value, .. }, before) = (old.show(), old.show());
        fields.discount(before);
        fields.tree.update(at, |field| *field = Field::new(name, value, deadline));
        fields.count(FieldRef { name, value, deadline });
        true
    }

    /// Carries the deadlines of its fields from a clock that says `then` to one that says `now`: what is left of each stays.
    pub(in crate::state) fn rebase(&mut self, then: Millis, now: Millis) {
        if then == now {
            return;
        }
        let mortal = |field: &FieldRef<'_>| field.deadline != 0;
        let fields = self.as_ref().iter().filter(mortal).map(|field| (field.name.to_vec(), field.deadline));
        for (name, deadline) in fields.collect::<Vec<_>>() {
            let rebased = now.saturating_add(deadline.saturating_sub(then)).max(now + 1).min(FIELD_DEADLINE_MAX);
            self.set_deadline(&name, rebased);
        }
    }

    /// Removes a field; whether it was there.
    pub fn remove(&mut self, name: &[u8]) -> bool {
        match self {
            HashValue::Packed(bytes) => {
                let Some(place) = packed_fields(bytes).position(|field| field.name == name) else { return false };
                *bytes = splice(bytes, 2 * place, 2, &[]);
                true
            }
            HashValue::Tree(fields) => {
                let Ok(at) = fields.find(name) else { return false };
                fields.remove_at(at);
                true
            }
        }
    }

    /// Removes what is dead at `clock`; how many fields that were.
    pub fn prune(&mut self, clock: Millis) -> usize {
        let HashValue::Tree(fields) = self else { return 0 };
        let dead = fields.dead(clock);
        if dead == 0 {
            return 0;
        }
        if dead > fields.tree.len() / 2 {
            // Fewer stay than go.
            let mut rest = Fields::default();
            for field in fields.tree.iter().filter(|field| !field.show().is_dead(clock)) {
                rest.count(field.show());
                rest.tree.push(field.clone());
            }
            **fields = rest;
            return dead;
        }
        for _ in 0..dead {
            let hash = fields.due.get(0).expect("so many are dead").hash;
            let first = fields.tree.partition_point(hash, |_| false);
            let mut namesakes = fields.tree.iter_from(first).take_while(|field| field.hash == hash);
            let place = namesakes.position(|field| field.show().is_dead(clock));
            fields.remove_at(first + place.expect("what is due is in the tree"));
        }
        dead
    }

    /// The fields as a tree, from now on.
    fn fields(&mut self) -> &mut Fields {
        if let HashValue::Packed(bytes) = self {
            let mut fields = Fields::default();
            packed_fields(bytes).for_each(|field| {
                fields.set(field);
            });
            *self = HashValue::Tree(fields.into());
        }
        match self {
            HashValue::Tree(fields) => fields,
            HashValue::Packed(_) => unreachable!("it was made a tree just now"),
        }
    }

    /// `None` for bytes that no hash has which calls have made; see [`Aggregate::has_each_once`], too.
    pub(in crate::state) fn from_body(tag: u8, body: &[u8]) -> Option<HashValue> {
        if tag == PACKED {
            return is_packed(body).filter(|n| n % 2 == 0).map(|_| HashValue::Packed(Bytes::copy_from_slice(body)));
        }
        let (mut body, mut fields) = (Body(body), Fields::default());
        let mut last = None;
        while !body.is_empty() {
            let deadline = body.number().filter(|deadline| *deadline <= FIELD_DEADLINE_MAX)?;
            let (name, value) = (body.blob()?, body.blob()?);
            let field = Field::new(name, value, deadline);
            // In order and each once, or it is not what was written.
            let place = (field.hash, name);
            if last.is_some_and(|last| last >= place) {
                return None;
            }
            last = Some(place);
            fields.count(field.show());
            fields.tree.push(field);
        }
        (!fields.tree.is_empty()).then(|| HashValue::Tree(fields.into()))
    }
}

impl Default for HashValue {
    fn default() -> Self {
        HashValue::new()
    }
}

impl Aggregate for HashValue {
    fn tag(&self) -> u8 {
        match self {
            HashValue::Packed(_) => PACKED,
            HashValue::Tree(_) => TREE,
        }
    }

    fn type_name(&self) -> &'static str {
        "hash"
    }

    fn encoding(&self) -> &'static str {
        match self {
            HashValue::Packed(_) => "listpack",
            HashValue::Tree(_) => "hashtable",
        }
    }

    fn plain_body(&self) -> Option<&Bytes> {
        match self {
            HashValue::Packed(bytes) => Some(bytes),
            HashValue::Tree(_) => None,
        }
    }

    fn put_body(&self, out: &mut Vec<u8>) {
        match self {
            HashValue::Packed(bytes) => out.extend_from_slice(bytes),
            HashValue::Tree(fields) => {
                for field in fields.tree.iter().map(Field::show) {
                    put_number(out, field.deadline);
                    put_blob(out, field.name);
                    put_blob(out, field.value);
                }
            }
        }
    }

    fn has_each_once(&self) -> bool {
        match self {
            HashValue::Packed(bytes) => are_distinct(Elements::of(bytes).step_by(2)),
            HashValue::Tree(_) => true,
        }
    }

    fn weight(&self) -> usize {
        match self {
            HashValue::Packed(bytes) => bytes.len(),
            HashValue::Tree(fields) => {
                fields.bytes + fields.due.len() * DEADLINE_COST + fields.tree.len() * ELEMENT_COST
            }
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            HashValue::Packed(bytes) => bytes.is_empty(),
            HashValue::Tree(fields) => fields.tree.is_empty(),
        }
    }

    fn soonest(&self) -> Millis {
        match self {
            HashValue::Packed(_) => 0,
            HashValue::Tree(fields) => fields.due.get(0).map_or(0, |due| due.deadline),
        }
    }

    fn is_dead(&self, clock: Millis) -> bool {
        let HashValue::Tree(fields) = self else { return false };
        // One that does not die, or dies last, decides.
        let last = fields.tree.len().checked_sub(1).and_then(|last| fields.due.get(last));
        last.is_some_and(|last| last.deadline <= clock)
    }

    fn unpacking(&self) -> usize {
        match self {
            HashValue::Packed(_) => self.as_ref().len() * ELEMENT_COST,
            HashValue::Tree(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const LIMITS: PackedLimits = PackedLimits { entries: 8, value: 16 };

    fn contents(hash: &HashValue) -> BTreeMap<Vec<u8>, (Vec<u8>, Millis)> {
        hash.as_ref().iter().map(|field| (field.name.to_vec(), (field.value.to_vec(), field.deadline))).collect()
    }

    proptest! {
        #[test]
        fn it_is_a_map_in_either_form(
            calls in prop::collection::vec((0..40u8, 0..24usize, 0..6u8, 0..50u64), 0..120),
        ) {
            let (mut hash, mut model) = (HashValue::new(), BTreeMap::new());
            for (name, length, kind, number) in calls {
                let name = vec![name; 1 + usize::from(name % 3)];
                match kind {
                    0 => prop_assert_eq!(hash.remove(&name), model.remove(&name).is_some()),
                    1 => {
                        let before = model.len();
                        model.retain(|_, (_, deadline)| *deadline == 0 || *deadline > number);
                        prop_assert_eq!(hash.prune(number), before - model.len());
                    }
                    5 => {
                        let old = model.get_mut(&name).map(|(_, deadline)| deadline);
                        let changes = old.as_ref().is_some_and(|old| **old != number);
                        prop_assert_eq!(hash.set_deadline(&name, number), changes);
                        if let Some(old) = old {
                            *old = number;
                        }
                    }
                    _ => {
                        let deadline = if kind == 2 { number } else { 0 };
                        let value = vec![b'v'; length];
                        let new = hash.set(&name, &value, deadline, LIMITS);
                        prop_assert_eq!(new, model.insert(name, (value, deadline)).is_none());
                    }
                }
                let deadlines = model.values().map(|(_, deadline)| *deadline).filter(|deadline| *deadline != 0);
                prop_assert_eq!(hash.soonest(), deadlines.clone().min().unwrap_or(0));
                let living = |clock| model.values().filter(|(_, deadline)| *deadline == 0 || *deadline > clock).count();
                let next = deadlines.clone().filter(|deadline| *deadline > number).min().unwrap_or(0);
                prop_assert_eq!(hash.as_ref().living(number), (living(number), next));
                prop_assert_eq!(hash.is_dead(number), !model.is_empty() && living(number) == 0);
            }
            prop_assert_eq!(contents(&hash), model.clone());
            prop_assert_eq!(hash.as_ref().len(), model.len());
            for (name, (value, deadline)) in &model {
                prop_assert_eq!(hash.as_ref().get(name), Some(FieldRef { name, value, deadline: *deadline }));
            }
            let mut body = Vec::new();
            hash.put_body(&mut body);
            let again = HashValue::from_body(hash.tag(), &body);
            prop_assert_eq!(again.is_none(), hash.is_empty(), "nobody keeps an empty one");
            let again = again.unwrap_or_else(|| hash.clone());
            prop_assert_eq!((again.weight(), again.soonest()), (hash.weight(), hash.soonest()));
            prop_assert_eq!(contents(&again), contents(&hash));
            for length in 0..body.len() {
                if let Some(other) = HashValue::from_body(hash.tag(), &body[..length]) {
                    prop_assert!(other.as_ref().len() < model.len());
                }
            }
            let (mut cursor, mut seen) = (0, Vec::new());
            loop {
                let (fields, next) = hash.as_ref().scan(cursor, 3);
                seen.extend(fields.iter().map(|field| field.name.to_vec()));
                cursor = next;
                if cursor == 0 {
                    break;
                }
            }
            seen.sort();
            prop_assert_eq!(seen, model.keys().cloned().collect::<Vec<_>>());
        }
    }
}
