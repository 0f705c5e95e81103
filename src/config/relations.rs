//! What keys mean together: voters, ports, timeouts, memory.
//!
//! Apart because each check here needs several keys, and is skipped if one of them is wrong by
//! itself: a problem is reported once. Each check is one function that names its reason.

use std::net::IpAddr;

use super::keys::{self, Key, Unit};
use super::layer::print;
use super::problem::{Fault, Place, Problem};
use super::settings::{Node, Settings};
use crate::model::limits;

/// Checks everything. What is wrong goes into `problems`.
pub(super) fn check(settings: &Settings, problems: &mut Vec<Problem>) {
    let mut checker = Checker { settings, problems };
    checker.voters();
    checker.ports();
    checker.reachable();
    checker.timeouts();
    checker.memory();
    checker.retention();
}

struct Checker<'a> {
    settings: &'a Settings,
    problems: &'a mut Vec<Problem>,
}

impl Checker<'_> {
    fn integer(&self, key: &Key) -> Option<u64> {
        self.settings.integer(key)
    }

    /// Reports at the first of `keys` that stands in a file, else at the file as a whole.
    fn report(&mut self, keys: &[&Key], fault: Fault) {
        let place = self.settings.place_of_first(keys);
        self.problems.push(Problem { place, fault });
    }

    fn report_at(&mut self, place: &Place, fault: Fault) {
        self.problems.push(Problem { place: place.clone(), fault });
    }

    /// Odd, not too many, each once, and we among them (thesis 4.1: the first configuration is what
    /// the operator wrote, so it must be the same one everywhere and name us).
    fn voters(&mut self) {
        let nodes = &self.settings.nodes;
        let list = self.settings.nodes_place.clone();
        match nodes.len() {
            // A list of the wrong type is reported already.
            0 if list.is_some() => {}
            0 => self.report(&[], Fault::NoNodes),
            count if count > limits::VOTERS_MAX => {
                let fault = Fault::TooManyVoters { count, max: limits::VOTERS_MAX };
                self.report_at(&nodes[limits::VOTERS_MAX].place, fault);
            }
            count if count.is_multiple_of(2) => {
                self.report_at(&nodes[count - 1].place, Fault::EvenVoters { count });
            }
            _ => {}
        }
        for (i, node) in nodes.iter().enumerate() {
            let Some(id) = node.id else { continue };
            if let Some(first) = nodes[..i].iter().find(|other| other.id == Some(id)) {
                let fault = Fault::DuplicateNode { id, first: first.place.clone() };
                self.report_at(&node.place, fault);
            }
        }
        let ids: Option<Vec<u16>> = nodes.iter().map(|node| node.id).collect();
        if let (Some(ids), Some(id)) = (ids, self.settings.node_id)
            && !nodes.is_empty()
            && !ids.contains(&id)
        {
            let listed = ids.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
            self.report(&[&keys::NODE_ID], Fault::SelfNotListed { id, listed });
        }
    }

    /// Every shard takes one client and one peer port: none beyond 65535, none twice on a host.
    fn ports(&mut self) {
        let Some(shards) = self.settings.shards else { return };
        let mut ranges: Vec<(&Node, &'static str, u16)> = Vec::new();
        for node in &self.settings.nodes {
            let ports = [("client_port", node.client_port), ("peer_port", node.peer_port)];
            for (key, first) in ports {
                let Some(first) = first else { continue };
                if first.checked_add(shards - 1).is_none() {
                    let fault = Fault::PortsTooHigh { key, first, shards };
                    self.problems.push(Problem { place: node.place.clone(), fault });
                } else {
                    ranges.push((node, key, first));
                }
            }
        }
        for (i, (node, key, first)) in ranges.iter().enumerate() {
            let clash = ranges[..i].iter().find(|(other, _, other_first)| {
                node.host.is_some()
                    && node.host == other.host
                    && first.abs_diff(*other_first) < shards
            });
            if let Some((other, other_key, other_first)) = clash {
                let range = |node: &Node, key: &str, first: u16| {
                    let id = node.id.map_or("?".to_owned(), |id| id.to_string());
                    format!("{key} {first}-{} of node {id}", first + (shards - 1))
                };
                let fault = Fault::PortsOverlap {
                    a: range(node, key, *first),
                    b: range(other, other_key, *other_first),
                    host: node.host.clone().unwrap_or_default(),
                };
                self.problems.push(Problem { place: node.place.clone(), fault });
            }
        }
    }

    /// Whoever listens on loopback only is alone, unless all are on this host.
    fn reachable(&mut self) {
        let Some(bind) = self.settings.bind else { return };
        let own = self.settings.nodes.iter().find(|node| node.id == self.settings.node_id);
        let Some(host) = own.and_then(|node| node.host.clone()) else { return };
        if bind.is_loopback() && !is_loopback(&host) {
            self.report(&[&keys::BIND, &keys::NODE_ID], Fault::BindIsLoopback { host });
        }
    }

    fn timeouts(&mut self) {
        let heartbeat = self.integer(&keys::HEARTBEAT);
        let min = self.integer(&keys::ELECTION_MIN);
        let max = self.integer(&keys::ELECTION_MAX);
        let check = self.integer(&keys::CHECK_QUORUM);
        if let (Some(heartbeat_ms), Some(election_min_ms)) = (heartbeat, min)
            && heartbeat_ms * 3 > election_min_ms
        {
            let fault = Fault::HeartbeatTooSlow { heartbeat_ms, election_min_ms };
            self.report(&[&keys::HEARTBEAT, &keys::ELECTION_MIN], fault);
        }
        // Thesis 3.4 and 9.3: without spread, elections split the vote.
        if let (Some(min_ms), Some(max_ms)) = (min, max)
            && max_ms * 3 < min_ms * 4
        {
            let fault = Fault::ElectionSpread { min_ms, max_ms };
            self.report(&[&keys::ELECTION_MAX, &keys::ELECTION_MIN], fault);
        }
        if let (Some(check_quorum_ms), Some(election_min_ms)) = (check, min)
            && check_quorum_ms < election_min_ms
        {
            let fault = Fault::CheckQuorumTooFast { check_quorum_ms, election_min_ms };
            self.report(&[&keys::CHECK_QUORUM, &keys::ELECTION_MIN], fault);
        }
        if let (Some(check_quorum_ms), Some(election_max_ms)) = (check, max)
            && check_quorum_ms > election_max_ms * 10
        {
            let fault = Fault::CheckQuorumTooSlow { check_quorum_ms, election_max_ms };
            self.report(&[&keys::CHECK_QUORUM, &keys::ELECTION_MAX], fault);
        }
    }

    /// Half of the arena is for what peers send, the other half for own writes; the two limits are
    /// checked against a half each, so that neither side can starve the other (F-01).
    fn memory(&mut self) {
        let bytes = |number| print(Unit::Bytes, number);
        let arena = self.integer(&keys::ARENA);
        let credit = self.integer(&keys::PEER_CREDIT);
        let block = self.integer(&keys::BLOCK_TARGET);
        let writes = self.integer(&keys::WRITES_IN_FLIGHT);
        if let (Some(credit), Some(block)) = (credit, block)
            && credit < block * 2
        {
            let fault = Fault::CreditBelowBlocks { credit: bytes(credit), block: bytes(block) };
            self.report(&[&keys::PEER_CREDIT, &keys::BLOCK_TARGET], fault);
        }
        let peers = self.settings.nodes.len().clamp(1, limits::VOTERS_MAX) - 1;
        if let (Some(credit), Some(arena)) = (credit, arena)
            && credit * peers as u64 > arena / 2
        {
            let (credit, arena) = (bytes(credit), bytes(arena));
            let fault = Fault::CreditAboveArena { credit, peers, arena };
            self.report(&[&keys::PEER_CREDIT, &keys::ARENA], fault);
        }
        if let (Some(writes), Some(block), Some(arena)) = (writes, block, arena)
            && writes * block > arena / 2
        {
            let (block, arena) = (bytes(block), bytes(arena));
            let fault = Fault::WritesAboveArena { writes, block, arena };
            let keys = [&keys::WRITES_IN_FLIGHT, &keys::BLOCK_TARGET, &keys::ARENA];
            self.report(&keys, fault);
        }
        let connection = self.integer(&keys::CONNECTION);
        let uncommitted = self.integer(&keys::UNCOMMITTED);
        if let (Some(connection), Some(uncommitted)) = (connection, uncommitted)
            && connection > uncommitted
        {
            let (connection, uncommitted) = (bytes(connection), bytes(uncommitted));
            let fault = Fault::ConnectionAboveShard { connection, uncommitted };
            self.report(&[&keys::CONNECTION, &keys::UNCOMMITTED], fault);
        }
    }

    /// Whole batches are kept or trimmed, so a smaller limit could not be kept.
    fn retention(&mut self) {
        let min = limits::BLOCK_BYTES_MAX as u64;
        if let Some(found) = self.integer(&keys::RETENTION_BYTES)
            && found > 0
            && found < min
        {
            let (found, min) = (print(Unit::Bytes, found), print(Unit::Bytes, min));
            self.report(&[&keys::RETENTION_BYTES], Fault::RetentionTooSmall { found, min });
        }
    }
}

/// Whether a host certainly means this machine. Names are not looked up: a configuration is checked
/// without a network.
fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
