//! LCS: the longest common subsequence of two strings.
//!
//! One bit a pair of bytes is kept, which way the longer rest lies; what matches is seen again on the way back. The work is
//! bounded by [`PAIRS_MAX`], because a read has its thread for itself while it runs.

use super::generic::BASE;
use super::syntax::{is, syntax_error, want_integer};
use super::text::text_of;
use super::{Command, Keys, ReadCommand, Spec, read};
use crate::resp::{Args, Reply};
use crate::state::View;
use bytes::Bytes;

/// Most pairs of bytes that are compared: two strings of 8 KiB each.
const PAIRS_MAX: usize = 1 << 26;

struct Lcs {
    keys: [Bytes; 2],
    wants: Wants,
    with_length: bool,
    shortest: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Wants {
    Text,
    Length,
    Places,
}

/// A stretch that both strings have: where it begins in each, and how long it is.
type Stretch = (usize, usize, usize);

/// The common stretches, the last ones first, and how long they are together.
fn stretches(a: &[u8], b: &[u8]) -> (Vec<Stretch>, usize) {
    let width = b.len();
    let mut up = vec![0u64; (a.len() * width).div_ceil(64)];
    // Lengths for the row above and for this one.
    let (mut above, mut row) = (vec![0u32; width + 1], vec![0u32; width + 1]);
    for (i, x) in a.iter().enumerate() {
        for (j, y) in b.iter().enumerate() {
            row[j + 1] = if x == y { above[j] + 1 } else { above[j + 1].max(row[j]) };
            if above[j + 1] > row[j] {
                let at = i * width + j;
                up[at / 64] |= 1 << (at % 64);
            }
        }
        std::mem::swap(&mut above, &mut row);
    }
    let (mut found, mut open): (Vec<Stretch>, Option<Stretch>) = (Vec::new(), None);
    let (mut i, mut j) = (a.len(), width);
    while i > 0 && j > 0 {
        if a[i - 1] == b[j - 1] {
            (i, j) = (i - 1, j - 1);
            open = Some((i, j, open.map_or(0, |(.., length)| length) + 1));
            continue;
        }
        found.extend(open.take());
        let at = (i - 1) * width + j - 1;
        if up[at / 64] >> (at % 64) & 1 == 1 { i -= 1 } else { j -= 1 }
    }
    found.extend(open);
    (found, above[width] as usize)
}

impl Lcs {
    fn reply(&self, a: &[u8], b: &[u8]) -> Reply {
        if a.len().saturating_mul(b.len()) > PAIRS_MAX {
            return Reply::error("ERR String too long for LCS");
        }
        let (found, length) = stretches(a, b);
        match self.wants {
            Wants::Length => Reply::count(length),
            Wants::Text => {
                let text = found.iter().rev().flat_map(|(i, _, length)| &a[*i..i + length]).copied();
                Reply::Bulk(text.collect::<Vec<u8>>().into())
            }
            Wants::Places => {
                let ends =
                    |from: usize, length| Reply::Array(vec![Reply::count(from), Reply::count(from + length - 1)]);
                let shown = found.into_iter().filter(|(.., length)| *length >= self.shortest).map(|(i, j, length)| {
                    let length_too = self.with_length.then(|| Reply::count(length));
                    Reply::Array([ends(i, length), ends(j, length)].into_iter().chain(length_too).collect())
                });
                Reply::Map(vec![
                    (Reply::bulk("matches"), Reply::Array(shown.collect())),
                    (Reply::bulk("len"), Reply::count(length)),
                ])
            }
        }
    }
}

impl ReadCommand for Lcs {
    const SPEC: Spec = Spec {
        name: "lcs",
        arity: -3,
        keys: Keys::Range { first: 1, last: 2, step: 1 },
        family: "string",
        syntax: "LCS key1 key2 [LEN] [IDX] [MINMATCHLEN min-match-len] [WITHMATCHLEN]",
        summary: "Returns the longest common subsequence of two strings, its length, or where its parts lie.",
        complexity: "O(N*M), N and M the lengths of the strings",
        since: "7.0.0",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Lcs, Reply> {
        let (mut length, mut places, mut with_length, mut shortest, mut at) = (false, false, false, 0, 3);
        while let Some(word) = args.get(at) {
            match args.get(at + 1) {
                _ if is(word, "len") => length = true,
                _ if is(word, "idx") => places = true,
                _ if is(word, "withmatchlen") => with_length = true,
                Some(least) if is(word, "minmatchlen") => {
                    shortest = usize::try_from(want_integer(least)?).unwrap_or(0);
                    at += 1;
                }
                _ => return Err(syntax_error()),
            }
            at += 1;
        }
        let wants = match (length, places) {
            (true, true) => {
                return Err(Reply::error("ERR If you want both the length and indexes, please just use IDX."));
            }
            (true, false) => Wants::Length,
            (false, true) => Wants::Places,
            (false, false) => Wants::Text,
        };
        Ok(Lcs { keys: [args[1].clone(), args[2].clone()], wants, with_length, shortest })
    }

    fn read(self, view: &View<'_>) -> Reply {
        let [a, b] = self.keys.each_ref().map(|key| text_of(view.get(key)));
        let (Ok(a), Ok(b)) = (a, b) else {
            return Reply::error("ERR The specified keys must contain string values");
        };
        self.reply(a.as_deref().unwrap_or_default(), b.as_deref().unwrap_or_default())
    }
}

pub(super) static LCS: &[Command] = &[read::<Lcs>()];
