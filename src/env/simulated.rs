//! Clocks of simulated nodes, each with its own rate and wall, on the true time of turmoil's simulation.
//!
//! A node is known by its runtime: what runs on it reads that node's clock. Whoever runs on none (a value that is dropped
//! with its node) reads the time at which the clock was read last.

use super::Instant;
use parking_lot::Mutex;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Handle, Id};

const MILLION: i128 = 1_000_000;

/// A node's clock.
pub struct Clock {
    node: String,
    reading: Mutex<Reading>,
}

/// The clock's reading at some true time, and how it runs on from there.
#[derive(Clone, Copy)]
struct Reading {
    true_ns: i128,
    local_ns: i128,
    /// Nanoseconds that this clock makes of a million true ones.
    rate: i128,
    /// Unix time when the clock read zero.
    wall_origin_ns: i128,
}

impl Reading {
    fn local(self, true_ns: i128) -> i128 {
        self.local_ns + (true_ns - self.true_ns) * self.rate / MILLION
    }

    /// True time in which the clock makes `d`: some, if `d` is any. Who waits for a time of this clock, and looks again when it
    /// is a nanosecond early, as openraft's ticks do, would look for ever: true time stands while anybody is awake.
    fn true_time_of(self, d: Duration) -> Duration {
        let ns = d.as_nanos() as i128 * MILLION / self.rate;
        let least = i128::from(!d.is_zero());
        Duration::from_nanos(ns.clamp(least, i128::from(u64::MAX)) as u64)
    }
}

thread_local! {
    static CLOCKS: RefCell<Vec<(Id, Arc<Clock>)>> = const { RefCell::new(Vec::new()) };
    static LAST_TRUE_NS: Cell<i128> = const { Cell::new(0) };
}

impl Clock {
    /// `boot`: what it reads when the simulation begins. `wall_ms`: Unix time then.
    pub fn new(node: &str, boot: Duration, wall_ms: u64) -> Arc<Clock> {
        let local_ns = boot.as_nanos() as i128;
        let wall_origin_ns = i128::from(wall_ms) * MILLION - local_ns;
        let reading = Mutex::new(Reading { true_ns: 0, local_ns, rate: MILLION, wall_origin_ns });
        Arc::new(Clock { node: node.to_owned(), reading })
    }

    /// The runtime that this is called on is a node with this clock from now on.
    pub fn enter(self: &Arc<Clock>) {
        let id = Handle::current().id();
        CLOCKS.with_borrow_mut(|clocks| {
            clocks.retain(|(_, clock)| !Arc::ptr_eq(clock, self));
            clocks.push((id, self.clone()));
        });
    }

    /// From now on it runs faster (or slower) by so many millionths. What sleeps already is woken as it was to be.
    pub fn drift(&self, ppm: i64) {
        let now = true_ns();
        let mut reading = self.reading.lock();
        let local_ns = reading.local(now);
        *reading = Reading { true_ns: now, local_ns, rate: MILLION + i128::from(ppm), ..*reading };
    }

    /// The wall clock jumps; CLOCK_BOOTTIME does not.
    pub fn jump_wall(&self, ms: i64) {
        self.reading.lock().wall_origin_ns += i128::from(ms) * MILLION;
    }
}

fn true_ns() -> i128 {
    if Handle::try_current().is_ok()
        && let Some(elapsed) = turmoil::sim_elapsed()
    {
        LAST_TRUE_NS.set(elapsed.as_nanos() as i128);
    }
    LAST_TRUE_NS.get()
}

/// True time since the simulation began.
pub fn true_time() -> Duration {
    Duration::from_nanos(true_ns() as u64)
}

/// The clock of the node that runs now.
fn here() -> Option<Arc<Clock>> {
    let id = Handle::try_current().ok()?.id();
    CLOCKS.with_borrow(|clocks| clocks.iter().find(|(known, _)| *known == id).map(|(_, clock)| clock.clone()))
}

fn reading() -> Option<Reading> {
    here().map(|clock| *clock.reading.lock())
}

/// The name of the node that runs now, if one does.
pub fn node() -> Option<String> {
    here().map(|clock| clock.node.clone())
}

pub(super) fn now() -> Instant {
    let now = true_ns();
    Instant(reading().map_or(now, |reading| reading.local(now)) as u64)
}

/// Nanoseconds of Unix time by the node's wall clock.
pub(super) fn wall_ns() -> u64 {
    let now = true_ns();
    reading().map_or(now, |reading| reading.local(now) + reading.wall_origin_ns) as u64
}

pub(super) async fn moment(d: Duration) {
    super::sleep(d).await;
}

/// True time in which the node's clock makes `d`.
pub(super) fn on_timer(d: Duration) -> Duration {
    reading().map_or(d, |reading| reading.true_time_of(d))
}

/// Everything that is drawn on this thread follows from the seed from now on.
pub fn begin(seed: u64) {
    fastrand::seed(seed);
}

/// Nobody measures turns where time stands still during them.
pub fn timed<F: Future>(task: F) -> F {
    task
}

/// A node has one thread: what would run aside runs between two turns, a little later.
pub(super) fn aside(_name: &str, f: impl FnOnce() + Send + 'static) {
    let later = Duration::from_millis(fastrand::u64(..8));
    tokio::spawn(async move {
        super::sleep(later).await;
        f();
    });
}

/// A turn takes no time, and nobody waits for a core.
pub(super) fn pause(_: Duration) {}

/// As everything else it follows from the seed.
pub(super) fn secret_bytes(count: usize) -> std::io::Result<Vec<u8>> {
    Ok((0..count).map(|_| fastrand::u8(..)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seed 3017 of its day did not end.
    #[test]
    fn a_fast_clock_makes_a_nanosecond_in_some_time() {
        let by = |ppm: i128, ns: u64| {
            let reading = Reading { true_ns: 0, local_ns: 0, rate: MILLION + ppm, wall_origin_ns: 0 };
            reading.true_time_of(Duration::from_nanos(ns)).as_nanos()
        };
        assert_eq!([by(18_055, 0), by(18_055, 1), by(18_055, 1_018_055)], [0, 1, 1_000_000]);
        assert_eq!([by(-20_000, 1), by(-20_000, 980)], [1, 1_000]);
        assert_eq!(by(0, u64::MAX), u128::from(u64::MAX));
    }
}
