//! The commit index: how a leader finds it, and how followers hear of it (thesis 3.6.2).
//!
//! Does not: apply anything, or know what a record is.

use core::time::Duration;

use super::progress::{Phase, Progress};
use super::role::{Leader, Role};
use super::{Effect, Effects, Group};
use crate::base::Moment;
use crate::model::LogIndex;

/// A follower that is behind in commits hears of them in the next append. If none comes for this
/// long, a heartbeat of its own tells it, so that its readers need not wait for the regular one.
/// Longer than a loaded leader's pause between appends, far shorter than the heartbeat period; it
/// bounds the extra messages to one per peer and interval.
pub const COMMIT_NEWS_INTERVAL: Duration = Duration::from_millis(2);

impl Group {
    /// Moves the leader's commit index to what is durable on a majority (of each half, M-05).
    ///
    /// The own log counts only as far as it is durable, also when it is the only voter
    /// (C-05), and not at all if the configuration in force leaves this node out (M-08).
    pub(super) fn advance_commit(&mut self, fx: &mut Effects) {
        let Role::Leader(leader) = &self.role else { return };
        let node = self.settings.node;
        let is_alone = leader.peers.is_empty();
        let early = planted!(R12_LEADER_COUNTS_UNWRITTEN)
            || (planted!(C05_SINGLE_VOTER_SKIPS_DISK) && is_alone);
        let durable = if early { self.log.last().index } else { self.durability.upto() };
        let reached = self.membership().quorum_value(|voter| {
            if voter == node {
                durable
            } else {
                leader.peer(voter).map_or(LogIndex::BEFORE_FIRST, Progress::counted_match)
            }
        });
        // Only an entry of the own term is committed by counting; what precedes it is committed
        // with it. An older one on a majority may still be overwritten (C-01, thesis 3.6.2,
        // figure 3.7).
        let is_own = self.log.term_at(reached) == Some(self.term);
        mark!(C01_OLDER_TERM_NOT_COMMITTED if self.commit < reached && !is_own);
        if self.commit < reached && (is_own || planted!(C01_OLDER_TERM_COMMITTED)) {
            mark!(C01_COMMITTED_BY_COUNTING);
            mark!(R12_COMMITTED_BEFORE_OWN_DISK if durable < reached);
            mark!(C05_SINGLE_VOTER_COMMITS if is_alone);
            self.commit_to(reached, fx);
        }
    }

    /// The commit index never falls (C-03).
    pub(super) fn commit_to(&mut self, commit: LogIndex, fx: &mut Effects) {
        assert!(self.commit < commit, "{commit:?} is no news after {:?}", self.commit);
        assert!(commit <= self.log.last().index, "{commit:?} lies behind the log");
        self.commit = commit;
        fx.push(Effect::Committed { group: self.settings.group, commit });
    }

    /// The end of a leader's turn.
    pub(super) fn flush_leader(&mut self, fx: &mut Effects) {
        self.start_read_round(fx);
        let Role::Leader(leader) = &self.role else { return };
        for at in 0..leader.peers.len() {
            self.offer_snapshot(at, fx);
            self.tell_commit_news(at, fx);
        }
        self.leave_if_removed(fx);
    }

    fn tell_commit_news(&mut self, at: usize, fx: &mut Effects) {
        let Role::Leader(leader) = &self.role else { return };
        if self.news_for(&leader.peers[at]) <= self.now {
            mark!(R07_COMMIT_NEWS_TOLD);
            self.heartbeat_to(at, fx);
        }
    }

    /// When a peer should be told of commits that it does not know of.
    fn news_for(&self, progress: &Progress) -> Moment {
        let is_behind = progress.told < self.commit.min(progress.matched);
        if is_behind && progress.phase == Phase::Stream {
            progress.told_at.after(COMMIT_NEWS_INTERVAL)
        } else {
            Moment::NEVER
        }
    }

    pub(super) fn commit_news_at(&self, leader: &Leader) -> Moment {
        leader.peers.iter().map(|progress| self.news_for(progress)).min().unwrap_or(Moment::NEVER)
    }

    /// A leader that the committed configuration leaves out passes the commit on and goes
    /// (M-08, thesis 4.2.2).
    fn leave_if_removed(&mut self, fx: &mut Effects) {
        let Role::Leader(leader) = &self.role else { return };
        let is_committed = self.configurations.newest_at().is_none_or(|at| at <= self.commit);
        if !is_committed || self.membership().is_voter(self.settings.node) {
            return;
        }
        for at in 0..leader.peers.len() {
            self.heartbeat_to(at, fx);
        }
        self.step_down(fx);
    }
}
