//! Gossip over UDP: nodes find each other, and say where they are and that they live. The only file that knows chitchat.
//!
//! Anybody can send a datagram, and nobody proves who he is. So nothing that gossip says is believed; it is only *tried*: an
//! address that was heard is connected to, and the greeting there is held against incarnation and cluster as any other; a name
//! that was heard is asked at its peer port who it is. Who belongs, votes, leads and owns comes from the log, and from nowhere
//! else. A lie costs an attempt to connect. What is heard is bounded, and begun anew when there is too much of it.
//!
//! Whom to speak to is found out by each node for itself: the gossip addresses that it learnt (the meta group has them, and the
//! identity file keeps them), the hosts of its seeds with its own gossip port, and the ports that the seeds name when they are
//! asked at their peer ports. All of them are resolved anew every time, because names move.

use super::Cluster;
use super::hearsay::{Hearsay, Word};
use super::identity::Candidate;
use crate::config::Endpoint;
use crate::env;
use crate::raft::peers::{Identity, who_is_there};
use crate::types::NodeId;
use anyhow::Context;
use chitchat::transport::UdpTransport;
use chitchat::{
    Chitchat, ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, ProtocolVersion, spawn_chitchat,
};
use futures_util::FutureExt;
use futures_util::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Between two rounds of gossip.
const INTERVAL: Duration = Duration::from_millis(500);
/// Between two looks at what was heard.
const LOOK: Duration = Duration::from_secs(1);
/// Seeds are asked for their gossip ports at every so many looks, until they have said them.
const ASK_EVERY: u64 = 5;
/// How long names may take to be resolved.
const RESOLVE: Duration = Duration::from_secs(2);
/// A node that says nothing for so many of its usual pauses counts as silent. Gossip is in no hurry: the links are.
const PAUSES: f64 = 20.0;
/// How long a node that is silent is remembered, and spoken to now and then.
const REMEMBER: Duration = Duration::from_secs(600);
/// Entries that are kept; with more of them all are dropped, and gossip begins anew.
const ENTRIES_MAX: usize = 1_000;
/// Addresses that are spoken to unasked.
const SEEDS_MAX: usize = 64;
/// Nodes of one network speak of one thing only; whose cluster they belong to they say themselves.
const NETWORK: &str = "hypercache-1";
/// The key under which a node's word stands.
const WORD: &str = "word";

/// Whoever speaks, and hears.
pub trait Speaker: Sync {
    fn word(&self) -> Word;
    /// Gossip addresses of others, as far as they are known.
    fn known(&self) -> Vec<String>;
    fn hear(&self, heard: Hearsay);
}

/// This node's part in gossip.
pub struct Gossip {
    listen: SocketAddr,
    /// What others are told to use.
    advertised: Endpoint,
    seeds: Vec<Endpoint>,
    /// The gossip addresses that seeds named; none: it has none.
    named: BTreeMap<String, Option<String>>,
    looks: u64,
    running: Option<Running>,
}

struct Running {
    handle: ChitchatHandle,
    /// What `advertised` meant when it began.
    here: SocketAddr,
}

impl Gossip {
    /// Makes sure that it can listen, and does nothing before [`Gossip::run`].
    ///
    /// # Errors
    /// When it cannot.
    pub fn open(listen: SocketAddr, advertised: Endpoint, seeds: Vec<Endpoint>) -> io::Result<Gossip> {
        std::net::UdpSocket::bind(listen)?;
        Ok(Gossip { listen, advertised, seeds, named: BTreeMap::new(), looks: 0, running: None })
    }

    /// Ends it; the port is free then.
    pub async fn close(mut self) {
        self.end().await;
    }

    /// Speaks and listens. Never ends.
    pub async fn run(&mut self, speaker: &impl Speaker) {
        let mut last_complaint = String::new();
        loop {
            let word = speaker.word();
            if self.looks.is_multiple_of(ASK_EVERY) {
                self.ask_seeds(&word).await;
            }
            self.looks += 1;
            match self.look(&word, speaker).await {
                Ok(()) => last_complaint.clear(),
                Err(e) => {
                    // The next look begins anew.
                    self.end().await;
                    let complaint = format!("{e:#}");
                    if complaint != last_complaint {
                        tracing::warn!(error = %complaint, "gossip-interrupted");
                        last_complaint = complaint;
                    }
                }
            }
            env::sleep(LOOK).await;
        }
    }

    async fn end(&mut self) {
        if let Some(running) = self.running.take() {
            // How it ended does not matter any more.
            let _ = running.handle.shutdown().await;
        }
    }

    async fn look(&mut self, word: &Word, speaker: &impl Speaker) -> anyhow::Result<()> {
        let here = resolve(self.advertised.to_string()).await;
        let here = here.with_context(|| format!("{} has no address", self.advertised))?;
        if self.running.as_ref().is_some_and(|running| running.here != here) {
            self.end().await;
        }
        let running = match &mut self.running {
            Some(running) => running,
            none => none.insert(Running { handle: begin(self.listen, here, word).await?, here }),
        };
        let (heard, live) = running.listen(&word.text()).await?;
        speaker.hear(heard);
        let guessed = self.seeds.iter().map(|seed| Endpoint { port: self.advertised.port, ..seed.clone() }.to_string());
        let named = self.named.values().flatten().cloned();
        let seeds: BTreeSet<String> = speaker.known().into_iter().chain(guessed).chain(named).collect();
        for address in join_all(seeds.into_iter().take(SEEDS_MAX).map(resolve)).await.into_iter().flatten() {
            if address != here && !live.contains(&address) {
                running.handle.gossip(address)?;
            }
        }
        Ok(())
    }

    /// Asks seeds that did not say so yet for their gossip ports.
    async fn ask_seeds(&mut self, word: &Word) {
        let unasked = self.seeds.iter().filter(|seed| {
            let seed = seed.to_string();
            seed != word.address && !self.named.contains_key(&seed)
        });
        let asking = unasked.take(SEEDS_MAX).map(|seed| async move {
            let there = who_is_there(&seed.to_string()).await.ok()?;
            let at = Some(there.gossip_port).filter(|port| *port != 0);
            Some((seed.to_string(), at.map(|port| Endpoint { port, ..seed.clone() }.to_string())))
        });
        let answers = join_all(asking).await;
        self.named.extend(answers.into_iter().flatten());
    }
}

impl Running {
    /// Says the word, and gives what others say and where those are who live.
    ///
    /// # Errors
    /// When there is more than there can be, or it has ended.
    async fn listen(&self, word: &str) -> anyhow::Result<(Hearsay, BTreeSet<SocketAddr>)> {
        if let Some(ended) = self.handle.termination_watcher().now_or_never() {
            anyhow::bail!("it has ended: {ended:?}");
        }
        let look = |chitchat: &mut Chitchat| {
            chitchat.self_node_state().set(WORD, word);
            let me = chitchat.self_chitchat_id();
            let others: Vec<&ChitchatId> = chitchat.live_nodes().filter(|id| *id != me).collect();
            let said = |id: &ChitchatId| Some((id.generation_id, Word::read(chitchat.node_state(id)?.get(WORD)?)?));
            let heard = Hearsay::of(others.iter().filter_map(|id| said(id)));
            (chitchat.node_states().len(), heard, others.iter().map(|id| id.gossip_advertise_addr).collect())
        };
        let (entries, heard, live) = self.handle.with_chitchat(look).await;
        anyhow::ensure!(entries <= ENTRIES_MAX, "{entries} nodes are heard, more than there can be");
        Ok((heard, live))
    }
}

async fn begin(listen: SocketAddr, advertised: SocketAddr, word: &Word) -> anyhow::Result<ChitchatHandle> {
    let habits = FailureDetectorConfig::new(PAUSES, 100, 10 * INTERVAL, 2 * INTERVAL, REMEMBER);
    let config = ChitchatConfig {
        // The later of two words of one node is the one that began to be said later.
        chitchat_id: ChitchatId::new(format!("{:016x}", word.incarnation), env::wall_ms(), advertised),
        cluster_id: NETWORK.to_owned(),
        gossip_interval: INTERVAL,
        listen_addr: listen,
        seed_nodes: Vec::new(),
        failure_detector_config: habits,
        marked_for_deletion_grace_period: REMEMBER,
        catchup_callback: None,
        extra_liveness_predicate: None,
        protocol_version: ProtocolVersion::V0,
    };
    spawn_chitchat(config, vec![(WORD.to_owned(), word.text())], &UdpTransport).await
}

async fn resolve(address: String) -> Option<SocketAddr> {
    env::timeout(RESOLVE, tokio::net::lookup_host(address)).await.ok()?.ok()?.next()
}

/// A node that waits to be taken in: it wants to be found, and asks for nothing.
pub struct Waiting {
    word: Word,
}

impl Waiting {
    /// `address` is the peer address where it waits.
    pub fn new(candidate: &Candidate, address: String) -> Waiting {
        let me = candidate.introduction();
        let (incarnation, name, zone) = (me.incarnation, me.name, me.zone);
        Waiting { word: Word { incarnation, name, zone, address, waits: true, ..silence() } }
    }
}

impl Speaker for Waiting {
    fn word(&self) -> Word {
        self.word.clone()
    }

    fn known(&self) -> Vec<String> {
        Vec::new()
    }

    fn hear(&self, _: Hearsay) {}
}

impl Speaker for Arc<Cluster> {
    fn word(&self) -> Word {
        let info = &self.info;
        let (node, name, zone) = (info.id, info.name.clone(), info.zone.clone());
        let (incarnation, _) = self.members.incarnation();
        let address = Endpoint { host: info.host.clone(), port: info.peer_port }.to_string();
        Word { incarnation, cluster: self.id(), node, name, zone, address, ..silence() }
    }

    fn known(&self) -> Vec<String> {
        self.members.gossip_addresses()
    }

    fn hear(&self, heard: Hearsay) {
        self.members.note_hints(heard.hints(&self.id()).into_iter().collect());
        self.heard.store(Some(Arc::new(heard)));
    }
}

/// What a node says that has nothing to say.
fn silence() -> Word {
    Word {
        incarnation: 0,
        cluster: String::new(),
        node: NodeId(0),
        name: String::new(),
        zone: String::new(),
        address: String::new(),
        waits: false,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

impl Cluster {
    /// What is heard by gossip; none where that is off.
    pub fn heard(&self) -> Option<Arc<Hearsay>> {
        self.heard.load_full()
    }

    /// Nodes that wait to be taken in, as they say.
    pub fn waiting_nodes(&self) -> Vec<Word> {
        let Some(heard) = self.heard() else { return Vec::new() };
        let roster = self.roster();
        // One that was admitted may not have heard so yet, or its word is still under way.
        let admitted = |word: &Word| roster.as_ref().is_some_and(|roster| roster.find(word.incarnation).is_some());
        heard.waiting().into_iter().filter(|word| !admitted(word)).cloned().collect()
    }

    /// Whether a node is heard by gossip; none where that is off, or nothing is known of the node's directory.
    pub fn hears(&self, node: NodeId) -> Option<bool> {
        let (heard, incarnation) = (self.heard()?, self.members.incarnation_of(node)?);
        Some(node == self.info.id || heard.members(&self.id()).contains(&incarnation))
    }
}
