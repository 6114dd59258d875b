//! When a connection waits, for what, and when it ends.

use super::{Connection, READ_LARGE, READ_MAX, STOP_QUIET, Stopping, Unblock};
use crate::env::{self, Instant};
use bytes::BytesMut;
use std::time::Duration;

impl Connection {
    /// Whether another turn would do something although nothing new has come.
    pub(super) fn can_go_on(&self) -> bool {
        let room = self.output.len() < self.shared.settings.output_max;
        let turn = self.postponed.as_ref().is_none_or(|args| self.has_turn(args));
        let decodes = self.more && turn && !self.is_full() && !self.session.close_after_reply;
        room && (decodes || self.ring.front_is_ready() || (0..self.lanes.len()).any(|at| self.may_step(at)))
    }

    /// Whether more is read; makes room for it.
    pub(super) fn wants_input(&mut self) -> bool {
        // Of one that waits for its turn, so that its end is noticed.
        let listens = self.is_blocked() && self.input.len() < READ_MAX;
        if self.eof || self.session.close_after_reply || ((self.more || self.is_full()) && !listens) {
            return false;
        }
        if self.input.is_empty() && self.input.capacity() > READ_MAX {
            self.input = BytesMut::new();
        }
        let wants = self.decoder.wants(&self.input).clamp(self.read_size, READ_LARGE);
        if self.input.capacity() - self.input.len() < wants / 2 {
            self.input.reserve(wants);
        }
        true
    }

    pub(super) fn stop(&mut self) {
        self.stopping = Some(Stopping { at: env::now(), commands: self.commands, owing: !self.is_settled() });
        self.unblock(Unblock::Stop);
    }

    /// Whether a connection whose replies are all out may end because the node stops.
    pub(super) fn may_stop(&self) -> bool {
        self.stopping
            .is_some_and(|stop| stop.owing || self.commands > stop.commands || self.now >= stop.at + STOP_QUIET)
    }

    pub(super) fn is_settled(&self) -> bool {
        self.ring.is_empty() && self.output.is_empty() && !self.more
    }

    /// Everything is answered and nothing more is to come.
    pub(super) fn is_finished(&self) -> bool {
        let silent = |limit: Duration| self.now - self.last_input >= limit;
        let ends =
            self.session.close_after_reply || self.eof || self.may_stop() || self.idle_timeout().is_some_and(silent);
        let unread = self.more && !self.session.close_after_reply;
        ends && self.ring.is_empty() && self.output.is_empty() && !unread
    }

    /// How long it may be silent. One that listens may be for ever.
    pub(super) fn idle_timeout(&self) -> Option<Duration> {
        self.shared.live.idle_timeout().filter(|_| !self.session.subscriptions.any() && !self.session.monitors)
    }

    /// The node stops and this connection has used up its time.
    pub(super) fn is_cut_off(&self) -> bool {
        self.stopping.is_some_and(|stop| self.now >= stop.at + self.shared.settings.drain_timeout)
    }

    /// Its client went while it waited for its turn: nothing is to be taken for it any more.
    pub(super) fn went_while_blocked(&mut self) -> bool {
        self.eof && self.is_blocked()
    }

    /// When to look again although nothing came.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        let cut = self.stopping.map(|stop| stop.at + self.shared.settings.drain_timeout);
        let quiet = self.stopping.filter(|_| self.is_settled()).map(|stop| stop.at + STOP_QUIET);
        let idle = self.idle_timeout().filter(|_| self.is_settled()).map(|t| self.last_input + t);
        let resumed = self.postponed.as_ref().and_then(|args| self.held_until(args));
        let held = self.held_lanes_until();
        [cut, quiet, idle, resumed, held].into_iter().flatten().min()
    }
}
