//! What a shard says about itself: metadata for clients, status text for people and tools.

use core::fmt::Write;
use std::collections::VecDeque;

use bytes::Bytes;

use super::Shard;
use super::slot::Origin;
use crate::model::limits::{
    FRAME_BYTES_MAX, QUESTION_BYTES_PER_TURN_MAX, QUESTIONS_WAITING_MAX, STATUS_BYTES_MAX,
};
use crate::model::{EntryId, GroupId, LogIndex, NodeId, Term};
use crate::raft::{self, RoleName};
use crate::wire::client::{
    GroupInfo, MetadataReply, NodeInfo, encode_metadata_reply, encode_status_reply,
};
use crate::wire::{FRAME_HEADER_BYTES, FrameHeader};

/// More than a line about a group has, with the largest numbers: seven of twenty digits.
const GROUP_LINE_BYTES_MAX: usize = 256;

/// What can be asked about a shard itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// Nodes and leaders.
    Metadata,
    /// The status text.
    Status,
}

/// Questions that are not answered yet. One per shard.
#[derive(Default)]
pub(super) struct Questions {
    waiting: VecDeque<(Origin, Question)>,
}

impl Questions {
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= QUESTIONS_WAITING_MAX
    }

    pub(super) fn push(&mut self, origin: Origin, question: Question) {
        assert!(origin.remote.is_none(), "questions are about the shard that they come to");
        self.waiting.push_back((origin, question));
    }
}

/// An answer that several get: only the correlation id of its header differs.
struct Rendered {
    header: FrameHeader,
    body: Bytes,
}

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

    /// Answers the questions that wait, as far as one turn goes. Each of the two answers is made at
    /// most once a turn, however many ask, and its bytes are shared: a client that sends nothing but
    /// questions costs little more than one that asks one.
    pub(super) fn answer_questions(&mut self) {
        let (mut metadata, mut status): (Option<Rendered>, Option<Rendered>) = (None, None);
        let mut bytes = 0;
        while bytes < QUESTION_BYTES_PER_TURN_MAX
            && let Some((origin, question)) = self.questions.waiting.pop_front()
        {
            let rendered = match question {
                Question::Metadata => metadata.take(),
                Question::Status => status.take(),
            };
            let rendered = rendered.unwrap_or_else(|| self.render(question));
            let head = FrameHeader { correlation: origin.correlation, ..rendered.header };
            bytes += FRAME_HEADER_BYTES + rendered.body.len();
            let body = rendered.body.clone();
            self.clients.answer_question(origin.conn, head.encode().to_vec(), body);
            match question {
                Question::Metadata => metadata = Some(rendered),
                Question::Status => status = Some(rendered),
            }
        }
    }

    fn render(&mut self, question: Question) -> Rendered {
        self.counters.questions_rendered += 1;
        let mut frame = Vec::new();
        match question {
            Question::Metadata => self.write_metadata(&mut frame),
            Question::Status => encode_status_reply(&mut frame, 0, &self.status_text()),
        }
        let limit = FRAME_BYTES_MAX;
        let header = FrameHeader::decode(&frame, limit).expect("encoders make good frames");
        Rendered { header, body: Bytes::from(frame).slice(FRAME_HEADER_BYTES..) }
    }

    fn write_metadata(&self, to: &mut Vec<u8>) {
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
        encode_metadata_reply(to, 0, &reply);
    }

    /// The status text: lines of a key, a space and a value; one line per group, as far as they
    /// fit into a frame.
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
        for (groups_told, status) in self.group_status().enumerate() {
            if to.len() > STATUS_BYTES_MAX - GROUP_LINE_BYTES_MAX {
                writeln!(to, "groups_left_out {}", self.slots.len() - groups_told)?;
                break;
            }
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
