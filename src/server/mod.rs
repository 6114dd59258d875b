//! The doors. Bytes and sockets on one side, commands and groups on the other; nothing here decides what a command
//! means or who owns a key.

pub mod accept;
pub mod grpc;
pub mod http;
pub mod metrics;
pub mod overview;
#[cfg(test)]
pub mod testing;
