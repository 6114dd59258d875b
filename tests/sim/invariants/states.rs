//! Replicas of a group that have applied the same entries hold the same state: after replay and after a snapshot too.

use crate::node::Node;
use crate::observe::{Replicas, Seen, Watcher, state_of};
use std::collections::BTreeMap;
use std::rc::Rc;

#[derive(Default)]
pub struct Equal {
    /// Of each group and index, the first hash that was seen and where.
    known: BTreeMap<(u32, u64), (u128, usize)>,
    /// Of each replica, what it had applied when it was looked at last, and in which life.
    looked_at: BTreeMap<(u32, usize), (u64, u64)>,
}

impl Watcher for Equal {
    fn seen(&mut self, seen: &Seen, _all: &Replicas, nodes: &[Rc<Node>]) -> Result<(), String> {
        let now = (seen.life, seen.applied);
        if self.looked_at.insert((seen.group, seen.node), now) == Some(now) {
            return Ok(());
        }
        let Some((index, hash)) = state_of(&nodes[seen.node - 1], seen.group) else { return Ok(()) };
        let (known, node) = *self.known.entry((seen.group, index)).or_insert((hash, seen.node));
        match known == hash {
            true => Ok(()),
            false => Err(format!(
                "states: n{node} and n{} differ in group {} after entry {index}: {known:032x}, {hash:032x}",
                seen.node, seen.group
            )),
        }
    }
}
