//! The proposer of a group: many commands, one entry.
//!
//! Commands wait in one queue, in the order in which they came. The proposer takes all that wait (up to
//! [`MAX_BATCH_CALLS`] or [`MAX_BATCH_BYTES`]) and makes a *flight* of them: an entry if this node
//! leads the group, a message to the leader otherwise. At most [`WINDOW`] flights are under way, a second one only if it
//! is thick.
//!
//! Invariants, which the order and the meaning of replies rest on:
//! - a flight names the term it is meant for; a leader of another term refuses it;
//! - a refused flight is certainly not applied. Its commands go back to the front of the queue in their order. A later
//!   flight may have taken effect meanwhile; that breaks no promise, because whoever minds the order of two submissions
//!   hands in the second when the first is finished (`server::lane`);
//! - nothing is sent while a refused flight is not settled;
//! - a flight whose fate is not known is answered *unknown* and never repeated;
//! - `done` of a submission runs exactly once.

use super::entry::{Authored, Batch, Front};
use super::group::Group;
use super::peers::CallError;
use super::wire::{self, Lane, Method};
use super::{Applied, Done, Types};
use crate::commands::handover;
use crate::env::{self, Instant};
use crate::planted::{self, Bug};
use crate::resp::{Args, Reply};
use crate::state::eviction::Limit;
use crate::state::{HashRange, Packing};
use crate::types::{Author, NodeId, Stamp};
use bytes::Bytes;
use openraft::errors::ClientWriteError;
use openraft::raft::ClientWriteResult;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// Commands in an entry, at most; a single submission may be larger.
pub const MAX_BATCH_CALLS: usize = 1024;
/// Bytes of arguments in an entry, at most; a single submission may be larger.
pub const MAX_BATCH_BYTES: usize = 256 << 10;
/// Flights under way at a time.
const WINDOW: usize = 2;
/// A flight costs much, a command in it little: another leaves behind one that is under way only if it carries at least
/// so many commands or bytes. Thinner ones wait for the landing and leave together.
const THICK_CALLS: usize = MAX_BATCH_CALLS / 4;
const THICK_BYTES: usize = MAX_BATCH_BYTES / 4;
/// Connections that were answered together speak again together, a moment later: about what it takes a client on the same
/// network, and a fraction of what a flight takes. Without that moment there would be two crowds of them whose flights
/// alternate, each half as full as it could be and each waiting for the other's.
const MOMENT: Duration = Duration::from_micros(200);
/// Fewer connections are no crowd, and nobody is waited for.
const CROWD: usize = 4;
/// Turns of the worker that a flight waits for more to carry, as long as each brings some.
const GATHER_TURNS: usize = 16;
/// Commands that may wait in a group's queue.
const MAX_QUEUED_CALLS: usize = 200_000;
/// Bytes of commands that may wait in a group's queue; one submission more is always taken.
const MAX_QUEUED_BYTES: usize = 64 << 20;
/// Bytes of a single submission: an entry must fit a frame between nodes, several times over.
const MAX_SUBMISSION_BYTES: usize = 256 << 20;
const _: () = assert!(MAX_SUBMISSION_BYTES * 2 < wire::MAX_FRAME, "an entry fits a frame");
/// Ranges that one entry sweeps at most.
const MAX_SWEEP: usize = 256;
/// How long to wait before looking again for a leader that can be reached.
const RETRY: Duration = Duration::from_millis(10);
/// How often deadlines are looked at while something waits or is under way.
const LOOK: Duration = Duration::from_millis(50);
/// A forwarded flight is given up as unknown this long after its deadline: the leader answers at the deadline.
const FORWARD_GRACE: Duration = Duration::from_millis(500);

/// How a submission ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// In effect, on a majority's disks, and applied here or at the leader. One reply for each call.
    Applied { index: u64, replies: Vec<Reply> },
    /// Certainly without effect, now and later.
    NotApplied(Refusal),
    /// May have taken effect, or may still.
    Unknown { index: Option<u64> },
    /// As [`Outcome::Applied`], but for some of the calls: the group does not answer for their slots, now or no more, and
    /// they were certainly not applied. They come back with their places, in order; their replies only hold these places.
    Elsewhere { index: u64, replies: Vec<Reply>, calls: Vec<Elsewhere> },
}

/// A call that was not run where it came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Elsewhere {
    /// Its place among those that were handed in together.
    pub place: u32,
    /// Who sent it to another node has it still.
    #[serde(skip)]
    pub call: Args,
}

/// Why something was not done. Certainly nothing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// No leader could be reached until the deadline.
    NoLeader,
    /// The deadline passed while it waited.
    Deadline,
    /// No replica in reach is fresh enough.
    Stale {
        age_ms: u64,
    },
    ShuttingDown,
    DiskFull,
    /// This replica has started and does not know yet what its cluster has committed.
    Recovering,
    /// Too much is waiting.
    Busy,
    /// A leader of another term was meant; between nodes only.
    WrongTerm,
    /// One command that no entry can hold.
    TooLarge,
    /// It would add to a group that is full, and nothing may leave.
    OutOfMemory,
    /// The group has gone from the cluster: its slots are other groups'.
    Gone,
}

impl Refusal {
    /// The error reply: its code says that the command was not applied.
    pub fn reply(&self) -> Reply {
        Reply::error(match self {
            Refusal::NoLeader | Refusal::WrongTerm => {
                "CLUSTERDOWN the group of this key has no leader in reach; the command was not applied".to_owned()
            }
            Refusal::Deadline => {
                "TRYAGAIN the deadline passed before the command was proposed; it was not applied".to_owned()
            }
            Refusal::Stale { age_ms } => {
                format!("CLUSTERDOWN no replica in reach is fresh enough (this one's state is {age_ms} ms old)")
            }
            Refusal::Gone => {
                "CLUSTERDOWN the group of this key has gone, and it is another's; the command was not applied"
                    .to_owned()
            }
            Refusal::ShuttingDown => "CLUSTERDOWN this node is shutting down; the command was not applied".to_owned(),
            Refusal::DiskFull => {
                "OOM the disk of the leader is nearly full; the command was not applied, reads go on".to_owned()
            }
            Refusal::Recovering => "LOADING this replica has not caught up since it started".to_owned(),
            Refusal::TooLarge => {
                "ERR the command is larger than an entry of the log may be (256 MiB); it was not applied".to_owned()
            }
            Refusal::OutOfMemory => "OOM command not allowed when used memory > 'maxmemory'.".to_owned(),
            Refusal::Busy => "THROTTLED too many commands are waiting; this one was not applied".to_owned(),
        })
    }
}

impl Outcome {
    /// The reply to one of the calls when there is none of its own.
    pub fn failure_reply(&self) -> Reply {
        match self {
            Outcome::NotApplied(refusal) => refusal.reply(),
            Outcome::Elsewhere { .. } => handover::elsewhere(),
            Outcome::Unknown { index: Some(index) } => {
                Reply::error(format!("UNCERTAIN the command may have been applied or may still be (index {index})"))
            }
            _ => Reply::error("UNCERTAIN the command may have been applied or may still be".to_owned()),
        }
    }
}

/// Runs with a submission's outcome; quick, and on any thread.
pub type OnOutcome = Box<dyn FnOnce(Outcome) + Send>;

/// Commands that were handed in together.
pub(super) struct Submission {
    calls: Vec<Args>,
    /// Who sent which of them.
    authored: Vec<Authored>,
    /// Positions of calls that are not proposed, because there is no room for them; in order.
    refused: Vec<usize>,
    sweep: Vec<HashRange>,
    limit: Option<Limit>,
    packing: Option<Packing>,
    /// It wants nothing but evictions, if there are any to be made.
    only_room: bool,
    bytes: usize,
    deadline: Instant,
    /// The entry that carries it is to be marked.
    mark: bool,
    /// Set by the node that forwarded it: only the leader of this term may take it.
    term: Option<u64>,
    done: Option<OnOutcome>,
}

impl Submission {
    pub(super) fn new(calls: Vec<Args>, deadline: Instant, term: Option<u64>, done: OnOutcome) -> Submission {
        let bytes = calls.iter().flatten().map(|arg| arg.len()).sum();
        let mut submission = Submission::empty(deadline, done);
        (submission.calls, submission.bytes, submission.term) = (calls, bytes, term);
        submission
    }

    /// Says who sent which of its calls.
    pub(super) fn authored(mut self, authored: Vec<Authored>) -> Submission {
        self.authored = authored;
        self
    }

    /// Says who sent all of its calls, if that is to be told.
    pub(super) fn by(self, author: Option<Author>) -> Submission {
        let calls = self.calls.len() as u32;
        self.authored(author.into_iter().map(|by| Authored { first: 0, calls, by }).collect())
    }

    pub(super) fn sweep(sweep: Vec<HashRange>, deadline: Instant, done: OnOutcome) -> Submission {
        let mut submission = Submission::empty(deadline, done);
        submission.sweep = sweep;
        submission
    }

    /// What the group may hold from now on, and in which form; without either, an entry that does no more than make room.
    pub(super) fn terms(
        limit: Option<Limit>,
        packing: Option<Packing>,
        deadline: Instant,
        done: OnOutcome,
    ) -> Submission {
        let mut submission = Submission::empty(deadline, done);
        (submission.limit, submission.packing) = (limit, packing);
        submission.only_room = limit.is_none() && packing.is_none();
        submission
    }

    /// An entry at which the states of all replicas are compared.
    pub(super) fn mark(deadline: Instant, done: OnOutcome) -> Submission {
        let mut submission = Submission::empty(deadline, done);
        submission.mark = true;
        submission
    }

    fn empty(deadline: Instant, done: OnOutcome) -> Submission {
        let (calls, refused, sweep) = (Vec::new(), Vec::new(), Vec::new());
        Submission {
            calls,
            authored: Vec::new(),
            refused,
            sweep,
            limit: None,
            packing: None,
            only_room: false,
            mark: false,
            bytes: 0,
            deadline,
            term: None,
            done: Some(done),
        }
    }

    /// Those of its calls that are proposed.
    fn admitted(&self) -> impl Iterator<Item = &Args> {
        self.admitted_places().map(|(_, call)| call)
    }

    /// The same with their places among all of its calls.
    fn admitted_places(&self) -> impl Iterator<Item = (usize, &Args)> {
        let mut refused = self.refused.iter().peekable();
        let calls = self.calls.iter().enumerate();
        calls.filter(move |(at, _)| refused.next_if_eq(&at).is_none())
    }

    /// A reply for each of its calls, of those that were proposed from `replies`.
    fn replies(&self, replies: &mut impl Iterator<Item = Reply>) -> Vec<Reply> {
        if self.refused.is_empty() {
            return replies.take(self.calls.len()).collect();
        }
        let reply = |at| match self.refused.binary_search(&at) {
            Ok(_) => Some(Refusal::OutOfMemory.reply()),
            Err(_) => replies.next(),
        };
        (0..self.calls.len()).map_while(reply).collect()
    }

    /// Takes back, with their places, those of its calls that were proposed and not run. `before`: calls that were proposed
    /// before its own; `elsewhere`: places among all that were proposed, from its first on.
    fn take_back(
        &mut self,
        before: &mut usize,
        elsewhere: &mut std::iter::Peekable<impl Iterator<Item = u32>>,
    ) -> Vec<Elsewhere> {
        let first = *before;
        *before += self.calls.len() - self.refused.len();
        if elsewhere.peek().is_none() {
            return Vec::new();
        }
        let places: Vec<usize> = self.admitted_places().map(|(place, _)| place).collect();
        let end = *before as u32;
        let own = std::iter::from_fn(|| elsewhere.next_if(|place| *place < end));
        own.map(|nth| {
            let place = places[nth as usize - first];
            Elsewhere { place: place as u32, call: std::mem::take(&mut self.calls[place]) }
        })
        .collect()
    }

    /// Ends it without effect. What waited for a group that has gone belongs elsewhere.
    fn refuse(mut self, refusal: Refusal) {
        let calls = std::mem::take(&mut self.calls);
        let back = |(place, call)| Elsewhere { place: place as u32, call };
        let outcome = match refusal {
            Refusal::Gone => {
                let replies = calls.iter().map(|_| handover::elsewhere()).collect();
                let calls = calls.into_iter().enumerate().map(back).collect();
                Outcome::Elsewhere { index: 0, replies, calls }
            }
            refusal => Outcome::NotApplied(refusal),
        };
        self.finish(outcome);
    }

    fn finish(mut self, outcome: Outcome) {
        if let Some(done) = self.done.take() {
            done(outcome);
        }
    }
}

impl Drop for Submission {
    fn drop(&mut self) {
        // Whoever throws a submission away without an outcome cannot vouch for what became of it.
        if let Some(done) = self.done.take() {
            done(Outcome::Unknown { index: None });
        }
    }
}

/// Who sent which of the calls of several submissions that are proposed, counted through.
fn authored(submissions: &[Submission]) -> Vec<Authored> {
    let (mut list, mut before) = (Vec::new(), 0);
    for submission in submissions {
        if !submission.authored.is_empty() {
            for (nth, (place, _)) in submission.admitted_places().enumerate() {
                if let Some(by) = Authored::of(&submission.authored, place) {
                    Authored::add(&mut list, before + nth, by);
                }
            }
        }
        before += submission.calls.len() - submission.refused.len();
    }
    list
}

/// The queue of a group and what lands from its flights.
#[derive(Default)]
pub(super) struct Proposer {
    inner: Mutex<Inner>,
    wake: Notify,
    /// Entries proposed here, for metrics.
    pub(super) entries: AtomicU64,
    /// Commands proposed here.
    pub(super) calls: AtomicU64,
}

#[derive(Default)]
struct Inner {
    queue: VecDeque<Submission>,
    queued_calls: usize,
    queued_bytes: usize,
    landed: Vec<(u64, Landing)>,
    /// Flights under way, with what they carry: whoever waits is told in time even if a flight never lands.
    under_way: Vec<UnderWay>,
    /// Submissions that the next flight waits for: of those who were just answered, and what waits already.
    awaited: usize,
    /// When it waits for them no longer.
    awaited_until: Option<Instant>,
    /// The highest term in which somebody was seen to lead.
    term: u64,
    /// While leadership is handed over nothing is sent; what comes waits.
    paused: bool,
    /// The same while somebody works on a state that must not change ([`super::carry`]).
    holds: usize,
    /// Why nothing is taken any more.
    closed: Option<Refusal>,
}

impl Inner {
    /// Whether a flight of what waits may leave now.
    fn may_send(&self) -> bool {
        let thick = self.queued_calls >= THICK_CALLS || self.queued_bytes >= THICK_BYTES;
        let in_flight = self.in_flight();
        let over = || self.awaited_until.is_none_or(|until| env::now() >= until);
        let gathered = thick || self.queue.len() >= self.awaited || over();
        let room = (in_flight == 0 && gathered) || (thick && in_flight < WINDOW);
        room && !self.queue.is_empty() && !self.paused && self.holds == 0
    }

    /// Flights under way whose term has not been overtaken. One that was sent to a leader that then froze or was cut off
    /// lands only when its link is found dead; what comes after it must not wait that long for the next leader.
    fn in_flight(&self) -> usize {
        self.under_way.iter().filter(|flight| flight.term >= self.term).count()
    }
}

/// What a flight carries.
type Cargo = Arc<Mutex<Vec<Submission>>>;

struct UnderWay {
    sequence: u64,
    /// The term it is meant for.
    term: u64,
    cargo: Cargo,
}

enum Landing {
    /// Took effect, or may have.
    Effect,
    Refused(Vec<Submission>),
}

impl Proposer {
    /// Puts a submission at the end of the queue.
    pub(super) fn submit(&self, submission: Submission) {
        let refusal = {
            let mut inner = self.inner.lock();
            if let Some(why) = inner.closed {
                Some((submission, why))
            } else if submission.bytes > MAX_SUBMISSION_BYTES {
                let single = submission.calls.len() == 1;
                Some((submission, if single { Refusal::TooLarge } else { Refusal::Busy }))
            } else if inner.queued_calls >= MAX_QUEUED_CALLS || inner.queued_bytes >= MAX_QUEUED_BYTES {
                Some((submission, Refusal::Busy))
            } else {
                inner.queued_calls += submission.calls.len();
                inner.queued_bytes += submission.bytes;
                inner.queue.push_back(submission);
                // What has to wait for a landing is found then.
                if !inner.may_send() {
                    return;
                }
                None
            }
        };
        match refusal {
            Some((submission, refusal)) => submission.refuse(refusal),
            None => self.wake.notify_one(),
        }
    }

    /// Holds everything back, or lets it go on.
    pub(super) fn pause(&self, paused: bool) {
        self.inner.lock().paused = paused;
        self.wake.notify_one();
    }

    /// Holds everything back once more, or once less.
    pub(super) fn hold(&self, held: bool) {
        let mut inner = self.inner.lock();
        inner.holds = if held { inner.holds + 1 } else { inner.holds - 1 };
        drop(inner);
        self.wake.notify_one();
    }

    /// Puts a submission at the front of the queue. Its size is bounded by whoever made it.
    pub(super) fn submit_first(&self, submission: Submission) {
        let closed = {
            let mut inner = self.inner.lock();
            match inner.closed.is_some() || submission.bytes > MAX_SUBMISSION_BYTES {
                true => Some((inner.closed, submission)),
                false => {
                    inner.queued_calls += submission.calls.len();
                    inner.queued_bytes += submission.bytes;
                    inner.queue.push_front(submission);
                    None
                }
            }
        };
        if let Some((closed, submission)) = closed {
            submission.refuse(closed.unwrap_or(Refusal::TooLarge));
        }
        self.wake.notify_one();
    }

    /// Whether flights of the present term are under way.
    pub(super) fn in_flight(&self) -> bool {
        self.inner.lock().in_flight() > 0
    }

    fn queued_calls(&self) -> usize {
        self.inner.lock().queued_calls
    }

    /// Whether commands wait or are under way.
    pub(super) fn idle(&self) -> bool {
        let inner = self.inner.lock();
        inner.under_way.is_empty() && inner.queue.is_empty()
    }

    /// Refuses what waits and whatever comes.
    pub(super) fn close(&self, why: Refusal) {
        let queue = {
            let mut inner = self.inner.lock();
            inner.closed = Some(why);
            inner.queued_calls = 0;
            inner.queued_bytes = 0;
            std::mem::take(&mut inner.queue)
        };
        for submission in queue {
            submission.refuse(why);
        }
        self.wake.notify_one();
    }

    /// `answered`: submissions that were just told that they took effect.
    fn land(&self, sequence: u64, landing: Landing, answered: usize) {
        let mut inner = self.inner.lock();
        inner.under_way.retain(|flight| flight.sequence != sequence);
        let crowd = answered >= CROWD;
        inner.awaited = answered + inner.queue.len();
        inner.awaited_until = crowd.then(|| env::now() + MOMENT);
        inner.landed.push((sequence, landing));
        drop(inner);
        self.wake.notify_one();
    }

    /// Puts submissions back to the front, in their order.
    fn put_back(&self, submissions: Vec<Submission>) {
        let mut inner = self.inner.lock();
        for submission in submissions.into_iter().rev() {
            inner.queued_calls += submission.calls.len();
            inner.queued_bytes += submission.bytes;
            inner.queue.push_front(submission);
        }
    }

    /// Takes the next flight's submissions. Those that must not be proposed by the leader of `term` are left out into
    /// the second list: forwarded ones that were meant for another term.
    fn take(&self, term: Option<u64>) -> (Vec<Submission>, Vec<Submission>) {
        let mut inner = self.inner.lock();
        let (mut taken, mut refused) = (Vec::new(), Vec::new());
        let (mut calls, mut bytes, mut sweep) = (0, 0, 0);
        while let Some(front) = inner.queue.front() {
            let full = calls + front.calls.len() > MAX_BATCH_CALLS
                || bytes + front.bytes > MAX_BATCH_BYTES
                || sweep + front.sweep.len() > MAX_SWEEP;
            if full && !taken.is_empty() {
                break;
            }
            let submission = inner.queue.pop_front().expect("it was just looked at");
            inner.queued_calls -= submission.calls.len();
            inner.queued_bytes -= submission.bytes;
            if submission.term.is_some() && submission.term != term {
                refused.push(submission);
                continue;
            }
            calls += submission.calls.len();
            bytes += submission.bytes;
            sweep += submission.sweep.len();
            taken.push(submission);
        }
        (taken, refused)
    }

    /// Tells those whose deadline has passed while their flight is under way: nobody knows what becomes of them.
    fn give_up(&self, now: Instant) {
        let cargos: Vec<Cargo> = self.inner.lock().under_way.iter().map(|flight| flight.cargo.clone()).collect();
        for cargo in cargos {
            let late: Vec<OnOutcome> = {
                let mut submissions = cargo.lock();
                submissions.iter_mut().filter(|s| s.deadline <= now).filter_map(|s| s.done.take()).collect()
            };
            for done in late {
                done(Outcome::Unknown { index: None });
            }
        }
    }

    fn take_expired(&self, now: Instant) -> Vec<Submission> {
        let mut inner = self.inner.lock();
        if inner.queue.iter().all(|s| s.deadline > now) {
            return Vec::new();
        }
        let (expired, kept): (VecDeque<_>, VecDeque<_>) = inner.queue.drain(..).partition(|s| s.deadline <= now);
        inner.queue = kept;
        inner.queued_calls = inner.queue.iter().map(|s| s.calls.len()).sum();
        inner.queued_bytes = inner.queue.iter().map(|s| s.bytes).sum();
        expired.into()
    }
}

/// A flight: lands exactly once, as unknown if nothing else is known.
struct Flight {
    group: Arc<Group>,
    sequence: u64,
    cargo: Cargo,
    landed: bool,
}

impl Flight {
    fn begin(group: &Arc<Group>, sequence: u64, term: u64, mut submissions: Vec<Submission>) -> Flight {
        // What there was no room for in an earlier flight, perhaps in an earlier term, is tried anew.
        submissions.iter_mut().for_each(|submission| submission.refused.clear());
        let cargo: Cargo = Arc::new(Mutex::new(submissions));
        let mut inner = group.proposer.inner.lock();
        inner.under_way.push(UnderWay { sequence, term, cargo: cargo.clone() });
        inner.awaited_until = None;
        drop(inner);
        Flight { group: group.clone(), sequence, cargo, landed: false }
    }

    fn unload(&mut self) -> Vec<Submission> {
        self.landed = true;
        self.group.room().lock().release(self.sequence);
        std::mem::take(&mut *self.cargo.lock())
    }

    fn applied(mut self, index: u64, Applied { replies, elsewhere }: Applied) {
        let submissions = self.unload();
        self.group.proposer.land(self.sequence, Landing::Effect, submissions.len());
        let mut replies = replies.into_iter();
        let (mut elsewhere, mut before) = (elsewhere.into_iter().peekable(), 0);
        for mut submission in submissions {
            let own = submission.replies(&mut replies);
            assert_eq!(own.len(), submission.calls.len(), "an entry gives a reply for each of its calls");
            let calls = submission.take_back(&mut before, &mut elsewhere);
            submission.finish(match calls.is_empty() {
                true => Outcome::Applied { index, replies: own },
                false => Outcome::Elsewhere { index, replies: own, calls },
            });
        }
    }

    fn refused(mut self) {
        let submissions = self.unload();
        self.group.proposer.land(self.sequence, Landing::Refused(submissions), 0);
    }

    /// What it carries, as an entry of now.
    fn encode(&self, evictions: Vec<(Bytes, u64)>) -> Batch {
        let stamp = Stamp { now_ms: self.group.stamp(), seed: env::seed() };
        let submissions = self.cargo.lock();
        let mut sweep: Vec<HashRange> = submissions.iter().flat_map(|s| s.sweep.iter().copied()).collect();
        sweep.sort_unstable();
        sweep.dedup();
        let limit = submissions.iter().rev().find_map(|s| s.limit);
        let packing = submissions.iter().rev().find_map(|s| s.packing);
        let front = Front { limit, packing, authored: authored(&submissions), evictions };
        let calls: Vec<&Args> = submissions.iter().flat_map(Submission::admitted).collect();
        self.group.proposer.entries.fetch_add(1, Ordering::Relaxed);
        self.group.proposer.calls.fetch_add(calls.len() as u64, Ordering::Relaxed);
        let batch = Batch::encode(stamp, &sweep, &front, calls.into_iter());
        if submissions.iter().any(|s| s.mark) { batch.marked() } else { batch }
    }

    /// Reserves room for what it carries (`room.rs`); gives what has to leave before. Commands for which there is no room are
    /// answered, or will be beside the others of their submission. None if nothing is left to propose.
    fn make_room(&self, term: u64) -> Option<Vec<(Bytes, u64)>> {
        let mut submissions = self.cargo.lock();
        let calls = submissions.iter().flat_map(|s| s.calls.iter());
        let admission = self.group.reserve_room((term, self.sequence, env::seed()), calls);
        let mut refused = admission.refused.into_iter().peekable();
        let mut first = 0;
        for submission in submissions.iter_mut() {
            let end = first + submission.calls.len();
            submission.refused = std::iter::from_fn(|| refused.next_if(|at| *at < end)).map(|at| at - first).collect();
            first = end;
        }
        let nothing_left = |s: &mut Submission| !s.calls.is_empty() && s.refused.len() == s.calls.len();
        let finished: Vec<Submission> = submissions.extract_if(.., nothing_left).collect();
        let worth_it = !admission.evictions.is_empty() || submissions.iter().any(|s| !s.only_room);
        drop(submissions);
        finished.into_iter().for_each(|submission| submission.finish(Outcome::NotApplied(Refusal::OutOfMemory)));
        worth_it.then_some(admission.evictions)
    }

    /// Answers the commands among what it carries, and leaves the ticks: reads go on where writes do not. On a full disk those
    /// steps of a handover are left, too, without which slots could not even be read.
    fn refuse_calls(&self, refusal: Refusal) {
        let goes = |call: &Args| refusal == Refusal::DiskFull && handover::frees(call);
        let commands = {
            let mut submissions = self.cargo.lock();
            let (commands, rest): (Vec<_>, Vec<_>) =
                submissions.drain(..).partition(|s: &Submission| !s.calls.iter().all(goes));
            *submissions = rest;
            commands
        };
        for submission in commands {
            submission.finish(Outcome::NotApplied(refusal));
        }
    }

    /// Finally refused by a leader, with its reason; nobody tries again.
    fn not_applied(mut self, refusal: Refusal) {
        let submissions = self.unload();
        // Nothing took effect, and nothing comes back either.
        self.group.proposer.land(self.sequence, Landing::Refused(Vec::new()), 0);
        for submission in submissions {
            submission.finish(Outcome::NotApplied(refusal));
        }
    }

    fn unknown(mut self, index: Option<u64>) {
        let submissions = self.unload();
        self.group.proposer.land(self.sequence, Landing::Effect, 0);
        for submission in submissions {
            submission.finish(Outcome::Unknown { index });
        }
    }

    fn land_result(self, result: ClientWriteResult<Types>) {
        match result {
            Ok(written) => self.applied(written.log_id.index(), written.data),
            // Refused before it was appended: certainly not applied.
            Err(ClientWriteError::ForwardToLeader(_)) => self.refused(),
            Err(_) if planted::is(Bug::RetryUnknown) => self.refused(),
            // Appended and then discarded here; another node may have committed it.
            Err(_) => self.unknown(None),
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if !self.landed {
            let submissions = self.unload();
            self.group.proposer.land(self.sequence, Landing::Effect, 0);
            drop(submissions);
        }
    }
}

/// Refused flights that are not settled yet.
#[derive(Default)]
struct Settlement {
    refused: Vec<(u64, Vec<Submission>)>,
}

impl Settlement {
    fn take_landed(&mut self, proposer: &Proposer) {
        let landed = std::mem::take(&mut proposer.inner.lock().landed);
        for (sequence, landing) in landed {
            match landing {
                Landing::Effect => (),
                Landing::Refused(submissions) if submissions.is_empty() => (),
                Landing::Refused(submissions) => self.refused.push((sequence, submissions)),
            }
        }
    }

    /// Once nothing is under way: what was refused goes back to the queue, or to the node that forwarded it.
    fn settle(&mut self, proposer: &Proposer) {
        self.refused.sort_by_key(|(sequence, _)| *sequence);
        let mut again = Vec::new();
        for (_, submissions) in self.refused.drain(..) {
            for submission in submissions {
                if submission.term.is_some() {
                    // The node that forwarded it looks for the leader itself.
                    submission.finish(Outcome::NotApplied(Refusal::WrongTerm));
                } else if submission.done.is_some() {
                    // Otherwise its deadline passed while it was under way, and it was told so.
                    again.push(submission);
                }
            }
        }
        proposer.put_back(again);
    }
}

/// Sends what waits until the group is closed. Runs on the group's worker.
pub(super) async fn run(group: Arc<Group>) {
    let mut settlement = Settlement::default();
    let mut sequence = 0u64;
    let mut look_at = env::now();
    loop {
        settlement.take_landed(&group.proposer);
        let now = env::now();
        if now >= look_at {
            look_at = now + LOOK;
            look_at_deadlines(&group, now);
        }
        let (may_send, waiting, in_flight, landed, closed, moment) = {
            let mut inner = group.proposer.inner.lock();
            inner.term = group.leadership().map_or(0, |l| l.term).max(inner.term);
            inner.awaited_until = inner.awaited_until.filter(|until| *until > now);
            let (landed, closed, moment) = (inner.under_way.is_empty(), inner.closed.is_some(), inner.awaited_until);
            (inner.may_send(), !inner.queue.is_empty(), inner.in_flight(), landed, closed, moment)
        };
        if closed && landed && !waiting {
            return;
        }
        if !settlement.refused.is_empty() {
            if in_flight == 0 {
                settlement.settle(&group.proposer);
                // Whatever made the leader refuse needs a moment.
                let _ = env::timeout(RETRY, group.leadership_changed()).await;
            } else {
                let _ = env::timeout_at(look_at, group.proposer.wake.notified()).await;
            }
            continue;
        }
        if let Some(until) = moment.filter(|_| !may_send && in_flight == 0) {
            tokio::select! {
                biased;
                () = group.proposer.wake.notified() => (),
                () = env::moment(until.remaining()) => (),
            }
            continue;
        }
        if !may_send {
            match waiting || !landed {
                true => drop(env::timeout_at(look_at, group.proposer.wake.notified()).await),
                false => group.proposer.wake.notified().await,
            }
            continue;
        }
        if !send(&group, &mut sequence).await {
            let _ = env::timeout(RETRY, group.leadership_changed()).await;
        }
    }
}

/// Answers what is late: *unknown* where it is under way, *not applied* where it still waits.
fn look_at_deadlines(group: &Group, now: Instant) {
    group.proposer.give_up(now);
    for submission in group.proposer.take_expired(now) {
        submission.finish(Outcome::NotApplied(match group.leadership() {
            None => Refusal::NoLeader,
            Some(_) => Refusal::Deadline,
        }));
    }
}

/// Lets the connections of this worker that have something to say say it first, for as long as more comes: no time
/// passes here but what the worker spends on others' work.
async fn gather(proposer: &Proposer) {
    let mut seen = proposer.queued_calls();
    for _ in 0..GATHER_TURNS {
        tokio::task::yield_now().await;
        let now = proposer.queued_calls();
        if now == seen || now >= THICK_CALLS {
            return;
        }
        seen = now;
    }
}

/// Makes one flight of what waits. False if there is nobody to send it to at present.
async fn send(group: &Arc<Group>, sequence: &mut u64) -> bool {
    gather(&group.proposer).await;
    let leadership = group.leadership();
    let own_term = leadership.filter(|l| l.leader == group.me()).map(|l| l.term);
    let Some(leadership) = leadership else {
        refuse_forwarded(group);
        return false;
    };
    let (submissions, refused) = group.proposer.take(own_term);
    for submission in refused {
        submission.finish(Outcome::NotApplied(Refusal::WrongTerm));
    }
    if submissions.is_empty() {
        return true;
    }
    *sequence += 1;
    let flight = Flight::begin(group, *sequence, leadership.term, submissions);
    match own_term {
        Some(term) => {
            propose(flight, term).await;
            true
        }
        None => forward(flight, leadership.leader, leadership.term),
    }
}

/// Forwarded submissions never wait for an election here: the node that sent them does that.
fn refuse_forwarded(group: &Group) {
    let forwarded: Vec<Submission> = {
        let mut inner = group.proposer.inner.lock();
        if inner.queue.iter().all(|s| s.term.is_none()) {
            return;
        }
        let (forwarded, kept): (VecDeque<_>, VecDeque<_>) = inner.queue.drain(..).partition(|s| s.term.is_some());
        inner.queue = kept;
        inner.queued_calls = inner.queue.iter().map(|s| s.calls.len()).sum();
        inner.queued_bytes = inner.queue.iter().map(|s| s.bytes).sum();
        forwarded.into()
    };
    for submission in forwarded {
        submission.finish(Outcome::NotApplied(Refusal::WrongTerm));
    }
}

/// Puts a flight into the log of the group that this node leads.
async fn propose(flight: Flight, term: u64) {
    let group = flight.group.clone();
    if let Some(refusal) = group.refuses_writes() {
        flight.refuse_calls(refusal);
    }
    let Some(evictions) = flight.make_room(term) else {
        flight.not_applied(Refusal::OutOfMemory);
        return;
    };
    let batch = flight.encode(evictions);
    let raft = group.raft();
    let write = raft
        .write(batch)
        .with_leader(super::log_id(term, 0).committed_leader_id().to_owned())
        .responder(Done::new(move |result| flight.land_result(result)));
    if let Err(fatal) = write.await {
        tracing::debug!(group = %group.id(), error = %fatal, "a proposal met a core that has stopped");
    }
}

/// Sends a flight to the leader. False if it is not connected; the flight is then back in the queue.
fn forward(mut flight: Flight, leader: NodeId, term: u64) -> bool {
    let group = flight.group.clone();
    let cargo = flight.cargo.clone();
    let submissions = cargo.lock();
    let deadline = submissions.iter().map(|s| s.deadline).max().expect("a flight has submissions");
    let calls = submissions.iter().flat_map(|s| s.calls.iter());
    let authored = authored(&submissions);
    let wait_ms = deadline.remaining().as_millis() as u64;
    let link = group.peers().link(leader, Lane::Forward(group.worker()));
    // Names the flight in the logs of both nodes: whose, and which.
    let request = group.me().0 << 48 | flight.sequence;
    match link.call(Method::Propose, group.id(), |out| wire::put_propose(out, request, term, wait_ms, calls, &authored))
    {
        Err(CallError::NotConnected | CallError::Full) => {
            drop(submissions);
            let submissions = flight.unload();
            group.proposer.inner.lock().under_way.retain(|other| other.sequence != flight.sequence);
            group.proposer.put_back(submissions);
            false
        }
        Ok(answer) => {
            tracing::debug!(node = %group.me(), group = %group.id(), term, request = format_args!("{request:x}"), peer = %leader, "forwarded");
            group.spawn(async move {
                match env::timeout_at(deadline + FORWARD_GRACE, answer.wait()).await {
                    Ok(Ok(bytes)) => match wire::get::<Outcome>(&bytes, "an outcome") {
                        Ok(Outcome::Applied { index, replies }) => {
                            flight.applied(index, Applied { replies, elsewhere: Vec::new() })
                        }
                        Ok(Outcome::Elsewhere { index, replies, calls }) => {
                            let elsewhere = calls.into_iter().map(|call| call.place).collect();
                            flight.applied(index, Applied { replies, elsewhere })
                        }
                        // That a leader ends is no reason for clients of this node: another will lead.
                        Ok(Outcome::NotApplied(Refusal::WrongTerm | Refusal::ShuttingDown)) => flight.refused(),
                        Ok(Outcome::NotApplied(refusal)) => flight.not_applied(refusal),
                        Ok(Outcome::Unknown { index }) => flight.unknown(index),
                        Err(_) => flight.unknown(None),
                    },
                    Ok(Err(_)) | Err(_) if planted::is(Bug::RetryUnknown) => flight.refused(),
                    // The link broke after the commands were sent, or nobody answered in time.
                    Ok(Err(_)) | Err(_) => flight.unknown(None),
                }
            });
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authors_are_told_of_what_is_proposed_and_of_nothing_else() {
        let submission = |calls: usize, by: Option<u64>| {
            let calls = vec![Args::new(); calls];
            let by = by.map(|client| Author { process: 1, client });
            Submission::new(calls, env::now(), None, Box::new(|_| ())).by(by)
        };
        let mut all = vec![submission(2, None), submission(3, Some(7)), submission(1, Some(7)), submission(1, Some(8))];
        let told = |all: &[Submission]| -> Vec<(u32, u32, u64)> {
            authored(all).iter().map(|of| (of.first, of.calls, of.by.client)).collect()
        };
        assert_eq!(told(&all), [(2, 4, 7), (6, 1, 8)]);
        (all[0].refused, all[1].refused) = (vec![1], vec![0]);
        assert_eq!(told(&all), [(1, 3, 7), (4, 1, 8)]);
        // What another node forwarded is of several connections.
        let forwarded = submission(7, None).authored(authored(&all));
        assert_eq!(told(&[submission(1, None), forwarded]), [(2, 3, 7), (5, 1, 8)]);
    }

    #[test]
    fn calls_that_were_not_run_come_back_to_who_sent_them() {
        let submission = |words: &[&'static str]| {
            let call = |word: &&'static str| Args::from(vec![Bytes::from_static(word.as_bytes())]);
            Submission::new(words.iter().map(call).collect(), env::now(), None, Box::new(|_| ()))
        };
        let mut all = [submission(&["a", "b"]), submission(&["c", "d", "e"]), submission(&[]), submission(&["f"])];
        // There was no room for one of them, so it was not among those that were proposed.
        all[1].refused = vec![1];
        let (mut before, mut elsewhere) = (0, [1, 3, 4].into_iter().peekable());
        let back: Vec<Vec<Elsewhere>> =
            all.iter_mut().map(|submission| submission.take_back(&mut before, &mut elsewhere)).collect();
        let call = |place, word: &'static str| {
            let call = Args::from(vec![Bytes::from_static(word.as_bytes())]);
            vec![Elsewhere { place, call }]
        };
        assert_eq!(back, [call(1, "b"), call(2, "e"), vec![], call(0, "f")]);
    }

    #[test]
    fn a_crowd_that_was_answered_together_is_waited_for_and_a_few_are_not() {
        let proposer = Proposer::default();
        let queue = |submissions: usize| {
            let one = || Submission::new(Vec::new(), env::now(), None, Box::new(|_| ()));
            (0..submissions).for_each(|_| proposer.submit(one()));
        };
        let land = |answered: usize| {
            proposer.land(1, Landing::Effect, answered);
            let mut inner = proposer.inner.lock();
            // No moment ends while the test looks.
            inner.awaited_until = inner.awaited_until.map(|until| until + Duration::from_secs(3600));
        };
        let may_send = || proposer.inner.lock().may_send();
        queue(2);
        land(10);
        queue(9);
        assert!(!may_send(), "one of those who were answered has said nothing yet");
        queue(1);
        assert!(may_send(), "all of them have");
        land(10);
        assert!(!may_send());
        proposer.inner.lock().awaited_until = Some(env::now());
        assert!(may_send(), "the moment is over");
        land(1);
        assert!(may_send(), "it was no crowd");
    }

    #[test]
    fn flights_to_a_leader_of_the_past_do_not_hold_up_those_to_the_next() {
        let mut inner = Inner { term: 3, ..Inner::default() };
        inner.queue.push_back(Submission::new(Vec::new(), env::now(), None, Box::new(|_| ())));
        assert!(inner.may_send());
        inner.under_way = (1..=2).map(|sequence| UnderWay { sequence, term: 3, cargo: Cargo::default() }).collect();
        assert!(!inner.may_send(), "the window is full");
        inner.term = 4;
        assert!(inner.may_send(), "what was sent to the leader of term 3 may take long to land");
    }
}
