//! Slots that were wished elsewhere are there after healing, and each is exactly one group's: by the groups' own logs, as the
//! table says. Nothing is left of what has gone.

use crate::node::{Node, groups, moving, waits};
use hypercache::state::SlotSet;
use hypercache::types::{GroupId, SLOTS};
use std::rc::Rc;

/// Whether nothing is wished of slots that is not so, and nothing is on its way.
pub fn settled(nodes: &[Rc<Node>]) -> Result<(), String> {
    let moving = moving(nodes).ok_or("progress: nobody knows whose the slots are")?;
    match (&moving.under_way, moving.wished.as_slice()) {
        (None, []) => Ok(()),
        (batch, wished) => Err(format!(
            "progress: slots stay on their way: {batch:?}, wished {wished:?}, waits for {:?}",
            waits(nodes)
        )),
    }
}

/// Whether every slot is one group's, whichever replica is asked. One that never took part in a move has what the table says.
pub fn owned_once(nodes: &[Rc<Node>]) -> Result<(), String> {
    let moving = moving(nodes).ok_or("slots: nobody knows whose the slots are")?;
    for node in nodes.iter().filter(|node| node.counts(nodes)) {
        let Some(cluster) = node.cluster.borrow().clone() else { continue };
        let mut all = SlotSet::default();
        for id in groups(nodes).into_iter().skip(1).map(GroupId) {
            let told: SlotSet = moving.ranges.iter().filter(|(.., of)| *of == id).map(|(a, b, _)| (*a, *b)).collect();
            let Some(group) = cluster.host().group(id) else {
                // Until nodes, slots or groups come or go, each holds those alone that it votes in.
                all.add(&told);
                continue;
            };
            let (owned, under_way) =
                group.peek(|keys| (keys.ownership().owned().cloned(), keys.ownership().handover().cloned()));
            let owned = owned.unwrap_or_else(|| told.clone());
            if owned != told || under_way.is_some() {
                return Err(format!(
                    "slots: by n{} group {id} owns {owned}, and {told} by the table; under way: {under_way:?}",
                    node.id
                ));
            }
            let left = group.peek(|keys| keys.len() - keys.visible_len());
            if left > 0 {
                return Err(format!(
                    "slots: by n{} group {id} keeps {left} keys of slots that are not its own",
                    node.id
                ));
            }
            if all.has_any(&owned) {
                return Err(format!("slots: by n{} slots of group {id} are another's, too", node.id));
            }
            all.add(&owned);
        }
        if all.len() != SLOTS {
            return Err(format!("slots: by n{} {} slots are nobody's", node.id, SLOTS - all.len()));
        }
    }
    Ok(())
}
