//! Plain counters and histograms, one set per shard, merged only when somebody reads them.
//!
//! Does not: time anything, share anything between threads, format for a monitoring system.

mod histogram;

pub use histogram::{BUCKETS, Histogram, middle_ns};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What one shard has done since boot. Names are the ones in `Status` and results.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// Every counter with its name, in order of declaration.
            pub fn list(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),*].into_iter()
            }
        }
    };
}

counters! {
    /// Turns taken.
    turns,
    /// Client connections accepted.
    client_connections,
    /// Client connections that ended without a hello that was accepted.
    client_strangers,
    /// Client frames taken in.
    client_frames,
    /// Client frames or streams refused for what they were (bad CRC, length, version, kind).
    client_malformed,
    /// Requests refused with Busy.
    client_busy,
    /// Times a client connection was not read for a while because the shard had enough to do.
    client_paused,
    /// Client connections cut off because they did not read their replies.
    client_cut_unread,
    /// Client connections cut off without a hello in time, or that did not take their last replies.
    client_cut_late,
    /// Client connections cut off because a frame that they had begun did not come to its end.
    client_cut_unfinished,
    /// Client connections without a hello that were cut off to make room for others.
    client_cut_evicted,
    /// Client connections closed at once because there were too many.
    client_turned_away,
    /// Requests handed to another shard.
    client_forwarded,
    /// Append requests admitted.
    append_requests,
    /// Records in them.
    append_records,
    /// Bytes of those records, without lengths and headers.
    append_record_bytes,
    /// Requests answered Done.
    append_done,
    /// Requests answered Unknown.
    append_unknown,
    /// Read requests answered.
    read_requests,
    /// Status texts and lists of leaders that were made. Who asks in the same turn shares one.
    questions_rendered,
    /// Record and framing bytes that were copied in user space on the leader's way from receive
    /// buffer to block.
    copied_bytes_leader,
    /// Bytes of batches that a follower copied from receive buffer to block.
    copied_bytes_follower,
    /// Bytes of batches that a follower wrote from the very memory they were received in.
    direct_bytes_follower,
    /// Bytes copied because a frame was cut across two receive buffers.
    copied_bytes_carry,
    /// Batches proposed as leader.
    batches_proposed,
    /// Batches appended as follower.
    batches_followed,
    /// Block writes submitted.
    wal_writes,
    /// Bytes of those writes.
    wal_write_bytes,
    /// Seal blocks among them.
    wal_seals,
    /// Segment checkpoints among them.
    wal_checkpoints,
    /// Device reads submitted.
    wal_reads,
    /// Bytes of those reads.
    wal_read_bytes,
    /// Segments that were recycled.
    wal_segments_recycled,
    /// Batches read back that failed their checksum (W-15).
    wal_read_corrupt,
    /// Bytes of live batches rewritten forward by retention.
    wal_rewritten_bytes,
    /// Peer streams that came up.
    peer_streams,
    /// Bulk streams ended because they held memory and did not move.
    peer_streams_wedged,
    /// Handshakes on the peer port that were refused, or did not come.
    peer_refused,
    /// Frames sent to peers.
    peer_frames_sent,
    /// Bulk bytes sent to peers.
    peer_bulk_bytes_sent,
    /// Peer frames refused for what they were (bad CRC, length, version, kind).
    peer_malformed,
    /// Peer messages dropped because they are for somebody else or make no sense (N-05).
    peer_ignored,
    /// Bulk batches whose checksum failed on arrival.
    peer_batch_corrupt,
    /// Elections it won.
    elections_won,
    /// Times it stepped down.
    stepped_down,
    /// Conflict truncations of a follower's log.
    truncations,
    /// Metadata snapshots installed.
    snapshots_installed,
}
