//! Who belongs to a group, and when a set of them is a quorum.
//!
//! Apart because disk, wire and Raft all carry it. Joint configurations (thesis 4.3) are part of
//! the format and the arithmetic from the start; proposing one is not built yet.

use super::limits::VOTERS_MAX;
use super::{NodeId, ReplicaId};

/// One replica of a group and the node it lives on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// Where it lives.
    pub node: NodeId,
    /// Which replica it is.
    pub replica: ReplicaId,
}

/// The configuration of a group (thesis 4.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Voters, by node id, each node once.
    pub voters: Vec<Member>,
    /// The voters of the old half while joint, else empty.
    pub outgoing: Vec<Member>,
    /// Replicas that receive the log but have no vote.
    pub learners: Vec<Member>,
}

/// Why a list of members is not a membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MembershipError {
    /// No voter at all.
    NoVoters,
    /// More voters in one half than the limit allows.
    TooManyVoters,
    /// The same node twice in one list, or a list out of order.
    NotSorted,
    /// Node 0 or replica 0.
    ZeroId,
    /// A node is a voter and a learner at once.
    VoterAndLearner,
}

impl Membership {
    /// A simple configuration: `nodes` vote, each with the replica id of its node number.
    pub fn of_voters(nodes: &[NodeId]) -> Self {
        let mut voters: Vec<Member> = nodes
            .iter()
            .map(|node| Member { node: *node, replica: ReplicaId::new(u32::from(node.get())) })
            .collect();
        voters.sort();
        Self { voters, ..Self::default() }
    }

    /// Checks what a decoder cannot know from the layout alone.
    ///
    /// # Errors
    /// The first fault found.
    pub fn check(&self) -> Result<(), MembershipError> {
        if self.voters.is_empty() {
            return Err(MembershipError::NoVoters);
        }
        for list in [&self.voters, &self.outgoing, &self.learners] {
            if list.len() > VOTERS_MAX {
                return Err(MembershipError::TooManyVoters);
            }
            if list.windows(2).any(|pair| pair[0].node >= pair[1].node) {
                return Err(MembershipError::NotSorted);
            }
            if list.iter().any(|m| m.node.get() == 0 || m.replica.get() == 0) {
                return Err(MembershipError::ZeroId);
            }
        }
        if self.learners.iter().any(|m| self.is_voter(m.node)) {
            return Err(MembershipError::VoterAndLearner);
        }
        Ok(())
    }

    /// Whether `node` votes in either half.
    pub fn is_voter(&self, node: NodeId) -> bool {
        self.voters.iter().chain(&self.outgoing).any(|m| m.node == node)
    }

    /// The replica of `node`, voter or learner.
    pub fn replica_of(&self, node: NodeId) -> Option<ReplicaId> {
        self.members().find(|m| m.node == node).map(|m| m.replica)
    }

    /// Every member once, voters first, each list by node id.
    pub fn members(&self) -> impl Iterator<Item = Member> + '_ {
        let leaving =
            self.outgoing.iter().filter(|o| !self.voters.iter().any(|v| v.node == o.node));
        self.voters.iter().chain(leaving).chain(&self.learners).copied()
    }

    /// Whether the nodes for which `has` holds are a quorum: a majority of the voters and, while
    /// joint, of the outgoing half too (thesis 4.3, M-05, E-11).
    pub fn is_quorum(&self, has: impl Fn(NodeId) -> bool) -> bool {
        let majority = |half: &[Member]| {
            half.is_empty() || half.iter().filter(|m| has(m.node)).count() * 2 > half.len()
        };
        majority(&self.voters) && majority(&self.outgoing)
    }

    /// The highest value that a quorum has reached: what is durable on a majority of each half
    /// (thesis 3.6.2, 4.3). `of` gives each voter's value; an unknown one counts as the least.
    pub fn quorum_value<T: Ord + Copy + Default>(&self, of: impl Fn(NodeId) -> T) -> T {
        let half = |members: &[Member]| {
            let mut values = [T::default(); VOTERS_MAX];
            for (value, member) in values.iter_mut().zip(members) {
                *value = of(member.node);
            }
            let values = &mut values[..members.len()];
            values.sort_unstable();
            // Of 3 sorted values the one at 1 is reached by two; of 4, the one at 1 by three.
            values[(members.len() - 1) / 2]
        };
        assert!(!self.voters.is_empty(), "a group has voters");
        if self.outgoing.is_empty() {
            half(&self.voters)
        } else {
            half(&self.voters).min(half(&self.outgoing))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(ids: &[u16]) -> Vec<NodeId> {
        ids.iter().map(|id| NodeId::new(*id)).collect()
    }

    fn value(values: &[u64]) -> u64 {
        let ids: Vec<u16> = (1..).take(values.len()).collect();
        Membership::of_voters(&nodes(&ids)).quorum_value(|node| values[usize::from(node.get()) - 1])
    }

    #[test]
    fn the_quorum_value_is_what_a_majority_has_reached() {
        assert_eq!(value(&[7]), 7);
        assert_eq!(value(&[7, 5]), 5);
        assert_eq!(value(&[7, 5, 4]), 5);
        assert_eq!(value(&[7, 5, 4, 9]), 5);
        assert_eq!(value(&[7, 5, 4, 9, 1]), 5);
    }

    #[test]
    fn a_joint_configuration_needs_both_halves() {
        let joint = Membership {
            outgoing: Membership::of_voters(&nodes(&[1, 2, 3])).voters,
            ..Membership::of_voters(&nodes(&[3, 4, 5]))
        };
        let has = |ids: &'static [u16]| move |node: NodeId| ids.contains(&node.get());
        assert!(!joint.is_quorum(has(&[1, 2, 3])));
        assert!(!joint.is_quorum(has(&[3, 4, 5])));
        assert!(joint.is_quorum(has(&[1, 3, 4])));
        assert_eq!(joint.quorum_value(|node| u64::from(node.get())), 2);
        assert_eq!(joint.members().count(), 5);
    }

    #[test]
    fn faults_are_found() {
        let mut membership = Membership::of_voters(&nodes(&[1, 2]));
        assert_eq!(membership.check(), Ok(()));
        membership.learners = membership.voters.clone();
        assert_eq!(membership.check(), Err(MembershipError::VoterAndLearner));
        assert_eq!(Membership::default().check(), Err(MembershipError::NoVoters));
        assert_eq!(Membership::of_voters(&nodes(&[1, 1])).check(), Err(MembershipError::NotSorted));
    }
}
