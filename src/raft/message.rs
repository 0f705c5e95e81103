//! What replicas of a group say to each other on the control lane.
//!
//! Appends with batches travel on the bulk lane and are not here: see `Group::next_append` and
//! `Group::on_append`. Bytes are `wire::peer`'s business.

use crate::model::{EntryId, GroupId, LogIndex, Membership, NodeId, ReplicaId, Term};

/// A message with its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Which group speaks.
    pub group: GroupId,
    /// The other end: the receiver of an outgoing message, the sender of an incoming one.
    pub peer: NodeId,
    /// Replica that speaks.
    pub from_replica: ReplicaId,
    /// Replica that is spoken to; a message for another one is dropped (N-05).
    pub to_replica: ReplicaId,
    /// The sender's term, except for a pre-vote: there the term it would campaign in (9.6).
    pub term: Term,
    /// What it says.
    pub message: Message,
}

/// One control message. The term is in the envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Would you vote for me, whose log ends with `last`? (thesis 9.6)
    PreVote {
        /// Last entry of the asker's log.
        last: EntryId,
    },
    /// Answer to a pre-vote. A refusal carries the refuser's own term (E-06).
    PreVoteReply {
        /// Whether it would.
        granted: bool,
    },
    /// I am a candidate; vote for me (thesis 3.4).
    Vote {
        /// Last entry of the candidate's log.
        last: EntryId,
    },
    /// Answer to a vote request. Granted only once the vote is durable (H-01).
    VoteReply {
        /// Whether it did.
        granted: bool,
    },
    /// I lead; opens or refreshes a read round too (thesis 6.4, L-09).
    Heartbeat {
        /// `min(leader's commit, match of this follower)`.
        commit: LogIndex,
        /// Number of the round, increasing within the term; replies confirm this or earlier ones.
        round: u64,
    },
    /// Answer to a heartbeat.
    HeartbeatReply {
        /// The round it confirms.
        round: u64,
    },
    /// An append without batches: asks whether the follower's log contains `prev`.
    Probe {
        /// The entry the leader would send behind.
        prev: EntryId,
        /// `min(leader's commit, prev)`.
        commit: LogIndex,
    },
    /// Everything up to `matched` is durable here and vouched for by this term's leader.
    Accepted {
        /// The highest such index.
        matched: LogIndex,
    },
    /// The log here does not contain `prev`.
    Rejected {
        /// The index that was asked about, so that late answers are recognised.
        prev: LogIndex,
        /// Where to try next: the last entry here that could match, below `prev`.
        hint: EntryId,
    },
    /// The log before and including `last` is gone; go on from there (S-02, S-04, S-05).
    Snapshot {
        /// The last entry the snapshot covers.
        last: EntryId,
        /// The configuration as of `last`.
        membership: Membership,
    },
}

impl Message {
    /// Whether only the leader of its term says this.
    pub fn is_from_leader(&self) -> bool {
        match self {
            Self::Heartbeat { .. } | Self::Probe { .. } | Self::Snapshot { .. } => true,
            Self::PreVote { .. }
            | Self::PreVoteReply { .. }
            | Self::Vote { .. }
            | Self::VoteReply { .. }
            | Self::HeartbeatReply { .. }
            | Self::Accepted { .. }
            | Self::Rejected { .. } => false,
        }
    }
}
