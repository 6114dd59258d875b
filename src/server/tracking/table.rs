//! Who read which keys, in the order in which they were first noted.
//!
//! Plain data under its owner's lock. Invariant: every key of `by_key` stands in `order` with its number; what stands there
//! with another number is left over from a key that was taken since, and there is never more of that than of keys.

use bytes::Bytes;
use std::collections::{BTreeSet, HashMap, VecDeque};

/// Left-over places that are kept, besides as many as there are keys.
const LEFT_OVER: usize = 64;

struct Note {
    number: u64,
    clients: Vec<u64>,
}

#[derive(Default)]
pub(super) struct Table {
    by_key: HashMap<Bytes, Note>,
    order: VecDeque<(u64, Bytes)>,
    next: u64,
}

impl Table {
    /// Keys in it.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    pub fn note(&mut self, key: &[u8], client: u64) {
        if let Some(note) = self.by_key.get_mut(key) {
            if !note.clients.contains(&client) {
                note.clients.push(client);
            }
            return;
        }
        // A key may be a small part of a large request, which must not stay because of it.
        let key = Bytes::copy_from_slice(key);
        self.next += 1;
        self.order.push_back((self.next, key.clone()));
        self.by_key.insert(key, Note { number: self.next, clients: vec![client] });
        if self.order.len() > 2 * self.by_key.len() + LEFT_OVER {
            let by_key = &self.by_key;
            self.order.retain(|(number, key)| by_key.get(key).is_some_and(|note| note.number == *number));
        }
    }

    /// Who is to be told that a key changed.
    pub fn take(&mut self, key: &[u8]) -> Option<Vec<u64>> {
        self.by_key.remove(key).map(|note| note.clients)
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
            table.note(key.as_bytes(), client);
        }
        assert_eq!(table.take(b"a"), Some(vec![1, 2]));
        assert_eq!(table.take(b"a"), None);
        table.note(b"a", 4);
        let given_up: Vec<_> = table.give_up(2).into_iter().map(|(key, _)| key).collect();
        assert_eq!(given_up, ["b", "c"]);
        assert_eq!((table.len(), table.give_up(9).len(), table.len()), (1, 1, 0));
    }

    #[test]
    fn places_of_keys_that_were_taken_do_not_pile_up() {
        let mut table = Table::default();
        for n in 0..10_000 {
            table.note(b"same", n);
            table.take(b"same");
        }
        assert!(table.order.len() <= 2 + LEFT_OVER);
    }
}
