//! Groups come, are split and go under writing clients, while nodes die and come back: nothing that was acknowledged is lost,
//! clients of nodes that stay see no error, and what was asked for once or twice is so in the end.
//!
//! `HYPERCACHE_TEST_CONNECTIONS` (6) connections.

mod cluster;

use cluster::load::{Load, Roaming};
use cluster::{Cluster, Door, PATIENCE, Plan, http, size, wait_until};
use hypercache::resp::Reply;
use serde_json::Value;
use std::process::Output;

/// Data groups at first.
const GROUPS: usize = 2;
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

#[test]
fn a_group_comes_is_split_and_goes_and_clients_see_nothing() {
    let mut cluster = Plan::new(3, GROUPS).start();
    let load = start_load(&cluster, &[1, 2], Roaming::Stay);
    let plan = cluster.ctl_json(&[1], &["group", "add", "--dry-run"]);
    assert_eq!((&plan["group"], &plan["done"], ids(&cluster, 1)), (&3.into(), &false.into(), vec![1, 2]), "{plan}");

    let told = changed(&cluster, &["add"]);
    assert_eq!((&told["group"], &told["stage"], &told["already"]), (&3.into(), &"member".into(), &false.into()));
    assert_eq!(told["voters"].as_array().map(Vec::len), Some(3));
    again(&cluster, &["add", "3"]);
    assert_eq!(owned(&cluster, 2).last(), Some(&(3, 0)));
    assert!(cluster.ctl(&[3], &["group", "verify", "3"]).status.success());
    go_on(&load);

    let whole = owned(&cluster, 1)[0].1;
    let told = changed(&cluster, &["split", "1", "--into", "3"]);
    assert_eq!(told["group"], 3);
    again(&cluster, &["split", "1", "--into", "3"]);
    again(&cluster, &["split", "1"]);
    let slots = owned(&cluster, 1);
    assert_eq!(slots[0].1 + slots[2].1, whole);
    assert!(slots[0].1 > 0 && slots[2].1 > 0, "{slots:?}");
    go_on(&load);
    // One that comes to be split into.
    assert_eq!(changed(&cluster, &["split", "2"])["group"], 4);
    again(&cluster, &["split", "2"]);
    go_on(&load);

    refused(&cluster, &["add", "9"], "HC-3107", 2);
    refused(&cluster, &["remove", "9"], "HC-3103", 1);
    refused(&cluster, &["remove", "0"], "HC-3103", 1);
    refused(&cluster, &["split", "9"], "HC-3103", 1);
    refused(&cluster, &["remove", "1", "--to", "9"], "HC-3103", 1);
    let plan = cluster.ctl_json(&[3], &["group", "remove", "1", "--to", "3", "--dry-run"]);
    assert_eq!(plan["slots"][0]["group"], 3, "{plan}");

    assert_eq!(changed(&cluster, &["remove", "1", "--to", "3"])["stage"], "gone");
    again(&cluster, &["remove", "1"]);
    refused(&cluster, &["add", "1"], "HC-3121", 1);
    wait_until("every node has dropped it", PATIENCE, || {
        cluster.numbers().iter().all(|node| cluster.log(*node).contains("group-dropped")).then_some(())
    });
    assert_eq!(ids(&cluster, 3), [2, 3, 4]);
    go_on(&load);

    // A node that was down while a group went drops it when it comes back, and serves.
    cluster.kill(3);
    changed(&cluster, &["remove", "2"]);
    go_on(&load);
    let before = cluster.log(3).matches("group-dropped").count();
    cluster.start(3);
    cluster.wait_serving();
    wait_until("it drops the group that has gone", PATIENCE, || {
        (cluster.log(3).matches("group-dropped").count() > before && ids(&cluster, 3) == [3, 4]).then_some(())
    });
    let (code, body) = http(cluster.node(3).at(Door::Http), "GET", "/readyz", "").expect("it answers");
    assert_eq!(code, 200, "{body}");
    let written = load.stop();
    println!("slowest write: {:?}", written.slowest);
    assert!(written.errors.is_empty() && written.broken == 0, "{:?}, {} broken", written.errors, written.broken);
    written.check(&cluster);
    cluster.verify_data_groups(2);

    // What is left is all there is, and all of it is left after a restart of every node at once.
    let Reply::Int(keys) = cluster.client(1).must(&["DBSIZE"]) else { panic!("a number") };
    assert!(keys as usize >= written.acked.len(), "{keys} of {}", written.acked.len());
    cluster.kill_all(&[1, 2, 3]);
    cluster.numbers().into_iter().for_each(|node| cluster.start(node));
    cluster.wait_serving();
    assert!(cluster.numbers().into_iter().all(|node| ids(&cluster, node) == [3, 4]));
    written.check(&cluster);
    changed(&cluster, &["remove", "4"]);
    refused(&cluster, &["remove", "3"], "HC-3123", 1);
    written.check(&cluster);
    assert_eq!(changed(&cluster, &["add"])["group"], 5, "no number comes twice");
    cluster.verify_data_groups(2);
}

#[test]
fn what_was_begun_is_finished_whoever_dies_meanwhile() {
    let mut cluster = Plan::new(3, GROUPS).start();
    let load = start_load(&cluster, &[1, 2, 3], Roaming::Next);
    let changes: [&[&str]; 4] = [&["split", "1", "--into", "3"], &["add", "4"], &["remove", "2"], &["remove", "4"]];
    for words in changes {
        let begun: Vec<&str> = [&["group"], words].concat();
        let told = cluster.ctl_json(&cluster.running(), &begun);
        assert!(told["epoch"].as_u64() > Some(0), "{told}");
        let victim = meta_leader(&cluster);
        cluster.kill(victim);
        let ends: Vec<&str> = [&begun[..], &["--wait", "--timeout", "120"]].concat();
        wait_until("it is finished", PATIENCE * 4, || {
            let output = cluster.ctl(&cluster.running(), &ends);
            output.status.success().then_some(())
        });
        cluster.start(victim);
        cluster.wait_serving();
        go_on(&load);
    }
    wait_until("all nodes know of two groups", PATIENCE, || {
        cluster.numbers().into_iter().all(|node| ids(&cluster, node) == [1, 3]).then_some(())
    });
    load.stop().check(&cluster);
    cluster.verify_data_groups(2);
}

/// Clients of a cluster of one group, which grows by one and is of one group again.
#[test]
fn one_group_becomes_two_and_the_new_one_is_left() {
    let cluster = Plan::new(1, 1).start();
    let mut client = cluster.client(1);
    client.must(&["MSET", "a", "1", "b", "2", "c", "3"]);
    assert_eq!(changed(&cluster, &["split", "1"])["group"], 2);
    assert_eq!(changed(&cluster, &["remove", "1"])["stage"], "gone");
    assert_eq!(client.must(&["DBSIZE"]), Reply::Int(3));
    client.ok(&["MULTI"]);
    client.must(&["INCR", "a"]);
    client.must(&["INCR", "b"]);
    assert_eq!(
        client.must(&["EXEC"]),
        Reply::Array(vec![Reply::Int(2), Reply::Int(3)]),
        "one group has all keys again"
    );
    refused(&cluster, &["remove", "2"], "HC-3123", 1);
    client.ok(&["FLUSHALL"]);
    assert_eq!(client.must(&["DBSIZE"]), Reply::Int(0));
}
