//! The check: may this user run this command with these arguments?
//!
//! For a user who may do anything it is three loads. For others it is one bit, and a walk over keys and patterns where
//! not all keys are theirs. Selectors are asked one after the other; what one of them allows as a whole is allowed.

use super::selector::Selector;
use super::user::User;
use crate::commands::ordinal::{Ordinal, name, ordinal};
use crate::commands::{Command, Keys};
use crate::commands::{access, sort};
use crate::resp::{Args, Reply};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Whatever the user, these may be said: they are how one becomes another user, or goes.
const ALWAYS: [&str; 4] = ["auth", "hello", "quit", "reset"];

/// What was not allowed. The later, the more was allowed before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Reason {
    Command,
    Key,
    Channel,
    /// The password was wrong, or there is no such user.
    Auth,
}

impl Reason {
    /// As ACL LOG says it.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Command => "command",
            Reason::Key => "key",
            Reason::Channel => "channel",
            Reason::Auth => "auth",
        }
    }
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    pub reason: Reason,
    pub user: String,
    /// The command's full name.
    pub command: &'static str,
    /// The command, key or channel that was refused.
    pub object: Bytes,
}

impl Denied {
    /// The answer to the client.
    pub fn reply(&self) -> Reply {
        Reply::error(format!("NOPERM {}", self.text()))
    }

    /// Without naming a key or channel.
    pub fn text(&self) -> String {
        match self.reason {
            Reason::Key => "No permissions to access a key".to_owned(),
            Reason::Channel => "No permissions to access a channel".to_owned(),
            Reason::Command | Reason::Auth => self.full_text(),
        }
    }

    /// Naming what was refused (ACL DRYRUN).
    pub fn full_text(&self) -> String {
        let (user, object) = (&self.user, String::from_utf8_lossy(&self.object));
        match self.reason {
            Reason::Key => format!("User {user} has no permissions to access the '{object}' key"),
            Reason::Channel => format!("User {user} has no permissions to access the '{object}' channel"),
            Reason::Command | Reason::Auth => {
                format!("User {user} has no permissions to run the '{}' command", self.command)
            }
        }
    }

    /// What EXEC answers in the place of a command that was allowed when it was queued.
    pub fn exec_reply(&self) -> Reply {
        let why = match self.reason {
            Reason::Command | Reason::Auth => "no permission to execute the command or subcommand",
            Reason::Key => "no permission to touch the specified keys",
            Reason::Channel => "no permission to access one of the channels used as arguments to the command",
        };
        Reply::error(format!(
            "NOPERM ACLs rules changed between the moment the transaction was accumulated and the EXEC call. This \
             command is no longer allowed for the following reason: {why}"
        ))
    }

    /// What redis.call answers a script.
    pub fn script_reply(&self) -> Reply {
        Reply::error(format!("NOPERM ACL failure in script: {}", self.text()))
    }
}

/// Whether the user may run the command with these arguments.
///
/// # Errors
/// What is not allowed.
pub fn check(user: &User, command: &'static Command, args: &Args) -> Result<(), Denied> {
    if user.root.is_all_powerful() {
        return Ok(());
    }
    check_selectors(user, command, args)
}

fn check_selectors(user: &User, command: &'static Command, args: &Args) -> Result<(), Denied> {
    let number = ordinal(command);
    let mut worst: Option<(Reason, usize, Bytes)> = None;
    for selector in user.selectors() {
        let Err((reason, at, object)) = check_one(selector, number, command, args) else { return Ok(()) };
        if worst.as_ref().is_none_or(|(known, last, _)| (reason, at) > (*known, *last)) {
            worst = Some((reason, at, object));
        }
    }
    let (reason, _, object) = worst.expect("a user has a root selector");
    Err(Denied { reason, user: user.name.clone(), command: name(number), object })
}

/// The refusal of a SORT whose options look at keys that are not among its arguments, unless whoever allows the command lets
/// every key be read. It is no refusal of the rules in Redis either: ACL LOG and ACL DRYRUN do not know it, and in a
/// transaction it shows when the command runs.
pub fn refused_beyond(user: &User, command: &'static Command, args: &Args) -> Option<Reply> {
    let option = sort::reads_beyond(command, args)?;
    let number = ordinal(command);
    let reads_all =
        |selector: &Selector| selector.reads_all_keys() && check_one(selector, number, command, args).is_ok();
    (!user.selectors().any(reads_all))
        .then(|| Reply::error(format!("ERR {option} option of SORT denied due to insufficient ACL permissions.")))
}

/// Why not, which of the command's keys or channels, and the thing itself.
fn check_one(
    selector: &Selector,
    number: Ordinal,
    command: &'static Command,
    args: &Args,
) -> Result<(), (Reason, usize, Bytes)> {
    let first_arg = args.get(1).map(|arg| &arg[..]);
    if !ALWAYS.contains(&command.spec.name) && !selector.allows_command(number, first_arg) {
        return Err((Reason::Command, 0, Bytes::from_static(name(number).as_bytes())));
    }
    if !selector.all_keys() && !matches!(command.spec.keys, Keys::None) {
        let refused =
            access::keys(command, args).enumerate().find(|(_, (key, wanted))| !selector.allows_key(key, *wanted));
        if let Some((at, (key, _))) = refused {
            return Err((Reason::Key, at, key.clone()));
        }
    }
    let (channels, are_patterns) = access::channels(command, args);
    let refused = channels.iter().enumerate().find(|(_, channel)| !selector.allows_channel(channel, are_patterns));
    match refused {
        Some((at, channel)) => Err((Reason::Channel, at, channel.clone())),
        None => Ok(()),
    }
}
