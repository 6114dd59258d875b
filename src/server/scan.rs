//! SCAN over all groups as one cursor. Pure.
//!
//! A client's cursor is the position inside a group as `View::scan` gives it: slot in the upper bits, place in the
//! slot below. The slot says in which group, so groups need no number of their own and a cursor survives slots that
//! move. Groups come in the order of their first slots; the first key of a group is reached with the cursor
//! `first slot << 48`, which is 0 only for the group of slot 0: the start.

use crate::env::Instant;
use crate::resp::{Args, Reply};
use crate::state::View;
use crate::types::{GroupId, Level, SLOTS, Slot};
use bytes::Bytes;

/// Low bits of a cursor that hold the place inside a slot.
const PLACE_BITS: u32 = 48;

/// One SCAN under way.
pub(super) struct Scan {
    pub args: Args,
    pub run: fn(&Args, &View<'_>) -> Reply,
    pub level: Level,
    pub deadline: Instant,
    /// Groups still to be visited after the one at hand, the next one last: first slot and group.
    rest: Vec<(Slot, GroupId)>,
}

/// What follows a page.
pub(super) enum Next {
    Answer(Reply),
    /// The page was empty: go on in this group, with `args` as they now stand.
    Visit(GroupId),
}

/// The slot in which a cursor stands; None if the number cannot be one of ours.
pub(super) fn slot_of_cursor(cursor: u64) -> Option<Slot> {
    let slot = cursor >> PLACE_BITS;
    (slot < SLOTS as u64).then_some(Slot(slot as u16))
}

fn start_of(slot: Slot) -> u64 {
    u64::from(slot.0) << PLACE_BITS
}

impl Scan {
    /// `order`: the groups to visit with their first slots, in order; `begin`: which of them has the cursor.
    pub fn new(
        args: Args,
        run: fn(&Args, &View<'_>) -> Reply,
        level: Level,
        deadline: Instant,
        order: &[(Slot, GroupId)],
        begin: usize,
    ) -> Scan {
        let rest = order.iter().skip(begin + 1).rev().copied().collect();
        Scan { args, run, level, deadline, rest }
    }

    /// Takes the page that a group gave.
    pub fn page(&mut self, page: Reply) -> Next {
        let Some((cursor, keys)) = split(&page) else { return Next::Answer(page) };
        if cursor != 0 {
            return Next::Answer(page);
        }
        let Some((slot, group)) = self.rest.pop() else { return Next::Answer(page) };
        let start = Bytes::from(start_of(slot).to_string());
        if keys == 0 {
            self.args[1] = start;
            return Next::Visit(group);
        }
        match page {
            Reply::Array(mut parts) => {
                parts[0] = Reply::Bulk(start);
                Next::Answer(Reply::Array(parts))
            }
            other => Next::Answer(other),
        }
    }
}

/// Cursor and number of keys of a page; None for an error.
fn split(page: &Reply) -> Option<(u64, usize)> {
    let Reply::Array(parts) = page else { return None };
    match parts.as_slice() {
        [Reply::Bulk(cursor), Reply::Array(keys)] => {
            Some((std::str::from_utf8(cursor).ok()?.parse().ok()?, keys.len()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env;

    fn scan() -> Scan {
        let args: Args = [Bytes::from_static(b"SCAN"), Bytes::from_static(b"0")].into_iter().collect();
        let order = [(Slot(0), GroupId(2)), (Slot(5), GroupId(1)), (Slot(9), GroupId(3))];
        Scan::new(args, |_, _| Reply::Nil, Level::Eventual, env::now(), &order, 0)
    }

    fn page(cursor: &'static str, keys: usize) -> Reply {
        let key = || Reply::Bulk(Bytes::from_static(b"k"));
        Reply::Array(vec![
            Reply::Bulk(Bytes::from_static(cursor.as_bytes())),
            Reply::Array((0..keys).map(|_| key()).collect()),
        ])
    }

    #[test]
    fn empty_groups_are_passed_in_one_call() {
        let mut s = scan();
        assert!(matches!(s.page(page("0", 0)), Next::Visit(GroupId(1))));
        assert_eq!(s.args[1], Bytes::from((5u64 << 48).to_string()));
        assert!(matches!(s.page(page("0", 0)), Next::Visit(GroupId(3))));
        let Next::Answer(last) = s.page(page("0", 0)) else { panic!("the end") };
        assert_eq!(last, page("0", 0));
    }

    #[test]
    fn the_end_of_a_group_is_the_start_of_the_next() {
        let mut s = scan();
        let Next::Answer(Reply::Array(parts)) = s.page(page("0", 2)) else { panic!("an answer") };
        assert_eq!(parts[0], Reply::Bulk(Bytes::from((5u64 << 48).to_string())));
        assert_eq!(slot_of_cursor(5u64 << 48), Some(Slot(5)));
    }

    #[test]
    fn a_cursor_of_nowhere_is_known_as_such() {
        assert_eq!(slot_of_cursor(u64::MAX), None);
        assert_eq!(slot_of_cursor(0), Some(Slot(0)));
    }

    #[test]
    fn a_page_inside_a_group_and_an_error_go_out_unchanged() {
        let mut s = scan();
        assert!(matches!(s.page(page("77", 0)), Next::Answer(p) if p == page("77", 0)));
        assert!(matches!(s.page(Reply::error("ERR syntax error")), Next::Answer(p) if p.is_error()));
    }
}
