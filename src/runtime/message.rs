//! What other threads say to a shard through its inbox.

use std::fs::File;

use bytes::Bytes;

use crate::model::{ConnId, ShardId};
use crate::shard::{IoFault, Returned};
use crate::wal::SegmentNo;

/// One message to one shard.
#[derive(Debug)]
pub(super) enum Message {
    /// A worker's answer to `PrepareSegment`.
    Prepared {
        segment: SegmentNo,
        /// The open file, or why there is none.
        result: Result<File, IoFault>,
    },
    /// See `shard::Input::Forwarded`.
    Forwarded { from: ShardId, conn: ConnId, frame: Bytes },
    /// See `shard::Input::Returned`.
    Returned { conn: ConnId, returned: Returned },
    /// The node is to stop in good order.
    Drain,
    /// The watchdog has given the device up.
    Halt {
        /// Why, in words.
        reason: String,
    },
    /// Another shard of this node has ended, so this one ends too.
    Stop,
}
