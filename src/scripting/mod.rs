//! Lua: scripts run on copies of the keys they touch, and what they write becomes one call of a log entry.
//!
//! | file | what |
//! |---|---|
//! | `overlay.rs` | what a script sees and changes: copies, with the versions they had |
//! | `caller.rs` | what stands between `redis.call` and the overlay: Redis' rules for scripts |
//! | `engine.rs` | an interpreter: compiles, runs, stops |
//! | `environment.rs`, `prelude.lua` | the globals of a script, and that it cannot change them |
//! | `convert.rs`, `number.rs` | replies and Lua values |
//! | `flags.rs` | the first line of a script |
//! | `library.rs`, `register.rs` | libraries of functions, and how they register them |
//! | `bit.rs`, `cjson.rs`, `cmsgpack.rs`, `structs.rs`, `random.rs` | what scripts call besides Redis |
//!
//! Must never know Raft, sockets or clocks: where keys come from ([`Source`]), when a script must stop ([`Watch`]) and
//! who owns a key are handed in. An interpreter stays on the thread that made it.
//!
//! Invariants: a script leaves nothing behind in its interpreter but compiled code, so that it does the same whatever ran
//! before, and a library is run anew for each call; a script that was stopped gives a reply and no effects.

mod bit;
mod caller;
mod cjson;
mod cmsgpack;
mod convert;
mod engine;
mod environment;
mod flags;
mod library;
mod number;
mod overlay;
mod random;
mod register;
mod structs;

#[cfg(test)]
mod tests;

/// Stack of a thread that runs scripts: values nest a thousand deep. It costs what is used of it.
pub const STACK_BYTES: usize = 16 << 20;

pub use caller::{Caller, Rights, Rules};
pub use engine::{Interpreter, Limits, Ran, Stop, Watch, hex, sha1_hex};
pub use flags::{Flags, of_script};
pub use library::{ENGINE, Function, Libraries, Library, head, seal, unseal};
pub use overlay::{Overlay, Source};
