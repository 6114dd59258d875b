//! A Redis client for tests: blocking, one connection, RESP2 unless it says HELLO.

use bytes::BytesMut;
use hypercache::resp::{Args, Limits, Protocol, Reply, ReplyDecoder};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longer than any request's own deadline: a reply that takes longer is one that never comes.
pub const SILENCE: Duration = Duration::from_secs(20);

pub struct Client {
    stream: TcpStream,
    received: BytesMut,
    /// What one read brings.
    part: Vec<u8>,
    decoder: ReplyDecoder,
}

impl Client {
    pub fn connect(at: SocketAddr) -> io::Result<Client> {
        let stream = TcpStream::connect_timeout(&at, Duration::from_secs(2))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(SILENCE))?;
        Ok(Client {
            stream,
            received: BytesMut::new(),
            part: vec![0; 64 << 10],
            decoder: ReplyDecoder::new(Limits::default()),
        })
    }

    /// Sends a command and waits for its reply.
    pub fn call(&mut self, words: &[&str]) -> io::Result<Reply> {
        self.send(words)?;
        self.reply()
    }

    /// The same; a connection that breaks is the test's failure.
    pub fn must(&mut self, words: &[&str]) -> Reply {
        self.call(words).unwrap_or_else(|e| panic!("{words:?}: {e}"))
    }

    /// The same for a command whose reply must be OK.
    pub fn ok(&mut self, words: &[&str]) {
        assert_eq!(self.must(words), Reply::OK, "{words:?}");
    }

    /// Sends a command of any bytes and waits for its reply; a connection that breaks is the test's failure.
    pub fn ask(&mut self, args: &Args) -> Reply {
        let mut request = BytesMut::new();
        Reply::Array(args.iter().cloned().map(Reply::Bulk).collect()).encode(Protocol::Resp2, &mut request);
        self.send_raw(&request).and_then(|()| self.reply()).unwrap_or_else(|e| panic!("{args:?}: {e}"))
    }

    /// Sends a command and waits for nothing.
    pub fn send(&mut self, words: &[&str]) -> io::Result<()> {
        let mut out = Vec::new();
        encode(words, &mut out);
        self.stream.write_all(&out)
    }

    /// Sends bytes as they are.
    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends many commands at once and waits for all replies.
    pub fn pipeline<T: AsRef<str>>(&mut self, commands: &[Vec<T>]) -> io::Result<Vec<Reply>> {
        let mut out = Vec::new();
        for command in commands {
            let words: Vec<&str> = command.iter().map(AsRef::as_ref).collect();
            encode(&words, &mut out);
        }
        self.stream.write_all(&out)?;
        commands.iter().map(|_| self.reply()).collect()
    }

    /// The next reply. `UnexpectedEof`: the connection was closed between two replies; `InvalidData`: inside of one.
    pub fn reply(&mut self) -> io::Result<Reply> {
        loop {
            let decoded = self.decoder.decode(&mut self.received);
            if let Some(reply) = decoded.map_err(|e| io::Error::new(ErrorKind::InvalidData, format!("{e:?}")))? {
                return Ok(reply);
            }
            match self.stream.read(&mut self.part)? {
                0 if self.received.is_empty() => return Err(ErrorKind::UnexpectedEof.into()),
                0 => return Err(io::Error::new(ErrorKind::InvalidData, "closed in the middle of a reply")),
                n => self.received.extend_from_slice(&self.part[..n]),
            }
        }
    }

    /// How long a reply may take before it counts as one that does not come (`WouldBlock`).
    pub fn limit(&mut self, limit: Duration) {
        self.stream.set_read_timeout(Some(limit)).expect("a limit above zero can be set");
    }

    /// Says that nothing more will be sent.
    pub fn close_sending(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
    }
}

fn encode(words: &[&str], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
}

/// The first word of an error reply; empty for any other reply.
pub fn code_of(reply: &Reply) -> String {
    match reply {
        Reply::Error(text) => String::from_utf8_lossy(text).split(' ').next().unwrap_or_default().to_owned(),
        _ => String::new(),
    }
}
