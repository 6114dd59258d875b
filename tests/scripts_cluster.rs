//! Scripts through nodes that do not lead, beside plain writers of the same keys, while leaders are moved and killed: each
//! script that was answered counted exactly once, one whose fate is not known at most once, no other at all.
//!
//! `HYPERCACHE_TEST_ROUNDS` (2) kills.

mod cluster;

use cluster::{Client, Plan, bulk, code_of, size, wait_until};
use hypercache::resp::Reply;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Reads, does something that takes a moment, and writes: what another writes between would be lost.
const ADD: &str = "local n = tonumber(redis.call('get', KEYS[1]) or 0) for i = 1, 2000 do n = n + 0 end \
                   redis.call('set', KEYS[1], n + 1) return n + 1";
/// Scripts that each round must see answered before a fault and after it.
const ENOUGH: u64 = 50;

/// What the writers of one key were told.
#[derive(Default)]
struct Told {
    applied: AtomicU64,
    unknown: AtomicU64,
}

fn write(client: &mut Client, scripted: bool, key: &str, told: &Told) -> bool {
    let reply = match scripted {
        true => client.call(&["EVAL", ADD, "1", key]),
        false => client.call(&["INCR", key]),
    };
    match reply {
        Ok(Reply::Int(_)) => drop(told.applied.fetch_add(1, Ordering::Relaxed)),
        Ok(error) if ["CLUSTERDOWN", "TRYAGAIN", "THROTTLED"].contains(&code_of(&error).as_str()) => {}
        Ok(error) if code_of(&error) == "UNCERTAIN" => drop(told.unknown.fetch_add(1, Ordering::Relaxed)),
        Ok(other) => panic!("{other:?}"),
        Err(_) => {
            told.unknown.fetch_add(1, Ordering::Relaxed);
            return false;
        }
    }
    true
}

#[test]
fn a_loaded_script_is_known_to_every_node() {
    let cluster = Plan::new(3, 2).start();
    for round in 0..20 {
        let script = format!("return {round}");
        let mut by: Vec<Client> = cluster.numbers().into_iter().map(|n| cluster.client(n)).collect();
        let Reply::Bulk(sha) = by[round % 3].must(&["SCRIPT", "LOAD", &script]) else { panic!("a name") };
        let sha = String::from_utf8_lossy(&sha).into_owned();
        for client in &mut by {
            assert_eq!(client.must(&["EVALSHA", &sha, "0"]), Reply::Int(round as i64));
        }
    }
    let mut client = cluster.client(2);
    assert_eq!(client.must(&["SCRIPT", "FLUSH"]), Reply::OK);
    for number in cluster.numbers() {
        let reply = cluster.client(number).call(&["EVALSHA", &"0".repeat(40), "0"]).unwrap();
        assert_eq!(code_of(&reply), "NOSCRIPT");
    }
    // Through any node, whoever leads.
    for group in 1..=2 {
        let key = cluster.key_of_group("k", group);
        for (number, value) in cluster.numbers().into_iter().zip(["a", "b", "c"]) {
            let set = "return redis.call('set', KEYS[1], ARGV[1])";
            assert_eq!(cluster.client(number).must(&["EVAL", set, "1", &key, value]), Reply::OK);
            let get = "return redis.call('get', KEYS[1])";
            for other in cluster.numbers() {
                assert_eq!(cluster.client(other).must(&["EVAL_RO", get, "1", &key]), bulk(value));
            }
        }
    }
    cluster.verify_replicas();
}

#[test]
fn functions_are_known_to_every_node_and_outlive_all_of_them() {
    let mut cluster = Plan::new(3, 2).start();
    let code = |name: &str, value: &str| {
        format!(
            "#!lua name={name}\nredis.register_function('{name}', function(keys) \
             return redis.call('append', keys[1], '{value}') end)"
        )
    };
    let keys: Vec<String> = (1..=2).map(|group| cluster.key_of_group("k", group)).collect();
    // Through each node, at once after another one was told, whoever leads the key's group.
    for (round, number) in cluster.numbers().into_iter().enumerate() {
        let name = format!("f{round}");
        assert_eq!(cluster.client(number).must(&["FUNCTION", "LOAD", &code(&name, "x")]), bulk(&name));
        for other in cluster.numbers() {
            for key in &keys {
                let Reply::Int(_) = cluster.client(other).must(&["FCALL", &name, "1", key]) else { panic!("a length") };
            }
        }
    }
    for key in &keys {
        assert_eq!(cluster.client(1).must(&["STRLEN", key]), Reply::Int(9));
    }
    // One library changed on two nodes at once: one of them sees that the name is taken.
    let took: Vec<bool> = std::thread::scope(|scope| {
        let load = |number: usize| {
            let (cluster, code) = (&cluster, code("once", &number.to_string()));
            scope.spawn(move || cluster.client(number).call(&["FUNCTION", "LOAD", &code]).unwrap() == bulk("once"))
        };
        let both: Vec<_> = [1, 2].into_iter().map(load).collect();
        both.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(took.iter().filter(|took| **took).count(), 1);
    for number in cluster.numbers() {
        cluster.kill(number);
    }
    for number in cluster.numbers() {
        cluster.start(number);
    }
    cluster.wait_serving();
    for number in cluster.numbers() {
        let Reply::Array(all) = cluster.client(number).must(&["FUNCTION", "LIST"]) else { panic!("libraries") };
        assert_eq!(all.len(), 4);
        let Reply::Int(_) = cluster.client(number).must(&["FCALL", "f1", "1", &keys[0]]) else { panic!("a length") };
    }
    let Reply::Bulk(dump) = cluster.client(1).must(&["FUNCTION", "DUMP"]) else { panic!("a dump") };
    assert!(dump.starts_with(b"HCFUNCTIONS"));
    assert_eq!(cluster.client(2).must(&["FUNCTION", "FLUSH"]), Reply::OK);
    assert_eq!(cluster.client(3).must(&["FUNCTION", "LIST"]), Reply::Array(Vec::new()));
    cluster.verify_replicas();
}

#[test]
fn a_script_keeps_to_its_users_rights_on_every_node() {
    let cluster = Plan::new(3, 2).start();
    let rules = ["ACL", "SETUSER", "alice", "on", ">pw", "~app*", "+@scripting", "+get", "+set"];
    assert_eq!(cluster.client(1).must(&rules), Reply::OK);
    let key = (0..).map(|n| format!("app{n}")).find(|key| cluster.group_of(key) == 2).unwrap();
    for number in cluster.numbers() {
        let mut alice = cluster.client(number);
        // The node that is asked may hear of the user a moment later.
        wait_until("the user is known", cluster::PATIENCE, || {
            (alice.call(&["AUTH", "alice", "pw"]).unwrap() == Reply::OK).then_some(())
        });
        let set = "return redis.call('set', KEYS[1], ARGV[1])";
        assert_eq!(alice.must(&["EVAL", set, "1", &key, "1"]), Reply::OK);
        // In the same slot, and not a key of hers.
        let other = format!("{{{key}}}");
        let denied = alice.call(&["EVAL", "return redis.call('set', ARGV[1], 1)", "1", &key, &other]).unwrap();
        assert_eq!(code_of(&denied), "NOPERM", "{denied:?}");
        let log = format!("{:?}", cluster.client(number).must(&["ACL", "LOG"]));
        assert!(log.contains("lua") && log.contains("alice"), "it stands in the log of the node that was asked: {log}");
    }
}

#[test]
fn scripts_count_once_through_kills_and_transfers() {
    let rounds = size("HYPERCACHE_TEST_ROUNDS", 2);
    let mut cluster = Plan::new(3, 2).start();
    let keys: Vec<String> = (1..=2).map(|group| cluster.key_of_group("counter", group)).collect();
    let told: Vec<Told> = keys.iter().map(|_| Told::default()).collect();
    let stop = AtomicBool::new(false);
    let proxies = cluster.proxies(&[1, 2, 3]);
    std::thread::scope(|scope| {
        for worker in 0..8usize {
            let (keys, told, stop, proxies) = (&keys, &told, &stop, &proxies);
            scope.spawn(move || {
                let mut at = worker;
                let mut client = None;
                while !stop.load(Ordering::Relaxed) {
                    if client.is_none() {
                        at += 1;
                        client = Client::connect(proxies[at % 3]).ok();
                    }
                    let Some(connected) = &mut client else { continue };
                    let which = worker % 2;
                    if !write(connected, worker < 6, &keys[which], &told[which]) {
                        client = None;
                    }
                }
            });
        }
        let enough = |from: &[u64]| {
            let now = told.iter().map(|t| t.applied.load(Ordering::Relaxed));
            now.zip(from).all(|(now, from)| now >= from + ENOUGH).then_some(())
        };
        let counts = || -> Vec<u64> { told.iter().map(|t| t.applied.load(Ordering::Relaxed)).collect() };
        for round in 0..rounds {
            let from = counts();
            wait_until("scripts are answered", cluster::PATIENCE, || enough(&from));
            cluster.transfer(1 + round as u32 % 2, 1 + (round as usize % 3));
            let from = counts();
            wait_until("scripts are answered after a transfer", cluster::PATIENCE, || enough(&from));
            let victim = cluster.busiest();
            cluster.kill(victim);
            let from = counts();
            wait_until("scripts are answered after a kill", cluster::PATIENCE, || enough(&from));
            cluster.start(victim);
            cluster.wait_serving();
        }
        stop.store(true, Ordering::Relaxed);
    });
    for (key, told) in keys.iter().zip(&told) {
        let Reply::Bulk(count) = cluster.client(1).must(&["GET", key]) else { panic!("a number") };
        let count: u64 = String::from_utf8_lossy(&count).parse().unwrap();
        let (applied, unknown) = (told.applied.load(Ordering::Relaxed), told.unknown.load(Ordering::Relaxed));
        println!("{key}: {count}, {applied} told applied, {unknown} unknown");
        assert!((applied..=applied + unknown).contains(&count), "{key}: {count} of {applied} + {unknown}");
    }
    cluster.verify_replicas();
}
