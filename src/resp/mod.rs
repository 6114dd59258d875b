//! Bytes <-> values: the Redis protocol, versions 2 and 3.
//!
//! Must never know a socket, a runtime or what a command means. Whatever arrives, it answers with a value, "more
//! bytes, please" or a [`ProtocolError`]; it never panics and never allocates what a header merely announces.
//! Source: <https://redis.io/docs/latest/develop/reference/protocol-spec/> and Redis 7.2's `networking.c`.

mod args;
mod client;
mod decoder;
mod inline;
mod reply;

pub use args::Args;
pub use client::ReplyDecoder;
pub use decoder::{Decoder, Limits, ProtocolError, integer};
pub use inline::split_words;
pub use reply::{Reply, double};

/// How replies are written. A connection begins with [`Protocol::Resp2`]; `HELLO 3` changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    #[default]
    Resp2,
    Resp3,
}
