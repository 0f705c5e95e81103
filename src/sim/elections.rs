//! The oracle over elections: who may say yes to whom, and when a term may begin.
//!
//! Most of these rules keep a cluster calm and not safe, so nothing is ever lost by breaking them
//! and only a look at the very answer finds it. A replica's state after one turn is its state
//! before the next, so each turn is judged by two snapshots and the messages that left. Does not:
//! ask the replica whether it was allowed to; its clock and its log are looked at, the answer is
//! worked out here.

use std::collections::BTreeMap;

use super::mirror::Mirror;
use super::verdict::{Check, fail};
use crate::base::Moment;
use crate::model::{EntryId, GroupId, NodeId, Term};
use crate::raft::{Envelope, Group, Message, RoleName, Timing};

/// A leader looks at its quorum a few times per timeout, not all the time.
const STEP_DOWN_SLACK: core::time::Duration = core::time::Duration::from_millis(100);

/// One replica after a turn.
#[derive(Clone, Debug)]
struct State {
    term: Term,
    vote: Option<NodeId>,
    last: EntryId,
    leads: bool,
    /// When it last heard its leader or, leading, its quorum.
    heard: Option<Moment>,
    /// Whether its device held all that it promised: nothing waits to be said.
    settled: bool,
}

/// What is remembered of one replica. Starts anew with the process.
#[derive(Debug, Default)]
pub(super) struct Seat {
    earlier: Option<State>,
    before: Option<State>,
    after: Option<State>,
    /// It had never promised anything when the process began.
    is_new: bool,
    clock: Moment,
    began: Moment,
}

/// What is known of all elections. One per world.
#[derive(Default)]
pub(super) struct Elections {
    timing: Timing,
    /// The highest term that anybody spoke in.
    spoken: BTreeMap<GroupId, Term>,
    /// The log's end that a candidate named, for its vote and for its pre-vote.
    asked: BTreeMap<(GroupId, NodeId, Term, bool), EntryId>,
}

impl Elections {
    /// A node took a turn: its place, when its process began, and the time by its clock.
    pub(super) fn turn(
        &self,
        (node, began, clock): (NodeId, Moment, Moment),
        group: &Group,
        seat: &mut Seat,
        mirror: &Mirror,
    ) -> Check {
        let hard_state = group.hard_state();
        let durable = mirror.replica(group.id()).map(|replica| replica.state).unwrap_or_default();
        let now = State {
            term: group.term(),
            vote: hard_state.vote,
            last: group.last(),
            leads: group.role() == RoleName::Leader,
            heard: group.heard(),
            settled: durable.term == group.term() && durable.vote == hard_state.vote,
        };
        if seat.after.is_none() {
            seat.is_new = durable.term == Term::ZERO;
        }
        seat.earlier = seat.before.take();
        seat.before = seat.after.replace(now.clone());
        (seat.began, seat.clock) = (began, clock);
        if now.leads && now.heard.is_some_and(|at| self.is_lost(at) <= clock) {
            fail!(Elections, "{node:?} leads without having heard a quorum (E-10): {now:?}");
        }
        let Some(before) = &seat.before else { return Ok(()) };
        let opened = self.spoken.get(&group.id()).copied().unwrap_or_default();
        if before.term < now.term && opened < now.term && now.vote != Some(node) {
            fail!(Elections, "{node:?} enters a term that nobody opened (H-06): {now:?}");
        }
        if (before.term, before.vote) == (now.term, now.vote) {
            return Ok(());
        }
        let Some(candidate) = now.vote.filter(|vote| *vote != node) else { return Ok(()) };
        self.check_yes(node, (group.id(), candidate, now.term, false), seat)?;
        if !now.leads && group.deadline() < clock.after(self.timing.election_min) {
            fail!(Elections, "{node:?} votes and goes on with its own timer (L-07): {now:?}");
        }
        Ok(())
    }

    /// When a leader whose quorum was last heard at `at` must have gone.
    fn is_lost(&self, at: Moment) -> Moment {
        at.after(self.timing.check_quorum).after(STEP_DOWN_SLACK)
    }

    /// `node` said yes in this turn to what the candidate asked.
    fn check_yes(&self, node: NodeId, asked: (GroupId, NodeId, Term, bool), seat: &Seat) -> Check {
        let Some(before) = &seat.before else { return Ok(()) };
        let period = self.timing.election_min;
        if !seat.is_new && seat.clock < seat.began.after(period) {
            fail!(Elections, "{node:?} says yes to {asked:?} right after its start (L-04)");
        }
        if let Some(last) = self.asked.get(&asked)
            && last < &before.last
        {
            fail!(
                Elections,
                "{node:?} says yes to {asked:?}: {last:?}, has {before:?} (E-02, E-05)"
            );
        }
        let was_heard = before.heard.is_some_and(|at| seat.clock < at.after(period));
        // A leader that was unseated in the same turn may go on to vote as a follower.
        let still_leads = seat.after.as_ref().is_some_and(|after| after.leads);
        if was_heard && (!before.leads || still_leads) {
            fail!(
                Elections,
                "{node:?} says yes to {asked:?}, heard a leader: {before:?} (E-09, E-14)"
            );
        }
        Ok(())
    }

    /// `node` sends a message in the turn that `seat` saw last.
    pub(super) fn sent(
        &mut self,
        node: NodeId,
        envelope: &Envelope,
        seat: Option<&Seat>,
        mirror: &Mirror,
    ) -> Check {
        let Envelope { group, peer, term, message, .. } = envelope;
        let durable = mirror.replica(*group).map(|replica| replica.state.term).unwrap_or_default();
        if *term < durable {
            fail!(
                Elections,
                "{node:?} speaks in an old term (E-04, E-06), has {durable:?}: {envelope:?}"
            );
        }
        match message {
            Message::PreVote { last } => {
                self.asked.insert((*group, node, *term, true), *last);
                return Ok(());
            }
            Message::PreVoteReply { granted: true } => {
                // What was decided in an earlier turn and held back is not judged here.
                let is_settled = |state: &Option<State>| state.as_ref().is_some_and(|s| s.settled);
                if let Some(seat) = seat
                    && is_settled(&seat.before)
                    && is_settled(&seat.earlier)
                {
                    self.check_yes(node, (*group, *peer, *term, true), seat)?;
                }
                return Ok(());
            }
            Message::Vote { last } => {
                self.asked.insert((*group, node, *term, false), *last);
            }
            Message::PreVoteReply { granted: false }
            | Message::VoteReply { .. }
            | Message::Heartbeat { .. }
            | Message::HeartbeatReply { .. }
            | Message::Probe { .. }
            | Message::Accepted { .. }
            | Message::Rejected { .. }
            | Message::Snapshot { .. } => {}
        }
        let spoken = self.spoken.entry(*group).or_default();
        *spoken = (*spoken).max(*term);
        Ok(())
    }
}
