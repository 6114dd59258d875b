//! Commands that wait, by way of the one that only tests have: `TEST.BTAKE key [key ...] timeout` takes a string.

use super::*;

/// Waits until `n` connections of this node wait for their turn.
async fn blocked(rig: &Rig, n: usize) {
    let waiting = || rig.server.shared().clients().rows().iter().filter(|row| row.blocked).count();
    testing::until(|| waiting() == n).await;
}

async fn id(c: &mut Client) -> String {
    c.ask("CLIENT ID").await
}

#[tokio::test]
async fn what_is_there_is_taken_at_once() {
    let rig = rig(1).await;
    let mut c = rig.proxy().await;
    assert_eq!(c.ask_all("SET b 1\nTEST.BTAKE a b 0\nEXISTS b").await, ["OK", "[b 1]", "0"]);
    assert_eq!(c.ask("TEST.BTAKE a x").await, "-ERR timeout is not a float or out of range");
    assert_eq!(c.ask("TEST.BTAKE a -1").await, "-ERR timeout is negative");
}

#[tokio::test]
async fn who_waits_is_served_in_the_order_of_coming() {
    let rig = rig(1).await;
    let mut waiting = Vec::new();
    for n in 0..5 {
        let mut c = rig.proxy().await;
        c.pipeline(&format!("TEST.BTAKE other{n} a 0\nPING")).await;
        waiting.push(c);
        blocked(&rig, n + 1).await;
    }
    let mut other = rig.proxy().await;
    assert!(other.ask("INFO clients").await.contains("blocked_clients:5"));
    assert!(other.ask("CLIENT LIST").await.contains(" flags=b "));
    for (n, mut c) in waiting.into_iter().enumerate() {
        assert_eq!(other.ask(&format!("SET a {n}")).await, "OK");
        assert_eq!([c.read().await, c.read().await], [format!("[a {n}]"), "PONG".to_owned()]);
        assert_eq!(other.ask("EXISTS a").await, "0", "it was taken");
        blocked(&rig, 4 - n).await;
    }
    assert!(!other.ask("CLIENT LIST").await.contains("flags=b"));
}

#[tokio::test]
async fn who_found_nothing_after_all_keeps_the_place() {
    let rig = rig(1).await;
    let (mut first, mut second, mut other) = (rig.proxy().await, rig.proxy().await, rig.proxy().await);
    first.pipeline("TEST.BTAKE a 0").await;
    blocked(&rig, 1).await;
    second.pipeline("TEST.BTAKE a 0").await;
    blocked(&rig, 2).await;
    // Made and taken in one entry: nobody finds it.
    assert_eq!(other.ask_all("MULTI\nSET a 1\nDEL a\nEXEC").await[3], "[OK 1]");
    assert_eq!(other.ask_all("MULTI\nSET a 1\nGETDEL a\nSET a 2\nEXEC").await[4], "[OK 1 OK]");
    assert_eq!(first.read().await, "[a 2]");
    assert_eq!(other.ask("RENAME a b").await, "-ERR no such key");
    assert_eq!(other.ask_all("SET b 3\nRENAME b a").await, ["OK", "OK"]);
    assert_eq!(second.read().await, "[a 3]");
}

#[tokio::test]
async fn waiting_ends_with_its_time_or_as_somebody_says() {
    let rig = rig(1).await;
    let (mut c, mut other) = (rig.proxy().await, rig.proxy().await);
    assert_eq!(c.ask("TEST.BTAKE a 0.01").await, "nil");
    let id = id(&mut c).await;
    assert_eq!(other.ask(&format!("CLIENT UNBLOCK {id}")).await, "0");
    for (how, reply) in [("", "nil"), (" TIMEOUT", "nil"), (" ERROR", "-UNBLOCKED client unblocked via CLIENT UNBLOCK")]
    {
        c.pipeline("TEST.BTAKE a 0").await;
        blocked(&rig, 1).await;
        assert_eq!(other.ask(&format!("CLIENT UNBLOCK {id}{how}")).await, "1");
        assert_eq!(c.read().await, reply);
    }
    assert_eq!(other.ask("CLIENT UNBLOCK x").await, "-ERR value is not an integer or out of range");
    assert_eq!(other.ask("CLIENT UNBLOCK 1 now").await, "-ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR");
    assert_eq!(other.ask_all("SET a 1\nEXISTS a").await, ["OK", "1"], "nobody takes it any more");
}

#[tokio::test]
async fn nothing_is_taken_for_a_client_that_went() {
    let rig = rig(1).await;
    let (mut c, mut second, mut other) = (rig.proxy().await, rig.proxy().await, rig.proxy().await);
    c.pipeline("TEST.BTAKE a 0").await;
    blocked(&rig, 1).await;
    second.pipeline("TEST.BTAKE a 0").await;
    blocked(&rig, 2).await;
    drop(c);
    testing::until(|| rig.server.shared().clients().len() == 2).await;
    assert_eq!(other.ask("SET a 1").await, "OK");
    assert_eq!(second.read().await, "[a 1]");
}

#[tokio::test]
async fn in_a_transaction_nobody_waits() {
    let rig = rig(1).await;
    let mut c = rig.proxy().await;
    let replies = c.ask_all("MULTI\nTEST.BTAKE a 0\nSET a 1\nTEST.BTAKE a 0\nEXEC").await;
    assert_eq!(replies[4], "[nil OK [a 1]]");
}

#[tokio::test]
async fn a_stop_ends_the_waiting() {
    let rig = rig(1).await;
    let mut c = rig.proxy().await;
    c.pipeline("TEST.BTAKE a 0").await;
    blocked(&rig, 1).await;
    rig.stop.send(true).unwrap();
    assert!(c.read().await.starts_with("-UNBLOCKED this node is shutting down"));
    assert_eq!(c.read().await, "(closed)");
}

#[tokio::test]
async fn streams_are_read_as_they_come() {
    let rig = rig(1).await;
    let (mut c, mut other) = (rig.proxy().await, rig.proxy().await);
    other.ask_all("XADD s 1-0 a 0\nXGROUP CREATE s g $").await;
    let mut readers = Vec::new();
    for line in ["XREAD BLOCK 0 STREAMS none s $ $", "XREAD COUNT 1 BLOCK 0 STREAMS s 1-0"] {
        let mut reader = rig.proxy().await;
        reader.pipeline(line).await;
        readers.push(reader);
    }
    for consumer in ["x", "y"] {
        let mut reader = rig.proxy().await;
        reader.pipeline(&format!("XREADGROUP GROUP g {consumer} BLOCK 0 STREAMS s >")).await;
        readers.push(reader);
        blocked(&rig, readers.len()).await;
    }
    assert_eq!(other.ask("XADD s 2-0 a 1").await, "2-0");
    for reader in &mut readers[..3] {
        assert_eq!(reader.read().await, "[[s [[2-0 [a 1]]]]]");
    }
    blocked(&rig, 1).await;
    assert_eq!(other.ask("XADD s 3-0 a 2").await, "3-0");
    assert_eq!(readers[3].read().await, "[[s [[3-0 [a 2]]]]]");
    assert_eq!(
        c.ask_all("XREAD BLOCK 5 STREAMS s $\nXREAD BLOCK 0 STREAMS s 2-0").await,
        ["nil", "[[s [[3-0 [a 2]]]]]"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn turns_are_given_to_other_nodes_and_a_change_of_leader_ends_the_waiting() {
    let clusters = testing::all_of_three_with(1).await;
    let groups: Vec<_> = clusters.iter().map(|cluster| cluster.host().group(GroupId(1)).unwrap()).collect();
    let mut rigs = Vec::new();
    for cluster in clusters {
        rigs.push(rig_on(cluster, |s| s.request_timeout = PATIENCE).await);
    }
    testing::until(|| groups.iter().any(|group| group.is_leader())).await;
    let leader = groups.iter().position(|group| group.is_leader()).unwrap();
    let mut other = rigs[leader].proxy().await;
    // One at each node, in this order.
    let order = [(leader + 1) % 3, leader, (leader + 2) % 3, (leader + 1) % 3];
    let mut waiting = Vec::new();
    for (n, at) in order.into_iter().enumerate() {
        let mut c = rigs[at].proxy().await;
        c.pipeline("TEST.BTAKE a 0").await;
        blocked(&rigs[at], 1 + order[..n].iter().filter(|earlier| **earlier == at).count()).await;
        // It stands in the leader's line once its question has arrived there.
        testing::until(|| groups[leader].waiting() == n + 1).await;
        waiting.push(c);
    }
    let rest = waiting.split_off(2);
    for (n, mut c) in waiting.into_iter().enumerate() {
        assert_eq!(other.ask(&format!("SET a {n}")).await, "OK");
        assert_eq!(c.read().await, format!("[a {n}]"));
    }
    let next = (leader + 1) % 3;
    groups[leader].transfer(groups[next].me_for_tests()).await.unwrap();
    for mut c in rest {
        let reply = c.read().await;
        assert!(reply.starts_with("-UNBLOCKED force unblock from blocking operation"), "{reply}");
        assert_eq!(c.ask("PING").await, "PONG");
    }
    assert_eq!(other.ask_all("SET a 1\nGET a").await, ["OK", "1"], "nobody takes it");
}
