//! The write-ahead log without a disk: formats, planning, index, retention, recovery. Pure.
//!
//! Bytes in, verdicts out; where blocks go and when they count as durable. Does not: open, read
//! or write a file. See `docs/wal-format.md`.
//!
//! How the shard uses it: a [`BlockBuilder`] (or [`claim_frame`]) makes a block, the [`Planner`]
//! gives it a place, [`Index::note_block`] remembers it, and the planner turns completions into
//! the durable prefix. At a start [`Recovery`] turns bytes into an [`Index`] and a [`Resume`].

mod geometry;
mod identity;

mod builder;
mod format;
mod record;

mod planner;

mod group_log;
mod index;
mod retention;

mod recovery;

mod invariants;

pub use builder::{BlockBuilder, ClosedBlock, Full, claim_frame, frame_area_bytes};
pub use format::{
    BLOCK_HEADER_BYTES, BLOCK_VERSION, BlockError, BlockHeader, BlockRole, BlockView,
    DIRECTORY_ENTRY_BYTES, DirectoryEntry, Stamp, blocks_in, parse_block, parse_block_of,
    parse_header,
};
pub use geometry::{Geometry, Lsn, SegmentNo};
pub use group_log::{Fault, FaultKind, PlacedBatch};
pub use identity::Identity;
pub use index::{Index, Located, RecoveredGroup};
pub use planner::{OpeningPlan, Placement, Planner, Resume, SEAL_AFTER};
pub use record::{
    GroupCheckpoint, HARD_STATE_RECORD_BYTES, LogReset, Record, SegmentOpen, TermRun, Void,
};
pub use recovery::{
    Cut, Place, READ_BYTES as RECOVERY_READ_BYTES, ReadFault, ReadWish, RecoverError, Recovered,
    Recovery, SegmentFile, Step, WalMay,
};
pub use retention::{Limit, RetentionPlan, Rewrite, plan_retention, trim_point};
