//! Requests that several groups answer: split by their keys, about all keys, or a scan from group to group.

use super::super::dispatch::{self, Request};
use super::super::lane::{Kind, Op};
use super::super::merge::Gather;
use super::super::ring::{State, Ticket};
use super::super::scan::{Next, Range, Scan};
use super::{Connection, unserved, weight};
use crate::cluster::epoch_of;
use crate::commands::Merge;
use crate::env::Instant;
use crate::resp::{Args, Reply};
use crate::state::View;
use crate::types::{GroupId, Level, Slot};
use bytes::Bytes;

/// A request about all keys, of which every group answers a part. Keys that change their group meanwhile may be in two parts,
/// or in none. So when the last part is there the meta group is asked, behind all of them, for the version of its table: if it
/// is not the one by which the parts were begun, they are begun anew. (This node's own table may be old at both times.)
/// Nothing of the connection that comes behind one that writes is begun before it has ended, so it is not undone.
pub(in crate::server) struct Everywhere {
    gather: Gather,
    merge: Merge,
    writes: bool,
    args: Args,
    kind: Kind,
    deadline: Instant,
    /// The version of the table by which its parts were begun.
    epoch: u64,
}

/// What follows a reply.
pub(in crate::server) enum After {
    Nothing,
    /// All parts are there: [`Everywhere::confirm`] tells what confirms them.
    Confirm,
    /// Slots have moved, and the table has this version now.
    Anew(u64),
    Answer(Reply),
}

/// The number of the part that confirms the others.
const CONFIRMS: u32 = u32::MAX;

impl Everywhere {
    /// Nothing is begun yet.
    pub fn new(merge: Merge, writes: bool, args: Args, kind: Kind, deadline: Instant) -> Everywhere {
        let gather = Gather::new(merge, writes, 0, Vec::new());
        Everywhere { gather, merge, writes, args, kind, deadline, epoch: 0 }
    }

    /// A part for each group, none of which has an answer.
    pub fn begin(&mut self, seq: u64, groups: &[(Slot, GroupId)], epoch: u64) -> Vec<(GroupId, Op)> {
        self.gather = Gather::new(self.merge, self.writes, groups.len(), Vec::new());
        self.epoch = epoch;
        let op = |(part, (_, group)): (u32, &(Slot, GroupId))| {
            let (args, kind, deadline) = (self.args.clone(), self.kind, self.deadline);
            (*group, Op { ticket: Ticket { seq, part }, args, kind, deadline, reading: None })
        };
        (0..).zip(groups).map(op).collect()
    }

    /// Takes the reply to a part. `moved`: slots of some group have moved, as far as this node's copies tell.
    pub fn put(&mut self, part: u32, reply: Reply, moved: impl FnOnce() -> bool, now: Instant) -> After {
        if part == CONFIRMS {
            return match reply {
                Reply::Int(epoch) if epoch as u64 == self.epoch => After::Answer(self.gather.finish()),
                Reply::Int(epoch) if now < self.deadline => After::Anew(epoch as u64),
                error if error.is_error() && !self.writes => After::Answer(error),
                _ => After::Answer(self.unconfirmed()),
            };
        }
        if !self.gather.put(part, reply) {
            return After::Nothing;
        }
        // A read was answered by copies here, which know of a move that has come so far that keys are elsewhere.
        let confirmed = match self.kind {
            Kind::Read { level: Level::Linearizable | Level::Lease, .. } => moved(),
            Kind::Read { .. } => false,
            _ => true,
        };
        match confirmed && !self.gather.has_error() {
            true => After::Confirm,
            false => After::Answer(self.gather.finish()),
        }
    }

    /// The answer where slots have moved and the parts cannot be begun anew.
    pub fn unconfirmed(&self) -> Reply {
        Reply::error(match self.writes {
            true => "UNCERTAIN slots may have moved meanwhile: the command was applied to some of the keys at least",
            false => "TRYAGAIN slots have moved meanwhile",
        })
    }

    /// What confirms the parts, in the meta group.
    pub fn confirm(&self, seq: u64) -> Op {
        let kind = Kind::Read { run: epoch, level: Level::Linearizable, quiet: true };
        let args = [Bytes::from_static(b"PING")].into_iter().collect();
        Op { ticket: Ticket { seq, part: CONFIRMS }, args, kind, deadline: self.deadline, reading: None }
    }
}

fn epoch(_: &Args, meta: &View<'_>) -> Reply {
    match epoch_of(meta) {
        Ok(epoch) => Reply::Int(epoch as i64),
        Err(why) => Reply::error(format!("ERR the table cannot be read: {why}")),
    }
}

fn scan_op(scan: &Scan, seq: u64) -> Op {
    let kind = Kind::Read { run: scan.run, level: scan.level, quiet: false };
    Op { ticket: Ticket { seq, part: 0 }, args: scan.args.clone(), kind, deadline: scan.deadline, reading: None }
}

impl Connection {
    /// One whose keys lie in several groups, each of which gets a part.
    pub(super) fn run_split(
        &mut self,
        request: &Request,
        mute: bool,
        merge: Merge,
        parts: Vec<(GroupId, Args)>,
        places: Vec<Vec<usize>>,
    ) {
        let asked = self.asked(Some(request.ordinal), &request.args, mute);
        let (kind, deadline) = (self.kind(request), self.deadline());
        let mut gather = Gather::new(merge, request.command.is_write(), parts.len(), places);
        if parts.is_empty() {
            return self.answer(asked, gather.finish());
        }
        let seq = self.ring.push(asked, State::Gathering(Box::new(gather)), weight(&request.args));
        for (part, (group, args)) in (0..).zip(parts) {
            let reading = self.reading(request.command, &args);
            self.put_in_lane(group, Op { ticket: Ticket { seq, part }, args, kind, deadline, reading });
        }
    }

    /// One about all keys.
    pub(super) fn run_everywhere(&mut self, request: Request, mute: bool, merge: Merge) {
        let asked = self.asked(Some(request.ordinal), &request.args, mute);
        let (kind, deadline, routes) = (self.kind(&request), self.deadline(), self.routes.clone());
        let groups = dispatch::visible(&self.session, &self.shared, &routes);
        let (writes, weight) = (request.command.is_write(), weight(&request.args));
        if groups.is_empty() {
            return self.answer(asked, Gather::new(merge, writes, 0, Vec::new()).finish());
        }
        let mut parts = Everywhere::new(merge, writes, request.args, kind, deadline);
        let begun = parts.begin(self.ring.next_seq(), &groups, routes.table.epoch);
        let seq = self.ring.push(asked, State::Everywhere(Box::new(parts)), weight);
        if writes {
            self.awaits = Some(seq);
        }
        begun.into_iter().for_each(|(group, op)| self.put_in_lane(group, op));
    }

    /// A part of one about all keys was answered, or the epoch by which its parts were begun.
    pub(super) fn part_came(&mut self, ticket: Ticket, reply: Reply) {
        let Some(State::Everywhere(parts)) = self.ring.get(ticket.seq).map(|slot| &mut slot.state) else { return };
        let groups = || dispatch::visible(&self.session, &self.shared, &self.shared.routes());
        let host = self.shared.cluster.host();
        let takes_part = |group| host.group(group).is_some_and(|g| g.peek(|keys| keys.ownership().guards()));
        let moved = || groups().into_iter().any(|(_, group)| takes_part(group));
        let whole = match parts.put(ticket.part, reply, moved, self.now) {
            After::Nothing => return,
            After::Confirm => {
                let op = parts.confirm(ticket.seq);
                return self.put_in_lane(GroupId::META, op);
            }
            After::Anew(epoch) => {
                let groups = groups();
                if !groups.is_empty() {
                    let begun = parts.begin(ticket.seq, &groups, epoch);
                    return begun.into_iter().for_each(|(group, op)| self.put_in_lane(group, op));
                }
                // At the cluster face nothing of it is led here any more: nobody would ever answer.
                parts.unconfirmed()
            }
            After::Answer(reply) => reply,
        };
        self.awaits = self.awaits.filter(|awaited| *awaited != ticket.seq);
        self.conclude(ticket.seq, whole);
    }

    /// A scan, which asks one group after another.
    pub(super) fn run_scan(&mut self, request: Request, mute: bool, ranges: &[Range]) {
        let asked = self.asked(Some(request.ordinal), &request.args, mute);
        let Kind::Read { run, level, .. } = self.kind(&request) else {
            return self.answer(asked, Reply::error("ERR only a read can go through all groups"));
        };
        let (deadline, named) = (self.deadline(), self.routes.only.is_none());
        let Some(scan) = Scan::new(request.args, run, level, deadline, ranges, named) else {
            let end = Reply::Array(vec![Reply::bulk("0"), Reply::Array(Vec::new())]);
            return self.answer(asked, end);
        };
        let group = scan.group();
        let op = scan_op(&scan, self.ring.next_seq());
        self.ring.push(asked, State::Scanning(Box::new(scan)), 0);
        self.put_in_lane(group, op);
    }

    /// A page of a scan has come.
    pub(super) fn page_came(&mut self, ticket: Ticket, reply: Reply) {
        let Some(State::Scanning(scan)) = self.ring.get(ticket.seq).map(|slot| &mut slot.state) else { return };
        match scan.page(reply) {
            Next::Answer(reply) => self.conclude(ticket.seq, reply),
            Next::Visit(group) => {
                let op = scan_op(scan, ticket.seq);
                match self.lane(group) {
                    Some(at) => self.lanes[at].push_first(op),
                    None => self.ring.ready(ticket.seq, unserved(group)),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env;
    use std::time::Duration;

    fn begun(kind: Kind, writes: bool) -> Everywhere {
        let mut whole = Everywhere::new(Merge::Sum, writes, Args::new(), kind, env::now() + Duration::from_secs(5));
        assert_eq!(whole.begin(3, &[(Slot(0), GroupId(1)), (Slot(9), GroupId(2))], 7).len(), 2);
        whole
    }

    fn put(whole: &mut Everywhere, part: u32, reply: Reply, moved: bool) -> After {
        whole.put(part, reply, || moved, env::now())
    }

    const READ: Kind = Kind::Read { run: epoch, level: Level::Linearizable, quiet: false };

    #[test]
    fn what_was_answered_beside_a_move_is_asked_anew() {
        for (kind, writes) in [(Kind::Write, true), (READ, false)] {
            let mut whole = begun(kind, writes);
            assert!(matches!(put(&mut whole, 1, Reply::Int(5), true), After::Nothing));
            assert!(matches!(put(&mut whole, 0, Reply::Int(4), true), After::Confirm));
            assert!(matches!(put(&mut whole, CONFIRMS, Reply::Int(8), true), After::Anew(8)));
            whole.begin(3, &[(Slot(0), GroupId(1))], 8);
            assert!(matches!(put(&mut whole, 0, Reply::Int(2), true), After::Confirm));
            let After::Answer(told) = put(&mut whole, CONFIRMS, Reply::Int(8), true) else { panic!("it is confirmed") };
            assert_eq!(told, Reply::Int(2), "of the last parts alone");
        }
    }

    #[test]
    fn who_cannot_be_confirmed_says_so() {
        let late = env::now() + Duration::from_secs(60);
        for (kind, writes, code) in [(Kind::Write, true, "UNCERTAIN"), (READ, false, "TRYAGAIN")] {
            let mut whole = begun(kind, writes);
            put(&mut whole, 0, Reply::Int(1), true);
            put(&mut whole, 1, Reply::Int(1), true);
            let told = whole.put(CONFIRMS, Reply::Int(8), || true, late);
            assert!(matches!(told, After::Answer(Reply::Error(text)) if text.starts_with(code.as_bytes())), "{code}");
        }
    }

    #[test]
    fn where_no_slot_ever_moved_a_read_asks_nobody_and_a_write_does() {
        for (kind, writes) in [(READ, false), (Kind::Write, true)] {
            let mut whole = begun(kind, writes);
            put(&mut whole, 0, Reply::Int(1), false);
            assert_eq!(matches!(put(&mut whole, 1, Reply::Int(1), false), After::Confirm), writes);
        }
        let mut whole = begun(Kind::Write, true);
        put(&mut whole, 0, Reply::error("TRYAGAIN x"), false);
        assert!(matches!(put(&mut whole, 1, Reply::Int(1), false), After::Answer(Reply::Error(_))));
    }
}
