//! Snapshots of the metadata kind: "the log up to here is gone, go on from there" (thesis 5).
//!
//! A raw log has no state besides its entries, so the snapshot is its last entry's identity and
//! the configuration as of it. Does not: stream data; machines that need one are another story.

use super::follower::is_sane;
use super::progress::Phase;
use super::role::{Follower, Role};
use super::{Effect, Effects, Group, Message};
use crate::model::{EntryId, LogIndex, Member, Membership};

impl Group {
    /// Sends a snapshot to a peer that needs what was trimmed here, and again if it does not
    /// answer for an election timeout.
    pub(super) fn offer_snapshot(&mut self, at: usize, fx: &mut Effects) {
        let (base, now) = (self.log.base(), self.now);
        let patience = self.settings.timing.election_min;
        let Role::Leader(leader) = &mut self.role else { return };
        let progress = &mut leader.peers[at];
        let is_due = match progress.phase {
            Phase::Probe | Phase::Stream => progress.next <= base.index,
            Phase::Snapshot { sent_at, .. } => patience <= now.since(sent_at),
        };
        if !is_due {
            return;
        }
        mark!(S02_SNAPSHOT_OFFERED);
        mark!(S02_SNAPSHOT_OFFERED_AGAIN if matches!(progress.phase, Phase::Snapshot { .. }));
        progress.wait_for_snapshot(base.index, now);
        let member = progress.member;
        let membership = self.configurations.base.clone();
        self.send(member, Message::Snapshot { last: base, membership }, fx);
    }

    /// Installs the leader's snapshot, if it says anything new.
    pub(super) fn on_snapshot(
        &mut self,
        from: Member,
        last: EntryId,
        membership: Membership,
        fx: &mut Effects,
    ) {
        if !is_sane(last.term, last.index) || self.term < last.term || membership.check().is_err() {
            self.counters.nonsense += 1;
            return;
        }
        if !self.hear_leader(from, fx) {
            return;
        }
        if last.index <= self.commit && !planted!(S02_OLD_SNAPSHOT_INSTALLED) {
            mark!(S02_OLD_SNAPSHOT_IGNORED);
            // Nothing new: what it covers is committed here too (S-02). The leader learns how far
            // this replica is.
            if let Role::Follower(follower) = &mut self.role {
                follower.ack_due = true;
            }
            return;
        }
        if self.log.contains(last) && self.log.edge_at_or_below(last.index) != last.index {
            // Inside a batch, which no snapshot ends in: bases are batch ends everywhere.
            self.counters.nonsense += 1;
            return;
        }
        self.install(from, last, membership, fx);
    }

    fn install(&mut self, from: Member, last: EntryId, membership: Membership, fx: &mut Effects) {
        // Entries behind the snapshot stay only if they belong to the same history, which this
        // one entry decides (S-04, Log Matching).
        let keep_tail = (self.log.contains(last) || planted!(S04_CONFLICTING_LOG_KEPT))
            && !planted!(S04_TAIL_DROPPED);
        mark!(S04_LOG_DROPPED if !keep_tail);
        if keep_tail {
            self.log.trim(last);
        } else {
            self.log.reset(last);
        }
        // From the snapshot and what survived behind it, never the newer of two by index: an
        // uncommitted configuration of a dead leader must not outlive its entry (S-05).
        self.configurations.base = membership.clone();
        self.configurations.changes.retain(|(index, _)| keep_tail && last.index < *index);
        self.durability.reset(last.index, keep_tail);
        let group = self.settings.group;
        fx.push(Effect::Installed { group, last, membership, keep_tail });
        self.commit_to(last.index, fx);
        // Only the snapshot itself is vouched for, whatever else this leader had vouched for
        // before: a tail that was dropped is no longer there to be acknowledged.
        let vouched = match &self.role {
            Role::Follower(follower) if keep_tail => follower.vouched.max(last.index),
            Role::Follower(_) | Role::PreCandidate(_) | Role::Candidate(_) | Role::Leader(_) => {
                last.index
            }
        };
        // As if nothing had been acknowledged, so that it is as soon as the reset is durable.
        let nothing = LogIndex::BEFORE_FIRST;
        let follower = Follower { vouched, ..Follower::new(Some(from), nothing, nothing) };
        self.role = Role::Follower(follower);
    }
}
