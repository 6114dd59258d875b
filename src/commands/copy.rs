//! Values carried from key to key: COPY inside the keyspace, DUMP and RESTORE through a client.
//!
//! A dump is the value as snapshots hold it, with a version and a checksum behind it. It is ours: dumps of Redis are not read,
//! and a dump of another version is refused. What a dump holds is believed only if some calls could have made it
//! ([`Value::from_bytes`]): a checksum can be computed by anybody. That is looked at before the log; a wrong checksum is an
//! error only where the key is free, as in Redis.

use super::generic::{self, BASE};
use super::syntax::{is, syntax_error, want_integer};
use super::{Command, Copied, Keys, ReadCommand, Spec, WriteCommand, read, usual_growth, write};
use crate::resp::{Args, Reply};
use crate::state::events::Class;
use crate::state::{Keyspace, Value, View};
use crate::types::{Millis, Stamp};
use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

struct Copy {
    from: Bytes,
    to: Bytes,
    replace: bool,
}

impl WriteCommand for Copy {
    const SPEC: Spec = Spec {
        name: "copy",
        arity: -3,
        keys: Keys::Range { first: 1, last: 2, step: 1 },
        syntax: "COPY source destination [DB destination-db] [REPLACE]",
        summary: "Copies the value of a key and its deadline to another key.",
        complexity: "O(1) for large collections, O(N) else, N the bytes of the value",
        since: "6.2.0",
        denyoom: true,
        ..BASE
    };

    fn parse(args: &Args) -> Result<Copy, Reply> {
        let (mut replace, mut at) = (false, 3);
        while let Some(word) = args.get(at) {
            match args.get(at + 1) {
                _ if is(word, "replace") => replace = true,
                Some(database) if is(word, "db") => {
                    let number = want_integer(database)?;
                    if i32::try_from(number).is_err() {
                        return Err(Reply::error(
                            "ERR value is out of range, value must between -2147483648 and 2147483647",
                        ));
                    }
                    if number != 0 {
                        return Err(Reply::error("ERR DB index is out of range"));
                    }
                    at += 1;
                }
                _ => return Err(syntax_error()),
            }
            at += 1;
        }
        if args[1] == args[2] {
            return Err(Reply::error("ERR source and destination objects are the same"));
        }
        Ok(Copy { from: args[1].clone(), to: args[2].clone(), replace })
    }

    const COPIED: Option<Copied> = Some(|args, size| {
        let size = size(&args[1]);
        if size.ranked { size.in_sorted() } else { size.in_set() }
    });

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        let found = keyspace.get(&self.from).map(|entry| (entry.value().to_value(), entry.deadline()));
        let Some((value, deadline)) = found else { return Reply::Int(0) };
        if !self.replace && keyspace.contains(&self.to) {
            return Reply::Int(0);
        }
        generic::put_anew(keyspace, &self.to, value, deadline);
        keyspace.notify(Class::Generic, "copy_to", &self.to);
        Reply::Int(1)
    }
}

/// Behind a dumped value.
const VERSION: u16 = 1;
/// Version and checksum.
const FOOTER: usize = 2 + 8;

pub(super) fn seal(mut dump: Vec<u8>) -> Bytes {
    dump.extend_from_slice(&VERSION.to_le_bytes());
    dump.extend_from_slice(&xxh3_64(&dump).to_le_bytes());
    Bytes::from(dump)
}

/// The value of a dump; `None` if it is none, or was damaged. An error if somebody made up what it holds: no call can have
/// made such a value, and so none may meet one.
pub(super) fn unseal(dump: &[u8]) -> Result<Option<Value>, Reply> {
    let Some((value, footer)) = dump.split_at_checked(dump.len().wrapping_sub(FOOTER)) else { return Ok(None) };
    let sum = xxh3_64(&dump[..value.len() + 2]).to_le_bytes();
    if footer[..2] != VERSION.to_le_bytes() || footer[2..] != sum {
        return Ok(None);
    }
    Value::from_bytes(value).map(Some).ok_or_else(|| Reply::error("ERR Bad data format"))
}

struct Dump(Bytes);

impl ReadCommand for Dump {
    const SPEC: Spec = Spec {
        name: "dump",
        syntax: "DUMP key",
        summary: "Returns the value of a key in a form that RESTORE takes; the form is this server's own.",
        complexity: "O(N), N the bytes of the value",
        since: "2.6.0",
        ..BASE
    };

    fn parse(args: &Args) -> Result<Dump, Reply> {
        Ok(Dump(args[1].clone()))
    }

    fn read(self, view: &View<'_>) -> Reply {
        view.get(&self.0).map_or(Reply::Nil, |entry| Reply::Bulk(seal(entry.value().to_value().to_bytes())))
    }
}

struct Restore {
    key: Bytes,
    ttl: i64,
    /// `None` if it is none. Redis says so only where the key is free.
    value: Option<Value>,
    replace: bool,
    absolute: bool,
}

impl Restore {
    fn run(self, keyspace: &mut Keyspace) -> Result<Reply, Reply> {
        if !self.replace && keyspace.contains(&self.key) {
            return Err(Reply::error("BUSYKEY Target key name already exists."));
        }
        let wrong = || Reply::error("ERR DUMP payload version or checksum are wrong");
        let value = self.value.ok_or_else(wrong)?;
        let clock = keyspace.clock();
        let deadline = match (self.ttl as Millis, self.absolute) {
            (0, _) => None,
            (at, true) => Some(at),
            (ttl, false) => Some(clock.saturating_add(ttl).min(i64::MAX as Millis)),
        };
        match deadline {
            // Nobody would ever see it.
            Some(deadline) if deadline <= clock => drop(generic::delete(keyspace, &self.key)),
            deadline => {
                generic::put_anew(keyspace, &self.key, value, deadline);
                keyspace.notify(Class::Generic, "restore", &self.key);
            }
        }
        Ok(Reply::OK)
    }
}

impl WriteCommand for Restore {
    const SPEC: Spec = Spec {
        name: "restore",
        arity: -4,
        syntax: "RESTORE key ttl serialized-value [REPLACE] [ABSTTL] [IDLETIME seconds] [FREQ frequency]",
        summary: "Makes a key of what DUMP returned.",
        complexity: "O(N), N the bytes of the value",
        since: "2.6.0",
        denyoom: true,
        ..BASE
    };

    fn parse(args: &Args) -> Result<Restore, Reply> {
        let (mut replace, mut absolute, mut at) = (false, false, 4);
        while let Some(word) = args.get(at) {
            match args.get(at + 1) {
                _ if is(word, "replace") => replace = true,
                _ if is(word, "absttl") => absolute = true,
                Some(seconds) if is(word, "idletime") => {
                    if want_integer(seconds)? < 0 {
                        return Err(Reply::error("ERR Invalid IDLETIME value, must be >= 0"));
                    }
                    at += 1;
                }
                Some(frequency) if is(word, "freq") => {
                    if !(0..=255).contains(&want_integer(frequency)?) {
                        return Err(Reply::error("ERR Invalid FREQ value, must be >= 0 and <= 255"));
                    }
                    at += 1;
                }
                _ => return Err(syntax_error()),
            }
            at += 1;
        }
        let ttl = want_integer(&args[2])?;
        if ttl < 0 {
            return Err(Reply::error("ERR Invalid TTL value, must be >= 0"));
        }
        Ok(Restore { key: args[1].clone(), ttl, value: unseal(&args[3])?, replace, absolute })
    }

    fn growth(args: &Args) -> u64 {
        // Elements may weigh more than their bytes in the dump.
        let weight = args.get(3).and_then(|dump| unseal(dump).ok()?).map_or(0, |value| value.weight() as u64);
        usual_growth(args).saturating_add(weight)
    }

    fn apply(self, keyspace: &mut Keyspace, _: &Stamp) -> Reply {
        self.run(keyspace).unwrap_or_else(|refused| refused)
    }
}

pub(super) static COPY: &[Command] = &[write::<Copy>(), read::<Dump>(), write::<Restore>()];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_that_was_touched_is_refused() {
        let dump = seal(Value::text(b"value").to_bytes());
        assert_eq!(unseal(&dump), Ok(Some(Value::text(b"value"))));
        for at in 0..dump.len() {
            let mut broken = dump.to_vec();
            broken[at] ^= 1;
            assert_eq!(unseal(&broken), Ok(None), "byte {at}");
        }
        for length in 0..dump.len() {
            assert_eq!(unseal(&dump[..length]), Ok(None), "{length} bytes");
        }
    }

    #[test]
    fn sealed_nonsense_is_no_value() {
        for body in [&b""[..], b"\xff", b"\xffabc"] {
            assert_eq!(unseal(&seal(body.to_vec())), Err(Reply::error("ERR Bad data format")), "{body:?}");
        }
    }
}
