//! Properties of the whole room: what is encoded comes back, however the stream is cut; what is
//! broken is an error, never a panic, a wrong frame or memory beyond the limit (N-01..N-03).

use bytes::Bytes;
use proptest::prelude::*;

use super::client::{self, Reply, Request};
use super::frame::{Address, encode_frame};
use super::peer;
use super::{Assembler, FRAME_HEADER_BYTES, FrameError, FrameHeader, InFrame};
use crate::model::limits::FRAME_BYTES_MAX;
use crate::model::{
    ClusterId, EntryId, GroupId, LogIndex, Membership, NodeId, Refusal, ReplicaId, ShardId, Term,
};
use crate::raft::{Envelope, Message};

fn frame(kind: u8, correlation: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let address = Address { kind, correlation, group: GroupId::new(9) };
    encode_frame(&mut bytes, address, |to| to.extend_from_slice(body));
    bytes
}

fn drain(assembler: &mut Assembler) -> Vec<Result<InFrame, FrameError>> {
    core::iter::from_fn(|| assembler.next()).collect()
}

/// Everything that may be done with bytes from a stranger. Must return, whatever they are.
fn digest(bytes: &[u8]) {
    let mut assembler = Assembler::new(FRAME_BYTES_MAX);
    assembler.push(Bytes::copy_from_slice(bytes));
    for frame in drain(&mut assembler).into_iter().flatten() {
        digest_body(&frame.header, frame.body());
    }
    let _ = peer::bulk_frame_bytes(bytes);
    let _ = peer::BulkFrame::decode(bytes).map(|frame| frame.batches().count());
    if let Some(frame) = bytes.get(..peer::HANDSHAKE_FRAME_BYTES) {
        let _ = peer::decode_handshake(frame.try_into().expect("of this size"));
    }
}

/// One frame of each shape that has structure in its body.
fn valid_frames() -> Vec<Vec<u8>> {
    let group = GroupId::new(1);
    let mut frames = vec![Vec::new(); 6];
    let node = client::NodeInfo { node: NodeId::new(1), host: "host", client_base_port: 1 };
    let info = client::GroupInfo { group, term: Term::new(1), leader: None };
    let metadata = client::MetadataReply {
        cluster: ClusterId::default(),
        shard: ShardId::new(0),
        shard_count: 1,
        group_count: 1,
        nodes: &[node; 3],
        groups: &[info; 3],
    };
    let message = |message| Envelope {
        group,
        peer: NodeId::new(1),
        from_replica: ReplicaId::new(1),
        to_replica: ReplicaId::new(2),
        term: Term::new(1),
        message,
    };
    let membership = Membership::of_voters(&[1, 2, 3].map(NodeId::new));
    let snapshot = Message::Snapshot { last: EntryId::BEFORE_FIRST, membership };
    let heartbeat = Message::Heartbeat { commit: LogIndex::new(1), round: 1 };
    client::encode_append(&mut frames[0], 1, group, Some(LogIndex::new(1)), &[[0; 20]; 3]);
    client::encode_hello(&mut frames[1], 1, &client::Hello::new(ClusterId::default(), "name"));
    client::encode_metadata_reply(&mut frames[2], 1, &metadata);
    client::encode_refusal(&mut frames[3], 1, group, Refusal::DiskFull);
    peer::encode_control(&mut frames[4], [message(snapshot), message(heartbeat)].iter());
    let mut builder = peer::BulkFrameBuilder::new(FRAME_BYTES_MAX, |batches| 64 * batches);
    let batch = peer::BulkBatch {
        group,
        from_replica: ReplicaId::new(1),
        to_replica: ReplicaId::new(2),
        term: Term::new(1),
        prev: EntryId::BEFORE_FIRST,
        commit: LogIndex::new(0),
        offset: 0,
        bytes: 1000,
    };
    (0..3).for_each(|_| builder.push(batch));
    let head = builder.finish();
    frames[5] = head.bytes;
    frames[5].resize(head.frame_bytes, 0);
    frames
}

fn digest_body(header: &FrameHeader, body: &[u8]) {
    let _ = Request::decode(header, body);
    if let Ok(Reply::Metadata(metadata)) = Reply::decode(header, body) {
        let _ = (metadata.nodes().count(), metadata.groups().count());
    }
    if let Ok(messages) = peer::decode_control(header, body, NodeId::new(1)) {
        let _ = messages.count();
    }
}

#[test]
fn frames_in_one_chunk_are_slices_of_it() {
    let mut stream = frame(3, 1, b"one");
    stream.extend(frame(3, 2, b""));
    stream.extend(frame(3, 3, b"three"));
    let chunk = Bytes::from(stream);
    let mut assembler = Assembler::new(FRAME_BYTES_MAX);
    assembler.push(chunk.clone());
    let frames: Vec<_> = drain(&mut assembler).into_iter().map(|f| f.expect("valid")).collect();
    assert_eq!(frames.len(), 3);
    assert_eq!(frames[2].body(), b"three");
    assert_eq!((frames[1].header.correlation, frames[1].header.body_bytes), (2, 0));
    assert!(chunk.as_ptr_range().contains(&frames[2].bytes.as_ptr()), "a copy was made");
    assert_eq!((assembler.carried_bytes(), assembler.held_bytes()), (0, 0));
}

#[test]
fn a_stream_cut_at_any_byte_gives_the_same_frames() {
    let (first, second) = (frame(3, 1, b"one"), frame(4, 2, b"number two"));
    let stream = [&first[..], &second[..]].concat();
    for cut in 0..=stream.len() {
        let mut assembler = Assembler::new(FRAME_BYTES_MAX);
        assembler.push(Bytes::copy_from_slice(&stream[..cut]));
        let mut frames = drain(&mut assembler);
        assembler.push(Bytes::copy_from_slice(&stream[cut..]));
        frames.extend(drain(&mut assembler));
        let bytes: Vec<_> = frames.into_iter().map(|f| f.expect("valid").bytes).collect();
        assert_eq!(bytes, [&first[..], &second[..]], "cut at {cut}");
        let clean = [0, first.len(), stream.len()].contains(&cut);
        assert_eq!(assembler.carried_bytes() == 0, clean, "cut at {cut}");
        assert_eq!(assembler.held_bytes(), 0);
    }
}

#[test]
fn a_stream_that_trickles_gives_the_same_frames() {
    let stream = [frame(3, 1, b"one"), frame(4, 2, &[7; 300])].concat();
    let mut assembler = Assembler::new(FRAME_BYTES_MAX);
    let mut frames = Vec::new();
    for byte in &stream {
        assembler.push(Bytes::copy_from_slice(&[*byte]));
        frames.extend(drain(&mut assembler));
    }
    let bytes: Vec<_> = frames.into_iter().flat_map(|f| f.expect("valid").bytes).collect();
    assert_eq!(bytes, stream);
    assert_eq!(assembler.carried_bytes(), stream.len() as u64);
}

#[test]
fn a_length_above_the_limit_ends_the_stream_before_anything_is_allocated() {
    let mut stream = frame(3, 1, &[0; 100]);
    stream.truncate(FRAME_HEADER_BYTES);
    let mut assembler = Assembler::new(FRAME_HEADER_BYTES + 99);
    assembler.push(Bytes::from(stream.clone()));
    let error = FrameError::TooLarge { frame_bytes: 140, limit_bytes: 139 };
    assert_eq!(
        drain(&mut assembler).into_iter().map(|f| f.map(|_| ())).collect::<Vec<_>>(),
        [Err(error)]
    );
    assert!(assembler.is_broken() && !error.is_framed());
    assembler.push(Bytes::from(stream));
    assert_eq!((drain(&mut assembler).len(), assembler.held_bytes()), (0, 0));
}

#[test]
fn a_frame_of_another_version_is_skipped_and_the_next_one_read() {
    let mut strange = frame(3, 77, &[1; 50]);
    strange[4] = 2;
    let crc = crate::base::Checksum::of(&strange[..36]).as_u32();
    strange[36..40].copy_from_slice(&crc.to_le_bytes());
    let stream = [strange, frame(3, 78, b"known")].concat();
    for chunk_bytes in 1..stream.len() {
        let mut assembler = Assembler::new(FRAME_BYTES_MAX);
        let mut frames = Vec::new();
        for chunk in stream.chunks(chunk_bytes) {
            assembler.push(Bytes::copy_from_slice(chunk));
            frames.extend(drain(&mut assembler));
        }
        assert_eq!(frames.len(), 2, "chunks of {chunk_bytes}");
        let error = *frames[0].as_ref().expect_err("another version");
        assert_eq!(error, FrameError::Version { found: 2, correlation: 77 });
        assert!(error.is_framed() && error.correlation() == 77);
        assert_eq!(frames[1].as_ref().expect("version 1").body(), b"known");
    }
}

#[test]
fn every_flipped_bit_of_a_frame_is_noticed() {
    let good = frame(3, 1, b"some body");
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let mut assembler = Assembler::new(FRAME_BYTES_MAX);
        assembler.push(Bytes::from(bad));
        let frames = drain(&mut assembler);
        assert!(frames.iter().all(Result::is_err), "bit {bit} flipped unnoticed");
        assert!(assembler.is_broken());
    }
}

#[test]
fn a_forwarded_frame_is_read_again_without_its_body_checksum() {
    let bytes = Bytes::from(frame(3, 5, b"body"));
    let again = InFrame::from_checked(bytes.clone()).expect("one frame");
    assert_eq!((again.header.correlation, again.body()), (5, &b"body"[..]));
    assert!(InFrame::from_checked(bytes.slice(..43)).is_err());
}

#[test]
fn kinds_have_different_numbers_in_both_protocols() {
    let client = client::Kind::ALL.iter().map(|kind| kind.number());
    let peer = peer::Kind::ALL.iter().map(|kind| kind.number());
    let numbers: Vec<u8> = client.chain(peer).collect();
    let mut unique = numbers.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), numbers.len());
    for number in 0..=255 {
        let client = client::Kind::from_number(number).map(client::Kind::number);
        let peer = peer::Kind::from_number(number).map(peer::Kind::number);
        assert_eq!(client.or(peer).is_some(), numbers.contains(&number));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_cuts_give_the_same_frames(
        bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..20),
        cuts in prop::collection::vec(1usize..300, 1..40),
    ) {
        let frames: Vec<_> = (0..).zip(&bodies).map(|(i, body)| frame(3, i, body)).collect();
        let stream = Bytes::from(frames.concat());
        let mut assembler = Assembler::new(FRAME_BYTES_MAX);
        let (mut at, mut seen) = (0, Vec::new());
        for cut in cuts.iter().cycle() {
            let end = stream.len().min(at + cut);
            assembler.push(stream.slice(at..end));
            at = end;
            // Every other chunk waits for the next one before it is looked at.
            if cut % 2 == 0 || at == stream.len() {
                seen.extend(drain(&mut assembler).into_iter().map(|f| f.expect("valid").bytes));
            }
            if at == stream.len() {
                break;
            }
        }
        prop_assert_eq!(seen, frames);
    }

    #[test]
    fn garbage_is_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        digest(&bytes);
    }

    /// Valid frames with a few bytes changed and the checksums made right again.
    #[test]
    fn mutated_frames_are_never_a_panic(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let mut frames = valid_frames();
        let mut frame = frames.swap_remove(which.index(frames.len()));
        digest(&frame);
        for (at, value) in changes {
            // The beginning of a bulk frame is where its structure lies.
            let end = frame.len().min(300);
            frame[FRAME_HEADER_BYTES + at.index(end - FRAME_HEADER_BYTES)] = value;
        }
        let covered = crate::base::layout::get_u32(&frame, 12) as usize;
        let body = &frame[FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + covered];
        let crc = crate::base::Checksum::of(body).as_u32();
        frame[32..36].copy_from_slice(&crc.to_le_bytes());
        let crc = crate::base::Checksum::of(&frame[..36]).as_u32();
        frame[36..40].copy_from_slice(&crc.to_le_bytes());
        digest(&frame);
    }

    /// Garbage behind a good header with good checksums: what a hostile peer would really send.
    #[test]
    fn garbage_bodies_are_never_a_panic(
        kind in any::<u8>(),
        body in prop::collection::vec(prop_oneof![3 => Just(0u8), 1 => any::<u8>()], 0..400),
    ) {
        for kind in [kind, kind % 10, 64 + kind % 10, 127, 129 + kind % 5] {
            digest(&frame(kind, 1, &body));
        }
        let mut page = body.clone();
        page.resize(4096 - FRAME_HEADER_BYTES, 0);
        digest(&frame(peer::Kind::Bulk.number(), 0, &page));
    }
}
