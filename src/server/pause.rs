//! CLIENT PAUSE: for a while requests of this node's Redis doors wait, all of them or those that write.
//!
//! A request that waits holds back what the same connection sent behind it; nothing is answered meanwhile, and nothing is
//! lost. Only this node's doors pause: writes that come in by others, by HTTP or from peers go on.

use crate::commands;
use crate::commands::node::Paused;
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

/// Commands that may have effects beyond the reply although they write no key themselves.
const MAY_WRITE: [&str; 7] = ["publish", "spublish", "eval", "evalsha", "fcall", "exec", "pfcount"];

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

    /// Until when this request has to wait, if it has to.
    pub fn holds(&self, args: &Args, now: Instant) -> Option<Instant> {
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
        drop(state);
        let writes =
            || commands::lookup(args).is_ok_and(|command| command.is_write() || MAY_WRITE.contains(&command.spec.name));
        (what == Paused::All || writes()).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn what_is_paused_waits_until_its_time_is_over() {
        let args = |line: &str| -> Args { line.split(' ').map(|w| Bytes::copy_from_slice(w.as_bytes())).collect() };
        let pause = Pause::default();
        let hour = Duration::from_secs(3600);
        let now = env::now();
        assert_eq!(pause.holds(&args("SET k v"), now), None);
        pause.begin(hour, Paused::Writes);
        for (line, held) in [("SET k v", true), ("publish a b", true), ("GET k", false), ("PING", false), ("x", false)]
        {
            assert_eq!(pause.holds(&args(line), now).is_some(), held, "{line}");
        }
        pause.begin(hour, Paused::All);
        assert!(pause.holds(&args("PING"), now).is_some());
        assert_eq!(pause.holds(&args("PING"), now + 2 * hour), None);
        assert_eq!(pause.holds(&args("PING"), now), None, "it is over for all");
        pause.begin(hour, Paused::All);
        pause.end();
        assert_eq!(pause.holds(&args("SET k v"), now), None);
    }
}
