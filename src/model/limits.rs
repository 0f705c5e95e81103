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
/// A client that begins a frame and asks for nothing else has this long to finish it. A request of
/// the largest size then takes 35 KB/s; one that trickles holds memory for no longer than this.
pub const FRAME_DEADLINE: Duration = Duration::from_secs(30);
/// How often clients are looked at for frames that do not end.
pub const FRAME_SCAN: Duration = Duration::from_secs(1);
/// A linearizable read that could not be confirmed by then is answered `TimedOut`.
pub const READ_DEADLINE: Duration = Duration::from_secs(5);
/// Inputs one turn takes (MR-02): a turn then has a worst case of a few milliseconds.
pub const INPUTS_PER_TURN_MAX: usize = 1024;
/// What a `Busy` tells the client to wait: a few device writes.
pub const BUSY_RETRY_AFTER: Duration = Duration::from_millis(5);
/// A received bulk frame of this size and more is written from the memory it was received in;
/// a smaller one is copied, so that many quiet groups share one device write.
pub const DIRECT_FRAME_BYTES_MIN: usize = 16 << 10;
/// Closed blocks that may wait for a slot of the device; they replicate while they wait.
pub const BLOCKS_QUEUED_MAX: usize = 8;
/// When the oldest own write is older, blocks are closed without waiting for a slot, so that the
/// others can commit without this disk.
pub const OWN_WRITE_STALL: Duration = Duration::from_millis(20);
/// How long after a failed attempt to make a segment file the next one follows.
pub const SEGMENT_RETRY: Duration = Duration::from_secs(1);
/// Dead segment files kept for recycling; more are deleted.
pub const SPARE_SEGMENTS_MAX: usize = 4;
/// Device reads one shard has in flight: more would only take memory from the writes.
pub const FETCHES_MAX: usize = 4;
/// Extents that what is read back for one lagging peer may hold. Batches point into what they were
/// read into until they were sent, and to a peer that hangs nothing is: with seven nodes these are
/// 24 of 64 extents at worst.
pub const READ_BACK_EXTENTS_PER_PEER_MAX: usize = 4;
/// A peer's groups ask for more when what was read for them was sent, and then one read serves all.
/// When some cannot be sent for so long (a full window), the others do not wait for it.
pub const UNSENT_PATIENCE: Duration = Duration::from_millis(10);
/// How long after a search for a peer that found nothing the next one follows.
pub const FETCH_RETRY: Duration = Duration::from_millis(50);
/// Batches a shard remembers as still in memory; older ones are let go and read back if wanted.
pub const CACHED_BATCHES_MAX: usize = 65_536;
/// Bytes of batches one turn puts into replies to reads (MR-02).
pub const READ_BYTES_PER_TURN_MAX: usize = 4 << 20;
/// Status and Metadata requests of one connection that may wait for their answers (F-01). Whoever
/// asks for the state of a shard more often than this within one turn gains nothing by it.
pub const QUESTIONS_PER_CONNECTION_MAX: usize = 64;
/// Status and Metadata requests of all connections of a shard that may wait (F-01).
pub const QUESTIONS_WAITING_MAX: usize = 1024;
/// Bytes of answers to them that one turn gives out (MR-02); one answer always.
pub const QUESTION_BYTES_PER_TURN_MAX: usize = 4 << 20;
/// The longest status text: it must fit into a frame, and 10,000 groups with large numbers would
/// not.
pub const STATUS_BYTES_MAX: usize = FRAME_BYTES_MAX - (64 << 10);
/// Stretches of the log one search for a batch looks through before it gives up.
pub const FETCH_HOPS_MAX: u32 = 256;
/// Stretches of the log that a client's page is gathered from beside the first that has something:
/// some ten reads' time, when many wait.
pub const PAGE_HOPS_MAX: u32 = 16;
/// For so many searches of clients that wait it is one more: who is alone hears at once.
pub const SEARCHES_PER_HOP: usize = 8;
/// Bytes of such pages that one shard holds before it sends them as they are.
pub const GATHERED_BYTES_MAX: usize = 4 << 20;
/// What a device read for one client takes beside the bytes that are wanted: the blocks around them.
pub const FETCH_BYTES_MIN: usize = 64 << 10;
/// Reads one shard may have unanswered (F-01).
pub const READS_WAITING_MAX: usize = 65_536;
/// Groups that may start to campaign in one look at the timers (E-15).
pub const CAMPAIGNS_PER_SCAN_MAX: usize = 64;
/// How often the timers of all groups are looked at.
pub const TIMER_SCAN: Duration = Duration::from_millis(10);
/// Memory of the arena, in percent, that is kept free by evicting what can be read back.
pub const ARENA_FREE_PERCENT_MIN: usize = 25;
/// How often retention is looked at.
pub const RETENTION_SCAN: Duration = Duration::from_millis(100);

const _: () = assert!(BLOCK_BYTES_MAX.is_multiple_of(DEVICE_ALIGN_BYTES));
const _: () = assert!(SEGMENT_BYTES.is_multiple_of(BLOCK_BYTES_MAX as u64));
const _: () = assert!(BATCH_BYTES_MAX < FRAME_BYTES_MAX);
