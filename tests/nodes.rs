//! Nodes come and go under writing clients of the proxy face: nothing that was acknowledged is lost, and nobody who talks to
//! another node sees an error.
//!
//! `HYPERCACHE_TEST_CONNECTIONS` (6) connections.

mod cluster;

use cluster::load::{Load, Roaming, Written};
use cluster::{Cluster, Door, JOIN, PATIENCE, Plan, bulk, http, size, wait_until};
use hypercache::env;
use hypercache::resp::Reply;
use serde_json::Value;
use std::fs;
use std::process::Output;
use std::time::Duration;

/// Data groups of the clusters here.
const GROUPS: usize = 4;
/// Writes that each group takes before and after something happens.
const ENOUGH: usize = 20;

fn connections() -> usize {
    size("HYPERCACHE_TEST_CONNECTIONS", 6) as usize
}

fn address(cluster: &Cluster, node: usize) -> String {
    cluster.node(node).at(Door::Peer).to_string()
}

/// Runs a command that must end well, as often as it takes until its node listens.
fn until_done(cluster: &Cluster, via: &[usize], words: &[&str]) -> String {
    let words: Vec<&str> = words.iter().copied().chain(["--timeout", "120"]).collect();
    wait_until(&format!("{words:?} succeeds"), PATIENCE * 2, || {
        let output = cluster.ctl(via, &words);
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        // A process that was just started does not listen yet; nothing else may go wrong.
        assert!(output.status.success() || text.contains("HC-3114"), "{words:?}: {text}");
        output.status.success().then_some(text)
    })
}

fn refused(output: &Output, code: &str, exit: i32) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains(&format!("error[{code}]")) && text.contains("remedy:"), "{code} was expected: {text}");
    assert_eq!(output.status.code(), Some(exit), "{text}");
}

/// The nodes that belong, by name: standing, votes, leads.
fn listed(cluster: &Cluster, via: usize) -> Vec<(String, String, u64, u64)> {
    let told = cluster.ctl_json(&[via], &["node", "list"]);
    let row = |node: &Value| {
        let text = |field: &str| node[field].as_str().unwrap_or_default().to_owned();
        (text("name"), text("standing"), node["votes"].as_u64().unwrap(), node["leads"].as_u64().unwrap())
    };
    let belongs = |node: &&Value| node["standing"] != "waiting";
    told["nodes"].as_array().expect("a list of nodes").iter().filter(belongs).map(row).collect()
}

fn one(cluster: &Cluster, via: usize, name: &str) -> (String, u64, u64) {
    let all = listed(cluster, via);
    let found = all.iter().find(|(known, ..)| known == name).unwrap_or_else(|| panic!("no {name} in {all:?}"));
    (found.1.clone(), found.2, found.3)
}

/// The load goes on: every group takes so many writes more.
fn go_on(load: &Load) {
    let groups: Vec<u32> = (1..=GROUPS as u32).collect();
    let before = load.acked(&groups);
    wait_until("every group takes writes", PATIENCE, || (load.acked(&groups) >= before + ENOUGH).then_some(()));
}

/// Clients of nodes that stay saw no error, and none of their connections broke.
fn unharmed(written: &Written) {
    assert!(written.errors.is_empty() && written.broken == 0, "{:?}, {} broken", written.errors, written.broken);
}

#[test]
fn three_nodes_become_four_and_three_again_and_clients_see_nothing() {
    let mut cluster = Plan::new(3, GROUPS).with_spares(1).start();
    let staying = Load::start(&cluster, connections(), &cluster.proxies(&[1, 3]), Roaming::Stay);
    let leaving = Load::start(&cluster, 2, &cluster.proxies(&[2, 3]), Roaming::Next);
    go_on(&staying);
    cluster.start(4);
    let four = address(&cluster, 4);
    let plan = until_done(&cluster, &[3], &["node", "add", &four, "--dry-run"]);
    assert!(plan.contains("node-4") && plan.contains("GROUP"), "{plan}");
    assert_eq!(listed(&cluster, 1).len(), 3, "a dry run adds nobody");
    until_done(&cluster, &[3], &["node", "add", &four, "--wait"]);
    go_on(&staying);
    until_done(&cluster, &[1], &["node", "add", &four, "--wait"]);
    let all = listed(&cluster, 1);
    let votes: Vec<u64> = all.iter().map(|node| node.2).collect();
    // Four groups of three on four nodes: three each, and the meta group's besides.
    assert!(votes.iter().all(|votes| (3..=4).contains(votes)), "{all:?}");
    assert!(all.iter().all(|node| node.1 == "member"), "{all:?}");
    cluster.wait_serving_on(&[4]);
    let newcomer = Load::start(&cluster, 2, &cluster.proxies(&[4]), Roaming::Stay);
    go_on(&newcomer);

    until_done(&cluster, &[1], &["node", "drain", "node-3", "--wait"]);
    assert_eq!(one(&cluster, 4, "node-3"), ("draining".to_owned(), 0, 0));
    go_on(&staying);
    until_done(&cluster, &[1], &["node", "drain", "node-3", "--undo", "--wait"]);
    assert_eq!(one(&cluster, 4, "node-3").0, "member");

    until_done(&cluster, &[1], &["node", "remove", "node-2", "--wait"]);
    assert!(cluster.wait_ended(2).success(), "a node that was removed ends in order");
    until_done(&cluster, &[1], &["node", "remove", "node-2", "--wait"]);
    go_on(&staying);
    go_on(&newcomer);
    assert_eq!(listed(&cluster, 4).len(), 3);
    let (staying, leaving, newcomer) = (staying.stop(), leaving.stop(), newcomer.stop());
    println!("slowest writes: {:?}, {:?} at the new node", staying.slowest, newcomer.slowest);
    unharmed(&staying);
    unharmed(&newcomer);
    assert!(leaving.errors.is_empty(), "connections are closed between two replies: {:?}", leaving.errors);
    [staying, leaving, newcomer].iter().for_each(|written| written.check(&cluster));
    cluster.verify_replicas();
    cluster.start(2);
    assert!(!cluster.wait_ended(2).success());
    assert!(cluster.log(2).contains("was removed from its cluster"), "{}", cluster.log(2));
}

#[test]
fn a_node_whose_disk_was_emptied_does_not_vote_and_is_replaced_as_a_whole() {
    let mut cluster = Plan::new(3, GROUPS).set("limits.request_timeout=1s").start();
    let load = Load::start(&cluster, connections(), &cluster.proxies(&[1, 3]), Roaming::Stay);
    go_on(&load);
    cluster.kill(2);
    fs::remove_dir_all(&cluster.node(2).data).unwrap();
    go_on(&load);
    let written = load.stop();
    cluster.start(2);
    wait_until("the others refuse it", PATIENCE, || {
        cluster.log(1).contains("comes with another data directory").then_some(())
    });
    cluster.kill(3);
    let mut client = cluster.client(1);
    let reply = client.call(&["SET", &cluster.key_of_group("alone", 1), "x"]).unwrap();
    assert!(matches!(reply, Reply::Error(_)), "one of three must not write: {reply:?}");
    cluster.start(3);
    cluster.wait_serving_on(&[1, 3]);
    let two = address(&cluster, 2);
    let same = cluster.ctl(&[1], &["node", "add", &two]);
    let text = String::from_utf8_lossy(&same.stderr).into_owned();
    assert!(text.contains("HC-3118") || text.contains("HC-3113"), "it is not who it was: {text}");
    cluster.kill(2);
    fs::remove_dir_all(&cluster.node(2).data).unwrap();
    cluster.node_mut(2).settings.push(JOIN.to_owned());
    cluster.start(2);
    let load = Load::start(&cluster, connections(), &cluster.proxies(&[1, 3]), Roaming::Stay);
    wait_until("it waits", PATIENCE, || cluster.log(2).contains("node-waits").then_some(()));
    refused(&cluster.ctl(&[1], &["node", "add", &two]), "HC-3112", 1);
    until_done(&cluster, &[3], &["node", "replace", "node-2", &two, "--wait"]);
    until_done(&cluster, &[1], &["node", "replace", "node-2", &two, "--wait"]);
    go_on(&load);
    let more = load.stop();
    unharmed(&more);
    cluster.wait_serving();
    assert_eq!(one(&cluster, 1, "node-2"), ("member".to_owned(), 1 + GROUPS as u64, one(&cluster, 1, "node-2").2));
    [&written, &more].into_iter().for_each(|written| written.check(&cluster));
    // It dies again. Who is to take its place does not listen yet: that the last one took it is not what was asked for.
    cluster.kill(2);
    refused(&cluster.ctl(&[1, 3], &["node", "replace", "node-2", &two, "--wait"]), "HC-3114", 1);
    cluster.start(2);
    cluster.wait_serving();
    cluster.verify_replicas();
    // It votes: without another one the cluster goes on.
    cluster.kill(1);
    cluster.wait_serving_on(&[2, 3]);
    [written, more].iter().for_each(|written| written.check(&cluster));
}

#[test]
fn what_cannot_be_is_refused_with_a_remedy_and_changes_nothing() {
    let mut cluster = Plan::new(3, GROUPS).with_spares(2).start();
    let other = Plan::new(1, 1).start();
    let before = listed(&cluster, 1);
    refused(&cluster.ctl(&[1], &["node", "add", &address(&other, 1)]), "HC-3113", 1);
    refused(&cluster.ctl(&[1], &["node", "add", "127.0.0.1:1"]), "HC-3114", 1);
    refused(&cluster.ctl(&[1], &["node", "remove", "node-9"]), "HC-3104", 1);
    refused(&cluster.ctl(&[1], &["node", "drain", "node-9"]), "HC-3104", 1);
    refused(&cluster.ctl(&[1], &["node", "describe", "node-9"]), "HC-3003", 1);
    refused(&cluster.ctl(&[1], &["node", "remove", "node-3"]), "HC-3115", 5);
    refused(&cluster.ctl(&[1], &["rebalance", "--copies", "5"]), "HC-3117", 1);
    cluster.node_mut(4).settings.push("node.id=node-2".to_owned());
    cluster.start(4);
    wait_until("it waits", PATIENCE, || cluster.log(4).contains("node-waits").then_some(()));
    refused(&cluster.ctl(&[1], &["node", "add", &address(&cluster, 4)]), "HC-3112", 1);
    refused(&cluster.ctl(&[1], &["node", "replace", "node-9", &address(&cluster, 4)]), "HC-3104", 1);
    assert_eq!(listed(&cluster, 1), before);
    cluster.stop(4);

    // Without a spare a drained node goes on voting.
    let told = until_done(&cluster, &[2], &["node", "drain", "node-1", "--wait"]);
    assert!(told.contains("no spare"), "{told}");
    let (standing, votes, leads) = one(&cluster, 2, "node-1");
    assert_eq!((standing.as_str(), votes, leads), ("draining", 1 + GROUPS as u64, 0));
    until_done(&cluster, &[2], &["node", "drain", "node-1", "--undo", "--wait"]);
    // One at a time: a node that was admitted and went away holds the next one up until it is taken back.
    cluster.start(5);
    until_done(&cluster, &[1], &["node", "add", &address(&cluster, 5)]);
    let standing = one(&cluster, 1, "node-5").0;
    if standing == "joining" {
        refused(&cluster.ctl(&[1], &["node", "remove", "node-3"]), "HC-3111", 1);
    }
    until_done(&cluster, &[1], &["node", "add", &address(&cluster, 5), "--wait"]);
    cluster.verify_replicas();
}

#[test]
fn a_removal_goes_on_when_those_who_drive_it_are_killed() {
    let mut cluster = Plan::new(3, GROUPS).with_spares(1).start();
    cluster.start(4);
    until_done(&cluster, &[1], &["node", "add", &address(&cluster, 4), "--wait"]);
    let load = Load::start(&cluster, connections(), &cluster.proxies(&[1, 2, 4]), Roaming::Next);
    go_on(&load);
    let driver = cluster.ctl_json(&[1], &["status"])["groups"][0]["leader"].as_u64().expect("it has a leader") as usize;
    let leaving = if driver == 3 { 2 } else { 3 };
    let name = format!("node-{leaving}");
    until_done(&cluster, &[driver], &["node", "remove", &name]);
    cluster.kill(driver);
    let others: Vec<usize> = cluster.running().into_iter().filter(|node| *node != leaving).collect();
    cluster.start(driver);
    until_done(&cluster, &others, &["node", "remove", &name, "--wait"]);
    assert!(cluster.wait_ended(leaving).success());
    cluster.wait_serving();
    go_on(&load);
    let written = load.stop();
    println!("errors told while the driver was killed: {:?}", written.errors);
    written.check(&cluster);
    cluster.verify_replicas();
    assert_eq!(listed(&cluster, driver).len(), 3);
}

#[test]
fn a_lone_node_grows_to_three_that_survive_the_loss_of_one() {
    let mut cluster = Plan::new(1, 1).with_spares(2).start();
    cluster.client(1).ok(&["SET", "kept", "value"]);
    for node in [2, 3] {
        cluster.start(node);
        until_done(&cluster, &[1], &["node", "add", &address(&cluster, node), "--wait"]);
    }
    until_done(&cluster, &[2], &["rebalance", "--copies", "3", "--wait"]);
    until_done(&cluster, &[2], &["rebalance", "--copies", "3", "--wait"]);
    assert!(listed(&cluster, 1).iter().all(|node| node.2 == 2), "{:?}", listed(&cluster, 1));
    cluster.wait_serving();
    cluster.kill(1);
    cluster.wait_serving_on(&[2, 3]);
    assert_eq!(cluster.client(3).call(&["GET", "kept"]).unwrap(), bulk("value"));
}

/// Four founders in three zones, three copies of each group.
fn in_zones(rebuild_after: &str) -> Cluster {
    let mut cluster = Plan::new(4, GROUPS).set(&format!("cluster.rebuild_after={rebuild_after}")).prepare();
    for (node, zone) in [(1, "a"), (2, "b"), (3, "c"), (4, "c")] {
        cluster.node_mut(node).settings.push(format!("node.zone={zone}"));
        cluster.start(node);
    }
    cluster
}

/// The zones of each group's voters.
fn zones(cluster: &Cluster, via: usize) -> Vec<Vec<String>> {
    let told = cluster.ctl_json(&[via], &["status"]);
    let zone = |id: &Value| {
        let node = told["nodes"].as_array().unwrap().iter().find(|node| node["id"] == *id);
        node.and_then(|node| node["zone"].as_str()).unwrap_or_default().to_owned()
    };
    let mut all = Vec::new();
    for group in told["groups"].as_array().unwrap() {
        let mut zones: Vec<String> = group["voters"].as_array().unwrap().iter().map(zone).collect();
        zones.sort();
        all.push(zones);
    }
    all
}

#[test]
fn a_node_that_died_is_stood_in_for_after_the_set_time_without_being_asked() {
    let mut cluster = in_zones("4s");
    // More founders than copies: every node comes to hold every group by itself, and its doors take all keys.
    cluster.wait_serving();
    until_done(&cluster, &[1], &["rebalance", "--wait"]);
    let apart = ["a", "b", "c"].map(str::to_owned).to_vec();
    assert_eq!(zones(&cluster, 2), vec![apart.clone(); GROUPS + 1]);
    let load = Load::start(&cluster, connections(), &cluster.proxies(&[1, 3, 4]), Roaming::Stay);
    go_on(&load);
    cluster.kill(2);
    let killed = env::now();
    let heard = || cluster.ctl_json(&[4], &["node", "describe", "node-2"]);
    wait_until("its death is seen", PATIENCE, || (heard()["alive"] == false).then_some(()));
    println!("seen after {:?}", killed.elapsed());
    assert!(killed.elapsed() < Duration::from_secs(5), "seen after {:?}", killed.elapsed());
    assert!(heard()["heard"]["phi"].as_f64().unwrap() > 8.0, "{}", heard());
    wait_until("others vote in its place", PATIENCE, || {
        let others = [1, 3, 4].map(|node| one(&cluster, 4, &format!("node-{node}")).1);
        // Four groups of three on three nodes, and the meta group.
        (one(&cluster, 4, "node-2").1 == 0 && others == [1 + GROUPS as u64; 3]).then_some(())
    });
    let told = heard();
    assert_eq!(
        (told["away"].as_bool(), told["alive"].as_bool(), told["zone"].as_str()),
        (Some(true), Some(false), Some("b"))
    );
    // A feed looks four times a second, and the votes may all have moved since its last look.
    wait_until("the feed tells of it", PATIENCE, || {
        let events = cluster.ctl(&[4], &["events", "-o", "json"]);
        let events = String::from_utf8_lossy(&events.stdout).into_owned();
        let told = |name| events.contains(&format!("\"{name}\""));
        ["node-silent", "node-away", "members-changed"].into_iter().all(told).then_some(())
    });
    let told = format!("{:?}", cluster.client(4).must(&["HC.EVENTS", "COUNT", "1000"]));
    assert!(told.contains("node-away") && told.contains("missed"), "{told}");
    let unwell = cluster.ctl(&[1], &["doctor"]);
    let told = String::from_utf8_lossy(&unwell.stdout).into_owned();
    assert!(unwell.status.code() == Some(1) && told.contains("node-down: node-2"), "{told}");
    // With its votes where they were, a second loss would be the end.
    cluster.kill(3);
    go_on(&load);
    cluster.start(3);
    cluster.start(2);
    wait_until("it gets its share again", PATIENCE * 2, || {
        let told = cluster.ctl_json(&[4], &["node", "describe", "node-2"]);
        (told["away"] == false && zones(&cluster, 4) == vec![apart.clone(); GROUPS + 1]).then_some(())
    });
    cluster.wait_serving();
    go_on(&load);
    load.stop().check(&cluster);
    cluster.verify_replicas();
    let well = cluster.ctl_json(&[1], &["doctor"]);
    assert_eq!((well["ok"].as_bool(), well["answered"].as_u64()), (Some(true), Some(4)), "{well}");
}

#[test]
fn a_leader_without_a_majority_is_not_ready() {
    let cluster = Plan::new(3, GROUPS).start();
    cluster.gather_leaders(1);
    wait_until("it leads the meta group, too", PATIENCE, || cluster.transfer(0, 1).then_some(()));
    let ready = || http(cluster.node(1).at(Door::Http), "GET", "/readyz", "").map(|(status, _)| status).ok();
    wait_until("it is ready", PATIENCE, || (ready() == Some(200)).then_some(()));
    [2, 3].into_iter().for_each(|node| cluster.freeze(node));
    wait_until("it says that nobody confirms it", PATIENCE, || (ready() == Some(503)).then_some(()));
    [2, 3].into_iter().for_each(|node| cluster.thaw(node));
    wait_until("it is ready again", PATIENCE, || (ready() == Some(200)).then_some(()));
}

#[test]
fn a_lost_majority_is_given_up_for_a_cluster_of_one_survivor_that_has_the_data() {
    let mut cluster = Plan::new(3, GROUPS).with_spares(1).start();
    let load = Load::start(&cluster, connections(), &cluster.proxies(&[1, 2, 3]), Roaming::Stay);
    go_on(&load);
    let written = load.stop();
    // Everything is on every node before two disks go.
    cluster.verify_replicas();
    let old = cluster.ctl_json(&[1], &["status"])["cluster_id"].as_str().unwrap().to_owned();
    cluster.kill_all(&[1, 2, 3]);
    [2, 3].into_iter().for_each(|node| fs::remove_dir_all(&cluster.node(node).data).unwrap());
    let config = cluster.node(1).config_file().display().to_string();
    let recover = ["recover", "--config", &config];
    let told = cluster.ctl_json(&[], &recover);
    assert_eq!((told["recovered"].as_bool(), told["groups"].as_array().unwrap().len()), (Some(false), GROUPS + 1));
    refused(&cluster.ctl(&[], &[&recover[..], &["--unsafe"]].concat()), "HC-3210", 5);
    let wrong = "0".repeat(40);
    refused(&cluster.ctl(&[], &[&recover[..], &["--unsafe", "--cluster-id", &wrong]].concat()), "HC-3210", 5);
    // One that was cut off is finished before anything else.
    let identity = cluster.node(1).data.join("identity.json");
    let half = "5".repeat(40);
    let mut card: Value = serde_json::from_slice(&fs::read(&identity).unwrap()).unwrap();
    card["becoming"] = half.as_str().into();
    fs::write(&identity, card.to_string()).unwrap();
    let refused = cluster.node(1).command().output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("was begun here and not finished"));
    assert!(!refused.status.success());
    let done = cluster.ctl_json(&[], &[&recover[..], &["--unsafe", "--cluster-id", &old]].concat());
    assert_eq!(done["cluster_id"], half.as_str(), "it goes on with the id of then");
    let new = done["cluster_id"].as_str().unwrap().to_owned();
    assert!(done["recovered"] == true && new != old && new.len() == 40, "{done}");
    let again = cluster.ctl_json(&[], &[&recover[..], &["--unsafe", "--cluster-id", &old]].concat());
    let ends = |told: &Value| (told["cluster_id"].clone(), told["given_up"].clone(), told["recovered"].clone());
    assert_eq!(ends(&again), ends(&done), "done twice it is the same");
    assert_eq!(again["given_up"], old.as_str());
    cluster.start(1);
    cluster.wait_serving_on(&[1]);
    written.check(&cluster);
    wait_until("it knows that it is alone", PATIENCE, || {
        let told = cluster.ctl_json(&[1], &["status"]);
        (told["nodes"].as_array().unwrap().len() == 1 && told["cluster_id"] == new.as_str()).then_some(())
    });
    cluster.start(4);
    until_done(&cluster, &[1], &["node", "add", &address(&cluster, 4), "--wait"]);
    until_done(&cluster, &[1], &["rebalance", "--copies", "2", "--wait"]);
    cluster.wait_serving();
    written.check(&cluster);
    cluster.verify_replicas();
}

#[test]
fn a_node_that_was_cut_off_while_it_was_removed_hears_of_it_and_ends() {
    let mut cluster = Plan::new(4, GROUPS).set("cluster.replication_factor=3").start();
    until_done(&cluster, &[1], &["rebalance", "--wait"]);
    cluster.freeze(4);
    until_done(&cluster, &[1], &["node", "remove", "node-4", "--wait"]);
    cluster.thaw(4);
    assert!(cluster.wait_ended(4).success(), "it ends in order: {}", cluster.log(4));
    assert!(cluster.log(4).contains("node-removed"), "{}", cluster.log(4));
    cluster.start(4);
    assert!(!cluster.wait_ended(4).success(), "and does not come back");
    cluster.wait_serving();
}

#[test]
fn a_cluster_that_grew_by_invitation_comes_back_after_all_of_it_was_killed() {
    let mut cluster = Plan::new(1, 1).with_spares(2).start();
    for node in [2, 3] {
        cluster.start(node);
        until_done(&cluster, &[1], &["node", "add", &address(&cluster, node), "--wait"]);
    }
    until_done(&cluster, &[1], &["rebalance", "--copies", "3", "--wait"]);
    cluster.wait_serving();
    cluster.client(2).ok(&["SET", "kept", "value"]);
    cluster.kill_all(&[1, 2, 3]);
    // Those who were invited find each other without the founder.
    cluster.start(2);
    cluster.start(3);
    cluster.wait_serving_on(&[2, 3]);
    assert_eq!(cluster.client(3).call(&["GET", "kept"]).unwrap(), bulk("value"));
    cluster.start(1);
    cluster.wait_serving();
    assert_eq!(cluster.client(1).call(&["GET", "kept"]).unwrap(), bulk("value"));
}
