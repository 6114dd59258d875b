//! From an argument vector to the place where it runs: finds the command, runs its gates, finds its groups.
//!
//! Nothing here waits, runs a command or writes to a connection. The order of the gates is their order in [`GATES`];
//! the first refusal is the reply, and a refused command has had no effect.

use super::counters::{self, Ordinal};
use super::guard::{self, Access};
use super::scan::Range;
use super::{Routes, Shared};
use crate::commands::acl::{self, Change};
use crate::commands::pubsub::Ask;
use crate::commands::session::{Face, Session};
use crate::commands::{self, Command, Keys, Merge, Run, Scope};
use crate::resp::{Args, Reply};
use crate::security::{self, Context};
use crate::slot::slot_of;
use crate::types::{GroupId, Level, Slot};
use bytes::Bytes;
use std::sync::atomic::Ordering::Relaxed;

/// A request whose command is known.
pub(super) struct Request {
    pub args: Args,
    pub command: &'static Command,
    pub ordinal: Ordinal,
    /// HC.READ's level.
    pub level: Option<Level>,
}

/// Where a request runs.
pub(super) enum Route {
    /// On this node, at once: session and node commands.
    Here,
    One(GroupId),
    /// What sets a parameter of the whole cluster, as a command on the meta group.
    Cluster(Args),
    /// What changes users, on all nodes.
    Users(Change),
    /// One part a group; `places` as `Gather` wants them.
    Split {
        merge: Merge,
        parts: Vec<(GroupId, Args)>,
        places: Vec<Vec<usize>>,
    },
    /// On every node: what concerns those who listen.
    Nodes(Ask),
    /// A part in every group.
    Everywhere(Merge),
    /// SCAN: what is to be visited, in the order of slots.
    Scan(Vec<Range>),
}

/// Finds the command, unwrapping HC.READ. One that has too many or too few arguments is told with the error.
/// `last`: the command before it.
pub(super) fn find(args: Args, last: Option<Ordinal>) -> Result<Request, (Reply, Option<&'static Command>)> {
    let named = |args: &Args| args.first().and_then(|name| commands::by_name(name));
    if is_hc_read(&args) {
        return unwrapped(&args).map_err(|reply| (reply, named(&args)));
    }
    match commands::lookup_after(last, &args) {
        Ok((command, ordinal)) => Ok(Request { args, command, ordinal, level: None }),
        Err(reply) => Err((reply, named(&args))),
    }
}

/// What HC.READ is to read, and at which level.
fn unwrapped(args: &Args) -> Result<Request, Reply> {
    commands::lookup(args)?;
    let (level, args) = commands::cluster::unwrap_read(args)?;
    let (command, ordinal) = commands::lookup_after(None, &args)?;
    if !command.is_read() {
        return Err(Reply::error("ERR HC.READ takes a command that only reads keys"));
    }
    Ok(Request { args, command, ordinal, level: Some(level) })
}

fn is_hc_read(args: &Args) -> bool {
    args.first().is_some_and(|name| name.len() == 7 && name.eq_ignore_ascii_case(b"hc.read"))
}

/// Who asks.
pub(super) struct Asker<'a> {
    pub session: &'a Session,
    pub access: &'a Access,
    /// Whether it is about to run or to be queued.
    pub context: Context,
}

/// One reason not to run a command.
pub(super) struct Gate {
    pub name: &'static str,
    refuse: fn(&Request, &Asker<'_>, &Shared) -> Option<Reply>,
}

/// In the order in which they are asked. Lookup and arity come before, routing after.
pub(super) const GATES: &[Gate] = &[
    Gate { name: "auth", refuse: not_authenticated },
    Gate { name: "acl", refuse: not_permitted },
    Gate { name: "loading", refuse: loading },
    Gate { name: "memory", refuse: out_of_memory },
    Gate { name: "patterns", refuse: reaches_elsewhere },
    Gate { name: "listens", refuse: only_listens },
    Gate { name: "syntax", refuse: bad_syntax },
];

/// The first refusal of the gates.
pub(super) fn refused(request: &Request, asker: &Asker<'_>, shared: &Shared) -> Option<Reply> {
    ask(GATES, request, asker, shared)
}

/// The same before a command is queued: wrong arguments show when it runs, as in Redis.
pub(super) fn refused_in_queue(request: &Request, asker: &Asker<'_>, shared: &Shared) -> Option<Reply> {
    ask(&GATES[..GATES.len() - 1], request, asker, shared)
}

fn ask(gates: &[Gate], request: &Request, asker: &Asker<'_>, shared: &Shared) -> Option<Reply> {
    gates.iter().find_map(|gate| {
        let reply = (gate.refuse)(request, asker, shared);
        if reply.is_some() {
            tracing::trace!(event = "command_refused", gate = gate.name, command = request.command.spec.name);
        }
        reply
    })
}

/// What anybody may say before AUTH.
const BEFORE_AUTH: [&str; 4] = ["auth", "hello", "quit", "reset"];

fn not_authenticated(request: &Request, asker: &Asker<'_>, _: &Shared) -> Option<Reply> {
    if asker.access.user().is_some() {
        return None;
    }
    match (asker.access.users_are_known(), request.command.spec.name) {
        (false, "quit" | "reset") => None,
        (false, _) => Some(Reply::error(guard::UNKNOWN_USERS)),
        (true, name) if BEFORE_AUTH.contains(&name) => None,
        (true, _) => Some(guard::no_auth()),
    }
}

fn not_permitted(request: &Request, asker: &Asker<'_>, shared: &Shared) -> Option<Reply> {
    let registry = shared.cluster.registry();
    let checked = asker.access.permits(registry, asker.session, asker.context, request.command, &request.args);
    checked.err().map(|denied| denied.reply())
}

/// What a connection may say that listens in RESP2, where a reply could be taken for a message.
const WHILE_LISTENING: [&str; 9] =
    ["ping", "psubscribe", "punsubscribe", "quit", "reset", "ssubscribe", "subscribe", "sunsubscribe", "unsubscribe"];

fn only_listens(request: &Request, asker: &Asker<'_>, _: &Shared) -> Option<Reply> {
    let name = request.command.spec.name;
    if !asker.session.only_listens() || WHILE_LISTENING.contains(&name) {
        return None;
    }
    let name = counters::name(request.ordinal);
    Some(Reply::error(format!(
        "ERR Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context"
    )))
}

fn touches_keys(command: &Command) -> bool {
    matches!(command.run, Run::Read(_) | Run::Write(_) | Run::Script(_))
}

fn loading(request: &Request, _: &Asker<'_>, shared: &Shared) -> Option<Reply> {
    if !shared.loading.load(Relaxed) || !touches_keys(request.command) {
        return None;
    }
    Some(Reply::error("LOADING HyperCache is loading the dataset in memory"))
}

fn out_of_memory(request: &Request, _: &Asker<'_>, shared: &Shared) -> Option<Reply> {
    if !request.command.spec.denyoom || !shared.memory_full.load(Relaxed) {
        return None;
    }
    Some(Reply::error("OOM command not allowed when used memory > 'maxmemory'."))
}

/// SORT with patterns reads keys that are not among its arguments: only where one group has them all, and only for who may
/// read any key, which is asked of a queued command when it runs.
fn reaches_elsewhere(request: &Request, asker: &Asker<'_>, shared: &Shared) -> Option<Reply> {
    if asker.context == Context::Toplevel
        && let Some(user) = asker.access.user()
        && let Some(refused) = security::refused_beyond(user, request.command, &request.args)
    {
        return Some(refused);
    }
    if !commands::sort::reaches_elsewhere(request.command, &request.args) {
        return None;
    }
    let all_here = asker.session.face == Face::Proxy && shared.routes().only.is_some();
    (!all_here).then(|| Reply::error("ERR BY option of SORT denied in cluster mode."))
}

/// What goes into a log or to several groups is checked first; a read of one group finds its mistakes when it runs.
fn bad_syntax(request: &Request, _: &Asker<'_>, _: &Shared) -> Option<Reply> {
    let command = request.command;
    let later =
        !command.is_write() && !command.is_script() && matches!(command.spec.scope, Scope::OneSlot | Scope::Local);
    if later { None } else { (command.check)(&request.args).err() }
}

/// The level a read is answered at: the request's own, the connection's, or what is configured.
pub(super) fn level(request: &Request, session: &Session, shared: &Shared) -> Level {
    request.level.unwrap_or_else(|| session.read_level(shared.live.level()))
}

/// Finds where the request runs, or whom the client should ask instead.
pub(super) fn route(request: &Request, session: &Session, shared: &Shared, routes: &Routes) -> Result<Route, Reply> {
    let scope = request.command.spec.scope;
    if scope != Scope::Local && routes.order.is_empty() {
        return Err(no_groups());
    }
    match scope {
        Scope::Local => local(request, shared),
        Scope::OneSlot => one_slot(request, session, shared, routes).map(Route::One),
        Scope::Split(merge) => match one_slot(request, session, shared, routes) {
            Ok(group) => Ok(Route::One(group)),
            Err(_) if session.face == Face::Proxy => Ok(split(request, merge, routes)),
            Err(refused) => Err(refused),
        },
        // Where one group has all keys, too: it may have been split by now.
        Scope::AllGroups(merge) => Ok(Route::Everywhere(merge)),
        Scope::Cursor => Ok(Route::Scan(visible_ranges(session, shared, routes))),
    }
}

/// Whether a command may be part of the transaction of its connection, whose other keys lie where `first` does: all of a
/// transaction runs in one group.
pub(super) fn may_queue(
    request: &Request,
    first: Option<&Bytes>,
    session: &Session,
    shared: &Shared,
    routes: &Routes,
) -> Result<(), Reply> {
    let name = request.command.spec.name;
    match request.command.spec.scope {
        Scope::Local => match local(request, shared)? {
            Route::Here | Route::Nodes(_) => Ok(()),
            _ => Err(Reply::error("ERR what all nodes share cannot be set inside a transaction")),
        },
        _ if routes.order.is_empty() => Err(no_groups()),
        Scope::OneSlot | Scope::Split(_) => {
            let keys = commands::keys(request.command, &request.args);
            let anywhere = request.command.is_read() && answered_anywhere(request, session);
            group_of_keys(first.into_iter().chain(keys), anywhere, session, shared, routes).map(drop)
        }
        Scope::AllGroups(_) | Scope::Cursor if routes.only.is_some() => Ok(()),
        Scope::AllGroups(_) | Scope::Cursor => Err(Reply::error(format!(
            "ERR {} inside a transaction needs a cluster with one data group",
            name.to_ascii_uppercase()
        ))),
    }
}

/// The answer to a CONFIG SET of something that all nodes share, if its value is wrong.
pub(super) fn wrong_value(request: &Request, shared: &Shared) -> Option<Reply> {
    let pairs = commands::server::config_set_pairs(request.command, &request.args)?;
    super::parameters::through_cluster(shared.cluster.agreed(), &pairs).err()
}

/// The group of a transaction whose keys lie where `first` does; `weak` if any replica may answer it as far as it goes.
pub(super) fn group_of_transaction(
    first: Option<&Bytes>,
    weak: bool,
    request: &Request,
    session: &Session,
    shared: &Shared,
    routes: &Routes,
) -> Result<GroupId, Reply> {
    let anywhere = weak && answered_anywhere(request, session);
    group_of_keys(first.into_iter(), anywhere, session, shared, routes)
}

/// Most of these run at once. CONFIG SET of what all nodes agree on is an entry of the meta group.
fn local(request: &Request, shared: &Shared) -> Result<Route, Reply> {
    if let Some(change) = acl::change(request.command, &request.args) {
        return Ok(Route::Users(change));
    }
    if let Some(ask) = Ask::of(request.command, &request.args) {
        return ask.map(Route::Nodes);
    }
    let pairs = commands::server::config_set_pairs(request.command, &request.args);
    if let Some(change) = pairs.as_deref().map(super::parameters::default_password).transpose()?.flatten() {
        return Ok(Route::Users(change));
    }
    let call = pairs.map(|pairs| super::parameters::through_cluster(shared.cluster.agreed(), &pairs)).transpose()?;
    Ok(call.flatten().map_or(Route::Here, Route::Cluster))
}

/// The group of a request whose keys must lie in one slot.
fn one_slot(request: &Request, session: &Session, shared: &Shared, routes: &Routes) -> Result<GroupId, Reply> {
    let anywhere = request.command.is_read() && answered_anywhere(request, session);
    group_of_keys(commands::keys(request.command, &request.args), anywhere, session, shared, routes)
}

/// The group of keys that must lie in one slot.
fn group_of_keys<'a>(
    keys: impl Iterator<Item = &'a Bytes>,
    anywhere: bool,
    session: &Session,
    shared: &Shared,
    routes: &Routes,
) -> Result<GroupId, Reply> {
    if session.face == Face::Proxy
        && let Some(only) = routes.only
    {
        return Ok(only);
    }
    let mut slots = keys.map(|key| slot_of(key));
    let Some(slot) = slots.next() else {
        // No key at all, such as OBJECT HELP: any group will do.
        return routes.order.first().map(|(_, group)| *group).ok_or_else(no_groups);
    };
    if slots.any(|other| other != slot) {
        return Err(Reply::error("CROSSSLOT Keys in request don't hash to the same slot"));
    }
    let group = routes.table.group_of(slot);
    match session.face {
        Face::Proxy => Ok(group),
        Face::Cluster if anywhere => Ok(group),
        Face::Cluster => moved(shared, routes, slot, group).map_or(Ok(group), Err),
    }
}

fn no_groups() -> Reply {
    Reply::error("CLUSTERDOWN the cluster has no data groups yet; the command was not applied")
}

/// Whether the client asks for what any replica may answer, if this reads.
fn answered_anywhere(request: &Request, session: &Session) -> bool {
    let weak = |level: Option<Level>| matches!(level, Some(Level::Eventual | Level::Bounded(_)));
    session.readonly || weak(request.level) || (request.level.is_none() && weak(session.level))
}

/// MOVED, if another node leads the group.
pub(super) fn moved(shared: &Shared, routes: &Routes, slot: Slot, group: GroupId) -> Option<Reply> {
    // A group without a leader is waited for here, like a request that came in by the other face.
    let leader = shared.cluster.host().group(group)?.leader()?;
    if leader == shared.me.id {
        return None;
    }
    let node = routes.table.nodes.get(&leader)?;
    Some(Reply::error(format!("MOVED {} {}:{}", slot.0, node.host, node.cluster_port)))
}

/// The groups that commands about all keys mean: all of them on the proxy face; on the cluster face those led here,
/// since a cluster client asks every leader and adds up.
pub(super) fn visible(session: &Session, shared: &Shared, routes: &Routes) -> Vec<(Slot, GroupId)> {
    let led = |id: GroupId| shared.cluster.host().group(id).is_some_and(|g| g.is_leader());
    let shown = |g: &&(Slot, GroupId)| session.face == Face::Proxy || led(g.1);
    routes.order.iter().filter(shown).copied().collect()
}

/// The slots that SCAN goes through, in order.
pub(super) fn visible_ranges(session: &Session, shared: &Shared, routes: &Routes) -> Vec<Range> {
    let groups = visible(session, shared, routes);
    let shown = |range: &Range| groups.iter().any(|(_, group)| *group == range.2);
    routes.table.ranges().into_iter().filter(shown).collect()
}

fn split(request: &Request, merge: Merge, routes: &Routes) -> Route {
    let (parts, places) = parts(request.command, &request.args, routes);
    Route::Split { merge, parts, places }
}

/// Parts by group, in the order in which the groups first occur among the keys, and which of the keys each has.
pub(super) fn parts(command: &Command, args: &Args, routes: &Routes) -> (Vec<(GroupId, Args)>, Vec<Vec<usize>>) {
    let mut parts: Vec<(GroupId, Vec<Bytes>)> = Vec::new();
    let mut places: Vec<Vec<usize>> = Vec::new();
    let head = match command.spec.keys {
        Keys::Range { first, .. } => &args[..first.min(args.len())],
        _ => &args[..1],
    };
    for (place, key) in commands::keys(command, args).enumerate() {
        let group = routes.table.group_of(slot_of(key));
        let at = parts.iter().position(|(g, _)| *g == group).unwrap_or_else(|| {
            parts.push((group, head.to_vec()));
            places.push(Vec::new());
            parts.len() - 1
        });
        parts[at].1.push(key.clone());
        places[at].push(place);
    }
    (parts.into_iter().map(|(group, args)| (group, args.into())).collect(), places)
}
