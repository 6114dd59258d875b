//! What one connection carries that commands may change: its identity, protocol, levels and flags.
//!
//! Plain data: no socket, no queue, no clock. The door that owns the connection (`server::session`) reads these
//! fields before and after every command and acts on them; commands only set them.
//!
//! Invariants: `id` never changes and is never reused while the process lives; `reply` is consulted through
//! [`Session::mutes`] exactly once a command.

use crate::commands::pubsub::Counts;
use crate::commands::tracking::Tracking;
use crate::resp::Protocol;
use crate::types::Level;
use std::net::SocketAddr;

/// Which listener accepted the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Face {
    /// Any node takes any key and carries it to its leader; `cluster_enabled:0`.
    Proxy,
    /// Keys of other leaders are redirected with MOVED; `cluster_enabled:1`.
    Cluster,
}

/// CLIENT REPLY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyMode {
    On,
    /// Nothing is answered until CLIENT REPLY ON.
    Off,
    /// The next command is not answered.
    SkipNext,
}

/// Longest name, library name or version a client may give itself, in bytes.
pub const CLIENT_NAME_BYTES_MAX: usize = 512;

/// The state of one connection.
#[derive(Debug, Clone)]
pub struct Session {
    pub id: u64,
    pub face: Face,
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub name: String,
    pub lib_name: String,
    pub lib_version: String,
    pub protocol: Protocol,
    /// CLIENT CONSISTENCY; None leaves it to the configuration.
    pub level: Option<Level>,
    /// READONLY: reads are `eventual` and any replica answers them.
    pub readonly: bool,
    /// ASKING: the next command may touch a slot that is being brought in.
    pub asking: bool,
    pub reply: ReplyMode,
    /// Who the client proved to be; None until AUTH where users are configured.
    pub user: Option<String>,
    /// No further command is read; the connection closes when every reply so far is out.
    pub close_after_reply: bool,
    pub no_evict: bool,
    pub no_touch: bool,
    /// MONITOR.
    pub monitors: bool,
    pub subscriptions: Counts,
    /// CLIENT TRACKING, if it is on.
    pub tracking: Option<Box<Tracking>>,
}

impl Session {
    /// A fresh connection. `user` is the one that needs no password, if there is one.
    pub fn new(id: u64, face: Face, peer: SocketAddr, local: SocketAddr, user: Option<String>) -> Session {
        Session {
            id,
            face,
            peer,
            local,
            name: String::new(),
            lib_name: String::new(),
            lib_version: String::new(),
            protocol: Protocol::Resp2,
            level: None,
            readonly: false,
            asking: false,
            reply: ReplyMode::On,
            user,
            close_after_reply: false,
            no_evict: false,
            no_touch: false,
            monitors: false,
            subscriptions: Counts::default(),
            tracking: None,
        }
    }

    /// RESET: as after connecting. `user` as in [`Session::new`].
    pub fn reset(&mut self, user: Option<String>) {
        *self = Session {
            lib_name: std::mem::take(&mut self.lib_name),
            lib_version: std::mem::take(&mut self.lib_version),
            ..Session::new(self.id, self.face, self.peer, self.local, user)
        };
    }

    /// Whether the connection listens and speaks RESP2: then it may do little else.
    pub fn only_listens(&self) -> bool {
        self.subscriptions.any() && self.protocol == Protocol::Resp2
    }

    /// Whether the command that begins now is answered; takes a SKIP back as it is used up.
    pub fn mutes(&mut self) -> bool {
        match self.reply {
            ReplyMode::On => false,
            ReplyMode::Off => true,
            ReplyMode::SkipNext => {
                self.reply = ReplyMode::On;
                true
            }
        }
    }

    /// The level of a read that names none: the connection's own, READONLY's, or what is configured.
    pub fn read_level(&self, configured: Level) -> Level {
        match (self.level, self.readonly) {
            (Some(level), _) => level,
            (None, true) => Level::Eventual,
            (None, false) => configured,
        }
    }
}

impl Default for Session {
    /// A session without a connection: number 0, the proxy face, the default user.
    fn default() -> Session {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        Session::new(0, Face::Proxy, nowhere, nowhere, Some("default".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn skip_mutes_exactly_one_command() {
        let mut s = Session { reply: ReplyMode::SkipNext, ..Session::default() };
        assert!(s.mutes());
        assert!(!s.mutes());
    }

    #[test]
    fn connection_level_wins_over_readonly_which_wins_over_configuration() {
        let mut s = Session::default();
        assert_eq!(s.read_level(Level::Lease), Level::Lease);
        s.readonly = true;
        assert_eq!(s.read_level(Level::Lease), Level::Eventual);
        s.level = Some(Level::Bounded(Duration::from_millis(5)));
        assert_eq!(s.read_level(Level::Lease), Level::Bounded(Duration::from_millis(5)));
    }

    #[test]
    fn reset_keeps_identity_and_drops_everything_chosen() {
        let (name, protocol) = ("x".to_owned(), Protocol::Resp3);
        let mut s = Session { name, protocol, readonly: true, ..Session::default() };
        s.reset(None);
        assert_eq!((s.id, s.name.as_str(), s.readonly, s.protocol, s.user), (0, "", false, Protocol::Resp2, None));
    }
}
