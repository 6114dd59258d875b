//! Runs `tests/commands/*.txt` against the bare keyspace, and against a real Redis if one is installed.

mod transcript;

use bytes::{Bytes, BytesMut};
use hypercache::commands::{self, Run, session::Session};
use hypercache::resp::{Args, Limits, Protocol, Reply, ReplyDecoder};
use hypercache::state::{Keyspace, View};
use hypercache::types::Stamp;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use transcript::Action;

/// The clock at the beginning of every transcript.
const START_MS: u64 = 1_700_000_000_000;

/// One keyspace and nothing around it.
struct Bare {
    keyspace: Keyspace,
    stamp: Stamp,
}

impl Bare {
    fn answer(&mut self, args: &Args) -> Reply {
        let command = match commands::lookup(args) {
            Ok(command) => command,
            Err(reply) => return reply,
        };
        if let Err(reply) = (command.check)(args) {
            return reply;
        }
        match command.run {
            Run::Read(run) => run(args, &View::new(&self.keyspace, Some(self.stamp.now_ms))),
            Run::Write(run) => {
                self.keyspace.advance(&self.stamp);
                run(args, &mut self.keyspace, &self.stamp)
            }
            Run::Session(run) => run(args, &mut Session::default()),
            Run::Node(_) | Run::Container => Reply::error("ERR needs a node"),
        }
    }
}

#[test]
fn the_bare_keyspace_answers_as_written() {
    let mut differences = String::new();
    for transcript in transcript::all() {
        let bare = RefCell::new(Bare { keyspace: Keyspace::new(7), stamp: Stamp { now_ms: START_MS, seed: 0 } });
        differences += &transcript.run(
            |args| bare.borrow_mut().answer(args),
            |ms| {
                // A tick: what is due goes.
                let Bare { keyspace, stamp } = &mut *bare.borrow_mut();
                stamp.now_ms += ms;
                keyspace.advance(stamp);
                let due = keyspace.due_slots(keyspace.clock(), usize::MAX);
                keyspace.sweep(&due);
            },
        );
    }
    assert!(differences.is_empty(), "\n{differences}");
}

#[test]
fn every_command_of_the_keyspace_has_a_transcript() {
    let mut seen = BTreeSet::new();
    for step in transcript::all().iter().flat_map(|transcript| &transcript.steps) {
        if let Action::Command { args, .. } = &step.action
            && let Ok(command) = commands::lookup(args)
        {
            seen.insert(std::ptr::from_ref(command));
        }
    }
    let missing: Vec<String> = commands::all()
        .filter(|(_, command)| command.is_read() || command.is_write())
        .filter(|(_, command)| !seen.contains(&std::ptr::from_ref(*command)))
        .map(|(name, _)| name)
        .collect();
    assert!(missing.is_empty(), "no transcript runs {missing:?}");
}

/// A private Redis, ended with the test.
struct Redis {
    process: Child,
    stream: UnixStream,
    decoder: ReplyDecoder,
    buffer: BytesMut,
    _folder: tempfile::TempDir,
}

impl Drop for Redis {
    fn drop(&mut self) {
        // Nothing is lost by ending it at once, and nothing can be done if it is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Redis {
    /// `None` if none is installed.
    fn start() -> Option<Redis> {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("redis.sock");
        let mut process = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(&socket)
            .arg("--dir")
            .arg(folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let ready = lines.map_while(Result::ok).any(|line| line.contains("ready to accept connections"));
        assert!(ready, "redis-server ended before it was ready");
        let stream = UnixStream::connect(&socket).unwrap();
        let decoder = ReplyDecoder::new(Limits::default());
        Some(Redis { process, stream, decoder, buffer: BytesMut::new(), _folder: folder })
    }

    fn answer(&mut self, args: &Args) -> Reply {
        let mut request = BytesMut::new();
        Reply::Array(args.iter().cloned().map(Reply::Bulk).collect()).encode(Protocol::Resp2, &mut request);
        self.stream.write_all(&request).unwrap();
        let mut piece = [0; 64 << 10];
        loop {
            if let Some(reply) = self.decoder.decode(&mut self.buffer).unwrap() {
                return reply;
            }
            let length = self.stream.read(&mut piece).unwrap();
            assert_ne!(length, 0, "redis-server closed the connection");
            self.buffer.extend_from_slice(&piece[..length]);
        }
    }

    fn version(&mut self) -> (u32, u32) {
        let Reply::Bulk(info) = self.answer(&words("INFO server")) else { panic!("INFO answers a bulk") };
        let info = String::from_utf8_lossy(&info).into_owned();
        let version = info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap();
        let mut parts = version.split('.').map(|part| part.parse().unwrap());
        (parts.next().unwrap(), parts.next().unwrap())
    }
}

fn words(line: &str) -> Args {
    line.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect()
}

#[test]
fn a_real_redis_answers_as_written() {
    let Some(mut redis) = Redis::start() else {
        eprintln!("SKIPPED: no redis-server is installed, the transcripts were not compared with Redis");
        return;
    };
    let version = redis.version();
    let mut differences = String::new();
    for transcript in transcript::all() {
        if transcript.redis.is_none_or(|needed| needed > version) {
            eprintln!("SKIPPED: {} is not for Redis {version:?}", transcript.path.display());
            continue;
        }
        redis.answer(&words("FLUSHALL"));
        differences += &transcript.run(|args| redis.answer(args), |_| panic!("the clock of Redis cannot be moved"));
    }
    assert!(differences.is_empty(), "\n{differences}");
}
