//! Retention: where a group's log may be trimmed, which segments are dead, what to rewrite.
//!
//! Apart because these are policies over the index; nothing here changes it. A segment may be
//! recycled only once an opening that does not need it is durable (W-13): the facts that the
//! segment held are then in that opening or in newer blocks. Does not: trim, rename, or read.

use super::group_log::Piece;
use super::{Geometry, Index, Lsn, SegmentNo};
use crate::model::{EntryId, GroupId, LogIndex};

/// How much of a group's log is kept at least. What is over it goes a segment's part at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Bytes of batches.
    pub bytes: u64,
    /// Records.
    pub records: u64,
}

impl Limit {
    /// Keeps everything.
    pub const NONE: Self = Self { bytes: u64::MAX, records: u64::MAX };
}

/// A run of live batches in an old segment to be copied forward, byte for byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// Whose.
    pub group: GroupId,
    /// The first index to copy; its batch may begin before it.
    pub first: LogIndex,
    /// The last one.
    pub last: LogIndex,
    /// The file.
    pub segment: SegmentNo,
    /// The block to read on from (as in [`super::Located`]).
    pub block: Lsn,
    /// About how many bytes.
    pub bytes: u64,
}

/// What may be forgotten and what should be moved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetentionPlan {
    /// Files whose content is dead, oldest first.
    pub recyclable: Vec<SegmentNo>,
    /// Batches that keep an old segment alive although little is left in it, in order of segment,
    /// group and index.
    pub rewrite: Vec<Rewrite>,
}

/// How far the log of `group` may be trimmed so that `limit` is still kept: an entry at the end of
/// a batch at or below `committed`, or `None` if there is nothing to trim. Only whole parts of
/// segments go, since only whole segments give space back.
///
/// `committed` must be durable *here* too: an index that the group knows to be committed while its
/// own block is still on the way may be a truncated batch's in the index.
pub fn trim_point(
    index: &Index,
    group: GroupId,
    limit: Limit,
    committed: LogIndex,
) -> Option<EntryId> {
    let log = index.log(group)?;
    let mut bytes: u64 = log.pieces.values().map(|piece| piece.bytes).sum();
    let mut records = log.last.index.records_since(log.base.index);
    let mut point = None;
    for (first, piece) in &log.pieces {
        bytes = bytes.saturating_sub(piece.bytes);
        records = records.saturating_sub(piece.last.next().records_since(*first));
        let over = bytes >= limit.bytes || records >= limit.records;
        mark!(W13_TRIM_WAITS_FOR_COMMIT if over && piece.last > committed);
        if !over || piece.last > committed || piece.last == log.last.index {
            break;
        }
        point = Some(piece.last);
    }
    let point = point?;
    mark!(W13_LOG_TRIMMED);
    Some(EntryId::new(log.term_at(point)?, point))
}

/// What can be done for the disk now.
///
/// `present` are the files there are, `opened_oldest` is the `oldest` of the newest *durable*
/// opening and `current` the segment being written. Rewritten are old segments of which at most an
/// eighth is live, so that a byte rewritten gives at least seven back, and any whose log has grown to
/// more than twice what is live in it (`is_pinned`); and only entries up to `committed` of their
/// group: a batch that is truncated while its copy is on the way would come
/// back with the copy, and truncate what had replaced it.
pub fn plan_retention(
    index: &Index,
    present: &[SegmentNo],
    opened_oldest: SegmentNo,
    current: SegmentNo,
    committed: impl Fn(GroupId) -> LogIndex,
) -> RetentionPlan {
    let mut recyclable: Vec<SegmentNo> =
        present.iter().copied().filter(|segment| is_dead(*segment, opened_oldest)).collect();
    mark!(W13_SEGMENT_DEAD if !recyclable.is_empty());
    recyclable.sort_unstable();
    RetentionPlan { recyclable, rewrite: plan_rewrite(index, current, committed) }
}

/// Whether no durable opening needs the segment.
fn is_dead(segment: SegmentNo, opened_oldest: SegmentNo) -> bool {
    segment < opened_oldest || (planted!(W13_LIVE_SEGMENT_RECYCLED) && segment == opened_oldest)
}

/// Only the oldest live segment is looked at: a newer one cannot be recycled before it.
fn plan_rewrite(
    index: &Index,
    current: SegmentNo,
    committed: impl Fn(GroupId) -> LogIndex,
) -> Vec<Rewrite> {
    let Some(oldest) = index.oldest_live_segment() else { return Vec::new() };
    // The segment before the current one may hold blocks that are still in flight.
    if oldest.0 + 1 >= current.0 {
        return Vec::new();
    }
    let pieces = || {
        index.logs().flat_map(|log| {
            let pieces = log.pieces.iter().filter(|(_, piece)| piece.segment == oldest);
            pieces.map(|(first, piece)| (log.group, *first, piece))
        })
    };
    let is_open = |(group, _, piece): (GroupId, LogIndex, &Piece)| piece.last > committed(group);
    if pieces().any(is_open) && !planted!(W13_UNCOMMITTED_REWRITTEN) {
        mark!(W13_UNCOMMITTED_NOT_REWRITTEN);
        // What is not committed stays where it is, and with it the segment.
        return Vec::new();
    }
    let rewrite: Vec<Rewrite> = pieces()
        .filter_map(|(group, first, piece)| rewrite_of(index, group, first, piece))
        .collect();
    let bytes: u64 = rewrite.iter().map(|part| part.bytes).sum();
    let is_small = bytes <= small_remainder_bytes(index.geometry());
    mark!(W13_SMALL_REMAINDER_FOUND if is_small && bytes > 0);
    let is_pinned = !is_small && is_pinned(index, oldest, current);
    mark!(W13_PINNED_SEGMENT_REWRITTEN if is_pinned && bytes > 0);
    if is_small || is_pinned { rewrite } else { Vec::new() }
}

/// Whether the oldest segment keeps many later ones that are dead: a group within its limit that is
/// no longer written would hold every segment since its last batch, and with them fill the disk.
///
/// A byte that is rewritten for this comes up again only after the log has grown by as many bytes
/// as are live, so no more is ever rewritten than is appended.
fn is_pinned(index: &Index, oldest: SegmentNo, current: SegmentNo) -> bool {
    let live: u64 = index.logs().flat_map(|log| log.pieces.values()).map(|p| p.bytes).sum();
    let span = (current.0 - oldest.0) * index.geometry().segment_bytes;
    span > 2 * live + PINNED_SEGMENTS * index.geometry().segment_bytes
}

/// Segments that a log may always span, whatever is live in them.
const PINNED_SEGMENTS: u64 = 4;

/// At most this much live data in a segment is worth rewriting.
fn small_remainder_bytes(geometry: &Geometry) -> u64 {
    geometry.segment_bytes / 8
}

fn rewrite_of(index: &Index, group: GroupId, first: LogIndex, piece: &Piece) -> Option<Rewrite> {
    let located = index.locate(group, first)?;
    Some(Rewrite {
        group,
        first,
        last: piece.last,
        segment: located.segment,
        block: located.block,
        bytes: piece.bytes,
    })
}
