//! queue: unique jobs are pushed to lists and popped by clients that wait for them. Each job goes to one client, in the order
//! of pushing, and none that was acknowledged is lost.
//!
//! A pop without an answer may have taken one job with it: as many as there are of these may be missing at the end.

use super::{Anomaly, Crowd, Generator, Next, Verdict, Workload, words};
use crate::history::{History, Op};
use crate::outcome::Outcome;
use crate::resp::Reply;
use std::collections::BTreeMap;
use std::time::Duration;

/// Few, so that several clients wait for each.
const QUEUES: usize = 3;
/// Seconds that a pop waits: many wait in vain, none for long.
const WAIT: &str = "0.3";

pub struct QueueWorkload;

struct Client {
    rng: fastrand::Rng,
    worker: usize,
    pushed: u64,
}

fn key(which: usize) -> String {
    format!("queue:{which}")
}

impl Generator for Client {
    fn next(&mut self, _: Option<&Op>) -> Next {
        let key = key(self.rng.usize(0..QUEUES));
        Next::Call(match self.rng.u8(0..100) {
            // Each second client pushes: so those that wait are served by others.
            0..90 if self.worker % 4 < 2 => {
                self.pushed += 1;
                words(&["RPUSH", &key, &format!("{}.{}", self.worker, self.pushed)])
            }
            0..80 => words(&["BLPOP", &key, WAIT]),
            _ => words(&["LPOP", &key]),
        })
    }
}

/// A job that was taken, by whom; none if the queue was empty. An error if the reply is none that the command can have.
fn taken(op: &Op) -> Result<Option<&str>, ()> {
    match (op.name(), op.reply()) {
        (_, None | Some(Reply::Nil)) => Ok(None),
        ("LPOP", Some(reply)) => reply.text().map(Some).ok_or(()),
        ("BLPOP", Some(Reply::Array(pair))) => match &pair[..] {
            [Reply::Text(key), Reply::Text(job)] if key == op.key() => Ok(Some(job)),
            _ => Err(()),
        },
        _ => Err(()),
    }
}

fn check_queue(key: &str, ops: &[&Op], verdict: &mut Verdict) -> usize {
    let pushes = ops.iter().filter(|op| op.name() == "RPUSH");
    let pushed: BTreeMap<&str, &Op> = pushes.filter_map(|op| Some((op.command().get(2)?.as_str(), *op))).collect();
    let mut popped: BTreeMap<&str, &Op> = BTreeMap::new();
    let mut open_pops = 0;
    let mut report = |kind: &str, what: String, ops: Vec<Op>| {
        verdict.anomalies.push(Anomaly::new(kind, format!("{key}: {what}"), ops));
    };
    for op in ops.iter().filter(|op| op.name().ends_with("POP")) {
        open_pops += usize::from(matches!(op.outcome, Outcome::Open(_) | Outcome::Broken(_)));
        let job = match taken(op) {
            Ok(Some(job)) => job,
            Ok(None) => continue,
            Err(()) => {
                report("unexpected reply", op.story(), vec![Op::clone(op)]);
                continue;
            }
        };
        match pushed.get(job) {
            Some(push) if !matches!(push.outcome, Outcome::Failed(_)) && push.from <= op.to => {}
            push => {
                let shown = push.into_iter().map(|push| Op::clone(push)).chain([Op::clone(op)]).collect();
                report("from nowhere", format!("{job} was popped and not pushed"), shown);
            }
        }
        if let Some(first) = popped.insert(job, op) {
            report("popped twice", job.to_owned(), vec![first.clone(), Op::clone(op)]);
        }
    }
    // What was pushed wholly before another must not be popped wholly behind it.
    let mut both: Vec<(&Op, &Op)> = popped.iter().filter_map(|(job, pop)| Some((*pushed.get(job)?, *pop))).collect();
    both.retain(|(push, _)| push.is_ok());
    both.sort_by_key(|(push, _)| push.from);
    for (at, (later, its_pop)) in both.iter().enumerate() {
        for (earlier, pop) in both[..at].iter().filter(|(earlier, _)| earlier.to < later.from) {
            if its_pop.to < pop.from {
                let shown = [*earlier, *later, *its_pop, *pop].map(Op::clone).to_vec();
                report("out of order", "a job overtook one that was pushed before".to_owned(), shown);
            }
        }
    }
    for read in ops.iter().filter(|op| op.name() == "LRANGE") {
        let Some(reply) = read.reply() else { continue };
        let Some(left) = super::append::elements(reply) else {
            report("unexpected reply", read.story(), vec![Op::clone(read)]);
            continue;
        };
        let back = left.iter().filter_map(|job| popped.get(job.as_str())).filter(|pop| pop.to < read.from);
        back.for_each(|pop| report("came back", "what was popped is there again".to_owned(), vec![Op::clone(pop)]));
        let missing: Vec<&&Op> = pushed
            .iter()
            .filter(|(job, push)| push.is_ok() && push.to < read.from && !popped.contains_key(*job))
            .filter(|(job, _)| !left.iter().any(|there| there == *job))
            .map(|(_, push)| push)
            .collect();
        if missing.len() > open_pops {
            let what = format!("{} jobs are missing, {open_pops} pops have no answer", missing.len());
            report("lost", what, missing.into_iter().take(5).map(|op| Op::clone(op)).collect());
        }
    }
    popped.len()
}

impl Workload for QueueWorkload {
    fn name(&self) -> &'static str {
        "queue"
    }

    fn about(&self) -> &'static str {
        "jobs that are waited for with BLPOP go to one client each, in order, and none is lost"
    }

    fn generators(&self, crowd: &Crowd) -> Vec<Box<dyn Generator>> {
        let one = |worker| Box::new(Client { rng: crowd.rng_of(worker), worker, pushed: 0 }) as Box<dyn Generator>;
        (0..crowd.workers).map(one).collect()
    }

    fn final_reads(&self, _: &History) -> Vec<Vec<String>> {
        (0..QUEUES).map(|i| words(&["LRANGE", &key(i), "0", "-1"])).collect()
    }

    fn check(&self, history: &History, _: Duration) -> Verdict {
        let mut verdict = Verdict::default();
        let sum: usize = history.by_key().iter().map(|(key, ops)| check_queue(key, ops, &mut verdict)).sum();
        verdict.notes.push(format!("{sum} jobs were taken from {QUEUES} queues"));
        verdict
    }
}
