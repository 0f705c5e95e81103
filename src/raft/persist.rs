//! What is durable: the log by writes, the hard state by writes, and what waits for either.
//!
//! Apart because this is where promises come from: every acknowledgement, vote, candidacy and the
//! leader's own match begins in [`Group::persisted`] (H-01, H-03, R-12, C-05; thesis 3.8).
//! Does not: know roles beyond telling them, or what a block is.
//!
//! Durability is counted by write and not by entry. One entry can be written, overwritten and
//! written again, and only the last of the three writes keeps it (I-06):
//!
//! ```text
//! w2 [#2.t1]   w3 [#2.t2]   w4 [#2.t1 #3.t3]      w2 done: #2.t1 is on the disk, but w3 stands
//!                                                 behind it and will erase it. Nothing is claimed
//!                                                 until w4 is done.
//! ```

use std::collections::VecDeque;

use super::role::Role;
use super::{Effect, Effects, Group};
use crate::base::Moment;
use crate::model::{EntryId, HardState, LogIndex, NodeId, Span, Term, WriteSeq};

/// The part of the hard state that is promised; the commit index is only a hint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Promise {
    pub(super) term: Term,
    pub(super) vote: Option<NodeId>,
}

/// A batch of the log that no block carries yet.
#[derive(Clone, Copy, Debug)]
struct Unsubmitted {
    span: Span,
    /// Until it is truncated; then its write says nothing about the log any more.
    live: bool,
    /// How many resets came before it: it is not durable before they are.
    resets: u64,
}

/// What becomes true when a write is durable.
#[derive(Clone, Copy, Debug)]
struct InFlight {
    write: WriteSeq,
    /// Everything up to here is durable then.
    upto: LogIndex,
    resets: u64,
}

/// What is on the disk and what is on its way there. One per group.
#[derive(Debug)]
pub(super) struct Durability {
    /// Everything up to here survives a crash.
    upto: LogIndex,
    /// In order of writes and of indexes.
    in_flight: VecDeque<InFlight>,
    /// In the order in which they entered the log, which is the order of the blocks too.
    unsubmitted: VecDeque<Unsubmitted>,
    /// Snapshots installed that no block carries yet: where, and whether a later one replaced it.
    resets_unsubmitted: VecDeque<(LogIndex, bool)>,
    resets_made: u64,
    resets_submitted: u64,
    /// The promise that survives a crash.
    promise: Promise,
    promises_in_flight: VecDeque<(WriteSeq, Promise)>,
    /// The newest promise that is in a block.
    promise_submitted: Promise,
    /// The newest write known to be durable.
    written: WriteSeq,
}

impl Durability {
    pub(super) fn new(last: LogIndex, promise: Promise) -> Self {
        Self {
            upto: last,
            in_flight: VecDeque::new(),
            unsubmitted: VecDeque::new(),
            resets_unsubmitted: VecDeque::new(),
            resets_made: 0,
            resets_submitted: 0,
            promise,
            promises_in_flight: VecDeque::new(),
            promise_submitted: promise,
            written: WriteSeq::NONE,
        }
    }

    pub(super) fn upto(&self) -> LogIndex {
        self.upto
    }

    pub(super) fn promise(&self) -> Promise {
        self.promise
    }

    /// The log got `span`.
    pub(super) fn appended(&mut self, span: Span) {
        self.unsubmitted.push_back(Unsubmitted { span, live: true, resets: self.resets_made });
    }

    /// The log lost everything from `from` on. Writes on their way no longer vouch for it, even
    /// if the same batch comes back later (I-06).
    pub(super) fn truncated(&mut self, from: LogIndex) {
        let last = from.previous();
        self.upto = self.upto.min(last);
        for write in &mut self.in_flight {
            mark!(I06_WRITE_OF_TRUNCATED_IN_FLIGHT if last < write.upto);
            if !planted!(I06_COMPLETION_OF_TRUNCATED) {
                write.upto = write.upto.min(last);
            }
        }
        for batch in &mut self.unsubmitted {
            mark!(I06_TRUNCATED_BEFORE_ITS_BLOCK if batch.live && from <= batch.span.first);
            batch.live &= batch.span.first < from || planted!(I06_TRUNCATED_STILL_COUNTS);
        }
    }

    /// The log was replaced by a snapshot up to `last`; `kept` says whether the tail stayed.
    pub(super) fn reset(&mut self, last: LogIndex, kept: bool) {
        if !kept {
            self.truncated(LogIndex::BEFORE_FIRST.next());
            for (_, live) in &mut self.resets_unsubmitted {
                *live = false;
            }
        }
        self.resets_unsubmitted.push_back((last, true));
        self.resets_made += 1;
    }

    fn submitted(&mut self, span: Span, write: WriteSeq) {
        let batch = self.unsubmitted.pop_front().expect("only what is in the log is submitted");
        assert_eq!(batch.span, span, "batches are submitted in the order of the log");
        if planted!(I01_SUBMITTED_IS_DURABLE) && batch.live {
            self.upto = self.upto.max(span.last());
        }
        if batch.live {
            self.add(InFlight { write, upto: span.last(), resets: batch.resets });
        }
    }

    fn reset_submitted(&mut self, write: WriteSeq) {
        let (last, live) = self.resets_unsubmitted.pop_front().expect("a reset was asked for");
        self.resets_submitted += 1;
        if live {
            self.add(InFlight { write, upto: last, resets: self.resets_submitted });
        }
    }

    fn add(&mut self, new: InFlight) {
        assert!(self.written < new.write, "{:?} was reported durable too early", new.write);
        match self.in_flight.back_mut() {
            Some(back) if back.write == new.write => {
                back.upto = back.upto.max(new.upto);
                back.resets = back.resets.max(new.resets);
            }
            back => {
                assert!(back.is_none_or(|b| b.write < new.write), "blocks are closed in order");
                self.in_flight.push_back(new);
            }
        }
    }

    fn promise_submitted(&mut self, promise: Promise, write: WriteSeq) {
        assert!(self.written < write, "{write:?} was reported durable before it was submitted");
        self.promise_submitted = promise;
        self.promises_in_flight.push_back((write, promise));
    }

    fn persisted(&mut self, write: WriteSeq) {
        assert!(self.written <= write, "completions are told in order");
        self.written = write;
        while let Some(done) = self.in_flight.front().copied()
            && done.write <= write
        {
            assert!(done.resets <= self.resets_submitted, "{done:?} was written before the reset");
            self.upto = self.upto.max(done.upto);
            self.in_flight.pop_front();
        }
        while let Some((done, promise)) = self.promises_in_flight.front().copied()
            && done <= write
        {
            assert!(self.promise.term <= promise.term, "hard states are written in order");
            self.promise = promise;
            self.promises_in_flight.pop_front();
        }
    }

    pub(super) fn check(&self, last: EntryId) {
        assert!(self.upto <= last.index, "{:?} is durable but the log ends at {last:?}", self.upto);
        assert!(self.in_flight.iter().all(|one| self.written < one.write));
        assert!(self.in_flight.iter().all(|one| one.upto <= last.index));
        assert!(self.promise.term <= self.promise_submitted.term);
    }
}

impl Group {
    /// The hard state to write. Its commit index is only as high as what is durable, so that a
    /// recovered one never lies behind the recovered log (H-07).
    pub fn hard_state(&self) -> HardState {
        let vote = if planted!(H02_VOTE_NOT_WRITTEN) { None } else { self.vote };
        mark!(H07_COMMIT_HINT_LIMITED if self.durability.upto() < self.commit);
        let durable = self.durability.upto();
        let is_free = planted!(H07_COMMIT_BEYOND_LOG);
        let commit = if is_free { self.commit } else { self.commit.min(durable) };
        HardState { term: self.term, vote, commit }
    }

    /// Whether the hard state must go into the next block (H-03).
    pub fn hard_state_dirty(&self) -> bool {
        self.durability.promise_submitted != self.own_promise()
    }

    /// Tells that the current hard state is in block `write`. To be called before anything else
    /// can change it, and for a write at or before that of any later entry (H-03).
    pub fn hard_state_submitted(&mut self, write: WriteSeq) {
        self.durability.promise_submitted(self.own_promise(), write);
    }

    /// Tells that the batch `span` is in block `write`.
    ///
    /// To be called once for every batch that entered the log ([`super::AppendVerdict::New`] and
    /// [`Group::propose`]), in that order, also for those that were truncated meanwhile: their
    /// writes are recognised and prove nothing.
    ///
    /// # Panics
    /// If one was left out: the disk would have a hole.
    pub fn submitted(&mut self, span: Span, write: WriteSeq) {
        self.durability.submitted(span, write);
    }

    /// Tells that the log reset that [`Effect::Installed`] asked for is in block `write`; once for
    /// each, in order, and for a write at or before that of any batch appended after it.
    pub fn reset_submitted(&mut self, write: WriteSeq) {
        self.durability.reset_submitted(write);
    }

    /// Tells that block `write` and every earlier one of this shard survived a flush.
    ///
    /// The only place where promises of durability are born: votes and candidacies (H-01), own
    /// match of a leader (R-12, C-05), and what [`Group::flush`] will acknowledge.
    pub fn persisted(&mut self, now: Moment, write: WriteSeq, fx: &mut Effects) {
        self.clock(now);
        self.durability.persisted(write);
        if self.promise_is_durable() {
            for envelope in self.held.drain(..) {
                mark!(H01_HELD_MESSAGE_LEAVES);
                fx.push(Effect::Send(envelope));
            }
            self.count_own_vote(now, fx);
        }
        let durable = self.durability.upto();
        match &mut self.role {
            Role::Follower(follower) => {
                // Durable is not enough. Only what this leader has vouched for may be acknowledged
                // to it, or a dead leader's tail would count towards the living one's quorum.
                follower.ack_due |= follower.acked < durable.min(follower.vouched);
            }
            Role::Leader(_) => self.advance_commit(fx),
            Role::PreCandidate(_) | Role::Candidate(_) => {}
        }
    }

    pub(super) fn own_promise(&self) -> Promise {
        Promise { term: self.term, vote: self.vote }
    }

    /// Whether everything that this replica promises at present would survive a crash (H-01).
    pub(super) fn promise_is_durable(&self) -> bool {
        let (durable, own) = (self.durability.promise(), self.own_promise());
        durable == own || (planted!(H01_VOTE_NOT_AWAITED) && durable.term == own.term)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RecordCount;

    fn span(first: u64, count: u32, term: u64) -> Span {
        let (term, first) = (Term::new(term), LogIndex::new(first));
        Span { term, first, count: RecordCount::new(count) }
    }

    fn write(seq: u64) -> WriteSeq {
        WriteSeq::new(seq)
    }

    fn fresh() -> Durability {
        Durability::new(LogIndex::BEFORE_FIRST, Promise::default())
    }

    #[test]
    fn a_write_vouches_for_what_it_and_its_predecessors_hold() {
        let mut durability = fresh();
        for (at, count) in [(1, 2), (3, 1), (4, 5)] {
            durability.appended(span(at, count, 1));
        }
        durability.submitted(span(1, 2, 1), write(1));
        durability.submitted(span(3, 1, 1), write(2));
        durability.persisted(write(1));
        assert_eq!(durability.upto(), LogIndex::new(2));
        durability.submitted(span(4, 5, 1), write(3));
        durability.persisted(write(3));
        assert_eq!(durability.upto(), LogIndex::new(8));
    }

    #[test]
    fn a_batch_truncated_before_its_block_was_closed_proves_nothing() {
        let mut durability = fresh();
        durability.appended(span(1, 1, 1));
        durability.truncated(LogIndex::new(1));
        durability.appended(span(1, 1, 2));
        durability.truncated(LogIndex::new(1));
        durability.appended(span(1, 1, 1));
        // The first and the third are the same batch; only the third is in the log.
        durability.submitted(span(1, 1, 1), write(1));
        durability.submitted(span(1, 1, 2), write(2));
        durability.submitted(span(1, 1, 1), write(3));
        durability.persisted(write(2));
        assert_eq!(durability.upto(), LogIndex::BEFORE_FIRST);
        durability.persisted(write(3));
        assert_eq!(durability.upto(), LogIndex::new(1));
    }

    #[test]
    #[should_panic(expected = "in the order of the log")]
    fn a_batch_that_was_left_out_is_noticed() {
        let mut durability = fresh();
        durability.appended(span(1, 1, 1));
        durability.appended(span(2, 1, 1));
        durability.submitted(span(2, 1, 1), write(1));
    }

    #[test]
    #[should_panic(expected = "before the reset")]
    fn a_batch_behind_a_reset_needs_the_reset() {
        let mut durability = fresh();
        durability.reset(LogIndex::new(9), false);
        durability.appended(span(10, 1, 1));
        durability.submitted(span(10, 1, 1), write(1));
        durability.persisted(write(1));
    }
}
