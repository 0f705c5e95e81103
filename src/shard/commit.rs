//! commit: what the groups decided becomes what the shard does.
//!
//! The one place where wishes of `raft` are turned into shard state. Outcomes are only noted here;
//! `reply` encodes them.

use super::effects::{Effect, Effects, Notice};
use super::persist::{Reset, Staged};
use super::slot::{Request, Waiting};
use super::{Draining, Shard};
use crate::model::{Doubt, GroupId, Refusal};
use crate::raft;

impl Shard {
    /// The commit stage: carries out what groups wished for since the last look.
    pub(super) fn commit(&mut self, fx: &mut Effects) {
        self.absorb();
        for notice in self.replies.notices.drain(..) {
            fx.push(Effect::Notice(notice));
        }
    }

    /// Takes the groups' wishes, in order. Called after every stage that spoke to a group, since
    /// the next stage may depend on them (a vote's hard state belongs into this turn's block).
    pub(super) fn absorb(&mut self) {
        // Swapped out and back: handling one wish may not grow the list, and keeps its capacity.
        let mut wishes = core::mem::take(&mut self.wishes);
        for wish in wishes.list.drain(..) {
            self.carry_out(wish);
        }
        assert!(self.wishes.list.is_empty(), "carrying out a wish does not speak to groups");
        self.wishes = wishes;
    }

    fn slot_of(&self, group: GroupId) -> usize {
        self.slots.find(group).expect("only groups of this shard have wishes")
    }

    fn carry_out(&mut self, wish: raft::Effect) {
        match wish {
            raft::Effect::Send(envelope) => self.links.post(envelope),
            raft::Effect::HardStateDirty { group } => {
                let at = self.slot_of(group);
                self.slots.mark_dirty(at);
            }
            raft::Effect::BecameLeader { group, term } => {
                let at = self.slot_of(group);
                self.slots[at].owes_noop = !planted!(C02_NO_NOOP);
                self.slots.queue(at);
                self.counters.elections_won += 1;
                self.replies.notices.push(Notice::Leads { group, term });
            }
            raft::Effect::SteppedDown { group } => self.on_stepped_down(group),
            raft::Effect::LeaderChanged { group, .. } => {
                let at = self.slot_of(group);
                self.slots.touch(at);
            }
            raft::Effect::Truncated { group, .. } => {
                self.counters.truncations += 1;
                let at = self.slot_of(group);
                self.trace.forget(at);
            }
            raft::Effect::Committed { group, .. } => {
                let at = self.slot_of(group);
                self.slots.touch(at);
                self.replies.committed.push(at);
            }
            raft::Effect::Installed { group, last, membership, keep_tail } => {
                let at = self.slot_of(group);
                self.counters.snapshots_installed += 1;
                self.replies.notices.push(Notice::Installed { group, last: last.index });
                let reset = Reset { slot: at, last, membership, keep_tail };
                self.store.stage(Staged::Reset(reset));
            }
            raft::Effect::ReadReady { token, index } => self.reads.on_ready(token, index),
            raft::Effect::ReadFailed { token, refusal } => self.reads.on_failed(token, refusal),
        }
    }

    /// Proposals of a lost office may still be committed by a successor, so they end as Unknown
    /// (C-06); requests that were never proposed certainly had no effect.
    fn on_stepped_down(&mut self, group: GroupId) {
        let at = self.slot_of(group);
        self.counters.stepped_down += 1;
        self.replies.notices.push(Notice::SteppedDown { group });
        let slot = &mut self.slots[at];
        slot.owes_noop = false;
        while let Some(waiting) = slot.waiting.pop_front() {
            self.replies.uncommitted_bytes -= waiting.bytes;
            mark!(C06_PROPOSAL_IN_DOUBT);
            if planted!(C06_LOST_OFFICE_MEANS_NOT_DONE) {
                let refusal = Refusal::NotLeader { hint: None };
                self.replies.refuse(group, waiting.origin, refusal);
                continue;
            }
            self.replies.doubt(group, waiting, Doubt::LeadershipLost);
        }
        self.refuse_pending(at);
    }

    /// Answers every request of a group that no batch has taken with NotLeader.
    pub(super) fn refuse_pending(&mut self, at: usize) {
        self.trace.forget(at);
        let slot = &mut self.slots[at];
        let refusal = Refusal::NotLeader { hint: slot.raft.leader() };
        while let Some(request) = slot.pending.pop_front() {
            let Request { origin, records, frame_bytes, .. } = request;
            self.store.pending_bytes -= records.len();
            self.replies.uncommitted_bytes -= records.len();
            self.clients.give_room(origin, frame_bytes);
            mark!(C06_UNPROPOSED_REFUSED);
            self.replies.refuse(slot.id, origin, refusal);
        }
    }

    /// Whether everything accepted has been answered, so that a drain may end.
    pub(super) fn is_settled(&self) -> bool {
        self.slots.iter().all(|slot| slot.pending.is_empty() && slot.waiting.is_empty())
            || self.draining == Draining::Done
    }
}

/// Outcomes and news of this turn, until `reply` and `commit` pass them on.
#[derive(Default)]
pub(super) struct Replies {
    /// Groups whose commit index moved; may name one twice.
    pub(super) committed: Vec<usize>,
    /// Requests that had no effect.
    pub(super) refused: Vec<(GroupId, super::slot::Origin, Refusal)>,
    /// Requests of which nobody can say.
    pub(super) doubtful: Vec<(GroupId, Waiting, Doubt)>,
    /// For the log.
    pub(super) notices: Vec<Notice>,
    /// Record bytes admitted and not answered; bounded by the configuration (F-01).
    pub(super) uncommitted_bytes: usize,
}

impl Replies {
    pub(super) fn refuse(&mut self, group: GroupId, origin: super::slot::Origin, refusal: Refusal) {
        self.refused.push((group, origin, refusal));
    }

    pub(super) fn doubt(&mut self, group: GroupId, waiting: Waiting, doubt: Doubt) {
        self.doubtful.push((group, waiting, doubt));
    }
}
