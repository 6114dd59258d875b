//! What each level of reads promises, by counters: linearizable reads see every increment that was acknowledged before them,
//! bounded ones every increment that was acknowledged so much earlier, eventual ones nothing that was never there.

use crate::history::{Op, Outcome};
use hypercache::resp::Reply;
use std::collections::{BTreeMap, BTreeSet};

/// The bound is measured by clocks that may run apart by less than this, in thousandths, and messages move in ticks.
const APART: u64 = 120;
const SLACK_NS: u64 = 5_000_000;

/// How old what an operation sees may be.
fn allowed_ns(op: &Op) -> u64 {
    match op.words[1].split_once(':') {
        Some(("bounded", ms)) => {
            let ns = ms.parse::<u64>().expect("clients write numbers") * 1_000_000;
            ns + ns * APART / 1000 + SLACK_NS
        }
        _ if op.words[1] == "eventual" => u64::MAX,
        _ => 0,
    }
}

fn number(reply: &Reply) -> Option<u64> {
    match reply {
        Reply::Nil => Some(0),
        Reply::Int(n) => u64::try_from(*n).ok(),
        Reply::Bulk(bytes) => std::str::from_utf8(bytes).ok()?.parse().ok(),
        _ => None,
    }
}

pub fn judge(ops: &[Op]) -> Result<(), String> {
    let mut counters: BTreeMap<&str, Vec<&Op>> = BTreeMap::new();
    for op in ops.iter().filter(|op| op.key().starts_with('c') && matches!(op.name(), "INCR" | "GET")) {
        counters.entry(op.key()).or_default().push(op);
    }
    counters.values().try_for_each(|ops| one(ops))
}

fn one(ops: &[&Op]) -> Result<(), String> {
    let known = |op: &&&Op| op.reply().is_some();
    let increments: Vec<&Op> = ops.iter().filter(|op| op.name() == "INCR").copied().collect();
    let may_have_been = increments.iter().filter(|op| !matches!(op.outcome, Outcome::Failed(_)));
    let begun: Vec<u64> = may_have_been.map(|op| op.from).collect();
    let mut done: Vec<(u64, u64)> = Vec::new();
    let mut seen = BTreeSet::new();
    for op in increments.iter().filter(known) {
        let value = op.reply().and_then(number).ok_or_else(|| format!("levels: not a count: {}", op.text()))?;
        if !seen.insert(value) {
            return Err(format!("levels: another increment came to this as well: {}", op.text()));
        }
        done.push((op.to, value));
    }
    for op in ops.iter().filter(known) {
        let value = op.reply().and_then(number).ok_or_else(|| format!("levels: not a count: {}", op.text()))?;
        let increments = op.name() == "INCR";
        let most = begun.iter().filter(|from| **from <= op.to).count() as u64;
        let since = op.from.saturating_sub(allowed_ns(op));
        let least = done.iter().filter(|(to, _)| *to < since).map(|(_, value)| *value).max().unwrap_or(0);
        if value > most || value < least + u64::from(increments) {
            return Err(format!("levels: neither less than {least} nor more than {most} is right: {}", op.text()));
        }
    }
    Ok(())
}
