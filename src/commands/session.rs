//! What a connection remembers between commands.

/// The state of one client's connection that session commands see.
#[derive(Debug, Default)]
pub struct Session {}
