//! SLOWLOG: the last commands that took longer than a threshold from being read to being answered.
//!
//! A replicated command's time includes its quorum. Arguments are copied and cut, so that an entry never keeps a
//! connection's buffer alive.

use crate::commands::node::SlowEntry;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::VecDeque;

/// Longest piece of an argument that is kept.
const ARG_BYTES_MAX: usize = 128;
/// Most arguments that are kept.
const ARGS_MAX: usize = 32;
/// Most entries, whatever is configured.
pub const ENTRIES_MAX: usize = 10_000;

#[derive(Default)]
pub struct SlowLog {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    next: u64,
    /// The newest last.
    entries: VecDeque<SlowEntry>,
}

impl SlowLog {
    /// Keeps an entry and lets the oldest go beyond `keep`; its `id` is given here.
    pub(super) fn push(&self, mut entry: SlowEntry, keep: usize) {
        let cut = |a: &Bytes| Bytes::copy_from_slice(&a[..a.len().min(ARG_BYTES_MAX)]);
        entry.args = entry.args.iter().take(ARGS_MAX).map(cut).collect();
        let mut inner = self.inner.lock();
        entry.id = inner.next;
        inner.next += 1;
        inner.entries.push_back(entry);
        while inner.entries.len() > keep.min(ENTRIES_MAX) {
            inner.entries.pop_front();
        }
    }

    pub(super) fn newest(&self, max: usize) -> Vec<SlowEntry> {
        self.inner.lock().entries.iter().rev().take(max).cloned().collect()
    }

    pub(super) fn len(&self) -> usize {
        self.inner.lock().entries.len()
    }

    pub(super) fn reset(&self) {
        self.inner.lock().entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(arg: Bytes) -> SlowEntry {
        SlowEntry { id: 0, unix_s: 0, usec: 0, args: vec![arg], peer: String::new(), client_name: String::new() }
    }

    #[test]
    fn the_oldest_go_first_and_numbers_go_on_after_a_reset() {
        let log = SlowLog::default();
        (0..5).for_each(|_| log.push(entry(Bytes::new()), 3));
        assert_eq!(log.newest(2).iter().map(|e| e.id).collect::<Vec<_>>(), [4, 3]);
        assert_eq!(log.len(), 3);
        log.reset();
        log.push(entry(Bytes::new()), 3);
        assert_eq!(log.newest(9)[0].id, 5);
    }

    #[test]
    fn long_arguments_are_cut() {
        let log = SlowLog::default();
        log.push(entry(Bytes::from(vec![b'x'; 5000])), 3);
        assert_eq!(log.newest(1)[0].args[0].len(), ARG_BYTES_MAX);
    }
}
