//! Every subset of twelve sectors in flight, for 200 short logs of ten shapes: 819,200 torn tails,
//! each recovered, started again, and recovered again.
//!
//! Apart from the random histories of `wal_crash.rs` because here nothing is left to chance once
//! the log is made. What makes it cheap: an image is the one before it with one sector changed
//! (a Gray code), and what is compared is compared by what the end of the log says it must be.

use std::collections::BTreeMap;

use catamaran::base::{Arena, Moment};
use catamaran::model::GroupId;
use catamaran::wal::{
    BlockBuilder, Geometry, Lsn, Planner, Recovered, RecoveredGroup, SegmentNo, WalMay,
};

use super::wal_world::{Change, Disk, SECTOR_BYTES, World, identity, recover};

/// Sectors whose fate is enumerated.
const SECTORS: usize = 12;
/// Logs per shape; there are ten shapes.
const LOGS_PER_SHAPE: u64 = 20;

/// The smallest sizes that have everything: openings of two blocks with 80 groups, several blocks
/// a segment, several segments in a window.
const TINY: Geometry = Geometry {
    segment_bytes: 32 << 10,
    block_bytes_max: 8 << 10,
    in_flight_bytes_max: 24 << 10,
    writes_in_flight_max: 4,
};

fn append(group: u64, records: u32, bytes: usize) -> Change {
    Change::Append { group: GroupId::new(group), records, bytes }
}

fn hard_state(group: u64) -> Change {
    Change::HardState { group: GroupId::new(group) }
}

/// A log as it was when the power went, with at least twelve sectors in flight.
fn log_of(shape: u64, seed: u64) -> World {
    let groups = if shape == 7 { 80 } else { 1 + seed % 4 };
    let mut world = World::new(TINY, groups, shape * 1000 + seed);
    let group = 1 + seed % groups;
    let last = GroupId::new(groups);
    for _ in 0..world.prng.below(12) {
        world.random_step();
    }
    let crowd = |world: &World| world.disk.sectors().len();
    match shape {
        // Conflicts: other leaders' batches over what was there.
        1 => {
            world.write_block(&[append(group, 3, 200), append(group, 2, 90)]);
            world.write_block(&[Change::Conflict { group: GroupId::new(group) }]);
            world.write_block(&[Change::Conflict { group: last }, append(group, 1, 30)]);
        }
        // A roll in flight together with what is on both sides of it.
        2 => to_the_next_roll(&mut world, group),
        // Segments that were used before, again and again.
        3 => {
            for _ in 0..60 + seed {
                world.write_block(&[append(group, 4, 700)]);
                world.complete_all();
                world.write_block(&[hard_state(group)]);
                world.retain(catamaran::wal::Limit { bytes: 9_000, records: u64::MAX });
            }
        }
        // Blocks with nothing but a term, a vote, a commit index.
        4 => {
            for _ in 0..4 {
                world.write_block(&[hard_state(group)]);
            }
        }
        // A seal, and what comes after it.
        5 => {
            world.complete_all();
            world.seal();
        }
        // The void of an earlier crash, its opening in flight or not.
        6 => {
            world.write_block(&[append(group, 5, 400)]);
            let mut chance = world.prng.fork();
            world = world.crash_and_restart(|_| chance.chance(1, 2));
        }
        // Openings of two blocks: the first one of a log, or one at a roll.
        7 if seed.is_multiple_of(2) => to_the_next_roll(&mut world, group),
        // A follower's frames.
        8 => {
            world.write_block(&[hard_state(group), Change::Conflict { group: last }]);
            world.write_frame(last);
            world.write_frame(last);
        }
        // Logs replaced by snapshots, configurations.
        9 => world.write_block(&[
            Change::Configuration { group: last },
            Change::Reset { group: GroupId::new(group) },
            append(group, 1, 60),
        ]),
        _ => {}
    }
    for _ in 0..200 {
        if crowd(&world) >= SECTORS {
            return world;
        }
        let bytes = 100 + usize::try_from(world.prng.below(2500)).expect("small");
        world.write_block(&[append(group, 1, bytes), hard_state(groups)]);
    }
    panic!("shape {shape}, seed {seed}: {} sectors in flight", crowd(&world))
}

/// Writes until an opening is in flight.
fn to_the_next_roll(world: &mut World, group: u64) {
    let segment = TINY.segment_of(world.planner.next_lsn());
    for _ in 0..100 {
        if TINY.segment_of(world.planner.next_lsn()) != segment {
            return;
        }
        world.write_block(&[append(group, 2, 900)]);
    }
    panic!("group {group} does not fill a segment");
}

/// What was found for one end of the log and has been checked whole.
struct Known {
    groups: Vec<RecoveredGroup>,
    /// The blocks of the opening that the next start writes, behind each other.
    opening: Vec<u8>,
    /// Where the last of them begins: it is in flight when the others are durable.
    last_part: usize,
}

/// Counts what happened, so that the test can say that it did.
#[derive(Default)]
struct Counts {
    images: u64,
    cut: u64,
    set_aside: u64,
    torn_openings: u64,
    lives: u64,
}

/// Every image of one log.
fn every_image(world: &World, seed: u64, counts: &mut Counts) {
    let mut sectors = world.disk.sectors();
    let mut disk = Disk { files: world.disk.files.clone(), ..Disk::default() };
    // More than twelve: the fate of some is drawn, which ones is too.
    let mut prng = catamaran::base::Prng::new(seed);
    while sectors.len() > SECTORS {
        let many = sectors.len() as u64;
        let gone = sectors.remove(usize::try_from(prng.below(many)).expect("small"));
        if prng.chance(1, 2) {
            put(&mut disk, gone.0, gone.1, &gone.2);
        }
    }
    assert!(sectors.len() == SECTORS, "{} sectors", sectors.len());
    let old: Vec<Vec<u8>> = sectors
        .iter()
        .map(|(segment, at, _)| disk.files[segment][*at..*at + SECTOR_BYTES].to_vec())
        .collect();
    let mut known: BTreeMap<(Lsn, usize), Known> = BTreeMap::new();
    let mut kept = 0_u32;
    for step in 0_u32..1 << SECTORS {
        if step > 0 {
            let flip = step.trailing_zeros() as usize;
            kept ^= 1 << flip;
            let (segment, at, new) = &sectors[flip];
            let bytes = if kept >> flip & 1 == 1 { new } else { &old[flip] };
            put(&mut disk, *segment, *at, bytes);
        }
        counts.images += 1;
        let recovered = recover(&disk, TINY, world.may(), identity())
            .unwrap_or_else(|error| panic!("seed {seed} subset {kept:b}: {error}"));
        counts.cut += u64::from(recovered.cut.is_some());
        counts.set_aside += u64::from(!recovered.set_aside.is_empty());
        check_set_aside(&recovered);
        let key = (recovered.end, recovered.kept.len());
        if known.get(&key).is_none_or(|known| known.groups != recovered.groups) {
            world.check_recovered(&disk, &recovered);
            let (opening, last_part) = opening_of(&recovered);
            let known_now = Known { groups: recovered.groups.clone(), opening, last_part };
            known.insert(key, known_now);
        }
        second_start(&mut disk, &recovered, &known[&key], (step, world.may()), counts);
        if step % 64 == 21 {
            counts.lives += 1;
            another_life(world, &disk, recovered, u64::from(kept));
        }
    }
}

/// W-10: no file with something that was discarded may be overwritten before the next start.
fn check_set_aside(recovered: &Recovered) {
    let Some(cut) = &recovered.cut else { return assert_eq!(recovered.set_aside, []) };
    let is_discarded = |segment: &&SegmentNo| {
        let (start, end) = (TINY.start_of(**segment), TINY.start_of(segment.next()));
        start < cut.discarded_until && cut.lsn < end
    };
    assert_eq!(recovered.spare.iter().find(is_discarded), None, "{cut:?}");
    assert!(recovered.set_aside.iter().all(|segment| is_discarded(&segment)), "{cut:?}");
}

fn put(disk: &mut Disk, segment: SegmentNo, at: usize, bytes: &[u8]) {
    let file = disk.files.get_mut(&segment).expect("a ready segment");
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

/// The blocks that a start writes first after it has recovered this.
fn opening_of(recovered: &Recovered) -> (Vec<u8>, usize) {
    if recovered.groups.is_empty() {
        return (Vec::new(), 0);
    }
    let mut planner = Planner::new(TINY, &identity(), recovered.resume);
    while let Some(wanted) = planner.segment_wanted() {
        planner.segment_ready(wanted);
    }
    let parts = recovered.index.opening(&planner.next_opening());
    planner.roll(u32::try_from(parts.len()).expect("few"));
    let mut arena = Arena::new(1, 64 << 10);
    let (mut blocks, mut last_part) = (Vec::new(), 0);
    for records in parts {
        let mut builder = BlockBuilder::new(arena.take(8 << 10).expect("eight of them"));
        for record in &records {
            builder.push_record(record).expect("a part fits into a block");
        }
        let placement = planner.place_part(builder.total_bytes(), Moment::ZERO);
        let closed = builder.close(placement.stamp);
        last_part = blocks.len();
        blocks.extend_from_slice(&closed.buf[..closed.total_bytes as usize]);
        // The void before it may be wider than the window: then one part at a time.
        planner.on_write_done(placement.write, Moment::ZERO);
    }
    (blocks, last_part)
}

/// W-08: the next start writes its opening over a recycled file, whole or torn, and the start
/// after that finds the same log, whatever the first one discarded and left on the medium.
fn second_start(
    disk: &mut Disk,
    first: &Recovered,
    known: &Known,
    (step, may): (u32, WalMay),
    counts: &mut Counts,
) {
    if known.opening.is_empty() {
        return;
    }
    let segment = first.resume.segment;
    let spare = first.spare.iter().find(|spare| step % 2 == 0 && disk.files.contains_key(spare));
    let spare = spare.copied();
    let file = match spare {
        Some(spare) => disk.files.remove(&spare).expect("present"),
        None => vec![0; usize::try_from(TINY.segment_bytes).expect("small")],
    };
    let before = file[..known.opening.len()].to_vec();
    disk.files.insert(segment, file);
    put(disk, segment, 0, &known.opening);
    let second = recover(disk, TINY, may, identity())
        .unwrap_or_else(|error| panic!("step {step}, second start: {error}"));
    let opening_bytes = known.opening.len() as u64;
    assert_eq!(second.end, first.resume.void.to.plus(opening_bytes), "step {step}");
    assert!(same(&second.groups, &first.groups), "step {step}: {:?}", second.groups);
    assert!(second.cut.is_none(), "step {step}: {:?}", second.cut);
    assert_eq!(second.set_aside, [], "step {step}: for one start only");
    if step % 4 == 1 {
        counts.torn_openings += 1;
        for (i, sector) in before.chunks(SECTOR_BYTES).enumerate() {
            if i * SECTOR_BYTES < known.last_part {
                continue;
            }
            if step.wrapping_mul(0x9e37_79b9).rotate_left(u32::try_from(i).expect("few")) & 1 == 1 {
                put(disk, segment, i * SECTOR_BYTES, sector);
            }
        }
        let torn = recover(disk, TINY, may, identity())
            .unwrap_or_else(|error| panic!("step {step}, torn opening: {error}"));
        assert!(torn.end == first.end || torn.end == second.end, "step {step}: {:?}", torn.end);
        assert!(same(&torn.groups, &first.groups), "step {step}: {:?}", torn.groups);
    }
    put(disk, segment, 0, &before);
    let file = disk.files.remove(&segment).expect("just put there");
    if let Some(spare) = spare {
        disk.files.insert(spare, file);
    }
}

/// The same logs. Exact places may be forgotten: a roll does that.
fn same(found: &[RecoveredGroup], expected: &[RecoveredGroup]) -> bool {
    let facts = |log: &RecoveredGroup| (log.hard_state, log.base, log.last);
    found.len() == expected.len()
        && found.iter().zip(expected).all(|(found, expected)| {
            found.group == expected.group
                && facts(found) == facts(expected)
                && found.runs == expected.runs
                && found.memberships == expected.memberships
        })
}

/// A whole life on the image, with new blocks where old ones may lie behind them, and two more
/// crashes.
fn another_life(world: &World, disk: &Disk, recovered: Recovered, seed: u64) {
    let mut second = World::again(world, disk.clone(), recovered, seed);
    second.complete_all();
    for _ in 0..3 {
        second.write_block(&[append(1, 1, 40), append(1, 2, 300)]);
    }
    let third = second.crash_and_restart(|sector| sector % 3 != 1);
    drop(third.crash_and_restart(|_| false));
}

fn every_log(shapes: core::ops::Range<u64>) {
    let mut counts = Counts::default();
    let logs = (shapes.end - shapes.start) * LOGS_PER_SHAPE;
    for shape in shapes {
        for seed in 0..LOGS_PER_SHAPE {
            every_image(&log_of(shape, seed), shape * 1000 + seed, &mut counts);
        }
    }
    let Counts { images, cut, set_aside, torn_openings, lives } = counts;
    assert!(set_aside > 0, "nothing discarded was a file of its own");
    assert_eq!(images, logs << SECTORS);
    assert!(cut > images / 4, "{cut} of {images} images had something to discard");
    assert!(torn_openings > images / 8 && lives == images / 64, "{torn_openings}, {lives}");
}

// D1, D2, W-05, W-08, G-06. Four tests only so that they share the cores.

#[test]
fn every_subset_of_twelve_sectors_of_groups_terms_and_rolls() {
    every_log(0..3);
}

#[test]
fn every_subset_of_twelve_sectors_of_recycled_segments_and_hard_states() {
    every_log(3..5);
}

#[test]
fn every_subset_of_twelve_sectors_of_seals_voids_and_openings() {
    every_log(5..8);
}

#[test]
fn every_subset_of_twelve_sectors_of_frames_and_snapshots() {
    every_log(8..10);
}
