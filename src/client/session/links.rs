//! Connections: which exist, how they open, what their bytes mean.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;

use super::{Answer, LinkId, Node, Progress, RequestId, Session, SessionEffect};
use crate::base::Moment;
use crate::model::limits::FRAME_BYTES_MAX;
use crate::model::{ClusterId, NodeId, Outcome, ShardId};
use crate::wire::client::{Hello, HelloReply, MetadataView, Reply, encode_hello, encode_metadata};
use crate::wire::{Assembler, InFrame, PROTOCOL_VERSION};

/// Correlation id of what the session asks for itself; requests count from 1.
const OWN_CORRELATION: u64 = 0;

/// Where the connection to an endpoint stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkState {
    /// There is none.
    Down,
    /// The world is connecting.
    Connecting(LinkId),
    /// Connected; our hello is out.
    Greeting(LinkId),
    /// Requests may be sent.
    Ready(LinkId),
}

impl LinkState {
    fn link(self) -> Option<LinkId> {
        match self {
            Self::Down => None,
            Self::Connecting(link) | Self::Greeting(link) | Self::Ready(link) => Some(link),
        }
    }
}

/// One client port of one node. One per address.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) address: String,
    /// Who answers there: from the metadata, or from the hello reply at a seed address.
    identity: Option<(NodeId, ShardId)>,
    pub(super) state: LinkState,
    assembler: Assembler,
    /// Requests that will be sent here.
    pub(super) queue: VecDeque<RequestId>,
    /// Requests that were.
    pub(super) in_flight: BTreeSet<RequestId>,
    pub(super) in_flight_bytes: usize,
    budget_bytes: usize,
    requests_max: usize,
    /// Failures in a row.
    failures: u32,
    /// No attempt before this.
    retry_at: Moment,
    /// When something was last received.
    heard_at: Moment,
    pub(super) problem: Option<&'static str>,
}

impl Endpoint {
    pub(super) fn seed(address: String) -> Self {
        Self {
            address,
            identity: None,
            state: LinkState::Down,
            assembler: Assembler::new(FRAME_BYTES_MAX),
            queue: VecDeque::new(),
            in_flight: BTreeSet::new(),
            in_flight_bytes: 0,
            budget_bytes: 0,
            requests_max: 0,
            failures: 0,
            retry_at: Moment::ZERO,
            heard_at: Moment::ZERO,
            problem: None,
        }
    }

    /// Whether a request of so many bytes may be sent now.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.in_flight.is_empty()
            || (self.in_flight_bytes + bytes <= self.budget_bytes
                && self.in_flight.len() < self.requests_max)
    }

    /// `id` is no longer in flight here.
    pub(super) fn landed(&mut self, id: RequestId, bytes: usize) {
        if self.in_flight.remove(&id) {
            self.in_flight_bytes -= bytes;
        }
    }
}

impl Session {
    /// `link` is connected.
    pub fn on_link_up(&mut self, now: Moment, link: LinkId) {
        let Some(endpoint) = self.links.get(&link).copied() else { return };
        let at = &mut self.endpoints[endpoint];
        assert_eq!(at.state, LinkState::Connecting(link), "a link comes up once");
        at.state = LinkState::Greeting(link);
        at.assembler = Assembler::new(FRAME_BYTES_MAX);
        at.heard_at = now;
        let cluster = self.cluster.unwrap_or(self.options.cluster);
        let mut frames = Vec::new();
        encode_hello(&mut frames, OWN_CORRELATION, &Hello::new(cluster, &self.options.name));
        // Asked on every link: each shard knows the leaders of its own groups.
        encode_metadata(&mut frames, OWN_CORRELATION);
        self.effects.push(SessionEffect::Send { link, bytes: Bytes::from(frames) });
    }

    /// `link` could not be connected, or is gone with everything that was not received.
    pub fn on_link_down(&mut self, now: Moment, link: LinkId) {
        self.drop_link(now, link, "connection failed or lost");
    }

    /// `bytes` came from `link`, cut anywhere.
    pub fn on_bytes(&mut self, now: Moment, link: LinkId, bytes: Bytes) {
        let Some(endpoint) = self.links.get(&link).copied() else { return };
        self.endpoints[endpoint].heard_at = now;
        self.endpoints[endpoint].assembler.push(bytes);
        while let Some(frame) = self.endpoints[endpoint].assembler.next() {
            let verdict = match frame {
                Ok(frame) => self.on_frame(now, endpoint, frame),
                // A node that skips to another version in the middle of a stream is as broken as
                // one that sends garbage.
                Err(error) => Err(error.reason()),
            };
            if let Err(reason) = verdict {
                self.effects.push(SessionEffect::Close { link, reason });
                self.drop_link(now, link, reason);
                return;
            }
        }
        self.flush(endpoint);
    }

    fn on_frame(
        &mut self,
        now: Moment,
        endpoint: usize,
        frame: InFrame,
    ) -> Result<(), &'static str> {
        let reply = Reply::decode(&frame.header, frame.body()).map_err(|error| error.reason())?;
        let id = RequestId(frame.header.correlation);
        let node = self.endpoints[endpoint].identity.map(|(node, _)| node);
        let outcome = match reply {
            Reply::Hello(hello) => return self.on_hello(now, endpoint, &hello),
            Reply::Metadata(metadata) => return self.on_metadata(now, endpoint, &metadata),
            Reply::Status(_) => return Ok(()),
            Reply::Error(_) if frame.header.correlation == OWN_CORRELATION => {
                return match self.endpoints[endpoint].state {
                    // Our metadata was refused. Without any we would wait for it for ever, and with
                    // some the hints of refusals lead on.
                    LinkState::Ready(_) if self.nodes.is_empty() => {
                        Err("the node is too busy to name the others")
                    }
                    LinkState::Ready(_) => Ok(()),
                    LinkState::Down | LinkState::Connecting(_) | LinkState::Greeting(_) => {
                        Err("the node refused our hello")
                    }
                };
            }
            Reply::Append(reply) => Outcome::Done(Answer::Append(reply)),
            Reply::Read(_) => Outcome::Done(Answer::Read(frame)),
            Reply::Error(error) => error.outcome(),
        };
        let Some(request) = self.requests.get(&id) else { return Ok(()) };
        let at = &mut self.endpoints[endpoint];
        if at.state.link().map(Progress::Sent) != Some(request.progress) {
            // The answer to an attempt that was given up.
            return Ok(());
        }
        at.landed(id, request.frame.len());
        match outcome {
            Outcome::NotDone(refusal) => self.on_refusal(now, id, node, refusal),
            Outcome::Done(_) | Outcome::Unknown(_) => self.finish(id, outcome),
        }
        Ok(())
    }

    fn on_hello(
        &mut self,
        now: Moment,
        endpoint: usize,
        hello: &HelloReply,
    ) -> Result<(), &'static str> {
        let LinkState::Greeting(link) = self.endpoints[endpoint].state else {
            return Err("a hello reply without a hello");
        };
        if hello.version != PROTOCOL_VERSION {
            return Err("the node chose a protocol version that we do not speak");
        }
        let wanted = self.cluster.unwrap_or(self.options.cluster);
        if wanted != ClusterId::default() && wanted != hello.cluster {
            return Err("the node belongs to another cluster");
        }
        if self.shard_count != 0 && self.shard_count != hello.shard_count {
            return Err("the node has another number of shards");
        }
        let identity = (hello.node, hello.shard);
        let at = &mut self.endpoints[endpoint];
        if at.identity.is_some_and(|known| known != identity) {
            return Err("another node or shard answers at this address");
        }
        at.identity = Some(identity);
        at.state = LinkState::Ready(link);
        at.failures = 0;
        at.problem = None;
        at.budget_bytes = usize::try_from(hello.limits.budget_bytes).unwrap_or(usize::MAX);
        at.requests_max = hello.limits.requests_max as usize;
        self.cluster = Some(hello.cluster);
        self.shard_count = hello.shard_count;
        self.connect_what_is_wanted(now);
        Ok(())
    }

    fn on_metadata(
        &mut self,
        now: Moment,
        endpoint: usize,
        metadata: &MetadataView<'_>,
    ) -> Result<(), &'static str> {
        if !matches!(self.endpoints[endpoint].state, LinkState::Ready(_)) {
            return Err("metadata before the hello reply");
        }
        let nodes: Vec<Node> = metadata.nodes().map(Node::from).collect();
        if nodes.is_empty() {
            return Err("metadata without nodes");
        }
        self.nodes = nodes;
        for group in metadata.groups() {
            if let Some(leader) = group.leader {
                self.leaders.insert(group.group, leader);
            }
        }
        self.route_unrouted(now);
        Ok(())
    }

    /// Forgets a link and sends its requests their ways.
    fn drop_link(&mut self, now: Moment, link: LinkId, reason: &'static str) {
        let Some(endpoint) = self.links.remove(&link) else { return };
        let pause = self.endpoints[endpoint].failures + 1;
        let pause = self.backoff(pause);
        let at = &mut self.endpoints[endpoint];
        at.state = LinkState::Down;
        at.assembler = Assembler::new(FRAME_BYTES_MAX);
        at.failures += 1;
        at.retry_at = now.after(pause);
        at.problem = Some(reason);
        at.in_flight_bytes = 0;
        let node = at.identity.map(|(node, _)| node);
        let sent = core::mem::take(&mut at.in_flight);
        let queued = core::mem::take(&mut at.queue);
        for id in sent.into_iter().chain(queued) {
            self.on_lost(now, id, node);
        }
    }

    /// A request timed out on `link`. If nothing at all came since it was sent, the other end is
    /// probably gone without a word, and waiting for it again would cost each request its time.
    pub(super) fn close_if_silent(&mut self, now: Moment, link: LinkId, since: Moment) {
        let Some(endpoint) = self.links.get(&link).copied() else { return };
        if self.endpoints[endpoint].heard_at <= since {
            let reason = "nothing heard for a whole request timeout";
            self.effects.push(SessionEffect::Close { link, reason });
            self.drop_link(now, link, reason);
        }
    }

    /// Starts connecting wherever requests wait, and everywhere while the cluster is not found.
    pub(super) fn connect_what_is_wanted(&mut self, now: Moment) {
        let found = self.is_ready();
        for endpoint in 0..self.endpoints.len() {
            let at = &mut self.endpoints[endpoint];
            let wanted = !found || !at.queue.is_empty();
            if wanted && at.state == LinkState::Down && at.retry_at <= now {
                let link = LinkId(self.next_link);
                self.next_link += 1;
                at.state = LinkState::Connecting(link);
                let address = at.address.clone();
                self.links.insert(link, endpoint);
                self.effects.push(SessionEffect::Connect { link, address });
            }
        }
    }

    /// When the next such attempt is due.
    pub(super) fn next_connect(&self) -> Moment {
        let found = self.is_ready();
        self.endpoints
            .iter()
            .filter(|at| at.state == LinkState::Down && (!found || !at.queue.is_empty()))
            .map(|at| at.retry_at)
            .min()
            .unwrap_or(Moment::NEVER)
    }

    /// The endpoint of a shard of a known node; made if it is not there yet.
    pub(super) fn endpoint_of(&mut self, node: NodeId, shard: ShardId) -> usize {
        if let Some(i) = self.endpoints.iter().position(|at| at.identity == Some((node, shard))) {
            return i;
        }
        let known = self.nodes.iter().find(|n| n.node == node).expect("only known nodes are asked");
        let mut endpoint = Endpoint::seed(known.address(shard));
        endpoint.identity = Some((node, shard));
        self.endpoints.push(endpoint);
        self.endpoints.len() - 1
    }

    /// Some node other than `avoid` that may know more: at first one that is connected already,
    /// then each in turn, because those that are connected may all be cut off from the others.
    pub(super) fn some_node(
        &mut self,
        shard: ShardId,
        avoid: Option<NodeId>,
        connected: bool,
    ) -> NodeId {
        let connected = self.endpoints.iter().filter(|_| connected).find_map(|at| {
            let (node, of_shard) = at.identity?;
            let ready = matches!(at.state, LinkState::Ready(_));
            (ready && of_shard == shard && Some(node) != avoid).then_some(node)
        });
        if let Some(node) = connected.filter(|node| self.nodes.iter().any(|n| n.node == *node)) {
            return node;
        }
        for _ in 0..self.nodes.len() {
            self.cursor = (self.cursor + 1) % self.nodes.len();
            if Some(self.nodes[self.cursor].node) != avoid {
                break;
            }
        }
        self.nodes[self.cursor].node
    }
}
