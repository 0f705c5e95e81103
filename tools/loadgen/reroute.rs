//! What the engine does when links break and leaders move.
//!
//! All blocking work (dialling, asking who leads) is the helper's; its answers are taken between
//! two rounds of load. A frame of which not a byte left is simply sent elsewhere; one that left
//! without an answer is of unknown fate.

use std::time::Duration;

use crate::control::{Granted, Routes, Wish};
use crate::engine::{Engine, PAUSE_NOWHERE_NS, Work};
use crate::failure::{Exit, Failure};
use crate::flight::{Gate, Request};
use crate::link::Link;

/// A link that owes answers and says nothing for so long makes us ask who leads.
const SILENCE_NS: u64 = 1_000_000_000;

/// Pause between two tries to find out whether a group is led again.
const PAUSE_SHUT_NS: u64 = 10_000_000;

impl Engine {
    /// Opens `connections` links, spread over the endpoints that lead groups.
    pub(crate) fn open_links(&mut self, connections: usize) -> Result<(), Failure> {
        self.gather_groups();
        let lanes: Vec<usize> =
            (0..self.lanes.len()).filter(|at| !self.lanes[*at].groups.is_empty()).collect();
        self.links_per_lane = connections.div_ceil(lanes.len().max(1));
        for round in 0..self.links_per_lane {
            for endpoint in &lanes {
                if round > 0 && self.links.len() >= connections {
                    return Ok(());
                }
                let address = &self.topology.endpoints[*endpoint].address;
                let unreachable = |error| {
                    Failure::new(Exit::Environment, format!("cannot connect to {address}: {error}"))
                };
                let patience = Duration::from_secs(5);
                let dialogue = self.topology.dial(*endpoint, patience).map_err(unreachable)?;
                let link = Link::new(dialogue.into_stream(), *endpoint, 0).map_err(unreachable)?;
                self.add_link(link);
            }
        }
        Ok(())
    }

    fn add_link(&mut self, link: Link) {
        let at = self.links.iter().position(Option::is_none).unwrap_or(self.links.len());
        if at == self.links.len() {
            self.links.push(None);
        }
        if self.poll.add(&link, at).is_ok() {
            self.lanes[link.endpoint].links.push(at);
            self.links[at] = Some(link);
        }
    }

    /// Link `at` is gone. Its requests are in doubt unless they never left.
    pub(crate) fn lose(&mut self, at: usize) {
        let Some(link) = self.links[at].take() else { return };
        self.lanes[link.endpoint].links.retain(|other| *other != at);
        self.meter.error("links_lost", 1);
        let now_ns = self.now_ns();
        for flying in self.flight.crash(at) {
            if link.kept(flying.position) || matches!(self.work, Work::Read { .. }) {
                self.again.push(now_ns + PAUSE_NOWHERE_NS, flying.request);
            } else {
                self.unknown(flying.request, "connection_lost");
            }
        }
        self.wish_routes();
    }

    /// Every now and then: takes the helper's answers, opens missing links, notices silence.
    pub(crate) fn look_after_links(&mut self, now_ns: u64) {
        while let Some(granted) = self.helper.granted() {
            match granted {
                Granted::Dialled(endpoint, stream) => {
                    self.lanes[endpoint].dialling -= 1;
                    let link = stream.map(|stream| Link::new(stream, endpoint, now_ns));
                    match link {
                        Some(Ok(link)) => self.add_link(link),
                        Some(Err(_)) | None => self.wish_routes(),
                    }
                }
                Granted::Routes(routes) => self.take_routes(routes, now_ns),
            }
        }
        self.probe_gates(now_ns);
        let silent = |link: &Link| link.outstanding > 0 && link.heard_ns + SILENCE_NS < now_ns;
        if self.links.iter().flatten().any(silent) || self.routes.contains(&None) {
            self.wish_routes();
        }
        for endpoint in 0..self.lanes.len() {
            let lane = &mut self.lanes[endpoint];
            while !lane.groups.is_empty() && lane.links.len() + lane.dialling < self.links_per_lane
            {
                lane.dialling += 1;
                self.helper.wish(Wish::Dial(endpoint));
                if lane.links.is_empty() {
                    break; // One try at a time where nobody may be listening.
                }
            }
        }
    }

    /// Nobody takes this request at the moment: its group's requests wait.
    pub(crate) fn shut_gate(&mut self, request: Request, now_ns: u64) {
        self.parked += 1;
        self.gates[request.group as usize].shut(now_ns + PAUSE_SHUT_NS, request);
    }

    /// A request of `group` was answered: whatever waited may go.
    #[inline]
    pub(crate) fn open_gate(&mut self, group: u32, now_ns: u64) {
        if self.gates[group as usize].is_shut() {
            for request in self.gates[group as usize].open() {
                self.parked -= 1;
                self.again.push(now_ns, request);
            }
        }
    }

    /// Lets one request of each waiting group find out whether somebody leads it by now.
    fn probe_gates(&mut self, now_ns: u64) {
        if self.parked == 0 && !self.gates.iter().any(Gate::is_shut) {
            return;
        }
        for group in 0..self.gates.len() {
            let gate = &mut self.gates[group];
            let Some(request) = gate.probe(now_ns, now_ns + PAUSE_SHUT_NS) else { continue };
            self.parked -= 1;
            self.pass(request, now_ns);
        }
    }

    /// Asks who leads, unless that is being asked already.
    pub(crate) fn wish_routes(&mut self) {
        if !self.routes_wished {
            self.routes_wished = true;
            self.helper.wish(Wish::Routes);
        }
    }

    fn take_routes(&mut self, routes: Routes, now_ns: u64) {
        self.routes_wished = false;
        let mut changed = false;
        for (group, route) in routes.into_iter().enumerate() {
            // Nobody knowing a leader is no reason to forget the last one: it may only be that
            // nobody answered.
            if route.is_some() && self.routes[group] != route {
                self.routes[group] = route;
                changed = true;
                let group = u32::try_from(group).expect("GROUPS_MAX is small");
                self.open_gate(group, now_ns);
            }
        }
        if changed {
            self.gather_groups();
        }
        // A deposed leader that is frozen will not say so; its links are given up.
        for at in 0..self.links.len() {
            let frozen = self.links[at].as_ref().is_some_and(|link| {
                link.outstanding > 0
                    && link.heard_ns + SILENCE_NS < now_ns
                    && self.lanes[link.endpoint].groups.is_empty()
            });
            if frozen {
                self.lose(at);
            }
        }
    }

    /// Group `group` is led elsewhere, says a node that does not lead it any more.
    pub(crate) fn set_route(&mut self, group: usize, route: Option<usize>) {
        self.routes[group] = route;
        self.gather_groups();
    }

    fn gather_groups(&mut self) {
        for lane in &mut self.lanes {
            lane.groups.clear();
        }
        for (group, route) in (0..).zip(&self.routes) {
            if let Some(endpoint) = route {
                self.lanes[*endpoint].groups.push(group);
            }
        }
    }
}
