//! Nodes: who belongs, who owns what, who seems alive. Ownership comes from the meta group's log alone.
//!
//! The meta group is a group like any other; its keyspace holds documents under names of our own:
//!
//! ```text
//! config/... what CONFIG SET says to all nodes: see `agreed.rs`
//! shares     how the memory is dealt to the groups: see `memory.rs`                        (JSON, by the meta group's leader)
//! table      cluster id, epoch, which group owns which slots, which nodes hold which group, what each group seeds the
//!            hashes of its keys with, which slots are to move, which groups come and go        (JSON, by comparison)
//! node/<id>  where a node's doors are                                                         (JSON, by that node)
//! roster     who belongs, and who is to vote where: see `roster.rs`; from the first change of nodes on   (JSON)
//! user/<..>  who may do what, written by ACL SETUSER on any node: see `users.rs`
//! ```
//!
//! Every node has a replica of it and routes by its own copy.
//!
//! The seeds are drawn by the founder and are a secret of the nodes: no door shows them, and they are in no structure that
//! is shown. Who knows one can make keys that are alike, and slow their group down (`state::index`).
//!
//! A cluster is formed by its first seed: it founds the cluster, gives the meta group its members and writes the table.
//! Every other node takes the cluster's id from whom it meets, and starts its groups when the table reaches it. What comes
//! and goes later does so by the roster: `membership.rs` writes what is wished, `driver.rs` brings it about (decision 0022).

mod agreed;
mod driver;
pub mod events;
pub mod gossip;
pub mod hearsay;
mod identity;
mod keeper;
mod life;
mod membership;
mod memory;
mod mover;
mod moves;
pub mod number;
mod packing;
mod placement;
mod recovery;
mod roster;
mod steps;
mod users;

pub use agreed::Agreed;
pub use identity::{Candidate, Founder, IdentityError, Lone, Members, Past, UNFINISHED, new_cluster_id, past};
pub use keeper::{ChangeGroups, GroupChange};
pub use life::{NotGranted, Stage};
pub use membership::{Change, Wish, WishError};
pub use memory::{Memory, size as memory_size};
pub use mover::{MoveError, MoveSlots, Moving};
pub use moves::{Batch, Phase};
pub use placement::Move;
pub use roster::{Refused, Roster, Standing};

use crate::commands;
use crate::config::Endpoint;
use crate::env;
use crate::planted::{self, Bug};
use crate::raft::peers::Identity;
use crate::raft::wire::Lane;
use crate::raft::{Group, Host, Outcome, StorageError};
use crate::resp::Args;
use crate::routing::{self, GroupInfo, NodeInfo, RoutingTable};
use crate::security::User;
use crate::state::{Keyspace, View};
use crate::types::{GroupId, NodeId, Slot, Stamp};
use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use hearsay::Hearsay;
use life::Life;
use memory::{Coming, Shares};
use moves::Moves;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A peer that was not heard for so long counts as not alive. Advice only.
const ALIVE: Duration = Duration::from_secs(3);
/// How long one attempt to write a document may take.
const WRITE: Duration = Duration::from_secs(2);
/// Between attempts.
const RETRY: Duration = Duration::from_millis(100);

/// How often the meta group's leader looks at what the groups use.
const LOOK_AT_MEMORY: Duration = Duration::from_millis(200);
/// How often it asks what groups use that it has no replica of.
const ASK_FOR_MEMORY: Duration = Duration::from_secs(1);
/// Shares follow what is used no more often than this; a new maxmemory is dealt at once.
const DEAL_PAUSE: Duration = Duration::from_secs(5);
/// Room for a slot that waits for it is made no more often than this: each time it is an entry in the log of every group.
const LET_IN_PAUSE: Duration = Duration::from_millis(500);

const TABLE: &str = "table";
/// What the names of the nodes' documents begin with.
const NODE: &str = "node/";

/// How a new cluster is laid out, and looked after.
#[derive(Debug, Clone, Default)]
pub struct Layout {
    /// The first members, in the order of the seeds; nobody, where this node was invited by a cluster that there was.
    pub nodes: Vec<NodeId>,
    pub groups: u32,
    pub replication_factor: usize,
    /// What this node's file says about memory: what a new cluster begins with.
    pub memory: Memory,
    /// The users in this node's file: what a new cluster begins with. Without one called `default`, that one may do anything.
    pub users: Vec<User>,
    /// Where there are more nodes than copies, all of them hold every group from the start, and not only from the first
    /// change of nodes on.
    pub everywhere: bool,
    /// The votes of a node that is silent for so long are given to others. Zero: never.
    pub rebuild_after: Duration,
}

/// Newest version of the table that is known.
const TABLE_VERSION: u32 = 4;
/// The one that is written as long as no group came or went.
const TABLE_WITHOUT_LIFE: u32 = 3;
/// The one that is written as long as no slot is wished elsewhere, either.
const TABLE_WITHOUT_MOVES: u32 = 2;

/// The document under `table`. Has no `Debug`, so that its seeds get into no log.
#[derive(Serialize, Deserialize)]
struct TableDocument {
    version: u32,
    cluster: String,
    epoch: u64,
    /// First slot, last slot, group.
    ranges: Vec<(Slot, Slot, GroupId)>,
    groups: BTreeMap<GroupId, GroupInfo>,
    /// Since version 2.
    #[serde(default)]
    seeds: Seeds,
    /// Since version 3.
    #[serde(default, skip_serializing_if = "Moves::is_none")]
    moves: Moves,
    /// Since version 4.
    #[serde(default, skip_serializing_if = "Life::is_none")]
    life: Life,
}

/// What the data groups seed the hashes of their keys with.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Seeds(BTreeMap<GroupId, u64>);

impl Seeds {
    /// Drawn by nobody else again: a group keeps its own for as long as it lives.
    fn draw<'a>(groups: impl Iterator<Item = &'a GroupId>) -> Seeds {
        Seeds(groups.map(|id| (*id, env::secret())).collect())
    }

    /// A table of version 1 has none; its groups began with what follows from their numbers. So does the meta group, which
    /// has to be opened before there is a table: only nodes write there, under names that they choose.
    fn of(&self, id: GroupId) -> u64 {
        let by_number = || xxh3_64_with_seed(b"hypercache keyspace", u64::from(id.0));
        self.0.get(&id).copied().unwrap_or_else(by_number)
    }
}

impl TableDocument {
    fn parse(json: &[u8]) -> Result<TableDocument, String> {
        let document: TableDocument = serde_json::from_slice(json).map_err(|e| format!("table: {e}"))?;
        match document.version > TABLE_VERSION {
            true => Err(format!("the table has version {}, this program knows {TABLE_VERSION}", document.version)),
            false => Ok(document),
        }
    }

    /// The version rises only with what older programs must not overlook.
    fn stamp_version(&mut self) {
        let least = match (self.life.is_none(), self.moves.is_none()) {
            (false, _) => TABLE_VERSION,
            (true, false) => TABLE_WITHOUT_LIFE,
            (true, true) => TABLE_WITHOUT_MOVES,
        };
        self.version = self.version.max(least);
    }

    /// As it is written.
    fn document(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("the table is plain data")
    }
}

/// The table in the meta group's state here, as it stands there and as it reads; none where there is none.
fn table_of(meta: &Group) -> Result<Option<(Bytes, TableDocument)>, String> {
    text_of(meta).map(|json| TableDocument::parse(&json).map(|table| (json, table))).transpose()
}

fn text_of(meta: &Group) -> Option<Bytes> {
    meta.peek(|keyspace| {
        let view = View::new(keyspace, None);
        view.get(TABLE.as_bytes()).and_then(|e| e.value().as_text()).map(|text| text.to_bytes(0))
    })
}

/// The table for who looks at it many times a second: parsed only when it is another text.
#[derive(Default)]
struct TableLook {
    last: Option<(Bytes, Arc<TableDocument>)>,
}

impl TableLook {
    fn at(&mut self, meta: &Group) -> Result<Option<Arc<TableDocument>>, String> {
        let Some(json) = text_of(meta) else { return Ok(None) };
        if let Some((_, table)) = self.last.as_ref().filter(|(last, _)| *last == json) {
            return Ok(Some(table.clone()));
        }
        let table = Arc::new(TableDocument::parse(&json)?);
        self.last = Some((json, table.clone()));
        Ok(Some(table))
    }
}

/// The version of the table that the meta group's state holds; 0: none yet.
pub fn epoch_of(meta: &View<'_>) -> Result<u64, String> {
    let json = meta.get(TABLE.as_bytes()).and_then(|e| e.value().as_text()).map(|text| text.to_bytes(0));
    json.map_or(Ok(0), |json| TableDocument::parse(&json).map(|table| table.epoch))
}

/// This node's view of its cluster.
pub struct Cluster {
    members: Arc<Members>,
    host: Arc<Host>,
    info: NodeInfo,
    layout: Layout,
    table: ArcSwap<RoutingTable>,
    agreed: ArcSwap<Agreed>,
    users: users::Followed,
    roster: ArcSwapOption<Roster>,
    /// How every group stands that there ever was.
    stages: ArcSwap<BTreeMap<GroupId, Stage>>,
    /// What gossip says; none where it is off.
    heard: ArcSwapOption<Hearsay>,
    /// What each group waits for, as the driver saw it last; here, if this node leads the meta group.
    progress: Mutex<BTreeMap<GroupId, String>>,
    feed: events::Feed,
    /// What slots that are to go elsewhere wait for; here, if this node leads the meta group.
    moving: Mutex<Vec<String>>,
    /// Those among them for which room is to be made, the first first; the same.
    coming: Mutex<Vec<Coming>>,
    /// The same of groups that come and go.
    keeping: Mutex<BTreeMap<GroupId, String>>,
    /// Held while what is agreed on is taken over.
    following: Mutex<()>,
    changed: watch::Sender<u64>,
}

impl Cluster {
    /// Nothing runs before [`Cluster::run`].
    pub fn new(members: Arc<Members>, host: Arc<Host>, info: NodeInfo, layout: Layout) -> Arc<Cluster> {
        let table = ArcSwap::from_pointee(RoutingTable::unformed());
        let agreed = ArcSwap::from_pointee(Agreed { memory: layout.memory, ..Agreed::default() });
        let (users, changed) = (users::Followed::default(), watch::Sender::new(0));
        Arc::new(Cluster {
            members,
            host,
            info,
            layout,
            table,
            agreed,
            users,
            roster: ArcSwapOption::empty(),
            stages: ArcSwap::default(),
            heard: ArcSwapOption::empty(),
            progress: Mutex::default(),
            feed: events::Feed::default(),
            moving: Mutex::default(),
            coming: Mutex::default(),
            keeping: Mutex::default(),
            following: Mutex::new(()),
            changed,
        })
    }

    /// The table by which this node routes now.
    pub fn table(&self) -> Arc<RoutingTable> {
        self.table.load_full()
    }

    /// What the cluster agrees on about memory, as far as this node knows.
    pub fn memory(&self) -> Memory {
        self.agreed().memory
    }

    /// Everything that CONFIG SET says to all nodes, as far as this node knows.
    pub fn agreed(&self) -> Agreed {
        **self.agreed.load()
    }

    /// This node.
    pub fn me(&self) -> NodeInfo {
        self.info.clone()
    }

    /// This node's identity.
    pub fn me_id(&self) -> NodeId {
        self.info.id
    }

    /// The cluster's id: 40 hexadecimal digits, empty before it is formed.
    pub fn id(&self) -> String {
        self.members.cluster()
    }

    /// Whether a node seems alive: this one, or one that answered lately. Advice, never authority.
    pub fn alive(&self, node: NodeId) -> bool {
        node == self.info.id || self.host.peers().last_seen(node).is_some_and(|ago| ago < ALIVE)
    }

    #[cfg(test)]
    pub(crate) fn force_for_tests(&self) {
        self.members.force_for_tests();
    }

    /// The groups of this node.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Waits until this node knows its table and every group of its own is open.
    pub async fn ready(&self) {
        let mut changed = self.changed.subscribe();
        let _ = changed.wait_for(|_| self.complete()).await;
    }

    /// Who belongs and how; none before nodes came or went for the first time.
    pub fn roster(&self) -> Option<Arc<Roster>> {
        self.roster.load_full()
    }

    /// Returns when this node was removed from its cluster.
    pub async fn removed(&self) {
        let _ = self.members.removed().wait_for(|removed| *removed).await;
    }

    /// Whether this node knows its table, itself in it, and every group of its own is open.
    fn complete(&self) -> bool {
        let table = self.table();
        let own = |id: &GroupId| table.holds(*id, self.info.id);
        table.epoch > 0
            && table.nodes.contains_key(&self.info.id)
            && table.groups.keys().all(|id| !own(id) || self.host.group(*id).is_some() || self.host.is_dropped(*id))
    }

    /// Forms or joins the cluster and follows the table. Ends with an error if a group cannot be opened.
    pub async fn run(self: Arc<Self>) -> Result<(), StorageError> {
        let meta = self.host.open_group(GroupId::META, Seeds::default().of(GroupId::META), None).await?;
        let first = self.layout.nodes.first() == Some(&self.info.id);
        if first {
            self.members.found().map_err(|e| StorageError::Io("identity".into(), e))?;
            let members: BTreeSet<NodeId> = self.layout.nodes.iter().copied().collect();
            self.initialize(GroupId::META, &members).await;
        }
        self.members.formed().await;
        // A link to each member from the start: who is alive is known, and clocks are compared, before they matter.
        self.layout.nodes.iter().for_each(|node| self.link(*node));
        self.members.known().into_iter().for_each(|node| self.link(node));
        let documents = self.clone();
        tokio::spawn(async move { documents.write_documents(first).await });
        tokio::spawn(self.clone().deal_memory(meta.clone()));
        tokio::spawn(self.clone().hear(meta.clone()));
        tokio::spawn(self.clone().settle_alone(meta.clone()));
        tokio::spawn(self.clone().keep_members(meta.clone()));
        tokio::spawn(self.clone().keep_slots(meta.clone()));
        tokio::spawn(self.clone().keep_groups(meta.clone()));
        let mut applied = meta.watch_applied();
        let mut version = u64::MAX;
        loop {
            let current = meta.peek(|keyspace| keyspace.version());
            if current != version {
                version = current;
                self.follow(&meta).await?;
            }
            if applied.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    fn link(&self, node: NodeId) {
        if node == self.info.id {
            return;
        }
        for worker in 0..self.host.workers() {
            self.host.peers().link(node, Lane::Raft(worker));
            self.host.peers().link(node, Lane::Forward(worker));
        }
        self.host.peers().link(node, Lane::Messages);
    }

    async fn initialize(&self, id: GroupId, members: &BTreeSet<NodeId>) {
        if let Err(e) = self.host.initialize(id, members).await {
            tracing::error!(group = %id, error = %e, "group-not-initialized");
        }
    }

    /// Writes the table (the first seed, once) and where this node is, whenever that is not what is known.
    async fn write_documents(self: Arc<Self>, first: bool) {
        if first {
            let table = self.new_table();
            let json = serde_json::to_string(&table).expect("the table is plain data");
            self.write_until_done(&["SET", TABLE, &json, "NX"], |c| c.table().epoch > 0).await;
            let call = Agreed::found(self.layout.memory);
            let known = |c: &Cluster| c.host.group(GroupId::META).is_some_and(|meta| agreed(&meta).is_some());
            self.propose_until_done(call, known).await;
            let written = |c: &Cluster| c.host.group(GroupId::META).is_some_and(|meta| users::are_written(&meta));
            self.propose_until_done(users::initial(&self.layout.users), written).await;
        }
        let json = serde_json::to_string(&self.info).expect("a node's address is plain data");
        let key = format!("{NODE}{}", self.info.id);
        self.write_until_done(&["SET", &key, &json], |c| c.table().nodes.get(&c.info.id) == Some(&c.info)).await;
    }

    /// Both documents may be written twice without harm, so an attempt whose end is not known is made again.
    async fn write_until_done(&self, words: &[&str], done: impl Fn(&Cluster) -> bool) {
        self.propose_until_done(words.iter().map(|w| Bytes::copy_from_slice(w.as_bytes())).collect(), done).await;
    }

    async fn propose_until_done(&self, call: Args, done: impl Fn(&Cluster) -> bool) {
        let Some(meta) = self.host.group(GroupId::META) else { return };
        while !done(self) {
            let outcome = meta.propose_and_wait(vec![call.clone()], env::now() + WRITE).await;
            if !matches!(outcome, Outcome::Applied { .. }) {
                tracing::debug!(?outcome, "meta-document-not-written");
            }
            env::sleep(RETRY).await;
        }
    }

    fn new_table(&self) -> TableDocument {
        let Layout { nodes, groups, replication_factor, .. } = &self.layout;
        let placed = routing::place(*groups, nodes, *replication_factor);
        let ids: Vec<GroupId> = placed.keys().copied().collect();
        let table = RoutingTable { slots: routing::deal(&ids), ..RoutingTable::unformed() };
        let (ranges, seeds) = (table.ranges(), Seeds::draw(placed.keys()));
        let (version, moves, life) = (TABLE_WITHOUT_MOVES, Moves::default(), Life::default());
        TableDocument { version, cluster: self.id(), epoch: 1, ranges, groups: placed, seeds, moves, life }
    }

    /// Takes over what the meta group says now: the table, and the groups that this node has a part in.
    async fn follow(&self, meta: &Group) -> Result<(), StorageError> {
        let documents = meta.peek(|keyspace| read_documents(&View::new(keyspace, None)));
        let (mut table, seeds, life) = match documents {
            Ok(documents) => documents,
            Err(e) => {
                tracing::error!(error = %e, "meta-document-unreadable: routing stays as it was");
                return Ok(());
            }
        };
        self.follow_addresses(&table);
        self.follow_roster(meta, &mut table);
        self.stages.store(Arc::new(life.stages(&table.groups)));
        let table = Arc::new(table);
        self.table.store(table.clone());
        table.nodes.keys().for_each(|node| self.link(*node));
        for id in table.data_groups().filter(|id| table.holds(*id, self.info.id) && !self.host.is_dropped(*id)) {
            if self.host.group(id).is_some() {
                continue;
            }
            // What a cluster began that this node has left is not founded any more.
            let founders =
                life.founders(id).filter(|founders| founders.contains(&self.info.id) && !self.members.is_forced());
            let founders = match planted::is(Bug::FoundedByHearsay) {
                true => founders.map(|founders| founders.into_iter().filter(|node| self.alive(*node)).collect()),
                false => founders,
            };
            self.host.open_group(id, seeds.of(id), founders).await?;
            // Only at a cluster's birth: a group that has moved on since must not be begun a second time.
            let voters = &table.groups[&id].voters;
            if voters.first() == Some(&self.info.id) && table.epoch == 1 && self.layout.nodes.contains(&self.info.id) {
                self.initialize(id, &voters.iter().copied().collect()).await;
            }
        }
        self.follow_agreed(meta);
        self.follow_users(meta);
        self.changed.send_modify(|n| *n += 1);
        // Last: it may take its time, and whoever lost a right is to know that at once.
        self.drop_gone(&life).await
    }

    /// Drops groups that have gone. Because they are named as such: what an older table does not name may have come since.
    async fn drop_gone(&self, life: &Life) -> Result<(), StorageError> {
        for id in life.gone().filter(|id| !self.host.is_dropped(*id)) {
            self.host.drop_group(id).await?;
        }
        Ok(())
    }

    /// Takes over where nodes are. What this node's disk says alone may be older than what it has learnt since, so it is not
    /// believed before the cluster was heard; whose address is not known at all is looked for there in any case.
    fn follow_addresses(&self, table: &RoutingTable) {
        let heard = self.has_heard();
        // Gathered first: who notes addresses holds them, and is not to be asked for them meanwhile.
        let news: Vec<_> = table
            .nodes
            .values()
            .filter(|node| heard || self.members.address(node.id).is_none())
            .map(|node| (node.id, format!("{}:{}", node.host, node.peer_port)))
            .collect();
        self.members.note_addresses(news);
        if heard {
            let gossips = table.nodes.values().filter(|node| node.gossip_port != 0);
            let at = |node: &NodeInfo| Endpoint { host: node.host.clone(), port: node.gossip_port }.to_string();
            self.members.note_gossip(gossips.map(|node| (node.id, at(node))).collect());
        }
    }

    /// Takes over who belongs: greetings are held against it, and every node holds every group from then on.
    fn follow_roster(&self, meta: &Group, table: &mut RoutingTable) {
        let roster = match membership::roster_of(meta) {
            Ok(Some((_, roster))) => roster,
            Ok(None) => return,
            Err(e) => {
                tracing::error!(error = %e, "meta-document-unreadable: nodes belong as they did");
                table.everywhere = self.roster.load().is_some();
                return;
            }
        };
        table.everywhere = true;
        let listed = roster.nodes.iter().map(|(node, entry)| {
            // Until its document is gone, a node may be told that it is to go.
            let dismissed = entry.standing == Standing::Gone;
            let gone = dismissed && !table.nodes.contains_key(node);
            (*node, identity::Listed { incarnation: entry.incarnation, dismissed, gone })
        });
        let listed: BTreeMap<NodeId, identity::Listed> = listed.collect();
        self.host.peers().give_up(|node| listed.get(&node).is_some_and(|listed| listed.gone));
        self.members.note_roster(listed);
        let joining = roster
            .nodes
            .iter()
            .filter(|(node, entry)| entry.standing != Standing::Gone && !table.nodes.contains_key(node));
        self.members.note_addresses(joining.map(|(node, entry)| (*node, entry.address.clone())));
        if roster.standing(self.info.id) == Some(Standing::Gone) {
            self.members.note_removed();
        }
        self.roster.store(Some(Arc::new(roster)));
    }

    /// Takes over what is agreed on. What is about memory, whoever leads a group carries into the group's log.
    fn follow_agreed(&self, meta: &Group) {
        // Under one lock, so that an older state never replaces a newer.
        let _one = self.following.lock();
        let Some(agreed) = agreed(meta) else { return };
        self.host.watch().want_events(agreed.events);
        let (memory, packing, file) = (agreed.memory, agreed.packing, self.layout.memory.limit);
        if self.agreed.swap(Arc::new(agreed)).memory.limit == file && memory.limit != file {
            tracing::warn!(
                maxmemory = memory.limit.bytes,
                policy = memory.limit.policy.name(),
                file_maxmemory = file.bytes,
                file_policy = file.policy.name(),
                "memory-settings-differ: the cluster's count, this node's file does not"
            );
        }
        if !self.has_heard() {
            return;
        }
        let shares = meta.peek(|keyspace| Shares::read(&View::new(keyspace, None))).unwrap_or_default();
        for group in self.host.groups().into_iter().filter(|group| group.id() != GroupId::META) {
            group.want(shares.limit_of(group.id(), memory.limit), packing);
        }
    }

    /// While this node leads the meta group: deals the memory to the groups, anew when what they use has changed a good deal.
    async fn deal_memory(self: Arc<Self>, meta: Arc<Group>) {
        let (mut settled, mut asked, mut used) = (env::now(), None, BTreeMap::new());
        loop {
            env::sleep(LOOK_AT_MEMORY).await;
            let table = self.table();
            let agreed = agreed(&meta).filter(|_| meta.is_leader() && table.epoch > 0);
            let Some(Agreed { memory, .. }) = agreed else { continue };
            self.look_at_groups(&table, &mut used, &mut asked).await;
            let coming = self.coming.lock().clone();
            let wanted = Shares::deal(memory.limit, &table, &used, &coming);
            let known = meta.peek(|keyspace| Shares::read(&View::new(keyspace, None))).unwrap_or_default();
            let news = known.maxmemory != wanted.maxmemory || known.groups.len() != wanted.groups.len();
            let let_in = coming.iter().any(|one| wanted.let_in(one, &used) && !known.let_in(one, &used));
            let pause = match (news, let_in) {
                (true, _) => Duration::ZERO,
                (_, true) => LET_IN_PAUSE,
                _ => DEAL_PAUSE,
            };
            if !(let_in || wanted.far_from(&known)) || settled.elapsed() < pause {
                continue;
            }
            let json = serde_json::to_string(&wanted).expect("shares are plain data");
            let call: Args =
                ["SET", memory::SHARES, &json].map(|w| Bytes::copy_from_slice(w.as_bytes())).into_iter().collect();
            let outcome = meta.propose_and_wait(vec![call], env::now() + WRITE).await;
            tracing::debug!(?outcome, shares = json, "memory-dealt");
            settled = env::now();
        }
    }
}

impl Cluster {
    /// Brings up to date what the groups use. Those that this node has no replica of are asked for elsewhere, now and then;
    /// of one that nobody speaks for, what was known stays.
    async fn look_at_groups(
        &self,
        table: &RoutingTable,
        used: &mut BTreeMap<GroupId, u64>,
        asked: &mut Option<env::Instant>,
    ) {
        let ask = asked.is_none_or(|at| at.elapsed() >= ASK_FOR_MEMORY);
        if ask {
            *asked = Some(env::now());
        }
        let wanted = table.data_groups().filter(|id| ask || self.host.group(*id).is_some());
        let looks = wanted.map(|id| async move {
            let voters = table.groups.get(&id).map(|info| info.voters.as_slice()).unwrap_or_default();
            Some((id, self.host.used_bytes(id, voters).await?))
        });
        used.extend(futures_util::future::join_all(looks).await.into_iter().flatten());
    }
}

fn agreed(meta: &Group) -> Option<Agreed> {
    meta.peek(|keyspace| Agreed::read(&View::new(keyspace, None)))
}

/// Why the agreed state of one cluster cannot become that of another.
#[derive(Debug, thiserror::Error)]
pub enum RelocateError {
    #[error("the meta group's state holds no table: its cluster was not formed yet")]
    NoTable,
    #[error("{0}")]
    Unreadable(String),
    #[error("slots were on their way between groups when it was saved: its groups do not fit together")]
    SlotsUnderWay,
    #[error("a group was coming when it was saved: its groups do not fit together")]
    GroupsUnderWay,
}

/// Makes the meta group's state that of a new cluster: another id, the groups placed on `nodes`, the next epoch, and
/// nothing of the nodes of old. The slots stay with their groups. Gives the voters of every group.
pub fn relocate(
    keyspace: &mut Keyspace,
    cluster: &str,
    nodes: &[NodeId],
    replication_factor: usize,
) -> Result<BTreeMap<GroupId, GroupInfo>, RelocateError> {
    let (document, old_nodes) = {
        let view = View::new(keyspace, None);
        let json = view.get(TABLE.as_bytes()).and_then(|e| e.value().as_text().map(|t| t.to_bytes(0)));
        let json = json.ok_or(RelocateError::NoTable)?;
        let document = TableDocument::parse(&json).map_err(RelocateError::Unreadable)?;
        let old: Vec<Bytes> = view
            .entries()
            .filter(|e| e.key().starts_with(NODE.as_bytes()) || e.key() == roster::ROSTER.as_bytes())
            .map(|e| Bytes::copy_from_slice(e.key()))
            .collect();
        (document, old)
    };
    if document.moves.under_way.is_some() {
        return Err(RelocateError::SlotsUnderWay);
    }
    if document.life.is_unsettled() {
        return Err(RelocateError::GroupsUnderWay);
    }
    // Their numbers may have holes.
    let placed = routing::place(document.groups.len() as u32, nodes, replication_factor);
    let groups: BTreeMap<GroupId, GroupInfo> = document.groups.keys().copied().zip(placed.into_values()).collect();
    let epoch = document.epoch + 1;
    // The seeds stay: the groups' states in the file were begun with them.
    let table = TableDocument { cluster: cluster.to_owned(), epoch, groups: groups.clone(), ..document };
    let json = serde_json::to_vec(&table).expect("the table is plain data");
    // At the state's own time: nothing that was alive in it expires on the way.
    let stamp = Stamp { now_ms: keyspace.clock(), seed: 0 };
    let set: Args =
        [Bytes::from_static(b"SET"), Bytes::from_static(TABLE.as_bytes()), json.into()].into_iter().collect();
    commands::apply(&set, keyspace, &stamp);
    for key in old_nodes {
        let delete: Args = [Bytes::from_static(b"DEL"), key].into_iter().collect();
        commands::apply(&delete, keyspace, &stamp);
    }
    Ok(groups)
}

fn read_documents(view: &View<'_>) -> Result<(RoutingTable, Seeds, Life), String> {
    let (mut table, mut seeds, mut life) = (RoutingTable::unformed(), Seeds::default(), Life::default());
    let text = |key: &str| view.get(key.as_bytes()).and_then(|e| e.value().as_text()).map(|t| t.to_bytes(0));
    if let Some(json) = text(TABLE) {
        let document = TableDocument::parse(&json)?;
        table.epoch = document.epoch;
        table.slots = moves::owners_of(&document.ranges)?;
        table.groups = document.groups;
        (seeds, life) = (document.seeds, document.life);
    }
    for entry in view.entries().filter(|e| e.key().starts_with(NODE.as_bytes())) {
        let Some(json) = entry.value().as_text() else { continue };
        let name = String::from_utf8_lossy(entry.key());
        let info: NodeInfo = serde_json::from_slice(&json).map_err(|e| format!("{name}: {e}"))?;
        table.nodes.insert(info.id, info);
    }
    Ok((table, seeds, life))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(keyspace: &mut Keyspace, words: &[&str]) {
        let call = words.iter().map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
        commands::apply(&call, keyspace, &Stamp { now_ms: 1, seed: 0 });
    }

    fn documents(keyspace: &Keyspace) -> Result<(RoutingTable, Seeds, Life), String> {
        read_documents(&View::new(keyspace, None))
    }

    fn table(version: u32, seeds: &str) -> String {
        format!(
            r#"{{"version":{version},"cluster":"c","epoch":1,"ranges":[[0,16383,1]],"groups":{{"1":{{"voters":[1]}}}}{seeds}}}"#
        )
    }

    #[test]
    fn a_new_clusters_seeds_are_drawn_and_nothing_follows_from_them() {
        let ids = [1, 2, 3].map(GroupId);
        let (one, other) = (Seeds::draw(ids.iter()), Seeds::draw(ids.iter()));
        let all: BTreeSet<u64> = ids.iter().flat_map(|id| [one.of(*id), other.of(*id)]).collect();
        assert_eq!(all.len(), 6);
        assert!(ids.iter().all(|id| one.of(*id) != Seeds::default().of(*id)));
        assert_eq!(one.of(GroupId::META), other.of(GroupId::META));
    }

    #[test]
    fn seeds_stay_with_their_groups_when_the_cluster_becomes_another() {
        let mut keyspace = Keyspace::new(1);
        apply(&mut keyspace, &["SET", TABLE, &table(2, r#","seeds":{"1":18446744073709551615}"#)]);
        assert_eq!(documents(&keyspace).unwrap().1.of(GroupId(1)), u64::MAX);
        let placed = relocate(&mut keyspace, "d", &[NodeId(7)], 1).unwrap();
        assert_eq!(placed[&GroupId(1)].voters, [NodeId(7)]);
        let (table, seeds, _) = documents(&keyspace).unwrap();
        assert_eq!((table.epoch, seeds.of(GroupId(1))), (2, u64::MAX));
    }

    #[test]
    fn a_cluster_whose_groups_came_and_went_becomes_another_and_nobody_founds_them_again() {
        let table = |begun: &str| {
            format!(
                r#"{{"version":4,"cluster":"c","epoch":9,"ranges":[[0,8191,2],[8192,16383,5]],
                "groups":{{"2":{{"voters":[1]}},"5":{{"voters":[1]}}}},"seeds":{{"5":77}},
                "life":{{"changes":3,"last":6,"coming":[],"begun":{begun},"leaving":[2],"gone":[1,3,4,6],"splits":{{}}}}}}"#
            )
        };
        let mut keyspace = Keyspace::new(1);
        apply(&mut keyspace, &["SET", TABLE, &table(r#"{"5":[7,8]}"#)]);
        let refused = relocate(&mut keyspace, "d", &[NodeId(7), NodeId(8)], 2);
        assert!(matches!(refused, Err(RelocateError::GroupsUnderWay)));
        apply(&mut keyspace, &["SET", TABLE, &table("{}")]);
        let placed = relocate(&mut keyspace, "d", &[NodeId(7), NodeId(8)], 2).unwrap();
        assert_eq!(placed.keys().copied().collect::<Vec<_>>(), [2, 5].map(GroupId), "their numbers are their own");
        assert!(placed.values().all(|info| info.voters.len() == 2));
        let (table, seeds, life) = documents(&keyspace).unwrap();
        assert_eq!((table.epoch, seeds.of(GroupId(5)), life.begun().count()), (10, 77, 0));
        assert!(life.is_gone(GroupId(6)) && life.leaving().eq([GroupId(2)]));
    }

    #[test]
    fn a_table_from_before_the_seeds_is_read_and_a_later_one_is_not() {
        let mut keyspace = Keyspace::new(1);
        apply(&mut keyspace, &["SET", TABLE, &table(1, "")]);
        assert_eq!(documents(&keyspace).unwrap().1.of(GroupId(1)), Seeds::default().of(GroupId(1)));
        apply(&mut keyspace, &["SET", TABLE, &table(5, "")]);
        assert!(documents(&keyspace).is_err_and(|e| e.contains("version 5")));
        assert!(relocate(&mut keyspace, "d", &[NodeId(7)], 1).is_err());
    }
}
