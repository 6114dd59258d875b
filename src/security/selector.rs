//! One set of permissions: commands, key patterns, channel patterns. A user has a root selector and any number beside it;
//! what one of them allows as a whole is allowed.
//!
//! ```text
//!   "+@read -keys +config|get +select|0"
//!        |-> rules       kept in their order, for ACL LIST and for a program with other commands
//!        '-> allowed     a bit a command of this program, which the check looks at
//! ```
//!
//! Invariant: `allowed`, `every_command` and `first_args` are what `rules` make of `+@all` or `-@all`.

use super::rules::{Reading, RuleError, has_spaces, is};
use crate::commands::access::{Categories, KeyAccess, categories};
use crate::commands::ordinal::{self, Ordinal, numbered, ordinal};
use crate::commands::{self, Command, glob};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// What may be done with keys of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
struct KeyPattern {
    pattern: Bytes,
    access: KeyAccess,
}

/// `+name` or `-name`, in lower case; a category begins with `@`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    allow: bool,
    name: Vec<u8>,
}

/// A set of permissions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    all_keys: bool,
    keys: Vec<KeyPattern>,
    all_channels: bool,
    channels: Vec<Bytes>,
    /// Began with `+@all`: commands of later versions are allowed, too.
    future: bool,
    /// All bits are set, those of no command included: none needs to be looked at.
    every_command: bool,
    rules: Vec<Rule>,
    allowed: Vec<u64>,
    /// Commands that are allowed with these first arguments alone.
    first_args: BTreeMap<Ordinal, BTreeSet<Vec<u8>>>,
}

impl Default for Selector {
    /// Nothing at all.
    fn default() -> Selector {
        Selector {
            all_keys: false,
            keys: Vec::new(),
            all_channels: false,
            channels: Vec::new(),
            future: false,
            every_command: false,
            rules: Vec::new(),
            allowed: vec![0; ordinal::count().div_ceil(64)],
            first_args: BTreeMap::new(),
        }
    }
}

/// The command of a rule: `get`, or `config|get`.
fn command_named(name: &[u8]) -> Option<&'static Command> {
    let mut words = name.split(|b| *b == b'|');
    let base = commands::by_name(words.next()?)?;
    let command = match words.next() {
        None => base,
        Some(word) => commands::subcommand(base, word)?,
    };
    words.next().is_none().then_some(command)
}

impl Selector {
    /// A selector of these rules.
    pub(super) fn parse<'a>(words: impl Iterator<Item = &'a [u8]>, reading: Reading) -> Result<Selector, RuleError> {
        let mut selector = Selector::default();
        for word in words {
            selector.apply(word, reading)?;
        }
        Ok(selector)
    }

    pub(super) fn apply(&mut self, rule: &[u8], reading: Reading) -> Result<(), RuleError> {
        match rule {
            word if is(word, "allkeys") || word == b"~*" => {
                self.all_keys = true;
                self.keys.clear();
            }
            word if is(word, "resetkeys") => {
                self.all_keys = false;
                self.keys.clear();
            }
            word if is(word, "allchannels") || word == b"&*" => {
                self.all_channels = true;
                self.channels.clear();
            }
            word if is(word, "resetchannels") => {
                self.all_channels = false;
                self.channels.clear();
            }
            word if is(word, "allcommands") || is(word, "+@all") => self.begin_with(true),
            word if is(word, "nocommands") || is(word, "-@all") => self.begin_with(false),
            [b'~' | b'%', ..] => self.add_keys(rule)?,
            [b'&', pattern @ ..] => self.add_channels(pattern)?,
            [sign @ (b'+' | b'-'), b'@', category @ ..] => self.change_category(*sign == b'+', category, reading)?,
            [b'+', name @ ..] => self.allow(name, reading)?,
            [b'-', name @ ..] => self.deny(name, reading)?,
            _ => return Err(RuleError::Syntax),
        }
        Ok(())
    }

    fn begin_with(&mut self, all: bool) {
        self.future = all;
        self.every_command = all;
        self.allowed.fill(if all { u64::MAX } else { 0 });
        self.rules.clear();
        self.first_args.clear();
    }

    fn add_keys(&mut self, rule: &[u8]) -> Result<(), RuleError> {
        if self.all_keys {
            return Err(RuleError::AfterAllKeys);
        }
        let (access, pattern) = match rule {
            [b'~', pattern @ ..] => (KeyAccess { read: true, write: true }, pattern),
            rule => {
                let end = rule.iter().position(|b| *b == b'~').ok_or(RuleError::Syntax)?;
                let mut access = KeyAccess::default();
                for letter in &rule[1..end] {
                    match letter.to_ascii_uppercase() {
                        b'R' if !access.read => access.read = true,
                        b'W' if !access.write => access.write = true,
                        _ => return Err(RuleError::Syntax),
                    }
                }
                if access == KeyAccess::default() {
                    return Err(RuleError::Syntax);
                }
                (access, &rule[end + 1..])
            }
        };
        if has_spaces(pattern) {
            return Err(RuleError::Syntax);
        }
        if pattern == b"*" && access.read && access.write {
            // `%RW~*` is another way to say `~*`.
            self.all_keys = true;
            self.keys.clear();
            return Ok(());
        }
        match self.keys.iter_mut().find(|known| known.pattern == pattern) {
            Some(known) => {
                known.access.read |= access.read;
                known.access.write |= access.write;
            }
            None => self.keys.push(KeyPattern { pattern: Bytes::copy_from_slice(pattern), access }),
        }
        Ok(())
    }

    fn add_channels(&mut self, pattern: &[u8]) -> Result<(), RuleError> {
        if self.all_channels {
            return Err(RuleError::AfterAllChannels);
        }
        if has_spaces(pattern) {
            return Err(RuleError::Syntax);
        }
        if !self.channels.iter().any(|known| known == pattern) {
            self.channels.push(Bytes::copy_from_slice(pattern));
        }
        Ok(())
    }

    fn change_category(&mut self, allow: bool, category: &[u8], reading: Reading) -> Result<(), RuleError> {
        match Categories::named(category) {
            Some(wanted) => {
                for (_, _, command) in numbered().filter(|(_, _, command)| categories(command).has(wanted)) {
                    self.change(command, allow);
                }
            }
            None if reading == Reading::Kept => {}
            None => return Err(RuleError::Unknown),
        }
        self.keep_rule(allow, &[b"@", category].concat());
        Ok(())
    }

    fn allow(&mut self, name: &[u8], reading: Reading) -> Result<(), RuleError> {
        let Some(at) = name.iter().rposition(|b| *b == b'|') else { return self.change_named(true, name, reading) };
        let (base, first_arg) = (&name[..at], &name[at + 1..]);
        let Some(command) = command_named(base) else {
            if reading == Reading::Strict {
                return Err(RuleError::Unknown);
            }
            self.keep_rule(true, name);
            return Ok(());
        };
        if base.contains(&b'|') {
            return Err(RuleError::FirstArgOfSubcommand);
        }
        if first_arg.is_empty() || has_spaces(first_arg) {
            return Err(RuleError::Syntax);
        }
        if !command.subcommands.is_empty() {
            return self.change_named(true, name, reading);
        }
        self.first_args.entry(ordinal(command)).or_default().insert(first_arg.to_ascii_lowercase());
        self.keep_rule(true, name);
        Ok(())
    }

    fn deny(&mut self, name: &[u8], reading: Reading) -> Result<(), RuleError> {
        self.change_named(false, name, reading)
    }

    fn change_named(&mut self, allow: bool, name: &[u8], reading: Reading) -> Result<(), RuleError> {
        match command_named(name) {
            Some(command) => self.change(command, allow),
            None if reading == Reading::Kept => {}
            None => return Err(RuleError::Unknown),
        }
        self.keep_rule(allow, name);
        Ok(())
    }

    /// Sets the bits of a command and of its subcommands.
    fn change(&mut self, command: &'static Command, allow: bool) {
        for one in std::iter::once(command).chain(command.subcommands) {
            let at = ordinal(one).to_index();
            let bit = 1 << (at % 64);
            if allow {
                self.allowed[at / 64] |= bit;
            } else {
                self.allowed[at / 64] &= !bit;
            }
        }
        self.every_command = self.allowed.iter().all(|word| *word == u64::MAX);
        self.first_args.remove(&ordinal(command));
    }

    /// Puts a rule last. Earlier ones about the same, or about a part of it, have no effect any more and go.
    fn keep_rule(&mut self, allow: bool, name: &[u8]) {
        let name = name.to_ascii_lowercase();
        self.rules.retain(|rule| {
            let covered = rule.name.strip_prefix(&name[..]);
            !covered.is_some_and(|rest| rest.is_empty() || rest[0] == b'|')
        });
        self.rules.push(Rule { allow, name });
    }

    // --- what the check asks -----------------------------------------------------------------------------------

    /// Anything with anything.
    pub(super) fn is_all_powerful(&self) -> bool {
        self.every_command && self.all_keys && self.all_channels
    }

    pub(super) fn allows_command(&self, ordinal: Ordinal, first_arg: Option<&[u8]>) -> bool {
        let at = ordinal.to_index();
        if self.every_command || self.allowed[at / 64] & (1 << (at % 64)) != 0 {
            return true;
        }
        let Some((known, arg)) = self.first_args.get(&ordinal).zip(first_arg) else { return false };
        known.contains(&arg.to_ascii_lowercase())
    }

    pub(super) fn all_keys(&self) -> bool {
        self.all_keys
    }

    /// Whether any key may be read, whatever its name.
    pub(super) fn reads_all_keys(&self) -> bool {
        self.all_keys || self.keys.iter().any(|known| known.access.read && &known.pattern[..] == b"*")
    }

    pub(super) fn allows_key(&self, key: &[u8], wanted: KeyAccess) -> bool {
        self.all_keys
            || self.keys.iter().any(|known| {
                (known.access.read || !wanted.read)
                    && (known.access.write || !wanted.write)
                    && glob::matches(&known.pattern, key)
            })
    }

    /// A pattern must be one of those allowed, to the letter; a channel must be matched by one.
    pub(super) fn allows_channel(&self, channel: &[u8], is_pattern: bool) -> bool {
        let fits = |known: &Bytes| if is_pattern { known == channel } else { glob::matches(known, channel) };
        self.all_channels || self.channels.iter().any(fits)
    }

    // --- what it looks like ------------------------------------------------------------------------------------

    /// The field `commands` of ACL GETUSER.
    pub fn commands_text(&self) -> Vec<u8> {
        let mut text = if self.future { b"+@all".to_vec() } else { b"-@all".to_vec() };
        for rule in &self.rules {
            text.extend_from_slice(if rule.allow { b" +" } else { b" -" });
            text.extend_from_slice(&rule.name);
        }
        text
    }

    /// The field `keys` of ACL GETUSER.
    pub fn keys_text(&self) -> Vec<u8> {
        if self.all_keys {
            return b"~*".to_vec();
        }
        let one = |known: &KeyPattern| {
            let sign: &[u8] = match (known.access.read, known.access.write) {
                (true, true) => b"~",
                (true, false) => b"%R~",
                (false, _) => b"%W~",
            };
            [sign, &known.pattern].concat()
        };
        self.keys.iter().map(one).collect::<Vec<_>>().join(&b' ')
    }

    /// The field `channels` of ACL GETUSER.
    pub fn channels_text(&self) -> Vec<u8> {
        if self.all_channels {
            return b"&*".to_vec();
        }
        self.channels.iter().map(|known| [b"&", &known[..]].concat()).collect::<Vec<_>>().join(&b' ')
    }

    /// As in ACL LIST: the rules that make this selector out of one that allows nothing.
    pub(super) fn text(&self) -> Vec<u8> {
        let mut text = self.keys_text();
        if !text.is_empty() {
            text.push(b' ');
        }
        if !self.all_channels {
            text.extend_from_slice(b"resetchannels ");
        }
        let channels = self.channels_text();
        text.extend_from_slice(&channels);
        if !channels.is_empty() {
            text.push(b' ');
        }
        text.extend_from_slice(&self.commands_text());
        text
    }
}
