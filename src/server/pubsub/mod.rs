//! Publish and subscribe on this node: who listens, and how a message gets to them.
//!
//! ```text
//! PUBLISH on a connection -+-> the book of each worker -> mailboxes of its clients -> one bell -> each session, woken there
//!                          '-> peers.rs: every other node does the same with its own book
//! ```
//!
//! A message is kept nowhere: whoever listens when it passes hears it, once at most. The books are split by worker, so
//! that a message rings once for each worker and not once for each listener. The lock of a book is held while a message
//! goes to its mailboxes: all listeners of a worker hear the same order.
//!
//! Bounds: [`SUBSCRIPTIONS_MAX`] a connection; what waits for a client by `PushLimit` (`clients.rs`); a message on its
//! way to a peer by the link's own queue, beyond which it is dropped.

mod book;
pub(super) mod encoding;
pub(super) mod peers;

use super::Shared;
use super::clients::{Client, PushLimit};
use crate::commands::pubsub::{Kind, Messages};
use crate::resp::Args;
use book::Book;
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tokio::runtime::Handle;
use tokio::sync::Notify;

/// Names of one kind that a connection may have subscribed to.
pub(super) const SUBSCRIPTIONS_MAX: usize = 1 << 20;

/// What of a node's listeners is on one worker.
struct Worker {
    book: Mutex<Book>,
    /// Subscriptions in the book: most messages find none.
    listening: AtomicUsize,
    /// Clients whose mailboxes were empty until now. Each is in here once at most.
    ringing: Mutex<Vec<Arc<Client>>>,
    bell: Notify,
}

impl Worker {
    /// Has these sessions woken by their own thread.
    fn ring(&self, clients: Vec<Arc<Client>>) {
        if clients.is_empty() {
            return;
        }
        let silent = {
            let mut ringing = self.ringing.lock();
            let silent = ringing.is_empty();
            ringing.extend(clients);
            silent
        };
        if silent {
            self.bell.notify_one();
        }
    }

    /// Wakes whom the bell is for, until the runtime ends.
    async fn answer_bell(self: Arc<Self>) {
        loop {
            self.bell.notified().await;
            let clients = std::mem::take(&mut *self.ringing.lock());
            clients.iter().for_each(|client| client.call());
        }
    }
}

/// The subscriptions of a node.
pub(super) struct Pubsub {
    workers: Vec<Arc<Worker>>,
}

impl Pubsub {
    /// Runs a bell on each of the workers.
    pub fn new(handles: &[Handle]) -> Pubsub {
        let worker = |handle: &Handle| {
            let worker = Arc::new(Worker {
                book: Mutex::default(),
                listening: AtomicUsize::new(0),
                ringing: Mutex::default(),
                bell: Notify::new(),
            });
            handle.spawn(worker.clone().answer_bell());
            worker
        };
        Pubsub { workers: handles.iter().map(worker).collect() }
    }

    /// Gives bytes to one client, as a push.
    pub fn push(&self, client: &Arc<Client>, bytes: Bytes, limit: &PushLimit) {
        if client.push(bytes, limit) {
            self.workers[client.worker].ring(vec![client.clone()]);
        }
    }

    /// The connection is gone.
    pub fn forget(&self, client: &Client) {
        let worker = &self.workers[client.worker];
        if worker.listening.load(Relaxed) > 0 {
            let mut book = worker.book.lock();
            book.forget(client.id());
            worker.listening.store(book.len(), Relaxed);
        }
    }

    fn change<R>(&self, client: &Client, change: impl FnOnce(&mut Book) -> R) -> R {
        let worker = &self.workers[client.worker];
        let mut book = worker.book.lock();
        let result = change(&mut book);
        worker.listening.store(book.len(), Relaxed);
        result
    }

    /// How many would hear a message.
    pub fn hearing(&self, kind: Kind, channel: &[u8]) -> u64 {
        let of = |worker: &Arc<Worker>| {
            if worker.listening.load(Relaxed) == 0 {
                return 0;
            }
            let book = worker.book.lock();
            let by_pattern = match kind {
                Kind::Channel => book.patterns_of(channel).map(|(_, clients)| clients.count()).sum(),
                _ => 0,
            };
            (book.listeners(kind, channel).count() + by_pattern) as u64
        };
        self.workers.iter().map(of).sum()
    }

    fn deliver(&self, kind: Kind, channel: &Bytes, message: &Bytes, limit: &PushLimit) -> u64 {
        let (mut heard, mut plain) = (0, None);
        for worker in &self.workers {
            if worker.listening.load(Relaxed) == 0 {
                continue;
            }
            let mut woken = Vec::new();
            {
                let book = worker.book.lock();
                let mut give = |client: &Arc<Client>, bytes: &Bytes| {
                    heard += 1;
                    if client.push(bytes.clone(), limit) {
                        woken.push(client.clone());
                    }
                };
                for client in book.listeners(kind, channel) {
                    give(client, plain.get_or_insert_with(|| encoding::message(kind, channel, message)));
                }
                if kind == Kind::Channel {
                    for (pattern, clients) in book.patterns_of(channel) {
                        let bytes = encoding::pattern_message(pattern, channel, message);
                        clients.for_each(|client| give(client, &bytes));
                    }
                }
            }
            worker.ring(woken);
        }
        heard
    }
}

impl Shared {
    fn push_limit(&self) -> PushLimit {
        **self.live.push_limit().load()
    }

    /// Gives messages, each as its PUBLISH or SPUBLISH, to the listeners of every node.
    pub(super) fn say(&self, calls: &[Args]) {
        if calls.is_empty() {
            return;
        }
        peers::tell(self, calls);
        calls.iter().for_each(|call| drop(peers::part(self, call)));
    }

    /// Gives bytes to one client, as a push.
    pub(super) fn push(&self, client: &Arc<Client>, bytes: Bytes) {
        self.pubsub.push(client, bytes, &self.push_limit());
    }
}

impl Messages for Shared {
    fn subscribe(&self, client: u64, kind: Kind, name: &Bytes) -> Option<bool> {
        let client = self.clients.get(client)?;
        self.pubsub.change(&client, |book| book.subscribe(&client, kind, name))
    }

    fn unsubscribe(&self, client: u64, kind: Kind, name: &[u8]) -> bool {
        let Some(client) = self.clients.get(client) else { return false };
        self.pubsub.change(&client, |book| book.unsubscribe(client.id(), kind, name))
    }

    fn subscriptions(&self, client: u64, kind: Kind) -> Vec<Bytes> {
        let Some(client) = self.clients.get(client) else { return Vec::new() };
        self.pubsub.workers[client.worker].book.lock().of_client(client.id(), kind)
    }

    fn deliver(&self, kind: Kind, channel: &Bytes, message: &Bytes) -> u64 {
        self.pubsub.deliver(kind, channel, message, &self.push_limit())
    }

    fn publish(&self, kind: Kind, channel: &Bytes, message: &Bytes) -> u64 {
        let verb = if kind == Kind::Shard { "SPUBLISH" } else { "PUBLISH" };
        let call: Args = [Bytes::from_static(verb.as_bytes()), channel.clone(), message.clone()].into_iter().collect();
        peers::tell(self, std::slice::from_ref(&call));
        self.deliver(kind, channel, message)
    }

    fn names(&self, kind: Kind) -> Vec<Bytes> {
        let mut all: Vec<Bytes> =
            self.pubsub.workers.iter().flat_map(|worker| worker.book.lock().names(kind)).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    fn count(&self, kind: Kind, name: &[u8]) -> u64 {
        self.pubsub.workers.iter().map(|worker| worker.book.lock().listeners(kind, name).count() as u64).sum()
    }
}

/// How far a connection must have come before a request begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// What it sent before was done: who hears the message finds what was written before it was sent.
    AfterCommands,
    /// And answered: pushes go out at any time from then on, and nothing before may come behind them.
    AfterReplies,
}

/// Whether a request waits for its turn: those after which pushes come, or are written another way, and those that tell
/// others of what the connection did before; and those that change what it may be running, scripts and functions.
pub(super) fn turn(args: &Args) -> Option<Turn> {
    use Turn::*;
    let is = |at: usize, word: &str| args.get(at).is_some_and(|arg| arg.eq_ignore_ascii_case(word.as_bytes()));
    if is(0, "client") {
        return is(1, "tracking").then_some(AfterReplies);
    }
    if is(0, "script") {
        return is(1, "flush").then_some(AfterCommands);
    }
    const TURNS: &[(&str, Turn)] = &[
        ("function", AfterCommands),
        ("hello", AfterReplies),
        ("monitor", AfterReplies),
        ("psubscribe", AfterReplies),
        ("publish", AfterCommands),
        ("punsubscribe", AfterReplies),
        ("reset", AfterReplies),
        ("spublish", AfterCommands),
        ("ssubscribe", AfterReplies),
        ("subscribe", AfterReplies),
        ("sunsubscribe", AfterReplies),
        ("unsubscribe", AfterReplies),
    ];
    let name = args.first().filter(|name| name.len() >= 5)?;
    let found = TURNS.iter().find(|(word, _)| name.eq_ignore_ascii_case(word.as_bytes()));
    found.map(|(_, turn)| *turn)
}
