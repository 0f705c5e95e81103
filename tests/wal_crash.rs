//! What a crash, a rotten bit or a lost file may do to a log, and what recovery must say.
//!
//! The real builder, planner, index and recovery run over an in-memory disk that keeps any subset
//! of the sectors in flight (`wal_world`). Claims, one per test, with the rules they show.

#[path = "wal_world/forged.rs"]
mod forged;
#[path = "wal_world/subsets.rs"]
mod subsets;
#[path = "wal_world/vectors.rs"]
mod vectors;
mod wal_world;
#[path = "wal_world/walcat.rs"]
mod walcat;

use catamaran::model::{ClusterId, GroupId, NodeUuid, ShardId};
use catamaran::wal::{
    BlockError, Geometry, Identity, Limit, Lsn, ReadFault, RecoverError, Recovery, SegmentFile,
    SegmentNo, Step, WalMay, blocks_in, parse_block,
};
use wal_world::{Change, Disk, SMALL, World, identity, recover};

fn append(group: u64, records: u32, bytes: usize) -> Change {
    Change::Append { group: GroupId::new(group), records, bytes }
}

fn again(disk: &Disk) -> Result<catamaran::wal::Recovered, RecoverError> {
    recover(disk, SMALL, WalMay::NotBeEmpty, identity())
}

/// A log of several segments, everything durable and sealed.
fn sealed(seed: u64, steps: usize) -> World {
    let mut world = World::new(SMALL, 3, seed);
    for _ in 0..steps {
        world.random_step();
    }
    world.complete_all();
    world.seal();
    world.complete_all();
    world
}

/// D1, D2, W-05, W-08, I-01: random histories, random subsets, several lives of the same disk. All
/// that was acknowledged is there, what is there was written, and nothing discarded comes back.
/// D11, W-11, W-13: segments are recycled and live remainders rewritten all the time meanwhile.
#[test]
fn random_crashes_lose_nothing_acknowledged_and_resurrect_nothing() {
    let (mut recycled, mut rewritten) = (0, 0);
    for seed in 0..400 {
        let mut world = World::new(SMALL, 1 + seed % 4, seed);
        for _life in 0..6 {
            let steps = world.prng.between(1, 80);
            for _ in 0..steps {
                world.random_step();
            }
            let mut chance = world.prng.fork();
            let kept_of_8 = chance.below(9);
            world = world.crash_and_restart(|_| chance.chance(kept_of_8, 8));
        }
        recycled += world.recycled;
        rewritten += world.rewritten;
    }
    assert!(recycled > 1000, "{recycled} segments recycled");
    assert!(rewritten > 1000, "{rewritten} batches rewritten forward");
}

/// The same for one long life without restarts: stale blocks of many laps lie behind the end.
#[test]
fn stale_blocks_of_recycled_segments_are_recognised() {
    let mut world = World::new(SMALL, 2, 77);
    while world.recycled < 40 {
        world.write_block(&[append(1, 4, 700), append(2, 1, 300)]);
        world.write_block(&[Change::HardState { group: GroupId::new(1) }]);
        world.complete_all();
        world.write_block(&[Change::HardState { group: GroupId::new(2) }]);
        world.retain(Limit { bytes: 30_000, records: u64::MAX });
        let recovered = again(&world.disk.crashed(|_| false)).expect("nothing is wrong");
        world.check_recovered(&world.disk.crashed(|_| false), &recovered);
    }
}

/// W-13: an idle group's last batch is rewritten forward; a crash after every single write, with
/// everything in flight kept, lost, or every other sector of it.
#[test]
fn rewriting_forward_survives_a_crash_at_each_step() {
    let mut rewritten = 0;
    for stop in 0..120 {
        for keep in 0..3 {
            let mut world = World::new(SMALL, 2, 5);
            world.write_block(&[append(2, 1, 100), append(2, 2, 50)]);
            while world.history.len() < 10 + stop {
                world.write_block(&[append(1, 3, 800)]);
                world.write_block(&[append(1, 3, 800)]);
                world.complete_one();
                world.write_block(
                    &[1, 2].map(|group| Change::HardState { group: GroupId::new(group) }),
                );
                world.retain(Limit { bytes: 60_000, records: u64::MAX });
            }
            rewritten += world.rewritten;
            drop(world.crash_and_restart(|sector| keep == 2 || (keep == 1 && sector % 2 == 0)));
        }
    }
    assert!(rewritten > 100, "{rewritten} batches rewritten");
}

/// W-08: an opening of several blocks is cut off between them, at the first start of a log, at a
/// later start and at an ordinary roll, again and again before anything else is written.
#[test]
fn an_opening_of_several_blocks_is_cut_off_again_and_again() {
    let mut cut_in_openings = 0;
    for seed in 0..120 {
        let mut world = World::new(SMALL, 320, seed);
        for life in 0..6 {
            if life % 3 == 1 {
                world.complete_all();
                let segment = SMALL.segment_of(world.planner.next_lsn());
                while SMALL.segment_of(world.planner.next_lsn()) == segment {
                    world.write_block(&[append(1 + seed % 320, 2, 3000), append(7, 1, 900)]);
                }
            }
            let sectors = world.disk.sectors().len() as u64;
            let prefix = world.prng.below(sectors + 2);
            let mut chance = world.prng.fork();
            let scattered = chance.chance(1, 3);
            world = world.crash_and_restart(|sector| {
                (sector as u64) < prefix || (scattered && chance.chance(1, 2))
            });
            cut_in_openings += u64::from(prefix > 0 && prefix < sectors);
        }
    }
    assert!(cut_in_openings > 100, "{cut_in_openings} of them");
}

/// Where the live bytes of a recovered log are: everything that some checksum covers.
fn live_ranges(world: &World) -> Vec<(SegmentNo, core::ops::Range<usize>, Lsn)> {
    let recovered = again(&world.disk).expect("sound");
    let mut live = Vec::new();
    for segment in &recovered.kept {
        let start = SMALL.start_of(*segment);
        for block in blocks_in(&world.disk.files[segment], start, &identity()) {
            if block.lsn() >= recovered.end {
                break;
            }
            let at = usize::try_from(SMALL.offset_of(block.lsn())).expect("small");
            let mut covered: Vec<core::ops::Range<usize>> = block
                .entries()
                .map(|entry| entry.offset as usize..(entry.offset + entry.bytes) as usize)
                .collect();
            covered.push(0..64);
            covered.extend(block.meta_ranges());
            let covered = covered.into_iter().map(|range| range.start + at..range.end + at);
            live.extend(covered.map(|range| (*segment, range, block.lsn())));
        }
    }
    live
}

/// W-05, W-06, table 3.2: with the seal written, a flipped bit anywhere in live bytes refuses the
/// log, with its place; one in the seal itself costs the seal; one elsewhere changes nothing.
#[test]
fn every_flipped_bit_below_the_watermark_is_refused() {
    for seed in 0..2 {
        let world = sealed(seed, 60);
        let sound = again(&world.disk).expect("sound");
        let live = live_ranges(&world);
        let mut disk = world.disk.clone();
        let mut refused = 0;
        for (segment, range, lsn) in &live {
            let bits = [0, 3, 7];
            for (byte, bit) in range.clone().flat_map(|byte| bits.map(|bit| (byte, bit))) {
                if range.len() > 600 && byte % 13 != 0 {
                    continue;
                }
                let file = disk.files.get_mut(segment).expect("present");
                file[byte] ^= 1 << bit;
                match again(&disk) {
                    Err(error) => {
                        assert!(*lsn < sound.durable_lsn, "{error}");
                        refused += 1;
                    }
                    Ok(recovered) => {
                        assert!(*lsn >= sound.durable_lsn, "{lsn} byte {byte} was let through");
                        assert_eq!(recovered.end, *lsn, "the seal is cut, nothing else");
                        world.check_recovered(&disk, &recovered);
                    }
                }
                disk.files.get_mut(segment).expect("present")[byte] ^= 1 << bit;
            }
        }
        assert!(refused > 5000, "{refused} flips");
        flips_elsewhere_change_nothing(&world, &live);
    }
}

fn flips_elsewhere_change_nothing(
    world: &World,
    live: &[(SegmentNo, core::ops::Range<usize>, Lsn)],
) {
    let sound = again(&world.disk).expect("sound");
    let mut disk = world.disk.clone();
    for (segment, file) in &world.disk.files {
        for byte in (0..file.len()).step_by(53) {
            if live.iter().any(|(s, range, _)| s == segment && range.contains(&byte)) {
                continue;
            }
            disk.files.get_mut(segment).expect("present")[byte] ^= 4;
            let recovered = again(&disk).expect("no live byte is touched");
            assert_eq!(recovered.end, sound.end);
            assert_eq!(recovered.groups, sound.groups);
            disk.files.get_mut(segment).expect("present")[byte] ^= 4;
        }
    }
}

/// D4, D5: a sector overwritten by another one or zeroed: refused, or nothing is missing. Several
/// of them may hit the last blocks and the seal that proves them at once; then recovery still ends
/// with a state that once was.
#[test]
fn damaged_sectors_are_refused_or_harmless() {
    let (mut refused, mut accepted) = (0, 0);
    for seed in 0..30 {
        let mut world = sealed(seed, 50);
        let segments: Vec<SegmentNo> = world.disk.files.keys().copied().collect();
        for round in 0..60 {
            let damages = if round < 40 { 1 } else { 4 };
            let mut disk = world.disk.clone();
            for _ in 0..damages {
                let many = segments.len() as u64;
                let mut pick = || segments[usize::try_from(world.prng.below(many)).expect("small")];
                let (from, to) = (pick(), pick());
                let mut sector = || usize::try_from(world.prng.below(128)).expect("small") * 512;
                let (source, target) = (sector(), sector());
                let bytes = if world.prng.chance(1, 4) {
                    vec![0; 512]
                } else {
                    disk.files[&from][source..source + 512].to_vec()
                };
                let file = disk.files.get_mut(&to).expect("present");
                file[target..target + 512].copy_from_slice(&bytes);
            }
            match again(&disk) {
                Ok(recovered) => {
                    world.acked = if damages == 1 { world.history.len() - 1 } else { 0 };
                    world.check_recovered(&disk, &recovered);
                    accepted += 1;
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 500 && accepted > 100, "{refused} refused, {accepted} accepted");
}

/// D4: two segment files exchanged, or one copied over another.
#[test]
fn exchanged_segments_are_refused() {
    for seed in 0..15 {
        let world = sealed(seed, 80);
        let kept = again(&world.disk).expect("sound").kept;
        for a in &kept {
            for b in kept.iter().filter(|b| *b != a) {
                let mut disk = world.disk.clone();
                disk.files.insert(*a, world.disk.files[b].clone());
                // Over the newest segment this is the loss of the newest segment, which the log
                // cannot see; but a block from further on is always out of place.
                if b > a || Some(a) != kept.last() {
                    again(&disk).expect_err("a segment is gone");
                }
                disk.files.insert(*b, world.disk.files[a].clone());
                again(&disk).expect_err("both are out of place");
            }
        }
    }
}

/// D13: a missing segment is named, whichever it is, as long as a later one shows that it existed.
#[test]
fn a_missing_segment_is_refused() {
    let mut found = 0;
    for seed in 0..20 {
        let world = sealed(seed, 80);
        let recovered = again(&world.disk).expect("sound");
        let (_newest, older) = recovered.kept.split_last().expect("at least one");
        for segment in older {
            let mut disk = world.disk.clone();
            disk.files.remove(segment);
            match again(&disk) {
                Err(RecoverError::Missing { segment: named, .. }) => assert_eq!(named, *segment),
                other => panic!("{other:?}"),
            }
            let file = world.disk.files[segment].clone();
            disk.files.insert(*segment, file[..file.len() - 4096].to_vec());
            match again(&disk) {
                Err(RecoverError::Size { segment: named, .. }) => assert_eq!(named, *segment),
                other => panic!("{other:?}"),
            }
            found += 1;
        }
        for spare in &recovered.spare {
            let mut disk = world.disk.clone();
            disk.files.remove(spare);
            assert_eq!(again(&disk).expect("not needed").groups, recovered.groups);
        }
    }
    assert!(found > 20, "{found} segments removed");
}

/// D4, W-02: a segment of another cluster, node or shard.
#[test]
fn a_foreign_segment_is_refused() {
    let world = sealed(3, 40);
    for other in [
        Identity { cluster: ClusterId::new([1; 16]), ..identity() },
        Identity { node: NodeUuid::new([1; 16]), ..identity() },
        Identity { shard: ShardId::new(1), ..identity() },
    ] {
        let error = recover(&world.disk, SMALL, WalMay::NotBeEmpty, other).expect_err("foreign");
        assert!(matches!(error, RecoverError::Foreign { .. }), "{error}");
    }
}

/// W-17: an empty log is only right where nothing was ever promised.
#[test]
fn an_empty_log_is_refused_where_one_must_be() {
    let none = Disk::default();
    let error = again(&none).expect_err("no file");
    assert_eq!(error, RecoverError::Empty { files: 0 });
    let mut blank = Disk::default();
    blank.files.insert(SegmentNo(0), vec![0; 64 << 10]);
    assert_eq!(again(&blank).expect_err("no log"), RecoverError::Empty { files: 1 });
    let fresh = recover(&blank, SMALL, WalMay::BeEmpty, identity()).expect("fresh");
    assert_eq!(fresh.resume.segment, SegmentNo(1), "not where an opening may have been tried");
    assert_eq!(fresh.spare, [SegmentNo(0)]);

    // Even where it may be empty, a log that shows durable blocks is none.
    let mut world = sealed(1, 60);
    let first = *world.disk.files.keys().next().expect("one");
    world.disk.files.retain(|segment, _| *segment == first);
    world.disk.files.get_mut(&first).expect("kept")[..64].fill(0);
    let error = recover(&world.disk, SMALL, WalMay::BeEmpty, identity()).expect_err("rotten");
    assert!(matches!(error, RecoverError::Corrupt { .. }), "{error}");
}

/// I-09: what cannot be read is never taken for a torn tail.
#[test]
fn an_unreadable_range_is_refused_wherever_it_is() {
    let world = sealed(2, 40);
    let files: Vec<SegmentFile> = world
        .disk
        .files
        .iter()
        .map(|(segment, file)| SegmentFile { segment: *segment, bytes: file.len() as u64 })
        .collect();
    for failing in 0.. {
        let mut recovery =
            Recovery::new(identity(), SMALL, WalMay::NotBeEmpty, &files).expect("files are there");
        let mut reads = 0;
        let outcome = loop {
            match recovery.next() {
                Step::Read(wish) => {
                    let start = usize::try_from(wish.offset).expect("small");
                    let bytes = &world.disk.files[&wish.segment][start..];
                    let read = match reads == failing {
                        true if failing % 2 == 0 => Err(ReadFault::Failed { errno: 5 }),
                        true => Ok(&bytes[..100]),
                        false => Ok(&bytes[..wish.bytes as usize]),
                    };
                    recovery.feed(read);
                    reads += 1;
                }
                Step::Done(_) => break None,
                Step::Refused(error) => break Some(error),
            }
        };
        match outcome {
            Some(error) => assert!(matches!(error, RecoverError::Unreadable { .. }), "{error}"),
            None => {
                assert!(failing > 4, "{failing} reads");
                return;
            }
        }
    }
}

/// The newest block before its seal: a rotten bit there cannot be told from a torn write. This is
/// the documented doubt; nothing else may be lost with it.
#[test]
fn rot_in_the_last_blocks_before_a_seal_cuts_there() {
    let mut world = World::new(SMALL, 1, 9);
    for _ in 0..6 {
        world.write_block(&[append(1, 2, 300)]);
        world.complete_all();
    }
    let blocks: Vec<(Lsn, Lsn)> =
        blocks_in(&world.disk.files[&SegmentNo(0)], Lsn::ZERO, &identity())
            .map(|block| (block.lsn(), block.durable_lsn()))
            .collect();
    let durable = blocks.iter().map(|(_, durable)| *durable).max().expect("blocks");
    for (lsn, _) in &blocks {
        let mut disk = world.disk.clone();
        let at = usize::try_from(lsn.get()).expect("small");
        disk.files.get_mut(&SegmentNo(0)).expect("present")[at + 70] ^= 1;
        match again(&disk) {
            Ok(recovered) => {
                assert!(*lsn >= durable);
                assert_eq!(recovered.end, *lsn);
                let cut = recovered.cut.expect("a sound header was discarded");
                assert!(matches!(
                    cut.reason,
                    BlockError::MetaCrc { .. } | BlockError::Batch { .. }
                ));
            }
            Err(error) => {
                assert!(*lsn < durable, "{error}");
                assert!(matches!(error, RecoverError::Corrupt { .. }), "{error}");
            }
        }
    }
}

/// O-06, rule of downgrades: a newer format is refused, not taken for garbage.
#[test]
fn a_newer_format_is_refused() {
    let mut world = sealed(4, 30);
    let segment = *world.disk.files.keys().next().expect("one");
    let recovered = again(&world.disk).expect("sound");
    let target = recovered.kept.first().copied().unwrap_or(segment);
    let file = world.disk.files.get_mut(&target).expect("kept");
    file[4] = 2;
    let crc = catamaran::base::Checksum::of(&file[..60]).as_u32();
    file[60..64].copy_from_slice(&crc.to_le_bytes());
    let error = again(&world.disk).expect_err("newer");
    assert!(matches!(error, RecoverError::TooNew { found: 2, .. }), "{error}");
}

/// The geometry is part of the log.
#[test]
fn another_segment_size_is_refused() {
    let world = sealed(4, 30);
    let mut disk = world.disk.clone();
    for file in disk.files.values_mut() {
        file.resize(128 << 10, 0);
    }
    // Only segment 0 begins at the same position under both sizes.
    disk.files.retain(|segment, _| segment.0 == 0);
    let other = Geometry { segment_bytes: 128 << 10, ..SMALL };
    if disk.files.is_empty() {
        let mut fresh = World::new(SMALL, 1, 1);
        fresh.complete_all();
        disk.files = fresh.disk.files.clone();
        disk.files.retain(|segment, _| segment.0 == 0);
        disk.files.values_mut().for_each(|file| file.resize(128 << 10, 0));
    }
    let error = recover(&disk, other, WalMay::NotBeEmpty, identity()).expect_err("other size");
    assert!(matches!(error, RecoverError::SegmentBytes { .. }), "{error}");
    assert!(parse_block(&disk.files[&SegmentNo(0)], Lsn::ZERO, &identity()).is_ok());
}
