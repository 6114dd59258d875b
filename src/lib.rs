//! HyperCache: a Raft-replicated, strongly consistent cache cluster that speaks Redis' protocol.
pub mod commands;
pub mod env;
pub mod resp;
pub mod slot;
pub mod state;
pub mod types;
