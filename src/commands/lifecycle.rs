//! What an administrator does to a node: snapshots under their old names, and the end; and what the allocator says.
//!
//! Nothing here waits: a snapshot is made in the background, and a node that is told to stop stops in order, after this
//! reply.

use super::node::{Facts, Node};
use super::server::{REDIS_VERSION, bulk, spec};
use super::session::Session;
use super::syntax::{is, syntax_error};
use super::{Command, NodeCommand, SessionCommand, Spec, node, session};
use crate::resp::{Args, Reply};
use bytes::Bytes;

struct Bgsave;

impl NodeCommand for Bgsave {
    const SPEC: Spec = spec(
        "bgsave",
        -1,
        "1.0.0",
        "BGSAVE [SCHEDULE]",
        "Makes a snapshot of this node's replicas in the background; the log is compacted behind it.",
    );

    fn parse(args: &Args) -> Result<Self, Reply> {
        match &args[1..] {
            [] => Ok(Bgsave),
            [word] if is(word, "schedule") => Ok(Bgsave),
            _ => Err(syntax_error()),
        }
    }

    fn run(self, node: &dyn Node, _: &mut Session) -> Reply {
        match node.save() {
            true => Reply::status("Background saving started"),
            false => Reply::error("ERR Background save already in progress"),
        }
    }
}

struct Lastsave;

impl NodeCommand for Lastsave {
    const SPEC: Spec = spec(
        "lastsave",
        1,
        "1.0.0",
        "LASTSAVE",
        "The Unix time at which the last BGSAVE of this node succeeded; the node's start before.",
    );

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(Lastsave)
    }

    fn run(self, node: &dyn Node, _: &mut Session) -> Reply {
        Reply::Int(node.facts().saves.last_unix_s as i64)
    }
}

/// What is in the log needs no saving: NOSAVE, SAVE, NOW and FORCE are the same.
struct Shutdown {
    abort: bool,
}

impl NodeCommand for Shutdown {
    const SPEC: Spec = spec(
        "shutdown",
        -1,
        "1.0.0",
        "SHUTDOWN [NOSAVE | SAVE] [NOW] [FORCE] [ABORT]",
        "Stops this node in order, as SIGTERM does: it hands over what it leads and answers what it received.",
    );

    fn parse(args: &Args) -> Result<Self, Reply> {
        let known = |word: &Bytes| ["nosave", "save", "now", "force", "abort"].iter().any(|name| is(word, name));
        let abort = args[1..].iter().any(|word| is(word, "abort"));
        let both = args[1..].iter().any(|w| is(w, "save")) && args[1..].iter().any(|w| is(w, "nosave"));
        if !args[1..].iter().all(known) || both || (abort && args.len() > 2) {
            return Err(syntax_error());
        }
        Ok(Shutdown { abort })
    }

    fn run(self, node: &dyn Node, session: &mut Session) -> Reply {
        if self.abort {
            return Reply::error("ERR No shutdown in progress.");
        }
        node.shut_down();
        session.close_after_reply = true;
        Reply::Nothing
    }
}

struct Swapdb;

impl SessionCommand for Swapdb {
    const SPEC: Spec = spec("swapdb", 3, "4.0.0", "SWAPDB index1 index2", "Refused: there is one database.");

    fn parse(args: &Args) -> Result<Self, Reply> {
        for (arg, which) in [(&args[1], "first"), (&args[2], "second")] {
            let index: Option<i64> = crate::resp::integer(arg);
            index.ok_or_else(|| Reply::error(format!("ERR invalid {which} DB index")))?;
        }
        Ok(Swapdb)
    }

    fn run(self, _: &mut Session) -> Reply {
        Reply::error("ERR SWAPDB is not supported: there is one database, number 0")
    }
}

struct Lolwut;

impl NodeCommand for Lolwut {
    const SPEC: Spec =
        spec("lolwut", -1, "5.0.0", "LOLWUT [VERSION version]", "Says which server this is, with a drawing.");

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(Lolwut)
    }

    fn run(self, node: &dyn Node, _: &mut Session) -> Reply {
        let version = node.facts().hypercache_version;
        let drawing = format!(
            "   o---o---o\n  /  log   /|\n o---o---o  o\n |   |   | /\n o---o---o\n\nHyperCache ver. {version}, Redis ver. {REDIS_VERSION}\n"
        );
        Reply::Verbatim { format: *b"txt", text: Bytes::from(drawing) }
    }
}

// -- MEMORY beyond single keys

/// Of those in `generic`'s table of MEMORY.
pub(super) struct MemoryStats;

impl NodeCommand for MemoryStats {
    const SPEC: Spec = spec(
        "stats",
        2,
        "4.0.0",
        "MEMORY STATS",
        "Where this node's memory goes, in bytes, by the account and the allocator.",
    );

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(MemoryStats)
    }

    fn run(self, node: &dyn Node, _: &mut Session) -> Reply {
        let m = node.facts().memory;
        let int = |name: &str, value: u64| (bulk(name), Reply::Int(value as i64));
        let data = m.used.saturating_sub(m.overhead);
        let each = m.used.checked_div(m.keys).unwrap_or(0);
        let mut rows = vec![
            int("peak.allocated", m.peak.max(m.used)),
            int("total.allocated", m.used),
            int("clients.normal", m.clients),
            int("overhead.total", m.overhead),
            int("keys.count", m.keys),
            int("keys.bytes-per-key", each),
            int("dataset.bytes", data),
            (bulk("dataset.percentage"), Reply::Double(percent(data, m.used))),
            (bulk("peak.percentage"), Reply::Double(percent(m.used, m.peak.max(m.used)))),
            int("filters.bytes", m.filters.bytes),
            int("log.bytes", m.log),
        ];
        rows.extend(node.allocator().into_iter().map(|(name, bytes)| int(&format!("allocator.{name}"), bytes)));
        rows.push(int("resident", m.rss));
        Reply::Map(rows)
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

pub(super) struct MemoryDoctor;

/// Resident memory this many times the account is worth a word, once there is this much of it.
const TIMES_THE_ACCOUNT: u64 = 2;
const WORTH_A_WORD: u64 = 256 << 20;

fn advice(facts: &Facts) -> String {
    let m = &facts.memory;
    let mut out = String::new();
    if m.pressure > 0 {
        out.push_str(&format!(
            "The fullest group is above {} % of its limit: raise maxmemory, or expect {}.\n",
            m.pressure,
            if m.policy == "noeviction" { "writes to be refused with OOM" } else { "keys to be evicted" }
        ));
    }
    if m.evicted > 0 {
        out.push_str(&format!("{} keys were evicted here since the start.\n", m.evicted));
    }
    if m.rss > WORTH_A_WORD && m.rss > m.used.saturating_mul(TIMES_THE_ACCOUNT) {
        out.push_str(&format!(
            "{} bytes are resident for {} bytes of data: look at MEMORY MALLOC-STATS, at the log's cache ({} bytes) and at \
             clients' buffers ({} bytes).\n",
            m.rss, m.used, m.log, m.clients
        ));
    }
    if out.is_empty() {
        out.push_str("Nothing stands out in this node's memory.\n");
    }
    out
}

impl NodeCommand for MemoryDoctor {
    const SPEC: Spec =
        spec("doctor", 2, "4.0.0", "MEMORY DOCTOR", "Says in words what stands out in this node's memory.");

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(MemoryDoctor)
    }

    fn run(self, node: &dyn Node, _: &mut Session) -> Reply {
        Reply::Verbatim { format: *b"txt", text: Bytes::from(advice(&node.facts())) }
    }
}

pub(super) struct MallocStats;

impl NodeCommand for MallocStats {
    const SPEC: Spec =
        spec("malloc-stats", 2, "4.0.0", "MEMORY MALLOC-STATS", "What the allocator says of itself, in bytes.");

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(MallocStats)
    }

    fn run(self, node: &dyn Node, _: &mut Session) -> Reply {
        let lines: String = node.allocator().into_iter().map(|(name, bytes)| format!("{name}: {bytes}\n")).collect();
        Reply::Verbatim { format: *b"txt", text: Bytes::from(format!("jemalloc\n{lines}")) }
    }
}

struct Monitor;

impl NodeCommand for Monitor {
    const SPEC: Spec = spec(
        "monitor",
        1,
        "1.0.0",
        "MONITOR",
        "Tells this connection of every request that this node gets from its Redis clients.",
    );

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(Monitor)
    }

    fn run(self, node: &dyn Node, session: &mut Session) -> Reply {
        session.monitors = node.monitor(session.id, true);
        match session.monitors {
            true => Reply::OK,
            false => Reply::error("ERR too many connections monitor this node already"),
        }
    }
}

/// What stands beside the other commands about the server.
pub(super) static LIFECYCLE: &[Command] = &[
    node::<Bgsave>(),
    node::<Lastsave>(),
    node::<Lolwut>(),
    node::<Monitor>(),
    node::<Shutdown>(),
    session::<Swapdb>(),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::node::MemoryFacts;

    #[test]
    fn the_doctor_says_what_stands_out_and_nothing_else() {
        let facts = |memory| Facts { memory, ..Facts::default() };
        assert_eq!(advice(&facts(MemoryFacts::default())), "Nothing stands out in this node's memory.\n");
        let full = MemoryFacts { pressure: 95, policy: "noeviction".to_owned(), evicted: 3, ..MemoryFacts::default() };
        let said = advice(&facts(full));
        assert!(said.contains("above 95 %") && said.contains("refused with OOM") && said.contains("3 keys"), "{said}");
        let large = MemoryFacts { rss: 1 << 30, used: 1 << 20, ..MemoryFacts::default() };
        assert!(advice(&facts(large)).contains("1073741824 bytes are resident"));
    }
}
