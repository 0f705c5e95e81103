//! What a node is told at start. Plain data, already validated by whoever made it.
//!
//! Apart from `config` (the room that parses profiles) so that an embedding program can run a
//! node without any file. Does not: read files, know defaults of profiles.

use core::time::Duration;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use crate::config::Config;
use crate::model::limits::{BLOCK_BYTES_MAX, SHARDS_MAX, VOTERS_MAX};
use crate::model::{ClusterId, NodeId};
use crate::shard::Timing;

/// Where one node of the cluster can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    /// Which node.
    pub id: NodeId,
    /// Host name or address; names are resolved anew at every connection attempt.
    pub host: String,
    /// Client port of shard 0; shard n listens on the n-th port after it.
    pub client_port_base: u16,
    /// Peer port of shard 0; shard n listens on the n-th port after it.
    pub peer_port_base: u16,
}

/// Everything a node needs to know to start. One per process.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The cluster; must be the one the data directory was formatted for.
    pub cluster: ClusterId,
    /// This node; must be in `nodes` and be the one the data directory was formatted for.
    pub node: NodeId,
    /// All voters, this node included.
    pub nodes: Vec<NodeAddress>,
    /// The data directory.
    pub data_dir: PathBuf,
    /// Number of shards, fixed when the data directory is formatted.
    pub shards: u16,
    /// Groups 1..=groups exist on all nodes; group 0 is reserved.
    pub groups: u64,
    /// Pin each shard to a core of its own, where there are enough.
    pub pin_cores: bool,
    /// How long a shard looks on for what is outstanding before it sleeps; zero sleeps at once.
    pub spin: Duration,
    /// Accept a file system without `O_DIRECT` (tmpfs). Durability then is the page cache's.
    pub allow_buffered: bool,
    /// The address to listen on.
    pub bind: IpAddr,
    /// Block memory of one shard. A multiple of 1 MiB.
    pub arena_bytes_per_shard: usize,
    /// Bytes of accepted and not yet answered appends of one shard, beyond which it says Busy.
    pub uncommitted_bytes_per_shard: usize,
    /// Bytes one client connection may have delivered and not given back; its reader pauses there.
    pub connection_bytes: usize,
    /// Bytes of replies that may wait for one connection before it is closed (N10).
    pub send_queue_bytes: usize,
    /// Client connections of one shard.
    pub connections_max: usize,
    /// Bulk bytes a peer may have unacknowledged towards one shard of ours.
    pub peer_credit_bytes: u64,
    /// A block is written as soon as this much is pending, even while the device is busy.
    pub block_target_bytes: u32,
    /// Block writes of one shard that the device may hold at once.
    pub writes_in_flight: u32,
    /// Segments kept ready ahead of the one being written.
    pub segments_ahead: u32,
    /// Segments made at the start beyond the first, and not made up for as they are used: for a
    /// measurement that knows how much log it will write. 0 leaves it to `segments_ahead`.
    pub segments_at_start: u32,
    /// Bytes of a group's log that are kept; 0 keeps all.
    pub retention_bytes_per_group: u64,
    /// Records of a group's log that are kept; 0 keeps all.
    pub retention_records_per_group: u64,
    /// Raft's clock.
    pub timing: Timing,
}

impl NodeConfig {
    /// A node with the default budgets, for tests and embedding programs: one shard, one group,
    /// loopback. The caller fills in what differs.
    pub fn new(
        cluster: ClusterId,
        node: NodeId,
        nodes: Vec<NodeAddress>,
        data_dir: PathBuf,
    ) -> Self {
        Self {
            cluster,
            node,
            nodes,
            data_dir,
            shards: 1,
            groups: 1,
            pin_cores: false,
            spin: Duration::ZERO,
            allow_buffered: false,
            bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
            arena_bytes_per_shard: 64 << 20,
            uncommitted_bytes_per_shard: 32 << 20,
            connection_bytes: 1 << 20,
            send_queue_bytes: 8 << 20,
            connections_max: 10_000,
            peer_credit_bytes: 4 << 20,
            block_target_bytes: 256 << 10,
            writes_in_flight: 4,
            segments_ahead: 2,
            segments_at_start: 0,
            retention_bytes_per_group: 0,
            retention_records_per_group: 0,
            timing: Timing::default(),
        }
    }

    /// This node's own address.
    ///
    /// # Panics
    /// If the node is not in its own list; [`NodeConfig::check`] finds that first.
    pub fn own_address(&self) -> &NodeAddress {
        self.nodes.iter().find(|n| n.id == self.node).expect("checked: the node is in its list")
    }

    /// The nodes to talk to.
    pub fn peers(&self) -> impl Iterator<Item = &NodeAddress> {
        self.nodes.iter().filter(|n| n.id != self.node)
    }

    /// Checks the relations without which the node cannot work at all. Whoever parses a file
    /// checks much more, with lines and cures; this is the last door before the threads start.
    ///
    /// # Errors
    /// The first fault, in words.
    pub fn check(&self) -> Result<(), String> {
        if !self.nodes.iter().any(|n| n.id == self.node) {
            return Err(format!("node {} is not in its own list of nodes", self.node));
        }
        if self.nodes.len() > VOTERS_MAX {
            return Err(format!("{} nodes, at most {VOTERS_MAX}", self.nodes.len()));
        }
        let mut ids: Vec<_> = self.nodes.iter().map(|n| n.id).collect();
        ids.sort_unstable();
        if ids.windows(2).any(|pair| pair[0] == pair[1]) || ids[0].get() == 0 {
            return Err("node ids start at 1 and are used once each".to_owned());
        }
        if self.shards == 0 || usize::from(self.shards) > SHARDS_MAX {
            return Err(format!("{} shards, allowed are 1 to {SHARDS_MAX}", self.shards));
        }
        for node in &self.nodes {
            for base in [node.client_port_base, node.peer_port_base] {
                if base == 0 || base.checked_add(self.shards - 1).is_none() {
                    return Err(format!("port {base} of node {} leaves no port for each shard", {
                        node.id
                    }));
                }
            }
        }
        if self.groups == 0 {
            return Err("at least one group is needed".to_owned());
        }
        let extents = self.arena_bytes_per_shard / BLOCK_BYTES_MAX;
        if !self.arena_bytes_per_shard.is_multiple_of(BLOCK_BYTES_MAX) || extents < 8 {
            return Err(format!(
                "arena_bytes_per_shard is {}: a multiple of 1 MiB and at least 8 MiB is needed",
                self.arena_bytes_per_shard
            ));
        }
        if self.writes_in_flight == 0 {
            return Err("writes_in_flight is 0".to_owned());
        }
        Ok(())
    }
}

impl From<&Config> for NodeConfig {
    /// What a node is told, from what an operator wrote.
    fn from(config: &Config) -> Self {
        let memory = |bytes: u64| usize::try_from(bytes).expect("64 bit: a size fits a usize");
        let nodes = config.nodes.iter().map(|node| NodeAddress {
            id: node.id,
            host: node.host.clone(),
            client_port_base: node.client_port,
            peer_port_base: node.peer_port,
        });
        Self {
            cluster: config.cluster_id,
            node: config.node_id,
            nodes: nodes.collect(),
            data_dir: config.data_dir.clone(),
            shards: config.shards,
            groups: u64::from(config.groups),
            pin_cores: config.pin_cores,
            spin: config.spin,
            allow_buffered: config.allow_buffered,
            bind: config.bind,
            arena_bytes_per_shard: memory(config.limits.arena_bytes_per_shard),
            uncommitted_bytes_per_shard: memory(config.limits.uncommitted_bytes_per_shard),
            connection_bytes: memory(config.limits.connection_bytes),
            send_queue_bytes: memory(config.limits.send_queue_bytes),
            connections_max: config.limits.connections_max as usize,
            peer_credit_bytes: config.limits.peer_credit_bytes,
            block_target_bytes: config.wal.block_target_bytes,
            writes_in_flight: config.wal.writes_in_flight,
            segments_ahead: config.wal.segments_ahead,
            segments_at_start: 0,
            retention_bytes_per_group: config.retention.bytes_per_group.unwrap_or(0),
            retention_records_per_group: config.retention.records_per_group.unwrap_or(0),
            timing: Timing {
                heartbeat: config.raft.heartbeat,
                election_min: config.raft.election_min,
                election_max: config.raft.election_max,
                check_quorum: config.raft.check_quorum,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> NodeConfig {
        let node = |id| NodeAddress {
            id: NodeId::new(id),
            host: "localhost".into(),
            client_port_base: 4000,
            peer_port_base: 4100,
        };
        NodeConfig::new(ClusterId::default(), NodeId::new(1), vec![node(1), node(2)], "/x".into())
    }

    #[track_caller]
    fn refused(change: impl Fn(&mut NodeConfig), word: &str) {
        let mut config = config();
        config.check().expect("good before the change");
        change(&mut config);
        let error = config.check().expect_err("must be refused");
        assert!(error.contains(word), "{error}");
    }

    #[test]
    fn impossible_nodes_are_refused() {
        refused(|c| c.node = NodeId::new(3), "its own list");
        refused(|c| c.nodes[1].id = NodeId::new(1), "once each");
        refused(|c| c.shards = 0, "shards");
        refused(|c| c.nodes[0].peer_port_base = 0, "port 0");
        refused(|c| c.arena_bytes_per_shard = 1000, "arena");
        refused(|c| c.groups = 0, "group");
        refused(|c| c.writes_in_flight = 0, "writes_in_flight");
    }
}
