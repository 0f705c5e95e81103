//! What a group wants done. Carried out by the shard, in order.

use super::Envelope;
use crate::model::{EntryId, GroupId, LogIndex, Membership, NodeId, Refusal, Term};

/// Names one linearizable read that waits for its confirmation round. The shard makes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadToken(pub u64);

/// One wish of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send on the control lane. Everything it depends on is durable already (H-01).
    Send(Envelope),
    /// The hard state changed and must be written before any later entry (H-03). The shard asks
    /// `Group::hard_state` when it builds the block and answers `hard_state_submitted`.
    HardStateDirty {
        /// Whose.
        group: GroupId,
    },
    /// This replica won an election: make a no-op batch of this term and propose it (C-02).
    BecameLeader {
        /// Of which group.
        group: GroupId,
        /// Its new term.
        term: Term,
    },
    /// This replica lost its office: unanswered proposals end as Unknown (C-06).
    SteppedDown {
        /// Of which group.
        group: GroupId,
    },
    /// This replica follows a leader it did not know before, or knows of none any more.
    LeaderChanged {
        /// Of which group.
        group: GroupId,
        /// Whom.
        leader: Option<NodeId>,
    },
    /// Everything from `from` on was dropped from the log, for a conflicting batch.
    Truncated {
        /// Whose log.
        group: GroupId,
        /// The first index dropped.
        from: LogIndex,
    },
    /// The commit index moved to `commit`.
    Committed {
        /// Whose.
        group: GroupId,
        /// Where it is now.
        commit: LogIndex,
    },
    /// The log was replaced by a snapshot: write a log reset, forget what lies below (and, unless
    /// `keep_tail`, everything; S-04).
    Installed {
        /// Whose log.
        group: GroupId,
        /// The entry the log now starts behind.
        last: EntryId,
        /// The configuration as of `last`.
        membership: Membership,
        /// Whether the entries behind `last` stay.
        keep_tail: bool,
    },
    /// A read round was confirmed: the read may be served from `index` on up.
    ReadReady {
        /// Which read.
        token: ReadToken,
        /// The commit index it must see.
        index: LogIndex,
    },
    /// A read cannot be confirmed any more.
    ReadFailed {
        /// Which read.
        token: ReadToken,
        /// Why.
        refusal: Refusal,
    },
}

/// The caller's buffer of wishes; one per shard, reused.
#[derive(Debug, Default)]
pub struct Effects {
    /// In the order they were wished for, which is part of the contract.
    pub list: Vec<Effect>,
}

impl Effects {
    /// Adds a wish.
    pub fn push(&mut self, effect: Effect) {
        self.list.push(effect);
    }
}
