//! Blocks whose checksums hold and whose content is nonsense: refused or consistent, never a panic.
//!
//! A writer with a bug, or a hand with a hex editor, may leave such blocks. Recovery must say what
//! contradicts what, and if it accepts them then the index must keep its own invariants.

use catamaran::base::{Arena, Checksum, Prng};
use catamaran::model::batch::{encode_batch, encode_record};
use catamaran::model::{
    BatchHeader, BatchKind, EntryId, GroupId, HardState, LogIndex, Membership, NodeId, RecordCount,
    ReplicaId, Span, Term,
};
use catamaran::wal::{
    BlockBuilder, BlockRole, GroupCheckpoint, LogReset, Lsn, Record, RecoverError, SegmentNo,
    SegmentOpen, Stamp, TermRun, Void, WalMay, blocks_in,
};

use super::wal_world::{Disk, SMALL, identity, recover};

fn small(prng: &mut Prng, below: u64) -> u64 {
    // Now and then a number from the end of the range.
    if prng.chance(1, 200) { u64::MAX - prng.below(3) } else { prng.below(below) }
}

fn entry(prng: &mut Prng) -> EntryId {
    EntryId::new(Term::new(small(prng, 5)), LogIndex::new(small(prng, 12)))
}

fn hard_state(prng: &mut Prng) -> HardState {
    let vote = prng.chance(1, 2).then(|| NodeId::new(1));
    let commit = LogIndex::new(if prng.chance(1, 2) { 0 } else { small(prng, 12) });
    HardState { term: Term::new(small(prng, 3).saturating_add(3)), vote, commit }
}

fn replica(prng: &mut Prng) -> ReplicaId {
    ReplicaId::new(if prng.chance(1, 100) { 2 } else { 1 })
}

fn record(prng: &mut Prng) -> Record {
    let group = GroupId::new(prng.between(1, 3));
    let replica = replica(prng);
    let membership = Membership::of_voters(&[NodeId::new(1)]);
    match prng.below(6) {
        0 | 1 => Record::HardState { group, replica, state: hard_state(prng) },
        2 => Record::LogReset(LogReset {
            group,
            replica,
            last: entry(prng),
            membership,
            keep_tail: prng.chance(1, 2),
        }),
        3 => Record::Group(GroupCheckpoint {
            group,
            replica,
            hard_state: hard_state(prng),
            base: if prng.chance(1, 2) { EntryId::BEFORE_FIRST } else { entry(prng) },
            base_membership: membership,
            last: entry(prng),
        }),
        4 => {
            let runs = (0..prng.below(4)).map(|_| entry(prng));
            let runs = runs.map(|run| TermRun { term: run.term, first: run.index }).collect();
            Record::TermRuns { group, runs }
        }
        _ => {
            let index = LogIndex::new(small(prng, 12));
            Record::Membership { group, index, membership }
        }
    }
}

fn batch(prng: &mut Prng) -> Vec<u8> {
    let count = u32::try_from(prng.between(1, 4)).expect("small");
    let mut body = Vec::new();
    (0..count).for_each(|_| encode_record(b"x", &mut body));
    let span = Span {
        term: Term::new(small(prng, 6)),
        first: LogIndex::new(1 + small(prng, 12) % (u64::MAX - 10)),
        count: RecordCount::new(count),
    };
    let kinds = [BatchKind::Records, BatchKind::Noop, BatchKind::Configuration];
    let kind = kinds[usize::try_from(prng.below(30)).expect("small").saturating_sub(27)];
    encode_batch(GroupId::new(prng.between(1, 3)), ReplicaId::new(1), span, kind, &body)
}

/// The first block: groups 1 and 2, usually empty and sound.
fn opening(prng: &mut Prng) -> Vec<Record> {
    let open = SegmentOpen {
        part: 0,
        parts: 1,
        window_bytes: SMALL.in_flight_bytes_max,
        segment_bytes: SMALL.segment_bytes,
        void: Void::default(),
        oldest: SegmentNo(0),
    };
    let mut records = vec![Record::SegmentOpen(open)];
    if prng.chance(1, 5) {
        records.extend((0..4).map(|_| record(prng)));
        return records;
    }
    records.extend([1, 2].map(|group| {
        Record::Group(GroupCheckpoint {
            group: GroupId::new(group),
            replica: ReplicaId::new(1),
            hard_state: HardState { term: Term::new(3), ..HardState::default() },
            base: EntryId::BEFORE_FIRST,
            base_membership: Membership::of_voters(&[NodeId::new(1)]),
            last: EntryId::BEFORE_FIRST,
        })
    }));
    records
}

fn image(prng: &mut Prng) -> Disk {
    let mut arena = Arena::new(1, 64 << 10);
    let mut file = Vec::new();
    for block in 0..prng.between(2, 10) {
        let mut builder = BlockBuilder::new(arena.take(4096).expect("sixteen of them"));
        let role = if block == 0 { BlockRole::SegmentOpen } else { BlockRole::Data };
        if block == 0 {
            for record in opening(prng) {
                builder.push_record(&record).expect("room");
            }
        } else {
            for _ in 0..prng.below(3) {
                let record = record(prng);
                let _room = builder.push_record(&record);
            }
            for _ in 0..prng.below(4) {
                let batch = batch(prng);
                builder.batch_space(batch.len()).copy_from_slice(&batch);
                if let Ok(header) = BatchHeader::decode(&batch) {
                    builder.list(&header, replica(prng));
                }
            }
        }
        let lsn = Lsn::new(block * 4096);
        let stamp = Stamp { identity_tag: identity().tag(), lsn, durable_lsn: lsn, role };
        file.extend_from_slice(&builder.close(stamp).buf[..4096]);
    }
    file.resize(64 << 10, 0);
    Disk { files: [(SegmentNo(0), file)].into(), ..Disk::default() }
}

#[test]
fn sound_blocks_of_nonsense_are_refused_or_consistent() {
    let (mut refused, mut accepted) = (0, 0);
    for seed in 0..8_000 {
        let disk = image(&mut Prng::new(seed));
        match recover(&disk, SMALL, WalMay::NotBeEmpty, identity()) {
            Ok(recovered) => {
                recovered.index.check();
                accepted += 1;
            }
            Err(
                RecoverError::Contradiction { .. }
                | RecoverError::Corrupt { .. }
                | RecoverError::Empty { .. },
            ) => refused += 1,
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }
    assert!(refused > 1000 && accepted > 100, "{refused} refused, {accepted} accepted");
}

/// Puts the checksums of the block at `start` right again, if its areas lie inside it.
fn seal_crcs(file: &mut [u8], start: usize) {
    let field = |file: &[u8], at: usize| {
        let bytes = file[start + at..start + at + 4].try_into().expect("four bytes");
        u32::from_le_bytes(bytes) as usize
    };
    let directory = (field(file, 40), field(file, 44).saturating_mul(48));
    let records = (field(file, 48), field(file, 52));
    let area = |(offset, bytes): (usize, usize)| {
        let end = offset.checked_add(bytes)?.checked_add(start)?;
        file.get(start + offset..end)
    };
    if let (Some(directory), Some(records)) = (area(directory), area(records)) {
        let crc = Checksum::of(directory).then(records).as_u32();
        file[start + 56..start + 60].copy_from_slice(&crc.to_le_bytes());
    }
    let crc = Checksum::of(&file[start..start + 60]).as_u32();
    file[start + 60..start + 64].copy_from_slice(&crc.to_le_bytes());
}

/// W-03: every field of every header, directory and record of sound logs is given the numbers
/// with which arithmetic goes wrong, checksums put right again. Recovery refuses or finds a log
/// that is consistent; it never overflows, allocates by what it reads, or loops.
#[test]
fn no_field_of_a_block_is_trusted() {
    let (mut refused, mut accepted) = (0, 0);
    let numbers: [u64; 9] =
        [0, 1, 63, 4095, 65_536, u64::from(u32::MAX), 1 << 62, (1 << 63) - 1, u64::MAX];
    for seed in [8] {
        let mut world = super::sealed(seed, 40);
        world.complete_all();
        let recovered = super::again(&world.disk).expect("sound");
        for segment in &recovered.kept {
            let sound = world.disk.files[segment].clone();
            let blocks: Vec<_> = blocks_in(&sound, SMALL.start_of(*segment), &identity())
                .take_while(|block| block.lsn() < recovered.end)
                .map(|block| (SMALL.offset_of(block.lsn()), block.meta_ranges()))
                .collect();
            for (start, [directory, records]) in blocks {
                let start = usize::try_from(start).expect("small");
                for at in (4..60).chain(directory).chain(records).step_by(2) {
                    for (number, bytes) in
                        numbers.iter().flat_map(|number| [(*number, 4), (*number, 8)])
                    {
                        let file = world.disk.files.get_mut(segment).expect("kept");
                        let place = start + at;
                        file[place..place + bytes].copy_from_slice(&number.to_le_bytes()[..bytes]);
                        seal_crcs(file, start);
                        match super::again(&world.disk) {
                            Ok(recovered) => {
                                recovered.index.check();
                                accepted += 1;
                            }
                            Err(_) => refused += 1,
                        }
                        let file = world.disk.files.get_mut(segment).expect("kept");
                        let block = start..start + 4096;
                        file[block.clone()].copy_from_slice(&sound[block]);
                    }
                }
            }
        }
    }
    assert!(refused > 5_000 && accepted > 100, "{refused} refused, {accepted} accepted");
}

/// A log of one opening, whose sizes are whatever one likes.
pub(super) fn opening_of(segment_bytes: u64, window_bytes: u64) -> Disk {
    let mut arena = Arena::new(1, 64 << 10);
    let mut builder = BlockBuilder::new(arena.take(4096).expect("one"));
    let open = SegmentOpen {
        part: 0,
        parts: 1,
        window_bytes,
        segment_bytes,
        void: Void::default(),
        oldest: SegmentNo(0),
    };
    builder.push_record(&Record::SegmentOpen(open)).expect("room");
    let role = BlockRole::SegmentOpen;
    let (lsn, identity_tag) = (Lsn::ZERO, identity().tag());
    let mut file =
        builder.close(Stamp { identity_tag, lsn, durable_lsn: lsn, role }).buf[..4096].to_vec();
    file.resize(64 << 10, 0);
    Disk { files: [(SegmentNo(0), file)].into(), ..Disk::default() }
}

/// A window larger than a segment is no planner's; positions computed with it would overflow.
#[test]
fn a_window_that_no_planner_has_is_refused() {
    for window_bytes in [SMALL.segment_bytes, 1 << 62, u64::MAX] {
        let disk = opening_of(SMALL.segment_bytes, window_bytes);
        let error = recover(&disk, SMALL, WalMay::NotBeEmpty, identity()).expect_err("forged");
        assert!(matches!(error, RecoverError::Window { .. }), "{error}");
    }
}
