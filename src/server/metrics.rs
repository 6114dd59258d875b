//! Prometheus text exposition (format 0.0.4): the families of this file and those that other parts add.
//!
//! A family's HELP and TYPE stand once, before all of its samples, whoever contributed them. Names are
//! `hypercache_*`, counters end in `_total`, units come last. Labels never hold a key or a value.

use crate::cluster::hearsay::Hearsay;
use crate::env;
use crate::raft::Host;
use crate::raft::peers::Hearing;
use crate::server::counters::Totals;
use crate::server::overview::{GroupRow, NodeRow, Overview};
use crate::types::NodeId;
use std::collections::BTreeMap;
use std::fmt::Write;

/// The content type of [`render`]'s text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
    Summary,
}

/// One line under a family.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Empty, or `_bucket`, `_sum`, `_count` for histograms and summaries.
    pub suffix: &'static str,
    pub labels: Vec<(&'static str, String)>,
    pub value: f64,
}

impl Sample {
    pub fn new(value: f64) -> Sample {
        Sample { suffix: "", labels: Vec::new(), value }
    }

    pub fn labelled(labels: Vec<(&'static str, String)>, value: f64) -> Sample {
        Sample { suffix: "", labels, value }
    }
}

/// One family: what it is called, what it means, and its samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    pub name: &'static str,
    pub help: &'static str,
    pub kind: Kind,
    pub samples: Vec<Sample>,
}

impl Metric {
    pub fn new(name: &'static str, help: &'static str, kind: Kind, samples: Vec<Sample>) -> Metric {
        Metric { name, help, kind, samples }
    }

    pub fn gauge(name: &'static str, help: &'static str, value: f64) -> Metric {
        Metric::new(name, help, Kind::Gauge, vec![Sample::new(value)])
    }

    pub fn counter(name: &'static str, help: &'static str, value: f64) -> Metric {
        Metric::new(name, help, Kind::Counter, vec![Sample::new(value)])
    }
}

/// The whole page: this node's own families, those in `more`, and those of the overview's sources.
pub fn page(overview: &Overview, more: Vec<Metric>) -> String {
    let mut metrics = process(overview);
    metrics.extend(of_workers());
    metrics.extend(of_groups(&overview.groups()));
    metrics.extend(of_nodes(overview));
    metrics.push(of_refusals(overview));
    metrics.extend(more);
    metrics.extend(overview.sourced());
    render(&metrics)
}

/// What was refused to whom at any door, for lack of a password or of a permission.
fn of_refusals(overview: &Overview) -> Metric {
    let denied = overview.cluster().registry().stats();
    let reasons =
        [("auth", denied.auth), ("command", denied.command), ("key", denied.key), ("channel", denied.channel)];
    let samples = reasons.map(|(reason, n)| Sample::labelled(vec![("reason", reason.to_owned())], n as f64));
    let help = "Wrong passwords, and commands, keys and channels that a user may not touch.";
    Metric::new("hypercache_denied_total", help, Kind::Counter, samples.to_vec())
}

/// The text form. Families of one name are put together: the first one's help and type stand for all.
pub fn render(metrics: &[Metric]) -> String {
    let mut families: BTreeMap<&str, (&Metric, Vec<&Sample>)> = BTreeMap::new();
    for metric in metrics {
        families.entry(metric.name).or_insert_with(|| (metric, Vec::new())).1.extend(&metric.samples);
    }
    let mut out = String::new();
    for (name, (metric, samples)) in families {
        let _ = writeln!(out, "# HELP {name} {}", escape(metric.help, false));
        let _ = writeln!(out, "# TYPE {name} {}", kind_text(metric.kind));
        for sample in samples {
            let _ = writeln!(out, "{name}{}{} {}", sample.suffix, labels_text(&sample.labels), number(sample.value));
        }
    }
    out
}

fn kind_text(kind: Kind) -> &'static str {
    match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
        Kind::Summary => "summary",
    }
}

fn labels_text(labels: &[(&'static str, String)]) -> String {
    if labels.is_empty() {
        return String::new();
    }
    let pairs: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value, true))).collect();
    format!("{{{}}}", pairs.join(","))
}

/// Help text escapes backslash and line feed; a label's value also the quote that would end it.
fn escape(text: &str, quoted: bool) -> String {
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    if quoted { text.replace('"', "\\\"") } else { text }
}

fn number(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "+Inf".to_owned() } else { "-Inf".to_owned() }
    } else {
        value.to_string()
    }
}

/// Resident memory of this process in bytes; none where there is no `/proc/self/status`. That file gives kibibytes,
/// so the page size, which takes an unsafe call to learn, is not needed.
pub fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// How long tasks keep the workers to themselves.
fn of_workers() -> [Metric; 2] {
    let over =
        env::counted_turns().map(|(ms, count)| Sample::labelled(vec![("over_ms", ms.to_string())], count as f64));
    [
        Metric::gauge(
            "hypercache_worker_turn_seconds_max",
            "CPU time of the longest turn of a task on a worker since the start.",
            env::longest_turn().as_secs_f64(),
        ),
        Metric::new(
            "hypercache_worker_long_turns_total",
            "Turns of tasks on workers that took more CPU time than so many milliseconds.",
            Kind::Counter,
            over.collect(),
        ),
    ]
}

fn process(overview: &Overview) -> Vec<Metric> {
    let me = overview.cluster().me();
    let build = vec![
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("node", me.id.to_string()),
        ("name", me.name),
        ("cluster", overview.cluster().id()),
    ];
    let readiness = overview.readiness();
    let mut metrics = vec![
        Metric::new(
            "hypercache_build_info",
            "Constant 1; the labels name the program's version, the node and the cluster.",
            Kind::Gauge,
            vec![Sample::labelled(build, 1.0)],
        ),
        Metric::gauge(
            "hypercache_uptime_seconds",
            "Time since this process opened its doors.",
            overview.uptime().as_secs_f64(),
        ),
        Metric::gauge(
            "hypercache_ready",
            "1 when every hosted group has recovered and knows a leader.",
            f64::from(u8::from(readiness.ready)),
        ),
        Metric::gauge(
            "hypercache_routing_epoch",
            "Version of the routing table this node routes by.",
            overview.cluster().table().epoch as f64,
        ),
    ];
    if let Some(bytes) = resident_bytes() {
        metrics.push(Metric::gauge(
            "hypercache_process_resident_memory_bytes",
            "Resident memory of the process.",
            bytes as f64,
        ));
    }
    metrics
}

fn of_nodes(overview: &Overview) -> Vec<Metric> {
    let nodes = overview.nodes();
    let labels = |node: &NodeRow| vec![("peer", node.id.to_string()), ("peer_name", node.name.clone())];
    let samples = nodes.iter().map(|node| Sample::labelled(labels(node), f64::from(u8::from(node.alive)))).collect();
    let hearing = |node: &NodeRow| overview.cluster().host().peers().hearing(NodeId(node.id));
    let me = overview.cluster().me_id().0;
    let others: Vec<_> = nodes.iter().filter(|node| node.id != me).map(|node| (labels(node), hearing(node))).collect();
    let family = |name, help, value: fn(&Hearing) -> Option<f64>| {
        let samples =
            others.iter().filter_map(|(labels, hearing)| Some(Sample::labelled(labels.clone(), value(hearing)?)));
        Metric::new(name, help, Kind::Gauge, samples.collect())
    };
    let heard = overview.cluster().heard();
    let fellows = |heard: &Hearsay| heard.members(&overview.cluster().id()).len();
    let gossip = heard.map_or(0, |heard| fellows(&heard));
    vec![
        Metric::gauge(
            "hypercache_gossip_peers",
            "Other nodes of this cluster that are heard by gossip.",
            gossip as f64,
        ),
        Metric::new("hypercache_node_alive", "1 when this node has seen the other lately.", Kind::Gauge, samples),
        family("hypercache_peer_phi", "How suspicious the silence of a peer is: 8 is one chance in 10^8.", |h| h.phi),
        family("hypercache_peer_silent_seconds", "Since a peer answered last.", |h| h.silent.map(|s| s.as_secs_f64())),
        family("hypercache_peer_clock_offset_seconds", "How far a peer's wall clock is ahead of this node's.", |h| {
            h.wall_offset_ms.map(|ms| ms as f64 / 1000.0)
        }),
    ]
}

/// One family a column, one sample a hosted group.
fn of_groups(rows: &[GroupRow]) -> Vec<Metric> {
    type Column = (&'static str, &'static str, Kind, fn(&GroupRow) -> f64);
    const COLUMNS: &[Column] = &[
        ("hypercache_group_term", "Current Raft term.", Kind::Gauge, |g| g.term as f64),
        ("hypercache_group_last_log_index", "Last index in this replica's log.", Kind::Gauge, |g| g.last_log as f64),
        ("hypercache_group_committed_index", "Highest index known to be committed.", Kind::Gauge, |g| g.commit as f64),
        ("hypercache_group_applied_index", "Highest index applied here.", Kind::Gauge, |g| g.applied as f64),
        ("hypercache_group_snapshot_index", "Last index of the latest snapshot; 0 for none.", Kind::Gauge, |g| {
            g.snapshot as f64
        }),
        ("hypercache_group_purged_index", "Log entries up to here are gone; 0 for none.", Kind::Gauge, |g| {
            g.purged as f64
        }),
        ("hypercache_group_leader", "Node id of the leader; 0 when none is known.", Kind::Gauge, |g| {
            g.leader.unwrap_or(0) as f64
        }),
        ("hypercache_group_voters", "Number of voters.", Kind::Gauge, |g| g.voters.len() as f64),
        ("hypercache_group_recovered", "1 when this replica may answer reads.", Kind::Gauge, |g| {
            f64::from(u8::from(g.recovered))
        }),
        ("hypercache_group_slots", "Slots the group serves.", Kind::Gauge, |g| f64::from(g.slots)),
        ("hypercache_group_keys", "Keys in this replica.", Kind::Gauge, |g| g.keys as f64),
        ("hypercache_group_expires", "Keys that have a deadline.", Kind::Gauge, |g| g.expires as f64),
        ("hypercache_group_used_bytes", "Deterministic account of the state's memory.", Kind::Gauge, |g| {
            g.used_bytes as f64
        }),
        ("hypercache_group_limit_bytes", "What the account may come to; 0 for no limit.", Kind::Gauge, |g| {
            g.limit_bytes as f64
        }),
        (
            "hypercache_group_memory_pressure",
            "Per cent of the limit that are passed: 0, 80, 90 or 95.",
            Kind::Gauge,
            |g| super::node_view::pressure(g.used_bytes, g.limit_bytes) as f64,
        ),
        ("hypercache_group_evicted_keys_total", "Keys that this replica evicted.", Kind::Counter, |g| g.evicted as f64),
        ("hypercache_group_verifications_total", "Comparisons of all replicas' states led here.", Kind::Counter, |g| {
            g.verifications as f64
        }),
        (
            "hypercache_group_differences_total",
            "Comparisons that found replicas to differ: an alarm.",
            Kind::Counter,
            |g| g.differences as f64,
        ),
        ("hypercache_group_verified_index", "Where all replicas were last found equal.", Kind::Gauge, |g| {
            g.verified as f64
        }),
        ("hypercache_group_verified_ms", "Unix time when they were; 0 for never.", Kind::Gauge, |g| {
            g.verified_ms as f64
        }),
        (
            "hypercache_group_frozen_slots",
            "Slots on their way to another group: clients wait for them.",
            Kind::Gauge,
            |g| g.frozen_slots as f64,
        ),
        ("hypercache_group_fenced", "1 while this replica is fenced off to be rebuilt.", Kind::Gauge, |g| {
            f64::from(u8::from(g.fenced))
        }),
        (
            "hypercache_group_rebuilt_total",
            "How often this replica was rebuilt from the leader's state.",
            Kind::Counter,
            |g| g.rebuilt as f64,
        ),
        ("hypercache_group_clock_ms", "The group's clock.", Kind::Gauge, |g| g.clock_ms as f64),
    ];
    COLUMNS
        .iter()
        .map(|(name, help, kind, value)| {
            let samples = rows
                .iter()
                .filter(|row| row.hosted)
                .map(|row| Sample::labelled(vec![("group", row.id.to_string())], value(row)))
                .collect();
            Metric::new(name, help, *kind, samples)
        })
        .collect()
}

/// What the Redis doors, the links and the store count.
pub fn of_server(totals: &Totals, host: &Host) -> Vec<Metric> {
    const LEVELS: [&str; 4] = ["linearizable", "lease", "bounded", "eventual"];
    const ROLES: [&str; 2] = ["leader", "follower"];
    let reads = LEVELS.iter().zip(&totals.reads).flat_map(|(level, roles)| {
        let labels = move |role: &str| vec![("level", (*level).to_owned()), ("role", role.to_owned())];
        ROLES.iter().zip(roles).map(move |(role, n)| Sample::labelled(labels(role), *n as f64))
    });
    let errors = totals.codes.iter().map(|(code, n)| Sample::labelled(vec![("code", code.clone())], *n as f64));
    vec![
        Metric::counter("hypercache_commands_total", "Commands of Redis clients.", totals.commands as f64),
        Metric::counter("hypercache_writes_total", "Write commands of Redis clients.", totals.writes as f64),
        Metric::counter("hypercache_hits_total", "Reads that found their key.", totals.hits as f64),
        Metric::counter("hypercache_misses_total", "Reads that did not.", totals.misses as f64),
        Metric::counter("hypercache_received_bytes_total", "Bytes read from Redis clients.", totals.bytes_in as f64),
        Metric::counter("hypercache_sent_bytes_total", "Bytes written to Redis clients.", totals.bytes_out as f64),
        Metric::new(
            "hypercache_reads_total",
            "Reads by level and by this node's role in the group.",
            Kind::Counter,
            reads.collect(),
        ),
        Metric::new("hypercache_errors_total", "Error replies by code.", Kind::Counter, errors.collect()),
        Metric::counter(
            "hypercache_log_syncs_total",
            "Syncs of the log, each for all groups.",
            host.storage().syncs() as f64,
        ),
        Metric::gauge(
            "hypercache_store_memory_bytes",
            "Memory of the store: buffers, caches, indexes.",
            host.storage().memory_bytes() as f64,
        ),
        Metric::counter(
            "hypercache_peer_sent_bytes_total",
            "Bytes sent to other nodes.",
            host.peers().bytes_sent() as f64,
        ),
        Metric::counter(
            "hypercache_peer_writes_total",
            "Write calls to other nodes.",
            host.peers().write_calls() as f64,
        ),
        Metric::gauge(
            "hypercache_disk_low",
            "1 while writes are refused because the disk is nearly full.",
            f64::from(u8::from(host.disk_low())),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_written_once_whoever_adds_to_it() {
        let part = |label: &str, value| {
            let samples = vec![Sample::labelled(vec![("a", label.to_owned())], value)];
            Metric::new("hypercache_x_total", "Back\\slash\nand line.", Kind::Counter, samples)
        };
        let text = render(&[part("one", 1.0), Metric::gauge("hypercache_y", "Y.", 0.5), part("q\"\\\n", 2.0)]);
        let expected = "# HELP hypercache_x_total Back\\\\slash\\nand line.\n# TYPE hypercache_x_total counter\n\
            hypercache_x_total{a=\"one\"} 1\nhypercache_x_total{a=\"q\\\"\\\\\\n\"} 2\n\
            # HELP hypercache_y Y.\n# TYPE hypercache_y gauge\nhypercache_y 0.5\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn large_counters_have_no_exponent() {
        assert_eq!(number(1.0e15), "1000000000000000");
        assert_eq!(number(f64::INFINITY), "+Inf");
    }

    #[test]
    fn a_running_process_is_resident() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 0));
    }
}
