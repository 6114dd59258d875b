//! The machine's clocks and threads.

use super::Instant;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub use super::turns::timed;

pub(super) fn now() -> Instant {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `ts` is a valid timespec for the call to fill; CLOCK_BOOTTIME exists on every Linux since 2.6.39.
    let rc = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut ts) };
    assert_eq!(rc, 0, "CLOCK_BOOTTIME can be read");
    Instant(ts.tv_sec as u64 * 1_000_000_000 + ts.tv_nsec as u64)
}

pub(super) fn wall_ns() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
}

pub(super) fn on_timer(d: Duration) -> Duration {
    d
}

/// A timer of the kernel's. Where there is none to be had, no time passes.
pub(super) async fn moment(d: Duration) {
    if let Some(timer) = kernel_timer(d) {
        let _ = timer.readable().await;
    }
}

fn kernel_timer(d: Duration) -> Option<AsyncFd<OwnedFd>> {
    // SAFETY: no pointers are passed, and the descriptor that comes back is nobody's yet.
    let timer = unsafe {
        let fd = libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC);
        (fd >= 0).then(|| OwnedFd::from_raw_fd(fd))?
    };
    let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // A time of zero would never come.
    let value = libc::timespec { tv_sec: d.as_secs() as i64, tv_nsec: i64::from(d.subsec_nanos().max(1)) };
    let once = libc::itimerspec { it_interval: zero, it_value: value };
    // SAFETY: the descriptor is open, `once` is valid, and a null pointer asks for no former value.
    let set = unsafe { libc::timerfd_settime(timer.as_raw_fd(), 0, &once, std::ptr::null_mut()) };
    // SAFETY: the descriptor is open, and an OwnedFd is and stays the same one until it is dropped, which it is with the AsyncFd.
    (set == 0).then(|| unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) }.ok())?
}

pub(super) fn aside(name: &str, f: impl FnOnce() + Send + 'static) {
    super::spawn_thread(name, f);
}

pub(super) fn pause(d: Duration) {
    std::thread::sleep(d);
}

pub(super) fn secret_bytes(count: usize) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = vec![0; count];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}
