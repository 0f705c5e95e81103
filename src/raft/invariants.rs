//! What always holds: facts of a state, and facts of a step.
//!
//! Production runs [`Group::check`] every turn (O(peers)); tests and the simulator run
//! [`Group::check_deep`] and [`Summary::check_step`] too. Does not: mend anything.

use super::role::Role;
use super::{Group, RoleName};
use crate::model::{EntryId, LogIndex, NodeId, Term};

/// What of a group may only move in certain ways. Taken before and after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The newest term seen.
    pub term: Term,
    /// The vote in it.
    pub vote: Option<NodeId>,
    /// The known leader of it.
    pub leader: Option<NodeId>,
    /// What the replica is.
    pub role: RoleName,
    /// The entry before the log.
    pub base: EntryId,
    /// The last entry.
    pub last: EntryId,
    /// The commit index.
    pub commit: LogIndex,
    /// What is durable.
    pub durable: LogIndex,
}

impl Group {
    /// The facts that [`Summary::check_step`] compares.
    pub fn summary(&self) -> Summary {
        Summary {
            term: self.term,
            vote: self.vote,
            leader: self.leader(),
            role: self.role(),
            base: self.log.base(),
            last: self.log.last(),
            commit: self.commit,
            durable: self.durability.upto(),
        }
    }

    /// Facts that hold between any two calls.
    ///
    /// # Panics
    /// If one does not: this replica must not go on.
    pub fn check(&self) {
        let (base, last) = (self.log.base(), self.log.last());
        assert!(
            base.index <= self.commit,
            "the log starts behind {base:?}, commit {:?}",
            self.commit
        );
        assert!(self.commit <= last.index, "commit {:?} of {last:?}", self.commit);
        assert!(last.term <= self.term, "{last:?} is newer than {:?}", self.term);
        self.durability.check(last);
        let promised = self.durability.promise();
        assert!(promised.term <= self.term);
        if promised.term == self.term {
            assert!(
                promised.vote.is_none() || promised.vote == self.vote,
                "one vote a term (E-01)"
            );
        }
        assert!(self.held.is_empty() || !self.promise_is_durable(), "{:?} may leave", self.held);
        let node = self.settings.node;
        match &self.role {
            Role::Follower(follower) => {
                assert!(self.commit <= follower.vouched && follower.vouched <= last.index);
                assert!(self.term_leader != Some(node) || follower.leader.is_none());
                assert!(
                    follower.leader.is_none()
                        || follower.leader.map(|l| l.node) == self.term_leader
                );
            }
            Role::PreCandidate(_) => {}
            Role::Candidate(_) => assert_eq!(self.vote, Some(node)),
            Role::Leader(leader) => {
                assert_eq!(self.vote, Some(node));
                assert_eq!(self.term_leader, Some(node));
                assert!(self.promise_is_durable(), "a leader's term is durable (H-01)");
                for progress in &leader.peers {
                    progress.check(last.index);
                }
            }
        }
    }

    /// [`Group::check`] and everything that takes a walk over the log.
    ///
    /// # Panics
    /// If a fact does not hold.
    pub fn check_deep(&self) {
        self.check();
        self.log.check();
        if let Role::Leader(leader) = &self.role {
            for progress in &leader.peers {
                progress.check_deep(self.log.last().index);
            }
        }
        let mut before = self.log.base().index;
        for (index, membership) in &self.configurations.changes {
            assert!(before < *index && *index <= self.log.last().index);
            assert_eq!(membership.check(), Ok(()));
            before = *index;
        }
    }
}

impl Summary {
    /// Facts about one step of one process: what never goes back, and what one term decides once.
    ///
    /// # Panics
    /// If one does not hold.
    pub fn check_step(&self, after: &Self) {
        assert!(self.term <= after.term, "{self:?} -> {after:?}");
        assert!(self.commit <= after.commit, "{self:?} -> {after:?}");
        assert!(self.base.index <= after.base.index, "{self:?} -> {after:?}");
        if self.term != after.term {
            return;
        }
        assert!(self.vote.is_none() || self.vote == after.vote, "{self:?} -> {after:?}");
        if let (Some(before), Some(after)) = (self.leader, after.leader) {
            assert_eq!(before, after, "a term has one leader");
        }
        if self.role == RoleName::Leader && after.role == RoleName::Leader {
            // Leader Append-Only (thesis 3.5).
            assert!(self.last <= after.last, "{self:?} -> {after:?}");
        }
    }
}
