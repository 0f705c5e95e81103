//! How much log a run will write, and what to do when the disk has less room.
//!
//! An estimate on the safe side: segments are pre-written before the clock starts, and one that
//! must be made while the clock runs disturbs what is measured. Does not touch the disk.

use std::time::Duration;

use catamaran::model::limits::SEGMENT_BYTES;

use crate::args::{Load, Mode, Rate};
use crate::human;

/// A block is at least this long, however little there is to write.
const BLOCK_BYTES_MIN: f64 = 4096.0;
/// Blocks per second and node when each carries little: what fast devices do with four at once.
const BLOCKS_PER_S_MAX: f64 = 25_000.0;
/// What a record costs beyond itself: its length, and its share of headers and padding.
const RECORD_OVERHEAD: f64 = 1.1;
/// The least time between sending a record and its durable acknowledgement that is worth assuming.
const ROUND_TRIP_S: f64 = 200e-6;
/// Records per second that two cores would not exceed.
const RECORDS_PER_S_MAX: f64 = 4e6;
/// Segments beside the expected volume: the one in use, the one ahead, and a reserve.
const SEGMENTS_SPARE: u64 = 3;
/// What is left to others on the disk.
const FREE_BYTES_MIN: u64 = 1 << 30;
/// A shorter measured window says nothing.
const DURATION_MIN: Duration = Duration::from_secs(1);

/// What one node will need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Need {
    /// Segments to pre-write in each shard.
    pub(crate) segments_per_shard: u32,
    /// Bytes of them all, on all nodes.
    pub(crate) bytes: u64,
}

/// What one node writes per second. `device_bytes_per_s` is what the device takes from all nodes
/// together.
fn node_bytes_per_s(load: &Load, nodes: u16, device_bytes_per_s: f64) -> f64 {
    if load.mode != Mode::Append {
        return 4e6; // Heartbeats and a prefill of a few thousand records.
    }
    let record_bytes = f64::from(load.record_bytes + 4) * RECORD_OVERHEAD;
    let records_per_s = match load.rate {
        Rate::PerSecond(rate) => rate as f64,
        Rate::Max => (f64::from(load.inflight) / ROUND_TRIP_S).min(RECORDS_PER_S_MAX),
    };
    let blocks_per_s = (records_per_s / f64::from(load.records_per_request)).min(BLOCKS_PER_S_MAX);
    let wanted = records_per_s * record_bytes + blocks_per_s * BLOCK_BYTES_MIN;
    wanted.min(device_bytes_per_s / f64::from(nodes))
}

/// What a run needs.
pub(crate) fn need(load: &Load, nodes: u16, shards: u16, device_bytes_per_s: f64) -> Need {
    let seconds = (load.warmup + load.duration).as_secs_f64();
    let node_bytes = human::whole(node_bytes_per_s(load, nodes, device_bytes_per_s) * seconds);
    let per_shard = node_bytes.div_ceil(u64::from(shards)).div_ceil(SEGMENT_BYTES) + SEGMENTS_SPARE;
    Need {
        segments_per_shard: u32::try_from(per_shard).unwrap_or(u32::MAX),
        bytes: per_shard * u64::from(shards) * u64::from(nodes) * SEGMENT_BYTES,
    }
}

/// Makes the load fit into `free_bytes`: the same, or a shorter one with a sentence about it.
///
/// # Errors
/// Not even the shortest run fits; the sentence says what would help.
pub(crate) fn fit(
    load: Load,
    nodes: u16,
    shards: u16,
    device_bytes_per_s: f64,
    free_bytes: u64,
) -> Result<(Load, Option<String>), String> {
    let usable = free_bytes.saturating_sub(FREE_BYTES_MIN);
    let wanted = need(&load, nodes, shards, device_bytes_per_s);
    if wanted.bytes <= usable {
        return Ok((load, None));
    }
    let mut shorter = load;
    while shorter.duration > DURATION_MIN {
        shorter.duration = shorter.duration.mul_f64(0.8).max(DURATION_MIN);
        shorter.warmup = shorter.warmup.mul_f64(0.8);
        if need(&shorter, nodes, shards, device_bytes_per_s).bytes <= usable {
            let said = format!(
                "measuring {} instead of {}: the logs would take {} and the disk has {} to spare",
                human::seconds(shorter.duration),
                human::seconds(load.duration),
                human::byte_size(wanted.bytes as f64),
                human::byte_size(usable as f64),
            );
            return Ok((shorter, Some(said)));
        }
    }
    Err(format!(
        "the logs would take {} and the disk has {} to spare: make room, choose another --dir, or \
         lower --rate, --size or --nodes",
        human::byte_size(need(&shorter, nodes, shards, device_bytes_per_s).bytes as f64),
        human::byte_size(usable as f64),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOAD: Load = Load {
        rate: Rate::PerSecond(100_000),
        mode: Mode::Append,
        record_bytes: 200,
        records_per_request: 1,
        warmup: Duration::from_secs(2),
        duration: Duration::from_secs(10),
        connections: 8,
        inflight: 65_536,
        groups: None,
    };
    const DEVICE: f64 = 1.8e9;

    #[test]
    fn the_default_run_needs_a_few_gigabytes() {
        let need = need(&LOAD, 3, 1, DEVICE);
        assert!((20..40).contains(&need.segments_per_shard), "{need:?}");
        assert_eq!(need.bytes, u64::from(need.segments_per_shard) * 3 * SEGMENT_BYTES);
    }

    #[test]
    fn a_closed_loop_is_bounded_by_the_device_and_by_its_window() {
        let load = Load { rate: Rate::Max, records_per_request: 16, inflight: 4096, ..LOAD };
        let whole = need(&load, 3, 1, DEVICE);
        assert!(whole.bytes <= 12 * 1_800_000_000 + 12 * SEGMENT_BYTES, "{whole:?}");
        let one = need(&Load { inflight: 1, records_per_request: 1, ..load }, 3, 1, DEVICE);
        assert!(one.bytes < whole.bytes / 4, "{one:?}");
    }

    #[test]
    fn a_small_disk_shortens_the_run_and_a_full_one_refuses_it() {
        let plenty = fit(LOAD, 3, 1, DEVICE, 100 << 30).expect("fits");
        assert_eq!((plenty.0.duration, plenty.1), (LOAD.duration, None));
        let (shorter, said) = fit(LOAD, 3, 1, DEVICE, 3 << 30).expect("fits when shorter");
        assert!(shorter.duration < LOAD.duration && shorter.duration >= DURATION_MIN);
        assert!(said.expect("says so").contains("instead of 10s"));
        let refused = fit(LOAD, 3, 1, DEVICE, FREE_BYTES_MIN).expect_err("no room at all");
        assert!(refused.contains("--dir"), "{refused}");
    }
}
