//! Replies: their layouts, encoders, and the decoder that a client runs on every frame.
//!
//! [`encode_append_reply`] is called millions of times a second and is one copy of 64 bytes. A
//! read's batches are not copied at all: [`encode_read_reply_head`] makes what stands before
//! them, and the caller sends the blocks' own bytes behind it.

use super::super::frame::{
    Address, FRAME_HEADER_BYTES, FrameError, FrameHeader, Reader, Sink, encode_frame, header_of,
};
use super::{ErrorReply, Kind};
use crate::base::Checksum;
use crate::base::layout::put_u64;
use crate::model::{ClusterId, GroupId, LogIndex, NodeId, NodeUuid, ShardId, Term};

/// Bytes of an append reply's frame.
pub const APPEND_REPLY_FRAME_BYTES: usize = FRAME_HEADER_BYTES + APPEND_REPLY_BYTES;
const APPEND_REPLY_BYTES: usize = 24;
/// Bytes that stand before the batches of a read reply: frame header and fixed part.
pub const READ_REPLY_HEAD_BYTES: usize = FRAME_HEADER_BYTES + READ_REPLY_FIXED_BYTES;
const READ_REPLY_FIXED_BYTES: usize = 24;
/// A host name is at most this long (RFC 1035).
const HOST_BYTES_MAX: usize = 255;
/// Bytes of one group in a metadata reply.
const GROUP_INFO_BYTES: usize = 24;

/// Any reply.
#[derive(Clone, Copy, Debug)]
pub enum Reply<'a> {
    /// The connection is open.
    Hello(HelloReply),
    /// Nodes and leaders.
    Metadata(MetadataView<'a>),
    /// The append is durable on a majority.
    Append(AppendReply),
    /// Committed batches.
    Read(ReadReplyView<'a>),
    /// Text for people.
    Status(StatusReply<'a>),
    /// Not done, or unknown.
    Error(ErrorReply<'a>),
}

impl<'a> Reply<'a> {
    /// Reads the reply in a checked frame.
    ///
    /// # Errors
    /// [`FrameError::Body`] if the layout is broken or the kind is no reply of version 1.
    #[inline]
    pub fn decode(header: &FrameHeader, body: &'a [u8]) -> Result<Self, FrameError> {
        if header.covered_bytes != header.body_bytes {
            return Err(FrameError::Body { offset: 12 });
        }
        match Kind::from_number(header.kind) {
            Some(Kind::AppendReply) => AppendReply::decode(body).map(Self::Append),
            Some(Kind::ReadReply) => ReadReplyView::decode(body).map(Self::Read),
            Some(Kind::Error) => ErrorReply::decode(body).map(Self::Error),
            Some(Kind::HelloReply) => HelloReply::decode(body).map(Self::Hello),
            Some(Kind::MetadataReply) => MetadataView::decode(body).map(Self::Metadata),
            Some(Kind::StatusReply) => StatusReply::decode(body).map(Self::Status),
            Some(
                Kind::Hello
                | Kind::Metadata
                | Kind::Append
                | Kind::Read
                | Kind::Status
                | Kind::Tail
                | Kind::Credit
                | Kind::Trim
                | Kind::KeyValue
                | Kind::TailReply
                | Kind::CreditReply
                | Kind::TrimReply
                | Kind::KeyValueReply,
            )
            | None => Err(FrameError::Body { offset: 5 }),
        }
    }
}

/// What a connection may do. The client stays below all of them; a node refuses what exceeds one
/// or stops reading until it has room again (F-01, F-02).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest frame, header included.
    pub frame_bytes_max: u32,
    /// The largest batch: an append's records with their lengths and 64 bytes more.
    pub batch_bytes_max: u32,
    /// Unanswered requests; beyond it the node reads no further.
    pub requests_max: u32,
    /// Bytes of unanswered requests; beyond it the node reads no further.
    pub budget_bytes: u64,
}

/// Who answers.
///
/// ```text
///      0      1  protocol version of this connection
///      1      1  0
///      2      2  node id
///      4      2  shard this connection ends at
///      6      2  shards of every node, at least 1
///      8     16  cluster id
///     24     16  node uuid
///     40      4  largest frame
///     44      4  largest batch
///     48      4  unanswered requests
///     52      4  0
///     56      8  bytes of unanswered requests
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelloReply {
    /// The version both will use.
    pub version: u8,
    /// The node that answers.
    pub node: NodeId,
    /// Its shard that answers.
    pub shard: ShardId,
    /// Shards of every node of the cluster.
    pub shard_count: u16,
    /// The cluster.
    pub cluster: ClusterId,
    /// The node's data directory.
    pub uuid: NodeUuid,
    /// What the connection may do.
    pub limits: Limits,
}

impl HelloReply {
    fn decode(body: &[u8]) -> Result<Self, FrameError> {
        let mut from = Reader::new(body);
        let version = from.u8()?;
        from.reserved(1)?;
        let node = NodeId::new(from.u16()?);
        let shard = ShardId::new(from.u16()?);
        let shard_count = from.u16()?;
        if shard_count == 0 {
            return Err(from.error());
        }
        let cluster = ClusterId::new(from.array()?);
        let uuid = NodeUuid::new(from.array()?);
        let (frame_bytes_max, batch_bytes_max) = (from.u32()?, from.u32()?);
        let requests_max = from.u32()?;
        from.reserved(4)?;
        let budget_bytes = from.u64()?;
        from.end()?;
        let limits = Limits { frame_bytes_max, batch_bytes_max, requests_max, budget_bytes };
        Ok(Self { version, node, shard, shard_count, cluster, uuid, limits })
    }
}

/// Appends the answer to a hello.
pub fn encode_hello_reply<S: Sink>(to: &mut S, correlation: u64, reply: &HelloReply) {
    encode_frame(to, address(Kind::HelloReply, correlation, GroupId::new(0)), |to| {
        to.put_u8(reply.version);
        to.put_u8(0);
        to.put_u16_le(reply.node.get());
        to.put_u16_le(reply.shard.get());
        to.put_u16_le(reply.shard_count);
        to.put_slice(&reply.cluster.get());
        to.put_slice(&reply.uuid.get());
        to.put_u32_le(reply.limits.frame_bytes_max);
        to.put_u32_le(reply.limits.batch_bytes_max);
        to.put_u32_le(reply.limits.requests_max);
        to.put_u32_le(0);
        to.put_u64_le(reply.limits.budget_bytes);
    });
}

/// Where an append landed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendReply {
    /// Index of the first record; the others follow without a gap.
    pub first: LogIndex,
    /// Term they were born in.
    pub term: Term,
    /// Commit index when the reply was made; at or above the last record.
    pub commit: LogIndex,
}

impl AppendReply {
    #[inline]
    fn decode(body: &[u8]) -> Result<Self, FrameError> {
        let mut from = Reader::new(body);
        let first = LogIndex::new(from.u64()?);
        let term = Term::new(from.u64()?);
        let commit = LogIndex::new(from.u64()?);
        from.end()?;
        Ok(Self { first, term, commit })
    }
}

/// Appends the answer to an append. The hot one: no allocation, one copy of 64 bytes.
#[inline]
pub fn encode_append_reply<S: Sink>(
    to: &mut S,
    correlation: u64,
    group: GroupId,
    reply: &AppendReply,
) {
    let mut frame = [0; APPEND_REPLY_FRAME_BYTES];
    put_u64(&mut frame, FRAME_HEADER_BYTES, reply.first.get());
    put_u64(&mut frame, FRAME_HEADER_BYTES + 8, reply.term.get());
    put_u64(&mut frame, FRAME_HEADER_BYTES + 16, reply.commit.get());
    let body_crc = Checksum::of(&frame[FRAME_HEADER_BYTES..]);
    let address = address(Kind::AppendReply, correlation, group);
    let header = header_of(address, APPEND_REPLY_BYTES, body_crc);
    frame[..FRAME_HEADER_BYTES].copy_from_slice(&header.encode());
    to.put_slice(&frame);
}

/// What stands before the batches of a read reply.
///
/// ```text
///      0      8  first index that can still be read
///      8      8  commit index
///     16      8  index to ask for next
///     24         whole batches as in `model::batch`, ascending, without gaps in index
/// ```
///
/// The first batch holds the wanted index, and so may begin before it; the others are wanted
/// whole. No-op and configuration batches are included: they occupy indexes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadReplyHead {
    /// The first index that can still be read.
    pub first_available: LogIndex,
    /// The commit index that the read saw.
    pub commit: LogIndex,
    /// The index behind the last batch; the wanted one if there is no batch.
    pub next: LogIndex,
}

/// A read reply, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadReplyView<'a> {
    /// The fixed part.
    pub head: ReadReplyHead,
    /// The batches, not yet checked: `model::BatchView` does.
    pub batches: &'a [u8],
}

impl<'a> ReadReplyView<'a> {
    fn decode(body: &'a [u8]) -> Result<Self, FrameError> {
        let mut from = Reader::new(body);
        let first_available = LogIndex::new(from.u64()?);
        let commit = LogIndex::new(from.u64()?);
        let next = LogIndex::new(from.u64()?);
        let head = ReadReplyHead { first_available, commit, next };
        Ok(Self { head, batches: from.rest() })
    }
}

/// Frame header and fixed part of a read reply, to be sent right before `batches`. Passes over
/// the batches once for the checksum.
pub fn encode_read_reply_head<'a>(
    correlation: u64,
    group: GroupId,
    head: &ReadReplyHead,
    batches: impl Iterator<Item = &'a [u8]>,
) -> Vec<u8> {
    let mut bytes = vec![0; READ_REPLY_HEAD_BYTES];
    put_u64(&mut bytes, FRAME_HEADER_BYTES, head.first_available.get());
    put_u64(&mut bytes, FRAME_HEADER_BYTES + 8, head.commit.get());
    put_u64(&mut bytes, FRAME_HEADER_BYTES + 16, head.next.get());
    let fixed = Checksum::of(&bytes[FRAME_HEADER_BYTES..]);
    let (body_bytes, body_crc) = batches
        .fold((READ_REPLY_FIXED_BYTES, fixed), |(sum, crc), batch| {
            (sum + batch.len(), crc.then(batch))
        });
    let header = header_of(address(Kind::ReadReply, correlation, group), body_bytes, body_crc);
    bytes[..FRAME_HEADER_BYTES].copy_from_slice(&header.encode());
    bytes
}

/// One node, as clients reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeInfo<'a> {
    /// Its number.
    pub node: NodeId,
    /// Its host name or address.
    pub host: &'a str,
    /// Client port of its shard 0; shard s listens at this plus s.
    pub client_base_port: u16,
}

/// One group, as the answering node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupInfo {
    /// Its number.
    pub group: GroupId,
    /// The newest term known.
    pub term: Term,
    /// Its leader, if known.
    pub leader: Option<NodeId>,
}

/// Nodes of the cluster, and the groups of the shard that answers.
///
/// ```text
///      0     16  cluster id
///     16      2  shard that answers
///     18      2  shards of every node, at least 1
///     20      4  nodes listed
///     24      8  groups of the whole cluster
///     32      4  groups listed
///     36      4  0
///     40         per node: u16 id, u16 client base port, u16 host length, host
///      .         per group: u64 group, u64 term, u16 leader or 0, 6 bytes 0
/// ```
#[derive(Clone, Copy, Debug)]
pub struct MetadataReply<'a> {
    /// The cluster.
    pub cluster: ClusterId,
    /// The shard that answers.
    pub shard: ShardId,
    /// Shards of every node.
    pub shard_count: u16,
    /// Groups of the whole cluster, numbered from 1 on.
    pub group_count: u64,
    /// Every node.
    pub nodes: &'a [NodeInfo<'a>],
    /// The groups of this shard.
    pub groups: &'a [GroupInfo],
}

/// A metadata reply, decoded: the lists are walked on demand and were checked before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetadataView<'a> {
    /// The cluster.
    pub cluster: ClusterId,
    /// The shard that answers.
    pub shard: ShardId,
    /// Shards of every node.
    pub shard_count: u16,
    /// Groups of the whole cluster.
    pub group_count: u64,
    nodes: Reader<'a>,
    node_count: u32,
    groups: &'a [u8],
}

impl<'a> MetadataView<'a> {
    fn decode(body: &'a [u8]) -> Result<Self, FrameError> {
        let mut from = Reader::new(body);
        let cluster = ClusterId::new(from.array()?);
        let shard = ShardId::new(from.u16()?);
        let shard_count = from.u16()?;
        if shard_count == 0 {
            return Err(from.error());
        }
        let node_count = from.u32()?;
        let group_count = from.u64()?;
        let listed = from.u32()? as usize;
        from.reserved(4)?;
        let nodes = from;
        for _ in 0..node_count {
            read_node(&mut from)?;
        }
        let groups_bytes = listed.checked_mul(GROUP_INFO_BYTES).ok_or(from.error())?;
        let groups = from.bytes(groups_bytes)?;
        from.end()?;
        let mut check = Reader::new(groups);
        for _ in 0..listed {
            read_group(&mut check)?;
        }
        Ok(Self { cluster, shard, shard_count, group_count, nodes, node_count, groups })
    }

    /// Every node.
    pub fn nodes(&self) -> impl Iterator<Item = NodeInfo<'a>> {
        let mut from = self.nodes;
        (0..self.node_count).map_while(move |_| read_node(&mut from).ok())
    }

    /// The groups of the shard that answered.
    pub fn groups(&self) -> impl Iterator<Item = GroupInfo> {
        let mut from = Reader::new(self.groups);
        (0..self.groups.len() / GROUP_INFO_BYTES).map_while(move |_| read_group(&mut from).ok())
    }
}

fn read_node<'a>(from: &mut Reader<'a>) -> Result<NodeInfo<'a>, FrameError> {
    let node = NodeId::new(from.u16()?);
    let client_base_port = from.u16()?;
    let host_bytes = usize::from(from.u16()?);
    if host_bytes > HOST_BYTES_MAX {
        return Err(from.error());
    }
    Ok(NodeInfo { node, host: from.text(host_bytes)?, client_base_port })
}

fn read_group(from: &mut Reader<'_>) -> Result<GroupInfo, FrameError> {
    let group = GroupId::new(from.u64()?);
    let term = Term::new(from.u64()?);
    let leader = from.u16()?;
    from.reserved(6)?;
    Ok(GroupInfo { group, term, leader: (leader != 0).then(|| NodeId::new(leader)) })
}

/// Appends the answer to a metadata request.
///
/// # Panics
/// If a host name is longer than 255 bytes, which no configuration lets through.
pub fn encode_metadata_reply<S: Sink>(to: &mut S, correlation: u64, reply: &MetadataReply<'_>) {
    encode_frame(to, address(Kind::MetadataReply, correlation, GroupId::new(0)), |to| {
        to.put_slice(&reply.cluster.get());
        to.put_u16_le(reply.shard.get());
        to.put_u16_le(reply.shard_count);
        to.put_u32_le(u32::try_from(reply.nodes.len()).expect("a handful"));
        to.put_u64_le(reply.group_count);
        to.put_u32_le(u32::try_from(reply.groups.len()).expect("GROUPS_MAX is far below"));
        to.put_u32_le(0);
        for node in reply.nodes {
            assert!(node.host.len() <= HOST_BYTES_MAX, "a host of {} bytes", node.host.len());
            to.put_u16_le(node.node.get());
            to.put_u16_le(node.client_base_port);
            to.put_u16_le(u16::try_from(node.host.len()).expect("checked above"));
            to.put_slice(node.host.as_bytes());
        }
        for group in reply.groups {
            to.put_u64_le(group.group.get());
            to.put_u64_le(group.term.get());
            to.put_u16_le(group.leader.map_or(0, NodeId::get));
            to.put_bytes(0, 6);
        }
    });
}

/// Lines of "key value", UTF-8, the body whole. Keys may come and go between versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusReply<'a> {
    /// The lines.
    pub text: &'a str,
}

impl<'a> StatusReply<'a> {
    fn decode(body: &'a [u8]) -> Result<Self, FrameError> {
        let mut from = Reader::new(body);
        Ok(Self { text: from.text(body.len())? })
    }

    /// The lines as pairs; a line without a space has an empty value.
    pub fn pairs(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.text.lines().map(|line| line.split_once(' ').unwrap_or((line, "")))
    }
}

/// Appends the answer to a status request.
pub fn encode_status_reply<S: Sink>(to: &mut S, correlation: u64, text: &str) {
    encode_frame(to, address(Kind::StatusReply, correlation, GroupId::new(0)), |to| {
        to.put_slice(text.as_bytes());
    });
}

fn address(kind: Kind, correlation: u64, group: GroupId) -> Address {
    Address { kind: kind.number(), correlation, group }
}
