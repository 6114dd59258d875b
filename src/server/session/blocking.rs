//! A connection that waits: tries a command, waits for a turn at its keys, tries again (`raft::waiters`).
//!
//! While it waits nothing behind the command is decoded, but bytes are read, so that a client that goes is noticed and takes
//! nothing. Who was not given a turn has proposed nothing, so every end of the waiting but a reply is certain.

use super::super::dispatch::Request;
use super::super::lane::{Kind, Op};
use super::super::ring::{State, Ticket};
use super::{Came, Connection, sleep_until, unserved};
use crate::commands::Run;
use crate::env::{self, Instant};
use crate::planted::{self, Bug};
use crate::raft::{Place, Unplaced};
use crate::resp::{Args, Reply};
use crate::types::{GroupId, Level};
use bytes::Bytes;
use std::time::Duration;
use tokio::sync::oneshot;

/// A request that waits.
pub(in super::super) struct Blocking {
    group: GroupId,
    args: Args,
    kind: Kind,
    /// Its arguments are being settled: the reply that comes is the ones to try.
    settling: bool,
    /// None: it waits for ever.
    until: Option<Instant>,
    /// Its place in the line while it uses its turn.
    place: Option<Place>,
    /// Ends the waiting; there while it waits.
    cancel: Option<oneshot::Sender<Unblock>>,
    /// It is not to wait again.
    ended: Option<Unblock>,
}

/// How waiting is ended from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Unblock {
    /// As if its time were up.
    Timeout,
    /// CLIENT UNBLOCK ERROR.
    Error,
    /// The node stops.
    Stop,
}

/// How waiting ended.
pub(super) enum Waited {
    Turn(Place),
    Unplaced(Unplaced),
    TimeUp,
    Ended(Unblock),
}

/// Further away than this is for ever.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The reply when time is up, whatever the command answers where it does not wait.
const TIME_UP: Reply = Reply::NilArray;

impl Blocking {
    /// Its keys belong to another group now: a place in the line of the one before is none there.
    pub(super) fn goes_to(&mut self, group: GroupId) {
        if self.group != group {
            (self.group, self.place) = (group, None);
        }
    }
}

impl Unblock {
    fn reply(self) -> Reply {
        match self {
            Unblock::Timeout => TIME_UP,
            Unblock::Error => Reply::error("UNBLOCKED client unblocked via CLIENT UNBLOCK"),
            Unblock::Stop => Reply::error("UNBLOCKED this node is shutting down; nothing was taken"),
        }
    }
}

impl Connection {
    /// Runs a command that waits for at most `ms` if it finds nothing; 0: for ever.
    pub(super) fn run_blocking(&mut self, group: GroupId, request: Request, ms: u64, mute: bool) {
        let asked = self.asked(Some(request.ordinal), &request.args, mute);
        let kind = match request.command.run {
            // A turn is given by what the leader has.
            Run::Read(run) => Kind::Read { run, level: Level::Linearizable, quiet: false },
            _ => Kind::Write,
        };
        let wait = Duration::from_millis(ms);
        let until = (ms > 0 && wait < LONGEST).then(|| self.now + wait);
        let args = request.args;
        self.awaits = Some(self.ring.next_seq());
        let blocking = Blocking {
            group,
            args: args.clone(),
            kind,
            settling: request.command.blocks.is_some_and(|blocks| blocks.settle.is_some()),
            until,
            place: None,
            cancel: None,
            ended: None,
        };
        let settle = request.command.blocks.and_then(|blocks| blocks.settle);
        let first = settle.map_or(kind, |run| Kind::Read { run, level: Level::Linearizable, quiet: false });
        self.enter(group, asked, State::Blocking(Box::new(blocking)), args, first);
    }

    /// Tries the command, before anything that waits in its group's lane.
    fn try_now(&mut self, seq: u64) {
        let deadline = self.deadline();
        let Some((_, blocking)) = self.blocking() else { return };
        let (args, kind, id) = (blocking.args.clone(), blocking.kind, blocking.group);
        let op = Op { ticket: Ticket { seq, part: 0 }, args, kind, deadline, reading: None };
        match self.lane(id) {
            Some(at) => self.lanes[at].push_first(op),
            None => self.unblock_with(seq, unserved(id)),
        }
    }

    /// The request that waits, if one does.
    fn blocking(&mut self) -> Option<(u64, &mut Blocking)> {
        let seq = self.awaits?;
        match &mut self.ring.get(seq)?.state {
            State::Blocking(blocking) => Some((seq, blocking)),
            _ => None,
        }
    }

    /// Whether a request waits for its turn.
    pub(super) fn is_blocked(&mut self) -> bool {
        self.blocking().is_some_and(|(_, blocking)| blocking.cancel.is_some())
    }

    /// A try of a command that waits was answered.
    pub(super) fn blocking_tried(&mut self, seq: u64, reply: Reply) {
        let (now, stopping) = (env::now(), self.stopping.is_some());
        let Some((_, blocking)) = self.blocking() else { return };
        if std::mem::take(&mut blocking.settling)
            && let Reply::Array(settled) = &reply
        {
            let argument =
                |reply: &Reply| if let Reply::Bulk(argument) = reply { argument.clone() } else { Bytes::new() };
            blocking.args = settled.iter().map(argument).collect();
            return self.try_now(seq);
        }
        let late = planted::is(Bug::TimeUpWhenServed) && blocking.until.is_some_and(|until| until <= now);
        if !matches!(reply, Reply::Nil | Reply::NilArray) && !late {
            return self.unblock_with(seq, reply);
        }
        // A node that stops lets nobody begin to wait.
        let ended = blocking.ended.or(stopping.then_some(Unblock::Stop));
        if let Some(how) = ended {
            return self.unblock_with(seq, how.reply());
        }
        if blocking.until.is_some_and(|until| until <= now) {
            return self.unblock_with(seq, TIME_UP);
        }
        let (cancel, cancelled) = oneshot::channel();
        blocking.cancel = Some(cancel);
        let (id, until, call, place) = (blocking.group, blocking.until, blocking.args.clone(), blocking.place.take());
        let Some(at) = self.lane(id) else { return self.unblock_with(seq, unserved(id)) };
        let group = self.lanes[at].group.clone();
        self.client.block();
        self.pushes_pass(seq);
        self.awaited.push(Box::pin(async move {
            let waited = tokio::select! {
                biased;
                Ok(how) = cancelled => Waited::Ended(how),
                place = group.wait_turn(&call, place) => place.map_or_else(Waited::Unplaced, Waited::Turn),
                () = sleep_until(until), if until.is_some() => Waited::TimeUp,
            };
            (id, Came::Waited(seq, waited))
        }));
    }

    /// Waiting has ended in one way or another.
    pub(super) fn waited(&mut self, seq: u64, waited: Waited) {
        let now = self.now;
        if let Some(slot) = self.ring.get(seq) {
            // What it waited is not what it took.
            slot.asked.at = now;
        }
        let Some((_, blocking)) = self.blocking().filter(|(waiting, _)| *waiting == seq) else { return };
        blocking.cancel = None;
        let reply = match waited {
            Waited::Turn(place) => {
                blocking.place = Some(place);
                let id = blocking.group;
                // By leave from before, the read might not see what its turn is about; no other turn would come for that.
                if let Some(at) = self.lane(id) {
                    self.lanes[at].take_back_leave();
                }
                return self.try_now(seq);
            }
            Waited::Unplaced(Unplaced::LeaderGone) => Reply::error(
                "UNBLOCKED force unblock from blocking operation, the group has another leader; nothing was taken",
            ),
            Waited::Unplaced(Unplaced::LineFull) => {
                Reply::error("THROTTLED too many clients wait for keys of this group; nothing was taken")
            }
            Waited::TimeUp => TIME_UP,
            Waited::Ended(how) => how.reply(),
        };
        self.unblock_with(seq, reply);
    }

    /// Ends the waiting, if a request waits.
    pub(super) fn unblock(&mut self, how: Unblock) {
        let Some((_, blocking)) = self.blocking() else { return };
        blocking.ended = Some(how);
        if let Some(cancel) = blocking.cancel.take() {
            // Should it have ended already, that end counts.
            let _ = cancel.send(how);
        }
    }

    fn unblock_with(&mut self, seq: u64, reply: Reply) {
        let Some(slot) = self.ring.get(seq) else { return };
        // The place in the line goes with the state.
        slot.state = State::Waiting;
        self.awaits = None;
        self.client.unblocked();
        self.conclude(seq, reply);
    }
}
