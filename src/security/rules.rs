//! The grammar of rules: what a word of ACL SETUSER does to a user, and what Redis says of one that does nothing.
//!
//! Words about the user (`on`, `>password`, ...) are read here; all else belongs to a selector and is read in
//! `selector`. A list of words is applied whole or not at all.

use super::selector::Selector;
use super::user::{HASH_BYTES, User, hash_of};
use crate::resp::split_words;
use bytes::Bytes;

/// Why a rule was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    #[error("Unknown command or category name in ACL")]
    Unknown,
    #[error("Syntax error")]
    Syntax,
    #[error(
        "Adding a pattern after the * pattern (or the 'allkeys' flag) is not valid and does not have any effect. Try \
         'resetkeys' to start with an empty list of patterns"
    )]
    AfterAllKeys,
    #[error(
        "Adding a pattern after the * pattern (or the 'allchannels' flag) is not valid and does not have any effect. \
         Try 'resetchannels' to start with an empty list of channels"
    )]
    AfterAllChannels,
    #[error("The password you are trying to remove from the user does not exist")]
    NoSuchPassword,
    #[error("The password hash must be exactly 64 characters and contain only lowercase hexadecimal characters")]
    BadHash,
    #[error("Allowing first-arg of a subcommand is not supported")]
    FirstArgOfSubcommand,
}

/// Why a list of rules was not applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetUserError {
    #[error("Error in ACL SETUSER modifier '{0}': {1}")]
    Rule(String, RuleError),
    #[error("Unmatched parenthesis in acl selector starting at '{0}'.")]
    Unmatched(String),
}

/// How a user's rules are read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Reading {
    /// As somebody wrote them: an unknown command is a mistake.
    Strict,
    /// As another node kept them, whose program may be newer: what is not known here is kept and means nothing.
    Kept,
}

/// C's `isspace`, and NUL: what no name and no pattern may hold, since rules are parted by spaces.
pub(super) fn has_spaces(text: &[u8]) -> bool {
    text.iter().any(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c | 0))
}

pub(super) fn is(word: &[u8], name: &str) -> bool {
    word.eq_ignore_ascii_case(name.as_bytes())
}

impl User {
    /// Applies the rules in their order. A selector may be spread over several words: `(`, ..., `)`.
    ///
    /// # Errors
    /// The first rule that is none; the user is as it was before.
    pub fn apply(&mut self, rules: &[Bytes]) -> Result<(), SetUserError> {
        let mut changed = self.clone();
        for rule in merge_selectors(rules)? {
            changed
                .apply_one(&rule)
                .map_err(|error| SetUserError::Rule(String::from_utf8_lossy(&rule).into_owned(), error))?;
        }
        *self = changed;
        Ok(())
    }

    fn apply_one(&mut self, rule: &[u8]) -> Result<(), RuleError> {
        match rule {
            [] => {}
            word if is(word, "on") => self.enabled = true,
            word if is(word, "off") => self.enabled = false,
            word if is(word, "skip-sanitize-payload") => self.skip_sanitize = true,
            word if is(word, "sanitize-payload") => self.skip_sanitize = false,
            word if is(word, "nopass") => self.forget_passwords(true),
            word if is(word, "resetpass") => self.forget_passwords(false),
            word if is(word, "clearselectors") => self.further.clear(),
            word if is(word, "reset") => *self = User::new(&self.name, self.born),
            [b'>', password @ ..] => self.add_password(hash_of(password)),
            [b'#', hash @ ..] => self.add_password(parse_hash(hash)?),
            [b'<', password @ ..] => self.remove_password(&hash_of(password))?,
            [b'!', hash @ ..] => self.remove_password(&parse_hash(hash)?)?,
            [b'(', inner @ .., b')'] => {
                let words = split_words(inner).ok_or(RuleError::Syntax)?;
                self.further.push(Selector::parse(words.iter().map(|word| &word[..]), Reading::Strict)?);
            }
            word => self.root.apply(word, Reading::Strict)?,
        }
        Ok(())
    }

    fn forget_passwords(&mut self, nopass: bool) {
        self.passwords.clear();
        self.nopass = nopass;
    }

    pub(super) fn add_password(&mut self, hash: [u8; HASH_BYTES]) {
        if !self.passwords.contains(&hash) {
            self.passwords.push(hash);
        }
        self.nopass = false;
    }

    fn remove_password(&mut self, hash: &[u8; HASH_BYTES]) -> Result<(), RuleError> {
        let at = self.passwords.iter().position(|known| known == hash).ok_or(RuleError::NoSuchPassword)?;
        self.passwords.remove(at);
        Ok(())
    }
}

pub(super) fn parse_hash(text: &[u8]) -> Result<[u8; HASH_BYTES], RuleError> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        b'a'..=b'f' => Ok(byte - b'a' + 10),
        _ => Err(RuleError::BadHash),
    };
    if text.len() != HASH_BYTES * 2 {
        return Err(RuleError::BadHash);
    }
    let mut hash = [0; HASH_BYTES];
    for (byte, pair) in hash.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Ok(hash)
}

/// Puts together what stands between parentheses, with a space where it was parted.
fn merge_selectors(rules: &[Bytes]) -> Result<Vec<Bytes>, SetUserError> {
    let mut merged = Vec::with_capacity(rules.len());
    let mut open: Option<(&Bytes, Vec<u8>)> = None;
    for rule in rules {
        match &mut open {
            None if rule.starts_with(b"(") && !rule.ends_with(b")") => open = Some((rule, rule.to_vec())),
            None => merged.push(rule.clone()),
            Some((_, text)) => {
                text.push(b' ');
                text.extend_from_slice(rule);
                if rule.ends_with(b")") {
                    merged.push(std::mem::take(text).into());
                    open = None;
                }
            }
        }
    }
    match open {
        None => Ok(merged),
        Some((start, _)) => Err(SetUserError::Unmatched(String::from_utf8_lossy(start).into_owned())),
    }
}
