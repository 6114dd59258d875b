//! The first line of a script: `#!lua name=library flags=no-writes,allow-oom`.
//!
//! A script without one runs in Redis' compatibility mode: it may do everything that its command lets it.

use crate::resp::Reply;
use serde::{Deserialize, Serialize};

/// What a script says of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flags {
    /// There was no such line.
    pub compatible: bool,
    pub no_writes: bool,
    pub allow_oom: bool,
    pub allow_stale: bool,
    pub no_cluster: bool,
    pub allow_cross_slot: bool,
}

impl Flags {
    /// Of a script that says nothing.
    pub const COMPATIBLE: Flags = Flags {
        compatible: true,
        no_writes: false,
        allow_oom: false,
        allow_stale: false,
        no_cluster: false,
        allow_cross_slot: false,
    };

    /// Sets the flag of this name; false if there is none.
    pub fn set(&mut self, name: &[u8]) -> bool {
        let flag = match name {
            b"no-writes" => &mut self.no_writes,
            b"allow-oom" => &mut self.allow_oom,
            b"allow-stale" => &mut self.allow_stale,
            b"no-cluster" => &mut self.no_cluster,
            b"allow-cross-slot-keys" => &mut self.allow_cross_slot,
            _ => return false,
        };
        *flag = true;
        true
    }

    /// In the order in which FUNCTION LIST names them.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        let all = [
            (self.no_writes, "no-writes"),
            (self.allow_oom, "allow-oom"),
            (self.allow_stale, "allow-stale"),
            (self.no_cluster, "no-cluster"),
            (self.allow_cross_slot, "allow-cross-slot-keys"),
        ];
        all.into_iter().filter(|(set, _)| *set).map(|(_, name)| name)
    }
}

/// The flags of a script and the text behind its first line. The line's end stays, so that lines keep their numbers.
pub fn of_script(body: &[u8]) -> Result<(Flags, &[u8]), Reply> {
    if !body.starts_with(b"#!") {
        return Ok((Flags::COMPATIBLE, body));
    }
    let refuse = |text: String| Err(Reply::error(text));
    let Some(end) = body.iter().position(|b| *b == b'\n') else {
        return refuse("ERR Invalid script shebang".into());
    };
    let (line, rest) = body.split_at(end);
    let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let engine = words.next().unwrap_or_default();
    if engine != b"#!lua" {
        return refuse(format!("ERR Unexpected engine in script shebang: {}", String::from_utf8_lossy(engine)));
    }
    let mut flags = Flags::default();
    for word in words {
        let Some(list) = word.strip_prefix(b"flags=") else {
            return refuse(format!("ERR Unknown lua shebang option: {}", String::from_utf8_lossy(word)));
        };
        for name in list.split(|b| *b == b',').filter(|_| !list.is_empty()) {
            if !flags.set(name) {
                return refuse(format!("ERR Unexpected flag in script shebang: {}", String::from_utf8_lossy(name)));
            }
        }
    }
    Ok((flags, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_lines_are_read_as_redis_does() {
        assert_eq!(of_script(b"return 1").unwrap(), (Flags::COMPATIBLE, &b"return 1"[..]));
        let (flags, rest) = of_script(b"#!lua  flags=no-writes,allow-oom \nreturn 1").unwrap();
        assert_eq!(flags.names().collect::<Vec<_>>(), ["no-writes", "allow-oom"]);
        assert_eq!(rest, b"\nreturn 1");
        for (body, error) in [
            ("#!lua", "ERR Invalid script shebang"),
            ("#!luax\n", "ERR Unexpected engine in script shebang: #!luax"),
            ("#!lua x=y\n", "ERR Unknown lua shebang option: x=y"),
            ("#!lua flags=no-writes,\n", "ERR Unexpected flag in script shebang: "),
            ("#!lua flags=nope\n", "ERR Unexpected flag in script shebang: nope"),
        ] {
            assert_eq!(of_script(body.as_bytes()), Err(Reply::error(error)), "{body}");
        }
        assert!(of_script(b"#!lua flags=\n").is_ok());
    }
}
