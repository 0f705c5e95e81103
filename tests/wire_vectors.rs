//! The hex blocks of `docs/wire-protocol.md` against the encoders and decoders: what strangers
//! read there is what the program does.
//!
//! After a deliberate change of the format, `UPDATE_WIRE_VECTORS=1 cargo test --test wire_vectors`
//! rewrites the blocks; the diff of the document is then the review.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use catamaran::model::batch::{encode_batch, encode_record};
use catamaran::model::limits::FRAME_BYTES_MAX;
use catamaran::model::{
    BatchKind, BatchView, BootCounter, ClusterId, Doubt, EntryId, GroupId, LogIndex, NodeId,
    NodeUuid, Outcome, RecordCount, Refusal, ReplicaId, RunId, ShardId, Span, Term,
};
use catamaran::raft::{Envelope, Message};
use catamaran::wire::client::{
    Append, AppendReply, Consistency, GroupInfo, Hello, HelloReply, Limits, MetadataReply,
    NodeInfo, Read, ReadReplyHead, Reply, Request, encode_append, encode_append_reply,
    encode_doubt, encode_hello, encode_hello_reply, encode_metadata, encode_metadata_reply,
    encode_read, encode_read_reply_head, encode_refusal, encode_status, encode_status_reply,
};
use catamaran::wire::peer::{
    self, BulkBatch, BulkFrame, BulkFrameBuilder, Handshake, HandshakeError, Lane, PeerFacts,
    decode_control, decode_handshake, encode_control, encode_refused, encode_welcome,
};
use catamaran::wire::{Assembler, InFrame};

const GROUP: GroupId = GroupId::new(5);
const RECORDS: [&[u8]; 2] = [b"hello", b""];

fn cluster() -> ClusterId {
    ClusterId::parse("00010203-0405-0607-0809-0a0b0c0d0e0f").expect("an id")
}

fn uuid(first: u8) -> NodeUuid {
    NodeUuid::new(core::array::from_fn(|i| first + u8::try_from(i).expect("small")))
}

fn hello() -> Hello<'static> {
    Hello::new(cluster(), "example")
}

fn hello_reply() -> HelloReply {
    HelloReply {
        version: 1,
        node: NodeId::new(2),
        shard: ShardId::new(1),
        shard_count: 4,
        cluster: cluster(),
        uuid: uuid(0xa0),
        limits: Limits {
            frame_bytes_max: 1 << 20,
            batch_bytes_max: 983_040,
            requests_max: 65_536,
            budget_bytes: 4 << 20,
        },
    }
}

const NODES: [NodeInfo<'static>; 2] = [
    NodeInfo { node: NodeId::new(1), host: "10.0.0.1", client_base_port: 7000 },
    NodeInfo { node: NodeId::new(2), host: "node-b", client_base_port: 7000 },
];

const GROUPS: [GroupInfo; 2] = [
    GroupInfo { group: GroupId::new(1), term: Term::new(5), leader: Some(NodeId::new(2)) },
    GroupInfo { group: GroupId::new(2), term: Term::ZERO, leader: None },
];

fn metadata_reply() -> MetadataReply<'static> {
    MetadataReply {
        cluster: cluster(),
        shard: ShardId::new(0),
        shard_count: 1,
        group_count: 2,
        nodes: &NODES,
        groups: &GROUPS,
    }
}

const APPEND_REPLY: AppendReply =
    AppendReply { first: LogIndex::new(41), term: Term::new(3), commit: LogIndex::new(42) };

const READ: Read =
    Read { from: LogIndex::new(40), max_bytes: 65_536, consistency: Consistency::Linearizable };

const READ_HEAD: ReadReplyHead = ReadReplyHead {
    first_available: LogIndex::new(1),
    commit: LogIndex::new(42),
    next: LogIndex::new(43),
};

const STATUS: &str = "node 2\nshard 1\nturns 12345\n";

const NOT_LEADER: Refusal = Refusal::NotLeader { hint: Some(NodeId::new(3)) };
const BUSY: Refusal = Refusal::Busy { retry_after: Duration::from_micros(1500) };

fn batch() -> Vec<u8> {
    let mut body = Vec::new();
    RECORDS.iter().for_each(|record| encode_record(record, &mut body));
    let span = Span { term: Term::new(3), first: LogIndex::new(41), count: RecordCount::new(2) };
    encode_batch(GROUP, ReplicaId::new(2), span, BatchKind::Records, &body)
}

fn dialler() -> PeerFacts {
    PeerFacts {
        version_min: 2,
        version_max: 2,
        lane: Lane::Bulk,
        node: NodeId::new(1),
        to_node: NodeId::new(2),
        shard: ShardId::new(0),
        shard_count: 1,
        cluster: cluster(),
        uuid: uuid(0xa0),
        boot: BootCounter::new(7),
        run: RunId::new(uuid(0xc0).get()),
        nonce: 0x0102_0304_0506_0708,
        echo: 0,
        credit_bytes: 4 << 20,
    }
}

fn acceptor() -> PeerFacts {
    let own = PeerFacts {
        node: NodeId::new(2),
        uuid: uuid(0xb0),
        boot: BootCounter::new(3),
        run: RunId::new(uuid(0xd0).get()),
        nonce: 0x1112_1314_1516_1718,
        ..dialler()
    };
    own.answering(&dialler())
}

const HANDSHAKE_ERROR: HandshakeError = HandshakeError::ShardCount { found: 4 };

fn envelopes() -> [Envelope; 2] {
    let envelope = |group, message| Envelope {
        group: GroupId::new(group),
        peer: NodeId::new(1),
        from_replica: ReplicaId::new(1),
        to_replica: ReplicaId::new(2),
        term: Term::new(3),
        message,
    };
    [
        envelope(1, Message::Heartbeat { commit: LogIndex::new(42), round: 9 }),
        envelope(2, Message::Accepted { matched: LogIndex::new(17) }),
    ]
}

fn bulk_batch() -> BulkBatch {
    BulkBatch {
        group: GROUP,
        from_replica: ReplicaId::new(2),
        to_replica: ReplicaId::new(1),
        term: Term::new(3),
        prev: EntryId::new(Term::new(3), LogIndex::new(40)),
        commit: LogIndex::new(39),
        offset: 0,
        bytes: u32::try_from(batch().len()).expect("small"),
    }
}

/// The formula that the document gives for the area.
fn area_bytes_min(batches: usize) -> usize {
    64 + 88 * batches
}

fn bulk() -> Vec<u8> {
    let mut builder = BulkFrameBuilder::new(FRAME_BYTES_MAX, area_bytes_min);
    builder.push(bulk_batch());
    let head = builder.finish();
    let mut frame = head.bytes;
    frame.extend(batch());
    frame.resize(frame.len() + head.pad_bytes, 0);
    frame
}

/// What the program encodes, by the name of its block.
fn encoded() -> BTreeMap<&'static str, Vec<u8>> {
    type Encode = fn(&mut Vec<u8>);
    let blocks: [(&str, Encode); 19] = [
        ("hello", |to| encode_hello(to, 1, &hello())),
        ("hello-reply", |to| encode_hello_reply(to, 1, &hello_reply())),
        ("metadata", |to| encode_metadata(to, 2)),
        ("metadata-reply", |to| encode_metadata_reply(to, 2, &metadata_reply())),
        ("append", |to| encode_append(to, 7, GROUP, None, &RECORDS)),
        ("append-expected-tail", |to| {
            encode_append(to, 7, GROUP, Some(LogIndex::new(41)), &RECORDS);
        }),
        ("append-reply", |to| encode_append_reply(to, 7, GROUP, &APPEND_REPLY)),
        ("read", |to| encode_read(to, 8, GROUP, &READ)),
        ("read-reply", |to| {
            let batch = batch();
            *to = encode_read_reply_head(8, GROUP, &READ_HEAD, [&batch[..]].into_iter());
            to.extend(batch);
        }),
        ("status", |to| encode_status(to, 3)),
        ("status-reply", |to| encode_status_reply(to, 3, STATUS)),
        ("error-not-leader", |to| encode_refusal(to, 9, GROUP, NOT_LEADER)),
        ("error-busy", |to| encode_refusal(to, 9, GROUP, BUSY)),
        ("error-unknown", |to| encode_doubt(to, 9, GROUP, Doubt::LeadershipLost)),
        ("peer-hello", |to| to.extend(peer::encode_hello(&dialler()))),
        ("peer-welcome", |to| to.extend(encode_welcome(&acceptor()))),
        ("peer-refused", |to| to.extend(encode_refused(&HANDSHAKE_ERROR))),
        ("control", |to| assert_eq!(encode_control(to, envelopes().iter()), 1)),
        ("bulk", |to| *to = bulk()),
    ];
    blocks
        .into_iter()
        .map(|(name, encode)| {
            let mut bytes = Vec::new();
            encode(&mut bytes);
            (name, bytes)
        })
        .collect()
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/wire-protocol.md")
}

/// 16 bytes a line; a run of zero bytes at the end or of 32 and more as `00 x N`.
fn render(bytes: &[u8]) -> String {
    let (mut text, mut at, mut column) = (String::new(), 0, 0);
    while at < bytes.len() {
        let zeros = bytes[at..].iter().take_while(|byte| **byte == 0).count();
        if zeros >= 32 {
            if column > 0 {
                text.push('\n');
            }
            writeln!(text, "00 x {zeros}").expect("a String takes everything");
            (at, column) = (at + zeros, 0);
            continue;
        }
        let space = if column == 0 { "" } else { " " };
        write!(text, "{space}{:02x}", bytes[at]).expect("a String takes everything");
        (at, column) = (at + 1, column + 1);
        if column == 16 {
            text.push('\n');
            column = 0;
        }
    }
    if column > 0 {
        text.push('\n');
    }
    text
}

fn parse(block: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in block.lines() {
        if let Some((byte, count)) = line.split_once(" x ") {
            let byte = u8::from_str_radix(byte, 16).expect("a hex byte");
            let count: usize = count.parse().expect("a number");
            bytes.resize(bytes.len() + count, byte);
        } else {
            let line = line.split_whitespace();
            bytes.extend(line.map(|byte| u8::from_str_radix(byte, 16).expect("a hex byte")));
        }
    }
    bytes
}

/// The document's blocks by name.
fn documented(text: &str) -> BTreeMap<String, Vec<u8>> {
    let mut blocks = BTreeMap::new();
    for part in text.split("```hex ").skip(1) {
        let (name, rest) = part.split_once('\n').expect("a name and a block");
        let block = rest.split("```").next().expect("the block's end");
        assert!(blocks.insert(name.to_string(), parse(block)).is_none(), "{name} stands twice");
    }
    blocks
}

fn update(text: &str, encoded: &BTreeMap<&str, Vec<u8>>) -> String {
    let mut parts = text.split("```hex ");
    let mut updated = parts.next().expect("a beginning").to_string();
    for part in parts {
        let (name, rest) = part.split_once('\n').expect("a name and a block");
        let (_, behind) = rest.split_once("```").expect("the block's end");
        let block = encoded.get(name).map_or(String::new(), |bytes| render(bytes));
        write!(updated, "```hex {name}\n{block}```{behind}").expect("a String takes everything");
    }
    updated
}

#[test]
fn the_document_shows_what_the_encoders_make() {
    let encoded = encoded();
    let mut text = std::fs::read_to_string(path()).expect("the document is there");
    if std::env::var_os("UPDATE_WIRE_VECTORS").is_some() {
        text = update(&text, &encoded);
        std::fs::write(path(), &text).expect("the document can be written");
    }
    let documented = documented(&text);
    let names = |blocks: Vec<&str>| blocks.join(" ");
    assert_eq!(
        names(documented.keys().map(|name| &name[..]).collect()),
        names(encoded.keys().copied().collect()),
        "the document's blocks and ours"
    );
    for (name, bytes) in &encoded {
        let shown = render(&documented[*name]);
        assert_eq!(shown, render(bytes), "block {name}; see this file's first lines");
    }
}

fn frame(name: &str) -> InFrame {
    let text = std::fs::read_to_string(path()).expect("the document is there");
    let mut assembler = Assembler::new(FRAME_BYTES_MAX);
    let bytes = documented(&text).remove(name).expect("a block of this name");
    assembler.push(Bytes::from(bytes));
    let frame = assembler.next().expect("a whole frame").expect("a valid frame");
    assert_eq!(assembler.held_bytes(), 0, "{name} is one frame");
    frame
}

#[track_caller]
fn check_request(name: &str, correlation: u64, group: u64, expected: Request<'_>) {
    let frame = frame(name);
    assert_eq!((frame.header.correlation, frame.header.group.get()), (correlation, group));
    assert_eq!(Request::decode(&frame.header, frame.body()), Ok(expected), "{name}");
}

#[test]
fn the_documented_requests_decode_to_what_is_said_there() {
    let mut run = Vec::new();
    RECORDS.iter().for_each(|record| encode_record(record, &mut run));
    let append = |expected_tail| {
        Request::Append(Append { expected_tail, count: RecordCount::new(2), records: &run })
    };
    check_request("hello", 1, 0, Request::Hello(hello()));
    check_request("metadata", 2, 0, Request::Metadata);
    check_request("append", 7, 5, append(None));
    check_request("append-expected-tail", 7, 5, append(Some(LogIndex::new(41))));
    check_request("read", 8, 5, Request::Read(READ));
    check_request("status", 3, 0, Request::Status);
}

#[test]
fn the_documented_replies_decode_to_what_is_said_there() {
    let reply = |name: &str, check: &dyn Fn(Reply<'_>) -> bool| {
        let frame = frame(name);
        let reply = Reply::decode(&frame.header, frame.body()).expect("a reply");
        assert!(check(reply), "{name}: {reply:?}");
    };
    reply("hello-reply", &|r| matches!(r, Reply::Hello(hello) if hello == hello_reply()));
    reply("metadata-reply", &|r| {
        let Reply::Metadata(view) = r else { return false };
        view.nodes().eq(NODES) && view.groups().eq(GROUPS) && view.group_count == 2
    });
    reply("append-reply", &|r| matches!(r, Reply::Append(reply) if reply == APPEND_REPLY));
    reply("read-reply", &|r| {
        let Reply::Read(view) = r else { return false };
        let batch = BatchView::decode(view.batches).expect("a batch");
        let records: Vec<_> = batch.records().map(|record| record.expect("valid").1).collect();
        view.head == READ_HEAD && records == RECORDS && batch.header.span.first.get() == 41
    });
    reply("status-reply", &|r| matches!(r, Reply::Status(status) if status.text == STATUS));
    let outcome = |name: &str, expected: Outcome<()>| {
        reply(name, &|r| matches!(r, Reply::Error(error) if error.outcome() == expected));
    };
    outcome("error-not-leader", Outcome::NotDone(NOT_LEADER));
    outcome("error-busy", Outcome::NotDone(BUSY));
    outcome("error-unknown", Outcome::Unknown(Doubt::LeadershipLost));
}

#[test]
fn the_documented_peer_frames_decode_to_what_is_said_there() {
    let handshake = |name: &str| frame(name).bytes;
    let bytes = handshake("peer-hello");
    let heard = decode_handshake(bytes[..].try_into().expect("192 bytes")).expect("valid");
    assert_eq!(heard, Handshake::Hello(dialler()));
    let bytes = handshake("peer-welcome");
    let heard = decode_handshake(bytes[..].try_into().expect("192 bytes")).expect("valid");
    assert_eq!(heard, Handshake::Welcome(acceptor()));
    assert_eq!(peer::check_hello(&dialler(), &acceptor(), None), Ok(()));
    let bytes = handshake("peer-refused");
    let heard = decode_handshake(bytes[..].try_into().expect("192 bytes")).expect("valid");
    assert!(matches!(heard, Handshake::Refused { code: 7, .. }), "{heard:?}");

    let control = frame("control");
    let messages = decode_control(&control.header, control.body(), NodeId::new(1));
    let messages: Vec<_> = messages.expect("control").map(|m| m.expect("valid")).collect();
    assert_eq!(messages, envelopes());

    let bytes = frame("bulk").bytes;
    assert_eq!(peer::bulk_frame_bytes(&bytes), Ok(Some(4096)));
    let bulk = BulkFrame::decode(&bytes).expect("valid");
    let found: Vec<_> = bulk.batches().collect();
    assert_eq!(found, [BulkBatch { offset: found[0].offset, ..bulk_batch() }]);
    assert_eq!(bulk.batch(&found[0]), batch());
    assert_eq!(bulk.area_bytes(), 192);
}
