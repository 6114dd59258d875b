//! Commands about the server: what it is, what it knows, how it is set.
//!
//! COMMAND and its subcommands are loops over the families' tables and hold no list of their own. Nothing here
//! waits or replicates: what must hold on every node is not set through CONFIG.

use super::connection::{help, integer, is, text};
use super::node::{ConfigError, Facts, Node};
use super::session::{Face, Session};
use super::{Command, Keys, NodeCommand, Run, Scope, SessionCommand, Spec, container, node, session};
use crate::resp::{Args, Reply};
use bytes::Bytes;
use std::fmt::Write as _;

/// The Redis whose behaviour clients may expect.
pub const REDIS_VERSION: &str = "7.2.4";

const fn spec(
    name: &'static str,
    arity: i32,
    since: &'static str,
    syntax: &'static str,
    summary: &'static str,
) -> Spec {
    Spec {
        name,
        arity,
        keys: Keys::None,
        scope: Scope::Local,
        family: "server",
        syntax,
        summary,
        complexity: "O(1)",
        since,
        denyoom: false,
    }
}

/// `redis_mode` and HELLO's `mode`.
pub fn redis_mode(face: Face) -> &'static str {
    match face {
        Face::Proxy => "standalone",
        Face::Cluster => "cluster",
    }
}

fn bulk(t: impl Into<String>) -> Reply {
    Reply::Bulk(Bytes::from(t.into()))
}

fn status(t: impl Into<String>) -> Reply {
    Reply::Status(Bytes::from(t.into()))
}

fn syntax_error() -> Reply {
    Reply::error("ERR syntax error")
}

// --- COMMAND ----------------------------------------------------------------------------------------------------

/// Flags as in COMMAND INFO, derived from the kind.
fn flags(command: &Command) -> Vec<&'static str> {
    let mut flags = match command.run {
        Run::Read(_) => vec!["readonly"],
        Run::Write(_) => vec!["write"],
        Run::Session(_) => vec!["loading", "stale", "fast"],
        Run::Node(_) => vec!["loading", "stale"],
        Run::Container => vec![],
    };
    if command.spec.denyoom {
        flags.push("denyoom");
    }
    if matches!(command.run, Run::Read(_) | Run::Write(_)) && command.spec.complexity == "O(1)" {
        flags.push("fast");
    }
    flags
}

/// ACL categories, derived from kind and family.
fn categories(command: &Command) -> Vec<String> {
    let mut all = Vec::new();
    match command.run {
        Run::Read(_) => all.push("@read".to_owned()),
        Run::Write(_) => all.push("@write".to_owned()),
        Run::Node(_) => all.push("@admin".to_owned()),
        Run::Session(_) | Run::Container => {}
    }
    let family = match command.spec.family {
        "generic" => "keyspace",
        other => other,
    };
    all.push(format!("@{family}"));
    all.push(if flags(command).contains(&"fast") { "@fast" } else { "@slow" }.to_owned());
    all
}

/// First key, last key and step as the oldest clients read them; zeros where keys are found otherwise.
fn key_range(keys: &Keys) -> (i64, i64, i64) {
    match keys {
        Keys::Range { first, last, step } => (*first as i64, i64::from(*last), *step as i64),
        _ => (0, 0, 0),
    }
}

fn key_specs(command: &Command) -> Reply {
    let (first, last, step) = key_range(&command.spec.keys);
    if first == 0 {
        return Reply::Array(Vec::new());
    }
    let access = if command.is_write() { ["RW", "UPDATE"] } else { ["RO", "ACCESS"] };
    let last = if last < 0 { last } else { last - first };
    let pair = |k: &str, v: Reply| (bulk(k), v);
    Reply::Array(vec![Reply::Map(vec![
        pair("flags", Reply::Set(access.into_iter().map(status).collect())),
        pair(
            "begin_search",
            Reply::Map(vec![
                pair("type", bulk("index")),
                pair("spec", Reply::Map(vec![pair("index", Reply::Int(first))])),
            ]),
        ),
        pair(
            "find_keys",
            Reply::Map(vec![
                pair("type", bulk("range")),
                pair(
                    "spec",
                    Reply::Map(vec![
                        pair("lastkey", Reply::Int(last)),
                        pair("keystep", Reply::Int(step)),
                        pair("limit", Reply::Int(0)),
                    ]),
                ),
            ]),
        ),
    ])])
}

fn command_info(name: &str, command: &Command) -> Reply {
    let (first, last, step) = key_range(&command.spec.keys);
    let subcommands = command
        .subcommands
        .iter()
        .map(|sub| command_info(&format!("{name}|{}", sub.spec.name), sub))
        .collect();
    Reply::Array(vec![
        bulk(name),
        Reply::Int(i64::from(command.spec.arity)),
        Reply::Set(flags(command).into_iter().map(status).collect()),
        Reply::Int(first),
        Reply::Int(last),
        Reply::Int(step),
        Reply::Set(categories(command).into_iter().map(status).collect()),
        Reply::Array(Vec::new()),
        key_specs(command),
        Reply::Array(subcommands),
    ])
}

fn command_docs(name: &str, command: &Command) -> Reply {
    let spec = &command.spec;
    let mut docs = vec![
        (bulk("summary"), bulk(spec.summary)),
        (bulk("since"), bulk(spec.since)),
        (bulk("group"), bulk(spec.family)),
        (bulk("complexity"), bulk(spec.complexity)),
        (bulk("syntax"), bulk(spec.syntax)),
    ];
    if !command.subcommands.is_empty() {
        let subs = command.subcommands.iter().map(|sub| {
            let full = format!("{name}|{}", sub.spec.name);
            (bulk(full.clone()), command_docs(&full, sub))
        });
        docs.push((bulk("subcommands"), Reply::Map(subs.collect())));
    }
    Reply::Map(docs)
}

/// Commands that are no subcommands, with their names, in order of names.
fn top_level() -> Vec<(String, &'static Command)> {
    let mut list: Vec<_> = super::all()
        .filter(|(name, _)| !name.contains('|') && !name.contains(' '))
        .map(|(name, command)| (name.to_string(), command))
        .collect();
    list.sort_by(|a, b| a.0.cmp(&b.0));
    list
}

/// The command called `name`, with `|` or without between container and subcommand.
fn named(name: &str) -> Option<&'static Command> {
    let lower = name.to_ascii_lowercase();
    let (head, sub) = match lower.split_once('|') {
        Some((head, sub)) => (head, Some(sub)),
        None => (lower.as_str(), None),
    };
    let command = top_level().into_iter().find(|(n, _)| n == head)?.1;
    match sub {
        None => Some(command),
        Some(sub) => command.subcommands.iter().find(|c| c.spec.name == sub),
    }
}

/// COMMAND INFO [name ...]; the bare COMMAND is the same without names.
struct CommandInfo(Vec<String>);

impl SessionCommand for CommandInfo {
    const SPEC: Spec =
        spec("info", -2, "2.8.13", "COMMAND INFO [command-name ...]", "Arity, flags and keys of commands.");

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(CommandInfo(args[2..].iter().map(text).collect()))
    }

    fn run(self, _: &mut Session) -> Reply {
        if self.0.is_empty() {
            return CommandAll.reply();
        }
        let one = |name: &String| {
            named(name).map_or(Reply::NilArray, |c| command_info(&name.to_ascii_lowercase(), c))
        };
        Reply::Array(self.0.iter().map(one).collect())
    }
}

struct CommandAll;

impl CommandAll {
    fn reply(self) -> Reply {
        Reply::Array(top_level().iter().map(|(name, c)| command_info(name, c)).collect())
    }
}

impl SessionCommand for CommandAll {
    const SPEC: Spec = spec("command", -1, "2.8.13", "COMMAND", "All commands with arity, flags and keys.");

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(CommandAll)
    }

    fn run(self, _: &mut Session) -> Reply {
        self.reply()
    }
}

struct CommandCount;

impl SessionCommand for CommandCount {
    const SPEC: Spec = spec("count", 2, "2.8.13", "COMMAND COUNT", "How many commands there are.");

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(CommandCount)
    }

    fn run(self, _: &mut Session) -> Reply {
        Reply::Int(top_level().len() as i64)
    }
}

struct CommandDocs(Vec<String>);

impl SessionCommand for CommandDocs {
    const SPEC: Spec =
        spec("docs", -2, "7.0.0", "COMMAND DOCS [command-name ...]", "What commands are for and how they read.");

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(CommandDocs(args[2..].iter().map(text).collect()))
    }

    fn run(self, _: &mut Session) -> Reply {
        let pairs: Vec<_> = if self.0.is_empty() {
            top_level().iter().map(|(n, c)| (bulk(n.clone()), command_docs(n, c))).collect()
        } else {
            let found = self.0.iter().filter_map(|name| {
                let lower = name.to_ascii_lowercase();
                named(name).map(|c| (bulk(lower.clone()), command_docs(&lower, c)))
            });
            found.collect()
        };
        Reply::Map(pairs)
    }
}

/// COMMAND GETKEYS and GETKEYSANDFLAGS.
fn keys_of(inner: &[Bytes]) -> Result<(&'static Command, Vec<Bytes>), Reply> {
    let inner: Args = inner.iter().cloned().collect();
    let command = super::lookup(&inner).map_err(|refused| match &refused {
        Reply::Error(text) if text.starts_with(b"ERR wrong number") => {
            Reply::error("ERR Invalid number of arguments specified for command")
        }
        _ => Reply::error("ERR Invalid command specified"),
    })?;
    let keys: Vec<Bytes> = super::keys(command, &inner).cloned().collect();
    match keys.is_empty() {
        true => Err(Reply::error("ERR The command has no key arguments")),
        false => Ok((command, keys)),
    }
}

struct GetKeys(Vec<Bytes>);

impl SessionCommand for GetKeys {
    const SPEC: Spec =
        spec("getkeys", -3, "2.8.13", "COMMAND GETKEYS command [arg ...]", "The keys of a full command.");

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(GetKeys(args[2..].to_vec()))
    }

    fn run(self, _: &mut Session) -> Reply {
        match keys_of(&self.0) {
            Ok((_, keys)) => Reply::Array(keys.into_iter().map(Reply::Bulk).collect()),
            Err(refused) => refused,
        }
    }
}

struct GetKeysAndFlags(Vec<Bytes>);

impl SessionCommand for GetKeysAndFlags {
    const SPEC: Spec = spec(
        "getkeysandflags",
        -3,
        "7.0.0",
        "COMMAND GETKEYSANDFLAGS command [arg ...]",
        "The keys of a full command and what happens to them.",
    );

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(GetKeysAndFlags(args[2..].to_vec()))
    }

    fn run(self, _: &mut Session) -> Reply {
        let (command, keys) = match keys_of(&self.0) {
            Ok(found) => found,
            Err(refused) => return refused,
        };
        let access = if command.is_write() { ["RW", "UPDATE"] } else { ["RO", "ACCESS"] };
        let one = |key| {
            let flags = access.iter().map(|f| status(*f)).collect();
            Reply::Array(vec![Reply::Bulk(key), Reply::Set(flags)])
        };
        Reply::Array(keys.into_iter().map(one).collect())
    }
}

/// COMMAND LIST with its filter.
enum CommandList {
    All,
    Module,
    Category(String),
    Pattern(Bytes),
}

impl SessionCommand for CommandList {
    const SPEC: Spec = spec(
        "list",
        -2,
        "7.0.0",
        "COMMAND LIST [FILTERBY <MODULE module-name | ACLCAT category | PATTERN pattern>]",
        "Names of commands.",
    );

    fn parse(args: &Args) -> Result<Self, Reply> {
        match &args[2..] {
            [] => Ok(CommandList::All),
            [by, kind, what] if is(by, "filterby") => match () {
                () if is(kind, "module") => Ok(CommandList::Module),
                () if is(kind, "aclcat") => Ok(CommandList::Category(format!("@{}", text(what)))),
                () if is(kind, "pattern") => Ok(CommandList::Pattern(what.clone())),
                () => Err(syntax_error()),
            },
            _ => Err(syntax_error()),
        }
    }

    fn run(self, _: &mut Session) -> Reply {
        let shown = |name: &str, command: &Command| match &self {
            CommandList::All => true,
            CommandList::Module => false,
            CommandList::Category(wanted) => categories(command).contains(wanted),
            CommandList::Pattern(pattern) => super::glob::matches(pattern, name.as_bytes()),
        };
        let mut names = Vec::new();
        for (name, command) in top_level() {
            if shown(&name, command) {
                names.push(bulk(name.clone()));
            }
            if !matches!(self, CommandList::All) {
                for sub in command.subcommands {
                    let full = format!("{name}|{}", sub.spec.name);
                    if shown(&full, sub) {
                        names.push(bulk(full));
                    }
                }
            }
        }
        Reply::Array(names)
    }
}

struct CommandHelp;

impl SessionCommand for CommandHelp {
    const SPEC: Spec = spec("help", 2, "5.0.0", "COMMAND HELP", "The subcommands of COMMAND.");

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(CommandHelp)
    }

    fn run(self, _: &mut Session) -> Reply {
        help("COMMAND", COMMAND)
    }
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
        let wanted =
            |name: &str| self.0.iter().any(|p| super::glob::matches(p.as_bytes(), name.as_bytes()));
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
        "Sets parameters of this node: all or none.",
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
            Reply::error(format!(
                "ERR CONFIG SET failed (possibly related to argument '{name}') - {why}"
            ))
        };
        match node.config_set(&self.0) {
            Ok(()) => Reply::OK,
            Err(ConfigError::Unknown(name)) => Reply::error(format!(
                "ERR Unknown option or number of arguments for CONFIG SET - '{name}'"
            )),
            Err(ConfigError::Immutable(name)) => failed(&name, "can't set immutable config"),
            Err(ConfigError::Invalid(name, why)) => failed(&name, &why),
        }
    }
}

struct ResetStat;

impl NodeCommand for ResetStat {
    const SPEC: Spec =
        spec("resetstat", 2, "2.0.0", "CONFIG RESETSTAT", "Sets this node's counters of INFO to zero.");

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
        Reply::error("ERR CONFIG REWRITE is not supported: the configuration file is never written by the server, edit it")
    }
}

struct ConfigHelp;

impl SessionCommand for ConfigHelp {
    const SPEC: Spec = spec("help", 2, "5.0.0", "CONFIG HELP", "The subcommands of CONFIG.");

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(ConfigHelp)
    }

    fn run(self, _: &mut Session) -> Reply {
        help("CONFIG", CONFIG)
    }
}

// --- INFO -------------------------------------------------------------------------------------------------------

type WriteSection = fn(&Facts, &dyn Node, Face, &mut String);

/// INFO's sections in order; the bool says whether a bare INFO shows it.
const SECTIONS: &[(&str, bool, WriteSection)] = &[
    ("server", true, info_server),
    ("clients", true, info_clients),
    ("memory", true, info_memory),
    ("persistence", true, info_persistence),
    ("stats", true, info_stats),
    ("replication", true, info_replication),
    ("cpu", true, info_cpu),
    ("modules", true, |_, _, _, out| out.push_str("# Modules\r\n")),
    ("commandstats", false, info_commandstats),
    ("errorstats", true, info_errorstats),
    ("cluster", true, info_cluster),
    ("keyspace", true, info_keyspace),
    ("hypercache", true, info_hypercache),
];

macro_rules! lines {
    ($out:expr, $title:literal, $($name:expr => $value:expr),* $(,)?) => {{
        $out.push_str(concat!("# ", $title, "\r\n"));
        $( let _ = write!($out, "{}:{}\r\n", $name, $value); )*
    }};
}

fn human(bytes: u64) -> String {
    const UNITS: [(&str, u32); 4] = [("T", 40), ("G", 30), ("M", 20), ("K", 10)];
    let unit = UNITS.iter().find(|(_, shift)| bytes >= 1 << shift);
    unit.map_or(format!("{bytes}B"), |(name, shift)| {
        format!("{:.2}{name}", bytes as f64 / (1u64 << shift) as f64)
    })
}

fn info_server(f: &Facts, node: &dyn Node, face: Face, out: &mut String) {
    let port = if face == Face::Proxy { f.proxy_port } else { f.cluster_port };
    lines!(out, "Server",
        "redis_version" => REDIS_VERSION,
        "hypercache_version" => f.hypercache_version,
        "redis_git_sha1" => "00000000",
        "redis_git_dirty" => 0,
        "redis_build_id" => 0,
        "redis_mode" => redis_mode(face),
        "os" => std::env::consts::OS,
        "arch_bits" => usize::BITS,
        "monotonic_clock" => "CLOCK_BOOTTIME",
        "multiplexing_api" => "epoll",
        "process_id" => f.pid,
        "process_supervised" => "no",
        "run_id" => f.run_id,
        "tcp_port" => port,
        "server_time_usec" => node.unix_us(),
        "uptime_in_seconds" => f.uptime_s,
        "uptime_in_days" => f.uptime_s / 86_400,
        "hz" => 20,
        "configured_hz" => 20,
        "io_threads_active" => f.workers,
        "config_file" => f.config_file);
}

fn info_clients(f: &Facts, _: &dyn Node, _: Face, out: &mut String) {
    lines!(out, "Clients",
        "connected_clients" => f.clients.connected,
        "cluster_connections" => f.nodes.len().saturating_sub(1),
        "maxclients" => f.clients.max,
        "client_recent_max_input_buffer" => f.clients.fullest.0,
        "client_recent_max_output_buffer" => f.clients.fullest.1,
        "blocked_clients" => 0,
        "tracking_clients" => 0,
        "clients_in_timeout_table" => 0);
}

fn info_memory(f: &Facts, _: &dyn Node, _: Face, out: &mut String) {
    let m = &f.memory;
    let fragmentation = if m.used == 0 { 1.0 } else { m.rss as f64 / m.used as f64 };
    lines!(out, "Memory",
        "used_memory" => m.used,
        "used_memory_human" => human(m.used),
        "used_memory_rss" => m.rss,
        "used_memory_rss_human" => human(m.rss),
        "used_memory_peak" => m.peak.max(m.used),
        "used_memory_peak_human" => human(m.peak.max(m.used)),
        "used_memory_dataset" => m.used,
        "total_system_memory" => m.machine,
        "total_system_memory_human" => human(m.machine),
        "maxmemory" => m.max,
        "maxmemory_human" => human(m.max),
        "maxmemory_policy" => m.policy,
        "mem_fragmentation_ratio" => format!("{fragmentation:.2}"),
        "mem_allocator" => "jemalloc",
        "active_defrag_running" => 0,
        "lazyfree_pending_objects" => 0);
}

fn info_persistence(f: &Facts, _: &dyn Node, _: Face, out: &mut String) {
    let behind: u64 = f.groups.iter().map(|g| g.applied.saturating_sub(g.snapshot)).sum();
    lines!(out, "Persistence",
        "loading" => u8::from(f.loading),
        "async_loading" => 0,
        "rdb_changes_since_last_save" => behind,
        "rdb_bgsave_in_progress" => 0,
        "rdb_last_bgsave_status" => "ok",
        "aof_enabled" => 1,
        "aof_rewrite_in_progress" => 0,
        "aof_last_bgrewrite_status" => "ok",
        "aof_last_write_status" => "ok",
        "wal_sync" => f.sync);
}

fn info_stats(f: &Facts, _: &dyn Node, _: Face, out: &mut String) {
    let t = &f.traffic;
    lines!(out, "Stats",
        "total_connections_received" => f.clients.accepted,
        "total_commands_processed" => t.commands,
        "instantaneous_ops_per_sec" => t.commands_per_s,
        "total_net_input_bytes" => t.bytes_in,
        "total_net_output_bytes" => t.bytes_out,
        "rejected_connections" => f.clients.rejected,
        "expired_keys" => 0,
        "evicted_keys" => 0,
        "keyspace_hits" => t.hits,
        "keyspace_misses" => t.misses,
        "pubsub_channels" => 0,
        "pubsub_patterns" => 0,
        "total_error_replies" => t.errors,
        "total_writes_processed" => t.writes,
        "moved_replies" => t.moved);
    for (level, leader, follower) in &t.reads {
        let _ = write!(out, "reads_{level}_leader:{leader}\r\nreads_{level}_follower:{follower}\r\n");
    }
}

/// Every node takes writes, so every node says `master`; its replicas are the other nodes.
fn info_replication(f: &Facts, _: &dyn Node, _: Face, out: &mut String) {
    let offset: u64 = f.groups.iter().map(|g| g.applied).sum();
    let others: Vec<_> = f.nodes.iter().filter(|(id, ..)| *id != f.node).collect();
    lines!(out, "Replication", "role" => "master", "connected_slaves" => others.len());
    for (n, (_, host, port, alive)) in others.iter().enumerate() {
        let state = if *alive { "online" } else { "wait_bgsave" };
        let _ = write!(out, "slave{n}:ip={host},port={port},state={state},offset={offset},lag=0\r\n");
    }
    let none = "0".repeat(40);
    let _ = write!(
        out,
        "master_failover_state:no-failover\r\nmaster_replid:{}\r\nmaster_replid2:{none}\r\n\
         master_repl_offset:{offset}\r\nsecond_repl_offset:-1\r\nrepl_backlog_active:1\r\n\
         repl_backlog_size:1048576\r\nrepl_backlog_first_byte_offset:1\r\nrepl_backlog_histlen:{offset}\r\n",
        if f.cluster_id.is_empty() { &none } else { &f.cluster_id }
    );
}

fn info_cpu(f: &Facts, _: &dyn Node, _: Face, out: &mut String) {
    let s = |us: u64| format!("{}.{:06}", us / 1_000_000, us % 1_000_000);
    lines!(out, "CPU",
        "used_cpu_sys" => s(f.traffic.cpu_sys_us),
        "used_cpu_user" => s(f.traffic.cpu_user_us),
        "used_cpu_sys_children" => "0.000000",
        "used_cpu_user_children" => "0.000000");
}

fn info_commandstats(_: &Facts, node: &dyn Node, _: Face, out: &mut String) {
    out.push_str("# Commandstats\r\n");
    for c in node.command_stats() {
        let each = if c.calls == 0 { 0.0 } else { c.usec as f64 / c.calls as f64 };
        let _ = write!(
            out,
            "cmdstat_{}:calls={},usec={},usec_per_call={each:.2},rejected_calls={},failed_calls={}\r\n",
            c.name, c.calls, c.usec, c.rejected, c.failed
        );
    }
}

fn info_errorstats(_: &Facts, node: &dyn Node, _: Face, out: &mut String) {
    out.push_str("# Errorstats\r\n");
    for (code, count) in node.error_stats() {
        let _ = write!(out, "errorstat_{code}:count={count}\r\n");
    }
}

fn info_cluster(_: &Facts, _: &dyn Node, face: Face, out: &mut String) {
    lines!(out, "Cluster", "cluster_enabled" => u8::from(face == Face::Cluster));
}

fn info_keyspace(f: &Facts, _: &dyn Node, _: Face, out: &mut String) {
    out.push_str("# Keyspace\r\n");
    let (keys, expires) = f.groups.iter().fold((0, 0), |(k, e), g| (k + g.keys, e + g.expires));
    if keys > 0 {
        let _ = write!(out, "db0:keys={keys},expires={expires},avg_ttl=0\r\n");
    }
}

fn info_hypercache(f: &Facts, _: &dyn Node, _: Face, out: &mut String) {
    lines!(out, "Hypercache",
        "node_id" => f.node,
        "node_name" => f.node_name,
        "cluster_id" => f.cluster_id,
        "cluster_size" => f.nodes.len(),
        "consistency_level" => f.level,
        "groups" => f.groups.len());
    for g in &f.groups {
        let leader = g.leader.map_or("none".to_owned(), |l| l.to_string());
        let _ = write!(
            out,
            "group{}:leader={leader},term={},voters={},learners={},last={},committed={},applied={},snapshot={},purged={},keys={},bytes={}\r\n",
            g.id, g.term, g.voters.len(), g.learners.len(), g.last_log, g.committed, g.applied, g.snapshot, g.purged, g.keys, g.used_bytes
        );
    }
}

/// INFO [section ...].
struct Info(Vec<String>);

impl NodeCommand for Info {
    const SPEC: Spec =
        spec("info", -1, "1.0.0", "INFO [section [section ...]]", "What the node knows of itself, for people and clients.");

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(Info(args[1..].iter().map(|a| text(a).to_ascii_lowercase()).collect()))
    }

    fn run(self, node: &dyn Node, session: &mut Session) -> Reply {
        let has = |word: &str| self.0.iter().any(|s| s == word);
        let every = has("all") || has("everything");
        let usual = self.0.is_empty() || has("default");
        let facts = node.facts();
        let mut out = String::with_capacity(4096);
        for (name, by_default, write) in SECTIONS {
            if every || (usual && *by_default) || has(name) {
                if !out.is_empty() {
                    out.push_str("\r\n");
                }
                write(&facts, node, session.face, &mut out);
            }
        }
        Reply::Verbatim { format: *b"txt", text: Bytes::from(out) }
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

struct SlowGet(usize);

/// How many entries SLOWLOG GET answers without a number.
const SLOWLOG_GET_DEFAULT: i64 = 10;

impl NodeCommand for SlowGet {
    const SPEC: Spec = spec("get", -2, "2.2.12", "SLOWLOG GET [count]", "The newest slow commands.");

    fn parse(args: &Args) -> Result<Self, Reply> {
        let count = match args.get(2) {
            None => SLOWLOG_GET_DEFAULT,
            Some(arg) => integer(arg)?,
        };
        match count {
            -1 => Ok(SlowGet(usize::MAX)),
            n if n >= 0 => Ok(SlowGet(n as usize)),
            _ => Err(Reply::error("ERR count should be greater than or equal to -1")),
        }
    }

    fn run(self, node: &dyn Node, _: &mut Session) -> Reply {
        let rows = node.slow_log(self.0).into_iter().map(|e| {
            Reply::Array(vec![
                Reply::Int(e.id as i64),
                Reply::Int(e.unix_s as i64),
                Reply::Int(e.usec as i64),
                Reply::Array(e.args.into_iter().map(Reply::Bulk).collect()),
                bulk(e.peer),
                bulk(e.client_name),
            ])
        });
        Reply::Array(rows.collect())
    }
}

struct SlowLen;

impl NodeCommand for SlowLen {
    const SPEC: Spec = spec("len", 2, "2.2.12", "SLOWLOG LEN", "How many slow commands are kept.");

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(SlowLen)
    }

    fn run(self, node: &dyn Node, _: &mut Session) -> Reply {
        Reply::Int(node.slow_log_len() as i64)
    }
}

struct SlowReset;

impl NodeCommand for SlowReset {
    const SPEC: Spec = spec("reset", 2, "2.2.12", "SLOWLOG RESET", "Forgets the slow commands.");

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(SlowReset)
    }

    fn run(self, node: &dyn Node, _: &mut Session) -> Reply {
        node.slow_log_reset();
        Reply::OK
    }
}

struct SlowHelp;

impl SessionCommand for SlowHelp {
    const SPEC: Spec = spec("help", 2, "6.2.0", "SLOWLOG HELP", "The subcommands of SLOWLOG.");

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(SlowHelp)
    }

    fn run(self, _: &mut Session) -> Reply {
        help("SLOWLOG", SLOWLOG)
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
            return Err(Reply::error("ERR value is out of range, must be between 0 and 1"));
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
    ("migrate", "MIGRATE", "slots are moved with hypercachectl"),
    ("debug", "DEBUG", "state is inspected with hypercachectl and INFO"),
    ("save", "SAVE", "snapshots are made in the background; make one with hypercachectl snapshot save"),
    ("bgrewriteaof", "BGREWRITEAOF", "the log is compacted in the background; make a snapshot with hypercachectl snapshot save"),
];

struct Never<const N: usize>;

impl<const N: usize> SessionCommand for Never<N> {
    const SPEC: Spec =
        spec(NEVER[N].0, -1, "hc-0.1", NEVER[N].1, "Refused: the reply names what to use instead.");

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(Never)
    }

    fn run(self, _: &mut Session) -> Reply {
        let (_, name, instead) = NEVER[N];
        Reply::error(format!("ERR {name} is not supported: {instead}"))
    }
}

static COMMAND: &[Command] = &[
    session::<CommandCount>(),
    session::<CommandDocs>(),
    session::<GetKeys>(),
    session::<GetKeysAndFlags>(),
    session::<CommandHelp>(),
    session::<CommandInfo>(),
    session::<CommandList>(),
];

static CONFIG: &[Command] = &[
    node::<ConfigGet>(),
    session::<ConfigHelp>(),
    node::<ResetStat>(),
    session::<Rewrite>(),
    node::<ConfigSet>(),
];

static SLOWLOG: &[Command] =
    &[node::<SlowGet>(), session::<SlowHelp>(), node::<SlowLen>(), node::<SlowReset>()];

pub static SERVER: &[Command] = &[
    session::<CommandAll>().with(COMMAND),
    container(spec("config", -2, "2.0.0", "CONFIG subcommand", "Parameters of this node."), CONFIG),
    node::<Info>(),
    node::<Role>(),
    container(spec("slowlog", -2, "2.2.12", "SLOWLOG subcommand", "Commands that took long."), SLOWLOG),
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
