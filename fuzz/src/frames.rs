//! Frames of the binary protocol between nodes, whole and in pieces, and what they may carry: nothing panics, nothing is
//! allocated for what is only announced, and what was read is written as something that reads alike.
//!
//! Input: a byte that says how the rest is cut | what a peer sends.

use crate::raft::entry::Malformed;
use crate::raft::wire::{self, FenceOrder, Hello, MAX_GREETING, Method, Opcode, ReadIndex, Told, VerifyAsk, Welcome};
use bytes::{Bytes, BytesMut};
use serde::{Serialize, de::DeserializeOwned};

fn frames(bytes: &[u8], piece: usize) -> (Vec<(Opcode, Bytes)>, Option<Malformed>) {
    let (mut buf, mut frames) = (BytesMut::new(), Vec::new());
    for piece in bytes.chunks(piece) {
        buf.extend_from_slice(piece);
        loop {
            match wire::take_frame(&mut buf, MAX_GREETING) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(wrong) => return (frames, Some(wrong)),
            }
        }
    }
    (frames, None)
}

fn plain<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    if let Ok(value) = wire::get::<T>(bytes, "it") {
        let mut out = BytesMut::new();
        wire::put(&mut out, &value);
        assert_eq!(wire::get::<T>(&out, "it"), Ok(value));
    }
}

/// A payload, taken for anything that one may be.
fn payload(bytes: &Bytes) {
    plain::<Hello>(bytes);
    plain::<Welcome>(bytes);
    plain::<ReadIndex>(bytes);
    plain::<VerifyAsk>(bytes);
    plain::<Told>(bytes);
    plain::<FenceOrder>(bytes);
    if let Ok((request, estimate)) = wire::get_append(bytes.clone()) {
        let [mut out, mut again] = [BytesMut::new(), BytesMut::new()];
        wire::put_append(&mut out, &request, estimate);
        let (request, estimate) = wire::get_append(out.clone().freeze()).expect("it was just written");
        wire::put_append(&mut again, &request, estimate);
        assert_eq!(out, again);
    }
    if let Ok(proposal) = wire::get_propose(bytes.clone()) {
        let mut out = BytesMut::new();
        wire::put_propose(
            &mut out,
            proposal.request,
            proposal.term,
            proposal.wait_ms,
            proposal.calls.iter(),
            &proposal.authored,
        );
        assert_eq!(wire::get_propose(out.freeze()), Ok(proposal));
    }
    if let Ok((term, id, call)) = wire::get_ask_turn(bytes.clone()) {
        let mut out = BytesMut::new();
        wire::put_ask_turn(&mut out, term, id, &call);
        assert_eq!(wire::get_ask_turn(out.freeze()), Ok((term, id, call)));
    }
}

pub fn run(data: &[u8]) {
    let Some((piece, bytes)) = data.split_first() else { return };
    let (found, wrong) = frames(bytes, usize::MAX);
    assert_eq!(frames(bytes, usize::from(*piece).max(1)), (found.clone(), wrong));
    for (_, body) in &found {
        payload(body);
    }
    Method::from_u8(*piece);
    payload(&Bytes::copy_from_slice(bytes));
}
