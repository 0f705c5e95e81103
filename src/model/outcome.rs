//! What a client may hear: refusals, doubts, and the three honest outcomes of a write.

use core::fmt;
use core::time::Duration;

use super::{LogIndex, NodeId};

/// Why a request certainly had no effect. Its number on the wire is in `wire::client`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// This node does not lead the group; `hint` is who probably does.
    NotLeader {
        /// The leader this node knows, if any.
        hint: Option<NodeId>,
    },
    /// A budget is full; worth trying again after this long (F-02).
    Busy {
        /// How long to wait first.
        retry_after: Duration,
    },
    /// The log device has no room.
    DiskFull,
    /// The record, request or frame is larger than `limit_bytes`.
    TooLarge {
        /// The limit it exceeds.
        limit_bytes: u32,
    },
    /// No such group here.
    UnknownGroup,
    /// The wanted records were trimmed; `next` is the first that is left.
    Trimmed {
        /// The first index that can still be read.
        next: LogIndex,
    },
    /// The log's tail is not where the request expected it.
    WrongTail {
        /// The last index of the log.
        last: LogIndex,
    },
    /// The request uses something that this version reserves but does not have.
    Unsupported,
    /// The bytes of the request make no sense.
    Malformed,
    /// The node is shutting down or not ready yet.
    Unavailable,
    /// The request waited too long, for example for a quorum that does not answer a read.
    TimedOut,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLeader { hint: Some(node) } => write!(f, "not the leader, node {node} may be"),
            Self::NotLeader { hint: None } => f.write_str("not the leader, none is known"),
            Self::Busy { retry_after } => {
                write!(f, "busy, try again after {} ms", retry_after.as_millis())
            }
            Self::DiskFull => f.write_str("the log device is full"),
            Self::TooLarge { limit_bytes } => write!(f, "larger than {limit_bytes} bytes"),
            Self::UnknownGroup => f.write_str("no such group on this cluster"),
            Self::Trimmed { next } => write!(f, "trimmed, the first index left is {next}"),
            Self::WrongTail { last } => write!(f, "the log's last index is {last}"),
            Self::Unsupported => f.write_str("not supported by this version"),
            Self::Malformed => f.write_str("malformed request"),
            Self::Unavailable => f.write_str("the node is not serving"),
            Self::TimedOut => f.write_str("timed out"),
        }
    }
}

/// Why nobody can say yet whether a write happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// The leader lost its office before the write was committed; a successor may keep it (C-06).
    LeadershipLost,
    /// The connection ended between the request and its reply.
    ConnectionLost,
    /// No reply came in the time the caller gave.
    TimedOut,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LeadershipLost => "the leader stepped down first",
            Self::ConnectionLost => "the connection was lost first",
            Self::TimedOut => "no reply in time",
        })
    }
}

/// The three honest answers to a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    /// Durable on a majority, for ever.
    Done(T),
    /// Certainly had no effect: try again anywhere, as often as you like.
    NotDone(Refusal),
    /// May have happened, may yet happen.
    Unknown(Doubt),
}
