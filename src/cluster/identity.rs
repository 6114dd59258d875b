//! Who this node is: the identity file of its data directory, and whom it lets in because of it.
//!
//! ```text
//! identity.json   format, cluster id ("" before it has one), node id (0 before it has one) and name, incarnation,
//!                 incarnations of its peers, where they were heard to be and to gossip, whether it was invited, and whether it was
//!                 removed since
//! ```
//!
//! Invariants: a node's incarnation is drawn once, with its directory; a peer that was ever known with one incarnation
//! is refused with another, because its disk was emptied and it would vote as if it had never promised anything, and so is
//! one that the roster knows otherwise; what was learnt is on disk before anybody is let in because of it.

use crate::env;
use crate::raft::peers::Identity;
use crate::raft::wire::{Dismissal, Hello, Introduction, Invitation, Lane, Welcome};
use crate::types::NodeId;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use tokio::sync::watch;

/// Version of the identity file, and with it of everything in the directory. A newer one is refused.
pub const FORMAT: u32 = 1;

const FILE: &str = "identity.json";

/// A file that stands in a data directory as long as it is being made from a snapshot file. No node starts on it.
pub const UNFINISHED: &str = "RESTORE-UNFINISHED";

/// What the file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Card {
    format: u32,
    cluster: String,
    node: NodeId,
    name: String,
    incarnation: u64,
    peers: BTreeMap<NodeId, u64>,
    /// Where nodes are, as far as that was learnt. After a restart nothing is applied before somebody leads, and nobody
    /// could be elected by nodes that do not find each other.
    #[serde(default)]
    addresses: BTreeMap<NodeId, String>,
    /// Where they gossip.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    gossip: BTreeMap<NodeId, String>,
    /// What the configuration said last: where it says something else since, it is newer than what was learnt.
    #[serde(default)]
    seeds: BTreeMap<NodeId, String>,
    /// It was invited by a cluster that there was, and founds none.
    #[serde(default)]
    invited: bool,
    #[serde(default)]
    removed: bool,
    /// Its cluster was lost and it was made one of its own (`hypercachectl recover`); the meta group does not say so yet.
    #[serde(default)]
    forced: bool,
    /// The cluster that was given up for that.
    #[serde(default)]
    given_up: String,
    /// The id of the cluster of its own that it is being made: what its store holds may be the old cluster's or the new one's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    becoming: String,
    /// It was invited, and its store is not made yet: an empty one is no loss.
    #[serde(default)]
    unbound: bool,
}

impl Card {
    fn fresh(node: NodeId, name: &str, incarnation: u64) -> Card {
        Card {
            format: FORMAT,
            cluster: String::new(),
            node,
            name: name.to_owned(),
            incarnation,
            peers: BTreeMap::new(),
            addresses: BTreeMap::new(),
            gossip: BTreeMap::new(),
            seeds: BTreeMap::new(),
            invited: false,
            forced: false,
            given_up: String::new(),
            becoming: String::new(),
            removed: false,
            unbound: false,
        }
    }

    /// With the peers of the configuration: they are believed where they are news.
    fn configured(&self, seeds: BTreeMap<NodeId, String>) -> Card {
        let mut addresses = self.addresses.clone();
        let news = seeds.iter().filter(|(node, address)| self.seeds.get(node) != Some(address));
        addresses.extend(news.map(|(node, address)| (*node, address.clone())));
        Card { addresses, seeds, ..self.clone() }
    }
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
    #[error(
        "{path} was written by a newer HyperCache (format {found}; this one knows up to {FORMAT}): start that version, or give node.data_dir another directory"
    )]
    Newer { path: PathBuf, found: u32 },
    #[error(
        "{path} belongs to node {found_name} (id {found}), this is {name} (id {node}): node.data_dir must be a directory of its own, or node.id must be the name it was made with"
    )]
    OtherNode { path: PathBuf, found: NodeId, found_name: String, node: NodeId, name: String },
    #[error(
        "{0} exists: a restore into this directory was not finished. Run the same `hypercachectl snapshot restore` again, or empty the directory"
    )]
    Unfinished(PathBuf),
    #[error(
        "{0}: `hypercachectl recover --unsafe` was begun here and not finished. Run the same command again before the node is started"
    )]
    HalfRecovered(PathBuf),
    #[error(
        "{0} cannot be read: {1}. It is not repaired by guessing: restore it from a backup, or empty the directory and replace the node"
    )]
    Damaged(PathBuf, String),
    #[error(
        "{0}: this node was removed from its cluster. To add the machine again, empty node.data_dir, start it with cluster.join: true and run `hypercachectl node add`"
    )]
    Removed(PathBuf),
}

/// What a data directory says before it is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Past {
    /// Nothing: it is empty.
    None,
    /// It belongs to a founder of a cluster, or of one to be.
    Founder,
    /// It was invited, or waits to be: `None`.
    Invited(Option<NodeId>),
}

/// Looks into a data directory.
///
/// # Errors
/// When it cannot be used, as [`Members::open`] would say.
pub fn past(dir: &Path) -> Result<Past, IdentityError> {
    let path = dir.join(FILE);
    let card = match fs::read(&path) {
        Ok(bytes) => parse(&path, &bytes)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Past::None),
        Err(e) => return Err(IdentityError::Io(path, e)),
    };
    match (card.removed, card.invited) {
        (true, _) => Err(IdentityError::Removed(path)),
        _ if !card.becoming.is_empty() => Err(IdentityError::HalfRecovered(path)),
        (false, false) => Ok(Past::Founder),
        (false, true) => Ok(Past::Invited(Some(card.node).filter(|node| *node != NodeId(0)))),
    }
}

/// A directory whose node waits to be added to a cluster.
pub struct Candidate {
    path: PathBuf,
    card: Card,
    zone: String,
    gossip_port: u16,
}

impl Candidate {
    /// Marks an empty directory as one of a node that waits, or opens one that was marked.
    pub fn open(dir: &Path, name: &str, zone: &str) -> Result<Candidate, IdentityError> {
        let path = dir.join(FILE);
        let io = |e| IdentityError::Io(path.clone(), e);
        fs::create_dir_all(dir).map_err(io)?;
        let card = match fs::read(&path) {
            Ok(bytes) => read(&path, &bytes, NodeId(0), name)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let card = Card { invited: true, unbound: true, ..Card::fresh(NodeId(0), name, env::seed()) };
                write(&path, &card).map_err(io)?;
                card
            }
            Err(e) => return Err(io(e)),
        };
        Ok(Candidate { path, card, zone: zone.to_owned(), gossip_port: 0 })
    }

    /// It gossips, and tells where to whoever asks.
    pub fn gossiping(self, port: u16) -> Candidate {
        Candidate { gossip_port: port, ..self }
    }

    pub fn introduction(&self) -> Introduction {
        Introduction { zone: self.zone.clone(), ..introduction(&self.card, self.gossip_port) }
    }

    /// Puts an invitation on disk: from now on the directory is that node's. The error is for who invited.
    pub fn accept(&self, invitation: &Invitation) -> Result<(), String> {
        if invitation.version > INTRODUCTION {
            return Err(format!("this node knows invitations up to version {INTRODUCTION}"));
        }
        if invitation.incarnation != self.card.incarnation || invitation.node == NodeId(0) {
            return Err("the invitation is for another data directory".to_owned());
        }
        let card = Card {
            cluster: invitation.cluster.clone(),
            node: invitation.node,
            addresses: invitation.peers.clone(),
            ..self.card.clone()
        };
        write(&self.path, &card).map_err(|e| format!("the identity file cannot be written: {e}"))
    }
}

/// The directory of a node that does not run, and whose cluster is lost.
pub struct Lone {
    path: PathBuf,
    card: Card,
}

impl Lone {
    /// # Errors
    /// When there is no identity, or one that cannot be used; when the directory is still being restored.
    pub fn open(dir: &Path) -> Result<Lone, IdentityError> {
        refuse_unfinished(dir)?;
        let path = dir.join(FILE);
        let bytes = fs::read(&path).map_err(|e| IdentityError::Io(path.clone(), e))?;
        let card = parse(&path, &bytes)?;
        if card.removed { Err(IdentityError::Removed(path)) } else { Ok(Lone { path, card }) }
    }

    pub fn cluster(&self) -> &str {
        &self.card.cluster
    }

    /// The cluster that was given up for the one that it belongs to; empty for none.
    pub fn given_up(&self) -> &str {
        &self.card.given_up
    }

    pub fn node(&self) -> NodeId {
        self.card.node
    }

    pub fn name(&self) -> &str {
        &self.card.name
    }

    pub fn incarnation(&self) -> u64 {
        self.card.incarnation
    }

    /// Whether it is being made a cluster of its own, and that was not finished.
    pub fn is_half_forced(&self) -> bool {
        !self.card.becoming.is_empty()
    }

    /// Notes that it is about to become the only node of a new cluster, and gives that one's id: no node starts on the directory
    /// until [`Lone::force`] is done. Begun before, it is the id of then.
    pub fn begin_to_force(&self) -> Result<String, IdentityError> {
        if self.is_half_forced() {
            return Ok(self.card.becoming.clone());
        }
        let card = Card { becoming: new_cluster_id(), ..self.card.clone() };
        write(&self.path, &card).map_err(|e| IdentityError::Io(self.path.clone(), e))?;
        Ok(card.becoming)
    }

    /// Makes it the only node of this new cluster: nodes of the old one are refused from now on. It founds nothing, whatever
    /// its configuration says: its groups are there.
    pub fn force(&self, cluster: &str) -> Result<(), IdentityError> {
        let card = Card {
            cluster: cluster.to_owned(),
            becoming: String::new(),
            addresses: BTreeMap::new(),
            gossip: BTreeMap::new(),
            seeds: BTreeMap::new(),
            invited: true,
            forced: true,
            given_up: self.card.cluster.clone(),
            ..self.card.clone()
        };
        write(&self.path, &card).map_err(|e| IdentityError::Io(self.path.clone(), e))
    }
}

/// Version of introductions and invitations. A larger one is refused.
pub(super) const INTRODUCTION: u8 = 1;

fn introduction(card: &Card, gossip_port: u16) -> Introduction {
    Introduction {
        version: INTRODUCTION,
        cluster: card.cluster.clone(),
        node: card.node,
        name: card.name.clone(),
        incarnation: card.incarnation,
        // A member says it in its document of the meta group.
        zone: String::new(),
        gossip_port,
    }
}

/// What the roster says about a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listed {
    /// 0: it says nothing about that.
    pub incarnation: u64,
    /// It was told to go, and votes nowhere any more.
    pub dismissed: bool,
    /// It was told so and has gone.
    pub gone: bool,
}

/// This node's identity, shared by everything that greets peers.
pub struct Members {
    path: PathBuf,
    card: Mutex<Card>,
    /// The cluster's id, for whoever waits for one.
    formed: watch::Sender<String>,
    listed: Mutex<BTreeMap<NodeId, Listed>>,
    /// Where directories' nodes are said to be. It is tried and never kept.
    hints: Mutex<BTreeMap<u64, Vec<String>>>,
    /// 0: it does not gossip.
    gossip_port: AtomicU16,
    /// Whether this node was removed from its cluster.
    removed: watch::Sender<bool>,
}

impl Members {
    /// Reads the directory's identity, or gives it one. `seeds` are the peers known from the configuration.
    pub fn open(
        dir: &Path,
        node: NodeId,
        name: &str,
        seeds: BTreeMap<NodeId, String>,
    ) -> Result<Members, IdentityError> {
        let path = dir.join(FILE);
        let io = |e| IdentityError::Io(path.clone(), e);
        fs::create_dir_all(dir).map_err(io)?;
        refuse_unfinished(dir)?;
        let card = match fs::read(&path) {
            Ok(bytes) => read(&path, &bytes, node, name)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let card = Card::fresh(node, name, env::seed());
                write(&path, &card).map_err(io)?;
                card
            }
            Err(e) => return Err(io(e)),
        };
        if card.removed {
            return Err(IdentityError::Removed(path));
        }
        if !card.becoming.is_empty() {
            return Err(IdentityError::HalfRecovered(path));
        }
        let configured = card.configured(seeds);
        if configured != card {
            write(&path, &configured).map_err(io)?;
        }
        let card = configured;
        let formed = watch::Sender::new(card.cluster.clone());
        Ok(Members {
            path,
            card: Mutex::new(card),
            formed,
            listed: Mutex::default(),
            hints: Mutex::default(),
            gossip_port: AtomicU16::new(0),
            removed: watch::Sender::new(false),
        })
    }

    /// This node.
    pub fn me(&self) -> NodeId {
        self.card.lock().node
    }

    /// The cluster's id, 40 hexadecimal digits; empty before it is formed.
    pub fn cluster(&self) -> String {
        self.card.lock().cluster.clone()
    }

    /// Waits until the node belongs to a cluster.
    pub async fn formed(&self) -> String {
        let mut formed = self.formed.subscribe();
        formed.wait_for(|id| !id.is_empty()).await.map_or_else(|_| String::new(), |id| id.clone())
    }

    /// Makes this node the first of a new cluster, unless it belongs to one.
    pub fn found(&self) -> io::Result<()> {
        let mut card = self.card.lock();
        if card.cluster.is_empty() {
            let id = new_cluster_id();
            self.adopt(&mut card, &id)?;
        }
        Ok(())
    }

    /// Notes where nodes are now, as the meta group says, on disk too: it is what is known first after a restart.
    pub fn note_addresses(&self, addresses: impl IntoIterator<Item = (NodeId, String)>) {
        self.learn(|card| card.addresses.extend(addresses));
    }

    /// Notes where nodes gossip, as the meta group says, for the next start.
    pub(super) fn note_gossip(&self, addresses: BTreeMap<NodeId, String>) {
        self.learn(|card| card.gossip = addresses);
    }

    /// Where others gossip.
    pub(super) fn gossip_addresses(&self) -> Vec<String> {
        let card = self.card.lock();
        card.gossip.iter().filter(|(node, _)| **node != card.node).map(|(_, address)| address.clone()).collect()
    }

    /// This node gossips there, which it tells to whoever asks.
    pub fn tell_gossip_port(&self, port: u16) {
        self.gossip_port.store(port, Ordering::Relaxed);
    }

    /// Takes over where nodes are said to be, by incarnation.
    pub(super) fn note_hints(&self, hints: BTreeMap<u64, Vec<String>>) {
        *self.hints.lock() = hints;
    }

    fn learn(&self, change: impl FnOnce(&mut Card)) {
        let mut card = self.card.lock();
        let mut learnt = card.clone();
        change(&mut learnt);
        if learnt == *card {
            return;
        }
        if let Err(e) = write(&self.path, &learnt) {
            // It goes to disk with whatever is written next; until then peers are found as before.
            tracing::error!(error = %e, "peer-addresses-not-kept");
        }
        *card = learnt;
    }

    /// The nodes whose addresses are known.
    pub(super) fn known(&self) -> Vec<NodeId> {
        self.card.lock().addresses.keys().copied().collect()
    }

    /// Notes what the roster says: greetings are held against it, and nobody who is gone is looked for.
    pub(super) fn note_roster(&self, listed: BTreeMap<NodeId, Listed>) {
        self.learn(|card| card.addresses.retain(|node, _| listed.get(node).is_none_or(|listed| !listed.gone)));
        *self.listed.lock() = listed;
    }

    /// The incarnation of a peer, or of this node, as far as it was met.
    pub(super) fn incarnation_of(&self, node: NodeId) -> Option<u64> {
        let card = self.card.lock();
        if card.node == node { Some(card.incarnation) } else { card.peers.get(&node).copied() }
    }

    /// Notes that the store is made and bears this directory's mark: from now on an empty one is a lost one.
    pub fn note_bound(&self) -> io::Result<()> {
        let mut card = self.card.lock();
        if card.unbound {
            let bound = Card { unbound: false, ..card.clone() };
            write(&self.path, &bound)?;
            *card = bound;
        }
        Ok(())
    }

    /// Whether it was made a cluster of its own, and the meta group does not say so yet.
    pub(super) fn is_forced(&self) -> bool {
        self.card.lock().forced
    }

    /// As after a recovery that the meta group was not told of yet.
    #[cfg(test)]
    pub(super) fn force_for_tests(&self) {
        self.card.lock().forced = true;
    }

    /// The meta group says so now.
    pub(super) fn note_settled(&self) {
        let mut card = self.card.lock();
        let settled = Card { forced: false, ..card.clone() };
        match write(&self.path, &settled) {
            Ok(()) => *card = settled,
            // It is said once more after the next start, which changes nothing.
            Err(e) => tracing::error!(error = %e, "recovery-not-noted"),
        }
    }

    /// This node was removed from its cluster: marks the directory, so that no node starts on it any more, and says so to
    /// whoever waits for it.
    pub(super) fn note_removed(&self) {
        let mut card = self.card.lock();
        if card.removed {
            return;
        }
        tracing::info!(node = %card.node, "node-removed: this node was removed from its cluster and stops");
        card.removed = true;
        if let Err(e) = write(&self.path, &card) {
            tracing::error!(error = %e, "node-removed: the directory could not be marked");
        }
        self.removed.send_replace(true);
    }

    /// Whether this node was removed from its cluster, and word of it.
    pub(super) fn removed(&self) -> watch::Receiver<bool> {
        self.removed.subscribe()
    }

    fn adopt(&self, card: &mut Card, cluster: &str) -> io::Result<()> {
        let adopted = Card { cluster: cluster.to_owned(), ..card.clone() };
        write(&self.path, &adopted)?;
        *card = adopted;
        self.formed.send_replace(cluster.to_owned());
        Ok(())
    }

    /// Checks a peer's claim and remembers it. The error is for both sides' logs.
    fn check(&self, peer: NodeId, cluster: &str, incarnation: u64) -> Result<(), String> {
        let mut card = self.card.lock();
        if !card.cluster.is_empty() && !cluster.is_empty() && card.cluster != cluster {
            return Err(format!("node {peer} belongs to cluster {cluster}, this node to {}", card.cluster));
        }
        let listed = self.listed.lock().get(&peer).copied();
        if listed.is_some_and(|listed| listed.gone) {
            return Err(format!("node {peer} was removed from the cluster"));
        }
        let listed = listed.map(|listed| listed.incarnation).filter(|incarnation| *incarnation != 0);
        match listed.as_ref().or_else(|| card.peers.get(&peer)) {
            Some(known) if *known != incarnation => {
                return Err(format!(
                    "node {peer} comes with another data directory than before; a node whose disk was emptied must be replaced, it cannot vote again under its old name"
                ));
            }
            Some(_) if card.peers.get(&peer) == Some(&incarnation) => (),
            _ => {
                let mut learnt = card.clone();
                learnt.peers.insert(peer, incarnation);
                write(&self.path, &learnt).map_err(|e| format!("the identity file cannot be written: {e}"))?;
                *card = learnt;
            }
        }
        if card.cluster.is_empty() && !cluster.is_empty() {
            self.adopt(&mut card, cluster).map_err(|e| format!("the identity file cannot be written: {e}"))?;
        }
        Ok(())
    }
}

/// A cluster id that nobody else has: 40 hexadecimal digits.
pub fn new_cluster_id() -> String {
    (0..5).map(|_| format!("{:08x}", env::seed() as u32)).collect()
}

/// The identity of a node of a cluster that is made offline, all members at once or one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Founder {
    pub node: NodeId,
    pub name: String,
    pub incarnation: u64,
}

impl Founder {
    /// Draws the incarnation of a new directory.
    pub fn new(node: NodeId, name: &str) -> Founder {
        Founder { node, name: name.to_owned(), incarnation: env::seed() }
    }

    /// Writes the identity into the directory. The other founders are known to it from the start; a member that is not
    /// among them is learnt when it is met.
    pub fn write(&self, dir: &Path, cluster: &str, all: &[Founder]) -> Result<(), IdentityError> {
        let peers = all.iter().filter(|f| f.node != self.node).map(|f| (f.node, f.incarnation)).collect();
        let cluster = cluster.to_owned();
        let card = Card { cluster, peers, ..Card::fresh(self.node, &self.name, self.incarnation) };
        let path = dir.join(FILE);
        write(&path, &card).map_err(|e| IdentityError::Io(path, e))
    }

    /// What [`Founder::write`] wrote into a directory on which no node was started since: who, of which cluster, and the
    /// incarnations of the others. None: there is nothing, something else, or more.
    pub fn written(dir: &Path) -> Option<(Founder, String, BTreeMap<NodeId, u64>)> {
        let path = dir.join(FILE);
        let card = parse(&path, &fs::read(&path).ok()?).ok()?;
        let (cluster, peers) = (card.cluster.clone(), card.peers.clone());
        let founder = Founder { node: card.node, name: card.name.clone(), incarnation: card.incarnation };
        let fresh = Card::fresh(founder.node, &founder.name, founder.incarnation);
        let untouched = card == Card { cluster: cluster.clone(), peers: peers.clone(), ..fresh };
        (untouched && !cluster.is_empty()).then_some((founder, cluster, peers))
    }
}

impl Identity for Members {
    fn hello(&self, to: NodeId, lane: Lane) -> Hello {
        let card = self.card.lock();
        Hello { cluster: card.cluster.clone(), from: card.node, incarnation: card.incarnation, to, lane }
    }

    fn admit(&self, hello: &Hello) -> Result<Welcome, String> {
        let me = self.me();
        if hello.to != me || hello.from == me {
            return Err(format!("this is node {me}; node {} was looking for node {}", hello.from, hello.to));
        }
        self.check(hello.from, &hello.cluster, hello.incarnation)?;
        let card = self.card.lock();
        Ok(Welcome { cluster: card.cluster.clone(), node: card.node, incarnation: card.incarnation })
    }

    fn dismissal(&self, hello: &Hello) -> Option<Dismissal> {
        let listed = self.listed.lock().get(&hello.from).copied()?;
        let (cluster, incarnation) = (self.cluster(), listed.incarnation);
        let meant = hello.cluster == cluster && hello.incarnation == incarnation;
        (listed.gone && meant).then_some(Dismissal { cluster, node: hello.from, incarnation })
    }

    fn dismissed(&self, dismissal: &Dismissal) {
        let me = {
            let card = self.card.lock();
            Dismissal { cluster: card.cluster.clone(), node: card.node, incarnation: card.incarnation }
        };
        if *dismissal == me {
            self.note_removed();
        }
    }

    fn recognize(&self, to: NodeId, welcome: &Welcome) -> Result<(), String> {
        if welcome.node != to {
            return Err(format!("node {} answers where node {to} should be", welcome.node));
        }
        self.check(to, &welcome.cluster, welcome.incarnation)
    }

    fn introduction(&self) -> Introduction {
        introduction(&self.card.lock(), self.gossip_port.load(Ordering::Relaxed))
    }

    fn incarnation(&self) -> (u64, bool) {
        let card = self.card.lock();
        (card.incarnation, !card.unbound && (!card.cluster.is_empty() || !card.peers.is_empty()))
    }

    fn may_be_given(&self, node: NodeId, vote: bool) -> bool {
        let listed = self.listed.lock();
        listed.get(&node).is_none_or(|listed| !(listed.gone || vote && listed.dismissed))
    }

    fn address(&self, node: NodeId) -> Option<String> {
        self.card.lock().addresses.get(&node).cloned()
    }

    fn hint(&self, node: NodeId, turn: usize) -> Option<String> {
        let listed = self.listed.lock().get(&node).map(|listed| listed.incarnation).filter(|known| *known != 0);
        let incarnation = listed.or_else(|| self.incarnation_of(node))?;
        let (known, hints) = (self.address(node), self.hints.lock());
        let news: Vec<&String> = hints.get(&incarnation)?.iter().filter(|hint| Some(*hint) != known.as_ref()).collect();
        news.get(turn.checked_rem(news.len())?).map(|hint| (*hint).clone())
    }

    fn found_at(&self, node: NodeId, address: &str) {
        // Every link of a peer finds it.
        if self.address(node).as_deref() != Some(address) {
            tracing::info!(peer = %node, address, "peer-moved: it was found where gossip said");
            self.note_addresses([(node, address.to_owned())]);
        }
    }
}

/// Refuses a directory that is being made from a snapshot file.
fn refuse_unfinished(dir: &Path) -> Result<(), IdentityError> {
    let unfinished = dir.join(UNFINISHED);
    match unfinished.try_exists() {
        Ok(false) => Ok(()),
        Ok(true) => Err(IdentityError::Unfinished(unfinished)),
        Err(e) => Err(IdentityError::Io(unfinished, e)),
    }
}

fn read(path: &Path, bytes: &[u8], node: NodeId, name: &str) -> Result<Card, IdentityError> {
    let card = parse(path, bytes)?;
    if card.node != node || card.name != name {
        let (found, found_name) = (card.node, card.name);
        return Err(IdentityError::OtherNode { path: path.to_owned(), found, found_name, node, name: name.to_owned() });
    }
    Ok(card)
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Card, IdentityError> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let damaged = |e: serde_json::Error| IdentityError::Damaged(path.to_owned(), e.to_string());
    let Format { format } = serde_json::from_slice(bytes).map_err(damaged)?;
    if format > FORMAT {
        return Err(IdentityError::Newer { path: path.to_owned(), found: format });
    }
    serde_json::from_slice(bytes).map_err(damaged)
}

/// Replaces the file in one step and syncs it.
fn write(path: &Path, card: &Card) -> io::Result<()> {
    let aside = path.with_extension("new");
    let mut file = fs::File::create(&aside)?;
    file.write_all(&serde_json::to_vec_pretty(card)?)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(dir: &Path, id: u64) -> Members {
        Members::open(&dir.join(id.to_string()), NodeId(id), &format!("node-{id}"), BTreeMap::new()).unwrap()
    }

    fn greet(from: &Members, to: &Members) -> Result<(), String> {
        let welcome = to.admit(&from.hello(to.me(), Lane::Raft(0)))?;
        from.recognize(to.me(), &welcome)
    }

    #[test]
    fn a_fresh_node_takes_the_cluster_of_the_first_member_it_meets_and_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (node(dir.path(), 1), node(dir.path(), 2));
        one.found().unwrap();
        greet(&two, &one).unwrap();
        assert_eq!(two.cluster(), one.cluster());
        assert_eq!(one.cluster().len(), 40);
        drop(two);
        assert_eq!(node(dir.path(), 2).cluster(), one.cluster());
    }

    #[test]
    fn an_emptied_disk_is_refused_under_its_old_name_from_both_sides() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (node(dir.path(), 1), node(dir.path(), 2));
        one.found().unwrap();
        greet(&one, &two).unwrap();
        drop(two);
        fs::remove_dir_all(dir.path().join("2")).unwrap();
        let two = node(dir.path(), 2);
        assert!(greet(&two, &one).unwrap_err().contains("must be replaced"));
        assert!(greet(&one, &two).unwrap_err().contains("must be replaced"));
    }

    #[test]
    fn foreign_clusters_and_mistaken_addresses_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two, three) = (node(dir.path(), 1), node(dir.path(), 2), node(dir.path(), 3));
        one.found().unwrap();
        two.found().unwrap();
        assert!(greet(&one, &two).unwrap_err().contains("belongs to cluster"));
        assert!(three.admit(&one.hello(NodeId(2), Lane::Raft(0))).is_err());
    }

    #[test]
    fn a_directory_waits_until_it_is_invited_and_remembers_it() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        assert_eq!(past(dir).unwrap(), Past::None);
        let candidate = Candidate::open(dir, "node-4", "hall-2").unwrap();
        assert_eq!(past(dir).unwrap(), Past::Invited(None));
        let me = candidate.introduction();
        assert_eq!(
            (me.cluster.as_str(), me.node, me.name.as_str(), me.zone.as_str()),
            ("", NodeId(0), "node-4", "hall-2")
        );
        assert_eq!(
            Candidate::open(dir, "node-4", "hall-2").unwrap().introduction(),
            me,
            "a restart is the same directory"
        );
        let peers = BTreeMap::from([(NodeId(1), "h1:7000".to_owned())]);
        let invitation = |incarnation| Invitation {
            version: 1,
            cluster: "c".into(),
            node: NodeId(4),
            incarnation,
            peers: peers.clone(),
        };
        assert!(candidate.accept(&invitation(me.incarnation + 1)).is_err());
        candidate.accept(&invitation(me.incarnation)).unwrap();
        assert_eq!(past(dir).unwrap(), Past::Invited(Some(NodeId(4))));
        let members = Members::open(dir, NodeId(4), "node-4", BTreeMap::new()).unwrap();
        assert_eq!((members.cluster().as_str(), members.incarnation()), ("c", (me.incarnation, false)));
        assert_eq!(members.address(NodeId(1)).as_deref(), Some("h1:7000"), "whoever invited it");
        members.note_bound().unwrap();
        assert_eq!(members.incarnation(), (me.incarnation, true), "an empty store would be a lost one");
        members.note_removed();
        assert!(*members.removed().borrow());
        assert!(matches!(past(dir), Err(IdentityError::Removed(_))));
        assert!(matches!(Members::open(dir, NodeId(4), "node-4", BTreeMap::new()), Err(IdentityError::Removed(_))));
    }

    #[test]
    fn where_peers_are_is_known_after_a_restart_and_new_seeds_are_newer() {
        let dir = tempfile::tempdir().unwrap();
        let open = |seed: &str| {
            let seeds = BTreeMap::from([(NodeId(2), seed.to_owned())]);
            Members::open(dir.path(), NodeId(1), "node-1", seeds).unwrap()
        };
        let at = |members: &Members, node| members.address(NodeId(node));
        let one = open("old:1");
        assert_eq!(at(&one, 2).as_deref(), Some("old:1"));
        one.note_addresses([(NodeId(2), "learnt:1".to_owned()), (NodeId(4), "h4:1".to_owned())]);
        let one = open("old:1");
        assert_eq!((at(&one, 2).as_deref(), at(&one, 4).as_deref()), (Some("learnt:1"), Some("h4:1")));
        assert_eq!(one.known(), [NodeId(2), NodeId(4)]);
        let one = open("moved:1");
        assert_eq!((at(&one, 2).as_deref(), at(&one, 4).as_deref()), (Some("moved:1"), Some("h4:1")));
        one.note_roster(BTreeMap::from([(NodeId(4), Listed { incarnation: 7, dismissed: true, gone: true })]));
        assert_eq!(at(&open("moved:1"), 4), None);
    }

    #[test]
    fn a_peer_is_looked_for_where_its_directory_is_said_to_be_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (node(dir.path(), 1), node(dir.path(), 2));
        one.found().unwrap();
        let known = two.incarnation().0;
        let said = BTreeMap::from([
            (known, ["old:1", "new:1", "lie:1"].map(str::to_owned).to_vec()),
            (known + 1, vec!["other:1".to_owned()]),
        ]);
        one.note_hints(said.clone());
        assert_eq!(one.hint(NodeId(2), 0), None, "it was never met: nothing says who that is");
        greet(&two, &one).unwrap();
        one.note_addresses([(NodeId(2), "old:1".to_owned())]);
        let turns = |members: &Members| (0..3).map(|turn| members.hint(NodeId(2), turn).unwrap()).collect::<Vec<_>>();
        assert_eq!(turns(&one), ["new:1", "lie:1", "new:1"], "in turns, and not where it is looked for anyway");
        one.found_at(NodeId(2), "new:1");
        drop(one);
        let one = node(dir.path(), 1);
        assert_eq!(one.address(NodeId(2)).as_deref(), Some("new:1"), "where it was greeted is kept");
        assert_eq!(one.hint(NodeId(2), 0), None, "what was said is not");
        one.note_hints(said);
        one.note_roster(BTreeMap::from([(
            NodeId(2),
            Listed { incarnation: known + 1, dismissed: false, gone: false },
        )]));
        assert_eq!(one.hint(NodeId(2), 0).as_deref(), Some("other:1"), "the roster knows best");
    }

    #[test]
    fn where_others_gossip_is_known_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let one = node(dir.path(), 1);
        let at = |ids: &[u64]| ids.iter().map(|id| (NodeId(*id), format!("h{id}:7946"))).collect::<BTreeMap<_, _>>();
        one.note_gossip(at(&[1, 2, 3]));
        one.note_gossip(at(&[1, 3]));
        assert_eq!(node(dir.path(), 1).gossip_addresses(), ["h3:7946"], "of those that there are, but not its own");
    }

    #[test]
    fn whom_the_roster_knows_otherwise_is_refused_by_nodes_that_never_met_it() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (node(dir.path(), 1), node(dir.path(), 2));
        one.found().unwrap();
        let list = |incarnation, gone| BTreeMap::from([(NodeId(2), Listed { incarnation, dismissed: gone, gone })]);
        one.note_roster(list(two.incarnation().0 + 1, false));
        assert!(greet(&two, &one).unwrap_err().contains("must be replaced"));
        one.note_roster(list(two.incarnation().0, true));
        assert!(greet(&two, &one).unwrap_err().contains("was removed"));
        assert!(!one.may_be_given(NodeId(2), false) && one.may_be_given(NodeId(3), true));
        let leaving = Listed { incarnation: two.incarnation().0, dismissed: true, gone: false };
        one.note_roster(BTreeMap::from([(NodeId(2), leaving)]));
        assert!(!one.may_be_given(NodeId(2), true), "no vote from when it is dismissed");
        one.note_roster(list(two.incarnation().0, false));
        greet(&two, &one).unwrap();
    }

    #[test]
    fn who_was_removed_while_it_was_cut_off_is_told_so_at_its_next_greeting_and_nobody_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (node(dir.path(), 1), node(dir.path(), 2));
        one.found().unwrap();
        greet(&two, &one).unwrap();
        let hello = two.hello(NodeId(1), Lane::Raft(0));
        assert_eq!(one.dismissal(&hello), None, "it belongs");
        let gone = Listed { incarnation: two.incarnation().0, dismissed: true, gone: true };
        one.note_roster(BTreeMap::from([(NodeId(2), gone)]));
        let dismissal = one.dismissal(&hello).expect("it was removed");
        assert_eq!(one.dismissal(&Hello { incarnation: 1, ..hello.clone() }), None, "that is another directory");
        two.dismissed(&Dismissal { cluster: "another".into(), ..dismissal.clone() });
        two.dismissed(&Dismissal { node: NodeId(1), ..dismissal.clone() });
        assert!(!*two.removed().borrow());
        two.dismissed(&dismissal);
        assert!(*two.removed().borrow());
        assert!(matches!(past(&dir.path().join("2")), Err(IdentityError::Removed(_))));
    }

    #[test]
    fn a_survivor_becomes_a_cluster_of_its_own_and_is_a_stranger_to_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (node(dir.path(), 1), node(dir.path(), 2));
        one.found().unwrap();
        greet(&two, &one).unwrap();
        drop(two);
        let at = dir.path().join("2");
        let lone = Lone::open(&at).unwrap();
        assert_eq!((lone.cluster(), lone.given_up(), lone.node()), (one.cluster().as_str(), "", NodeId(2)));
        let new = lone.begin_to_force().unwrap();
        assert_ne!(new, one.cluster());
        // Cut off here, its store may be the old cluster's or the new one's.
        assert!(matches!(past(&at), Err(IdentityError::HalfRecovered(_))));
        let started = Members::open(&at, NodeId(2), "node-2", BTreeMap::new());
        assert!(matches!(started, Err(IdentityError::HalfRecovered(_))));
        let lone = Lone::open(&at).unwrap();
        assert_eq!((lone.cluster(), lone.is_half_forced()), (one.cluster().as_str(), true));
        assert_eq!(lone.begin_to_force().unwrap(), new, "it goes on with what was begun");
        lone.force(&new).unwrap();
        assert_eq!(past(&at).unwrap(), Past::Invited(Some(NodeId(2))), "it founds nothing");
        let lone = Lone::open(&at).unwrap();
        assert_eq!((lone.cluster(), lone.given_up()), (new.as_str(), one.cluster().as_str()));
        assert!(!lone.is_half_forced());
        let two = node(dir.path(), 2);
        assert!(greet(&two, &one).unwrap_err().contains("belongs to cluster") && two.is_forced());
        two.note_settled();
        drop(two);
        assert!(!node(dir.path(), 2).is_forced());
        fs::write(at.join(UNFINISHED), "x").unwrap();
        assert!(matches!(Lone::open(&at), Err(IdentityError::Unfinished(_))), "half restored, it is no survivor");
    }

    #[test]
    fn a_directory_of_another_node_or_of_a_newer_version_is_named() {
        let dir = tempfile::tempdir().unwrap();
        drop(node(dir.path(), 1));
        let path = dir.path().join("1");
        let other = Members::open(&path, NodeId(2), "node-2", BTreeMap::new());
        assert!(matches!(other, Err(IdentityError::OtherNode { .. })));
        let text = fs::read_to_string(path.join(FILE)).unwrap().replace("\"format\": 1", "\"format\": 99");
        fs::write(path.join(FILE), text).unwrap();
        let newer = Members::open(&path, NodeId(1), "node-1", BTreeMap::new());
        assert!(matches!(newer, Err(IdentityError::Newer { found: 99, .. })));
        fs::write(path.join(FILE), "{").unwrap();
        let damaged = Members::open(&path, NodeId(1), "node-1", BTreeMap::new());
        assert!(matches!(damaged, Err(IdentityError::Damaged(..))));
    }
}
