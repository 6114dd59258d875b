//! CLIENT TRACKING and its kin: a client that keeps what it read, and wants to be told when that is no longer so.
//!
//! What is chosen lives in the session; the keys that were read, and who is told, are the node's ([`Caches`]). Texts are
//! Redis 7.2's.

use super::connection::spec;
use super::node::Node;
use super::session::Session;
use super::syntax::{is, syntax_error, want_integer};
use super::{NodeCommand, SessionCommand, Spec};
use crate::resp::{Args, Reply};
use bytes::Bytes;

/// What a connection chose with CLIENT TRACKING ON.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tracking {
    /// Another connection is told in its place.
    pub redirect: Option<u64>,
    /// Told of every change of a key with one of these prefixes, whether it read it or not.
    pub bcast: bool,
    pub prefixes: Vec<Bytes>,
    /// Only reads behind CLIENT CACHING YES are kept.
    pub optin: bool,
    /// Reads behind CLIENT CACHING NO are not kept.
    pub optout: bool,
    pub noloop: bool,
    /// CLIENT CACHING was called for the next command.
    pub caching: bool,
}

impl Tracking {
    /// Whether the keys of a read that comes now are to be remembered.
    pub fn remembers(&self) -> bool {
        !self.bcast && if self.optin { self.caching } else { !(self.optout && self.caching) }
    }
}

/// A node's book of what its clients keep. Nothing waits.
pub trait Caches {
    /// Whether there is such a connection.
    fn knows(&self, client: u64) -> bool;
    /// From now on a connection is told of changes in this way, or not any more.
    fn track(&self, client: u64, tracking: Option<&Tracking>);
    /// Whether the connection that is told in this one's place is gone.
    fn is_redirect_broken(&self, client: u64) -> bool;
}

/// Ends tracking, as RESET does.
pub fn forget(node: &dyn Node, session: &mut Session) {
    if session.tracking.take().is_some() {
        node.caches().track(session.id, None);
    }
}

fn refused(text: impl Into<Bytes>) -> Result<(), Reply> {
    Err(Reply::error(text))
}

/// The first of `new` that overlaps with one of `known`.
fn overlap<'a>(new: &'a [Bytes], known: &'a [Bytes]) -> Option<(&'a Bytes, &'a Bytes)> {
    let pairs = new.iter().flat_map(|a| known.iter().map(move |b| (a, b)));
    pairs.into_iter().find(|(a, b)| a.starts_with(b) || b.starts_with(a))
}

fn check_prefixes(new: &[Bytes], old: &[Bytes]) -> Result<(), Reply> {
    let text = |a: &Bytes, what: &str, b: &Bytes| {
        let (a, b) = (String::from_utf8_lossy(a), String::from_utf8_lossy(b));
        refused(format!(
            "ERR Prefix '{a}' overlaps with {what} prefix '{b}'. Prefixes for a single client must not overlap."
        ))
    };
    for (at, prefix) in new.iter().enumerate() {
        let one = std::slice::from_ref(prefix);
        if let Some((a, b)) = overlap(one, old) {
            return text(a, "an existing", b);
        }
        if let Some((a, b)) = overlap(one, &new[at + 1..]) {
            return text(a, "another provided", b);
        }
    }
    Ok(())
}

pub(super) enum SetTracking {
    On(Tracking),
    Off(Option<u64>),
}

impl SetTracking {
    fn redirect(&self) -> Option<u64> {
        match self {
            SetTracking::On(wanted) => wanted.redirect,
            SetTracking::Off(redirect) => *redirect,
        }
    }
}

/// Whether a connection that tracks in the old way may go over to the new one.
fn check(new: &Tracking, old: Option<&Tracking>) -> Result<(), Reply> {
    if !new.bcast && !new.prefixes.is_empty() {
        return refused("ERR PREFIX option requires BCAST mode to be enabled");
    }
    if old.is_some_and(|old| old.bcast != new.bcast) {
        return refused(
            "ERR You can't switch BCAST mode on/off before disabling tracking for this client, and then re-enabling it with a different mode.",
        );
    }
    if new.bcast && (new.optin || new.optout) {
        return refused("ERR OPTIN and OPTOUT are not compatible with BCAST");
    }
    if new.optin && new.optout {
        return refused("ERR You can't specify both OPTIN mode and OPTOUT mode");
    }
    if old.is_some_and(|old| new.optin && old.optout || new.optout && old.optin) {
        return refused(
            "ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then re-enabling it with a different mode.",
        );
    }
    // A prefix that is there already may be said again: only others are compared with it.
    let known = old.map_or(&[][..], |old| &old.prefixes);
    check_prefixes(&new.prefixes, known)
}

impl NodeCommand for SetTracking {
    const SPEC: Spec = spec(
        "tracking",
        -3,
        "6.0.0",
        "CLIENT TRACKING <ON | OFF> [REDIRECT client-id] [PREFIX prefix [PREFIX prefix ...]] [BCAST] [OPTIN] [OPTOUT] [NOLOOP]",
        "Whether the connection is told of changes of keys that it read.",
    );

    fn parse(args: &Args) -> Result<Self, Reply> {
        let mut wanted = Tracking::default();
        let mut words = args[3..].iter();
        while let Some(word) = words.next() {
            match () {
                () if is(word, "redirect") && words.len() > 0 => {
                    if wanted.redirect.is_some() {
                        return Err(Reply::error("ERR A client can only redirect to a single other client"));
                    }
                    let id = want_integer(words.next().expect("one is left"))?;
                    // No connection has a number below one.
                    wanted.redirect = Some(u64::try_from(id).unwrap_or(0));
                }
                () if is(word, "prefix") && words.len() > 0 => wanted.prefixes.extend(words.next().cloned()),
                () if is(word, "bcast") => wanted.bcast = true,
                () if is(word, "optin") => wanted.optin = true,
                () if is(word, "optout") => wanted.optout = true,
                () if is(word, "noloop") => wanted.noloop = true,
                () => return Err(syntax_error()),
            }
        }
        match () {
            () if is(&args[2], "on") => Ok(SetTracking::On(wanted)),
            () if is(&args[2], "off") => Ok(SetTracking::Off(wanted.redirect)),
            () => Err(syntax_error()),
        }
    }

    fn run(self, node: &dyn Node, session: &mut Session) -> Reply {
        if self.redirect().is_some_and(|id| !node.caches().knows(id)) {
            return Reply::error("ERR The client ID you want redirect to does not exist");
        }
        let SetTracking::On(mut wanted) = self else {
            forget(node, session);
            return Reply::OK;
        };
        let old = session.tracking.as_deref();
        if let Err(reply) = check(&wanted, old) {
            return reply;
        }
        if wanted.bcast {
            if wanted.prefixes.is_empty() && old.is_none_or(|old| old.prefixes.is_empty()) {
                wanted.prefixes.push(Bytes::new());
            }
            wanted.prefixes.extend(old.map_or(Vec::new(), |old| old.prefixes.clone()));
            wanted.prefixes.sort_unstable();
            wanted.prefixes.dedup();
        }
        node.caches().track(session.id, Some(&wanted));
        session.tracking = Some(Box::new(wanted));
        Reply::OK
    }
}

pub(super) enum Caching {
    Yes,
    No,
    Other,
}

impl SessionCommand for Caching {
    const SPEC: Spec = spec(
        "caching",
        3,
        "6.0.0",
        "CLIENT CACHING <YES | NO>",
        "Whether the keys of the next command are tracked, in OPTIN and OPTOUT mode.",
    );

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(match () {
            () if is(&args[2], "yes") => Caching::Yes,
            () if is(&args[2], "no") => Caching::No,
            () => Caching::Other,
        })
    }

    fn run(self, session: &mut Session) -> Reply {
        let Some(tracking) = &mut session.tracking else {
            return Reply::error(
                "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled",
            );
        };
        match self {
            Caching::Other => return syntax_error(),
            Caching::Yes if !tracking.optin => {
                return Reply::error("ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.");
            }
            Caching::No if !tracking.optout => {
                return Reply::error("ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.");
            }
            Caching::Yes | Caching::No => tracking.caching = true,
        }
        Reply::OK
    }
}

/// What GETREDIR and TRACKINGINFO say of the connection that is told in this one's place.
fn redirect(session: &Session) -> i64 {
    session.tracking.as_ref().map_or(-1, |tracking| tracking.redirect.unwrap_or(0) as i64)
}

pub(super) struct GetRedir;

impl SessionCommand for GetRedir {
    const SPEC: Spec =
        spec("getredir", 2, "6.0.0", "CLIENT GETREDIR", "The connection that is told of changes in this one's place.");

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(GetRedir)
    }

    fn run(self, session: &mut Session) -> Reply {
        Reply::Int(redirect(session))
    }
}

pub(super) struct TrackingInfo;

impl NodeCommand for TrackingInfo {
    const SPEC: Spec =
        spec("trackinginfo", 2, "6.2.0", "CLIENT TRACKINGINFO", "How this connection is told of changes of keys.");

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(TrackingInfo)
    }

    fn run(self, node: &dyn Node, session: &mut Session) -> Reply {
        let mut flags = Vec::new();
        match &session.tracking {
            None => flags.push("off"),
            Some(t) => {
                let broken = node.caches().is_redirect_broken(session.id);
                let all = [
                    (true, "on"),
                    (t.bcast, "bcast"),
                    (t.optin, "optin"),
                    (t.optin && t.caching, "caching-yes"),
                    (t.optout, "optout"),
                    (t.optout && t.caching, "caching-no"),
                    (t.noloop, "noloop"),
                    (broken, "broken_redirect"),
                ];
                flags.extend(all.iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| *flag));
            }
        }
        let prefixes = session.tracking.as_ref().map_or(Vec::new(), |tracking| tracking.prefixes.clone());
        Reply::Map(vec![
            (Reply::bulk("flags"), Reply::Set(flags.into_iter().map(Reply::bulk).collect())),
            (Reply::bulk("redirect"), Reply::Int(redirect(session))),
            (Reply::bulk("prefixes"), Reply::Array(prefixes.into_iter().map(Reply::Bulk).collect())),
        ])
    }
}
