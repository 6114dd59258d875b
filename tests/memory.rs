//! A cluster that is filled far beyond its memory: it evicts through its logs, stays within bounds, and its replicas stay
//! equal; what nobody may leave for is refused before it is proposed; limits and policies change while it runs.
//!
//! `HYPERCACHE_TEST_OPERATIONS` (24,000) writes of about 1 KB, three times the memory.

mod cluster;

use cluster::{Cluster, Plan, code_of, size, text_of, wait_until};
use hypercache::resp::Reply;

const GROUPS: u32 = 4;
const MAX_MEMORY: u64 = 8 << 20;
/// What a group may hold beyond its limit: keys that were written between their choice and their eviction.
const SLACK: f64 = 1.05;

fn on_group(cluster: &Cluster, node: usize, name: &str, group: u32) -> f64 {
    cluster.metric(node, name, &[("group", &group.to_string())]).unwrap_or(0.0)
}

fn sum(cluster: &Cluster, node: usize, name: &str) -> f64 {
    (1..=GROUPS).map(|group| on_group(cluster, node, name, group)).sum()
}

/// Every group of every node has its limit, and together they are no more than the cluster's.
fn wait_for_limits(cluster: &Cluster, max: u64) {
    wait_until("every group has its limit", cluster::PATIENCE, || {
        cluster
            .numbers()
            .iter()
            .all(|node| {
                let limits = sum(cluster, *node, "hypercache_group_limit_bytes");
                limits > max as f64 * 0.9 && limits <= max as f64
            })
            .then_some(())
    });
}

fn within_limits(cluster: &Cluster) {
    for node in cluster.numbers() {
        for group in 1..=GROUPS {
            let used = on_group(cluster, node, "hypercache_group_used_bytes", group);
            let limit = on_group(cluster, node, "hypercache_group_limit_bytes", group);
            assert!(used <= limit * SLACK, "node {node}, group {group}: {used} used of {limit}");
        }
    }
}

fn fill(cluster: &Cluster, node: usize, keys: std::ops::Range<u64>) -> Vec<Reply> {
    let filler = "x".repeat(1000);
    let set = |i: u64| vec!["SET".to_owned(), format!("key:{i}"), format!("{i}:{filler}")];
    let commands: Vec<Vec<String>> = keys.map(set).collect();
    cluster.client(node).pipeline(&commands).expect("the cluster answers")
}

#[test]
fn a_full_cluster_evicts_by_agreement() {
    let operations = size("HYPERCACHE_TEST_OPERATIONS", 24_000);
    let plan = Plan::new(3, GROUPS as usize).set(&format!("cache.max_memory={MAX_MEMORY}"));
    let cluster = plan.set("cache.eviction_policy=s3-fifo").start();
    wait_for_limits(&cluster, MAX_MEMORY);

    for (turn, first) in (0..operations).step_by(1000).enumerate() {
        let replies = fill(&cluster, 1 + turn % 3, first..first + 1000);
        assert!(replies.iter().all(|reply| *reply == Reply::OK), "something may always leave");
        within_limits(&cluster);
        if turn == 8 {
            cluster.gather_leaders(2);
        }
    }
    assert!(sum(&cluster, 1, "hypercache_group_evicted_keys_total") > operations as f64 / 3.0);
    assert!(sum(&cluster, 1, "hypercache_group_used_bytes") > MAX_MEMORY as f64 * 0.7, "what is there is used");
    cluster.verify_replicas();
    let info = text_of(&cluster.client(3).must(&["INFO"])).expect("INFO is text");
    assert!(info.contains("maxmemory_policy:s3-fifo") && info.contains(&format!("maxmemory:{MAX_MEMORY}")), "{info}");
    let evicted = info.lines().find_map(|line| line.strip_prefix("evicted_keys:")).and_then(|n| n.trim().parse().ok());
    assert!(evicted.is_some_and(|n: u64| n > 0), "{info}");

    refuses_what_nobody_leaves_for(&cluster);

    // Half of it, with a policy that takes any key again: it shrinks by itself.
    cluster.client(3).ok(&["CONFIG", "SET", "maxmemory", "4mb", "maxmemory-policy", "allkeys-lru"]);
    wait_for_limits(&cluster, 4 << 20);
    wait_until("the state has shrunk", cluster::PATIENCE, || {
        let used = sum(&cluster, 1, "hypercache_group_used_bytes");
        (used <= (4 << 20) as f64).then_some(())
    });
    assert!(fill(&cluster, 1, 0..500).iter().all(|reply| *reply == Reply::OK));
    within_limits(&cluster);
    cluster.verify_replicas();
}

fn refuses_what_nobody_leaves_for(cluster: &Cluster) {
    cluster.client(2).ok(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    for node in cluster.numbers() {
        wait_until("every node knows the policy", cluster::PATIENCE, || {
            let reply = cluster.client(node).must(&["CONFIG", "GET", "maxmemory-policy"]);
            format!("{reply:?}").contains("noeviction").then_some(())
        });
    }
    let mut refused = 0;
    wait_until("all groups are full", cluster::PATIENCE, || {
        let replies = fill(cluster, 1, 1_000_000 + refused..1_000_000 + refused + 1000);
        refused += 1000;
        replies.iter().all(|reply| matches!(reply, Reply::Error(_)) && code_of(reply) == "OOM").then_some(())
    });
    // Refused before it is proposed: no log grows for it.
    let last = |node| sum(cluster, node, "hypercache_group_last_log_index");
    let before = last(1);
    assert!(fill(cluster, 1, 2_000_000..2_000_500).iter().all(|reply| code_of(reply) == "OOM"));
    assert_eq!(last(1), before);
    assert!(matches!(cluster.client(1).must(&["GET", "nothing"]), Reply::Nil));
    within_limits(cluster);
    let bad = cluster.client(1).call(&["CONFIG", "SET", "maxmemory-policy", "mru"]).expect("there is an answer");
    assert!(format!("{bad:?}").contains("argument must be one of the following"), "{bad:?}");
}
