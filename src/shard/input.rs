//! What the world tells a shard.

use bytes::Bytes;

use crate::base::{BlockBuf, Moment};
use crate::model::{ConnId, NodeId, ShardId, StreamId, WriteSeq};
use crate::wal::SegmentNo;

pub use crate::wire::peer::Lane;

/// One device read of one shard since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadSeq(pub u64);

/// What a device answered instead of doing its work. Any of these on a write ends the node (I-03).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoFault {
    /// EIO and everything else that says the medium failed.
    Failed {
        /// The errno, for people.
        errno: i32,
    },
    /// ENOSPC.
    NoSpace,
    /// Fewer bytes than asked for, and no more to be had.
    Short,
}

/// What a peer was turned away for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerFault {
    /// Its handshake was wrong, or did not come in time.
    Handshake,
    /// Its bulk stream was not one of frames. `Input::PeerDown` follows.
    Frame,
}

/// What client connections came to since it was last told. The world decides these by itself, so
/// that a shard that is flooded need not be asked; the shard only counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientTroubles {
    /// Times a reader paused because the shard as a whole had enough to do.
    pub paused: u64,
    /// Cut off because replies piled up that they did not read.
    pub unread: u64,
    /// Cut off without a hello in time, or because their last replies were not taken.
    pub late: u64,
    /// Strangers cut off to make room for newcomers.
    pub evicted: u64,
    /// Closed at once, for want of room.
    pub turned_away: u64,
}

/// One thing that happened in the world since the last turn.
#[derive(Debug)]
pub enum Input {
    /// A client connected. Its bytes follow under this id.
    ClientOpened {
        /// The connection.
        conn: ConnId,
    },
    /// Bytes from a client, cut anywhere. The world stops reading from a connection once the
    /// bytes it delivered and that no `Effect::ClientRoom` has returned exceed its budget.
    ClientBytes {
        /// The connection.
        conn: ConnId,
        /// What came.
        bytes: Bytes,
    },
    /// A client is gone. No effect may name it after this turn.
    ClientClosed {
        /// The connection.
        conn: ConnId,
    },
    /// What the world did to client connections by itself.
    ClientTroubles {
        /// How often, since this was last told.
        troubles: ClientTroubles,
    },
    /// A peer stream passed its handshake and is ready in both directions.
    PeerUp {
        /// The node at the other end.
        peer: NodeId,
        /// Which stream of the two.
        lane: Lane,
        /// Which incarnation.
        stream: StreamId,
        /// Bulk bytes that we may have unacknowledged towards it.
        credit_bytes: u64,
    },
    /// A peer stream is gone, with everything that was sent and not received.
    PeerDown {
        /// The node at the other end.
        peer: NodeId,
        /// Which stream of the two.
        lane: Lane,
        /// Which incarnation; one that is not current is ignored (N-06).
        stream: StreamId,
    },
    /// The world turned a peer away for what it sent, before the shard could see it: only
    /// counted here, so that hostility shows in `Status`.
    PeerRefused {
        /// Where.
        fault: PeerFault,
    },
    /// Bytes from a peer's control stream, cut anywhere.
    PeerControl {
        /// The node at the other end.
        peer: NodeId,
        /// Which incarnation.
        stream: StreamId,
        /// What came.
        bytes: Bytes,
    },
    /// One whole bulk frame, at the start of a block of its own length: a follower writes the
    /// very same memory to its device.
    PeerBulk {
        /// The node at the other end.
        peer: NodeId,
        /// Which incarnation.
        stream: StreamId,
        /// Exactly one frame (`wire::peer::bulk_frame_bytes`), header included.
        frame: BlockBuf,
    },
    /// A block write is durable (I-02). Completions may come in any order.
    WriteDone {
        /// Which write.
        write: WriteSeq,
    },
    /// A block write failed: nothing is known about what the device holds.
    WriteFailed {
        /// Which write.
        write: WriteSeq,
        /// What the device said.
        fault: IoFault,
    },
    /// A device read ended. The buffer comes back either way.
    ReadDone {
        /// Which read.
        read: ReadSeq,
        /// The buffer of the effect, filled from its start.
        buf: BlockBuf,
        /// Whether it was filled.
        result: Result<(), IoFault>,
    },
    /// A segment file is pre-written, of full size, and its directory entry is durable.
    SegmentReady {
        /// Which one.
        segment: SegmentNo,
    },
    /// A segment file could not be made.
    SegmentFailed {
        /// Which one.
        segment: SegmentNo,
        /// Why; `NoSpace` makes the shard refuse appends until a later attempt succeeds.
        fault: IoFault,
    },
    /// A client frame that another shard of this node received for one of our groups.
    Forwarded {
        /// The shard that has the connection.
        from: ShardId,
        /// The connection there.
        conn: ConnId,
        /// One whole, checked frame.
        frame: Bytes,
    },
    /// Reply frames to a request that we forwarded.
    Returned {
        /// The connection here.
        conn: ConnId,
        /// What came back.
        returned: super::effects::Returned,
    },
    /// Nothing but time has passed. Comes at least every 25 ms.
    Tick,
    /// SIGTERM: refuse new work; write the final seal. `Effect::Drained` follows.
    Drain,
}

/// What has piled up since the last turn, in order of arrival. Reused.
#[derive(Debug, Default)]
pub struct Inputs {
    /// The oldest first.
    pub queue: std::collections::VecDeque<Input>,
    /// When the oldest of them came, if the world looks at its clock for each. Only measured with.
    pub since: Option<Moment>,
}

impl Inputs {
    /// Adds what just happened.
    pub fn push(&mut self, input: Input) {
        self.queue.push_back(input);
    }
}
