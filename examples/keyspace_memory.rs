//! What the keyspace takes, in bytes and nanoseconds: the figures behind `ENTRY_COST` and the layout of units.
//!
//! `cargo run --release --example keyspace_memory [keys] [shape]` loads a bare keyspace with keys of 16 bytes and prints, for
//! each shape of values, bytes a key by jemalloc's own count (`allocated`) and in pages (`resident`), fresh and after
//! all keys were overwritten five times in random order with other sizes, and nanoseconds a call.

// A measurement reads the clock.
#![allow(clippy::disallowed_methods)]

use hypercache::state::{Keyspace, Value};
use hypercache::types::Stamp;
use std::hint::black_box;
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

struct Shape {
    name: &'static str,
    value: usize,
    /// Milliseconds.
    ttl: Option<u64>,
    /// Between these, when overwritten.
    other: (usize, usize),
    /// All keys in one slot.
    tagged: bool,
}

const SHAPES: &[Shape] = &[
    Shape { name: "32", value: 32, ttl: None, other: (16, 48), tagged: false },
    Shape { name: "8", value: 8, ttl: None, other: (4, 12), tagged: false },
    Shape { name: "32+ttl", value: 32, ttl: Some(3_600_000), other: (16, 48), tagged: false },
    Shape { name: "100", value: 100, ttl: None, other: (50, 150), tagged: false },
    Shape { name: "32,tag", value: 32, ttl: None, other: (16, 48), tagged: true },
    Shape { name: "400", value: 400, ttl: None, other: (200, 600), tagged: false },
];

/// Allocated and resident, in bytes. Resident is right for the first shape of a process only: name one.
fn memory() -> (usize, usize) {
    tikv_jemalloc_ctl::epoch::advance().expect("statistics are built in");
    let allocated = tikv_jemalloc_ctl::stats::allocated::read().expect("statistics are built in");
    let resident = tikv_jemalloc_ctl::stats::resident::read().expect("statistics are built in");
    (allocated, resident)
}

fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut x = *state;
    x = (x ^ x >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ x >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ x >> 31
}

fn key(shape: &Shape, number: u64) -> [u8; 16] {
    let text = if shape.tagged { format!("{{t}}{number:013}") } else { format!("key:{number:012}") };
    text.into_bytes().try_into().expect("sixteen bytes")
}

fn bytes(seed: &mut u64, length: usize) -> Vec<u8> {
    (0..length).map(|_| b'a' + (random(seed) % 26) as u8).collect()
}

fn nanoseconds(calls: u64, mut call: impl FnMut(u64)) -> f64 {
    let begin = Instant::now();
    (0..calls).for_each(&mut call);
    begin.elapsed().as_nanos() as f64 / calls as f64
}

fn measure(shape: &Shape, keys: u64) {
    let (before, before_resident) = memory();
    let mut seed = 1;
    let pool = bytes(&mut seed, 64 << 10);
    let part = |random: u64, length: usize| &pool[random as usize % (pool.len() - length)..][..length];
    let mut keyspace = Keyspace::new(7);
    let mut now_ms = 1_700_000_000_000;
    let mut slowest = Duration::ZERO;
    let mut set = |keyspace: &mut Keyspace, number: u64, length: usize, seed: &mut u64| {
        if number.is_multiple_of(512) {
            now_ms += 1;
            keyspace.advance(&Stamp { now_ms, seed: 0 });
        }
        let deadline = shape.ttl.map(|ttl| now_ms + ttl);
        let begin = Instant::now();
        keyspace.set(&key(shape, number), Value::text(part(random(seed), length)), deadline);
        slowest = slowest.max(begin.elapsed());
    };
    let load = nanoseconds(keys, |number| set(&mut keyspace, number, shape.value, &mut seed));
    let (allocated, resident) = memory();
    let each = |bytes: usize, before: usize| bytes.saturating_sub(before) as f64 / keys as f64;
    let (fresh, fresh_resident) = (each(allocated, before), each(resident, before_resident));
    let get = nanoseconds(2_000_000, |_| {
        let number = random(&mut seed) % keys;
        black_box(keyspace.get(black_box(&key(shape, number))).map(|entry| entry.deadline()));
    });
    let miss = nanoseconds(2_000_000, |_| {
        let number = keys + random(&mut seed) % keys;
        black_box(keyspace.get(black_box(&key(shape, number))).map(|entry| entry.deadline()));
    });
    let same = nanoseconds(1_000_000.min(keys), |_| {
        let number = random(&mut seed) % keys;
        set(&mut keyspace, number, shape.value, &mut seed);
    });
    let (least, most) = shape.other;
    let over = nanoseconds(keys * 5, |nth| {
        let number = random(&mut seed) % keys;
        // The last round covers every key, with sizes whose mean is that of the beginning.
        let number = if nth >= keys * 4 { nth - keys * 4 } else { number };
        let length = least + random(&mut seed) as usize % (most - least + 1);
        set(&mut keyspace, number, length, &mut seed);
    });
    let (allocated, resident) = memory();
    println!(
        "{:>8} {keys:>9} {fresh:>8.1} {fresh_resident:>8.1} {:>8.1} {:>8.1} {load:>7.0} {get:>6.0} {miss:>6.0} {same:>6.0} {over:>6.0} {:>8.0} {:>7.1}",
        shape.name,
        each(allocated, before),
        each(resident, before_resident),
        slowest.as_micros() as f64,
        keyspace.used_bytes() as f64 / keys as f64,
    );
}

fn main() {
    let mut args = std::env::args().skip(1);
    let keys = args.next().and_then(|keys| keys.parse().ok()).unwrap_or(5_000_000);
    let only = args.next();
    println!(
        "{:>8} {:>9} {:>8} {:>8} {:>8} {:>8} {:>7} {:>6} {:>6} {:>6} {:>6} {:>8} {:>7}",
        "value",
        "keys",
        "fresh",
        "resident",
        "after",
        "resident",
        "load",
        "get",
        "miss",
        "same",
        "other",
        "max us",
        "account"
    );
    for shape in SHAPES.iter().filter(|shape| only.as_ref().is_none_or(|only| only == shape.name)) {
        measure(shape, keys);
    }
}
