//! HyperCache: a Raft-replicated, strongly consistent cache cluster that speaks Redis' protocol.
pub mod cluster;
pub mod commands;
pub mod env;
pub mod raft;
pub mod resp;
pub mod routing;
pub mod server;
pub mod slot;
pub mod state;
pub mod types;
