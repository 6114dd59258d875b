//! Who speaks at a door, and what is told to whom when that is not enough.
//!
//! RESP connections have an [`Access`] each, which follows the users; requests of HTTP and gRPC prove who they are each time
//! with their `authorization` ([`admit`]). What is allowed is `security::check`'s to say. Every refusal goes through
//! [`note`]: into ACL LOG, the counts and the audit log.

use super::accept::MayCome;
use super::overview::Overview;
use crate::cluster::Cluster;
use crate::commands::session::Session;
use crate::commands::{self, Command};
use crate::env;
use crate::resp::{Args, Reply};
use crate::security::{Context, DEFAULT_USER, Denied, Event, Reason, Registry, User, Users, check};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use std::net::IpAddr;
use std::sync::Arc;

/// What a client is told until this node knows its cluster's users.
pub(super) const UNKNOWN_USERS: &str = "LOADING this node has not heard from its cluster yet who its users are";

/// What a client from another machine is told while nobody needs a password.
pub(super) const PROTECTED: &[u8] =
    b"-DENIED protected mode: the default user needs no password, so only clients on this \
    machine are served. Set one (CONFIG SET requirepass), or security.protected_mode: false\r\n";

/// Protected mode: while the default user needs no password, only this machine's own clients are let in.
pub(super) fn may_come(registry: &Registry, protected: bool, peer: IpAddr) -> bool {
    !protected || peer.to_canonical().is_loopback() || registry.users().open().is_none()
}

/// The same for the doors that share an [`Overview`].
pub(super) fn who_may_come(overview: &Overview, protected: bool) -> MayCome {
    let registry = overview.cluster().registry().clone();
    Box::new(move |peer| may_come(&registry, protected, peer))
}

/// Who a RESP connection is.
pub(super) struct Access {
    users: Arc<Users>,
    user: Option<Arc<User>>,
}

/// What became of a connection's user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Stays,
    /// Deleted; or deleted and made again, which is another one.
    Gone,
}

impl Access {
    pub fn new(registry: &Registry, session: &Session) -> Access {
        let mut access = Access { users: registry.users(), user: None };
        access.sync(session);
        access
    }

    /// Takes over who the session says that it is now.
    pub fn sync(&mut self, session: &Session) {
        let changed = match (&session.user, &self.user) {
            (Some(name), Some(user)) => name != user.name(),
            (None, Some(_)) | (Some(_), None) | (None, None) => true,
        };
        if changed {
            self.user = match &session.user {
                Some(name) => self.users.get(name).cloned(),
                None => self.users.open().cloned(),
            };
        }
    }

    /// Takes over a change of the users. Costs a load and a comparison where there is none.
    pub fn refresh(&mut self, registry: &Registry, session: &mut Session) -> Fate {
        if registry.is_current(&self.users) {
            return Fate::Stays;
        }
        let were_known = self.users.are_known();
        self.users = registry.users();
        if !were_known && session.user.is_none() {
            // It came before anybody was known; this is who it would have been.
            session.user = self.users.open().map(|user| user.name().to_owned());
        }
        let old = self.user.take();
        self.sync(session);
        let same = |new: &Arc<User>| old.as_ref().is_none_or(|old| old.born() == new.born());
        match (&session.user, &self.user) {
            (Some(_), None) => Fate::Gone,
            (Some(_), Some(new)) if !same(new) => {
                self.user = None;
                Fate::Gone
            }
            _ => Fate::Stays,
        }
    }

    /// None: nobody yet, or nobody any more.
    pub fn user(&self) -> Option<&Arc<User>> {
        self.user.as_ref()
    }

    pub fn users_are_known(&self) -> bool {
        self.users.are_known()
    }

    /// Whether this connection may do anything.
    pub fn is_unlimited(&self) -> bool {
        self.user.as_ref().is_some_and(|user| user.is_all_powerful())
    }

    /// Whether this connection may run the command. MULTI calls it when a command is queued, and again with `Context::Multi`
    /// when it is run; scripts call it for each redis.call with `Context::Lua`.
    pub fn permits(
        &self,
        registry: &Registry,
        session: &Session,
        context: Context,
        command: &'static Command,
        args: &Args,
    ) -> Result<(), Denied> {
        let Some(user) = &self.user else { return Ok(()) };
        let checked = check(user, command, args);
        if let Err(denied) = &checked {
            note(registry, denied, context, client_of(session));
        }
        checked
    }
}

/// The client as ACL LOG shows it.
pub(super) fn client_of(session: &Session) -> String {
    commands::connection::client_line(&commands::node::ClientRow::bare(session, "NULL"))
}

pub(super) fn note(registry: &Registry, denied: &Denied, context: Context, client: String) {
    let (reason, object, username) = (denied.reason, denied.object.clone(), denied.user.clone());
    registry.note(env::wall_ms(), denied.command, Event { reason, context, object, username, client });
}

/// Notes that somebody could not prove to be `user`. `command` is what was said, or the name of the door.
pub(super) fn note_failed_proof(registry: &Registry, user: &str, command: &'static str, client: String) {
    let (reason, context) = (Reason::Auth, Context::Toplevel);
    let object = Bytes::from_static(command.as_bytes());
    let event = Event { reason, context, object, username: user.to_owned(), client };
    registry.note(env::wall_ms(), command, event);
}

/// Why a request of HTTP or gRPC is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAdmitted {
    /// This node does not know its cluster's users yet.
    UsersUnknown,
    /// No `authorization`, and the default user needs a password.
    Unproven,
    /// An `authorization` in another form than Basic or Bearer.
    Malformed,
    /// Wrong user or password, or a user that is off.
    Wrong,
}

impl NotAdmitted {
    /// RESP's code for the same.
    pub fn code(self) -> &'static str {
        match self {
            NotAdmitted::UsersUnknown => "LOADING",
            NotAdmitted::Unproven | NotAdmitted::Malformed => "NOAUTH",
            NotAdmitted::Wrong => "WRONGPASS",
        }
    }

    pub fn text(self) -> &'static str {
        match self {
            NotAdmitted::UsersUnknown => "this node has not heard from its cluster yet who its users are",
            NotAdmitted::Unproven => "authentication required: send Basic or Bearer authorization",
            NotAdmitted::Malformed => {
                "the authorization must be Basic or Bearer with base64 of user:password, or Bearer with the default \
                 user's password"
            }
            NotAdmitted::Wrong => "invalid username-password pair or user is disabled",
        }
    }
}

/// Who a request is, by its `authorization`. `door` names the door in the logs.
pub(super) fn admit(
    registry: &Registry,
    authorization: Option<&[u8]>,
    door: &'static str,
) -> Result<Arc<User>, NotAdmitted> {
    let users = registry.users();
    if !users.are_known() {
        return Err(NotAdmitted::UsersUnknown);
    }
    admit_among(&users, registry, authorization, door)
}

/// The same among users that need not be those in force.
pub(super) fn admit_among(
    users: &Users,
    registry: &Registry,
    authorization: Option<&[u8]>,
    door: &'static str,
) -> Result<Arc<User>, NotAdmitted> {
    let Some(authorization) = authorization else {
        return users.open().cloned().ok_or(NotAdmitted::Unproven);
    };
    let (scheme, token) = split_scheme(authorization).ok_or(NotAdmitted::Malformed)?;
    let pair = BASE64.decode(token).ok().and_then(|text| {
        let at = text.iter().position(|b| *b == b':')?;
        let name = std::str::from_utf8(&text[..at]).ok()?;
        let name = if name.is_empty() { DEFAULT_USER } else { name };
        Some((name.to_owned(), text[at + 1..].to_vec()))
    });
    let found = pair.as_ref().and_then(|(name, password)| users.authenticate(name, password));
    let found = match scheme {
        Scheme::Bearer => found.or_else(|| users.authenticate(DEFAULT_USER, token)),
        Scheme::Basic if pair.is_none() => return Err(NotAdmitted::Malformed),
        Scheme::Basic => found,
    };
    found.cloned().ok_or_else(|| {
        let name = pair.as_ref().map_or(DEFAULT_USER, |(name, _)| name);
        note_failed_proof(registry, name, door, format!("door={door}"));
        NotAdmitted::Wrong
    })
}

enum Scheme {
    Basic,
    Bearer,
}

fn split_scheme(authorization: &[u8]) -> Option<(Scheme, &[u8])> {
    let at = authorization.iter().position(|b| *b == b' ')?;
    let (scheme, token) = (&authorization[..at], authorization[at..].trim_ascii());
    match () {
        () if scheme.eq_ignore_ascii_case(b"basic") => Some((Scheme::Basic, token)),
        () if scheme.eq_ignore_ascii_case(b"bearer") => Some((Scheme::Bearer, token)),
        () => None,
    }
}

/// Whether a request of a door without connections may do what this command does.
pub(super) fn permits(cluster: &Cluster, user: &User, args: &Args, door: &'static str) -> Result<(), Denied> {
    // What a door asks for itself is in the tables; should it ever not be, the request finds out when it runs.
    let Ok(command) = commands::lookup(args) else { return Ok(()) };
    let checked = check(user, command, args);
    if let Err(denied) = &checked {
        note(cluster.registry(), denied, Context::Toplevel, format!("door={door}"));
    }
    checked
}

/// The answer to who has not said who it is.
pub(super) fn no_auth() -> Reply {
    Reply::error("NOAUTH Authentication required.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(rules: &[(&str, &str)]) -> Registry {
        let registry = Registry::default();
        let user = |(name, rules): &(&str, &str)| {
            let mut user = User::new(name, 1);
            user.apply(&rules.split(' ').map(|r| Bytes::copy_from_slice(r.as_bytes())).collect::<Vec<_>>()).unwrap();
            Arc::new(user)
        };
        registry.replace(Users::new(rules.iter().map(user)));
        registry
    }

    fn basic(pair: &str) -> String {
        format!("Basic {}", BASE64.encode(pair))
    }

    #[test]
    fn who_proves_what_is_who() {
        let locked = registry(&[("default", "on >secret +@all"), ("alice", "on >a:b +get"), ("off", "off >x")]);
        let who = |header: &str| admit(&locked, Some(header.as_bytes()), "http").map(|user| user.name().to_owned());
        for (header, name) in [
            (basic("alice:a:b"), "alice"),
            (basic(":secret"), "default"),
            (basic("default:secret"), "default"),
            (format!("bearer {}", BASE64.encode("alice:a:b")), "alice"),
            ("Bearer secret".to_owned(), "default"),
        ] {
            assert_eq!(who(&header).as_deref(), Ok(name), "{header}");
        }
        for header in [basic("alice:x"), basic("nobody:x"), basic("off:x"), "Bearer nonsense".to_owned()] {
            assert_eq!(who(&header), Err(NotAdmitted::Wrong), "{header}");
        }
        for header in ["", "secret", "Digest x", "Basic !!!"] {
            assert_eq!(who(header), Err(NotAdmitted::Malformed), "{header}");
        }
        assert_eq!(admit(&locked, None, "http").err(), Some(NotAdmitted::Unproven));
        assert_eq!(locked.log(9).len(), 4);
        assert_eq!(admit(&Registry::default(), None, "http").err(), Some(NotAdmitted::UsersUnknown));
        let open = registry(&[("default", "on nopass +@all")]);
        assert_eq!(admit(&open, None, "http").unwrap().name(), "default");
    }

    #[test]
    fn other_machines_may_come_once_somebody_has_to_prove_something() {
        let (near, far) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([192, 0, 2, 1]));
        let mapped: IpAddr = "::ffff:127.0.0.1".parse().unwrap();
        let (open, locked) = (registry(&[("default", "on nopass")]), registry(&[("default", "on >x")]));
        assert!(may_come(&open, true, near) && may_come(&open, true, mapped) && !may_come(&open, true, far));
        assert!(may_come(&open, false, far) && may_come(&locked, true, far));
        assert!(may_come(&registry(&[("default", "off nopass")]), true, far));
    }

    #[test]
    fn a_connection_follows_its_user() {
        let registry = registry(&[("default", "on nopass +@all"), ("alice", "on nopass +get")]);
        let mut session = Session { user: Some("alice".to_owned()), ..Session::default() };
        let mut access = Access::new(&registry, &session);
        assert_eq!(access.refresh(&registry, &mut session), Fate::Stays);
        let with = |alice: Option<User>| {
            let default = User::all_powerful(DEFAULT_USER, 1);
            registry.replace(Users::new([Some(default), alice].into_iter().flatten().map(Arc::new)));
        };
        with(Some(User::all_powerful("alice", 1)));
        assert_eq!(access.refresh(&registry, &mut session), Fate::Stays);
        assert_eq!(access.user().map(|user| user.text()), Some(User::all_powerful("alice", 1).text()));
        with(Some(User::all_powerful("alice", 2)));
        assert_eq!(access.refresh(&registry, &mut session), Fate::Gone);
        assert!(access.user().is_none());
        let mut access = Access::new(&registry, &session);
        with(None);
        assert_eq!(access.refresh(&registry, &mut session), Fate::Gone);
    }

    #[test]
    fn who_came_before_the_users_were_known_is_nobody_until_then() {
        let registry = Registry::default();
        let mut session = Session { user: None, ..Session::default() };
        let mut access = Access::new(&registry, &session);
        assert!(access.user().is_none() && !access.users_are_known());
        registry.replace(Users::new([Arc::new(User::all_powerful(DEFAULT_USER, 1))]));
        assert_eq!(access.refresh(&registry, &mut session), Fate::Stays);
        assert_eq!((access.user().is_some(), session.user.as_deref()), (true, Some("default")));
    }
}
