//! The three phases of recovery and the verdict. See the room's `recovery` for the whole picture.
//!
//! Apart so that the interface and the walk fit on a screen each.

use super::super::format::{BlockError, BlockRole, BlockView, parse_block_of, parse_header_of};
use super::super::planner::Resume;
use super::super::record::Void;
use super::{
    Cut, Hole, Index, Lsn, Opener, Phase, Progress, READ_BYTES, RecoverError, Recovered, Recovery,
    STEP, Seen, SegmentNo, WalMay,
};

type Outcome = Result<Progress, RecoverError>;

impl Recovery {
    // --- Probe ---

    /// Reads the first block of file number `file` and remembers its opening.
    pub(super) fn probe(&mut self, file: usize) -> Outcome {
        let Some(segment) = self.files.get(file).copied() else { return self.after_probe() };
        let start = self.geometry.start_of(segment);
        let found = match parse_block_of(self.window.from(start), start, self.identity_tag) {
            Err(BlockError::Short { expected_bytes, .. }) => {
                let bytes = (expected_bytes as u64).max(STEP);
                if bytes > self.geometry.segment_bytes {
                    Err(BlockError::Layout { offset: 32 })
                } else {
                    return Ok(self.read_up_to(start, bytes, bytes));
                }
            }
            Err(error) => Err(error),
            Ok(block) => Ok(opener_of(&block)),
        };
        match found {
            Ok(Some(opener)) => self.take_opener(segment, opener)?,
            Ok(None) => return Err(RecoverError::Sequence { place: self.place(start) }),
            Err(error) => {
                self.check_kind(start, error)?;
                self.unopened.insert(segment, error);
            }
        }
        self.phase = Phase::Probe { file: file + 1 };
        Ok(Progress::More)
    }

    fn take_opener(&mut self, segment: SegmentNo, opener: Opener) -> Result<(), RecoverError> {
        let (expected_bytes, found_bytes) =
            (self.geometry.segment_bytes, opener.open.segment_bytes);
        if expected_bytes != found_bytes {
            return Err(RecoverError::SegmentBytes { segment, expected_bytes, found_bytes });
        }
        let start = self.geometry.start_of(segment);
        if opener.open.void.to != start || opener.open.part != 0 || opener.open.oldest > segment {
            return Err(RecoverError::Sequence { place: self.place(start) });
        }
        // A window is smaller than a segment in every geometry; one that claims more would stretch
        // what counts as in flight, up to positions beyond any arithmetic.
        let window_bytes = opener.open.window_bytes;
        if window_bytes >= self.geometry.segment_bytes {
            let place = self.place(start);
            return Err(RecoverError::Window { place, window_bytes, segment_bytes: found_bytes });
        }
        self.openers.insert(segment, opener);
        Ok(())
    }

    /// What refuses at once wherever a block is expected, whatever else there is.
    fn check_kind(&self, lsn: Lsn, error: BlockError) -> Result<(), RecoverError> {
        let place = self.place(lsn);
        match error {
            BlockError::Foreign { expected, found } => {
                Err(RecoverError::Foreign { place, expected, found })
            }
            BlockError::Version { found } => Err(RecoverError::TooNew { place, found }),
            // Recycling moves files up only, so what is stale has a smaller LSN.
            BlockError::OtherLsn { found } if found > lsn => {
                Err(RecoverError::Misplaced { place, found })
            }
            BlockError::OtherLsn { .. } => {
                mark!(W11_RECYCLED_BLOCK_IGNORED);
                Ok(())
            }
            BlockError::Short { .. }
            | BlockError::Blank
            | BlockError::Magic { .. }
            | BlockError::HeaderCrc { .. }
            | BlockError::Layout { .. }
            | BlockError::MetaCrc { .. }
            | BlockError::Record { .. }
            | BlockError::Batch { .. }
            | BlockError::OtherBatch { .. } => Ok(()),
        }
    }

    fn after_probe(&mut self) -> Outcome {
        // An opening that lies in the void of a later one was discarded by an earlier recovery
        // and must never count again (W-08).
        let mut later: Vec<Void> = Vec::new();
        let mut dead = Vec::new();
        for (segment, opener) in self.openers.iter().rev() {
            if later.iter().any(|void| void.contains(opener.open.void.to)) {
                dead.push(*segment);
            } else {
                later.push(opener.open.void);
            }
        }
        for segment in dead {
            if !planted!(W08_DISCARDED_OPENING_COUNTS) {
                self.openers.remove(&segment);
            }
        }
        for (segment, opener) in &self.openers {
            let start = self.geometry.start_of(*segment);
            if opener.durable_lsn > self.watermark.0 {
                self.watermark = (opener.durable_lsn, start);
            }
        }
        match self.openers.last_key_value() {
            Some((newest, _)) => self.begin_replay(*newest),
            None => self.no_opening(),
        }
    }

    /// No file has an opening. That is a fresh directory only if nothing says otherwise: what
    /// lies behind the missing opening is looked at like behind any other hole.
    fn no_opening(&mut self) -> Outcome {
        let Some(first) = self.files.first().copied() else {
            return self.never_opened(None);
        };
        let error = self.unopened.get(&first).copied().unwrap_or(BlockError::Blank);
        let lsn = self.geometry.start_of(first);
        Ok(self.begin_scan(Hole { lsn, error }))
    }

    // --- Replay ---

    /// Begins replay where the opening of `trusted` says that recovery needs to.
    fn begin_replay(&mut self, trusted: SegmentNo) -> Outcome {
        let began = self.openers[&trusted].open.oldest;
        self.check_segments(began, trusted)?;
        self.trusted = trusted;
        self.began = began;
        self.at = self.geometry.start_of(began);
        self.opened = None;
        self.opening = None;
        self.index = Index::new(self.geometry);
        self.index.begin_loading();
        self.phase = Phase::Replay;
        Ok(Progress::More)
    }

    /// Every segment from `began` on that is not void must be there, opened and of full size.
    fn check_segments(&self, began: SegmentNo, trusted: SegmentNo) -> Result<(), RecoverError> {
        self.check_segment(began, trusted)?;
        let mut before = began;
        for (segment, opener) in self.openers.range(began.next()..) {
            // Where the log left off; a full segment ends where the next one starts.
            let from = Lsn::new(opener.open.void.from.get().saturating_sub(1));
            let left = self.geometry.segment_of(from);
            if left < before {
                // The chain from `before` on will run into the void.
                return Err(RecoverError::Sequence {
                    place: self.place(self.geometry.start_of(before)),
                });
            }
            for between in before.0 + 1..=left.0 {
                self.check_segment(SegmentNo(between), *segment)?;
            }
            before = *segment;
        }
        Ok(())
    }

    fn check_segment(&self, segment: SegmentNo, needed_by: SegmentNo) -> Result<(), RecoverError> {
        if self.openers.contains_key(&segment) {
            return Ok(());
        }
        if let Some(odd) = self.odd_files.iter().find(|file| file.segment == segment) {
            let expected_bytes = self.geometry.segment_bytes;
            return Err(RecoverError::Size { segment, expected_bytes, found_bytes: odd.bytes });
        }
        match self.unopened.get(&segment) {
            None => Err(RecoverError::Missing { segment, needed_by }),
            Some(error) => Err(RecoverError::Corrupt {
                place: self.place(self.geometry.start_of(segment)),
                error: *error,
                watermark: self.openers[&needed_by].durable_lsn,
                proof: self.geometry.start_of(needed_by),
            }),
        }
    }

    /// Takes one step along the blocks.
    pub(super) fn replay(&mut self) -> Outcome {
        let at = self.at;
        if let Some(to) = self.void_at(at)? {
            self.at = to;
            return Ok(Progress::More);
        }
        let segment = self.geometry.segment_of(at);
        if self.files.binary_search(&segment).is_err() {
            return Ok(self.begin_scan(Hole { lsn: at, error: BlockError::Blank }));
        }
        let room = self.geometry.segment_bytes - self.geometry.offset_of(at);
        let parsed = parse_block_of(self.window.from(at), at, self.identity_tag);
        let checked = match parsed {
            Err(BlockError::Short { expected_bytes, .. }) if expected_bytes as u64 <= room => {
                let bytes = (expected_bytes as u64).next_multiple_of(STEP);
                return Ok(self.read_up_to(at, bytes, self.ahead_of(at, bytes)));
            }
            // A block never crosses the end of its segment (W-03).
            Err(BlockError::Short { .. }) => Err(BlockError::Layout { offset: 32 }),
            Err(error) => Err(error),
            Ok(block) if u64::from(block.total_bytes()) > room => {
                Err(BlockError::Layout { offset: 32 })
            }
            Ok(_) if planted!(W05_TORN_BATCH_TAKEN) => Ok(()),
            Ok(block) => block.verify(),
        };
        if let Err(error) = checked {
            self.check_kind(at, error)?;
            return Ok(self.begin_scan(Hole { lsn: at, error }));
        }
        self.take_block()
    }

    /// Where the log goes on if nothing exists at `at`.
    fn void_at(&self, at: Lsn) -> Result<Option<Lsn>, RecoverError> {
        let above = self.openers.range(self.geometry.segment_of(at).next()..);
        let void = above.map(|(_, opener)| opener.open.void).find(|void| void.contains(at));
        match void {
            Some(void) if void.from == at => {
                mark!(W08_VOID_SKIPPED);
                Ok(Some(void.to))
            }
            // The log ended before here, said the one who wrote that opening.
            Some(_) => Err(RecoverError::Sequence { place: self.place(at) }),
            None => Ok(None),
        }
    }

    /// Applies the sound block at `self.at`, which the window holds whole.
    fn take_block(&mut self) -> Outcome {
        let at = self.at;
        let place = self.place(at);
        let block = parse_block_of(self.window.from(at), at, self.identity_tag)
            .expect("just parsed and verified");
        if !follows(&block, self.opening, place.offset) {
            return Err(RecoverError::Sequence { place });
        }
        let open = block.segment_open();
        if block.durable_lsn() > self.watermark.0 {
            self.watermark = (block.durable_lsn(), at);
        }
        mark!(W06_SEAL_REPLAYED if block.role() == BlockRole::Seal);
        self.index.apply(&block).map_err(|fault| RecoverError::Contradiction { place, fault })?;
        self.at = block.end();
        self.opening = open.map(|open| (open.part + 1, open.parts));
        if self.opening.is_some_and(|(next, parts)| next == parts) {
            self.opening = None;
            self.opened = Some(place.segment);
            if self.index.is_loading() {
                self.index
                    .end_loading()
                    .map_err(|fault| RecoverError::Contradiction { place, fault })?;
            }
        }
        Ok(Progress::More)
    }

    // --- Scan ---

    fn begin_scan(&mut self, hole: Hole) -> Progress {
        self.seen = Seen { blocks: 0, until: hole.lsn, beyond: None };
        self.phase = Phase::Scan { hole, at: hole.lsn };
        Progress::More
    }

    /// Looks at the position `at` behind the hole.
    pub(super) fn scan(&mut self, hole: Hole, at: Lsn) -> Outcome {
        let segment = self.geometry.segment_of(at);
        if self.files.binary_search(&segment).is_err() {
            let next = self.files.partition_point(|file| *file <= segment);
            let Some(next) = self.files.get(next) else { return self.verdict(hole) };
            self.phase = Phase::Scan { hole, at: self.geometry.start_of(*next) };
            return Ok(Progress::More);
        }
        if (self.window.from(at).len() as u64) < STEP {
            return Ok(self.read_up_to(at, STEP, self.ahead_of(at, STEP)));
        }
        // Only headers of our own at their own place count: any other bytes here may be what a
        // recycled file held before, payload included.
        if let Ok(header) = parse_header_of(self.window.from(at), at, self.identity_tag) {
            self.seen.blocks += 1;
            self.seen.until = at.plus(u64::from(header.total_bytes));
            mark!(W05_SOUND_BLOCK_BEHIND_HOLE);
            if header.stamp.durable_lsn > self.watermark.0 {
                mark!(W05_WATERMARK_BEHIND_HOLE);
                self.watermark = (header.stamp.durable_lsn, at);
            }
            if at.bytes_since(self.window_start(hole, segment)) > self.window_bytes() {
                self.seen.beyond = Some(at);
            }
        }
        self.phase = Phase::Scan { hole, at: at.plus(STEP) };
        Ok(Progress::More)
    }

    /// Where the window began when a block of `segment` was issued, at the latest. If the segment
    /// has no sound opening, its opening was in flight, and how much is void before it is unknown.
    fn window_start(&self, hole: Hole, segment: SegmentNo) -> Lsn {
        if self.openers.contains_key(&segment) {
            hole.lsn
        } else {
            hole.lsn.max(self.geometry.start_of(segment))
        }
    }

    /// The largest window that can have been in force.
    fn window_bytes(&self) -> u64 {
        let written = self.openers.values().map(|opener| opener.open.window_bytes);
        written.max().unwrap_or(0).max(self.geometry.in_flight_bytes_max)
    }

    /// The decision table (rules 3.2): everything that could be read was read.
    fn verdict(&mut self, hole: Hole) -> Outcome {
        let place = self.place(hole.lsn);
        let (watermark, proof) = self.watermark;
        if hole.lsn < watermark && !planted!(W05_CORRUPTION_IS_CUT) {
            mark!(W05_CORRUPTION_REFUSED);
            return Err(RecoverError::Corrupt { place, error: hole.error, watermark, proof });
        }
        if let Some(valid) = self.seen.beyond {
            let window_bytes = self.window_bytes();
            return Err(RecoverError::BeyondWindow {
                place,
                error: hole.error,
                valid,
                window_bytes,
            });
        }
        if self.openers.is_empty() {
            return self.never_opened(Some(hole));
        }
        // An opening that was cut off was never durable, so nothing it no longer needs is gone.
        let relied = self.opened.filter(|_| !self.index.is_loading());
        let relied = relied.filter(|opened| *opened <= self.trusted);
        if relied != Some(self.trusted) {
            let older = self.openers.range(..self.trusted).next_back().map(|(older, _)| *older);
            match relied.or(older) {
                Some(older)
                    if relied.is_none() || self.openers[&older].open.oldest < self.began =>
                {
                    return self.begin_replay(older);
                }
                Some(_) => {}
                None => return self.never_opened(Some(hole)),
            }
        }
        self.index
            .check_complete()
            .map_err(|fault| RecoverError::Contradiction { place, fault })?;
        let end = self.end_before(hole);
        Ok(Progress::Done(Box::new(self.recovered(end, Some(hole)))))
    }

    /// Where the log ends if it breaks off at `hole`. An opening counts as a whole or not at all:
    /// one that breaks off between its blocks takes those before the hole with it. If the void of
    /// the next start began behind them, they would stand in the log with their rest missing.
    fn end_before(&mut self, hole: Hole) -> Lsn {
        let Some((parts_taken, _)) = self.opening else { return hole.lsn };
        self.seen.blocks += u64::from(parts_taken);
        self.seen.until = self.seen.until.max(hole.lsn);
        let segment = self.geometry.segment_of(Lsn::new(hole.lsn.get() - 1));
        self.openers[&segment].open.void.from
    }

    /// There is no whole opening: the log was being made when the node went down, or it is gone.
    fn never_opened(&mut self, hole: Option<Hole>) -> Outcome {
        if self.may == WalMay::NotBeEmpty && !planted!(W17_LOST_LOG_IS_FRESH) {
            let files = self.files.len() + self.odd_files.len();
            return Err(RecoverError::Empty { files });
        }
        mark!(W17_FRESH_LOG);
        self.index = Index::new(self.geometry);
        self.opened = None;
        // Nothing exists, whatever stands in the files: a sound first block of an opening that
        // was cut off behind it must not be a part of the log that begins now.
        Ok(Progress::Done(Box::new(self.recovered(Lsn::ZERO, hole))))
    }

    fn recovered(&mut self, end: Lsn, hole: Option<Hole>) -> Recovered {
        let index = core::mem::replace(&mut self.index, Index::new(self.geometry));
        let oldest = self
            .opened
            .map_or(self.geometry.segment_of(end), |opened| self.openers[&opened].open.oldest);
        let last = self.geometry.segment_of(Lsn::new(end.get().saturating_sub(1)));
        let holds = |segment: &SegmentNo| {
            let start = self.geometry.start_of(*segment);
            let void = |opener: &Opener| opener.open.void.contains(start);
            self.opened.is_some()
                && oldest <= *segment
                && *segment <= last
                && !self.openers.values().any(void)
        };
        let (kept, spare): (Vec<_>, Vec<_>) =
            self.files.iter().copied().partition(|segment| holds(segment));
        mark!(W05_TORN_TAIL_CUT if hole.is_some() && self.seen.blocks > 0);
        mark!(W05_LOG_ENDS_CLEANLY if hole.is_some() && self.seen.blocks == 0);
        let cut = hole.filter(|_| self.seen.blocks > 0).map(|hole| Cut {
            lsn: end,
            reason: hole.error,
            discarded_blocks: self.seen.blocks,
            discarded_until: self.seen.until,
        });
        let is_discarded = |segment: &SegmentNo| {
            cut.as_ref().is_some_and(|cut| self.geometry.start_of(*segment) < cut.discarded_until)
                && end < self.geometry.start_of(segment.next())
        };
        let (set_aside, mut spare): (Vec<_>, Vec<_>) =
            spare.into_iter().partition(|segment| is_discarded(segment));
        mark!(W10_DISCARDED_SET_ASIDE if !set_aside.is_empty());
        spare.extend(self.odd_files.iter().map(|file| file.segment));
        spare.sort_unstable();
        Recovered {
            groups: index.recovered(),
            index,
            end,
            durable_lsn: self.watermark.0.min(end),
            resume: self.resume(end),
            kept,
            spare,
            set_aside,
            cut,
        }
    }

    /// W-08: beyond every position that could have been in flight, and beyond every file, because
    /// an opening may have been attempted in it that left no readable trace.
    fn resume(&self, end: Lsn) -> Resume {
        let odd = self.odd_files.iter().map(|file| file.segment);
        let highest = self.files.iter().copied().chain(odd).max();
        let Some(highest) = highest else {
            let void = Void { from: Lsn::ZERO, to: Lsn::ZERO };
            return Resume { segment: SegmentNo(0), void };
        };
        let in_flight = self.geometry.segment_of(end.plus(self.window_bytes()));
        mark!(W08_RESUME_BEYOND_EVERY_FILE if in_flight <= highest);
        let segment = highest.max(in_flight).next();
        let segment = if planted!(W08_RESUME_IN_NEXT_SEGMENT) {
            self.geometry.segment_of(end).next()
        } else {
            segment
        };
        Resume { segment, void: Void { from: end, to: self.geometry.start_of(segment) } }
    }

    /// How far to read from `at` if `wanted` bytes are needed: to where a read may end.
    fn ahead_of(&self, at: Lsn, wanted: u64) -> u64 {
        let offset = self.geometry.offset_of(at);
        (offset + wanted).next_multiple_of(READ_BYTES).min(self.geometry.segment_bytes) - offset
    }

    /// Asks for bytes so that the window holds `wanted` from `lsn` on, and `ahead` if that is
    /// more. Both end inside the segment.
    fn read_up_to(&mut self, lsn: Lsn, wanted: u64, ahead: u64) -> Progress {
        let end = self.window.advance(lsn);
        let have = end.bytes_since(lsn);
        assert!(have < wanted, "{wanted} bytes are there already");
        Progress::Read { lsn: end, bytes: ahead.max(wanted) - have }
    }
}

/// Whether `block` may stand at `offset` of its segment while `opening` is under way: an opening
/// stands at the start, its parts in order and together, and nothing else does.
fn follows(block: &BlockView<'_>, opening: Option<(u32, u32)>, offset: u64) -> bool {
    match (block.segment_open(), opening) {
        (Some(open), None) => open.part == 0 && offset == 0,
        (Some(open), Some(expected)) => (open.part, open.parts) == expected && offset != 0,
        (None, None) => offset != 0,
        (None, Some(_)) => false,
    }
}

fn opener_of(block: &BlockView<'_>) -> Option<Opener> {
    block.segment_open().map(|open| Opener { open, durable_lsn: block.durable_lsn() })
}
