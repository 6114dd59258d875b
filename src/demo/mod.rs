//! `hypercache demo`: a whole cluster of real processes on this machine, and, with chaos, the proof that killing them
//! loses nothing.
//!
//! It sees the cluster from outside, as a user does: configuration files, processes, sockets. It must never reach into
//! the server's own code, and it never leaves a process behind: children are stopped, then killed, and die with their
//! parent if that is killed itself.

mod chaos;
mod children;
mod client;
mod layout;
mod signals;

use crate::config::{Endpoint, Loaded};
use crate::env::{self, Instant};
use anyhow::{Context, bail};
use children::Children;
use client::{Client, Reply};
use comfy_table::Table;
use std::path::PathBuf;
use std::time::Duration;

/// What the user asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Nodes of a fresh cluster (3 if not said); must agree with a cluster that is there already.
    pub nodes: Option<u64>,
    pub folder: PathBuf,
    /// Added to every port of a fresh cluster; must agree with a cluster that is there already.
    pub port_offset: Option<u16>,
    /// `section.key=value`, handed to every node.
    pub overrides: Vec<String>,
    /// How long to kill leaders under load; not at all if absent.
    pub chaos: Option<Duration>,
}

/// The most nodes on one machine.
pub const NODES_MAX: u64 = 9;

/// How long a node may take until it answers everything.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// How often a node that is not ready is asked again.
const ASK_INTERVAL: Duration = Duration::from_millis(50);

/// How long one question to a node may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(6);

/// One node: its file and what it says.
pub struct Node {
    pub file: PathBuf,
    pub folder: PathBuf,
    pub loaded: Loaded,
}

impl Node {
    fn name(&self) -> String {
        self.loaded.config.node.id.to_string()
    }

    fn proxy(&self) -> anyhow::Result<Endpoint> {
        self.door("server.resp_addr")
    }

    fn cluster(&self) -> anyhow::Result<Endpoint> {
        self.door("server.cluster_addr")
    }

    fn door(&self, setting: &str) -> anyhow::Result<Endpoint> {
        let doors = self.loaded.config.client_listeners();
        let (_, endpoint) = doors
            .into_iter()
            .find(|(name, _)| *name == setting)
            .with_context(|| format!("{}: the demo needs {setting}, which is off", self.file.display()))?;
        Ok(endpoint.clone())
    }
}

/// Starts the cluster and stays until it is told to stop. Blocks; needs no runtime around it.
pub fn run(options: &Options) -> anyhow::Result<()> {
    // One thread: the children die with the thread that started them (see `signals`), so that must be this one.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(start(options))
}

async fn start(options: &Options) -> anyhow::Result<()> {
    let mut stop = signals::Stop::listen()?;
    let nodes = layout::prepare(options)?;
    refuse_taken_ports(&nodes)?;
    let mut children = Children::new(&nodes, options.overrides.clone());
    let outcome = tokio::select! {
        biased;
        () = stop.asked() => {
            println!("\nstopping");
            Ok(())
        }
        outcome = serve(&nodes, &mut children, options) => outcome,
    };
    let ended = children.stop(&mut stop).await;
    outcome.and(ended)
}

/// Starts the nodes, says where they are and what happens to them.
async fn serve(nodes: &[Node], children: &mut Children<'_>, options: &Options) -> anyhow::Result<()> {
    let began = env::now();
    println!("starting {} node{} in {}", nodes.len(), plural(nodes.len()), options.folder.display());
    for index in 0..nodes.len() {
        children.start(index)?;
    }
    for index in 0..nodes.len() {
        ready(nodes, children, index, began + READY_LIMIT).await?;
    }
    println!("ready after {:.1} s\n", began.elapsed().as_secs_f64());
    println!("{}", table(nodes)?);
    println!("{}", how_to_connect(nodes)?);
    if let Some(time) = options.chaos {
        return chaos::run(nodes, children, time).await;
    }
    println!("Ctrl-C stops the cluster; starting it again with the same --dir finds its data.");
    watch(children).await
}

/// Reports nodes that end. The others go on; when none is left, that is a failure.
async fn watch(children: &mut Children<'_>) -> anyhow::Result<()> {
    loop {
        let report = children.next_end().await;
        eprintln!("{report}");
        if children.running() == 0 {
            bail!("no node is left");
        }
        eprintln!("The other nodes go on.");
    }
}

fn refuse_taken_ports(nodes: &[Node]) -> anyhow::Result<()> {
    let taken: Vec<String> =
        nodes.iter().flat_map(|node| node.loaded.taken_ports()).map(|problem| problem.to_string()).collect();
    if taken.is_empty() {
        return Ok(());
    }
    bail!(
        "{}\n{} of the cluster's ports cannot be used; is another demo or a Redis running?",
        taken.join("\n"),
        taken.len()
    );
}

/// Waits until a node says that it is ready and a write and a read went through each of its RESP faces.
async fn ready(nodes: &[Node], children: &mut Children<'_>, index: usize, deadline: Instant) -> anyhow::Result<()> {
    let node = &nodes[index];
    loop {
        if let Some(report) = children.ended(index) {
            bail!("{report}");
        }
        match env::timeout(ANSWER_LIMIT, answers_everything(node, nodes)).await {
            Ok(Ok(())) => return Ok(()),
            // The reason is worth telling only if it stays.
            Ok(Err(reason)) if env::now() >= deadline => {
                bail!(
                    "{} is not ready after {} s: {reason:#}\n{}",
                    node.name(),
                    READY_LIMIT.as_secs(),
                    children.tail(index)
                );
            }
            Err(_) if env::now() >= deadline => {
                bail!("{} does not answer after {} s\n{}", node.name(), READY_LIMIT.as_secs(), children.tail(index));
            }
            _ => env::sleep(ASK_INTERVAL).await,
        }
    }
}

async fn answers_everything(node: &Node, nodes: &[Node]) -> anyhow::Result<()> {
    let status = client::http_status(&node.door("server.http_addr")?, "/readyz").await.context("/readyz")?;
    if status != 200 {
        bail!("/readyz says {status}");
    }
    for face in [node.proxy()?, node.cluster()?] {
        let mut client = Client::connect(&face).await.with_context(|| format!("connecting to {face}"))?;
        let pong = client.call(&["PING"]).await?;
        if pong != Reply::Status("PONG".to_owned()) {
            bail!("PING on {face} says {pong:?}");
        }
        write_and_read(client, &face, nodes).await.with_context(|| format!("SET and GET on {face}"))?;
    }
    Ok(())
}

/// Writes a key and reads it back; on the cluster face that may mean going where MOVED points to.
async fn write_and_read(mut client: Client, face: &Endpoint, nodes: &[Node]) -> anyhow::Result<()> {
    let key = format!("hypercache:demo:{face}");
    // A key that nobody deletes should not stay in somebody's data for ever.
    let set = ["SET", &key, "ready", "PX", "60000"];
    let mut reply = client.call(&set).await?;
    if let Reply::Error(text) = &reply
        && let Some(target) = moved_to(text)
    {
        let known = nodes.iter().any(|node| node.cluster().is_ok_and(|at| at.port == target.port));
        if !known {
            bail!("{text} points to no node of this cluster");
        }
        client = Client::connect(&target).await?;
        reply = client.call(&set).await?;
    }
    if reply != Reply::Status("OK".to_owned()) {
        bail!("SET says {reply:?}");
    }
    match client.call(&["GET", &key]).await? {
        Reply::Bulk(Some(value)) if value == b"ready" => Ok(()),
        other => bail!("GET says {other:?}"),
    }
}

/// `MOVED 3999 127.0.0.1:6479` -> that address.
fn moved_to(error: &str) -> Option<Endpoint> {
    let (host, port) = error.strip_prefix("MOVED ")?.split_once(' ')?.1.rsplit_once(':')?;
    Some(Endpoint { host: host.to_owned(), port: port.parse().ok()? })
}

fn table(nodes: &[Node]) -> anyhow::Result<Table> {
    let mut table = Table::new();
    table.set_header(["node", "RESP, any client", "RESP, cluster clients", "HTTP", "gRPC", "log"]);
    for node in nodes {
        table.add_row([
            node.name(),
            node.proxy()?.to_string(),
            node.cluster()?.to_string(),
            format!("http://{}", node.door("server.http_addr")?),
            node.door("server.grpc_addr").map_or_else(|_| "off".to_owned(), |endpoint| endpoint.to_string()),
            node.folder.join(layout::LOG).display().to_string(),
        ]);
    }
    Ok(table)
}

fn how_to_connect(nodes: &[Node]) -> anyhow::Result<String> {
    let first = nodes.first().context("a cluster has a node")?;
    let (proxy, cluster, http) = (first.proxy()?, first.cluster()?, first.door("server.http_addr")?);
    Ok(format!(
        "Try:\n  redis-cli -p {} SET greeting hello        any node takes any key\n  \
         redis-cli -c -p {} GET greeting           as a cluster client\n  \
         curl http://{http}/api/cache/greeting\n",
        proxy.port, cluster.port
    ))
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moved_names_an_address() {
        let target = moved_to("MOVED 3999 127.0.0.1:6480").unwrap();
        assert_eq!(target.to_string(), "127.0.0.1:6480");
        assert_eq!(moved_to("MOVED 3999 nowhere"), None);
        assert_eq!(moved_to("CLUSTERDOWN no leader"), None);
    }
}
