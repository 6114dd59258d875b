//! Subscriptions and messages over real sockets, on one node and on three.

use super::*;

/// Doors of all three nodes of a cluster.
pub(super) async fn three(groups: u32) -> Vec<Rig> {
    let mut rigs = Vec::new();
    for cluster in testing::all_of_three_with(groups).await {
        rigs.push(rig_on(cluster, |_| {}).await);
    }
    // Whoever leads has been heard of everywhere.
    for rig in &rigs {
        let mut c = rig.proxy().await;
        testing::until(|| rig.cluster.table().nodes.len() == 3).await;
        let groups = rig.cluster.host().groups();
        testing::until(|| groups.iter().all(|group| group.leader().is_some())).await;
        assert_eq!(c.ask("PING").await, "PONG");
        let peers = rig.cluster.host().peers();
        for node in rig.cluster.table().nodes.keys().filter(|node| **node != rig.cluster.me_id()) {
            let link = peers.link(*node, crate::raft::wire::Lane::Messages);
            testing::until(|| link.up()).await;
        }
    }
    rigs
}

#[tokio::test]
async fn a_listener_in_resp2_hears_and_may_do_little_else() {
    let rig = rig(1).await;
    let (mut c, mut p) = (rig.proxy().await, rig.proxy().await);
    c.pipeline("SUBSCRIBE a b\nPSUBSCRIBE n?ws\nSSUBSCRIBE s\nSUBSCRIBE a\nPING\nPING x\nGET k\nCLIENT LIST").await;
    for expected in [
        "[subscribe a 1]",
        "[subscribe b 2]",
        "[psubscribe n?ws 3]",
        "[ssubscribe s 1]",
        "[subscribe a 3]",
        "[pong ]",
        "[pong x]",
        "-ERR Can't execute 'get': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context",
        "-ERR Can't execute 'client|list': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context",
    ] {
        assert_eq!(c.read().await, expected);
    }
    let replies =
        p.ask_all("PUBLISH a 1\nPUBLISH news 2\nPUBLISH s 3\nSPUBLISH s 4\nSPUBLISH a 5\nPUBLISH nobody 6").await;
    assert_eq!(replies, ["1", "1", "0", "1", "0", "0"]);
    assert_eq!(c.read().await, "[message a 1]");
    assert_eq!(c.read().await, "[pmessage n?ws news 2]");
    assert_eq!(c.read().await, "[smessage s 4]");
    let replies =
        p.ask_all("PUBSUB CHANNELS\nPUBSUB CHANNELS a*\nPUBSUB NUMSUB a x\nPUBSUB NUMPAT\nPUBSUB SHARDCHANNELS\nPUBSUB SHARDNUMSUB s a").await;
    assert_eq!(replies, ["[a b]", "[a]", "[a 1 x 0]", "1", "[s]", "[s 1 a 0]"]);
    c.pipeline("UNSUBSCRIBE\nUNSUBSCRIBE\nPUNSUBSCRIBE n?ws\nSUNSUBSCRIBE other\nSUNSUBSCRIBE\nGET k").await;
    for expected in [
        "[unsubscribe a 2]",
        "[unsubscribe b 1]",
        "[unsubscribe nil 1]",
        "[punsubscribe n?ws 0]",
        "[sunsubscribe other 1]",
        "[sunsubscribe s 0]",
        "nil",
    ] {
        assert_eq!(c.read().await, expected);
    }
}

#[tokio::test]
async fn a_listener_in_resp3_is_pushed_to_and_may_do_everything() {
    let rig = rig(1).await;
    let (mut c, mut p) = (rig.proxy().await, rig.proxy().await);
    c.ask("HELLO 3").await;
    c.pipeline("SUBSCRIBE a").await;
    let confirmed = c.next().await;
    assert!(matches!(&confirmed, Some(Reply::Push(items)) if show(&items[0]) == "subscribe"), "{confirmed:?}");
    assert_eq!(c.ask_all("SET k v\nGET k\nPUBSUB NUMPAT").await, ["OK", "v", "0"]);
    assert_eq!(p.ask("PUBLISH a 1").await, "1");
    let heard = c.next().await;
    assert!(matches!(&heard, Some(Reply::Push(items)) if show(&items[2]) == "1"), "{heard:?}");
    // Replies may be off: pushes are none.
    c.pipeline("CLIENT REPLY OFF\nSUBSCRIBE b").await;
    assert_eq!(c.read().await, "[subscribe b 2]");
    assert_eq!(p.ask("PUBLISH b 2").await, "1");
    assert_eq!(c.read().await, "[message b 2]");
    c.pipeline("RESET\nPING").await;
    assert_eq!([c.read().await, c.read().await], ["RESET", "PONG"]);
    assert_eq!(p.ask("PUBLISH b 3").await, "0");
}

#[tokio::test]
async fn who_hears_a_message_finds_what_was_written_before_it() {
    let rig = rig(1).await;
    let (mut c, mut p, mut other) = (rig.proxy().await, rig.proxy().await, rig.proxy().await);
    assert_eq!(c.ask("SUBSCRIBE a").await, "[subscribe a 1]");
    rig.group(1).hold_writes(true);
    p.pipeline("SET k v\nPUBLISH a written\nPUBLISH a again").await;
    // What others say goes on meanwhile, and their subscriptions too.
    assert_eq!(other.ask("PUBLISH a first").await, "1");
    assert_eq!(c.read().await, "[message a first]");
    other.pipeline("SET other 1\nSUBSCRIBE a\nPING").await;
    assert_eq!(rig.proxy().await.ask("PUBSUB NUMSUB a").await, "[a 1]", "a subscription begins in its turn");
    rig.group(1).hold_writes(false);
    assert_eq!([p.read().await, p.read().await.len().to_string()], ["OK", "1"]);
    assert_eq!([c.read().await, c.read().await], ["[message a written]", "[message a again]"]);
    assert_eq!([other.read().await, other.read().await], ["OK", "[subscribe a 1]"]);
}

#[tokio::test]
async fn who_leaves_is_forgotten_and_who_does_not_read_is_closed() {
    let rig = rig(1).await;
    let mut p = rig.proxy().await;
    let mut c = rig.proxy().await;
    assert_eq!(c.ask("SUBSCRIBE a").await, "[subscribe a 1]");
    drop(c);
    let mut count = "1".to_owned();
    let limit = env::now() + PATIENCE;
    while count != "[a 0]" {
        assert!(env::now() < limit, "a connection that is gone still listens");
        count = p.ask("PUBSUB NUMSUB a").await;
    }
    let set = "CONFIG SET client-output-buffer-limit";
    p.send(format!("{set} \"pubsub 100kb 0 0\"\r\n")).await;
    assert_eq!(p.read().await, "OK");
    let shown = p.ask("CONFIG GET client-output-buffer-limit").await;
    assert!(shown.ends_with("pubsub 102400 0 0]"), "{shown}");
    let mut slow = rig.proxy().await;
    assert_eq!(slow.ask("SUBSCRIBE a").await, "[subscribe a 1]");
    // It takes what the sockets hold, and not much more.
    let message = format!("PUBLISH a {}", "x".repeat(64 << 10));
    let mut published = 0;
    while p.ask(&message).await == "1" {
        published += 1;
        assert!(published < 10_000, "nobody closes it");
    }
    let mut heard = 0;
    while let Some(message) = slow.next().await {
        assert!(matches!(message, Reply::Array(_)));
        heard += 1;
    }
    assert!(heard < published, "{heard} of {published} were kept for it");
}

#[tokio::test]
async fn messages_reach_the_listeners_of_every_node_in_order() {
    let rigs = three(2).await;
    let mut c = rigs[2].proxy().await;
    assert_eq!(c.ask("SUBSCRIBE a").await, "[subscribe a 1]");
    let mut d = rigs[1].proxy().await;
    d.ask("HELLO 3").await;
    assert_eq!(d.ask("PSUBSCRIBE a*").await, "[psubscribe a* 1]");
    let mut p = rigs[0].proxy().await;
    let lines: String = (0..200).map(|n| format!("PUBLISH a {n}\n")).collect();
    assert_eq!(p.ask_all(&lines).await, vec!["2"; 200]);
    for n in 0..200 {
        assert_eq!(c.read().await, format!("[message a {n}]"));
        assert_eq!(d.read().await, format!("[pmessage a* a {n}]"));
    }
    // Asked of all nodes on the proxy face, of this one alone where a cluster client asks each.
    let asked = "PUBSUB NUMSUB a\nPUBSUB CHANNELS\nPUBSUB NUMPAT\nPUBLISH a x";
    assert_eq!(p.ask_all(asked).await, ["[a 1]", "[a]", "1", "2"]);
    let mut own = rigs[0].client(Face::Cluster).await;
    assert_eq!(own.ask_all(asked).await, ["[a 0]", "[]", "0", "0"]);
    assert_eq!([c.read().await, c.read().await], ["[message a x]", "[message a x]"]);
    assert_eq!(own.ask("SSUBSCRIBE a b").await, "-CROSSSLOT Keys in request don't hash to the same slot");
    assert_eq!(own.ask("SSUBSCRIBE {a}1 {a}2").await, "[ssubscribe {a}1 1]");
}
