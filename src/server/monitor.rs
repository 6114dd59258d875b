//! MONITOR: every request of this node, a line each, to the connections that watch.
//!
//! Lines are Redis' own. A command is told when the gates have let it through, before it runs; one after MULTI when it is
//! queued. What an administrator does is not shown, nor what a client proves itself with, as in Redis. What scripts run is shown at
//! the node that was asked to run them when they have ended, as of `lua`: they run where their keys are led, perhaps more than
//! once until they count, and what is shown is their last run.
//!
//! Bounds: [`WATCHERS_MAX`] connections; of each second all commands up to `monitor-commands-per-second`, beyond that one of
//! [`SAMPLE`], and then a line says how many were left out; [`LINE_BYTES_MAX`] of a line, about. Who does not read is closed as a
//! listener is (`client-output-buffer-limit pubsub`).

use super::Shared;
use super::clients::Client;
use super::slow;
use crate::commands::access;
use crate::commands::session::Session;
use crate::commands::{self, Command, Run};
use crate::env;
use crate::resp::Args;
use bytes::Bytes;
use parking_lot::Mutex;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Whose commands those of scripts are.
const SCRIPT: &str = "lua";
/// Connections that may watch at the same time.
const WATCHERS_MAX: usize = 16;
/// Of the commands beyond the bound, one in so many is told.
const SAMPLE: u64 = 100;
/// Bytes of arguments in a line; what is beyond is cut.
const LINE_BYTES_MAX: usize = 64 << 10;
/// Commands of a second that are all told, unless configured otherwise.
pub const RATE_DEFAULT: u64 = 10_000;

/// Who watches.
#[derive(Default)]
pub(super) struct Monitors {
    /// So that nobody who is not watched pays for more than a load.
    any: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    watchers: Vec<Arc<Client>>,
    /// Since 1970, the one that the counts are of.
    second: u64,
    seen: u64,
    left_out: u64,
}

impl Monitors {
    /// Begins to tell a connection; false if too many are told.
    pub fn watch(&self, client: &Arc<Client>) -> bool {
        let mut inner = self.inner.lock();
        if inner.watchers.iter().any(|known| known.id() == client.id()) {
            return true;
        }
        if inner.watchers.len() >= WATCHERS_MAX {
            return false;
        }
        inner.watchers.push(client.clone());
        self.any.store(true, Relaxed);
        true
    }

    /// Whether anybody watches.
    fn any(&self) -> bool {
        self.any.load(Relaxed)
    }

    /// Tells a connection no more.
    pub fn forget(&self, id: u64) {
        if !self.any() {
            return;
        }
        let mut inner = self.inner.lock();
        inner.watchers.retain(|client| client.id() != id);
        self.any.store(!inner.watchers.is_empty(), Relaxed);
    }
}

impl Inner {
    /// Whether a command at this second is told, and how many before it were not, if that is to be said first.
    fn counts(&mut self, second: u64, rate: u64) -> (bool, Option<u64>) {
        let mut missed = None;
        if second != self.second {
            missed = Some(self.left_out).filter(|missed| *missed > 0);
            (self.second, self.seen, self.left_out) = (second, 0, 0);
        }
        self.seen += 1;
        let told = self.seen <= rate || (self.seen - rate).is_multiple_of(SAMPLE);
        self.left_out += u64::from(!told);
        (told, missed)
    }
}

/// Whether Redis shows it: not what is for administrators, and of MULTI's kin all.
fn is_shown(command: &'static Command) -> bool {
    let admin = access::Categories::named(b"admin");
    let is_admin = admin.is_some_and(|admin| access::categories(command).has(admin));
    !is_admin && !matches!(command.run, Run::Container)
}

impl Shared {
    /// Tells those who watch what a connection is about to do.
    pub(super) fn tell_monitors(&self, session: &Session, command: &'static Command, args: &Args) {
        if self.is_monitored() && is_shown(command) {
            self.tell_watchers(&session.peer, args);
        }
    }

    /// Whether anybody watches.
    pub(super) fn is_monitored(&self) -> bool {
        self.monitors.any()
    }

    /// Tells those who watch what a script ran, and how much more than can be shown.
    pub(super) fn show_of_scripts(&self, calls: &[Vec<Bytes>], more: u64) {
        if !self.is_monitored() {
            return;
        }
        for call in calls {
            let args: Args = call.iter().cloned().collect();
            if commands::lookup(&args).is_ok_and(is_shown) {
                self.tell_watchers(&SCRIPT, &args);
            }
        }
        if more > 0 {
            let text = left_out(env::wall_us(), SCRIPT, more);
            self.monitors.inner.lock().watchers.iter().for_each(|client| self.push(client, text.clone()));
        }
    }

    fn tell_watchers(&self, who: &dyn Display, args: &Args) {
        let now_us = env::wall_us();
        let mut inner = self.monitors.inner.lock();
        let (told, missed) = inner.counts(now_us / 1_000_000, self.live.monitor_rate());
        let missed = missed.map(|missed| left_out(now_us, "hypercache", missed));
        let told = told.then(|| line(now_us, who, args.iter(), slow::secrets(args)));
        for text in missed.into_iter().chain(told) {
            inner.watchers.iter().for_each(|client| self.push(client, text.clone()));
        }
    }
}

/// A line that says how many are not told.
fn left_out(now_us: u64, who: &str, count: u64) -> Bytes {
    let words = [&b"left-out"[..], count.to_string().as_bytes()].map(Bytes::copy_from_slice);
    line(now_us, &who, words.iter(), 0..0)
}

/// A line as a status, which it is in both protocols.
fn line<'a>(
    now_us: u64,
    who: &dyn Display,
    args: impl Iterator<Item = &'a Bytes>,
    secrets: std::ops::Range<usize>,
) -> Bytes {
    let mut out = format!("+{}.{:06} [0 {who}]", now_us / 1_000_000, now_us % 1_000_000).into_bytes();
    let mut room = LINE_BYTES_MAX;
    for (at, arg) in args.enumerate() {
        out.push(b' ');
        let arg = if secrets.contains(&at) { slow::REDACTED } else { arg };
        let kept = arg.len().min(room);
        quote(&arg[..kept], &mut out);
        room -= kept;
        if kept < arg.len() {
            out.extend_from_slice(format!(" ... ({} more bytes)", arg.len() - kept).as_bytes());
            break;
        }
    }
    out.extend_from_slice(b"\r\n");
    out.into()
}

/// An argument between quotation marks: one line of ASCII whatever it holds.
fn quote(arg: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for &byte in arg {
        match byte {
            b'"' | b'\\' => out.extend([b'\\', byte]),
            b'\n' => out.extend(b"\\n"),
            b'\r' => out.extend(b"\\r"),
            b'\t' => out.extend(b"\\t"),
            0x07 => out.extend(b"\\a"),
            0x08 => out.extend(b"\\b"),
            b' '..=b'~' => out.push(byte),
            _ => out.extend(format!("\\x{byte:02x}").bytes()),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_as_redis_writes_it() {
        let args = ["set", "k\"\\\n\r\t\x07\x08 \0\u{e9}", ""].map(Bytes::from);
        let text = line(1_700_000_000_000_042, &"127.0.0.1:5", args.iter(), 0..0);
        let expected = r#"+1700000000.000042 [0 127.0.0.1:5] "set" "k\"\\\n\r\t\a\b \x00\xc3\xa9" """#;
        assert_eq!(&text[..], [expected.as_bytes(), b"\r\n"].concat());
        let long = [Bytes::from("set"), vec![b'x'; LINE_BYTES_MAX].into(), Bytes::from("y")];
        let text = line(0, &"x", long.iter(), 0..0);
        assert!(text.ends_with(b"x\" ... (3 more bytes)\r\n") && text.len() < LINE_BYTES_MAX + 100);
        let secret = ["auth", "u", "p"].map(Bytes::from);
        assert!(line(0, &"x", secret.iter(), 1..3).ends_with(b"\"auth\" \"(redacted)\" \"(redacted)\"\r\n"));
    }

    #[test]
    fn beyond_its_rate_a_second_is_sampled_and_the_next_one_says_so() {
        let mut inner = Inner::default();
        let told = (0..1000).filter(|_| inner.counts(7, 100).0).count();
        assert_eq!((told, inner.left_out), (100 + 9, 891));
        assert_eq!(inner.counts(8, 100), (true, Some(891)));
        assert_eq!(inner.counts(9, 100), (true, None));
    }
}
