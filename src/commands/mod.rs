//! The language: one file a family, each closed by its table.
//!
//! A command is a struct of its parsed arguments with one impl: its [`Spec`], `parse`, and the one function that
//! its kind gives. What the function is *given* tells the kind, so that the path through the log or the read index
//! cannot disagree with what the command does. Nothing here knows a socket, Raft or a clock.

use crate::resp::{Args, Reply};
use crate::state::{Keyspace, View};
use crate::types::Stamp;

/// What a command tells about itself. COMMAND, COMMAND DOCS, ACL categories, metric labels and `docs/commands.md`
/// are loops over these.
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

/// Where the keys stand in the argument vector.
#[derive(Clone, Copy)]
pub enum Keys {
    None,
    /// As in COMMAND INFO: `last` may count from the end when negative.
    Range { first: usize, last: i32, step: usize },
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
    /// A container such as CLIENT or OBJECT has its subcommands here and is never run itself.
    pub subcommands: &'static [Command],
}

/// The four kinds, told apart by what the function is given.
#[derive(Clone, Copy)]
pub enum Run {
    Read(fn(&Args, &View<'_>) -> Reply),
    Write(fn(&Args, &mut Keyspace, &Stamp) -> Reply),
    Session(fn(&Args, &mut session::Session) -> Reply),
    Node(fn(&Args, &dyn node::Node, &mut session::Session) -> Reply),
    Container,
}
