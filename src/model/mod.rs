//! The shared words: what `raft` and `wal`, which must not see each other, both speak of.
//!
//! Identities, positions in a log, the batch (whose bytes disk and wire share), membership,
//! outcomes, and every limit with its reason. Does not: decide anything, or know a device, a
//! socket or a Raft role.

pub mod batch;
pub mod hard_state;
pub mod ids;
pub mod limits;
pub mod membership;
pub mod outcome;
pub mod span;

pub use batch::{BatchError, BatchHeader, BatchKind, BatchView};
pub use hard_state::HardState;
pub use ids::{
    BootCounter, ClusterId, ConnId, EntryId, GroupId, LogIndex, NodeId, NodeUuid, RecordCount,
    ReplicaId, RunId, ShardId, StreamId, Term, WriteSeq,
};
pub use membership::{Member, Membership};
pub use outcome::{Doubt, Outcome, Refusal};
pub use span::Span;
