//! Commands that wait, by way of the one that only tests have: `TEST.BTAKE key [key ...] timeout` takes a string.

use super::*;
use crate::raft::Turn;
use crate::resp::Args;

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
async fn who_reads_for_a_group_is_told_that_it_is_gone() {
    let rig = rig(2).await;
    let (mut c, mut other) = (rig.proxy().await, rig.proxy().await);
    let nogroup = "-NOGROUP No such key 's' or consumer group 'g' in XREADGROUP with GROUP option";
    let wrong = "-WRONGTYPE Operation against a key holding the wrong kind of value";
    for (what, reply) in [
        ("DEL s", nogroup),
        ("SET s x", wrong),
        ("MULTI\nDEL s\nSADD s x\nEXEC", wrong),
        ("PEXPIRE s 1", nogroup),
        ("FLUSHALL", nogroup),
        ("XGROUP DESTROY s g", nogroup),
        ("XADD {s}2 1-1 a 1\nRENAME {s}2 s", nogroup),
        ("RENAME s {s}2", nogroup),
    ] {
        assert_eq!(other.ask_all("DEL s {s}2\nXGROUP CREATE s g $ MKSTREAM").await[1], "OK");
        c.pipeline("XREADGROUP GROUP g me BLOCK 0 STREAMS s >").await;
        blocked(&rig, 1).await;
        other.ask_all(what).await;
        assert_eq!(c.read().await, reply, "{what}");
    }
    // One that comes back with its group before anybody looks is as good as before, and so is the wait.
    assert_eq!(other.ask_all("DEL s\nXGROUP CREATE s g $ MKSTREAM").await[1], "OK");
    c.pipeline("XREADGROUP GROUP g me BLOCK 0 STREAMS s >").await;
    blocked(&rig, 1).await;
    assert_eq!(other.ask_all("MULTI\nDEL s\nXGROUP CREATE s g 0 MKSTREAM\nEXEC").await[3], "[1 OK]");
    assert_eq!(other.ask("XADD s 5-5 a 1").await, "5-5");
    assert_eq!(c.read().await, "[[s [[5-5 [a 1]]]]]");
    // Who only reads goes on waiting.
    c.pipeline("XREAD BLOCK 0 STREAMS s $").await;
    blocked(&rig, 1).await;
    assert_eq!(other.ask_all("DEL s\nSET s x\nDEL s\nXADD s 6-6 a 1").await, ["1", "OK", "1", "6-6"]);
    assert_eq!(c.read().await, "[[s [[6-6 [a 1]]]]]");
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

/// A connection that waits with this request as one of `n`.
async fn waits(rig: &Rig, n: usize, line: &str) -> Client {
    let mut c = rig.proxy().await;
    c.pipeline(line).await;
    blocked(rig, n).await;
    c
}

#[tokio::test]
async fn whatever_makes_a_key_ready_ends_the_waiting() {
    let rig = rig(1).await;
    let mut other = rig.proxy().await;
    other.ask_all("RPUSH from x\nRPUSH numbers 3 1 2\nZADD scores 1 a 2 b").await;
    for (wait, made, reply) in [
        ("BLPOP none l 0", "LPUSH l 1 2", "[l 2]"),
        ("BRPOP l none 0", "RPUSH l 1 2", "[l 2]"),
        ("BLPOP l 0", "RENAME from l", "[l x]"),
        ("BLMPOP 0 2 none l RIGHT COUNT 2", "SORT numbers STORE l", "[l [3 2]]"),
        ("BLMPOP 0 1 l LEFT COUNT 9", "COPY numbers l", "[l [3 1 2]]"),
        ("BLMOVE l to LEFT RIGHT 0", "LMOVE numbers l LEFT LEFT", "3"),
        ("BRPOPLPUSH l to 0", "EVAL return(redis.call('rpush',KEYS[1],'y')) 1 l", "y"),
        ("BZPOPMIN none l 0", "ZADD l 3 x 2 y", "[l y 2]"),
        ("BZPOPMAX l 0", "ZUNIONSTORE l 1 scores", "[l b 2]"),
        ("BZMPOP 0 2 none l MIN COUNT 3", "ZRANGESTORE l scores 0 -1", "[l [[a 1] [b 2]]]"),
        ("BZPOPMIN l 0", "ZINCRBY l 5 x", "[l x 5]"),
    ] {
        let mut c = waits(&rig, 1, wait).await;
        let done = other.ask(made).await;
        assert!(!done.starts_with('-'), "{made}: {done}");
        assert_eq!(c.read().await, reply, "{made}");
        other.ask("DEL l").await;
    }
    assert_eq!(other.ask("LRANGE to 0 -1").await, "[y 3]");
}

#[tokio::test]
async fn a_key_of_another_type_is_not_waited_for() {
    let rig = rig(1).await;
    let mut other = rig.proxy().await;
    let mut lists = waits(&rig, 1, "BLPOP a b 0").await;
    let mut sorted = waits(&rig, 2, "BZPOPMIN a b 0").await;
    let mut moving = waits(&rig, 3, "BLMOVE from a LEFT LEFT 0").await;
    other.ask_all("SET a x\nDEL a\nSADD a x\nDEL a").await;
    assert_eq!(other.ask("ZADD a 1 m").await, "1");
    assert_eq!(sorted.read().await, "[a m 1]");
    assert_eq!(other.ask("EXISTS a").await, "0");
    assert_eq!(other.ask("RPUSH a x").await, "1");
    assert_eq!(lists.read().await, "[a x]");
    assert_eq!(other.ask("EXISTS a").await, "0");
    // Who could not put it anywhere does not take it.
    assert_eq!(other.ask_all("SET a x\nRPUSH from y").await, ["OK", "1"]);
    assert!(moving.read().await.starts_with("-WRONGTYPE"));
    assert_eq!(other.ask("LRANGE from 0 -1").await, "[y]");
}

#[tokio::test]
async fn who_may_take_several_comes_before_those_behind_and_leaves_them_the_rest() {
    let rig = rig(1).await;
    let mut other = rig.proxy().await;
    for (several, one, push, replies) in [
        ("BLMPOP 0 1 k LEFT COUNT 3", "BLPOP k 0", ["RPUSH k a b c", "RPUSH k d"], ["[k [a b c]]", "[k d]"]),
        ("BLMPOP 0 1 k LEFT COUNT 2", "BLPOP k 0", ["RPUSH k a", "RPUSH k c"], ["[k [a]]", "[k c]"]),
        (
            "BZMPOP 0 1 k MAX COUNT 2",
            "BZPOPMAX k 0",
            ["ZADD k 1 a 2 b", "ZADD k 3 c"],
            ["[k [[b 2] [a 1]]]", "[k c 3]"],
        ),
    ] {
        for _ in 0..5 {
            let (mut first, mut second) = (waits(&rig, 1, several).await, waits(&rig, 2, one).await);
            other.ask(push[0]).await;
            assert_eq!(first.read().await, replies[0]);
            other.ask(push[1]).await;
            assert_eq!(second.read().await, replies[1]);
        }
    }
}

#[tokio::test]
async fn an_element_goes_from_one_who_waits_to_the_next() {
    let rig = rig(1).await;
    let mut other = rig.proxy().await;
    let mut last = waits(&rig, 1, "BLPOP c 0").await;
    let mut second = waits(&rig, 2, "BRPOPLPUSH b c 0").await;
    let mut first = waits(&rig, 3, "BLMOVE a b LEFT RIGHT 0").await;
    let mut itself = waits(&rig, 4, "BLMOVE r r LEFT RIGHT 0").await;
    assert_eq!(other.ask_all("MULTI\nRPUSH a x\nRPUSH r y\nEXEC").await[3], "[1 1]");
    assert_eq!([first.read().await, second.read().await, last.read().await], ["x", "x", "[c x]"]);
    assert_eq!(itself.read().await, "y");
    assert_eq!(other.ask_all("EXISTS a b c\nLRANGE r 0 -1").await, ["0", "[y]"]);
}

#[tokio::test]
async fn a_transaction_is_seen_as_a_whole_and_a_script_waits_for_nothing() {
    let rig = rig(1).await;
    let mut other = rig.proxy().await;
    let mut c = waits(&rig, 1, "BLPOP b a 0").await;
    // The first key of the request counts, not the first that was written; the last push comes first.
    assert_eq!(other.ask_all("MULTI\nLPUSH a 1\nLPUSH b 2 3\nEXEC").await[3], "[1 2]");
    assert_eq!(c.read().await, "[b 3]");
    let script = "EVAL return{redis.call('blpop',KEYS[1],0),redis.call('bzpopmin',KEYS[2],0)==false} 2 a none";
    assert_eq!(other.ask(script).await, "[[a 1] 1]");
}

#[tokio::test]
async fn time_that_is_up_is_a_nil_array_whatever_waits() {
    let rig = rig(1).await;
    let mut c = rig.proxy().await;
    for line in [
        "BLPOP a b 0.01",
        "BRPOP a 0.01",
        "BLMOVE a b LEFT LEFT 0.01",
        "BRPOPLPUSH a b 0.01",
        "BLMPOP 0.01 1 a LEFT",
        "BZPOPMIN a 0.01",
        "BZPOPMAX a 0.01",
        "BZMPOP 0.01 1 a MAX",
    ] {
        c.pipeline(line).await;
        assert_eq!(c.raw(5).await, "*-1\r\n", "{line}");
    }
    c.ask("HELLO 3").await;
    for (line, reply) in
        [("BLMOVE a b LEFT LEFT 0.01", "_\r\n"), ("BZPOPMIN z 0", "*3\r\n$1\r\nz\r\n$1\r\nm\r\n,1.5\r\n")]
    {
        c.ask("ZADD z 1.5 m").await;
        c.pipeline(line).await;
        assert_eq!(c.raw(reply.len()).await, reply, "{line}");
    }
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

fn taking(key: &'static str) -> Args {
    ["TEST.BTAKE", key, "0"].map(Bytes::from).into_iter().collect()
}

#[tokio::test]
async fn a_turn_that_comes_as_the_question_ends_is_told() {
    let rig = rig(1).await;
    let group = rig.group(1);
    assert_eq!(group.ask_once(7, &taking("a"), || ()).await, Turn::AskAgain);
    assert_eq!(group.ask_once(7, &taking("a"), || group.give_turns(b"a", 1)).await, Turn::Yours);
}

#[tokio::test]
async fn a_full_line_takes_nobody_more_and_keeps_those_who_stand_in_it() {
    let rig = rig(1).await;
    let group = rig.group(1);
    let mut first = rig.proxy().await;
    first.pipeline("TEST.BTAKE a 0").await;
    blocked(&rig, 1).await;
    testing::until(|| group.waiting() == 1).await;
    assert_eq!(group.ask_once(7, &taking("b"), || ()).await, Turn::AskAgain);
    group.fill_line(&taking("c"));
    let full = group.waiting();
    assert_eq!(group.ask_once(8, &taking("b"), || ()).await, Turn::Full);
    assert_eq!(group.ask_once(7, &taking("b"), || ()).await, Turn::AskAgain, "it has a place");
    assert_eq!(group.waiting(), full);
    let mut other = rig.proxy().await;
    let reply = other.ask("TEST.BTAKE a 0").await;
    assert_eq!(reply, "-THROTTLED too many clients wait for keys of this group; nothing was taken");
    assert_eq!(other.ask("SET a 1").await, "OK");
    assert_eq!(first.read().await, "[a 1]");
}

#[tokio::test]
async fn who_has_a_turn_reads_by_leave_that_was_given_after_it() {
    let rig = rig(1).await;
    let (mut reader, mut writer) = (rig.proxy().await, rig.proxy().await);
    rig.group(1).withhold_leave();
    reader.pipeline("XREAD BLOCK 0 STREAMS s $").await;
    blocked(&rig, 1).await;
    let before = rig.group(1).barriers();
    assert_eq!(writer.ask("XADD s 1-0 a 1").await, "1-0");
    assert_eq!(reader.read().await, "[[s [[1-0 [a 1]]]]]");
    assert_eq!(rig.group(1).barriers(), before + 1, "by older leave another replica's state may lack what was written");
}
