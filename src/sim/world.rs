//! The world: one queue of events, one seed, and everything that lives in it.
//!
//! Apart from the parts it moves: here is only what an event is, who handles it, and how a run
//! goes from its seed to its verdict. `node` boots and crashes, `act` carries out what shards ask
//! for, `links` and `conns` move bytes, `clients` make requests, `chaos` breaks things, `audit`
//! looks at what is left. Does not: decide anything that a shard decides.

use core::time::Duration;

use super::audit::Audit;
use super::chaos::{Chaos, CutLinks};
use super::checker::Checker;
use super::clients::Client;
use super::conns::Conns;
use super::elections::Elections;
use super::net::Net;
use super::node::Node;
use super::plan::Plan;
use super::plots::Plot;
use super::queue::Queue;
use super::sessions::SessionClient;
use super::trace::{Sink, Trace};
use super::verdict::{Failure, Summary, Tally};
use crate::base::{Moment, Prng};
use crate::model::{GroupId, NodeId, StreamId, WriteSeq};
use crate::shard::{Lane, ReadSeq};
use crate::wal::SegmentNo;

/// One run of one shard of one node. Events that were meant for an earlier run find nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct At {
    /// Place of the node, from 0.
    pub(super) node: usize,
    /// Its shard, from 0.
    pub(super) shard: usize,
    /// Which run of the process.
    pub(super) boot: u64,
}

/// What can happen.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    /// A shard hears that time has passed.
    Tick(At),
    /// A shard takes its inputs.
    Turn(At),
    /// A device ended a write, well or badly.
    WriteEnds(At, WriteSeq, bool),
    /// A device ended a read, well or badly.
    ReadEnds(At, ReadSeq, bool),
    /// A segment file is made, or there is no room.
    SegmentMade(At, SegmentNo, bool),
    /// A node dials the other end of a link.
    Connect { link: usize, epoch: u64 },
    /// An end of a link learns that its stream is up.
    StreamUp { link: usize, side: usize, epoch: u64 },
    /// An end of a link learns that its stream is gone.
    StreamDown { at: At, peer: NodeId, lane: Lane, stream: StreamId },
    /// Something arrives from `side` of a link at the other one.
    Deliver { link: usize, side: usize, epoch: u64 },
    /// A client's connection reaches its node.
    ConnOpens(u64),
    /// Something arrives at a node or at a client.
    ConnDelivers { conn: u64, to_node: bool },
    /// A client learns that its connection is gone.
    ConnEnds(u64),
    /// A client's slot has thought and makes a request.
    Wake { client: usize, slot: usize },
    /// A client's slot has waited long enough for its reply.
    Patience { client: usize, slot: usize, serial: u64 },
    /// A slot of a session makes a request.
    SessionWake { session: usize, slot: usize },
    /// A session hears that time has passed.
    SessionTick(usize),
    /// A large fault begins or ends.
    Chaos(Chaos),
}

/// Generators for the parts, so that one more draw here changes nothing there.
pub(super) struct Prngs {
    pub(super) turn: Prng,
    pub(super) disk: Prng,
    pub(super) net: Prng,
    pub(super) chaos: Prng,
    pub(super) shard: Prng,
}

/// Everything. One per run.
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) queue: Queue<Event>,
    pub(super) trace: Trace,
    pub(super) prng: Prngs,
    pub(super) nodes: Vec<Node>,
    pub(super) net: Net,
    pub(super) conns: Conns,
    pub(super) clients: Vec<Client>,
    pub(super) sessions: Vec<SessionClient>,
    pub(super) checker: Checker,
    pub(super) elections: Elections,
    pub(super) audit: Audit,
    pub(super) tally: Tally,
    pub(super) summary: Summary,
    /// Requests that clients may still begin.
    pub(super) requests_left: u64,
    /// What each cut so far still stops.
    pub(super) cuts: Vec<CutLinks>,
    /// The plot that is under way.
    pub(super) plot: Option<Plot>,
    /// When each node last began to lead group 1.
    pub(super) led_since: Vec<Moment>,
    /// Faults are made; afterwards the world only heals.
    pub(super) chaotic: bool,
    /// Nothing happens after so many events.
    stop_at: u64,
}

/// How long the healed world may take from one step of the audit to the next (rules 4.3): a probe
/// acknowledged, a page read, a replica's commit moved.
const STEP_WITHIN: Duration = Duration::from_secs(30);
/// How long all of it may take. A long log that is read in pages over a slow network takes a minute.
const HEALED_WITHIN: Duration = Duration::from_secs(200);
/// How often the audit looks whether it is done.
const AUDIT_EVERY: Duration = Duration::from_millis(100);
/// More events than any sane run has: something chases its own tail.
const EVENTS_MAX: u64 = 20_000_000;

/// Lives through `plan`. `sink` gets a line for everything that happens.
///
/// # Errors
/// The first promise that was broken.
pub fn run(plan: &Plan, sink: Option<Sink>) -> Result<Summary, Failure> {
    run_to(plan, sink, u64::MAX)
}

/// Lives through the first `stop_at` events of `plan`, without an audit if that is not all.
///
/// # Errors
/// The first promise that was broken.
pub fn run_to(plan: &Plan, sink: Option<Sink>, stop_at: u64) -> Result<Summary, Failure> {
    let mut world = World::new(plan, sink);
    world.stop_at = stop_at;
    let result = world.live();
    let at = world.queue.now();
    if result.is_err() {
        world.say_status();
    }
    world.trace.say(at, format_args!("ends: {result:?}"));
    result.map_err(|failure| Failure {
        event: world.trace.events(),
        at: at.since(Moment::ZERO),
        ..failure
    })?;
    Ok(world.sum_up())
}

impl World {
    pub(super) fn new(plan: &Plan, sink: Option<Sink>) -> Self {
        let mut root = Prng::new(plan.root);
        let prng = Prngs {
            turn: root.fork(),
            disk: root.fork(),
            net: root.fork(),
            chaos: root.fork(),
            shard: root.fork(),
        };
        let (nodes, shards) = (usize::from(plan.nodes), usize::from(plan.shards));
        let mut clients: Vec<Client> =
            (0..plan.load.clients).map(|id| Client::new(id, plan, root.fork())).collect();
        clients.push(Self::auditor(plan, root.fork()));
        let nodes_made = (0..nodes).map(|at| Node::new(at, plan, &mut root)).collect();
        let sessions =
            (0..plan.load.sessions).map(|at| SessionClient::new(at, plan, root.fork())).collect();
        Self {
            queue: Queue::new(),
            trace: Trace::new(sink),
            nodes: nodes_made,
            sessions,
            net: Net::new(nodes, shards),
            conns: Conns::default(),
            clients,
            requests_left: plan.load.requests,
            cuts: Vec::new(),
            plot: None,
            led_since: vec![Moment::ZERO; nodes],
            checker: Checker::new(plan.groups, plan.nodes),
            elections: Elections::default(),
            audit: Audit::new(plan.groups),
            tally: Tally::default(),
            summary: Summary { seed: plan.seed, ..Summary::default() },
            chaotic: true,
            stop_at: u64::MAX,
            prng,
            plan: *plan,
        }
    }

    /// The whole run: all faults, then healing, then the audit.
    fn live(&mut self) -> Result<(), Failure> {
        for node in 0..self.nodes.len() {
            self.boot(node)?;
        }
        for link in 0..self.net.links() {
            self.dial_later(link);
        }
        self.start_clients();
        self.start_sessions();
        self.start_chaos();
        let calm = Moment::ZERO.after(self.plan.chaos.lasts);
        self.run_until(calm)?;
        if self.is_stopped() {
            return Ok(());
        }
        self.heal()?;
        self.audit_all()?;
        if self.is_stopped() {
            return Ok(());
        }
        self.rests()?;
        self.checker.check_histories()
    }

    /// The healed world must answer everything and agree in time.
    pub(super) fn audit_all(&mut self) -> Result<(), Failure> {
        let calm = self.queue.now();
        let deadline = calm.after(HEALED_WITHIN);
        let mut last_step = (self.audit_steps(), calm.after(STEP_WITHIN));
        while !self.is_stopped() && !self.audited()? {
            let now = self.queue.now();
            let steps = self.audit_steps();
            if steps != last_step.0 {
                last_step = (steps, now.after(STEP_WITHIN));
            }
            if deadline.min(last_step.1) <= now {
                return Err(self.not_live());
            }
            self.run_until(self.queue.now().after(AUDIT_EVERY))?;
        }
        Ok(())
    }

    pub(super) fn run_until(&mut self, end: Moment) -> Result<(), Failure> {
        while !self.is_stopped()
            && let Some(event) = self.queue.next(end)
        {
            self.handle(event)?;
            assert!(self.trace.events() < EVENTS_MAX, "the world does not come to rest");
        }
        Ok(())
    }

    fn is_stopped(&self) -> bool {
        self.stop_at <= self.trace.events()
    }

    fn handle(&mut self, event: Event) -> Result<(), Failure> {
        match event {
            Event::Tick(at) => self.on_tick(at),
            Event::Turn(at) => self.on_turn(at)?,
            Event::WriteEnds(at, write, well) => self.on_write_ends(at, write, well)?,
            Event::ReadEnds(at, read, well) => self.on_read_ends(at, read, well),
            Event::SegmentMade(at, segment, well) => self.on_segment_made(at, segment, well),
            Event::Connect { link, epoch } => self.on_connect(link, epoch)?,
            Event::StreamUp { link, side, epoch } => self.on_stream_up(link, side, epoch),
            Event::StreamDown { at, peer, lane, stream } => {
                self.on_stream_down(at, peer, lane, stream);
            }
            Event::Deliver { link, side, epoch } => self.on_deliver(link, side, epoch),
            Event::ConnOpens(conn) => self.on_conn_opens(conn)?,
            Event::ConnDelivers { conn, to_node: true } => self.on_conn_delivers_to_node(conn),
            Event::ConnDelivers { conn, to_node: false } => {
                self.on_conn_delivers_to_client(conn)?;
            }
            Event::ConnEnds(conn) => self.on_conn_ends(conn)?,
            Event::Wake { client, slot } => self.on_wake(client, slot)?,
            Event::Patience { client, slot, serial } => self.on_patience(client, slot, serial),
            Event::SessionWake { session, slot } => self.on_session_wake(session, slot)?,
            Event::SessionTick(session) => self.on_session_tick(session)?,
            Event::Chaos(chaos) => self.on_chaos(chaos)?,
        }
        Ok(())
    }

    /// Prints what every shard says of itself, for whoever looks for the reason of a failure.
    pub(super) fn say_status(&mut self) {
        if !self.trace.is_read() {
            return;
        }
        let now = self.queue.now();
        for node in 0..self.nodes.len() {
            for shard in 0..usize::from(self.plan.shards) {
                let Some(live) = self.nodes[node].live(shard) else { continue };
                let (free, all) = (live.arena.free_extents(), live.arena.extents());
                let status = live.shard.status_text();
                let line =
                    format_args!("node {node} shard {shard}: {free} of {all} free\n{status}");
                self.trace.say(now, line);
            }
        }
    }

    fn sum_up(mut self) -> Summary {
        for core in self.nodes.iter().flat_map(|node| &node.cores) {
            if let Some(counters) = core.counters() {
                self.summary.count(counters);
            }
        }
        self.summary.hash = self.trace.hash();
        self.summary.events = self.trace.events();
        self.summary.simulated = self.queue.now().since(Moment::ZERO);
        self.summary.faults = self.tally;
        self.summary
    }

    /// Notes something in the trace at the present time.
    pub(super) fn note(&mut self, what: &'static str, facts: &[u64]) {
        self.trace.note(self.queue.now(), what, facts);
    }

    /// The shard that has a group, the same on every node.
    pub(super) fn shard_of(&self, group: GroupId) -> usize {
        usize::from(crate::wire::client::shard_of(group, self.plan.shards).get())
    }
}

/// The id of the node at a place.
pub(super) fn node_id(at: usize) -> NodeId {
    NodeId::new(u16::try_from(at + 1).expect("a handful of nodes"))
}

/// The place of a node.
pub(super) fn place(node: NodeId) -> usize {
    usize::from(node.get()).checked_sub(1).expect("node 0 is nobody")
}
