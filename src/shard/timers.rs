//! Time: elections, heartbeats, watchdogs and the seal, looked at a few times per timeout.
//!
//! Groups have deadlines, not timers: one scan of numbers serves them all. Does not: read a clock.

use super::Shard;
use crate::model::limits::{RETENTION_SCAN, TIMER_SCAN};

impl Shard {
    /// Lets every group whose deadline has passed act, at most every `TIMER_SCAN`.
    pub(super) fn tick(&mut self) {
        if self.now < self.next_scan {
            return;
        }
        self.next_scan = self.now.after(TIMER_SCAN);
        for at in 0..self.slots.len() {
            if self.slots[at].raft.deadline() <= self.now {
                self.slots[at].raft.tick(self.now, &mut self.wishes);
                self.slots.touch(at);
            }
        }
        self.absorb();
        self.expire_reads();
        if self.next_retention <= self.now {
            self.next_retention = self.now.after(RETENTION_SCAN);
            self.retain();
        }
    }
}
