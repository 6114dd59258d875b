//! What an HTTP request says: the key in its path, the level in its query, value and ttl in its body. Pure: whatever comes is
//! taken, or refused with a sentence that says what is wrong with it. It never knows of limits, users or groups.

use crate::types::Level;
use axum::extract::Query;
use axum::http::Uri;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::Deserialize;

/// Where keys are; what follows is the key, slashes included.
pub const CACHE_PATH: &str = "/api/cache/";

/// The key in a path, or, where its percent-encoding is wrong, what stands there instead.
pub fn key(path: &str) -> Result<Bytes, &str> {
    let raw = path.strip_prefix(CACHE_PATH).unwrap_or_default();
    percent_decoded(raw).ok_or(raw)
}

/// Undoes percent-encoding, byte by byte: a key need not be text. `None` when a `%` is not followed by two digits.
fn percent_decoded(text: &str) -> Option<Bytes> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first != b'%' {
            out.push(first);
            rest = after;
            continue;
        }
        let digits = after.get(..2)?;
        let high = char::from(digits[0]).to_digit(16)?;
        let low = char::from(digits[1]).to_digit(16)?;
        out.push((high << 4 | low) as u8);
        rest = &after[2..];
    }
    Some(out.into())
}

#[derive(Deserialize)]
struct ReadQuery {
    consistency: Option<String>,
}

/// The level that a read asks for, if it names one.
pub fn level(uri: &Uri) -> Result<Option<Level>, String> {
    let Query(query) = Query::<ReadQuery>::try_from_uri(uri).map_err(|error| error.body_text())?;
    let Some(text) = query.consistency else { return Ok(None) };
    let wrong = || format!("no level is called `{text}`: use linearizable, lease, eventual or bounded:<milliseconds>");
    Level::parse(&text).map(Some).ok_or_else(wrong)
}

/// Body of a PUT or POST. Unknown fields are refused: a misspelt `ttl` must not store for ever.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PutBody {
    value: String,
    /// Seconds, fractions allowed down to a millisecond; absent or null keeps the key until it is deleted.
    #[serde(default)]
    ttl: Option<f64>,
    #[serde(default)]
    encoding: Option<Encoding>,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    #[serde(alias = "utf8", alias = "utf-8")]
    Text,
    Base64,
}

/// A value and the seconds that it is to live, if it is to die.
pub fn put(body: &[u8]) -> Result<(Bytes, Option<f64>), String> {
    let body: PutBody = serde_json::from_slice(body).map_err(|error| {
        let form = r#"{"value":"...","ttl":3600,"encoding":"base64"}, ttl and encoding optional"#;
        format!("the body is not the JSON this door takes: {error}; it must be {form}")
    })?;
    let value = match body.encoding {
        Some(Encoding::Base64) => BASE64
            .decode(body.value)
            .map_err(|error| format!("the value is not base64 as its encoding says: {error}"))?,
        Some(Encoding::Text) | None => body.value.into_bytes(),
    };
    Ok((value.into(), body.ttl))
}

/// Seconds to whole milliseconds, rounded up so that a positive ttl never becomes none.
pub fn ttl_ms(seconds: f64) -> Result<u64, String> {
    let ms = (seconds * 1000.0).ceil();
    // Redis' own bound: a ttl is a signed 64-bit number of milliseconds.
    if ms >= 1.0 && ms < i64::MAX as f64 {
        Ok(ms as u64)
    } else {
        Err(format!("ttl is {seconds} seconds; it must be positive, or absent for a key that does not expire"))
    }
}
