//! What the replicas of this node did, told on: events to those who subscribed to them, changed keys to those who keep
//! them.
//!
//! Called on the thread that applies, before whoever wrote is answered. Nothing here waits; the order is that of the log.

use super::Shared;
use crate::raft::changes::Changes;
use crate::resp::Args;
use crate::state::events::{Class, Event, Record};
use crate::types::GroupId;
use bytes::Bytes;
use std::sync::Weak;

/// The doors as the replicas tell them.
pub(super) struct Hears(pub Weak<Shared>);

impl Changes for Hears {
    fn applied(&self, group: GroupId, record: Record) {
        let Some(shared) = self.0.upgrade() else { return };
        // A cache is void before anybody acts on the news.
        if record.cleared {
            shared.everything_changed(group);
        }
        if !record.changed.is_empty() {
            shared.keys_changed(group, &record.changed);
        }
        shared.tell_events(&record.events);
    }

    fn replaced(&self, group: GroupId) {
        if let Some(shared) = self.0.upgrade() {
            shared.everything_changed(group);
        }
    }

    fn out_of_touch(&self, group: GroupId) {
        if let Some(shared) = self.0.upgrade() {
            shared.group_doubted(group);
        }
    }

    fn missed(&self, keys: Vec<Bytes>) {
        let Some(shared) = self.0.upgrade() else { return };
        if shared.cluster.agreed().events.has(Class::Miss) {
            let events: Vec<Event> = keys.into_iter().map(|key| Event { name: "keymiss", key }).collect();
            shared.tell_events(&events);
        }
    }
}

impl Shared {
    /// Publishes events on every node.
    fn tell_events(&self, events: &[Event]) {
        if events.is_empty() {
            return;
        }
        let classes = self.cluster.agreed().events;
        let channel = |prefix: &str, rest: &[u8]| Bytes::from([prefix.as_bytes(), rest].concat());
        let mut calls: Vec<Args> = Vec::with_capacity(2 * events.len());
        let mut publish = |channel: Bytes, message: Bytes| {
            calls.push([Bytes::from_static(b"PUBLISH"), channel, message].into_iter().collect());
        };
        for Event { name, key } in events {
            if classes.keyspace() {
                publish(channel("__keyspace@0__:", key), Bytes::from_static(name.as_bytes()));
            }
            if classes.keyevent() {
                publish(channel("__keyevent@0__:", name.as_bytes()), key.clone());
            }
        }
        self.say(&calls);
    }
}
