//! Has groups come and go as the table's document wishes (`life.rs`). Runs on whoever leads the meta group, beside `driver.rs`
//! and `mover.rs`.
//!
//! ```text
//! coming   the roster places it -> it is brought into the table, with its founders
//! begun    it is told `own` of no slot -> its founders are forgotten
//! leaving  (the mover takes its slots away) -> its own log says that it owns nothing -> gone
//! gone     the roster forgets it
//! ```
//!
//! Between two looks it keeps nothing but words, so another node goes on wherever this one stopped; every step may be said twice.
//!
//! Invariants: nothing is begun on a document that is not the newest; `gone` is written only of a group that is wished no slots
//! any more and whose own log, asked after that, owns nothing, hands nothing over and holds nothing.

use super::life::Stage;
use super::membership::{self, WishError};
use super::mover::{self, MoveError, Stop, take};
use super::roster::Roster;
use super::{Cluster, Seeds, TableDocument, TableLook, driver, table_of};
use crate::commands::handover::Step;
use crate::env::{self, Instant};
use crate::planted::{self, Bug};
use crate::raft::{Group, Refusal};
use crate::state::SlotSet;
use crate::types::{GroupId, Level, NodeId, Slot};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// How long the steps of one look may take, and the meta group to write.
const ASK: Duration = Duration::from_secs(6);
/// How long a group may take to answer: another may be waiting behind it.
const ANSWER: Duration = Duration::from_secs(2);

/// What an operator wishes of groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeGroups {
    /// The next one, or this one, which must be the next if it is not there.
    Add { group: Option<GroupId> },
    /// Half of its slots go to another.
    Split { group: GroupId, into: Option<GroupId> },
    /// Its slots go to these, or to all others, and then it goes.
    Remove { group: GroupId, to: Vec<GroupId> },
    /// It does not go after all.
    Keep { group: GroupId },
}

/// How far that has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupChange {
    pub epoch: u64,
    /// The group that comes or goes.
    pub group: GroupId,
    pub stage: Stage,
    /// The wish changed nothing: it was granted before.
    pub already: bool,
    pub done: bool,
    /// Who is to vote in it.
    pub voters: Vec<NodeId>,
    /// Slots that are still to go to it, or away from it, and whose they are to be.
    pub slots: Vec<(GroupId, SlotSet)>,
    /// What is waited for, in words.
    pub waiting: Vec<String>,
}

/// A wish as the table's document has it, written or only tried.
struct Granted {
    group: GroupId,
    already: bool,
    table: TableDocument,
}

impl Cluster {
    /// Grants a wish about groups, or says how far one has come that was granted. With `dry_run` nothing is changed, and what
    /// would be is told.
    pub async fn change_groups(
        &self,
        wish: &ChangeGroups,
        dry_run: bool,
        deadline: Instant,
    ) -> Result<GroupChange, MoveError> {
        let no_leader = || MoveError::Wish(WishError::NotWritten(Refusal::NoLeader));
        let meta = self.host().group(GroupId::META).ok_or_else(no_leader)?;
        if !dry_run && self.roster().is_none() {
            // Groups are placed by it, and whoever leads the meta group has a copy of every group from then on.
            self.edit_roster(&meta, false, deadline, |_| Ok(())).await?;
        }
        let edit = |table: &mut TableDocument| {
            let before = table.document();
            let group = self.grant(wish, table)?;
            let already = table.document() == before;
            Ok(Granted {
                group,
                already,
                table: TableDocument::parse(&table.document()).map_err(WishError::Unreadable)?,
            })
        };
        let mut granted = self.edit_table(&meta, dry_run, deadline, edit).await?;
        if !dry_run {
            let known = table_of(&meta).map_err(WishError::Unreadable)?;
            granted.table = known.map_or(granted.table, |(_, table)| table);
        }
        // The one that there would be, where there is none.
        let roster = self.edit_roster(&meta, true, deadline, |_| Ok(())).await?.after;
        self.group_change(roster, wish, granted, dry_run)
    }

    /// How every group stands that there ever was, and who founds it while it is being begun; as this node's copy of the table
    /// has it.
    pub fn stages(&self) -> Result<BTreeMap<GroupId, (Stage, Vec<NodeId>)>, String> {
        let meta = self.host().group(GroupId::META);
        let table = meta.map_or(Ok(None), |meta| table_of(&meta))?;
        Ok(table.map_or_else(BTreeMap::new, |(_, table)| table.stages()))
    }

    /// What a group that comes or goes waits for, if this node leads the meta group.
    pub fn group_waits_for(&self, group: GroupId) -> Option<String> {
        self.keeping.lock().get(&group).cloned()
    }

    fn grant(&self, wish: &ChangeGroups, table: &mut TableDocument) -> Result<GroupId, MoveError> {
        match wish {
            ChangeGroups::Add { group } => Ok(table.add_group(*group)?),
            ChangeGroups::Split { group, into } => {
                let held = self.host().group(*group);
                let keys = |slot: Slot| held.as_ref().map_or(0, |group| group.peek(|keys| keys.slot_len(slot)));
                table.split_group(*group, *into, keys)
            }
            ChangeGroups::Remove { group, to } => table.remove_group(*group, to).map(|()| *group),
            ChangeGroups::Keep { group } => table.keep_group(*group).map(|()| *group),
        }
    }

    fn group_change(
        &self,
        mut roster: Roster,
        wish: &ChangeGroups,
        Granted { group, already, table }: Granted,
        dry_run: bool,
    ) -> Result<GroupChange, MoveError> {
        let stage = table.stage(group).unwrap_or(Stage::Gone);
        if stage == Stage::Coming && !roster.target.contains_key(&group) {
            roster.place(group);
        }
        let voters = roster.target.get(&group).cloned().unwrap_or_default();
        let owners = super::moves::owners_of(&table.ranges).map_err(WishError::Unreadable)?;
        let about = |to: GroupId, slots: &SlotSet| -> SlotSet {
            slots.iter().filter(|slot| to == group || owners.get(usize::from(slot.0)) == Some(&group)).collect()
        };
        let slots = table.moves.wished().map(|(to, slots)| (to, about(to, slots)));
        let slots: Vec<(GroupId, SlotSet)> = slots.filter(|(_, slots)| !slots.is_empty()).collect();
        let idle = !table.moves.takes(group) && !table.moves.is_under_way_from(group);
        let mut waiting = Vec::new();
        if !dry_run {
            waiting.extend(self.group_waits_for(group).map(|how| format!("group {group} {how}")));
            if matches!(stage, Stage::Begun | Stage::Member) {
                waiting.extend(self.unlike(&roster, group));
            }
            if !slots.is_empty() {
                waiting.extend(self.moving.lock().iter().cloned());
            }
        }
        let there = matches!(stage, Stage::Member) && waiting.is_empty();
        let done = match wish {
            ChangeGroups::Add { .. } => there,
            ChangeGroups::Split { .. } => there && !table.moves.takes(group),
            ChangeGroups::Remove { .. } => stage == Stage::Gone && !roster.target.contains_key(&group),
            ChangeGroups::Keep { .. } => stage != Stage::Leaving && idle,
        };
        let already = already && done;
        Ok(GroupChange { epoch: table.epoch, group, stage, already, done: done && !dry_run, voters, slots, waiting })
    }

    /// What of a group is not as the roster wants it, in words, as this node's own replica knows.
    fn unlike(&self, roster: &Roster, id: GroupId) -> Option<String> {
        let wanted = driver::wanted(roster, &self.table(), id, |node| self.alive(node));
        let Some(group) = self.host().group(id) else { return Some(format!("group {id} is being opened here")) };
        let (voters, learners) = group.members_applied();
        if wanted.has(&voters, &learners) && group.leader().is_some() {
            return None;
        }
        let how = self.progress.lock().get(&id).cloned().unwrap_or_else(|| "is being given its copies".to_owned());
        Some(format!("group {id} {how}"))
    }

    /// Looks and acts while this node leads the meta group. Never ends.
    pub(super) async fn keep_groups(self: Arc<Self>, meta: Arc<Group>) {
        let mut look = TableLook::default();
        loop {
            env::sleep(LOOK).await;
            let leads = meta.is_leader() && !self.members.is_forced();
            let table = if leads { look.at(&meta) } else { Ok(None) };
            match table {
                Ok(Some(table)) if self.has_work(&meta, &table) => {
                    let told = self.look_after_groups(&meta).await;
                    *self.keeping.lock() = told;
                }
                // That it cannot be read is told by whoever routes by it.
                _ => self.keeping.lock().clear(),
            }
        }
    }

    fn has_work(&self, meta: &Group, table: &TableDocument) -> bool {
        if table.life.is_none() {
            return false;
        }
        let roster = membership::roster_of(meta).ok().flatten().map(|(_, roster)| roster).unwrap_or_default();
        table.life.is_unsettled()
            || table.life.leaving().any(|id| table.is_bare(id))
            || roster.target.keys().any(|id| table.life.is_gone(*id))
    }

    /// Takes the next step of each group that comes or goes. Gives what they wait for.
    async fn look_after_groups(&self, meta: &Arc<Group>) -> BTreeMap<GroupId, String> {
        let (deadline, mut told) = (env::now() + ASK, BTreeMap::new());
        if meta.barrier(Level::Linearizable, deadline).await.is_err() || !meta.is_leader() {
            return told;
        }
        let Ok(Some((_, table))) = table_of(meta) else { return told };
        if let Err(why) = self.level_roster(meta, &table, deadline).await {
            tracing::debug!(why, "roster-not-written");
        }
        for id in table.life.coming() {
            if let Err(why) = self.begin_group(meta, id, deadline).await {
                told.insert(id, format!("is not begun yet: {why}"));
            }
        }
        for (id, _) in table.life.begun() {
            if let Err(why) = self.tell_group(meta, id, deadline).await {
                told.insert(id, format!("is being begun: {why}"));
            }
        }
        for id in table.life.leaving().filter(|id| table.is_bare(*id)) {
            let founded = table.life.begun().all(|(begun, _)| begun != id);
            if let Err(why) = self.bury(meta, id, founded, deadline).await {
                told.insert(id, format!("owns no slot by the table, and stays: {why}"));
            }
        }
        told
    }

    /// Has the roster place what comes, and forget what has gone.
    async fn level_roster(&self, meta: &Arc<Group>, table: &TableDocument, deadline: Instant) -> Result<(), String> {
        let roster = membership::roster_of(meta)?.map(|(_, roster)| roster).unwrap_or_default();
        let missing: Vec<GroupId> = table.life.coming().filter(|id| !roster.target.contains_key(id)).collect();
        if missing.is_empty() && !roster.target.keys().any(|id| table.life.is_gone(*id)) {
            return Ok(());
        }
        let edit = |roster: &mut Roster| {
            roster.forget(|id| table.life.is_gone(id));
            missing.iter().for_each(|id| _ = roster.place(*id));
            Ok(())
        };
        self.edit_roster(meta, false, deadline, edit).await.map(drop).map_err(|e| e.to_string())
    }

    /// Brings a group that is placed into the table.
    async fn begin_group(&self, meta: &Arc<Group>, id: GroupId, deadline: Instant) -> Result<(), String> {
        let roster = membership::roster_of(meta)?.map(|(_, roster)| roster).unwrap_or_default();
        let voters = roster.target.get(&id).cloned().unwrap_or_default();
        if voters.is_empty() {
            return Err("there is no node that may vote in it".to_owned());
        }
        // Whoever is named founds it: it would have no leader until most of them are back.
        // From then on the table is no longer the first one, by which the cluster's own groups are founded.
        let unfounded = self.table().data_groups().find(|other| {
            let members = self.host().group(*other).map(|group| group.members_applied().0);
            members.is_none_or(|sets| sets.iter().all(|set| set.is_empty()))
        });
        if let Some(other) = unfounded {
            return Err(format!("group {other} has no members yet"));
        }
        let heard = voters.iter().filter(|voter| self.alive(**voter)).count();
        if heard * 2 <= voters.len() {
            return Err(format!("most of the nodes {voters:?} are not heard"));
        }
        let seeds = Seeds::draw([id].iter());
        let begin = |table: &mut TableDocument| {
            table.begin_group(id, &voters, seeds.of(id));
            Ok(())
        };
        self.edit_table(meta, false, deadline, begin).await.map_err(|e| e.to_string())?;
        tracing::info!(group = %id, ?voters, "group-begun");
        Ok(())
    }

    /// Has a group that was begun say in its own log that it owns nothing.
    async fn tell_group(&self, meta: &Arc<Group>, id: GroupId, deadline: Instant) -> Result<(), String> {
        let group = self.host().group(id).ok_or("it is being opened here")?;
        self.has_own(&group, deadline).await?;
        let told = |table: &mut TableDocument| {
            table.end_beginning(id);
            Ok(())
        };
        self.edit_table(meta, false, deadline, told).await.map_err(|e| e.to_string())?;
        tracing::info!(group = %id, "group-added");
        Ok(())
    }

    /// Ends well when a group that never owned a slot knows that by its own log: until then it answers for all of them.
    async fn has_own(&self, group: &Arc<Group>, deadline: Instant) -> Result<(), String> {
        if group.peek(|keys| keys.ownership().owned().is_some()) {
            return Ok(());
        }
        let deadline = deadline.min(env::now() + ANSWER);
        match take(group, Step::Own(SlotSet::default()), deadline).await {
            Ok(_) => Ok(()),
            Err(Stop::Later(why) | Stop::Refused(why)) => Err(why),
        }
    }

    /// Writes that a group has gone which the table gives nothing, if its own log says the same. One that is still being begun
    /// is not asked: its log has nothing to say that clients were ever told, and it may never have a leader.
    async fn bury(&self, meta: &Arc<Group>, id: GroupId, founded: bool, deadline: Instant) -> Result<(), String> {
        if founded && !self.host().is_dropped(id) && !planted::is(Bug::BuriedUnasked) {
            self.owns_nothing(id, deadline).await?;
        }
        let bury = |table: &mut TableDocument| {
            table.bury_group(id);
            Ok(())
        };
        self.edit_table(meta, false, deadline, bury).await.map_err(|e| e.to_string())?;
        tracing::info!(group = %id, "group-removed");
        Ok(())
    }

    /// Ends well if a group's own log says that it owns nothing, hands nothing over and holds nothing.
    async fn owns_nothing(&self, id: GroupId, deadline: Instant) -> Result<(), String> {
        let group = self.host().group(id).ok_or("it is not open here")?;
        self.has_own(&group, deadline).await?;
        mover::fresh(&group, deadline).await?;
        let (owned, under_way, keys) = group.peek(|keys| {
            let ownership = keys.ownership();
            (ownership.owned().map(SlotSet::len), ownership.handover().is_some(), keys.len())
        });
        match (owned, under_way, keys) {
            (Some(0), false, 0) => Ok(()),
            (Some(0), false, _) => {
                let cleared = mover::clear(&group, deadline).await;
                cleared.map_err(|(Stop::Later(why) | Stop::Refused(why))| why)?;
                Err("it was cleared of what earlier moves left".to_owned())
            }
            (owned, ..) => Err(format!("by its own log it owns {owned:?} slots, handing over: {under_way}")),
        }
    }
}
