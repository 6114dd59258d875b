//! bank: money moves between accounts of one slot by MULTI. Whoever reads all accounts at one moment sees the same sum.
//!
//! Accounts begin at nothing and may be overdrawn, so the sum is nought from the first moment on.

use super::{Anomaly, Crowd, Generator, Keys, Next, Verdict, Workload, multi, words};
use crate::history::{History, Op};
use crate::outcome::Outcome;
use crate::resp::Reply;
use std::time::Duration;

/// Calls on a bank before its lane founds the next: an error that is made good by another would hide otherwise.
const CALLS_A_BANK: u64 = 400;
const ACCOUNTS: usize = 5;
const FINAL_BANKS: usize = 40;

pub struct BankWorkload;

struct Client {
    keys: Keys,
    rng: fastrand::Rng,
}

fn account(bank: &str, which: usize) -> String {
    format!("{{{bank}}}{which}")
}

fn read(bank: &str) -> Vec<String> {
    std::iter::once("MGET".to_owned()).chain((0..ACCOUNTS).map(|which| account(bank, which))).collect()
}

impl Generator for Client {
    fn next(&mut self, _: Option<&Op>) -> Next {
        let bank = self.keys.next();
        let (from, amount) = (self.rng.usize(0..ACCOUNTS), self.rng.u32(1..100).to_string());
        let to = (from + self.rng.usize(1..ACCOUNTS)) % ACCOUNTS;
        let transfer =
            [words(&["DECRBY", &account(&bank, from), &amount]), words(&["INCRBY", &account(&bank, to), &amount])];
        Next::Call(match self.rng.u8(0..100) {
            0..50 => multi(transfer),
            // Its reader is within the transaction, behind what it wrote.
            50..65 => multi(transfer.into_iter().chain([read(&bank)])),
            _ => read(&bank),
        })
    }
}

/// The sum of the balances that an operation saw, if it saw any; an error if its reply is none that it can have.
fn seen(op: &Op) -> Result<Option<i64>, ()> {
    let Some(reply) = op.reply() else { return Ok(None) };
    let replies = reply.array().ok_or(())?;
    let balances = match op.name() {
        "MULTI" => {
            let commands: Vec<&[String]> = op.queued().collect();
            let moved = replies.iter().take(2).all(|reply| reply.int().is_some());
            if replies.len() != commands.len() || !moved {
                return Err(());
            }
            match replies.get(2) {
                Some(balances) => balances.array().ok_or(())?,
                None => return Ok(None),
            }
        }
        _ => replies,
    };
    let balance = |reply: &Reply| match reply {
        Reply::Nil => Ok(0),
        reply => reply.text().and_then(|text| text.parse::<i64>().ok()).ok_or(()),
    };
    let sum = balances.iter().map(balance).sum::<Result<i64, ()>>()?;
    if balances.len() == ACCOUNTS { Ok(Some(sum)) } else { Err(()) }
}

impl Workload for BankWorkload {
    fn name(&self) -> &'static str {
        "bank"
    }

    fn about(&self) -> &'static str {
        "transfers by MULTI are done whole or not at all, and once: the sum of the accounts never changes"
    }

    fn generators(&self, crowd: &Crowd) -> Vec<Box<dyn Generator>> {
        crowd.generators("bank", CALLS_A_BANK, |_, keys, rng| Client { keys, rng })
    }

    fn final_reads(&self, history: &History) -> Vec<Vec<String>> {
        history.last(FINAL_BANKS, Op::family).into_iter().map(read).collect()
    }

    fn check(&self, history: &History, _: Duration) -> Verdict {
        let (mut verdict, mut reads) = (Verdict::default(), 0);
        for op in history.ops.iter().filter(|op| !matches!(op.outcome, Outcome::Failed(_))) {
            match seen(op) {
                Err(()) => verdict.unexpected(op),
                Ok(None) => {}
                Ok(Some(0)) => reads += 1,
                Ok(Some(sum)) => {
                    let what = format!("{}: the accounts hold {sum} together", op.family());
                    verdict.anomalies.push(Anomaly::new("wrong sum", what, vec![op.clone()]));
                }
            }
        }
        verdict.notes.push(format!("{reads} reads of {ACCOUNTS} accounts judged"));
        verdict
    }
}
