//! The replies of one connection, kept in the order of its requests.
//!
//! ```text
//! base                                    base + len
//!  | Ready | Waiting | Ready | Gathering 2/3 |            new requests ->
//!  '-> out
//! ```
//! Only the front leaves, and only when it is ready. Nothing here knows a group or a socket. Invariant: `held` is the
//! sum of the slots' weights: the bytes of a request while it waits, those of its reply once it is there.

use super::counters::Ordinal;
use super::merge::Gather;
use super::scan::Scan;
use super::session::{Blocking, Everywhere};
use crate::commands::transaction::Weave;
use crate::env::Instant;
use crate::resp::{Args, Protocol, Reply};
use std::collections::VecDeque;

/// Names one request of a connection, and the part of it where it was split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket {
    pub seq: u64,
    pub part: u32,
}

/// What is kept of a request until it is answered.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub at: Instant,
    /// None if no command was found.
    pub ordinal: Option<Ordinal>,
    /// For the logs of commands.
    pub args: Args,
    /// The protocol at the time of the request: a HELLO behind it changes nothing for it.
    pub protocol: Protocol,
    pub mute: bool,
}

pub(super) enum State {
    Ready(Reply),
    Waiting,
    Gathering(Box<Gather>),
    Scanning(Box<Scan>),
    Everywhere(Box<Everywhere>),
    /// WATCH: the keys whose versions are asked for.
    Watching(Args),
    /// EXEC.
    Executing(Box<Weave>),
    /// EXEC whose commands about keys are done, with their replies: what is about scripts is under way.
    Administering(Box<(Weave, Reply)>),
    /// A command that waits for something to take.
    Blocking(Box<Blocking>),
}

pub(super) struct Slot {
    pub asked: Asked,
    pub state: State,
    weight: usize,
}

#[derive(Default)]
pub(super) struct Ring {
    slots: VecDeque<Slot>,
    base: u64,
    held: usize,
}

impl Ring {
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// The oldest request that is not answered yet.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// The number the next request gets.
    pub fn next_seq(&self) -> u64 {
        self.base + self.slots.len() as u64
    }

    /// Bytes kept for requests and replies.
    pub fn held(&self) -> usize {
        self.held
    }

    /// A request was answered without passing through the ring, which was empty.
    pub fn skip(&mut self) {
        debug_assert!(self.slots.is_empty(), "only an empty ring may be passed by");
        self.base += 1;
    }

    /// Puts a request at the end; `weight` is what its arguments take while it waits.
    pub fn push(&mut self, asked: Asked, state: State, weight: usize) -> u64 {
        let seq = self.next_seq();
        self.held += weight;
        self.slots.push_back(Slot { asked, state, weight });
        seq
    }

    fn at(&mut self, seq: u64) -> Option<&mut Slot> {
        self.slots.get_mut(usize::try_from(seq.checked_sub(self.base)?).ok()?)
    }

    pub fn get(&mut self, seq: u64) -> Option<&mut Slot> {
        self.at(seq)
    }

    pub fn look_at(&self, seq: u64) -> Option<&Slot> {
        self.slots.get(usize::try_from(seq.checked_sub(self.base)?).ok()?)
    }

    /// The reply of a whole request is there.
    pub fn ready(&mut self, seq: u64, reply: Reply) {
        let weight = reply.weight();
        let Some(slot) = self.at(seq) else { return };
        let before = std::mem::replace(&mut slot.weight, weight);
        slot.state = State::Ready(reply);
        self.held = self.held + weight - before;
    }

    pub fn front_is_ready(&self) -> bool {
        matches!(self.slots.front(), Some(Slot { state: State::Ready(_), .. }))
    }

    /// Takes the front if it is ready.
    pub fn pop_ready(&mut self) -> Option<(Asked, Reply)> {
        if !self.front_is_ready() {
            return None;
        }
        let slot = self.slots.pop_front()?;
        self.base += 1;
        self.held -= slot.weight;
        match slot.state {
            State::Ready(reply) => Some((slot.asked, reply)),
            _ => None,
        }
    }
}
