//! A key does not expire early, and once it was seen expired it is not seen again.
//!
//! Of keys that are written once, with a ttl, and read by linearizable and lease reads.

use crate::history::Op;
use hypercache::resp::Reply;

/// Clocks run apart by less than this, in thousandths of the time that passed. The rule allows for so much of the ttl, and of
/// the whole run where a group begins anew with the nodes' wall clocks.
const APART: u64 = 70;
const SLACK_NS: u64 = 50_000_000;

pub fn judge(ops: &[Op]) -> Result<(), String> {
    let mortal = |op: &&Op| op.name() == "SET" && op.command().get(3).is_some_and(|word| word == "PX");
    for set in ops.iter().filter(mortal) {
        let Some(end) = set.end() else { continue };
        let ttl_ns = set.command()[4].parse::<u64>().expect("clients write numbers") * 1_000_000;
        let reads = ops.iter().filter(|op| op.name() == "GET" && op.key() == set.key() && op.from > end);
        let (gone, there): (Vec<&Op>, Vec<&Op>) =
            reads.filter(|op| op.reply().is_some()).partition(|op| op.reply() == Some(&Reply::Nil));
        let allowance = (ttl_ns + set.to) * APART / 1000 + SLACK_NS;
        if let Some(early) = gone.iter().find(|op| op.to + allowance < set.from + ttl_ns) {
            return Err(format!("expiry: too early: {} after {}", early.text(), set.text()));
        }
        let Some(first_gone) = gone.iter().map(|op| op.to).min() else { continue };
        if let Some(back) = there.iter().find(|op| op.from > first_gone) {
            return Err(format!("expiry: back from the dead: {} after {}", back.text(), set.text()));
        }
    }
    Ok(())
}
