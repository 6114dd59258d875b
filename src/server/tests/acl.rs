//! Users through the RESP doors: who may do what, on which nodes, from when on.

use super::*;
use crate::security::Registry;
use crate::server::Shared;

const WRONGPASS: &str = "-WRONGPASS invalid username-password pair or user is disabled.";
const NOPERM_KEY: &str = "-NOPERM No permissions to access a key";

fn registry(rig: &Rig) -> Arc<Registry> {
    rig.cluster.registry().clone()
}

fn shared(rig: &Rig) -> Arc<Shared> {
    rig.server.shared()
}

#[tokio::test]
async fn a_user_may_do_what_its_rules_say_and_nothing_else() {
    let rig = rig(1).await;
    let mut admin = rig.proxy().await;
    assert_eq!(admin.ask("ACL SETUSER alice on >pw ~app:* %R~pub:* +@all -@admin -flushall").await, "OK");
    let mut alice = rig.proxy().await;
    assert_eq!(alice.ask("AUTH alice nope").await, WRONGPASS);
    assert_eq!(alice.ask_all("AUTH alice pw\nACL WHOAMI").await, ["OK", "alice"]);
    let replies = alice
        .ask_all("SET app:1 x\nGET app:1\nGET pub:1\nSET pub:1 x\nGET other\nFLUSHALL\nACL LIST\nMGET app:1 other")
        .await;
    let denied = |name: &str| format!("-NOPERM User alice has no permissions to run the '{name}' command");
    let expected = ["OK", "x", "nil", NOPERM_KEY, NOPERM_KEY, &denied("flushall"), &denied("acl|list"), NOPERM_KEY]
        .map(str::to_owned);
    assert_eq!(replies, expected);
    assert!(admin.ask("CLIENT LIST").await.contains(" user=alice "));

    // What was refused is in the log, alike ones together, and counted.
    let log = admin.ask("ACL LOG 20").await;
    assert!(log.contains("reason key context toplevel object other username alice"), "{log}");
    assert!(log.contains("reason auth context toplevel object auth username alice"), "{log}");
    let stats = registry(&rig).stats();
    assert_eq!((stats.auth, stats.command, stats.key), (1, 2, 3));
    assert_eq!(admin.ask_all("ACL LOG RESET\nACL LOG").await, ["OK", "[]"]);
    assert_eq!(shared(&rig).totals().codes.get("NOPERM"), Some(&5));
}

#[tokio::test]
async fn sort_looks_at_other_keys_only_for_who_may_read_all() {
    let rig = rig(1).await;
    let mut admin = rig.proxy().await;
    assert_eq!(admin.ask("RPUSH app:1 2 1").await, "2");
    assert_eq!(admin.ask("MSET secret_1 b secret_2 a").await, "OK");
    for line in ["ACL SETUSER alice on >pw ~app:* +@all", "ACL SETUSER reader on >pw %R~* +@all"] {
        assert_eq!(admin.ask(line).await, "OK");
    }
    let denied = |option: &str| format!("-ERR {option} option of SORT denied due to insufficient ACL permissions.");
    let mut alice = rig.proxy().await;
    assert_eq!(alice.ask("AUTH alice pw").await, "OK");
    for (line, expected) in [
        ("SORT app:1 GET secret_*", denied("GET")),
        ("SORT_RO app:1 GET secret_*", denied("GET")),
        ("SORT app:1 BY secret_* ALPHA", denied("BY")),
        ("SORT app:1 LIMIT 0 1 GET #", denied("GET")),
        ("SORT app:1 LIMIT a 1 GET #", "-ERR value is not an integer or out of range".to_owned()),
        ("SORT other BY secret_*", NOPERM_KEY.to_owned()),
        ("SORT app:1 BY nosort", "[2 1]".to_owned()),
    ] {
        assert_eq!(alice.ask(line).await, expected, "{line}");
    }
    // A transaction takes it, and tells so when it runs.
    let replies = alice.ask_all("MULTI\nSORT app:1 BY secret_* ALPHA\nLLEN app:1\nEXEC").await;
    assert_eq!(replies[1..], ["QUEUED".to_owned(), "QUEUED".to_owned(), format!("[{} 2]", denied("BY"))]);
    let by_script = alice.ask_inline("EVAL \"return redis.call('SORT', KEYS[1], 'GET', 'secret_*')\" 1 app:1").await;
    assert!(by_script.starts_with(&denied("GET")), "{by_script}");

    let mut reader = rig.proxy().await;
    assert_eq!(reader.ask("AUTH reader pw").await, "OK");
    assert_eq!(reader.ask("SORT_RO app:1 BY secret_* ALPHA GET secret_*").await, "[a b]");
}

#[tokio::test]
async fn changed_rules_count_at_once_and_deleted_users_are_closed() {
    let rig = rig(1).await;
    let mut admin = rig.proxy().await;
    let (mut alice, mut silent) = (rig.proxy().await, rig.proxy().await);
    assert_eq!(admin.ask("ACL SETUSER alice on >pw ~* +get").await, "OK");
    assert_eq!(alice.ask("AUTH alice pw").await, "OK");
    assert_eq!(silent.ask("AUTH alice pw").await, "OK");
    assert!(alice.ask("SET a 1").await.starts_with("-NOPERM"));
    // The pipeline behind a change sees it.
    let replies = admin.ask_all("ACL SETUSER alice +set -get\nACL GETUSER alice\nPING").await;
    assert!(
        replies[0] == "OK" && replies[1].contains("commands -@all +set -get") && replies[2] == "PONG",
        "{replies:?}"
    );
    assert_eq!(alice.ask("SET a 1").await, "OK");
    assert!(alice.ask("GET a").await.starts_with("-NOPERM"));
    // Off keeps those who are in, and nobody else comes.
    assert_eq!(admin.ask("ACL SETUSER alice off").await, "OK");
    assert_eq!(alice.ask("SET a 2").await, "OK");
    assert_eq!(rig.proxy().await.ask("AUTH alice pw").await, WRONGPASS);
    assert_eq!(admin.ask("ACL DELUSER alice nobody").await, "1");
    assert_eq!(silent.read().await, "(closed)");
    assert_eq!(alice.read().await, "(closed)");
    assert_eq!(admin.ask("GET a").await, "2");
    assert_eq!(admin.ask("ACL DELUSER default").await, "-ERR The 'default' user cannot be removed");
}

#[tokio::test]
async fn who_deletes_itself_is_told_and_closed() {
    let rig = rig(1).await;
    assert_eq!(rig.proxy().await.ask("ACL SETUSER root on >pw ~* +@all").await, "OK");
    let mut root = rig.proxy().await;
    assert_eq!(root.ask("AUTH root pw").await, "OK");
    assert_eq!(root.ask_all("ACL DELUSER root\nPING").await, ["1", "(closed)"]);
}

#[tokio::test]
async fn requirepass_is_the_default_users_password_for_new_connections() {
    let rig = rig(1).await;
    let mut old = rig.proxy().await;
    assert_eq!(old.ask("CONFIG SET requirepass one").await, "OK");
    assert_eq!(old.ask("PING").await, "PONG");
    let mut new = rig.proxy().await;
    assert_eq!(new.ask("PING").await, "-NOAUTH Authentication required.");
    assert_eq!(new.ask_all("AUTH one\nPING").await, ["OK", "PONG"]);
    assert_eq!(old.ask("CONFIG SET requirepass two").await, "OK");
    assert_eq!(rig.proxy().await.ask("AUTH one").await, WRONGPASS);
    assert!(old.ask("CONFIG SET requirepass x timeout 1").await.starts_with("-ERR CONFIG SET failed"));
    assert_eq!(old.ask("CONFIG GET requirepass").await, "[requirepass ]");
    new.send(b"*4\r\n$6\r\nCONFIG\r\n$3\r\nSET\r\n$11\r\nrequirepass\r\n$0\r\n\r\n").await;
    assert_eq!(new.read().await, "OK");
    assert_eq!(rig.proxy().await.ask("PING").await, "PONG");
}

#[tokio::test]
async fn mistakes_in_rules_are_told_and_change_nothing() {
    let rig = rig(1).await;
    let mut c = rig.proxy().await;
    let before = c.ask("ACL LIST").await;
    assert_eq!(before, "[user default on nopass sanitize-payload ~* &* +@all]");
    assert_eq!(
        c.ask("ACL SETUSER alice on +nope").await,
        "-ERR Error in ACL SETUSER modifier '+nope': Unknown command or category name in ACL"
    );
    assert_eq!(c.ask("ACL LIST").await, before);
    assert_eq!(c.ask("ACL GETUSER alice").await, "nil");
    assert_eq!(c.ask("ACL DRYRUN alice get a").await, "-ERR User 'alice' not found");
    assert_eq!(c.ask("ACL DRYRUN default nope").await, "-ERR Command 'nope' not found");
    assert_eq!(c.ask("ACL DRYRUN default get").await, "-ERR wrong number of arguments for 'get' command");
    assert_eq!(
        c.ask_all("ACL SETUSER bob ~a +get\nACL DRYRUN bob get a\nACL DRYRUN bob get x").await[1..],
        ["OK", "User bob has no permissions to access the 'x' key"]
    );
    assert_eq!(c.ask("ACL GENPASS").await.len(), 64);
    assert_eq!(c.ask("ACL GENPASS 5").await.len(), 2);
    assert!(c.ask("ACL LOAD").await.contains("not configured to use an ACL file"));
    assert!(c.ask("ACL CAT").await.starts_with("[keyspace read write set"));
    assert!(c.ask("ACL CAT hyperspace").await.starts_with("-ERR Unknown category"));
}

#[tokio::test]
async fn a_password_is_not_in_the_slow_log() {
    let rig = rig(1).await;
    let mut c = rig.proxy().await;
    assert_eq!(c.ask("CONFIG SET slowlog-log-slower-than 0").await, "OK");
    c.ask_all("AUTH secret\nACL SETUSER alice >secret\nCONFIG SET requirepass secret").await;
    let log = c.ask("SLOWLOG GET 10").await;
    assert!(log.contains("ACL SETUSER (redacted)") && !log.contains("secret"), "{log}");
}

/// One node of three, through a door of its own.
async fn doors_of(clusters: &[Arc<Cluster>]) -> Vec<Rig> {
    let mut rigs = Vec::new();
    for cluster in clusters {
        rigs.push(rig_on(cluster.clone(), |_| {}).await);
    }
    rigs
}

#[tokio::test]
async fn a_user_changed_on_one_node_counts_on_all_three() {
    let rigs = doors_of(&testing::all_of_three_with(1).await).await;
    let mut admins = Vec::new();
    for rig in &rigs {
        admins.push(rig.proxy().await);
    }
    assert_eq!(admins[0].ask("ACL SETUSER alice on >pw ~* +get").await, "OK");
    let mut alices = Vec::new();
    for rig in &rigs {
        testing::until(|| rig.cluster.registry().users().get("alice").is_some()).await;
        let mut alice = rig.proxy().await;
        assert_eq!(alice.ask("AUTH alice pw").await, "OK");
        assert!(alice.ask("SET a 1").await.starts_with("-NOPERM"));
        alices.push(alice);
    }
    // Each node adds a rule at the same time; none of the three is lost.
    let [a, b, c] = &mut admins[..] else { panic!("three nodes") };
    let told = tokio::join!(
        a.ask("ACL SETUSER alice +set >one"),
        b.ask("ACL SETUSER alice +del >two"),
        c.ask("ACL SETUSER alice +incr >three")
    );
    assert_eq!(told, ("OK".to_owned(), "OK".to_owned(), "OK".to_owned()));
    for rig in &rigs {
        let all = |user: &Arc<crate::security::User>| {
            let text = String::from_utf8(user.text()).expect("the rules are text");
            ["+set", "+del", "+incr"].iter().all(|rule| text.contains(rule))
                && ["pw", "one", "two", "three"].iter().all(|password| user.admits(password.as_bytes()))
        };
        testing::until(|| rig.cluster.registry().users().get("alice").is_some_and(all)).await;
    }
    for alice in &mut alices {
        assert!(!alice.ask("SET a 1").await.starts_with('-'));
    }
    assert_eq!(admins[1].ask("ACL DELUSER alice").await, "1");
    for alice in &mut alices {
        assert_eq!(alice.read().await, "(closed)");
    }
    for rig in &rigs {
        assert_eq!(rig.proxy().await.ask("AUTH alice pw").await, WRONGPASS);
    }
}
