//! Which groups come and go: the part of the table's document that says so. Pure. Who brings it about: `keeper.rs`
//! (decision 0025).
//!
//! ```text
//! add ---> coming --begin--> begun, in the table --told--> (a group like any other) --remove--> leaving --bury--> gone
//! ```
//!
//! Invariants: every arrow is one entry of the meta group, made by comparison with the document that it was made from; numbers
//! rise and none is given out twice; a group that leaves is wished no slots, and is buried only when the table gives it none;
//! what is gone stays so.

use super::TableDocument;
use super::membership::WishError;
use super::moves::{self, Owners};
use crate::planted::{self, Bug};
use crate::routing::GroupInfo;
use crate::state::SlotSet;
use crate::types::{GroupId, NodeId, Slot};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// See the head of this file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Life {
    /// Rises with every arrow.
    pub changes: u64,
    /// The highest number that was given out; 0: what the table's groups have.
    last: u32,
    /// Their voters are not placed yet.
    coming: BTreeSet<GroupId>,
    /// Their logs do not say yet that they own nothing; who gives them their first members.
    begun: BTreeMap<GroupId, Vec<NodeId>>,
    leaving: BTreeSet<GroupId>,
    gone: BTreeSet<GroupId>,
    /// What was split off, and of which groups.
    splits: BTreeMap<GroupId, BTreeSet<GroupId>>,
}

/// How a group stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It is not in the table yet.
    Coming,
    /// It has not said yet that it owns nothing.
    Begun,
    Member,
    Leaving,
    Gone,
}

impl Stage {
    pub fn name(self) -> &'static str {
        match self {
            Stage::Coming => "coming",
            Stage::Begun => "begun",
            Stage::Member => "member",
            Stage::Leaving => "leaving",
            Stage::Gone => "gone",
        }
    }
}

/// Why a wish about groups cannot be granted. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotGranted {
    #[error("there is no group {0} that holds keys")]
    NoGroup(GroupId),
    #[error("group {0} was removed from the cluster")]
    Gone(GroupId),
    #[error("group {0} is being removed from the cluster")]
    Leaving(GroupId),
    #[error("group {0} is the last one that holds keys and stays")]
    Last(GroupId),
    #[error("slots are wished to be group {0}'s, or on their way there")]
    Wished(GroupId),
    #[error("group {wanted} cannot come: the next group is number {next}")]
    OutOfTurn { wanted: GroupId, next: GroupId },
    #[error("group {0} has less than two slots that stay with it, and cannot be split")]
    TooFew(GroupId),
    #[error("group {0} cannot give its slots to itself")]
    Itself(GroupId),
}

impl Life {
    /// Nothing ever came or went.
    pub fn is_none(&self) -> bool {
        *self == Life::default()
    }

    pub fn coming(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.coming.iter().copied()
    }

    /// Groups that are being begun, and who founds them.
    pub fn begun(&self) -> impl Iterator<Item = (GroupId, &[NodeId])> {
        self.begun.iter().map(|(id, founders)| (*id, founders.as_slice()))
    }

    /// Who founds a group that is being begun.
    pub fn founders(&self, id: GroupId) -> Option<BTreeSet<NodeId>> {
        self.begun.get(&id).map(|founders| founders.iter().copied().collect())
    }

    pub fn leaving(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.leaving.iter().copied()
    }

    pub fn gone(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.gone.iter().copied()
    }

    pub fn is_gone(&self, id: GroupId) -> bool {
        self.gone.contains(&id)
    }

    /// A group is on its way in: a snapshot of all of them would not be whole.
    pub fn is_unsettled(&self) -> bool {
        !self.coming.is_empty() || !self.begun.is_empty()
    }

    /// Has heard of the groups that there were before the first one came or went.
    fn note_numbers(&mut self, groups: &BTreeMap<GroupId, GroupInfo>) {
        let known = groups.keys().chain(&self.coming).map(|id| id.0);
        self.last = known.max().unwrap_or(0).max(self.last);
    }

    /// How a group stands beside the groups of the table; none: there never was one of this number.
    fn stage(&self, groups: &BTreeMap<GroupId, GroupInfo>, id: GroupId) -> Option<Stage> {
        match self {
            _ if self.gone.contains(&id) => Some(Stage::Gone),
            _ if self.coming.contains(&id) => Some(Stage::Coming),
            _ if !groups.contains_key(&id) || id == GroupId::META => None,
            _ if self.leaving.contains(&id) => Some(Stage::Leaving),
            _ if self.begun.contains_key(&id) => Some(Stage::Begun),
            _ => Some(Stage::Member),
        }
    }

    /// How every group stands that there ever was.
    pub fn stages(&self, groups: &BTreeMap<GroupId, GroupInfo>) -> BTreeMap<GroupId, Stage> {
        let ids = groups.keys().chain(&self.coming).chain(&self.gone);
        ids.filter_map(|id| Some((*id, self.stage(groups, *id)?))).collect()
    }
}

impl TableDocument {
    /// How a group stands; none: there never was one of this number.
    pub(super) fn stage(&self, id: GroupId) -> Option<Stage> {
        self.life.stage(&self.groups, id)
    }

    /// How every group stands that there ever was, and who founds it while it is being begun.
    pub(super) fn stages(&self) -> BTreeMap<GroupId, (Stage, Vec<NodeId>)> {
        let founders = |id: &GroupId| self.life.begun.get(id).cloned().unwrap_or_default();
        self.life.stages(&self.groups).into_iter().map(|(id, stage)| (id, (stage, founders(&id)))).collect()
    }

    /// The number that is given out next.
    fn next_group(&self) -> GroupId {
        let mut life = self.life.clone();
        life.note_numbers(&self.groups);
        GroupId(life.last + 1)
    }

    /// The group is to come, if it is not there. Without a number the next one comes.
    pub(super) fn add_group(&mut self, number: Option<GroupId>) -> Result<GroupId, NotGranted> {
        let next = self.next_group();
        let wanted = number.unwrap_or(next);
        match self.stage(wanted) {
            Some(Stage::Gone) => return Err(NotGranted::Gone(wanted)),
            Some(Stage::Leaving) => return Err(NotGranted::Leaving(wanted)),
            Some(_) => return Ok(wanted),
            None if wanted != next => return Err(NotGranted::OutOfTurn { wanted, next }),
            None => {}
        }
        self.life.coming.insert(wanted);
        self.life.note_numbers(&self.groups);
        self.life.changes += 1;
        Ok(wanted)
    }

    /// Half of a group's slots are to go to another, which comes if it is not there. Without its number it is the one that was
    /// split off last, or the next. `keys`: how many lie in a slot of the group.
    pub(super) fn split_group(
        &mut self,
        of: GroupId,
        into: Option<GroupId>,
        keys: impl Fn(Slot) -> u64,
    ) -> Result<GroupId, WishedWrong> {
        self.stays(of)?;
        let before = self.life.splits.iter().rev().find(|(_, from)| from.contains(&of)).map(|(into, _)| *into);
        let into = into.or(before);
        if into == Some(of) {
            return Err(NotGranted::Itself(of).into());
        }
        if into.is_some_and(|into| self.life.splits.get(&into).is_some_and(|from| from.contains(&of))) {
            return Ok(self.add_group(into)?);
        }
        let owners = moves::owners_of(&self.ranges).map_err(WishError::Unreadable)?;
        let half = self.half_of(of, &owners, keys)?;
        let into = self.add_group(into)?;
        self.life.splits.entry(into).or_default().insert(of);
        self.life.changes += 1;
        self.moves.wish(&half, into, &owners);
        Ok(into)
    }

    /// Somebody takes back that these slots go: what they were to be split off into may be asked for again.
    pub(super) fn forget_splits(&mut self, slots: &SlotSet) {
        let moves = &self.moves;
        let cancelled = |into: &GroupId| moves.wished().any(|(to, wished)| to == *into && wished.has_any(slots));
        self.life.splits.retain(|into, _| !cancelled(into));
    }

    /// The last of a group's slots that hold half of its keys.
    fn half_of(&self, of: GroupId, owners: &Owners, keys: impl Fn(Slot) -> u64) -> Result<SlotSet, NotGranted> {
        let stays = |slot: &Slot| self.moves.destination(*slot).is_none();
        let mut own: Vec<Slot> = owned(of, owners).iter().filter(stays).collect();
        if own.len() < 2 {
            return Err(NotGranted::TooFew(of));
        }
        // An empty slot counts, too: keys will come.
        let weight = |slot: &Slot| keys(*slot) + 1;
        let (all, mut taken, mut half) = (own.iter().map(weight).sum::<u64>(), 0, SlotSet::default());
        own.remove(0);
        for slot in own.into_iter().rev() {
            taken += weight(&slot);
            if taken > all / 2 && !half.is_empty() {
                break;
            }
            half.insert(slot);
        }
        Ok(half)
    }

    /// The group is to go, and its slots to the others, or to those that are named. What is wished of its slots already stays so.
    pub(super) fn remove_group(&mut self, id: GroupId, to: &[GroupId]) -> Result<(), WishedWrong> {
        match self.stage(id) {
            None => return Err(NotGranted::NoGroup(id).into()),
            Some(Stage::Gone) => return Ok(()),
            Some(stage) if stage != Stage::Leaving && self.moves.takes(id) => {
                return Err(NotGranted::Wished(id).into());
            }
            Some(Stage::Coming) => {
                self.life.coming.remove(&id);
                self.forget_group(id);
                return Ok(());
            }
            Some(_) => {}
        }
        if to.contains(&id) {
            return Err(NotGranted::Itself(id).into());
        }
        to.iter().try_for_each(|to| self.stays(*to))?;
        let others = || self.groups.keys().copied().filter(|other| *other != id && self.stays(*other).is_ok());
        let to: Vec<GroupId> = if to.is_empty() { others().collect() } else { to.to_vec() };
        if to.is_empty() {
            return Err(NotGranted::Last(id).into());
        }
        if self.life.leaving.insert(id) {
            self.life.note_numbers(&self.groups);
            self.life.changes += 1;
        }
        let owners = moves::owners_of(&self.ranges).map_err(WishError::Unreadable)?;
        let wished = |slot: &Slot| self.moves.destination(*slot).is_some_and(|group| to.contains(&group));
        let rest: SlotSet = owned(id, &owners).iter().filter(|slot| !wished(slot)).collect();
        for (to, slots) in dealt(&rest, &to, &owners) {
            self.moves.wish(&slots, to, &owners);
        }
        Ok(())
    }

    /// It stays after all, with the slots that it has by then.
    pub(super) fn keep_group(&mut self, id: GroupId) -> Result<(), WishedWrong> {
        match self.stage(id) {
            None => return Err(NotGranted::NoGroup(id).into()),
            Some(Stage::Gone) => return Err(NotGranted::Gone(id).into()),
            Some(Stage::Leaving) => {}
            Some(_) => return Ok(()),
        }
        let owners = moves::owners_of(&self.ranges).map_err(WishError::Unreadable)?;
        self.life.leaving.remove(&id);
        self.life.changes += 1;
        let own = owned(id, &owners);
        self.forget_splits(&own);
        self.moves.cancel(&own);
        Ok(())
    }

    /// Whether slots may be wished to be a group's.
    pub(super) fn stays(&self, id: GroupId) -> Result<(), NotGranted> {
        match self.stage(id) {
            Some(Stage::Begun | Stage::Member) => Ok(()),
            Some(Stage::Leaving) => Err(NotGranted::Leaving(id)),
            Some(Stage::Gone) => Err(NotGranted::Gone(id)),
            Some(Stage::Coming) | None => Err(NotGranted::NoGroup(id)),
        }
    }

    /// Whether these slots may be told to stay where they are: none of them with a group that goes.
    pub(super) fn may_stay(&self, slots: &SlotSet) -> Result<(), WishedWrong> {
        let owners = moves::owners_of(&self.ranges).map_err(WishError::Unreadable)?;
        let goes = |id: &&GroupId| owned(**id, &owners).has_any(slots);
        match self.life.leaving.iter().find(goes) {
            Some(id) => Err(NotGranted::Leaving(*id).into()),
            None => Ok(()),
        }
    }

    /// A group that comes has its voters: it is in the table from now on.
    pub(super) fn begin_group(&mut self, id: GroupId, voters: &[NodeId], seed: u64) {
        if voters.is_empty() || !self.life.coming.remove(&id) {
            return;
        }
        self.groups.insert(id, GroupInfo { voters: voters.to_vec() });
        self.life.begun.insert(id, voters.to_vec());
        self.seeds.0.insert(id, seed);
        self.life.changes += 1;
        self.epoch += 1;
    }

    /// Its own log says what it owns.
    pub(super) fn end_beginning(&mut self, id: GroupId) {
        if self.life.begun.remove(&id).is_some() {
            self.life.changes += 1;
        }
    }

    /// Whether the table gives a group that leaves nothing any more.
    pub(super) fn is_bare(&self, id: GroupId) -> bool {
        let idle = !self.moves.takes(id) && !self.moves.is_under_way_from(id);
        self.life.leaving.contains(&id) && !self.owns(id) && (idle || planted::is(Bug::BuriedUnasked))
    }

    fn owns(&self, id: GroupId) -> bool {
        self.ranges.iter().any(|(.., owner)| *owner == id)
    }

    /// Groups that were never given a slot do not come after all. Where this node alone is left of a cluster: whether they were
    /// founded, and who would have to agree to that, nobody can say.
    pub(super) fn give_up_beginnings(&mut self) {
        let begun: Vec<GroupId> = self.life.begun().map(|(id, _)| id).collect();
        for id in begun {
            let wished: Vec<SlotSet> =
                self.moves.wished().filter(|(to, _)| *to == id).map(|(_, slots)| slots.clone()).collect();
            wished.iter().for_each(|slots| self.moves.cancel(slots));
            match self.owns(id) || self.moves.takes(id) || self.moves.is_under_way_from(id) {
                // It has a log, like any other.
                true => self.end_beginning(id),
                false => self.forget_group(id),
            }
        }
    }

    /// A group that leaves, whose own log says that it owns nothing, has gone.
    pub(super) fn bury_group(&mut self, id: GroupId) {
        if self.is_bare(id) {
            self.life.leaving.remove(&id);
            self.forget_group(id);
            self.epoch += 1;
        }
    }

    fn forget_group(&mut self, id: GroupId) {
        self.life.note_numbers(&self.groups);
        self.groups.remove(&id);
        self.seeds.0.remove(&id);
        self.life.begun.remove(&id);
        self.life.splits.remove(&id);
        self.life.splits.values_mut().for_each(|from| _ = from.remove(&id));
        self.life.splits.retain(|_, from| !from.is_empty());
        self.life.gone.insert(id);
        self.life.changes += 1;
    }
}

/// Why something wished of groups or slots is not written.
pub(super) type WishedWrong = super::mover::MoveError;

fn owned(id: GroupId, owners: &Owners) -> SlotSet {
    (0u16..).map(Slot).zip(owners).filter(|(_, owner)| **owner == id).map(|(slot, _)| slot).collect()
}

/// Deals slots to groups so that these own equally many, neighbours together.
fn dealt(slots: &SlotSet, to: &[GroupId], owners: &Owners) -> Vec<(GroupId, SlotSet)> {
    let has = |id: &GroupId| owners.iter().filter(|owner| *owner == id).count();
    let all = to.iter().map(has).sum::<usize>() + slots.len();
    let level = all.div_ceil(to.len().max(1));
    let mut rest = slots.iter();
    to.iter().map(|id| (*id, rest.by_ref().take(level.saturating_sub(has(id))).collect())).collect()
}

#[cfg(test)]
mod tests {
    use super::super::mover::MoveError;
    use super::*;
    use crate::types::SLOTS;
    use proptest::prelude::*;

    const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

    fn group(id: u32) -> GroupId {
        GroupId(id)
    }

    /// Two groups, half of the slots each.
    fn table() -> TableDocument {
        let json = r#"{"version":2,"cluster":"c","epoch":1,"ranges":[[0,8191,1],[8192,16383,2]],
                       "groups":{"1":{"voters":[1,2,3]},"2":{"voters":[2,3,1]}}}"#;
        TableDocument::parse(json.as_bytes()).unwrap()
    }

    fn refused<T: std::fmt::Debug>(granted: Result<T, MoveError>) -> NotGranted {
        match granted {
            Err(MoveError::Group(refused)) => refused,
            other => panic!("{other:?}"),
        }
    }

    /// Carries out every wish about slots.
    fn move_all(table: &mut TableDocument) {
        loop {
            let owners = moves::owners_of(&table.ranges).unwrap();
            let Some((from, to, slots)) = table.moves.next(&owners, moves::SLOTS_AT_ONCE, |_| false, |_, _| 1) else {
                return;
            };
            table.moves.begin(from, to, &slots, 0, &owners);
            let after = table.moves.commit(table.moves.last, &owners).unwrap();
            table.ranges = moves::ranges_of(after.clone());
            table.moves.finish(table.moves.last, &after);
        }
    }

    fn slots_of(table: &TableDocument, id: u32) -> usize {
        owned(group(id), &moves::owners_of(&table.ranges).unwrap()).len()
    }

    fn come(table: &mut TableDocument, id: u32) {
        table.begin_group(group(id), &NODES, 7);
        table.end_beginning(group(id));
    }

    #[test]
    fn a_group_comes_once_however_often_it_is_asked_for() {
        let mut table = table();
        assert_eq!(table.add_group(None), Ok(group(3)));
        let written = table.document();
        assert_eq!(table.add_group(Some(group(3))), Ok(group(3)));
        assert_eq!(table.document(), written, "what is said again changes nothing");
        assert_eq!(table.add_group(Some(group(5))), Err(NotGranted::OutOfTurn { wanted: group(5), next: group(4) }));
        assert_eq!(table.stage(group(3)), Some(Stage::Coming));
        assert!(table.life.is_unsettled() && table.epoch == 1 && !table.groups.contains_key(&group(3)));
        table.begin_group(group(3), &[], 7);
        assert_eq!(table.stage(group(3)), Some(Stage::Coming), "nobody would vote");
        table.begin_group(group(3), &NODES, 7);
        table.begin_group(group(3), &[NodeId(9)], 8);
        assert_eq!(table.life.begun().collect::<Vec<_>>(), [(group(3), &NODES[..])], "its founders are named once");
        assert_eq!((table.epoch, table.seeds.of(group(3)), table.stage(group(3))), (2, 7, Some(Stage::Begun)));
        table.end_beginning(group(3));
        assert!(!table.life.is_unsettled() && table.stage(group(3)) == Some(Stage::Member));
        assert_eq!(table.add_group(Some(group(3))), Ok(group(3)));
        assert_eq!(table.add_group(None), Ok(group(4)));
    }

    #[test]
    fn a_number_is_never_given_out_again() {
        let mut table = table();
        table.add_group(None).unwrap();
        table.remove_group(group(3), &[]).unwrap();
        assert_eq!(table.stage(group(3)), Some(Stage::Gone), "it had not even begun");
        assert_eq!(table.add_group(Some(group(3))), Err(NotGranted::Gone(group(3))));
        assert_eq!(table.add_group(None), Ok(group(4)));
        come(&mut table, 4);
        table.remove_group(group(4), &[]).unwrap();
        table.bury_group(group(4));
        assert_eq!(table.next_group(), group(5), "also when it was the highest");
        let mut first = self::table();
        first.remove_group(group(2), &[]).unwrap();
        move_all(&mut first);
        first.bury_group(group(2));
        assert_eq!(first.next_group(), group(3), "also that of a founder's");
    }

    #[test]
    fn half_of_a_group_goes_to_the_one_that_is_split_off() {
        let mut table = table();
        assert_eq!(table.split_group(group(1), None, |_| 0), Ok(group(3)));
        let written = table.document();
        assert_eq!(table.split_group(group(1), None, |_| 0), Ok(group(3)));
        assert_eq!(table.split_group(group(1), Some(group(3)), |_| 0), Ok(group(3)));
        assert_eq!(table.document(), written, "said again it changes nothing");
        come(&mut table, 3);
        move_all(&mut table);
        assert_eq!([1, 2, 3].map(|id| slots_of(&table, id)), [4096, 8192, 4096]);
        let written = table.document();
        assert_eq!(table.split_group(group(1), None, |_| 0), Ok(group(3)));
        assert_eq!(table.document(), written, "also when it is done");
        assert_eq!(table.split_group(group(1), Some(group(4)), |_| 0), Ok(group(4)));
        assert_eq!(refused(table.split_group(group(1), Some(group(1)), |_| 0)), NotGranted::Itself(group(1)));
        assert_eq!(refused(table.split_group(group(9), None, |_| 0)), NotGranted::NoGroup(group(9)));
    }

    #[test]
    fn keys_count_where_they_are_many() {
        let mut table = table();
        // All that there is lies in the last hundred slots.
        let keys = |slot: Slot| if slot.0 >= 8092 { 1_000_000 } else { 0 };
        table.split_group(group(1), None, keys).unwrap();
        let wished: Vec<_> = table.moves.wished().map(|(to, slots)| (to, slots.to_string())).collect();
        assert_eq!(wished, [(group(3), "8142-8191".to_owned())]);
        let owners = moves::owners_of(&table.ranges).unwrap();
        // One slot has everything: it goes or stays, and both groups have some.
        let half = self::table().half_of(group(1), &owners, |slot| if slot.0 == 8191 { 1_000_000 } else { 0 });
        assert_eq!(half.unwrap().to_string(), "8191");
        table.moves.wish(&"0-8190".parse().unwrap(), group(2), &owners);
        assert_eq!(table.half_of(group(1), &owners, |_| 0), Err(NotGranted::TooFew(group(1))));
    }

    #[test]
    fn a_group_goes_when_the_table_gives_it_nothing() {
        let mut table = table();
        table.add_group(None).unwrap();
        come(&mut table, 3);
        table.remove_group(group(1), &[]).unwrap();
        let written = table.document();
        table.remove_group(group(1), &[]).unwrap();
        assert_eq!(table.document(), written, "said again it changes nothing");
        let wished: BTreeMap<GroupId, usize> = table.moves.wished().map(|(to, slots)| (to, slots.len())).collect();
        assert_eq!(wished, [(group(3), 8192)].into(), "the emptiest has them, and all have equally many");
        let epoch = table.epoch;
        table.bury_group(group(1));
        assert_eq!((table.stage(group(1)), table.epoch), (Some(Stage::Leaving), epoch), "it has slots");
        move_all(&mut table);
        assert!(table.is_bare(group(1)));
        table.bury_group(group(1));
        assert_eq!((table.stage(group(1)), table.epoch), (Some(Stage::Gone), epoch + 1));
        assert!(!table.groups.contains_key(&group(1)));
        table.remove_group(group(1), &[]).unwrap();
        table.bury_group(group(1));
        assert_eq!(table.epoch, epoch + 1, "said again it changes nothing");
    }

    #[test]
    fn nothing_is_wished_to_a_group_that_goes() {
        let mut table = table();
        table.add_group(None).unwrap();
        come(&mut table, 3);
        let owners = moves::owners_of(&table.ranges).unwrap();
        table.moves.wish(&"0-9".parse().unwrap(), group(3), &owners);
        assert_eq!(refused(table.remove_group(group(3), &[])), NotGranted::Wished(group(3)));
        table.moves.begin(group(1), group(3), &"0-9".parse().unwrap(), 0, &owners);
        table.moves.wish(&"0-9".parse().unwrap(), group(2), &owners);
        assert_eq!(refused(table.remove_group(group(3), &[])), NotGranted::Wished(group(3)), "they are on their way");
        table.moves.abort();
        table.moves.finish(1, &owners);
        table.remove_group(group(3), &[]).unwrap();
        assert_eq!(table.stays(group(3)), Err(NotGranted::Leaving(group(3))));
        assert_eq!(refused(table.split_group(group(1), Some(group(3)), |_| 0)), NotGranted::Leaving(group(3)));
        assert_eq!(refused(table.remove_group(group(1), &[group(3)])), NotGranted::Leaving(group(3)));
        assert_eq!(table.add_group(Some(group(3))), Err(NotGranted::Leaving(group(3))));
    }

    #[test]
    fn the_last_group_stays() {
        let mut table = table();
        table.remove_group(group(2), &[]).unwrap();
        assert_eq!(refused(table.remove_group(group(1), &[])), NotGranted::Wished(group(1)), "it is given slots");
        move_all(&mut table);
        assert_eq!(refused(table.remove_group(group(1), &[])), NotGranted::Last(group(1)), "the other one goes");
        table.bury_group(group(2));
        assert_eq!(refused(table.remove_group(group(1), &[])), NotGranted::Last(group(1)));
        assert_eq!(refused(table.remove_group(GroupId::META, &[])), NotGranted::NoGroup(GroupId::META));
        table.add_group(None).unwrap();
        assert_eq!(
            refused(table.remove_group(group(1), &[])),
            NotGranted::Last(group(1)),
            "one that comes is not there"
        );
    }

    #[test]
    fn a_group_that_was_to_go_stays_after_all() {
        let mut table = table();
        table.remove_group(group(2), &[group(1)]).unwrap();
        assert_eq!(refused(table.may_stay(&"9000".parse().unwrap())), NotGranted::Leaving(group(2)));
        assert!(table.may_stay(&"0-8191".parse().unwrap()).is_ok());
        table.keep_group(group(2)).unwrap();
        assert_eq!(table.stage(group(2)), Some(Stage::Member));
        assert!(table.moves.is_settled() && slots_of(&table, 2) == 8192);
        table.keep_group(group(2)).unwrap();
        assert!(table.may_stay(&"9000".parse().unwrap()).is_ok());
    }

    #[test]
    fn it_reads_back_what_it_wrote_and_an_older_program_refuses_it() {
        let mut table = table();
        assert!(table.life.is_none() && !String::from_utf8(table.document()).unwrap().contains("life"));
        table.split_group(group(1), None, |_| 0).unwrap();
        table.begin_group(group(3), &NODES, 7);
        table.remove_group(group(2), &[]).unwrap();
        table.stamp_version();
        assert_eq!(table.version, 4);
        let read = TableDocument::parse(&table.document()).unwrap();
        assert_eq!((&read.life, read.document()), (&table.life, table.document()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        /// Whatever is wished in whatever order: each slot is one group's, of one that is there; numbers rise; what has gone owned
        /// nothing and does not come back.
        #[test]
        fn whatever_comes_and_goes_every_slot_is_some_groups_that_is_there(
            wishes in prop::collection::vec((0..6u8, 1..7u32, 1..7u32), 1..30),
        ) {
            let (mut table, mut last) = (table(), 2);
            for (what, a, b) in wishes {
                let before = table.document();
                let granted = match what {
                    0 => table.add_group(None).is_ok(),
                    1 => table.split_group(group(a), Some(group(b)), |_| 0).is_ok(),
                    2 => table.remove_group(group(a), &[]).is_ok(),
                    3 => table.keep_group(group(a)).is_ok(),
                    4 => {
                        let coming: Vec<GroupId> = table.life.coming().collect();
                        coming.into_iter().for_each(|id| table.begin_group(id, &NODES, 1));
                        let begun: Vec<GroupId> = table.life.begun().map(|(id, _)| id).collect();
                        begun.into_iter().for_each(|id| table.end_beginning(id));
                        true
                    }
                    _ => {
                        // What is wished to a group that is not there waits, as for the mover.
                        if table.life.coming.is_empty() {
                            move_all(&mut table);
                        }
                        let leaving: Vec<GroupId> = table.life.leaving().collect();
                        leaving.into_iter().for_each(|id| table.bury_group(id));
                        true
                    }
                };
                prop_assert!(granted || table.document() == before, "what is refused changes nothing");
                let owners = moves::owners_of(&table.ranges).unwrap();
                prop_assert_eq!(owners.len(), SLOTS);
                prop_assert!(table.ranges.iter().all(|(.., owner)| table.groups.contains_key(owner)));
                let wished = |(to, _): (GroupId, &SlotSet)| table.groups.contains_key(&to) || table.life.coming.contains(&to);
                prop_assert!(table.moves.wished().all(wished));
                prop_assert!(table.life.leaving().all(|id| !table.moves.takes(id)));
                prop_assert!(table.life.gone().all(|id| !table.groups.contains_key(&id) && table.next_group() > id));
                prop_assert!(table.next_group().0 > last);
                prop_assert!(table.groups.keys().any(|id| table.stays(*id).is_ok()));
                last = table.next_group().0 - 1;
            }
        }
    }

    #[test]
    fn whoever_is_alone_left_gives_up_what_was_never_given_a_slot() {
        let mut table = table();
        let three = table.split_group(group(1), None, |_| 0).unwrap();
        table.begin_group(three, &NODES, 7);
        let four = table.add_group(None).unwrap();
        let mut given = TableDocument::parse(&table.document()).unwrap();
        table.give_up_beginnings();
        assert_eq!((table.stage(three), table.stage(four)), (Some(Stage::Gone), Some(Stage::Coming)));
        assert_eq!(table.moves.wished().count(), 0, "nothing goes to a group that does not come");
        // What has a slot has a log.
        given.ranges =
            vec![(Slot(0), Slot(8190), group(1)), (Slot(8191), Slot(8191), three), (Slot(8192), Slot(16383), group(2))];
        given.give_up_beginnings();
        assert_eq!(given.stage(three), Some(Stage::Member));
    }
}
