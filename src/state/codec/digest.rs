//! Hashes of what images and heads say, whatever lies where in memory: for comparing replicas.
//!
//! The hash of a slot is the sum of the 128-bit hashes of its entries' canonical bytes. A sum does not depend on order,
//! nor on how many images a slot is shown in, and unlike XOR it does not let equal terms cancel.

use super::{CutHead, IMAGE_MAGIC, Reader, RestoreError};
use crate::types::Slot;
use xxhash_rust::xxh3::xxh3_128_with_seed;

impl CutHead {
    /// Hash of what replicas must agree on outside the slots. How many images there are is a replica's own affair.
    pub fn digest(&self) -> u128 {
        let account = &self.account;
        let numbers = [self.seed, self.clock, self.version, account.keys, account.expires, account.bytes];
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        xxh3_128_with_seed(&bytes, self.seed)
    }

    /// Part of every hash of this state.
    pub fn seed(&self) -> u64 {
        self.seed
    }
}

/// The slot of an image, and the sum of the hashes of the entries in it.
pub fn digest(image: &[u8], seed: u64) -> Result<(Slot, u128), RestoreError> {
    let mut reader = Reader::open("slot image", IMAGE_MAGIC, image)?;
    let slot = u16::from_le_bytes(reader.array()?);
    reader.u64()?;
    let count = reader.number()?;
    let mut sum = 0u128;
    for _ in 0..count {
        let from = reader.rest;
        reader.array::<1>()?;
        reader.blob()?;
        (0..3).try_for_each(|_| reader.number().map(|_| ()))?;
        reader.blob()?;
        let entry = &from[..from.len() - reader.rest.len()];
        sum = sum.wrapping_add(xxh3_128_with_seed(entry, seed));
    }
    reader.end()?;
    Ok((Slot(slot), sum))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands;
    use crate::resp::Args;
    use crate::state::Keyspace;
    use crate::types::Stamp;
    use bytes::Bytes;
    use std::collections::BTreeMap;

    fn apply(keyspace: &mut Keyspace, words: &[&str]) {
        let args: Args = words.iter().map(|w| Bytes::copy_from_slice(w.as_bytes())).collect();
        commands::apply(&args, keyspace, &Stamp { now_ms: 1, seed: 1 });
    }

    fn digests(mut keyspace: Keyspace) -> (u128, BTreeMap<Slot, u128>) {
        let head = keyspace.begin_cut();
        let mut slots = BTreeMap::new();
        while let Some(images) = keyspace.cut_next(300) {
            for image in images {
                let (slot, sum) = digest(&image.into_bytes(), head.seed()).unwrap();
                let slot: &mut u128 = slots.entry(slot).or_default();
                *slot = slot.wrapping_add(sum);
            }
        }
        (head.digest(), slots)
    }

    #[test]
    fn equal_states_have_equal_digests_however_they_came_about_and_one_byte_changes_one_slot() {
        let (mut one, mut other) = (Keyspace::new(5), Keyspace::new(5));
        for i in 0..200 {
            apply(&mut one, &["SET", &format!("{{a}}{i}"), "x"]);
            apply(&mut one, &["SET", &format!("b{i}"), "y", "PX", "5000"]);
        }
        for i in 0..200 {
            apply(&mut other, &["SET", &format!("{{a}}{i}"), "x"]);
            apply(&mut other, &["SET", &format!("b{i}"), "y", "PX", "5000"]);
        }
        let head = one.begin_cut().to_bytes();
        let mut images = Vec::new();
        while let Some(more) = one.cut_next(usize::MAX) {
            images.extend(more);
        }
        let images = images.into_iter().rev().map(|image| Ok::<_, String>(image.into_bytes()));
        let copy = Keyspace::restore(&head, images, crate::state::Precision::default());
        let (one, other, copy) = (digests(one), digests(other), digests(copy.unwrap()));
        assert_eq!(one, other);
        assert_eq!(one, copy);
        let mut changed = Keyspace::new(5);
        for i in 0..200 {
            apply(&mut changed, &["SET", &format!("{{a}}{i}"), if i == 7 { "z" } else { "x" }]);
            apply(&mut changed, &["SET", &format!("b{i}"), "y", "PX", "5000"]);
        }
        let changed = digests(changed);
        assert_eq!(changed.0, one.0);
        let differing: Vec<_> = one.1.keys().filter(|slot| one.1[slot] != changed.1[slot]).collect();
        assert_eq!(differing, [&crate::slot::slot_of(b"{a}")]);
    }
}
