//! Work for a group's leader that this layer does not understand: carried to it, and held writes while it is done.
//!
//! A request that left may have been done, even if no answer came; whoever sent it decides what that means.

use super::group::Group;
use super::peers::CallError;
use super::proposer::{OnOutcome, Submission};
use super::reads::NeedsTick;
use super::wire::{Lane, Method};
use crate::env::{self, Instant};
use crate::resp::Args;
use crate::state::Keyspace;
use crate::types::{Author, GroupId, Millis};
use bytes::{BufMut, Bytes};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// Answers what other nodes carry to this one. The error says that nothing was done.
pub type Carrier =
    Box<dyn Fn(GroupId, Bytes) -> Pin<Box<dyn Future<Output = Result<Bytes, String>> + Send>> + Send + Sync>;

/// What became of a request for the leader.
#[derive(Debug)]
pub enum Carried {
    /// This node leads, as far as it knows: it is to do it itself.
    Here,
    /// Nobody is known to lead, or the leader cannot be reached: nothing left.
    Nowhere,
    Answer(Bytes),
    /// The leader says that it did not do it.
    Refused,
    /// It left, and no answer came.
    Unknown,
}

/// How often it is looked whether the writes before a hold have landed.
const LOOK: Duration = Duration::from_millis(1);

/// Holds a group's writes for as long as it lives.
pub struct Hold {
    group: Arc<Group>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.group.proposer.hold(false);
    }
}

impl Group {
    /// Gives a request to the leader of this group, wherever it is.
    pub async fn carry(&self, request: Bytes, deadline: Instant) -> Carried {
        let Some(leadership) = self.leadership() else { return Carried::Nowhere };
        if leadership.leader == self.me() {
            return Carried::Here;
        }
        let link = self.peers().link(leadership.leader, Lane::Forward(self.worker()));
        let answer = match link.call(Method::Carry, self.id(), |out| out.put_slice(&request)) {
            Ok(answer) => answer,
            Err(CallError::NotConnected | CallError::Full) => return Carried::Nowhere,
        };
        match env::timeout_at(deadline, answer.wait()).await {
            Ok(Ok(bytes)) => Carried::Answer(bytes),
            Ok(Err(super::peers::Broken::Peer(_))) => Carried::Refused,
            Ok(Err(super::peers::Broken::Connection)) | Err(_) => Carried::Unknown,
        }
    }

    /// Waits until somebody else leads, or for as long.
    pub async fn leader_may_have_changed(&self, wait: Duration) {
        let _ = env::timeout(wait, self.leadership_changed()).await;
    }

    /// The group's time as its leader would write it now, never behind the state's.
    pub fn present(&self) -> Millis {
        self.leader_estimate().max(self.replica().with(|state| state.keyspace.clock()))
    }

    /// Runs `check` on the state under a permit, as a read does, unless what it looks at needs a tick first.
    pub fn check(
        &self,
        permit: &super::Permit,
        check: impl FnOnce(&Keyspace, &crate::state::View<'_>) -> bool,
    ) -> Result<bool, NeedsTick> {
        self.read_state(permit, check)
    }

    /// Holds back all writes from now on and waits until those under way have landed. None if they do not in time.
    pub async fn hold(self: &Arc<Self>, deadline: Instant) -> Option<Hold> {
        self.proposer.hold(true);
        let hold = Hold { group: self.clone() };
        while self.proposer.in_flight() {
            if env::now() >= deadline {
                return None;
            }
            env::sleep(LOOK).await;
        }
        Some(hold)
    }

    /// Queues a call before all that waits. `author`: as in [`Group::propose_by`].
    pub fn propose_first(&self, author: Option<Author>, call: Args, deadline: Instant, done: OnOutcome) {
        self.proposer.submit_first(Submission::new(vec![call], deadline, None, done).by(author));
    }
}
