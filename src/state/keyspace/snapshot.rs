//! How a snapshot is taken of a keyspace, and how a keyspace is made of one. What a unit shows while one is taken: `cut.rs`;
//! the bytes: `codec.rs`.
//!
//! Invariants: head and images show one moment; what is restored has the same hash as what was taken.

use super::Keyspace;
use crate::state::account::Account;
use crate::state::codec::{self, CutHead, RestoreError, SlotImage};
use crate::state::cuckoo::Precision;
use crate::state::cut::Cut;
use crate::state::entry::Draft;
use crate::state::table::{SPLIT_ABOVE, Table};
use crate::state::unit::Unit;
use crate::types::Slot;
use xxhash_rust::xxh3::xxh3_128_with_seed;

impl Keyspace {
    /// Begins a snapshot: everything outside the units is captured now, the units follow with
    /// [`Keyspace::cut_next`] and show this same moment.
    ///
    /// # Panics
    /// If a cut is running.
    pub fn begin_cut(&mut self) -> CutHead {
        assert!(self.cut.is_none(), "one snapshot at a time");
        self.epoch += 1;
        self.cut = Some(Cut::new(self.epoch));
        self.head(self.table.units() as u64)
    }

    /// A cut's head with clock and version as they are now, which no snapshot may have: for the planted bug that takes them
    /// after the cut.
    pub fn head_afterwards(&self, head: &[u8]) -> Result<CutHead, RestoreError> {
        Ok(CutHead { clock: self.clock, version: self.version, ..CutHead::from_bytes(head)? })
    }

    fn head(&self, images: u64) -> CutHead {
        CutHead {
            seed: self.seed,
            clock: self.clock,
            version: self.version,
            account: self.account,
            images,
            limit: self.limit,
            packing: self.packing,
            removals: self.removals.clone(),
            ownership: self.ownership.clone(),
        }
    }

    /// Units as they were at the cut, about `max_bytes` of them, in no particular order; there may be none. `None`:
    /// all are out, and the cut is over.
    pub fn cut_next(&mut self, max_bytes: usize) -> Option<Vec<SlotImage>> {
        let images = self.cut.as_mut()?.take(max_bytes.max(1), &mut self.table);
        if images.is_none() {
            self.abort_cut();
        }
        images
    }

    /// Whether a snapshot is being taken.
    pub fn cut_running(&self) -> bool {
        self.cut.is_some()
    }

    /// Ends a cut whose snapshot failed. Nothing happens if none runs.
    pub fn abort_cut(&mut self) {
        self.garbage.tables.extend(self.cut.take().and_then(Cut::into_kept));
    }

    /// The keyspace of a snapshot. Every image must be there, once, in any order; anything odd is an error.
    pub fn restore<B: AsRef<[u8]>, E: std::fmt::Display>(
        head: &[u8],
        images: impl Iterator<Item = Result<B, E>>,
        precision: Precision,
    ) -> Result<Keyspace, RestoreError> {
        let head = CutHead::from_bytes(head)?;
        let mut keyspace = Keyspace::with_filters(head.seed, precision);
        (keyspace.clock, keyspace.version) = (head.clock, head.version);
        (keyspace.limit, keyspace.packing, keyspace.removals) = (head.limit, head.packing, head.removals);
        keyspace.ownership = head.ownership.clone();
        // Most keys were written near the end.
        keyspace.table = Table::new(head.seed, head.clock, precision);
        let mut count = 0;
        for image in images {
            let image = image.map_err(|error| RestoreError::Source(error.to_string()))?;
            let (slot, entries) = codec::decode_slot(image.as_ref())?;
            keyspace.restore_slot(slot, entries)?;
            count += 1;
        }
        if count != head.images {
            return Err(RestoreError::Sums("images are missing or too many"));
        }
        if keyspace.account != head.account {
            return Err(RestoreError::Sums("keys, deadlines or bytes differ"));
        }
        Ok(keyspace)
    }

    fn restore_slot(&mut self, slot: Slot, entries: Vec<Draft<'_>>) -> Result<(), RestoreError> {
        let damaged = |what| RestoreError::Damaged { part: "slot image", what };
        let mut hashed: Vec<(u64, Draft<'_>)> = Vec::with_capacity(entries.len());
        for draft in entries {
            let (of_key, hash) = self.place_of(draft.key);
            if of_key != slot {
                return Err(damaged("a key of another slot"));
            }
            if hashed.last().is_some_and(|(before, last)| (*before, last.key) >= (hash, draft.key)) {
                return Err(damaged("keys out of order"));
            }
            hashed.push((hash, draft));
        }
        if self.table.slot_len(slot) == 0 && hashed.len() <= SPLIT_ABOVE {
            hashed.iter().for_each(|(_, draft)| self.account.add(Account::of(&draft.as_ref())));
            self.table.fill(slot, hashed, self.epoch);
            return Ok(());
        }
        for (hash, draft) in hashed {
            // A key comes once, so an image that is there twice is noticed; one that is missing is by its number.
            if self.put(slot, hash, draft) {
                return Err(RestoreError::Twice(slot));
            }
        }
        Ok(())
    }

    /// A hash of the whole state, equal on equal states: head and entries, however they lie in memory. Looks at
    /// every key: for comparing replicas now and then, not for a hot path.
    pub fn state_hash(&self) -> u128 {
        let mut bytes = Vec::new();
        let mut sum = xxh3_128_with_seed(&self.head(0).to_bytes(), self.seed);
        for entry in self.table.all_units().flat_map(Unit::entries) {
            bytes.clear();
            codec::encode_entry(&mut bytes, &entry);
            // Addition does not depend on order, and unlike XOR does not let equal terms cancel.
            sum = sum.wrapping_add(xxh3_128_with_seed(&bytes, self.seed));
        }
        sum
    }
}
