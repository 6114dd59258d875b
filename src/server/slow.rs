//! SLOWLOG and COMMANDLOG: the last commands that took long, were large, or had a large reply.
//!
//! A replicated command's time includes its quorum, so under overload every command is slow: only the first ones of each tenth of
//! a second are kept then. The others cost nothing but a number, which is left out. Arguments are copied and cut as Redis cuts them, so that an entry never
//! keeps a connection's buffer alive; what a client proves itself with is not kept at all.

use crate::commands::node::SlowEntry;
use crate::env::Instant;
use crate::resp::Args;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::time::Duration;

/// Longest piece of an argument that is kept.
const ARG_BYTES_MAX: usize = 128;
/// Most arguments that are kept; the last one says how many more there were.
pub(super) const ARGS_MAX: usize = 32;
/// Most entries, whatever is configured.
pub const ENTRIES_MAX: usize = 10_000;
pub const ENTRIES_DEFAULT: usize = 128;
/// Most entries that are made in a [`WINDOW`].
const MADE_MAX: usize = 256;
const WINDOW: Duration = Duration::from_millis(100);
/// What is put down instead of a secret.
pub(super) const REDACTED: &[u8] = b"(redacted)";

pub(super) use crate::commands::node::CommandLog as Kind;
pub(super) const KINDS: usize = Kind::ALL.len();

impl Kind {
    /// Microseconds, or bytes: from this on a command is kept unless configured otherwise.
    pub(super) fn default_from(self) -> i64 {
        match self {
            Kind::Slow => 10_000,
            Kind::LargeRequest | Kind::LargeReply => 1 << 20,
        }
    }
}

/// The logs of a node.
#[derive(Default)]
pub struct CommandLogs {
    logs: [Log; KINDS],
}

#[derive(Default)]
struct Log {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    next: u64,
    /// Since when entries are counted, and how many were made.
    window: Option<Instant>,
    made: usize,
    /// The newest last.
    entries: VecDeque<SlowEntry>,
}

impl Inner {
    /// The number of an entry that happened now; none when it is not to be made.
    fn number(&mut self, now: Instant) -> Option<u64> {
        if self.window.is_none_or(|since| now.saturating_since(since) >= WINDOW) {
            (self.window, self.made) = (Some(now), 0);
        }
        let id = self.next;
        self.next += 1;
        self.made += 1;
        (self.made <= MADE_MAX).then_some(id)
    }
}

/// As Redis shows them: long arguments and the end of many are cut, and say by how much.
fn shown(args: &Args) -> Vec<Bytes> {
    let cut = |arg: &Bytes| match arg.len().checked_sub(ARG_BYTES_MAX) {
        None | Some(0) => Bytes::copy_from_slice(arg),
        Some(more) => {
            let mut text = arg[..ARG_BYTES_MAX].to_vec();
            text.extend_from_slice(format!("... ({more} more bytes)").as_bytes());
            Bytes::from(text)
        }
    };
    let kept = if args.len() > ARGS_MAX { ARGS_MAX - 1 } else { args.len() };
    let mut shown: Vec<Bytes> = args.iter().take(kept).map(cut).collect();
    if args.len() > ARGS_MAX {
        shown.push(Bytes::from(format!("... ({} more arguments)", args.len() - kept)));
    }
    let secret = secrets(args);
    for arg in shown.iter_mut().skip(secret.start).take(secret.len()) {
        *arg = Bytes::from_static(REDACTED);
    }
    shown
}

/// Where secrets stand in a request, or in the beginning of one.
pub(super) fn secrets(args: &Args) -> std::ops::Range<usize> {
    let is = |at: usize, word: &str| args.get(at).is_some_and(|a| a.eq_ignore_ascii_case(word.as_bytes()));
    let secret = |name: &Bytes| name.eq_ignore_ascii_case(b"requirepass") || name.eq_ignore_ascii_case(b"masterauth");
    match () {
        () if is(0, "auth") => 1..usize::MAX,
        () if is(0, "hello") => 2..usize::MAX,
        () if is(0, "acl") && (is(1, "setuser") || is(1, "deluser")) => 2..usize::MAX,
        () if is(0, "config") && is(1, "set") && args.iter().skip(2).any(secret) => 3..usize::MAX,
        () => 0..0,
    }
}

impl CommandLogs {
    /// Keeps a command, if not too many were kept just now, and lets the oldest go beyond `keep`. `entry` makes all of it but
    /// number and arguments.
    pub(super) fn push(&self, kind: Kind, now: Instant, args: &Args, keep: usize, entry: impl FnOnce() -> SlowEntry) {
        let log = &self.logs[kind as usize].inner;
        let Some(id) = log.lock().number(now) else { return };
        let entry = SlowEntry { id, args: shown(args), ..entry() };
        let mut inner = log.lock();
        inner.entries.push_back(entry);
        let most = keep.min(ENTRIES_MAX);
        while inner.entries.len() > most {
            inner.entries.pop_front();
        }
    }

    pub(super) fn newest(&self, kind: Kind, max: usize) -> Vec<SlowEntry> {
        self.logs[kind as usize].inner.lock().entries.iter().rev().take(max).cloned().collect()
    }

    pub(super) fn len(&self, kind: Kind) -> usize {
        self.logs[kind as usize].inner.lock().entries.len()
    }

    pub(super) fn reset(&self, kind: Kind) {
        self.logs[kind as usize].inner.lock().entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env;

    fn entry() -> SlowEntry {
        SlowEntry { id: 0, unix_s: 0, measure: 0, args: Vec::new(), peer: String::new(), client_name: String::new() }
    }

    fn shown(line: &str) -> String {
        let args = crate::resp::split_words(line.as_bytes()).expect("words");
        super::shown(&args).iter().map(|a| String::from_utf8_lossy(a).into_owned()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_oldest_go_first_and_numbers_go_on_after_a_reset() {
        let logs = CommandLogs::default();
        (0..5).for_each(|_| logs.push(Kind::Slow, env::now(), &Args::new(), 3, entry));
        assert_eq!(logs.newest(Kind::Slow, 2).iter().map(|e| e.id).collect::<Vec<_>>(), [4, 3]);
        assert_eq!((logs.len(Kind::Slow), logs.len(Kind::LargeReply)), (3, 0));
        logs.reset(Kind::Slow);
        logs.push(Kind::Slow, env::now(), &Args::new(), 3, entry);
        assert_eq!(logs.newest(Kind::Slow, 9)[0].id, 5);
    }

    #[test]
    fn what_is_long_is_cut_and_says_so() {
        let long = "A".repeat(ARG_BYTES_MAX);
        assert_eq!(shown(&format!("sadd set {long}")), format!("sadd set {long}"));
        assert_eq!(shown(&format!("sadd set {long}A")), format!("sadd set {long}... (1 more bytes)"));
        let line = |n: usize| (0..n).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!(shown(&line(ARGS_MAX)), line(ARGS_MAX));
        assert_eq!(shown(&line(33)), format!("{} ... (2 more arguments)", line(31)));
    }

    /// Copying every command of an overloaded node was a fourteenth of its work.
    #[test]
    fn when_all_are_slow_some_are_kept_and_the_numbers_tell_of_the_others() {
        let (logs, now) = (CommandLogs::default(), env::now());
        let made = std::cell::Cell::new(0);
        let push = |at| {
            logs.push(Kind::Slow, at, &Args::new(), ENTRIES_MAX, || {
                made.set(made.get() + 1);
                entry()
            });
        };
        (0..1000).for_each(|_| push(now));
        assert_eq!((made.get(), logs.len(Kind::Slow)), (MADE_MAX, MADE_MAX));
        push(now + WINDOW);
        assert_eq!((made.get(), logs.newest(Kind::Slow, 1)[0].id), (MADE_MAX + 1, 1000));
    }

    #[test]
    fn secrets_are_not_kept() {
        assert_eq!(shown("AUTH user password"), "AUTH (redacted) (redacted)");
        assert_eq!(shown("hello 3 auth user password"), "hello 3 (redacted) (redacted) (redacted)");
        assert_eq!(shown("acl setuser u >p"), "acl setuser (redacted) (redacted)");
        assert_eq!(shown("config set requirepass p"), "config set requirepass (redacted)");
        assert_eq!(shown("config set timeout 1"), "config set timeout 1");
    }
}
