//! Until when values stay packed, as CONFIG SET says it for the whole cluster.
//!
//! The form of a value is part of the replicated state, so each group's log carries these limits to it, as it does with
//! memory. Values that are there keep their form until they are written to.

use super::number::Number;
use crate::state::Packing;

/// A parameter, and the number of [`Packing`] that it is.
pub(super) struct Parameter {
    pub number: Number,
    pub get: fn(&Packing) -> i64,
    pub set: fn(&mut Packing, i64),
}

const ANY: (i64, i64) = (0, i64::MAX);

/// In order of names.
pub(super) static PARAMETERS: &[Parameter] = &[
    Parameter {
        number: Number::plain("hash-max-listpack-entries", Some("hash-max-ziplist-entries"), ANY),
        get: |packing| packing.hash.entries as i64,
        set: |packing, entries| packing.hash.entries = entries as usize,
    },
    Parameter {
        number: Number::bytes("hash-max-listpack-value", Some("hash-max-ziplist-value")),
        get: |packing| packing.hash.value as i64,
        set: |packing, bytes| packing.hash.value = bytes as usize,
    },
    // Elements of a list, or from -1 down at most 4, 8, 16, 32 or 64 KiB of them.
    Parameter {
        number: Number::plain(
            "list-max-listpack-size",
            Some("list-max-ziplist-size"),
            (i32::MIN as i64, i32::MAX as i64),
        ),
        get: |packing| packing.list,
        set: |packing, size| packing.list = size,
    },
    Parameter {
        number: Number::plain("set-max-intset-entries", None, ANY),
        get: |packing| packing.set_integers as i64,
        set: |packing, members| packing.set_integers = members as usize,
    },
    Parameter {
        number: Number::plain("set-max-listpack-entries", None, ANY),
        get: |packing| packing.set.entries as i64,
        set: |packing, entries| packing.set.entries = entries as usize,
    },
    Parameter {
        number: Number::bytes("set-max-listpack-value", None),
        get: |packing| packing.set.value as i64,
        set: |packing, bytes| packing.set.value = bytes as usize,
    },
    Parameter {
        number: Number::plain("zset-max-listpack-entries", Some("zset-max-ziplist-entries"), ANY),
        get: |packing| packing.sorted.entries as i64,
        set: |packing, entries| packing.sorted.entries = entries as usize,
    },
    Parameter {
        number: Number::bytes("zset-max-listpack-value", Some("zset-max-ziplist-value")),
        get: |packing| packing.sorted.value as i64,
        set: |packing, bytes| packing.sorted.value = bytes as usize,
    },
];

/// The parameter of this name, or of this older one.
pub(super) fn named(name: &str) -> Option<&'static Parameter> {
    PARAMETERS.iter().find(|parameter| parameter.number.is_called(name))
}

/// The name under which a parameter is kept: the newer one.
pub(super) fn document(name: &str) -> &str {
    named(name).map_or(name, |parameter| parameter.number.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_order_and_each_sets_a_number_of_its_own() {
        assert!(PARAMETERS.windows(2).all(|w| w[0].number.name < w[1].number.name));
        let mut packing = Packing::default();
        for (at, parameter) in PARAMETERS.iter().enumerate() {
            (parameter.set)(&mut packing, 1000 + at as i64);
        }
        for (at, parameter) in PARAMETERS.iter().enumerate() {
            assert_eq!((parameter.get)(&packing), 1000 + at as i64, "{}", parameter.number.name);
        }
    }
}
