//! The number of a command: its place in the tables. Bit sets and counters are indexed by it.
//!
//! Numbers hold while the process lives and are never written down: another version of the program has other tables.

use super::Command;
use std::sync::LazyLock;

/// A command's place in the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ordinal(u32);

struct Index {
    names: Vec<String>,
    commands: Vec<&'static Command>,
    /// Sorted by address: a look-up is a few comparisons, without hashing.
    by_address: Vec<(usize, Ordinal)>,
}

static INDEX: LazyLock<Index> = LazyLock::new(|| {
    let mut index = Index { names: Vec::new(), commands: Vec::new(), by_address: Vec::new() };
    for (name, command) in super::all() {
        index.by_address.push((std::ptr::from_ref(command).addr(), Ordinal(index.names.len() as u32)));
        index.names.push(name);
        index.commands.push(command);
    }
    index.by_address.sort_unstable_by_key(|(address, _)| *address);
    index
});

/// The number of `command`.
pub fn ordinal(command: &'static Command) -> Ordinal {
    let wanted = std::ptr::from_ref(command).addr();
    let found = INDEX.by_address.binary_search_by_key(&wanted, |(address, _)| *address);
    INDEX.by_address[found.expect("every command that can be looked up stands in a table")].1
}

/// The full name behind an ordinal, such as `client|list`.
pub fn name(ordinal: Ordinal) -> &'static str {
    &INDEX.names[ordinal.0 as usize]
}

/// Whether a command's own name is its full name: it is no subcommand.
pub fn is_whole_name(ordinal: Ordinal) -> bool {
    name(ordinal).len() == ordinal.command().spec.name.len()
}

/// How many commands there are, subcommands counted.
pub fn count() -> usize {
    INDEX.names.len()
}

/// All commands with their numbers, in the order of the tables.
pub fn numbered() -> impl Iterator<Item = (Ordinal, &'static str, &'static Command)> {
    let rows = INDEX.names.iter().zip(&INDEX.commands).enumerate();
    rows.map(|(at, (name, command))| (Ordinal(at as u32), name.as_str(), *command))
}

impl Ordinal {
    pub fn command(self) -> &'static Command {
        INDEX.commands[self.0 as usize]
    }

    pub fn to_u32(self) -> u32 {
        self.0
    }

    pub fn to_index(self) -> usize {
        self.0 as usize
    }

    pub fn from_u32(n: u32) -> Option<Ordinal> {
        ((n as usize) < count()).then_some(Ordinal(n))
    }
}
