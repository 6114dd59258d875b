//! What clients did and saw, and what the nemesis did meanwhile.
//!
//! An operation is a command in Redis' language and its end: whoever wants to judge a history needs no knowledge of this
//! program. As a file it is JSON lines, one an event, in the order of time:
//!
//! ```text
//! {"type":"invoke","process":3,"node":1,"time_us":120,"words":["SET","r0.1","7"]}
//! {"type":"ok","process":3,"node":1,"time_us":950,"reply":"OK"}
//! {"type":"nemesis","time_us":2000,"fault":0,"phase":"begin","what":"kill -9 of node 2"}
//! ```
//!
//! Several commands that were sent together have the word `;` between them; their reply is the last one's, or the last error.
//! `type` ends in `ok`, `fail`, `info` (may have happened) or `broken` (the server sent what it must never send). A
//! process has at most one open operation and never another after one that ended in `info`. Times are of one monotonic
//! clock, in microseconds since the run began; an operation took effect, if it did, between its two times.

use crate::outcome::Outcome;
use crate::resp::{Reply, THEN};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Op {
    pub process: usize,
    /// The node whose door was used, from 1.
    pub node: usize,
    pub words: Vec<String>,
    /// Microseconds since the run began.
    pub from: u64,
    pub to: u64,
    pub outcome: Outcome,
}

impl Op {
    /// The latest moment at which it can have taken effect: never, as long as its end is open.
    pub fn until(&self) -> u64 {
        match self.outcome {
            Outcome::Open(_) | Outcome::Broken(_) => u64::MAX,
            Outcome::Ok(_) | Outcome::Failed(_) => self.to,
        }
    }

    pub fn reply(&self) -> Option<&Reply> {
        match &self.outcome {
            Outcome::Ok(reply) => Some(reply),
            _ => None,
        }
    }

    pub fn is_ok(&self) -> bool {
        matches!(self.outcome, Outcome::Ok(_))
    }

    /// The command without the wrapper that names a read level.
    pub fn command(&self) -> &[String] {
        let skipped = match self.words.first().map(String::as_str) {
            Some("HC.READ") if self.words.get(1).is_some_and(|level| level == "bounded") => 3,
            Some("HC.READ") => 2,
            _ => 0,
        };
        self.words.get(skipped..).unwrap_or_default()
    }

    /// The commands of an operation that has several ([`THEN`] stands between them), or its only one.
    pub fn commands(&self) -> impl DoubleEndedIterator<Item = &[String]> {
        self.command().split(|word| word == THEN)
    }

    /// What MULTI and EXEC embrace; nothing if this is no transaction.
    pub fn queued(&self) -> impl Iterator<Item = &[String]> {
        let is_one = self.name() == "MULTI";
        self.commands().filter(move |command| is_one && command.len() > 1)
    }

    /// The command's name.
    pub fn name(&self) -> &str {
        self.command().first().map_or("", String::as_str)
    }

    /// Its first key.
    pub fn key(&self) -> &str {
        self.commands().find_map(|command| command.get(1)).map_or("", String::as_str)
    }

    /// The braced part of its first key, which the keys of its slot share; the whole key if it has none.
    pub fn family(&self) -> &str {
        let key = self.key();
        key.strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or(key, |(family, _)| family)
    }

    /// One line for people.
    pub fn story(&self) -> String {
        let end = match &self.outcome {
            Outcome::Ok(reply) => format!("ok {reply}"),
            Outcome::Failed(why) => format!("fail {why}"),
            Outcome::Open(why) => format!("info {why}"),
            Outcome::Broken(why) => format!("broken {why}"),
        };
        let [from, to] = [self.from, self.to].map(|t| t as f64 / 1e6);
        format!(
            "[{from:.6} .. {to:.6}] process {} at node {}: {} -> {end}",
            self.process,
            self.node,
            self.words.join(" ")
        )
    }
}

/// A fault from its beginning to its end. Times as in [`Op`].
#[derive(Debug, Clone)]
pub struct Fault {
    pub what: String,
    /// What showed that it was in place.
    pub proof: String,
    /// Nodes whose clients were on the wrong side of it.
    pub affected: Vec<usize>,
    /// Before anything was done.
    pub begin: u64,
    /// When it was in place.
    pub placed: u64,
    /// When it had been taken back.
    pub healed: u64,
    /// When all nodes served again.
    pub recovered: u64,
}

/// Everything that happened in a run, operations in the order in which they began.
#[derive(Debug, Default)]
pub struct History {
    pub ops: Vec<Op>,
    pub faults: Vec<Fault>,
    /// Not judged, and not in the file: they only show when groups were served.
    pub probes: Vec<Probed>,
}

/// A write to one group by one node, made only to see whether it is served. Times as in [`Op`].
#[derive(Debug, Clone, Copy)]
pub struct Probed {
    pub node: usize,
    pub group: usize,
    pub from: u64,
    pub to: u64,
    pub ok: bool,
}

impl History {
    /// The operations by their first key.
    pub fn by_key(&self) -> BTreeMap<&str, Vec<&Op>> {
        let mut parts: BTreeMap<&str, Vec<&Op>> = BTreeMap::new();
        for op in &self.ops {
            parts.entry(op.key()).or_default().push(op);
        }
        parts
    }

    /// The last that operations were about, each once, at most so many: `what` says what one is about.
    pub fn last<'a>(&'a self, count: usize, what: impl Fn(&'a Op) -> &'a str) -> Vec<&'a str> {
        let mut found = Vec::new();
        for what in self.ops.iter().rev().map(what) {
            if found.len() < count && !found.contains(&what) {
                found.push(what);
            }
        }
        found
    }

    pub fn write(&self, file: &Path) -> Result<()> {
        let mut lines: Vec<(u64, Value)> = Vec::with_capacity(self.ops.len() * 2 + self.faults.len() * 3);
        for op in &self.ops {
            lines.push((op.from, json!({"type": "invoke", "process": op.process, "node": op.node, "time_us": op.from, "words": op.words})));
            let (kind, field, value) = match &op.outcome {
                Outcome::Ok(reply) => ("ok", "reply", reply.to_json()),
                Outcome::Failed(why) => ("fail", "error", json!(why)),
                Outcome::Open(why) => ("info", "error", json!(why)),
                Outcome::Broken(why) => ("broken", "error", json!(why)),
            };
            lines.push((
                op.to,
                json!({"type": kind, "process": op.process, "node": op.node, "time_us": op.to, field: value}),
            ));
        }
        for (number, fault) in self.faults.iter().enumerate() {
            let line = |at: u64, phase: &str, what: &str| {
                (
                    at,
                    json!({"type": "nemesis", "time_us": at, "fault": number, "phase": phase, "what": what, "affected": fault.affected}),
                )
            };
            lines.push(line(fault.begin, "begin", &fault.what));
            lines.push(line(fault.placed, "placed", &fault.proof));
            lines.push(line(fault.healed, "healed", &fault.what));
            lines.push(line(fault.recovered, "recovered", &fault.what));
        }
        // Stable, so that an invocation stays before its own end within one microsecond.
        lines.sort_by_key(|(at, _)| *at);
        let mut out = BufWriter::new(File::create(file).with_context(|| file.display().to_string())?);
        for (_, line) in lines {
            writeln!(out, "{line}")?;
        }
        out.flush()?;
        Ok(())
    }

    /// Reads the operations of a history that was written before, to judge it again.
    pub fn read(file: &Path) -> Result<History> {
        let mut open: BTreeMap<u64, Op> = BTreeMap::new();
        let mut ops = Vec::new();
        for (number, line) in
            BufReader::new(File::open(file).with_context(|| file.display().to_string())?).lines().enumerate()
        {
            let event: Value = serde_json::from_str(&line?).with_context(|| format!("line {}", number + 1))?;
            if event["type"] == "nemesis" {
                continue;
            }
            let process = event["process"].as_u64().context("an event without a process")?;
            let time = event["time_us"].as_u64().context("an event without a time")?;
            if event["type"] == "invoke" {
                let words = event["words"].as_array().context("an invocation without words")?;
                let words = words.iter().filter_map(|w| w.as_str().map(str::to_owned)).collect();
                let node = event["node"].as_u64().unwrap_or_default() as usize;
                let outcome = Outcome::Open("no end in the history".to_owned());
                open.insert(process, Op { process: process as usize, node, words, from: time, to: time, outcome });
                continue;
            }
            let mut op =
                open.remove(&process).with_context(|| format!("line {}: an end without a beginning", number + 1))?;
            let why = event["error"].as_str().unwrap_or_default().to_owned();
            op.to = time;
            op.outcome = match event["type"].as_str() {
                Some("ok") => Outcome::Ok(Reply::from_json(&event["reply"]).context("a reply that cannot be read")?),
                Some("fail") => Outcome::Failed(why),
                Some("info") => Outcome::Open(why),
                Some("broken") => Outcome::Broken(why),
                other => bail!("line {}: unknown type {other:?}", number + 1),
            };
            ops.push(op);
        }
        ops.extend(open.into_values());
        ops.sort_by_key(|op| op.from);
        Ok(History { ops, ..History::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read_and_judged_again() {
        let op = |from, outcome| Op {
            process: from as usize,
            node: 2,
            words: vec!["GET".into(), "k".into()],
            from,
            to: from + 3,
            outcome,
        };
        let ops = vec![
            op(1, Outcome::Ok(Reply::Array(vec![Reply::Nil, Reply::Int(-3), Reply::Text("x;".into())]))),
            op(2, Outcome::Failed("CLUSTERDOWN".into())),
            op(3, Outcome::Open("no answer".into())),
            op(9, Outcome::Broken("ERR".into())),
        ];
        let fault = Fault {
            what: "f".into(),
            proof: "p".into(),
            affected: vec![1],
            begin: 1,
            placed: 2,
            healed: 3,
            recovered: 4,
        };
        let history = History { ops: ops.clone(), faults: vec![fault], probes: Vec::new() };
        let file = std::env::temp_dir().join(format!("jepsen-history-{}", std::process::id()));
        history.write(&file).expect("a file can be written");
        let read = History::read(&file).expect("it is a history");
        std::fs::remove_file(&file).expect("it was written");
        assert_eq!(read.ops, ops);
    }
}
