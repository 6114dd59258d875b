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
use super::Connection;
use crate::commands::session::Face;
use crate::commands::{self, Scope, handover};
use crate::env::Instant;
use crate::resp::Args;
use crate::slot::slot_of;
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
        // Where one group has everything nothing goes elsewhere, but for what waits for one that has gone.
        if routes.only.is_some_and(|only| self.lanes.iter().all(|lane| [only, GroupId::META].contains(&lane.id))) {
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
                    let reading = op.reading.as_ref().and_then(|_| self.reading(command, &args));
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
        self.put_in_lane(group, op);
    }
}
