//! One group's log as the blocks of a shard describe it: what each block does to it, in the order
//! of the log, and where its batches lie.
//!
//! Apart because this is the one set of rules for replay at start and for the running shard: both
//! feed every block through the same functions, so what is in memory is what a restart would find.
//! Does not: read bytes or know blocks of other groups.
//!
//! Rules: only a batch with a *different* term truncates, one equal in (term, first) is the same
//! batch in a newer place (R-02, W-14); terms never go down along a log; nothing at or below a
//! known commit index is ever truncated; a batch's term is in the hard state first (H-03).

use core::fmt;
use std::collections::{BTreeMap, VecDeque};

use super::format::DirectoryEntry;
use super::record::{GroupCheckpoint, LogReset, TermRun};
use super::{Lsn, SegmentNo};
use crate::model::{
    BatchKind, EntryId, GroupId, HardState, LogIndex, Membership, ReplicaId, Span, Term,
};

/// Why a block cannot follow what came before it. At a start this is corruption; while the shard
/// runs it is our own mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The group it concerns.
    pub group: GroupId,
    /// What is wrong.
    pub kind: FaultKind,
}

/// What is wrong with a block's effect on a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Nothing has introduced this group: no checkpoint, no log reset.
    UnknownGroup,
    /// It names another replica than the group has.
    Replica {
        /// The group's.
        expected: ReplicaId,
        /// The block's.
        found: ReplicaId,
    },
    /// A batch leaves a hole behind the log's last entry.
    Gap {
        /// The last entry.
        last: LogIndex,
        /// Where the batch begins.
        found: LogIndex,
    },
    /// A batch has a smaller term than the entry before it, or a larger one than the hard state
    /// (H-03).
    Term {
        /// The smallest and largest term allowed.
        allowed: (Term, Term),
        /// The batch's.
        found: Term,
    },
    /// A batch overlaps one of the same term without being the same (Log Matching).
    Overlap {
        /// The batch.
        found: Span,
    },
    /// A batch truncates what is known to be committed.
    BelowCommit {
        /// The known commit index.
        commit: LogIndex,
        /// Where the batch begins.
        found: LogIndex,
    },
    /// A hard state takes back a term or a vote.
    HardState {
        /// What was known.
        before: HardState,
        /// What the record says.
        found: HardState,
    },
    /// A checkpoint contradicts the blocks before it.
    Checkpoint {
        /// The last entry that those blocks give.
        expected: EntryId,
        /// What the checkpoint says.
        found: EntryId,
    },
    /// A configuration batch does not carry a configuration.
    Configuration {
        /// Its index.
        found: LogIndex,
    },
    /// The hard state's commit index lies above the last entry (H-07).
    CommitBeyondLog {
        /// The commit index.
        commit: LogIndex,
        /// The last entry.
        last: LogIndex,
    },
    /// Entries above the base are in no block that is left.
    Missing {
        /// The first such index.
        from: LogIndex,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "group {}: ", self.group)?;
        match &self.kind {
            FaultKind::UnknownGroup => f.write_str("nothing has introduced it"),
            FaultKind::Replica { expected, found } => {
                write!(f, "replica is {found}, expected {expected}")
            }
            FaultKind::Gap { last, found } => {
                write!(f, "batch begins at {found}, the log ends at {last}")
            }
            FaultKind::Term { allowed: (low, high), found } => {
                write!(f, "batch of term {found}, expected {low} to {high}")
            }
            FaultKind::Overlap { found } => write!(
                f,
                "batch of term {} at {} overlaps another of its term",
                found.term, found.first
            ),
            FaultKind::BelowCommit { commit, found } => {
                write!(f, "batch at {found} truncates entries committed up to {commit}")
            }
            FaultKind::HardState { before, found } => write!(
                f,
                "hard state goes back from term {} to term {} or changes its vote",
                before.term, found.term
            ),
            FaultKind::Checkpoint { expected, found } => {
                write!(f, "checkpoint ends at {found:?}, the blocks before it at {expected:?}")
            }
            FaultKind::Configuration { found } => write!(f, "no configuration in batch {found}"),
            FaultKind::CommitBeyondLog { commit, last } => {
                write!(f, "commit index {commit} lies above the last entry {last}")
            }
            FaultKind::Missing { from } => write!(f, "entry {from} is in no block that is left"),
        }
    }
}

/// A batch with its exact place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlacedBatch {
    /// Term and indexes.
    pub span: Span,
    /// What it carries.
    pub kind: BatchKind,
    /// Its bytes, header included.
    pub bytes: u32,
    /// The block it lies in.
    pub block: Lsn,
    /// Where in that block.
    pub offset: u32,
}

/// A consecutive part of the log that lies in one segment, its batches in order of position.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) last: LogIndex,
    pub(super) segment: SegmentNo,
    /// About how many bytes its batches have; exact until a part of it is cut off.
    pub(super) bytes: u64,
    /// Ascending; the first one's index is the piece's. A batch is found by reading forward from
    /// the block of the last point at or below it.
    pub(super) points: Vec<(LogIndex, Lsn)>,
    /// The newest block of the piece.
    pub(super) newest: Lsn,
}

/// One group's log. See the file's comment.
#[derive(Clone, Debug)]
pub(super) struct GroupLog {
    pub(super) group: GroupId,
    pub(super) replica: ReplicaId,
    pub(super) hard_state: HardState,
    pub(super) base: EntryId,
    pub(super) base_membership: Membership,
    pub(super) last: EntryId,
    /// Terms of (base, last], ascending, the first run beginning at base + 1.
    pub(super) runs: Vec<TermRun>,
    /// Configurations above the base, ascending.
    pub(super) memberships: Vec<(LogIndex, Membership)>,
    /// By first index; disjoint.
    pub(super) pieces: BTreeMap<LogIndex, Piece>,
    /// The newest batches with their exact places: consecutive, ending at `last`, or empty.
    pub(super) dense: VecDeque<PlacedBatch>,
}

impl GroupLog {
    pub(super) fn new(checkpoint: &GroupCheckpoint) -> Self {
        Self {
            group: checkpoint.group,
            replica: checkpoint.replica,
            hard_state: checkpoint.hard_state,
            base: checkpoint.base,
            base_membership: checkpoint.base_membership.clone(),
            last: checkpoint.last,
            runs: Vec::new(),
            memberships: Vec::new(),
            pieces: BTreeMap::new(),
            dense: VecDeque::new(),
        }
    }

    fn fault(&self, kind: FaultKind) -> Fault {
        Fault { group: self.group, kind }
    }

    /// The term of `index`, for the base and everything above it in the log.
    pub(super) fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        if index < self.base.index || index > self.last.index {
            return None;
        }
        let run = self.runs.partition_point(|run| run.first <= index);
        Some(self.runs[run.checked_sub(1)?].term)
    }

    /// The configuration as of `index`.
    fn membership_at(&self, index: LogIndex) -> &Membership {
        let at = self.memberships.partition_point(|(i, _)| *i <= index);
        at.checked_sub(1).map_or(&self.base_membership, |at| &self.memberships[at].1)
    }

    /// Takes a hard state (H-02). Within a term a vote is given once.
    pub(super) fn on_hard_state(
        &mut self,
        replica: ReplicaId,
        found: HardState,
    ) -> Result<(), Fault> {
        self.check_replica(replica)?;
        let before = self.hard_state;
        let takes_back = found.term < before.term
            || (found.term == before.term && before.vote.is_some() && found.vote != before.vote);
        if takes_back {
            return Err(self.fault(FaultKind::HardState { before, found }));
        }
        self.hard_state = found;
        Ok(())
    }

    fn check_replica(&self, found: ReplicaId) -> Result<(), Fault> {
        let expected = self.replica;
        if found == expected {
            Ok(())
        } else {
            Err(self.fault(FaultKind::Replica { expected, found }))
        }
    }

    /// Takes a batch that a block at `block` of `segment` lists.
    pub(super) fn on_batch(
        &mut self,
        entry: &DirectoryEntry,
        membership: Option<Membership>,
        block: Lsn,
        segment: SegmentNo,
    ) -> Result<(), Fault> {
        self.check_replica(entry.replica)?;
        let span = entry.span;
        if span.last() <= self.base.index {
            return Ok(()); // trimmed meanwhile
        }
        if span.first > self.last.index.next() {
            let last = self.last.index;
            return Err(self.fault(FaultKind::Gap { last, found: span.first }));
        }
        let placed =
            PlacedBatch { span, kind: entry.kind, bytes: entry.bytes, block, offset: entry.offset };
        // The first entry of the batch that this log has or had: `base` may lie inside it.
        let first = span.first.max(self.base.index.next());
        if first <= self.last.index {
            if self.term_at(first) == Some(span.term) && !planted!(W14_SAME_BATCH_TRUNCATES) {
                mark!(W14_SAME_BATCH_MOVES);
                return self.on_same_batch(placed, segment);
            }
            mark!(W14_OTHER_TERM_TRUNCATES);
            self.truncate(first)?;
        }
        let allowed = (self.last.term, self.hard_state.term);
        if span.term < allowed.0 || span.term > allowed.1 {
            return Err(self.fault(FaultKind::Term { allowed, found: span.term }));
        }
        if entry.kind == BatchKind::Configuration {
            let Some(membership) = membership else {
                return Err(self.fault(FaultKind::Configuration { found: span.first }));
            };
            self.memberships.push((span.first, membership));
        }
        if self.runs.last().is_none_or(|run| run.term != span.term) {
            self.runs.push(TermRun { term: span.term, first });
        }
        self.last = span.last_entry();
        self.dense.push_back(placed);
        self.insert_piece(first, &placed, segment);
        Ok(())
    }

    /// The same (term, first) again: the same batch, lying in a newer place now.
    fn on_same_batch(&mut self, placed: PlacedBatch, segment: SegmentNo) -> Result<(), Fault> {
        let span = placed.span;
        let first = span.first.max(self.base.index.next());
        if span.last() > self.last.index || self.term_at(span.last()) != Some(span.term) {
            return Err(self.fault(FaultKind::Overlap { found: span }));
        }
        match self.dense.front().map(|front| front.span.first) {
            Some(front) if front <= span.first => {
                let at = self.dense.partition_point(|batch| batch.span.first < span.first);
                match self.dense.get_mut(at) {
                    Some(known) if known.span == span => *known = placed,
                    _ => return Err(self.fault(FaultKind::Overlap { found: span })),
                }
            }
            Some(front) if span.last().next() == front => self.dense.push_front(placed),
            None if span.last() == self.last.index => self.dense.push_back(placed),
            _ => {}
        }
        self.carve(first, span.last());
        self.insert_piece(first, &placed, segment);
        Ok(())
    }

    /// Drops everything from `from` on, because a batch of another term stands there.
    fn truncate(&mut self, from: LogIndex) -> Result<(), Fault> {
        if from <= self.hard_state.commit {
            let commit = self.hard_state.commit;
            return Err(self.fault(FaultKind::BelowCommit { commit, found: from }));
        }
        while let Some(batch) = self.dense.back()
            && batch.span.last() >= from
        {
            if batch.span.first < from {
                // The batch is the atom: no log has another term in the middle of it.
                return Err(self.fault(FaultKind::Overlap { found: batch.span }));
            }
            self.dense.pop_back();
        }
        self.carve(from, self.last.index);
        self.memberships.retain(|(index, _)| *index < from);
        self.runs.retain(|run| run.first < from);
        let before = from.previous();
        let term = self.term_at(before).expect("the log reaches back to its base");
        self.last = EntryId::new(term, before);
        Ok(())
    }

    /// Starts the log anew behind a snapshot (S-04, S-05).
    pub(super) fn on_reset(&mut self, reset: &LogReset) -> Result<(), Fault> {
        self.check_replica(reset.replica)?;
        let last = reset.last;
        if last.index < self.base.index {
            let expected = self.base;
            return Err(self.fault(FaultKind::Checkpoint { expected, found: last }));
        }
        if reset.keep_tail && self.term_at(last.index) == Some(last.term) {
            self.set_base(last, reset.membership.clone());
            return Ok(());
        }
        mark!(S04_RESET_DROPS_LOG);
        self.base = last;
        self.base_membership = reset.membership.clone();
        self.last = last;
        self.runs.clear();
        self.memberships.clear();
        self.pieces.clear();
        self.dense.clear();
        Ok(())
    }

    /// Raises the base to `base`, an entry of this log: everything up to it is dead.
    pub(super) fn trim(&mut self, base: EntryId) {
        assert!(self.base.index <= base.index && base.index <= self.last.index, "{base:?}");
        assert!(self.term_at(base.index) == Some(base.term), "{base:?} is not in the log");
        let membership = self.membership_at(base.index).clone();
        self.set_base(base, membership);
    }

    fn set_base(&mut self, base: EntryId, membership: Membership) {
        if self.base.index < base.index {
            self.carve(self.base.index.next(), base.index);
        }
        while self.dense.front().is_some_and(|batch| batch.span.last() <= base.index) {
            self.dense.pop_front();
        }
        self.memberships.retain(|(index, _)| *index > base.index);
        // The run that holds base + 1 now begins there.
        let next = base.index.next();
        let keep = self.runs.partition_point(|run| run.first <= next);
        self.runs.drain(..keep.saturating_sub(1));
        if next > self.last.index {
            self.runs.clear();
        } else if let Some(run) = self.runs.first_mut() {
            run.first = next;
        }
        self.base = base;
        self.base_membership = membership;
        if self.last.index == base.index {
            self.last = base;
        }
    }

    /// A checkpoint of this group behind blocks that were replayed: it may only raise the base.
    pub(super) fn on_checkpoint(&mut self, found: &GroupCheckpoint) -> Result<(), Fault> {
        self.check_replica(found.replica)?;
        if found.hard_state != self.hard_state {
            let before = self.hard_state;
            return Err(self.fault(FaultKind::HardState { before, found: found.hard_state }));
        }
        let known = found.base.index >= self.base.index
            && self.term_at(found.base.index) == Some(found.base.term);
        if found.last != self.last || !known {
            let expected = self.last;
            return Err(self.fault(FaultKind::Checkpoint { expected, found: found.last }));
        }
        self.set_base(found.base, found.base_membership.clone());
        Ok(())
    }

    /// Removes `first..=last` from the pieces, splitting one if it must.
    fn carve(&mut self, first: LogIndex, last: LogIndex) {
        while let Some((start, mut piece)) =
            self.pieces.range(..=last).next_back().map(|(start, piece)| (*start, piece.clone()))
        {
            if piece.last < first {
                break;
            }
            self.pieces.remove(&start);
            if piece.last > last {
                let right = piece.split_off(start, last.next());
                self.pieces.insert(last.next(), right);
            }
            if start < first {
                let _cut = piece.split_off(start, first);
                self.pieces.insert(start, piece);
                break;
            }
        }
    }

    /// Adds the part of `placed` from `first` on to the pieces; nothing may lie there.
    fn insert_piece(&mut self, first: LogIndex, placed: &PlacedBatch, segment: SegmentNo) {
        let last = placed.span.last();
        let before = self.pieces.range_mut(..first).next_back();
        if let Some((_, piece)) = before
            && piece.segment == segment
            && piece.last.next() == first
            && piece.newest <= placed.block
        {
            piece.extend(first, placed);
            return;
        }
        let piece = Piece {
            last,
            segment,
            bytes: u64::from(placed.bytes),
            points: vec![(first, placed.block)],
            newest: placed.block,
        };
        self.pieces.insert(first, piece);
    }

    /// The first index above the base that is in no piece, if any.
    pub(super) fn first_missing(&self) -> Option<LogIndex> {
        let mut next = self.base.index.next();
        for (start, piece) in &self.pieces {
            if *start > next {
                return Some(next);
            }
            next = piece.last.next();
        }
        (next <= self.last.index).then_some(next)
    }

    /// Facts that must hold once a log is complete (H-07, islands joined up).
    pub(super) fn check_complete(&self) -> Result<(), Fault> {
        let (commit, last) = (self.hard_state.commit, self.last.index);
        if commit > last {
            return Err(self.fault(FaultKind::CommitBeyondLog { commit, last }));
        }
        match self.first_missing() {
            Some(from) => Err(self.fault(FaultKind::Missing { from })),
            None => Ok(()),
        }
    }

    /// Forgets the exact places of batches in blocks below `lsn`.
    pub(super) fn forget_places_below(&mut self, lsn: Lsn) {
        // Rewritten batches make places go up and down; what stays must be consecutive.
        let keep_from = self.dense.iter().rposition(|batch| batch.block < lsn);
        self.dense.drain(..keep_from.map_or(0, |at| at + 1));
    }

    /// The piece that holds `index`, and the piece's first index.
    pub(super) fn piece_of(&self, index: LogIndex) -> Option<(LogIndex, &Piece)> {
        let (start, piece) = self.pieces.range(..=index).next_back()?;
        (index <= piece.last).then_some((*start, piece))
    }

    /// The exact place of the batch that holds `index`, if it is recent.
    pub(super) fn place_of(&self, index: LogIndex) -> Option<&PlacedBatch> {
        let at = self.dense.partition_point(|batch| batch.span.last() < index);
        self.dense.get(at).filter(|batch| batch.span.contains(index))
    }

    /// The checkpoint of this group.
    pub(super) fn checkpoint(&self) -> GroupCheckpoint {
        GroupCheckpoint {
            group: self.group,
            replica: self.replica,
            hard_state: checkpointed(self.hard_state),
            base: self.base,
            base_membership: self.base_membership.clone(),
            last: self.last,
        }
    }
}

/// The hard state goes into every opening, or it would die with the segment of its record (W-13).
fn checkpointed(state: HardState) -> HardState {
    let vote = if planted!(W13_CHECKPOINT_WITHOUT_VOTE) { None } else { state.vote };
    HardState { vote, ..state }
}

impl Piece {
    /// The distance between two points of a piece: what a reader may have to read in vain.
    pub(super) const POINT_EVERY_BYTES: u64 = 1 << 20;

    /// A block at or below the batch that holds `index`, which is in this piece.
    pub(super) fn point_of(&self, index: LogIndex) -> Lsn {
        let at = self.points.partition_point(|(first, _)| *first <= index);
        self.points[at - 1].1
    }

    fn extend(&mut self, first: LogIndex, placed: &PlacedBatch) {
        let (_, newest_point) = *self.points.last().expect("a piece has a point");
        if placed.block.bytes_since(newest_point) >= Self::POINT_EVERY_BYTES {
            self.points.push((first, placed.block));
        }
        self.last = placed.span.last();
        self.bytes += u64::from(placed.bytes);
        self.newest = placed.block;
    }

    /// Splits the piece, which begins at `start`, so that `self` ends before `at`.
    fn split_off(&mut self, start: LogIndex, at: LogIndex) -> Self {
        let cut = self.points.partition_point(|(first, _)| *first <= at);
        let mut points = vec![(at, self.points[cut - 1].1)];
        points.extend_from_slice(&self.points[cut..]);
        self.points.truncate(cut);
        if self.points.last().is_some_and(|(first, _)| *first >= at && *first > start) {
            self.points.pop();
        }
        let records = self.last.next().records_since(start);
        let right_records = self.last.next().records_since(at);
        let right_bytes = self.bytes / records.max(1) * right_records;
        let right = Self {
            last: self.last,
            segment: self.segment,
            bytes: right_bytes,
            points,
            newest: self.newest,
        };
        self.last = at.previous();
        self.bytes -= right_bytes;
        right
    }
}

#[cfg(test)]
mod tests;
