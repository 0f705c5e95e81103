//! A stretch of the log that was read back, with the batches of all groups that lie in it.
//!
//! Apart because one read serves many searches, as one write served many groups: the blocks are
//! walked once, then each search asks for its own. Does not: verify batches (that is done for each
//! one that is handed out, W-15), or know who wants what.

use crate::base::Slice;
use crate::model::GroupId;
use crate::wal::{BlockError, DirectoryEntry, Identity, Lsn, parse_block};

/// A batch of a stretch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) entry: DirectoryEntry,
    /// Where it begins in the stretch.
    at: usize,
}

/// What stands behind the last whole block of a stretch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behind {
    /// More of the log, that was not read.
    More,
    /// No block: the rest of a segment that the next one did not fit into, or damage.
    NoBlock,
}

/// Consecutive blocks in memory. One per line of searches at most, and one more while it is read.
pub(super) struct Stretch {
    /// Where the first block begins.
    pub(super) start: Lsn,
    /// Where the last whole one ends.
    pub(super) end: Lsn,
    pub(super) behind: Behind,
    bytes: Slice,
    /// By group; those of one group in order of position.
    found: Vec<Found>,
}

impl Stretch {
    /// Walks the blocks in `bytes`, which were read at `start`.
    pub(super) fn new(start: Lsn, bytes: Slice, identity: &Identity) -> Self {
        let (mut at, mut found, mut behind) = (0, Vec::new(), Behind::More);
        while at < bytes.len() {
            match parse_block(&bytes[at..], start.plus(at as u64), identity) {
                Ok(block) => {
                    let place = |entry: DirectoryEntry| at + entry.offset as usize;
                    found.extend(block.entries().map(|entry| Found { entry, at: place(entry) }));
                    at += block.total_bytes() as usize;
                }
                Err(BlockError::Short { .. }) => break,
                Err(_) => {
                    behind = Behind::NoBlock;
                    break;
                }
            }
        }
        found.sort_by_key(|found| found.entry.group);
        Self { start, end: start.plus(at as u64), behind, bytes, found }
    }

    /// Whether a block begins at `lsn` in it, if one begins there at all.
    pub(super) fn covers(&self, lsn: Lsn) -> bool {
        self.start <= lsn && lsn < self.end
    }

    /// The batches of a group, in order of position.
    pub(super) fn of(&self, group: GroupId) -> &[Found] {
        let from = self.found.partition_point(|found| found.entry.group < group);
        let rest = &self.found[from..];
        &rest[..rest.partition_point(|found| found.entry.group == group)]
    }

    /// Where the block of a batch begins.
    pub(super) fn block_of(&self, found: &Found) -> Lsn {
        self.start.plus((found.at - found.entry.offset as usize) as u64)
    }

    /// The bytes of a batch, not verified.
    pub(super) fn slice(&self, found: &Found) -> Slice {
        self.bytes.slice(found.at..found.at + found.entry.bytes as usize)
    }
}
