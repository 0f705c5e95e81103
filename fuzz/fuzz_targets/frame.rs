//! See `entries::frame`.
#![no_main]

#[path = "../entries.rs"]
#[allow(dead_code, reason = "each target calls one of the entry points")]
mod entries;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    entries::frame(bytes);
});
