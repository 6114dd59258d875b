//! maxmemory and its policy through the doors of one node.

use super::*;
use crate::cluster::MoveSlots;
use crate::slot::slot_of;
use crate::state::SlotSet;
use crate::state::eviction::{Kind, Limit};

fn limit(rig: &Rig) -> Limit {
    rig.group(1).peek(|keyspace| keyspace.limit())
}

fn used(rig: &Rig) -> u64 {
    rig.group(1).peek(|keyspace| keyspace.used_bytes())
}

/// Waits for what the node does by itself, a few looks later.
async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let limit = env::now() + PATIENCE;
    while !is() {
        assert!(env::now() < limit, "waited in vain until {what}");
        env::sleep(Duration::from_millis(5)).await;
    }
}

fn sets(keys: std::ops::Range<u32>) -> String {
    keys.map(|n| format!("SET k{n} {}\n", "x".repeat(100))).collect()
}

#[tokio::test]
async fn a_full_group_refuses_or_evicts_as_the_cluster_says() {
    let rig = rig(1).await;
    let mut c = rig.proxy().await;
    assert_eq!(c.ask("CONFIG SET maxmemory 100kb maxmemory-policy noeviction").await, "OK");
    until("the limit is in the group's log", || limit(&rig).bytes > 0).await;
    assert_eq!(limit(&rig), Limit { bytes: 102_400, policy: Kind::NoEviction, samples: 5 });

    let replies = c.ask_all(&sets(0..1000)).await;
    let refused = replies.iter().filter(|reply| reply.starts_with("-OOM command not allowed")).count();
    assert_eq!(replies.iter().filter(|reply| *reply == "OK").count() + refused, 1000);
    assert!(refused > 150 && used(&rig) <= 102_400, "{refused} refused, {} used", used(&rig));

    // Refused before it is proposed; what stands beside it goes on.
    let last = || rig.group(1).status().last_log;
    let before = last();
    let large = format!("SET another {}", "x".repeat(200));
    assert!(c.ask(&large).await.starts_with("-OOM"));
    assert_eq!(last(), before);
    assert_eq!(c.ask_all(&format!("{large}\nDEL k0\nGET k1\nEXPIRE k1 100\n")).await[1..2], ["1"]);
    assert!(c.ask("INFO memory").await.contains("memory_pressure:95"));

    assert_eq!(c.ask("CONFIG SET maxmemory-policy s3-fifo").await, "OK");
    until("the policy is in the group's log", || limit(&rig).policy == Kind::S3Fifo).await;
    let replies = c.ask_all(&sets(1000..3000)).await;
    assert!(replies.iter().all(|reply| reply == "OK"), "{:?}", replies.iter().find(|reply| *reply != "OK"));
    assert!(used(&rig) <= 102_400 * 21 / 20, "{}", used(&rig));
    assert!(rig.group(1).status().evicted > 1500);

    assert_eq!(c.ask("CONFIG SET maxmemory 10kb").await, "OK");
    until("the state has shrunk", || used(&rig) <= 10_240).await;
    assert_eq!(c.ask("CONFIG SET maxmemory 0").await, "OK");
    until("there is no limit", || limit(&rig).bytes == 0).await;
    assert!(c.ask_all(&sets(0..1000)).await.iter().all(|reply| reply == "OK"));
}

/// Whoever leads the meta group has replicas of two of the three groups, and knows what the third uses all the same.
#[tokio::test]
async fn a_group_gets_its_share_wherever_the_shares_are_dealt() {
    let nodes = testing::three_with_replicas(3, 2).await;
    let meta = |node: &Arc<Cluster>| node.host().group(GroupId::META).expect("every node has it");
    until("the meta group is led", || nodes.iter().any(|node| meta(node).is_leader())).await;
    let leader = nodes.iter().find(|node| meta(node).is_leader()).expect("it was there a moment ago");
    let missing = (1..=3).map(GroupId).find(|id| leader.host().group(*id).is_none()).expect("it has two of three");
    let holder = nodes.iter().find(|node| node.host().group(missing).is_some()).expect("two nodes have it").clone();
    let used = holder.host().group(missing).expect("it was just found");
    let rig = rig_on(holder, |_| {}).await;
    let (mut c, tag) = (rig.proxy().await, rig.key_in(missing.0));
    let sets: String = (0..2000).map(|n| format!("SET {{{tag}}}{n} {}\n", "x".repeat(100))).collect();
    assert!(c.ask_all(&sets).await.iter().all(|reply| reply == "OK"));
    // Whoever sets a value reads it, in one pipeline, too.
    let replies = c
        .ask_all("CONFIG SET maxmemory 7mb\nCONFIG GET maxmemory\nCONFIG SET maxmemory 9mb\nCONFIG GET maxmemory")
        .await;
    assert_eq!((&replies[1][..], &replies[3][..]), ("[maxmemory 7340032]", "[maxmemory 9437184]"));
    assert_eq!(c.ask("CONFIG SET maxmemory 8mb maxmemory-policy noeviction").await, "OK");
    // Of an eighth, dealt by slots, it has half; of what is dealt by use, all.
    let share = || used.peek(|keyspace| keyspace.limit()).bytes;
    until("the group that uses most has most", || share() > (8 << 20) * 9 / 10).await;
}

/// A group that uses little has a small share, and would keep it for as long as the slot does not come.
#[tokio::test]
async fn a_slot_is_given_its_room_where_others_have_not_used_theirs() {
    let rig = rig(2).await;
    let mut c = rig.proxy().await;
    let sets: String = (0..100).map(|n| format!("SET {{a}}{n} {}\n", "x".repeat(3000))).collect();
    assert!(c.ask_all(&sets).await.iter().all(|reply| reply == "OK"));
    let slots: SlotSet = [slot_of(b"a")].into_iter().collect();
    let from = rig.cluster.table().group_of(slot_of(b"a"));
    let to = GroupId(3 - from.0);
    for policy in ["noeviction", "allkeys-lru"] {
        assert_eq!(c.ask(&format!("CONFIG SET maxmemory 1mb maxmemory-policy {policy}")).await, "OK");
        let room = || rig.group(to.0).peek(|keyspace| keyspace.limit()).bytes;
        until("the memory is dealt by what is used", || (1..200_000).contains(&room())).await;
        let wish = MoveSlots { slots: slots.clone(), to: Some(to) };
        rig.cluster.move_slots(&wish, false, env::now() + PATIENCE).await.expect("it is granted");
        let there = || rig.cluster.moving(&wish).expect("there is a table").missing.is_empty();
        until("the slot is where it was to go", there).await;
        assert_eq!(rig.group(to.0).peek(|keyspace| keyspace.slot_len(slot_of(b"a"))), 100, "nothing had to leave");
        let back = MoveSlots { slots: slots.clone(), to: Some(from) };
        assert_eq!(c.ask("CONFIG SET maxmemory 0").await, "OK");
        until("there is no limit", || [1, 2].iter().all(|id| rig.group(*id).peek(|keys| keys.limit().bytes) == 0))
            .await;
        rig.cluster.move_slots(&back, false, env::now() + PATIENCE).await.expect("it is granted");
        until("it is back", || rig.cluster.moving(&back).expect("there is a table").missing.is_empty()).await;
    }
}

#[tokio::test]
async fn what_cannot_be_set_is_refused_and_changes_nothing() {
    let rig = rig(1).await;
    let mut c = rig.proxy().await;
    for (wrong, why) in [
        ("CONFIG SET maxmemory lots", "argument must be a memory value"),
        ("CONFIG SET maxmemory-policy mru", "argument must be one of the following"),
        ("CONFIG SET maxmemory-samples 0", "argument must be between 1 and 64"),
        ("CONFIG SET maxmemory 1gb maxmemory-policy mru", "argument must be one of the following"),
        ("CONFIG SET timeout 5 maxmemory 1gb", "cannot be set together"),
    ] {
        let reply = c.ask(wrong).await;
        assert!(reply.starts_with("-ERR CONFIG SET failed") && reply.contains(why), "{wrong}: {reply}");
    }
    let shown = c.ask("CONFIG GET maxmemory*").await;
    assert!(
        shown.contains("maxmemory=0") || shown.contains("maxmemory 0") || shown.contains("maxmemory, 0"),
        "{shown}"
    );
    assert!(c.ask("CONFIG GET timeout").await.contains('0'));
}
