//! COMMAND: what the commands say about themselves.
//!
//! Loops over the families' tables; there is no list of commands here, and flags and categories are derived from what
//! a command is given to run on.

use super::access::{Categories, categories};
use super::connection::text;
use super::help::{help, of_table};
use super::server::{bulk, spec};
use super::session::Session;
use super::transaction::Step;
use super::{
    Command, Keys, Run, SessionCommand, Spec, key_flags, session,
    syntax::{is, syntax_error},
};
use crate::resp::{Args, Reply};
use bytes::Bytes;

fn status(t: impl Into<String>) -> Reply {
    Reply::Status(Bytes::from(t.into()))
}

/// Flags as in COMMAND INFO, derived from kind and categories.
fn flags(command: &'static Command) -> Vec<&'static str> {
    let mut flags = match command.run {
        Run::Read(_) => vec!["readonly"],
        Run::Write(_) => vec!["write"],
        Run::Node(_) if command.spec.family == "pubsub" && command.spec.name.ends_with("subscribe") => {
            vec!["noscript", "loading", "stale"]
        }
        Run::Session(_) | Run::Node(_) => vec!["loading", "stale"],
        Run::Transaction(Step::Exec) => vec!["noscript", "loading", "stale", "skip_slowlog"],
        Run::Transaction(_) => vec!["noscript", "loading", "stale", "allow_busy"],
        Run::Script(kind) => kind.flags().to_vec(),
        Run::Container => vec![],
    };
    if command.spec.denyoom {
        flags.push("denyoom");
    }
    flags.extend(categories(command).names().filter(|name| ["admin", "blocking", "fast", "pubsub"].contains(name)));
    if !matches!(command.spec.keys, Keys::None | Keys::Range { .. }) {
        flags.push("movablekeys");
    }
    flags
}

/// First key, last key and step as the oldest clients read them; zeros where keys are found otherwise.
fn key_range(keys: &Keys) -> (i64, i64, i64) {
    match keys {
        Keys::Range { first, last, step } => (*first as i64, i64::from(*last), *step as i64),
        Keys::FirstAndCounted { .. } | Keys::FirstAndStored => (1, 1, 1),
        _ => (0, 0, 0),
    }
}

/// Where one of COMMAND INFO's key specifications begins.
enum Begin {
    Index(usize),
    /// Behind this word.
    Keyword(&'static str),
}

/// One of COMMAND INFO's key specifications: where to begin, and how to find the keys from there.
fn key_spec(flags: key_flags::Flags, begin: Begin, kind: &str, find: Vec<(&str, i64)>) -> Reply {
    let pair = |k: &str, v: Reply| (bulk(k), v);
    let typed = |kind: &str, spec: Vec<(Reply, Reply)>| {
        Reply::Map(vec![pair("type", bulk(kind)), pair("spec", Reply::Map(spec))])
    };
    let begin = match begin {
        Begin::Index(at) => typed("index", vec![pair("index", Reply::Int(at as i64))]),
        Begin::Keyword(word) => {
            typed("keyword", vec![pair("keyword", bulk(word.to_ascii_uppercase())), pair("startfrom", Reply::Int(1))])
        }
    };
    let find = find.into_iter().map(|(name, value)| pair(name, Reply::Int(value))).collect();
    Reply::Map(vec![
        pair("flags", Reply::Set(flags.iter().map(|flag| status(*flag)).collect())),
        pair("begin_search", begin),
        pair("find_keys", typed(kind, find)),
    ])
}

fn key_specs(name: &str, command: &Command) -> Reply {
    let (of_first, of_rest) = key_flags::of(name, command);
    let range = |flags, first: usize, last: i32, step: usize| {
        let last = if last < 0 { i64::from(last) } else { i64::from(last) - first as i64 };
        key_spec(flags, Begin::Index(first), "range", vec![("lastkey", last), ("keystep", step as i64), ("limit", 0)])
    };
    let specs = match command.spec.keys {
        Keys::None => Vec::new(),
        Keys::Range { first, last, step } if of_first != of_rest && last != first as i32 => {
            vec![range(of_first, first, first as i32, 1), range(of_rest, first + step, last, step)]
        }
        Keys::Range { first, last, step } => vec![range(of_first, first, last, step)],
        Keys::Counted { at, step } => {
            let find = vec![("keynumidx", 0), ("firstkey", 1), ("keystep", step as i64)];
            vec![key_spec(of_first, Begin::Index(at), "keynum", find)]
        }
        Keys::FirstAndStored => vec![range(of_first, 1, 1, 1)],
        Keys::FirstAndCounted { at } => {
            let find = vec![("keynumidx", 0), ("firstkey", 1), ("keystep", 1)];
            vec![range(of_first, 1, 1, 1), key_spec(of_rest, Begin::Index(at), "keynum", find)]
        }
        // A limit of 2: half of what follows are keys.
        Keys::After { word } => {
            let find = vec![("lastkey", -1), ("keystep", 1), ("limit", 2)];
            vec![key_spec(of_first, Begin::Keyword(word), "range", find)]
        }
    };
    Reply::Set(specs)
}

fn command_info(name: &str, command: &'static Command) -> Reply {
    let (first, last, step) = key_range(&command.spec.keys);
    let of_sub = |sub: &'static Command| command_info(&format!("{name}|{}", sub.spec.name), sub);
    // As Redis does: none are a set, some are an array.
    let subcommands = match command.subcommands {
        [] => Reply::Set(Vec::new()),
        some => Reply::Array(some.iter().map(of_sub).collect()),
    };
    Reply::Array(vec![
        bulk(name),
        Reply::Int(i64::from(command.spec.arity)),
        Reply::Set(flags(command).into_iter().map(status).collect()),
        Reply::Int(first),
        Reply::Int(last),
        Reply::Int(step),
        Reply::Set(categories(command).names().map(|name| status(format!("@{name}"))).collect()),
        Reply::Set(Vec::new()),
        key_specs(name, command),
        subcommands,
    ])
}

fn command_docs(name: &str, command: &Command) -> Reply {
    let spec = &command.spec;
    let mut docs = vec![
        (bulk("summary"), bulk(spec.summary)),
        (bulk("since"), bulk(spec.since)),
        (bulk("group"), bulk(spec.family)),
        (bulk("complexity"), bulk(spec.complexity)),
        (bulk("syntax"), bulk(spec.syntax)),
    ];
    if !command.subcommands.is_empty() {
        let subs = command.subcommands.iter().map(|sub| {
            let full = format!("{name}|{}", sub.spec.name);
            (bulk(full.clone()), command_docs(&full, sub))
        });
        docs.push((bulk("subcommands"), Reply::Map(subs.collect())));
    }
    Reply::Map(docs)
}

/// Commands that are no subcommands, with their names, in order of names.
fn top_level() -> Vec<(String, &'static Command)> {
    let mut list: Vec<_> = super::all()
        .filter(|(name, _)| !name.contains('|') && !name.contains(' '))
        .map(|(name, command)| (name.to_string(), command))
        .collect();
    list.sort_by(|a, b| a.0.cmp(&b.0));
    list
}

/// The command called `name`, with `|` or without between container and subcommand.
fn named(name: &str) -> Option<&'static Command> {
    let lower = name.to_ascii_lowercase();
    let (head, sub) = match lower.split_once('|') {
        Some((head, sub)) => (head, Some(sub)),
        None => (lower.as_str(), None),
    };
    let command = top_level().into_iter().find(|(n, _)| n == head)?.1;
    match sub {
        None => Some(command),
        Some(sub) => command.subcommands.iter().find(|c| c.spec.name == sub),
    }
}

/// COMMAND INFO [name ...]; the bare COMMAND is the same without names.
struct CommandInfo(Vec<String>);

impl SessionCommand for CommandInfo {
    const SPEC: Spec =
        spec("info", -2, "2.8.13", "COMMAND INFO [command-name ...]", "Arity, flags and keys of commands.");

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(CommandInfo(args[2..].iter().map(text).collect()))
    }

    fn run(self, _: &mut Session) -> Reply {
        if self.0.is_empty() {
            return CommandAll.reply();
        }
        let one = |name: &String| named(name).map_or(Reply::Nil, |c| command_info(&name.to_ascii_lowercase(), c));
        Reply::Array(self.0.iter().map(one).collect())
    }
}

pub(super) struct CommandAll;

impl CommandAll {
    fn reply(self) -> Reply {
        Reply::Array(top_level().iter().map(|(name, c)| command_info(name, c)).collect())
    }
}

impl SessionCommand for CommandAll {
    const SPEC: Spec = spec("command", -1, "2.8.13", "COMMAND", "All commands with arity, flags and keys.");

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(CommandAll)
    }

    fn run(self, _: &mut Session) -> Reply {
        self.reply()
    }
}

struct CommandCount;

impl SessionCommand for CommandCount {
    const SPEC: Spec = spec("count", 2, "2.8.13", "COMMAND COUNT", "How many commands there are.");

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(CommandCount)
    }

    fn run(self, _: &mut Session) -> Reply {
        Reply::Int(top_level().len() as i64)
    }
}

struct CommandDocs(Vec<String>);

impl SessionCommand for CommandDocs {
    const SPEC: Spec =
        spec("docs", -2, "7.0.0", "COMMAND DOCS [command-name ...]", "What commands are for and how they read.");

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(CommandDocs(args[2..].iter().map(text).collect()))
    }

    fn run(self, _: &mut Session) -> Reply {
        let pairs: Vec<_> = if self.0.is_empty() {
            top_level().iter().map(|(n, c)| (bulk(n.clone()), command_docs(n, c))).collect()
        } else {
            let found = self.0.iter().filter_map(|name| {
                let lower = name.to_ascii_lowercase();
                named(name).map(|c| (bulk(lower.clone()), command_docs(&lower, c)))
            });
            found.collect()
        };
        Reply::Map(pairs)
    }
}

/// COMMAND GETKEYS and GETKEYSANDFLAGS: the command with its full name, and its keys.
fn keys_of(inner: &Args) -> Result<(String, &'static Command, Vec<Bytes>), Reply> {
    let command = super::lookup(inner).map_err(|refused| match &refused {
        Reply::Error(text) if text.starts_with(b"ERR wrong number") => {
            Reply::error("ERR Invalid number of arguments specified for command")
        }
        _ => Reply::error("ERR Invalid command specified"),
    })?;
    if matches!(command.spec.keys, Keys::None) {
        return Err(Reply::error("ERR The command has no key arguments"));
    }
    let found = super::all().find(|(_, other)| std::ptr::eq(*other, command));
    let name = found.map_or_else(|| command.spec.name.to_owned(), |(name, _)| name);
    Ok((name, command, super::keys(command, inner).cloned().collect()))
}

struct GetKeys(Args);

impl SessionCommand for GetKeys {
    const SPEC: Spec =
        spec("getkeys", -3, "2.8.13", "COMMAND GETKEYS command [arg ...]", "The keys of a full command.");

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(GetKeys(args[2..].into()))
    }

    fn run(self, _: &mut Session) -> Reply {
        match keys_of(&self.0) {
            Ok((.., keys)) => Reply::Array(keys.into_iter().map(Reply::Bulk).collect()),
            Err(refused) => refused,
        }
    }
}

struct GetKeysAndFlags(Args);

impl SessionCommand for GetKeysAndFlags {
    const SPEC: Spec = spec(
        "getkeysandflags",
        -3,
        "7.0.0",
        "COMMAND GETKEYSANDFLAGS command [arg ...]",
        "The keys of a full command and what happens to them.",
    );

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(GetKeysAndFlags(args[2..].into()))
    }

    fn run(self, _: &mut Session) -> Reply {
        let (name, command, keys) = match keys_of(&self.0) {
            Ok(found) => found,
            Err(refused) => return refused,
        };
        let (of_first, of_rest) = key_flags::of_call(&name, command, &self.0);
        let one = |(place, key): (usize, Bytes)| {
            let flags = if place == 0 { of_first } else { of_rest };
            Reply::Array(vec![Reply::Bulk(key), Reply::Set(flags.iter().map(|flag| status(*flag)).collect())])
        };
        Reply::Array(keys.into_iter().enumerate().map(one).collect())
    }
}

/// COMMAND LIST with its filter.
enum CommandList {
    All,
    Module,
    Category(Option<Categories>),
    Pattern(Bytes),
}

impl SessionCommand for CommandList {
    const SPEC: Spec = spec(
        "list",
        -2,
        "7.0.0",
        "COMMAND LIST [FILTERBY <MODULE module-name | ACLCAT category | PATTERN pattern>]",
        "Names of commands.",
    );

    fn parse(args: &Args) -> Result<Self, Reply> {
        match &args[2..] {
            [] => Ok(CommandList::All),
            [by, kind, what] if is(by, "filterby") => match () {
                () if is(kind, "module") => Ok(CommandList::Module),
                () if is(kind, "aclcat") => Ok(CommandList::Category(Categories::named(what))),
                () if is(kind, "pattern") => Ok(CommandList::Pattern(what.clone())),
                () => Err(syntax_error()),
            },
            _ => Err(syntax_error()),
        }
    }

    fn run(self, _: &mut Session) -> Reply {
        let shown = |name: &str, command: &'static Command| match &self {
            CommandList::All => true,
            CommandList::Module => false,
            CommandList::Category(wanted) => wanted.is_some_and(|wanted| categories(command).has(wanted)),
            CommandList::Pattern(pattern) => super::glob::matches(pattern, name.as_bytes()),
        };
        let mut names = Vec::new();
        for (name, command) in top_level() {
            if shown(&name, command) {
                names.push(bulk(name.clone()));
            }
            for sub in command.subcommands {
                let full = format!("{name}|{}", sub.spec.name);
                if shown(&full, sub) {
                    names.push(bulk(full));
                }
            }
        }
        Reply::Array(names)
    }
}

pub(super) static COMMAND: &[Command] = &[
    session::<CommandCount>(),
    session::<CommandDocs>(),
    session::<GetKeys>(),
    session::<GetKeysAndFlags>(),
    help(spec("help", 2, "5.0.0", "COMMAND HELP", "The subcommands of COMMAND."), |_, _| of_table("COMMAND", COMMAND)),
    session::<CommandInfo>(),
    session::<CommandList>(),
];
