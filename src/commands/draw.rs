//! Choosing elements at random: in apply by the entry's seed, so that all replicas choose alike; for a read by draws of
//! the replica's own.

use super::syntax::want_integer;
use crate::resp::Reply;
use crate::state::View;
use crate::types::Stamp;
use std::collections::BTreeSet;

/// Elements that a call may ask for with a negative count: the reply is made as a whole.
pub(super) const DRAWN_MAX: u64 = 1 << 20;

/// How many elements a read is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Count {
    /// As many different ones, or all.
    Different(usize),
    /// As many, each drawn among all.
    Any(usize),
}

impl Count {
    /// As the commands that have a negative count read it.
    pub fn parse(text: &[u8]) -> Result<Count, Reply> {
        let count = want_integer(text)?;
        match usize::try_from(count.unsigned_abs()).expect("a length has 64 bits") {
            count_of if count >= 0 => Ok(Count::Different(count_of)),
            count_of if count_of as u64 <= DRAWN_MAX => Ok(Count::Any(count_of)),
            _ => Err(Reply::error(format!("ERR value is out of range, must not be less than -{DRAWN_MAX}"))),
        }
    }

    /// The positions of the elements, of `len`.
    pub fn positions(self, len: usize, draw: impl FnMut() -> u64) -> Vec<usize> {
        match self {
            _ if len == 0 => Vec::new(),
            Count::Different(count) => different(count, len, draw),
            Count::Any(count) => std::iter::repeat_with(draw).take(count).map(|drawn| below(len, drawn)).collect(),
        }
    }
}

/// Draws for a write, by its stamp alone: the effects of a script draw in the log what they drew on its copies, whose
/// versions are others. Each call of an entry has a seed of its own.
pub(super) fn of_entry(stamp: &Stamp) -> impl FnMut() -> u64 + use<> {
    let mut state = stamp.seed;
    move || {
        // SplitMix64.
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut drawn = state;
        drawn = (drawn ^ drawn >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        drawn = (drawn ^ drawn >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        drawn ^ drawn >> 31
    }
}

/// Draws for a read.
pub(super) fn of_view<'a>(view: &'a View<'_>) -> impl FnMut() -> u64 + use<'a> {
    || view.draw()
}

/// A number below `len`, which is not 0, made of one that was drawn.
pub(super) fn below(len: usize, drawn: u64) -> usize {
    ((u128::from(drawn) * len as u128) >> 64) as usize
}

/// Different positions of `len`, ascending: `count` of them or all.
pub(super) fn different(count: usize, len: usize, mut draw: impl FnMut() -> u64) -> Vec<usize> {
    if count >= len {
        return (0..len).collect();
    }
    // Floyd's algorithm, for those that are drawn or for those that are left out.
    let few = count.min(len - count);
    let mut drawn = BTreeSet::new();
    for last in len - few..len {
        let at = below(last + 1, draw());
        drawn.insert(if drawn.contains(&at) { last } else { at });
    }
    match few == count {
        true => drawn.into_iter().collect(),
        false => (0..len).filter(|at| !drawn.contains(at)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_positions_are_different_and_each_is_as_likely() {
        let mut draw = of_entry(&Stamp { now_ms: 0, seed: 5 });
        for (count, len) in [(0, 5), (1, 5), (4, 5), (5, 5), (9, 5), (3, 10), (1, 1), (2, 0)] {
            let mut times = vec![0; len];
            for _ in 0..2000 {
                let positions = different(count, len, &mut draw);
                assert_eq!(positions.len(), count.min(len));
                assert!(positions.windows(2).all(|pair| pair[0] < pair[1]));
                positions.into_iter().for_each(|at| times[at] += 1);
            }
            let expected = 2000 * count.min(len) / len.max(1);
            assert!(times.iter().all(|times| expected * 8 / 10 <= *times && *times <= expected * 12 / 10), "{times:?}");
        }
    }
}
