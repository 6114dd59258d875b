//! What nobody should send, and disks that lie: each is a clear error, to the one who caused it and to nobody else.
//!
//! `HYPERCACHE_TEST_FLIPS` (3) places in each of the store's files in which a byte is changed.

mod cluster;

use cluster::{Client, Cluster, Door, Plan, bulk, code_of, http, overwrite, size, wait_until};
use hypercache::env;
use hypercache::resp::Reply;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A new client is served as if nothing had happened.
fn unharmed(cluster: &Cluster, after: &str) {
    let mut client = cluster.client(1);
    let value = format!("after {after}");
    client.ok(&["SET", "unharmed", &value]);
    assert_eq!(client.must(&["GET", "unharmed"]), bulk(&value));
}

#[test]
fn a_protocol_error_is_named_and_closes_its_own_connection_alone() {
    let cluster = Plan::new(1, 1).set("limits.idle_timeout=2s").start();
    let long_inline = vec![b'a'; 100_000];
    let long_count = [b"*".as_slice(), &[b'1'; 100_000]].concat();
    let cases: &[(&[u8], &str)] = &[
        (b"*2147483648\r\n", "invalid multibulk length"),
        (b"*1048577\r\n", "invalid multibulk length"),
        (b"*99999999999999999999\r\n", "invalid multibulk length"),
        (b"*x\r\n", "invalid multibulk length"),
        (b"*2\r\n$3\r\nGET\r\n$536870913\r\n", "invalid bulk length"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$-5\r\n", "invalid bulk length"),
        (b"*1\r\n$99999999999999999999\r\n", "invalid bulk length"),
        (b"*1\r\n:1\r\n", "expected '$', got ':'"),
        (b"*1\r\nGET\r\n", "expected '$', got 'G'"),
        (&long_count, "too big mbulk count string"),
        (b"SET \"a\r\n", "unbalanced quotes in request"),
        (&long_inline, "too big inline request"),
    ];
    let mut bystander = cluster.client(1);
    for (bytes, expected) in cases {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
        let mut client = cluster.client(1);
        // What came before the error is answered first.
        let mut sent = b"*1\r\n$4\r\nPING\r\n".to_vec();
        sent.extend_from_slice(bytes);
        client.send_raw(&sent).unwrap();
        let mut reply = || client.reply().unwrap_or_else(|e| panic!("{shown}: {e}"));
        assert_eq!(reply(), Reply::status("PONG"), "{shown}");
        assert_eq!(reply(), Reply::error(format!("ERR Protocol error: {expected}")), "{shown}");
        let end = client.reply().expect_err("the connection ends");
        assert!(matches!(end.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{shown}: {end}");
        assert_eq!(bystander.must(&["PING"]), Reply::status("PONG"), "{shown}");
        unharmed(&cluster, &shown);
    }

    // Garbage of all kinds: whatever the answer, it is an error or an end, and the node lives.
    let mut random = fastrand_like(7);
    for _ in 0..200 {
        let mut client = cluster.client(1);
        let bytes: Vec<u8> = (0..1 + random() % 200).map(|_| random() as u8).collect();
        let _ = client.send_raw(&bytes);
        client.close_sending();
        client.limit(Duration::from_secs(5));
        while let Ok(reply) = client.reply() {
            assert_ne!(code_of(&reply), "", "garbage is no command: {bytes:?} gave {reply:?}");
        }
    }
    unharmed(&cluster, "garbage");
}

/// Numbers that look random and are the same in every run.
fn fastrand_like(seed: u64) -> impl FnMut() -> u64 {
    let mut x = seed;
    move || {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        x >> 33
    }
}

#[test]
fn headers_that_announce_much_and_bring_little_cost_nothing_and_end() {
    const CONNECTIONS: usize = 100;
    let cluster = Plan::new(1, 1).set("limits.idle_timeout=3s").start();
    let resident = || cluster.metric(1, "hypercache_process_resident_memory_bytes", &[]).unwrap();
    let before = resident();
    let halves: [&[u8]; 4] = [
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$536870912\r\nabc",
        b"*1048576\r\n$3\r\nDEL\r\n$1\r\nk\r\n",
        b"*3\r\n$3\r\nSET\r\n$5\r\nab",
        b"*",
    ];
    let mut waiting: Vec<Client> = (0..CONNECTIONS)
        .map(|i| {
            let mut client = cluster.client(1);
            client.send_raw(halves[i % halves.len()]).unwrap();
            client
        })
        .collect();
    unharmed(&cluster, "half a frame");
    let grown = (resident() - before) / f64::from(1 << 20);
    println!("{CONNECTIONS} connections that announced up to 512 MB each: {grown:.1} MB more");
    assert!(grown < 100.0, "{grown} MB");
    for client in &mut waiting {
        let end = client.reply().expect_err("a silent connection is closed after limits.idle_timeout");
        assert!(matches!(end.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{end}");
    }
    unharmed(&cluster, "their end");
    assert_eq!(cluster.client(1).must(&["EXISTS", "k"]), Reply::Int(0), "half a command has no effect");
}

#[test]
fn a_stranger_on_the_peer_port_is_told_and_forgotten() {
    let cluster = Plan::new(1, 1).start();
    let at = cluster.node(1).at(Door::Peer);
    let strangers: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        &[0xff; 4096],
    ];
    for bytes in strangers {
        let mut stream = TcpStream::connect(at).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        // A reset is an end, too.
        let _ = stream.read_to_end(&mut answer);
        let text = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.is_empty() || text.contains("not the HyperCache protocol (bad magic)"), "{text:?}");
        unharmed(&cluster, "a stranger");
    }
    let told = cluster.log(1).matches("not the HyperCache protocol (bad magic)").count();
    assert_eq!(told, strangers.len(), "each is in the log: {}", cluster.log(1));

    // Half a greeting and silence: let go in bounded time.
    let began = env::now();
    let mut silent = TcpStream::connect(at).unwrap();
    silent.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    silent.write_all(b"H").unwrap();
    let ended = silent.read(&mut [0; 64]);
    assert!(began.elapsed() < Duration::from_secs(15), "{ended:?} after {:?}", began.elapsed());
    unharmed(&cluster, "silence");
}

#[test]
fn an_http_body_that_is_no_json_is_a_400_that_says_so() {
    let cluster = Plan::new(1, 1).start();
    let at = cluster.node(1).at(Door::Http);
    for body in [
        "{not json",
        "",
        "[]",
        "\"text\"",
        "{\"value\":1}",
        "{\"value\":\"v\",\"tll\":5}",
        "{\"value\":\"v\",\"ttl\":-1}",
        "\u{0}\u{1}",
    ] {
        let (status, answer) = http(at, "PUT", "/api/cache/k", body).unwrap();
        assert_eq!(status, 400, "{body:?}: {answer}");
        let json: serde_json::Value = serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{answer}: {e}"));
        assert_eq!(json["success"], false, "{answer}");
        assert_eq!(json["error"]["code"], "BAD_BODY", "{answer}");
        assert!(json["error"]["message"].as_str().is_some_and(|m| !m.is_empty()), "{answer}");
    }
    assert_eq!(cluster.client(1).must(&["GET", "k"]), Reply::Nil);
    let (status, _) = http(at, "PUT", "/api/cache/k", "{\"value\":\"v\"}").unwrap();
    assert_eq!(status, 200);
    unharmed(&cluster, "bad bodies");
}

/// Starts a node that must refuse to: gives what it said.
fn refuses(cluster: &Cluster) -> String {
    let output = cluster.node(1).command().output().expect("the node can be started");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!output.status.success(), "it started all the same: {said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

#[test]
fn a_directory_that_is_not_this_nodes_is_refused_by_name() {
    let mut cluster = Plan::new(1, 1).start();
    cluster.client(1).ok(&["SET", "k", "v"]);
    cluster.stop(1);
    let identity = cluster.node(1).data.join("identity.json");
    let original = fs::read_to_string(&identity).unwrap();
    let path = identity.display().to_string();

    cluster.node_mut(1).settings.push("node.id=somebody-else".to_owned());
    let said = refuses(&cluster);
    assert!(
        said.contains(&path) && said.contains("belongs to node node-1") && said.contains("node.data_dir"),
        "{said}"
    );
    cluster.node_mut(1).settings.pop();

    overwrite(&identity, original.replace("\"format\": 1", "\"format\": 99").as_bytes());
    let said = refuses(&cluster);
    assert!(said.contains(&path) && said.contains("newer HyperCache (format 99"), "{said}");

    overwrite(&identity, b"{\"format\": 1, \"clu");
    let said = refuses(&cluster);
    assert!(said.contains(&path) && said.contains("cannot be read"), "{said}");

    overwrite(&identity, original.as_bytes());
    cluster.start(1);
    cluster.wait_serving();
    assert_eq!(cluster.client(1).must(&["GET", "k"]), bulk("v"), "nothing was touched meanwhile");
}

#[test]
fn a_taken_port_is_refused_by_the_name_of_its_setting() {
    let mut cluster = Plan::new(1, 1).prepare();
    let doors = [
        (Door::Peer, "node.bind_addr"),
        (Door::Proxy, "server.resp_addr"),
        (Door::ClusterFace, "server.cluster_addr"),
        (Door::Http, "server.http_addr"),
        (Door::Grpc, "server.grpc_addr"),
    ];
    for (door, setting) in doors {
        let at = cluster.node(1).at(door);
        let taken = TcpListener::bind(at).unwrap();
        let said = refuses(&cluster);
        assert!(said.contains(setting) && said.contains(&at.to_string()), "{setting} {at}: {said}");
        drop(taken);
    }
    cluster.start(1);
    cluster.wait_serving();
}

/// What is in a directory, with what is below it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// The store's files with this ending, the largest first.
fn files(store: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(store).unwrap().map(|e| e.unwrap().path()).collect();
    found.retain(|path| path.extension().is_some_and(|e| e == ending));
    found.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).unwrap().len()));
    found
}

/// What became of a node on a damaged disk.
enum Fate {
    Refused(String),
    /// It serves; the number of keys that are not as they were written.
    Serves(usize),
}

const KEYS: usize = 400;

fn value(i: usize) -> String {
    // Does not compress to nothing, so that it fills pages of the files.
    let mut random = fastrand_like(i as u64);
    (0..500).map(|_| format!("{:08x}", random() as u32)).collect()
}

fn fate(cluster: &mut Cluster) -> Fate {
    let before = cluster.log(1).len();
    cluster.start(1);
    let ended = wait_until("the node serves or gives up", cluster::PATIENCE, || {
        if cluster.takes_writes(1) {
            return Some(None);
        }
        cluster.node_mut(1).try_wait().map(Some)
    });
    match ended {
        Some(status) => {
            let said = cluster.log(1)[before..].to_owned();
            assert!(!status.success(), "it ended as if all were well: {said}");
            assert!(!said.contains("panicked"), "{said}");
            Fate::Refused(said)
        }
        None => {
            let mut client = cluster.client(1);
            let wrong = (0..KEYS).filter(|i| client.must(&["GET", &format!("key:{i}")]) != bulk(&value(*i)));
            let wrong = wrong.count();
            cluster.kill(1);
            Fate::Serves(wrong)
        }
    }
}

#[test]
fn a_changed_byte_in_the_store_is_refused_or_harmless_and_never_loses_an_entry() {
    let flips = size("HYPERCACHE_TEST_FLIPS", 3);
    let mut cluster = Plan::new(1, 1).set("persistence.log_lag_entries=100").start();
    let mut client = cluster.client(1);
    (0..KEYS / 2).for_each(|i| client.ok(&["SET", &format!("key:{i}"), &value(i)]));
    let saved = cluster.ctl(&[1], &["snapshot", "make", "--all"]);
    assert!(saved.status.success(), "{saved:?}");
    (KEYS / 2..KEYS).for_each(|i| client.ok(&["SET", &format!("key:{i}"), &value(i)]));
    cluster.kill(1);

    let data = cluster.node(1).data.clone();
    let (in_log, in_tables) = (cluster.folder().join("in-log"), cluster.folder().join("in-tables"));
    copy(&data, &in_log);
    // The next start writes what the write-ahead log held into tables.
    assert!(matches!(fate(&mut cluster), Fate::Serves(0)), "it is whole before it is damaged");
    copy(&data, &in_tables);

    let (mut refused, mut harmless) = (0, 0);
    for (origin, ending) in [(&in_log, "log"), (&in_log, "sst"), (&in_tables, "sst")] {
        for file in files(&origin.join("store"), ending).into_iter().take(4) {
            let original = fs::read(&file).unwrap();
            // A write-ahead log may be longer than what was written to it.
            let length = original.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
            if length < 512 {
                continue;
            }
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            for flip in 1..=flips as usize {
                let place = length * flip / (flips as usize + 1);
                fs::remove_dir_all(&data).unwrap();
                copy(origin, &data);
                let mut bytes = original.clone();
                bytes[place] ^= 0x40;
                overwrite(&data.join("store").join(&name), &bytes);
                match fate(&mut cluster) {
                    Fate::Refused(said) => {
                        let why = said.lines().rev().find(|l| l.starts_with("error")).unwrap_or_default();
                        println!("{name} ({length} bytes) at {place}: {why}");
                        let what = ["orruption", "checksum", "damaged", "missing"].iter().any(|w| why.contains(w));
                        let at = [".log", ".sst", "log entry", "chunk", "store"].iter().any(|w| why.contains(w));
                        assert!(what && at, "what is wrong, and where: {said}");
                        refused += 1;
                    }
                    Fate::Serves(0) => {
                        println!("{name} ({length} bytes) at {place}: not in use, nothing is missing");
                        harmless += 1;
                    }
                    Fate::Serves(wrong) => panic!("{name} at {place}: it serves, and {wrong} of {KEYS} keys are wrong"),
                }
            }
        }
    }
    println!("{refused} refused, {harmless} harmless, none lost an entry");
    assert!(refused >= 2 * flips, "log and tables are verified at start");
    fs::remove_dir_all(&data).unwrap();
    copy(&in_tables, &data);
    assert!(matches!(fate(&mut cluster), Fate::Serves(0)), "with the right bytes it is whole again");
}
