//! Every limit, with unit and reason; relations between them as const assertions.

use core::time::Duration;

/// Alignment of device writes: the largest logical sector we support.
pub const DEVICE_ALIGN_BYTES: usize = crate::base::arena::BLOCK_ALIGN_BYTES;
/// One extent of the arena, and the largest WAL block: at 1 MiB the device is at full bandwidth
/// with two in flight, and larger blocks only add latency.
pub const BLOCK_BYTES_MAX: usize = 1 << 20;
/// A record, a request and a batch: a block less room for its header, directory and records.
pub const BATCH_BYTES_MAX: usize = BLOCK_BYTES_MAX - (64 << 10);
/// Size of a WAL segment file.
pub const SEGMENT_BYTES: u64 = 64 << 20;
/// A frame of the client or peer protocol, header included. A bulk frame carries at most a block.
pub const FRAME_BYTES_MAX: usize = BLOCK_BYTES_MAX;
/// What an unauthenticated connection may send in one frame (S5): a handshake is far smaller.
pub const HANDSHAKE_BYTES_MAX: usize = 4 << 10;
/// Voters of one half of a configuration: 7 tolerate three failures, more only slow the commit.
pub const VOTERS_MAX: usize = 7;
/// Groups of one node; beyond it the coalesced heartbeat of one shard outgrows a frame.
pub const GROUPS_MAX: usize = 10_000;
/// Shards of one node: the client ports of a node are base + shard and the peer ports start at
/// base + 100.
pub const SHARDS_MAX: usize = 64;
/// Batches one block or bulk frame may list: what 4 KiB headers and a frame's descriptors allow.
pub const BATCHES_PER_BLOCK_MAX: usize = 1024;
/// Requests one connection may have unanswered before its reader pauses (F-01).
pub const REQUESTS_PER_CONNECTION_MAX: usize = 65_536;
/// A connection that has not finished its handshake by then is closed (S8).
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// A linearizable read that could not be confirmed by then is answered `TimedOut`.
pub const READ_DEADLINE: Duration = Duration::from_secs(5);

const _: () = assert!(BLOCK_BYTES_MAX.is_multiple_of(DEVICE_ALIGN_BYTES));
const _: () = assert!((SEGMENT_BYTES as usize).is_multiple_of(BLOCK_BYTES_MAX));
const _: () = assert!(BATCH_BYTES_MAX < FRAME_BYTES_MAX);
