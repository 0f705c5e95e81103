//! Real shards over a network and disks in memory, without the simulator's chance: a test says what
//! goes wrong, and when.
//!
//! Bulk frames wait, slices and all, until their receiver has memory, as in a socket. A node can be
//! down, its device can hang (writes are taken and not confirmed) or be full.
#![allow(dead_code, reason = "each of the test programs uses a part")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a test panics at what it did not expect")]

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use catamaran::base::{Arena, Moment};
use catamaran::model::batch::BatchView;
use catamaran::model::{
    BootCounter, ClusterId, ConnId, GroupId, LogIndex, NodeId, NodeUuid, ShardId, StreamId,
};
use catamaran::raft::{RoleName, Timing};
use catamaran::shard::{
    Effect, Effects, Frame, Input, Inputs, IoFault, Lane, NodeAddress, Notice, RetentionLimits,
    STREAM_WEDGED, Shard, ShardConfig, WorldFacts,
};
use catamaran::wal::{
    Geometry, Identity, Recovered, Recovery, SegmentFile, SegmentNo, Step, WalMay,
};
use catamaran::wire::client::{
    Consistency, ErrorCode, Hello, Read, Reply, encode_append, encode_hello, encode_read,
};
use catamaran::wire::{Assembler, FRAME_HEADER_BYTES, FrameHeader};

pub(crate) const CLUSTER: ClusterId = ClusterId::new([7; 16]);
pub(crate) const CLIENT: ConnId = ConnId::new(1);
pub(crate) const DIRECT_BYTES: usize = 16 << 10;
pub(crate) const SMALL: Geometry = Geometry {
    segment_bytes: 256 << 10,
    block_bytes_max: 32 << 10,
    in_flight_bytes_max: 128 << 10,
    writes_in_flight_max: 12,
};

pub(crate) type Disk = BTreeMap<SegmentNo, Vec<u8>>;

pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) shard: Shard,
    pub(crate) arena: Arena,
    pub(crate) inputs: Inputs,
    pub(crate) disk: Disk,
    boot: u64,
    replies: Assembler,
    pub(crate) answers: VecDeque<Bytes>,
    /// The device takes writes and confirms none.
    hangs: bool,
    unconfirmed: Vec<Input>,
    pub(crate) notices: Vec<Notice>,
}

/// What may differ from test to test.
#[derive(Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) geometry: Geometry,
    pub(crate) groups: u64,
    pub(crate) retention: RetentionLimits,
    pub(crate) nodes: u16,
    pub(crate) arena_extents: usize,
    pub(crate) credit_bytes: u64,
    /// Segment files that a device has room for.
    pub(crate) files_max: usize,
}

impl Setup {
    pub(crate) fn new(geometry: Geometry, groups: u64) -> Self {
        Self {
            geometry,
            groups,
            retention: RetentionLimits::default(),
            nodes: 3,
            arena_extents: 64,
            credit_bytes: 4 * u64::from(geometry.block_bytes_max),
            files_max: usize::MAX,
        }
    }
}

pub(crate) struct World {
    pub(crate) now: Moment,
    pub(crate) setup: Setup,
    pub(crate) nodes: Vec<Node>,
    streams: u64,
    /// A node that takes no turns and hears nothing.
    pub(crate) down: Option<usize>,
    /// Why clients were hung up on, if that may happen.
    pub(crate) hang_ups: Option<Vec<&'static str>>,
    /// A node that reads nothing from its bulk streams, as if it had no memory.
    pub(crate) deaf: Option<usize>,
    /// Bulk frames that wait for their receiver, by sender and receiver.
    bulk: BTreeMap<(usize, usize), VecDeque<(StreamId, Frame)>>,
    /// Streams that were ended for not moving.
    pub(crate) wedged: u64,
}

pub(crate) fn uuid(id: NodeId) -> NodeUuid {
    NodeUuid::new([u8::try_from(id.get()).expect("a handful"); 16])
}

pub(crate) fn recover(disk: &Disk, identity: Identity, geometry: Geometry) -> Recovered {
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

impl Node {
    /// What its blocks carry.
    pub(crate) fn identity(&self) -> Identity {
        Identity { cluster: CLUSTER, node: uuid(self.id), shard: ShardId::new(0) }
    }
}

impl World {
    pub(crate) fn new(geometry: Geometry, groups: u64, retention: RetentionLimits) -> Self {
        Self::of(Setup { retention, ..Setup::new(geometry, groups) })
    }

    pub(crate) fn of(setup: Setup) -> Self {
        let mut world = Self {
            now: Moment::from_nanos(1),
            setup,
            nodes: Vec::new(),
            streams: 0,
            down: None,
            hang_ups: None,
            deaf: None,
            bulk: BTreeMap::new(),
            wedged: 0,
        };
        for id in 1..=setup.nodes {
            let node = world.start(NodeId::new(id), Disk::new(), 1);
            world.nodes.push(node);
        }
        world.connect();
        world
    }

    pub(crate) fn start(&self, id: NodeId, disk: Disk, boot: u64) -> Node {
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
            nodes: (1..=self.setup.nodes).map(address).collect(),
            group_count: self.setup.groups,
            geometry: self.setup.geometry,
            timing: Timing::default(),
            block_target_bytes: 256 << 10,
            uncommitted_bytes_max: 16 << 20,
            connection_bytes_max: 4 << 20,
            device_writes_max: 4,
            direct_frame_bytes_min: DIRECT_BYTES,
            peer_credit_bytes: self.setup.credit_bytes,
            segments_ahead: 1,
            segments_at_start: 0,
            retention: self.setup.retention,
            facts: WorldFacts::default(),
            seed: 1000 * boot + u64::from(id.get()),
        };
        let identity = Identity { cluster: CLUSTER, node: uuid(id), shard: ShardId::new(0) };
        let recovered = recover(&disk, identity, self.setup.geometry);
        let mut inputs = Inputs::default();
        inputs.push(Input::ClientOpened { conn: CLIENT });
        let mut hello = Vec::new();
        encode_hello(&mut hello, 0, &Hello::new(CLUSTER, "test"));
        inputs.push(Input::ClientBytes { conn: CLIENT, bytes: hello.into() });
        Node {
            id,
            shard: Shard::boot(config, recovered, self.now),
            arena: Arena::new(
                self.setup.arena_extents,
                self.setup.geometry.block_bytes_max as usize,
            ),
            inputs,
            disk,
            boot,
            replies: Assembler::new(2 << 20),
            answers: VecDeque::new(),
            hangs: false,
            unconfirmed: Vec::new(),
            notices: Vec::new(),
        }
    }

    /// Gives every pair new streams, as after a reconnect.
    pub(crate) fn connect(&mut self) {
        self.streams += 1;
        self.bulk.clear();
        for at in 0..self.nodes.len() {
            for peer in (0..self.nodes.len()).filter(|peer| *peer != at) {
                for lane in [Lane::Control, Lane::Bulk] {
                    self.connect_one(at, peer, lane);
                }
            }
        }
    }

    fn connect_one(&mut self, at: usize, peer: usize, lane: Lane) {
        let (stream, credit_bytes) = (StreamId::new(self.streams), self.setup.credit_bytes);
        let peer = self.nodes[peer].id;
        self.nodes[at].inputs.push(Input::PeerUp { peer, lane, stream, credit_bytes });
    }

    /// One bulk stream ends, with what lies in it, and is made anew.
    fn reconnect_bulk(&mut self, a: usize, b: usize) {
        self.streams += 1;
        for (at, peer) in [(a, b), (b, a)] {
            self.bulk.remove(&(at, peer));
            self.connect_one(at, peer, Lane::Bulk);
        }
    }

    /// A device that hangs confirms its oldest writes all the same, so many of them.
    pub(crate) fn confirm(&mut self, at: usize, writes: usize) {
        let node = &mut self.nodes[at];
        let writes = writes.min(node.unconfirmed.len());
        node.unconfirmed.drain(..writes).for_each(|input| node.inputs.push(input));
    }

    /// The oldest write of a device that hangs fails.
    pub(crate) fn fail_write(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        match node.unconfirmed.remove(0) {
            Input::WriteDone { write } => {
                let fault = IoFault::Failed { errno: 5 };
                node.inputs.push(Input::WriteFailed { write, fault });
            }
            other => panic!("{other:?}"),
        }
    }

    /// The device of `at` takes writes and confirms none, or confirms them all.
    pub(crate) fn hang(&mut self, at: usize, hangs: bool) {
        let node = &mut self.nodes[at];
        node.hangs = hangs;
        if !hangs {
            node.unconfirmed.drain(..).for_each(|input| node.inputs.push(input));
        }
    }

    /// Cuts a node off.
    pub(crate) fn stop(&mut self, at: usize) {
        self.down = Some(at);
        let (peer, stream) = (self.nodes[at].id, StreamId::new(self.streams));
        self.bulk.retain(|(from, to), _| *from != at && *to != at);
        for node in (0..self.nodes.len()).filter(|node| *node != at) {
            for lane in [Lane::Control, Lane::Bulk] {
                self.nodes[node].inputs.push(Input::PeerDown { peer, lane, stream });
            }
        }
    }

    /// Starts it again from its disk.
    pub(crate) fn resume(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let (id, boot, disk) = (node.id, node.boot + 1, core::mem::take(&mut node.disk));
        self.nodes[at] = self.start(id, disk, boot);
        self.down = None;
        self.connect();
    }

    /// One turn of each node; effects take no time.
    pub(crate) fn round(&mut self, step: Duration) {
        self.now = self.now.after(step);
        for at in (0..self.nodes.len()).filter(|at| self.down != Some(*at)).collect::<Vec<_>>() {
            self.deliver_bulk(at);
            let mut fx = Effects::default();
            let node = &mut self.nodes[at];
            node.inputs.push(Input::Tick);
            node.shard.turn(self.now, &mut node.inputs, &mut node.arena, &mut fx);
            if self.setup.groups < 100 || self.now.as_nanos() % 50_000_000 == 1 {
                node.shard.check_all();
            }
            for effect in fx.list {
                self.carry_out(at, effect);
            }
        }
    }

    /// Hands over what waits for `to`, as far as it has memory.
    fn deliver_bulk(&mut self, to: usize) {
        if self.deaf == Some(to) {
            return;
        }
        for from in 0..self.nodes.len() {
            let Some(pipe) = self.bulk.get_mut(&(from, to)) else { continue };
            while let Some((stream, frame)) = pipe.front() {
                let node = &mut self.nodes[to];
                let Some(mut buf) = node.arena.take_spare(frame.len_bytes()) else { break };
                let bytes: Vec<u8> =
                    frame.parts.iter().flat_map(|p| p.as_bytes().to_vec()).collect();
                buf.copy_from_slice(&bytes);
                let peer = NodeId::new(u16::try_from(from + 1).expect("a handful"));
                node.inputs.push(Input::PeerBulk { peer, stream: *stream, frame: buf });
                pipe.pop_front();
            }
        }
    }

    pub(crate) fn carry_out(&mut self, at: usize, effect: Effect) {
        let segment_bytes = usize::try_from(self.setup.geometry.segment_bytes).expect("small");
        let node = &mut self.nodes[at];
        match effect {
            Effect::Write { write, segment, offset, block } => {
                let start = usize::try_from(offset).expect("small");
                let file = node.disk.get_mut(&segment).expect("a ready segment");
                file[start..start + block.len()].copy_from_slice(&block);
                let done = Input::WriteDone { write };
                if node.hangs { node.unconfirmed.push(done) } else { node.inputs.push(done) }
            }
            Effect::Read { read, segment, offset, mut buf } => {
                let start = usize::try_from(offset).expect("small");
                let bytes = buf.len();
                buf.copy_from_slice(&node.disk[&segment][start..start + bytes]);
                node.inputs.push(Input::ReadDone { read, buf, result: Ok(()) });
            }
            Effect::PrepareSegment { segment, recycle } => {
                let file = recycle.and_then(|old| node.disk.remove(&old));
                if file.is_none() && node.disk.len() >= self.setup.files_max {
                    let fault = IoFault::NoSpace;
                    return node.inputs.push(Input::SegmentFailed { segment, fault });
                }
                node.disk.insert(segment, file.unwrap_or_else(|| vec![0; segment_bytes]));
                node.inputs.push(Input::SegmentReady { segment });
            }
            Effect::RemoveSegment { segment } => drop(node.disk.remove(&segment)),
            Effect::SendPeer { peer, lane, stream, frame } => {
                let from = node.id;
                if self.down.is_some_and(|down| self.nodes[down].id == peer) {
                    return;
                }
                let to = usize::from(peer.get()) - 1;
                if lane == Lane::Bulk {
                    assert!(frame.len_bytes().is_multiple_of(4096), "{}", frame.len_bytes());
                    return self.bulk.entry((at, to)).or_default().push_back((stream, frame));
                }
                let bytes: Vec<u8> =
                    frame.parts.iter().flat_map(|p| p.as_bytes().to_vec()).collect();
                let bytes = bytes.into();
                self.nodes[to].inputs.push(Input::PeerControl { peer: from, stream, bytes });
            }
            Effect::ClosePeer { peer, lane: Lane::Bulk, reason: STREAM_WEDGED, .. } => {
                self.wedged += 1;
                self.reconnect_bulk(at, usize::from(peer.get()) - 1);
            }
            Effect::SendClient { frame, .. } => {
                for part in frame.parts {
                    node.replies.push(Bytes::copy_from_slice(part.as_bytes()));
                }
                while let Some(frame) = node.replies.next() {
                    node.answers.push_back(frame.expect("a shard sends good frames").bytes);
                }
            }
            Effect::ClientRoom { .. } => {}
            Effect::CloseClient { reason, .. } if self.hang_ups.is_some() => {
                self.hang_ups.iter_mut().for_each(|list| list.push(reason));
            }
            Effect::Notice(notice) => node.notices.push(notice),
            Effect::ClosePeer { reason, .. }
            | Effect::CloseClient { reason, .. }
            | Effect::Halt { reason } => panic!("{reason}"),
            Effect::Forward { .. } | Effect::Return { .. } | Effect::Drained => {
                panic!("one shard, never drained")
            }
        }
    }

    pub(crate) fn run(&mut self, rounds: u32) {
        for _ in 0..rounds {
            self.round(Duration::from_millis(1));
        }
    }

    pub(crate) fn leader(&self, group: u64) -> usize {
        self.find_leader(group).expect("a leader")
    }

    pub(crate) fn find_leader(&self, group: u64) -> Option<usize> {
        let leads = |node: &&Node| {
            node.shard.group(GroupId::new(group)).expect("a group").role() == RoleName::Leader
        };
        let newest = |node: &&Node| node.shard.group(GroupId::new(group)).map(|g| g.term());
        let leader = self.nodes.iter().filter(leads).max_by_key(newest)?;
        Some(usize::from(leader.id.get()) - 1)
    }

    /// Whether a group's leader knows what `at` has.
    pub(crate) fn knows_match(&self, at: usize, group: u64) -> bool {
        let peer = self.nodes[at].id;
        let leader = self.find_leader(group);
        leader.is_some_and(|leader| {
            let matched = self.group(leader, group).match_of(peer);
            matched.is_none_or(|matched| matched > LogIndex::BEFORE_FIRST)
        })
    }

    /// What a group of one node is.
    pub(crate) fn group(&self, at: usize, group: u64) -> &catamaran::raft::Group {
        self.nodes[at].shard.group(GroupId::new(group)).expect("there")
    }

    /// What was answered since the last look: how many appends were done, and every error's code.
    pub(crate) fn outcomes(&mut self) -> (usize, Vec<ErrorCode>) {
        let (mut done, mut errors) = (0, Vec::new());
        for node in &mut self.nodes {
            for frame in node.answers.drain(..) {
                let header = FrameHeader::decode(&frame, 2 << 20).expect("checked");
                match Reply::decode(&header, &frame[FRAME_HEADER_BYTES..]).expect("a reply") {
                    Reply::Append(_) => done += 1,
                    Reply::Error(error) => {
                        errors.push(ErrorCode::from_number(error.code).expect("a known code"));
                    }
                    Reply::Hello(_) => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        (done, errors)
    }

    pub(crate) fn append(&mut self, group: u64, correlation: u64, records: &[Vec<u8>]) {
        let mut bytes = Vec::new();
        encode_append(&mut bytes, correlation, GroupId::new(group), None, records);
        let leader = self.leader(group);
        self.nodes[leader].inputs.push(Input::ClientBytes { conn: CLIENT, bytes: bytes.into() });
    }

    /// The records of the batches from the one that holds `from` on.
    pub(crate) fn read(
        &mut self,
        at: usize,
        group: u64,
        from: u64,
        consistency: Consistency,
    ) -> Vec<Vec<u8>> {
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

    pub(crate) fn count_done(&mut self) -> usize {
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

pub(crate) fn records(count: usize, bytes: usize) -> Vec<Vec<u8>> {
    (0..count).map(|i| vec![u8::try_from(i % 251).expect("small"); bytes]).collect()
}
