//! The restart quarantine: a replica that was started again leads nothing before what it may have promised is over. A fresh
//! one has promised nothing.

use crate::node::Node;
use crate::observe::{Replicas, Seen, Watcher};
use std::rc::Rc;
use std::time::Duration;

/// A little less than the promise, by a clock that is as fast as clocks may be.
const SILENT: Duration = Duration::from_millis(590);

#[derive(Default)]
pub struct Silent;

impl Watcher for Silent {
    fn seen(&mut self, seen: &Seen, _all: &Replicas, nodes: &[Rc<Node>]) -> Result<(), String> {
        let since = seen.at.saturating_sub(nodes[seen.node - 1].started.get());
        match seen.leads && seen.life > 1 && since < SILENT {
            true => Err(format!(
                "quarantine: n{} leads group {} in term {} only {since:?} after its start",
                seen.node, seen.group, seen.term
            )),
            false => Ok(()),
        }
    }
}
