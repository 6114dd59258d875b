//! A sequence that grows, is cut and is copied without a pause: what every large value is made of.
//!
//! A B+ tree in which every branch counts what is below it, and whose nodes are shared until they change. So, with n
//! items, all of these take O(log n): the item at a position, the position of an item, insertion and removal anywhere;
//! a copy takes O(1), and afterwards each side copies the nodes on its way to what it changes, and no others. A snapshot
//! takes such a copy under the lock and writes it out behind it.
//!
//! ```text
//! branch   [ node, items below, measure below, key of the first item ] up to 32 times
//! leaf     [ item ] up to 64 times
//! ```
//!
//! Invariants:
//! - all leaves are equally deep; no node is empty, but for the root of an empty tree, which is a leaf;
//! - a branch that is no root has two children at least at its birth; two neighbours never fit in one node right
//!   after something was removed from either;
//! - keys never fall from item to item, where they have an order at all: the caller inserts where
//!   [`Tree::partition_point`] says.
//!
//! Never iterated in an order that depends on anything but its contents.

use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

/// Items of a leaf, at most.
const LEAF_MAX: usize = 64;
/// Children of a branch, at most.
const BRANCH_MAX: usize = 32;

/// What a tree is made of.
pub trait Item: Clone {
    /// What items are sorted by first; `()` for a mere sequence.
    type Key: Copy + Ord + std::fmt::Debug;

    fn key(&self) -> Self::Key;

    /// What [`Tree::measure`] adds up and [`Tree::seek`] seeks by.
    fn measure(&self) -> usize {
        0
    }
}

/// See the head of this file.
#[derive(Debug, Clone)]
pub struct Tree<T: Item> {
    root: Arc<Node<T>>,
    len: usize,
    measure: usize,
}

#[derive(Debug, Clone)]
enum Node<T: Item> {
    Leaf(Vec<T>),
    Branch(Vec<Child<T>>),
}

#[derive(Debug, Clone)]
struct Child<T: Item> {
    node: Arc<Node<T>>,
    len: usize,
    measure: usize,
    /// Of the first item below.
    first: T::Key,
}

impl<T: Item> Default for Tree<T> {
    fn default() -> Self {
        Tree { root: Arc::new(Node::Leaf(Vec::new())), len: 0, measure: 0 }
    }
}

impl<T: Item> Node<T> {
    fn width(&self) -> usize {
        match self {
            Node::Leaf(items) => items.len(),
            Node::Branch(children) => children.len(),
        }
    }

    fn width_max(&self) -> usize {
        match self {
            Node::Leaf(_) => LEAF_MAX,
            Node::Branch(_) => BRANCH_MAX,
        }
    }

    fn first(&self) -> T::Key {
        match self {
            Node::Leaf(items) => items[0].key(),
            Node::Branch(children) => children[0].first,
        }
    }

    /// Inserts before the item at `at`. Gives the right part if the node had to be split.
    fn insert(&mut self, at: usize, item: T) -> Option<Node<T>> {
        match self {
            Node::Leaf(items) => {
                let right = make_room(items, at, LEAF_MAX);
                match right {
                    None => items.insert(at, item),
                    Some(mut right) => {
                        if at > items.len() || right.is_empty() {
                            right.insert(at - items.len(), item);
                        } else {
                            items.insert(at, item);
                        }
                        return Some(Node::Leaf(right));
                    }
                }
                None
            }
            Node::Branch(children) => {
                let (place, at) = place_of(children, at, true);
                let child = &mut children[place];
                child.len += 1;
                child.measure += item.measure();
                let right = Arc::make_mut(&mut child.node).insert(at, item);
                child.first = child.node.first();
                let right = right.map(Child::of)?;
                child.len -= right.len;
                child.measure -= right.measure;
                let other = make_room(children, place + 1, BRANCH_MAX);
                match other {
                    None => children.insert(place + 1, right),
                    Some(mut other) => {
                        if place + 1 > children.len() || other.is_empty() {
                            other.insert(place + 1 - children.len(), right);
                        } else {
                            children.insert(place + 1, right);
                        }
                        return Some(Node::Branch(other));
                    }
                }
                None
            }
        }
    }

    /// Removes the item at `at`. The node may be empty afterwards.
    fn remove(&mut self, at: usize) -> T {
        match self {
            Node::Leaf(items) => items.remove(at),
            Node::Branch(children) => {
                let (place, at) = place_of(children, at, false);
                let child = &mut children[place];
                let item = Arc::make_mut(&mut child.node).remove(at);
                child.len -= 1;
                child.measure -= item.measure();
                if child.len == 0 {
                    children.remove(place);
                } else {
                    child.first = child.node.first();
                    mend(children, place);
                }
                item
            }
        }
    }

    fn replace(&mut self, at: usize, change: impl FnOnce(&mut T)) -> (usize, usize) {
        match self {
            Node::Leaf(items) => {
                let item = &mut items[at];
                let before = item.measure();
                change(item);
                (before, item.measure())
            }
            Node::Branch(children) => {
                let (place, at) = place_of(children, at, false);
                let child = &mut children[place];
                let (before, after) = Arc::make_mut(&mut child.node).replace(at, change);
                child.measure = child.measure - before + after;
                child.first = child.node.first();
                (before, after)
            }
        }
    }
}

impl<T: Item> Child<T> {
    fn of(node: Node<T>) -> Child<T> {
        let (len, measure) = match &node {
            Node::Leaf(items) => (items.len(), items.iter().map(Item::measure).sum()),
            Node::Branch(children) => (children.iter().map(|c| c.len).sum(), children.iter().map(|c| c.measure).sum()),
        };
        Child { len, measure, first: node.first(), node: Arc::new(node) }
    }
}

/// Which child has the item at `at`, and where in it. For an insertion a position between two children is the end of
/// the first one.
fn place_of<T: Item>(children: &[Child<T>], mut at: usize, inserting: bool) -> (usize, usize) {
    for (place, child) in children.iter().enumerate() {
        if at < child.len || (inserting && at == child.len) {
            return (place, at);
        }
        at -= child.len;
    }
    panic!("a position is inside the tree");
}

/// If there is no room for one more at `at`: takes the right part out, so that either has. At an end nothing is taken, or
/// all: what is filled in order becomes full nodes.
fn make_room<X>(all: &mut Vec<X>, at: usize, max: usize) -> Option<Vec<X>> {
    if all.len() < max {
        return None;
    }
    let middle = match at {
        at if at == all.len() => all.len(),
        0 => 0,
        _ => all.len() / 2,
    };
    if middle == 0 {
        // All goes right; the new one is alone on the left.
        return Some(std::mem::take(all));
    }
    let mut right = Vec::with_capacity((max - middle + 1).max(max / 4));
    right.extend(all.drain(middle..));
    if middle < max {
        all.shrink_to(max * 3 / 4);
    }
    Some(right)
}

/// Joins a child that lost something with a neighbour if both fit in one node.
fn mend<T: Item>(children: &mut Vec<Child<T>>, place: usize) {
    for left in [place.wrapping_sub(1), place] {
        let Some([a, b]) = children.get(left..).and_then(|rest| rest.first_chunk::<2>()) else { continue };
        // Some room is left, or the next insertion would split it again.
        if a.node.width() + b.node.width() > a.node.width_max() * 3 / 4 {
            continue;
        }
        let right = children.remove(left + 1);
        let child = &mut children[left];
        child.len += right.len;
        child.measure += right.measure;
        match (Arc::make_mut(&mut child.node), Arc::unwrap_or_clone(right.node)) {
            (Node::Leaf(items), Node::Leaf(more)) => items.extend(more),
            (Node::Branch(nodes), Node::Branch(more)) => nodes.extend(more),
            _ => unreachable!("all leaves are equally deep"),
        }
        return;
    }
}

impl<T: Item> Tree<T> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The sum of the items' measures.
    pub fn measure(&self) -> usize {
        self.measure
    }

    /// The item at a position.
    pub fn get(&self, at: usize) -> Option<&T> {
        self.iter_from(at).next()
    }

    /// Inserts before the item at `at`, or at the end.
    ///
    /// # Panics
    /// If `at` is beyond the end.
    pub fn insert(&mut self, at: usize, item: T) {
        assert!(at <= self.len, "an item is inserted at a position of the tree");
        self.len += 1;
        self.measure += item.measure();
        let root = Arc::make_mut(&mut self.root);
        if let Some(right) = root.insert(at, item) {
            let left = std::mem::replace(root, Node::Leaf(Vec::new()));
            *root = Node::Branch(vec![Child::of(left), Child::of(right)]);
        }
    }

    pub fn push(&mut self, item: T) {
        self.insert(self.len, item);
    }

    /// Removes the item at `at`.
    ///
    /// # Panics
    /// If there is none.
    pub fn remove(&mut self, at: usize) -> T {
        assert!(at < self.len, "an item is removed at a position of the tree");
        let root = Arc::make_mut(&mut self.root);
        let item = root.remove(at);
        self.len -= 1;
        self.measure -= item.measure();
        if self.len == 0 {
            *root = Node::Leaf(Vec::new());
        }
        while let Node::Branch(children) = &*self.root
            && children.len() == 1
        {
            self.root = children[0].node.clone();
        }
        item
    }

    /// Removes the items of a range of positions.
    pub fn remove_range(&mut self, range: std::ops::Range<usize>) {
        if range.len() * 2 > self.len {
            // Fewer stay than go.
            let kept = self.iter().enumerate().filter(|(at, _)| !range.contains(at)).map(|(_, item)| item.clone());
            *self = kept.collect();
            return;
        }
        for _ in range.clone() {
            self.remove(range.start);
        }
    }

    /// Changes the item at `at`. Its key must stay between those of its neighbours.
    ///
    /// # Panics
    /// If there is none.
    pub fn update(&mut self, at: usize, change: impl FnOnce(&mut T)) {
        assert!(at < self.len, "an item is changed at a position of the tree");
        let (before, after) = Arc::make_mut(&mut self.root).replace(at, change);
        self.measure = self.measure - before + after;
    }

    /// How many items come before a place: those with a smaller key, and those with this key for which `is_before` holds,
    /// which must come first among them.
    pub fn partition_point(&self, key: T::Key, mut is_before: impl FnMut(&T) -> bool) -> usize {
        let (mut node, mut before) = (&*self.root, 0);
        loop {
            match node {
                Node::Leaf(items) => {
                    return before
                        + items.partition_point(|item| match item.key().cmp(&key) {
                            std::cmp::Ordering::Less => true,
                            std::cmp::Ordering::Equal => is_before(item),
                            std::cmp::Ordering::Greater => false,
                        });
                }
                Node::Branch(children) => {
                    // The last child that begins before the place: the place is in it or at its end.
                    let place = children.partition_point(|child| match child.first.cmp(&key) {
                        std::cmp::Ordering::Less => true,
                        std::cmp::Ordering::Equal => is_before(first_item(&child.node)),
                        std::cmp::Ordering::Greater => false,
                    });
                    let place = place.saturating_sub(1);
                    before += children[..place].iter().map(|child| child.len).sum::<usize>();
                    node = &*children[place].node;
                }
            }
        }
    }

    /// The position of the item at which the sum of the measures before it and its own first exceeds `measure`, and how far
    /// in it that is. `None` if the whole tree measures no more.
    pub fn seek(&self, mut measure: usize) -> Option<(usize, usize)> {
        if measure >= self.measure {
            return None;
        }
        let (mut node, mut before) = (&*self.root, 0);
        loop {
            match node {
                Node::Leaf(items) => {
                    for (at, item) in items.iter().enumerate() {
                        if measure < item.measure() {
                            return Some((before + at, measure));
                        }
                        measure -= item.measure();
                    }
                    unreachable!("a branch knows what is below it");
                }
                Node::Branch(children) => {
                    let child = children.iter().find(|child| {
                        let here = measure < child.measure;
                        if !here {
                            measure -= child.measure;
                            before += child.len;
                        }
                        here
                    });
                    node = &*child.expect("a branch knows what is below it").node;
                }
            }
        }
    }

    pub fn iter(&self) -> Iter<'_, T> {
        self.iter_from(0)
    }

    /// The items from a position on.
    pub fn iter_from(&self, at: usize) -> Iter<'_, T> {
        self.range(at..)
    }

    /// The items of a range of positions, cut to what there is; from both ends.
    pub fn range(&self, range: impl RangeBounds<usize>) -> Iter<'_, T> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => self.len,
        };
        let end = end.min(self.len);
        Iter { tree: self, start: start.min(end), end, front: &[], back: &[] }
    }

    /// The leaf with the item at `at`, and the position of its first item.
    fn leaf(&self, at: usize) -> (&[T], usize) {
        let (mut node, mut inside) = (&*self.root, at);
        loop {
            match node {
                Node::Leaf(items) => return (items, at - inside),
                Node::Branch(children) => {
                    let (place, rest) = place_of(children, inside, false);
                    (node, inside) = (&*children[place].node, rest);
                }
            }
        }
    }

    /// Panics if an invariant does not hold.
    #[cfg(test)]
    pub fn check(&self) {
        fn depth<T: Item>(node: &Node<T>, root: bool) -> usize {
            assert!(root || node.width() > 0);
            assert!(node.width() <= node.width_max());
            let Node::Branch(children) = node else { return 0 };
            let depths: Vec<usize> = children.iter().map(|child| depth(&child.node, false)).collect();
            assert!(depths.iter().all(|d| *d == depths[0]));
            for child in children {
                let again = Child::of((*child.node).clone());
                assert_eq!((child.len, child.measure), (again.len, again.measure));
                assert!(child.first == again.first);
            }
            depths[0] + 1
        }
        depth(&self.root, true);
        assert_eq!(self.iter().count(), self.len);
        assert_eq!(self.iter().map(Item::measure).sum::<usize>(), self.measure);
    }
}

fn first_item<T: Item>(mut node: &Node<T>) -> &T {
    loop {
        match node {
            Node::Leaf(items) => return &items[0],
            Node::Branch(children) => node = &*children[0].node,
        }
    }
}

impl<T: Item> FromIterator<T> for Tree<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut tree = Tree::default();
        items.into_iter().for_each(|item| tree.push(item));
        tree
    }
}

/// Equal contents make equal trees, whatever their nodes.
impl<T: Item + PartialEq> PartialEq for Tree<T> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<T: Item + Eq> Eq for Tree<T> {}

/// Items in order, from both ends.
#[derive(Debug, Clone)]
pub struct Iter<'a, T: Item> {
    tree: &'a Tree<T>,
    /// Positions that are still to come, without those in `front` and `back`.
    start: usize,
    end: usize,
    front: &'a [T],
    back: &'a [T],
}

impl<'a, T: Item> Iterator for Iter<'a, T> {
    type Item = &'a T;

    fn next(&mut self) -> Option<&'a T> {
        if self.front.is_empty() && self.start < self.end {
            let (leaf, first) = self.tree.leaf(self.start);
            let end = self.end.min(first + leaf.len());
            self.front = &leaf[self.start - first..end - first];
            self.start = end;
        }
        if let Some((item, rest)) = self.front.split_first() {
            self.front = rest;
            return Some(item);
        }
        let (item, rest) = self.back.split_first()?;
        self.back = rest;
        Some(item)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.front.len() + (self.end - self.start) + self.back.len();
        (left, Some(left))
    }
}

impl<'a, T: Item> DoubleEndedIterator for Iter<'a, T> {
    fn next_back(&mut self) -> Option<&'a T> {
        if self.back.is_empty() && self.start < self.end {
            let (leaf, first) = self.tree.leaf(self.end - 1);
            let start = self.start.max(first);
            self.back = &leaf[start - first..self.end - first];
            self.end = start;
        }
        if let Some((item, rest)) = self.back.split_last() {
            self.back = rest;
            return Some(item);
        }
        let (item, rest) = self.front.split_last()?;
        self.front = rest;
        Some(item)
    }
}

impl<T: Item> ExactSizeIterator for Iter<'_, T> {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl Item for u32 {
        type Key = u32;

        /// Coarse, so that several items share a key.
        fn key(&self) -> u32 {
            self / 4
        }

        fn measure(&self) -> usize {
            *self as usize % 3
        }
    }

    #[derive(Debug, Clone)]
    enum Change {
        Insert(u32),
        Remove(prop::sample::Index),
        Update(prop::sample::Index),
        Cut(prop::sample::Index, usize),
        Copy,
    }

    fn changes() -> impl Strategy<Value = Vec<Change>> {
        let change = prop_oneof![
            20 => (0..2000u32).prop_map(Change::Insert),
            6 => any::<prop::sample::Index>().prop_map(Change::Remove),
            2 => any::<prop::sample::Index>().prop_map(Change::Update),
            1 => (any::<prop::sample::Index>(), 0..300usize).prop_map(|(at, n)| Change::Cut(at, n)),
            1 => Just(Change::Copy),
        ];
        // Runs, so that nodes fill and empty.
        prop::collection::vec((change, 1..60usize), 0..60)
            .prop_map(|runs| runs.into_iter().flat_map(|(change, n)| std::iter::repeat_n(change, n)).collect())
    }

    fn assert_equal(tree: &Tree<u32>, model: &[u32]) {
        assert!(tree.iter().copied().eq(model.iter().copied()));
        assert!(tree.iter().rev().copied().eq(model.iter().rev().copied()));
    }

    proptest! {
        #[test]
        fn it_is_a_sorted_sequence(changes in changes()) {
            let (mut tree, mut model) = (Tree::default(), Vec::<u32>::new());
            let mut copies = Vec::new();
            for (turn, change) in changes.into_iter().enumerate() {
                match change {
                    Change::Insert(base) => {
                        // Each run walks on through the values, up or down.
                        let item = if base % 2 == 0 { base + turn as u32 } else { (base + 5000).saturating_sub(turn as u32) };
                        let at = tree.partition_point(item.key(), |other| *other < item);
                        prop_assert_eq!(at, model.partition_point(|other| *other < item));
                        tree.insert(at, item);
                        model.insert(at, item);
                    }
                    Change::Remove(at) if !model.is_empty() => {
                        let at = at.index(model.len());
                        prop_assert_eq!(tree.remove(at), model.remove(at));
                    }
                    Change::Update(at) if !model.is_empty() => {
                        let at = at.index(model.len());
                        // Inside its key, and still sorted.
                        let most = model.get(at + 1).copied().unwrap_or(u32::MAX).min(model[at] / 4 * 4 + 3);
                        tree.update(at, |item| *item = most);
                        model[at] = most;
                    }
                    Change::Cut(at, n) if !model.is_empty() => {
                        let at = at.index(model.len());
                        let end = (at + n).min(model.len());
                        tree.remove_range(at..end);
                        model.drain(at..end);
                    }
                    Change::Copy => copies.push((tree.clone(), model.clone())),
                    _ => {}
                }
            }
            tree.check();
            assert_equal(&tree, &model);
            // What was copied stayed as it was.
            for (copy, model) in &copies {
                copy.check();
                assert_equal(copy, model);
            }
        }

        #[test]
        fn ranges_and_seeks_agree_with_a_vector(
            n in 0..3000usize, ends in any::<[prop::sample::Index; 2]>(), takes in prop::collection::vec(any::<bool>(), 0..200),
        ) {
            let model: Vec<u32> = (0..n as u32).map(|i| i * 7 % 1000).collect();
            let tree: Tree<u32> = model.iter().copied().collect();
            let [a, b] = ends.map(|end| end.index(n + 1));
            let (start, end) = (a.min(b), a.max(b));
            let (mut items, mut expected) = (tree.range(start..end), model[start..end].iter());
            for front in takes {
                prop_assert_eq!(items.len(), expected.len());
                match front {
                    true => prop_assert_eq!(items.next(), expected.next()),
                    false => prop_assert_eq!(items.next_back(), expected.next_back()),
                }
            }
            prop_assert!(items.eq(expected));
            let mut passed = 0;
            for (at, item) in model.iter().enumerate() {
                for rest in 0..item.measure() {
                    prop_assert_eq!(tree.seek(passed + rest), Some((at, rest)));
                }
                passed += item.measure();
            }
            prop_assert_eq!(tree.seek(passed), None);
            prop_assert_eq!(tree.get(n), None);
        }
    }

    #[test]
    fn filled_in_order_its_leaves_are_full() {
        fn leaves(node: &Node<u32>) -> usize {
            match node {
                Node::Leaf(_) => 1,
                Node::Branch(children) => children.iter().map(|child| leaves(&child.node)).sum(),
            }
        }
        let up: Tree<u32> = (0..64_000).collect();
        assert_eq!(leaves(&up.root), 1000);
        let mut down = Tree::default();
        (0..64_000u32).rev().for_each(|item| down.insert(0, item));
        down.check();
        assert_eq!(leaves(&down.root), 1000);
        assert!(up == down);
    }

    #[test]
    fn emptied_bit_by_bit_it_keeps_no_sparse_leaves() {
        let mut tree: Tree<u32> = (0..64_000).collect();
        let mut at = 0;
        while tree.len() > 6400 {
            at = (at + 9) % tree.len();
            for _ in 0..9.min(tree.len() - at) {
                tree.remove(at);
            }
        }
        tree.check();
        let leaves = |tree: &Tree<u32>| {
            let mut at = 0;
            std::iter::from_fn(|| {
                let leaf = (at < tree.len()).then(|| tree.leaf(at).0.len())?;
                at += leaf;
                Some(leaf)
            })
            .count()
        };
        assert!(leaves(&tree) <= 6400 / 20, "{} leaves", leaves(&tree));
    }
}
