//! Streams: entries in the order of their ids, and groups of consumers that read them.
//!
//! ```text
//! entries   by id; each with its fields as { name blob  value blob }
//! group     where it stands, what it was given and has not acknowledged (*pending*), by id
//! consumer  the ids among these that are its own
//! body      length v  last id  deleted id  added v  { id delta .. }  groups (see `put_body`)
//! ```
//!
//! Invariants: ids rise from entry to entry and none is above `last`; every pending id of a group belongs to exactly
//! one of its consumers, and that consumer's ids are exactly those; an entry may be gone and still be pending.
//!
//! Copies share everything (`tree.rs`); a group is copied when it is changed while a copy is held.

use super::body::{Body, put_blob, put_number};
use super::tree::{Item, Tree};
use super::{Aggregate, ELEMENT_COST};
use crate::types::Millis;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

pub(in crate::state) const STREAM: u8 = 12;

/// The name of an entry: a time in milliseconds, and a number among those of that time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct StreamId {
    pub ms: u64,
    pub seq: u64,
}

impl StreamId {
    pub const MIN: StreamId = StreamId { ms: 0, seq: 0 };
    pub const MAX: StreamId = StreamId { ms: u64::MAX, seq: u64::MAX };

    pub fn next(self) -> Option<StreamId> {
        match self.seq.checked_add(1) {
            Some(seq) => Some(StreamId { seq, ..self }),
            None => self.ms.checked_add(1).map(|ms| StreamId { ms, seq: 0 }),
        }
    }

    pub fn previous(self) -> Option<StreamId> {
        match self.seq.checked_sub(1) {
            Some(seq) => Some(StreamId { seq, ..self }),
            None => self.ms.checked_sub(1).map(|ms| StreamId { ms, seq: u64::MAX }),
        }
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

/// An entry of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamEntry {
    pub id: StreamId,
    fields: Arc<[u8]>,
}

impl Item for StreamEntry {
    type Key = StreamId;

    fn key(&self) -> StreamId {
        self.id
    }
}

impl StreamEntry {
    /// Names and values, in turn.
    pub fn fields(&self) -> impl Iterator<Item = &[u8]> {
        let mut body = Body(&self.fields);
        std::iter::from_fn(move || (!body.is_empty()).then(|| body.blob().expect("fields were written as blobs")))
    }
}

/// An entry that a consumer was given and has not acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    pub id: StreamId,
    /// The consumer's number in its group.
    consumer: u64,
    /// When it was given last, by the group clock.
    pub given_ms: Millis,
    /// How often it was given.
    pub times: u64,
}

impl Item for Pending {
    type Key = StreamId;

    fn key(&self) -> StreamId {
        self.id
    }
}

impl Item for StreamId {
    type Key = StreamId;

    fn key(&self) -> StreamId {
        *self
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumer {
    name: Arc<[u8]>,
    /// When it last asked for anything, by the group clock.
    pub seen_ms: Millis,
    /// When it was last given anything; `None`: never.
    pub active_ms: Option<Millis>,
    pending: Tree<StreamId>,
}

impl Consumer {
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// Entries that it was given and has not acknowledged.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }
}

/// A group of consumers.
#[derive(Debug, Clone, Default)]
pub struct StreamGroup {
    /// The last entry that was given to anybody.
    pub last: StreamId,
    /// How many entries up to `last` there ever were, if that can be told.
    pub read: Option<u64>,
    pending: Tree<Pending>,
    consumers: BTreeMap<u64, Consumer>,
    by_name: BTreeMap<Arc<[u8]>, u64>,
    /// Numbers given to consumers so far.
    numbers: u64,
}

/// See the head of this file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamValue {
    entries: Tree<StreamEntry>,
    /// Bytes of all fields.
    bytes: usize,
    /// The largest id ever.
    pub last: StreamId,
    /// The largest id that was removed other than by trimming from the front.
    pub deleted: StreamId,
    /// Entries ever added.
    pub added: u64,
    groups: BTreeMap<Arc<[u8]>, Arc<StreamGroup>>,
    /// Pending entries and consumers of all groups, for the account; and the bytes of all names.
    pending: usize,
    names: usize,
}

/// Where counts stop that a client may set at will. They are shown as signed numbers.
const COUNT_MAX: u64 = i64::MAX as u64;

/// A count with one more.
pub fn one_more(count: u64) -> u64 {
    count.saturating_add(1).min(COUNT_MAX)
}

/// Rough cost of a group or a consumer in the account.
const NAME_COST: usize = 96;
/// Cost of a pending entry in the account: it stands in two trees.
const PENDING_COST: usize = 72;

/// Positions of a tree whose ids lie from `first` to `last`.
fn positions<T: Item<Key = StreamId>>(tree: &Tree<T>, first: StreamId, last: StreamId) -> Range<usize> {
    if first > last {
        return 0..0;
    }
    tree.partition_point(first, |_| false)..tree.partition_point(last, |_| true)
}

fn position<T: Item<Key = StreamId>>(tree: &Tree<T>, id: StreamId) -> Result<usize, usize> {
    let at = tree.partition_point(id, |_| false);
    if tree.get(at).is_some_and(|item| item.key() == id) { Ok(at) } else { Err(at) }
}

impl StreamValue {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds an entry above all others; `fields` are names and values in turn.
    ///
    /// # Panics
    /// If the id is not above [`StreamValue::last`].
    pub fn add<'a>(&mut self, id: StreamId, fields: impl Iterator<Item = &'a [u8]>) {
        assert!(id > self.last, "ids rise");
        let mut bytes = Vec::new();
        fields.for_each(|field| put_blob(&mut bytes, field));
        self.push(StreamEntry { id, fields: bytes.into() });
        self.last = id;
        self.added = one_more(self.added);
    }

    fn push(&mut self, entry: StreamEntry) {
        self.bytes += entry.fields.len();
        self.entries.push(entry);
    }

    pub fn get(&self, id: StreamId) -> Option<&StreamEntry> {
        position(&self.entries, id).ok().and_then(|at| self.entries.get(at))
    }

    pub fn first(&self) -> Option<&StreamEntry> {
        self.entries.get(0)
    }

    pub fn final_entry(&self) -> Option<&StreamEntry> {
        self.entries.get(self.entries.len().checked_sub(1)?)
    }

    /// The entries with ids from `first` to `last`.
    pub fn range(&self, first: StreamId, last: StreamId) -> impl DoubleEndedIterator<Item = &StreamEntry> {
        self.entries.range(positions(&self.entries, first, last))
    }

    /// How many entries have smaller ids.
    pub fn before(&self, id: StreamId) -> usize {
        self.entries.partition_point(id, |_| false)
    }

    /// Removes an entry; whether it was there.
    pub fn delete(&mut self, id: StreamId) -> bool {
        let Ok(at) = position(&self.entries, id) else { return false };
        let entry = self.entries.remove(at);
        self.bytes -= entry.fields.len();
        self.deleted = self.deleted.max(id);
        true
    }

    /// Removes so many entries, the oldest first.
    pub fn trim(&mut self, count: usize) {
        let gone = count.min(self.entries.len());
        self.bytes -= self.entries.range(..gone).map(|entry| entry.fields.len()).sum::<usize>();
        self.entries.remove_range(0..gone);
    }

    // -- Groups

    pub fn group(&self, name: &[u8]) -> Option<&StreamGroup> {
        self.groups.get(name).map(|group| &**group)
    }

    /// All groups, by name.
    pub fn groups(&self) -> impl ExactSizeIterator<Item = (&[u8], &StreamGroup)> {
        self.groups.iter().map(|(name, group)| (&**name, &**group))
    }

    /// Makes a group; whether there was none of that name.
    pub fn create_group(&mut self, name: &[u8], last: StreamId, read: Option<u64>) -> bool {
        if self.groups.contains_key(name) {
            return false;
        }
        self.groups.insert(name.into(), Arc::new(StreamGroup { last, read, ..StreamGroup::default() }));
        self.names += NAME_COST + name.len();
        true
    }

    /// Removes a group; whether it was there.
    pub fn remove_group(&mut self, name: &[u8]) -> bool {
        let Some(group) = self.groups.remove(name) else { return false };
        self.names -= NAME_COST + name.len() + group.names();
        self.pending -= group.pending.len();
        true
    }

    /// Changes a group; `None` if there is none of that name.
    pub fn change_group<R>(&mut self, name: &[u8], change: impl FnOnce(&mut StreamGroup) -> R) -> Option<R> {
        let group = Arc::make_mut(self.groups.get_mut(name)?);
        let (pending, names) = (group.pending.len(), group.names());
        let result = change(group);
        self.pending = self.pending - pending + group.pending.len();
        self.names = self.names - names + group.names();
        Some(result)
    }

    /// Carries what it knows of times from a clock that says `then` to one that says `now`: how long ago things were stays. Its
    /// ids are names and stay as they are.
    pub(in crate::state) fn rebase(&mut self, then: Millis, now: Millis) {
        if then != now {
            self.groups.values_mut().for_each(|group| Arc::make_mut(group).rebase(then, now));
        }
    }

    /// `None` for bytes that no stream has which calls have made. Numbers that a client may set at will (what was ever added,
    /// how often something was given, ids of groups) are believed within their bounds.
    pub(in crate::state) fn from_body(body: &[u8]) -> Option<StreamValue> {
        let mut body = Body(body);
        let mut stream = StreamValue::default();
        let count = body.number()?;
        stream.last = take_id(&mut body)?;
        stream.deleted = take_id(&mut body)?;
        stream.added = take_count(&mut body)?;
        if stream.deleted > stream.last || stream.added < count {
            return None;
        }
        let mut before = StreamId::MIN;
        for _ in 0..count {
            let id = take_id(&mut body)?;
            let fields = body.blob()?;
            let mut inner = Body(fields);
            while !inner.is_empty() {
                inner.blob()?;
                inner.blob()?;
            }
            if before >= id || id > stream.last || fields.is_empty() {
                return None;
            }
            before = id;
            stream.push(StreamEntry { id, fields: fields.into() });
        }
        for _ in 0..body.number()? {
            let name = body.blob()?;
            if stream.groups.last_key_value().is_some_and(|(last, _)| **last >= *name) {
                return None;
            }
            let group = StreamGroup::from_body(&mut body)?;
            stream.pending += group.pending.len();
            stream.names += NAME_COST + name.len() + group.names();
            stream.groups.insert(name.into(), Arc::new(group));
        }
        body.is_empty().then_some(stream)
    }
}

/// Which numbers its consumers have is nobody else's affair.
impl PartialEq for StreamGroup {
    fn eq(&self, other: &Self) -> bool {
        let [mut mine, mut theirs] = [Vec::new(), Vec::new()];
        self.put_body(&mut mine);
        other.put_body(&mut theirs);
        mine == theirs
    }
}

impl Eq for StreamGroup {}

impl StreamGroup {
    fn names(&self) -> usize {
        self.consumers.values().map(|consumer| NAME_COST + consumer.name.len()).sum()
    }

    /// Consumers by name.
    pub fn consumers(&self) -> impl ExactSizeIterator<Item = &Consumer> {
        self.by_name.values().map(|number| &self.consumers[number])
    }

    pub fn consumer(&self, name: &[u8]) -> Option<&Consumer> {
        self.by_name.get(name).map(|number| &self.consumers[number])
    }

    /// Entries that were given and not acknowledged.
    pub fn pending_len(&self) -> usize {
        self.pending.len()
    }

    pub fn pending(&self, id: StreamId) -> Option<&Pending> {
        position(&self.pending, id).ok().and_then(|at| self.pending.get(at))
    }

    /// The pending entries with ids from `first` to `last`.
    pub fn pending_range(&self, first: StreamId, last: StreamId) -> impl DoubleEndedIterator<Item = &Pending> {
        self.pending.range(positions(&self.pending, first, last))
    }

    /// The same of one consumer.
    pub fn pending_of<'a>(
        &'a self,
        consumer: &'a Consumer,
        first: StreamId,
        last: StreamId,
    ) -> impl Iterator<Item = &'a Pending> {
        let ids = consumer.pending.range(positions(&consumer.pending, first, last));
        ids.map(|id| self.pending(*id).expect("a consumer's ids are pending in its group"))
    }

    /// The name of a pending entry's consumer.
    pub fn owner(&self, pending: &Pending) -> &[u8] {
        &self.consumers[&pending.consumer].name
    }

    /// Makes a consumer if there is none of that name; whether that was so. `now` is the group clock.
    pub fn create_consumer(&mut self, name: &[u8], now: Millis) -> bool {
        if self.by_name.contains_key(name) {
            return false;
        }
        let (name, number): (Arc<[u8]>, _) = (name.into(), self.numbers);
        self.numbers += 1;
        self.by_name.insert(name.clone(), number);
        self.consumers.insert(number, Consumer { name, seen_ms: now, active_ms: None, pending: Tree::default() });
        true
    }

    /// Changes what is known of a consumer's times; nothing happens if there is none of that name.
    pub fn note_seen(&mut self, name: &[u8], now: Millis, active: bool) {
        let Some(consumer) = self.by_name.get(name).and_then(|number| self.consumers.get_mut(number)) else { return };
        consumer.seen_ms = now;
        if active {
            consumer.active_ms = Some(now);
        }
    }

    /// Removes a consumer and forgets what it was given; how many entries that were, if it was there.
    pub fn remove_consumer(&mut self, name: &[u8]) -> Option<usize> {
        let number = self.by_name.remove(name)?;
        let consumer = self.consumers.remove(&number)?;
        for id in consumer.pending.iter() {
            let at = position(&self.pending, *id).expect("a consumer's ids are pending in its group");
            self.pending.remove(at);
        }
        Some(consumer.pending.len())
    }

    /// An entry is given to a consumer, which must be there; whoever had it before has it no more.
    pub fn give(&mut self, id: StreamId, to: &[u8], given_ms: Millis, times: u64) {
        let number = self.by_name[to];
        let pending = Pending { id, consumer: number, given_ms, times };
        match position(&self.pending, id) {
            Ok(at) => {
                let owner = self.pending.get(at).expect("it was just found").consumer;
                self.pending.update(at, |old| *old = pending);
                if owner == number {
                    return;
                }
                self.forget_at(owner, id);
            }
            Err(at) => self.pending.insert(at, pending),
        }
        let ids = &mut self.consumers.get_mut(&number).expect("every named consumer is there").pending;
        let at = position(ids, id).expect_err("it was not this consumer's");
        ids.insert(at, id);
    }

    fn forget_at(&mut self, number: u64, id: StreamId) {
        let ids = &mut self.consumers.get_mut(&number).expect("a pending entry has a consumer").pending;
        let at = position(ids, id).expect("a pending entry is among its consumer's");
        ids.remove(at);
    }

    fn rebase(&mut self, then: Millis, now: Millis) {
        let rebase = |moment: &mut Millis| *moment = now.saturating_sub(then.saturating_sub(*moment));
        for consumer in self.consumers.values_mut() {
            rebase(&mut consumer.seen_ms);
            consumer.active_ms.iter_mut().for_each(rebase);
        }
        for at in 0..self.pending.len() {
            self.pending.update(at, |pending| rebase(&mut pending.given_ms));
        }
    }

    /// An entry is pending no more; whether it was.
    pub fn acknowledge(&mut self, id: StreamId) -> bool {
        let Ok(at) = position(&self.pending, id) else { return false };
        let pending = self.pending.remove(at);
        self.forget_at(pending.consumer, id);
        true
    }

    fn put_body(&self, out: &mut Vec<u8>) {
        put_id(out, self.last);
        put_number(out, self.read.map_or(0, |read| read + 1));
        put_number(out, self.consumers.len() as u64);
        for consumer in self.consumers() {
            put_blob(out, &consumer.name);
            put_number(out, consumer.seen_ms);
            put_number(out, consumer.active_ms.map_or(0, |ms| ms + 1));
            put_number(out, consumer.pending.len() as u64);
            for id in consumer.pending.iter() {
                let pending = self.pending(*id).expect("a consumer's ids are pending in its group");
                put_id(out, *id);
                put_number(out, pending.given_ms);
                put_number(out, pending.times);
            }
        }
    }

    fn from_body(body: &mut Body<'_>) -> Option<StreamGroup> {
        let mut group = StreamGroup { last: take_id(body)?, read: take_option(body)?, ..Self::default() };
        for _ in 0..body.number()? {
            let (name, seen, active) = (body.blob()?, take_count(body)?, take_option(body)?);
            if group.by_name.last_key_value().is_some_and(|(last, _)| **last >= *name) {
                return None;
            }
            group.create_consumer(name, seen);
            let mut before = None;
            for _ in 0..body.number()? {
                let (id, given_ms, times) = (take_id(body)?, take_count(body)?, take_count(body)?);
                if before.replace(id).is_some_and(|before| before >= id) || group.pending(id).is_some() {
                    return None;
                }
                group.give(id, name, given_ms, times);
            }
            group.consumers.get_mut(&(group.numbers - 1))?.active_ms = active;
        }
        Some(group)
    }
}

fn put_id(out: &mut Vec<u8>, id: StreamId) {
    put_number(out, id.ms);
    put_number(out, id.seq);
}

/// A count or a time.
fn take_count(body: &mut Body<'_>) -> Option<u64> {
    body.number().filter(|number| *number <= COUNT_MAX)
}

/// One that there may be; it is written as the number above it.
fn take_option(body: &mut Body<'_>) -> Option<Option<u64>> {
    body.number().map(|number| number.checked_sub(1)).filter(|number| number.is_none_or(|number| number <= COUNT_MAX))
}

fn take_id(body: &mut Body<'_>) -> Option<StreamId> {
    Some(StreamId { ms: body.number()?, seq: body.number()? })
}

impl Aggregate for StreamValue {
    fn tag(&self) -> u8 {
        STREAM
    }

    fn type_name(&self) -> &'static str {
        "stream"
    }

    fn encoding(&self) -> &'static str {
        "stream"
    }

    fn put_body(&self, out: &mut Vec<u8>) {
        put_number(out, self.entries.len() as u64);
        put_id(out, self.last);
        put_id(out, self.deleted);
        put_number(out, self.added);
        for entry in self.entries.iter() {
            put_id(out, entry.id);
            put_blob(out, &entry.fields);
        }
        put_number(out, self.groups.len() as u64);
        for (name, group) in &self.groups {
            put_blob(out, name);
            group.put_body(out);
        }
    }

    fn weight(&self) -> usize {
        self.bytes + self.entries.len() * ELEMENT_COST + self.names + self.pending * PENDING_COST
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Model = BTreeMap<StreamId, (usize, u64)>;

    fn id(n: u64) -> StreamId {
        StreamId { ms: n / 3, seq: n % 3 }
    }

    proptest! {
        /// Pending entries against a map from id to consumer and count; entries against a list.
        #[test]
        fn a_group_knows_what_it_gave_to_whom(
            calls in prop::collection::vec((0..8u8, 1..60u64, 0..3usize), 0..200),
        ) {
            let mut stream = StreamValue::default();
            let (mut entries, mut pending) = (Vec::<u64>::new(), Model::new());
            let names: [&[u8]; 3] = [b"a", b"bc", b"def"];
            stream.create_group(b"g", StreamId::MIN, None);
            for (kind, n, who) in calls {
                match kind {
                    0 | 1 => {
                        let next = entries.last().copied().unwrap_or(0) + n;
                        if id(next) > stream.last {
                            stream.add(id(next), [&b"field"[..], b"value"].into_iter());
                            entries.push(next);
                        }
                    }
                    2 if !entries.is_empty() => {
                        let gone = entries.remove(n as usize % entries.len());
                        prop_assert!(stream.delete(id(gone)));
                    }
                    3 => {
                        stream.trim(who);
                        entries.drain(..who.min(entries.len()));
                    }
                    4 => {
                        let was = stream.change_group(b"g", |group| group.acknowledge(id(n))).unwrap();
                        prop_assert_eq!(was, pending.remove(&id(n)).is_some());
                    }
                    5 => {
                        let gone = stream.change_group(b"g", |group| group.remove_consumer(names[who])).unwrap();
                        let before = pending.len();
                        pending.retain(|_, (owner, _)| *owner != who);
                        prop_assert_eq!(gone.unwrap_or(0), before - pending.len());
                    }
                    _ => {
                        stream.change_group(b"g", |group| {
                            group.create_consumer(names[who], 7);
                            group.give(id(n), names[who], 9, n);
                        });
                        pending.insert(id(n), (who, n));
                    }
                }
            }
            let shown: Vec<_> = stream.range(StreamId::MIN, StreamId::MAX).map(|entry| entry.id).collect();
            prop_assert_eq!(shown, entries.iter().map(|n| id(*n)).collect::<Vec<_>>());
            let group = stream.group(b"g").unwrap();
            let all = group.pending_range(StreamId::MIN, StreamId::MAX);
            let shown: Vec<_> = all.map(|p| (p.id, group.owner(p), p.times)).collect();
            prop_assert_eq!(shown, pending.iter().map(|(id, (who, n))| (*id, names[*who], *n)).collect::<Vec<_>>());
            for (who, name) in names.iter().enumerate() {
                let own = pending.values().filter(|(owner, _)| *owner == who).count();
                prop_assert_eq!(group.consumer(name).map_or(0, Consumer::pending), own);
            }
            let mut body = Vec::new();
            stream.put_body(&mut body);
            let again = StreamValue::from_body(&body).unwrap();
            prop_assert_eq!(again.weight(), stream.weight());
            prop_assert!(again == stream);
            for length in 0..body.len() {
                prop_assert!(StreamValue::from_body(&body[..length]).is_none());
            }
        }
    }
}
