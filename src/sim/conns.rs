//! Client connections: byte streams between clients and shards, with budgets and cuts.
//!
//! One `impl World` block and the table of connections. A node reads from a connection only while
//! what it delivered and nobody gave back stays within the budget (`Effect::ClientRoom`), as the
//! runtime does. Does not: know what clients want; `clients` does.

use std::collections::BTreeMap;

use super::clients::Asked;
use super::links::flatten;
use super::net::{Parcel, Pipe, pieces};
use super::verdict::{Check, Fault, fail};
use super::world::{At, Event, World};
use crate::base::Moment;
use crate::model::ConnId;
use crate::model::limits::FRAME_BYTES_MAX;
use crate::shard::{Frame, Input};
use crate::wire::client::Reply;
use crate::wire::{Assembler, FRAME_HEADER_BYTES, FrameHeader};

/// Bytes of requests that a node takes in from one connection before it gives room back.
pub(super) const CONN_BUDGET_BYTES: u64 = 256 << 10;

/// Whose a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// A client of `clients`.
    Client(usize),
    /// A client of `sessions`.
    Session(usize),
}

/// One connection.
pub(super) struct Conn {
    /// Whose.
    pub(super) owner: Owner,
    /// The node and shard it goes to.
    pub(super) node: usize,
    pub(super) shard: usize,
    /// The run of the shard it reached, and its name there.
    at: Option<(At, ConnId)>,
    to_node: Pipe,
    to_client: Pipe,
    /// Cuts what the client receives.
    pub(super) assembler: Assembler,
    /// By correlation id: what the client waits for.
    pub(super) asked: BTreeMap<u64, Asked>,
    pub(super) next_correlation: u64,
    /// Delivered to the node and not given back.
    held_bytes: u64,
    /// The node closes it once everything it sent is out.
    closing: bool,
    /// It broke, and its client is about to hear of it.
    broken: bool,
}

/// All connections, by a number that is never used again.
#[derive(Default)]
pub(super) struct Conns {
    table: BTreeMap<u64, Conn>,
    by_name: BTreeMap<(usize, usize, u64, ConnId), u64>,
    next: u64,
}

impl Conns {
    /// One connection, if it is still there.
    pub(super) fn get(&mut self, conn: u64) -> Option<&mut Conn> {
        self.table.get_mut(&conn)
    }

    /// Every connection that reached this run of this shard.
    fn of(&self, node: usize) -> Vec<u64> {
        self.table.iter().filter(|(_, c)| c.node == node).map(|(number, _)| *number).collect()
    }

    fn named(&self, at: At, conn: ConnId) -> Option<u64> {
        self.by_name.get(&(at.node, at.shard, at.boot, conn)).copied()
    }

    /// Whether no client waits for anything.
    pub(super) fn nobody_waits(&self) -> bool {
        self.table.values().all(|conn| conn.asked.values().all(Asked::is_given_up))
    }
}

impl World {
    /// A client dials a shard. Answers the connection's number; bytes may be sent at once.
    pub(super) fn dial(&mut self, owner: Owner, node: usize, shard: usize) -> u64 {
        let open = self.queue.now().after(self.plan.net.delay.draw(&mut self.prng.net));
        let conns = &mut self.conns;
        conns.next += 1;
        let number = conns.next;
        let conn = Conn {
            owner,
            node,
            shard,
            at: None,
            to_node: Pipe::new(open),
            to_client: Pipe::new(open),
            assembler: Assembler::new(FRAME_BYTES_MAX),
            asked: BTreeMap::new(),
            next_correlation: 1,
            held_bytes: 0,
            closing: false,
            broken: false,
        };
        conns.table.insert(number, conn);
        self.queue.at(open, Event::ConnOpens(number));
        number
    }

    /// A dialled connection reaches its node, if somebody answers there.
    pub(super) fn on_conn_opens(&mut self, number: u64) -> Check {
        let Some(conn) = self.conns.get(number).filter(|conn| !conn.broken) else { return Ok(()) };
        let (node, shard, owner) = (conn.node, conn.shard, conn.owner);
        if !self.nodes[node].answers() {
            self.end_conn(number);
            return Ok(());
        }
        let at = self.nodes[node].at(shard);
        let Some(live) = self.nodes[node].live(shard) else {
            self.end_conn(number);
            return Ok(());
        };
        let name = live.next_conn();
        self.conns.by_name.insert((at.node, at.shard, at.boot, name), number);
        self.conns.get(number).expect("seen above").at = Some((at, name));
        self.note("client", &[node as u64, shard as u64, name.get()]);
        self.give(at, Input::ClientOpened { conn: name });
        match owner {
            Owner::Client(_) => Ok(()), // It has sent already.
            Owner::Session(session) => self.on_session_link_up(session, number),
        }
    }

    /// A client sends whole frames.
    pub(super) fn send_to_node(&mut self, number: u64, frame: Vec<u8>) {
        if self.conns.get(number).is_none_or(|conn| conn.broken) {
            return;
        }
        if self.chaotic && self.prng.net.chance(self.plan.net.client_reset_ppm, 1_000_000) {
            self.tally.count(Fault::ClientReset);
            return self.cut_conn(number);
        }
        let max = self.plan.net.chunk_bytes_max;
        for piece in pieces(frame.into(), max, &mut self.prng.net) {
            let due = self.queue.now().after(self.plan.net.delay.draw(&mut self.prng.net));
            let Some(conn) = self.conns.get(number) else { return };
            let next = conn.to_node.push(due, Parcel::Bytes(piece));
            self.deliver_at(number, true, next);
        }
    }

    fn deliver_at(&mut self, conn: u64, to_node: bool, due: Option<Moment>) {
        if let Some(due) = due {
            self.queue.at(due, Event::ConnDelivers { conn, to_node });
        }
    }

    /// Bytes of a client reach its node, within the budget.
    pub(super) fn on_conn_delivers_to_node(&mut self, number: u64) {
        let now = self.queue.now();
        let Some(conn) = self.conns.get(number) else { return };
        conn.to_node.unschedule();
        let Some((at, name)) = conn.at else { return };
        if conn.held_bytes >= CONN_BUDGET_BYTES || !conn.to_node.is_due(now) {
            return;
        }
        if let Some(Parcel::Bytes(bytes)) = conn.to_node.pop() {
            conn.held_bytes += bytes.len() as u64;
            let next = conn.to_node.schedule();
            self.deliver_at(number, true, next);
            self.note(
                "request",
                &[at.node as u64, at.shard as u64, name.get(), bytes.len() as u64],
            );
            self.give(at, Input::ClientBytes { conn: name, bytes });
        }
    }

    /// A shard gives room back.
    pub(super) fn client_room(&mut self, at: At, name: ConnId, bytes: usize) -> Check {
        let Some(number) = self.conns.named(at, name) else { return Ok(()) };
        let Some(conn) = self.conns.get(number) else { return Ok(()) };
        let Some(held) = conn.held_bytes.checked_sub(bytes as u64) else {
            fail!(Budget, "{name:?} gives back {bytes} of {} bytes", conn.held_bytes);
        };
        conn.held_bytes = held;
        let next = conn.to_node.schedule();
        self.deliver_at(number, true, next);
        Ok(())
    }

    /// A shard sends replies: the oracle sees them before the client does.
    pub(super) fn send_client(&mut self, at: At, name: ConnId, frame: &Frame) -> Check {
        let Some(number) = self.conns.named(at, name) else { return Ok(()) };
        let bytes = flatten(frame).freeze();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let header = match FrameHeader::decode(rest, FRAME_BYTES_MAX) {
                Ok(header) if header.frame_bytes() <= rest.len() => header,
                other => fail!(Protocol, "{name:?} is sent {other:?}, {} bytes", rest.len()),
            };
            let body = &rest[FRAME_HEADER_BYTES..header.frame_bytes()];
            self.check_reply_sent(number, &header, body)?;
            rest = &rest[header.frame_bytes()..];
        }
        let max = self.plan.net.chunk_bytes_max;
        for piece in pieces(bytes, max, &mut self.prng.net) {
            let due = self.queue.now().after(self.plan.net.delay.draw(&mut self.prng.net));
            let Some(conn) = self.conns.get(number) else { return Ok(()) };
            let next = conn.to_client.push(due, Parcel::Bytes(piece));
            self.deliver_at(number, false, next);
        }
        Ok(())
    }

    /// The acknowledgement discipline holds when the reply leaves, not when it arrives.
    fn check_reply_sent(&mut self, number: u64, header: &FrameHeader, body: &[u8]) -> Check {
        let Ok(Reply::Append(reply)) = Reply::decode(header, body) else { return Ok(()) };
        let Some(conn) = self.conns.get(number) else { return Ok(()) };
        let Some(asked) = conn.asked.get(&header.correlation) else {
            fail!(Protocol, "connection {number}: {reply:?} answers nothing");
        };
        let Some((group, ids)) = asked.append() else {
            fail!(Protocol, "connection {number}: {reply:?} answers {asked:?}");
        };
        self.checker.acknowledges(group, &ids, &reply)
    }

    /// Bytes of a node reach its client.
    pub(super) fn on_conn_delivers_to_client(&mut self, number: u64) -> Check {
        let now = self.queue.now();
        let Some(conn) = self.conns.get(number) else { return Ok(()) };
        conn.to_client.unschedule();
        if !conn.to_client.is_due(now) {
            return Ok(());
        }
        if let Some(Parcel::Bytes(bytes)) = conn.to_client.pop() {
            let next = conn.to_client.schedule();
            let closed = conn.closing && next.is_none();
            let owner = conn.owner;
            self.deliver_at(number, false, next);
            match owner {
                Owner::Client(client) => self.on_client_bytes(client, number, bytes)?,
                Owner::Session(session) => self.on_session_bytes(session, number, bytes)?,
            }
            if closed {
                self.cut_conn(number);
            }
        }
        Ok(())
    }

    /// A shard closes a connection behind what it sent.
    pub(super) fn close_client(&mut self, at: At, name: ConnId, reason: &'static str) -> Check {
        let Some(number) = self.conns.named(at, name) else { return Ok(()) };
        // These clients speak correctly, and only budgets of time may end them.
        if !reason.contains("shut") && !reason.contains("drain") {
            fail!(Protocol, "{name:?} is closed: {reason}");
        }
        if let Some(conn) = self.conns.get(number) {
            conn.closing = true;
            if conn.to_client.schedule().is_none() {
                self.cut_conn(number);
            }
        }
        Ok(())
    }

    /// A connection breaks: what is under way is lost, both ends hear of it.
    pub(super) fn cut_conn(&mut self, number: u64) {
        let Some(conn) = self.conns.get(number) else { return };
        if let Some((at, name)) = conn.at.take() {
            self.conns.by_name.remove(&(at.node, at.shard, at.boot, name));
            self.note("client-gone", &[at.node as u64, at.shard as u64, name.get()]);
            self.give(at, Input::ClientClosed { conn: name });
        }
        self.end_conn(number);
    }

    /// Every connection of a dead node ends.
    pub(super) fn cut_conns_of(&mut self, node: usize) {
        for number in self.conns.of(node) {
            self.cut_conn(number);
        }
    }

    /// The client hears of the end in its own time; nothing arrives in between.
    fn end_conn(&mut self, number: u64) {
        let delay = self.plan.net.delay.draw(&mut self.prng.net);
        let now = self.queue.now();
        if let Some(conn) = self.conns.get(number).filter(|conn| !conn.broken) {
            conn.broken = true;
            conn.at = None;
            conn.to_node = Pipe::new(now);
            conn.to_client = Pipe::new(now);
            self.queue.after(delay, Event::ConnEnds(number));
        }
    }

    /// The client hears of the end.
    pub(super) fn on_conn_ends(&mut self, number: u64) -> Check {
        match self.conns.table.remove(&number) {
            Some(conn) => match conn.owner {
                Owner::Client(client) => self.on_client_gone(client, number, conn),
                Owner::Session(session) => self.on_session_link_down(session, number),
            },
            None => Ok(()),
        }
    }
}
