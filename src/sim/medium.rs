//! What became of each block on one shard's device: two promises that `mirror` does not see.
//!
//! Nothing that a recovery discarded comes back (W-08), and no file is given up while it holds the
//! only copy of something (W-13). Told by the blocks that are submitted and confirmed. Apart from
//! `mirror`, which knows what is durable and not where. Does not: parse bytes, or ask the planner.

use std::collections::{BTreeMap, BTreeSet};

use super::mirror::{BlockFacts, Mirror};
use super::verdict::{Check, fail};
use crate::model::{GroupId, LogIndex, Span, Term, WriteSeq};
use crate::wal::SegmentNo;

/// One per shard of a node; outlives the process, as the device does.
#[derive(Clone, Default)]
pub(super) struct Medium {
    /// Submitted; `true`: confirmed, but something before it is not, and a recovery that finds a
    /// hole there discards this as well.
    pending: BTreeMap<WriteSeq, (BlockFacts, bool)>,
    /// Confirmed parts of an opening whose last one is not: a recovery discards it whole.
    parts: Vec<BlockFacts>,
    /// In doubt since the last crash: nobody knows yet whether it survived.
    doubtful: Vec<(GroupId, Span)>,
    /// Batches that a recovery did not find and that were not written again since.
    discarded: BTreeSet<(GroupId, Term, LogIndex)>,
    /// The newest copy of each batch, and of each group's hard state.
    places: BTreeMap<(GroupId, Term, LogIndex), (SegmentNo, Span)>,
    states: BTreeMap<GroupId, SegmentNo>,
}

impl Medium {
    /// A block is submitted.
    pub(super) fn submitted(&mut self, write: WriteSeq, facts: &BlockFacts) {
        for (group, span) in &facts.batches {
            self.discarded.remove(&(*group, span.term, span.first));
        }
        self.pending.insert(write, (facts.clone(), false));
    }

    /// A block is confirmed.
    pub(super) fn confirmed(&mut self, write: WriteSeq) {
        self.pending.get_mut(&write).expect("confirmed after it was submitted").1 = true;
        while let Some(entry) = self.pending.first_entry()
            && entry.get().1
        {
            let (facts, _) = entry.remove();
            let is_part = facts.opens.is_some_and(|open| open.part + 1 < open.parts);
            self.parts.push(facts);
            if !is_part {
                for facts in core::mem::take(&mut self.parts) {
                    self.settle(&facts);
                }
            }
        }
    }

    /// Notes where a block's contents are.
    fn settle(&mut self, facts: &BlockFacts) {
        for (group, span) in &facts.batches {
            let key = (*group, span.term, span.first);
            let place = self.places.entry(key).or_insert((facts.segment, *span));
            place.0 = place.0.max(facts.segment);
        }
        for (group, _) in &facts.states {
            let place = self.states.entry(*group).or_default();
            *place = (*place).max(facts.segment);
        }
    }

    /// The process died: what was in flight may be there or not.
    pub(super) fn crashed(&mut self) {
        let pending = core::mem::take(&mut self.pending).into_values().map(|(facts, _)| facts);
        for facts in core::mem::take(&mut self.parts).into_iter().chain(pending) {
            // It is there or it is not, so nobody knows which copy is the newest.
            for (group, span) in &facts.batches {
                self.places.remove(&(*group, span.term, span.first));
            }
            for (group, _) in &facts.states {
                self.states.remove(group);
            }
            self.doubtful.extend(facts.batches);
        }
    }

    /// Recovery found these batches, the newest of each group; the mirror knows all of it now.
    pub(super) fn recovered(&mut self, found: &[(GroupId, Span)], mirror: &Mirror) -> Check {
        for (group, span) in found {
            if self.discarded.contains(&(*group, span.term, span.first)) {
                fail!(Resurrection, "{group:?}: {span:?} was discarded and is back (W-08)");
            }
        }
        for (group, span) in core::mem::take(&mut self.doubtful) {
            if !mirror.replica(group).is_some_and(|replica| replica.holds(span)) {
                self.discarded.insert((group, span.term, span.first));
            }
        }
        Ok(())
    }

    /// The file of `segment` is given up. `base_of` tells what each group has let go of.
    pub(super) fn gives_up(
        &mut self,
        segment: SegmentNo,
        mirror: &Mirror,
        base_of: impl Fn(GroupId) -> Option<LogIndex>,
    ) -> Check {
        let inside = self.places.iter().filter(|(_, (place, _))| *place == segment);
        for ((group, ..), (_, span)) in inside {
            let is_live = base_of(*group).is_some_and(|base| base < span.last());
            if is_live && mirror.replica(*group).is_some_and(|replica| replica.holds(*span)) {
                fail!(Recycling, "{segment:?} has the only copy of {group:?} {span:?} (W-13)");
            }
        }
        if let Some((group, _)) = self.states.iter().find(|(_, place)| **place == segment) {
            fail!(Recycling, "{segment:?} has the newest hard state of {group:?} (W-13)");
        }
        self.places.retain(|_, (place, _)| *place != segment);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Moment;
    use crate::model::{HardState, RecordCount};
    use crate::sim::Oracle;
    use crate::wal::{SegmentOpen, Void};

    const G: GroupId = GroupId::new(1);

    fn span(first: u64) -> Span {
        let count = RecordCount::new(1);
        Span { term: Term::new(1), first: LogIndex::new(first), count }
    }

    fn block(segment: u64, firsts: &[u64]) -> BlockFacts {
        BlockFacts {
            batches: firsts.iter().map(|first| (G, span(*first))).collect(),
            segment: SegmentNo(segment),
            ..BlockFacts::default()
        }
    }

    struct Device {
        medium: Medium,
        mirror: Mirror,
        write: WriteSeq,
    }

    impl Device {
        fn new() -> Self {
            let (medium, mirror) = (Medium::default(), Mirror::default());
            Self { medium, mirror, write: WriteSeq::NONE }
        }

        fn submits(&mut self, facts: &BlockFacts) {
            self.write = self.write.next();
            self.medium.submitted(self.write, facts);
            self.mirror.submitted(self.write, facts.clone());
        }

        fn writes(&mut self, facts: &BlockFacts) {
            self.submits(facts);
            self.medium.confirmed(self.write);
            self.mirror.confirmed(self.write, Moment::ZERO).expect("nothing is wrong");
        }
    }

    #[test]
    fn what_was_discarded_may_not_come_back_unless_it_is_written_again() {
        let mut device = Device::new();
        device.writes(&block(0, &[1]));
        device.submits(&block(0, &[2]));
        device.medium.crashed();
        device.mirror.crashed();
        device.medium.recovered(&[(G, span(1))], &device.mirror).expect("the second is lost");
        let both = [(G, span(1)), (G, span(2))];
        let failure = device.medium.recovered(&both, &device.mirror).expect_err("it is back");
        assert_eq!(failure.oracle, Oracle::Resurrection);
        device.writes(&block(1, &[2]));
        device.medium.recovered(&both, &device.mirror).expect("it was received again");
    }

    #[test]
    fn a_file_with_the_only_copy_is_not_given_up() {
        let mut device = Device::new();
        let state = HardState { term: Term::new(1), ..HardState::default() };
        let first = BlockFacts { states: vec![(G, state)], ..block(0, &[1, 2]) };
        device.writes(&first);
        let gives_up = |device: &mut Device, base: u64| {
            let base = LogIndex::new(base);
            device.medium.gives_up(SegmentNo(0), &device.mirror, |_| Some(base))
        };
        let failure = gives_up(&mut device, 1).expect_err("the second batch is live");
        assert_eq!(failure.oracle, Oracle::Recycling);
        device.writes(&block(1, &[2]));
        let failure = gives_up(&mut device, 1).expect_err("the hard state is there only");
        assert!(failure.detail.contains("hard state"), "{failure}");
        device.writes(&BlockFacts { states: vec![(G, state)], ..block(1, &[]) });
        gives_up(&mut device, 1).expect("everything was written forward");
    }

    #[test]
    fn an_opening_counts_when_its_last_part_is_confirmed() {
        let mut device = Device::new();
        let state = HardState { term: Term::new(1), ..HardState::default() };
        let part = |segment: u64, part: u32| BlockFacts {
            states: vec![(G, state)],
            opens: Some(SegmentOpen {
                part,
                parts: 2,
                window_bytes: 0,
                segment_bytes: 65_536,
                void: Void::default(),
                oldest: SegmentNo(segment),
            }),
            ..block(segment, &[])
        };
        device.writes(&BlockFacts { states: vec![(G, state)], ..block(0, &[]) });
        device.writes(&part(1, 0));
        let gives_up = |device: &mut Device, segment: u64| {
            device.medium.gives_up(SegmentNo(segment), &device.mirror, |_| None)
        };
        let failure = gives_up(&mut device, 0).expect_err("half of an opening replaces nothing");
        assert_eq!(failure.oracle, Oracle::Recycling);
        gives_up(&mut device, 1).expect("nobody would believe it");
        device.writes(&part(1, 1));
        gives_up(&mut device, 0).expect("everything is in the next one");
        gives_up(&mut device, 1).expect_err("and there only");
    }
}
