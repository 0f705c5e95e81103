//! What a shard asks of the world.

use bytes::Bytes;

use super::{Lane, ReadSeq};
use crate::base::{BlockBuf, Slice};
use crate::model::{ConnId, GroupId, LogIndex, NodeId, ShardId, StreamId, Term, WriteSeq};
use crate::wal::SegmentNo;

/// The reason of an [`Effect::ClosePeer`] that is nobody's fault but a slow peer's.
pub const STREAM_WEDGED: &str = "what was sent is neither acknowledged nor waited for";

/// A run of bytes to send.
#[derive(Clone, Debug)]
pub enum Part {
    /// Heap bytes: headers, replies, small messages.
    Bytes(Bytes),
    /// Bytes of a block, not copied.
    Slice(Slice),
}

impl Part {
    /// The bytes themselves.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Slice(slice) => slice,
        }
    }
}

/// Bytes that go out on one stream without anything between them.
#[derive(Clone, Debug, Default)]
pub struct Frame {
    /// In order. Never empty when sent.
    pub parts: Vec<Part>,
}

impl Frame {
    /// Bytes of all parts.
    pub fn len_bytes(&self) -> usize {
        self.parts.iter().map(|part| part.as_bytes().len()).sum()
    }
}

/// What a shard gives back to the one that has the connection.
#[derive(Clone, Debug, Default)]
pub struct Returned {
    /// Whole frames; none if only room is given back.
    pub replies: Frame,
    /// How many forwarded requests they answer.
    pub requests: u32,
    /// Bytes of forwarded frames that are no longer held.
    pub room_bytes: usize,
}

/// One thing the world must do. Effects are started in order; they may end in any order.
#[derive(Debug)]
pub enum Effect {
    /// Write `block` durably (O_DIRECT, RWF_DSYNC) at `offset` of `segment`; then
    /// `Input::WriteDone`. Several may be in flight; never more than the shard was configured
    /// for. The segment is ready. Offsets and lengths are multiples of 4 KiB.
    Write {
        /// Number of this write; the effects come in this order without gaps.
        write: WriteSeq,
        /// Which file.
        segment: SegmentNo,
        /// Where in it.
        offset: u64,
        /// What.
        block: Slice,
    },
    /// Fill `buf` from `offset` of `segment`; then `Input::ReadDone`.
    Read {
        /// Number of this read.
        read: ReadSeq,
        /// Which file.
        segment: SegmentNo,
        /// Where in it.
        offset: u64,
        /// Where to.
        buf: BlockBuf,
    },
    /// Make the file of `segment` ready: by renaming `recycle` if it is given (its data are dead),
    /// else by pre-writing a new file; then `Input::SegmentReady`. Off the write path.
    PrepareSegment {
        /// Which one.
        segment: SegmentNo,
        /// The file to reuse.
        recycle: Option<SegmentNo>,
    },
    /// Delete the file of a dead segment that is not needed for recycling.
    RemoveSegment {
        /// Which one.
        segment: SegmentNo,
    },
    /// Send on a peer stream. Frames of one stream stay in order; a stream that is gone drops it.
    SendPeer {
        /// To whom.
        peer: NodeId,
        /// Which stream of the two.
        lane: Lane,
        /// Which incarnation.
        stream: StreamId,
        /// What. A bulk frame is a multiple of 4 KiB.
        frame: Frame,
    },
    /// Close a peer stream that spoke nonsense, or does not move ([`STREAM_WEDGED`]); `Input::PeerDown` follows.
    ClosePeer {
        /// To whom.
        peer: NodeId,
        /// Which stream of the two.
        lane: Lane,
        /// Which incarnation.
        stream: StreamId,
        /// Why, for the log.
        reason: &'static str,
    },
    /// Send to a client.
    SendClient {
        /// Which connection.
        conn: ConnId,
        /// Whole reply frames.
        frame: Frame,
    },
    /// `bytes` of what the connection delivered are no longer held: it may read that much more.
    ClientRoom {
        /// Which connection.
        conn: ConnId,
        /// How many bytes.
        bytes: usize,
    },
    /// Close a client connection after what was sent to it is out; `Input::ClientClosed` follows.
    CloseClient {
        /// Which connection.
        conn: ConnId,
        /// Why, for the log.
        reason: &'static str,
    },
    /// Give a client frame to the shard that has its group (`Input::Forwarded` there).
    Forward {
        /// Which shard.
        to: ShardId,
        /// The connection here.
        conn: ConnId,
        /// One whole frame.
        frame: Bytes,
    },
    /// Give replies back to the shard that has the connection (`Input::Returned` there).
    Return {
        /// Which shard.
        to: ShardId,
        /// The connection there.
        conn: ConnId,
        /// What goes back.
        returned: Returned,
    },
    /// Something people want to read in the log.
    Notice(Notice),
    /// Stop the process: the device failed (I-03). Nothing may be acknowledged any more.
    Halt {
        /// Why, for the log.
        reason: &'static str,
    },
    /// The answer to `Input::Drain`: everything accepted is durable and the seal is written.
    Drained,
}

/// An event for the log. Plain data: the world decides how it looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// This node leads a group now.
    Leads {
        /// Which group.
        group: GroupId,
        /// In which term.
        term: Term,
    },
    /// This node leads it no more.
    SteppedDown {
        /// Which group.
        group: GroupId,
    },
    /// A follower too far behind continued from a metadata snapshot.
    Installed {
        /// Which group.
        group: GroupId,
        /// The last index it covers.
        last: LogIndex,
    },
    /// Appends are refused until there is room on the log device.
    DiskFull,
    /// They are accepted again.
    DiskHasRoom,
    /// The log device hangs: this node lays its offices down and does not campaign (E-13).
    DeviceStuck,
    /// It completes writes again.
    DeviceWorks,
}

/// The caller's buffer of effects. Reused; taken in order.
#[derive(Debug, Default)]
pub struct Effects {
    /// The first to be started first.
    pub list: Vec<Effect>,
}

impl Effects {
    /// Adds an effect.
    pub fn push(&mut self, effect: Effect) {
        self.list.push(effect);
    }

    /// Whether there is nothing to carry out.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}
