//! Key -> slot, exactly as Redis Cluster computes it: CRC16 (XMODEM) of the key's hash tag, modulo 16,384.
//!
//! Pure and part of the on-disk format: snapshots are cut by slot, so this function may never change.
//! Source: the Redis Cluster specification, "Keys distribution model" and its appendix A.

use crate::types::{SLOTS, Slot};

/// Bytes that are taken in one step. Their look-ups do not wait for one another.
const STEP: usize = 4;

/// CRC16 with polynomial 0x1021, initial value 0, most significant bit first: of each byte with so many zeros behind it.
static TABLES: [[u16; 256]; STEP] = {
    let mut tables = [[0u16; 256]; STEP];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut zeros) = ((byte as u16) << 8, 0);
        while zeros < STEP {
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 0x8000 != 0 { (crc << 1) ^ 0x1021 } else { crc << 1 };
                bit += 1;
            }
            tables[zeros][byte] = crc;
            zeros += 1;
        }
        byte += 1;
    }
    tables
};

/// CRC16/XMODEM of `bytes`.
pub fn crc16(bytes: &[u8]) -> u16 {
    let (steps, rest) = bytes.as_chunks::<STEP>();
    let of = |zeros: usize, byte: u8| TABLES[zeros][usize::from(byte)];
    let crc = steps.iter().fold(0u16, |crc, &[a, b, c, d]| {
        let [high, low] = crc.to_be_bytes();
        of(3, high ^ a) ^ of(2, low ^ b) ^ of(1, c) ^ of(0, d)
    });
    rest.iter().fold(crc, |crc, &byte| (crc << 8) ^ of(0, (crc >> 8) as u8 ^ byte))
}

/// The part of the key that decides its slot: what stands between the first `{` and the next `}`, if that is not
/// empty, else the whole key.
pub fn hash_tag(key: &[u8]) -> &[u8] {
    // Nearly no key has one, and to see that of many bytes at a time is quicker than to look where it is.
    if !key.iter().fold(false, |found, &b| found | (b == b'{')) {
        return key;
    }
    let Some(open) = key.iter().position(|&b| b == b'{') else { return key };
    let inside = &key[open + 1..];
    match inside.iter().position(|&b| b == b'}') {
        None | Some(0) => key,
        Some(close) => &inside[..close],
    }
}

/// The slot of a key.
pub fn slot_of(key: &[u8]) -> Slot {
    Slot(crc16(hash_tag(key)) % SLOTS as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_has_the_published_check_value() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(crc16(b""), 0);
    }

    #[test]
    fn slots_are_those_of_redis() {
        // CLUSTER KEYSLOT of a Redis 7 server.
        for (key, slot) in [
            (&b"foo"[..], 12182),
            (b"bar", 5061),
            (b"hello", 866),
            (b"somekey", 11058),
            (b"foo{hash_tag}", 2515),
            (b"bar{hash_tag}", 2515),
            (b"", 0),
        ] {
            assert_eq!(slot_of(key), Slot(slot), "{key:?}");
        }
    }

    #[test]
    fn hash_tags_follow_the_specification() {
        assert_eq!(hash_tag(b"{user1000}.following"), b"user1000");
        assert_eq!(hash_tag(b"foo{}{bar}"), b"foo{}{bar}");
        assert_eq!(hash_tag(b"foo{{bar}}zap"), b"{bar");
        assert_eq!(hash_tag(b"foo{bar}{zap}"), b"bar");
        assert_eq!(hash_tag(b"foo{bar"), b"foo{bar");
        assert_eq!(hash_tag(b"foo}bar{"), b"foo}bar{");
    }
}
