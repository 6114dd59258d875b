//! MONITOR: what others ask, line by line.

use super::*;

/// The next line without its time: who asked and what.
pub(super) async fn line(c: &mut Client) -> String {
    let line = c.read().await;
    let (time, rest) = line.split_once(" [0 ").expect("a time and who asks");
    assert!(time.split_once('.').is_some_and(|(s, us)| s.len() == 10 && us.len() == 6), "{line}");
    let (who, words) = rest.split_once("] ").expect("the end of who asks");
    let who = if who.starts_with("127.0.0.1:") { "client" } else { who };
    format!("{who} {words}")
}

#[tokio::test]
async fn who_monitors_is_told_what_others_ask() {
    let rig = rig(1).await;
    let (mut watcher, mut c) = (rig.proxy().await, rig.proxy().await);
    assert_eq!(watcher.ask("MONITOR").await, "OK");
    assert!(c.ask("CLIENT LIST").await.contains(" flags=O "));
    assert_eq!(c.ask_inline("SET a \"x y\\n\"").await, "OK");
    c.ask_all("NONSENSE\nGET a b\nCONFIG GET maxmemory\nHELLO 2 AUTH default secret\nAUTH secret\nMULTI\nGET a\nEXEC")
        .await;
    assert_eq!(c.ask_inline("EVAL \"return redis.call('GET', KEYS[1])\" 1 a").await, "x y\n");
    for expected in [
        "client \"SET\" \"a\" \"x y\\n\"",
        "client \"HELLO\" \"2\" \"(redacted)\" \"(redacted)\" \"(redacted)\"",
        "client \"AUTH\" \"(redacted)\"",
        "client \"MULTI\"",
        "client \"GET\" \"a\"",
        "client \"EXEC\"",
        "client \"EVAL\" \"return redis.call('GET', KEYS[1])\" \"1\" \"a\"",
        "lua \"GET\" \"a\"",
    ] {
        assert_eq!(line(&mut watcher).await, expected);
    }
    let refused = "[-ERR MONITOR isn't allowed for DENY BLOCKING client]";
    assert_eq!(rig.proxy().await.ask_all("MULTI\nMONITOR\nEXEC").await[2], refused);
    for expected in ["client \"MULTI\"", "client \"EXEC\""] {
        assert_eq!(line(&mut watcher).await, expected);
    }
    // It may go on asking, and sees itself; until RESET.
    watcher.send("PING\r\n").await;
    assert_eq!(line(&mut watcher).await, "client \"PING\"");
    assert_eq!(watcher.read().await, "PONG");
    watcher.send("RESET\r\n").await;
    assert_eq!(line(&mut watcher).await, "client \"RESET\"");
    assert_eq!(watcher.read().await, "RESET");
    assert_eq!(c.ask("SET a 1").await, "OK");
    assert_eq!(watcher.ask("GET a").await, "1");
}

#[tokio::test]
async fn who_monitors_and_does_not_read_is_closed() {
    let rig = rig(1).await;
    let (mut watcher, mut c) = (rig.proxy().await, rig.proxy().await);
    assert_eq!(c.ask_inline("CONFIG SET client-output-buffer-limit \"pubsub 100kb 0 0\"").await, "OK");
    assert_eq!(watcher.ask("MONITOR").await, "OK");
    let large = "x".repeat(50_000);
    while c.ask("CLIENT LIST").await.contains(" flags=O ") {
        assert_eq!(c.ask(&format!("SET a {large}")).await, "OK");
    }
}
