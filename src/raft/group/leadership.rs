//! Who leads a group, when this replica may campaign after a start, and what time it is in the group.

use super::care::CARE;
use super::{Core, Group, Leadership};
use crate::env;
use crate::planted::{self, Bug};
use crate::raft::clock::ALARM_MS;
use crate::raft::wire::GroupTime;
use crate::types::{Millis, NodeId};
use openraft::async_runtime::WatchReceiver;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Between campaigns of the nodes of a group that all end their quarantine at once.
const STAGGER: Duration = Duration::from_millis(80);

impl Group {
    pub(in crate::raft) fn leadership(&self) -> Option<Leadership> {
        *self.leadership.borrow()
    }

    /// Returns when who leads has changed since this was called.
    pub(in crate::raft) async fn leadership_changed(&self) {
        let _ = self.leadership.subscribe().changed().await;
    }

    /// Returns when somebody else leads, or nobody, or in another term.
    pub(in crate::raft) async fn leadership_other_than(&self, known: Leadership) {
        let _ = self.leadership.subscribe().wait_for(|now| *now != Some(known)).await;
    }

    /// The leader as far as this node knows.
    pub fn leader(&self) -> Option<NodeId> {
        #[cfg(test)]
        if let Some(shown) = *self.hooks.leader.lock() {
            return Some(shown);
        }
        self.leadership().map(|l| l.leader)
    }

    /// The leader as far as this node knows; while it knows none, it is waited for so long.
    pub async fn leader_within(&self, patience: Duration) -> Option<NodeId> {
        let _ = env::timeout(patience, self.leadership.subscribe().wait_for(Option::is_some)).await;
        self.leader()
    }

    /// Who leads or led last as far as this node knows, and for how long nobody is known to lead.
    pub fn last_leader(&self) -> Option<(NodeId, Duration)> {
        let led = || self.led.lock().map(|(leader, until)| (leader, until.elapsed()));
        self.leader().map(|leader| (leader, Duration::ZERO)).or_else(led)
    }

    /// Notes who leads now; whether it is somebody else, or in another term.
    pub(super) fn note_leadership(&self, now: Option<Leadership>) -> bool {
        if let (Some(last), None) = (self.leadership(), now) {
            *self.led.lock() = Some((last.leader, env::now()));
        }
        self.leadership.send_replace(now) != now
    }

    /// Whether this node leads the group, as far as it knows.
    pub fn is_leader(&self) -> bool {
        self.leader() == Some(self.me())
    }

    pub(super) async fn watch_leadership(self: Arc<Self>, core: Arc<Core>) {
        let mut metrics = core.raft.server_metrics();
        loop {
            let now = {
                let m = metrics.borrow_watched();
                m.current_leader.map(|leader| Leadership { leader, term: m.vote.leader_id.term })
            };
            if let Some(l) = now.filter(|l| l.leader == self.me()) {
                self.replica.note_led(l.term);
            }
            if self.note_leadership(now) {
                match now {
                    Some(l) => {
                        tracing::info!(node = %self.me(), group = %self.id, term = l.term, leader = %l.leader, "leader-changed")
                    }
                    None => tracing::info!(node = %self.me(), group = %self.id, "leader-lost"),
                }
            }
            if metrics.changed().await.is_err() {
                core.dead.store(true, Ordering::Release);
                // What it said last may be that this node leads, and its successor may never start.
                if Arc::ptr_eq(&core, &self.core()) {
                    self.note_leadership(None);
                }
                return;
            }
        }
    }

    pub(super) async fn end_quarantine(self: Arc<Self>, core: Arc<Core>) {
        let position = core.log_position_of(self.me());
        let turn = (position + self.id.0 as usize) % core.voters().len().max(1);
        env::sleep_until(core.quarantine_until + STAGGER * turn as u32).await;
        while self.fenced() {
            if self.closed() {
                return;
            }
            env::sleep(CARE).await;
        }
        core.raft.runtime_config().elect(true);
        let silent = core.metrics.borrow_watched().current_leader.is_none();
        if silent && core.raft.trigger().elect(true).await.is_err() {
            tracing::warn!(group = %self.id, "the core had stopped before its quarantine ended");
        }
    }

    /// The stamp for an entry that is proposed now.
    pub(in crate::raft) fn stamp(&self) -> Millis {
        match self.leadership().filter(|l| l.leader == self.me()) {
            Some(leadership) => self.stamp_as(leadership),
            // Who does not lead begins nothing.
            None => {
                let stored = self.replica.with(|state| state.keyspace.clock());
                self.estimate().unwrap_or_else(|| self.median_wall(env::wall_ms())).max(stored)
            }
        }
    }

    /// What this node says of the group's time with an append of its leadership, from the very first on: whoever has an entry of
    /// a term has heard its time.
    pub(super) fn time_as(&self, leadership: Leadership) -> Option<GroupTime> {
        let told = || self.clock.told(leadership.term, env::now());
        told().or_else(|| {
            self.stamp_as(leadership);
            told()
        })
    }

    fn stamp_as(&self, leadership: Leadership) -> Millis {
        let (stored, term) = self
            .replica
            .with(|state| (state.keyspace.clock(), state.applied.map_or(0, |id| id.committed_leader_id().term)));
        let wall = env::wall_ms();
        if planted::is(Bug::ExpiryByLocalClock) {
            return wall.max(stored);
        }
        let stamp = self.clock.stamp(leadership, env::now(), wall, || self.median_wall(wall), (stored, term));
        let off = stamp.abs_diff(wall) > ALARM_MS;
        if self.wall_alarm.swap(off, Ordering::Relaxed) != off && off {
            tracing::error!(node = %self.me(), group = %self.id, ahead_ms = wall as i64 - stamp as i64,
                "wall-clock-disagrees: this node's wall clock is far from the group's; keys expire by the group's");
        }
        stamp
    }

    /// The group's time as this replica estimates it.
    pub fn estimate(&self) -> Option<Millis> {
        self.clock.estimate(env::now())
    }

    /// The same where this node leads: a leader that has not stamped anything yet does so in thought.
    pub(in crate::raft) fn leader_estimate(&self) -> Millis {
        self.estimate().unwrap_or_else(|| self.stamp())
    }

    fn median_wall(&self, wall: Millis) -> Millis {
        let voters = self.core().voters();
        let others = voters.iter().filter(|v| **v != self.me());
        let mut walls: Vec<i64> = others.filter_map(|v| self.around.peers.wall_ms(*v)).collect();
        walls.push(wall as i64);
        walls.sort_unstable();
        walls[(walls.len() - 1) / 2].max(0) as Millis
    }
}
