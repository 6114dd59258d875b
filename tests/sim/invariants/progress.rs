//! After healing the cluster serves and its replicas become equal. A run in which clients could hardly do anything has shown
//! nothing.

use crate::history::{Op, Outcome};
use crate::node::Node;
use crate::observe::state_of;
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

/// Whether all replicas of all groups hold the same.
pub fn converged(nodes: &[Rc<Node>], groups: u32) -> Result<(), String> {
    for group in 0..=groups {
        let mut states = nodes.iter().filter_map(|node| state_of(node, group).map(|state| (node.id, state)));
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
