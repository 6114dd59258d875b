//! Every judge against a history that breaks its promise, made by hand: a judge is trusted only after it has found something.
//! And against one that keeps it, with unknown outcomes that explain what is seen.

use super::*;
use crate::outcome::Outcome;
use crate::resp::Reply;

const MS: u64 = 1000;

/// An operation by node 1; times in milliseconds.
fn op(from: u64, to: u64, line: &str, outcome: Outcome) -> Op {
    let words = line.split(' ').map(str::to_owned).collect();
    Op { process: from as usize, node: 1, words, from: from * MS, to: to * MS, outcome }
}

fn text(value: &str) -> Outcome {
    Outcome::Ok(Reply::Text(value.to_owned()))
}

fn int(n: i64) -> Outcome {
    Outcome::Ok(Reply::Int(n))
}

fn nil() -> Outcome {
    Outcome::Ok(Reply::Nil)
}

fn open() -> Outcome {
    Outcome::Open("no answer in time".to_owned())
}

fn failed() -> Outcome {
    Outcome::Failed("CLUSTERDOWN".to_owned())
}

fn values(all: &[&str]) -> Outcome {
    Outcome::Ok(Reply::Array(all.iter().map(|v| Reply::Text((*v).to_owned())).collect()))
}

fn list(all: &[&str]) -> Reply {
    Reply::Array(all.iter().map(|v| Reply::Text((*v).to_owned())).collect())
}

fn all_of(replies: Vec<Reply>) -> Outcome {
    Outcome::Ok(Reply::Array(replies))
}

/// The kinds of anomalies that a workload's judge finds.
fn kinds(workload: &str, ops: Vec<Op>) -> Vec<String> {
    let workload = all().into_iter().find(|w| w.name() == workload).expect("the workload exists");
    let verdict = workload.check(&History { ops, ..History::default() }, Duration::from_secs(10));
    assert_eq!(verdict.undecided, [""; 0]);
    verdict.anomalies.into_iter().map(|a| a.kind).collect()
}

#[test]
fn register_finds_a_stale_lease_read() {
    let mut ops = vec![
        op(0, 1, "SET r 1", text("OK")),
        op(2, 3, "SET r 2 IFEQ 1", text("OK")),
        op(4, 5, "SET r 3 IFEQ 1", nil()),
        op(6, 9, "DELIFEQ r 2", open()),
        op(7, 8, "HC.READ lease GET r", text("2")),
        op(10, 11, "GET r", nil()),
        op(12, 13, "SET r 9", failed()),
    ];
    assert_eq!(kinds("register", ops.clone()), [""; 0]);
    ops.push(op(14, 15, "HC.READ lease GET r", text("1")));
    assert_eq!(kinds("register", ops), ["not linearizable"]);
}

#[test]
fn register_does_not_accept_any_reply() {
    assert_eq!(kinds("register", vec![op(0, 1, "SET r 1", nil())]), ["unexpected reply"]);
    assert_eq!(kinds("register", vec![op(0, 1, "DEL r", int(2))]), ["unexpected reply"]);
    assert_eq!(kinds("register", vec![op(0, 1, "GET r", text("x"))]), ["unexpected reply"]);
}

#[test]
fn append_finds_a_lost_element_and_a_fork() {
    let mut ops = vec![
        op(0, 1, "RPUSH {f}0 a", int(2)),
        op(0, 9, "RPUSH {f}1 b", open()),
        op(
            2,
            3,
            "MULTI ; LRANGE {f}0 0 -1 ; RPUSH {f}2 c ; LRANGE {f}1 0 -1 ; EXEC",
            all_of(vec![list(&["a"]), Reply::Int(1), list(&[])]),
        ),
        op(4, 5, "LRANGE {f}1 0 -1", values(&["b"])),
        op(4, 5, "LRANGE {f}2 0 -1", values(&["c"])),
        op(5, 6, "MULTI ; RPUSH {f}0 d ; EXEC", failed()),
    ];
    assert_eq!(kinds("append", ops.clone()), [""; 0]);
    ops.push(op(6, 7, "LRANGE {f}0 0 -1", values(&[])));
    assert!(kinds("append", ops).contains(&"stale read".to_owned()));
}

#[test]
fn set_finds_what_is_lost_doubled_or_invented() {
    let added = [op(0, 1, "SADD s 1.1", int(1)), op(2, 3, "SADD s 1.2", open()), op(4, 5, "SADD s 1.3", failed())];
    let with = |read: &[&str]| {
        let mut ops = added.to_vec();
        ops.push(op(10, 11, "SMEMBERS s", values(read)));
        kinds("set", ops)
    };
    assert_eq!(with(&["1.1"]), [""; 0]);
    assert_eq!(with(&["1.1", "1.2"]), [""; 0]);
    assert_eq!(with(&["1.2"]), ["lost"]);
    assert_eq!(with(&["1.1", "1.1"]), ["duplicate"]);
    assert_eq!(with(&["1.1", "1.3"]), ["from nowhere"]);
    assert_eq!(with(&["1.1", "7.7"]), ["from nowhere"]);
    assert_eq!(kinds("set", vec![op(0, 1, "SADD s 1.1", int(0))]), ["duplicate"]);
}

#[test]
fn counter_finds_increments_that_are_lost_or_made_twice() {
    let base = [op(0, 1, "INCR c", int(1)), op(2, 9, "INCR c", open()), op(3, 4, "GET c", text("1"))];
    let with = |more: Op| kinds("counter", base.iter().cloned().chain([more]).collect());
    assert_eq!(with(op(5, 6, "INCR c", int(3))), [""; 0]);
    assert_eq!(with(op(5, 6, "INCR c", int(2))), [""; 0]);
    assert!(with(op(5, 6, "INCR c", int(1))).contains(&"lost update".to_owned()));
    assert!(with(op(5, 6, "INCR c", int(4))).contains(&"out of bounds".to_owned()), "the open one was made twice");
    assert!(with(op(5, 6, "GET c", nil())).contains(&"went back".to_owned()));
    assert_eq!(with(op(5, 6, "GET c", text("x"))), ["unexpected reply"]);
}

#[test]
fn mset_finds_a_torn_write() {
    let write = op(0, 1, "MSET {m}a 1 {m}b 1 {m}c 1 {m}d 1", text("OK"));
    let read = |seen: &[&str]| kinds("mset", vec![write.clone(), op(2, 3, "MGET {m}a {m}b {m}c {m}d", values(seen))]);
    assert_eq!(read(&["1", "1", "1", "1"]), [""; 0]);
    assert_eq!(read(&["1", "1", "1", "0"]), ["torn write"]);
    assert_eq!(read(&["2", "2", "2", "2"]), ["not linearizable"]);
}

#[test]
fn ttl_finds_what_goes_early_or_comes_back() {
    let set = op(0, 4, "SET t 1 PX 1000", text("OK"));
    let with = |reads: Vec<Op>| kinds("ttl", [set.clone()].into_iter().chain(reads).collect());
    assert_eq!(
        with(vec![op(5, 6, "GET t", text("1")), op(998, 999, "GET t", nil()), op(1100, 1101, "GET t", nil())]),
        [""; 0]
    );
    assert_eq!(with(vec![op(900, 901, "GET t", nil())]), ["early"]);
    assert_eq!(
        with(vec![op(1005, 1006, "GET t", nil()), op(1007, 1008, "HC.READ lease GET t", text("1"))]),
        ["resurrection"]
    );
    assert_eq!(with(vec![op(3500, 3501, "GET t", text("1"))]), ["forgotten"]);
    // A SET without an answer may come late, but what was seen to live and die stays dead.
    let late = |reads: Vec<Op>| kinds("ttl", [op(0, 4, "SET t 1 PX 1000", open())].into_iter().chain(reads).collect());
    let seen = vec![op(10, 11, "GET t", nil()), op(20, 21, "GET t", text("1")), op(1500, 1501, "GET t", nil())];
    assert_eq!(late(seen.clone()), [""; 0]);
    assert_eq!(late(seen.into_iter().chain([op(1600, 1601, "GET t", text("1"))]).collect()), ["resurrection"]);
}

#[test]
fn levels_judges_each_level_by_its_own_promise() {
    let base = [
        op(0, 1, "SET l 1 NX", text("OK")),
        op(1000, 1001, "SET l 2 IFEQ 1", text("OK")),
        op(1500, 9000, "SET l 3 IFEQ 2", open()),
        op(1600, 1601, "HC.READ eventual GET l", text("2")),
    ];
    let with = |line: &str, seen: &str| {
        kinds("levels", base.iter().cloned().chain([op(2000, 2001, line, text(seen))]).collect())
    };
    for line in ["GET l", "HC.READ lease GET l", "HC.READ linearizable GET l", "HC.READ bounded 700 GET l"] {
        assert_eq!(with(line, "2"), [""; 0]);
        assert_eq!(with(line, "3"), [""; 0]);
        assert_eq!(with(line, "1"), ["stale read"], "{line}");
        assert_eq!(with(line, "4"), ["from nowhere"], "{line}");
    }
    assert_eq!(with("HC.READ eventual GET l", "1"), ["stale read"], "it went back on one node");
    let elsewhere = Op { node: 2, ..op(2000, 2001, "HC.READ eventual GET l", text("1")) };
    assert_eq!(
        kinds("levels", base.iter().cloned().chain([elsewhere]).collect()),
        [""; 0],
        "another replica may be behind"
    );
    // Within its bound a bounded read may be old.
    let soon = op(1100, 1101, "HC.READ bounded 700 GET l", text("1"));
    assert_eq!(kinds("levels", base[..2].iter().cloned().chain([soon]).collect()), [""; 0]);
}

#[test]
fn lock_finds_a_second_holder_and_a_lock_that_vanished() {
    let taken = op(0, 10, "SET k a NX PX 3000", text("OK"));
    let with = |more: Vec<Op>| kinds("lock", [taken.clone()].into_iter().chain(more).collect());
    let other = |from| op(from, from + 10, "SET k b NX PX 3000", text("OK"));
    assert_eq!(with(vec![op(20, 30, "GET k", text("a")), other(3100)]), [""; 0]);
    assert_eq!(with(vec![other(100)]), ["two holders"]);
    assert_eq!(with(vec![op(50, 60, "DELIFEQ k a", open()), other(100)]), [""; 0], "it may have been given back");
    assert_eq!(with(vec![op(100, 110, "GET k", nil())]), ["lock lost"]);
    assert_eq!(with(vec![op(100, 110, "GET k", text("b"))]), ["lock lost"]);
    assert_eq!(with(vec![op(100, 110, "DELIFEQ k a", int(0))]), ["lock lost"]);
    assert_eq!(with(vec![op(3100, 3110, "DELIFEQ k a", int(0))]), [""; 0]);
}

#[test]
fn bank_finds_a_transfer_that_was_torn() {
    let moved = op(0, 1, "MULTI ; DECRBY {b}0 7 ; INCRBY {b}1 7 ; EXEC", all_of(vec![Reply::Int(-7), Reply::Int(7)]));
    let with = |seen: [&str; 2]| {
        let balances =
            Reply::Array(seen.iter().map(|v| Reply::Text((*v).to_owned())).chain(vec![Reply::Nil; 3]).collect());
        let read = op(2, 3, "MGET {b}0 {b}1 {b}2 {b}3 {b}4", Outcome::Ok(balances.clone()));
        let inside = op(
            4,
            5,
            "MULTI ; DECRBY {b}0 1 ; INCRBY {b}1 1 ; MGET {b}0 {b}1 {b}2 {b}3 {b}4 ; EXEC",
            all_of(vec![Reply::Int(0), Reply::Int(0), balances]),
        );
        kinds("bank", vec![moved.clone(), read, inside])
    };
    assert_eq!(with(["-7", "7"]), [""; 0]);
    assert_eq!(with(["-7", "0"]), ["wrong sum", "wrong sum"]);
    assert_eq!(
        kinds("bank", vec![op(0, 1, "MULTI ; DECRBY {b}0 7 ; INCRBY {b}1 7 ; EXEC", nil())]),
        ["unexpected reply"]
    );
}

#[test]
fn queue_finds_jobs_that_are_lost_doubled_or_out_of_order() {
    let pushed = [op(0, 1, "RPUSH q a", int(1)), op(2, 3, "RPUSH q b", int(2)), op(4, 5, "RPUSH q c", failed())];
    let with = |more: Vec<Op>| kinds("queue", pushed.iter().cloned().chain(more).collect());
    let popped = |from, job: &str| op(from, from + 1, "BLPOP q 0.3", values(&["q", job]));
    let left = |jobs: &[&str]| op(90, 91, "LRANGE q 0 -1", values(jobs));
    assert_eq!(with(vec![popped(10, "a"), op(12, 13, "LPOP q", text("b")), left(&[])]), [""; 0]);
    assert_eq!(with(vec![popped(10, "a"), left(&[])]), ["lost"]);
    assert_eq!(with(vec![popped(10, "a"), op(12, 80, "BLPOP q 0.3", open()), left(&[])]), [""; 0]);
    assert_eq!(with(vec![popped(10, "a"), popped(12, "a"), left(&["b"])]), ["popped twice"]);
    assert_eq!(with(vec![popped(10, "b"), popped(12, "a"), left(&[])]), ["out of order"]);
    assert_eq!(with(vec![popped(10, "a"), left(&["a", "b"])]), ["came back"]);
    assert_eq!(with(vec![popped(10, "c"), left(&["a", "b"])]), ["from nowhere"]);
    assert_eq!(with(vec![op(10, 11, "BLPOP q 0.3", values(&["p", "a"])), left(&["a", "b"])]), ["unexpected reply"]);
}

#[test]
fn watch_finds_a_transaction_that_overlooked_a_write() {
    let begun = |from, seen: Outcome| Op { process: 1, ..op(from, from + 1, "UNWATCH ; WATCH w ; GET w", seen) };
    let exec = |from, value: &str, end: Outcome| Op {
        process: 1,
        ..op(from, from + 1, &format!("MULTI ; SET w {value} ; EXEC"), end)
    };
    let done = || all_of(vec![Reply::Text("OK".to_owned())]);
    let first = [begun(0, nil()), exec(2, "1", done()), begun(4, text("1")), op(6, 7, "SET w 5", text("OK"))];
    let with = |more: Vec<Op>| kinds("watch", first.iter().cloned().chain(more).collect());
    assert_eq!(with(vec![exec(8, "2", nil()), op(10, 11, "GET w", text("5"))]), [""; 0]);
    assert_eq!(with(vec![exec(8, "2", done())]), ["not linearizable"]);
    assert_eq!(with(vec![exec(8, "2", open()), op(20, 21, "GET w", text("2"))]), ["not linearizable"]);
}

/// The judge's words on a history of `eviction`, in which `#7` stands for the value that is number seven.
fn evicted(history: &[Op]) -> Verdict {
    let long = |word: &str| {
        let number = word.strip_prefix('#').and_then(|number| number.parse().ok());
        number.map_or(word.to_owned(), eviction::value)
    };
    let padded = |op: &Op| Op {
        words: op.words.iter().map(|word| long(word)).collect(),
        outcome: op.reply().and_then(Reply::text).map_or(op.outcome.clone(), |seen| text(&long(seen))),
        ..op.clone()
    };
    let workload = eviction::EvictionWorkload;
    workload
        .check(&History { ops: history.iter().map(padded).collect(), ..History::default() }, Duration::from_secs(10))
}

#[test]
fn eviction_finds_what_came_back_what_is_stale_and_what_was_refused() {
    let set = |from, value: &str, end| op(from, from + 1, &format!("SET cold:0:1 {value} EX 86400"), end);
    let get = |from, seen| op(from, from + 1, "GET cold:0:1", seen);
    let first = [set(0, "#1", text("OK")), get(2, text("#1"))];
    let with = |more: &[Op]| {
        let anomalies = evicted(&[&first, more].concat()).anomalies;
        anomalies.into_iter().map(|a| a.kind).collect::<Vec<_>>()
    };
    assert_eq!(with(&[get(4, nil()), get(6, nil())]), [""; 0], "it may go");
    assert_eq!(with(&[get(4, nil()), get(6, text("#1"))]), ["not linearizable"], "but not come back");
    let again = |end| [get(4, nil()), set(6, "#1", end), get(8, text("#1"))];
    assert_eq!(with(&again(text("OK"))), [""; 0]);
    assert_eq!(with(&again(open())), [""; 0]);
    let refused = Outcome::Failed("OOM command not allowed when used memory > 'maxmemory'.".to_owned());
    assert_eq!(with(&again(refused.clone())), ["not linearizable"], "refused is refused");
    let new = op(6, 7, "SET cold:0:1 #2 NX EX 86400", text("OK"));
    assert_eq!(with(&[new.clone(), get(8, text("#2")), get(10, nil())]), [""; 0], "a new one found nothing any more");
    assert_eq!(with(&[new, get(8, text("#1"))]), ["not linearizable"], "stale");
    assert_eq!(with(&[get(4, text("2"))]), ["unexpected reply"], "a part of a value");

    let large = |end| op(4, 5, "MULTI ; SETRANGE cold:0:1 1048575 x ; EXPIRE cold:0:1 86400 ; EXEC", end);
    let seen = get(6, text(&"\0".repeat(1 << 20)));
    assert_eq!(with(&[large(refused), get(6, text("#1"))]), [""; 0]);
    assert_eq!(with(&[large(all_of(vec![Reply::Int(1 << 20), Reply::Int(1)])), seen.clone()]), [""; 0]);
    assert_eq!(with(&[large(failed()), seen]), ["not linearizable"]);
}

#[test]
fn eviction_finds_a_key_that_left_although_it_may_not() {
    let kept = |from, line: &str, end| op(from, from + 1, line, end);
    let set = kept(0, "SET kept:3 #1", text("OK"));
    let kinds = |last: Op| evicted(&[set.clone(), last]).anomalies.into_iter().map(|a| a.kind).collect::<Vec<_>>();
    assert_eq!(kinds(kept(2, "GET kept:3", text("#1"))), [""; 0]);
    assert_eq!(kinds(kept(2, "GET kept:3", nil())), ["not linearizable"]);
    assert_eq!(kinds(kept(2, "DEL kept:3", int(0))), ["not linearizable"]);
}

#[test]
fn eviction_finds_memory_without_a_bound_and_wants_to_have_seen_evictions() {
    let told = |from, used: u64, max: u64, gone: u64| {
        let info =
            format!("# Memory\r\nused_memory:{used}\r\nmaxmemory:{max}\r\n\r\n# Stats\r\nevicted_keys:{gone}\r\n");
        op(from, from + 1, "INFO memory stats", text(&info))
    };
    let judged = |told: &[Op]| {
        let Verdict { anomalies, unproven, .. } = evicted(told);
        (anomalies.into_iter().map(|a| a.kind).collect::<Vec<_>>(), unproven)
    };
    let none: Vec<String> = Vec::new();
    assert_eq!(
        judged(&[told(0, 10, 0, 0), told(2, 1200, 1000, 3), told(4, 1000, 1000, 0), told(6, 900, 1000, 9)]),
        (none.clone(), none.clone())
    );
    assert_eq!(judged(&[told(0, 1300, 1000, 3), told(2, 900, 1000, 9)]).0, ["memory not bounded"]);
    assert_eq!(judged(&[told(0, 1001, 1000, 3)]).0, ["memory not bounded"], "nothing is written any more");
    assert_eq!(judged(&[]), (none.clone(), words(&["no key was evicted"])));
    assert_eq!(judged(&[told(0, 900, 1000, 0)]), (none.clone(), words(&["no key was evicted"])));
    assert_eq!(judged(&[told(0, 900, 0, 7)]), (none, words(&["node 1 knows no limit of its memory"])));
    assert_eq!(judged(&[op(0, 1, "INFO memory stats", text("# Memory"))]).0, ["unexpected reply"]);
}
