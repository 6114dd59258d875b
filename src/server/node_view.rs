//! The node as its commands see it: `commands::node::Node` for what the sessions share.
//!
//! Reads only what is in memory or in `/proc`; never waits, never asks another node. Figures of other nodes are this
//! node's own view of them.

use super::counters::{LEVELS, Totals};
use super::session::Unblock;
use super::{Shared, counters, guard, parameters, times};
use crate::cluster::events::Event;
use crate::commands::Command;
use crate::commands::node::{
    AclLogEntry, ClientFacts, ClientRow, CommandLatency, CommandLog, CommandStat, ConfigError, EventRow, Events, Facts,
    GroupFacts, LatencyEvent, Member, MemoryFacts, Node, Paused, PeerFacts, SaveFacts, SelectorRow, Shard, SlowEntry,
    Topology, TrafficFacts, UserRow,
};
use crate::commands::pubsub::{Kind, Messages};
use crate::commands::session::{Face, Session};
use crate::commands::tracking::Caches;
use crate::env;
use crate::resp::Args;
use crate::security::{self, DEFAULT_USER, Entry, Selector, User};
use crate::state::{ENTRY_COST, FilterStatus};
use crate::types::{GroupId, Level, NodeId, SLOTS, Slot};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

/// A group that has lost its leader so long ago should have another: elections take 0.9 to 1.2 s.
const ELECTED_WITHIN: Duration = Duration::from_secs(3);
/// The rate of commands is taken over at least this long.
const RATE_WINDOW: Duration = Duration::from_secs(1);
/// Microseconds in a tick of /proc/self/stat: Linux reports in hundredths of a second on every machine we run on.
const TICK_US: u64 = 10_000;
/// Bytes in a page of /proc/self/statm.
const PAGE: u64 = 4096;

/// A name of 40 hexadecimal digits, as Redis Cluster has them, that stays the same for ever.
fn hex_name(cluster: &str, kind: &str, number: u64) -> String {
    let text = format!("{cluster}/{kind}/{number}");
    let (a, b) = (xxh3_128_with_seed(text.as_bytes(), 1), xxh3_64_with_seed(text.as_bytes(), 2));
    format!("{a:032x}{:08x}", b >> 32)
}

/// Runs of slots by group, over the whole table.
fn ranges(slots: &[GroupId], group: GroupId) -> Vec<(u16, u16)> {
    let mut runs: Vec<(u16, u16)> = Vec::new();
    for slot in (0..slots.len().min(SLOTS)).filter(|s| slots[*s] == group).map(|s| s as u16) {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == slot => *last = slot,
            _ => runs.push((slot, slot)),
        }
    }
    runs
}

/// A field of /proc; 0 where there is none.
fn proc_field(file: &str, find: impl Fn(&str) -> Option<u64>) -> u64 {
    std::fs::read_to_string(file).ok().and_then(|text| find(&text)).unwrap_or(0)
}

/// Memory of this process that is in RAM.
pub fn resident_bytes() -> u64 {
    proc_field("/proc/self/statm", |t| t.split(' ').nth(1)?.parse().ok()) * PAGE
}

fn machine_bytes() -> u64 {
    let line = |t: &str| t.lines().find_map(|l| l.strip_prefix("MemTotal:").map(str::to_owned));
    proc_field("/proc/meminfo", |t| line(t)?.split_whitespace().next()?.parse::<u64>().ok()) * 1024
}

/// Processor time of this process in user and in system mode.
fn cpu_us() -> (u64, u64) {
    // The second field is the program's name in brackets and may hold spaces; fields are counted behind it.
    let field =
        |n: usize| proc_field("/proc/self/stat", |t| t.rsplit(')').next()?.split_whitespace().nth(n)?.parse().ok());
    (field(11) * TICK_US, field(12) * TICK_US)
}

/// How full a group is, by the levels at which somebody should look: 0, 80, 90 or 95 per cent of its limit.
pub(super) fn pressure(used: u64, limit: u64) -> u64 {
    let full = |percent: &u64| limit > 0 && u128::from(used) * 100 >= u128::from(limit) * u128::from(*percent);
    [95, 90, 80].into_iter().find(full).unwrap_or(0)
}

impl Shared {
    fn groups(&self) -> Vec<GroupFacts> {
        let one = |group: &std::sync::Arc<crate::raft::Group>| {
            let s = group.status();
            GroupFacts {
                id: s.id,
                leader: s.leader,
                term: s.term,
                voters: s.voters,
                learners: s.learners,
                last_log: s.last_log,
                committed: s.committed,
                applied: s.applied,
                snapshot: s.snapshot,
                purged: s.purged,
                keys: s.keys,
                expires: s.expires,
                used_bytes: s.used_bytes,
                clock_ms: s.clock_ms,
                limit_bytes: s.limit_bytes,
                evicted: s.evicted,
                expired: s.expired,
                unsaved: s.unsaved,
            }
        };
        let groups = self.cluster.host().groups();
        let mut rows: Vec<GroupFacts> = groups.iter().filter(|g| g.id() != GroupId::META).map(one).collect();
        rows.sort_by_key(|g| g.id);
        rows
    }

    fn memory(&self, groups: &[GroupFacts]) -> MemoryFacts {
        let (used, rss) = (groups.iter().map(|g| g.used_bytes).sum(), resident_bytes());
        let limit = self.cluster.memory().limit;
        let mut peak = self.peak_bytes.lock();
        *peak = (*peak).max(used);
        MemoryFacts {
            used,
            rss,
            peak: *peak,
            machine: machine_bytes(),
            max: limit.bytes,
            policy: limit.policy.name().to_owned(),
            overhead: groups.iter().map(|g| g.keys).sum::<u64>() * ENTRY_COST,
            clients: self.clients.rows().iter().map(|row| row.input_bytes + row.output_bytes).sum(),
            pressure: groups.iter().map(|g| pressure(g.used_bytes, g.limit_bytes)).max().unwrap_or(0),
            evicted: groups.iter().map(|g| g.evicted).sum(),
            keys: groups.iter().map(|g| g.keys).sum(),
            filters: self.filters(),
            log: self.cluster.host().storage().memory_bytes(),
            scripts: self.scripts.facts(),
        }
    }

    fn filters(&self) -> FilterStatus {
        let groups = self.cluster.host().groups();
        let data = groups.iter().filter(|group| group.id() != GroupId::META);
        data.fold(FilterStatus::default(), |sum, group| sum + group.peek(|keyspace| keyspace.filter_status()))
    }

    /// Commands a second since the last sample that is old enough.
    fn rate(&self) -> u64 {
        let (now, commands) = (env::now(), self.all_time().commands);
        let mut rate = self.rate.lock();
        let (since, before, last) = *rate;
        let passed = now - since;
        if passed < RATE_WINDOW {
            return last;
        }
        let per_s = (commands.saturating_sub(before) as f64 / passed.as_secs_f64()) as u64;
        *rate = (now, commands, per_s);
        per_s
    }

    fn traffic(&self) -> TrafficFacts {
        let t: Totals = self.totals();
        let (cpu_user_us, cpu_sys_us) = cpu_us();
        let denied = self.cluster.registry().stats();
        TrafficFacts {
            commands: t.commands,
            commands_per_s: self.rate(),
            bytes_in: t.bytes_in,
            bytes_out: t.bytes_out,
            errors: t.errors,
            moved: t.moved,
            hits: t.hits,
            misses: t.misses,
            reads: LEVELS.iter().zip(t.reads).map(|(name, [leader, follower])| (*name, leader, follower)).collect(),
            writes: t.writes,
            denied: [denied.auth, denied.command, denied.key, denied.channel],
            cpu_user_us,
            cpu_sys_us,
        }
    }

    /// Runs `f` on this node's replica of the slot's group, if there is one that may answer.
    fn on_slot<R>(&self, slot: Slot, f: impl FnOnce(&crate::state::View<'_>) -> R) -> Option<R> {
        let routes = self.routes();
        if routes.order.is_empty() {
            return None;
        }
        let group = self.cluster.host().group(routes.table.group_of(slot))?;
        let permit = group.try_read(Level::Eventual)?;
        group.read(&permit, f).ok()
    }

    fn peer_facts(&self, node: NodeId) -> PeerFacts {
        let hearing = self.cluster.host().peers().hearing(node);
        PeerFacts {
            node,
            alive: self.cluster.alive(node),
            phi: hearing.phi,
            silent_ms: hearing.silent.map(|silent| silent.as_millis() as u64),
            clock_offset_ms: hearing.wall_offset_ms,
        }
    }
}

impl Node for Shared {
    fn unix_us(&self) -> u64 {
        env::wall_us()
    }

    fn facts(&self) -> Facts {
        let groups = self.groups();
        let rows = self.clients.rows();
        let fullest = |f: fn(&ClientRow) -> u64| rows.iter().map(f).max().unwrap_or(0);
        let table = self.cluster.table();
        Facts {
            hypercache_version: env!("CARGO_PKG_VERSION"),
            cluster_id: self.cluster.id(),
            node: self.me.id,
            node_name: self.me.name.clone(),
            run_id: self.run_id.clone(),
            pid: std::process::id(),
            proxy_port: self.me.resp_port,
            cluster_port: self.me.cluster_port,
            uptime_s: self.started.elapsed().as_secs(),
            config_file: self.settings.config_file.clone(),
            workers: self.settings.workers,
            loading: self.loading.load(Relaxed),
            level: self.live.level(),
            sync: self.settings.sync.clone(),
            clients: ClientFacts {
                connected: rows.len() as u64,
                max: self.live.max_clients() as u64,
                accepted: self.clients.accepted.load(Relaxed),
                rejected: self.clients.rejected.load(Relaxed),
                fullest: (fullest(|r| r.input_bytes), fullest(|r| r.output_bytes)),
                blocked: rows.iter().filter(|row| row.blocked).count() as u64,
                listening: rows.iter().filter(|row| row.session.subscriptions.any()).count() as u64,
                subscribed: Kind::ALL.map(|kind| self.names(kind).len() as u64),
                tracking: self.caching.facts(),
            },
            memory: self.memory(&groups),
            traffic: self.traffic(),
            saves: SaveFacts {
                under_way: self.saving.load(Relaxed),
                last_unix_s: self.saved_at.load(Relaxed),
                last_failed: self.save_failed.load(Relaxed),
            },
            groups,
            nodes: table
                .nodes
                .values()
                .map(|n| (n.id, n.host.clone(), n.resp_port, self.cluster.alive(n.id)))
                .collect(),
            peers: table.nodes.keys().filter(|node| **node != self.me.id).map(|node| self.peer_facts(*node)).collect(),
        }
    }

    fn topology(&self, face: Face) -> Topology {
        let routes = self.routes();
        let (table, cluster) = (&routes.table, self.cluster.id());
        let member = |n: &crate::routing::NodeInfo| Member {
            id: n.id,
            hex: hex_name(&cluster, "node", n.id.0),
            name: n.name.clone(),
            host: n.host.clone(),
            port: if face == Face::Cluster { n.cluster_port } else { n.resp_port },
            bus_port: n.peer_port,
            alive: self.cluster.alive(n.id),
        };
        let shard = |id: GroupId| {
            let group = self.cluster.host().group(id);
            let status = group.as_ref().map(|g| g.status()).unwrap_or_default();
            let replicas: Vec<NodeId> = table.groups.get(&id).map(|g| g.voters.clone()).unwrap_or_default();
            let last = group.and_then(|g| g.last_leader()).filter(|(last, _)| table.nodes.contains_key(last));
            let alive = || replicas.iter().copied().find(|voter| self.cluster.alive(*voter));
            Shard {
                group: id,
                hex: hex_name(&cluster, "group", u64::from(id.0)),
                ranges: ranges(&table.slots, id),
                leader: last.map(|(last, _)| last).or_else(alive),
                served: last.is_some_and(|(_, since)| since < ELECTED_WITHIN),
                replicas,
                term: status.term,
                applied: status.applied,
            }
        };
        Topology {
            epoch: table.epoch,
            me: self.me.id,
            members: table.nodes.values().map(member).collect(),
            shards: routes.order.iter().map(|(_, group)| shard(*group)).collect(),
        }
    }

    fn slot_len(&self, slot: Slot) -> u64 {
        self.on_slot(slot, |view| view.slot_entries(slot).count() as u64).unwrap_or(0)
    }

    fn slot_keys(&self, slot: Slot, max: usize) -> Vec<Bytes> {
        let keys = |view: &crate::state::View<'_>| {
            view.slot_entries(slot).take(max).map(|e| Bytes::copy_from_slice(e.key())).collect()
        };
        self.on_slot(slot, keys).unwrap_or_default()
    }

    fn config(&self) -> Vec<(String, String)> {
        parameters::all(&self.settings, &self.live, &self.cluster.agreed())
    }

    fn config_set(&self, pairs: &[(String, String)]) -> Result<(), ConfigError> {
        parameters::set(&self.settings, &self.live, pairs)?;
        self.cluster.registry().set_log_max(self.live.acl_log_max());
        self.approach_notes_max();
        Ok(())
    }

    fn reset_stats(&self) {
        let totals = self.all_time();
        *self.reset.lock() = totals;
        *self.reset_times.lock() = counters::times(&self.workers);
    }

    fn command_stats(&self) -> Vec<CommandStat> {
        let totals = self.totals();
        let row = |(name, [calls, nanos, rejected, failed]): (&str, [u64; 4])| CommandStat {
            name: name.to_owned(),
            calls,
            usec: nanos / 1000,
            rejected,
            failed,
        };
        let mut rows: Vec<CommandStat> = totals.commands().map(row).collect();
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        rows
    }

    fn error_stats(&self) -> Vec<(String, u64)> {
        self.totals().codes.into_iter().collect()
    }

    fn save(&self) -> bool {
        let Some(shared) = self.weak.upgrade() else { return false };
        if self.saving.swap(true, Relaxed) {
            return false;
        }
        tokio::spawn(async move {
            let mut failed = false;
            for group in shared.cluster.host().groups() {
                if let Err(error) = group.snapshot().await {
                    tracing::warn!(event = "save_failed", node = %shared.me.id, group = %group.id(), %error);
                    failed = true;
                }
            }
            shared.save_failed.store(failed, Relaxed);
            if !failed {
                shared.saved_at.store(env::wall_ms() / 1000, Relaxed);
            }
            shared.saving.store(false, Relaxed);
        });
        true
    }

    fn shut_down(&self) {
        self.shut_down.notify_one();
    }

    fn allocator(&self) -> Vec<(&'static str, u64)> {
        use tikv_jemalloc_ctl::{epoch, stats};
        // The numbers are as old as the epoch. Without jemalloc there are none.
        let _ = epoch::advance();
        let all = [
            ("allocated", stats::allocated::read()),
            ("active", stats::active::read()),
            ("metadata", stats::metadata::read()),
            ("resident", stats::resident::read()),
            ("mapped", stats::mapped::read()),
            ("retained", stats::retained::read()),
        ];
        all.into_iter().filter_map(|(name, bytes)| Some((name, bytes.ok()? as u64))).collect()
    }

    fn messages(&self) -> &dyn Messages {
        self
    }

    fn caches(&self) -> &dyn Caches {
        self
    }

    fn clients(&self) -> Vec<ClientRow> {
        let mut rows = self.clients.rows();
        for row in rows.iter_mut().filter(|row| row.session.tracking.is_some()) {
            row.redirect_broken = self.is_redirect_broken(row.session.id);
        }
        rows
    }

    fn pause(&self, pause: Option<(Duration, Paused)>) {
        match pause {
            Some((lasting, what)) => self.pause.begin(lasting, what),
            None => self.pause.end(),
        }
        // Whoever waits looks again.
        self.clients.call_all();
    }

    fn monitor(&self, id: u64, on: bool) -> bool {
        match self.clients.get(id) {
            Some(client) if on => self.monitors.watch(&client),
            _ => {
                self.monitors.forget(id);
                true
            }
        }
    }

    fn kill(&self, id: u64) -> bool {
        self.clients.kill(id)
    }

    fn unblock(&self, id: u64, error: bool) -> bool {
        self.clients.unblock(id, if error { Unblock::Error } else { Unblock::Timeout })
    }

    fn command_log(&self, log: CommandLog, max: usize) -> Vec<SlowEntry> {
        self.slow.newest(log, max)
    }

    fn command_log_len(&self, log: CommandLog) -> usize {
        self.slow.len(log)
    }

    fn command_log_reset(&self, log: CommandLog) {
        self.slow.reset(log);
    }

    fn command_latencies(&self) -> Vec<CommandLatency> {
        let (before, mut now) = (self.reset_times.lock(), counters::times(&self.workers));
        for (counts, before) in now.iter_mut().zip(before.iter()) {
            counts.iter_mut().zip(before).for_each(|(count, before)| *count = count.saturating_sub(*before));
        }
        let row = |((name, _), counts): ((String, _), Vec<u64>)| {
            let within = times::within(&counts);
            let calls = within.last().map_or(0, |(_, calls)| *calls);
            CommandLatency { name, calls, within }
        };
        let mut rows: Vec<CommandLatency> = crate::commands::all().zip(now).map(row).filter(|r| r.calls > 0).collect();
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        rows
    }

    fn latency_percentiles(&self) -> Vec<f64> {
        if self.live.tracks_latency() { self.live.percentiles() } else { Vec::new() }
    }

    fn latency_events(&self) -> Vec<LatencyEvent> {
        self.latency.all()
    }

    fn latency_reset(&self, names: &[String]) -> usize {
        self.latency.reset(names)
    }

    fn latency_threshold_ms(&self) -> Option<u64> {
        self.live.latency_threshold_ms()
    }

    fn open_user(&self) -> Option<String> {
        self.cluster.registry().users().open().map(|user| user.name().to_owned())
    }

    fn has_password(&self) -> bool {
        self.cluster.registry().users().get(DEFAULT_USER).is_none_or(|user| !user.has_nopass())
    }

    fn authenticate(&self, user: &str, password: &[u8], session: &Session, command: &'static str) -> Option<String> {
        let registry = self.cluster.registry();
        let found = registry.users().authenticate(user, password).map(|user| user.name().to_owned());
        if found.is_none() {
            guard::note_failed_proof(registry, user, command, guard::client_of(session));
        }
        found
    }

    fn users(&self) -> Vec<UserRow> {
        let selector = |s: &Selector| SelectorRow {
            commands: s.commands_text().into(),
            keys: s.keys_text().into(),
            channels: s.channels_text().into(),
        };
        let row = |user: &Arc<User>| UserRow {
            name: user.name().to_owned(),
            flags: user.flags(),
            passwords: user.hashes(),
            selectors: std::iter::once(user.root()).chain(user.further()).map(selector).collect(),
            text: user.text().into(),
        };
        self.cluster.registry().users().iter().map(row).collect()
    }

    fn may(&self, user: &str, command: &'static Command, args: &Args) -> Result<(), String> {
        let users = self.cluster.registry().users();
        let user = users.get(user).ok_or_else(|| format!("User '{user}' not found"))?;
        security::check(user, command, args).map_err(|denied| denied.full_text())
    }

    fn acl_log(&self, max: usize) -> Vec<AclLogEntry> {
        let now_ms = env::wall_ms();
        let row = |entry: Entry| AclLogEntry {
            id: entry.id,
            count: entry.count,
            reason: entry.event.reason.name(),
            context: entry.event.context.name(),
            object: entry.event.object,
            username: entry.event.username,
            client: entry.event.client,
            age_ms: now_ms.saturating_sub(entry.updated_ms),
            created_ms: entry.created_ms,
            updated_ms: entry.updated_ms,
        };
        self.cluster.registry().log(max).into_iter().map(row).collect()
    }

    fn acl_log_reset(&self) {
        self.cluster.registry().clear_log();
    }

    fn events(&self, after: u64, max: usize) -> Events {
        let feed = self.cluster.events();
        let batch = feed.after(after, max);
        let row = |Event { seq, at_ms, news }: Event| EventRow {
            seq,
            at_ms,
            name: news.what.name(),
            node: news.node.map(|node| node.0),
            group: news.group.map(|group| u64::from(group.0)),
            text: news.text,
        };
        Events { run: feed.run(), missed: batch.missed, events: batch.events.into_iter().map(row).collect() }
    }

    fn secret_bytes(&self, count: usize) -> Option<Vec<u8>> {
        env::secret_bytes(count).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_become_runs() {
        let table: Vec<GroupId> = [1, 1, 2, 1, 2, 2].into_iter().map(GroupId).collect();
        assert_eq!(ranges(&table, GroupId(1)), [(0, 1), (3, 3)]);
        assert_eq!(ranges(&table, GroupId(2)), [(2, 2), (4, 5)]);
        assert_eq!(ranges(&table, GroupId(3)), []);
    }

    #[test]
    fn names_of_nodes_are_40_digits_and_never_change() {
        assert_eq!(hex_name("c", "node", 1).len(), 40);
        assert_eq!(hex_name("c", "node", 1), hex_name("c", "node", 1));
        assert_ne!(hex_name("c", "node", 1), hex_name("c", "node", 2));
        assert_ne!(hex_name("c", "node", 1), hex_name("c", "group", 1));
    }

    #[test]
    fn the_process_knows_its_own_size() {
        assert!(resident_bytes() > 1 << 20);
        assert!(machine_bytes() > resident_bytes());
    }
}
