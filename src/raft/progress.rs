//! How far one peer is, as its leader sees it: match, next, what is on its way.
//!
//! Apart because windows and phases are bookkeeping with its own invariants. One per peer and led
//! group. Does not: send, or look at the log.

use std::collections::VecDeque;

use super::{LogBatch, OnItsWay, PeerPhase, PeerStatus, Window};
use crate::base::Moment;
use crate::model::{LogIndex, Member, Span};

/// How the leader deals with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It is not known what the peer has: ask on the control lane, send no data.
    Probe,
    /// Logs agree up to `next`: batches flow, several on their way.
    Stream,
    /// The peer needs what was trimmed; a snapshot up to `last` went out (S-02).
    Snapshot { last: LogIndex, sent_at: Moment },
}

/// One batch on its way.
#[derive(Clone, Copy, Debug)]
struct InFlight {
    last: LogIndex,
    bytes: u32,
}

/// Batches that were sent and are not waited for any more: their window stood still. The
/// stream may carry them yet, and their memory is in use until it has.
#[derive(Debug, Default)]
struct GivenUp {
    /// The last of them.
    upto: LogIndex,
    bytes: u64,
}

/// One peer of one led group.
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) member: Member,
    pub(super) phase: Phase,
    /// Durable on the peer, by its own word in this term. Never falls, except for an amnesiac.
    pub(super) matched: LogIndex,
    /// What to send next. In `Probe` the question is about the entry before it. Optimistic: an
    /// unacknowledged batch before it is on its way, and a reject or a lost link moves it back, so
    /// the worst case is that a batch is sent twice, never that one is missing.
    pub(super) next: LogIndex,
    in_flight: VecDeque<InFlight>,
    in_flight_bytes: u64,
    /// What was given up and may still lie in the bulk stream.
    given_up: GivenUp,
    /// Batches read back from the disk, consecutive; the first contains `next` or is behind it.
    fetched: VecDeque<LogBatch>,
    /// A fetch was asked for and not answered.
    pub(super) fetching: bool,
    /// When it last answered anything in this term (E-11).
    pub(super) heard: Moment,
    /// When `matched` last moved or had no reason to, or the data began to flow.
    pub(super) moved: Moment,
    /// The highest commit index it was told, and when it was told any.
    pub(super) told: LogIndex,
    pub(super) told_at: Moment,
    /// The newest round it confirmed (L-09).
    pub(super) round: u64,
    /// How often in a row it denied what it had acknowledged.
    pub(super) denials: u8,
    /// It did so twice: nothing it says counts towards a quorum in this term any more.
    pub(super) amnesiac: bool,
}

impl Progress {
    /// A peer about which nothing is known; `next` is the leader's guess.
    pub(super) fn new(member: Member, next: LogIndex, now: Moment) -> Self {
        // A peer is streamed to only after an answer in this very term, which is durable by then
        // and all its earlier writes with it; that alone would hide these bugs.
        let bold = planted!(I06_COMPLETION_OF_TRUNCATED) || planted!(I06_TRUNCATED_STILL_COUNTS);
        Self {
            member,
            phase: if bold { Phase::Stream } else { Phase::Probe },
            matched: LogIndex::BEFORE_FIRST,
            next,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            given_up: GivenUp::default(),
            fetched: VecDeque::new(),
            fetching: false,
            heard: now,
            moved: now,
            told: LogIndex::BEFORE_FIRST,
            told_at: now,
            round: 0,
            denials: 0,
            amnesiac: false,
        }
    }

    /// Starts over: asks about the entry before `next` and forgets what is on its way.
    pub(super) fn probe_from(&mut self, next: LogIndex) {
        self.phase = Phase::Probe;
        self.next = next;
        self.forget_window();
    }

    /// Waits for the peer to install a snapshot that covers up to `last`.
    pub(super) fn wait_for_snapshot(&mut self, last: LogIndex, now: Moment) {
        self.phase = Phase::Snapshot { last, sent_at: now };
        self.forget_window();
    }

    /// Lets batches flow from behind what is certain.
    fn stream(&mut self, now: Moment) {
        self.phase = Phase::Stream;
        self.next = self.matched.next();
        self.moved = now;
        self.forget_window();
    }

    fn forget_window(&mut self) {
        if planted!(R08_WINDOW_KEPT) {
            return;
        }
        if let Some(newest) = self.in_flight.back() {
            self.given_up.upto = self.given_up.upto.max(newest.last);
            self.given_up.bytes += core::mem::take(&mut self.in_flight_bytes);
        }
        self.in_flight.clear();
        self.fetched.clear();
        self.fetching = false;
    }

    /// Whether a batch of `bytes` may follow. One always may, or a large one would never go.
    pub(super) fn has_room_for(&self, bytes: u64, window: &Window) -> bool {
        self.in_flight.is_empty()
            || (self.in_flight.len() < window.batches_max as usize
                && self.in_flight_bytes + bytes <= window.bytes_max)
    }

    /// Notes that `span` is on its way.
    pub(super) fn sent(&mut self, span: &Span, bytes: u32, now: Moment) {
        assert_eq!(self.phase, Phase::Stream, "data flows to a peer whose log is known");
        if self.in_flight.is_empty() {
            self.moved = now;
        }
        self.in_flight.push_back(InFlight { last: span.last(), bytes });
        self.in_flight_bytes += u64::from(bytes);
        self.next = span.last().next();
        self.drop_fetched();
    }

    /// Notes that everything up to `matched` is durable there, and frees exactly that.
    pub(super) fn accepted(&mut self, matched: LogIndex, now: Moment) {
        self.denials = 0;
        if self.matched < matched {
            self.matched = matched;
            self.moved = now;
        }
        while let Some(oldest) = self.in_flight.front()
            && oldest.last <= matched
            && !planted!(R08_ACK_FREES_NOTHING)
        {
            self.in_flight_bytes -= u64::from(oldest.bytes);
            self.in_flight.pop_front();
        }
        if self.given_up.upto <= matched {
            // What was sent first came first: the stream has carried all of it.
            self.given_up = GivenUp::default();
        }
        match self.phase {
            // What was asked about may not be durable there yet and is sent again then; what is
            // acknowledged surely matches, so this is right whatever question it answers.
            Phase::Probe => self.stream(now),
            Phase::Stream if self.next <= self.matched => self.stream(now),
            Phase::Snapshot { last, .. } if last <= self.matched => {
                mark!(S02_SNAPSHOT_ACKNOWLEDGED);
                self.stream(now);
            }
            Phase::Stream | Phase::Snapshot { .. } => {}
        }
    }

    /// The peer has lost what it acknowledged: what it said is void.
    pub(super) fn is_amnesiac(&mut self) {
        self.amnesiac = true;
        self.matched = LogIndex::BEFORE_FIRST;
        self.round = 0;
    }

    /// What this peer adds to a commit quorum.
    pub(super) fn counted_match(&self) -> LogIndex {
        if self.amnesiac { LogIndex::BEFORE_FIRST } else { self.matched }
    }

    /// What this peer adds to a read quorum.
    pub(super) fn counted_round(&self) -> u64 {
        if self.amnesiac { 0 } else { self.round }
    }

    /// When this peer was last heard, for the leader's quorum check.
    pub(super) fn counted_heard(&self) -> Moment {
        if self.amnesiac { Moment::ZERO } else { self.heard }
    }

    /// Lets go of fetched batches that lie before `next`: each holds what it was read into,
    /// and a peer that has caught up asks for no more.
    fn drop_fetched(&mut self) {
        while self.fetched.front().is_some_and(|batch| batch.span.last() < self.next) {
            mark!(R08_FETCHED_BATCH_LET_GO);
            self.fetched.pop_front();
        }
    }

    /// The fetched batch that contains `next`.
    pub(super) fn fetched_front(&mut self) -> Option<&LogBatch> {
        self.drop_fetched();
        self.fetched.front().filter(|batch| batch.span.contains(self.next))
    }

    /// Keeps what was read from the disk. An answer that nobody waits for any more is dropped.
    pub(super) fn keep_fetched(&mut self, batches: impl Iterator<Item = LogBatch>) {
        if !self.fetching {
            return;
        }
        self.fetching = false;
        self.fetched.clear();
        self.fetched.extend(batches);
        // The answer to a question from before the window was given up may hold only what the peer
        // has acknowledged meanwhile.
        self.drop_fetched();
    }

    /// The bulk stream is gone, and with it what lay in it.
    pub(super) fn stream_ended(&mut self) {
        self.given_up = GivenUp::default();
    }

    /// What this peer keeps busy, for the budget of its link.
    pub(super) fn on_its_way(&self) -> OnItsWay {
        OnItsWay {
            bytes: self.in_flight_bytes + self.given_up.bytes,
            given_up_bytes: self.given_up.bytes,
            unsent: self.fetched.len(),
        }
    }

    /// Whether the peer owes an answer to something that was sent.
    pub(super) fn awaits_answer(&self) -> bool {
        !self.in_flight.is_empty()
    }

    pub(super) fn status(&self) -> PeerStatus {
        let phase = match self.phase {
            Phase::Probe => PeerPhase::Probe,
            Phase::Stream => PeerPhase::Stream,
            Phase::Snapshot { .. } => PeerPhase::Snapshot,
        };
        PeerStatus {
            phase,
            matched: self.matched,
            next: self.next,
            in_flight_bytes: self.in_flight_bytes,
            amnesiac: self.amnesiac,
        }
    }

    /// Facts that hold between any two calls.
    pub(super) fn check(&self, last: LogIndex) {
        assert!(self.matched <= last, "{:?} has {:?} of {last:?}", self.member, self.matched);
        assert!(LogIndex::BEFORE_FIRST < self.next && self.next <= last.next(), "{self:?}");
        assert!(self.phase == Phase::Stream || self.in_flight.is_empty());
        if let (Some(oldest), Some(newest)) = (self.in_flight.front(), self.in_flight.back()) {
            assert!(self.matched < oldest.last && newest.last < self.next, "{self:?}");
        }
    }

    /// The same and the window batch by batch. O(window).
    pub(super) fn check_deep(&self, last: LogIndex) {
        self.check(last);
        let bytes: u64 = self.in_flight.iter().map(|one| u64::from(one.bytes)).sum();
        assert_eq!(bytes, self.in_flight_bytes);
        let pairs = self.in_flight.iter().zip(self.in_flight.iter().skip(1));
        assert!(pairs.into_iter().all(|(one, next)| one.last < next.last));
    }
}
