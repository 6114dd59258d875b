//! Hashes of what images and heads say, whatever lies where in memory: for comparing replicas.
//!
//! The hash of a slot is the sum of the 128-bit hashes of its entries' canonical bytes. A sum does not depend on order,
//! nor on how many images a slot is shown in, and unlike XOR it does not let equal terms cancel.

use super::{CutHead, FORMAT, IMAGE_MAGIC, Reader, RestoreError};
use crate::state::ownership::Ownership;
use crate::types::Slot;
use xxhash_rust::xxh3::xxh3_128_with_seed;

impl CutHead {
    /// Hash of what replicas must agree on outside the slots. How many images there are is a replica's own affair.
    pub fn digest(&self) -> u128 {
        let account = &self.account;
        let limit = [self.limit.bytes, u64::from(self.limit.policy.number()), u64::from(self.limit.samples)];
        let state = [self.seed, self.clock, self.version, account.keys, account.expires, account.bytes];
        let removals = self.removals.slots().flat_map(|(slot, version)| [u64::from(slot.0), version]);
        let numbers = state.into_iter().chain(limit).chain(self.packing.numbers());
        let numbers = numbers.chain([self.removals.floor()]).chain(removals);
        let mut bytes: Vec<u8> = numbers.flat_map(|number| number.to_le_bytes()).collect();
        if self.ownership != Ownership::default() {
            self.ownership.put(&mut bytes);
        }
        xxh3_128_with_seed(&bytes, self.seed)
    }

    /// Part of every hash of this state.
    pub fn seed(&self) -> u64 {
        self.seed
    }
}

/// The slot of an image, and the sum of the hashes of the entries in it.
pub fn digest(image: &[u8], seed: u64) -> Result<(Slot, u128), RestoreError> {
    let (_, mut reader) = Reader::open("slot image", IMAGE_MAGIC, FORMAT, image)?;
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
    use crate::slot::slot_of;
    use crate::state::{Keyspace, Value};
    use std::collections::BTreeMap;

    /// Two hundred keys of one slot and two hundred of others. What was there before went in one order or the other. `odd`
    /// holds another value.
    fn filled(forwards: bool, odd: Option<u32>) -> Keyspace {
        let mut keyspace = Keyspace::new(5);
        let mut gone: Vec<String> = (0..200).map(|i| format!("{{a}}gone{i}")).collect();
        gone.iter().for_each(|key| keyspace.set(key.as_bytes(), Value::text(b"g"), None));
        if !forwards {
            gone.reverse();
        }
        assert!(gone.iter().all(|key| keyspace.remove(key.as_bytes())));
        for i in 0..200 {
            let value: &[u8] = if odd == Some(i) { b"z" } else { b"x" };
            keyspace.set(format!("{{a}}{i}").as_bytes(), Value::text(value), None);
            keyspace.set(format!("b{i}").as_bytes(), Value::text(b"y"), Some(5000));
        }
        keyspace
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
        slots.retain(|_, sum| *sum != 0);
        (head.digest(), slots)
    }

    fn restored(mut keyspace: Keyspace) -> Keyspace {
        let head = keyspace.begin_cut().to_bytes();
        let mut images = Vec::new();
        while let Some(more) = keyspace.cut_next(usize::MAX) {
            images.extend(more);
        }
        let images = images.into_iter().rev().map(|image| Ok::<_, String>(image.into_bytes()));
        Keyspace::restore(&head, images, crate::state::Precision::default()).unwrap()
    }

    #[test]
    fn equal_states_have_equal_digests_however_they_lie_and_one_byte_changes_one_slot() {
        let one = digests(filled(true, None));
        assert_eq!(one, digests(filled(false, None)));
        assert_eq!(one, digests(restored(filled(true, None))));
        let odd = digests(filled(true, Some(7)));
        assert_eq!(odd.0, one.0);
        let differing: Vec<_> = one.1.keys().filter(|slot| one.1[slot] != odd.1[slot]).copied().collect();
        assert_eq!(differing, [slot_of(b"{a}")]);
    }

    #[test]
    fn a_damaged_image_has_no_digest() {
        let mut keyspace = filled(true, None);
        keyspace.begin_cut();
        let image = keyspace.cut_next(1).unwrap().remove(0).into_bytes();
        for length in 0..image.len() {
            assert!(digest(&image[..length], 5).is_err(), "{length}");
        }
    }
}
