//! Bytes <-> values: the Redis protocol, versions 2 and 3.
//!
//! Must never know a socket, a runtime or what a command means. Whatever arrives, it answers with a value, "more
//! bytes, please" or a [`ProtocolError`]; it never panics and never allocates what a header merely announces.
//! Source: <https://redis.io/docs/latest/develop/reference/protocol-spec/> and Redis 7.2's `networking.c`.

mod client;
mod decoder;
mod inline;
mod reply;

pub use client::ReplyDecoder;
pub use decoder::{Decoder, Limits, ProtocolError, integer};
pub use inline::split_words;
pub use reply::{Reply, double};

use bytes::Bytes;
use smallvec::SmallVec;

/// A request: the canonical argument vector. `[0]` is the command's name as it was sent; never empty.
pub type Args = SmallVec<[Bytes; 4]>;

/// How replies are written. A connection begins with [`Protocol::Resp2`]; `HELLO 3` changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    #[default]
    Resp2,
    Resp3,
}
