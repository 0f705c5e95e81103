//! Inputs to begin with: one or a few of everything that the real encoders can say.
//!
//! Made by code and not kept as files, so that they follow the formats. `tests/fuzz_entries.rs`
//! mutates them, and writes them where a fuzzer looks for its corpus if it is asked to.

use catamaran::base::Arena;
use catamaran::model::batch::{encode_batch, encode_membership, encode_record};
use catamaran::model::{
    BatchHeader, BatchKind, BootCounter, ClusterId, Doubt, EntryId, GroupId, HardState, LogIndex,
    Membership, NodeId, Refusal, ReplicaId, Span, Term,
};
use catamaran::raft::{Envelope, Message};
use catamaran::wal::{
    BlockBuilder, BlockRole, GroupCheckpoint, LogReset, Lsn, Record, SegmentNo, SegmentOpen, Stamp,
    TermRun, Void, frame_area_bytes,
};
use catamaran::wire::FRAME_HEADER_BYTES;
use catamaran::wire::client::{
    AppendReply, Consistency, ErrorCode, GroupInfo, Hello, HelloReply, Limits, MetadataReply,
    NodeInfo, Read, ReadReplyHead, encode_append, encode_append_reply, encode_doubt, encode_error,
    encode_hello, encode_hello_reply, encode_metadata, encode_metadata_reply, encode_read,
    encode_read_reply_head, encode_refusal, encode_status, encode_status_reply,
};
use catamaran::wire::peer::{
    self, BulkBatch, BulkFrameBuilder, HandshakeError, PeerFacts, encode_control,
};

use super::entries::{FACTS, GEOMETRY, IDENTITY, MENDED};

/// A target's name and an input for it.
pub(crate) type Seed = (&'static str, Vec<u8>);

const GROUP: GroupId = GroupId::new(1);

/// All of them, in a fixed order.
pub(crate) fn seeds() -> Vec<Seed> {
    let mut seeds = Vec::new();
    client_seeds(&mut seeds);
    peer_seeds(&mut seeds);
    log_seeds(&mut seeds);
    for text in [
        include_str!("../examples/three-hosts/node1.toml"),
        include_str!("../tuning/nvme.toml"),
        include_str!("../tuning/laptop.toml"),
        "cluster_id = \"0c9e6b1a-52d4-4f0e-8a57-d1b0c4e2f796\"\nnode_id = 1\ndata_dir = \"d\"\n\
         [[nodes]]\nid = 1\nhost = \"127.0.0.1\"\nclient_port = 7000\npeer_port = 7100\n",
    ] {
        seeds.push(("config", text.as_bytes().to_vec()));
    }
    seeds
}

/// `bytes` behind the given first bytes.
fn behind(first: &[u8], bytes: &[u8]) -> Vec<u8> {
    [first, bytes].concat()
}

fn requests() -> Vec<Vec<u8>> {
    let mut frames = vec![Vec::new(); 6];
    encode_hello(&mut frames[0], 1, &Hello::new(ClusterId::new([7; 16]), "seed"));
    encode_metadata(&mut frames[1], 2);
    encode_append(&mut frames[2], 3, GROUP, None, &["one", "two", ""]);
    encode_append(&mut frames[3], 4, GROUP, Some(LogIndex::new(9)), &["three"]);
    let consistency = Consistency::Stale;
    encode_read(
        &mut frames[4],
        5,
        GROUP,
        &Read { from: LogIndex::new(1), max_bytes: 64, consistency },
    );
    encode_status(&mut frames[5], 6);
    frames
}

fn replies() -> Vec<Vec<u8>> {
    let mut frames = vec![Vec::new(); 7];
    let limits = Limits {
        frame_bytes_max: 1 << 20,
        batch_bytes_max: 1 << 19,
        requests_max: 16,
        budget_bytes: 1 << 20,
    };
    let hello = HelloReply {
        version: 1,
        cluster: ClusterId::new([7; 16]),
        node: NodeId::new(1),
        shard: catamaran::model::ShardId::new(0),
        shard_count: 1,
        uuid: IDENTITY.node,
        limits,
    };
    encode_hello_reply(&mut frames[0], 1, &hello);
    let nodes = [NodeInfo { node: NodeId::new(1), host: "a.example", client_base_port: 7000 }];
    let groups = [GroupInfo { group: GROUP, term: Term::new(2), leader: Some(NodeId::new(1)) }];
    let metadata = MetadataReply {
        cluster: ClusterId::new([7; 16]),
        shard: catamaran::model::ShardId::new(0),
        shard_count: 1,
        group_count: 1,
        nodes: &nodes,
        groups: &groups,
    };
    encode_metadata_reply(&mut frames[1], 2, &metadata);
    let append =
        AppendReply { term: Term::new(2), first: LogIndex::new(3), commit: LogIndex::new(5) };
    encode_append_reply(&mut frames[2], 3, GROUP, &append);
    let batches = [batch(1, 2), batch(3, 1)].concat();
    let head = ReadReplyHead {
        first_available: LogIndex::new(1),
        commit: LogIndex::new(3),
        next: LogIndex::new(4),
    };
    frames[3] = encode_read_reply_head(4, GROUP, &head, [batches.as_slice()].into_iter());
    frames[3].extend_from_slice(&batches);
    encode_status_reply(&mut frames[4], 5, "name value\nother 7\n");
    encode_refusal(&mut frames[5], 6, GROUP, Refusal::Malformed);
    encode_doubt(&mut frames[6], 7, GROUP, Doubt::ConnectionLost);
    let mut error = Vec::new();
    encode_error(&mut error, 8, GROUP, ErrorCode::Malformed, 0);
    frames.push(error);
    frames
}

fn client_seeds(seeds: &mut Vec<Seed>) {
    let frames: Vec<Vec<u8>> = requests().into_iter().chain(replies()).collect();
    for frame in &frames {
        seeds.push(("client", behind(&[frame[5]], &frame[FRAME_HEADER_BYTES..])));
    }
    let stream = requests().concat();
    seeds.push(("frame", behind(&[0, 255], &stream)));
    seeds.push(("frame", behind(&[MENDED, 7], &stream)));
    // A newer version, which is skipped; and then a frame that is longer than it says.
    let mut newer = requests().concat();
    newer[4] = 9;
    seeds.push(("frame", behind(&[MENDED, 41], &newer)));
}

fn peer_seeds(seeds: &mut Vec<Seed>) {
    let welcome = PeerFacts { echo: 17, ..FACTS };
    let old = PeerFacts { boot: BootCounter::new(1), ..FACTS };
    let refused = HandshakeError::Nonce;
    for frame in [
        peer::encode_hello(&FACTS),
        peer::encode_hello(&old),
        peer::encode_welcome(&welcome),
        peer::encode_refused(&refused),
    ] {
        seeds.push(("peer", behind(&[0], &frame)));
        seeds.push(("peer", behind(&[MENDED], &frame)));
    }
    let last = EntryId::new(Term::new(3), LogIndex::new(7));
    let membership = Membership::of_voters(&[NodeId::new(1), NodeId::new(2), NodeId::new(3)]);
    let index = LogIndex::new(7);
    let messages = [
        Message::PreVote { last },
        Message::PreVoteReply { granted: true },
        Message::Vote { last },
        Message::VoteReply { granted: false },
        Message::Heartbeat { commit: index, round: 4 },
        Message::HeartbeatReply { round: 4 },
        Message::Probe { prev: last, commit: index },
        Message::Accepted { matched: index },
        Message::Rejected { prev: index, hint: last },
        Message::Snapshot { last, membership },
    ];
    let envelopes = messages.map(|message| Envelope {
        group: GROUP,
        peer: NodeId::new(2),
        from_replica: ReplicaId::new(1),
        to_replica: ReplicaId::new(2),
        term: Term::new(3),
        message,
    });
    let mut all = Vec::new();
    encode_control(&mut all, envelopes.iter());
    seeds.push(("control", all[FRAME_HEADER_BYTES..].to_vec()));
    for envelope in &envelopes {
        let mut frame = Vec::new();
        encode_control(&mut frame, [envelope].into_iter());
        seeds.push(("control", frame[FRAME_HEADER_BYTES..].to_vec()));
    }
    seeds.push(("bulk", behind(&[0], &bulk(&[batch(1, 2), batch(3, 1)]))));
    seeds.push(("bulk", behind(&[MENDED], &bulk(&[batch(1, 1)]))));
}

fn batch(first: u64, count: u32) -> Vec<u8> {
    let mut body = Vec::new();
    (0..count).for_each(|_| encode_record(b"a record", &mut body));
    let count = catamaran::model::RecordCount::new(count);
    let span = Span { term: Term::new(3), first: LogIndex::new(first), count };
    encode_batch(GROUP, ReplicaId::new(1), span, BatchKind::Records, &body)
}

fn bulk(batches: &[Vec<u8>]) -> Vec<u8> {
    let mut builder = BulkFrameBuilder::new(64 << 10, frame_area_bytes);
    for bytes in batches {
        let header = BatchHeader::decode(bytes).expect("just made");
        builder.push(BulkBatch {
            group: GROUP,
            from_replica: ReplicaId::new(1),
            to_replica: ReplicaId::new(2),
            term: Term::new(3),
            prev: EntryId::BEFORE_FIRST,
            commit: header.span.last(),
            offset: 0,
            bytes: u32::try_from(bytes.len()).expect("small"),
        });
    }
    let head = builder.finish();
    let mut frame = head.bytes;
    batches.iter().for_each(|bytes| frame.extend_from_slice(bytes));
    frame.resize(head.frame_bytes, 0);
    frame
}

fn records() -> Vec<Record> {
    let membership = || Membership::of_voters(&[NodeId::new(1), NodeId::new(2)]);
    let last = EntryId::new(Term::new(3), LogIndex::new(7));
    let state = HardState { term: Term::new(3), vote: Some(NodeId::new(1)), commit: last.index };
    let (group, replica) = (GROUP, ReplicaId::new(1));
    vec![
        Record::HardState { group, replica, state },
        Record::LogReset(LogReset {
            group,
            replica,
            last,
            membership: membership(),
            keep_tail: true,
        }),
        Record::TermRuns { group, runs: vec![TermRun { term: last.term, first: last.index }] },
        Record::Membership { group, index: last.index, membership: membership() },
    ]
}

fn log_seeds(seeds: &mut Vec<Seed>) {
    for flag in [0, MENDED] {
        seeds.push(("batch", behind(&[flag], &batch(1, 3))));
    }
    let mut membership = Vec::new();
    encode_membership(&Membership::of_voters(&[NodeId::new(1)]), &mut membership);
    seeds.push(("batch", behind(&[0], &membership)));
    for record in records() {
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        seeds.push(("batch", behind(&[0], &bytes)));
    }
    let data = Block { role: BlockRole::Data, records: records(), batches: vec![batch(1, 2)] };
    seeds.push(("block", behind(&[0, 0], &data.bytes(8192, 8192))));
    seeds.push(("block", behind(&[MENDED, 1], &opening(0).bytes(8192, 8192))));
    seeds.push(("recovery", log(0, &[(0, opening(0))])));
    let plain = |first| Block {
        role: BlockRole::Data,
        records: Vec::new(),
        batches: vec![batch(first, 2)],
    };
    let pieces = [(0, opening(0)), (1, plain(1)), (2, plain(3)), (3, plain(5)), (4, opening(4))];
    seeds.push(("recovery", log(16, &pieces)));
    // A hole, with a block behind it.
    seeds.push(("recovery", log(1, &[(0, opening(0)), (1, plain(1)), (3, plain(5))])));
}

/// A block to be.
struct Block {
    role: BlockRole,
    records: Vec<Record>,
    batches: Vec<Vec<u8>>,
}

impl Block {
    /// The block at `lsn`, whose writer knew that everything before `durable` was durable.
    fn bytes(&self, lsn: u64, durable: u64) -> Vec<u8> {
        let mut arena = Arena::new(1, 64 << 10);
        let mut builder = BlockBuilder::new(arena.take(4096).expect("sixteen of them"));
        for record in &self.records {
            builder.push_record(record).expect("room");
        }
        for batch in &self.batches {
            builder.batch_space(batch.len()).copy_from_slice(batch);
            builder.list(&BatchHeader::decode(batch).expect("just made"), ReplicaId::new(1));
        }
        let lsn = Lsn::new(lsn);
        let stamp = Stamp {
            identity_tag: IDENTITY.tag(),
            lsn,
            durable_lsn: Lsn::new(durable),
            role: self.role,
        };
        let closed = builder.close(stamp);
        let end = closed.buf[..4096].iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
        closed.buf[..end].to_vec()
    }
}

/// The first block of the segment that begins at this page, of one group.
fn opening(page: u64) -> Block {
    let open = SegmentOpen {
        part: 0,
        parts: 1,
        window_bytes: GEOMETRY.in_flight_bytes_max,
        segment_bytes: GEOMETRY.segment_bytes,
        void: Void { from: Lsn::new(page * 4096), to: Lsn::new(page * 4096) },
        oldest: SegmentNo(0),
    };
    let last = if page == 0 { 0 } else { 6 };
    let group = GroupCheckpoint {
        group: GROUP,
        replica: ReplicaId::new(1),
        hard_state: HardState { term: Term::new(3), ..HardState::default() },
        base: EntryId::BEFORE_FIRST,
        base_membership: Membership::of_voters(&[NodeId::new(1)]),
        last: EntryId::new(Term::new(if last == 0 { 0 } else { 3 }), LogIndex::new(last)),
    };
    let mut records = vec![Record::SegmentOpen(open), Record::Group(group)];
    if last > 0 {
        let runs = vec![TermRun { term: Term::new(3), first: LogIndex::new(1) }];
        records.push(Record::TermRuns { group: GROUP, runs });
    }
    Block { role: BlockRole::SegmentOpen, records, batches: Vec::new() }
}

/// An input of the target `recovery`: two segments, blocks at these pages, durable up to a page.
fn log(durable_page: u64, pieces: &[(u64, Block)]) -> Vec<u8> {
    let mut input = vec![0b0_1001];
    for (page, block) in pieces {
        let bytes = block.bytes(page * 4096, durable_page.min(*page) * 4096);
        let length = u16::try_from(bytes.len()).expect("a page");
        input.extend([u8::try_from(*page).expect("small"), MENDED]);
        input.extend(length.to_le_bytes());
        input.extend(bytes);
    }
    input
}
