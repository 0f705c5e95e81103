//! Bulk frames: batches laid out so that the receiver writes them to its disk from where they lie.
//!
//! ```text
//! 0            40                          area              area + batches      multiple of 4 KiB
//! | frame header | count | descriptors | 0 | batches verbatim | 0 ............... |
//! ```
//!
//! The receiver reads one frame into one aligned block and overwrites all of `..area` with its
//! own block header and directory: no batch moves. So the area is at least as large as the
//! sender's caller says ([`BulkFrameBuilder::new`]), and the frame's length is the block's. The
//! frame's body checksum covers the area and no more: batches carry their own, verified against
//! the group, term and index that the descriptors claim by whoever appends them (R-05).
//!
//! ```text
//! body:   0   4  batch count, at least 1       descriptor, 56 bytes:
//!         4   4  area length from the frame's     0   8  group
//!                start                            8   4  replica that speaks
//!         8      descriptors                     12   4  replica that is spoken to
//!                                                16   8  leader's term
//!                                                24   8  index before the batch
//!                                                32   8  term of that index
//!                                                40   8  leader's commit
//!                                                48   4  batch offset from the frame's start
//!                                                52   4  batch length
//! ```

use core::ops::Range;

use super::super::frame::{FRAME_HEADER_BYTES, FrameError, FrameHeader, frame_bytes};
use super::Kind;
use crate::base::Checksum;
use crate::base::layout::{get_u32, get_u64, put_u32, put_u64, round_up};
use crate::model::batch::BATCH_HEADER_BYTES;
use crate::model::limits::{BATCHES_PER_BLOCK_MAX, DEVICE_ALIGN_BYTES, FRAME_BYTES_MAX};
use crate::model::{EntryId, GroupId, LogIndex, ReplicaId, Term};

/// Bytes of one descriptor.
pub const BULK_DESCRIPTOR_BYTES: usize = 56;
const DESCRIPTORS_AT: usize = FRAME_HEADER_BYTES + 8;
/// The area ends at a multiple of this, so that batches begin where integers like to.
const AREA_ALIGN_BYTES: usize = 64;

/// One batch of a bulk frame: an append request of Raft (thesis 3.5) without its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BulkBatch {
    /// Whose log.
    pub group: GroupId,
    /// Replica that sends it.
    pub from_replica: ReplicaId,
    /// Replica it is for; another one drops it (N-05).
    pub to_replica: ReplicaId,
    /// The leader's term, not the batch's.
    pub term: Term,
    /// The entry before the batch's first.
    pub prev: EntryId,
    /// `min(leader's commit, last index of the batch)`.
    pub commit: LogIndex,
    /// Where the batch begins, from the frame's start. Encoders set it.
    pub offset: u32,
    /// Its length.
    pub bytes: u32,
}

impl BulkBatch {
    /// Where the batch lies in the frame.
    pub fn range(&self) -> Range<usize> {
        self.offset as usize..self.offset as usize + self.bytes as usize
    }
}

/// Collects descriptors until the frame is full. Reused: one per peer.
#[derive(Debug)]
pub struct BulkFrameBuilder {
    limit_bytes: usize,
    area_bytes_min: fn(usize) -> usize,
    batches: Vec<BulkBatch>,
    batch_bytes: usize,
}

/// The beginning of a finished frame, and what follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BulkHead {
    /// Header, descriptors and padding of the area. The batches go right behind it, in the order
    /// in which they were pushed.
    pub bytes: Vec<u8>,
    /// Zeros to send behind the batches.
    pub pad_bytes: usize,
    /// Bytes of the whole frame, a multiple of 4 KiB.
    pub frame_bytes: usize,
}

impl BulkFrameBuilder {
    /// For frames of at most `limit_bytes`. `area_bytes_min` tells how many bytes the receiver
    /// needs before the first of so many batches: the size of a block header with a directory of
    /// that many entries.
    pub fn new(limit_bytes: usize, area_bytes_min: fn(usize) -> usize) -> Self {
        assert!(limit_bytes.is_multiple_of(DEVICE_ALIGN_BYTES) && limit_bytes <= FRAME_BYTES_MAX);
        Self { limit_bytes, area_bytes_min, batches: Vec::new(), batch_bytes: 0 }
    }

    /// Batches so far.
    pub fn len(&self) -> usize {
        self.batches.len()
    }

    /// Whether nothing was pushed since the last [`BulkFrameBuilder::finish`].
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Bytes of the frame if it were finished now.
    pub fn frame_bytes(&self) -> usize {
        round_up(self.area_bytes(self.batches.len()) + self.batch_bytes, DEVICE_ALIGN_BYTES)
    }

    /// Whether a batch of so many bytes still fits.
    pub fn fits(&self, batch_bytes: usize) -> bool {
        let count = self.batches.len() + 1;
        count <= BATCHES_PER_BLOCK_MAX
            && self.area_bytes(count) + self.batch_bytes + batch_bytes <= self.limit_bytes
    }

    /// Adds a batch. `batch.offset` is set here, whatever it was.
    ///
    /// # Panics
    /// If it does not fit: ask [`BulkFrameBuilder::fits`] first.
    pub fn push(&mut self, batch: BulkBatch) {
        let bytes = batch.bytes as usize;
        assert!(self.fits(bytes), "{bytes} bytes do not fit behind {}", self.batch_bytes);
        assert!(bytes >= BATCH_HEADER_BYTES, "{bytes} bytes are no batch");
        self.batches.push(batch);
        self.batch_bytes += bytes;
    }

    /// Ends the frame and empties the builder.
    ///
    /// # Panics
    /// If nothing was pushed.
    pub fn finish(&mut self) -> BulkHead {
        assert!(!self.batches.is_empty(), "a bulk frame carries at least one batch");
        let area_bytes = self.area_bytes(self.batches.len());
        let frame_bytes = self.frame_bytes();
        let mut bytes = vec![0; area_bytes];
        put_u32(&mut bytes, FRAME_HEADER_BYTES, u32_of(self.batches.len()));
        put_u32(&mut bytes, FRAME_HEADER_BYTES + 4, u32_of(area_bytes));
        let (mut at, mut offset) = (DESCRIPTORS_AT, u32_of(area_bytes));
        for batch in self.batches.drain(..) {
            put_descriptor(&mut bytes[at..at + BULK_DESCRIPTOR_BYTES], &batch, offset);
            at += BULK_DESCRIPTOR_BYTES;
            offset += batch.bytes;
        }
        let header = FrameHeader {
            kind: Kind::Bulk.number(),
            body_bytes: u32_of(frame_bytes - FRAME_HEADER_BYTES),
            covered_bytes: u32_of(area_bytes - FRAME_HEADER_BYTES),
            correlation: 0,
            group: GroupId::new(0),
            body_crc: Checksum::of(&bytes[FRAME_HEADER_BYTES..]),
        };
        bytes[..FRAME_HEADER_BYTES].copy_from_slice(&header.encode());
        let pad_bytes = frame_bytes - area_bytes - self.batch_bytes;
        self.batch_bytes = 0;
        BulkHead { bytes, pad_bytes, frame_bytes }
    }

    fn area_bytes(&self, count: usize) -> usize {
        let own = DESCRIPTORS_AT + count * BULK_DESCRIPTOR_BYTES;
        round_up(own.max((self.area_bytes_min)(count)), AREA_ALIGN_BYTES)
    }
}

fn u32_of(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("below FRAME_BYTES_MAX")
}

fn put_descriptor(to: &mut [u8], batch: &BulkBatch, offset: u32) {
    put_u64(to, 0, batch.group.get());
    put_u32(to, 8, batch.from_replica.get());
    put_u32(to, 12, batch.to_replica.get());
    put_u64(to, 16, batch.term.get());
    put_u64(to, 24, batch.prev.index.get());
    put_u64(to, 32, batch.prev.term.get());
    put_u64(to, 40, batch.commit.get());
    put_u32(to, 48, offset);
    put_u32(to, 52, batch.bytes);
}

fn get_descriptor(from: &[u8]) -> BulkBatch {
    BulkBatch {
        group: GroupId::new(get_u64(from, 0)),
        from_replica: ReplicaId::new(get_u32(from, 8)),
        to_replica: ReplicaId::new(get_u32(from, 12)),
        term: Term::new(get_u64(from, 16)),
        prev: EntryId::new(Term::new(get_u64(from, 32)), LogIndex::new(get_u64(from, 24))),
        commit: LogIndex::new(get_u64(from, 40)),
        offset: get_u32(from, 48),
        bytes: get_u32(from, 52),
    }
}

/// Length of the bulk frame that begins with `prefix`, or `None` while there are fewer bytes than
/// a frame header: for a receiver that must know how much of the stream goes into this block.
///
/// # Errors
/// If the stream does not continue with a bulk frame of our version: close it. There is no way to
/// skip on this lane, because nothing else was agreed on.
pub fn bulk_frame_bytes(prefix: &[u8]) -> Result<Option<usize>, FrameError> {
    if prefix.len() < FRAME_HEADER_BYTES {
        return Ok(None);
    }
    bulk_header(prefix).map(|header| Some(header.frame_bytes()))
}

fn bulk_header(from: &[u8]) -> Result<FrameHeader, FrameError> {
    let bytes = frame_bytes(from, FRAME_BYTES_MAX)?;
    let header = FrameHeader::decode(from, FRAME_BYTES_MAX)?;
    if header.kind != Kind::Bulk.number() {
        return Err(FrameError::Body { offset: 5 });
    }
    if bytes == 0 || !bytes.is_multiple_of(DEVICE_ALIGN_BYTES) {
        return Err(FrameError::Body { offset: 8 });
    }
    Ok(header)
}

/// A checked bulk frame.
#[derive(Clone, Copy, Debug)]
pub struct BulkFrame<'a> {
    frame: &'a [u8],
    area_bytes: usize,
    count: usize,
}

impl<'a> BulkFrame<'a> {
    /// Reads and checks everything before the batches: both checksums of the frame, and that the
    /// batches lie behind each other inside it, none overlapping the area or another.
    ///
    /// # Errors
    /// Whatever is wrong, with the place: close the stream.
    pub fn decode(frame: &'a [u8]) -> Result<Self, FrameError> {
        let header = bulk_header(frame)?;
        if header.frame_bytes() != frame.len() {
            return Err(FrameError::Short {
                expected_bytes: header.frame_bytes(),
                found_bytes: frame.len(),
            });
        }
        header.check_body(&frame[FRAME_HEADER_BYTES..])?;
        let area_bytes = FRAME_HEADER_BYTES + header.covered_bytes as usize;
        if area_bytes < DESCRIPTORS_AT
            || get_u32(frame, FRAME_HEADER_BYTES + 4) as usize != area_bytes
        {
            return Err(FrameError::Body { offset: FRAME_HEADER_BYTES + 4 });
        }
        let count = get_u32(frame, FRAME_HEADER_BYTES) as usize;
        let room = (area_bytes - DESCRIPTORS_AT) / BULK_DESCRIPTOR_BYTES;
        if count == 0 || count > room.min(BATCHES_PER_BLOCK_MAX) {
            return Err(FrameError::Body { offset: FRAME_HEADER_BYTES });
        }
        let checked = Self { frame, area_bytes, count };
        checked.check_ranges()?;
        Ok(checked)
    }

    /// Each batch begins where the one before ends, and the padding is less than a page: so the
    /// block that is made of the frame holds nothing that no directory lists (S15).
    fn check_ranges(&self) -> Result<(), FrameError> {
        let mut end = self.area_bytes;
        for (i, batch) in self.batches().enumerate() {
            let offset = DESCRIPTORS_AT + i * BULK_DESCRIPTOR_BYTES + 48;
            let bytes = batch.bytes as usize;
            let inside = bytes >= BATCH_HEADER_BYTES && bytes <= self.frame.len() - end;
            if batch.offset as usize != end || !inside {
                return Err(FrameError::Body { offset });
            }
            end += bytes;
        }
        if round_up(end, DEVICE_ALIGN_BYTES) != self.frame.len() {
            return Err(FrameError::Body { offset: end });
        }
        Ok(())
    }

    /// Bytes before the first batch, all of which the receiver may overwrite.
    pub fn area_bytes(&self) -> usize {
        self.area_bytes
    }

    /// Number of batches, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.count
    }

    /// The descriptors, in order of their batches.
    pub fn batches(&self) -> impl Iterator<Item = BulkBatch> + use<'a> {
        let area = &self.frame[DESCRIPTORS_AT..];
        area.chunks_exact(BULK_DESCRIPTOR_BYTES).take(self.count).map(get_descriptor)
    }

    /// The bytes of one of its batches.
    pub fn batch(&self, batch: &BulkBatch) -> &'a [u8] {
        &self.frame[batch.range()]
    }
}

const _: () = assert!(FRAME_BYTES_MAX.is_multiple_of(DEVICE_ALIGN_BYTES));
