//! What is replicated: the keyspace of one Raft group.
//!
//! Must never know a clock, a random number, RESP, Raft or a runtime: everything that happens here follows from
//! the entries alone, so that replicas that applied the same entries are equal to the byte.
//!
//! | file | what |
//! |---|---|
//! | `keyspace.rs` | the whole: slots, the group clock, the version counter, what writes may do |
//! | `view.rs` | what reads may do |
//! | `table.rs` | the keys of one slot; the only file that knows how entries are laid out in memory |
//! | `value.rs` | what a key holds |
//! | `expiry.rs` | where to look for due keys: a replica's own hint, decides nothing |
//! | `account.rs` | how much memory the state is said to take, by formula |
//! | `cut.rs` | a snapshot taken slot by slot while writers go on |
//! | `codec.rs` | bytes of entries, slots and the head; golden, versioned |

mod account;
mod codec;
mod cut;
mod expiry;
mod keyspace;
mod table;
mod value;
mod view;

#[cfg(test)]
mod tests;

pub use account::{ENTRY_COST, cost};
pub use codec::{CutHead, RestoreError, SlotImage, digest};
pub use keyspace::Keyspace;
pub use table::Entry;
pub use value::{Form, Text, Value};
pub use view::View;
