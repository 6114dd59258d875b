//! The wiring of a node: the one file that knows everything. Start, and orderly stop.
//!
//! Threads: one worker a core, each with a runtime of its own, for connections and groups; the main thread, for what is
//! rare (accepting, HTTP, gRPC, the cluster's table); the log writer; and short-lived ones for what takes long
//! (loading, snapshots).

use crate::cluster::gossip::{Gossip, Speaker, Waiting};
use crate::cluster::{Candidate, Cluster, Layout, Members, Memory, Past, past};
use crate::config::{self, Config, Endpoint, Sync};
use crate::disk::{Disk, Verdict};
use crate::env;
use crate::net;
use crate::raft::{self, Host, HostOptions, Timers, peers::Identity};
use crate::resp::Limits;
use crate::routing::NodeInfo;
use crate::security::{DEFAULT_USER, SetUserError, User};
use crate::server::{self, Server, Settings, Start, grpc, http, metrics, overview::Overview};
use crate::state::Precision;
use crate::state::eviction::{Kind, Limit};
use crate::telemetry;
use crate::types::NodeId;
use anyhow::{Context, anyhow};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};

/// How often disk and memory are looked at.
const WATCH: Duration = Duration::from_millis(200);
/// Writes that add are refused while the process takes more of the memory it may have.
const RESIDENT_PERCENT_MAX: u64 = 95;

/// Connections of peers that may wait in the kernel to be accepted.
const PEER_BACKLOG: i32 = 1024;

/// Files that are open beside those of clients: the store's, and links to peers.
const OPEN_BESIDE_CLIENTS: u64 = 1024;

/// Bytes of the log's end that are handed out for the search of an error.
const LOG_TAIL: u64 = 256 << 10;

/// How long the Redis doors stay shut for not knowing the users yet.
const USERS_KNOWN: Duration = Duration::from_secs(3);
/// How long handing over leaderships may take when the node stops.
const STEP_ASIDE: Duration = Duration::from_secs(2);

/// Runs a node until SIGTERM or SIGINT. Blocks.
pub fn run(config: Config) -> anyhow::Result<()> {
    see_to_open_files(config.limits.max_clients);
    let workers = Workers::start(config.workers());
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(serve(&config, workers.handles.clone()));
    // Whatever still runs on it (a door that did not drain in time) ends with it.
    runtime.shutdown_timeout(Duration::from_millis(200));
    workers.stop();
    result
}

/// Each client and each link to a peer is an open file, and so are those of the store.
fn see_to_open_files(max_clients: u64) {
    let needed = max_clients + OPEN_BESIDE_CLIENTS;
    match env::files::raise_open_files() {
        Ok(limit) if limit >= needed => {}
        Ok(limit) => tracing::warn!(limit, needed, "open-files: fewer than limits.max_clients and the store may need"),
        Err(error) => tracing::warn!(%error, "open-files: the limit could not be raised"),
    }
}

/// The worker threads.
struct Workers {
    handles: Vec<Handle>,
    stops: Vec<oneshot::Sender<()>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Workers {
    fn start(count: usize) -> Workers {
        let mut workers = Workers { handles: Vec::new(), stops: Vec::new(), threads: Vec::new() };
        for i in 0..count.max(1) {
            let (handle_tx, handle_rx) = std::sync::mpsc::channel();
            let (stop_tx, stop_rx) = oneshot::channel::<()>();
            let thread = env::spawn_thread(&format!("worker-{i}"), move || {
                let runtime =
                    Builder::new_current_thread().enable_all().build().expect("the system has room for a runtime");
                let _ = handle_tx.send(runtime.handle().clone());
                let _ = runtime.block_on(stop_rx);
            });
            workers.handles.push(handle_rx.recv().expect("the worker sends its handle first of all"));
            workers.stops.push(stop_tx);
            workers.threads.push(thread);
        }
        workers
    }

    fn stop(self) {
        drop(self.stops);
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

/// The members of a fresh cluster and this node among them.
pub fn layout(config: &Config) -> anyhow::Result<(NodeId, Layout, BTreeMap<NodeId, String>)> {
    let seeds = &config.cluster.seeds;
    let nodes: Vec<NodeId> = (1..=config.initial_nodes()).map(NodeId).collect();
    let me = match seeds.is_empty() {
        true => 0,
        false => config.seed_index().with_context(|| {
            format!(
                "cluster.seeds: {} is not among them. A cluster is formed by its seeds: name this node there too, or set \
                 cluster.join: true to have it wait until `hypercachectl node add` takes it into a cluster that there is",
                config.advertised()
            )
        })?,
    };
    let addresses = seeds.iter().enumerate().map(|(i, seed)| (NodeId(i as u64 + 1), seed.to_string())).collect();
    let layout = Layout {
        nodes: nodes.clone(),
        groups: config.groups() as u32,
        replication_factor: config.replication_factor() as usize,
        memory: memory(config),
        users: users(config)?,
        everywhere: true,
        rebuild_after: config.cluster.rebuild_after,
    };
    Ok((nodes[me], layout, addresses))
}

/// Who this node is to be, its part in a fresh cluster, and where peers are.
type Part = (NodeId, Layout, BTreeMap<NodeId, String>);

/// A founder among the seeds, or a node that was invited, perhaps only after a while. None: it was told to stop meanwhile.
async fn find_part(config: &Config, stop: &mut StopSignals) -> anyhow::Result<Option<Part>> {
    let dir = config.node.data_dir.as_path();
    let node = match past(dir)? {
        Past::Invited(Some(node)) => node,
        Past::Founder => return layout(config).map(Some),
        Past::None if !config.cluster.join => return layout(config).map(Some),
        Past::None | Past::Invited(None) => {
            let candidate = Candidate::open(dir, &config.node.id.0, &config.node.zone.0)?;
            let candidate = candidate.gossiping(config.node.gossip_addr.port());
            let (listener, me) = (listen_to_peers(&config.node.bind_addr)?, candidate.introduction());
            let address = config.advertised().to_string();
            let waiting = Waiting::new(&candidate, address.clone());
            let mut gossip = gossip(config)?;
            tracing::info!(address, "node-waits: until `hypercachectl node add` names this address");
            let invited = tokio::select! {
                biased;
                () = stop.asked() => None,
                invited = raft::peers::wait_for_invitation(&listener, &me, |one| candidate.accept(one)) => Some(invited.node),
                () = chat(&mut gossip, &waiting) => None,
            };
            // The node opens it anew, as who it is then.
            if let Some(gossip) = gossip {
                gossip.close().await;
            }
            let Some(node) = invited else { return Ok(None) };
            node
        }
    };
    let rebuild_after = config.cluster.rebuild_after;
    let layout = Layout { memory: memory(config), users: users(config)?, rebuild_after, ..Layout::default() };
    Ok(Some((node, layout, BTreeMap::new())))
}

/// This node's part in gossip, unless that is off.
fn gossip(config: &Config) -> anyhow::Result<Option<Gossip>> {
    const SETTING: &str = "node.gossip_addr";
    let Some(endpoint) = config.node.gossip_addr.endpoint() else { return Ok(None) };
    let host = if endpoint.is_wildcard() { config.advertised().host } else { endpoint.host.clone() };
    let advertised = Endpoint { host, port: endpoint.port };
    let (listen, seeds) = (resolve(endpoint).context(SETTING)?, config.cluster.seeds.clone());
    let opened = Gossip::open(listen, advertised, seeds);
    opened.map(Some).with_context(|| format!("{SETTING}: cannot listen on {endpoint}"))
}

/// Never ends; without gossip it only waits.
async fn chat(gossip: &mut Option<Gossip>, speaker: &impl Speaker) {
    match gossip {
        Some(gossip) => gossip.run(speaker).await,
        None => std::future::pending().await,
    }
}

/// The users of the file: those of `security.users_file`, then those of `security.users`, then the default user's password.
///
/// # Errors
/// The first line that is no user, or one user twice; names the setting.
pub fn users(config: &Config) -> anyhow::Result<Vec<User>> {
    let security = &config.security;
    let mut lines: Vec<(String, String)> = Vec::new();
    if !security.users_file.as_os_str().is_empty() {
        let file = &security.users_file;
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("security.users_file: {} cannot be read", file.display()))?;
        let numbered = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
        lines.extend(numbered.map(|(at, line)| (format!("security.users_file: line {}", at + 1), line.to_owned())));
    }
    let listed = security.users.0.iter().enumerate();
    lines.extend(listed.map(|(at, line)| (format!("security.users: number {}", at + 1), line.clone())));
    let mut users: Vec<User> = Vec::new();
    for (place, line) in lines {
        let user = user_of(&line).with_context(|| place.clone())?;
        anyhow::ensure!(
            users.iter().all(|known| known.name() != user.name()),
            "{place}: {} is there twice",
            user.name()
        );
        users.push(user);
    }
    if let Some(password) = security.requirepass.reveal() {
        let named = users.iter().any(|user| user.name() == DEFAULT_USER);
        anyhow::ensure!(!named, "security.requirepass: the users say already what the default user's password is");
        let mut default = User::all_powerful(DEFAULT_USER, env::seed());
        default.apply(&["resetpass".to_owned(), format!(">{password}")].map(Bytes::from))?;
        users.push(default);
    }
    Ok(users)
}

/// `user <name> <rule> ...`, as in Redis' files.
fn user_of(line: &str) -> anyhow::Result<User> {
    let mut words = line.split_whitespace();
    anyhow::ensure!(words.next() == Some("user"), "expected `user <name> <rules>`");
    let name = words.next().context("expected a name behind `user`")?;
    let name = User::check_name(name.as_bytes()).map_err(|why| anyhow!(why))?;
    let mut user = User::new(name, env::seed());
    // The message names the rule; a rule may be a password.
    let rules: Vec<Bytes> = words.map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
    user.apply(&rules).map_err(|error| match error {
        SetUserError::Rule(rule, why) if rule.starts_with(['>', '<']) => anyhow!("a password of {name}: {why}"),
        other => anyhow!("{name}: {other}"),
    })?;
    Ok(user)
}

/// In protected mode a door that other machines reach needs users that prove themselves.
///
/// # Errors
/// The door, and what to do.
pub fn check_protection(config: &Config, users: &[User]) -> anyhow::Result<()> {
    let open = users.iter().find(|user| user.name() == DEFAULT_USER).is_none_or(User::is_open);
    let wide = config.client_listeners().into_iter().find(|(_, endpoint)| !endpoint.is_loopback());
    match wide {
        Some((setting, endpoint)) if open && config.security.protected_mode => Err(anyhow!(
            "{setting}: {endpoint} can be reached from other machines, and the default user needs no password: set \
             security.requirepass, give `user default` a password or turn it off, listen on 127.0.0.1, or set \
             security.protected_mode: false on a trusted network"
        )),
        _ => Ok(()),
    }
}

/// What the file says about memory.
fn memory(config: &Config) -> Memory {
    let policy = Kind::parse(&config.cache.eviction_policy.to_string());
    let policy = policy.expect("configuration and state know the same policies");
    Memory { limit: Limit { bytes: config.max_memory_bytes(), policy, ..Limit::default() } }
}

fn info(config: &Config, me: NodeId) -> NodeInfo {
    let advertised = config.advertised();
    NodeInfo {
        id: me,
        name: config.node.id.0.clone(),
        host: advertised.host,
        peer_port: advertised.port,
        resp_port: config.server.resp_addr.port(),
        cluster_port: config.server.cluster_addr.port(),
        http_port: config.server.http_addr.port(),
        grpc_port: config.server.grpc_addr.port(),
        gossip_port: config.node.gossip_addr.port(),
        zone: config.node.zone.0.clone(),
    }
}

/// What the node's store is opened with.
pub fn storage_options(config: &Config) -> raft::storage::Options_ {
    let sync = match config.storage.sync {
        Sync::Always => raft::Sync::Always,
        Sync::EverySecond => raft::Sync::EverySecond,
        Sync::No => raft::Sync::No,
    };
    let codec = config.persistence.snapshot_codec.to_string();
    raft::storage::Options_ {
        sync,
        gather: config.storage.wal_sync_interval,
        memtable_bytes: config.storage.memtable_size.bytes() as usize,
        compaction_threads: config.storage.compaction_threads as i32,
        snapshot_codec: raft::chunk::codec(&codec).expect("the configuration's words are the codecs' names"),
    }
}

fn host_options(config: &Config, me: NodeId) -> HostOptions {
    HostOptions {
        me,
        data_dir: config.node.data_dir.clone(),
        storage: storage_options(config),
        timers: Timers {
            heartbeat: config.raft.heartbeat_interval(),
            election_min: config.raft.election_timeout_min(),
            election_max: config.raft.election_timeout_max(),
            drift_ppm: config.raft.lease_drift_ppm as u32,
        },
        log_lag: config.persistence.log_lag_entries,
        snapshot_log_bytes: config.persistence.snapshot_log_bytes.bytes(),
        snapshot_min_interval: config.persistence.snapshot_min_interval,
        eventual_without_leader: config.cluster.eventual_without_leader_after_restart,
        verify_interval: config.cluster.verify_interval,
        filter_precision: Precision::for_rate(config.cache.cuckoo_filter_fpp)
            .expect("the configuration checked that the rate can be had"),
    }
}

fn settings(config: &Config) -> anyhow::Result<Settings> {
    let limits = &config.limits;
    let address = |listen: &crate::config::Listen| listen.endpoint().map(resolve).transpose();
    Ok(Settings {
        proxy: address(&config.server.resp_addr).context("server.resp_addr")?,
        cluster: address(&config.server.cluster_addr).context("server.cluster_addr")?,
        level: config.cluster.consistency_level,
        request_timeout: limits.request_timeout,
        idle_timeout: limits.idle_timeout,
        drain_timeout: config.server.drain_timeout,
        max_clients: limits.max_clients as usize,
        limits: Limits {
            max_bulk: limits.max_bulk.bytes() as usize,
            max_args: limits.max_args as usize,
            max_inline: limits.max_inline.bytes() as usize,
            max_buffered: limits.query_buffer.bytes() as usize,
        },
        output_max: limits.output_buffer.bytes() as usize,
        protected: config.security.protected_mode,
        scripts: crate::server::scripts::Options {
            memory: config.scripts.memory_limit.bytes() as usize,
            time: config.scripts.time_limit,
            busy_after: config.scripts.busy_after,
        },
        sync: format!("{:?}", config.storage.sync).to_lowercase(),
        ..Settings::default()
    })
}

fn resolve(endpoint: &Endpoint) -> anyhow::Result<SocketAddr> {
    let mut found = (endpoint.host.as_str(), endpoint.port).to_socket_addrs()?;
    found.next().ok_or_else(|| anyhow!("{endpoint} has no address"))
}

async fn listen(setting: &str, endpoint: &Endpoint) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(resolve(endpoint).with_context(|| setting.to_owned())?).await;
    listener.with_context(|| format!("{setting}: cannot listen on {endpoint}"))
}

fn listen_to_peers(endpoint: &Endpoint) -> anyhow::Result<net::TcpListener> {
    const SETTING: &str = "node.bind_addr";
    let listener = net::listen(resolve(endpoint).context(SETTING)?, PEER_BACKLOG);
    listener.with_context(|| format!("{SETTING}: cannot listen on {endpoint}"))
}

async fn serve(config: &Config, workers: Vec<Handle>) -> anyhow::Result<()> {
    let mut stop_asked = stop_signals()?;
    check_protection(config, &users(config)?)?;
    let Some((me, layout, addresses)) = find_part(config, &mut stop_asked).await? else { return Ok(()) };
    let dir = config.node.data_dir.as_path();
    let members = Arc::new(Members::open(dir, me, &config.node.id.0, addresses)?);
    let identity: Arc<dyn Identity> = members.clone();
    let host = Host::open(host_options(config, me), identity.clone(), workers.clone())?;
    members.note_bound()?;
    members.tell_gossip_port(config.node.gossip_addr.port());
    let peers = listen_to_peers(&config.node.bind_addr)?;
    tokio::spawn(host.clone().listen(peers, identity));

    let cluster = Cluster::new(members, host.clone(), info(config, me), layout);
    let following = tokio::spawn(cluster.clone().run());
    tokio::spawn(cluster.clone().keep_events());
    let (mut gossip, speaker) = (gossip(config)?, cluster.clone());
    tokio::spawn(async move { chat(&mut gossip, &speaker).await });
    let (stop, stopped) = watch::channel(false);
    let overview = Overview::new(cluster.clone());
    open_side_doors(config, &overview, &stopped).await?;

    // The Redis doors open when this node knows its table: before that there is nothing that it could say.
    tokio::select! {
        biased;
        () = cluster.ready() => (),
        ended = following => return Err(why_ended(ended)),
        () = stop_asked.asked() => {
            host.stop().await;
            return Ok(());
        }
        () = cluster.removed() => {
            host.stop().await;
            return Ok(());
        }
    }
    // A client that comes a moment early would be told that nobody is known yet. A node that is cut off says so for longer.
    let _ = env::timeout(USERS_KNOWN, cluster.users_known()).await;
    let start = Start { cluster: cluster.clone(), settings: settings(config)?, workers, stop: stopped };
    let server = server::start(start).await?;
    overview.add_source(Box::new({
        let shared = server.shared();
        let host = host.clone();
        move || metrics::of_server(&shared.all_time(), &host)
    }));
    tracing::info!(node = %me, cluster = %cluster.id(), "node-started");

    tokio::select! {
        biased;
        () = stop_asked.asked() => (),
        () = server.shut_down_asked() => (),
        () = cluster.removed() => (),
        () = watch_resources(config, dir, &host, &server) => (),
    }
    tracing::info!(node = %me, "node-stopping");
    // Bounded: where all nodes of a cluster stop at once there is nobody to hand over to.
    let _ = env::timeout(STEP_ASIDE, host.step_aside()).await;
    let _ = stop.send(true);
    let _ = env::timeout(config.server.drain_timeout, server.drained()).await;
    let _ = env::timeout(STEP_ASIDE, host.stop()).await;
    tracing::info!(node = %me, "node-stopped");
    Ok(())
}

fn why_ended(ended: Result<Result<(), raft::StorageError>, tokio::task::JoinError>) -> anyhow::Error {
    match ended {
        Ok(Ok(())) => anyhow!("the meta group has stopped"),
        Ok(Err(e)) => anyhow::Error::from(e).context("this node's data cannot be used; it is not repaired by guessing"),
        Err(e) => anyhow::Error::from(e),
    }
}

/// HTTP and gRPC are open from the start, so that health can be asked for.
async fn open_side_doors(
    config: &Config,
    overview: &Arc<Overview>,
    stopped: &watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let until = |mut stopped: watch::Receiver<bool>| async move {
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    if let Some(endpoint) = config.server.http_addr.endpoint() {
        let listener = listen("server.http_addr", endpoint).await?;
        let options = http::Options {
            request_timeout: config.limits.request_timeout,
            default_level: config.cluster.consistency_level,
            protected: config.security.protected_mode,
            ..http::Options::default()
        };
        let serving = http::serve(listener, overview.clone(), options, until(stopped.clone()));
        tokio::spawn(async move {
            if let Err(e) = serving.await {
                tracing::error!(error = %e, "http-ended");
            }
        });
    }
    if let Some(endpoint) = config.server.grpc_addr.endpoint() {
        let listener = listen("server.grpc_addr", endpoint).await?;
        let set_level: grpc::SetLogLevel =
            Arc::new(|level: &str| telemetry::set_level(level).map(|()| level.to_owned()).map_err(|e| e.to_string()));
        let (own, protected) = (config.clone(), config.security.protected_mode);
        let files: grpc::Files = Arc::new(move || debug_files(&own));
        let data_dir = config.node.data_dir.clone();
        let options = grpc::Options { protected, data_dir, files, ..grpc::Options::new(set_level) };
        let serving = grpc::serve(listener, overview.clone(), options, until(stopped.clone()));
        tokio::spawn(async move {
            if let Err(e) = serving.await {
                tracing::error!(error = %e, "grpc-ended");
            }
        });
    }
    Ok(())
}

/// What of this node's files may be handed out for the search of an error: secrets are shown as stars.
fn debug_files(config: &Config) -> Vec<(String, Vec<u8>)> {
    let lines = config::KEYS.iter().map(|key| format!("{}: {}\n", key.path(), (key.show)(config)));
    let mut files = vec![("config.txt".to_owned(), lines.collect::<String>().into_bytes())];
    let log = &config.logging.file;
    if !log.as_os_str().is_empty() {
        let tail = telemetry::tail(log, LOG_TAIL).unwrap_or_else(|e| format!("it cannot be read: {e}\n").into_bytes());
        files.push(("log-tail.txt".to_owned(), tail));
    }
    files
}

/// Keeps an eye on disk and memory. Never ends.
async fn watch_resources(config: &Config, dir: &Path, host: &Host, server: &Server) {
    let storage = &config.storage;
    let disk = Disk::new(
        dir,
        storage.disk_low_watermark.bytes(),
        storage.disk_resume_watermark.bytes(),
        storage.ballast_size.bytes(),
    );
    let machine = config::available_memory();
    loop {
        match disk.check() {
            Ok(Verdict::Keep) => (),
            Ok(verdict) => {
                let low = verdict == Verdict::Refuse;
                if low != host.disk_low() {
                    tracing::error!(low, "disk-watermark: writes are refused while the disk is nearly full");
                }
                host.set_disk_low(low);
            }
            Err(e) => tracing::warn!(error = %e, "disk-not-checked"),
        }
        // The groups keep to their limits by themselves; this is for when the process is larger than they know.
        server.set_memory_full(server::resident_bytes() >= machine / 100 * RESIDENT_PERCENT_MAX);
        env::sleep(WATCH).await;
    }
}

/// SIGTERM and SIGINT.
struct StopSignals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

fn stop_signals() -> anyhow::Result<StopSignals> {
    Ok(StopSignals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
}

impl StopSignals {
    async fn asked(&mut self) {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => (),
            _ = self.interrupt.recv() => (),
        }
    }
}
