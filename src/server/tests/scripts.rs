//! Scripts through the doors of one node, and of several.

use super::*;
use crate::scripting::sha1_hex;

impl Client {
    /// Sends one command whose words may hold anything.
    async fn say(&mut self, words: &[&str]) {
        let mut out = format!("*{}\r\n", words.len()).into_bytes();
        words.iter().for_each(|w| out.extend_from_slice(format!("${}\r\n{w}\r\n", w.len()).as_bytes()));
        self.send(out).await;
    }

    async fn eval(&mut self, script: &str, keys: &[&str], args: &[&str]) -> String {
        let count = keys.len().to_string();
        let words: Vec<&str> =
            ["EVAL", script, &count].into_iter().chain(keys.iter().copied()).chain(args.iter().copied()).collect();
        self.say(&words).await;
        self.read().await
    }
}

const INCREMENT: &str = "return redis.call('set', KEYS[1], (redis.call('get', KEYS[1]) or 0) + 1)";

#[tokio::test]
async fn a_script_takes_its_turn_among_the_commands_of_its_connection() {
    let rig = rig(1).await;
    let mut c = rig.proxy().await;
    for _ in 0..3 {
        c.say(&["SET", "a", "1"]).await;
        c.say(&["EVAL", INCREMENT, "1", "a"]).await;
        c.say(&["GET", "a"]).await;
        c.say(&["EVAL", INCREMENT, "1", "a"]).await;
        c.say(&["EVAL", "return redis.call('incr', KEYS[1])", "1", "a"]).await;
        c.say(&["APPEND", "a", "x"]).await;
        let mut replies = Vec::new();
        for _ in 0..6 {
            replies.push(c.read().await);
        }
        assert_eq!(replies, ["OK", "OK", "2", "OK", "4", "2"]);
    }
    assert_eq!(c.eval("return {KEYS[1], ARGV[1]}", &["k"], &["v"]).await, "[k v]");
    assert_eq!(c.ask("EVAL x nonsense").await, "-ERR value is not an integer or out of range");
}

#[tokio::test]
async fn no_increment_of_many_scripts_and_writers_is_lost() {
    let rig = rig(1).await;
    let mut tasks = Vec::new();
    for n in 0..8 {
        let mut c = rig.proxy().await;
        tasks.push(tokio::spawn(async move {
            for _ in 0..50 {
                match n % 2 {
                    0 => assert_eq!(c.eval(INCREMENT, &["n"], &[]).await, "OK"),
                    _ => drop(c.ask("INCR n").await.parse::<u64>().expect("a number")),
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(rig.proxy().await.ask("GET n").await, "400");
}

#[tokio::test]
async fn a_script_that_only_reads_proposes_nothing_and_sees_what_was_acknowledged() {
    let rig = rig(1).await;
    let (mut c, mut other) = (rig.proxy().await, rig.proxy().await);
    for n in 0..20 {
        assert_eq!(other.ask(&format!("SET a {n}")).await, "OK");
        assert_eq!(c.eval("return redis.call('get', 'a')", &["a"], &[]).await, n.to_string());
    }
    assert_eq!(rig.group(1).proposals().len(), 20);
}

#[tokio::test]
async fn an_expired_key_is_not_told_by_a_script_before_the_log_says_so() {
    let rig = rig(1).await;
    let mut c = rig.proxy().await;
    assert_eq!(c.ask("SET a 1 PX 100000").await, "OK");
    rig.group(1).pass_time(Duration::from_secs(200));
    assert_eq!(c.eval("return redis.call('exists', 'a')", &["a"], &[]).await, "0");
    // Whoever reads the state without asking anybody sees the same from now on.
    assert_eq!(c.ask("HC.READ eventual EXISTS a").await, "0");
}

#[tokio::test]
async fn a_script_is_known_by_its_name_until_it_is_flushed() {
    let rig = rig(2).await;
    let mut c = rig.proxy().await;
    let sha = sha1_hex(b"return 7");
    let noscript = "-NOSCRIPT No matching script. Please use EVAL.";
    assert_eq!(c.ask(&format!("EVALSHA {sha} 0")).await, noscript);
    c.say(&["SCRIPT", "LOAD", "return 7"]).await;
    // It is known to what comes behind it, although it is not acknowledged yet.
    c.say(&["EVALSHA", &sha.to_uppercase(), "0"]).await;
    assert_eq!([c.read().await, c.read().await], [sha.clone(), "7".to_owned()]);
    assert_eq!(c.ask(&format!("SCRIPT EXISTS {sha} {}", "0".repeat(40))).await, "[1 0]");
    assert_eq!(c.ask("SCRIPT FLUSH").await, "OK");
    assert_eq!(c.ask(&format!("SCRIPT EXISTS {sha}")).await, "[0]");
    assert_eq!(c.ask(&format!("EVALSHA {sha} 0")).await, noscript);
    assert_eq!(c.eval("return 7", &[], &[]).await, "7");
    assert_eq!(c.ask(&format!("EVALSHA {sha} 0")).await, "7");
    c.say(&["SCRIPT", "LOAD", "no lua"]).await;
    assert!(c.read().await.starts_with("-ERR Error compiling script (new function): user_script:1:"));
}

#[tokio::test]
async fn an_endless_script_is_stopped_and_leaves_nothing_behind() {
    let rig = rig_with(1, |settings| settings.scripts.time = Duration::from_millis(50)).await;
    let (mut c, mut other) = (rig.proxy().await, rig.proxy().await);
    c.say(&["EVAL", "redis.call('set', 'a', 1) while true do end", "0"]).await;
    other.say(&["EVAL", "return redis.call('set', 'b', 1)", "0"]).await;
    // Commands that are no scripts do not wait.
    assert_eq!(rig.proxy().await.ask("SET c 1").await, "OK");
    assert!(c.read().await.starts_with("-ERR Script killed: it ran for longer than scripts may"));
    assert_eq!(other.read().await, "OK", "those who waited behind it get their turn");
    assert_eq!(c.ask("MGET a b c").await, "[nil 1 1]");
    let large = c.eval("return string.rep('x', 1e9)", &[], &[]).await;
    assert!(large.contains("more memory than scripts may"), "{large}");
    assert_eq!(c.eval("return 1", &[], &[]).await, "1");
}

#[tokio::test]
async fn a_running_script_is_killed() {
    let rig = rig_with(1, |settings| settings.scripts.time = Duration::from_secs(60)).await;
    let (mut c, mut other) = (rig.proxy().await, rig.proxy().await);
    assert_eq!(other.ask("SCRIPT KILL").await, "-NOTBUSY No scripts in execution right now.");
    assert_eq!(other.ask("CONFIG SET busy-reply-threshold 1").await, "OK");
    assert_eq!(other.ask("CONFIG GET lua-time-limit").await, "[lua-time-limit 1]");
    c.say(&["EVAL", "redis.call('set', 'a', 1) while true do end", "0"]).await;
    assert_eq!(other.ask("SET b 1").await, "OK");
    // Until it runs there is nothing to stop.
    while other.ask("SCRIPT KILL").await != "OK" {}
    assert!(c.read().await.starts_with("-ERR Script killed by user with SCRIPT KILL..."));
    assert_eq!(c.ask("GET a").await, "nil");
}

#[tokio::test]
async fn in_several_groups_a_script_keeps_to_its_own() {
    let rig = rig(2).await;
    let mut c = rig.proxy().await;
    let (a, b) = (rig.key_in(1), rig.key_in(2));
    assert_eq!(c.eval(INCREMENT, &[&a], &[]).await, "OK");
    assert_eq!(c.eval(INCREMENT, &[&b], &[]).await, "OK");
    let crossing = "-CROSSSLOT Keys in request don't hash to the same slot";
    assert_eq!(c.eval("return 1", &[&a, &b], &[]).await, crossing);
    let elsewhere = "-ERR Script attempted to access a non local key in a cluster node";
    assert!(c.eval(&format!("return redis.call('get', '{b}')"), &[&a], &[]).await.starts_with(elsewhere));
    assert_eq!(c.ask(&format!("MGET {a} {b}")).await, "[1 1]");
}

#[tokio::test]
async fn a_script_without_room_is_refused_alone() {
    let rig = rig(1).await;
    let mut c = rig.proxy().await;
    assert_eq!(c.ask("CONFIG SET maxmemory 100kb maxmemory-policy noeviction").await, "OK");
    super::testing::until(|| rig.group(1).peek(|keyspace| keyspace.limit().bytes > 0)).await;
    let large = "return redis.call('set', KEYS[1], string.rep('x', 200000))";
    for (script, key) in [(large, "a"), (INCREMENT, "b"), (large, "c"), (INCREMENT, "b")] {
        c.say(&["EVAL", script, "1", key]).await;
    }
    let oom = "-OOM command not allowed when used memory > 'maxmemory'.";
    for wanted in [oom, "OK", oom, "OK"] {
        assert_eq!(c.read().await, wanted);
    }
    assert_eq!(c.ask("MGET a b c").await, "[nil 2 nil]");
}
