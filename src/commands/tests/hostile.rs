//! Whatever clients send, apply answers: a panic there would stop a group for good, on all of its replicas.
//!
//! `HOSTILE_CALLS=5000000` makes a long run of the short one that the test suite has; `HOSTILE_SEED` another one.

use super::super::copy::{seal, unseal};
use super::super::*;
use super::nasty::{Nasty, families_of, is_large, key_of, table};
use crate::state::Precision;
use fastrand::Rng;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};

fn setting(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// A keyspace, and what was asked of it since it was empty.
struct Run {
    keyspace: Keyspace,
    stamp: Stamp,
    done: Vec<Args>,
}

impl Run {
    fn new() -> Run {
        let stamp = Stamp { now_ms: 1_700_000_000_000, seed: 5 };
        let mut keyspace = Keyspace::new(7);
        keyspace.advance(&stamp);
        Run { keyspace, stamp, done: Vec::new() }
    }

    /// Runs a call as apply does, a read as inside of a transaction. If it panics, it is told what led there.
    fn call(&mut self, args: &Args) -> Reply {
        self.done.push(args.clone());
        let Run { keyspace, stamp, .. } = self;
        let run = || {
            let reserved = growth(args, keyspace, &mut |_| 0);
            if is_large(args, reserved) {
                return Reply::Nil;
            }
            stamp.seed = stamp.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1);
            keyspace.advance(stamp);
            // Fields that are dead may go with any call.
            let is_due = keyspace.next_deadline().is_some_and(|deadline| deadline <= keyspace.clock());
            let (version, used) = (keyspace.version(), keyspace.used_bytes());
            grown(args, |_| ());
            let reply = match lookup(args) {
                Ok(command) if command.is_read() => read_with(args, &View::in_entry(keyspace, stamp.seed)),
                Ok(command) => {
                    keys(command, args).for_each(drop);
                    (command.check)(args).err().unwrap_or_else(|| apply(args, keyspace, stamp))
                }
                Err(refused) => refused,
            };
            assert!(!reply.is_error() || is_due || keyspace.version() == version, "an error changes nothing");
            // Of a filter all but its frame is reserved, of SORT what it sorts.
            let reserves_less = [&b"bf."[..], b"cf.", b"sort"].iter().any(|name| args[0].starts_with(name));
            let fits = reserved.is_none_or(|most| keyspace.used_bytes() <= used.saturating_add(most));
            assert!(reserves_less || fits, "{} became {}, of {reserved:?}", used, keyspace.used_bytes());
            reply
        };
        catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| self.failed("it panics"))
    }

    fn failed(&self, what: &str) -> ! {
        let cut = |word: &Bytes| {
            let shown = word.escape_ascii().to_string();
            if shown.len() < 3000 { format!("\"{shown}\"") } else { format!("({} bytes)", word.len()) }
        };
        let lines: Vec<String> =
            self.done.iter().map(|args| args.iter().map(cut).collect::<Vec<_>>().join(" ")).collect();
        panic!("{what}:\n{}", lines[lines.len().saturating_sub(300)..].join("\n"));
    }

    /// A tick.
    fn sweep(&mut self) {
        self.keyspace.advance(&self.stamp);
        let due = self.keyspace.due_ranges(self.keyspace.clock(), usize::MAX);
        self.keyspace.sweep(&due);
    }

    fn check(&self) {
        if !self.keyspace.accounts_are_right() {
            self.failed("the account is wrong");
        }
    }

    /// What there is goes into a snapshot and comes out, and each value goes through a dump: no call may make what is
    /// refused there.
    fn copy(&mut self) {
        let head = self.keyspace.begin_cut().to_bytes();
        let images: Vec<_> = std::iter::from_fn(|| self.keyspace.cut_next(1 << 20)).flatten().collect();
        for entry in View::new(&self.keyspace, None).scan(0, usize::MAX).0 {
            let value = entry.value().to_value();
            if !matches!(unseal(&seal(value.to_bytes())), Ok(Some(again)) if again == value) {
                self.failed(&format!("the dump of {:?} is refused", entry.key().escape_ascii().to_string()));
            }
        }
        let images = images.into_iter().map(|image| Ok::<_, Infallible>(image.into_bytes()));
        match Keyspace::restore(&head, images, Precision::default()) {
            Ok(copy) if copy.state_hash() == self.keyspace.state_hash() => {}
            Ok(_) => self.failed("the snapshot is another state"),
            Err(refused) => self.failed(&refused.to_string()),
        }
    }
}

#[test]
fn no_call_makes_apply_panic() {
    let calls = setting("HOSTILE_CALLS", 20_000);
    let mut nasty = Nasty::new(Rng::with_seed(setting("HOSTILE_SEED", 1)));
    let table = table();
    let (mut made, mut refused) = (0, 0);
    while made < calls {
        let mut run = Run::new();
        // Some commands more often than others, each time different ones.
        let few: Vec<_> = (0..40).map(|_| table[nasty.choices.usize(..table.len())].clone()).collect();
        for turn in 0..300 {
            let args = nasty.request(if turn % 3 == 0 { &table } else { &few });
            let reply = run.call(&args);
            if let Reply::Bulk(dump) = &reply
                && args[0].eq_ignore_ascii_case(b"dump")
            {
                nasty.dump = dump.clone();
            }
            made += 1;
            refused += u64::from(reply.is_error());
            if turn % 16 == 0 {
                run.stamp.now_ms += [0, 1, 1000, 100_000][nasty.choices.usize(..4)];
                if nasty.choices.bool() {
                    run.sweep();
                }
                run.check();
            }
            if run.keyspace.used_bytes() > 64 << 20 {
                run.call(&[Bytes::from("flushall")].into_iter().collect());
            }
        }
        run.check();
        run.copy();
    }
    assert!(refused * 10 < calls * 8, "{refused} of {calls} were refused: little was tried");
}

/// Commands of the families that have keys of that name, and those of any type.
fn of_type<'a>(
    known: &'a mut BTreeMap<&'static str, Vec<(String, &'static Command)>>,
    table: &[(String, &'static Command)],
    key: &'static str,
) -> &'a [(String, &'static Command)] {
    known.entry(key).or_insert_with(|| {
        let families: Vec<&str> = families_of(key).chain(["generic"]).collect();
        table.iter().filter(|(_, command)| families.contains(&command.spec.family)).cloned().collect()
    })
}

/// Values of every type in every form, made by calls, as dumps.
fn dumps(nasty: &mut Nasty<Rng>) -> Vec<Vec<u8>> {
    let mut run = Run::new();
    let words = |from: u64, to: u64| (from..to).map(|n| format!("w{n}")).collect::<Vec<_>>().join(" ");
    let pairs = |to: u64| (0..to).map(|n| format!("{n} w{n}")).collect::<Vec<_>>().join(" ");
    for line in [
        "set s text",
        "incrbyfloat n 1.5",
        "append t abc",
        "pfadd p a b c d e f",
        "hset h a 1 b 2 c 3",
        "hset i a 1 b 2 c 3 d 4",
        "hpexpire i 100000 fields 2 a b",
        "hpexpire i 50 fields 1 c",
        &format!("hset j {}", pairs(140)),
        &format!("rpush l {}", words(0, 20)),
        &format!("rpush m {}", words(0, 3000)),
        "sadd e 1 2 3 70000",
        "sadd f a b c 1",
        &format!("sadd d {}", words(0, 140)),
        "zadd z 1 a 2 b 2.5 c inf d",
        &format!("zadd y {}", pairs(140)),
        "geoadd g 13.361389 38.115556 a 15.087269 37.502669 b",
        "xadd x 1-1 a 1 b 2",
        "xadd x 5-1 a 1",
        "xadd x 5-2 a 3",
        "xgroup create x a 0",
        "xgroup create x b 1-1 entriesread 1",
        "xreadgroup group a a count 2 streams x >",
        "xreadgroup group a b streams x >",
        "xreadgroup group b a streams x >",
        "xgroup createconsumer x a c",
        "xdel x 1-1",
        "xgroup create w a $ mkstream",
        "cf.reserve c 8 bucketsize 2 expansion 2",
        &format!("cf.insert c items {}", words(0, 30)),
        "cf.del c w1",
        "bf.reserve o 0.01 4 expansion 2",
        &format!("bf.madd o {}", words(0, 20)),
        "bf.reserve r 0.1 4 nonscaling",
        "bf.add r a",
    ] {
        let args = crate::resp::split_words(line.as_bytes()).unwrap();
        assert!(!run.call(&args).is_error(), "{line}");
    }
    // Half of a filter, as a load leaves it.
    let scan = |from: &str| crate::resp::split_words(format!("cf.scandump c {from}").as_bytes()).unwrap();
    let Reply::Array(header) = run.call(&scan("0")) else { panic!("it has a header") };
    let [Reply::Int(1), Reply::Bulk(header)] = &header[..] else { panic!("it has a header") };
    let load: Args = [Bytes::from("cf.loadchunk"), "u".into(), "1".into(), header.clone()].into_iter().collect();
    assert_eq!(run.call(&load), Reply::OK);
    let table = table();
    (0..nasty.choices.usize(..200)).for_each(|_| drop(run.call(&nasty.request(&table))));
    run.call(&crate::resp::split_words(b"mset s text {s} 1").unwrap());
    View::new(&run.keyspace, None)
        .scan(0, usize::MAX)
        .0
        .iter()
        .map(|entry| entry.value().to_value().to_bytes())
        .collect()
}

/// A checksum can be computed by anybody: what is behind it is refused, or is a value like any that calls make.
#[test]
fn a_dump_that_was_made_to_do_harm_is_refused_or_does_none() {
    let turns = setting("HOSTILE_CALLS", 20_000) / 5;
    let mut nasty = Nasty::new(Rng::with_seed(setting("HOSTILE_SEED", 1)));
    let table = table();
    let (mut done, mut taken, mut refused) = (0, 0, 0);
    let (mut dumps_of, mut of_key) = (Vec::new(), BTreeMap::new());
    while done < turns {
        if done % 400 == 0 {
            dumps_of = dumps(&mut nasty);
        }
        done += 1;
        let mut body = dumps_of[nasty.choices.usize(..dumps_of.len())].clone();
        nasty.mutate(&mut body);
        if nasty.choices.u8(..8) == 0 {
            // The end of another one.
            let other = &dumps_of[nasty.choices.usize(..dumps_of.len())];
            body.truncate(nasty.choices.usize(..=body.len()));
            body.extend_from_slice(&other[nasty.choices.usize(..=other.len())..]);
        }
        let mut run = Run::new();
        let key = key_of(&body);
        nasty.dump = seal(body.clone());
        let restore = ["restore", key, "0"].into_iter().map(Bytes::from).chain([nasty.dump.clone()]).collect();
        let version = run.keyspace.version();
        if run.call(&restore).is_error() {
            refused += 1;
            assert_eq!(run.keyspace.version(), version);
            continue;
        }
        taken += 1;
        if run.keyspace.get(key.as_bytes()).is_some_and(|entry| entry.value().to_value().to_bytes() != body) {
            run.failed("it has another spelling");
        }
        run.check();
        for turn in 0..20 {
            let args = nasty.request(of_type(&mut of_key, &table, key));
            run.call(&args);
            run.stamp.now_ms += turn * 10;
        }
        run.check();
        run.copy();
    }
    assert!(taken * 20 > turns && refused * 20 > turns, "{taken} taken, {refused} refused");
}

/// What has once gone wrong.
#[test]
fn calls_that_once_broke_something() {
    for lines in [
        // A list that a removal of nothing packed again kept its account.
        &["rpush l #", "lset l 0 a", "ltrim l 0 -1"][..],
        &["rpush l #", "lset l 0 a", "lpop l 0"],
    ] {
        let mut run = Run::new();
        for line in lines {
            let line = line.replace('#', &"x".repeat(9000));
            let reply = run.call(&crate::resp::split_words(line.as_bytes()).unwrap());
            assert!(!reply.is_error(), "{line}: {reply:?}");
            run.check();
        }
        run.copy();
    }
}
