//! Bodies of dumps: refused, or a value with these very bytes on which any command may work.
//!
//! Input: length u16 | type and body | what decides on calls.

use crate::state::{Keyspace, Value};
use crate::types::Stamp;
use crate::{calls, nasty, split};
use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

/// As DUMP does it.
fn seal(body: &[u8]) -> Bytes {
    let mut dump = [body, &1u16.to_le_bytes()].concat();
    let sum = xxh3_64(&dump);
    dump.extend_from_slice(&sum.to_le_bytes());
    dump.into()
}

pub fn run(data: &[u8]) {
    let Some((body, rest)) = split(data) else { return };
    let value = Value::from_bytes(body);
    if let Some(value) = &value {
        assert_eq!(value.to_bytes(), body, "a value has one spelling");
    }
    let (mut keyspace, dump) = (Keyspace::new(7), seal(body));
    let key = nasty::key_of(body);
    let args = ["restore", key, "0"].into_iter().map(Bytes::from).chain([dump.clone()]).collect();
    let stamp = Stamp { now_ms: 1_700_000_000_000, seed: 1 };
    if let Some(reply) = calls::call(&mut keyspace, &args, &stamp) {
        assert_eq!(reply.is_error(), value.is_none(), "RESTORE takes what is a value: {reply:?}");
    }
    calls::run_on(&mut keyspace, dump, rest);
}
