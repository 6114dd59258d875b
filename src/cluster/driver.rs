//! Brings about what the roster wants. Runs on whoever leads the meta group.
//!
//! It keeps nothing between two looks but since when it saw a node silent: what to do next follows from the roster and from
//! what the groups' leaders tell, so another node goes on wherever this one stopped.
//!
//! Invariants: nothing is begun on a roster that is not the newest; at most one step of a group at a time, and
//! [`FILLING`] groups at a time whose new copies are far behind, on nodes that are heard; a node is dismissed only when no group's committed
//! configuration gives it a vote, and its copies are taken from it only when its doors are closed.

use super::placement;
use super::roster::{Roster, Standing};
use super::steps::{LEVEL, Next, Wanted, is_level, next};
use super::{Cluster, TableDocument, membership};
use crate::env::{self, Instant};
use crate::planted::{self, Bug};
use crate::raft::{AdminError, Configuration, Group, Planned, Step};
use crate::routing::RoutingTable;
use crate::types::{GroupId, Level, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// How long a leader may take to tell or to take a step, and the meta group to write.
const ASK: Duration = Duration::from_secs(6);
/// Groups that fill new copies at a time.
const FILLING: usize = 2;
/// A node that is gone and still heard is left to itself after so long.
const CLOSING: Duration = Duration::from_secs(30);
/// A voter of the meta group that is silent for so long gives its vote to another node.
const REPAIR: Duration = Duration::from_secs(60);
/// A node whose votes were given to others gets its share again when it was heard for so long.
const BACK: Duration = Duration::from_secs(10);
/// A leader that no majority has confirmed for so long may be the one that is cut off: it learns nothing of who is silent.
const CONFIRMED: Duration = Duration::from_secs(2);
/// Between attempts to write the first roster.
const FIRST: Duration = Duration::from_secs(1);

/// Since when something was seen of a node.
#[derive(Default)]
struct Seen {
    gone: BTreeMap<NodeId, Instant>,
    silent: BTreeMap<NodeId, Instant>,
    back: BTreeMap<NodeId, Instant>,
    /// When the first roster was tried last.
    tried: Option<Instant>,
}

impl Seen {
    /// Notes which nodes are silent, and which of those that were away are heard. Nothing counts from before a time in which this
    /// leader was not `confirmed` by a majority: it heard nobody then, whoever was there.
    fn note(&mut self, silent: &BTreeSet<NodeId>, back: &BTreeSet<NodeId>, confirmed: bool) {
        for (seen, now) in [(&mut self.silent, silent), (&mut self.back, back)] {
            seen.retain(|node, _| confirmed && now.contains(node));
            now.iter().filter(|_| confirmed).for_each(|node| {
                seen.entry(*node).or_insert_with(env::now);
            });
        }
    }
}

/// What nodes do by themselves, and the roster does not say yet.
#[derive(Default)]
struct News {
    /// Voters of the meta group that are silent, where another could vote.
    silent: BTreeSet<NodeId>,
    /// Silent for so long that others are to vote in their place.
    lost: BTreeSet<NodeId>,
    /// Back again.
    back: BTreeSet<NodeId>,
    /// Some are in other zones than it says.
    zones: bool,
}

impl News {
    fn none(&self) -> bool {
        self.silent.is_empty() && self.lost.is_empty() && self.back.is_empty() && !self.zones
    }
}

/// One group, what it should be, and what its leader says it is.
type Told = (Arc<Group>, Wanted, Result<Configuration, AdminError>);

/// What a group should be.
pub(super) fn wanted(roster: &Roster, table: &RoutingTable, id: GroupId, alive: impl Fn(NodeId) -> bool) -> Wanted {
    let target = roster.target.get(&id).map(Vec::as_slice).unwrap_or_default();
    let (gone, there): (BTreeSet<NodeId>, BTreeSet<NodeId>) =
        roster.nodes.keys().partition(|node| roster.standing(**node) == Some(Standing::Gone));
    let not_leading = [Standing::Draining, Standing::Leaving, Standing::Gone];
    Wanted {
        voters: target.iter().copied().collect(),
        copies: there,
        closing: gone.into_iter().filter(|node| table.nodes.contains_key(node)).collect(),
        not_leading: not_leading.into_iter().flat_map(|standing| roster.with(standing)).collect(),
        leader: target.first().copied().filter(|first| roster.level_leaders && alive(*first)),
        silent: roster.nodes.keys().copied().filter(|node| !alive(*node)).collect(),
    }
}

/// Whether a copy that is to be filled is far behind. One on a node that is silent is not being filled, and nobody waits for it.
fn fills(wanted: &Wanted, now: &Configuration) -> bool {
    let copies = wanted.copies.intersection(&now.learners).filter(|node| !wanted.silent.contains(node));
    copies.into_iter().any(|node| now.behind.get(node).is_none_or(|entries| *entries > LEVEL))
}

impl Cluster {
    /// Looks and acts while this node leads the meta group. Never ends.
    pub(super) async fn keep_members(self: Arc<Self>, meta: Arc<Group>) {
        let mut seen = Seen::default();
        loop {
            env::sleep(LOOK).await;
            match (meta.is_leader() && !self.members.is_forced(), self.roster()) {
                (true, Some(roster)) => self.look(&meta, &roster, &mut seen).await,
                (true, None) => self.begin_roster(&meta, &mut seen).await,
                (false, _) => {
                    seen = Seen::default();
                    self.progress.lock().clear();
                }
            }
        }
    }

    /// Where there are more founders than copies, writes the first roster as soon as all of them have come: from then on
    /// every node holds every group, and its doors serve all keys.
    async fn begin_roster(&self, meta: &Arc<Group>, seen: &mut Seen) {
        let table = self.table();
        let spread = table.groups.values().any(|info| info.voters.len() < table.nodes.len());
        if !self.layout.everywhere || !spread || seen.tried.is_some_and(|at| at.elapsed() < FIRST) {
            return;
        }
        seen.tried = Some(env::now());
        self.edit(meta, |_| ()).await;
    }

    async fn look(&self, meta: &Arc<Group>, roster: &Roster, seen: &mut Seen) {
        let table = self.table();
        let closing = roster.with(Standing::Gone).any(|node| table.nodes.contains_key(&node));
        let moving = closing || roster.with(Standing::Joining).chain(roster.with(Standing::Leaving)).next().is_some();
        let mut due = Vec::new();
        for id in roster.target.keys() {
            if *id != GroupId::META && !table.groups.contains_key(id) {
                // It comes, and is begun with these voters: until then no node moves on, for one of them might go.
                continue;
            }
            if self.host().is_dropped(*id) {
                // It has gone, and this node learnt that from a table that was lost since.
                continue;
            }
            // It is opened when this node has heard of it.
            let Some(group) = self.host().group(*id) else { return };
            let wanted = wanted(roster, &table, *id, |node| self.alive(node));
            let (voters, learners) = group.members_applied();
            let led = group.leader().is_some_and(|leader| wanted.may_lead(leader));
            if moving || !led || !wanted.has(&voters, &learners) {
                due.push((group, wanted));
            } else {
                self.progress.lock().remove(id);
            }
        }
        let news = self.news(meta, roster, &table, seen);
        let published = self.table_is_true(roster, &table);
        if due.is_empty() && !roster.level_leaders && published && news.none() {
            return;
        }
        let deadline = env::now() + ASK;
        if meta.barrier(Level::Linearizable, deadline).await.is_err() {
            seen.note(&BTreeSet::new(), &BTreeSet::new(), false);
            return;
        }
        if !stands(meta, roster) {
            return;
        }
        let levelled = due.is_empty();
        let told = self.ask_leaders(due, &table, deadline).await;
        // That may have taken long: what was wished meanwhile comes first.
        if !stands(meta, roster) {
            return;
        }
        self.take_steps(&told, deadline).await;
        self.move_standings(meta, roster, &table, &told, seen).await;
        if roster.level_leaders && levelled {
            self.edit(meta, |roster| roster.level_leaders = false).await;
        }
        self.take_news(meta, &table, &news).await;
        if !published {
            self.publish(meta, roster, deadline).await;
        }
    }

    /// What is to be written into the roster without anybody's wish.
    fn news(&self, meta: &Group, roster: &Roster, table: &RoutingTable, seen: &mut Seen) -> News {
        let belongs = |node: &NodeId| matches!(roster.standing(*node), Some(Standing::Member | Standing::Draining));
        let away = |node: &NodeId| roster.nodes.get(node).is_some_and(|entry| entry.away);
        let nodes = roster.nodes.keys().copied().filter(belongs);
        let (heard, silent): (BTreeSet<NodeId>, BTreeSet<NodeId>) = nodes.partition(|node| self.alive(*node));
        let confirmed = meta.unconfirmed_for().is_none_or(|age| age < CONFIRMED);
        seen.note(&silent, &heard.into_iter().filter(away).collect(), confirmed);
        let since = |seen: &BTreeMap<NodeId, Instant>, limit: Duration| -> BTreeSet<NodeId> {
            seen.iter().filter(|(_, since)| since.elapsed() > limit).map(|(node, _)| *node).collect()
        };
        let after = self.layout.rebuild_after;
        let lost = if after.is_zero() { BTreeSet::new() } else { since(&seen.silent, after) };
        let zone = |node: &NodeId| table.nodes.get(node).map(|info| info.zone.as_str());
        News {
            silent: self.silent_meta_voters(roster, &since(&seen.silent, REPAIR)),
            lost: lost.into_iter().filter(|node| !away(node)).collect(),
            back: since(&seen.back, BACK),
            zones: roster.nodes.iter().any(|(node, entry)| zone(node).is_some_and(|zone| zone != entry.zone)),
        }
    }

    /// What was seen before the leaders were asked counts only for those of whom it is so still.
    async fn take_news(&self, meta: &Arc<Group>, table: &RoutingTable, news: &News) {
        let (heard, unheard) = (|node: &NodeId| self.alive(*node), |node: &NodeId| !self.alive(*node));
        let silent: BTreeSet<NodeId> = news.silent.iter().copied().filter(unheard).collect();
        let lost: BTreeSet<NodeId> = news.lost.iter().copied().filter(unheard).collect();
        let back: BTreeSet<NodeId> = news.back.iter().copied().filter(heard).collect();
        if news.zones {
            self.edit(meta, |roster| {
                roster.note_zones(table.nodes.values().map(|info| (info.id, info.zone.as_str())));
            })
            .await;
        }
        if !silent.is_empty() {
            self.edit(meta, |roster| roster.stand_in(&silent, |node| self.alive(node))).await;
        }
        if !lost.is_empty() {
            tracing::warn!(nodes = ?lost, "node-lost: silent for too long; others are to vote in its place");
            self.edit(meta, |roster| roster.note_away(&lost, true)).await;
        }
        if !back.is_empty() {
            tracing::info!(nodes = ?back, "node-back: it gets its share of votes again");
            self.edit(meta, |roster| roster.note_away(&back, false)).await;
        }
    }

    async fn ask_leaders(&self, due: Vec<(Arc<Group>, Wanted)>, table: &RoutingTable, deadline: Instant) -> Vec<Told> {
        let asked = due.into_iter().map(|(group, wanted)| async move {
            let voters = table.groups.get(&group.id()).map(|info| info.voters.as_slice()).unwrap_or_default();
            let told = group.configure(None, voters, deadline).await;
            (group, wanted, told)
        });
        futures_util::future::join_all(asked).await
    }

    /// Has each group take its next step. Those that would begin to fill a copy wait for their turn.
    async fn take_steps(&self, told: &[Told], deadline: Instant) {
        let filled = |(_, wanted, now): &&Told| now.as_ref().is_ok_and(|now| fills(wanted, now));
        let mut filling = told.iter().filter(filled).count();
        let mut steps = Vec::new();
        for (group, wanted, now) in told {
            let how = match now {
                Err(e) => format!("cannot say how it is: {e}"),
                Ok(now) => match (next(now, wanted), now.at) {
                    (Next::Settled, _) => {
                        self.progress.lock().remove(&group.id());
                        continue;
                    }
                    (Next::Do(Step::AddLearner(node)), _) if filling >= FILLING && !wanted.silent.contains(&node) => {
                        format!("waits until others have filled their copies, and then gives one to node {node}")
                    }
                    (Next::Do(step), Some(at)) => {
                        filling +=
                            usize::from(matches!(&step, Step::AddLearner(node) if !wanted.silent.contains(node)));
                        let how = in_words(&step);
                        let planned = Planned { at, term: now.term, step };
                        let leader = [now.leader];
                        steps.push(async move { (group, group.configure(Some(planned), &leader, deadline).await) });
                        how
                    }
                    (Next::Do(_), None) => "has no configuration yet".to_owned(),
                    (Next::WaitFor(node, Some(entries)), _) => {
                        format!("waits for node {node}, which is {entries} entries behind")
                    }
                    (Next::WaitFor(node, None), _) => format!("waits for node {node}, which is not heard"),
                    (Next::Stuck, _) => "has nobody who could lead or vote instead".to_owned(),
                },
            };
            self.progress.lock().insert(group.id(), how);
        }
        for (group, taken) in futures_util::future::join_all(steps).await {
            if let Err(e) = taken {
                tracing::debug!(group = %group.id(), error = %e, "membership-step-not-taken");
                self.progress.lock().insert(group.id(), format!("did not take its step, and tries again: {e}"));
            }
        }
    }

    /// Moves nodes on that have come so far.
    async fn move_standings(
        &self,
        meta: &Arc<Group>,
        roster: &Roster,
        table: &RoutingTable,
        told: &[Told],
        seen: &mut Seen,
    ) {
        let all = |has: &dyn Fn(&Configuration) -> bool| {
            told.len() == roster.target.len() && told.iter().all(|(_, _, now)| now.as_ref().is_ok_and(has))
        };
        for node in roster.with(Standing::Joining) {
            let level = |now: &Configuration| is_level(now, node);
            if table.nodes.contains_key(&node) && all(&level) {
                tracing::info!(%node, "node-joined: it has copies of all groups");
                self.edit(meta, |roster| roster.welcome(node)).await;
            }
        }
        for node in roster.with(Standing::Leaving) {
            let votes = |now: &Configuration| now.leader == node || now.voters.iter().any(|set| set.contains(&node));
            if all(&|now| !votes(now)) || planted::is(Bug::GoneWhileVoting) {
                tracing::info!(%node, "node-dismissed: it votes and leads nowhere");
                self.edit(meta, |roster| roster.dismiss(node)).await;
            }
        }
        for node in roster.with(Standing::Gone).filter(|node| table.nodes.contains_key(node)) {
            let since = *seen.gone.entry(node).or_insert_with(env::now);
            if !self.alive(node) || since.elapsed() > CLOSING {
                self.forget_node(meta, node, env::now() + ASK).await;
            }
        }
    }

    /// Changes the roster; what does not succeed is tried again at the next look.
    async fn edit(&self, meta: &Arc<Group>, change: impl Fn(&mut Roster)) {
        let edit = |roster: &mut Roster| {
            change(roster);
            Ok(())
        };
        if let Err(e) = self.edit_roster(meta, false, env::now() + ASK, edit).await {
            tracing::debug!(error = %e, "roster-not-written");
        }
    }

    /// Those of the silent that vote in the meta group, if another node could vote instead.
    fn silent_meta_voters(&self, roster: &Roster, silent: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        let voters = roster.target.get(&GroupId::META).map(Vec::as_slice).unwrap_or_default();
        let spare = roster.with(Standing::Member).any(|node| !voters.contains(&node) && self.alive(node));
        silent.iter().copied().filter(|node| spare && voters.contains(node)).collect()
    }

    /// Whether the table names those who vote.
    fn table_is_true(&self, roster: &Roster, table: &RoutingTable) -> bool {
        table.groups.iter().all(|(id, info)| self.voters_to_publish(roster, *id, &info.voters).is_none())
    }

    /// The voters of a group in the order of the target, if the table names others.
    fn voters_to_publish(&self, roster: &Roster, id: GroupId, named: &[NodeId]) -> Option<Vec<NodeId>> {
        let (sets, _) = self.host().group(id)?.members_applied();
        let [voters] = &sets[..] else { return None };
        if voters.iter().copied().eq(named.iter().copied().collect::<BTreeSet<_>>()) || voters.is_empty() {
            return None;
        }
        let target = roster.target.get(&id).map(Vec::as_slice).unwrap_or_default();
        let first = target.iter().filter(|node| voters.contains(node));
        let rest = voters.iter().filter(|node| !target.contains(node));
        Some(first.chain(rest).copied().collect())
    }

    /// Writes who votes now into the table, for clients and doors.
    async fn publish(&self, meta: &Arc<Group>, roster: &Roster, deadline: Instant) {
        let edit = |table: &mut TableDocument| {
            for (id, info) in &mut table.groups {
                if let Some(voters) = self.voters_to_publish(roster, *id, &info.voters) {
                    info.voters = voters;
                }
            }
            table.epoch += 1;
            Ok(())
        };
        let written = self.edit_table(meta, false, deadline, edit).await;
        tracing::debug!(?written, "table-published");
    }
}

/// Whether this is the roster still, as far as this node knows, and this node the one to bring it about.
fn stands(meta: &Group, roster: &Roster) -> bool {
    meta.is_leader() && membership::roster_of(meta).ok().flatten().is_some_and(|(_, newest)| newest == *roster)
}

impl Roster {
    /// Others, who are alive, vote in the meta group for those who are silent: as many as there are such others.
    fn stand_in(&mut self, silent: &BTreeSet<NodeId>, alive: impl Fn(NodeId) -> bool) {
        let Some(voters) = self.target.get(&GroupId::META).cloned() else { return };
        let others: Vec<NodeId> =
            self.with(Standing::Member).filter(|node| !voters.contains(node) && alive(*node)).collect();
        let replaced: Vec<NodeId> =
            voters.iter().copied().filter(|node| silent.contains(node)).take(others.len()).collect();
        let stay = voters.iter().copied().filter(|node| !replaced.contains(node));
        let there = self.zoned(stay.chain(others.iter().copied()));
        let may_lead = |node| self.standing(node) == Some(Standing::Member);
        let meta = placement::Target::from([(GroupId::META, voters.clone())]);
        let after = placement::plan(&meta, &there, voters.len(), may_lead);
        tracing::info!(?silent, voters = ?after[&GroupId::META], "meta-voters-repaired");
        self.target.extend(after);
    }
}

fn in_words(step: &Step) -> String {
    match step {
        Step::AddLearner(node) => format!("is giving a copy to node {node}"),
        Step::Voters(voters) => {
            let voters: Vec<String> = voters.iter().map(NodeId::to_string).collect();
            format!("is changing its voters to {}", voters.join(", "))
        }
        Step::RemoveLearner(node) => format!("is taking its copy from node {node}"),
        Step::Lead(node) => format!("is handing leadership to node {node}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::roster::Entry;
    use super::*;

    #[test]
    fn what_a_leader_that_is_cut_off_believes_of_others_counts_for_nothing() {
        let (mut seen, nobody, two) = (Seen::default(), BTreeSet::new(), BTreeSet::from([NodeId(2)]));
        let known = |seen: &BTreeMap<NodeId, Instant>| seen.keys().copied().collect::<BTreeSet<_>>();
        seen.note(&two, &nobody, true);
        let since = seen.silent[&NodeId(2)];
        seen.note(&two, &nobody, true);
        assert_eq!(seen.silent[&NodeId(2)], since, "it is silent since it was first");
        seen.note(&two, &nobody, false);
        assert_eq!(known(&seen.silent), nobody, "cut off, it hears nobody");
        seen.note(&nobody, &two, true);
        assert_eq!((known(&seen.silent), known(&seen.back)), (nobody.clone(), two.clone()));
        seen.note(&two, &nobody, true);
        assert_eq!((known(&seen.silent), known(&seen.back)), (two, nobody));
    }

    #[test]
    fn a_copy_that_is_far_behind_on_a_dead_node_holds_up_no_other() {
        let set = |ids: &[u64]| ids.iter().map(|id| NodeId(*id)).collect::<BTreeSet<_>>();
        let mut wanted = Wanted {
            voters: set(&[1, 2]),
            copies: set(&[1, 2, 3, 4]),
            closing: BTreeSet::new(),
            not_leading: BTreeSet::new(),
            leader: None,
            silent: BTreeSet::new(),
        };
        let now = Configuration {
            version: 1,
            at: Some((1, 1)),
            term: 1,
            voters: vec![set(&[1, 2])],
            learners: set(&[3, 4]),
            leader: NodeId(1),
            behind: [(1, 0), (2, 0), (3, LEVEL + 1), (4, LEVEL)].map(|(node, behind)| (NodeId(node), behind)).into(),
        };
        assert!(fills(&wanted, &now));
        wanted.silent = set(&[3]);
        assert!(!fills(&wanted, &now));
    }

    #[test]
    fn only_a_node_that_is_alive_stands_in_for_a_silent_one() {
        let entry = |id: u64| Entry {
            name: format!("node-{id}"),
            incarnation: id,
            address: String::new(),
            standing: Standing::Member,
            replaces: None,
            zone: String::new(),
            away: false,
        };
        let meta = |ids: &[u64]| ids.iter().map(|id| NodeId(*id)).collect::<Vec<_>>();
        let target = placement::Target::from([(GroupId::META, meta(&[1, 2, 3]))]);
        let mut roster = Roster::founded((1..=5).map(|id| (NodeId(id), entry(id))), target).unwrap();
        let silent = BTreeSet::from([NodeId(2), NodeId(3)]);
        let voters = |roster: &Roster| roster.target[&GroupId::META].iter().copied().collect::<BTreeSet<_>>();
        roster.stand_in(&silent, |node| node == NodeId(1));
        assert_eq!(voters(&roster), meta(&[1, 2, 3]).into_iter().collect(), "nobody could");
        // As many as can: the number of voters stays.
        roster.stand_in(&silent, |node| node == NodeId(1) || node == NodeId(5));
        assert_eq!(voters(&roster), meta(&[1, 3, 5]).into_iter().collect());
        roster.stand_in(&BTreeSet::from([NodeId(3)]), |node| node != NodeId(3));
        assert!(!voters(&roster).contains(&NodeId(3)) && voters(&roster).len() == 3);
    }
}
