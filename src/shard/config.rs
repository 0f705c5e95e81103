//! What a shard is told at boot and never again.

use crate::model::limits::FRAME_BYTES_MAX;
use crate::model::{BootCounter, ClusterId, GroupId, NodeId, NodeUuid, ShardId};
use crate::raft::Timing;
use crate::wal::{Geometry, Limit};

/// Where clients reach a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    /// Which node.
    pub node: NodeId,
    /// Name or address, as the configuration gives it.
    pub host: String,
    /// Client port of shard 0; shard n listens n above it.
    pub client_port_base: u16,
}

/// How much of a group's committed log is kept. Zero means without limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetentionLimits {
    /// Bytes of batches.
    pub bytes_per_group: u64,
    /// Records.
    pub records_per_group: u64,
}

impl RetentionLimits {
    /// The same as `wal` takes it.
    pub fn as_limit(&self) -> Limit {
        let or_all = |value: u64| if value == 0 { u64::MAX } else { value };
        Limit { bytes: or_all(self.bytes_per_group), records: or_all(self.records_per_group) }
    }

    /// Whether anything is ever trimmed.
    pub fn is_limited(&self) -> bool {
        self.bytes_per_group > 0 || self.records_per_group > 0
    }
}

/// Facts of the world that a shard only repeats in its status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorldFacts {
    /// The arena is registered with the ring.
    pub registered: bool,
    /// Segment files are not opened with O_DIRECT (`--allow-buffered`).
    pub buffered: bool,
}

/// What a shard is told at boot.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Which cluster.
    pub cluster: ClusterId,
    /// Which node.
    pub node: NodeId,
    /// Which data directory.
    pub uuid: NodeUuid,
    /// How often it has been started.
    pub boot: BootCounter,
    /// Which shard of it.
    pub shard: ShardId,
    /// Shards of every node of the cluster.
    pub shard_count: u16,
    /// Every node, this one included, by id. At first they are the voters of every group.
    pub nodes: Vec<NodeAddress>,
    /// Groups 1..=this exist on the cluster; each lives on shard `id % shard_count`.
    pub group_count: u64,
    /// Sizes of the WAL.
    pub geometry: Geometry,
    /// Timeouts of every group.
    pub timing: Timing,
    /// Bytes of waiting requests at which a block is closed although the device is busy.
    pub block_target_bytes: usize,
    /// Bytes of requests admitted and not yet committed, of all groups together (F-01).
    pub uncommitted_bytes_max: usize,
    /// Bytes one client connection may have delivered and not taken up (F-01); the world enforces
    /// it, the shard only tells clients.
    pub connection_bytes_max: u64,
    /// Blocks the device may have at once; more are closed and queued behind them.
    pub device_writes_max: u32,
    /// Bulk frames of this size and more are written from the memory they were received in.
    pub direct_frame_bytes_min: usize,
    /// Bulk bytes a peer may have unacknowledged towards us; what we advertise.
    pub peer_credit_bytes: u64,
    /// Segment files kept ready beyond the one being written, at least 1.
    pub segments_ahead: u64,
    /// Segment files made once at the start, beyond the first: for a known volume of log.
    pub segments_at_start: u64,
    /// How much log is kept.
    pub retention: RetentionLimits,
    /// What the world says about itself.
    pub facts: WorldFacts,
    /// Seeds every group's chance; differs between nodes and boots, or elections tie for ever.
    pub seed: u64,
}

impl ShardConfig {
    /// The groups of this shard.
    pub fn groups(&self) -> impl Iterator<Item = GroupId> + use<> {
        let (count, shard) = (u64::from(self.shard_count), u64::from(self.shard.get()));
        (1..=self.group_count).filter(move |id| id % count == shard).map(GroupId::new)
    }

    /// The largest batch, header included: a block less room for its own header, directory and
    /// records. [`crate::model::limits::BATCH_BYTES_MAX`] at the production block size.
    pub fn batch_bytes_max(&self) -> usize {
        let block = self.geometry.block_bytes_max as usize;
        block - block / 16
    }

    /// The largest frame of a client.
    pub fn frame_bytes_max(&self) -> u32 {
        u32::try_from(FRAME_BYTES_MAX).expect("1 MiB")
    }

    /// The shard of a group: the same on every node.
    pub fn shard_of(&self, group: GroupId) -> ShardId {
        let shard = group.get() % u64::from(self.shard_count);
        ShardId::new(u16::try_from(shard).expect("below the shard count"))
    }
}
