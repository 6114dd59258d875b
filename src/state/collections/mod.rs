//! Values of many elements: how they lie in memory, what may be done with them, and their bytes on disk.
//!
//! A small one is *packed*: one string of bytes that lies in a row between other keys (`packed.rs`). A large one is a
//! tree that can be copied in an instant (`tree.rs`): a snapshot copies it under the lock and writes it out behind it, and no
//! change of one element costs more than O(log n). Each type says in its own file what either means for it, and shows
//! both forms alike to who reads it.
//!
//! | file | what |
//! |---|---|
//! | `packed.rs` | the small form |
//! | `tree.rs` | the large form |
//! | `body.rs` | bytes of a tree on disk |
//! | `hash.rs` | fields with values, and deadlines of their own |
//! | `stream.rs` | entries in the order of their ids, and groups that read them |
//! | `set.rs` | members, each once |
//! | `list.rs` | elements in the order they were put in |
//! | `sorted.rs` | members with scores, in their order |

pub(super) mod body;
pub(super) mod hash;
pub(super) mod list;
mod packed;
pub(super) mod set;
pub(super) mod sorted;
pub(super) mod stream;
mod tree;

pub use hash::{DEADLINE_COST, FIELD_DEADLINE_MAX, FieldRef, Fields, HashRef, HashValue};
pub use list::{End, ListRef, ListValue, Runs, list_element_cost};
pub use packed::PackedLimits;
pub use set::{MemberRef, Members, SetRef, SetValue};
pub use sorted::{Ranked, ScoredIter, ScoredRef, SortedRef, SortedValue};
pub use stream::{Consumer, Pending, StreamEntry, StreamGroup, StreamId, StreamValue, one_more};

use crate::types::Millis;
use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

/// What every type but the string tells about itself.
pub(super) trait Aggregate {
    /// What tells type and form on disk and in memory; 4 to 15.
    fn tag(&self) -> u8;

    /// As TYPE says it.
    fn type_name(&self) -> &'static str;

    /// As OBJECT ENCODING says it.
    fn encoding(&self) -> &'static str;

    /// See [`super::Value::plain_body`].
    fn plain_body(&self) -> Option<&Bytes> {
        None
    }

    /// Appends the value's bytes.
    fn put_body(&self, out: &mut Vec<u8>);

    /// Whether nothing in it comes twice that may not. Of a tree its order says so; of what is packed nothing does, and to
    /// look takes several milliseconds a megabyte: `from_body` does not.
    fn has_each_once(&self) -> bool {
        true
    }

    /// Bytes of contents, for the account: a function of the contents and the form alone, in O(1).
    fn weight(&self) -> usize;

    /// Whether nothing is left of it: its key goes.
    fn is_empty(&self) -> bool {
        false
    }

    /// Not later than the earliest deadline of any element; 0 if none has one.
    fn soonest(&self) -> Millis {
        0
    }

    /// Whether there are elements and all of them are dead at `clock`: so is its key then.
    fn is_dead(&self, _clock: Millis) -> bool {
        false
    }

    /// What [`Aggregate::weight`] grows by should it stop being packed, at most.
    fn unpacking(&self) -> usize {
        0
    }
}

/// When values of each type stop being packed. Replicated, because the form of a value is part of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packing {
    pub hash: PackedLimits,
    pub set: PackedLimits,
    /// Members of a set of nothing but integers.
    pub set_integers: usize,
    pub sorted: PackedLimits,
    /// As `list-max-listpack-size`: elements of a packed list if positive, else a class of sizes in bytes.
    pub list: i64,
}

impl Default for Packing {
    /// Redis 7.2's.
    fn default() -> Packing {
        let usual = PackedLimits { entries: 128, value: 64 };
        Packing { hash: usual, set: usual, set_integers: 512, sorted: usual, list: -2 }
    }
}

/// How many numbers say a [`Packing`].
pub const PACKING_NUMBERS: usize = 8;

impl Packing {
    /// It, as the log and snapshots write it.
    pub fn numbers(&self) -> [u64; PACKING_NUMBERS] {
        let [hash, set, sorted] = [self.hash, self.set, self.sorted].map(|limits| [limits.entries, limits.value]);
        let list = (self.list << 1 ^ self.list >> 63) as u64;
        let [a, b, c, d, e, f, g] =
            [hash[0], hash[1], set[0], set[1], sorted[0], sorted[1], self.set_integers].map(|number| number as u64);
        [a, b, c, d, e, f, g, list]
    }

    /// A number that says which limits these are.
    pub fn digest(&self) -> u64 {
        xxh3_64(&self.numbers().map(u64::to_le_bytes).concat())
    }

    /// What [`Packing::numbers`] gave.
    pub fn from_numbers(numbers: [u64; PACKING_NUMBERS]) -> Packing {
        let limits = |at: usize| PackedLimits { entries: numbers[at] as usize, value: numbers[at + 1] as usize };
        let list = (numbers[7] >> 1) as i64 ^ -((numbers[7] & 1) as i64);
        Packing { hash: limits(0), set: limits(2), sorted: limits(4), set_integers: numbers[6] as usize, list }
    }
}

/// What an element of a tree counts for in the account beside its bytes: its share of leaves and branches, the header and
/// the rounding of its allocation. Part of the replicated state's meaning, as [`super::ENTRY_COST`].
pub const ELEMENT_COST: usize = 48;

/// The same of a member of a sorted set, which stands in two trees.
pub const RANKED_COST: usize = 96;

/// How many elements a value has and how many bytes these are, at most: what there would be of them in another value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    pub elements: u64,
    pub bytes: u64,
    /// Whether they have scores already.
    pub ranked: bool,
}

impl Size {
    /// What these elements weigh in a set, at most.
    pub fn in_set(self) -> u64 {
        self.bytes.saturating_add(self.elements.saturating_mul(ELEMENT_COST as u64))
    }

    /// What they weigh in a sorted set, at most.
    pub fn in_sorted(self) -> u64 {
        self.bytes.saturating_add(self.elements.saturating_mul(RANKED_COST as u64))
    }

    /// What they weigh more as a sorted set than as the tree they are.
    pub fn ranking(self) -> u64 {
        if self.ranked { 0 } else { self.elements.saturating_mul((RANKED_COST - ELEMENT_COST) as u64) }
    }

    /// The same with what changes that are reserved for may add to them, in bytes of the account.
    #[must_use]
    pub fn with(self, growth: u64) -> Size {
        let elements = self.elements.saturating_add(growth / ELEMENT_COST as u64);
        Size { elements, bytes: self.bytes.saturating_add(growth), ..self }
    }
}

/// The order of elements that have none of their own: by this, then by their bytes. Never changes: it is in the order
/// of bytes on disk, and in the cursors of scans.
fn order_of(element: &[u8]) -> u64 {
    xxh3_64(element)
}

/// Low bits of a hash that a scan's cursor leaves out.
const CURSOR_SHIFT: u32 = 16;

/// One step of a scan over elements in the order of [`order_of`], from `cursor` on: the positions to show, and the next
/// cursor, 0 at the end. An element that is there during the whole scan is shown at least once, whatever comes and goes.
fn scan_range<T: tree::Item<Key = u64>>(
    tree: &tree::Tree<T>,
    cursor: u64,
    count: usize,
) -> (std::ops::Range<usize>, u64) {
    let first = match cursor >> (64 - CURSOR_SHIFT) {
        0 => tree.partition_point(cursor << CURSOR_SHIFT, |_| false),
        _ => tree.len(),
    };
    let mut end = first.saturating_add(count.max(1)).min(tree.len());
    // Elements that share a cursor are shown together, or it could not stand between them.
    let place = |at: usize| tree.get(at).map(|item| item.key() >> CURSOR_SHIFT);
    while end < tree.len() && place(end) == place(end - 1) {
        end += 1;
    }
    (first..end, place(end).unwrap_or(0))
}
