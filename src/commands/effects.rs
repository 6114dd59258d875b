//! What a script did, as one call of a log entry: applied as a whole, or not at all.
//!
//! ```text
//! hc.effects  clock  seed  form  whole|-  watches  { key version }*  { words word* }*
//! ```
//!
//! A script runs where its group is led, on copies of the keys it touches; the writes it made there are its effects. They
//! are applied only if nothing that the script saw has changed meanwhile: every key still has the version it was read
//! with (0: it was absent), no field of it died since the script's clock, and where the script looked at the group as a
//! whole, the group's counter is what it was. The form of values (`Packing`) must be the same, too: which members SPOP
//! draws depends on it. Otherwise nothing happens, the answer is nil, and whoever proposed it runs the script again.
//!
//! The calls run at the clock and with the seeds that they had in the script, so that they do here what they did there:
//! the members that SPOP draws, the deadlines, the decisions about what is idle for long enough. This clock is never ahead
//! of the group's. What it makes is dead at once if its time is over already.
//!
//! No client can send this: the name stands in no table. It is met only in [`super::apply`].

use super::Run;
use super::atomic::digits;
use crate::resp::{Args, Reply};
use crate::state::{Keyspace, Packing, Seen};
use crate::types::{Millis, Stamp};
use bytes::Bytes;

/// The wire name. What is behind it is part of the log's format.
pub const NAME: &str = "hc.effects";

/// The writes of a script, or of several that ran behind one another, with what they rest on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effects {
    /// The group clock that the script saw.
    pub clock: Millis,
    pub seed: u64,
    /// Says when values stop being packed: [`Packing::digest`].
    pub form: u64,
    /// The group's version counter, where the script saw more than single keys.
    pub whole: Option<u64>,
    /// Keys with the versions that were seen; 0 for one that was absent.
    pub watches: Vec<(Bytes, Seen)>,
    pub calls: Vec<Args>,
}

impl Default for Effects {
    /// Of nothing, where values have the usual form.
    fn default() -> Effects {
        let form = Packing::default().digest();
        Effects { clock: 0, seed: 0, form, whole: None, watches: Vec::new(), calls: Vec::new() }
    }
}

/// The stamp of the call at position `at` of what a script did: each draws differently.
pub fn stamp_of(clock: Millis, seed: u64, at: usize) -> Stamp {
    Stamp { now_ms: clock, seed: seed ^ (at as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) }
}

fn number(value: u64) -> Bytes {
    Bytes::from(value.to_string())
}

impl Effects {
    /// The argument vector.
    pub fn to_args(&self) -> Args {
        let name = Bytes::from_static(NAME.as_bytes());
        let mut args = vec![name, number(self.clock), number(self.seed), number(self.form)];
        args.push(self.whole.map_or(Bytes::from_static(b"-"), number));
        args.push(number(self.watches.len() as u64));
        for (key, seen) in &self.watches {
            args.extend([key.clone(), Bytes::from(seen.number().to_string())]);
        }
        for call in &self.calls {
            args.push(number(call.len() as u64));
            args.extend_from_slice(call);
        }
        args.into()
    }

    /// Reads what [`Effects::to_args`] wrote; `None` if it is something else.
    fn read(args: &Args) -> Option<Effects> {
        let number = digits::<u64>;
        let mut words = args.iter().skip(1);
        let (clock, seed, form) = (number(words.next()?)?, number(words.next()?)?, number(words.next()?)?);
        let whole = match words.next()? {
            none if &none[..] == b"-" => None,
            version => Some(number(version)?),
        };
        let mut effects = Effects { clock, seed, form, whole, ..Effects::default() };
        for _ in 0..number(words.next()?)? {
            effects.watches.push((words.next()?.clone(), Seen::from_number(digits(words.next()?)?)));
        }
        while let Some(count) = words.next() {
            let call: Args = words.by_ref().take(usize::try_from(number(count)?).ok()?).cloned().collect();
            if call.len() as u64 != number(count)? {
                return None;
            }
            effects.calls.push(call);
        }
        Some(effects)
    }

    /// Whether nothing that was seen has changed.
    fn holds(&self, keyspace: &Keyspace) -> bool {
        self.watches.iter().all(|(key, seen)| keyspace.is_as_seen(key, *seen))
    }

    /// Whether a field of what was seen died since the script's clock: that changes no version before it is swept.
    fn lost_fields(&self, keyspace: &Keyspace) -> bool {
        let seen = self.watches.iter().filter_map(|(key, _)| keyspace.get(key));
        seen.filter_map(|entry| entry.value().as_hash()).any(|hash| {
            let (_, next) = hash.living(self.clock);
            next != 0 && next <= keyspace.clock()
        })
    }
}

/// Whether this call is a script's effects.
#[inline]
pub(super) fn is(args: &Args) -> bool {
    args.first().is_some_and(|name| name.as_ref() == NAME.as_bytes())
}

/// Applies a script's effects, in apply: an array of the calls' replies, or nil if something that was seen has changed.
pub(super) fn apply(args: &Args, keyspace: &mut Keyspace) -> Reply {
    let Some(effects) = Effects::read(args) else {
        return Reply::error("ERR the effects of a script cannot be read");
    };
    // A key may have come and gone between the script's clock and now: both must agree with what the script saw.
    let current = effects.clock <= keyspace.clock()
        && effects.whole.is_none_or(|version| version == keyspace.version())
        && effects.form == keyspace.packing().digest()
        && effects.holds(keyspace)
        && !effects.lost_fields(keyspace);
    if !current {
        return Reply::Nil;
    }
    keyspace.at_clock(effects.clock, |keyspace| match effects.holds(keyspace) {
        false => Reply::Nil,
        true => {
            let run =
                |(at, call): (usize, &Args)| run_write(call, keyspace, &stamp_of(effects.clock, effects.seed, at));
            Reply::Array(effects.calls.iter().enumerate().map(run).collect())
        }
    })
}

/// Whether one of the calls, or of the keys that were seen, is such a one.
pub(super) fn any_call(args: &Args, call: &mut dyn FnMut(&Args) -> bool, key: &mut dyn FnMut(&[u8]) -> bool) -> bool {
    let Some(effects) = Effects::read(args) else { return false };
    effects.watches.iter().any(|(watched, _)| key(watched)) || effects.calls.iter().any(call)
}

/// Runs one write; anything else is an error.
pub fn run_write(call: &Args, keyspace: &mut Keyspace, stamp: &Stamp) -> Reply {
    match super::lookup(call) {
        Ok(command) => match command.run {
            Run::Write(run) => run(call, keyspace, stamp),
            _ => Reply::error("ERR only writes can be applied"),
        },
        Err(reply) => reply,
    }
}

/// Bytes that the calls can add to the account, at most; none if all of them are let in however full memory is.
pub(super) fn growth(args: &Args, keyspace: &Keyspace, under_way: &mut dyn FnMut(&[u8]) -> u64) -> Option<u64> {
    let mut sum: Option<u64> = None;
    for call in Effects::read(args)?.calls {
        // Each works on what the calls before it have left, wherever they put it.
        let before = sum.unwrap_or(0);
        let grown = super::growth(&call, keyspace, &mut |key| under_way(key) + before);
        sum = grown.map(|grown| before.saturating_add(grown)).or(sum);
    }
    sum
}

/// Tells of each key whose value one of the calls may make larger.
pub(super) fn grown(args: &Args, tell: &mut dyn FnMut(&[u8])) {
    for call in Effects::read(args).into_iter().flat_map(|effects| effects.calls) {
        super::grown(&call, &mut *tell);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::split_words;

    fn call(line: &str) -> Args {
        split_words(line.as_bytes()).unwrap()
    }

    fn key(name: &'static str, seen: i64) -> (Bytes, Seen) {
        (Bytes::from_static(name.as_bytes()), Seen::from_number(seen))
    }

    /// A keyspace at this clock in which `a` has the version 1.
    fn keyspace(clock: Millis) -> Keyspace {
        let mut keyspace = Keyspace::new(7);
        keyspace.advance(&Stamp { now_ms: clock, seed: 0 });
        run_write(&call("set a 1"), &mut keyspace, &Stamp { now_ms: clock, seed: 0 });
        keyspace
    }

    #[test]
    fn golden_words_of_a_scripts_effects() {
        let effects = Effects {
            clock: 5,
            seed: 6,
            form: 7,
            whole: Some(9),
            watches: vec![key("a", 1), key("b", 0)],
            calls: vec![call("set b 2"), call("del a")],
        };
        let args = effects.to_args();
        let words: Vec<_> = args.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        assert_eq!(
            words.join(" "),
            "hc.effects 5 6 7 9 2 a 1 b 0 3 set b 2 2 del a",
            "the log's format may not change"
        );
        assert_eq!(Effects::read(&args), Some(effects));
        for short in [1, 2, 3, 4, 5, 7, 9, 11, 12, 13, 15, 16] {
            assert!(Effects::read(&args[..short].iter().cloned().collect()).is_none(), "{short}");
        }
    }

    #[test]
    fn effects_are_applied_only_on_what_was_seen() {
        let good = Effects { clock: 50, calls: vec![call("incr a"), call("set b 1 px 10")], ..Effects::default() };
        for (watches, whole, applied) in [
            (vec![key("a", 1), key("b", 0)], None, true),
            (vec![key("a", 1)], Some(1), true),
            (vec![key("a", 2)], None, false),
            (vec![key("a", 0)], None, false),
            (vec![key("b", 1)], None, false),
            (vec![], Some(2), false),
        ] {
            let mut keyspace = keyspace(100);
            let effects = Effects { watches, whole, ..good.clone() };
            let reply = super::super::apply(&effects.to_args(), &mut keyspace, &Stamp { now_ms: 100, seed: 0 });
            let done = Reply::Array(vec![Reply::Int(2), Reply::OK]);
            assert_eq!(reply, if applied { done } else { Reply::Nil }, "{effects:?}");
            assert_eq!(keyspace.version(), if applied { 3 } else { 1 });
            assert_eq!(keyspace.clock(), 100);
            // Its time ran out between the script's clock and the entry's.
            assert!(!keyspace.contains(b"b"));
        }
    }

    #[test]
    fn a_key_that_came_and_went_behind_the_scripts_clock_is_not_taken_for_absent() {
        let mut keyspace = keyspace(100);
        run_write(&call("set b 1 px 20"), &mut keyspace, &Stamp { now_ms: 100, seed: 0 });
        keyspace.advance(&Stamp { now_ms: 150, seed: 0 });
        let effects =
            Effects { clock: 90, watches: vec![key("b", 0)], calls: vec![call("incr b")], ..Effects::default() };
        assert_eq!(apply(&effects.to_args(), &mut keyspace), Reply::Nil);
        let ahead = Effects { clock: 151, calls: vec![call("incr b")], ..Effects::default() };
        assert_eq!(apply(&ahead.to_args(), &mut keyspace), Reply::Nil, "a clock ahead of the group's is none it had");
    }

    #[test]
    fn fields_that_died_since_and_another_form_of_values_count_as_changes() {
        let stamp = |now_ms| Stamp { now_ms, seed: 0 };
        let with = |now_ms, packing: Option<Packing>| {
            let mut keyspace = keyspace(100);
            run_write(&call("hset h f 1 g 2"), &mut keyspace, &stamp(100));
            run_write(&call("hpexpire h 20 fields 1 f"), &mut keyspace, &stamp(100));
            let version = keyspace.get(b"h").map_or(0, |entry| entry.version());
            packing.into_iter().for_each(|packing| keyspace.set_packing(packing));
            keyspace.advance(&stamp(now_ms));
            let watches = vec![key("h", version as i64)];
            let effects = Effects { clock: 110, watches, calls: vec![call("incr a")], ..Effects::default() };
            apply(&effects.to_args(), &mut keyspace)
        };
        let done = Reply::Array(vec![Reply::Int(2)]);
        assert_eq!(with(119, None), done);
        assert_eq!(with(120, None), Reply::Nil, "the script saw the field alive");
        assert_eq!(with(119, Some(Packing { set_integers: 3, ..Packing::default() })), Reply::Nil);
    }

    #[test]
    fn growth_is_that_of_the_calls() {
        let growth_of = |lines: &[&str]| {
            let calls = lines.iter().map(|line| call(line)).collect();
            growth(&Effects { calls, ..Effects::default() }.to_args(), &Keyspace::new(7), &mut |_| 0)
        };
        assert_eq!(growth_of(&["del a"]), None);
        let one = super::super::growth(&call("set a 1"), &Keyspace::new(7), &mut |_| 0);
        assert_eq!(growth_of(&["set a 1", "del a", "set a 1"]), one.map(|one| one * 2));
    }
}
