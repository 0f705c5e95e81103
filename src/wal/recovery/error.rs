//! Why a log is refused at start: every variant with the place, what was expected and what was
//! found, and a sentence on how to go on.
//!
//! Apart from `recovery` because it is what operators read. In this version every corruption
//! refuses the data directory and alters nothing (W-10); repair from peers comes later.

use core::fmt;

use super::super::format::{BLOCK_VERSION, BlockError};
use super::super::group_log::Fault;
use super::super::{Lsn, SegmentNo};

/// What a device answered to a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFault {
    /// EIO and the like.
    Failed {
        /// The errno, for people.
        errno: i32,
    },
    /// Fewer bytes than the file should have.
    Short,
}

/// A place in a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub segment: SegmentNo,
    /// Where in it.
    pub offset: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} offset {}", self.segment.file_name(), self.offset)
    }
}

/// Why a log could not be recovered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecoverError {
    /// A block that was once durable is not sound any more (W-05).
    Corrupt {
        /// Where it should be.
        place: Place,
        /// What is wrong with it.
        error: BlockError,
        /// Everything below this was durable.
        watermark: Lsn,
        /// The block that says so.
        proof: Lsn,
    },
    /// A sound block lies further behind an unsound one than could have been in flight (W-05).
    BeyondWindow {
        /// The unsound one.
        place: Place,
        /// What is wrong with it.
        error: BlockError,
        /// The sound one.
        valid: Lsn,
        /// What could have been in flight.
        window_bytes: u64,
    },
    /// A sound block of another cluster, node or shard.
    Foreign {
        /// Where.
        place: Place,
        /// Our identity tag.
        expected: u64,
        /// The one found.
        found: u64,
    },
    /// Written by a newer program.
    TooNew {
        /// Where.
        place: Place,
        /// Its version.
        found: u8,
    },
    /// A sound block of ours that belongs further on: a misdirected write or a renamed file.
    Misplaced {
        /// Where it was found.
        place: Place,
        /// Where it belongs.
        found: Lsn,
    },
    /// A segment is not there, although a later one continues it or still needs it.
    Missing {
        /// Which one.
        segment: SegmentNo,
        /// The one that needs it.
        needed_by: SegmentNo,
    },
    /// A segment file that is needed has the wrong size.
    Size {
        /// Which one.
        segment: SegmentNo,
        /// What it should have.
        expected_bytes: u64,
        /// What it has.
        found_bytes: u64,
    },
    /// The log was written with another segment size.
    SegmentBytes {
        /// Where it says so.
        segment: SegmentNo,
        /// The size in force now.
        expected_bytes: u64,
        /// The size it was written with.
        found_bytes: u64,
    },
    /// A sound opening that claims more bytes in flight than any planner allows.
    Window {
        /// The opening.
        place: Place,
        /// What it claims.
        window_bytes: u64,
        /// The size of a segment, into which the window must fit.
        segment_bytes: u64,
    },
    /// Sound blocks that cannot follow each other: an opening out of order, or blocks where none
    /// can be.
    Sequence {
        /// Where.
        place: Place,
    },
    /// A sound block contradicts those before it.
    Contradiction {
        /// The block, or the end of the log.
        place: Place,
        /// What contradicts.
        fault: Fault,
    },
    /// The device could not read. Never taken for a torn write.
    Unreadable {
        /// Where the read began.
        place: Place,
        /// What the device said.
        fault: ReadFault,
    },
    /// No log where one must be (W-17).
    Empty {
        /// Segment files that are there, none of them with an opening.
        files: usize,
    },
}

impl RecoverError {
    /// What an operator can do.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Corrupt { .. }
            | Self::BeyondWindow { .. }
            | Self::Misplaced { .. }
            | Self::Window { .. }
            | Self::Sequence { .. }
            | Self::Contradiction { .. } => {
                "nothing was altered; keep the directory for examination (walcat), remove this \
                 node from the cluster and add a freshly initialised one"
            }
            Self::Foreign { .. } => {
                "nothing was altered; put back the segment files that belong to this data \
                 directory, or remove the foreign file if it was copied here by mistake"
            }
            Self::TooNew { .. } => "start the newer version that wrote it",
            Self::Missing { .. } | Self::Size { .. } | Self::Empty { .. } => {
                "nothing was altered; put the missing file back if it was moved, otherwise remove \
                 this node from the cluster and add a freshly initialised one"
            }
            Self::SegmentBytes { .. } => "start with the segment size it was written with",
            Self::Unreadable { .. } => {
                "nothing was altered; check the device, copy what can be read, and replace this \
                 node by a freshly initialised one"
            }
        }
    }
}

impl fmt::Display for RecoverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Corrupt { place, error, watermark, proof } => write!(
                f,
                "corrupt block at {place}: {error}; everything below LSN {watermark} was durable, \
                 says the block at LSN {proof}"
            )?,
            Self::BeyondWindow { place, error, valid, window_bytes } => write!(
                f,
                "corrupt block at {place}: {error}; the sound block at LSN {valid} is further \
                 behind it than the {window_bytes} bytes that could be in flight"
            )?,
            Self::Foreign { place, expected, found } => write!(
                f,
                "foreign block at {place}: it has identity {found:#018x}, this log {expected:#018x}"
            )?,
            Self::TooNew { place, found } => write!(
                f,
                "newer format at {place}: version {found}, this program knows {BLOCK_VERSION}"
            )?,
            Self::Misplaced { place, found } => {
                write!(f, "misplaced block at {place}: it belongs at LSN {found}")?;
            }
            Self::Missing { segment, needed_by } => write!(
                f,
                "missing segment {}: {} needs it",
                segment.file_name(),
                needed_by.file_name()
            )?,
            Self::Size { segment, expected_bytes, found_bytes } => write!(
                f,
                "segment {} has {found_bytes} bytes, expected {expected_bytes}",
                segment.file_name()
            )?,
            Self::SegmentBytes { segment, expected_bytes, found_bytes } => write!(
                f,
                "segment {} was written with segments of {found_bytes} bytes, configured are \
                 {expected_bytes}",
                segment.file_name()
            )?,
            Self::Window { place, window_bytes, segment_bytes } => write!(
                f,
                "impossible opening at {place}: it says that {window_bytes} bytes could be in \
                 flight, and a segment has {segment_bytes}"
            )?,
            Self::Sequence { place } => {
                write!(f, "block out of sequence at {place}: sound, but it cannot stand there")?;
            }
            Self::Contradiction { place, fault } => {
                write!(f, "contradiction at {place}: {fault}")?;
            }
            Self::Unreadable { place, fault: ReadFault::Failed { errno } } => {
                write!(f, "unreadable at {place}: the device answered errno {errno}")?;
            }
            Self::Unreadable { place, fault: ReadFault::Short } => {
                write!(f, "unreadable at {place}: the file ends too early")?;
            }
            Self::Empty { files: 0 } => {
                f.write_str("empty: no segment file where a log must be")?
            }
            Self::Empty { files } => {
                write!(f, "empty: {files} segment files, but no log in them")?;
            }
        }
        write!(f, ": {}", self.advice())
    }
}

impl core::error::Error for RecoverError {}
