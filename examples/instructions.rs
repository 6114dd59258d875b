//! The pieces of a request's path, each in a function of its own, for a profiler that counts instructions: `scripts/instructions`
//! runs this and compares the counts with those that are committed. Nothing here is timed.
//!
//! `cargo run --release --example instructions -- KEYS` fills a keyspace with so many keys, says so, and runs each piece [`TIMES`] times
//! when it is given a line.

use bytes::BytesMut;
use hypercache::commands;
use hypercache::raft::entry::{self, Batch, Front};
use hypercache::raft::{Types, log_id, wire};
use hypercache::resp::{Args, Decoder, Limits, Protocol, Reply};
use hypercache::state::{Keyspace, View};
use hypercache::types::{GroupId, NodeId, Stamp};
use openraft::EntryPayload;
use openraft::raft::AppendEntriesRequest;
use openraft::type_config::alias::{EntryOf, VoteOf};
use std::hint::black_box;

/// How often each piece is run. `scripts/instructions` divides by it.
const TIMES: usize = 20_000;
/// Commands in an entry.
const BATCH: usize = 16;
const VALUE: [u8; 64] = [b'x'; 64];

/// Keys in an order that has nothing to do with where they lie.
fn key(number: usize, keys: usize) -> String {
    format!("key:{:012}", number.wrapping_mul(2_654_435_761) % keys)
}

/// Parts of one buffer, as all arguments are that came from a client or stood in a log.
fn words(words: &[&[u8]]) -> Args {
    let mut buffer = bytes::Bytes::from(words.concat());
    words.iter().map(|word| buffer.split_to(word.len())).collect()
}

fn wire_of(calls: &[Args]) -> BytesMut {
    let mut out = BytesMut::new();
    for call in calls {
        out.extend_from_slice(format!("*{}\r\n", call.len()).as_bytes());
        for word in call.iter() {
            out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            out.extend_from_slice(word);
            out.extend_from_slice(b"\r\n");
        }
    }
    out
}

#[inline(never)]
fn decode(mut input: BytesMut) {
    let mut decoder = Decoder::new(Limits::default());
    for _ in 0..TIMES {
        black_box(decoder.decode(&mut input).expect("it is well-formed").expect("it is whole"));
    }
}

#[inline(never)]
fn lookup(calls: &[Args]) {
    for call in calls {
        black_box(commands::lookup(call).is_ok());
    }
}

#[inline(never)]
fn read_hit(calls: &[Args], keyspace: &Keyspace) {
    let view = View::new(keyspace, Some(1));
    for call in calls {
        black_box(commands::read_with(call, &view));
    }
}

#[inline(never)]
fn read_miss(calls: &[Args], keyspace: &Keyspace) {
    let view = View::new(keyspace, Some(1));
    for call in calls {
        assert_eq!(commands::read_with(call, &view), Reply::Nil);
    }
}

#[inline(never)]
fn apply_set(calls: &[Args], keyspace: &mut Keyspace) {
    for call in calls {
        black_box(commands::apply(call, keyspace, &Stamp { now_ms: 1, seed: 1 }));
    }
}

#[inline(never)]
fn encode_reply(reply: &Reply, out: &mut BytesMut) {
    for _ in 0..TIMES {
        out.clear();
        black_box(reply).encode(Protocol::Resp2, out);
    }
}

#[inline(never)]
fn encode_batch(calls: &[Args]) -> Vec<Batch> {
    let batch = |calls: &[Args]| Batch::encode(Stamp { now_ms: 1, seed: 1 }, &[], &Front::default(), calls.iter());
    calls.chunks_exact(BATCH).map(batch).collect()
}

#[inline(never)]
fn decode_batch(batches: &[Batch]) {
    for batch in batches {
        let (.., mut calls) = batch.decode().expect("it was encoded here");
        while let Some(call) = calls.take_next().expect("it was encoded here") {
            black_box(&call);
            calls.give_back(call);
        }
    }
}

#[inline(never)]
fn append_to_log(entries: &[EntryOf<Types>]) -> Vec<bytes::Bytes> {
    entries.iter().map(|entry| entry::stored(GroupId(1), entry)).collect()
}

#[inline(never)]
fn read_from_log(stored: &[bytes::Bytes]) {
    for (index, stored) in stored.iter().enumerate() {
        black_box(entry::from_stored(GroupId(1), index as u64 + 1, stored.clone()).expect("it was stored here"));
    }
}

#[inline(never)]
fn send_append(entries: Vec<EntryOf<Types>>, out: &mut BytesMut) {
    for entry in entries {
        out.clear();
        let request = AppendEntriesRequest::<Types> {
            vote: VoteOf::<Types>::new_committed(1, NodeId(1)),
            prev_log_id: None,
            entries: vec![entry],
            leader_commit: None,
        };
        wire::put_append(out, black_box(&request), None);
    }
}

fn main() {
    let keys: usize = std::env::args().nth(1).and_then(|keys| keys.parse().ok()).expect("usage: instructions KEYS");
    let mut keyspace = Keyspace::new(1);
    for number in 0..keys {
        let set = words(&[b"SET", format!("key:{number:012}").as_bytes(), &VALUE]);
        commands::apply(&set, &mut keyspace, &Stamp { now_ms: 1, seed: 1 });
    }
    let gets: Vec<Args> = (0..TIMES).map(|n| words(&[b"GET", key(n, keys).as_bytes()])).collect();
    let absent: Vec<Args> = (0..TIMES).map(|n| words(&[b"GET", format!("not:{n:012}").as_bytes()])).collect();
    let sets: Vec<Args> = (0..TIMES).map(|n| words(&[b"SET", key(n, keys).as_bytes(), &VALUE])).collect();

    // Whoever counts begins here: what it takes to fill a keyspace is not asked.
    println!("filled");
    std::io::stdin().read_line(&mut String::new()).expect("standard input can be read");

    decode(wire_of(&sets));
    lookup(&sets);
    read_hit(&gets, &keyspace);
    read_miss(&absent, &keyspace);
    apply_set(&sets, &mut keyspace);
    let mut out = BytesMut::with_capacity(1 << 16);
    encode_reply(&Reply::bulk(VALUE.to_vec()), &mut out);
    let batches = encode_batch(&sets);
    decode_batch(&batches);
    let entry = |(index, batch)| EntryOf::<Types> { log_id: log_id(1, index), payload: EntryPayload::Normal(batch) };
    let entries: Vec<EntryOf<Types>> = (1..).zip(batches).map(entry).collect();
    let stored = append_to_log(&entries);
    read_from_log(&stored);
    send_append(entries, &mut out);
}
