//! The steps by which slots move from one group to another, as calls of the log; and which calls are refused meanwhile.
//!
//! ```text
//! hc.slots own SLOTS                      what the group owned before its first handover
//! hc.slots expect ID SLOTS                target: they will come
//! hc.slots freeze ID SLOTS                source: nothing happens there any more
//! hc.slots install ID FROM NEXT VERSION REMOVED CLOCK IMAGE...    target: a part of what they hold
//! hc.slots activate ID | drop ID | abort ID
//! hc.slots clear MAX                      so many keys go that are nobody's any more
//! ```
//!
//! Slots are written as in `0-99,205`, a place as `slot:hash`, the end as `-`. The answer is `ended`, `whole`, or the place
//! that the target expects next; of `clear` it is 1 if there is more. What each step means: `state::Ownership`.
//!
//! Only nodes say this: the name stands in no table. It is part of the log's format.

use super::{Command, Run, Scope, atomic, effects, keys, lookup};
use crate::resp::{Args, Reply};
use crate::slot::slot_of;
use crate::state::{CURSOR_HASH_BITS, Keyspace, NotTaken, Ownership, Place, Progress, Sent, Side, SlotSet};
use crate::types::{Millis, Slot};
use bytes::Bytes;

/// The wire name.
pub const NAME: &str = "hc.slots";

/// A step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Own(SlotSet),
    Expect(u64, SlotSet),
    Freeze(u64, SlotSet),
    Install(u64, Sent, Vec<Bytes>),
    Activate(u64),
    Drop(u64),
    Abort(u64),
    Clear(usize),
}

fn word(word: impl ToString) -> Bytes {
    Bytes::from(word.to_string())
}

fn place_word(place: Option<Place>) -> Bytes {
    place.map_or(Bytes::from_static(b"-"), |Place { slot, hash }| word(format_args!("{}:{hash}", slot.0)))
}

fn place(text: &str) -> Option<Option<Place>> {
    if text == "-" {
        return Some(None);
    }
    let (slot, hash) = text.split_once(':')?;
    Some(Some(Place { slot: Slot(slot.parse().ok()?), hash: hash.parse().ok()? }))
}

impl Step {
    /// The argument vector.
    pub fn to_args(&self) -> Args {
        let (name, mut rest) = match self {
            Step::Own(slots) => ("own", vec![word(slots)]),
            Step::Expect(id, slots) => ("expect", vec![word(id), word(slots)]),
            Step::Freeze(id, slots) => ("freeze", vec![word(id), word(slots)]),
            Step::Install(id, sent, images) => {
                let Sent { from, next, version, removed, clock } = sent;
                let places = [word(id), place_word(Some(*from)), place_word(*next)];
                let head = places.into_iter().chain([word(version), word(removed), word(clock)]);
                ("install", head.chain(images.iter().cloned()).collect())
            }
            Step::Activate(id) => ("activate", vec![word(id)]),
            Step::Drop(id) => ("drop", vec![word(id)]),
            Step::Abort(id) => ("abort", vec![word(id)]),
            Step::Clear(max) => ("clear", vec![word(max)]),
        };
        let mut args = vec![Bytes::from_static(NAME.as_bytes()), Bytes::from_static(name.as_bytes())];
        args.append(&mut rest);
        args.into()
    }

    /// Reads what [`Step::to_args`] wrote; `None` if it is something else.
    fn read(args: &Args) -> Option<Step> {
        let text = |at: usize| std::str::from_utf8(args.get(at)?).ok();
        let number = |at: usize| text(at)?.parse::<u64>().ok();
        let slots = |at: usize| text(at)?.parse::<SlotSet>().ok();
        let (step, words) = match text(1)? {
            "own" => (Step::Own(slots(2)?), 3),
            "expect" => (Step::Expect(number(2)?, slots(3)?), 4),
            "freeze" => (Step::Freeze(number(2)?, slots(3)?), 4),
            "install" => {
                let (version, removed, clock): (u64, u64, Millis) = (number(5)?, number(6)?, number(7)?);
                let sent = Sent { from: place(text(3)?)??, next: place(text(4)?)?, version, removed, clock };
                (Step::Install(number(2)?, sent, args[8..].to_vec()), args.len())
            }
            "activate" => (Step::Activate(number(2)?), 3),
            "drop" => (Step::Drop(number(2)?), 3),
            "abort" => (Step::Abort(number(2)?), 3),
            "clear" => (Step::Clear(usize::try_from(number(2)?).ok()?), 3),
            _ => return None,
        };
        (args.len() == words).then_some(step)
    }
}

/// What a group answered to a step of a handover.
pub fn progress(reply: &Reply) -> Option<Progress> {
    let Reply::Bulk(text) = reply else { return None };
    match std::str::from_utf8(text).ok()? {
        "ended" => Some(Progress::Ended),
        "whole" => Some(Progress::Whole),
        text => place(text)?.map(Progress::Expects),
    }
}

/// Whether this call is such a step.
#[inline]
pub fn is(args: &Args) -> bool {
    args.first().is_some_and(|name| name.as_ref() == NAME.as_bytes())
}

/// Whether this call is a step that frees something and needs next to no room: it is taken on a full disk, too, or the slots
/// that are on their way could be neither read nor given back.
pub fn frees(args: &Args) -> bool {
    let step = args.get(1).map_or(&[][..], |step| step.as_ref());
    is(args) && [&b"activate"[..], b"drop", b"abort", b"clear"].contains(&step)
}

/// Takes a step, in apply.
pub(super) fn apply(args: &Args, keyspace: &mut Keyspace) -> Reply {
    let taken = match Step::read(args) {
        None => return Reply::error("ERR a step of a handover that cannot be read"),
        Some(Step::Own(slots)) => {
            keyspace.found_ownership(slots);
            return Reply::OK;
        }
        Some(Step::Clear(max)) => return Reply::Int(i64::from(keyspace.clear_departed(max))),
        Some(Step::Expect(id, slots)) => keyspace.expect_slots(id, slots),
        Some(Step::Freeze(id, slots)) => keyspace.freeze_slots(id, slots),
        Some(Step::Install(id, sent, images)) => keyspace.install_slots(id, sent, &images),
        Some(Step::Activate(id)) => keyspace.activate_slots(id),
        Some(Step::Drop(id)) => keyspace.drop_slots(id),
        Some(Step::Abort(id)) => keyspace.abort_handover(id),
    };
    match taken {
        Ok(Progress::Ended) => Reply::bulk("ended"),
        Ok(Progress::Whole) => Reply::bulk("whole"),
        Ok(Progress::Expects(next)) => Reply::Bulk(place_word(Some(next))),
        Err(NotTaken::Leftovers) => Reply::error(format!("LEFTOVERS {}", NotTaken::Leftovers)),
        Err(e) => Reply::error(format!("ERR {e}")),
    }
}

/// The answer to a call in whose place nothing was done because the group does not answer for its slots now.
pub fn elsewhere() -> Reply {
    Reply::error("TRYAGAIN the slot is on its way to another group; the command was not applied")
}

/// Whether a call, if it was run now, would touch slots that the group does not answer for. Asked in apply before a call is
/// run, and of a read under the lock under which it runs: whoever waited is asked again.
pub fn is_elsewhere(args: &Args, ownership: &Ownership) -> bool {
    if !ownership.guards() || is(args) {
        return false;
    }
    if atomic::is_atomic(args) {
        // Commands about all keys are in transactions only where one group has all of them, or had.
        let mut away_or_not_all =
            |call: &Args| is_elsewhere(call, ownership) || is_about_all(call) && !ownership.owns_all();
        return atomic::any_call(args, &mut away_or_not_all, &mut |key| away(key, ownership));
    }
    if effects::is(args) {
        return effects::any_call(args, &mut |call| is_elsewhere(call, ownership), &mut |key| away(key, ownership));
    }
    let elsewhere =
        |command| command_is_elsewhere(command, args, ownership) || begins_elsewhere(command, args, ownership);
    lookup(args).is_ok_and(elsewhere)
}

fn is_about_all(args: &Args) -> bool {
    lookup(args).is_ok_and(|command| matches!(command.spec.scope, Scope::AllGroups(_) | Scope::Cursor))
}

/// Whether a scan is to go on in a slot that the group does not own, by now or still: what it passed over would be missed.
fn begins_elsewhere(command: &Command, args: &Args, ownership: &Ownership) -> bool {
    let cursor = || std::str::from_utf8(args.get(1)?).ok()?.parse::<u64>().ok();
    let slot = || u16::try_from(cursor()? >> CURSOR_HASH_BITS).ok().map(Slot);
    matches!(command.spec.scope, Scope::Cursor) && slot().is_some_and(|slot| !ownership.owns(slot))
}

fn away(key: &[u8], ownership: &Ownership) -> bool {
    !ownership.serves(slot_of(key))
}

fn command_is_elsewhere(command: &Command, args: &Args, ownership: &Ownership) -> bool {
    match command.spec.scope {
        Scope::Local => {
            matches!(command.run, Run::Transaction(_)) && keys(command, args).any(|key| away(key, ownership))
        }
        Scope::OneSlot | Scope::Split(_) => keys(command, args).any(|key| away(key, ownership)),
        // What is handed over is told as it was when it was frozen: nobody may look at it or throw it away meanwhile. Nor does
        // the target tell of all that it has: between the moment at which the slots became its own by the table and the one at
        // which it takes them over, they would be missed by who asks both groups.
        Scope::AllGroups(_) => ownership.handover().is_some(),
        // A scan comes to each slot where it is.
        Scope::Cursor => ownership.handover().is_some_and(|handover| handover.side == Side::Source),
    }
}

/// The first key of a call, by which it is routed.
pub fn first_key(args: &Args) -> Option<Bytes> {
    let mut first = None;
    let mut note = |key: &[u8]| {
        first = Some(Bytes::copy_from_slice(key));
        true
    };
    if atomic::is_atomic(args) {
        let mut of_call = None;
        let found = atomic::any_call(
            args,
            &mut |call| {
                of_call = first_key(call);
                of_call.is_some()
            },
            &mut note,
        );
        return if found { of_call.or(first) } else { None };
    }
    let command = lookup(args).ok()?;
    keys(command, args).next().cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::split_words;
    use crate::state::Seen;
    use crate::types::Stamp;

    fn args(line: &str) -> Args {
        split_words(line.as_bytes()).unwrap()
    }

    const STAMP: Stamp = Stamp { now_ms: 1000, seed: 7 };

    fn run(keyspace: &mut Keyspace, line: &str) -> Reply {
        super::super::apply_here(&args(line), keyspace, &STAMP).unwrap_or_else(elsewhere)
    }

    #[test]
    fn golden_words_of_the_steps() {
        let sent =
            Sent { from: Place { slot: Slot(3), hash: u64::MAX }, next: None, version: 9, removed: 8, clock: 11 };
        let steps = [
            (Step::Own("0-9".parse().unwrap()), "hc.slots own 0-9"),
            (Step::Own(SlotSet::default()), "hc.slots own \"\""),
            (Step::Expect(7, "1,3".parse().unwrap()), "hc.slots expect 7 1,3"),
            (Step::Freeze(7, "1,3".parse().unwrap()), "hc.slots freeze 7 1,3"),
            (Step::Install(7, sent, vec!["a".into()]), "hc.slots install 7 3:18446744073709551615 - 9 8 11 a"),
            (Step::Activate(7), "hc.slots activate 7"),
            (Step::Drop(7), "hc.slots drop 7"),
            (Step::Abort(7), "hc.slots abort 7"),
            (Step::Clear(100), "hc.slots clear 100"),
        ];
        for (step, line) in steps {
            assert_eq!(step.to_args(), args(line), "the format of what is in the log may not change");
            assert_eq!(Step::read(&step.to_args()), Some(step));
        }
        for line in ["hc.slots", "hc.slots own", "hc.slots own 0 1", "hc.slots drop x", "hc.slots install 7 - - 1 1 1"]
        {
            assert!(apply(&args(line), &mut Keyspace::new(1)).is_error(), "{line}");
        }
        assert!(lookup(&args("hc.slots clear 1")).is_err(), "no client can say it");
    }

    #[test]
    fn what_a_group_does_not_answer_for_is_refused_before_it_is_run() {
        let mut keyspace = Keyspace::new(1);
        let slot = slot_of(b"{a}1").0;
        assert_eq!(run(&mut keyspace, "set {a}1 x"), Reply::OK);
        run(&mut keyspace, "hc.slots own 0-16383");
        assert_eq!(run(&mut keyspace, "set {a}1 y"), Reply::OK);
        assert_eq!(run(&mut keyspace, &format!("hc.slots freeze 1 {slot}")), Reply::bulk("whole"));
        let version = keyspace.version();
        for line in [
            "set {a}1 z",
            "del b {a}2",
            "rename b {a}1",
            "flushall",
            "hc.atomic 1 {a}1 2 3 set b 1",
            "hc.atomic 0 3 set b 1 3 set {a}1 1",
        ] {
            assert!(super::super::apply_here(&args(line), &mut keyspace, &STAMP).is_none(), "{line}");
        }
        let effects = effects::Effects { calls: vec![args("set b 1"), args("del {a}1")], ..Default::default() };
        assert!(super::super::apply_here(&effects.to_args(), &mut keyspace, &STAMP).is_none());
        let watching = effects::Effects { watches: vec![("{a}1".into(), Seen::Version(2))], ..Default::default() };
        assert!(super::super::apply_here(&watching.to_args(), &mut keyspace, &STAMP).is_none());
        assert_eq!(keyspace.version(), version, "nothing happened");
        assert_eq!(run(&mut keyspace, "set b 1"), Reply::OK);
        for (line, away) in
            [("get {a}1", true), ("get b", false), ("mget b {a}1", true), ("dbsize", true), ("watch {a}1", true)]
        {
            assert_eq!(is_elsewhere(&args(line), keyspace.ownership()), away, "{line}");
        }
        assert_eq!(run(&mut keyspace, "hc.slots abort 1"), Reply::bulk("ended"));
        assert_eq!(run(&mut keyspace, "set {a}1 z"), Reply::OK);
        assert_eq!(run(&mut keyspace, "flushall"), Reply::OK);
    }

    /// A transaction that looks at all keys was sent by who took the group for the only one.
    #[test]
    fn all_keys_are_looked_at_in_a_transaction_only_where_they_are_all() {
        let mut keyspace = Keyspace::new(1);
        let refused = |keyspace: &Keyspace, line: &str| is_elsewhere(&args(line), keyspace.ownership());
        for line in ["hc.atomic 0 1 dbsize", "hc.atomic 0 3 set a 1 1 flushall", "hc.atomic 0 2 scan 0"] {
            let mut keyspace = Keyspace::new(1);
            assert!(!refused(&keyspace, line), "{line}: no slot ever moved");
            run(&mut keyspace, "hc.slots own 0-16383");
            assert!(!refused(&keyspace, line), "{line}: all of them are its own");
        }
        run(&mut keyspace, "hc.slots own 0-16382");
        assert!(refused(&keyspace, "hc.atomic 0 1 dbsize") && refused(&keyspace, "hc.atomic 0 3 set a 1 1 flushall"));
        assert!(!refused(&keyspace, "hc.atomic 0 3 set a 1 1 ping") && !refused(&keyspace, "dbsize"));
    }

    #[test]
    fn a_scan_stops_where_the_group_owns_nothing_and_does_not_begin_there() {
        let mut keyspace = Keyspace::new(1);
        for n in 0..500 {
            run(&mut keyspace, &format!("set k{n} x"));
        }
        let before = |slot: u16| (0..500).filter(|n| slot_of(format!("k{n}").as_bytes()).0 < slot).count();
        run(&mut keyspace, "hc.slots own 0-4999,6000-16383");
        let view = crate::state::View::new(&keyspace, None);
        let (found, next) = view.scan(0, usize::MAX);
        assert_eq!((found.len(), next), (before(5000), 5000 << CURSOR_HASH_BITS));
        let (found, next) = view.scan(6000 << CURSOR_HASH_BITS, usize::MAX);
        assert_eq!((found.len(), next), (500 - before(6000), 0));
        for (slot, elsewhere) in [(0u64, false), (4999, false), (5000, true), (5999, true), (6000, false)] {
            let line = format!("scan {}", slot << CURSOR_HASH_BITS | 7);
            assert_eq!(is_elsewhere(&args(&line), keyspace.ownership()), elsewhere, "{slot}");
        }
    }

    #[test]
    fn the_first_key_is_found_wherever_it_stands() {
        for (line, key) in [
            ("get a", Some("a")),
            ("hc.atomic 1 w 3 3 set b 1", Some("w")),
            ("hc.atomic 0 1 ping 3 set b 1", Some("b")),
            ("eval x 1 k", Some("k")),
            ("dbsize", None),
            ("nonsense", None),
        ] {
            assert_eq!(first_key(&args(line)), key.map(Bytes::from), "{line}");
        }
    }
}
