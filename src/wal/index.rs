//! The index: for every group of a shard what its log is and where its batches lie.
//!
//! One per shard. Fed every block in the order of the log: by recovery with what it reads, by the
//! running shard with what it places ([`Index::note_block`]). So a checkpoint can be written from
//! it at any block boundary, and says exactly what replaying everything before would give.
//!
//! Does not: read. [`Index::locate`] says from which block to read forward; what is there is
//! checked by (term, first) and checksum (W-15). Knows blocks that are placed and not durable
//! yet: only what lies below `Planner::durable_lsn` can be read back.
//!
//! Memory: exact places for batches of the last two segments, 24 bytes per MiB, group and segment
//! before that, plus the term boundaries of every log.

use std::collections::BTreeMap;

use super::format::{BlockView, DirectoryEntry, parse_block};
use super::group_log::{Fault, FaultKind, GroupLog, PlacedBatch};
use super::planner::OpeningPlan;
use super::record::{
    GroupCheckpoint, LogReset, Record, SegmentOpen, TERM_RUNS_PER_RECORD_MAX, TermRun,
};
use super::{Geometry, Identity, Lsn, SegmentNo};
use crate::model::batch::{decode_membership, record_at};
use crate::model::{
    BatchKind, EntryId, GroupId, HardState, LogIndex, Membership, ReplicaId, Span, Term,
};

/// Where to read for a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located {
    /// The file.
    pub segment: SegmentNo,
    /// A block at or before the one with the batch, in that segment: read on from here, block by
    /// block, until a directory lists the group with an entry that contains the wanted index and
    /// has the term [`Index::term_at`] gives.
    pub block: Lsn,
    /// The exact place, if the batch is recent.
    pub batch: Option<PlacedBatch>,
    /// From this index on, at or before the wanted one, batches lie in this segment in the order of
    /// their indexes: none lies before one with a smaller index.
    pub since: LogIndex,
    /// Up to this index the log goes on in this segment; locate again behind it.
    pub until: LogIndex,
}

/// What the shard's group starts from (the raft room's `Recovered`, and the bytes' places).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredGroup {
    /// Which group.
    pub group: GroupId,
    /// Its replica here.
    pub replica: ReplicaId,
    /// The newest hard state.
    pub hard_state: HardState,
    /// The entry just before the first one kept.
    pub base: EntryId,
    /// The configuration as of `base`.
    pub base_membership: Membership,
    /// The last entry.
    pub last: EntryId,
    /// Terms of (base, last]: exact for every index.
    pub runs: Vec<TermRun>,
    /// The newest batches, consecutive up to `last`, with the bytes of the whole batch. What lies
    /// between `base` and the first of them is known by its terms and found with
    /// [`Index::locate`].
    pub spans: Vec<(Span, BatchKind, u32)>,
    /// Configurations in the log above `base`.
    pub memberships: Vec<(LogIndex, Membership)>,
}

/// All logs of a shard and where they lie.
#[derive(Clone, Debug)]
pub struct Index {
    geometry: Geometry,
    groups: BTreeMap<GroupId, GroupLog>,
    /// While the first opening of a replay is read: its groups are taken as they are.
    loading: bool,
}

impl Index {
    /// An index of no groups.
    pub fn new(geometry: Geometry) -> Self {
        geometry.check();
        Self { geometry, groups: BTreeMap::new(), loading: false }
    }

    /// Introduces a group with an empty log and its first configuration. Durable with the next
    /// opening: so before the boot opening, or followed by a roll.
    ///
    /// # Panics
    /// If the group is there already.
    pub fn create_group(&mut self, group: GroupId, replica: ReplicaId, membership: Membership) {
        let fresh = GroupLog::new(&GroupCheckpoint {
            group,
            replica,
            hard_state: HardState::default(),
            base: EntryId::BEFORE_FIRST,
            base_membership: membership,
            last: EntryId::BEFORE_FIRST,
        });
        assert!(self.groups.insert(group, fresh).is_none(), "{group:?} exists");
    }

    /// The groups it knows, ascending.
    pub fn groups(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.groups.keys().copied()
    }

    /// Takes a block that the shard has just placed, before the next one is.
    ///
    /// # Panics
    /// If it is not a block at `lsn`, or cannot follow what came before it: both our mistakes.
    pub fn note_block(&mut self, bytes: &[u8], lsn: Lsn, identity: &Identity) {
        let block = parse_block(bytes, lsn, identity).expect("a block of our own making");
        if let Err(fault) = self.apply(&block) {
            panic!("the block placed at {lsn:?} contradicts the log: {fault}");
        }
    }

    /// Takes the next block of the log: its records in order, then its batches.
    ///
    /// # Errors
    /// If it cannot follow what came before it. The index is of no use any more then.
    pub(super) fn apply(&mut self, block: &BlockView<'_>) -> Result<(), Fault> {
        for record in block.records() {
            self.apply_record(record)?;
        }
        let segment = self.geometry.segment_of(block.lsn());
        for entry in block.entries() {
            let membership = (entry.kind == BatchKind::Configuration)
                .then(|| membership_of(block, &entry))
                .flatten();
            let log = self.group_mut(entry.group)?;
            log.on_batch(&entry, membership, block.lsn(), segment)?;
        }
        Ok(())
    }

    fn group_mut(&mut self, group: GroupId) -> Result<&mut GroupLog, Fault> {
        self.groups.get_mut(&group).ok_or(Fault { group, kind: FaultKind::UnknownGroup })
    }

    fn apply_record(&mut self, record: Record) -> Result<(), Fault> {
        match record {
            Record::SegmentOpen(open) => {
                if open.part == 0 {
                    self.forget_old_places(self.geometry.segment_of(open.void.to));
                }
                Ok(())
            }
            Record::HardState { group, replica, state } => {
                self.group_mut(group)?.on_hard_state(replica, state)
            }
            Record::LogReset(reset) => self.apply_reset(&reset),
            Record::Group(checkpoint) => self.apply_checkpoint(&checkpoint),
            Record::TermRuns { group, runs } => {
                if self.loading {
                    self.group_mut(group)?.runs.extend(runs);
                }
                Ok(())
            }
            Record::Membership { group, index, membership } => {
                if self.loading {
                    self.group_mut(group)?.memberships.push((index, membership));
                }
                Ok(())
            }
        }
    }

    /// A log reset introduces a group that nothing has introduced before.
    fn apply_reset(&mut self, reset: &LogReset) -> Result<(), Fault> {
        let log = self.groups.entry(reset.group).or_insert_with(|| {
            GroupLog::new(&GroupCheckpoint {
                group: reset.group,
                replica: reset.replica,
                hard_state: HardState::default(),
                base: EntryId::BEFORE_FIRST,
                base_membership: reset.membership.clone(),
                last: EntryId::BEFORE_FIRST,
            })
        });
        log.on_reset(reset)
    }

    fn apply_checkpoint(&mut self, found: &GroupCheckpoint) -> Result<(), Fault> {
        match self.groups.get_mut(&found.group) {
            Some(log) => log.on_checkpoint(found),
            // Behind the first opening a checkpoint may introduce a group, but only an empty one.
            None if self.loading || found.last == found.base => {
                self.groups.insert(found.group, GroupLog::new(found));
                Ok(())
            }
            None => Err(Fault { group: found.group, kind: FaultKind::UnknownGroup }),
        }
    }

    /// Between `begin_loading` and `end_loading` the checkpoint of the first opening is taken as
    /// the whole truth about everything before it.
    pub(super) fn begin_loading(&mut self) {
        assert!(self.groups.is_empty(), "loading comes first");
        self.loading = true;
    }

    /// Ends loading; the checkpoint must be consistent in itself.
    pub(super) fn end_loading(&mut self) -> Result<(), Fault> {
        self.loading = false;
        for log in self.groups.values() {
            let expected_first = log.base.index.next();
            let sound = log.runs.is_sorted_by(|a, b| a.term < b.term && a.first < b.first)
                && match (log.runs.first(), log.runs.last()) {
                    (Some(first), Some(last)) => {
                        first.first == expected_first
                            && log.base.term <= first.term
                            && last.term == log.last.term
                            && last.first <= log.last.index
                    }
                    _ => log.base == log.last,
                }
                && log.memberships.is_sorted_by(|a, b| a.0 < b.0)
                && log
                    .memberships
                    .iter()
                    .all(|(index, _)| log.base.index < *index && *index <= log.last.index);
            if !sound {
                let kind = FaultKind::Checkpoint { expected: log.base, found: log.last };
                return Err(Fault { group: log.group, kind });
            }
        }
        Ok(())
    }

    /// Whether the first opening is being read.
    pub(super) fn is_loading(&self) -> bool {
        self.loading
    }

    /// Exact places are kept for the segment before `segment` and everything newer.
    fn forget_old_places(&mut self, segment: SegmentNo) {
        let keep_from = self.geometry.start_of(SegmentNo(segment.0.saturating_sub(1)));
        for log in self.groups.values_mut() {
            log.forget_places_below(keep_from);
        }
    }

    /// Verifies that every log is complete: no hole, no commit index beyond its end (H-07).
    ///
    /// # Errors
    /// The first fault found.
    pub(super) fn check_complete(&self) -> Result<(), Fault> {
        self.groups.values().try_for_each(GroupLog::check_complete)
    }

    /// Where the batch of `group` that holds `from` lies; `None` if it is not in the log here.
    pub fn locate(&self, group: GroupId, from: LogIndex) -> Option<Located> {
        let log = self.groups.get(&group)?;
        if from <= log.base.index {
            return None;
        }
        let (start, piece) = log.piece_of(from)?;
        let (since, until) = (start, piece.last);
        let place = log.place_of(from);
        let block = place.map_or_else(|| piece.point_of(from), |place| place.block);
        let segment = self.geometry.segment_of(block);
        Some(Located { segment, block, batch: place.copied(), since, until })
    }

    /// The term of `index` in the log of `group`, its base included.
    pub fn term_at(&self, group: GroupId, index: LogIndex) -> Option<Term> {
        self.groups.get(&group)?.term_at(index)
    }

    /// The entry just before the first one kept.
    pub fn base(&self, group: GroupId) -> Option<EntryId> {
        self.groups.get(&group).map(|log| log.base)
    }

    /// The last entry in placed blocks.
    pub fn last(&self, group: GroupId) -> Option<EntryId> {
        self.groups.get(&group).map(|log| log.last)
    }

    /// `state` with its commit index lowered to what placed blocks hold, so that a crash can never
    /// leave a commit index above the log's end (H-07). Use it for every hard-state record.
    #[must_use]
    pub fn clamped(&self, group: GroupId, state: HardState) -> HardState {
        let last = self.last(group).map_or(LogIndex::BEFORE_FIRST, |last| last.index);
        let is_free = planted!(H07_COMMIT_BEYOND_LOG);
        let commit = if is_free { state.commit } else { state.commit.min(last) };
        HardState { commit, ..state }
    }

    /// Raises the base of `group` to `base`, a committed entry at the end of a batch. Durable with
    /// the next opening, which is when segments become recyclable.
    ///
    /// # Panics
    /// If `base` is not in the log.
    pub fn trim(&mut self, group: GroupId, base: EntryId) {
        self.groups.get_mut(&group).expect("a group of this shard").trim(base);
    }

    /// Bytes of the batches of `group` that are kept, about.
    pub fn live_bytes(&self, group: GroupId) -> u64 {
        self.groups.get(&group).map_or(0, |log| log.pieces.values().map(|piece| piece.bytes).sum())
    }

    /// What the shard's groups start from, ascending.
    pub fn recovered(&self) -> Vec<RecoveredGroup> {
        self.groups.values().map(recovered_group).collect()
    }

    /// The records of an opening, a list per block: each list fits into a block of
    /// `block_bytes_max` and goes into a block of its own, in order, nothing between them.
    pub fn opening(&self, plan: &OpeningPlan) -> Vec<Vec<Record>> {
        let capacity = self.geometry.block_bytes_max as usize - super::format::BLOCK_HEADER_BYTES;
        let oldest = self.oldest_live_segment().unwrap_or(plan.segment).min(plan.segment);
        let open = SegmentOpen {
            part: 0,
            parts: 1,
            window_bytes: plan.window_bytes,
            segment_bytes: self.geometry.segment_bytes,
            void: plan.void,
            oldest,
        };
        let mut scratch = Vec::new();
        let mut size_of = |record: &Record| {
            scratch.clear();
            record.encode(&mut scratch);
            scratch.len()
        };
        let open_bytes = size_of(&Record::SegmentOpen(open));
        let mut parts: Vec<Vec<Record>> = vec![vec![Record::SegmentOpen(open)]];
        let mut used = open_bytes;
        for record in self.groups.values().flat_map(checkpoint_records) {
            let bytes = size_of(&record);
            if used + bytes > capacity {
                parts.push(vec![Record::SegmentOpen(open)]);
                used = open_bytes;
            }
            used += bytes;
            parts.last_mut().expect("never empty").push(record);
        }
        let count = u32::try_from(parts.len()).expect("far fewer than blocks in a segment");
        for (part, records) in (0..).zip(&mut parts) {
            records[0] = Record::SegmentOpen(SegmentOpen { part, parts: count, ..open });
        }
        parts
    }

    /// The oldest segment that holds a live batch, if there is any.
    pub fn oldest_live_segment(&self) -> Option<SegmentNo> {
        self.groups.values().flat_map(|log| log.pieces.values().map(|piece| piece.segment)).min()
    }

    pub(super) fn logs(&self) -> impl Iterator<Item = &GroupLog> {
        self.groups.values()
    }

    /// The log of one group.
    pub(super) fn log(&self, group: GroupId) -> Option<&GroupLog> {
        self.groups.get(&group)
    }

    pub(super) fn geometry(&self) -> &Geometry {
        &self.geometry
    }
}

fn recovered_group(log: &GroupLog) -> RecoveredGroup {
    RecoveredGroup {
        group: log.group,
        replica: log.replica,
        hard_state: log.hard_state,
        base: log.base,
        base_membership: log.base_membership.clone(),
        last: log.last,
        runs: log.runs.clone(),
        spans: log.dense.iter().map(|batch| (batch.span, batch.kind, batch.bytes)).collect(),
        memberships: log.memberships.clone(),
    }
}

fn checkpoint_records(log: &GroupLog) -> impl Iterator<Item = Record> + '_ {
    let group = log.group;
    let runs = log
        .runs
        .chunks(TERM_RUNS_PER_RECORD_MAX)
        .map(move |runs| Record::TermRuns { group, runs: runs.to_vec() });
    let memberships = log.memberships.iter().map(move |(index, membership)| Record::Membership {
        group,
        index: *index,
        membership: membership.clone(),
    });
    core::iter::once(Record::Group(log.checkpoint())).chain(runs).chain(memberships)
}

/// The configuration that a batch carries: one record, the membership and nothing else.
fn membership_of(block: &BlockView<'_>, entry: &DirectoryEntry) -> Option<Membership> {
    let batch = block.batch(entry).ok()?;
    let record = record_at(batch.body, 0)?;
    let (membership, bytes) = decode_membership(record)?;
    (bytes == record.len()).then_some(membership)
}
