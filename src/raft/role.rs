//! What a replica is at the moment, and the state that belongs to that and to nothing else.
//!
//! Apart so that no other role can name it: a follower has no votes and a candidate no peers.
//! Does not: change roles; that is `election.rs`.

use std::collections::VecDeque;

use super::progress::Progress;
use super::{ReadToken, RoleName};
use crate::base::Moment;
use crate::model::{EntryId, LogIndex, Member, Membership, NodeId};

/// One of the four roles (thesis 3.3, 9.6).
#[derive(Debug)]
pub(super) enum Role {
    Follower(Follower),
    PreCandidate(PreCandidate),
    Candidate(Candidate),
    Leader(Leader),
}

impl Role {
    pub(super) fn name(&self) -> RoleName {
        match self {
            Self::Follower(_) => RoleName::Follower,
            Self::PreCandidate(_) => RoleName::PreCandidate,
            Self::Candidate(_) => RoleName::Candidate,
            Self::Leader(_) => RoleName::Leader,
        }
    }
}

/// Follows `leader`, or waits for one to appear.
#[derive(Debug)]
pub(super) struct Follower {
    /// Whose messages of this term were heard last. `None` once it has been silent too long.
    pub(super) leader: Option<Member>,
    /// The last index known to be the same in the log of this term's leader. Only up to here may
    /// anything be acknowledged to it or committed on its word: what lies behind may
    /// be a dead leader's. At least the commit index (Leader Completeness, thesis 3.6.3).
    pub(super) vouched: LogIndex,
    /// The last `Accepted` that was sent.
    pub(super) acked: LogIndex,
    /// An `Accepted` is owed even if it says nothing new.
    pub(super) ack_due: bool,
    /// The `Rejected` that is owed: what was asked, and the hint.
    pub(super) reject: Option<(LogIndex, EntryId)>,
}

impl Follower {
    /// Knows of nothing but the committed prefix, of which `durable` is durable; the leader asks
    /// about that first, so it is not told unasked.
    pub(super) fn new(leader: Option<Member>, commit: LogIndex, durable: LogIndex) -> Self {
        Self { leader, vouched: commit, acked: commit.min(durable), ack_due: false, reject: None }
    }
}

/// Who said yes. At most one entry per member, so never long.
#[derive(Debug, Default)]
pub(super) struct Votes(Vec<NodeId>);

impl Votes {
    /// Records a yes of `node`, which must be a member; once is enough.
    pub(super) fn record(&mut self, node: NodeId) {
        if !self.0.contains(&node) {
            self.0.push(node);
        }
    }

    /// Whether they suffice (both halves while joint, M-05).
    pub(super) fn are_quorum(&self, membership: &Membership) -> bool {
        membership.is_quorum(|node| self.0.contains(&node))
    }
}

/// Asks whether an election could be won, and changes nothing by asking (thesis 9.6).
#[derive(Debug, Default)]
pub(super) struct PreCandidate {
    pub(super) votes: Votes,
}

/// Asks for votes in its term.
#[derive(Debug, Default)]
pub(super) struct Candidate {
    pub(super) votes: Votes,
    /// Whether its own vote is durable, and so counted and its requests sent (H-01).
    pub(super) own_vote_counted: bool,
}

/// Leads its term.
#[derive(Debug)]
pub(super) struct Leader {
    /// Every other member, by node id.
    pub(super) peers: Vec<Progress>,
    /// When the next heartbeat is due.
    pub(super) heartbeat_at: Moment,
    /// Number of the newest round of heartbeats (L-09). Made here, increasing within the term; a
    /// node leads a term at most once, so (term, round) never comes twice.
    pub(super) round: u64,
    /// Reads that came after the newest round was sent.
    pub(super) reads_waiting: Vec<ReadToken>,
    /// Rounds that reads wait for, oldest first.
    pub(super) read_rounds: VecDeque<ReadRound>,
}

/// Reads that share one confirmation round.
#[derive(Debug)]
pub(super) struct ReadRound {
    pub(super) round: u64,
    /// The commit index when the round was sent.
    pub(super) index: LogIndex,
    pub(super) tokens: Vec<ReadToken>,
}

impl Leader {
    pub(super) fn peer(&self, node: NodeId) -> Option<&Progress> {
        self.peers.iter().find(|peer| peer.member.node == node)
    }

    pub(super) fn peer_mut(&mut self, node: NodeId) -> Option<&mut Progress> {
        self.peers.iter_mut().find(|peer| peer.member.node == node)
    }
}
