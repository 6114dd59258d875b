//! The log goes forward: what was committed stays on a quorum, and while a replica lives neither its term nor what it
//! applied goes back; what is purged or in a snapshot was applied.
//!
//! How far a replica *knows* that entries are committed may go back, when it stops to lead.

use crate::node::Node;
use crate::observe::{Replicas, Seen, Watcher};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

#[derive(Default)]
pub struct Forward {
    replicas: BTreeMap<(u32, usize), Seen>,
    /// The largest index that was committed in each group.
    committed: BTreeMap<u32, u64>,
    /// The newest sets of voters of each group that anybody has applied, and what it had applied then.
    members: BTreeMap<u32, (u64, Vec<BTreeSet<usize>>)>,
}

impl Watcher for Forward {
    fn seen(&mut self, seen: &Seen, all: &Replicas, nodes: &[Rc<Node>]) -> Result<(), String> {
        let Seen { node, group, .. } = *seen;
        let before = self.replicas.insert((group, node), seen.clone());
        if let Some(before) = before.filter(|before| (before.life, before.core) == (seen.life, seen.core)) {
            let back = |what: &str, from: u64, to: u64| match to < from {
                true => Err(format!("logs: {what} of group {group} on n{node} goes back from {from} to {to}")),
                false => Ok(()),
            };
            back("the term", before.term, seen.term)?;
            back("what is applied", before.applied, seen.applied)?;
            back("what is purged", before.purged, seen.purged)?;
            back("the clock", before.clock_ms, seen.clock_ms)?;
        }
        if seen.purged.max(seen.snapshot) > seen.applied {
            return Err(format!(
                "logs: group {group} on n{node} applied {} but has a snapshot of {} and purged {}",
                seen.applied, seen.snapshot, seen.purged
            ));
        }
        let committed = self.committed.entry(group).or_default();
        *committed = seen.committed.max(*committed);
        let committed = *committed;
        let newest = self.members.entry(group).or_insert_with(|| (0, seen.voters.clone()));
        if newest.0 < seen.applied {
            *newest = (seen.applied, seen.voters.clone());
        }
        // What is committed while members change is committed by those who vote in the end, and by those before until then.
        let Some(voters) = newest.1.last() else { return Ok(()) };
        // One that is down may have it on its disk; one whose core has just started has not said what it has.
        let there: Vec<&Seen> = nodes
            .iter()
            .filter(|node| voters.contains(&node.id))
            .filter_map(|node| {
                let known = all.get(&(node.id, group))?;
                (node.cluster.borrow().is_some() && node.lives.get() == known.life).then_some(known)
            })
            .collect();
        let have = there.iter().filter(|replica| replica.last.max(replica.snapshot) >= committed).count();
        if !voters.is_empty() && there.len() == voters.len() && have <= voters.len() / 2 {
            let lasts: Vec<(usize, u64)> = there.iter().map(|replica| (replica.node, replica.last)).collect();
            return Err(format!(
                "logs: entry {committed} of group {group} was committed and is on no quorum any more: {lasts:?}"
            ));
        }
        Ok(())
    }
}
