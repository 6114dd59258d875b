//! What is left of removed keys: for each slot the highest version that any of them had.
//!
//! Who watches a key that is not there has no version to compare. It remembers the state's version instead
//! ([`Seen::AbsentSince`]): every version given later is higher, so a key that came and went since has raised the number of
//! its slot above it. A key that is older when it goes raises nothing that anybody compares; one of another name in
//! the same slot does, and then a transaction is refused that could have run. That is the price of not remembering names.
//!
//! Replicated state: it is a function of the log, is in snapshots and in the hash of the state, and never falls.

use crate::types::{SLOTS, Slot};
use serde::{Deserialize, Serialize};

const PAGE: usize = 64;

/// See the head of this file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Removals {
    /// At least the version of every key that went when all went at once. The numbers of slots are above it, or 0.
    floor: u64,
    /// By slot. Pages of slots in which nothing was removed are not there, nor is the list before the first removal.
    pages: Vec<Option<Box<[u64; PAGE]>>>,
}

impl Removals {
    /// A key of this slot, which had this version, is gone.
    pub fn raise(&mut self, slot: Slot, version: u64) {
        if version <= self.floor {
            return;
        }
        if self.pages.is_empty() {
            self.pages = vec![None; SLOTS / PAGE];
        }
        let page = self.pages[usize::from(slot.0) / PAGE].get_or_insert_with(|| Box::new([0; PAGE]));
        let number = &mut page[usize::from(slot.0) % PAGE];
        *number = version.max(*number);
    }

    /// Every key is gone; none had a higher version than this.
    pub fn raise_all(&mut self, version: u64) {
        *self = Removals { floor: version.max(self.floor), pages: Vec::new() };
    }

    /// At least the version of every key of this slot that is gone.
    pub fn of(&self, slot: Slot) -> u64 {
        let page = self.pages.get(usize::from(slot.0) / PAGE).and_then(Option::as_ref);
        page.map_or(0, |page| page[usize::from(slot.0) % PAGE]).max(self.floor)
    }

    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// The slots in which keys went since all did, in order, with their numbers.
    pub fn slots(&self) -> impl Iterator<Item = (Slot, u64)> {
        let pages = self.pages.iter().enumerate().filter_map(|(at, page)| Some((at * PAGE, page.as_ref()?)));
        let slots =
            pages.flat_map(|(first, page)| page.iter().enumerate().map(move |(at, number)| (first + at, *number)));
        slots.filter(|(_, number)| *number > 0).map(|(slot, number)| (Slot(slot as u16), number))
    }
}

/// What was seen of a key, to be compared later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "i64", into = "i64")]
pub enum Seen {
    /// It was there with this version, which is its value's own.
    Version(u64),
    /// It was not there. Whether it came and went since does not matter.
    Absent,
    /// It was not there when the state had this version, and must not have been since.
    AbsentSince(u64),
}

impl Seen {
    /// As one number: a version, 0 for absence, and for absence since a version its negative, less one. Part of the
    /// log's format.
    pub fn number(self) -> i64 {
        match self {
            Seen::Version(version) => version as i64,
            Seen::Absent => 0,
            Seen::AbsentSince(version) => -(version as i64) - 1,
        }
    }

    /// What that number means.
    pub fn from_number(number: i64) -> Seen {
        match number {
            0 => Seen::Absent,
            1.. => Seen::Version(number as u64),
            // Exact for the smallest number too.
            _ => Seen::AbsentSince(!number as u64),
        }
    }
}

impl From<i64> for Seen {
    fn from(number: i64) -> Seen {
        Seen::from_number(number)
    }
}

impl From<Seen> for i64 {
    fn from(seen: Seen) -> i64 {
        seen.number()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Keyspace, Value};
    use super::*;
    use crate::state::cuckoo::Precision;
    use crate::types::Stamp;
    use std::convert::Infallible;

    #[test]
    fn what_was_seen_is_one_number() {
        for seen in [Seen::Version(1), Seen::Version(1 << 40), Seen::Absent, Seen::AbsentSince(0), Seen::AbsentSince(7)]
        {
            assert_eq!(Seen::from_number(seen.number()), seen);
        }
        assert_eq!([Seen::Version(3), Seen::Absent, Seen::AbsentSince(0)].map(Seen::number), [3, 0, -1]);
        assert_eq!(Seen::from_number(i64::MIN), Seen::AbsentSince(i64::MAX as u64));
    }

    fn set(keyspace: &mut Keyspace, key: &[u8], deadline: Option<u64>) {
        keyspace.set(key, Value::text(b"v"), deadline);
    }

    /// A way for `{t}k` to go, which was written a moment ago with a deadline at 100.
    type Way = fn(&mut Keyspace);

    #[test]
    fn a_key_that_came_and_went_is_noticed_however_it_went() {
        let ways: [(&str, Way); 6] = [
            ("removed", |keyspace| assert!(keyspace.remove(b"{t}k"))),
            ("taken", |keyspace| assert!(keyspace.take(b"{t}k").is_some())),
            ("evicted", |keyspace| {
                let version = keyspace.get(b"{t}k").unwrap().version();
                assert!(keyspace.evict(b"{t}k", version));
            }),
            ("cleared", Keyspace::clear),
            ("dead", |keyspace| keyspace.advance(&Stamp { now_ms: 100, seed: 0 })),
            ("swept", |keyspace| {
                keyspace.advance(&Stamp { now_ms: 100, seed: 0 });
                let due = keyspace.due_ranges(100, 8);
                assert_eq!(keyspace.sweep(&due), 1);
            }),
        ];
        for (how, go) in ways {
            let mut keyspace = Keyspace::new(7);
            set(&mut keyspace, b"{t}old", None);
            let before = keyspace.see(b"{t}k");
            assert_eq!(before, Seen::AbsentSince(1));
            assert!(keyspace.is_as_seen(b"{t}k", before));
            set(&mut keyspace, b"{t}k", Some(100));
            assert!(!keyspace.is_as_seen(b"{t}k", before), "{how}: it is there");
            go(&mut keyspace);
            assert!(!keyspace.contains(b"{t}k"), "{how}");
            assert!(!keyspace.is_as_seen(b"{t}k", before), "{how}: it was there");
            assert!(keyspace.is_as_seen(b"{t}k", Seen::Absent), "{how}");
            assert!(keyspace.is_as_seen(b"{t}k", keyspace.see(b"{t}k")), "{how}: from now on");
            // Keys of other slots are watched by their own, unless all went.
            assert_eq!(keyspace.is_as_seen(b"{u}k", before), how != "cleared", "{how}");
        }
    }

    #[test]
    fn keys_that_were_old_when_it_was_watched_may_go() {
        let mut keyspace = Keyspace::new(7);
        for key in [&b"{t}a"[..], b"{t}b", b"{t}c"] {
            set(&mut keyspace, key, Some(100));
        }
        let before = keyspace.see(b"{t}k");
        assert!(keyspace.remove(b"{t}a"));
        keyspace.advance(&Stamp { now_ms: 100, seed: 0 });
        let due = keyspace.due_ranges(100, 8);
        assert_eq!(keyspace.sweep(&due), 2);
        assert!(keyspace.is_as_seen(b"{t}k", before));
        let mut keyspace = Keyspace::new(7);
        set(&mut keyspace, b"{t}a", None);
        let before = keyspace.see(b"{t}k");
        keyspace.clear();
        assert!(keyspace.is_as_seen(b"{t}k", before), "nothing was written since");
    }

    /// Dead when it was watched, and swept behind that: it did not come and go.
    #[test]
    fn a_key_that_was_dead_already_may_be_swept() {
        let mut keyspace = Keyspace::new(7);
        set(&mut keyspace, b"k", Some(100));
        keyspace.advance(&Stamp { now_ms: 100, seed: 0 });
        let before = keyspace.see(b"k");
        let due = keyspace.due_ranges(100, 8);
        assert_eq!(keyspace.sweep(&due), 1);
        assert!(keyspace.is_as_seen(b"k", before));
    }

    #[test]
    fn it_is_part_of_the_state() {
        let mut keyspace = Keyspace::new(7);
        for (round, key) in [b"{a}1", b"{b}1", b"{c}1"].into_iter().enumerate() {
            set(&mut keyspace, key, None);
            if round == 0 {
                keyspace.clear();
            }
            keyspace.remove(key);
        }
        set(&mut keyspace, b"{d}1", None);
        let head = keyspace.begin_cut().to_bytes();
        let mut images = Vec::new();
        while let Some(more) = keyspace.cut_next(1 << 20) {
            images.extend(more.into_iter().map(|image| Ok::<_, Infallible>(image.into_bytes())));
        }
        let restored = Keyspace::restore(&head, images.into_iter(), Precision::default()).unwrap();
        for key in [&b"{a}k"[..], b"{b}k", b"{c}k", b"{d}k"] {
            for version in 0..=keyspace.version() {
                let seen = Seen::AbsentSince(version);
                assert_eq!(restored.is_as_seen(key, seen), keyspace.is_as_seen(key, seen), "{key:?} since {version}");
            }
        }
        assert!(!restored.is_as_seen(b"{c}k", Seen::AbsentSince(4)));
        assert_eq!(restored.state_hash(), keyspace.state_hash());
        // Two states that agree in all else differ.
        let mut other = Keyspace::new(7);
        set(&mut other, b"{x}1", None);
        let mut one = Keyspace::new(7);
        set(&mut one, b"{y}1", None);
        other.remove(b"{x}1");
        one.remove(b"{y}1");
        assert_ne!(one.state_hash(), other.state_hash());
    }
}
