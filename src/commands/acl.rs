//! ACL: users and what they may do.
//!
//! Here is the dialect: arguments in, replies out. What rules mean is `security`'s, which knows these tables and is not known
//! to them; so the node is asked. What changes a user becomes a [`Change`], which the door hands to the whole cluster.

use super::access::{CATEGORIES, Categories, categories};
use super::connection::{integer, text};
use super::help::{help, of_table};
use super::node::{AclLogEntry, Node, SelectorRow, UserRow};
use super::ordinal::numbered;
use super::server::{bulk, spec};
use super::session::Session;
use super::syntax::is;
use super::{Command, NodeCommand, SessionCommand, Spec, node, session};
use crate::resp::{Args, Reply};
use bytes::Bytes;

/// Longest password of ACL GENPASS.
const GENPASS_BITS_MAX: i64 = 4096;
const GENPASS_BITS_DEFAULT: i64 = 256;
/// How many entries ACL LOG answers without a number.
const LOG_DEFAULT: i64 = 10;

/// What is to become of users, on all nodes.
#[derive(Clone, PartialEq, Eq)]
pub enum Change {
    /// ACL SETUSER: the rules are applied to the user as it is, or to a fresh one.
    Set { name: String, rules: Vec<Bytes> },
    /// ACL DELUSER.
    Delete { names: Vec<String> },
    /// CONFIG SET requirepass: the only password of the default user, or that it needs none.
    DefaultPassword(Option<Bytes>),
}

impl Change {
    /// What the audit log says: the event, and whom it is about. No rules, since they may hold passwords.
    pub fn describe(&self) -> (&'static str, String) {
        match self {
            Change::Set { name, .. } => ("user_changed", name.clone()),
            Change::Delete { names } => ("user_deleted", names.join(" ")),
            Change::DefaultPassword(_) => ("password_changed", "default".to_owned()),
        }
    }
}

/// The change that a request asks for, if that is what it does. Its arguments have been checked.
pub fn change(command: &Command, args: &Args) -> Option<Change> {
    if !args[0].eq_ignore_ascii_case(b"acl") {
        return None;
    }
    match command.spec.name {
        "setuser" => SetUser::parse(args).ok().map(|set| Change::Set { name: set.name, rules: set.rules }),
        "deluser" => DelUser::parse(args).ok().map(|del| Change::Delete { names: del.0 }),
        _ => None,
    }
}

/// A user's name: no spaces, since a user is one line of words.
fn user_name(arg: &Bytes) -> Result<String, Reply> {
    if arg.iter().any(|b| b.is_ascii_whitespace() || matches!(b, 0 | 0x0b)) {
        return Err(Reply::error("ERR Usernames can't contain spaces or null characters"));
    }
    if arg.len() > super::session::CLIENT_NAME_BYTES_MAX {
        return Err(Reply::error("ERR Usernames can't be longer than 512 bytes"));
    }
    String::from_utf8(arg.to_vec()).map_err(|_| Reply::error("ERR Usernames must be UTF-8"))
}

/// The door carries changes out, because they wait for the meta group. What runs here is only reached where no door is,
/// such as inside MULTI.
fn not_here() -> Reply {
    Reply::error("ERR users can only be changed by a command of its own")
}

struct SetUser {
    name: String,
    rules: Vec<Bytes>,
}

impl SessionCommand for SetUser {
    const SPEC: Spec = spec(
        "setuser",
        -3,
        "6.0.0",
        "ACL SETUSER username [rule [rule ...]]",
        "Creates a user, or applies rules to one that exists, on all nodes.",
    );

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(SetUser { name: user_name(&args[2])?, rules: args[3..].to_vec() })
    }

    fn run(self, _: &mut Session) -> Reply {
        not_here()
    }
}

struct DelUser(Vec<String>);

impl SessionCommand for DelUser {
    const SPEC: Spec = spec(
        "deluser",
        -3,
        "6.0.0",
        "ACL DELUSER username [username ...]",
        "Deletes users on all nodes and closes their connections.",
    );

    fn parse(args: &Args) -> Result<Self, Reply> {
        if args[2..].iter().any(|name| &name[..] == b"default") {
            return Err(Reply::error("ERR The 'default' user cannot be removed"));
        }
        // A name that none can have is one that nobody has.
        Ok(DelUser(args[2..].iter().filter_map(|name| user_name(name).ok()).collect()))
    }

    fn run(self, _: &mut Session) -> Reply {
        not_here()
    }
}

struct GetUser(Bytes);

fn selector_fields(selector: SelectorRow) -> Vec<(Reply, Reply)> {
    vec![
        (bulk("commands"), Reply::Bulk(selector.commands)),
        (bulk("keys"), Reply::Bulk(selector.keys)),
        (bulk("channels"), Reply::Bulk(selector.channels)),
    ]
}

impl NodeCommand for GetUser {
    const SPEC: Spec = spec("getuser", 3, "6.0.0", "ACL GETUSER username", "The rules of a user.");

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(GetUser(args[2].clone()))
    }

    fn run(self, node: &dyn Node, _: &mut Session) -> Reply {
        let found = node.users().into_iter().find(|user| user.name.as_bytes() == &self.0[..]);
        let Some(UserRow { flags, passwords, selectors, .. }) = found else { return Reply::Nil };
        let mut selectors = selectors.into_iter().map(selector_fields);
        let mut fields = vec![
            (bulk("flags"), Reply::Set(flags.into_iter().map(bulk).collect())),
            (bulk("passwords"), Reply::Array(passwords.into_iter().map(bulk).collect())),
        ];
        fields.extend(selectors.next().unwrap_or_default());
        fields.push((bulk("selectors"), Reply::Array(selectors.map(Reply::Map).collect())));
        Reply::Map(fields)
    }
}

struct List;

impl NodeCommand for List {
    const SPEC: Spec = spec("list", 2, "6.0.0", "ACL LIST", "All users, each as a line of rules.");

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(List)
    }

    fn run(self, node: &dyn Node, _: &mut Session) -> Reply {
        let line = |user: UserRow| Reply::Bulk([b"user ", user.name.as_bytes(), b" ", &user.text[..]].concat().into());
        Reply::Array(node.users().into_iter().map(line).collect())
    }
}

struct UserNames;

impl NodeCommand for UserNames {
    const SPEC: Spec = spec("users", 2, "6.0.0", "ACL USERS", "The names of all users.");

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(UserNames)
    }

    fn run(self, node: &dyn Node, _: &mut Session) -> Reply {
        Reply::Array(node.users().into_iter().map(|user| bulk(user.name)).collect())
    }
}

struct WhoAmI;

impl SessionCommand for WhoAmI {
    const SPEC: Spec = spec("whoami", 2, "6.0.0", "ACL WHOAMI", "The user of this connection.");

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(WhoAmI)
    }

    fn run(self, session: &mut Session) -> Reply {
        bulk(session.user.as_deref().unwrap_or("default"))
    }
}

/// None: the categories themselves.
struct Cat(Option<Categories>);

impl SessionCommand for Cat {
    const SPEC: Spec =
        spec("cat", -2, "6.0.0", "ACL CAT [category]", "The categories, or the commands of one of them.");

    fn parse(args: &Args) -> Result<Self, Reply> {
        match &args[2..] {
            [] => Ok(Cat(None)),
            [name] => Categories::named(name).map(|category| Cat(Some(category))).ok_or_else(|| {
                let shown: String = text(name).chars().take(128).collect();
                Reply::error(format!("ERR Unknown category '{shown}'"))
            }),
            _ => Err(wrong_number("cat")),
        }
    }

    fn run(self, _: &mut Session) -> Reply {
        let Some(wanted) = self.0 else { return Reply::Array(CATEGORIES.into_iter().map(bulk).collect()) };
        let found = numbered().filter(|(_, _, command)| categories(command).has(wanted));
        Reply::Array(found.map(|(_, name, _)| bulk(name)).collect())
    }
}

fn wrong_number(name: &str) -> Reply {
    Reply::error(format!("ERR unknown subcommand or wrong number of arguments for '{name}'. Try ACL HELP."))
}

struct GenPass(usize);

impl NodeCommand for GenPass {
    const SPEC: Spec =
        spec("genpass", -2, "6.0.0", "ACL GENPASS [bits]", "A password of so many bits that nobody can guess.");

    fn parse(args: &Args) -> Result<Self, Reply> {
        let bits = match &args[2..] {
            [] => GENPASS_BITS_DEFAULT,
            [bits] => integer(bits)?,
            _ => return Err(wrong_number("genpass")),
        };
        if !(1..=GENPASS_BITS_MAX).contains(&bits) {
            return Err(Reply::error(format!(
                "ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up to \
                 {GENPASS_BITS_MAX}"
            )));
        }
        Ok(GenPass((bits as usize).div_ceil(4)))
    }

    fn run(self, node: &dyn Node, _: &mut Session) -> Reply {
        let Some(secret) = node.secret_bytes(self.0.div_ceil(2)) else {
            return Reply::error("ERR the system gives no random numbers just now");
        };
        let mut digits: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        digits.truncate(self.0);
        bulk(digits)
    }
}

enum Log {
    Show(usize),
    Reset,
}

fn log_entry(entry: AclLogEntry) -> Reply {
    Reply::Map(vec![
        (bulk("count"), Reply::Int(entry.count as i64)),
        (bulk("reason"), bulk(entry.reason)),
        (bulk("context"), bulk(entry.context)),
        (bulk("object"), Reply::Bulk(entry.object)),
        (bulk("username"), bulk(entry.username)),
        (bulk("age-seconds"), Reply::Double(entry.age_ms as f64 / 1000.0)),
        (bulk("client-info"), bulk(entry.client)),
        (bulk("entry-id"), Reply::Int(entry.id as i64)),
        (bulk("timestamp-created"), Reply::Int(entry.created_ms as i64)),
        (bulk("timestamp-last-updated"), Reply::Int(entry.updated_ms as i64)),
    ])
}

impl NodeCommand for Log {
    const SPEC: Spec =
        spec("log", -2, "6.0.0", "ACL LOG [count | RESET]", "What was refused on this node, the newest first.");

    fn parse(args: &Args) -> Result<Self, Reply> {
        match &args[2..] {
            [] => Ok(Log::Show(LOG_DEFAULT as usize)),
            [word] if is(word, "reset") => Ok(Log::Reset),
            [count] => integer::<i64>(count).map(|count| Log::Show(count.max(0) as usize)),
            _ => Err(wrong_number("log")),
        }
    }

    fn run(self, node: &dyn Node, _: &mut Session) -> Reply {
        match self {
            Log::Show(count) => Reply::Array(node.acl_log(count).into_iter().map(log_entry).collect()),
            Log::Reset => {
                node.acl_log_reset();
                Reply::OK
            }
        }
    }
}

struct DryRun {
    user: Bytes,
    request: Args,
}

impl NodeCommand for DryRun {
    const SPEC: Spec = spec(
        "dryrun",
        -4,
        "7.0.0",
        "ACL DRYRUN username command [arg [arg ...]]",
        "Whether a user may run a command; it is not run.",
    );

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(DryRun { user: args[2].clone(), request: args[3..].iter().cloned().collect() })
    }

    fn run(self, node: &dyn Node, _: &mut Session) -> Reply {
        let user = text(&self.user);
        if !node.users().iter().any(|known| known.name == user) {
            return Reply::error(format!("ERR User '{user}' not found"));
        }
        let command = match super::lookup(&self.request) {
            Ok(command) => command,
            Err(Reply::Error(why)) if why.starts_with(b"ERR wrong number") => {
                let why = String::from_utf8_lossy(&why).into_owned();
                return Reply::error(why);
            }
            Err(_) => return Reply::error(format!("ERR Command '{}' not found", text(&self.request[0]))),
        };
        match node.may(&user, command, &self.request) {
            Ok(()) => Reply::OK,
            Err(why) => bulk(why),
        }
    }
}

/// LOAD and SAVE: users live in the meta group, not in a file of a node.
struct File<const LOAD: bool>;

impl<const LOAD: bool> SessionCommand for File<LOAD> {
    const SPEC: Spec = match LOAD {
        true => spec("load", 2, "6.0.0", "ACL LOAD", "Refused: users are kept by the cluster, not in a file."),
        false => spec("save", 2, "6.0.0", "ACL SAVE", "Refused: users are kept by the cluster, not in a file."),
    };

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(File)
    }

    fn run(self, _: &mut Session) -> Reply {
        Reply::error(
            "ERR This Redis instance is not configured to use an ACL file. You may want to specify users via the ACL \
             SETUSER command and then issue a CONFIG REWRITE (assuming you have a Redis configuration file set) in order \
             to store users in the Redis configuration.",
        )
    }
}

pub(super) static ACL: &[Command] = &[
    session::<Cat>(),
    session::<DelUser>(),
    node::<DryRun>(),
    node::<GenPass>(),
    node::<GetUser>(),
    help(spec("help", 2, "6.0.0", "ACL HELP", "The subcommands of ACL."), |_, _| of_table("ACL", ACL)),
    node::<List>(),
    session::<File<true>>(),
    node::<Log>(),
    session::<File<false>>(),
    session::<SetUser>(),
    node::<UserNames>(),
    session::<WhoAmI>(),
];
