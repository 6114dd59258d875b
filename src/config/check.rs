//! What single values cannot show: settings that contradict one another, and what deserves a warning.
//!
//! Each rule is one function over the whole configuration that names the setting to look at. Pure, but for the size of
//! the machine, which the caller hands in.

use super::Config;
use super::problem::Code;
use super::values::{Auto, Engine, Memory, Sync};

/// A rule that is broken.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    pub setting: &'static str,
    /// The setting that it does not go with.
    pub against: Option<&'static str>,
    pub code: Code,
    pub message: String,
    pub remedy: Option<String>,
}

fn contradiction(setting: &'static str, message: String, remedy: &str) -> Option<Finding> {
    Some(Finding { setting, against: None, code: Code::Contradiction, message, remedy: Some(remedy.to_owned()) })
}

fn not_built(setting: &'static str, message: String, remedy: &str) -> Option<Finding> {
    Some(Finding { setting, against: None, code: Code::NotBuilt, message, remedy: Some(remedy.to_owned()) })
}

fn against(other: &'static str, finding: Option<Finding>) -> Option<Finding> {
    finding.map(|finding| Finding { against: Some(other), ..finding })
}

/// Rules that must hold for a server to start.
const RULES: &[fn(&Config) -> Option<Finding>] = &[
    engine_is_built,
    durability_is_deliberate,
    gathering_is_shorter_than_an_election,
    heartbeats_fit_into_an_election,
    elections_have_room_for_chance,
    watermarks_are_apart,
    filter_rate_is_in_range,
    copies_fit_the_nodes,
    seeds_are_different,
    wildcard_seeds_lead_nowhere,
    doors_do_not_collide,
    wide_doors_have_a_lock,
    arguments_fit_the_query_buffer,
];

/// Every rule that is broken.
pub fn contradictions(config: &Config) -> Vec<Finding> {
    RULES.iter().filter_map(|rule| rule(config)).collect()
}

fn engine_is_built(config: &Config) -> Option<Finding> {
    let engine = config.storage.engine;
    if engine == Engine::Memory {
        return None;
    }
    not_built("storage.engine", format!("the engine {engine} is not built yet"), "use engine: memory")
}

fn durability_is_deliberate(config: &Config) -> Option<Finding> {
    let storage = &config.storage;
    if storage.sync == Sync::Always || storage.unsafe_durability {
        return None;
    }
    contradiction(
        "storage.sync",
        format!("sync: {} can lose acknowledged writes in a power cut", storage.sync),
        "set storage.unsafe_durability: true if that is meant, or use sync: always",
    )
}

fn gathering_is_shorter_than_an_election(config: &Config) -> Option<Finding> {
    let gathering = config.storage.wal_sync_interval;
    if gathering * 2 <= config.raft.election_timeout_min() {
        return None;
    }
    against(
        "raft.election_timeout_min_ms",
        contradiction(
            "storage.wal_sync_interval",
            format!("writes that gather for {} ms would look like a dead leader", gathering.as_millis()),
            "keep it at or below half of raft.election_timeout_min_ms",
        ),
    )
}

fn heartbeats_fit_into_an_election(config: &Config) -> Option<Finding> {
    let raft = &config.raft;
    if raft.heartbeat_interval_ms * 2 <= raft.election_timeout_min_ms {
        return None;
    }
    against(
        "raft.heartbeat_interval_ms",
        contradiction(
            "raft.election_timeout_min_ms",
            format!(
                "{} ms leaves no room for a lost heartbeat (raft.heartbeat_interval_ms is {})",
                raft.election_timeout_min_ms, raft.heartbeat_interval_ms
            ),
            "make it at least twice raft.heartbeat_interval_ms",
        ),
    )
}

fn elections_have_room_for_chance(config: &Config) -> Option<Finding> {
    let raft = &config.raft;
    if raft.election_timeout_min_ms < raft.election_timeout_max_ms {
        return None;
    }
    against(
        "raft.election_timeout_min_ms",
        contradiction(
            "raft.election_timeout_max_ms",
            format!(
                "{} ms is not above raft.election_timeout_min_ms ({}): all would campaign at once",
                raft.election_timeout_max_ms, raft.election_timeout_min_ms
            ),
            "twice raft.election_timeout_min_ms is usual",
        ),
    )
}

fn watermarks_are_apart(config: &Config) -> Option<Finding> {
    let storage = &config.storage;
    if storage.disk_low_watermark <= storage.disk_resume_watermark {
        return None;
    }
    against(
        "storage.disk_low_watermark",
        contradiction(
            "storage.disk_resume_watermark",
            format!(
                "{} is below storage.disk_low_watermark ({})",
                storage.disk_resume_watermark, storage.disk_low_watermark
            ),
            "make it larger, so that writes do not flap",
        ),
    )
}

fn filter_rate_is_in_range(config: &Config) -> Option<Finding> {
    let rate = config.cache.cuckoo_filter_fpp;
    if (0.001..=0.05).contains(&rate) {
        return None;
    }
    let message = format!("cache.cuckoo_filter_fpp: expected 0.001 to 0.05, found {rate}");
    Some(Finding { setting: "cache.cuckoo_filter_fpp", against: None, code: Code::BadValue, message, remedy: None })
}

fn copies_fit_the_nodes(config: &Config) -> Option<Finding> {
    let nodes = config.initial_nodes();
    match config.cluster.replication_factor {
        Auto::Number(copies) if copies > nodes => contradiction(
            "cluster.replication_factor",
            format!("{copies} copies on {nodes} node{}", if nodes == 1 { "" } else { "s" }),
            "name as many nodes in cluster.seeds, or use replication_factor: auto",
        ),
        _ => None,
    }
}

fn seeds_are_different(config: &Config) -> Option<Finding> {
    let seeds = &config.cluster.seeds;
    let twice = seeds.iter().enumerate().find(|(at, seed)| seeds[..*at].contains(seed))?;
    contradiction("cluster.seeds", format!("{} is named twice", twice.1), "name each node once")
}

fn wildcard_seeds_lead_nowhere(config: &Config) -> Option<Finding> {
    let seed = config.cluster.seeds.iter().find(|seed| seed.is_wildcard())?;
    contradiction("cluster.seeds", format!("{seed} is no address that others can reach"), "name the node's own address")
}

fn doors_do_not_collide(config: &Config) -> Option<Finding> {
    let doors = config.listeners();
    doors.iter().enumerate().find_map(|(at, (setting, here))| {
        let same = |other: &super::Endpoint| {
            other.port == here.port && (other.host == here.host || other.is_wildcard() || here.is_wildcard())
        };
        let (other, _) = doors[..at].iter().find(|(_, earlier)| same(earlier))?;
        contradiction(setting, format!("{here} is also where {other} listens"), "give each door a port of its own")
    })
}

fn wide_doors_have_a_lock(config: &Config) -> Option<Finding> {
    let security = &config.security;
    if !security.protected_mode {
        return None;
    }
    // Whether these lines lock the door is known to who reads them (`node::check_protection`).
    let said = security.users.name("default") || !security.users_file.as_os_str().is_empty();
    if security.requirepass.reveal().is_some() || said {
        return None;
    }
    let doors = config.client_listeners();
    let (setting, wide) = doors.into_iter().find(|(_, endpoint)| !endpoint.is_loopback())?;
    contradiction(
        setting,
        format!("{wide} can be reached from other machines, and no password is set"),
        "set security.requirepass, listen on 127.0.0.1, or set security.protected_mode: false on a trusted network",
    )
}

fn arguments_fit_the_query_buffer(config: &Config) -> Option<Finding> {
    let limits = &config.limits;
    if limits.max_bulk <= limits.query_buffer {
        return None;
    }
    against(
        "limits.max_bulk",
        contradiction(
            "limits.query_buffer",
            format!("{} cannot hold one argument of limits.max_bulk ({})", limits.query_buffer, limits.max_bulk),
            "make it larger than limits.max_bulk",
        ),
    )
}

/// What is odd about a configuration that a server can start with. `machine` is the memory it may have, in bytes.
pub fn warnings(config: &Config, machine: u64) -> Vec<String> {
    let mut found = Vec::new();
    let mut warn = |setting: &str, text: String| found.push(format!("{setting}: {text}"));
    if let Memory::Bytes(size) = config.cache.max_memory
        && size.bytes() > machine
    {
        warn("cache.max_memory", format!("{size} is more than the {} MB this process may have", machine >> 20));
    }
    if config.storage.sync != Sync::Always {
        warn("storage.sync", format!("{}: acknowledged writes can be lost in a power cut", config.storage.sync));
    }
    if !config.node.bind_addr.is_loopback() {
        let text = "peers are not authenticated yet; let only the cluster's own nodes reach this port";
        warn("node.bind_addr", text.to_owned());
    }
    if let Some(gossip) = config.node.gossip_addr.endpoint()
        && gossip.is_loopback()
        && !config.node.bind_addr.is_loopback()
    {
        let text =
            format!("{gossip} is heard by this machine alone: name an address that the other nodes reach, or off");
        warn("node.gossip_addr", text);
    }
    if let Auto::Number(copies) = config.cluster.replication_factor
        && copies.is_multiple_of(2)
    {
        let text = format!("{copies} copies survive no more failures than {} do", copies - 1);
        warn("cluster.replication_factor", text);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Endpoint, Listen, Secret, Size};
    use std::time::Duration;

    fn broken(change: impl FnOnce(&mut Config)) -> Vec<&'static str> {
        let mut config = Config::default();
        change(&mut config);
        contradictions(&config).into_iter().map(|finding| finding.setting).collect()
    }

    fn at(host: &str, port: u16) -> Endpoint {
        Endpoint { host: host.to_owned(), port }
    }

    #[test]
    fn the_defaults_break_no_rule_and_raise_no_warning() {
        assert_eq!(broken(|_| ()), [""; 0]);
        assert_eq!(warnings(&Config::default(), 1 << 30), [""; 0]);
    }

    #[test]
    fn each_rule_has_something_that_breaks_it() {
        assert_eq!(broken(|c| c.storage.engine = Engine::Hybrid), ["storage.engine"]);
        assert_eq!(broken(|c| c.storage.sync = Sync::No), ["storage.sync"]);
        assert_eq!(broken(|c| c.storage.wal_sync_interval = Duration::from_millis(200)), ["storage.wal_sync_interval"]);
        assert_eq!(broken(|c| c.raft.heartbeat_interval_ms = 200), ["raft.election_timeout_min_ms"]);
        assert_eq!(broken(|c| c.raft.election_timeout_max_ms = 300), ["raft.election_timeout_max_ms"]);
        assert_eq!(broken(|c| c.storage.disk_low_watermark = Size(1 << 40)), ["storage.disk_resume_watermark"]);
        assert_eq!(broken(|c| c.cache.cuckoo_filter_fpp = 0.5), ["cache.cuckoo_filter_fpp"]);
        assert_eq!(broken(|c| c.cluster.replication_factor = Auto::Number(3)), ["cluster.replication_factor"]);
        assert_eq!(broken(|c| c.cluster.seeds = vec![at("a", 1), at("a", 1)]), ["cluster.seeds"]);
        assert_eq!(broken(|c| c.cluster.seeds = vec![at("0.0.0.0", 1)]), ["cluster.seeds"]);
        assert_eq!(broken(|c| c.server.http_addr = Listen::At(at("127.0.0.1", 6379))), ["server.http_addr"]);
        assert_eq!(broken(|c| c.limits.query_buffer = Size(1 << 20)), ["limits.query_buffer"]);
    }

    #[test]
    fn a_wide_door_needs_a_password_or_a_word_that_none_is_wanted() {
        let wide = |c: &mut Config| c.server.resp_addr = Listen::At(at("0.0.0.0", 6379));
        assert_eq!(broken(wide), ["server.resp_addr"]);
        let locked = |c: &mut Config| {
            wide(c);
            c.security.requirepass = Secret("x".to_owned());
        };
        assert_eq!(broken(locked), [""; 0]);
        let trusting = |c: &mut Config| {
            wide(c);
            c.security.protected_mode = false;
        };
        assert_eq!(broken(trusting), [""; 0]);
    }

    #[test]
    fn what_is_odd_is_said() {
        let mut config = Config::default();
        config.cache.max_memory = Memory::Bytes(Size(8 << 30));
        config.node.bind_addr = at("0.0.0.0", 7000);
        let settings: Vec<String> =
            warnings(&config, 1 << 30).iter().map(|w| w.split(':').next().unwrap_or_default().to_owned()).collect();
        assert_eq!(settings, ["cache.max_memory", "node.bind_addr", "node.gossip_addr"]);
    }
}
