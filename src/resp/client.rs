//! Replies as a client reads them: bytes -> [`Reply`], versions 2 and 3. For our own clients (demo, tests).
//!
//! A reply is parsed from its start each time; what keeps that cheap is that a bulk known to be missing bytes is
//! not looked at again before they are there.

use super::Reply;
use super::decoder::{Limits, ProtocolError, integer};
use bytes::{Buf, Bytes, BytesMut};

/// Deepest nesting of a reply.
const MAX_DEPTH: usize = 32;

/// See the head of this file. The same decoder must be used with one connection's buffer only.
#[derive(Debug)]
pub struct ReplyDecoder {
    limits: Limits,
    /// Bytes the buffer must hold before another attempt can succeed.
    needed: usize,
}

/// Why no reply could be taken.
enum Stop {
    /// The buffer must hold at least this much first.
    Short(usize),
    Broken(ProtocolError),
}

impl ReplyDecoder {
    pub fn new(limits: Limits) -> ReplyDecoder {
        ReplyDecoder { limits, needed: 1 }
    }

    /// Takes the next reply off the front of `buf`; `None` asks for more bytes.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Reply>, ProtocolError> {
        if buf.len() < self.needed {
            return Ok(None);
        }
        let mut reader = Reader { bytes: buf, at: 0, limits: &self.limits };
        match reader.reply(0) {
            Ok(reply) => {
                let used = reader.at;
                buf.advance(used);
                self.needed = 1;
                Ok(Some(reply))
            }
            Err(Stop::Short(needed)) => {
                self.needed = needed;
                Ok(None)
            }
            Err(Stop::Broken(error)) => Err(error),
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    limits: &'a Limits,
}

impl<'a> Reader<'a> {
    fn reply(&mut self, depth: usize) -> Result<Reply, Stop> {
        if depth > MAX_DEPTH {
            return Err(Stop::Broken(ProtocolError::MultibulkLength));
        }
        let (kind, text) = self.line()?;
        let own = || Bytes::copy_from_slice(text);
        Ok(match kind {
            b'+' => Reply::Status(own()),
            b'-' => Reply::Error(own()),
            b':' => Reply::Int(integer(text).ok_or(Stop::Broken(ProtocolError::BulkLength))?),
            b'$' => match self.length(text)? {
                None => Reply::Nil,
                Some(length) => Reply::Bulk(Bytes::copy_from_slice(self.body(length)?)),
            },
            b'!' => Reply::Error(Bytes::copy_from_slice(self.blob(text)?)),
            b'=' => match self.blob(text)? {
                [a, b, c, b':', rest @ ..] => {
                    Reply::Verbatim { format: [*a, *b, *c], text: Bytes::copy_from_slice(rest) }
                }
                _ => return Err(Stop::Broken(ProtocolError::BulkLength)),
            },
            b'_' => Reply::Nil,
            b'#' => Reply::Bool(text == b"t"),
            b',' => Reply::Double(
                std::str::from_utf8(text)
                    .ok()
                    .and_then(|text| text.parse().ok())
                    .ok_or(Stop::Broken(ProtocolError::BulkLength))?,
            ),
            b'(' => Reply::BigNumber(own()),
            b'*' => match self.length(text)? {
                None => Reply::NilArray,
                Some(count) => Reply::Array(self.items(count, depth)?),
            },
            b'~' => Reply::Set(self.counted(text, depth)?),
            b'>' => Reply::Push(self.counted(text, depth)?),
            b'%' => Reply::Map(self.pairs(text, depth)?),
            // Attributes say something about the reply that follows; nobody here asks.
            b'|' => {
                self.pairs(text, depth)?;
                self.reply(depth + 1)?
            }
            other => return Err(Stop::Broken(ProtocolError::ExpectedBulk(char::from(other)))),
        })
    }

    /// The kind byte and the text of the next line.
    fn line(&mut self) -> Result<(u8, &'a [u8]), Stop> {
        let rest = &self.bytes[self.at..];
        let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") else {
            return Err(Stop::Short(self.bytes.len() + 1));
        };
        let (&kind, text) = rest[..end].split_first().ok_or(Stop::Broken(ProtocolError::MultibulkLength))?;
        self.at += end + 2;
        Ok((kind, text))
    }

    fn length(&self, text: &[u8]) -> Result<Option<usize>, Stop> {
        match integer(text) {
            Some(-1) => Ok(None),
            Some(length) if (0..=self.limits.max_bulk as i64).contains(&length) => Ok(Some(length as usize)),
            _ => Err(Stop::Broken(ProtocolError::BulkLength)),
        }
    }

    fn blob(&mut self, text: &[u8]) -> Result<&'a [u8], Stop> {
        let length = self.length(text)?.ok_or(Stop::Broken(ProtocolError::BulkLength))?;
        self.body(length)
    }

    fn body(&mut self, length: usize) -> Result<&'a [u8], Stop> {
        let end = self.at + length + 2;
        if self.bytes.len() < end {
            return Err(Stop::Short(end));
        }
        let body = &self.bytes[self.at..end - 2];
        self.at = end;
        Ok(body)
    }

    fn counted(&mut self, text: &[u8], depth: usize) -> Result<Vec<Reply>, Stop> {
        let count = self.length(text)?.ok_or(Stop::Broken(ProtocolError::MultibulkLength))?;
        self.items(count, depth)
    }

    fn items(&mut self, count: usize, depth: usize) -> Result<Vec<Reply>, Stop> {
        // An element takes three bytes at least: room is made for what is there, not for what is announced.
        let mut items = Vec::with_capacity(count.min((self.bytes.len() - self.at) / 3));
        for _ in 0..count {
            items.push(self.reply(depth + 1)?);
        }
        Ok(items)
    }

    fn pairs(&mut self, text: &[u8], depth: usize) -> Result<Vec<(Reply, Reply)>, Stop> {
        let count = self.length(text)?.ok_or(Stop::Broken(ProtocolError::MultibulkLength))?;
        let mut pairs = Vec::with_capacity(count.min((self.bytes.len() - self.at) / 6));
        for _ in 0..count {
            pairs.push((self.reply(depth + 1)?, self.reply(depth + 1)?));
        }
        Ok(pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::Protocol;
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> Result<Option<Reply>, ProtocolError> {
        ReplyDecoder::new(Limits::default()).decode(&mut BytesMut::from(bytes))
    }

    #[test]
    fn attributes_blob_errors_and_nulls_are_understood() {
        assert_eq!(read(b"|1\r\n+a\r\n:1\r\n:7\r\n"), Ok(Some(Reply::Int(7))));
        assert_eq!(read(b"!5\r\nERR x\r\n"), Ok(Some(Reply::error("ERR x"))));
        assert_eq!(read(b"*2\r\n$-1\r\n*-1\r\n"), Ok(Some(Reply::Array(vec![Reply::Nil, Reply::NilArray]))));
        assert_eq!(read(b",inf\r\n"), Ok(Some(Reply::Double(f64::INFINITY))));
    }

    #[test]
    fn what_is_no_reply_is_an_error() {
        for bytes in [&b"x\r\n"[..], b"\r\n", b"$-2\r\n", b"*x\r\n", b":1x\r\n", b"=3\r\nabc\r\n", b"~-1\r\n"] {
            assert!(read(bytes).is_err(), "{bytes:?}");
        }
        assert!(read("*1\r\n".repeat(100).as_bytes()).is_err());
    }

    fn replies() -> impl Strategy<Value = Reply> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..12).prop_map(Bytes::from);
        let leaf = prop_oneof![
            any::<i64>().prop_map(Reply::Int),
            bytes().prop_map(Reply::Bulk),
            "[a-zA-Z ]{0,9}".prop_map(|text| Reply::Status(text.into())),
            "[A-Z]{1,5} [a-z]{0,9}".prop_map(|text| Reply::Error(text.into())),
            Just(Reply::Nil),
            any::<bool>().prop_map(Reply::Bool),
            (-1e9..1e9).prop_map(Reply::Double),
            bytes().prop_map(|text| Reply::Verbatim { format: *b"txt", text }),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            let list = || prop::collection::vec(inner.clone(), 0..4);
            prop_oneof![
                list().prop_map(Reply::Array),
                list().prop_map(Reply::Set),
                list().prop_map(Reply::Push),
                prop::collection::vec((inner.clone(), inner.clone()), 0..3).prop_map(Reply::Map),
            ]
        })
    }

    proptest! {
        #[test]
        fn resp3_replies_come_back_as_they_were_sent(sent in prop::collection::vec(replies(), 1..4), piece in 1usize..20) {
            let mut wire = BytesMut::new();
            sent.iter().for_each(|reply| reply.encode(Protocol::Resp3, &mut wire));
            let (mut decoder, mut buf, mut got) = (ReplyDecoder::new(Limits::default()), BytesMut::new(), Vec::new());
            for part in wire.chunks(piece) {
                buf.extend_from_slice(part);
                while let Some(reply) = decoder.decode(&mut buf).unwrap() {
                    got.push(reply);
                }
            }
            prop_assert_eq!(got, sent);
        }
    }
}
