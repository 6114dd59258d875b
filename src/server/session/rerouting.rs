//! What a connection does when slots move to other groups.
//!
//! Commands of one connection take effect in the order sent, group by group. So that this holds while a slot changes its
//! group, too, new routes are taken over only when nothing of the connection is under way: until then nothing is decoded or
//! begun. What waits then goes, in its order, to the group that its keys belong to now; what is decoded later is routed
//! behind it.
//!
//! What a group refused because it does not answer for the slot is held in its lane (`lane.rs`), and looked at again every few
//! milliseconds: whether the table names another group, or the same one answers again. A client of the proxy face notices no
//! more than the time that this takes; one of the cluster face is told where to go.

use super::super::Routes;
use super::super::dispatch;
use super::super::lane::{Kind, Lane, Op};
use super::super::merge::Gather;
use super::super::ring::{State, Ticket};
use super::{Connection, unserved};
use crate::cluster::epoch_of;
use crate::commands::session::Face;
use crate::commands::{self, Merge, Scope, handover};
use crate::env::Instant;
use crate::resp::{Args, Reply};
use crate::slot::slot_of;
use crate::state::View;
use crate::types::{GroupId, Level, Slot};
use bytes::Bytes;
use std::sync::Arc;

/// The groups of a call's keys, one for each, as far as they matter: what is not split has them all in one slot.
fn groups_of(args: &Args, routes: &Routes) -> Vec<GroupId> {
    let group = |key: &Bytes| routes.table.group_of(slot_of(key));
    match commands::lookup(args) {
        Ok(command) => commands::keys(command, args).map(group).collect(),
        Err(_) => handover::first_key(args).iter().map(group).collect(),
    }
}

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

impl Connection {
    /// Takes over the table if it is another one and nothing is under way, and lets go on what was held.
    pub(super) fn follow_routes(&mut self) {
        let routes = self.shared.routes();
        self.turning = false;
        if !Arc::ptr_eq(&routes, &self.routes) {
            let moved = routes.table.slots != self.routes.table.slots;
            self.turning = moved && self.lanes.iter().any(Lane::is_under_way);
            if self.turning {
                return;
            }
            self.routes = routes;
            if moved {
                self.reroute(true);
            }
            self.lanes.retain(|lane| !lane.is_free());
        }
        self.release_held();
    }

    /// When it is to be looked again at what is held. While new routes wait for what is under way, that is when this ends.
    pub(super) fn held_lanes_until(&self) -> Option<Instant> {
        self.lanes.iter().filter_map(Lane::held_until).min().filter(|_| !self.turning)
    }

    fn release_held(&mut self) {
        let now = self.now;
        let due = |lane: &Lane| lane.held_until().is_some_and(|until| until <= now);
        if self.lanes.iter().any(due) {
            self.reroute(false);
            self.lanes.iter_mut().filter(|lane| due(lane)).for_each(|lane| lane.release(now));
        }
    }

    /// Takes what waits to the groups that the table names. Where something goes elsewhere, all that waits is dealt anew in the
    /// order in which it was sent: a part of a request may come to a group in which later ones wait already.
    ///
    /// `moved`: the table is another one, so that what names no key may belong elsewhere, too.
    fn reroute(&mut self, moved: bool) {
        let routes = self.routes.clone();
        if routes.only.is_some() {
            return;
        }
        let away = |lane: &Lane| lane.waiting().any(|op| groups_of(&op.args, &routes).iter().any(|g| *g != lane.id));
        if !moved && !self.lanes.iter().filter(|lane| !lane.is_under_way()).any(away) {
            return;
        }
        let idle = self.lanes.iter_mut().filter(|lane| !lane.is_under_way());
        let mut out: Vec<(GroupId, Op)> = idle.flat_map(|lane| lane.take_out().map(|op| (lane.id, op))).collect();
        out.sort_by_key(|(_, op)| (op.ticket.seq, op.ticket.part));
        // Found out once, and only where something scans: they are many.
        let mut ranges = None;
        for (known, mut op) in out {
            let mut known = known;
            if let Some(State::Scanning(scan)) = self.ring.get(op.ticket.seq).map(|asked| &mut asked.state)
                && scan
                    .stand(ranges.get_or_insert_with(|| dispatch::visible_ranges(&self.session, &self.shared, &routes)))
            {
                op.args = scan.args.clone();
                known = scan.group();
            }
            self.send_on(known, op, &routes);
        }
    }

    /// `known`: the group in whose lane it waited.
    fn send_on(&mut self, known: GroupId, op: Op, routes: &Routes) {
        let groups = groups_of(&op.args, routes);
        // What names no key is each group's own.
        let first = groups.first().copied().unwrap_or(known);
        match (groups.iter().all(|group| *group == first), commands::lookup(&op.args)) {
            (false, Ok(command)) if matches!(command.spec.scope, Scope::Split(_)) => {
                let Scope::Split(merge) = command.spec.scope else { return };
                let (parts, places) = dispatch::parts(command, &op.args, routes);
                let Some(asked) = self.ring.get(op.ticket.seq) else { return };
                if let State::Waiting = asked.state {
                    let all = (0..groups.len()).collect();
                    let gather = Gather::new(merge, command.is_write(), 1, vec![all]);
                    asked.state = State::Gathering(Box::new(gather));
                }
                let State::Gathering(gather) = &mut asked.state else { return };
                let numbers = gather.split(op.ticket.part, &places);
                for ((group, args), part) in parts.into_iter().zip(numbers) {
                    let ticket = Ticket { seq: op.ticket.seq, part };
                    // Noted anew, by the group where it is read now.
                    let reading = op.reading.as_ref().and_then(|_| self.reading_of(command, &args));
                    self.put_in(known, group, Op { ticket, args, kind: op.kind, deadline: op.deadline, reading });
                }
            }
            _ => self.put_in(known, first, op),
        }
    }

    fn put_in(&mut self, known: GroupId, group: GroupId, op: Op) {
        let ticket = op.ticket;
        let weak = matches!(op.kind, Kind::Read { level: Level::Eventual | Level::Bounded(_), .. });
        if group != known && self.session.face == Face::Cluster && !weak && !self.session.readonly {
            let slot: Option<Slot> = handover::first_key(&op.args).map(|key| slot_of(&key));
            let moved = slot.and_then(|slot| dispatch::moved(&self.shared, &self.routes, slot, group));
            if let Some(reply) = moved {
                return self.complete(ticket, reply);
            }
        }
        if let Some(State::Blocking(blocking)) = self.ring.get(ticket.seq).map(|asked| &mut asked.state) {
            blocking.goes_to(group);
        }
        match self.lane(group) {
            Some(at) => self.lanes[at].push(op),
            None => self.complete(ticket, unserved(group)),
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
