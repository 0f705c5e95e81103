//! Making blocks: by copying batches into one, or by claiming a frame that was received whole.
//!
//! Apart from `format` because only writers need it. Does not: choose a position ([`Stamp`] comes
//! from the planner), compute batch checksums (whoever copies a body does, in the same pass), or
//! freeze memory.
//!
//! ```text
//! copied   [header][batch]...[directory][records][zeros to 4 KiB]
//! claimed  [header][directory][records][zeros][batches as they were received][zeros]
//! ```

use super::format::{
    BLOCK_HEADER_BYTES, BlockHeader, BlockRole, DIRECTORY_ENTRY_BYTES, DirectoryEntry, Stamp,
};
use super::record::{HARD_STATE_RECORD_BYTES, Record};
use crate::base::layout::round_up;
use crate::base::{BlockBuf, Checksum};
use crate::model::batch::BATCH_HEADER_BYTES;
use crate::model::limits::{BATCHES_PER_BLOCK_MAX, BLOCK_BYTES_MAX, DEVICE_ALIGN_BYTES};
use crate::model::{BatchHeader, ReplicaId};

/// The block has no room for one more, or the order of its parts forbids it: close it and go on
/// in the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// A block being filled by copying. One or two per shard.
pub struct BlockBuilder {
    buf: BlockBuf,
    /// End of the last listed batch.
    used: usize,
    /// Bytes handed out by `batch_space` and not listed yet.
    reserved: usize,
    entries: Vec<DirectoryEntry>,
    records: Vec<u8>,
}

/// A finished block: write the first `total_bytes` of `buf`.
pub struct ClosedBlock {
    /// The memory, still writable; the caller freezes it.
    pub buf: BlockBuf,
    /// Bytes to write, a multiple of 4 KiB.
    pub total_bytes: u32,
    /// Bytes that carry something.
    pub used_bytes: u32,
    /// What it lists, offsets from the start of the block.
    pub entries: Vec<DirectoryEntry>,
}

impl BlockBuilder {
    /// An empty block in `buf`, whose length is its capacity.
    ///
    /// # Panics
    /// If `buf` is shorter than 4 KiB or longer than the largest block.
    pub fn new(buf: BlockBuf) -> Self {
        assert!(buf.len() >= DEVICE_ALIGN_BYTES && buf.len() <= BLOCK_BYTES_MAX);
        let used = BLOCK_HEADER_BYTES;
        Self { buf, used, reserved: 0, entries: Vec::new(), records: Vec::new() }
    }

    fn meta_bytes(&self) -> usize {
        self.entries.len() * DIRECTORY_ENTRY_BYTES + self.records.len()
    }

    /// The largest batch, header included, that still fits; its directory entry is accounted for.
    /// Zero if there is no room even for an empty one.
    pub fn room_bytes(&self) -> usize {
        if self.entries.len() == BATCHES_PER_BLOCK_MAX {
            return 0;
        }
        let taken = self.used + self.meta_bytes() + DIRECTORY_ENTRY_BYTES;
        let room = self.buf.len().saturating_sub(taken);
        if room < BATCH_HEADER_BYTES { 0 } else { room }
    }

    /// Whether it carries nothing yet.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.records.is_empty()
    }

    /// Number of batches listed.
    pub fn batches(&self) -> usize {
        self.entries.len()
    }

    /// What is listed so far.
    pub fn entries(&self) -> &[DirectoryEntry] {
        &self.entries
    }

    /// The bytes of a listed batch. For a leader that sends before it closes.
    pub fn batch_bytes(&self, entry: &DirectoryEntry) -> &[u8] {
        &self.buf[entry.offset as usize..entry.offset as usize + entry.bytes as usize]
    }

    /// Space for a batch of `bytes`, header included: the place of the one copy. What is written
    /// there exists only once it is listed; another call gives the same place again.
    ///
    /// # Panics
    /// If `bytes` exceeds [`BlockBuilder::room_bytes`].
    pub fn batch_space(&mut self, bytes: usize) -> &mut [u8] {
        assert!(bytes <= self.room_bytes(), "{bytes} bytes, room for {}", self.room_bytes());
        self.reserved = bytes;
        &mut self.buf[self.used..self.used + bytes]
    }

    /// Lists the batch that was written into [`BlockBuilder::batch_space`], held here by `replica`.
    /// It may be shorter than the space was.
    ///
    /// # Panics
    /// If it is longer.
    pub fn list(&mut self, header: &BatchHeader, replica: ReplicaId) -> DirectoryEntry {
        let bytes = header.batch_bytes();
        assert!(bytes <= self.reserved, "{bytes} bytes listed, {} reserved", self.reserved);
        let entry = DirectoryEntry {
            group: header.group,
            replica,
            span: header.span,
            kind: header.kind,
            offset: u32_of(self.used),
            bytes: u32_of(bytes),
        };
        self.entries.push(entry);
        self.used += bytes;
        self.reserved = 0;
        entry
    }

    /// Adds a record.
    ///
    /// # Errors
    /// [`Full`] if there is no room, or if it replaces the log of a group that has a batch in
    /// this block already: records take effect before batches.
    pub fn push_record(&mut self, record: &Record) -> Result<(), Full> {
        if let Record::LogReset(reset) = record
            && self.entries.iter().any(|entry| entry.group == reset.group)
        {
            mark!(S04_RESET_WAITS_FOR_NEXT_BLOCK);
            return Err(Full);
        }
        let before = self.records.len();
        record.encode(&mut self.records);
        if self.used + self.meta_bytes() > self.buf.len() {
            self.records.truncate(before);
            return Err(Full);
        }
        Ok(())
    }

    /// Bytes the block will take on the device if it is closed now.
    pub fn total_bytes(&self) -> u32 {
        u32_of(round_up(self.used + self.meta_bytes(), DEVICE_ALIGN_BYTES))
    }

    /// Writes directory, records, zero padding (S15) and header.
    ///
    /// # Panics
    /// If `stamp` opens a segment and the first record does not, or the other way round.
    pub fn close(mut self, stamp: Stamp) -> ClosedBlock {
        let opens = self.records.first().is_some_and(|kind| *kind == 1);
        assert!(opens == (stamp.role == BlockRole::SegmentOpen), "role and records disagree");
        let total = self.total_bytes();
        let directory_offset = self.used;
        for (i, entry) in self.entries.iter().enumerate() {
            entry.encode(&mut self.buf[directory_offset + i * DIRECTORY_ENTRY_BYTES..]);
        }
        let records_offset = directory_offset + self.entries.len() * DIRECTORY_ENTRY_BYTES;
        let used = records_offset + self.records.len();
        self.buf[records_offset..used].copy_from_slice(&self.records);
        self.buf[used..total as usize].fill(0);
        let mut header = BlockHeader {
            stamp,
            total_bytes: total,
            used_bytes: u32_of(used),
            directory_offset: u32_of(directory_offset),
            entries: u32_of(self.entries.len()),
            records_offset: u32_of(records_offset),
            records_bytes: u32_of(self.records.len()),
            meta_crc: Checksum::EMPTY,
        };
        header.meta_crc = header.meta_crc_of(&self.buf);
        header.encode(&mut self.buf);
        ClosedBlock {
            buf: self.buf,
            total_bytes: total,
            used_bytes: u32_of(used),
            entries: self.entries,
        }
    }

    /// Gives the memory back, unwritten.
    pub fn into_buf(self) -> BlockBuf {
        self.buf
    }
}

/// Bytes before the first batch that a frame of `batches` batches must leave free, so that a
/// receiver can claim it: block header, directory, and a hard-state record per batch.
pub const fn frame_area_bytes(batches: usize) -> usize {
    BLOCK_HEADER_BYTES + batches * (DIRECTORY_ENTRY_BYTES + HARD_STATE_RECORD_BYTES)
}

/// Turns a received frame into a block that lists only `entries`, without moving a byte of its
/// batches: header, directory and records go over the first `area_bytes`, of which the rest is
/// zeroed (S15). The block is the whole of `frame`.
///
/// # Errors
/// [`Full`] if the area is too small; `frame` is unchanged then.
///
/// # Panics
/// If `frame` is not a multiple of 4 KiB, or an entry does not lie behind the area.
pub fn claim_frame(
    frame: &mut [u8],
    area_bytes: usize,
    entries: &[DirectoryEntry],
    records: &[Record],
    stamp: Stamp,
) -> Result<(), Full> {
    assert!(frame.len().is_multiple_of(DEVICE_ALIGN_BYTES) && frame.len() <= BLOCK_BYTES_MAX);
    assert!(area_bytes <= frame.len(), "an area of {area_bytes} in {} bytes", frame.len());
    assert!(stamp.role == BlockRole::Data, "a frame is data");
    let mut encoded = Vec::new();
    records.iter().for_each(|record| record.encode(&mut encoded));
    let records_offset = BLOCK_HEADER_BYTES + entries.len() * DIRECTORY_ENTRY_BYTES;
    let meta_end = records_offset + encoded.len();
    if meta_end > area_bytes || entries.len() > BATCHES_PER_BLOCK_MAX {
        return Err(Full);
    }
    let mut used = meta_end;
    for (i, entry) in entries.iter().enumerate() {
        let end = entry.offset as usize + entry.bytes as usize;
        assert!(entry.offset as usize >= area_bytes && end <= frame.len(), "{entry:?}");
        used = used.max(end);
        entry.encode(&mut frame[BLOCK_HEADER_BYTES + i * DIRECTORY_ENTRY_BYTES..]);
    }
    frame[records_offset..meta_end].copy_from_slice(&encoded);
    frame[meta_end..area_bytes].fill(0);
    let mut header = BlockHeader {
        stamp,
        total_bytes: u32_of(frame.len()),
        used_bytes: u32_of(used),
        directory_offset: u32_of(BLOCK_HEADER_BYTES),
        entries: u32_of(entries.len()),
        records_offset: u32_of(records_offset),
        records_bytes: u32_of(encoded.len()),
        meta_crc: Checksum::EMPTY,
    };
    header.meta_crc = header.meta_crc_of(frame);
    header.encode(frame);
    Ok(())
}

fn u32_of(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a block is at most 1 MiB")
}

#[cfg(test)]
mod tests;
