//! Handing leadership over: nothing is proposed meanwhile, and the old leader serves no lease read in that term again.

use super::{AdminError, Core, Group, Leadership};
use crate::env;
use crate::raft::proposer::Proposer;
use crate::raft::wire::{self, Lane, Method};
use crate::types::NodeId;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long leadership may take to move before it is settled by an election.
const TRANSFER: Duration = Duration::from_millis(1500);

impl Group {
    /// Hands leadership to `to`: nothing is proposed meanwhile, and what waits goes to the new leader.
    pub async fn transfer(self: &Arc<Self>, to: NodeId) -> Result<(), AdminError> {
        let _one_at_a_time = self.transferring.lock().await;
        let leadership = self.leadership();
        let Some(Leadership { leader, term }) = leadership.filter(|l| l.leader == self.me()) else {
            return match leadership {
                Some(l) if l.leader == to => Ok(()),
                l => Err(AdminError::NotLeader { group: self.id, leader: l.map(|l| l.leader) }),
            };
        };
        if leader == to {
            return Ok(());
        }
        let core = self.core();
        if !core.voters().contains(&to) {
            return Err(AdminError::NotAVoter { group: self.id, node: to });
        }
        // Asked before anything is held back: a target that cannot campaign would cost an election.
        match self.would_lead(to).await {
            Some(true) => (),
            Some(false) => return Err(AdminError::Quarantined { group: self.id, node: to }),
            None => return Err(AdminError::NotCaughtUp { group: self.id, node: to }),
        }
        let _held = Held::new(&self.proposer);
        self.hand_over(&core, to, term).await
    }

    /// Whether `to` says that it may lead; none if it does not answer.
    async fn would_lead(&self, to: NodeId) -> Option<bool> {
        let link = self.around.peers.link(to, Lane::Raft(self.worker));
        let answer = link.call(Method::MayLead, self.id, |_| ()).ok()?;
        let bytes = env::timeout(TRANSFER, answer.wait()).await.ok()?.ok()?;
        wire::get(&bytes, "whether a voter may lead").ok()
    }

    async fn hand_over(&self, core: &Core, to: NodeId, term: u64) -> Result<(), AdminError> {
        let deadline = env::now() + TRANSFER;
        while self.proposer.in_flight() || !core.caught_up(to) {
            if env::now() >= deadline {
                return Err(AdminError::NotCaughtUp { group: self.id, node: to });
            }
            env::sleep(Duration::from_millis(1)).await;
        }
        // From here on the voters' promise is void.
        self.lease_off_term.fetch_max(term, Ordering::AcqRel);
        core.raft.trigger().transfer_leader(to).await.map_err(|e| AdminError::Failed(e.to_string()))?;
        let mut leadership = self.leadership.subscribe();
        let moved = async move {
            let l = leadership.wait_for(|l| l.is_some_and(|l| l.term > term)).await;
            l.ok().and_then(|l| *l)
        };
        match env::timeout(TRANSFER, moved).await {
            Ok(l) if l.is_some_and(|l| l.leader == to) => Ok(()),
            Ok(_) => Err(AdminError::Failed("another node was elected".to_owned())),
            // A leader that offered itself away sends no heartbeats any more: its followers elect when the lease is over.
            Err(_) => Err(AdminError::Timeout("the target did not take over; the group elects a leader by itself")),
        }
    }

    /// Hands leadership to whichever voter has caught up, if this node has it.
    pub async fn step_aside(self: &Arc<Self>) -> Result<(), AdminError> {
        if !self.is_leader() {
            return Ok(());
        }
        let core = self.core();
        let mut last = AdminError::Failed("there is no other voter".to_owned());
        let voters = core.voters();
        let in_reach = |v: &NodeId| *v != self.me() && self.around.peers.link(*v, Lane::Raft(self.worker)).up();
        let (caught_up, behind): (Vec<_>, Vec<_>) =
            voters.into_iter().filter(in_reach).partition(|v| core.caught_up(*v));
        for to in caught_up.into_iter().chain(behind) {
            match self.transfer(to).await {
                Ok(()) => return Ok(()),
                Err(e) => last = e,
            }
        }
        Err(last)
    }
}

/// Holds a proposer back for as long as it lives.
struct Held<'a>(&'a Proposer);

impl<'a> Held<'a> {
    fn new(proposer: &'a Proposer) -> Held<'a> {
        proposer.pause(true);
        Held(proposer)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.pause(false);
    }
}
