//! The scripts of one group, at its leader: what waits, what runs, and how it is stopped. The thread's work is `stage.rs`.
//!
//! Who waits behind a script for longer than `busy-reply-threshold` allows is answered BUSY and certainly not run: a
//! submission is either begun by the thread or withdrawn by who waits for it, whichever is first ([`Claim`]).

use super::super::counters::Counters;
use super::super::pubsub::Pubsub;
use super::Options;
use super::call::{Beside, By, Killed, Kind, Runs, Who, Work};
use super::stage::Stage;
use crate::cluster::Cluster;
use crate::env::{self, Instant};
use crate::raft::{Group, Outcome, Refusal};
use crate::resp::Reply;
use crate::scripting;
use crate::types::Author;
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Submissions that may wait.
const QUEUE_MAX: usize = 10_000;
/// Who waits looks no more often than this whether what runs has become too long.
const LOOK_MIN: Duration = Duration::from_millis(1);

/// What one connection submitted.
pub(super) struct Job {
    pub calls: Vec<Work>,
    pub by: Option<Arc<By>>,
    pub author: Option<Author>,
    /// What scripts run is wanted for those who monitor.
    pub shows: bool,
    pub claim: Arc<Claim>,
    pub deadline: Instant,
    pub done: oneshot::Sender<Vec<Done>>,
}

/// What came of one call.
pub(super) struct Done {
    pub reply: Reply,
    pub beside: Beside,
    /// It was not run, because the group does not answer for its slots.
    pub elsewhere: bool,
}

impl From<Reply> for Done {
    fn from(reply: Reply) -> Done {
        Done { reply, beside: Beside::default(), elsewhere: false }
    }
}

/// Whether a submission was begun, or withdrawn before.
#[derive(Default)]
pub(super) struct Claim(AtomicU8);

const WAITS: u8 = 0;
const BEGUN: u8 = 1;
const WITHDRAWN: u8 = 2;

impl Claim {
    fn settle(&self, how: u8) -> bool {
        match self.0.compare_exchange(WAITS, how, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => true,
            Err(settled) => settled == how,
        }
    }

    /// Before it is run; false if nobody waits for it any more.
    pub fn begin(&self) -> bool {
        self.settle(BEGUN)
    }

    /// Whoever waits for it goes; false if it was begun.
    fn withdraw(&self) -> bool {
        self.settle(WITHDRAWN)
    }
}

/// What runs now, as FUNCTION STATS tells it.
#[derive(Debug, Clone)]
pub(super) struct What {
    pub kind: Kind,
    pub name: String,
    pub words: Vec<Bytes>,
}

/// The script that runs now.
pub(super) struct Running {
    origin: Instant,
    /// Nanoseconds from `origin` to its begin; 0: none runs.
    since: AtomicU64,
    kill: AtomicBool,
    what: Mutex<Option<What>>,
}

/// See the head of this file.
pub(super) struct Executor {
    /// None only while it ends.
    queue: Option<SyncSender<Job>>,
    running: Arc<Running>,
    busy_after_ms: Arc<AtomicU64>,
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
    pub fn start(
        group: Arc<Group>,
        cluster: Arc<Cluster>,
        options: Options,
        busy_after_ms: Arc<AtomicU64>,
        counters: Arc<Counters>,
        pubsub: Arc<Pubsub>,
    ) -> Executor {
        let (queue, jobs) = sync_channel(QUEUE_MAX);
        let running = Arc::new(Running {
            origin: env::now(),
            since: AtomicU64::new(0),
            kill: AtomicBool::new(false),
            what: Mutex::default(),
        });
        let name = format!("script-{}", group.id());
        let (handle, there) = (Handle::current(), running.clone());
        // An interpreter stays on the thread that made it.
        let thread = env::spawn_thread_with(&name, scripting::STACK_BYTES, move || {
            Stage::new(group, cluster, options, (handle, there), (counters, pubsub)).run(jobs)
        });
        Executor { queue: Some(queue), running, busy_after_ms, thread: Some(thread) }
    }

    /// Runs calls in their order.
    pub async fn run(&self, calls: Vec<Work>, who: Who, shows: bool, deadline: Instant) -> Vec<Done> {
        let count = calls.len();
        let all = |reply: Reply| (0..count).map(|_| Done::from(reply.clone())).collect();
        let (done, mut came) = oneshot::channel();
        let Some(queue) = &self.queue else { return all(Refusal::ShuttingDown.reply()) };
        let claim = Arc::new(Claim::default());
        let Who { by, author } = who;
        match queue.try_send(Job { calls, by: by.map(Arc::new), author, shows, claim: claim.clone(), deadline, done }) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return all(Refusal::Busy.reply()),
            Err(TrySendError::Disconnected(_)) => return all(Refusal::ShuttingDown.reply()),
        }
        // The thread answers at the deadline; should it have died, nobody knows what it did.
        let lost = || all(Outcome::Unknown { index: None }.failure_reply());
        while let Some(patience) = self.patience() {
            if let Ok(came) = env::timeout(patience, &mut came).await {
                return came.unwrap_or_else(|_| lost());
            }
            match self.running.busy(self.busy_after()) {
                Some(kind) if claim.withdraw() => return all(kind.busy()),
                Some(_) => break,
                None => {}
            }
        }
        came.await.unwrap_or_else(|_| lost())
    }

    /// None: no script is ever too long to wait for.
    fn busy_after(&self) -> Option<Duration> {
        Some(self.busy_after_ms.load(Ordering::Relaxed)).filter(|ms| *ms > 0).map(Duration::from_millis)
    }

    /// How long to wait before it is looked again whether what runs has become too long.
    fn patience(&self) -> Option<Duration> {
        let ran = self.running.time().unwrap_or_default();
        Some(self.busy_after()?.saturating_sub(ran).max(LOOK_MIN))
    }

    /// What runs, if something does.
    pub fn runs(&self) -> Option<Runs> {
        let what = self.running.what.lock().clone()?;
        let ms = self.running.time()?.as_millis() as u64;
        Some(Runs { name: what.name, words: what.words, ms })
    }

    /// Stops what runs, if it is of this kind.
    pub fn kill(&self, kind: Kind) -> Killed {
        let what = self.running.what.lock();
        match what.as_ref().map(|what| what.kind) {
            None => Killed::Nothing,
            Some(running) if running != kind => Killed::Other,
            Some(_) => {
                self.running.kill.store(true, Ordering::Release);
                Killed::Stopped
            }
        }
    }
}

impl Running {
    pub fn begin(&self, what: What) -> Instant {
        let now = env::now();
        let mut place = self.what.lock();
        self.kill.store(false, Ordering::Release);
        self.since.store((now - self.origin).as_nanos().max(1) as u64, Ordering::Release);
        *place = Some(what);
        now
    }

    pub fn end(&self) {
        self.since.store(0, Ordering::Release);
        *self.what.lock() = None;
    }

    pub fn is_killed(&self) -> bool {
        self.kill.load(Ordering::Acquire)
    }

    /// For how long a script has been running, if one is.
    fn time(&self) -> Option<Duration> {
        let since = self.since.load(Ordering::Acquire);
        (since > 0).then(|| (env::now() - self.origin).saturating_sub(Duration::from_nanos(since)))
    }

    /// What has been running for longer than that.
    fn busy(&self, after: Option<Duration>) -> Option<Kind> {
        let (ran, after) = (self.time()?, after?);
        let kind = self.what.lock().as_ref().map(|what| what.kind);
        kind.filter(|_| ran >= after)
    }
}
