//! The thread that runs a group's scripts at its leader: several at once become one call in the log.
//!
//! ```text
//! what waits -> one overlay, one script after the other -> effects -> hc.effects, one call -> applied: everybody is answered
//!                      ^                                     | none                        '-> nil: something had changed
//!                      |                                     v                                         |
//!                      |               a read index: unchanged -> answered, changed --------------------|
//!                      '------------------------------------------------------------------------------ '
//! ```
//!
//! What a script saw is checked where its effects are applied, by the versions of the keys; who leads by then does not
//! matter. After [`OPTIMISTIC`] runs in vain the group's writes are held during the next ones, so that a script gets through
//! whatever else is written.
//!
//! A script that was stopped counts for nothing: the others are run again without it. One that takes long behind others
//! is stopped, too, so that they are answered, and begins again alone. A transaction with scripts in it has an overlay of
//! its own, and counts as one script.

use super::super::counters::{Counters, ordinal};
use super::super::pubsub::Pubsub;
use super::Options;
use super::call::{Beside, By, Kind, Program, RightsOf, ScriptCall, Step, Work};
use super::executor::{Claim, Done, Job, Running, What};
use crate::cluster::Cluster;
use crate::commands::effects::Effects;
use crate::commands::{self, atomic, handover, pubsub, transaction};
use crate::env::{self, Instant};
use crate::raft::carry::Hold;
use crate::raft::{Group, Outcome, Refusal};
use crate::resp::{Args, Reply};
use crate::scripting::{self, Caller, Flags, Interpreter, Limits, Overlay, Ran, Rights, Rules, Source, Stop, Watch};
use crate::security::User;
use crate::slot::slot_of;
use crate::state::{Entry, Keyspace, Ownership, Seen, eviction};
use crate::types::{Author, Level, Millis};
use bytes::Bytes;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Scripts that run on one overlay, at most.
const BATCH_MAX: usize = 256;
/// Behind a script that took so long no other runs on the same overlay: those before it waited long enough.
const LONG: Duration = Duration::from_millis(5);
/// Runs before writes are held, and in all.
const OPTIMISTIC: usize = 3;
const RUNS_MAX: usize = 20;

/// Looks at the time for a script.
struct Clock {
    running: Arc<Running>,
    begun: Instant,
    until: Instant,
    /// After this it gives way to those that ran before it.
    aside: Option<Instant>,
}

impl Watch for Clock {
    fn stop(&self) -> Option<Stop> {
        if self.running.is_killed() {
            return Some(Stop::Killed);
        }
        let now = env::now();
        let reached = |at: Instant| now >= at;
        match reached(self.until) {
            true => Some(Stop::Time),
            false => self.aside.is_some_and(reached).then_some(Stop::Aside),
        }
    }

    fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }
}

/// The state of a group, as scripts copy from it.
struct FromGroup(Arc<Group>);

impl Source for FromGroup {
    fn entries(&self, keys: &[Bytes], clock: Millis) -> Vec<Option<Entry>> {
        let living = |keyspace: &Keyspace, key: &Bytes| {
            keyspace.get(key).filter(|entry| !entry.is_dead(clock)).map(|entry| entry.to_entry())
        };
        self.0.peek(|keyspace| keys.iter().map(|key| living(keyspace, key)).collect())
    }

    fn with(&self, look: &mut dyn FnMut(&Keyspace)) {
        self.0.peek(|keyspace| look(keyspace));
    }
}

/// One call of a batch.
struct Unit {
    work: Work,
    by: Option<Arc<By>>,
    author: Option<Author>,
    shows: bool,
    claim: Arc<Claim>,
    deadline: Instant,
    /// Set once it is settled.
    reply: Option<Reply>,
    /// Of its last run.
    beside: Beside,
    /// It counts for nothing: the group does not answer for its slots.
    elsewhere: bool,
}

impl Unit {
    /// Settles it with a reply that says that it did nothing, or may have done nothing.
    fn fail(&mut self, reply: Reply) {
        self.reply = Some(reply);
        self.beside.take_back();
    }

    /// It did nothing, because its slots are on their way or elsewhere.
    fn put_off(&mut self) {
        self.elsewhere = true;
        self.fail(handover::elsewhere());
    }
}

/// Whether the group does not answer for a key that it names.
fn is_elsewhere(work: &Work, ownership: &Ownership) -> bool {
    let away = |key: &Bytes| !ownership.serves(slot_of(key));
    match work {
        Work::Script(call) => call.keys().iter().any(away),
        Work::Transaction { watches, steps } => {
            let step = |step: &Step| match step {
                Step::Command(words) => handover::is_elsewhere(&words.iter().cloned().collect(), ownership),
                Step::Script(call) => call.keys().iter().any(away),
                Step::Settled(_) => false,
            };
            watches.iter().any(|(key, _)| away(key)) || steps.iter().any(step)
        }
    }
}

/// What came of running a batch on one overlay.
enum Pass {
    /// The replies of the first of those that are not settled, in their order.
    Ran { effects: Effects, expected: Vec<Reply>, replies: Vec<Reply>, author: Option<Author> },
    /// Something changed meanwhile, or a script was stopped and settled with that: all run again.
    Again { counts: bool },
    /// One took long: so many before it are done, and run again without it.
    Aside { done: usize },
}

/// What ended a script before its end.
struct Stopped {
    reply: Reply,
    why: Stop,
}

/// What a script runs for.
struct Turn {
    rights: Option<Arc<User>>,
    shows: bool,
    beside: Rc<RefCell<Beside>>,
    deadline: Instant,
    /// Others have run on the same overlay and wait for it.
    behind: bool,
}

/// What the thread has.
pub(super) struct Stage {
    group: Arc<Group>,
    cluster: Arc<Cluster>,
    options: Options,
    handle: Handle,
    running: Arc<Running>,
    counters: Arc<Counters>,
    pubsub: Arc<Pubsub>,
    interpreter: Option<Interpreter>,
    /// The last user with limits, read.
    user: Option<(Arc<By>, Arc<User>)>,
}

impl Stage {
    pub fn new(
        group: Arc<Group>,
        cluster: Arc<Cluster>,
        options: Options,
        (handle, running): (Handle, Arc<Running>),
        (counters, pubsub): (Arc<Counters>, Arc<Pubsub>),
    ) -> Stage {
        Stage { group, cluster, options, handle, running, counters, pubsub, interpreter: None, user: None }
    }

    /// Runs what comes until nobody can send any more.
    pub fn run(mut self, jobs: Receiver<Job>) {
        while let Ok(first) = jobs.recv() {
            let mut batch = vec![first];
            let mut count = batch[0].calls.len();
            while count < BATCH_MAX
                && let Ok(next) = jobs.try_recv()
            {
                count += next.calls.len();
                batch.push(next);
            }
            let mut owners = Vec::new();
            let mut units = Vec::new();
            for job in batch {
                let Job { calls, by, author, shows, claim, deadline, done } = job;
                owners.push((calls.len(), done));
                let unit = |work| {
                    let (by, claim) = (by.clone(), claim.clone());
                    let beside = Beside::default();
                    Unit { work, by, author, shows, claim, deadline, reply: None, beside, elsewhere: false }
                };
                units.extend(calls.into_iter().map(unit));
            }
            self.settle(&mut units);
            let unknown = || Outcome::Unknown { index: None }.failure_reply();
            let done = |unit: Unit| Done {
                reply: unit.reply.unwrap_or_else(unknown),
                beside: unit.beside,
                elsewhere: unit.elsewhere,
            };
            let mut all = units.into_iter().map(done);
            for (count, owner) in owners {
                let _ = owner.send(all.by_ref().take(count).collect());
            }
        }
    }

    /// Waits for what the group does.
    fn wait<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let (tx, rx) = oneshot::channel();
        self.handle.spawn(async move {
            let _ = tx.send(future.await);
        });
        rx.blocking_recv().ok()
    }

    /// Gives every call of the batch its reply.
    fn settle(&mut self, units: &mut [Unit]) {
        let (mut runs, mut most) = (0, usize::MAX);
        while runs < RUNS_MAX {
            let now = env::now();
            for unit in open_of(units) {
                if unit.deadline <= now {
                    unit.fail(Refusal::Deadline.reply());
                }
            }
            self.set_aside(units);
            let Some(deadline) = units.iter().filter(|unit| unit.reply.is_none()).map(|unit| unit.deadline).min()
            else {
                return;
            };
            let mut hold = None;
            if runs >= OPTIMISTIC {
                let group = self.group.clone();
                hold = self.wait(async move { group.hold(deadline).await }).flatten();
                if hold.is_none() {
                    runs += 1;
                    continue;
                }
            }
            match self.pass(units, most) {
                Pass::Again { counts } => runs += usize::from(counts),
                Pass::Aside { done } => most = done,
                Pass::Ran { effects, expected, replies, author } => {
                    most = usize::MAX;
                    let count = replies.len();
                    match self.conclude(&effects, &expected, author, deadline, hold) {
                        Conclusion::Done => {
                            give(units, replies);
                            runs = 0;
                        }
                        Conclusion::Changed => runs += 1,
                        Conclusion::Failed(Outcome::NotApplied(Refusal::OutOfMemory)) if open(units) > 1 => {
                            // There is room for one, perhaps, and who asks for too much is alone with that.
                            return units.chunks_mut(1).for_each(|one| self.settle(one));
                        }
                        Conclusion::Failed(outcome) => {
                            let reply = outcome.failure_reply();
                            open_of(units).take(count).for_each(|unit| match outcome {
                                Outcome::Elsewhere { .. } => unit.put_off(),
                                _ => unit.fail(reply.clone()),
                            });
                        }
                    }
                }
            }
        }
        open_of(units).for_each(|unit| unit.fail(Refusal::Busy.reply()));
    }

    /// Settles those for whose keys the group does not answer now: what they would find counts for nothing. Those behind them
    /// that the same connection sent wait with them.
    fn set_aside(&self, units: &mut [Unit]) {
        if !self.group.peek(|keyspace| keyspace.ownership().guards()) {
            return;
        }
        for nth in 0..units.len() {
            let (before, rest) = units.split_at_mut(nth);
            let unit = &mut rest[0];
            let of_same = |other: &Unit| other.elsewhere && Arc::ptr_eq(&other.claim, &unit.claim);
            let away = || self.group.peek(|keyspace| is_elsewhere(&unit.work, keyspace.ownership()));
            if unit.reply.is_none() && (before.iter().any(of_same) || away()) {
                unit.put_off();
            }
        }
    }

    /// Runs those that are not settled, one after the other, or the first `most` of them.
    fn pass(&mut self, units: &mut [Unit], most: usize) -> Pass {
        let seed = env::seed();
        let mut overlay = Overlay::new(Box::new(FromGroup(self.group.clone())), self.group.present(), seed);
        let (mut replies, mut author) = (Vec::new(), None);
        for unit in open_of(units) {
            let alone = matches!(unit.work, Work::Transaction { .. });
            // One call in the log has one author.
            let other = alone || unit.author != author;
            if replies.len() >= most || (other && !replies.is_empty()) {
                break;
            }
            author = unit.author;
            if !unit.claim.begin() {
                // Nobody reads it: who waited was answered.
                unit.fail(Refusal::Busy.reply());
                continue;
            }
            let begun = env::now();
            let rights = unit.by.as_ref().map(|by| self.user_of(by));
            let (deadline, behind) = (unit.deadline, !replies.is_empty());
            let turn = Turn { rights, shows: unit.shows, beside: Rc::default(), deadline, behind };
            let (after, ended) = match &unit.work {
                Work::Script(call) => self.script(call, &turn, overlay),
                Work::Transaction { watches, steps } => self.transaction(watches, steps, &turn, overlay),
            };
            overlay = after;
            unit.beside = turn.beside.take();
            match ended {
                Ok(reply) => replies.push(reply),
                Err(Stopped { why: Stop::Aside, .. }) => return Pass::Aside { done: replies.len() },
                Err(Stopped { reply, .. }) => {
                    unit.fail(reply);
                    return Pass::Again { counts: false };
                }
            }
            if overlay.is_torn() {
                return Pass::Again { counts: true };
            }
            if alone || begun.elapsed() > LONG || overlay.is_large() {
                break;
            }
        }
        let (effects, expected) = overlay.into_effects();
        Pass::Ran { effects, expected, replies, author }
    }

    fn user_of(&mut self, by: &Arc<By>) -> Arc<User> {
        match &self.user {
            Some((known, user)) if known == by => user.clone(),
            _ => {
                let user = by.to_user();
                self.user = Some((by.clone(), user.clone()));
                user
            }
        }
    }

    /// Runs the commands of a transaction one after the other. One of its scripts that is stopped undoes all of it.
    fn transaction(
        &mut self,
        watches: &[(Bytes, Seen)],
        steps: &[Step],
        turn: &Turn,
        mut overlay: Overlay,
    ) -> (Overlay, Result<Reply, Stopped>) {
        if !overlay.watch(watches) {
            return (overlay, Ok(Reply::NilArray));
        }
        let (mut replies, mut kept) = (Vec::new(), 0);
        for step in steps {
            let reply = match step {
                Step::Settled(reply) => reply.clone(),
                Step::Command(words) => {
                    let args: Args = words.iter().cloned().collect();
                    match commands::lookup(&args) {
                        Ok(command) if command.is_read() && kept > atomic::REPLY_BYTES_MAX => atomic::too_much(),
                        Ok(command) => match pubsub::publishes(command) {
                            Some(kind) => {
                                turn.beside.borrow_mut().publish(&args);
                                Reply::Int(self.pubsub.hearing(kind, &args[1]) as i64)
                            }
                            None => overlay.run(command, &args),
                        },
                        Err(refused) => refused,
                    }
                }
                Step::Script(call) => {
                    let (after, ended) = self.script(call, turn, overlay);
                    overlay = after;
                    match ended {
                        Ok(reply) => reply,
                        Err(Stopped { reply, why }) => {
                            return (overlay, Err(Stopped { reply: transaction::aborted(&reply), why }));
                        }
                    }
                }
            };
            kept += reply.weight();
            replies.push(reply);
        }
        (overlay, Ok(Reply::Array(replies)))
    }

    /// Runs one script.
    fn script(&mut self, call: &ScriptCall, turn: &Turn, mut overlay: Overlay) -> (Overlay, Result<Reply, Stopped>) {
        let mut interpreter = match self.interpreter.take().map_or_else(|| self.fresh(), Ok) {
            Ok(interpreter) => interpreter,
            Err(reply) => return (overlay, Ok(reply)),
        };
        let compiled = compile(&mut interpreter, call);
        let rules = match compiled.and_then(|flags| self.rules(call, flags, turn)) {
            Ok(rules) => rules,
            Err(reply) => {
                self.interpreter = Some(interpreter);
                return (overlay, Ok(reply));
            }
        };
        overlay.next_run();
        overlay.touch(call.keys().iter().filter(|key| (rules.owns)(slot_of(key))));
        let what = what_of(call);
        let name = what.name.clone();
        let begun = self.running.begin(what);
        let until = turn.deadline.min(begun + self.options.time);
        let aside = turn.behind.then(|| begun + LONG);
        let watch = Box::new(Clock { running: self.running.clone(), begun, until, aside });
        let caller = Caller::new(overlay, rules);
        let Ran { reply, caller, stopped } = match &call.program {
            Program::Script { sha, .. } => interpreter.eval(sha, call.keys(), call.args(), caller, watch),
            Program::Function { sha, function, .. } => {
                interpreter.call(sha, function, (call.keys(), call.args()), caller, watch)
            }
        };
        self.running.end();
        if interpreter.is_sound() {
            self.interpreter = Some(interpreter);
        }
        let overlay = caller.into_overlay();
        match stopped {
            None => (overlay, Ok(reply)),
            Some(why) => {
                if why != Stop::Aside {
                    tracing::warn!(group = %self.group.id(), name, ?why, "script-stopped");
                }
                (overlay, Err(Stopped { reply, why }))
            }
        }
    }

    fn fresh(&self) -> Result<Interpreter, Reply> {
        Interpreter::new(Limits { memory: self.options.memory })
    }

    /// What this script may do here.
    fn rules(&self, call: &ScriptCall, flags: Flags, turn: &Turn) -> Result<Rules, Reply> {
        if call.read_only && !flags.compatible && !flags.no_writes {
            return Err(Reply::error("ERR Can not execute a script with write flag using *_ro command."));
        }
        let table = self.cluster.table();
        let several = table.data_groups().nth(1).is_some();
        let unlimited = flags.compatible || flags.no_writes || flags.allow_oom;
        if !unlimited && self.group.peek(is_full) {
            return Err(Reply::error(
                "OOM allow-oom flag is not set on the script, can not run it when used memory > 'maxmemory'",
            ));
        }
        if several && flags.no_cluster {
            return Err(Reply::error("ERR Can not run script on cluster, 'no-cluster' flag is set."));
        }
        let id = self.group.id();
        // The group knows better than this node's table, which may be older or newer than what the group has done.
        let owned = self.group.peek(|keyspace| keyspace.ownership().owned().cloned());
        let rights = |user: &Arc<User>| -> Box<dyn Rights> {
            Box::new(RightsOf { user: user.clone(), beside: turn.beside.clone() })
        };
        let (counters, pubsub) = (self.counters.clone(), self.pubsub.clone());
        let (shown, said) = (turn.shows.then(|| turn.beside.clone()), turn.beside.clone());
        Ok(Rules {
            ran: Box::new(move |command, args, failed| {
                counters.called_by_script(ordinal(command), failed);
                shown.iter().for_each(|beside| beside.borrow_mut().show(args));
            }),
            publish: Box::new(move |kind, args| {
                said.borrow_mut().publish(args);
                pubsub.hearing(kind, &args[1])
            }),
            read_only: call.read_only || flags.no_writes,
            one_slot: several && !flags.compatible && !flags.allow_cross_slot,
            owns: Box::new(move |slot| match &owned {
                Some(owned) => owned.has(slot),
                None => !several || table.group_of(slot) == id,
            }),
            owns_all: !several,
            rights: turn.rights.as_ref().map(rights),
        })
    }

    /// Makes what was run count, if nothing has changed.
    fn conclude(
        &self,
        effects: &Effects,
        expected: &[Reply],
        author: Option<Author>,
        deadline: Instant,
        hold: Option<Hold>,
    ) -> Conclusion {
        if effects.calls.is_empty() {
            return self.conclude_read(effects, deadline, hold);
        }
        let (tx, rx) = oneshot::channel();
        let done = Box::new(move |outcome| {
            let _ = tx.send(outcome);
        });
        match &hold {
            Some(_) => self.group.propose_first(author, effects.to_args(), deadline, done),
            None => self.group.propose_by(author, vec![effects.to_args()], deadline, done),
        }
        drop(hold);
        match rx.blocking_recv().unwrap_or(Outcome::Unknown { index: None }) {
            Outcome::Applied { replies, .. } => match replies.as_slice() {
                [Reply::Nil] => Conclusion::Changed,
                [Reply::Array(replies)] => {
                    if replies != expected {
                        tracing::error!(group = %self.group.id(), "script-effects-differ: what was applied is not what the script saw");
                    }
                    Conclusion::Done
                }
                _ => Conclusion::Failed(Outcome::Unknown { index: None }),
            },
            failed => Conclusion::Failed(failed),
        }
    }

    /// What only read counts if it is still true at a moment that a read index vouches for.
    fn conclude_read(&self, effects: &Effects, deadline: Instant, mut hold: Option<Hold>) -> Conclusion {
        loop {
            let group = self.group.clone();
            let permit = match self.wait(async move { group.barrier(Level::Linearizable, deadline).await }) {
                Some(Ok(permit)) => permit,
                Some(Err(refusal)) => return Conclusion::Failed(Outcome::NotApplied(refusal)),
                None => return Conclusion::Failed(Outcome::NotApplied(Refusal::ShuttingDown)),
            };
            let mut elsewhere = false;
            let unchanged = self.group.check(&permit, |keyspace, view| {
                let ownership = keyspace.ownership();
                elsewhere = ownership.guards() && handover::is_elsewhere(&effects.to_args(), ownership);
                let same = |(key, seen): &(Bytes, Seen)| {
                    let entry = view.get(key);
                    // What the script took for dead must be so by the log: a field asks for a tick as a key does.
                    if let Some(hash) = entry.as_ref().and_then(|entry| entry.value().as_hash()) {
                        let (_, next) = hash.living(view.clock());
                        if next != 0 && next <= effects.clock {
                            view.is_alive_until(next);
                        }
                    }
                    keyspace.is_as_seen(key, *seen)
                };
                effects.whole.is_none_or(|version| keyspace.version() == version) && effects.watches.iter().all(same)
            });
            match unchanged {
                Ok(_) if elsewhere => {
                    let nothing = Outcome::Elsewhere { index: 0, replies: Vec::new(), calls: Vec::new() };
                    return Conclusion::Failed(nothing);
                }
                Ok(true) => return Conclusion::Done,
                Ok(false) => return Conclusion::Changed,
                Err(_) => {
                    // A tick is an entry like any other.
                    drop(hold.take());
                    let group = self.group.clone();
                    match self.wait(async move { group.tick(deadline).await }) {
                        Some(Ok(())) => {}
                        Some(Err(refusal)) => return Conclusion::Failed(Outcome::NotApplied(refusal)),
                        None => return Conclusion::Failed(Outcome::NotApplied(Refusal::ShuttingDown)),
                    }
                }
            }
        }
    }
}

enum Conclusion {
    Done,
    /// Something that was seen has changed: nothing was done.
    Changed,
    Failed(Outcome),
}

/// Whether a group holds more than it may and evicts nothing.
fn is_full(keyspace: &Keyspace) -> bool {
    let limit = keyspace.limit();
    limit.bytes > 0 && limit.policy == eviction::Kind::NoEviction && keyspace.used_bytes() >= limit.bytes
}

/// Makes what a call runs ready in the interpreter; gives its flags.
fn compile(interpreter: &mut Interpreter, call: &ScriptCall) -> Result<Flags, Reply> {
    match &call.program {
        Program::Script { sha, body } => interpreter.compile(sha, body.as_ref().unwrap_or(&call.words[1])),
        Program::Function { sha, code, flags, .. } => {
            let (_, text) = scripting::head(code)?;
            interpreter.compile_library(sha, text)?;
            Ok(*flags)
        }
    }
}

fn what_of(call: &ScriptCall) -> What {
    let (kind, name) = match &call.program {
        Program::Script { sha, .. } => (Kind::Script, sha.clone()),
        Program::Function { function, .. } => (Kind::Function, function.clone()),
    };
    What { kind, name, words: call.words.clone() }
}

/// How many are not settled.
fn open(units: &[Unit]) -> usize {
    units.iter().filter(|unit| unit.reply.is_none()).count()
}

fn open_of(units: &mut [Unit]) -> impl Iterator<Item = &mut Unit> {
    units.iter_mut().filter(|unit| unit.reply.is_none())
}

/// What the first of them did counts.
fn give(units: &mut [Unit], replies: Vec<Reply>) {
    open_of(units).zip(replies).for_each(|(unit, reply)| unit.reply = Some(reply));
}
