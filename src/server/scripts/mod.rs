//! Scripts on this node: which are known, who leads where they must run, and their way there.
//!
//! ```text
//! session -> lane -> submit: text of each script -> carry -> executor of the group, at its leader -> replies
//!                            (here, or the meta group)        (here, or by the link to the leader)
//! ```
//!
//! Scripts that were loaded are documents of the meta group, `script/<sha1>`: whoever was told that one is loaded finds it
//! through any node, which asks the meta group's leader before it says that there is none. A script that was only run is
//! put there as well, a little later and for a day, as long as there is room; until then this node knows it.
//!
//! Libraries of functions are documents of the meta group, too: see `functions.rs`.
//!
//! Bounds: [`RECENT_MAX`] scripts that this node knows by itself, [`LOADED_MAX`] in the meta group, [`CALL_BYTES_MAX`] of
//! one call.

mod call;
mod executor;
mod functions;
mod stage;

pub(super) use call::{By, Who};

use super::Shared;
use super::counters::Counters;
use super::pubsub::Pubsub;
use crate::cluster::Cluster;
use crate::commands::node::ScriptFacts;
use crate::commands::script::{self, ScriptCommand};
use crate::commands::{self, Run, atomic};
use crate::env::{self, Instant};
use crate::raft::carry::Carried;
use crate::raft::{Elsewhere, Group, OnOutcome, Outcome, Refusal};
use crate::resp::{Args, Reply};
use crate::scripting::{self, Interpreter, Limits};
use crate::state::{EntryRef, Keyspace};
use crate::types::{GroupId, Level, Slot};
use bytes::Bytes;
use call::{Answer, Beside, Killed, Kind, Program, Request, ScriptCall, Step, Work};
use executor::Executor;
use functions::Functions;
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Scripts that a node knows because they were run through it, and their bytes. All are forgotten when there are more.
const RECENT_MAX: (usize, usize) = (1024, 16 << 20);
/// Scripts in the meta group, and their bytes.
const LOADED_MAX: (usize, usize) = (4096, 32 << 20);
/// Beyond this share of [`LOADED_MAX`], one in so many, scripts that were only run are not put there.
const RUN_SHARE: usize = 2;
/// Bytes of a call: its script, keys and arguments.
const CALL_BYTES_MAX: usize = 64 << 20;
/// How long a script stays in the meta group that was only run.
const RUN_SECONDS: &str = "86400";
/// How long a node waits before it looks again for a leader.
const RETRY: Duration = Duration::from_millis(10);
/// A call that was carried is given up this long after its deadline: the leader answers at the deadline.
const GRACE: Duration = Duration::from_millis(500);
/// How long putting a script into the meta group may take that nobody waits for.
const LAZILY: Duration = Duration::from_secs(5);

const DOCUMENT: &str = "script/";
/// Counts SCRIPT FLUSH: what nodes know by themselves holds for one count.
const FLUSHES: &str = "scripts-flushed";

/// What scripts may take on this node.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Memory of an interpreter.
    pub memory: usize,
    /// How long a script may run.
    pub time: Duration,
    /// After this, other scripts of the same group are answered BUSY.
    pub busy_after: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options { memory: 64 << 20, time: Duration::from_secs(5), busy_after: Duration::from_secs(5) }
    }
}

/// Scripts that were run here.
#[derive(Default)]
struct Recent {
    flushes: u64,
    bytes: usize,
    known: HashMap<String, Bytes>,
}

impl Recent {
    fn forget(&mut self) {
        *self = Recent { flushes: self.flushes, ..Recent::default() };
    }
}

/// See the head of this file.
pub struct Scripts {
    cluster: Arc<Cluster>,
    options: Options,
    /// After so long, other scripts of the same group are answered BUSY.
    busy_after_ms: Arc<AtomicU64>,
    /// Of what scripts run.
    counters: Arc<Counters>,
    pubsub: Arc<Pubsub>,
    /// Says what scripts publish, and shows what they run.
    doors: Weak<Shared>,
    recent: Mutex<Recent>,
    functions: Mutex<Functions>,
    executors: Mutex<HashMap<GroupId, Arc<Executor>>>,
}

/// Of calls that have replies, some of which were not run where they came to.
fn outcome(replies: Vec<Reply>, calls: Vec<Elsewhere>) -> Outcome {
    match calls.is_empty() {
        true => Outcome::Applied { index: 0, replies },
        false => Outcome::Elsewhere { index: 0, replies, calls },
    }
}

fn noscript() -> Reply {
    Reply::error("NOSCRIPT No matching script. Please use EVAL.")
}

fn document(sha: &str) -> Bytes {
    Bytes::from(format!("{DOCUMENT}{sha}"))
}

fn words(words: &[&[u8]]) -> Args {
    words.iter().map(|word| Bytes::copy_from_slice(word)).collect()
}

fn text_of(keyspace: &Keyspace, key: &[u8]) -> Option<Bytes> {
    keyspace.get(key).and_then(|entry| document_of(&entry))
}

fn document_of(entry: &EntryRef<'_>) -> Option<Bytes> {
    entry.value().as_text().map(|text| text.to_bytes(usize::MAX))
}

impl Scripts {
    /// Answers what other nodes carry here from now on.
    pub(super) fn open(
        cluster: Arc<Cluster>,
        options: Options,
        busy_after_ms: Arc<AtomicU64>,
        counters: Arc<Counters>,
        pubsub: Arc<Pubsub>,
        doors: Weak<Shared>,
    ) -> Arc<Scripts> {
        let scripts = Arc::new(Scripts {
            busy_after_ms,
            counters,
            pubsub,
            doors,
            options,
            recent: Mutex::default(),
            functions: Mutex::default(),
            executors: Mutex::default(),
            cluster: cluster.clone(),
        });
        let known: Weak<Scripts> = Arc::downgrade(&scripts);
        cluster.host().answer_with(Box::new(move |group, request| {
            let scripts = known.upgrade();
            Box::pin(async move {
                let scripts = scripts.ok_or_else(|| "this node is closing".to_owned())?;
                scripts.answer(group, &request).await
            })
        }));
        scripts
    }

    // --- running ---

    /// Runs scripts of one connection, and transactions that have some, in their order. `done` runs exactly once. Must be
    /// called in a runtime.
    pub(super) fn submit(
        self: &Arc<Self>,
        group: Arc<Group>,
        calls: Vec<Args>,
        who: Who,
        deadline: Instant,
        done: OnOutcome,
    ) {
        let scripts = self.clone();
        tokio::spawn(async move { done(scripts.run(&group, &calls, who, deadline).await) });
    }

    async fn run(&self, group: &Arc<Group>, calls: &[Args], who: Who, deadline: Instant) -> Outcome {
        let mut replies: Vec<Option<Reply>> = Vec::with_capacity(calls.len());
        let mut wanted = Vec::new();
        for call in calls {
            match self.prepare(call, deadline).await {
                Ok(prepared) => {
                    wanted.push(prepared);
                    replies.push(None);
                }
                Err(refused) => replies.push(Some(refused)),
            }
        }
        if wanted.is_empty() {
            return Outcome::Applied { index: 0, replies: replies.into_iter().flatten().collect() };
        }
        let Answer { outcome, beside, .. } = self.carry(group, wanted, &who, deadline).await;
        self.tell(beside, who.by.as_ref());
        let (mut own, elsewhere) = match outcome {
            Outcome::Applied { replies, .. } => (replies.into_iter(), Vec::new()),
            Outcome::Elsewhere { replies, calls, .. } => (replies.into_iter(), calls),
            failed => return failed,
        };
        // Places among those that were carried are told, and wanted are those among all.
        let carried = replies.iter().enumerate().filter(|(_, known)| known.is_none()).map(|(place, _)| place);
        let carried: Vec<usize> = carried.collect();
        let of_all = |there: Elsewhere| {
            let place = *carried.get(there.place as usize)?;
            Some(Elsewhere { place: place as u32, call: calls[place].clone() })
        };
        let elsewhere = elsewhere.into_iter().filter_map(of_all).collect();
        let missing = || Outcome::Unknown { index: None }.failure_reply();
        let replies = replies.into_iter().map(|known| known.or_else(|| own.next()).unwrap_or_else(missing)).collect();
        self::outcome(replies, elsewhere)
    }

    /// Carries out what runs left to do here, before whoever asked is answered.
    fn tell(&self, mut beside: Beside, by: Option<&By>) {
        let published = beside.take_published();
        if let Some(by) = by {
            let registry = self.cluster.registry();
            beside.refused.into_iter().for_each(|refused| refused.note(registry, env::wall_ms(), by));
        }
        if let Some(doors) = self.doors.upgrade() {
            doors.show_of_scripts(&beside.shown, beside.not_shown);
            doors.say(&published);
        }
    }

    /// Finds what a call needs to run elsewhere, or what it is answered without.
    async fn prepare(&self, args: &Args, deadline: Instant) -> Result<Work, Reply> {
        if args.iter().map(|arg| arg.len()).sum::<usize>() > CALL_BYTES_MAX {
            return Err(Refusal::TooLarge.reply());
        }
        if !atomic::is_atomic(args) {
            return self.prepare_script(args, deadline).await.map(Work::Script);
        }
        let (watches, calls) =
            atomic::take_apart(args).ok_or_else(|| Reply::error("ERR a transaction that cannot be read"))?;
        let mut steps = Vec::with_capacity(calls.len());
        for call in calls {
            steps.push(match commands::lookup(&call) {
                Ok(command) if command.is_script() => match self.prepare_script(&call, deadline).await {
                    Ok(prepared) => Step::Script(prepared),
                    Err(refused) => Step::Settled(refused),
                },
                Ok(_) => Step::Command(call.to_vec()),
                Err(refused) => Step::Settled(refused),
            });
        }
        Ok(Work::Transaction { watches, steps })
    }

    async fn prepare_script(&self, args: &Args, deadline: Instant) -> Result<ScriptCall, Reply> {
        let command = commands::lookup(args)?;
        if let Run::Script(ScriptCommand::Fcall { read_only }) = command.run {
            let program = self.find_function(&args[1], deadline).await?;
            let keys = script::key_count_of_function(args)?;
            return Ok(ScriptCall { program, words: args.to_vec(), keys, read_only });
        }
        let keys = script::key_count(args)?;
        let (program, read_only) = match command.run {
            Run::Script(ScriptCommand::Eval { read_only }) => {
                let sha = scripting::sha1_hex(&args[1]);
                self.remember(&sha, &args[1]);
                (Program::Script { sha, body: None }, read_only)
            }
            Run::Script(ScriptCommand::EvalSha { read_only }) => {
                let sha = String::from_utf8_lossy(&args[1]).to_ascii_lowercase();
                let body = Some(self.find(&sha, deadline).await?);
                (Program::Script { sha, body }, read_only)
            }
            _ => return Err(Reply::error("ERR only scripts can be run as such")),
        };
        Ok(ScriptCall { program, words: args.to_vec(), keys, read_only })
    }

    /// Has calls run where the group is led.
    async fn carry(&self, group: &Arc<Group>, mut calls: Vec<Work>, who: &Who, deadline: Instant) -> Answer {
        let shows = self.doors.upgrade().is_some_and(|doors| doors.is_monitored());
        loop {
            let wait_ms = deadline.remaining().as_millis() as u64;
            if wait_ms == 0 {
                let refusal = if group.leader().is_none() { Refusal::NoLeader } else { Refusal::Deadline };
                return Outcome::NotApplied(refusal).into();
            }
            if group.is_leader() {
                return self.run_here(group, calls, who.clone(), shows, deadline).await;
            }
            let request = Request::Run { wait_ms, who: who.clone(), shows, calls: calls.clone() };
            let request = postcard::to_stdvec(&request).expect("a call is plain data");
            match group.carry(request.into(), deadline + GRACE).await {
                Carried::Answer(bytes) => match postcard::from_bytes::<Answer>(&bytes) {
                    Ok(Answer { outcome: Outcome::NotApplied(Refusal::WrongTerm), .. }) => {
                        group.leader_may_have_changed(RETRY).await
                    }
                    Ok(Answer { lacks_code: true, .. }) => calls.iter_mut().for_each(Work::send_code),
                    Ok(answer) => return answer,
                    Err(_) => return Outcome::Unknown { index: None }.into(),
                },
                Carried::Unknown => return Outcome::Unknown { index: None }.into(),
                Carried::Here => {}
                Carried::Nowhere | Carried::Refused => group.leader_may_have_changed(RETRY).await,
            }
        }
    }

    async fn run_here(&self, group: &Arc<Group>, calls: Vec<Work>, who: Who, shows: bool, deadline: Instant) -> Answer {
        let (mut replies, mut beside, mut elsewhere) = (Vec::with_capacity(calls.len()), Beside::default(), Vec::new());
        for (place, done) in (0u32..).zip(self.executor(group).run(calls, who, shows, deadline).await) {
            replies.push(done.reply);
            beside.append(done.beside);
            elsewhere.extend(done.elsewhere.then(|| Elsewhere { place, call: Args::new() }));
        }
        Answer { outcome: outcome(replies, elsewhere), beside, lacks_code: false }
    }

    fn executor(&self, group: &Arc<Group>) -> Arc<Executor> {
        let mut executors = self.executors.lock();
        let fresh = || {
            let (cluster, busy_after_ms) = (self.cluster.clone(), self.busy_after_ms.clone());
            let (counters, pubsub) = (self.counters.clone(), self.pubsub.clone());
            Arc::new(Executor::start(group.clone(), cluster, self.options, busy_after_ms, counters, pubsub))
        };
        executors.entry(group.id()).or_insert_with(fresh).clone()
    }

    /// Ends what ran scripts of groups that have gone: it holds them.
    pub(super) fn forget_groups(&self, there: impl Fn(GroupId) -> bool) {
        let gone: Vec<Arc<Executor>> =
            self.executors.lock().extract_if(|id, _| !there(*id)).map(|(_, executor)| executor).collect();
        // Its end is waited for, and a script may run: not here.
        if !gone.is_empty() {
            env::spawn_thread("end-scripts", move || drop(gone));
        }
    }

    /// What another node carried here.
    async fn answer(&self, group: GroupId, request: &Bytes) -> Result<Bytes, String> {
        let request: Request = postcard::from_bytes(request).map_err(|_| "a request that cannot be read".to_owned())?;
        let group = self.cluster.host().group(group).ok_or_else(|| format!("group {group} is not on this node"))?;
        let answer = match request {
            Request::Run { .. } if !group.is_leader() => {
                postcard::to_stdvec(&Answer::from(Outcome::NotApplied(Refusal::WrongTerm)))
            }
            Request::Run { calls, .. } if !calls.iter().all(Work::is_whole) => {
                return Err("a call that cannot be read".to_owned());
            }
            Request::Run { wait_ms, who, shows, mut calls } => {
                let known = |library: &str, sha: &str| self.code_of(library, sha);
                if !calls.iter_mut().all(|work| work.find_code(known)) {
                    let nothing = Outcome::NotApplied(Refusal::Recovering);
                    let answer = Answer { lacks_code: true, ..Answer::from(nothing) };
                    return Ok(postcard::to_stdvec(&answer).expect("an outcome is plain data").into());
                }
                let deadline = env::now() + Duration::from_millis(wait_ms);
                postcard::to_stdvec(&self.run_here(&group, calls, who, shows, deadline).await)
            }
            Request::Kill(kind) => postcard::to_stdvec(&self.kill_here(kind)),
            Request::What => postcard::to_stdvec(&self.runs_here()),
        };
        Ok(answer.expect("an outcome is plain data").into())
    }

    // --- knowing ---

    /// Whether a command about scripts may change anything, as far as this node can tell at once.
    pub(super) fn may_change(&self, command: ScriptCommand, args: &Args) -> bool {
        let read_only = |body: &[u8]| scripting::of_script(body).is_ok_and(|(flags, _)| flags.no_writes);
        match command {
            ScriptCommand::Eval { read_only: known } => !known && !read_only(&args[1]),
            ScriptCommand::EvalSha { read_only: known } => {
                let sha = String::from_utf8_lossy(&args[1]).to_ascii_lowercase();
                !known && !self.known(&sha).is_some_and(|body| read_only(&body))
            }
            ScriptCommand::Fcall { read_only: known } => !known && !self.is_read_only(&args[1]),
            other => other.changes_functions(),
        }
    }

    fn meta(&self) -> Option<Arc<Group>> {
        self.cluster.host().group(GroupId::META)
    }

    fn flushes(meta: &Group) -> u64 {
        let count = meta.peek(|keyspace| text_of(keyspace, FLUSHES.as_bytes()));
        count.and_then(|count| std::str::from_utf8(&count).ok()?.parse().ok()).unwrap_or(0)
    }

    /// A script that this node knows.
    fn known(&self, sha: &str) -> Option<Bytes> {
        let meta = self.meta()?;
        let flushes = Scripts::flushes(&meta);
        let recent = {
            let mut recent = self.recent.lock();
            if recent.flushes != flushes {
                *recent = Recent { flushes, ..Recent::default() };
            }
            recent.known.get(sha).cloned()
        };
        recent.or_else(|| meta.peek(|keyspace| text_of(keyspace, &document(sha))))
    }

    /// Scripts that this node knows, and functions with their libraries.
    pub(super) fn facts(&self) -> ScriptFacts {
        let Some(meta) = self.meta() else { return ScriptFacts::default() };
        let flushes = Scripts::flushes(&meta);
        let mut names: BTreeSet<Bytes> = meta.peek(|keyspace| documents(keyspace).map(|(name, _)| name).collect());
        let recent = self.recent.lock();
        if recent.flushes == flushes {
            names.extend(recent.known.keys().map(|sha| document(sha)));
        }
        drop(recent);
        let libraries = self.libraries().unwrap_or_default();
        let (functions, libraries) = (libraries.functions() as u64, libraries.iter().len() as u64);
        ScriptFacts { scripts: names.len() as u64, functions, libraries }
    }

    /// A script by its name; asks the meta group's leader before it says that there is none.
    async fn find(&self, sha: &str, deadline: Instant) -> Result<Bytes, Reply> {
        if sha.len() != 40 || !sha.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(noscript());
        }
        if let Some(body) = self.known(sha) {
            return Ok(body);
        }
        self.catch_up(deadline).await?;
        self.known(sha).ok_or_else(noscript)
    }

    /// Waits until this node knows what the meta group has agreed on by now.
    async fn catch_up(&self, deadline: Instant) -> Result<Arc<Group>, Reply> {
        let meta = self.meta().ok_or_else(|| Refusal::NoLeader.reply())?;
        meta.barrier(Level::Linearizable, deadline).await.map_err(|refusal| refusal.reply())?;
        Ok(meta)
    }

    /// What a connection says about scripts holds for what it says next, although the meta group is only being asked.
    pub fn expect(&self, kind: ScriptCommand, args: &Args) {
        match kind {
            ScriptCommand::Load => {
                let _ = self.note(&scripting::sha1_hex(&args[2]), &args[2]);
            }
            ScriptCommand::Flush => self.recent.lock().forget(),
            _ => {}
        }
    }

    /// Notes a script that this node has seen; false if it knew it.
    fn note(&self, sha: &str, body: &Bytes) -> bool {
        let flushes = self.meta().map_or(0, |meta| Scripts::flushes(&meta));
        let mut recent = self.recent.lock();
        if recent.flushes != flushes {
            *recent = Recent { flushes, ..Recent::default() };
        }
        if recent.known.contains_key(sha) {
            return false;
        }
        if recent.known.len() >= RECENT_MAX.0 || recent.bytes + body.len() > RECENT_MAX.1 {
            recent.forget();
        }
        recent.bytes += body.len();
        // A copy: the argument shares a buffer with everything that came beside it.
        recent.known.insert(sha.to_owned(), Bytes::copy_from_slice(body));
        true
    }

    /// Notes a script that is run, and puts it into the meta group if it is not there.
    fn remember(&self, sha: &str, body: &Bytes) {
        let Some(meta) = self.meta().filter(|_| self.note(sha, body)) else { return };
        let key = document(sha);
        if meta.peek(|keyspace| keyspace.contains(&key)) || !has_room(&meta, body.len(), RUN_SHARE) {
            return;
        }
        let call = words(&[b"SET", &key, body, b"NX", b"EX", RUN_SECONDS.as_bytes()]);
        meta.propose(vec![call], env::now() + LAZILY, Box::new(|_| ()));
    }

    // --- SCRIPT ---

    /// Answers a subcommand of SCRIPT.
    pub async fn administer(self: Arc<Self>, kind: ScriptCommand, args: Args, deadline: Instant) -> Reply {
        let result = match kind {
            ScriptCommand::Help => Ok(script::help()),
            ScriptCommand::Load => self.load(&args[2], deadline).await,
            ScriptCommand::Exists => self.exist(&args[2..], deadline).await,
            ScriptCommand::Flush => self.flush(deadline).await,
            ScriptCommand::Kill => Ok(self.kill(Kind::Script, deadline).await),
            ScriptCommand::Function(command) => self.administer_functions(command, &args, deadline).await,
            _ => Err(Reply::error("ERR scripts need a group")),
        };
        result.unwrap_or_else(|refused| refused)
    }

    async fn load(&self, body: &Bytes, deadline: Instant) -> Result<Reply, Reply> {
        let sha = scripting::sha1_hex(body);
        self.compiles(&sha, body).await?;
        let meta = self.meta().ok_or_else(|| Refusal::NoLeader.reply())?;
        let key = document(&sha);
        if !meta.peek(|keyspace| keyspace.contains(&key)) && !has_room(&meta, body.len(), 1) {
            return Err(Reply::error("OOM too many scripts are loaded; SCRIPT FLUSH forgets them"));
        }
        self.commit(&meta, vec![words(&[b"SET", &key, body])], deadline).await?;
        Ok(Reply::bulk(sha))
    }

    async fn commit(&self, meta: &Group, calls: Vec<Args>, deadline: Instant) -> Result<(), Reply> {
        match meta.propose_and_wait(calls, deadline).await {
            Outcome::Applied { .. } => Ok(()),
            failed => Err(failed.failure_reply()),
        }
    }

    /// Whether a script can be compiled, tried where nobody waits for it.
    async fn compiles(&self, sha: &str, body: &Bytes) -> Result<(), Reply> {
        let (tx, rx) = tokio::sync::oneshot::channel();
        let (sha, body, memory) = (sha.to_owned(), body.clone(), self.options.memory);
        env::spawn_thread("script-check", move || {
            let compiled = Interpreter::new(Limits { memory }).and_then(|mut i| i.compile(&sha, &body).map(drop));
            let _ = tx.send(compiled);
        });
        rx.await.unwrap_or_else(|_| Err(Reply::error("ERR the script could not be compiled")))
    }

    async fn exist(&self, names: &[Bytes], deadline: Instant) -> Result<Reply, Reply> {
        self.catch_up(deadline).await?;
        let known = |name: &Bytes| self.known(&String::from_utf8_lossy(name).to_ascii_lowercase()).is_some();
        Ok(Reply::Array(names.iter().map(|name| Reply::Int(i64::from(known(name)))).collect()))
    }

    async fn flush(&self, deadline: Instant) -> Result<Reply, Reply> {
        let meta = self.catch_up(deadline).await?;
        let mut calls = vec![words(&[b"INCR", FLUSHES.as_bytes()])];
        let names: Vec<Bytes> = meta.peek(|keyspace| documents(keyspace).map(|(name, _)| name).collect());
        if !names.is_empty() {
            calls.push(std::iter::once(Bytes::from_static(b"DEL")).chain(names).collect());
        }
        self.commit(&meta, calls, deadline).await?;
        Ok(Reply::OK)
    }

    /// Stops what of this kind runs on this node.
    fn kill_here(&self, kind: Kind) -> Killed {
        let executors: Vec<Arc<Executor>> = self.executors.lock().values().cloned().collect();
        executors.iter().map(|executor| executor.kill(kind)).fold(Killed::Nothing, Killed::and)
    }

    /// Stops what runs here and at the leaders of all groups that this node has a part in.
    async fn kill(&self, kind: Kind, deadline: Instant) -> Reply {
        let mut killed = self.kill_here(kind);
        let request = Bytes::from(postcard::to_stdvec(&Request::Kill(kind)).expect("it is plain data"));
        for group in self.cluster.host().groups() {
            if let Carried::Answer(answer) = group.carry(request.clone(), deadline).await {
                killed = killed.and(postcard::from_bytes(&answer).unwrap_or(Killed::Nothing));
            }
        }
        match killed {
            Killed::Stopped => Reply::OK,
            Killed::Other => kind.other().busy(),
            Killed::Nothing => Reply::error("NOTBUSY No scripts in execution right now."),
        }
    }
}

/// Scripts in the meta group, with their sizes.
fn documents(keyspace: &Keyspace) -> impl Iterator<Item = (Bytes, usize)> {
    let all = keyspace.walk(Slot(0), 0).filter(|located| located.entry.key().starts_with(DOCUMENT.as_bytes()));
    all.map(|located| (Bytes::copy_from_slice(located.entry.key()), located.entry.value().weight()))
}

/// Whether a script of this size has room in one part in `share` of the meta group's.
fn has_room(meta: &Group, bytes: usize, share: usize) -> bool {
    let (count, sum) =
        meta.peek(|keyspace| documents(keyspace).fold((0, 0), |(n, sum), (_, size)| (n + 1, sum + size)));
    count < LOADED_MAX.0 / share && sum + bytes <= LOADED_MAX.1 / share
}
