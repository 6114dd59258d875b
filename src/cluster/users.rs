//! Users: documents of the meta group under `user/<name>`, followed by every node, changed by any.
//!
//! ```text
//!   ACL SETUSER on any node:  read index of the meta group -> the user as it is -> rules -> SET user/x NEW IFEQ OLD
//!        '--> not applied, somebody else was first: again, on what they made of it
//!   every node:               documents -> security::Users -> the doors, which look at each wake-up
//! ```
//!
//! A change is a comparison with what it was made of, so that no acknowledged change of another node is lost; rules are never
//! read in apply, whose meaning must not depend on the program's command tables. An outcome that is not known is told, never
//! tried again.
//!
//! Users count from the moment at which this node has heard from its cluster since it started: what its disk still says may
//! know a user that was deleted, or a default user that needed no password yet.

use super::{Cluster, RETRY, WRITE};
use crate::commands::acl::Change;
use crate::env::{self, Instant};
use crate::raft::{Group, Outcome, Refusal};
use crate::resp::{Args, Reply};
use crate::security::{DEFAULT_USER, Registry, User, Users};
use crate::state::View;
use crate::types::{GroupId, Level};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use tokio::sync::watch;

/// What the names of the users' documents begin with.
const USER: &str = "user/";

/// The users as this node follows them.
pub(super) struct Followed {
    pub registry: Arc<Registry>,
    /// The documents that the registry was made of.
    known: Mutex<BTreeMap<String, (Bytes, Arc<User>)>>,
    /// Set once this node has heard from its cluster, never cleared.
    heard: AtomicBool,
    changed: watch::Sender<u64>,
}

impl Default for Followed {
    fn default() -> Followed {
        Followed {
            registry: Arc::default(),
            known: Mutex::default(),
            heard: AtomicBool::new(false),
            changed: watch::Sender::new(0),
        }
    }
}

fn key_of(name: &str) -> String {
    format!("{USER}{name}")
}

fn document_of(meta: &Group, name: &str) -> Option<Bytes> {
    meta.peek(|keyspace| {
        let view = View::new(keyspace, None);
        view.get(key_of(name).as_bytes()).and_then(|e| e.value().as_text()).map(|text| text.to_bytes(0))
    })
}

fn call(words: &[&[u8]]) -> Args {
    words.iter().map(|word| Bytes::copy_from_slice(word)).collect()
}

/// What a new cluster begins with: the users of the first seed's file, and a default user where the file has none.
pub(super) fn initial(users: &[User]) -> Args {
    let mut call = vec![Bytes::from_static(b"MSETNX")];
    let open = users.iter().all(|user| user.name() != DEFAULT_USER);
    let default = open.then(|| User::all_powerful(DEFAULT_USER, env::seed()));
    for user in default.iter().chain(users) {
        call.push(Bytes::from(key_of(user.name())));
        call.push(user.document());
    }
    call.into()
}

/// Whether the meta group, as far as it is applied here, has users.
pub(super) fn are_written(meta: &Group) -> bool {
    document_of(meta, DEFAULT_USER).is_some()
}

impl Cluster {
    /// The users in force on this node, and its log of refusals.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.users.registry
    }

    /// The users of this node's own file: who may look at a node that has not heard from its cluster.
    pub fn users_of_file(&self) -> Users {
        let default = (!self.layout.users.iter().any(|user| user.name() == DEFAULT_USER))
            .then(|| User::all_powerful(DEFAULT_USER, 0));
        Users::new(self.layout.users.iter().cloned().chain(default).map(Arc::new))
    }

    /// Counts the changes of users that this node has taken over.
    pub fn watch_users(&self) -> watch::Receiver<u64> {
        self.users.changed.subscribe()
    }

    /// Waits until this node has heard who the users are.
    pub async fn users_known(&self) {
        let mut changed = self.watch_users();
        let _ = changed.wait_for(|_| self.registry().users().are_known()).await;
    }

    /// Waits until this node has heard from its cluster. From then on it takes over the users, and carries what is agreed
    /// on into the logs of the groups that it leads: what its disk says may have been taken back since.
    pub(super) async fn hear(self: Arc<Self>, meta: Arc<Group>) {
        loop {
            match meta.barrier(Level::Eventual, env::now() + WRITE).await {
                Ok(_) => break,
                Err(Refusal::ShuttingDown) => return,
                Err(_) => env::sleep(RETRY).await,
            }
        }
        self.users.heard.store(true, Relaxed);
        self.follow_users(&meta);
        self.follow_agreed(&meta);
        self.follow_addresses(&self.table());
    }

    /// Whether this node has heard from its cluster since it started.
    pub(super) fn has_heard(&self) -> bool {
        self.users.heard.load(Relaxed)
    }

    /// Takes over what the meta group says about users. Under one lock, so that an older state never replaces a newer.
    pub(super) fn follow_users(&self, meta: &Group) {
        if !self.has_heard() {
            return;
        }
        let mut known = self.users.known.lock();
        let documents: BTreeMap<String, Bytes> = meta.peek(|keyspace| {
            let view = View::new(keyspace, None);
            let users = view.entries().filter_map(|e| {
                let name = std::str::from_utf8(e.key().strip_prefix(USER.as_bytes())?).ok()?.to_owned();
                Some((name, e.value().as_text()?.to_bytes(0)))
            });
            users.collect()
        });
        if documents.len() == known.len() && documents.iter().all(|(n, d)| known.get(n).is_some_and(|(k, _)| k == d)) {
            return;
        }
        let mut fresh = BTreeMap::new();
        for (name, document) in documents {
            let user = match known.get(&name) {
                Some((old, user)) if *old == document => user.clone(),
                _ => match User::parse(&name, &document) {
                    Ok(user) => Arc::new(user),
                    // Nobody can be a user whose rights are not understood.
                    Err(error) => {
                        tracing::error!(user = name, error, "meta-document-unreadable");
                        continue;
                    }
                },
            };
            fresh.insert(name, (document, user));
        }
        *known = fresh;
        self.registry().replace(Users::new(known.values().map(|(_, user)| user.clone())));
        self.users.changed.send_modify(|n| *n += 1);
    }

    /// Changes users for all nodes. The answer is Redis'; where it is an error, its code says whether the change may have
    /// been made. When it is OK, this node goes by it already.
    pub async fn change_users(&self, change: Change, deadline: Instant) -> Reply {
        let Some(meta) = self.host().group(GroupId::META) else { return Refusal::NoLeader.reply() };
        match change {
            Change::Set { name, rules } => {
                self.edit_user(&meta, &name, deadline, |user| {
                    user.apply(&rules).map_err(|error| Reply::error(format!("ERR {error}")))
                })
                .await
            }
            Change::DefaultPassword(password) => {
                let rules = match password {
                    Some(password) => vec![Bytes::from_static(b"resetpass"), [b">", &password[..]].concat().into()],
                    None => vec![Bytes::from_static(b"nopass")],
                };
                self.edit_user(&meta, DEFAULT_USER, deadline, |user| {
                    user.apply(&rules).map_err(|error| Reply::error(format!("ERR {error}")))
                })
                .await
            }
            Change::Delete { names } if names.is_empty() => Reply::Int(0),
            Change::Delete { names } => {
                let keys = names.iter().map(|name| Bytes::from(key_of(name)));
                let delete = std::iter::once(Bytes::from_static(b"DEL")).chain(keys).collect();
                self.propose_change(&meta, delete, deadline).await
            }
        }
    }

    /// Makes another user of what there is, as often as it takes to be first.
    async fn edit_user(
        &self,
        meta: &Arc<Group>,
        name: &str,
        deadline: Instant,
        edit: impl Fn(&mut User) -> Result<(), Reply>,
    ) -> Reply {
        loop {
            if let Err(refusal) = meta.barrier(Level::Linearizable, deadline).await {
                return refusal.reply();
            }
            let known = document_of(meta, name);
            let user = known.as_ref().map(|document| User::parse(name, document)).transpose();
            let mut user = match user {
                Ok(user) => user.unwrap_or_else(|| User::new(name, env::seed())),
                Err(why) => return Reply::error(format!("ERR {why}")),
            };
            if let Err(refused) = edit(&mut user) {
                return refused;
            }
            let (key, document) = (key_of(name), user.document());
            let set = match &known {
                Some(old) => call(&[b"SET", key.as_bytes(), &document, b"IFEQ", old]),
                None => call(&[b"SET", key.as_bytes(), &document, b"NX"]),
            };
            match self.propose_change(meta, set, deadline).await {
                Reply::Nil => continue,
                told => return told,
            }
        }
    }

    /// CONFIG SET of what all nodes agree on, as a call on the meta group. Answered when this node goes by it, too.
    pub async fn change_agreed(&self, call: Args, deadline: Instant) -> Reply {
        match self.host().group(GroupId::META) {
            Some(meta) => self.propose_change(&meta, call, deadline).await,
            None => Refusal::NoLeader.reply(),
        }
    }

    /// Proposes one call and waits until this node has applied it, too, and goes by it.
    pub(super) async fn propose_change(&self, meta: &Group, call: Args, deadline: Instant) -> Reply {
        let (index, reply) = match meta.propose_and_wait(vec![call], deadline).await {
            Outcome::Applied { index, mut replies } => match replies.pop() {
                Some(reply) => (index, reply),
                None => return Outcome::Unknown { index: Some(index) }.failure_reply(),
            },
            failed => return failed.failure_reply(),
        };
        let mut applied = meta.watch_applied();
        // It is in effect whether this node sees it in time or not.
        let _ = env::timeout_at(deadline, applied.wait_for(|applied| *applied >= index)).await;
        self.follow_users(meta);
        self.follow_agreed(meta);
        reply
    }
}
