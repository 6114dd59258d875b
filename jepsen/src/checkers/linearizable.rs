//! Linearizability of one object: is there an order of the operations that respects real time and the object's rules?
//!
//! The search is that of Wing and Gong (1993) with Lowe's memoization (2017): take any operation that began before every
//! operation that is left had ended, apply it to the model, go on; a pair of (operations taken, state) that was met once
//! is never tried again. An operation whose end is unknown may be taken at any time from its beginning on, or never, so it
//! is open to the right and the search is over once all operations with a known end are taken.
//!
//! Linearizability is local (Herlihy and Wing 1990): objects that share nothing are judged alone. Callers split a history
//! by key and keep the parts short, since every open operation can double the work. A search that exceeds its budget has
//! shown nothing, and counts as a failure.

use std::collections::HashSet;
use std::hash::Hash;
use std::time::Instant;

/// The rules of an object.
pub trait Model {
    type State: Clone + Eq + Hash;
    type Call;

    fn initial(&self) -> Self::State;

    /// The state after a call, or none if the call cannot have ended as it did in this state. A call whose end is unknown
    /// names no result and is possible in every state.
    fn step(&self, state: &Self::State, call: &Self::Call) -> Option<Self::State>;
}

/// A call with the interval in which it took effect. Equal times count as overlapping.
#[derive(Debug, Clone)]
pub struct Interval<C> {
    pub call: C,
    pub from: u64,
    /// None if its end is unknown: then it may also never have happened.
    pub to: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    Linearizable,
    /// No order exists. `order` is the longest that was found, `stuck` what could not follow it: places in the input.
    Violation {
        order: Vec<usize>,
        stuck: Vec<usize>,
    },
    /// The budget was used up.
    Unknown,
}

/// Which operations have been taken.
type Taken = Vec<u64>;

struct Search<'a, M: Model> {
    model: &'a M,
    calls: &'a [Interval<M::Call>],
    /// Places in the input by beginning.
    sorted: Vec<usize>,
    taken: Taken,
    /// The first in `sorted` that has not been taken.
    first: usize,
    /// Operations with a known end that are left.
    left: usize,
}

/// A choice on the way down: what could be taken next, and what was.
struct Level<S> {
    state: S,
    candidates: Vec<usize>,
    next: usize,
    /// What led here, as a place in `sorted`.
    came_by: Option<usize>,
    /// `first` before that.
    first: usize,
}

impl<'a, M: Model> Search<'a, M> {
    fn new(model: &'a M, calls: &'a [Interval<M::Call>]) -> Self {
        let mut sorted: Vec<usize> = (0..calls.len()).collect();
        sorted.sort_by_key(|i| calls[*i].from);
        let left = calls.iter().filter(|c| c.to.is_some()).count();
        Search { model, calls, taken: vec![0; calls.len().div_ceil(64)], sorted, first: 0, left }
    }

    fn is_taken(&self, at: usize) -> bool {
        self.taken[at / 64] >> (at % 64) & 1 == 1
    }

    fn call(&self, at: usize) -> &Interval<M::Call> {
        &self.calls[self.sorted[at]]
    }

    /// What began before everything that is left had ended. Those with a known end first: they must be taken anyway.
    fn candidates(&self) -> Vec<usize> {
        let (mut known, mut open) = (Vec::new(), Vec::new());
        let mut earliest_end = u64::MAX;
        for at in (self.first..self.sorted.len()).filter(|at| !self.is_taken(*at)) {
            let call = self.call(at);
            if call.from > earliest_end {
                break;
            }
            match call.to {
                Some(to) => {
                    earliest_end = earliest_end.min(to);
                    known.push(at);
                }
                None => open.push(at),
            }
        }
        known.extend(open);
        known
    }

    fn flip(&mut self, at: usize) {
        self.taken[at / 64] ^= 1 << (at % 64);
    }

    fn take(&mut self, at: usize) {
        self.flip(at);
        self.left -= usize::from(self.call(at).to.is_some());
        while self.first < self.sorted.len() && self.is_taken(self.first) {
            self.first += 1;
        }
    }

    fn give_back(&mut self, at: usize, first: usize) {
        self.flip(at);
        self.left += usize::from(self.call(at).to.is_some());
        self.first = first;
    }

    fn run(mut self, deadline: Instant) -> Judgement {
        let mut seen: HashSet<(Taken, M::State)> = HashSet::new();
        let initial = self.model.initial();
        let mut path = vec![Level { state: initial, candidates: self.candidates(), next: 0, came_by: None, first: 0 }];
        let (mut longest, mut stuck): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
        let mut fewest_left = usize::MAX;
        let mut steps = 0u64;
        while self.left > 0 {
            steps += 1;
            if steps.is_multiple_of(1024) && Instant::now() > deadline {
                return Judgement::Unknown;
            }
            let Some(level) = path.last_mut() else {
                return Judgement::Violation { order: longest, stuck };
            };
            let Some(at) = level.candidates.get(level.next).copied() else {
                let (came_by, first) = (level.came_by, level.first);
                path.pop();
                if let Some(at) = came_by {
                    self.give_back(at, first);
                }
                continue;
            };
            level.next += 1;
            let known_end = self.calls[self.sorted[at]].to.is_some();
            let Some(state) = self.model.step(&level.state, &self.calls[self.sorted[at]].call) else { continue };
            if !known_end && state == level.state {
                // It changes nothing: as good as never having happened.
                continue;
            }
            let first = self.first;
            self.take(at);
            if !seen.insert((self.taken.clone(), state.clone())) {
                self.give_back(at, first);
                continue;
            }
            let candidates = self.candidates();
            path.push(Level { state, candidates, next: 0, came_by: Some(at), first });
            if self.left < fewest_left {
                fewest_left = self.left;
                longest = path.iter().filter_map(|l| l.came_by).map(|at| self.sorted[at]).collect();
                stuck = path.last().map_or(&[][..], |l| &l.candidates).iter().map(|at| self.sorted[*at]).collect();
            }
        }
        Judgement::Linearizable
    }
}

/// Judges the calls on one object.
pub fn check<M: Model>(model: &M, calls: &[Interval<M::Call>], deadline: Instant) -> Judgement {
    let search = Search::new(model, calls);
    let at_first: Vec<usize> = search.candidates().iter().map(|at| search.sorted[*at]).collect();
    match search.run(deadline) {
        // Not even one could be taken: then all that could have come first are what is wrong.
        Judgement::Violation { order, .. } if order.is_empty() => Judgement::Violation { order, stuck: at_first },
        other => other,
    }
}

/// A string under one key, as far as the workloads go: what it holds, or nothing.
pub struct Register;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegisterCall {
    /// A read and what it saw.
    Read(Option<u64>),
    Write(u64),
    /// Writes only where nothing is; `done` if known.
    WriteNew {
        new: u64,
        done: Option<bool>,
    },
    /// Compare and set; `done` if known.
    Cas {
        old: u64,
        new: u64,
        done: Option<bool>,
    },
    /// Deletes only what is expected; `done` if known.
    CasDelete {
        old: u64,
        done: Option<bool>,
    },
    /// Deletes; whether there was something, if known.
    Delete(Option<bool>),
}

impl Model for Register {
    type State = Option<u64>;
    type Call = RegisterCall;

    fn initial(&self) -> Option<u64> {
        None
    }

    fn step(&self, state: &Option<u64>, call: &RegisterCall) -> Option<Option<u64>> {
        let if_done = |happens: bool, done: &Option<bool>, new: Option<u64>| {
            (done.is_none() || *done == Some(happens)).then_some(if happens { new } else { *state })
        };
        match call {
            RegisterCall::Read(seen) => (seen == state).then_some(*state),
            RegisterCall::Write(new) => Some(Some(*new)),
            RegisterCall::WriteNew { new, done } => if_done(state.is_none(), done, Some(*new)),
            RegisterCall::Cas { old, new, done } => if_done(*state == Some(*old), done, Some(*new)),
            RegisterCall::CasDelete { old, done } => if_done(*state == Some(*old), done, None),
            RegisterCall::Delete(done) => if_done(state.is_some(), done, None),
        }
    }
}

/// The same string where memory is bounded: at any moment it may be evicted. So nothing stands in the way of a call that
/// ended as it does where nothing is, but what is gone comes back by a write only.
///
/// Evictions need not be tried one by one, nor kept in a list of their own: what holds something can become what holds
/// nothing later on, so it is given up only where a call needs that.
pub struct Evicting;

impl Model for Evicting {
    type State = Option<u64>;
    type Call = RegisterCall;

    fn initial(&self) -> Option<u64> {
        None
    }

    fn step(&self, state: &Option<u64>, call: &RegisterCall) -> Option<Option<u64>> {
        match call {
            // If it happened and met something, it was as good as never having happened. What is left to be tried is that it
            // came after an eviction.
            RegisterCall::WriteNew { new, done: None } => Some(Some(*new)),
            _ => Register.step(state, call).or_else(|| Register.step(&None, call)),
        }
    }
}

#[cfg(test)]
#[path = "linearizable_tests.rs"]
mod tests;
