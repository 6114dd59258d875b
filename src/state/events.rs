//! What apply tells those outside the state: keyspace notifications, and which keys changed.
//!
//! Off unless somebody wants it, and then one comparison a call. Never replicated, in no hash and no snapshot; nothing in
//! here may decide what apply does.
//!
//! **For whoever writes a command:** say what happened, as Redis says it, where it has happened:
//!
//! ```text
//! keyspace.notify(Class::String, "append", &key);        the event, after the change
//! keyspace.notify_change(Class::List, "lpop", &key);     the same, and `del` if the key went with its last element
//! keyspace.notify_since(version, ..)                     the same if anything changed since `keyspace.version()` was this
//! generic::delete(keyspace, &key)                        removes a key and tells `del`
//! ```
//!
//! Not said by commands, because the keyspace sees it by itself: `new`, `expired` and `evicted` of any key, and that a key
//! changed at all, which is what client-side caches are told. A command that changed nothing says nothing.

use crate::types::Author;
use bytes::Bytes;

/// A class of events, as the letters of notify-keyspace-events choose them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    Generic = b'g',
    String = b'$',
    List = b'l',
    Set = b's',
    Hash = b'h',
    SortedSet = b'z',
    Expired = b'x',
    Evicted = b'e',
    Stream = b't',
    Module = b'd',
    New = b'n',
    Miss = b'm',
}

/// In the order in which Redis shows them; those up to `Module` are `A`.
const CLASSES: [Class; 12] = [
    Class::Generic,
    Class::String,
    Class::List,
    Class::Set,
    Class::Hash,
    Class::SortedSet,
    Class::Expired,
    Class::Evicted,
    Class::Stream,
    Class::Module,
    Class::New,
    Class::Miss,
];
/// Bits of `A`: the first ten of [`CLASSES`].
const ALL: u16 = (1 << 10) - 1;
/// `__keyspace@0__:<key>` is told the event.
const KEYSPACE: u16 = 1 << 14;
/// `__keyevent@0__:<event>` is told the key.
const KEYEVENT: u16 = 1 << 15;

/// What notify-keyspace-events says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Classes(u16);

impl Class {
    fn bit(self) -> u16 {
        let place = CLASSES.iter().position(|class| *class == self).expect("every class is in the list");
        1 << place
    }
}

impl Classes {
    /// None if there is a letter that means nothing.
    pub fn parse(text: &str) -> Option<Classes> {
        let bit = |letter: char| match letter {
            'A' => Some(ALL),
            'K' => Some(KEYSPACE),
            'E' => Some(KEYEVENT),
            letter => CLASSES.iter().find(|class| char::from(**class as u8) == letter).map(|class| class.bit()),
        };
        text.chars().try_fold(0, |bits, letter| Some(bits | bit(letter)?)).map(Classes)
    }

    /// The same as letters, in Redis' order.
    pub fn letters(self) -> String {
        let all = self.0 & ALL == ALL;
        let shown = |class: &&Class| self.0 & class.bit() != 0 && !(all && class.bit() & ALL != 0);
        let (last, first): (Vec<Class>, Vec<Class>) =
            CLASSES.iter().filter(shown).partition(|class| **class == Class::Miss);
        let letters =
            |classes: Vec<Class>| classes.into_iter().map(|class| char::from(class as u8)).collect::<String>();
        let sign = |bit, letter| if self.0 & bit != 0 { letter } else { "" };
        [if all { "A" } else { "" }, &letters(first), sign(KEYSPACE, "K"), sign(KEYEVENT, "E"), &letters(last)].concat()
    }

    /// Whether an event of this class goes anywhere.
    pub fn has(self, class: Class) -> bool {
        self.0 & (KEYSPACE | KEYEVENT) != 0 && self.0 & class.bit() != 0
    }

    /// Whether `__keyspace@0__:<key>` is told.
    pub fn keyspace(self) -> bool {
        self.0 & KEYSPACE != 0
    }

    /// Whether `__keyevent@0__:<event>` is told.
    pub fn keyevent(self) -> bool {
        self.0 & KEYEVENT != 0
    }

    pub fn bits(self) -> u16 {
        self.0
    }

    pub fn from_bits(bits: u16) -> Classes {
        Classes(bits)
    }
}

/// What somebody wants to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    pub events: Classes,
    /// Which keys changed.
    pub changes: bool,
}

/// Something happened to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub name: &'static str,
    pub key: Bytes,
}

/// A key changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub key: Bytes,
    /// Who did it, where that was told: who does not want to hear of it.
    pub by: Option<Author>,
}

/// What there is to tell of an entry, in the order in which it happened.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    pub events: Vec<Event>,
    /// A key that the same author changed more than once in a row is named once.
    pub changed: Vec<Change>,
    /// Every key is gone.
    pub cleared: bool,
}

impl Record {
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.changed.is_empty() && !self.cleared
    }
}

/// Where it is noted.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    wanted: Wanted,
    /// Who makes the changes that come now.
    author: Option<Author>,
    record: Record,
}

impl Recorder {
    /// From now on, and what happens is nobody's until an author is named.
    pub fn want(&mut self, wanted: Wanted) {
        self.wanted = wanted;
        self.author = None;
    }

    pub fn name_author(&mut self, author: Option<Author>) {
        self.author = author;
    }

    /// Whether anything is wanted.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.wanted != Wanted::default()
    }

    #[inline]
    pub fn event(&mut self, class: Class, name: &'static str, key: &[u8]) {
        if self.wanted.events.0 != 0 && self.wanted.events.has(class) {
            self.record.events.push(Event { name, key: Bytes::copy_from_slice(key) });
        }
    }

    #[inline]
    pub fn change(&mut self, key: &[u8]) {
        let known = |last: &Change| last.key == key && last.by == self.author;
        if self.wanted.changes && !self.record.changed.last().is_some_and(known) {
            self.record.changed.push(Change { key: Bytes::copy_from_slice(key), by: self.author });
        }
    }

    pub fn cleared(&mut self) {
        self.record.cleared |= self.wanted.changes;
    }

    pub fn take(&mut self) -> Option<Record> {
        (!self.record.is_empty()).then(|| std::mem::take(&mut self.record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Redis 7 shows them, but that it forgets `n` beside `A`.
    #[test]
    fn letters_are_read_and_shown_as_in_redis() {
        for (given, shown) in [
            ("", ""),
            ("AKE", "AKE"),
            ("KEA", "AKE"),
            ("KEmnlst", "lstnKEm"),
            ("KElsghzxetd$", "AKE"),
            ("x", "x"),
            ("EAn", "AnE"),
        ] {
            assert_eq!(Classes::parse(given).unwrap().letters(), shown, "{given}");
            assert_eq!(Classes::parse(shown), Classes::parse(given));
        }
        assert_eq!(Classes::parse("Kq"), None);
    }

    #[test]
    fn a_class_without_a_place_to_tell_it_is_not_wanted() {
        assert!(!Classes::parse("x").unwrap().has(Class::Expired));
        assert!(Classes::parse("Ex").unwrap().has(Class::Expired));
        assert!(Classes::parse("KA").unwrap().has(Class::Module));
        assert!(!Classes::parse("KA").unwrap().has(Class::New));
        assert!(!Classes::parse("KEA").unwrap().has(Class::Miss));
    }
}
