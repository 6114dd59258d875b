//! A key does not expire early, and once it was seen expired it is not seen again.
//!
//! Of keys that are written once, with a ttl, and read by linearizable and lease reads. A key that was evicted is gone as well.

use crate::history::Op;
use hypercache::resp::Reply;

/// Clocks run apart by less than this, in thousandths of the time that passed. The rule allows for so much of the ttl, and of
/// the whole run where a group begins anew with the nodes' wall clocks.
const APART: u64 = 70;
const SLACK_NS: u64 = 50_000_000;

pub fn judge(ops: &[Op]) -> Result<(), String> {
    let mortal = |op: &&Op| op.name() == "SET" && op.command().get(3).is_some_and(|word| word == "PX");
    let fills = ops.iter().any(|op| op.key().starts_with('e'));
    for set in ops.iter().filter(mortal) {
        let Some(end) = set.end() else { continue };
        let ttl_ns = set.command()[4].parse::<u64>().expect("clients write numbers") * 1_000_000;
        let reads = ops.iter().filter(|op| op.name() == "GET" && op.key() == set.key() && op.from > end);
        let (gone, there): (Vec<&Op>, Vec<&Op>) =
            reads.filter(|op| op.reply().is_some()).partition(|op| op.reply() == Some(&Reply::Nil));
        let allowance = (ttl_ns + set.to) * APART / 1000 + SLACK_NS;
        // Where memory fills up, what has a deadline may leave before it; but what has left stays away, too.
        let early = gone.iter().find(|op| !fills && op.to + allowance < set.from + ttl_ns);
        if let Some(early) = early {
            return Err(format!("expiry: too early: {} after {}", early.text(), set.text()));
        }
        let Some(first_gone) = gone.iter().map(|op| op.to).min() else { continue };
        if let Some(back) = there.iter().find(|op| op.from > first_gone) {
            return Err(format!("expiry: back from the dead: {} after {}", back.text(), set.text()));
        }
    }
    Ok(())
}
