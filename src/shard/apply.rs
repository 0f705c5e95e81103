//! apply: committed spans become visible, and what nobody needs any more is let go.
//!
//! A plain log has no machine to feed: what is committed can be read. Retention trims committed
//! batches only, evicts memory under pressure, and writes small remainders of old segments forward
//! so that one quiet group cannot keep the disk full. Does not: delete a file a durable opening
//! still names.

use super::Shard;
use super::effects::Effects;
use super::memory;
use crate::base::Arena;
use crate::model::LogIndex;
use crate::model::limits::CACHED_BATCHES_MAX;
use crate::wal::{self, SegmentNo};

impl Shard {
    /// The apply stage.
    pub(super) fn apply(&mut self, arena: &mut Arena, fx: &mut Effects) {
        self.serve_reads();
        self.start_fetches(arena, fx);
        self.evict(arena);
    }

    /// Trims every log to its limit and plans what becomes of old segments. A few times a second.
    pub(super) fn retain(&mut self) {
        if self.store.planner.opening_parts_left() > 0 {
            // The rest of the opening says what was true when its first part was made.
            return;
        }
        if self.config.retention.is_limited() {
            let limit = self.config.retention.as_limit();
            let resetting: Vec<usize> = self.store.staged_resets().collect();
            for at in 0..self.slots.len() {
                if resetting.contains(&at) {
                    // A reset that keeps the tail waits behind batches that it covers. The log may
                    // not begin behind it before it is written.
                    continue;
                }
                let slot = &self.slots[at];
                // Only what is durable here: the index may still name a truncated batch above.
                let commit = slot.raft.commit().min(slot.raft.durable());
                if let Some(base) = wal::trim_point(&self.store.index, slot.id, limit, commit) {
                    self.store.index.trim(slot.id, base);
                    self.slots[at].raft.trim(base);
                    self.slots.touch(at);
                }
            }
        }
        self.reuse_segments();
    }

    /// Dead segments become spare files; a small live remainder of the oldest one is written
    /// forward, so that one quiet group cannot keep the disk full (W-13).
    fn reuse_segments(&mut self) {
        let Some(oldest) = self.store.opened_oldest else { return };
        let present: Vec<SegmentNo> = self.store.segments.iter().copied().collect();
        let Some(current) = present.last().copied() else { return };
        let committed = |group| {
            let slot = self.slots.find(group).map(|at| &self.slots[at]);
            slot.map_or(LogIndex::BEFORE_FIRST, |slot| slot.raft.commit().min(slot.raft.durable()))
        };
        let plan = wal::plan_retention(&self.store.index, &present, oldest, current, committed);
        for segment in plan.recyclable {
            // A read that is under way still has the file; what it finds is checked (W-15).
            self.store.segments.remove(&segment);
            self.store.spare.push_back(segment);
        }
        // Only one step at a time, and not while the log itself waits for the device or for room:
        // what is read to be written forward holds memory until it is written.
        let is_calm = !self.fetches.is_forwarding()
            && !self.store.is_rewriting()
            && !self.store.is_stalled(self.now)
            && !self.store.is_disk_full();
        if self.config.retention.is_limited() && is_calm {
            for part in plan.rewrite {
                if let Some(at) = self.slots.find(part.group) {
                    self.want_forward(at, (part.first, part.last), part.bytes);
                }
            }
        }
    }

    /// Lets go of the oldest batches in memory until enough extents are free: whoever still wants
    /// them reads them back from the device.
    fn evict(&mut self, arena: &mut Arena) {
        if memory::is_low(arena) {
            self.fetches.let_go();
        }
        while memory::is_low(arena) || self.store.cached() > CACHED_BATCHES_MAX {
            // A batch at a time: an extent is free when its last slice is gone, and how many
            // share one is the arena's business.
            let Some((slot, last)) = self.store.forget_oldest() else { return };
            mark!(F03_BATCH_EVICTED);
            self.slots[slot].raft.evict(last);
        }
    }
}
