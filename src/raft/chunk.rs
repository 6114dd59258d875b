//! A snapshot's chunk as it is stored, sent and saved: packed by a codec that it names, and bound to its place.
//!
//! ```text
//! stored chunk   length u24 | codec u8 | packed | xxh3-64 of all before, seeded with the chunk's number
//! ```
//!
//! Little-endian. The length is that of the content; the number of the codec stands where its highest byte would be, and
//! that of lz4 is 0, so the chunks of the time before there was a choice are what they were. A chunk says by itself how
//! it is packed: which codec a node writes with is its own affair, and every node reads all of them. A chunk that does not
//! become much smaller is stored as it is, whatever the codec.
//!
//! A checksum proves that the bytes are those that were packed; only [`unpack`] proves that they can be unpacked.

use super::entry::Malformed;
use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The most that a chunk may hold: its length has three bytes.
pub const MAX_CHUNK_BYTES: usize = (1 << 24) - 1;

/// Length and codec.
const HEAD_BYTES: usize = 4;
const SUM_BYTES: usize = 8;

/// A way to pack chunks. Deterministic, without a state between chunks.
pub trait SnapshotCodec: Send + Sync {
    /// What chunks carry. Never given to another codec.
    fn number(&self) -> u8;
    /// What it is called in the configuration.
    fn name(&self) -> &'static str;
    /// Whether packing this content is worth its time.
    fn pays(&self, content: &[u8]) -> bool;
    /// Appends the packed content.
    fn pack(&self, content: &[u8], out: &mut Vec<u8>);
    /// The content, which is `length` bytes long.
    fn unpack(&self, packed: Bytes, length: usize) -> Result<Bytes, Malformed>;
}

/// LZ4 blocks: about half the size for text, at half a millisecond of CPU a megabyte. Three times that where matches are
/// many and short, as in random letters, for nothing: hence [`SAMPLE_BYTES`].
struct Lz4;

/// Of a long chunk so many bytes, from its middle, show whether all of it becomes smaller by at least an eighth.
const SAMPLE_BYTES: usize = 8 << 10;

impl SnapshotCodec for Lz4 {
    fn number(&self) -> u8 {
        0
    }

    fn name(&self) -> &'static str {
        "lz4"
    }

    fn pays(&self, content: &[u8]) -> bool {
        if content.len() < 8 * SAMPLE_BYTES {
            return true;
        }
        let sample = &content[content.len() / 2..][..SAMPLE_BYTES];
        lz4_flex::block::compress(sample).len() <= SAMPLE_BYTES / 8 * 7
    }

    fn pack(&self, content: &[u8], out: &mut Vec<u8>) {
        let from = out.len();
        out.resize(from + lz4_flex::block::get_maximum_output_size(content.len()), 0);
        let packed =
            lz4_flex::block::compress_into(content, &mut out[from..]).expect("there is room for the worst case");
        out.truncate(from + packed);
    }

    fn unpack(&self, packed: Bytes, length: usize) -> Result<Bytes, Malformed> {
        let content = lz4_flex::block::decompress(&packed, length);
        content.map(Bytes::from).map_err(|_| Malformed::Wrong("a snapshot chunk cannot be unpacked"))
    }
}

/// The bytes as they are: for values that are compressed already, or a disk that compresses by itself.
struct Plain;

impl SnapshotCodec for Plain {
    fn number(&self) -> u8 {
        1
    }

    fn name(&self) -> &'static str {
        "none"
    }

    fn pays(&self, _content: &[u8]) -> bool {
        true
    }

    fn pack(&self, content: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(content);
    }

    fn unpack(&self, packed: Bytes, _length: usize) -> Result<Bytes, Malformed> {
        Ok(packed)
    }
}

/// All codecs; a new one is added here and nowhere else.
static CODECS: &[&dyn SnapshotCodec] = &[&Lz4, &Plain];

/// The codec of this name.
pub fn codec(name: &str) -> Option<&'static dyn SnapshotCodec> {
    CODECS.iter().copied().find(|codec| codec.name() == name)
}

/// The codec of a store that is told of none.
pub fn default_codec() -> &'static dyn SnapshotCodec {
    &Lz4
}

/// Packs the chunk that stands at `place`.
///
/// # Panics
/// If the content is larger than [`MAX_CHUNK_BYTES`].
pub fn pack(codec: &dyn SnapshotCodec, place: u32, content: &[u8]) -> Vec<u8> {
    assert!(content.len() <= MAX_CHUNK_BYTES, "a stream is cut into chunks before it is packed");
    let codec = if codec.pays(content) { codec } else { &Plain };
    let mut out = Vec::with_capacity(content.len() * 9 / 8 + 64 + HEAD_BYTES + SUM_BYTES);
    let head = content.len() as u32 | u32::from(codec.number()) << 24;
    out.extend_from_slice(&head.to_le_bytes());
    codec.pack(content, &mut out);
    let sum = xxh3_64_with_seed(&out, u64::from(place));
    out.extend_from_slice(&sum.to_le_bytes());
    out
}

/// Verifies a stored chunk's checksum and its place; gives the length of its content.
pub fn check(place: u32, stored: &[u8]) -> Result<usize, Malformed> {
    read_head(place, stored).map(|(_, length)| length)
}

/// The content of a stored chunk, verified.
pub fn unpack(place: u32, stored: Bytes) -> Result<Bytes, Malformed> {
    let (codec, length) = read_head(place, &stored)?;
    let content = codec.unpack(stored.slice(HEAD_BYTES..stored.len() - SUM_BYTES), length)?;
    match content.len() == length {
        true => Ok(content),
        false => Err(Malformed::Wrong("a snapshot chunk has another length than it says")),
    }
}

fn read_head(place: u32, stored: &[u8]) -> Result<(&'static dyn SnapshotCodec, usize), Malformed> {
    let Some((body, sum)) = stored.split_last_chunk::<SUM_BYTES>() else {
        return Err(Malformed::Short("snapshot chunk"));
    };
    if xxh3_64_with_seed(body, u64::from(place)) != u64::from_le_bytes(*sum) {
        return Err(Malformed::Checksum("a snapshot chunk"));
    }
    let Some(head) = body.first_chunk::<HEAD_BYTES>() else { return Err(Malformed::Short("snapshot chunk")) };
    let head = u32::from_le_bytes(*head);
    let codec = CODECS.iter().copied().find(|codec| codec.number() == (head >> 24) as u8);
    let codec = codec.ok_or(Malformed::Wrong("a snapshot chunk is packed in a way that this program does not know"))?;
    Ok((codec, head as usize & MAX_CHUNK_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn a_chunk_is_bound_to_its_place_and_to_its_bytes_under_every_codec() {
        for codec in CODECS {
            let stored = pack(*codec, 3, b"some slots");
            assert_eq!(unpack(3, stored.clone().into()).unwrap(), &b"some slots"[..]);
            assert_eq!(check(3, &stored), Ok(10));
            assert_eq!(unpack(4, stored.clone().into()), Err(Malformed::Checksum("a snapshot chunk")));
            assert!(check(4, &stored).is_err());
            for bit in 0..stored.len() * 8 {
                let mut bad = stored.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(check(3, &bad).is_err(), "{} bit {bit}", codec.name());
            }
            for length in 0..stored.len() {
                assert!(unpack(3, stored[..length].to_vec().into()).is_err(), "{} {length}", codec.name());
            }
        }
    }

    #[test]
    fn golden_bytes_of_a_chunk_under_each_codec() {
        let content = b"abababababababababababababab";
        assert_eq!(hex(&pack(&Lz4, 1, content)), "1c0000002f616202000160616261626162948777ca57ff57d8");
        let plain = pack(&Plain, 1, content);
        let (body, sum) = plain.split_at(plain.len() - SUM_BYTES);
        assert_eq!(hex(body), format!("1c000001{}", "6162".repeat(14)));
        assert_eq!(sum, xxh3_64_with_seed(body, 1).to_le_bytes());
    }

    #[test]
    fn a_long_chunk_is_packed_if_that_makes_it_much_smaller() {
        let mut draw = 1u64;
        let mut letters = |alphabet: u64| -> Vec<u8> {
            let letter = |_| {
                draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                b'a' + ((draw >> 33) % alphabet) as u8
            };
            (0..256 << 10).map(letter).collect()
        };
        let (odd, alike) = (letters(26), letters(3));
        for (content, codec) in [(&odd, &Plain as &dyn SnapshotCodec), (&alike, &Lz4)] {
            let stored = pack(&Lz4, 7, content);
            assert_eq!(stored[3], codec.number(), "{}", codec.name());
            assert_eq!(unpack(7, stored.into()).unwrap(), content);
        }
        assert_eq!(pack(&Lz4, 7, &odd[..1000])[3], Lz4.number(), "short ones are not sampled");
    }

    #[test]
    fn a_codec_that_is_not_known_is_named_as_such() {
        let mut stored = pack(&Plain, 0, b"x");
        stored[3] = 99;
        let body = stored.len() - SUM_BYTES;
        let sum = xxh3_64_with_seed(&stored[..body], 0).to_le_bytes();
        stored[body..].copy_from_slice(&sum);
        let refused = unpack(0, stored.into()).unwrap_err();
        assert!(refused.to_string().contains("does not know"), "{refused}");
    }

    #[test]
    fn numbers_and_names_are_each_given_once() {
        let numbers: std::collections::BTreeSet<u8> = CODECS.iter().map(|codec| codec.number()).collect();
        assert_eq!(numbers.len(), CODECS.len());
        assert!(CODECS.iter().all(|one| codec(one.name()).is_some_and(|found| found.number() == one.number())));
    }
}
