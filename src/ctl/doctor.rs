//! `hypercachectl doctor`: asks every node how it is and how it hears the others, and says what is wrong and what to do.
//!
//! What is found is a pure function of the answers ([`findings`]), so that every rule has a test. Nothing is changed.

use super::client::{ANSWER_LIMIT, Reached, connect};
use super::trouble::{EXIT_FAILED, EXIT_NO_QUORUM, Trouble};
use super::{Cli, output};
use crate::env;
use crate::proto::admin::{ExamineRequest, ExamineResponse, Group, Node};
use std::collections::{BTreeMap, BTreeSet};

/// A wall clock that is farther from most others is told of.
const CLOCK_MS: u64 = 1_000;
/// A replica whose applied index is so far behind what is committed does not follow.
const LAG: u64 = 10_000;
/// Less room than this on a disk is worth a word, before writes are refused.
const DISK_BYTES: u64 = 1 << 30;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// A stable name of the rule.
    pub kind: &'static str,
    /// It keeps the cluster from serving something now.
    pub severe: bool,
    pub text: String,
    pub remedy: String,
}

/// What each node answered, or why it did not.
pub type Answers = BTreeMap<u64, Result<ExamineResponse, String>>;

pub async fn run(cli: &Cli, reached: &Reached) -> Result<String, Trouble> {
    let nodes = &reached.status.nodes;
    let asked = nodes.iter().map(|node| async move { (node.id, examine(node, reached).await) });
    let answers: Answers = futures_util::future::join_all(asked).await.into_iter().collect();
    let found = findings(&reached.status.cluster_id, nodes, &answers);
    let shown = output::findings(&found, answers.values().filter(|answer| answer.is_ok()).count(), nodes, cli.output);
    match found.is_empty() {
        true => Ok(shown),
        false => {
            let no_quorum = found.iter().any(|one| one.kind == "no-quorum" || one.kind == "no-leader");
            let exit = if no_quorum { EXIT_NO_QUORUM } else { EXIT_FAILED };
            Err(Trouble::unwell(found.len(), exit, shown))
        }
    }
}

async fn examine(node: &Node, reached: &Reached) -> Result<ExamineResponse, String> {
    let door =
        node.addresses.as_ref().map(|at| at.grpc.clone()).filter(|door| !door.is_empty() && !door.ends_with(":0"));
    let door = door.ok_or("its gRPC door is not known, or off")?;
    let asking = async {
        let mut client = connect(&door, &reached.credentials).await?;
        let answer = client.examine(ExamineRequest {}).await;
        answer.map(tonic::Response::into_inner).map_err(|status| format!("{door}: {}", status.message()))
    };
    env::timeout(ANSWER_LIMIT, asking).await.unwrap_or_else(|_| Err(format!("{door}: no answer in time")))
}

/// Everything that is wrong, worst first.
pub fn findings(cluster: &str, nodes: &[Node], answers: &Answers) -> Vec<Finding> {
    let view = View { nodes, answers };
    let mut found = Vec::new();
    view.groups(&mut found);
    view.strangers(cluster, &mut found);
    view.overheard(&mut found);
    view.silent(&mut found);
    view.pairs(&mut found);
    view.disks(&mut found);
    view.clocks(&mut found);
    view.replicas(&mut found);
    found.sort_by_key(|one| !one.severe);
    found
}

struct View<'a> {
    nodes: &'a [Node],
    answers: &'a Answers,
}

impl View<'_> {
    fn name(&self, id: u64) -> String {
        let node = self.nodes.iter().find(|node| node.id == id);
        node.map_or_else(|| format!("node {id}"), |node| format!("{} (node {id})", node.name))
    }

    fn names(&self, ids: impl IntoIterator<Item = u64>) -> String {
        ids.into_iter().map(|id| self.name(id)).collect::<Vec<_>>().join(", ")
    }

    fn answered(&self) -> impl Iterator<Item = &ExamineResponse> {
        self.answers.values().filter_map(|answer| answer.as_ref().ok())
    }

    /// Whether `from` hears `to`; none if it did not say.
    fn hears(&self, from: u64, to: u64) -> Option<bool> {
        let answer = self.answers.get(&from)?.as_ref().ok()?;
        answer.peers.iter().find(|peer| peer.node == to).map(|peer| peer.alive)
    }

    /// Nodes that did not answer and that nobody who answered hears.
    fn down(&self) -> BTreeSet<u64> {
        let lost = |id: &&u64| {
            self.answers[id].is_err() && !self.answers.keys().any(|from| self.hears(*from, **id) == Some(true))
        };
        self.answers.keys().filter(lost).copied().collect()
    }

    fn groups(&self, found: &mut Vec<Finding>) {
        let mut seen: BTreeMap<u32, Vec<&Group>> = BTreeMap::new();
        for group in self.answered().flat_map(|answer| &answer.groups).filter(|group| group.hosted) {
            seen.entry(group.id).or_default().push(group);
        }
        let down = self.down();
        for (id, views) in seen {
            // Who has applied most knows the voters best.
            let newest = views.iter().max_by_key(|group| (group.applied, group.voters.len())).expect("it was seen");
            let lost: Vec<u64> = newest.voters.iter().copied().filter(|voter| down.contains(voter)).collect();
            let left = newest.voters.len() - lost.len();
            if !newest.voters.is_empty() && left * 2 <= newest.voters.len() {
                let text = format!(
                    "group {id} has lost its majority: of its voters {} are down",
                    self.names(lost.iter().copied())
                );
                let remedy = "start these nodes again; if their disks are lost for good, see `hypercachectl recover --help` \
                              and docs/operating/failure-modes.md";
                found.push(Finding { kind: "no-quorum", severe: true, text, remedy: remedy.to_owned() });
            } else if views.iter().all(|group| group.leader.is_none()) {
                let text = format!("group {id} has no leader, though a majority of its voters is up");
                let remedy = "if it stays so for more than some seconds, look whether its voters hear one another (below), \
                              and at their logs";
                found.push(Finding { kind: "no-leader", severe: true, text, remedy: remedy.to_owned() });
            }
        }
    }

    fn strangers(&self, cluster: &str, found: &mut Vec<Finding>) {
        for answer in self.answered().filter(|answer| answer.cluster_id != cluster) {
            let its = if answer.cluster_id.is_empty() { "none" } else { &answer.cluster_id };
            let text = format!("{} belongs to another cluster ({its}, not {cluster})", self.name(answer.node));
            let remedy = "it was restored or founded apart: stop it, empty its node.data_dir, and replace it \
                          (`hypercachectl node replace`)";
            found.push(Finding { kind: "wrong-cluster", severe: true, text, remedy: remedy.to_owned() });
        }
    }

    /// Other clusters that gossip with this one. Nothing comes of it, but somebody has mixed up addresses.
    fn overheard(&self, found: &mut Vec<Finding>) {
        for answer in self.answered().filter(|answer| !answer.strangers.is_empty()) {
            let text =
                format!("{} hears gossip of another cluster ({})", self.name(answer.node), answer.strangers.join(", "));
            let remedy = "it is ignored; check the cluster.seeds of both clusters, and who can reach node.gossip_addr";
            found.push(Finding { kind: "foreign-gossip", severe: false, text, remedy: remedy.to_owned() });
        }
    }

    fn silent(&self, found: &mut Vec<Finding>) {
        let down = self.down();
        for (id, cause) in self.answers.iter().filter_map(|(id, answer)| Some((id, answer.as_ref().err()?))) {
            let (kind, text, remedy) = match down.contains(id) {
                true => (
                    "node-down",
                    format!("{} does not answer, and no other node hears it: {cause}", self.name(*id)),
                    "start it; if it is lost for good, replace it (`hypercachectl node replace`)",
                ),
                false => (
                    "door-closed",
                    format!("{} lives, but cannot be asked from here: {cause}", self.name(*id)),
                    "check server.grpc_addr of that node, and what stands between it and this machine",
                ),
            };
            found.push(Finding { kind, severe: false, text, remedy: remedy.to_owned() });
        }
    }

    /// Pairs of which one does not hear the other, but for nodes that are down altogether.
    fn pairs(&self, found: &mut Vec<Finding>) {
        let down = self.down();
        for answer in self.answered() {
            for peer in answer.peers.iter().filter(|peer| !peer.alive && !down.contains(&peer.node)) {
                let both = self.hears(peer.node, answer.node) == Some(false);
                if both && peer.node < answer.node {
                    continue;
                }
                let (from, to) = (self.name(answer.node), self.name(peer.node));
                let how = if both { "and nor the other way" } else { "though it is heard itself, or cannot say" };
                let since = peer.silent_ms.map_or("never so far".to_owned(), |ms| format!("for {ms} ms"));
                let trouble = if peer.trouble.is_empty() { String::new() } else { format!(": {}", peer.trouble) };
                let text = format!("{from} does not hear {to} at {}, {how} ({since}){trouble}", peer.address);
                let remedy = match () {
                    () if peer.trouble.contains("another data directory") => {
                        "its disk was emptied or exchanged: start it with an empty node.data_dir and cluster.join: true, \
                         and `hypercachectl node replace` the old one by it"
                    }
                    () if peer.trouble.contains("belongs to cluster") => {
                        "one of the two belongs to another cluster: check the address, and its node.data_dir"
                    }
                    () => "check the network between these two, firewalls, and node.advertise_host",
                };
                found.push(Finding { kind: "pair-unreachable", severe: false, text, remedy: remedy.to_owned() });
            }
        }
    }

    fn disks(&self, found: &mut Vec<Finding>) {
        for answer in self.answered() {
            let free = answer.disk_free_bytes;
            let shown = free.map_or("unknown".to_owned(), |bytes| format!("{} MB", bytes >> 20));
            let remedy = "make room on the disk of node.data_dir; writes are taken again by themselves \
                          (storage.disk_resume_watermark)";
            let (kind, severe, text) = match answer.disk_low {
                true => ("disk-full", true, "refuses writes: its disk is nearly full"),
                false if free.is_some_and(|bytes| bytes < DISK_BYTES) => {
                    ("disk-low", false, "has little room on its disk")
                }
                false => continue,
            };
            let text = format!("{} {text} ({shown} free)", self.name(answer.node));
            found.push(Finding { kind, severe, text, remedy: remedy.to_owned() });
        }
    }

    /// Clocks that most of those who hear them find wrong: a clock that is wrong itself finds all others so.
    fn clocks(&self, found: &mut Vec<Finding>) {
        for node in self.nodes {
            let mut offsets: Vec<i64> = self
                .answered()
                .flat_map(|answer| &answer.peers)
                .filter(|peer| peer.node == node.id)
                .filter_map(|peer| peer.clock_offset_ms)
                .collect();
            offsets.sort_unstable();
            let off: Vec<i64> = offsets.iter().copied().filter(|ms| ms.unsigned_abs() > CLOCK_MS).collect();
            // Of two nodes nobody knows which is right: both are named.
            if off.is_empty() || off.len() * 2 < offsets.len() || (off.len() == 1 && offsets.len() > 1) {
                continue;
            }
            let text =
                format!("the wall clock of {} is {} ms ahead of the others'", self.name(node.id), off[off.len() / 2]);
            let remedy = "have NTP or chrony set it: keys expire by the group's clock all the same, but logs and stamps \
                          disagree";
            found.push(Finding { kind: "clock-apart", severe: false, text, remedy: remedy.to_owned() });
        }
    }

    fn replicas(&self, found: &mut Vec<Finding>) {
        let mut committed: BTreeMap<u32, u64> = BTreeMap::new();
        for group in self.answered().flat_map(|answer| &answer.groups) {
            let most = committed.entry(group.id).or_default();
            *most = (*most).max(group.commit);
        }
        for answer in self.answered() {
            for group in answer.groups.iter().filter(|group| group.hosted) {
                let behind = committed[&group.id].saturating_sub(group.applied);
                let (kind, text, remedy) = match () {
                    () if group.fenced => (
                        "replica-fenced",
                        "differs from the majority, is fenced off and being rebuilt".to_owned(),
                        "keep that node's log and report it as a bug; it is rebuilt by itself",
                    ),
                    () if behind > LAG => (
                        "replica-lags",
                        format!("is {behind} entries behind"),
                        "look whether that node's processor or disk is busy, and whether the leader reaches it",
                    ),
                    () if !group.recovered && group.leader.is_some() => (
                        "replica-not-ready",
                        "has not caught up with its leader since it was started".to_owned(),
                        "wait; if it stays so, look at that node's log",
                    ),
                    () => continue,
                };
                let text = format!("the replica of group {} on {} {text}", group.id, self.name(answer.node));
                found.push(Finding { kind, severe: false, text, remedy: remedy.to_owned() });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::admin::PeerView;

    const CLUSTER: &str = "c";

    fn nodes() -> Vec<Node> {
        (1..=3).map(|id| Node { id, name: format!("node-{id}"), ..Default::default() }).collect()
    }

    fn answer(node: u64) -> ExamineResponse {
        let peer = |id| PeerView { node: id, alive: true, clock_offset_ms: Some(3), ..Default::default() };
        let group = Group {
            id: 1,
            leader: Some(1),
            voters: vec![1, 2, 3],
            commit: 50_000,
            applied: 50_000,
            hosted: true,
            recovered: true,
            ..Default::default()
        };
        ExamineResponse {
            node,
            name: format!("node-{node}"),
            cluster_id: CLUSTER.into(),
            disk_free_bytes: Some(1 << 40),
            peers: (1..=3).filter(|id| *id != node).map(peer).collect(),
            groups: vec![group],
            ..Default::default()
        }
    }

    /// What is found in a cluster that is well but for this.
    fn with(change: impl Fn(&mut ExamineResponse)) -> Vec<Finding> {
        after(&[], change)
    }

    fn after(down: &[u64], change: impl Fn(&mut ExamineResponse)) -> Vec<Finding> {
        let one = |id: u64| {
            let mut answer = answer(id);
            answer.peers.iter_mut().filter(|peer| down.contains(&peer.node)).for_each(|peer| peer.alive = false);
            change(&mut answer);
            (id, if down.contains(&id) { Err("refused".to_owned()) } else { Ok(answer) })
        };
        findings(CLUSTER, &nodes(), &(1..=3).map(one).collect())
    }

    fn kinds(found: &[Finding]) -> Vec<&'static str> {
        assert!(found.iter().all(|one| !one.remedy.is_empty()));
        found.iter().map(|one| one.kind).collect()
    }

    fn cut(answer: &mut ExamineResponse, from: u64, to: u64) {
        if answer.node == from {
            answer.peers.iter_mut().filter(|peer| peer.node == to).for_each(|peer| peer.alive = false);
        }
    }

    #[test]
    fn a_cluster_that_is_well_has_no_findings() {
        assert_eq!(with(|_| ()), []);
    }

    #[test]
    fn the_very_pair_is_named_that_does_not_hear_each_other() {
        let both = with(|answer| {
            cut(answer, 2, 3);
            cut(answer, 3, 2);
        });
        assert_eq!(kinds(&both), ["pair-unreachable"]);
        assert!(both[0].text.starts_with("node-2 (node 2) does not hear node-3 (node 3)"), "{}", both[0].text);
        let one_way = with(|answer| cut(answer, 3, 1));
        assert!(one_way[0].text.starts_with("node-3 (node 3) does not hear node-1 (node 1)"), "{}", one_way[0].text);
    }

    #[test]
    fn a_node_that_is_down_is_one_finding_and_two_are_the_loss_of_the_majority() {
        assert_eq!(kinds(&after(&[3], |_| ())), ["node-down"]);
        let two = after(&[2, 3], |answer| answer.groups[0].leader = None);
        assert_eq!(kinds(&two), ["no-quorum", "node-down", "node-down"]);
        assert!(two[0].severe && two[0].text.contains("node-2 (node 2), node-3 (node 3)"));
    }

    #[test]
    fn a_node_that_cannot_be_asked_but_is_heard_is_told_apart() {
        let one = |id: u64| (id, if id == 2 { Err("refused".to_owned()) } else { Ok(answer(id)) });
        assert_eq!(kinds(&findings(CLUSTER, &nodes(), &(1..=3).map(one).collect())), ["door-closed"]);
    }

    #[test]
    fn leaders_clusters_disks_clocks_and_replicas_are_looked_at() {
        assert_eq!(kinds(&with(|answer| answer.groups[0].leader = None)), ["no-leader"]);
        let on = |id: u64, change: fn(&mut ExamineResponse)| {
            with(move |answer| {
                if answer.node == id {
                    change(answer)
                }
            })
        };
        assert_eq!(kinds(&on(2, |a| a.cluster_id = "d".into())), ["wrong-cluster"]);
        assert_eq!(kinds(&on(2, |a| a.strangers = vec!["d".into()])), ["foreign-gossip"]);
        assert_eq!(kinds(&on(2, |a| a.disk_low = true)), ["disk-full"]);
        assert_eq!(kinds(&on(2, |a| a.disk_free_bytes = Some(1 << 20))), ["disk-low"]);
        assert_eq!(kinds(&on(3, |a| a.groups[0].applied = 1)), ["replica-lags"]);
        assert_eq!(kinds(&on(3, |a| a.groups[0].fenced = true)), ["replica-fenced"]);
        assert_eq!(kinds(&on(3, |a| a.groups[0].recovered = false)), ["replica-not-ready"]);
        // Node 3 is an hour ahead: the others see that, and it sees both of them behind.
        let wrong = with(|answer| {
            let me = answer.node;
            for peer in &mut answer.peers {
                peer.clock_offset_ms = Some(match (me, peer.node) {
                    (3, _) => -3_600_000,
                    (_, 3) => 3_600_000,
                    _ => 0,
                });
            }
        });
        assert_eq!(kinds(&wrong), ["clock-apart"]);
        assert!(wrong[0].text.contains("node-3 (node 3) is 3600000 ms ahead"), "{}", wrong[0].text);
    }
}
