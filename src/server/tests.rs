//! Sessions over real loopback sockets against the real groups of one node (`testing`).
//!
//! Nothing here may depend on how long something takes: writes are held at the proposer, leave to read is withheld, time
//! passes and leaders move by the hooks of `Group`, and what happened is seen in replies and counters.

use super::{Server, Settings, Start, Totals, start, testing};
use crate::cluster::Cluster;
use crate::commands::session::Face;
use crate::env;
use crate::raft::Group;
use crate::resp::{Limits, Reply, ReplyDecoder};
use crate::types::{GroupId, Level, NodeId, Slot};
use bytes::{Bytes, BytesMut};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::watch;

mod acl;
mod blocking;
mod cores;
mod encodings;
mod events;
mod failover;
mod groups;
mod handover;
mod memory;
mod monitor;
mod pause;
mod pubsub;
mod recovery;
mod script_messages;
mod scripts;
mod seeds;
mod tracking;
mod transactions;

/// Nothing on loopback takes this long; reached only when a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

struct Rig {
    cluster: Arc<Cluster>,
    server: Server,
    stop: watch::Sender<bool>,
}

async fn rig_on(cluster: Arc<Cluster>, change: impl FnOnce(&mut Settings)) -> Rig {
    let any = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    let mut settings = Settings { proxy: any, cluster: any, ..Settings::default() };
    change(&mut settings);
    let (stop, stopped) = watch::channel(false);
    let workers = vec![Handle::current()];
    let server = start(Start { cluster: cluster.clone(), settings, workers, stop: stopped }).await.expect("free ports");
    Rig { cluster, server, stop }
}

async fn rig_with(groups: u32, change: impl FnOnce(&mut Settings)) -> Rig {
    rig_on(testing::one_node_with(groups).await, change).await
}

async fn rig(groups: u32) -> Rig {
    rig_with(groups, |_| {}).await
}

/// Node 1 of a cluster of three, leading all groups.
async fn rig_of_three(groups: u32) -> Rig {
    rig_on(testing::one_of_three_with(groups).await, |_| {}).await
}

impl Rig {
    async fn client(&self, face: Face) -> Client {
        let addr = self.server.addr(face).expect("both faces listen");
        Client::new(TcpStream::connect(addr).await.expect("the face accepts"))
    }

    async fn proxy(&self) -> Client {
        self.client(Face::Proxy).await
    }

    fn group(&self, id: u32) -> Arc<Group> {
        self.cluster.host().group(GroupId(id)).expect("the rig made it")
    }

    /// A key of a group.
    fn key_in(&self, id: u32) -> String {
        let table = self.cluster.table();
        let at = |key: &String| table.group_of(crate::slot::slot_of(key.as_bytes()));
        (0..).map(|n| format!("key:{n}")).find(|key| at(key) == GroupId(id)).expect("every group has keys")
    }

    fn totals(&self) -> Totals {
        self.server.shared().totals()
    }
}

struct Client {
    stream: TcpStream,
    input: BytesMut,
    decoder: ReplyDecoder,
}

impl Client {
    fn new(stream: TcpStream) -> Client {
        Client { stream, input: BytesMut::new(), decoder: ReplyDecoder::new(Limits::default()) }
    }

    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.expect("the server takes bytes");
    }

    /// Sends commands, one a line, words between spaces, in one packet.
    async fn pipeline(&mut self, lines: &str) {
        let mut out = Vec::new();
        for line in lines.lines().map(str::trim).filter(|l| !l.is_empty()) {
            let words: Vec<&str> = line.split(' ').collect();
            out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
            words.iter().for_each(|w| out.extend_from_slice(format!("${}\r\n{w}\r\n", w.len()).as_bytes()));
        }
        self.send(out).await;
    }

    /// The next bytes as they are sent.
    async fn raw(&mut self, len: usize) -> String {
        while self.input.len() < len {
            let read = env::timeout(PATIENCE, self.stream.read_buf(&mut self.input)).await.expect("a reply in time");
            assert!(read.is_ok_and(|read| read > 0), "the server has closed");
        }
        String::from_utf8_lossy(&self.input.split_to(len)).into_owned()
    }

    /// The next reply; None once the server has closed.
    async fn next(&mut self) -> Option<Reply> {
        loop {
            if let Some(reply) = self.decoder.decode(&mut self.input).expect("the server speaks RESP") {
                return Some(reply);
            }
            let read = env::timeout(PATIENCE, self.stream.read_buf(&mut self.input)).await.expect("a reply in time");
            if read.ok()? == 0 {
                return None;
            }
        }
    }

    /// The next reply as redis-cli would print it on one line.
    async fn read(&mut self) -> String {
        self.next().await.map_or("(closed)".to_owned(), |r| show(&r))
    }

    async fn ask(&mut self, line: &str) -> String {
        self.pipeline(line).await;
        self.read().await
    }

    /// The same as a line of text, in which quotes hold words together.
    async fn ask_inline(&mut self, line: &str) -> String {
        self.send(&format!("{line}\r\n")).await;
        self.read().await
    }

    /// Sends a pipeline and reads as many replies as it has lines.
    async fn ask_all(&mut self, lines: &str) -> Vec<String> {
        self.pipeline(lines).await;
        let mut replies = Vec::new();
        for _ in lines.lines().filter(|l| !l.trim().is_empty()) {
            replies.push(self.read().await);
        }
        replies
    }

    /// A page of SCAN, of about ten keys: where it goes on, and the keys.
    async fn scan(&mut self, cursor: &str) -> (String, Vec<String>) {
        self.pipeline(&format!("SCAN {cursor} COUNT 10")).await;
        let Some(Reply::Array(page)) = self.next().await else { panic!("a page") };
        let [Reply::Bulk(next), Reply::Array(keys)] = page.as_slice() else { panic!("{page:?}") };
        (String::from_utf8(next.to_vec()).unwrap(), keys.iter().map(show).collect())
    }
}

fn show(reply: &Reply) -> String {
    let text = |b: &Bytes| String::from_utf8_lossy(b).into_owned();
    let list = |items: &[Reply]| format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(" "));
    match reply {
        Reply::Status(t) | Reply::Bulk(t) => text(t),
        Reply::Error(t) => format!("-{}", text(t)),
        Reply::Int(n) => n.to_string(),
        Reply::Nil | Reply::NilArray => "nil".to_owned(),
        Reply::Array(items) | Reply::Set(items) | Reply::Push(items) | Reply::Several(items) => list(items),
        Reply::Map(pairs) | Reply::PairMap(pairs) | Reply::Pairs(pairs) => {
            let pairs = pairs.iter().map(|(k, v)| format!("{}={}", show(k), show(v)));
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(" "))
        }
        Reply::Verbatim { text: t, .. } => text(t),
        other => format!("{other:?}"),
    }
}

// --- order ------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn replies_come_in_the_order_of_requests_whatever_groups_they_are_in() {
    let rig = rig(3).await;
    let mut c = rig.proxy().await;
    let mut lines = String::new();
    let mut expected = Vec::new();
    for n in 0..50 {
        lines += &format!("SET k{n} v{n}\nGET k{n}\nECHO {n}\nNOSUCH\nAPPEND k{n} x\n");
        expected.extend(["OK".to_owned(), format!("v{n}"), n.to_string()]);
        expected.push("-ERR unknown command 'NOSUCH', with args beginning with: ".to_owned());
        expected.push((format!("v{n}").len() + 1).to_string());
    }
    assert_eq!(c.ask_all(&lines).await, expected);
}

#[tokio::test]
async fn writes_of_one_pipeline_to_one_group_are_one_proposal_in_order() {
    let rig = rig(1).await;
    let mut c = rig.proxy().await;
    let replies = c.ask_all("SET n 1\nINCR n\nINCR n\nAPPEND n x\nINCR n").await;
    assert_eq!(replies, ["OK", "2", "3", "2", "-ERR value is not an integer or out of range"]);
    assert_eq!(rig.group(1).proposals(), [5]);
}

#[tokio::test]
async fn a_read_waits_for_the_connections_earlier_write_to_its_group() {
    let rig = rig(2).await;
    let (a, b) = (rig.key_in(1), rig.key_in(2));
    rig.group(1).hold_writes(true);
    let mut c = rig.proxy().await;
    c.pipeline(&format!("GET {a}\nSET {a} new\nGET {a}\nSET {a} newer\nGET {a}\nGET {b}")).await;
    // The first read is answered although the write behind it cannot be.
    assert_eq!(c.read().await, "nil");
    // Another connection is not held up, and sees that nothing is written yet.
    assert_eq!(rig.proxy().await.ask(&format!("GET {a}")).await, "nil");
    rig.group(1).hold_writes(false);
    assert_eq!([c.read().await, c.read().await], ["OK", "new"]);
    assert_eq!([c.read().await, c.read().await, c.read().await], ["OK", "newer", "nil"]);
    assert_eq!(rig.group(1).proposals(), [1, 1], "the second write waited for the read before it");
}

#[tokio::test]
async fn a_read_that_comes_while_a_write_is_under_way_waits_for_it() {
    let rig = rig(1).await;
    rig.group(1).hold_writes(true);
    let (mut c, mut other) = (rig.proxy().await, rig.proxy().await);
    c.pipeline("SET a new").await;
    while rig.group(1).proposals().is_empty() {
        other.ask("PING").await;
    }
    c.pipeline("GET a").await;
    while !other.ask("CLIENT LIST").await.contains("cmd=get ") {}
    rig.group(1).hold_writes(false);
    assert_eq!([c.read().await, c.read().await], ["OK", "new"]);
}

#[tokio::test]
async fn what_waited_past_its_deadline_is_refused_and_never_proposed() {
    let rig = rig(1).await;
    rig.group(1).hold_writes(true);
    let (mut c, mut other) = (rig.proxy().await, rig.proxy().await);
    c.pipeline("SET a 1").await;
    while rig.group(1).proposals().is_empty() {
        other.ask("PING").await;
    }
    // The write under way has time; those behind it do not.
    assert_eq!(other.ask("CONFIG SET request-timeout-ms 20").await, "OK");
    c.pipeline("SET a 2\nGET a").await;
    while !other.ask("CLIENT LIST").await.contains("cmd=get ") {}
    let late = env::now() + Duration::from_millis(20);
    while env::now() < late {
        other.ask("PING").await;
    }
    rig.group(1).hold_writes(false);
    let [first, second, third] = [c.read().await, c.read().await, c.read().await];
    assert_eq!(first, "OK");
    assert!(second.starts_with("-TRYAGAIN") && third.starts_with("-TRYAGAIN"), "{second} {third}");
    assert_eq!(rig.group(1).proposals(), [1]);
    assert_eq!(other.ask("GET a").await, "1");
}

#[tokio::test]
async fn a_group_that_stands_still_does_not_hold_up_writes_to_another() {
    let rig = rig(2).await;
    let (a, b) = (rig.key_in(1), rig.key_in(2));
    rig.group(1).hold_writes(true);
    let mut c = rig.proxy().await;
    c.pipeline(&format!("SET {a} 1\nSET {b} 2")).await;
    let mut other = rig.proxy().await;
    while other.ask(&format!("GET {b}")).await != "2" {}
    rig.group(1).hold_writes(false);
    assert_eq!([c.read().await, c.read().await], ["OK", "OK"]);
}

#[tokio::test]
async fn reads_of_one_pipeline_share_one_barrier() {
    let rig = rig(1).await;
    rig.group(1).withhold_leave();
    let mut c = rig.proxy().await;
    assert_eq!(c.ask_all("GET a\nGET b\nGET c\nTTL a\nSTRLEN b").await, ["nil", "nil", "nil", "-2", "0"]);
    assert_eq!(rig.group(1).barriers(), 1);
    // Those that come later need their own.
    c.ask("GET a").await;
    assert_eq!(rig.group(1).barriers(), 2);
}

#[tokio::test]
async fn leave_to_read_from_before_a_write_is_not_used_after_it() {
    let rig = rig(1).await;
    rig.group(1).withhold_leave();
    let mut c = rig.proxy().await;
    assert_eq!(c.ask_all("GET a\nSET a 1\nGET a").await, ["nil", "OK", "1"]);
    assert_eq!(rig.group(1).barriers(), 2);
}

#[tokio::test]
async fn a_key_the_leader_calls_dead_is_answered_after_a_tick() {
    let rig = rig(1).await;
    let mut c = rig.proxy().await;
    assert_eq!(c.ask("SET a 1 PX 100000").await, "OK");
    let entries = rig.group(1).status().proposed_entries;
    rig.group(1).pass_time(Duration::from_secs(150));
    assert_eq!(c.ask_all("GET a\nGET a\nEXISTS a").await, ["nil", "nil", "0"]);
    assert_eq!(rig.group(1).status().proposed_entries - entries, 1, "one tick serves them all");
}

#[tokio::test]
async fn a_refused_group_says_not_applied_and_the_connection_goes_on() {
    let rig = rig(2).await;
    let (a, b) = (rig.key_in(1), rig.key_in(2));
    rig.group(1).withhold_leave();
    rig.group(1).stop().await;
    let mut c = rig.proxy().await;
    let replies = c.ask_all(&format!("SET {a} 1\nGET {a}\nSET {b} 1\nDEL {a} {b}\nGET {b}")).await;
    assert!(replies[0].starts_with("-CLUSTERDOWN"), "{replies:?}");
    assert!(replies[1].starts_with("-CLUSTERDOWN"), "{replies:?}");
    assert_eq!(replies[2], "OK");
    assert!(replies[3].starts_with("-UNCERTAIN the command was applied to some of its keys only"), "{replies:?}");
    assert_eq!(replies[4], "nil");
}

// --- commands over several groups -------------------------------------------------------------------------------

#[tokio::test]
async fn split_commands_are_merged_in_the_order_of_their_keys() {
    let rig = rig(3).await;
    let mut c = rig.proxy().await;
    let keys: Vec<String> = (0..20).map(|n| format!("k{n}")).collect();
    for k in &keys {
        assert_eq!(c.ask(&format!("SET {k} v{k}")).await, "OK");
    }
    let all = keys.join(" ");
    let values: Vec<String> = keys.iter().map(|k| format!("v{k}")).collect();
    assert_eq!(c.ask(&format!("MGET {all} none {}", keys[3])).await, format!("[{} nil vk3]", values.join(" ")));
    assert_eq!(c.ask(&format!("EXISTS {all} {}", keys[0])).await, "21");
    assert_eq!(c.ask("DBSIZE").await, "20");
    assert_eq!(c.ask(&format!("TOUCH {all}")).await, "20");
    assert_eq!(c.ask(&format!("UNLINK {} {}", keys[0], keys[1])).await, "2");
    assert_eq!(c.ask(&format!("DEL {all}")).await, "18");
    assert_eq!(c.ask("RANDOMKEY").await, "nil");
}

#[tokio::test]
async fn keys_scan_and_flush_reach_every_group() {
    let rig = rig(3).await;
    let mut c = rig.proxy().await;
    assert_eq!(c.ask("SCAN 0").await, "[0 []]");
    let sets: String = (0..100).map(|n| format!("SET k{n} v\n")).collect();
    c.ask_all(&sets).await;
    let Some(Reply::Array(keys)) = ({
        c.pipeline("KEYS *").await;
        c.next().await
    }) else {
        panic!("an array")
    };
    assert_eq!(keys.len(), 100);
    let (mut cursor, mut seen, mut calls) = ("0".to_owned(), std::collections::BTreeSet::new(), 0);
    loop {
        let (next, keys) = c.scan(&cursor).await;
        cursor = next;
        seen.extend(keys);
        calls += 1;
        if cursor == "0" {
            break;
        }
    }
    assert_eq!(seen.len(), 100);
    assert!((3..40).contains(&calls), "{calls}");
    assert!(c.ask("RANDOMKEY").await.starts_with('k'));
    assert_eq!(c.ask("FLUSHALL").await, "OK");
    assert_eq!(c.ask("DBSIZE").await, "0");
    assert_eq!(c.ask("SCAN 99999999999999999999").await, "-ERR invalid cursor");
}

#[tokio::test]
async fn multi_key_writes_need_one_slot_unless_everything_is_one_group() {
    let several = rig(3).await;
    let mut c = several.proxy().await;
    let crossed = "-CROSSSLOT Keys in request don't hash to the same slot";
    assert_eq!(c.ask("MSET a 1 b 2").await, crossed);
    assert_eq!(c.ask("RENAME a b").await, crossed);
    assert_eq!(c.ask("MSET {t}a 1 {t}b 2").await, "OK");
    let one = rig(1).await;
    assert_eq!(one.proxy().await.ask("MSET a 1 b 2").await, "OK");
    assert_eq!(one.client(Face::Cluster).await.ask("MSET a 1 b 2").await, crossed);
    assert_eq!(one.client(Face::Cluster).await.ask("MGET a b").await, crossed);
}

// --- the cluster face -------------------------------------------------------------------------------------------

#[tokio::test]
async fn the_cluster_face_names_the_leader_and_the_proxy_face_never_does() {
    let rig = rig_of_three(2).await;
    let key = rig.key_in(2);
    let slot = crate::slot::slot_of(key.as_bytes()).0;
    rig.group(2).show_leader(NodeId(2));
    let mut c = rig.client(Face::Cluster).await;
    let moved = format!("-MOVED {slot} 127.0.0.1:6480");
    assert_eq!(c.ask(&format!("GET {key}")).await, moved);
    assert_eq!(c.ask(&format!("SET {key} 1")).await, moved);
    assert_eq!(c.ask(&format!("GET {}", rig.key_in(1))).await, "nil");
    assert_eq!(rig.proxy().await.ask(&format!("SET {key} 1")).await, "OK");
    assert_eq!(rig.totals().moved, 2);
}

#[tokio::test]
async fn readonly_connections_and_weak_levels_are_served_by_followers() {
    let rig = rig_of_three(2).await;
    let key = rig.key_in(2);
    rig.proxy().await.ask(&format!("SET {key} 1")).await;
    rig.group(2).show_leader(NodeId(2));
    let mut c = rig.client(Face::Cluster).await;
    assert_eq!(c.ask("READONLY").await, "OK");
    assert_eq!(c.ask(&format!("GET {key}")).await, "1");
    assert!(c.ask(&format!("SET {key} 2")).await.starts_with("-MOVED"));
    assert_eq!(c.ask("READWRITE").await, "OK");
    assert!(c.ask(&format!("GET {key}")).await.starts_with("-MOVED"));
    assert_eq!(c.ask(&format!("HC.READ bounded 100 GET {key}")).await, "1");
    assert_eq!(c.ask(&format!("HC.READ bounded:100 GET {key}")).await, "1");
    assert_eq!(c.ask("CLIENT CONSISTENCY eventual").await, "OK");
    assert_eq!(c.ask(&format!("GET {key}")).await, "1");
    assert!(c.ask(&format!("HC.READ lease GET {key}")).await.starts_with("-MOVED"));
    let reads = rig.totals().reads;
    assert_eq!((reads[3], reads[2]), ([0, 2], [0, 2]), "eventual and bounded, as leader and as follower");
}

#[tokio::test]
async fn commands_about_all_keys_mean_the_groups_led_here_on_the_cluster_face() {
    let rig = rig(2).await;
    let mut p = rig.proxy().await;
    p.ask_all(&format!("SET {} 1\nSET {} 1", rig.key_in(1), rig.key_in(2))).await;
    rig.group(2).show_leader(NodeId(2));
    let mut c = rig.client(Face::Cluster).await;
    assert_eq!(c.ask("DBSIZE").await, "1");
    assert_eq!(c.ask("KEYS *").await, format!("[{}]", rig.key_in(1)));
    assert_eq!(p.ask("DBSIZE").await, "2");
    rig.group(1).show_leader(NodeId(2));
    assert_eq!([c.ask("DBSIZE").await, c.ask("SCAN 0").await], ["0", "[0 []]"]);
}

#[tokio::test]
async fn cluster_replies_show_slots_nodes_and_shards_only_on_the_cluster_face() {
    let rig = rig_of_three(1).await;
    let mut p = rig.proxy().await;
    assert_eq!(p.ask("CLUSTER SLOTS").await, "-ERR This instance has cluster support disabled");
    assert_eq!(p.ask("CLUSTER KEYSLOT foo").await, "12182");
    let mut c = rig.client(Face::Cluster).await;
    let id = c.ask("CLUSTER MYID").await;
    assert_eq!(id.len(), 40);
    let slots = c.ask("CLUSTER SLOTS").await;
    assert!(slots.starts_with(&format!("[[0 16383 [127.0.0.1 6479 {id} []] [127.0.0.1 6480 ")), "{slots}");
    let nodes = c.ask("CLUSTER NODES").await;
    let line = format!("{id} 127.0.0.1:6479@7000,node-1 myself,master - 0 0 1 connected 0-16383");
    assert!(nodes.contains(&line), "{nodes}");
    assert_eq!(nodes.matches(&format!("slave {id}")).count(), 2, "{nodes}");
    let info = c.ask("CLUSTER INFO").await;
    assert!(info.contains("cluster_state:ok\r\ncluster_slots_assigned:16384\r\n"), "{info}");
    let shards = c.ask("CLUSTER SHARDS").await;
    assert!(shards.starts_with("[[slots [0 16383] nodes [[id "), "{shards}");
    assert!(c.ask("CLUSTER MEET 1.2.3.4 5").await.contains("use hypercachectl node add"));
    assert!(c.ask("REPLICAOF a 1").await.contains("hypercachectl"));
    for refused in ["CLUSTER SETSLOT 1 MIGRATING x", "CLUSTER ADDSLOTS 1", "MIGRATE h 1 k 0 1"] {
        assert!(c.ask(refused).await.contains("hypercachectl slots move"), "{refused}");
    }
    c.ask("SET foo 1").await;
    assert_eq!(c.ask("CLUSTER COUNTKEYSINSLOT 12182").await, "1");
    assert_eq!(c.ask("CLUSTER GETKEYSINSLOT 12182 10").await, "[foo]");
}

// --- the protocol -----------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_protocol_error_closes_that_connection_alone_and_after_earlier_replies() {
    let rig = rig(1).await;
    let mut other = rig.proxy().await;
    assert_eq!(other.ask("PING").await, "PONG");
    for (bad, text) in [
        ("*1\r\n$-5\r\n", "invalid bulk length"),
        ("*99999999\r\n", "invalid multibulk length"),
        ("*1\r\n$999999999999\r\n", "invalid bulk length"),
        ("*1\r\n+GET\r\n", "expected '$', got '+'"),
        ("SET a \"b\r\n", "unbalanced quotes in request"),
    ] {
        let mut c = rig.proxy().await;
        c.send(format!("SET a 1\r\nGET a\r\n{bad}PING\r\n{}", "x".repeat(100_000))).await;
        assert_eq!([c.read().await, c.read().await], ["OK", "1"]);
        assert_eq!(c.read().await, format!("-ERR Protocol error: {text}"));
        assert_eq!(c.read().await, "(closed)");
    }
    assert_eq!(other.ask("PING").await, "PONG");
}

#[tokio::test]
async fn a_command_may_come_one_byte_at_a_time() {
    let rig = rig(1).await;
    let mut c = rig.proxy().await;
    for byte in b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nvalue\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n" {
        c.send([*byte]).await;
    }
    assert_eq!([c.read().await, c.read().await], ["OK", "value"]);
}

#[tokio::test]
async fn half_a_frame_and_silence_hold_up_nobody() {
    let rig = rig(1).await;
    let mut half = rig.proxy().await;
    half.send("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000000\r\nabc").await;
    let mut other = rig.proxy().await;
    assert_eq!(other.ask_all("PING\nGET k").await, ["PONG", "nil"]);
    drop(half);
    assert_eq!(other.ask("PING").await, "PONG");
}

#[tokio::test]
async fn inline_commands_are_understood_between_others() {
    let rig = rig(1).await;
    let mut c = rig.proxy().await;
    c.send("SET k \"a b\"\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n\r\nPING\nget k\r\n").await;
    assert_eq!([c.read().await, c.read().await, c.read().await, c.read().await], ["OK", "a b", "PONG", "a b"]);
}

#[tokio::test]
async fn hello_changes_the_protocol_of_later_replies_only() {
    let rig = rig(1).await;
    rig.group(1).withhold_leave();
    let mut c = rig.proxy().await;
    c.pipeline("GET none\nHELLO 3\nGET none\nCONFIG GET port\nHELLO 2\nGET none\nQUIT").await;
    let mut raw = Vec::new();
    env::timeout(PATIENCE, c.stream.read_to_end(&mut raw)).await.expect("in time").expect("closed after QUIT");
    let raw = String::from_utf8(raw).unwrap();
    assert!(raw.starts_with("$-1\r\n%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n"), "{raw}");
    assert!(raw.contains("$5\r\nproto\r\n:3\r\n"), "{raw}");
    assert!(raw.contains("*0\r\n_\r\n%1\r\n$4\r\nport\r\n"), "{raw}");
    assert!(raw.ends_with("*0\r\n$-1\r\n+OK\r\n"), "{raw}");
}

#[tokio::test]
async fn hello_refuses_what_it_does_not_speak() {
    let rig = rig(1).await;
    let mut c = rig.proxy().await;
    assert_eq!(c.ask("HELLO 4").await, "-NOPROTO unsupported protocol version");
    assert_eq!(c.ask("HELLO x").await, "-ERR Protocol version is not an integer or out of range");
    assert_eq!(c.ask("HELLO 3 SETNAM x").await, "-ERR Syntax error in HELLO option 'SETNAM'");
    assert!(c.ask("HELLO 3 SETNAME me").await.contains("proto=3"));
    assert_eq!(c.ask("CLIENT GETNAME").await, "me");
    assert_eq!(c.ask("RESET").await, "RESET");
    assert_eq!(c.ask("CLIENT GETNAME").await, "nil");
}

#[tokio::test]
async fn client_reply_off_and_skip_mute_exactly_what_they_say() {
    let rig = rig(1).await;
    let mut c = rig.proxy().await;
    c.pipeline("ECHO 1\nCLIENT REPLY SKIP\nSET a 1\nECHO 2\nCLIENT REPLY OFF\nSET a 2\nNOSUCH\nECHO 3").await;
    c.pipeline("CLIENT REPLY ON\nGET a\nCLIENT REPLY SKIP\nCLIENT REPLY ON\nECHO 4").await;
    let replies = [c.read().await, c.read().await, c.read().await, c.read().await, c.read().await, c.read().await];
    assert_eq!(replies, ["1", "2", "OK", "2", "OK", "4"]);
}

#[tokio::test]
async fn quit_answers_what_came_before_and_ignores_what_comes_after() {
    let rig = rig(1).await;
    let mut c = rig.proxy().await;
    c.pipeline("SET a 1\nQUIT\nSET a 2").await;
    assert_eq!([c.read().await, c.read().await, c.read().await], ["OK", "OK", "(closed)"]);
    assert_eq!(rig.proxy().await.ask("GET a").await, "1");
}

#[tokio::test]
async fn a_client_that_stops_sending_still_gets_its_replies() {
    let rig = rig(1).await;
    let mut c = rig.proxy().await;
    c.pipeline("SET a 1\nGET a").await;
    c.stream.shutdown().await.unwrap();
    assert_eq!([c.read().await, c.read().await, c.read().await], ["OK", "1", "(closed)"]);
}

// --- bounds -----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_client_that_does_not_read_costs_a_bounded_buffer_and_loses_nothing() {
    const BOUND: usize = 64 << 10;
    const VALUE: usize = 30_000;
    let rig = rig_with(1, |s| s.output_max = BOUND).await;
    let mut c = rig.proxy().await;
    let value = "x".repeat(VALUE);
    assert_eq!(c.ask(&format!("SET k {value}")).await, "OK");
    let (mut reader, mut writer) = c.stream.into_split();
    let sender = tokio::spawn(async move {
        for _ in 0..1500 {
            writer.write_all(b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n").await.unwrap();
        }
        writer
    });
    let expected = 1500 * (VALUE + "$30000\r\n\r\n".len());
    let (mut got, mut buf) = (0, vec![0; 50_000]);
    while got < expected {
        got += env::timeout(PATIENCE, reader.read(&mut buf)).await.expect("in time").unwrap();
        let most = rig.server.shared().clients().rows().iter().map(|r| r.output_bytes).max().unwrap_or(0);
        assert!(most as usize <= BOUND + VALUE + 100, "{most}");
    }
    assert_eq!(got, expected);
    sender.await.unwrap();
}

/// One that encoded all it could in one turn had its node lose leaderships.
#[tokio::test]
async fn large_replies_are_made_a_piece_at_a_time_and_others_have_their_turns() {
    const VALUE: usize = 400_000;
    let rig = rig_with(1, |_| ()).await;
    let mut c = rig.proxy().await;
    assert_eq!(c.ask(&format!("SET k {}", "x".repeat(VALUE))).await, "OK");
    c.pipeline(&"GET k\n".repeat(100)).await;
    let (mut before, mut looks) = (0, 0);
    while before < 80 * VALUE {
        tokio::task::yield_now().await;
        let now = rig.server.shared().clients().rows().iter().map(|r| r.output_bytes as usize).max().unwrap_or(0);
        assert!(now <= before + 4 * VALUE, "{now} bytes after {before}");
        looks += usize::from(now != before);
        before = now;
    }
    assert!(looks > 20, "{looks}");
}

#[tokio::test]
async fn pipelines_longer_than_every_bound_are_answered_whole() {
    let rig = rig_with(2, |s| s.output_max = 2000).await;
    let mut c = rig.proxy().await;
    let lines: String = (0..6000).map(|n| format!("SET k{} {n}\nGET k{}\nMGET a b c\n", n % 7, n % 7)).collect();
    let (mut reader, mut writer) = {
        c.pipeline("PING").await;
        assert_eq!(c.read().await, "PONG");
        c.stream.into_split()
    };
    let sender = tokio::spawn(async move {
        for line in lines.lines() {
            writer.write_all(line.as_bytes()).await.unwrap();
            writer.write_all(b"\r\n").await.unwrap();
        }
        writer
    });
    let (mut input, mut decoder) = (BytesMut::new(), ReplyDecoder::new(Limits::default()));
    for n in 0..6000 {
        for expected in ["OK".to_owned(), n.to_string(), "[nil nil nil]".to_owned()] {
            let reply = loop {
                if let Some(reply) = decoder.decode(&mut input).unwrap() {
                    break reply;
                }
                assert_ne!(env::timeout(PATIENCE, reader.read_buf(&mut input)).await.expect("in time").unwrap(), 0);
            };
            assert_eq!(show(&reply), expected);
        }
    }
    sender.await.unwrap();
}

#[tokio::test]
async fn a_scan_in_front_of_large_replies_does_not_wait_behind_them() {
    let rig = rig_with(2, |s| s.output_max = 5000).await;
    // In the group that SCAN comes to last, so that its page ends the scan.
    let last = if rig.cluster.table().group_of(Slot(0)) == GroupId(1) { 2 } else { 1 };
    let (key, value) = (rig.key_in(last), "x".repeat(1000));
    let mut c = rig.proxy().await;
    c.ask(&format!("SET {key} {value}")).await;
    rig.group(1).withhold_leave();
    rig.group(2).withhold_leave();
    let replies = c.ask_all(&format!("SCAN 0\n{}", format!("GET {key}\n").repeat(50))).await;
    assert_eq!(replies[0], format!("[0 [{key}]]"));
    assert!(replies[1..].iter().all(|r| *r == value));
}

#[tokio::test]
async fn a_silent_connection_is_closed_after_the_idle_timeout() {
    let rig = rig_with(1, |s| s.idle_timeout = Duration::from_millis(30)).await;
    let mut c = rig.proxy().await;
    assert_eq!([c.ask("PING").await, c.read().await], ["PONG", "(closed)"]);
}

#[tokio::test]
async fn one_client_too_many_is_told_so() {
    let rig = rig_with(1, |s| s.max_clients = 1).await;
    let mut first = rig.proxy().await;
    assert_eq!(first.ask("PING").await, "PONG");
    assert_eq!(rig.proxy().await.read().await, "-ERR max number of clients reached");
    assert_eq!(first.ask("CONFIG SET maxclients 2").await, "OK");
    assert_eq!(rig.proxy().await.ask("PING").await, "PONG");
}

#[tokio::test]
async fn a_connection_that_goes_while_its_write_is_under_way_leaves_nothing_behind() {
    let rig = rig(1).await;
    rig.group(1).hold_writes(true);
    let mut c = rig.proxy().await;
    c.pipeline("SET a 1").await;
    let mut other = rig.proxy().await;
    while rig.group(1).proposals().is_empty() {
        other.ask("PING").await;
    }
    drop(c);
    rig.group(1).hold_writes(false);
    while other.ask("GET a").await != "1" {}
    assert!(other.ask("CLIENT LIST").await.lines().count() <= 2);
}

// --- sessions and the node --------------------------------------------------------------------------------------

#[tokio::test]
async fn nothing_but_a_greeting_is_answered_before_auth() {
    let rig = rig(1).await;
    assert_eq!(rig.proxy().await.ask("CONFIG SET requirepass secret").await, "OK");
    let mut c = rig.proxy().await;
    assert_eq!(c.ask("GET a").await, "-NOAUTH Authentication required.");
    assert!(c.ask("HELLO 3").await.starts_with("-NOAUTH HELLO must be called"));
    assert_eq!(c.ask("AUTH wrong").await, "-WRONGPASS invalid username-password pair or user is disabled.");
    assert_eq!(c.ask("AUTH nobody secret").await, "-WRONGPASS invalid username-password pair or user is disabled.");
    assert_eq!(c.ask("AUTH secret").await, "OK");
    assert_eq!(c.ask("GET a").await, "nil");
    assert_eq!(c.ask("RESET").await, "RESET");
    assert_eq!(c.ask("GET a").await, "-NOAUTH Authentication required.");
    assert!(c.ask("HELLO 3 AUTH default secret").await.contains("proto=3"));
    let open = rig_with(1, |_| {}).await;
    assert!(open.proxy().await.ask("AUTH x").await.starts_with("-ERR AUTH <password> called without any password"));
}

#[tokio::test]
async fn loading_and_full_memory_refuse_only_what_they_must() {
    let rig = rig(1).await;
    let mut c = rig.proxy().await;
    rig.server.set_memory_full(true);
    assert!(c.ask("SET a 1").await.starts_with("-OOM command not allowed"));
    assert_eq!(c.ask_all("GET a\nDEL a").await, ["nil", "0"]);
    rig.server.set_memory_full(false);
    rig.server.set_loading(true);
    assert!(c.ask("GET a").await.starts_with("-LOADING"));
    assert_eq!(c.ask("PING").await, "PONG");
}

#[tokio::test]
async fn levels_are_chosen_by_request_then_connection_then_configuration() {
    let rig = rig_with(1, |s| s.level = Level::Lease).await;
    let mut c = rig.proxy().await;
    assert_eq!(c.ask("CLIENT CONSISTENCY").await, "lease");
    c.ask("GET a").await;
    c.ask("CLIENT CONSISTENCY linearizable").await;
    c.ask("GET a").await;
    c.ask("HC.READ eventual GET a").await;
    let reads = rig.totals().reads;
    assert_eq!([reads[1], reads[0], reads[3]], [[1, 0], [1, 0], [1, 0]]);
    assert_eq!(c.ask("CLIENT CONSISTENCY default").await, "OK");
    assert_eq!(c.ask("CLIENT CONSISTENCY").await, "lease");
    assert_eq!(c.ask("CLIENT CONSISTENCY bounded 50").await, "OK");
    assert_eq!(c.ask("CLIENT CONSISTENCY").await, "bounded:50");
    assert!(c.ask("CLIENT CONSISTENCY strong").await.starts_with("-ERR level must be"));
    assert_eq!(c.ask("HC.READ lease SET a 1").await, "-ERR HC.READ takes a command that only reads keys");
    assert_eq!(c.ask("HC.READ lease HC.READ lease GET a").await, "-ERR HC.READ takes a command that only reads keys");
    assert!(c.ask("HC.READ lease").await.starts_with("-ERR wrong number of arguments for 'hc.read'"));
    assert!(c.ask("HC.READ bounded 5").await.starts_with("-ERR"));
}

#[tokio::test]
async fn info_has_what_clients_read() {
    let rig = rig_of_three(2).await;
    let mut c = rig.proxy().await;
    c.ask_all("SET a 1\nSET b 1 EX 100\nGET none\nNOSUCH").await;
    let info = c.ask("INFO").await;
    for line in [
        "redis_version:7.2.",
        "hypercache_version:",
        "redis_mode:standalone",
        "loading:0",
        "role:master",
        "connected_clients:1",
        "used_memory:",
        "maxmemory:0",
        "maxmemory_policy:noeviction",
        "cluster_enabled:0",
        "master_repl_offset:",
        "connected_slaves:2",
        "db0:keys=2,expires=1",
        "keyspace_misses:1",
        "errorstat_ERR:count=1",
        "reads_linearizable_leader:1",
    ] {
        assert!(info.contains(&format!("\r\n{line}")), "{line} is missing in\n{info}");
    }
    assert!(!info.contains("cmdstat_"));
    assert!(c.ask("INFO commandstats").await.contains("cmdstat_set:calls=2,"));
    let cluster = rig.client(Face::Cluster).await.ask("INFO server cluster").await;
    assert!(cluster.contains("redis_mode:cluster") && cluster.contains("cluster_enabled:1"));
    assert_eq!(c.ask("CONFIG RESETSTAT").await, "OK");
    assert!(!c.ask("INFO commandstats").await.contains("cmdstat_set"));
}

#[tokio::test]
async fn clients_are_listed_named_and_killed() {
    let rig = rig(1).await;
    let (mut a, mut b) = (rig.proxy().await, rig.proxy().await);
    assert_eq!(a.ask("CLIENT SETNAME a").await, "OK");
    assert_eq!(b.ask("CLIENT SETNAME b").await, "OK");
    assert_eq!(b.ask("CLIENT SETINFO LIB-NAME lib").await, "OK");
    assert_eq!(
        b.ask("CLIENT SETNAME a\tb").await,
        "-ERR Client names cannot contain spaces, newlines or special characters."
    );
    let id = b.ask("CLIENT ID").await;
    let list = a.ask("CLIENT LIST").await;
    assert_eq!(list.lines().count(), 2);
    assert!(list.contains(" name=b ") && list.contains("lib-name=lib") && list.contains("cmd=client|id"), "{list}");
    assert_eq!(a.ask(&format!("CLIENT KILL ID {id}")).await, "1");
    assert_eq!(b.read().await, "(closed)");
    assert_eq!(a.ask(&format!("CLIENT KILL ID {id}")).await, "0");
    assert_eq!(a.ask("CLIENT KILL 1.2.3.4:5").await, "-ERR No such client");
    assert_eq!(a.ask("CLIENT KILL TYPE normal SKIPME no").await, "1");
    assert_eq!(a.read().await, "(closed)");
}

#[tokio::test]
async fn what_clients_send_on_connect_never_closes_the_connection() {
    let rig = rig_of_three(1).await;
    let mut c = rig.proxy().await;
    for line in [
        "CLIENT TRACKING ON",
        "CLIENT MAINT_NOTIFICATIONS ON",
        "CLIENT CAPA redirect",
        "CLIENT SETINFO LIB-NAME x",
        "CLIENT SETINFO LIB-VER 1",
        "CLIENT SETNAME y",
        "SELECT 0",
        "SELECT 1",
        "READONLY",
        "ROLE",
        "COMMAND",
        "COMMAND DOCS",
        "COMMAND COUNT",
        "COMMAND GETKEYS SET a b",
        "CONFIG SET notify-keyspace-events KEA",
        "CONFIG GET *",
        "TIME",
        "WAIT 1 0",
        "WAITAOF 1 1 0",
        "SLOWLOG GET",
        "COMMAND LIST",
        "CLIENT NO-EVICT ON",
        "MEMORY USAGE a",
        "OBJECT HELP",
        "CLUSTER SLOTS",
        "ASKING",
        "CLIENT INFO",
        "SLOWLOG HELP",
    ] {
        assert_ne!(c.ask(line).await, "(closed)", "{line}");
    }
    assert_eq!(c.ask("COMMAND GETKEYS MSET a 1 b 2").await, "[a b]");
    assert_eq!(c.ask("SELECT 1").await, "-ERR SELECT is not allowed in cluster mode");
}

#[tokio::test]
async fn wait_tells_on_how_many_replicas_every_acknowledged_write_is() {
    let alone = rig(2).await;
    let mut c = alone.proxy().await;
    assert_eq!(c.ask_all("WAIT 1 0\nWAITAOF 1 1 0").await, ["0", "[1 0]"]);
    let three = rig_on(testing::three_nodes_with(2).await, |_| {}).await;
    let mut c = three.proxy().await;
    assert_eq!(c.ask_all("WAIT 1 0\nWAITAOF 1 1 0").await, ["1", "[1 1]"]);
}

#[tokio::test]
async fn the_slow_log_keeps_commands_as_they_were_sent_but_no_secrets() {
    let rig = rig(1).await;
    let mut c = rig.proxy().await;
    assert_eq!(c.ask("CONFIG SET slowlog-log-slower-than 0").await, "OK");
    c.ask_all("SLOWLOG RESET\nSET a 1\nGET a\nAUTH secret").await;
    let log = c.ask("SLOWLOG GET 3").await;
    assert!(["[SET a 1]", "[GET a]", "[AUTH (redacted)]"].iter().all(|entry| log.contains(entry)), "{log}");
    assert!(!log.contains("secret"), "{log}");
}

/// Reads that wait for leave together are run one after the other.
#[tokio::test]
async fn a_slow_read_is_told_apart_from_the_quick_one_before_it() {
    let rig = rig(1).await;
    let mut c = rig.proxy().await;
    assert_eq!(c.ask("CONFIG SET slowlog-log-slower-than 0").await, "OK");
    let numbers: String = (0..50_000).rev().map(|n| format!(" {n}")).collect();
    assert_eq!(c.ask(&format!("RPUSH {{k}}list{numbers}")).await, "50000");
    c.ask_all("SLOWLOG RESET\nGET {k}a\nSORT_RO {k}list LIMIT 0 1").await;
    let log = c.ask("SLOWLOG GET 2").await;
    let took = |call: &str| {
        let at = log.find(&format!(" [{call} ")).unwrap_or_else(|| panic!("{call} is not in {log}"));
        log[..at].rsplit(' ').next().unwrap().parse::<u64>().expect("microseconds stand before the call")
    };
    assert!(took("SORT_RO") >= took("GET") + 500, "{log}");
}

#[tokio::test]
async fn large_requests_and_replies_are_kept_by_their_bytes() {
    let rig = rig(1).await;
    let mut c = rig.proxy().await;
    c.ask_all("CONFIG SET commandlog-request-larger-than 50\nCONFIG SET commandlog-reply-larger-than 50").await;
    // However busy the machine is: none of these takes a minute.
    assert_eq!(c.ask("CONFIG SET slowlog-log-slower-than 60000000").await, "OK");
    let long = "x".repeat(60);
    c.ask_all(&format!("SET a {long}\nGET a\nSET b 1\nGET b")).await;
    let lens = "COMMANDLOG LEN large-request\nCOMMANDLOG LEN large-reply\nCOMMANDLOG LEN slow";
    assert_eq!(c.ask_all(lens).await, ["1", "1", "0"]);
    let (request, reply) =
        (c.ask("COMMANDLOG GET 1 large-request").await, c.ask("COMMANDLOG GET -1 large-reply").await);
    // SET, a and the value; `$60`, the value and two line ends.
    assert!(request.contains(" 64 [SET a ") && reply.contains(" 67 [GET a]"), "{request} {reply}");
    assert_eq!(c.ask_all("COMMANDLOG RESET large-reply\nCOMMANDLOG LEN large-reply").await, ["OK", "0"]);
}

#[tokio::test]
async fn latency_tells_how_long_calls_took_and_which_moments_were_long() {
    let rig = rig(1).await;
    let mut c = rig.proxy().await;
    c.ask_all("SET a 1\nSET b 1\nGET a").await;
    let histogram = c.ask("LATENCY HISTOGRAM set get nonsense").await;
    assert!(
        histogram.contains("calls 2 histogram_usec") && histogram.contains("calls 1 histogram_usec"),
        "{histogram}"
    );
    assert!(!histogram.contains("nonsense"), "{histogram}");
    let info = c.ask("INFO latencystats").await;
    assert!(info.contains("latency_percentiles_usec_set:p50=") && info.contains(",p99.9="), "{info}");
    assert_eq!(c.ask_all("CONFIG RESETSTAT\nLATENCY HISTOGRAM set").await, ["OK", "[]"]);
    assert_eq!(c.ask_all("LATENCY LATEST\nLATENCY HISTORY command\nLATENCY RESET").await, ["[]", "[]", "0"]);
}

// --- the end ----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_stop_answers_what_was_received_and_closes_behind_the_reply() {
    let rig = rig(1).await;
    rig.group(1).hold_writes(true);
    let (mut busy, mut idle) = (rig.proxy().await, rig.proxy().await);
    assert_eq!(idle.ask("PING").await, "PONG");
    busy.pipeline("SET a 1\nGET a").await;
    while rig.group(1).proposals().is_empty() {
        idle.ask("PING").await;
    }
    rig.stop.send(true).unwrap();
    // A connection that is idle when the stop comes still gets one more request answered.
    assert_eq!([idle.ask("GET x").await, idle.read().await], ["nil", "(closed)"]);
    rig.group(1).hold_writes(false);
    assert_eq!([busy.read().await, busy.read().await, busy.read().await], ["OK", "1", "(closed)"]);
    let addr = rig.server.addr(Face::Proxy).unwrap();
    drop((busy, idle));
    env::timeout(PATIENCE, rig.server.drained()).await.expect("everything ended");
    assert!(TcpStream::connect(addr).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn without_workers_nothing_starts() {
    let (_stop, stopped) = watch::channel(false);
    let given = Start {
        cluster: testing::one_node_with(1).await,
        settings: Settings::default(),
        workers: vec![],
        stop: stopped,
    };
    assert!(start(given).await.is_err());
}
