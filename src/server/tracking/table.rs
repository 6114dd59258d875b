//! Who read which keys, in the order in which they were first noted.
//!
//! Plain data under its owner's lock. Invariant: every key of `by_key` stands in `order` with its number; what stands there
//! with another number is left over from a key that was taken since, and there is never more of that than of keys.
//!
//! Clients come and go, and nobody looks for a client's notes when it goes. So the clients of a key are looked through when
//! they have doubled, and those that are gone are dropped: a key has at most twice as many as are there, or
//! [`CROWD_MIN`], and never more than [`CLIENTS_MAX`].

use bytes::Bytes;
use std::collections::{BTreeSet, HashMap, VecDeque};

/// Left-over places that are kept, besides as many as there are keys.
const LEFT_OVER: usize = 64;

/// Clients of a key that are not looked through.
const CROWD_MIN: usize = 64;
/// Clients of a key. One more, and those before it are given up.
const CLIENTS_MAX: usize = 16 << 10;

struct Note {
    number: u64,
    /// In the order of their numbers.
    clients: Vec<u64>,
    /// As many of them are looked through for those that are gone.
    crowd: usize,
}

impl Note {
    /// Adds a client. Gives those that are given up for it.
    fn add(&mut self, client: u64, tracks: impl FnOnce(&mut Vec<u64>)) -> Option<Vec<u64>> {
        let Err(mut at) = self.clients.binary_search(&client) else { return None };
        let mut given_up = None;
        if self.clients.len() >= self.crowd {
            tracks(&mut self.clients);
            if self.clients.len() >= CLIENTS_MAX {
                given_up = Some(std::mem::take(&mut self.clients));
            }
            self.crowd = (2 * self.clients.len()).clamp(CROWD_MIN, CLIENTS_MAX);
            self.clients.shrink_to(self.crowd);
            at = self.clients.partition_point(|other| *other < client);
        }
        self.clients.insert(at, client);
        given_up
    }
}

#[derive(Default)]
pub(super) struct Table {
    by_key: HashMap<Bytes, Note>,
    order: VecDeque<(u64, Bytes)>,
    next: u64,
    /// Clients of all keys together.
    items: usize,
}

impl Table {
    /// Keys in it.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Clients of its keys: one that is noted for two keys counts twice.
    pub fn items(&self) -> usize {
        self.items
    }

    /// Notes that a client reads a key. `tracks` leaves those of a key's clients that still track. Gives the clients whose
    /// note was given up for this one: they are to be told as if the key had changed.
    pub fn note(&mut self, key: &[u8], client: u64, tracks: impl FnOnce(&mut Vec<u64>)) -> Option<Vec<u64>> {
        if let Some(note) = self.by_key.get_mut(key) {
            let before = note.clients.len();
            let given_up = note.add(client, tracks);
            self.items = self.items + note.clients.len() - before;
            return given_up;
        }
        // A key may be a small part of a large request, which must not stay because of it.
        let key = Bytes::copy_from_slice(key);
        (self.next, self.items) = (self.next + 1, self.items + 1);
        self.order.push_back((self.next, key.clone()));
        self.by_key.insert(key, Note { number: self.next, clients: vec![client], crowd: CROWD_MIN });
        if self.order.len() > 2 * self.by_key.len() + LEFT_OVER {
            let by_key = &self.by_key;
            self.order.retain(|(number, key)| by_key.get(key).is_some_and(|note| note.number == *number));
        }
        None
    }

    /// Clients that are noted for a key.
    #[cfg(test)]
    pub fn clients_of(&self, key: &[u8]) -> usize {
        self.by_key.get(key).map_or(0, |note| note.clients.len())
    }

    /// Who is to be told that a key changed, in the order of their numbers.
    pub fn take(&mut self, key: &[u8]) -> Option<Vec<u64>> {
        let clients = self.by_key.remove(key).map(|note| note.clients)?;
        self.items -= clients.len();
        Some(clients)
    }

    /// Gives up the oldest notes, as many as these.
    pub fn give_up(&mut self, count: usize) -> Vec<(Bytes, Vec<u64>)> {
        let mut given_up = Vec::new();
        while given_up.len() < count
            && let Some((number, key)) = self.order.pop_front()
        {
            if self.by_key.get(&key).is_some_and(|note| note.number == number)
                && let Some(clients) = self.take(&key)
            {
                given_up.push((key, clients));
            }
        }
        given_up
    }

    /// Everybody who read anything.
    pub fn into_clients(self) -> BTreeSet<u64> {
        self.by_key.into_values().flat_map(|note| note.clients).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_used_up_and_the_oldest_is_given_up_first() {
        let mut table = Table::default();
        for (key, client) in [("a", 1), ("b", 1), ("a", 2), ("a", 2), ("c", 3)] {
            table.note(key.as_bytes(), client, |_| ());
        }
        assert_eq!((table.len(), table.items()), (3, 4));
        assert_eq!(table.take(b"a"), Some(vec![1, 2]));
        assert_eq!(table.take(b"a"), None);
        assert_eq!((table.len(), table.items()), (2, 2));
        table.note(b"a", 4, |_| ());
        let given_up: Vec<_> = table.give_up(2).into_iter().map(|(key, _)| key).collect();
        assert_eq!(given_up, ["b", "c"]);
        assert_eq!((table.len(), table.give_up(9).len(), table.len(), table.items()), (1, 1, 0, 0));
    }

    #[test]
    fn places_of_keys_that_were_taken_do_not_pile_up() {
        let mut table = Table::default();
        for n in 0..10_000 {
            table.note(b"same", n, |_| ());
            table.take(b"same");
        }
        assert!(table.order.len() <= 2 + LEFT_OVER);
    }

    #[test]
    fn the_clients_of_a_key_are_bounded() {
        let mut table = Table::default();
        // Of those that come and go, ten are there at a time.
        let mut looks = 0;
        for client in 0..10_000 {
            let given_up = table.note(b"config", client, |clients| {
                looks += 1;
                clients.retain(|other| *other + 10 > client);
            });
            assert_eq!(given_up, None);
            assert!(table.clients_of(b"config") <= CROWD_MIN);
        }
        assert_eq!(table.items(), table.clients_of(b"config"));
        assert!(looks <= 10_000 / (CROWD_MIN - 10) + 1, "{looks} looks");
        // Those that stay are told when they are too many, each once.
        let (mut table, mut told) = (Table::default(), Vec::new());
        let all = 2 * CLIENTS_MAX as u64 + 5;
        for client in (0..all).rev() {
            told.extend(table.note(b"config", client, |_| ()).into_iter().flatten());
            assert!(table.clients_of(b"config") <= CLIENTS_MAX);
        }
        assert_eq!(told.len(), 2 * CLIENTS_MAX);
        told.extend(table.take(b"config").into_iter().flatten());
        told.sort_unstable();
        assert!(told.into_iter().eq(0..all));
    }
}
