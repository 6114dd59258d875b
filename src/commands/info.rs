//! INFO: what a node knows of itself, section by section, for people and for the clients that parse it.
//!
//! Writes down [`Facts`] and computes next to nothing; names that Redis has keep Redis' meaning.

use super::connection::text;
use super::node::{Facts, Node};
use super::server::{REDIS_VERSION, redis_mode, spec};
use super::session::{Face, Session};
use super::{NodeCommand, Spec};
use crate::resp::{Args, Reply};
use bytes::Bytes;
use std::fmt::Write as _;

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
    ("latencystats", false, info_latencystats),
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
    unit.map_or(format!("{bytes}B"), |(name, shift)| format!("{:.2}{name}", bytes as f64 / (1u64 << shift) as f64))
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
        "blocked_clients" => f.clients.blocked,
        "tracking_clients" => f.clients.tracking.clients,
        "pubsub_clients" => f.clients.listening,
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
        "used_memory_overhead" => m.overhead,
        "used_memory_dataset" => m.used.saturating_sub(m.overhead),
        "mem_not_counted_for_evict" => 0,
        "mem_clients_normal" => m.clients,
        "mem_filters" => m.filters.bytes,
        "mem_log" => m.log,
        "filter_bits_per_key" => format!("{:.2}", share(8 * m.filters.bytes, m.keys)),
        "filter_load_factor" => format!("{:.3}", share(m.keys, m.filters.places)),
        "filter_denied" => m.filters.denied,
        "filter_false_positives" => m.filters.mistaken,
        "filter_false_positive_rate" => format!("{:.5}", share(m.filters.mistaken, m.filters.mistaken + m.filters.denied)),
        "total_system_memory" => m.machine,
        "total_system_memory_human" => human(m.machine),
        "maxmemory" => m.max,
        "maxmemory_human" => human(m.max),
        "maxmemory_policy" => m.policy,
        "memory_pressure" => m.pressure,
        "mem_fragmentation_ratio" => format!("{fragmentation:.2}"),
        "number_of_cached_scripts" => m.scripts.scripts,
        "number_of_functions" => m.scripts.functions,
        "number_of_libraries" => m.scripts.libraries,
        "mem_allocator" => "jemalloc",
        "active_defrag_running" => 0,
        "lazyfree_pending_objects" => 0);
}

/// A part of a whole; 0 of nothing.
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn info_persistence(f: &Facts, _: &dyn Node, _: Face, out: &mut String) {
    lines!(out, "Persistence",
        "loading" => u8::from(f.loading),
        "async_loading" => 0,
        "rdb_changes_since_last_save" => f.groups.iter().map(|g| g.unsaved).sum::<u64>(),
        "rdb_bgsave_in_progress" => u8::from(f.saves.under_way),
        "rdb_last_save_time" => f.saves.last_unix_s,
        "rdb_last_bgsave_status" => if f.saves.last_failed { "err" } else { "ok" },
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
        "expired_keys" => f.groups.iter().map(|g| g.expired).sum::<u64>(),
        "evicted_keys" => f.memory.evicted,
        "migrate_cached_sockets" => 0,
        "keyspace_hits" => t.hits,
        "keyspace_misses" => t.misses,
        "pubsub_channels" => f.clients.subscribed[0],
        "pubsub_patterns" => f.clients.subscribed[1],
        "pubsubshard_channels" => f.clients.subscribed[2],
        "tracking_total_keys" => f.clients.tracking.keys,
        "tracking_total_items" => f.clients.tracking.items,
        "tracking_total_prefixes" => f.clients.tracking.prefixes,
        "acl_access_denied_auth" => t.denied[0],
        "acl_access_denied_cmd" => t.denied[1],
        "acl_access_denied_key" => t.denied[2],
        "acl_access_denied_channel" => t.denied[3],
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

fn info_latencystats(_: &Facts, node: &dyn Node, _: Face, out: &mut String) {
    out.push_str("# Latencystats\r\n");
    let percentiles = node.latency_percentiles();
    if percentiles.is_empty() {
        return;
    }
    for latency in node.command_latencies() {
        let shares: Vec<String> =
            percentiles.iter().map(|p| format!("p{p}={:.3}", latency.percentile(*p) as f64)).collect();
        let _ = write!(out, "latency_percentiles_usec_{}:{}\r\n", latency.name, shares.join(","));
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
    for peer in &f.peers {
        let silent = peer.silent_ms.map_or("never-heard".to_owned(), |ms| ms.to_string());
        let _ = write!(
            out,
            "peer{}:alive={},phi={:.2},silent_ms={silent},clock_offset_ms={}\r\n",
            peer.node,
            u8::from(peer.alive),
            peer.phi.unwrap_or(0.0),
            peer.clock_offset_ms.unwrap_or(0)
        );
    }
    for g in &f.groups {
        let leader = g.leader.map_or("none".to_owned(), |l| l.to_string());
        let _ = write!(
            out,
            "group{}:leader={leader},term={},voters={},learners={},last={},committed={},applied={},snapshot={},purged={},keys={},bytes={},limit={}\r\n",
            g.id,
            g.term,
            g.voters.len(),
            g.learners.len(),
            g.last_log,
            g.committed,
            g.applied,
            g.snapshot,
            g.purged,
            g.keys,
            g.used_bytes,
            g.limit_bytes
        );
    }
}

/// INFO [section ...].
pub(super) struct Info(Vec<String>);

impl NodeCommand for Info {
    const SPEC: Spec = spec(
        "info",
        -1,
        "1.0.0",
        "INFO [section [section ...]]",
        "What the node knows of itself, for people and clients.",
    );

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
