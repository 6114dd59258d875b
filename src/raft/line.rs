//! Who waits for which keys of a group, in the order in which they came, and whose turn it is. Pure: no lock, no clock.
//!
//! ```text
//!   Waiting --- the key has something ---> Turn --- used, in vain ---> Waiting, in the same place
//!      |                                     '----- done, or unused for TURN ---> gone
//!      '--- told to ask again ---> Away --- asks again ---> Waiting; not within KEEP ---> gone
//! ```
//!
//! Invariants: a place is in the line of each of its keys; of those that take what they find, the next has a turn at a
//! key only if it has elements for all who have theirs and for it, as many as each may take, or if nobody else has; nobody has a turn twice for the same version of a key.

use crate::env::Instant;
use crate::resp::Args;
use crate::state::eviction::Row;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long a turn may take before it passes to the next.
pub(super) const TURN: Duration = Duration::from_secs(2);
/// How long whoever was told to ask again keeps the place, and how long a question waits for its answer.
pub(super) const KEEP: Duration = Duration::from_secs(5);
/// Places in a group's line, at most.
pub(super) const PLACES_MAX: usize = 100_000;

enum Standing<T> {
    Waiting(T),
    Turn { until: Instant },
    Away { until: Instant },
}

struct Place<T> {
    id: u64,
    call: Args,
    /// Elements at most; 0: it only looks.
    takes: usize,
    /// With the version of the value for which there was a turn last.
    rows: Vec<(Row, u64)>,
    standing: Standing<T>,
}

impl<T> Place<T> {
    fn is_for(&self, call: &Args, takes: usize, rows: &[Row]) -> bool {
        self.call == *call && self.takes == takes && self.rows.iter().map(|(row, _)| row).eq(rows)
    }
}

/// See the head of this file. `T` tells a waiter that it is its turn.
pub(super) struct Line<T> {
    /// By ticket: the order in which they came.
    places: BTreeMap<u64, Place<T>>,
    tickets: BTreeMap<u64, u64>,
    rows: BTreeMap<Row, BTreeSet<u64>>,
    next: u64,
}

impl<T> Default for Line<T> {
    fn default() -> Line<T> {
        Line { places: BTreeMap::new(), tickets: BTreeMap::new(), rows: BTreeMap::new(), next: 0 }
    }
}

impl<T> Line<T> {
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn is_full(&self) -> bool {
        self.places.len() >= PLACES_MAX
    }

    /// Whether `id` has a place.
    pub fn knows(&self, id: u64) -> bool {
        self.tickets.contains_key(&id)
    }

    /// Whether somebody waits for this key.
    pub fn has(&self, row: Row) -> bool {
        self.rows.contains_key(&row)
    }

    /// Takes a place at the end, or comes back to the one that `id` has. One that was taken for something else is given
    /// up, or whoever stands there would wait for what it did not ask for: then gives what [`Line::leave`] does.
    #[must_use]
    pub fn stand(&mut self, id: u64, call: Args, takes: usize, rows: &[Row], teller: T) -> Vec<Row> {
        let left = match self.tickets.get(&id).and_then(|ticket| self.places.get_mut(ticket)) {
            Some(place) if place.is_for(&call, takes, rows) => {
                place.standing = Standing::Waiting(teller);
                return Vec::new();
            }
            Some(_) => self.leave(id),
            None => Vec::new(),
        };
        let ticket = self.next;
        self.next += 1;
        self.tickets.insert(id, ticket);
        for row in rows {
            self.rows.entry(*row).or_default().insert(ticket);
        }
        let rows = rows.iter().map(|row| (*row, 0)).collect();
        self.places.insert(ticket, Place { id, call, takes, rows, standing: Standing::Waiting(teller) });
        left
    }

    /// A key has this version: who has a turn now. `elements` says how many of this waiter's kind it has something for.
    pub fn turns(&mut self, row: Row, version: u64, now: Instant, elements: impl Fn(&Args) -> usize) -> Vec<T> {
        let Some(tickets) = self.rows.get(&row) else { return Vec::new() };
        let taking = |place: &Place<T>| match place.standing {
            Standing::Turn { .. } => place.takes,
            _ => 0,
        };
        let turns = tickets.iter().filter_map(|ticket| self.places.get(ticket));
        let mut busy = turns.map(taking).fold(0, usize::saturating_add);
        // Whoever is held back holds back those behind, or they would take what is its.
        let mut held = false;
        let mut told = Vec::new();
        for ticket in tickets {
            let Some(place) = self.places.get_mut(ticket) else { continue };
            let Some((_, seen)) = place.rows.iter_mut().find(|(known, _)| *known == row) else { continue };
            if !matches!(place.standing, Standing::Waiting(_)) || *seen == version {
                continue;
            }
            let elements = elements(&place.call);
            if elements == 0 {
                continue;
            }
            held |= place.takes > 0 && busy > 0 && busy.saturating_add(place.takes) > elements;
            if held && place.takes > 0 {
                continue;
            }
            *seen = version;
            busy = busy.saturating_add(place.takes);
            let turn = Standing::Turn { until: now + TURN };
            if let Standing::Waiting(teller) = std::mem::replace(&mut place.standing, turn) {
                told.push(teller);
            }
        }
        told
    }

    /// A question waited long enough: whoever asked it is to ask again. Unless its turn came just then, unheard; says
    /// whether it did. It would not come twice for the same version of a key.
    #[must_use]
    pub fn away(&mut self, id: u64, now: Instant) -> bool {
        let Some(place) = self.tickets.get(&id).and_then(|ticket| self.places.get_mut(ticket)) else { return false };
        match place.standing {
            Standing::Turn { .. } => return true,
            Standing::Waiting(_) => place.standing = Standing::Away { until: now + KEEP },
            Standing::Away { .. } => {}
        }
        false
    }

    /// Gives a place up; gives the keys that others may have a turn at now.
    pub fn leave(&mut self, id: u64) -> Vec<Row> {
        let Some(place) = self.tickets.remove(&id).and_then(|ticket| Some((ticket, self.places.remove(&ticket)?)))
        else {
            return Vec::new();
        };
        let (ticket, place) = place;
        for (row, _) in &place.rows {
            if let Some(tickets) = self.rows.get_mut(row) {
                tickets.remove(&ticket);
                if tickets.is_empty() {
                    self.rows.remove(row);
                }
            }
        }
        place.rows.into_iter().map(|(row, _)| row).collect()
    }

    /// Those whose turn was not used, or who did not ask again, lose their places. Gives the keys as [`Line::leave`] does.
    pub fn leave_overdue(&mut self, now: Instant) -> Vec<Row> {
        let overdue = |place: &Place<T>| match place.standing {
            Standing::Waiting(_) => false,
            Standing::Turn { until } | Standing::Away { until } => until <= now,
        };
        let ids: Vec<u64> = self.places.values().filter(|place| overdue(place)).map(|place| place.id).collect();
        ids.into_iter().flat_map(|id| self.leave(id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env;
    use crate::types::Slot;

    fn row(n: u64) -> Row {
        Row::new(Slot(1), n << 40)
    }

    fn stand(line: &mut Line<u64>, id: u64, takes: usize, rows: &[u64]) {
        let rows: Vec<Row> = rows.iter().map(|n| row(*n)).collect();
        assert!(line.stand(id, Args::new(), takes, &rows, id).is_empty(), "no place is left for another");
    }

    #[test]
    fn turns_come_in_order_and_as_many_as_there_are_elements() {
        let (mut line, now) = (Line::default(), env::now());
        (1..=4).for_each(|id| stand(&mut line, id, 1, &[1, 2]));
        assert_eq!(line.turns(row(1), 1, now, |_| 2), [1, 2]);
        assert_eq!(line.turns(row(1), 2, now, |_| 2), [0; 0], "two have their turn already");
        assert_eq!(line.turns(row(2), 3, now, |_| 3), [3], "at any of its keys a turn is a turn");
        assert_eq!(line.leave(1), [row(1), row(2)]);
        assert_eq!(line.turns(row(1), 4, now, |_| 3), [4]);
        (2..=4).for_each(|id| drop(line.leave(id)));
        assert!(line.is_empty() && !line.has(row(1)));
    }

    #[test]
    fn who_may_take_several_leaves_what_is_over_to_the_next() {
        let (mut line, now) = (Line::default(), env::now());
        stand(&mut line, 1, 3, &[1]);
        stand(&mut line, 2, 1, &[1]);
        stand(&mut line, 3, usize::MAX, &[1]);
        stand(&mut line, 4, 1, &[1]);
        assert_eq!(line.turns(row(1), 1, now, |_| 3), [1], "it may take all three");
        assert_eq!(line.turns(row(1), 2, now, |_| 5), [2], "the third might take the first one's, and the fourth its");
        line.leave(1);
        assert_eq!(line.turns(row(1), 3, now, |_| 64), [0; 0]);
        line.leave(2);
        assert_eq!(line.turns(row(1), 4, now, |_| 2), [3], "alone it takes what there is");
        line.leave(3);
        assert_eq!(line.turns(row(1), 5, now, |_| 1), [4]);
    }

    #[test]
    fn who_found_nothing_keeps_the_place_and_has_no_turn_for_the_same_again() {
        let (mut line, now) = (Line::default(), env::now());
        stand(&mut line, 1, 1, &[1]);
        stand(&mut line, 2, 1, &[1]);
        assert_eq!(line.turns(row(1), 1, now, |_| 1), [1]);
        stand(&mut line, 1, 1, &[1]);
        assert_eq!(line.turns(row(1), 1, now, |_| 1), [2], "the next one may still find it good");
        line.leave(2);
        stand(&mut line, 2, 1, &[1]);
        assert_eq!(line.turns(row(1), 2, now, |_| 1), [1], "before one that came later");
    }

    #[test]
    fn a_turn_that_came_as_the_question_ended_is_not_lost() {
        let (mut line, now) = (Line::default(), env::now());
        stand(&mut line, 1, 1, &[1]);
        assert_eq!(line.turns(row(1), 1, now, |_| 1), [1]);
        assert!(line.away(1, now), "it has its turn, whether it heard of it or not");
        stand(&mut line, 1, 1, &[1]);
        assert_eq!(line.turns(row(1), 1, now, |_| 1), [0; 0], "it would wait beside what is there");
        assert!(!line.away(1, now) && !line.away(1, now) && !line.away(2, now));
    }

    #[test]
    fn who_asks_for_something_else_takes_another_place() {
        let (mut line, now) = (Line::default(), env::now());
        (1..=2).for_each(|id| stand(&mut line, id, 1, &[1]));
        assert_eq!(line.turns(row(1), 1, now, |_| 1), [1]);
        assert_eq!(line.stand(1, Args::new(), 1, &[row(2)], 10), [row(1)], "the turn there is somebody else's now");
        assert_eq!(line.turns(row(1), 1, now, |_| 1), [2]);
        assert_eq!(line.turns(row(2), 1, now, |_| 1), [10], "it waits where it asked to");
        assert_eq!(line.stand(1, Args::new(), 3, &[row(2)], 11), [row(2)], "it may take more");
        let call: Args = [bytes::Bytes::from_static(b"BLPOP")].into_iter().collect();
        assert_eq!(line.stand(1, call.clone(), 3, &[row(2)], 12), [row(2)], "another command may want another kind");
        assert_eq!(line.turns(row(2), 1, now, |known| usize::from(*known == call)), [12]);
        assert_eq!(line.len(), 2);
    }

    #[test]
    fn those_who_only_look_have_their_turn_together() {
        let (mut line, now) = (Line::default(), env::now());
        (1..=3).for_each(|id| stand(&mut line, id, 0, &[1]));
        stand(&mut line, 4, 1, &[1]);
        stand(&mut line, 5, 1, &[1]);
        assert_eq!(line.turns(row(1), 1, now, |_| 0), [0; 0], "a value of another type is nothing to them");
        assert_eq!(line.turns(row(1), 2, now, |_| 1), [1, 2, 3, 4]);
    }

    #[test]
    fn who_does_not_come_back_loses_the_place() {
        let (mut line, now) = (Line::default(), env::now());
        (1..=3).for_each(|id| stand(&mut line, id, 1, &[1]));
        assert_eq!(line.turns(row(1), 1, now, |_| 1), [1]);
        assert!(!line.away(2, now));
        assert_eq!(line.turns(row(1), 2, now, |_| 2), [3], "who is away cannot be told");
        assert_eq!(line.leave_overdue(now + TURN), [row(1), row(1)], "neither turn was used");
        stand(&mut line, 2, 1, &[1]);
        assert!(line.leave_overdue(now + KEEP).is_empty(), "it asked again");
        assert_eq!(line.turns(row(1), 2, now, |_| 1), [2]);
    }
}
