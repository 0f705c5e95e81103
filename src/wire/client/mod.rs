//! What clients and nodes say to each other.
//!
//! [`Kind`] is the one table of message kinds. `request` and `reply` hold layouts, `error` the
//! numbers of refusals and doubts. Encoders append to the caller's buffer and allocate nothing of
//! their own; decoders borrow. Does not: decide what to answer, or know who is connected.

mod error;
mod reply;
mod request;

pub use error::{ErrorCode, ErrorReply, encode_doubt, encode_error, encode_refusal};
pub use reply::{
    APPEND_REPLY_FRAME_BYTES, AppendReply, GroupInfo, HelloReply, Limits, MetadataReply,
    MetadataView, NodeInfo, READ_REPLY_HEAD_BYTES, ReadReplyHead, ReadReplyView, Reply,
    StatusReply, encode_append_reply, encode_hello_reply, encode_metadata_reply,
    encode_read_reply_head, encode_status_reply,
};
pub use request::{
    Append, Consistency, Hello, Read, Request, append_frame_bytes, encode_append,
    encode_append_body, encode_hello, encode_metadata, encode_read, encode_status,
};

use crate::model::{GroupId, ShardId};

kinds! {
    /// Every kind of client message and its number. Numbers are never used again for something
    /// else. A reply's number is its request's plus 64.
    Kind:
    /// First on every connection: versions, cluster, who asks.
    Hello = 1,
    /// Who are the nodes, and who leads which group?
    Metadata = 2,
    /// Append records to a group's log, all or none.
    Append = 3,
    /// Read committed records.
    Read = 4,
    /// Counters and facts for people, as text.
    Status = 5,
    /// Reserved: subscribe to a log from an index on.
    Tail = 6,
    /// Reserved: more room for pushed batches.
    Credit = 7,
    /// Reserved: forget a log's beginning.
    Trim = 8,
    /// Reserved: a command of the key-value state machine.
    KeyValue = 9,
    /// Answer to [`Kind::Hello`].
    HelloReply = 65,
    /// Answer to [`Kind::Metadata`].
    MetadataReply = 66,
    /// Answer to [`Kind::Append`]: durable on a majority.
    AppendReply = 67,
    /// Answer to [`Kind::Read`].
    ReadReply = 68,
    /// Answer to [`Kind::Status`].
    StatusReply = 69,
    /// Reserved: pushed batches.
    TailReply = 70,
    /// Reserved.
    CreditReply = 71,
    /// Reserved.
    TrimReply = 72,
    /// Reserved.
    KeyValueReply = 73,
    /// Answer to any request that was not done, or of which nobody knows.
    Error = 127,
}

/// The shard that has `group`, the same on every node of a cluster.
///
/// # Panics
/// If `shard_count` is zero, which no decoder lets through.
pub fn shard_of(group: GroupId, shard_count: u16) -> ShardId {
    let shard = group.get() % u64::from(shard_count);
    ShardId::new(u16::try_from(shard).expect("the remainder is below a u16"))
}

#[cfg(test)]
mod tests;
