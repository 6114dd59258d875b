//! A cluster is saved into a file while clients write, and another is made of the file: all from outside, with the
//! programs as operators use them.
//!
//! `HYPERCACHE_TEST_OPERATIONS` (2,000) keys of about 100 bytes. `HYPERCACHE_TEST_MEASURE=1` prints what it cost.

mod cluster;

use cluster::{Cluster, Door, Plan, bulk, installed, size, skipped, wait_until};
use hypercache::env;
use hypercache::resp::Reply;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn fill(cluster: &Cluster, keys: u64) {
    let mut client = cluster.client(1);
    for part in 0..keys.div_ceil(1000) {
        let part = (part * 1000)..((part + 1) * 1000).min(keys);
        let value = |i: u64| format!("{:x}", i.wrapping_mul(0x9E37_79B9_7F4A_7C15)).repeat(6);
        let commands: Vec<Vec<String>> =
            part.map(|i| vec!["SET".into(), format!("key:{i}"), format!("{i}:{}", value(i))]).collect();
        client.pipeline(&commands).expect("the cluster takes writes");
    }
    client.ok(&["SET", "lives", "on", "EX", "10000"]);
}

fn restore(file: &Path, into: &Cluster, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hypercachectl"));
    command.args(["-o", "json", "snapshot", "restore"]).arg(file);
    for number in into.numbers() {
        command.arg("--config").arg(into.node(number).config_file());
    }
    command.args(more).output().expect("hypercachectl can be run")
}

fn must(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("no JSON: {e}: {text}"))
}

/// The command failed with this code, and says this.
fn fails(output: &Output, code: &str, words: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "it should have failed with {code}");
    assert!(text.contains(&format!("error[{code}]")) && text.contains(words), "{code}, {words}: {text}");
    assert!(text.contains("remedy: "), "{text}");
}

fn path(of: &Path) -> &str {
    of.to_str().expect("temporary paths are plain")
}

#[test]
fn a_cluster_restored_from_a_file_serves_the_data_under_a_new_identity() {
    let keys = size("HYPERCACHE_TEST_OPERATIONS", 2_000);
    let mut old = Plan::new(3, 2).start();
    fill(&old, keys);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("saved");
    let before = env::now();
    let saved = old.ctl_json(&[2], &["snapshot", "save", path(&file)]);
    let groups = saved["groups"].as_array().unwrap();
    assert_eq!(groups.len(), 3, "{saved}");
    let saved_keys = groups.iter().skip(1).map(|g| g["keys"].as_u64().unwrap()).sum::<u64>();
    assert!((keys + 1..keys + 10).contains(&saved_keys), "what was written, and the probes of the test: {saved}");
    println!("saved in {:?}: {saved}", before.elapsed());
    old.client(1).ok(&["SET", "key:0", "after the save"]);

    // One that was cut off is done again.
    let mut new = Plan::new(3, 2).prepare();
    fs::create_dir_all(new.node(2).data.join("store")).unwrap();
    fs::write(new.node(2).data.join("store/leavings"), "x").unwrap();
    fs::write(new.node(2).data.join("RESTORE-UNFINISHED"), "x").unwrap();
    let refused = new.node(2).command().output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("restore into this directory was not finished"));
    let before = env::now();
    let restored = must(&restore(&file, &new, &[]));
    println!("restored in {:?}", before.elapsed());
    assert_ne!(restored["cluster_id"], saved["cluster_id"]);
    assert_eq!(restored["from_cluster_id"], saved["cluster_id"]);
    // Done twice it is the same, and one that was cut off in its last step is finished.
    let same =
        |told: &Value| ["cluster_id", "from_cluster_id", "nodes", "elsewhere", "groups"].map(|of| told[of].clone());
    let mark = new.node(2).data.join("RESTORE-UNFINISHED");
    for cut_off in [false, true] {
        if cut_off {
            fs::write(&mark, "x").unwrap();
        }
        let again = must(&restore(&file, &new, &[]));
        assert_eq!((same(&again), &again["already"], mark.exists()), (same(&restored), &Value::Bool(true), false));
    }
    assert_eq!(restored["already"], false);
    fails(&restore(&file, &new, &["--cluster-id", &"0".repeat(40)]), "HC-3208", "not the id");

    (1..=3).for_each(|node| new.start(node));
    new.wait_serving();
    // What a node has gone on from is not what was restored any more.
    fails(&restore(&file, &new, &[]), "HC-3206", "is not empty");
    println!("serving after {:?}", before.elapsed());
    let status = new.ctl_json(&[1, 2, 3], &["status"]);
    assert_eq!(status["cluster_id"], restored["cluster_id"]);
    new.verify_replicas();
    let mut client = new.client(3);
    for i in (0..keys).step_by(37) {
        let Reply::Bulk(value) = client.must(&["GET", &format!("key:{i}")]) else { panic!("key:{i} is lost") };
        assert!(value.starts_with(format!("{i}:").as_bytes()));
    }
    let Reply::Int(left) = client.must(&["TTL", "lives"]) else { panic!("a deadline is a number") };
    assert!((1..=10_000).contains(&left), "{left}");
    client.ok(&["SET", "key:0", "written here"]);
    new.verify_replicas();

    // It is a cluster like any: it survives its own restart, and a node of the old one is not let in.
    new.kill(2);
    old.kill(2);
    fs::rename(&new.node(2).data, new.node(2).folder.join("kept")).unwrap();
    Command::new("cp").arg("-r").arg(&old.node(2).data).arg(&new.node(2).data).output().unwrap();
    new.start(2);
    wait_until("the old cluster's node is refused", cluster::PATIENCE, || {
        new.log(2).contains("belongs to cluster").then_some(())
    });
    assert_eq!(new.client(1).must(&["GET", "key:0"]), bulk("written here"));
    new.kill(2);
    fs::remove_dir_all(&new.node(2).data).unwrap();
    fs::rename(new.node(2).folder.join("kept"), &new.node(2).data).unwrap();
    new.start(2);
    new.wait_serving();
    new.verify_replicas();
}

#[test]
fn what_cannot_be_saved_or_restored_is_named_and_leaves_nothing() {
    let cluster = Plan::new(1, 2).start();
    fill(&cluster, 3_000);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("saved");
    let save = |words: &[&str]| cluster.ctl(&[1], &[&["snapshot", "save", path(&file)], words].concat());
    fails(&save(&["--group", "9"]), "HC-3103", "no group 9");
    must(&cluster.ctl(&[1], &["-o", "json", "snapshot", "save", path(&file), "--group", "2"]));
    let fresh = Plan::new(1, 2).prepare();
    fails(&restore(&file, &fresh, &[]), "HC-3207", "group 2 alone");
    assert!(!fresh.node(1).data.exists() || fs::read_dir(&fresh.node(1).data).unwrap().next().is_none());

    // The disk takes no more than 64 KiB.
    let full = dir.path().join("full");
    let endpoint = cluster.node(1).at(Door::Grpc).to_string();
    let ctl = env!("CARGO_BIN_EXE_hypercachectl");
    let script = format!("trap '' XFSZ; ulimit -f 64; exec {ctl} --endpoint {endpoint} snapshot save {}", path(&full));
    match installed("bash") {
        true => {
            let output = Command::new("bash").arg("-c").arg(script).output().unwrap();
            fails(&output, "HC-3203", "File too large");
            assert!(!full.exists() && !dir.path().join("full.part").exists(), "nothing is left behind");
        }
        false => skipped("a disk that is full", "there is no bash to set a limit with"),
    }

    must(&cluster.ctl(&[1], &["-o", "json", "snapshot", "save", path(&file)]));
    let good = fs::read(&file).unwrap();
    let place = good.len() / 2;
    for (bytes, code, words) in [
        (good[..place].to_vec(), "HC-3202", format!("byte {place}: the file ends here")),
        ([&good[..place], &[good[place] ^ 1], &good[place + 1..]].concat(), "HC-3202", "checksum".to_owned()),
        ([&good[..8], &[9], &good[9..]].concat(), "HC-3201", "version 9".to_owned()),
        (b"no snapshot".to_vec(), "HC-3201", "not a snapshot file".to_owned()),
    ] {
        fs::write(&file, bytes).unwrap();
        let inspected = cluster.ctl(&[1], &["snapshot", "inspect", path(&file)]);
        fails(&inspected, code, &words);
        assert_eq!(inspected.status.code(), Some(1));
        fails(&restore(&file, &fresh, &[]), code, &words);
    }
    fs::write(&file, good).unwrap();
    fails(&restore(&file, &fresh, &["--cluster-id", &"0".repeat(40)]), "HC-3208", "not the id");
    let same = fresh.node(1).config_file();
    fails(&restore(&file, &fresh, &["--config", path(&same)]), "HC-3205", "same node");
    fails(&restore(&file, &cluster, &[]), "HC-3206", "is not empty");
    let made = must(&restore(&file, &fresh, &[]));
    assert_eq!(made["nodes"].as_array().unwrap().len(), 1);
}

#[test]
fn nodes_on_machines_apart_are_restored_one_by_one_with_the_id_that_the_first_gave() {
    let old = Plan::new(3, 1).start();
    fill(&old, 100);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("saved");
    must(&old.ctl(&[1], &["-o", "json", "snapshot", "save", path(&file)]));
    let mut new = Plan::new(3, 1).prepare();
    let one = |node: usize, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hypercachectl"));
        command.args(["-o", "json", "snapshot", "restore"]).arg(&file);
        command.arg("--config").arg(new.node(node).config_file()).args(more).output().unwrap()
    };
    let first = must(&one(1, &[]));
    assert_eq!(first["elsewhere"].as_array().unwrap().len(), 2);
    let id = first["cluster_id"].as_str().unwrap();
    must(&one(2, &["--cluster-id", id]));
    must(&one(3, &["--cluster-id", id]));
    (1..=3).for_each(|node| new.start(node));
    new.wait_serving();
    new.verify_replicas();
    assert!(matches!(new.client(2).must(&["GET", "key:42"]), Reply::Bulk(_)));
}

#[test]
fn replicas_are_compared_by_themselves_and_when_asked() {
    let cluster = Plan::new(3, 2).set("cluster.verify_interval=300ms").start();
    fill(&cluster, 500);
    let rounds = |name| (1..=3).filter_map(|n| cluster.metric(n, name, &[("group", "1")])).sum::<f64>();
    wait_until("the replicas of group 1 were compared by themselves", cluster::PATIENCE, || {
        (rounds("hypercache_group_verified_index") > 0.0).then_some(())
    });
    // Where nothing is written, nothing is compared again.
    let quiet = wait_until("no more rounds are begun", cluster::PATIENCE, || {
        let before = rounds("hypercache_group_verifications_total");
        cluster::let_time_pass_until(env::now() + std::time::Duration::from_millis(1500));
        (rounds("hypercache_group_verifications_total") == before).then_some(before)
    });
    assert!(quiet >= 1.0);
    for node in 1..=3 {
        let reply = format!("{:?}", cluster.client(node).must(&["HC.VERIFY"]));
        assert_eq!(reply.matches("no answer").count(), 0, "{reply}");
        // Three groups, and three replicas of each.
        assert_eq!(reply.matches("equal").count(), 3 + 9, "{reply}");
    }
    let verdict = cluster.ctl_json(&[2], &["group", "verify"]);
    assert_eq!(verdict["ok"], true, "{verdict}");
    assert!(cluster.client(1).call(&["HC.VERIFY", "77"]).is_ok_and(|r| matches!(r, Reply::Error(_))));
    assert_eq!(rounds("hypercache_group_differences_total"), 0.0);
}
