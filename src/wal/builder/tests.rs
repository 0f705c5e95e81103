//! Blocks there and back again, and what every flipped bit does to one.

use proptest::prelude::*;

use super::*;
use crate::base::Arena;
use crate::model::batch::{encode_batch, encode_record};
use crate::model::{
    BatchKind, ClusterId, GroupId, HardState, LogIndex, Membership, NodeId, NodeUuid, RecordCount,
    ShardId, Span, Term,
};
use crate::wal::record::LogReset;
use crate::wal::{BlockError, Identity, Lsn, parse_block, parse_header};

const REPLICA: ReplicaId = ReplicaId::new(4);

fn identity() -> Identity {
    Identity {
        cluster: ClusterId::new([1; 16]),
        node: NodeUuid::new([2; 16]),
        shard: ShardId::new(3),
    }
}

fn stamp(lsn: u64) -> Stamp {
    Stamp {
        identity_tag: identity().tag(),
        lsn: Lsn::new(lsn),
        durable_lsn: Lsn::new(lsn / 2),
        role: BlockRole::Data,
    }
}

fn batch(group: u64, first: u64, records: &[&[u8]]) -> Vec<u8> {
    let mut body = Vec::new();
    records.iter().for_each(|record| encode_record(record, &mut body));
    let span = Span {
        term: Term::new(7),
        first: LogIndex::new(first),
        count: RecordCount::new(u32_of(records.len())),
    };
    encode_batch(GroupId::new(group), ReplicaId::new(9), span, BatchKind::Records, &body)
}

fn hard_state(group: u64) -> Record {
    let state = HardState { term: Term::new(7), vote: None, commit: LogIndex::new(1) };
    Record::HardState { group: GroupId::new(group), replica: REPLICA, state }
}

fn builder(bytes: usize) -> BlockBuilder {
    BlockBuilder::new(Arena::new(1, 1 << 20).take(bytes).expect("a fresh arena"))
}

fn add(builder: &mut BlockBuilder, batch: &[u8]) -> DirectoryEntry {
    builder.batch_space(batch.len()).copy_from_slice(batch);
    builder.list(&BatchHeader::decode(batch).expect("a batch"), REPLICA)
}

fn small_block() -> Vec<u8> {
    let mut builder = builder(8192);
    add(&mut builder, &batch(1, 10, &[b"hello", b"world"]));
    add(&mut builder, &batch(2, 5, &[b"x"]));
    builder.push_record(&hard_state(1)).expect("room");
    let closed = builder.close(stamp(8192));
    closed.buf[..closed.total_bytes as usize].to_vec()
}

#[test]
fn a_block_gives_back_what_was_put_in() {
    let block = small_block();
    assert_eq!(block.len(), 4096);
    let view = parse_block(&block, Lsn::new(8192), &identity()).expect("sound");
    view.verify().expect("sound batches");
    let entries: Vec<DirectoryEntry> = view.entries().collect();
    assert_eq!(entries.len(), 2);
    assert_eq!(view.batch_bytes(&entries[0]), batch(1, 10, &[b"hello", b"world"]));
    assert_eq!(view.batch_bytes(&entries[1]), batch(2, 5, &[b"x"]));
    assert_eq!(entries[1].replica, REPLICA);
    assert_eq!(view.records().collect::<Vec<_>>(), [hard_state(1)]);
    assert_eq!((view.durable_lsn(), view.end()), (Lsn::new(4096), Lsn::new(8192 + 4096)));
}

#[test]
fn every_flipped_bit_of_a_block_is_found() {
    let block = small_block();
    let used = parse_header(&block, Lsn::new(8192), &identity()).expect("sound").used_bytes;
    for bit in 0..block.len() * 8 {
        let mut flipped = block.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let found =
            parse_block(&flipped, Lsn::new(8192), &identity()).and_then(|view| view.verify());
        // Padding carries nothing and is checked by nobody.
        assert_eq!(found.is_err(), bit / 8 < used as usize, "bit {bit}");
    }
}

#[test]
fn a_block_is_valid_only_in_its_own_place() {
    let block = small_block();
    let elsewhere = parse_block(&block, Lsn::new(4096), &identity()).expect_err("elsewhere");
    assert_eq!(elsewhere, BlockError::OtherLsn { found: Lsn::new(8192) });
    let other = Identity { shard: ShardId::new(1), ..identity() };
    let foreign = parse_block(&block, Lsn::new(8192), &other).expect_err("foreign");
    let expected = other.tag();
    assert_eq!(foreign, BlockError::Foreign { expected, found: identity().tag() });
    let blank = parse_block(&[0; 4096], Lsn::ZERO, &identity()).expect_err("blank");
    assert_eq!(blank, BlockError::Blank);
    let short = parse_block(&block[..1000], Lsn::new(8192), &identity()).expect_err("short");
    assert_eq!(short, BlockError::Short { expected_bytes: 4096, found_bytes: 1000 });
}

#[test]
fn a_full_block_is_exactly_full() {
    let mut builder = builder(8192);
    let room = builder.room_bytes();
    let body = room - BATCH_HEADER_BYTES - 4;
    add(&mut builder, &batch(1, 1, &[&vec![7; body]]));
    assert_eq!(builder.room_bytes(), 0);
    assert_eq!(builder.push_record(&hard_state(1)), Err(Full));
    assert_eq!(builder.total_bytes(), 8192);
    let closed = builder.close(stamp(0));
    assert_eq!(closed.used_bytes, 8192);
    parse_block(&closed.buf, Lsn::ZERO, &identity()).expect("sound").verify().expect("sound");
}

#[test]
fn a_log_reset_stands_before_the_batches_of_its_group() {
    let mut builder = builder(4096);
    add(&mut builder, &batch(1, 1, &[b"old"]));
    let reset = |group| {
        Record::LogReset(LogReset {
            group: GroupId::new(group),
            replica: REPLICA,
            last: Default::default(),
            membership: Membership::of_voters(&[NodeId::new(1)]),
            keep_tail: false,
        })
    };
    assert_eq!(builder.push_record(&reset(1)), Err(Full));
    assert_eq!(builder.push_record(&reset(2)), Ok(()));
}

#[test]
fn a_claimed_frame_lists_only_what_was_accepted() {
    let (first, second) = (batch(1, 10, &[b"known"]), batch(1, 11, &[b"new"]));
    let area = frame_area_bytes(2);
    let mut frame = vec![0xee; area];
    frame.extend_from_slice(&first);
    let offset = u32_of(frame.len());
    frame.extend_from_slice(&second);
    frame.resize(4096, 0);
    let header = BatchHeader::decode(&second).expect("a batch");
    let entry = DirectoryEntry {
        group: header.group,
        replica: REPLICA,
        span: header.span,
        kind: header.kind,
        offset,
        bytes: u32_of(second.len()),
    };
    let before = frame.clone();
    let too_small = claim_frame(&mut frame, 100, &[entry], &[hard_state(1)], stamp(4096));
    assert_eq!((too_small, &frame), (Err(Full), &before));
    let records = [hard_state(1), hard_state(2)];
    claim_frame(&mut frame, area, &[entry], &records, stamp(4096)).expect("room for two");
    let view = parse_block(&frame, Lsn::new(4096), &identity()).expect("sound");
    view.verify().expect("sound batches");
    assert_eq!(view.entries().collect::<Vec<_>>(), [entry]);
    assert_eq!(view.records().count(), 2);
    assert_eq!(frame[area..], before[area..], "no byte of the batches moved");
}

proptest! {
    #[test]
    fn any_batches_survive(
        sizes in proptest::collection::vec((1_usize..6, 0_usize..300), 1..30),
        records in 0_u64..5,
    ) {
        let mut builder = builder(16 << 10);
        let mut put = Vec::new();
        for (i, (count, bytes)) in sizes.iter().enumerate() {
            let record = vec![u8::try_from(i).expect("few"); *bytes];
            let batch = batch(i as u64, 1, &vec![&record[..]; *count]);
            if batch.len() <= builder.room_bytes() {
                put.push((add(&mut builder, &batch), batch));
            }
        }
        let written = (0..records).filter(|group| builder.push_record(&hard_state(*group)).is_ok());
        let written = written.count();
        let closed = builder.close(stamp(1 << 20));
        let block = &closed.buf[..closed.total_bytes as usize];
        let view = parse_block(block, Lsn::new(1 << 20), &identity()).expect("sound");
        prop_assert!(view.verify().is_ok());
        prop_assert_eq!(view.records().count(), written);
        prop_assert_eq!(view.entries().count(), put.len());
        for (entry, (listed, batch)) in view.entries().zip(&put) {
            prop_assert_eq!(&entry, listed);
            prop_assert_eq!(view.batch_bytes(&entry), &batch[..]);
        }
        prop_assert!(block[closed.used_bytes as usize..].iter().all(|byte| *byte == 0));
    }

    /// Fields may be anything as long as the checksums hold: still no panic, no wild slice.
    #[test]
    fn forged_headers_never_panic(field in 2_usize..14, value: u32, junk: u64) {
        let mut block = small_block();
        block[field * 4..field * 4 + 4].copy_from_slice(&value.to_le_bytes());
        let at = usize::try_from(junk % 4000).expect("small") + 64;
        block[at..at + 8].copy_from_slice(&junk.to_le_bytes());
        if let Ok(header) = BlockHeader::decode(&sealed(&block)) {
            let crc = header.meta_crc_of(&block);
            block[56..60].copy_from_slice(&crc.as_u32().to_le_bytes());
            let block = sealed(&block);
            let lsn = header.stamp.lsn;
            if let Ok(view) = parse_block(&block, lsn, &identity()) {
                let _verdict = view.verify();
                prop_assert!(view.entries().count() + view.records().count() < 100);
            }
        }
    }
}

/// `block` with its header's checksum made to hold.
fn sealed(block: &[u8]) -> Vec<u8> {
    let mut block = block.to_vec();
    let crc = Checksum::of(&block[..60]);
    block[60..64].copy_from_slice(&crc.as_u32().to_le_bytes());
    block
}
