//! All users of the cluster as this node knows them, and what this node refused.
//!
//! [`Users`] never changes: a new state of the meta group makes a new one, and whoever holds the old one can see that it is
//! old by comparing pointers. [`Registry`] is where every door of a node finds the present one.

use super::check::Reason;
use super::log::{Entry, Event, Log};
use super::user::{User, hash_of};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Who a client is that says nothing. Always exists.
pub const DEFAULT_USER: &str = "default";
/// `acllog-max-len`, unless CONFIG SET says otherwise.
const LOG_MAX: usize = 128;

/// The users at one moment.
#[derive(Debug, Default)]
pub struct Users {
    /// In order of names.
    by_name: BTreeMap<String, Arc<User>>,
}

impl Users {
    pub fn new(users: impl IntoIterator<Item = Arc<User>>) -> Users {
        Users { by_name: users.into_iter().map(|user| (user.name().to_owned(), user)).collect() }
    }

    /// False until this node has heard who the users are: then nobody is anybody.
    pub fn are_known(&self) -> bool {
        self.by_name.contains_key(DEFAULT_USER)
    }

    pub fn get(&self, name: &str) -> Option<&Arc<User>> {
        self.by_name.get(name)
    }

    /// In order of names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<User>> {
        self.by_name.values()
    }

    /// Who a client is that proves nothing, if that is allowed.
    pub fn open(&self) -> Option<&Arc<User>> {
        self.get(DEFAULT_USER).filter(|user| user.is_open())
    }

    /// The user, if the password is right.
    pub fn authenticate(&self, name: &str, password: &[u8]) -> Option<&Arc<User>> {
        match self.get(name) {
            Some(user) => Some(user).filter(|user| user.admits(password)),
            // A name that nobody has takes about as long as a wrong password.
            None => {
                let _ = std::hint::black_box(hash_of(password));
                None
            }
        }
    }
}

/// How often something was refused since the process started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    pub auth: u64,
    pub command: u64,
    pub key: u64,
    pub channel: u64,
}

/// The users in force on this node, and its log of refusals.
#[derive(Debug)]
pub struct Registry {
    users: ArcSwap<Users>,
    log: Mutex<Log>,
    log_max: AtomicUsize,
    refused: [AtomicU64; 4],
}

impl Default for Registry {
    /// Nobody is known yet.
    fn default() -> Registry {
        Registry {
            users: ArcSwap::from_pointee(Users::default()),
            log: Mutex::default(),
            log_max: AtomicUsize::new(LOG_MAX),
            refused: Default::default(),
        }
    }
}

impl Registry {
    pub fn users(&self) -> Arc<Users> {
        self.users.load_full()
    }

    /// Whether these are still the users in force.
    pub fn is_current(&self, users: &Arc<Users>) -> bool {
        Arc::ptr_eq(&self.users.load(), users)
    }

    pub fn replace(&self, users: Users) {
        self.users.store(Arc::new(users));
    }

    /// Notes a refusal at `now_ms` of Unix time: in ACL LOG, in the counts, and, the first, second, fourth, eighth, ... time
    /// within a minute, in the audit log. `command` is what was called; the audit log never names a key.
    pub fn note(&self, now_ms: u64, command: &'static str, event: Event) {
        self.refused[event.reason as usize].fetch_add(1, Relaxed);
        let (reason, context) = (event.reason, event.context.name());
        let (user, client) = (event.username.clone(), event.client.clone());
        let count = self.log.lock().push(now_ms, event, self.log_max.load(Relaxed));
        if !count.is_power_of_two() {
            return;
        }
        match reason {
            Reason::Auth => tracing::warn!(target: "audit", event = "auth_failed", user, command, client, count),
            _ => tracing::warn!(
                target: "audit", event = "permission_denied", user, command, reason = reason.name(), context, client, count
            ),
        }
    }

    /// The newest refusals first.
    pub fn log(&self, max: usize) -> Vec<Entry> {
        self.log.lock().newest(max)
    }

    pub fn clear_log(&self) {
        self.log.lock().clear();
    }

    /// How many entries the log keeps (`acllog-max-len`).
    pub fn log_max(&self) -> usize {
        self.log_max.load(Relaxed)
    }

    pub fn set_log_max(&self, max: usize) {
        self.log_max.store(max, Relaxed);
    }

    pub fn stats(&self) -> Stats {
        let of = |reason: Reason| self.refused[reason as usize].load(Relaxed);
        Stats {
            auth: of(Reason::Auth),
            command: of(Reason::Command),
            key: of(Reason::Key),
            channel: of(Reason::Channel),
        }
    }
}
