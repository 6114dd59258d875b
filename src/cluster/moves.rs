//! Which slots are to go to other groups, and the handover that is under way: the part of the table's document that says so.
//! Pure. The groups' own part: `state/ownership.rs`; who brings it about: `mover.rs` (decision 0024).
//!
//! ```text
//! wished --begin--> shipping --commit--> committed --finish--> (slots are the target's)
//!                       '------abort---> aborted ---finish--> (slots are the source's; wished still, unless cancelled)
//! ```
//!
//! Invariants: every arrow is one entry of the meta group, made by comparison with the document that it was made from; of commit
//! and abort one happens, once; the entry that commits gives the slots to the target and raises the epoch; numbers rise and none
//! is given out twice; one handover at a time.

use crate::routing::RoutingTable;
use crate::state::SlotSet;
use crate::types::{GroupId, SLOTS, Slot};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;

/// Slots that one handover takes, at most: what is frozen at a time.
pub const SLOTS_AT_ONCE: usize = 32;
/// Keys that one handover takes, if that is more than one slot.
pub const KEYS_AT_ONCE: u64 = 50_000;

/// How far a handover has come, as all agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The target is given what the source holds. Nothing is decided.
    Shipping,
    /// The slots are the target's.
    Committed,
    /// The slots stay where they are.
    Aborted,
}

impl Phase {
    pub fn name(self) -> &'static str {
        match self {
            Phase::Shipping => "shipping",
            Phase::Committed => "committed",
            Phase::Aborted => "aborted",
        }
    }
}

/// Slots on their way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// The number that the groups know it by.
    pub id: u64,
    #[serde(with = "text")]
    pub slots: SlotSet,
    pub from: GroupId,
    pub to: GroupId,
    pub phase: Phase,
}

/// See the head of this file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moves {
    /// The last number that was given out.
    pub last: u64,
    /// Which slots are to be whose, where they are not yet.
    wished: BTreeMap<GroupId, Wished>,
    pub under_way: Option<Batch>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct Wished(#[serde(with = "text")] SlotSet);

/// Sets of slots as `0-99,205`.
mod text {
    use super::*;

    pub fn serialize<S: Serializer>(slots: &SlotSet, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(slots)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SlotSet, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Which group owns which slot.
pub type Owners = [GroupId];

impl Moves {
    /// Nothing was ever wished.
    pub fn is_none(&self) -> bool {
        *self == Moves::default()
    }

    /// Nothing is wished and nothing under way.
    pub fn is_settled(&self) -> bool {
        self.wished.is_empty() && self.under_way.is_none()
    }

    /// Slots that are to go to a group and are not there.
    pub fn wished(&self) -> impl Iterator<Item = (GroupId, &SlotSet)> {
        self.wished.iter().map(|(to, slots)| (*to, &slots.0))
    }

    /// Whether slots are wished to be a group's, or on their way there.
    pub fn takes(&self, group: GroupId) -> bool {
        self.wished.contains_key(&group) || self.under_way.as_ref().is_some_and(|batch| batch.to == group)
    }

    /// Whether slots of a group are on their way elsewhere.
    pub fn is_under_way_from(&self, group: GroupId) -> bool {
        self.under_way.as_ref().is_some_and(|batch| batch.from == group)
    }

    /// Whose a slot is to be, if that is another's than now.
    pub fn destination(&self, slot: Slot) -> Option<GroupId> {
        let wished = self.wished().find(|(_, slots)| slots.has(slot)).map(|(to, _)| to);
        wished.or_else(|| self.under_way.as_ref().filter(|batch| batch.slots.has(slot)).map(|batch| batch.to))
    }

    /// The slots are to be `to`'s, whatever was wished of them before.
    pub fn wish(&mut self, slots: &SlotSet, to: GroupId, owners: &Owners) {
        self.forget(slots);
        self.wished.entry(to).or_default().0.add(slots);
        self.prune(owners);
    }

    /// Nothing is wished of these slots any more. What is shipping just now comes to nothing.
    pub fn cancel(&mut self, slots: &SlotSet) {
        self.forget(slots);
        if self.under_way.as_ref().is_some_and(|batch| batch.slots.has_any(slots)) {
            self.abort();
        }
    }

    fn forget(&mut self, slots: &SlotSet) {
        self.wished.values_mut().for_each(|wished| wished.0.remove(slots));
        self.wished.retain(|_, wished| !wished.0.is_empty());
    }

    /// Drops wishes that are granted. What is on its way elsewhere is not.
    fn prune(&mut self, owners: &Owners) {
        let leaves = |slot: Slot| self.under_way.as_ref().is_some_and(|batch| batch.slots.has(slot));
        for (to, wished) in &mut self.wished {
            let granted = |slot: &Slot| owners.get(usize::from(slot.0)) == Some(to) && !leaves(*slot);
            let granted: SlotSet = wished.0.iter().filter(granted).collect();
            wished.0.remove(&granted);
        }
        self.wished.retain(|_, wished| !wished.0.is_empty());
    }

    /// What would be handed over next: from whom, to whom, which slots. `keys` tells how many a group holds in a slot; `waits`
    /// names slots that cannot go now; `most`: slots at once.
    pub fn next(
        &self,
        owners: &Owners,
        most: usize,
        waits: impl Fn(Slot) -> bool,
        keys: impl Fn(GroupId, Slot) -> u64,
    ) -> Option<(GroupId, GroupId, SlotSet)> {
        if self.under_way.is_some() {
            return None;
        }
        let owner = |slot: Slot| owners.get(usize::from(slot.0)).copied().unwrap_or(GroupId::META);
        let goes = |slot: &Slot, to: GroupId| !waits(*slot) && owner(*slot) != to && owner(*slot) != GroupId::META;
        let first = |(to, slots): (GroupId, &SlotSet)| slots.iter().find(|slot| goes(slot, to)).map(|slot| (to, slot));
        let (to, first) = self.wished().find_map(first)?;
        let (from, mut held, mut chosen) = (owner(first), 0, SlotSet::default());
        let together = self.wished[&to].0.iter().filter(|slot| goes(slot, to) && owner(*slot) == from);
        for slot in together.take(most.clamp(1, SLOTS_AT_ONCE)) {
            held += keys(from, slot);
            if held > KEYS_AT_ONCE && !chosen.is_empty() {
                break;
            }
            chosen.insert(slot);
        }
        Some((from, to, chosen))
    }

    /// Begins it, with those of the slots that are still `from`'s and still wished to be `to`'s: time has passed since they were
    /// chosen. Nothing happens where that is none, or something else is under way. `known`: the highest number that the two
    /// groups have heard of; what is given out is above it, even if this document has forgotten it.
    pub fn begin(&mut self, from: GroupId, to: GroupId, slots: &SlotSet, known: u64, owners: &Owners) {
        let Some(wished) = self.wished.get(&to).filter(|_| self.under_way.is_none()) else { return };
        let still = |slot: &Slot| wished.0.has(*slot) && owners.get(usize::from(slot.0)) == Some(&from);
        let slots: SlotSet = slots.iter().filter(still).collect();
        if !slots.is_empty() {
            self.last = self.last.max(known) + 1;
            self.under_way = Some(Batch { id: self.last, slots, from, to, phase: Phase::Shipping });
        }
    }

    /// The target has everything and the source is frozen: the slots are the target's from now on. Gives the new owners; none
    /// where that is decided already, or something else is under way.
    #[must_use]
    pub fn commit(&mut self, id: u64, owners: &Owners) -> Option<Box<Owners>> {
        let batch = self.under_way.as_mut().filter(|batch| batch.id == id && batch.phase == Phase::Shipping)?;
        batch.phase = Phase::Committed;
        let owner = |(nth, owner): (usize, &GroupId)| if batch.slots.has(Slot(nth as u16)) { batch.to } else { *owner };
        Some(owners.iter().enumerate().map(owner).collect())
    }

    /// What is shipping comes to nothing. What is decided stays so.
    pub fn abort(&mut self) {
        if let Some(batch) = self.under_way.as_mut().filter(|batch| batch.phase == Phase::Shipping) {
            batch.phase = Phase::Aborted;
        }
    }

    /// Both groups have done what was decided.
    pub fn finish(&mut self, id: u64, owners: &Owners) {
        if self.under_way.as_ref().is_some_and(|batch| batch.id == id && batch.phase != Phase::Shipping) {
            self.under_way = None;
            self.prune(owners);
        }
    }

    /// Slots out of these that are not `to`'s yet, or on their way away.
    pub fn missing(&self, slots: &SlotSet, to: GroupId, owners: &Owners) -> SlotSet {
        let leaves = |slot: Slot| self.under_way.as_ref().is_some_and(|batch| batch.slots.has(slot));
        slots.iter().filter(|slot| owners.get(usize::from(slot.0)) != Some(&to) || leaves(*slot)).collect()
    }
}

/// The owners of all slots, out of the ranges of a document.
///
/// # Errors
/// When a range names a slot that is none.
pub fn owners_of(ranges: &[(Slot, Slot, GroupId)]) -> Result<Box<Owners>, String> {
    let mut owners = RoutingTable::unformed().slots;
    for (first, last, group) in ranges {
        for slot in first.0..=last.0 {
            *owners.get_mut(usize::from(slot)).ok_or("the table names a slot that is none")? = *group;
        }
    }
    assert_eq!(owners.len(), SLOTS, "every slot has its place");
    Ok(owners)
}

/// The ranges of a document, out of the owners of all slots.
pub fn ranges_of(owners: Box<Owners>) -> Vec<(Slot, Slot, GroupId)> {
    RoutingTable { slots: owners, ..RoutingTable::unformed() }.ranges()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: GroupId = GroupId(1);
    const B: GroupId = GroupId(2);
    const C: GroupId = GroupId(3);

    fn slots(text: &str) -> SlotSet {
        text.parse().unwrap()
    }

    fn all(group: GroupId) -> Box<Owners> {
        vec![group; SLOTS].into()
    }

    fn next(moves: &Moves, owners: &Owners) -> Option<(GroupId, GroupId, SlotSet)> {
        moves.next(owners, SLOTS_AT_ONCE, |_| false, |_, _| 1)
    }

    #[test]
    fn a_wish_is_carried_out_in_batches_and_is_gone_then() {
        let (mut moves, mut owners, mut batches) = (Moves::default(), all(A), 0);
        moves.wish(&slots("0-99"), B, &owners);
        while let Some((from, to, some)) = next(&moves, &owners) {
            assert!((from, to) == (A, B) && some.len() <= SLOTS_AT_ONCE);
            moves.begin(from, to, &some, 0, &owners);
            assert!(next(&moves, &owners).is_none(), "one at a time");
            owners = moves.commit(moves.last, &owners).unwrap();
            moves.finish(moves.last, &owners);
            batches += 1;
        }
        assert_eq!((batches, moves.last), (4, 4));
        assert!(moves.is_settled() && !moves.is_none() && moves.missing(&slots("0-99"), B, &owners).is_empty());
        moves.wish(&slots("0-99"), B, &owners);
        assert!(moves.is_settled(), "it is so already");
    }

    #[test]
    fn what_is_decided_stays_so() {
        let (mut moves, owners) = (Moves::default(), all(A));
        moves.wish(&slots("7"), B, &owners);
        moves.begin(A, B, &slots("7"), 0, &owners);
        moves.finish(1, &owners);
        assert!(moves.commit(2, &owners).is_none() && moves.under_way.is_some(), "nothing was decided yet");
        let mut aborted = moves.clone();
        aborted.abort();
        assert!(aborted.commit(1, &owners).is_none());
        aborted.finish(1, &owners);
        assert_eq!(next(&aborted, &owners), Some((A, B, slots("7"))), "it is wished still");
        aborted.begin(A, B, &slots("7"), 0, &owners);
        assert_eq!(aborted.under_way.as_ref().unwrap().id, 2, "under another number");
        let after = moves.commit(1, &owners).unwrap();
        assert!(after[7] == B && after[6] == A);
        moves.abort();
        moves.cancel(&slots("7"));
        assert_eq!(moves.under_way.as_ref().unwrap().phase, Phase::Committed);
    }

    #[test]
    fn a_wish_that_is_cancelled_or_changed_ends_what_is_shipping() {
        let (mut moves, owners) = (Moves::default(), all(A));
        moves.wish(&slots("0-9"), B, &owners);
        moves.begin(A, B, &slots("0-9"), 0, &owners);
        // Back again, or on to another, while it is on its way: that is wished, too.
        moves.wish(&slots("3"), A, &owners);
        moves.wish(&slots("4"), C, &owners);
        assert_eq!(moves.missing(&slots("3"), A, &owners), slots("3"));
        let after = moves.commit(1, &owners).unwrap();
        moves.finish(1, &after);
        assert_eq!(next(&moves, &after), Some((B, A, slots("3"))));
        let mut moves = Moves::default();
        moves.wish(&slots("0-9"), B, &owners);
        moves.begin(A, B, &slots("0-9"), 0, &owners);
        moves.cancel(&slots("5"));
        assert_eq!(moves.under_way.as_ref().unwrap().phase, Phase::Aborted);
        moves.finish(1, &owners);
        assert_eq!(next(&moves, &owners), Some((A, B, slots("0-4,6-9"))));
    }

    /// Between the choice of a batch and its beginning lie seconds, in which its wish may go.
    #[test]
    fn what_is_not_wished_any_more_does_not_begin() {
        let owners = all(A);
        let after = |change: &dyn Fn(&mut Moves), owners: &Owners| {
            let mut moves = Moves::default();
            moves.wish(&slots("0-9"), B, owners);
            let (from, to, some) = (A, B, slots("0-9"));
            change(&mut moves);
            moves.begin(from, to, &some, 0, owners);
            moves.under_way.map(|batch| batch.slots.to_string())
        };
        assert_eq!(after(&|_| {}, &owners).as_deref(), Some("0-9"));
        assert_eq!(after(&|moves| moves.cancel(&slots("3")), &owners).as_deref(), Some("0-2,4-9"));
        assert_eq!(after(&|moves| moves.cancel(&slots("0-9")), &owners), None);
        assert_eq!(after(&|moves| moves.wish(&slots("0-9"), A, &all(A)), &owners), None, "they are to stay");
        assert_eq!(after(&|moves| moves.wish(&slots("0-8"), C, &all(A)), &owners).as_deref(), Some("9"));
        let mut gone = all(A);
        gone[4] = C;
        assert_eq!(after(&|_| {}, &gone).as_deref(), Some("0-3,5-9"), "another owns it by now");
    }

    #[test]
    fn a_number_that_a_group_has_heard_of_is_not_given_out_again() {
        let (mut moves, owners) = (Moves::default(), all(A));
        moves.wish(&slots("0-9"), B, &owners);
        moves.begin(A, B, &slots("0-4"), 17, &owners);
        assert_eq!((moves.last, moves.under_way.as_ref().map(|batch| batch.id)), (18, Some(18)));
        let after = moves.commit(18, &owners).unwrap();
        moves.finish(18, &after);
        moves.begin(A, B, &slots("5-9"), 3, &after);
        assert_eq!(moves.last, 19);
    }

    #[test]
    fn many_keys_make_small_batches_and_what_waits_is_passed_over() {
        let (mut moves, owners) = (Moves::default(), all(A));
        moves.wish(&slots("0-9"), B, &owners);
        let next = |waits: &str, keys: u64| {
            let waits = slots(waits);
            moves.next(&owners, SLOTS_AT_ONCE, |slot| waits.has(slot), |_, _| keys).map(|(.., slots)| slots)
        };
        assert_eq!(next("", KEYS_AT_ONCE * 9), Some(slots("0")));
        assert_eq!(next("0", KEYS_AT_ONCE / 2), Some(slots("1-2")));
        assert_eq!(next("0-9", 1), None);
    }

    #[test]
    fn it_reads_back_what_it_wrote() {
        let (mut moves, owners) = (Moves::default(), all(A));
        moves.wish(&slots("0-99,205"), B, &owners);
        moves.begin(A, B, &slots("0-31"), 0, &owners);
        let json = serde_json::to_string(&moves).unwrap();
        assert!(json.contains(r#""slots":"0-31""#) && json.contains(r#""phase":"shipping""#), "{json}");
        assert_eq!(serde_json::from_str::<Moves>(&json).unwrap(), moves);
        assert!(serde_json::from_str::<Moves>(&json.replace("0-31", "0-99999")).is_err());
        let owners = moves.commit(1, &owners).unwrap();
        assert_eq!(owners_of(&ranges_of(owners.clone())).unwrap(), owners);
        assert!(owners_of(&[(Slot(0), Slot(16_384), A)]).is_err());
    }

    proptest! {
        #[test]
        fn whatever_is_wished_and_whatever_comes_to_nothing_it_ends_where_it_was_wished_last(
            wishes in prop::collection::vec((0..64u16, 0..64u16, 1..4u32), 1..6),
            decisions in prop::collection::vec(any::<bool>(), 0..40),
        ) {
            let (mut moves, mut owners, mut want) = (Moves::default(), all(A), all(A));
            let mut decisions = decisions.into_iter();
            for (a, b, to) in wishes {
                let (some, to) = ((a.min(b)..=a.max(b)).map(Slot).collect::<SlotSet>(), GroupId(to));
                // Chosen before the wish, begun after it.
                let chosen = next(&moves, &owners);
                moves.wish(&some, to, &owners);
                some.iter().for_each(|slot| want[usize::from(slot.0)] = to);
                if let Some((from, to, some)) = chosen.or_else(|| next(&moves, &owners)) {
                    moves.begin(from, to, &some, 0, &owners);
                    if let Some(batch) = moves.under_way.as_ref().filter(|batch| batch.id == moves.last) {
                        prop_assert!(batch.slots.iter().all(|slot| owners[usize::from(slot.0)] == batch.from));
                    }
                }
                if decisions.next().unwrap_or(false) {
                    moves.abort();
                }
            }
            for _ in 0..200 {
                if let Some(id) = moves.under_way.as_ref().map(|batch| batch.id) {
                    if decisions.next().unwrap_or(false) {
                        moves.abort();
                    }
                    owners = moves.commit(id, &owners).unwrap_or(owners);
                    moves.finish(id, &owners);
                }
                if let Some((from, to, some)) = next(&moves, &owners) {
                    prop_assert!(some.iter().all(|slot| owners[usize::from(slot.0)] == from) && from != to);
                    moves.begin(from, to, &some, 0, &owners);
                }
            }
            prop_assert_eq!(owners, want);
            prop_assert!(moves.is_settled());
        }
    }
}
