//! Every setting, declared once: its place, type, meaning, default and range.
//!
//! The structs, the defaults, `configs/every-key.yaml`, `--print-config`, the search for mistyped keys and what
//! `CONFIG GET` can tell are all derived from the table below. A default is written as a user would write it and is
//! read by the same code.

use super::values::*;
use crate::types::Level;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// One setting.
pub struct Key {
    pub section: &'static str,
    pub name: &'static str,
    /// Lines of a comment, each with the space it begins with.
    pub doc: &'static [&'static str],
    pub default: &'static str,
    /// Puts a value into a configuration; the error says what was expected.
    pub set: fn(&mut Config, &Raw) -> Result<(), String>,
    /// The value as YAML; a secret stays hidden.
    pub show: fn(&Config) -> String,
}

impl Key {
    /// `section.name`, as users write it.
    pub fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }
}

/// A section and what it is about.
pub struct Section {
    pub name: &'static str,
    pub doc: &'static [&'static str],
}

/// Reads one value and holds it against its range.
fn read<T: Setting>(raw: &Raw, range: Option<RangeInclusive<u64>>) -> Result<T, String> {
    let value = T::parse(raw)?;
    match (range, value.measure()) {
        (Some(range), Some(number)) if !range.contains(&number) => Err(format!(
            "expected {} to {}, found {}",
            T::in_words(*range.start()),
            T::in_words(*range.end()),
            T::in_words(number)
        )),
        _ => Ok(value),
    }
}

/// A default of the table as a value.
fn built_in<T: Setting>(text: &str) -> T {
    T::parse(&Raw::Text(text.to_owned())).expect("the table's defaults are valid, which a test checks")
}

macro_rules! optional {
    () => {
        None
    };
    ($range:expr) => {
        Some($range)
    };
}

macro_rules! sections {
    ($( $(#[doc = $section_doc:literal])+ $section:ident: $Struct:ident {
        $( $(#[doc = $doc:literal])+ $name:ident: $ty:ty = $default:literal $(in $range:expr)?; )+
    } )+) => {
        $(
            $(#[doc = $section_doc])+
            #[derive(Debug, Clone, PartialEq)]
            pub struct $Struct { $( $(#[doc = $doc])+ pub $name: $ty, )+ }
        )+

        /// All settings of one server, whole and checked.
        #[derive(Debug, Clone, PartialEq)]
        pub struct Config { $( pub $section: $Struct, )+ }

        impl Default for Config {
            fn default() -> Config {
                Config { $( $section: $Struct { $( $name: built_in($default), )+ }, )+ }
            }
        }

        /// The sections, in the order in which they are printed.
        pub static SECTIONS: &[Section] = &[ $( Section { name: stringify!($section), doc: &[$($section_doc),+] }, )+ ];

        /// Every setting, section by section.
        pub static KEYS: &[Key] = &[ $( $( Key {
            section: stringify!($section),
            name: stringify!($name),
            doc: &[$($doc),+],
            default: $default,
            set: |config, raw| {
                config.$section.$name = read(raw, optional!($($range)?))?;
                Ok(())
            },
            show: |config| config.$section.$name.show(),
        }, )+ )+ ];
    };
}

sections! {
    /// This process: its name, where its peers find it, where its files are.
    node: Node {
        /// The node's name in logs and in what the cluster tells about itself.
        id: Name = "node-1";
        /// Where the other nodes reach this one.
        bind_addr: Endpoint = "127.0.0.1:7000";
        /// The host that others are told to use for this node. Empty: the host of bind_addr, or, where that stands for
        /// every address, the one of cluster.seeds that belongs to this machine.
        advertise_host: String = "";
        /// What fails together with this node: a rack, a hall, a site. Votes of a group are kept apart by zones as far as there
        /// are enough. Empty: in none. A change counts from the next change of nodes, or rebalance, on.
        zone: Zone = "";
        /// Gossip, over UDP: who is there and where, advice only. off: nodes are found by their seeds and what the cluster knows
        /// alone.
        gossip_addr: Listen = "127.0.0.1:7946";
        /// Log, snapshots and identity. Belongs to one node for ever.
        data_dir: PathBuf = "./data/node-1";
    }

    /// The doors. Each may be "off".
    server: Server {
        /// RESP, proxy face: any node takes any key. For plain Redis clients.
        resp_addr: Listen = "127.0.0.1:6379";
        /// RESP, cluster face: answers MOVED. For Redis Cluster clients.
        cluster_addr: Listen = "127.0.0.1:6479";
        /// HTTP: /api/cache, /health, /readyz, /metrics.
        http_addr: Listen = "127.0.0.1:8080";
        /// gRPC: administration.
        grpc_addr: Listen = "127.0.0.1:7070";
        /// Threads that serve connections. auto: one a core.
        workers: Auto = "auto" in 1..=1024;
        /// How long an orderly stop may take before what is left is cut off.
        drain_timeout: Duration = "10s" in 100..=600_000;
    }

    /// The log and the files below it.
    storage: Storage {
        /// memory: all data in RAM, log and snapshots on disk. hybrid and persistent are not built yet.
        engine: Engine = "memory";
        /// When a write is on stable storage: always (before it is acknowledged), everysec or no. Only always keeps
        /// acknowledged writes through a power cut.
        sync: Sync = "always";
        /// Must be true for a sync other than always.
        unsafe_durability: bool = "false";
        /// The longest that writes may gather before they are synced together. They are acknowledged after the sync in
        /// any case. 0: whatever waits while a sync is under way goes with the next.
        wal_sync_interval: Duration = "0s" in 0..=1_000;
        /// RocksDB's write buffer.
        memtable_size: Size = "16MB" in 1 << 20..=4 << 30;
        /// RocksDB's threads for flushing and compaction.
        compaction_threads: u64 = "2" in 1..=64;
        /// Disk space held back so that votes and membership can be written when the disk is full.
        ballast_size: Size = "16MB" in 0..=1 << 40;
        /// Writes are refused when less than this is free on the disk of data_dir.
        disk_low_watermark: Size = "128MB" in 0..=1 << 50;
        /// Writes are taken again when this much is free.
        disk_resume_watermark: Size = "192MB" in 0..=1 << 50;
    }

    /// What is kept, and how much of it.
    cache: Cache {
        /// Memory for the data of a node: a size, or a share of the machine's or control group's memory. The value at the
        /// cluster's first start counts; later it is changed for all nodes by CONFIG SET maxmemory.
        max_memory: Memory = "75%";
        /// What goes when memory is full. lru means allkeys-lru, lfu allkeys-lfu. The value at the cluster's first start
        /// counts; later it is changed for all nodes by CONFIG SET maxmemory-policy.
        eviction_policy: EvictionPolicy = "noeviction";
        /// False positives of a cuckoo filter, 0.001 to 0.05.
        cuckoo_filter_fpp: f64 = "0.01";
    }

    /// Snapshots, and how much of the log is kept behind them.
    persistence: Persistence {
        /// A group is snapshotted when its log has grown by this much since the last one.
        snapshot_log_bytes: Size = "64MB" in 1 << 10..=1 << 40;
        /// No sooner than this after the last one.
        snapshot_min_interval: Duration = "10s" in 0..=86_400_000;
        /// Entries kept behind a snapshot, so that a follower that fell back catches up by log; fewer if they are longer than the
        /// growth after which a snapshot is made.
        log_lag_entries: u64 = "10000" in 0..=100_000_000;
        /// How the chunks of new snapshots are packed: lz4, or none (values that are compressed already, a disk that
        /// compresses by itself). Every node reads both.
        snapshot_codec: SnapshotCodec = "lz4";
    }

    /// The cluster that this node belongs to.
    cluster: Cluster {
        /// Peer addresses. On a fresh cluster these are its first members, in this order, the same on every node.
        /// Empty: a cluster of this one node.
        seeds: Vec<Endpoint> = "";
        /// Found no cluster on an empty data directory, but wait to be added to one that there is (`hypercachectl node add`).
        join: bool = "false";
        /// Copies of every group. auto: 3, or as many as there are nodes.
        replication_factor: Auto = "auto" in 1..=7;
        /// Data groups, settled at the cluster's first start. auto: 1 on one node, 8 on more.
        groups: Auto = "auto" in 1..=1024;
        /// The default read level: linearizable, lease, bounded:<milliseconds> or eventual.
        consistency_level: Level = "linearizable";
        /// Whether a restarted node may answer eventual reads before it has heard from a leader. They may show a state
        /// older than one seen before.
        eventual_without_leader_after_restart: bool = "false";
        /// The votes of a node that is silent for so long are given to others, as far as there are spare ones; when it comes back,
        /// it gets its share again. The value of the node that leads the meta group counts. 0: only when an operator
        /// says so.
        rebuild_after: Duration = "10m" in 0..=2_592_000_000;
        /// How often the replicas of each group compare their states, where something was written since. 0: only when
        /// asked (HC.VERIFY).
        verify_interval: Duration = "10m" in 0..=2_592_000_000;
    }

    /// Timers of replication. The same on every node.
    raft: Raft {
        /// How often a leader lets its followers know that it is there.
        heartbeat_interval_ms: u64 = "100" in 10..=10_000;
        /// A follower campaigns after a random time between these two, once the lease has passed.
        election_timeout_min_ms: u64 = "300" in 50..=60_000;
        /// Also the length of the lease.
        election_timeout_max_ms: u64 = "600" in 100..=120_000;
        /// How far two clocks may drift apart, in millionths. A restarted node keeps silent for a lease and this much longer.
        lease_drift_ppm: u64 = "1000" in 0..=100_000;
    }

    /// Who may do what.
    security: Security {
        /// Refuses to listen wider than loopback for clients, and clients of other machines, while the default user needs
        /// no password.
        protected_mode: bool = "true";
        /// The password of the default user (AUTH), which may do anything. Empty: it needs none. The value at the cluster's
        /// first start counts; later it is changed for all nodes by CONFIG SET requirepass.
        requirepass: Secret = "";
        /// Users of a new cluster, each "user <name> <rules>" as in Redis' files. They count at the cluster's first start;
        /// later they are changed for all nodes by ACL SETUSER.
        users: Users = "";
        /// A file with more of them, one a line. Empty: none.
        users_file: PathBuf = "";
    }

    /// Bounds on what clients may ask for.
    limits: Limits {
        /// Connections at once on the RESP faces.
        max_clients: u64 = "10000" in 1..=1_000_000;
        /// The largest argument.
        max_bulk: Size = "512MB" in 1 << 10..=512 << 20;
        /// The most arguments of one command.
        max_args: u64 = "1048576" in 8..=1 << 20;
        /// The longest inline command.
        max_inline: Size = "64KB" in 64..=1 << 20;
        /// The most that one connection may have sent and not been served yet.
        query_buffer: Size = "1GB" in 1 << 10..=1 << 40;
        /// The most that may wait for a client that does not read. Beyond it nothing more is read from it.
        output_buffer: Size = "256MB" in 1 << 10..=1 << 40;
        /// After this every request has an answer.
        request_timeout: Duration = "5s" in 10..=600_000;
        /// A connection that is silent for longer is closed. 0: never.
        idle_timeout: Duration = "0s" in 0..=2_592_000_000;
    }

    /// Lua scripts. One that takes more is stopped, and nothing it did counts.
    scripts: Scripts {
        /// How long a script may run; never past the deadline of its request.
        time_limit: Duration = "5s" in 10..=600_000;
        /// Memory of an interpreter: one for each group that this node leads and runs scripts for.
        memory_limit: Size = "64MB" in 1 << 20..=16 << 30;
        /// After this, other scripts of the same group are answered BUSY (CONFIG SET busy-reply-threshold changes it).
        busy_after: Duration = "5s" in 1..=600_000;
    }

    /// What is written about all this, and where.
    logging: Logging {
        /// error, warn, info, debug, trace, or by module: "info,hypercache::raft=debug". Changeable at run time.
        level: LogLevel = "info";
        /// text or json.
        format: LogFormat = "text";
        /// Whether to write to standard error.
        console: bool = "true";
        /// A file to write to as well. Its name gets the date when it rotates. Empty: none.
        file: PathBuf = "";
        /// When a new file is begun: hourly, daily or never.
        rotation: Rotation = "daily";
        /// How many files are kept.
        keep_files: u64 = "7" in 1..=1000;
        /// A file for security events alone (target audit); it rotates like file. Empty: they stand in the other logs.
        audit_file: PathBuf = "";
    }
}

impl Raft {
    pub fn heartbeat_interval(&self) -> Duration {
        Duration::from_millis(self.heartbeat_interval_ms)
    }

    pub fn election_timeout_min(&self) -> Duration {
        Duration::from_millis(self.election_timeout_min_ms)
    }

    /// Also how long a voter keeps its promise to a leader.
    pub fn election_timeout_max(&self) -> Duration {
        Duration::from_millis(self.election_timeout_max_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_valid_and_within_its_range() {
        for key in KEYS {
            let mut config = Config::default();
            let set = (key.set)(&mut config, &Raw::Text(key.default.to_owned()));
            assert_eq!(set, Ok(()), "{}", key.path());
            assert_eq!(config, Config::default(), "{}", key.path());
        }
    }

    #[test]
    fn a_value_outside_its_range_is_told_the_range() {
        let key = KEYS.iter().find(|key| key.path() == "storage.memtable_size").unwrap();
        let error = (key.set)(&mut Config::default(), &Raw::Text("1KB".to_owned())).unwrap_err();
        assert_eq!(error, "expected 1MB to 4GB, found 1KB");
    }
}
