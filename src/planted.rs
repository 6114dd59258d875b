//! Bugs that are planted on purpose, so that the simulation can show that it finds them.
//!
//! Each breaks one rule of what HyperCache guarantees, at the place of the code that keeps the rule. In a server there are
//! none: [`is`] is the constant `false` and the code behind it is not compiled. In the simulation's build one can be switched
//! on, once, before anything runs. `docs/internals/testing.md` says by what each is found.

/// A rule that is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// An append is acknowledged before it is synced.
    AcknowledgeBeforeSync,
    /// A candidate counts a vote that it was given for the one that it could not ask, too.
    CountVoteTwice,
    /// A linearizable read is answered by whoever believes to lead.
    ReadUnconfirmed,
    /// A replica votes and campaigns from its start on.
    NoQuarantine,
    /// A replica votes for nobody after its start, but for itself.
    CampaignInQuarantine,
    /// The leader trusts in its lease for three times as long as the voters promise.
    LongLease,
    /// Reads judge what is dead by the node's wall clock.
    ExpiryByLocalClock,
    /// Followers remove what is dead by their own time.
    FollowerSweeps,
    /// A flight whose fate is not known is proposed again.
    RetryUnknown,
    /// A snapshot is published under an index that its state has not reached.
    AppliedAheadOfState,
    /// A voter confirms whoever asks, whomever it has voted for since.
    ConfirmedBlindly,
    /// A leader that was restarted goes on as one without an election.
    LeaderRestored,
    /// Each replica chooses itself who leaves, as often as the entry says that somebody does.
    EvictByReplica,
    /// The log is purged up to a snapshot that is published only later.
    PurgeBeforePublish,
    /// What is outside the slots goes into a snapshot as it is when it is written, not as it was at the cut.
    HeadAfterCut,
    /// A read takes part in a round that was under way when it came.
    JoinRunningRound,
    /// A bounded read is answered by any replica that is ready, however old its state is.
    BoundedUnbounded,
    /// One that waited and was served is told that its time is up, if it is by then.
    TimeUpWhenServed,
    /// A transaction runs whatever became of the keys that it watches.
    WatchIgnored,
    /// Of a watched key that was absent it is not noticed that it came and went.
    AbsenceForgotten,
    /// A node is let go at once, while groups still count on its vote.
    GoneWhileVoting,
    /// Whoever sends a call looks whether the group has its slot, and apply runs what comes.
    SlotCheckedAtDoor,
    /// A read is answered by the group that this node's copy of the table names, whatever that group knows of the slot.
    StaleRing,
    /// What a node had of a group that has gone is deleted without a mark, and what it does not hold it may hold again.
    DroppedUnmarked,
    /// A group that is to go is buried when the table gives it no slot, whatever is under way and whatever its own log says.
    BuriedUnasked,
    /// A group is begun with those of its founders whom the node hears.
    FoundedByHearsay,
}

impl Bug {
    pub const ALL: [Bug; 26] = [
        Bug::AcknowledgeBeforeSync,
        Bug::CountVoteTwice,
        Bug::ReadUnconfirmed,
        Bug::NoQuarantine,
        Bug::CampaignInQuarantine,
        Bug::LongLease,
        Bug::ExpiryByLocalClock,
        Bug::FollowerSweeps,
        Bug::RetryUnknown,
        Bug::AppliedAheadOfState,
        Bug::ConfirmedBlindly,
        Bug::LeaderRestored,
        Bug::EvictByReplica,
        Bug::PurgeBeforePublish,
        Bug::HeadAfterCut,
        Bug::JoinRunningRound,
        Bug::BoundedUnbounded,
        Bug::TimeUpWhenServed,
        Bug::WatchIgnored,
        Bug::AbsenceForgotten,
        Bug::GoneWhileVoting,
        Bug::SlotCheckedAtDoor,
        Bug::StaleRing,
        Bug::DroppedUnmarked,
        Bug::BuriedUnasked,
        Bug::FoundedByHearsay,
    ];
}

#[cfg(feature = "sim")]
mod switch {
    use super::Bug;
    use std::sync::OnceLock;

    static PLANTED: OnceLock<Bug> = OnceLock::new();

    /// Plants a bug, for as long as the process lives.
    ///
    /// # Panics
    /// If another was planted before.
    pub fn plant(bug: Bug) {
        assert!(PLANTED.set(bug).is_ok(), "one bug at a time");
    }

    /// Whether this bug was planted.
    pub fn is(bug: Bug) -> bool {
        PLANTED.get() == Some(&bug)
    }
}

#[cfg(feature = "sim")]
pub use switch::{is, plant};

/// Whether this bug was planted.
#[cfg(not(feature = "sim"))]
#[inline(always)]
pub const fn is(_: Bug) -> bool {
    false
}
