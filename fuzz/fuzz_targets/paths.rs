#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hypercache_fuzz::paths::run(data));
