//! Writes from many connections while leaders are killed and restarted; then every acknowledged key is read back.
//!
//! How a write ended is one of three things, as in `docs/internals/guarantees.md`: acknowledged, refused (surely not
//! applied) or uncertain (a broken connection, no answer, `UNCERTAIN`). Only an acknowledged one may be missed. Keys are
//! unique, so a read that finds nothing has found a loss. A run in which no leader was killed has shown nothing and fails.
//!
//! Keys carry hash tags of a known set, so that a key's slot is known without computing it: the node is asked once.

use super::children::Children;
use super::client::{Client, Reply};
use super::{ASK_INTERVAL, Node, READY_LIMIT, ready};
use crate::config::Endpoint;
use crate::env::{self, Instant};
use anyhow::{Context, bail};
use futures_util::future::join_all;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Connections that write at the same time.
const CONNECTIONS: usize = 50;

/// Hash tags that keys are spread over: enough for every group to have some, few enough for each to be written to all
/// the time, or else waiting for a tag's turn would be taken for waiting for its leader.
const TAGS: usize = 64;

/// The most writes of one connection: bounds what has to be remembered.
const WRITES_MAX: u32 = 200_000;

/// After this a write without an answer is uncertain. Longer than the server's own deadline, 5 s.
const WRITE_LIMIT: Duration = Duration::from_secs(8);

/// Before the first kill and between one that was survived and the next.
const CALM: Duration = Duration::from_secs(2);

/// How long a killed node stays down.
const DOWN: Duration = Duration::from_millis(1500);

/// A cluster that takes no writes for this long after a kill has not survived it.
const RESUME_LIMIT: Duration = Duration::from_secs(30);

/// A connection that fails waits this long before the next node.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);

/// Keys read back at once on a connection.
const READ_BATCH: usize = 256;

/// How long reading back may take for one batch, retries included.
const READ_LIMIT: Duration = Duration::from_secs(30);

/// One write, by what its key is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Write {
    connection: u16,
    tag: u16,
    sequence: u32,
}

/// What a run has remembered.
#[derive(Default)]
struct Record {
    acknowledged: Vec<Write>,
    uncertain: Vec<Write>,
    /// By the error's code.
    refused: BTreeMap<String, u64>,
    kills: Vec<Kill>,
}

/// A leader's end, and how long its groups took no writes.
struct Kill {
    node: String,
    at: Instant,
    /// Tags of the slots it led which have not taken a write since.
    waiting: BTreeSet<u16>,
    /// To the first, and to the last of them.
    first: Option<Duration>,
    last: Option<Duration>,
}

impl Record {
    /// A write was acknowledged now that was sent at `sent`. Only what was sent after a kill shows that it was survived.
    fn acknowledge(&mut self, write: Write, sent: Instant) {
        self.acknowledged.push(write);
        let Some(kill) = self.kills.last_mut() else { return };
        if sent >= kill.at && kill.waiting.remove(&write.tag) {
            let after = kill.at.elapsed();
            kill.first.get_or_insert(after);
            kill.last = Some(after);
        }
    }
}

/// A run's surroundings.
struct Run<'a> {
    nodes: &'a [Node],
    proxies: Vec<Endpoint>,
    /// Sets this run's keys apart from those of an earlier one.
    name: String,
    /// Each tag's slot.
    slots: Vec<u16>,
    record: RefCell<Record>,
    over: Cell<bool>,
}

/// Kills leaders for `time`, then reads back. An error if anything was lost or nothing was shown.
pub async fn run(nodes: &[Node], children: &mut Children<'_>, time: Duration) -> anyhow::Result<()> {
    let run = Run {
        nodes,
        proxies: nodes.iter().map(Node::proxy).collect::<anyhow::Result<_>>()?,
        name: format!("{:08x}", env::seed() as u32),
        slots: ask_slots(nodes).await?,
        record: RefCell::default(),
        over: Cell::new(false),
    };
    println!("chaos: {CONNECTIONS} connections write for {} s while leaders are killed\n", time.as_secs());
    let killing = async {
        let outcome = run.kill_leaders(children, env::now() + time).await;
        run.over.set(true);
        outcome
    };
    let (killed, _) = tokio::join!(killing, join_all((0..CONNECTIONS).map(|connection| run.write(connection as u16))));
    killed?;
    run.judge().await
}

/// Asks for each tag's slot.
async fn ask_slots(nodes: &[Node]) -> anyhow::Result<Vec<u16>> {
    let face = nodes.first().context("a cluster has a node")?.cluster()?;
    let mut client = Client::connect(&face).await?;
    let questions: Vec<Vec<String>> =
        (0..TAGS).map(|tag| vec!["CLUSTER".to_owned(), "KEYSLOT".to_owned(), tag_of(tag as u16)]).collect();
    let slot = |reply: &Reply| reply.int().and_then(|slot| u16::try_from(slot).ok());
    let replies = client.pipeline(&questions).await?;
    let slots: Option<Vec<u16>> = replies.iter().map(slot).collect();
    slots.with_context(|| format!("CLUSTER KEYSLOT on {face} did not answer with a slot"))
}

fn tag_of(tag: u16) -> String {
    format!("{{t{tag}}}")
}

impl Run<'_> {
    fn key(&self, write: Write) -> String {
        format!("chaos:{}:{}:{}:{}", self.name, tag_of(write.tag), write.connection, write.sequence)
    }

    /// One connection: writes one key after the other, through the next node when one fails.
    async fn write(&self, connection: u16) {
        let mut random = fastrand::Rng::with_seed(env::seed());
        let mut at = usize::from(connection) % self.proxies.len();
        let mut client = None;
        let mut sequence = 0;
        while !self.over.get() && sequence < WRITES_MAX {
            let Some(open) = &mut client else {
                match env::timeout(WRITE_LIMIT, Client::connect(&self.proxies[at])).await {
                    Ok(Ok(fresh)) => client = Some(fresh),
                    _ => {
                        at = (at + 1) % self.proxies.len();
                        env::sleep(RECONNECT_PAUSE).await;
                    }
                }
                continue;
            };
            let write = Write { connection, tag: random.u16(0..TAGS as u16), sequence };
            sequence += 1;
            let key = self.key(write);
            let sent = env::now();
            let reply = env::timeout(WRITE_LIMIT, open.call(&["SET", &key, &value_of(&key)])).await;
            if self.note(write, sent, reply.ok().and_then(Result::ok)) {
                client = None;
                at = (at + 1) % self.proxies.len();
            }
        }
    }

    /// Remembers how a write ended. True if the connection is of no more use.
    fn note(&self, write: Write, sent: Instant, reply: Option<Reply>) -> bool {
        let mut record = self.record.borrow_mut();
        match reply {
            Some(Reply::Status(text)) if text == "OK" => record.acknowledge(write, sent),
            Some(Reply::Error(text)) if !text.starts_with("UNCERTAIN") => {
                let code = text.split(' ').next().unwrap_or_default().to_owned();
                *record.refused.entry(code).or_default() += 1;
            }
            Some(Reply::Error(_)) => record.uncertain.push(write),
            // No answer, or one that makes no sense: the write may have happened.
            _ => {
                record.uncertain.push(write);
                return true;
            }
        }
        false
    }

    async fn kill_leaders(&self, children: &mut Children<'_>, end: Instant) -> anyhow::Result<()> {
        let mut random = fastrand::Rng::with_seed(env::seed());
        env::sleep(CALM).await;
        while env::now() < end {
            let leaders = self.leaders().await?;
            let choices: Vec<&usize> = leaders.keys().collect();
            let index = **random.choice(&choices).context("no group has a leader")?;
            let slots = &leaders[&index];
            let waiting = (0..TAGS as u16).filter(|tag| slots.contains(&self.slots[usize::from(*tag)])).collect();
            let node = self.nodes[index].name();
            children.kill(index).await?;
            let kill = Kill { node, at: env::now(), waiting, first: None, last: None };
            self.record.borrow_mut().kills.push(kill);
            env::sleep(DOWN).await;
            children.start(index)?;
            self.resumed().await?;
            self.tell_last_kill();
            ready(self.nodes, children, index, env::now() + READY_LIMIT).await?;
            env::sleep(CALM).await;
        }
        Ok(())
    }

    /// Waits until every slot of the killed leader has taken a write.
    async fn resumed(&self) -> anyhow::Result<()> {
        let deadline = env::now() + RESUME_LIMIT;
        loop {
            let waiting = self.record.borrow().kills.last().map_or(0, |kill| kill.waiting.len());
            if waiting == 0 {
                return Ok(());
            }
            if env::now() >= deadline {
                bail!("{waiting} of {TAGS} hash tags took no write for {} s after a kill", RESUME_LIMIT.as_secs());
            }
            env::sleep(ASK_INTERVAL).await;
        }
    }

    fn tell_last_kill(&self) {
        let record = self.record.borrow();
        if let Some(Kill { node, first: Some(first), last: Some(last), .. }) = record.kills.last() {
            println!(
                "  {node} killed: its groups took writes again after {} ms (the first after {} ms)",
                last.as_millis(),
                first.as_millis()
            );
        }
    }

    /// The slots that each node leads, by the node's place.
    async fn leaders(&self) -> anyhow::Result<BTreeMap<usize, BTreeSet<u16>>> {
        let deadline = env::now() + RESUME_LIMIT;
        loop {
            for node in self.nodes {
                let Ok(Ok(reply)) = env::timeout(WRITE_LIMIT, ask_cluster_slots(node)).await else { continue };
                let leaders = leaders_of(&reply, |port| {
                    self.nodes.iter().position(|node| node.cluster().is_ok_and(|at| at.port == port))
                });
                if leaders.values().any(|slots| self.slots.iter().any(|slot| slots.contains(slot))) {
                    return Ok(leaders);
                }
            }
            if env::now() >= deadline {
                bail!("CLUSTER SLOTS names no leader");
            }
            env::sleep(ASK_INTERVAL).await;
        }
    }

    /// Reads everything back and says what was found.
    async fn judge(self) -> anyhow::Result<()> {
        let record = self.record.take();
        println!("\nreading {} acknowledged keys back, linearizably", record.acknowledged.len());
        let began = env::now();
        let (lost, lost_keys) = self.read_all(&record.acknowledged).await?;
        let (absent, _) = self.read_all(&record.uncertain).await?;
        let refused: u64 = record.refused.values().sum();
        let codes: Vec<String> = record.refused.iter().map(|(code, count)| format!("{count} {code}")).collect();
        let reading = began.elapsed().as_secs_f64();
        println!("  acknowledged {:>9}   read back in {reading:.1} s", record.acknowledged.len());
        println!("  refused      {refused:>9}   {}", codes.join(", "));
        println!(
            "  uncertain    {:>9}   {} of them were applied",
            record.uncertain.len(),
            record.uncertain.len() - absent
        );
        println!("  lost         {lost:>9}");
        println!("  kills        {:>9}   {}", record.kills.len(), resumption(&record.kills));
        if lost > 0 {
            bail!("{lost} acknowledged writes are lost, such as {}", lost_keys.join(" "));
        }
        if record.kills.is_empty() || record.acknowledged.is_empty() {
            bail!("no leader was killed under load, so nothing was shown; give it more --seconds");
        }
        Ok(())
    }

    /// Reads writes back, spread over the nodes; how many are not there, and some of their keys.
    async fn read_all(&self, writes: &[Write]) -> anyhow::Result<(usize, Vec<String>)> {
        let readers = self.proxies.len();
        let batches: Vec<&[Write]> = writes.chunks(READ_BATCH).collect();
        let read = |reader: usize| {
            let mine: Vec<&[Write]> = batches.iter().skip(reader).step_by(readers).copied().collect();
            async move {
                let mut missing = Vec::new();
                for batch in mine {
                    missing.extend(self.read_batch(batch, reader).await?);
                }
                anyhow::Ok(missing)
            }
        };
        let mut missing = Vec::new();
        for found in join_all((0..readers).map(read)).await {
            missing.extend(found?);
        }
        let some = missing.iter().take(5).cloned().collect();
        Ok((missing.len(), some))
    }

    /// Reads one batch; again, through another node, until every key has an answer.
    async fn read_batch(&self, batch: &[Write], first: usize) -> anyhow::Result<Vec<String>> {
        let deadline = env::now() + READ_LIMIT;
        let mut keys: Vec<String> = batch.iter().map(|write| self.key(*write)).collect();
        let mut missing = Vec::new();
        let mut at = first;
        while !keys.is_empty() {
            let replies = env::timeout_at(deadline, read_keys(&self.proxies[at % self.proxies.len()], &keys)).await;
            let Ok(replies) = replies else {
                bail!("{} keys, such as {}, could not be read for {} s", keys.len(), keys[0], READ_LIMIT.as_secs());
            };
            match replies {
                Ok(replies) => keys = unanswered(keys, replies, &mut missing),
                Err(_) => env::sleep(RECONNECT_PAUSE).await,
            }
            at += 1;
        }
        Ok(missing)
    }
}

fn value_of(key: &str) -> String {
    format!("{key}:value")
}

/// Sorts out what was answered: the missing are noted, the refused returned.
fn unanswered(keys: Vec<String>, replies: Vec<Reply>, missing: &mut Vec<String>) -> Vec<String> {
    let mut again = Vec::new();
    for (key, reply) in keys.into_iter().zip(replies) {
        match reply {
            Reply::Bulk(Some(value)) if value == value_of(&key).as_bytes() => {}
            Reply::Error(_) => again.push(key),
            _ => missing.push(key),
        }
    }
    again
}

async fn read_keys(from: &Endpoint, keys: &[String]) -> anyhow::Result<Vec<Reply>> {
    let mut client = Client::connect(from).await?;
    // The folder's files may set another default level.
    let level = client.call(&["CLIENT", "CONSISTENCY", "linearizable"]).await?;
    if level != Reply::Status("OK".to_owned()) {
        bail!("CLIENT CONSISTENCY says {level:?}");
    }
    let gets: Vec<Vec<String>> = keys.iter().map(|key| vec!["GET".to_owned(), key.clone()]).collect();
    Ok(client.pipeline(&gets).await?)
}

async fn ask_cluster_slots(node: &Node) -> anyhow::Result<Reply> {
    let mut client = Client::connect(&node.cluster()?).await?;
    Ok(client.call(&["CLUSTER", "SLOTS"]).await?)
}

/// Takes `CLUSTER SLOTS` apart: `[from, to, [host, port, ...] of the leader, ...]` for each range.
fn leaders_of(reply: &Reply, place: impl Fn(u16) -> Option<usize>) -> BTreeMap<usize, BTreeSet<u16>> {
    let mut leaders: BTreeMap<usize, BTreeSet<u16>> = BTreeMap::new();
    for range in reply.items() {
        let number = |at: usize| range.items().get(at).and_then(Reply::int).and_then(|n| u16::try_from(n).ok());
        let port = range.items().get(2).and_then(|leader| leader.items().get(1)?.int());
        let index = port.and_then(|port| place(u16::try_from(port).ok()?));
        if let (Some(from), Some(to), Some(index)) = (number(0), number(1), index) {
            leaders.entry(index).or_default().extend(from..=to);
        }
    }
    leaders
}

/// Median and maximum of the times until all of a killed leader's groups took writes again.
fn resumption(kills: &[Kill]) -> String {
    let mut times: Vec<u128> = kills.iter().filter_map(|kill| Some(kill.last?.as_millis())).collect();
    times.sort_unstable();
    match (times.get(times.len() / 2), times.last()) {
        (Some(median), Some(max)) => format!("writes again after {median} ms (median), {max} ms (max)"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(tag: u16, sequence: u32) -> Write {
        Write { connection: 0, tag, sequence }
    }

    fn kill(waiting: &[u16]) -> Kill {
        let waiting = waiting.iter().copied().collect();
        Kill { node: "node-1".to_owned(), at: env::now(), waiting, first: None, last: None }
    }

    #[test]
    fn only_what_was_sent_after_a_kill_shows_that_it_was_survived() {
        let mut record = Record::default();
        let before = env::now();
        record.kills.push(kill(&[1, 2]));
        record.acknowledge(write(1, 0), before);
        assert_eq!(record.kills[0].waiting.len(), 2);
        let after = record.kills[0].at;
        record.acknowledge(write(1, 1), after);
        record.acknowledge(write(3, 2), after);
        assert_eq!((record.kills[0].waiting.len(), record.kills[0].first), (1, record.kills[0].last));
        record.acknowledge(write(2, 3), after);
        assert!(record.kills[0].waiting.is_empty() && record.kills[0].last >= record.kills[0].first);
        assert_eq!(record.acknowledged.len(), 4);
    }

    #[test]
    fn a_missing_key_is_lost_and_a_refused_read_is_asked_again() {
        let keys = ["a", "b", "c", "d"].map(str::to_owned).to_vec();
        let replies = vec![
            Reply::Bulk(Some(b"a:value".to_vec())),
            Reply::Bulk(None),
            Reply::Error("CLUSTERDOWN".to_owned()),
            Reply::Bulk(Some(b"other".to_vec())),
        ];
        let mut missing = Vec::new();
        assert_eq!(unanswered(keys, replies, &mut missing), ["c"]);
        assert_eq!(missing, ["b", "d"]);
    }

    #[test]
    fn the_leaders_slots_are_taken_from_cluster_slots() {
        let node = |port: i64| Reply::Array(vec![Reply::Bulk(Some(b"127.0.0.1".to_vec())), Reply::Int(port)]);
        let range = |from, to, port| Reply::Array(vec![Reply::Int(from), Reply::Int(to), node(port), node(1)]);
        let reply = Reply::Array(vec![range(0, 2, 6479), range(3, 3, 6480), range(5, 5, 6479), range(6, 6, 9)]);
        let leaders = leaders_of(&reply, |port| port.checked_sub(6479).map(usize::from));
        assert_eq!(leaders[&0].iter().copied().collect::<Vec<_>>(), [0, 1, 2, 5]);
        assert_eq!(leaders[&1].len(), 1);
        assert_eq!(leaders_of(&Reply::Error("ERR".to_owned()), |_| Some(0)), BTreeMap::new());
    }

    #[test]
    fn times_are_summed_up() {
        let mut kills = vec![kill(&[]), kill(&[]), kill(&[])];
        for (kill, ms) in kills.iter_mut().zip([900, 100, 1200]) {
            kill.last = Some(Duration::from_millis(ms));
        }
        assert_eq!(resumption(&kills), "writes again after 900 ms (median), 1200 ms (max)");
        assert_eq!(resumption(&[]), "");
    }
}
