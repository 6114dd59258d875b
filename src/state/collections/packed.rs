//! The packed form of small values: their elements one after the other in one string of bytes, short enough to be
//! searched from its beginning and rewritten as a whole. It lies in a row between other keys (`row.rs`), and these same
//! bytes are its form on disk.
//!
//! ```text
//! packed   element*
//! element  length v (LEB128)  bytes
//! ```
//!
//! What the elements mean is their type's affair: a hash has pairs of them. A value is packed while it is within its
//! [`PackedLimits`] and becomes a tree when it grows beyond; it does not come back on its own, as in Redis.

use bytes::Bytes;
use smallvec::SmallVec;

/// How large a value may be and still be packed, as Redis' configuration says it for a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedLimits {
    /// Elements; a hash counts fields, a sorted set members.
    pub entries: usize,
    /// Bytes of an element.
    pub value: usize,
}

/// Bytes of a packed value, at most, whatever the limits: it is copied as a whole by every change.
pub(super) const PACKED_MAX: usize = 8 << 10;

/// The elements of a packed value.
///
/// # Panics
/// While iterating, if the bytes are not those of a packed value: [`is_packed`] tells before they are believed.
#[derive(Debug, Clone)]
pub struct Elements<'a>(&'a [u8]);

impl<'a> Elements<'a> {
    pub(super) fn of(packed: &'a [u8]) -> Elements<'a> {
        Elements(packed)
    }

    /// What is still to come, packed.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.0
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.0.is_empty() {
            return None;
        }
        let (element, rest) = split(self.0).expect("a packed value was checked when it came in");
        self.0 = rest;
        Some(element)
    }
}

/// The first element and what follows; `None` if these are no elements.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (mut length, mut at) = (0usize, 0);
    loop {
        let byte = *bytes.get(at)?;
        // More than three bytes would be a length beyond anything packed.
        if at == 3 {
            return None;
        }
        length |= usize::from(byte & 0x7f) << (7 * at);
        at += 1;
        if byte < 0x80 {
            // One spelling only: the shortest.
            if byte == 0 && at > 1 {
                return None;
            }
            break;
        }
    }
    let end = at.checked_add(length)?;
    Some((bytes.get(at..end)?, &bytes[end..]))
}

/// How many elements these bytes are; `None` if they are not those of a packed value: there is none without elements.
pub(super) fn is_packed(mut bytes: &[u8]) -> Option<usize> {
    let mut count = 0;
    if bytes.is_empty() || bytes.len() > PACKED_MAX {
        return None;
    }
    while !bytes.is_empty() {
        (_, bytes) = split(bytes)?;
        count += 1;
    }
    Some(count)
}

/// Up to so many elements are compared with each other; more are sorted first.
const FEW: usize = 12;

/// Whether no element comes twice.
pub(super) fn are_distinct<'a>(elements: impl Iterator<Item = &'a [u8]>) -> bool {
    let mut all: SmallVec<[&[u8]; 64]> = elements.collect();
    if all.len() <= FEW {
        return all.iter().enumerate().all(|(at, element)| !all[..at].contains(element));
    }
    all.sort_unstable();
    all.windows(2).all(|two| two[0] != two[1])
}

/// Puts elements together.
#[derive(Debug, Default)]
pub(super) struct Packer(Vec<u8>);

impl Packer {
    pub fn with_room(bytes: usize) -> Packer {
        Packer(Vec::with_capacity(bytes))
    }

    pub fn put(&mut self, element: &[u8]) {
        put_element(&mut self.0, element);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn finish(mut self) -> Bytes {
        self.0.shrink_to_fit();
        Bytes::from(self.0)
    }
}

/// Appends an element.
pub(super) fn put_element(out: &mut Vec<u8>, element: &[u8]) {
    let mut length = element.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(element);
}

/// Bytes that an element takes.
pub(super) fn element_len(element: &[u8]) -> usize {
    element.len() + (usize::BITS - element.len().leading_zeros()).div_ceil(7).max(1) as usize
}

/// A copy of a packed value in which `count` elements from the `at`th on are replaced by others.
pub(super) fn splice(packed: &[u8], at: usize, count: usize, others: &[&[u8]]) -> Bytes {
    let mut rest = packed;
    let skip = |n: usize, rest: &mut &[u8]| {
        for _ in 0..n {
            let Some((_, after)) = (!rest.is_empty()).then(|| split(rest).expect("it was checked when it came in"))
            else {
                return;
            };
            *rest = after;
        }
    };
    skip(at, &mut rest);
    let before = packed.len() - rest.len();
    skip(count, &mut rest);
    let added: usize = others.iter().map(|element| element_len(element)).sum();
    let mut packer = Packer::with_room(before + added + rest.len());
    packer.0.extend_from_slice(&packed[..before]);
    others.iter().for_each(|element| packer.put(element));
    packer.0.extend_from_slice(rest);
    packer.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packed(elements: &[Vec<u8>]) -> Bytes {
        let mut packer = Packer::default();
        elements.iter().for_each(|element| packer.put(element));
        assert_eq!(packer.len(), elements.iter().map(|element| element_len(element)).sum::<usize>());
        packer.finish()
    }

    proptest! {
        #[test]
        fn it_is_a_list_of_elements(
            mut elements in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..40),
            others in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..4),
            at in 0..50usize, count in 0..5usize,
        ) {
            let bytes = packed(&elements);
            let fits = !elements.is_empty() && bytes.len() <= PACKED_MAX;
            prop_assert_eq!(is_packed(&bytes), fits.then_some(elements.len()));
            prop_assert!(Elements::of(&bytes).eq(elements.iter().map(|element| &element[..])));
            let (start, end) = (at.min(elements.len()), (at + count).min(elements.len()));
            let spliced = splice(&bytes, at, count, &others.iter().map(|other| &other[..]).collect::<Vec<_>>());
            elements.splice(start..end, others);
            prop_assert_eq!(spliced, packed(&elements));
        }

        #[test]
        fn other_bytes_are_refused_or_are_elements(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Some(count) = is_packed(&bytes) {
                let elements: Vec<Vec<u8>> = Elements::of(&bytes).map(Into::into).collect();
                prop_assert_eq!(elements.len(), count);
                prop_assert_eq!(packed(&elements), bytes, "one spelling");
            }
        }

        #[test]
        fn what_comes_twice_is_found(elements in prop::collection::vec(prop::collection::vec(0..3u8, 0..4), 0..40)) {
            let each_once = elements.iter().collect::<std::collections::BTreeSet<_>>().len();
            prop_assert_eq!(are_distinct(elements.iter().map(|element| &element[..])), each_once == elements.len());
        }
    }
}
