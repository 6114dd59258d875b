//! Documents that are loops over the code's own tables, and links of documents that lead somewhere.
//!
//! `docs/commands.md` and `docs/configuration.md` are never edited by hand. After a change of a table write them again:
//!
//! ```text
//! REGENERATE=1 cargo test --release --test docs
//! ```

use hypercache::commands::{self, Command, Run, Scope};
use hypercache::config::{Config, KEYS, SECTIONS};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Where a command differs from the Redis command of its name. A name that is in no table fails the test.
const DIFFERENCES: &[(&str, &str)] = &[
    ("acl|load", "refused, as in a Redis without an ACL file: users are kept by the meta group"),
    ("acl|log", "of the node that is asked; what HTTP and gRPC refused is there, too"),
    ("acl|save", "refused, as in a Redis without an ACL file: users are kept by the meta group"),
    (
        "acl|setuser",
        "for all nodes; not inside MULTI; names are UTF-8; unbalanced quotes in a selector are a syntax error",
    ),
    (
        "bf.exists",
        "WRONGTYPE for a key of another type, where RedisBloom says 0; so do the other questions of BF and CF",
    ),
    ("bf.info", "`Size` is what the account counts; one field is an array of its value in RESP3 too"),
    ("bf.insert", "options are known by their whole names; CF.INSERT and CF.INSERTNX too"),
    (
        "bf.reserve",
        "at most 512 MiB a filter, grown layers included, and 256 layers; the cuckoo filters too, with 32 layers",
    ),
    (
        "blpop",
        "whoever waits pops with an entry of its own, so an element pushed for it can be seen for a moment; `UNBLOCKED` \
                      when the leader goes; the other commands that wait too",
    ),
    ("cf.info", "`Size` is what the account counts; deletes are counted on when layers go"),
    ("cf.insert", "an item that found no room is -1 in RESP3 too, not false"),
    (
        "cf.loadchunk",
        "pieces in their order, each of the state the header was taken from; until the last is there the \
                      filter answers an error. RedisBloom's dumps are not read",
    ),
    ("cf.scandump", "pieces of at most 1 MiB, with a version and a checksum"),
    ("client|pause", "this node's Redis doors only"),
    (
        "cluster|failover",
        "all groups that the node follows, answered when it leads them; not forced: FORCE and TAKEOVER are refused, since \
                      nobody leads without a majority, and with one a group elects by itself",
    ),
    ("client|tracking", "a change is told when this node applies it"),
    (
        "cluster",
        "reads only, but for FAILOVER; a shard is a data group, and a node can be master in one and replica in another",
    ),
    ("cluster|countkeysinslot", "answered on the proxy face too; counts this node's own replica"),
    ("cluster|getkeysinslot", "answered on the proxy face too; at most 100,000 keys, those of this node's own replica"),
    ("command|docs", "`syntax` instead of Redis' tree of arguments"),
    ("command|info", "no tips, which tell a client of a cluster whom else to ask; COMMAND too"),
    ("bgsave", "a snapshot of every replica of this node, all groups"),
    ("copy", "keys in one slot, or CROSSSLOT; any keys where the cluster has one data group (proxy face)"),
    ("dump", "a form of our own, with a version and a checksum; Redis' dumps are not read, nor ours by Redis"),
    ("lastsave", "of BGSAVE; snapshots that the node makes by itself are not counted"),
    ("latency|histogram", "bounds at powers of two; calls with their quorum"),
    (
        "monitor",
        "this node's Redis doors; a command is told before it runs, one of a transaction when it is queued, and what scripts \
                      run when they have ended, at the node that was asked, the last run of each and up to 1000 commands of it. \
                      Of a second all up to monitor-commands-per-second, then one of 100, and a line says how many were left out",
    ),
    ("geoadd", "a place at the very edge is in the last cell; in Redis its number is beyond all cells"),
    ("lcs", "at most 2^26 pairs of bytes, such as two strings of 8 KiB"),
    ("memory|stats", "by the account of the state and the allocator; no databases, no replication"),
    (
        "georadius",
        "a write, since it may store: GEORADIUS_RO reads; coordinates are bulk strings in RESP3 too, here and elsewhere",
    ),
    (
        "sort",
        "a write, since it may store: SORT_RO reads. BY and GET with patterns only where one group has all keys (proxy face); bytes are compared as such",
    ),
    ("restore", "what DUMP gave here; IDLETIME and FREQ are checked and change nothing"),
    ("shutdown", "what is in the log needs no saving: the options are the same, but for ABORT"),
    ("cluster|slot-stats", "key-count alone, of the slots whose group this node leads"),
    ("slowlog", "a command's time runs from being read to being answered, its quorum included"),
    ("client|unblock", "connections of this node"),
    (
        "config|get",
        "Redis' names for what there is, besides `consistency-level` and `request-timeout-ms`; `requirepass` is always \
         empty, since only its hash is known",
    ),
    ("config|rewrite", "refused: the server never writes its file"),
    (
        "config|set",
        "memory's parameters, `notify-keyspace-events` and `requirepass` for all nodes and for good; the others on this node \
         only, until it restarts",
    ),
    ("dbsize", "counts dead keys that wait for their sweep; over several groups not one moment"),
    ("del", "across slots (proxy face) a part a group, each atomic, not the whole; UNCERTAIN if only some took effect"),
    ("unlink", "the same as DEL"),
    ("exists", "across slots (proxy face) not one moment"),
    ("client|reply", "not inside MULTI, where it would cut EXEC's reply short"),
    (
        "exec",
        "queued and watched keys in one slot, or CROSSSLOT when they are queued; any keys, and commands about all keys, \
                      where the cluster has one data group (proxy face). At most 65,536 commands, 64 MiB; what is \
                      about scripts and functions runs behind its commands about keys, but a script that it loads may be \
                      run by its name",
    ),
    ("watch", "at most 1,024 keys; one that was absent, made and deleted again counts as unchanged"),
    ("expiretime", "by the group clock, which starts near Unix time and never goes back"),
    ("flushall", "each group in its own entry; ASYNC and SYNC are the same"),
    ("flushdb", "the same as FLUSHALL: there is one database"),
    ("getex", "a ttl that is not positive is refused even if the key does not exist"),
    (
        "hexpire",
        "the key of a hash is dead as soon as all its fields are; by the group clock. HPEXPIRE and the others too",
    ),
    ("hrandfield", "at most 1,048,576 fields with a negative count"),
    ("keys", "over several groups not one moment"),
    ("memory|usage", "the account of the state, equal on all replicas, not what an allocator took"),
    ("eval", "in a cluster of several data groups, a key of another group than that of its KEYS is refused"),
    (
        "fcall",
        "a function keeps nothing in its library's variables from call to call; the flag `allow-oom` lets it begin in a full group, its writes are refused all the same",
    ),
    ("function|dump", "in a form of our own, which Redis does not take, as we do not take Redis'"),
    ("function|kill", "on all nodes; a function that wrote is stopped, too: what it did is undone"),
    (
        "function|load",
        "on all nodes; through other nodes, what is replaced may be called by its old code until the change has reached them",
    ),
    ("function|stats", "tells what runs on this node, or else at the leader of a group that this node has a part in"),
    ("mget", "across slots (proxy face) not one moment"),
    ("mset", "keys in one slot, or CROSSSLOT; any keys where the cluster has one data group (proxy face)"),
    ("msetnx", "keys in one slot, or CROSSSLOT; any keys where the cluster has one data group (proxy face)"),
    (
        "object|encoding",
        "a hash with deadlines of fields is a hashtable however small; a list is packed again by its size alone",
    ),
    ("object|freq", "refused: reads leave no trace in the state"),
    ("object|idletime", "seconds since the last write, not since the last access"),
    (
        "publish",
        "reaches every node; counts the listeners of all nodes on the proxy face, of this one on the cluster face; from a \
                      script when what it did counts, and it is told of the listeners of the node that runs it",
    ),
    ("pubsub", "tells of all nodes on the proxy face, of this one on the cluster face"),
    ("readonly", "reads of the connection become `eventual`, on both faces"),
    ("rename", "keys in one slot, or CROSSSLOT; any keys where the cluster has one data group (proxy face)"),
    ("renamenx", "keys in one slot, or CROSSSLOT; any keys where the cluster has one data group (proxy face)"),
    ("role", "always master: any node takes any write"),
    ("script|flush", "on all nodes"),
    ("script|kill", "on all nodes; a script that wrote is stopped, too: what it did is undone"),
    ("scan", "one cursor over all groups; it survives a change of leader"),
    ("select", "database 0 only; the error is that of Redis Cluster up to 15, and that of Redis beyond"),
    ("spublish", "the same as PUBLISH: shard channels are spread to all nodes"),
    ("ssubscribe", "any node will do, no MOVED; channels of one slot on the cluster face"),
    ("touch", "a read: nothing records an access"),
    ("ttl", "by the group clock"),
    ("xread", "BLOCK: `UNBLOCKED` if the group changes its leader meanwhile, and nothing was read"),
    (
        "xreadgroup",
        "BLOCK: `UNBLOCKED` if the group changes its leader meanwhile, and nothing was given out; goes on waiting when its \
                      group is destroyed",
    ),
    ("wait", "answers at once: an acknowledged write is on a majority already"),
    ("waitaof", "answers at once; zeros unless `storage.sync` is `always`"),
];

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Compares a document with what it should be, or writes it.
fn hold(path: &str, wanted: &str) {
    if std::env::var_os("REGENERATE").is_some() {
        std::fs::write(repository(path), wanted).unwrap();
        return;
    }
    let found = std::fs::read_to_string(repository(path)).unwrap_or_default();
    let differs = found.lines().zip(wanted.lines()).position(|(found, wanted)| found != wanted);
    let line = 1 + differs.unwrap_or_else(|| found.lines().count().min(wanted.lines().count()));
    assert!(
        found == wanted,
        "{path} is out of date from line {line} on; write it again: REGENERATE=1 cargo test --release --test docs"
    );
}

/// A cell of a table in Markdown.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// What happens to a request of this command.
fn way(command: &Command) -> String {
    let kind = match command.run {
        Run::Read(_) => "read",
        Run::Write(_) => "write",
        Run::Script(_) if command.spec.scope == Scope::Local => return "all nodes".to_owned(),
        Run::Script(_) => "script",
        Run::Session(_) | Run::Node(_) | Run::Transaction(_) | Run::Container => return "here".to_owned(),
    };
    let place = match command.spec.scope {
        Scope::OneSlot => "one slot",
        Scope::Split(_) => "split by group",
        Scope::AllGroups(_) | Scope::Cursor => "all groups",
        Scope::Local => "any group",
    };
    format!("{kind}, {place}")
}

fn commands_document() -> String {
    let mut families: BTreeMap<&str, BTreeMap<String, &Command>> = BTreeMap::new();
    for (name, command) in commands::all() {
        families.entry(command.spec.family).or_default().insert(name, command);
    }
    let mut out = String::from(
        "# Commands\n\n\
         Written by `tests/docs.rs` from the tables in `src/commands/`; do not edit it. After a change:\n\
         `REGENERATE=1 cargo test --release --test docs`.\n\n\
         Everything else answers `ERR unknown command`. Texts and edge cases are those of Redis 7.2 unless a later\n\
         version is named. The last column says what a request becomes: a *read* waits for its level and runs on a\n\
         replica, a *write* becomes part of a log entry, *here* is answered by the node that was asked. *One slot*: all\n\
         keys must share a slot, except on the proxy face of a cluster with one data group. *Split by group*: keys\n\
         may lie anywhere on the proxy face; on the cluster face they must share a slot. *All groups*: on the proxy face\n\
         every group, on the cluster face those that the node leads. A *script* runs where its keys are led, and is a\n\
         read or a write by what it does. The texts of HELP and DOCTOR are our own.\n",
    );
    for (family, commands) in families {
        let _ = write!(out, "\n## {family}\n\n| command | what it does | since | way |\n|---|---|---|---|\n");
        for command in commands.values().filter(|c| !matches!(c.run, Run::Container)) {
            let spec = &command.spec;
            let (syntax, summary) = (cell(spec.syntax), cell(spec.summary));
            let _ = writeln!(out, "| `{syntax}` | {summary} | {} | {} |", spec.since, way(command));
        }
        let known = DIFFERENCES.iter().filter(|(name, _)| commands.contains_key(*name));
        let lines: Vec<String> = known.map(|(name, what)| format!("- {}: {what}", shown(name))).collect();
        if !lines.is_empty() {
            let _ = write!(out, "\nDifferences to Redis:\n\n{}\n", lines.join("\n"));
        }
    }
    out
}

/// `OBJECT FREQ` for `object|freq`.
fn shown(name: &str) -> String {
    name.replace('|', " ").to_ascii_uppercase()
}

fn configuration_document() -> String {
    let mut out = String::from(
        "# Configuration\n\n\
         Written by `tests/docs.rs` from the table in `src/config/keys.rs`; do not edit it. After a change:\n\
         `REGENERATE=1 cargo test --release --test docs`. The same as a file that can be used: `configs/every-key.yaml`,\n\
         or `hypercache config defaults`. How sources are combined and checked: `docs/operating/configuration.md`.\n\n\
         Sizes: B, KB, MB, GB, TB (powers of 1024). Durations: us, ms, s, m, h, d.\n",
    );
    let defaults = Config::default();
    for section in SECTIONS {
        let _ = write!(out, "\n## {}\n\n{}\n\n", section.name, sentence(section.doc));
        out.push_str("| setting | default | meaning |\n|---|---|---|\n");
        for key in KEYS.iter().filter(|key| key.section == section.name) {
            let (default, meaning) = (cell(&(key.show)(&defaults)), cell(&sentence(key.doc)));
            let _ = writeln!(out, "| `{}` | `{default}` | {meaning} |", key.path());
        }
    }
    out
}

/// The lines of a comment as one.
fn sentence(lines: &[&str]) -> String {
    lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

#[test]
fn the_list_of_commands_is_that_of_the_tables() {
    hold("docs/commands.md", &commands_document());
}

#[test]
fn every_difference_is_one_of_a_command_that_exists() {
    let names: Vec<String> = commands::all().map(|(name, _)| name).collect();
    for (name, _) in DIFFERENCES {
        assert!(names.iter().any(|known| known == name), "{name} is in no table");
    }
}

#[test]
fn the_list_of_settings_is_that_of_the_table() {
    hold("docs/configuration.md", &configuration_document());
}

/// The Markdown files of the repository's own.
fn documents() -> Vec<PathBuf> {
    let mut folders = vec![repository("docs")];
    let mut found = vec![repository("README.md")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn links_between_documents_lead_to_files() {
    let mut broken = Vec::new();
    for document in documents() {
        let text = std::fs::read_to_string(&document).unwrap();
        let folder = document.parent().unwrap();
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().unwrap_or_default();
            let file = target.split('#').next().unwrap_or_default();
            if !file.is_empty() && !file.contains("://") && !folder.join(file).exists() {
                broken.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
}

/// Paths of the sources that documents name in code spans must exist: the map is only useful while it is true.
#[test]
fn files_that_documents_name_exist() {
    let mut missing = Vec::new();
    for document in documents() {
        let text = std::fs::read_to_string(&document).unwrap();
        for span in text.split('`').skip(1).step_by(2) {
            let named = ["src/", "tests/", "configs/", "proto/"].iter().any(|folder| span.starts_with(folder));
            let plain = span.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
            if named && plain && !repository(span).exists() {
                missing.push(format!("{}: {span}", document.display()));
            }
        }
    }
    assert!(missing.is_empty(), "files that do not exist:\n{}", missing.join("\n"));
}
