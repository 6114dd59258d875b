//! Who votes: one after the other, through joint consensus; nobody who was no learner before, or has nothing of the log yet;
//! nobody who was let go.
//!
//! How far a node must be is measured by the log as it was when the node got its copy: where the log is now, the leader that gave
//! the vote need not have known.

use crate::node::{Node, stages};
use crate::observe::{Replicas, Seen, Watcher};
use hypercache::cluster::{Stage, Standing};
use hypercache::types::{GroupId, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// What a learner may lack when it is given a vote (`LEVEL` in `src/cluster/steps.rs`).
const LEVEL: u64 = 256;

/// What is known of the members of a group.
struct Known {
    /// What had been applied where it was seen.
    at: u64,
    voters: Vec<BTreeSet<usize>>,
    learners: BTreeSet<usize>,
    /// Where the log was when each learner was first seen.
    since: BTreeMap<usize, u64>,
}

#[derive(Default)]
pub struct OneForOne {
    groups: BTreeMap<u32, Known>,
    /// How far the log of each replica was seen to be.
    logs: BTreeMap<(u32, usize), u64>,
}

fn all(voters: &[BTreeSet<usize>]) -> BTreeSet<usize> {
    voters.iter().flatten().copied().collect()
}

fn is_gone(group: u32, nodes: &[Rc<Node>]) -> bool {
    stages(nodes).get(&GroupId(group)).is_some_and(|(stage, _)| *stage == Stage::Gone)
}

impl OneForOne {
    /// Nobody votes any more when the roster says that it is gone.
    fn counts_on_nobody_gone(&self, seen: &Seen, nodes: &[Rc<Node>]) -> Result<(), String> {
        let Some(cluster) = nodes[seen.node - 1].cluster.borrow().clone() else { return Ok(()) };
        let Some(roster) = cluster.roster() else { return Ok(()) };
        for (group, known) in &self.groups {
            let gone = |node: &usize| roster.standing(NodeId(*node as u64)) == Some(Standing::Gone);
            if let Some(gone) = all(&known.voters).into_iter().find(gone).filter(|_| !is_gone(*group, nodes)) {
                let voters = &known.voters;
                return Err(format!("members: n{gone} was let go, and group {group} counts on its vote: {voters:?}"));
            }
        }
        Ok(())
    }
}

impl Watcher for OneForOne {
    fn seen(&mut self, seen: &Seen, _all: &Replicas, nodes: &[Rc<Node>]) -> Result<(), String> {
        if seen.group == 0 {
            self.counts_on_nobody_gone(seen, nodes)?;
        }
        let group = seen.group;
        let log = self.logs.entry((group, seen.node)).or_default();
        *log = seen.last.max(seen.snapshot).max(*log);
        let known = self.groups.entry(group).or_insert_with(|| Known {
            at: seen.applied,
            voters: seen.voters.clone(),
            learners: seen.learners.clone(),
            since: BTreeMap::new(),
        });
        let gone = all(&known.voters).into_iter().find(|node| nodes[node - 1].gone.get());
        // A group that has gone itself counts on nobody, whatever a copy of it says that is behind.
        if let Some(gone) = gone.filter(|_| !is_gone(group, nodes)) {
            return Err(format!(
                "members: n{gone} was let go, and group {group} counts on its vote: {:?}",
                known.voters
            ));
        }
        let news = (&known.voters, &known.learners) != (&seen.voters, &seen.learners);
        if seen.applied <= known.at || !news {
            return Ok(());
        }
        let before = all(&known.voters);
        // At its birth a group has none.
        if let (Some(last), Some(now)) = (known.voters.last().filter(|last| !last.is_empty()), seen.voters.last()) {
            if last.symmetric_difference(now).count() > 2 {
                return Err(format!("members: the voters of group {group} become {now:?} at once, from {last:?}"));
            }
            for comes in all(&seen.voters).difference(&before) {
                let since = known.since.get(comes);
                let log = self.logs.get(&(group, *comes)).copied().unwrap_or(0);
                let enough = since.map(|since| since.saturating_sub(LEVEL).max(1));
                if enough.is_none_or(|enough| log < enough) {
                    return Err(format!(
                        "members: n{comes} is given a vote in group {group} with a log up to {log}; a learner since {since:?}"
                    ));
                }
            }
        }
        for learner in seen.learners.difference(&known.learners) {
            known.since.entry(*learner).or_insert(seen.applied);
        }
        (known.at, known.voters, known.learners) = (seen.applied, seen.voters.clone(), seen.learners.clone());
        Ok(())
    }
}
