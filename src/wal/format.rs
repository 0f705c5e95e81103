//! The block: one aligned device write. Its header, its directory, and how both are checked.
//!
//! Apart so that this file reads like the tables of `docs/wal-format.md`. Does not: know where
//! the next block goes (`planner`), what records and batches mean (`index`), or what an invalid
//! block means for the log (`recovery`).
//!
//! ```text
//! header  0  4  magic "CWB1"            directory entry   0  8  group
//!         4  1  version = 1                               8  8  term
//!         5  1  zero                                     16  8  first index
//!         6  2  flags                                    24  4  replica of this node
//!         8  8  identity tag                             28  4  record count
//!        16  8  LSN                                      32  4  offset of the batch in the block
//!        24  8  durable LSN (W-04)                       36  4  bytes of the batch
//!        32  4  total bytes, a multiple of 4096          40  1  kind of the batch
//!        36  4  used bytes                               41  7  zero
//!        40  4  directory offset
//!        44  4  directory entries
//!        48  4  record area offset
//!        52  4  record area bytes
//!        56  4  CRC32C of directory and record area
//!        60  4  CRC32C of bytes 0..60
//! ```

use core::fmt;

use super::record::{Record, SegmentOpen};
use super::{Identity, Lsn};
use crate::base::Checksum;
use crate::base::layout::{get_u8, get_u16, get_u32, get_u64, put_u8, put_u16, put_u32, put_u64};
use crate::model::batch::BATCH_HEADER_BYTES;
use crate::model::limits::{BATCHES_PER_BLOCK_MAX, BLOCK_BYTES_MAX, DEVICE_ALIGN_BYTES};
use crate::model::{
    BatchError, BatchKind, BatchView, GroupId, LogIndex, RecordCount, ReplicaId, Span, Term,
};

/// Bytes of a block header.
pub const BLOCK_HEADER_BYTES: usize = 64;
/// Bytes of a directory entry.
pub const DIRECTORY_ENTRY_BYTES: usize = 48;
/// The newest block version this program writes and reads.
pub const BLOCK_VERSION: u8 = 1;
const MAGIC: u32 = u32::from_le_bytes(*b"CWB1");

// The header lies in one sector: it is there as a whole or not at all.
const _: () = assert!(BLOCK_HEADER_BYTES <= 512);

/// What a block is besides a carrier of batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockRole {
    /// Nothing special.
    Data,
    /// Opens a segment: its first record is a `SegmentOpen`.
    SegmentOpen,
    /// Written when the log went idle, only for its durable LSN (W-06).
    Seal,
}

impl BlockRole {
    const fn flags(self) -> u16 {
        match self {
            Self::Data => 0,
            Self::SegmentOpen => 1,
            Self::Seal => 2,
        }
    }

    const fn from_flags(flags: u16) -> Option<Self> {
        match flags {
            0 => Some(Self::Data),
            1 => Some(Self::SegmentOpen),
            2 => Some(Self::Seal),
            _ => None,
        }
    }
}

/// What the planner decides about a block, for its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// [`Identity::tag`].
    pub identity_tag: u64,
    /// Where the block goes.
    pub lsn: Lsn,
    /// Everything below it is durable as this block is issued (W-04).
    pub durable_lsn: Lsn,
    /// What the block is.
    pub role: BlockRole,
}

/// The fixed part of a block, checked by itself: one sector, so a torn block often still has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHeader {
    /// Where it belongs and what was durable.
    pub stamp: Stamp,
    /// Bytes of the block, padding included.
    pub total_bytes: u32,
    /// Bytes up to the end of the last thing in it.
    pub used_bytes: u32,
    pub(super) directory_offset: u32,
    pub(super) entries: u32,
    pub(super) records_offset: u32,
    pub(super) records_bytes: u32,
    pub(super) meta_crc: Checksum,
}

/// One batch of a block. Bytes that no entry lists do not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// Whose.
    pub group: GroupId,
    /// The replica of this node that holds it, not the one that proposed it.
    pub replica: ReplicaId,
    /// Term and indexes.
    pub span: Span,
    /// What it carries.
    pub kind: BatchKind,
    /// Where the batch begins in the block.
    pub offset: u32,
    /// Its bytes, header included.
    pub bytes: u32,
}

/// Why bytes are not the block that should be at a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockError {
    /// Fewer bytes than it takes to say more.
    Short {
        /// How many it takes at least.
        expected_bytes: usize,
        /// How many there are.
        found_bytes: usize,
    },
    /// Nothing but zeros where the header should be.
    Blank,
    /// Not a block at all.
    Magic {
        /// What stands there.
        found: u32,
    },
    /// The header's checksum does not hold.
    HeaderCrc {
        /// What stands there.
        expected: Checksum,
        /// What the bytes give.
        found: Checksum,
    },
    /// Written by a newer program.
    Version {
        /// What stands there.
        found: u8,
    },
    /// A sound block of another cluster, node or shard.
    Foreign {
        /// Our tag.
        expected: u64,
        /// What stands there.
        found: u64,
    },
    /// A sound block of ours that belongs elsewhere: older (stale) or newer (misdirected).
    OtherLsn {
        /// Where it belongs.
        found: Lsn,
    },
    /// A header field that makes no sense. The checksum holds, so a writer's mistake.
    Layout {
        /// Where in the block.
        offset: usize,
    },
    /// The checksum of directory and records does not hold.
    MetaCrc {
        /// What stands there.
        expected: Checksum,
        /// What the bytes give.
        found: Checksum,
    },
    /// A record that this program does not understand.
    Record {
        /// Where in the block.
        offset: usize,
    },
    /// A batch is not what the directory says.
    Batch {
        /// Where in the block.
        offset: u32,
        /// What is wrong with it.
        error: BatchError,
    },
    /// A sound batch, but not the one that the directory lists there.
    OtherBatch {
        /// Where in the block.
        offset: u32,
    },
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { expected_bytes, found_bytes } => {
                write!(f, "block of at least {expected_bytes} bytes ends after {found_bytes}")
            }
            Self::Blank => f.write_str("blank: zeros where a block header should be"),
            Self::Magic { found } => write!(f, "block magic is {found:#010x}"),
            Self::HeaderCrc { expected, found } => write!(
                f,
                "block header CRC is {:#010x}, its bytes give {:#010x}",
                expected.as_u32(),
                found.as_u32()
            ),
            Self::Version { found } => {
                write!(f, "block version is {found}, newest known is {BLOCK_VERSION}")
            }
            Self::Foreign { expected, found } => {
                write!(f, "block of another log: identity {found:#018x}, ours is {expected:#018x}")
            }
            Self::OtherLsn { found } => write!(f, "block belongs at LSN {found}"),
            Self::Layout { offset } => write!(f, "impossible header field at byte {offset}"),
            Self::MetaCrc { expected, found } => write!(
                f,
                "directory CRC is {:#010x}, its bytes give {:#010x}",
                expected.as_u32(),
                found.as_u32()
            ),
            Self::Record { offset } => write!(f, "unknown record at byte {offset}"),
            Self::Batch { offset, error } => write!(f, "at byte {offset}: {error}"),
            Self::OtherBatch { offset } => {
                write!(f, "the batch at byte {offset} is not the listed one")
            }
        }
    }
}

impl BlockHeader {
    /// Writes the header over the first [`BLOCK_HEADER_BYTES`] of `to`.
    pub(super) fn encode(&self, to: &mut [u8]) {
        let to = &mut to[..BLOCK_HEADER_BYTES];
        put_u32(to, 0, MAGIC);
        put_u8(to, 4, BLOCK_VERSION);
        put_u8(to, 5, 0);
        put_u16(to, 6, self.stamp.role.flags());
        put_u64(to, 8, self.stamp.identity_tag);
        put_u64(to, 16, self.stamp.lsn.get());
        put_u64(to, 24, self.stamp.durable_lsn.get());
        put_u32(to, 32, self.total_bytes);
        put_u32(to, 36, self.used_bytes);
        put_u32(to, 40, self.directory_offset);
        put_u32(to, 44, self.entries);
        put_u32(to, 48, self.records_offset);
        put_u32(to, 52, self.records_bytes);
        put_u32(to, 56, self.meta_crc.as_u32());
        let crc = Checksum::of(&to[..60]);
        put_u32(to, 60, crc.as_u32());
    }

    /// Reads a header and checks it by itself, whatever position and identity it claims.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(from: &[u8]) -> Result<Self, BlockError> {
        if from.len() < BLOCK_HEADER_BYTES {
            return Err(BlockError::Short {
                expected_bytes: BLOCK_HEADER_BYTES,
                found_bytes: from.len(),
            });
        }
        let from = &from[..BLOCK_HEADER_BYTES];
        let magic = get_u32(from, 0);
        if magic != MAGIC {
            let blank = from.iter().all(|b| *b == 0);
            return Err(if blank { BlockError::Blank } else { BlockError::Magic { found: magic } });
        }
        let (expected, found) = (Checksum::from_u32(get_u32(from, 60)), Checksum::of(&from[..60]));
        if expected != found {
            mark!(W01_HEADER_CHECKSUM_WRONG);
            return Err(BlockError::HeaderCrc { expected, found });
        }
        // The place and cover of version, identity, LSN and CRC never change, so a newer version
        // is told from garbage, and ours from others' (see `Version` and `parse_header_at`).
        if get_u8(from, 4) != BLOCK_VERSION {
            return Err(BlockError::Version { found: get_u8(from, 4) });
        }
        let role = BlockRole::from_flags(get_u16(from, 6));
        let (Some(role), 0) = (role, get_u8(from, 5)) else {
            return Err(BlockError::Layout { offset: 5 });
        };
        let header = Self {
            stamp: Stamp {
                identity_tag: get_u64(from, 8),
                lsn: Lsn::new(get_u64(from, 16)),
                durable_lsn: Lsn::new(get_u64(from, 24)),
                role,
            },
            total_bytes: get_u32(from, 32),
            used_bytes: get_u32(from, 36),
            directory_offset: get_u32(from, 40),
            entries: get_u32(from, 44),
            records_offset: get_u32(from, 48),
            records_bytes: get_u32(from, 52),
            meta_crc: Checksum::from_u32(get_u32(from, 56)),
        };
        header.check_layout().map(|()| header)
    }

    /// W-03: every length against what it may be, before anybody allocates, slices or reads on.
    fn check_layout(&self) -> Result<(), BlockError> {
        let total = self.total_bytes as usize;
        let used = self.used_bytes as usize;
        if total == 0 || total > BLOCK_BYTES_MAX || !total.is_multiple_of(DEVICE_ALIGN_BYTES) {
            return Err(BlockError::Layout { offset: 32 });
        }
        if used < BLOCK_HEADER_BYTES || used > total {
            return Err(BlockError::Layout { offset: 36 });
        }
        let inside = |offset: u32, bytes: usize| {
            offset as usize >= BLOCK_HEADER_BYTES && offset as usize + bytes <= used
        };
        let entries = self.entries as usize;
        let directory_bytes = entries.saturating_mul(DIRECTORY_ENTRY_BYTES);
        if entries > BATCHES_PER_BLOCK_MAX || !inside(self.directory_offset, directory_bytes) {
            return Err(BlockError::Layout { offset: 40 });
        }
        if !inside(self.records_offset, self.records_bytes as usize) {
            return Err(BlockError::Layout { offset: 48 });
        }
        let (lsn, durable) = (self.stamp.lsn.get(), self.stamp.durable_lsn.get());
        if !lsn.is_multiple_of(DEVICE_ALIGN_BYTES as u64)
            || lsn.checked_add(BLOCK_BYTES_MAX as u64).is_none()
            || durable > lsn
        {
            return Err(BlockError::Layout { offset: 16 });
        }
        Ok(())
    }

    fn meta_ranges(&self) -> [core::ops::Range<usize>; 2] {
        [self.directory_range(), self.records_range()]
    }

    fn directory_range(&self) -> core::ops::Range<usize> {
        let start = self.directory_offset as usize;
        start..start + self.entries as usize * DIRECTORY_ENTRY_BYTES
    }

    fn records_range(&self) -> core::ops::Range<usize> {
        let start = self.records_offset as usize;
        start..start + self.records_bytes as usize
    }

    /// The checksum of directory and record area in `block`.
    pub(super) fn meta_crc_of(&self, block: &[u8]) -> Checksum {
        Checksum::of(&block[self.directory_range()]).then(&block[self.records_range()])
    }
}

/// Reads the header at `lsn` of the log of `identity`, and nothing behind it.
///
/// # Errors
/// Why there is none; see [`BlockError`].
pub fn parse_header(from: &[u8], lsn: Lsn, identity: &Identity) -> Result<BlockHeader, BlockError> {
    parse_header_of(from, lsn, identity.tag())
}

/// [`parse_header`] for those who know only the tag.
pub(super) fn parse_header_of(
    from: &[u8],
    lsn: Lsn,
    expected: u64,
) -> Result<BlockHeader, BlockError> {
    let header = BlockHeader::decode(from)?;
    if header.stamp.identity_tag != expected && !planted!(W02_IDENTITY_NOT_CHECKED) {
        return Err(BlockError::Foreign { expected, found: header.stamp.identity_tag });
    }
    if header.stamp.lsn != lsn && !planted!(W02_POSITION_NOT_CHECKED) {
        return Err(BlockError::OtherLsn { found: header.stamp.lsn });
    }
    Ok(header)
}

/// A block whose header, directory and records are sound and belong here. Its batches are
/// verified one by one when they are taken ([`BlockView::batch`]).
#[derive(Clone, Copy, Debug)]
pub struct BlockView<'a> {
    header: BlockHeader,
    bytes: &'a [u8],
}

/// Reads the block at `lsn` of the log of `identity` from the start of `bytes`, which may go on
/// behind it.
///
/// # Errors
/// Why it is not one; [`BlockError::Short`] tells how many bytes to bring.
pub fn parse_block<'a>(
    bytes: &'a [u8],
    lsn: Lsn,
    identity: &Identity,
) -> Result<BlockView<'a>, BlockError> {
    parse_block_of(bytes, lsn, identity.tag())
}

/// [`parse_block`] for tools that know only the tag, from [`BlockHeader::decode`] of any block.
///
/// # Errors
/// As for [`parse_block`].
pub fn parse_block_of(bytes: &[u8], lsn: Lsn, tag: u64) -> Result<BlockView<'_>, BlockError> {
    let header = parse_header_of(bytes, lsn, tag)?;
    let total = header.total_bytes as usize;
    if bytes.len() < total {
        return Err(BlockError::Short { expected_bytes: total, found_bytes: bytes.len() });
    }
    let block = BlockView { header, bytes: &bytes[..total] };
    let found = header.meta_crc_of(block.bytes);
    if found != header.meta_crc {
        mark!(W01_DIRECTORY_CHECKSUM_WRONG);
        return Err(BlockError::MetaCrc { expected: header.meta_crc, found });
    }
    block.check_meta()?;
    Ok(block)
}

impl<'a> BlockView<'a> {
    /// Its header.
    pub fn header(&self) -> &BlockHeader {
        &self.header
    }

    /// Its position.
    pub fn lsn(&self) -> Lsn {
        self.header.stamp.lsn
    }

    /// The position behind it.
    pub fn end(&self) -> Lsn {
        self.lsn().plus(u64::from(self.header.total_bytes))
    }

    /// Bytes of the block, padding included.
    pub fn total_bytes(&self) -> u32 {
        self.header.total_bytes
    }

    /// Everything below is durable, its writer said (W-04).
    pub fn durable_lsn(&self) -> Lsn {
        self.header.stamp.durable_lsn
    }

    /// What it is.
    pub fn role(&self) -> BlockRole {
        self.header.stamp.role
    }

    /// Where its directory and its records lie in it.
    pub fn meta_ranges(&self) -> [core::ops::Range<usize>; 2] {
        self.header.meta_ranges()
    }

    /// Its directory, in order.
    pub fn entries(&self) -> impl Iterator<Item = DirectoryEntry> + use<'a> {
        self.bytes[self.header.directory_range()]
            .chunks_exact(DIRECTORY_ENTRY_BYTES)
            .map(|entry| DirectoryEntry::decode(entry).expect("checked when the block was parsed"))
    }

    /// Its records, in order.
    pub fn records(&self) -> impl Iterator<Item = Record> + use<'a> {
        let mut area = &self.bytes[self.header.records_range()];
        core::iter::from_fn(move || {
            if area.is_empty() {
                return None;
            }
            let (record, taken) = Record::decode(area).expect("checked when the block was parsed");
            area = &area[taken..];
            Some(record)
        })
    }

    /// The facts of the segment that the block opens, if it does.
    pub fn segment_open(&self) -> Option<SegmentOpen> {
        match self.records().next() {
            Some(Record::SegmentOpen(open)) => Some(open),
            _ => None,
        }
    }

    /// The bytes that `entry` lists, unverified.
    pub fn batch_bytes(&self, entry: &DirectoryEntry) -> &'a [u8] {
        &self.bytes[entry.offset as usize..entry.offset as usize + entry.bytes as usize]
    }

    /// The batch that `entry` lists, both checksums verified (W-15).
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn batch(&self, entry: &DirectoryEntry) -> Result<BatchView<'a>, BlockError> {
        entry.verify(self.batch_bytes(entry))
    }

    /// Verifies every batch. A block counts as a whole or not at all.
    ///
    /// # Errors
    /// The first fault found.
    pub fn verify(&self) -> Result<(), BlockError> {
        self.entries().try_for_each(|entry| self.batch(&entry).map(|_| ()))
    }

    /// Walks directory and records once, so that the iterators cannot fail.
    fn check_meta(&self) -> Result<(), BlockError> {
        let used = self.header.used_bytes as usize;
        let directory = self.header.directory_range();
        for (i, entry) in
            self.bytes[directory.clone()].chunks_exact(DIRECTORY_ENTRY_BYTES).enumerate()
        {
            let offset = directory.start + i * DIRECTORY_ENTRY_BYTES;
            let error = BlockError::Layout { offset };
            let entry = DirectoryEntry::decode(entry).ok_or(error)?;
            let start = entry.offset as usize;
            if start < BLOCK_HEADER_BYTES || start + entry.bytes as usize > used {
                return Err(error);
            }
        }
        let records = self.header.records_range();
        let mut at = records.start;
        while at < records.end {
            let error = BlockError::Record { offset: at };
            let (record, taken) = Record::decode(&self.bytes[at..records.end]).ok_or(error)?;
            let first = at == records.start;
            let opens = matches!(record, Record::SegmentOpen(_));
            if opens != (first && self.role() == BlockRole::SegmentOpen) {
                return Err(error);
            }
            at += taken;
        }
        if self.role() == BlockRole::SegmentOpen && records.is_empty() {
            return Err(BlockError::Record { offset: records.start });
        }
        Ok(())
    }
}

impl DirectoryEntry {
    /// `bytes` as the batch that this lists, both checksums verified (W-15). For whoever has the
    /// place of a batch from a directory that was checked.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verify<'a>(&self, bytes: &'a [u8]) -> Result<BatchView<'a>, BlockError> {
        let offset = self.offset;
        let batch = BatchView::decode(bytes)
            .inspect_err(|_| mark!(W05_BATCH_CHECKSUM_WRONG))
            .map_err(|error| BlockError::Batch { offset, error })?;
        let header = &batch.header;
        let listed = header.group == self.group
            && header.span == self.span
            && header.kind == self.kind
            && header.batch_bytes() == self.bytes as usize;
        if listed { Ok(batch) } else { Err(BlockError::OtherBatch { offset }) }
    }

    pub(super) fn encode(&self, to: &mut [u8]) {
        let to = &mut to[..DIRECTORY_ENTRY_BYTES];
        to.fill(0);
        put_u64(to, 0, self.group.get());
        put_u64(to, 8, self.span.term.get());
        put_u64(to, 16, self.span.first.get());
        put_u32(to, 24, self.replica.get());
        put_u32(to, 28, self.span.count.get());
        put_u32(to, 32, self.offset);
        put_u32(to, 36, self.bytes);
        put_u8(to, 40, self.kind.number());
    }

    fn decode(from: &[u8]) -> Option<Self> {
        let (first, count) = (get_u64(from, 16), get_u32(from, 28));
        let bytes = get_u32(from, 36);
        let sound = count > 0
            && first > 0
            && first <= u64::MAX >> 1
            && bytes as usize >= BATCH_HEADER_BYTES
            && bytes as usize <= BLOCK_BYTES_MAX
            && from[41..48].iter().all(|b| *b == 0);
        if !sound {
            return None;
        }
        Some(Self {
            group: GroupId::new(get_u64(from, 0)),
            replica: ReplicaId::new(get_u32(from, 24)),
            span: Span {
                term: Term::new(get_u64(from, 8)),
                first: LogIndex::new(first),
                count: RecordCount::new(count),
            },
            kind: BatchKind::from_number(get_u8(from, 40))?,
            offset: get_u32(from, 32),
            bytes,
        })
    }
}

/// The blocks in `bytes`, which begin at `lsn`, as far as whole sound ones follow each other.
///
/// For reading forward to a batch: start at what `Index::locate` says. Ends silently at the first
/// thing that is not a whole block, which is where the buffer was cut, or an error that the next
/// read from there will name.
pub fn blocks_in<'a>(
    bytes: &'a [u8],
    lsn: Lsn,
    identity: &Identity,
) -> impl Iterator<Item = BlockView<'a>> + use<'a> {
    let (mut rest, mut lsn, tag) = (bytes, lsn, identity.tag());
    core::iter::from_fn(move || {
        let block = parse_block_of(rest, lsn, tag).ok()?;
        rest = &rest[block.total_bytes() as usize..];
        lsn = block.end();
        Some(block)
    })
}
