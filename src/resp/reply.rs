//! A reply and its two spellings.
//!
//! A reply is a value, not text: the same one is written as RESP2 or RESP3, kept for a retried request and turned
//! into JSON by other doors. What RESP2 cannot say is written as Redis writes it there: a map or pairs as a flat array,
//! a double as a bulk string, a null as `$-1` or `*-1`.

use super::Protocol;
use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

/// What a command answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// A short word such as `OK`. No CR or LF.
    Status(#[serde(with = "as_bytes")] Bytes),
    /// The whole text with its code, without the leading `-`: `ERR syntax error`.
    Error(#[serde(with = "as_bytes")] Bytes),
    Int(i64),
    Bulk(#[serde(with = "as_bytes")] Bytes),
    /// A missing value.
    Nil,
    /// A missing array: differs from [`Reply::Nil`] in RESP2 only.
    NilArray,
    Bool(bool),
    Double(f64),
    BigNumber(#[serde(with = "as_bytes")] Bytes),
    Verbatim {
        format: [u8; 3],
        #[serde(with = "as_bytes")]
        text: Bytes,
    },
    Array(Vec<Reply>),
    Map(Vec<(Reply, Reply)>),
    /// A map; in RESP2 an array of arrays of two.
    PairMap(Vec<(Reply, Reply)>),
    Set(Vec<Reply>),
    Push(Vec<Reply>),
    /// Writes nothing: after `CLIENT REPLY OFF`.
    Nothing,
    /// An array of arrays of two; of all their elements in RESP2.
    Pairs(Vec<(Reply, Reply)>),
    /// Several replies to one request, as SUBSCRIBE gives for several channels. Never inside another.
    Several(Vec<Reply>),
}

impl Reply {
    pub const OK: Reply = Reply::Status(Bytes::from_static(b"OK"));
    pub const EMPTY_BULK: Reply = Reply::Bulk(Bytes::new());

    /// An error; `text` begins with its code.
    pub fn error(text: impl Into<Bytes>) -> Reply {
        Reply::Error(text.into())
    }

    pub fn status(text: &'static str) -> Reply {
        Reply::Status(Bytes::from_static(text.as_bytes()))
    }

    pub fn int(value: impl Into<i64>) -> Reply {
        Reply::Int(value.into())
    }

    /// A count that came from a length.
    pub fn count(value: usize) -> Reply {
        Reply::Int(value as i64)
    }

    pub fn bulk(bytes: impl Into<Bytes>) -> Reply {
        Reply::Bulk(bytes.into())
    }

    pub fn is_error(&self) -> bool {
        matches!(self, Reply::Error(_))
    }

    /// About the bytes it takes while it is kept.
    pub fn weight(&self) -> usize {
        const EACH: usize = std::mem::size_of::<Reply>();
        EACH + match self {
            Reply::Bulk(b) | Reply::Status(b) | Reply::Error(b) | Reply::BigNumber(b) => b.len(),
            Reply::Verbatim { text, .. } => text.len(),
            Reply::Array(items) | Reply::Set(items) | Reply::Push(items) => items.iter().map(Reply::weight).sum(),
            Reply::Map(pairs) | Reply::PairMap(pairs) | Reply::Pairs(pairs) => {
                pairs.iter().map(|(k, v)| k.weight() + v.weight()).sum()
            }
            _ => 0,
        }
    }

    /// Appends this reply in the given protocol.
    pub fn encode(&self, protocol: Protocol, out: &mut BytesMut) {
        let resp3 = protocol == Protocol::Resp3;
        match self {
            Reply::Status(text) => line(out, b'+', text),
            Reply::Error(text) => line(out, b'-', text),
            Reply::Int(value) => number(out, b':', *value),
            Reply::Bulk(bytes) => blob(out, bytes),
            Reply::Nil if resp3 => out.put_slice(b"_\r\n"),
            Reply::NilArray if resp3 => out.put_slice(b"_\r\n"),
            Reply::Nil => out.put_slice(b"$-1\r\n"),
            Reply::NilArray => out.put_slice(b"*-1\r\n"),
            Reply::Bool(value) if resp3 => out.put_slice(if *value { b"#t\r\n" } else { b"#f\r\n" }),
            Reply::Bool(value) => number(out, b':', i64::from(*value)),
            Reply::Double(value) if resp3 => line(out, b',', double(*value).as_bytes()),
            Reply::Double(value) => blob(out, double(*value).as_bytes()),
            Reply::BigNumber(digits) if resp3 => line(out, b'(', digits),
            Reply::BigNumber(digits) => blob(out, digits),
            Reply::Verbatim { format, text } if resp3 => {
                number(out, b'=', (text.len() + 4) as i64);
                out.put_slice(format);
                out.put_u8(b':');
                out.put_slice(text);
                out.put_slice(b"\r\n");
            }
            Reply::Verbatim { text, .. } => blob(out, text),
            Reply::Array(items) => sequence(out, b'*', items, protocol),
            Reply::Set(items) => sequence(out, if resp3 { b'~' } else { b'*' }, items, protocol),
            Reply::Push(items) => sequence(out, if resp3 { b'>' } else { b'*' }, items, protocol),
            Reply::Map(pairs) => {
                let (kind, length) = if resp3 { (b'%', pairs.len()) } else { (b'*', pairs.len() * 2) };
                number(out, kind, length as i64);
                for (key, value) in pairs {
                    key.encode(protocol, out);
                    value.encode(protocol, out);
                }
            }
            Reply::PairMap(pairs) => {
                number(out, if resp3 { b'%' } else { b'*' }, pairs.len() as i64);
                for (key, value) in pairs {
                    if !resp3 {
                        number(out, b'*', 2);
                    }
                    key.encode(protocol, out);
                    value.encode(protocol, out);
                }
            }
            Reply::Nothing => {}
            Reply::Pairs(pairs) => {
                number(out, b'*', if resp3 { pairs.len() } else { pairs.len() * 2 } as i64);
                for (first, second) in pairs {
                    if resp3 {
                        number(out, b'*', 2);
                    }
                    first.encode(protocol, out);
                    second.encode(protocol, out);
                }
            }
            Reply::Several(replies) => replies.iter().for_each(|reply| reply.encode(protocol, out)),
        }
    }
}

fn sequence(out: &mut BytesMut, kind: u8, items: &[Reply], protocol: Protocol) {
    number(out, kind, items.len() as i64);
    for item in items {
        item.encode(protocol, out);
    }
}

fn number(out: &mut BytesMut, kind: u8, value: i64) {
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(value).as_bytes();
    // Put together first: each piece that is put looks for room.
    let mut line = [kind; 24];
    let end = 1 + digits.len();
    line[1..end].copy_from_slice(digits);
    line[end..end + 2].copy_from_slice(b"\r\n");
    out.put_slice(&line[..end + 2]);
}

fn blob(out: &mut BytesMut, bytes: &[u8]) {
    out.reserve(bytes.len() + 32);
    number(out, b'$', bytes.len() as i64);
    out.put_slice(bytes);
    out.put_slice(b"\r\n");
}

/// One line. A CR or LF inside would let a client's own bytes forge a reply, so they become spaces as in Redis.
fn line(out: &mut BytesMut, kind: u8, text: &[u8]) {
    out.put_u8(kind);
    if text.iter().any(|b| matches!(b, b'\r' | b'\n')) {
        out.extend(text.iter().map(|&b| if matches!(b, b'\r' | b'\n') { b' ' } else { b }));
    } else {
        out.put_slice(text);
    }
    out.put_slice(b"\r\n");
}

/// A double as Redis 7.2 writes it: the shortest digits that read back as the same number. A whole number is written out
/// up to 2^62, others have an exponent where many zeros would stand before or behind their digits.
pub fn double(value: f64) -> String {
    /// Beyond this Redis takes no number for an integer.
    const WHOLE_MAX: f64 = (1u64 << 62) as f64;
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf".into() } else { "-inf".into() };
    }
    if value == 0.0 || value.fract() == 0.0 && value.abs() <= WHOLE_MAX {
        return format!("{value}");
    }
    let text = format!("{value:e}");
    let (digits, power) = text.split_once('e').expect("this form has an exponent");
    let power: i32 = power.parse().expect("an exponent is a number");
    let count = digits.bytes().filter(u8::is_ascii_digit).count() as i32;
    // The exponent of the last digit.
    let last = power - (count - 1);
    let plain = if last >= 0 { power.abs() < count + 7 } else { last > -7 || power.abs() < 4 };
    match plain {
        true => format!("{value}"),
        false => format!("{digits}e{power:+}"),
    }
}

/// `Bytes` as serde bytes, whether or not the `bytes` crate was built with its own support.
mod as_bytes {
    use bytes::Bytes;
    use serde::de::{Error, SeqAccess, Visitor};
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        deserializer.deserialize_byte_buf(Owned)
    }

    struct Owned;

    impl<'de> Visitor<'de> for Owned {
        type Value = Bytes;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("bytes")
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
            Ok(Bytes::copy_from_slice(bytes))
        }

        fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
            Ok(Bytes::from(bytes))
        }

        // JSON writes bytes as an array of numbers.
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Bytes, A::Error> {
            let mut bytes = Vec::new();
            while let Some(byte) = seq.next_element::<u8>()? {
                bytes.push(byte);
            }
            Ok(Bytes::from(bytes))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(reply: &Reply) -> (String, String) {
        let spell = |protocol| {
            let mut out = BytesMut::new();
            reply.encode(protocol, &mut out);
            String::from_utf8(out.to_vec()).unwrap()
        };
        (spell(Protocol::Resp2), spell(Protocol::Resp3))
    }

    #[test]
    fn each_kind_has_its_two_spellings() {
        let bulk = |text: &'static str| Reply::bulk(text);
        for (reply, resp2, resp3) in [
            (Reply::OK, "+OK\r\n", "+OK\r\n"),
            (Reply::error("ERR no"), "-ERR no\r\n", "-ERR no\r\n"),
            (Reply::Int(-7), ":-7\r\n", ":-7\r\n"),
            (bulk(""), "$0\r\n\r\n", "$0\r\n\r\n"),
            (Reply::Nil, "$-1\r\n", "_\r\n"),
            (Reply::NilArray, "*-1\r\n", "_\r\n"),
            (Reply::Bool(true), ":1\r\n", "#t\r\n"),
            (Reply::Double(1.5), "$3\r\n1.5\r\n", ",1.5\r\n"),
            (Reply::Double(f64::NEG_INFINITY), "$4\r\n-inf\r\n", ",-inf\r\n"),
            (Reply::Double(3.0), "$1\r\n3\r\n", ",3\r\n"),
            (Reply::BigNumber("123".into()), "$3\r\n123\r\n", "(123\r\n"),
            (Reply::Verbatim { format: *b"txt", text: "hi".into() }, "$2\r\nhi\r\n", "=6\r\ntxt:hi\r\n"),
            (Reply::Array(vec![Reply::Int(1), Reply::Nil]), "*2\r\n:1\r\n$-1\r\n", "*2\r\n:1\r\n_\r\n"),
            (Reply::Map(vec![(bulk("a"), Reply::Int(1))]), "*2\r\n$1\r\na\r\n:1\r\n", "%1\r\n$1\r\na\r\n:1\r\n"),
            (Reply::Set(vec![Reply::Int(1)]), "*1\r\n:1\r\n", "~1\r\n:1\r\n"),
            (Reply::Push(vec![Reply::Int(1)]), "*1\r\n:1\r\n", ">1\r\n:1\r\n"),
            (Reply::Nothing, "", ""),
            (
                Reply::Pairs(vec![(bulk("a"), Reply::Double(2.0)), (bulk("b"), Reply::Nil)]),
                "*4\r\n$1\r\na\r\n$1\r\n2\r\n$1\r\nb\r\n$-1\r\n",
                "*2\r\n*2\r\n$1\r\na\r\n,2\r\n*2\r\n$1\r\nb\r\n_\r\n",
            ),
            (Reply::Several(vec![Reply::Int(1), Reply::Push(vec![])]), ":1\r\n*0\r\n", ":1\r\n>0\r\n"),
        ] {
            assert_eq!(both(&reply), (resp2.to_string(), resp3.to_string()), "{reply:?}");
        }
    }

    #[test]
    fn an_error_cannot_forge_a_second_reply() {
        assert_eq!(both(&Reply::error("ERR unknown 'a\r\n+OK'")).0, "-ERR unknown 'a  +OK'\r\n");
    }

    #[test]
    fn doubles_read_back_as_they_were() {
        for value in [0.1, 1e21, -1e-7, 1.7976931348623157e308, 5e-324, 123456789.125] {
            assert_eq!(double(value).parse::<f64>().unwrap(), value, "{}", double(value));
        }
        for (value, text) in [
            (1e21, "1e+21"),
            (-0.0, "-0"),
            (3.0, "3"),
            (1e18, "1000000000000000000"),
            (1e19, "1e+19"),
            (-123456789012345680000.0, "-123456789012345680000"),
            (0.1, "0.1"),
            (0.000001, "0.000001"),
            (0.0000001, "1e-7"),
            (1.5e-7, "1.5e-7"),
            (0.0001234, "1.234e-4"),
            (0.00012345678, "1.2345678e-4"),
            (0.012345678901, "0.012345678901"),
            (1234.56789, "1234.56789"),
            (1.7976931348623157e308, "1.7976931348623157e+308"),
        ] {
            assert_eq!(double(value), text);
        }
    }

    #[test]
    fn a_reply_survives_its_stored_form() {
        let reply = Reply::Array(vec![
            Reply::OK,
            Reply::bulk(&b"\0\xff"[..]),
            Reply::Map(vec![(Reply::Int(1), Reply::Double(0.5))]),
            Reply::Verbatim { format: *b"txt", text: "x".into() },
        ]);
        let bytes = postcard::to_stdvec(&reply).unwrap();
        assert_eq!(postcard::from_bytes::<Reply>(&bytes).unwrap(), reply);
        let json = serde_json::to_string(&reply).unwrap();
        assert_eq!(serde_json::from_str::<Reply>(&json).unwrap(), reply);
    }
}
