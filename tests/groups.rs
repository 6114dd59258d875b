//! Groups come, are split and go under writing clients, while nodes die and come back: nothing that was acknowledged is lost,
//! clients of nodes that stay see no error, and what was asked for once or twice is so in the end.
//!
//! `HYPERCACHE_TEST_CONNECTIONS` (6) connections.

mod cluster;

use cluster::load::{Load, Roaming};
use cluster::{Cluster, Door, PATIENCE, Plan, http, size, wait_until};
use hypercache::env;
use hypercache::resp::Reply;
use hypercache::slot::slot_of;
use serde_json::Value;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

/// Data groups at first.
const GROUPS: usize = 2;
/// Slots that come to a new group.
const MOVED: usize = 60;
/// Writes that the keys of each first group take before and after something happens.
const ENOUGH: usize = 20;

fn start_load(cluster: &Cluster, nodes: &[usize], roaming: Roaming) -> Load {
    let load = Load::start(cluster, size("HYPERCACHE_TEST_CONNECTIONS", 6) as usize, &cluster.proxies(nodes), roaming);
    go_on(&load);
    load
}

fn go_on(load: &Load) {
    let groups: Vec<u32> = (1..=GROUPS as u32).collect();
    let before = load.acked(&groups);
    wait_until("writes go on", PATIENCE, || (load.acked(&groups) >= before + ENOUGH).then_some(()));
}

/// A change of groups that must end well.
fn changed(cluster: &Cluster, words: &[&str]) -> Value {
    let words: Vec<&str> = [&["group"], words, &["--wait", "--timeout", "180"]].concat();
    let told = cluster.ctl_json(&cluster.running(), &words);
    assert!(told["done"] == true && told["slots"].as_array().is_some_and(Vec::is_empty), "{words:?}: {told}");
    told
}

/// The same once more: nothing is left to do.
fn again(cluster: &Cluster, words: &[&str]) {
    let told = changed(cluster, words);
    assert_eq!(told["already"], true, "{words:?}: {told}");
}

fn refused(cluster: &Cluster, words: &[&str], code: &str, exit: i32) {
    let words: Vec<&str> = [&["group"], words].concat();
    let output: Output = cluster.ctl(&cluster.running(), &words);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains(&format!("error[{code}]")) && text.contains("remedy:"), "{words:?}: {code} expected: {text}");
    assert_eq!(output.status.code(), Some(exit), "{words:?}: {text}");
}

/// Data groups and how many slots each owns, as a node tells.
fn owned(cluster: &Cluster, via: usize) -> Vec<(u64, u64)> {
    let told = cluster.ctl_json(&[via], &["group", "list"]);
    let row = |group: &Value| (group["id"].as_u64().unwrap(), group["slots"].as_u64().unwrap());
    let rows = told["groups"].as_array().expect("a list of groups").iter().map(row);
    rows.filter(|(id, _)| *id > 0).collect()
}

fn ids(cluster: &Cluster, via: usize) -> Vec<u64> {
    owned(cluster, via).into_iter().map(|(id, _)| id).collect()
}

fn meta_leader(cluster: &Cluster) -> usize {
    wait_until("somebody leads the meta group", PATIENCE, || {
        let told = cluster.ctl_json(&cluster.running(), &["status"]);
        let leader = told["groups"][0]["leader"].as_u64()? as usize;
        cluster.running().contains(&leader).then_some(leader)
    })
}

/// Some slots of a group that come to a new one, that of the key among them: few, so that they move soon.
fn some_slots(cluster: &Cluster, key: &str) -> String {
    let own = slot_of(key.as_bytes()).0;
    let others = cluster.slots_of(cluster.group_of(key)).into_iter().filter(|slot| *slot != own);
    let slots: Vec<String> = others.take(MOVED - 1).chain([own]).map(|slot| slot.to_string()).collect();
    slots.join(",")
}

fn moved(cluster: &Cluster, slots: &str, to: &str) {
    let told =
        cluster.ctl_json(&cluster.running(), &["slots", "move", slots, "--to", to, "--wait", "--timeout", "180"]);
    assert_eq!(told["done"], true, "{told}");
}

/// One connection that raises one counter: each answer is one more than the last, wherever the counter's slot is.
struct Counter {
    stop: Arc<AtomicBool>,
    raised: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Counter {
    fn start(cluster: &Cluster, key: &str, via: usize) -> Counter {
        let (stop, raised): (Arc<AtomicBool>, Arc<AtomicU64>) = Default::default();
        let (until, count, key) = (stop.clone(), raised.clone(), key.to_owned());
        let mut client = cluster.client(via);
        let thread = env::spawn_thread("counter", move || {
            while !until.load(Ordering::Acquire) {
                let next = count.load(Ordering::Acquire) + 1;
                assert_eq!(client.must(&["INCR", &key]), Reply::Int(next as i64));
                count.store(next, Ordering::Release);
            }
        });
        Counter { stop, raised, thread }
    }

    fn go_on(&self) {
        let before = self.raised.load(Ordering::Acquire);
        let more = || self.raised.load(Ordering::Acquire) >= before + ENOUGH as u64;
        wait_until("the counter rises", PATIENCE, || (self.thread.is_finished() || more()).then_some(()));
        assert!(more(), "it has stopped");
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Release);
        self.thread.join().expect("no raise was lost, none was done twice");
        println!("raised {} times", self.raised.load(Ordering::Acquire));
    }
}

#[test]
fn a_group_comes_is_split_and_goes_and_clients_see_nothing() {
    let mut cluster = Plan::new(3, GROUPS).start();
    let load = start_load(&cluster, &[1, 2], Roaming::Stay);
    let tag = cluster.key_of_group("moved", 1);
    let counter = Counter::start(&cluster, &format!("{{{tag}}}counter"), 1);
    let all_go_on = || {
        go_on(&load);
        counter.go_on();
    };
    let plan = cluster.ctl_json(&[1], &["group", "add", "--dry-run"]);
    assert_eq!((&plan["group"], &plan["done"], ids(&cluster, 1)), (&3.into(), &false.into(), vec![1, 2]), "{plan}");

    let told = changed(&cluster, &["add"]);
    assert_eq!((&told["group"], &told["stage"], &told["already"]), (&3.into(), &"member".into(), &false.into()));
    assert_eq!(told["voters"].as_array().map(Vec::len), Some(3));
    again(&cluster, &["add", "3"]);
    assert_eq!(owned(&cluster, 2).last(), Some(&(3, 0)));
    assert!(cluster.ctl(&[1, 2, 3], &["group", "verify", "3"]).status.success());
    moved(&cluster, &some_slots(&cluster, &tag), "3");
    all_go_on();

    let told = changed(&cluster, &["split", "3"]);
    assert_eq!(told["group"], 4);
    again(&cluster, &["split", "3", "--into", "4"]);
    again(&cluster, &["split", "3"]);
    let slots = owned(&cluster, 1);
    assert_eq!(slots[2].1 + slots[3].1, MOVED as u64);
    assert!(slots[2].1 > 0 && slots[3].1 > 0, "{slots:?}");
    all_go_on();

    refused(&cluster, &["add", "9"], "HC-3107", 2);
    refused(&cluster, &["remove", "9"], "HC-3103", 1);
    refused(&cluster, &["remove", "0"], "HC-3103", 1);
    refused(&cluster, &["split", "9"], "HC-3103", 1);
    refused(&cluster, &["remove", "3", "--to", "9"], "HC-3103", 1);
    let plan = cluster.ctl_json(&[3], &["group", "remove", "3", "--to", "4", "--dry-run"]);
    assert_eq!((&plan["slots"][0]["group"], plan["slots"].as_array().map(Vec::len)), (&4.into(), Some(1)), "{plan}");

    assert_eq!(changed(&cluster, &["remove", "3", "--to", "4"])["stage"], "gone");
    again(&cluster, &["remove", "3"]);
    refused(&cluster, &["add", "3"], "HC-3123", 1);
    wait_until("every node has dropped it", PATIENCE, || {
        cluster.numbers().iter().all(|node| cluster.log(*node).contains("group-dropped")).then_some(())
    });
    assert_eq!(ids(&cluster, 3), [1, 2, 4]);
    wait_until("the feeds of all nodes tell that it came and went", PATIENCE, || {
        let told = |node: &usize| {
            let told = cluster.ctl(&[*node], &["events", "-o", "json"]);
            let told = String::from_utf8(told.stdout).expect("text");
            let told: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).expect("one event")).collect();
            let told = |name: &str| told.iter().any(|event| event["event"] == name && event["group"] == 3);
            ["group-coming", "group-added", "group-leaving", "group-removed"].into_iter().all(told)
        };
        cluster.numbers().iter().all(told).then_some(())
    });
    all_go_on();

    // A node that was down while a group went drops it when it comes back, and serves. It hands over what it leads: of what a
    // leader that is killed had under way nobody could know.
    cluster.stop(3);
    changed(&cluster, &["remove", "4", "--to", "1,2"]);
    all_go_on();
    let before = cluster.log(3).matches("group-dropped").count();
    cluster.start(3);
    cluster.wait_serving();
    wait_until("it drops the group that has gone", PATIENCE, || {
        (cluster.log(3).matches("group-dropped").count() > before && ids(&cluster, 3) == [1, 2]).then_some(())
    });
    wait_until("it is ready", PATIENCE, || {
        let (code, _) = http(cluster.node(3).at(Door::Http), "GET", "/readyz", "").ok()?;
        (code == 200).then_some(())
    });
    counter.stop();
    let written = load.stop();
    println!("slowest write: {:?}", written.slowest);
    assert!(written.errors.is_empty() && written.broken == 0, "{:?}, {} broken", written.errors, written.broken);
    written.check(&cluster);
    cluster.verify_data_groups(2);

    // All of it is left after a restart of every node at once, and no number comes twice.
    cluster.kill_all(&[1, 2, 3]);
    cluster.numbers().into_iter().for_each(|node| cluster.start(node));
    cluster.wait_serving();
    wait_until("nobody holds what has gone", PATIENCE, || {
        cluster.numbers().into_iter().all(|node| ids(&cluster, node) == [1, 2]).then_some(())
    });
    written.check(&cluster);
    assert_eq!(changed(&cluster, &["add"])["group"], 5);
    cluster.verify_data_groups(3);
}

#[test]
fn what_was_begun_is_finished_whoever_dies_meanwhile() {
    let mut cluster = Plan::new(3, GROUPS).start();
    let tag = cluster.key_of_group("moved", 1);
    changed(&cluster, &["add"]);
    moved(&cluster, &some_slots(&cluster, &tag), "3");
    let load = start_load(&cluster, &[1, 2, 3], Roaming::Next);
    let changes: [&[&str]; 4] =
        [&["split", "3", "--into", "4"], &["add", "5"], &["remove", "3", "--to", "4,5"], &["remove", "4", "--to", "1"]];
    for words in changes {
        let begun: Vec<&str> = [&["group"], words].concat();
        let told = cluster.ctl_json(&cluster.running(), &begun);
        assert!(told["epoch"].as_u64() > Some(0), "{told}");
        let victim = meta_leader(&cluster);
        cluster.kill(victim);
        let ends: Vec<&str> = [&begun[..], &["--wait", "--timeout", "180"]].concat();
        wait_until("it is finished", PATIENCE * 6, || {
            let output = cluster.ctl(&cluster.running(), &ends);
            output.status.success().then_some(())
        });
        cluster.start(victim);
        cluster.wait_serving();
        go_on(&load);
    }
    wait_until("all nodes know of the same groups", PATIENCE, || {
        cluster.numbers().into_iter().all(|node| ids(&cluster, node) == [1, 2, 5]).then_some(())
    });
    load.stop().check(&cluster);
    cluster.verify_data_groups(3);
}

/// Clients of a cluster of one group, which grows by one and is of one group again.
#[test]
fn one_group_becomes_two_and_one_again() {
    let cluster = Plan::new(1, 1).start();
    let mut client = cluster.client(1);
    // What told that the cluster serves is there, too.
    client.must(&["MSET", "a", "1", "b", "2", "c", "3"]);
    let keys = client.must(&["DBSIZE"]);
    assert_eq!(changed(&cluster, &["add"])["group"], 2);
    moved(&cluster, &some_slots(&cluster, "a"), "2");
    assert_eq!(client.must(&["DBSIZE"]), keys, "both are asked");
    client.ok(&["MULTI"]);
    let queued = [client.must(&["INCR", "a"]), client.must(&["INCR", "b"])];
    assert!(matches!(&queued[1], Reply::Error(_)), "two groups have them: {queued:?}");
    client.must(&["EXEC"]);
    assert_eq!(changed(&cluster, &["remove", "2"])["stage"], "gone");
    assert_eq!(client.must(&["DBSIZE"]), keys);
    client.ok(&["MULTI"]);
    client.must(&["INCR", "a"]);
    client.must(&["INCR", "b"]);
    assert_eq!(
        client.must(&["EXEC"]),
        Reply::Array(vec![Reply::Int(2), Reply::Int(3)]),
        "one group has all keys again"
    );
    refused(&cluster, &["remove", "1"], "HC-3125", 1);
    client.ok(&["FLUSHALL"]);
    assert_eq!(client.must(&["DBSIZE"]), Reply::Int(0));
}
