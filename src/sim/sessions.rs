//! Clients that are the shipped client: `client::session`, with the world as its sockets.
//!
//! Each has slots like those of `clients`, but who leads, where to connect, what is tried again and
//! how a request ends is decided by the session. Its outcomes are promises that the oracles take at
//! their word: Done is at its index, NotDone is nowhere, for ever; only Unknown may be either. Each
//! request has exactly one outcome, in time. Does not: draw other loads than `clients` does.

use core::time::Duration;
use std::collections::BTreeMap;

use bytes::Bytes;

use super::clients::{Asked, CLUSTER, Client, Want, allowed_for_append, allowed_for_read, ids};
use super::conns::Owner;
use super::history::Entry;
use super::plan::Plan;
use super::record::RECORD_BYTES_MIN;
use super::verdict::{Check, fail};
use super::world::{Event, World};
use crate::base::{Moment, Prng};
use crate::client::{
    Answer, LinkId, ReadBatch, RequestId, Session, SessionEffect, SessionOptions, SubmitError,
};
use crate::model::limits::FRAME_BYTES_MAX;
use crate::model::{ClusterId, GroupId, LogIndex, Outcome, Refusal};
use crate::wire::FrameHeader;
use crate::wire::client::{Consistency, Read, Reply};

/// The shortest time limit of a session's requests: below it nothing gets through the slowest
/// networks, and the healed world could not serve anybody.
const TIMEOUT_MIN: Duration = Duration::from_secs(1);

/// How much longer than its time limit a request may be without an outcome: a tick is due at the
/// limit, and the world may have other events at the same instant.
const LATE: Duration = Duration::from_millis(1);

/// A request without an outcome.
struct Open {
    slot: usize,
    want: Want,
    entry: Entry,
    since: Moment,
}

/// One client.
pub(super) struct SessionClient {
    session: Session,
    /// Draws the requests, and has the number that is in the records.
    maker: Client,
    /// By slot: what was drawn and did not fit into the session's buffer.
    full: BTreeMap<usize, Want>,
    open: BTreeMap<RequestId, Open>,
    links: BTreeMap<LinkId, u64>,
    /// The earliest tick that is in the world's queue.
    tick: Moment,
    /// The healed world has done an append for it.
    pub(super) served: bool,
}

fn timeout(plan: &Plan) -> Duration {
    plan.load.patience.max(TIMEOUT_MIN)
}

impl SessionClient {
    /// Number `at` of the sessions, with nothing to do yet.
    pub(super) fn new(at: u32, plan: &Plan, mut prng: Prng) -> Self {
        // The numbers below are those of the plain clients and the auditor.
        let id = plan.load.clients + 1 + at;
        // One more than may be lost for good: whoever knows only those finds nobody.
        let seeds = prng.between(u64::from(plan.nodes / 2) + 1, u64::from(plan.nodes) + 1);
        let addresses: Vec<String> = (0..seeds).map(|node| format!("node-{node}:7000")).collect();
        let options = SessionOptions {
            cluster: if prng.chance(1, 2) { CLUSTER } else { ClusterId::default() },
            name: String::from("sim"),
            request_timeout: timeout(plan),
            // Small enough to be full now and then.
            buffer_bytes: if prng.chance(1, 4) { 4 << 10 } else { 1 << 20 },
            seed: prng.next_u64(),
            ..SessionOptions::default()
        };
        Self {
            session: Session::new(&addresses, options),
            maker: Client::new(id, plan, prng),
            full: BTreeMap::new(),
            open: BTreeMap::new(),
            links: BTreeMap::new(),
            tick: Moment::NEVER,
            served: false,
        }
    }

    /// Whether every request has its outcome.
    pub(super) fn is_at_rest(&self) -> bool {
        self.open.is_empty() && self.session.pending() == 0
    }

    fn link_of(&self, conn: u64) -> Option<LinkId> {
        self.links.iter().find_map(|(link, number)| (*number == conn).then_some(*link))
    }
}

impl World {
    /// Lets every slot of every session begin.
    pub(super) fn start_sessions(&mut self) {
        for at in 0..self.sessions.len() {
            self.session_tick_at(at, self.queue.now());
            for slot in 0..self.sessions[at].maker.slots() {
                self.session_thinks(at, slot);
            }
        }
    }

    /// The healed world: each session has an append of its own done.
    pub(super) fn probe_sessions(&mut self) {
        for at in 0..self.sessions.len() {
            self.queue.at(self.queue.now(), Event::SessionWake { session: at, slot: usize::MAX });
        }
    }

    fn session_thinks(&mut self, at: usize, slot: usize) {
        let delay = self.sessions[at].maker.think();
        self.queue.after(delay, Event::SessionWake { session: at, slot });
    }

    /// A slot makes a request. The slot beyond all others is the audit's.
    pub(super) fn on_session_wake(&mut self, at: usize, slot: usize) -> Check {
        let want = match self.sessions[at].full.remove(&slot) {
            Some(want) => want,
            None if slot == usize::MAX => {
                let request = self.sessions[at].maker.next_request();
                let group = GroupId::new(1 + at as u64 % self.plan.groups);
                Want::Append { group, request, sizes: vec![RECORD_BYTES_MIN] }
            }
            None => {
                if !self.chaotic || self.requests_left == 0 {
                    return Ok(());
                }
                self.requests_left -= 1;
                let (groups, batch_max) = (self.plan.groups, self.batch_bytes_max());
                self.sessions[at].maker.draw(groups, &mut self.checker, batch_max)?
            }
        };
        self.submit(at, slot, want)
    }

    fn submit(&mut self, at: usize, slot: usize, mut want: Want) -> Check {
        let now = self.queue.now();
        let one = &mut self.sessions[at];
        let (submitted, group) = match &mut want {
            Want::Hello => unreachable!("the session greets by itself"),
            Want::Append { group, request, sizes } => {
                let ids = ids(one.maker.id(), *request, sizes.len());
                let records: Vec<Vec<u8>> =
                    ids.iter().zip(sizes).map(|(id, bytes)| id.payload(*bytes)).collect();
                (one.session.append(now, *group, None, &records), *group)
            }
            Want::Read { group, from, consistency, must_see } => {
                if *consistency == Consistency::Linearizable {
                    *must_see = self.checker.truth(*group)?.acked_upto;
                }
                let read = Read { from: *from, max_bytes: 4096, consistency: *consistency };
                (one.session.read(now, *group, &read), *group)
            }
        };
        let request = match submitted {
            Ok(request) => request,
            Err(SubmitError::Full) if one.session.pending() > 0 => {
                one.full.insert(slot, want);
                self.session_thinks(at, slot);
                return Ok(());
            }
            Err(error) => fail!(Protocol, "a session takes no {want:?}: {error}"),
        };
        let history = self.checker.history(group);
        let entry = match &want {
            Want::Hello => unreachable!("matched above"),
            Want::Append { request, sizes, .. } => {
                history.sends_append(&ids(one.maker.id(), *request, sizes.len()))
            }
            Want::Read { from, .. } => history.sends_read(*from),
        };
        one.open.insert(request, Open { slot, want, entry, since: now });
        self.run_session(at)
    }

    /// Time has passed for a session.
    pub(super) fn on_session_tick(&mut self, at: usize) -> Check {
        let now = self.queue.now();
        let one = &mut self.sessions[at];
        if one.tick <= now {
            one.tick = Moment::NEVER;
        }
        one.session.on_tick(now);
        self.run_session(at)
    }

    fn session_tick_at(&mut self, at: usize, due: Moment) {
        let one = &mut self.sessions[at];
        if due < one.tick {
            one.tick = due;
            self.queue.at(due, Event::SessionTick(at));
        }
    }

    /// Carries out what a session wants, and sees to it that it is called again in time.
    fn run_session(&mut self, at: usize) -> Check {
        let mut effects = Vec::new();
        self.sessions[at].session.take_effects(&mut effects);
        for effect in effects {
            match effect {
                SessionEffect::Connect { link, address } => {
                    self.session_connects(at, link, &address)?
                }
                SessionEffect::Send { link, bytes } => self.session_sends(at, link, &bytes)?,
                SessionEffect::Close { link, .. } => {
                    if let Some(conn) = self.sessions[at].links.remove(&link) {
                        self.cut_conn(conn);
                    }
                }
                SessionEffect::Finished { request, outcome } => {
                    self.session_finished(at, request, outcome)?;
                }
            }
        }
        let now = self.queue.now();
        let limit = timeout(&self.plan) + LATE;
        if let Some((request, open)) = self.sessions[at].open.first_key_value()
            && limit < now.since(open.since)
        {
            fail!(Liveness, "session {at}: {request:?} {:?} has no outcome", open.want);
        }
        let wake = self.sessions[at].session.next_wake();
        self.session_tick_at(at, wake.max(now));
        Ok(())
    }

    fn session_connects(&mut self, at: usize, link: LinkId, address: &str) -> Check {
        let parsed = address.strip_prefix("node-").and_then(|rest| {
            let (node, port) = rest.split_once(':')?;
            let shard = port.parse::<usize>().ok()?.checked_sub(7000)?;
            Some((node.parse::<usize>().ok()?, shard))
        });
        let (nodes, shards) = (self.nodes.len(), usize::from(self.plan.shards));
        let Some((node, shard)) = parsed.filter(|(node, shard)| *node < nodes && *shard < shards)
        else {
            fail!(Protocol, "session {at} connects to {address}");
        };
        let conn = self.dial(Owner::Session(at), node, shard);
        self.sessions[at].links.insert(link, conn);
        Ok(())
    }

    fn session_sends(&mut self, at: usize, link: LinkId, bytes: &Bytes) -> Check {
        let Some(number) = self.sessions[at].links.get(&link).copied() else {
            fail!(Protocol, "session {at} sends on {link:?}, which it closed");
        };
        let header = match FrameHeader::decode(bytes, FRAME_BYTES_MAX) {
            Ok(header) => header,
            Err(error) => fail!(Protocol, "session {at} sends garbage: {error}"),
        };
        if header.correlation != 0 {
            let one = &self.sessions[at];
            let Some(open) = one.open.get(&RequestId(header.correlation)) else {
                fail!(Protocol, "session {at} sends {header:?}, which nobody waits for");
            };
            // The oracle of the replies that leave a node asks what this was.
            let asked = Asked::of_session(one.maker.id(), open.want.clone());
            if let Some(conn) = self.conns.get(number) {
                conn.asked.insert(header.correlation, asked);
            }
        }
        self.send_to_node(number, bytes.to_vec());
        Ok(())
    }

    /// A session's connection is up.
    pub(super) fn on_session_link_up(&mut self, at: usize, conn: u64) -> Check {
        let now = self.queue.now();
        if let Some(link) = self.sessions[at].link_of(conn) {
            self.sessions[at].session.on_link_up(now, link);
        }
        self.run_session(at)
    }

    /// A session's connection is gone, or never came to be.
    pub(super) fn on_session_link_down(&mut self, at: usize, conn: u64) -> Check {
        let now = self.queue.now();
        if let Some(link) = self.sessions[at].link_of(conn) {
            self.sessions[at].links.remove(&link);
            self.sessions[at].session.on_link_down(now, link);
        }
        self.run_session(at)
    }

    /// Bytes for a session.
    pub(super) fn on_session_bytes(&mut self, at: usize, conn: u64, bytes: Bytes) -> Check {
        let now = self.queue.now();
        if let Some(link) = self.sessions[at].link_of(conn) {
            self.sessions[at].session.on_bytes(now, link, bytes);
        }
        self.run_session(at)
    }

    /// The one outcome of a request: what it promises must hold.
    fn session_finished(
        &mut self,
        at: usize,
        request: RequestId,
        outcome: Outcome<Answer>,
    ) -> Check {
        let one = &mut self.sessions[at];
        let Some(open) = one.open.remove(&request) else {
            fail!(Protocol, "session {at}: {request:?} has a second outcome {outcome:?}");
        };
        let id = one.maker.id();
        let is_done = matches!(outcome, Outcome::Done(_));
        match (&open.want, outcome) {
            (Want::Append { group, request, sizes }, Outcome::Done(Answer::Append(reply))) => {
                let ids = ids(id, *request, sizes.len());
                self.checker.acknowledges(*group, &ids, &reply)?;
                let last = LogIndex::new(reply.first.get() + ids.len() as u64 - 1);
                self.checker.acknowledged(*group, last)?;
                self.checker.history(*group).acknowledged(open.entry, reply.first);
                self.summary.appends_done += 1;
            }
            (
                Want::Read { group, from, consistency, must_see },
                Outcome::Done(Answer::Read(frame)),
            ) => {
                let reply = Reply::decode(&frame.header, frame.body());
                let (Ok(Reply::Read(view)), Ok(_)) =
                    (reply, ReadBatch::decode(&frame, *group, *from))
                else {
                    fail!(Protocol, "session {at}: a read of {from:?} gets what is none");
                };
                self.checker.read(*group, *from, *must_see, &view)?;
                let strict = *consistency == Consistency::Linearizable;
                let history = self.checker.history(*group);
                history.answered(open.entry, view.head.commit, view.batches, strict)?;
                self.summary.reads += 1;
            }
            (Want::Append { group, request, sizes }, Outcome::NotDone(refusal)) => {
                allowed_for_append(refusal)?;
                self.checker.history(*group).strike(open.entry);
                self.checker.refused(&ids(id, *request, sizes.len()))?;
                self.summary.appends_not_done += 1;
            }
            (Want::Read { group, from, .. }, Outcome::NotDone(refusal)) => {
                self.checker.history(*group).strike(open.entry);
                if let Refusal::Trimmed { next } = refusal {
                    self.check_trimmed(*group, *from, next)?;
                } else {
                    allowed_for_read(refusal)?;
                }
            }
            (Want::Append { .. }, Outcome::Unknown(_)) => self.summary.appends_unknown += 1,
            (Want::Read { .. }, Outcome::Unknown(_)) => (),
            (want, outcome) => fail!(Protocol, "session {at}: {want:?} ends as {outcome:?}"),
        }
        self.summary.session_requests += 1;
        if open.slot != usize::MAX {
            self.session_thinks(at, open.slot);
        } else if is_done {
            self.sessions[at].served = true;
        } else {
            self.queue.after(LATE, Event::SessionWake { session: at, slot: open.slot });
        }
        Ok(())
    }
}
