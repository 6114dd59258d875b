//! What is counted of requests and their replies, and which of them are kept in a log.

use super::super::ring::{Asked, State, Ticket};
use super::super::slow;
use super::super::{counters, latency};
use super::{Connection, weight};
use crate::commands::node::SlowEntry;
use crate::env;
use crate::resp::Reply;
use crate::types::GroupId;

impl Connection {
    /// Counts an answered request and notes it if it was slow.
    pub(super) fn finish(&self, asked: &Asked, reply: &Reply) {
        let Some(ordinal) = asked.ordinal else { return };
        let took = self.now - asked.at;
        self.counters.called(ordinal, took, reply.is_error());
        self.log(slow::Kind::Slow, took.as_micros() as u64, asked);
        self.log(slow::Kind::LargeRequest, weight(&asked.args) as u64, asked);
        let ms = took.as_millis() as u64;
        if self.shared.live.latency_threshold_ms().is_some_and(|limit| ms >= limit) {
            let event = if counters::is_fast(ordinal) { latency::FAST_COMMAND } else { latency::COMMAND };
            self.shared.latency.keep(event, env::wall_ms() / 1000, ms);
        }
    }

    /// Keeps a command in a log if its measure reaches what the log is kept from.
    pub(super) fn log(&self, kind: slow::Kind, measure: u64, asked: &Asked) {
        if self.shared.live.log_from(kind).is_none_or(|from| measure < from) {
            return;
        }
        let entry = || SlowEntry {
            id: 0,
            unix_s: env::wall_ms() / 1000,
            measure,
            args: Vec::new(),
            peer: self.session.peer.to_string(),
            client_name: self.session.name.clone(),
        };
        self.shared.slow.push(kind, self.now, &asked.args, self.shared.live.log_max(kind), entry);
    }

    /// Counts a read that its group answered. The clock is asked only after what may have taken long.
    pub(super) fn count_read(&mut self, at: usize, ticket: Ticket, reply: &Reply) {
        let Some(slot) = self.ring.look_at(ticket.seq) else { return };
        if slot.asked.ordinal.is_some_and(|read| !counters::is_fast(read)) {
            self.now = env::now();
        }
        // A refusal is no read that was answered.
        if reply.is_error() || self.lanes[at].id == GroupId::META {
            return;
        }
        let level = match &slot.state {
            State::Scanning(scan) => scan.level,
            _ => self.lanes[at].level().unwrap_or_default(),
        };
        self.counters.read(level, self.lanes[at].leads(), reply);
    }
}
