//! `s3-fifo` and `fifo`: queues in the order of arrival.
//!
//! ```text
//!              left lately? -- yes -------------------.
//!   new key ---+                                      v
//!              '- no --> small (a tenth of the keys) --> main --.   hit since it came by: once more round,
//!                             |         hit twice          ^    |   less one hit
//!                             v                            '----+
//!                           leaves,                             v
//!                           remembered as a ghost             leaves, remembered too
//! ```
//!
//! Yang et al., "FIFO queues are all you need for cache eviction" (SOSP 2023). Sizes are counted in keys, not in bytes.
//! One difference: there only the small queue's victims become ghosts. Those of the main queue are remembered as well, which
//! is worth 0.1 points, and more after a change of leader, when the main queue holds keys that nobody knows.
//!
//! Where a key stands is in its mark (`recency.rs`): queue and tag. A row that disagrees with its key's mark is stale.

use super::ghost::Ghost;
use super::queue::Queue;
use super::recency::HITS_MAX;
use super::walk::Walk;
use super::{Candidates, Policy, Row};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Hits after which a key of the small queue moves to the main one instead of leaving.
const PROMOTE: u32 = 2;
/// Before this share of the keys has left, one hit is enough: there are no ghosts yet that would bring a key back.
const COLD_PERCENT: u64 = 30;
/// Adopted keys that were written no longer ago than so many changes, as a share of the keys, count as new. Where memory is
/// full a new key is two changes: another one leaves for it. Measured with leaders that changed ten times a trace: 0 costs up
/// to 4 points of hit ratio, 60 up to 2.1, 120 up to 1.4, 200 a little more.
const YOUNG_PERCENT: u64 = 120;
/// The small queue has this part of the keys.
const SMALL_PART: u64 = 10;
/// Rows that one choice looks at before it takes what comes.
const LOOK_MAX: usize = 256;
/// Steps that one choice walks, at most, when the queues are empty.
const STEPS_MAX: usize = 16;
/// Rows beyond twice the keys before stale ones are dropped.
const STALE_SLACK: u64 = 4096;
/// Keys that no queue may know of without anybody looking for them, beside a 64th of all.
const STRAY_SLACK: u64 = 16;
/// New keys for each piece that is tidied.
const KEYS_A_PIECE: usize = 128;

const QUEUE_SHIFT: u32 = 2;
const QUEUE_MASK: u32 = 0b11 << QUEUE_SHIFT;
const SMALL: u32 = 1 << QUEUE_SHIFT;
const MAIN: u32 = 2 << QUEUE_SHIFT;
const TAG_SHIFT: u32 = 4;

fn hits(mark: u32) -> u32 {
    mark & HITS_MAX
}

fn place(queue: u32, tag: u8, hits: u32) -> u32 {
    u32::from(tag) << TAG_SHIFT | queue | hits
}

fn stands(mark: u32, queue: u32, tag: u8) -> bool {
    mark & QUEUE_MASK == queue && (mark >> TAG_SHIFT) as u8 == tag
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct S3Fifo {
    small: Queue,
    main: Queue,
    ghost: Ghost,
    walk: Walk,
    tag: u8,
    tidied_small: bool,
    /// Keys that were chosen so far.
    left: u64,
}

impl S3Fifo {
    fn tag(&mut self) -> u8 {
        self.tag = self.tag.wrapping_add(1);
        self.tag
    }

    fn remembered(keys: &dyn Candidates) -> u64 {
        keys.len() - keys.len() / SMALL_PART
    }

    /// Hits that move a key to the main queue.
    fn promote(&self, keys: &dyn Candidates) -> u32 {
        if self.left < keys.len() * COLD_PERCENT / 100 { 1 } else { PROMOTE }
    }

    /// Puts keys of the next units that no queue knows into one: what was written lately was in the small one, more likely
    /// than not.
    fn adopt(&mut self, keys: &dyn Candidates) {
        let (small, main, tag) = (&mut self.small, &mut self.main, &mut self.tag);
        let young = keys.len() * YOUNG_PERCENT / 100;
        self.walk.step(keys, &mut |row, mark| {
            let known = mark.load(Relaxed);
            if known & QUEUE_MASK == 0 && keys.may_leave(row) {
                *tag = tag.wrapping_add(1);
                let (queue, rows) = if keys.age(row) < young { (SMALL, &mut *small) } else { (MAIN, &mut *main) };
                mark.store(place(queue, *tag, hits(known)), Relaxed);
                rows.push(row, *tag);
            }
        });
    }

    /// Looks at the next row. `force`: hits do not save it any more.
    fn look(&mut self, keys: &dyn Candidates, force: bool) -> Option<Row> {
        let from_small = self.main.is_empty() || self.small.len() as u64 > keys.len() / SMALL_PART;
        let (queue, popped) = match from_small {
            true => (SMALL, self.small.pop()),
            false => (MAIN, self.main.pop()),
        };
        let (row, tag) = popped?;
        let mark = keys.mark(row).filter(|mark| stands(mark.load(Relaxed), queue, tag))?;
        if keys.rests(row) {
            mark.store(0, Relaxed);
            return None;
        }
        let hits = hits(mark.load(Relaxed));
        let saved = match queue {
            SMALL => hits >= self.promote(keys),
            _ => hits > 0,
        };
        if (saved && !force) || !keys.may_leave(row) {
            let tag = self.tag();
            let hits = if queue == MAIN { hits.saturating_sub(1) } else { 0 };
            mark.store(place(MAIN, tag, hits), Relaxed);
            self.main.push(row, tag);
            return None;
        }
        mark.store(0, Relaxed);
        self.left += 1;
        self.ghost.insert(row, Self::remembered(keys));
        Some(row)
    }
}

impl Policy for S3Fifo {
    fn inserted(&mut self, row: Row, keys: &dyn Candidates) {
        let Some(mark) = keys.mark(row) else { return };
        let tag = self.tag();
        let (queue, rows) = match self.ghost.contains(row, Self::remembered(keys)) {
            true => (MAIN, &mut self.main),
            false => (SMALL, &mut self.small),
        };
        mark.store(place(queue, tag, hits(mark.load(Relaxed))), Relaxed);
        rows.push(row, tag);
    }

    fn victim(&mut self, keys: &dyn Candidates) -> Option<Row> {
        let mut walked = 0;
        for looked in 0..2 * LOOK_MAX {
            // New keys must not leave for no better reason than that the old ones are not known yet.
            while self.main.is_empty() && self.small.len() as u64 <= keys.len() / SMALL_PART && walked < STEPS_MAX {
                walked += 1;
                self.adopt(keys);
            }
            if self.main.is_empty() && self.small.is_empty() {
                return None;
            }
            let found = self.look(keys, looked >= LOOK_MAX);
            if found.is_some() {
                return found;
            }
        }
        None
    }

    fn tend(&mut self, inserted: usize, keys: &dyn Candidates) {
        let (rows, len) = (self.small.len() as u64 + self.main.len() as u64, keys.len());
        if rows + len / 64 + STRAY_SLACK < len {
            self.adopt(keys);
        }
        if rows > 2 * len + STALE_SLACK {
            for _ in 0..=inserted / KEYS_A_PIECE {
                self.tidied_small = !self.tidied_small;
                let (queue, rows) = if self.tidied_small { (SMALL, &mut self.small) } else { (MAIN, &mut self.main) };
                rows.tidy(|row, tag| keys.mark(row).is_some_and(|mark| stands(mark.load(Relaxed), queue, tag)));
            }
        }
    }
}

/// `fifo`: who came first goes first, whatever happened since.
#[derive(Debug, Default)]
pub(super) struct Fifo {
    queue: Queue,
    walk: Walk,
    tag: u8,
}

impl Fifo {
    fn adopt(&mut self, keys: &dyn Candidates) {
        let (queue, tag) = (&mut self.queue, &mut self.tag);
        self.walk.step(keys, &mut |row, mark| {
            if mark.load(Relaxed) & QUEUE_MASK == 0 && keys.may_leave(row) {
                enqueue(queue, tag, row, mark);
            }
        });
    }
}

fn enqueue(queue: &mut Queue, tag: &mut u8, row: Row, mark: &AtomicU32) {
    *tag = tag.wrapping_add(1);
    mark.store(place(SMALL, *tag, 0), Relaxed);
    queue.push(row, *tag);
}

impl Policy for Fifo {
    fn inserted(&mut self, row: Row, keys: &dyn Candidates) {
        if let Some(mark) = keys.mark(row) {
            enqueue(&mut self.queue, &mut self.tag, row, mark);
        }
    }

    fn victim(&mut self, keys: &dyn Candidates) -> Option<Row> {
        let mut walked = 0;
        for _ in 0..LOOK_MAX {
            while self.queue.is_empty() {
                if walked == STEPS_MAX {
                    return None;
                }
                walked += 1;
                self.adopt(keys);
            }
            let Some((row, tag)) = self.queue.pop() else { continue };
            let Some(mark) = keys.mark(row).filter(|mark| stands(mark.load(Relaxed), SMALL, tag)) else { continue };
            let leaves = keys.may_leave(row);
            if leaves || keys.rests(row) {
                mark.store(0, Relaxed);
            }
            if leaves {
                return Some(row);
            }
            if keys.rests(row) {
                continue;
            }
            enqueue(&mut self.queue, &mut self.tag, row, mark);
        }
        None
    }

    fn tend(&mut self, inserted: usize, keys: &dyn Candidates) {
        let (rows, len) = (self.queue.len() as u64, keys.len());
        if rows + len / 64 + STRAY_SLACK < len {
            self.adopt(keys);
        }
        if rows > 2 * len + STALE_SLACK {
            for _ in 0..=inserted / KEYS_A_PIECE {
                self.queue.tidy(|row, tag| keys.mark(row).is_some_and(|mark| stands(mark.load(Relaxed), SMALL, tag)));
            }
        }
    }
}
