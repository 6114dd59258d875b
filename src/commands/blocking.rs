//! Commands that wait: what they tell about it, and their timeouts.
//!
//! A command that waits is an ordinary read or write that answers nil if there is nothing: so it is applied, so it runs
//! inside MULTI and scripts. Waiting is the door's: it runs the command again when a key of it may have something
//! (`docs/decisions/0016-waiters-take-turns.md`). A family's table says it with [`Command::blocking`](super::Command::blocking).

use super::score::lenient;
use crate::resp::{Args, Reply, integer};
use crate::state::{EntryRef, View};
use bytes::Bytes;

/// As many waiters have their turn at a value at once, at most: it is looked at no further.
pub const TURNS_MAX: usize = 64;

/// How a command waits.
#[derive(Clone, Copy)]
pub struct Blocks {
    /// The keys waited for. Arguments are right already, here and below.
    pub keys: fn(&Args) -> Vec<Bytes>,
    /// Milliseconds, 0 for ever; none if this request does not wait.
    pub timeout: fn(&Args) -> Option<u64>,
    /// Puts into the arguments what is meant as it is now, such as the last id of a stream for `$`: replies the array of
    /// arguments that are to be tried. None where the arguments say it all.
    pub settle: Option<fn(&Args, &View<'_>) -> Reply>,
    /// For how many waiters that ask this a value has something; none if it is of another type.
    pub elements: fn(&Args, EntryRef<'_>) -> usize,
    /// As many of these it takes at most, so that others go without; 0 if it only looks.
    pub takes: fn(&Args) -> usize,
    /// Whether what is under a key now, or that nothing is, would be answered with an error: then there is nothing to wait
    /// for. None where a waiter goes on waiting whatever comes.
    pub fails: Option<fn(&Args, Option<EntryRef<'_>>) -> bool>,
}

/// A timeout in milliseconds; or Redis' error.
pub fn whole_timeout_ms(ms: &[u8]) -> Result<u64, Reply> {
    let ms = integer(ms).ok_or_else(|| Reply::error("ERR timeout is not an integer or out of range"))?;
    u64::try_from(ms).map_err(|_| Reply::error("ERR timeout is negative"))
}

/// A timeout in seconds, in milliseconds; or Redis' error.
pub fn timeout_ms(seconds: &[u8]) -> Result<u64, Reply> {
    let out_of_range = || Reply::error("ERR timeout is out of range");
    let text =
        std::str::from_utf8(seconds).ok().filter(|text| !text.is_empty() && !text.starts_with(char::is_whitespace));
    let seconds = text.and_then(|text| lenient(text.as_bytes()));
    let seconds = seconds.ok_or_else(|| Reply::error("ERR timeout is not a float or out of range"))?;
    let ms = (seconds * 1000.0).ceil();
    match ms {
        ms if ms > TIMEOUT_MS_MAX => Err(out_of_range()),
        ms if ms < 0.0 => Err(Reply::error("ERR timeout is negative")),
        ms => Ok(ms as u64),
    }
}

/// About what fits a signed number of milliseconds beside a Unix time.
const TIMEOUT_MS_MAX: f64 = 9.2e18;

#[cfg(test)]
pub(super) mod tests {
    use super::super::{Command, Keys, Scope, Spec, WriteCommand, write};
    use super::*;
    use crate::state::Keyspace;
    use crate::types::Stamp;

    #[test]
    fn timeouts_are_read_as_redis_reads_them() {
        for (text, ms) in
            [("0", 0), ("1", 1000), ("0.5", 500), ("0.0001", 1), ("1e2", 100_000), ("0x10", 16_000), ("-0.0001", 0)]
        {
            assert_eq!(timeout_ms(text.as_bytes()), Ok(ms), "{text}");
        }
        for (text, error) in [
            ("x", "not a float or out of range"),
            ("", "not a float or out of range"),
            ("nan", "not a float or out of range"),
            ("-1", "negative"),
            ("1e30", "out of range"),
            ("inf", "out of range"),
            ("0x7FFFFFFFFFFFFF", "out of range"),
        ] {
            assert_eq!(timeout_ms(text.as_bytes()), Err(Reply::error(format!("ERR timeout is {error}"))), "{text}");
        }
    }

    #[test]
    fn timeouts_of_milliseconds_are_whole() {
        assert_eq!([whole_timeout_ms(b"0"), whole_timeout_ms(b"1500")], [Ok(0), Ok(1500)]);
        let error = |text: &[u8]| whole_timeout_ms(text).err();
        assert_eq!(error(b"0.5"), Some(Reply::error("ERR timeout is not an integer or out of range")));
        assert_eq!(error(b"-1"), Some(Reply::error("ERR timeout is negative")));
    }

    /// `TEST.BTAKE key [key ...] timeout`: takes the first string there is, away with its key. Only in tests.
    struct Take(Args);

    impl WriteCommand for Take {
        const SPEC: Spec = Spec {
            name: "test.btake",
            arity: -3,
            keys: Keys::Range { first: 1, last: -2, step: 1 },
            scope: Scope::OneSlot,
            family: "test",
            syntax: "TEST.BTAKE key [key ...] timeout",
            summary: "Takes a string.",
            complexity: "O(N)",
            since: "hc-0.1",
            denyoom: false,
        };

        fn parse(args: &Args) -> Result<Take, Reply> {
            timeout_ms(&args[args.len() - 1])?;
            Ok(Take(args[1..args.len() - 1].into()))
        }

        fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
            for key in &self.0 {
                let text = keyspace.get(key).and_then(|entry| entry.value().as_text().map(|text| text.to_bytes(0)));
                if let Some(text) = text {
                    keyspace.remove(key);
                    return Reply::Array(vec![Reply::Bulk(key.clone()), Reply::Bulk(text)]);
                }
            }
            Reply::NilArray
        }
    }

    pub static TEST: &[Command] = &[write::<Take>().blocking(Blocks {
        keys: |args| args[1..args.len() - 1].to_vec(),
        timeout: |args| timeout_ms(&args[args.len() - 1]).ok(),
        settle: None,
        elements: |_, entry| usize::from(entry.value().as_text().is_some()),
        takes: |_| 1,
        fails: None,
    })];
}
