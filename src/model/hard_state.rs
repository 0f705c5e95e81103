//! The hard state of a group: what Raft may never forget (thesis 3.8).

use super::{LogIndex, NodeId, Term};

/// What a replica must have on disk before it sends anything that depends on it (H-01).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The newest term this replica has seen.
    pub term: Term,
    /// Whom it voted for in that term.
    pub vote: Option<NodeId>,
    /// A commit index known at some time before this was written. Only a hint that spares work
    /// after a restart: lower than the truth is harmless, higher is corruption (H-07).
    pub commit: LogIndex,
}
