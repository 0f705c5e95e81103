//! Three shards over a perfect network and devices that take no time: what is left is what the
//! shards themselves cost.
//!
//! Each turn of each shard is timed, and the allocations in it are counted, while the world
//! around it (copying frames from one arena to another, making requests) is not. Does not: lose,
//! delay or keep anything; nothing can be read back.

#![expect(clippy::disallowed_methods, reason = "a bench reads a clock")]

pub(crate) mod allocations;

use std::time::{Duration, Instant};

use bytes::Bytes;
use catamaran::base::{Arena, Moment};
use catamaran::model::{
    BootCounter, ClusterId, ConnId, GroupId, NodeId, NodeUuid, ShardId, StreamId,
};
use catamaran::raft::{RoleName, Timing};
use catamaran::shard::{
    Effect, Effects, Frame, Input, Inputs, Lane, NodeAddress, RetentionLimits, Shard, ShardConfig,
    WorldFacts,
};
use catamaran::wal::{Geometry, Identity, Recovery, Step, WalMay};
use catamaran::wire::client::{APPEND_REPLY_FRAME_BYTES, Hello, encode_append, encode_hello};

const CLUSTER: ClusterId = ClusterId::new([7; 16]);
const CLIENT: ConnId = ConnId::new(1);
const STREAM: StreamId = StreamId::new(1);
/// What a client's bytes are cut into, as by receive buffers.
const CHUNK_BYTES: usize = 64 << 10;
/// Turns of all nodes until a round is answered; a perfect world needs a handful.
const TURNS_MAX: u32 = 1_000;

/// One node, and what its turns have cost.
pub(crate) struct Node {
    id: NodeId,
    shard: Shard,
    arena: Arena,
    inputs: Inputs,
    effects: Effects,
    pub(crate) spent: Duration,
    pub(crate) allocations: u64,
}

/// Three nodes. The leader of every group is `leader`.
pub(crate) struct World {
    now: Moment,
    groups: u64,
    pub(crate) nodes: Vec<Node>,
    pub(crate) leader: usize,
    /// Reply bytes that came for appends.
    replied: usize,
    correlation: u64,
}

impl World {
    /// A cluster in which node 1 leads all groups.
    pub(crate) fn new(groups: u64) -> Self {
        let now = Moment::from_nanos(1);
        let nodes = (1..=3).map(|id| start(NodeId::new(id), groups, now)).collect();
        let mut world = Self { now, groups, nodes, leader: 0, replied: 0, correlation: 0 };
        for at in 0..3 {
            let own = world.nodes[at].id;
            for peer in (1..=3).map(NodeId::new).filter(|peer| *peer != own) {
                for lane in [Lane::Control, Lane::Bulk] {
                    let up = Input::PeerUp { peer, lane, stream: STREAM, credit_bytes: 4 << 20 };
                    world.nodes[at].inputs.push(up);
                }
            }
        }
        // Only node 1 hears of the passing time until it leads everything.
        let leads = |world: &Self| {
            let shard = &world.nodes[0].shard;
            (1..=groups).all(|group| {
                let group = shard.group(GroupId::new(group)).expect("created at start");
                group.role() == RoleName::Leader && 0 < group.commit().get()
            })
        };
        while !leads(&world) {
            world.now = world.now.after(Duration::from_millis(5));
            world.nodes[0].inputs.push(Input::Tick);
            world.turns();
            assert!(world.now.as_nanos() < 60_000_000_000, "no leader after a minute");
        }
        world.replied = 0;
        world
    }

    /// Appends `requests` of `records` records of 200 bytes, spread over the groups, and takes
    /// turns until all are answered.
    pub(crate) fn round(&mut self, requests: u64, records: usize) {
        let run = vec![vec![5; 200]; records];
        let mut bytes = Vec::with_capacity(2 * CHUNK_BYTES);
        for _ in 0..requests {
            self.correlation += 1;
            let group = GroupId::new(1 + self.correlation % self.groups);
            encode_append(&mut bytes, self.correlation, group, None, &run);
            if CHUNK_BYTES < bytes.len() {
                self.send(core::mem::take(&mut bytes));
            }
        }
        self.send(bytes);
        let wanted = usize::try_from(requests).expect("fits memory") * APPEND_REPLY_FRAME_BYTES;
        for _ in 0..TURNS_MAX {
            if wanted <= self.replied {
                assert_eq!(wanted, self.replied, "an answer for each and nothing else");
                self.replied = 0;
                return;
            }
            self.now = self.now.after(Duration::from_micros(50));
            self.turns();
        }
        panic!("{} of {wanted} reply bytes after {TURNS_MAX} turns", self.replied);
    }

    fn send(&mut self, bytes: Vec<u8>) {
        let bytes = Bytes::from(bytes);
        self.nodes[self.leader].inputs.push(Input::ClientBytes { conn: CLIENT, bytes });
    }

    /// Entries committed on all nodes together, as far as they know.
    pub(crate) fn committed(&self) -> u64 {
        let states = self.nodes.iter().flat_map(|node| node.shard.group_status());
        states.map(|group| group.commit.get()).sum()
    }

    /// One turn of each node that has something to do.
    fn turns(&mut self) {
        for at in 0..3 {
            let node = &mut self.nodes[at];
            if node.inputs.queue.is_empty() {
                continue;
            }
            // For the others time stands still, so they never campaign.
            let now = if at == self.leader { self.now } else { Moment::from_nanos(1) };
            let before = allocations::count();
            let start = Instant::now();
            node.shard.turn(now, &mut node.inputs, &mut node.arena, &mut node.effects);
            node.spent += start.elapsed();
            node.allocations += allocations::count() - before;
            let mut effects = core::mem::take(&mut node.effects);
            for effect in effects.list.drain(..) {
                self.carry_out(at, effect);
            }
            self.nodes[at].effects = effects;
        }
    }

    fn carry_out(&mut self, at: usize, effect: Effect) {
        let node = &mut self.nodes[at];
        match effect {
            Effect::Write { write, .. } => node.inputs.push(Input::WriteDone { write }),
            Effect::PrepareSegment { segment, .. } => {
                node.inputs.push(Input::SegmentReady { segment });
            }
            Effect::SendPeer { peer, lane, frame, .. } => {
                let from = node.id;
                self.deliver(from, peer, lane, &frame);
            }
            Effect::SendClient { frame, .. } => {
                self.replied += frame.parts.iter().map(|part| part.as_bytes().len()).sum::<usize>();
            }
            Effect::ClientRoom { .. } | Effect::Notice(_) | Effect::RemoveSegment { .. } => {}
            Effect::Read { .. }
            | Effect::ClosePeer { .. }
            | Effect::CloseClient { .. }
            | Effect::Halt { .. }
            | Effect::Forward { .. }
            | Effect::Return { .. }
            | Effect::Drained => panic!("nothing goes wrong here and nothing is read"),
        }
    }

    fn deliver(&mut self, from: NodeId, to: NodeId, lane: Lane, frame: &Frame) {
        let bytes: Vec<u8> = frame.parts.iter().flat_map(|part| part.as_bytes().to_vec()).collect();
        let to = self.nodes.iter_mut().find(|node| node.id == to).expect("three nodes");
        to.inputs.push(match lane {
            Lane::Control => Input::PeerControl { peer: from, stream: STREAM, bytes: bytes.into() },
            Lane::Bulk => {
                let mut buf = to.arena.take(bytes.len()).expect("credit is below the arena");
                buf.copy_from_slice(&bytes);
                Input::PeerBulk { peer: from, stream: STREAM, frame: buf }
            }
        });
    }
}

fn start(id: NodeId, groups: u64, now: Moment) -> Node {
    let uuid = NodeUuid::new([u8::try_from(id.get()).expect("three"); 16]);
    let address = |node| NodeAddress {
        node: NodeId::new(node),
        host: "127.0.0.1".into(),
        client_port_base: 1000 * node,
    };
    let config = ShardConfig {
        cluster: CLUSTER,
        node: id,
        uuid,
        boot: BootCounter::new(1),
        shard: ShardId::new(0),
        shard_count: 1,
        nodes: (1..=3).map(address).collect(),
        group_count: groups,
        geometry: Geometry::PRODUCTION,
        timing: Timing::default(),
        block_target_bytes: 256 << 10,
        uncommitted_bytes_max: 32 << 20,
        connection_bytes_max: 16 << 20,
        device_writes_max: 4,
        direct_frame_bytes_min: 16 << 10,
        peer_credit_bytes: 4 << 20,
        segments_ahead: 2,
        segments_at_start: 0,
        retention: RetentionLimits::default(),
        facts: WorldFacts::default(),
        seed: u64::from(id.get()),
    };
    let identity = Identity { cluster: CLUSTER, node: uuid, shard: ShardId::new(0) };
    let mut recovery = Recovery::new(identity, Geometry::PRODUCTION, WalMay::BeEmpty, &[])
        .expect("an empty directory");
    let Step::Done(recovered) = recovery.next() else { panic!("there is nothing to read") };
    let mut inputs = Inputs::default();
    inputs.push(Input::ClientOpened { conn: CLIENT });
    let mut hello = Vec::new();
    encode_hello(&mut hello, 0, &Hello::new(CLUSTER, "bench"));
    inputs.push(Input::ClientBytes { conn: CLIENT, bytes: hello.into() });
    Node {
        id,
        shard: Shard::boot(config, *recovered, now),
        arena: Arena::new(64, 1 << 20),
        inputs,
        effects: Effects::default(),
        spent: Duration::ZERO,
        allocations: 0,
    }
}
