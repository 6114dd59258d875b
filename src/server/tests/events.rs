//! Keyspace notifications through the doors.

use super::pubsub::three;
use super::*;

/// Sets what is told, and waits until every node has heard so.
async fn tell(rigs: &[Rig], classes: &str) {
    assert_eq!(rigs[0].proxy().await.ask(&format!("CONFIG SET notify-keyspace-events {classes}")).await, "OK");
    for rig in rigs {
        let wanted = crate::state::events::Classes::parse(classes).unwrap();
        testing::until(|| rig.cluster.host().watch().wanted().events == wanted).await;
        let shown = rig.proxy().await.ask("CONFIG GET notify-keyspace-events").await;
        assert_eq!(shown, format!("[notify-keyspace-events {classes}]"));
    }
}

#[tokio::test]
async fn an_event_is_told_once_to_the_listeners_of_every_node() {
    let rigs = three(2).await;
    tell(&rigs, "AKE").await;
    let mut listeners = Vec::new();
    for rig in &rigs {
        let mut c = rig.proxy().await;
        assert_eq!(c.ask("PSUBSCRIBE __key*__:*").await, "[psubscribe __key*__:* 1]");
        assert_eq!(c.ask("SUBSCRIBE end").await, "[subscribe end 2]");
        listeners.push(c);
    }
    let group = rigs[0].group(1);
    let leader = rigs.iter().find(|rig| Some(rig.cluster.me_id()) == group.leader()).expect("one of them leads");
    let key = leader.key_in(1);
    let mut w = rigs[1].proxy().await;
    assert_eq!(
        w.ask_all(&format!("SET {key} v\nAPPEND {key} w\nGET {key}\nSETNX {key} x")).await,
        ["OK", "2", "vw", "0"]
    );
    assert_eq!(w.ask(&format!("PEXPIRE {key} 1")).await, "1");
    let mut expected = Vec::new();
    for event in ["set", "append", "expire", "expired"] {
        expected.push(format!("[pmessage __key*__:* __keyspace@0__:{key} {event}]"));
        expected.push(format!("[pmessage __key*__:* __keyevent@0__:{event} {key}]"));
    }
    for c in &mut listeners {
        for wanted in &expected {
            assert_eq!(&c.read().await, wanted);
        }
    }
    // Nothing came twice: the next thing they hear is what is said now, by the node that told the rest.
    assert_eq!(leader.proxy().await.ask("PUBLISH end x").await, "3");
    for c in &mut listeners {
        assert_eq!(c.read().await, "[message end x]");
    }
}

#[tokio::test]
async fn misses_and_evictions_are_told_when_they_are_wanted_and_mistakes_are_refused() {
    let rig = rig(1).await;
    let rigs = [rig];
    let mut c = rigs[0].proxy().await;
    c.ask("PSUBSCRIBE __keyevent@0__:*").await;
    let mut w = rigs[0].proxy().await;
    assert_eq!(w.ask_all("GET k\nSET k v").await, ["nil", "OK"]);
    tell(&rigs, "nEm").await;
    assert_eq!(w.ask_all("GET none\nEXISTS none k\nSET new v\nSET k w").await, ["nil", "1", "OK", "OK"]);
    for expected in ["keymiss none", "keymiss none", "new new"] {
        assert_eq!(c.read().await, format!("[pmessage __keyevent@0__:* __keyevent@0__:{expected}]"));
    }
    let refused = w.ask("CONFIG SET notify-keyspace-events q").await;
    assert!(refused.ends_with("Invalid event class character. Use 'Ag$lshzxeKEtmdn'."), "{refused}");
    tell(&rigs, "eE").await;
    assert_eq!(w.ask("CONFIG SET maxmemory 60kb maxmemory-policy allkeys-random").await, "OK");
    w.ask("GET k").await;
    let mut evicted = rigs[0].proxy().await;
    for n in 0..1000 {
        evicted.ask(&format!("SET filler:{n} {}", "x".repeat(200))).await;
    }
    let told = c.read().await;
    assert!(told.starts_with("[pmessage __keyevent@0__:* __keyevent@0__:evicted "), "{told}");
}
