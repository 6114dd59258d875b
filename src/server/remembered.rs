//! Parameters of Redis that are numbers: taken by CONFIG SET, shown by CONFIG GET, and kept by this node until it restarts.
//!
//! One table; what a parameter means in Redis stands in its line. HyperCache keeps forms of its own, so that nothing here
//! depends on one of them; those that something does depend on are the whole cluster's ([`crate::cluster::Agreed`]).

use crate::cluster::number::Number;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

/// A parameter, and Redis 7.2's default.
struct Kept {
    number: Number,
    default: i64,
}

/// In order of names.
static KEPT: &[Kept] = &[
    // A HyperLogLog longer than this is written out in full.
    Kept { number: Number::bytes("hll-sparse-max-bytes", None), default: 3000 },
    // How many inner nodes of a list Redis would compress: nothing here is.
    Kept { number: Number::plain("list-compress-depth", None, (0, i32::MAX as i64)), default: 0 },
    // Where Redis begins another node of a stream; XTRIM with ~ may stop at one.
    Kept { number: Number::bytes("stream-node-max-bytes", None), default: 4096 },
    Kept { number: Number::plain("stream-node-max-entries", None, (0, i64::MAX)), default: 100 },
];

/// Their values on this node.
pub(super) struct Remembered {
    values: Box<[AtomicI64]>,
}

impl Default for Remembered {
    fn default() -> Remembered {
        Remembered { values: KEPT.iter().map(|kept| AtomicI64::new(kept.default)).collect() }
    }
}

/// The place of a parameter by either of its names.
fn place(name: &str) -> Option<usize> {
    KEPT.iter().position(|kept| kept.number.is_called(name))
}

impl Remembered {
    /// The value of a parameter; 0 for a name that is none. Nothing depends on one of these yet.
    #[cfg(test)]
    pub fn get(&self, name: &str) -> i64 {
        place(name).map_or(0, |at| self.values[at].load(Relaxed))
    }

    /// Names, the older ones too, and values as CONFIG GET shows them.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, String)> + '_ {
        KEPT.iter().zip(&self.values).flat_map(|(kept, value)| {
            let text = value.load(Relaxed).to_string();
            kept.number.names().map(move |name| (name, text.clone()))
        })
    }

    /// Sets a parameter; None if there is none of that name, else what a value must be.
    pub fn set(&self, name: &str, text: &str) -> Option<Result<(), String>> {
        let at = place(name)?;
        Some(KEPT[at].number.parse(text).map(|value| self.values[at].store(value, Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_order_and_unique() {
        assert!(KEPT.windows(2).all(|w| w[0].number.name < w[1].number.name));
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
