//! Entries of the log: what is read has one spelling, and what its calls do is done or refused.
//!
//! Input: the record of an entry, which begins with its kind.

use crate::calls;
use crate::raft::entry::{self, Batch};
use crate::state::Keyspace;
use crate::types::GroupId;
use bytes::{Bytes, BytesMut};
use openraft::EntryPayload;

/// Calls that are applied, at most.
const CALLS_MAX: usize = 64;

/// Group clocks follow wall clocks: beyond this none ever comes.
const TIME_MAX: u64 = 1 << 60;

pub fn run(data: &[u8]) {
    drop(entry::from_stored(GroupId(1), 1, Bytes::copy_from_slice(data)));
    let Ok(read) = entry::get_record(Bytes::copy_from_slice(data), 1) else { return };
    let mut record = BytesMut::new();
    entry::put_record(&mut record, &read);
    let stored = entry::stored(GroupId(1), &read);
    assert_eq!(&stored[..stored.len() - 8], &record[..]);
    assert_eq!(entry::from_stored(GroupId(1), 1, stored.clone()).as_ref(), Ok(&read));
    assert!(entry::from_stored(GroupId(1), 2, stored).is_err(), "it belongs elsewhere");
    let EntryPayload::Normal(batch) = &read.payload else { return };
    assert_eq!(record, data, "a batch is kept as it is");
    let Ok((stamp, sweep, front, mut rest)) = batch.decode() else { return };
    let mut all = Vec::new();
    let whole = loop {
        match rest.take_next() {
            Ok(Some(args)) => all.push(args),
            end => break end.is_ok(),
        }
    };
    let again = Batch::encode(stamp, &sweep, &front, all.iter());
    let again = if batch.is_marked() { again.marked() } else { again };
    if whole {
        assert_eq!(&again, batch, "a batch has one spelling");
    }
    if stamp.now_ms > TIME_MAX {
        return;
    }
    let mut keyspace = Keyspace::new(7);
    if let Some(packing) = front.packing {
        keyspace.set_packing(packing);
    }
    all.iter().filter(|args| !args.is_empty()).take(CALLS_MAX).for_each(|args| {
        calls::call(&mut keyspace, args, &stamp);
    });
    keyspace.sweep(&sweep);
    for (key, version) in &front.evictions {
        keyspace.evict(key, *version);
    }
    calls::copy(&mut keyspace);
}
