//! What CONFIG SET says to all nodes: memory, which events are told, and until when values stay packed.
//!
//! Each parameter is a document of the meta group, `config/<name>`, its text as CONFIG GET shows it. A node goes by what
//! its own replica of the meta group says; before that says anything, by its file.

use super::{Memory, packing};
use crate::resp::Args;
use crate::state::events::Classes;
use crate::state::{Packing, View};
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
    pub packing: Packing,
}

impl Agreed {
    /// Names and values, each under the name that its document has.
    fn documents(&self) -> impl Iterator<Item = (&'static str, String)> + '_ {
        let events = std::iter::once((EVENTS, self.events.letters()));
        let packing = packing::PARAMETERS.iter().map(|p| (p.number.name, (p.get)(&self.packing).to_string()));
        self.memory.parameters().chain(events).chain(packing)
    }

    /// Names, the older ones too, and values as CONFIG GET shows them.
    pub fn parameters(&self) -> impl Iterator<Item = (&'static str, String)> + '_ {
        self.documents().flat_map(|(name, value)| {
            let alias = packing::named(name).and_then(|p| p.number.alias);
            std::iter::once(name).chain(alias).map(move |name| (name, value.clone()))
        })
    }

    /// Whether this name is one of a parameter that is the same on all nodes.
    pub fn has_parameter(name: &str) -> bool {
        name == EVENTS || Memory::has_parameter(name) || packing::named(name).is_some()
    }

    /// Sets a parameter here; the error says what a value must be.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        if name == EVENTS {
            self.events = Classes::parse(value).ok_or("Invalid event class character. Use 'Ag$lshzxeKEtmdn'.")?;
            return Ok(());
        }
        let Some(parameter) = packing::named(name) else { return Ok(self.memory.set(name, value)?) };
        (parameter.set)(&mut self.packing, parameter.number.parse(value)?);
        Ok(())
    }

    /// The command on the meta group that makes these parameters what they are here, for all nodes at once. `verb`: MSET, or
    /// MSETNX for the very first time.
    pub fn write(&self, verb: &'static str, names: &[&str]) -> Args {
        let mut call = vec![Bytes::from_static(verb.as_bytes())];
        let named = |document: &str| names.iter().any(|name| packing::document(name) == document);
        for (name, value) in self.documents().filter(|(name, _)| named(name)) {
            call.push(Bytes::from(format!("{PREFIX}{name}")));
            call.push(Bytes::from(value));
        }
        call.into()
    }

    /// What a cluster begins with, for the very first time. Events are not in it: none are told unless somebody asks.
    pub(super) fn found(memory: Memory) -> Args {
        let names: Vec<&str> = memory.parameters().map(|(name, _)| name).collect();
        Agreed { memory, ..Agreed::default() }.write("MSETNX", &names)
    }

    /// What the meta group says; none before it says anything. A value that cannot be read leaves what it was by default.
    pub(super) fn read(view: &View<'_>) -> Option<Agreed> {
        let mut found = None;
        let names: Vec<&str> = Agreed::default().documents().map(|(name, _)| name).collect();
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
