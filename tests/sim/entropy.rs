//! The entropy that the standard library asks the operating system for, drawn from the seed instead.
//!
//! Every `HashMap` seeds its hashes with it, and so does tokio the choice of whom it wakes first: without this, two runs of a
//! seed part ways. The symbol takes the place of libc's for this program alone; nothing here needs real entropy.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

static SEED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Each thread has a stream of its own, so that none depends on which of them asks first.
    static DRAWN: Cell<u64> = const { Cell::new(0) };
}

/// What is drawn from now on follows from the seed.
pub fn begin(seed: u64) {
    SEED.store(seed, Ordering::Relaxed);
    DRAWN.set(0);
}

fn next() -> u64 {
    let drawn = DRAWN.get() + 1;
    DRAWN.set(drawn);
    fastrand::Rng::with_seed(SEED.load(Ordering::Relaxed) ^ drawn.wrapping_mul(0x9e37_79b9_7f4a_7c15)).u64(..)
}

/// libc's `getrandom(2)`.
///
/// # Safety
/// `buffer` is valid for `length` bytes, as for libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    // SAFETY: the caller vouches for the buffer.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer, length) };
    for part in bytes.chunks_mut(8) {
        part.copy_from_slice(&next().to_le_bytes()[..part.len()]);
    }
    length as isize
}
