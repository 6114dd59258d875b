//! The connections of this node as other connections may see them: CLIENT LIST, CLIENT KILL, and the way in which
//! what finishes on other threads reaches a session.
//!
//! Pushes are output that belongs to no request: messages of subscriptions, invalidations of cached keys. They wait in
//! the client's mailbox until the session's next turn, and of a client that keeps what it reads until the replies they may
//! be about are written. What waits there and what the socket has not taken yet is bounded
//! together by a [`PushLimit`]: a connection that is past it is closed, and the mailbox emptied at once.
//!
//! A session owns its [`Client`] together with the registry; it writes the figures, everybody may read them. Nothing
//! here waits. The registry's lock is taken when a connection comes, goes, or changes its name, never per command.

use super::counters::{self, Ordinal};
use super::session::Unblock;
use crate::commands::node::ClientRow;
use crate::commands::session::Session;
use crate::commands::transaction::Transaction;
use crate::env::{self, Instant};
use crate::raft::Outcome;
use crate::resp::Protocol;
use crate::types::GroupId;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::AcqRel, Ordering::Relaxed, Ordering::Release};
use std::time::Duration;
use tokio::sync::Notify;

/// How much may wait for a client that is slow to take its pushes (`client-output-buffer-limit pubsub`). Zero: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PushLimit {
    /// Bytes at which the connection is closed.
    pub hard: u64,
    /// Bytes at which it is closed if that lasts.
    pub soft: u64,
    /// How long it may last.
    pub lasting: Duration,
}

impl Default for PushLimit {
    fn default() -> PushLimit {
        PushLimit { hard: 32 << 20, soft: 8 << 20, lasting: Duration::from_secs(60) }
    }
}

/// What waits for the session to take it.
#[derive(Default)]
struct Mailbox {
    pushes: Vec<Bytes>,
    bytes: u64,
    /// Since when more has waited than the soft limit.
    slow_since: Option<Instant>,
}

/// One connection.
pub struct Client {
    id: u64,
    born: Instant,
    /// As it was after the last command that could change it.
    session: Mutex<Session>,
    /// Nanoseconds since `born`, in steps of a wake-up.
    last_ns: AtomicU64,
    commands: AtomicU64,
    last_command: AtomicU32,
    input: AtomicU64,
    output: AtomicU64,
    /// One more than the commands that are queued after MULTI; 0 without.
    queued: AtomicU64,
    queued_bytes: AtomicU64,
    watching: AtomicU64,
    mail: Mutex<Vec<(GroupId, Outcome)>>,
    killed: AtomicBool,
    /// Nothing more is written to it.
    closed: AtomicBool,
    /// It waits for something to take.
    blocked: AtomicBool,
    /// A request of it waits for the end of CLIENT PAUSE.
    paused: AtomicBool,
    unblock: Mutex<Option<Unblock>>,
    wake: Notify,
    /// The worker on which the session runs.
    pub(super) worker: usize,
    mailbox: Mutex<Mailbox>,
    has_pushes: AtomicBool,
    /// It has asked for something since it was last told that all it keeps is void.
    asked: AtomicBool,
}

impl Client {
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// It is about to be answered something that it may keep. Must be called before that is looked up.
    pub(super) fn note_asked(&self) {
        self.asked.store(true, Release);
    }

    /// Whether it may keep anything that it was not told is void; it is told now.
    pub(super) fn take_asked(&self) -> bool {
        self.asked.swap(false, AcqRel)
    }

    /// How it is spoken to, as of its last command that could change that.
    pub(super) fn protocol(&self) -> Protocol {
        self.session.lock().protocol
    }

    /// Whether it has subscribed to anything.
    pub(super) fn listens(&self) -> bool {
        self.session.lock().subscriptions.any()
    }

    /// Puts a push down, or closes the connection if too much waits for it already. Whether the session is to be woken.
    pub(super) fn push(&self, bytes: Bytes, limit: &PushLimit) -> bool {
        let mut mailbox = self.mailbox.lock();
        if self.is_killed() {
            return false;
        }
        mailbox.bytes += bytes.len() as u64;
        mailbox.pushes.push(bytes);
        let waiting = mailbox.bytes + self.output.load(Relaxed);
        if mailbox.is_over(waiting, limit) {
            *mailbox = Mailbox::default();
            self.killed.store(true, Relaxed);
            tracing::info!(client = self.id, waiting, "client-too-slow: it does not read what it listens to");
            return true;
        }
        !self.has_pushes.swap(true, Relaxed)
    }

    /// Pushes that wait.
    pub(super) fn pushes(&self) -> usize {
        if !self.has_pushes.load(Relaxed) {
            return 0;
        }
        self.mailbox.lock().pushes.len()
    }

    /// Takes the pushes that wait.
    pub(super) fn take_pushes(&self) -> Vec<Bytes> {
        let mut mailbox = self.mailbox.lock();
        self.has_pushes.store(false, Relaxed);
        mailbox.bytes = 0;
        std::mem::take(&mut mailbox.pushes)
    }

    /// Takes the oldest pushes. Nobody wakes the session for those that are left: it must come back for them.
    pub(super) fn take_oldest_pushes(&self, count: usize) -> Vec<Bytes> {
        let mut mailbox = self.mailbox.lock();
        let count = count.min(mailbox.pushes.len());
        let oldest: Vec<Bytes> = mailbox.pushes.drain(..count).collect();
        mailbox.bytes -= oldest.iter().map(|push| push.len() as u64).sum::<u64>();
        self.has_pushes.store(!mailbox.pushes.is_empty(), Relaxed);
        oldest
    }

    /// Notes what the socket has not taken.
    pub(super) fn note_unsent(&self, bytes: usize) {
        self.output.store(bytes as u64, Relaxed);
    }

    pub(super) fn call(&self) {
        self.wake.notify_one();
    }

    /// Puts down how a run of writes ended. Any thread; wakes the session once for all that is there.
    pub(super) fn deliver(&self, group: GroupId, outcome: Outcome) {
        let first = {
            let mut mail = self.mail.lock();
            mail.push((group, outcome));
            mail.len() == 1
        };
        if first {
            self.wake.notify_one();
        }
    }

    /// Takes what was delivered. A session has one run under way for each group, so it is no more than that.
    pub(super) fn take_mail(&self) -> Vec<(GroupId, Outcome)> {
        std::mem::take(&mut *self.mail.lock())
    }

    /// Resolves when something was delivered or the connection is to be closed.
    pub(super) async fn called(&self) {
        self.wake.notified().await
    }

    /// Ends the connection at its next turn.
    pub(super) fn kill(&self) {
        self.killed.store(true, Relaxed);
    }

    pub(super) fn is_killed(&self) -> bool {
        self.killed.load(Relaxed)
    }

    /// Its session is over, though its socket may be open for a moment.
    pub(super) fn close(&self) {
        self.closed.store(true, Relaxed);
    }

    /// Whether what is pushed to it would be written.
    pub(super) fn is_open(&self) -> bool {
        !self.closed.load(Relaxed) && !self.is_killed()
    }

    /// It begins to wait for something to take.
    pub(super) fn block(&self) {
        if !self.blocked.swap(true, Relaxed) {
            *self.unblock.lock() = None;
        }
    }

    pub(super) fn unblocked(&self) {
        self.blocked.store(false, Relaxed);
    }

    /// What CLIENT UNBLOCK asked for since the last call.
    pub(super) fn take_unblock(&self) -> Option<Unblock> {
        match self.blocked.load(Relaxed) {
            true => self.unblock.lock().take(),
            false => None,
        }
    }

    /// Notes a wake-up's figures.
    pub(super) fn note(&self, figures: Figures<'_>) {
        self.last_ns.store((figures.now - self.born).as_nanos() as u64, Relaxed);
        self.commands.store(figures.commands, Relaxed);
        if let Some(last) = figures.last_command {
            self.last_command.store(last.to_u32(), Relaxed);
        }
        self.input.store(figures.input as u64, Relaxed);
        self.output.store(figures.output as u64, Relaxed);
        self.paused.store(figures.paused, Relaxed);
        let transaction = figures.transaction;
        self.queued.store(transaction.queued().map_or(0, |queued| queued as u64 + 1), Relaxed);
        self.queued_bytes.store(transaction.queued_bytes() as u64, Relaxed);
        self.watching.store(transaction.watching().len() as u64, Relaxed);
    }

    pub(super) fn publish(&self, session: &Session) {
        self.session.lock().clone_from(session);
    }

    fn row(&self) -> ClientRow {
        let age = self.born.elapsed();
        let last = std::time::Duration::from_nanos(self.last_ns.load(Relaxed));
        ClientRow {
            session: self.session.lock().clone(),
            age_s: age.as_secs(),
            idle_s: age.saturating_sub(last).as_secs(),
            commands: self.commands.load(Relaxed),
            last_command: Ordinal::from_u32(self.last_command.load(Relaxed)).map_or("NULL", counters::name).to_owned(),
            input_bytes: self.input.load(Relaxed),
            output_bytes: self.output.load(Relaxed) + self.mailbox.lock().bytes,
            redirect_broken: false,
            queued: self.queued.load(Relaxed).checked_sub(1),
            queued_bytes: self.queued_bytes.load(Relaxed),
            watching: self.watching.load(Relaxed),
            blocked: self.blocked.load(Relaxed) || self.paused.load(Relaxed),
        }
    }
}

/// What a session says of itself at the end of a wake-up.
pub(super) struct Figures<'a> {
    pub now: Instant,
    pub commands: u64,
    pub last_command: Option<Ordinal>,
    /// Bytes in both buffers.
    pub input: usize,
    pub output: usize,
    pub transaction: &'a Transaction,
    /// A request waits for the end of CLIENT PAUSE.
    pub paused: bool,
}

impl Mailbox {
    fn is_over(&mut self, waiting: u64, limit: &PushLimit) -> bool {
        if limit.soft == 0 || waiting < limit.soft {
            self.slow_since = None;
        }
        let hard = limit.hard > 0 && waiting >= limit.hard;
        let slow = limit.soft > 0 && waiting >= limit.soft;
        hard || slow && self.slow_since.get_or_insert_with(env::now).elapsed() >= limit.lasting
    }
}

/// All connections of the RESP faces.
#[derive(Default)]
pub struct Clients {
    by_id: Mutex<BTreeMap<u64, Arc<Client>>>,
    next: AtomicU64,
    pub(super) accepted: AtomicU64,
    pub(super) rejected: AtomicU64,
}

impl Clients {
    /// A number no connection of this process had before.
    pub(super) fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Relaxed) + 1
    }

    pub(super) fn enter(&self, session: &Session, worker: usize) -> Arc<Client> {
        let client = Arc::new(Client {
            id: session.id,
            born: env::now(),
            session: Mutex::new(session.clone()),
            last_ns: AtomicU64::new(0),
            commands: AtomicU64::new(0),
            last_command: AtomicU32::new(u32::MAX),
            input: AtomicU64::new(0),
            output: AtomicU64::new(0),
            queued: AtomicU64::new(0),
            queued_bytes: AtomicU64::new(0),
            watching: AtomicU64::new(0),
            mail: Mutex::new(Vec::new()),
            killed: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            unblock: Mutex::new(None),
            wake: Notify::new(),
            worker,
            mailbox: Mutex::default(),
            has_pushes: AtomicBool::new(false),
            asked: AtomicBool::new(true),
        });
        self.by_id.lock().insert(client.id, client.clone());
        client
    }

    pub(super) fn leave(&self, client: &Client) {
        self.by_id.lock().remove(&client.id);
    }

    pub(super) fn get(&self, id: u64) -> Option<Arc<Client>> {
        self.by_id.lock().get(&id).cloned()
    }

    /// Wakes all sessions.
    pub(super) fn call_all(&self) {
        self.by_id.lock().values().for_each(|client| client.call());
    }

    pub fn len(&self) -> usize {
        self.by_id.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn rows(&self) -> Vec<ClientRow> {
        let all: Vec<Arc<Client>> = self.by_id.lock().values().cloned().collect();
        all.iter().map(|c| c.row()).collect()
    }

    /// Has every connection take a turn.
    pub(super) fn wake_all(&self) {
        self.by_id.lock().values().for_each(|client| client.wake.notify_one());
    }

    /// Ends the waiting of connection `id`; false if it does not wait.
    pub(super) fn unblock(&self, id: u64, how: Unblock) -> bool {
        let found = self.by_id.lock().get(&id).cloned();
        let Some(client) = found.filter(|client| client.blocked.load(Relaxed)) else { return false };
        *client.unblock.lock() = Some(how);
        client.wake.notify_one();
        true
    }

    pub fn kill(&self, id: u64) -> bool {
        let found = self.by_id.lock().get(&id).cloned();
        let Some(client) = found else { return false };
        client.killed.store(true, Relaxed);
        client.wake.notify_one();
        true
    }
}
