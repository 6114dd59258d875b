//! One connection: bytes in, commands run in their order, replies out in theirs.
//!
//! A wake-up does all that can be done and ends in one write call: take what finished elsewhere, decode every command
//! that is whole, run what can run now, propose the writes of each group as one run, encode the replies that are next.
//! Then it waits for bytes, for room in the socket, or for a group.
//!
//! ```text
//! received -> decode -> accept -> run_in -> step_lanes -> begin     most requests: one group's lane (`lane.rs`)
//!                         |                                |
//!                         |                              group
//!                         v                                v
//!       aside, spread, transaction, blocking     run_finished, came -> complete -> drain -> flush
//! ```
//!
//! Bounds: [`IN_FLIGHT_MAX`] requests; `output_max` bytes of waiting requests, kept replies and unsent output together,
//! plus one command and one reply. Beyond them nothing more is decoded or read, so a client that does not read costs no
//! more than that. A protocol error closes this connection alone, after the replies before it.

mod aside;
mod blocking;
mod counting;
mod ending;
mod pushes;
mod rerouting;
mod spread;
mod transaction;

pub(super) use blocking::{Blocking, Unblock};
pub(super) use spread::Everywhere;

use ending::{Stopping, linger};

use super::clients::{Client, Figures};
use super::counters::{Counters, Ordinal, add};
use super::dispatch::{self, Asker, Request, Route};
use super::guard::{Access, Fate, client_of};
use super::lane::{Kind, Lane, Op, Step, Tried};
use super::ring::{Asked, Ring, State, Ticket};
use super::scripts::{By, Who};
use super::slow;
use super::{Routes, Shared};
use crate::commands::Run;
use crate::commands::session::{Face, Session};
use crate::commands::transaction::Transaction;
use crate::env::{self, Instant};
use crate::net::{TcpStream, WriteHalf};
use crate::raft::{Outcome, Permit, Refusal};
use crate::resp::{Args, Decoder, Reply};
use crate::security::{Context, User};
use crate::types::{Author, GroupId, Level};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use tokio::io::AsyncReadExt;
use tokio::sync::{mpsc, watch};

/// Requests of one connection that may be without an answer.
const IN_FLIGHT_MAX: usize = 4096;
/// Room made for a read: as much as this at first, and twice as much each time a read fills it.
const READ_MIN: usize = 4 << 10;
const READ_MAX: usize = 64 << 10;
/// Room made at once for the rest of a large argument.
const READ_LARGE: usize = 1 << 20;
/// Bytes of replies that one turn makes, or one reply: the other connections of the worker wait for it, and so does the
/// group's own work.
const TURN_OUTPUT: usize = 1 << 20;
/// An empty output buffer larger than this is given back.
const OUTPUT_KEEP: usize = 64 << 10;
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
    /// The length of the output at which this turn ends.
    turn_ends: usize,
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
    /// Decoding stopped for lack of room, at the turn's end or because of `postponed`, not of bytes.
    more: bool,
    /// Slots have moved, and what is under way is waited for before the new routes count.
    turning: bool,
    /// A request whose turn has not come; nothing behind it is decoded.
    postponed: Option<Args>,
    /// The client will send nothing more.
    eof: bool,
    stopping: Option<Stopping>,
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
            turn_ends: TURN_OUTPUT,
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

    // --- a wake-up -------------------------------------------------------------------------------------------------------

    /// Everything that can be done without waiting.
    fn turn(&mut self) {
        self.now = env::now();
        self.turn_ends = (self.output.len() + TURN_OUTPUT).min(self.shared.settings.output_max);
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
        let most = self.kept() + TURN_OUTPUT;
        loop {
            let stepped = self.step_lanes(most);
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
            input: self.decoder.unread(&self.input) + request,
            output: self.output.len(),
            transaction: &self.transaction,
            paused: self.postponed.as_ref().is_some_and(|args| self.held_until(args).is_some()),
        });
    }

    // --- bytes become requests -------------------------------------------------------------------------------------------

    fn received(&mut self, n: usize) {
        add(&self.counters.bytes_in, n as u64);
        self.last_input = env::now();
        let next = self.ring.next_seq();
        self.lanes.iter_mut().for_each(|lane| lane.more_came(next));
        if self.input.len() == self.input.capacity() {
            self.read_size = (self.read_size * 2).min(READ_MAX);
        }
    }

    fn decode(&mut self) {
        self.more = false;
        while !self.session.close_after_reply {
            if self.is_full() || self.output.len() >= self.turn_ends {
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

    fn accept(&mut self, args: Args) {
        self.commands += 1;
        add(&self.counters.commands, 1);
        if self.session.tracking.is_some() {
            self.client.note_asked();
        }
        let mute = self.session.mutes();
        let request = match dispatch::find(args, self.last_command) {
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

    // --- a request goes into its group's lane ----------------------------------------------------------------------------

    /// The hot path: a read with leave is run and encoded here and now, unless others come behind it: these are looked up together.
    fn run_in(&mut self, group: GroupId, request: Request, mute: bool) {
        if let Some(blocks) = &request.command.blocks
            && let Some(ms) = (blocks.timeout)(&request.args)
        {
            return self.run_blocking(group, request, ms, mute);
        }
        let kind = self.kind(&request);
        let asked = self.asked(Some(request.ordinal), &request.args, mute);
        let Some(at) = self.lane(group) else { return self.answer(asked, unserved(group)) };
        let seq = self.ring.next_seq();
        let reading = self.reading(request.command, &request.args);
        let lane = &mut self.lanes[at];
        if let Kind::Read { run, level, quiet } = kind
            && lane.is_free()
            && self.decoder.unread(&self.input) == 0
            && let Tried::Answer(reply) = lane.try_read(run, &request.args, level, seq, reading.as_deref(), quiet)
        {
            self.counters.read(level, lane.leads(), &reply);
            return self.answered(asked, reply);
        }
        let deadline = self.deadline();
        let seq = self.ring.push(asked, State::Waiting, weight(&request.args));
        self.lanes[at].push(Op { ticket: Ticket { seq, part: 0 }, args: request.args, kind, deadline, reading });
    }

    fn asked(&self, ordinal: Option<Ordinal>, args: &Args, mute: bool) -> Asked {
        Asked { at: self.now, ordinal, args: args.clone(), protocol: self.session.protocol, mute }
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

    /// Puts an operation at the end of its group's lane.
    fn put_in_lane(&mut self, group: GroupId, op: Op) {
        match self.lane(group) {
            Some(at) => self.lanes[at].push(op),
            None => self.complete(op.ticket, unserved(group)),
        }
    }

    // --- a lane's requests go to its group -------------------------------------------------------------------------------

    /// Runs what can run in each group, until so many bytes are kept. True if a reply came of it.
    fn step_lanes(&mut self, most: usize) -> bool {
        let mut answered = false;
        for at in 0..self.lanes.len() {
            while self.kept() < most && self.may_step(at) {
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

    // --- what comes back becomes replies ---------------------------------------------------------------------------------

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
            State::Everywhere(_) => return self.part_came(ticket, reply),
            State::Scanning(_) => return self.page_came(ticket, reply),
        };
        if let Some(reply) = whole {
            self.conclude(ticket.seq, reply);
        }
    }

    /// The reply of a whole request is there.
    fn conclude(&mut self, seq: u64, reply: Reply) {
        let Some(slot) = self.ring.look_at(seq) else { return };
        self.finish(&slot.asked, &reply);
        self.ring.ready(seq, reply);
    }

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

    // --- replies become bytes --------------------------------------------------------------------------------------------

    /// Moves the replies that are next into the output. True if there were any.
    fn drain(&mut self) -> bool {
        let mut any = false;
        while self.output.len() < self.turn_ends {
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
}

/// What arguments take while they wait, in bytes.
fn weight(args: &Args) -> usize {
    args.iter().map(Bytes::len).sum()
}

fn unserved(group: GroupId) -> Reply {
    Reply::error(format!("CLUSTERDOWN group {group} cannot be reached from this node; the command was not applied"))
}
