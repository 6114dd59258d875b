//! Runs `tests/commands/*.txt` against the bare keyspace, and against a real Redis if one is installed.

mod bare;
mod fuzz;
mod notation;
mod redis;
mod shapes;
mod transcript;

use bare::Bare;
use bytes::BytesMut;
use hypercache::commands::{self, Command, Run};
use hypercache::resp::{self, Args, Limits, Protocol, Reply, ReplyDecoder};
use hypercache::types::Stamp;
use redis::{Redis, words};
use shapes::{Shape, Shapes};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use transcript::Action;

#[test]
fn the_bare_keyspace_answers_as_written() {
    let mut differences = String::new();
    for transcript in transcript::within("tests/commands") {
        let bare = RefCell::new(Bare::new());
        differences += &transcript.run(|args| bare.borrow_mut().answer(args), |ms| pass(&mut bare.borrow_mut(), ms));
    }
    assert!(differences.is_empty(), "\n{differences}");
}

/// Lets time go by. What is due goes, as by a tick.
fn pass(bare: &mut Bare, ms: u64) {
    let Bare { keyspace, stamp, .. } = bare;
    stamp.now_ms += ms;
    keyspace.advance(stamp);
    let due = keyspace.due_ranges(keyspace.clock(), usize::MAX);
    keyspace.sweep(&due);
}

/// The reply as a client reads it.
fn on_the_wire(reply: &Reply, protocol: Protocol) -> Reply {
    let mut wire = BytesMut::new();
    reply.encode(protocol, &mut wire);
    ReplyDecoder::new(Limits::default()).decode(&mut wire).expect("it is a reply").expect("it is whole")
}

/// The shapes of all replies of transcripts that are no errors, by command.
fn shapes_of(replies: impl IntoIterator<Item = (Args, Reply, Protocol)>) -> Shapes {
    let names: BTreeMap<_, _> = commands::all().map(|(name, command)| (std::ptr::from_ref(command), name)).collect();
    let mut shapes = Shapes::new();
    for (args, reply, protocol) in replies {
        if let Ok(command) = commands::lookup(&args)
            && !reply.is_error()
            && reply != Reply::status("QUEUED")
        {
            let both = shapes.entry(names[&std::ptr::from_ref(command)].clone()).or_default();
            both[usize::from(protocol == Protocol::Resp3)].add(Shape::of(&reply));
        }
    }
    shapes
}

/// What is not as declared, in the words of the declaration.
fn undeclared(found: &Shapes) -> String {
    let declared = shapes::declared();
    let is_not = |(name, both): &(&String, &[Shape; 2])| {
        declared.get(*name).is_none_or(|declared| !both.iter().zip(declared).all(|(one, other)| one.is_within(other)))
    };
    found.iter().filter(is_not).map(|(name, both)| shapes::line(name, both) + "\n").collect()
}

#[test]
fn replies_of_the_bare_keyspace_have_the_declared_shapes() {
    let mut replies = Vec::new();
    for protocol in [Protocol::Resp2, Protocol::Resp3] {
        for transcript in transcript::within("tests/commands") {
            let bare = RefCell::new(Bare::new());
            bare.borrow_mut().session.protocol = protocol;
            transcript.run(
                |args| {
                    let reply = bare.borrow_mut().answer(args);
                    replies.push((args.clone(), on_the_wire(&reply, protocol), protocol));
                    reply
                },
                |ms| pass(&mut bare.borrow_mut(), ms),
            );
        }
    }
    let found = shapes_of(replies);
    let wrong = undeclared(&found);
    assert!(wrong.is_empty(), "these replies are not as tests/commands/shapes declares:\n{wrong}");
    let unseen: Vec<_> = shapes::declared().into_keys().filter(|name| !found.contains_key(name)).collect();
    assert!(unseen.is_empty(), "no transcript has replies of {unseen:?}");
}

#[test]
fn replies_of_a_real_redis_have_the_declared_shapes() {
    let Some(mut redis) = Redis::start() else {
        eprintln!("SKIPPED: no redis-server is installed, declared shapes were not compared with Redis");
        return;
    };
    let version = redis.version();
    let mut replies = Vec::new();
    for (hello, protocol) in [("HELLO 2", Protocol::Resp2), ("HELLO 3", Protocol::Resp3)] {
        for transcript in transcript::within("tests/commands") {
            if transcript.redis.is_none_or(|needed| needed > version) || transcript.module.is_some() {
                continue;
            }
            for line in ["RESET", hello, "FLUSHALL"] {
                redis.answer(&words(line));
            }
            transcript.run(
                |args| {
                    let reply = redis.answer(args);
                    replies.push((args.clone(), reply.clone(), protocol));
                    reply
                },
                |_| panic!("the clock of Redis cannot be moved"),
            );
        }
    }
    let wrong = undeclared(&shapes_of(replies));
    assert!(wrong.is_empty(), "these replies are not as tests/commands/shapes declares:\n{wrong}");
}

#[test]
fn every_command_of_the_keyspace_has_a_transcript() {
    let mut seen = BTreeSet::new();
    for step in transcript::within("tests/commands").iter().flat_map(|transcript| &transcript.steps) {
        if let Action::Command { args, .. } = &step.action
            && let Ok(command) = commands::lookup(args)
        {
            seen.insert(std::ptr::from_ref(command));
        }
    }
    let missing: Vec<String> = commands::all()
        .filter(|(_, command)| matches!(command.run, Run::Read(_) | Run::Write(_) | Run::Transaction(_)))
        .filter(|(_, command)| !seen.contains(&std::ptr::from_ref(*command)))
        .map(|(name, _)| name)
        .collect();
    assert!(missing.is_empty(), "no transcript runs {missing:?}");
}

#[test]
fn a_real_redis_answers_as_written() {
    let Some(mut redis) = Redis::start() else {
        eprintln!("SKIPPED: no redis-server is installed, the transcripts were not compared with Redis");
        return;
    };
    let version = redis.version();
    let mut differences = String::new();
    for transcript in transcript::within("tests/commands") {
        if transcript.redis.is_none_or(|needed| needed > version) {
            eprintln!("SKIPPED: {} is not for Redis {version:?}", transcript.path.display());
            continue;
        }
        if let Some(module) = &transcript.module
            && !redis.has_module(module)
        {
            eprintln!("SKIPPED: {} needs the module {module}, which Redis has not loaded", transcript.path.display());
            continue;
        }
        redis.answer(&words("FLUSHALL"));
        differences += &transcript.run(|args| redis.answer(args), |_| panic!("the clock of Redis cannot be moved"));
    }
    assert!(differences.is_empty(), "\n{differences}");
}

#[test]
fn a_real_redis_answers_random_requests_alike() {
    let Some(mut redis) = Redis::start() else {
        eprintln!("SKIPPED: no redis-server is installed, random requests were not compared with Redis");
        return;
    };
    let requests = fuzz::setting("COMMAND_FUZZ_REQUESTS", 30_000);
    fuzz::run(&mut redis, &mut Bare::new(), requests, fuzz::setting("COMMAND_FUZZ_SEED", 2));
}

impl fuzz::Ours for Bare {
    fn begin(&mut self, protocol: Protocol) {
        *self = Bare::new();
        self.session.protocol = protocol;
    }

    fn answer(&mut self, args: &Args, now_ms: u64) -> Reply {
        self.stamp = Stamp { now_ms: self.stamp.now_ms.max(now_ms), seed: self.stamp.seed + 1 };
        let reply = Bare::answer(self, args);
        on_the_wire(&reply, self.session.protocol)
    }

    fn takes(&self, name: &str, command: &Command) -> bool {
        // Users are kept by a cluster.
        matches!(command.run, Run::Read(_) | Run::Write(_) | Run::Session(_)) && !name.starts_with("acl|")
    }
}
