//! The device ceiling: durable 256 KiB writes, four in flight, as records of 204 bytes. The files
//! lie below `target`, so it is the disk of the build that is measured.

#![expect(clippy::disallowed_methods, reason = "a bench reads a clock")]

mod harness;

use std::path::Path;
use std::time::{Duration, Instant};

use catamaran::runtime::probe::{Load, ceiling};

use harness::{Pass, measure, mix};

const BLOCK_BYTES: usize = 256 << 10;
const RECORD_BYTES: u64 = 204;

fn main() {
    measure("wal_disk", 10, 1, pass);
}

/// A round is a tenth of a second.
fn pass(rounds: u32) -> Pass {
    let load = Load {
        block_bytes: BLOCK_BYTES,
        depth: 4,
        writers: 1,
        duration: Duration::from_millis(100) * rounds,
        allow_buffered: true,
    };
    let start = Instant::now();
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let result = ceiling(directory, &load).expect("the disk of the build takes writes");
    assert!(load.duration <= start.elapsed() && 0.0 < result.writes_per_s);
    let records = result.bytes_per_s * load.duration.as_secs_f64() / RECORD_BYTES as f64;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive count")]
    let records = records as u64;
    // The work is the size and depth: how much of it there is, is what the device decides.
    Pass { records, elapsed: load.duration, hash: mix(BLOCK_BYTES as u64, 4) }
}
