//! `hypercachectl verify`: do all replicas of a group hold the same state?
//!
//! A replica tells its hash at the index it happens to have applied, so replicas can be compared only where their
//! indexes meet. They are asked again until they do; what was heard earlier is kept, since one replica's index of now
//! may be the other's of a moment ago. Two hashes that differ at one index settle a group at once.

use crate::ctl::Cli;
use crate::ctl::client::{Reached, connect};
use crate::ctl::output::{self, Verified};
use crate::ctl::trouble::Trouble;
use crate::env::{self, Instant};
use crate::proto::admin::{Group, GroupHash, StateHashRequest};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Between two rounds of questions.
const PAUSE: Duration = Duration::from_millis(100);
/// Indexes remembered for a group.
const INDEXES_KEPT: usize = 64;
/// Time kept back from the command's own, so that the groups that were never level can still be named.
const REPORT_TIME: Duration = Duration::from_millis(500);

/// A group under comparison.
struct Comparison {
    /// The nodes that hold a replica.
    replicas: BTreeSet<u64>,
    /// index -> node -> hash.
    heard: BTreeMap<u64, BTreeMap<u64, String>>,
}

impl Comparison {
    fn new(group: &Group) -> Comparison {
        Comparison { replicas: group.voters.iter().chain(&group.learners).copied().collect(), heard: BTreeMap::new() }
    }

    /// Takes one replica's word, and gives the verdict if that settles the group.
    fn hear(&mut self, node: u64, word: GroupHash) -> Option<Verified> {
        let at = self.heard.entry(word.index).or_default();
        at.insert(node, word.hash);
        let first = at.values().next();
        let agree = at.values().all(|hash| Some(hash) == first);
        if !agree || self.replicas.iter().all(|replica| at.contains_key(replica)) {
            let hashes = at.iter().map(|(node, hash)| (*node, hash.clone())).collect();
            return Some(Verified { group: word.group, index: word.index, hashes, agree });
        }
        while self.heard.len() > INDEXES_KEPT {
            self.heard.pop_first();
        }
        None
    }
}

pub async fn run(reached: &Reached, only: &[u32], cli: &Cli, deadline: Instant) -> Result<String, Trouble> {
    let groups = &reached.status.groups;
    let wanted = |group: &&Group| only.is_empty() || only.contains(&group.id);
    let mut open: BTreeMap<u32, Comparison> =
        groups.iter().filter(wanted).map(|group| (group.id, Comparison::new(group))).collect();
    if let Some(missing) = only.iter().find(|id| !open.contains_key(id)) {
        return Err(Trouble::no_such_group(*missing));
    }
    let mut settled = Vec::new();
    while !open.is_empty() {
        for (node, word) in ask_all(reached, &open).await? {
            let Some(comparison) = open.get_mut(&word.group) else { continue };
            if let Some(verdict) = comparison.hear(node, word) {
                open.remove(&verdict.group);
                settled.push(verdict);
            }
        }
        if open.is_empty() {
            break;
        }
        if deadline.remaining() < REPORT_TIME {
            let unlevel: Vec<u32> = open.keys().copied().collect();
            let trouble = Trouble::never_level(&unlevel, cli.timeout);
            return Err(Trouble { output: Some(shown(settled, reached, cli)), ..trouble });
        }
        env::sleep(PAUSE).await;
    }
    let differing: Vec<u32> = settled.iter().filter(|one| !one.agree).map(|one| one.group).collect();
    let output = shown(settled, reached, cli);
    if differing.is_empty() { Ok(output) } else { Err(Trouble::states_differ(&differing, output)) }
}

fn shown(mut settled: Vec<Verified>, reached: &Reached, cli: &Cli) -> String {
    settled.sort_by_key(|one| one.group);
    output::verified(&settled, &reached.status.nodes, cli.output)
}

/// Asks every node that holds a replica of an open group, all at once: the closer together the questions, the likelier
/// the indexes meet.
async fn ask_all(reached: &Reached, open: &BTreeMap<u32, Comparison>) -> Result<Vec<(u64, GroupHash)>, Trouble> {
    let mut questions: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    for (group, comparison) in open {
        for node in &comparison.replicas {
            questions.entry(*node).or_default().push(*group);
        }
    }
    let asked = questions.into_iter().map(|(node, groups)| ask(reached, node, groups));
    let answers = futures_util::future::try_join_all(asked).await?;
    Ok(answers.into_iter().flatten().collect())
}

async fn ask(reached: &Reached, node: u64, groups: Vec<u32>) -> Result<Vec<(u64, GroupHash)>, Trouble> {
    let mut nodes = reached.status.nodes.iter();
    let address = nodes.find(|one| one.id == node).and_then(|one| one.addresses.as_ref()).map(|at| at.grpc.clone());
    let Some(address) = address else {
        return Err(Trouble::unreachable(&[format!("the address of node {node} is not known")]));
    };
    let mut client = connect(&address, &reached.credentials).await.map_err(|cause| Trouble::unreachable(&[cause]))?;
    let answer = client.state_hash(StateHashRequest { groups }).await;
    let answer = answer.map_err(|status| Trouble::of_status(&address, &status))?.into_inner();
    Ok(answer.hashes.into_iter().map(|word| (answer.node, word)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison() -> Comparison {
        Comparison::new(&Group { id: 1, voters: vec![1, 2], learners: vec![3], ..Group::default() })
    }

    fn word(index: u64, hash: &str) -> GroupHash {
        GroupHash { group: 1, index, hash: hash.to_owned() }
    }

    #[test]
    fn a_group_is_settled_where_all_replicas_met_even_if_at_different_times() {
        let mut comparison = comparison();
        assert_eq!(comparison.hear(1, word(5, "a")), None);
        assert_eq!(comparison.hear(1, word(6, "b")), None);
        assert_eq!(comparison.hear(2, word(6, "b")), None);
        assert_eq!(comparison.hear(2, word(7, "c")), None);
        let verdict = comparison.hear(3, word(6, "b")).unwrap();
        assert!(verdict.agree);
        assert_eq!((verdict.index, verdict.hashes.len()), (6, 3));
    }

    #[test]
    fn two_hashes_at_one_index_settle_it_at_once() {
        let mut comparison = comparison();
        assert_eq!(comparison.hear(1, word(5, "a")), None);
        let verdict = comparison.hear(2, word(5, "x")).unwrap();
        assert!(!verdict.agree);
        assert_eq!(verdict.hashes, [(1, "a".to_owned()), (2, "x".to_owned())]);
    }

    #[test]
    fn only_so_many_indexes_are_kept() {
        let mut comparison = comparison();
        for index in 0..1000 {
            comparison.hear(1, word(index, "a"));
        }
        assert_eq!(comparison.heard.len(), INDEXES_KEPT);
    }
}
