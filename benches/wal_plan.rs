//! The cost of a block without its device: a place in the log, headers, the directory, one copy
//! and one checksum of 1,280 records of 200 bytes, and the completion.

#![expect(clippy::disallowed_methods, reason = "a bench reads a clock")]

mod harness;

use std::time::Instant;

use catamaran::base::{Arena, Checksum, Moment};
use catamaran::model::batch::BATCH_HEADER_BYTES;
use catamaran::model::{
    BatchHeader, BatchKind, ClusterId, GroupId, LogIndex, NodeUuid, RecordCount, ReplicaId,
    ShardId, Span, Term,
};
use catamaran::wal::{
    BlockBuilder, BlockRole, Geometry, Identity, Lsn, Planner, Resume, SegmentNo, Void,
};

use harness::{Pass, measure, mix};

const RECORDS: u32 = 1280;
const RECORD_BYTES: usize = 204;

fn main() {
    measure("wal_plan", 2_000, 20, pass);
}

/// A planner whose first segment is open.
fn opened(identity: &Identity) -> Planner {
    let void = Void { from: Lsn::new(0), to: Lsn::new(0) };
    let resume = Resume { segment: SegmentNo(0), void };
    let mut planner = Planner::new(Geometry::PRODUCTION, identity, resume);
    prepare(&mut planner);
    planner.roll(1);
    let opening = planner.place_part(4096, Moment::ZERO);
    planner.on_write_done(opening.write, Moment::ZERO);
    planner
}

fn prepare(planner: &mut Planner) {
    while let Some(segment) = planner.segment_wanted() {
        planner.segment_ready(segment);
    }
}

fn pass(rounds: u32) -> Pass {
    let identity = Identity {
        cluster: ClusterId::new([1; 16]),
        node: NodeUuid::new([2; 16]),
        shard: ShardId::new(0),
    };
    let mut planner = opened(&identity);
    let mut arena = Arena::new(8, 1 << 20);
    let records = vec![9; RECORD_BYTES * RECORDS as usize];
    let (mut hash, mut first) = (0, LogIndex::new(1));
    let start = Instant::now();
    for round in 0..u64::from(rounds) {
        let now = Moment::from_nanos(round);
        let mut builder = BlockBuilder::new(arena.take(512 << 10).expect("memory comes back"));
        let space = builder.batch_space(BATCH_HEADER_BYTES + records.len());
        let body = &mut space[BATCH_HEADER_BYTES..];
        let mut body_crc = Checksum::EMPTY;
        for (to, from) in body.chunks_mut(RECORD_BYTES).zip(records.chunks(RECORD_BYTES)) {
            to.copy_from_slice(from);
            body_crc = body_crc.then(to);
        }
        let span = Span { term: Term::new(1), first, count: RecordCount::new(RECORDS) };
        let header = BatchHeader {
            group: GroupId::new(1),
            replica: ReplicaId::new(1),
            span,
            kind: BatchKind::Records,
            body_bytes: u32::try_from(records.len()).expect("below a block"),
            body_crc,
        };
        header.encode(space);
        builder.list(&header, header.replica);
        let bytes = builder.total_bytes();
        if planner.needs_roll(bytes) {
            planner.roll(1);
            let opening = planner.place_part(4096, now);
            planner.on_write_done(opening.write, now);
            prepare(&mut planner);
        }
        let placement = planner.place(bytes, BlockRole::Data, now);
        let closed = builder.close(placement.stamp);
        let block = arena.close(closed.buf, bytes as usize);
        planner.on_write_done(placement.write, now);
        hash = mix(hash, u64::from(block[100]) + placement.offset + planner.durable_lsn().get());
        first = span.last().next();
    }
    let elapsed = start.elapsed();
    Pass { records: u64::from(rounds) * u64::from(RECORDS), elapsed, hash }
}
