//! The HTTP door: `/api/cache/{key}`, the health pages, `/metrics`, `/api/stats`, `/api/cluster` (`docs/http.md`).
//!
//! It turns a request into the same command vectors that RESP clients send (SET, GET, DEL) and takes the same way:
//! writes through [`Group::propose`], reads through the level's barrier. It never decides what a command means, never
//! answers a read without a permit, and never retries a write.
//!
//! - Every request proves who it is and is checked as the command it becomes, but for the three pages that orchestrators
//!   ask (`OPEN_PAGES`), which say no more than up or down.
//! - Every answer under `/api` is JSON, errors included: `{"success":false,"error":{code,message,operation,key}}`.
//! - 504 with code `UNCERTAIN` is the only answer after which a write may still apply; every other error means it
//!   did not.
//! - Memory for request bodies is bounded over all connections ([`BODY_BUDGET_BYTES`]), and a body that does not
//!   arrive within the request's time costs its share no longer.

mod request;

use crate::commands::{self, Run, handover};
use crate::env::{self, Instant};
use crate::raft::{Group, Outcome, Refusal};
use crate::resp::{Args, Reply};
use crate::security::User;
use crate::server::accept::Accept;
use crate::server::guard::{self, NotAdmitted};
use crate::server::metrics::{self, Kind, Metric, Sample};
use crate::server::overview::{Overview, address};
use crate::slot::slot_of;
use crate::types::{GroupId, Level};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use parking_lot::Mutex;
use request::CACHE_PATH;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};

/// Bytes of request bodies held at once, over all connections.
pub const BODY_BUDGET_BYTES: usize = 256 << 20;
/// The budget is handed out in pieces of this size.
const BUDGET_PIECE_BYTES: usize = 64 << 10;
/// Room in a body for everything beside the value: braces, names, `ttl`, `encoding`.
const BODY_FRAME_BYTES: usize = 4 << 10;
/// A connection that says nothing for this long is closed.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// How long past its deadline an outcome is awaited before it is called unknown: it is due by the deadline, and this
/// only keeps a lost one from holding the connection.
const OUTCOME_GRACE: Duration = Duration::from_secs(1);
/// Longest request id that is taken over from a client.
const REQUEST_ID_MAX: usize = 128;
const REQUEST_ID: &str = "x-request-id";
/// Pages that anybody may ask for.
const OPEN_PAGES: [&str; 3] = ["/livez", "/readyz", "/startupz"];
/// This door in ACL LOG and in the audit log.
const DOOR: &str = "http";

/// What the door may be told.
#[derive(Debug, Clone)]
pub struct Options {
    /// Time a request has, reading its body included.
    pub request_timeout: Duration,
    /// Level of reads that name none.
    pub default_level: Level,
    /// Longest value in bytes, as stored.
    pub max_value_bytes: usize,
    /// Longest key in bytes. (A URI ends at 64 KiB whatever is set here.)
    pub max_key_bytes: usize,
    /// Connections open at once; more wait.
    pub max_connections: usize,
    /// Other machines are refused while the default user needs no password.
    pub protected: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            request_timeout: Duration::from_secs(5),
            default_level: Level::Linearizable,
            max_value_bytes: 16 << 20,
            max_key_bytes: 16 << 10,
            max_connections: 1024,
            protected: true,
        }
    }
}

/// Serves until `stop` is ready, then lets requests under way finish for at most the request timeout.
pub async fn serve(
    listener: TcpListener,
    overview: Arc<Overview>,
    options: Options,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let may_come = guard::who_may_come(&overview, options.protected);
    let accept = Accept::new(listener, options.max_connections, IDLE_LIMIT, may_come);
    let drain = options.request_timeout;
    let (stopping, stopped) = oneshot::channel::<()>();
    let server = axum::serve(accept, router(overview, options)).with_graceful_shutdown(async move {
        stop.await;
        let _ = stopping.send(());
    });
    let overdue = async move {
        // A server that ended by itself drops the sender; then there is nothing to wait for.
        if stopped.await.is_ok() {
            env::sleep(drain).await;
        }
    };
    tokio::select! {
        biased;
        served = async { server.await } => served,
        () = overdue => Ok(()),
    }
}

struct Door {
    overview: Arc<Overview>,
    options: Options,
    /// Pieces of [`BODY_BUDGET_BYTES`] that are free.
    budget: Semaphore,
    /// Requests answered, by operation and status. Bounded: operations are ours, statuses are few.
    answered: Mutex<BTreeMap<(&'static str, u16), u64>>,
}

fn router(overview: Arc<Overview>, options: Options) -> Router {
    let door = Arc::new(Door {
        overview,
        options,
        budget: Semaphore::new(BODY_BUDGET_BYTES / BUDGET_PIECE_BYTES),
        answered: Mutex::new(BTreeMap::new()),
    });
    Router::new()
        .route("/api/cache/{*key}", get(read_key).put(write_key).post(write_key).delete(delete_key))
        .route("/api/stats", get(stats))
        .route("/api/cluster", get(cluster))
        .route("/health", get(health))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/startupz", get(startupz))
        .route("/metrics", get(metrics_page))
        .fallback(no_such_page)
        .method_not_allowed_fallback(no_such_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&door), authenticate))
        .layer(middleware::from_fn_with_state(Arc::clone(&door), observe))
        .with_state(door)
}

// ---------------------------------------------------------------------------------------------------------------
// Keys and values
// ---------------------------------------------------------------------------------------------------------------

/// A failed request. `code` is the first word of the RESP error of the same meaning.
struct Failure {
    status: StatusCode,
    code: Box<str>,
    message: Box<str>,
    operation: &'static str,
    key: Option<Bytes>,
    /// Fields beside `success` and `error`.
    beside: Map<String, Value>,
}

/// The request's key and what is being done with it: what every failure must name.
#[derive(Clone)]
struct Subject {
    operation: &'static str,
    key: Bytes,
}

/// What a read found, all seen under one hold of the keyspace.
struct Found {
    value: Bytes,
    version: u64,
}

impl Subject {
    fn failure(&self, status: StatusCode, code: &str, message: impl Into<Box<str>>) -> Failure {
        Failure {
            status,
            code: code.into(),
            message: message.into(),
            operation: self.operation,
            key: Some(self.key.clone()),
            beside: Map::new(),
        }
    }

    /// The failure a RESP error is; its text is `CODE message`.
    fn said(&self, text: &[u8]) -> Failure {
        let text = String::from_utf8_lossy(text);
        let (code, message) = text.split_once(' ').unwrap_or((&text, ""));
        self.failure(status_of(code), code, message)
    }

    fn refused(&self, refusal: &Refusal) -> Failure {
        match refusal.reply() {
            Reply::Error(text) => self.said(&text),
            // A refusal is an error by its nature; should it ever not be, it still was not applied.
            other => self.failure(StatusCode::SERVICE_UNAVAILABLE, "CLUSTERDOWN", format!("{other:?}")),
        }
    }

    fn uncertain(&self, index: Option<u64>) -> Failure {
        let at = index.map_or(String::new(), |index| format!(" (log index {index})"));
        let message = format!("the outcome of this write is unknown{at}: it may have been applied, or still be");
        let mut failure = self.failure(StatusCode::GATEWAY_TIMEOUT, "UNCERTAIN", message);
        if let Some(index) = index {
            failure.beside.insert("index".into(), index.into());
        }
        failure
    }
}

/// Which HTTP status an error code is. Every code not named is an invalid command.
fn status_of(code: &str) -> StatusCode {
    match code {
        "UNCERTAIN" => StatusCode::GATEWAY_TIMEOUT,
        "OOM" | "DISKFULL" | "MISCONF" => StatusCode::INSUFFICIENT_STORAGE,
        "THROTTLED" => StatusCode::TOO_MANY_REQUESTS,
        "CLUSTERDOWN" | "TRYAGAIN" | "LOADING" | "MASTERDOWN" | "READONLY" | "MOVED" | "ASK" | "STALE"
        | "SHUTTINGDOWN" => StatusCode::SERVICE_UNAVAILABLE,
        "NOAUTH" | "WRONGPASS" => StatusCode::UNAUTHORIZED,
        "NOPERM" => StatusCode::FORBIDDEN,
        _ => StatusCode::BAD_REQUEST,
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let key = self.key.as_ref().map_or(Value::Null, |key| text_or_base64(key).0);
        let mut body = Map::new();
        body.insert("success".into(), false.into());
        let error = json!({"code": self.code, "message": self.message, "operation": self.operation, "key": key});
        body.insert("error".into(), error);
        body.extend(self.beside);
        let mut response = json_response(self.status, &Value::Object(body));
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let how = HeaderValue::from_static("Basic realm=\"hypercache\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, how);
        }
        response
    }
}

fn json_response(status: StatusCode, body: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// Bytes as JSON can carry them: text as it is, the rest as base64, and whether it was.
fn text_or_base64(bytes: &[u8]) -> (Value, bool) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.into(), false),
        Err(_) => (BASE64.encode(bytes).into(), true),
    }
}

fn args(parts: &[&[u8]]) -> Args {
    parts.iter().map(|part| Bytes::copy_from_slice(part)).collect()
}

// ---------------------------------------------------------------------------------------------------------------
// Reading, writing, deleting
// ---------------------------------------------------------------------------------------------------------------

async fn read_key(
    State(door): State<Arc<Door>>,
    Extension(user): Extension<Arc<User>>,
    uri: Uri,
) -> Result<Response, Failure> {
    let subject = door.subject("get", &uri)?;
    door.permits(&user, &subject, &args(&[b"GET", &subject.key]))?;
    let deadline = env::now() + door.options.request_timeout;
    let level = door.level(&subject, &uri)?;
    let (group, (found, index)) = loop {
        let group = door.group(&subject)?;
        match get_entry(&subject, &group, level, deadline).await? {
            Some(got) => break (group, got),
            None => slot_under_way(&subject, deadline).await?,
        }
    };
    let place = door.place(&group);
    let Some(found) = found else {
        let mut failure = subject.failure(StatusCode::NOT_FOUND, "NOT_FOUND", "no such key");
        failure.beside = place;
        failure.beside.insert("index".into(), index.into());
        return Err(failure);
    };
    let mut data = Map::new();
    let (key, encoded) = text_or_base64(&subject.key);
    data.insert("key".into(), key);
    if encoded {
        data.insert("key_encoding".into(), "base64".into());
    }
    let (value, encoded) = text_or_base64(&found.value);
    data.insert("value".into(), value);
    if encoded {
        data.insert("encoding".into(), "base64".into());
    }
    let mut body = Map::new();
    body.insert("success".into(), true.into());
    body.insert("data".into(), data.into());
    body.extend(place);
    body.insert("version".into(), found.version.into());
    body.insert("index".into(), index.into());
    Ok(json_response(StatusCode::OK, &body.into()))
}

async fn write_key(
    State(door): State<Arc<Door>>,
    Extension(user): Extension<Arc<User>>,
    request: Request,
) -> Result<Response, Failure> {
    let subject = door.subject("put", request.uri())?;
    door.permits(&user, &subject, &args(&[b"SET", &subject.key, b""]))?;
    let deadline = env::now() + door.options.request_timeout;
    let (value, ttl_ms) = door.put_body(&subject, request.into_body(), deadline).await?;
    let ttl = ttl_ms.map_or_else(Args::new, |ms| args(&[b"PX", ms.to_string().as_bytes()]));
    let set = args(&[b"SET", &subject.key, &value]);
    let call = set.iter().chain(&ttl).cloned().collect();
    let (group, index, _) = door.propose(&subject, call, deadline).await?;
    let local = group.is_leader();
    let message = if local { "Stored locally" } else { "Forwarded to primary node" };
    let mut body = Map::new();
    body.insert("success".into(), true.into());
    body.insert("message".into(), message.into());
    body.extend(door.whose(&group));
    body.insert("version".into(), version_of_own_write(&group, &subject.key, &value, index).into());
    body.insert("index".into(), index.into());
    Ok(json_response(StatusCode::OK, &body.into()))
}

async fn delete_key(
    State(door): State<Arc<Door>>,
    Extension(user): Extension<Arc<User>>,
    uri: Uri,
) -> Result<Response, Failure> {
    let subject = door.subject("delete", &uri)?;
    door.permits(&user, &subject, &args(&[b"DEL", &subject.key]))?;
    let deadline = env::now() + door.options.request_timeout;
    let (group, index, reply) = door.propose(&subject, args(&[b"DEL", &subject.key]), deadline).await?;
    let mut body = Map::new();
    body.insert("success".into(), true.into());
    body.insert("message".into(), "Delete processed".into());
    body.extend(door.whose(&group));
    body.insert("deleted".into(), matches!(reply, Reply::Int(n) if n > 0).into());
    body.insert("index".into(), index.into());
    Ok(json_response(StatusCode::OK, &body.into()))
}

/// Before it is looked again which group answers for a slot that is on its way.
const SLOT_UNDER_WAY: Duration = Duration::from_millis(5);

/// Waits a little, if there is time.
async fn slot_under_way(subject: &Subject, deadline: Instant) -> Result<(), Failure> {
    if env::now() + SLOT_UNDER_WAY >= deadline {
        return Err(subject.refused(&Refusal::Deadline));
    }
    env::sleep(SLOT_UNDER_WAY).await;
    Ok(())
}

impl Door {
    /// Proposes one call where its key is, however often that changes meanwhile.
    async fn propose(
        &self,
        subject: &Subject,
        call: Args,
        deadline: Instant,
    ) -> Result<(Arc<Group>, u64, Reply), Failure> {
        loop {
            let group = self.group(subject)?;
            // Looked at first, or each look would be an entry of the log.
            if !group.peek(|keyspace| handover::is_elsewhere(&call, keyspace.ownership()))
                && let Some((index, reply)) = propose(subject, &group, call.clone(), deadline).await?
            {
                return Ok((group, index, reply));
            }
            slot_under_way(subject, deadline).await?;
        }
    }

    /// The key in a request's path. Slashes belong to it.
    fn subject(&self, operation: &'static str, uri: &Uri) -> Result<Subject, Failure> {
        let key = request::key(uri.path()).map_err(|raw| {
            let message = "the key in the path has a % that is not followed by two hexadecimal digits";
            let subject = Subject { operation, key: Bytes::copy_from_slice(raw.as_bytes()) };
            subject.failure(StatusCode::BAD_REQUEST, "BAD_KEY", message)
        })?;
        let subject = Subject { operation, key };
        let limit = self.options.max_key_bytes;
        if subject.key.len() > limit {
            let message = format!("the key has {} bytes, more than the limit of {limit}", subject.key.len());
            // Naming it in full would send back what was just refused for its size.
            let short = Subject { operation, key: subject.key.slice(..limit.min(64)) };
            return Err(short.failure(StatusCode::URI_TOO_LONG, "KEY_TOO_LARGE", message));
        }
        Ok(subject)
    }

    fn level(&self, subject: &Subject, uri: &Uri) -> Result<Level, Failure> {
        let level = request::level(uri);
        let level = level.map_err(|wrong| subject.failure(StatusCode::BAD_REQUEST, "BAD_CONSISTENCY", wrong))?;
        Ok(level.unwrap_or(self.options.default_level))
    }

    /// Whether the user may run the command that the request becomes.
    fn permits(&self, user: &User, subject: &Subject, call: &Args) -> Result<(), Failure> {
        guard::permits(self.overview.cluster(), user, call, DOOR)
            .map_err(|denied| subject.failure(StatusCode::FORBIDDEN, "NOPERM", denied.text()))
    }

    /// The replica here of the group that has the key.
    fn group(&self, subject: &Subject) -> Result<Arc<Group>, Failure> {
        let cluster = self.overview.cluster();
        let table = cluster.table();
        let id = table.group_of(slot_of(&subject.key));
        if id == GroupId::META {
            // What the cluster agrees on lives there; no key of a user's ever does.
            let message = "this node does not know its cluster's slots yet".to_owned();
            return Err(subject.failure(StatusCode::SERVICE_UNAVAILABLE, "CLUSTERDOWN", message));
        }
        cluster.host().group(id).ok_or_else(|| {
            let voters = table.groups.get(&id).map(|info| info.voters.as_slice()).unwrap_or_default();
            let holder = voters.iter().find_map(|voter| table.nodes.get(voter));
            let ask = holder.map_or(String::new(), |node| format!(": ask {}", address(&node.host, node.http_port)));
            let message = format!("this node holds no replica of group {id}, which has the key{ask}");
            subject.failure(StatusCode::SERVICE_UNAVAILABLE, "CLUSTERDOWN", message)
        })
    }

    /// `node` (this one, by id) and `primary` (the leader of the key's group, by name).
    fn whose(&self, group: &Group) -> Map<String, Value> {
        let primary = group.leader().map(|leader| self.overview.name_of(leader));
        let mut fields = Map::new();
        fields.insert("node".into(), self.overview.cluster().me().id.to_string().into());
        fields.insert("primary".into(), primary.into());
        fields
    }

    /// The same with `local` and `forwarded`: whether this node leads the key's group.
    fn place(&self, group: &Group) -> Map<String, Value> {
        let mut fields = self.whose(group);
        let local = group.is_leader();
        fields.insert("local".into(), local.into());
        fields.insert("forwarded".into(), (!local).into());
        fields
    }

    /// Reads and checks the body of a write: its value and its ttl in milliseconds.
    async fn put_body(
        &self,
        subject: &Subject,
        body: Body,
        deadline: Instant,
    ) -> Result<(Bytes, Option<u64>), Failure> {
        let bad = |message: String| subject.failure(StatusCode::BAD_REQUEST, "BAD_BODY", message);
        // Base64 takes four bytes for three, JSON escapes up to six for one; what is longer cannot be within limits.
        let limit = self.options.max_value_bytes.saturating_mul(6).saturating_add(BODY_FRAME_BYTES);
        let limit = limit.min(BODY_BUDGET_BYTES);
        let announced = http_body_size(&body).unwrap_or(limit).min(limit);
        let pieces = announced.div_ceil(BUDGET_PIECE_BYTES) as u32;
        let Ok(share) = env::timeout_at(deadline, self.budget.acquire_many(pieces)).await else {
            let message = "the bodies of other requests fill the memory set aside for them";
            return Err(subject.failure(StatusCode::TOO_MANY_REQUESTS, "THROTTLED", message));
        };
        let _share = share.expect("the semaphore is never closed");
        let read = env::timeout_at(deadline, to_bytes(body, limit)).await;
        let bytes = match read {
            Err(_) => {
                let message = "the body did not arrive in time";
                return Err(subject.failure(StatusCode::REQUEST_TIMEOUT, "TIMEOUT", message));
            }
            Ok(Err(error)) if is_too_long(&error) => return Err(too_large(subject, self.options.max_value_bytes)),
            Ok(Err(error)) => return Err(bad(format!("the body could not be read: {error}"))),
            Ok(Ok(bytes)) => bytes,
        };
        let (value, ttl) = request::put(&bytes).map_err(bad)?;
        if value.len() > self.options.max_value_bytes {
            return Err(too_large(subject, self.options.max_value_bytes));
        }
        let ttl_ms = ttl.map(request::ttl_ms).transpose().map_err(bad)?;
        Ok((value, ttl_ms))
    }
}

fn too_large(subject: &Subject, limit: usize) -> Failure {
    let message = format!("the value is longer than the limit of {limit} bytes");
    subject.failure(StatusCode::PAYLOAD_TOO_LARGE, "VALUE_TOO_LARGE", message)
}

/// What Content-Length announces, none for a chunked body.
fn http_body_size(body: &Body) -> Option<usize> {
    use axum::body::HttpBody;
    body.size_hint().exact().map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX))
}

/// axum hides the error of a body over its limit behind its own; only the chain of sources tells.
fn is_too_long(error: &axum::Error) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if error.to_string().contains("length limit exceeded") {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Runs GET at the level, again after a tick as often as the clock has to catch up, until the deadline. The index is
/// one that the state read had reached: it may have been ahead of it. None: the group does not answer for the slot.
async fn get_entry(
    subject: &Subject,
    group: &Arc<Group>,
    level: Level,
    deadline: Instant,
) -> Result<Option<(Option<Found>, u64)>, Failure> {
    let call = args(&[b"GET", &subject.key]);
    let run = checked(subject, &call)?;
    let Run::Read(run) = run else {
        return Err(subject.failure(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", "GET is not a read"));
    };
    let permit = match group.try_read(level) {
        Some(permit) => permit,
        None => group.barrier(level, deadline).await.map_err(|refusal| subject.refused(&refusal))?,
    };
    // The permit is kept over a tick: the state only moves on, so what it allowed stays allowed.
    loop {
        let index = group.status().applied;
        let seen = group.read(&permit, |view| {
            if handover::is_elsewhere(&call, view.ownership()) {
                return None;
            }
            let reply = run(&call, view);
            let version = view.get(&subject.key).map_or(0, |entry| entry.version());
            Some((reply, version))
        });
        match seen {
            Ok(None) => return Ok(None),
            Ok(Some((Reply::Bulk(value), version))) => return Ok(Some((Some(Found { value, version }), index))),
            Ok(Some((Reply::Error(text), _))) => return Err(subject.said(&text)),
            Ok(Some(_)) => return Ok(Some((None, index))),
            Err(_) => group.tick(deadline).await.map_err(|refusal| subject.refused(&refusal))?,
        }
    }
}

/// The command's function, once its arguments are known to be right: syntax errors never reach the log.
fn checked(subject: &Subject, call: &Args) -> Result<Run, Failure> {
    let refuse = |reply: Reply| match reply {
        Reply::Error(text) => subject.said(&text),
        other => subject.failure(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", format!("{other:?}")),
    };
    let command = commands::lookup(call).map_err(refuse)?;
    (command.check)(call).map_err(refuse)?;
    Ok(command.run)
}

/// Proposes one call and waits for its fate: its index and its reply. None: it was not applied, because the group does not
/// answer for the slot.
async fn propose(
    subject: &Subject,
    group: &Group,
    call: Args,
    deadline: Instant,
) -> Result<Option<(u64, Reply)>, Failure> {
    checked(subject, &call)?;
    let (done, outcome) = oneshot::channel();
    group.propose(
        vec![call],
        deadline,
        // The receiver is gone when the client is: nobody is left to tell.
        Box::new(move |outcome| drop(done.send(outcome))),
    );
    match env::timeout_at(deadline + OUTCOME_GRACE, outcome).await {
        Ok(Ok(Outcome::Applied { index, mut replies })) => match replies.pop() {
            Some(Reply::Error(text)) => Err(subject.said(&text)),
            Some(reply) => Ok(Some((index, reply))),
            None => Err(subject.uncertain(Some(index))),
        },
        Ok(Ok(Outcome::NotApplied(refusal))) => Err(subject.refused(&refusal)),
        Ok(Ok(Outcome::Elsewhere { .. })) => Ok(None),
        Ok(Ok(Outcome::Unknown { index })) => Err(subject.uncertain(index)),
        Ok(Err(_)) | Err(_) => Err(subject.uncertain(None)),
    }
}

/// The version at which the key holds the value just written, if this replica has applied it and no later write has
/// replaced it. The log's reply to SET does not carry it, so it is looked up afterwards and may be unknown.
fn version_of_own_write(group: &Group, key: &Bytes, value: &Bytes, index: u64) -> Option<u64> {
    if group.status().applied < index {
        return None;
    }
    let permit = group.try_read(Level::Eventual)?;
    let call = args(&[b"GET", key]);
    let Run::Read(run) = commands::lookup(&call).ok()?.run else { return None };
    let seen = group.read(&permit, |view| match run(&call, view) {
        Reply::Bulk(now) if now == *value => view.get(key).map(|entry| entry.version()),
        _ => None,
    });
    seen.ok().flatten()
}

// ---------------------------------------------------------------------------------------------------------------
// Health, figures, cluster
// ---------------------------------------------------------------------------------------------------------------

async fn health(State(door): State<Arc<Door>>) -> Response {
    let healthy = door.overview.readiness().ready;
    let cluster = door.overview.cluster();
    let body = json!({
        "healthy": healthy,
        "node": cluster.me().id.to_string(),
        "cluster_size": cluster.table().nodes.len(),
    });
    json_response(up_or_down(healthy), &body)
}

/// The process answers: nothing more is claimed, so that a restart is never the cure for a lost quorum.
async fn livez() -> Response {
    json_response(StatusCode::OK, &json!({"live": true}))
}

async fn readyz(State(door): State<Arc<Door>>) -> Response {
    let readiness = door.overview.readiness();
    json_response(up_or_down(readiness.ready), &json!(readiness))
}

async fn startupz(State(door): State<Arc<Door>>) -> Response {
    let started = door.overview.started_up();
    json_response(up_or_down(started), &json!({"started": started}))
}

fn up_or_down(up: bool) -> StatusCode {
    if up { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

async fn metrics_page(State(door): State<Arc<Door>>) -> Response {
    let page = metrics::page(&door.overview, door.own_metrics());
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], page).into_response()
}

async fn stats(State(door): State<Arc<Door>>) -> Response {
    let overview = &door.overview;
    let groups = overview.groups();
    let hosted = || groups.iter().filter(|group| group.hosted);
    // The meta group's documents are nobody's keys.
    let data = || hosted().filter(|group| group.id != GroupId::META.0);
    let me = overview.cluster().me().id;
    let body = json!({
        "success": true,
        "node": me.to_string(),
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": overview.uptime().as_secs(),
        "resident_bytes": metrics::resident_bytes(),
        "keys": data().map(|group| group.keys).sum::<u64>(),
        "expires": data().map(|group| group.expires).sum::<u64>(),
        "used_bytes": data().map(|group| group.used_bytes).sum::<u64>(),
        "groups_hosted": hosted().count(),
        "groups_led": hosted().filter(|group| group.leader == Some(me.0)).count(),
        "http_requests": door.answered.lock().values().sum::<u64>(),
    });
    json_response(StatusCode::OK, &body)
}

async fn cluster(State(door): State<Arc<Door>>) -> Response {
    let overview = &door.overview;
    let cluster = overview.cluster();
    let body = json!({
        "success": true,
        "cluster_id": cluster.id(),
        "node": cluster.me().id.to_string(),
        "epoch": cluster.table().epoch,
        "nodes": overview.nodes(),
        "groups": overview.groups(),
    });
    json_response(StatusCode::OK, &body)
}

async fn no_such_page(uri: Uri) -> Failure {
    let message = match uri.path() {
        "/api/cache" | CACHE_PATH => "the path names no key: /api/cache/{key}".to_owned(),
        path => format!("there is nothing at {path}; see docs/http.md"),
    };
    Failure {
        status: StatusCode::NOT_FOUND,
        code: "NO_SUCH_PAGE".into(),
        message: message.into(),
        operation: "route",
        key: None,
        beside: Map::new(),
    }
}

async fn no_such_method(request: Request) -> Failure {
    Failure {
        status: StatusCode::METHOD_NOT_ALLOWED,
        code: "NO_SUCH_METHOD".into(),
        message: format!("{} cannot be done to {}; see docs/http.md", request.method(), request.uri().path()).into(),
        operation: "route",
        key: None,
        beside: Map::new(),
    }
}

impl Door {
    fn own_metrics(&self) -> Vec<Metric> {
        let answered = self.answered.lock();
        let samples = answered.iter().map(|((operation, status), count)| {
            let labels = vec![("operation", (*operation).to_owned()), ("status", status.to_string())];
            Sample::labelled(labels, *count as f64)
        });
        vec![Metric::new("hypercache_http_requests_total", "HTTP requests answered.", Kind::Counter, samples.collect())]
    }
}

/// The command whose permission a page without a key needs.
fn command_of(path: &str) -> Option<Args> {
    match path {
        "/metrics" | "/api/stats" => Some(args(&[b"INFO"])),
        "/api/cluster" => Some(args(&[b"CLUSTER", b"NODES"])),
        _ => None,
    }
}

/// Lets in who proves to be somebody, and tells the handlers who it is.
async fn authenticate(State(door): State<Arc<Door>>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if OPEN_PAGES.contains(&path) {
        return next.run(request).await;
    }
    let refuse = |status, code: &str, message: &str| {
        let operation = operation_of(&request);
        let beside = Map::new();
        Failure { status, code: code.into(), message: message.into(), operation, key: None, beside }.into_response()
    };
    let authorization = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    let cluster = door.overview.cluster();
    let user = match guard::admit(cluster.registry(), authorization, DOOR) {
        Ok(user) => user,
        Err(why @ NotAdmitted::UsersUnknown) => {
            return refuse(StatusCode::SERVICE_UNAVAILABLE, why.code(), why.text());
        }
        Err(why) => return refuse(StatusCode::UNAUTHORIZED, why.code(), why.text()),
    };
    if let Some(call) = command_of(path)
        && let Err(denied) = guard::permits(cluster, &user, &call, DOOR)
    {
        return refuse(StatusCode::FORBIDDEN, "NOPERM", &denied.text());
    }
    request.extensions_mut().insert(user);
    next.run(request).await
}

/// Counts every answer, and gives every request an id: the client's own if it sent a usable one. The id goes back
/// in the answer and stands in the log's span.
async fn observe(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    use tracing::Instrument;
    let operation = operation_of(&request);
    let id = request
        .headers()
        .get(REQUEST_ID)
        .filter(|id| id.len() <= REQUEST_ID_MAX && id.to_str().is_ok())
        .cloned()
        .unwrap_or_else(fresh_request_id);
    let span = tracing::debug_span!("http", operation, request = id.to_str().unwrap_or_default());
    let mut response = next.run(request).instrument(span).await;
    *door.answered.lock().entry((operation, response.status().as_u16())).or_insert(0) += 1;
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

fn fresh_request_id() -> HeaderValue {
    HeaderValue::from_str(&format!("{:016x}", env::seed())).expect("hexadecimal digits are a valid header")
}

/// The metric label of a request: one of a fixed set, whatever a client sends.
fn operation_of(request: &Request) -> &'static str {
    use axum::http::Method;
    match request.uri().path() {
        path if path.starts_with(CACHE_PATH) => match *request.method() {
            Method::GET | Method::HEAD => "get",
            Method::PUT | Method::POST => "put",
            Method::DELETE => "delete",
            _ => "other",
        },
        "/metrics" => "metrics",
        "/health" | "/livez" | "/readyz" | "/startupz" => "health",
        "/api/stats" | "/api/cluster" => "cluster",
        _ => "other",
    }
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
