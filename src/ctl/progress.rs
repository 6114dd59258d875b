//! How far something long has come, on standard error: a bar on a terminal, a plain line now and then elsewhere.

use crate::env::{self, Instant};
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

/// How often a bar is drawn.
const DRAW: Duration = Duration::from_millis(100);
/// How often a line is written where nobody watches.
const TELL: Duration = Duration::from_secs(5);
const BAR_WIDTH: usize = 30;
const MB: f64 = (1 << 20) as f64;

pub struct Progress {
    what: String,
    terminal: bool,
    shown: Option<Instant>,
}

impl Progress {
    pub fn new(what: &str) -> Progress {
        Progress { what: what.to_owned(), terminal: io::stderr().is_terminal(), shown: None }
    }

    /// What is being done now.
    pub fn now(&mut self, what: &str) {
        self.what = what.to_owned();
    }

    /// Tells how many bytes are done, of how many; 0 if that is not known yet.
    pub fn tell(&mut self, done: u64, all: u64) {
        let pause = if self.terminal { DRAW } else { TELL };
        let started = *self.shown.get_or_insert_with(env::now);
        if started.elapsed() < pause {
            return;
        }
        self.shown = Some(env::now());
        // Nobody to tell is no reason to stop.
        let _ = match self.terminal {
            true => write!(io::stderr(), "\r\x1b[K{}", bar(&self.what, done, all)),
            false => writeln!(io::stderr(), "{}", line(&self.what, done, all)),
        };
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal && self.shown.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

fn line(what: &str, done: u64, all: u64) -> String {
    let (done, all) = (done as f64 / MB, all as f64 / MB);
    if all > 0.0 { format!("{what}: {done:.0} of {all:.0} MB") } else { format!("{what}: {done:.0} MB") }
}

fn bar(what: &str, done: u64, all: u64) -> String {
    let share = if all == 0 { 0.0 } else { (done as f64 / all as f64).min(1.0) };
    let full = (share * BAR_WIDTH as f64) as usize;
    let (filled, empty) = ("#".repeat(full), " ".repeat(BAR_WIDTH - full));
    format!("[{filled}{empty}] {:3.0}% {}", share * 100.0, line(what, done, all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_full_as_what_is_done() {
        assert_eq!(bar("group 1", 1 << 20, 2 << 20).matches('#').count(), BAR_WIDTH / 2);
        assert!(bar("group 1", 9, 3).contains("100%"));
        assert_eq!(line("group 1", 3 << 20, 0), "group 1: 3 MB");
        assert_eq!(line("group 1", 1 << 20, 4 << 20), "group 1: 1 of 4 MB");
    }
}
