//! Every peer message there and back, every broken one an error, every handshake verdict.

use proptest::prelude::*;

use super::*;
use crate::base::Checksum;
use crate::model::limits::{BATCH_BYTES_MAX, FRAME_BYTES_MAX, GROUPS_MAX};
use crate::model::{
    BootCounter, ClusterId, EntryId, GroupId, LogIndex, Membership, NodeId, NodeUuid, ReplicaId,
    RunId, ShardId, Term,
};
use crate::raft::{Envelope, Message};
use crate::wire::{Assembler, FRAME_HEADER_BYTES, FrameError};

fn facts(node: u16, to_node: u16, nonce: u64) -> PeerFacts {
    PeerFacts {
        version_min: PEER_PROTOCOL_VERSION,
        version_max: PEER_PROTOCOL_VERSION,
        lane: Lane::Bulk,
        node: NodeId::new(node),
        to_node: NodeId::new(to_node),
        shard: ShardId::new(1),
        shard_count: 2,
        cluster: ClusterId::new([1; 16]),
        uuid: NodeUuid::new([u8::try_from(node).expect("small"); 16]),
        boot: BootCounter::new(5),
        run: RunId::new([50 + u8::try_from(node).expect("small"); 16]),
        nonce,
        echo: 0,
        credit_bytes: 4 << 20,
    }
}

#[test]
fn two_nodes_of_a_cluster_agree() {
    let dialler = facts(1, 2, 100);
    let frame = encode_hello(&dialler);
    let Ok(Handshake::Hello(heard)) = decode_handshake(&frame) else { panic!("a hello") };
    assert_eq!(heard, dialler);
    let acceptor = facts(2, 0, 200).answering(&heard);
    assert_eq!(check_hello(&acceptor, &heard, Some(Pin::of(&dialler))), Ok(()));

    let frame = encode_welcome(&acceptor);
    let Ok(Handshake::Welcome(heard)) = decode_handshake(&frame) else { panic!("a welcome") };
    assert_eq!(heard, acceptor);
    assert_eq!(check_hello(&dialler, &heard, None), Ok(()));
}

#[test]
fn each_thing_that_may_not_differ_is_refused() {
    let mine = facts(2, 0, 200).answering(&facts(1, 2, 100));
    let hello = facts(1, 2, 100);
    let verdict = |theirs: PeerFacts| check_hello(&mine, &theirs, None).expect_err("refused");
    let number = |theirs| verdict(theirs).number();
    assert_eq!(number(PeerFacts { version_min: 9, version_max: 9, ..hello }), 3);
    assert_eq!(number(PeerFacts { cluster: ClusterId::new([9; 16]), ..hello }), 4);
    assert_eq!(number(PeerFacts { node: NodeId::new(3), ..hello }), 5);
    assert_eq!(number(PeerFacts { to_node: NodeId::new(3), ..hello }), 5);
    assert_eq!(number(PeerFacts { node: NodeId::new(2), ..hello }), 5);
    assert_eq!(number(PeerFacts { shard: ShardId::new(0), ..hello }), 6);
    assert_eq!(number(PeerFacts { shard_count: 3, ..hello }), 7);
    assert_eq!(number(PeerFacts { lane: Lane::Control, ..hello }), 8);
    // A wiped directory, and an old copy of the right one.
    let pinned = |boot| Some(Pin { boot: BootCounter::new(boot), ..Pin::of(&hello) });
    let wiped = PeerFacts { uuid: NodeUuid::new([9; 16]), ..hello };
    assert_eq!(check_hello(&mine, &wiped, pinned(5)).map_err(|e| e.number()), Err(9));
    assert_eq!(check_hello(&mine, &hello, pinned(6)).map_err(|e| e.number()), Err(10));
    assert_eq!(check_hello(&mine, &hello, pinned(5)), Ok(()));
    assert_eq!(check_hello(&mine, &hello, pinned(4)), Ok(()));
    // A copy that is exactly one start old counts to the number that the original has shown.
    let copy = PeerFacts { run: RunId::new([9; 16]), ..hello };
    assert_eq!(check_hello(&mine, &copy, pinned(5)).map_err(|e| e.number()), Err(14));
    assert_eq!(check_hello(&mine, &copy, pinned(4)), Ok(()));
    // A node of the first version, which has no run id, is told the version and not a riddle.
    let old = PeerFacts { version_min: 1, version_max: 1, run: RunId::default(), ..hello };
    assert_eq!(check_hello(&mine, &old, pinned(5)).map_err(|e| e.number()), Err(3));
}

#[test]
fn an_old_welcome_and_a_hello_without_nonce_are_refused() {
    let dialler = facts(1, 2, 100);
    let old = facts(2, 0, 200).answering(&facts(1, 2, 99));
    assert_eq!(check_hello(&dialler, &old, None), Err(HandshakeError::Nonce));
    let lazy = facts(1, 2, 0);
    let answer = facts(2, 0, 200).answering(&lazy);
    assert_eq!(check_hello(&answer, &lazy, None), Err(HandshakeError::Nonce));
}

#[test]
fn a_refusal_tells_its_reason_in_a_frame_of_the_same_size() {
    let (most, uuid) = (BootCounter::new(u64::MAX), NodeUuid::new([7; 16]));
    for error in [
        HandshakeError::Uuid { found: uuid },
        HandshakeError::Boot { pinned: most, found: most },
        HandshakeError::Run { boot: most },
    ] {
        let frame = encode_refused(&error);
        let Ok(Handshake::Refused { code, text }) = decode_handshake(&frame) else {
            panic!("a refusal")
        };
        // Whole, with the rule and the cure, however large the numbers are.
        assert_eq!((code, text), (error.number(), &error.to_string()[..]));
    }
}

#[test]
fn every_flipped_bit_of_a_handshake_is_noticed() {
    let good = encode_hello(&facts(1, 2, 3));
    for bit in 0..good.len() * 8 {
        let mut bad = good;
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(decode_handshake(&bad).is_err(), "bit {bit}");
    }
}

fn messages() -> Vec<Message> {
    let entry = EntryId::new(Term::new(3), LogIndex::new(40));
    let index = LogIndex::new(41);
    let membership = Membership::of_voters(&[1, 2, 3].map(NodeId::new));
    vec![
        Message::PreVote { last: entry },
        Message::PreVoteReply { granted: true },
        Message::PreVoteReply { granted: false },
        Message::Vote { last: entry },
        Message::VoteReply { granted: true },
        Message::Heartbeat { commit: index, round: 9 },
        Message::HeartbeatReply { round: 9 },
        Message::Probe { prev: entry, commit: index },
        Message::Accepted { matched: index },
        Message::Rejected { prev: index, hint: entry },
        Message::Snapshot { last: entry, membership },
    ]
}

fn envelope(group: u64, message: Message) -> Envelope {
    Envelope {
        group: GroupId::new(group),
        peer: NodeId::new(2),
        from_replica: ReplicaId::new(1),
        to_replica: ReplicaId::new(2),
        term: Term::new(7),
        message,
    }
}

fn decode_all(bytes: &[u8]) -> Vec<Result<Envelope, FrameError>> {
    let mut assembler = Assembler::new(FRAME_BYTES_MAX);
    assembler.push(bytes::Bytes::copy_from_slice(bytes));
    let mut all = Vec::new();
    while let Some(frame) = assembler.next() {
        let frame = frame.expect("just encoded");
        all.extend(
            decode_control(&frame.header, frame.body(), NodeId::new(2)).expect("a control frame"),
        );
    }
    all
}

#[test]
fn every_raft_message_survives() {
    let sent: Vec<_> = (1..).zip(messages()).map(|(group, m)| envelope(group, m)).collect();
    let mut bytes = Vec::new();
    assert_eq!(encode_control(&mut bytes, sent.iter()), 1);
    let heard: Vec<_> = decode_all(&bytes).into_iter().map(|e| e.expect("valid")).collect();
    assert_eq!(heard, sent);
    assert_eq!(encode_control(&mut Vec::new(), [].iter()), 0);
}

#[test]
fn a_heartbeat_for_every_group_of_a_full_node_fits_one_frame() {
    let heartbeat = Message::Heartbeat { commit: LogIndex::new(1), round: 1 };
    let count = u64::try_from(GROUPS_MAX).expect("small");
    let sent: Vec<_> = (1..=count).map(|group| envelope(group, heartbeat.clone())).collect();
    let mut bytes = Vec::new();
    assert_eq!(encode_control(&mut bytes, sent.iter()), 1);
    // Far more than any node sends: several frames, none above the limit.
    let many: Vec<_> = sent.iter().cycle().take(3 * sent.len()).cloned().collect();
    let mut bytes = Vec::new();
    assert_eq!(encode_control(&mut bytes, many.iter()), 2);
    assert_eq!(decode_all(&bytes).len(), many.len());
}

#[test]
fn a_broken_message_ends_the_frame_with_an_error() {
    for message in messages() {
        let mut bytes = Vec::new();
        encode_control(&mut bytes, [envelope(1, message.clone())].iter());
        let body = &bytes[FRAME_HEADER_BYTES..];
        let header = crate::wire::FrameHeader::decode(&bytes, FRAME_BYTES_MAX).expect("valid");
        let decode = |body: &[u8]| -> Vec<_> {
            let messages = decode_control(&header, body, NodeId::new(2)).expect("a control frame");
            messages.collect()
        };
        assert_eq!(decode(body).len(), 1);
        for end in 1..body.len() {
            let all = decode(&body[..end]);
            assert!(all.len() == 1 && all[0].is_err(), "{message:?} cut at {end}");
        }
        // A kind and a flag that do not exist.
        for (at, value) in [(24, 0), (24, 99), (25, 2)] {
            let mut bad = body.to_vec();
            bad[at] = value;
            assert!(decode(&bad)[0].is_err(), "{message:?} with {value} at {at}");
        }
    }
}

fn batch(bytes: u32, group: u64) -> BulkBatch {
    BulkBatch {
        group: GroupId::new(group),
        from_replica: ReplicaId::new(1),
        to_replica: ReplicaId::new(2),
        term: Term::new(3),
        prev: EntryId::new(Term::new(2), LogIndex::new(10)),
        commit: LogIndex::new(9),
        offset: 0,
        bytes,
    }
}

fn area_bytes_min(batches: usize) -> usize {
    128 + 40 * batches
}

/// A bulk frame whose batches are filled with their number.
fn bulk(sizes: &[u32]) -> Vec<u8> {
    let mut builder = BulkFrameBuilder::new(FRAME_BYTES_MAX, area_bytes_min);
    for (group, bytes) in (1..).zip(sizes) {
        builder.push(batch(*bytes, group));
    }
    let expected_bytes = builder.frame_bytes();
    let head = builder.finish();
    assert!(builder.is_empty());
    assert_eq!(head.frame_bytes, expected_bytes);
    let mut frame = head.bytes;
    for (number, bytes) in (1..).zip(sizes) {
        frame.resize(frame.len() + *bytes as usize, number);
    }
    frame.resize(frame.len() + head.pad_bytes, 0);
    assert_eq!(frame.len(), head.frame_bytes);
    frame
}

#[test]
fn a_bulk_frame_survives_and_leaves_room_for_the_receivers_header() {
    let frame = bulk(&[64, 5000, 100]);
    assert!(frame.len().is_multiple_of(4096));
    assert_eq!(bulk_frame_bytes(&frame[..39]), Ok(None));
    assert_eq!(bulk_frame_bytes(&frame[..40]), Ok(Some(frame.len())));
    let decoded = BulkFrame::decode(&frame).expect("just encoded");
    assert!(decoded.area_bytes() >= area_bytes_min(3));
    assert_eq!(decoded.len(), 3);
    let mut end = decoded.area_bytes();
    for (number, found) in (1..).zip(decoded.batches()) {
        assert_eq!(found.range().start, end);
        end = found.range().end;
        assert!(decoded.batch(&found).iter().all(|byte| *byte == number));
        let sent = BulkBatch { offset: found.offset, ..batch(found.bytes, u64::from(number)) };
        assert_eq!(found, sent);
    }
    assert!(frame[end..].iter().all(|byte| *byte == 0));
}

#[test]
fn the_largest_batch_fits_a_bulk_frame_and_the_builder_knows_when_it_is_full() {
    let mut builder = BulkFrameBuilder::new(FRAME_BYTES_MAX, area_bytes_min);
    assert!(builder.fits(BATCH_BYTES_MAX) && !builder.fits(FRAME_BYTES_MAX));
    builder.push(batch(u32::try_from(BATCH_BYTES_MAX).expect("1 MiB"), 1));
    let mut small = 0;
    while builder.fits(64) {
        builder.push(batch(64, 2));
        small += 1;
    }
    assert!(small > 300, "{small} small batches fit into the rest");
    assert_eq!(builder.len(), small + 1);
    assert!(builder.finish().frame_bytes <= FRAME_BYTES_MAX);
    let mut builder = BulkFrameBuilder::new(FRAME_BYTES_MAX, area_bytes_min);
    while builder.fits(64) {
        builder.push(batch(64, 2));
    }
    assert_eq!(builder.len(), crate::model::limits::BATCHES_PER_BLOCK_MAX);
}

/// Changes a field of the area and makes the checksum right again.
fn forged(frame: &[u8], at: usize, value: u32) -> Vec<u8> {
    let mut bad = frame.to_vec();
    bad[at..at + 4].copy_from_slice(&value.to_le_bytes());
    let area = BulkFrame::decode(frame).expect("valid").area_bytes();
    let crc = Checksum::of(&bad[FRAME_HEADER_BYTES..area]).as_u32();
    bad[32..36].copy_from_slice(&crc.to_le_bytes());
    let crc = Checksum::of(&bad[..36]).as_u32();
    bad[36..40].copy_from_slice(&crc.to_le_bytes());
    bad
}

#[test]
fn batches_that_overlap_leave_the_frame_or_hide_bytes_are_refused() {
    let frame = bulk(&[100, 200]);
    let decoded = BulkFrame::decode(&frame).expect("valid");
    let [first, second] = [48, 48 + BULK_DESCRIPTOR_BYTES].map(|at| FRAME_HEADER_BYTES + 8 + at);
    let area = u32::try_from(decoded.area_bytes()).expect("small");
    assert!(BulkFrame::decode(&forged(&frame, first, area)).is_ok(), "forging changes nothing");
    let cases = [
        (first, area - 1),
        (first, 0),
        (second, area + 99),
        (second, area + 101),
        (second, u32::MAX),
        (first + 4, 63),
        (first + 4, 101),
        (second + 4, u32::MAX),
        (second + 4, u32::try_from(frame.len()).expect("small")),
        (FRAME_HEADER_BYTES, 0),
        (FRAME_HEADER_BYTES, 1000),
        (FRAME_HEADER_BYTES + 4, area + 64),
    ];
    for (at, value) in cases {
        let verdict = BulkFrame::decode(&forged(&frame, at, value)).map(|frame| frame.len());
        assert!(matches!(verdict, Err(FrameError::Body { .. })), "{value} at {at}: {verdict:?}");
    }
    // One batch less than there are bytes for hides the second one's.
    let hidden = bulk(&[100, 5000]);
    assert!(BulkFrame::decode(&forged(&hidden, FRAME_HEADER_BYTES, 1)).is_err());
}

#[test]
fn only_bulk_frames_of_whole_pages_go_into_a_block() {
    let mut control = Vec::new();
    encode_control(&mut control, [envelope(1, messages()[0].clone())].iter());
    assert!(bulk_frame_bytes(&control).is_err());
    assert!(bulk_frame_bytes(&encode_hello(&facts(1, 2, 3))).is_err());
    assert!(bulk_frame_bytes(&[0; 40]).is_err());
    let frame = bulk(&[100]);
    assert!(BulkFrame::decode(&frame[..frame.len() - 1]).is_err());
    let area = BulkFrame::decode(&frame).expect("valid").area_bytes();
    for bit in 0..area * 8 {
        let mut bad = frame.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(BulkFrame::decode(&bad).is_err(), "bit {bit} flipped unnoticed");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_bulk_frame_survives(sizes in prop::collection::vec(64u32..9000, 1..40)) {
        let frame = bulk(&sizes);
        let decoded = BulkFrame::decode(&frame).expect("just encoded");
        let found: Vec<u32> = decoded.batches().map(|batch| batch.bytes).collect();
        prop_assert_eq!(found, sizes);
    }
}
