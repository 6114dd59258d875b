//! Changes of who is in a group: what its leader tells of that, and the steps that it takes. They are planned elsewhere
//! (`cluster/driver.rs`).
//!
//! Invariants: a step is taken only from the configuration that it was planned for, and only when that is committed; the
//! leader that it was planned for takes it, in the term in which it was, and nobody else; nobody whom this node knows to
//! be removed is given a copy or a vote.

use super::{AdminError, Group};
use crate::env::{self, Instant};
use crate::raft::members::{Configuration, MembersAsk, Planned, Step, VERSION};
use crate::raft::wire::{self, Lane, Method};
use crate::raft::{leader_of, log_id};
use crate::types::NodeId;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use openraft::async_runtime::WatchReceiver;
use openraft::{ChangeMembers, Precondition, ServerState};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How long the leader may take to answer and to have a step committed, if the caller has so much time.
const STEP: Duration = Duration::from_secs(5);

/// What the first of these that succeeds gives, or what the last to fail does. None of them: none.
async fn first_to_tell<T, E>(asked: impl Iterator<Item = impl Future<Output = Result<T, E>>>) -> Option<Result<T, E>> {
    let mut answers: FuturesUnordered<_> = asked.collect();
    let mut refused = None;
    while let Some(answer) = answers.next().await {
        match answer {
            Ok(told) => return Some(Ok(told)),
            Err(e) => refused = Some(Err(e)),
        }
    }
    refused
}

impl Group {
    /// The sets of voters, and the learners, as of the last entry applied here.
    pub fn members_applied(&self) -> (Vec<BTreeSet<NodeId>>, BTreeSet<NodeId>) {
        self.replica().with(|state| {
            let membership = state.membership.membership();
            (membership.get_joint_config().clone(), membership.learner_ids().collect())
        })
    }

    /// Asks the leader, wherever it is, for the configuration, after it took a step. Where this replica knows none, because it
    /// was never given a copy, `voters` are asked, all at once: one that says nothing keeps nobody waiting.
    pub async fn configure(
        self: &Arc<Self>,
        step: Option<Planned>,
        voters: &[NodeId],
        deadline: Instant,
    ) -> Result<Configuration, AdminError> {
        let ask = MembersAsk { version: VERSION, step };
        let Some(leader) = self.leader() else {
            let others = voters.iter().copied().filter(|voter| *voter != self.me());
            let told = first_to_tell(others.map(|voter| self.configure_at(voter, &ask, deadline))).await;
            return told.unwrap_or(Err(AdminError::NotLeader { group: self.id(), leader: None }));
        };
        match leader == self.me() {
            true => self.configure_here(ask).await,
            false => self.configure_at(leader, &ask, deadline).await,
        }
    }

    async fn configure_at(
        &self,
        leader: NodeId,
        ask: &MembersAsk,
        deadline: Instant,
    ) -> Result<Configuration, AdminError> {
        let failed = |what: &str| AdminError::Failed(format!("node {leader}, asked about group {}: {what}", self.id()));
        let link = self.peers().link(leader, Lane::Forward(self.worker()));
        let answer = link.call(Method::Members, self.id(), |out| wire::put(out, ask));
        let answer = answer.map_err(|_| failed("it is out of reach"))?;
        match env::timeout_at(deadline, answer.wait()).await {
            Ok(Ok(bytes)) => {
                let told: Configuration = wire::get(&bytes, "a configuration").map_err(|e| failed(&e.to_string()))?;
                if told.version > VERSION { Err(failed("it speaks a newer version")) } else { Ok(told) }
            }
            Ok(Err(e)) => Err(failed(&e.to_string())),
            Err(_) => Err(AdminError::Timeout("the leader did not answer")),
        }
    }

    pub(in crate::raft) async fn on_members(self: &Arc<Self>, ask: MembersAsk) -> Result<Configuration, String> {
        if ask.version > VERSION {
            return Err(format!("this node knows membership messages up to version {VERSION}"));
        }
        self.configure_here(ask).await.map_err(|e| e.to_string())
    }

    async fn configure_here(self: &Arc<Self>, ask: MembersAsk) -> Result<Configuration, AdminError> {
        let now = self.configuration()?;
        let Some(planned) = ask.step else { return Ok(now) };
        if (now.at, now.term) != (Some(planned.at), planned.term) {
            return Err(AdminError::Failed("the configuration or its leader is another one by now".to_owned()));
        }
        let may_have = |(node, vote): &(NodeId, bool)| self.peers().may_be_given(*node, *vote);
        if let Some((node, _)) = planned.step.gives(&now).into_iter().find(|given| !may_have(given)) {
            return Err(AdminError::Failed(format!("node {node} was removed from the cluster")));
        }
        tracing::info!(node = %self.me(), group = %self.id(), step = ?planned.step, "membership-step");
        // On its own to the end, whatever becomes of who asked: half a handover would leave the proposer held.
        let group = self.clone();
        let (tx, rx) = tokio::sync::oneshot::channel();
        self.spawn(async move {
            // Nobody may be waiting any more.
            let _ = tx.send(group.take(planned).await);
        });
        match env::timeout(STEP, rx).await {
            Ok(Ok(done)) => done?,
            Ok(Err(_)) => return Err(AdminError::Failed("the step ended without an answer".to_owned())),
            Err(_) => return Err(AdminError::Timeout("the step is not committed yet")),
        }
        self.configuration()
    }

    async fn take(self: &Arc<Self>, Planned { at, term, step }: Planned) -> Result<(), AdminError> {
        let nodes = |node| BTreeMap::from([(node, openraft::impls::EmptyNode {})]);
        let change = match step {
            Step::Lead(to) => return self.transfer(to).await,
            Step::AddLearner(node) => ChangeMembers::AddNodes(nodes(node)),
            Step::Voters(voters) => ChangeMembers::ReplaceAllVoters(voters),
            Step::RemoveLearner(node) => ChangeMembers::RemoveNodes(BTreeSet::from([node])),
        };
        // Once more where nothing can come between: there may have been an election since the question.
        let planned_for = [
            Precondition::LastMembershipLogId { last_membership_log_id: Some(log_id(at.0, at.1)) },
            Precondition::CommittedLeaderId { committed_leader_id: leader_of(term) },
        ];
        let changed = self.raft().change_membership_if(change, true, planned_for).await;
        changed.map(|_| ()).map_err(|e| AdminError::Failed(e.to_string()))
    }

    /// What this node knows as the leader, if its configuration is committed.
    fn configuration(&self) -> Result<Configuration, AdminError> {
        let core = self.core();
        let metrics = core.metrics.borrow_watched();
        let (ServerState::Leader, Some(replication)) = (metrics.state, &metrics.replication) else {
            let leader = metrics.current_leader.filter(|leader| *leader != self.me());
            return Err(AdminError::NotLeader { group: self.id(), leader });
        };
        let stored = &metrics.membership_config;
        let at = stored.log_id().as_ref().map(|id| (id.committed_leader_id().term, id.index()));
        let committed = metrics.cluster_committed.as_ref().map_or(0, |id| id.index());
        if self.replica().applied_term() != metrics.current_term || at.is_none_or(|(_, index)| index > committed) {
            return Err(AdminError::Failed("its last change is not committed yet".to_owned()));
        }
        let last = metrics.last_log_index.unwrap_or(0);
        let behind = |matched: u64| last.saturating_sub(matched);
        let told = replication.iter().filter_map(|(node, matched)| Some((*node, behind(matched.as_ref()?.index()))));
        let mut behind: BTreeMap<NodeId, u64> = told.collect();
        behind.insert(self.me(), 0);
        let membership = stored.membership();
        Ok(Configuration {
            version: VERSION,
            at,
            term: metrics.current_term,
            voters: membership.get_joint_config().clone(),
            learners: membership.learner_ids().collect(),
            leader: self.me(),
            behind,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use futures_util::future::{BoxFuture, pending, ready};

    #[test]
    fn a_voter_that_says_nothing_keeps_nobody_waiting() {
        let asked = |answers: Vec<Option<Result<u8, u8>>>| {
            let ask = |answer: Option<Result<u8, u8>>| -> BoxFuture<'static, Result<u8, u8>> {
                answer.map_or_else(|| pending().boxed(), |answer| ready(answer).boxed())
            };
            first_to_tell(answers.into_iter().map(ask)).now_or_never()
        };
        assert_eq!(
            asked(vec![None, Some(Err(1)), Some(Ok(7))]),
            Some(Some(Ok(7))),
            "the first is silent, another knows"
        );
        assert_eq!(asked(vec![Some(Err(1)), Some(Err(2))]), Some(Some(Err(2))));
        assert_eq!(asked(vec![None, Some(Err(1))]), None, "the one that is silent may still know");
        assert_eq!(asked(vec![]), Some(None));
    }
}
