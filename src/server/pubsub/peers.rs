//! Messages between nodes: every node is told of every message, and asked for its part of what is asked of all.
//!
//! ```text
//! request    wanted u8 | call (as in proposals) ...      answer   replies, if they are wanted
//! ```
//!
//! One link a peer carries them in the order in which they were handed over, so those of a publisher stay in order. A
//! link that is down or full takes nothing: its node does not hear the message, which is what pub/sub promises. Nothing
//! here knows which node wants what; a message is small, and who listens changes at any time.

use super::Shared;
use crate::cluster::Cluster;
use crate::commands;
use crate::commands::pubsub::Ask;
use crate::env;
use crate::raft::Receiver;
use crate::raft::entry::{get_args, put_args};
use crate::raft::peers::{Answer, Link};
use crate::raft::wire::{self, Lane, Method};
use crate::resp::{Args, Reply};
use crate::types::GroupId;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How long the other nodes have to answer; those that did not are not counted.
const PATIENCE: Duration = Duration::from_millis(500);

fn links(cluster: &Cluster) -> Vec<Arc<Link>> {
    let (table, me) = (cluster.table(), cluster.me_id());
    let others = table.nodes.keys().filter(|node| **node != me);
    others.map(|node| cluster.host().peers().link(*node, Lane::Messages)).collect()
}

fn put(out: &mut BytesMut, wanted: bool, calls: &[Args]) {
    out.put_u8(u8::from(wanted));
    calls.iter().for_each(|call| put_args(out, call));
}

/// Has every other node do these, and waits for nothing.
pub(in crate::server) fn tell(shared: &Shared, calls: &[Args]) {
    for link in links(&shared.cluster) {
        if let Err(error) = link.call(Method::Messages, GroupId::META, |out| put(out, false, calls)) {
            tracing::debug!(?error, calls = calls.len(), "messages-dropped: a node is out of reach");
        }
    }
}

/// What was asked of all nodes and is not answered yet.
pub(in crate::server) struct Asked {
    ask: Ask,
    own: Reply,
    answers: Vec<Answer>,
}

/// Hands a question to every other node, and answers this node's part.
pub(in crate::server) fn ask(shared: &Shared, ask: Ask, args: &Args) -> Asked {
    let call = |link: Arc<Link>| {
        link.call(Method::Messages, GroupId::META, |out| put(out, true, std::slice::from_ref(args))).ok()
    };
    let answers = links(&shared.cluster).into_iter().filter_map(call).collect();
    let own = ask.part(shared);
    Asked { ask, own, answers }
}

impl Asked {
    /// Whether there is nobody to wait for.
    pub fn is_answered(&self) -> bool {
        self.answers.is_empty()
    }

    /// The reply where there is nobody else.
    pub fn own_reply(self) -> Reply {
        self.ask.join(vec![self.own])
    }

    /// The reply of all that answered in time.
    pub async fn reply(self) -> Reply {
        let deadline = env::now() + PATIENCE;
        let mut parts = vec![self.own];
        for answer in self.answers {
            if let Ok(Ok(bytes)) = env::timeout_at(deadline, answer.wait()).await
                && let Ok(replies) = wire::get::<Vec<Reply>>(&bytes, "replies")
            {
                parts.extend(replies);
            }
        }
        self.ask.join(parts)
    }
}

/// The doors as other nodes reach them.
pub(in crate::server) struct Doors(pub Weak<Shared>);

impl Receiver for Doors {
    fn receive(&self, mut body: Bytes) -> Result<BytesMut, String> {
        let shared = self.0.upgrade().ok_or("the doors are closed")?;
        let mut out = BytesMut::new();
        if body.is_empty() {
            return Err("messages begin with whether answers are wanted".to_owned());
        }
        let (wanted, mut replies) = (body.get_u8() == 1, Vec::new());
        while body.has_remaining() {
            let args = get_args(&mut body).map_err(|e| e.to_string())?;
            let reply = part(&shared, &args);
            if wanted {
                replies.push(reply);
            }
        }
        if wanted {
            wire::put(&mut out, &replies);
        }
        Ok(out)
    }
}

/// This node's part of what every node is asked.
pub(super) fn part(shared: &Shared, args: &Args) -> Reply {
    match commands::lookup(args).map(|command| Ask::of(command, args)) {
        Ok(Some(Ok(ask))) => ask.part(shared),
        Ok(Some(Err(refused))) | Err(refused) => refused,
        Ok(None) => Reply::error("ERR this is not asked of other nodes"),
    }
}
