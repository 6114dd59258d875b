//! When a connection waits, for what, and when and how it ends.

use super::super::lane::Lane;
use super::super::pubsub::{self, Turn};
use super::{Connection, IN_FLIGHT_MAX, READ_LARGE, READ_MAX, READ_MIN, Unblock};
use crate::env::{self, Instant};
use crate::net::TcpStream;
use crate::resp::Args;
use bytes::BytesMut;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// While the node stops, a connection from which nothing comes is closed after this long. One that does send is closed
/// right behind the reply, when its client cannot have sent the next request yet.
const STOP_QUIET: Duration = Duration::from_millis(500);
/// After the last reply, how long and how much is still read and thrown away, so that a reset does not overtake the reply.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_BYTES: usize = 1 << 20;

/// The node was told to stop.
#[derive(Clone, Copy)]
pub(super) struct Stopping {
    at: Instant,
    /// Requests received until then.
    commands: u64,
    /// Some of them were not answered yet.
    owing: bool,
}

/// Closes so that the client gets everything written: says that nothing follows, then waits for it to close.
pub(super) async fn linger(mut stream: TcpStream) {
    let rest = async {
        stream.shutdown().await?;
        let (mut scrap, mut left) = (vec![0u8; READ_MIN], LINGER_BYTES);
        while left > 0 {
            match stream.read(&mut scrap).await? {
                0 => break,
                n => left = left.saturating_sub(n),
            }
        }
        io::Result::Ok(())
    };
    let _ = env::timeout(LINGER, rest).await;
}

impl Connection {
    /// Bytes that this connection makes the node keep, beside the command that is being received.
    pub(super) fn kept(&self) -> usize {
        self.output.len() + self.ring.held()
    }

    /// Whether nothing more may be decoded at present.
    pub(super) fn is_full(&self) -> bool {
        self.awaits.is_some()
            || self.turning
            || self.ring.len() >= IN_FLIGHT_MAX
            || self.kept() >= self.shared.settings.output_max
    }

    /// Whether a request may begin now.
    pub(super) fn has_turn(&self, args: &Args) -> bool {
        if self.held_until(args).is_some() {
            return false;
        }
        match pubsub::turn(args) {
            None => true,
            Some(Turn::AfterCommands) => self.lanes.iter().all(Lane::is_free),
            Some(Turn::AfterReplies) => self.ring.is_empty(),
        }
    }

    /// Until when CLIENT PAUSE holds a request, if it does.
    pub(super) fn held_until(&self, args: &Args) -> Option<Instant> {
        self.shared.held_until(args, &self.transaction, self.now)
    }

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
