//! Gossip between real processes: a node that waits is found and added by its name, nodes that all moved find each other again,
//! and without gossip everything goes by addresses, as before there was any.

mod cluster;

use cluster::{Cluster, Door, PATIENCE, Plan, bulk, wait_until};
use serde_json::Value;
use std::net::SocketAddr;

/// Far enough behind a node's own ports to be nobody's, and in the cluster's block.
const MOVED_BY: u16 = 30;

fn peer(cluster: &Cluster, node: usize) -> SocketAddr {
    cluster.node(node).at(Door::Peer)
}

/// The rows of `node list` with this standing.
fn standing(cluster: &Cluster, via: usize, standing: &str) -> Vec<Value> {
    let told = cluster.ctl_json(&[via], &["node", "list"]);
    let rows = told["nodes"].as_array().expect("a list of nodes").iter();
    rows.filter(|row| row["standing"] == standing).cloned().collect()
}

fn wait_for_waiting(cluster: &Cluster, via: usize, count: usize) -> Vec<Value> {
    wait_until(&format!("node {via} hears {count} that wait"), PATIENCE, || {
        let waiting = standing(cluster, via, "waiting");
        (waiting.len() == count).then_some(waiting)
    })
}

fn refused(cluster: &Cluster, words: &[&str], code: &str) -> String {
    let output = cluster.ctl(&[1], words);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains(&format!("error[{code}]")) && text.contains("remedy:"), "{code} was expected: {text}");
    assert_eq!(output.status.code(), Some(1), "{text}");
    text
}

fn add(cluster: &Cluster, node: &str) {
    let output = cluster.ctl(&[1], &["node", "add", node, "--wait", "--timeout", "120"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_node_that_waits_is_found_through_one_seed_and_added_by_its_name() {
    let mut cluster = Plan::new(3, 2).with_spares(2).start();
    let seed = format!("cluster.seeds={}", peer(&cluster, 2));
    for spare in [4, 5] {
        // Of one name, so that the name alone does not say who is meant.
        cluster.node_mut(spare).settings.extend([seed.clone(), "node.id=newcomer".to_owned()]);
    }
    refused(&cluster, &["node", "add", "newcomer"], "HC-3121");
    cluster.start(4);
    for via in [1, 2, 3] {
        let waiting = wait_for_waiting(&cluster, via, 1);
        assert_eq!((&waiting[0]["name"], &waiting[0]["id"]), (&"newcomer".into(), &Value::Null));
        assert_eq!(waiting[0]["addresses"]["peer"], peer(&cluster, 4).to_string());
    }
    assert_eq!(standing(&cluster, 1, "member").len(), 3, "to be heard is not to belong");
    cluster.start(5);
    (1..=3).for_each(|via| drop(wait_for_waiting(&cluster, via, 2)));
    let text = refused(&cluster, &["node", "add", "newcomer"], "HC-3122");
    assert!([4, 5].iter().all(|node| text.contains(&peer(&cluster, *node).to_string())), "{text}");
    cluster.stop(5);
    (1..=3).for_each(|via| drop(wait_for_waiting(&cluster, via, 1)));
    add(&cluster, "newcomer");
    add(&cluster, "newcomer");
    assert_eq!(standing(&cluster, 1, "member").len(), 4);
    (1..=3).for_each(|via| drop(wait_for_waiting(&cluster, via, 0)));
    cluster.wait_serving_on(&[4]);
    for node in 1..=4 {
        wait_until(&format!("node {node} hears its fellows"), PATIENCE, || {
            (cluster.metric(node, "hypercache_gossip_peers", &[]) == Some(3.0)).then_some(())
        });
    }
    let described = cluster.ctl_json(&[1], &["node", "describe", "newcomer"]);
    assert_eq!(described["heard"]["gossip"], true, "{described}");
}

#[test]
fn nodes_that_have_all_moved_find_each_other_by_what_they_gossip() {
    let mut cluster = Plan::new(3, 2).start();
    cluster.client(1).ok(&["SET", "kept", "value"]);
    for node in 1..=3 {
        wait_until("its fellows' gossip ports are on its disk", PATIENCE, || {
            let identity = std::fs::read(cluster.node(node).data.join("identity.json")).ok()?;
            let card: Value = serde_json::from_slice(&identity).ok()?;
            (card["gossip"].as_object()?.len() == 3).then_some(())
        });
    }
    cluster.kill_all(&[1, 2, 3]);
    let old: Vec<SocketAddr> = (1..=3).map(|node| peer(&cluster, node)).collect();
    for node in 1..=3 {
        let here = SocketAddr::new(old[node - 1].ip(), old[node - 1].port() + MOVED_BY);
        // Each knows where it is itself, and where the others were.
        let seeds = (1..=3).map(|other| if other == node { here } else { old[other - 1] }.to_string());
        let seeds = seeds.collect::<Vec<_>>().join(",");
        let moved = [format!("node.bind_addr={here}"), format!("cluster.seeds={seeds}")];
        cluster.node_mut(node).settings.extend(moved);
        cluster.start(node);
    }
    cluster.wait_serving();
    assert_eq!(cluster.client(3).call(&["GET", "kept"]).unwrap(), bulk("value"));
    assert!((1..=3).any(|node| cluster.log(node).contains("peer-moved")), "it was gossip that said where");
    cluster.verify_replicas();
}

#[test]
fn without_gossip_nodes_are_added_by_their_addresses_as_ever() {
    let mut cluster = Plan::new(3, 2).with_spares(1).set("node.gossip_addr=off").start();
    cluster.start(4);
    wait_until("it waits", PATIENCE, || cluster.log(4).contains("node-waits").then_some(()));
    let text = refused(&cluster, &["node", "add", "node-4"], "HC-3121");
    assert!(text.contains("does not gossip"), "{text}");
    add(&cluster, &peer(&cluster, 4).to_string());
    assert_eq!(standing(&cluster, 1, "member").len(), 4);
    cluster.wait_serving_on(&[4]);
    assert_eq!(cluster.metric(1, "hypercache_gossip_peers", &[]), Some(0.0));
    let described = cluster.ctl_json(&[1], &["node", "describe", "node-4"]);
    assert_eq!(described["heard"]["gossip"], Value::Null, "{described}");
}
