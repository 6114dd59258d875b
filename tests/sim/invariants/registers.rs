//! Linearizability of every register, by linearizable and lease reads, and of pairs of keys that transactions write and read: the checker is that of the fault runs.

#[path = "../../../jepsen/src/checkers/linearizable.rs"]
#[allow(dead_code, clippy::disallowed_methods)]
mod linearizable;

use super::acknowledged::text;
use crate::history::{NOTHING, Op, Outcome, READ_BOTH, WATCH_SWAP, WRITE_BOTH};
use hypercache::resp::Reply;
use linearizable::{Interval, Judgement, Register, RegisterCall};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Histories of a key are short; one that takes longer has shown nothing, which counts as a failure.
const BUDGET: Duration = Duration::from_secs(60);

/// A call as the checker wants it; none if the reply is not one that the command can have.
fn call_of(op: &Op) -> Option<RegisterCall> {
    let number = |word: Option<&String>| word.and_then(|word| word.parse::<u64>().ok());
    let command = op.command();
    let written = || match op.reply() {
        None => Some(None),
        Some(Reply::Nil) => Some(Some(false)),
        Some(Reply::Status(_)) => Some(Some(true)),
        Some(_) => None,
    };
    match (op.name(), command.get(3).map(String::as_str)) {
        ("GET", _) => match op.reply()? {
            Reply::Nil => Some(RegisterCall::Read(None)),
            Reply::Bulk(bytes) => Some(RegisterCall::Read(Some(std::str::from_utf8(bytes).ok()?.parse().ok()?))),
            _ => None,
        },
        (READ_BOTH, _) => match op.reply()? {
            // What one transaction writes, another sees whole: both keys have the same value, or none.
            Reply::Array(both) if both.len() == 2 && both[0] == both[1] => match text(&both[0]) {
                Some(value) => Some(RegisterCall::Read(Some(value.parse().ok()?))),
                None => (both[0] == Reply::Nil).then_some(RegisterCall::Read(None)),
            },
            _ => None,
        },
        (WATCH_SWAP, Some(read)) => {
            let (old, new) = (if read == NOTHING { None } else { Some(read.parse().ok()?) }, number(command.get(2))?);
            let done = match op.reply() {
                None => None,
                Some(Reply::Array(all)) if all.len() == 1 => Some(true),
                // Somebody else was there first; but what was read was read.
                Some(Reply::Nil | Reply::NilArray) => return Some(RegisterCall::Read(old)),
                Some(_) => return None,
            };
            match old {
                Some(old) => Some(RegisterCall::Cas { old, new, done }),
                None => Some(RegisterCall::WriteNew { new, done }),
            }
        }
        (WRITE_BOTH, _) => Some(RegisterCall::Write(number(command.get(2))?)),
        ("SET", None) => Some(RegisterCall::Write(number(command.get(2))?)),
        ("SET", Some("NX")) => Some(RegisterCall::WriteNew { new: number(command.get(2))?, done: written()? }),
        ("SET", Some("IFEQ")) => {
            let (old, new) = (number(command.get(4))?, number(command.get(2))?);
            Some(RegisterCall::Cas { old, new, done: written()? })
        }
        ("DEL", _) => match op.reply() {
            None => Some(RegisterCall::Delete(None)),
            Some(Reply::Int(count)) => Some(RegisterCall::Delete(Some(*count == 1))),
            Some(_) => None,
        },
        _ => None,
    }
}

/// By the machine's own clock: how long judging takes is no part of the run.
#[allow(clippy::disallowed_methods)]
pub fn judge(ops: &[Op]) -> Result<(), String> {
    let mut keys: BTreeMap<&str, Vec<&Op>> = BTreeMap::new();
    for op in ops.iter().filter(|op| op.key().starts_with(['r', 'b'])) {
        let read = matches!(op.name(), "GET" | READ_BOTH) && op.reply().is_none();
        if !matches!(op.outcome, Outcome::Failed(_)) && !read {
            keys.entry(op.key()).or_default().push(op);
        }
    }
    for (key, ops) in keys {
        let mut calls = Vec::new();
        for op in &ops {
            let call = call_of(op).ok_or_else(|| format!("registers: not an answer to this: {}", op.text()))?;
            calls.push(Interval { call, from: op.from, to: op.end() });
        }
        match linearizable::check(&Register, &calls, Instant::now() + BUDGET) {
            Judgement::Linearizable => (),
            Judgement::Unknown => return Err(format!("registers: {key} could not be judged in {BUDGET:?}")),
            Judgement::Violation { order, stuck } => {
                let shown = order[order.len().saturating_sub(6)..].iter().chain(&stuck);
                let shown: Vec<String> = shown.map(|at| format!("    {}", ops[*at].text())).collect();
                return Err(format!(
                    "registers: {key} is not linearizable: after {} operations in some order none of {} can be next\n{}",
                    order.len(),
                    stuck.len(),
                    shown.join("\n")
                ));
            }
        }
    }
    Ok(())
}
