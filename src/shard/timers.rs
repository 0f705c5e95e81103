//! Time: elections, heartbeats, watchdogs and the seal, looked at a few times per timeout.
//!
//! Groups have deadlines, not timers: one scan of numbers serves them all. Does not: read a clock.

use super::Shard;
use super::effects::{Effects, Notice};
use crate::model::limits::{CAMPAIGNS_PER_SCAN_MAX, FRAME_SCAN, RETENTION_SCAN, TIMER_SCAN};
use crate::raft::{Device, RoleName};

impl Shard {
    /// Lets every group whose deadline has passed act, at most every `TIMER_SCAN`.
    pub(super) fn tick(&mut self, fx: &mut Effects) {
        if self.now < self.next_scan {
            return;
        }
        self.next_scan = self.now.after(TIMER_SCAN);
        self.watch_device();
        self.tick_groups();
        self.absorb();
        self.expire_reads();
        if self.next_frame_scan <= self.now {
            self.next_frame_scan = self.now.after(FRAME_SCAN);
            self.counters.client_cut_unfinished += self.clients.hang_up_unfinished(self.now);
        }
        self.drop_wedged_streams(fx);
        if self.next_retention <= self.now {
            self.next_retention = self.now.after(RETENTION_SCAN);
            self.fetches.let_go();
            self.retain();
        }
    }

    /// Tells all groups when the log device hangs, and when it works again (E-13).
    fn watch_device(&mut self) {
        let patience = self.config.timing.own_write_patience();
        let is_stuck = self.store.is_stuck(self.now, patience);
        let device = if is_stuck { Device::Stuck } else { Device::Works };
        if device == self.device {
            return;
        }
        self.device = device;
        self.replies.notices.push(match device {
            Device::Stuck => Notice::DeviceStuck,
            Device::Works => Notice::DeviceWorks,
        });
        for at in 0..self.slots.len() {
            self.slots[at].raft.on_device(self.now, device, &mut self.wishes);
            self.slots.touch(at);
        }
    }

    /// At most `CAMPAIGNS_PER_SCAN_MAX` groups start to campaign in one scan (E-15): when a node
    /// with thousands of them dies, the others' votes and hard states come as a stream and not as
    /// a storm. Who has to wait is next, since the scan goes on where it left off.
    fn tick_groups(&mut self) {
        let groups = self.slots.len();
        let mut campaigns = 0;
        let start = self.scan_start;
        for at in (start..groups).chain(0..start) {
            if self.now < self.slots[at].raft.deadline() {
                continue;
            }
            if self.slots[at].raft.role() != RoleName::Leader {
                if campaigns == CAMPAIGNS_PER_SCAN_MAX {
                    continue;
                }
                campaigns += 1;
                self.scan_start = (at + 1) % groups;
            }
            self.slots[at].raft.tick(self.now, &mut self.wishes);
            self.slots.touch(at);
        }
    }
}
