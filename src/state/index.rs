//! The index of a unit: where each of its keys lies, in four bytes a key.
//!
//! Open addressing, linear probing, ordered by home ("Robin Hood"): a word knows how far it is from its home, so a
//! search ends as soon as it meets a word that is closer to its own, deletion shifts words back without looking at
//! keys, and walking the words means walking the hashes in order.
//!
//! ```text
//! word   far(6) | tag(5) | spot(21)      0: empty
//! far    1: at home, 2: one further ...  a word that would be further than 63 makes the index grow
//! tag    the lowest bits of the hash, which have no part in the home
//! spot   what the unit makes of it
//! home   (hash without the bits that all keys of the unit share) * words / 2^64: order of homes is order of hashes
//! ```
//!
//! Marks are what eviction remembers of each key. They lie beside the words, are made when first asked for, and move
//! with their words; nothing else depends on them.

use smallvec::SmallVec;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU32;

pub(super) const SPOT_BITS: u32 = 21;
const TAG_BITS: u32 = 5;
const FAR_SHIFT: u32 = SPOT_BITS + TAG_BITS;
const SPOT_MASK: u32 = (1 << SPOT_BITS) - 1;
const ONE_FURTHER: u32 = 1 << FAR_SHIFT;
const FAR_MAX: u32 = (1 << (32 - FAR_SHIFT)) - 1;

/// Words of the smallest index.
const SMALLEST: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Index {
    words: Box<[u32]>,
    len: u32,
    marks: OnceLock<Box<[AtomicU32]>>,
}

fn tag(hash: u64) -> u32 {
    hash as u32 & ((1 << TAG_BITS) - 1)
}

/// Smallest size that the allocator does not round up: four steps a doubling.
pub(super) fn size_class(bytes: usize) -> usize {
    if bytes <= 128 {
        return bytes.next_multiple_of(16).max(16);
    }
    let step = 1usize << ((bytes - 1).ilog2() - 2);
    bytes.next_multiple_of(step)
}

impl Index {
    /// An index that takes `keys` keys without growing.
    pub fn with_room(keys: usize) -> Index {
        // At most nine tenths full: a search then looks at five words or so.
        let words = size_class((keys + keys / 9 + 1).max(SMALLEST) * 4) / 4;
        Index { words: vec![0; words].into_boxed_slice(), len: 0, marks: OnceLock::new() }
    }

    pub fn len(&self) -> usize {
        self.len as usize
    }

    fn home(&self, hash: u64, depth: u8) -> usize {
        ((((hash << depth) >> 32) * self.words.len() as u64) >> 32) as usize
    }

    fn after(&self, at: usize) -> usize {
        if at + 1 == self.words.len() { 0 } else { at + 1 }
    }

    /// The position of the word with this hash for which `is` holds.
    pub fn find(&self, hash: u64, depth: u8, mut is: impl FnMut(u32) -> bool) -> Option<usize> {
        if self.words.is_empty() {
            return None;
        }
        let (tag, mut at) = (tag(hash), self.home(hash, depth));
        for far in 1..=FAR_MAX {
            let word = self.words[at];
            if word >> FAR_SHIFT < far {
                return None;
            }
            if word >> SPOT_BITS == far << TAG_BITS | tag && is(word & SPOT_MASK) {
                return Some(at);
            }
            at = self.after(at);
        }
        None
    }

    pub fn spot(&self, at: usize) -> u32 {
        self.words[at] & SPOT_MASK
    }

    pub fn set_spot(&mut self, at: usize, spot: u32) {
        self.words[at] = self.words[at] & !SPOT_MASK | spot;
    }

    /// The mark of the word at a position.
    pub fn mark(&self, at: usize) -> &AtomicU32 {
        &self.marks.get_or_init(|| (0..self.words.len()).map(|_| AtomicU32::new(0)).collect())[at]
    }

    /// From now on marks are there.
    pub fn keep_marks(&mut self) {
        if !self.words.is_empty() {
            self.mark(0);
        }
    }

    /// The mark of the word at a position, 0 if there are none.
    pub fn mark_of(&mut self, at: usize) -> u32 {
        self.marks.get_mut().map_or(0, |marks| *marks[at].get_mut())
    }

    /// Takes the marks away.
    pub fn take_marks(&mut self) -> Option<Box<[AtomicU32]>> {
        self.marks.take()
    }

    fn has_room(&self) -> bool {
        (self.len() + 1) * 10 <= self.words.len() * 9
    }

    /// Adds a word if there is room, else changes nothing and gives `false`: the index must [`grow`](Index::grow).
    pub fn insert(&mut self, hash: u64, depth: u8, spot: u32, mark: u32) -> bool {
        self.has_room() && self.put(hash, depth, spot, mark)
    }

    fn put(&mut self, hash: u64, depth: u8, spot: u32, mark: u32) -> bool {
        let (mut at, mut far) = (self.home(hash, depth), 1);
        while self.words[at] >> FAR_SHIFT >= far {
            (at, far) = (self.after(at), far + 1);
        }
        // From here to the next gap every word moves one on.
        let (mut gap, mut moved) = (at, 0);
        while self.words[gap] != 0 {
            if self.words[gap] >> FAR_SHIFT == FAR_MAX {
                return false;
            }
            (gap, moved) = (self.after(gap), moved + 1);
        }
        if far > FAR_MAX {
            return false;
        }
        for _ in 0..moved {
            let before = if gap == 0 { self.words.len() - 1 } else { gap - 1 };
            self.words[gap] = self.words[before] + ONE_FURTHER;
            self.move_mark(before, gap);
            gap = before;
        }
        self.words[at] = far << FAR_SHIFT | tag(hash) << SPOT_BITS | spot;
        self.set_mark(at, mark);
        self.len += 1;
        true
    }

    pub fn remove(&mut self, at: usize) {
        let (mut gap, mut next) = (at, self.after(at));
        while self.words[next] >> FAR_SHIFT > 1 {
            self.words[gap] = self.words[next] - ONE_FURTHER;
            self.move_mark(next, gap);
            (gap, next) = (next, self.after(next));
        }
        self.words[gap] = 0;
        self.set_mark(gap, 0);
        self.len -= 1;
    }

    fn move_mark(&mut self, from: usize, to: usize) {
        if let Some(marks) = self.marks.get_mut() {
            *marks[to].get_mut() = *marks[from].get_mut();
        }
    }

    fn set_mark(&mut self, at: usize, mark: u32) {
        if let Some(marks) = self.marks.get_mut() {
            *marks[at].get_mut() = mark;
        }
    }

    /// Makes it larger by a quarter or so.
    pub fn grow(&mut self, depth: u8, hash_of: impl Fn(u32) -> u64) {
        self.rebuild(self.words.len() * 6 / 5 * 9 / 10, depth, hash_of);
    }

    /// Makes it smaller if it is mostly empty.
    pub fn shrink(&mut self, depth: u8, hash_of: impl Fn(u32) -> u64) {
        if self.words.len() > 4 * SMALLEST && self.len() * 3 < self.words.len() {
            self.rebuild(self.len() + self.len() / 4, depth, hash_of);
        }
    }

    fn rebuild(&mut self, keys: usize, depth: u8, hash_of: impl Fn(u32) -> u64) {
        let mut keys = keys.max(self.len() + 1);
        let most = (keys + 64) * 64;
        let marked = self.marks.get_mut().is_some();
        loop {
            let mut larger = Index::with_room(keys);
            if marked {
                larger.keep_marks();
            }
            let fits = (0..self.words.len()).all(|at| {
                let word = self.words[at];
                word == 0 || {
                    let mark = self.mark_of(at);
                    larger.put(hash_of(word & SPOT_MASK), depth, word & SPOT_MASK, mark)
                }
            });
            if fits {
                *self = larger;
                return;
            }
            // A word got too far from home: rare, and rarer the emptier the index is.
            keys += keys / 4 + 1;
            assert!(keys < most, "dozens of keys have the same upper half of a keyed hash");
        }
    }

    /// Positions of all words whose home is that of `hash` or later, in order of their homes.
    pub fn walk_from(&self, hash: u64, depth: u8) -> Walk<'_> {
        let home = if self.words.is_empty() { 0 } else { self.home(hash, depth) };
        Walk { index: self, at: home, first: home }
    }

    /// A word chosen at random, each as likely as any other but for the last resort.
    pub fn any(&self, mut random: u64) -> Option<usize> {
        if self.len == 0 {
            return None;
        }
        let length = self.words.len() as u64;
        for _ in 0..64 {
            let at = (((random >> 32) * length) >> 32) as usize;
            if self.words[at] != 0 {
                return Some(at);
            }
            random = random.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        }
        self.words.iter().position(|&word| word != 0)
    }
}

/// Words in order of their homes: those that share one come together, in no order.
pub(super) struct Walk<'a> {
    index: &'a Index,
    /// Goes past the end once: words of the last homes may lie at the beginning.
    at: usize,
    first: usize,
}

impl Iterator for Walk<'_> {
    /// Home and position.
    type Item = (usize, usize);

    fn next(&mut self) -> Option<(usize, usize)> {
        let words = &self.index.words;
        while self.at < words.len() * 2 {
            let (at, wrapped) = (self.at % words.len(), self.at >= words.len());
            let far = (words[at] >> FAR_SHIFT) as usize;
            // A word at the beginning that is at its own home: all that wrapped have been met.
            if wrapped && (far == 0 || at + 1 >= far) {
                return None;
            }
            self.at += 1;
            if far != 0 && self.at >= far + self.first {
                return Some((self.at - far, at));
            }
        }
        None
    }
}

/// The words of one home, with their hashes.
pub(super) type Neighbours = SmallVec<[(u64, usize); 8]>;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::sync::atomic::Ordering;

    #[test]
    fn sizes_are_those_of_the_allocator() {
        for (bytes, class) in
            [(1, 16), (17, 32), (128, 128), (129, 160), (256, 256), (257, 320), (3585, 4096), (4096, 4096)]
        {
            assert_eq!(size_class(bytes), class, "{bytes}");
        }
    }

    /// Hashes that crowd together, to make words go far and wrap around.
    fn hashes() -> impl Strategy<Value = u64> {
        prop_oneof![
            any::<u64>(),
            (0..16u64, 0..3u64).prop_map(|(low, high)| (u64::MAX - high) << 32 | low),
            (0..40u64).prop_map(|low| 0x7777_7777 << 32 | low),
        ]
    }

    proptest! {
        #[test]
        fn it_finds_what_was_put_and_walks_in_order(
            calls in prop::collection::vec((hashes(), any::<bool>()), 0..600),
            depth in 0..3u8,
        ) {
            // The spot of a key is its number; hashes are looked up by it.
            let mut index = Index::default();
            let mut all: Vec<u64> = Vec::new();
            let mut model: BTreeMap<u64, u32> = BTreeMap::new();
            for (hash, put) in calls {
                // All keys of an index share the bits of its depth.
                let hash = hash >> depth;
                let found = index.find(hash, depth, |spot| all[spot as usize] == hash);
                prop_assert_eq!(found.map(|at| index.spot(at)), model.get(&hash).copied());
                match found {
                    None if put => {
                        let spot = all.len() as u32;
                        all.push(hash);
                        while !index.insert(hash, depth, spot, spot + 1) {
                            index.grow(depth, |spot| all[spot as usize]);
                        }
                        model.insert(hash, spot);
                    }
                    Some(at) if !put => {
                        index.remove(at);
                        index.shrink(depth, |spot| all[spot as usize]);
                        model.remove(&hash);
                    }
                    _ => (),
                }
                prop_assert_eq!(index.len(), model.len());
                if index.len() == 10 {
                    // Marks may come at any time and change nothing.
                    let at = index.any(hash).unwrap();
                    index.mark(at);
                }
            }
            for from in [0, 1 << 40, u64::MAX >> depth] {
                let walked: Vec<(usize, u64)> = index
                    .walk_from(from, depth)
                    .map(|(home, at)| (home, all[index.spot(at) as usize]))
                    .collect();
                prop_assert!(walked.windows(2).all(|pair| pair[0].0 <= pair[1].0));
                prop_assert!(walked.iter().all(|(home, hash)| *home == index.home(*hash, depth)));
                let mut walked: Vec<u64> = walked.into_iter().map(|(_, hash)| hash).filter(|hash| *hash >= from).collect();
                walked.sort();
                prop_assert_eq!(walked, model.range(from..).map(|(hash, _)| *hash).collect::<Vec<_>>());
            }
        }

        #[test]
        fn marks_move_with_their_words(hashes in prop::collection::btree_set(hashes(), 1..300), gone in prop::collection::vec(any::<prop::sample::Index>(), 0..100)) {
            let mut all: Vec<u64> = hashes.into_iter().collect();
            let mut index = Index::default();
            for (spot, hash) in all.iter().enumerate() {
                while !index.insert(*hash, 0, spot as u32, 0) {
                    index.grow(0, |spot| all[spot as usize]);
                }
                let at = index.find(*hash, 0, |other| other == spot as u32).unwrap();
                index.mark(at).store(*hash as u32 | 1, Ordering::Relaxed);
            }
            let hash_of = all.clone();
            for gone in gone {
                if all.is_empty() {
                    break;
                }
                let hash = all.remove(gone.index(all.len()));
                let at = index.find(hash, 0, |spot| hash_of[spot as usize] == hash).unwrap();
                index.remove(at);
                index.shrink(0, |spot| hash_of[spot as usize]);
                for hash in &all {
                    let at = index.find(*hash, 0, |spot| hash_of[spot as usize] == *hash).unwrap();
                    prop_assert_eq!(index.mark(at).load(Ordering::Relaxed), *hash as u32 | 1);
                }
            }
        }
    }
}
