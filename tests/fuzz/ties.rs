//! What SORT leaves open: the order of a set's elements that nothing orders, and the order of elements of one weight. Texts end
//! at their first NUL there, in Redis.
//!
//! Redis is asked for all elements with their weights; a reply is right if an order of them exists that keeps the weights' order
//! and of which the reply is the part that was asked for.

use super::meant::{is, items, number, sorts};
use bytes::Bytes;
use hypercache::resp::{Args, Reply};

/// A SORT whose order is not wholly decided by what it asks.
pub struct Open {
    key: Bytes,
    by: Option<Bytes>,
    descending: bool,
    limit: Option<(i64, i64)>,
    get: Vec<Bytes>,
}

impl Open {
    /// `None` if it is another request, or one whose reply has one right order whatever the key holds.
    pub fn parse(args: &Args) -> Option<Open> {
        if !sorts(args) {
            return None;
        }
        let mut alpha = false;
        let mut open = Open { key: args.get(1)?.clone(), by: None, descending: false, limit: None, get: Vec::new() };
        let mut rest = args.get(2..)?;
        while let [word, after @ ..] = rest {
            rest = after;
            match after {
                _ if is(word, "asc") => open.descending = false,
                _ if is(word, "desc") => open.descending = true,
                _ if is(word, "alpha") => alpha = true,
                [skipped, count, after @ ..] if is(word, "limit") => {
                    open.limit = Some((number(skipped)?, number(count)?));
                    rest = after;
                }
                [pattern, after @ ..] if is(word, "by") => {
                    open.by = Some(pattern.clone());
                    rest = after;
                }
                [pattern, after @ ..] if is(word, "get") => {
                    open.get.push(pattern.clone());
                    rest = after;
                }
                // With STORE the reply is a number.
                _ => return None,
            }
        }
        // Weights that are numbers decide, and where they are the same the elements themselves.
        (alpha || !open.has_weights()).then_some(open)
    }

    pub fn has_weights(&self) -> bool {
        self.by.as_ref().is_none_or(|by| by.contains(&b'*'))
    }

    pub fn key(&self) -> &Bytes {
        &self.key
    }

    /// Asks for all elements in order, each as its weight and what the request asks of it.
    pub fn everything(&self) -> Args {
        let fixed = |word: &'static str| Bytes::from_static(word.as_bytes());
        let mut args = vec![fixed("SORT_RO"), self.key.clone(), fixed("ALPHA")];
        args.extend(self.descending.then(|| fixed("DESC")));
        args.extend(self.by.iter().flat_map(|by| [fixed("BY"), by.clone()]));
        let element = [fixed("#")];
        let get = if self.get.is_empty() { &element[..] } else { &self.get };
        let weight = self.by.as_ref().filter(|_| self.has_weights()).unwrap_or(&element[0]);
        args.extend(std::iter::once(weight).chain(get).flat_map(|pattern| [fixed("GET"), pattern.clone()]));
        args.into_iter().collect()
    }

    /// Whether `reply` is right, if `all` answers [`Open::everything`].
    pub fn allows(&self, reply: &Reply, all: &Reply) -> bool {
        let width = self.get.len().max(1);
        let (Some(said), Some(all)) = (items(reply), items(all)) else { return false };
        let weight = |row: &[Reply]| {
            self.has_weights().then(|| match &row[0] {
                Reply::Bulk(text) => Some(text.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()),
                _ => None,
            })
        };
        let mut rows: Vec<_> = all.chunks_exact(width + 1).map(|row| (weight(row), &row[1..])).collect();
        let weights: Vec<_> = rows.iter().map(|(weight, _)| weight.clone()).collect();
        let (skipped, count) = self.limit.unwrap_or((0, -1));
        let from = usize::try_from(skipped).unwrap_or(0).min(weights.len());
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(weights.len() - from);
        said.len() == count * width
            && said.chunks_exact(width).zip(&weights[from..]).all(|(row, weight)| {
                let found = rows.iter().position(|(of, all)| of == weight && *all == row);
                found.map(|at| rows.swap_remove(at)).is_some()
            })
    }
}
