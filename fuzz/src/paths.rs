//! Requests of the HTTP door: the key in a path, the level in a query, value and ttl in a body.
//!
//! Input: length of the path with its query (u16) | that path | a body. What must hold: a key is what a simple decoder makes of
//! the path, and comes back from any spelling of it; a level comes back from its name; a body that is taken says the same again.

use crate::request::{self, CACHE_PATH};
use crate::types::Level;
use axum::http::Uri;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

/// The key as one sees it who splits at `%`.
fn simply(raw: &str) -> Option<Vec<u8>> {
    let mut parts = raw.split('%');
    let mut key = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let digits = part.get(..2).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
        key.push(u8::from_str_radix(digits, 16).expect("they are digits"));
        key.extend(&part.as_bytes()[2..]);
    }
    Some(key)
}

/// Every byte as two digits, in either case.
fn spelled(bytes: &[u8]) -> String {
    let digits = |(at, byte): (usize, &u8)| if at % 2 == 0 { format!("%{byte:02x}") } else { format!("%{byte:02X}") };
    bytes.iter().enumerate().map(digits).collect()
}

fn path(uri: &Uri) {
    let found = request::key(uri.path());
    let raw = uri.path().strip_prefix(CACHE_PATH).unwrap_or_default();
    assert_eq!(found.as_ref().ok().map(|key| key.to_vec()), simply(raw));
    if let Ok(key) = &found {
        assert_eq!(request::key(&format!("{CACHE_PATH}{}", spelled(key))), found);
    }
    if let Ok(Some(level)) = request::level(uri) {
        // Its name, in a query as a client would write it.
        let named: Uri = format!("/?consistency={}", spelled(level.to_string().as_bytes())).parse().expect("a path");
        assert_eq!(request::level(&named), Ok(Some(level)));
    }
}

fn body(bytes: &[u8]) {
    let Ok((value, ttl)) = request::put(bytes) else { return };
    let ttl_ms = ttl.map(request::ttl_ms);
    assert!(!matches!(ttl_ms, Some(Ok(0))), "a key that dies at once");
    let encoded = BASE64.encode(&value);
    let again = match ttl {
        Some(ttl) => format!(r#"{{"encoding":"base64","ttl":{ttl:e},"value":"{encoded}"}}"#),
        None => format!(r#"{{"encoding":"base64","value":"{encoded}"}}"#),
    };
    assert_eq!(request::put(again.as_bytes()), Ok((value, ttl)));
}

pub fn run(data: &[u8]) {
    let Some((first, rest)) = crate::split(data) else { return };
    if let Ok(uri) = Uri::try_from(first) {
        path(&uri);
    }
    if let Ok(text) = std::str::from_utf8(first) {
        let uri: Uri = format!("/api/cache/k?consistency={}", spelled(first)).parse().expect("digits only");
        // A level is found however it is spelled, and nothing else is.
        assert_eq!(request::level(&uri).ok().flatten(), Level::parse(text));
    }
    body(rest);
}
