//! ACL LOG: what was refused on this node, the newest first. Alike refusals within a minute are one entry with a count.
//!
//! Bounded by its length and by the bytes of an entry, so that nobody can fill a node's memory by being refused.

use super::check::Reason;
use bytes::Bytes;
use std::collections::VecDeque;

/// Refusals that are alike are one entry for so long.
const GROUPED_MS: u64 = 60_000;
/// How many of the newest entries are compared with a new one.
const COMPARED: usize = 10;
/// Longest object or name that is kept.
const TEXT_BYTES_MAX: usize = 1024;

/// Where a command was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Context {
    Toplevel,
    Multi,
    Lua,
}

impl Context {
    /// As ACL LOG says it.
    pub fn name(self) -> &'static str {
        match self {
            Context::Toplevel => "toplevel",
            Context::Multi => "multi",
            Context::Lua => "lua",
        }
    }
}

/// A refusal as it happens.
#[derive(Debug, Clone)]
pub struct Event {
    pub reason: Reason,
    pub context: Context,
    /// The command, key or channel that was refused.
    pub object: Bytes,
    pub username: String,
    /// The client as CLIENT LIST shows it.
    pub client: String,
}

/// A line of ACL LOG.
#[derive(Debug, Clone)]
pub struct Entry {
    pub id: u64,
    pub count: u64,
    /// The last one of these.
    pub event: Event,
    /// Unix time of the first and of the last.
    pub created_ms: u64,
    pub updated_ms: u64,
}

#[derive(Debug, Default)]
pub(super) struct Log {
    next: u64,
    /// The newest first.
    entries: VecDeque<Entry>,
}

impl Log {
    /// Notes a refusal and forgets the oldest beyond `keep`. How often it happened lately, this time included.
    pub fn push(&mut self, now_ms: u64, mut event: Event, keep: usize) -> u64 {
        event.object = Bytes::copy_from_slice(&event.object[..event.object.len().min(TEXT_BYTES_MAX)]);
        event.username.truncate(event.username.floor_char_boundary(TEXT_BYTES_MAX));
        let alike = |entry: &Entry| {
            let known = &entry.event;
            (known.reason, known.context) == (event.reason, event.context)
                && known.object == event.object
                && known.username == event.username
                && entry.updated_ms.abs_diff(now_ms) <= GROUPED_MS
        };
        let found = self.entries.iter().take(COMPARED).position(alike).and_then(|at| self.entries.remove(at));
        let entry = match found {
            Some(known) => Entry { count: known.count + 1, event, updated_ms: now_ms, ..known },
            None => {
                let id = self.next;
                self.next += 1;
                Entry { id, count: 1, event, created_ms: now_ms, updated_ms: now_ms }
            }
        };
        let count = entry.count;
        self.entries.push_front(entry);
        self.entries.truncate(keep);
        count
    }

    pub fn newest(&self, max: usize) -> Vec<Entry> {
        self.entries.iter().take(max).cloned().collect()
    }

    pub fn clear(&mut self) {
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(object: &str) -> Event {
        Event {
            reason: Reason::Key,
            context: Context::Toplevel,
            object: Bytes::copy_from_slice(object.as_bytes()),
            username: "alice".to_owned(),
            client: String::new(),
        }
    }

    #[test]
    fn alike_refusals_within_a_minute_are_one_entry() {
        let mut log = Log::default();
        assert_eq!(
            [log.push(0, event("a"), 9), log.push(1, event("b"), 9), log.push(60_000, event("a"), 9)],
            [1, 1, 2]
        );
        let entries = log.newest(9);
        let seen: Vec<_> = entries.iter().map(|e| (e.id, e.count, e.created_ms, e.updated_ms)).collect();
        assert_eq!(seen, [(0, 2, 0, 60_000), (1, 1, 1, 1)]);
        assert_eq!(log.push(120_001, event("a"), 9), 1);
        assert_eq!(log.newest(9).len(), 3);
    }

    #[test]
    fn no_more_than_wanted_are_kept_and_none_is_large() {
        let mut log = Log::default();
        for n in 0..20 {
            log.push(n, event(&format!("{n}{}", "x".repeat(5000))), 3);
        }
        let entries = log.newest(9);
        assert_eq!(entries.iter().map(|e| e.id).collect::<Vec<_>>(), [19, 18, 17]);
        assert_eq!(entries[0].event.object.len(), TEXT_BYTES_MAX);
        log.clear();
        assert!(log.newest(9).is_empty());
        log.push(0, event("a"), 0);
        assert!(log.newest(9).is_empty());
    }
}
