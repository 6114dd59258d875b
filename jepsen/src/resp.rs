//! A Redis client of our own: blocking, one connection, RESP2. It shares no code with the server, so a mistake of the
//! server's codec cannot hide behind the same mistake here.

use serde_json::Value;
use std::fmt;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// The largest reply that is believed; a longer one is a broken stream.
const LARGEST_BULK: usize = 64 << 20;
const LARGEST_ARRAY: usize = 1 << 20;

/// A reply. Simple and bulk strings are not told apart: no check depends on it, and a history can be read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Nil,
    Int(i64),
    Text(String),
    Error(String),
    Array(Vec<Reply>),
}

impl Reply {
    pub fn is_ok(&self) -> bool {
        matches!(self, Reply::Text(text) if text == "OK")
    }

    pub fn text(&self) -> Option<&str> {
        match self {
            Reply::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn int(&self) -> Option<i64> {
        match self {
            Reply::Int(n) => Some(*n),
            _ => None,
        }
    }

    pub fn array(&self) -> Option<&[Reply]> {
        match self {
            Reply::Array(parts) => Some(parts),
            _ => None,
        }
    }

    pub fn to_json(&self) -> Value {
        match self {
            Reply::Nil => Value::Null,
            Reply::Int(n) => Value::from(*n),
            Reply::Text(text) => Value::from(text.as_str()),
            Reply::Error(text) => serde_json::json!({ "error": text }),
            Reply::Array(parts) => Value::Array(parts.iter().map(Reply::to_json).collect()),
        }
    }

    /// Reads back what [`Reply::to_json`] wrote; none for anything else.
    pub fn from_json(value: &Value) -> Option<Reply> {
        Some(match value {
            Value::Null => Reply::Nil,
            Value::Number(n) => Reply::Int(n.as_i64()?),
            Value::String(text) => Reply::Text(text.clone()),
            Value::Array(parts) => Reply::Array(parts.iter().map(Reply::from_json).collect::<Option<_>>()?),
            Value::Object(fields) => Reply::Error(fields.get("error")?.as_str()?.to_owned()),
            Value::Bool(_) => return None,
        })
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to_json())
    }
}

/// Stands between the commands of an operation that has several.
pub const THEN: &str = ";";

/// A connection to one node.
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// `patience` bounds the connecting and, later, every reply.
    pub fn open(at: SocketAddr, patience: Duration) -> io::Result<Connection> {
        let stream = TcpStream::connect_timeout(&at, patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Connection { stream: BufReader::new(stream) })
    }

    /// Sends a command and waits for its reply. After an error the connection must not be used again: the reply may
    /// still come.
    ///
    /// Several commands with a [`THEN`] between them go out together. Their reply is the last one's, or the last one that is
    /// an error: a queue of MULTI with a mistake in it ends in EXEC's refusal.
    pub fn call<W: AsRef<str>>(&mut self, words: &[W]) -> io::Result<Reply> {
        let (mut out, mut commands) = (String::new(), 0);
        for command in words.split(|word| word.as_ref() == THEN) {
            commands += 1;
            out.push_str(&format!("*{}\r\n", command.len()));
            for word in command {
                let word = word.as_ref();
                out.push_str(&format!("${}\r\n{word}\r\n", word.len()));
            }
        }
        self.stream.get_mut().write_all(out.as_bytes())?;
        let mut answer = Reply::Nil;
        for _ in 0..commands {
            let reply = read_reply(&mut self.stream)?;
            if matches!(reply, Reply::Error(_)) || !matches!(answer, Reply::Error(_)) {
                answer = reply;
            }
        }
        Ok(answer)
    }
}

fn broken(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what.to_owned())
}

/// Reads one reply.
fn read_reply(from: &mut impl BufRead) -> io::Result<Reply> {
    let line = read_line(from)?;
    let rest = line.get(1..).ok_or_else(|| broken("an empty line where a reply begins"))?;
    let number = || rest.parse::<i64>().map_err(|_| broken(&format!("no number: {line:?}")));
    match line.as_bytes().first() {
        Some(b'+') => Ok(Reply::Text(rest.to_owned())),
        Some(b'-') => Ok(Reply::Error(rest.to_owned())),
        Some(b':') => Ok(Reply::Int(number()?)),
        Some(b'$') => match number()? {
            -1 => Ok(Reply::Nil),
            n => read_bulk(from, usize::try_from(n).map_err(|_| broken("a negative length"))?),
        },
        Some(b'*') => match number()? {
            -1 => Ok(Reply::Nil),
            n if n < 0 || n as usize > LARGEST_ARRAY => Err(broken("an array of an unlikely length")),
            n => (0..n).map(|_| read_reply(from)).collect::<io::Result<_>>().map(Reply::Array),
        },
        _ => Err(broken(&format!("no reply begins like {line:?}"))),
    }
}

fn read_line(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    from.take(64 << 10).read_until(b'\n', &mut line)?;
    match line.strip_suffix(b"\r\n") {
        Some(text) => Ok(String::from_utf8_lossy(text).into_owned()),
        None => Err(io::Error::new(ErrorKind::UnexpectedEof, "the connection ended within a reply")),
    }
}

fn read_bulk(from: &mut impl BufRead, length: usize) -> io::Result<Reply> {
    if length > LARGEST_BULK {
        return Err(broken("a bulk string of an unlikely length"));
    }
    let mut bytes = vec![0; length + 2];
    from.read_exact(&mut bytes)?;
    match bytes.strip_suffix(b"\r\n") {
        Some(text) => Ok(Reply::Text(String::from_utf8_lossy(text).into_owned())),
        None => Err(broken("a bulk string that does not end where it should")),
    }
}

/// The slot of a key, as every Redis Cluster client computes it (CRC16/XMODEM of the hash tag, modulo 16,384).
pub fn slot_of(key: &str) -> u16 {
    let key = key.as_bytes();
    let tag = key.iter().position(|b| *b == b'{').and_then(|open| {
        let close = key[open + 1..].iter().position(|b| *b == b'}')?;
        (close > 0).then(|| &key[open + 1..open + 1 + close])
    });
    let crc = tag.unwrap_or(key).iter().fold(0u16, |crc, byte| {
        (0..8)
            .fold(crc ^ (u16::from(*byte) << 8), |crc, _| if crc & 0x8000 != 0 { crc << 1 ^ 0x1021 } else { crc << 1 })
    });
    crc % 16_384
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_read_and_broken_ones_refused() {
        let read = |text: &str| read_reply(&mut text.as_bytes());
        assert_eq!(read("+OK\r\n").unwrap(), Reply::Text("OK".into()));
        assert_eq!(read("$-1\r\n").unwrap(), Reply::Nil);
        assert_eq!(
            read("*3\r\n:7\r\n$2\r\nab\r\n*0\r\n").unwrap(),
            Reply::Array(vec![Reply::Int(7), Reply::Text("ab".into()), Reply::Array(vec![])])
        );
        for bad in ["$2\r\nabc\r\n", ":x\r\n", "?\r\n", "\r\n"] {
            assert_eq!(read(bad).unwrap_err().kind(), ErrorKind::InvalidData, "{bad:?}");
        }
        assert_eq!(read("$5\r\nab").unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }

    #[test]
    fn slots_are_those_of_the_published_examples() {
        assert_eq!(slot_of("123456789"), 12_739);
        assert_eq!(slot_of("{user1000}.following"), slot_of("{user1000}.followers"));
        assert_eq!(slot_of("foo{}{bar}"), slot_of("foo{}{bar}"));
        assert_ne!(slot_of("foo{}{bar}"), slot_of("bar"));
    }
}
