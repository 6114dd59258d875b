//! What is fuzzed, each a function of the bytes that libFuzzer thinks of. It panics if something is wrong.
//!
//! The server's own folders stand here under the names they have there, compiled from the same files. Of what binds
//! openraft's generics only the types that are on the wire or in the log are said again.

#[path = "../../src/commands/mod.rs"]
pub mod commands;
#[path = "../../src/config/mod.rs"]
pub mod config;
/// What the HTTP door reads requests with.
// No bug is planted here.
#[path = "../../src/planted.rs"]
#[allow(unexpected_cfgs)]
pub mod planted;
#[path = "../../src/server/http/request.rs"]
pub mod request;
#[path = "../../src/resp/mod.rs"]
pub mod resp;
#[path = "../../src/slot.rs"]
pub mod slot;
#[path = "../../src/state/mod.rs"]
pub mod state;
#[path = "../../src/types.rs"]
pub mod types;

/// Requests of the worst kind, as the server's own tests have them.
#[path = "../../src/commands/tests/nasty.rs"]
pub mod nasty;

pub mod calls;
pub mod configuration;
pub mod decoder;
pub mod dumps;
pub mod entries;
pub mod frames;
pub mod paths;
pub mod raft;
pub mod snapshots;

/// Targets by their names: what a corpus is for.
pub const TARGETS: &[(&str, fn(&[u8]))] = &[
    ("calls", calls::run),
    ("configuration", configuration::run),
    ("decoder", decoder::run),
    ("dumps", dumps::run),
    ("entries", entries::run),
    ("frames", frames::run),
    ("paths", paths::run),
    ("snapshots", snapshots::run),
];

/// The first bytes as a length, and what is before and behind it: two inputs in one.
pub fn split(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = data.split_first_chunk::<2>()?;
    Some(rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len())))
}
