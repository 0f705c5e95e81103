//! Client reads: confirmed by a ReadIndex round or explicitly stale, served from memory or disk.
//!
//! Does not: touch the device (`fetch` does) or run rounds (`raft::read`).

use std::collections::{BTreeMap, VecDeque};

use super::Shard;
use super::slot::Origin;
use crate::base::Moment;
use crate::model::limits::{READ_BYTES_PER_TURN_MAX, READ_DEADLINE, READS_WAITING_MAX};
use crate::model::{GroupId, LogIndex, Refusal};
use crate::raft::{LogBatch, ReadToken};
use crate::wire::client::{Consistency, Read, ReadReplyHead, encode_read_reply_head};

/// A read that waits for its round.
#[derive(Clone, Copy, Debug)]
struct Unconfirmed {
    slot: usize,
    origin: Origin,
    read: Read,
    deadline: Moment,
}

/// A read that may be served now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Confirmed {
    pub(super) slot: usize,
    pub(super) origin: Origin,
    pub(super) read: Read,
}

/// The reads of a shard that are not answered yet.
#[derive(Default)]
pub(super) struct Reads {
    next_token: u64,
    unconfirmed: BTreeMap<ReadToken, Unconfirmed>,
    pub(super) confirmed: VecDeque<Confirmed>,
    failed: Vec<(Unconfirmed, Refusal)>,
    /// What this turn put into replies to reads.
    bytes_this_turn: usize,
}

impl Reads {
    pub(super) fn on_ready(&mut self, token: ReadToken, _index: LogIndex) {
        // The index is at or below the commit index that the read is served with a moment later:
        // this node led when the round was confirmed, and commit never moves back (C-03).
        if let Some(Unconfirmed { slot, origin, read, .. }) = self.unconfirmed.remove(&token) {
            self.confirmed.push_back(Confirmed { slot, origin, read });
        }
    }

    pub(super) fn on_failed(&mut self, token: ReadToken, refusal: Refusal) {
        if let Some(read) = self.unconfirmed.remove(&token) {
            self.failed.push((read, refusal));
        }
    }

    /// What this turn put into replies to reads so far.
    pub(super) fn bytes_this_turn(&self) -> usize {
        self.bytes_this_turn
    }

    /// Reads of this shard that wait for a round, for status and budgets.
    pub(super) fn waiting(&self) -> usize {
        self.unconfirmed.len() + self.confirmed.len()
    }
}

impl Shard {
    pub(super) fn on_read_request(&mut self, origin: Origin, group: GroupId, read: Read) {
        let Some(slot) = self.slots.find(group) else {
            return self.replies.refuse(group, origin, Refusal::UnknownGroup);
        };
        if self.reads.waiting() + self.fetches.of_clients() >= READS_WAITING_MAX {
            self.counters.client_busy += 1;
            let refusal = Refusal::Busy { retry_after: crate::model::limits::BUSY_RETRY_AFTER };
            return self.replies.refuse(group, origin, refusal);
        }
        match read.consistency {
            Consistency::Stale => {
                mark!(L14_STALE_READ);
                self.reads.confirmed.push_back(Confirmed { slot, origin, read });
            }
            Consistency::Linearizable => {
                self.reads.next_token += 1;
                let token = ReadToken(self.reads.next_token);
                let deadline = self.now.after(READ_DEADLINE);
                let waiting = Unconfirmed { slot, origin, read, deadline };
                self.reads.unconfirmed.insert(token, waiting);
                self.slots[slot].raft.read_index(self.now, token, &mut self.wishes);
                self.slots.touch(slot);
            }
        }
    }

    /// Serves every read that is confirmed, and refuses those that cannot be any more.
    pub(super) fn serve_reads(&mut self) {
        for (read, refusal) in core::mem::take(&mut self.reads.failed) {
            self.replies.refuse(self.slots[read.slot].id, read.origin, refusal);
        }
        self.reads.bytes_this_turn = 0;
        while self.reads.bytes_this_turn < READ_BYTES_PER_TURN_MAX
            && let Some(read) = self.reads.confirmed.pop_front()
        {
            self.serve_read(read);
        }
    }

    /// Refuses reads whose round does not end. The token stays with the group; what it says later
    /// finds nobody.
    pub(super) fn expire_reads(&mut self) {
        while let Some(entry) = self.reads.unconfirmed.first_entry()
            && entry.get().deadline <= self.now
        {
            let read = entry.remove();
            self.replies.refuse(self.slots[read.slot].id, read.origin, Refusal::TimedOut);
        }
    }

    fn serve_read(&mut self, read: Confirmed) {
        let raft = &self.slots[read.slot].raft;
        let (first, commit) = (raft.first_index(), raft.commit());
        let commit = if planted!(C04_UNCOMMITTED_READ) { raft.last().index } else { commit };
        if read.read.from < first {
            mark!(L15_TRIMMED_READ_REFUSED);
            let group = self.slots[read.slot].id;
            return self.replies.refuse(group, read.origin, Refusal::Trimmed { next: first });
        }
        if read.read.from > commit {
            mark!(L15_READ_AT_THE_END);
            return self.answer_read(read, &[]);
        }
        match self.gather_from_memory(&read) {
            Some(batches) => {
                mark!(L15_READ_FROM_MEMORY);
                self.answer_read(read, &batches);
            }
            None => self.want_for_client(read, commit),
        }
    }

    /// Committed batches from the one that holds `from` on, if the first is still in memory.
    fn gather_from_memory(&self, read: &Confirmed) -> Option<Vec<LogBatch>> {
        let raft = &self.slots[read.slot].raft;
        let (mut batches, mut bytes, mut next) = (Vec::new(), 0, read.read.from);
        while let Some(batch) = raft.span_at(next)
            && batch.slice.is_some()
            && (batch.span.last() <= raft.commit() || planted!(C04_UNCOMMITTED_READ))
        {
            bytes += batch.bytes as usize;
            if !batches.is_empty() && bytes > self.read_bytes_max(&read.read) {
                break;
            }
            next = batch.span.last().next();
            batches.push(batch.clone());
        }
        (!batches.is_empty()).then_some(batches)
    }

    /// The most a reply to `read` may carry; one batch always fits.
    pub(super) fn read_bytes_max(&self, read: &Read) -> usize {
        (read.max_bytes as usize).min(self.config.batch_bytes_max())
    }

    /// Answers with these consecutive committed batches, none meaning that `from` is not
    /// committed yet.
    pub(super) fn answer_read(&mut self, read: Confirmed, batches: &[LogBatch]) {
        let next = batches.last().map_or(read.read.from, |batch| batch.span.last().next());
        let slices = batches.iter().map(|batch| {
            &batch.slice.as_ref().expect("only batches in memory are answered with")[..]
        });
        self.answer_page(read, next, slices);
    }

    /// Answers with these bytes of consecutive committed batches, the last of which ends before
    /// `next`.
    pub(super) fn answer_page<'a>(
        &mut self,
        read: Confirmed,
        next: LogIndex,
        parts: impl Iterator<Item = &'a [u8]> + Clone,
    ) {
        self.counters.read_requests += 1;
        let slot = &self.slots[read.slot];
        let head = ReadReplyHead {
            first_available: slot.raft.first_index(),
            commit: if planted!(C04_UNCOMMITTED_READ) {
                slot.raft.last().index
            } else {
                slot.raft.commit()
            },
            next,
        };
        let correlation = read.origin.correlation;
        let mut frame = encode_read_reply_head(correlation, slot.id, &head, parts.clone());
        frame.reserve_exact(parts.clone().map(<[u8]>::len).sum());
        // Copied, not lent: a slice of 300 bytes keeps its whole extent, and a client that does not
        // read its replies would keep the memory that the log needs to be written.
        parts.for_each(|batch| frame.extend_from_slice(batch));
        self.reads.bytes_this_turn += frame.len();
        self.clients.answer_whole(read.origin, frame);
    }
}
