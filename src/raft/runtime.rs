//! openraft's asynchronous runtime on tokio, with CLOCK_BOOTTIME for its instants.
//!
//! Leases and the promises that voters make are measured with [`crate::env::Instant`], so both sides of a lease count
//! the time that a machine slept. Tasks are spawned on the runtime of the calling worker, which pins a group to it.

#![allow(clippy::disallowed_methods)]

use crate::env::{self, Instant};
use futures_util::FutureExt;
use openraft::OptionalSend;
use openraft_rt::AsyncRuntime;
use openraft_rt::deterministic_rng::DeterministicRng;
use openraft_rt_tokio::{TokioMpsc, TokioMutex, TokioOneshot, TokioRuntime, TokioWatch};
use std::future::Future;
use std::time::Duration;

impl openraft_rt::Instant for Instant {
    fn now() -> Self {
        env::now()
    }
}

/// Where openraft gets a seeded generator from: it draws its election timeouts.
type Seeded = DeterministicRng<TokioRuntime>;

/// The runtime type named in [`super::Types`].
#[derive(Debug)]
pub struct Runtime(tokio::runtime::Runtime);

impl AsyncRuntime for Runtime {
    type JoinError = tokio::task::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = tokio::task::JoinHandle<T>;
    type Sleep = tokio::time::Sleep;
    type Instant = Instant;
    type TimeoutError = tokio::time::error::Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = tokio::time::Timeout<T>;
    type ThreadLocalRng = <Seeded as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = TokioMpsc;
    type Watch = TokioWatch;
    type Oneshot = TokioOneshot;
    type Mutex<T: OptionalSend + 'static> = TokioMutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        tokio::spawn(env::timed(future))
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        tokio::time::sleep(env::on_timer(duration))
    }

    fn sleep_until(deadline: Instant) -> Self::Sleep {
        tokio::time::sleep(env::on_timer(deadline.remaining()))
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        tokio::time::timeout(env::on_timer(duration), future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Instant, future: F) -> Self::Timeout<R, F> {
        tokio::time::timeout(env::on_timer(deadline.remaining()), future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        join_error.is_panic()
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        let drawn = Seeded::scope(env::seed(), async { Seeded::thread_rng() }).now_or_never();
        drawn.expect("nothing in it waits")
    }

    /// Only openraft's conformance suite asks for a runtime of its own; the server runs on its workers.
    fn new(_threads: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Runtime(runtime.expect("the system has room for a runtime"))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}
