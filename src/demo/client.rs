//! The smallest client that will do: RESP2 calls and one HTTP status, from outside.
//!
//! Deliberately not the server's own codec: what checks the server shares no code with it. Replies are bounded in size
//! and depth. A call has no deadline of its own; whoever calls sets one, and drops the client when it passes.

use crate::config::Endpoint;
use bytes::{Buf, BytesMut};
use std::io::{self, ErrorKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The largest bulk string and the longest array that are accepted, and how deep arrays may nest.
const BULK_BYTES_MAX: usize = 16 << 20;
const ARRAY_LEN_MAX: usize = 1 << 20;
const DEPTH_MAX: usize = 8;

/// The longest line, header or HTTP status.
const LINE_BYTES_MAX: usize = 64 << 10;

/// A reply of RESP2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Status(String),
    /// With its code, without the `-`.
    Error(String),
    Int(i64),
    Bulk(Option<Vec<u8>>),
    Array(Vec<Reply>),
}

impl Reply {
    pub fn int(&self) -> Option<i64> {
        match self {
            Reply::Int(number) => Some(*number),
            _ => None,
        }
    }

    pub fn items(&self) -> &[Reply] {
        match self {
            Reply::Array(items) => items,
            _ => &[],
        }
    }
}

/// One connection.
pub struct Client {
    stream: TcpStream,
    received: BytesMut,
}

impl Client {
    pub async fn connect(to: &Endpoint) -> io::Result<Client> {
        let stream = TcpStream::connect((to.host.as_str(), to.port)).await?;
        stream.set_nodelay(true)?;
        Ok(Client { stream, received: BytesMut::new() })
    }

    /// Sends one command and waits for its reply.
    pub async fn call(&mut self, args: &[&str]) -> io::Result<Reply> {
        let mut request = Vec::new();
        encode(args, &mut request);
        self.stream.write_all(&request).await?;
        self.reply().await
    }

    /// Sends several commands at once and waits for all replies, in order.
    pub async fn pipeline(&mut self, commands: &[Vec<String>]) -> io::Result<Vec<Reply>> {
        let mut request = Vec::new();
        for command in commands {
            let args: Vec<&str> = command.iter().map(String::as_str).collect();
            encode(&args, &mut request);
        }
        self.stream.write_all(&request).await?;
        let mut replies = Vec::with_capacity(commands.len());
        for _ in commands {
            replies.push(self.reply().await?);
        }
        Ok(replies)
    }

    async fn reply(&mut self) -> io::Result<Reply> {
        loop {
            if let Some((reply, used)) = parse(&self.received, 0)? {
                self.received.advance(used);
                return Ok(reply);
            }
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(io::Error::new(ErrorKind::UnexpectedEof, "the node closed the connection"));
            }
        }
    }
}

fn encode(args: &[&str], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r\n", args.len()).as_bytes());
    for arg in args {
        out.extend_from_slice(format!("${}\r\n{arg}\r\n", arg.len()).as_bytes());
    }
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what.to_owned())
}

/// Reads one reply from the front; how many bytes it took, or nothing if it is not there as a whole yet.
fn parse(bytes: &[u8], depth: usize) -> io::Result<Option<(Reply, usize)>> {
    if depth > DEPTH_MAX {
        return Err(wrong("a reply nests too deeply"));
    }
    let Some(end) = bytes.windows(2).take(LINE_BYTES_MAX).position(|pair| pair == b"\r\n") else {
        return if bytes.len() > LINE_BYTES_MAX { Err(wrong("a reply's line is too long")) } else { Ok(None) };
    };
    let line = std::str::from_utf8(&bytes[1.min(end)..end]).map_err(|_| wrong("a reply's line is not text"))?;
    let body = end + 2;
    let number = || line.parse::<i64>().map_err(|_| wrong("a reply's number is none"));
    let reply = match bytes.first() {
        Some(b'+') => Reply::Status(line.to_owned()),
        Some(b'-') => Reply::Error(line.to_owned()),
        Some(b':') => Reply::Int(number()?),
        Some(b'$') => return bulk(bytes, body, number()?),
        Some(b'*') => return array(bytes, body, number()?, depth),
        _ => return Err(wrong("a reply of no known kind")),
    };
    Ok(Some((reply, body)))
}

fn bulk(bytes: &[u8], body: usize, length: i64) -> io::Result<Option<(Reply, usize)>> {
    if length < 0 {
        return Ok(Some((Reply::Bulk(None), body)));
    }
    let length = usize::try_from(length).ok().filter(|length| *length <= BULK_BYTES_MAX);
    let length = length.ok_or_else(|| wrong("a reply is too large"))?;
    let end = body + length + 2;
    Ok((bytes.len() >= end).then(|| (Reply::Bulk(Some(bytes[body..body + length].to_vec())), end)))
}

fn array(bytes: &[u8], body: usize, length: i64, depth: usize) -> io::Result<Option<(Reply, usize)>> {
    if length > ARRAY_LEN_MAX as i64 {
        return Err(wrong("a reply has too many parts"));
    }
    let (mut items, mut at) = (Vec::new(), body);
    for _ in 0..length.max(0) {
        let Some((item, used)) = parse(&bytes[at..], depth + 1)? else { return Ok(None) };
        items.push(item);
        at += used;
    }
    Ok(Some((Reply::Array(items), at)))
}

/// The status code of a GET.
pub async fn http_status(of: &Endpoint, path: &str) -> io::Result<u16> {
    let mut stream = TcpStream::connect((of.host.as_str(), of.port)).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {of}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut received = BytesMut::new();
    while !received.contains(&b'\n') && received.len() < LINE_BYTES_MAX {
        if stream.read_buf(&mut received).await? == 0 {
            break;
        }
    }
    let line = String::from_utf8_lossy(&received);
    line.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(|| wrong("no HTTP status"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_read_whole_or_not_at_all() {
        let text = b"*3\r\n$3\r\nabc\r\n:-5\r\n*2\r\n$-1\r\n-ERR no\r\n+OK\r\n";
        let whole = text.len() - b"+OK\r\n".len();
        for cut in 0..whole {
            assert_eq!(parse(&text[..cut], 0).unwrap(), None, "{cut}");
        }
        let inner = Reply::Array(vec![Reply::Bulk(None), Reply::Error("ERR no".to_owned())]);
        let expected = Reply::Array(vec![Reply::Bulk(Some(b"abc".to_vec())), Reply::Int(-5), inner]);
        assert_eq!(parse(text, 0).unwrap(), Some((expected, whole)));
        assert_eq!(parse(&text[whole..], 0).unwrap(), Some((Reply::Status("OK".to_owned()), 5)));
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        for text in ["HTTP/1.1 200 OK\r\n", "$99999999999\r\n", ":x\r\n", "*99999999\r\n", "\r\n"] {
            assert!(parse(text.as_bytes(), 0).is_err(), "{text:?}");
        }
        assert!(parse("*1\r\n".repeat(20).as_bytes(), 0).is_err());
    }

    #[test]
    fn commands_are_arrays_of_bulk_strings() {
        let mut out = Vec::new();
        encode(&["GET", "ä"], &mut out);
        assert_eq!(out, "*2\r\n$3\r\nGET\r\n$2\r\nä\r\n".as_bytes());
    }
}
