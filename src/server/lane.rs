//! The order of one connection's commands in one group.
//!
//! ```text
//!            a run of writes was proposed            leave to read was asked for, or a tick
//!   Writing <---------------------------- Idle ----------------------------------------> Waiting
//!            -- all of it is finished --> |  ^ <-- it came, or was refused --------------
//!                                         '--' reads with leave are answered at once
//! ```
//!
//! Commands take effect in the order sent: what cannot begin waits in `queue`, oldest first. A run of writes is proposed
//! as one submission and the next only when it is finished, because a submission that is refused and tried again must
//! not be overtaken. A read begins after the writes before it are finished, a write after the reads before it were
//! answered.
//!
//! Leave to read covers every request that had arrived when it was given, and nothing else: `before` bounds it, and a
//! write takes it back, since what the connection wrote meanwhile may not be visible under it.
//!
//! What the group does not answer for, because its slot is on its way elsewhere or has gone, was certainly not applied. It
//! goes back to the front, and the lane is *held*: nothing begins until the session has looked where it belongs now, so
//! nothing overtakes it.
//!
//! Nothing here knows the ring or the socket; the session carries out each [`Step`].

use super::ring::Ticket;
use super::tracking::Reading;
use crate::commands::handover;
use crate::env::{self, Instant};
use crate::planted::{self, Bug};
use crate::raft::{Elsewhere, Group, Permit, Refusal};
use crate::resp::{Args, Reply};
use crate::state::{View, WARMED};
use crate::types::{GroupId, Level};
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Writes that are proposed together, at most.
const RUN_MAX: usize = 1024;
/// Bytes of arguments that are proposed together, at most; a single write may be larger.
const RUN_BYTES_MAX: usize = 1 << 20;
/// Requests whose deadlines lie further apart do not share a run: the run has the earliest one's.
const RUN_SPREAD: Duration = Duration::from_millis(250);
/// How long a lane is held before it is looked again whether its group answers for the slot, or which one does.
const HOLD: Duration = Duration::from_millis(2);
/// The same if this node's replica has not applied yet what refused the call: it would say that the group answers, and each
/// look would be an entry of the log.
const HOLD_BEHIND: Duration = Duration::from_millis(20);

pub(super) type ReadFn = fn(&Args, &View<'_>) -> Reply;

#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// `quiet`: CLIENT NO-TOUCH, the read leaves no trace in what eviction goes by.
    Read {
        run: ReadFn,
        level: Level,
        quiet: bool,
    },
    Write,
    /// Reads, writes or both, which shows when it has run.
    Script,
}

/// One command that waits for its turn.
pub(super) struct Op {
    pub ticket: Ticket,
    pub args: Args,
    pub kind: Kind,
    pub deadline: Instant,
    /// What is noted before a read, if its client keeps what it reads.
    pub reading: Option<Box<Reading>>,
}

/// What became of a read that was tried.
pub(super) enum Tried {
    Answer(Reply),
    NoLeave,
    NeedsTick,
    /// The group does not answer for its slots.
    Elsewhere,
}

/// What the session has to do for a lane.
pub(super) enum Step {
    Nothing,
    Answer(Ticket, Reply),
    Propose {
        calls: Vec<Args>,
        deadline: Instant,
    },
    /// Like a proposal, for scripts.
    Scripts {
        calls: Vec<Args>,
        deadline: Instant,
    },
    /// Ask for leave and report with [`Lane::leave_came`].
    AskLeave {
        level: Level,
        deadline: Instant,
    },
    /// Have a tick applied and report with [`Lane::tick_came`].
    Tick {
        deadline: Instant,
    },
}

enum State {
    Idle,
    /// The tickets of the run under way, in order, its kind and its deadline.
    Writing(Vec<Ticket>, Kind, Instant),
    Waiting,
}

struct Leave {
    level: Level,
    permit: Permit,
    leads: bool,
    /// Requests with smaller numbers had arrived when it was given.
    before: u64,
}

pub(super) struct Lane {
    pub id: GroupId,
    pub group: Arc<Group>,
    state: State,
    queue: VecDeque<Op>,
    /// So many of the reads at the front were brought near (`Keyspace::warm`).
    near: usize,
    leave: Option<Leave>,
    /// Requests with smaller numbers had arrived when leave was asked for.
    asked_before: u64,
    /// Nothing begins before the session has looked, which it does not do sooner than this.
    held: Option<Instant>,
}

impl Lane {
    pub fn new(id: GroupId, group: Arc<Group>) -> Lane {
        let (queue, state) = (VecDeque::new(), State::Idle);
        Lane { id, group, state, queue, near: 0, leave: None, asked_before: 0, held: None }
    }

    /// Nothing waits and nothing is under way.
    pub fn is_free(&self) -> bool {
        matches!(self.state, State::Idle) && self.queue.is_empty()
    }

    /// Whether [`Lane::step`] would do something.
    pub fn can_step(&self) -> bool {
        matches!(self.state, State::Idle) && self.held.is_none() && !self.queue.is_empty()
    }

    /// Whether something was begun and is not finished.
    pub fn is_under_way(&self) -> bool {
        !matches!(self.state, State::Idle)
    }

    /// When it is to be looked whether what is held may go on.
    pub fn held_until(&self) -> Option<Instant> {
        self.held
    }

    /// Lets what was held go on if the group, as far as this node knows, answers for what is next, or if that is late.
    pub fn release(&mut self, now: Instant) {
        let away = |op: &Op| self.group.peek(|keyspace| handover::is_elsewhere(&op.args, keyspace.ownership()));
        let waits = self.queue.front().is_some_and(|op| op.deadline > now && away(op));
        self.held = waits.then_some(now + HOLD);
    }

    /// What waits, in order.
    pub fn waiting(&self) -> impl Iterator<Item = &Op> {
        self.queue.iter()
    }

    /// Takes out all that waits, in order. Not while something is under way.
    pub fn take_out(&mut self) -> impl Iterator<Item = Op> + use<> {
        std::mem::take(&mut self.queue).into_iter()
    }

    /// The read that would be next, if one is.
    pub fn next_read(&self) -> Option<u64> {
        self.queue.front().filter(|op| matches!(op.kind, Kind::Read { .. })).map(|op| op.ticket.seq)
    }

    pub fn push(&mut self, op: Op) {
        self.queue.push_back(op);
    }

    /// For what was begun already, as the later pages of a SCAN: what waits here was sent after it.
    pub fn push_first(&mut self, op: Op) {
        self.queue.push_front(op);
    }

    /// More bytes have come: requests from `next_seq` on may not use leave that was given before.
    pub fn more_came(&mut self, next_seq: u64) {
        if let Some(leave) = &mut self.leave {
            leave.before = leave.before.min(next_seq);
        }
    }

    /// What is read next may not use leave that was given before: it is tried again because of what came meanwhile.
    pub fn take_back_leave(&mut self) {
        self.leave = None;
    }

    /// The level of the leave in hand.
    pub fn level(&self) -> Option<Level> {
        self.leave.as_ref().map(|leave| leave.level)
    }

    /// Whether the last answered read was answered as the group's leader.
    pub fn leads(&self) -> bool {
        self.leave.as_ref().is_some_and(|leave| leave.leads)
    }

    /// Answers a read if there is leave or it can be had at once. Only for the oldest command of the lane.
    pub fn try_read(
        &mut self,
        run: ReadFn,
        args: &Args,
        level: Level,
        seq: u64,
        reading: Option<&Reading>,
        quiet: bool,
    ) -> Tried {
        if !self.leave.as_ref().is_some_and(|l| l.level == level && seq < l.before) {
            let Some(permit) = self.group.try_read(level) else { return Tried::NoLeave };
            let leads = self.group.is_leader();
            self.leave = Some(Leave { level, permit, leads, before: u64::MAX });
        }
        let permit = &self.leave.as_ref().expect("leave is in hand: it was just checked or given").permit;
        if let Some(reading) = reading {
            reading.note(self.id);
        }
        let answer = |view: &View<'_>| {
            if quiet {
                view.leave_no_trace();
            }
            run(args, view)
        };
        let here = |view: &View<'_>| {
            let ownership = view.ownership();
            let elsewhere =
                ownership.guards() && handover::is_elsewhere(args, ownership) && !planted::is(Bug::StaleRing);
            (!elsewhere).then(|| answer(view))
        };
        match self.group.read(permit, here) {
            Ok(Some(reply)) => Tried::Answer(reply),
            Ok(None) => Tried::Elsewhere,
            Err(_) => Tried::NeedsTick,
        }
    }

    /// Does the next thing that can be done. `next_seq`: requests with smaller numbers have arrived.
    pub fn step(&mut self, now: Instant, next_seq: u64) -> Step {
        if !self.can_step() {
            return Step::Nothing;
        }
        let front = self.queue.front().expect("a lane that can step has a command waiting");
        let (ticket, deadline) = (front.ticket, front.deadline);
        if deadline <= now {
            self.queue.pop_front();
            return Step::Answer(ticket, Refusal::Deadline.reply());
        }
        let Kind::Read { run, level, quiet } = front.kind else {
            let scripts = matches!(front.kind, Kind::Script);
            let (calls, deadline) = self.take_run();
            return match scripts {
                true => Step::Scripts { calls, deadline },
                false => Step::Propose { calls, deadline },
            };
        };
        self.bring_near();
        let op = self.queue.pop_front().expect("the front was just looked at");
        let step = match self.try_read(run, &op.args, level, ticket.seq, op.reading.as_deref(), quiet) {
            Tried::Answer(reply) => return Step::Answer(ticket, reply),
            Tried::NoLeave => Step::AskLeave { level, deadline },
            Tried::NeedsTick => Step::Tick { deadline },
            Tried::Elsewhere => {
                self.queue.push_front(op);
                self.held = Some(now + HOLD);
                return Step::Nothing;
            }
        };
        self.queue.push_front(op);
        self.state = State::Waiting;
        self.asked_before = next_seq;
        step
    }

    /// Has what the next reads look up brought near, once for several of them. Of nearly all commands the first argument is a
    /// key; of others nothing is found.
    fn bring_near(&mut self) {
        if self.near > 0 {
            self.near -= 1;
            return;
        }
        let reads = self.queue.iter().take_while(|op| matches!(op.kind, Kind::Read { .. })).take(WARMED);
        let keys: SmallVec<[&[u8]; WARMED]> = reads.filter_map(|op| op.args.get(1)).map(|key| &key[..]).collect();
        if keys.len() > 1 {
            self.group.peek(|keyspace| keyspace.warm(keys.iter().copied()));
        }
        self.near = keys.len().saturating_sub(1);
    }

    /// The writes at the front, or the scripts, become a run.
    fn take_run(&mut self) -> (Vec<Args>, Instant) {
        let front = self.queue.front().expect("the caller saw one at the front");
        let (first, of) = (front.deadline, front.kind);
        let kind = std::mem::discriminant(&of);
        let (mut calls, mut tickets, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some(op) = self.queue.front() {
            let size: usize = op.args.iter().map(|a| a.len()).sum();
            let full = calls.len() >= RUN_MAX || (!calls.is_empty() && bytes + size > RUN_BYTES_MAX);
            if std::mem::discriminant(&op.kind) != kind || full || op.deadline > first + RUN_SPREAD {
                break;
            }
            let op = self.queue.pop_front().expect("the loop saw a command at the front");
            bytes += size;
            calls.push(op.args);
            tickets.push(op.ticket);
        }
        self.leave = None;
        self.state = State::Writing(tickets, of, first);
        (calls, first)
    }

    /// The run under way is finished; gives its tickets in order.
    pub fn run_finished(&mut self) -> Vec<Ticket> {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Writing(tickets, ..) => tickets,
            other => {
                self.state = other;
                Vec::new()
            }
        }
    }

    /// The same for one of which some calls were not run, because the group does not answer for them: these are held. `index`:
    /// of the entry that refused them.
    pub fn run_came_back(&mut self, index: u64, calls: Vec<Elsewhere>, now: Instant) -> Vec<Ticket> {
        let State::Writing(_, kind, deadline) = self.state else { return Vec::new() };
        let tickets = self.run_finished();
        for Elsewhere { place, call } in calls.into_iter().rev() {
            if let Some(ticket) = tickets.get(place as usize) {
                self.queue.push_front(Op { ticket: *ticket, args: call, kind, deadline, reading: None });
            }
        }
        let behind = *self.group.watch_applied().borrow() < index;
        self.held = Some(now + if behind { HOLD_BEHIND } else { HOLD });
        tickets
    }

    /// What was asked for with [`Step::AskLeave`] came. Gives the requests that a refusal answers.
    pub fn leave_came(&mut self, level: Level, came: Result<Permit, Refusal>) -> Vec<(Ticket, Reply)> {
        self.state = State::Idle;
        match came {
            Ok(permit) => {
                let leads = self.group.is_leader();
                self.leave = Some(Leave { level, permit, leads, before: self.asked_before });
                Vec::new()
            }
            Err(Refusal::Gone) => {
                self.held = Some(env::now() + HOLD);
                Vec::new()
            }
            Err(refusal) => self.refuse_reads(level, refusal),
        }
    }

    /// The front and the reads behind it that asked for the same at about the same time.
    fn refuse_reads(&mut self, wanted: Level, refusal: Refusal) -> Vec<(Ticket, Reply)> {
        let mut refused = Vec::new();
        let Some(last) = self.queue.front().map(|op| op.deadline + RUN_SPREAD) else { return refused };
        while let Some(op) = self.queue.front() {
            let same = matches!(op.kind, Kind::Read { level, .. } if level == wanted) && op.deadline <= last;
            if !same {
                break;
            }
            refused.push((op.ticket, refusal.reply()));
            self.queue.pop_front();
        }
        refused
    }

    /// What was asked for with [`Step::Tick`] came. Gives the request that a refusal answers.
    pub fn tick_came(&mut self, came: Result<(), Refusal>) -> Option<(Ticket, Reply)> {
        self.state = State::Idle;
        let refusal = came.err()?;
        if refusal == Refusal::Gone {
            self.held = Some(env::now() + HOLD);
            return None;
        }
        self.queue.pop_front().map(|op| (op.ticket, refusal.reply()))
    }
}
