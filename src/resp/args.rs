//! A request's arguments, which many look at and nobody changes.

use bytes::Bytes;
use smallvec::SmallVec;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// A request: the canonical argument vector. `[0]` is the command's name as it was sent; a request has at least that.
///
/// It is shared: on its way through session, lane, proposer and logs it is handed on and kept as one word and its length,
/// whatever it consists of.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Args(Arc<[Bytes]>);

impl Args {
    /// None at all: what stands where a request has been taken from.
    pub fn new() -> Args {
        Args::default()
    }

    /// `count` arguments by their places. Allocates once.
    pub fn by_place(count: usize, argument: impl FnMut(usize) -> Bytes) -> Args {
        Args((0..count).map(argument).collect())
    }

    /// The same in the place of arguments that are not needed any more. Allocates only if these are shared or of another number.
    pub fn in_place_of(mut spent: Args, count: usize, mut argument: impl FnMut(usize) -> Bytes) -> Args {
        match Arc::get_mut(&mut spent.0).filter(|places| places.len() == count) {
            Some(places) => places.iter_mut().enumerate().for_each(|(place, at)| *at = argument(place)),
            None => return Args::by_place(count, argument),
        }
        spent
    }
}

impl Deref for Args {
    type Target = [Bytes];

    fn deref(&self) -> &[Bytes] {
        &self.0
    }
}

impl From<Vec<Bytes>> for Args {
    fn from(arguments: Vec<Bytes>) -> Args {
        Args(arguments.into())
    }
}

impl From<&[Bytes]> for Args {
    fn from(arguments: &[Bytes]) -> Args {
        Args(arguments.into())
    }
}

impl FromIterator<Bytes> for Args {
    fn from_iter<I: IntoIterator<Item = Bytes>>(arguments: I) -> Args {
        let mut arguments: SmallVec<[Bytes; 4]> = arguments.into_iter().collect();
        Args::by_place(arguments.len(), |place| std::mem::take(&mut arguments[place]))
    }
}

impl<'a> IntoIterator for &'a Args {
    type Item = &'a Bytes;
    type IntoIter = std::slice::Iter<'a, Bytes>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl fmt::Debug for Args {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&'static str]) -> Args {
        words.iter().map(|word| Bytes::from_static(word.as_bytes())).collect()
    }

    #[test]
    fn new_arguments_take_the_place_of_spent_ones_that_nobody_shares() {
        let refill = |spent, words: &[&'static str]| {
            Args::in_place_of(spent, words.len(), |place| Bytes::from_static(words[place].as_bytes()))
        };
        let spent = args(&["set", "k", "v"]);
        let at = spent.as_ptr();
        let next = refill(spent, &["get", "l", "w"]);
        assert_eq!((next.as_ptr(), &next), (at, &args(&["get", "l", "w"])));
        assert_eq!(refill(next.clone(), &["a", "b", "c"]), args(&["a", "b", "c"]));
        assert_eq!(next, args(&["get", "l", "w"]), "somebody else has it still");
        assert_eq!(refill(next, &["del", "m"]), args(&["del", "m"]));
    }
}
