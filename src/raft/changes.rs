//! What this node's replicas tell its doors of the entries they apply: events for subscribers, keys that changed for
//! client-side caches.
//!
//! A record is handed over after the entry is in effect and before whoever proposed it is answered, in the order of the
//! log. Changed keys are told by every replica. Events are told by one: the replica that led the term of the entry, and
//! only of entries that it did not find in its log when it started. A term has one leader, so nothing is told twice; what
//! a leader had not applied when it fell is told by nobody.

use super::group::Group;
use super::reads::{Gate, Round};
use crate::env::{self, Instant};
use crate::state::events::{Classes, Record, Wanted};
use crate::types::GroupId;
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

/// A state that was fresh so lately is not asked about.
const FRESH: Duration = Duration::from_millis(150);
/// While a replica may be behind, this often it says so.
const DOUBT: Duration = Duration::from_millis(500);

/// Hears what entries did here. Called on the thread that applies: must be quick and must not block.
pub trait Changes: Send + Sync + 'static {
    fn applied(&self, group: GroupId, record: Record);
    /// The whole state is another one.
    fn replaced(&self, group: GroupId);
    /// The state may be behind what the cluster has committed: its leader has not been heard, or cannot show that it leads.
    fn out_of_touch(&self, group: GroupId);
    /// A read asked for keys that are not there.
    fn missed(&self, keys: Vec<Bytes>);
}

const CHANGES: u32 = 1 << 16;

/// What is wanted, and who wants it: one for all groups of a node.
#[derive(Default)]
pub struct Watch {
    wanted: AtomicU32,
    hears: ArcSwapOption<Box<dyn Changes>>,
}

impl Watch {
    /// Says who hears it.
    pub fn tell(&self, hears: Box<dyn Changes>) {
        self.hears.store(Some(Arc::new(hears)));
    }

    /// From the next entry on these events are recorded.
    pub fn want_events(&self, classes: Classes) {
        let set = |wanted| Some(wanted & CHANGES | u32::from(classes.bits()));
        let _ = self.wanted.fetch_update(Ordering::SeqCst, Ordering::SeqCst, set);
    }

    /// From the next entry on changed keys are recorded, or not any more. Whoever reads a key after this returned is told
    /// of every change that the read did not see: the read and the entry take the same lock.
    pub fn want_changes(&self, wanted: bool) {
        match wanted {
            true => self.wanted.fetch_or(CHANGES, Ordering::SeqCst),
            false => self.wanted.fetch_and(!CHANGES, Ordering::SeqCst),
        };
    }

    pub fn wanted(&self) -> Wanted {
        let bits = self.wanted.load(Ordering::SeqCst);
        Wanted { events: Classes::from_bits(bits as u16), changes: bits & CHANGES != 0 }
    }

    pub(super) fn with(&self, f: impl FnOnce(&dyn Changes)) {
        if let Some(hears) = &*self.hears.load() {
            f(&***hears);
        }
    }
}

/// Whether a replica is known to be up to date, while somebody keeps what was read from it. A follower asks its leader, who
/// must show a quorum: to be sent heartbeats by a leader whom the majority has left proves nothing.
#[derive(Default)]
pub(super) struct Touch {
    /// Since when somebody keeps anything.
    since: Option<Instant>,
    doubted: Option<Instant>,
    asking: Arc<AtomicBool>,
}

impl Touch {
    /// Called now and then, by one task of the group.
    pub fn look(&mut self, group: &Arc<Group>) {
        let Some((id, watch, _)) = group.replica().watched().filter(|(.., wanted)| wanted.changes) else {
            self.since = None;
            return;
        };
        let now = env::now();
        let since = *self.since.get_or_insert(now);
        let known = group.fresh_at().map_or(since, |at| at.max(since));
        let age = now.saturating_since(known);
        if age >= FRESH && !self.asking.swap(true, Ordering::AcqRel) {
            let (group, asking, patience) = (group.clone(), self.asking.clone(), group.promise());
            group.clone().spawn(async move {
                let _ = Gate::pass(&group, Round::Lease, env::now() + patience).await;
                asking.store(false, Ordering::Release);
            });
        }
        let told_lately = self.doubted.is_some_and(|at| now.saturating_since(at) < DOUBT);
        if age >= group.promise() && !told_lately {
            self.doubted = Some(now);
            tracing::debug!(group = %id, age_ms = age.as_millis() as u64, "replica-doubted: what clients keep of it is void");
            watch.with(|hears| hears.out_of_touch(id));
        }
    }
}
