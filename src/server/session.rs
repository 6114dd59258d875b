//! One connection: bytes in, commands run in their order, replies out in theirs.
//!
//! A wake-up does all that can be done and ends in one write call: take what finished elsewhere, decode every command
//! that is whole, run what can run now, propose the writes of each group as one run, encode the replies that are next.
//! Then it waits for bytes, for room in the socket, or for a group.
//!
//! Bounds: [`IN_FLIGHT_MAX`] requests; `output_max` bytes of waiting requests, kept replies and unsent output together,
//! plus one command and one reply. Beyond them nothing more is decoded or read, so a client that does not read costs no
//! more than that. A protocol error closes this connection alone, after the replies before it.

mod blocking;
mod ending;
mod pushes;
mod rerouting;
mod transaction;

pub(super) use blocking::{Blocking, Unblock};
pub(super) use rerouting::{After, Everywhere};

use super::clients::{Client, Figures};
use super::counters::{Counters, Ordinal, add};
use super::dispatch::{self, Asker, Request, Route};
use super::guard::{Access, Fate, client_of};
use super::lane::{Kind, Lane, Op, ReadFn, Step, Tried};
use super::merge::Gather;
use super::pubsub::{self, Turn, peers};
use super::ring::{Asked, Ring, State, Ticket};
use super::scan::{Next, Range, Scan};
use super::scripts::{By, Who};
use super::slow::{self, Head};
use super::tracking::Reading;
use super::{Routes, Shared, failover, latency, verify};
use crate::commands::acl::Change;
use crate::commands::node::SlowEntry;
use crate::commands::pubsub::Ask;
use crate::commands::script::ScriptCommand;
use crate::commands::session::{Face, ReplyMode, Session};
use crate::commands::transaction::Transaction;
use crate::commands::{self, Command, Merge, Run};
use crate::env::{self, Instant};
use crate::net::{TcpStream, WriteHalf};
use crate::raft::{Outcome, Permit, Refusal};
use crate::resp::{Args, Decoder, Reply};
use crate::security::{Context, User};
use crate::types::{Author, GroupId, Level};
use bytes::{Buf, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::sync::{mpsc, watch};

/// The subcommand of CLIENT that says whether commands are answered.
const REPLY: &str = "reply";
/// Requests of one connection that may be without an answer.
const IN_FLIGHT_MAX: usize = 4096;
/// Room made for a read: as much as this at first, and twice as much each time a read fills it.
const READ_MIN: usize = 4 << 10;
const READ_MAX: usize = 64 << 10;
/// Room made at once for the rest of a large argument.
const READ_LARGE: usize = 1 << 20;
/// An empty output buffer larger than this is given back.
const OUTPUT_KEEP: usize = 64 << 10;
/// While the node stops, a connection from which nothing comes is closed after this long. One that does send is closed
/// right behind the reply, when its client cannot have sent the next request yet.
const STOP_QUIET: Duration = Duration::from_millis(500);
/// After the last reply, how long and how much is still read and thrown away, so that a reset does not overtake the reply.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_BYTES: usize = 1 << 20;

/// A connection's place among the node's; given back when dropped.
pub(super) struct Seat {
    pub shared: Arc<Shared>,
    pub client: Arc<Client>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.shared.pubsub.forget(&self.client);
        self.shared.forget_tracking(self.client.id());
        self.shared.monitors.forget(self.client.id());
        self.shared.clients.leave(&self.client);
    }
}

/// A connection that was accepted and given to a worker.
pub(super) struct Incoming {
    pub session: Session,
    pub seat: Seat,
    pub counters: Arc<Counters>,
    pub stop: watch::Receiver<bool>,
    /// Held until the session ends.
    pub alive: mpsc::Sender<()>,
}

impl Incoming {
    /// A fresh connection, entered into the node's list.
    pub fn new(
        face: Face,
        (peer, local): (SocketAddr, SocketAddr),
        shared: &Arc<Shared>,
        worker: usize,
        stop: watch::Receiver<bool>,
        alive: mpsc::Sender<()>,
    ) -> Incoming {
        use crate::commands::node::Node;
        let session = Session::new(shared.clients.next_id(), face, peer, local, shared.open_user());
        let client = shared.clients.enter(&session, worker);
        let seat = Seat { shared: shared.clone(), client };
        Incoming { session, seat, counters: shared.workers[worker].clone(), stop, alive }
    }
}

/// What a lane waited for.
enum Came {
    Leave(Level, Result<Permit, Refusal>),
    Tick(Result<(), Refusal>),
    /// The reply to a request that no lane carries.
    Reply(Ticket, Reply),
    /// The request that waited for a turn.
    Waited(u64, blocking::Waited),
}

type Awaited = Pin<Box<dyn Future<Output = (GroupId, Came)> + Send>>;

struct Connection {
    shared: Arc<Shared>,
    client: Arc<Client>,
    counters: Arc<Counters>,
    session: Session,
    transaction: Transaction,
    /// The request that must be answered before another is looked at: what comes behind it depends on it.
    awaits: Option<u64>,
    held: Option<pushes::Held>,
    access: Access,
    routes: Arc<Routes>,
    decoder: Decoder,
    input: BytesMut,
    output: BytesMut,
    ring: Ring,
    lanes: Vec<Lane>,
    awaited: FuturesUnordered<Awaited>,
    /// The last reading of the clock; at most one command old.
    now: Instant,
    last_input: Instant,
    commands: u64,
    last_command: Option<Ordinal>,
    read_size: usize,
    /// A change of users is under way. It is awaited, so that what comes behind it sees it.
    changing: bool,
    /// Decoding stopped for lack of room or because of `postponed`, not of bytes.
    more: bool,
    /// Slots have moved, and what is under way is waited for before the new routes count.
    turning: bool,
    /// A request whose turn has not come; nothing behind it is decoded.
    postponed: Option<Args>,
    /// The client will send nothing more.
    eof: bool,
    stopping: Option<Stopping>,
}

/// The node was told to stop.
#[derive(Clone, Copy)]
struct Stopping {
    at: Instant,
    /// Requests received until then.
    commands: u64,
    /// Some of them were not answered yet.
    owing: bool,
}

/// Serves a connection until either side ends it.
pub(super) async fn serve(mut stream: TcpStream, incoming: Incoming) {
    let Incoming { session, seat, counters, mut stop, alive } = incoming;
    let mut c = Connection::new(session, &seat, counters);
    let (mut reader, writer) = stream.split();
    loop {
        c.turn();
        if c.flush(&writer).is_err() || c.client.is_killed() || c.is_cut_off() || c.went_while_blocked() {
            return;
        }
        c.client.note_unsent(c.output.len());
        if c.is_finished() {
            break;
        }
        if c.can_go_on() {
            // The other connections of this worker get their turn.
            tokio::task::yield_now().await;
            continue;
        }
        let (reads, writes, wake_at) = (c.wants_input(), !c.output.is_empty(), c.wakes_at());
        let stopping = c.stopping.is_some();
        tokio::select! {
            biased;
            () = c.client.called() => {}
            Some((group, came)) = c.awaited.next(), if !c.awaited.is_empty() => c.came(group, came),
            ready = writer.writable(), if writes => if ready.is_err() { return },
            got = reader.read_buf(&mut c.input), if reads => match got {
                Ok(0) => c.eof = true,
                Ok(n) => c.received(n),
                Err(_) => return,
            },
            _ = stop.wait_for(|stop| *stop), if !stopping => c.stop(),
            () = sleep_until(wake_at), if wake_at.is_some() => {}
        }
    }
    drop(c);
    seat.client.close();
    linger(stream).await;
    drop((seat, alive));
}

async fn sleep_until(at: Option<Instant>) {
    if let Some(at) = at {
        env::sleep_until(at).await;
    }
}

/// Closes so that the client gets everything written: says that nothing follows, then waits for it to close.
async fn linger(mut stream: TcpStream) {
    use tokio::io::AsyncWriteExt;
    let rest = async {
        stream.shutdown().await?;
        let (mut scrap, mut left) = (vec![0u8; READ_MIN], LINGER_BYTES);
        while left > 0 {
            match stream.read(&mut scrap).await? {
                0 => break,
                n => left = left.saturating_sub(n),
            }
        }
        io::Result::Ok(())
    };
    let _ = env::timeout(LINGER, rest).await;
}

impl Connection {
    fn new(session: Session, seat: &Seat, counters: Arc<Counters>) -> Connection {
        let shared = seat.shared.clone();
        let now = env::now();
        Connection {
            client: seat.client.clone(),
            counters,
            access: Access::new(shared.cluster.registry(), &session),
            session,
            transaction: Transaction::default(),
            awaits: None,
            held: None,
            routes: shared.routes(),
            decoder: Decoder::new(shared.settings.limits),
            input: BytesMut::new(),
            output: BytesMut::new(),
            ring: Ring::default(),
            lanes: Vec::new(),
            awaited: FuturesUnordered::new(),
            now,
            last_input: now,
            commands: 0,
            last_command: None,
            read_size: READ_MIN,
            changing: false,
            more: false,
            turning: false,
            postponed: None,
            eof: false,
            stopping: None,
            shared,
        }
    }

    // --- a wake-up ---------------------------------------------------------------------------------------------

    /// Everything that can be done without waiting.
    fn turn(&mut self) {
        self.now = env::now();
        self.take_pushes();
        for (group, outcome) in self.client.take_mail() {
            self.run_finished(group, outcome);
        }
        self.follow_user();
        if let Some(how) = self.client.take_unblock() {
            self.unblock(how);
        }
        self.follow_routes();
        self.decode();
        loop {
            let stepped = self.step_lanes();
            let drained = self.drain();
            if !stepped && !drained {
                break;
            }
        }
        if self.held.is_some() {
            self.take_pushes();
        }
        self.note();
    }

    /// New rules count at once. Who was deleted is closed: right now, or behind the reply to its own command that did it.
    fn follow_user(&mut self) {
        if self.access.refresh(self.shared.cluster.registry(), &mut self.session) == Fate::Gone {
            if self.changing {
                self.session.close_after_reply = true;
            } else {
                self.client.kill();
            }
        }
    }

    fn note(&self) {
        self.note_with(0);
    }

    /// The same while a request is run, of so many bytes.
    fn note_with(&self, request: usize) {
        self.client.note(Figures {
            now: self.now,
            commands: self.commands,
            last_command: self.last_command,
            input: self.input.len() + request,
            output: self.output.len(),
            transaction: &self.transaction,
            paused: self.postponed.as_ref().is_some_and(|args| self.held_until(args).is_some()),
        });
    }

    fn received(&mut self, n: usize) {
        add(&self.counters.bytes_in, n as u64);
        self.last_input = env::now();
        let next = self.ring.next_seq();
        self.lanes.iter_mut().for_each(|lane| lane.more_came(next));
        if self.input.len() == self.input.capacity() {
            self.read_size = (self.read_size * 2).min(READ_MAX);
        }
    }

    /// Bytes that this connection makes the node keep, beside the command that is being received.
    fn kept(&self) -> usize {
        self.output.len() + self.ring.held()
    }

    /// Whether nothing more may be decoded at present.
    fn is_full(&self) -> bool {
        self.awaits.is_some()
            || self.turning
            || self.ring.len() >= IN_FLIGHT_MAX
            || self.kept() >= self.shared.settings.output_max
    }

    fn decode(&mut self) {
        self.more = false;
        while !self.session.close_after_reply {
            if self.is_full() {
                self.more = true;
                return;
            }
            let next = match self.postponed.take() {
                Some(args) => Ok(Some(args)),
                None => self.decoder.decode(&mut self.input),
            };
            match next {
                Ok(Some(args)) if !self.has_turn(&args) => {
                    self.postponed = Some(args);
                    self.more = true;
                    return;
                }
                Ok(Some(args)) => self.accept(args),
                Ok(None) => return,
                Err(error) => {
                    let reply = Reply::error(format!("ERR {error}"));
                    self.session.close_after_reply = true;
                    let asked = self.asked(None, &Args::new(), false);
                    self.answer(asked, reply);
                }
            }
        }
    }

    /// Whether a request may begin now.
    fn has_turn(&self, args: &Args) -> bool {
        if self.held_until(args).is_some() {
            return false;
        }
        match pubsub::turn(args) {
            None => true,
            Some(Turn::AfterCommands) => self.lanes.iter().all(Lane::is_free),
            Some(Turn::AfterReplies) => self.ring.is_empty(),
        }
    }

    /// Until when CLIENT PAUSE holds a request, if it does.
    fn held_until(&self, args: &Args) -> Option<Instant> {
        self.shared.held_until(args, &self.transaction, self.now)
    }

    /// Runs what can run in each group. True if a reply came of it.
    fn step_lanes(&mut self) -> bool {
        let mut answered = false;
        for at in 0..self.lanes.len() {
            while self.may_step(at) {
                let next_seq = self.ring.next_seq();
                let lane = &mut self.lanes[at];
                match lane.step(self.now, next_seq) {
                    Step::Nothing => break,
                    Step::Answer(ticket, reply) => {
                        self.count_read(at, ticket, &reply);
                        self.complete(ticket, reply);
                        answered = true;
                    }
                    step => self.begin(at, step),
                }
            }
        }
        answered
    }

    /// The oldest request may always go on, or nothing would ever make room.
    fn may_step(&self, at: usize) -> bool {
        let lane = &self.lanes[at];
        let room = self.kept() < self.shared.settings.output_max;
        lane.can_step() && !self.turning && (room || lane.next_read().is_none_or(|seq| seq == self.ring.base()))
    }

    fn begin(&mut self, at: usize, step: Step) {
        let lane = &self.lanes[at];
        let (id, group) = (lane.id, lane.group.clone());
        match step {
            Step::Propose { calls, deadline } => {
                add(&self.counters.writes, calls.len() as u64);
                let (client, author) = (self.client.clone(), self.author());
                group.propose_by(author, calls, deadline, Box::new(move |outcome| client.deliver(id, outcome)));
            }
            Step::Scripts { calls, deadline } => {
                let client = self.client.clone();
                let done = Box::new(move |outcome| client.deliver(id, outcome));
                let who = Who { by: self.limited(), author: self.author() };
                self.shared.scripts.submit(group, calls, who, deadline, done);
            }
            Step::AskLeave { level, deadline } => self
                .awaited
                .push(Box::pin(async move { (id, Came::Leave(level, group.barrier(level, deadline).await)) })),
            Step::Tick { deadline } => {
                self.awaited.push(Box::pin(async move { (id, Came::Tick(group.tick(deadline).await)) }))
            }
            Step::Nothing | Step::Answer(..) => {}
        }
    }

    /// Moves the replies that are next into the output. True if there were any.
    fn drain(&mut self) -> bool {
        let mut any = false;
        while self.output.len() < self.shared.settings.output_max {
            let Some((asked, reply)) = self.ring.pop_ready() else { break };
            self.encode(&asked, &reply);
            any = true;
        }
        any
    }

    fn encode(&mut self, asked: &Asked, reply: &Reply) {
        if let Reply::Error(text) = reply {
            self.counters.error(text);
        }
        if asked.mute {
            return;
        }
        let before = self.output.len();
        reply.encode(asked.protocol, &mut self.output);
        if asked.ordinal.is_some() {
            self.log(slow::Kind::LargeReply, (self.output.len() - before) as u64, asked);
        }
    }

    fn flush(&mut self, writer: &WriteHalf<'_>) -> io::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        match writer.try_write(&self.output) {
            Ok(n) => {
                add(&self.counters.bytes_out, n as u64);
                self.output.advance(n);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if self.output.is_empty() && self.output.capacity() > OUTPUT_KEEP {
            self.output = BytesMut::new();
        }
        Ok(())
    }

    // --- a request ---------------------------------------------------------------------------------------------

    fn asked(&self, ordinal: Option<Ordinal>, args: &Args, mute: bool) -> Asked {
        Asked { at: self.now, ordinal, head: slow::head(args), protocol: self.session.protocol, mute }
    }

    fn accept(&mut self, args: Args) {
        self.commands += 1;
        add(&self.counters.commands, 1);
        if self.session.tracking.is_some() {
            self.client.note_asked();
        }
        let mute = self.session.mutes();
        let request = match dispatch::find(args) {
            Ok(request) => request,
            Err((reply, command)) => {
                let reply = self.refused_in_transaction(command, reply);
                let asked = self.asked(None, &Args::new(), mute);
                return self.answer(asked, reply);
            }
        };
        self.last_command = Some(request.ordinal);
        if self.transaction.takes(request.command) {
            return self.queue(request, mute);
        }
        let family = request.command.spec.family;
        let (session, access, context) = (&self.session, &self.access, Context::Toplevel);
        let asker = Asker { session, access, context };
        let route = match dispatch::refused(&request, &asker, &self.shared) {
            Some(reply) => Err(reply),
            None => dispatch::route(&request, &self.session, &self.shared, &self.routes),
        };
        if route.is_ok() {
            self.shared.tell_monitors(&self.session, request.command, &request.args);
        }
        match route {
            Ok(Route::Here) => self.run_here(request, mute),
            Ok(Route::One(group)) if matches!(request.command.run, Run::Transaction(_)) => {
                self.run_watch(group, request, mute)
            }
            Ok(Route::One(group)) => self.run_in(group, request, mute),
            Ok(Route::Users(change)) => self.run_change(&request, mute, change),
            Ok(Route::Nodes(ask)) => self.run_on_nodes(ask, &request, mute),
            Ok(Route::Cluster(call)) => self.run_agreed(&request, mute, call),
            Ok(Route::Everywhere(merge)) => self.run_everywhere(request, mute, merge),
            Ok(Route::Split { merge, parts, places }) => self.run_split(&request, mute, merge, parts, places),
            Ok(Route::Scan(ranges)) => self.run_scan(request, mute, &ranges),
            Err(reply) => {
                self.counters.rejected(request.ordinal);
                let reply = self.refused_in_transaction(Some(request.command), reply);
                let asked = self.asked(Some(request.ordinal), &request.args, mute);
                self.answer(asked, reply);
            }
        }
        self.forget_caching(family);
    }

    fn run_here(&mut self, request: Request, mute: bool) {
        if request.command.spec.name == verify::NAME {
            let groups = verify::groups(&request.args, &self.shared);
            return self.run_aside(&request, mute, groups.map(verify::run));
        }
        if request.command.spec.family == "cluster" && request.command.spec.name == "failover" {
            let (me, deadline) = (self.shared.cluster.me_id(), self.deadline());
            let groups = failover::groups(&request.args, self.session.face, &self.shared);
            return self.run_aside(&request, mute, groups.map(|groups| failover::run(groups, me, deadline)));
        }
        if let Run::Script(kind) = request.command.run {
            return self.run_script_command(kind, &request, mute);
        }
        if let Run::Transaction(step) = request.command.run {
            return self.run_step(step, request, mute);
        }
        let was = self.session.reply;
        let reply = self.run_local(request.command, &request.args);
        // Who ends the silence is answered, with CLIENT REPLY ON or RESET; the former behind SKIP, too. HELLO speaks the
        // protocol it chose. Who subscribes is always told so.
        let told = matches!(reply, Reply::Push(_) | Reply::Several(_));
        let ended = was == ReplyMode::Off || request.command.spec.name == REPLY;
        let unmuted = told || ended && self.session.reply == ReplyMode::On;
        let asked = self.asked(Some(request.ordinal), &request.args, mute && !unmuted);
        self.answered(asked, reply);
    }

    /// Runs a command of connection or node.
    fn run_local(&mut self, command: &Command, args: &Args) -> Reply {
        // CLIENT LIST shows the client that asks as running just that.
        self.note_with(wire_bytes(args));
        self.take_pushes();
        let reply = match command.run {
            Run::Session(run) => run(args, &mut self.session),
            Run::Node(run) => run(args, &*self.shared, &mut self.session),
            _ => Reply::error("ERR this command does not run on a connection"),
        };
        self.transaction.ran(command);
        self.access.sync(&self.session);
        self.client.publish(&self.session);
        // What came for a subscription that has just ended stands before its confirmation; for one that has begun, behind.
        if command.spec.name.ends_with("unsubscribe") {
            self.take_pushes();
        }
        reply
    }

    /// A change of users: the cluster makes it, and what the client sent behind it waits.
    fn run_change(&mut self, request: &Request, mute: bool, change: Change) {
        let asked = self.asked(Some(request.ordinal), &request.args, mute);
        let ticket = Ticket { seq: self.ring.push(asked, State::Waiting, 0), part: 0 };
        (self.changing, self.awaits) = (true, Some(ticket.seq));
        let (cluster, deadline) = (self.shared.cluster.clone(), self.deadline());
        let (what, whom) = change.describe();
        let (by, client) = (self.access.user().map(|user| user.name().to_owned()), client_of(&self.session));
        let told = async move {
            let reply = cluster.change_users(change, deadline).await;
            let by = by.unwrap_or_default();
            let done = !reply.is_error();
            tracing::info!(target: "audit", event = what, user = whom, by, done, client);
            (GroupId::META, Came::Reply(ticket, reply))
        };
        self.awaited.push(Box::pin(told));
    }

    /// A parameter of the whole cluster: what the client asks behind it is answered by the new value.
    fn run_agreed(&mut self, request: &Request, mute: bool, call: Args) {
        let asked = self.asked(Some(request.ordinal), &request.args, mute);
        let ticket = Ticket { seq: self.ring.push(asked, State::Waiting, 0), part: 0 };
        self.awaits = Some(ticket.seq);
        let (cluster, deadline) = (self.shared.cluster.clone(), self.deadline());
        let told = async move { (GroupId::META, Came::Reply(ticket, cluster.change_agreed(call, deadline).await)) };
        self.awaited.push(Box::pin(told));
    }

    /// What asks other nodes, while the connection goes on; or the refusal of that.
    fn run_aside<F>(&mut self, request: &Request, mute: bool, work: Result<F, Reply>)
    where
        F: Future<Output = Reply> + Send + 'static,
    {
        let asked = self.asked(Some(request.ordinal), &request.args, mute);
        let work = match work {
            Ok(work) => work,
            Err(reply) => return self.answered(asked, reply),
        };
        let ticket = Ticket { seq: self.ring.push(asked, State::Waiting, 0), part: 0 };
        self.awaited.push(Box::pin(async move { (GroupId::META, Came::Reply(ticket, work.await)) }));
    }

    /// SCRIPT: asks the meta group and the leaders, and the connection goes on meanwhile.
    fn run_script_command(&mut self, kind: ScriptCommand, request: &Request, mute: bool) {
        let asked = self.asked(Some(request.ordinal), &request.args, mute);
        let seq = self.ring.push(asked, State::Waiting, request.args.iter().map(|a| a.len()).sum());
        let ticket = Ticket { seq, part: 0 };
        if kind.changes_functions() {
            self.awaits = Some(seq);
        }
        let scripts = self.shared.scripts.clone();
        scripts.expect(kind, &request.args);
        let (args, deadline) = (request.args.clone(), self.deadline());
        let told = async move { (GroupId::META, Came::Reply(ticket, scripts.administer(kind, args, deadline).await)) };
        self.awaited.push(Box::pin(told));
    }

    /// What concerns the listeners of all nodes. On the cluster face the reply tells of this node's alone, as in Redis
    /// Cluster: such a client asks every node and adds up.
    fn run_on_nodes(&mut self, ask: Ask, request: &Request, mute: bool) {
        let asked = self.asked(Some(request.ordinal), &request.args, mute);
        if self.session.face == Face::Cluster {
            if let Ask::Publish(..) = ask {
                peers::tell(&self.shared, std::slice::from_ref(&request.args));
            }
            let own = ask.part(&*self.shared);
            return self.answered(asked, ask.join(vec![own]));
        }
        let under_way = peers::ask(&self.shared, ask, &request.args);
        if under_way.is_answered() {
            return self.answered(asked, under_way.own_reply());
        }
        let ticket = Ticket { seq: self.ring.push(asked, State::Waiting, 0), part: 0 };
        self.awaited.push(Box::pin(async move { (GroupId::META, Came::Reply(ticket, under_way.reply().await)) }));
    }

    /// The connection, as what it changes is told of, if it does not want to hear of that.
    fn author(&self) -> Option<Author> {
        self.shared.author(self.session.id, self.session.tracking.as_deref())
    }

    /// Who runs a script, unless it is somebody who may do everything.
    fn limited(&self) -> Option<By> {
        if self.access.is_unlimited() {
            return None;
        }
        let nobody = User::new("", 0);
        let user = self.access.user().map_or(&nobody, |user| user);
        Some(By::new(user, client_of(&self.session)))
    }

    fn kind(&self, request: &Request) -> Kind {
        match request.command.run {
            Run::Read(run) => Kind::Read {
                run,
                level: dispatch::level(request, &self.session, &self.shared),
                // TOUCH says by its name what it is for.
                quiet: self.session.no_touch && request.command.spec.name != "touch",
            },
            Run::Script(_) => Kind::Script,
            _ => Kind::Write,
        }
    }

    /// What a read notes before it is run, if the client keeps what it reads. `args`: the read's, or a part of them.
    fn reading(&self, request: &Request, args: &Args) -> Option<Box<Reading>> {
        self.reading_of(request.command, args)
    }

    fn reading_of(&self, command: &Command, args: &Args) -> Option<Box<Reading>> {
        let tracking = self.session.tracking.as_ref()?;
        if !command.is_read() || !tracking.remembers() {
            return None;
        }
        let keys = commands::keys(command, args).cloned().collect();
        Reading::new(&self.shared, &self.client, keys)
    }

    /// CLIENT CACHING is about the next command, and no command about connections is that.
    fn forget_caching(&mut self, family: &'static str) {
        if let Some(tracking) = &mut self.session.tracking
            && family != "connection"
        {
            tracking.caching = false;
        }
    }

    fn deadline(&self) -> Instant {
        self.now + self.shared.live.request_timeout()
    }

    /// The place of a group's lane in `lanes`; there are never more than groups in the table.
    fn lane(&mut self, id: GroupId) -> Option<usize> {
        if let Some(at) = self.lanes.iter().position(|lane| lane.id == id) {
            return Some(at);
        }
        let group = self.shared.cluster.host().group(id)?;
        self.lanes.push(Lane::new(id, group));
        Some(self.lanes.len() - 1)
    }

    /// The hot path: a read with leave is run and encoded here and now.
    fn run_in(&mut self, group: GroupId, request: Request, mute: bool) {
        if let Some(blocks) = &request.command.blocks
            && let Some(ms) = (blocks.timeout)(&request.args)
        {
            return self.run_blocking(group, request, ms, mute);
        }
        let mut asked = self.asked(Some(request.ordinal), &Args::new(), mute);
        let kind = self.kind(&request);
        let Some(at) = self.lane(group) else { return self.answer(asked, unserved(group)) };
        let seq = self.ring.next_seq();
        let reading = self.reading(&request, &request.args);
        let lane = &mut self.lanes[at];
        if let Kind::Read { run, level, quiet } = kind
            && lane.is_free()
            && let Tried::Answer(reply) = lane.try_read(run, &request.args, level, seq, reading.as_deref(), quiet)
        {
            self.counters.read(level, lane.leads(), &reply);
            asked.head = Head::from(request.args);
            return self.answered(asked, reply);
        }
        asked.head = slow::head(&request.args);
        let deadline = self.deadline();
        let weight = request.args.iter().map(|a| a.len()).sum();
        let seq = self.ring.push(asked, State::Waiting, weight);
        self.lanes[at].push(Op { ticket: Ticket { seq, part: 0 }, args: request.args, kind, deadline, reading });
    }

    fn run_split(
        &mut self,
        request: &Request,
        mute: bool,
        merge: Merge,
        parts: Vec<(GroupId, Args)>,
        places: Vec<Vec<usize>>,
    ) {
        let asked = self.asked(Some(request.ordinal), &request.args, mute);
        let (kind, deadline) = (self.kind(request), self.deadline());
        let mut gather = Gather::new(merge, request.command.is_write(), parts.len(), places);
        if parts.is_empty() {
            return self.answer(asked, gather.finish());
        }
        let weight = request.args.iter().map(|a| a.len()).sum();
        let seq = self.ring.push(asked, State::Gathering(Box::new(gather)), weight);
        for (part, (group, args)) in parts.into_iter().enumerate() {
            let ticket = Ticket { seq, part: part as u32 };
            let reading = self.reading(request, &args);
            match self.lane(group) {
                Some(at) => self.lanes[at].push(Op { ticket, args, kind, deadline, reading }),
                None => self.complete(ticket, unserved(group)),
            }
        }
    }

    fn run_everywhere(&mut self, request: Request, mute: bool, merge: Merge) {
        let asked = self.asked(Some(request.ordinal), &request.args, mute);
        let (kind, deadline, routes) = (self.kind(&request), self.deadline(), self.routes.clone());
        let groups = dispatch::visible(&self.session, &self.shared, &routes);
        let (writes, weight) = (request.command.is_write(), request.args.iter().map(|a| a.len()).sum());
        if groups.is_empty() {
            return self.answer(asked, Gather::new(merge, writes, 0, Vec::new()).finish());
        }
        let mut parts = Everywhere::new(merge, writes, request.args, kind, deadline);
        let begun = parts.begin(self.ring.next_seq(), &groups, routes.table.epoch);
        let seq = self.ring.push(asked, State::Everywhere(Box::new(parts)), weight);
        if writes {
            self.awaits = Some(seq);
        }
        self.put_parts(begun);
    }

    fn put_parts(&mut self, parts: Vec<(GroupId, Op)>) {
        for (group, op) in parts {
            match self.lane(group) {
                Some(at) => self.lanes[at].push(op),
                None => self.complete(op.ticket, unserved(group)),
            }
        }
    }

    fn run_scan(&mut self, request: Request, mute: bool, ranges: &[Range]) {
        let asked = self.asked(Some(request.ordinal), &request.args, mute);
        let Kind::Read { run, level, .. } = self.kind(&request) else {
            return self.answer(asked, Reply::error("ERR only a read can go through all groups"));
        };
        let (deadline, named) = (self.deadline(), self.routes.only.is_none());
        let Some(scan) = Scan::new(request.args, run, level, deadline, ranges, named) else {
            let end = Reply::Array(vec![Reply::bulk("0"), Reply::Array(Vec::new())]);
            return self.answer(asked, end);
        };
        let group = scan.group();
        let op = scan_op(&scan, self.ring.next_seq());
        let seq = self.ring.push(asked, State::Scanning(Box::new(scan)), 0);
        match self.lane(group) {
            Some(at) => self.lanes[at].push(op),
            None => self.complete(Ticket { seq, part: 0 }, unserved(group)),
        }
    }

    // --- a reply -----------------------------------------------------------------------------------------------

    /// A request was answered without running anything.
    fn answer(&mut self, asked: Asked, reply: Reply) {
        if self.ring.is_empty() {
            self.encode(&asked, &reply);
            self.ring.skip();
        } else {
            let seq = self.ring.push(asked, State::Waiting, 0);
            self.ring.ready(seq, reply);
        }
    }

    /// A request was run and answered on the spot.
    fn answered(&mut self, asked: Asked, reply: Reply) {
        self.now = env::now();
        self.finish(&asked, &reply);
        self.answer(asked, reply);
    }

    /// Counts an answered request and notes it if it was slow.
    fn finish(&self, asked: &Asked, reply: &Reply) {
        let Some(ordinal) = asked.ordinal else { return };
        let took = self.now - asked.at;
        self.counters.called(ordinal, took, reply.is_error());
        self.log(slow::Kind::Slow, took.as_micros() as u64, asked);
        self.log(slow::Kind::LargeRequest, asked.head.bytes() as u64, asked);
        let ms = took.as_millis() as u64;
        if self.shared.live.latency_threshold_ms().is_some_and(|limit| ms >= limit) {
            let event = if super::counters::is_fast(ordinal) { latency::FAST_COMMAND } else { latency::COMMAND };
            self.shared.latency.keep(event, env::wall_ms() / 1000, ms);
        }
    }

    /// Keeps a command in a log if its measure reaches what the log is kept from.
    fn log(&self, kind: slow::Kind, measure: u64, asked: &Asked) {
        if self.shared.live.log_from(kind).is_none_or(|from| measure < from) {
            return;
        }
        let entry = SlowEntry {
            id: 0,
            unix_s: env::wall_ms() / 1000,
            measure,
            args: Vec::new(),
            peer: self.session.peer.to_string(),
            client_name: self.session.name.clone(),
        };
        self.shared.slow.push(kind, &asked.head, entry, self.shared.live.log_max(kind));
    }

    fn count_read(&mut self, at: usize, ticket: Ticket, reply: &Reply) {
        // A refusal is no read that was answered.
        let refused = matches!(reply, Reply::Error(_)) || self.lanes[at].id == GroupId::META;
        let Some(slot) = self.ring.get(ticket.seq).filter(|_| !refused) else { return };
        let level = match &slot.state {
            State::Scanning(scan) => scan.level,
            _ => self.lanes[at].level().unwrap_or_default(),
        };
        self.counters.read(level, self.lanes[at].leads(), reply);
    }

    /// A command, a part or a page came out of a group.
    fn complete(&mut self, ticket: Ticket, reply: Reply) {
        let Some(slot) = self.ring.get(ticket.seq) else { return };
        let whole = match &mut slot.state {
            State::Waiting => Some(reply),
            State::Ready(_) => None,
            State::Blocking(_) => return self.blocking_tried(ticket.seq, reply),
            State::Watching(_) | State::Executing(_) | State::Administering(_) => {
                return self.finish_transaction(ticket.seq, reply);
            }
            State::Gathering(gather) => gather.put(ticket.part, reply).then(|| gather.finish()),
            State::Everywhere(parts) => {
                let groups = || dispatch::visible(&self.session, &self.shared, &self.shared.routes());
                let host = self.shared.cluster.host();
                let takes_part = |group| host.group(group).is_some_and(|g| g.peek(|keys| keys.ownership().guards()));
                let moved = || groups().into_iter().any(|(_, group)| takes_part(group));
                match parts.put(ticket.part, reply, moved, self.now) {
                    After::Nothing => return,
                    After::Confirm => {
                        let op = parts.confirm(ticket.seq);
                        return self.put_parts(vec![(GroupId::META, op)]);
                    }
                    After::Anew(epoch) => {
                        let groups = groups();
                        if !groups.is_empty() {
                            let begun = parts.begin(ticket.seq, &groups, epoch);
                            return self.put_parts(begun);
                        }
                        // At the cluster face nothing of it is led here any more: nobody would ever answer.
                        self.awaits = self.awaits.filter(|awaited| *awaited != ticket.seq);
                        Some(parts.unconfirmed())
                    }
                    After::Answer(reply) => {
                        self.awaits = self.awaits.filter(|awaited| *awaited != ticket.seq);
                        Some(reply)
                    }
                }
            }
            State::Scanning(scan) => match scan.page(reply) {
                Next::Answer(reply) => Some(reply),
                Next::Visit(group) => {
                    let op = scan_op(scan, ticket.seq);
                    return self.next_page(group, op);
                }
            },
        };
        let Some(reply) = whole else { return };
        let asked = slot.asked.clone();
        self.finish(&asked, &reply);
        self.ring.ready(ticket.seq, reply);
    }

    fn next_page(&mut self, group: GroupId, op: Op) {
        match self.lane(group) {
            Some(at) => self.lanes[at].push_first(op),
            None => self.ring.ready(op.ticket.seq, unserved(group)),
        }
    }

    fn run_finished(&mut self, group: GroupId, outcome: Outcome) {
        let Some(at) = self.lanes.iter().position(|lane| lane.id == group) else { return };
        if let Outcome::Elsewhere { index, replies, calls } = outcome {
            let held: Vec<u32> = calls.iter().map(|call| call.place).collect();
            let tickets = self.lanes[at].run_came_back(index, calls, env::now());
            let answered = (0u32..).zip(tickets.into_iter().zip(replies)).filter(|(at, _)| !held.contains(at));
            return answered.for_each(|(_, (ticket, reply))| self.complete(ticket, reply));
        }
        let tickets = self.lanes[at].run_finished();
        match outcome {
            Outcome::Applied { replies, .. } if replies.len() == tickets.len() => {
                tickets.into_iter().zip(replies).for_each(|(ticket, reply)| self.complete(ticket, reply));
            }
            other => {
                let unknown = Outcome::Unknown { index: None };
                // Replies that cannot be told apart say nothing about any one call.
                let failed = if matches!(other, Outcome::Applied { .. }) { &unknown } else { &other };
                tickets.into_iter().for_each(|ticket| self.complete(ticket, failed.failure_reply()));
            }
        }
    }

    fn came(&mut self, group: GroupId, came: Came) {
        let came = match came {
            Came::Reply(ticket, reply) => {
                self.now = env::now();
                if self.awaits == Some(ticket.seq) {
                    if self.changing {
                        self.follow_user();
                    }
                    (self.changing, self.awaits) = (false, None);
                }
                return self.complete(ticket, reply);
            }
            Came::Waited(seq, waited) => {
                self.now = env::now();
                return self.waited(seq, waited);
            }
            came => came,
        };
        let Some(lane) = self.lanes.iter_mut().find(|lane| lane.id == group) else { return };
        self.now = env::now();
        let refused = match came {
            Came::Leave(level, came) => lane.leave_came(level, came),
            Came::Tick(came) => lane.tick_came(came).into_iter().collect(),
            Came::Reply(..) | Came::Waited(..) => Vec::new(),
        };
        refused.into_iter().for_each(|(ticket, reply)| self.complete(ticket, reply));
    }
}

/// Bytes of a request as it is usually sent.
fn wire_bytes(args: &Args) -> usize {
    let header = |n: usize| n.checked_ilog10().unwrap_or(0) as usize + "*0\r\n".len();
    header(args.len()) + args.iter().map(|arg| header(arg.len()) + arg.len() + "\r\n".len()).sum::<usize>()
}

fn scan_op(scan: &Scan, seq: u64) -> Op {
    let kind = Kind::Read { run: scan.run as ReadFn, level: scan.level, quiet: false };
    Op { ticket: Ticket { seq, part: 0 }, args: scan.args.clone(), kind, deadline: scan.deadline, reading: None }
}

fn unserved(group: GroupId) -> Reply {
    Reply::error(format!("CLUSTERDOWN group {group} cannot be reached from this node; the command was not applied"))
}
