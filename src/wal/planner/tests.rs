//! Positions, the durable prefix, rolls and seals.

use super::*;
use crate::model::{ClusterId, NodeUuid, ShardId};

const GEOMETRY: Geometry = Geometry {
    segment_bytes: 64 << 10,
    block_bytes_max: 16 << 10,
    in_flight_bytes_max: 40 << 10,
    writes_in_flight_max: 4,
};

fn identity() -> Identity {
    Identity { cluster: ClusterId::default(), node: NodeUuid::default(), shard: ShardId::default() }
}

fn at(millis: u64) -> Moment {
    Moment::from_nanos(millis * 1_000_000)
}

/// A planner behind a durable opening of one block in segment 2, after a log that ended at 70,000.
fn opened() -> Planner {
    let void = Void { from: Lsn::new(69_632), to: Lsn::new(131_072) };
    let resume = Resume { segment: SegmentNo(2), void };
    let mut planner = Planner::new(GEOMETRY, &identity(), resume);
    assert!(planner.needs_roll(4096) && !planner.can_roll(4096), "nothing is ready");
    assert_eq!(planner.segment_wanted(), Some(SegmentNo(2)));
    assert_eq!(planner.segment_wanted(), Some(SegmentNo(3)));
    assert_eq!(planner.segment_wanted(), None);
    planner.segment_ready(SegmentNo(3));
    assert!(!planner.can_roll(4096), "not the one that is needed");
    planner.segment_ready(SegmentNo(2));
    assert_eq!(planner.roll(1).void, void);
    let placement = planner.place_part(4096, at(0));
    assert_eq!((placement.lsn, placement.offset), (void.to, 0));
    assert_eq!(placement.durable_lsn, void.from, "the void counts only once it is declared");
    assert!(!planner.fits(4096), "nothing before the opening is durable (W-08)");
    planner.check();
    assert_eq!(planner.on_write_done(placement.write, at(0)), Some(placement.write));
    assert_eq!(planner.durable_lsn(), Lsn::new(131_072 + 4096));
    planner
}

#[test]
fn only_the_contiguous_prefix_is_durable() {
    let mut planner = opened();
    let a = planner.place(4096, BlockRole::Data, at(1));
    let b = planner.place(8192, BlockRole::Data, at(2));
    let c = planner.place(4096, BlockRole::Data, at(3));
    assert_eq!((b.lsn, c.lsn), (a.lsn.plus(4096), a.lsn.plus(12_288)));
    assert_eq!(planner.on_write_done(c.write, at(4)), None, "I-01: a and b are not done");
    assert_eq!(planner.durable_lsn(), a.lsn);
    assert_eq!(planner.oldest_in_flight(), Some(at(1)));
    assert_eq!(planner.on_write_done(a.write, at(5)), Some(a.write));
    assert_eq!(planner.oldest_in_flight(), Some(at(2)));
    assert_eq!(planner.on_write_done(b.write, at(6)), Some(c.write));
    assert_eq!(planner.durable_lsn(), c.lsn.plus(4096));
    assert!(planner.is_idle());
    planner.check();
}

#[test]
fn slots_and_the_window_bound_what_is_in_flight() {
    let mut planner = opened();
    let first = planner.place(16 << 10, BlockRole::Data, at(1));
    let second = planner.place(16 << 10, BlockRole::Data, at(1));
    assert!(planner.fits(8 << 10) && !planner.fits(12 << 10), "W is 40 KiB");
    // A later write done frees a slot, not the window.
    planner.on_write_done(second.write, at(2));
    assert_eq!(planner.slots_free(), 3);
    assert!(!planner.fits(12 << 10));
    planner.on_write_done(first.write, at(2));
    assert!(planner.fits(12 << 10));
    for _ in 0..4 {
        planner.place(4096, BlockRole::Data, at(3));
    }
    assert!(!planner.fits(4096), "four slots");
    planner.check();
}

#[test]
fn a_block_that_does_not_fit_leaves_a_void() {
    let mut planner = opened();
    for _ in 0..3 {
        let placement = planner.place(16 << 10, BlockRole::Data, at(1));
        planner.on_write_done(placement.write, at(1));
    }
    assert_eq!(planner.segment_room_bytes(), 12 << 10);
    assert!(planner.fits(12 << 10) && planner.needs_roll(16 << 10));
    let last = planner.place(4096, BlockRole::Data, at(2));
    let end = last.lsn.plus(4096);
    let plan = planner.roll(2);
    assert_eq!(plan.void, Void { from: end, to: Lsn::new(3 * 65_536) });
    let one = planner.place_part(8192, at(2));
    assert!(!planner.fits(4096), "the opening is not whole");
    let two = planner.place_part(4096, at(2));
    let data = planner.place(4096, BlockRole::Data, at(2));
    assert_eq!(data.lsn, plan.void.to.plus(12_288));
    planner.on_write_done(last.write, at(3));
    assert_eq!(planner.durable_lsn(), end, "the void waits for the opening");
    planner.on_write_done(two.write, at(3));
    planner.on_write_done(one.write, at(3));
    assert_eq!(planner.durable_lsn(), data.lsn);
    planner.check();
}

#[test]
fn an_idle_log_is_sealed_once() {
    let mut planner = opened();
    let data = planner.place(4096, BlockRole::Data, at(10));
    assert_eq!(planner.seal_deadline(), None, "a write is in flight");
    planner.on_write_done(data.write, at(12));
    assert_eq!(planner.seal_deadline(), Some(at(17)));
    assert!(!planner.seal_due(at(16)) && planner.seal_due(at(17)));
    let seal = planner.place(4096, BlockRole::Seal, at(17));
    assert_eq!(seal.durable_lsn, data.lsn.plus(4096));
    planner.on_write_done(seal.write, at(18));
    assert_eq!(planner.seal_deadline(), None, "a seal needs no seal");
    let more = planner.place(4096, BlockRole::Data, at(30));
    planner.on_write_done(more.write, at(31));
    assert!(planner.seal_due(at(36)));
}

#[test]
fn what_is_made_at_the_start_is_not_made_up_for() {
    let mut planner = opened().with_segments_at_start(4);
    let mut wanted = Vec::new();
    let mut writing = 2;
    // The log moves on from segment to segment; each is full with one roll's block in it.
    loop {
        while let Some(segment) = planner.segment_wanted() {
            planner.segment_ready(segment);
            wanted.push((writing, segment.0));
        }
        if writing == 7 {
            break;
        }
        planner.roll(1);
        let placement = planner.place_part(4096, at(writing));
        planner.on_write_done(placement.write, at(writing));
        writing += 1;
    }
    // 4, 5 and 6 at once; then nothing until only one is left ahead, as without them.
    assert_eq!(wanted, [(2, 4), (2, 5), (2, 6), (6, 7), (7, 8)]);
}

#[test]
fn a_segment_that_could_not_be_made_is_wanted_again() {
    let void = Void::default();
    let mut planner = Planner::new(GEOMETRY, &identity(), Resume { segment: SegmentNo(0), void });
    assert_eq!(planner.segment_wanted(), Some(SegmentNo(0)));
    assert_eq!(planner.segment_wanted(), Some(SegmentNo(1)));
    planner.segment_failed(SegmentNo(0));
    planner.segment_ready(SegmentNo(1));
    assert_eq!(planner.segment_wanted(), Some(SegmentNo(0)));
    assert_eq!(planner.segment_wanted(), None);
    planner.segment_ready(SegmentNo(0));
    assert!(planner.can_roll(4096));
}

#[test]
#[should_panic(expected = "completed twice")]
fn a_completion_comes_once() {
    let mut planner = opened();
    let _first = planner.place(4096, BlockRole::Data, at(1));
    let second = planner.place(4096, BlockRole::Data, at(1));
    planner.on_write_done(second.write, at(2));
    planner.on_write_done(second.write, at(2));
}
