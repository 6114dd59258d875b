//! The checker against histories made by hand, and against a judge that is too simple to be wrong.

use super::RegisterCall::{Cas, CasDelete, Delete, Read, Write, WriteNew};
use super::*;
use std::time::Duration;

fn known(from: u64, to: u64, call: RegisterCall) -> Interval<RegisterCall> {
    Interval { call, from, to: Some(to) }
}

fn open(from: u64, call: RegisterCall) -> Interval<RegisterCall> {
    Interval { call, from, to: None }
}

fn judge(calls: &[Interval<RegisterCall>]) -> Judgement {
    check(&Register, calls, Instant::now() + Duration::from_secs(60))
}

fn passes(judgement: Judgement) -> bool {
    match judgement {
        Judgement::Linearizable => true,
        Judgement::Violation { .. } => false,
        Judgement::Unknown => panic!("a small history was not judged in a minute"),
    }
}

fn linearizable(calls: &[Interval<RegisterCall>]) -> bool {
    passes(judge(calls))
}

fn linearizable_with_evictions(calls: &[Interval<RegisterCall>]) -> bool {
    passes(check(&Evicting, calls, Instant::now() + Duration::from_secs(60)))
}

#[test]
fn concurrent_operations_may_come_in_either_order() {
    assert!(linearizable(&[]));
    assert!(linearizable(&[known(0, 10, Write(1)), known(1, 2, Read(None)), known(3, 4, Read(Some(1)))]));
    assert!(linearizable(&[known(0, 9, Write(1)), known(0, 9, Write(2)), known(10, 11, Read(Some(1)))]));
    assert!(linearizable(&[
        known(0, 1, Write(1)),
        known(2, 5, Cas { old: 1, new: 2, done: Some(true) }),
        known(3, 6, Read(Some(1)))
    ]));
}

#[test]
fn a_stale_read_is_found_and_named() {
    let calls = [known(0, 1, Write(1)), known(2, 3, Write(2)), known(4, 5, Read(Some(1)))];
    assert_eq!(judge(&calls), Judgement::Violation { order: vec![0, 1], stuck: vec![2] });
}

#[test]
fn a_lost_update_is_found() {
    // Acknowledged, and then it never was.
    assert!(!linearizable(&[known(0, 1, Write(1)), known(2, 3, Read(None))]));
    // Two swaps from the same value cannot both have succeeded.
    let swap = |new| Cas { old: 1, new, done: Some(true) };
    assert!(!linearizable(&[known(0, 1, Write(1)), known(2, 9, swap(2)), known(2, 9, swap(3))]));
}

#[test]
fn two_leaders_at_once_are_found() {
    // One side writes 2 while the other goes on reading 1 after 2 was acknowledged.
    let calls = [
        known(0, 1, Write(1)),
        known(2, 4, Write(2)),
        known(2, 3, Read(Some(1))),
        known(5, 6, Read(Some(2))),
        known(5, 7, Read(Some(1))),
    ];
    assert!(!linearizable(&calls));
    assert!(linearizable(&calls[..4]));
}

#[test]
fn an_unknown_write_happens_once_or_never() {
    let first = [known(0, 1, Write(1)), open(2, Write(2)), known(3, 4, Read(Some(1)))];
    assert!(linearizable(&first), "it never happened, or later");
    let mut calls = first.to_vec();
    calls.push(known(5, 6, Read(Some(2))));
    assert!(linearizable(&calls), "it happened between the reads");
    calls.push(known(7, 8, Write(3)));
    calls.push(known(9, 10, Read(Some(2))));
    assert!(!linearizable(&calls), "it was applied a second time, over what came later");
    assert!(!linearizable(&[known(0, 1, Read(Some(2))), open(2, Write(2))]), "nor before it was asked for");
}

#[test]
fn an_unknown_swap_or_delete_may_explain_what_is_seen() {
    let swap = open(2, Cas { old: 1, new: 2, done: None });
    assert!(linearizable(&[known(0, 1, Write(1)), swap.clone(), known(3, 4, Read(Some(2)))]));
    assert!(!linearizable(&[known(0, 1, Write(3)), swap, known(3, 4, Read(Some(2)))]));
    assert!(linearizable(&[known(0, 1, Write(1)), open(2, Delete(None)), known(3, 4, Read(None))]));
    assert!(!linearizable(&[
        known(0, 1, Write(1)),
        open(2, CasDelete { old: 2, done: None }),
        known(3, 4, Read(None))
    ]));
}

#[test]
fn an_eviction_deletes_and_brings_nothing_back() {
    let seen = |from, value| known(from, from + 1, Read(value));
    let evicted = [known(0, 1, Write(1)), seen(2, Some(1)), seen(4, None)];
    assert!(!linearizable(&evicted));
    assert!(linearizable_with_evictions(&evicted));
    let then = |more: &[Interval<RegisterCall>]| linearizable_with_evictions(&[&evicted, more].concat());
    assert!(!then(&[seen(6, Some(1))]), "it came back");
    assert!(then(&[known(6, 9, Write(1)), seen(7, Some(1)), seen(10, Some(1))]), "somebody wrote it anew");
    assert!(then(&[open(3, Write(1)), seen(6, Some(1))]), "and so may a write that nobody knows the end of");
    assert!(then(&[open(6, Write(2)), seen(7, None), seen(9, Some(2)), seen(11, None)]));
    assert!(!then(&[open(6, Write(2)), seen(9, Some(2)), seen(11, None), seen(13, Some(2))]), "it happens once");
    // What was overwritten is as gone as what was evicted.
    assert!(!linearizable_with_evictions(&[known(0, 1, Write(1)), known(2, 3, Write(2)), seen(4, Some(1))]));
    // Who finds something, or nothing, found it.
    let new = |from, done| known(from, from + 1, WriteNew { new: 2, done: Some(done) });
    assert!(then(&[new(6, true), new(8, false), seen(10, Some(2))]));
    assert!(!then(&[new(6, false)]), "nobody wrote since it was seen gone");
    assert!(linearizable_with_evictions(&[known(0, 1, Write(1)), new(2, true), known(4, 5, Delete(Some(false)))]));
    assert!(!then(&[known(6, 7, Delete(Some(true)))]));
    // It met what was there until it was evicted, or what came after that.
    let late = [known(0, 1, Write(1)), open(2, WriteNew { new: 2, done: None })];
    for value in [Some(1), Some(2), None] {
        assert!(linearizable_with_evictions(&[&late[..], &[seen(3, value)]].concat()), "{value:?}");
    }
}

#[test]
fn a_search_that_is_out_of_time_says_so() {
    // Many open writes and a read that nothing explains: every subset of them is tried.
    let mut calls: Vec<_> = (0..40).map(|i| open(0, Write(i))).collect();
    calls.extend((0..40).map(|i| known(i + 1, i + 1, Read(Some(i)))));
    calls.push(known(100, 101, Read(Some(99))));
    assert_eq!(check(&Register, &calls, Instant::now()), Judgement::Unknown);
}

/// Every order of every subset that holds all calls with a known end; with evictions, each with and without one before it.
fn brute_force(calls: &[Interval<RegisterCall>], evictions: bool, state: Option<u64>, left: &mut Vec<usize>) -> bool {
    if left.iter().all(|i| calls[*i].to.is_none()) {
        return true;
    }
    let states = if evictions && state.is_some() { vec![state, None] } else { vec![state] };
    (0..left.len()).any(|place| {
        let one = left[place];
        let may_be_next = left.iter().all(|other| calls[*other].to.is_none_or(|to| calls[one].from <= to));
        states.iter().any(|state| {
            let Some(next) = Register.step(state, &calls[one].call).filter(|_| may_be_next) else { return false };
            left.remove(place);
            let found = brute_force(calls, evictions, next, left);
            left.insert(place, one);
            found
        })
    })
}

fn any_call(rng: &mut fastrand::Rng, is_open: bool) -> RegisterCall {
    let (value, other) = (rng.u64(1..4), rng.u64(1..4));
    let done = (!is_open).then(|| rng.bool());
    match rng.u8(0..if is_open { 5 } else { 8 }) {
        0 => Write(value),
        1 => Cas { old: value, new: other, done },
        2 => WriteNew { new: value, done },
        3 => CasDelete { old: value, done },
        4 => Delete(done),
        5 => Read(None),
        _ => Read(Some(value)),
    }
}

#[test]
fn it_agrees_with_every_permutation_of_small_histories() {
    let mut verdicts = [0u32; 3];
    for seed in 0..40_000 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let calls: Vec<_> = (0..rng.usize(1..7))
            .map(|_| {
                let (from, is_open) = (rng.u64(0..12), rng.u8(0..5) == 0);
                let call = any_call(&mut rng, is_open);
                Interval { call, from, to: (!is_open).then(|| from + rng.u64(0..6)) }
            })
            .collect();
        let permuted = |evictions| brute_force(&calls, evictions, None, &mut (0..calls.len()).collect());
        let expected = [permuted(false), permuted(true)];
        assert_eq!([linearizable(&calls), linearizable_with_evictions(&calls)], expected, "seed {seed}: {calls:?}");
        assert!(expected[1] || !expected[0], "nothing needs to be evicted: seed {seed}: {calls:?}");
        verdicts[expected.iter().filter(|passed| **passed).count()] += 1;
    }
    assert!(verdicts.iter().all(|n| *n > 1000), "all verdicts are met often enough to mean something: {verdicts:?}");
}
