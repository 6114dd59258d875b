//! The cluster under test: real processes, started, killed, asked. Nothing of the server's code; what is known of it is
//! its command line, its configuration file, its doors and `hypercachectl`.
//!
//! Nodes are numbered from 1. Processes are started by the main thread only: they die with the thread that started them.

use crate::disk::Disk;
use crate::net::Net;
use crate::resp::{Connection, Reply, slot_of};
use crate::sys::{self, Signal};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::fs::{self, OpenOptions};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long anything that must happen may take on a machine that is busy with other things. No figure is taken from it.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// What a node that cannot be reached may cost who asks.
const ASKING: Duration = Duration::from_millis(2000);

/// The port of each door. Every node has an address of its own, so they can be the same.
const PEER: u16 = 7000;
const PROXY: u16 = 6379;
const CLUSTER_FACE: u16 = 6479;
const HTTP: u16 = 8080;
const GRPC: u16 = 7070;
const GOSSIP: u16 = 7946;

/// What the nodes' names begin with.
const NAME: &str = "node-";
/// The number of the group in which the cluster agrees on its nodes and slots.
const META: u32 = 0;

/// How a cluster is made. A nemesis may ask for more before it is.
#[derive(Debug, Clone)]
pub struct Plan {
    pub nodes: usize,
    /// In how many of them a group votes.
    pub copies: usize,
    pub groups: usize,
    /// Settings (`section.key=value`) of every node.
    pub settings: Vec<String>,
    /// Bytes of a disk of its own for each node.
    pub disk: Option<u64>,
    /// A library that is loaded before the system's into each node, with `{node}` for the node's number, and other
    /// variables of its environment.
    pub environment: Vec<(String, String)>,
    pub namespaces: bool,
}

pub struct Node {
    pub number: usize,
    folder: PathBuf,
    data: PathBuf,
    pub disk: Option<Disk>,
    child: Option<Child>,
}

/// One data group: where its slots are.
#[derive(Debug, Clone)]
pub struct Group {
    pub id: u32,
    slots: Vec<(u16, u16)>,
}

impl Group {
    pub fn has(&self, key: &str) -> bool {
        let slot = slot_of(key);
        self.slots.iter().any(|(first, last)| (*first..=*last).contains(&slot))
    }
}

pub struct Cluster {
    program: PathBuf,
    plan: Plan,
    // Nodes go before the disks and hosts they stand on.
    pub nodes: Vec<Node>,
    pub groups: Vec<Group>,
    pub net: Net,
}

impl Cluster {
    /// Makes hosts, disks and files, starts all nodes and waits until the cluster serves.
    pub fn start(program: &Path, plan: Plan, folder: &Path) -> Result<Cluster> {
        let mut net = Net::make(plan.nodes, plan.namespaces)?;
        let mut nodes = Vec::new();
        for number in 1..=plan.nodes {
            let folder = folder.join(format!("node-{number}"));
            fs::create_dir_all(&folder)?;
            let disk = plan.disk.map(|bytes| Disk::make(&folder, bytes)).transpose()?;
            if let Some(disk) = &disk {
                net.guard_mount(&disk.mounted_at)?;
            }
            let data = disk.as_ref().map_or(&folder, |d| &d.mounted_at).join("data");
            nodes.push(Node { number, folder, data, disk, child: None });
        }
        let mut cluster = Cluster { program: program.to_owned(), plan, nodes, groups: Vec::new(), net };
        for number in cluster.numbers() {
            cluster.write_config(number)?;
            cluster.start_node(number)?;
        }
        cluster.learn_groups()?;
        cluster.wait_serving().context("forming the cluster")?;
        Ok(cluster)
    }

    fn at(&self, number: usize, port: u16) -> SocketAddr {
        SocketAddr::from((self.net.address(number), port))
    }

    pub fn proxy(&self, number: usize) -> SocketAddr {
        self.at(number, PROXY)
    }

    /// Where other nodes reach a node.
    pub fn peer(&self, number: usize) -> SocketAddr {
        self.at(number, PEER)
    }

    fn write_config(&self, number: usize) -> Result<()> {
        let at = |port| self.at(number, port);
        let seeds: Vec<String> = self.numbers().into_iter().map(|n| self.at(n, PEER).to_string()).collect();
        let node = self.node(number)?;
        let text = format!(
            "node:\n  id: {}\n  bind_addr: {}\n  gossip_addr: {}\n  data_dir: {}\n\
             server:\n  resp_addr: {}\n  cluster_addr: {}\n  http_addr: {}\n  grpc_addr: {}\n\
             cluster:\n  seeds: [{}]\n  groups: {}\n  replication_factor: {}\n\
             security:\n  protected_mode: {}\n",
            name(number),
            at(PEER),
            at(GOSSIP),
            node.data.display(),
            at(PROXY),
            at(CLUSTER_FACE),
            at(HTTP),
            at(GRPC),
            seeds.join(", "),
            self.plan.groups,
            self.plan.copies,
            !self.net.can_cut(),
        );
        fs::write(node.folder.join("node.yaml"), text)?;
        Ok(())
    }

    pub fn numbers(&self) -> Vec<usize> {
        (1..=self.nodes.len()).collect()
    }

    pub fn node(&self, number: usize) -> Result<&Node> {
        self.nodes.get(number - 1).with_context(|| format!("there is no node {number}"))
    }

    fn node_mut(&mut self, number: usize) -> Result<&mut Node> {
        self.nodes.get_mut(number - 1).with_context(|| format!("there is no node {number}"))
    }

    /// The nodes that have a process.
    pub fn running(&self) -> Vec<usize> {
        self.nodes.iter().filter(|n| n.child.is_some()).map(|n| n.number).collect()
    }

    /// Starts a node's process and waits for nothing.
    pub fn start_node(&mut self, number: usize) -> Result<()> {
        self.spawn(number, &[])
    }

    /// Starts a node that was let go, or whose disk is lost: with an empty directory it waits to be taken in.
    pub fn start_anew(&mut self, number: usize) -> Result<()> {
        let node = self.node(number)?;
        ensure!(node.child.is_none(), "node {number} runs");
        fs::remove_dir_all(&node.data).with_context(|| format!("emptying {}", node.data.display()))?;
        self.spawn(number, &["--join"])
    }

    fn spawn(&mut self, number: usize, flags: &[&str]) -> Result<()> {
        let node = self.node(number)?;
        ensure!(node.child.is_none(), "node {number} runs already");
        let log = OpenOptions::new().create(true).append(true).open(node.log_file())?;
        let mut command = self.net.on_host(number, &self.program);
        command.arg("server").arg("--config").arg(node.folder.join("node.yaml")).args(flags);
        for setting in &self.plan.settings {
            command.arg("--set").arg(setting);
        }
        for (name, _) in std::env::vars_os() {
            // The developer's own settings must not reach a node under test.
            if name.to_string_lossy().starts_with("HYPERCACHE__") {
                command.env_remove(name);
            }
        }
        for (name, value) in &self.plan.environment {
            command.env(name, value.replace("{node}", &number.to_string()));
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        sys::dies_with_parent(&mut command);
        self.node_mut(number)?.child = Some(command.spawn().with_context(|| format!("{command:?}"))?);
        Ok(())
    }

    pub fn pid(&self, number: usize) -> Result<u32> {
        Ok(self.node(number)?.child.as_ref().with_context(|| format!("node {number} does not run"))?.id())
    }

    pub fn signal(&self, number: usize, signal: Signal) -> Result<()> {
        sys::signal_group(self.pid(number)?, signal).with_context(|| format!("{signal:?} to node {number}"))
    }

    /// SIGKILL of several nodes at once; returns when their processes are gone.
    pub fn kill(&mut self, numbers: &[usize]) -> Result<()> {
        for number in numbers {
            self.signal(*number, Signal::Kill)?;
        }
        for number in numbers {
            self.wait_ended(*number)?;
        }
        Ok(())
    }

    /// Waits until a node has ended, by itself or not.
    pub fn wait_ended(&mut self, number: usize) -> Result<ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.ended(number)? {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "node {number} did not end within {PATIENCE:?}");
            thread::sleep(LOOK_INTERVAL);
        }
    }

    /// How a node ended, if it has since it was started.
    pub fn ended(&mut self, number: usize) -> Result<Option<ExitStatus>> {
        let node = self.node_mut(number)?;
        let child = node.child.as_mut().with_context(|| format!("node {number} does not run"))?;
        let ended = child.try_wait()?;
        if ended.is_some() {
            node.child = None;
        }
        Ok(ended)
    }

    /// Whether a node's process is stopped by a signal.
    pub fn is_frozen(&self, number: usize) -> Result<bool> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid(number)?))?;
        Ok(stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T')))
    }

    /// Asks one node one thing, on a connection of its own.
    pub fn ask(&self, number: usize, words: &[&str]) -> Result<Reply> {
        Ok(Connection::open(self.proxy(number), ASKING)?.call(words)?)
    }

    /// Runs hypercachectl against the running nodes with JSON output; an error if it failed.
    pub fn ctl(&self, words: &[&str]) -> Result<Value> {
        self.ctl_at(&self.running(), Duration::from_secs(10), words)
    }

    /// The same against some nodes, and with more or less time.
    pub fn ctl_at(&self, nodes: &[usize], time: Duration, words: &[&str]) -> Result<Value> {
        let mut command = Command::new(self.program.with_file_name("hypercachectl"));
        for number in nodes {
            command.arg("--endpoint").arg(self.at(*number, GRPC).to_string());
        }
        command.args(["-o", "json", "--timeout", &time.as_secs().to_string()]).args(words);
        let text = crate::net::must(&mut command)?;
        serde_json::from_str(&text).with_context(|| format!("{words:?} printed no JSON: {text}"))
    }

    fn learn_groups(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(groups) = self.ctl(&["group", "list"]).and_then(|list| parse_groups(&list))
                && groups.len() == self.plan.groups
            {
                self.groups = groups;
                return Ok(());
            }
            self.none_ended()?;
            ensure!(Instant::now() < deadline, "the cluster did not form; see the nodes' logs");
            thread::sleep(LOOK_INTERVAL);
        }
    }

    /// A node that ended without having been asked to is a finding, not something to wait for.
    pub fn none_ended(&mut self) -> Result<()> {
        for number in self.running() {
            if let Some(status) = self.ended(number)? {
                bail!("node {number} ended by itself: {status}\n{}", self.node(number)?.tail());
            }
        }
        Ok(())
    }

    /// A key that lies in this group.
    pub fn key_of(&self, group: &Group, name: &str) -> String {
        let mut tries = (0..).map(|i| format!("{name}:{i}"));
        tries.find(|key| group.has(key)).unwrap_or_default()
    }

    /// Whether a node takes a write for every group now.
    fn takes_writes(&self, number: usize) -> bool {
        let Ok(mut connection) = Connection::open(self.proxy(number), ASKING) else { return false };
        self.groups.iter().all(|group| {
            let key = self.key_of(group, "serving");
            connection.call(&["SET", &key, "1"]).is_ok_and(|reply| reply.is_ok())
        })
    }

    /// Waits until every running node takes a write for every group, and says how long that took.
    pub fn wait_serving(&mut self) -> Result<Duration> {
        let began = Instant::now();
        for number in self.running() {
            while !self.takes_writes(number) {
                self.none_ended()?;
                ensure!(
                    began.elapsed() < PATIENCE,
                    "node {number} does not take writes for every group after {PATIENCE:?}"
                );
                thread::sleep(LOOK_INTERVAL);
            }
        }
        Ok(began.elapsed())
    }

    /// Who leads each data group, as the first running node that answers sees it; 0 where nobody does.
    pub fn leaders(&self) -> Result<Vec<usize>> {
        let status = self.ctl(&["status"])?;
        self.groups.iter().map(|group| leader_of(&status, group.id)).collect()
    }

    /// What the cluster calls a node that belongs to it: a number that is given out once, and how the node stands.
    pub fn standing(&self, via: usize, number: usize) -> Result<(u64, String)> {
        let list = self.ctl_at(&[via], ASKING, &["node", "list"])?;
        let rows = list["nodes"].as_array().context("node list prints nodes")?;
        let row = rows.iter().find(|row| row["name"].as_str() == Some(&name(number)));
        let row = row.with_context(|| format!("node {number} is not in {list}"))?;
        Ok((row["id"].as_u64().context("a node has a number")?, row["standing"].as_str().unwrap_or("").to_owned()))
    }

    /// Who leads the group in which the cluster agrees on its nodes and slots; 0 where nobody does.
    pub fn meta_leader(&self) -> Result<usize> {
        leader_of(&self.ctl(&["status"])?, META)
    }

    /// The node that leads most data groups.
    pub fn busiest(&self) -> Result<usize> {
        let leaders = self.leaders()?;
        let led = |n: &usize| leaders.iter().filter(|l| *l == n).count();
        self.running().into_iter().max_by_key(led).context("no node runs")
    }

    /// Compares the state hashes of all replicas of all groups. Nothing may be writing.
    pub fn verify_replicas(&self) -> Result<()> {
        let verdict = self.ctl(&["verify"])?;
        let groups = verdict["groups"].as_array().context("verify tells of each group")?;
        ensure!(groups.len() == self.groups.len() + 1, "all groups and the meta group: {verdict}");
        for group in groups {
            let replicas = group["replicas"].as_array().map_or(0, Vec::len);
            ensure!(group["agree"] == true && replicas == self.nodes.len(), "replicas differ: {group}");
        }
        Ok(())
    }
}

/// What a node is called. A node that comes anew keeps its name and gets another number from its cluster, so it is by their
/// names that nodes are told apart.
pub fn name(number: usize) -> String {
    format!("{NAME}{number}")
}

fn leader_of(status: &Value, group: u32) -> Result<usize> {
    let rows = |of: &str| status[of].as_array().with_context(|| format!("status prints {of}"));
    let row = rows("groups")?.iter().find(|row| row["id"].as_u64() == Some(u64::from(group)));
    let Some(leader) = row.and_then(|row| row["leader"].as_u64()) else { return Ok(0) };
    let node = rows("nodes")?.iter().find(|row| row["id"].as_u64() == Some(leader));
    let number = node.and_then(|row| row["name"].as_str()?.strip_prefix(NAME)?.parse().ok());
    number.with_context(|| format!("no name for the leader of group {group}: {status}"))
}

/// `0-99` or `205`.
pub fn parse_range(text: &str) -> Result<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Ok((first.parse()?, last.parse()?))
}

fn parse_groups(list: &Value) -> Result<Vec<Group>> {
    let rows = list["groups"].as_array().context("group list prints groups")?;
    let mut groups = Vec::new();
    for row in rows {
        let id = row["id"].as_u64().context("a group has a number")? as u32;
        let mut slots = Vec::new();
        for range in row["slot_ranges"].as_array().context("a group has slot ranges")? {
            let text = range.as_str().context("a range is text")?;
            slots.push(parse_range(text)?);
        }
        if !slots.is_empty() {
            groups.push(Group { id, slots });
        }
    }
    Ok(groups)
}

impl Node {
    pub fn log_file(&self) -> PathBuf {
        self.folder.join("log")
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The end of what it wrote to its output.
    pub fn tail(&self) -> String {
        let log = fs::read_to_string(self.log_file()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = sys::signal_group(child.id(), Signal::Kill);
            let _ = child.wait();
        }
        if self.disk.is_none() {
            // The log tells the story; the data of a test is of no use to anybody.
            let _ = fs::remove_dir_all(&self.data);
        }
    }
}
