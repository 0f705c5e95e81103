//! What must be true across replicas and crashes, and of every promise at the instant it is made.

use std::collections::BTreeMap;

use catamaran::model::{LogIndex, NodeId, Term};
use catamaran::raft::{Effect, Envelope, Group, Message, ReadToken, RoleName};

use super::Node;

/// Remembers what replicas forget.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    /// The term of every committed index; the index is the position + 1. Never changes.
    pub(crate) committed: Vec<Term>,
    leaders: BTreeMap<Term, NodeId>,
    votes: BTreeMap<(NodeId, Term), NodeId>,
    /// What was committed when a read was asked.
    reads: BTreeMap<ReadToken, usize>,
    pub(crate) reads_ready: u64,
    /// A disk was wiped: what it promised is void, so ledgers about it are too.
    pub(crate) trust_lost: bool,
    /// Peers lie: only what one replica can know of itself is checked.
    pub(crate) blind: bool,
}

fn position(index: LogIndex) -> usize {
    usize::try_from(index.get()).expect("test logs are short")
}

impl Oracle {
    pub(crate) fn read_asked(&mut self, token: ReadToken) {
        self.reads.insert(token, self.committed.len());
    }

    pub(crate) fn observe(
        &mut self,
        id: NodeId,
        group: &Group,
        effect: &Effect,
        nodes: &BTreeMap<NodeId, Node>,
    ) {
        if self.blind && !matches!(effect, Effect::Send(_)) {
            return;
        }
        match effect {
            Effect::Send(envelope) => self.check_promise(id, group, envelope, &nodes[&id]),
            Effect::BecameLeader { term, .. } => self.check_leader(id, group, *term),
            Effect::Committed { commit, .. } => self.check_commit(group, *commit, nodes),
            Effect::ReadReady { token, index } => {
                // Linearizable: at or above everything committed before it was asked (thesis 6.4).
                let asked = self.reads[token];
                assert!(asked <= position(*index), "{token:?} misses entries: {index:?} < {asked}");
                self.reads_ready += 1;
            }
            Effect::HardStateDirty { .. }
            | Effect::SteppedDown { .. }
            | Effect::LeaderChanged { .. }
            | Effect::Truncated { .. }
            | Effect::Installed { .. }
            | Effect::ReadFailed { .. } => {}
        }
    }

    /// Whatever leaves a node must survive its crash in the very next instant (H-01, H-03).
    fn check_promise(&mut self, id: NodeId, group: &Group, envelope: &Envelope, node: &Node) {
        let image = &node.disk.image;
        let term = envelope.term;
        match &envelope.message {
            Message::PreVote { .. } | Message::PreVoteReply { granted: true } => return,
            Message::Vote { .. } => {
                assert_eq!((image.hard.term, image.hard.vote), (term, Some(id)));
                self.voted(id, term, id);
            }
            Message::VoteReply { granted: true } => {
                assert_eq!((image.hard.term, image.hard.vote), (term, Some(envelope.peer)));
                self.voted(id, term, envelope.peer);
            }
            Message::Accepted { matched } => {
                // Below the base there is nothing left to compare but the length.
                let is_durable = match group.term_at(*matched) {
                    Some(term) => image.has(*matched, term),
                    None => *matched < group.base().index && *matched <= image.last().index,
                };
                assert!(is_durable, "{id:?} acknowledges {matched:?}: {image:?}");
            }
            Message::PreVoteReply { .. }
            | Message::VoteReply { .. }
            | Message::Heartbeat { .. }
            | Message::HeartbeatReply { .. }
            | Message::Probe { .. }
            | Message::Rejected { .. }
            | Message::Snapshot { .. } => {}
        }
        assert!(term <= image.hard.term, "{id:?} speaks in {term:?}, durable {:?}", image.hard);
    }

    fn voted(&mut self, voter: NodeId, term: Term, candidate: NodeId) {
        let before = *self.votes.entry((voter, term)).or_insert(candidate);
        assert!(before == candidate || self.trust_lost, "{voter:?} voted twice in {term:?} (E-01)");
    }

    /// Election Safety and Leader Completeness (thesis 3.6.3).
    fn check_leader(&mut self, id: NodeId, group: &Group, term: Term) {
        assert_eq!(group.role(), RoleName::Leader);
        let before = *self.leaders.entry(term).or_insert(id);
        assert_eq!(before, id, "two leaders in {term:?}");
        assert!(
            self.trust_lost || self.committed.len() <= position(group.last().index),
            "{id:?} leads {term:?} without committed entries"
        );
        self.check_prefix(id, group, self.committed.len().min(position(group.last().index)));
    }

    /// A leader's commit is durable on a quorum at this instant; a follower's is known already.
    fn check_commit(&mut self, group: &Group, commit: LogIndex, nodes: &BTreeMap<NodeId, Node>) {
        if group.role() != RoleName::Leader {
            assert!(position(commit) <= self.committed.len(), "{commit:?} is news to the leader");
            return;
        }
        let term = group.term_at(commit).expect("committed entries are in the log");
        assert_eq!(term, group.term(), "only entries of the own term are counted (C-01)");
        let has = |id: NodeId| nodes[&id].disk.image.has(commit, term);
        assert!(group.membership().is_quorum(has), "{commit:?} is not durable on a quorum");
        for index in self.committed.len() + 1..=position(commit) {
            let index = LogIndex::new(u64::try_from(index).expect("small"));
            self.committed.push(group.term_at(index).expect("new commits are in the log"));
        }
    }

    /// State Machine Safety: what a replica believes committed is what was committed.
    pub(crate) fn check_committed(&self, id: NodeId, group: &Group) {
        if self.blind {
            return;
        }
        let commit = position(group.commit());
        assert!(commit <= self.committed.len(), "{id:?} commits on its own");
        self.check_prefix(id, group, commit);
    }

    fn check_prefix(&self, id: NodeId, group: &Group, upto: usize) {
        for at in position(group.base().index).max(1)..=upto {
            let index = LogIndex::new(u64::try_from(at).expect("small"));
            let ours = group.term_at(index);
            assert_eq!(ours, Some(self.committed[at - 1]), "{id:?} at {index:?}");
        }
    }
}

/// Log Matching (thesis 3.5): where two logs hold the same term at an index, they hold the same
/// everywhere before it.
pub(crate) fn check_log_matching(left: (NodeId, &Group), right: (NodeId, &Group)) {
    let first = left.1.base().index.max(right.1.base().index);
    let mut last = left.1.last().index.min(right.1.last().index);
    let mut matched = false;
    while first < last {
        let (ours, theirs) = (left.1.term_at(last), right.1.term_at(last));
        if matched {
            assert_eq!(ours, theirs, "{:?} and {:?} at {last:?}", left.0, right.0);
        }
        matched |= ours == theirs;
        last = last.previous();
    }
}
