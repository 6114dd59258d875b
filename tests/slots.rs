//! Slots go to another group and back under clients of both faces, while the node dies that moves them: nothing that was
//! acknowledged is lost, no read is stale, and clients of nodes that stay see no error.
//!
//! `HYPERCACHE_TEST_CONNECTIONS` (6) writing connections.

mod cluster;

use cluster::load::{Load, Roaming};
use cluster::{Client, Cluster, Door, PATIENCE, Plan, bulk, code_of, size, text_of, wait_until};
use hypercache::env;
use hypercache::resp::Reply;
use hypercache::slot::slot_of;
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

/// Data groups of the clusters here.
const GROUPS: usize = 2;
/// Slots that move at once: several batches.
const MOVED: usize = 100;
/// Writes that go on before and after a move.
const ENOUGH: u64 = 50;

/// The slots of a key and of others of its group, and their text.
fn some_slots(cluster: &Cluster, key: &str) -> (Vec<u16>, String) {
    let own = slot_of(key.as_bytes()).0;
    let others = cluster.slots_of(cluster.group_of(key)).into_iter().filter(|slot| *slot != own);
    let mut slots: Vec<u16> = others.take(MOVED - 1).chain([own]).collect();
    slots.sort_unstable();
    let text: Vec<String> = slots.iter().map(u16::to_string).collect();
    (slots, text.join(","))
}

/// Moves slots, as often as it takes while leaders change; it must end well.
fn moved(cluster: &Cluster, slots: &str, to: u32) -> Value {
    let to = to.to_string();
    let words = ["slots", "move", slots, "--to", &to, "--wait", "--timeout", "120"];
    let told = cluster.ctl_json(&cluster.running(), &words);
    assert!(told["done"] == true && told["missing"] == "", "{told}");
    told
}

/// One counter, raised by connections of both faces and read beside that: a read sees at least what was acknowledged before it
/// began.
struct Counting {
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
    /// Raises of which nobody knows what became.
    unknown: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Counting {
    fn start(cluster: &Cluster, key: &str, nodes: &[usize]) -> Counting {
        let mut counting =
            Counting { stop: Arc::default(), acked: Arc::default(), unknown: Arc::default(), threads: Vec::new() };
        let proxies = cluster.proxies(nodes);
        let faces: Vec<SocketAddr> = nodes.iter().map(|node| cluster.node(*node).at(Door::ClusterFace)).collect();
        let everywhere: Vec<SocketAddr> =
            cluster.numbers().iter().map(|node| cluster.node(*node).at(Door::ClusterFace)).collect();
        counting.raise(key, proxies[0], Vec::new());
        counting.raise(key, faces[0], everywhere);
        counting.read(key, proxies[proxies.len() - 1]);
        counting
    }

    /// `everywhere`: the cluster faces that MOVED may name; none for the proxy face, which must never say it.
    fn raise(&mut self, key: &str, at: SocketAddr, everywhere: Vec<SocketAddr>) {
        let (stop, acked, unknown) = (self.stop.clone(), self.acked.clone(), self.unknown.clone());
        let key = key.to_owned();
        self.threads.push(env::spawn_thread("raiser", move || {
            let mut client = Client::connect(at).expect("the node serves");
            while !stop.load(Ordering::Acquire) {
                match client.call(&["INCR", &key]) {
                    Ok(Reply::Int(_)) => _ = acked.fetch_add(1, Ordering::AcqRel),
                    Ok(reply) if code_of(&reply) == "MOVED" => {
                        let Reply::Error(text) = &reply else { unreachable!("it has a code") };
                        let text = String::from_utf8_lossy(text).into_owned();
                        let [_, slot, to] = text.split(' ').collect::<Vec<_>>()[..] else { panic!("{text}") };
                        assert_eq!(slot, slot_of(key.as_bytes()).0.to_string());
                        let to: SocketAddr = to.parse().expect("an address");
                        assert!(everywhere.contains(&to), "{text}: only a cluster face is sent on, and to one");
                        client = Client::connect(to).or_else(|_| Client::connect(at)).expect("one of them serves");
                    }
                    Ok(reply) => {
                        assert_eq!(code_of(&reply), "UNCERTAIN", "{reply:?}");
                        unknown.fetch_add(1, Ordering::AcqRel);
                    }
                    // The node died that the client had been sent to.
                    Err(e) => {
                        assert!(!everywhere.is_empty(), "{e}");
                        unknown.fetch_add(1, Ordering::AcqRel);
                        client = Client::connect(at).expect("this node stays");
                    }
                }
            }
        }));
    }

    fn read(&mut self, key: &str, at: SocketAddr) {
        let (stop, acked, key) = (self.stop.clone(), self.acked.clone(), key.to_owned());
        self.threads.push(env::spawn_thread("reader", move || {
            let mut client = Client::connect(at).expect("the node serves");
            while !stop.load(Ordering::Acquire) {
                let before = acked.load(Ordering::Acquire);
                let reply = client.call(&["GET", &key]).expect("this node stays");
                let seen = text_of(&reply).map_or(0, |text| text.parse::<u64>().expect("a number"));
                assert!(!matches!(reply, Reply::Error(_)), "{reply:?}");
                assert!(seen >= before, "{before} were acknowledged before the read, and it saw {seen}");
            }
        }));
    }

    fn go_on(&self) {
        let before = self.acked.load(Ordering::Acquire);
        wait_until("the counter rises", PATIENCE, || {
            (self.acked.load(Ordering::Acquire) >= before + ENOUGH).then_some(())
        });
    }

    fn stop(self, cluster: &Cluster, key: &str) {
        self.stop.store(true, Ordering::Release);
        self.threads.into_iter().for_each(|thread| thread.join().expect("what it saw is right"));
        let (acked, unknown) = (self.acked.load(Ordering::Acquire), self.unknown.load(Ordering::Acquire));
        let reply = cluster.client(1).must(&["GET", key]);
        let counted = text_of(&reply).expect("it is there").parse::<u64>().expect("a number");
        println!("{acked} raises acknowledged, {unknown} unknown, {counted} counted");
        assert!((acked..=acked + unknown).contains(&counted), "{acked} + {unknown}: {counted}");
    }
}

#[test]
fn slots_move_to_another_group_and_back_and_clients_see_nothing() {
    let cluster = Plan::new(3, GROUPS).start();
    let tag = cluster.key_of_group("moved", 1);
    let key = |name: &str| format!("{{{tag}}}{name}");
    let (slots, text) = some_slots(&cluster, &tag);
    let mut client = cluster.client(2);
    for words in [
        &["SET", &key("ttl"), "x", "EX", "1000"][..],
        &["SET", &key("watched"), "1"],
        &["HSET", &key("hash"), "a", "1", "b", "2"],
    ] {
        client.must(words);
    }
    client.must(&["XADD", &key("stream"), "1-1", "f", "v"]);
    client.must(&["BF.ADD", &key("bloom"), "item"]);
    // What was seen before the slot moves counts behind it.
    let [mut same, mut came_and_went] = [cluster.client(1), cluster.client(3)];
    same.ok(&["WATCH", &key("watched"), &key("never")]);
    came_and_went.ok(&["WATCH", &key("absent")]);
    let mut blocked = cluster.client(1);
    blocked.send(&["BLPOP", &key("list"), "0"]).unwrap();
    let load = Load::start(
        &cluster,
        size("HYPERCACHE_TEST_CONNECTIONS", 6) as usize,
        &cluster.proxies(&[1, 2, 3]),
        Roaming::Stay,
    );
    let counting = Counting::start(&cluster, &key("counter"), &[1, 2]);
    counting.go_on();

    let plan = cluster.ctl_json(&[1], &["slots", "move", &text, "--to", "2", "--dry-run"]);
    assert_eq!((&plan["dry_run"], &plan["under_way"]), (&true.into(), &Value::Null));
    let told = moved(&cluster, &text, 2);
    assert!(told["last"].as_u64() >= Some(MOVED as u64 / 32), "in several batches: {told}");
    counting.go_on();
    let owned = cluster.ctl_json(&[2], &["group", "list"]);
    let of = |group: usize| owned["groups"][group]["slots"].as_u64().unwrap();
    let before = |group: u32| cluster.slots_of(group).len() as u64;
    assert_eq!((of(1), of(2)), (before(1) - MOVED as u64, before(2) + MOVED as u64));

    let runs = |watching: &mut Client| {
        watching.ok(&["MULTI"]);
        watching.must(&["SET", &key("swapped"), "1"]);
        matches!(watching.must(&["EXEC"]), Reply::Array(_))
    };
    assert!(runs(&mut same), "what it watches is as it was");
    // What is gone is remembered by slots: of two keys of one slot the second is not told from the first.
    client.ok(&["SET", &key("absent"), "1"]);
    assert_eq!(client.must(&["DEL", &key("absent")]), Reply::Int(1));
    assert!(!runs(&mut came_and_went));
    assert_eq!(client.must(&["RPUSH", &key("list"), "e"]), Reply::Int(1));
    assert_eq!(blocked.reply().unwrap(), Reply::Array(vec![bulk(&key("list")), bulk("e")]));
    let Reply::Int(left) = client.must(&["TTL", &key("ttl")]) else { panic!("a number") };
    assert!((800..=1000).contains(&left), "{left}");
    assert_eq!(client.must(&["HGET", &key("hash"), "b"]), bulk("2"));
    assert_eq!(client.must(&["XLEN", &key("stream")]), Reply::Int(1));
    assert_eq!(client.must(&["BF.EXISTS", &key("bloom"), "item"]), Reply::Int(1));
    // The cluster face of who does not lead the new group names who does.
    let leader = cluster.wait_leader_of(&tag, 1);
    let other = cluster.numbers().into_iter().find(|node| *node != leader).unwrap();
    let reply = cluster.cluster_client(other).must(&["GET", &key("watched")]);
    let Reply::Error(sent_on) = &reply else { panic!("{reply:?}") };
    let expected = format!("MOVED {} {}", slot_of(tag.as_bytes()).0, cluster.node(leader).at(Door::ClusterFace));
    assert_eq!(String::from_utf8_lossy(sent_on), expected);

    moved(&cluster, &text, 1);
    moved(&cluster, &text, 1);
    counting.go_on();
    let nowhere = cluster.ctl(&[1], &["slots", "move", &text, "--to", "9"]);
    assert!(String::from_utf8_lossy(&nowhere.stderr).contains("HC-3103"), "{nowhere:?}");
    assert_eq!(slots.len(), MOVED);
    let written = load.stop();
    println!("slowest write: {:?}", written.slowest);
    assert!(written.errors.is_empty() && written.broken == 0, "{:?}, {} broken", written.errors, written.broken);
    written.check(&cluster);
    counting.stop(&cluster, &key("counter"));
    cluster.verify_replicas();
}

#[test]
fn a_move_is_finished_whoever_dies_meanwhile() {
    let mut cluster = Plan::new(3, GROUPS).start();
    let tag = cluster.key_of_group("moved", 1);
    let (_, text) = some_slots(&cluster, &tag);
    let load = Load::start(&cluster, 3, &cluster.proxies(&[1, 2, 3]), Roaming::Next);
    let groups: Vec<u32> = (1..=GROUPS as u32).collect();
    for victim in [1, 2, 3] {
        // There and back again.
        let to = (victim % 2 + 1).to_string();
        let begun = cluster.ctl_json(&cluster.running(), &["slots", "move", &text, "--to", &to]);
        assert!(begun["epoch"].as_u64() > Some(0), "{begun}");
        wait_until("a batch is on its way, or all of them have gone", PATIENCE, || {
            let told = cluster.ctl_json(&[victim], &["slots", "list"]);
            let settled = told["wished"].as_array().is_some_and(Vec::is_empty);
            (told["under_way"] != Value::Null || settled).then_some(())
        });
        cluster.kill(victim);
        let words = ["slots", "move", &text, "--to", &to, "--wait", "--timeout", "120"];
        wait_until("the move is finished", PATIENCE * 4, || {
            cluster.ctl(&cluster.running(), &words).status.success().then_some(())
        });
        cluster.start(victim);
        cluster.wait_serving();
        let before = load.acked(&groups);
        wait_until("writes go on", PATIENCE, || (load.acked(&groups) > before + ENOUGH as usize).then_some(()));
    }
    let told = cluster.ctl_json(&[1], &["slots", "list"]);
    assert!(told["under_way"] == Value::Null && told["wished"].as_array().is_some_and(Vec::is_empty), "{told}");
    load.stop().check(&cluster);
    cluster.verify_replicas();
}
