//! HyperCache: a Raft-replicated, strongly consistent cache cluster that speaks Redis' protocol.
pub mod config;
pub mod demo;
pub mod env;
pub mod node;
pub mod telemetry;
pub mod types;
