//! What is run where a group is led: scripts, transactions with scripts among their commands, and for whom. It travels
//! between nodes as it stands here.

use crate::commands::Command;
use crate::commands::atomic::Watches;
use crate::commands::ordinal::{self, ordinal};
use crate::raft::Outcome;
use crate::resp::{Args, Reply};
use crate::scripting::{Flags, Rights};
use crate::security::{Context, Event, Reason, Registry, User, check, refused_beyond};
use crate::types::Author;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// Refusals of one script that are noted.
const REFUSED_MAX: usize = 16;
/// Commands of one script that are shown, and bytes of their arguments.
const SHOWN_MAX: (usize, usize) = (1000, 1 << 20);

/// A user who may not do everything, as the node that was asked knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in super::super) struct By {
    pub user: String,
    /// The user's document, without passwords.
    pub rules: Bytes,
    /// The client as ACL LOG shows it.
    pub client: String,
}

impl By {
    pub fn new(user: &User, client: String) -> By {
        By { user: user.name().to_owned(), rules: user.without_passwords().document(), client }
    }

    /// The user. One whose rules cannot be read may do nothing.
    pub fn to_user(&self) -> Arc<User> {
        Arc::new(User::parse(&self.user, &self.rules).unwrap_or_else(|_| User::new(&self.user, 0)))
    }
}

/// Whom something is run for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(in super::super) struct Who {
    /// The user, if it may not do everything.
    pub by: Option<By>,
    /// The connection, if it does not want to be told of what it changes.
    pub author: Option<Author>,
}

/// A command that a script was not allowed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Refused {
    reason: Reason,
    /// The command's full name.
    command: String,
    object: Bytes,
}

impl Refused {
    /// Puts it into the ACL LOG of the node that was asked.
    pub fn note(self, registry: &Registry, now_ms: u64, by: &By) {
        let named = ordinal::numbered().find(|(_, name, _)| *name == self.command);
        let command = named.map_or("eval", |(_, name, _)| name);
        let (reason, context, object) = (self.reason, Context::Lua, self.object);
        let event = Event { reason, context, object, username: by.user.clone(), client: by.client.clone() };
        registry.note(now_ms, command, event);
    }
}

/// What a run leaves beside its reply, for the node that was asked.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Beside {
    pub refused: Vec<Refused>,
    /// What it published, in its order, each as its PUBLISH or SPUBLISH.
    published: Vec<Vec<Bytes>>,
    /// The commands it ran, for those who monitor.
    pub shown: Vec<Vec<Bytes>>,
    shown_bytes: usize,
    /// How many more there were.
    pub not_shown: u64,
}

impl Beside {
    pub fn publish(&mut self, call: &Args) {
        self.published.push(call.to_vec());
    }

    pub fn show(&mut self, call: &Args) {
        let bytes: usize = call.iter().map(|arg| arg.len()).sum();
        if self.shown.len() < SHOWN_MAX.0 && self.shown_bytes + bytes <= SHOWN_MAX.1 {
            self.shown_bytes += bytes;
            self.shown.push(call.to_vec());
        } else {
            self.not_shown += 1;
        }
    }

    /// What was run counts for nothing: what it published is not said.
    pub fn take_back(&mut self) {
        self.published = Vec::new();
    }

    /// What is to be said now.
    pub fn take_published(&mut self) -> Vec<Args> {
        std::mem::take(&mut self.published).into_iter().map(Args::from).collect()
    }

    /// Adds what a later run left.
    pub fn append(&mut self, later: Beside) {
        self.refused.extend(later.refused);
        self.published.extend(later.published);
        self.shown.extend(later.shown);
        self.not_shown += later.not_shown;
    }
}

/// The rights of a user, and where is noted what was refused because of them.
pub(super) struct RightsOf {
    pub user: Arc<User>,
    pub beside: Rc<RefCell<Beside>>,
}

impl Rights for RightsOf {
    fn refuse(&self, command: &'static Command, args: &Args) -> Option<Reply> {
        let Err(denied) = check(&self.user, command, args) else {
            return refused_beyond(&self.user, command, args);
        };
        let refused = &mut self.beside.borrow_mut().refused;
        if refused.len() < REFUSED_MAX {
            let (reason, object) = (denied.reason, denied.object.clone());
            refused.push(Refused { reason, command: ordinal::name(ordinal(command)).to_owned(), object });
        }
        Some(denied.script_reply())
    }

    fn permit(&self, command: &'static Command, args: &Args) -> bool {
        check(&self.user, command, args).is_ok()
    }
}

/// What a program is; each kind has its own order to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    Script,
    Function,
}

impl Kind {
    pub fn other(self) -> Kind {
        match self {
            Kind::Script => Kind::Function,
            Kind::Function => Kind::Script,
        }
    }

    /// The answer to what may not be said while one of this kind runs.
    pub fn busy(self) -> Reply {
        let kill = match self {
            Kind::Script => "SCRIPT KILL",
            Kind::Function => "FUNCTION KILL",
        };
        Reply::error(format!("BUSY Redis is busy running a script. You can only call {kill} or SHUTDOWN NOSAVE."))
    }
}

/// What a call runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Program {
    /// A script by its name; its text, unless that is the second word.
    Script { sha: String, body: Option<Bytes> },
    Function {
        library: String,
        /// Of the library's code.
        sha: String,
        function: String,
        flags: Flags,
        /// Here alone: nodes know their libraries by themselves.
        #[serde(skip)]
        code: Bytes,
        /// The code for a node that does not know it.
        sent: Option<Bytes>,
    },
}

impl Program {
    /// Sends the code along.
    fn send_code(&mut self) {
        if let Program::Function { code, sent, .. } = self {
            *sent = Some(code.clone());
        }
    }

    /// Finds the code of a function that came without it; false if there is none with its name here.
    fn find_code(&mut self, known: impl Fn(&str, &str) -> Option<Bytes>) -> bool {
        let Program::Function { library, sha, code, sent, .. } = self else { return true };
        match sent.take().or_else(|| known(library, sha)) {
            Some(found) => *code = found,
            None => return false,
        }
        true
    }
}

/// A call of a script with everything that running it takes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ScriptCall {
    pub program: Program,
    /// The command as the client sent it: name, script, number of keys, keys, arguments.
    pub words: Vec<Bytes>,
    /// How many keys there are.
    pub keys: usize,
    /// The command that it came by only reads.
    pub read_only: bool,
}

impl ScriptCall {
    pub fn keys(&self) -> &[Bytes] {
        &self.words[3..3 + self.keys]
    }

    pub fn args(&self) -> &[Bytes] {
        &self.words[3 + self.keys..]
    }

    /// Whether [`ScriptCall::keys`] and [`ScriptCall::args`] are there.
    fn is_whole(&self) -> bool {
        self.words.len() >= 3 && self.keys <= self.words.len() - 3
    }
}

/// One command of a transaction.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Step {
    /// About keys, or a message.
    Command(Vec<Bytes>),
    Script(ScriptCall),
    /// What was wrong with it, known before.
    Settled(Reply),
}

/// What runs as one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Work {
    Script(ScriptCall),
    /// EXEC with scripts among its commands, if the watched keys are as they were seen.
    Transaction {
        watches: Watches,
        steps: Vec<Step>,
    },
}

impl Work {
    fn programs(&mut self) -> impl Iterator<Item = &mut Program> {
        let (one, several) = match self {
            Work::Script(call) => (Some(&mut call.program), None),
            Work::Transaction { steps, .. } => (None, Some(steps)),
        };
        let steps = several.into_iter().flatten();
        let of_steps =
            steps.filter_map(|step| if let Step::Script(call) = step { Some(&mut call.program) } else { None });
        one.into_iter().chain(of_steps)
    }

    /// Has the code of functions sent along.
    pub fn send_code(&mut self) {
        self.programs().for_each(Program::send_code);
    }

    /// Finds the code of its functions; false if some of it is not known by library and name.
    pub fn find_code(&mut self, known: impl Fn(&str, &str) -> Option<Bytes>) -> bool {
        self.programs().all(|program| program.find_code(&known))
    }

    /// Whether it can be run: what another node sent is looked at before it is used.
    pub fn is_whole(&self) -> bool {
        match self {
            Work::Script(call) => call.is_whole(),
            Work::Transaction { steps, .. } => steps.iter().all(|step| match step {
                Step::Script(call) => call.is_whole(),
                Step::Command(..) | Step::Settled(..) => true,
            }),
        }
    }
}

/// What a node asks of a leader.
#[derive(Serialize, Deserialize)]
pub(super) enum Request {
    /// The answer is an [`Answer`]. `shows`: somebody monitors there, and is shown what scripts run.
    Run { wait_ms: u64, who: Who, shows: bool, calls: Vec<Work> },
    /// Stop what runs, if it is of this kind. The answer is a [`Killed`].
    Kill(Kind),
    /// What runs. The answer is an `Option<`[`Runs`]`>`.
    What,
}

/// What runs somewhere, as FUNCTION STATS tells it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Runs {
    pub name: String,
    pub words: Vec<Bytes>,
    pub ms: u64,
}

/// What came of running something for one connection.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Answer {
    pub outcome: Outcome,
    pub beside: Beside,
    /// Nothing was run: the code of functions is to be sent along.
    pub lacks_code: bool,
}

impl From<Outcome> for Answer {
    fn from(outcome: Outcome) -> Answer {
        Answer { outcome, beside: Beside::default(), lacks_code: false }
    }
}

/// What came of the order to stop what runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Killed {
    Nothing,
    Stopped,
    /// What runs is of the other kind.
    Other,
}

impl Killed {
    /// What both say together.
    pub fn and(self, other: Killed) -> Killed {
        match (self, other) {
            (Killed::Stopped, _) | (_, Killed::Stopped) => Killed::Stopped,
            (Killed::Other, _) | (_, Killed::Other) => Killed::Other,
            (Killed::Nothing, Killed::Nothing) => Killed::Nothing,
        }
    }
}
