//! A worker's book of subscriptions: by name, and by connection.
//!
//! Plain data under its owner's lock. Invariant: a name is under `by_name` with a client exactly if it is under
//! `by_client` with that name; neither holds an empty entry.

use super::SUBSCRIPTIONS_MAX;
use crate::commands::glob;
use crate::commands::pubsub::Kind;
use crate::server::clients::Client;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// In the order in which they came.
type Listeners = BTreeMap<u64, Arc<Client>>;

#[derive(Default)]
pub(super) struct Book {
    by_name: [HashMap<Bytes, Listeners>; 3],
    by_client: HashMap<u64, [BTreeSet<Bytes>; 3]>,
    len: usize,
}

impl Book {
    /// Subscriptions in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it is new; None if the client has as many as it may have.
    pub fn subscribe(&mut self, client: &Arc<Client>, kind: Kind, name: &Bytes) -> Option<bool> {
        let own = &mut self.by_client.entry(client.id()).or_default()[kind as usize];
        if own.contains(name) {
            return Some(false);
        }
        if own.len() >= SUBSCRIPTIONS_MAX {
            return None;
        }
        // A name may be a small part of a large request, which must not stay because of it.
        let name = Bytes::copy_from_slice(name);
        own.insert(name.clone());
        self.by_name[kind as usize].entry(name).or_default().insert(client.id(), client.clone());
        self.len += 1;
        Some(true)
    }

    pub fn unsubscribe(&mut self, client: u64, kind: Kind, name: &[u8]) -> bool {
        let Some(own) = self.by_client.get_mut(&client) else { return false };
        if !own[kind as usize].remove(name) {
            return false;
        }
        if own.iter().all(BTreeSet::is_empty) {
            self.by_client.remove(&client);
        }
        self.strike(client, kind, name);
        true
    }

    fn strike(&mut self, client: u64, kind: Kind, name: &[u8]) {
        let names = &mut self.by_name[kind as usize];
        if let Some(listeners) = names.get_mut(name) {
            self.len -= usize::from(listeners.remove(&client).is_some());
            if listeners.is_empty() {
                names.remove(name);
            }
        }
    }

    /// Ends all subscriptions of a client.
    pub fn forget(&mut self, client: u64) {
        let own = self.by_client.remove(&client).unwrap_or_default();
        for (kind, names) in Kind::ALL.into_iter().zip(own) {
            names.iter().for_each(|name| self.strike(client, kind, name));
        }
    }

    pub fn of_client(&self, client: u64, kind: Kind) -> Vec<Bytes> {
        self.by_client.get(&client).map_or_else(Vec::new, |own| own[kind as usize].iter().cloned().collect())
    }

    pub fn listeners(&self, kind: Kind, name: &[u8]) -> impl Iterator<Item = &Arc<Client>> {
        self.by_name[kind as usize].get(name).into_iter().flat_map(BTreeMap::values)
    }

    /// The patterns that a channel matches, each with its listeners.
    pub fn patterns_of(&self, channel: &[u8]) -> impl Iterator<Item = (&Bytes, impl Iterator<Item = &Arc<Client>>)> {
        let patterns = self.by_name[Kind::Pattern as usize].iter();
        patterns.filter(|(pattern, _)| glob::matches(pattern, channel)).map(|(name, all)| (name, all.values()))
    }

    pub fn names(&self, kind: Kind) -> Vec<Bytes> {
        self.by_name[kind as usize].keys().cloned().collect()
    }
}
