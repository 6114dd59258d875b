//! The walls between the modules: who may name whom, and that every file says what it is.
//!
//! The table is the drawing of `docs/ARCHITECTURE.md` in a form that can fail. A new line in it is a decision.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Modules that every other may use: plain types, the slot function, time, and the bugs that only the simulation plants.
const GROUND: &[&str] = &["types", "slot", "env", "planted"];

/// Each top-level module and what it may use besides [`GROUND`] and itself.
const ALLOWED: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("slot", &[]),
    ("env", &[]),
    ("planted", &[]),
    ("net", &[]),
    ("config", &[]),
    ("telemetry", &["config"]),
    ("resp", &[]),
    ("state", &[]),
    ("commands", &["resp", "state"]),
    ("routing", &[]),
    ("scripting", &["commands", "resp", "state"]),
    ("raft", &["commands", "state", "resp", "routing", "config", "net"]),
    ("cluster", &["routing", "raft", "commands", "resp", "state", "config", "security"]),
    ("security", &["commands", "resp"]),
    ("proto", &[]),
    ("disk", &[]),
    (
        "server",
        &[
            "resp",
            "commands",
            "state",
            "scripting",
            "security",
            "routing",
            "raft",
            "cluster",
            "config",
            "telemetry",
            "proto",
            "net",
        ],
    ),
    (
        "node",
        &[
            "resp",
            "commands",
            "state",
            "security",
            "routing",
            "raft",
            "cluster",
            "config",
            "telemetry",
            "proto",
            "disk",
            "server",
            "net",
        ],
    ),
    ("demo", &["config"]),
    // The file is read and written on the operator's side; what it holds is known to neither.
    ("archive", &[]),
    // Makes offline what a node starts on, so it stands beside the wiring.
    ("restore", &["archive", "cluster", "config", "node", "raft", "routing"]),
    ("recover", &["cluster", "config", "node", "raft"]),
    // `restore` and `recover` are the verbs that are not asked of a server.
    ("ctl", &["archive", "proto", "recover", "restore"]),
];

/// What a module must not name at all, wherever it comes from.
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("types", &["crate::"]),
    ("slot", &["crate::env", "tokio::"]),
    ("resp", &["tokio::", "crate::env"]),
    ("state", &["tokio::", "openraft", "crate::env"]),
    // An address is plain data; a socket is not.
    ("commands", &["tokio::", "openraft", "TcpStream", "TcpListener", "UdpSocket"]),
    ("routing", &["tokio::", "openraft", "crate::env"]),
    ("security", &["tokio::", "openraft", "crate::env", "TcpStream", "TcpListener", "UdpSocket"]),
    ("scripting", &["tokio::", "openraft", "crate::env"]),
    ("server", &["openraft::", "rocksdb::"]),
    ("cluster", &["rocksdb::"]),
];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every Rust file below `src/`, with the name of its top-level module; nothing for binaries and the root.
fn files() -> Vec<(PathBuf, Option<String>)> {
    let mut folders = vec![source()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let inner = path.strip_prefix(source()).unwrap();
                let first = inner.components().next().unwrap().as_os_str().to_string_lossy();
                let module = first.trim_end_matches(".rs").to_owned();
                found.push((path.clone(), (module != "bin" && module != "lib").then_some(module)));
            }
        }
    }
    found.sort();
    found
}

/// The code of a file without its comments.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The modules named behind `crate::` in a piece of code.
fn named(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let list = match rest.strip_prefix('{') {
            Some(inside) => top_level_items(inside),
            None => vec![rest],
        };
        for item in list {
            let name: String =
                item.trim_start().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            if !name.is_empty() {
                found.insert(name);
            }
        }
    }
    found
}

/// The items of `a::{b, c}, d}` that are separated by commas of the outermost braces.
fn top_level_items(inside: &str) -> Vec<&str> {
    let (mut depth, mut start, mut items) = (0, 0, Vec::new());
    for (at, c) in inside.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                items.push(&inside[start..at]);
                return items;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push(&inside[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    items
}

#[test]
fn modules_use_only_what_lies_below_them() {
    let mut wrong = Vec::new();
    for (path, module) in files() {
        let Some(module) = module else { continue };
        let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| *name == module) else {
            wrong.push(format!("{}: the module {module} is not in the table", path.display()));
            continue;
        };
        for used in named(&code(&path)) {
            if used != module && !GROUND.contains(&used.as_str()) && !allowed.contains(&used.as_str()) {
                wrong.push(format!("{}: {module} must not use {used}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_a_module_must_not_know_is_not_in_it() {
    let mut wrong = Vec::new();
    for (path, module) in files() {
        let code = code(&path);
        let forbidden = FORBIDDEN.iter().filter(|(name, _)| Some(*name) == module.as_deref());
        for word in forbidden.flat_map(|(_, words)| *words) {
            if code.contains(word) {
                wrong.push(format!("{}: names {word}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_opens_with_what_it_is() {
    let silent: Vec<String> = files()
        .into_iter()
        .filter(|(path, _)| !std::fs::read_to_string(path).unwrap().starts_with("//!"))
        .map(|(path, _)| path.display().to_string())
        .collect();
    assert!(silent.is_empty(), "these files do not open with //!:\n{}", silent.join("\n"));
}

#[test]
fn the_fault_runs_cannot_link_the_server() {
    let jepsen = Path::new(env!("CARGO_MANIFEST_DIR")).join("jepsen/Cargo.toml");
    let manifest = std::fs::read_to_string(&jepsen).unwrap();
    let dependencies = manifest.split("dependencies]").skip(1).collect::<String>();
    assert!(dependencies.contains("clap"), "the part that is looked at is that of the dependencies");
    assert!(!dependencies.contains("hypercache") && !dependencies.contains("path ="), "{}", jepsen.display());
}

#[test]
fn names_behind_crate_are_found_in_every_form() {
    let code = "use crate::state::Keyspace;\nuse crate::{resp::{Reply, Args}, types};\nlet x = crate::env::now();";
    let expected = ["env", "resp", "state", "types"].map(str::to_owned);
    assert_eq!(named(code).into_iter().collect::<Vec<_>>(), expected);
}
