//! One question on a connection of its own: status and metadata, for tools and people.
//!
//! Apart from the session because such a question is for one address and not for whoever leads,
//! and because a tool that asks a half-dead cluster wants to hear each node's own answer.

use core::fmt;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Instant;

use bytes::Bytes;

use super::{Options, RECEIVE_BYTES, connect};
use crate::client::Node;
use crate::model::limits::FRAME_BYTES_MAX;
use crate::model::{ClusterId, GroupId, NodeId, ShardId, Term};
use crate::wire::client::{GroupInfo, Hello, Reply, encode_hello, encode_metadata, encode_status};
use crate::wire::{Assembler, InFrame};

/// Who leads a group, as one node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupLeader {
    /// Which group.
    pub group: GroupId,
    /// The newest term known there.
    pub term: Term,
    /// Its leader, if known there.
    pub leader: Option<NodeId>,
}

/// What a cluster looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Its name.
    pub cluster: ClusterId,
    /// Shards of every node.
    pub shard_count: u16,
    /// How many groups there are, numbered from 1 on.
    pub group_count: u64,
    /// Every node.
    pub nodes: Vec<Node>,
    /// Every group of the shards that answered, by number.
    pub groups: Vec<GroupLeader>,
}

impl Metadata {
    /// The client address of `shard` on `node`, if there is such a node.
    pub fn address(&self, node: NodeId, shard: ShardId) -> Option<String> {
        self.nodes.iter().find(|n| n.node == node).map(|n| n.address(shard))
    }
}

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskError {
    /// Who was asked last.
    pub address: String,
    /// What went wrong.
    pub problem: String,
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.address, self.problem)
    }
}

impl std::error::Error for AskError {}

/// The status text of the shard that listens at `address`: lines of "key value".
///
/// # Errors
/// If it does not answer in time or refuses.
pub fn status(address: &str, options: &Options) -> Result<String, AskError> {
    let fail = |problem: String| AskError { address: address.to_string(), problem };
    let frame = ask(address, options, |to| encode_status(to, 1)).map_err(fail)?;
    match Reply::decode(&frame.header, frame.body()) {
        Ok(Reply::Status(status)) => Ok(status.text.to_string()),
        other => Err(fail(format!("unexpected answer: {other:?}"))),
    }
}

/// Metadata of every shard of the first node that answers: `nodes` if they are known, else
/// whoever listens at `addresses`.
pub(super) fn metadata(
    addresses: &[String],
    nodes: &[Node],
    options: &Options,
) -> Result<Metadata, AskError> {
    let known = nodes.iter().map(|node| node.address(ShardId::new(0)));
    let mut last =
        AskError { address: "no address".to_string(), problem: "nobody to ask".to_string() };
    for address in known.chain(addresses.iter().cloned()) {
        match metadata_of_node(&address, options) {
            Ok(metadata) => return Ok(metadata),
            Err(problem) => last = AskError { address, problem },
        }
    }
    Err(last)
}

fn metadata_of_node(address: &str, options: &Options) -> Result<Metadata, String> {
    let (mut metadata, node, first) = metadata_of_shard(address, options)?;
    for shard in (0..metadata.shard_count).map(ShardId::new).filter(|shard| *shard != first) {
        let address = metadata.address(node, shard).ok_or("a node that does not list itself")?;
        let (more, _, _) = metadata_of_shard(&address, options)?;
        metadata.groups.extend(more.groups);
    }
    metadata.groups.sort_by_key(|group| group.group);
    metadata.groups.dedup_by_key(|group| group.group);
    Ok(metadata)
}

/// One shard's view, and which node and shard it was.
fn metadata_of_shard(
    address: &str,
    options: &Options,
) -> Result<(Metadata, NodeId, ShardId), String> {
    let (node, frame) = ask_with_hello(address, options, |to| encode_metadata(to, 1))?;
    match Reply::decode(&frame.header, frame.body()) {
        Ok(Reply::Metadata(view)) => {
            let leader =
                |g: GroupInfo| GroupLeader { group: g.group, term: g.term, leader: g.leader };
            let metadata = Metadata {
                cluster: view.cluster,
                shard_count: view.shard_count,
                group_count: view.group_count,
                nodes: view.nodes().map(Node::from).collect(),
                groups: view.groups().map(leader).collect(),
            };
            Ok((metadata, node, view.shard))
        }
        other => Err(format!("unexpected answer: {other:?}")),
    }
}

fn ask(
    address: &str,
    options: &Options,
    question: impl FnOnce(&mut Vec<u8>),
) -> Result<InFrame, String> {
    ask_with_hello(address, options, question).map(|(_, frame)| frame)
}

/// Says hello and asks; returns who answered, and the answer.
fn ask_with_hello(
    address: &str,
    options: &Options,
    question: impl FnOnce(&mut Vec<u8>),
) -> Result<(NodeId, InFrame), String> {
    let deadline = Instant::now() + options.request_timeout;
    let mut stream =
        connect(address, options.connect_timeout).map_err(|error| error.to_string())?;
    let mut frames = Vec::new();
    encode_hello(&mut frames, 0, &Hello::new(options.cluster, &options.name));
    question(&mut frames);
    stream.write_all(&frames).map_err(|error| error.to_string())?;
    let mut assembler = Assembler::new(FRAME_BYTES_MAX);
    let first = receive(&mut stream, &mut assembler, deadline)?;
    let node = match Reply::decode(&first.header, first.body()) {
        Ok(Reply::Hello(hello)) => hello.node,
        Ok(Reply::Error(error)) => return Err(error.text.to_string()),
        other => return Err(format!("unexpected answer to hello: {other:?}")),
    };
    let answer = receive(&mut stream, &mut assembler, deadline)?;
    match Reply::decode(&answer.header, answer.body()) {
        Ok(Reply::Error(error)) => Err(error.text.to_string()),
        Ok(_) | Err(_) => Ok((node, answer)),
    }
}

fn receive(
    stream: &mut TcpStream,
    assembler: &mut Assembler,
    deadline: Instant,
) -> Result<InFrame, String> {
    let mut buffer = vec![0; RECEIVE_BYTES];
    loop {
        if let Some(frame) = assembler.next() {
            return frame.map_err(|error| error.to_string());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err("no answer in time".to_string());
        }
        stream.set_read_timeout(Some(left)).map_err(|error| error.to_string())?;
        match stream.read(&mut buffer) {
            Ok(0) => return Err("the connection was closed without an answer".to_string()),
            Ok(bytes) => assembler.push(Bytes::copy_from_slice(&buffer[..bytes])),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => (),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                return Err("no answer in time".to_string());
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}
