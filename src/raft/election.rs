//! Elections: timeouts, pre-votes, votes, and every change of role (thesis 3.4, 9.6).
//!
//! Pre-vote and check-quorum are always on (E-08). Apart because who leads has nothing to do with
//! what is replicated. Does not: hand leadership over, or change the membership.

use core::time::Duration;
use std::collections::VecDeque;

use super::progress::Progress;
use super::role::{Candidate, Follower, Leader, PreCandidate, Role};
use super::{Device, Effect, Effects, Group, Message, ReadToken};
use crate::base::Moment;
use crate::model::{EntryId, Member, NodeId, Refusal, Term};

impl Group {
    /// Draws a new timeout from `[election_min, election_max)`, at each attempt anew (E-03, E-15):
    /// the generator was seeded from outside, so a thousand groups that start together spread.
    pub(super) fn arm_election_timer(&mut self) {
        let timing = &self.settings.timing;
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let timeout = self.prng.between(nanos(timing.election_min), nanos(timing.election_max));
        self.election_at = self.now.after(Duration::from_nanos(timeout));
    }

    /// No leader was heard for a whole timeout, or an election did not end.
    pub(super) fn on_election_timeout(&mut self, fx: &mut Effects) {
        self.arm_election_timer();
        if !self.may_campaign() || self.device == Device::Stuck {
            return self.listen_on(fx);
        }
        mark!(E03_ELECTION_TIMEOUT);
        self.set_role(Role::PreCandidate(PreCandidate::default()), fx);
        self.on_pre_vote_of(self.settings.node, fx);
        if matches!(self.role, Role::PreCandidate(_)) {
            let last = self.log.last();
            let term = self.term.next();
            for voter in self.other_voters() {
                self.send_in(term, voter, Message::PreVote { last }, fx);
            }
        }
    }

    /// The own device stopped completing writes, or completes them again (E-13).
    ///
    /// A leader whose device hangs would lead for ever: its heartbeats need no disk. It lays the
    /// office down, and nobody on this node campaigns before the device works again: its own vote
    /// could not become durable, and its term would only unseat a leader that works.
    pub fn on_device(&mut self, now: Moment, device: Device, fx: &mut Effects) {
        self.clock(now);
        if core::mem::replace(&mut self.device, device) == device {
            return;
        }
        let leads = matches!(self.role, Role::Leader(_));
        match device {
            Device::Stuck if leads => self.step_down(fx),
            Device::Stuck => {}
            Device::Works => {
                assert!(!leads, "nobody leads on a device that is stuck");
                // Those whose devices worked all the time come first.
                self.arm_election_timer();
            }
        }
    }

    /// Who may not campaign forgets the silent leader and goes on listening (M-09, E-13).
    fn listen_on(&mut self, fx: &mut Effects) {
        match &mut self.role {
            Role::Follower(follower) => {
                if follower.leader.take().is_some() {
                    fx.push(Effect::LeaderChanged { group: self.settings.group, leader: None });
                }
            }
            Role::PreCandidate(_) | Role::Candidate(_) => {
                self.become_follower(self.term, None, fx);
            }
            Role::Leader(_) => unreachable!("a leader has no election timeout"),
        }
    }

    /// A voter may. So may one that its newest configuration leaves out, as long as that is not
    /// committed: it may have the only log that can win (E-12, thesis 4.2.2).
    fn may_campaign(&self) -> bool {
        let node = self.settings.node;
        self.membership().is_voter(node)
            || (self.configurations.newest_at().is_some_and(|at| self.commit < at)
                && self.configurations.as_of(self.commit).is_voter(node))
    }

    fn other_voters(&self) -> Vec<Member> {
        let membership = self.membership();
        membership
            .members()
            .filter(|m| m.node != self.settings.node && membership.is_voter(m.node))
            .collect()
    }

    /// Would I vote for `from`, whose log ends with `last`, in `term`? Changes nothing (H-06).
    pub(super) fn on_pre_vote(
        &mut self,
        from: Member,
        term: Term,
        last: EntryId,
        fx: &mut Effects,
    ) {
        let granted = self.term < term
            && !self.is_vote_withheld()
            && (self.is_up_to_date(last) || planted!(E05_PRE_VOTE_FOR_ANY_LOG));
        if planted!(H06_PRE_VOTE_OPENS_TERM) && self.term < term {
            self.become_follower(term, None, fx);
        }
        if granted {
            mark!(E05_PRE_VOTE_GRANTED);
            self.send_in(term, from, Message::PreVoteReply { granted }, fx);
        } else {
            mark!(E06_PRE_VOTE_REFUSED_WITH_NEWER_TERM if term <= self.term);
            mark!(E09_PRE_VOTE_WITHHELD if self.is_vote_withheld());
            mark!(E05_PRE_VOTE_REFUSED_TO_SHORTER_LOG if !self.is_up_to_date(last));
            // With the own term, which frees an asker that is behind (E-06).
            let own = if planted!(E06_REFUSAL_HIDES_TERM) { Term::ZERO } else { self.term };
            self.send_in(own, from, Message::PreVoteReply { granted }, fx);
        }
    }

    /// A candidate asks for this replica's vote in `term`. Whether it is in the configuration
    /// known here does not matter: the candidate's own governs the election (M-03, M-10).
    pub(super) fn on_vote(&mut self, from: Member, term: Term, last: EntryId, fx: &mut Effects) {
        if self.term <= term && self.is_vote_withheld() {
            // Before the term is looked at: a rival of a live leader changes nothing here, not
            // even the term, or one cut-off node could unseat leader after leader (E-09 before
            // E-04; thesis 4.2.3).
            mark!(E09_VOTE_WITHHELD);
            return;
        }
        if self.term < term {
            self.become_follower(term, None, fx);
        }
        let is_free = matches!(self.role, Role::Follower(_)) && self.term_leader.is_none();
        let is_first =
            self.vote.is_none() || self.vote == Some(from.node) || planted!(E01_VOTE_FOR_TWO);
        let granted = term == self.term && is_free && is_first && self.is_up_to_date(last);
        mark!(E01_SECOND_CANDIDATE_REFUSED if term == self.term && !is_first);
        mark!(E02_VOTE_REFUSED_TO_SHORTER_LOG if !self.is_up_to_date(last));
        if granted {
            mark!(E01_VOTE_GRANTED);
            if self.vote.is_none() {
                self.vote = Some(from.node);
                fx.push(Effect::HardStateDirty { group: self.settings.group });
            }
            // Its own campaign would only disturb the one it just supported (L-07).
            if !planted!(L07_VOTE_KEEPS_TIMER) {
                self.arm_election_timer();
            }
        }
        self.send(from, Message::VoteReply { granted }, fx);
    }

    /// Whether a log that ends with `last` has everything that this one has. Logs compare by last
    /// term, then length; the order of `EntryId` is just that (E-02).
    fn is_up_to_date(&self, last: EntryId) -> bool {
        let own = self.log.last();
        own <= last
            || planted!(E02_VOTE_FOR_ANY_LOG)
            || (planted!(E02_LENGTH_BEFORE_TERM) && own.index <= last.index)
    }

    /// Whether a promise forbids to help a rival: a leader was heard within `election_min` (E-09),
    /// or one may have been, before this process started (L-04), or this is a leader that a quorum
    /// has answered as recently (E-14).
    fn is_vote_withheld(&self) -> bool {
        let period = self.settings.timing.election_min;
        let heard = match &self.role {
            Role::Leader(_) if planted!(E14_LEADER_HELPS_RIVAL) => None,
            Role::Leader(leader) => Some(self.quorum_heard_at(leader).min(self.now)),
            Role::Follower(_) if planted!(E09_FOLLOWER_HELPS_RIVAL) => None,
            Role::Follower(_) | Role::PreCandidate(_) | Role::Candidate(_) => self.leader_heard,
        };
        mark!(L04_VOTE_HELD_AFTER_START if self.now < self.vote_hold_until);
        mark!(E14_LEADER_REFUSES_RIVAL if matches!(self.role, Role::Leader(_)));
        self.now < self.vote_hold_until || heard.is_some_and(|at| self.now < at.after(period))
    }

    /// `from` would vote for this replica in `term`.
    pub(super) fn on_pre_vote_granted(&mut self, from: Member, term: Term, fx: &mut Effects) {
        mark!(E04_LATE_PRE_VOTE_IGNORED if term != self.term.next());
        // An answer to an earlier question is of an earlier term.
        if term == self.term.next() && self.is_replica_of_member(from) {
            self.on_pre_vote_of(from.node, fx);
        }
    }

    fn on_pre_vote_of(&mut self, node: NodeId, fx: &mut Effects) {
        let Role::PreCandidate(candidate) = &mut self.role else { return };
        candidate.votes.record(node);
        let is_won = candidate.votes.are_quorum(self.configurations.newest());
        if is_won && self.device == Device::Works {
            self.campaign(fx);
        }
    }

    /// Opens a term and asks for votes in it. The requests and the own vote wait for the disk:
    /// `Group::persisted` sends and counts them (H-01).
    fn campaign(&mut self, fx: &mut Effects) {
        mark!(E03_CAMPAIGN);
        self.counters.campaigns += 1;
        self.adopt(self.term.next(), fx);
        self.vote = Some(self.settings.node);
        let mut candidate = Candidate::default();
        if planted!(H06_PRE_VOTES_COUNT_AS_VOTES)
            && let Role::PreCandidate(before) = &mut self.role
        {
            candidate.votes = core::mem::take(&mut before.votes);
        }
        self.set_role(Role::Candidate(candidate), fx);
        self.arm_election_timer();
        let last = self.log.last();
        for voter in self.other_voters() {
            self.send(voter, Message::Vote { last }, fx);
        }
    }

    /// The own vote is durable now.
    pub(super) fn count_own_vote(&mut self, now: Moment, fx: &mut Effects) {
        if let Role::Candidate(candidate) = &mut self.role
            && !candidate.own_vote_counted
        {
            mark!(H01_OWN_VOTE_DURABLE);
            candidate.own_vote_counted = true;
            self.clock(now);
            self.on_vote_of(self.settings.node, fx);
        }
    }

    pub(super) fn on_vote_reply(&mut self, from: Member, granted: bool, fx: &mut Effects) {
        if granted && self.is_replica_of_member(from) {
            self.on_vote_of(from.node, fx);
        }
    }

    fn on_vote_of(&mut self, node: NodeId, fx: &mut Effects) {
        let Role::Candidate(candidate) = &mut self.role else { return };
        candidate.votes.record(node);
        let is_won =
            candidate.own_vote_counted && candidate.votes.are_quorum(self.configurations.newest());
        if is_won && self.device == Device::Works {
            self.become_leader(fx);
        }
    }

    fn become_leader(&mut self, fx: &mut Effects) {
        mark!(E01_BECAME_LEADER);
        assert!(self.promise_is_durable(), "a candidate's vote is durable before it is counted");
        // Logs mostly agree, so the first question is about the last entry.
        let next = self.log.last().index.next();
        let mut peers: Vec<Progress> = self
            .membership()
            .members()
            .filter(|member| member.node != self.settings.node)
            .map(|member| Progress::new(member, next, self.now))
            .collect();
        peers.sort_by_key(|progress| progress.member.node);
        self.term_leader = Some(self.settings.node);
        let leader = Leader {
            peers,
            heartbeat_at: self.now,
            round: 0,
            reads_waiting: Vec::new(),
            read_rounds: VecDeque::new(),
        };
        self.set_role(Role::Leader(leader), fx);
        fx.push(Effect::BecameLeader { group: self.settings.group, term: self.term });
        self.beat(fx);
    }

    /// Follows `leader` in `term`, which is this one or a newer one.
    pub(super) fn become_follower(&mut self, term: Term, leader: Option<Member>, fx: &mut Effects) {
        if self.term < term {
            self.adopt(term, fx);
        }
        let was_follower = matches!(self.role, Role::Follower(_));
        if let Some(leader) = leader {
            self.term_leader = Some(leader.node);
        }
        let durable = self.durability.upto();
        self.set_role(Role::Follower(Follower::new(leader, self.commit, durable)), fx);
        if !was_follower {
            // A follower's own timer goes on: a stranger with a high term is no leader.
            self.arm_election_timer();
        }
    }

    /// Lays the office down without a newer term: nothing more goes out (E-10).
    pub(super) fn step_down(&mut self, fx: &mut Effects) {
        assert!(matches!(self.role, Role::Leader(_)), "only a leader steps down");
        mark!(E10_LEADER_WITHOUT_QUORUM_STEPS_DOWN);
        self.become_follower(self.term, None, fx);
    }

    /// Enters a newer term: no vote yet, and what was to be said in the old one is void (E-04).
    fn adopt(&mut self, term: Term, fx: &mut Effects) {
        assert!(self.term < term, "terms never fall: {:?}, {term:?}", self.term);
        self.term = term;
        self.vote = None;
        self.term_leader = None;
        mark!(E04_HELD_MESSAGES_DROPPED if !self.held.is_empty());
        if !planted!(E04_OLD_WORDS_KEPT) {
            self.held.clear();
        }
        fx.push(Effect::HardStateDirty { group: self.settings.group });
    }

    /// The one place where the role changes, so that nobody misses the news.
    fn set_role(&mut self, role: Role, fx: &mut Effects) {
        let group = self.settings.group;
        let before = self.leader();
        let old = core::mem::replace(&mut self.role, role);
        let after = self.leader();
        if let Role::Leader(old) = old {
            mark!(C06_OFFICE_LOST);
            fx.push(Effect::SteppedDown { group });
            let waiting = old.read_rounds.into_iter().flat_map(|round| round.tokens);
            for token in waiting.chain(old.reads_waiting) {
                self.fail_read(token, fx);
            }
        }
        if before != after && after != Some(self.settings.node) {
            fx.push(Effect::LeaderChanged { group, leader: after });
        }
    }

    pub(super) fn fail_read(&self, token: ReadToken, fx: &mut Effects) {
        let refusal = Refusal::NotLeader { hint: self.leader() };
        fx.push(Effect::ReadFailed { token, refusal });
    }

    /// Whether `from` is the replica that the configuration names for its node.
    pub(super) fn is_replica_of_member(&self, from: Member) -> bool {
        self.membership().replica_of(from.node) == Some(from.replica)
    }
}
