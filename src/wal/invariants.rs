//! What always holds: facts of the planner, of one group's log and of the whole index.
//!
//! Apart so that the facts read as a list. Tests, crash histories and the simulator call these
//! after each step; a running shard only the cheap one ([`Planner::check`]). Does not: repair.

use super::group_log::GroupLog;
use super::{Index, Planner};
use crate::model::LogIndex;

impl Planner {
    /// Facts that hold between any two calls.
    pub fn check(&self) {
        assert!(self.watermark <= self.durable, "{self:?}");
        assert!(self.durable <= self.next, "{self:?}");
        assert!(self.in_flight.iter().all(|write| write.durable_lsn <= self.durable));
        assert!(self.in_flight.front().is_none_or(|write| !write.done), "{self:?}");
        assert!(self.in_flight.iter().is_sorted_by_key(|write| write.end));
        if self.in_flight.len() > 1 {
            let last = self.in_flight.back().expect("more than one").end;
            let in_flight_bytes = last.bytes_since(self.durable);
            assert!(in_flight_bytes <= self.geometry.in_flight_bytes_max, "{self:?}");
        }
        if self.in_flight.is_empty() && self.parts_left == 0 && self.boot_void.is_none() {
            assert!(self.durable == self.next, "{self:?}");
        }
    }
}

impl GroupLog {
    /// Facts that hold between any two calls. O(batches in memory).
    pub(super) fn check(&self) {
        assert!(self.base.index <= self.last.index, "{self:?}");
        assert!(self.base.term <= self.last.term, "{self:?}");
        assert!(self.last.term <= self.hard_state.term || self.last == self.base, "{self:?}");
        assert!(self.runs.is_sorted_by(|a, b| a.term < b.term && a.first < b.first), "{self:?}");
        assert!(self.runs.is_empty() == (self.base.index == self.last.index), "{self:?}");
        if let (Some(first), Some(last)) = (self.runs.first(), self.runs.last()) {
            assert!(first.first == self.base.index.next() && self.base.term <= first.term);
            assert!(last.term == self.last.term && last.first <= self.last.index);
        }
        let above = |index: LogIndex| self.base.index < index && index <= self.last.index;
        assert!(self.memberships.iter().all(|(index, _)| above(*index)), "{self:?}");
        assert!(self.memberships.is_sorted_by(|a, b| a.0 < b.0), "{self:?}");
        let mut free = self.base.index.next();
        for (start, piece) in &self.pieces {
            assert!(free <= *start && *start <= piece.last && above(piece.last), "{self:?}");
            assert!(piece.points.first().is_some_and(|(first, _)| first == start), "{self:?}");
            assert!(piece.points.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{self:?}");
            free = piece.last.next();
        }
        if let Some(back) = self.dense.back() {
            assert!(back.span.last_entry() == self.last, "{self:?}");
        }
        for (before, after) in self.dense.iter().zip(self.dense.iter().skip(1)) {
            assert!(before.span.last().next() == after.span.first, "{self:?}");
        }
    }
}

impl Index {
    /// Facts that hold between any two calls. O(batches in memory): for tests and the simulator.
    pub fn check(&self) {
        if !self.is_loading() {
            self.logs().for_each(GroupLog::check);
        }
    }
}
