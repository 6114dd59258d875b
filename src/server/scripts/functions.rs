//! Libraries of functions: documents of the meta group, so that each node knows them, and FUNCTION, which changes them.
//!
//! ```text
//! functions/<name>      a library: its code and what it registered
//! functions-changed     counts the changes
//! ```
//!
//! A change is made on what the meta group's leader vouches for, and applied only if nobody changed anything meanwhile; else
//! it is made again on what that one left. Who is answered finds the change on the node that it asked, and any other node
//! that does not know a function asks the meta group's leader before it says so. What was replaced may be called by its
//! old code through other nodes until the change has reached them.
//!
//! Bounds: [`LIBRARIES_MAX`] libraries and their bytes; [`LOAD_TIME`] for registering the functions of one.

use super::call::{Kind, Program, Request, Runs};
use super::{Scripts, document_of, words};
use crate::commands::effects::Effects;
use crate::commands::script::{self, FunctionCommand, Policy};
use crate::env::{self, Instant};
use crate::raft::carry::Carried;
use crate::raft::{Group, Outcome};
use crate::resp::{Args, Reply};
use crate::scripting::{self, ENGINE, Interpreter, Libraries, Library, Limits, Stop, Watch};
use crate::state::{Keyspace, Seen};
use crate::types::Slot;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// How many libraries there may be, and bytes of them all.
const LIBRARIES_MAX: (usize, usize) = (1024, 32 << 20);
/// How long a library may take to register its functions.
const LOAD_TIME: Duration = Duration::from_millis(500);

const DOCUMENT: &str = "functions/";
const CHANGES: &[u8] = b"functions-changed";
/// The version of a document's form, its first byte.
const VERSION: u8 = 1;

/// The libraries as this node knows them, and the version of [`CHANGES`] that they belong to.
#[derive(Default)]
pub(super) struct Functions {
    version: u64,
    libraries: Arc<Libraries>,
}

fn document(library: &str) -> Bytes {
    Bytes::from(format!("{DOCUMENT}{library}"))
}

fn to_document(library: &Library) -> Bytes {
    let mut out = vec![VERSION];
    out.extend(postcard::to_stdvec(library).expect("a library is plain data"));
    out.into()
}

fn of_document(bytes: &[u8]) -> Option<Library> {
    let (version, rest) = bytes.split_first()?;
    postcard::from_bytes(rest).ok().filter(|_| *version == VERSION)
}

fn version_of(keyspace: &Keyspace) -> u64 {
    keyspace.get(CHANGES).map_or(0, |entry| entry.version())
}

fn all_of(keyspace: &Keyspace) -> Libraries {
    let documents = keyspace.walk(Slot(0), 0).filter(|located| located.entry.key().starts_with(DOCUMENT.as_bytes()));
    let libraries = documents.filter_map(|located| {
        let library = document_of(&located.entry).and_then(|bytes| of_document(&bytes));
        if library.is_none() {
            let key = String::from_utf8_lossy(located.entry.key()).into_owned();
            tracing::error!(key, "a library that cannot be read; its functions are not known here");
        }
        library
    });
    Libraries::of(libraries)
}

/// Stops a library that takes too long to register its functions.
struct Patience {
    begun: Instant,
    until: Instant,
}

impl Watch for Patience {
    fn stop(&self) -> Option<Stop> {
        (env::now() >= self.until).then_some(Stop::Time)
    }

    fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }
}

/// What a change of the libraries does: which are written, and which go.
struct Change {
    put: Vec<Library>,
    delete: Vec<String>,
    reply: Reply,
}

impl Scripts {
    // --- knowing ---

    /// The libraries as this node knows them at present.
    pub(super) fn libraries(&self) -> Option<Arc<Libraries>> {
        let meta = self.meta()?;
        Some(self.libraries_of(&meta).1)
    }

    fn libraries_of(&self, meta: &Group) -> (u64, Arc<Libraries>) {
        let mut known = self.functions.lock();
        if meta.peek(version_of) != known.version {
            let (version, libraries) = meta.peek(|keyspace| (version_of(keyspace), all_of(keyspace)));
            *known = Functions { version, libraries: Arc::new(libraries) };
        }
        (known.version, known.libraries.clone())
    }

    /// The code of a library, if this node knows it as the one with this name of its code.
    pub(super) fn code_of(&self, library: &str, sha: &str) -> Option<Bytes> {
        let libraries = self.libraries()?;
        libraries.get(library).filter(|library| library.sha == sha).map(|library| library.code.clone())
    }

    /// A function by its name; asks the meta group's leader before it says that there is none.
    pub(super) async fn find_function(&self, name: &Bytes, deadline: Instant) -> Result<Program, Reply> {
        let find = || self.libraries().and_then(|libraries| program(&libraries, name));
        if let Some(found) = find() {
            return Ok(found);
        }
        self.catch_up(deadline).await?;
        find().ok_or_else(|| Reply::error("ERR Function not found"))
    }

    /// Whether this node knows a function of this name that says of itself that it does not write.
    pub(super) fn is_read_only(&self, name: &[u8]) -> bool {
        let libraries = self.libraries();
        let function = libraries.as_ref().and_then(|libraries| libraries.function(name));
        function.is_some_and(|(_, function)| function.flags.no_writes)
    }

    // --- FUNCTION ---

    pub(super) async fn administer_functions(
        &self,
        command: FunctionCommand,
        args: &Args,
        deadline: Instant,
    ) -> Result<Reply, Reply> {
        match command {
            FunctionCommand::Help => Ok(script::function_help()),
            FunctionCommand::Kill => Ok(self.kill(Kind::Function, deadline).await),
            FunctionCommand::Load => self.load_library(args, deadline).await,
            FunctionCommand::Restore => self.restore_libraries(args, deadline).await,
            FunctionCommand::Delete => {
                let name = String::from_utf8_lossy(&args[2]).into_owned();
                let not_found = || Reply::error("ERR Library not found");
                let delete = |known: &Libraries| {
                    known.get(&name).ok_or_else(not_found)?;
                    Ok(Change { put: Vec::new(), delete: vec![name.clone()], reply: Reply::OK })
                };
                self.change(delete, deadline).await
            }
            FunctionCommand::Flush => {
                let flush = |known: &Libraries| {
                    let delete = known.iter().map(|library| library.name.clone()).collect();
                    Ok(Change { put: Vec::new(), delete, reply: Reply::OK })
                };
                self.change(flush, deadline).await
            }
            FunctionCommand::List => {
                let listing = script::function_list(args)?;
                Ok(self.newest(deadline).await?.listed(&listing))
            }
            FunctionCommand::Dump => {
                let libraries = self.newest(deadline).await?;
                Ok(Reply::Bulk(scripting::seal(libraries.iter().map(|library| &library.code))))
            }
            FunctionCommand::Stats => {
                let libraries = self.newest(deadline).await?;
                Ok(stats(&libraries, self.runs(deadline).await))
            }
        }
    }

    async fn newest(&self, deadline: Instant) -> Result<Arc<Libraries>, Reply> {
        let meta = self.catch_up(deadline).await?;
        Ok(self.libraries_of(&meta).1)
    }

    async fn load_library(&self, args: &Args, deadline: Instant) -> Result<Reply, Reply> {
        let (code, replace) = script::function_load(args)?;
        let (name, _) = scripting::head(code)?;
        if self.newest(deadline).await?.get(&name).is_some() && !replace {
            return Err(Reply::error(format!("ERR Library '{name}' already exists")));
        }
        let loaded = self.registered(vec![Bytes::copy_from_slice(code)]).await?;
        let change = |known: &Libraries| {
            known.may_join(&loaded, replace, true)?;
            Ok(Change { put: loaded.clone(), delete: Vec::new(), reply: Reply::bulk(name.clone()) })
        };
        self.change(change, deadline).await
    }

    async fn restore_libraries(&self, args: &Args, deadline: Instant) -> Result<Reply, Reply> {
        let policy = script::restore_policy(args)?;
        let wrong = || Reply::error("ERR DUMP payload version or checksum are wrong");
        let loaded = self.registered(scripting::unseal(&args[2]).ok_or_else(wrong)?).await?;
        // Nobody seals two of one name; one that was made so is no dump.
        Libraries::default().may_join(&loaded, false, false)?;
        for (at, library) in loaded.iter().enumerate() {
            Libraries::of(loaded[..at].iter().cloned()).may_join(std::slice::from_ref(library), false, false)?;
        }
        let change = |known: &Libraries| {
            let mut delete = Vec::new();
            match policy {
                Policy::Flush => delete.extend(known.iter().map(|library| library.name.clone())),
                _ => known.may_join(&loaded, policy == Policy::Replace, false)?,
            }
            Ok(Change { put: loaded.clone(), delete, reply: Reply::OK })
        };
        self.change(change, deadline).await
    }

    /// Runs libraries for what they register, where nobody waits for it.
    async fn registered(&self, codes: Vec<Bytes>) -> Result<Vec<Library>, Reply> {
        let (tx, rx) = tokio::sync::oneshot::channel();
        let memory = self.options.memory;
        env::spawn_thread_with("script-check", scripting::STACK_BYTES, move || {
            let _ = tx.send(codes.into_iter().map(|code| register(code, memory)).collect());
        });
        rx.await.unwrap_or_else(|_| Err(Reply::error("ERR the library could not be loaded")))
    }

    /// Makes a change on what is newest, again and again until nobody else made one meanwhile.
    async fn change(
        &self,
        wanted: impl Fn(&Libraries) -> Result<Change, Reply>,
        deadline: Instant,
    ) -> Result<Reply, Reply> {
        loop {
            let meta = self.catch_up(deadline).await?;
            let (version, known) = self.libraries_of(&meta);
            let Change { put, delete, reply } = wanted(&known)?;
            if !has_room(&known, &put, &delete) {
                return Err(Reply::error("OOM too many libraries of functions, or too large ones (1024, 32 MiB)"));
            }
            let mut calls = vec![words(&[b"INCR", CHANGES])];
            calls.extend(delete.iter().map(|name| words(&[b"DEL", &document(name)])));
            calls.extend(put.iter().map(|library| words(&[b"SET", &document(&library.name), &to_document(library)])));
            let watches = vec![(Bytes::from_static(CHANGES), Seen::from_number(version as i64))];
            let clock = meta.peek(|keyspace| keyspace.clock());
            let effects = Effects { clock, watches, calls, ..Effects::default() };
            match meta.propose_and_wait(vec![effects.to_args()], deadline).await {
                Outcome::Applied { replies, .. } if matches!(replies.as_slice(), [Reply::Nil]) => {}
                Outcome::Applied { .. } => {
                    // Only so that this node knows it; it is done.
                    let _ = self.catch_up(deadline).await;
                    return Ok(reply);
                }
                failed => return Err(failed.failure_reply()),
            }
        }
    }

    /// What runs on this node.
    pub(super) fn runs_here(&self) -> Option<Runs> {
        let executors: Vec<_> = self.executors.lock().values().cloned().collect();
        executors.iter().find_map(|executor| executor.runs())
    }

    /// What runs here, or else at the leader of a group that this node has a part in.
    async fn runs(&self, deadline: Instant) -> Option<Runs> {
        if let Some(runs) = self.runs_here() {
            return Some(runs);
        }
        let request = Bytes::from(postcard::to_stdvec(&Request::What).expect("it is plain data"));
        for group in self.cluster.host().groups() {
            if let Carried::Answer(answer) = group.carry(request.clone(), deadline).await
                && let Ok(Some(runs)) = postcard::from_bytes(&answer)
            {
                return Some(runs);
            }
        }
        None
    }
}

fn program(libraries: &Libraries, name: &[u8]) -> Option<Program> {
    let (library, function) = libraries.function(name)?;
    Some(Program::Function {
        library: library.name.clone(),
        sha: library.sha.clone(),
        function: function.name.clone(),
        flags: function.flags,
        code: library.code.clone(),
        sent: None,
    })
}

fn register(code: Bytes, memory: usize) -> Result<Library, Reply> {
    let begun = env::now();
    Interpreter::new(Limits { memory })?.register(code, Box::new(Patience { begun, until: begun + LOAD_TIME }))
}

fn has_room(known: &Libraries, put: &[Library], delete: &[String]) -> bool {
    let goes = |name: &String| delete.contains(name) || put.iter().any(|library| library.name == *name);
    let stays = known.iter().filter(|library| !goes(&library.name)).map(|library| &**library);
    let (count, bytes) = stays.chain(put).fold((0, 0), |(n, sum), library| (n + 1, sum + library.code.len()));
    put.is_empty() || (count <= LIBRARIES_MAX.0 && bytes <= LIBRARIES_MAX.1)
}

fn stats(libraries: &Libraries, runs: Option<Runs>) -> Reply {
    let text = |text: &str| Reply::bulk(text.to_owned());
    let running = runs.map_or(Reply::Nil, |runs| {
        Reply::Map(vec![
            (text("name"), text(&runs.name)),
            (text("command"), Reply::Array(runs.words.into_iter().map(Reply::Bulk).collect())),
            (text("duration_ms"), Reply::Int(runs.ms as i64)),
        ])
    });
    let counts = vec![
        (text("libraries_count"), Reply::Int(libraries.iter().len() as i64)),
        (text("functions_count"), Reply::Int(libraries.functions() as i64)),
    ];
    let engines = Reply::Map(vec![(text(ENGINE), Reply::Map(counts))]);
    Reply::Map(vec![(text("running_script"), running), (text("engines"), engines)])
}
