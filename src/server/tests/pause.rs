//! CLIENT PAUSE, and what CLIENT LIST and KILL tell apart.

use super::*;

#[tokio::test]
async fn writes_wait_while_they_are_paused_and_reads_do_not() {
    let rig = rig(1).await;
    let (mut c, mut other) = (rig.proxy().await, rig.proxy().await);
    assert_eq!(other.ask("CLIENT PAUSE 3600000 WRITE").await, "OK");
    c.pipeline("GET k\nSET k v\nGET k").await;
    assert_eq!(c.read().await, "nil");
    assert_eq!(other.ask_all("GET k\nPING").await, ["nil", "PONG"]);
    assert!(rig.group(1).proposals().is_empty());
    assert_eq!(other.ask("CLIENT UNPAUSE").await, "OK");
    assert_eq!([c.read().await, c.read().await], ["OK", "v"]);
    // A pause that is over is over, whatever it was to hold.
    assert_eq!(other.ask("CLIENT PAUSE 1 ALL").await, "OK");
    assert_eq!(c.ask("SET k w").await, "OK");
}

/// Waits until so many connections wait, and says that INFO and CLIENT LIST know it.
async fn waiting(rig: &Rig, n: usize) {
    let waits = || rig.server.shared().clients().rows().iter().filter(|row| row.blocked).count();
    testing::until(|| waits() == n).await;
    let mut c = rig.proxy().await;
    assert!(c.ask("INFO clients").await.contains(&format!("blocked_clients:{n}\r\n")));
    let listed = c.ask("CLIENT LIST").await;
    let flags = listed.lines().filter_map(|line| line.split_once(" flags=")?.1.split(' ').next());
    assert_eq!(flags.filter(|flags| flags.contains('b')).count(), n, "{listed}");
}

#[tokio::test]
async fn who_waits_for_the_end_of_a_pause_is_counted() {
    let rig = rig(1).await;
    let mut other = rig.proxy().await;
    assert_eq!(other.ask_all("PFADD hll x\nCLIENT PAUSE 3600000 WRITE").await, ["1", "OK"]);
    let mut held = Vec::new();
    for (line, reply) in [("SET k v", "OK"), ("PFCOUNT hll", "1"), ("PUBLISH a b", "0"), ("EVAL return(1) 0", "1")] {
        let mut c = rig.proxy().await;
        c.pipeline(line).await;
        held.push((c, reply));
        waiting(&rig, held.len()).await;
    }
    assert_eq!(other.ask("SET k").await, "-ERR wrong number of arguments for 'set' command");
    assert_eq!(other.ask("NOSUCH").await, "-ERR unknown command 'NOSUCH', with args beginning with: ");
    assert_eq!(other.ask("CLIENT UNPAUSE").await, "OK");
    for (mut c, reply) in held {
        assert_eq!(c.read().await, reply);
    }
    waiting(&rig, 0).await;
}

#[tokio::test]
async fn scripts_and_transactions_wait_for_the_end_of_a_pause_if_they_may_write() {
    let rig = rig(1).await;
    let (mut c, mut other) = (rig.proxy().await, rig.proxy().await);
    let words = |words: &[&str]| {
        let word = |word: &&str| format!("${}\r\n{word}\r\n", word.len());
        format!("*{}\r\n{}", words.len(), words.iter().map(word).collect::<String>())
    };
    let promises = "#!lua flags=no-writes\nreturn 2";
    let library =
        "#!lua name=l\nredis.register_function{function_name='f',callback=function() return 3 end,flags={'no-writes'}}";
    c.send(words(&["FUNCTION", "LOAD", library])).await;
    assert_eq!(c.read().await, "l");
    c.send(words(&["SCRIPT", "LOAD", promises])).await;
    let sha = c.read().await;
    // What is queued before the pause is judged when it is to run.
    let (mut reads, mut writes, mut scripts) = (rig.proxy().await, rig.proxy().await, rig.proxy().await);
    assert_eq!(reads.ask_all("MULTI\nPING\nGET k").await, ["OK", "QUEUED", "QUEUED"]);
    reads.send(words(&["EVAL", promises, "0"])).await;
    assert_eq!(reads.read().await, "QUEUED");
    assert_eq!(writes.ask_all("MULTI\nSET k v").await, ["OK", "QUEUED"]);
    assert_eq!(scripts.ask_all("MULTI\nEVAL return(1) 0").await, ["OK", "QUEUED"]);
    assert_eq!(other.ask("CLIENT PAUSE 3600000 WRITE").await, "OK");
    c.send(words(&["EVAL", promises, "0"])).await;
    assert_eq!(c.read().await, "2");
    assert_eq!(c.ask_all(&format!("EVALSHA {sha} 0\nFCALL f 0\nEVAL_RO return(4) 0")).await, ["2", "3", "4"]);
    assert_eq!(reads.ask("EXEC").await, "[PONG nil 2]");
    writes.pipeline("EXEC").await;
    waiting(&rig, 1).await;
    scripts.pipeline("EXEC").await;
    waiting(&rig, 2).await;
    let mut flagless = rig.proxy().await;
    flagless.send(words(&["EVAL", "#!lua\nreturn 5", "0"])).await;
    waiting(&rig, 3).await;
    assert_eq!(other.ask("CLIENT UNPAUSE").await, "OK");
    assert_eq!([writes.read().await, scripts.read().await, flagless.read().await], ["[OK]", "[1]", "5"]);
}

#[tokio::test]
async fn listeners_are_clients_of_another_type() {
    let rig = rig(1).await;
    let (mut c, mut other) = (rig.proxy().await, rig.proxy().await);
    c.ask_all("SUBSCRIBE a\nPSUBSCRIBE b").await;
    let listed = other.ask("CLIENT LIST TYPE pubsub").await;
    assert!(listed.contains(" flags=P ") && listed.contains(" sub=1 psub=1 ssub=0 "), "{listed}");
    assert_eq!(listed.lines().count(), 1);
    assert_eq!(other.ask("CLIENT LIST TYPE normal").await.lines().count(), 1);
    assert_eq!(
        other.ask_all("CLIENT KILL USER nobody\nCLIENT KILL USER nobody ID 1").await,
        ["-ERR No such user 'nobody'"; 2]
    );
    assert_eq!(other.ask("CLIENT KILL TYPE pubsub").await, "1");
    assert_eq!(c.read().await, "(closed)");
    assert_eq!(other.ask_all("CLIENT NO-EVICT ON\nCLIENT NO-TOUCH ON").await, ["OK", "OK"]);
    let own = other.ask("CLIENT INFO").await;
    assert!(own.contains(" flags=eT "), "{own}");
}
