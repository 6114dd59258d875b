//! A first-in-first-out queue of rows, 8 bytes each, that may be told to forget.
//!
//! Rows go in and come out; a key that was deleted leaves its row behind. So a row carries a tag of eight bits, which its
//! key's mark carries too: a row whose key is gone, or came again later, is stale and is passed over when it comes out.
//! Where stale rows pile up (keys that are set and deleted again and again), [`Queue::tidy`] drops them from the middle.
//!
//! In pieces of [`PIECE`] rows, so that neither growing nor tidying ever touches more than a piece.

use super::Row;
use std::collections::VecDeque;

/// Rows of a piece.
const PIECE: usize = 512;
const TAG_SHIFT: u32 = 56;

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pieces: VecDeque<Vec<u64>>,
    /// Rows of the first piece that have come out.
    taken: usize,
    rows: usize,
    /// The piece to tidy next.
    next: usize,
}

impl Queue {
    /// Rows, stale ones included.
    pub fn len(&self) -> usize {
        self.rows
    }

    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    pub fn push(&mut self, row: Row, tag: u8) {
        if self.pieces.back().is_none_or(|piece| piece.len() == PIECE) {
            self.pieces.push_back(Vec::with_capacity(PIECE));
        }
        let piece = self.pieces.back_mut().expect("there is one with room");
        piece.push(row.0 | u64::from(tag) << TAG_SHIFT);
        self.rows += 1;
    }

    pub fn pop(&mut self) -> Option<(Row, u8)> {
        loop {
            let piece = self.pieces.front()?;
            if let Some(&word) = piece.get(self.taken) {
                self.taken += 1;
                self.rows -= 1;
                return Some(split(word));
            }
            self.taken = 0;
            self.next = self.next.saturating_sub(1);
            self.pieces.pop_front();
        }
    }

    /// Drops the stale rows of one piece.
    pub fn tidy(&mut self, fresh: impl Fn(Row, u8) -> bool) {
        // The first piece is partly out and the last one is being filled: both are left alone.
        self.next = if self.next + 2 >= self.pieces.len() { 1 } else { self.next + 1 };
        if self.next + 1 >= self.pieces.len() {
            return;
        }
        let piece = &mut self.pieces[self.next];
        let before = piece.len();
        piece.retain(|&word| {
            let (row, tag) = split(word);
            fresh(row, tag)
        });
        self.rows -= before - piece.len();
        if piece.is_empty() {
            self.pieces.remove(self.next);
        } else {
            piece.shrink_to_fit();
        }
    }
}

fn split(word: u64) -> (Row, u8) {
    (Row(word & !(0xff << TAG_SHIFT)), (word >> TAG_SHIFT) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Slot;

    fn row(n: u64) -> Row {
        Row::new(Slot((n % 16_384) as u16), n << 22)
    }

    #[test]
    fn rows_come_out_as_they_went_in_across_pieces() {
        let mut queue = Queue::default();
        for n in 0..3 * PIECE as u64 + 7 {
            queue.push(row(n), n as u8);
            if n % 3 == 2 {
                assert_eq!(queue.pop(), Some((row(n / 3), (n / 3) as u8)));
            }
        }
        let mut expected = PIECE as u64 + 2;
        while let Some((found, tag)) = queue.pop() {
            assert_eq!((found, tag), (row(expected), expected as u8));
            expected += 1;
        }
        assert_eq!((expected, queue.len()), (3 * PIECE as u64 + 7, 0));
    }

    #[test]
    fn tidying_drops_what_is_stale_and_keeps_the_order() {
        let mut queue = Queue::default();
        let all = 10 * PIECE as u64;
        (0..all).for_each(|n| queue.push(row(n), 0));
        let fresh = |found: Row, _: u8| (0..all).step_by(97).any(|n| row(n) == found);
        (0..10).for_each(|_| queue.tidy(fresh));
        assert!(queue.len() < 2 * PIECE + 100, "{}", queue.len());
        let left: Vec<Row> = std::iter::from_fn(|| queue.pop()).map(|(row, _)| row).filter(|r| fresh(*r, 0)).collect();
        assert_eq!(left, (0..all).step_by(97).map(row).collect::<Vec<_>>());
    }

    #[test]
    fn pieces_that_tidying_empties_go() {
        let mut queue = Queue::default();
        (0..100 * PIECE as u64).for_each(|n| queue.push(row(n), 0));
        (0..200).for_each(|_| queue.tidy(|_, _| false));
        assert!(queue.pieces.len() <= 2 && queue.len() == 2 * PIECE, "{} {}", queue.pieces.len(), queue.len());
    }
}
