//! A user: who proves with which password that it is this one, and what it may do.
//!
//! ```text
//!   1\n <born, 16 digits>\n <flags, passwords, root selector>\n <further selector>\n ...     the document in the meta group
//! ```
//!
//! One selector a line, because a pattern may hold parentheses and no rule may hold a line's end.

use super::rules::{Reading, RuleError, has_spaces, parse_hash};
use super::selector::Selector;
use crate::commands::access::{Categories, categories};
use crate::commands::ordinal::numbered;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;

/// Bytes of a password's SHA-256.
pub(super) const HASH_BYTES: usize = 32;
/// Longest name of a user, in bytes.
pub const NAME_BYTES_MAX: usize = 512;
/// The version of the document's form.
const VERSION: &[u8] = b"1";

/// What is kept of a password.
pub fn hash_of(password: &[u8]) -> [u8; HASH_BYTES] {
    Sha256::digest(password).into()
}

/// A user, as all nodes know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub(super) name: String,
    /// Tells this user from an earlier one of the same name: connections belong to the one they proved to be.
    pub(super) born: u64,
    pub(super) enabled: bool,
    pub(super) nopass: bool,
    pub(super) skip_sanitize: bool,
    pub(super) passwords: Vec<[u8; HASH_BYTES]>,
    pub(super) root: Selector,
    pub(super) further: Vec<Selector>,
}

impl User {
    /// A fresh user: off, without password, allowed nothing.
    pub fn new(name: &str, born: u64) -> User {
        User {
            name: name.to_owned(),
            born,
            enabled: false,
            nopass: false,
            skip_sanitize: false,
            passwords: Vec::new(),
            root: Selector::default(),
            further: Vec::new(),
        }
    }

    /// A user that needs no password and may do anything: `default`, where nothing else was said.
    pub fn all_powerful(name: &str, born: u64) -> User {
        let mut user = User::new(name, born);
        let rules = ["+@all", "~*", "&*", "on", "nopass"].map(|rule| Bytes::from_static(rule.as_bytes()));
        user.apply(&rules).expect("these are rules, which a test checks");
        user
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn born(&self) -> u64 {
        self.born
    }

    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Whether nobody needs to prove anything to be this user.
    pub fn is_open(&self) -> bool {
        self.enabled && self.nopass
    }

    pub fn has_nopass(&self) -> bool {
        self.nopass
    }

    /// Whether this is the user's password, and the user may come in at all. Takes as long for a wrong one as for the
    /// right one.
    pub fn admits(&self, password: &[u8]) -> bool {
        let hash = hash_of(password);
        let differs = |known: &[u8; HASH_BYTES]| known.iter().zip(&hash).fold(0, |diff, (a, b)| diff | (a ^ b));
        let right = self.passwords.iter().fold(false, |found, known| found | (differs(known) == 0));
        self.enabled & (self.nopass | right)
    }

    /// The root selector, which the rules outside of parentheses are about.
    pub fn root(&self) -> &Selector {
        &self.root
    }

    /// The selectors in parentheses.
    pub fn further(&self) -> &[Selector] {
        &self.further
    }

    pub(super) fn selectors(&self) -> impl Iterator<Item = &Selector> {
        std::iter::once(&self.root).chain(&self.further)
    }

    /// Whether there is nothing that this user may not do.
    pub fn is_all_powerful(&self) -> bool {
        self.root.is_all_powerful()
    }

    /// Whether this user may run every command for administrators.
    pub fn may_administer(&self) -> bool {
        let admin = Categories::named(b"admin").expect("there is such a category");
        let all = |selector: &Selector| {
            let mut wanted = numbered().filter(|(_, _, command)| categories(command).has(admin));
            wanted.all(|(ordinal, _, _)| selector.allows_command(ordinal, None))
        };
        self.selectors().any(all)
    }

    /// The flags, in Redis' order.
    pub fn flags(&self) -> Vec<&'static str> {
        let mut flags = vec![if self.enabled { "on" } else { "off" }];
        if self.nopass {
            flags.push("nopass");
        }
        flags.push(if self.skip_sanitize { "skip-sanitize-payload" } else { "sanitize-payload" });
        flags
    }

    /// The passwords' hashes in hexadecimal digits.
    pub fn hashes(&self) -> Vec<String> {
        self.passwords.iter().map(hex).collect()
    }

    /// Flags, passwords and the root selector.
    fn root_text(&self) -> Vec<u8> {
        let mut words: Vec<Vec<u8>> = self.flags().into_iter().map(|flag| flag.as_bytes().to_vec()).collect();
        words.extend(self.hashes().into_iter().map(|hash| format!("#{hash}").into_bytes()));
        words.push(self.root.text());
        words.join(&b' ')
    }

    /// The rules that make this user out of a fresh one, as ACL LIST shows them behind the name.
    pub fn text(&self) -> Vec<u8> {
        let mut text = self.root_text();
        for selector in &self.further {
            text.extend_from_slice(b" (");
            text.extend_from_slice(&selector.text());
            text.push(b')');
        }
        text
    }

    /// The same user without what it proves itself with: enough to check what it may do.
    pub fn without_passwords(&self) -> User {
        User { passwords: Vec::new(), ..self.clone() }
    }

    /// What is kept in the meta group.
    pub fn document(&self) -> Bytes {
        let mut lines = vec![VERSION.to_vec(), format!("{:016x}", self.born).into_bytes(), self.root_text()];
        lines.extend(self.further.iter().map(Selector::text));
        lines.join(&b'\n').into()
    }

    /// The user of a document. Commands that this program does not know are kept in its rules and mean nothing.
    ///
    /// # Errors
    /// What is wrong with the document.
    pub fn parse(name: &str, document: &[u8]) -> Result<User, String> {
        let mut lines = document.split(|b| *b == b'\n');
        let version = lines.next().unwrap_or_default();
        if version != VERSION {
            let found = String::from_utf8_lossy(version);
            return Err(format!("the user {name} has version {found}, this program knows 1"));
        }
        let born = lines.next().and_then(|line| u64::from_str_radix(std::str::from_utf8(line).ok()?, 16).ok());
        let mut user = User::new(name, born.ok_or_else(|| format!("the user {name} has no birth"))?);
        let wrong = |error: RuleError| format!("the user {name}: {error}");
        for word in words(lines.next().ok_or_else(|| format!("the user {name} has no rules"))?) {
            match word {
                b"on" => user.enabled = true,
                b"off" => user.enabled = false,
                b"nopass" => user.nopass = true,
                b"skip-sanitize-payload" => user.skip_sanitize = true,
                b"sanitize-payload" => user.skip_sanitize = false,
                [b'#', hash @ ..] => user.add_password(parse_hash(hash).map_err(wrong)?),
                rule => user.root.apply(rule, Reading::Kept).map_err(wrong)?,
            }
        }
        for line in lines {
            user.further.push(Selector::parse(words(line), Reading::Kept).map_err(wrong)?);
        }
        Ok(user)
    }

    /// Whether a user may be called that; the error is Redis', or says what is ours.
    pub fn check_name(name: &[u8]) -> Result<&str, &'static str> {
        if has_spaces(name) {
            return Err("Usernames can't contain spaces or null characters");
        }
        if name.len() > NAME_BYTES_MAX {
            return Err("Usernames can't be longer than 512 bytes");
        }
        std::str::from_utf8(name).map_err(|_| "Usernames must be UTF-8")
    }
}

fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|b| *b == b' ').filter(|word| !word.is_empty())
}

fn hex(hash: &[u8; HASH_BYTES]) -> String {
    hash.iter().fold(String::with_capacity(HASH_BYTES * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
