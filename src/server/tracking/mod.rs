//! Client-side caches: which client of this node keeps which keys, and who is told when one changes.
//!
//! ```text
//! a tracked read: [note key, client] -> read, under the replica's lock
//! an entry:       apply, under the replica's lock -> [changed keys -> take who noted them -> mailboxes] -> its reply
//! ```
//!
//! Reads are answered from this node's own replica of a group, and every entry passes through it, so nothing but this
//! replica has to be listened to. A key is noted before it is read: a read that did not see a change was before it, and so
//! was its note. Invariant: **whatever a client read here and keeps, it is told of the first change that this replica
//! applies after the read.** A note is used up by that; the next read makes another.
//!
//! Told in vain is who hears of the change first and of the value then: it would keep that for ever. Invariant: **on one
//! connection no invalidation comes before the reply to a read that the change came after.** The reply may have to wait for
//! those before it, so pushes of a connection that tracks stay in its mailbox until everything asked before them is
//! answered (`session/pushes.rs`, `take_pushes`): no longer than those requests' deadlines, and no more than `PushLimit`. Where
//! another connection is told (REDIRECT) there is no such order, as in Redis.
//!
//! **NOLOOP.** The connection that made a change is named in the entry, where it wants that: by the process and its number, so
//! it is known wherever it was proposed, and nothing of it is in the state. It is not told, and its note stays for what
//! others do to the key.
//!
//! **Everything is void** is told once until the client asks for something again (`Client::take_asked`): a FLUSHALL comes to each
//! group by itself, and whatever was asked before the word went out is answered before it is heard. Not so with REDIRECT.
//!
//! What the replica does not hear it cannot tell. While it may be behind (its group's leader was not heard for an election
//! timeout, or cannot show that it leads) everything that was read from it is declared void again and again, and so it is
//! when its state is replaced.
//!
//! Bounds: `tracking-table-max-keys`, approached at once when it is lowered; beyond it the oldest note of the same stripe is given up, and its clients are told.
//! The clients of one key: `table.rs`.

mod table;

use super::Shared;
use super::clients::Client;
use super::pubsub::encoding;
use crate::commands::node::TrackingFacts;
use crate::commands::tracking::{Caches, Tracking};
use crate::env;
use crate::resp::Protocol;
use crate::state::events::Change;
use crate::types::{Author, GroupId};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use table::Table;

/// Tables; a group's keys are in the one of its number.
const STRIPES: usize = 64;
/// Notes of a table that are given up at a time over the number of those that a read adds: a bound that was lowered is
/// approached without a long stop.
const GIVE_UP_MAX: usize = 16;

/// One client that tracks.
struct Tracker {
    client: Arc<Client>,
    redirect: Option<u64>,
    /// It was told in vain: who should be told in its place is gone.
    broken: bool,
    /// It is told of what it listens to, not of what it read before it went over to that.
    bcast: bool,
    /// It is not told of what it did itself.
    noloop: bool,
    prefixes: Vec<Bytes>,
}

/// What the clients of a node keep.
pub(super) struct Caching {
    /// Tells this process from every other one.
    process: u64,
    trackers: Mutex<BTreeMap<u64, Tracker>>,
    /// Clients by the prefixes they listen to.
    broadcasts: Mutex<BTreeMap<Bytes, BTreeSet<u64>>>,
    tables: Vec<Mutex<Table>>,
    keys: AtomicUsize,
}

impl Default for Caching {
    fn default() -> Caching {
        Caching {
            process: env::seed(),
            trackers: Mutex::default(),
            broadcasts: Mutex::default(),
            tables: (0..STRIPES).map(|_| Mutex::default()).collect(),
            keys: AtomicUsize::new(0),
        }
    }
}

impl Caching {
    fn table(&self, group: GroupId) -> &Mutex<Table> {
        &self.tables[group.0 as usize % STRIPES]
    }

    /// How much of everything there is.
    pub fn facts(&self) -> TrackingFacts {
        TrackingFacts {
            clients: self.trackers.lock().len() as u64,
            keys: self.keys.load(Relaxed) as u64,
            items: self.tables.iter().map(|table| table.lock().items() as u64).sum(),
            prefixes: self.broadcasts.lock().len() as u64,
        }
    }

    /// Clients that track, and keys that are noted.
    #[cfg(test)]
    pub fn len(&self) -> (u64, u64) {
        let TrackingFacts { clients, keys, .. } = self.facts();
        (clients, keys)
    }

    /// Clients that are noted for a key.
    #[cfg(test)]
    pub fn clients_of(&self, group: GroupId, key: &[u8]) -> usize {
        self.table(group).lock().clients_of(key)
    }

    /// Changes the table of a group and keeps count.
    fn change<R>(&self, group: GroupId, change: impl FnOnce(&mut Table) -> R) -> R {
        self.change_table(self.table(group), change)
    }

    fn change_table<R>(&self, table: &Mutex<Table>, change: impl FnOnce(&mut Table) -> R) -> R {
        let mut table = table.lock();
        let before = table.len();
        let result = change(&mut table);
        match table.len() {
            after if after >= before => self.keys.fetch_add(after - before, Relaxed),
            after => self.keys.fetch_sub(before - after, Relaxed),
        };
        result
    }
}

/// What is told.
enum News<'a> {
    /// Keys that it read.
    Read(&'a [Bytes]),
    /// Keys with a prefix that it listens to.
    Heard(&'a [Bytes]),
    Everything,
}

impl<'a> News<'a> {
    fn read(key: &'a Bytes) -> News<'a> {
        News::Read(std::slice::from_ref(key))
    }
}

impl Shared {
    /// Notes that a client is about to read keys of a group.
    pub(super) fn note_reading(&self, client: u64, group: GroupId, keys: &[Bytes]) {
        // Nobody waits for a table while it holds the trackers, so they may be looked at from within one.
        let tracks = |clients: &mut Vec<u64>| {
            let trackers = self.caching.trackers.lock();
            clients.retain(|client| trackers.contains_key(client));
        };
        let given_up = self.caching.change(group, |table| {
            let mut given_up = Vec::new();
            for key in keys {
                given_up.extend(table.note(key, client, tracks).map(|clients| (key.clone(), clients)));
            }
            let over = self.notes_over(keys.len());
            given_up.extend(table.give_up(over.min(keys.len() + GIVE_UP_MAX)));
            given_up
        });
        for (key, clients) in given_up {
            clients.iter().for_each(|client| self.tell_change(*client, &News::read(&key)));
        }
    }

    /// Notes that are too many, with so many more.
    fn notes_over(&self, more: usize) -> usize {
        match self.live.tracking_keys_max() {
            0 => 0,
            max => (self.caching.keys.load(Relaxed) + more).saturating_sub(max),
        }
    }

    /// Gives up what is too much because fewer notes are allowed than before, a little at a time. Must be called in a
    /// runtime.
    pub(super) fn approach_notes_max(&self) {
        if self.notes_over(0) == 0 {
            return;
        }
        let weak = self.weak.clone();
        tokio::spawn(async move {
            while let Some(shared) = weak.upgrade()
                && shared.give_up_notes()
            {
                tokio::task::yield_now().await;
            }
        });
    }

    /// Gives up some of what is too much; false if nothing is.
    fn give_up_notes(&self) -> bool {
        let mut any = false;
        for table in &self.caching.tables {
            let over = self.notes_over(0).min(GIVE_UP_MAX);
            for (key, clients) in self.caching.change_table(table, |table| table.give_up(over)) {
                any = true;
                clients.iter().for_each(|client| self.tell_change(*client, &News::read(&key)));
            }
        }
        any
    }

    /// The name under which a connection's changes are told, if it does not want to hear of them.
    pub(super) fn author(&self, client: u64, tracking: Option<&Tracking>) -> Option<Author> {
        let process = self.caching.process;
        tracking.filter(|tracking| tracking.noloop).map(|_| Author { process, client })
    }

    /// The connection of this node that made a change and is not to be told of it.
    fn untold(&self, change: &Change) -> Option<u64> {
        let Author { client, .. } = change.by.filter(|by| by.process == self.caching.process)?;
        self.caching.trackers.lock().get(&client).is_some_and(|tracker| tracker.noloop).then_some(client)
    }

    /// Keys of a group changed.
    pub(super) fn keys_changed(&self, group: GroupId, changes: &[Change]) {
        let mut told = Vec::new();
        let untold: Vec<Option<u64>> = changes.iter().map(|change| self.untold(change)).collect();
        self.caching.change(group, |table| {
            for (Change { key, .. }, untold) in changes.iter().zip(&untold) {
                let Some(mut clients) = table.take(key) else { continue };
                if let Some(at) = untold.and_then(|client| clients.binary_search(&client).ok()) {
                    table.note(key, clients.remove(at), |_| ());
                }
                told.push((key, clients));
            }
        });
        for (key, clients) in told {
            clients.iter().for_each(|client| self.tell_change(*client, &News::read(key)));
        }
        // The keys below each prefix, each with the client that is not to hear of it; and who listens there.
        let broadcasts: Vec<_> = {
            let broadcasts = self.caching.broadcasts.lock();
            let of = |prefix: &Bytes| {
                let all = changes.iter().map(|change| &change.key).zip(untold.iter().copied());
                all.filter(|(key, _)| key.starts_with(prefix)).collect::<Vec<_>>()
            };
            let listeners = |clients: &BTreeSet<u64>| clients.iter().copied().collect::<Vec<_>>();
            let all = broadcasts.iter().map(|(prefix, clients)| (of(prefix), listeners(clients)));
            all.filter(|(keys, _)| !keys.is_empty()).collect()
        };
        for (changed, clients) in broadcasts {
            for client in clients {
                let by_others = changed.iter().filter(|(_, untold)| *untold != Some(client));
                let mut keys: Vec<Bytes> = by_others.map(|(key, _)| Bytes::clone(key)).collect();
                keys.dedup();
                if !keys.is_empty() {
                    self.tell_change(client, &News::Heard(&keys));
                }
            }
        }
    }

    /// Every client that tracks is told that all of its cache is void.
    pub(super) fn everything_changed(&self, group: GroupId) {
        self.caching.change(group, |table| *table = Table::default());
        let all: Vec<u64> = self.caching.trackers.lock().keys().copied().collect();
        all.iter().for_each(|client| self.tell_change(*client, &News::Everything));
    }

    /// What was read of a group may be out of date: whoever keeps some of it is told that all of its cache is void.
    pub(super) fn group_doubted(&self, group: GroupId) {
        let mut doubters = self.caching.change(group, |table| std::mem::take(table).into_clients());
        let broadcasts = self.caching.broadcasts.lock();
        broadcasts.values().for_each(|clients| doubters.extend(clients));
        drop(broadcasts);
        doubters.iter().for_each(|client| self.tell_change(*client, &News::Everything));
    }

    /// Tells a client, or who is to be told in its place.
    fn tell_change(&self, id: u64, news: &News<'_>) {
        let (client, redirect) = match self.caching.trackers.lock().get(&id) {
            Some(tracker) if tracker.bcast && matches!(news, News::Read(_)) => return,
            Some(tracker) => (tracker.client.clone(), tracker.redirect),
            None => return,
        };
        let target = match redirect {
            None => Some(client.clone()),
            Some(other) => self.clients.get(other).filter(|other| other.is_open()),
        };
        let Some(target) = target else {
            if let Some(tracker) = self.caching.trackers.lock().get_mut(&id) {
                tracker.broken = true;
            }
            if client.protocol() == Protocol::Resp3 {
                self.push(&client, encoding::redirect_broken(redirect.unwrap_or(0)));
            }
            return;
        };
        let keys = match news {
            News::Read(keys) | News::Heard(keys) => Some(*keys),
            // What was asked before it was last told so is answered before it hears of that.
            News::Everything if redirect.is_none() && !client.take_asked() => return,
            News::Everything => None,
        };
        if target.protocol() == Protocol::Resp3 {
            self.push(&target, encoding::invalidation(keys));
        } else if redirect.is_some() && target.listens() {
            self.push(&target, encoding::invalidation_message(keys));
        }
    }

    /// The connection is gone, or tracks no more.
    pub(super) fn forget_tracking(&self, id: u64) {
        let mut trackers = self.caching.trackers.lock();
        let Some(tracker) = trackers.remove(&id) else { return };
        let idle = trackers.is_empty();
        if idle {
            self.cluster.host().watch().want_changes(false);
        }
        drop(trackers);
        let mut broadcasts = self.caching.broadcasts.lock();
        for prefix in &tracker.prefixes {
            if let Some(clients) = broadcasts.get_mut(prefix) {
                clients.remove(&id);
                if clients.is_empty() {
                    broadcasts.remove(prefix);
                }
            }
        }
    }
}

impl Caches for Shared {
    fn knows(&self, client: u64) -> bool {
        self.clients.get(client).is_some()
    }

    fn track(&self, client: u64, tracking: Option<&Tracking>) {
        let Some(tracking) = tracking else { return self.forget_tracking(client) };
        let Some(client) = self.clients.get(client) else { return };
        let id = client.id();
        client.note_asked();
        let Tracking { redirect, bcast, noloop, .. } = *tracking;
        let tracker = Tracker { client, redirect, broken: false, bcast, noloop, prefixes: tracking.prefixes.clone() };
        let mut trackers = self.caching.trackers.lock();
        trackers.insert(id, tracker);
        // Under the lock, so that one who leaves does not switch off what one who comes has switched on.
        self.cluster.host().watch().want_changes(true);
        drop(trackers);
        let mut broadcasts = self.caching.broadcasts.lock();
        for prefix in &tracking.prefixes {
            broadcasts.entry(prefix.clone()).or_default().insert(id);
        }
    }

    fn is_redirect_broken(&self, client: u64) -> bool {
        self.caching.trackers.lock().get(&client).is_some_and(|tracker| tracker.broken)
    }
}

/// What a tracked read notes before it is run.
pub(super) struct Reading {
    shared: Arc<Shared>,
    client: Arc<Client>,
    keys: Vec<Bytes>,
}

impl Reading {
    /// Of a read with these keys; none if it has none.
    pub fn new(shared: &Arc<Shared>, client: &Arc<Client>, keys: Vec<Bytes>) -> Option<Box<Reading>> {
        (!keys.is_empty()).then(|| Box::new(Reading { shared: shared.clone(), client: client.clone(), keys }))
    }

    /// Must be called before every attempt at the read: an earlier note may be used up.
    pub fn note(&self, group: GroupId) {
        self.client.note_asked();
        self.shared.note_reading(self.client.id(), group, &self.keys);
    }
}
