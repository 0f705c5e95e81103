//! What the benches share: passes that are timed by themselves, a smoke size, a hash of the work.
//!
//! `cargo bench` hands passes of the full size to Criterion; run by `cargo test`, a bench does one
//! small pass and ends. Either way it prints records per second, nanoseconds per record, and a
//! hash of what was computed, which changes when the work does. Does not know what is measured.

#![expect(clippy::print_stdout, reason = "a bench reports to whoever started it")]

use std::time::Duration;

use criterion::{Criterion, Throughput};

/// What one pass did.
pub(crate) struct Pass {
    /// Records, or whatever is counted.
    pub(crate) records: u64,
    /// The measured part of it.
    pub(crate) elapsed: Duration,
    /// Of the results.
    pub(crate) hash: u64,
}

/// Passes of which the fastest is printed: the others were disturbed.
const PRINTED_PASSES: u32 = 5;

/// Measures `pass`, which is told how many rounds to do.
pub(crate) fn measure(name: &str, rounds: u32, smoke_rounds: u32, pass: fn(u32) -> Pass) {
    let is_smoke = !std::env::args().any(|arg| arg == "--bench");
    if is_smoke {
        return print(name, &pass(smoke_rounds));
    }
    let best = (0..PRINTED_PASSES).map(|_| pass(rounds)).min_by_key(|pass| pass.elapsed);
    let best = best.expect("at least one pass");
    print(name, &best);
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(5))
        .sample_size(10)
        .configure_from_args();
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(best.records));
    group.bench_function("pass", |bencher| {
        bencher.iter_custom(|count| (0..count).map(|_| pass(rounds).elapsed).sum());
    });
    group.finish();
}

fn print(name: &str, pass: &Pass) {
    let seconds = pass.elapsed.as_secs_f64();
    println!(
        "{name}: {} records, {:.0} records/s, {:.1} ns/record, work {:016x}",
        pass.records,
        pass.records as f64 / seconds,
        seconds * 1e9 / pass.records as f64,
        pass.hash
    );
}

/// Adds a value to a hash (FNV-1a over its bytes).
pub(crate) fn mix(hash: u64, value: u64) -> u64 {
    value.to_le_bytes().iter().fold(hash ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
