//! The data path of three real shards over a perfect network and disks in memory.
//!
//! Apart from the simulator because nothing goes wrong here: these are the figures and facts of
//! the path itself (copies, blocks, replies), and what a shard finds again after a restart.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test panics at whatever it did not expect")]

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use catamaran::base::{Arena, Moment};
use catamaran::model::batch::BatchView;
use catamaran::model::limits::BATCHES_PER_BLOCK_MAX;
use catamaran::model::{
    BootCounter, ClusterId, ConnId, GroupId, LogIndex, NodeId, NodeUuid, ShardId, StreamId,
};
use catamaran::raft::{RoleName, Timing};
use catamaran::shard::{
    Effect, Effects, Input, Inputs, Lane, NodeAddress, RetentionLimits, Shard, ShardConfig,
    WorldFacts,
};
use catamaran::wal::{
    Geometry, Identity, Recovered, Recovery, SegmentFile, SegmentNo, Step, WalMay,
};
use catamaran::wire::client::{
    Consistency, Hello, Read, Reply, encode_append, encode_hello, encode_read,
};
use catamaran::wire::{Assembler, FRAME_HEADER_BYTES, FrameHeader};

const CLUSTER: ClusterId = ClusterId::new([7; 16]);
const CLIENT: ConnId = ConnId::new(1);
const DIRECT_BYTES: usize = 16 << 10;
const SMALL: Geometry = Geometry {
    segment_bytes: 256 << 10,
    block_bytes_max: 32 << 10,
    in_flight_bytes_max: 128 << 10,
    writes_in_flight_max: 12,
};

type Disk = BTreeMap<SegmentNo, Vec<u8>>;

struct Node {
    id: NodeId,
    shard: Shard,
    arena: Arena,
    inputs: Inputs,
    disk: Disk,
    boot: u64,
    replies: Assembler,
    answers: VecDeque<Bytes>,
}

struct World {
    now: Moment,
    geometry: Geometry,
    retention: RetentionLimits,
    groups: u64,
    nodes: Vec<Node>,
    streams: u64,
    /// A node that takes no turns and hears nothing.
    down: Option<usize>,
    /// Why clients were hung up on, if that may happen.
    hang_ups: Option<Vec<&'static str>>,
}

fn uuid(id: NodeId) -> NodeUuid {
    NodeUuid::new([u8::try_from(id.get()).expect("a handful"); 16])
}

fn recover(disk: &Disk, identity: Identity, geometry: Geometry) -> Recovered {
    let files: Vec<SegmentFile> = disk
        .iter()
        .map(|(segment, bytes)| SegmentFile { segment: *segment, bytes: bytes.len() as u64 })
        .collect();
    let may = if files.is_empty() { WalMay::BeEmpty } else { WalMay::NotBeEmpty };
    let mut recovery = Recovery::new(identity, geometry, may, &files).expect("a sane directory");
    loop {
        match recovery.next() {
            Step::Read(wish) => {
                let at = usize::try_from(wish.offset).expect("small");
                let bytes = &disk[&wish.segment][at..at + wish.bytes as usize];
                recovery.feed(Ok(bytes));
            }
            Step::Done(recovered) => return *recovered,
            Step::Refused(error) => panic!("recovery refused: {error:?}"),
        }
    }
}

impl World {
    fn new(geometry: Geometry, groups: u64, retention: RetentionLimits) -> Self {
        let now = Moment::from_nanos(1);
        let mut world = Self {
            now,
            geometry,
            retention,
            groups,
            nodes: Vec::new(),
            streams: 0,
            down: None,
            hang_ups: None,
        };
        for id in 1..=3 {
            let node = world.start(NodeId::new(id), Disk::new(), 1);
            world.nodes.push(node);
        }
        world.connect();
        world
    }

    fn start(&self, id: NodeId, disk: Disk, boot: u64) -> Node {
        let address = |node| NodeAddress {
            node: NodeId::new(node),
            host: "127.0.0.1".into(),
            client_port_base: 1000 * node,
        };
        let config = ShardConfig {
            cluster: CLUSTER,
            node: id,
            uuid: uuid(id),
            boot: BootCounter::new(boot),
            shard: ShardId::new(0),
            shard_count: 1,
            nodes: (1..=3).map(address).collect(),
            group_count: self.groups,
            geometry: self.geometry,
            timing: Timing::default(),
            block_target_bytes: 256 << 10,
            uncommitted_bytes_max: 16 << 20,
            connection_bytes_max: 4 << 20,
            device_writes_max: 4,
            direct_frame_bytes_min: DIRECT_BYTES,
            peer_credit_bytes: 4 * u64::from(self.geometry.block_bytes_max),
            segments_ahead: 1,
            segments_at_start: 0,
            retention: self.retention,
            facts: WorldFacts::default(),
            seed: 1000 * boot + u64::from(id.get()),
        };
        let identity = Identity { cluster: CLUSTER, node: uuid(id), shard: ShardId::new(0) };
        let recovered = recover(&disk, identity, self.geometry);
        let mut inputs = Inputs::default();
        inputs.push(Input::ClientOpened { conn: CLIENT });
        let mut hello = Vec::new();
        encode_hello(&mut hello, 0, &Hello::new(CLUSTER, "test"));
        inputs.push(Input::ClientBytes { conn: CLIENT, bytes: hello.into() });
        Node {
            id,
            shard: Shard::boot(config, recovered, self.now),
            arena: Arena::new(64, self.geometry.block_bytes_max as usize),
            inputs,
            disk,
            boot,
            replies: Assembler::new(2 << 20),
            answers: VecDeque::new(),
        }
    }

    /// Gives every pair new streams, as after a reconnect.
    fn connect(&mut self) {
        self.streams += 1;
        let stream = StreamId::new(self.streams);
        for at in 0..3 {
            for peer in (0..3).filter(|peer| *peer != at) {
                for lane in [Lane::Control, Lane::Bulk] {
                    let peer = self.nodes[peer].id;
                    let credit_bytes = 4 * u64::from(self.geometry.block_bytes_max);
                    self.nodes[at].inputs.push(Input::PeerUp { peer, lane, stream, credit_bytes });
                }
            }
        }
    }

    /// Cuts a node off.
    fn stop(&mut self, at: usize) {
        self.down = Some(at);
        let (peer, stream) = (self.nodes[at].id, StreamId::new(self.streams));
        for node in (0..3).filter(|node| *node != at) {
            for lane in [Lane::Control, Lane::Bulk] {
                self.nodes[node].inputs.push(Input::PeerDown { peer, lane, stream });
            }
        }
    }

    /// Starts it again from its disk.
    fn resume(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let (id, boot, disk) = (node.id, node.boot + 1, core::mem::take(&mut node.disk));
        self.nodes[at] = self.start(id, disk, boot);
        self.down = None;
        self.connect();
    }

    /// One turn of each node; effects take no time and never fail.
    fn round(&mut self, step: Duration) {
        self.now = self.now.after(step);
        for at in (0..3).filter(|at| self.down != Some(*at)).collect::<Vec<_>>() {
            let mut fx = Effects::default();
            let node = &mut self.nodes[at];
            node.inputs.push(Input::Tick);
            node.shard.turn(self.now, &mut node.inputs, &mut node.arena, &mut fx);
            if self.groups < 100 || self.now.as_nanos() % 50_000_000 == 1 {
                node.shard.check_all();
            }
            for effect in fx.list {
                self.carry_out(at, effect);
            }
        }
    }

    fn carry_out(&mut self, at: usize, effect: Effect) {
        let segment_bytes = usize::try_from(self.geometry.segment_bytes).expect("small");
        let node = &mut self.nodes[at];
        match effect {
            Effect::Write { write, segment, offset, block } => {
                let start = usize::try_from(offset).expect("small");
                let file = node.disk.get_mut(&segment).expect("a ready segment");
                file[start..start + block.len()].copy_from_slice(&block);
                node.inputs.push(Input::WriteDone { write });
            }
            Effect::Read { read, segment, offset, mut buf } => {
                let start = usize::try_from(offset).expect("small");
                let bytes = buf.len();
                buf.copy_from_slice(&node.disk[&segment][start..start + bytes]);
                node.inputs.push(Input::ReadDone { read, buf, result: Ok(()) });
            }
            Effect::PrepareSegment { segment, recycle } => {
                let file = recycle.and_then(|old| node.disk.remove(&old));
                node.disk.insert(segment, file.unwrap_or_else(|| vec![0; segment_bytes]));
                node.inputs.push(Input::SegmentReady { segment });
            }
            Effect::RemoveSegment { segment } => drop(node.disk.remove(&segment)),
            Effect::SendPeer { peer, lane, stream, frame } => {
                let from = node.id;
                if self.down.is_some_and(|down| self.nodes[down].id == peer) {
                    return;
                }
                let bytes: Vec<u8> =
                    frame.parts.iter().flat_map(|p| p.as_bytes().to_vec()).collect();
                let to = self.nodes.iter_mut().find(|n| n.id == peer).expect("three nodes");
                to.inputs.push(match lane {
                    Lane::Control => Input::PeerControl { peer: from, stream, bytes: bytes.into() },
                    Lane::Bulk => {
                        assert!(bytes.len().is_multiple_of(4096), "{} bytes", bytes.len());
                        let mut buf = to.arena.take(bytes.len()).expect("memory");
                        buf.copy_from_slice(&bytes);
                        Input::PeerBulk { peer: from, stream, frame: buf }
                    }
                });
            }
            Effect::SendClient { frame, .. } => {
                for part in frame.parts {
                    node.replies.push(Bytes::copy_from_slice(part.as_bytes()));
                }
                while let Some(frame) = node.replies.next() {
                    node.answers.push_back(frame.expect("a shard sends good frames").bytes);
                }
            }
            Effect::ClientRoom { .. } | Effect::Notice(_) => {}
            Effect::CloseClient { reason, .. } if self.hang_ups.is_some() => {
                self.hang_ups.iter_mut().for_each(|list| list.push(reason));
            }
            Effect::ClosePeer { reason, .. }
            | Effect::CloseClient { reason, .. }
            | Effect::Halt { reason } => panic!("{reason}"),
            Effect::Forward { .. } | Effect::Return { .. } | Effect::Drained => {
                panic!("one shard, never drained")
            }
        }
    }

    fn run(&mut self, rounds: u32) {
        for _ in 0..rounds {
            self.round(Duration::from_millis(1));
        }
    }

    fn leader(&self, group: u64) -> usize {
        let leads = |node: &Node| {
            let group = node.shard.group(GroupId::new(group)).expect("a group");
            group.role() == RoleName::Leader
        };
        self.nodes.iter().position(leads).expect("a leader")
    }

    fn append(&mut self, group: u64, correlation: u64, records: &[Vec<u8>]) {
        let mut bytes = Vec::new();
        encode_append(&mut bytes, correlation, GroupId::new(group), None, records);
        let leader = self.leader(group);
        self.nodes[leader].inputs.push(Input::ClientBytes { conn: CLIENT, bytes: bytes.into() });
    }

    /// The records of the batches from the one that holds `from` on.
    fn read(&mut self, at: usize, group: u64, from: u64, consistency: Consistency) -> Vec<Vec<u8>> {
        let mut bytes = Vec::new();
        let from = LogIndex::new(from);
        let read = Read { from, max_bytes: 1 << 20, consistency };
        encode_read(&mut bytes, 999, GroupId::new(group), &read);
        self.nodes[at].answers.clear();
        self.nodes[at].inputs.push(Input::ClientBytes { conn: CLIENT, bytes: bytes.into() });
        self.run(20);
        let frame = self.nodes[at].answers.pop_back().expect("an answer");
        let header = FrameHeader::decode(&frame, 2 << 20).expect("checked");
        match Reply::decode(&header, &frame[FRAME_HEADER_BYTES..]).expect("a reply") {
            Reply::Read(reply) => {
                let mut records = Vec::new();
                let mut batches = reply.batches;
                while !batches.is_empty() {
                    let batch = BatchView::decode(batches).expect("a good batch");
                    records.extend(batch.records().map(|r| r.expect("adds up").1.to_vec()));
                    batches = &batches[batch.header.batch_bytes()..];
                }
                records
            }
            other => panic!("{other:?}"),
        }
    }

    fn count_done(&mut self) -> usize {
        let mut done = 0;
        for node in &mut self.nodes {
            for frame in node.answers.drain(..) {
                let header = FrameHeader::decode(&frame, 2 << 20).expect("checked");
                let reply = Reply::decode(&header, &frame[FRAME_HEADER_BYTES..]).expect("a reply");
                match reply {
                    Reply::Append(_) => done += 1,
                    Reply::Hello(_) => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        done
    }
}

fn records(count: usize, bytes: usize) -> Vec<Vec<u8>> {
    (0..count).map(|i| vec![u8::try_from(i % 251).expect("small"); bytes]).collect()
}

#[test]
fn appends_are_replicated_acknowledged_and_read_back() {
    let mut world = World::new(Geometry::PRODUCTION, 3, RetentionLimits::default());
    world.run(1000);
    for correlation in 1..=100 {
        world.append(1 + correlation % 3, correlation, &records(3, 200));
    }
    world.run(100);
    assert_eq!(world.count_done(), 100);
    let leader = world.leader(1);
    let read = world.read(leader, 1, 2, Consistency::Linearizable);
    assert_eq!(read.len(), 99);
    // Followers learn the commit index too and serve stale reads from their own device.
    let follower = (leader + 1) % 3;
    assert_eq!(world.read(follower, 1, 2, Consistency::Stale).len(), 99);
}

#[test]
fn a_record_is_copied_once_on_the_leader_and_never_on_a_follower() {
    let mut world = World::new(Geometry::PRODUCTION, 1, RetentionLimits::default());
    world.run(1000);
    for correlation in 1..=64 {
        world.append(1, correlation, &records(1000, 200));
    }
    world.run(200);
    assert_eq!(world.count_done(), 64);
    let leader = world.leader(1);
    let run_bytes = 64 * 1000 * (200 + 4);
    let counters = world.nodes[leader].shard.counters();
    assert_eq!(counters.copied_bytes_leader, run_bytes, "one copy of each record");
    for (at, node) in world.nodes.iter().enumerate() {
        if at != leader {
            let counters = node.shard.counters();
            assert!(counters.direct_bytes_follower >= run_bytes, "{counters:?}");
            assert!(counters.copied_bytes_follower < 1000, "the no-op's small frame: {counters:?}");
        }
    }
}

#[test]
fn a_restart_of_all_nodes_finds_every_acknowledged_record() {
    let mut world = World::new(SMALL, 2, RetentionLimits::default());
    world.run(1000);
    for round in 0..5_u64 {
        for correlation in 1..=40 {
            world.append(1, correlation, &records(10, 100));
            world.append(2, 1000 + correlation, &records(1, 1000));
            world.run(2);
        }
        world.run(50);
        assert_eq!(world.count_done(), 80, "round {round}");
        for at in 0..3 {
            world.resume(at);
        }
        world.run(1000);
        world.count_done();
    }
    let leader = world.leader(1);
    // 5 rounds of 400 records, and a no-op for each of the terms in between.
    let last = world.nodes[leader].shard.group(GroupId::new(1)).expect("there").last();
    assert!(last.index.get() >= 2000 + 6, "{last:?}");
    let (mut seen, mut next) = (0, 1);
    while next <= last.index.get() {
        let read = world.read(leader, 1, next, Consistency::Linearizable);
        assert!(!read.is_empty(), "nothing at {next} of {last:?}");
        seen += read.iter().filter(|record| record.len() == 100).count();
        next += read.len() as u64;
    }
    assert_eq!(seen, 2000);
}

#[test]
fn retention_moves_the_first_index_and_reuses_segments() {
    let retention = RetentionLimits { bytes_per_group: 512 << 10, records_per_group: 0 };
    let mut world = World::new(SMALL, 2, retention);
    world.run(1000);
    // Group 2 writes a little once and is quiet from then on.
    world.append(2, 1, &records(1, 500));
    for correlation in 2..=600 {
        world.append(1, correlation, &records(10, 1000));
        world.run(4);
    }
    world.run(300);
    assert_eq!(world.count_done(), 600);
    for node in &world.nodes {
        let first = node.shard.group(GroupId::new(1)).expect("there").first_index();
        assert!(first.get() > 1000, "{first:?}");
        let files = node.disk.len();
        assert!(files < 14, "{files} files of 256 KiB for a log of 512 KiB and 6 MiB written");
        assert!(node.shard.counters().wal_segments_recycled > 5);
    }
    let leader = world.leader(2);
    let quiet = world.read(leader, 2, 2, Consistency::Linearizable);
    assert_eq!(quiet, records(1, 500), "the quiet group's record was written forward");
}

#[test]
fn a_follower_that_was_away_catches_up_from_the_leaders_device() {
    let mut world = World::new(SMALL, 1, RetentionLimits::default());
    world.run(1000);
    let away = (world.leader(1) + 1) % 3;
    world.stop(away);
    for correlation in 1..=300 {
        world.append(1, correlation, &records(10, 1000));
        world.run(2);
    }
    world.run(50);
    assert_eq!(world.count_done(), 300);
    world.resume(away);
    world.run(1500);
    let leader = world.leader(1);
    let last = world.nodes[leader].shard.group(GroupId::new(1)).expect("there").last();
    let group = world.nodes[away].shard.group(GroupId::new(1)).expect("there");
    assert_eq!((group.last(), group.commit(), group.durable()), (last, last.index, last.index));
    assert_eq!(world.nodes[away].shard.counters().snapshots_installed, 0);
    assert!(world.nodes.iter().any(|node| node.shard.counters().wal_reads > 0));
}

#[test]
fn more_small_batches_than_a_frame_may_list_are_sent_in_several() {
    const GROUPS: u64 = 64;
    const BATCHES_OF_EACH: u64 = 4 * BATCHES_PER_BLOCK_MAX as u64 / GROUPS;
    let mut world = World::new(Geometry::PRODUCTION, GROUPS, RetentionLimits::default());
    world.run(1000);
    let away = (world.leader(1) + 1) % 3;
    world.stop(away);
    world.run(1000);
    for round in 0..BATCHES_OF_EACH {
        for group in 1..=GROUPS {
            world.append(group, round * GROUPS + group, &records(1, 1));
        }
        world.run(2);
    }
    world.run(50);
    world.resume(away);
    world.run(1500);
    for group in 1..=GROUPS {
        let leader = world.leader(group);
        let last = world.nodes[leader].shard.group(GroupId::new(group)).expect("there").last();
        let caught_up = world.nodes[away].shard.group(GroupId::new(group)).expect("there");
        assert!(last.index.get() > BATCHES_OF_EACH);
        assert_eq!((caught_up.last(), caught_up.commit()), (last, last.index), "{group}");
    }
}

#[test]
fn a_follower_below_the_first_index_goes_on_from_a_metadata_snapshot() {
    let retention = RetentionLimits { bytes_per_group: 256 << 10, records_per_group: 0 };
    let mut world = World::new(SMALL, 1, retention);
    world.run(1000);
    let away = (world.leader(1) + 1) % 3;
    world.stop(away);
    for correlation in 1..=300 {
        world.append(1, correlation, &records(10, 1000));
        world.run(4);
    }
    world.run(300);
    assert_eq!(world.count_done(), 300);
    world.resume(away);
    world.run(1500);
    let leader = world.leader(1);
    let group = world.nodes[leader].shard.group(GroupId::new(1)).expect("there");
    let (last, first) = (group.last(), group.first_index());
    assert!(first.get() > 1000);
    let group = world.nodes[away].shard.group(GroupId::new(1)).expect("there");
    assert_eq!((group.last(), group.commit(), group.durable()), (last, last.index, last.index));
    assert_eq!(world.nodes[away].shard.counters().snapshots_installed, 1);
    // And it is still so after one more restart.
    world.resume(away);
    world.run(1500);
    let group = world.nodes[away].shard.group(GroupId::new(1)).expect("there");
    assert!(group.last() >= last && group.first_index() > LogIndex::new(1000));
}

#[test]
fn campaigns_come_as_a_stream_and_not_as_a_storm() {
    let mut world = World::new(Geometry::PRODUCTION, 1000, RetentionLimits::default());
    // Nobody hears anybody: every election timeout of every group passes on one node at once.
    world.down = Some(0);
    world.now = world.now.after(Duration::from_secs(1));
    let campaigning = |world: &World| {
        let groups = (1..=1000).filter_map(|id| world.nodes[1].shard.group(GroupId::new(id)));
        groups.filter(|group| group.role() != RoleName::Follower).count()
    };
    world.run(1);
    assert_eq!(campaigning(&world), 64, "one scan starts so many and no more (E-15)");
}

#[test]
fn a_thousand_groups_share_blocks_and_frames() {
    let mut world = World::new(Geometry::PRODUCTION, 1000, RetentionLimits::default());
    world.run(1500);
    let writes: u64 = world.nodes.iter().map(|n| n.shard.counters().wal_writes).sum();
    for group in 1..=1000 {
        world.append(group, group, &records(1, 200));
    }
    world.run(100);
    assert_eq!(world.count_done(), 1000);
    let after: u64 = world.nodes.iter().map(|n| n.shard.counters().wal_writes).sum();
    assert!(after - writes < 100, "{} writes for a thousand appends", after - writes);
}

/// A client that begins a frame and does not end it holds memory for nothing; one that is merely
/// slow has half a minute for each frame.
#[test]
fn a_frame_that_does_not_end_ends_its_connection() {
    let mut world = World::new(Geometry::PRODUCTION, 1, RetentionLimits::default());
    world.hang_ups = Some(Vec::new());
    world.run(1000);
    let leader = world.leader(1);
    let mut frame = Vec::new();
    encode_append(&mut frame, 1, GroupId::new(1), None, &records(1, 200));
    let seconds = |world: &mut World, seconds: u32| {
        (0..seconds * 50).for_each(|_| world.round(Duration::from_millis(20)));
    };
    for piece in [&frame[..10], &frame[10..100], &frame[100..], &frame[..10]] {
        let bytes = Bytes::copy_from_slice(piece);
        world.nodes[leader].inputs.push(Input::ClientBytes { conn: CLIENT, bytes });
        // Three pieces of ten seconds make a frame in time; the fourth stays what it is.
        seconds(&mut world, 10);
    }
    assert_eq!(world.count_done(), 1);
    seconds(&mut world, 18);
    assert_eq!(world.hang_ups, Some(vec![]), "28 s");
    seconds(&mut world, 4);
    assert_eq!(world.hang_ups, Some(vec!["a frame did not come to its end"]), "32 s");
    assert_eq!(world.nodes[leader].shard.counters().client_cut_unfinished, 1);
}
