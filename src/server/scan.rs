//! SCAN over all groups as one cursor. Pure.
//!
//! A client's cursor is a position as `View::scan` gives it: slot in the upper bits, place in the slot below. Slots are gone
//! through in order, range by range of slots that one group owns, whoever that is by now: so a cursor survives slots that move,
//! and no slot is passed over because it went to a group that was visited before. A range begins with the cursor
//! `first slot << 48`, which is 0 only for slot 0: the start.
//!
//! Places in a slot are of the group that gave them: others seed their hashes otherwise. Where there are several groups, the
//! lowest bits of a place say whose it is, and a cursor of another group begins the slot anew: keys are given twice then, and
//! none is missed.

use crate::env::Instant;
use crate::resp::{Args, Reply};
use crate::slot::slot_of;
use crate::state::{CURSOR_FREE, CURSOR_HASH_BITS, View};
use crate::types::{GroupId, Level, SLOTS, Slot};
use bytes::Bytes;

/// What COUNT is where a client does not say it.
const COUNT_USUAL: usize = 10;

/// Neighbouring slots of one group: first, last, owner.
pub(super) type Range = (Slot, Slot, GroupId);

/// One SCAN under way.
pub(super) struct Scan {
    pub args: Args,
    pub run: fn(&Args, &View<'_>) -> Reply,
    pub level: Level,
    pub deadline: Instant,
    /// The range at hand.
    here: Range,
    /// Ranges still to be visited after it, the next one last.
    rest: Vec<Range>,
    /// What the ranges before this one gave: they are many and short, and fewer keys than were asked for are not worth a reply.
    found: Vec<Reply>,
    /// Whether places name their group.
    named: bool,
}

/// What follows a page.
pub(super) enum Next {
    Answer(Reply),
    /// Not enough was found: go on in this group, with `args` as they now stand.
    Visit(GroupId),
}

/// The slot in which a cursor stands; None if the number cannot be one of ours.
pub(super) fn slot_of_cursor(cursor: u64) -> Option<Slot> {
    let slot = cursor >> CURSOR_HASH_BITS;
    (slot < SLOTS as u64).then_some(Slot(slot as u16))
}

fn start_of(slot: Slot) -> u64 {
    u64::from(slot.0) << CURSOR_HASH_BITS
}

/// None for what is no number: whoever runs it says so.
fn number(args: &Args) -> Option<u64> {
    std::str::from_utf8(args.get(1)?).ok()?.parse().ok()
}

/// How many keys a client wants at a time, about.
fn count(args: &Args) -> usize {
    let at = args.iter().skip(2).position(|word| word.eq_ignore_ascii_case(b"COUNT"));
    let number = at.and_then(|at| std::str::from_utf8(args.get(at + 3)?).ok()?.parse().ok());
    number.unwrap_or(COUNT_USUAL)
}

fn word(cursor: u64) -> Bytes {
    Bytes::from(cursor.to_string())
}

impl Scan {
    /// `ranges`: what is to be visited, in order. None if the cursor stands behind all of it.
    pub fn new(
        args: Args,
        run: fn(&Args, &View<'_>) -> Reply,
        level: Level,
        deadline: Instant,
        ranges: &[Range],
        named: bool,
    ) -> Option<Scan> {
        let here = (Slot(0), Slot(0), GroupId::META);
        let mut scan = Scan { args, run, level, deadline, here, rest: Vec::new(), found: Vec::new(), named };
        scan.stand(ranges).then_some(scan)
    }

    /// The group that is to be asked next.
    pub fn group(&self) -> GroupId {
        self.here.2
    }

    /// Goes on by other ranges from where it stands; whether there is anything more.
    pub fn stand(&mut self, ranges: &[Range]) -> bool {
        let known = number(&self.args);
        let cursor = known.unwrap_or(0);
        let Some(slot) = slot_of_cursor(cursor) else { return false };
        self.rest = ranges.iter().filter(|(_, last, _)| *last >= slot).rev().copied().collect();
        let Some(here) = self.rest.pop() else { return false };
        let (first, _, group) = self.here_is(here);
        let place = cursor & (start_of(Slot(1)) - 1);
        let begin = match slot < first {
            true => start_of(first),
            false if !self.named || place == 0 => cursor,
            false if place & CURSOR_FREE == u64::from(group.0) & CURSOR_FREE => cursor & !CURSOR_FREE,
            false => start_of(slot),
        };
        if known.is_some_and(|known| known != begin) {
            self.goes_on_at(begin);
        }
        true
    }

    fn goes_on_at(&mut self, cursor: u64) {
        let args = &self.args;
        let argument = |place: usize| if place == 1 { word(cursor) } else { args[place].clone() };
        self.args = Args::by_place(args.len(), argument);
    }

    fn here_is(&mut self, range: Range) -> Range {
        self.here = range;
        range
    }

    /// Takes the page that a group gave.
    pub fn page(&mut self, page: Reply) -> Next {
        let Some((cursor, mut keys)) = split(&page) else { return Next::Answer(page) };
        let (_, last, group) = self.here;
        if cursor != 0 && slot_of_cursor(cursor).is_some_and(|slot| slot <= last) {
            self.found.append(&mut keys);
            return self.answer(if self.named { cursor | u64::from(group.0) & CURSOR_FREE } else { cursor });
        }
        // What lies behind the range is another's turn.
        keys.retain(|key| !matches!(key, Reply::Bulk(key) if slot_of(key) > last));
        self.found.append(&mut keys);
        let Some(next) = self.rest.pop() else { return self.answer(0) };
        let (first, _, group) = self.here_is(next);
        if self.found.len() >= count(&self.args) {
            return self.answer(start_of(first));
        }
        self.goes_on_at(start_of(first));
        Next::Visit(group)
    }

    fn answer(&mut self, cursor: u64) -> Next {
        let keys = std::mem::take(&mut self.found);
        Next::Answer(Reply::Array(vec![Reply::Bulk(word(cursor)), Reply::Array(keys)]))
    }
}

/// Cursor and keys of a page; None for an error.
fn split(page: &Reply) -> Option<(u64, Vec<Reply>)> {
    let Reply::Array(parts) = page else { return None };
    match parts.as_slice() {
        [Reply::Bulk(cursor), Reply::Array(keys)] => {
            Some((std::str::from_utf8(cursor).ok()?.parse().ok()?, keys.clone()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env;

    /// Slots 0 to 4 are group 2's, 5 to 8 group 1's, then group 2's again.
    const RANGES: [Range; 3] =
        [(Slot(0), Slot(4), GroupId(2)), (Slot(5), Slot(8), GroupId(1)), (Slot(9), Slot(16_383), GroupId(2))];

    fn scan_from(cursor: u64) -> Option<Scan> {
        let args: Args = [Bytes::from_static(b"SCAN"), word(cursor)].into_iter().collect();
        Scan::new(args, |_, _| Reply::Nil, Level::Eventual, env::now(), &RANGES, true)
    }

    fn page(cursor: u64, keys: &[&'static str]) -> Reply {
        Reply::Array(vec![Reply::Bulk(word(cursor)), Reply::Array(keys.iter().map(|key| Reply::bulk(*key)).collect())])
    }

    /// A key of a slot.
    fn key_in(slots: std::ops::RangeInclusive<u16>) -> &'static str {
        let key = (0..).map(|n: u32| format!("k{n}")).find(|key| slots.contains(&slot_of(key.as_bytes()).0));
        key.expect("every slot has keys").leak()
    }

    #[test]
    fn ranges_are_gone_through_in_the_order_of_slots_until_there_is_enough() {
        let (first, second) = (key_in(0..=4), key_in(5..=8));
        let mut s = scan_from(0).unwrap();
        assert_eq!(s.group(), GroupId(2));
        assert!(matches!(s.page(page(0, &[first])), Next::Visit(GroupId(1))));
        assert_eq!(s.args[1], word(5 << 48));
        assert!(matches!(s.page(page(0, &[second])), Next::Visit(GroupId(2))));
        let Next::Answer(last) = s.page(page(0, &[])) else { panic!("the end") };
        assert_eq!(last, page(0, &[first, second]));
        let mut s = scan_from(0).unwrap();
        assert!(matches!(s.page(page(0, &[first])), Next::Visit(GroupId(1))));
        let Next::Answer(told) = s.page(page(7 << 48, &[second])) else { panic!("a page") };
        assert_eq!(told, page(7 << 48 | 1, &[first, second]), "a group that stops has found enough");
    }

    #[test]
    fn what_a_group_has_behind_the_range_is_left_for_later() {
        let (mine, later) = (key_in(0..=4), key_in(9..=16_383));
        for cursor in [0, 77 << 48 | 9] {
            let mut s = scan_from(0).unwrap();
            s.args = s.args.iter().cloned().chain(["count", "1"].map(Bytes::from)).collect();
            let Next::Answer(told) = s.page(page(cursor, &[mine, later])) else { panic!("a page") };
            assert_eq!(told, page(5 << 48, &[mine]), "the next range begins there");
            assert!(matches!(scan_from(0).unwrap().page(page(cursor, &[later])), Next::Visit(GroupId(1))));
        }
    }

    #[test]
    fn a_place_in_a_slot_counts_only_with_the_group_that_gave_it() {
        let Next::Answer(told) = scan_from(0).unwrap().page(page(3 << 48 | 0xab000, &["k"])) else { panic!("a page") };
        assert_eq!(told, page(3 << 48 | 0xab002, &["k"]));
        assert_eq!(scan_from(3 << 48 | 0xab002).unwrap().args[1], word(3 << 48 | 0xab000));
        assert_eq!(scan_from(6 << 48 | 0xab002).unwrap().args[1], word(6 << 48), "the slot has moved: it begins anew");
        assert_eq!(scan_from(6 << 48).unwrap().group(), GroupId(1));
        // It waits while its slot moves.
        let mut s = scan_from(3 << 48 | 0xab002).unwrap();
        assert!(s.stand(&[(Slot(0), Slot(16_383), GroupId(1))]) && s.group() == GroupId(1));
        assert_eq!(s.args[1], word(3 << 48));
        assert!(!s.stand(&[(Slot(0), Slot(2), GroupId(1))]), "nothing is left of what is visible here");
    }

    #[test]
    fn a_cursor_of_nowhere_is_at_the_end_and_an_error_goes_out_unchanged() {
        assert!(scan_from(u64::MAX).is_none());
        let args: Args = ["SCAN", "x"].into_iter().map(Bytes::from).collect();
        let s = Scan::new(args, |_, _| Reply::Nil, Level::Eventual, env::now(), &RANGES, true).unwrap();
        assert_eq!((s.group(), s.args[1].as_ref()), (GroupId(2), &b"x"[..]));
        assert_eq!((slot_of_cursor(u64::MAX), slot_of_cursor(0)), (None, Some(Slot(0))));
        assert!(
            matches!(scan_from(0).unwrap().page(Reply::error("ERR syntax error")), Next::Answer(p) if p.is_error())
        );
    }
}
