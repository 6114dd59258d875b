//! What CONFIG SET says to all nodes: memory, and which events are told.
//!
//! Each parameter is a document of the meta group, `config/<name>`, its text as CONFIG GET shows it. A node goes by what
//! its own replica of the meta group says; before that says anything, by its file.

use super::Memory;
use crate::resp::Args;
use crate::state::View;
use crate::state::events::Classes;
use bytes::Bytes;

/// The parameter of [`Agreed::events`].
const EVENTS: &str = "notify-keyspace-events";
/// Before the names of parameters.
const PREFIX: &str = "config/";

/// The cluster's settings that are the same on all nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Agreed {
    pub memory: Memory,
    pub events: Classes,
}

impl Agreed {
    /// Names and values; those of memory in order of names.
    pub fn parameters(&self) -> impl Iterator<Item = (&'static str, String)> + '_ {
        self.memory.parameters().chain(std::iter::once((EVENTS, self.events.letters())))
    }

    /// Whether this name is one of a parameter that is the same on all nodes.
    pub fn has_parameter(name: &str) -> bool {
        name == EVENTS || Memory::has_parameter(name)
    }

    /// Sets a parameter here; the error says what a value must be.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), &'static str> {
        if name != EVENTS {
            return self.memory.set(name, value);
        }
        self.events = Classes::parse(value).ok_or("Invalid event class character. Use 'Ag$lshzxeKEtmdn'.")?;
        Ok(())
    }

    /// The command on the meta group that makes these parameters what they are here, for all nodes at once. `verb`: MSET, or
    /// MSETNX for the very first time.
    pub fn write(&self, verb: &'static str, names: &[&str]) -> Args {
        let mut call: Args = std::iter::once(Bytes::from_static(verb.as_bytes())).collect();
        for (name, value) in self.parameters().filter(|(name, _)| names.contains(name)) {
            call.push(Bytes::from(format!("{PREFIX}{name}")));
            call.push(Bytes::from(value));
        }
        call
    }

    /// What a cluster begins with, for the very first time. Events are not in it: none are told unless somebody asks.
    pub(super) fn found(memory: Memory) -> Args {
        let names: Vec<&str> = memory.parameters().map(|(name, _)| name).collect();
        Agreed { memory, ..Agreed::default() }.write("MSETNX", &names)
    }

    /// What the meta group says; none before it says anything. A value that cannot be read leaves what it was by default.
    pub(super) fn read(view: &View<'_>) -> Option<Agreed> {
        let mut found = None;
        let names: Vec<&str> = Agreed::default().parameters().map(|(name, _)| name).collect();
        for name in names {
            let Some(text) = view.get(format!("{PREFIX}{name}").as_bytes()).and_then(|e| e.value().as_text()) else {
                continue;
            };
            let agreed = found.get_or_insert_with(Agreed::default);
            if let Err(why) = agreed.set(name, &String::from_utf8_lossy(&text)) {
                tracing::error!(parameter = name, why, "meta-document-unreadable");
            }
        }
        found
    }
}
