//! The language: one file a family, each closed by its table.
//!
//! A command is a struct of its parsed arguments with one impl: its [`Spec`], `parse`, and the one function that
//! its kind gives. What the function is *given* tells the kind, so that the path through the log or the read index
//! cannot disagree with what the command does. Nothing here knows a socket, Raft or a clock.

mod bitmap;
mod bloom;
mod command_log;
mod copy;
mod cuckoo;
mod draw;
mod extended;
mod geo;
mod geohash;
mod happenings;
mod hash;
mod hash_ttl;
mod help;
mod hyperloglog;
mod info;
mod introspection;
mod key_flags;
mod latency;
mod lcs;
mod lifecycle;
mod list;
mod list_blocking;
mod pause;
mod score;
mod set;
mod set_algebra;
pub mod sort;
mod sorted;
mod sorted_algebra;
mod sorted_blocking;
mod sorted_range;
mod syntax;
mod text;

pub mod access;
pub mod acl;
pub mod atomic;
pub mod blocking;
pub mod cluster;
pub mod connection;
pub mod effects;
pub mod filter;
pub mod generic;
pub mod glob;
pub mod handover;
pub mod node;
pub mod ordinal;
pub mod pubsub;
pub mod script;
pub mod server;
pub mod session;
mod stream;
pub mod string;
pub mod tracking;
pub mod transaction;

use crate::resp::{Args, Reply, integer};
use crate::state::{ELEMENT_COST, ENTRY_COST, Keyspace, Size, View};
use crate::types::Stamp;
use bytes::Bytes;
use hashbrown::HashTable;
use ordinal::Ordinal;
use std::sync::LazyLock;

/// What a command tells about itself. COMMAND, COMMAND DOCS, ACL categories, metric labels and `docs/commands.md`
/// are loops over these.
#[derive(Clone, Copy)]
pub struct Spec {
    /// Lower-case wire name; a subcommand's own name without its container.
    pub name: &'static str,
    /// As Redis counts: the name included, negative for "at least".
    pub arity: i32,
    pub keys: Keys,
    pub scope: Scope,
    /// `string`, `generic`, `connection`, `server`, `cluster`, ...
    pub family: &'static str,
    pub syntax: &'static str,
    pub summary: &'static str,
    pub complexity: &'static str,
    /// First Redis version that has it, or `hc-0.1` for our own.
    pub since: &'static str,
    /// Grows memory when applied; refused under memory pressure.
    pub denyoom: bool,
}

impl Spec {
    /// Of a command without keys that runs where it came to.
    const fn local(
        family: &'static str,
        name: &'static str,
        arity: i32,
        since: &'static str,
        syntax: &'static str,
        summary: &'static str,
    ) -> Spec {
        let (keys, scope, complexity, denyoom) = (Keys::None, Scope::Local, "O(1)", false);
        Spec { name, arity, keys, scope, family, syntax, summary, complexity, since, denyoom }
    }
}

/// Where the keys stand in the argument vector.
#[derive(Clone, Copy)]
pub enum Keys {
    None,
    /// As in COMMAND INFO: `last` may count from the end when negative.
    Range {
        first: usize,
        last: i32,
        step: usize,
    },
    /// Behind the argument `at`, which says how many there are; a key every `step` arguments.
    Counted {
        at: usize,
        step: usize,
    },
    /// The first half of all that follows this word.
    After {
        word: &'static str,
    },
    /// The first argument, and those behind the argument `at`, which says how many they are.
    FirstAndCounted {
        at: usize,
    },
    /// The first argument, and the one behind the last STORE or STOREDIST.
    FirstAndStored,
}

impl Keys {
    /// The first argument is the only key.
    pub const ONE: Keys = Keys::Range { first: 1, last: 1, step: 1 };
    /// Every argument is a key.
    pub const ALL: Keys = Keys::Range { first: 1, last: -1, step: 1 };
}

/// Where a command runs.
#[derive(Clone, Copy, PartialEq)]
pub enum Scope {
    /// In the one group that holds all its keys; keys of several slots are refused with CROSSSLOT.
    OneSlot,
    /// Split by group when keys lie apart; the parts' replies are merged. Not one atomic cut.
    Split(Merge),
    /// In every group.
    AllGroups(Merge),
    /// SCAN: the cursor says in which group.
    Cursor,
    /// Nowhere: session and node commands.
    Local,
}

/// How the replies of parts become one.
#[derive(Clone, Copy, PartialEq)]
pub enum Merge {
    /// Integers are added.
    Sum,
    /// Arrays are put together in the order of the request's keys: the part's n-th element is its n-th key's.
    PerKey,
    /// Arrays are appended.
    Concat,
    /// All say the same; the first error wins.
    Same,
    /// The first that is not nil.
    AnyNonNil,
}

/// One entry of a family's table.
pub struct Command {
    pub spec: Spec,
    pub run: Run,
    /// Checks number and form of the arguments without running anything: syntax errors never reach the log.
    pub check: fn(&Args) -> Result<(), Reply>,
    /// [`WriteCommand::growth`]; of no meaning for other kinds.
    pub growth: fn(&Args) -> u64,
    /// [`WriteCommand::COPIED`]; of no meaning for other kinds.
    copied: Option<Copied>,
    /// How it waits if it finds nothing; none for nearly all.
    pub blocks: Option<blocking::Blocks>,
    /// A container such as CLIENT or OBJECT has its subcommands here and is never run itself.
    pub subcommands: &'static [Command],
}

/// See [`WriteCommand::COPIED`].
pub type Copied = fn(&Args, &dyn Fn(&[u8]) -> Size) -> u64;

/// The kinds, told apart by what the function is given.
#[derive(Clone, Copy)]
pub enum Run {
    Read(fn(&Args, &View<'_>) -> Reply),
    Write(fn(&Args, &mut Keyspace, &Stamp) -> Reply),
    Session(fn(&Args, &mut session::Session) -> Reply),
    Node(fn(&Args, &dyn node::Node, &mut session::Session) -> Reply),
    /// What the door does with the connection's [`transaction::Transaction`].
    Transaction(transaction::Step),
    /// Runs a script where its keys are led, or is about scripts.
    Script(script::ScriptCommand),
    Container,
}

/// Every family's table, one a line.
static FAMILIES: &[&[Command]] = &[
    bitmap::BITMAP,
    bloom::BLOOM,
    cluster::CLUSTER,
    happenings::HAPPENINGS,
    connection::CONNECTION,
    copy::COPY,
    cuckoo::CUCKOO,
    generic::GENERIC,
    geo::GEO_COMMANDS,
    hash::HASH,
    hash_ttl::HASH_TTL,
    hyperloglog::HYPERLOGLOG,
    lcs::LCS,
    lifecycle::LIFECYCLE,
    list::LIST,
    list_blocking::LIST_BLOCKING,
    pubsub::PUBSUB,
    script::SCRIPTING,
    server::SERVER,
    stream::STREAM,
    stream::STREAM_GROUP,
    stream::STREAM_INFO,
    set::SET,
    set_algebra::SET_ALGEBRA,
    sort::SORT,
    sorted::SORTED,
    sorted_algebra::SORTED_ALGEBRA,
    sorted_blocking::SORTED_BLOCKING,
    sorted_range::SORTED_RANGE,
    string::STRING,
    transaction::TRANSACTION,
    #[cfg(test)]
    blocking::tests::TEST,
];

/// Reads the state of a group.
pub trait ReadCommand: Sized {
    const SPEC: Spec;
    /// Checks and takes the arguments apart. Their number is right already.
    fn parse(args: &Args) -> Result<Self, Reply>;
    fn read(self, view: &View<'_>) -> Reply;
}

/// Changes the state of a group: goes through its log. Must be a function of its arguments, the keyspace and the
/// stamp alone, and must not panic.
pub trait WriteCommand: Sized {
    const SPEC: Spec;
    /// Checks and takes the arguments apart. Their number is right already.
    fn parse(args: &Args) -> Result<Self, Reply>;
    fn apply(self, keyspace: &mut Keyspace, stamp: &Stamp) -> Reply;
    /// Bytes that the command can add to the account, at most. Asked of commands with `denyoom` alone. A command whose
    /// result may be longer than its arguments says so here.
    fn growth(args: &Args) -> u64 {
        usual_growth(args)
    }
    /// Of a command that copies elements out of values that are there into the one under its first key: the bytes that
    /// these can add to the account, at most, beside [`WriteCommand::growth`]. It is given the arguments, their number
    /// checked, and what says how large a value is, or may be when the command is applied.
    const COPIED: Option<Copied> = None;
}

/// What `count` elements can add whose bytes are among the arguments.
fn element_growth(args: &Args, count: usize) -> u64 {
    ENTRY_COST + (count * ELEMENT_COST) as u64 + args.iter().map(|arg| arg.len() as u64).sum::<u64>()
}

/// What a result may be longer than the arguments it was made of, where it is a number.
const NUMBER_MAX: u64 = 32;

/// An entry for every other argument, all of whose bytes are kept: no command that stores what it is given adds more.
pub fn usual_growth(args: &Args) -> u64 {
    let entries = (args.len() as u64 / 2).max(1);
    entries * (ENTRY_COST + NUMBER_MAX) + args.iter().map(|arg| arg.len() as u64).sum::<u64>()
}

/// Bytes that a call can add to the account, at most, to values as they are now; none if it is one that is let through
/// however full memory is. Should calls that are under way fill a packed value to its limit, the next one's estimate lacks
/// what unpacking costs for their elements.
///
/// `under_way` says of a key what is reserved for it by calls that will be applied before.
pub fn growth(args: &Args, keyspace: &Keyspace, under_way: &mut dyn FnMut(&[u8]) -> u64) -> Option<u64> {
    // By far the most frequent one is not looked up.
    if args.first().is_some_and(|name| name.eq_ignore_ascii_case(b"set")) {
        let kept = args.iter().skip(1).take(2).map(|arg| arg.len() as u64).sum::<u64>();
        return Some(ENTRY_COST + kept);
    }
    if atomic::is_atomic(args) {
        return atomic::growth(args, keyspace, under_way);
    }
    if effects::is(args) {
        return effects::growth(args, keyspace, under_way);
    }
    let command = lookup(args).ok()?;
    // A filter is as large as it was asked for from the beginning.
    command.spec.denyoom.then(|| {
        // Strings are never packed, and by far the most frequent.
        let unpacking = match command.spec.family {
            "string" => 0,
            _ => keys(command, args).map(|key| keyspace.unpacking(key)).sum(),
        };
        let under_way = std::cell::RefCell::new(under_way);
        let size = |key: &[u8]| keyspace.size_of(key).with(under_way.borrow_mut()(key));
        let copied = command.copied.map_or(0, |copied| copied(args, &size));
        ((command.growth)(args) + filter::reserve_bytes(args) + unpacking).saturating_add(copied)
    })
}

/// Tells of each key whose value a call may make larger.
pub fn grown(args: &Args, mut tell: impl FnMut(&[u8])) {
    // As above.
    if args.first().is_some_and(|name| name.eq_ignore_ascii_case(b"set")) {
        return args.get(1).into_iter().for_each(|key| tell(key));
    }
    if atomic::is_atomic(args) {
        return atomic::grown(args, &mut tell);
    }
    if effects::is(args) {
        return effects::grown(args, &mut tell);
    }
    let Ok(command) = lookup(args) else { return };
    // COPY alone writes under its second key.
    let most = if command.copied.is_some() && command.spec.name != "copy" { 1 } else { usize::MAX };
    keys(command, args).take(most).for_each(|key| tell(key));
}

/// Concerns the connection alone.
pub trait SessionCommand: Sized {
    const SPEC: Spec;
    /// Checks and takes the arguments apart. Their number is right already.
    fn parse(args: &Args) -> Result<Self, Reply>;
    fn run(self, session: &mut session::Session) -> Reply;
}

/// Asks or tells the node the client is connected to.
pub trait NodeCommand: Sized {
    const SPEC: Spec;
    /// Checks and takes the arguments apart. Their number is right already.
    fn parse(args: &Args) -> Result<Self, Reply>;
    fn run(self, node: &dyn node::Node, session: &mut session::Session) -> Reply;
}

/// A read, for a family's table.
pub const fn read<T: ReadCommand>() -> Command {
    fn run<T: ReadCommand>(args: &Args, view: &View<'_>) -> Reply {
        match T::parse(args) {
            Ok(command) => command.read(view),
            Err(reply) => reply,
        }
    }
    Command {
        spec: T::SPEC,
        run: Run::Read(run::<T>),
        check: |args| T::parse(args).map(drop),
        growth: |_| 0,
        copied: None,
        blocks: None,
        subcommands: &[],
    }
}

/// A write, for a family's table.
pub const fn write<T: WriteCommand>() -> Command {
    fn run<T: WriteCommand>(args: &Args, keyspace: &mut Keyspace, stamp: &Stamp) -> Reply {
        match T::parse(args) {
            Ok(command) => command.apply(keyspace, stamp),
            Err(reply) => reply,
        }
    }
    Command {
        spec: T::SPEC,
        run: Run::Write(run::<T>),
        check: |args| T::parse(args).map(drop),
        growth: T::growth,
        copied: T::COPIED,
        blocks: None,
        subcommands: &[],
    }
}

/// A session command, for a family's table.
pub const fn session<T: SessionCommand>() -> Command {
    fn run<T: SessionCommand>(args: &Args, session: &mut session::Session) -> Reply {
        match T::parse(args) {
            Ok(command) => command.run(session),
            Err(reply) => reply,
        }
    }
    Command {
        spec: T::SPEC,
        run: Run::Session(run::<T>),
        check: |args| T::parse(args).map(drop),
        growth: |_| 0,
        copied: None,
        blocks: None,
        subcommands: &[],
    }
}

/// A node command, for a family's table.
pub const fn node<T: NodeCommand>() -> Command {
    fn run<T: NodeCommand>(args: &Args, node: &dyn node::Node, session: &mut session::Session) -> Reply {
        match T::parse(args) {
            Ok(command) => command.run(node, session),
            Err(reply) => reply,
        }
    }
    Command {
        spec: T::SPEC,
        run: Run::Node(run::<T>),
        check: |args| T::parse(args).map(drop),
        growth: |_| 0,
        copied: None,
        blocks: None,
        subcommands: &[],
    }
}

/// A name that only has subcommands, for a family's table. One that also does something alone, as COMMAND does, is
/// made with [`Command::with`].
pub const fn container(spec: Spec, subcommands: &'static [Command]) -> Command {
    Command { spec, run: Run::Container, check: |_| Ok(()), growth: |_| 0, copied: None, blocks: None, subcommands }
}

impl Command {
    /// The same command with subcommands beside.
    pub const fn with(self, subcommands: &'static [Command]) -> Command {
        Command { subcommands, ..self }
    }

    /// The same command, which waits if it finds nothing.
    pub const fn blocking(self, blocks: blocking::Blocks) -> Command {
        Command { blocks: Some(blocks), ..self }
    }

    pub fn is_write(&self) -> bool {
        matches!(self.run, Run::Write(_))
    }

    pub fn is_script(&self) -> bool {
        matches!(self.run, Run::Script(_))
    }

    /// Whether it runs a script, and not only is about some.
    pub fn runs_script(&self) -> bool {
        matches!(self.run, Run::Script(kind) if kind.runs())
    }

    pub fn is_read(&self) -> bool {
        matches!(self.run, Run::Read(_))
    }

    /// As Redis counts arguments.
    fn takes(&self, count: usize) -> bool {
        let wanted = self.spec.arity.unsigned_abs() as usize;
        if self.spec.arity < 0 { count >= wanted } else { count == wanted }
    }
}

/// Longest name that is looked up.
const MAX_NAME: usize = 32;

/// Finds commands by name, whatever its case.
static BY_NAME: LazyLock<HashTable<&'static Command>> = LazyLock::new(|| {
    let mut table = HashTable::new();
    for command in FAMILIES.iter().copied().flatten() {
        table.insert_unique(hash_of(command.spec.name.as_bytes()), command, |c| hash_of(c.spec.name.as_bytes()));
    }
    table
});

/// A hash of a name that is the same whatever its case (FNV-1a). Who looks a name up adds none to the table, so it need not be
/// one of the good hashes, but quick for what is short.
fn hash_of(name: &[u8]) -> u64 {
    name.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte | 0x20)).wrapping_mul(0x100_0000_01b3))
}

/// The command a name stands for, whatever its case; subcommands are found with [`lookup`].
pub fn by_name(name: &[u8]) -> Option<&'static Command> {
    if name.len() > MAX_NAME {
        return None;
    }
    let is = |own: &[u8]| {
        own.len() == name.len() && own.iter().zip(name).all(|(own, byte)| *own == byte.to_ascii_lowercase())
    };
    BY_NAME.find(hash_of(name), |command| is(command.spec.name.as_bytes())).copied()
}

/// The subcommand a word stands for, whatever its case.
pub fn subcommand(container: &'static Command, name: &[u8]) -> Option<&'static Command> {
    container.subcommands.iter().find(|command| command.spec.name.as_bytes().eq_ignore_ascii_case(name))
}

/// The command of a request, containers resolved and the number of arguments checked; or Redis' error.
pub fn lookup(args: &Args) -> Result<&'static Command, Reply> {
    let name = args.first().ok_or_else(|| Reply::error("ERR empty command"))?;
    let base = by_name(name).ok_or_else(|| unknown_command(args))?;
    let (command, container) = match args.get(1) {
        Some(word) if !base.subcommands.is_empty() => {
            (subcommand(base, word).ok_or_else(|| unknown_subcommand(base, word))?, Some(base))
        }
        _ => (base, None),
    };
    if command.takes(args.len()) && !matches!(command.run, Run::Container) {
        return Ok(command);
    }
    Err(wrong_arity(&full_name(container, command)))
}

/// The same with the command's number. `last`: the command before it, which it is most often again; then nothing is looked up.
pub fn lookup_after(last: Option<Ordinal>, args: &Args) -> Result<(&'static Command, Ordinal), Reply> {
    if let Some(last) = last
        && let Some(name) = args.first()
    {
        let command = last.command();
        let again = ordinal::is_whole_name(last) && name.eq_ignore_ascii_case(command.spec.name.as_bytes());
        if again && command.subcommands.is_empty() && command.takes(args.len()) {
            return Ok((command, last));
        }
    }
    lookup(args).map(|command| (command, ordinal::ordinal(command)))
}

fn full_name(container: Option<&Command>, command: &Command) -> String {
    match container {
        Some(container) => format!("{}|{}", container.spec.name, command.spec.name),
        None => command.spec.name.to_string(),
    }
}

/// Longest piece of a client's own text in an error.
const QUOTED: usize = 128;

fn unknown_command(args: &Args) -> Reply {
    let mut rest = Vec::new();
    for argument in &args[1..] {
        if rest.len() >= QUOTED {
            break;
        }
        let room = QUOTED - rest.len();
        rest.extend_from_slice(b"'");
        rest.extend_from_slice(as_c(argument, room));
        rest.extend_from_slice(b"' ");
    }
    let mut text = b"ERR unknown command '".to_vec();
    text.extend_from_slice(as_c(&args[0], QUOTED));
    text.extend_from_slice(b"', with args beginning with: ");
    text.append(&mut rest);
    error_line(text)
}

fn unknown_subcommand(container: &Command, word: &[u8]) -> Reply {
    let mut text = b"ERR unknown subcommand '".to_vec();
    text.extend_from_slice(as_c(word, QUOTED));
    text.extend_from_slice(b"'. Try ");
    text.extend_from_slice(container.spec.name.to_ascii_uppercase().as_bytes());
    text.extend_from_slice(b" HELP.");
    error_line(text)
}

/// What C's `printf` shows of a text: up to the first NUL, at most `most` bytes.
fn as_c(text: &[u8], most: usize) -> &[u8] {
    let end = text.iter().position(|&b| b == 0).unwrap_or(text.len());
    &text[..end.min(most)]
}

/// An error made of a client's own bytes: one line whatever they are.
fn error_line(mut text: Vec<u8>) -> Reply {
    text.iter_mut().filter(|b| matches!(**b, b'\r' | b'\n')).for_each(|b| *b = b' ');
    Reply::error(text)
}

/// An error that quotes what a client said between words of ours, as Redis does: byte by byte, up to a NUL, and on one line.
/// `words` has one more than `said`.
fn quoting(words: &[&str], said: &[&[u8]]) -> Reply {
    let mut text = Vec::new();
    for (at, word) in words.iter().enumerate() {
        text.extend_from_slice(word.as_bytes());
        text.extend_from_slice(said.get(at).map_or(&b""[..], |said| as_c(said, said.len())));
    }
    error_line(text)
}

/// The error for a wrong number of arguments. `name` is the full name: `object|encoding`.
pub fn wrong_arity(name: &str) -> Reply {
    Reply::error(format!("ERR wrong number of arguments for '{name}' command"))
}

/// Where the key stands that a result is stored under, if one is named. What other options are given is not taken for one.
fn stored(args: &Args) -> Option<usize> {
    let is = |word: &Bytes, names: &[&str]| names.iter().any(|name| word.eq_ignore_ascii_case(name.as_bytes()));
    let (mut found, mut at) = (None, 2);
    while let Some(word) = args.get(at) {
        match word {
            word if is(word, &["store", "storedist"]) => {
                at += 1;
                found = Some(at).filter(|at| *at < args.len()).or(found);
            }
            word if is(word, &["by", "get"]) => at += 1,
            word if is(word, &["limit"]) => at += 2,
            _ => {}
        }
        at += 1;
    }
    found
}

/// The keys of a request, in its order.
pub fn keys<'a>(command: &Command, args: &'a Args) -> impl Iterator<Item = &'a Bytes> + use<'a> {
    let counted = |at: usize, step: usize| {
        let count = args.get(at).and_then(|word| integer(word)).and_then(|n| usize::try_from(n).ok());
        (at + 1, (at + 1).saturating_add(count.unwrap_or(0).saturating_mul(step)), step)
    };
    let alone = usize::from(matches!(command.spec.keys, Keys::FirstAndCounted { .. } | Keys::FirstAndStored));
    let (first, end, step) = match command.spec.keys {
        Keys::None => (0, 0, 1),
        Keys::Range { first, last, step } => {
            let last = if last < 0 { args.len() as i64 + i64::from(last) } else { i64::from(last) };
            (first, usize::try_from(last + 1).unwrap_or(0), step)
        }
        Keys::Counted { at, step } => counted(at, step),
        Keys::FirstAndCounted { at } => counted(at, 1),
        Keys::FirstAndStored => stored(args).map_or((0, 0, 1), |at| (at, at + 1, 1)),
        Keys::After { word } => {
            let first =
                args.iter().position(|arg| arg.eq_ignore_ascii_case(word.as_bytes())).map_or(args.len(), |at| at + 1);
            (first, first + args.len().saturating_sub(first) / 2, 1)
        }
    };
    let end = end.min(args.len());
    let rest = args.get(first.min(end)..end).unwrap_or(&[]).iter().step_by(step.max(1));
    args.iter().skip(1).take(alone).chain(rest)
}

/// Every command and subcommand with its full name (`get`, `object`, `object|encoding`), in the tables' order.
pub fn all() -> impl Iterator<Item = (String, &'static Command)> {
    FAMILIES.iter().copied().flatten().flat_map(|command| {
        let subcommands = command.subcommands.iter().map(move |sub| (full_name(Some(command), sub), sub));
        std::iter::once((full_name(None, command), command)).chain(subcommands)
    })
}

/// Applies one command of a log entry. Whatever the arguments are, the answer is a reply: a log may hold what an
/// older or newer program proposed.
pub fn apply(args: &Args, keyspace: &mut Keyspace, stamp: &Stamp) -> Reply {
    if atomic::is_atomic(args) {
        return atomic::apply(args, keyspace, stamp);
    }
    if handover::is(args) {
        return handover::apply(args, keyspace);
    }
    match effects::is(args) {
        true => effects::apply(args, keyspace),
        false => effects::run_write(args, keyspace, stamp),
    }
}

/// The same, unless the call is about slots that the group does not answer for: then nothing is done, and there is no reply.
pub fn apply_here(args: &Args, keyspace: &mut Keyspace, stamp: &Stamp) -> Option<Reply> {
    let elsewhere = keyspace.ownership().guards() && handover::is_elsewhere(args, keyspace.ownership());
    (!elsewhere).then(|| apply(args, keyspace, stamp))
}

/// Runs a read; anything else is an error.
pub fn read_with(args: &Args, view: &View<'_>) -> Reply {
    match lookup(args) {
        Ok(command) => match command.run {
            Run::Read(run) => run(args, view),
            _ => Reply::error("ERR only reads can be run on a view"),
        },
        Err(reply) => reply,
    }
}

#[cfg(test)]
mod tests;
