//! A cluster of real processes under test: started, killed, stopped, frozen, asked.
//!
//! Everything is done from outside, as a client or an operator would do it. Each cluster has a block of ports of its own
//! and a directory of its own, so tests may run side by side; what it started is killed when it is dropped, also when
//! the test fails, and the ends of the nodes' logs are then shown. With `HYPERCACHE_TEST_KEEP=1` the directories stay.
//!
//! Waiting is always for a condition and always bounded ([`wait_until`]). Nothing here sleeps for a time in which
//! something is hoped to have happened.

// Each test file is a program of its own and uses its own part of this.
#![allow(dead_code)]

pub mod client;
pub mod load;

use bytes::Bytes;
pub use client::{Client, code_of};
use hypercache::env::{self, Instant};
use hypercache::resp::Reply;
use serde_json::Value;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Duration;

/// How long anything that must happen may take on a machine that is busy with other tests. A guard against hanging:
/// no figure is taken from it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at a condition.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Ports below those that the system hands out by itself, so that nobody takes a node's port while it is down.
const FIRST_PORT: u16 = 21_000;
const LAST_PORT: u16 = 32_000;
/// Ports of a cluster: one that is held to claim the block, then [`PORTS_OF_A_NODE`] for each node.
const BLOCK: u16 = 50;
const PORTS_OF_A_NODE: u16 = 6;

/// Has a node with an empty directory wait to be added.
pub const JOIN: &str = "cluster.join=true";

/// Number of rounds, connections and the like: small unless the environment says otherwise.
pub fn size(variable: &str, small: u64) -> u64 {
    let wanted = std::env::var(variable).ok();
    wanted.map_or(small, |text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

/// Looks again and again until there is something, and fails loudly at the limit.
pub fn wait_until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = env::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(env::now() < deadline, "waited {limit:?} in vain until {what}");
        pause_before_looking_again();
    }
}

// Waiting inside `wait_until` is the one use of a sleep that the rules of the house allow.
#[allow(clippy::disallowed_methods)]
fn pause_before_looking_again() {
    std::thread::sleep(LOOK_INTERVAL);
}

/// Lets time pass where time itself is what is tested: until `at`.
pub fn let_time_pass_until(at: Instant) {
    wait_until("the time has come", at.remaining() + PATIENCE, || (env::now() >= at).then_some(()));
}

/// Raises a flag when it goes out of scope, so that threads which wait for the flag end when a test fails.
pub struct StopAtEnd<'a>(pub &'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Whether a program is installed.
pub fn installed(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').chain(["/usr/sbin", "/sbin"]).any(|folder| Path::new(folder).join(program).is_file())
}

/// Whether this process may do what only root may.
pub fn is_root() -> bool {
    // SAFETY: geteuid takes nothing, touches no memory and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Says aloud that something was not tested.
pub fn skipped(what: &str, why: &str) {
    println!("SKIPPED: {what}: {why}");
    eprintln!("SKIPPED: {what}: {why}");
}

/// Runs a program to its end; its failure is the test's.
pub fn must(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// How a cluster is made.
pub struct Plan {
    pub nodes: usize,
    /// Nodes behind those, that are no founders: they wait to be added when they are started.
    pub spares: usize,
    pub groups: usize,
    /// Settings (`section.key=value`) of every node.
    pub settings: Vec<String>,
    /// What goes before the program's name on each node's command line, such as strace with its arguments.
    pub wrap: Vec<Vec<String>>,
    /// The host on which each node listens; loopback where nothing is said.
    pub hosts: Vec<Ipv4Addr>,
    /// Where the data is; a temporary directory of the cluster's own where nothing is said.
    pub data: Option<PathBuf>,
}

impl Plan {
    pub fn new(nodes: usize, groups: usize) -> Plan {
        Plan { nodes, spares: 0, groups, settings: Vec::new(), wrap: Vec::new(), hosts: Vec::new(), data: None }
    }

    pub fn set(mut self, setting: &str) -> Plan {
        self.settings.push(setting.to_owned());
        self
    }

    /// The same words before the program on every node.
    pub fn wrapped(mut self, words: &[&str]) -> Plan {
        self.wrap = vec![words.iter().map(|w| (*w).to_owned()).collect(); self.nodes];
        self
    }

    pub fn with_spares(self, spares: usize) -> Plan {
        Plan { spares, ..self }
    }

    /// Starts all nodes but the spare ones and waits until the cluster serves.
    pub fn start(self) -> Cluster {
        let founders = self.nodes;
        let mut cluster = self.prepare();
        for node in 1..=founders {
            cluster.start(node);
        }
        cluster.wait_serving();
        cluster
    }

    /// Makes the files and starts nothing.
    pub fn prepare(self) -> Cluster {
        let folder = tempfile::tempdir().expect("a temporary directory can be made");
        let (claim, first_port) = claim_ports();
        let host = |i: usize| self.hosts.get(i).copied().unwrap_or(Ipv4Addr::LOCALHOST);
        let nodes: Vec<Node> = (0..self.nodes + self.spares)
            .map(|i| {
                let number = i + 1;
                let own = folder.path().join(format!("node-{number}"));
                fs::create_dir_all(&own).expect("a directory can be made in one of our own");
                Node {
                    number,
                    host: host(i),
                    first_port: first_port + 1 + PORTS_OF_A_NODE * i as u16,
                    data: self.data.as_ref().unwrap_or(&folder.path().to_owned()).join(format!("node-{number}/data")),
                    folder: own,
                    wrap: self.wrap.get(i).cloned().unwrap_or_default(),
                    settings: {
                        let join = (i >= self.nodes).then(|| JOIN.to_owned());
                        self.settings.iter().cloned().chain(join).collect()
                    },
                    child: None,
                }
            })
            .collect();
        let seeds: Vec<String> = nodes.iter().take(self.nodes).map(|n| n.at(Door::Peer).to_string()).collect();
        for node in &nodes {
            node.write_config(&seeds, self.groups);
        }
        Cluster { nodes, groups: self.groups, slots: deal(self.groups), folder: Some(folder), _claim: claim }
    }
}

fn deal(groups: usize) -> Arc<Vec<u32>> {
    let ids: Vec<_> = (1..=groups as u32).map(hypercache::types::GroupId).collect();
    Arc::new(hypercache::routing::deal(&ids).iter().map(|g| g.0).collect())
}

/// Holds one port of a free block for as long as the block is used, so that no other test takes it.
fn claim_ports() -> (TcpListener, u16) {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let blocks = (LAST_PORT - FIRST_PORT) / BLOCK;
    let start = (std::process::id() as u16).wrapping_mul(7);
    for _ in 0..blocks {
        let turn = NEXT.fetch_add(1, Ordering::Relaxed);
        let first = FIRST_PORT + BLOCK * (start.wrapping_add(turn) % blocks);
        let free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if let Ok(claim) = TcpListener::bind((Ipv4Addr::LOCALHOST, first))
            && (first + 1..first + BLOCK).all(free)
        {
            return (claim, first);
        }
    }
    panic!("no block of {BLOCK} free ports between {FIRST_PORT} and {LAST_PORT}");
}

/// The listeners of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    Peer,
    Proxy,
    ClusterFace,
    Http,
    Grpc,
    Gossip,
}

/// Signals, by what they do to a node.
#[derive(Debug, Clone, Copy)]
pub enum Signal {
    Kill,
    Terminate,
    Freeze,
    Thaw,
}

/// One node: its files, its ports, and its process while it has one.
pub struct Node {
    pub number: usize,
    pub host: Ipv4Addr,
    first_port: u16,
    pub folder: PathBuf,
    pub data: PathBuf,
    pub wrap: Vec<String>,
    pub settings: Vec<String>,
    child: Option<Child>,
}

impl Node {
    pub fn at(&self, door: Door) -> SocketAddr {
        SocketAddr::from((self.host, self.first_port + door as u16))
    }

    pub fn config_file(&self) -> PathBuf {
        self.folder.join("node.yaml")
    }

    fn write_config(&self, seeds: &[String], groups: usize) {
        let at = |door| self.at(door);
        let seeds = if seeds.len() == 1 { String::new() } else { seeds.join(", ") };
        let text = format!(
            "node:\n  id: node-{}\n  bind_addr: {}\n  gossip_addr: {}\n  data_dir: {}\n\
             server:\n  resp_addr: {}\n  cluster_addr: {}\n  http_addr: {}\n  grpc_addr: {}\n\
             cluster:\n  seeds: [{seeds}]\n  groups: {groups}\n\
             security:\n  protected_mode: {}\n",
            self.number,
            at(Door::Peer),
            at(Door::Gossip),
            self.data.display(),
            at(Door::Proxy),
            at(Door::ClusterFace),
            at(Door::Http),
            at(Door::Grpc),
            self.host.is_loopback(),
        );
        fs::write(self.config_file(), text).expect("a file can be written in a directory of our own");
    }

    /// The command line that runs the node.
    pub fn command(&self) -> Command {
        let program = env!("CARGO_BIN_EXE_hypercache");
        let mut command = match self.wrap.split_first() {
            None => Command::new(program),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        };
        command.arg("server").arg("--config").arg(self.config_file());
        for setting in &self.settings {
            command.arg("--set").arg(setting);
        }
        for (name, _) in std::env::vars_os() {
            // The developer's own settings must not reach a node under test.
            if name.to_string_lossy().starts_with("HYPERCACHE__") {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::null());
        command
    }

    fn log_file(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn spawn(&mut self) {
        assert!(self.child.is_none(), "node {} runs already", self.number);
        let log = OpenOptions::new().create(true).append(true).open(self.log_file()).expect("the log can be opened");
        let mut command = self.command();
        command.stdout(log.try_clone().expect("a file can be had twice")).stderr(log);
        // A group of its own, so that what wraps the node goes with it.
        command.process_group(0);
        // SAFETY: between fork and exec only prctl is called, which is async-signal-safe and touches no memory. It has the
        // node killed when the test's thread is gone without having dropped the cluster, as after a kill.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        self.child = Some(command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}")));
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap_or_else(|| panic!("node {} does not run", self.number)).id()
    }

    fn signal(&self, signal: Signal) {
        let number = match signal {
            Signal::Kill => libc::SIGKILL,
            Signal::Terminate => libc::SIGTERM,
            Signal::Freeze => libc::SIGSTOP,
            Signal::Thaw => libc::SIGCONT,
        };
        // SAFETY: no memory is involved. The group is that of a child which has not been waited for, so its number
        // cannot have been given to another.
        let sent = unsafe { libc::kill(-(self.pid() as libc::pid_t), number) };
        assert_eq!(sent, 0, "node {}: {}", self.number, std::io::Error::last_os_error());
    }

    fn wait(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("node {} has ended", self.number);
        let status = wait_until(&what, limit, || {
            self.child
                .as_mut()
                .expect("only a node that runs is waited for")
                .try_wait()
                .expect("a child can be waited for")
        });
        self.child = None;
        status
    }

    /// How it ended, if it has.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        let ended = self.child.as_mut()?.try_wait().expect("a child can be waited for")?;
        self.child = None;
        Some(ended)
    }

    fn tail(&self) -> String {
        let log = fs::read_to_string(self.log_file()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }
}

/// A running cluster. Nodes are numbered from 1.
pub struct Cluster {
    nodes: Vec<Node>,
    groups: usize,
    /// The group of each slot: the table is settled at a cluster's birth by its number of groups.
    slots: Arc<Vec<u32>>,
    /// None only while it is dropped.
    folder: Option<tempfile::TempDir>,
    _claim: TcpListener,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in self.nodes.iter_mut().filter(|n| n.child.is_some()) {
            node.signal(Signal::Kill);
            if let Some(mut child) = node.child.take() {
                let _ = child.wait();
            }
        }
        if std::thread::panicking() {
            for node in &self.nodes {
                eprintln!("--- the end of node {}'s log\n{}", node.number, node.tail());
            }
        }
        if let Some(folder) = self.folder.take().filter(|_| std::env::var_os("HYPERCACHE_TEST_KEEP").is_some()) {
            eprintln!("kept: {}", folder.keep().display());
        }
    }
}

impl Cluster {
    pub fn node(&self, number: usize) -> &Node {
        &self.nodes[number - 1]
    }

    pub fn node_mut(&mut self, number: usize) -> &mut Node {
        &mut self.nodes[number - 1]
    }

    /// All nodes' numbers.
    pub fn numbers(&self) -> Vec<usize> {
        (1..=self.nodes.len()).collect()
    }

    /// The nodes that have a process.
    pub fn running(&self) -> Vec<usize> {
        self.nodes.iter().filter(|n| n.child.is_some()).map(|n| n.number).collect()
    }

    pub fn folder(&self) -> &Path {
        self.folder.as_ref().expect("it is there until the cluster is dropped").path()
    }

    /// Starts a node's process and waits for nothing.
    pub fn start(&mut self, number: usize) {
        self.nodes[number - 1].spawn();
    }

    /// SIGKILL; returns when the process is gone.
    pub fn kill(&mut self, number: usize) {
        self.kill_all(&[number]);
    }

    /// SIGKILL of several nodes at once; returns when their processes are gone.
    pub fn kill_all(&mut self, numbers: &[usize]) {
        numbers.iter().for_each(|n| self.node(*n).signal(Signal::Kill));
        for number in numbers {
            self.node_mut(*number).wait(PATIENCE);
        }
    }

    /// SIGTERM; returns when the process has ended by itself, which must be with success, and how long that took.
    pub fn stop(&mut self, number: usize) -> Duration {
        let began = env::now();
        self.terminate(number);
        let status = self.node_mut(number).wait(PATIENCE);
        assert!(status.success(), "node {number} was asked to stop and ended with {status}");
        began.elapsed()
    }

    /// SIGTERM and nothing more; [`Cluster::wait_ended`] waits.
    pub fn terminate(&self, number: usize) {
        self.node(number).signal(Signal::Terminate);
    }

    /// Waits until a node has ended by itself.
    pub fn wait_ended(&mut self, number: usize) -> ExitStatus {
        self.node_mut(number).wait(PATIENCE)
    }

    /// SIGSTOP: the process keeps its sockets and does nothing.
    pub fn freeze(&self, number: usize) {
        self.node(number).signal(Signal::Freeze);
        let stat = format!("/proc/{}/stat", self.node(number).pid());
        wait_until("the process has stopped", PATIENCE, || {
            let text = fs::read_to_string(&stat).unwrap_or_default();
            text.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T')).then_some(())
        });
    }

    /// SIGCONT.
    pub fn thaw(&self, number: usize) {
        self.node(number).signal(Signal::Thaw);
    }

    /// Everything that a node has written to its output so far.
    pub fn log(&self, number: usize) -> String {
        fs::read_to_string(self.node(number).log_file()).unwrap_or_default()
    }

    /// A connection to a node's proxy face.
    pub fn client(&self, number: usize) -> Client {
        let at = self.node(number).at(Door::Proxy);
        Client::connect(at).unwrap_or_else(|e| panic!("node {number} at {at}: {e}"))
    }

    /// A connection to a node's cluster face.
    pub fn cluster_client(&self, number: usize) -> Client {
        let at = self.node(number).at(Door::ClusterFace);
        Client::connect(at).unwrap_or_else(|e| panic!("node {number} at {at}: {e}"))
    }

    /// Where the proxy faces of these nodes are.
    pub fn proxies(&self, numbers: &[usize]) -> Vec<SocketAddr> {
        numbers.iter().map(|n| self.node(*n).at(Door::Proxy)).collect()
    }

    /// Waits until every running node takes a write for every group.
    pub fn wait_serving(&self) {
        let running = self.running();
        self.wait_serving_on(&running);
    }

    /// Waits until these nodes take a write for every group.
    pub fn wait_serving_on(&self, numbers: &[usize]) {
        for number in numbers {
            wait_until(&format!("node {number} serves"), PATIENCE, || self.takes_writes(*number).then_some(()));
        }
    }

    /// Whether a node takes a write for every group now.
    pub fn takes_writes(&self, number: usize) -> bool {
        let Ok(mut client) = Client::connect(self.node(number).at(Door::Proxy)) else { return false };
        (1..=self.groups as u32).all(|group| {
            let key = self.key_of_group("serving", group);
            matches!(client.call(&["SET", &key, "1"]), Ok(reply) if reply == Reply::OK)
        })
    }

    /// The group of a key.
    pub fn group_of(&self, key: &str) -> u32 {
        self.slots[usize::from(hypercache::slot::slot_of(key.as_bytes()).0)]
    }

    /// The slots of a group, as the cluster was founded.
    pub fn slots_of(&self, group: u32) -> Vec<u16> {
        (0..).zip(self.slots.iter()).filter(|(_, owner)| **owner == group).map(|(slot, _)| slot).collect()
    }

    /// A key that lies in this group.
    pub fn key_of_group(&self, name: &str, group: u32) -> String {
        let tries = (0..).map(|i| format!("{name}:{i}"));
        tries.into_iter().find(|key| self.group_of(key) == group).expect("every group has slots")
    }

    /// The leader of a key's slot, as the cluster face of `via` tells it; none while there is none.
    pub fn leader_of(&self, key: &str, via: usize) -> Option<usize> {
        let slot = i64::from(hypercache::slot::slot_of(key.as_bytes()).0);
        let reply = self.cluster_client(via).call(&["CLUSTER", "SLOTS"]).ok()?;
        let Reply::Array(rows) = reply else { return None };
        rows.iter().find_map(|row| {
            let Reply::Array(row) = row else { return None };
            let [Reply::Int(first), Reply::Int(last), Reply::Array(leader), ..] = row.as_slice() else { return None };
            let Some(Reply::Int(port)) = leader.get(1) else { return None };
            let by_port = |n: &&Node| i64::from(n.at(Door::ClusterFace).port()) == *port;
            (*first <= slot && slot <= *last).then(|| self.nodes.iter().find(by_port).map(|n| n.number))?
        })
    }

    /// The same, waiting until there is one.
    pub fn wait_leader_of(&self, key: &str, via: usize) -> usize {
        wait_until(&format!("node {via} knows the leader of {key}"), PATIENCE, || self.leader_of(key, via))
    }

    /// The groups that a node leads by its own word.
    pub fn led_by(&self, number: usize) -> Vec<u32> {
        let page = self.metrics_page(number).unwrap_or_default();
        (1..=self.groups as u32)
            .filter(|g| sample(&page, "hypercache_group_leader", &[("group", &g.to_string())]) == Some(number as f64))
            .collect()
    }

    /// The node that leads most data groups.
    pub fn busiest(&self) -> usize {
        self.running().into_iter().max_by_key(|n| self.led_by(*n).len()).expect("some node runs")
    }

    /// A sample of a node's metrics, summed over all that have these labels.
    pub fn metric(&self, number: usize, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        sample(&self.metrics_page(number)?, name, labels)
    }

    fn metrics_page(&self, number: usize) -> Option<String> {
        http(self.node(number).at(Door::Http), "GET", "/metrics", "").ok().map(|(_, body)| body)
    }

    /// Runs hypercachectl against some nodes.
    pub fn ctl(&self, numbers: &[usize], words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hypercachectl"));
        for number in numbers {
            command.arg("--endpoint").arg(self.node(*number).at(Door::Grpc).to_string());
        }
        command.args(words).output().expect("hypercachectl can be run")
    }

    /// The same with JSON output; must succeed.
    pub fn ctl_json(&self, numbers: &[usize], words: &[&str]) -> Value {
        let words: Vec<&str> = ["-o", "json"].iter().chain(words).copied().collect();
        let output = self.ctl(numbers, &words);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{words:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{words:?} printed no JSON: {e}: {text}"))
    }

    /// Compares the state hashes of all replicas of all groups. Nothing may be writing.
    pub fn verify_replicas(&self) {
        self.verify_data_groups(self.groups);
    }

    /// The same where groups have come or gone, and there are so many now.
    pub fn verify_data_groups(&self, count: usize) {
        let verdict = self.ctl_json(&self.running(), &["verify"]);
        let groups = verdict["groups"].as_array().expect("verify tells of each group");
        assert_eq!(groups.len(), count + 1, "all groups and the meta group: {verdict}");
        for group in groups {
            let replicas = group["replicas"].as_array().map_or(0, Vec::len);
            assert!(group["agree"] == true && replicas == self.running().len(), "replicas differ: {group}");
        }
    }

    /// Hands a group to a node and says whether that was done.
    pub fn transfer(&self, group: u32, to: usize) -> bool {
        let (group, to) = (group.to_string(), to.to_string());
        self.ctl(&self.running(), &["leader", "transfer", "--group", &group, "--to", &to]).status.success()
    }

    /// Moves all data groups to one node.
    pub fn gather_leaders(&self, to: usize) {
        for group in 1..=self.groups as u32 {
            let what = format!("node {to} leads group {group}");
            wait_until(&what, PATIENCE, || {
                self.transfer(group, to);
                self.led_by(to).contains(&group).then_some(())
            });
        }
    }
}

/// The sum of the samples of a family that have all of these labels; none if there is no such sample.
fn sample(page: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let wanted: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{v}\"")).collect();
    let values = page.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let (labels, value) = match rest.strip_prefix('{') {
            Some(rest) => rest.split_once("} ")?,
            None => ("", rest.strip_prefix(' ')?),
        };
        let has = |w: &String| labels.split(',').any(|l| l == w);
        wanted.iter().all(has).then(|| value.parse::<f64>().ok()).flatten()
    });
    let values: Vec<f64> = values.collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

/// One HTTP request on a connection of its own: status and body.
pub fn http(at: SocketAddr, method: &str, path: &str, body: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
    status.map(|s| (s, body.to_owned())).ok_or_else(|| std::io::Error::other(format!("no HTTP: {head}")))
}

/// A value of a reply that is a bulk string.
pub fn text_of(reply: &Reply) -> Option<String> {
    match reply {
        Reply::Bulk(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        _ => None,
    }
}

pub fn bulk(text: &str) -> Reply {
    Reply::Bulk(Bytes::copy_from_slice(text.as_bytes()))
}

/// Writes a whole file anew, for tests that damage one.
pub fn overwrite(path: &Path, bytes: &[u8]) {
    File::create(path).and_then(|mut f| f.write_all(bytes)).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// Durations in order, as figures to print: median, 99th percentile, most.
pub fn figures(mut all: Vec<Duration>) -> String {
    if all.is_empty() {
        return "none".to_owned();
    }
    all.sort_unstable();
    let at = |share: f64| all[((all.len() - 1) as f64 * share).round() as usize];
    format!("{} measured, p50 {:?}, p99 {:?}, most {:?}", all.len(), at(0.5), at(0.99), at(1.0))
}
