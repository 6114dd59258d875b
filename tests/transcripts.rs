//! Runs `tests/commands/*.txt` against the bare keyspace, and against a real Redis if one is installed.

mod bare;
mod fuzz;
mod notation;
mod redis;
mod transcript;

use bare::Bare;
use bytes::BytesMut;
use hypercache::commands::{self, Command, Run};
use hypercache::resp::{self, Args, Limits, Protocol, Reply, ReplyDecoder};
use hypercache::types::Stamp;
use redis::{Redis, words};
use std::cell::RefCell;
use std::collections::BTreeSet;
use transcript::Action;

#[test]
fn the_bare_keyspace_answers_as_written() {
    let mut differences = String::new();
    for transcript in transcript::within("tests/commands") {
        let bare = RefCell::new(Bare::new());
        differences += &transcript.run(
            |args| bare.borrow_mut().answer(args),
            |ms| {
                // A tick: what is due goes.
                let Bare { keyspace, stamp, .. } = &mut *bare.borrow_mut();
                stamp.now_ms += ms;
                keyspace.advance(stamp);
                let due = keyspace.due_ranges(keyspace.clock(), usize::MAX);
                keyspace.sweep(&due);
            },
        );
    }
    assert!(differences.is_empty(), "\n{differences}");
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
        let mut wire = BytesMut::new();
        reply.encode(self.session.protocol, &mut wire);
        ReplyDecoder::new(Limits::default()).decode(&mut wire).expect("it is a reply").expect("it is whole")
    }

    fn takes(&self, name: &str, command: &Command) -> bool {
        // Users are kept by a cluster.
        matches!(command.run, Run::Read(_) | Run::Write(_) | Run::Session(_)) && !name.starts_with("acl|")
    }
}
