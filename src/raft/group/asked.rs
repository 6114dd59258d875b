//! What other replicas ask of this one.

use super::{Core, Group};
use crate::env;
use crate::raft::Types;
use crate::raft::wire::GroupTime;
use crate::raft::wire::ReadIndex;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, TransferLeaderResponse, VoteRequest,
    VoteResponse,
};
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Group {
    pub(in crate::raft) async fn on_append(
        &self,
        request: AppendEntriesRequest<Types>,
        told: Option<GroupTime>,
    ) -> Result<AppendEntriesResponse<Types>, String> {
        let term = request.vote.leader_id.term;
        // What a leader of the past says is of the past: whoever has voted since may know of another timeline.
        if let Some(told) = told.filter(|_| self.core().voted().is_none_or(|vote| vote.leader_id.term <= term)) {
            self.clock.observe(told, term, env::now());
        }
        // Only what the leader committed in its own term covers everything that was ever committed before.
        let commit = request.leader_commit.filter(|id| id.committed_leader_id().term == term).map(|id| id.index());
        let response = self.raft().append_entries(request).await.map_err(|e| e.to_string())?;
        if !self.ready()
            && let (AppendEntriesResponse::Success, Some(commit)) = (&response, commit)
            && self.replica.applied_index() >= commit
        {
            self.ready.store(true, Ordering::Release);
        }
        Ok(response)
    }

    /// The core, if it may vote: looked up once, so that what was checked is what is asked.
    fn voting_core(&self) -> Result<Arc<Core>, String> {
        let core = self.core();
        match env::now() < core.quarantine_until {
            true => Err("in quarantine after a restart".to_owned()),
            false => Ok(core),
        }
    }

    pub(in crate::raft) fn may_lead(&self) -> bool {
        self.voting_core().is_ok()
    }

    pub(in crate::raft) async fn on_vote(&self, request: VoteRequest<Types>) -> Result<VoteResponse<Types>, String> {
        self.voting_core()?.raft.vote(request).await.map_err(|e| e.to_string())
    }

    pub(in crate::raft) async fn on_pre_vote(
        &self,
        request: VoteRequest<Types>,
    ) -> Result<VoteResponse<Types>, String> {
        self.voting_core()?.raft.pre_vote(request).await.map_err(|e| e.to_string())
    }

    pub(in crate::raft) async fn on_transfer(
        &self,
        request: TransferLeaderRequest<Types>,
    ) -> Result<TransferLeaderResponse<Types>, String> {
        if self.fenced() {
            return Err("this replica is fenced".to_owned());
        }
        self.voting_core()?.raft.handle_transfer_leader(request).await.map_err(|e| e.to_string())
    }

    pub(in crate::raft) async fn on_read_index(self: &Arc<Self>, quorum: bool) -> Result<ReadIndex, String> {
        self.answer_follower(self.answer_read_index(quorum).await)
    }

    pub(in crate::raft) async fn on_tick(self: &Arc<Self>) -> Result<ReadIndex, String> {
        self.answer_follower(self.answer_tick().await)
    }

    fn answer_follower(&self, answer: Option<ReadIndex>) -> Result<ReadIndex, String> {
        let answer = answer.ok_or_else(|| "not the leader, or not confirmed".to_owned())?;
        self.wanted.want(answer.index);
        Ok(answer)
    }
}
