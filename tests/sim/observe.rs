//! What is seen of the nodes between two steps of the simulation: every change of what a replica says of itself.

use crate::node::Node;
use crate::story;
use hypercache::types::{GroupId, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

/// What a replica of a group on a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// True time since which it says so.
    pub at: Duration,
    pub node: usize,
    /// How often the node was started by then.
    pub life: u64,
    /// How often its core was started in that life.
    pub core: u64,
    pub group: u32,
    pub term: u64,
    /// It believes to lead.
    pub leads: bool,
    pub last: u64,
    pub committed: u64,
    pub applied: u64,
    pub snapshot: u64,
    pub purged: u64,
    /// By the last entry that it applied: the sets of voters, and those that hold a copy without a vote.
    pub voters: Vec<BTreeSet<usize>>,
    pub learners: BTreeSet<usize>,
    pub clock_ms: u64,
}

/// A rule that the steps of a run must keep.
pub trait Watcher {
    /// A replica says something new. `all` is what every replica says now, this one included.
    fn seen(&mut self, seen: &Seen, all: &Replicas, nodes: &[Rc<Node>]) -> Result<(), String>;
}

/// What each node last said of each of its groups. A node that is down says nothing.
pub type Replicas = BTreeMap<(usize, u32), Seen>;

#[derive(Default)]
pub struct Observer {
    last: Replicas,
    /// When a replica's snapshot was last seen to become another.
    pub snapshot_at: Option<Duration>,
}

/// A replica that has applied so many entries less than its group has committed is catching up.
const BEHIND: u64 = 25;

impl Observer {
    /// Looks at all nodes, and tells the rules and the story what is new.
    pub fn look(&mut self, at: Duration, nodes: &[Rc<Node>], rules: &mut [Box<dyn Watcher>]) -> Result<(), String> {
        let mut news = Vec::new();
        for node in nodes {
            let Some(cluster) = node.cluster.borrow().clone() else {
                self.last.retain(|(known, _), _| !node.gone.get() || *known != node.id);
                continue;
            };
            // Of a group that was dropped it says nothing any more.
            self.last.retain(|(known, group), _| *known != node.id || cluster.host().group(GroupId(*group)).is_some());
            for group in cluster.host().groups() {
                let status = group.status();
                let Some(core) = group.starts() else {
                    // Its core has died and starts again, or cannot: as good as down.
                    self.last.remove(&(node.id, status.id.0));
                    continue;
                };
                let known = self.last.get(&(node.id, status.id.0));
                let (voters, learners) = group.members_applied();
                let numbers = |ids: BTreeSet<NodeId>| ids.into_iter().map(|id| id.0 as usize).collect();
                let seen = Seen {
                    at: known.map_or(at, |known| known.at),
                    node: node.id,
                    life: node.lives.get(),
                    core,
                    group: status.id.0,
                    term: status.term,
                    leads: status.leader.is_some_and(|leader| leader.0 == node.id as u64),
                    last: status.last_log,
                    committed: status.committed,
                    applied: status.applied,
                    snapshot: status.snapshot,
                    purged: status.purged,
                    voters: voters.into_iter().map(numbers).collect(),
                    learners: numbers(learners),
                    clock_ms: status.clock_ms,
                };
                if known == Some(&seen) {
                    continue;
                }
                let seen = Seen { at, ..seen };
                if known.is_some_and(|known| known.snapshot != seen.snapshot) {
                    self.snapshot_at = Some(at);
                }
                let role = |s: &Seen| {
                    (s.life, s.core, s.term, s.leads, s.snapshot, s.purged, s.voters.clone(), s.learners.len())
                };
                if known.map(role) != Some(role(&seen)) {
                    story::tell_at(
                        at,
                        &node.name,
                        format!(
                            "group {} term {}{} last {} committed {} applied {} snapshot {} purged {} voters {:?} learners {:?}",
                            seen.group,
                            seen.term,
                            if seen.leads { " LEADS" } else { "" },
                            seen.last,
                            seen.committed,
                            seen.applied,
                            seen.snapshot,
                            seen.purged,
                            seen.voters,
                            seen.learners
                        ),
                    );
                }
                self.last.insert((seen.node, seen.group), seen.clone());
                news.push(seen);
            }
        }
        // Only now: a follower's answer may be part of what its leader says in the same step.
        for seen in &news {
            for rule in rules.iter_mut() {
                rule.seen(seen, &self.last, nodes)?;
            }
        }
        Ok(())
    }

    /// Who leads a group, as far as it was seen: the one of the highest term.
    pub fn leader(&self, group: u32) -> Option<usize> {
        let leaders = self.last.values().filter(|seen| seen.group == group && seen.leads);
        leaders.max_by_key(|seen| seen.term).map(|seen| seen.node)
    }

    /// Whether nobody leads the newest term of a group, as far as it was seen.
    pub fn leaderless(&self, group: u32) -> bool {
        let term = self.last.values().filter(|seen| seen.group == group).map(|seen| seen.term).max();
        !self.last.values().any(|seen| seen.group == group && seen.leads && Some(seen.term) == term)
    }

    /// Whether some replica of a group that is up has a good deal to apply yet.
    pub fn lags(&self, group: u32) -> bool {
        let of_group = || self.last.values().filter(|seen| seen.group == group);
        let committed = of_group().map(|seen| seen.committed).max().unwrap_or(0);
        of_group().any(|seen| seen.applied + BEHIND < committed)
    }

    /// A node that went down leads nothing.
    pub fn forget(&mut self, node: usize) {
        self.last.retain(|(known, _), _| *known != node);
    }
}

/// The state's hash of a group on a node, with the index it is of; none if the node is down or has no such group.
pub fn state_of(node: &Node, group: u32) -> Option<(u64, u128)> {
    let cluster = node.cluster.borrow().clone()?;
    cluster.host().group(GroupId(group)).map(|group| group.state_hash())
}
