//! What the engine does with answers: count them, believe them, send again what was refused.
//!
//! The three outcomes are kept apart: Done goes to the ledger, NotDone is sent again with the
//! same record numbers (so a refusal that was not one shows up as a duplicate), Unknown is noted
//! as in doubt and never sent again.

use std::mem;
use std::time::Duration;

use catamaran::model::{BatchView, Doubt, Outcome, Refusal};
use catamaran::wire::client::{ReadReplyView, Reply};

use crate::engine::{Early, Engine, Work, nanos, read_place};
use crate::flight::{Flying, Request};
use crate::ledger::{Doubtful, Run};

/// Pause after a refusal that does not say how long to wait.
const PAUSE_REFUSED_NS: u64 = 5_000_000;
/// Pause before following a hint: two nodes that point at each other must not make us spin.
const PAUSE_HINT_NS: u64 = 500_000;
/// The longest pause a node can talk us into.
const PAUSE_MAX: Duration = Duration::from_millis(200);

impl Engine {
    /// The socket of link `at` has something to read.
    pub(crate) fn on_input(&mut self, at: usize, now_ns: u64) {
        loop {
            let Some(link) = self.links[at].as_mut() else { return };
            let Ok(more) = link.receive() else { return self.lose(at) };
            link.heard_ns = now_ns;
            let credit = self.credit;
            if !self.take_replies(at, now_ns) {
                self.meter.error("protocol", 1);
                return self.lose(at);
            }
            // What this link answered, this link carries again: each keeps its share of the
            // window, and its records lie beside each other in the log.
            while self.credit > credit && self.issue_closed(Some(at), now_ns) {}
            if !more {
                return;
            }
        }
    }

    /// Cuts and handles every whole reply of link `at`; false if the bytes make no sense.
    fn take_replies(&mut self, at: usize, now_ns: u64) -> bool {
        let Some(link) = self.links[at].as_mut() else { return true };
        let mut incoming = mem::take(&mut link.incoming);
        let mut next_at = 0;
        let mut answered = 0;
        let sound = loop {
            match incoming.cut(next_at) {
                Ok(Some(cut)) => {
                    next_at = cut.next_at;
                    let Some(flying) = self.flight.land(cut.correlation) else { break false };
                    answered += 1;
                    if !self.on_reply(flying, cut.reply, now_ns) {
                        break false;
                    }
                }
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        incoming.forget(next_at);
        if let Some(link) = self.links[at].as_mut() {
            link.incoming = incoming;
            link.outstanding -= answered;
        }
        sound
    }

    /// One answer; false if it does not fit its request.
    #[inline]
    fn on_reply(&mut self, flying: Flying, reply: Reply<'_>, now_ns: u64) -> bool {
        let request = flying.request;
        let records = self.payload.records_per_request();
        match (reply, &self.work) {
            (Reply::Append(reply), Work::Append) => {
                self.credit += 1;
                self.open_gate(request.group, now_ns);
                self.ledger.ack(Run {
                    group: request.group,
                    count: records,
                    index: reply.first.get(),
                    number: request.number,
                });
                self.meter.done(request.intended_ns, now_ns, records);
            }
            (Reply::Read(view), Work::Read { .. }) => {
                self.credit += 1;
                self.open_gate(request.group, now_ns);
                if !self.is_right(&request, &view) {
                    self.meter.wrong += 1;
                }
                self.meter.done(request.intended_ns, now_ns, 1);
            }
            (Reply::Error(error), _) => match error.outcome::<()>() {
                Outcome::NotDone(refusal) => self.not_done(request, refusal, now_ns),
                Outcome::Unknown(doubt) => self.doubted(request, doubt, now_ns),
                Outcome::Done(()) => return false,
            },
            (
                Reply::Append(_)
                | Reply::Read(_)
                | Reply::Hello(_)
                | Reply::Metadata(_)
                | Reply::Status(_),
                _,
            ) => return false,
        }
        true
    }

    /// Whether the page holds the record that was asked for, byte for byte.
    fn is_right(&self, request: &Request, view: &ReadReplyView<'_>) -> bool {
        let Work::Read { places, .. } = &self.work else { return false };
        let place = read_place(places, request);
        let Ok(batch) = BatchView::decode(view.batches) else { return false };
        batch.records().flatten().any(|(index, record)| {
            index.get() == place.index
                && self.payload.number_of(request.group, record) == Some(place.number)
        })
    }

    /// Certainly without effect: again, unless it would only be refused again.
    fn not_done(&mut self, request: Request, refusal: Refusal, now_ns: u64) {
        self.meter.error(name_of(&refusal), 1);
        let mut pause_ns = PAUSE_REFUSED_NS;
        match refusal {
            Refusal::NotLeader { hint } => {
                let group = request.group as usize;
                let told = hint.and_then(|node| self.topology.endpoint_of(node, group));
                if told.is_none() || told == self.routes[group] {
                    self.wish_routes();
                    return self.shut_gate(request, now_ns);
                }
                self.set_route(group, told);
                pause_ns = PAUSE_HINT_NS;
            }
            Refusal::Busy { retry_after } => pause_ns = nanos(retry_after.min(PAUSE_MAX)),
            Refusal::Unavailable | Refusal::TimedOut => {
                self.wish_routes();
                return self.shut_gate(request, now_ns);
            }
            Refusal::DiskFull
            | Refusal::TooLarge { .. }
            | Refusal::UnknownGroup
            | Refusal::Trimmed { .. }
            | Refusal::WrongTail { .. }
            | Refusal::Unsupported
            | Refusal::Malformed => {
                self.end_early(Early::Refused(refusal), now_ns);
            }
        }
        self.again.push(now_ns + pause_ns, request);
    }

    fn doubted(&mut self, request: Request, doubt: Doubt, now_ns: u64) {
        let kind = match doubt {
            Doubt::LeadershipLost => "leadership_lost",
            Doubt::ConnectionLost => "connection_lost",
            Doubt::TimedOut => "timed_out",
        };
        self.wish_routes();
        match self.work {
            Work::Append => self.unknown(request, kind),
            // Reading has no effect, so reading again has none either.
            Work::Read { .. } => {
                self.meter.error(kind, 1);
                self.again.push(now_ns + PAUSE_REFUSED_NS, request);
            }
        }
    }

    /// Nobody can say what became of this append: it is noted and never sent again.
    pub(crate) fn unknown(&mut self, request: Request, kind: &'static str) {
        self.credit += 1;
        self.meter.error(kind, 1);
        if matches!(self.work, Work::Append) {
            self.ledger.doubt(Doubtful {
                group: request.group,
                count: self.payload.records_per_request(),
                number: request.number,
            });
        }
    }
}

/// The kind of a refusal as results name it.
fn name_of(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::NotLeader { .. } => "not_leader",
        Refusal::Busy { .. } => "busy",
        Refusal::DiskFull => "disk_full",
        Refusal::TooLarge { .. } => "too_large",
        Refusal::UnknownGroup => "unknown_group",
        Refusal::Trimmed { .. } => "trimmed",
        Refusal::WrongTail { .. } => "wrong_tail",
        Refusal::Unsupported => "unsupported",
        Refusal::Malformed => "malformed",
        Refusal::Unavailable => "unavailable",
        Refusal::TimedOut => "refused_timed_out",
    }
}
