//! Commands about the server: what it is, what it knows, how it is set.
//!
//! COMMAND stands in `introspection`, INFO in `info`; the table is here. Nothing waits or replicates: what must hold on
//! every node is not set through CONFIG.

use super::connection::{integer, text};
use super::help::{help, of_table};
use super::node::{ConfigError, Facts, Node};
use super::session::{Face, Session};
use super::{Command, NodeCommand, SessionCommand, Spec, container, node, session};
use crate::resp::{Args, Reply};
use bytes::Bytes;

/// The Redis whose behaviour clients may expect.
pub const REDIS_VERSION: &str = "7.2.4";

pub(super) const fn spec(
    name: &'static str,
    arity: i32,
    since: &'static str,
    syntax: &'static str,
    summary: &'static str,
) -> Spec {
    Spec::local("server", name, arity, since, syntax, summary)
}

/// `redis_mode` and HELLO's `mode`.
pub fn redis_mode(face: Face) -> &'static str {
    match face {
        Face::Proxy => "standalone",
        Face::Cluster => "cluster",
    }
}

pub(super) fn bulk(t: impl Into<String>) -> Reply {
    Reply::Bulk(Bytes::from(t.into()))
}

// --- CONFIG -----------------------------------------------------------------------------------------------------

struct ConfigGet(Vec<String>);

impl NodeCommand for ConfigGet {
    const SPEC: Spec =
        spec("get", -3, "2.0.0", "CONFIG GET parameter [parameter ...]", "Parameters by name or pattern.");

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(ConfigGet(args[2..].iter().map(|a| text(a).to_ascii_lowercase()).collect()))
    }

    fn run(self, node: &dyn Node, _: &mut Session) -> Reply {
        let wanted = |name: &str| self.0.iter().any(|p| super::glob::matches(p.as_bytes(), name.as_bytes()));
        let found = node.config().into_iter().filter(|(name, _)| wanted(name));
        Reply::Map(found.map(|(name, value)| (bulk(name), bulk(value))).collect())
    }
}

struct ConfigSet(Vec<(String, String)>);

impl NodeCommand for ConfigSet {
    const SPEC: Spec = spec(
        "set",
        -4,
        "2.0.0",
        "CONFIG SET parameter value [parameter value ...]",
        "Sets parameters: all or none. Those of memory are set for the whole cluster.",
    );

    fn parse(args: &Args) -> Result<Self, Reply> {
        let pairs = args[2..].chunks_exact(2);
        if !pairs.remainder().is_empty() {
            return Err(Reply::error("ERR wrong number of arguments for 'config|set' command"));
        }
        Ok(ConfigSet(pairs.map(|p| (text(&p[0]).to_ascii_lowercase(), text(&p[1]))).collect()))
    }

    fn run(self, node: &dyn Node, _: &mut Session) -> Reply {
        let failed = |name: &str, why: &str| {
            Reply::error(format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {why}"))
        };
        match node.config_set(&self.0) {
            Ok(()) => Reply::OK,
            Err(ConfigError::Unknown(name)) => {
                Reply::error(format!("ERR Unknown option or number of arguments for CONFIG SET - '{name}'"))
            }
            Err(ConfigError::Immutable(name)) => failed(&name, "can't set immutable config"),
            Err(ConfigError::Invalid(name, why)) => failed(&name, &why),
        }
    }
}

/// What CONFIG SET sets, if this is one: parameters that all nodes share are not this node's to set.
pub fn config_set_pairs(command: &Command, args: &Args) -> Option<Vec<(String, String)>> {
    let is_it = command.spec.name == ConfigSet::SPEC.name && args[0].eq_ignore_ascii_case(b"config");
    if is_it { ConfigSet::parse(args).ok().map(|set| set.0) } else { None }
}

struct ResetStat;

impl NodeCommand for ResetStat {
    const SPEC: Spec = spec("resetstat", 2, "2.0.0", "CONFIG RESETSTAT", "Sets this node's counters of INFO to zero.");

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(ResetStat)
    }

    fn run(self, node: &dyn Node, _: &mut Session) -> Reply {
        node.reset_stats();
        Reply::OK
    }
}

struct Rewrite;

impl SessionCommand for Rewrite {
    const SPEC: Spec = spec("rewrite", 2, "2.8.0", "CONFIG REWRITE", "Refused: the file is its owner's.");

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(Rewrite)
    }

    fn run(self, _: &mut Session) -> Reply {
        Reply::error(
            "ERR CONFIG REWRITE is not supported: the configuration file is never written by the server, edit it",
        )
    }
}

// --- the rest ---------------------------------------------------------------------------------------------------

struct Role;

impl NodeCommand for Role {
    const SPEC: Spec = spec("role", 1, "2.8.12", "ROLE", "The node's role, always master, and the other nodes.");

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(Role)
    }

    fn run(self, node: &dyn Node, _: &mut Session) -> Reply {
        let facts = node.facts();
        let offset: u64 = facts.groups.iter().map(|g| g.applied).sum();
        let others = facts.nodes.iter().filter(|(id, _, _, alive)| *id != facts.node && *alive);
        let others = others.map(|(_, host, port, _)| {
            Reply::Array(vec![bulk(host.clone()), bulk(port.to_string()), bulk(offset.to_string())])
        });
        Reply::Array(vec![bulk("master"), Reply::Int(offset as i64), Reply::Array(others.collect())])
    }
}

struct Time;

impl NodeCommand for Time {
    const SPEC: Spec = spec("time", 1, "2.6.0", "TIME", "This node's wall clock: seconds and microseconds.");

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(Time)
    }

    fn run(self, node: &dyn Node, _: &mut Session) -> Reply {
        let us = node.unix_us();
        Reply::Array(vec![bulk((us / 1_000_000).to_string()), bulk((us % 1_000_000).to_string())])
    }
}

/// Replicas beside the leader on which every acknowledged write is, whatever the group.
fn replicas_guaranteed(facts: &Facts) -> i64 {
    facts.groups.iter().map(|g| g.voters.len() / 2).min().unwrap_or(0) as i64
}

/// WAIT: an acknowledged write is on a majority already, so there is nothing to wait for. Replies go out in the
/// order of requests, so this one comes after those of the writes before it.
struct Wait;

impl NodeCommand for Wait {
    const SPEC: Spec = spec(
        "wait",
        3,
        "3.0.0",
        "WAIT numreplicas timeout",
        "On how many replicas beside the leader every acknowledged write is; answers at once.",
    );

    fn parse(args: &Args) -> Result<Self, Reply> {
        integer::<i64>(&args[1])?;
        let timeout: i64 =
            integer(&args[2]).map_err(|_| Reply::error("ERR timeout is not an integer or out of range"))?;
        if timeout < 0 { Err(Reply::error("ERR timeout is negative")) } else { Ok(Wait) }
    }

    fn run(self, node: &dyn Node, _: &mut Session) -> Reply {
        Reply::Int(replicas_guaranteed(&node.facts()))
    }
}

struct WaitAof;

impl NodeCommand for WaitAof {
    const SPEC: Spec = spec(
        "waitaof",
        4,
        "7.2.0",
        "WAITAOF numlocal numreplicas timeout",
        "Whether acknowledged writes are on the leader's disk, and on how many replicas' disks; answers at once.",
    );

    fn parse(args: &Args) -> Result<Self, Reply> {
        let local: i64 = integer(&args[1])?;
        if !(0..=1).contains(&local) {
            return Err(Reply::error("ERR value is out of range, value must between 0 and 1"));
        }
        if integer::<i64>(&args[2])? < 0 {
            return Err(Reply::error("ERR value is out of range, must be positive"));
        }
        Wait::parse(&args[1..].iter().cloned().collect::<Args>()).map(|_| WaitAof)
    }

    fn run(self, node: &dyn Node, _: &mut Session) -> Reply {
        let facts = node.facts();
        let synced = facts.sync == "always";
        let replicas = if synced { replicas_guaranteed(&facts) } else { 0 };
        Reply::Array(vec![Reply::Int(i64::from(synced)), Reply::Int(replicas)])
    }
}

/// Commands of Redis that HyperCache will never have, and what to use instead.
const NEVER: &[(&str, &str, &str)] = &[
    ("replicaof", "REPLICAOF", "nodes are added and removed with hypercachectl"),
    ("slaveof", "SLAVEOF", "nodes are added and removed with hypercachectl"),
    ("psync", "PSYNC", "replicas follow the Raft log"),
    ("sync", "SYNC", "replicas follow the Raft log"),
    ("module", "MODULE", "modules cannot be loaded"),
    ("migrate", "MIGRATE", "slots are moved with hypercachectl slots move, replicas with hypercachectl rebalance"),
    ("debug", "DEBUG", "state is inspected with hypercachectl and INFO"),
    ("save", "SAVE", "snapshots are made in the background; make one with hypercachectl snapshot save"),
    (
        "bgrewriteaof",
        "BGREWRITEAOF",
        "the log is compacted in the background; make a snapshot with hypercachectl snapshot save",
    ),
];

struct Never<const N: usize>;

impl<const N: usize> SessionCommand for Never<N> {
    const SPEC: Spec = spec(NEVER[N].0, -1, "hc-0.1", NEVER[N].1, "Refused: the reply names what to use instead.");

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(Never)
    }

    fn run(self, _: &mut Session) -> Reply {
        let (_, name, instead) = NEVER[N];
        Reply::error(format!("ERR {name} is not supported: {instead}"))
    }
}

static CONFIG: &[Command] = &[
    node::<ConfigGet>(),
    help(spec("help", 2, "5.0.0", "CONFIG HELP", "The subcommands of CONFIG."), |_, _| of_table("CONFIG", CONFIG)),
    node::<ResetStat>(),
    session::<Rewrite>(),
    node::<ConfigSet>(),
];

pub static SERVER: &[Command] = &[
    container(spec("acl", -2, "6.0.0", "ACL subcommand", "Users and what they may do."), super::acl::ACL),
    session::<super::introspection::CommandAll>().with(super::introspection::COMMAND),
    container(
        spec("commandlog", -2, "valkey-8.1.0", "COMMANDLOG subcommand", "Commands that took long or were large."),
        super::command_log::COMMANDLOG,
    ),
    container(spec("config", -2, "2.0.0", "CONFIG subcommand", "Parameters of this node."), CONFIG),
    node::<super::info::Info>(),
    container(
        spec("latency", -2, "2.8.13", "LATENCY subcommand", "How long things took on this node."),
        super::latency::LATENCY,
    ),
    node::<Role>(),
    container(
        spec("slowlog", -2, "2.2.12", "SLOWLOG subcommand", "Commands that took long."),
        super::command_log::SLOWLOG,
    ),
    node::<Time>(),
    node::<Wait>(),
    node::<WaitAof>(),
    session::<Never<0>>(),
    session::<Never<1>>(),
    session::<Never<2>>(),
    session::<Never<3>>(),
    session::<Never<4>>(),
    session::<Never<5>>(),
    session::<Never<6>>(),
    session::<Never<7>>(),
    session::<Never<8>>(),
];
