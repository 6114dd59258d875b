//! Election safety: a term of a group has one leader at most, and a leader that was restarted leads again only in a new term.

use crate::node::Node;
use crate::observe::{Replicas, Seen, Watcher};
use std::collections::BTreeMap;
use std::rc::Rc;

#[derive(Default)]
pub struct OneATerm {
    /// Of each group and term, the node that led it and in which life.
    led: BTreeMap<(u32, u64), (usize, u64)>,
}

impl Watcher for OneATerm {
    fn seen(&mut self, seen: &Seen, _all: &Replicas, _nodes: &[Rc<Node>]) -> Result<(), String> {
        if !seen.leads {
            return Ok(());
        }
        let me = (seen.node, seen.life);
        let (node, life) = *self.led.entry((seen.group, seen.term)).or_insert(me);
        match (node, life) == me {
            true => Ok(()),
            false if node == seen.node => Err(format!(
                "leaders: n{node} leads group {} in term {} again after a restart, without an election",
                seen.group, seen.term
            )),
            false => {
                Err(format!("leaders: n{node} and n{} lead group {} in term {}", seen.node, seen.group, seen.term))
            }
        }
    }
}
