//! What is replicated: the keyspace of one Raft group.
//!
//! Must never know a clock, a random number, RESP, Raft or a runtime: everything that happens here follows from
//! the entries alone, so that replicas that applied the same entries are equal to the byte.
//!
//! | file | what |
//! |---|---|
//! | `keyspace.rs` | the whole: the group clock, the version counter, what writes may do |
//! | `view.rs` | what reads may do |
//! | `table.rs` | which unit holds a key: slots, and their parts by hash |
//! | `unit.rs` | the keys of one part of a slot: how they lie in memory |
//! | `index.rs` | the index of a unit, and marks |
//! | `row.rs` | bytes of a short entry in memory |
//! | `entry.rs` | a key with what is known of it, owned and as it is shown |
//! | `value.rs` | what a key holds |
//! | `collections/` | what a key holds if it holds many elements |
//! | `filters/` | what a key holds if it is a cuckoo or a bloom filter |
//! | `events.rs` | what apply tells those outside: notifications, and which keys changed |
//! | `expiry.rs` | where to look for due keys: a replica's own hint, decides nothing |
//! | `eviction/` | who leaves when memory is short: the leader's own, decides nothing until the log says so |
//! | `candidates.rs` | the keyspace as an eviction policy sees it |
//! | `cuckoo.rs` | of each unit: is this key surely absent? Follows the unit's index |
//! | `account.rs` | how much memory the state is said to take, by formula |
//! | `removals.rs` | what is left of removed keys, for those who watch absent ones |
//! | `cut.rs` | a snapshot taken unit by unit while writers go on |
//! | `ownership.rs` | which slots the group answers for, and the handover under way |
//! | `keyspace/snapshot.rs` | taking a snapshot, and the keyspace of one |
//! | `keyspace/news.rs` | what is told of writes to those who wait for keys or want events |
//! | `keyspace/handover.rs` | what a handover does with the keys |
//! | `codec.rs` | bytes of entries, units and the head; golden, versioned |

mod account;
mod candidates;
mod codec;
mod collections;
mod cuckoo;
mod cut;
mod entry;
pub mod events;
pub mod eviction;
mod expiry;
mod filters;
mod index;
mod keyspace;
mod ownership;
mod removals;
mod row;
mod table;
mod unit;
mod value;
mod view;

#[cfg(test)]
mod crafted_tests;
#[cfg(test)]
mod tests;

pub use account::{ENTRY_COST, cost};
pub use candidates::{Chooser, Leaving};
pub use codec::{CutHead, RestoreError, SlotImage, digest};
pub use collections::{
    Consumer, DEADLINE_COST, ELEMENT_COST, End, FIELD_DEADLINE_MAX, FieldRef, Fields, HashRef, HashValue, ListRef,
    ListValue, MemberRef, Members, PACKING_NUMBERS, PackedLimits, Packing, Pending, RANKED_COST, Ranked, Runs,
    ScoredIter, ScoredRef, SetRef, SetValue, Size, SortedRef, SortedValue, StreamEntry, StreamGroup, StreamId,
    StreamValue, list_element_cost, one_more,
};
pub use cuckoo::{Parameters, Precision, RATE_MAX, RATE_MIN, UnitFilter};
pub use entry::{Entry, EntryRef};
pub use expiry::HashRange;
pub use filters::{
    BloomFull, BloomShape, BloomValue, CuckooFull, CuckooShape, CuckooValue, FILTER_BYTES_MAX, Insertion, LoadError,
    PIECE_MAX, Piece, RATE_CAP,
};
pub use keyspace::{Changed, Excerpt, FilterStatus, Garbage, Keyspace, Located, Sent, Survey, WARMED};
pub use ownership::{Handover, NoSlots, NotTaken, Ownership, Place, Progress, Side, SlotSet};
pub use removals::Seen;
pub use value::{Form, Text, TextRef, Value, ValueRef};
pub use view::{CURSOR_FREE, CURSOR_HASH_BITS, View};
