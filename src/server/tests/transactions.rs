//! MULTI, EXEC and WATCH through the doors: one entry, one moment, one place in the order of the connection.

use super::*;

const CROSSED: &str = "-CROSSSLOT Keys in request don't hash to the same slot";
const DISCARDED: &str = "-EXECABORT Transaction discarded because of previous errors.";

#[tokio::test]
async fn a_transaction_is_one_call_and_its_replies_stand_in_order() {
    let rig = rig(1).await;
    let mut c = rig.proxy().await;
    let lines = "SET n 1\nMULTI\nINCR n\nPING\nGET n\nINCRBY n x\nCLIENT SETNAME me\nDBSIZE\nINCR n\nCLIENT GETNAME\n\
                 SCAN 0\nEXEC\nCLIENT GETNAME\nGET n";
    let replies = c.ask_all(lines).await;
    assert_eq!(replies[..2], ["OK", "OK"]);
    assert!(replies[2..11].iter().all(|reply| reply == "QUEUED"), "{replies:?}");
    assert_eq!(replies[11], "[2 PONG 2 -ERR value is not an integer or out of range OK 1 3 me [0 [n]]]");
    assert_eq!(replies[12..], ["me", "3"]);
    assert_eq!(rig.group(1).proposals().iter().sum::<usize>(), 2, "the transaction is one call");
    let stats = c.ask("INFO commandstats").await;
    assert!(stats.contains("cmdstat_incr:calls=2,") && stats.contains("cmdstat_exec:calls=1,"), "{stats}");
}

#[tokio::test]
async fn what_ends_the_process_is_not_queued_and_a_wrong_setting_is_wrong_in_its_place() {
    let rig = rig(1).await;
    let mut c = rig.proxy().await;
    for line in ["SAVE", "SHUTDOWN NOSAVE", "SYNC"] {
        let replies = c.ask_all(&format!("MULTI\n{line}\nEXEC")).await;
        assert_eq!(replies[1..], ["-ERR Command not allowed inside a transaction", DISCARDED], "{line}");
    }
    let replies = c.ask_all("MULTI\nSET a 1\nCONFIG SET maxmemory bla\nEXEC\nGET a").await;
    assert_eq!(replies[..3], ["OK", "QUEUED", "QUEUED"]);
    assert!(replies[3].starts_with("[OK -ERR CONFIG SET failed"), "{replies:?}");
    assert_eq!(replies[4], "1");
    let shared = "-ERR what all nodes share cannot be set inside a transaction";
    assert_eq!(c.ask_all("MULTI\nCONFIG SET maxmemory 1gb\nEXEC").await[1..], [shared, DISCARDED]);
}

#[tokio::test]
async fn nobody_sees_a_transaction_half_done() {
    let rig = rig(1).await;
    let mut c = rig.proxy().await;
    c.ask("MSET a 0 b 0").await;
    let mut other = rig.proxy().await;
    let writer = tokio::spawn(async move {
        for n in 1..200 {
            c.ask_all(&format!("MULTI\nSET a {n}\nSET b {n}\nEXEC")).await;
        }
    });
    while !writer.is_finished() {
        let seen = other.ask_all("MULTI\nGET a\nGET b\nEXEC").await.pop().unwrap();
        let pair: Vec<&str> = seen.trim_matches(['[', ']']).split(' ').collect();
        assert_eq!(pair[0], pair[1], "{seen}");
        let both = other.ask("MGET a b").await;
        let pair: Vec<&str> = both.trim_matches(['[', ']']).split(' ').collect();
        assert_eq!(pair[0], pair[1], "{both}");
    }
    writer.await.unwrap();
}

#[tokio::test]
async fn one_that_only_reads_makes_no_entry() {
    let rig = rig(1).await;
    rig.group(1).withhold_leave();
    let mut c = rig.proxy().await;
    c.ask("SET a 1").await;
    let entries = rig.group(1).status().last_log;
    assert_eq!(c.ask_all("MULTI\nGET a\nPING\nSTRLEN a\nEXEC").await[4], "[1 PONG 1]");
    assert_eq!(rig.group(1).barriers(), 1, "one leave for all of it");
    assert_eq!(c.ask_all("WATCH a\nMULTI\nGET a\nEXEC").await[3], "[1]");
    assert_eq!(rig.group(1).status().last_log, entries);
}

#[tokio::test]
async fn a_transaction_keeps_its_place_between_the_commands_around_it() {
    let rig = rig(2).await;
    let (a, b) = (rig.key_in(1), rig.key_in(2));
    rig.group(1).hold_writes(true);
    let mut c = rig.proxy().await;
    c.pipeline(&format!(
        "SET {a} 1\nMULTI\nINCR {a}\nCLIENT SETNAME late\nEXEC\nCLIENT GETNAME\nINCR {a}\nSET {b} 1\nGET {a}"
    ))
    .await;
    let mut other = rig.proxy().await;
    while rig.group(1).proposals().is_empty() {
        other.ask("PING").await;
    }
    assert_eq!(other.ask(&format!("GET {a}")).await, "nil");
    let list = other.ask("CLIENT LIST").await;
    assert!(!list.contains("name=late"), "what runs at EXEC has not run: {list}");
    rig.group(1).hold_writes(false);
    let mut replies = Vec::new();
    for _ in 0..9 {
        replies.push(c.read().await);
    }
    assert_eq!(replies, ["OK", "OK", "QUEUED", "QUEUED", "[2 OK]", "late", "3", "OK", "3"]);
}

#[tokio::test]
async fn watch_and_what_follows_may_come_in_one_packet() {
    let rig = rig(1).await;
    rig.group(1).withhold_leave();
    let (mut c, mut other) = (rig.proxy().await, rig.proxy().await);
    let replies = c.ask_all("SET a 1\nWATCH a\nMULTI\nINCR a\nEXEC\nGET a").await;
    assert_eq!(replies, ["OK", "OK", "OK", "QUEUED", "[2]", "2"]);
    let replies = c.ask_all("WATCH a\nINCR a\nMULTI\nINCR a\nEXEC\nGET a").await;
    assert_eq!(replies, ["OK", "3", "OK", "QUEUED", "nil", "3"]);
    assert_eq!(c.ask("WATCH a b").await, "OK");
    assert_eq!(other.ask("SET b 1").await, "OK");
    let replies = c.ask_all("MULTI\nCLIENT SETNAME never\nINCR a\nEXEC\nCLIENT GETNAME").await;
    assert_eq!(replies[3..], ["nil", "nil"], "what did not take effect leaves the connection alone, too");
}

#[tokio::test]
async fn a_watched_key_that_the_leader_calls_dead_has_changed() {
    let rig = rig(1).await;
    let mut c = rig.proxy().await;
    assert_eq!(c.ask_all("SET a 1 PX 100000\nWATCH a").await, ["OK", "OK"]);
    rig.group(1).pass_time(Duration::from_secs(150));
    assert_eq!(c.ask_all("MULTI\nGET b\nEXEC").await[2], "nil");
    // One that was dead when it was watched has not.
    assert_eq!(c.ask_all("SET a 1 PX 100000").await, ["OK"]);
    rig.group(1).pass_time(Duration::from_secs(150));
    assert_eq!(c.ask_all("WATCH a\nMULTI\nSET b 1\nEXEC").await[3], "[OK]");
}

#[tokio::test]
async fn all_keys_lie_in_one_slot_unless_everything_is_one_group() {
    let several = rig(3).await;
    let mut c = several.proxy().await;
    assert_eq!(c.ask_all("MULTI\nSET a 1\nSET b 1\nEXEC").await, ["OK", "QUEUED", CROSSED, DISCARDED]);
    assert_eq!(c.ask_all("MULTI\nMGET a b\nEXEC").await, ["OK", CROSSED, DISCARDED]);
    assert_eq!(c.ask_all("WATCH a\nWATCH b\nMULTI\nSET b 1\nEXEC").await[1..], [CROSSED, "OK", CROSSED, DISCARDED]);
    let all = "-ERR DBSIZE inside a transaction needs a cluster with one data group";
    assert_eq!(c.ask_all("MULTI\nDBSIZE\nEXEC").await, ["OK", all, DISCARDED]);
    assert_eq!(c.ask_all("MULTI\nSET {t}a 1\nSET {t}b 1\nMGET {t}a {t}b\nEXEC").await[4], "[OK OK [1 1]]");
    assert_eq!(c.ask_all("WATCH {t}a {t}b\nMULTI\nDEL {t}a\nOBJECT HELP\nEXEC").await[4].split(' ').next(), Some("[1"));
    assert_eq!(c.ask("DBSIZE").await, "1");

    let one = rig(1).await;
    let mut c = one.proxy().await;
    let replies = c.ask_all("WATCH a b\nMULTI\nMSET a 1 b 2\nDBSIZE\nKEYS *\nRANDOMKEY\nFLUSHALL\nDBSIZE\nEXEC").await;
    assert!(replies[8].starts_with("[OK 2 [") && replies[8].ends_with(" OK 0]"), "{replies:?}");
    let mut c = one.client(Face::Cluster).await;
    assert_eq!(c.ask_all("MULTI\nSET a 1\nSET b 1\nEXEC").await, ["OK", "QUEUED", CROSSED, DISCARDED]);
}

#[tokio::test]
async fn the_cluster_face_redirects_what_is_queued_and_watched() {
    let rig = rig_of_three(2).await;
    let key = rig.key_in(2);
    let slot = crate::slot::slot_of(key.as_bytes()).0;
    let moved = format!("-MOVED {slot} 127.0.0.1:6480");
    let mut c = rig.client(Face::Cluster).await;
    assert_eq!(c.ask_all(&format!("MULTI\nSET {key} 1")).await, ["OK", "QUEUED"]);
    rig.group(2).show_leader(NodeId(2));
    assert_eq!(c.ask("EXEC").await, moved);
    assert_eq!(c.ask("EXEC").await, "-ERR EXEC without MULTI");
    assert_eq!(c.ask_all(&format!("MULTI\nSET {key} 1\nEXEC")).await, ["OK", &moved, DISCARDED]);
    assert_eq!(c.ask(&format!("WATCH {key}")).await, moved);
    assert_eq!(c.ask_all(&format!("READONLY\nMULTI\nGET {key}\nEXEC")).await, ["OK", "OK", "QUEUED", "[nil]"]);
}

#[tokio::test]
async fn what_refuses_a_command_spoils_the_transaction() {
    let rig = rig(1).await;
    let mut c = rig.proxy().await;
    assert_eq!(c.ask_all("MULTI\nSET a 1").await, ["OK", "QUEUED"]);
    rig.server.set_memory_full(true);
    let oom = "OOM command not allowed when used memory > 'maxmemory'.";
    assert_eq!(c.ask("EXEC").await, format!("-EXECABORT Transaction discarded because of: {oom}"));
    assert_eq!(c.ask_all("MULTI\nSET a 1\nEXEC").await, ["OK", &format!("-{oom}"), DISCARDED]);
    assert_eq!(c.ask_all("MULTI\nDEL a\nEXEC").await[2], "[0]");
    rig.server.set_memory_full(false);
    let shared = "-ERR what all nodes share cannot be set inside a transaction";
    assert_eq!(c.ask_all("MULTI\nCONFIG SET maxmemory 1gb\nEXEC").await, ["OK", shared, DISCARDED]);
    let muted = "-ERR Command not allowed inside a transaction";
    assert_eq!(c.ask_all("MULTI\nCLIENT REPLY OFF\nEXEC").await, ["OK", muted, DISCARDED]);
    assert_eq!(c.ask_all("MULTI\nSLOWLOG RESET\nCONFIG SET slowlog-max-len 10\nEXEC").await[3], "[OK OK]");
}

#[tokio::test]
async fn what_is_about_scripts_is_part_of_a_transaction() {
    let rig = rig(1).await;
    let mut c = rig.proxy().await;
    let sha = crate::scripting::sha1_hex(b"return 7");
    let unknown = "-NOSCRIPT No matching script. Please use EVAL.";
    let replies = c.ask_all(&format!("MULTI\nSCRIPT EXISTS {sha}\nSET a 1\nEXEC")).await;
    assert_eq!(replies, ["OK", "QUEUED", "QUEUED", "[[0] OK]"]);
    // In one that does nothing it does nothing either.
    assert_eq!(c.ask("WATCH a").await, "OK");
    assert_eq!(rig.proxy().await.ask("SET a 2").await, "OK");
    assert_eq!(c.ask_all("MULTI\nFUNCTION FLUSH\nGET a\nEXEC").await[3], "nil");
    // What it loads can be run by it, and afterwards through other nodes.
    assert_eq!(c.ask("MULTI").await, "OK");
    assert_eq!(c.ask_inline("SCRIPT LOAD \"return 7\"").await, "QUEUED");
    let replies = c.ask_all(&format!("EVALSHA {sha} 0\nPING\nEXEC\nGET a")).await;
    assert_eq!(replies[2..], [format!("[{sha} 7 PONG]"), "2".to_owned()]);
    assert_eq!(c.ask_all(&format!("MULTI\nSCRIPT FLUSH\nSCRIPT EXISTS {sha}\nEXEC")).await[3], "[OK [0]]");
    assert_eq!(c.ask(&format!("EVALSHA {sha} 0")).await, unknown);
    assert_eq!(
        c.ask_all("MULTI\nSCRIPT FLUSH LATER\nEXEC").await[2],
        "[-ERR SCRIPT FLUSH only support SYNC|ASYNC option]"
    );
}

#[tokio::test]
async fn a_transaction_that_no_entry_holds_is_refused_while_it_is_queued() {
    let rig = rig_with(1, |s| s.output_max = 1 << 20).await;
    let mut c = rig.proxy().await;
    let large = "x".repeat(9 << 20);
    assert_eq!(c.ask("MULTI").await, "OK");
    for _ in 0..7 {
        assert_eq!(c.ask(&format!("SET a {large}")).await, "QUEUED");
    }
    assert!(c.ask(&format!("SET a {large}")).await.starts_with("-ERR the transaction is larger than an entry"));
    assert_eq!([c.ask("SET a 1").await.as_str(), &c.ask("EXEC").await], ["QUEUED", DISCARDED]);
    assert_eq!(c.ask("GET a").await, "nil");
    // One that just fits does go through.
    c.ask("MULTI").await;
    for n in 0..7 {
        assert_eq!(c.ask(&format!("SET a{n} {large}")).await, "QUEUED");
    }
    assert_eq!(c.ask("EXEC").await, "[OK OK OK OK OK OK OK]");
    let many = "INCR n\n".repeat(65_536);
    assert_eq!(c.ask("MULTI").await, "OK");
    assert!(c.ask_all(&many).await.iter().all(|reply| reply == "QUEUED"));
    c.pipeline("EXEC").await;
    let Some(Reply::Array(replies)) = c.next().await else { panic!("an array") };
    assert_eq!((replies.len(), replies.last()), (65_536, Some(&Reply::Int(65_536))));
    assert_eq!(c.ask("MULTI").await, "OK");
    let replies = c.ask_all(&format!("{many}INCR n")).await;
    assert!(replies[65_535] == "QUEUED" && replies[65_536].starts_with("-ERR the transaction"), "{}", replies[65_536]);
}

#[tokio::test]
async fn reset_and_the_lists_of_clients_know_of_it() {
    let rig = rig(1).await;
    let (mut c, mut other) = (rig.proxy().await, rig.proxy().await);
    c.ask_all("CLIENT SETNAME me\nWATCH a b").await;
    let line = |list: String| list.lines().find(|line| line.contains(" name=me ")).unwrap().to_owned();
    assert!(line(other.ask("CLIENT LIST").await).contains(" multi=-1 "));
    assert!(line(other.ask("CLIENT LIST").await).contains(" watch=2"));
    c.ask_all("MULTI\nSET a 1\nGET a").await;
    let shown = line(other.ask("CLIENT LIST").await);
    assert!(shown.contains(" flags=x ") && shown.contains(" multi=2 ") && shown.contains(" watch=2"), "{shown}");
    assert_eq!(other.ask("SET a 2").await, "OK");
    assert_eq!(c.ask_all("RESET\nEXEC").await, ["RESET", "-ERR EXEC without MULTI"]);
    assert_eq!(c.ask_all("MULTI\nGET a\nEXEC").await[2], "[2]", "RESET forgets what was watched");
    let info = c.ask("CLIENT INFO").await;
    assert!(info.contains(" multi=-1 ") && info.contains(" watch=0"), "{info}");
    assert_eq!(c.ask_all("MULTI\nSET a 3\nQUIT").await, ["OK", "QUEUED", "OK"]);
    assert_eq!(c.read().await, "(closed)");
    assert_eq!(other.ask("GET a").await, "2");
}

#[tokio::test]
async fn a_group_that_refuses_says_so_for_the_whole() {
    let rig = rig(1).await;
    rig.group(1).withhold_leave();
    let mut c = rig.proxy().await;
    assert_eq!(c.ask_all("WATCH a\nMULTI\nCLIENT SETNAME never\nSET a 1").await[3], "QUEUED");
    rig.group(1).stop().await;
    assert!(c.ask("EXEC").await.starts_with("-CLUSTERDOWN"));
    assert_eq!(c.ask("CLIENT GETNAME").await, "nil");
    assert!(c.ask("WATCH a").await.starts_with("-CLUSTERDOWN"));
    assert!(c.ask("CLIENT INFO").await.contains("watch=0"));
}

/// Replies of a transaction that was carried to another node, and of one whose leader changed since WATCH.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_watched_survives_a_change_of_leader() {
    let clusters = testing::all_of_three_with(1).await;
    let groups: Vec<_> = clusters.iter().map(|cluster| cluster.host().group(GroupId(1)).unwrap()).collect();
    let mut rigs = Vec::new();
    for cluster in clusters {
        rigs.push(rig_on(cluster, |s| s.request_timeout = PATIENCE).await);
    }
    let leader = || groups.iter().position(|group| group.is_leader());
    let leads = async || {
        testing::until(|| leader().is_some()).await;
        leader().expect("it was just seen")
    };
    for (n, changed) in [(0, false), (1, true), (2, false), (3, true)] {
        let first = leads().await;
        // Once at the leader that goes, once at a node that follows all the time or comes to lead.
        let at = if n < 2 { first } else { (first + 1) % 3 };
        let (mut c, mut other) = (rigs[at].proxy().await, rigs[(at + 1) % 3].proxy().await);
        assert_eq!(c.ask(&format!("SET k{n} 1")).await, "OK");
        assert_eq!(c.ask(&format!("WATCH k{n} none")).await, "OK");
        let next = (first + 1) % 3;
        groups[first].transfer(groups[next].me_for_tests()).await.unwrap();
        testing::until(|| groups[next].is_leader()).await;
        if changed {
            assert_eq!(other.ask(&format!("SET k{n} 1")).await, "OK");
        }
        let replies = c.ask_all(&format!("MULTI\nINCR k{n}\nPING\nGET k{n}\nEXEC")).await;
        assert_eq!(replies[4], if changed { "nil" } else { "[2 PONG 2]" });
        let expected = if changed { "1" } else { "2" };
        assert_eq!(other.ask(&format!("GET k{n}")).await, expected);
    }
}
