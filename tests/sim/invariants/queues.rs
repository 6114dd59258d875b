//! What is waited for goes to one client, in order, and is not lost.

use super::acknowledged::{final_lists, text};
use crate::history::{Op, Outcome};
use hypercache::resp::Reply;
use std::collections::{BTreeMap, BTreeSet};

/// What a pop took, if it is known.
fn taken(op: &Op) -> Option<String> {
    match op.reply()? {
        Reply::Array(pair) => text(pair.get(1)?),
        _ => None,
    }
}

pub fn judge(ops: &[Op]) -> Result<(), String> {
    final_lists(ops, 'q').into_iter().try_for_each(|(queue, left)| one(queue, &left, ops))
}

fn one(queue: &str, left: &[String], ops: &[Op]) -> Result<(), String> {
    let (pushes, pops): (Vec<&Op>, Vec<&Op>) = ops
        .iter()
        .filter(|op| op.key() == queue && matches!(op.name(), "RPUSH" | "BLPOP"))
        .partition(|op| op.name() == "RPUSH");
    let pushed: BTreeMap<&str, &Op> = pushes.iter().map(|op| (op.command()[2].as_str(), *op)).collect();
    let mut seen = BTreeSet::new();
    for value in left {
        if !seen.insert(value.clone()) {
            return Err(format!("queues: {value} is twice in {queue}"));
        }
    }
    let mut order: Vec<(&Op, &Op)> = Vec::new();
    for pop in &pops {
        let Some(value) = taken(pop) else { continue };
        if !seen.insert(value.clone()) {
            return Err(format!("queues: {value} was there once and is found twice: {}", pop.text()));
        }
        match pushed.get(value.as_str()) {
            Some(push) if !matches!(push.outcome, Outcome::Failed(_)) => order.push((push, pop)),
            _ => return Err(format!("queues: nobody put it there: {}", pop.text())),
        }
    }
    // A pop whose end is not known may have taken one.
    let missing: Vec<&&Op> =
        pushes.iter().filter(|op| op.end().is_some() && !seen.contains(&op.command()[2])).collect();
    let open = pops.iter().filter(|op| matches!(op.outcome, Outcome::Open(_))).count();
    if missing.len() > open {
        let first = missing[0].text();
        return Err(format!("queues: {} of {queue} are lost, {open} may have been taken: {first}", missing.len()));
    }
    for (push, pop) in &order {
        let before = |other: &&(&Op, &Op)| push.end().is_some_and(|end| end < other.0.from) && other.1.to < pop.from;
        if let Some((_, sooner)) = order.iter().find(before) {
            return Err(format!("queues: {} came before what was put there after it: {}", sooner.text(), pop.text()));
        }
    }
    Ok(())
}
