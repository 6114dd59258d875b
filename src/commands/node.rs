//! What commands may ask of the node that runs them: the trait [`Node`] and the plain data it answers with.
//!
//! Every call returns at once: nothing here waits, replicates or talks to another node. What changes the cluster
//! does not belong here. Implemented by `server::node_view`, and by a fixed node in the tests of the families.

use crate::commands::Command;
use crate::commands::pubsub::Messages;
use crate::commands::session::{Face, Session};
use crate::commands::tracking::Caches;
use crate::resp::Args;
use crate::state::FilterStatus;
use crate::types::{GroupId, Level, NodeId, Slot};
use bytes::Bytes;
use std::net::SocketAddr;
use std::time::Duration;

/// The node as its commands see it.
pub trait Node: Send + Sync {
    /// Microseconds of Unix time (TIME).
    fn unix_us(&self) -> u64;
    /// Everything INFO, ROLE and WAIT say.
    fn facts(&self) -> Facts;
    /// Who serves which slots, with the ports of `face`.
    fn topology(&self, face: Face) -> Topology;
    /// Live keys of `slot` on this node's replica; 0 if it has none.
    fn slot_len(&self, slot: Slot) -> u64;
    /// At most `max` live keys of `slot` on this node's replica.
    fn slot_keys(&self, slot: Slot, max: usize) -> Vec<Bytes>;

    /// Name and value of every parameter that CONFIG GET knows, in order of names.
    fn config(&self) -> Vec<(String, String)>;
    /// Checks all pairs, then applies all of them or none. The error is the text after `CONFIG SET failed`.
    fn config_set(&self, pairs: &[(String, String)]) -> Result<(), ConfigError>;
    /// CONFIG RESETSTAT.
    fn reset_stats(&self);
    /// Calls and microseconds of every command called since start or RESETSTAT, in order of names.
    fn command_stats(&self) -> Vec<CommandStat>;
    /// Error replies by their code, in order of codes.
    fn error_stats(&self) -> Vec<(String, u64)>;

    /// Begins a snapshot of every replica of this node, in the background; false if one is under way.
    fn save(&self) -> bool;
    /// Has the node stop in order.
    fn shut_down(&self);
    /// What the allocator says of itself: names and bytes.
    fn allocator(&self) -> Vec<(&'static str, u64)>;

    /// Who listens to what.
    fn messages(&self) -> &dyn Messages;
    /// Who keeps what.
    fn caches(&self) -> &dyn Caches;

    /// The connections of this node, in order of ids.
    fn clients(&self) -> Vec<ClientRow>;
    /// For so long requests of these kinds wait; None: none waits any more.
    fn pause(&self, pause: Option<(Duration, Paused)>);
    /// Tells the connection `id` of every request from now on, or of none any more; false if too many are told already.
    fn monitor(&self, id: u64, on: bool) -> bool;
    /// Closes the connection `id`; false if there is none.
    fn kill(&self, id: u64) -> bool;
    /// Ends the waiting of the connection `id` as its timeout would, or with an error; false if it does not wait.
    fn unblock(&self, id: u64, error: bool) -> bool;

    /// The newest commands of a log first.
    fn command_log(&self, log: CommandLog, max: usize) -> Vec<SlowEntry>;
    fn command_log_len(&self, log: CommandLog) -> usize;
    fn command_log_reset(&self, log: CommandLog);

    /// How long calls took, of every command called since start or RESETSTAT, in order of names.
    fn command_latencies(&self) -> Vec<CommandLatency>;
    /// The percentiles that INFO latencystats shows, in per cent; none if times are not to be told.
    fn latency_percentiles(&self) -> Vec<f64>;
    /// What LATENCY keeps, in order of names.
    fn latency_events(&self) -> Vec<LatencyEvent>;
    /// Forgets these events, or all of them if none is named; returns how many there were.
    fn latency_reset(&self, names: &[String]) -> usize;
    /// Milliseconds from which an event is kept; None: none is.
    fn latency_threshold_ms(&self) -> Option<u64>;

    /// The user that needs no password, if there is one: who a fresh connection is.
    fn open_user(&self) -> Option<String>;
    /// Whether the default user has a password at all.
    fn has_password(&self) -> bool;
    /// The user's name as it is known if the password is right. A wrong one is noted as said by `session` with `command`.
    fn authenticate(&self, user: &str, password: &[u8], session: &Session, command: &'static str) -> Option<String>;

    /// All users, in order of names.
    fn users(&self) -> Vec<UserRow>;
    /// Whether the user may run the request; the error says what is not allowed, naming it.
    fn may(&self, user: &str, command: &'static Command, args: &Args) -> Result<(), String>;
    /// The newest refusals first.
    fn acl_log(&self, max: usize) -> Vec<AclLogEntry>;
    fn acl_log_reset(&self);
    /// The first `max` events behind a number.
    fn events(&self, after: u64, max: usize) -> Events;
    /// Bytes that nobody can guess; none if the system has none.
    fn secret_bytes(&self, count: usize) -> Option<Vec<u8>>;
}

/// What happened to the cluster as this node saw it.
#[derive(Debug, Clone, Default)]
pub struct Events {
    /// Numbers of another run mean nothing in this one.
    pub run: u64,
    /// Events that were asked for and are kept no longer.
    pub missed: u64,
    pub events: Vec<EventRow>,
}

#[derive(Debug, Clone)]
pub struct EventRow {
    pub seq: u64,
    pub at_ms: u64,
    pub name: &'static str,
    pub node: Option<u64>,
    pub group: Option<u64>,
    pub text: String,
}

/// A user as ACL GETUSER and ACL LIST show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRow {
    pub name: String,
    pub flags: Vec<&'static str>,
    /// Hashes, in hexadecimal digits.
    pub passwords: Vec<String>,
    /// The root selector first.
    pub selectors: Vec<SelectorRow>,
    /// The rules that make this user.
    pub text: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectorRow {
    pub commands: Bytes,
    pub keys: Bytes,
    pub channels: Bytes,
}

/// One line of ACL LOG.
#[derive(Debug, Clone)]
pub struct AclLogEntry {
    pub id: u64,
    pub count: u64,
    pub reason: &'static str,
    pub context: &'static str,
    pub object: Bytes,
    pub username: String,
    pub client: String,
    /// Since the last of these refusals.
    pub age_ms: u64,
    /// Unix time.
    pub created_ms: u64,
    pub updated_ms: u64,
}

/// What waits during CLIENT PAUSE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paused {
    All,
    Writes,
}

/// Why CONFIG SET did nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigError {
    Unknown(String),
    /// Known, but only read at start.
    Immutable(String),
    /// Name and what a value must be.
    Invalid(String, String),
}

/// What a node knows of itself and of its replicas.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub hypercache_version: &'static str,
    pub cluster_id: String,
    pub node: NodeId,
    pub node_name: String,
    /// 40 hexadecimal digits, new at each start.
    pub run_id: String,
    pub pid: u32,
    pub proxy_port: u16,
    pub cluster_port: u16,
    pub uptime_s: u64,
    pub config_file: String,
    pub workers: usize,
    pub loading: bool,
    pub level: Level,
    /// `always`, `everysec` or `no`.
    pub sync: String,
    pub clients: ClientFacts,
    pub memory: MemoryFacts,
    pub traffic: TrafficFacts,
    pub saves: SaveFacts,
    pub groups: Vec<GroupFacts>,
    /// Nodes of the cluster, this one included, in order of ids.
    pub nodes: Vec<(NodeId, String, u16, bool)>,
    /// How well the others are heard.
    pub peers: Vec<PeerFacts>,
}

/// How well a node is heard by this one.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerFacts {
    pub node: NodeId,
    pub alive: bool,
    /// How suspicious its silence is; none if it was never heard.
    pub phi: Option<f64>,
    pub silent_ms: Option<u64>,
    /// How far its wall clock is ahead.
    pub clock_offset_ms: Option<i64>,
}

#[derive(Debug, Clone, Default)]
pub struct ClientFacts {
    pub connected: u64,
    pub max: u64,
    pub accepted: u64,
    pub rejected: u64,
    /// Bytes waiting in buffers of the fullest connection: input, output.
    pub fullest: (u64, u64),
    /// Those that wait: for something to take, or for the end of CLIENT PAUSE.
    pub blocked: u64,
    /// Connections that subscribed to anything.
    pub listening: u64,
    /// Names that somebody of this node subscribed to: channels, patterns, shard channels.
    pub subscribed: [u64; 3],
    pub tracking: TrackingFacts,
}

/// Client-side caches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TrackingFacts {
    /// Connections that are told of changes.
    pub clients: u64,
    /// Keys that are noted for some of them.
    pub keys: u64,
    /// The same, each as often as it is noted.
    pub items: u64,
    /// Prefixes that somebody listens to.
    pub prefixes: u64,
}

#[derive(Debug, Clone, Default)]
pub struct MemoryFacts {
    /// By the deterministic account of the state.
    pub used: u64,
    pub rss: u64,
    pub peak: u64,
    pub machine: u64,
    pub max: u64,
    pub policy: String,
    /// Of `used`: what entries take beside keys and values.
    pub overhead: u64,
    /// Buffers of connections.
    pub clients: u64,
    /// The fullest group, in per cent of its limit: 0, 80, 90 or 95.
    pub pressure: u64,
    /// Keys evicted here since the start.
    pub evicted: u64,
    /// Keys, for what is told per key.
    pub keys: u64,
    pub filters: FilterStatus,
    /// Memory of the store that holds log and snapshots.
    pub log: u64,
    pub scripts: ScriptFacts,
}

/// What a node knows of scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScriptFacts {
    pub scripts: u64,
    pub functions: u64,
    pub libraries: u64,
}

/// Of BGSAVE.
#[derive(Debug, Clone, Copy, Default)]
pub struct SaveFacts {
    pub under_way: bool,
    /// When one last succeeded; the start of the node before.
    pub last_unix_s: u64,
    pub last_failed: bool,
}

#[derive(Debug, Clone, Default)]
pub struct TrafficFacts {
    pub commands: u64,
    pub commands_per_s: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub errors: u64,
    pub moved: u64,
    pub hits: u64,
    pub misses: u64,
    /// Reads answered here: by level, as leader and as follower of the key's group.
    pub reads: Vec<(&'static str, u64, u64)>,
    pub writes: u64,
    /// Refused: for a wrong password, a command, a key, a channel.
    pub denied: [u64; 4],
    pub cpu_user_us: u64,
    pub cpu_sys_us: u64,
}

/// One group of which this node has a replica.
#[derive(Debug, Clone, Default)]
pub struct GroupFacts {
    pub id: GroupId,
    pub leader: Option<NodeId>,
    pub term: u64,
    pub voters: Vec<NodeId>,
    pub learners: Vec<NodeId>,
    pub last_log: u64,
    pub committed: u64,
    pub applied: u64,
    pub snapshot: u64,
    pub purged: u64,
    pub keys: u64,
    pub expires: u64,
    pub used_bytes: u64,
    pub clock_ms: u64,
    /// 0: none.
    pub limit_bytes: u64,
    pub evicted: u64,
    /// Keys swept here because they were dead, since the start.
    pub expired: u64,
    /// Changes since the newest snapshot.
    pub unsaved: u64,
}

/// The routing table with liveness and leaders, ready for CLUSTER's replies.
#[derive(Debug, Clone, Default)]
pub struct Topology {
    pub epoch: u64,
    pub me: NodeId,
    /// In order of ids.
    pub members: Vec<Member>,
    /// One a data group, in order of their first slot.
    pub shards: Vec<Shard>,
}

#[derive(Debug, Clone, Default)]
pub struct Member {
    pub id: NodeId,
    /// 40 hexadecimal digits, the same for ever.
    pub hex: String,
    pub name: String,
    pub host: String,
    pub port: u16,
    /// The peer port.
    pub bus_port: u16,
    pub alive: bool,
}

#[derive(Debug, Clone, Default)]
pub struct Shard {
    pub group: GroupId,
    /// 40 hexadecimal digits, the same for ever.
    pub hex: String,
    /// First and last slot of each run.
    pub ranges: Vec<(u16, u16)>,
    /// Who leads, or led last, or else a voter that is heard: a map without holes leads clients to the leader sooner, and theirs
    /// give up where two nodes' maps have different ones. None where nobody is left.
    pub leader: Option<NodeId>,
    /// Somebody leads, or did as long ago as an election takes.
    pub served: bool,
    /// All replicas, the leader included.
    pub replicas: Vec<NodeId>,
    pub term: u64,
    pub applied: u64,
}

impl Topology {
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        self.members.iter().find(|m| m.id == id)
    }
}

#[derive(Debug, Clone, Default)]
pub struct CommandStat {
    pub name: String,
    pub calls: u64,
    pub usec: u64,
    pub rejected: u64,
    pub failed: u64,
}

/// One connection as CLIENT LIST shows it.
#[derive(Debug, Clone)]
pub struct ClientRow {
    pub session: Session,
    pub age_s: u64,
    pub idle_s: u64,
    pub commands: u64,
    pub last_command: String,
    pub input_bytes: u64,
    pub output_bytes: u64,
    /// Commands queued after MULTI, if there was one, and their bytes.
    pub queued: Option<u64>,
    pub queued_bytes: u64,
    /// Keys watched.
    pub watching: u64,
    /// It waits for something to take.
    pub blocked: bool,
    /// Whoever should be told of changes in its place is gone.
    pub redirect_broken: bool,
}

impl ClientRow {
    /// A connection of which nothing but this is known.
    pub fn bare(session: &Session, last_command: &str) -> ClientRow {
        ClientRow {
            session: session.clone(),
            age_s: 0,
            idle_s: 0,
            commands: 0,
            last_command: last_command.to_owned(),
            input_bytes: 0,
            output_bytes: 0,
            queued: None,
            queued_bytes: 0,
            watching: 0,
            blocked: false,
            redirect_broken: false,
        }
    }

    pub fn addr(&self) -> SocketAddr {
        self.session.peer
    }
}

/// The logs of single commands: SLOWLOG's, and those that COMMANDLOG adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandLog {
    Slow,
    LargeRequest,
    LargeReply,
}

impl CommandLog {
    pub const ALL: [CommandLog; 3] = [CommandLog::Slow, CommandLog::LargeRequest, CommandLog::LargeReply];
}

/// How long the calls of one command took.
#[derive(Debug, Clone)]
pub struct CommandLatency {
    pub name: String,
    pub calls: u64,
    /// Upper bounds in microseconds, rising, each with the calls that took no longer.
    pub within: Vec<(u64, u64)>,
}

impl CommandLatency {
    /// The bound that this share of the calls, in per cent, did not exceed; in microseconds.
    pub fn percentile(&self, percent: f64) -> u64 {
        let wanted = (self.calls as f64 * percent / 100.0).ceil().max(1.0) as u64;
        self.within.iter().find(|(_, calls)| *calls >= wanted).map_or(0, |(bound, _)| *bound)
    }
}

/// What LATENCY keeps of one kind of event.
#[derive(Debug, Clone)]
pub struct LatencyEvent {
    pub name: &'static str,
    /// The longest ever, in milliseconds.
    pub max_ms: u64,
    /// Unix seconds and milliseconds, the oldest first; at most one a second.
    pub samples: Vec<(u64, u64)>,
}

/// One line of SLOWLOG or COMMANDLOG.
#[derive(Debug, Clone)]
pub struct SlowEntry {
    pub id: u64,
    pub unix_s: u64,
    /// Microseconds, or bytes of the request or reply.
    pub measure: u64,
    pub args: Vec<Bytes>,
    pub peer: String,
    pub client_name: String,
}
