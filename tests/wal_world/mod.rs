//! A node's log without a node: the real builder, planner, index and recovery over an in-memory
//! disk of 512-byte sectors, beside a plain model of what every log must contain.
//!
//! Apart from `wal_crash.rs` so that the claims stand alone there. The model knows nothing of
//! blocks: it is a list of batches per group, changed by the same intentions.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use catamaran::base::{Arena, Checksum, Moment, Prng};
use catamaran::model::batch::{BATCH_HEADER_BYTES, encode_batch, encode_membership, encode_record};
use catamaran::model::{
    BatchHeader, BatchKind, ClusterId, EntryId, GroupId, HardState, LogIndex, Membership, NodeId,
    NodeUuid, RecordCount, ReplicaId, ShardId, Span, Term, WriteSeq,
};
use catamaran::wal::{
    BlockBuilder, BlockRole, DirectoryEntry, Geometry, Identity, Index, Limit, LogReset, Lsn,
    Planner, Record, RecoverError, Recovered, Recovery, SegmentFile, SegmentNo, Step, WalMay,
    blocks_in, claim_frame, frame_area_bytes, plan_retention, trim_point,
};

pub(crate) const SECTOR_BYTES: usize = 512;

pub(crate) const REPLICA: ReplicaId = ReplicaId::new(1);

/// Small sizes make rolls and recycling constant.
pub(crate) const SMALL: Geometry = Geometry {
    segment_bytes: 64 << 10,
    block_bytes_max: 16 << 10,
    in_flight_bytes_max: 48 << 10,
    writes_in_flight_max: 4,
};

pub(crate) fn identity() -> Identity {
    Identity {
        cluster: ClusterId::new([7; 16]),
        node: NodeUuid::new([9; 16]),
        shard: ShardId::new(0),
    }
}

pub(crate) fn membership() -> Membership {
    Membership::of_voters(&[NodeId::new(1), NodeId::new(2), NodeId::new(3)])
}

/// Segment files, and the writes that the device has not finished.
#[derive(Clone, Default)]
pub(crate) struct Disk {
    pub(crate) files: BTreeMap<SegmentNo, Vec<u8>>,
    pub(crate) in_flight: BTreeMap<WriteSeq, Write>,
}

#[derive(Clone)]
pub(crate) struct Write {
    pub(crate) segment: SegmentNo,
    pub(crate) offset: usize,
    pub(crate) bytes: Vec<u8>,
}

impl Disk {
    fn land(&mut self, write: WriteSeq) {
        let write = self.in_flight.remove(&write).expect("in flight");
        let file = self.files.get_mut(&write.segment).expect("a ready segment");
        file[write.offset..write.offset + write.bytes.len()].copy_from_slice(&write.bytes);
    }

    /// The sectors in flight that would change anything, oldest write first.
    pub(crate) fn sectors(&self) -> Vec<(SegmentNo, usize, Vec<u8>)> {
        let mut sectors = Vec::new();
        for write in self.in_flight.values() {
            let file = &self.files[&write.segment];
            for (i, sector) in write.bytes.chunks(SECTOR_BYTES).enumerate() {
                let at = write.offset + i * SECTOR_BYTES;
                if file[at..at + SECTOR_BYTES] != *sector {
                    sectors.push((write.segment, at, sector.to_vec()));
                }
            }
        }
        sectors
    }

    /// What the media hold after a crash that let those sectors through for which `kept` holds.
    pub(crate) fn crashed(&self, mut kept: impl FnMut(usize) -> bool) -> Self {
        let mut files = self.files.clone();
        for (i, (segment, at, sector)) in self.sectors().into_iter().enumerate() {
            if kept(i) {
                let file = files.get_mut(&segment).expect("a ready segment");
                file[at..at + SECTOR_BYTES].copy_from_slice(&sector);
            }
        }
        Self { files, in_flight: BTreeMap::new() }
    }
}

/// What one group's log must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModelGroup {
    pub(crate) hard_state: HardState,
    pub(crate) base: EntryId,
    pub(crate) batches: Vec<(Span, Rc<[u8]>)>,
}

impl ModelGroup {
    pub(crate) fn last(&self) -> EntryId {
        self.batches.last().map_or(self.base, |(span, _)| span.last_entry())
    }
}

pub(crate) type Model = BTreeMap<GroupId, ModelGroup>;

/// Whether `found` has everything that `promised` has. It may reach further back: a trim is no
/// promise, and holds only once an opening that knows of it is whole.
fn holds_all(found: &Model, promised: &Model) -> bool {
    promised.iter().all(|(group, promised)| {
        let found = &found[group];
        found.hard_state == promised.hard_state
            && found.last() == promised.last()
            && found.batches.ends_with(&promised.batches)
    })
}

/// The state of the model behind a block.
#[derive(Clone)]
pub(crate) struct Snapshot {
    pub(crate) end: Lsn,
    pub(crate) model: Model,
}

/// One node's log from format to format.
pub(crate) struct World {
    pub(crate) geometry: Geometry,
    pub(crate) disk: Disk,
    pub(crate) index: Index,
    pub(crate) planner: Planner,
    arena: Arena,
    pub(crate) prng: Prng,
    pub(crate) model: Model,
    /// One per block placed since the start, after the state at the start itself.
    pub(crate) history: Vec<Snapshot>,
    /// Snapshots up to this one are acknowledged.
    pub(crate) acked: usize,
    /// Something else than an opening was issued: there must be a log from now on (W-17).
    begun: bool,
    /// Openings whose last block is not durable: that block's write and what it still needs.
    openings: Vec<(WriteSeq, SegmentNo)>,
    opened_oldest: Option<SegmentNo>,
    spare: BTreeSet<SegmentNo>,
    now: Moment,
    next_record: u64,
    pub(crate) recycled: u64,
    pub(crate) rewritten: u64,
}

/// One change that goes into a block.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// `records` records of the hard state's term behind the last entry.
    Append { group: GroupId, records: u32, bytes: usize },
    /// A new term: another leader's batch over everything above the commit index, if any.
    Conflict { group: GroupId },
    /// A commit index and perhaps a vote.
    HardState { group: GroupId },
    /// A configuration.
    Configuration { group: GroupId },
    /// The log is replaced by a snapshot.
    Reset { group: GroupId },
}

pub(crate) fn recover(
    disk: &Disk,
    geometry: Geometry,
    may: WalMay,
    identity: Identity,
) -> Result<Recovered, RecoverError> {
    let files: Vec<SegmentFile> = disk
        .files
        .iter()
        .map(|(segment, file)| SegmentFile { segment: *segment, bytes: file.len() as u64 })
        .collect();
    let mut recovery = Recovery::new(identity, geometry, may, &files)?;
    loop {
        match recovery.next() {
            Step::Read(wish) => {
                let file = &disk.files[&wish.segment];
                let start = usize::try_from(wish.offset).expect("small");
                recovery.feed(Ok(&file[start..start + wish.bytes as usize]));
            }
            Step::Done(recovered) => return Ok(*recovered),
            Step::Refused(error) => return Err(error),
        }
    }
}

impl World {
    pub(crate) fn new(geometry: Geometry, groups: u64, seed: u64) -> Self {
        let disk = Disk::default();
        let mut recovered =
            recover(&disk, geometry, WalMay::BeEmpty, identity()).expect("nothing to refuse");
        let mut model = Model::new();
        for group in (1..=groups).map(GroupId::new) {
            recovered.index.create_group(group, REPLICA, membership());
            let empty = ModelGroup {
                hard_state: HardState::default(),
                base: EntryId::BEFORE_FIRST,
                batches: Vec::new(),
            };
            model.insert(group, empty);
        }
        Self::start(geometry, disk, recovered, model, Prng::new(seed))
    }

    fn start(
        geometry: Geometry,
        disk: Disk,
        recovered: Recovered,
        model: Model,
        prng: Prng,
    ) -> Self {
        let mut world = Self {
            geometry,
            disk,
            planner: Planner::new(geometry, &identity(), recovered.resume),
            index: recovered.index,
            arena: Arena::new(3, 64 << 10),
            prng,
            history: vec![Snapshot { end: recovered.end, model: model.clone() }],
            model,
            acked: 0,
            begun: false,
            openings: Vec::new(),
            opened_oldest: None,
            spare: recovered.spare.into_iter().collect(),
            now: Moment::ZERO,
            next_record: 0,
            recycled: 0,
            rewritten: 0,
        };
        world.roll();
        world
    }

    /// Crashes, recovers, checks, and goes on. `kept` chooses the sectors that survive.
    pub(crate) fn crash_and_restart(mut self, kept: impl FnMut(usize) -> bool) -> Self {
        let disk = self.disk.crashed(kept);
        let recovered = recover(&disk, self.geometry, self.may(), identity())
            .unwrap_or_else(|error| panic!("a crash is no corruption: {error}"));
        let seed = self.prng.next_u64();
        Self::again(&self, disk, recovered, seed)
    }

    /// Another life of `before` on `disk`, as `recovered` found it.
    pub(crate) fn again(before: &Self, disk: Disk, mut recovered: Recovered, seed: u64) -> Self {
        let model = before.check_recovered(&disk, &recovered).clone();
        if recovered.groups.is_empty() {
            for group in model.keys() {
                recovered.index.create_group(*group, REPLICA, membership());
            }
        }
        let mut next = Self::start(before.geometry, disk, recovered, model, Prng::new(seed));
        next.begun = before.begun;
        next.recycled = before.recycled;
        next.rewritten = before.rewritten;
        next.next_record = before.next_record + 1_000_000;
        next
    }

    /// Until the first opening is durable the log may be empty, and nothing else is issued.
    pub(crate) fn may(&self) -> WalMay {
        if self.begun { WalMay::NotBeEmpty } else { WalMay::BeEmpty }
    }

    /// What was recovered must be the state behind one of the blocks placed, at or after the last
    /// acknowledged one. Returns that state.
    pub(crate) fn check_recovered(&self, disk: &Disk, recovered: &Recovered) -> &Model {
        recovered.index.check();
        let found = self.history.iter().rposition(|snapshot| snapshot.end == recovered.end);
        let found = found.unwrap_or_else(|| panic!("{:?} is no block's end", recovered.end));
        let model = &self.history[found].model;
        // A block that changed nothing, such as a seal or a part of an opening, may be lost.
        let is_all = self.acked <= found || holds_all(model, &self.history[self.acked].model);
        assert!(is_all, "acknowledged {}, recovered {found}", self.acked);
        if recovered.groups.is_empty() {
            assert!(self.may() == WalMay::BeEmpty, "a log vanished");
            return model;
        }
        assert!(recovered.groups.len() == model.len());
        for group in &recovered.groups {
            let expected = &model[&group.group];
            assert_eq!(group.hard_state, expected.hard_state);
            assert_eq!(group.last, expected.last());
            assert!(group.base.index <= expected.base.index, "{group:?}");
            assert!(group.spans.last().is_none_or(|(span, ..)| span.last_entry() == group.last));
        }
        check_content(disk, (&recovered.index, self.geometry), model);
        model
    }

    fn write(&mut self, block: Vec<u8>, placement: catamaran::wal::Placement) {
        self.index.note_block(&block, placement.lsn, &identity());
        self.index.check();
        self.planner.check();
        let end = placement.lsn.plus(block.len() as u64);
        self.history.push(Snapshot { end, model: self.model.clone() });
        let offset = usize::try_from(placement.offset).expect("small");
        assert!(self.disk.files.contains_key(&placement.segment), "not prepared");
        self.disk
            .in_flight
            .insert(placement.write, Write { segment: placement.segment, offset, bytes: block });
    }

    /// Finishes a random write.
    pub(crate) fn complete_one(&mut self) {
        let count = self.disk.in_flight.len() as u64;
        assert!(count > 0, "nothing is in flight");
        let nth = usize::try_from(self.prng.below(count)).expect("small");
        let write = *self.disk.in_flight.keys().nth(nth).expect("counted");
        self.disk.land(write);
        if let Some(newest) = self.planner.on_write_done(write, self.now) {
            self.acked = usize::try_from(newest.get()).expect("small");
            while self.openings.first().is_some_and(|(last, _)| *last <= newest) {
                self.opened_oldest = Some(self.openings.remove(0).1);
            }
        }
        self.planner.check();
    }

    pub(crate) fn complete_all(&mut self) {
        while !self.disk.in_flight.is_empty() {
            self.complete_one();
        }
    }

    /// Makes the segments ready that the planner wants, recycling dead files if there are any.
    fn prepare(&mut self) {
        while let Some(wanted) = self.planner.segment_wanted() {
            let current = wanted; // nothing newer exists
            if let Some(oldest) = self.opened_oldest {
                let present: Vec<SegmentNo> = self.disk.files.keys().copied().collect();
                let none = |_| LogIndex::BEFORE_FIRST;
                let plan = plan_retention(&self.index, &present, oldest, current, none);
                self.spare.extend(plan.recyclable);
            }
            let file = match self.spare.pop_first() {
                Some(dead) => {
                    self.recycled += 1;
                    self.disk.files.remove(&dead).unwrap_or_default()
                }
                None => Vec::new(),
            };
            let mut file = file;
            file.resize(usize::try_from(self.geometry.segment_bytes).expect("small"), 0);
            assert!(self.disk.files.insert(wanted, file).is_none(), "{wanted:?} exists");
            self.planner.segment_ready(wanted);
        }
    }

    fn roll(&mut self) {
        self.prepare();
        let plan = self.planner.next_opening();
        let parts = self.index.opening(&plan);
        while !self.planner.can_roll(self.geometry.block_bytes_max) {
            self.complete_one();
        }
        let boot = self.history.len() == 1;
        self.planner.roll(u32::try_from(parts.len()).expect("few"));
        let mut last = WriteSeq::NONE;
        let mut oldest = plan.segment;
        for records in parts {
            if let Record::SegmentOpen(open) = &records[0] {
                oldest = open.oldest;
            }
            let mut builder = self.builder();
            for record in &records {
                builder.push_record(record).expect("a part fits into a block");
            }
            while !self.planner.fits_part(builder.total_bytes()) {
                self.complete_one();
            }
            let placement = self.planner.place_part(builder.total_bytes(), self.now);
            last = placement.write;
            let closed = builder.close(placement.stamp);
            self.write(closed.buf[..closed.total_bytes as usize].to_vec(), placement);
        }
        self.openings.push((last, oldest));
        if boot && self.prng.chance(3, 4) {
            self.complete_all();
        }
    }

    fn builder(&mut self) -> BlockBuilder {
        let buf =
            self.arena.take(self.geometry.block_bytes_max as usize).expect("blocks are dropped");
        BlockBuilder::new(buf)
    }

    /// Waits and rolls until a block of `bytes` can be placed.
    fn make_room(&mut self, bytes: u32) {
        loop {
            if self.planner.needs_roll(bytes) {
                self.roll();
            } else if self.planner.fits(bytes) {
                return;
            } else {
                self.complete_one();
            }
        }
    }

    /// Puts as many of `changes` as fit into one block and places it.
    pub(crate) fn write_block(&mut self, changes: &[Change]) {
        let mut builder = self.builder();
        for change in changes {
            self.change(&mut builder, change);
        }
        if builder.is_empty() {
            return;
        }
        self.place_built(builder, BlockRole::Data);
    }

    fn place_built(&mut self, builder: BlockBuilder, role: BlockRole) {
        let bytes = builder.total_bytes();
        if self.planner.needs_roll(bytes) || !self.planner.fits(bytes) {
            // A roll checkpoints the index, which does not have this block's changes yet: the
            // model must not have them either.
            let settled = self.settled();
            let model = core::mem::replace(&mut self.model, settled);
            self.make_room(bytes);
            self.model = model;
        }
        let placement = self.planner.place(bytes, role, self.now);
        self.begun = true;
        let closed = builder.close(placement.stamp);
        self.write(closed.buf[..closed.total_bytes as usize].to_vec(), placement);
    }

    /// The model behind the last block placed.
    fn settled(&self) -> Model {
        let mut settled = self.history.last().expect("never empty").model.clone();
        // Trims are not written: they hold at once.
        for (group, log) in &mut settled {
            let now = &self.model[group];
            if now.base.index > log.base.index && now.base.index <= log.last().index {
                log.base = now.base;
                log.batches.retain(|(span, _)| span.first > now.base.index);
            }
        }
        settled
    }

    /// Writes a seal if one is due.
    pub(crate) fn seal(&mut self) {
        self.now = self.now.after(catamaran::wal::SEAL_AFTER);
        if self.planner.seal_due(self.now) {
            let builder = self.builder();
            self.place_built(builder, BlockRole::Seal);
        }
    }

    fn change(&mut self, builder: &mut BlockBuilder, change: &Change) {
        match *change {
            Change::Append { group, records, bytes } => {
                let body = self.body(records, bytes);
                self.append(builder, group, (BatchKind::Records, records), &body);
            }
            Change::Conflict { group } => self.conflict(builder, group),
            Change::HardState { group } => {
                let mut state = self.model[&group].hard_state;
                let low = state.commit.get();
                let high = self.durable_last(group).get().max(low);
                state.commit = LogIndex::new(self.prng.between(low, high + 1));
                if state.vote.is_none() {
                    state.vote = Some(NodeId::new(2));
                }
                self.hard_state(builder, group, state);
            }
            Change::Configuration { group } => {
                let mut record = Vec::new();
                encode_membership(&membership(), &mut record);
                let mut body = Vec::new();
                encode_record(&record, &mut body);
                self.append(builder, group, (BatchKind::Configuration, 1), &body);
            }
            Change::Reset { group } => self.reset(builder, group),
        }
    }

    /// Up to where the log is durable and not overwritten since: all that may be called committed
    /// (H-07).
    fn durable_last(&self, group: GroupId) -> LogIndex {
        let (now, durable) = (&self.model[&group], &self.history[self.acked].model[&group]);
        let same = now
            .batches
            .iter()
            .rev()
            .find(|(span, _)| durable.batches.iter().any(|(other, _)| other == span));
        same.map_or(LogIndex::BEFORE_FIRST, |(span, _)| span.last())
    }

    fn body(&mut self, records: u32, bytes: usize) -> Vec<u8> {
        let mut body = Vec::new();
        for _ in 0..records {
            self.next_record += 1;
            let mut record = vec![u8::try_from(self.next_record % 251).expect("small"); bytes];
            record[..8].copy_from_slice(&self.next_record.to_le_bytes());
            encode_record(&record, &mut body);
        }
        body
    }

    fn append(
        &mut self,
        builder: &mut BlockBuilder,
        group: GroupId,
        (kind, records): (BatchKind, u32),
        body: &[u8],
    ) {
        if self.model[&group].hard_state.term == Term::ZERO {
            let state = HardState { term: Term::new(1), ..HardState::default() };
            if !self.hard_state(builder, group, state) {
                return;
            }
        }
        let log = self.model.get_mut(&group).expect("a group");
        let span = Span {
            term: log.hard_state.term,
            first: log.last().index.next(),
            count: RecordCount::new(records),
        };
        let bytes = encode_batch(group, ReplicaId::new(3), span, kind, body);
        if bytes.len() > builder.room_bytes() {
            return;
        }
        let header = BatchHeader::decode(&bytes).expect("just encoded");
        builder.batch_space(bytes.len()).copy_from_slice(&bytes);
        builder.list(&header, REPLICA);
        log.batches.push((span, bytes.into()));
    }

    fn hard_state(&mut self, builder: &mut BlockBuilder, group: GroupId, state: HardState) -> bool {
        let record = Record::HardState { group, replica: REPLICA, state };
        // Records take effect before batches, so a commit index may not name this block's own.
        let written = builder.push_record(&record).is_ok();
        if written {
            self.model.get_mut(&group).expect("a group").hard_state = state;
        }
        written
    }

    /// A leader of a new term overwrites from a random batch above the commit index.
    fn conflict(&mut self, builder: &mut BlockBuilder, group: GroupId) {
        let log = &self.model[&group];
        let from = log
            .batches
            .iter()
            .position(|(span, _)| span.first > log.hard_state.commit)
            .map(|first| self.prng.between(first as u64, log.batches.len() as u64 + 1));
        let term = log.hard_state.term.next();
        let state = HardState { term, vote: None, commit: log.hard_state.commit };
        let body = self.body(1, 20);
        // Room for all of it first, so that model and block agree.
        if builder.room_bytes() < BATCH_HEADER_BYTES + body.len() + 64
            || !self.hard_state(builder, group, state)
        {
            return;
        }
        if let Some(from) = from {
            let from = usize::try_from(from).expect("small");
            self.model.get_mut(&group).expect("a group").batches.truncate(from);
        }
        self.append(builder, group, (BatchKind::Records, 1), &body);
    }

    fn reset(&mut self, builder: &mut BlockBuilder, group: GroupId) {
        let log = &self.model[&group];
        let keep_tail = self.prng.chance(1, 2) && !log.batches.is_empty();
        let last = if keep_tail {
            let nth = usize::try_from(self.prng.below(log.batches.len() as u64)).expect("small");
            log.batches[nth].0.last_entry()
        } else {
            EntryId::new(log.hard_state.term, LogIndex::new(log.last().index.get() + 5))
        };
        if log.hard_state.term == Term::ZERO {
            return;
        }
        let reset = LogReset { group, replica: REPLICA, last, membership: membership(), keep_tail };
        if builder.push_record(&Record::LogReset(reset)).is_err() {
            return;
        }
        let log = self.model.get_mut(&group).expect("a group");
        log.base = last;
        log.batches.retain(|(span, _)| keep_tail && span.first > last.index);
    }

    /// A follower's way: a received frame is claimed, and only every other batch of it is new.
    pub(crate) fn write_frame(&mut self, group: GroupId) {
        if self.model[&group].hard_state.term == Term::ZERO {
            return;
        }
        let area = frame_area_bytes(3).next_multiple_of(64);
        let mut frame = vec![0xa5; area];
        let mut entries = Vec::new();
        let before = self.model.clone();
        for new in [true, false, true] {
            let body = self.body(2, 30);
            let log = self.model.get_mut(&group).expect("a group");
            let span = Span {
                term: log.hard_state.term,
                first: log.last().index.next(),
                count: RecordCount::new(2),
            };
            let bytes = encode_batch(group, ReplicaId::new(3), span, BatchKind::Records, &body);
            if new {
                entries.push(DirectoryEntry {
                    group,
                    replica: REPLICA,
                    span,
                    kind: BatchKind::Records,
                    offset: u32::try_from(frame.len()).expect("small"),
                    bytes: u32::try_from(bytes.len()).expect("small"),
                });
                log.batches.push((span, bytes.as_slice().into()));
            }
            frame.extend_from_slice(&bytes);
        }
        frame.resize(frame.len().next_multiple_of(4096), 0);
        let bytes = u32::try_from(frame.len()).expect("small");
        let after = core::mem::replace(&mut self.model, before);
        self.make_room(bytes);
        // The roll may have trimmed nothing: only its checkpoint was written.
        self.model = after;
        let placement = self.planner.place(bytes, BlockRole::Data, self.now);
        self.begun = true;
        let state = self.model[&group].hard_state;
        let record = Record::HardState { group, replica: REPLICA, state };
        claim_frame(&mut frame, area, &entries, &[record], placement.stamp).expect("room for one");
        self.write(frame, placement);
    }

    /// Trims to the limit, and copies forward what keeps an old segment alive.
    pub(crate) fn retain(&mut self, limit: Limit) {
        let groups: Vec<GroupId> = self.model.keys().copied().collect();
        for group in groups {
            let committed = self.model[&group].hard_state.commit;
            if let Some(base) = trim_point(&self.index, group, limit, committed) {
                self.index.trim(group, base);
                let log = self.model.get_mut(&group).expect("a group");
                log.base = base;
                log.batches.retain(|(span, _)| span.first > base.index);
            }
        }
        let Some(oldest) = self.opened_oldest else { return };
        let present: Vec<SegmentNo> = self.disk.files.keys().copied().collect();
        let current = self.geometry.segment_of(self.planner.next_lsn());
        let committed = |group| self.model[&group].hard_state.commit;
        let plan = plan_retention(&self.index, &present, oldest, current, committed);
        for rewrite in plan.rewrite {
            self.rewrite(rewrite.group, rewrite.first, rewrite.last);
        }
    }

    fn rewrite(&mut self, group: GroupId, first: LogIndex, last: LogIndex) {
        let mut next = first;
        while next <= last {
            let (_, bytes) = read_batch(&self.disk, (&self.index, self.geometry), group, next)
                .expect("live and durable");
            let header = BatchHeader::decode(&bytes).expect("verified");
            let mut builder = self.builder();
            builder.batch_space(bytes.len()).copy_from_slice(&bytes);
            builder.list(&header, REPLICA);
            self.place_built(builder, BlockRole::Data);
            self.rewritten += 1;
            next = header.span.last().next();
        }
    }

    /// A random turn of everything that can happen.
    pub(crate) fn random_step(&mut self) {
        let groups: Vec<GroupId> = self.model.keys().copied().collect();
        let pick = |prng: &mut Prng| {
            groups[usize::try_from(prng.below(groups.len() as u64)).expect("small")]
        };
        match self.prng.below(20) {
            0..=9 => {
                let count = self.prng.between(1, 5);
                let changes: Vec<Change> =
                    (0..count).map(|_| random_change(&mut self.prng, pick)).collect();
                self.write_block(&changes);
            }
            10..=12 => {
                let group = pick(&mut self.prng);
                self.write_frame(group);
            }
            13..=16 if !self.disk.in_flight.is_empty() => self.complete_one(),
            17 => self.complete_all(),
            18 => {
                self.retain(Limit { bytes: 20_000, records: u64::MAX });
            }
            _ => self.seal(),
        }
    }
}

fn random_change(prng: &mut Prng, pick: impl Fn(&mut Prng) -> GroupId) -> Change {
    let group = pick(prng);
    match prng.below(12) {
        0..=6 => Change::Append {
            group,
            records: u32::try_from(prng.between(1, 6)).expect("small"),
            bytes: usize::try_from(prng.between(8, 900)).expect("small"),
        },
        7 => Change::Conflict { group },
        8..=9 => Change::HardState { group },
        10 => Change::Configuration { group },
        _ => {
            if prng.chance(1, 8) {
                Change::Reset { group }
            } else {
                Change::HardState { group }
            }
        }
    }
}

/// The batch of `group` that holds `index`, read back as the shard does it, and its block.
pub(crate) fn read_batch(
    disk: &Disk,
    (index, geometry): (&Index, Geometry),
    group: GroupId,
    at: LogIndex,
) -> Option<(Lsn, Vec<u8>)> {
    let located = index.locate(group, at)?;
    let term = index.term_at(group, at)?;
    let offset = usize::try_from(geometry.offset_of(located.block)).expect("small");
    let file = &disk.files[&located.segment];
    if let Some(place) = located.batch {
        let start = offset + place.offset as usize;
        let bytes = file[start..start + place.bytes as usize].to_vec();
        let header = BatchHeader::decode(&bytes).expect("an exact place");
        assert_eq!(header.span, place.span);
        assert_eq!(Checksum::of(&bytes[BATCH_HEADER_BYTES..]), header.body_crc);
        return Some((place.block, bytes));
    }
    for block in blocks_in(&file[offset..], located.block, &identity()) {
        for entry in block.entries() {
            let wanted = entry.group == group && entry.span.contains(at) && entry.span.term == term;
            if wanted {
                block.batch(&entry).expect("live data are sound");
                return Some((block.lsn(), block.batch_bytes(&entry).to_vec()));
            }
        }
    }
    None
}

/// Every batch of the model can be read back, byte for byte; and where the index says that batches lie
/// in the order of their indexes they do, or whoever reads on would miss some.
pub(crate) fn check_content(disk: &Disk, index: (&Index, Geometry), model: &Model) {
    for (group, log) in model {
        let mut before: Option<Lsn> = None;
        for (span, expected) in &log.batches {
            let found = read_batch(disk, index, *group, span.last());
            let Some((block, _)) = found.filter(|(_, bytes)| *bytes == **expected) else {
                panic!("{group:?} {span:?} cannot be read back");
            };
            let located = index.0.locate(*group, span.last()).expect("it was just read");
            if located.since < span.first {
                assert!(
                    before.is_none_or(|before| before <= block),
                    "{group:?} {span:?} lies below"
                );
            }
            before = Some(block);
        }
    }
}
