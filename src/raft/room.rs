//! Room in memory: whether a group has it for what is about to be proposed, and who leaves to make it.
//!
//! ```text
//!   limit  |--------------------------------------------------------------|
//!   used   |==========================================|                       by the account, as applied here
//!   under way                                         |---------|              what flights may still add, at most
//!   this flight                                                 |---------->|  what it may add, at most
//!                                                                         '--' has to leave first
//! ```
//!
//! Room is reserved before a flight is proposed, because apply never refuses. What a call may add is estimated from above
//! ([`commands::growth`]); what evictions under way will free is not counted before it is free. So `used` passes the limit
//! only by
//! - keys that were chosen and then written by an entry before the eviction's (their eviction does nothing), and
//! - a flight that is larger than the whole limit: everything leaves for it, and it is let in,
//! - commands that Redis lets through too, such as RENAME to a longer name;
//!
//! and the next flight, or the next look ([`Room::short`]), makes up for it.
//!
//! Where nothing may leave, a call that adds is refused, alone, before it is proposed; what stood beside it goes on.
//! All of this is the leader's own. A new leader begins with a policy that knows nothing.

use super::entry::MAX_EVICTIONS;
use crate::commands;
use crate::resp::Args;
use crate::state::eviction::{Candidates, Kind, Policy, Recency, policy};
use crate::state::{Chooser, Keyspace, Leaving};
use bytes::Bytes;
use std::collections::HashMap;
use xxhash_rust::xxh3::xxh3_64;

/// Rows that a choice gives which mean no key any more, at most, before it is given up.
const EMPTY_MAX: usize = 64;

/// Bytes of keys after which an entry evicts no more: it has to fit a frame between nodes.
const EVICTED_KEY_BYTES_MAX: usize = 1 << 20;

/// What a group reserves, and its policy while this node leads.
#[derive(Default)]
pub(super) struct Room {
    policy: Option<Chosen>,
    under_way: Vec<UnderWay>,
    leaving: Leaving,
}

struct Chosen {
    kind: Kind,
    samples: u8,
    term: u64,
    policy: Box<dyn Policy>,
}

struct UnderWay {
    flight: u64,
    growth: u64,
    /// Hashes of keys, and what the calls that write to them may add.
    grown: Vec<(u64, u64)>,
    rows: Vec<crate::state::eviction::Row>,
}

/// What is reserved for keys, by their hashes.
type Sums = HashMap<u64, u64>;

fn add(sums: &mut Sums, hash: u64, growth: u64) {
    let sum = sums.entry(hash).or_default();
    *sum = sum.saturating_add(growth);
}

fn sums_of<'a>(under_way: impl Iterator<Item = &'a UnderWay>) -> Sums {
    let mut sums = Sums::default();
    under_way.flat_map(|one| &one.grown).for_each(|(hash, growth)| add(&mut sums, *hash, *growth));
    sums
}

/// What may be proposed, and what goes before it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Admission {
    pub evictions: Vec<(Bytes, u64)>,
    /// Positions of the calls for which there is no room, in order.
    pub refused: Vec<usize>,
}

impl Room {
    /// Reserves room for the calls of a flight that the leader of `term` is about to propose. Every flight is given back
    /// with [`Room::release`] when it has landed, whatever became of it.
    pub fn reserve<'a>(
        &mut self,
        keyspace: &mut Keyspace,
        (term, flight, seed): (u64, u64, u64),
        calls: impl Iterator<Item = &'a Args>,
    ) -> Admission {
        self.follow(keyspace, term, seed);
        let limit = keyspace.limit().bytes;
        let mut admission = Admission::default();
        if limit == 0 {
            return admission;
        }
        let reserved: u64 = self.under_way.iter().map(|other| other.growth).sum();
        let mut left = i128::from(limit) - i128::from(keyspace.used_bytes()) - i128::from(reserved);
        let mut making = UnderWay { flight, growth: 0, grown: Vec::new(), rows: Vec::new() };
        let mut sums = None;
        let (mut freed, mut dry, mut calls) = (0u64, false, calls.enumerate().peekable());
        if calls.peek().is_none() && left < 0 {
            self.evict(keyspace, left.unsigned_abs() as u64, &mut making, &mut admission.evictions);
        }
        for (at, call) in calls {
            // What copies a value that is still growing copies what it will be.
            let mut under_way = |key: &[u8]| {
                let all = || sums_of(self.under_way.iter().chain([&making]));
                sums.get_or_insert_with(all).get(&xxh3_64(key)).copied().unwrap_or(0)
            };
            let Some(need) = commands::growth(call, keyspace, &mut under_way) else { continue };
            let missing = i128::from(need) - left;
            if missing > 0 && need <= limit && !dry {
                let more = self.evict(keyspace, missing as u64, &mut making, &mut admission.evictions);
                // Where nobody more may leave, looking for somebody again for each call would take long.
                dry = i128::from(more) < missing;
                freed += more;
                left += i128::from(more);
            }
            // Where a lowered limit asks for more than an entry can evict, one that shrinks the state is let in all the same.
            let fits = left >= i128::from(need) || freed >= making.growth + need || self.nobody_stays(keyspace);
            if need > limit || !fits {
                admission.refused.push(at);
                continue;
            }
            left -= i128::from(need);
            making.growth += need;
            commands::grown(call, |key| {
                let hash = xxh3_64(key);
                making.grown.push((hash, need));
                if let Some(sums) = &mut sums {
                    add(sums, hash, need);
                }
            });
        }
        if making.growth > 0 || !making.rows.is_empty() {
            self.under_way.push(making);
        }
        admission
    }

    /// A flight has landed: what it added is in the account by now, or never will be.
    pub fn release(&mut self, flight: u64) {
        let leaving = &mut self.leaving;
        self.under_way.retain(|one| {
            if one.flight == flight {
                for row in &one.rows {
                    leaving.remove(row);
                }
            }
            one.flight != flight
        });
    }

    /// Whether more is used than the limit allows, and somebody could leave.
    pub fn short(&self, keyspace: &Keyspace) -> bool {
        let limit = keyspace.limit();
        let anybody = match limit.policy {
            Kind::NoEviction => false,
            kind if kind.volatile() => keyspace.expires() > 0,
            _ => !keyspace.is_empty(),
        };
        limit.bytes > 0 && keyspace.used_bytes() > limit.bytes && anybody
    }

    /// Whether a policy is at work here.
    pub fn chooses(&self) -> bool {
        self.policy.is_some()
    }

    /// This node leads no longer: what it knew of accesses is forgotten, and nothing more is noted.
    pub fn forget(&mut self, keyspace: &mut Keyspace) {
        if self.policy.take().is_some() {
            keyspace.watch(None);
        }
    }

    /// Has the policy that the group's log says, begun in this term, and tells it what was added.
    fn follow(&mut self, keyspace: &mut Keyspace, term: u64, seed: u64) {
        let limit = keyspace.limit();
        let kind = if limit.bytes == 0 { Kind::NoEviction } else { limit.policy };
        let noted = !kind.marks() || keyspace.recency().is_some_and(|recency| recency.kind() == kind);
        let current = self
            .policy
            .as_ref()
            .is_some_and(|chosen| (chosen.kind, chosen.samples, chosen.term) == (kind, limit.samples, term) && noted);
        if !current {
            let policy = policy(kind, usize::from(limit.samples), seed);
            self.policy = Some(Chosen { kind, samples: limit.samples, term, policy });
            keyspace.watch(kind.marks().then(|| Recency::new(kind)));
        }
        let arrivals = keyspace.take_arrivals();
        let keys = Chooser::new(keyspace, &self.leaving);
        let chosen = self.policy.as_mut().expect("it was there or was just made");
        arrivals.iter().for_each(|row| chosen.policy.inserted(*row, &keys));
        chosen.policy.tend(arrivals.len(), &keys);
    }

    /// Chooses victims for `wanted` bytes, as far as there are any and an entry takes them; gives the bytes they will free.
    fn evict(
        &mut self,
        keyspace: &Keyspace,
        wanted: u64,
        making: &mut UnderWay,
        evictions: &mut Vec<(Bytes, u64)>,
    ) -> u64 {
        let Some(chosen) = &mut self.policy else { return 0 };
        let (mut freed, mut empty) = (0, 0);
        let mut key_bytes: usize = evictions.iter().map(|(key, _)| key.len()).sum();
        while (freed < wanted || chosen.policy.unfinished())
            && evictions.len() < MAX_EVICTIONS
            && key_bytes < EVICTED_KEY_BYTES_MAX
            && empty < EMPTY_MAX
        {
            let keys = Chooser::new(keyspace, &self.leaving);
            let Some(row) = chosen.policy.victim(&keys) else { break };
            assert!(keys.may_leave(row), "a policy asks who may leave");
            let Some((key, version, cost)) = keys.victim(row) else {
                empty += 1;
                continue;
            };
            key_bytes += key.len();
            evictions.push((Bytes::copy_from_slice(key), version));
            self.leaving.insert(row);
            making.rows.push(row);
            freed += cost;
        }
        freed
    }

    /// Whether the policy takes any key, and every key is on its way out.
    fn nobody_stays(&self, keyspace: &Keyspace) -> bool {
        let kind = keyspace.limit().policy;
        kind != Kind::NoEviction && !kind.volatile() && keyspace.len() <= self.leaving.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::{Batch, Front};
    use super::super::machine::run;
    use super::*;
    use crate::state::ENTRY_COST;
    use crate::state::eviction::Limit;
    use crate::types::Stamp;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    fn call(words: &[&str]) -> Args {
        words.iter().map(|word| Bytes::copy_from_slice(word.as_bytes())).collect()
    }

    /// A leader with as many flights under way as the proposer has, and a follower that applies the same bytes.
    struct Group {
        replicas: [Keyspace; 2],
        room: Room,
        leader: usize,
        term: u64,
        flights: u64,
        under_way: VecDeque<(u64, Batch)>,
        /// What chosen keys that were written meanwhile may take.
        missed: u64,
    }

    const WINDOW: usize = 2;

    impl Group {
        fn new(limit: Limit) -> Group {
            let replicas = [Keyspace::new(7), Keyspace::new(7)];
            let (room, under_way) = (Room::default(), VecDeque::new());
            let mut group = Group { replicas, room, leader: 0, term: 1, flights: 0, under_way, missed: 0 };
            group.set_limit(limit);
            group
        }

        fn used(&self) -> u64 {
            self.replicas[0].used_bytes()
        }

        fn set_limit(&mut self, limit: Limit) {
            self.land_all();
            self.push(Front { limit: Some(limit), ..Front::default() }, &[]);
            self.land_all();
        }

        fn push(&mut self, front: Front, calls: &[&Args]) {
            let stamp = Stamp { now_ms: 1_000 + self.flights, seed: self.flights };
            let batch = Batch::encode(stamp, &[], &front, calls.iter().copied());
            self.under_way.push_back((self.flights, batch));
        }

        /// Proposes as the proposer does; gives the positions that were refused.
        fn propose(&mut self, calls: &[Args]) -> Vec<usize> {
            while self.under_way.len() >= WINDOW {
                self.land();
            }
            self.flights += 1;
            let flight = (self.term, self.flights, self.flights);
            let admission = self.room.reserve(&mut self.replicas[self.leader], flight, calls.iter());
            assert!(admission.evictions.len() <= MAX_EVICTIONS);
            let admitted = calls.iter().enumerate().filter(|(at, _)| !admission.refused.contains(at));
            let admitted: Vec<&Args> = admitted.map(|(_, call)| call).collect();
            if !admitted.is_empty() || !admission.evictions.is_empty() {
                self.push(Front { evictions: admission.evictions, ..Front::default() }, &admitted);
            } else {
                self.room.release(self.flights);
            }
            admission.refused
        }

        fn land(&mut self) {
            let Some((flight, batch)) = self.under_way.pop_front() else { return };
            let (_, _, front, _) = batch.decode().unwrap();
            let before = self.replicas[0].evicted();
            for replica in &mut self.replicas {
                run(replica, &batch).unwrap();
            }
            let evicted = self.replicas[0].evicted() - before;
            self.missed = (front.evictions.len() as u64 - evicted) * (ENTRY_COST + 100);
            self.room.release(flight);
            assert_eq!(self.replicas[0].state_hash(), self.replicas[1].state_hash());
        }

        fn land_all(&mut self) {
            while !self.under_way.is_empty() {
                self.land();
            }
        }

        /// The other replica leads, and knows nothing of what was read; what was under way is applied by then.
        fn change_leader(&mut self) {
            self.land_all();
            self.room.forget(&mut self.replicas[self.leader]);
            self.leader = 1 - self.leader;
            self.room = Room::default();
            self.term += 1;
        }
    }

    fn limit(bytes: u64, policy: Kind) -> Limit {
        Limit { bytes, policy, samples: 5 }
    }

    fn set(n: u64, value: usize) -> Args {
        let (key, value) = (format!("{{tag{}}}:{n}", n % 50), "x".repeat(value));
        match n % 3 {
            0 => call(&["SET", &key, &value, "PX", "10000000"]),
            _ => call(&["SET", &key, &value]),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(6))]
        /// Replicas stay equal (asserted at each landing), and no more is used than the limit and what was missed.
        #[test]
        fn memory_stays_bounded_and_replicas_equal_under_every_policy(
            flights in prop::collection::vec((prop::collection::vec((0..400u64, 0..100usize), 1..20), 0..40u8), 20..50),
        ) {
            for policy in Kind::all() {
                let bytes = 20_000;
                let mut group = Group::new(limit(bytes, policy));
                for (writes, event) in &flights {
                    match event {
                        0 => group.change_leader(),
                        1 => group.set_limit(limit(bytes, Kind::AllkeysLru)),
                        2 => group.set_limit(limit(bytes, policy)),
                        _ => {}
                    }
                    let calls: Vec<Args> = writes.iter().map(|(n, value)| set(*n, *value)).collect();
                    let refused = group.propose(&calls);
                    if policy != Kind::NoEviction && !policy.volatile() {
                        prop_assert!(refused.is_empty(), "{}: something may always leave", policy.name());
                    }
                    group.land();
                    prop_assert!(group.used() <= bytes + group.missed, "{}: {}", policy.name(), group.used());
                }
                group.land_all();
                prop_assert!(group.used() <= bytes + group.missed);
            }
        }
    }

    #[test]
    fn a_lowered_limit_is_reached_in_bounded_steps() {
        for policy in Kind::all().filter(|policy| *policy != Kind::NoEviction && !policy.volatile()) {
            let mut group = Group::new(limit(10_000_000, policy));
            (0..200).for_each(|n| drop(group.propose(&(0..100).map(|i| set(n * 100 + i, 20)).collect::<Vec<_>>())));
            group.land_all();
            let full = group.used();
            group.set_limit(limit(full / 10, policy));
            assert!(group.room.short(&group.replicas[0]));
            let mut steps = 0;
            while group.room.short(&group.replicas[0]) {
                group.propose(&[]);
                group.land_all();
                steps += 1;
                assert!(steps < 20, "{}: {} of {}", policy.name(), group.used(), full / 10);
            }
            assert!(steps > 1, "{}: a step is bounded", policy.name());
            assert!(group.used() <= full / 10);
        }
    }

    #[test]
    fn where_nobody_may_leave_what_adds_is_refused_and_the_rest_goes_on() {
        for policy in [Kind::NoEviction, Kind::VolatileLru, Kind::VolatileTtl, Kind::VolatileRandom, Kind::VolatileLfu]
        {
            // Room for eight of these keys, and a little.
            let most = 8 * (ENTRY_COST + 3) + 10;
            let mut group = Group::new(limit(most, policy));
            let calls: Vec<Args> = (0..10).map(|n| call(&["SET", &format!("k{n}"), "v"])).collect();
            let refused = group.propose(&calls);
            group.land_all();
            assert!(!refused.is_empty() && group.used() <= most, "{}: {}", policy.name(), group.used());
            let (version, calls) = (group.replicas[0].version(), [call(&["SET", "k0", "again"]), call(&["DEL", "k0"])]);
            assert_eq!(group.propose(&calls), [0], "{}: deleting is allowed", policy.name());
            group.land_all();
            assert_eq!(group.replicas[0].version(), version + 1);
            assert_eq!(group.propose(&[call(&["SET", "k0", "fits"])]), [0; 0]);
        }
    }

    #[test]
    fn what_no_eviction_could_make_room_for_is_refused_and_evicts_nobody() {
        let mut group = Group::new(limit(100_000, Kind::S3Fifo));
        (0..50).for_each(|n| drop(group.propose(&[set(n, 50)])));
        group.land_all();
        let keys = group.replicas[0].len();
        assert_eq!(group.propose(&[call(&["SETRANGE", "k", "200000", "v"])]), [0]);
        assert_eq!(group.propose(&[call(&["SET", "k", &"x".repeat(100_000)])]), [0]);
        group.land_all();
        assert_eq!(group.replicas[0].len(), keys);
    }

    #[test]
    fn keys_of_one_tag_leave_together_and_those_without_a_deadline_stay() {
        let mut group = Group::new(limit(60_000, Kind::Session));
        (0..2_000).for_each(|n| drop(group.propose(&[call(&["SET", &format!("{{s{}}}:{}", n / 20, n % 20), "v"])])));
        group.land_all();
        let alive = |n: u64| (0..20).filter(|i| group.replicas[0].contains(format!("{{s{n}}}:{i}").as_bytes())).count();
        let halves = (0..99).filter(|n| alive(*n) != 0 && alive(*n) != 20).count();
        assert!(halves == 0, "{halves} sessions lost a part of their keys");
        assert!((0..99).any(|n| alive(n) == 0) && (0..99).any(|n| alive(n) == 20));

        let mut group = Group::new(limit(30_000, Kind::VolatileLru));
        (0..100).for_each(|n| drop(group.propose(&[call(&["SET", &format!("stays{n}"), "v"])])));
        (0..2_000).for_each(|n| drop(group.propose(&[call(&["SET", &format!("t{n}"), "v", "EX", "100000"])])));
        group.land_all();
        assert!((0..100).all(|n| group.replicas[0].contains(format!("stays{n}").as_bytes())));
        assert!(group.replicas[0].evicted() > 1_000);
    }

    #[test]
    fn what_is_read_often_outlives_what_is_not() {
        for policy in [Kind::S3Fifo, Kind::AllkeysLru, Kind::AllkeysLfu] {
            let mut group = Group::new(limit(100_000, policy));
            for n in 0..5_000u64 {
                group.propose(&[call(&["SET", &format!("n{n}"), "v"])]);
                let hot = format!("n{}", n % 20);
                let view = crate::state::View::new(&group.replicas[0], None);
                view.get(hot.as_bytes());
                view.get(hot.as_bytes());
            }
            group.land_all();
            let hot = (0..20).filter(|n| group.replicas[0].contains(format!("n{n}").as_bytes())).count();
            assert!(hot >= 18, "{}: {hot} of 20", policy.name());
        }
    }
}
