//! The machine's clocks and threads.

use super::Instant;
use std::time::Duration;

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
