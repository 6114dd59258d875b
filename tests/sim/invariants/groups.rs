//! Groups that come and go. A number is given out once, and its group comes, is founded by those whom the table names, and goes
//! for good: who has dropped it never holds it again. What has gone owns nothing by its own log, and keeps no key.

use crate::node::{Node, stages, waits};
use crate::observe::{Replicas, Seen, Watcher};
use hypercache::cluster::Stage;
use hypercache::types::{GroupId, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

#[derive(Default)]
pub struct OnceOnly {
    /// What the meta group had applied where the newest table was seen.
    newest: u64,
    stages: BTreeMap<GroupId, Stage>,
    founders: BTreeMap<GroupId, BTreeSet<NodeId>>,
    /// Who was seen to have dropped which group.
    dropped: BTreeSet<(usize, GroupId)>,
    /// The largest index that was committed in each group.
    committed: BTreeMap<GroupId, u64>,
}

/// How far a group has come; how it stands between is taken back and forth.
fn progress(stage: Stage) -> u8 {
    match stage {
        Stage::Coming => 0,
        Stage::Begun | Stage::Member | Stage::Leaving => 1,
        Stage::Gone => 2,
    }
}

impl OnceOnly {
    /// Compares the table of a node that has heard more than all before with what was known.
    fn read_table(&mut self, now: BTreeMap<GroupId, (Stage, Vec<NodeId>)>) -> Result<(), String> {
        if let Some(lost) = self.stages.keys().find(|id| !now.contains_key(id)) {
            return Err(format!("groups: the table does not know of group {lost} any more"));
        }
        let highest = self.stages.keys().max().copied();
        for (id, (stage, founders)) in now {
            let known = self.stages.insert(id, stage);
            match known {
                Some(known) if progress(stage) < progress(known) => {
                    return Err(format!("groups: group {id} was {} and is {}", known.name(), stage.name()));
                }
                None if highest.is_some_and(|highest| id < highest) => {
                    return Err(format!("groups: number {id} is given out behind {highest:?}"));
                }
                _ => (),
            }
            let founders: BTreeSet<NodeId> = founders.into_iter().collect();
            let first = self.founders.entry(id).or_insert_with(|| founders.clone());
            let begins = known.is_none_or(|known| progress(known) == 0);
            if begins {
                *first = founders;
            } else if !founders.is_empty() && *first != founders {
                return Err(format!("groups: group {id} was begun by {first:?}, and is by {founders:?}"));
            }
        }
        Ok(())
    }

    /// Whether a replica began with those whom the table names. It tells as long as its log has the first entry alone.
    fn is_founded_by(&self, seen: &Seen, voters: &[NodeId]) -> Result<(), String> {
        let voters: BTreeSet<NodeId> = voters.iter().copied().collect();
        let founders = self.founders.get(&GroupId(seen.group)).filter(|founders| !founders.is_empty());
        match founders {
            Some(founders) if seen.last == 0 && !voters.is_empty() && voters != *founders => Err(format!(
                "groups: n{} begins group {} with {voters:?}, and {founders:?} found it",
                seen.node, seen.group
            )),
            _ => Ok(()),
        }
    }

    /// Whether a replica of a group that has gone has nothing, if it has applied all that there is.
    fn has_nothing(&self, id: GroupId, node: &Node) -> Result<(), String> {
        let Some(group) = node.cluster.borrow().as_ref().and_then(|cluster| cluster.host().group(id)) else {
            return Ok(());
        };
        if group.status().applied < self.committed.get(&id).copied().unwrap_or(0) {
            return Ok(());
        }
        let (owned, under_way, keys) = group.peek(|keys| {
            let ownership = keys.ownership();
            (ownership.owned().map_or(0, |owned| owned.len()), ownership.handover().cloned(), keys.len())
        });
        match (owned, &under_way, keys) {
            (0, None, 0) => Ok(()),
            _ => Err(format!(
                "groups: group {id} has gone, and by n{} owns {owned} slots, keeps {keys} keys, hands over {under_way:?}",
                node.id
            )),
        }
    }

    fn gone(&self) -> impl Iterator<Item = GroupId> {
        self.stages.iter().filter(|(_, stage)| **stage == Stage::Gone).map(|(id, _)| *id)
    }
}

impl Watcher for OnceOnly {
    fn seen(&mut self, seen: &Seen, _all: &Replicas, nodes: &[Rc<Node>]) -> Result<(), String> {
        let (node, id) = (&nodes[seen.node - 1], GroupId(seen.group));
        if self.dropped.contains(&(seen.node, id)) {
            return Err(format!("groups: n{} has dropped group {id}, and holds it again", seen.node));
        }
        let committed = self.committed.entry(id).or_default();
        *committed = seen.committed.max(*committed);
        let Some(cluster) = node.cluster.borrow().clone() else { return Ok(()) };
        if id == GroupId::META && seen.applied > self.newest {
            self.newest = seen.applied;
            let before: BTreeSet<GroupId> = self.gone().collect();
            self.read_table(cluster.stages()?)?;
            for id in self.gone().filter(|id| !before.contains(id)) {
                nodes.iter().try_for_each(|node| self.has_nothing(id, node))?;
            }
        }
        let dropped: Vec<GroupId> = self.gone().filter(|id| cluster.host().is_dropped(*id)).collect();
        self.dropped.extend(dropped.into_iter().map(|id| (seen.node, id)));
        if self.stages.get(&id) == Some(&Stage::Gone) {
            self.has_nothing(id, node)?;
        }
        match cluster.host().group(id) {
            Some(group) => self.is_founded_by(seen, &group.status().voters),
            None => Ok(()),
        }
    }
}

/// Whether no group is coming or going any more.
pub fn settled(nodes: &[Rc<Node>]) -> Result<(), String> {
    let under_way = |stage: Stage| matches!(stage, Stage::Coming | Stage::Begun | Stage::Leaving);
    match stages(nodes).into_iter().find(|(_, (stage, _))| under_way(*stage)) {
        Some((id, (stage, _))) => {
            Err(format!("progress: group {id} is {} and stays so, waits for {:?}", stage.name(), waits(nodes)))
        }
        None => Ok(()),
    }
}

/// Whether every node holds the groups that there are, and has nothing of others.
pub fn only_those_of_the_table(nodes: &[Rc<Node>]) -> Result<(), String> {
    let stages = stages(nodes);
    let gone = |id: &GroupId| stages.get(id).is_some_and(|(stage, _)| *stage == Stage::Gone);
    for node in nodes.iter().filter(|node| node.counts(nodes)) {
        let Some(cluster) = node.cluster.borrow().clone() else { continue };
        let held: BTreeSet<GroupId> = cluster.host().groups().iter().map(|group| group.id()).collect();
        let own = |id: &&GroupId| cluster.table().holds(**id, NodeId(node.id as u64));
        let wanted: BTreeSet<GroupId> = stages.keys().filter(own).copied().chain([GroupId::META]).collect();
        if held != wanted {
            return Err(format!("groups: n{} holds {held:?}, and {wanted:?} are its own", node.id));
        }
        if let Some(left) = node.platter.groups().into_iter().find(gone) {
            return Err(format!("groups: n{} has something of group {left} on its disk, which has gone", node.id));
        }
        if let Some(forgets) = stages.keys().find(|id| gone(id) && !cluster.host().is_dropped(**id)) {
            return Err(format!("groups: n{} has no mark of group {forgets}, which has gone", node.id));
        }
    }
    Ok(())
}
