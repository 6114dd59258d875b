//! What an operator wishes of the nodes: each wish is one change of the roster, by comparison with what it was made from.
//!
//! Only the meta group's leader is asked. Every wish may be repeated: what is wished already changes nothing, and the answer says
//! how far it has come. The work is `driver.rs`'s.

use super::driver;
use super::identity::INTRODUCTION;
use super::placement::{self, Move, Target};
use super::roster::{Entry, ROSTER, Refused, Roster, Standing};
use super::{Cluster, NODE, read_documents};
use crate::env::Instant;
use crate::raft::peers::Identity;
use crate::raft::wire::{Introduction, Invitation};
use crate::raft::{Group, Refusal, peers};
use crate::resp::{Args, Reply};
use crate::routing::{NodeInfo, RoutingTable};
use crate::state::View;
use crate::types::{GroupId, Level, NodeId};
use bytes::Bytes;
use std::sync::Arc;

/// What an operator wishes. Nodes are named by name or number, addresses are those of peer ports, or names of nodes that wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    Add { address: String },
    Drain { node: String, undo: bool },
    Remove { node: String, force: bool },
    Replace { old: String, address: String },
    Rebalance { copies: Option<usize> },
}

/// How far a wish has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// The node it is about, its name and how it belongs now.
    pub node: Option<(NodeId, String, Standing)>,
    pub done: bool,
    /// Votes that move, or would.
    pub moves: Vec<Move>,
    /// What is not as it should be yet.
    pub waiting: Vec<String>,
    /// What the operator should know about it.
    pub note: Option<String>,
}

/// Why a wish was not granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WishError {
    #[error("{0}")]
    Refused(#[from] Refused),
    #[error("the meta group cannot write: {}", text(.0))]
    NotWritten(Refusal),
    /// It may have been written.
    #[error("what the cluster agrees on may have been changed: {0}")]
    Unknown(String),
    #[error("{0}")]
    Unreadable(String),
}

fn text(refusal: &Refusal) -> String {
    match refusal.reply() {
        Reply::Error(text) => String::from_utf8_lossy(&text).into_owned(),
        other => format!("{other:?}"),
    }
}

/// The roster in the meta group's state here, as it stands there and as it reads; none where there is none.
pub(super) fn roster_of(meta: &Group) -> Result<Option<(Bytes, Roster)>, String> {
    let document = meta.peek(|keyspace| {
        let view = View::new(keyspace, None);
        view.get(ROSTER.as_bytes()).and_then(|e| e.value().as_text()).map(|text| text.to_bytes(0))
    });
    document.map(|json| Roster::parse(&json).map(|roster| (json, roster))).transpose()
}

fn call(words: &[&[u8]]) -> Args {
    words.iter().map(|word| Bytes::copy_from_slice(word)).collect()
}

fn peer_address(info: &NodeInfo) -> String {
    format!("{}:{}", info.host, info.peer_port)
}

/// A change of the roster that was made.
pub(super) struct Edited<T> {
    pub outcome: T,
    pub before: Roster,
    pub after: Roster,
}

impl Cluster {
    /// Grants a wish, or says how far one that was granted has come. With `dry_run` nothing is changed: what would move is told.
    ///
    /// # Errors
    /// When it cannot be granted: then nothing was changed, but where the answer says that this is not known.
    pub async fn wish(&self, wish: &Wish, dry_run: bool, deadline: Instant) -> Result<Change, WishError> {
        let Some(meta) = self.host().group(GroupId::META) else {
            return Err(WishError::NotWritten(Refusal::NoLeader));
        };
        let mut change = match wish {
            Wish::Add { address } => {
                let address = self.place_of(&meta, address)?;
                self.admit(&meta, &address, None, dry_run, deadline).await?
            }
            Wish::Replace { old, address } => {
                let address = self.place_of(&meta, address)?;
                self.admit(&meta, &address, Some(old), dry_run, deadline).await?
            }
            Wish::Drain { node, undo } => {
                let edit = |roster: &mut Roster| {
                    let node = roster.named(node)?;
                    let spare = if *undo { roster.undrain(node).map(|()| true) } else { roster.drain(node) };
                    spare.map(|spare| (node, spare))
                };
                let Edited { outcome: (node, spare), before, after } =
                    self.edit_roster(&meta, dry_run, deadline, edit).await?;
                let no_spare = "there is no spare node: it leads nothing, and goes on voting";
                let note = (!*undo && !spare).then(|| no_spare.to_owned());
                Change { note, ..self.change(&meta, Some(node), &before.target, &after, dry_run) }
            }
            Wish::Remove { node, force } => {
                let edit = |roster: &mut Roster| {
                    let node = roster.named(node)?;
                    roster.leave(node, *force, self.alive(node)).map(|()| node)
                };
                let Edited { outcome: node, before, after } = self.edit_roster(&meta, dry_run, deadline, edit).await?;
                self.change(&meta, Some(node), &before.target, &after, dry_run)
            }
            Wish::Rebalance { copies } => {
                let edit = |roster: &mut Roster| {
                    // Asked again while its own work is under way, it has nothing to add.
                    let known = roster.clone();
                    roster.rebalance(*copies)?;
                    if roster.target == known.target && self.leads_level(&meta, roster) {
                        roster.level_leaders = known.level_leaders;
                    }
                    Ok(())
                };
                let Edited { before, after, .. } = self.edit_roster(&meta, dry_run, deadline, edit).await?;
                self.change(&meta, None, &before.target, &after, dry_run)
            }
        };
        change.moves.retain(|one| one.from.is_some() || one.to.is_some());
        Ok(change)
    }

    fn leads_level(&self, meta: &Group, roster: &Roster) -> bool {
        let led = |id: &GroupId, voters: &Vec<NodeId>| {
            let group =
                if *id == GroupId::META { Some(meta.leader()) } else { self.host().group(*id).map(|g| g.leader()) };
            // One that is down cannot lead, and is not waited for.
            let first = voters.first().copied();
            group.is_some_and(|leader| leader == first) || first.is_some_and(|first| !self.alive(first))
        };
        roster.target.iter().all(|(id, voters)| led(id, voters))
    }

    /// Where a node waits: an address stands for itself, and a name for the one place where gossip knows a node of that name to
    /// wait. Who asks again after it was admitted asks by the same name.
    fn place_of(&self, meta: &Group, text: &str) -> Result<String, WishError> {
        if text.contains(':') {
            return Ok(text.to_owned());
        }
        let name = text.to_owned();
        let Some(heard) = self.heard() else {
            return Err(Refused::NotHeard { name, why: "this node does not gossip" }.into());
        };
        let places = heard.places_of(text);
        if places.len() > 1 {
            let places = places.into_iter().collect::<Vec<_>>().join(", ");
            return Err(Refused::Ambiguous { name, places }.into());
        }
        let admitted = || -> Result<Option<String>, WishError> {
            let roster = roster_of(meta).map_err(WishError::Unreadable)?.map(|(_, roster)| roster).unwrap_or_default();
            let named = |entry: &&Entry| entry.name == text && entry.standing != Standing::Gone;
            Ok(roster.nodes.values().rev().find(named).map(|entry| entry.address.clone()))
        };
        let place = match places.into_iter().next() {
            Some(place) => Some(place),
            None => admitted()?,
        };
        place.ok_or_else(|| Refused::NotHeard { name, why: "gossip knows nobody of that name who waits" }.into())
    }

    /// Has the node at an address admitted and invites it, in the place of another if that is said.
    async fn admit(
        &self,
        meta: &Arc<Group>,
        address: &str,
        old: Option<&str>,
        dry_run: bool,
        deadline: Instant,
    ) -> Result<Change, WishError> {
        let there = match peers::who_is_there(address).await {
            Ok(there) if there.version <= INTRODUCTION => there,
            Ok(_) => return Err(unreachable(address, "it runs a newer version".to_owned()).into()),
            Err(e) => match self.known_at(meta, address, old.is_some())? {
                // It was admitted before; whether it runs just now is another question.
                Some(known) => known,
                None => return Err(unreachable(address, e.to_string()).into()),
            },
        };
        if !there.cluster.is_empty() && there.cluster != self.id() {
            let (address, cluster) = (address.to_owned(), there.cluster);
            return Err(Refused::Foreign { address, cluster }.into());
        }
        let edit = |roster: &mut Roster| admit(roster, address, &there, old, dry_run);
        let Edited { outcome: node, before, after } = self.edit_roster(meta, dry_run, deadline, edit).await?;
        if there.node == NodeId(0) && !dry_run {
            let (cluster, incarnation) = (self.id(), there.incarnation);
            let voters = meta.members_applied().0.into_iter().flatten();
            let peers = voters.filter_map(|voter| Some((voter, self.members.address(voter)?))).collect();
            let invitation = Invitation { version: INTRODUCTION, cluster, node, incarnation, peers };
            peers::invite(address, &invitation).await.map_err(|e| unreachable(address, e.to_string()))?;
            tracing::info!(node = %node, name = there.name, address, "node-admitted");
        }
        Ok(self.change(meta, Some(node), &before.target, &after, dry_run))
    }

    /// Who should be at an address, by what the cluster knows.
    fn known_at(&self, meta: &Group, address: &str, replacing: bool) -> Result<Option<Introduction>, WishError> {
        let roster = roster_of(meta).map_err(WishError::Unreadable)?.map(|(_, roster)| roster).unwrap_or_default();
        // The one that goes may have had the same address, also one that has taken another's place before.
        let there = |(_, entry): &(&NodeId, &Entry)| {
            entry.address == address
                && if replacing { entry.standing == Standing::Joining } else { entry.standing != Standing::Gone }
        };
        let known = roster.nodes.iter().rev().find(there).map(|(node, entry)| Introduction {
            version: INTRODUCTION,
            cluster: self.id(),
            node: *node,
            name: entry.name.clone(),
            incarnation: entry.incarnation,
            zone: entry.zone.clone(),
            gossip_port: 0,
        });
        Ok(known)
    }

    /// Makes another roster of what there is, as often as it takes to be first. One that comes out the same is not written.
    pub(super) async fn edit_roster<T>(
        &self,
        meta: &Arc<Group>,
        dry_run: bool,
        deadline: Instant,
        edit: impl Fn(&mut Roster) -> Result<T, Refused>,
    ) -> Result<Edited<T>, WishError> {
        if self.members.is_forced() {
            // The roster of the cluster that was given up counts until this node has said that it is alone.
            let why = "this node was made a cluster of its own, and the meta group does not say so yet";
            return Err(WishError::Unreadable(why.to_owned()));
        }
        loop {
            meta.barrier(Level::Linearizable, deadline).await.map_err(WishError::NotWritten)?;
            let (known, before) = match roster_of(meta).map_err(WishError::Unreadable)? {
                Some((json, roster)) => (Some(json), roster),
                None => (None, self.first_roster(meta)?),
            };
            let mut after = before.clone();
            let outcome = edit(&mut after)?;
            if dry_run || (known.is_some() && after == before) {
                return Ok(Edited { outcome, before, after });
            }
            if self.replace(meta, ROSTER, known.as_ref(), after.document().as_bytes(), deadline).await? {
                return Ok(Edited { outcome, before, after });
            }
        }
    }

    /// Writes a document of the meta group if it stands there still as it was `known`; whether it did.
    pub(super) async fn replace(
        &self,
        meta: &Group,
        key: &str,
        known: Option<&Bytes>,
        json: &[u8],
        deadline: Instant,
    ) -> Result<bool, WishError> {
        let set = match known {
            Some(old) => call(&[b"SET", key.as_bytes(), json, b"IFEQ", old]),
            None => call(&[b"SET", key.as_bytes(), json, b"NX"]),
        };
        match self.propose_change(meta, set, deadline).await {
            Reply::Nil => Ok(false),
            Reply::Error(text) => Err(WishError::Unknown(String::from_utf8_lossy(&text).into_owned())),
            _ => Ok(true),
        }
    }

    /// The roster of a cluster in which no node came or went so far.
    ///
    /// # Errors
    /// When not all of its nodes are known: what is given out once must be known before more is.
    fn first_roster(&self, meta: &Group) -> Result<Roster, WishError> {
        // As agreed, and not as followed: that may be a moment behind.
        let documents = meta.peek(|keyspace| read_documents(&View::new(keyspace, None)));
        let (table, ..) = documents.map_err(WishError::Unreadable)?;
        if table.epoch == 0 {
            return Err(WishError::Unreadable("the cluster has no table yet: it is being formed".to_owned()));
        }
        let nodes = table.nodes.values().map(|info| {
            let incarnation = self.members.incarnation_of(info.id).unwrap_or(0);
            let (name, address) = (info.name.clone(), peer_address(info));
            let (standing, zone) = (Standing::Member, info.zone.clone());
            (info.id, Entry { name, incarnation, address, standing, replaces: None, zone, away: false })
        });
        let mut target: Target = table.groups.iter().map(|(id, info)| (*id, info.voters.clone())).collect();
        let meta_voters = meta.members_applied().0.into_iter().next_back().unwrap_or_default();
        target.insert(GroupId::META, meta_voters.into_iter().collect());
        Ok(Roster::founded(nodes, target)?)
    }

    fn change(&self, meta: &Group, node: Option<NodeId>, from: &Target, roster: &Roster, dry_run: bool) -> Change {
        let table = self.table();
        let entry = |node: NodeId| roster.nodes.get(&node).map(|entry| (node, entry.name.clone(), entry.standing));
        let waiting = if dry_run { Vec::new() } else { self.waiting(meta, roster, &table) };
        let moves = placement::moves(from, &roster.target);
        Change { node: node.and_then(entry), done: waiting.is_empty(), moves, waiting, note: None }
    }

    /// Everything that is not as the roster wants it, in words. By this node's own replicas: it leads the meta group, so
    /// it hears of every change soon.
    fn waiting(&self, meta: &Group, roster: &Roster, table: &RoutingTable) -> Vec<String> {
        let mut waiting = Vec::new();
        for (node, entry) in &roster.nodes {
            match entry.standing {
                Standing::Joining => waiting.push(format!("node {node} is being given copies of all groups")),
                Standing::Leaving => waiting.push(format!("node {node} is still to lose its votes")),
                Standing::Gone if table.nodes.contains_key(node) => {
                    waiting.push(format!("node {node} is closing its doors"))
                }
                _ => {}
            }
        }
        let progress = self.progress.lock();
        for id in roster.target.keys() {
            let wanted = driver::wanted(roster, table, *id, |node| self.alive(node));
            let group = if *id == GroupId::META { None } else { self.host().group(*id) };
            let group = match (*id == GroupId::META, &group) {
                (true, _) => meta,
                (false, Some(group)) => group,
                (false, None) => continue,
            };
            let (voters, learners) = group.members_applied();
            let led = group.leader().is_some_and(|leader| wanted.may_lead(leader));
            if wanted.has(&voters, &learners) && led {
                continue;
            }
            let how = progress.get(id).cloned().unwrap_or_else(|| "is about to change".to_owned());
            waiting.push(format!("group {id} {how}"));
        }
        if waiting.is_empty() && roster.level_leaders {
            waiting.push("leaders are being evened out".to_owned());
        }
        waiting
    }

    /// Deletes the document of a node that is gone: it is told nothing more.
    pub(super) async fn forget_node(&self, meta: &Group, node: NodeId, deadline: Instant) {
        let delete = call(&[b"DEL", format!("{NODE}{node}").as_bytes()]);
        let reply = self.propose_change(meta, delete, deadline).await;
        tracing::info!(%node, ?reply, "node-forgotten");
    }
}

fn unreachable(address: &str, cause: String) -> Refused {
    Refused::Unreachable { address: address.to_owned(), cause }
}

/// What the roster makes of a node that somebody wants to have added. Where nothing is written, it is welcomed at once, so that
/// what would move is seen.
fn admit(
    roster: &mut Roster,
    address: &str,
    there: &Introduction,
    old: Option<&str>,
    dry_run: bool,
) -> Result<NodeId, Refused> {
    let known = if there.cluster.is_empty() { roster.find(there.incarnation) } else { Some(there.node) };
    if there.node != NodeId(0) && there.cluster.is_empty() {
        // A founder that never met its cluster, or whose disk was emptied.
        return Err(Refused::OtherIncarnation { address: address.to_owned(), node: there.node });
    }
    let Some(node) = known else {
        let old = old.map(|old| roster.named(old)).transpose()?;
        if let Some(gone) = old.filter(|old| roster.standing(*old) == Some(Standing::Gone)) {
            return Err(Refused::Gone(gone));
        }
        let node = roster.admit(&there.name, address, there.incarnation, &there.zone, old)?;
        if dry_run {
            roster.welcome(node);
        }
        return Ok(node);
    };
    let entry = roster.nodes.get(&node).ok_or_else(|| Refused::NoSuchNode(node.to_string()))?;
    if entry.standing == Standing::Gone {
        return Err(Refused::Gone(node));
    }
    if entry.incarnation != 0 && entry.incarnation != there.incarnation {
        return Err(Refused::OtherIncarnation { address: address.to_owned(), node });
    }
    match old {
        // Asked again, by the name that it has taken over or by the old one's number.
        Some(old) => {
            let (replaced, old) = (entry.replaces, roster.named(old)?);
            match replaced.is_some() && (old == node || replaced == Some(old)) {
                true => Ok(node),
                false => Err(Refused::Belongs { address: address.to_owned(), node }),
            }
        }
        None if entry.standing == Standing::Draining => roster.undrain(node).map(|()| node),
        None => Ok(node),
    }
}
