//! Scripts through the doors of one node, and of several.

use super::*;
use crate::scripting::sha1_hex;

#[tokio::test]
async fn info_counts_scripts_and_functions() {
    let rig = rig(1).await;
    let mut c = rig.proxy().await;
    let counts = |info: String| -> Vec<String> {
        info.lines().filter_map(|line| Some(line.strip_prefix("number_of_")?.to_owned())).collect()
    };
    assert_eq!(
        c.ask_all("SCRIPT LOAD return(1)\nSCRIPT LOAD return(2)\nEVAL return(1) 0\nEVAL return(3) 0").await[3],
        "3"
    );
    assert_eq!(counts(c.ask("INFO memory").await), ["cached_scripts:3", "functions:0", "libraries:0"]);
    assert_eq!(c.ask("SCRIPT FLUSH").await, "OK");
    assert_eq!(counts(c.ask("INFO memory").await)[0], "cached_scripts:0");
}

impl Client {
    /// Sends one command whose words may hold anything.
    pub(super) async fn say(&mut self, words: &[&str]) {
        let mut out = format!("*{}\r\n", words.len()).into_bytes();
        words.iter().for_each(|w| out.extend_from_slice(format!("${}\r\n{w}\r\n", w.len()).as_bytes()));
        self.send(out).await;
    }

    pub(super) async fn eval(&mut self, script: &str, keys: &[&str], args: &[&str]) -> String {
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
async fn what_scripts_run_is_counted() {
    let rig = rig(1).await;
    let mut c = rig.proxy().await;
    assert_eq!(
        c.eval("redis.call('set', 'a', 1) redis.pcall('incr', 'a', 2) return redis.call('incr', 'a')", &[], &[]).await,
        "2"
    );
    assert!(c.eval("return redis.pcall('lpop', 'a').err", &[], &[]).await.starts_with("WRONGTYPE"));
    let stats = c.ask("INFO commandstats").await;
    for line in ["cmdstat_set:calls=1,", "cmdstat_incr:calls=1,", "cmdstat_lpop:calls=1,", "cmdstat_eval:calls=2,"] {
        assert!(stats.contains(line), "{line} is missing in {stats}");
    }
    assert!(stats.lines().any(|line| line.starts_with("cmdstat_lpop") && line.ends_with("failed_calls=1")), "{stats}");
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
    // One that says what it is runs in a full group only if it says that it may.
    assert_eq!(c.ask(&format!("SET d {}", "x".repeat(50_000))).await, "OK");
    assert_eq!(c.ask("CONFIG SET maxmemory 10kb").await, "OK");
    super::testing::until(|| rig.group(1).peek(|keyspace| keyspace.limit().bytes <= 10 << 10)).await;
    let refused = "-OOM allow-oom flag is not set on the script, can not run it when used memory > 'maxmemory'";
    for (head, wanted) in
        [("", refused), (" flags=allow-oom", "1"), (" flags=no-writes", "1"), (" flags=allow-stale", refused)]
    {
        assert_eq!(c.eval(&format!("#!lua{head}\nreturn 1"), &[], &[]).await, wanted, "{head}");
    }
    assert_eq!(c.eval("return 1", &[], &[]).await, "1");
}

#[tokio::test]
async fn who_waits_behind_a_long_script_is_told_so_and_not_run() {
    let rig = rig_with(1, |settings| settings.scripts.time = Duration::from_secs(60)).await;
    let (mut long, mut first, mut second) = (rig.proxy().await, rig.proxy().await, rig.proxy().await);
    assert_eq!(first.ask("CONFIG SET busy-reply-threshold 50").await, "OK");
    long.say(&["EVAL", "redis.call('set', 'a', 1) while true do end", "0"]).await;
    // One that is sent long before the threshold, and one behind it that finds the script too long already.
    first.say(&["EVAL", "return redis.call('set', 'b', 1)", "0"]).await;
    let busy = "-BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.";
    assert_eq!(first.read().await, busy);
    assert_eq!(second.eval("return redis.call('set', 'c', 1)", &[], &[]).await, busy);
    assert_eq!(second.ask("SCRIPT KILL").await, "OK");
    assert!(long.read().await.starts_with("-ERR Script killed by user with SCRIPT KILL..."));
    assert_eq!(second.eval("return redis.call('set', 'd', 1)", &[], &[]).await, "OK");
    assert_eq!(second.ask("MGET a b c d").await, "[nil nil nil 1]");
}

#[tokio::test]
async fn who_came_before_a_long_script_is_answered_before_it_ends() {
    let rig = rig_with(1, |settings| settings.scripts.time = Duration::from_secs(60)).await;
    let mut c = rig.proxy().await;
    assert_eq!(c.ask("CONFIG SET busy-reply-threshold 0").await, "OK");
    // One submission of one connection: three scripts, the second without an end.
    c.say(&["EVAL", "return redis.call('set', 'a', 1)", "0"]).await;
    c.say(&["EVAL", "redis.call('set', 'b', 1) while true do end", "0"]).await;
    c.say(&["EVAL", "return redis.call('set', 'c', 1)", "0"]).await;
    let mut other = rig.proxy().await;
    super::testing::until(|| rig.group(1).peek(|keyspace| keyspace.contains(b"a"))).await;
    while other.ask("SCRIPT KILL").await != "OK" {}
    assert_eq!(c.read().await, "OK");
    assert!(c.read().await.starts_with("-ERR Script killed by user with SCRIPT KILL..."));
    assert_eq!(c.read().await, "OK");
    assert_eq!(other.ask("MGET a b c").await, "[1 nil 1]");
}

#[tokio::test]
async fn a_script_may_do_what_its_user_may() {
    let rig = rig(1).await;
    let (mut admin, mut c) = (rig.proxy().await, rig.proxy().await);
    assert_eq!(admin.ask("SET secret 1").await, "OK");
    let rules = "ACL SETUSER alice on >pw ~app:* %R~shared:* +@scripting +get +set +acl|whoami";
    assert_eq!(admin.ask(rules).await, "OK");
    assert_eq!(c.ask("AUTH alice pw").await, "OK");
    assert_eq!(c.eval("return redis.call('set', KEYS[1], 5)", &["app:a"], &[]).await, "OK");
    assert_eq!(c.eval("return redis.call('get', KEYS[1])", &["app:a"], &[]).await, "5");
    let denied = "-NOPERM ACL failure in script: ";
    let no_key = format!("{denied}No permissions to access a key script: ");
    let incr = format!("{denied}User alice has no permissions to run the 'incr' command script: ");
    for (script, wanted) in [
        ("return redis.call('get', 'secret')", &no_key),
        ("return redis.call('set', 'shared:x', 1)", &no_key),
        ("return redis.call('incr', 'app:n')", &incr),
    ] {
        let reply = c.eval(script, &[], &[]).await;
        assert!(reply.starts_with(wanted), "{reply}");
    }
    // What was done before stays done, and the script may go on.
    let script = "redis.call('set', 'app:b', 1) local e = redis.pcall('incr', 'app:n') return e.err";
    assert_eq!(c.eval(script, &[], &[]).await, incr[1..].trim_end_matches(" script: "));
    assert_eq!(c.ask("GET app:b").await, "1");
    // The keys of EVAL itself: it might write them.
    let outside = "-NOPERM No permissions to access a key";
    for (command, key, wanted) in
        [("EVAL", "secret", outside), ("EVAL", "shared:x", outside), ("EVAL_RO", "shared:x", "nil")]
    {
        c.say(&[command, "return redis.call('get', KEYS[1])", "1", key]).await;
        assert_eq!(c.read().await, wanted, "{command} {key}");
    }
    let may = "return {redis.acl_check_cmd('get', 'app:a'), redis.acl_check_cmd('get', 'secret')}";
    assert_eq!(c.eval(may, &[], &[]).await, "[1 nil]");
    let log = admin.ask("ACL LOG").await;
    for part in ["context lua", "object secret", "object incr", "username alice", "reason key", "reason command"] {
        assert!(log.contains(part), "{part}: {log}");
    }
    assert_eq!(log.matches("context lua").count(), 3, "{log}");
    assert_eq!(admin.ask("GET secret").await, "1");
}

#[tokio::test]
async fn a_transaction_with_scripts_is_one() {
    let rig = rig(1).await;
    let (mut c, mut other) = (rig.proxy().await, rig.proxy().await);
    let sha = sha1_hex(INCREMENT.as_bytes());
    let exec = async |c: &mut Client, calls: &[&[&str]]| {
        assert_eq!(c.ask("MULTI").await, "OK");
        for call in calls {
            c.say(call).await;
            assert_eq!(c.read().await, "QUEUED");
        }
        c.ask("EXEC").await
    };
    let eval: &[&str] = &["EVAL", INCREMENT, "1", "n"];
    let calls: &[&[&str]] =
        &[&["SET", "n", "5"], eval, &["CLIENT", "GETNAME"], &["EVALSHA", &sha, "1", "n"], &["GET", "n"]];
    assert_eq!(exec(&mut c, calls).await, "[OK OK nil OK 7]");
    assert_eq!(rig.group(1).proposals().len(), 1, "all of it is one call of one entry");
    // An error of one does not undo the others, an unknown script is such an error.
    let calls: &[&[&str]] = &[
        eval,
        &["EVAL", "return redis.call('lpush', 'n', 1)", "0"],
        &["EVALSHA", &"0".repeat(40), "0"],
        &["GET", "n"],
    ];
    let reply = exec(&mut c, calls).await;
    assert!(reply.starts_with("[OK -WRONGTYPE") && reply.contains("-NOSCRIPT") && reply.ends_with(" 8]"), "{reply}");
    // Watched keys.
    assert_eq!(c.ask("WATCH w n").await, "OK");
    assert_eq!(other.ask("SET w 1").await, "OK");
    assert_eq!(exec(&mut c, &[eval]).await, "nil");
    assert_eq!(c.ask("WATCH w n").await, "OK");
    assert_eq!(exec(&mut c, &[eval, &["EVAL_RO", "return redis.call('get', 'w')", "0"]]).await, "[OK 1]");
    // It only reads: nothing is proposed.
    let before = rig.group(1).proposals().len();
    assert_eq!(exec(&mut c, &[&["EVAL", "return redis.call('get', 'n')", "0"], &["GET", "w"]]).await, "[9 1]");
    assert_eq!(rig.group(1).proposals().len(), before);
}

#[tokio::test]
async fn nothing_comes_between_the_commands_of_transactions_with_scripts() {
    let rig = rig(1).await;
    let mut tasks = Vec::new();
    for n in 0..6 {
        let mut c = rig.proxy().await;
        tasks.push(tokio::spawn(async move {
            for _ in 0..30 {
                if n % 2 == 1 {
                    c.ask("INCR n").await.parse::<u64>().expect("a number");
                    continue;
                }
                c.ask("MULTI").await;
                c.say(&["EVAL", INCREMENT, "1", "n"]).await;
                c.say(&["GET", "n"]).await;
                c.say(&["EVAL", "return redis.call('decr', KEYS[1])", "1", "n"]).await;
                c.say(&["EVAL", INCREMENT, "1", "n"]).await;
                c.say(&["EXEC"]).await;
                for _ in 0..4 {
                    assert_eq!(c.read().await, "QUEUED");
                }
                let reply = c.read().await;
                let numbers: Vec<i64> = reply.split([' ', ']']).filter_map(|word| word.parse().ok()).collect();
                assert!(matches!(numbers[..], [up, down] if up == down + 1), "{reply}");
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(rig.proxy().await.ask("GET n").await, "180");
}

#[tokio::test]
async fn a_transaction_whose_script_is_stopped_did_nothing() {
    let rig = rig_with(1, |settings| settings.scripts.time = Duration::from_millis(50)).await;
    let mut c = rig.proxy().await;
    c.ask("MULTI").await;
    c.ask("SET a 1").await;
    c.say(&["EVAL", "redis.call('set', 'b', 1) while true do end", "0"]).await;
    assert_eq!(c.read().await, "QUEUED");
    let reply = c.ask("EXEC").await;
    let wanted = "-EXECABORT Transaction discarded because of: Script killed: it ran for longer than scripts may";
    assert!(reply.starts_with(wanted), "{reply}");
    assert_eq!(c.ask("MGET a b").await, "[nil nil]");
}

const LIBRARY: &str = "#!lua name=lib\nlocal calls = 0 \
    redis.register_function('add', function(keys) calls = calls + 1 return redis.call('incr', keys[1]) + calls end) \
    redis.register_function{function_name='peek', callback=function(keys) return redis.call('get', keys[1]) end, \
    flags={'no-writes'}}";

#[tokio::test]
async fn functions_are_called_by_name_and_keep_nothing_between_calls() {
    let rig = rig(1).await;
    let mut c = rig.proxy().await;
    // In one go: what is behind a change of the libraries sees it.
    c.say(&["FUNCTION", "LOAD", LIBRARY]).await;
    for _ in 0..2 {
        c.say(&["FCALL", "add", "1", "n"]).await;
    }
    c.say(&["FCALL_RO", "PEEK", "1", "n"]).await;
    c.say(&["FUNCTION", "DELETE", "lib"]).await;
    c.say(&["FCALL", "add", "1", "n"]).await;
    for wanted in ["lib", "2", "3", "2", "OK", "-ERR Function not found"] {
        assert_eq!(c.read().await, wanted);
    }
    // In a transaction.
    c.say(&["FUNCTION", "LOAD", LIBRARY]).await;
    c.say(&["MULTI"]).await;
    c.say(&["FCALL", "add", "1", "n"]).await;
    c.say(&["FCALL", "nope", "1", "n"]).await;
    c.say(&["GET", "n"]).await;
    c.say(&["EXEC"]).await;
    for wanted in ["lib", "OK", "QUEUED", "QUEUED", "QUEUED", "[4 -ERR Function not found 3]"] {
        assert_eq!(c.read().await, wanted);
    }
    assert_eq!(c.ask("COMMAND GETKEYS FCALL add 1 n x").await, "[n]");
    assert_eq!(c.ask("FUNCTION LOAD nonsense").await, "-ERR Missing library metadata");
}

#[tokio::test]
async fn what_a_library_registers_is_limited_in_time() {
    let rig = rig(1).await;
    let mut c = rig.proxy().await;
    c.say(&["FUNCTION", "LOAD", "#!lua name=lib\nwhile true do end"]).await;
    assert_eq!(c.read().await, "-ERR Error registering functions: ERR FUNCTION LOAD timeout");
    assert_eq!(c.ask("FUNCTION LIST").await, "[]");
}

#[tokio::test]
async fn libraries_are_dumped_and_restored() {
    let rig = rig(1).await;
    let mut c = rig.proxy().await;
    let code = |name: &str, function: &str, value: &str| {
        format!("#!lua name={name}\nredis.register_function('{function}', function() return '{value}' end)")
    };
    for (name, function, value) in [("one", "f", "1"), ("two", "g", "2")] {
        c.say(&["FUNCTION", "LOAD", &code(name, function, value)]).await;
        assert_eq!(c.read().await, name);
    }
    let codes = [code("one", "f", "1"), code("two", "g", "2")].map(bytes::Bytes::from);
    let dump = crate::scripting::seal(codes.iter());
    // The test's client shows bytes as text, so it cannot hand on the dump that it got.
    assert!(c.ask("FUNCTION DUMP").await.starts_with("HCFUNCTIONS"));
    let restore = async |c: &mut Client, policy: &str| {
        let mut out = format!("*4\r\n$8\r\nFUNCTION\r\n$7\r\nRESTORE\r\n${}\r\n", dump.len()).into_bytes();
        out.extend_from_slice(&dump);
        out.extend_from_slice(format!("\r\n${}\r\n{policy}\r\n", policy.len()).as_bytes());
        c.send(out).await;
        c.read().await
    };
    assert_eq!(restore(&mut c, "APPEND").await, "-ERR Library one already exists");
    assert_eq!(c.ask("FUNCTION FLUSH").await, "OK");
    assert_eq!(restore(&mut c, "APPEND").await, "OK");
    assert_eq!(c.ask_all("FCALL f 0\nFCALL g 0").await, ["1", "2"]);
    c.say(&["FUNCTION", "LOAD", "REPLACE", &code("two", "h", "3")]).await;
    assert_eq!(c.read().await, "two");
    assert_eq!(restore(&mut c, "REPLACE").await, "OK");
    assert_eq!(c.ask_all("FCALL g 0\nFCALL h 0").await, ["2", "-ERR Function not found"]);
    c.say(&["FUNCTION", "LOAD", "REPLACE", &code("three", "h", "3")]).await;
    assert_eq!(c.read().await, "three");
    c.say(&["FUNCTION", "LOAD", "REPLACE", &code("two", "i", "4")]).await;
    c.say(&["FUNCTION", "LOAD", "REPLACE", &code("three", "g", "5")]).await;
    assert_eq!([c.read().await, c.read().await], ["two", "three"]);
    assert_eq!(restore(&mut c, "REPLACE").await, "-ERR Function g already exists");
    assert_eq!(restore(&mut c, "FLUSH").await, "OK");
    assert_eq!(c.ask_all("FCALL g 0\nFCALL h 0").await, ["2", "-ERR Function not found"]);
    let stats = "[running_script nil engines [LUA [libraries_count 2 functions_count 2]]]";
    assert_eq!(c.ask("FUNCTION STATS").await, stats);
    assert_eq!(c.ask("FUNCTION RESTORE x").await, "-ERR DUMP payload version or checksum are wrong");
}

#[tokio::test]
async fn a_function_is_killed_by_its_own_order() {
    let rig = rig_with(1, |settings| settings.scripts.time = Duration::from_secs(60)).await;
    let (mut c, mut other) = (rig.proxy().await, rig.proxy().await);
    let code =
        "#!lua name=lib\nredis.register_function('f', function(k) redis.call('set', k[1], 1) while true do end end)";
    c.say(&["FUNCTION", "LOAD", code]).await;
    assert_eq!(c.read().await, "lib");
    c.say(&["FCALL", "f", "1", "a"]).await;
    while !other.ask("FUNCTION STATS").await.starts_with("[running_script [name f command [FCALL f 1 a] duration_ms ") {
    }
    let busy = "-BUSY Redis is busy running a script. You can only call FUNCTION KILL or SHUTDOWN NOSAVE.";
    assert_eq!(other.ask("SCRIPT KILL").await, busy);
    assert_eq!(other.ask("CONFIG SET busy-reply-threshold 1").await, "OK");
    assert_eq!(other.ask("FCALL f 1 a").await, busy);
    assert_eq!(other.ask("FUNCTION KILL").await, "OK");
    assert!(c.read().await.starts_with("-ERR Script killed by user with FUNCTION KILL..."));
    assert_eq!(c.ask("GET a").await, "nil");
    assert_eq!(other.ask("FUNCTION KILL").await, "-NOTBUSY No scripts in execution right now.");
}

#[tokio::test]
async fn changes_of_libraries_on_one_node_do_not_undo_each_other() {
    let rig = rig(1).await;
    let mut tasks = Vec::new();
    for n in 0..6 {
        let mut c = rig.proxy().await;
        tasks.push(tokio::spawn(async move {
            // All of them claim the same function beside their own.
            let code = format!("#!lua name=lib{n}\nredis.register_function('own{n}', function() end)");
            let claim = format!("#!lua name=claim{n}\nredis.register_function('only', function() return {n} end)");
            c.say(&["FUNCTION", "LOAD", &code]).await;
            c.say(&["FUNCTION", "LOAD", &claim]).await;
            assert_eq!(c.read().await, format!("lib{n}"));
            !c.read().await.starts_with('-')
        }));
    }
    let mut winners = 0;
    for task in tasks {
        winners += usize::from(task.await.unwrap());
    }
    assert_eq!(winners, 1);
    let stats = rig.proxy().await.ask("FUNCTION STATS").await;
    assert!(stats.ends_with("[LUA [libraries_count 7 functions_count 7]]]"), "{stats}");
}
