//! CLUSTER: what a cluster client reads to route by itself. Nearly only reads: of the subcommands that change topology in
//! Redis, FAILOVER hands over leaders; the others are refused with the name of what to use instead, because ownership comes
//! from the log alone.
//!
//! A shard of Redis is a data group here. A node may lead one group and follow in another, so a node can be master
//! in one shard and replica in the next; CLUSTER NODES, which has one line a node, calls a node master as soon as it
//! leads anything.

use super::connection::{integer, text};
use super::help::{help, of_table};
use super::node::{Member, Node, Shard, Topology};
use super::session::{Face, Session};
use super::syntax::{is, syntax_error};
use super::{Command, NodeCommand, SessionCommand, Spec, container, node, session};
use crate::resp::{Args, Reply};
use crate::slot::slot_of;
use crate::types::{GroupId, NodeId, SLOTS, Slot};
use bytes::Bytes;
use std::fmt::Write as _;

const fn spec(
    name: &'static str,
    arity: i32,
    since: &'static str,
    syntax: &'static str,
    summary: &'static str,
) -> Spec {
    Spec { complexity: "O(N)", ..Spec::local("cluster", name, arity, since, syntax, summary) }
}

/// Most keys that one CLUSTER GETKEYSINSLOT answers with.
const KEYS_IN_SLOT_MAX: usize = 100_000;

/// What the proxy face answers where Redis without cluster mode does.
pub fn disabled() -> Reply {
    Reply::error("ERR This instance has cluster support disabled")
}

fn bulk(t: impl Into<String>) -> Reply {
    Reply::Bulk(Bytes::from(t.into()))
}

/// The topology, unless the connection came in through the proxy face.
fn seen(node: &dyn Node, session: &Session) -> Result<Topology, Reply> {
    match session.face {
        Face::Cluster => Ok(node.topology(Face::Cluster)),
        Face::Proxy => Err(disabled()),
    }
}

fn hex(topology: &Topology, id: NodeId) -> String {
    topology.member(id).map_or_else(|| "-".to_owned(), |m| m.hex.clone())
}

struct Keyslot(Slot);

impl SessionCommand for Keyslot {
    const SPEC: Spec = spec("keyslot", 3, "3.0.0", "CLUSTER KEYSLOT key", "The slot of a key.");

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(Keyslot(slot_of(&args[2])))
    }

    fn run(self, _: &mut Session) -> Reply {
        Reply::Int(i64::from(self.0.0))
    }
}

struct Myid;

impl NodeCommand for Myid {
    const SPEC: Spec = spec("myid", 2, "3.0.0", "CLUSTER MYID", "This node's name in CLUSTER's replies.");

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(Myid)
    }

    fn run(self, node: &dyn Node, session: &mut Session) -> Reply {
        seen(node, session).map_or_else(|e| e, |t| bulk(hex(&t, t.me)))
    }
}

struct Myshardid;

impl NodeCommand for Myshardid {
    const SPEC: Spec =
        spec("myshardid", 2, "7.2.0", "CLUSTER MYSHARDID", "The first group this node leads, else follows.");

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(Myshardid)
    }

    fn run(self, node: &dyn Node, session: &mut Session) -> Reply {
        let t = match seen(node, session) {
            Ok(t) => t,
            Err(refused) => return refused,
        };
        let led = t.shards.iter().find(|s| s.leader == Some(t.me));
        let mine = led.or_else(|| t.shards.iter().find(|s| s.replicas.contains(&t.me)));
        mine.map_or(Reply::Nil, |s| bulk(s.hex.clone()))
    }
}

struct ClusterInfo;

impl NodeCommand for ClusterInfo {
    const SPEC: Spec = spec("info", 2, "3.0.0", "CLUSTER INFO", "Whether every slot is served, and by how many nodes.");

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(ClusterInfo)
    }

    fn run(self, node: &dyn Node, session: &mut Session) -> Reply {
        let t = match seen(node, session) {
            Ok(t) => t,
            Err(refused) => return refused,
        };
        let width = |s: &Shard| s.ranges.iter().map(|(a, b)| usize::from(b - a) + 1).sum::<usize>();
        let assigned: usize = t.shards.iter().map(width).sum();
        let served: usize = t.shards.iter().filter(|s| s.served).map(width).sum();
        let mut leaders: Vec<NodeId> = t.shards.iter().filter_map(|s| s.leader).collect();
        leaders.sort_unstable();
        leaders.dedup();
        let mut out = String::new();
        let rows: [(&str, String); 12] = [
            ("cluster_state", if served == SLOTS { "ok" } else { "fail" }.to_owned()),
            ("cluster_slots_assigned", assigned.to_string()),
            ("cluster_slots_ok", served.to_string()),
            ("cluster_slots_pfail", "0".to_owned()),
            ("cluster_slots_fail", (assigned - served).to_string()),
            ("cluster_known_nodes", t.members.len().to_string()),
            ("cluster_size", leaders.len().to_string()),
            ("cluster_current_epoch", t.epoch.to_string()),
            ("cluster_my_epoch", t.epoch.to_string()),
            ("cluster_stats_messages_sent", "0".to_owned()),
            ("cluster_stats_messages_received", "0".to_owned()),
            ("total_cluster_links_buffer_limit_exceeded", "0".to_owned()),
        ];
        for (name, value) in rows {
            let _ = write!(out, "{name}:{value}\r\n");
        }
        Reply::Verbatim { format: *b"txt", text: Bytes::from(out) }
    }
}

/// `host:port@bus[,name]`, flags, master, times, epoch, link state, slots: one line of CLUSTER NODES.
fn node_line(t: &Topology, m: &Member) -> String {
    let led: Vec<&Shard> = t.shards.iter().filter(|s| s.leader == Some(m.id)).collect();
    let mut flags = Vec::new();
    if m.id == t.me {
        flags.push("myself");
    }
    // A node that leads nothing is shown under the leader of the first group it follows.
    let follows = t.shards.iter().filter(|s| s.replicas.contains(&m.id)).find_map(|s| s.leader.filter(|l| *l != m.id));
    let master = match (led.is_empty(), follows) {
        (true, Some(leader)) => {
            flags.push("slave");
            hex(t, leader)
        }
        _ => {
            flags.push("master");
            "-".to_owned()
        }
    };
    if !m.alive {
        flags.push("fail");
    }
    let epoch = led.iter().map(|s| s.term).max().unwrap_or(t.epoch);
    let link = if m.alive { "connected" } else { "disconnected" };
    let flags = flags.join(",");
    let mut line =
        format!("{} {}:{}@{},{} {flags} {master} 0 0 {epoch} {link}", m.hex, m.host, m.port, m.bus_port, m.name);
    let mut ranges: Vec<(u16, u16)> = led.iter().flat_map(|s| s.ranges.iter().copied()).collect();
    ranges.sort_unstable();
    for (a, b) in ranges {
        let _ = if a == b { write!(line, " {a}") } else { write!(line, " {a}-{b}") };
    }
    line
}

struct Nodes;

impl NodeCommand for Nodes {
    const SPEC: Spec = spec("nodes", 2, "3.0.0", "CLUSTER NODES", "The nodes and what they lead, one a line.");

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(Nodes)
    }

    fn run(self, node: &dyn Node, session: &mut Session) -> Reply {
        let t = match seen(node, session) {
            Ok(t) => t,
            Err(refused) => return refused,
        };
        let mut lines: Vec<String> = t.members.iter().map(|m| node_line(&t, m)).collect();
        lines.push(String::new());
        Reply::Verbatim { format: *b"txt", text: Bytes::from(lines.join("\n")) }
    }
}

/// CLUSTER REPLICAS and its old name SLAVES: the nodes that follow where the named one leads.
struct Replicas<const OLD_NAME: bool>(String);

impl<const OLD_NAME: bool> NodeCommand for Replicas<OLD_NAME> {
    const SPEC: Spec = if OLD_NAME {
        spec("slaves", 3, "3.0.0", "CLUSTER SLAVES node-id", "The old name of CLUSTER REPLICAS.")
    } else {
        spec("replicas", 3, "5.0.0", "CLUSTER REPLICAS node-id", "The nodes that follow where the named one leads.")
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(Replicas(text(&args[2])))
    }

    fn run(self, node: &dyn Node, session: &mut Session) -> Reply {
        let t = match seen(node, session) {
            Ok(t) => t,
            Err(refused) => return refused,
        };
        let Some(leader) = t.members.iter().find(|m| m.hex == self.0) else {
            return Reply::error(format!("ERR Unknown node {}", self.0));
        };
        let led: Vec<&Shard> = t.shards.iter().filter(|s| s.leader == Some(leader.id)).collect();
        if led.is_empty() {
            return Reply::error("ERR The specified node is not a master");
        }
        let follows = |m: &&Member| m.id != leader.id && led.iter().any(|s| s.replicas.contains(&m.id));
        Reply::Array(t.members.iter().filter(follows).map(|m| bulk(node_line(&t, m))).collect())
    }
}

struct Slots;

impl NodeCommand for Slots {
    const SPEC: Spec =
        spec("slots", 2, "3.0.0", "CLUSTER SLOTS", "Ranges of slots, each with its leader and its followers.");

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(Slots)
    }

    fn run(self, node: &dyn Node, session: &mut Session) -> Reply {
        let t = match seen(node, session) {
            Ok(t) => t,
            Err(refused) => return refused,
        };
        let one = |m: &Member| {
            Reply::Array(vec![
                bulk(m.host.clone()),
                Reply::Int(i64::from(m.port)),
                bulk(m.hex.clone()),
                Reply::Map(Vec::new()),
            ])
        };
        let mut rows: Vec<((u16, u16), Vec<Reply>)> = Vec::new();
        for shard in &t.shards {
            let Some(leader) = shard.leader.and_then(|l| t.member(l)) else { continue };
            let followers = shard.replicas.iter().filter(|id| **id != leader.id);
            let followers = followers.filter_map(|id| t.member(*id)).filter(|m| m.alive);
            let nodes: Vec<Reply> = std::iter::once(one(leader)).chain(followers.map(one)).collect();
            rows.extend(shard.ranges.iter().map(|range| (*range, nodes.clone())));
        }
        rows.sort_by_key(|(range, _)| *range);
        let rows = rows.into_iter().map(|((a, b), nodes)| {
            let mut row = vec![Reply::Int(i64::from(a)), Reply::Int(i64::from(b))];
            row.extend(nodes);
            Reply::Array(row)
        });
        Reply::Array(rows.collect())
    }
}

struct Shards;

impl Shards {
    fn member(m: &Member, shard: &Shard) -> Reply {
        let role = if shard.leader == Some(m.id) { "master" } else { "replica" };
        let pair = |k: &str, v: Reply| (bulk(k), v);
        Reply::Map(vec![
            pair("id", bulk(m.hex.clone())),
            pair("port", Reply::Int(i64::from(m.port))),
            pair("ip", bulk(m.host.clone())),
            pair("endpoint", bulk(m.host.clone())),
            pair("hostname", bulk("")),
            pair("role", bulk(role)),
            pair("replication-offset", Reply::Int(shard.applied as i64)),
            pair("health", bulk(if m.alive { "online" } else { "failed" })),
        ])
    }
}

impl NodeCommand for Shards {
    const SPEC: Spec = spec("shards", 2, "7.0.0", "CLUSTER SHARDS", "The data groups: their slots and their nodes.");

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(Shards)
    }

    fn run(self, node: &dyn Node, session: &mut Session) -> Reply {
        let t = match seen(node, session) {
            Ok(t) => t,
            Err(refused) => return refused,
        };
        let one = |shard: &Shard| {
            let slots = shard.ranges.iter().flat_map(|(a, b)| [Reply::Int(i64::from(*a)), Reply::Int(i64::from(*b))]);
            let nodes = shard.replicas.iter().filter_map(|id| t.member(*id)).map(|m| Shards::member(m, shard));
            Reply::Map(vec![
                (bulk("slots"), Reply::Array(slots.collect())),
                (bulk("nodes"), Reply::Array(nodes.collect())),
            ])
        };
        Reply::Array(t.shards.iter().map(one).collect())
    }
}

fn slot_arg(arg: &Bytes) -> Result<Slot, Reply> {
    slot_numbered(integer(arg)?).ok_or_else(|| Reply::error("ERR Invalid slot"))
}

fn slot_numbered(number: i64) -> Option<Slot> {
    u16::try_from(number).ok().filter(|number| usize::from(*number) < SLOTS).map(Slot)
}

struct CountKeysInSlot(Slot);

impl NodeCommand for CountKeysInSlot {
    const SPEC: Spec = spec(
        "countkeysinslot",
        3,
        "3.0.0",
        "CLUSTER COUNTKEYSINSLOT slot",
        "How many keys this node's replica holds in a slot.",
    );

    fn parse(args: &Args) -> Result<Self, Reply> {
        slot_arg(&args[2]).map(CountKeysInSlot)
    }

    fn run(self, node: &dyn Node, _: &mut Session) -> Reply {
        Reply::Int(node.slot_len(self.0) as i64)
    }
}

struct GetKeysInSlot(Slot, usize);

impl NodeCommand for GetKeysInSlot {
    const SPEC: Spec = spec(
        "getkeysinslot",
        4,
        "3.0.0",
        "CLUSTER GETKEYSINSLOT slot count",
        "Keys that this node's replica holds in a slot.",
    );

    fn parse(args: &Args) -> Result<Self, Reply> {
        let (slot, count) = (integer(&args[2])?, integer::<i64>(&args[3])?);
        match (slot_numbered(slot), usize::try_from(count)) {
            (Some(slot), Ok(count)) => Ok(GetKeysInSlot(slot, count.min(KEYS_IN_SLOT_MAX))),
            _ => Err(Reply::error("ERR Invalid slot or number of keys")),
        }
    }

    fn run(self, node: &dyn Node, _: &mut Session) -> Reply {
        Reply::Array(node.slot_keys(self.0, self.1).into_iter().map(Reply::Bulk).collect())
    }
}

/// CLUSTER SLOT-STATS: of the slots whose group this node leads, as Valkey shows those of a primary.
enum SlotStats {
    Range(Slot, Slot),
    ByKeys { most: usize, descending: bool },
}

impl NodeCommand for SlotStats {
    const SPEC: Spec = spec(
        "slot-stats",
        -4,
        "valkey-8.0.0",
        "CLUSTER SLOT-STATS <SLOTSRANGE start-slot end-slot | ORDERBY metric [LIMIT limit] [ASC | DESC]>",
        "How many keys the slots have whose group this node leads; the metric is key-count.",
    );

    fn parse(args: &Args) -> Result<Self, Reply> {
        match &args[2..] {
            [word, first, last] if is(word, "slotsrange") => {
                let (first, last) = (slot_arg(first)?, slot_arg(last)?);
                if first > last {
                    let (first, last) = (first.0, last.0);
                    let text = format!("ERR Start slot number {first} is greater than end slot number {last}");
                    return Err(Reply::error(text));
                }
                Ok(SlotStats::Range(first, last))
            }
            [word, metric, options @ ..] if is(word, "orderby") => {
                if !is(metric, "key-count") {
                    return Err(Reply::error("ERR Unrecognized sort metric for ORDERBY."));
                }
                SlotStats::ordered(options)
            }
            _ => Err(syntax_error()),
        }
    }

    fn run(self, node: &dyn Node, session: &mut Session) -> Reply {
        let t = match seen(node, session) {
            Ok(t) => t,
            Err(refused) => return refused,
        };
        let led = t.shards.iter().filter(|shard| shard.leader == Some(t.me)).flat_map(|shard| shard.ranges.iter());
        let mut slots: Vec<Slot> = led.flat_map(|(first, last)| (*first..=*last).map(Slot)).collect();
        slots.sort_unstable();
        if let SlotStats::Range(first, last) = self {
            slots.retain(|slot| (first..=last).contains(slot));
        }
        let mut rows: Vec<(Slot, u64)> = slots.into_iter().map(|slot| (slot, node.slot_len(slot))).collect();
        if let SlotStats::ByKeys { most, descending } = self {
            // The sort is stable: slots of as many keys stay in their order.
            match descending {
                true => rows.sort_by_key(|(_, keys)| std::cmp::Reverse(*keys)),
                false => rows.sort_by_key(|(_, keys)| *keys),
            }
            rows.truncate(most);
        }
        let row = |(slot, keys): (Slot, u64)| {
            let stats = Reply::Map(vec![(bulk("key-count"), Reply::Int(keys as i64))]);
            Reply::Array(vec![Reply::Int(i64::from(slot.0)), stats])
        };
        Reply::Array(rows.into_iter().map(row).collect())
    }
}

impl SlotStats {
    fn ordered(options: &[Bytes]) -> Result<SlotStats, Reply> {
        let (mut most, mut descending, mut at) = (SLOTS, true, 0);
        while let Some(word) = options.get(at) {
            match (word, options.get(at + 1)) {
                (word, Some(limit)) if is(word, "limit") => {
                    let limit = integer::<i64>(limit)?;
                    most = usize::try_from(limit).ok().filter(|n| (1..=SLOTS).contains(n)).ok_or_else(|| {
                        Reply::error("ERR Limit has to lie in between 1 and 16384 (maximum number of slots).")
                    })?;
                    at += 2;
                    continue;
                }
                (word, _) if is(word, "asc") => descending = false,
                (word, _) if is(word, "desc") => descending = true,
                _ => return Err(syntax_error()),
            }
            at += 1;
        }
        Ok(SlotStats::ByKeys { most, descending })
    }
}

/// CLUSTER FAILOVER: the door carries it out, because it waits for other nodes. What runs here is only reached inside MULTI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failover {
    Plain,
    /// With FORCE or TAKEOVER.
    Forced,
}

/// What `CLUSTER FAILOVER ...` asks for.
pub fn failover(args: &Args) -> Result<Failover, Reply> {
    match &args[2..] {
        [] => Ok(Failover::Plain),
        [word] if is(word, "force") || is(word, "takeover") => Ok(Failover::Forced),
        _ => Err(syntax_error()),
    }
}

impl SessionCommand for Failover {
    const SPEC: Spec = spec(
        "failover",
        -2,
        "3.0.0",
        "CLUSTER FAILOVER",
        "Has this node take over the leadership of the groups that it follows; answered when it leads them.",
    );

    fn parse(args: &Args) -> Result<Self, Reply> {
        failover(args)
    }

    fn run(self, _: &mut Session) -> Reply {
        Reply::error("ERR CLUSTER FAILOVER cannot be used here")
    }
}

/// Subcommands of Redis that change the topology, and what does it here.
const ELSEWHERE: &[(&str, &str, &str)] = &[
    ("addslots", "CLUSTER ADDSLOTS", "slots move"),
    ("addslotsrange", "CLUSTER ADDSLOTSRANGE", "slots move"),
    ("bumpepoch", "CLUSTER BUMPEPOCH", "status"),
    ("count-failure-reports", "CLUSTER COUNT-FAILURE-REPORTS", "status"),
    ("delslots", "CLUSTER DELSLOTS", "slots move"),
    ("delslotsrange", "CLUSTER DELSLOTSRANGE", "slots move"),
    ("flushslots", "CLUSTER FLUSHSLOTS", "slots move"),
    ("forget", "CLUSTER FORGET", "node remove"),
    ("meet", "CLUSTER MEET", "node add"),
    ("replicate", "CLUSTER REPLICATE", "rebalance --copies"),
    ("reset", "CLUSTER RESET", "node remove"),
    ("saveconfig", "CLUSTER SAVECONFIG", "status"),
    ("set-config-epoch", "CLUSTER SET-CONFIG-EPOCH", "status"),
    ("setslot", "CLUSTER SETSLOT", "slots move"),
];

struct Elsewhere<const N: usize>;

impl<const N: usize> SessionCommand for Elsewhere<N> {
    const SPEC: Spec =
        spec(ELSEWHERE[N].0, -2, "hc-0.1", ELSEWHERE[N].1, "Refused: the reply names what to use instead.");

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(Elsewhere)
    }

    fn run(self, _: &mut Session) -> Reply {
        let (_, name, verb) = ELSEWHERE[N];
        Reply::error(format!("ERR {name} is not supported: ownership comes from the log, use hypercachectl {verb}"))
    }
}

static CLUSTER_SUBCOMMANDS: &[Command] = &[
    node::<CountKeysInSlot>(),
    session::<Failover>(),
    node::<GetKeysInSlot>(),
    help(spec("help", 2, "5.0.0", "CLUSTER HELP", "The subcommands of CLUSTER."), |_, _| {
        of_table("CLUSTER", CLUSTER_SUBCOMMANDS)
    }),
    node::<ClusterInfo>(),
    session::<Keyslot>(),
    node::<Myid>(),
    node::<Myshardid>(),
    node::<Nodes>(),
    node::<Replicas<false>>(),
    node::<Shards>(),
    node::<Replicas<true>>(),
    node::<SlotStats>(),
    node::<Slots>(),
    session::<Elsewhere<0>>(),
    session::<Elsewhere<1>>(),
    session::<Elsewhere<2>>(),
    session::<Elsewhere<3>>(),
    session::<Elsewhere<4>>(),
    session::<Elsewhere<5>>(),
    session::<Elsewhere<6>>(),
    session::<Elsewhere<7>>(),
    session::<Elsewhere<8>>(),
    session::<Elsewhere<9>>(),
    session::<Elsewhere<10>>(),
    session::<Elsewhere<11>>(),
    session::<Elsewhere<12>>(),
    session::<Elsewhere<13>>(),
];

struct Asking;

impl SessionCommand for Asking {
    const SPEC: Spec =
        spec("asking", 1, "3.0.0", "ASKING", "The next command may touch a slot that is being brought in.");

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(Asking)
    }

    fn run(self, session: &mut Session) -> Reply {
        if session.face == Face::Proxy {
            return disabled();
        }
        session.asking = true;
        Reply::OK
    }
}

/// READONLY and READWRITE.
struct Readonly<const ON: bool>;

impl<const ON: bool> SessionCommand for Readonly<ON> {
    const SPEC: Spec = if ON {
        spec("readonly", 1, "3.0.0", "READONLY", "Reads of this connection are eventual and any replica answers them.")
    } else {
        spec("readwrite", 1, "3.0.0", "READWRITE", "Takes READONLY back.")
    };

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(Readonly)
    }

    fn run(self, session: &mut Session) -> Reply {
        session.readonly = ON;
        Reply::OK
    }
}

/// HC.READ: the door unwraps it before it looks up the command inside, so what runs here is a misuse.
struct ReadAt;

/// What a HC.READ inside a HC.READ is answered with.
fn nested() -> Reply {
    Reply::error("ERR HC.READ cannot be nested")
}

impl SessionCommand for ReadAt {
    const SPEC: Spec = spec(
        "hc.read",
        -3,
        "hc-0.1",
        "HC.READ <linearizable | lease | bounded milliseconds | eventual> command [arg ...]",
        "Runs one reading command at the level named.",
    );

    fn parse(_: &Args) -> Result<Self, Reply> {
        Err(nested())
    }

    fn run(self, _: &mut Session) -> Reply {
        nested()
    }
}

/// The level and the command inside `HC.READ <level> <command ...>`.
pub fn unwrap_read(args: &Args) -> Result<(crate::types::Level, Args), Reply> {
    use super::connection::{level_error, parse_level};
    let two_words = args.len() > 3 && is(&args[1], "bounded");
    let (level, inner) = args[1..].split_at(if two_words { 2 } else { 1 });
    let level = parse_level(level).ok_or_else(level_error)?;
    if inner.is_empty() {
        return Err(Reply::error("ERR wrong number of arguments for 'hc.read' command"));
    }
    Ok((level, inner.iter().cloned().collect()))
}

/// HC.VERIFY: the door carries it out, because it waits for other nodes. What runs here is only reached inside MULTI.
struct Verify;

impl SessionCommand for Verify {
    const SPEC: Spec = spec(
        "hc.verify",
        -1,
        "hc-0.1",
        "HC.VERIFY [group ...]",
        "Has the replicas of a group compare their states at one index; all groups without one.",
    );

    fn parse(args: &Args) -> Result<Self, Reply> {
        verified_groups(args).map(|_| Verify)
    }

    fn run(self, _: &mut Session) -> Reply {
        Reply::error("ERR HC.VERIFY cannot be used here")
    }
}

/// The groups named in `HC.VERIFY [group ...]`; none: all of them.
pub fn verified_groups(args: &Args) -> Result<Vec<GroupId>, Reply> {
    let group = |arg: &Bytes| std::str::from_utf8(arg).ok()?.parse().ok().map(GroupId);
    let groups: Option<Vec<GroupId>> = args[1..].iter().map(group).collect();
    groups.ok_or_else(|| Reply::error("ERR a group is a number"))
}

pub static CLUSTER: &[Command] = &[
    session::<Asking>(),
    container(
        spec("cluster", -2, "3.0.0", "CLUSTER subcommand", "What a cluster client routes by."),
        CLUSTER_SUBCOMMANDS,
    ),
    session::<ReadAt>(),
    session::<Verify>(),
    session::<Readonly<true>>(),
    session::<Readonly<false>>(),
];
