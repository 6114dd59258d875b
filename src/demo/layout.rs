//! The demo's folder: a configuration file, a data folder and a log for each node.
//!
//! ```text
//!   DIR/node-1.yaml        written last, so that it stands for a whole cluster
//!   DIR/node-1/data/       belongs to the node
//!   DIR/node-1/log         what the node writes to standard error
//! ```
//!
//! A folder that holds a cluster is never changed: whoever edits a file there keeps the edit.

use super::{NODES_MAX, Node, Options};
use crate::config::{self, Sources};
use anyhow::{Context, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// The log's name in a node's folder.
pub const LOG: &str = "log";

const NODES_DEFAULT: u64 = 3;
const PEER_PORT: u16 = 7000;

/// Finds the cluster in the folder, or writes the files of a new one.
pub fn prepare(options: &Options) -> anyhow::Result<Vec<Node>> {
    let folder = std::path::absolute(&options.folder)?;
    if file_of(&folder, 1).exists() {
        match open(&folder, options) {
            // Files of a cluster that never ran (its ports were taken, say) bind nobody.
            Err(_) if !has_run(&folder) => {}
            opened => return opened,
        }
    }
    let count = options.nodes.unwrap_or(NODES_DEFAULT);
    if !(1..=NODES_MAX).contains(&count) {
        bail!("--nodes: expected 1 to {NODES_MAX}, found {count}");
    }
    let offset = options.port_offset.unwrap_or(0);
    if u64::from(offset) + 8080 + count > u64::from(u16::MAX) {
        bail!("--port-offset {offset}: the ports above it end at 65535");
    }
    fs::create_dir_all(&folder).with_context(|| format!("--dir: {} cannot be made", folder.display()))?;
    for number in (1..=count).rev() {
        let file = file_of(&folder, number);
        let text = node_file(&folder, number, count, offset);
        fs::write(&file, text).with_context(|| format!("{} cannot be written", file.display()))?;
    }
    load(&folder, count, options)
}

/// A cluster that is there already.
fn open(folder: &Path, options: &Options) -> anyhow::Result<Vec<Node>> {
    let first = load(folder, 1, options)?;
    let config = &first.first().context("one node was loaded")?.loaded.config;
    let count = config.initial_nodes();
    if let Some(wanted) = options.nodes.filter(|wanted| *wanted != count) {
        bail!(
            "--nodes {wanted}: {} holds a cluster of {count}; leave --nodes out, or give another --dir",
            folder.display()
        );
    }
    let offset = config.node.bind_addr.port.saturating_sub(PEER_PORT);
    if let Some(wanted) = options.port_offset.filter(|wanted| *wanted != offset) {
        bail!(
            "--port-offset {wanted}: {} holds a cluster made with {offset}; leave it out, or give another --dir",
            folder.display()
        );
    }
    load(folder, count, options)
}

/// Whether a node has left data in the folder.
fn has_run(folder: &Path) -> bool {
    (1..=NODES_MAX).any(|number| data_of(folder, number).exists())
}

fn data_of(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("node-{number}")).join("data")
}

fn load(folder: &Path, count: u64, options: &Options) -> anyhow::Result<Vec<Node>> {
    let mut nodes = Vec::new();
    for number in 1..=count {
        let file = file_of(folder, number);
        let sources = Sources { file: Some(&file), flags: options.overrides.clone(), ..Sources::default() };
        let loaded = config::load(&sources)?;
        let folder = folder.join(format!("node-{number}"));
        fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        nodes.push(Node { file, folder, loaded });
    }
    Ok(nodes)
}

fn file_of(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("node-{number}.yaml"))
}

/// The configuration of one node: its ports are the usual ones, counted up by node and shifted by the offset.
fn node_file(folder: &Path, number: u64, count: u64, offset: u16) -> String {
    let port = |base: u16, number: u64| base + offset + (number - 1) as u16;
    let own = |base: u16| format!("127.0.0.1:{}", port(base, number));
    let seeds: Vec<String> = (1..=count).map(|other| format!("127.0.0.1:{}", port(PEER_PORT, other))).collect();
    // Each node would take all cores for its own. Threads that only take turns on a core cost each request the hand-overs.
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let workers = (cores / count).max(1);
    let data = data_of(folder, number).display().to_string();
    let data = serde_json::to_string(&data).expect("a string is always JSON, which YAML contains");
    format!(
        "# Node {number} of {count}, written by `hypercache demo`. Edits stay: the file is written once.\n\
         node:\n  id: node-{number}\n  bind_addr: {}\n  gossip_addr: {}\n  data_dir: {data}\n\
         server:\n  resp_addr: {}\n  cluster_addr: {}\n  http_addr: {}\n  grpc_addr: {}\n\
         \x20 # Its share of this machine's cores.\n  workers: {workers}\n\
         cluster:\n  seeds: [{}]\n",
        own(PEER_PORT),
        own(7946),
        own(6379),
        own(6479),
        own(8080),
        own(7070),
        seeds.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(folder: &Path, nodes: Option<u64>, port_offset: Option<u16>) -> Options {
        Options { nodes, folder: folder.to_owned(), port_offset, overrides: Vec::new(), chaos: None }
    }

    #[test]
    fn a_fresh_folder_gets_a_cluster_and_an_old_one_keeps_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let made = prepare(&options(folder.path(), None, Some(100))).unwrap();
        assert_eq!(made.len(), 3);
        let ports: Vec<String> = made[1].loaded.config.listeners().iter().map(|(_, at)| at.port.to_string()).collect();
        assert_eq!(ports.join(" "), "7101 6480 6580 8181 7171");
        assert_eq!(made[2].loaded.config.seed_index(), Some(2));
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        let workers: usize = made.iter().map(|node| node.loaded.config.workers()).sum();
        assert!(workers <= cores.max(3), "{workers} workers on {cores} cores");

        let again = prepare(&options(folder.path(), None, None)).unwrap();
        assert_eq!(again[0].loaded.config, made[0].loaded.config);
        fs::create_dir(data_of(&std::path::absolute(folder.path()).unwrap(), 1)).unwrap();
        let error = prepare(&options(folder.path(), Some(5), None)).err().unwrap().to_string();
        assert!(error.starts_with("--nodes 5: ") && error.contains("holds a cluster of 3"), "{error}");
        let error = prepare(&options(folder.path(), Some(3), Some(7))).err().unwrap().to_string();
        assert!(error.starts_with("--port-offset 7: ") && error.contains("made with 100"), "{error}");
    }

    #[test]
    fn a_cluster_that_never_ran_can_be_laid_out_anew() {
        let folder = tempfile::tempdir().unwrap();
        prepare(&options(folder.path(), None, None)).unwrap();
        let moved = prepare(&options(folder.path(), Some(1), Some(50))).unwrap();
        assert_eq!((moved.len(), moved[0].loaded.config.node.bind_addr.port), (1, 7050));
    }

    #[test]
    fn one_node_has_one_copy_and_numbers_out_of_range_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(prepare(&options(folder.path(), Some(10), None)).is_err());
        assert!(prepare(&options(folder.path(), Some(3), Some(65_000))).is_err());
        let made = prepare(&options(folder.path(), Some(1), None)).unwrap();
        assert_eq!((made.len(), made[0].loaded.config.replication_factor(), made[0].loaded.config.groups()), (1, 1, 1));
    }
}
