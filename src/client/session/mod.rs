//! The client's brain: who leads, what is in flight, what an answer means. Pure.
//!
//! One [`Session`] per client. Its world calls `on_*` with what happened and then carries out
//! [`Session::take_effects`]. This file holds the types and what callers do; `links` holds
//! connections and what comes out of them, `routing` the way of one request.
//!
//! The outcome rules, in one place:
//!
//! ```text
//! reply                                    Done
//! NotLeader, Busy, Unavailable             sent again, bounded by attempts and deadline (safe:
//!                                          such a refusal says that nothing happened)
//! any other refusal                        NotDone
//! any doubt in a reply                     Unknown
//! deadline, request handed to a socket     Unknown(TimedOut)       append
//! connection lost, handed to a socket      Unknown(ConnectionLost) append; a read is sent again
//! deadline, never handed to a socket       NotDone(TimedOut)
//! ```

mod links;
mod routing;

use core::fmt;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use self::links::Endpoint;
use crate::base::{Moment, Prng};
use crate::model::{ClusterId, GroupId, LogIndex, NodeId, Outcome, Refusal, ShardId};
use crate::wire::InFrame;
use crate::wire::client::{
    AppendReply, NodeInfo, Read, append_frame_bytes, encode_append, encode_read,
};

/// One connection attempt of one session and the connection that came of it. Never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// One request of one session; also its correlation id on the wire. Never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// How a session behaves.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// The cluster to talk to; all zero takes the first one that answers.
    pub cluster: ClusterId,
    /// What the client calls itself in the nodes' logs.
    pub name: String,
    /// How long a request may take, all attempts together.
    pub request_timeout: Duration,
    /// Pause before the second attempt to do anything; doubles with each further one.
    pub backoff_min: Duration,
    /// The longest such pause.
    pub backoff_max: Duration,
    /// How often one request is sent at most.
    pub attempts_max: u32,
    /// Bytes of requests without an outcome; beyond it [`Session::append`] answers `Full`.
    pub buffer_bytes: usize,
    /// Decides the jitter of the pauses.
    pub seed: u64,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            cluster: ClusterId::default(),
            name: String::from("catamaran-client"),
            request_timeout: Duration::from_secs(10),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(1),
            attempts_max: 64,
            buffer_bytes: 8 << 20,
            seed: 1,
        }
    }
}

/// One node, as the cluster describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its number.
    pub node: NodeId,
    /// Host name or address.
    pub host: String,
    /// Client port of its shard 0.
    pub client_base_port: u16,
}

impl Node {
    /// Its client address for `shard`, as "host:port".
    pub fn address(&self, shard: ShardId) -> String {
        let port = u32::from(self.client_base_port) + u32::from(shard.get());
        // An IPv6 address needs brackets before a port.
        if self.host.contains(':') && !self.host.starts_with('[') {
            format!("[{}]:{port}", self.host)
        } else {
            format!("{}:{port}", self.host)
        }
    }
}

impl From<NodeInfo<'_>> for Node {
    fn from(info: NodeInfo<'_>) -> Self {
        let NodeInfo { node, host, client_base_port } = info;
        Self { node, host: host.to_string(), client_base_port }
    }
}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubmitError {
    /// The buffer is full: wait for an outcome and try again.
    Full,
    /// No node would take it, whatever the time.
    Refused(Refusal),
}

impl fmt::Display for SubmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("too many bytes of requests have no outcome yet"),
            Self::Refused(refusal) => write!(f, "{refusal}"),
        }
    }
}

/// What a request was answered with.
#[derive(Clone, Debug)]
pub enum Answer {
    /// An append's.
    Append(AppendReply),
    /// A read's, for [`super::ReadBatch::decode`].
    Read(InFrame),
}

/// What a session wants from its world, in this order.
#[derive(Clone, Debug)]
pub enum SessionEffect {
    /// Connect to `address` ("host:port"); then [`Session::on_link_up`] or
    /// [`Session::on_link_down`].
    Connect {
        /// The attempt's name.
        link: LinkId,
        /// Where to.
        address: String,
    },
    /// Send on a link that is up. From here on the request counts as sent.
    Send {
        /// On which link.
        link: LinkId,
        /// What.
        bytes: Bytes,
    },
    /// Close a link. Nothing more may come from it.
    Close {
        /// Which.
        link: LinkId,
        /// Why, for a log.
        reason: &'static str,
    },
    /// A request has its outcome. Each request has exactly one.
    Finished {
        /// Which.
        request: RequestId,
        /// How it ended.
        outcome: Outcome<Answer>,
    },
}

/// What a request is, for the outcome rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequestKind {
    Append,
    Read,
}

/// Where a request is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// In the queue of an endpoint, or waiting for the first metadata.
    Queued,
    /// In `Session::waiting` for its next attempt at this time.
    Waiting(Moment),
    /// Handed to this link.
    Sent(LinkId),
}

#[derive(Debug)]
struct Request {
    group: GroupId,
    kind: RequestKind,
    frame: Bytes,
    progress: Progress,
    attempts: u32,
    submitted: Moment,
    /// Why the last attempt failed: the outcome when there is no further one.
    last_refusal: Refusal,
    /// Which node gave it; somebody else is asked next while no leader is known.
    refused_by: Option<NodeId>,
}

/// A client's state. See the module's text.
#[derive(Debug)]
pub struct Session {
    options: SessionOptions,
    prng: Prng,
    effects: Vec<SessionEffect>,
    endpoints: Vec<Endpoint>,
    /// The endpoint of each connection attempt that is not over.
    links: BTreeMap<LinkId, usize>,
    next_link: u64,
    next_request: u64,
    cluster: Option<ClusterId>,
    shard_count: u16,
    nodes: Vec<Node>,
    leaders: BTreeMap<GroupId, NodeId>,
    /// By age, since ids count up; and all have the same timeout, so by deadline too.
    requests: BTreeMap<RequestId, Request>,
    /// Requests that came before the first metadata.
    unrouted: VecDeque<RequestId>,
    /// Requests that wait for their next attempt, by its time.
    waiting: BTreeSet<(Moment, RequestId)>,
    buffered_bytes: usize,
    /// Where the search for some node starts.
    cursor: usize,
}

impl Session {
    /// A session that will look for its cluster at `addresses` ("host:port", any client port of
    /// any node). It starts connecting with the first [`Session::on_tick`].
    pub fn new(addresses: &[String], options: SessionOptions) -> Self {
        assert!(options.attempts_max > 0, "a request is sent at least once");
        Self {
            prng: Prng::new(options.seed),
            effects: Vec::new(),
            endpoints: addresses.iter().cloned().map(Endpoint::seed).collect(),
            links: BTreeMap::new(),
            next_link: 1,
            next_request: 1,
            cluster: None,
            shard_count: 0,
            nodes: Vec::new(),
            leaders: BTreeMap::new(),
            requests: BTreeMap::new(),
            unrouted: VecDeque::new(),
            waiting: BTreeSet::new(),
            buffered_bytes: 0,
            cursor: 0,
            options,
        }
    }

    /// Whether the cluster has answered and requests can be routed.
    pub fn is_ready(&self) -> bool {
        !self.nodes.is_empty()
    }

    /// The cluster, once known.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster
    }

    /// Shards of every node; 0 while nobody has answered.
    pub fn shard_count(&self) -> u16 {
        self.shard_count
    }

    /// The nodes, once known.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Who leads `group`, as far as this session knows.
    pub fn leader(&self, group: GroupId) -> Option<NodeId> {
        self.leaders.get(&group).copied()
    }

    /// Requests without an outcome.
    pub fn pending(&self) -> usize {
        self.requests.len()
    }

    /// What went wrong with each address that does not work, for people.
    pub fn problems(&self) -> impl Iterator<Item = (&str, &'static str)> {
        self.endpoints.iter().filter_map(|e| Some((&e.address[..], e.problem?)))
    }

    /// Takes an append of `records`, all or none, to `group`.
    ///
    /// # Errors
    /// If the buffer is full or no node would take it.
    pub fn append<R: AsRef<[u8]>>(
        &mut self,
        now: Moment,
        group: GroupId,
        expected_tail: Option<LogIndex>,
        records: &[R],
    ) -> Result<RequestId, SubmitError> {
        let bytes = append_frame_bytes(expected_tail, records).map_err(SubmitError::Refused)?;
        self.check_room(bytes)?;
        let mut frame = Vec::with_capacity(bytes);
        encode_append(&mut frame, self.next_request, group, expected_tail, records);
        Ok(self.submit(now, group, RequestKind::Append, Bytes::from(frame)))
    }

    /// Takes a read.
    ///
    /// # Errors
    /// If the buffer is full or no node would take it.
    pub fn read(
        &mut self,
        now: Moment,
        group: GroupId,
        read: &Read,
    ) -> Result<RequestId, SubmitError> {
        if read.from == LogIndex::BEFORE_FIRST {
            return Err(SubmitError::Refused(Refusal::Malformed));
        }
        self.check_room(0)?;
        let mut frame = Vec::new();
        encode_read(&mut frame, self.next_request, group, read);
        Ok(self.submit(now, group, RequestKind::Read, Bytes::from(frame)))
    }

    /// One request may always be there, however large; the next ones must fit.
    fn check_room(&self, bytes: usize) -> Result<(), SubmitError> {
        let full = self.buffered_bytes + bytes > self.options.buffer_bytes;
        if full && self.buffered_bytes > 0 { Err(SubmitError::Full) } else { Ok(()) }
    }

    fn submit(
        &mut self,
        now: Moment,
        group: GroupId,
        kind: RequestKind,
        frame: Bytes,
    ) -> RequestId {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        self.buffered_bytes += frame.len();
        let request = Request {
            group,
            kind,
            frame,
            progress: Progress::Queued,
            attempts: 0,
            submitted: now,
            last_refusal: Refusal::TimedOut,
            refused_by: None,
        };
        self.requests.insert(id, request);
        self.route(now, id);
        id
    }

    /// Moves the wishes since the last call into `to`, behind what is there.
    pub fn take_effects(&mut self, to: &mut Vec<SessionEffect>) {
        to.append(&mut self.effects);
    }

    /// Ends every request: what was sent is Unknown, the rest NotDone. For closing.
    pub fn shut_down(&mut self) {
        let links: Vec<LinkId> = self.links.keys().copied().collect();
        for link in links {
            self.effects.push(SessionEffect::Close { link, reason: "the client is closed" });
        }
        self.links.clear();
        let requests: Vec<RequestId> = self.requests.keys().copied().collect();
        for id in requests {
            self.give_up(id, Refusal::Unavailable, crate::model::Doubt::ConnectionLost);
        }
    }
}

#[cfg(test)]
mod tests;
