//! Where the next block goes, and what is durable: positions, write numbers, the in-flight window.
//!
//! One per shard. Apart because it knows no bytes: it hands out positions and counts completions.
//! Does not: build blocks, know groups, or start a write.
//!
//! A segment begins with its opening: one or more blocks that carry the checkpoint. After a start
//! nothing else may be placed until the opening is durable (W-08); on an ordinary roll the blocks
//! behind it may be in flight together with it, because a hole in it discards them anyway.

use core::time::Duration;
use std::collections::VecDeque;

use super::format::{BlockRole, Stamp};
use super::record::Void;
use super::{Geometry, Identity, Lsn, SegmentNo};
use crate::base::Moment;
use crate::model::WriteSeq;
use crate::model::limits::DEVICE_ALIGN_BYTES;

/// Idle this long, a log whose last blocks are not below any durable watermark gets a seal (W-06).
pub const SEAL_AFTER: Duration = Duration::from_millis(5);

/// Where writing goes on after recovery: in a segment that holds no position that could have been
/// in flight before (W-08).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resume {
    /// The segment to open first. No file of that number exists yet.
    pub segment: SegmentNo,
    /// What does not exist before it; its opening records this.
    pub void: Void,
}

/// Where a block goes. [`Placement::stamp`] is what its header needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Number of the write.
    pub write: WriteSeq,
    /// Position in the log.
    pub lsn: Lsn,
    /// The file.
    pub segment: SegmentNo,
    /// Where in it.
    pub offset: u64,
    /// Everything below is durable now.
    pub durable_lsn: Lsn,
    /// For [`super::BlockBuilder::close`] and [`super::claim_frame`].
    pub stamp: Stamp,
}

/// The facts of an opening that is due: what [`super::Index::opening`] needs for its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpeningPlan {
    /// The segment to be opened.
    pub segment: SegmentNo,
    /// What does not exist before it.
    pub void: Void,
    /// The window in force.
    pub window_bytes: u64,
}

/// A write that is not known to be part of the durable prefix yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct InFlight {
    pub(super) write: WriteSeq,
    /// The position behind it.
    pub(super) end: Lsn,
    /// The watermark it carries.
    pub(super) durable_lsn: Lsn,
    pub(super) placed_at: Moment,
    pub(super) done: bool,
}

/// Hands out positions in the log and keeps its durable prefix.
#[derive(Debug)]
pub struct Planner {
    pub(super) geometry: Geometry,
    pub(super) identity_tag: u64,
    /// Where the next block goes.
    pub(super) next: Lsn,
    /// Number of the next write.
    pub(super) next_write: WriteSeq,
    /// In order of position. The front is the first that is not done.
    pub(super) in_flight: VecDeque<InFlight>,
    /// Everything below is durable.
    pub(super) durable: Lsn,
    /// The highest watermark in any durable block.
    pub(super) watermark: Lsn,
    /// End of the last block that is not a seal.
    pub(super) data_end: Lsn,
    /// When the log last did anything.
    pub(super) active_at: Moment,
    /// The void of the first opening; afterwards none.
    pub(super) boot_void: Option<Void>,
    /// Blocks of the current opening that were not placed yet.
    pub(super) parts_left: u32,
    /// The end of the boot opening; nothing else may be placed until it is durable.
    pub(super) boot_until: Option<Lsn>,
    /// How many segments are wanted beyond the current one.
    pub(super) segments_ahead: u64,
    /// Segments up to this one are wanted whatever is being written.
    pub(super) wanted_at_start: SegmentNo,
    /// Segments below this one were asked for.
    pub(super) wanted_below: SegmentNo,
    /// Segments that could not be made when they were asked for, ascending.
    pub(super) failed: VecDeque<SegmentNo>,
    /// Segments that are ready, ascending.
    pub(super) ready: VecDeque<SegmentNo>,
}

impl Planner {
    /// A planner that goes on at `resume`. The first thing to do is to prepare the segments that
    /// it wants and to open the first ([`Planner::roll`]).
    pub fn new(geometry: Geometry, identity: &Identity, resume: Resume) -> Self {
        geometry.check();
        let start = geometry.start_of(resume.segment);
        assert!(resume.void.to == start && resume.void.from <= start, "{resume:?}");
        Self {
            geometry,
            identity_tag: identity.tag(),
            next: start,
            next_write: WriteSeq::NONE.next(),
            in_flight: VecDeque::with_capacity(geometry.writes_in_flight_max as usize),
            // What recovery found was read back. The void is durable only once the opening that
            // declares it is: until then it would look like lost blocks (W-05).
            durable: resume.void.from,
            watermark: resume.void.from,
            data_end: resume.void.from,
            active_at: Moment::ZERO,
            boot_void: Some(resume.void),
            parts_left: 0,
            boot_until: None,
            segments_ahead: 1,
            wanted_at_start: resume.segment,
            wanted_below: resume.segment,
            failed: VecDeque::new(),
            ready: VecDeque::new(),
        }
    }

    /// The same planner, with `segments` files wanted beyond the one being written: pre-writing
    /// takes time that the write path does not have.
    ///
    /// # Panics
    /// If it is none: the next segment is ready before it is needed.
    #[must_use]
    pub fn with_segments_ahead(mut self, segments: u64) -> Self {
        assert!(segments > 0, "{segments} segments ahead");
        self.segments_ahead = segments;
        self
    }

    /// The same planner, with `segments` files beyond the first wanted once, before anything is
    /// written: each spares the device its zeros while it is busy with the log. They are not made
    /// up for as they are used.
    #[must_use]
    pub fn with_segments_at_start(mut self, segments: u64) -> Self {
        self.wanted_at_start = SegmentNo(self.wanted_at_start.0 + segments);
        self
    }

    /// Write slots of the device that are free.
    pub fn slots_free(&self) -> u32 {
        let busy = self.in_flight.iter().filter(|write| !write.done).count();
        let busy = u32::try_from(busy).expect("bounded by the slots");
        self.geometry.writes_in_flight_max - busy
    }

    /// Whether every write so far is durable.
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Bytes left in the current segment.
    pub fn segment_room_bytes(&self) -> u64 {
        if self.boot_void.is_some() {
            return 0;
        }
        let end = self.geometry.start_of(self.current_segment().next());
        end.bytes_since(self.next)
    }

    /// The segment being written (or about to be opened, before the first opening).
    fn current_segment(&self) -> SegmentNo {
        let next = self.geometry.segment_of(self.next);
        // At the very end of a segment `next` already names the one behind it.
        if self.boot_void.is_none()
            && self.parts_left == 0
            && self.geometry.offset_of(self.next) == 0
        {
            SegmentNo(next.0 - 1)
        } else {
            next
        }
    }

    /// Whether a block of `bytes` can be placed now.
    pub fn fits(&self, bytes: u32) -> bool {
        self.parts_left == 0
            && self.boot_until.is_none()
            && self.slots_free() > 0
            && u64::from(bytes) <= self.segment_room_bytes()
            && self.window_allows(self.next.plus(u64::from(bytes)))
    }

    /// Whether a block of `bytes` needs a new segment first ([`Planner::roll`]).
    pub fn needs_roll(&self, bytes: u32) -> bool {
        self.parts_left == 0 && u64::from(bytes) > self.segment_room_bytes()
    }

    /// W-05: a block is issued only if its end lies within W of the durable prefix, voids counted.
    /// So an unreadable block further than W below any valid one is no torn write.
    fn window_allows(&self, end: Lsn) -> bool {
        let is_within = end.bytes_since(self.durable) <= self.geometry.in_flight_bytes_max;
        mark!(W05_WINDOW_FULL if !is_within);
        is_within || planted!(W05_WINDOW_IGNORED)
    }

    /// Places a block of `bytes`; the write is in flight until [`Planner::on_write_done`].
    ///
    /// # Panics
    /// If it does not fit ([`Planner::fits`]).
    pub fn place(&mut self, bytes: u32, role: BlockRole, now: Moment) -> Placement {
        assert!(role != BlockRole::SegmentOpen, "openings go through `place_part`");
        assert!(self.fits(bytes), "no room for {bytes} bytes at {:?}", self.next);
        let placement = self.put(bytes, role, now);
        if role == BlockRole::Data {
            self.data_end = self.next;
        }
        placement
    }

    fn put(&mut self, bytes: u32, role: BlockRole, now: Moment) -> Placement {
        assert!(bytes > 0 && bytes <= self.geometry.block_bytes_max, "a block of {bytes} bytes");
        assert!((bytes as usize).is_multiple_of(DEVICE_ALIGN_BYTES), "a block of {bytes} bytes");
        let (write, lsn) = (self.next_write, self.next);
        self.next_write = write.next();
        self.next = lsn.plus(u64::from(bytes));
        self.active_at = now;
        self.in_flight.push_back(InFlight {
            write,
            end: self.next,
            durable_lsn: self.durable,
            placed_at: now,
            done: false,
        });
        let durable_lsn = if planted!(W04_WATERMARK_RUNS_AHEAD) { lsn } else { self.durable };
        Placement {
            write,
            lsn,
            segment: self.geometry.segment_of(lsn),
            offset: self.geometry.offset_of(lsn),
            durable_lsn: self.durable,
            stamp: Stamp { identity_tag: self.identity_tag, lsn, durable_lsn, role },
        }
    }

    /// The opening that is due once the current segment has no room, or first of all.
    pub fn next_opening(&self) -> OpeningPlan {
        assert!(self.parts_left == 0, "the last opening is not finished");
        let window_bytes = self.geometry.in_flight_bytes_max;
        if let Some(void) = self.boot_void {
            return OpeningPlan { segment: self.geometry.segment_of(void.to), void, window_bytes };
        }
        let segment = self.current_segment().next();
        let void = Void { from: self.next, to: self.geometry.start_of(segment) };
        OpeningPlan { segment, void, window_bytes }
    }

    /// Whether the next segment is ready and the window has room for the gap before it and for
    /// the first block of the opening.
    pub fn can_roll(&self, first_part_bytes: u32) -> bool {
        let plan = self.next_opening();
        let end = plan.void.to.plus(u64::from(first_part_bytes));
        self.parts_left == 0
            && self.boot_until.is_none()
            && (self.ready.front() == Some(&plan.segment) || planted!(W12_SEGMENT_NOT_AWAITED))
            && self.slots_free() > 0
            && (self.in_flight.is_empty() || self.window_allows(end))
    }

    /// Leaves the current segment. `parts` blocks of the opening follow through
    /// [`Planner::place_part`], before anything else.
    ///
    /// # Panics
    /// If the next segment is not ready ([`Planner::can_roll`]).
    pub fn roll(&mut self, parts: u32) -> OpeningPlan {
        assert!(parts > 0, "an opening has at least one block");
        let plan = self.next_opening();
        assert!(self.can_roll(0), "{:?} is not ready, or too much is in flight", plan.segment);
        mark!(W08_FIRST_OPENING if self.boot_void.is_some());
        mark!(W12_SEGMENT_ROLLED if self.boot_void.is_none());
        self.ready.pop_front();
        self.next = plan.void.to;
        self.parts_left = parts;
        plan
    }

    /// Blocks of the current opening still to be placed.
    pub fn opening_parts_left(&self) -> u32 {
        self.parts_left
    }

    /// Whether the next block of the opening can be placed now.
    pub fn fits_part(&self, bytes: u32) -> bool {
        // The void before a first part may be wider than the window; nothing else is in flight
        // then, so a hole before it is impossible and one in it is at the segment's start.
        self.parts_left > 0
            && self.slots_free() > 0
            && (self.in_flight.is_empty() || self.window_allows(self.next.plus(u64::from(bytes))))
    }

    /// Places the next block of the current opening.
    ///
    /// # Panics
    /// If it does not fit ([`Planner::fits_part`]) or the segment ends.
    pub fn place_part(&mut self, bytes: u32, now: Moment) -> Placement {
        assert!(self.fits_part(bytes), "no room for a part of {bytes} bytes");
        let segment = self.geometry.segment_of(self.next);
        let placement = self.put(bytes, BlockRole::SegmentOpen, now);
        let end = self.geometry.start_of(segment.next());
        assert!(self.next < end, "the checkpoint does not fit into a segment");
        self.parts_left -= 1;
        self.data_end = self.next;
        if self.parts_left == 0
            && self.boot_void.take().is_some()
            && !planted!(W08_BOOT_OPENING_NOT_AWAITED)
        {
            self.boot_until = Some(self.next);
        }
        placement
    }

    /// Takes the completion of a write (I-02). Returns the newest write of the contiguous durable
    /// prefix if that grew (I-01): only what lies below may be acknowledged.
    ///
    /// # Panics
    /// If that write is not in flight.
    pub fn on_write_done(&mut self, write: WriteSeq, now: Moment) -> Option<WriteSeq> {
        let found = self.in_flight.iter_mut().find(|entry| entry.write == write);
        let entry = found.expect("a completion belongs to a write in flight");
        assert!(!entry.done, "{write:?} completed twice");
        entry.done = true;
        self.active_at = now;
        mark!(I01_COMPLETED_OUT_OF_ORDER if self.in_flight.front().is_some_and(|w| !w.done));
        let mut newest = planted!(I01_GAP_IGNORED).then_some(write);
        while let Some(front) = self.in_flight.front()
            && front.done
        {
            newest = Some(front.write);
            self.durable = front.end;
            self.watermark = self.watermark.max(front.durable_lsn);
            self.in_flight.pop_front();
        }
        if self.boot_until.is_some_and(|until| until <= self.durable) {
            self.boot_until = None;
        }
        newest
    }

    /// Everything below is durable.
    pub fn durable_lsn(&self) -> Lsn {
        self.durable
    }

    /// Where the next block goes.
    pub fn next_lsn(&self) -> Lsn {
        self.next
    }

    /// When the oldest write that is not durable was placed: how long the device has been busy.
    pub fn oldest_in_flight(&self) -> Option<Moment> {
        self.in_flight.front().map(|write| write.placed_at)
    }

    /// When the log wants a seal, if nothing happens until then: everything is durable but no
    /// durable block says so of the last ones (W-06).
    pub fn seal_deadline(&self) -> Option<Moment> {
        let wanted = self.in_flight.is_empty()
            && !planted!(W06_NO_SEAL)
            && self.parts_left == 0
            && self.boot_void.is_none()
            && self.watermark < self.data_end;
        wanted.then(|| self.active_at.after(SEAL_AFTER))
    }

    /// Whether a seal is due: place an empty block of [`BlockRole::Seal`], or roll if the segment
    /// is full, which serves as well.
    pub fn seal_due(&self, now: Moment) -> bool {
        self.seal_deadline().is_some_and(|deadline| deadline <= now)
    }

    /// The next segment that should be prepared, each one once. Ask until it is `None`.
    pub fn segment_wanted(&mut self) -> Option<SegmentNo> {
        if let Some(again) = self.failed.pop_front() {
            mark!(D09_SEGMENT_WANTED_AGAIN);
            return Some(again);
        }
        let ahead = self.current_segment().0 + self.segments_ahead;
        let up_to = ahead.max(self.wanted_at_start.0);
        if self.wanted_below.0 > up_to {
            return None;
        }
        let wanted = self.wanted_below;
        self.wanted_below = wanted.next();
        Some(wanted)
    }

    /// The file of `segment` is ready.
    pub fn segment_ready(&mut self, segment: SegmentNo) {
        let at = self.ready.partition_point(|ready| *ready < segment);
        assert!(self.ready.get(at) != Some(&segment), "{segment:?} was ready already");
        self.ready.insert(at, segment);
    }

    /// The file of `segment` could not be made: it will be wanted again. The caller decides how
    /// soon to ask.
    pub fn segment_failed(&mut self, segment: SegmentNo) {
        assert!(segment < self.wanted_below && !self.ready.contains(&segment), "{segment:?}");
        let at = self.failed.partition_point(|failed| *failed < segment);
        self.failed.insert(at, segment);
    }
}

#[cfg(test)]
mod tests;
