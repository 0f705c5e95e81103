//! What a shard says about itself: metadata for clients, status text for people and tools.

use core::fmt::Write;

use super::Shard;
use super::slot::Origin;
use crate::model::{EntryId, GroupId, LogIndex, NodeId, Term};
use crate::raft::{self, RoleName};
use crate::wire::client::{
    GroupInfo, MetadataReply, NodeInfo, encode_metadata_reply, encode_status_reply,
};

/// Where a group stands on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// Which group.
    pub group: GroupId,
    /// What this node is in it.
    pub role: RoleName,
    /// Its newest term.
    pub term: Term,
    /// The leader it knows.
    pub leader: Option<NodeId>,
    /// The first index that can be read.
    pub first: LogIndex,
    /// The last entry of the log.
    pub last: EntryId,
    /// The commit index.
    pub commit: LogIndex,
    /// Up to where the log is durable here.
    pub durable: LogIndex,
}

impl Shard {
    /// Where every group stands.
    pub fn group_status(&self) -> impl Iterator<Item = GroupStatus> + '_ {
        self.slots.iter().map(|slot| GroupStatus {
            group: slot.id,
            role: slot.raft.role(),
            term: slot.raft.term(),
            leader: slot.raft.leader(),
            first: slot.raft.first_index(),
            last: slot.raft.last(),
            commit: slot.raft.commit(),
            durable: slot.raft.durable(),
        })
    }

    pub(super) fn answer_metadata(&mut self, origin: Origin) {
        let nodes: Vec<NodeInfo<'_>> = self
            .config
            .nodes
            .iter()
            .map(|node| NodeInfo {
                node: node.node,
                host: &node.host,
                client_base_port: node.client_port_base,
            })
            .collect();
        let groups: Vec<GroupInfo> = self
            .group_status()
            .map(|status| GroupInfo {
                group: status.group,
                leader: status.leader,
                term: status.term,
            })
            .collect();
        let reply = MetadataReply {
            cluster: self.config.cluster,
            shard: self.config.shard,
            shard_count: self.config.shard_count,
            group_count: self.config.group_count,
            nodes: &nodes,
            groups: &groups,
        };
        self.clients.answer(origin, |out| encode_metadata_reply(out, origin.correlation, &reply));
    }

    pub(super) fn answer_status(&mut self, origin: Origin) {
        let text = self.status_text();
        self.clients.answer(origin, |out| encode_status_reply(out, origin.correlation, &text));
    }

    /// The status text: lines of a key, a space and a value; one line per group.
    pub fn status_text(&self) -> String {
        let mut text = String::new();
        self.write_status(&mut text).expect("a String takes everything");
        text
    }

    fn write_status(&self, to: &mut String) -> core::fmt::Result {
        let config = &self.config;
        writeln!(to, "cluster {}", config.cluster)?;
        writeln!(to, "node {}", config.node)?;
        writeln!(to, "uuid {}", config.uuid)?;
        writeln!(to, "boot {}", config.boot)?;
        writeln!(to, "shard {}", config.shard)?;
        writeln!(to, "shard_count {}", config.shard_count)?;
        let durability = if config.facts.buffered { "dsync-buffered" } else { "dsync-direct" };
        writeln!(to, "durability {durability}")?;
        writeln!(to, "buffered {}", config.facts.buffered)?;
        writeln!(to, "registered {}", config.facts.registered)?;
        writeln!(to, "disk_full {}", self.store.is_disk_full())?;
        writeln!(to, "device_stuck {}", self.device == raft::Device::Stuck)?;
        writeln!(to, "clients {}", self.clients.len())?;
        writeln!(to, "uncommitted_bytes {}", self.replies.uncommitted_bytes)?;
        for link in self.links.iter() {
            let is_up = link.control.is_some() && link.bulk.is_some();
            writeln!(to, "peer.{}.up {is_up}", link.peer)?;
            writeln!(to, "peer.{}.in_flight_bytes {}", link.peer, link.in_flight_bytes)?;
        }
        for (at, link) in self.links.iter().enumerate() {
            writeln!(to, "peer.{}.lag_us {}", link.peer, self.trace.lag_us(at, self.now))?;
        }
        self.store.write_status(to)?;
        for (name, value) in self.counters.list() {
            writeln!(to, "{name} {value}")?;
        }
        self.trace.write_status(to)?;
        let sum = |of: fn(&raft::Counters) -> u64| -> u64 {
            self.slots.iter().map(|slot| of(&slot.raft.counters())).sum()
        };
        writeln!(to, "elections_started {}", sum(|counters| counters.campaigns))?;
        writeln!(to, "raft_nonsense {}", sum(|counters| counters.nonsense))?;
        writeln!(to, "raft_stalled {}", sum(|counters| counters.stalled))?;
        writeln!(to, "raft_reversions {}", sum(|counters| counters.reversions))?;
        for status in self.group_status() {
            write!(to, "group.{} role={}", status.group, role_name(status.role))?;
            let leader = status.leader.map_or(0, NodeId::get);
            write!(to, " term={} leader={leader}", status.term)?;
            write!(to, " first={} last={}", status.first, status.last.index)?;
            writeln!(to, " commit={} durable={}", status.commit, status.durable)?;
        }
        Ok(())
    }
}

fn role_name(role: RoleName) -> &'static str {
    match role {
        RoleName::Follower => "follower",
        RoleName::PreCandidate => "pre-candidate",
        RoleName::Candidate => "candidate",
        RoleName::Leader => "leader",
    }
}
