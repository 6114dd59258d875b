//! What stands between `redis.call` and the overlay: which commands a script may run, and Redis' words where it may not.

use super::overlay::Overlay;
use crate::commands::pubsub::{self, Kind};
use crate::commands::session::Session;
use crate::commands::{self, Command, Run};
use crate::resp::{Args, Reply};
use crate::slot::slot_of;
use crate::types::Slot;
use bytes::Bytes;

/// What the user may do for whom a script runs: asked before each of its commands.
pub trait Rights {
    /// The answer to a command that the user may not run. Such a refusal is noted.
    fn refuse(&self, command: &'static Command, args: &Args) -> Option<Reply>;
    /// Whether the user may run it; noted nowhere.
    fn permit(&self, command: &'static Command, args: &Args) -> bool;
}

/// Hears of a command that was run, and whether it failed.
pub type Ran = Box<dyn Fn(&'static Command, &Args, bool)>;
/// Takes a message; how many would hear it.
pub type Publish = Box<dyn Fn(Kind, &Args) -> u64>;

/// What a script may do.
pub struct Rules {
    /// It came by a command that only reads, or says of itself that it does not write.
    pub read_only: bool,
    /// All keys must lie in one slot: a script that says what it is, in a cluster of several groups.
    pub one_slot: bool,
    /// Whether the group that runs the script has the keys of a slot.
    pub owns: Box<dyn Fn(Slot) -> bool>,
    /// Whether it has all slots: then SORT may read keys that its patterns name.
    pub owns_all: bool,
    /// None: the user may do everything.
    pub rights: Option<Box<dyn Rights>>,
    /// Is told of each command that was run, and whether it failed.
    pub ran: Ran,
    /// Takes a PUBLISH or SPUBLISH, to be carried out if what the script did counts. How many would hear it, as far as is known.
    pub publish: Publish,
}

impl Rules {
    /// Everything, on a group that has all slots.
    pub fn all() -> Rules {
        Rules {
            read_only: false,
            one_slot: false,
            owns: Box::new(|_| true),
            owns_all: true,
            rights: None,
            ran: Box::new(|_, _, _| ()),
            publish: Box::new(|_, _| 0),
        }
    }
}

/// See the head of this file.
pub struct Caller {
    pub overlay: Overlay,
    rules: Rules,
    slot: Option<Slot>,
    /// Bytes of what the script has published.
    published: usize,
}

/// Bytes of channels and messages that a script may publish, with what each costs beside them.
const PUBLISHED_BYTES_MAX: usize = 8 << 20;
/// What a message that is kept costs beside its words: an empty one is kept as well.
const MESSAGE_BYTES: usize = 128;

/// Session commands that have a meaning in a script.
const ALLOWED: [&str; 4] = ["command", "echo", "ping", "select"];

const UNKNOWN: &str = "ERR Unknown Redis command called from script";
const WRONG_NUMBER: &str = "ERR Wrong number of args calling Redis command from script";
const NOT_ALLOWED: &str = "ERR This Redis command is not allowed from script";
const READ_ONLY: &str = "ERR Write commands are not allowed from read-only scripts.";
const ELSEWHERE: &str = "ERR Script attempted to access a non local key in a cluster node";
/// What a SORT is told whose patterns may name keys of other groups.
pub const SORT_ELSEWHERE: &str = "ERR BY option of SORT denied in cluster mode.";
const SEVERAL_SLOTS: &str = "ERR Script attempted to access keys that do not hash to the same slot";

impl Caller {
    pub fn new(overlay: Overlay, rules: Rules) -> Caller {
        Caller { overlay, rules, slot: None, published: 0 }
    }

    /// The overlay, and what it was asked for so far, for the next script.
    pub fn into_overlay(self) -> Overlay {
        self.overlay
    }

    /// Runs one command for the script. Any refusal is an error reply.
    pub fn call(&mut self, args: &Args) -> Reply {
        let name = args.first().map_or(&b""[..], |name| name);
        let Some(base) = commands::by_name(name) else { return Reply::error(UNKNOWN) };
        let command = match commands::lookup(args) {
            Ok(command) => command,
            Err(Reply::Error(text)) if text.starts_with(b"ERR wrong number") => return Reply::error(WRONG_NUMBER),
            Err(_) => return Reply::error(UNKNOWN),
        };
        let is_time = matches!(command.run, Run::Node(_)) && base.spec.name == "time";
        let publishes = pubsub::publishes(command);
        let allowed = match command.run {
            Run::Read(_) | Run::Write(_) => true,
            Run::Session(_) => ALLOWED.contains(&base.spec.name),
            _ => is_time || publishes.is_some(),
        };
        if !allowed {
            return Reply::error(NOT_ALLOWED);
        }
        // As in Redis 7.2 a pop that would wait does not, and XREAD must not be asked to.
        if let Some(blocks) = command.blocks.filter(|_| ["xread", "xreadgroup"].contains(&base.spec.name))
            && (command.check)(args).is_ok()
            && (blocks.timeout)(args).is_some()
        {
            let name = String::from_utf8_lossy(name);
            return Reply::error(format!("ERR {name} command is not allowed with BLOCK option from scripts"));
        }
        if let Some(refused) = self.rules.rights.as_ref().and_then(|rights| rights.refuse(command, args)) {
            return refused;
        }
        let reply = match command.run {
            Run::Session(run) => run(args, &mut Session::default()),
            Run::Node(_) => match publishes {
                Some(kind) => self.publish(kind, args),
                None => self.time(),
            },
            _ => self.call_on_keys(command, args),
        };
        (self.rules.ran)(command, args, reply.is_error());
        reply
    }

    /// Whether the user may run this command; none if there is no such command.
    pub fn permits(&self, args: &Args) -> Option<bool> {
        let name = args.first().map_or(&b""[..], |name| name);
        let base = commands::by_name(name)?;
        let command = match args.get(1) {
            Some(word) if !base.subcommands.is_empty() => commands::subcommand(base, word)?,
            _ => base,
        };
        Some(self.rules.rights.as_ref().is_none_or(|rights| rights.permit(command, args)))
    }

    fn call_on_keys(&mut self, command: &'static Command, args: &Args) -> Reply {
        if command.is_write() && self.rules.read_only {
            return Reply::error(READ_ONLY);
        }
        if !self.rules.owns_all && commands::sort::reaches_elsewhere(command, args) {
            return Reply::error(SORT_ELSEWHERE);
        }
        for key in commands::keys(command, args) {
            let slot = slot_of(key);
            if !(self.rules.owns)(slot) {
                return Reply::error(ELSEWHERE);
            }
            if self.rules.one_slot && *self.slot.get_or_insert(slot) != slot {
                return Reply::error(SEVERAL_SLOTS);
            }
        }
        self.overlay.run(command, args)
    }

    /// As in Redis, a script that only reads says nothing either.
    fn publish(&mut self, kind: Kind, args: &Args) -> Reply {
        if self.rules.read_only {
            return Reply::error(READ_ONLY);
        }
        let bytes = MESSAGE_BYTES + args.iter().map(|arg| arg.len()).sum::<usize>();
        if self.published + bytes > PUBLISHED_BYTES_MAX {
            return Reply::error("ERR the script publishes more than scripts may (8 MiB)");
        }
        self.published += bytes;
        self.overlay.charge(bytes as u64);
        Reply::Int((self.rules.publish)(kind, args) as i64)
    }

    /// TIME: the group's clock, which stands still while a script runs.
    fn time(&self) -> Reply {
        let clock = self.overlay.clock();
        let part = |number: u64| Reply::Bulk(Bytes::from(number.to_string()));
        Reply::Array(vec![part(clock / 1000), part(clock % 1000 * 1000)])
    }
}
