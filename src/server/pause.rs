//! CLIENT PAUSE: for a while requests of this node's Redis doors wait, all of them or those that write.
//!
//! A request that waits holds back what the same connection sent behind it; nothing is answered meanwhile, and nothing is
//! lost. Only this node's doors pause: writes that come in by others, by HTTP or from peers go on.

use super::Shared;
use crate::commands::node::Paused;
use crate::commands::transaction::{Step, Transaction};
use crate::commands::{self, Command, Run};
use crate::env::{self, Instant};
use crate::resp::Args;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// What waits, and until when.
#[derive(Default)]
pub(super) struct Pause {
    /// Whether there is anything below: asked before every request.
    on: AtomicBool,
    state: Mutex<Option<(Instant, Paused)>>,
}

/// Commands that may have effects beyond the reply although they write no key by their kind.
const MAY_CHANGE: [&str; 3] = ["publish", "spublish", "pfcount"];

/// Whether a command may change anything. Scripts and transactions are asked for what is in them.
pub(super) fn may_change(command: &Command) -> bool {
    command.is_write() || MAY_CHANGE.contains(&command.spec.name)
}

impl Pause {
    /// From now on; the latest call counts.
    pub fn begin(&self, lasting: Duration, what: Paused) {
        *self.state.lock() = Some((env::now() + lasting, what));
        self.on.store(true, Relaxed);
    }

    pub fn end(&self) {
        *self.state.lock() = None;
        self.on.store(false, Relaxed);
    }

    /// Until when what waits, if anything does.
    pub fn now(&self, now: Instant) -> Option<(Instant, Paused)> {
        if !self.on.load(Relaxed) {
            return None;
        }
        let mut state = self.state.lock();
        let (until, what) = (*state)?;
        if until <= now {
            *state = None;
            self.on.store(false, Relaxed);
            return None;
        }
        Some((until, what))
    }
}

impl Shared {
    /// Until when this request has to wait, if it has to. Who asks for what there is not, or in the wrong way, is told so at
    /// once. `transaction`: the one that EXEC would run.
    pub(super) fn held_until(&self, args: &Args, transaction: &Transaction, now: Instant) -> Option<Instant> {
        let (until, what) = self.pause.now(now)?;
        let command = commands::lookup(args).ok()?;
        (what == Paused::All || self.changes(command, args, transaction)).then_some(until)
    }

    /// Whether a request may change anything.
    pub(super) fn changes(&self, command: &Command, args: &Args, transaction: &Transaction) -> bool {
        match command.run {
            Run::Transaction(Step::Exec) => transaction.changes(),
            Run::Script(script) => self.scripts.may_change(script, args),
            _ => may_change(command),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_lasts_until_its_time_is_over() {
        let pause = Pause::default();
        let (now, hour) = (env::now(), Duration::from_secs(3600));
        assert_eq!(pause.now(now), None);
        pause.begin(hour, Paused::Writes);
        let (until, what) = pause.now(now).expect("it has begun");
        assert_eq!(what, Paused::Writes);
        assert_eq!(pause.now(until), None);
        assert_eq!(pause.now(now), None, "it is over for all");
        pause.begin(hour, Paused::All);
        pause.end();
        assert_eq!(pause.now(now), None);
    }

    #[test]
    fn what_may_change_something_is_told_apart() {
        for (name, changes) in [("SET", true), ("publish", true), ("pfcount", true), ("GET", false), ("PING", false)] {
            assert_eq!(may_change(commands::by_name(name.as_bytes()).unwrap()), changes, "{name}");
        }
    }
}
