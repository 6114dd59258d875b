//! Time and entropy: the only file that may read either; and what the system does with [`files`]. clippy's `disallowed-methods` keeps it so.
//!
//! [`Instant`] counts on CLOCK_BOOTTIME: it goes on while the machine sleeps, so a leader that was suspended does
//! not believe in a lease that ran out meanwhile. The wall clock decides nothing in the state machine; it only
//! steers the group clock (`raft::clock`).

#![allow(clippy::disallowed_methods)]

pub mod files;
#[cfg(feature = "sim")]
pub mod simulated;
#[cfg(not(feature = "sim"))]
mod system;
mod turns;

#[cfg(feature = "sim")]
use simulated as source;
#[cfg(not(feature = "sim"))]
use system as source;

pub use source::timed;
pub use turns::{counted as counted_turns, longest as longest_turn};

use futures_util::TryFutureExt;
use std::future::Future;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::time::Duration;

/// A point on CLOCK_BOOTTIME, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(u64);

/// The present on CLOCK_BOOTTIME.
pub fn now() -> Instant {
    source::now()
}

impl Instant {
    /// Time since this instant; zero if it lies ahead.
    pub fn elapsed(&self) -> Duration {
        now().saturating_since(*self)
    }

    /// Time from `earlier` to this; zero if `earlier` is later.
    pub fn saturating_since(&self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Time left until this instant; zero if it is past.
    pub fn remaining(&self) -> Duration {
        self.saturating_since(now())
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, rhs: Duration) -> Instant {
        Instant(self.0.saturating_add(rhs.as_nanos().min(u64::MAX as u128) as u64))
    }
}

impl Sub<Duration> for Instant {
    type Output = Instant;
    fn sub(self, rhs: Duration) -> Instant {
        Instant(self.0.saturating_sub(rhs.as_nanos().min(u64::MAX as u128) as u64))
    }
}

impl Sub<Instant> for Instant {
    type Output = Duration;
    fn sub(self, rhs: Instant) -> Duration {
        self.saturating_since(rhs)
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, rhs: Duration) {
        *self = *self + rhs;
    }
}

impl SubAssign<Duration> for Instant {
    fn sub_assign(&mut self, rhs: Duration) {
        *self = *self - rhs;
    }
}

/// Milliseconds of Unix time by this machine's wall clock.
pub fn wall_ms() -> u64 {
    source::wall_ns() / 1_000_000
}

/// Microseconds of Unix time by this machine's wall clock.
pub fn wall_us() -> u64 {
    source::wall_ns() / 1_000
}

/// Fresh entropy. Whoever needs repeatable randomness seeds a `fastrand::Rng` with it and keeps the seed.
pub fn seed() -> u64 {
    fastrand::u64(..)
}

/// A number that nobody can guess, whatever else of this process they have seen.
///
/// # Panics
/// Where the operating system gives no random bytes, which Linux always does.
pub fn secret() -> u64 {
    let bytes = secret_bytes(8).expect("the operating system gives random bytes");
    u64::from_le_bytes(bytes.try_into().expect("as many as were asked for"))
}

/// Bytes that nobody can guess, from the operating system. Blocks for no longer than a read of memory.
pub fn secret_bytes(count: usize) -> std::io::Result<Vec<u8>> {
    source::secret_bytes(count)
}

/// A deadline passed before the future was ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed;

/// What a timer of the runtime must be set to, so that it goes off when `d` has passed on [`now`]'s clock.
pub fn on_timer(d: Duration) -> Duration {
    source::on_timer(d)
}

/// Sleeps for `d`.
pub async fn sleep(d: Duration) {
    tokio::time::sleep(on_timer(d)).await
}

/// Sleeps for some microseconds: the runtime's own timers count in milliseconds. Costs some calls of the system.
pub async fn moment(d: Duration) {
    source::moment(d).await
}

/// Sleeps until `at`.
pub async fn sleep_until(at: Instant) {
    sleep(at.remaining()).await
}

/// Waits for `f` for at most `d`, from this call on. Must be called in a runtime. No `async fn`, which would keep `f` twice.
pub fn timeout<F: Future>(d: Duration, f: F) -> impl Future<Output = Result<F::Output, Elapsed>> {
    tokio::time::timeout(on_timer(d), f).map_err(|_| Elapsed)
}

/// Waits for `f` until `at` at the latest.
pub fn timeout_at<F: Future>(at: Instant, f: F) -> impl Future<Output = Result<F::Output, Elapsed>> {
    timeout(at.remaining(), f)
}

/// Runs what blocks or takes long off this thread; nobody waits for its end. Must be called in a runtime.
pub fn aside(name: &str, f: impl FnOnce() + Send + 'static) {
    source::aside(name, f)
}

/// The same for something whose result is waited for; none if it panicked.
pub async fn elsewhere<R: Send + 'static>(name: &str, f: impl FnOnce() -> R + Send + 'static) -> Option<R> {
    let (tx, rx) = tokio::sync::oneshot::channel();
    aside(name, move || {
        // Whoever waited may have gone.
        let _ = tx.send(f());
    });
    rx.await.ok()
}

/// Long work on a thread of its own, in short steps, that leaves the cores to those who wait for replies: behind each step
/// it rests in proportion to the time the step took. Steps take longer where cores or locks are wanted, so it rests longer then.
pub struct Paced {
    /// Parts of the time for rest, to one of work.
    rest: u32,
    step_began: Instant,
}

impl Paced {
    /// Begins the first step.
    pub fn new(rest: u32) -> Paced {
        Paced { rest, step_began: now() }
    }

    /// Between two steps, with no lock held. Blocks.
    pub fn rest(&mut self) {
        source::pause(self.step_began.elapsed() * self.rest);
        self.step_began = now();
    }
}

/// Starts a named thread of the server's own. Panics if the system has no room for a thread.
pub fn spawn_thread(name: &str, f: impl FnOnce() + Send + 'static) -> std::thread::JoinHandle<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(f).expect("the system has room for one more thread")
}

/// The same with a stack of this size.
pub fn spawn_thread_with(
    name: &str,
    stack_bytes: usize,
    f: impl FnOnce() + Send + 'static,
) -> std::thread::JoinHandle<()> {
    let builder = std::thread::Builder::new().name(name.to_owned()).stack_size(stack_bytes);
    builder.spawn(f).expect("the system has room for one more thread")
}
