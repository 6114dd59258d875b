//! Random requests, asked of a real Redis and of a server of ours, whose replies must be alike.
//!
//! Requests come in batches that begin with nothing. They follow the syntax that the commands tell of themselves
//! (`requests.rs`); keys are few, so that types collide. Each reply is compared, as it is on the wire, in RESP2 and RESP3 in
//! turn, and at the end of a batch everything that there is. What may differ stands in one table, with its reason
//! (`meant.rs`). A batch that differs is cut down to the few requests that do it.

mod meant;
// Made for the library's own tests, which use more of it.
#[allow(dead_code)]
#[path = "../../src/commands/tests/nasty.rs"]
mod nasty;
mod requests;
mod ties;

use crate::redis::{Redis, words};
use bytes::Bytes;
use hypercache::commands::{self, Command};
use hypercache::resp::{Args, Protocol, Reply};
use meant::{Case, MEANT};
use requests::Requests;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use ties::Open;

/// Requests of a batch, about.
const BATCH: usize = 300;
/// Differences after which a run ends: it has enough to tell.
const DIFFERENCES_MAX: usize = 40;
/// Scores below this are places.
const MAP: f64 = (1u64 << 52) as f64;
/// A key that lives shorter than this is deleted at once: the two servers' clocks would decide about it.
const LIVES_MS_MIN: i64 = 60_000;

/// A server of ours.
pub trait Ours {
    /// Makes it as empty as one that has just begun, with a connection that speaks `protocol`.
    fn begin(&mut self, protocol: Protocol);
    /// The reply as a client reads it, at a moment of Redis' clock.
    fn answer(&mut self, args: &Args, now_ms: u64) -> Reply;
    /// Whether it believes the moment that it is given; else it has a clock of its own.
    fn goes_by_redis(&self) -> bool {
        true
    }

    /// Whether it has the commands of this kind.
    fn takes(&self, name: &str, command: &Command) -> bool;
}

/// What the environment says, or what is usual in the suite.
pub fn setting(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// A request that was answered in another way, with what led there.
struct Difference {
    at: usize,
    told: String,
}

/// Asks both.
struct Pair<'a, O> {
    redis: &'a mut Redis,
    ours: &'a mut O,
    /// What was queued since MULTI.
    queued: Option<Vec<Args>>,
    /// Keys that were explained to hold other things.
    gone: Vec<Bytes>,
    /// What time it was for Redis before the last request outside of a transaction.
    now_ms: u64,
    explained: BTreeMap<&'static str, u64>,
}

impl<O: Ours> Pair<'_, O> {
    fn begin(&mut self, protocol: Protocol) {
        self.queued = None;
        let hello = if protocol == Protocol::Resp3 { "HELLO 3" } else { "HELLO 2" };
        for line in ["RESET", hello, "FLUSHALL", "FUNCTION FLUSH", "SCRIPT FLUSH"] {
            self.redis.answer(&words(line));
        }
        self.ours.begin(protocol);
    }

    /// Both replies to a request. Redis says what time it is, for a server without a clock of its own.
    fn ask(&mut self, args: &Args) -> (Reply, Reply) {
        let theirs = if self.queued.is_some() {
            self.redis.answer(args)
        } else {
            let mut replies = self.redis.pipeline(&[words("TIME"), args.clone()]).into_iter();
            self.now_ms = milliseconds(&replies.next().expect("one a request"));
            let reply = replies.next().expect("one a request");
            // A number too small for a double, read by an earlier command or out of a small sorted set, leaves a mark that
            // SORT takes for a mistake of its elements. A number that is read well wipes it, and the set is unpacked.
            match meant::sorts(args) && meant::is_no_weight(&reply) {
                true => self.redis.pipeline(&[words("ZINTER 1 no-key WEIGHTS 1"), args.clone()]).remove(1),
                false => reply,
            }
        };
        if let Reply::Bulk(id) = &theirs
            && args[0].eq_ignore_ascii_case(b"xadd")
            && let Some(ms) = std::str::from_utf8(id).ok().and_then(|id| id.split('-').next()?.parse().ok())
            && (self.now_ms..self.now_ms + 5).contains(&ms)
        {
            // The next millisecond began between the two.
            self.now_ms = ms;
        }
        (self.ours.answer(args, self.now_ms), theirs)
    }

    /// Asks both and compares; what differs and is not meant is told.
    fn step(&mut self, args: &Args) -> Result<(), String> {
        let (ours, theirs) = self.ask(args);
        let is = |name: &str| args[0].eq_ignore_ascii_case(name.as_bytes());
        let queued = if is("exec") { self.queued.take() } else { None };
        match (&queued, &ours, &theirs) {
            // Each reply is that of a command.
            (Some(queued), Reply::Array(ours), Reply::Array(theirs))
                if queued.len() == ours.len() && queued.len() == theirs.len() =>
            {
                for ((args, ours), theirs) in queued.iter().zip(ours).zip(theirs) {
                    self.compare(args, ours, theirs, true)?;
                }
            }
            _ => self.compare(args, &ours, &theirs, false)?,
        }
        match &mut self.queued {
            Some(_) if is("discard") => self.queued = None,
            Some(queued) if theirs == Reply::status("QUEUED") => queued.push(args.clone()),
            None if is("multi") => self.queued = Some(Vec::new()),
            _ => {}
        }
        if self.queued.is_none() {
            let done = queued.unwrap_or_else(|| vec![args.clone()]);
            self.forget(&done);
        }
        Ok(())
    }

    /// `past`: it was part of a transaction, behind which keys may have come.
    fn compare(&mut self, args: &Args, ours: &Reply, theirs: &Reply, past: bool) -> Result<(), String> {
        if ours == theirs {
            return Ok(());
        }
        let first = commands::lookup(args).ok().and_then(|command| commands::keys(command, args).next().cloned());
        let missing = first.is_some_and(|key| {
            past || self.redis.answer(&[Bytes::from("exists"), key].into_iter().collect()) == Reply::Int(0)
        });
        let off_the_map = past || self.is_off_the_map(args);
        let in_order = !self.is_left_open(args, ours, theirs, past);
        let case = Case { args, ours, theirs, past, missing, off_the_map, in_order };
        match MEANT.iter().find(|meant| meant.explains(&case)) {
            Some(meant) => {
                *self.explained.entry(meant.why).or_default() += 1;
                if meant.forgets
                    && let Ok(command) = commands::lookup(args)
                {
                    self.gone.extend(commands::keys(command, args).cloned());
                }
                Ok(())
            }
            None => {
                let (ours, theirs) = where_differs(ours, theirs);
                Err(format!("  ours   {}\n  theirs {}", shown(ours), shown(theirs)))
            }
        }
    }

    /// Whether it is about a member whose score no place has.
    fn is_off_the_map(&mut self, args: &Args) -> bool {
        meant::places(args).iter().any(|member| {
            let ask: Args = [Bytes::from("zscore"), args[1].clone(), member.clone()].into_iter().collect();
            let score = match self.redis.answer(&ask) {
                Reply::Bulk(text) => std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok()),
                Reply::Double(score) => Some(score),
                _ => None,
            };
            score.is_some_and(|score: f64| !(0.0..MAP).contains(&score))
        })
    }

    /// Whether both replies to a SORT are right, which leaves an order open.
    fn is_left_open(&mut self, args: &Args, ours: &Reply, theirs: &Reply, past: bool) -> bool {
        let Some(open) = Open::parse(args) else { return false };
        if past {
            // Nobody knows any more what was there.
            return meant::shape(ours) == meant::shape(theirs);
        }
        let kind: Args = [Bytes::from("type"), open.key().clone()].into_iter().collect();
        if !open.has_weights() && self.redis.answer(&kind) != Reply::status("set") {
            return false;
        }
        let all = self.redis.answer(&open.everything());
        open.allows(ours, &all) && open.allows(theirs, &all)
    }

    /// Deletes keys of which chance or a clock decides what they hold from now on.
    fn forget(&mut self, done: &[Args]) {
        let mut gone = std::mem::take(&mut self.gone);
        for args in done {
            let Ok(command) = commands::lookup(args) else { continue };
            let keys = || commands::keys(command, args).cloned();
            if args[0].starts_with(b"pf") {
                commands::keys(command, args).for_each(|key| self.forget_count(key));
            } else if meant::draws(args) {
                gone.extend(keys());
            } else if meant::copies_ties(args) {
                let (mut of, only) = (keys(), done.len() == 1);
                let (from, to) = (of.next(), of.next());
                let ask = |key: &Bytes| [Bytes::from("type"), key.clone()].into_iter().collect();
                let kind = from.as_ref().map(|key| self.redis.answer(&ask(key)));
                if kind != Some(Reply::status("list")) || !only || from == to || meant::has_limit(args) {
                    gone.extend(keys());
                }
            } else if meant::sets_times(args) {
                let dies_soon = |key: &Bytes| {
                    let ask: Args = [Bytes::from("pttl"), key.clone()].into_iter().collect();
                    // One that is dead for both by now may still be counted by one of them.
                    matches!(
                        self.ask(&ask),
                        (_, Reply::Int(0..LIVES_MS_MIN)) | (Reply::Int(-2 | 0..LIVES_MS_MIN), Reply::Int(-2))
                    )
                };
                let dying: Vec<Bytes> = keys().filter(dies_soon).collect();
                gone.extend(dying);
            }
        }
        if !gone.is_empty() {
            // What is dead and not yet removed counts as a key; what is set anew can be deleted.
            let anew = gone.iter().flat_map(|key| [key.clone(), Bytes::new()]);
            self.ask(&std::iter::once(Bytes::from("mset")).chain(anew).collect());
            self.ask(&std::iter::once(Bytes::from("del")).chain(gone).collect());
        }
    }

    /// PFCOUNT keeps its result in the value, in Redis; here it is a read. Redis is given the bytes that we have.
    fn forget_count(&mut self, key: &Bytes) {
        let ask = |words: [&str; 3]| -> Args {
            let [name, from, to] = words.map(|word| Bytes::copy_from_slice(word.as_bytes()));
            [name, key.clone(), from, to].into_iter().collect()
        };
        if let (Reply::Bulk(ours), Reply::Bulk(theirs)) = self.ask(&ask(["GETRANGE", "0", "15"]))
            && [&ours, &theirs].iter().all(|head| head.len() == 16 && head.starts_with(b"HYLL"))
            && ours != theirs
        {
            let kept: Args =
                [Bytes::from("SETRANGE"), key.clone(), Bytes::from("8"), ours.slice(8..)].into_iter().collect();
            self.redis.answer(&kept);
        }
    }

    /// Runs a batch from nothing, and then asks for everything that there is.
    fn batch(&mut self, batch: &[Args], protocol: Protocol) -> Result<(), Difference> {
        self.begin(protocol);
        for (at, args) in batch.iter().enumerate() {
            // Where a batch was cut down, MULTI may have gone.
            if self.queued.is_none() && requests::waits(args) {
                continue;
            }
            self.step(args).map_err(|told| Difference { at, told: format!("{}\n{told}", line(args)) })?;
        }
        if self.queued.is_some() {
            self.ask(&words("DISCARD"));
            self.queued = None;
        }
        self.everything().map_err(|told| Difference { at: batch.len(), told: format!("at the end: {told}") })
    }

    /// Everything that there is.
    fn everything(&mut self) -> Result<(), String> {
        let (_, theirs) = self.ask(&words("KEYS *"));
        self.step(&words("KEYS *"))?;
        let (Reply::Array(keys) | Reply::Set(keys)) = theirs else { return Err("KEYS answers no array".into()) };
        for key in keys {
            let Reply::Bulk(key) = key else { continue };
            let of_key = |words: &[&str]| -> Args {
                words
                    .iter()
                    .map(|word| if *word == "KEY" { key.clone() } else { Bytes::copy_from_slice(word.as_bytes()) })
                    .collect()
            };
            let (_, kind) = self.ask(&of_key(&["TYPE", "KEY"]));
            let Reply::Status(kind) = kind else { return Err("TYPE answers no status".into()) };
            let reads: &[&[&str]] = match &kind[..] {
                b"string" => &[&["GET", "KEY"]],
                b"list" => &[&["LRANGE", "KEY", "0", "-1"]],
                b"set" => &[&["SMEMBERS", "KEY"]],
                b"zset" => &[&["ZRANGE", "KEY", "0", "-1", "WITHSCORES"]],
                b"hash" => &[&["HGETALL", "KEY"]],
                _ => &[&["XRANGE", "KEY", "-", "+"], &["XINFO", "STREAM", "KEY", "FULL", "COUNT", "0"]],
            };
            for read in [&["TYPE", "KEY"][..], &["PTTL", "KEY"], &["OBJECT", "ENCODING", "KEY"]].iter().chain(reads) {
                let args = of_key(read);
                self.step(&args).map_err(|told| format!("{}\n{told}", line(&args)))?;
            }
        }
        Ok(())
    }

    /// The fewest requests of a batch that still differ, with what they tell.
    fn smallest(&mut self, batch: &[Args], protocol: Protocol, first: Difference) -> (Vec<Args>, String) {
        let mut kept = batch[..(first.at + 1).min(batch.len())].to_vec();
        let mut told = first.told;
        let mut piece = kept.len() / 2;
        while piece > 0 {
            let mut at = 0;
            while at < kept.len() {
                let mut fewer = kept.clone();
                fewer.drain(at..(at + piece).min(kept.len()));
                match self.batch(&fewer, protocol) {
                    Err(still) => {
                        fewer.truncate(still.at + 1);
                        (kept, told) = (fewer, still.told);
                    }
                    Ok(()) => at += piece,
                }
            }
            piece /= 2;
        }
        (kept, told)
    }
}

/// Asks `requests` requests of both, and fails if any difference has no explanation.
pub fn run(redis: &mut Redis, ours: &mut impl Ours, requests: u64, seed: u64) {
    let mut source = Requests::new(seed, redis, ours);
    let mut pair = Pair { redis, ours, queued: None, gone: Vec::new(), now_ms: 0, explained: BTreeMap::new() };
    let (mut made, mut differences, mut batches) = (0, Vec::new(), 0);
    let mut seen = BTreeSet::new();
    while made < requests && differences.len() < DIFFERENCES_MAX {
        let batch = source.batch(BATCH);
        let protocol = if batches % 2 == 0 { Protocol::Resp2 } else { Protocol::Resp3 };
        (batches, made) = (batches + 1, made + batch.len() as u64);
        if let Err(first) = pair.batch(&batch, protocol) {
            let explained = pair.explained.clone();
            let (few, told) = pair.smallest(&batch, protocol, first);
            pair.explained = explained;
            let cause: String = told.chars().filter(|c| c.is_alphabetic()).take(60).collect();
            if !seen.insert((few.last().map(|args| args[0].clone()), cause)) {
                continue;
            }
            let led: Vec<String> = few.iter().map(|args| format!("    {}", line(args))).collect();
            differences.push(format!("{protocol:?}:\n{}\n  {told}", led.join("\n")));
        }
    }
    println!("{made} requests with seed {seed}, {} of them about {} commands", source.tried(), source.commands());
    for (why, times) in &pair.explained {
        println!("{times:9} times: {why}");
    }
    assert!(differences.is_empty(), "{} differences\n{}", differences.len(), differences.join("\n"));
}

fn milliseconds(time: &Reply) -> u64 {
    let number = |reply: &Reply| match reply {
        Reply::Bulk(digits) => std::str::from_utf8(digits).ok()?.parse::<u64>().ok(),
        _ => None,
    };
    match time {
        Reply::Array(parts) => {
            parts.first().and_then(number).unwrap_or(0) * 1000 + parts.get(1).and_then(number).unwrap_or(0) / 1000
        }
        _ => panic!("TIME answers {time:?}"),
    }
}

/// A request as it is written in a transcript; of long words the beginning.
fn line(args: &Args) -> String {
    let mut out = String::new();
    for (at, word) in args.iter().enumerate() {
        let space = if at == 0 { "" } else { " " };
        let shown = word.escape_ascii().to_string();
        let plain =
            !shown.is_empty() && shown.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\' && byte != b'"');
        let _ = match (plain, shown.len()) {
            (_, 200..) => write!(out, "{space}\"{}...\"({} bytes)", &shown[..20], word.len()),
            (true, _) => write!(out, "{space}{shown}"),
            (false, _) => write!(out, "{space}\"{shown}\""),
        };
    }
    out
}

/// The first part of two replies that differs, if they are alike but for parts.
fn where_differs<'a>(ours: &'a Reply, theirs: &'a Reply) -> (&'a Reply, &'a Reply) {
    if let (Reply::Array(left), Reply::Array(right)) = (ours, theirs)
        && left.len() == right.len()
        && let Some((left, right)) = left.iter().zip(right).find(|(left, right)| left != right)
    {
        return where_differs(left, right);
    }
    (ours, theirs)
}

fn shown(reply: &Reply) -> String {
    let mut text = format!("{reply:?}");
    if text.len() > 1500 {
        let end = (0..=1500).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push_str(" ...");
    }
    text
}
