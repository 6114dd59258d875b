//! Public request traces through whole servers of one group, held to what the same policy code hits without one. What a
//! server adds: its accounting of memory, evictions that are entries of the log, several of them in flight, changes of
//! leader.
//!
//! A request is a GET, and a SET where it missed. By itself this takes a slice of one trace. With `HYPERCACHE_TEST_WHOLE=1`
//! (`scripts/hit-ratio`) it takes whole traces and more sizes, and writes `docs/hit-ratio.md`.

mod cluster;
// Of its pairs only some are taken here.
#[allow(dead_code)]
#[path = "hit_ratio/mod.rs"]
mod simulator;

use cluster::{Client, Cluster, Plan, code_of, size, wait_until};
use hypercache::resp::Reply;
use hypercache::state::cost;
use hypercache::state::eviction::Kind;
use simulator::PAIRS;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

/// Points of hit ratio by which a server may differ from its own policy code.
const TOLERANCE: f64 = 1.0;
/// Changes of leader during a trace.
const MOVES: usize = 10;
/// Requests that are under way together, of different keys.
const TOGETHER: usize = 16;
const VALUE: &str = "a value";

/// Keys of one length, so that so many bytes are so many keys.
fn key(number: u32) -> String {
    format!("key:{number:08}")
}

/// One run: what is asked of which cluster.
struct Case<'a> {
    name: &'static str,
    trace: &'a [u32],
    share: f64,
    policy: Kind,
    nodes: usize,
}

impl Case<'_> {
    fn moves(&self) -> usize {
        if self.nodes > 1 { MOVES } else { 0 }
    }

    /// Per cent that the policy code hits without a server.
    fn expected(&self) -> f64 {
        simulator::hit_ratio(self.trace, self.share, self.policy, self.moves())
    }

    /// Per cent that the server hits.
    fn served(&self) -> f64 {
        let distinct = self.trace.iter().max().map_or(0, |max| u64::from(*max) + 1);
        let keys = (distinct as f64 * self.share) as u64;
        let memory = keys * cost(key(0).as_bytes(), VALUE.len());
        let plan = Plan::new(self.nodes, 1).set(&format!("cache.max_memory={memory}"));
        let plan = plan.set(&format!("cache.eviction_policy={}", self.policy.name()));
        // What is measured has nothing to do with the disk.
        let cluster = plan.set("storage.sync=no").set("storage.unsafe_durability=true").start();
        wait_until("the group has its limit", cluster::PATIENCE, || {
            let limit = cluster.metric(1, "hypercache_group_limit_bytes", &[("group", "1")])?;
            (limit > memory as f64 * 0.99).then_some(())
        });
        let hits = self.replay(&cluster);
        let used = cluster.metric(1, "hypercache_group_used_bytes", &[("group", "1")]).expect("it is told");
        assert!(used <= memory as f64 && used > memory as f64 * 0.98, "{used} bytes used of {memory}");
        hits as f64 * 100.0 / self.trace.len() as f64
    }

    fn replay(&self, cluster: &Cluster) -> u64 {
        let every = self.trace.len() / (self.moves() + 1) + 1;
        let (mut hits, mut leader, mut done) = (0, 1, 0);
        for part in self.trace.chunks(every) {
            let mut session = Session::new(cluster, leader);
            hits += session.replay(part);
            leader = leader % self.nodes + 1;
            done += part.len();
        }
        assert_eq!(done, self.trace.len());
        hits
    }
}

/// A connection to the node that leads: only the leader's own reads are known to its policy.
struct Session<'a> {
    cluster: &'a Cluster,
    leader: usize,
    client: Client,
}

impl Session<'_> {
    /// Has `leader` lead.
    fn new(cluster: &Cluster, leader: usize) -> Session<'_> {
        cluster.gather_leaders(leader);
        Session { cluster, leader, client: cluster.client(leader) }
    }

    /// Requests of different keys go together; one of a key that is under way waits for it.
    fn replay(&mut self, trace: &[u32]) -> u64 {
        let (mut hits, mut rest) = (0, trace);
        while !rest.is_empty() {
            let mut seen = BTreeSet::new();
            let count = rest.iter().take(TOGETHER).take_while(|key| seen.insert(**key)).count();
            let (together, behind) = rest.split_at(count);
            rest = behind;
            let gets: Vec<Vec<String>> = together.iter().map(|number| vec!["GET".to_owned(), key(*number)]).collect();
            let replies = self.ask(&gets);
            let missed = |(number, reply): (&u32, &Reply)| (*reply == Reply::Nil).then(|| key(*number));
            let missing: Vec<Vec<String>> = together
                .iter()
                .zip(&replies)
                .filter_map(missed)
                .map(|key| vec!["SET".to_owned(), key, VALUE.to_owned()])
                .collect();
            hits += (count - missing.len()) as u64;
            assert!(self.ask(&missing).iter().all(|reply| *reply == Reply::OK), "somebody may always leave");
        }
        hits
    }

    /// Asks again where an election, as a busy machine has them, came between: a GET or a SET may be said twice.
    fn ask(&mut self, commands: &[Vec<String>]) -> Vec<Reply> {
        wait_until("the leader answers", cluster::PATIENCE, || {
            let replies = self.client.pipeline(commands).expect("no connection breaks");
            let errors: Vec<String> = replies.iter().map(code_of).filter(|code| !code.is_empty()).collect();
            if errors.is_empty() {
                return Some(replies);
            }
            let passing = ["UNCERTAIN", "TRYAGAIN", "CLUSTERDOWN"];
            assert!(errors.iter().all(|code| passing.contains(&code.as_str())), "{errors:?}");
            self.cluster.gather_leaders(self.leader);
            None
        })
    }
}

#[test]
fn a_server_hits_as_often_as_its_policy() {
    let whole = size("HYPERCACHE_TEST_WHOLE", 0) > 0;
    let wanted = |name: &str| if whole { ["web12", "scarab-recs"].contains(&name) } else { name == "web12" };
    let pairs = PAIRS.iter().filter(|(name, ..)| wanted(name)).take(if whole { PAIRS.len() } else { 1 });
    let mut rows = String::new();
    for (name, width, share, ..) in pairs {
        let Some(mut trace) = simulator::load(name, *width) else {
            return cluster::skipped("hit ratios of servers", &format!("{name} is not beside the checkout"));
        };
        if !whole {
            trace.truncate(size("HYPERCACHE_TEST_REQUESTS", 8_000) as usize);
        }
        for (policy, nodes) in [(Kind::S3Fifo, 1), (Kind::AllkeysLru, 1), (Kind::S3Fifo, 3), (Kind::AllkeysLru, 3)] {
            // A machine that is busy with other tests has elections of its own, and each is a leader that knows nothing.
            if nodes > 1 && !whole {
                continue;
            }
            let case = Case { name, trace: &trace, share: *share, policy, nodes };
            let (expected, served) = (case.expected(), case.served());
            let told = row(&case, expected, served);
            print!("{told}");
            rows += &told;
            assert!((served - expected).abs() <= TOLERANCE, "{told}");
        }
    }
    if whole {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/hit-ratio.md");
        std::fs::write(path, document(&rows)).expect("the checkout can be written to");
    }
}

fn row(case: &Case<'_>, expected: f64, served: f64) -> String {
    let Case { name, share, policy, nodes, trace } = case;
    let (share, policy, moved) = (share * 100.0, policy.name(), case.moves());
    let requests = trace.len();
    let off = served - expected;
    format!(
        "| {name}, {share} % | {requests} | {policy} | {nodes} | {moved} | {expected:.2} | {served:.2} | {off:+.2} |\n"
    )
}

fn document(rows: &str) -> String {
    let mut out = String::new();
    let _ = write!(
        out,
        "# Hit ratios of whole servers\n\n\
         Written by `scripts/hit-ratio`; do not edit. What it does is told in `tests/hit_ratio_server.rs`.\n\n\
         Public request traces through servers of one group: a GET, and a SET where it missed. Sizes are shares of the \
         distinct keys;\n`maxmemory` is what so many keys count for. *Policy* is what the same policy code hits over a \
         plain map, told of the same changes\nof leader; *server* may differ from it by {TOLERANCE} point. A new leader \
         knows nothing of what was read before. What the policies hit beside\nreference simulators is printed by \
         `examples/hit_ratio.rs`.\n\n\
         | trace, size | requests | policy | nodes | leader moved | policy % | server % | difference |\n\
         | --- | --: | --- | --: | --: | --: | --: | --: |\n{rows}"
    );
    out
}
