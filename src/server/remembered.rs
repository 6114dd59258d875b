//! Parameters of Redis that are numbers: taken by CONFIG SET, shown by CONFIG GET, and kept by this node until it restarts.
//!
//! One table; what a parameter means here stands in its line. The limits of encodings say when Redis would turn a compact
//! value into an ordinary one: HyperCache keeps forms of its own, so that they can change no more than the name that OBJECT
//! ENCODING gives.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

/// One parameter.
pub(super) struct Number {
    pub name: &'static str,
    /// Redis' older name, which means the same.
    pub alias: Option<&'static str>,
    /// Redis 7.2's default.
    default: i64,
    least: i64,
    most: i64,
    unit: Unit,
}

/// How a value is written.
#[derive(Clone, Copy, PartialEq)]
enum Unit {
    /// Digits.
    Plain,
    /// Digits and perhaps a unit: `4kb`.
    Bytes,
}

const fn number(name: &'static str, alias: Option<&'static str>, default: i64, range: (i64, i64)) -> Number {
    Number { name, alias, default, least: range.0, most: range.1, unit: Unit::Plain }
}

const fn bytes(name: &'static str, alias: Option<&'static str>, default: i64) -> Number {
    Number { name, alias, default, least: 0, most: i64::MAX, unit: Unit::Bytes }
}

/// In order of names.
static NUMBERS: &[Number] = &[
    // Hashes of more fields, or of longer ones, are called a hashtable.
    number("hash-max-listpack-entries", Some("hash-max-ziplist-entries"), 128, (0, i64::MAX)),
    bytes("hash-max-listpack-value", Some("hash-max-ziplist-value"), 64),
    // A HyperLogLog longer than this is written out in full.
    bytes("hll-sparse-max-bytes", None, 3000),
    // How many inner nodes of a list Redis would compress: nothing here is.
    number("list-compress-depth", None, 0, (0, i32::MAX as i64)),
    // Lists of more elements, or from -1 down of more than 4, 8, 16, 32 or 64 KiB, are called a quicklist.
    number("list-max-listpack-size", Some("list-max-ziplist-size"), -2, (i32::MIN as i64, i32::MAX as i64)),
    // Sets of whole numbers with more members are no intset.
    number("set-max-intset-entries", None, 512, (0, i64::MAX)),
    // Sets of more members, or of longer ones, are called a hashtable.
    number("set-max-listpack-entries", None, 128, (0, i64::MAX)),
    bytes("set-max-listpack-value", None, 64),
    // Where Redis begins another node of a stream; XTRIM with ~ may stop at one.
    bytes("stream-node-max-bytes", None, 4096),
    number("stream-node-max-entries", None, 100, (0, i64::MAX)),
    // Sorted sets of more members, or of longer ones, are called a skiplist.
    number("zset-max-listpack-entries", Some("zset-max-ziplist-entries"), 128, (0, i64::MAX)),
    bytes("zset-max-listpack-value", Some("zset-max-ziplist-value"), 64),
];

/// Their values on this node.
pub(super) struct Remembered {
    values: Box<[AtomicI64]>,
}

impl Default for Remembered {
    fn default() -> Remembered {
        Remembered { values: NUMBERS.iter().map(|number| AtomicI64::new(number.default)).collect() }
    }
}

/// The place of a parameter by either of its names.
fn place(name: &str) -> Option<usize> {
    NUMBERS.iter().position(|number| number.name == name || number.alias == Some(name))
}

impl Remembered {
    /// The value of a parameter; 0 for a name that is none. Nothing depends on one of these yet.
    #[cfg(test)]
    pub fn get(&self, name: &str) -> i64 {
        place(name).map_or(0, |at| self.values[at].load(Relaxed))
    }

    /// Names, the older ones too, and values as CONFIG GET shows them.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, String)> + '_ {
        NUMBERS.iter().zip(&self.values).flat_map(|(number, value)| {
            let text = value.load(Relaxed).to_string();
            std::iter::once(number.name).chain(number.alias).map(move |name| (name, text.clone()))
        })
    }

    /// Sets a parameter; None if there is none of that name, else what a value must be.
    pub fn set(&self, name: &str, text: &str) -> Option<Result<(), String>> {
        let at = place(name)?;
        Some(NUMBERS[at].parse(text).map(|value| self.values[at].store(value, Relaxed)))
    }
}

impl Number {
    fn parse(&self, text: &str) -> Result<i64, String> {
        let value = match self.unit {
            Unit::Plain => text.parse().map_err(|_| "argument couldn't be parsed into an integer".to_owned())?,
            Unit::Bytes => crate::cluster::memory_size(text)
                .and_then(|bytes| i64::try_from(bytes).ok())
                .ok_or_else(|| "argument must be a memory value".to_owned())?,
        };
        if (self.least..=self.most).contains(&value) {
            return Ok(value);
        }
        Err(format!("argument must be between {} and {} inclusive", self.least, self.most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_order_and_unique() {
        assert!(NUMBERS.windows(2).all(|w| w[0].name < w[1].name));
    }

    #[test]
    fn both_names_mean_the_same() {
        let kept = Remembered::default();
        assert_eq!(kept.set("zset-max-ziplist-entries", "7"), Some(Ok(())));
        assert_eq!(kept.get("zset-max-listpack-entries"), 7);
        let shown: Vec<_> =
            kept.all().filter(|(name, _)| name.ends_with("-entries") && name.starts_with("z")).collect();
        let seven = "7".to_owned();
        assert_eq!(shown, [("zset-max-listpack-entries", seven.clone()), ("zset-max-ziplist-entries", seven)]);
    }

    #[test]
    fn a_value_that_cannot_be_changes_nothing() {
        let kept = Remembered::default();
        for (name, text) in [("list-compress-depth", "-1"), ("hll-sparse-max-bytes", "1xb")] {
            assert!(matches!(kept.set(name, text), Some(Err(_))), "{name}");
        }
        assert_eq!((kept.get("list-compress-depth"), kept.get("hll-sparse-max-bytes")), (0, 3000));
        assert_eq!(kept.set("no-such-thing", "1"), None);
    }

    #[test]
    fn bytes_may_have_a_unit() {
        let kept = Remembered::default();
        assert_eq!(kept.set("stream-node-max-bytes", "4kb"), Some(Ok(())));
        assert_eq!(kept.get("stream-node-max-bytes"), 4096);
    }
}
