//! CLUSTER FAILOVER on a connection: has the leaders of the groups that this node follows hand their leadership to it.
//!
//! Each is asked to, as `hypercachectl leader transfer` has it do: it stops proposing, waits until this node's log has
//! caught up, and offers itself away. Nothing is forced, so nothing that was acknowledged can be lost; a group whose leader
//! is gone elects another by itself.

use super::Shared;
use crate::commands::cluster::{self, Failover};
use crate::commands::session::Face;
use crate::env::{self, Instant};
use crate::raft::{Group, Planned, Step};
use crate::resp::{Args, Reply};
use crate::types::{GroupId, NodeId};
use futures_util::future::join_all;
use std::sync::Arc;
use std::time::Duration;

/// How long after its leader's answer a handover may take to be seen, and how often it is looked.
const SEEN: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(10);

/// The groups that are to be taken over, or the answer to who asks for what cannot be.
pub(super) fn groups(args: &Args, face: Face, shared: &Shared) -> Result<Vec<Arc<Group>>, Reply> {
    if face == Face::Proxy {
        return Err(cluster::disabled());
    }
    if cluster::failover(args)? == Failover::Forced {
        return Err(Reply::error(
            "ERR CLUSTER FAILOVER is not forced here: a group whose leader is gone elects another by itself, and nobody leads \
             without a majority; without FORCE or TAKEOVER the leaders that are there hand over",
        ));
    }
    let me = shared.cluster.me_id();
    // What the cluster agrees on has no slots, and clients nothing to gain from where it is led.
    let votes = |group: &Arc<Group>| group.id() != GroupId::META && group.status().voters.contains(&me);
    let groups: Vec<_> = shared.cluster.host().groups().into_iter().filter(votes).filter(|g| !g.is_leader()).collect();
    match groups.is_empty() {
        true => Err(Reply::error("ERR You should send CLUSTER FAILOVER to a replica")),
        false => Ok(groups),
    }
}

/// OK once this node leads all of them.
pub(super) async fn run(groups: Vec<Arc<Group>>, me: NodeId, deadline: Instant) -> Reply {
    let taken = join_all(groups.iter().map(|group| take_over(group, me, deadline))).await;
    let failed: Vec<String> = taken.into_iter().filter_map(Result::err).collect();
    match failed.is_empty() {
        true => Reply::OK,
        false => Reply::error(format!("ERR not every leader handed over: {}", failed.join("; "))),
    }
}

async fn take_over(group: &Arc<Group>, me: NodeId, deadline: Instant) -> Result<(), String> {
    let failed = |why: String| format!("group {}: {why}", group.id());
    let now = group.configure(None, &[], deadline).await.map_err(|e| failed(e.to_string()))?;
    let Some(at) = now.at else { return Err(failed("its configuration is not known".to_owned())) };
    let step = Planned { at, term: now.term, step: Step::Lead(me) };
    // Who has handed over does not know the configuration any more: whether it did is seen here.
    let told = group.configure(Some(step), &[], deadline).await;
    let until = deadline.min(env::now() + SEEN);
    while !group.is_leader() {
        if env::now() >= until {
            let why = told.err().map_or_else(|| "another node was elected".to_owned(), |e| e.to_string());
            return Err(failed(why));
        }
        group.leader_may_have_changed(LOOK).await;
    }
    tracing::info!(event = "leader_transferred", node = %me, group = %group.id(), to = %me);
    Ok(())
}
