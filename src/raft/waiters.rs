//! Waiting for a turn at the keys of a group: the leader's line, and the way to it from any node.
//!
//! A turn is leave to try once more, nothing else: what is tried is an ordinary command of the log, proposed by
//! whoever waits. So nothing that happens to a line can lose or repeat anything. Lines are the leader's own; a leader that
//! goes forgets its line, and everybody in it is told.
//!
//! Who would be answered with an error now, because the key or the group it reads from is gone, has a turn, too; so has who
//! waits for a key whose slot this group does not answer for any more.
//!
//! Locks: the line's before the replica's, never the other way round. Apply takes only the replica's and leaves the rows
//! that were written in [`Touched`].

use super::group::Group;
use super::line::{KEEP, Line};
use super::wire::{self, Lane, Method};
use crate::commands;
use crate::env;
use crate::resp::Args;
use crate::state::eviction::Row;
use crate::types::{Leadership, NodeId};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{Notify, oneshot};

/// Bits of a place's number that its node counts in; above them is the node.
const COUNTED_BITS: u32 = 40;

/// The leader's side.
pub(super) struct Waiters {
    inner: Mutex<Inner>,
    /// Counts the places that connections of this node take.
    next: AtomicU64,
}

impl Default for Waiters {
    /// Begins to count anywhere: the places of a process that ended stand in the leader's line until they lapse, and the
    /// next process must not take them for its own.
    fn default() -> Waiters {
        Waiters { inner: Mutex::default(), next: AtomicU64::new(env::seed()) }
    }
}

impl Waiters {
    /// The number of a place that no other connection of any node has.
    fn number(&self, me: NodeId) -> u64 {
        let counted = self.next.fetch_add(1, Ordering::Relaxed) & ((1 << COUNTED_BITS) - 1);
        me.0 << COUNTED_BITS | counted
    }
}

#[derive(Default)]
struct Inner {
    /// The term in which this node leads, as far as those who wait know.
    term: u64,
    line: Line<oneshot::Sender<()>>,
}

/// Rows that something happened to and that somebody waits for.
#[derive(Default)]
pub(super) struct Touched {
    rows: Mutex<Vec<Row>>,
    wake: Notify,
}

impl Touched {
    pub(super) fn note(&self, rows: Vec<Row>) {
        self.rows.lock().extend(rows);
        self.wake.notify_one();
    }
}

/// A place in the line of a group, given up when it is dropped.
pub struct Place {
    group: Arc<Group>,
    leadership: Leadership,
    id: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let group = &self.group;
        if self.leadership.leader == group.me() {
            return group.leave_line(self.id);
        }
        let link = group.peers().link(self.leadership.leader, Lane::Forward(group.worker()));
        // One that cannot be told lets the place lapse.
        drop(link.call(Method::LeaveLine, group.id(), |out| wire::put(out, &self.id)));
    }
}

/// The answer to a question for a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Turn {
    Yours,
    AskAgain,
    /// The line is gone.
    Gone,
    /// All places are taken, and this one has none.
    Full,
}

/// Why the waiting ended without a place. Nothing was proposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unplaced {
    /// The leader that kept the line does not any more, or cannot be asked.
    LeaderGone,
    LineFull,
}

impl Group {
    /// Waits until it may be worth trying `call` again, which found nothing: in the order in which others wait for its keys,
    /// from `place` if it stood there before.
    /// Whoever drops the future gives the place up.
    ///
    /// # Errors
    /// When the leader goes, or has no place left: certainly nothing was proposed.
    pub async fn wait_turn(self: &Arc<Self>, call: &Args, place: Option<Place>) -> Result<Place, Unplaced> {
        let leadership = self.leadership().ok_or(Unplaced::LeaderGone)?;
        let place = match place {
            Some(place) if place.leadership != leadership => return Err(Unplaced::LeaderGone),
            Some(place) => place,
            None => {
                let id = self.waiters.number(self.me());
                Place { group: self.clone(), leadership, id }
            }
        };
        loop {
            let turn = tokio::select! {
                biased;
                turn = self.ask_turn(leadership, place.id, call) => turn,
                () = self.leadership_other_than(leadership) => Turn::Gone,
            };
            match turn {
                Turn::Yours => return Ok(place),
                Turn::AskAgain => {}
                Turn::Gone => return Err(Unplaced::LeaderGone),
                Turn::Full => return Err(Unplaced::LineFull),
            }
        }
    }

    async fn ask_turn(self: &Arc<Self>, leadership: Leadership, id: u64, call: &Args) -> Turn {
        if leadership.leader == self.me() {
            return self.stand(leadership.term, id, call.clone()).await;
        }
        let link = self.peers().link(leadership.leader, Lane::Forward(self.worker()));
        let ask = |out: &mut bytes::BytesMut| wire::put_ask_turn(out, leadership.term, id, call);
        let Ok(answer) = link.call(Method::AskTurn, self.id(), ask) else { return Turn::Gone };
        match env::timeout(KEEP * 2, answer.wait()).await {
            Ok(Ok(bytes)) => wire::get(&bytes, "a turn").unwrap_or(Turn::Gone),
            _ => Turn::Gone,
        }
    }

    /// Stands in the line until it is this one's turn, or [`KEEP`] has passed.
    pub(super) async fn stand(self: &Arc<Self>, term: u64, id: u64, call: Args) -> Turn {
        self.stand_until(term, id, call, env::sleep(KEEP)).await
    }

    async fn stand_until(self: &Arc<Self>, term: u64, id: u64, call: Args, end: impl Future<Output = ()>) -> Turn {
        let Ok(command) = commands::lookup(&call) else { return Turn::Gone };
        let Some(blocks) = command.blocks else { return Turn::Gone };
        let (teller, told) = oneshot::channel();
        {
            let mut inner = self.waiters.inner.lock();
            if self.leadership() != Some(Leadership { leader: self.me(), term }) {
                return Turn::Gone;
            }
            if inner.term != term {
                *inner = Inner { term, line: Line::default() };
            }
            if inner.line.is_full() && !inner.line.knows(id) {
                return Turn::Full;
            }
            let keys = (blocks.keys)(&call);
            let mut rows: Vec<Row> = self.replica().with_mut(|state| {
                let rows: Vec<Row> = keys.iter().map(|key| state.keyspace.row(key)).collect();
                rows.iter().for_each(|row| state.keyspace.want(*row, true));
                rows
            });
            let takes = (blocks.takes)(&call);
            let left = inner.line.stand(id, call, takes, &rows, teller);
            rows.extend(left);
            // What was written before it stood here is seen now, what comes later is noted by apply.
            self.look_at(&mut inner, &rows);
        }
        let told = tokio::select! {
            biased;
            told = told => told,
            () = end => {
                // The turn may have come since: it was told to nobody.
                let came = self.waiters.inner.lock().line.away(id, env::now());
                return if came { Turn::Yours } else { Turn::AskAgain };
            }
        };
        told.map_or(Turn::Gone, |()| Turn::Yours)
    }

    /// Gives turns at keys that may have something, and forgets those that nobody waits for.
    fn look_at(&self, inner: &mut Inner, rows: &[Row]) {
        let now = env::now();
        self.replica().with_mut(|state| {
            for row in rows {
                if !inner.line.has(*row) {
                    state.keyspace.want(*row, false);
                    continue;
                }
                let clock = state.keyspace.clock();
                let found = state.keyspace.locate_row(*row).map(|located| located.entry);
                let entry = found.filter(|entry| !entry.is_dead(clock));
                // It is tried, refused, and goes on where the slot is: nothing here will ever be written for it.
                let away = !state.keyspace.ownership().serves(row.slot());
                let elements = |call: &Args| {
                    if away {
                        return usize::MAX;
                    }
                    let Some(blocks) = commands::lookup(call).ok().and_then(|command| command.blocks) else { return 0 };
                    match blocks.fails.is_some_and(|fails| fails(call, entry)) {
                        // An error takes nothing from anybody.
                        true => usize::MAX,
                        false => entry.map_or(0, |entry| (blocks.elements)(call, entry)),
                    }
                };
                // That nothing is there is as new as the last change of anything.
                let version = entry.filter(|_| !away).map_or(state.keyspace.version(), |entry| entry.version());
                for teller in inner.line.turns(*row, version, now, elements) {
                    // Whoever does not listen any more gives its place up, or lets the turn lapse.
                    let _ = teller.send(());
                }
            }
        });
    }

    pub(super) fn leave_line(&self, id: u64) {
        let mut inner = self.waiters.inner.lock();
        let rows = inner.line.leave(id);
        self.look_at(&mut inner, &rows);
    }

    /// Gives turns when apply has touched what somebody waits for. Runs on the group's worker.
    pub(super) async fn serve_waiters(self: Arc<Self>) {
        while !self.closed() {
            let touched = self.replica().touched();
            touched.wake.notified().await;
            let rows = std::mem::take(&mut *touched.rows.lock());
            self.look_at(&mut self.waiters.inner.lock(), &rows);
        }
    }

    /// Lets [`Group::serve_waiters`] see that the group is closed.
    pub(super) fn wake_waiters(&self) {
        self.replica().touched().wake.notify_one();
    }

    /// Takes places from those who do not use them. A group that is not led here has no line.
    pub(super) fn tend_waiters(&self) {
        let mut inner = self.waiters.inner.lock();
        if inner.line.is_empty() {
            return;
        }
        if self.leadership() == Some(Leadership { leader: self.me(), term: inner.term }) {
            let rows = inner.line.leave_overdue(env::now());
            self.look_at(&mut inner, &rows);
        } else {
            *inner = Inner::default();
            self.replica().with_mut(|state| state.keyspace.want_nothing());
        }
    }
}

#[cfg(test)]
impl Group {
    /// Places in the line that this node keeps.
    pub(crate) fn waiting(&self) -> usize {
        self.waiters.inner.lock().line.len()
    }

    /// Asks the line of this node, which leads, once for a turn, and gives up at once. Before it does, but when it does
    /// not listen any more, `meanwhile` happens.
    pub(crate) async fn ask_once(self: &Arc<Self>, id: u64, call: &Args, meanwhile: impl FnOnce()) -> Turn {
        let term = self.leadership().expect("this node leads").term;
        // The end is looked at after the answer was found not to be there.
        self.stand_until(term, id, call.clone(), async { meanwhile() }).await
    }

    /// Takes all places that are left, for somebody who asks for `call`.
    pub(crate) fn fill_line(&self, call: &Args) {
        let mut inner = self.waiters.inner.lock();
        let (mut id, line) = (u64::MAX, &mut inner.line);
        while !line.is_full() {
            let (teller, _) = oneshot::channel();
            assert!(line.stand(id, call.clone(), 1, &[], teller).is_empty(), "nobody has this number");
            id -= 1;
        }
    }

    /// Gives turns as if `key` had been written and had an element.
    pub(crate) fn give_turns(&self, key: &[u8], version: u64) {
        let row = self.replica().with_mut(|state| state.keyspace.row(key));
        let told = self.waiters.inner.lock().line.turns(row, version, env::now(), |_| 1);
        for teller in told {
            let _ = teller.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_starts_again_does_not_number_places_as_before() {
        let me = NodeId(3);
        let before = Waiters::default();
        let numbers: Vec<u64> = (0..100).map(|_| before.number(me)).collect();
        let after = Waiters::default().number(me);
        assert!(!numbers.contains(&after), "{after}");
    }

    #[test]
    fn however_far_a_node_has_counted_its_numbers_are_its_own() {
        let waiters = Waiters { next: AtomicU64::new((7 << COUNTED_BITS) - 1), ..Waiters::default() };
        assert_eq!([(); 2].map(|()| waiters.number(NodeId(3))), [(4 << COUNTED_BITS) - 1, 3 << COUNTED_BITS]);
        waiters.next.store(u64::MAX, Ordering::Relaxed);
        assert_eq!([(); 2].map(|()| waiters.number(NodeId(3))), [(4 << COUNTED_BITS) - 1, 3 << COUNTED_BITS]);
    }
}
