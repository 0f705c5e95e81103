//! The follower's side of replication: appends, probes, heartbeats, and what is owed to the leader
//! at the end of a turn (thesis 3.5).
//!
//! Apart from `replication.rs` because the two sides share no state. Does not: acknowledge
//! anything that is not durable; the answer is made in [`Group::flush_answers`] from what
//! `persist.rs` knows.

use super::role::{Follower, Role};
use super::{Append, AppendVerdict, Effect, Effects, Group, LogBatch, Message};
use crate::base::Moment;
use crate::model::{BatchKind, EntryId, LogIndex, Member, Membership, NodeId, Term};

/// Numbers above this are not counted up to in any life of a cluster, so a message that names one
/// is damaged or hostile; below it, nothing here overflows.
const SANE_MAX: u64 = u64::MAX / 4;

pub(super) fn is_sane(term: Term, index: LogIndex) -> bool {
    term.get() <= SANE_MAX && index.get() <= SANE_MAX
}

impl Group {
    /// Takes one batch of a bulk frame.
    ///
    /// On [`AppendVerdict::New`] the batch is in the log: the caller persists it, and tells so
    /// with [`Group::submitted`]. The answer to the sender comes with [`Group::flush`], once it
    /// is durable.
    ///
    /// # Panics
    /// If a leader contradicts a committed entry: a promise of the cluster is broken then, and to
    /// go on would spread it.
    pub fn on_append(
        &mut self,
        now: Moment,
        from: NodeId,
        append: Append,
        fx: &mut Effects,
    ) -> AppendVerdict {
        self.clock(now);
        let Append { from_replica, to_replica, term, prev, commit, batch, membership } = append;
        let leader = Member { node: from, replica: from_replica };
        let is_stray = to_replica != self.settings.replica || from == self.settings.node;
        if is_stray || !is_append_sane(term, prev, &batch, membership.as_ref()) {
            self.counters.nonsense += 1;
            return AppendVerdict::Rejected;
        }
        if term < self.term {
            mark!(R11_STALE_APPEND_ANSWERED);
            let hint = self.log.last();
            self.send(leader, Message::Rejected { prev: prev.index, hint }, fx);
            return AppendVerdict::Rejected;
        }
        if self.term < term {
            self.become_follower(term, Some(leader), fx);
        }
        if !self.hear_leader(leader, fx) || !self.matches(prev) {
            return AppendVerdict::Rejected;
        }
        let verdict = self.take_batch(batch, membership, fx);
        self.follow_commit(commit, fx);
        verdict
    }

    /// The leader asks whether the log contains `prev`.
    pub(super) fn on_probe(
        &mut self,
        from: Member,
        prev: EntryId,
        commit: LogIndex,
        fx: &mut Effects,
    ) {
        if !self.hear_leader(from, fx) || !self.matches(prev) {
            return;
        }
        mark!(R08_PROBE_MATCHES);
        if let Role::Follower(follower) = &mut self.role {
            follower.ack_due = true;
        }
        self.follow_commit(commit, fx);
    }

    /// The leader lives; its commit index may be news.
    pub(super) fn on_heartbeat(
        &mut self,
        from: Member,
        commit: LogIndex,
        round: u64,
        fx: &mut Effects,
    ) {
        if !self.hear_leader(from, fx) {
            return;
        }
        self.follow_commit(commit, fx);
        self.send(from, Message::HeartbeatReply { round }, fx);
    }

    /// Notes that the leader of this term spoke. False if `from` cannot be that.
    pub(super) fn hear_leader(&mut self, from: Member, fx: &mut Effects) -> bool {
        if self.term_leader.is_some_and(|known| known != from.node) {
            // A term has one leader (thesis 3.6.3, Election Safety): the sender is confused.
            self.counters.nonsense += 1;
            return false;
        }
        self.term_leader = Some(from.node);
        match &mut self.role {
            Role::Leader(_) => unreachable!("a leader knows itself as the leader of its term"),
            Role::Follower(follower) => {
                if follower.leader.replace(from).is_none() {
                    let (group, leader) = (self.settings.group, Some(from.node));
                    fx.push(Effect::LeaderChanged { group, leader });
                }
            }
            Role::PreCandidate(_) | Role::Candidate(_) => {
                mark!(E04_CAMPAIGN_ENDS_BY_LEADER);
                self.become_follower(self.term, Some(from), fx);
            }
        }
        self.leader_heard = Some(self.now);
        self.arm_election_timer();
        true
    }

    /// Whether the log agrees with the leader's up to `prev`. If so, that much is vouched for; if
    /// not, a hint is owed.
    fn matches(&mut self, prev: EntryId) -> bool {
        let conflict = self.hint_for(prev);
        let Role::Follower(follower) = &mut self.role else {
            unreachable!("whoever heard a leader is a follower")
        };
        match conflict {
            None => {
                follower.vouched = follower.vouched.max(prev.index.min(self.log.last().index));
                true
            }
            Some(hint) => {
                mark!(R06_CONFLICT_HINTED);
                // One answer a turn: the batches behind a rejected one fail too, and the first
                // failure is the one that helps.
                if follower.reject.is_none_or(|(owed, _)| prev.index < owed) {
                    follower.reject = Some((prev.index, hint));
                }
                false
            }
        }
    }

    /// Where the leader should try next if the log does not contain `prev`: always before it, and
    /// past all of our entries that are newer than `prev` could be.
    fn hint_for(&self, prev: EntryId) -> Option<EntryId> {
        if prev.index <= self.log.base().index && !planted!(R03_TRIMMED_PREV_CONFLICTS) {
            // Covered by a snapshot or trimmed, and so committed: it matches by definition.
            return None;
        }
        if self.log.contains(prev) && self.log.edge_at_or_below(prev.index) == prev.index {
            return None;
        }
        // A batch is matched whole, so the last index before it is asked for.
        let end = prev.index.previous().min(self.log.last().index);
        let end = self.log.edge_at_or_below(end);
        mark!(R06_HINT_PASSES_NEWER_TERM if self.log.term_at(end) > Some(prev.term));
        Some(self.log.last_of_term_at_most(end, prev.term))
    }

    /// The batch goes behind an entry that matches.
    fn take_batch(
        &mut self,
        batch: LogBatch,
        membership: Option<Membership>,
        fx: &mut Effects,
    ) -> AppendVerdict {
        let span = batch.span;
        if span.last() <= self.log.base().index {
            return self.known(span.last());
        }
        let is_taken_for_known =
            planted!(R02_CONFLICT_TAKEN_FOR_KNOWN) && span.last() <= self.log.last().index;
        if is_taken_for_known {
            return self.known(span.last());
        }
        if self.log.holds(&span) {
            mark!(R02_KNOWN_BATCH_TRUNCATES_NOTHING if span.last() < self.log.last().index);
            if planted!(R02_KNOWN_BATCH_TRUNCATES)
                && self.commit <= span.last()
                && span.last() < self.log.last().index
            {
                self.truncate(span.last().next(), fx);
            }
            // A shorter or older append that matches truncates nothing.
            if self.log.batch_at(span.first).is_none_or(|ours| ours.span == span) {
                return self.known(span.last());
            }
            return self.contradiction();
        }
        if self.log.term_at(span.first.previous()).is_some_and(|before| span.term < before) {
            // Terms never fall along a log; only a `prev` that lies about the base gets here.
            return self.contradiction();
        }
        if span.first <= self.log.last().index {
            let ours = self.log.term_at(span.first);
            if ours.is_none_or(|ours| ours == span.term) {
                // Across the base, or a batch of ours with another end: (term, first) names one.
                return self.contradiction();
            }
            assert!(
                self.commit < span.first,
                "{span:?} contradicts {ours:?}, committed up to {:?}",
                self.commit
            );
            if self.follower().vouched >= span.first {
                // The same leader vouched for what it denies now; leaders only append (3.5).
                return self.contradiction();
            }
            mark!(R02_CONFLICT_TRUNCATED);
            self.truncate(span.first, fx);
        }
        self.log.append(batch);
        self.durability.appended(span);
        if let Some(membership) = membership {
            self.configurations.push(span.first, membership);
        }
        self.follower().vouched = span.last();
        AppendVerdict::New
    }

    fn follower(&mut self) -> &mut Follower {
        match &mut self.role {
            Role::Follower(follower) => follower,
            Role::PreCandidate(_) | Role::Candidate(_) | Role::Leader(_) => {
                unreachable!("whoever heard a leader is a follower")
            }
        }
    }

    fn known(&mut self, last: LogIndex) -> AppendVerdict {
        let follower = self.follower();
        follower.vouched = follower.vouched.max(last);
        follower.ack_due = true;
        AppendVerdict::Known
    }

    fn contradiction(&mut self) -> AppendVerdict {
        self.counters.nonsense += 1;
        AppendVerdict::Rejected
    }

    /// Drops a dead leader's entries from `from` on, and the configurations among them (M-02).
    fn truncate(&mut self, from: LogIndex, fx: &mut Effects) {
        self.log.truncate(from);
        self.durability.truncated(from);
        self.configurations.truncate(from);
        fx.push(Effect::Truncated { group: self.settings.group, from });
    }

    /// Follows the leader's commit index, as far as this log is known to be the leader's.
    pub(super) fn follow_commit(&mut self, commit: LogIndex, fx: &mut Effects) {
        let vouched = self.follower().vouched;
        mark!(R07_COMMIT_BEYOND_VOUCHED_WAITS if self.commit < commit && vouched < commit);
        let commit = if planted!(R07_COMMIT_BEYOND_VOUCHED) {
            commit.min(self.log.last().index)
        } else {
            commit.min(vouched)
        };
        if planted!(C03_COMMIT_FALLS) && commit < self.commit {
            self.commit = commit;
        }
        if self.commit < commit {
            self.commit_to(commit, fx);
        }
    }

    /// What the leader is owed at the end of a turn: at most one `Rejected` and one `Accepted`.
    pub(super) fn flush_answers(&mut self, fx: &mut Effects) {
        let durable = self.durability.upto();
        if !self.promise_is_durable() {
            // An acknowledgement in a term that a crash would forget is worth nothing (H-03).
            mark!(H03_ANSWER_WAITS_FOR_TERM);
            return;
        }
        let Role::Follower(follower) = &mut self.role else { return };
        let Some(leader) = follower.leader else { return };
        mark!(R01_DEAD_LEADERS_TAIL_NOT_ACKNOWLEDGED if follower.vouched < durable);
        let matched =
            if planted!(R01_MATCH_IS_LAST) { durable } else { durable.min(follower.vouched) };
        let matched = if planted!(I01_ACK_BEFORE_DISK) { follower.vouched } else { matched };
        let mut reject = follower.reject.take();
        if reject.is_some_and(|(prev, _)| prev <= follower.vouched)
            && !planted!(R03_TRIMMED_PREV_CONFLICTS)
        {
            // Overtaken: the leader has vouched for that entry meanwhile, so the news are good.
            reject = None;
            follower.ack_due = true;
        }
        let ack = follower.ack_due || follower.acked < matched;
        if ack {
            follower.ack_due = false;
            follower.acked = matched;
        }
        // In this order: the leader then goes on from `matched` and not from the hint.
        if let Some((prev, hint)) = reject {
            self.send(leader, Message::Rejected { prev, hint }, fx);
        }
        if ack {
            self.send(leader, Message::Accepted { matched }, fx);
        }
    }
}

/// What must hold between the parts of an append whoever sent it.
fn is_append_sane(
    term: Term,
    prev: EntryId,
    batch: &LogBatch,
    membership: Option<&Membership>,
) -> bool {
    let span = &batch.span;
    let is_configuration = batch.kind == BatchKind::Configuration;
    is_sane(term, span.first)
        && span.count.get() > 0
        && span.first > LogIndex::BEFORE_FIRST
        && span.first.previous() == prev.index
        && prev.term <= span.term
        && span.term <= term
        && is_configuration == membership.is_some()
        && (!is_configuration || span.count.get() == 1)
        && membership.is_none_or(|membership| membership.check().is_ok())
}
