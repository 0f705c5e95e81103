//! Every client message there and back, every cut and mutation of one an error and not a panic.

use core::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::model::batch::{BATCH_HEADER_BYTES, records_add_up};
use crate::model::limits::{BATCH_BYTES_MAX, FRAME_BYTES_MAX};
use crate::model::{ClusterId, Doubt, LogIndex, NodeId, NodeUuid, Outcome, Refusal, ShardId, Term};
use crate::wire::{FRAME_HEADER_BYTES, FrameError, FrameHeader, PROTOCOL_VERSION};

const GROUP: GroupId = GroupId::new(5);

fn split(frame: &[u8]) -> (FrameHeader, &[u8]) {
    let header = FrameHeader::decode(frame, FRAME_BYTES_MAX).expect("just encoded");
    assert_eq!(header.frame_bytes(), frame.len());
    let body = &frame[FRAME_HEADER_BYTES..];
    header.check_body(body).expect("just encoded");
    (header, body)
}

fn request(frame: &[u8]) -> Result<Request<'_>, Refusal> {
    let (header, body) = split(frame);
    Request::decode(&header, body)
}

fn reply(frame: &[u8]) -> Reply<'_> {
    let (header, body) = split(frame);
    Reply::decode(&header, body).expect("just encoded")
}

fn hello_reply() -> HelloReply {
    HelloReply {
        version: PROTOCOL_VERSION,
        node: NodeId::new(2),
        shard: ShardId::new(1),
        shard_count: 4,
        cluster: ClusterId::new([3; 16]),
        uuid: NodeUuid::new([4; 16]),
        limits: Limits {
            frame_bytes_max: 1 << 20,
            batch_bytes_max: 1000,
            requests_max: 9,
            budget_bytes: 1 << 40,
        },
    }
}

/// A broken body of each request kind, and each prefix of each valid one.
#[test]
fn requests_cut_anywhere_are_refused() {
    let mut frames = vec![Vec::new(); 3];
    encode_hello(&mut frames[0], 1, &Hello::new(ClusterId::new([1; 16]), "name"));
    encode_read(
        &mut frames[1],
        2,
        GROUP,
        &Read { from: LogIndex::new(1), max_bytes: 10, consistency: Consistency::Stale },
    );
    encode_append(&mut frames[2], 3, GROUP, Some(LogIndex::new(8)), &[&b"ab"[..], b""]);
    for frame in &frames {
        let (header, body) = split(frame);
        assert!(Request::decode(&header, body).is_ok());
        for end in 0..body.len() {
            let cut = FrameHeader {
                body_bytes: u32::try_from(end).expect("small"),
                covered_bytes: u32::try_from(end).expect("small"),
                ..header
            };
            assert_eq!(Request::decode(&cut, &body[..end]), Err(Refusal::Malformed), "{end}");
        }
        let longer = [body, &[0]].concat();
        assert_eq!(Request::decode(&header, &longer), Err(Refusal::Malformed));
    }
}

#[test]
fn hello_and_its_answer_survive() {
    let cluster = ClusterId::new([7; 16]);
    let mut frame = Vec::new();
    encode_hello(&mut frame, 1, &Hello::new(cluster, "tester"));
    let Ok(Request::Hello(hello)) = request(&frame) else { panic!("a hello") };
    assert_eq!(hello, Hello::new(cluster, "tester"));
    assert_eq!(hello.check(cluster), Ok(PROTOCOL_VERSION));
    assert_eq!(hello.check(ClusterId::new([8; 16])), Err(ErrorCode::WrongCluster));
    let newer = Hello { version_min: 2, version_max: 3, ..hello };
    assert_eq!(newer.check(cluster), Err(ErrorCode::WrongVersion));
    let any = Hello::new(ClusterId::default(), "");
    assert_eq!(any.check(cluster), Ok(PROTOCOL_VERSION));

    let mut frame = Vec::new();
    encode_hello_reply(&mut frame, 1, &hello_reply());
    let Reply::Hello(decoded) = reply(&frame) else { panic!("a hello reply") };
    assert_eq!(decoded, hello_reply());
}

#[test]
fn what_is_reserved_is_refused_and_not_misread() {
    for kind in [Kind::Tail, Kind::Credit, Kind::Trim, Kind::KeyValue, Kind::AppendReply] {
        let mut frame = Vec::new();
        encode_metadata(&mut frame, 1);
        let (mut header, body) = split(&frame);
        header.kind = kind.number();
        assert_eq!(Request::decode(&header, body), Err(Refusal::Unsupported));
        header.kind = 200;
        assert_eq!(Request::decode(&header, body), Err(Refusal::Unsupported));
    }
    // Producer fields, flag bit 0.
    let mut frame = Vec::new();
    encode_append(&mut frame, 1, GROUP, None, &[b"x"]);
    let (header, body) = split(&frame);
    let mut flagged = body.to_vec();
    flagged[0] |= 1;
    assert_eq!(Request::decode(&header, &flagged), Err(Refusal::Unsupported));
    // Credentials in a hello.
    let mut frame = Vec::new();
    encode_hello(&mut frame, 1, &Hello::new(ClusterId::default(), "x"));
    let (header, body) = split(&frame);
    let mut secret = body.to_vec();
    secret[4] = 1;
    assert_eq!(Request::decode(&header, &secret), Err(Refusal::Unsupported));
}

#[test]
fn an_append_keeps_its_records_as_a_batch_wants_them() {
    for tail in [None, Some(LogIndex::new(17))] {
        let mut frame = Vec::new();
        encode_append(&mut frame, 3, GROUP, tail, &[&b"one"[..], b"", b"three"]);
        assert_eq!(
            append_frame_bytes(tail, &[&b"one"[..], b"", b"three"]),
            Ok(frame.len()),
            "the size is known before"
        );
        let Ok(Request::Append(append)) = request(&frame) else { panic!("an append") };
        assert_eq!((append.expected_tail, append.count.get()), (tail, 3));
        assert!(records_add_up(append.records, 3));
        assert_eq!(append.record_bytes(), 8);
        assert_eq!(&frame[append.records_offset()..], append.records);
    }
}

#[test]
fn an_append_fills_a_batch_and_no_more() {
    let mut record = vec![0; BATCH_BYTES_MAX - BATCH_HEADER_BYTES - 4];
    let mut frame = Vec::new();
    encode_append(&mut frame, 1, GROUP, None, &[&record]);
    assert!(matches!(request(&frame), Ok(Request::Append(_))));
    assert!(frame.len() <= FRAME_BYTES_MAX);
    record.push(0);
    let limit_bytes = u32::try_from(BATCH_BYTES_MAX - BATCH_HEADER_BYTES).expect("1 MiB");
    let refusal = Refusal::TooLarge { limit_bytes };
    assert_eq!(append_frame_bytes(None, &[&record]), Err(refusal));
    assert_eq!(append_frame_bytes::<&[u8]>(None, &[]), Err(Refusal::Malformed));
    // The same from somebody who does not ask.
    let mut body = vec![0; 8];
    body[4] = 1;
    body.extend(u32::try_from(record.len()).expect("1 MiB").to_le_bytes());
    body.extend(&record);
    let (header, _) = split(&frame);
    let header = FrameHeader { body_bytes: 0, covered_bytes: 0, ..header };
    assert_eq!(Request::decode(&header, &body), Err(refusal));
}

#[test]
fn an_append_reply_is_one_small_frame() {
    let sent = AppendReply {
        first: LogIndex::new(u64::MAX - 1),
        term: Term::new(3),
        commit: LogIndex::new(u64::MAX),
    };
    let mut frame = bytes::BytesMut::new();
    encode_append_reply(&mut frame, 8, GROUP, &sent);
    assert_eq!(frame.len(), APPEND_REPLY_FRAME_BYTES);
    let Reply::Append(decoded) = reply(&frame) else { panic!("an append reply") };
    assert_eq!(decoded, sent);
    assert_eq!((split(&frame).0.correlation, split(&frame).0.group), (8, GROUP));
}

#[test]
fn a_read_reply_is_a_head_and_batches_that_were_not_copied() {
    let head = ReadReplyHead {
        first_available: LogIndex::new(1),
        commit: LogIndex::new(9),
        next: LogIndex::new(8),
    };
    for batches in [&[][..], &[&b"first"[..], b"second"][..]] {
        let mut frame = encode_read_reply_head(4, GROUP, &head, batches.iter().copied());
        assert_eq!(frame.len(), READ_REPLY_HEAD_BYTES);
        frame.extend(batches.concat());
        let Reply::Read(view) = reply(&frame) else { panic!("a read reply") };
        assert_eq!(view, ReadReplyView { head, batches: &batches.concat() });
    }
}

#[test]
fn metadata_survives_and_every_cut_is_an_error() {
    let nodes: Vec<_> = (1..4)
        .map(|id| NodeInfo { node: NodeId::new(id), host: "ho.st", client_base_port: 7000 + id })
        .collect();
    let groups: Vec<_> = (1..9)
        .map(|id| GroupInfo {
            group: GroupId::new(id),
            term: Term::new(id * 3),
            leader: (id != 4).then_some(NodeId::new(2)),
        })
        .collect();
    let sent = MetadataReply {
        cluster: ClusterId::new([5; 16]),
        shard: ShardId::new(1),
        shard_count: 2,
        group_count: 16,
        nodes: &nodes,
        groups: &groups,
    };
    let mut frame = Vec::new();
    encode_metadata_reply(&mut frame, 6, &sent);
    let Reply::Metadata(view) = reply(&frame) else { panic!("a metadata reply") };
    assert_eq!((view.cluster, view.shard), (sent.cluster, sent.shard));
    assert_eq!((view.shard_count, view.group_count), (2, 16));
    assert_eq!(view.nodes().collect::<Vec<_>>(), nodes);
    assert_eq!(view.groups().collect::<Vec<_>>(), groups);
    let (header, body) = split(&frame);
    for end in 0..body.len() {
        assert!(matches!(Reply::decode(&header, &body[..end]), Err(FrameError::Body { .. })));
    }
}

#[test]
fn status_is_text_and_its_lines_are_pairs() {
    let mut frame = Vec::new();
    encode_status_reply(&mut frame, 7, "node 1\nmotto all for one\nlonely\n");
    let Reply::Status(status) = reply(&frame) else { panic!("a status reply") };
    let pairs: Vec<_> = status.pairs().collect();
    assert_eq!(pairs, [("node", "1"), ("motto", "all for one"), ("lonely", "")]);
    let (header, _) = split(&frame);
    assert!(Reply::decode(&header, &[0xff]).is_err(), "not UTF-8");
}

#[test]
fn refusals_and_doubts_survive_with_their_numbers() {
    let refusals = [
        Refusal::NotLeader { hint: Some(NodeId::new(3)) },
        Refusal::NotLeader { hint: None },
        Refusal::Busy { retry_after: Duration::from_micros(1500) },
        Refusal::DiskFull,
        Refusal::TooLarge { limit_bytes: 77 },
        Refusal::UnknownGroup,
        Refusal::Trimmed { next: LogIndex::new(12) },
        Refusal::WrongTail { last: LogIndex::new(13) },
        Refusal::Unsupported,
        Refusal::Malformed,
        Refusal::Unavailable,
        Refusal::TimedOut,
    ];
    for refusal in refusals {
        let mut frame = Vec::new();
        encode_refusal(&mut frame, 1, GROUP, refusal);
        let Reply::Error(error) = reply(&frame) else { panic!("an error reply") };
        assert!((100..200).contains(&error.code), "{refusal:?} is not in the NotDone range");
        assert!(!error.text.is_empty());
        assert_eq!(error.outcome::<()>(), Outcome::NotDone(refusal));
    }
    for doubt in [Doubt::LeadershipLost, Doubt::ConnectionLost, Doubt::TimedOut] {
        let mut frame = Vec::new();
        encode_doubt(&mut frame, 1, GROUP, doubt);
        let Reply::Error(error) = reply(&frame) else { panic!("an error reply") };
        assert!((200..300).contains(&error.code), "{doubt:?} is not in the Unknown range");
        assert_eq!(error.outcome::<()>(), Outcome::Unknown(doubt));
    }
}

#[test]
fn an_unknown_code_is_judged_by_its_range() {
    let error = |code| ErrorReply { code, detail: 0, text: "" };
    for code in 0..1000 {
        let outcome = error(code).outcome::<()>();
        let not_done = matches!(outcome, Outcome::NotDone(_));
        assert_eq!(not_done, (100..200).contains(&code), "{code} gave {outcome:?}");
    }
    for code in ErrorCode::ALL {
        assert_eq!(ErrorCode::from_number(code.number()), Some(*code));
    }
}

#[test]
fn groups_lie_on_the_shard_of_their_remainder() {
    assert_eq!(shard_of(GroupId::new(7), 4), ShardId::new(3));
    assert_eq!(shard_of(GroupId::new(u64::MAX), 1), ShardId::new(0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_append_survives(
        records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 1..20),
        tail in prop::option::of(any::<u64>()),
        correlation in any::<u64>(),
        group in any::<u64>(),
    ) {
        let (tail, group) = (tail.map(LogIndex::new), GroupId::new(group));
        let mut frame = Vec::new();
        encode_append(&mut frame, correlation, group, tail, &records);
        let (header, _) = split(&frame);
        prop_assert_eq!((header.correlation, header.group), (correlation, group));
        let Ok(Request::Append(append)) = request(&frame) else { panic!("an append") };
        prop_assert_eq!(append.expected_tail, tail);
        let mut run = Vec::new();
        for record in &records {
            crate::model::batch::encode_record(record, &mut run);
        }
        prop_assert_eq!(append.records, run);
    }

    #[test]
    fn any_read_survives(from in 1u64.., max_bytes in any::<u32>(), stale in any::<bool>()) {
        let consistency = if stale { Consistency::Stale } else { Consistency::Linearizable };
        let read = Read { from: LogIndex::new(from), max_bytes, consistency };
        let mut frame = Vec::new();
        encode_read(&mut frame, 1, GROUP, &read);
        prop_assert_eq!(request(&frame), Ok(Request::Read(read)));
    }
}
