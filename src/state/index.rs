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
//! Keys that no size of the index can part, because their hashes are equal or nearly so, do not go on being moved: beyond
//! the 63 that a home has place for they are the *surplus*, a list beside the words, sorted by the hash and by a second
//! one. Chance does not make one; who knows the seed of the hashes can, and gets an index that is larger and slower, and
//! as right. A position is that of a word, or behind the words that of a place in the surplus.
//!
//! Invariants: every spot that was put and not removed has one position; a spot that is wider than a word's
//! ([`SPOT_BITS`]) is in the surplus.
//!
//! Marks are what eviction remembers of each key. They lie beside the words, are made when first asked for, and move
//! with their words; nothing else depends on them.

use smallvec::SmallVec;
use std::iter::Peekable;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

pub(super) const SPOT_BITS: u32 = 21;
const TAG_BITS: u32 = 5;
const FAR_SHIFT: u32 = SPOT_BITS + TAG_BITS;
const SPOT_MASK: u32 = (1 << SPOT_BITS) - 1;
const ONE_FURTHER: u32 = 1 << FAR_SHIFT;
const FAR_MAX: u32 = (1 << (32 - FAR_SHIFT)) - 1;

/// Words of the smallest index.
const SMALLEST: usize = 4;

/// Why there is a surplus.
const BEHIND: &str = "the position is one behind the words";

/// Upper bits of a hash that whoever looks for a key by the beginning of its hash knows at least.
const BEGINNING: u32 = 42;

#[derive(Debug, Default)]
pub(super) struct Index {
    words: Box<[u32]>,
    /// Words that are not empty.
    used: u32,
    marks: OnceLock<Box<[AtomicU32]>>,
    /// In order of [`Surplus::order`]. In a box, because nearly no unit has any.
    #[allow(clippy::box_collection)]
    surplus: Option<Box<Vec<Surplus>>>,
}

/// What there was no word for.
#[derive(Debug)]
struct Surplus {
    hash: u64,
    /// Tells keys apart whose hashes are equal, so that one need not look at all of them.
    second: u32,
    spot: u32,
    mark: AtomicU32,
}

impl Surplus {
    fn order(&self) -> (u64, u32) {
        (self.hash, self.second)
    }
}

/// Who knows the keys that spots name.
pub(super) trait Keys {
    fn hash(&self, spot: u32) -> u64;
    /// A hash under another seed, for the surplus.
    fn second(&self, spot: u32) -> u32;
}

#[inline]
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
    /// The same without the marks.
    pub fn copy(&self) -> Index {
        let unmarked = |one: &Surplus| Surplus { mark: AtomicU32::default(), ..*one };
        let surplus = self.surplus.as_ref().map(|all| Box::new(all.iter().map(unmarked).collect()));
        Index { words: self.words.clone(), used: self.used, marks: OnceLock::new(), surplus }
    }

    /// An index that takes `keys` keys without growing.
    pub fn with_room(keys: usize) -> Index {
        // At most nine tenths full: a search then looks at five words or so.
        let words = size_class((keys + keys / 9 + 1).max(SMALLEST) * 4) / 4;
        Index { words: vec![0; words].into_boxed_slice(), ..Index::default() }
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.used as usize + self.surplus().len()
    }

    #[inline]
    fn surplus(&self) -> &[Surplus] {
        self.surplus.as_ref().map_or(&[], |surplus| surplus)
    }

    #[inline]
    fn home(&self, hash: u64, depth: u8) -> usize {
        ((((hash << depth) >> 32) * self.words.len() as u64) >> 32) as usize
    }

    #[inline]
    fn after(&self, at: usize) -> usize {
        if at + 1 == self.words.len() { 0 } else { at + 1 }
    }

    /// The position of the spot of a key with this hash for which `is` holds. `second` is asked for if there is a surplus.
    pub fn find(
        &self,
        hash: u64,
        depth: u8,
        second: impl FnOnce() -> u32,
        mut is: impl FnMut(u32) -> bool,
    ) -> Option<usize> {
        self.find_word(hash, depth, &mut is).or_else(|| {
            let surplus = self.surplus.as_ref()?;
            let order = (hash, second());
            let from = surplus.partition_point(|other| other.order() < order);
            let equal = surplus[from..].iter().take_while(|other| other.order() == order);
            equal.zip(from..).find(|(other, _)| is(other.spot)).map(|(_, at)| self.words.len() + at)
        })
    }

    fn find_word(&self, hash: u64, depth: u8, is: &mut impl FnMut(u32) -> bool) -> Option<usize> {
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

    /// The word at a key's home.
    pub fn glance(&self, hash: u64, depth: u8) -> u32 {
        self.words.get(self.home(hash, depth)).copied().unwrap_or(0)
    }

    /// The first spot that may be that of a key with this hash.
    pub fn likely(&self, hash: u64, depth: u8) -> Option<u32> {
        self.find_word(hash, depth, &mut |_| true).map(|at| self.words[at] & SPOT_MASK)
    }

    /// The position of a spot for which `is` holds, among those whose hash begins with the upper [`BEGINNING`] bits of
    /// `hash`: for who does not know the lower ones, and so neither the tag nor, in a deep unit, the home to the word.
    pub fn find_beginning(&self, hash: u64, depth: u8, is: impl Fn(u32) -> bool) -> Option<usize> {
        let homes = match self.words.is_empty() {
            true => None,
            false => Some(self.home(hash, depth)).map(|first| [first, self.after(first)]),
        };
        let word = homes.into_iter().flatten().find_map(|mut at| {
            for far in 1..=FAR_MAX {
                let word = self.words[at];
                if word >> FAR_SHIFT < far {
                    return None;
                }
                if word >> FAR_SHIFT == far && is(word & SPOT_MASK) {
                    return Some(at);
                }
                at = self.after(at);
            }
            None
        });
        word.or_else(|| {
            let beginning = |hash: u64| hash >> (u64::BITS - BEGINNING);
            let surplus = self.surplus();
            let from = surplus.partition_point(|other| beginning(other.hash) < beginning(hash));
            let alike = surplus[from..].iter().take_while(|other| beginning(other.hash) == beginning(hash));
            alike.zip(from..).find(|(other, _)| is(other.spot)).map(|(_, at)| self.words.len() + at)
        })
    }

    #[inline]
    pub fn spot(&self, at: usize) -> u32 {
        self.words.get(at).map_or_else(|| self.surplus()[at - self.words.len()].spot, |word| word & SPOT_MASK)
    }

    /// Changes the spot at a position to one that fits into any.
    pub fn set_spot(&mut self, at: usize, spot: u32) {
        debug_assert!(spot <= SPOT_MASK, "a word takes it");
        match at.checked_sub(self.words.len()) {
            Some(behind) => self.surplus.as_mut().expect(BEHIND)[behind].spot = spot,
            None => self.words[at] = self.words[at] & !SPOT_MASK | spot,
        }
    }

    /// The same for any spot. The key moves to another position if the spot is too wide for the word there.
    pub fn set_any_spot(&mut self, at: usize, spot: u32, keys: &impl Keys) {
        match at.checked_sub(self.words.len()) {
            _ if spot <= SPOT_MASK => self.set_spot(at, spot),
            Some(behind) => self.surplus.as_mut().expect(BEHIND)[behind].spot = spot,
            None => {
                let mark = self.mark_of(at);
                self.remove(at);
                self.put_aside(keys.hash(spot), spot, mark, keys);
            }
        }
    }

    /// The mark at a position.
    pub fn mark(&self, at: usize) -> &AtomicU32 {
        if let Some(behind) = at.checked_sub(self.words.len()) {
            return &self.surplus()[behind].mark;
        }
        &self.marks.get_or_init(|| (0..self.words.len()).map(|_| AtomicU32::new(0)).collect())[at]
    }

    /// From now on marks are there.
    pub fn keep_marks(&mut self) {
        if !self.words.is_empty() {
            self.mark(0);
        }
    }

    /// The mark at a position, 0 if there are none.
    pub fn mark_of(&mut self, at: usize) -> u32 {
        if at >= self.words.len() {
            return self.mark(at).load(Ordering::Relaxed);
        }
        self.marks.get_mut().map_or(0, |marks| *marks[at].get_mut())
    }

    /// Takes the marks away.
    pub fn take_marks(&mut self) -> Option<Box<[AtomicU32]>> {
        self.surplus.iter_mut().flat_map(|surplus| surplus.iter_mut()).for_each(|one| *one.mark.get_mut() = 0);
        self.marks.take()
    }

    fn has_room(&self) -> bool {
        (self.used as usize + 1) * 10 <= self.words.len() * 9
    }

    /// Not half full with so many words: what finds no place all the same would find none in a larger index either.
    fn is_roomy(&self, used: u32) -> bool {
        used as usize * 2 < self.words.len()
    }

    /// Adds a spot if there is room, else changes nothing and gives `false`: the index must [`grow`](Index::grow).
    pub fn insert(&mut self, hash: u64, depth: u8, spot: u32, mark: u32, keys: &impl Keys) -> bool {
        let fits = spot <= SPOT_MASK;
        if fits && self.has_room() && self.put(hash, depth, spot, mark) {
            return true;
        }
        if fits && !self.is_roomy(self.used) {
            return false;
        }
        self.put_aside(hash, spot, mark, keys);
        true
    }

    /// Adds a spot to the surplus.
    fn put_aside(&mut self, hash: u64, spot: u32, mark: u32, keys: &impl Keys) {
        self.add_surplus(Surplus { hash, second: keys.second(spot), spot, mark: AtomicU32::new(mark) });
    }

    fn add_surplus(&mut self, one: Surplus) {
        let surplus = self.surplus.get_or_insert_default();
        let at = surplus.partition_point(|other| other.order() <= one.order());
        surplus.insert(at, one);
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
        self.used += 1;
        true
    }

    pub fn remove(&mut self, at: usize) {
        if let Some(behind) = at.checked_sub(self.words.len()) {
            let surplus = self.surplus.as_mut().expect(BEHIND);
            surplus.remove(behind);
            if surplus.is_empty() {
                self.surplus = None;
            }
            return;
        }
        let (mut gap, mut next) = (at, self.after(at));
        while self.words[next] >> FAR_SHIFT > 1 {
            self.words[gap] = self.words[next] - ONE_FURTHER;
            self.move_mark(next, gap);
            (gap, next) = (next, self.after(next));
        }
        self.words[gap] = 0;
        self.set_mark(gap, 0);
        self.used -= 1;
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
    pub fn grow(&mut self, depth: u8, keys: &impl Keys) {
        self.rebuild(self.words.len() * 6 / 5 * 9 / 10, depth, keys);
    }

    /// Makes it smaller if it is mostly empty.
    pub fn shrink(&mut self, depth: u8, keys: &impl Keys) {
        let used = self.used as usize;
        if self.words.len() > 4 * SMALLEST && used * 3 < self.words.len() {
            self.rebuild(used + used / 4, depth, keys);
        }
    }

    fn rebuild(&mut self, room: usize, depth: u8, keys: &impl Keys) {
        let mut room = room.max(self.used as usize + 1);
        let mut larger = loop {
            if let Some(larger) = self.moved(room, depth, keys) {
                break larger;
            }
            // A word got too far from home: rare, and rarer the emptier the index is.
            room += room / 4 + 1;
        };
        // What is in the surplus may be so for want of a larger index.
        for one in self.surplus.take().into_iter().flat_map(|surplus| *surplus) {
            let fits = one.spot <= SPOT_MASK && larger.has_room();
            if !fits || !larger.put(one.hash, depth, one.spot, one.mark.load(Ordering::Relaxed)) {
                larger.add_surplus(one);
            }
        }
        *self = larger;
    }

    /// An index with room for so many keys and the words of this one. `None` if it should be larger.
    fn moved(&mut self, room: usize, depth: u8, keys: &impl Keys) -> Option<Index> {
        let mut larger = Index::with_room(room);
        if self.marks.get_mut().is_some() {
            larger.keep_marks();
        }
        for at in 0..self.words.len() {
            if self.words[at] == 0 {
                continue;
            }
            let (spot, mark) = (self.spot(at), self.mark_of(at));
            let hash = keys.hash(spot);
            if !larger.put(hash, depth, spot, mark) {
                if !larger.is_roomy(self.used) {
                    return None;
                }
                larger.put_aside(hash, spot, mark, keys);
            }
        }
        Some(larger)
    }

    /// Positions of all keys whose home is that of `hash` or later, in order of their homes.
    pub fn walk_from(&self, hash: u64, depth: u8) -> Walk<'_> {
        let home = if self.words.is_empty() { 0 } else { self.home(hash, depth) };
        let behind = self.surplus().partition_point(|one| self.home(one.hash, depth) < home);
        Walk { words: Words { index: self, at: home, first: home }.peekable(), index: self, behind, depth }
    }

    /// A position chosen at random, each as likely as any other but for the last resort.
    pub fn any(&self, mut random: u64) -> Option<usize> {
        if self.len() == 0 {
            return None;
        }
        let length = self.words.len() + self.surplus().len();
        for _ in 0..64 {
            let at = (((random >> 32) * length as u64) >> 32) as usize;
            if self.words.get(at) != Some(&0) {
                return Some(at);
            }
            random = random.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        }
        (0..length).find(|at| self.words.get(*at) != Some(&0))
    }
}

/// Homes and positions in order of homes: those that share one come together, in no order.
pub(super) struct Walk<'a> {
    words: Peekable<Words<'a>>,
    index: &'a Index,
    /// What comes next of the surplus.
    behind: usize,
    depth: u8,
}

impl Iterator for Walk<'_> {
    /// Home and position.
    type Item = (usize, usize);

    fn next(&mut self) -> Option<(usize, usize)> {
        let Some(one) = self.index.surplus().get(self.behind) else { return self.words.next() };
        let home = self.index.home(one.hash, self.depth);
        if let Some(word) = self.words.next_if(|word| word.0 <= home) {
            return Some(word);
        }
        self.behind += 1;
        Some((home, self.index.words.len() + self.behind - 1))
    }
}

/// The same for words alone.
struct Words<'a> {
    index: &'a Index,
    /// Goes past the end once: words of the last homes may lie at the beginning.
    at: usize,
    first: usize,
}

impl Iterator for Words<'_> {
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

    #[test]
    fn sizes_are_those_of_the_allocator() {
        for (bytes, class) in
            [(1, 16), (17, 32), (128, 128), (129, 160), (256, 256), (257, 320), (3585, 4096), (4096, 4096)]
        {
            assert_eq!(size_class(bytes), class, "{bytes}");
        }
    }

    /// Keys whose spots are their numbers, with their hashes. All second hashes are equal in a third of the cases.
    struct All(Vec<u64>, u32);

    impl Keys for All {
        fn hash(&self, spot: u32) -> u64 {
            self.0[spot as usize % WIDE]
        }

        fn second(&self, spot: u32) -> u32 {
            (spot % WIDE as u32 % 97).wrapping_mul(self.1)
        }
    }

    /// Spots may be wider than words: the same number with a bit above.
    const WIDE: usize = 1 << SPOT_BITS;

    impl All {
        fn find(&self, index: &Index, depth: u8, number: u32) -> Option<usize> {
            let second = || self.second(number);
            let found = index.find(self.hash(number), depth, second, |spot| spot % WIDE as u32 == number);
            // A beginning alone leads to a key that has it, if there is one.
            let beginning = self.hash(number) >> 22;
            let by_beginning = index.find_beginning(beginning << 22, depth, |spot| self.hash(spot) >> 22 == beginning);
            assert!(by_beginning.is_some() || found.is_none());
            found
        }

        fn insert(&self, index: &mut Index, depth: u8, spot: u32, mark: u32) {
            let hash = self.hash(spot);
            while !index.insert(hash, depth, spot, mark, self) {
                index.grow(depth, self);
            }
        }
    }

    /// Hashes that chance gives, that crowd together so that words go far and wrap around, and that no index can part.
    fn hashes() -> impl Strategy<Value = u64> {
        prop_oneof![
            any::<u64>(),
            (0..16u64, 0..3u64).prop_map(|(low, high)| (u64::MAX - high) << 32 | low),
            (0..40u64).prop_map(|low| 0x7777_7777 << 32 | low),
            // Equal upper halves, of which some end where the beginnings do; equal altogether; and all in one home.
            any::<u32>().prop_map(|low| 0x1234_5678 << 32 | u64::from(low)),
            Just(0x1234_5678_0000_0000),
            Just(u64::MAX),
            Just(0),
            (0..1u64 << 40).prop_map(|low| 0x9999 << 48 | low),
        ]
    }

    /// Any of them, or mostly one kind.
    fn many() -> impl Strategy<Value = Vec<(u64, u8)>> {
        let kind =
            prop_oneof![2 => hashes().boxed(), 1 => Just(7).boxed(), 1 => any::<u32>().prop_map(u64::from).boxed()];
        let mixed = prop::collection::vec((hashes(), any::<u8>()), 0..600);
        let alike = kind.prop_flat_map(|hash| {
            prop::collection::vec((prop_oneof![9 => Just(hash), 1 => any::<u64>()], 0..150u8), 0..1500)
        });
        prop_oneof![mixed, alike]
    }

    proptest! {
        #[test]
        fn it_finds_what_was_put_and_walks_in_order(
            calls in many(),
            depth in 0..3u8,
            second in 0..3u32,
        ) {
            let mut index = Index::default();
            let mut all = All(Vec::new(), second);
            // Numbers of the keys that are there, with their spots and marks.
            let mut model: Vec<(u32, u32)> = Vec::new();
            for (hash, call) in calls {
                let number = all.0.len() as u32;
                match call {
                    // Removed, or named anew.
                    0..120 if !model.is_empty() => {
                        let at = hash as usize % model.len();
                        let (number, mark) = model[at];
                        let position = all.find(&index, depth, number).unwrap();
                        prop_assert_eq!(index.mark_of(position), mark);
                        if call < 100 {
                            model.swap_remove(at);
                            index.remove(position);
                            index.shrink(depth, &all);
                            prop_assert_eq!(all.find(&index, depth, number), None);
                        } else {
                            let spot = if call < 110 { number } else { number + WIDE as u32 };
                            index.set_any_spot(position, spot, &all);
                            let position = all.find(&index, depth, number).unwrap();
                            prop_assert_eq!((index.spot(position), index.mark_of(position)), (spot, mark));
                        }
                    }
                    _ => {
                        // All keys of an index share the bits of its depth.
                        all.0.push(hash >> depth);
                        let spot = if call == 255 { number + WIDE as u32 } else { number };
                        all.insert(&mut index, depth, spot, 0);
                        let position = all.find(&index, depth, number).unwrap();
                        // Marks may come at any time and change nothing.
                        let mark = if number < 40 { 0 } else { number | 1 };
                        if mark != 0 {
                            index.mark(position).store(mark, Ordering::Relaxed);
                        }
                        model.push((number, mark));
                    }
                }
                prop_assert_eq!(index.len(), model.len());
            }
            for (number, mark) in &model {
                let position = all.find(&index, depth, *number).unwrap();
                prop_assert_eq!(index.mark_of(position), *mark);
            }
            if let Some(position) = index.any(7) {
                prop_assert!(model.iter().any(|(number, _)| index.spot(position) % WIDE as u32 == *number));
            }
            for from in [0, 1 << 40, 0x1234_5678_0000_0000 >> depth, u64::MAX >> depth] {
                let walked: Vec<(usize, u32)> = index
                    .walk_from(from, depth)
                    .map(|(home, at)| (home, index.spot(at) % WIDE as u32))
                    .collect();
                prop_assert!(walked.windows(2).all(|pair| pair[0].0 <= pair[1].0));
                prop_assert!(walked.iter().all(|(home, number)| *home == index.home(all.hash(*number), depth)));
                let behind = |number: &u32| all.hash(*number) >= from;
                let mut walked: Vec<u32> = walked.into_iter().map(|(_, number)| number).filter(behind).collect();
                walked.sort_unstable();
                let mut expected: Vec<u32> = model.iter().map(|(number, _)| *number).filter(behind).collect();
                expected.sort_unstable();
                prop_assert_eq!(walked, expected);
            }
            index.take_marks();
            prop_assert!((0..index.words.len() + index.surplus().len()).all(|at| index.mark_of(at) == 0));
        }
    }

    /// However alike they are, the index stays in proportion to its keys, and gives the room back.
    #[test]
    fn keys_that_nothing_parts_take_no_room_for_want_of_parting() {
        for hash in [|_| 7u64, |number: u64| number, |number: u64| (0x7777_7777 << 32) | (number % 3)] {
            let mut index = Index::default();
            let all = All((0..20_000).map(hash).collect(), 1);
            for number in 0..20_000 {
                all.insert(&mut index, 0, number, 0);
            }
            assert!(index.words.len() < 1000, "{} words", index.words.len());
            assert_eq!(index.len(), 20_000);
            for number in 0..20_000 {
                let at = all.find(&index, 0, number).unwrap();
                index.remove(at);
                index.shrink(0, &all);
            }
            assert!(index.words.len() <= 4 * SMALLEST && index.surplus.is_none());
        }
    }

    #[test]
    fn any_key_is_as_likely_as_another() {
        let all = All((0..400).map(|number| if number < 200 { 7 } else { number << 55 }).collect(), 1);
        let mut index = Index::default();
        (0..400).for_each(|number| all.insert(&mut index, 0, number, 0));
        let mut drawn = vec![0; 400];
        let mut draws = fastrand::Rng::with_seed(1);
        for _ in 0..40_000 {
            drawn[index.spot(index.any(draws.u64(..)).unwrap()) as usize] += 1;
        }
        assert!(drawn.iter().all(|times| (50..=170).contains(times)), "{drawn:?}");
    }
}
