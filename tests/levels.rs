//! Read levels: who answers them, and what is left of each when two of three nodes are frozen.
//!
//! | | all nodes run | one of three runs |
//! |---|---|---|
//! | linearizable, lease, writes | answered | refused within the request's time, never answered from old state |
//! | bounded | by followers | by the follower until its state is older than the bound, then refused |
//! | eventual | by followers | by the follower |

mod cluster;

use cluster::{Client, Cluster, Plan, bulk, code_of};
use hypercache::env;
use hypercache::resp::Reply;
use std::time::Duration;

const READS: usize = 100;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// What a reply may take beyond the request's own time: forwarded commands wait half a second more for their fate, and
/// this machine may be busy.
const GRACE: Duration = Duration::from_secs(2);

fn plan() -> Plan {
    Plan::new(3, 1).set("limits.request_timeout=2s")
}

/// Reads by level that a node counted in this role.
fn counted(cluster: &Cluster, node: usize, level: &str, role: &str) -> u64 {
    cluster.metric(node, "hypercache_reads_total", &[("level", level), ("role", role)]).unwrap_or(0.0) as u64
}

#[test]
fn followers_answer_eventual_and_bounded_reads() {
    let cluster = plan().start();
    let leader = cluster.wait_leader_of("k", 1);
    let follower = 1 + leader % 3;
    let mut client = cluster.client(follower);
    client.ok(&["SET", "k", "v"]);
    // An eventual read promises no more than some committed prefix: this one has the follower catch up.
    assert_eq!(client.must(&["GET", "k"]), bulk("v"));
    for (level, words) in
        [("eventual", &["eventual"][..]), ("bounded", &["bounded", "5000"]), ("bounded", &["bounded:5000"])]
    {
        let before = counted(&cluster, follower, level, "follower");
        let at_leader = counted(&cluster, leader, level, "leader");
        client.ok(&[&["CLIENT", "CONSISTENCY"], words].concat());
        let said = cluster::text_of(&client.must(&["CLIENT", "CONSISTENCY"])).expect("the level is said");
        assert_eq!(said, words.join(":"));
        for _ in 0..READS {
            assert_eq!(client.must(&["GET", "k"]), bulk("v"));
        }
        assert_eq!(counted(&cluster, follower, level, "follower") - before, READS as u64, "{level}: by the follower");
        assert_eq!(counted(&cluster, leader, level, "leader"), at_leader, "{level}: the leader was not needed");
    }
    client.ok(&["CLIENT", "CONSISTENCY", "default"]);
    assert_eq!(client.must(&["CLIENT", "CONSISTENCY"]), bulk("linearizable"));
    assert_eq!(code_of(&client.must(&["CLIENT", "CONSISTENCY", "strong"])), "ERR");

    // By request, whatever the connection's own level.
    for (level, words) in [("eventual", &["eventual"][..]), ("bounded", &["bounded", "5000"]), ("lease", &["lease"])] {
        let count = |role| counted(&cluster, follower, level, role);
        let before = count("follower");
        for _ in 0..READS {
            assert_eq!(client.must(&[&["HC.READ"], words, &["GET", "k"]].concat()), bulk("v"));
        }
        assert_eq!(count("follower") - before, READS as u64, "{level}");
    }
    assert_eq!(client.must(&["CLIENT", "CONSISTENCY"]), bulk("linearizable"), "HC.READ is for one request");
    assert_eq!(code_of(&client.must(&["HC.READ", "eventual", "SET", "k", "w"])), "ERR", "a write has no read level");
    println!("eventual, bounded: every one of {READS} reads was answered by the follower");
}

#[test]
fn readonly_lets_a_cluster_client_read_at_a_replica() {
    let cluster = plan().start();
    let leader = cluster.wait_leader_of("k", 1);
    let follower = 1 + leader % 3;
    cluster.client(leader).ok(&["SET", "k", "v"]);
    let mut client = cluster.cluster_client(follower);
    let moved = client.must(&["GET", "k"]);
    let expected = cluster.node(leader).at(cluster::Door::ClusterFace).to_string();
    assert_eq!(code_of(&moved), "MOVED");
    assert!(format!("{moved:?}").contains(&expected), "{moved:?} names {expected}");
    client.ok(&["READONLY"]);
    let before = counted(&cluster, follower, "eventual", "follower");
    cluster::wait_until("the replica has the value", cluster::PATIENCE, || {
        (client.must(&["GET", "k"]) == bulk("v")).then_some(())
    });
    assert!(counted(&cluster, follower, "eventual", "follower") > before);
    assert_eq!(code_of(&client.must(&["SET", "k", "w"])), "MOVED", "writes go to the leader all the same");
    client.ok(&["READWRITE"]);
    assert_eq!(code_of(&client.must(&["GET", "k"])), "MOVED");
}

/// A read or write that cannot be done without a quorum: refused, and in time. Gives the code.
fn refused(client: &mut Client, words: &[&str]) -> String {
    let began = env::now();
    let reply = client.must(words);
    let took = began.elapsed();
    let code = code_of(&reply);
    let allowed: &[&str] =
        if words[0] == "SET" { &["CLUSTERDOWN", "TRYAGAIN", "UNCERTAIN"] } else { &["CLUSTERDOWN", "TRYAGAIN"] };
    assert!(allowed.contains(&code.as_str()), "{words:?} without a quorum: {reply:?}");
    assert!(took < REQUEST_TIMEOUT + GRACE, "{words:?} was refused after {took:?}");
    println!("{words:?}: {code} after {took:?}");
    code
}

#[test]
fn without_a_quorum_only_weak_reads_go_on() {
    const BOUND: Duration = Duration::from_millis(4000);
    let cluster = plan().start();
    let leader = cluster.wait_leader_of("k", 1);
    let left = 1 + leader % 3;
    let frozen: Vec<usize> = cluster.numbers().into_iter().filter(|n| *n != left).collect();
    let mut client = cluster.client(left);
    client.ok(&["SET", "k", "v"]);
    let mut bounded = cluster.client(left);
    bounded.ok(&["CLIENT", "CONSISTENCY", "bounded", "4000"]);
    let mut eventual = cluster.client(left);
    eventual.ok(&["CLIENT", "CONSISTENCY", "eventual"]);
    // The follower learns how old its state is when it asks; this makes it ask.
    assert_eq!(bounded.must(&["HC.READ", "bounded", "1", "GET", "k"]), bulk("v"));
    let learnt = env::now();
    frozen.iter().for_each(|n| cluster.freeze(*n));
    let since = env::now();

    let mut answered = 0;
    let (last_answered, first_refused) = loop {
        let sent = env::now();
        match bounded.must(&["GET", "k"]) {
            reply if reply == bulk("v") => {
                assert!(sent - since < BOUND, "answered {:?} after the leader was frozen", sent - since);
                answered += 1;
            }
            reply => {
                assert_eq!(code_of(&reply), "CLUSTERDOWN", "{reply:?}");
                break (sent, env::now());
            }
        }
        assert_eq!(eventual.must(&["GET", "k"]), bulk("v"), "eventual reads go on");
    };
    println!(
        "bounded 4000 ms: {answered} answered in the first {:?}, refused after {:?}",
        last_answered - since,
        first_refused - since
    );
    assert!(last_answered - learnt >= BOUND * 9 / 10, "they went on nearly as long as the bound allows");
    assert!(answered > 100, "{answered}");

    refused(&mut client, &["GET", "k"]);
    refused(&mut client, &["HC.READ", "lease", "GET", "k"]);
    let code = refused(&mut client, &["SET", "k", "w"]);
    refused(&mut client, &["HC.READ", "linearizable", "GET", "k"]);
    for _ in 0..READS {
        assert_eq!(eventual.must(&["GET", "k"]), bulk("v"), "eventual reads go on");
    }
    assert_eq!(code_of(&bounded.must(&["GET", "k"])), "CLUSTERDOWN");

    frozen.iter().for_each(|n| cluster.thaw(*n));
    cluster.wait_serving();
    let now = client.must(&["GET", "k"]);
    assert!(now == bulk("v") || (code == "UNCERTAIN" && now == bulk("w")), "{now:?} after {code}");
    assert_ne!(bounded.must(&["GET", "k"]), Reply::Nil);
}
