//! One reply out of the parts of a request that ran in several groups. Pure.
//!
//! A write that took effect in some groups and not in others is never called *not applied*: its reply is UNCERTAIN.

use crate::commands::Merge;
use crate::env;
use crate::resp::Reply;
use bytes::Bytes;

/// The parts of one request as they come in.
pub(super) struct Gather {
    merge: Merge,
    writes: bool,
    parts: Vec<Option<Reply>>,
    missing: usize,
    /// For [`Merge::PerKey`]: which key of the request each element of each part answers.
    places: Vec<Vec<usize>>,
}

impl Gather {
    pub fn new(merge: Merge, writes: bool, parts: usize, places: Vec<Vec<usize>>) -> Gather {
        Gather { merge, writes, parts: (0..parts).map(|_| None).collect(), missing: parts, places }
    }

    /// A part becomes several, of the keys at these places in it. Gives their numbers; the first keeps its own.
    pub fn split(&mut self, part: u32, into: &[Vec<usize>]) -> Vec<u32> {
        let of = self.places.get(part as usize).cloned();
        let mut numbers = vec![part];
        numbers.extend((1..into.len()).map(|nth| (self.parts.len() + nth - 1) as u32));
        let further = numbers.len() - 1;
        self.parts.extend((0..further).map(|_| None));
        self.missing += further;
        if let Some(of) = of {
            self.places.resize(self.parts.len(), Vec::new());
            for (number, places) in numbers.iter().zip(into) {
                self.places[*number as usize] = places.iter().filter_map(|at| of.get(*at).copied()).collect();
            }
        }
        numbers
    }

    /// Notes a part's reply; true once all are there.
    pub fn put(&mut self, part: u32, reply: Reply) -> bool {
        if let Some(place @ None) = self.parts.get_mut(part as usize) {
            *place = Some(reply);
            self.missing -= 1;
        }
        self.missing == 0
    }

    /// Whether a part is an error.
    pub fn has_error(&self) -> bool {
        self.parts.iter().flatten().any(Reply::is_error)
    }

    /// The reply of the whole. All parts must be there.
    pub fn finish(&mut self) -> Reply {
        let parts: Vec<Reply> = std::mem::take(&mut self.parts).into_iter().flatten().collect();
        if let Some(error) = self.error(&parts) {
            return error;
        }
        match self.merge {
            Merge::Sum => Reply::Int(parts.iter().map(|p| if let Reply::Int(n) = p { *n } else { 0 }).sum()),
            Merge::PerKey => self.per_key(parts),
            Merge::Concat => {
                let items = parts.into_iter().flat_map(|p| match p {
                    Reply::Array(items) | Reply::Set(items) => items,
                    _ => Vec::new(),
                });
                Reply::Array(items.collect())
            }
            Merge::Same => parts.into_iter().next().unwrap_or(Reply::OK),
            Merge::AnyNonNil => any_non_nil(parts),
        }
    }

    fn error(&self, parts: &[Reply]) -> Option<Reply> {
        let first = parts.iter().find_map(|p| if let Reply::Error(text) = p { Some(text) } else { None })?;
        let unknown = |p: &Reply| matches!(p, Reply::Error(text) if text.starts_with(b"UNCERTAIN"));
        if let Some(uncertain) = parts.iter().find(|p| unknown(p)) {
            return Some(uncertain.clone());
        }
        if self.writes && parts.iter().any(|p| !p.is_error()) {
            let mut text = b"UNCERTAIN the command was applied to some of its keys only: ".to_vec();
            text.extend_from_slice(first);
            return Some(Reply::Error(Bytes::from(text)));
        }
        Some(Reply::Error(first.clone()))
    }

    fn per_key(&self, parts: Vec<Reply>) -> Reply {
        let total = self.places.iter().map(Vec::len).sum();
        let mut out: Vec<Reply> = vec![Reply::Nil; total];
        for (places, part) in self.places.iter().zip(parts) {
            if let Reply::Array(items) = part {
                for (place, item) in places.iter().zip(items) {
                    out[*place] = item;
                }
            }
        }
        Reply::Array(out)
    }
}

/// Any of those that are not nil, each as likely: for RANDOMKEY, groups being about equally full.
fn any_non_nil(parts: Vec<Reply>) -> Reply {
    let mut found: Vec<Reply> = parts.into_iter().filter(|p| !matches!(p, Reply::Nil | Reply::NilArray)).collect();
    match found.len() {
        0 => Reply::Nil,
        n => found.swap_remove((env::seed() % n as u64) as usize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(t: &'static str) -> Reply {
        Reply::Bulk(Bytes::from_static(t.as_bytes()))
    }

    #[test]
    fn per_key_replies_stand_in_the_order_of_the_keys() {
        let mut g = Gather::new(Merge::PerKey, false, 2, vec![vec![0, 3], vec![2, 1]]);
        assert!(!g.put(1, Reply::Array(vec![bulk("c"), bulk("b")])));
        assert!(g.put(0, Reply::Array(vec![bulk("a"), Reply::Nil])));
        assert_eq!(g.finish(), Reply::Array(vec![bulk("a"), bulk("b"), bulk("c"), Reply::Nil]));
    }

    #[test]
    fn a_part_whose_keys_go_different_ways_becomes_several() {
        let mut g = Gather::new(Merge::PerKey, false, 2, vec![vec![0, 2, 4], vec![1, 3]]);
        assert_eq!(g.split(0, &[vec![1], vec![0, 2]]), [0, 2]);
        assert!(!g.put(1, Reply::Array(vec![bulk("b"), bulk("d")])));
        assert!(!g.put(0, Reply::Array(vec![bulk("c")])));
        assert!(g.put(2, Reply::Array(vec![bulk("a"), bulk("e")])));
        assert_eq!(g.finish(), Reply::Array(["a", "b", "c", "d", "e"].into_iter().map(bulk).collect()));
        let mut sum = Gather::new(Merge::Sum, true, 1, Vec::new());
        assert_eq!(sum.split(0, &[vec![0], vec![1]]), [0, 1]);
        assert!(!sum.put(0, Reply::Int(1)) && sum.put(1, Reply::Int(2)));
        assert_eq!(sum.finish(), Reply::Int(3));
    }

    #[test]
    fn a_write_applied_in_part_is_never_called_not_applied() {
        let mut g = Gather::new(Merge::Sum, true, 2, Vec::new());
        g.put(0, Reply::Int(1));
        g.put(1, Reply::error("CLUSTERDOWN no leader"));
        let Reply::Error(text) = g.finish() else { panic!("an error") };
        assert!(text.starts_with(b"UNCERTAIN"), "{text:?}");
    }

    #[test]
    fn a_write_refused_everywhere_keeps_its_code() {
        let mut g = Gather::new(Merge::Sum, true, 2, Vec::new());
        g.put(0, Reply::error("CLUSTERDOWN no leader"));
        g.put(1, Reply::error("CLUSTERDOWN no leader"));
        assert_eq!(g.finish(), Reply::error("CLUSTERDOWN no leader"));
    }

    #[test]
    fn uncertainty_of_one_part_wins_over_refusal_of_another() {
        let mut g = Gather::new(Merge::Same, true, 2, Vec::new());
        g.put(0, Reply::error("CLUSTERDOWN no leader"));
        g.put(1, Reply::error("UNCERTAIN maybe"));
        assert_eq!(g.finish(), Reply::error("UNCERTAIN maybe"));
    }

    #[test]
    fn random_key_comes_from_a_group_that_has_one() {
        let mut g = Gather::new(Merge::AnyNonNil, false, 3, Vec::new());
        g.put(0, Reply::Nil);
        g.put(1, bulk("k"));
        g.put(2, Reply::Nil);
        assert_eq!(g.finish(), bulk("k"));
    }

    #[test]
    fn no_parts_at_all_are_an_empty_reply() {
        assert_eq!(Gather::new(Merge::Sum, false, 0, Vec::new()).finish(), Reply::Int(0));
        assert_eq!(Gather::new(Merge::Concat, false, 0, Vec::new()).finish(), Reply::Array(Vec::new()));
    }
}
