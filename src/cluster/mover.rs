//! Moves slots between groups as the table's document wishes (`moves.rs`). Runs on whoever leads the meta group, beside
//! `driver.rs`.
//!
//! ```text
//! shipping    own + expect at the target, own + freeze at the source, install until the target answers whole -> committed
//!             (a step refused, or not whole in time -> aborted)
//! committed   activate at the target, drop at the source, clear there until nothing is left -> finished
//! aborted     abort at both, clear at the target until nothing is left -> finished
//! ```
//!
//! Between two looks it keeps only what is advice: since when a batch is frozen, what did not go lately and why. What to do
//! next follows from the document and from what the groups answer, so another node goes on wherever this one stopped; every
//! step may be said twice.
//!
//! Invariants: nothing is begun on a document that is not the newest; `committed` is written only after the source has answered
//! that it is frozen and the target that it is whole, both in this look, and neither that it has ended; activate and drop are said
//! only of what is committed, abort only of what is aborted; drop only after the target has answered to activate.

use super::life::NotGranted;
use super::membership::WishError;
use super::memory::Coming;
use super::moves::{self, Batch, Owners, Phase};
use super::{Cluster, TABLE, TableDocument, TableLook, table_of};
use crate::commands::handover::{self, Step};
use crate::env::{self, Instant};
use crate::raft::{Group, Outcome, Refusal};
use crate::resp::Reply;
use crate::state::eviction::{Kind, Limit};
use crate::state::{Place, Progress, SlotSet, Survey};
use crate::types::{GroupId, Level, Slot};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// How long the steps of one look may take, and the meta group to write.
const ASK: Duration = Duration::from_secs(6);
/// What is not whole so long after it was frozen comes to nothing: clients wait for it, and not longer than requests may take.
const FROZEN: Duration = Duration::from_secs(3);
/// The same for what another driver had frozen: nobody knows for how long.
const FROZEN_BEFORE: Duration = Duration::from_secs(1);
/// How long this node's copies of both groups may take to show that they are up to date, before anything is frozen.
const FRESH: Duration = Duration::from_secs(1);
/// Bytes of an entry that installs, about; a single value may be larger.
const PART_BYTES: usize = 1 << 20;
/// Bytes of a value that does not move: it would be one entry, and stall both groups while it is read.
const VALUE_MAX: usize = 64 << 20;
/// Keys that one entry clears away.
const CLEARED_AT_ONCE: usize = 2_000;
/// Bytes that one batch takes, if that is more than one slot.
const BYTES_AT_ONCE: u64 = 64 << 20;
/// Before slots that could not go are tried again; but for those that only lack room, or a group that is up to date, twice as
/// long each time, so that clients do not wait for them half of the time, and at most [`AGAIN_MOST`].
const AGAIN: Duration = Duration::from_secs(5);
const AGAIN_MOST: Duration = Duration::from_secs(320);
/// A batch that is in one phase for so long is told in the log, each time that this has passed.
const STUCK: Duration = Duration::from_secs(10);
/// Between two batches: as long as the last one took, within these. So clients have half of the time to themselves.
const REST: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// What an operator wishes of slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoveSlots {
    pub slots: SlotSet,
    /// Whose they are to be; none: nothing is wished of them any more.
    pub to: Option<GroupId>,
}

/// How far that has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moving {
    pub epoch: u64,
    /// The last number that a batch was given.
    pub last: u64,
    /// Who owns what: first slot, last slot, group.
    pub ranges: Vec<(Slot, Slot, GroupId)>,
    /// What is wished and not so yet, of all slots.
    pub wished: Vec<(GroupId, SlotSet)>,
    pub under_way: Option<Batch>,
    /// Of the slots that were asked about, those that are not as it was asked.
    pub missing: SlotSet,
    /// What is waited for, in words.
    pub waiting: Vec<String>,
    /// Rises whenever a group comes or goes; and whether one is just coming.
    pub group_changes: u64,
    pub groups_unsettled: bool,
    /// Groups that are to go when their slots have gone.
    pub leaving: Vec<GroupId>,
}

/// Why a wish about slots was not granted. Nothing was changed, but where the answer says that this is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoveError {
    #[error(transparent)]
    Group(#[from] NotGranted),
    #[error("no slot is named")]
    NoSlots,
    #[error(transparent)]
    Wish(#[from] WishError),
}

/// Why a look ended before its batch did.
pub(super) enum Stop {
    /// It is tried again.
    Later(String),
    /// A group does not take part: it comes to nothing.
    Refused(String),
}

use Stop::{Later, Refused};

/// What is remembered between two looks.
struct Seen {
    /// Until when the batch of this number may be frozen.
    frozen: Option<(u64, Instant)>,
    /// Slots that could not go lately, until when they are passed over, and why.
    waits: BTreeMap<u16, (Instant, String)>,
    /// How often in a row slots could not go.
    failed: BTreeMap<u16, u32>,
    /// Groups that did not show lately that they are up to date, until when all that is theirs is passed over, and why.
    quiet: BTreeMap<GroupId, (Instant, String)>,
    /// Slots for which there was no room where they are to go, until they are there or are passed over for another reason: the
    /// room that is made for one stays its own.
    coming: BTreeMap<u16, (GroupId, Coming)>,
    /// The batch and its phase, and when its being there is worth a line in the log.
    phase: Option<(u64, Phase, Instant)>,
    /// Slots at once: fewer after a batch that was not whole in time.
    most: usize,
    /// That a target did not take over what is its own has been told.
    refused: bool,
    began: Option<Instant>,
    rest: Option<Instant>,
}

impl Default for Seen {
    fn default() -> Seen {
        let (waits, failed, quiet, coming) = Default::default();
        let most = moves::SLOTS_AT_ONCE;
        Seen { frozen: None, waits, failed, quiet, coming, phase: None, most, refused: false, began: None, rest: None }
    }
}

impl Seen {
    /// They are too large for now: nobody waits for them, and in a moment it may be otherwise.
    fn pass_over(&mut self, from: GroupId, slots: &SlotSet, obstacle: &Obstacle, now: Instant) {
        for slot in slots.iter() {
            self.waits.insert(slot.0, (now + AGAIN, obstacle.to_string()));
            match obstacle {
                // Both groups are written meanwhile.
                Obstacle::NoRoom(to, bytes) => {
                    self.coming.insert(slot.0, (from, Coming { to: *to, bytes: bytes + bytes / 8 }))
                }
                Obstacle::TooLarge { .. } => self.coming.remove(&slot.0),
            };
        }
    }

    /// What only lacked room goes as soon as there is some: it was made for it, and others cannot have it meanwhile.
    fn note_room(&mut self, room: impl Fn(GroupId) -> u64) {
        let targets: BTreeSet<GroupId> = self.coming.values().map(|(_, one)| one.to).collect();
        let rooms: BTreeMap<GroupId, u64> = targets.into_iter().map(|to| (to, room(to))).collect();
        let fits = self.coming.iter().filter(|(_, (_, one))| one.bytes <= rooms[&one.to]);
        fits.for_each(|(slot, _)| _ = self.waits.remove(slot));
    }

    /// It has no leader, as a rule. Nothing was frozen: nobody waits, and it may have one in a moment.
    fn pass_over_group(&mut self, group: GroupId, why: &str, now: Instant) {
        self.quiet.insert(group, (now + AGAIN, why.to_owned()));
    }

    /// What was passed over for long enough is tried again.
    fn forget(&mut self, now: Instant) {
        self.waits.retain(|_, (until, _)| *until > now);
        self.quiet.retain(|_, (until, _)| *until > now);
    }

    /// For which slots room is to be made: the smallest of each target, which needs least, and the smaller ones first; of those
    /// that could go.
    fn coming(&self) -> Vec<Coming> {
        let quiet = |group: &GroupId| self.quiet.contains_key(group);
        let could = self.coming.values().filter(|(from, one)| !quiet(from) && !quiet(&one.to));
        let mut all: Vec<Coming> = could.map(|(_, one)| *one).collect();
        all.sort_by_key(|one| (one.bytes, one.to));
        let mut targets = BTreeSet::new();
        all.retain(|one| targets.insert(one.to));
        all
    }

    /// Nothing has to be kept free for what is not wished there any more, or is there; what has `begun` to come is counted there.
    fn note_coming(&mut self, table: &TableDocument, begun: impl Fn(Slot, GroupId) -> bool) {
        self.coming.retain(|slot, (_, one)| table.moves.destination(Slot(*slot)) == Some(one.to));
        let come = self.coming.iter_mut().filter(|(slot, (_, one))| begun(Slot(**slot), one.to));
        come.for_each(|(_, (_, one))| one.bytes = 0);
    }

    fn postpone(&mut self, slots: &SlotSet, why: &str, now: Instant) {
        for slot in slots.iter() {
            let failed = self.failed.entry(slot.0).or_default();
            let again = AGAIN.saturating_mul(1 << (*failed).min(16)).min(AGAIN_MOST);
            *failed += 1;
            self.waits.insert(slot.0, (now + again, why.to_owned()));
            self.coming.remove(&slot.0);
        }
    }

    /// They have gone.
    fn moved(&mut self, slots: &SlotSet) {
        slots.iter().for_each(|slot| _ = self.failed.remove(&slot.0));
    }

    /// Whether a batch has been in its phase for so long that this is to be told once more.
    fn is_stuck(&mut self, batch: &Batch, now: Instant) -> bool {
        let (id, phase, tell) = *self.phase.get_or_insert((batch.id, batch.phase, now + STUCK));
        let same = (id, phase) == (batch.id, batch.phase);
        let stuck = same && now >= tell;
        if !same || stuck {
            self.phase = Some((batch.id, batch.phase, now + STUCK));
        }
        stuck
    }

    /// What could not go, in words: each reason once.
    fn told(&self) -> Vec<String> {
        let mut by_reason: BTreeMap<&str, SlotSet> = BTreeMap::new();
        for (slot, (_, why)) in &self.waits {
            by_reason.entry(why).or_default().insert(Slot(*slot));
        }
        let slots = by_reason.into_iter().map(|(why, slots)| format!("slots {slots} are tried again: {why}"));
        let groups =
            self.quiet.iter().map(|(group, (_, why))| format!("slots of group {group} are tried again: {why}"));
        slots.chain(groups).collect()
    }
}

impl Cluster {
    /// Grants a wish about slots, or says how far one has come that was granted. With `dry_run` nothing is changed, and what
    /// would have to move is told.
    pub async fn move_slots(&self, wish: &MoveSlots, dry_run: bool, deadline: Instant) -> Result<Moving, MoveError> {
        let no_leader = || MoveError::Wish(WishError::NotWritten(Refusal::NoLeader));
        let meta = self.host().group(GroupId::META).ok_or_else(no_leader)?;
        if wish.slots.is_empty() {
            return Err(MoveError::NoSlots);
        }
        let edit = |table: &mut TableDocument| {
            let owners = moves::owners_of(&table.ranges).map_err(WishError::Unreadable)?;
            match wish.to {
                Some(to) => {
                    table.stays(to)?;
                    table.moves.wish(&wish.slots, to, &owners);
                }
                None => {
                    table.may_stay(&wish.slots)?;
                    table.forget_splits(&wish.slots);
                    table.moves.cancel(&wish.slots);
                }
            }
            Ok(())
        };
        self.edit_table(&meta, dry_run, deadline, edit).await?;
        if !dry_run && wish.to.is_some() && self.roster().is_none() {
            // Whoever leads the meta group reads out of its own copies: from the first roster on it has one of every group.
            self.edit_roster(&meta, false, deadline, |_| Ok(())).await?;
        }
        self.moving(wish)
    }

    /// Who owns which slot, and what is on its way, as this node knows.
    pub fn moving(&self, wish: &MoveSlots) -> Result<Moving, MoveError> {
        let meta = self.host().group(GroupId::META);
        let table = meta.map_or(Ok(None), |meta| table_of(&meta)).map_err(WishError::Unreadable)?;
        let unformed = || WishError::Unreadable("the cluster has no table yet: it is being formed".to_owned());
        let (_, table) = table.ok_or_else(unformed)?;
        let owners = moves::owners_of(&table.ranges).map_err(WishError::Unreadable)?;
        let on_its_way = |slot: &Slot| table.moves.under_way.as_ref().is_some_and(|batch| batch.slots.has(*slot));
        let missing = match wish.to {
            Some(to) => table.moves.missing(&wish.slots, to, &owners),
            None => wish.slots.iter().filter(on_its_way).collect(),
        };
        Ok(Moving {
            epoch: table.epoch,
            last: table.moves.last,
            wished: table.moves.wished().map(|(to, slots)| (to, slots.clone())).collect(),
            under_way: table.moves.under_way,
            group_changes: table.life.changes,
            groups_unsettled: table.life.is_unsettled(),
            leaving: table.life.leaving().collect(),
            ranges: table.ranges,
            missing,
            waiting: self.moving.lock().clone(),
        })
    }

    /// Makes another table of what there is, as often as it takes to be first. One that comes out the same is not written.
    pub(super) async fn edit_table<T>(
        &self,
        meta: &Arc<Group>,
        dry_run: bool,
        deadline: Instant,
        edit: impl Fn(&mut TableDocument) -> Result<T, MoveError>,
    ) -> Result<T, MoveError> {
        loop {
            meta.barrier(Level::Linearizable, deadline).await.map_err(WishError::NotWritten)?;
            let known = table_of(meta).map_err(WishError::Unreadable)?;
            let unformed = || WishError::Unreadable("the cluster has no table yet: it is being formed".to_owned());
            let (old, mut table) = known.ok_or_else(unformed)?;
            let before = table.document();
            let outcome = edit(&mut table)?;
            if dry_run || table.document() == before {
                return Ok(outcome);
            }
            table.stamp_version();
            if self.replace(meta, TABLE, Some(&old), &table.document(), deadline).await? {
                return Ok(outcome);
            }
        }
    }

    /// Looks and acts while this node leads the meta group. Never ends.
    pub(super) async fn keep_slots(self: Arc<Self>, meta: Arc<Group>) {
        let (mut seen, mut look) = (Seen::default(), TableLook::default());
        loop {
            env::sleep(LOOK).await;
            let leads = meta.is_leader() && !self.members.is_forced();
            let table = if leads { look.at(&meta) } else { Ok(None) };
            let under_way = match table {
                Ok(Some(table)) if !table.moves.is_settled() => table.moves.under_way.clone(),
                Err(why) => {
                    *self.moving.lock() = vec![format!("the table cannot be read: {why}")];
                    continue;
                }
                _ => {
                    seen = Seen::default();
                    self.moving.lock().clear();
                    self.coming.lock().clear();
                    continue;
                }
            };
            if seen.rest.is_some_and(|until| env::now() < until) {
                continue;
            }
            let stopped = self.look_at_slots(&meta, &mut seen).await.err();
            *self.coming.lock() = seen.coming();
            let mut told = seen.told();
            let why = stopped.map(|(Later(why) | Refused(why))| why);
            if let Some(batch) = under_way.filter(|batch| seen.is_stuck(batch, env::now())) {
                let (id, from, to, phase) = (batch.id, batch.from, batch.to, batch.phase.name());
                let why = why.as_deref().unwrap_or_default();
                tracing::warn!(id, %from, %to, slots = %batch.slots, phase, why, "slots-stuck");
            }
            told.extend(why);
            *self.moving.lock() = told;
        }
    }

    async fn look_at_slots(&self, meta: &Arc<Group>, seen: &mut Seen) -> Result<(), Stop> {
        let deadline = env::now() + ASK;
        let newest = meta.barrier(Level::Linearizable, deadline).await;
        newest.map_err(|refusal| Later(format!("the meta group does not answer: {refusal:?}")))?;
        if !meta.is_leader() {
            return Ok(());
        }
        let unreadable = |e: String| Later(format!("the table cannot be read: {e}"));
        let Some((_, table)) = table_of(meta).map_err(unreadable)? else { return Ok(()) };
        let owners = moves::owners_of(&table.ranges).map_err(unreadable)?;
        let held = |slot, group| self.host().group(group).map_or(0, |group| group.peek(|keys| keys.slot_len(slot)));
        seen.note_coming(&table, |slot, to| held(slot, to) > 0);
        let Some(batch) = &table.moves.under_way else {
            seen.forget(env::now());
            seen.note_room(|to| self.host().group(to).map_or(0, |to| room_of(&to)));
            return self.begin_batch(meta, &table, &owners, seen, deadline).await;
        };
        let (source, target) = (self.hosted(batch.from)?, self.hosted(batch.to)?);
        let mut handover = Handover { cluster: self, meta, batch: batch.clone(), source, target, deadline };
        if batch.phase == Phase::Shipping {
            match handover.ship(&owners, seen).await {
                Ok(()) => handover.commit().await?,
                Err(Refused(why)) => handover.give_up(&why, seen).await?,
                later => return later,
            }
            // What was decided is read again, for it may be another's decision, and done at once: clients wait for it.
            let decided = table_of(meta).map_err(unreadable)?.and_then(|(_, table)| table.moves.under_way);
            let Some(decided) = decided.filter(|one| one.id == batch.id) else { return Ok(()) };
            handover.batch = decided;
        }
        match handover.batch.phase {
            Phase::Shipping => Ok(()),
            Phase::Committed => handover.settle(seen).await,
            Phase::Aborted => handover.undo(seen).await,
        }
    }

    fn hosted(&self, id: GroupId) -> Result<Arc<Group>, Stop> {
        self.host().group(id).ok_or_else(|| Later(format!("group {id} is being opened here")))
    }

    /// Begins the next batch that can go, if there is one.
    async fn begin_batch(
        &self,
        meta: &Arc<Group>,
        table: &TableDocument,
        owners: &Owners,
        seen: &mut Seen,
        deadline: Instant,
    ) -> Result<(), Stop> {
        let keys = |group, slot| self.host().group(group).map_or(0, |group| group.peek(|keys| keys.slot_len(slot)));
        // What is to go to a group that is being begun holds nothing else up.
        let early =
            table.moves.wished().filter(|(to, _)| !table.groups.contains_key(to) || self.host().group(*to).is_none());
        let early = early.fold(SlotSet::default(), |mut all, (_, slots)| {
            all.add(slots);
            all
        });
        let quiet = |slot: Slot| {
            let ends = [owners.get(usize::from(slot.0)).copied(), table.moves.destination(slot)];
            !seen.quiet.is_empty() && ends.into_iter().flatten().any(|group| seen.quiet.contains_key(&group))
        };
        let waits = |slot: Slot| seen.waits.contains_key(&slot.0) || early.has(slot) || quiet(slot);
        let Some((from, to, slots)) = table.moves.next(owners, seen.most, waits, keys) else { return Ok(()) };
        let (source, target) = (self.hosted(from)?, self.hosted(to)?);
        for group in [&source, &target] {
            if let Err(why) = fresh(group, deadline).await {
                // Others may go, whose groups have leaders.
                seen.pass_over_group(group.id(), &why, env::now());
                return Ok(());
            }
        }
        let slots = match may_go(&source, &target, &slots).await {
            Ok(slots) => slots,
            // One that is too large keeps only its own slot back.
            Err(_) if slots.len() > 1 => {
                seen.most = 1;
                return Ok(());
            }
            Err(obstacle) => {
                seen.pass_over(from, &slots, &obstacle, env::now());
                return Ok(());
            }
        };
        let known = [&source, &target].map(|group| group.peek(|keys| keys.ownership().last()));
        let known = known.into_iter().max().unwrap_or(0);
        seen.began = Some(env::now());
        let begin = |table: &mut TableDocument| {
            let owners = moves::owners_of(&table.ranges).map_err(WishError::Unreadable)?;
            table.moves.begin(from, to, &slots, known, &owners);
            Ok(())
        };
        self.edit_table(meta, false, deadline, begin).await.map_err(|e| Later(e.to_string()))?;
        tracing::info!(%from, %to, %slots, "slots-begun");
        Ok(())
    }
}

/// A batch under way, as one look finds it, and who takes part.
struct Handover<'a> {
    cluster: &'a Cluster,
    meta: &'a Arc<Group>,
    batch: Batch,
    source: Arc<Group>,
    target: Arc<Group>,
    /// The end of the look.
    deadline: Instant,
}

impl Handover<'_> {
    /// Brings the target what the source holds. When it ends well, the source is frozen and the target has all there is.
    async fn ship(&self, owners: &Owners, seen: &mut Seen) -> Result<(), Stop> {
        let id = self.batch.id;
        let mut shipped = self.ship_frozen(owners, seen).await;
        if seen.frozen.is_some_and(|(of, until)| of == id && env::now() >= until) {
            seen.most = (seen.most / 2).max(1);
            if let Err(Later(why)) = shipped {
                shipped = Err(Refused(format!("the target did not have all of it in time: {why}")));
            }
        }
        shipped
    }

    async fn ship_frozen(&self, owners: &Owners, seen: &mut Seen) -> Result<(), Stop> {
        let Handover { batch, source, target, deadline, .. } = self;
        let id = batch.id;
        // Another driver may have frozen it.
        let frozen = source.peek(|keys| keys.ownership().handover().is_some_and(|of| of.id == id));
        let until = match seen.frozen {
            Some((of, until)) if of == id => until,
            _ if frozen => seen.frozen.insert((id, env::now() + FROZEN_BEFORE)).1,
            _ => *deadline,
        };
        let deadline = until.min(*deadline);
        fresh(source, deadline).await.map_err(Refused)?;
        for group in [source, target] {
            if group.peek(|keys| keys.ownership().owned().is_none()) {
                let owned = (0u16..).map(Slot).zip(owners).filter(|(_, owner)| **owner == group.id());
                take(group, Step::Own(owned.map(|(slot, _)| slot).collect()), deadline).await?;
            }
        }
        let expects = match take(target, Step::Expect(id, batch.slots.clone()), deadline).await {
            Err(Refused(why)) if why.starts_with("LEFTOVERS") => {
                clear(target, deadline).await?;
                return Err(Later(format!("group {} was cleared of what an earlier move left", batch.to)));
            }
            taken => taken?,
        };
        let (_, mut told) = part_of(expects)?;
        let (index, frozen) = part_of(take(source, Step::Freeze(id, batch.slots.clone()), deadline).await?)?;
        if frozen != Progress::Whole {
            return Err(Refused("the source does not answer that it is frozen".to_owned()));
        }
        let (_, until) = *seen.frozen.insert(match seen.frozen {
            Some((of, until)) if of == id => (id, until),
            _ => (id, env::now() + FROZEN),
        });
        let deadline = deadline.min(until);
        // Every replica that has applied the freeze holds the same in these slots; this one is asked.
        let late = || Later("this node's copy of the source is behind".to_owned());
        let mut applied = source.watch_applied();
        if env::timeout_at(deadline, applied.wait_for(|applied| *applied >= index)).await.is_err() {
            return Err(late());
        }
        while let Progress::Expects(place) = told {
            if env::now() >= deadline {
                return Err(Later("it takes too long".to_owned()));
            }
            if source.fenced() {
                return Err(Refused(differs(source)));
            }
            let now = source.estimate().unwrap_or(0);
            let excerpt = source.peek(|keys| keys.hand_over(id, place, PART_BYTES, now)).ok_or_else(late)?;
            let sent = excerpt.sent;
            let images = env::elsewhere("hand-over", move || excerpt.into_images()).await;
            let images = images.ok_or_else(|| Later("what is handed over could not be encoded".to_owned()))?;
            (_, told) = part_of(take(target, Step::Install(id, sent, images), deadline).await?)?;
        }
        Ok(())
    }

    /// Writes that the slots are the target's.
    async fn commit(&self) -> Result<(), Stop> {
        let commit = |table: &mut TableDocument| {
            let owners = moves::owners_of(&table.ranges).map_err(WishError::Unreadable)?;
            if let Some(after) = table.moves.commit(self.batch.id, &owners) {
                table.ranges = moves::ranges_of(after);
                table.epoch += 1;
            }
            Ok(())
        };
        self.write(commit).await
    }

    /// Writes that a batch comes to nothing.
    async fn give_up(&self, why: &str, seen: &mut Seen) -> Result<(), Stop> {
        let batch = &self.batch;
        tracing::warn!(id = batch.id, from = %batch.from, to = %batch.to, slots = %batch.slots, why, "slots-not-moved");
        seen.postpone(&batch.slots, why, env::now());
        let abort = |table: &mut TableDocument| {
            if table.moves.under_way.as_ref().is_some_and(|one| one.id == batch.id) {
                table.moves.abort();
            }
            Ok(())
        };
        self.write(abort).await
    }

    /// Has both groups do what was decided.
    async fn settle(&self, seen: &mut Seen) -> Result<(), Stop> {
        let Handover { batch, source, target, .. } = self;
        let deadline = self.deadline;
        let decided = |refused| match refused {
            // The one thing that must never be: it was whole, and is not taken.
            Refused(why) => {
                if !std::mem::replace(&mut seen.refused, true) {
                    tracing::error!(id = batch.id, to = %batch.to, why, "slots-not-activated");
                }
                Later(format!("group {} does not take over slots {}: {why}", batch.to, batch.slots))
            }
            later => later,
        };
        let activated = take(target, Step::Activate(batch.id), deadline).await;
        activated.map_err(decided)?;
        seen.refused = false;
        seen.moved(&batch.slots);
        take(source, Step::Drop(batch.id), deadline).await?;
        clear(source, deadline).await?;
        seen.most = (seen.most * 2).min(moves::SLOTS_AT_ONCE);
        self.finish(seen).await?;
        tracing::info!(id = batch.id, from = %batch.from, to = %batch.to, slots = %batch.slots, "slots-moved");
        Ok(())
    }

    /// Has both groups be as they were.
    async fn undo(&self, seen: &mut Seen) -> Result<(), Stop> {
        // The source first: clients wait for it.
        for group in [&self.source, &self.target] {
            take(group, Step::Abort(self.batch.id), self.deadline).await?;
        }
        clear(&self.target, self.deadline).await?;
        self.finish(seen).await
    }

    /// Writes that it has ended, in one way or the other.
    async fn finish(&self, seen: &mut Seen) -> Result<(), Stop> {
        let finish = |table: &mut TableDocument| {
            let owners = moves::owners_of(&table.ranges).map_err(WishError::Unreadable)?;
            table.moves.finish(self.batch.id, &owners);
            Ok(())
        };
        self.write(finish).await?;
        let took = seen.began.take().map_or(REST.0, |began| began.elapsed());
        seen.rest = Some(env::now() + took.clamp(REST.0, REST.1));
        Ok(())
    }

    async fn write(&self, edit: impl Fn(&mut TableDocument) -> Result<(), MoveError>) -> Result<(), Stop> {
        let written = self.cluster.edit_table(self.meta, false, self.deadline, edit).await;
        written.map_err(|e| Later(e.to_string()))
    }
}

/// What a step was answered with, and the index of its entry.
pub(super) type Taken = (u64, Reply);

/// How far the target has come, or the source. That a handover has ended is no answer while nothing is decided: it would be
/// another that ended, or one that never began.
fn part_of((index, reply): Taken) -> Result<(u64, Progress), Stop> {
    match handover::progress(&reply) {
        Some(Progress::Ended) => Err(Refused("a group says that it has ended before it was decided".to_owned())),
        Some(progress) => Ok((index, progress)),
        None => Err(Refused(format!("a group answers {reply:?}"))),
    }
}

pub(super) async fn take(group: &Arc<Group>, step: Step, deadline: Instant) -> Result<Taken, Stop> {
    let text = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
    match group.propose_and_wait(vec![step.to_args()], deadline).await {
        Outcome::Applied { index, mut replies } => match replies.pop() {
            Some(Reply::Error(why)) => Err(Refused(text(&why))),
            Some(reply) => Ok((index, reply)),
            None => Err(Later(format!("group {} gave no answer", group.id()))),
        },
        outcome => match outcome.failure_reply() {
            Reply::Error(why) => Err(Later(format!("group {}: {}", group.id(), text(&why)))),
            other => Err(Later(format!("group {}: {other:?}", group.id()))),
        },
    }
}

/// Removes what is nobody's any more, a piece at a time.
pub(super) async fn clear(group: &Arc<Group>, deadline: Instant) -> Result<(), Stop> {
    while take(group, Step::Clear(CLEARED_AT_ONCE), deadline).await?.1 != Reply::Int(0) {}
    Ok(())
}

fn differs(group: &Group) -> String {
    format!("this node's copy of group {} differs from the others and is being rebuilt", group.id())
}

/// Whether this node's copy of a group is as it should be, and up to date; else why not.
pub(super) async fn fresh(group: &Arc<Group>, deadline: Instant) -> Result<(), String> {
    if group.fenced() {
        return Err(differs(group));
    }
    let deadline = deadline.min(env::now() + FRESH);
    let newest = group.barrier(Level::Linearizable, deadline).await;
    newest.map_err(|refusal| format!("this node's copy of group {} is not up to date: {refusal:?}", group.id()))?;
    Ok(())
}

/// Bytes that a batch may bring. A cache is full as a rule, and with a policy what is too much leaves, as it does for writes; but
/// a batch is not to push out most of a small group, itself included: the share follows in a few seconds.
fn room_for_a_batch(limit: Limit, used: u64) -> u64 {
    match (limit.bytes, limit.policy) {
        (0, _) => u64::MAX,
        (bytes, Kind::NoEviction) => bytes.saturating_sub(used),
        (bytes, _) => bytes.saturating_sub(used).max(bytes / 4),
    }
}

fn room_of(target: &Group) -> u64 {
    let (limit, used) = target.peek(|keys| (keys.limit(), keys.used_bytes()));
    room_for_a_batch(limit, used)
}

/// Why the first of some slots cannot begin to go.
#[derive(Debug, thiserror::Error)]
enum Obstacle {
    #[error("group {0} has no room for {1} bytes more")]
    NoRoom(GroupId, u64),
    #[error("the key '{key}' of slot {slot} has {bytes} bytes, more than {VALUE_MAX} do not move")]
    TooLarge { key: String, slot: u16, bytes: usize },
}

/// Which of these slots could be handed over now, as this node's copies tell: as many of the first as are not too many bytes.
/// Else why not. Nothing is frozen before this is asked.
async fn may_go(source: &Arc<Group>, target: &Arc<Group>, slots: &SlotSet) -> Result<SlotSet, Obstacle> {
    let room = room_of(target);
    let (mut bytes, mut go) = (0, SlotSet::default());
    for slot in slots.iter() {
        let (one, mut survey, mut from) = (SlotSet::from_iter([slot]), Survey::default(), Some(Place::FIRST));
        while let Some(place) = from {
            from = source.peek(|keys| keys.survey(&one, place, &mut survey));
            tokio::task::yield_now().await;
        }
        if bytes + survey.bytes > BYTES_AT_ONCE.min(room) && !go.is_empty() {
            break;
        }
        if survey.bytes > room {
            return Err(Obstacle::NoRoom(target.id(), survey.bytes));
        }
        if let Some((slot, key)) = survey.key.filter(|_| survey.largest > VALUE_MAX) {
            return Err(Obstacle::TooLarge {
                key: key.escape_ascii().to_string(),
                slot: slot.0,
                bytes: survey.largest,
            });
        }
        bytes += survey.bytes;
        go.insert(slot);
    }
    Ok(go)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever took `ended` for `whole` would give slots to a group that has nothing of them.
    #[test]
    fn that_a_handover_has_ended_is_no_reason_to_commit_it() {
        let told = |text: &'static str| part_of((7, Reply::bulk(text)));
        assert!(matches!(told("whole"), Ok((7, Progress::Whole))));
        assert!(matches!(told("3:9"), Ok((7, Progress::Expects(_)))));
        assert!(matches!(told("ended"), Err(Refused(_))));
        assert!(matches!(part_of((7, Reply::OK)), Err(Refused(_))));
    }

    /// A slot that always takes too long would be frozen half of the time.
    #[test]
    fn what_fails_again_and_again_is_tried_more_and_more_seldom() {
        let (mut seen, slot, now) = (Seen::default(), "7".parse().unwrap(), env::now());
        let waits = |seen: &mut Seen| {
            seen.postpone(&slot, "it takes too long", now);
            seen.waits[&7].0.saturating_since(now)
        };
        assert_eq!([waits(&mut seen), waits(&mut seen), waits(&mut seen)], [AGAIN, AGAIN * 2, AGAIN * 4]);
        for _ in 0..60 {
            assert!(waits(&mut seen) <= AGAIN_MOST);
        }
        assert_eq!(waits(&mut seen), AGAIN_MOST);
        seen.moved(&slot);
        assert_eq!(waits(&mut seen), AGAIN);
    }

    #[test]
    fn what_lacks_room_is_looked_at_again_as_soon_each_time() {
        let (mut seen, slot, now) = (Seen::default(), "7".parse().unwrap(), env::now());
        for _ in 0..9 {
            seen.pass_over(GroupId(1), &slot, &Obstacle::NoRoom(GroupId(2), 80), now);
            assert_eq!(seen.waits[&7].0.saturating_since(now), AGAIN);
        }
        seen.postpone(&slot, "it takes too long", now);
        assert_eq!(seen.waits[&7].0.saturating_since(now), AGAIN, "nobody has waited for it before");
    }

    /// Simulated seed 3260: where memory was nearly full, one slot went every six seconds, and the room of one that had failed was
    /// kept from the others.
    #[test]
    fn what_lacked_room_goes_once_there_is_some_and_holds_up_no_other_when_it_fails() {
        let (mut seen, slot, now) = (Seen::default(), "7".parse().unwrap(), env::now());
        let full = Obstacle::NoRoom(GroupId(2), 80);
        let too_large = Obstacle::TooLarge { key: "k".to_owned(), slot: 7, bytes: 1 << 30 };
        seen.pass_over(GroupId(1), &slot, &full, now);
        assert_eq!(seen.coming(), [Coming { to: GroupId(2), bytes: 90 }]);
        seen.note_room(|_| 89);
        assert!(seen.waits.contains_key(&7), "it is to have some more, for it is written meanwhile");
        seen.note_room(|to| if to == GroupId(2) { 90 } else { 0 });
        assert!(seen.waits.is_empty() && seen.coming().len() == 1, "it goes, and its room is kept");
        seen.pass_over_group(GroupId(1), "it has no leader", now);
        assert_eq!(seen.coming(), [], "nobody has room made for it that cannot go");
        seen.postpone(&slot, "it takes too long", now);
        seen.note_room(|_| u64::MAX);
        assert!(seen.waits.contains_key(&7) && seen.coming().is_empty());
        seen.pass_over(GroupId(1), &slot, &full, now);
        seen.pass_over(GroupId(1), &slot, &too_large, now);
        seen.note_room(|_| u64::MAX);
        assert!(seen.waits.contains_key(&7) && seen.coming().is_empty(), "no room lets it in");
    }

    /// A group that was without a leader for minutes would keep its slots for minutes more.
    #[test]
    fn what_is_a_quiet_groups_is_looked_at_again_as_soon_each_time() {
        let (mut seen, now) = (Seen::default(), env::now());
        for _ in 0..9 {
            seen.pass_over_group(GroupId(2), "it has no leader", now);
        }
        assert_eq!(seen.told(), ["slots of group 2 are tried again: it has no leader"]);
        seen.forget(now + AGAIN / 2);
        assert!(seen.quiet.contains_key(&GroupId(2)));
        seen.forget(now + AGAIN);
        assert!(seen.quiet.is_empty() && seen.failed.is_empty());
    }

    #[test]
    fn a_batch_that_stays_in_a_phase_is_told_of_now_and_then() {
        let (mut seen, begun) = (Seen::default(), env::now());
        let mut stuck = |id, phase, after: u32| {
            let batch = Batch { id, slots: SlotSet::default(), from: GroupId(1), to: GroupId(2), phase };
            seen.is_stuck(&batch, begun + STUCK * after)
        };
        assert!(!stuck(1, Phase::Shipping, 0));
        assert!(!stuck(1, Phase::Committed, 1), "it has gone on");
        assert!(stuck(1, Phase::Committed, 2) && !stuck(1, Phase::Committed, 2));
        assert!(stuck(1, Phase::Committed, 3));
        assert!(!stuck(2, Phase::Committed, 4) && !stuck(2, Phase::Committed, 4));
    }

    #[test]
    fn a_batch_brings_what_there_is_room_for() {
        let limit = |bytes, policy| Limit { bytes, policy, ..Limit::default() };
        let (kept, evicted) = (Kind::NoEviction, Kind::AllkeysLru);
        assert_eq!(room_for_a_batch(limit(0, evicted), 7), u64::MAX);
        assert_eq!([0, 60, 100, 130].map(|used| room_for_a_batch(limit(100, kept), used)), [100, 40, 0, 0]);
        assert_eq!([0, 60, 100, 130].map(|used| room_for_a_batch(limit(100, evicted), used)), [100, 40, 25, 25]);
    }

    #[test]
    fn a_reason_is_told_once_for_all_of_its_slots() {
        let mut seen = Seen::default();
        seen.postpone(&"3-5".parse().unwrap(), "it is full", env::now());
        seen.postpone(&"9".parse().unwrap(), "it is full", env::now());
        seen.postpone(&"4".parse().unwrap(), "a key is too large", env::now());
        let told = ["slots 4 are tried again: a key is too large", "slots 3,5,9 are tried again: it is full"];
        assert_eq!(seen.told(), told);
    }
}
