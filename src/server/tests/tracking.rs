//! Client-side caches: a client is told of every change of what it keeps.

use super::pubsub::three;
use super::*;
use crate::commands::node::ClientRow;

async fn tracker(rig: &Rig, options: &str) -> Client {
    let mut c = rig.proxy().await;
    c.ask("HELLO 3").await;
    assert_eq!(c.ask(&format!("CLIENT TRACKING ON{options}")).await, "OK");
    c
}

#[tokio::test]
async fn a_client_is_told_once_of_a_change_of_what_it_read() {
    let rig = rig(2).await;
    let (a, b) = (rig.key_in(1), rig.key_in(2));
    let mut c = tracker(&rig, "").await;
    let mut w = rig.proxy().await;
    assert_eq!(c.ask_all(&format!("GET {a}\nMGET {a} {b}\nGET other")).await, ["nil", "[nil nil]", "nil"]);
    assert_eq!(w.ask_all(&format!("SET {a} 1\nSET {a} 2\nSET {b} 1\nSET unread 1")).await, ["OK"; 4]);
    let mut told = [c.read().await, c.read().await];
    told.sort();
    let mut expected = [format!("[invalidate [{a}]]"), format!("[invalidate [{b}]]")];
    expected.sort();
    assert_eq!(told, expected);
    assert_eq!(c.ask("PING").await, "PONG", "it was told of nothing else");
    // Everything that goes is a change; a write that changes nothing is none.
    assert_eq!(c.ask_all(&format!("GET {a}\nGET {b}")).await, ["2", "1"]);
    assert_eq!(w.ask_all(&format!("SET {a} x NX\nGET {a}\nPEXPIRE {b} 1")).await, ["nil", "2", "1"]);
    assert_eq!(c.read().await, format!("[invalidate [{b}]]"));
    assert_eq!(w.ask("FLUSHALL").await, "OK");
    assert_eq!(c.read().await, "[invalidate nil]");
}

#[tokio::test]
async fn a_read_that_waits_is_noted_when_it_is_run() {
    let rig = rig(1).await;
    let mut c = tracker(&rig, "").await;
    let mut w = rig.proxy().await;
    rig.group(1).hold_writes(true);
    c.pipeline("SET mine 1\nGET k").await;
    // The read waits behind the connection's own write. Nothing has been read, so nothing is told.
    w.pipeline("SET k 1").await;
    let shared = rig.server.shared();
    assert_eq!(shared.caching.len(), (1, 0));
    rig.group(1).hold_writes(false);
    assert_eq!([w.read().await, c.read().await], ["OK", "OK"]);
    let read = c.read().await;
    assert!(read == "1" || read == "nil", "{read}");
    if read == "nil" {
        assert_eq!(c.read().await, "[invalidate [k]]");
        assert_eq!(c.ask("GET k").await, "1");
    }
    assert_eq!(w.ask("SET k 2").await, "OK");
    assert_eq!(c.read().await, "[invalidate [k]]");
}

#[tokio::test]
async fn an_invalidation_does_not_overtake_the_reply_that_it_is_about() {
    let rig = rig(2).await;
    let (held, free) = (rig.key_in(1), rig.key_in(2));
    let mut c = tracker(&rig, "").await;
    let mut w = rig.proxy().await;
    let shared = rig.server.shared();
    assert_eq!(c.ask("SUBSCRIBE a").await, "[subscribe a 1]");
    let mut sent = 3;
    for read in [format!("GET {free}"), format!("MGET {free} {held}")] {
        assert_eq!(w.ask_all(&format!("SET {free} old\nDEL {held}")).await[0], "OK");
        rig.group(1).hold_writes(true);
        // The read of what can be read is done, and its reply waits behind the write's.
        c.pipeline(&format!("SET {held} x\n{read}")).await;
        testing::until(|| shared.caching.len() == (1, 1)).await;
        assert_eq!(w.ask(&format!("SET {free} new")).await, "OK");
        assert_eq!(w.ask("PUBLISH a message").await, "1");
        // What runs on the connection itself lets nothing pass either.
        c.pipeline("CLIENT GETNAME").await;
        sent += 3;
        let came = |row: &ClientRow| row.session.tracking.is_some() && row.commands == sent;
        testing::until(|| shared.clients().rows().iter().any(came)).await;
        rig.group(1).hold_writes(false);
        assert_eq!(c.read().await, "OK");
        let value = c.read().await;
        assert!(value.contains("old") || value.contains("new"), "{value}");
        let mut rest = [c.read().await, c.read().await, c.read().await];
        let at = |rest: &[String], word: &str| rest.iter().position(|text| text.contains(word)).expect("it came");
        assert!(at(&rest, "invalidate") < at(&rest, "message"), "{rest:?}");
        rest.sort();
        assert_eq!(rest, [format!("[invalidate [{free}]]"), "[message a message]".to_owned(), "nil".to_owned()]);
        if read.starts_with("MGET") {
            assert_eq!(shared.caching.len(), (1, 1), "the other key is noted still");
        }
    }
}

#[tokio::test]
async fn who_waits_for_an_element_or_never_stops_asking_is_told() {
    let rig = rig(2).await;
    let (held, free) = (rig.key_in(1), rig.key_in(2));
    let mut c = tracker(&rig, "").await;
    let mut w = rig.proxy().await;
    assert_eq!(c.ask(&format!("GET {free}")).await, "nil");
    c.pipeline("BLPOP list 0").await;
    let shared = rig.server.shared();
    testing::until(|| shared.clients().rows().iter().any(|row| row.blocked)).await;
    assert_eq!(w.ask(&format!("SET {free} 1")).await, "OK");
    assert_eq!(c.read().await, format!("[invalidate [{free}]]"));
    assert_eq!(w.ask("RPUSH list x").await, "1");
    assert_eq!(c.read().await, "[list x]");
    // A push waits for what was asked before it, and not for what comes after.
    assert_eq!(c.ask(&format!("GET {free}")).await, "1");
    rig.group(1).hold_writes(true);
    c.pipeline(&format!("SET {held} x")).await;
    let commands =
        |n: u64| shared.clients().rows().iter().any(|row| row.session.tracking.is_some() && row.commands == n);
    testing::until(|| commands(6)).await;
    assert_eq!(w.ask(&format!("SET {free} 2")).await, "OK");
    c.pipeline("PING").await;
    testing::until(|| commands(7)).await;
    c.pipeline("BLPOP list 0").await;
    testing::until(|| commands(8)).await;
    rig.group(1).hold_writes(false);
    let mut heard = [c.read().await, c.read().await, c.read().await];
    heard.sort();
    assert_eq!(heard, ["OK".to_owned(), "PONG".to_owned(), format!("[invalidate [{free}]]")]);
}

#[tokio::test]
async fn what_a_served_wait_changes_is_told_behind_its_reply() {
    let rig = rig(1).await;
    let mut c = tracker(&rig, "").await;
    let mut w = rig.proxy().await;
    for _ in 0..20 {
        assert_eq!(c.ask("LRANGE {l}2 0 -1").await.matches('[').count(), 1);
        c.pipeline("BLMOVE {l}1 {l}2 LEFT LEFT 0").await;
        let shared = rig.server.shared();
        testing::until(|| shared.clients().rows().iter().any(|row| row.blocked)).await;
        assert_eq!(w.ask("RPUSH {l}1 x").await, "1");
        assert_eq!([c.read().await, c.read().await], ["x", "[invalidate [{l}2]]"]);
    }
    // So is what EXEC did, with commands of the connection in it and without.
    for local in ["", "PING\n"] {
        assert_eq!(c.ask_all("SET a 1\nGET a").await, ["OK", "1"]);
        let lines = format!("MULTI\nINCR a\n{local}EXEC");
        let replies = c.ask_all(&lines).await;
        assert!(replies.last().is_some_and(|reply| reply.starts_with("[2")), "{replies:?}");
        assert_eq!(c.read().await, "[invalidate [a]]");
    }
}

#[tokio::test]
async fn modes_choose_what_is_told_to_whom() {
    let rig = rig(1).await;
    let mut w = rig.proxy().await;
    let mut optin = tracker(&rig, " OPTIN").await;
    assert_eq!(optin.ask_all("GET a\nCLIENT CACHING YES\nGET b\nGET c").await, ["nil", "OK", "nil", "nil"]);
    let mut optout = tracker(&rig, " OPTOUT").await;
    assert_eq!(optout.ask_all("GET a\nCLIENT CACHING NO\nGET b\nGET c").await, ["nil", "OK", "nil", "nil"]);
    let mut bcast = tracker(&rig, " BCAST PREFIX a PREFIX b").await;
    // In RESP2 another connection is told.
    let mut ear = rig.proxy().await;
    let id = ear.ask("CLIENT ID").await;
    assert_eq!(ear.ask("SUBSCRIBE __redis__:invalidate").await, "[subscribe __redis__:invalidate 1]");
    let mut redirects = rig.proxy().await;
    assert_eq!(redirects.ask(&format!("CLIENT TRACKING ON REDIRECT {id}")).await, "OK");
    assert_eq!(redirects.ask_all("GET b\nCLIENT GETREDIR").await, ["nil".to_owned(), id.clone()]);

    assert_eq!(w.ask("MSET a 1 b 1 c 1 ab 1").await, "OK");
    assert_eq!(optin.read().await, "[invalidate [b]]");
    assert_eq!([optout.read().await, optout.read().await], ["[invalidate [a]]", "[invalidate [c]]"]);
    assert_eq!([bcast.read().await, bcast.read().await], ["[invalidate [a ab]]", "[invalidate [b]]"]);
    assert_eq!(ear.read().await, "[message __redis__:invalidate [b]]");
    for c in [&mut optin, &mut optout, &mut bcast] {
        assert_eq!(c.ask("PING").await, "PONG");
    }
    // Who listens in another's place is gone, although its client has not closed the socket.
    assert_eq!(ear.ask("QUIT").await, "OK");
    redirects.ask("GET b").await;
    assert_eq!(w.ask("SET b 2").await, "OK");
    assert_eq!(bcast.read().await, "[invalidate [b]]");
    let info = redirects.ask("CLIENT TRACKINGINFO").await;
    assert_eq!(info, format!("[flags [on broken_redirect] redirect {id} prefixes []]"));
    let line = redirects.ask("CLIENT INFO").await;
    assert!(line.contains(" flags=tR ") && line.contains(&format!(" redir={id} ")), "{line}");
    // Who stops is told nothing more, and when nobody tracks nothing is recorded.
    for c in [&mut optin, &mut optout, &mut bcast] {
        assert_eq!(c.ask("CLIENT TRACKING OFF").await, "OK");
    }
    assert!(rig.cluster.host().watch().wanted().changes);
    drop(redirects);
    testing::until(|| !rig.cluster.host().watch().wanted().changes).await;
}

#[tokio::test]
async fn who_wants_no_loop_is_told_of_what_others_do_and_of_nothing_else() {
    let rig = rig(1).await;
    let (mut c, mut w) = (tracker(&rig, " NOLOOP").await, rig.proxy().await);
    assert_eq!(c.ask_all("GET a\nGET b\nGET c\nGET d").await, ["nil"; 4]);
    // In a write, in one entry with another's, in a transaction, in a script; the note stays for what others do.
    assert_eq!(c.ask("SET a 1").await, "OK");
    rig.group(1).hold_writes(true);
    c.pipeline("SET b 1").await;
    w.pipeline("SET b 2").await;
    testing::until(|| rig.group(1).proposals().len() == 3).await;
    rig.group(1).hold_writes(false);
    assert_eq!(w.read().await, "OK");
    let mut of_b = [c.read().await, c.read().await];
    of_b.sort();
    assert_eq!(of_b, ["OK", "[invalidate [b]]"]);
    assert_eq!(c.ask_all("MULTI\nSET c 1\nEXEC").await, ["OK", "QUEUED", "[OK]"]);
    assert_eq!(c.ask("EVAL return(redis.call('set','d','1')) 1 d").await, "OK");
    assert_eq!(c.ask("PING").await, "PONG", "it was told of nothing it did");
    assert_eq!(w.ask_all("SET a 2\nSET c 2\nSET d 2").await, ["OK"; 3]);
    for key in ["a", "c", "d"] {
        assert_eq!(c.read().await, format!("[invalidate [{key}]]"));
    }
    // Of what one entry holds it is told the others' part.
    let mut heard = tracker(&rig, " BCAST NOLOOP").await;
    let before = rig.group(1).proposals().len();
    rig.group(1).hold_writes(true);
    heard.pipeline("SET x 1").await;
    testing::until(|| rig.group(1).proposals().len() == before + 1).await;
    w.pipeline("SET y 1").await;
    testing::until(|| rig.group(1).proposals().len() == before + 2).await;
    rig.group(1).hold_writes(false);
    assert_eq!([heard.read().await, w.read().await], ["OK", "OK"]);
    assert_eq!(heard.read().await, "[invalidate [y]]");
    // Who takes it back is told again, also of what others are not told.
    assert_eq!(c.ask_all("CLIENT TRACKING OFF\nCLIENT TRACKING ON\nGET a").await, ["OK", "OK", "2"]);
    assert_eq!(c.ask("SET a 3").await, "OK");
    assert_eq!(c.read().await, "[invalidate [a]]");
}

#[tokio::test]
async fn a_follower_knows_which_of_its_connections_made_a_change_elsewhere() {
    let rigs = three(1).await;
    let leader = rigs[0].group(1).leader().expect("it is known");
    let (leads, others): (Vec<&Rig>, Vec<&Rig>) = rigs.iter().partition(|rig| rig.cluster.me_id() == leader);
    let mut c = tracker(others[0], " NOLOOP").await;
    // The number is the same, and the process another.
    let mut alike = tracker(others[1], " NOLOOP").await;
    assert_eq!(c.ask("CLIENT ID").await, alike.ask("CLIENT ID").await);
    for (key, write) in [
        ("a", "SET a 1".to_owned()),
        ("b", "EVAL return(redis.call('set','b','1')) 1 b".to_owned()),
        ("c", "EVAL return(redis.call('get','c')) 1 c\nSET c 1".to_owned()),
    ] {
        assert_eq!([c.ask(&format!("GET {key}")).await, alike.ask(&format!("GET {key}")).await], ["nil", "nil"]);
        assert_eq!(c.ask_all(&write).await.pop().as_deref(), Some("OK"));
        assert_eq!(alike.read().await, format!("[invalidate [{key}]]"));
        assert_eq!(c.ask(&format!("GET {key}")).await, "1");
    }
    assert_eq!(leads[0].proxy().await.ask("SET a 2").await, "OK");
    assert_eq!(c.read().await, "[invalidate [a]]");
}

#[tokio::test]
async fn what_was_read_before_a_client_listens_to_prefixes_is_not_told_beside_them() {
    let rig = rig(1).await;
    let (mut c, mut w) = (tracker(&rig, "").await, rig.proxy().await);
    assert_eq!(c.ask_all("GET a\nCLIENT TRACKING OFF\nCLIENT TRACKING ON BCAST PREFIX b").await, ["nil", "OK", "OK"]);
    assert_eq!(w.ask_all("SET a 1\nSET b 1").await, ["OK", "OK"]);
    assert_eq!(c.read().await, "[invalidate [b]]");
}

#[tokio::test]
async fn a_bound_that_is_lowered_is_kept_without_another_read() {
    let rig = rig(2).await;
    let mut c = tracker(&rig, "").await;
    let keys: Vec<String> = (0..200).map(|n| format!("k{n}")).collect();
    assert_eq!(c.ask(&format!("MGET {}", keys.join(" "))).await.matches("nil").count(), 200);
    let info = c.ask("INFO stats").await;
    assert!(info.contains("tracking_total_keys:200") && info.contains("tracking_total_items:200"), "{info}");
    assert!(info.contains("tracking_total_prefixes:0"), "{info}");
    assert_eq!(rig.proxy().await.ask("CONFIG SET tracking-table-max-keys 3").await, "OK");
    for _ in 3..200 {
        assert!(c.read().await.starts_with("[invalidate [k"));
    }
    assert_eq!(c.ask("PING").await, "PONG");
    assert_eq!(rig.server.shared().caching.len(), (1, 3));
}

#[tokio::test]
async fn the_table_is_bounded_and_what_it_gives_up_is_told() {
    let rig = rig(1).await;
    let mut c = tracker(&rig, "").await;
    assert_eq!(c.ask("CONFIG SET tracking-table-max-keys 10").await, "OK");
    c.pipeline(&(0..20).map(|n| format!("GET k{n}\n")).collect::<String>()).await;
    let (mut replies, mut told) = (0, Vec::new());
    while replies < 20 || told.len() < 10 {
        match c.read().await {
            text if text == "nil" => replies += 1,
            text => told.push(text),
        }
    }
    let expected: Vec<String> = (0..10).map(|n| format!("[invalidate [k{n}]]")).collect();
    assert_eq!(told, expected, "the oldest go first");
    assert_eq!(rig.server.shared().caching.len(), (1, 10));
}

#[tokio::test]
async fn clients_that_are_gone_do_not_pile_up_in_the_note_of_a_key_that_stays() {
    let rig = rig(1).await;
    let mut stays = tracker(&rig, "").await;
    assert_eq!(stays.ask("GET config").await, "nil");
    let shared = rig.server.shared();
    for _ in 0..150 {
        let mut goes = tracker(&rig, "").await;
        assert_eq!(goes.ask("GET config").await, "nil");
        drop(goes);
        testing::until(|| shared.caching.len() == (1, 1)).await;
        assert!(shared.caching.clients_of(GroupId(1), b"config") <= 64);
    }
    assert_eq!(rig.proxy().await.ask("SET config 1").await, "OK");
    assert_eq!(stays.read().await, "[invalidate [config]]");
}

#[tokio::test]
async fn who_asks_for_nothing_is_told_once_that_everything_is_void() {
    let rig = rig(3).await;
    let (a, b) = (rig.key_in(1), rig.key_in(2));
    let (mut c, mut all, mut w) = (tracker(&rig, "").await, tracker(&rig, " BCAST").await, rig.proxy().await);
    assert_eq!(c.ask_all(&format!("GET {a}\nGET {b}")).await, ["nil", "nil"]);
    assert_eq!(w.ask("FLUSHALL").await, "OK");
    for told in [&mut c, &mut all] {
        assert_eq!([told.read().await, told.ask("PING").await], ["[invalidate nil]", "PONG"]);
    }
    // What is read after the word and before the last group is empty is void once more.
    assert_eq!(w.ask(&format!("SET {b} 1")).await, "OK");
    rig.group(2).hold_writes(true);
    let before = [1, 3].map(|group| rig.group(group).proposals().len());
    w.pipeline("FLUSHALL").await;
    testing::until(|| [1, 3].map(|group| rig.group(group).proposals().len()) == before.map(|count| count + 1)).await;
    // Behind it in the two groups: once these are answered, it was told of both.
    let lines = format!("SET {a} 1\nSET {} 1", rig.key_in(3));
    assert_eq!(rig.proxy().await.ask_all(&lines).await, ["OK", "OK"]);
    assert_eq!([c.read().await, c.ask(&format!("GET {b}")).await], ["[invalidate nil]", "1"]);
    rig.group(2).hold_writes(false);
    assert_eq!([w.read().await, c.read().await], ["OK", "[invalidate nil]"]);
    assert_eq!(c.ask("PING").await, "PONG");
}

#[tokio::test]
async fn a_follower_tells_of_changes_made_anywhere_and_of_doubt() {
    let rigs = three(1).await;
    let leader = rigs[0].group(1).leader().expect("it is known");
    let follower = rigs.iter().find(|rig| rig.cluster.me_id() != leader).expect("two do not lead");
    let others: Vec<&Rig> = rigs.iter().filter(|rig| rig.cluster.me_id() != follower.cluster.me_id()).collect();
    let mut c = tracker(follower, "").await;
    assert_eq!(c.ask("GET k").await, "nil");
    assert_eq!(others[0].proxy().await.ask("SET k 1").await, "OK");
    assert_eq!(c.read().await, "[invalidate [k]]");
    assert_eq!(c.ask_all("CLIENT CONSISTENCY eventual\nGET k").await, ["OK", "1"]);
    // It hears nothing of the others any more: what it told of may be out of date, and it says so.
    for other in others {
        other.cluster.host().stop().await;
    }
    assert_eq!(c.read().await, "[invalidate nil]");
    assert_eq!(c.ask("GET k").await, "1");
    assert_eq!(c.read().await, "[invalidate nil]");
}
