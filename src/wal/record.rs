//! Records: the small facts in a block beside its batches. Typed, versioned, self-delimiting.
//!
//! Apart from `format` because a record knows nothing of blocks: its bytes are covered by the
//! block's metadata checksum. Does not: decide what a record means for a log (`index`).
//!
//! ```text
//! offset  bytes  field
//!      0      1  kind
//!      1      1  version = 1
//!      2      2  zero
//!      4      4  bytes of the payload
//!      8         payload
//! ```

use super::{Lsn, SegmentNo};
use crate::base::layout::{get_u8, get_u16, get_u32, get_u64};
use crate::model::batch::{decode_membership, encode_membership};
use crate::model::{EntryId, GroupId, HardState, LogIndex, Membership, NodeId, ReplicaId, Term};

/// Bytes before a record's payload.
const RECORD_PREFIX_BYTES: usize = 8;
/// Bytes of a hard-state record with its prefix.
pub const HARD_STATE_RECORD_BYTES: usize = RECORD_PREFIX_BYTES + 32;
/// Term runs in one record, so that a record fits into the smallest block.
pub(super) const TERM_RUNS_PER_RECORD_MAX: usize = 64;
const VERSION: u8 = 1;
const INDEX_MAX: u64 = u64::MAX >> 1;

const KIND_SEGMENT_OPEN: u8 = 1;
const KIND_HARD_STATE: u8 = 2;
const KIND_LOG_RESET: u8 = 3;
const KIND_GROUP: u8 = 4;
const KIND_TERM_RUNS: u8 = 5;
const KIND_MEMBERSHIP: u8 = 6;

/// A range of positions in which nothing exists, whatever the bytes there say: what was left of a
/// segment when the next one was opened, or what recovery discarded (W-08). Half-open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Void {
    /// The end of what was used before.
    pub from: Lsn,
    /// The start of the segment that was opened.
    pub to: Lsn,
}

impl Void {
    /// Whether nothing exists at `lsn`.
    pub fn contains(&self, lsn: Lsn) -> bool {
        self.from <= lsn && lsn < self.to
    }
}

/// The first record of each block that opens a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentOpen {
    /// Which block of the opening this is, from 0.
    pub part: u32,
    /// How many blocks the opening takes.
    pub parts: u32,
    /// Bytes that could be in flight at once from here on: W of rule W-05.
    pub window_bytes: u64,
    /// Size of a segment, so that a wrong configuration is noticed.
    pub segment_bytes: u64,
    /// What does not exist before this segment.
    pub void: Void,
    /// The oldest segment that recovery needs once this opening is durable.
    pub oldest: SegmentNo,
}

/// A group in a segment's opening checkpoint: everything about it but its batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupCheckpoint {
    /// Which group.
    pub group: GroupId,
    /// Its replica here.
    pub replica: ReplicaId,
    /// Its hard state.
    pub hard_state: HardState,
    /// The entry just before the first one kept.
    pub base: EntryId,
    /// The configuration as of `base`.
    pub base_membership: Membership,
    /// Its last entry.
    pub last: EntryId,
}

/// The indexes from `first` to the next run (or the log's end) were born in `term`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TermRun {
    /// The term.
    pub term: Term,
    /// Its first index in this log.
    pub first: LogIndex,
}

/// The log of a group was replaced: it starts behind `last` now (S-02, S-04, S-05).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogReset {
    /// Whose log.
    pub group: GroupId,
    /// Its replica here.
    pub replica: ReplicaId,
    /// The entry the log now starts behind.
    pub last: EntryId,
    /// The configuration as of `last`.
    pub membership: Membership,
    /// Whether entries behind `last` stay, if the log has `last` at all.
    pub keep_tail: bool,
}

/// One record of a block. Records of a block take effect in order and before its batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// Opens a segment; only in a block with the flag of that name, and first there.
    SegmentOpen(SegmentOpen),
    /// The newest hard state of a group (H-02).
    HardState {
        /// Whose.
        group: GroupId,
        /// Its replica here.
        replica: ReplicaId,
        /// What.
        state: HardState,
    },
    /// A log starts anew behind a snapshot.
    LogReset(LogReset),
    /// A group as of the opening of a segment.
    Group(GroupCheckpoint),
    /// Terms of the checkpointed group's entries above its base, ascending; may continue.
    TermRuns {
        /// Whose.
        group: GroupId,
        /// The runs.
        runs: Vec<TermRun>,
    },
    /// A configuration in the checkpointed group's log above its base; one record each, ascending.
    Membership {
        /// Whose.
        group: GroupId,
        /// The index of its entry.
        index: LogIndex,
        /// The configuration.
        membership: Membership,
    },
}

/// Writes fields one after the other.
struct Payload<'a>(&'a mut Vec<u8>);

impl Payload<'_> {
    fn u8(&mut self, value: u8) {
        self.0.push(value);
    }
    fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    fn entry(&mut self, value: EntryId) {
        self.u64(value.term.get());
        self.u64(value.index.get());
    }
    fn hard_state(&mut self, group: GroupId, replica: ReplicaId, state: &HardState) {
        self.u64(group.get());
        self.u32(replica.get());
        self.u16(state.vote.map_or(0, NodeId::get));
        self.u16(0);
        self.u64(state.term.get());
        self.u64(state.commit.get());
    }
    fn membership(&mut self, value: &Membership) {
        encode_membership(value, self.0);
    }
}

/// Reads fields one after the other. `None` means the payload is too short or makes no sense.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take(&mut self, bytes: usize) -> Option<&[u8]> {
        let (front, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(front)
    }
    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|b| get_u8(b, 0))
    }
    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|b| get_u16(b, 0))
    }
    fn u32(&mut self) -> Option<u32> {
        self.take(4).map(|b| get_u32(b, 0))
    }
    fn u64(&mut self) -> Option<u64> {
        self.take(8).map(|b| get_u64(b, 0))
    }
    /// No log gets near the end of the numbers, so arithmetic on what is read cannot overflow.
    fn index(&mut self) -> Option<LogIndex> {
        self.u64().filter(|index| *index <= INDEX_MAX).map(LogIndex::new)
    }
    fn entry(&mut self) -> Option<EntryId> {
        Some(EntryId::new(Term::new(self.u64()?), self.index()?))
    }
    fn hard_state(&mut self) -> Option<(GroupId, ReplicaId, HardState)> {
        let (group, replica) = (GroupId::new(self.u64()?), ReplicaId::new(self.u32()?));
        let vote = match self.u16()? {
            0 => None,
            node => Some(NodeId::new(node)),
        };
        if self.u16()? != 0 {
            return None;
        }
        let (term, commit) = (Term::new(self.u64()?), self.index()?);
        Some((group, replica, HardState { term, vote, commit }))
    }
    fn membership(&mut self) -> Option<Membership> {
        let (membership, bytes) = decode_membership(self.0)?;
        self.take(bytes)?;
        Some(membership)
    }
}

impl Record {
    fn kind(&self) -> u8 {
        match self {
            Self::SegmentOpen(_) => KIND_SEGMENT_OPEN,
            Self::HardState { .. } => KIND_HARD_STATE,
            Self::LogReset(_) => KIND_LOG_RESET,
            Self::Group(_) => KIND_GROUP,
            Self::TermRuns { .. } => KIND_TERM_RUNS,
            Self::Membership { .. } => KIND_MEMBERSHIP,
        }
    }

    /// Appends the record with its prefix.
    pub fn encode(&self, to: &mut Vec<u8>) {
        let start = to.len();
        to.extend_from_slice(&[self.kind(), VERSION, 0, 0, 0, 0, 0, 0]);
        let mut payload = Payload(to);
        match self {
            Self::SegmentOpen(open) => {
                payload.u32(open.part);
                payload.u32(open.parts);
                payload.u64(open.window_bytes);
                payload.u64(open.segment_bytes);
                payload.u64(open.void.from.get());
                payload.u64(open.void.to.get());
                payload.u64(open.oldest.0);
            }
            Self::HardState { group, replica, state } => {
                payload.hard_state(*group, *replica, state);
            }
            Self::LogReset(reset) => {
                payload.u64(reset.group.get());
                payload.u32(reset.replica.get());
                payload.u8(u8::from(reset.keep_tail));
                payload.u8(0);
                payload.u16(0);
                payload.entry(reset.last);
                payload.membership(&reset.membership);
            }
            Self::Group(group) => {
                payload.hard_state(group.group, group.replica, &group.hard_state);
                payload.entry(group.base);
                payload.entry(group.last);
                // Reserved for what repair will need: suspect grade, tombstone (W-07, M-15).
                payload.u64(0);
                payload.membership(&group.base_membership);
            }
            Self::TermRuns { group, runs } => {
                payload.u64(group.get());
                payload.u32(u32::try_from(runs.len()).expect("at most a record's worth"));
                payload.u32(0);
                for run in runs {
                    payload.u64(run.term.get());
                    payload.u64(run.first.get());
                }
            }
            Self::Membership { group, index, membership } => {
                payload.u64(group.get());
                payload.u64(index.get());
                payload.membership(membership);
            }
        }
        let bytes = to.len() - start - RECORD_PREFIX_BYTES;
        let bytes = u32::try_from(bytes).expect("a record is far below a block");
        to[start + 4..start + 8].copy_from_slice(&bytes.to_le_bytes());
    }

    /// Reads the record at the start of `from`; returns it with the bytes it took, or `None` if
    /// there is no record that this program understands.
    pub fn decode(from: &[u8]) -> Option<(Self, usize)> {
        let prefix = from.get(..RECORD_PREFIX_BYTES)?;
        if get_u8(prefix, 1) != VERSION || get_u16(prefix, 2) != 0 {
            return None;
        }
        let end = RECORD_PREFIX_BYTES.checked_add(get_u32(prefix, 4) as usize)?;
        let mut fields = Fields(from.get(RECORD_PREFIX_BYTES..end)?);
        let record = Self::decode_payload(get_u8(prefix, 0), &mut fields)?;
        fields.0.is_empty().then_some((record, end))
    }

    fn decode_payload(kind: u8, fields: &mut Fields<'_>) -> Option<Self> {
        Some(match kind {
            KIND_SEGMENT_OPEN => Self::SegmentOpen(decode_segment_open(fields)?),
            KIND_HARD_STATE => {
                let (group, replica, state) = fields.hard_state()?;
                Self::HardState { group, replica, state }
            }
            KIND_LOG_RESET => Self::LogReset(decode_log_reset(fields)?),
            KIND_GROUP => {
                let (group, replica, hard_state) = fields.hard_state()?;
                let (base, last) = (fields.entry()?, fields.entry()?);
                if fields.u64()? != 0 || last.index < base.index {
                    return None;
                }
                let base_membership = fields.membership()?;
                Self::Group(GroupCheckpoint {
                    group,
                    replica,
                    hard_state,
                    base,
                    base_membership,
                    last,
                })
            }
            KIND_TERM_RUNS => {
                let (group, count) = (GroupId::new(fields.u64()?), fields.u32()? as usize);
                if fields.u32()? != 0 || count > TERM_RUNS_PER_RECORD_MAX {
                    return None;
                }
                let mut runs = Vec::with_capacity(count);
                for _ in 0..count {
                    let run = fields.entry()?;
                    runs.push(TermRun { term: run.term, first: run.index });
                }
                Self::TermRuns { group, runs }
            }
            KIND_MEMBERSHIP => Self::Membership {
                group: GroupId::new(fields.u64()?),
                index: fields.index()?,
                membership: fields.membership()?,
            },
            _ => return None,
        })
    }
}

fn decode_segment_open(fields: &mut Fields<'_>) -> Option<SegmentOpen> {
    let open = SegmentOpen {
        part: fields.u32()?,
        parts: fields.u32()?,
        window_bytes: fields.u64()?,
        segment_bytes: fields.u64()?,
        void: Void { from: Lsn::new(fields.u64()?), to: Lsn::new(fields.u64()?) },
        oldest: SegmentNo(fields.u64()?),
    };
    (open.part < open.parts && open.void.from <= open.void.to).then_some(open)
}

fn decode_log_reset(fields: &mut Fields<'_>) -> Option<LogReset> {
    let (group, replica) = (GroupId::new(fields.u64()?), ReplicaId::new(fields.u32()?));
    let keep_tail = match fields.u8()? {
        0 => false,
        1 => true,
        _ => return None,
    };
    if fields.u8()? != 0 || fields.u16()? != 0 {
        return None;
    }
    let last = fields.entry()?;
    Some(LogReset { group, replica, last, membership: fields.membership()?, keep_tail })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn membership() -> Membership {
        Membership::of_voters(&[NodeId::new(1), NodeId::new(2), NodeId::new(3)])
    }

    fn entry(term: u64, index: u64) -> EntryId {
        EntryId::new(Term::new(term), LogIndex::new(index))
    }

    fn samples() -> Vec<Record> {
        let (group, replica) = (GroupId::new(7), ReplicaId::new(2));
        let hard_state =
            HardState { term: Term::new(4), vote: Some(NodeId::new(3)), commit: LogIndex::new(90) };
        vec![
            Record::SegmentOpen(SegmentOpen {
                part: 1,
                parts: 3,
                window_bytes: 4 << 20,
                segment_bytes: 64 << 20,
                void: Void { from: Lsn::new(4096), to: Lsn::new(8192) },
                oldest: SegmentNo(3),
            }),
            Record::HardState { group, replica, state: hard_state },
            Record::HardState { group, replica, state: HardState::default() },
            Record::LogReset(LogReset {
                group,
                replica,
                last: entry(4, 100),
                membership: membership(),
                keep_tail: true,
            }),
            Record::Group(GroupCheckpoint {
                group,
                replica,
                hard_state,
                base: entry(2, 10),
                base_membership: membership(),
                last: entry(4, 120),
            }),
            Record::TermRuns {
                group,
                runs: vec![
                    TermRun { term: Term::new(2), first: LogIndex::new(11) },
                    TermRun { term: Term::new(4), first: LogIndex::new(90) },
                ],
            },
            Record::Membership { group, index: LogIndex::new(12), membership: membership() },
        ]
    }

    #[test]
    fn records_survive_the_round_trip_one_after_the_other() {
        let mut bytes = Vec::new();
        for record in samples() {
            record.encode(&mut bytes);
        }
        let mut at = 0;
        for record in samples() {
            let (found, taken) = Record::decode(&bytes[at..]).expect("just encoded");
            assert_eq!(found, record);
            at += taken;
        }
        assert_eq!(at, bytes.len());
    }

    #[test]
    fn a_record_cut_short_is_none() {
        for record in samples() {
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            for end in 0..bytes.len() {
                assert_eq!(Record::decode(&bytes[..end]), None, "{record:?} cut at {end}");
            }
        }
    }

    #[test]
    fn the_size_of_a_hard_state_is_the_constant() {
        let mut bytes = Vec::new();
        samples()[1].encode(&mut bytes);
        assert_eq!(bytes.len(), HARD_STATE_RECORD_BYTES);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0u8..8) {
            let mut bytes = bytes;
            if bytes.len() >= 8 {
                let rest = u32::try_from(bytes.len() - 8).expect("small");
                bytes[0] = kind;
                bytes[1] = VERSION;
                bytes[2..4].fill(0);
                bytes[4..8].copy_from_slice(&rest.to_le_bytes());
            }
            if let Some((record, taken)) = Record::decode(&bytes) {
                let mut again = Vec::new();
                record.encode(&mut again);
                prop_assert_eq!(&again[..], &bytes[..taken]);
            }
        }
    }
}
