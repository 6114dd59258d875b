//! Bytes of a tree on disk: numbers and strings one after the other. What they are is said by each type.
//!
//! ```text
//! number   LEB128        blob   length as a number, bytes        float   eight bytes, little-endian
//! ```
//!
//! A number has one spelling, the shortest: so does everything that is made of numbers and blobs.

use bytes::BufMut;

pub(in crate::state) fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

pub(in crate::state) fn put_blob(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(in crate::state) fn put_float(out: &mut Vec<u8>, number: f64) {
    out.put_f64_le(number);
}

/// Reads what was put; `None` for bytes that nobody put so.
#[derive(Debug, Clone, Copy)]
pub(in crate::state) struct Body<'a>(pub &'a [u8]);

impl<'a> Body<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    pub fn number(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            number |= bits << shift;
            if byte < 0x80 {
                return (byte > 0 || shift == 0).then_some(number);
            }
        }
        None
    }

    pub fn blob(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok().filter(|length| *length <= self.0.len())?;
        let (blob, rest) = self.0.split_at(length);
        self.0 = rest;
        Some(blob)
    }

    pub fn float(&mut self) -> Option<f64> {
        let (bytes, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(f64::from_le_bytes(*bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_number_has_one_spelling(bytes in prop::collection::vec(any::<u8>(), 0..12), shift in 0..64u32, any in any::<u64>()) {
            let mut spelled = Vec::new();
            put_number(&mut spelled, any >> shift);
            prop_assert_eq!(Body(&spelled).number(), Some(any >> shift));
            let mut body = Body(&bytes);
            if let Some(number) = body.number() {
                let mut again = Vec::new();
                put_number(&mut again, number);
                prop_assert_eq!(&again, &bytes[..bytes.len() - body.0.len()]);
            }
        }
    }

    #[test]
    fn a_longer_spelling_is_none() {
        for bytes in
            [&[0x80, 0][..], &[0xff, 0x80, 0], &[0x80; 11], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]]
        {
            assert_eq!(Body(bytes).number(), None, "{bytes:?}");
        }
    }
}
