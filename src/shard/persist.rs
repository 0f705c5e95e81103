//! persist: closed blocks go to the device in order, completions become durable prefixes.
//!
//! Holds what waits for a block and what waits for the device. Acknowledgements are born in
//! [`Shard::on_write_done`] and nowhere else: a group hears of a write when it and every earlier
//! one are durable (I-01). Does not: know files; the world starts the writes.

use core::fmt::{self, Write as _};
use core::time::Duration;
use std::collections::{BTreeSet, VecDeque};

use super::Shard;
use super::effects::{Effect, Effects, Notice};
use super::slot::Slot;
use crate::base::{Arena, BlockBuf, Moment, Slice};
use crate::model::limits::{
    BLOCKS_QUEUED_MAX, DEVICE_ALIGN_BYTES, OWN_WRITE_STALL, SEGMENT_RETRY, SPARE_SEGMENTS_MAX,
};
use crate::model::{BatchHeader, EntryId, LogIndex, Membership, WriteSeq};
use crate::wal::{
    BlockBuilder, BlockRole, DirectoryEntry, Identity, Index, LogReset, Placement, Planner, Record,
    SegmentNo, claim_frame,
};

/// Something accepted that waits for a block, in order of arrival.
pub(super) enum Staged {
    /// A batch from a small frame; it is copied into a block shared with others.
    Copied { slot: usize, entry: DirectoryEntry, bytes: Slice },
    /// A whole frame that becomes a block as it is.
    Direct(Direct),
    /// A snapshot was installed: the log starts anew.
    Reset(Reset),
    /// A live batch of an old segment that is written again so that the segment can be recycled.
    Rewritten { slot: usize, entry: DirectoryEntry, bytes: Slice },
}

/// A received bulk frame whose memory the device writes.
pub(super) struct Direct {
    pub(super) frame: BlockBuf,
    /// Bytes before the first batch, free to be overwritten.
    pub(super) area_bytes: usize,
    /// The batches the groups took as new.
    pub(super) accepted: Vec<(usize, DirectoryEntry)>,
}

/// A log that starts anew behind a snapshot (S-04).
pub(super) struct Reset {
    pub(super) slot: usize,
    pub(super) last: EntryId,
    pub(super) membership: Membership,
    pub(super) keep_tail: bool,
}

/// One batch of a block.
pub(super) struct Entry {
    pub(super) slot: usize,
    pub(super) entry: DirectoryEntry,
    pub(super) source: Source,
}

/// How a batch came into a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Proposed by this node in this block.
    Proposed,
    /// Accepted from a leader.
    Received,
    /// Durable already, written forward by retention: no news to its group.
    Rewritten,
}

/// What a block holds, while it is put together.
#[derive(Default)]
pub(super) struct Forming {
    pub(super) entries: Vec<Entry>,
    pub(super) hard_states: Vec<usize>,
    pub(super) resets: Vec<usize>,
}

impl Forming {
    pub(super) fn list(&mut self, slot: usize, entry: DirectoryEntry, source: Source) {
        self.entries.push(Entry { slot, entry, source });
    }
}

/// A closed block whose groups have not been told yet.
pub(super) struct Closed {
    pub(super) write: WriteSeq,
    pub(super) block: Slice,
    pub(super) entries: Vec<Entry>,
    pub(super) hard_states: Vec<usize>,
    pub(super) resets: Vec<usize>,
}

impl Closed {
    /// Every group with something in the block; may name one twice.
    pub(super) fn slots(&self) -> impl Iterator<Item = usize> + '_ {
        let batches = self.entries.iter().map(|entry| entry.slot);
        batches.chain(self.hard_states.iter().copied()).chain(self.resets.iter().copied())
    }
}

/// A block that waits for a slot of the device.
struct Queued {
    placement: Placement,
    block: Slice,
}

/// Everything between the groups' logs and the device. One per shard.
pub(super) struct Store {
    pub(super) identity: Identity,
    pub(super) planner: Planner,
    pub(super) index: Index,
    /// What waits for a block.
    pub(super) staged: VecDeque<Staged>,
    /// Bytes of batches among it that will be copied.
    pub(super) staged_bytes: usize,
    /// Bytes of requests that wait for a block.
    pub(super) pending_bytes: usize,
    /// The block that was closed last, until `propose` has told the groups.
    pub(super) to_propose: Option<Closed>,
    /// Closed blocks that wait for a slot of the device, in order.
    queued: VecDeque<Queued>,
    /// When the durable prefix last grew.
    grew_at: Moment,
    /// Writes the device has now, and how many it may have.
    submitted: u32,
    slots_max: u32,
    /// For each write that is not durable yet, the groups to tell.
    owners: VecDeque<(WriteSeq, Vec<usize>)>,
    /// Batches that are still in memory for peers and readers, oldest first.
    cached: VecDeque<(usize, LogIndex)>,
    /// Parts of the opening that is being placed, in order.
    pub(super) opening: VecDeque<Vec<Record>>,
    /// The last block of each opening on its way; durable, it frees what it no longer names.
    pub(super) openings: VecDeque<(WriteSeq, SegmentNo)>,
    /// The oldest segment that the newest durable opening still needs.
    pub(super) opened_oldest: Option<SegmentNo>,
    /// The next attempt to make a segment file after the device had no room.
    retry_at: Option<Moment>,
    /// The first opening after the start was placed.
    is_opened: bool,
    /// The device has no room for another segment.
    is_full: bool,
    /// A device write failed; nothing is written or acknowledged any more (I-03).
    is_poisoned: bool,
    /// Segment files that hold blocks, the current one included.
    pub(super) segments: BTreeSet<SegmentNo>,
    /// Dead segment files that can be renamed instead of pre-writing new ones.
    pub(super) spare: VecDeque<SegmentNo>,
}

impl Store {
    pub(super) fn new(identity: Identity, planner: Planner, index: Index, slots_max: u32) -> Self {
        assert!(slots_max > 0, "a device has at least one slot");
        Self {
            identity,
            planner,
            index,
            staged: VecDeque::new(),
            staged_bytes: 0,
            pending_bytes: 0,
            to_propose: None,
            queued: VecDeque::new(),
            grew_at: Moment::ZERO,
            submitted: 0,
            slots_max,
            owners: VecDeque::new(),
            cached: VecDeque::new(),
            opening: VecDeque::new(),
            openings: VecDeque::new(),
            opened_oldest: None,
            retry_at: None,
            is_opened: false,
            is_full: false,
            is_poisoned: false,
            segments: BTreeSet::new(),
            spare: VecDeque::new(),
        }
    }

    /// Puts something accepted in line for a block.
    pub(super) fn stage(&mut self, staged: Staged) {
        self.staged_bytes += staged.copied_bytes();
        self.staged.push_back(staged);
    }

    /// Whether the device has a slot for one more block at once.
    pub(super) fn has_free_slot(&self) -> bool {
        let queued = u32::try_from(self.queued.len()).expect("bounded");
        self.submitted + queued < self.slots_max
    }

    /// Whether a block may be closed although it has to wait for the device.
    pub(super) fn may_queue(&self) -> bool {
        self.queued.len() < BLOCKS_QUEUED_MAX
    }

    /// The groups of the log resets among what is staged; each is a record.
    pub(super) fn staged_resets(&self) -> impl Iterator<Item = usize> + '_ {
        self.staged.iter().filter_map(|staged| match staged {
            Staged::Reset(reset) => Some(reset.slot),
            Staged::Copied { .. } | Staged::Direct(_) | Staged::Rewritten { .. } => None,
        })
    }

    /// Whether the oldest own write is late.
    pub(super) fn is_stalled(&self, now: Moment) -> bool {
        self.planner.oldest_in_flight().is_some_and(|since| now.since(since) > OWN_WRITE_STALL)
    }

    /// Whether writes are pending and nothing became durable for `patience` (E-13). A block that
    /// waits behind others does not count as long as those are completed: that disk is slow.
    pub(super) fn is_stuck(&self, now: Moment, patience: Duration) -> bool {
        let oldest = self.planner.oldest_in_flight();
        oldest.is_some_and(|since| now.since(since.max(self.grew_at)) > patience)
    }

    /// Whether appends are refused for lack of room.
    pub(super) fn is_disk_full(&self) -> bool {
        self.is_full
    }

    /// Whether the first opening after the start was placed.
    pub(super) fn is_opened(&self) -> bool {
        self.is_opened
    }

    /// Whether a device write failed.
    pub(super) fn is_poisoned(&self) -> bool {
        self.is_poisoned
    }

    /// Whether everything taken is durable and sealed.
    pub(super) fn is_idle(&self) -> bool {
        self.staged.is_empty()
            && self.queued.is_empty()
            && self.planner.is_idle()
            && self.planner.seal_deadline().is_none()
    }

    /// Whether the file of `segment` holds blocks.
    pub(super) fn has_segment(&self, segment: SegmentNo) -> bool {
        self.segments.contains(&segment)
    }

    /// Remembers a batch whose slice the group holds.
    pub(super) fn remember(&mut self, slot: usize, last: LogIndex) {
        self.cached.push_back((slot, last));
    }

    /// Whether batches that are written forward wait for a block.
    pub(super) fn is_rewriting(&self) -> bool {
        self.staged.iter().any(|staged| matches!(staged, Staged::Rewritten { .. }))
    }

    /// How many batches are remembered.
    pub(super) fn cached(&self) -> usize {
        self.cached.len()
    }

    /// The oldest remembered batch, forgotten.
    pub(super) fn forget_oldest(&mut self) -> Option<(usize, LogIndex)> {
        self.cached.pop_front()
    }

    /// A dead file to make `segment` from. The one that has its name already comes first: another
    /// one renamed would replace it, and the list would go on naming it.
    fn take_spare(&mut self, segment: SegmentNo) -> Option<SegmentNo> {
        let same = self.spare.iter().position(|spare| *spare == segment).unwrap_or(0);
        self.spare.remove(same)
    }

    pub(super) fn write_status(&self, to: &mut String) -> fmt::Result {
        writeln!(to, "wal_next_lsn {}", self.planner.next_lsn())?;
        writeln!(to, "wal_durable_lsn {}", self.planner.durable_lsn())?;
        writeln!(to, "wal_segments {}", self.segments.len())?;
        writeln!(to, "wal_writes_in_flight {}", self.submitted)?;
        writeln!(to, "wal_blocks_queued {}", self.queued.len())
    }
}

impl Staged {
    /// The groups whose logs it is news to. A rewritten batch is none.
    pub(super) fn slots(&self) -> impl Iterator<Item = usize> + '_ {
        let (one, many): (_, &[(usize, DirectoryEntry)]) = match self {
            Self::Copied { slot, .. } => (Some(*slot), &[]),
            Self::Reset(reset) => (Some(reset.slot), &[]),
            Self::Direct(direct) => (None, &direct.accepted),
            Self::Rewritten { .. } => (None, &[]),
        };
        one.into_iter().chain(many.iter().map(|(slot, _)| *slot))
    }

    /// Bytes that go into the next block by copying.
    fn copied_bytes(&self) -> usize {
        match self {
            Self::Copied { bytes, .. } | Self::Rewritten { bytes, .. } => bytes.len(),
            Self::Direct(_) | Self::Reset(_) => 0,
        }
    }
}

impl Shard {
    /// Writes the hard state of every group where it changed. What does not fit waits; the group
    /// stays silent about the new term until it is durable (H-01).
    pub(super) fn add_hard_states(&mut self, builder: &mut BlockBuilder, forming: &mut Forming) {
        if planted!(H03_BATCH_BEFORE_ITS_TERM) && !self.store.staged.is_empty() {
            return;
        }
        while let Some(at) = self.slots.dirty.pop() {
            let slot = &mut self.slots[at];
            slot.is_dirty = false;
            let (group, replica) = (slot.id, slot.replica);
            let state = self.store.index.clamped(group, slot.raft.hard_state());
            if planted!(H03_TERM_NOT_WRITTEN) && state.vote.is_none() {
                forming.hard_states.push(at);
                continue;
            }
            let record = Record::HardState { group, replica, state };
            if builder.push_record(&record).is_err() {
                self.slots.mark_dirty(at);
                return;
            }
            mark!(H01_HARD_STATE_WRITTEN);
            forming.hard_states.push(at);
        }
    }

    /// Takes what is staged, in order, until the block is full or a whole frame comes.
    pub(super) fn add_staged(&mut self, builder: &mut BlockBuilder, forming: &mut Forming) {
        if !self.slots.dirty.is_empty() && !planted!(H03_BATCH_BEFORE_ITS_TERM) {
            // A batch of a term may not come before the hard state that knows the term (H-03).
            return;
        }
        while let Some(staged) = self.store.staged.front() {
            let is_added = match staged {
                Staged::Direct(_) => false,
                Staged::Reset(reset) => {
                    push_reset(&self.slots[reset.slot], reset, builder, forming)
                }
                Staged::Copied { slot, entry, bytes } => {
                    let batch = Entry { slot: *slot, entry: *entry, source: Source::Received };
                    copy_batch(&batch, bytes, builder, forming)
                }
                Staged::Rewritten { slot, entry, bytes } => {
                    let batch = Entry { slot: *slot, entry: *entry, source: Source::Rewritten };
                    copy_batch(&batch, bytes, builder, forming)
                }
            };
            if !is_added {
                return;
            }
            let staged = self.store.staged.pop_front().expect("looked at it just now");
            let bytes = staged.copied_bytes();
            self.store.staged_bytes -= bytes;
            match staged {
                Staged::Copied { .. } => {
                    mark!(W01_RECEIVED_BATCH_COPIED);
                    self.counters.copied_bytes_follower += bytes as u64;
                }
                Staged::Rewritten { .. } => {
                    mark!(W13_BATCH_REWRITTEN);
                    self.counters.wal_rewritten_bytes += bytes as u64;
                }
                Staged::Direct(_) | Staged::Reset(_) => {}
            }
        }
    }

    /// Closes a block of copies and puts it in line for the device.
    pub(super) fn close_block(
        &mut self,
        builder: BlockBuilder,
        forming: Forming,
        arena: &mut Arena,
    ) {
        let total = builder.total_bytes();
        let placement = self.store.planner.place(total, BlockRole::Data, self.now);
        let closed = builder.close(placement.stamp);
        let block = arena.close(closed.buf, total as usize);
        self.enqueue(placement, block, forming);
    }

    /// Turns a received frame into a block where it lies (zero copies on a follower).
    pub(super) fn claim(&mut self, direct: Direct) {
        mark!(W01_FRAME_WRITTEN_AS_RECEIVED);
        let Direct { mut frame, area_bytes, accepted } = direct;
        let total = u32::try_from(frame.len()).expect("a frame is at most a block");
        let placement = self.store.planner.place(total, BlockRole::Data, self.now);
        let entries: Vec<DirectoryEntry> = accepted.iter().map(|(_, entry)| *entry).collect();
        claim_frame(&mut frame, area_bytes, &entries, &[], placement.stamp)
            .expect("a frame's area has room for the directory of its batches");
        let mut forming = Forming::default();
        for (slot, entry) in accepted {
            self.counters.direct_bytes_follower += u64::from(entry.bytes);
            forming.list(slot, entry, Source::Received);
        }
        self.enqueue(placement, frame.freeze(total as usize), forming);
    }

    fn enqueue(&mut self, placement: Placement, block: Slice, forming: Forming) {
        let Forming { entries, hard_states, resets } = forming;
        self.store.index.note_block(&block, placement.lsn, &self.store.identity);
        self.store.segments.insert(placement.segment);
        let write = placement.write;
        let closed = Closed { write, block: block.clone(), entries, hard_states, resets };
        let mut owners: Vec<usize> = closed.slots().collect();
        owners.sort_unstable();
        owners.dedup();
        self.store.owners.push_back((write, owners));
        self.store.queued.push_back(Queued { placement, block });
        assert!(self.store.to_propose.is_none(), "one block is proposed before the next is closed");
        self.store.to_propose = Some(closed);
    }

    /// Leaves the current segment, a block of the next one's opening at a time. True if one was
    /// closed.
    pub(super) fn roll(&mut self, arena: &mut Arena) -> bool {
        let store = &mut self.store;
        if !store.may_queue() || store.is_poisoned {
            return false;
        }
        let is_first = store.planner.opening_parts_left() == 0;
        let align = u32::try_from(DEVICE_ALIGN_BYTES).expect("4 KiB");
        if is_first {
            if !store.planner.can_roll(align) {
                mark!(W12_ROLL_WAITS);
                return false;
            }
            let plan = store.planner.next_opening();
            store.opening = store.index.opening(&plan).into();
        }
        let Some(buf) = arena.take(self.config.geometry.block_bytes_max as usize) else {
            return false;
        };
        let mut builder = BlockBuilder::new(buf);
        for record in store.opening.front().expect("an opening has at least one block") {
            builder.push_record(record).expect("a part of an opening fits into a block");
        }
        let bytes = builder.total_bytes();
        let is_possible =
            if is_first { store.planner.can_roll(bytes) } else { store.planner.fits_part(bytes) };
        if !is_possible {
            arena.cancel(builder.into_buf());
            return false;
        }
        if is_first {
            let parts = u32::try_from(store.opening.len()).expect("a few");
            store.planner.roll(parts);
            store.is_opened = true;
        }
        let records = store.opening.pop_front().expect("looked at it just now");
        let placement = store.planner.place_part(bytes, self.now);
        let closed = builder.close(placement.stamp);
        let block = arena.close(closed.buf, bytes as usize);
        if store.opening.is_empty() {
            let Some(Record::SegmentOpen(open)) = records.first() else {
                unreachable!("every part begins with the facts of the opening");
            };
            store.openings.push_back((placement.write, open.oldest));
            if planted!(W13_RECYCLED_BEFORE_OPENING_IS_DURABLE) {
                store.opened_oldest = Some(open.oldest);
            }
            self.counters.wal_checkpoints += 1;
        }
        self.enqueue(placement, block, Forming::default());
        true
    }

    /// The persist stage: as many writes as the device has slots for, in order; a seal when the
    /// log has gone idle; segment files ahead of need.
    pub(super) fn persist(&mut self, arena: &mut Arena, fx: &mut Effects) {
        self.seal(arena);
        while self.store.submitted < self.store.slots_max
            && let Some(Queued { placement, block }) = self.store.queued.pop_front()
        {
            self.store.submitted += 1;
            self.counters.wal_writes += 1;
            self.counters.wal_write_bytes += block.len() as u64;
            let Placement { write, segment, offset, .. } = placement;
            fx.push(Effect::Write { write, segment, offset, block });
        }
        self.want_segments(fx);
    }

    /// Within 5 ms of going idle the last acknowledged block gets a durable witness (W-06).
    fn seal(&mut self, arena: &mut Arena) {
        let bytes = u32::try_from(DEVICE_ALIGN_BYTES).expect("4 KiB");
        let is_due = self.store.planner.seal_due(self.now)
            || (self.draining != super::Draining::No
                && self.store.planner.seal_deadline().is_some());
        if is_due && self.store.planner.needs_roll(bytes) && self.roll(arena) {
            mark!(W06_OPENING_SERVES_AS_SEAL);
            // The segment is full to the brim: the opening of the next is the witness.
            self.propose();
            return;
        }
        if !is_due || !self.store.planner.fits(bytes) || self.store.is_poisoned {
            return;
        }
        let Some(buf) = arena.take(bytes as usize) else { return };
        let placement = self.store.planner.place(bytes, BlockRole::Seal, self.now);
        let closed = BlockBuilder::new(buf).close(placement.stamp);
        let block = arena.close(closed.buf, bytes as usize);
        mark!(W06_SEALED);
        self.counters.wal_seals += 1;
        self.store.owners.push_back((placement.write, Vec::new()));
        self.store.queued.push_back(Queued { placement, block });
    }

    /// A write is durable. The only place where promises come from: every group with something
    /// in the contiguous durable prefix hears of it, in order (I-01).
    pub(super) fn on_write_done(&mut self, write: WriteSeq) {
        assert!(self.store.submitted > 0, "{write:?} is done, but nothing was submitted");
        self.store.submitted -= 1;
        if self.store.is_poisoned {
            return;
        }
        let Some(durable) = self.store.planner.on_write_done(write, self.now) else { return };
        self.store.grew_at = self.now;
        while let Some((write, _)) = self.store.owners.front()
            && *write <= durable
        {
            let (write, owners) = self.store.owners.pop_front().expect("looked at it just now");
            for at in owners {
                self.slots[at].raft.persisted(self.now, write, &mut self.wishes);
                self.slots.touch(at);
            }
        }
        while let Some((write, segment)) = self.store.openings.front().copied()
            && write <= durable
        {
            mark!(W13_OPENING_DURABLE);
            self.store.openings.pop_front();
            self.store.opened_oldest = Some(segment);
        }
    }

    /// A write failed: what the device holds is unknown, so nothing may be promised any more and
    /// nothing written beyond it (I-03, I-04). The process ends.
    pub(super) fn on_write_failed(&mut self, write: WriteSeq, fx: &mut Effects) {
        if planted!(I03_FAILED_WRITE_COUNTS) {
            return self.on_write_done(write);
        }
        mark!(I03_WRITE_FAILED);
        self.store.is_poisoned = true;
        if planted!(I03_NO_HALT) {
            return;
        }
        fx.push(Effect::Halt { reason: "a write to the log device failed" });
    }

    pub(super) fn on_segment_ready(&mut self, segment: SegmentNo) {
        if self.store.is_full {
            mark!(D09_DISK_HAS_ROOM_AGAIN);
            self.store.is_full = false;
            self.replies.notices.push(Notice::DiskHasRoom);
        }
        self.store.planner.segment_ready(segment);
    }

    /// Whatever the reason was: without a next segment the log cannot grow. The world logs it.
    pub(super) fn on_segment_failed(&mut self, segment: SegmentNo) {
        self.store.planner.segment_failed(segment);
        self.store.retry_at = Some(self.now.after(SEGMENT_RETRY));
        if !self.store.is_full {
            mark!(D09_DISK_FULL);
            self.store.is_full = true;
            self.replies.notices.push(Notice::DiskFull);
        }
    }

    fn want_segments(&mut self, fx: &mut Effects) {
        if self.store.retry_at.is_some_and(|at| self.now < at) {
            return;
        }
        self.store.retry_at = None;
        while let Some(segment) = self.store.planner.segment_wanted() {
            let recycle = self.store.take_spare(segment);
            mark!(W11_SEGMENT_RECYCLED if recycle.is_some());
            self.counters.wal_segments_recycled += u64::from(recycle.is_some());
            fx.push(Effect::PrepareSegment { segment, recycle });
        }
        let ahead = usize::try_from(self.config.segments_ahead).unwrap_or(usize::MAX);
        while self.store.spare.len() > SPARE_SEGMENTS_MAX.max(ahead)
            && let Some(segment) = self.store.spare.pop_front()
        {
            mark!(W11_SPARE_SEGMENT_REMOVED);
            fx.push(Effect::RemoveSegment { segment });
        }
    }
}

/// Puts a log reset into the block; false if it must wait for the next.
fn push_reset(
    slot: &Slot,
    reset: &Reset,
    builder: &mut BlockBuilder,
    forming: &mut Forming,
) -> bool {
    let record = Record::LogReset(LogReset {
        group: slot.id,
        replica: slot.replica,
        last: reset.last,
        membership: reset.membership.clone(),
        keep_tail: reset.keep_tail,
    });
    let is_added = builder.push_record(&record).is_ok();
    if is_added {
        forming.resets.push(reset.slot);
    }
    is_added
}

/// Copies a whole batch into the block; false if it must wait for the next.
fn copy_batch(
    batch: &Entry,
    bytes: &Slice,
    builder: &mut BlockBuilder,
    forming: &mut Forming,
) -> bool {
    if builder.room_bytes() < bytes.len() {
        return false;
    }
    let header = BatchHeader::decode(bytes).expect("verified when it came in");
    builder.batch_space(bytes.len()).copy_from_slice(bytes);
    let entry = builder.list(&header, batch.entry.replica);
    forming.list(batch.slot, entry, batch.source);
    true
}
