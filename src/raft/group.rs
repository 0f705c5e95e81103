//! One replica of one group: its state, its clock, and the door for every input.
//!
//! `election.rs`, `follower.rs`, `replication.rs`, `commit.rs`, `read.rs`, `snapshot.rs` and
//! `persist.rs` hold the rest of `impl Group`, a subject each. Does not: send, write or wait;
//! wishes go into the caller's [`Effects`].

use core::mem::discriminant;

use super::follower::is_sane;
use super::log::Log;
use super::persist::{Durability, Promise};
use super::progress::Progress;
use super::role::{Follower, Role};
use super::{
    Counters, Device, Effect, Effects, Envelope, LogBatch, Message, PeerStatus, Recovered,
    RoleName, Settings,
};
use crate::base::{Moment, Prng};
use crate::model::{EntryId, GroupId, LogIndex, Member, Membership, NodeId, Term};

/// Messages that wait for the hard state, at most: a few kinds for every member, and room for
/// strangers that ask for votes (M-03). What exceeds it is dropped, as a network may.
const HELD_MAX: usize = 64;

/// A replica of a group. One per group and node.
///
/// Inputs are method calls, wishes are pushed into [`Effects`], and the caller ends each turn in
/// which it spoke to the group with [`Group::flush`]. Control messages of one peer must come in
/// the order they were sent and at most once per stream (N-06); any may be missing.
#[derive(Debug)]
pub struct Group {
    pub(super) settings: Settings,
    pub(super) log: Log,
    pub(super) configurations: Configurations,
    /// The newest term this replica has seen, durable or not yet.
    pub(super) term: Term,
    /// Whom it votes for in `term`, durable or not yet.
    pub(super) vote: Option<NodeId>,
    /// Who was seen to lead `term`. Kept when the leader falls silent: a term has one leader.
    pub(super) term_leader: Option<NodeId>,
    pub(super) commit: LogIndex,
    pub(super) durability: Durability,
    pub(super) role: Role,
    /// When to start an election, unless leading.
    pub(super) election_at: Moment,
    /// When a leader was last heard, in whatever term. Outlives the term and the role: the promise
    /// not to help a rival for `election_min` is made to that leader (E-09).
    pub(super) leader_heard: Option<Moment>,
    /// Until then no vote is granted: what this node promised before it stopped is not known (L-04).
    pub(super) vote_hold_until: Moment,
    /// Whether the own device completes writes (E-13).
    pub(super) device: Device,
    /// Messages that may not leave before the hard state is durable, at most one of a kind for
    /// each peer (H-01).
    pub(super) held: Vec<Envelope>,
    /// The newest `now` that was passed in.
    pub(super) now: Moment,
    pub(super) prng: Prng,
    pub(super) counters: Counters,
}

impl Group {
    /// A follower with what was recovered.
    ///
    /// # Panics
    /// If the recovered facts contradict each other; recovery refuses such a group (H-07).
    pub fn new(settings: Settings, recovered: Recovered, now: Moment, prng: Prng) -> Self {
        let Recovered { hard_state, base, base_membership, memberships, .. } = recovered;
        let Recovered { before_spans, runs, spans, .. } = recovered;
        let mut log = Log::recovered(base, before_spans, &runs, settings.tail_batches_max);
        for (span, kind, bytes) in spans {
            log.append(LogBatch { span, kind, bytes, slice: None });
        }
        let last = log.last();
        assert!(hard_state.commit <= last.index, "{hard_state:?} lies behind {last:?} (H-07)");
        assert!(last.term <= hard_state.term, "{last:?} is newer than {hard_state:?} (H-03)");
        let commit = hard_state.commit.max(base.index);
        let promise = Promise { term: hard_state.term, vote: hard_state.vote };
        // Nothing was ever promised by a replica that never saw a term, so it may vote at once.
        let is_new = hard_state.term == Term::ZERO;
        let hold = if is_new || planted!(L04_NO_VOTE_HOLD) {
            Moment::ZERO
        } else {
            now.after(settings.timing.election_min)
        };
        let mut group = Self {
            durability: Durability::new(last.index, promise),
            settings,
            log,
            configurations: Configurations { base: base_membership, changes: memberships },
            term: hard_state.term,
            vote: hard_state.vote,
            term_leader: None,
            commit,
            role: Role::Follower(Follower::new(None, commit, last.index)),
            election_at: Moment::NEVER,
            leader_heard: None,
            vote_hold_until: hold,
            device: Device::Works,
            held: Vec::new(),
            now,
            prng,
            counters: Counters::default(),
        };
        group.arm_election_timer();
        group
    }

    /// Lets time pass: starts elections, sends heartbeats, steps down. Cheap before
    /// [`Group::deadline`].
    pub fn tick(&mut self, now: Moment, fx: &mut Effects) {
        self.clock(now);
        if matches!(self.role, Role::Leader(_)) {
            self.tick_leader(fx);
        } else if self.election_at <= self.now {
            self.on_election_timeout(fx);
        }
    }

    /// When [`Group::tick`] and [`Group::flush`] have something to do next, if nothing else comes.
    pub fn deadline(&self) -> Moment {
        match &self.role {
            Role::Leader(leader) => leader
                .heartbeat_at
                .min(self.quorum_lost_at(leader))
                .min(self.commit_news_at(leader)),
            Role::Follower(_) | Role::PreCandidate(_) | Role::Candidate(_) => self.election_at,
        }
    }

    /// Takes one message of the control lane.
    ///
    /// Cannot fail: peers may lag or lie, so what makes no sense is counted and dropped.
    pub fn step(&mut self, now: Moment, envelope: Envelope, fx: &mut Effects) {
        self.clock(now);
        assert_eq!(envelope.group, self.settings.group, "the shard found the group by its id");
        let Envelope { peer, from_replica, to_replica, term, message, .. } = envelope;
        let from = Member { node: peer, replica: from_replica };
        let is_stray = to_replica != self.settings.replica || peer == self.settings.node;
        if is_stray || !is_sane(term, LogIndex::BEFORE_FIRST) {
            // For a replica that lived here before (N-05), or garbage.
            self.counters.nonsense += 1;
            return;
        }
        match message {
            // These two ask; whether they even move the term is decided there (E-04, E-09).
            Message::PreVote { last } => self.on_pre_vote(from, term, last, fx),
            Message::Vote { last } => self.on_vote(from, term, last, fx),
            // Of the term it would be granted in, which nobody has yet (9.6).
            Message::PreVoteReply { granted: true } => self.on_pre_vote_granted(from, term, fx),
            message @ (Message::PreVoteReply { .. }
            | Message::VoteReply { .. }
            | Message::Heartbeat { .. }
            | Message::HeartbeatReply { .. }
            | Message::Probe { .. }
            | Message::Accepted { .. }
            | Message::Rejected { .. }
            | Message::Snapshot { .. }) => {
                if self.term < term && !planted!(E04_NEWER_TERM_IGNORED) {
                    mark!(E04_NEWER_TERM_ADOPTED);
                    let leader = message.is_from_leader().then_some(from);
                    self.become_follower(term, leader, fx);
                }
                self.step_in_term(from, term, message, fx);
            }
        }
    }

    /// A message of this term or an older one.
    fn step_in_term(&mut self, from: Member, term: Term, message: Message, fx: &mut Effects) {
        if term < self.term {
            return self.answer_stale(from, &message, fx);
        }
        assert_eq!(term, self.term, "a newer term was adopted");
        match message {
            Message::PreVoteReply { .. } => {} // Its only news was the term (E-06).
            Message::VoteReply { granted } => self.on_vote_reply(from, granted, fx),
            Message::Heartbeat { commit, round } => self.on_heartbeat(from, commit, round, fx),
            Message::Probe { prev, commit } => self.on_probe(from, prev, commit, fx),
            Message::Snapshot { last, membership } => self.on_snapshot(from, last, membership, fx),
            Message::HeartbeatReply { round } => self.on_heartbeat_reply(from, round, fx),
            Message::Accepted { matched } => self.on_accepted(from, matched, fx),
            Message::Rejected { prev, hint } => self.on_rejected(from, prev, hint, fx),
            Message::PreVote { .. } | Message::Vote { .. } => {
                unreachable!("answered before the term was looked at")
            }
        }
    }

    /// A stuck leader or asker of an older term is told the newer one (E-07). Answers are not
    /// answered.
    fn answer_stale(&mut self, from: Member, message: &Message, fx: &mut Effects) {
        match message {
            _ if planted!(E07_STALE_LEADER_NOT_TOLD) => {}
            Message::Heartbeat { round, .. } => {
                mark!(E07_STALE_LEADER_TOLD);
                self.send(from, Message::HeartbeatReply { round: *round }, fx);
            }
            Message::Accepted { matched } if planted!(R11_OLD_ACKS_COUNT) => {
                self.on_accepted(from, *matched, fx);
            }
            Message::HeartbeatReply { round } if planted!(L09_OLD_TERMS_CONFIRM) => {
                self.on_heartbeat_reply(from, *round, fx);
            }
            Message::Probe { prev, .. } | Message::Snapshot { last: prev, .. } => {
                mark!(E07_STALE_PROBE_ANSWERED);
                let hint = self.log.last();
                self.send(from, Message::Rejected { prev: prev.index, hint }, fx);
            }
            Message::PreVote { .. }
            | Message::Vote { .. }
            | Message::PreVoteReply { .. }
            | Message::VoteReply { .. }
            | Message::HeartbeatReply { .. }
            | Message::Accepted { .. }
            | Message::Rejected { .. } => mark!(R11_STALE_ANSWER_DROPPED),
        }
    }

    /// Ends a turn: starts the round that waiting reads share, answers the leader at most once,
    /// asks for snapshots, tells commit news (see [`super::COMMIT_NEWS_INTERVAL`]).
    pub fn flush(&mut self, now: Moment, fx: &mut Effects) {
        self.clock(now);
        match &self.role {
            Role::Leader(_) => self.flush_leader(fx),
            Role::Follower(_) => self.flush_answers(fx),
            Role::PreCandidate(_) | Role::Candidate(_) => {}
        }
    }

    /// Forgets the log up to `upto`, the end of a committed batch. Forgetting less than was
    /// forgotten already does nothing.
    ///
    /// # Panics
    /// If `upto` is not committed, not in the log, or inside a batch.
    pub fn trim(&mut self, upto: EntryId) {
        if upto.index <= self.log.base().index {
            return;
        }
        assert!(upto.index <= self.commit, "{upto:?} is not committed: {:?}", self.commit);
        self.log.trim(upto);
        self.configurations.trim(upto.index);
    }

    /// Drops the memory of batches that end at or before `upto`; they are fetched when needed.
    pub fn evict(&mut self, upto: LogIndex) {
        self.log.evict(upto);
    }

    /// What this replica is at the moment.
    pub fn role(&self) -> RoleName {
        self.role.name()
    }

    /// The newest term it has seen.
    pub fn term(&self) -> Term {
        self.term
    }

    /// Whom it believes to lead its term, itself included.
    pub fn leader(&self) -> Option<NodeId> {
        match &self.role {
            Role::Leader(_) => Some(self.settings.node),
            Role::Follower(follower) => follower.leader.map(|leader| leader.node),
            Role::PreCandidate(_) | Role::Candidate(_) => None,
        }
    }

    /// Which group it is a replica of.
    pub fn id(&self) -> GroupId {
        self.settings.group
    }

    /// When it last heard a leader or, leading, its quorum.
    pub fn heard(&self) -> Option<Moment> {
        match &self.role {
            Role::Leader(leader) => Some(self.quorum_heard_at(leader).min(self.now)),
            Role::Follower(_) | Role::PreCandidate(_) | Role::Candidate(_) => self.leader_heard,
        }
    }

    /// The last entry of its log, durable or not.
    pub fn last(&self) -> EntryId {
        self.log.last()
    }

    /// The highest index it knows to be committed.
    pub fn commit(&self) -> LogIndex {
        self.commit
    }

    /// Everything up to here survives a crash of this node.
    pub fn durable(&self) -> LogIndex {
        self.durability.upto()
    }

    /// The entry just before the first one kept.
    pub fn base(&self) -> EntryId {
        self.log.base()
    }

    /// The first index kept, or the next one if the log is empty.
    pub fn first_index(&self) -> LogIndex {
        self.log.base().index.next()
    }

    /// The configuration in force: the newest in the log, committed or not (thesis 4.1, M-02).
    pub fn membership(&self) -> &Membership {
        self.configurations.newest()
    }

    /// The configuration as of [`Group::base`].
    pub fn base_membership(&self) -> &Membership {
        &self.configurations.base
    }

    /// The configuration that was in force when the log ended at `index`, which is at or behind the
    /// base.
    pub fn membership_at(&self, index: LogIndex) -> &Membership {
        self.configurations.as_of(index)
    }

    /// The term of `index`, if that is known: from the base to the last entry.
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        self.log.term_at(index)
    }

    /// The batch that contains `index`, if it is among the newest `tail_batches_max`.
    pub fn span_at(&self, index: LogIndex) -> Option<&LogBatch> {
        self.log.batch_at(index)
    }

    /// What `peer` has acknowledged to this leader in this term.
    pub fn match_of(&self, peer: NodeId) -> Option<LogIndex> {
        match &self.role {
            Role::Leader(leader) => leader.peer(peer).map(|progress| progress.matched),
            Role::Follower(_) | Role::PreCandidate(_) | Role::Candidate(_) => None,
        }
    }

    /// How `peer` is doing, if this replica leads and replicates to it.
    pub fn peer(&self, peer: NodeId) -> Option<PeerStatus> {
        match &self.role {
            Role::Leader(leader) => leader.peer(peer).map(Progress::status),
            Role::Follower(_) | Role::PreCandidate(_) | Role::Candidate(_) => None,
        }
    }

    /// What happened since the start that people may want to know about.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Takes a reading of the clock. Readings of one turn may be slightly out of order.
    pub(super) fn clock(&mut self, now: Moment) {
        self.now = self.now.max(now);
    }

    /// Sends in the present term, as soon as the hard state is durable.
    pub(super) fn send(&mut self, to: Member, message: Message, fx: &mut Effects) {
        self.send_in(self.term, to, message, fx);
    }

    /// Sends with the given term. The one way out: whatever a message promises or reveals is on
    /// the disk before it leaves, and what cannot leave yet leaves from [`Group::persisted`]
    /// (H-01). Of each kind only the newest for a peer waits.
    pub(super) fn send_in(&mut self, term: Term, to: Member, message: Message, fx: &mut Effects) {
        let envelope = Envelope {
            group: self.settings.group,
            peer: to.node,
            from_replica: self.settings.replica,
            to_replica: to.replica,
            term,
            message,
        };
        if self.promise_is_durable() || planted!(H01_WORDS_BEFORE_DISK) {
            fx.push(Effect::Send(envelope));
            return;
        }
        mark!(H01_MESSAGE_HELD);
        let kind = discriminant(&envelope.message);
        self.held.retain(|held| held.peer != to.node || discriminant(&held.message) != kind);
        if self.held.len() < HELD_MAX {
            self.held.push(envelope);
        }
    }
}

/// The configurations of a log. The newest is in force whether it is committed or not, and the
/// one before it comes back when it is truncated (thesis 4.1, M-02).
#[derive(Debug)]
pub(super) struct Configurations {
    /// As of the log's base.
    pub(super) base: Membership,
    /// Those behind the base, in order.
    pub(super) changes: Vec<(LogIndex, Membership)>,
}

impl Configurations {
    pub(super) fn newest(&self) -> &Membership {
        self.changes.last().map_or(&self.base, |(_, membership)| membership)
    }

    /// Where the newest one stands; `None` if it is the base's.
    pub(super) fn newest_at(&self) -> Option<LogIndex> {
        self.changes.last().map(|(index, _)| *index)
    }

    /// The one in force as of `index`.
    pub(super) fn as_of(&self, index: LogIndex) -> &Membership {
        let after = self.changes.partition_point(|(at, _)| *at <= index);
        after.checked_sub(1).map_or(&self.base, |i| &self.changes[i].1)
    }

    pub(super) fn push(&mut self, index: LogIndex, membership: Membership) {
        assert!(self.newest_at().is_none_or(|newest| newest < index));
        self.changes.push((index, membership));
    }

    pub(super) fn truncate(&mut self, from: LogIndex) {
        self.changes.retain(|(index, _)| *index < from);
    }

    pub(super) fn trim(&mut self, upto: LogIndex) {
        self.base = self.as_of(upto).clone();
        self.changes.retain(|(index, _)| upto < *index);
    }
}
