//! The clients: unique appends, reads of both kinds, honest book-keeping of what they were told.
//!
//! Each client has slots that think, ask and wait. A refused append is tried again with the same
//! records, so that a refusal that was not honest shows as a duplicate; one whose outcome is
//! unknown is never tried again. Requests go to whatever node the client believes to lead, over
//! any of its shards, and sometimes to another node on purpose. Uses the wire's encoders and
//! decoders and a book-keeping of their own; `sessions` are the shipped client.

use core::time::Duration;
use std::collections::BTreeMap;

use bytes::Bytes;

use super::checker::Checker;
use super::conns::{Conn, Owner};
use super::history::Entry;
use super::plan::{LoadPlan, Plan};
use super::record::{RECORD_BYTES_MIN, RecordId};
use super::verdict::{Check, fail};
use super::world::{Event, World, place};
use crate::base::Prng;
use crate::model::batch::{BATCH_HEADER_BYTES, RECORD_HEADER_BYTES};
use crate::model::{ClusterId, GroupId, LogIndex, Outcome, Refusal};
use crate::wire::InFrame;
use crate::wire::client::{
    Consistency, ErrorReply, Hello, Read, Reply, encode_append, encode_hello, encode_read,
};

/// The cluster that all simulated nodes belong to.
pub(super) const CLUSTER: ClusterId = ClusterId::new(*b"simulated worlds");

/// How long the auditor waits: longer than any healed world takes, and never the reason why a
/// slow one does not get through.
const AUDIT_PATIENCE: Duration = Duration::from_secs(5);

/// A request as its client remembers it.
#[derive(Clone, Debug)]
pub(super) enum Want {
    /// The first frame of a connection.
    Hello,
    /// Records number 0 up to a count.
    Append { group: GroupId, request: u64, sizes: Vec<usize> },
    /// Records from an index on.
    Read {
        group: GroupId,
        from: LogIndex,
        consistency: Consistency,
        /// The last index acknowledged to anybody when the read was sent.
        must_see: LogIndex,
    },
}

/// A request that was sent and not answered.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    client: u32,
    slot: usize,
    serial: u64,
    want: Want,
    /// Its place in the history of its log.
    entry: Option<Entry>,
    /// The slot does not wait for it any more.
    given_up: bool,
}

impl Asked {
    /// Whether nobody waits for the answer.
    pub(super) fn is_given_up(&self) -> bool {
        self.given_up || matches!(self.want, Want::Hello)
    }

    /// A request of a session, which keeps the rest itself.
    pub(super) fn of_session(client: u32, want: Want) -> Self {
        Self { client, slot: 0, serial: 0, want, entry: None, given_up: true }
    }

    /// Its place in the history of its log.
    fn entry(&self) -> Entry {
        self.entry.expect("appends and reads have one")
    }

    /// The group and the records, if it is an append.
    pub(super) fn append(&self) -> Option<(GroupId, Vec<RecordId>)> {
        match &self.want {
            Want::Append { group, request, sizes } => {
                Some((*group, ids(self.client, *request, sizes.len())))
            }
            Want::Hello | Want::Read { .. } => None,
        }
    }
}

/// The records of a request.
pub(super) fn ids(client: u32, request: u64, count: usize) -> Vec<RecordId> {
    (0..count as u64).map(|at| RecordId::new(client, request, at)).collect()
}

/// One client. Clients beyond the plan's number are the audit's.
pub(super) struct Client {
    id: u32,
    prng: Prng,
    load: LoadPlan,
    /// Connections by node and shard.
    conns: BTreeMap<(usize, usize), u64>,
    /// Where each group's leader is believed to be.
    leaders: BTreeMap<GroupId, usize>,
    next_request: u64,
    next_serial: u64,
    /// Per slot: the request it works on, until it is answered for good.
    slots: Vec<Option<Want>>,
}

impl Client {
    /// A client with nothing to do yet.
    pub(super) fn new(id: u32, plan: &Plan, prng: Prng) -> Self {
        Self::with_slots(id, plan, prng, plan.load.in_flight as usize)
    }

    /// The same with another number of slots than the plan's.
    pub(super) fn with_slots(id: u32, plan: &Plan, prng: Prng, slots: usize) -> Self {
        let mut load = plan.load;
        if id == load.clients {
            load.patience = AUDIT_PATIENCE;
        }
        Self {
            id,
            prng,
            load,
            conns: BTreeMap::new(),
            leaders: BTreeMap::new(),
            next_request: 1,
            next_serial: 1,
            slots: vec![None; slots],
        }
    }

    /// The number in its records.
    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// How many requests it has under way at most.
    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// How long a slot rests before its next request.
    pub(super) fn think(&mut self) -> Duration {
        self.load.think.draw(&mut self.prng)
    }

    /// The number of its next request.
    pub(super) fn next_request(&mut self) -> u64 {
        self.next_request += 1;
        self.next_request - 1
    }

    /// Draws what to ask next.
    pub(super) fn draw(
        &mut self,
        groups: u64,
        checker: &mut Checker,
        batch_max: u64,
    ) -> Result<Want, super::Failure> {
        let group = GroupId::new(self.prng.between(1, groups + 1));
        if self.prng.chance(self.load.read_percent, 100) {
            let upto = checker.truth(group)?.committed_upto().get();
            let near = self.prng.chance(1, 2);
            let low = if near { upto.saturating_sub(20).max(1) } else { 1 };
            let from = LogIndex::new(self.prng.between(low, upto.max(low) + 2));
            let consistency =
                if self.prng.chance(1, 2) { Consistency::Stale } else { Consistency::Linearizable };
            return Ok(Want::Read { group, from, consistency, must_see: LogIndex::BEFORE_FIRST });
        }
        let request = self.next_request();
        let count = self.prng.between(1, self.load.records_max + 1);
        let mut room = batch_max;
        let mut sizes = Vec::new();
        for _ in 0..count {
            let low = RECORD_BYTES_MIN as u64;
            let bytes = self.prng.between(low, self.load.record_bytes_max.max(low) + 1);
            let taken = bytes + RECORD_HEADER_BYTES as u64;
            if taken > room {
                break;
            }
            room -= taken;
            sizes.push(usize::try_from(bytes).expect("records are small"));
        }
        Ok(Want::Append { group, request, sizes })
    }
}

impl World {
    /// Lets every slot of every client begin.
    pub(super) fn start_clients(&mut self) {
        for client in 0..self.clients.len() - 1 {
            for slot in 0..self.clients[client].slots.len() {
                self.think(client, slot);
            }
        }
    }

    fn think(&mut self, client: usize, slot: usize) {
        let delay = self.clients[client].think();
        self.queue.after(delay, Event::Wake { client, slot });
    }

    /// The most bytes of records that one request may carry.
    pub(super) fn batch_bytes_max(&self) -> u64 {
        let block = u64::from(self.plan.geometry.block_bytes_max);
        block - block / 16 - BATCH_HEADER_BYTES as u64
    }

    /// A slot makes a request, or makes one again that was refused.
    pub(super) fn on_wake(&mut self, client: usize, slot: usize) -> Check {
        if self.is_auditor(client) {
            return self.on_audit_wake(client, slot);
        }
        let batch_max = self.batch_bytes_max();
        let one = &mut self.clients[client];
        if one.slots[slot].is_none() {
            if !self.chaotic || self.requests_left == 0 {
                return Ok(()); // The healed world answers what is open and begins nothing.
            }
            self.requests_left -= 1;
            one.slots[slot] = Some(one.draw(self.plan.groups, &mut self.checker, batch_max)?);
        }
        let want = one.slots[slot].clone().expect("set above");
        self.ask(client, slot, want)
    }

    /// Sends a request to wherever it may be answered.
    pub(super) fn ask(&mut self, client: usize, slot: usize, mut want: Want) -> Check {
        let (group, anywhere) = match &mut want {
            Want::Hello => unreachable!("sent when a connection is dialled"),
            Want::Append { group, .. } => (*group, false),
            Want::Read { group, consistency, must_see, .. } => {
                // Acknowledged before it was sent: what it must see is settled here.
                let stale = *consistency == Consistency::Stale;
                if !stale {
                    *must_see = self.checker.truth(*group)?.acked_upto;
                }
                (*group, stale)
            }
        };
        let (nodes, shards) = (self.nodes.len() as u64, u64::from(self.plan.shards));
        let (home, audits) = (self.shard_of(group), self.is_auditor(client));
        let one = &mut self.clients[client];
        // A leader that was deposed and does not know it is asked only by who does not know either.
        let strays = if matches!(want, Want::Read { .. }) && !audits { 4 } else { 50 };
        let astray = anywhere || one.prng.chance(1, strays);
        let drawn = usize::try_from(one.prng.below(nodes)).expect("few");
        let node = if astray { drawn } else { *one.leaders.entry(group).or_insert(drawn) };
        let aside = one.prng.chance(1, 5);
        let other = usize::try_from(one.prng.below(shards)).expect("few");
        let shard = if aside { other } else { home };
        let conn = match one.conns.get(&(node, shard)) {
            Some(conn) => *conn,
            None => self.dial_as(client, node, shard),
        };
        self.send_request(client, slot, conn, want);
        Ok(())
    }

    fn dial_as(&mut self, client: usize, node: usize, shard: usize) -> u64 {
        let conn = self.dial(Owner::Client(client), node, shard);
        let one = &mut self.clients[client];
        one.conns.insert((node, shard), conn);
        let mut frame = Vec::new();
        encode_hello(&mut frame, 0, &Hello::new(CLUSTER, "sim"));
        let asked = Asked {
            client: one.id,
            slot: 0,
            serial: 0,
            want: Want::Hello,
            entry: None,
            given_up: false,
        };
        self.conns.get(conn).expect("just dialled").asked.insert(0, asked);
        self.send_to_node(conn, frame);
        conn
    }

    fn send_request(&mut self, client: usize, slot: usize, number: u64, want: Want) {
        let one = &mut self.clients[client];
        let serial = one.next_serial;
        one.next_serial += 1;
        let patience = one.load.patience;
        self.queue.after(patience, Event::Patience { client, slot, serial });
        // A connection that is ending has no table entry; patience will end the wait.
        let Some(conn) = self.conns.get(number) else { return };
        let correlation = conn.next_correlation;
        conn.next_correlation += 1;
        let mut frame = Vec::new();
        match &want {
            Want::Hello => unreachable!("sent when a connection is dialled"),
            Want::Append { group, request, sizes } => {
                let ids = ids(one.id, *request, sizes.len());
                let records: Vec<Vec<u8>> =
                    ids.iter().zip(sizes).map(|(id, bytes)| id.payload(*bytes)).collect();
                encode_append(&mut frame, correlation, *group, None, &records);
            }
            Want::Read { group, from, consistency, .. } => {
                // The auditor has a whole log to read.
                let low = if one.id == one.load.clients { 512 << 10 } else { 1 };
                let drawn = one.prng.between(low, (32 << 10).max(low + 1));
                let max_bytes = u32::try_from(drawn).expect("below a MiB");
                let read = Read { from: *from, max_bytes, consistency: *consistency };
                encode_read(&mut frame, correlation, *group, &read);
            }
        }
        let entry = match &want {
            Want::Hello => None,
            Want::Append { group, request, sizes } => {
                let ids = ids(one.id, *request, sizes.len());
                Some(self.checker.history(*group).sends_append(&ids))
            }
            Want::Read { group, from, .. } => Some(self.checker.history(*group).sends_read(*from)),
        };
        let asked = Asked { client: one.id, slot, serial, want, entry, given_up: false };
        conn.asked.insert(correlation, asked);
        self.send_to_node(number, frame);
    }

    /// A slot has waited long enough: the outcome of an append stays unknown to it.
    pub(super) fn on_patience(&mut self, client: usize, slot: usize, serial: u64) {
        let conns: Vec<u64> = self.clients[client].conns.values().copied().collect();
        for number in conns {
            let Some(conn) = self.conns.get(number) else { continue };
            let asked = conn.asked.values_mut().find(|a| a.serial == serial && !a.given_up);
            let Some(asked) = asked else { continue };
            asked.given_up = true;
            if let Some((group, _)) = asked.append() {
                self.summary.appends_unknown += 1;
                self.clients[client].leaders.remove(&group);
            }
            self.finish(client, slot, Answer::Silence);
            return;
        }
    }

    /// Bytes that reached a client.
    pub(super) fn on_client_bytes(&mut self, client: usize, number: u64, bytes: Bytes) -> Check {
        if let Some(conn) = self.conns.get(number) {
            conn.assembler.push(bytes);
        }
        loop {
            let Some(conn) = self.conns.get(number) else { return Ok(()) };
            match conn.assembler.next() {
                None => return Ok(()),
                Some(Ok(frame)) => self.on_reply(client, number, &frame)?,
                Some(Err(error)) => fail!(Protocol, "connection {number}: {error}"),
            }
        }
    }

    fn on_reply(&mut self, client: usize, number: u64, frame: &InFrame) -> Check {
        let conn = self.conns.get(number).expect("the caller saw it");
        let Some(asked) = conn.asked.remove(&frame.header.correlation) else {
            fail!(Protocol, "connection {number}: {:?} answers nothing", frame.header);
        };
        let reply = match Reply::decode(&frame.header, frame.body()) {
            Ok(reply) => reply,
            Err(error) => fail!(Protocol, "connection {number}: {error} in {:?}", frame.header),
        };
        let answer = match (&asked.want, reply) {
            (Want::Hello, Reply::Hello(_)) => return Ok(()),
            (Want::Append { group, .. }, Reply::Append(reply)) => {
                let (_, ids) = asked.append().expect("it is one");
                self.checker.acknowledges(*group, &ids, &reply)?;
                let last = LogIndex::new(reply.first.get() + ids.len() as u64 - 1);
                self.checker.acknowledged(*group, last)?;
                self.checker.history(*group).acknowledged(asked.entry(), reply.first);
                self.summary.appends_done += 1;
                Answer::Done
            }
            (Want::Read { group, from, must_see, consistency }, Reply::Read(view)) => {
                let next = self.checker.read(*group, *from, *must_see, &view)?;
                let strict = *consistency == Consistency::Linearizable;
                let (commit, batches) = (view.head.commit, view.batches);
                let history = self.checker.history(*group);
                history.answered(asked.entry(), commit, batches, strict)?;
                self.summary.reads += 1;
                Answer::Read { next, commit: view.head.commit }
            }
            (_, Reply::Error(error)) => self.on_error(client, &asked, &error)?,
            (want, reply) => fail!(Protocol, "connection {number}: {want:?} gets {reply:?}"),
        };
        if !asked.given_up {
            self.finish(client, asked.slot, answer);
        }
        Ok(())
    }

    /// An error reply: a promise that nothing happened, or the admission that nobody knows.
    fn on_error(
        &mut self,
        client: usize,
        asked: &Asked,
        error: &ErrorReply<'_>,
    ) -> Result<Answer, super::Failure> {
        let refusal = match error.outcome::<()>() {
            Outcome::NotDone(refusal) => refusal,
            Outcome::Unknown(_) => {
                self.summary.appends_unknown += u64::from(asked.append().is_some());
                return Ok(Answer::Silence);
            }
            Outcome::Done(()) => fail!(Protocol, "an error reply says done: {error:?}"),
        };
        if let Want::Append { group, .. } | Want::Read { group, .. } = &asked.want {
            self.checker.history(*group).strike(asked.entry());
        }
        let one = &mut self.clients[client];
        if let Refusal::NotLeader { hint } = refusal
            && let Want::Append { group, .. } | Want::Read { group, .. } = &asked.want
        {
            match hint.map(place).filter(|node| *node < self.nodes.len()) {
                Some(node) => one.leaders.insert(*group, node),
                None => one.leaders.remove(group),
            };
        }
        if let Some((_, ids)) = asked.append() {
            // Given up before, or nobody begins anything any more: the slot never asks again, so
            // this is for good.
            if asked.given_up || !self.chaotic {
                self.checker.refused(&ids)?;
            }
            return allowed_for_append(refusal).map(|()| Answer::Refused);
        }
        self.on_read_refused(asked, refusal)
    }

    fn on_read_refused(
        &mut self,
        asked: &Asked,
        refusal: Refusal,
    ) -> Result<Answer, super::Failure> {
        let Want::Read { group, from, .. } = &asked.want else {
            fail!(Protocol, "{asked:?} is refused: {refusal}");
        };
        let Refusal::Trimmed { next } = refusal else {
            return allowed_for_read(refusal).map(|()| Answer::Refused);
        };
        self.check_trimmed(*group, *from, next)?;
        Ok(Answer::Read { next, commit: LogIndex::BEFORE_FIRST })
    }

    /// A read may be told that its place is trimmed if retention is bounded and it is.
    pub(super) fn check_trimmed(
        &mut self,
        group: GroupId,
        from: LogIndex,
        next: LogIndex,
    ) -> Check {
        let upto = self.checker.truth(group)?.committed_upto();
        let bounded = self.plan.retention_bytes.is_some();
        if !bounded || next <= from || upto.next() < next {
            fail!(Protocol, "{group:?}: a read from {from:?} of {upto:?} is trimmed to {next:?}");
        }
        Ok(())
    }

    /// A connection is gone: nobody knows what became of the appends on it.
    pub(super) fn on_client_gone(&mut self, client: usize, number: u64, conn: Conn) -> Check {
        let one = &mut self.clients[client];
        if one.conns.get(&(conn.node, conn.shard)) == Some(&number) {
            one.conns.remove(&(conn.node, conn.shard));
        }
        one.leaders.retain(|_, node| *node != conn.node);
        for asked in conn.asked.into_values() {
            if !asked.is_given_up() {
                self.summary.appends_unknown += u64::from(asked.append().is_some());
                self.finish(client, asked.slot, Answer::Silence);
            }
        }
        Ok(())
    }

    /// A slot's request came to an end, or to a pause.
    fn finish(&mut self, client: usize, slot: usize, answer: Answer) {
        if self.is_auditor(client) {
            self.on_audit_answer(slot, answer);
            return self.wake_soon(client, slot);
        }
        let refused_append = matches!(answer, Answer::Refused)
            && matches!(self.clients[client].slots[slot], Some(Want::Append { .. }));
        if refused_append && self.chaotic {
            return self.think(client, slot); // Again, with the same records.
        }
        if refused_append {
            self.summary.appends_not_done += 1;
        }
        self.clients[client].slots[slot] = None;
        self.think(client, slot);
    }

    /// Wakes a slot after a moment that spares the nodes a busy loop.
    pub(super) fn wake_soon(&mut self, client: usize, slot: usize) {
        self.queue.after(Duration::from_millis(2), Event::Wake { client, slot });
    }
}

/// How a request ended for its slot.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answer {
    /// An append is acknowledged.
    Done,
    /// A read was answered, or trimmed, up to `next`.
    Read { next: LogIndex, commit: LogIndex },
    /// It certainly had no effect.
    Refused,
    /// Nobody knows, or it was a read and does not matter.
    Silence,
}

/// Refusals that a correct append by a correct client may hear.
pub(super) fn allowed_for_append(refusal: Refusal) -> Check {
    match refusal {
        Refusal::NotLeader { .. }
        | Refusal::Busy { .. }
        | Refusal::DiskFull
        | Refusal::Unavailable
        | Refusal::TimedOut => Ok(()),
        Refusal::TooLarge { .. }
        | Refusal::UnknownGroup
        | Refusal::Trimmed { .. }
        | Refusal::WrongTail { .. }
        | Refusal::Unsupported
        | Refusal::Malformed => fail!(Protocol, "a correct append is refused: {refusal}"),
    }
}

/// Refusals that a correct read by a correct client may hear.
pub(super) fn allowed_for_read(refusal: Refusal) -> Check {
    match refusal {
        Refusal::NotLeader { .. }
        | Refusal::Busy { .. }
        | Refusal::Unavailable
        | Refusal::TimedOut => Ok(()),
        Refusal::TooLarge { .. }
        | Refusal::UnknownGroup
        | Refusal::Trimmed { .. }
        | Refusal::WrongTail { .. }
        | Refusal::DiskFull
        | Refusal::Unsupported
        | Refusal::Malformed => fail!(Protocol, "a correct read is refused: {refusal}"),
    }
}
