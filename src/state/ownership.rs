//! Which slots a group answers for, by its own log alone, and the handover that is under way.
//!
//! ```text
//! source   owned ---- freeze ----> frozen ---- drop ------> departed (keys wait to be cleared)
//!                                     '------- unfreeze --> owned
//! target   ------- expect ----> arriving (install*) ---- activate --> owned
//!                                     '------- discard --> departed (keys wait to be cleared)
//! ```
//!
//! A group in which no slot ever moved keeps nothing here and answers for all that it is asked for: who routes knows no
//! better than its founders did. From its first handover on it has the set of slots that it owns.
//!
//! Invariants:
//! - one handover at a time; their numbers rise over the whole cluster, and what is said of one that has ended here, or of
//!   one before it, changes nothing any more: a message that comes late does no harm;
//! - a slot is answered for iff it is owned and not frozen; an arriving slot is never owned;
//! - what lies in a slot that is frozen, arriving or departed neither expires nor is evicted;
//! - a set that [`Ownership::serves`] looks at is derived from the rest and in no snapshot.

use super::collections::body::put_number;
use crate::types::{SLOTS, Slot};
use std::fmt;
use std::str::FromStr;

const WORDS: usize = SLOTS / 64;

/// Some of the slots.
#[derive(Clone, PartialEq, Eq)]
pub struct SlotSet(Box<[u64; WORDS]>);

impl Default for SlotSet {
    fn default() -> SlotSet {
        SlotSet(Box::new([0; WORDS]))
    }
}

impl SlotSet {
    pub fn has(&self, slot: Slot) -> bool {
        self.0[usize::from(slot.0) / 64 % WORDS] >> (slot.0 % 64) & 1 != 0
    }

    pub fn insert(&mut self, slot: Slot) {
        self.0[usize::from(slot.0) / 64 % WORDS] |= 1 << (slot.0 % 64);
    }

    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    fn each(&mut self, other: &SlotSet, join: impl Fn(u64, u64) -> u64) {
        self.0.iter_mut().zip(other.0.iter()).for_each(|(word, other)| *word = join(*word, *other));
    }

    pub fn add(&mut self, other: &SlotSet) {
        self.each(other, |word, other| word | other);
    }

    pub fn remove(&mut self, other: &SlotSet) {
        self.each(other, |word, other| word & !other);
    }

    /// Whether all of these are in it.
    pub fn has_all(&self, other: &SlotSet) -> bool {
        self.0.iter().zip(other.0.iter()).all(|(word, other)| other & !word == 0)
    }

    /// Whether any of these is in it.
    pub fn has_any(&self, other: &SlotSet) -> bool {
        self.0.iter().zip(other.0.iter()).any(|(word, other)| word & other != 0)
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = Slot> {
        (0..SLOTS as u16).map(Slot).filter(|slot| self.has(*slot))
    }

    /// Runs of neighbours: the first and the last of each.
    pub fn ranges(&self) -> Vec<(Slot, Slot)> {
        let mut ranges: Vec<(Slot, Slot)> = Vec::new();
        for slot in self.iter() {
            match ranges.last_mut() {
                Some((_, last)) if last.0 + 1 == slot.0 => *last = slot,
                _ => ranges.push((slot, slot)),
            }
        }
        ranges
    }
}

impl FromIterator<Slot> for SlotSet {
    fn from_iter<I: IntoIterator<Item = Slot>>(slots: I) -> SlotSet {
        let mut set = SlotSet::default();
        slots.into_iter().for_each(|slot| set.insert(slot));
        set
    }
}

impl FromIterator<(Slot, Slot)> for SlotSet {
    fn from_iter<I: IntoIterator<Item = (Slot, Slot)>>(ranges: I) -> SlotSet {
        ranges.into_iter().flat_map(|(first, last)| (first.0..=last.0).map(Slot)).collect()
    }
}

/// `0-99,205`; nothing for none.
impl fmt::Display for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.ranges().into_iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            match first == last {
                true => write!(f, "{comma}{}", first.0)?,
                false => write!(f, "{comma}{}-{}", first.0, last.0)?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slots {self}")
    }
}

/// Why a text names no slots.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is neither a slot from 0 to 16383 nor a range of such, as in 0-99,205")]
pub struct NoSlots(String);

impl FromStr for SlotSet {
    type Err = NoSlots;

    fn from_str(text: &str) -> Result<SlotSet, NoSlots> {
        let slot = |word: &str| word.trim().parse::<u16>().ok().filter(|slot| usize::from(*slot) < SLOTS).map(Slot);
        let range = |word: &str| match word.split_once('-') {
            Some((first, last)) => Some((slot(first)?, slot(last)?)).filter(|(first, last)| first <= last),
            None => slot(word).map(|slot| (slot, slot)),
        };
        let words = text.split(',').filter(|_| !text.trim().is_empty());
        words.map(|word| range(word).ok_or_else(|| NoSlots(word.to_owned()))).collect()
    }
}

/// A place in what a source hands over: everything before it by (slot, the source's hash) was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub slot: Slot,
    pub hash: u64,
}

impl Place {
    /// Where telling begins.
    pub const FIRST: Place = Place { slot: Slot(0), hash: 0 };
}

/// Which end of a handover a group is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Source,
    /// What is expected next; none: all is here.
    Target(Option<Place>),
}

/// Slots on their way from one group to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handover {
    pub id: u64,
    pub slots: SlotSet,
    pub side: Side,
}

/// How far a handover has come in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It has ended here, in whichever way.
    Ended,
    /// The source is frozen; or the target has all there is.
    Whole,
    /// What the target expects next.
    Expects(Place),
}

/// How a handover ended in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum End {
    /// None ever did.
    #[default]
    Never,
    /// The target owns the slots.
    Activated,
    /// The source owns them no more.
    Dropped,
    /// It came to nothing, or was given up before it began here.
    Aborted,
}

impl End {
    /// In the order of their numbers in the format.
    const ALL: [End; 4] = [End::Never, End::Activated, End::Dropped, End::Aborted];
}

/// Why a step of a handover was not taken. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    #[error("handover {0} is under way in this group")]
    Other(u64),
    #[error("the group does not own all of these slots")]
    NotOwned,
    #[error("the group owns some of these slots")]
    Owned,
    #[error("keys of these slots wait to be cleared")]
    Leftovers,
    #[error("no such handover is under way in this group")]
    Unknown,
    #[error("not all of it has been installed")]
    Unfinished,
    #[error("what was handed over cannot be read")]
    Damaged,
}

/// See the head of this file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ownership {
    /// None: no slot ever moved.
    owned: Option<SlotSet>,
    handover: Option<Handover>,
    /// The last handover that ended here, and how.
    ended: u64,
    end: End,
    /// Owned and not frozen.
    serving: Option<SlotSet>,
}

impl Ownership {
    /// Whether there is anything that it does not answer for; if not, nobody needs to ask.
    pub fn guards(&self) -> bool {
        self.serving.is_some()
    }

    /// Whether it answers for a slot now.
    pub fn serves(&self, slot: Slot) -> bool {
        self.serving.as_ref().is_none_or(|serving| serving.has(slot))
    }

    /// Whether what lies in a slot belongs to the group's keys: it may be frozen.
    pub fn owns(&self, slot: Slot) -> bool {
        self.owned.as_ref().is_none_or(|owned| owned.has(slot))
    }

    /// Whether every slot is its own.
    pub fn owns_all(&self) -> bool {
        self.owned.as_ref().is_none_or(|owned| owned.len() == SLOTS)
    }

    /// Slots that it owns; none if no slot ever moved.
    pub fn owned(&self) -> Option<&SlotSet> {
        self.owned.as_ref()
    }

    pub fn handover(&self) -> Option<&Handover> {
        self.handover.as_ref()
    }

    /// The first slot behind this one that is not the group's; none if there is none, or if this one is not. What lies behind
    /// may be another group's, and is not to be passed over as if nothing was there.
    pub fn border(&self, slot: Slot) -> Option<Slot> {
        let owned = self.owned.as_ref().filter(|owned| owned.has(slot))?;
        (slot.0..SLOTS as u16).map(Slot).find(|slot| !owned.has(*slot))
    }

    /// The highest number of a handover that this group has heard of.
    pub fn last(&self) -> u64 {
        self.handover.as_ref().map_or(0, |of| of.id).max(self.ended)
    }

    /// How many slots are frozen.
    pub fn frozen(&self) -> usize {
        self.handover.as_ref().filter(|of| of.side == Side::Source).map_or(0, |of| of.slots.len())
    }

    /// Whether a slot is on its way to this group.
    fn arrives(&self, slot: Slot) -> bool {
        self.handover.as_ref().is_some_and(|of| matches!(of.side, Side::Target(_)) && of.slots.has(slot))
    }

    /// Whether what lies in a slot is nobody's and may be cleared away.
    pub(super) fn departed(&self, slot: Slot) -> bool {
        !self.owns(slot) && !self.arrives(slot)
    }

    fn derive(&mut self) {
        self.serving = self.owned.clone();
        if let (Some(serving), Some(Handover { slots, side: Side::Source, .. })) = (&mut self.serving, &self.handover) {
            serving.remove(slots);
        }
    }

    /// Says what the group owned before its first handover; later nothing happens. Whether it did.
    pub(super) fn found(&mut self, slots: SlotSet) -> bool {
        if self.owned.is_some() {
            return false;
        }
        self.owned = Some(slots);
        self.derive();
        true
    }

    /// The handover of this number: none if it has ended, an error if another one is under way or none.
    fn current(&self, id: u64) -> Result<Option<&Handover>, NotTaken> {
        match &self.handover {
            _ if id <= self.ended => Ok(None),
            Some(of) if of.id == id => Ok(Some(of)),
            Some(of) => Err(NotTaken::Other(of.id)),
            None => Err(NotTaken::Unknown),
        }
    }

    fn begin(&mut self, handover: Handover) {
        self.handover = Some(handover);
        self.derive();
    }

    fn end(&mut self, id: u64, how: End) {
        self.handover = None;
        (self.ended, self.end) = (id, how);
        self.derive();
    }

    /// The answer to a last step that is said again. Whoever asks for it when the last handover ended otherwise takes this
    /// group for one that it is not: nothing may be built on that.
    fn ended_as(&self, id: u64, how: End) -> Result<(Progress, bool), NotTaken> {
        match id == self.ended && self.end != how {
            true => Err(NotTaken::Unknown),
            false => Ok((Progress::Ended, false)),
        }
    }

    /// The source's slots are answered for no more. `true` in the answer: that is new.
    pub(super) fn freeze(&mut self, id: u64, slots: SlotSet) -> Result<(Progress, bool), NotTaken> {
        match self.current(id) {
            Ok(None) => Ok((Progress::Ended, false)),
            Ok(Some(Handover { side: Side::Source, slots: known, .. })) if *known == slots => {
                Ok((Progress::Whole, false))
            }
            Ok(Some(of)) => Err(NotTaken::Other(of.id)),
            Err(NotTaken::Unknown) if self.owned.as_ref().is_some_and(|owned| owned.has_all(&slots)) => {
                self.begin(Handover { id, slots, side: Side::Source });
                Ok((Progress::Whole, true))
            }
            Err(NotTaken::Unknown) => Err(NotTaken::NotOwned),
            Err(e) => Err(e),
        }
    }

    /// The target expects these slots. They must hold no key.
    pub(super) fn expect(&mut self, id: u64, slots: SlotSet) -> Result<Progress, NotTaken> {
        match self.current(id) {
            Ok(None) => Ok(Progress::Ended),
            Ok(Some(Handover { side: Side::Target(next), slots: known, .. })) if *known == slots => {
                Ok(next.map_or(Progress::Whole, Progress::Expects))
            }
            Ok(Some(of)) => Err(NotTaken::Other(of.id)),
            Err(NotTaken::Unknown) if self.owned.as_ref().is_none_or(|owned| owned.has_any(&slots)) => {
                Err(NotTaken::Owned)
            }
            Err(NotTaken::Unknown) => {
                self.begin(Handover { id, slots, side: Side::Target(Some(Place::FIRST)) });
                Ok(Progress::Expects(Place::FIRST))
            }
            Err(e) => Err(e),
        }
    }

    /// What the target expects next of this handover.
    pub(super) fn expected(&self, id: u64) -> Result<Progress, NotTaken> {
        Ok(match self.current(id)? {
            None => Progress::Ended,
            Some(Handover { side: Side::Target(next), .. }) => next.map_or(Progress::Whole, Progress::Expects),
            Some(_) => return Err(NotTaken::Unknown),
        })
    }

    /// What was expected is here.
    pub(super) fn installed(&mut self, next: Option<Place>) {
        if let Some(Handover { side: Side::Target(place), .. }) = &mut self.handover {
            *place = next;
        }
    }

    /// The target owns the slots from now on. `true` in the answer: that is new.
    pub(super) fn activate(&mut self, id: u64) -> Result<(Progress, bool), NotTaken> {
        let slots = match self.current(id)? {
            None => return self.ended_as(id, End::Activated),
            Some(Handover { side: Side::Target(None), slots, .. }) => slots.clone(),
            Some(Handover { side: Side::Target(Some(_)), .. }) => return Err(NotTaken::Unfinished),
            Some(_) => return Err(NotTaken::Unknown),
        };
        if let Some(owned) = &mut self.owned {
            owned.add(&slots);
        }
        self.end(id, End::Activated);
        Ok((Progress::Ended, true))
    }

    /// The source owns the slots no more. `true` in the answer: that is new.
    pub(super) fn depart(&mut self, id: u64) -> Result<(Progress, bool), NotTaken> {
        let slots = match self.current(id)? {
            None => return self.ended_as(id, End::Dropped),
            Some(Handover { side: Side::Source, slots, .. }) => slots.clone(),
            Some(_) => return Err(NotTaken::Unknown),
        };
        if let Some(owned) = &mut self.owned {
            owned.remove(&slots);
        }
        self.end(id, End::Dropped);
        Ok((Progress::Ended, true))
    }

    /// A handover that comes to nothing: source and target are as they were. One that was never begun here never will be.
    /// `true` in the answer: it was.
    pub(super) fn abort(&mut self, id: u64) -> Result<(Progress, bool), NotTaken> {
        let begun = match self.current(id) {
            Ok(None) => return self.ended_as(id, End::Aborted),
            Ok(Some(_)) => true,
            Err(NotTaken::Unknown) => false,
            Err(e) => return Err(e),
        };
        self.end(id, End::Aborted);
        Ok((Progress::Ended, begun))
    }

    /// Appends it: `ended v | how(1): 0 never, 1 activated, 2 dropped, 3 aborted | owned(1) ranges | side(1): 0 none, 1 source, 2 target, 3 target that is whole | id v ranges
    /// | of an unfinished target slot v hash v`, where ranges are `count v { first v, last v }*`.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        let ranges = |out: &mut Vec<u8>, slots: &SlotSet| {
            let ranges = slots.ranges();
            put_number(out, ranges.len() as u64);
            for (first, last) in ranges {
                put_number(out, u64::from(first.0));
                put_number(out, u64::from(last.0));
            }
        };
        put_number(out, self.ended);
        out.push(End::ALL.iter().position(|how| *how == self.end).expect("all are there") as u8);
        out.push(u8::from(self.owned.is_some()));
        if let Some(owned) = &self.owned {
            ranges(out, owned);
        }
        let Some(Handover { id, slots, side }) = &self.handover else { return out.push(0) };
        out.push(match side {
            Side::Source => 1,
            Side::Target(Some(_)) => 2,
            Side::Target(None) => 3,
        });
        put_number(out, *id);
        ranges(out, slots);
        if let Side::Target(Some(place)) = side {
            put_number(out, u64::from(place.slot.0));
            put_number(out, place.hash);
        }
    }

    /// Reads what [`Ownership::put`] wrote; `number` and `byte` give what is next. None for what it never writes.
    pub(super) fn read<R>(
        from: &mut R,
        number: impl Fn(&mut R) -> Option<u64>,
        byte: impl Fn(&mut R) -> Option<u8>,
    ) -> Option<Ownership> {
        let slot = |from: &mut R| u16::try_from(number(from)?).ok().filter(|slot| usize::from(*slot) < SLOTS).map(Slot);
        let ranges = |from: &mut R| {
            let (mut set, mut before) = (SlotSet::default(), None);
            for _ in 0..number(from)? {
                let (first, last) = (slot(from)?, slot(from)?);
                // In order and apart, so that there is one spelling of a set.
                if first > last || before.is_some_and(|before: Slot| first.0 <= before.0 + 1) {
                    return None;
                }
                before = Some(last);
                set.add(&[(first, last)].into_iter().collect());
            }
            Some(set)
        };
        let ended = number(from)?;
        let end = *End::ALL.get(usize::from(byte(from)?))?;
        let owned = match byte(from)? {
            0 => None,
            1 => Some(ranges(from)?),
            _ => return None,
        };
        let handover = match byte(from)? {
            0 => None,
            side @ 1..=3 => {
                let (id, slots) = (number(from)?, ranges(from)?);
                let side = match side {
                    1 => Side::Source,
                    2 => Side::Target(Some(Place { slot: slot(from)?, hash: number(from)? })),
                    _ => Side::Target(None),
                };
                Some(Handover { id, slots, side })
            }
            _ => return None,
        };
        let mut ownership = Ownership { owned, handover, ended, end, serving: None };
        ownership.derive();
        Some(ownership)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(text: &str) -> SlotSet {
        text.parse().unwrap()
    }

    fn founded(text: &str) -> Ownership {
        let mut ownership = Ownership::default();
        assert!(ownership.found(slots(text)));
        ownership
    }

    #[test]
    fn a_set_reads_back_as_it_is_shown() {
        for text in ["", "0", "16383", "0-16383", "0-99,205,300-301"] {
            assert_eq!(slots(text).to_string(), text);
        }
        assert_eq!(slots("5,0-3,4").to_string(), "0-5");
        assert_eq!((slots("1-64").len(), slots("").is_empty()), (64, true));
        for text in ["x", "16384", "3-1", "1,", "-1", "1-2-3"] {
            assert!(text.parse::<SlotSet>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_group_without_handovers_answers_for_everything() {
        let ownership = Ownership::default();
        assert!(!ownership.guards() && ownership.serves(Slot(7)) && ownership.owns(Slot(7)));
        assert!(!ownership.departed(Slot(7)));
    }

    #[test]
    fn a_slot_is_answered_for_by_one_group_at_most_at_every_step() {
        let (mut source, mut target) = (founded("0-99"), founded("100-199"));
        let (moving, slot) = (slots("10-19"), Slot(12));
        assert_eq!(target.expect(1, moving.clone()), Ok(Progress::Expects(Place::FIRST)));
        assert!(!target.serves(slot) && !target.owns(slot) && !target.departed(slot));
        assert_eq!(source.freeze(1, moving.clone()), Ok((Progress::Whole, true)));
        assert!(!source.serves(slot) && source.owns(slot) && source.serves(Slot(20)));
        // Said again, nothing changes.
        assert_eq!(source.freeze(1, moving.clone()), Ok((Progress::Whole, false)));
        let place = Place { slot: Slot(15), hash: 77 };
        target.installed(Some(place));
        assert_eq!(target.expect(1, moving.clone()), Ok(Progress::Expects(place)));
        assert_eq!(target.activate(1), Err(NotTaken::Unfinished));
        target.installed(None);
        assert_eq!(target.activate(1), Ok((Progress::Ended, true)));
        assert!(target.serves(slot) && !source.serves(slot));
        assert_eq!(source.depart(1), Ok((Progress::Ended, true)));
        assert!(!source.owns(slot) && source.departed(slot));
        for ended in [target.activate(1), source.depart(1), source.freeze(1, moving.clone())] {
            assert_eq!(ended, Ok((Progress::Ended, false)));
        }
        // How it ended is known: nobody takes the one for the other.
        for wrong in [target.abort(1), target.depart(1), source.activate(1), source.abort(1)] {
            assert_eq!(wrong, Err(NotTaken::Unknown));
        }
        assert!(target.serves(slot) && !source.owns(slot));
    }

    #[test]
    fn what_is_said_late_of_a_handover_that_came_to_nothing_does_no_harm() {
        let (mut source, mut target) = (founded("0-99"), founded("100-199"));
        let moving = slots("10-19");
        // It was given up before the source had heard of it.
        assert_eq!(source.abort(4), Ok((Progress::Ended, false)));
        assert_eq!(source.freeze(4, moving.clone()), Ok((Progress::Ended, false)));
        assert_eq!(source.freeze(3, moving.clone()), Ok((Progress::Ended, false)));
        assert!(source.serves(Slot(12)));
        assert!(target.expect(4, moving.clone()).is_ok());
        assert_eq!(target.abort(4), Ok((Progress::Ended, true)));
        assert!(target.departed(Slot(12)), "what was installed is to be cleared");
        assert_eq!(target.expect(4, moving.clone()), Ok(Progress::Ended));
        assert_eq!(source.freeze(5, moving), Ok((Progress::Whole, true)));
    }

    #[test]
    fn one_handover_at_a_time_and_only_of_what_is_owned() {
        let mut source = founded("0-99");
        assert_eq!(source.freeze(1, slots("50-150")), Err(NotTaken::NotOwned));
        assert_eq!(source.expect(1, slots("99-100")), Err(NotTaken::Owned));
        assert!(source.freeze(1, slots("5")).is_ok());
        assert_eq!(source.freeze(2, slots("6")), Err(NotTaken::Other(1)));
        assert_eq!(source.expect(2, slots("100")), Err(NotTaken::Other(1)));
        assert_eq!(source.depart(2), Err(NotTaken::Other(1)));
        assert_eq!(source.abort(2), Err(NotTaken::Other(1)));
        assert_eq!(source.activate(1), Err(NotTaken::Unknown));
        assert_eq!(Ownership::default().freeze(1, slots("5")), Err(NotTaken::NotOwned));
        assert_eq!(Ownership::default().expect(1, slots("5")), Err(NotTaken::Owned));
        assert!(!source.found(slots("0-16383")), "it knows better by now");
    }
}
