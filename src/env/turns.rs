//! How long tasks keep a worker to themselves: nothing else runs there meanwhile, and every client of that worker waits.
//!
//! A turn is one poll of a task that was wrapped in [`timed`]. What counts is its CPU time, because a turn that the system
//! suspended is not the program's fault. Reading that clock is a system call, so it is read once in a while and after long
//! turns only; a turn is charged with at most what passed since the last reading, and never with more than it took by the
//! wall. So a figure may be too large by [`READ_EVERY`], and is never too small.

// Nobody measures turns where time stands still during them.
#![cfg_attr(feature = "sim", allow(dead_code))]

use super::{Instant, now};
use pin_project_lite::pin_project;
use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

/// The CPU clock is read before a turn if it was not for so long.
const READ_EVERY: Duration = Duration::from_micros(500);

/// Turns that took longer than so many milliseconds are counted.
pub const COUNTED_MS: [u64; 10] = [1, 2, 3, 4, 5, 7, 10, 20, 50, 100];

static LONGEST_NS: AtomicU64 = AtomicU64::new(0);
static OVER: [AtomicU64; COUNTED_MS.len()] = [const { AtomicU64::new(0) }; COUNTED_MS.len()];

thread_local! {
    /// When the CPU clock of this thread was read last, and what it said.
    static READ: Cell<Option<(Instant, Duration)>> = const { Cell::new(None) };
}

/// The longest turn on any thread since the process began.
pub fn longest() -> Duration {
    Duration::from_nanos(LONGEST_NS.load(Relaxed))
}

/// How many turns took longer than each of [`COUNTED_MS`].
pub fn counted() -> impl Iterator<Item = (u64, u64)> {
    COUNTED_MS.iter().zip(&OVER).map(|(ms, count)| (*ms, count.load(Relaxed)))
}

pin_project! {
    /// See [`timed`]. A type of its own, because an `async fn` would keep its argument twice, and a task is copied when it is spawned.
    pub struct Timed<F> {
        #[pin]
        task: F,
    }
}

/// The same task, its turns noted.
pub fn timed<F: Future>(task: F) -> Timed<F> {
    Timed { task }
}

impl<F: Future> Future for Timed<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let began = begin();
        let polled = self.project().task.poll(cx);
        end(began);
        polled
    }
}

fn begin() -> Instant {
    let began = now();
    if READ.get().is_none_or(|(at, _)| began - at >= READ_EVERY) {
        READ.set(Some((began, thread_cpu())));
    }
    began
}

fn end(began: Instant) {
    let ended = now();
    let wall = ended - began;
    // Nothing shorter is counted.
    if wall < Duration::from_millis(COUNTED_MS[0]) {
        return;
    }
    let used = thread_cpu();
    let (_, before) = READ.replace(Some((ended, used))).unwrap_or((began, used));
    note(wall.min(used.saturating_sub(before)));
}

fn note(turn: Duration) {
    LONGEST_NS.fetch_max(turn.as_nanos() as u64, Relaxed);
    for (ms, count) in COUNTED_MS.iter().zip(&OVER) {
        if turn > Duration::from_millis(*ms) {
            count.fetch_add(1, Relaxed);
        }
    }
}

/// CPU time that this thread has used.
fn thread_cpu() -> Duration {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `ts` is a valid timespec for the call to fill; every thread has this clock.
    let rc = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut ts) };
    assert_eq!(rc, 0, "a thread's own CPU clock can be read");
    Duration::new(ts.tv_sec as u64, ts.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Works for so long by this thread's CPU clock.
    fn work(time: Duration) {
        let until = thread_cpu() + time;
        while thread_cpu() < until {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn a_turn_is_what_a_task_works_without_a_pause() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(timed(async {
            for _ in 0..20 {
                work(Duration::from_millis(2));
                tokio::task::yield_now().await;
            }
        }));
        // Other tests of this process note theirs too, so nothing can be said about the most.
        assert!(longest() >= Duration::from_millis(2), "{:?}", longest());
        let over = |ms: u64| counted().find(|(counted, _)| *counted == ms).unwrap().1;
        assert!(over(1) >= 20, "{}", over(1));

        let before = over(50);
        runtime.block_on(timed(async { work(Duration::from_millis(60)) }));
        assert!(over(50) > before && longest() >= Duration::from_millis(60));
        // Waiting is no work.
        let calm = over(100);
        runtime.block_on(timed(async {
            #[allow(clippy::disallowed_methods)]
            std::thread::sleep(Duration::from_millis(150));
        }));
        assert_eq!(over(100), calm);
    }
}
