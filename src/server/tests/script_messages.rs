//! What scripts publish, and what MONITOR shows of them.

use super::monitor::line;
use super::*;

/// Publishes what it finds under a key, and then changes it.
const SAYS: &str =
    "redis.call('publish', 'a', redis.call('get', KEYS[1]) or 'none') return redis.call('incr', KEYS[1])";

#[tokio::test]
async fn what_a_script_publishes_is_heard_when_what_it_wrote_is_there() {
    let rig = rig(1).await;
    let (mut c, mut p) = (rig.proxy().await, rig.proxy().await);
    c.ask("HELLO 3").await;
    assert_eq!(c.ask("SUBSCRIBE a").await, "[subscribe a 1]");
    assert_eq!(c.ask("PSUBSCRIBE ?").await, "[psubscribe ? 2]");
    assert_eq!(c.ask("SSUBSCRIBE a").await, "[ssubscribe a 1]");
    // The number of those who will hear it is known to the script.
    assert_eq!(
        p.eval("return {redis.call('publish', 'a', ARGV[1]), redis.call('spublish', 'a', 'shard')}", &[], &["one"])
            .await,
        "[2 1]"
    );
    for heard in ["[message a one]", "[pmessage ? a one]", "[smessage a shard]"] {
        assert_eq!(c.read().await, heard);
    }
    assert_eq!(c.ask("PUNSUBSCRIBE").await, "[punsubscribe ? 1]");
    // Nothing is said before what was written is there, and a message once however often the script ran.
    rig.group(1).hold_writes(true);
    let mut other = rig.proxy().await;
    other.pipeline("INCR n").await;
    super::testing::until(|| rig.group(1).proposals().len() == 1).await;
    p.say(&["EVAL", SAYS, "1", "n"]).await;
    super::testing::until(|| rig.group(1).proposals().len() == 2).await;
    assert_eq!(rig.proxy().await.ask("PUBLISH a marker").await, "1");
    assert_eq!(c.read().await, "[message a marker]");
    rig.group(1).hold_writes(false);
    assert_eq!([other.read().await, p.read().await], ["1", "2"]);
    assert_eq!(c.read().await, "[message a 1]", "the run that counted found the other's increment");
    assert_eq!(c.ask("GET n").await, "2");
    assert_eq!(p.ask("PUBLISH a marker").await, "1");
    assert_eq!(c.read().await, "[message a marker]");
    // A script that raises an error keeps what it did until then, in Redis too.
    let reply = p.eval("redis.call('publish', 'a', 'before') error('x')", &[], &[]).await;
    assert!(reply.starts_with("-ERR user_script:1: x"), "{reply}");
    assert_eq!(c.read().await, "[message a before]");
}

#[tokio::test]
async fn what_did_not_count_is_not_said() {
    let rig = rig_with(1, |settings| settings.scripts.time = Duration::from_millis(50)).await;
    let (mut c, mut p) = (rig.proxy().await, rig.proxy().await);
    assert_eq!(c.ask("SUBSCRIBE a").await, "[subscribe a 1]");
    let silent = async |c: &mut Client, p: &mut Client| {
        assert_eq!(p.ask("PUBLISH a marker").await, "1");
        assert_eq!(c.read().await, "[message a marker]");
    };
    let endless = "redis.call('publish', 'a', 'never') while true do end";
    assert!(p.eval(endless, &[], &[]).await.starts_with("-ERR Script killed"));
    silent(&mut c, &mut p).await;
    // A transaction whose script is stopped.
    p.pipeline("MULTI\nPUBLISH a never").await;
    p.say(&["EVAL", endless, "0"]).await;
    p.pipeline("EXEC").await;
    for wanted in ["OK", "QUEUED", "QUEUED"] {
        assert_eq!(p.read().await, wanted);
    }
    assert!(p.read().await.starts_with("-EXECABORT"));
    silent(&mut c, &mut p).await;
    // One whose effects find no room.
    assert_eq!(p.ask("CONFIG SET maxmemory 100kb maxmemory-policy noeviction").await, "OK");
    super::testing::until(|| rig.group(1).peek(|keyspace| keyspace.limit().bytes > 0)).await;
    let large = "redis.call('publish', 'a', 'never') return redis.call('set', KEYS[1], string.rep('x', 200000))";
    assert!(p.eval(large, &["k"], &[]).await.starts_with("-OOM"));
    silent(&mut c, &mut p).await;
    // As in Redis, a script that only reads publishes nothing either.
    let refused = "-ERR Write commands are not allowed from read-only scripts.";
    p.say(&["EVAL_RO", "return redis.call('publish', 'a', 'never')", "0"]).await;
    assert!(p.read().await.starts_with(refused));
    let flagged = "#!lua flags=no-writes\nreturn redis.call('spublish', 'a', 'never')";
    assert!(p.eval(flagged, &[], &[]).await.starts_with(refused));
    let much = "for i = 1, 9 do redis.call('publish', 'b', string.rep('x', 1048576)) end";
    assert!(p.eval(much, &[], &[]).await.starts_with("-ERR the script publishes more than scripts may (8 MiB)"));
    silent(&mut c, &mut p).await;
}

#[tokio::test]
async fn messages_of_a_transaction_and_of_its_scripts_come_in_their_order() {
    let rig = rig(1).await;
    let (mut c, mut p) = (rig.proxy().await, rig.proxy().await);
    assert_eq!(c.ask("SUBSCRIBE a").await, "[subscribe a 1]");
    p.pipeline("MULTI\nPUBLISH a 1\nPING").await;
    p.say(&["EVAL", "return redis.call('publish', 'a', 2)", "0"]).await;
    p.pipeline("SET k 1\nSPUBLISH s x\nPUBLISH a 3\nEXEC\nPUBLISH a 4").await;
    for wanted in ["OK", "QUEUED", "QUEUED", "QUEUED", "QUEUED", "QUEUED", "QUEUED", "[1 PONG 1 OK 0 1]", "1"] {
        assert_eq!(p.read().await, wanted);
    }
    for n in 1..=4 {
        assert_eq!(c.read().await, format!("[message a {n}]"));
    }
}

#[tokio::test]
async fn a_script_publishes_where_its_user_may() {
    let rig = rig(1).await;
    let (mut admin, mut c) = (rig.proxy().await, rig.proxy().await);
    assert_eq!(admin.ask("ACL SETUSER alice on >pw ~* +@scripting +publish resetchannels &news:*").await, "OK");
    assert_eq!(c.ask("AUTH alice pw").await, "OK");
    assert_eq!(c.eval("return redis.call('publish', 'news:x', 1)", &[], &[]).await, "0");
    let reply = c.eval("return redis.call('publish', 'other', 1)", &[], &[]).await;
    assert!(reply.starts_with("-NOPERM ACL failure in script: No permissions to access a channel"), "{reply}");
    let reply = c.eval("return redis.call('spublish', 'news:x', 1)", &[], &[]).await;
    assert!(reply.starts_with("-NOPERM ACL failure in script: User alice has no permissions to run"), "{reply}");
    let log = admin.ask("ACL LOG").await;
    assert!(log.contains("reason channel context lua object other"), "{log}");
}

#[tokio::test]
async fn a_script_asked_for_at_any_node_is_heard_at_every_node() {
    let rigs = super::pubsub::three(1).await;
    let (mut c, mut d) = (rigs[2].proxy().await, rigs[1].proxy().await);
    assert_eq!(c.ask("SUBSCRIBE a").await, "[subscribe a 1]");
    assert_eq!(d.ask("SUBSCRIBE a").await, "[subscribe a 1]");
    for rig in &rigs {
        let mut p = rig.proxy().await;
        // What a connection publishes is heard in its order, by scripts or not.
        p.say(&["EVAL", "redis.call('publish', 'a', 1) return redis.call('set', 'k', 1)", "0"]).await;
        p.pipeline("PUBLISH a 2").await;
        assert_eq!([p.read().await, p.read().await], ["OK", "2"]);
        for heard in [&mut c, &mut d] {
            assert_eq!([heard.read().await, heard.read().await], ["[message a 1]", "[message a 2]"]);
        }
        let mut watcher = rig.proxy().await;
        assert_eq!(watcher.ask("MONITOR").await, "OK");
        assert_eq!(p.eval("return redis.call('get', 'k')", &[], &[]).await, "1");
        for wanted in ["\"EVAL\" \"return redis.call('get', 'k')\" \"0\"", "\"get\" \"k\""] {
            let line = watcher.read().await;
            assert!(line.ends_with(wanted), "{line}");
        }
    }
}

#[tokio::test]
async fn who_monitors_is_shown_what_scripts_run() {
    let rig = rig(1).await;
    let (mut watcher, mut c) = (rig.proxy().await, rig.proxy().await);
    assert_eq!(watcher.ask("MONITOR").await, "OK");
    let script = "redis.call('set', KEYS[1], '\"') return redis.pcall('acl', 'whoami')";
    assert_eq!(c.eval(script, &["k"], &[]).await, "-ERR This Redis command is not allowed from script");
    assert!(line(&mut watcher).await.starts_with("client "));
    assert_eq!(line(&mut watcher).await, "lua \"set\" \"k\" \"\\\"\"");
    let code = "#!lua name=lib\nredis.register_function('f', function(keys) return redis.call('incr', keys[1]) end)";
    c.say(&["FUNCTION", "LOAD", code]).await;
    assert_eq!(c.read().await, "lib");
    assert_eq!(c.ask("FCALL f 1 n").await, "1");
    assert!(line(&mut watcher).await.starts_with("client "));
    assert_eq!(line(&mut watcher).await, "client \"FCALL\" \"f\" \"1\" \"n\"");
    assert_eq!(line(&mut watcher).await, "lua \"incr\" \"n\"");
    // Of a script that does very much the beginning is shown, and how much more there was.
    assert_eq!(c.eval("for i = 1, 1500 do redis.call('ping', i) end return 1", &[], &[]).await, "1");
    assert!(line(&mut watcher).await.starts_with("client "));
    for i in 1..=1000 {
        assert_eq!(line(&mut watcher).await, format!("lua \"ping\" \"{i}\""));
    }
    assert_eq!(line(&mut watcher).await, "lua \"left-out\" \"500\"");
}
