//! What a connection is sent without having asked: messages of channels, and word that keys changed which it read; and what
//! is noted for the latter when it reads.
//!
//! Invariants: pushes keep their order; word of a change does not overtake the reply that it is about.

use super::Connection;
use crate::commands::{self, Command};
use crate::resp::Args;
use crate::server::pubsub::encoding;
use crate::server::tracking::Reading;
use bytes::Bytes;

/// Pushes that are left in the mailbox until the replies they may be about are written.
#[derive(Clone, Copy)]
pub(super) struct Held {
    /// The oldest, as many as these.
    count: usize,
    /// The requests with smaller numbers come first.
    behind: u64,
}

impl Connection {
    /// Writes what belongs to no request. It may go out at any time: whatever had to come before was answered before the
    /// first could come (`pubsub::turn`), and it is bounded where it is put down.
    ///
    /// Not so where the client keeps what it reads: a push may be about a reply that waits in the ring, and goes behind
    /// all that was asked before it was seen. Nothing overtakes it in the mailbox, so pushes keep their order.
    pub(super) fn take_pushes(&mut self) {
        if let Some(held) = self.held {
            if self.ring.base() < held.behind {
                return;
            }
            self.held = None;
            let due = self.client.take_oldest_pushes(held.count);
            self.put_pushes(due);
        }
        let count = self.client.pushes();
        if count == 0 {
            return;
        }
        let behind = self.pushes_go_behind();
        if self.ring.base() < behind {
            self.held = Some(Held { count, behind });
        } else {
            let all = self.client.take_pushes();
            self.put_pushes(all);
        }
    }

    fn put_pushes(&mut self, pushes: Vec<Bytes>) {
        for push in pushes {
            encoding::put(&push, self.session.protocol, &mut self.output);
        }
    }

    /// The requests with smaller numbers must be answered before a push that is there now goes out. Later ones need not,
    /// so a client that never stops asking is told all the same.
    fn pushes_go_behind(&mut self) -> u64 {
        let tracking = self.session.tracking.as_ref();
        if tracking.is_none_or(|tracking| tracking.redirect.is_some_and(|id| id != self.session.id)) {
            return self.ring.base();
        }
        // Who waits for an element may do so for ever, and is no read whose keys are noted.
        let waits = self.awaits.filter(|_| self.is_blocked());
        waits.unwrap_or_else(|| self.ring.next_seq())
    }

    /// A request waits now that pushes were to go behind when it was tried.
    pub(super) fn pushes_pass(&mut self, seq: u64) {
        if let Some(held) = &mut self.held {
            held.behind = held.behind.min(seq);
        }
    }

    /// What a read notes before it is run, if the client keeps what it reads. `args`: the read's, or a part of them.
    pub(super) fn reading(&self, command: &Command, args: &Args) -> Option<Box<Reading>> {
        let tracking = self.session.tracking.as_ref()?;
        if !command.is_read() || !tracking.remembers() {
            return None;
        }
        let keys = commands::keys(command, args).cloned().collect();
        Reading::new(&self.shared, &self.client, keys)
    }

    /// CLIENT CACHING is about the next command, and no command about connections is that.
    pub(super) fn forget_caching(&mut self, family: &'static str) {
        if let Some(tracking) = &mut self.session.tracking
            && family != "connection"
        {
            tracking.caching = false;
        }
    }
}
