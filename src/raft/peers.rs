//! Links between nodes: a few long-lived TCP connections a pair, all groups of a lane on one of them.
//!
//! Frames that are queued while a write is under way leave together with the next one. A request that was queued on a
//! link that then broke may have arrived: its caller is told so and decides what that means. A link that is down takes
//! nothing.
//!
//! This file knows frames and connections; what a request means is [`super::host`]'s.

use super::silence::Beats;
use super::wire::{
    self, Dismissal, HEAD_BYTES, Hello, Introduction, Invitation, Lane, MAX_FRAME, MAX_GREETING, Method, Opcode,
    Welcome,
};
use crate::env::{self, Instant};
use crate::net::{self, TcpListener, TcpStream};
use crate::types::{GroupId, NodeId};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::FutureExt;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot, watch};

/// Bytes that may wait on a link; past it nothing more is taken until the peer reads.
const MAX_QUEUED_BYTES: usize = 64 << 20;
/// How long a connection may take to be made and greeted.
const CONNECT: Duration = Duration::from_millis(1000);
/// Data that is not acknowledged for so long ends the connection: after a partition a fresh one is faster than TCP's
/// patience with the old.
const USER_TIMEOUT: Duration = Duration::from_millis(1500);
/// Between attempts to connect.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(300));
/// How long the next chunk of a snapshot may take to come, or to go.
pub(super) const STALLED: Duration = Duration::from_secs(30);
/// Between pings; a peer that leaves one unanswered for [`USER_TIMEOUT`] is disconnected.
const PING: Duration = Duration::from_millis(500);
/// What a read takes from the socket at a time, at most, and room below which there is to be more.
const READ_BYTES: usize = 64 << 10;
const READ_ROOM: usize = 4 << 10;
/// A buffer for frames on their way out is given back when it is larger.
const OUT_KEPT: usize = 64 << 10;

/// Who this node is to its peers, whom it lets in, and where they are.
pub trait Identity: Send + Sync + 'static {
    /// The greeting for `to`.
    fn hello(&self, to: NodeId, lane: Lane) -> Hello;
    /// Whether whoever says this may come in. The error names what is wrong, for both sides' logs.
    fn admit(&self, hello: &Hello) -> Result<Welcome, String>;
    /// What is said to a node that was removed and does not know it.
    fn dismissal(&self, hello: &Hello) -> Option<Dismissal>;
    /// Somebody says that this node was removed.
    fn dismissed(&self, dismissal: &Dismissal);
    /// Whether whoever answered is the one that was meant.
    fn recognize(&self, to: NodeId, welcome: &Welcome) -> Result<(), String>;
    /// What the data directory was marked with when it was made, and whether it has met its cluster since.
    fn incarnation(&self) -> (u64, bool);
    /// Who this is, for anybody who asks.
    fn introduction(&self) -> Introduction;
    /// Whether a node may be given a copy of a group, or a vote in it: one that was removed may not.
    fn may_be_given(&self, node: NodeId, vote: bool) -> bool;
    /// Where a node listens for peers, `host:port`.
    fn address(&self, node: NodeId) -> Option<String>;
    /// Where a node might be instead, if it does not answer there: what somebody said, another one every turn.
    fn hint(&self, _: NodeId, _turn: usize) -> Option<String> {
        None
    }
    /// A node was greeted at such a place, and is the one that was meant.
    fn found_at(&self, _: NodeId, _: &str) {}
}

/// The request could not be handed over; certainly it did not leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallError {
    NotConnected,
    Full,
}

/// The connection broke (or the peer failed) after the request was handed over: it may have been done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("the connection broke")]
    Connection,
    #[error("the peer failed: {0}")]
    Peer(String),
}

/// An answer under way.
pub struct Answer(oneshot::Receiver<Result<Bytes, Broken>>);

impl Answer {
    /// Waits for the answer. Without a deadline of its own.
    pub async fn wait(self) -> Result<Bytes, Broken> {
        self.0.await.unwrap_or(Err(Broken::Connection))
    }
}

/// One connection to a peer, made again whenever it breaks.
pub struct Link {
    peer: NodeId,
    lane: Lane,
    state: Mutex<LinkState>,
    wake: Notify,
    /// Its peer belongs to the cluster no more.
    given_up: AtomicBool,
}

#[derive(Default)]
struct LinkState {
    up: bool,
    out: BytesMut,
    next_id: u64,
    /// In order, since those who wait for a link that broke are told in order.
    waiting: BTreeMap<u64, oneshot::Sender<Result<Bytes, Broken>>>,
}

impl Link {
    /// Queues a request. Never blocks.
    pub fn call(&self, method: Method, group: GroupId, body: impl FnOnce(&mut BytesMut)) -> Result<Answer, CallError> {
        let (tx, rx) = oneshot::channel();
        let mut state = self.state.lock();
        if !state.up {
            return Err(CallError::NotConnected);
        }
        if state.out.len() > MAX_QUEUED_BYTES {
            return Err(CallError::Full);
        }
        let id = state.next_id;
        state.next_id += 1;
        state.waiting.insert(id, tx);
        wire::put_frame(&mut state.out, Opcode::Request, |out| {
            out.put_u64_le(id);
            out.put_u8(method as u8);
            out.put_u32_le(group.0);
            body(out);
        });
        drop(state);
        self.wake.notify_one();
        Ok(Answer(rx))
    }

    /// Whether the connection stands.
    pub fn up(&self) -> bool {
        self.state.lock().up
    }

    async fn run(self: Arc<Self>, peers: Arc<Peers>) {
        let mut pause = RECONNECT.0;
        let mut last_complaint = String::new();
        let mut failed = 0;
        while !peers.closed() && !self.given_up.load(Ordering::Relaxed) {
            // Every other time where it might be: where it should be stays the first place to look.
            let turn = (failed % 2 == 1).then_some(failed / 2);
            let ended = match env::timeout(CONNECT, connect(&*peers.identity, self.peer, self.lane, turn)).await {
                Ok(Ok(stream)) => {
                    failed = 0;
                    pause = RECONNECT.0;
                    last_complaint.clear();
                    self.state.lock().up = true;
                    if matches!(self.lane, Lane::Raft(_)) {
                        tracing::info!(peer = %self.peer, lane = ?self.lane, "peer-connected");
                        peers.note_turn(self.peer);
                    }
                    let ended = self.carry(stream, &peers).await;
                    let waiting = {
                        let mut state = self.state.lock();
                        state.up = false;
                        state.out = BytesMut::new();
                        std::mem::take(&mut state.waiting)
                    };
                    drop(waiting);
                    if ended.is_err() {
                        peers.note_turn(self.peer);
                    }
                    ended
                }
                Ok(Err(e)) => Err(e),
                Err(_) => Err(io::Error::other("no connection in time")),
            };
            if let Err(e) = ended {
                failed += 1;
                let complaint = e.to_string();
                peers.note_trouble(self.peer, &complaint);
                if complaint != last_complaint {
                    tracing::warn!(peer = %self.peer, lane = ?self.lane, error = %complaint, "peer-unreachable");
                    last_complaint = complaint;
                }
            }
            env::sleep(pause).await;
            pause = (pause * 2).min(RECONNECT.1);
        }
    }

    /// Carries frames both ways until the connection breaks.
    async fn carry(&self, stream: TcpStream, peers: &Arc<Peers>) -> io::Result<()> {
        let (mut rx, mut tx) = stream.into_split();
        let reading = async {
            let mut buffer = BytesMut::with_capacity(READ_BYTES);
            loop {
                while let Some((opcode, payload)) =
                    wire::take_frame(&mut buffer, MAX_FRAME).map_err(io::Error::other)?
                {
                    self.answered(opcode, payload)?;
                }
                make_room(&mut buffer);
                if rx.read_buf(&mut buffer).await? == 0 {
                    return Err(io::Error::other("the peer closed the connection"));
                }
            }
        };
        let writing = async {
            let mut out = BytesMut::new();
            loop {
                std::mem::swap(&mut out, &mut self.state.lock().out);
                if out.is_empty() {
                    self.wake.notified().await;
                    continue;
                }
                peers.bytes_sent.fetch_add(out.len() as u64, Ordering::Relaxed);
                peers.writes.fetch_add(1, Ordering::Relaxed);
                tx.write_all(&out).await?;
                written(&mut out);
            }
        };
        let pinging = async {
            loop {
                let sent = env::now();
                let answer = self.call(Method::Ping, GroupId::META, |_| ());
                let Ok(answer) = answer else {
                    env::sleep(PING).await;
                    continue;
                };
                match env::timeout(USER_TIMEOUT, answer.wait()).await {
                    Ok(Ok(mut bytes)) if bytes.len() >= 8 => {
                        let wall = bytes.get_u64_le() as i64;
                        let half = (sent.elapsed().as_millis() / 2) as i64;
                        peers.note_alive(self.peer, wall + half);
                    }
                    _ => return Err(io::Error::other("the peer does not answer")),
                }
                if peers.closed() {
                    return Err(io::Error::other("closing"));
                }
                env::sleep(PING).await;
            }
        };
        tokio::select! {
            biased;
            ended = reading => ended,
            ended = writing => ended,
            ended = pinging => ended,
        }
    }

    fn answered(&self, opcode: Opcode, payload: Bytes) -> io::Result<()> {
        let answer = wire::answer_of(opcode, payload);
        let (id, answer) = answer.ok_or_else(|| io::Error::other("the peer sent a frame that is no answer"))?;
        let waiting = self.state.lock().waiting.remove(&id);
        if let Some(tx) = waiting {
            let _ = tx.send(answer.map_err(Broken::Peer));
        }
        Ok(())
    }
}

/// What is known of a peer by its beats.
#[derive(Default)]
struct Seen {
    /// None: it never answered.
    beats: Option<Beats>,
    /// Its wall clock in Unix milliseconds, and when it showed that. It goes on by this node's time, not by its wall clock, which
    /// may jump before the peer is heard again.
    wall: Option<(i64, Instant)>,
    /// Why there was no connection lately.
    trouble: Option<String>,
    /// Connections that ended other than by this node's will, and those for appends that were made.
    turns: watch::Sender<u64>,
}

impl Seen {
    fn wall_ms(&self, now: Instant) -> Option<i64> {
        self.wall.map(|(wall, at)| wall + now.saturating_since(at).as_millis() as i64)
    }
}

/// How well a peer is heard.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Hearing {
    /// Since it answered last; none if it never did.
    pub silent: Option<Duration>,
    /// How suspicious that is, as [`Beats::phi`] says.
    pub phi: Option<f64>,
    /// How far its wall clock is ahead of this node's, in milliseconds, as last heard.
    pub wall_offset_ms: Option<i64>,
    /// What the last attempt to connect ended with, if it has not answered since.
    pub trouble: Option<String>,
}

/// All links of a node.
pub struct Peers {
    identity: Arc<dyn Identity>,
    workers: Vec<Handle>,
    links: Mutex<BTreeMap<(NodeId, Lane), Arc<Link>>>,
    seen: Mutex<BTreeMap<NodeId, Seen>>,
    closed: AtomicBool,
    bytes_sent: AtomicU64,
    writes: AtomicU64,
}

impl Peers {
    /// No link is made before somebody asks for it.
    pub fn new(identity: Arc<dyn Identity>, workers: Vec<Handle>) -> Arc<Peers> {
        Arc::new(Peers {
            identity,
            workers,
            links: Mutex::default(),
            seen: Mutex::default(),
            closed: AtomicBool::new(false),
            bytes_sent: AtomicU64::new(0),
            writes: AtomicU64::new(0),
        })
    }

    /// The link to a node for a lane. It may be down.
    pub fn link(self: &Arc<Self>, peer: NodeId, lane: Lane) -> Arc<Link> {
        let mut links = self.links.lock();
        let link = links.entry((peer, lane)).or_insert_with(|| {
            let given_up = AtomicBool::new(false);
            let link = Arc::new(Link { peer, lane, state: Mutex::default(), wake: Notify::new(), given_up });
            let worker = match lane {
                Lane::Raft(w) | Lane::Forward(w) => w as usize % self.workers.len(),
                Lane::Snapshot | Lane::Messages => 0,
            };
            self.workers[worker].spawn(env::timed(link.clone().run(self.clone())));
            link
        });
        link.clone()
    }

    /// As [`Identity::may_be_given`].
    pub(super) fn may_be_given(&self, node: NodeId, vote: bool) -> bool {
        self.identity.may_be_given(node, vote)
    }

    /// Makes no connection to these nodes any more: they belong to the cluster no longer. What stands ends with its peer.
    pub fn give_up(&self, gone: impl Fn(NodeId) -> bool) {
        self.links.lock().retain(|(peer, _), link| {
            let given_up = gone(*peer);
            link.given_up.fetch_or(given_up, Ordering::Relaxed);
            !given_up
        });
    }

    /// A connection of its own, greeted, for a snapshot.
    pub(super) async fn dial(&self, peer: NodeId) -> io::Result<TcpStream> {
        env::timeout(CONNECT, connect(&*self.identity, peer, Lane::Snapshot, None))
            .await
            .map_err(|_| io::Error::other("no connection in time"))?
    }

    pub(super) fn note_alive(&self, peer: NodeId, wall_ms: i64) {
        let (now, mut seen) = (env::now(), self.seen.lock());
        let entry = seen.entry(peer).or_default();
        entry.beats.get_or_insert_with(|| Beats::new(now)).beat(now);
        entry.wall = Some((wall_ms, now));
        entry.trouble = None;
    }

    pub(super) fn note_turn(&self, peer: NodeId) {
        self.seen.lock().entry(peer).or_default().turns.send_modify(|turns| *turns += 1);
    }

    /// Waits until a connection to a peer breaks, on whichever lane, from now on; or one for appends is made, where there
    /// was none to break: whom that peer was to answer before may never hear of it.
    pub(super) async fn turned(&self, peer: NodeId) {
        let mut turns = self.seen.lock().entry(peer).or_default().turns.subscribe();
        // The sender lives as long as the peers do.
        let _ = turns.changed().await;
    }

    fn note_trouble(&self, peer: NodeId, trouble: &str) {
        self.seen.lock().entry(peer).or_default().trouble = Some(trouble.to_owned());
    }

    /// How well a peer is heard.
    pub fn hearing(&self, peer: NodeId) -> Hearing {
        let (now, seen) = (env::now(), self.seen.lock());
        let Some(entry) = seen.get(&peer) else { return Hearing::default() };
        Hearing {
            silent: entry.beats.as_ref().map(|beats| now.saturating_since(beats.last())),
            phi: entry.beats.as_ref().map(|beats| beats.phi(now)),
            wall_offset_ms: entry.wall_ms(now).map(|wall| wall - env::wall_ms() as i64),
            trouble: entry.trouble.clone(),
        }
    }

    /// Time since a peer last answered; none if it never did.
    pub fn last_seen(&self, peer: NodeId) -> Option<Duration> {
        self.seen.lock().get(&peer)?.beats.as_ref().map(|beats| beats.last().elapsed())
    }

    /// What a peer's wall clock should show now, in Unix milliseconds, by what it showed last.
    pub fn wall_ms(&self, peer: NodeId) -> Option<i64> {
        self.seen.lock().get(&peer)?.wall_ms(env::now())
    }

    /// Bytes sent to other nodes since the start.
    pub fn bytes_sent(&self) -> u64 {
        self.bytes_sent.load(Ordering::Relaxed)
    }

    /// Write calls that took: many frames share one.
    pub fn write_calls(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// Lets no link be made again.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    fn closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }
}

/// Connects to a peer and greets it, where it should be or, in some turns, where it might be.
async fn connect(identity: &dyn Identity, peer: NodeId, lane: Lane, turn: Option<usize>) -> io::Result<TcpStream> {
    let Some(hint) = turn.and_then(|turn| identity.hint(peer, turn)) else {
        let address = identity.address(peer).ok_or_else(|| io::Error::other("its address is not known"))?;
        return greet_at(identity, peer, lane, &address).await;
    };
    let stream = greet_at(identity, peer, lane, &hint).await?;
    identity.found_at(peer, &hint);
    Ok(stream)
}

async fn greet_at(identity: &dyn Identity, peer: NodeId, lane: Lane, address: &str) -> io::Result<TcpStream> {
    let mut stream = net::connect(address).await?;
    net::tune_link(&stream, USER_TIMEOUT)?;
    let mut out = BytesMut::new();
    wire::put_frame(&mut out, Opcode::Hello, |out| wire::put(out, &identity.hello(peer, lane)));
    stream.write_all(&out).await?;
    let mut buffer = BytesMut::with_capacity(MAX_GREETING);
    match read_frame(&mut stream, &mut buffer, MAX_GREETING).await? {
        (Opcode::Welcome, payload) => {
            let welcome: Welcome = wire::get(&payload, "a welcome").map_err(io::Error::other)?;
            identity.recognize(peer, &welcome).map_err(io::Error::other)?;
        }
        (Opcode::Dismissal, payload) => {
            identity.dismissed(&wire::get(&payload, "a dismissal").map_err(io::Error::other)?);
            return Err(io::Error::other("refused: this node was removed from the cluster"));
        }
        (Opcode::Refused, text) => {
            return Err(io::Error::other(format!("refused: {}", String::from_utf8_lossy(&text))));
        }
        _ => return Err(io::Error::other("the peer did not greet")),
    }
    if !buffer.is_empty() {
        return Err(io::Error::other("the peer spoke out of turn"));
    }
    Ok(stream)
}

/// Reads until one whole frame is there.
pub(super) async fn read_frame(
    stream: &mut (impl tokio::io::AsyncRead + Unpin),
    buffer: &mut BytesMut,
    max: usize,
) -> io::Result<(Opcode, Bytes)> {
    loop {
        if let Some(frame) = wire::take_frame(buffer, max).map_err(io::Error::other)? {
            return Ok(frame);
        }
        buffer.reserve(HEAD_BYTES);
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Asks whoever listens at an address who that is.
///
/// # Errors
/// When nobody answers in time, or somebody who does not speak this protocol.
pub async fn who_is_there(address: &str) -> io::Result<Introduction> {
    meet(address, |out| wire::put_frame(out, Opcode::WhoIsThere, |_| ())).await
}

/// Tells a node that waits whom it belongs to. Saying it twice does no harm.
///
/// # Errors
/// As [`who_is_there`], and when the node refuses.
pub async fn invite(address: &str, invitation: &Invitation) -> io::Result<Introduction> {
    meet(address, |out| wire::put_frame(out, Opcode::Invitation, |out| wire::put(out, invitation))).await
}

async fn meet(address: &str, say: impl FnOnce(&mut BytesMut)) -> io::Result<Introduction> {
    let meeting = async {
        let mut stream = net::connect(address).await?;
        let (mut out, mut buffer) = (BytesMut::new(), BytesMut::with_capacity(MAX_GREETING));
        say(&mut out);
        stream.write_all(&out).await?;
        match read_frame(&mut stream, &mut buffer, MAX_GREETING).await? {
            (Opcode::Introduction, payload) => wire::introduction(&payload).map_err(io::Error::other),
            (Opcode::Refused, text) => Err(io::Error::other(String::from_utf8_lossy(&text).into_owned())),
            _ => Err(io::Error::other("it did not say who it is")),
        }
    };
    let met = env::timeout(CONNECT, meeting).await;
    met.unwrap_or_else(|_| Err(io::Error::other("no answer in time")))
}

/// Waits on a node's peer port until it is invited, and tells everybody who asks who it is. `accept` has the invitation on
/// disk before it says so.
pub async fn wait_for_invitation(
    listener: &TcpListener,
    me: &Introduction,
    accept: impl Fn(&Invitation) -> Result<(), String>,
) -> Invitation {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            env::sleep(RECONNECT.1).await;
            continue;
        };
        let mut buffer = BytesMut::with_capacity(MAX_GREETING);
        let Ok(Ok((opcode, payload))) = env::timeout(CONNECT, read_frame(&mut stream, &mut buffer, MAX_GREETING)).await
        else {
            continue;
        };
        let invited = match opcode {
            Opcode::WhoIsThere => Ok(None),
            Opcode::Invitation => wire::get::<Invitation>(&payload, "an invitation")
                .map_err(|e| e.to_string())
                .and_then(|invitation| accept(&invitation).map(|()| Some(invitation))),
            _ => Err("this node waits to be added to a cluster".to_owned()),
        };
        let mut out = BytesMut::new();
        match &invited {
            Ok(_) => wire::put_frame(&mut out, Opcode::Introduction, |out| wire::put(out, me)),
            Err(text) => wire::put_frame(&mut out, Opcode::Refused, |out| out.put_slice(text.as_bytes())),
        }
        // Whoever did not hear the answer asks again, and finds the node in its cluster.
        let _ = env::timeout(CONNECT, stream.write_all(&out)).await;
        if let Ok(Some(invitation)) = invited {
            return invitation;
        }
    }
}

/// Answers a greeting on a connection that was accepted; none if it was only the question who this is. An error was told to
/// whoever called.
pub(super) async fn greet(stream: &mut TcpStream, identity: &dyn Identity) -> io::Result<Option<Hello>> {
    net::tune_link(stream, USER_TIMEOUT)?;
    let mut buffer = BytesMut::with_capacity(MAX_GREETING);
    let read = read_frame(stream, &mut buffer, MAX_GREETING).await;
    let answer = match read {
        Ok((Opcode::Hello, payload)) => match wire::get::<Hello>(&payload, "a greeting") {
            Ok(hello) => match (identity.admit(&hello), identity.dismissal(&hello)) {
                (Ok(welcome), _) => Ok((hello, welcome)),
                (Err(text), None) => Err(text),
                (Err(text), Some(dismissal)) => {
                    let mut out = BytesMut::new();
                    wire::put_frame(&mut out, Opcode::Dismissal, |out| wire::put(out, &dismissal));
                    stream.write_all(&out).await?;
                    stream.shutdown().await?;
                    return Err(io::Error::other(text));
                }
            },
            Err(e) => Err(e.to_string()),
        },
        Ok((Opcode::WhoIsThere, _)) => {
            let mut out = BytesMut::new();
            wire::put_frame(&mut out, Opcode::Introduction, |out| wire::put(out, &identity.introduction()));
            stream.write_all(&out).await?;
            return Ok(None);
        }
        Ok((Opcode::Invitation, _)) => Err("this node belongs to a cluster, or is founding one".to_owned()),
        Ok(_) => Err("the first frame must be a greeting".to_owned()),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err(e),
        Err(e) => Err(e.to_string()),
    };
    let mut out = BytesMut::new();
    match answer {
        Ok((hello, welcome)) => {
            wire::put_frame(&mut out, Opcode::Welcome, |out| wire::put(out, &welcome));
            stream.write_all(&out).await?;
            Ok(Some(hello))
        }
        Err(text) => {
            wire::put_frame(&mut out, Opcode::Refused, |out| out.put_slice(text.as_bytes()));
            stream.write_all(&out).await?;
            stream.shutdown().await?;
            Err(io::Error::other(text))
        }
    }
}

/// Makes room for a read. A buffer whose frames are still in use by somebody is not given back, so a new one for each read
/// would cost more than the read.
fn make_room(buffer: &mut BytesMut) {
    if buffer.capacity() - buffer.len() < READ_ROOM {
        buffer.reserve(READ_BYTES);
    }
}

/// What was written is forgotten; its buffer gathers the frames after the next, unless it has become large.
fn written(out: &mut BytesMut) {
    match out.capacity() > OUT_KEPT {
        true => *out = BytesMut::new(),
        false => out.clear(),
    }
}

/// Answers that wait to be written on an accepted connection.
pub(super) struct Answers {
    out: Mutex<BytesMut>,
    wake: Notify,
}

impl Answers {
    fn put(&self, id: u64, answer: Result<BytesMut, String>) {
        let mut out = self.out.lock();
        wire::put_answer(&mut out, id, answer, |out, body| out.put_slice(&body));
        drop(out);
        self.wake.notify_one();
    }
}

/// What becomes of a request.
pub(super) enum Handled<Fut> {
    /// It took no time.
    Now(Result<BytesMut, String>),
    Soon(Fut),
}

/// Serves requests on a greeted connection until it breaks. What takes its time is spawned once a request, in the order in which
/// they arrived, so that the requests of a group start in order.
pub(super) async fn serve<F, Fut>(stream: TcpStream, handle: F) -> io::Result<()>
where
    F: Fn(Method, GroupId, Bytes) -> Handled<Fut>,
    Fut: Future<Output = Result<BytesMut, String>> + Send + 'static,
{
    let (mut rx, mut tx) = stream.into_split();
    let answers = Arc::new(Answers { out: Mutex::new(BytesMut::new()), wake: Notify::new() });
    let reading = async {
        let mut buffer = BytesMut::with_capacity(READ_BYTES);
        loop {
            while let Some((opcode, mut payload)) =
                wire::take_frame(&mut buffer, MAX_FRAME).map_err(io::Error::other)?
            {
                if opcode != Opcode::Request || payload.len() < 13 {
                    return Err(io::Error::other("the peer sent a frame that is no request"));
                }
                let (id, method, group) = (payload.get_u64_le(), payload.get_u8(), GroupId(payload.get_u32_le()));
                let answers = answers.clone();
                match Method::from_u8(method) {
                    Some(method) => match handle(method, group, payload) {
                        Handled::Now(answer) => answers.put(id, answer),
                        Handled::Soon(answer) => {
                            // No `async` block: it would double what is copied when the task is made.
                            tokio::spawn(env::timed(answer.map(move |answer| answers.put(id, answer))));
                        }
                    },
                    None => answers.put(id, Err(format!("method {method} is not known"))),
                }
            }
            make_room(&mut buffer);
            if rx.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
    };
    let writing = async {
        let mut out = BytesMut::new();
        loop {
            std::mem::swap(&mut out, &mut answers.out.lock());
            if out.is_empty() {
                answers.wake.notified().await;
                continue;
            }
            tx.write_all(&out).await?;
            written(&mut out);
        }
    };
    tokio::select! {
        biased;
        ended = reading => ended,
        ended = writing => ended,
    }
}
