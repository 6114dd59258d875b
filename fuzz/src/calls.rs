//! Commands of the tables on the bare keyspace: nothing panics, an error changes nothing, and what there is afterwards
//! goes through a snapshot.

use crate::commands::{self, growth, lookup};
use crate::nasty::{Choices, Nasty, is_large, table};
use crate::resp::{Args, Reply};
use crate::state::{Keyspace, Precision, View};
use crate::types::Stamp;
use bytes::Bytes;
use std::convert::Infallible;
use std::sync::LazyLock;

/// Calls of one input, at most.
const CALLS_MAX: usize = 200;

static TABLE: LazyLock<Vec<(String, &'static commands::Command)>> = LazyLock::new(table);

/// Decides by the bytes of an input; 0 when they are used up.
pub struct Given<'a>(pub &'a [u8]);

impl Choices for Given<'_> {
    fn below(&mut self, end: usize) -> usize {
        let mut number = 0;
        for _ in 0..if end > 256 { 2 } else { 1 } {
            let Some((byte, rest)) = self.0.split_first() else { return 0 };
            self.0 = rest;
            number = number << 8 | usize::from(*byte);
        }
        number % end
    }
}

/// Runs what the bytes say on a keyspace; `dump` is what RESTORE is given at first.
pub fn run_on(keyspace: &mut Keyspace, dump: Bytes, data: &[u8]) {
    let mut nasty = Nasty::new(Given(data));
    nasty.dump = dump;
    let mut stamp = Stamp { now_ms: keyspace.clock().max(1_700_000_000_000), seed: 5 };
    for _ in 0..CALLS_MAX {
        if nasty.choices.0.is_empty() {
            break;
        }
        let args = nasty.request(&TABLE);
        stamp.now_ms += [0, 0, 1, 60_000][nasty.choices.below(4)];
        stamp.seed = stamp.seed.wrapping_add(1);
        if let Some(Reply::Bulk(dump)) = call(keyspace, &args, &stamp)
            && args[0].eq_ignore_ascii_case(b"dump")
        {
            nasty.dump = dump;
        }
    }
    copy(keyspace);
}

/// Runs a call, a read as in a transaction; `None` if it would take long.
pub fn call(keyspace: &mut Keyspace, args: &Args, stamp: &Stamp) -> Option<Reply> {
    if is_large(args, growth(args, keyspace, &mut |_| 0)) {
        return None;
    }
    keyspace.advance(stamp);
    let is_due = keyspace.next_deadline().is_some_and(|deadline| deadline <= keyspace.clock());
    let version = keyspace.version();
    let reply = match lookup(args) {
        Ok(command) if command.is_read() => commands::read_with(args, &View::in_entry(keyspace, stamp.seed)),
        _ => commands::apply(args, keyspace, stamp),
    };
    assert!(!reply.is_error() || is_due || keyspace.version() == version, "an error changed something");
    Some(reply)
}

/// A snapshot of it is accepted, and is it.
pub fn copy(keyspace: &mut Keyspace) {
    let head = keyspace.begin_cut().to_bytes();
    let images: Vec<_> = std::iter::from_fn(|| keyspace.cut_next(1 << 20)).flatten().collect();
    let images = images.into_iter().map(|image| Ok::<_, Infallible>(image.into_bytes()));
    let copy = Keyspace::restore(&head, images, Precision::default()).expect("what calls made is accepted");
    assert_eq!(copy.state_hash(), keyspace.state_hash());
}

pub fn run(data: &[u8]) {
    run_on(&mut Keyspace::new(7), Bytes::new(), data);
}
