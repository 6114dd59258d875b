//! HyperCache: a Raft-replicated, strongly consistent cache cluster that speaks Redis' protocol.
//!
//! ```text
//!  server   the doors: RESP, HTTP, gRPC          bin  hypercache, hypercachectl
//!     |  \______________________                  |
//!  cluster   who belongs, who owns \           node.rs  the wiring, which knows everything
//!     |       \                     \
//!     |     security  who may do what \
//!   raft     /    log, machine, links, proposer, reads
//!     |     /     scripting  Lua (used by server alone)
//!     |     /                           \
//!  commands  the language        routing  key -> slot -> group
//!     |     \
//!   state   resp
//! ```
//!
//! Arrows go down only; `tests/imports.rs` keeps it so. A request's way: `server::session` reads bytes, `resp` decodes
//! them, `server::dispatch` runs the gates and finds the group; a read waits for its level in `raft::reads` and runs on
//! the keyspace; a write becomes part of an entry in `raft::proposer`, is stored and replicated, and is applied by
//! `raft::machine` through `commands`. docs/ARCHITECTURE.md tells it at length.

pub mod archive;
pub mod cluster;
pub mod commands;
pub mod config;
pub mod ctl;
pub mod demo;
pub mod disk;
pub mod env;
pub mod net;
pub mod node;
pub mod planted;
pub mod proto;
pub mod raft;
pub mod recover;
pub mod resp;
pub mod restore;
pub mod routing;
pub mod scripting;
pub mod security;
pub mod server;
pub mod slot;
pub mod state;
pub mod telemetry;
pub mod types;
