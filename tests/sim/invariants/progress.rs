//! After healing the cluster serves and its replicas become equal. A run in which clients could hardly do anything has shown
//! nothing.

use crate::history::{Op, Outcome};
use crate::node::{Node, groups};
use crate::observe::state_of;
use hypercache::cluster::Standing;
use hypercache::types::{GroupId, NodeId};
use std::collections::BTreeSet;
use std::rc::Rc;

/// Operations that must have succeeded.
const ENOUGH: usize = 150;

pub fn enough(ops: &[Op]) -> Result<(), String> {
    let done = ops.iter().filter(|op| matches!(op.outcome, Outcome::Ok(_))).count();
    match done >= ENOUGH {
        true => Ok(()),
        false => Err(format!("progress: only {done} operations succeeded")),
    }
}

/// Whether everything that was wished of nodes and votes was brought about, as the node says that has heard most.
pub fn settled(nodes: &[Rc<Node>]) -> Result<(), String> {
    let groups: Vec<GroupId> = groups(nodes).into_iter().map(GroupId).collect();
    for node in nodes.iter().filter(|node| node.counts(nodes)) {
        if let Some(standing @ (Standing::Joining | Standing::Leaving)) = node.standing(nodes) {
            return Err(format!("progress: n{} is {} and stays so", node.id, standing.name()));
        }
        let Some(cluster) = node.cluster.borrow().clone() else { continue };
        let Some(roster) = cluster.roster() else { continue };
        for group in &groups {
            let Some(replica) = cluster.host().group(*group) else {
                return Err(format!("progress: n{} has no copy of group {group}", node.id));
            };
            let wanted: BTreeSet<NodeId> = roster.target.get(group).into_iter().flatten().copied().collect();
            let (voters, _) = replica.members_applied();
            if voters != [wanted.clone()] {
                return Err(format!(
                    "progress: by n{} in group {group} {voters:?} vote, and {wanted:?} were to",
                    node.id
                ));
            }
        }
    }
    Ok(())
}

/// Whether all replicas of all groups hold the same.
pub fn converged(nodes: &[Rc<Node>]) -> Result<(), String> {
    for group in groups(nodes) {
        let mut states = nodes
            .iter()
            .filter(|node| node.counts(nodes))
            .filter_map(|node| state_of(node, group).map(|state| (node.id, state)));
        let Some((first, state)) = states.next() else { return Err(format!("progress: nobody has group {group}")) };
        if let Some((other, differs)) = states.find(|(_, other)| *other != state) {
            return Err(format!(
                "progress: n{first} and n{other} do not become equal in group {group}: {}, {}",
                state.0, differs.0
            ));
        }
    }
    Ok(())
}
