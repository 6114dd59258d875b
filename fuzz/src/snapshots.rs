//! Snapshots: a head and its images, with checksums that are right, are refused or are a state; so are chunks.
//!
//! Input: length u16 | a head without its checksum | { length u16 | an image without its checksum }*

use crate::raft::chunk;
use crate::split;
use crate::state::{CutHead, Keyspace, Precision};
use bytes::Bytes;
use std::convert::Infallible;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

fn sealed(bytes: &[u8]) -> Vec<u8> {
    [bytes, &xxh3_64(bytes).to_le_bytes()].concat()
}

fn chunks(bytes: &[u8]) {
    let stored = [bytes, &xxh3_64_with_seed(bytes, 3).to_le_bytes()].concat();
    if let Ok(content) = chunk::unpack(3, Bytes::from(stored)) {
        let packed = chunk::pack(chunk::default_codec(), 4, &content);
        assert_eq!(chunk::unpack(4, Bytes::from(packed)).as_ref(), Ok(&content));
    }
}

pub fn run(data: &[u8]) {
    chunks(data);
    let Some((head, mut rest)) = split(data) else { return };
    let mut images = Vec::new();
    while let Some((image, behind)) = split(rest) {
        images.push(sealed(image));
        rest = behind;
    }
    let head = sealed(head);
    if let Ok(read) = CutHead::from_bytes(&head) {
        assert_eq!(read.to_bytes(), head, "a head has one spelling");
    }
    let restored = Keyspace::restore(&head, images.iter().map(Ok::<_, Infallible>), Precision::default());
    let Ok(mut keyspace) = restored else { return };
    crate::calls::copy(&mut keyspace);
}
