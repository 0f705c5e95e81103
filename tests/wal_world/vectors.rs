//! The hex vectors of `docs/wal-format.md` are what the program writes, byte for byte.
//!
//! Reads them out of the document, so that neither can change without the other.

use catamaran::base::Arena;
use catamaran::model::batch::{encode_batch, encode_record};
use catamaran::model::{
    BatchHeader, BatchKind, ClusterId, GroupId, HardState, LogIndex, Membership, NodeId, NodeUuid,
    RecordCount, ReplicaId, ShardId, Span, Term,
};
use catamaran::wal::{
    BlockBuilder, BlockRole, Geometry, Identity, Index, Lsn, OpeningPlan, Record, SegmentNo, Stamp,
    Void, parse_block,
};

const DOCUMENT: &str = include_str!("../../docs/wal-format.md");

fn identity() -> Identity {
    Identity {
        cluster: ClusterId::new([0x11; 16]),
        node: NodeUuid::new([0x22; 16]),
        shard: ShardId::new(0),
    }
}

fn stamp(lsn: u64, durable: u64, role: BlockRole) -> Stamp {
    let identity_tag = identity().tag();
    Stamp { identity_tag, lsn: Lsn::new(lsn), durable_lsn: Lsn::new(durable), role }
}

fn builder() -> BlockBuilder {
    BlockBuilder::new(Arena::new(1, 4096).take(4096).expect("a fresh arena"))
}

/// Vector 1: a new log with one group of three voters is opened.
fn opening() -> Vec<u8> {
    let mut index = Index::new(Geometry::PRODUCTION);
    let voters = Membership::of_voters(&[NodeId::new(1), NodeId::new(2), NodeId::new(3)]);
    index.create_group(GroupId::new(1), ReplicaId::new(1), voters);
    let plan = OpeningPlan {
        segment: SegmentNo(0),
        void: Void::default(),
        window_bytes: Geometry::PRODUCTION.in_flight_bytes_max,
    };
    let mut builder = builder();
    for record in &index.opening(&plan)[0] {
        builder.push_record(record).expect("room");
    }
    let closed = builder.close(stamp(0, 0, BlockRole::SegmentOpen));
    closed.buf[..closed.used_bytes as usize].to_vec()
}

/// Vector 2: term 1, a vote, and a batch of two records.
fn data() -> Vec<u8> {
    let mut body = Vec::new();
    encode_record(b"hello", &mut body);
    encode_record(b"catamaran", &mut body);
    let span = Span { term: Term::new(1), first: LogIndex::new(1), count: RecordCount::new(2) };
    let kind = BatchKind::Records;
    let batch = encode_batch(GroupId::new(1), ReplicaId::new(1), span, kind, &body);
    let mut builder = builder();
    builder.batch_space(batch.len()).copy_from_slice(&batch);
    builder.list(&BatchHeader::decode(&batch).expect("a batch"), ReplicaId::new(1));
    let state = HardState {
        term: Term::new(1),
        vote: Some(NodeId::new(1)),
        commit: LogIndex::BEFORE_FIRST,
    };
    let record = Record::HardState { group: GroupId::new(1), replica: ReplicaId::new(1), state };
    builder.push_record(&record).expect("room");
    let closed = builder.close(stamp(4096, 4096, BlockRole::Data));
    closed.buf[..closed.used_bytes as usize].to_vec()
}

/// Vector 3: the log went idle.
fn seal() -> Vec<u8> {
    let closed = builder().close(stamp(8192, 8192, BlockRole::Seal));
    closed.buf[..closed.used_bytes as usize].to_vec()
}

/// The bytes of the document's vector with this name: lines "offset: hex hex ...".
fn documented(name: &str) -> Vec<u8> {
    let (_, rest) = DOCUMENT
        .split_once(&format!("```text vector={name}\n"))
        .unwrap_or_else(|| panic!("docs/wal-format.md has no vector {name}"));
    let (dump, _) = rest.split_once("```").expect("the vector ends");
    let mut bytes = Vec::new();
    for line in dump.lines() {
        let (offset, hex) = line.split_once(':').expect("offset: bytes");
        let offset = usize::from_str_radix(offset.trim(), 16).expect("a hexadecimal offset");
        assert_eq!(offset, bytes.len(), "{line}");
        bytes.extend(hex.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).expect(byte)));
    }
    bytes
}

fn dump(bytes: &[u8]) -> String {
    let lines = bytes.chunks(16).enumerate().map(|(i, row)| {
        let hex: Vec<String> = row.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{:04x}: {}\n", i * 16, hex.join(" "))
    });
    lines.collect()
}

#[test]
fn the_vectors_of_the_document_are_what_is_written() {
    for (name, written, lsn) in
        [("opening", opening(), 0), ("data", data(), 4096), ("seal", seal(), 8192)]
    {
        let found = documented(name);
        assert!(found == written, "vector {name} should be\n{}", dump(&written));
        let mut block = found;
        block.resize(4096, 0);
        let view = parse_block(&block, Lsn::new(lsn), &identity()).expect("a sound block");
        view.verify().expect("sound batches");
    }
}

#[test]
fn the_document_names_the_tag_of_its_identity() {
    assert!(DOCUMENT.contains(&format!("{:#018x}", identity().tag())), "{:#x}", identity().tag());
}
