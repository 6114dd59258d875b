//! Replies in the notation of redis-cli, in which transcripts are written.

use hypercache::resp::{Reply, double};

/// A reply in redis-cli's notation.
pub fn show(reply: &Reply) -> Vec<String> {
    let one = |text: String| vec![text];
    match reply {
        Reply::Status(text) => one(String::from_utf8_lossy(text).into_owned()),
        Reply::Error(text) => one(format!("(error) {}", String::from_utf8_lossy(text))),
        Reply::Int(value) => one(format!("(integer) {value}")),
        Reply::Bulk(bytes) | Reply::Verbatim { text: bytes, .. } => one(quoted(bytes)),
        Reply::Nil | Reply::NilArray => one("(nil)".into()),
        // As RESP2 says it, which is what transcripts are told in.
        Reply::Bool(value) => one(format!("(integer) {}", u8::from(*value))),
        Reply::Double(value) => one(quoted(double(*value).as_bytes())),
        Reply::BigNumber(digits) => one(String::from_utf8_lossy(digits).into_owned()),
        Reply::Array(items) | Reply::Set(items) | Reply::Push(items) => listed(items.iter().map(show).collect()),
        Reply::PairMap(pairs) => {
            listed(pairs.iter().map(|(key, value)| listed(vec![show(key), show(value)])).collect())
        }
        Reply::Map(pairs) | Reply::Pairs(pairs) => {
            listed(pairs.iter().flat_map(|(key, value)| [show(key), show(value)]).collect())
        }
        Reply::Nothing => Vec::new(),
        Reply::Several(replies) => replies.iter().flat_map(show).collect(),
    }
}

fn listed(items: Vec<Vec<String>>) -> Vec<String> {
    if items.is_empty() {
        return vec!["(empty array)".into()];
    }
    let numbered = |(at, lines): (usize, Vec<String>)| {
        let number = format!("{}) ", at + 1);
        let indent = " ".repeat(number.len());
        let prefixed = move |(at, line)| format!("{}{line}", if at == 0 { &number } else { &indent });
        lines.into_iter().enumerate().map(prefixed).collect::<Vec<_>>()
    };
    items.into_iter().enumerate().flat_map(numbered).collect()
}

fn quoted(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    for &byte in bytes {
        match byte {
            b'"' | b'\\' => text.extend(['\\', char::from(byte)]),
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            b'\t' => text.push_str("\\t"),
            0x20..0x7f => text.push(char::from(byte)),
            _ => text.push_str(&format!("\\x{byte:02x}")),
        }
    }
    text.push('"');
    text
}
