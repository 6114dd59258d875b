//! The scripts of one group, at its leader: a thread of their own runs them, several at once become one call in the log.
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
//! A script that was stopped counts for nothing: the others are run again without it.

use super::{Options, ScriptCall};
use crate::cluster::Cluster;
use crate::commands::effects::Effects;
use crate::env::{self, Instant};
use crate::raft::carry::Hold;
use crate::raft::{Group, Outcome, Refusal};
use crate::resp::Reply;
use crate::scripting::{self, Caller, Interpreter, Limits, Overlay, Ran, Rules, Source, Stop, Watch};
use crate::slot::slot_of;
use crate::state::{Entry, Keyspace};
use crate::types::{Level, Millis};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Submissions that may wait.
const QUEUE_MAX: usize = 10_000;
/// Scripts that run on one overlay, at most.
const BATCH_MAX: usize = 256;
/// Behind a script that took so long no other runs on the same overlay: those before it waited long enough.
const LONG: Duration = Duration::from_millis(5);
/// Runs before writes are held, and in all.
const OPTIMISTIC: usize = 3;
const RUNS_MAX: usize = 20;

struct Job {
    calls: Vec<ScriptCall>,
    deadline: Instant,
    done: oneshot::Sender<Vec<Reply>>,
}

/// The script that runs now.
struct Running {
    origin: Instant,
    /// Nanoseconds from `origin` to its begin; 0: none runs.
    since: AtomicU64,
    kill: AtomicBool,
}

/// See the head of this file.
pub(super) struct Executor {
    /// None only while it ends.
    queue: Option<SyncSender<Job>>,
    running: Arc<Running>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// Its thread holds the group and so the store: whoever lets go of it may rely on both being given back.
impl Drop for Executor {
    fn drop(&mut self) {
        self.queue = None;
        self.running.kill.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("script-thread-panicked");
        }
    }
}

impl Executor {
    /// Must be called in a runtime, on which it waits for the group.
    pub fn start(group: Arc<Group>, cluster: Arc<Cluster>, options: Options) -> Executor {
        let (queue, jobs) = sync_channel(QUEUE_MAX);
        let running = Arc::new(Running { origin: env::now(), since: AtomicU64::new(0), kill: AtomicBool::new(false) });
        let name = format!("script-{}", group.id());
        let (handle, there) = (Handle::current(), running.clone());
        // An interpreter stays on the thread that made it.
        let thread = env::spawn_thread_with(&name, scripting::STACK_BYTES, move || {
            Stage { group, cluster, options, handle, running: there, interpreter: None }.run(jobs)
        });
        Executor { queue: Some(queue), running, thread: Some(thread) }
    }

    /// Runs scripts in their order; a reply for each.
    pub async fn run(&self, calls: Vec<ScriptCall>, deadline: Instant) -> Vec<Reply> {
        let count = calls.len();
        let (done, replies) = oneshot::channel();
        let Some(queue) = &self.queue else { return vec![Refusal::ShuttingDown.reply(); count] };
        match queue.try_send(Job { calls, deadline, done }) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return vec![Refusal::Busy.reply(); count],
            Err(TrySendError::Disconnected(_)) => return vec![Refusal::ShuttingDown.reply(); count],
        }
        // The thread answers at the deadline; should it have died, nobody knows what it did.
        let lost = || vec![Outcome::Unknown { index: None }.failure_reply(); count];
        replies.await.unwrap_or_else(|_| lost())
    }

    /// For how long a script has been running, if one is.
    pub fn runs_for(&self) -> Option<Duration> {
        self.running.time()
    }

    /// Stops the script that runs; false if none does.
    pub fn kill(&self) -> bool {
        let runs = self.running.time().is_some();
        if runs {
            self.running.kill.store(true, Ordering::Release);
        }
        runs
    }
}

impl Running {
    fn begin(&self) -> Instant {
        let now = env::now();
        self.kill.store(false, Ordering::Release);
        self.since.store((now - self.origin).as_nanos().max(1) as u64, Ordering::Release);
        now
    }

    fn end(&self) {
        self.since.store(0, Ordering::Release);
    }

    fn time(&self) -> Option<Duration> {
        let since = self.since.load(Ordering::Acquire);
        (since > 0).then(|| (env::now() - self.origin).saturating_sub(Duration::from_nanos(since)))
    }
}

/// Looks at the time for a script.
struct Clock {
    running: Arc<Running>,
    begun: Instant,
    until: Instant,
}

impl Watch for Clock {
    fn stop(&self) -> Option<Stop> {
        match self.running.kill.load(Ordering::Acquire) {
            true => Some(Stop::Killed),
            false => (env::now() >= self.until).then_some(Stop::Time),
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

/// One script of a batch.
struct Unit {
    call: ScriptCall,
    deadline: Instant,
    /// Set once it is settled.
    reply: Option<Reply>,
}

/// What came of running a batch on one overlay.
enum Pass {
    /// The replies of the first of those that are not settled, in their order.
    Ran { effects: Effects, expected: Vec<Reply>, replies: Vec<Reply> },
    /// Something changed meanwhile, or a script was stopped and settled with that: all run again.
    Again { counts: bool },
}

/// What the thread has.
struct Stage {
    group: Arc<Group>,
    cluster: Arc<Cluster>,
    options: Options,
    handle: Handle,
    running: Arc<Running>,
    interpreter: Option<Interpreter>,
}

impl Stage {
    fn run(mut self, jobs: Receiver<Job>) {
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
                owners.push((job.calls.len(), job.done));
                let unit = |call| Unit { call, deadline: job.deadline, reply: None };
                units.extend(job.calls.into_iter().map(unit));
            }
            self.settle(&mut units);
            let unknown = || Outcome::Unknown { index: None }.failure_reply();
            let mut replies = units.into_iter().map(|unit| unit.reply.unwrap_or_else(unknown));
            for (count, done) in owners {
                let _ = done.send(replies.by_ref().take(count).collect());
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

    /// Gives every script of the batch its reply.
    fn settle(&mut self, units: &mut [Unit]) {
        let mut runs = 0;
        while runs < RUNS_MAX {
            let now = env::now();
            for unit in units.iter_mut().filter(|unit| unit.reply.is_none() && unit.deadline <= now) {
                unit.reply = Some(Refusal::Deadline.reply());
            }
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
            match self.pass(units) {
                Pass::Again { counts } => runs += usize::from(counts),
                Pass::Ran { effects, expected, replies } => {
                    let count = replies.len();
                    match self.conclude(&effects, &expected, deadline, hold) {
                        Conclusion::Done => {
                            give(units, replies);
                            runs = 0;
                        }
                        Conclusion::Changed => runs += 1,
                        Conclusion::Failed(Outcome::NotApplied(Refusal::OutOfMemory)) if open(units) > 1 => {
                            // There is room for one, perhaps, and who asks for too much is alone with that.
                            return units.chunks_mut(1).for_each(|one| self.settle(one));
                        }
                        Conclusion::Failed(outcome) => give(units, vec![outcome.failure_reply(); count]),
                    }
                }
            }
        }
        give_all(units, &Refusal::Busy.reply());
    }

    /// Runs those that are not settled, one after the other, or the first of them.
    fn pass(&mut self, units: &mut [Unit]) -> Pass {
        let seed = env::seed();
        let mut overlay = Overlay::new(Box::new(FromGroup(self.group.clone())), self.group.present(), seed);
        let mut replies = Vec::new();
        for unit in units.iter_mut().filter(|unit| unit.reply.is_none()) {
            let begun = env::now();
            let (caller, reply) = self.one(&unit.call, unit.deadline, overlay);
            let stopped = match reply {
                Ok(reply) => {
                    replies.push(reply);
                    false
                }
                Err(reply) => {
                    unit.reply = Some(reply);
                    true
                }
            };
            overlay = caller.into_overlay();
            if stopped {
                return Pass::Again { counts: false };
            }
            if overlay.is_torn() {
                return Pass::Again { counts: true };
            }
            if begun.elapsed() > LONG || overlay.is_large() {
                break;
            }
        }
        let (effects, expected) = overlay.into_effects();
        Pass::Ran { effects, expected, replies }
    }

    /// Runs one script. The reply is an error outside if it was stopped.
    fn one(&mut self, call: &ScriptCall, deadline: Instant, mut overlay: Overlay) -> (Caller, Result<Reply, Reply>) {
        let mut interpreter = match self.interpreter.take().map_or_else(|| self.fresh(), Ok) {
            Ok(interpreter) => interpreter,
            Err(reply) => return (Caller::new(overlay, Rules::all()), Ok(reply)),
        };
        let rules = match interpreter.compile(&call.sha, &call.body).and_then(|flags| self.rules(call, flags)) {
            Ok(rules) => rules,
            Err(reply) => {
                self.interpreter = Some(interpreter);
                return (Caller::new(overlay, Rules::all()), Ok(reply));
            }
        };
        overlay.touch(call.keys.iter().filter(|key| (rules.owns)(slot_of(key))));
        let begun = self.running.begin();
        let until = deadline.min(begun + self.options.time);
        let watch = Box::new(Clock { running: self.running.clone(), begun, until });
        let Ran { reply, caller, stopped } =
            interpreter.eval(&call.sha, &call.keys, &call.args, Caller::new(overlay, rules), watch);
        self.running.end();
        if interpreter.is_sound() {
            self.interpreter = Some(interpreter);
        }
        match stopped {
            None => (caller, Ok(reply)),
            Some(stop) => {
                tracing::warn!(group = %self.group.id(), sha = call.sha, ?stop, "script-stopped");
                (caller, Err(reply))
            }
        }
    }

    fn fresh(&self) -> Result<Interpreter, Reply> {
        Interpreter::new(Limits { memory: self.options.memory })
    }

    /// What this script may do here.
    fn rules(&self, call: &ScriptCall, flags: scripting::Flags) -> Result<Rules, Reply> {
        if call.read_only && !flags.compatible && !flags.no_writes {
            return Err(Reply::error("ERR Can not execute a script with write flag using *_ro command."));
        }
        let table = self.cluster.table();
        let several = table.data_groups().nth(1).is_some();
        if several && flags.no_cluster {
            return Err(Reply::error("ERR Can not run script on cluster, 'no-cluster' flag is set."));
        }
        let id = self.group.id();
        Ok(Rules {
            read_only: call.read_only || flags.no_writes,
            one_slot: several && !flags.compatible && !flags.allow_cross_slot,
            owns: Box::new(move |slot| !several || table.group_of(slot) == id),
        })
    }

    /// Makes what was run count, if nothing has changed.
    fn conclude(&self, effects: &Effects, expected: &[Reply], deadline: Instant, hold: Option<Hold>) -> Conclusion {
        if effects.calls.is_empty() {
            return self.conclude_read(effects, deadline, hold);
        }
        let (tx, rx) = oneshot::channel();
        let done = Box::new(move |outcome| {
            let _ = tx.send(outcome);
        });
        match &hold {
            Some(_) => self.group.propose_first(effects.to_args(), deadline, done),
            None => self.group.propose(vec![effects.to_args()], deadline, done),
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
            let unchanged = self.group.check(&permit, |keyspace, view| {
                let same = |(key, version): &(Bytes, u64)| view.get(key).map_or(0, |e| e.version()) == *version;
                effects.whole.is_none_or(|version| keyspace.version() == version) && effects.watches.iter().all(same)
            });
            match unchanged {
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

/// How many are not settled.
fn open(units: &[Unit]) -> usize {
    units.iter().filter(|unit| unit.reply.is_none()).count()
}

fn give(units: &mut [Unit], replies: Vec<Reply>) {
    let mut replies = replies.into_iter();
    units.iter_mut().filter(|unit| unit.reply.is_none()).for_each(|unit| unit.reply = replies.next());
}

fn give_all(units: &mut [Unit], reply: &Reply) {
    units.iter_mut().filter(|unit| unit.reply.is_none()).for_each(|unit| unit.reply = Some(reply.clone()));
}
