//! Runs `tests/commands/*.txt` against the bare keyspace, and these and `tests/commands/doors/*.txt` against a real Redis if one
//! is installed.

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
use shapes::Heard;
use std::cell::RefCell;
use std::collections::BTreeSet;
use transcript::{Action, Face, OF_KEYS};

#[test]
fn the_bare_keyspace_answers_as_written() {
    let mut differences = String::new();
    for transcript in transcript::within(OF_KEYS) {
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

#[test]
fn replies_of_the_bare_keyspace_have_the_declared_shapes() {
    let mut heard = Vec::new();
    for protocol in [Protocol::Resp2, Protocol::Resp3] {
        for transcript in transcript::within(OF_KEYS) {
            let bare = RefCell::new(Bare::new());
            bare.borrow_mut().session.protocol = protocol;
            transcript.run(
                |args| {
                    let reply = bare.borrow_mut().answer(args);
                    heard.push((args.clone(), on_the_wire(&reply, protocol), protocol));
                    reply
                },
                |ms| pass(&mut bare.borrow_mut(), ms),
            );
        }
    }
    shapes::hold(heard);
}

#[test]
fn every_command_has_a_transcript() {
    let mut seen = BTreeSet::new();
    for step in transcript::all().flat_map(|transcript| transcript.steps) {
        if let Action::Command { args, .. } = &step.action
            && let Ok(command) = commands::lookup(args)
        {
            seen.insert(std::ptr::from_ref(command));
        }
    }
    let missing: Vec<String> = commands::all()
        // The name of a container alone is no command.
        .filter(|(_, command)| !matches!(command.run, Run::Container))
        .filter(|(_, command)| !seen.contains(&std::ptr::from_ref(*command)))
        .map(|(name, _)| name)
        .collect();
    assert!(missing.is_empty(), "no transcript runs {missing:?}");
}

/// Tells a real Redis all transcripts that are for it, each on a connection of its own. Gives the differences and what was
/// answered; `None` if no Redis is installed.
fn tell_redis(protocol: Protocol) -> Option<(String, Vec<Heard>)> {
    let mut alone = Redis::start()?;
    let mut clustered = Redis::start_in_cluster_mode()?;
    let version = alone.version();
    let (mut differences, mut heard) = (String::new(), Vec::new());
    for transcript in transcript::all() {
        let redis = match transcript.face {
            Face::Proxy => &mut alone,
            Face::Cluster => &mut clustered,
        };
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
        let mut connection = redis.connect();
        connection.answer(&words(if protocol == Protocol::Resp3 { "HELLO 3" } else { "HELLO 2" }));
        connection.answer(&words("FLUSHALL"));
        differences += &transcript.run(
            |args| {
                let reply = connection.answer(args);
                heard.push((args.clone(), reply.clone(), protocol));
                reply
            },
            |_| panic!("the clock of Redis cannot be moved"),
        );
    }
    Some((differences, heard))
}

#[test]
fn a_real_redis_answers_as_written() {
    let Some((differences, heard)) = tell_redis(Protocol::Resp2) else {
        eprintln!("SKIPPED: no redis-server is installed, the transcripts were not compared with Redis");
        return;
    };
    assert!(differences.is_empty(), "\n{differences}");
    shapes::hold(heard);
}

#[test]
fn replies_of_a_real_redis_have_the_declared_shapes_in_resp3() {
    // Transcripts say what RESP2 does: only shapes are compared.
    let Some((_, heard)) = tell_redis(Protocol::Resp3) else {
        eprintln!("SKIPPED: no redis-server is installed, declared shapes were not compared with Redis");
        return;
    };
    shapes::hold(heard);
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
