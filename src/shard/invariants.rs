//! Facts of a shard that hold between any two turns. Production checks the cheap ones every turn.

use super::Shard;

impl Shard {
    /// O(groups that were touched) and a few numbers: cheap enough for every turn (O-06).
    pub(super) fn check(&self) {
        self.store.planner.check();
        assert!(self.store.to_propose.is_none(), "every closed block was proposed");
        assert!(self.wishes.list.is_empty(), "every wish was taken");
        for at in &self.slots.touched {
            self.slots[*at].raft.check();
        }
    }

    /// The whole truth, O(groups x batches in memory): for tests and the simulator.
    pub fn check_all(&self) {
        self.check();
        let (mut pending, mut uncommitted) = (0, 0);
        for slot in self.slots.iter() {
            slot.raft.check();
            pending += slot.pending.iter().map(|request| request.records.len()).sum::<usize>();
            uncommitted += slot.waiting.iter().map(|waiting| waiting.bytes).sum::<usize>();
        }
        assert_eq!(self.store.pending_bytes, pending, "bytes of requests that wait for a block");
        let counted = self.replies.uncommitted_bytes;
        assert_eq!(counted, pending + uncommitted, "bytes admitted and not answered");
        self.store.index.check();
    }
}
