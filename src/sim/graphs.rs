//! Small worlds for one question: who can reach whom, and does the cluster live with it?
//!
//! A cluster with a leader at a given node is cut down to the links of a graph, directed ones
//! included. If a majority of the nodes can all talk to each other, it must serve again within a
//! few election timeouts and then stay calm: no election more, whatever the nodes outside of that
//! majority hear and say (partial partitions have kept clusters busy electing for hours). Without
//! such a majority it must only stay safe. When the links come back everything must be there.
//! Apart from `world` because nothing is drawn here but latencies. Does not: break devices.

use core::fmt;
use core::time::Duration;

use super::chaos::Chaos;
use super::plan::{Between, Plan};
use super::trace::Sink;
use super::verdict::{Check, Failure, fail};
use super::world::{Event, World};
use crate::base::Moment;
use crate::raft::Timing;

/// When every node but the first one starts: it asks for votes before they do.
const OTHERS_START: Duration = Duration::from_millis(149);
/// When the links are cut: long after the first leader was elected.
const CUT_AT: Duration = Duration::from_millis(700);
/// What was acknowledged so long after the cut was not on its way before it.
const ON_ITS_WAY: Duration = Duration::from_millis(50);
/// How many election timeouts a cluster has to serve again.
const TIMEOUTS: u32 = 5;
/// How long it must then stay calm.
const CALM: Duration = Duration::from_millis(900);
/// Worlds that may be drawn until the wanted node is the first to lead.
const ATTEMPTS: u64 = 50;

/// Who can reach whom.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Graph {
    nodes: usize,
    /// Bit `from * nodes + to`.
    links: u64,
}

impl Graph {
    /// Graph `number` of the directed ones: a bit for every ordered pair.
    pub fn directed(nodes: usize, number: u64) -> Self {
        let mut graph = Self { nodes, links: 0 };
        let pairs = (0..nodes).flat_map(|from| (0..nodes).map(move |to| (from, to)));
        for (bit, (from, to)) in pairs.filter(|(from, to)| from != to).enumerate() {
            graph.links |= (number >> bit & 1) << (from * nodes + to);
        }
        graph
    }

    /// Graph `number` of the undirected ones: a bit for every pair.
    pub fn undirected(nodes: usize, number: u64) -> Self {
        let mut graph = Self { nodes, links: 0 };
        let pairs = (0..nodes).flat_map(|from| (from + 1..nodes).map(move |to| (from, to)));
        for (bit, (from, to)) in pairs.enumerate() {
            let link = number >> bit & 1;
            graph.links |= link << (from * nodes + to) | link << (to * nodes + from);
        }
        graph
    }

    /// How many directed graphs there are.
    pub fn directed_count(nodes: usize) -> u64 {
        1 << (nodes * (nodes - 1))
    }

    /// How many undirected graphs there are.
    pub fn undirected_count(nodes: usize) -> u64 {
        1 << (nodes * (nodes - 1) / 2)
    }

    /// Whether `from` can send to `to`.
    pub fn has(&self, from: usize, to: usize) -> bool {
        self.links >> (from * self.nodes + to) & 1 == 1
    }

    /// Whether some majority of the nodes can all talk to each other.
    pub fn has_quorum_clique(&self) -> bool {
        let quorum = self.nodes / 2 + 1;
        (0_u64..1 << self.nodes).any(|set| {
            let inside = |node: usize| set >> node & 1 == 1;
            let members: Vec<usize> = (0..self.nodes).filter(|node| inside(*node)).collect();
            members.len() == quorum
                && members
                    .iter()
                    .all(|from| members.iter().all(|to| from == to || self.has(*from, *to)))
        })
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs = (0..self.nodes).flat_map(|from| (0..self.nodes).map(move |to| (from, to)));
        let links = pairs.filter(|(from, to)| self.has(*from, *to));
        f.debug_list()
            .entries(links.map(|(from, to)| format_args!("{from}>{to}").to_string()))
            .finish()
    }
}

/// What a graph's world did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GraphSummary {
    /// From the cut to the first append that was sent after it and acknowledged, rounded up to
    /// the next look. `None`: none was, and none had to be.
    pub served_after: Option<Duration>,
    /// Offices won between the cut and the end of the calm.
    pub elections: u64,
    /// The hash chain over everything that happened.
    pub hash: u64,
}

/// Lives through `graph` with the first leader at place `leader`.
///
/// # Errors
/// The first promise that was broken.
pub fn run_graph(graph: Graph, leader: usize, sink: Option<Sink>) -> Result<GraphSummary, Failure> {
    let mut sink = sink;
    for attempt in 0..ATTEMPTS {
        let seed = graph.links << 12 | attempt << 4 | leader as u64;
        let mut world = World::new(&plan(graph.nodes, seed), sink.take());
        world.begin(leader)?;
        if world.leaders() == [leader] {
            let result = world.live_with(graph);
            if let Err(failure) = &result {
                world.say_status();
                let now = world.queue.now();
                world.trace.say(now, format_args!("ends: {failure}"));
            }
            return result;
        }
        sink = world.trace.into_sink();
    }
    fail!(Liveness, "node {leader} never was the first to lead in {ATTEMPTS} worlds")
}

/// A quiet world with a few busy clients.
fn plan(nodes: usize, seed: u64) -> Plan {
    let mut plan = Plan::steady(seed, Duration::ZERO);
    plan.nodes = u16::try_from(nodes).expect("a handful of nodes");
    plan.geometry.block_bytes_max = 16 << 10;
    plan.geometry.in_flight_bytes_max = 64 << 10;
    plan.arena_extents = 24;
    plan.arena_extent_bytes = 64 << 10;
    plan.credit_bytes = 64 << 10;
    plan.net.delay = Between { low: Duration::from_micros(50), high: Duration::from_micros(400) };
    plan.net.reconnect = Between { low: Duration::from_millis(1), high: Duration::from_millis(5) };
    plan.chaos.crash = None;
    plan.chaos.cut = None;
    plan.load.clients = 3;
    plan.load.think = Between { low: Duration::from_millis(5), high: Duration::from_millis(20) };
    plan.load.patience = Duration::from_millis(150);
    plan
}

impl World {
    /// Elects somebody; most likely the node that started first.
    fn begin(&mut self, first: usize) -> Check {
        self.boot(first)?;
        for node in (0..self.nodes.len()).filter(|node| *node != first) {
            let starts = Chaos::Restart { node, boot: 0 };
            self.queue.after(OTHERS_START, Event::Chaos(starts));
        }
        for link in 0..self.net.links() {
            self.dial_later(link);
        }
        self.start_clients();
        self.run_until(Moment::ZERO.after(CUT_AT))
    }

    fn live_with(&mut self, graph: Graph) -> Result<GraphSummary, Failure> {
        let before = self.summary.elections;
        self.cut_to(graph);
        let cut = self.queue.now();
        self.run_until(cut.after(ON_ITS_WAY))?;
        let acked = self.summary.appends_done;
        let deadline = cut.after(Timing::default().election_max * TIMEOUTS);
        let mut served_after = None;
        while self.queue.now() < deadline {
            self.run_until(self.queue.now().after(ON_ITS_WAY))?;
            if served_after.is_none() && acked < self.summary.appends_done {
                served_after = Some(self.queue.now().since(cut));
            }
        }
        if graph.has_quorum_clique() {
            if served_after.is_none() {
                fail!(Liveness, "{graph:?}: nothing was acknowledged within {TIMEOUTS} timeouts");
            }
            self.stays_calm(graph)?;
        }
        let elections = self.summary.elections - before;
        self.heal()?;
        self.audit_all()?;
        Ok(GraphSummary { served_after, elections, hash: self.trace.hash() })
    }

    /// No office changes hands any more, and the cluster goes on serving.
    fn stays_calm(&mut self, graph: Graph) -> Check {
        let (elections, acked) = (self.summary.elections, self.summary.appends_done);
        self.run_until(self.queue.now().after(CALM))?;
        let more = self.summary.elections - elections;
        if more > 0 {
            fail!(Liveness, "{graph:?}: {more} elections after it served again");
        }
        if self.summary.appends_done == acked {
            fail!(Liveness, "{graph:?}: nothing was acknowledged in {CALM:?} of calm");
        }
        Ok(())
    }

    /// Leaves only the graph's links. Every second one that goes is reset on top, as by a timeout.
    fn cut_to(&mut self, graph: Graph) {
        let mut links = super::chaos::CutLinks::new();
        for from in 0..graph.nodes {
            for to in (0..graph.nodes).filter(|to| *to != from && !graph.has(from, *to)) {
                self.net.cut(from, to, true);
                links.push((from, to));
            }
        }
        for (number, (from, to)) in links.iter().enumerate() {
            for link in self.net.links_of(*from) {
                if number % 2 == 1 && self.net.link(link).nodes.contains(to) {
                    self.reset(link);
                }
            }
        }
        self.cuts.push(links);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cliques_are_found() {
        let all = Graph::directed(3, Graph::directed_count(3) - 1);
        assert!(all.has_quorum_clique());
        let with: Vec<u64> = (0..Graph::directed_count(3))
            .filter(|number| Graph::directed(3, *number).has_quorum_clique())
            .collect();
        // Three pairs, each of which has both links in a quarter of all graphs: 1 - (3/4)^3.
        assert_eq!(with.len(), 64 - 27);
        assert!(!Graph::undirected(5, 0).has_quorum_clique());
        // A star: its centre reaches everybody, nobody else anybody.
        let star = (0..Graph::undirected_count(5))
            .map(|number| Graph::undirected(5, number))
            .find(|graph| (1..5).all(|to| graph.has(0, to)) && graph.links.count_ones() == 8);
        assert!(!star.expect("there is one").has_quorum_clique());
    }
}
