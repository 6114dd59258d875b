//! What happened in a run, line by line: the story that a failing seed tells, and the trace that two runs of a seed share.
//!
//! A line has the true time of the simulation and who speaks. Nothing of the machine gets into it: no wall clock, no address,
//! no path.

use hypercache::env::simulated;
use std::cell::RefCell;
use std::io::Write;
use std::time::Duration;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

thread_local! {
    static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Adds a line.
pub fn tell(who: &str, what: impl AsRef<str>) {
    tell_at(simulated::true_time(), who, what);
}

/// Adds a line of this time: for the run itself, which stands between two steps of the nodes.
pub fn tell_at(at: Duration, who: &str, what: impl AsRef<str>) {
    let line = format!("{:>10.3} {who:<8} {}", at.as_secs_f64() * 1000.0, what.as_ref());
    LINES.with_borrow_mut(|lines| lines.push(line));
}

/// The whole story.
pub fn told() -> Vec<String> {
    LINES.with_borrow(|lines| lines.clone())
}

/// Has the server's own events told, from INFO on.
pub fn listen() {
    let filter = tracing_subscriber::filter::Targets::new()
        .with_target("hypercache", tracing::Level::INFO)
        .with_target("openraft", tracing::Level::ERROR);
    let layer =
        tracing_subscriber::fmt::layer().with_ansi(false).with_target(false).with_timer(NoTime).with_writer(Lines);
    use tracing_subscriber::prelude::*;
    tracing_subscriber::registry().with(layer.with_filter(filter)).init();
}

struct NoTime;

impl FormatTime for NoTime {
    fn format_time(&self, _: &mut Writer<'_>) -> std::fmt::Result {
        Ok(())
    }
}

struct Lines;

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line(Vec::new())
    }
}

struct Line(Vec<u8>);

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let who = simulated::node().unwrap_or_else(|| "-".to_owned());
        String::from_utf8_lossy(&self.0).lines().for_each(|line| tell(&who, line.trim()));
    }
}
