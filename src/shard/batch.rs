//! batch and propose: requests become batches in a block, batches become spans of a log.
//!
//! Requests wait in their receive buffers until the device has a slot free or enough of them are
//! pending to fill a block; only then are they copied, once, into the block that the device and
//! the peers will read (there is no linger timer: it would only hide latency). Does not: submit
//! anything (`persist`) or send anything (`replicate`).

use super::Shard;
use super::persist::{Entry, Forming, Source, Staged};
use super::slot::{Request, Waiting};
use crate::base::layout::put_array;
use crate::base::{Arena, Checksum};
use crate::model::batch::{BATCH_HEADER_BYTES, RECORD_HEADER_BYTES};
use crate::model::limits::BATCHES_PER_BLOCK_MAX;
use crate::model::{BatchHeader, BatchKind, LogIndex, RecordCount, Refusal, Span};
use crate::raft::{LogBatch, RoleName};
use crate::wal::{
    BLOCK_HEADER_BYTES, BlockBuilder, DIRECTORY_ENTRY_BYTES, HARD_STATE_RECORD_BYTES,
};

/// More than a log reset takes: three lists of at most seven members.
const RESET_RECORD_BYTES_MAX: usize = 256;

impl Shard {
    /// The batch stage: closes at most one block; true if it did, so that `propose` has work.
    ///
    /// The order inside a block is the order of the log of each group: what a group staged as a
    /// follower comes before what it proposes as a leader, and hard states before both (H-03).
    pub(super) fn batch(&mut self, arena: &mut Arena) -> bool {
        self.drop_requests_of_followers();
        if !self.store.is_opened() || self.store.planner.opening_parts_left() > 0 {
            return self.roll(arena);
        }
        if !self.block_is_due() {
            return false;
        }
        let bytes = self.block_bytes_wanted();
        let bytes_u32 = u32::try_from(bytes).expect("at most a block");
        if self.store.planner.needs_roll(bytes_u32) {
            return self.roll(arena);
        }
        if !self.store.planner.fits(bytes_u32) {
            mark!(W05_BLOCK_WAITS_FOR_WINDOW);
            // The window W is full, or the opening after a start is not durable yet.
            return false;
        }
        if self.is_direct_next() {
            let Some(Staged::Direct(direct)) = self.store.staged.pop_front() else {
                unreachable!("looked at it just now");
            };
            self.claim(direct);
            return true;
        }
        let Some(buf) = arena.take(bytes) else {
            // Memory comes back with completions and sends; the next turn tries again.
            return false;
        };
        let mut builder = BlockBuilder::new(buf);
        let mut forming = Forming::default();
        self.add_hard_states(&mut builder, &mut forming);
        self.add_staged(&mut builder, &mut forming);
        if self.slots.dirty.is_empty() || planted!(H03_BATCH_BEFORE_ITS_TERM) {
            self.add_proposals(&mut builder, &mut forming);
        }
        if builder.is_empty() {
            // Every request that waited was refused while the block was put together.
            arena.cancel(builder.into_buf());
            return false;
        }
        self.close_block(builder, forming, arena);
        true
    }

    /// The propose stage: the groups take the batches of the block as spans.
    pub(super) fn propose(&mut self) {
        let Some(closed) = self.store.to_propose.take() else { return };
        for Entry { slot, entry, source } in &closed.entries {
            let raft = &mut self.slots[*slot].raft;
            match source {
                Source::Proposed => {
                    self.counters.batches_proposed += 1;
                    let start = entry.offset as usize;
                    let slice = Some(closed.block.slice(start..start + entry.bytes as usize));
                    let (span, kind) = (entry.span, entry.kind);
                    let batch = LogBatch { span, kind, bytes: entry.bytes, slice };
                    raft.propose(batch, None, &mut self.wishes);
                    raft.submitted(entry.span, closed.write);
                    self.store.remember(*slot, entry.span.last());
                }
                Source::Received => raft.submitted(entry.span, closed.write),
                Source::Rewritten => {}
            }
        }
        for slot in &closed.hard_states {
            self.slots[*slot].raft.hard_state_submitted(closed.write);
        }
        for slot in &closed.resets {
            self.slots[*slot].raft.reset_submitted(closed.write);
        }
        for slot in closed.slots() {
            self.slots.touch(slot);
        }
        self.absorb();
    }

    /// A group that does not lead has nothing to propose; its requests go back to their clients.
    fn drop_requests_of_followers(&mut self) {
        for _ in 0..self.slots.queued.len() {
            let Some(at) = self.slots.queued.pop_front() else { break };
            if self.slots[at].raft.role() == RoleName::Leader {
                self.slots.queued.push_back(at);
            } else {
                self.slots[at].is_queued = false;
                self.slots[at].owes_noop = false;
                self.refuse_pending(at);
            }
        }
    }

    /// Whether a block should be closed now: there is something for it, and either the device has
    /// a slot, or a block's worth is pending, or the oldest own write is so old that the others
    /// should have the batches without waiting for this disk.
    fn block_is_due(&self) -> bool {
        let store = &self.store;
        let is_work = !(store.staged.is_empty()
            && self.slots.dirty.is_empty()
            && self.slots.queued.is_empty());
        is_work
            && !store.is_poisoned()
            && (store.has_free_slot()
                || (store.may_queue()
                    && (store.pending_bytes >= self.config.block_target_bytes
                        || store.is_stalled(self.now))))
    }

    /// Whether the next block is a received frame as it lies.
    fn is_direct_next(&self) -> bool {
        self.slots.dirty.is_empty() && matches!(self.store.staged.front(), Some(Staged::Direct(_)))
    }

    /// An upper bound for the next block, headers and directory included, rounded up.
    fn block_bytes_wanted(&self) -> usize {
        if self.is_direct_next()
            && let Some(Staged::Direct(direct)) = self.store.staged.front()
        {
            return direct.frame.len();
        }
        let block_max = self.config.geometry.block_bytes_max as usize;
        let batches = self.store.staged.len() + self.slots.queued.len();
        let heads = BLOCK_HEADER_BYTES
            + batches * (DIRECTORY_ENTRY_BYTES + BATCH_HEADER_BYTES + RECORD_HEADER_BYTES)
            + self.slots.dirty.len() * HARD_STATE_RECORD_BYTES
            + self.store.staged_resets().count() * RESET_RECORD_BYTES_MAX;
        (heads + self.store.pending_bytes + self.store.staged_bytes)
            .next_multiple_of(crate::model::limits::DEVICE_ALIGN_BYTES)
            .min(block_max)
    }

    /// One batch for each leading group with pending requests, oldest group first, until the
    /// block is full.
    fn add_proposals(&mut self, builder: &mut BlockBuilder, forming: &mut Forming) {
        let held = self.leaders_with_staged();
        for _ in 0..self.slots.queued.len().min(BATCHES_PER_BLOCK_MAX) {
            let Some(at) = self.slots.queued.pop_front() else { break };
            self.slots[at].is_queued = false;
            if held.contains(&at) && !planted!(W14_PROPOSED_BEFORE_STAGED) {
                self.slots.queue(at);
                continue;
            }
            let is_added = if self.slots[at].owes_noop {
                self.add_noop(at, builder, forming)
            } else {
                self.add_requests(at, builder, forming)
            };
            let slot = &self.slots[at];
            if slot.owes_noop || !slot.pending.is_empty() {
                self.slots.queue(at);
            }
            if !is_added {
                break;
            }
        }
    }

    /// Groups that lead while something that they took as followers still waits for a block: it
    /// comes first in their logs, so it comes first on the disk. Rare, and empty in steady state.
    fn leaders_with_staged(&self) -> Vec<usize> {
        let leads = |at: &usize| self.slots[*at].raft.role() == RoleName::Leader;
        self.store.staged.iter().flat_map(Staged::slots).filter(leads).collect()
    }

    /// The empty entry of a new leader's term (C-02). False if the block has no room.
    fn add_noop(&mut self, at: usize, builder: &mut BlockBuilder, forming: &mut Forming) -> bool {
        if builder.room_bytes() < BATCH_HEADER_BYTES + RECORD_HEADER_BYTES {
            return false;
        }
        let slot = &mut self.slots[at];
        mark!(C02_NOOP_OF_NEW_LEADER);
        slot.owes_noop = false;
        let span = Span {
            term: slot.raft.term(),
            first: slot.raft.last().index.next(),
            count: RecordCount::new(1),
        };
        let body = [0; RECORD_HEADER_BYTES];
        let header = BatchHeader {
            group: slot.id,
            replica: slot.replica,
            span,
            kind: BatchKind::Noop,
            body_bytes: u32::try_from(body.len()).expect("four"),
            body_crc: Checksum::of(&body),
        };
        let space = builder.batch_space(header.batch_bytes());
        header.encode(space);
        put_array(space, BATCH_HEADER_BYTES, &body);
        forming.list(at, builder.list(&header, slot.replica), Source::Proposed);
        true
    }

    /// As many requests of one group as fit, copied behind one another. False if none did.
    fn add_requests(
        &mut self,
        at: usize,
        builder: &mut BlockBuilder,
        forming: &mut Forming,
    ) -> bool {
        self.refuse_wrong_tails(at);
        let limit = self.config.batch_bytes_max();
        let room = builder.room_bytes().min(limit).saturating_sub(BATCH_HEADER_BYTES);
        let slot = &mut self.slots[at];
        // First pass: how many, and how large.
        let (mut requests, mut body_bytes, mut records) = (0, 0, 0_u32);
        for request in &slot.pending {
            let is_unconditional = request.expected_tail.is_none() || requests == 0;
            if body_bytes + request.records.len() > room || !is_unconditional {
                break;
            }
            requests += 1;
            body_bytes += request.records.len();
            records += request.count.get();
        }
        mark!(F01_REQUESTS_SHARE_A_BATCH if requests > 1);
        if requests == 0 {
            // Either nothing was left after the refusals, or the block is full.
            return slot.pending.is_empty();
        }
        let first = slot.raft.last().index.next();
        let span = Span { term: slot.raft.term(), first, count: RecordCount::new(records) };
        // Second pass: the one copy, and the checksum while the bytes are in cache.
        let space = builder.batch_space(BATCH_HEADER_BYTES + body_bytes);
        let body_crc = self.copy_requests(at, requests, span, &mut space[BATCH_HEADER_BYTES..]);
        let slot = &self.slots[at];
        let header = BatchHeader {
            group: slot.id,
            replica: slot.replica,
            span,
            kind: BatchKind::Records,
            body_bytes: u32::try_from(body_bytes).expect("within a batch"),
            body_crc,
        };
        header.encode(space);
        forming.list(at, builder.list(&header, slot.replica), Source::Proposed);
        self.trace.on_batched(at, requests, span.last(), self.now);
        true
    }

    fn copy_requests(
        &mut self,
        at: usize,
        requests: usize,
        span: Span,
        body: &mut [u8],
    ) -> Checksum {
        let slot = &mut self.slots[at];
        let (mut crc, mut to, mut first) = (Checksum::EMPTY, 0, span.first);
        for _ in 0..requests {
            let request = slot.pending.pop_front().expect("counted in the first pass");
            let Request { origin, records, count, frame_bytes, .. } = request;
            let bytes = records.len();
            body[to..to + bytes].copy_from_slice(&records);
            crc = crc.then(&body[to..to + bytes]);
            to += bytes;
            self.clients.give_room(origin, frame_bytes);
            let span = Span { term: span.term, first, count };
            slot.waiting.push_back(Waiting { origin, span, bytes });
            first = first.plus(count);
        }
        assert_eq!(to, body.len(), "the passes agree");
        self.store.pending_bytes -= to;
        self.counters.copied_bytes_leader += to as u64;
        crc
    }

    /// Refuses the requests at the head of the line that expect the log to end elsewhere.
    fn refuse_wrong_tails(&mut self, at: usize) {
        let slot = &mut self.slots[at];
        let last: LogIndex = slot.raft.last().index;
        while let Some(request) = slot.pending.front() {
            if request.expected_tail.is_none_or(|expected| expected == last) {
                return;
            }
            let request = slot.pending.pop_front().expect("looked at it just now");
            let Request { origin, records, frame_bytes, .. } = request;
            self.trace.forget(at);
            self.store.pending_bytes -= records.len();
            self.replies.uncommitted_bytes -= records.len();
            self.clients.give_room(origin, frame_bytes);
            self.replies.refuse(slot.id, origin, Refusal::WrongTail { last });
        }
    }
}
