//! The gRPC door: `proto/admin.proto` with reflection (v1 and v1alpha) and the standard health service.
//!
//! Shows this node's own view and carries out what its leaders may do; it never forwards. Asked about a group that
//! another node leads, it answers FAILED_PRECONDITION, and says in the message and in the metadata
//! [`LEADER_METADATA`] where the leader's own door is. Every verb is idempotent.

use crate::cluster::hearsay::Word;
use crate::cluster::{
    Change, ChangeGroups, Cluster, GroupChange, MoveError, MoveSlots, Moving, NotGranted, Refused, Standing, Wish,
    WishError, events,
};
use crate::env::{self, Paced};
use crate::proto::admin::admin_server::{Admin, AdminServer};
use crate::proto::admin::{
    self, EventsPart, GroupHash, SnapshotPart, StatusRequest, StatusResponse, events_part, snapshot_part,
};
use crate::proto::{CODE_METADATA, DESCRIPTORS, LEADER_METADATA, codes};
use crate::raft::{Group, ReplicaVerdict, Verdict, backup::Export};
use crate::security::{Context, Event, Reason};
use crate::server::accept::Accept;
use crate::server::guard::{self, NotAdmitted};
use crate::server::metrics;
use crate::server::overview::{self, GroupRow, NodeRow, Overview};
use crate::state::SlotSet;
use crate::types::{GroupId, NodeId};
use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// A connection that says nothing for this long is closed; pings keep a live client's open.
const IDLE_LIMIT: Duration = Duration::from_secs(90);
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// A hand-over leaves a group without a leader for some milliseconds, an election for a second or two: that is waited for.
const LEADER_WITHIN: Duration = Duration::from_secs(3);
/// Calls at once on one connection.
const STREAMS_MAX: u32 = 64;
/// Longest request; all of them are a few numbers.
const REQUEST_MAX_BYTES: usize = 64 << 10;
/// State hashes computed at once: each walks a whole keyspace.
const HASHES_AT_ONCE: usize = 1;
/// Snapshots sent at once: each reads the disk and holds a thread.
const SAVES_AT_ONCE: usize = 2;
/// Clients that follow events at once.
const FOLLOWERS_MAX: usize = 32;
/// Events that wait for a client; the rest waits in the feed, and what falls out of that is told as missed.
const EVENTS_AHEAD: usize = 64;
/// Parts of a snapshot that wait for the client.
const PARTS_AHEAD: usize = 8;
/// Parts of the time for rest, to one of sending them.
const SEND_REST: u32 = 2;
/// Slots in which a replica differs that an answer names.
const SLOTS_TOLD: usize = 1024;
/// How often a client is told that its snapshot is still being made.
const WORKING_INTERVAL: Duration = Duration::from_secs(1);
/// This door in ACL LOG and in the audit log.
const DOOR: &str = "grpc";
/// How often the health service looks whether the node is ready.
const HEALTH_INTERVAL: Duration = Duration::from_millis(500);
/// Calls under way are given this long when the door closes.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// Applies log directives; gives back what is in force, or why it could not.
pub type SetLogLevel = Arc<dyn Fn(&str) -> Result<String, String> + Send + Sync>;

/// Names and content of files that hold no secrets.
pub type Files = Arc<dyn Fn() -> Vec<(String, Vec<u8>)> + Send + Sync>;

/// What the door may be told.
#[derive(Clone)]
pub struct Options {
    /// Connections open at once; more wait.
    pub max_connections: usize,
    /// Time a transfer or a snapshot has.
    pub operation_timeout: Duration,
    /// Other machines are refused while the default user needs no password.
    pub protected: bool,
    pub set_log_level: SetLogLevel,
    /// Where the node's data is.
    pub data_dir: PathBuf,
    /// What [`admin::admin_server::Admin::debug`] hands out of this node's files.
    pub files: Files,
}

impl Options {
    pub fn new(set_log_level: SetLogLevel) -> Options {
        Options {
            max_connections: 256,
            operation_timeout: Duration::from_secs(30),
            protected: true,
            set_log_level,
            data_dir: PathBuf::from("."),
            files: Arc::new(Vec::new),
        }
    }
}

/// Serves until `stop` is ready, then gives calls under way [`DRAIN_LIMIT`].
pub async fn serve(
    listener: TcpListener,
    overview: Arc<Overview>,
    options: Options,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let incoming =
        Accept::new(listener, options.max_connections, IDLE_LIMIT, guard::who_may_come(&overview, options.protected))
            .into_stream();
    let (reporter, health) = tonic_health::server::health_reporter();
    let describe = || tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(DESCRIPTORS);
    let describe_health = |builder: tonic_reflection::server::Builder<'static>| {
        builder.register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let service = Service {
        overview: Arc::clone(&overview),
        options,
        hashing: Arc::new(Semaphore::new(HASHES_AT_ONCE)),
        saving: Arc::new(Semaphore::new(SAVES_AT_ONCE)),
        following: Arc::new(Semaphore::new(FOLLOWERS_MAX)),
    };
    let (stopping, stopped) = oneshot::channel::<()>();
    let router = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .max_concurrent_streams(STREAMS_MAX)
        .add_service(AdminServer::new(service).max_decoding_message_size(REQUEST_MAX_BYTES))
        .add_service(health)
        .add_service(describe_health(describe()).build_v1()?)
        .add_service(describe_health(describe()).build_v1alpha()?);
    let served = router.serve_with_incoming_shutdown(incoming, async move {
        stop.await;
        let _ = stopping.send(());
    });
    let overdue = async move {
        // A server that ended by itself drops the sender; then there is nothing to wait for.
        if stopped.await.is_ok() {
            env::sleep(DRAIN_LIMIT).await;
        }
    };
    tokio::select! {
        biased;
        served = served => Ok(served?),
        () = overdue => Ok(()),
        () = report_health(&reporter, &overview) => Ok(()),
    }
}

/// Keeps the health service at what readiness says. Never ends.
async fn report_health(reporter: &HealthReporter, overview: &Overview) {
    let name = <AdminServer<Service> as tonic::server::NamedService>::NAME;
    loop {
        let status = if overview.readiness().ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in ["", name] {
            reporter.set_service_status(service, status).await;
        }
        env::sleep(HEALTH_INTERVAL).await;
    }
}

struct Service {
    overview: Arc<Overview>,
    options: Options,
    hashing: Arc<Semaphore>,
    saving: Arc<Semaphore>,
    following: Arc<Semaphore>,
}

type Parts = mpsc::Sender<Result<SnapshotPart, Status>>;

#[tonic::async_trait]
impl Admin for Service {
    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        self.admit(&request, Verb::Looks)?;
        let cluster = self.overview.cluster();
        Ok(Response::new(StatusResponse {
            cluster_id: cluster.id(),
            node: cluster.me().id.0,
            epoch: cluster.table().epoch,
            nodes: self.nodes(),
            groups: self.groups(false),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: self.overview.uptime().as_millis() as u64,
        }))
    }

    async fn list_members(
        &self,
        request: Request<admin::ListMembersRequest>,
    ) -> Result<Response<admin::ListMembersResponse>, Status> {
        self.admit(&request, Verb::Looks)?;
        let mut nodes = self.nodes();
        nodes.extend(self.overview.cluster().waiting_nodes().into_iter().map(waiting_message));
        Ok(Response::new(admin::ListMembersResponse { nodes }))
    }

    async fn change_nodes(
        &self,
        request: Request<admin::ChangeNodesRequest>,
    ) -> Result<Response<admin::ChangeNodesResponse>, Status> {
        self.admit(&request, Verb::Acts)?;
        let admin::ChangeNodesRequest { wish, dry_run } = request.into_inner();
        let wish = wish.ok_or_else(|| refusal(Code::InvalidArgument, codes::ARGUMENT, "nothing is wished"))?;
        let wish = wish_of(wish);
        let change =
            self.granted(|cluster, deadline| async move { Ok(cluster.wish(&wish, dry_run, deadline).await?) }).await?;
        Ok(Response::new(change_message(change)))
    }

    async fn move_slots(
        &self,
        request: Request<admin::MoveSlotsRequest>,
    ) -> Result<Response<admin::SlotsResponse>, Status> {
        self.admit(&request, Verb::Acts)?;
        let admin::MoveSlotsRequest { slots, to, cancel, dry_run } = request.into_inner();
        let wrong = |e: crate::state::NoSlots| refusal(Code::InvalidArgument, codes::ARGUMENT, e.to_string());
        let wish = MoveSlots { slots: slots.parse().map_err(wrong)?, to: (!cancel).then_some(GroupId(to)) };
        let moving =
            self.granted(|cluster, deadline| async move { cluster.move_slots(&wish, dry_run, deadline).await }).await?;
        Ok(Response::new(slots_message(&moving)))
    }

    async fn change_groups(
        &self,
        request: Request<admin::ChangeGroupsRequest>,
    ) -> Result<Response<admin::ChangeGroupsResponse>, Status> {
        self.admit(&request, Verb::Acts)?;
        let admin::ChangeGroupsRequest { wish, dry_run } = request.into_inner();
        let wish = wish.ok_or_else(|| refusal(Code::InvalidArgument, codes::ARGUMENT, "nothing is wished"))?;
        let wish = group_wish_of(wish);
        let change = self
            .granted(|cluster, deadline| async move { cluster.change_groups(&wish, dry_run, deadline).await })
            .await?;
        Ok(Response::new(group_change_message(change)))
    }

    async fn list_slots(
        &self,
        request: Request<admin::ListSlotsRequest>,
    ) -> Result<Response<admin::SlotsResponse>, Status> {
        self.admit(&request, Verb::Looks)?;
        let all = MoveSlots { slots: Default::default(), to: None };
        let moving = self.overview.cluster().moving(&all).map_err(|error| move_refusal(&error))?;
        Ok(Response::new(slots_message(&moving)))
    }

    async fn list_groups(
        &self,
        request: Request<admin::ListGroupsRequest>,
    ) -> Result<Response<admin::ListGroupsResponse>, Status> {
        self.admit(&request, Verb::Looks)?;
        Ok(Response::new(admin::ListGroupsResponse { groups: self.groups(true) }))
    }

    async fn transfer_leader(
        &self,
        request: Request<admin::TransferLeaderRequest>,
    ) -> Result<Response<admin::TransferLeaderResponse>, Status> {
        self.admit(&request, Verb::Acts)?;
        let admin::TransferLeaderRequest { group, to } = request.into_inner();
        let group = self.led(GroupId(group)).await?;
        let me = self.overview.cluster().me().id;
        let to = NodeId(to);
        if to == me {
            return Ok(Response::new(admin::TransferLeaderResponse { leader: to.0, already: true }));
        }
        if !group.status().voters.contains(&to) {
            let text = format!("{} is not a voter of group {}", self.overview.name_of(to), group.id());
            return Err(refusal(Code::InvalidArgument, codes::NO_SUCH_NODE, text));
        }
        let what = format!("the transfer of group {} to {}", group.id(), self.overview.name_of(to));
        let leader = Arc::clone(&group);
        self.in_time(&group, &what, async move { leader.transfer(to).await }).await?;
        tracing::info!(event = "leader_transferred", node = %me, group = %group.id(), to = %to);
        Ok(Response::new(admin::TransferLeaderResponse { leader: to.0, already: false }))
    }

    async fn trigger_snapshot(
        &self,
        request: Request<admin::TriggerSnapshotRequest>,
    ) -> Result<Response<admin::TriggerSnapshotResponse>, Status> {
        self.admit(&request, Verb::Acts)?;
        let group = self.led(GroupId(request.into_inner().group)).await?;
        let what = format!("the snapshot of group {}", group.id());
        let leader = Arc::clone(&group);
        let index = self.in_time(&group, &what, async move { leader.snapshot().await }).await?;
        let node = self.overview.cluster().me().id.0;
        Ok(Response::new(admin::TriggerSnapshotResponse { node, index }))
    }

    type SaveSnapshotStream = ReceiverStream<Result<SnapshotPart, Status>>;

    async fn save_snapshot(
        &self,
        request: Request<admin::SaveSnapshotRequest>,
    ) -> Result<Response<Self::SaveSnapshotStream>, Status> {
        self.admit(&request, Verb::Acts)?;
        let group = self.led(GroupId(request.into_inner().group)).await?;
        let node = self.overview.cluster().me().id;
        let (parts, stream) = mpsc::channel(PARTS_AHEAD);
        let saving = Arc::clone(&self.saving);
        tokio::spawn(async move {
            // Ended by the client when it hangs up: then nobody takes the parts.
            let Some(export) = export(&group, &parts, &saving).await else { return };
            env::spawn_thread("save-snapshot", move || send_snapshot(&export, group.id(), node, &parts));
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn verify(&self, request: Request<admin::VerifyRequest>) -> Result<Response<admin::VerifyResponse>, Status> {
        self.admit(&request, Verb::Acts)?;
        let group = self.led(GroupId(request.into_inner().group)).await?;
        let what = format!("the verification of group {}", group.id());
        let leader = Arc::clone(&group);
        // A little earlier than the door, so that its own reason is told.
        let deadline = env::now() + self.options.operation_timeout * 9 / 10;
        let verdict = self.in_time(&group, &what, async move { leader.verify(deadline).await }).await?;
        Ok(Response::new(verdict_message(group.id(), &verdict)))
    }

    async fn state_hash(
        &self,
        request: Request<admin::StateHashRequest>,
    ) -> Result<Response<admin::StateHashResponse>, Status> {
        self.admit(&request, Verb::Acts)?;
        let wanted = request.into_inner().groups;
        let groups = if wanted.is_empty() {
            self.overview.cluster().host().groups()
        } else {
            wanted.into_iter().map(|id| self.hosted(GroupId(id))).collect::<Result<_, _>>()?
        };
        let turn = Arc::clone(&self.hashing).acquire_owned().await.expect("the semaphore is never closed");
        // Off the worker: a hash walks every entry.
        let (hashed, hashes) = tokio::sync::oneshot::channel();
        env::spawn_thread("state-hash", move || {
            let _turn = turn;
            let _ = hashed.send(groups.iter().map(hash_of).collect());
        });
        let hashes = hashes.await.map_err(|error| Status::internal(format!("hashing failed: {error}")))?;
        Ok(Response::new(admin::StateHashResponse { node: self.overview.cluster().me().id.0, hashes }))
    }

    type EventsStream = ReceiverStream<Result<EventsPart, Status>>;

    async fn events(&self, request: Request<admin::EventsRequest>) -> Result<Response<Self::EventsStream>, Status> {
        self.admit(&request, Verb::Looks)?;
        let Ok(turn) = Arc::clone(&self.following).try_acquire_owned() else {
            let text = format!("{FOLLOWERS_MAX} clients follow the events of this node already");
            return Err(refusal(Code::ResourceExhausted, codes::NOT_DONE, text));
        };
        let (parts, stream) = mpsc::channel(EVENTS_AHEAD);
        let (cluster, request) = (Arc::clone(self.overview.cluster()), request.into_inner());
        tokio::spawn(async move {
            let _turn = turn;
            tell_events(&cluster, &request, &parts).await;
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn examine(
        &self,
        request: Request<admin::ExamineRequest>,
    ) -> Result<Response<admin::ExamineResponse>, Status> {
        self.admit(&request, Verb::Looks)?;
        let cluster = self.overview.cluster();
        let me = cluster.me();
        let others = self.overview.nodes().into_iter().filter(|node| node.id != me.id.0);
        Ok(Response::new(admin::ExamineResponse {
            node: me.id.0,
            name: me.name,
            cluster_id: cluster.id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            wall_ms: env::wall_ms(),
            disk_free_bytes: env::files::free_disk_bytes(&self.options.data_dir).ok(),
            disk_low: cluster.host().disk_low(),
            peers: others.map(|node| self.peer_view(node)).collect(),
            groups: self.groups(false),
            waiting: self.overview.readiness().waiting,
            strangers: cluster
                .heard()
                .map(|heard| heard.strangers(&cluster.id()).into_iter().collect())
                .unwrap_or_default(),
        }))
    }

    async fn debug(&self, request: Request<admin::DebugRequest>) -> Result<Response<admin::DebugResponse>, Status> {
        self.admit(&request, Verb::Acts)?;
        let mut files =
            vec![("metrics.txt".to_owned(), metrics::page(&self.overview, self.overview.sourced()).into_bytes())];
        let own = Arc::clone(&self.options.files);
        // Off this thread: a log is read from the disk.
        let (read, done) = oneshot::channel();
        env::spawn_thread("debug-files", move || drop(read.send(own())));
        files.extend(done.await.map_err(|error| Status::internal(format!("the files were not read: {error}")))?);
        let files = files.into_iter().map(|(name, content)| admin::DebugFile { name, content });
        Ok(Response::new(admin::DebugResponse { node: self.overview.cluster().me_id().0, files: files.collect() }))
    }

    async fn set_log_level(
        &self,
        request: Request<admin::SetLogLevelRequest>,
    ) -> Result<Response<admin::SetLogLevelResponse>, Status> {
        self.admit(&request, Verb::Acts)?;
        let directives = request.into_inner().directives;
        match (self.options.set_log_level)(&directives) {
            Ok(directives) => {
                tracing::info!(event = "log_level_changed", %directives);
                Ok(Response::new(admin::SetLogLevelResponse { directives }))
            }
            Err(why) => Err(refusal(Code::InvalidArgument, codes::ARGUMENT, why)),
        }
    }
}

/// What a call does to the cluster.
#[derive(Clone, Copy, PartialEq)]
enum Verb {
    /// Nothing: a node that is cut off from its cluster tells as much to whoever its own file knows.
    Looks,
    Acts,
}

impl Service {
    /// Lets in who proves to be an administrator: a user that may run all of `@admin`.
    fn admit<T>(&self, request: &Request<T>, verb: Verb) -> Result<(), Status> {
        let cluster = self.overview.cluster();
        let registry = cluster.registry();
        let authorization = request.metadata().get("authorization").map(|value| value.as_bytes());
        let admitted = match guard::admit(registry, authorization, DOOR) {
            Err(NotAdmitted::UsersUnknown) if verb == Verb::Looks => {
                guard::admit_among(&cluster.users_of_file(), registry, authorization, DOOR)
            }
            admitted => admitted,
        };
        let user = admitted.map_err(|why| match why {
            NotAdmitted::UsersUnknown => refusal(Code::Unavailable, codes::USERS_UNKNOWN, why.text()),
            why => refusal(Code::Unauthenticated, codes::NOT_AUTHENTICATED, why.text()),
        })?;
        if user.may_administer() {
            return Ok(());
        }
        let object = bytes::Bytes::from_static(b"@admin");
        let (reason, context, username) = (Reason::Command, Context::Toplevel, user.name().to_owned());
        let event = Event { reason, context, object, username, client: format!("door={DOOR}") };
        registry.note(env::wall_ms(), DOOR, event);
        let text = format!("User {} has no permissions to administer the cluster (@admin)", user.name());
        Err(refusal(Code::PermissionDenied, codes::NOT_PERMITTED, text))
    }

    /// The nodes of the table, and those that are admitted and were not heard yet.
    fn nodes(&self) -> Vec<admin::Node> {
        let mut nodes: Vec<admin::Node> = self.overview.nodes().into_iter().map(node_message).collect();
        let groups = self.overview.groups();
        if let Some(roster) = self.overview.cluster().roster() {
            for (id, entry) in &roster.nodes {
                match nodes.iter_mut().find(|node| node.id == id.0) {
                    Some(node) => {
                        node.standing = entry.standing.name().to_owned();
                        node.away = entry.away;
                    }
                    None if entry.standing == Standing::Gone => {}
                    None => {
                        let addresses = admin::Addresses { peer: entry.address.clone(), ..Default::default() };
                        let (name, standing) = (entry.name.clone(), entry.standing.name().to_owned());
                        let (addresses, zone) = (Some(addresses), entry.zone.clone());
                        nodes.push(admin::Node { id: id.0, name, addresses, standing, zone, ..Default::default() });
                    }
                }
            }
        }
        for node in &mut nodes {
            node.votes = groups.iter().filter(|group| group.voters.contains(&node.id)).count() as u32;
            node.leads = groups.iter().filter(|group| group.leader == Some(node.id)).count() as u32;
        }
        nodes
    }

    fn peer_view(&self, node: NodeRow) -> admin::PeerView {
        let hearing = self.overview.cluster().host().peers().hearing(NodeId(node.id));
        admin::PeerView {
            node: node.id,
            name: node.name,
            address: node.addresses.peer,
            alive: node.alive,
            phi: hearing.phi,
            silent_ms: hearing.silent.map(|silent| silent.as_millis() as u64),
            clock_offset_ms: hearing.wall_offset_ms,
            trouble: hearing.trouble.unwrap_or_default(),
            gossip: self.overview.cluster().hears(NodeId(node.id)),
        }
    }

    fn groups(&self, with_ranges: bool) -> Vec<admin::Group> {
        let rows = self.overview.groups().into_iter();
        rows.map(|row| group_message(row, with_ranges)).collect()
    }

    fn hosted(&self, id: GroupId) -> Result<Arc<Group>, Status> {
        self.overview.cluster().host().group(id).ok_or_else(|| {
            let text = if self.overview.cluster().table().groups.contains_key(&id) {
                format!("this node holds no replica of group {id}")
            } else {
                format!("there is no group {id}")
            };
            refusal(Code::NotFound, codes::NO_SUCH_GROUP, text)
        })
    }

    /// The group, if this node leads it; else a refusal that says who does.
    async fn led(&self, id: GroupId) -> Result<Arc<Group>, Status> {
        let group = self.hosted(id)?;
        let leader = group.leader_within(LEADER_WITHIN).await;
        if leader == Some(self.overview.cluster().me_id()) { Ok(group) } else { Err(self.led_by(&group, leader)) }
    }

    /// What is said when leadership went elsewhere meanwhile.
    async fn led_elsewhere(&self, group: &Group) -> Status {
        self.led_by(group, group.leader_within(LEADER_WITHIN).await)
    }

    fn led_by(&self, group: &Group, leader: Option<NodeId>) -> Status {
        let id = group.id();
        let Some(leader) = leader.filter(|leader| *leader != self.overview.cluster().me_id()) else {
            return refusal(Code::Unavailable, codes::NO_LEADER, format!("group {id} has no leader just now"));
        };
        let name = self.overview.name_of(leader);
        let Some(grpc) = self.overview.grpc_of(leader) else {
            let text = format!("group {id} is led by {name}, whose address is not known here");
            return refusal(Code::FailedPrecondition, codes::NOT_LEADER, text);
        };
        let text = format!("group {id} is led by {name}: ask {grpc}");
        let mut status = refusal(Code::FailedPrecondition, codes::NOT_LEADER, text);
        if let Ok(value) = grpc.parse() {
            status.metadata_mut().insert(LEADER_METADATA, value);
        }
        status
    }

    /// Has a wish written, if this node leads the meta group; what came of it, or why it was not granted.
    async fn granted<T, W>(&self, write: impl FnOnce(Arc<Cluster>, env::Instant) -> W) -> Result<T, Status>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, MoveError>> + Send + 'static,
    {
        let meta = self.led(GroupId::META).await?;
        let deadline = env::now() + self.options.operation_timeout * 9 / 10;
        // A task of its own: what was written is carried on even if the caller hangs up.
        match tokio::spawn(write(Arc::clone(self.overview.cluster()), deadline)).await {
            Ok(Ok(granted)) => Ok(granted),
            Ok(Err(MoveError::Wish(WishError::NotWritten(_)))) if !meta.is_leader() => {
                Err(self.led_elsewhere(&meta).await)
            }
            Ok(Err(error)) => Err(move_refusal(&error)),
            Err(died) => Err(refusal(Code::Internal, codes::NOT_DONE, format!("the change ended at once: {died}"))),
        }
    }

    /// Waits for a leader's work for as long as the door allows. When it fails because leadership went elsewhere
    /// meanwhile, the answer is that of a node which does not lead.
    ///
    /// The work is a task of its own and runs to its end whatever becomes of the call: a transfer that a client's
    /// hang-up cut in half would leave the group's proposer paused.
    async fn in_time<T: Send + 'static, E: std::fmt::Display + Send + 'static>(
        &self,
        group: &Group,
        what: &str,
        work: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<T, Status> {
        match env::timeout(self.options.operation_timeout, tokio::spawn(work)).await {
            Ok(Ok(Ok(done))) => Ok(done),
            Ok(Ok(Err(_))) if !group.is_leader() => Err(self.led_elsewhere(group).await),
            Ok(Ok(Err(error))) => {
                Err(refusal(Code::Aborted, codes::NOT_DONE, format!("{what} did not succeed: {error}")))
            }
            Ok(Err(died)) => Err(refusal(Code::Internal, codes::NOT_DONE, format!("{what} ended at once: {died}"))),
            Err(_) => {
                let text = format!("{what} did not end within {} s", self.options.operation_timeout.as_secs());
                Err(refusal(Code::DeadlineExceeded, codes::TIMEOUT, text))
            }
        }
    }
}

/// Tells what is kept and, if that is wished, what comes, until the client hangs up.
async fn tell_events(
    cluster: &Cluster,
    request: &admin::EventsRequest,
    parts: &mpsc::Sender<Result<EventsPart, Status>>,
) {
    let feed = cluster.events();
    let (mut newest, run) = (feed.watch(), feed.run());
    let part = |part| Ok(EventsPart { part: Some(part) });
    let begun = admin::FeedBegun { node: cluster.me_id().0, run };
    if parts.send(part(events_part::Part::Begun(begun))).await.is_err() {
        return;
    }
    let mut told = if [0, run].contains(&request.run) { request.after } else { 0 };
    loop {
        newest.mark_unchanged();
        let batch = feed.after(told, EVENTS_AHEAD);
        if batch.missed > 0 {
            let missed = admin::EventsMissed { count: batch.missed };
            if parts.send(part(events_part::Part::Missed(missed))).await.is_err() {
                return;
            }
        }
        for event in &batch.events {
            told = event.seq;
            if parts.send(part(events_part::Part::Event(event_message(event)))).await.is_err() {
                return;
            }
        }
        if !batch.events.is_empty() {
            continue;
        }
        if !request.follow {
            return;
        }
        tokio::select! {
            biased;
            () = parts.closed() => return,
            changed = newest.changed() => if changed.is_err() { return },
        }
    }
}

fn event_message(event: &events::Event) -> admin::Event {
    admin::Event {
        number: event.seq,
        at_ms: event.at_ms,
        name: event.news.what.name().to_owned(),
        node: event.news.node.map(|node| node.0),
        group: event.news.group.map(|group| group.0),
        text: event.news.text.clone(),
    }
}

/// A snapshot to send and the turn to send it; none if there is nobody to send it to any more.
async fn export(
    group: &Arc<Group>,
    parts: &Parts,
    saving: &Arc<Semaphore>,
) -> Option<(Export, tokio::sync::OwnedSemaphorePermit)> {
    let made = async {
        let turn = Arc::clone(saving).acquire_owned().await.expect("the semaphore is never closed");
        group.export().await.map(|export| (export, turn))
    };
    tokio::pin!(made);
    loop {
        tokio::select! {
            biased;
            made = &mut made => match made {
                Ok(made) => return Some(made),
                Err(error) => {
                    let text = format!("the snapshot of group {} was not made: {error}", group.id());
                    let _ = parts.send(Err(refusal(Code::Aborted, codes::NOT_DONE, text))).await;
                    return None;
                }
            },
            () = env::sleep(WORKING_INTERVAL) => {
                let working = snapshot_part::Part::Working(admin::Working {});
                parts.send(Ok(SnapshotPart { part: Some(working) })).await.ok()?;
            }
        }
    }
}

/// Sends a snapshot as fast as it is taken. Blocks.
fn send_snapshot(export: &(Export, tokio::sync::OwnedSemaphorePermit), group: GroupId, node: NodeId, parts: &Parts) {
    let (export, _turn) = export;
    let (index, term) = export.position();
    let head = admin::SnapshotHead {
        group: group.0,
        index,
        term,
        clock_ms: export.clock(),
        keys: export.keys(),
        chunks: export.chunks(),
        bytes: export.bytes(),
        node: node.0,
    };
    let part = |part| Ok(SnapshotPart { part: Some(part) });
    if parts.blocking_send(part(snapshot_part::Part::Head(head))).is_err() {
        return;
    }
    let mut pace = Paced::new(SEND_REST);
    for number in 0..export.chunks() {
        pace.rest();
        let next = match export.chunk(number) {
            Ok(chunk) => part(snapshot_part::Part::Chunk(chunk)),
            Err(e) => Err(refusal(Code::DataLoss, codes::NOT_DONE, format!("group {group}: {e}"))),
        };
        let failed = next.is_err();
        if parts.blocking_send(next).is_err() || failed {
            return;
        }
    }
}

fn refusal(code: Code, our_code: &'static str, text: impl Into<String>) -> Status {
    let mut status = Status::new(code, text);
    status.metadata_mut().insert(CODE_METADATA, tonic::metadata::MetadataValue::from_static(our_code));
    status
}

fn wish_of(wish: admin::change_nodes_request::Wish) -> Wish {
    use admin::change_nodes_request::Wish as Asked;
    match wish {
        Asked::Add(admin::AddNode { address }) => Wish::Add { address },
        Asked::Drain(admin::DrainNode { node, undo }) => Wish::Drain { node, undo },
        Asked::Remove(admin::RemoveNode { node, force }) => Wish::Remove { node, force },
        Asked::Replace(admin::ReplaceNode { old, address }) => Wish::Replace { old, address },
        Asked::Rebalance(admin::Rebalance { copies }) => Wish::Rebalance { copies: copies.map(|n| n as usize) },
    }
}

fn change_message(change: Change) -> admin::ChangeNodesResponse {
    let (node, name, standing) = match change.node {
        Some((node, name, standing)) => (node.0, name, standing.name().to_owned()),
        None => Default::default(),
    };
    let moves = change.moves.into_iter().map(|one| admin::VoteMove {
        group: one.group.0,
        from: one.from.map(|node| node.0),
        to: one.to.map(|node| node.0),
    });
    admin::ChangeNodesResponse {
        node,
        name,
        standing,
        done: change.done,
        moves: moves.collect(),
        waiting: change.waiting,
        note: change.note.unwrap_or_default(),
    }
}

fn slots_message(moving: &Moving) -> admin::SlotsResponse {
    let mut owned: BTreeMap<GroupId, SlotSet> = BTreeMap::new();
    for (first, last, group) in &moving.ranges {
        owned.entry(*group).or_default().add(&[(*first, *last)].into_iter().collect());
    }
    let of = |(group, slots): (GroupId, &SlotSet)| admin::SlotsOf { group: group.0, slots: slots.to_string() };
    admin::SlotsResponse {
        epoch: moving.epoch,
        owned: owned.iter().map(|(group, slots)| of((*group, slots))).collect(),
        wished: moving.wished.iter().map(|(group, slots)| of((*group, slots))).collect(),
        under_way: moving.under_way.as_ref().map(|batch| admin::SlotsUnderWay {
            id: batch.id,
            slots: batch.slots.to_string(),
            from: batch.from.0,
            to: batch.to.0,
            phase: batch.phase.name().to_owned(),
        }),
        missing: moving.missing.to_string(),
        waiting: moving.waiting.clone(),
        last: moving.last,
        group_changes: moving.group_changes,
        groups_unsettled: moving.groups_unsettled,
    }
}

fn group_wish_of(wish: admin::change_groups_request::Wish) -> ChangeGroups {
    use admin::change_groups_request::Wish as Asked;
    match wish {
        Asked::Add(admin::AddGroup { group }) => ChangeGroups::Add { group: group.map(GroupId) },
        Asked::Split(admin::SplitGroup { group, into }) => {
            ChangeGroups::Split { group: GroupId(group), into: into.map(GroupId) }
        }
        Asked::Remove(admin::RemoveGroup { group, undo: true, .. }) => ChangeGroups::Keep { group: GroupId(group) },
        Asked::Remove(admin::RemoveGroup { group, to, .. }) => {
            ChangeGroups::Remove { group: GroupId(group), to: to.into_iter().map(GroupId).collect() }
        }
    }
}

fn group_change_message(change: GroupChange) -> admin::ChangeGroupsResponse {
    let of = |(group, slots): &(GroupId, SlotSet)| admin::SlotsOf { group: group.0, slots: slots.to_string() };
    admin::ChangeGroupsResponse {
        epoch: change.epoch,
        group: change.group.0,
        stage: change.stage.name().to_owned(),
        already: change.already,
        done: change.done,
        voters: change.voters.iter().map(|voter| voter.0).collect(),
        slots: change.slots.iter().map(of).collect(),
        waiting: change.waiting,
    }
}

fn move_refusal(error: &MoveError) -> Status {
    match error {
        MoveError::Group(not_granted) => {
            let (code, ours) = match not_granted {
                NotGranted::NoGroup(_) => (Code::NotFound, codes::NO_SUCH_GROUP),
                NotGranted::Gone(_) => (Code::FailedPrecondition, codes::GROUP_GONE),
                NotGranted::Leaving(_) | NotGranted::Wished(_) => (Code::FailedPrecondition, codes::GROUP_BUSY),
                NotGranted::Last(_) => (Code::FailedPrecondition, codes::LAST_GROUP),
                NotGranted::TooFew(_) => (Code::FailedPrecondition, codes::CANNOT_SPLIT),
                NotGranted::OutOfTurn { .. } | NotGranted::Itself(_) => (Code::InvalidArgument, codes::ARGUMENT),
            };
            refusal(code, ours, error.to_string())
        }
        MoveError::NoSlots => refusal(Code::InvalidArgument, codes::ARGUMENT, error.to_string()),
        MoveError::Wish(error) => wish_refusal(error),
    }
}

fn wish_refusal(error: &WishError) -> Status {
    let (code, ours) = match error {
        WishError::Refused(refused) => match refused {
            Refused::UsedName { .. } => (Code::AlreadyExists, codes::USED_NAME),
            Refused::Foreign { .. } => (Code::FailedPrecondition, codes::FOREIGN_NODE),
            Refused::OtherIncarnation { .. } => (Code::FailedPrecondition, codes::OTHER_DIRECTORY),
            Refused::Belongs { .. } => (Code::AlreadyExists, codes::BELONGS),
            Refused::Unreachable { .. } => (Code::FailedPrecondition, codes::NOBODY_WAITS),
            Refused::NoSuchNode(_) => (Code::NotFound, codes::NO_SUCH_NODE),
            Refused::Gone(_) => (Code::FailedPrecondition, codes::NODE_GONE),
            Refused::Busy { .. } => (Code::FailedPrecondition, codes::NODES_BUSY),
            Refused::TooFew { .. } => (Code::FailedPrecondition, codes::TOO_FEW_NODES),
            Refused::NeverCame(_) => (Code::FailedPrecondition, codes::NEVER_CAME),
            Refused::NotHeard { .. } => (Code::NotFound, codes::NOT_HEARD),
            Refused::Ambiguous { .. } => (Code::FailedPrecondition, codes::AMBIGUOUS),
            Refused::CannotPlace(..) => (Code::InvalidArgument, codes::CANNOT_PLACE),
        },
        WishError::NotWritten(_) => (Code::Unavailable, codes::NO_LEADER),
        WishError::Unknown(_) | WishError::Unreadable(_) => (Code::Aborted, codes::NOT_DONE),
    };
    refusal(code, ours, error.to_string())
}

fn hash_of(group: &Arc<Group>) -> GroupHash {
    let (index, hash) = group.state_hash();
    GroupHash { group: group.id().0, index, hash: format!("{hash:032x}") }
}

fn verdict_message(group: GroupId, verdict: &Verdict) -> admin::VerifyResponse {
    let replica = |one: &ReplicaVerdict| admin::VerifiedReplica {
        node: one.node.0,
        answered: one.hash.is_some(),
        hash: one.hash.map(|hash| format!("{hash:032x}")).unwrap_or_default(),
        differs: one.differs,
        slots: one.slots.iter().take(SLOTS_TOLD).map(|slot| u32::from(slot.0)).collect(),
    };
    admin::VerifyResponse {
        group: group.0,
        index: verdict.index,
        replicas: verdict.replicas.iter().map(replica).collect(),
        agree: verdict.agree(),
        undecided: verdict.undecided,
    }
}

fn node_message(row: NodeRow) -> admin::Node {
    let overview::Addresses { peer, resp, cluster, http, grpc } = row.addresses;
    admin::Node {
        id: row.id,
        name: row.name,
        addresses: Some(admin::Addresses { peer, resp, cluster, http, grpc }),
        alive: row.alive,
        zone: row.zone,
        ..Default::default()
    }
}

/// A node that waits to be taken in, as it says: it has no number.
fn waiting_message(word: Word) -> admin::Node {
    admin::Node {
        name: word.name,
        addresses: Some(admin::Addresses { peer: word.address, ..Default::default() }),
        alive: true,
        standing: "waiting".to_owned(),
        zone: word.zone,
        ..Default::default()
    }
}

fn group_message(row: GroupRow, with_ranges: bool) -> admin::Group {
    admin::Group {
        id: row.id,
        leader: row.leader,
        voters: row.voters,
        learners: row.learners,
        term: row.term,
        commit: row.commit,
        applied: row.applied,
        slots: row.slots,
        keys: row.keys,
        used_bytes: row.used_bytes,
        slot_ranges: if with_ranges { row.slot_ranges } else { Vec::new() },
        last_log: row.last_log,
        snapshot: row.snapshot,
        purged: row.purged,
        expires: row.expires,
        clock_ms: row.clock_ms,
        hosted: row.hosted,
        recovered: row.recovered,
        fenced: row.fenced,
        verified: row.verified,
        verified_ms: row.verified_ms,
    }
}

#[cfg(test)]
#[path = "grpc_tests.rs"]
mod tests;
