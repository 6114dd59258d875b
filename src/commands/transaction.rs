//! MULTI, EXEC, DISCARD, WATCH, UNWATCH: what a connection has queued and watches.
//!
//! Queued commands about keys become one atomic call (`atomic.rs`): one entry of the log, or one read if none of them
//! writes. Those that concern the connection, the node or the scripts of the cluster run when EXEC is answered, in their places between the others;
//! one whose arguments are wrong is not run at all, its error stands in its place. The conditions of WATCH travel
//! in the atomic call, so it does not matter who leads when EXEC comes.
//!
//! Nothing here knows a socket, a group or a slot: the door asks its gates before it queues anything, says when one of
//! them refused ([`Transaction::spoil`]), and carries out what EXEC gives it. Bounds: [`atomic::CALLS_MAX`] commands
//! and watched keys, [`atomic::BYTES_MAX`] bytes of both; a transaction that was spoiled keeps nothing.

use super::script::ScriptCommand;
use super::{Command, Keys, Run, Scope, Spec};
use super::{atomic, pubsub};
use crate::resp::{Args, Reply, integer};
use crate::state::{Seen, View};
use bytes::Bytes;

/// What a command does with the transaction of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Multi,
    Exec,
    Discard,
    Watch,
    Unwatch,
}

/// What a queued command becomes at EXEC.
enum Part {
    /// A call inside the atomic call: about keys, or a message beside scripts.
    Keyed(&'static Command),
    /// Runs on the connection or the node.
    Local(&'static Command, Args),
    /// Was wrong, and is answered so.
    Settled(&'static Command, Reply),
}

#[derive(Default)]
struct Queue {
    parts: Vec<Part>,
    /// As an atomic call wants them.
    calls: Vec<Bytes>,
    bytes: usize,
    first_key: Option<Bytes>,
    spoiled: bool,
    writes: bool,
    scripts: bool,
    denyoom: bool,
    /// Some of it may change something, be it no key.
    changes: bool,
}

/// What becomes of a queued command.
enum Fate {
    Keyed,
    Local,
    Settled(Reply),
}

impl Queue {
    /// Says of each command that is not settled anew what it becomes; `fate` is told whether it is a call now.
    fn sort_anew(&mut self, mut fate: impl FnMut(&'static Command, &Args, bool) -> Fate) {
        let mut calls = std::mem::take(&mut self.calls).into_iter();
        (self.writes, self.scripts, self.denyoom) = (false, false, false);
        let mut parts = std::mem::take(&mut self.parts);
        for part in &mut parts {
            let (command, args, keyed) = match part {
                Part::Settled(..) => continue,
                Part::Local(command, args) => (*command, args.clone(), false),
                Part::Keyed(command) => {
                    let count = calls.next().and_then(|number| integer(&number)).unwrap_or(0);
                    (*command, calls.by_ref().take(count as usize).collect::<Args>(), true)
                }
            };
            *part = match fate(command, &args, keyed) {
                Fate::Keyed => {
                    self.calls(command, &args);
                    Part::Keyed(command)
                }
                Fate::Local => Part::Local(command, args),
                Fate::Settled(reply) => Part::Settled(command, reply),
            };
        }
        self.parts = parts;
    }

    /// Makes a command one of the calls.
    fn calls(&mut self, command: &Command, args: &Args) {
        self.holds(command);
        self.calls.push(atomic::number(args.len()));
        self.calls.extend_from_slice(args);
    }

    /// Notes what kind of command is among those about keys.
    fn holds(&mut self, command: &Command) {
        self.writes |= command.is_write();
        self.scripts |= command.is_script();
        self.denyoom |= command.spec.denyoom;
    }
}

/// The transaction of one connection. Default: none, nothing watched.
#[derive(Default)]
pub struct Transaction {
    /// Keys with their versions when they were first watched.
    watches: atomic::Watches,
    watched_bytes: usize,
    queue: Option<Queue>,
}

/// What EXEC has to do.
pub struct Exec {
    /// The atomic call, unless there is nothing to ask of any group.
    pub call: Option<Args>,
    /// Whether the call changes anything: else [`atomic::read`] runs it.
    pub writes: bool,
    /// Whether scripts are among the calls: whoever runs scripts takes it apart.
    pub scripts: bool,
    /// Whether keys were watched: then the call must see what is newest.
    pub watched: bool,
    pub weave: Weave,
}

/// Puts the replies of a transaction together.
pub struct Weave(Vec<Part>);

/// What is not queued after MULTI, besides what is about the transaction itself.
const AT_ONCE: [&str; 2] = ["quit", "reset"];

fn is_connection(command: &Command, names: &[&str]) -> bool {
    command.spec.family == "connection" && names.contains(&command.spec.name)
}

/// What Redis does not let stand among other commands: what ends the process, saves it at once or follows another.
fn is_never_inside(command: &Command) -> bool {
    ["SHUTDOWN", "SAVE", "SYNC", "PSYNC"].contains(&command.spec.syntax.split(' ').next().unwrap_or_default())
}

impl Transaction {
    /// Whether MULTI has begun one.
    pub fn is_open(&self) -> bool {
        self.queue.is_some()
    }

    /// Whether a command is queued, and not run at once.
    pub fn takes(&self, command: &Command) -> bool {
        self.is_open()
            && match command.run {
                Run::Transaction(step) => step == Step::Unwatch,
                _ => !is_connection(command, &AT_ONCE),
            }
    }

    /// A command of the connection was run: RESET ends the transaction.
    pub fn ran(&mut self, command: &Command) {
        if is_connection(command, &["reset"]) {
            self.reset();
        }
    }

    /// Whether EXEC may change anything.
    pub fn changes(&self) -> bool {
        self.queue.as_ref().is_some_and(|queue| queue.changes)
    }

    /// What is queued next may change something.
    pub fn note_change(&mut self) {
        if let Some(queue) = &mut self.queue {
            queue.changes = true;
        }
    }

    /// Commands that are queued; none if there is no transaction.
    pub fn queued(&self) -> Option<usize> {
        self.queue.as_ref().map(|queue| queue.parts.len())
    }

    /// Bytes that are queued.
    pub fn queued_bytes(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.bytes)
    }

    /// Keys that are watched.
    pub fn watching(&self) -> impl ExactSizeIterator<Item = &Bytes> {
        self.watches.iter().map(|(key, _)| key)
    }

    /// MULTI.
    pub fn begin(&mut self) -> Reply {
        if self.is_open() {
            return Reply::error("ERR MULTI calls can not be nested");
        }
        self.queue = Some(Queue::default());
        Reply::OK
    }

    /// DISCARD.
    pub fn discard(&mut self) -> Reply {
        if !self.is_open() {
            return Reply::error("ERR DISCARD without MULTI");
        }
        self.reset();
        Reply::OK
    }

    /// UNWATCH, outside of a transaction.
    pub fn unwatch(&mut self) -> Reply {
        self.watches = Vec::new();
        self.watched_bytes = 0;
        Reply::OK
    }

    /// Forgets everything: RESET, and the end of a transaction.
    pub fn reset(&mut self) {
        *self = Transaction::default();
    }

    /// A command was refused: EXEC will do nothing. Of no effect outside of a transaction.
    pub fn spoil(&mut self) {
        if let Some(queue) = &mut self.queue {
            *queue = Queue { spoiled: true, ..Queue::default() };
        }
    }

    /// The first key that is watched or queued, if there is one: all others must lie where it does.
    pub fn first_key(&self) -> Option<&Bytes> {
        self.watching().next().or_else(|| self.queue.as_ref()?.first_key.as_ref())
    }

    /// Queues a command that the gates let through.
    pub fn queue(&mut self, command: &'static Command, args: Args) -> Reply {
        let watched = (self.watches.len(), self.watched_bytes);
        let Some(queue) = &mut self.queue else { return Reply::error("ERR no transaction was begun") };
        if queue.spoiled {
            return Reply::status("QUEUED");
        }
        // The former would mute a part of the reply to EXEC.
        if is_connection(command, &["reply"]) || is_never_inside(command) {
            self.spoil();
            return Reply::error("ERR Command not allowed inside a transaction");
        }
        queue.bytes += args.iter().map(|arg| arg.len() + atomic::ARGUMENT_BYTES).sum::<usize>();
        if queue.parts.len() + watched.0 >= atomic::CALLS_MAX || queue.bytes + watched.1 > atomic::BYTES_MAX {
            self.spoil();
            return Reply::error(
                "ERR the transaction is larger than an entry of the log may be (65536 commands, 64 MiB); \
                 this command was not queued",
            );
        }
        let part = match (command.check)(&args) {
            // A stream of lines has no place among replies.
            Ok(()) if matches!(command.run, Run::Node(_)) && command.spec.name == "monitor" => {
                Part::Settled(command, Reply::error("ERR MONITOR isn't allowed for DENY BLOCKING client"))
            }
            Err(wrong) => Part::Settled(command, wrong),
            Ok(()) if command.is_read() || command.is_write() || command.runs_script() => {
                queue.first_key = queue.first_key.take().or_else(|| super::keys(command, &args).next().cloned());
                queue.calls(command, &args);
                Part::Keyed(command)
            }
            // UNWATCH, the only one of its kind that is queued: EXEC has forgotten what was watched before it comes to it.
            Ok(()) if matches!(command.run, Run::Transaction(_)) => Part::Settled(command, Reply::OK),
            Ok(()) => Part::Local(command, args),
        };
        queue.parts.push(part);
        Reply::status("QUEUED")
    }

    /// Queues a command that will be answered like this, because what it asks for is wrong.
    pub fn queue_wrong(&mut self, command: &'static Command, wrong: Reply) -> Reply {
        match &mut self.queue {
            Some(queue) if !queue.spoiled && queue.parts.len() < atomic::CALLS_MAX => {
                queue.parts.push(Part::Settled(command, wrong));
                Reply::status("QUEUED")
            }
            _ => wrong,
        }
    }

    /// Asks about each queued command once more; what is refused is answered so in its place and does not run.
    pub fn recheck(&mut self, mut refused: impl FnMut(&'static Command, &Args) -> Option<Reply>) {
        let Some(queue) = &mut self.queue else { return };
        queue.sort_anew(|command, args, keyed| match refused(command, args) {
            Some(reply) => Fate::Settled(reply),
            None if keyed => Fate::Keyed,
            None => Fate::Local,
        });
    }

    /// This was seen of the keys of `WATCH key ...`, as [`sights`] answered. The reply to the client.
    pub fn watch(&mut self, keys: &[Bytes], sights: Reply) -> Reply {
        let sights = match sights {
            Reply::Array(sights) if sights.len() == keys.len() => sights,
            Reply::Error(text) => return Reply::Error(text),
            _ => return Reply::error("ERR what was seen of the watched keys cannot be told apart"),
        };
        for (key, seen) in keys.iter().zip(sights) {
            let Reply::Int(seen) = seen else { continue };
            if self.watches.iter().any(|(known, _)| known == key) {
                continue;
            }
            let bytes = key.len() + 2 * atomic::ARGUMENT_BYTES + i64::MIN.unsigned_abs().ilog10() as usize + 2;
            if self.watches.len() >= WATCHES_MAX || self.watched_bytes + bytes > atomic::BYTES_MAX / 2 {
                return Reply::error("ERR too many watched keys (1024, or 32 MiB); the rest is not watched");
            }
            self.watched_bytes += bytes;
            self.watches.push((key.clone(), Seen::from_number(seen)));
        }
        Reply::OK
    }

    /// EXEC was itself refused, for this reason: the transaction ends. The reply to it.
    pub fn abort(&mut self, why: &Reply) -> Reply {
        self.reset();
        aborted(why)
    }

    /// EXEC of a node whose memory is full, if `full`. Ends the transaction whatever comes of it.
    pub fn exec(&mut self, full: bool) -> Result<Exec, Reply> {
        let Some(mut queue) = self.queue.take() else { return Err(Reply::error("ERR EXEC without MULTI")) };
        let Transaction { watches, .. } = std::mem::take(self);
        if queue.spoiled {
            return Err(Reply::error("EXECABORT Transaction discarded because of previous errors."));
        }
        if full && queue.denyoom {
            return Err(aborted(&Reply::error("OOM command not allowed when used memory > 'maxmemory'.")));
        }
        if queue.scripts {
            // So that its messages and those of its scripts are said in their order.
            queue.sort_anew(|command, _, keyed| match keyed || pubsub::publishes(command).is_some() {
                true => Fate::Keyed,
                false => Fate::Local,
            });
        }
        let asks = !queue.calls.is_empty() || !watches.is_empty();
        let call = asks.then(|| atomic::vector(&watches, queue.calls));
        let (writes, scripts, watched) = (queue.writes, queue.scripts, !watches.is_empty());
        Ok(Exec { call, writes, scripts, watched, weave: Weave(queue.parts) })
    }
}

/// Keys that a connection may watch.
const WATCHES_MAX: usize = 1024;

/// The reply to a WATCH after MULTI.
pub fn watch_inside() -> Reply {
    Reply::error("ERR WATCH inside MULTI is not allowed")
}

/// The reply to an EXEC that was itself refused.
pub fn aborted(why: &Reply) -> Reply {
    let Reply::Error(text) = why else { return why.clone() };
    let text = text.strip_prefix(b"ERR ").unwrap_or(text);
    Reply::error([b"EXECABORT Transaction discarded because of: ", text].concat())
}

/// What is seen of the keys of `WATCH key ...`, as numbers ([`Seen::number`]).
pub fn sights(args: &Args, view: &View<'_>) -> Reply {
    Reply::Array(args[1..].iter().map(|key| Reply::Int(view.see(key).number())).collect())
}

impl Weave {
    /// The reply to EXEC. `keyed`: what the atomic call answered, an empty array if there was none. `run` is called for
    /// commands of connection and node, in their order, if the transaction took effect; `each` sees every reply.
    pub fn finish(
        self,
        keyed: Reply,
        mut run: impl FnMut(&'static Command, &Args) -> Reply,
        mut each: impl FnMut(&'static Command, &Reply),
    ) -> Reply {
        let Reply::Array(keyed) = keyed else { return keyed };
        if keyed.len() != self.0.iter().filter(|part| matches!(part, Part::Keyed(_))).count() {
            return Reply::error(
                "UNCERTAIN the replies of the transaction cannot be told apart; it may have been applied",
            );
        }
        let mut keyed = keyed.into_iter();
        let replies = self.0.into_iter().map(|part| {
            let (command, reply) = match part {
                Part::Keyed(command) => (command, keyed.next().unwrap_or(Reply::Nil)),
                Part::Local(command, args) => (command, run(command, &args)),
                Part::Settled(command, reply) => (command, reply),
            };
            each(command, &reply);
            reply
        });
        Reply::Array(replies.collect())
    }

    /// What is about the scripts of the cluster, in its order, if the transaction took effect. Whoever carries it out gives the
    /// answers to [`Weave::finish`] one after the other.
    pub fn about_scripts(&self, keyed: &Reply) -> Vec<(ScriptCommand, Args)> {
        let parts = if matches!(keyed, Reply::Array(_)) { &self.0[..] } else { &[] };
        let about = |part: &Part| match part {
            Part::Local(Command { run: Run::Script(kind), .. }, args) => Some((*kind, args.clone())),
            _ => None,
        };
        parts.iter().filter_map(about).collect()
    }

    /// Whether something runs on the connection or the node.
    pub fn has_local(&self) -> bool {
        self.0.iter().any(|part| matches!(part, Part::Local(..)))
    }
}

const BASE: Spec = Spec {
    name: "",
    arity: 1,
    keys: Keys::None,
    scope: Scope::Local,
    family: "transaction",
    syntax: "",
    summary: "",
    complexity: "O(1)",
    since: "1.2.0",
    denyoom: false,
};

const fn step(step: Step, spec: Spec) -> Command {
    Command {
        spec,
        run: Run::Transaction(step),
        check: |_| Ok(()),
        growth: |_| 0,
        copied: None,
        blocks: None,
        subcommands: &[],
    }
}

pub static TRANSACTION: &[Command] = &[
    step(
        Step::Discard,
        Spec {
            name: "discard",
            syntax: "DISCARD",
            summary: "Forgets what was queued since MULTI, and what is watched.",
            since: "2.0.0",
            ..BASE
        },
    ),
    step(
        Step::Exec,
        Spec {
            name: "exec",
            syntax: "EXEC",
            summary: "Runs what was queued since MULTI as one; nil if a watched key has changed.",
            complexity: "that of the queued commands",
            ..BASE
        },
    ),
    step(
        Step::Multi,
        Spec { name: "multi", syntax: "MULTI", summary: "Begins a transaction: what follows is queued.", ..BASE },
    ),
    step(
        Step::Unwatch,
        Spec { name: "unwatch", syntax: "UNWATCH", summary: "Watches no key any more.", since: "2.2.0", ..BASE },
    ),
    step(
        Step::Watch,
        Spec {
            name: "watch",
            arity: -2,
            keys: Keys::ALL,
            scope: Scope::OneSlot,
            syntax: "WATCH key [key ...]",
            summary: "Has the next EXEC do nothing if one of the keys changes before it.",
            complexity: "O(N), N the number of keys",
            since: "2.2.0",
            ..BASE
        },
    ),
];
