//! What groups seed the hashes of their keys with: drawn for each cluster, the same on all its nodes, and told to nobody.

use super::*;
use crate::server::{http, overview::Overview};
use std::collections::BTreeSet;
use tokio::net::TcpListener;

fn seed(cluster: &Cluster, group: u32) -> u64 {
    cluster.host().group(GroupId(group)).expect("every node has every group").peek(|keyspace| keyspace.hash_seed())
}

#[tokio::test]
async fn each_group_of_each_cluster_has_its_own_and_all_replicas_the_same() {
    let nodes = testing::all_of_three_with(2).await;
    let other = testing::one_node_with(2).await;
    let mut drawn = BTreeSet::new();
    for group in 1..=2 {
        let seeds: BTreeSet<u64> = nodes.iter().map(|node| seed(node, group)).collect();
        assert_eq!(seeds.len(), 1, "replicas of group {group} begin alike");
        drawn.extend(seeds);
        drawn.insert(seed(&other, group));
    }
    assert_eq!(drawn.len(), 4, "no group has another's");
    // The meta group is there before anything can be agreed on.
    assert!(nodes.iter().all(|node| seed(node, 0) == seed(&other, 0)));
}

async fn page(door: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(door).await.expect("the door is open");
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("it takes a request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("it answers");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn no_door_tells_it() {
    let rig = rig(1).await;
    let mut c = rig.proxy().await;
    let mut told = c.ask("SET key value").await;
    for command in [
        "INFO everything",
        "CONFIG GET *",
        "CLUSTER INFO",
        "CLUSTER NODES",
        "CLUSTER SHARDS",
        "CLIENT LIST",
        "SLOWLOG GET",
        "SCAN 0",
        "HC.VERIFY",
        "GET table",
        "KEYS *",
    ] {
        told += &c.ask(command).await;
    }
    let overview = Overview::new(rig.cluster.clone());
    told += &serde_json::to_string(&rig.group(1).status()).expect("a status is plain data");
    told += &format!("{:?}", rig.cluster.table());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let door = listener.local_addr().expect("it is bound");
    let (close, closed) = tokio::sync::oneshot::channel::<()>();
    let stop = async move { drop(closed.await) };
    tokio::spawn(http::serve(listener, overview, http::Options::default(), stop));
    for path in ["/health", "/readyz", "/metrics", "/api/stats", "/api/cluster", "/api/config", "/api/cache/table"] {
        told += &page(door, path).await;
    }
    drop(close);
    assert!(told.contains("hypercache_") && told.len() > 5_000, "there was something to read: {}", told.len());
    let seed = seed(&rig.cluster, 1);
    for form in [seed.to_string(), (seed as i64).to_string(), format!("{seed:x}"), format!("{:x}", seed.swap_bytes())] {
        assert!(!told.contains(&form), "{form} is in what the doors tell");
    }
}
