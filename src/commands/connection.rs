//! Commands about the connection itself: who it is, how it speaks, at which level it reads.
//!
//! They change the [`Session`] and never the keyspace; those that must look at the node (passwords, the list of
//! clients) are node commands. None of them waits.

use super::help::{help, of_table};
use super::node::{ClientRow, Node};
use super::pause::{Pause, Unpause};
use super::pubsub::Kind;
use super::session::{CLIENT_NAME_BYTES_MAX, ReplyMode, Session};
use super::syntax::{is, not_an_integer, syntax_error};
use super::tracking::{self, Caching, GetRedir, SetTracking, TrackingInfo};
use super::{Command, NodeCommand, SessionCommand, Spec, container, node, session};
use crate::resp::{Args, Protocol, Reply};
use crate::types::Level;
use bytes::Bytes;
use std::fmt::Write as _;

pub(super) const fn spec(
    name: &'static str,
    arity: i32,
    since: &'static str,
    syntax: &'static str,
    summary: &'static str,
) -> Spec {
    Spec::local("connection", name, arity, since, syntax, summary)
}

pub(super) fn text(arg: &Bytes) -> String {
    String::from_utf8_lossy(arg).into_owned()
}

/// An integer as Redis reads it, in the range of `T`, or Redis' error.
pub(super) fn integer<T: TryFrom<i64>>(arg: &Bytes) -> Result<T, Reply> {
    crate::resp::integer(arg).and_then(|n| T::try_from(n).ok()).ok_or_else(not_an_integer)
}

fn on_off(arg: &Bytes) -> Result<bool, Reply> {
    match () {
        () if is(arg, "on") => Ok(true),
        () if is(arg, "off") => Ok(false),
        () => Err(syntax_error()),
    }
}

/// A name as CLIENT SETNAME takes it: printable and without spaces, so that CLIENT LIST stays one line a client.
fn client_word(arg: &Bytes, what: &str) -> Result<String, Reply> {
    let printable = arg.iter().all(|b| (b'!'..=b'~').contains(b));
    if !printable || arg.len() > CLIENT_NAME_BYTES_MAX {
        return Err(Reply::error(format!("ERR {what} cannot contain spaces, newlines or special characters.")));
    }
    Ok(text(arg))
}

struct Auth {
    user: String,
    password: Bytes,
    named: bool,
}

impl Auth {
    fn prove(&self, node: &dyn Node, session: &mut Session, command: &'static str) -> Result<(), Reply> {
        if !self.named && !node.has_password() {
            return Err(Reply::error(
                "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
            ));
        }
        match node.authenticate(&self.user, &self.password, session, command) {
            Some(user) => {
                session.user = Some(user);
                Ok(())
            }
            None => Err(Reply::error("WRONGPASS invalid username-password pair or user is disabled.")),
        }
    }
}

impl NodeCommand for Auth {
    const SPEC: Spec =
        spec("auth", -2, "1.0.0", "AUTH [username] password", "Proves who the client is to this connection.");

    fn parse(args: &Args) -> Result<Self, Reply> {
        match args.len() {
            2 => Ok(Auth { user: "default".to_owned(), password: args[1].clone(), named: false }),
            3 => Ok(Auth { user: text(&args[1]), password: args[2].clone(), named: true }),
            _ => Err(syntax_error()),
        }
    }

    fn run(self, node: &dyn Node, session: &mut Session) -> Reply {
        self.prove(node, session, "auth").map_or_else(|refused| refused, |()| Reply::OK)
    }
}

struct Hello {
    protocol: Option<Protocol>,
    auth: Option<Auth>,
    name: Option<String>,
}

impl NodeCommand for Hello {
    const SPEC: Spec = spec(
        "hello",
        -1,
        "6.0.0",
        "HELLO [protover [AUTH username password] [SETNAME clientname]]",
        "Chooses the protocol and says who the server is.",
    );

    fn parse(args: &Args) -> Result<Self, Reply> {
        let mut hello = Hello { protocol: None, auth: None, name: None };
        let Some(version) = args.get(1) else { return Ok(hello) };
        let version: i64 =
            integer(version).map_err(|_| Reply::error("ERR Protocol version is not an integer or out of range"))?;
        hello.protocol = Some(match version {
            2 => Protocol::Resp2,
            3 => Protocol::Resp3,
            _ => return Err(Reply::error("NOPROTO unsupported protocol version")),
        });
        let mut at = 2;
        while at < args.len() {
            let left = args.len() - at - 1;
            if is(&args[at], "auth") && left >= 2 {
                hello.auth = Some(Auth { user: text(&args[at + 1]), password: args[at + 2].clone(), named: true });
                at += 3;
            } else if is(&args[at], "setname") && left >= 1 {
                hello.name = Some(client_word(&args[at + 1], "Client names")?);
                at += 2;
            } else {
                return Err(Reply::error(format!("ERR Syntax error in HELLO option '{}'", text(&args[at]))));
            }
        }
        Ok(hello)
    }

    fn run(self, node: &dyn Node, session: &mut Session) -> Reply {
        if let Some(auth) = &self.auth
            && let Err(refused) = auth.prove(node, session, "hello")
        {
            return refused;
        }
        if session.user.is_none() {
            return Reply::error(
                "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time",
            );
        }
        if let Some(protocol) = self.protocol {
            session.protocol = protocol;
        }
        if let Some(name) = self.name {
            session.name = name;
        }
        let proto = if session.protocol == Protocol::Resp3 { 3 } else { 2 };
        let pair = |k: &'static str, v: Reply| (Reply::Bulk(Bytes::from_static(k.as_bytes())), v);
        let word = |w: &'static str| Reply::Bulk(Bytes::from_static(w.as_bytes()));
        Reply::Map(vec![
            pair("server", word("redis")),
            pair("version", word(super::server::REDIS_VERSION)),
            pair("proto", Reply::Int(proto)),
            pair("id", Reply::Int(session.id as i64)),
            pair("mode", word(super::server::redis_mode(session.face))),
            pair("role", word("master")),
            pair("modules", Reply::Array(Vec::new())),
        ])
    }
}

struct Ping(Option<Bytes>);

impl SessionCommand for Ping {
    const SPEC: Spec = spec("ping", -1, "1.0.0", "PING [message]", "Answers PONG, or the message.");

    fn parse(args: &Args) -> Result<Self, Reply> {
        match args.len() {
            1 | 2 => Ok(Ping(args.get(1).cloned())),
            _ => Err(Reply::error("ERR wrong number of arguments for 'ping' command")),
        }
    }

    fn run(self, session: &mut Session) -> Reply {
        if session.only_listens() {
            return Reply::Array(vec![Reply::bulk("pong"), self.0.map_or(Reply::EMPTY_BULK, Reply::Bulk)]);
        }
        self.0.map_or(Reply::Status(Bytes::from_static(b"PONG")), Reply::Bulk)
    }
}

struct Echo(Bytes);

impl SessionCommand for Echo {
    const SPEC: Spec = spec("echo", 2, "1.0.0", "ECHO message", "Answers the message.");

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(Echo(args[1].clone()))
    }

    fn run(self, _: &mut Session) -> Reply {
        Reply::Bulk(self.0)
    }
}

struct Quit;

impl SessionCommand for Quit {
    const SPEC: Spec = spec("quit", -1, "1.0.0", "QUIT", "Closes the connection once everything is answered.");

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(Quit)
    }

    fn run(self, session: &mut Session) -> Reply {
        session.close_after_reply = true;
        Reply::OK
    }
}

struct Reset;

impl NodeCommand for Reset {
    const SPEC: Spec = spec("reset", 1, "6.2.0", "RESET", "Makes the connection as it was when it was opened.");

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(Reset)
    }

    fn run(self, node: &dyn Node, session: &mut Session) -> Reply {
        super::pubsub::forget(node, session);
        tracking::forget(node, session);
        node.monitor(session.id, false);
        session.reset(node.open_user());
        Reply::Status(Bytes::from_static(b"RESET"))
    }
}

struct Select(i64);

impl SessionCommand for Select {
    const SPEC: Spec = spec("select", 2, "1.0.0", "SELECT index", "Chooses the database; there is only 0.");

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(Select(integer(&args[1])?))
    }

    fn run(self, _: &mut Session) -> Reply {
        match self.0 {
            0 => Reply::OK,
            1..16 => Reply::error("ERR SELECT is not allowed in cluster mode"),
            _ => Reply::error("ERR DB index is out of range"),
        }
    }
}

// --- CLIENT -----------------------------------------------------------------------------------------------------

struct ClientId;

impl SessionCommand for ClientId {
    const SPEC: Spec = spec("id", 2, "5.0.0", "CLIENT ID", "The number of this connection.");

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(ClientId)
    }

    fn run(self, session: &mut Session) -> Reply {
        Reply::Int(session.id as i64)
    }
}

struct GetName;

impl SessionCommand for GetName {
    const SPEC: Spec = spec("getname", 2, "2.6.9", "CLIENT GETNAME", "The name of this connection.");

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(GetName)
    }

    fn run(self, session: &mut Session) -> Reply {
        match session.name.is_empty() {
            true => Reply::Nil,
            false => Reply::Bulk(Bytes::from(session.name.clone())),
        }
    }
}

struct SetName(String);

impl SessionCommand for SetName {
    const SPEC: Spec = spec("setname", 3, "2.6.9", "CLIENT SETNAME connection-name", "Names this connection.");

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(SetName(client_word(&args[2], "Client names")?))
    }

    fn run(self, session: &mut Session) -> Reply {
        session.name = self.0;
        Reply::OK
    }
}

enum SetInfo {
    Name(String),
    Version(String),
}

impl SessionCommand for SetInfo {
    const SPEC: Spec =
        spec("setinfo", 4, "7.2.0", "CLIENT SETINFO <LIB-NAME libname | LIB-VER libver>", "Says which library speaks.");

    fn parse(args: &Args) -> Result<Self, Reply> {
        if is(&args[2], "lib-name") {
            client_word(&args[3], &text(&args[2])).map(SetInfo::Name)
        } else if is(&args[2], "lib-ver") {
            client_word(&args[3], &text(&args[2])).map(SetInfo::Version)
        } else {
            Err(Reply::error(format!("ERR Unrecognized option '{}'", text(&args[2]))))
        }
    }

    fn run(self, session: &mut Session) -> Reply {
        match self {
            SetInfo::Name(name) => session.lib_name = name,
            SetInfo::Version(version) => session.lib_version = version,
        }
        Reply::OK
    }
}

struct SetReply(ReplyMode);

impl SessionCommand for SetReply {
    const SPEC: Spec = spec("reply", 3, "3.2.0", "CLIENT REPLY <ON | OFF | SKIP>", "Whether commands are answered.");

    fn parse(args: &Args) -> Result<Self, Reply> {
        let mode = match () {
            () if is(&args[2], "on") => ReplyMode::On,
            () if is(&args[2], "off") => ReplyMode::Off,
            () if is(&args[2], "skip") => ReplyMode::SkipNext,
            () => return Err(syntax_error()),
        };
        Ok(SetReply(mode))
    }

    fn run(self, session: &mut Session) -> Reply {
        // SKIP while replies are off changes nothing, as in Redis.
        if !(self.0 == ReplyMode::SkipNext && session.reply == ReplyMode::Off) {
            session.reply = self.0;
        }
        if self.0 == ReplyMode::On { Reply::OK } else { Reply::Nothing }
    }
}

struct NoEvict(bool);

impl SessionCommand for NoEvict {
    const SPEC: Spec = spec(
        "no-evict",
        3,
        "7.0.0",
        "CLIENT NO-EVICT <ON | OFF>",
        "Accepted for compatibility: no connection is dropped to save memory.",
    );

    fn parse(args: &Args) -> Result<Self, Reply> {
        on_off(&args[2]).map(NoEvict)
    }

    fn run(self, session: &mut Session) -> Reply {
        session.no_evict = self.0;
        Reply::OK
    }
}

struct NoTouch(bool);

impl SessionCommand for NoTouch {
    const SPEC: Spec = spec(
        "no-touch",
        3,
        "7.2.0",
        "CLIENT NO-TOUCH <ON | OFF>",
        "Whether reads of this connection leave no trace in the history that eviction uses.",
    );

    fn parse(args: &Args) -> Result<Self, Reply> {
        on_off(&args[2]).map(NoTouch)
    }

    fn run(self, session: &mut Session) -> Reply {
        session.no_touch = self.0;
        Reply::OK
    }
}

/// CLIENT CONSISTENCY: None asks, Some(None) goes back to the configuration.
struct Consistency(Option<Option<Level>>);

/// The level that `words` name, such as `lease`, `bounded 100` or `bounded:100`.
pub fn parse_level(words: &[Bytes]) -> Option<Level> {
    let words: Vec<_> = words.iter().map(text).collect();
    Level::parse(&words.join(" "))
}

/// What a level that cannot be read is answered with.
pub fn level_error() -> Reply {
    Reply::error("ERR level must be linearizable, lease, bounded <milliseconds> or eventual")
}

impl NodeCommand for Consistency {
    const SPEC: Spec = spec(
        "consistency",
        -2,
        "hc-0.1",
        "CLIENT CONSISTENCY [linearizable | lease | bounded milliseconds | eventual | default]",
        "What reads of this connection promise; without an argument, says it.",
    );

    fn parse(args: &Args) -> Result<Self, Reply> {
        match &args[2..] {
            [] => Ok(Consistency(None)),
            [one] if is(one, "default") => Ok(Consistency(Some(None))),
            words if words.len() <= 2 => parse_level(words).map(|l| Consistency(Some(Some(l)))).ok_or_else(level_error),
            _ => Err(syntax_error()),
        }
    }

    fn run(self, node: &dyn Node, session: &mut Session) -> Reply {
        match self.0 {
            None => Reply::Bulk(Bytes::from(session.read_level(node.facts().level).to_string())),
            Some(level) => {
                session.level = level;
                Reply::OK
            }
        }
    }
}

/// Letters as Redis has them, in its order.
fn client_flags(row: &ClientRow) -> String {
    let s = &row.session;
    let flags = [
        (s.monitors, 'O'),
        (s.subscriptions.any(), 'P'),
        (row.blocked, 'b'),
        (row.queued.is_some(), 'x'),
        (s.tracking.is_some(), 't'),
        (row.redirect_broken, 'R'),
        (s.tracking.as_ref().is_some_and(|tracking| tracking.bcast), 'B'),
        (s.close_after_reply, 'c'),
        (s.readonly, 'r'),
        (s.no_evict, 'e'),
        (s.no_touch, 'T'),
    ];
    let shown: String = flags.iter().filter(|(is_set, _)| *is_set).map(|(_, letter)| *letter).collect();
    if shown.is_empty() { "N".to_owned() } else { shown }
}

/// One client as CLIENT LIST and CLIENT INFO print it.
pub fn client_line(row: &ClientRow) -> String {
    let s = &row.session;
    let multi = row.queued.map_or(-1, |queued| queued as i64);
    let flags = client_flags(row);
    let [sub, psub, ssub] = Kind::ALL.map(|kind| s.subscriptions.of(kind));
    let redir = s.tracking.as_ref().map_or(-1, |tracking| tracking.redirect.unwrap_or(0) as i64);
    let proto = if s.protocol == Protocol::Resp3 { 3 } else { 2 };
    let mut line = String::with_capacity(256);
    let _ = write!(
        line,
        "id={} addr={} laddr={} fd=-1 name={} age={} idle={} flags={flags} db=0 sub={sub} psub={psub} ssub={ssub} multi={multi} \
         qbuf={} qbuf-free=0 argv-mem=0 multi-mem={} rbs=0 rbp=0 obl={} oll=0 omem={} tot-mem={} events=r cmd={} \
         user={} redir={redir} resp={proto} lib-name={} lib-ver={} watch={}",
        s.id,
        s.peer,
        s.local,
        s.name,
        row.age_s,
        row.idle_s,
        row.input_bytes,
        row.queued_bytes,
        row.output_bytes,
        row.output_bytes,
        row.input_bytes + row.output_bytes + row.queued_bytes,
        row.last_command,
        s.user.as_deref().unwrap_or("default"),
        s.lib_name,
        s.lib_version,
        row.watching,
    );
    line
}

struct ClientInfo;

impl NodeCommand for ClientInfo {
    const SPEC: Spec = spec("info", 2, "6.2.0", "CLIENT INFO", "This connection as CLIENT LIST shows it.");

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(ClientInfo)
    }

    fn run(self, node: &dyn Node, session: &mut Session) -> Reply {
        let row = node.clients().into_iter().find(|row| row.session.id == session.id);
        let row = row.unwrap_or_else(|| ClientRow::bare(session, "client|info"));
        Reply::Verbatim { format: *b"txt", text: Bytes::from(client_line(&row) + "\n") }
    }
}

enum ListOnly {
    All,
    Ids(Vec<u64>),
    Type(ClientType),
}

impl NodeCommand for ListOnly {
    const SPEC: Spec = spec(
        "list",
        -2,
        "2.4.0",
        "CLIENT LIST [TYPE <NORMAL | MASTER | REPLICA | PUBSUB>] [ID client-id [client-id ...]]",
        "The connections of this node, one a line.",
    );

    fn parse(args: &Args) -> Result<Self, Reply> {
        match &args[2..] {
            [] => Ok(ListOnly::All),
            [word, kind] if is(word, "type") => client_type(kind).map(ListOnly::Type),
            [word, ids @ ..] if is(word, "id") && !ids.is_empty() => {
                let ids: Result<Vec<u64>, _> = ids.iter().map(integer).collect();
                ids.map(ListOnly::Ids).map_err(|_| Reply::error("ERR Invalid client ID"))
            }
            _ => Err(syntax_error()),
        }
    }

    fn run(self, node: &dyn Node, _: &mut Session) -> Reply {
        let mut lines = String::new();
        for row in node.clients() {
            let shown = match &self {
                ListOnly::All => true,
                ListOnly::Ids(ids) => ids.contains(&row.session.id),
                ListOnly::Type(kind) => *kind == ClientType::of(&row.session),
            };
            if shown {
                lines.push_str(&client_line(&row));
                lines.push('\n');
            }
        }
        Reply::Verbatim { format: *b"txt", text: Bytes::from(lines) }
    }
}

/// The types of clients that Redis tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClientType {
    Normal,
    Pubsub,
    /// A master or a replica: there is none of these here.
    Replication,
}

impl ClientType {
    fn of(session: &Session) -> ClientType {
        if session.subscriptions.any() { ClientType::Pubsub } else { ClientType::Normal }
    }
}

fn client_type(arg: &Bytes) -> Result<ClientType, Reply> {
    match () {
        () if is(arg, "normal") => Ok(ClientType::Normal),
        () if is(arg, "pubsub") => Ok(ClientType::Pubsub),
        () if ["master", "replica", "slave"].iter().any(|t| is(arg, t)) => Ok(ClientType::Replication),
        () => Err(Reply::error(format!("ERR Unknown client type '{}'", text(arg)))),
    }
}

/// CLIENT KILL: every condition given must hold.
#[derive(Default)]
struct Kill {
    /// The old form `CLIENT KILL addr`, which answers OK or an error instead of a number.
    old_form: bool,
    id: Option<u64>,
    addr: Option<String>,
    laddr: Option<String>,
    user: Option<String>,
    kind: Option<ClientType>,
    max_age_s: Option<u64>,
    /// SKIPME no: the connection that asks may be closed, too.
    itself: bool,
}

impl Kill {
    fn hits(&self, row: &ClientRow, asking: u64) -> bool {
        let s = &row.session;
        let is_or_any = |wanted: &Option<String>, has: &str| wanted.as_deref().is_none_or(|w| w == has);
        (self.itself || s.id != asking)
            && self.kind.is_none_or(|kind| kind == ClientType::of(s))
            && self.id.is_none_or(|id| id == s.id)
            && is_or_any(&self.addr, &s.peer.to_string())
            && is_or_any(&self.laddr, &s.local.to_string())
            && is_or_any(&self.user, s.user.as_deref().unwrap_or(""))
            && self.max_age_s.is_none_or(|age| row.age_s >= age)
    }
}

impl NodeCommand for Kill {
    const SPEC: Spec = spec(
        "kill",
        -3,
        "2.4.0",
        "CLIENT KILL <ip:port | [ID client-id] [TYPE type] [USER username] [ADDR ip:port] [LADDR ip:port] [SKIPME <YES | NO>] [MAXAGE seconds]>",
        "Closes connections of this node.",
    );

    fn parse(args: &Args) -> Result<Self, Reply> {
        if let [_, _, addr] = &args[..] {
            return Ok(Kill { old_form: true, itself: true, addr: Some(text(addr)), ..Kill::default() });
        }
        let mut kill = Kill::default();
        let mut pairs = args[2..].chunks_exact(2);
        for pair in &mut pairs {
            let (what, value) = (&pair[0], &pair[1]);
            match () {
                () if is(what, "id") => {
                    let id = integer::<u64>(value).ok().filter(|id| *id > 0);
                    kill.id = Some(id.ok_or_else(|| Reply::error("ERR client-id should be greater than 0"))?);
                }
                () if is(what, "type") => kill.kind = Some(client_type(value)?),
                () if is(what, "user") => kill.user = Some(text(value)),
                () if is(what, "addr") => kill.addr = Some(text(value)),
                () if is(what, "laddr") => kill.laddr = Some(text(value)),
                () if is(what, "maxage") => kill.max_age_s = Some(integer(value)?),
                () if is(what, "skipme") => {
                    kill.itself = match () {
                        () if is(value, "yes") => false,
                        () if is(value, "no") => true,
                        () => return Err(syntax_error()),
                    }
                }
                () => return Err(syntax_error()),
            }
        }
        if pairs.remainder().is_empty() { Ok(kill) } else { Err(syntax_error()) }
    }

    fn run(self, node: &dyn Node, session: &mut Session) -> Reply {
        if let Some(user) = &self.user
            && !node.users().iter().any(|known| known.name == *user)
        {
            return Reply::error(format!("ERR No such user '{user}'"));
        }
        let mut closed = 0;
        for row in node.clients() {
            if !self.hits(&row, session.id) {
                continue;
            }
            if row.session.id == session.id {
                // The reply still goes out first.
                session.close_after_reply = true;
                closed += 1;
            } else if node.kill(row.session.id) {
                closed += 1;
            }
        }
        match (self.old_form, closed) {
            (true, 0) => Reply::error("ERR No such client"),
            (true, _) => Reply::OK,
            (false, n) => Reply::Int(n),
        }
    }
}

/// CLIENT UNBLOCK.
struct UnblockClient {
    id: u64,
    error: bool,
}

impl NodeCommand for UnblockClient {
    const SPEC: Spec = spec(
        "unblock",
        -3,
        "5.0.0",
        "CLIENT UNBLOCK client-id [TIMEOUT | ERROR]",
        "Ends the waiting of a connection of this node, as its timeout would or with an error.",
    );

    fn parse(args: &Args) -> Result<Self, Reply> {
        let error = match &args[3..] {
            [] => false,
            [how] if is(how, "timeout") => false,
            [how] if is(how, "error") => true,
            [_] => return Err(Reply::error("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR")),
            _ => return Err(syntax_error()),
        };
        // A number that no connection has is no mistake.
        Ok(UnblockClient { id: u64::try_from(integer::<i64>(&args[2])?).unwrap_or(0), error })
    }

    fn run(self, node: &dyn Node, _: &mut Session) -> Reply {
        Reply::int(node.unblock(self.id, self.error))
    }
}

static CLIENT: &[Command] = &[
    session::<Caching>(),
    node::<Consistency>(),
    session::<GetName>(),
    session::<GetRedir>(),
    help(spec("help", 2, "5.0.0", "CLIENT HELP", "The subcommands of CLIENT."), |_, _| of_table("CLIENT", CLIENT)),
    session::<ClientId>(),
    node::<ClientInfo>(),
    node::<Kill>(),
    node::<ListOnly>(),
    session::<NoEvict>(),
    session::<NoTouch>(),
    session::<SetReply>(),
    session::<SetInfo>(),
    session::<SetName>(),
    node::<UnblockClient>(),
    node::<Pause>(),
    node::<SetTracking>(),
    node::<TrackingInfo>(),
    node::<Unpause>(),
];

pub static CONNECTION: &[Command] = &[
    node::<Auth>(),
    container(spec("client", -2, "2.4.0", "CLIENT subcommand", "About connections."), CLIENT),
    session::<Echo>(),
    node::<Hello>(),
    session::<Ping>(),
    session::<Quit>(),
    node::<Reset>(),
    session::<Select>(),
];
