//! HyperCache: a Raft-replicated, strongly consistent cache cluster that speaks Redis' protocol.
pub mod env;
pub mod types;
