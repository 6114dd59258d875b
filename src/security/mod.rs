//! Who may do what: users, the grammar of their rules, and the one check that every door makes.
//!
//! ```text
//!   rules   "on >pw ~app:* +@read"  --apply-->  User { passwords, selectors }  --document-->  the meta group
//!   check   (user, command, arguments)  -->  allowed, or why not, in Redis' words
//!   users   all users of the cluster as this node knows them   log   what was refused here
//! ```
//!
//! Knows the command tables and plain bytes: no socket, no Raft, no clock, no entropy. Where users are kept and how they
//! reach all nodes is `cluster`'s business; which connection is whose, and what a refusal looks like there, the doors'.
//!
//! - A password is never kept, only its SHA-256; it is compared without telling by its time where it differs.
//! - A user says the same whatever way it came about: `User::parse(user.document()) == user`.
//! - What is not known is refused: until a node has heard from its cluster who its users are, nobody is anybody.
//!
//! Source: Redis 7.2's behaviour, and <https://redis.io/docs/latest/operate/oss_and_stack/management/security/acl/>.

mod check;
mod log;
mod rules;
mod selector;
mod user;
mod users;

pub use check::{Denied, Reason, check, refused_beyond};
pub use log::{Context, Entry, Event};
pub use rules::{RuleError, SetUserError};
pub use selector::Selector;
pub use user::{User, hash_of};
pub use users::{DEFAULT_USER, Registry, Stats, Users};

#[cfg(test)]
mod tests;
