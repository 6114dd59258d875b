//! The atomic call: several commands as one call of a log entry, with nothing between them.
//!
//! ```text
//! hc.atomic | watches W | { key, what was seen } x W | { words of the call, word ... } ...
//! ```
//!
//! Every field is an argument; numbers are decimal. What was seen of a key is a number as in `Seen`: the version of its last
//! change, or since when it was absent. If every watched key is still as it was seen, the calls run one after the other and the reply is the array of
//! theirs; otherwise nothing runs and the reply is a missing array. Only a node builds it: its name is in no table, so no
//! door takes it from a client. Its keys and what it may add to memory are those of its calls.
//!
//! This is part of the log's format: the vector and the seeds are golden below. It is applied as any write is, so it must
//! be a function of the vector, the keyspace and the stamp alone. What a call inside answers does not decide whether
//! the next one runs.

use super::{Run, grown as grown_by_call, growth as growth_of_call, lookup};
use crate::planted::{self, Bug};
use crate::resp::{Args, Reply};
use crate::state::{Keyspace, Seen, View};
use crate::types::Stamp;
use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The first argument; never sent by a client.
pub const NAME: &[u8] = b"hc.atomic";
/// Calls in it, at most: an entry is applied under one lock.
pub const CALLS_MAX: usize = 65_536;
/// Bytes of its arguments, at most: it has to fit an entry beside others, and a frame between nodes.
pub const BYTES_MAX: usize = 64 << 20;
/// What is counted for an argument beside its bytes: what the log and a frame add to it.
pub const ARGUMENT_BYTES: usize = 4;
/// Bytes of replies after which reads inside are refused, each alone: they travel to the node that asked in one frame.
pub const REPLY_BYTES_MAX: usize = 64 << 20;

/// A number as an argument.
pub(super) fn number(n: usize) -> Bytes {
    const SMALL: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    match SMALL.get(n) {
        Some(digit) => Bytes::from_static(digit.as_bytes()),
        None => Bytes::from(n.to_string()),
    }
}

/// The vector of the calls, which are numbers of words with their words behind them, on condition that the watched
/// keys are as they were seen.
pub(super) fn vector(watches: &[(Bytes, Seen)], calls: Vec<Bytes>) -> Args {
    let mut args = Vec::with_capacity(2 + 2 * watches.len() + calls.len());
    args.push(Bytes::from_static(NAME));
    args.push(number(watches.len()));
    for (key, seen) in watches {
        args.push(key.clone());
        args.push(Bytes::from(seen.number().to_string()));
    }
    args.extend(calls);
    args.into()
}

/// Whether this is an atomic call.
#[inline]
pub fn is_atomic(args: &Args) -> bool {
    args.first().is_some_and(|name| &name[..] == NAME)
}

/// An atomic call taken apart. Nothing is run before the whole of it was read.
struct Atomic<'a> {
    /// Keys and what was seen of them, in turn.
    watches: &'a [Bytes],
    calls: Vec<&'a [Bytes]>,
}

/// A number that is an argument.
pub(super) fn digits<T: std::str::FromStr>(arg: &Bytes) -> Option<T> {
    std::str::from_utf8(arg).ok()?.parse().ok()
}

impl<'a> Atomic<'a> {
    fn parse(args: &'a Args) -> Option<Atomic<'a>> {
        let watches = digits::<usize>(args.get(1)?)?.checked_mul(2)?;
        let (watches, mut rest) = args[2..].split_at_checked(watches)?;
        let mut calls = Vec::new();
        while let Some((words, behind)) = rest.split_first() {
            let (call, behind) = behind.split_at_checked(digits(words)?)?;
            calls.push(call);
            rest = behind;
        }
        Some(Atomic { watches, calls })
    }

    /// Whether every watched key is as it was seen.
    fn holds(&self, is_as_seen: impl Fn(&[u8], Seen) -> bool) -> bool {
        let mut watches = self.watches.chunks_exact(2);
        planted::is(Bug::WatchIgnored)
            || watches.all(|watch| digits(&watch[1]).is_some_and(|seen| is_as_seen(&watch[0], Seen::from_number(seen))))
    }

    /// The calls one after the other, each with its seed.
    fn each(&self, seed: u64, mut run: impl FnMut(&Args, u64, bool) -> Reply) -> Reply {
        let mut kept = 0;
        let replies = self.calls.iter().enumerate().map(|(place, call)| {
            let reply = run(&call.iter().cloned().collect(), seed_of(seed, place), kept < REPLY_BYTES_MAX);
            kept += reply.weight();
            reply
        });
        Reply::Array(replies.collect())
    }
}

/// Watched keys with what was seen of them.
pub type Watches = Vec<(Bytes, Seen)>;

/// The watched keys, and the calls, of an atomic call in which scripts are among the calls: it is
/// not applied as such, the scripts' executor runs it. None if it cannot be read.
pub fn take_apart(args: &Args) -> Option<(Watches, Vec<Args>)> {
    let atomic = Atomic::parse(args).filter(|_| is_atomic(args))?;
    let watch = |pair: &[Bytes]| Some((pair[0].clone(), Seen::from_number(digits(&pair[1])?)));
    let watches = atomic.watches.chunks_exact(2).map(watch).collect::<Option<_>>()?;
    Some((watches, atomic.calls.iter().map(|call| call.iter().cloned().collect()).collect()))
}

/// The seed of the call at a place, of those that stand together.
pub fn seed_of(seed: u64, place: usize) -> u64 {
    xxh3_64_with_seed(&(place as u64).to_le_bytes(), seed)
}

fn malformed() -> Reply {
    Reply::error("ERR an atomic call that cannot be read")
}

/// The reply in the place of a read that is left out because of [`REPLY_BYTES_MAX`].
pub fn too_much() -> Reply {
    Reply::error("ERR the replies of this transaction are larger than 64 MiB; this read was left out")
}

/// Applies it. Whatever the arguments are, the answer is a reply.
pub(super) fn apply(args: &Args, keyspace: &mut Keyspace, stamp: &Stamp) -> Reply {
    let Some(atomic) = Atomic::parse(args) else { return malformed() };
    if !atomic.holds(|key, seen| keyspace.is_as_seen(key, seen)) {
        return Reply::NilArray;
    }
    atomic.each(stamp.seed, |call, seed, room| match lookup(call).map(|command| command.run) {
        Ok(Run::Write(run)) => run(call, keyspace, &Stamp { now_ms: stamp.now_ms, seed }),
        Ok(Run::Read(run)) if room => run(call, &View::in_entry(keyspace, seed)),
        Ok(Run::Read(_)) => too_much(),
        Ok(_) => Reply::error("ERR only commands about keys can be applied"),
        Err(refused) => refused,
    })
}

/// The same for one that only reads: it needs no entry.
pub fn read(args: &Args, view: &View<'_>) -> Reply {
    let Some(atomic) = Atomic::parse(args) else { return malformed() };
    if !atomic.holds(|key, seen| view.is_as_seen(key, seen)) {
        return Reply::NilArray;
    }
    atomic.each(0, |call, _, room| match lookup(call).map(|command| command.run) {
        Ok(Run::Read(run)) if room => run(call, view),
        Ok(Run::Read(_)) => too_much(),
        Ok(_) => Reply::error("ERR only reads can be run on a view"),
        Err(refused) => refused,
    })
}

/// Whether one of its calls, or of the keys that it watches, is such a one.
pub(super) fn any_call(args: &Args, call: &mut dyn FnMut(&Args) -> bool, key: &mut dyn FnMut(&[u8]) -> bool) -> bool {
    let Some(atomic) = Atomic::parse(args) else { return false };
    atomic.watches.chunks_exact(2).any(|watch| key(&watch[0]))
        || atomic.calls.iter().any(|words| call(&words.iter().cloned().collect()))
}

/// What its calls can add to the account; none if every one of them is let through however full memory is.
pub(super) fn growth(args: &Args, keyspace: &Keyspace, under_way: &mut dyn FnMut(&[u8]) -> u64) -> Option<u64> {
    let mut sum: Option<u64> = None;
    for call in Atomic::parse(args)?.calls {
        // Each works on what the calls before it have left, wherever they put it.
        let before = sum.unwrap_or(0);
        let grown = growth_of_call(&call.iter().cloned().collect(), keyspace, &mut |key| under_way(key) + before);
        sum = grown.map(|grown| before.saturating_add(grown)).or(sum);
    }
    sum
}

/// Tells of each key whose value one of its calls may make larger.
pub(super) fn grown(args: &Args, tell: &mut dyn FnMut(&[u8])) {
    for call in Atomic::parse(args).into_iter().flat_map(|atomic| atomic.calls) {
        grown_by_call(&call.iter().cloned().collect(), &mut *tell);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::split_words;

    fn args(line: &str) -> Args {
        split_words(line.as_bytes()).unwrap()
    }

    fn atomic(watches: &[(&'static str, i64)], lines: &[&str]) -> Args {
        let seen = |(key, number): &(&'static str, i64)| (Bytes::from(*key), Seen::from_number(*number));
        let watches: Watches = watches.iter().map(seen).collect();
        let calls =
            lines.iter().map(|line| args(line)).flat_map(|call| [vec![number(call.len())], call.to_vec()].concat());
        vector(&watches, calls.collect())
    }

    #[test]
    fn golden_vector_and_seeds() {
        let line = "hc.atomic 3 a -8 b 9223372036854775807 c 0 3 SET a 1 12 mget a a a a a a a a a a a";
        let built = atomic(&[("a", -8), ("b", i64::MAX), ("c", 0)], &["SET a 1", "mget a a a a a a a a a a a"]);
        assert_eq!(built, args(line), "the format of what is in the log may not change");
        assert_eq!(atomic(&[], &[]), args("hc.atomic 0"));
        let seeds = [seed_of(0, 0), seed_of(1, 0), seed_of(1, 1)];
        assert_eq!(seeds, GOLDEN_SEEDS, "what is in the log may not mean something else");
    }

    const GOLDEN_SEEDS: [u64; 3] = [14374147212387527897, 11408090015561836892, 9612670148589084341];

    #[test]
    fn what_cannot_be_read_changes_nothing() {
        let mut keyspace = Keyspace::new(7);
        for line in [
            "hc.atomic",
            "hc.atomic x",
            "hc.atomic -1 3 set a 1",
            "hc.atomic 1 a",
            "hc.atomic 18446744073709551615 3 set a 1",
            "hc.atomic 0 3 set a",
            "hc.atomic 0 3 set a 1 2 get",
            "hc.atomic 0 3 set a 1 x",
        ] {
            assert!(super::super::apply(&args(line), &mut keyspace, &Stamp::default()).is_error(), "{line}");
            assert!(read(&args(line), &View::new(&keyspace, None)).is_error(), "{line}");
            assert_eq!(growth(&args(line), &keyspace, &mut |_| 0), None, "{line}");
        }
        assert_eq!(keyspace.version(), 0);
    }

    #[test]
    fn a_client_cannot_say_it_and_one_inside_another_is_not_run() {
        for line in ["hc.atomic 0", "HC.ATOMIC 0 3 set a 1"] {
            assert!(lookup(&args(line)).is_err(), "{line}");
        }
        let mut keyspace = Keyspace::new(7);
        let nested = atomic(&[], &["hc.atomic 0 3 set a 1", "client id", "set b 1"]);
        let Reply::Array(replies) = apply(&nested, &mut keyspace, &Stamp::default()) else { panic!() };
        assert!(replies[0].is_error() && replies[1].is_error() && replies[2] == Reply::OK, "{replies:?}");
        assert!(!keyspace.contains(b"a"));
    }

    #[test]
    fn a_watched_version_that_moved_stops_everything() {
        let mut keyspace = Keyspace::new(7);
        let stamp = Stamp { now_ms: 1000, seed: 0 };
        keyspace.advance(&stamp);
        let set = |keyspace: &mut Keyspace, line: &str| super::super::apply(&args(line), keyspace, &stamp);
        set(&mut keyspace, "set a 1");
        set(&mut keyspace, "set t 1 px 10");
        let [a, t] = [&b"a"[..], b"t"].map(|key| keyspace.see(key).number());
        let once = |keyspace: &mut Keyspace, watches: &[(&'static str, i64)]| {
            let call = atomic(watches, &["get a"]);
            let viewed = read(&call, &View::new(keyspace, None));
            assert_eq!(viewed, apply(&call, keyspace, &stamp), "both ways answer alike");
            viewed != Reply::NilArray
        };
        assert!(once(&mut keyspace, &[("a", a), ("t", t), ("none", 0)]));
        assert!(!once(&mut keyspace, &[("a", a), ("none", 1)]));
        assert!(!once(&mut keyspace, &[("a", 0)]));
        // One that was alive and died counts as changed; one that was gone already does not.
        keyspace.advance(&Stamp { now_ms: 1010, seed: 0 });
        assert!(!once(&mut keyspace, &[("t", t)]));
        assert!(once(&mut keyspace, &[("t", 0)]));
        set(&mut keyspace, "set a 1");
        assert!(!once(&mut keyspace, &[("a", a)]), "written again with the same value");
        set(&mut keyspace, "flushall");
        assert!(!once(&mut keyspace, &[("a", a)]));
    }

    #[test]
    fn a_watched_key_that_was_absent_and_came_and_went_stops_everything() {
        let mut keyspace = Keyspace::new(7);
        let stamp = Stamp { now_ms: 1000, seed: 0 };
        keyspace.advance(&stamp);
        let seen = keyspace.see(b"a").number();
        let once = |keyspace: &mut Keyspace| {
            let call = atomic(&[("a", seen)], &["get a"]);
            let viewed = read(&call, &View::new(keyspace, None));
            assert_eq!(viewed, apply(&call, keyspace, &stamp), "both ways answer alike");
            viewed != Reply::NilArray
        };
        assert!(once(&mut keyspace));
        for line in ["set a 1", "del a"] {
            super::super::apply(&args(line), &mut keyspace, &stamp);
            assert!(!once(&mut keyspace), "after {line}");
        }
    }

    #[test]
    fn it_may_add_what_its_calls_may() {
        let calls = ["set a 1", "get a", "del a", "append b xyz", "nope"];
        let keyspace = Keyspace::new(7);
        let growth = |args: &Args| growth_of_call(args, &keyspace, &mut |_| 0);
        let sum: u64 = calls.iter().filter_map(|line| growth(&args(line))).sum();
        assert!(sum > 0);
        assert_eq!(growth(&atomic(&[("a", 1)], &calls)), Some(sum));
        assert_eq!(growth(&atomic(&[], &["get a", "del a"])), None);
        // What one has written may be copied by the next.
        let large = format!("sadd s {}", "x".repeat(5000));
        let copied = growth(&atomic(&[], &[&large, "sunionstore t s"])).unwrap();
        assert!(copied > growth(&args(&large)).unwrap() + 5000);
        let mut keys = Vec::new();
        grown_by_call(&atomic(&[("w", 1)], &["set a 1", "get b", "sunionstore t s u"]), |key| keys.push(key.to_vec()));
        assert_eq!(keys, [&b"a"[..], b"b", b"t"]);
    }

    #[test]
    fn reads_that_would_answer_too_much_are_left_out_and_writes_are_not() {
        let mut keyspace = Keyspace::new(7);
        let stamp = Stamp::default();
        super::super::apply(&args(&format!("set a {}", "x".repeat(1 << 20))), &mut keyspace, &stamp);
        let lines: Vec<&str> = std::iter::repeat_n("get a", 66).chain(["set b 1", "get b"]).collect();
        let Reply::Array(replies) = apply(&atomic(&[], &lines), &mut keyspace, &stamp) else { panic!() };
        let refused: Vec<usize> = (0..replies.len()).filter(|at| replies[*at].is_error()).collect();
        assert_eq!(refused, [64, 65, 67]);
        assert!(keyspace.contains(b"b"));
    }
}
