//! The configuration files of this repository, and what users see of a file with mistakes.

use hypercache::config::{self, Config, KEYS, Sources};
use std::path::{Path, PathBuf};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn load(path: &Path) -> Result<config::Loaded, config::Problems> {
    config::load(&Sources { file: Some(path), ..Sources::default() })
}

fn load_text(text: &str) -> Result<config::Loaded, config::Problems> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cache.yaml");
    std::fs::write(&file, text).unwrap();
    load(&file)
}

#[test]
fn every_file_in_configs_is_accepted() {
    let mut folders = vec![repository("configs")];
    let mut names = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            load(&path).unwrap_or_else(|problems| panic!("{problems}"));
            names.push(path.file_name().unwrap().to_string_lossy().into_owned());
        }
    }
    names.sort();
    let expected = [
        "dev.yaml",
        "every-key.yaml",
        "node-1.yaml",
        "node-2.yaml",
        "node-3.yaml",
        "one-node.yaml",
        "prod.yaml",
        "staging.yaml",
    ];
    assert_eq!(names, expected);
}

#[test]
fn the_file_of_every_key_is_the_defaults_and_misses_none() {
    let path = repository("configs/every-key.yaml");
    let written = std::fs::read_to_string(&path).unwrap();
    assert_eq!(written, config::every_key(), "write it again: hypercache config defaults > configs/every-key.yaml");
    let loaded = load(&path).unwrap();
    assert_eq!(loaded.config, Config::default());
    for key in KEYS {
        let origin = loaded.origin(&key.path());
        assert!(matches!(origin, config::Origin::File { .. }), "{} comes from {origin}", key.path());
    }
}

#[test]
fn three_nodes_agree_on_their_seeds_and_find_themselves_among_them() {
    for index in 0..3 {
        let loaded = load(&repository(&format!("configs/three-nodes/node-{}.yaml", index + 1))).unwrap();
        assert_eq!(loaded.config.seed_index(), Some(index));
        assert_eq!(
            (loaded.config.initial_nodes(), loaded.config.replication_factor(), loaded.config.groups()),
            (3, 3, 8)
        );
    }
}

#[test]
fn the_promised_example_is_accepted_as_it_stands() {
    let loaded = load_text(
        r#"
node: {id: "node-1", bind_addr: "0.0.0.0:7000", data_dir: "/var/lib/hypercache"}
cluster: {seeds: ["127.0.0.1:7000", "192.0.2.2:7000", "192.0.2.3:7000"], replication_factor: 3, consistency_level: "eventual"}
storage: {wal_sync_interval: "10ms", memtable_size: "64MB", compaction_threads: 4}
cache: {max_memory: "8GB", eviction_policy: "lru", cuckoo_filter_fpp: 0.01}
"#,
    )
    .unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(loaded.config.seed_index(), Some(0));
    assert_eq!(loaded.config.cluster.consistency_level, hypercache::types::Level::Eventual);
    assert_eq!(loaded.config.cache.eviction_policy.to_string(), "allkeys-lru");
}

#[test]
fn a_file_with_mistakes_is_told_all_of_them_with_their_places() {
    let problems = load_text(
        "server:\n  rsep_addr: 127.0.0.1:6379\n  workers: many\nstorage:\n  sync: no\n  memtable_size: 1B\nlogs:\n  level: info\n\
         raft:\n  heartbeat_interval_ms: 400\nnode:\n  data_dir: [a, b]\n",
    )
    .unwrap_err();
    let told: Vec<String> = problems.0.iter().map(ToString::to_string).collect();
    let expected = [
        ("HC-1003", ":2:3: there is no setting server.rsep_addr", "did you mean server.resp_addr?"),
        ("HC-1004", ":3:12: server.workers: expected a whole number or auto, found \"many\"", ""),
        ("HC-1006", ":5:9: storage.sync: sync: no can lose acknowledged writes", "storage.unsafe_durability: true"),
        ("HC-1004", ":6:18: storage.memtable_size: expected 1MB to 4GB, found 1B", ""),
        ("HC-1003", ":8:3: there is no setting logs.level", "did you mean logging.level?"),
        ("HC-1006", ":10:26: raft.election_timeout_min_ms: 300 ms leaves no room", "twice raft.heartbeat_interval_ms"),
        ("HC-1004", ":12:13: node.data_dir: expected a path, found a list", ""),
    ];
    for (code, text, remedy) in expected {
        let found =
            told.iter().find(|line| line.contains(text)).unwrap_or_else(|| panic!("{text} is not in {told:#?}"));
        assert!(found.contains(code) && found.contains(remedy), "{found}");
    }
    assert_eq!(told.len(), 7, "{told:#?}");
}

#[test]
fn a_file_that_is_not_there_or_not_yaml_is_said_so() {
    let problems = load(Path::new("/nowhere/cache.yaml")).unwrap_err();
    assert!(problems.to_string().starts_with("error[HC-1001] /nowhere/cache.yaml: cannot be read"), "{problems}");
    let problems = load_text("node: {id: a\n").unwrap_err();
    assert!(problems.to_string().starts_with("error[HC-1002]"), "{problems}");
}

#[test]
fn what_is_printed_can_be_loaded_again() {
    let loaded = load(&repository("configs/prod.yaml")).unwrap();
    let again =
        load_text(&loaded.print(true).replace("\"***\"", "secret")).unwrap_or_else(|problems| panic!("{problems}"));
    let mut expected = loaded.config.clone();
    expected.security = again.config.security.clone();
    assert_eq!(again.config, expected);
}
