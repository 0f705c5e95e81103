//! What one shard's device holds for certain, told by its writes alone.
//!
//! A second, much simpler account of the log, kept beside the real one: every block is noted when
//! it is submitted, and takes effect when it and all before it are confirmed (I-01). Apart because
//! the acknowledgement oracles must not ask the code they check. After a restart it is compared
//! with what the real recovery found and then set to it. Does not: parse bytes; the world does.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use super::verdict::{Check, fail};
use crate::base::Moment;
use crate::model::{EntryId, GroupId, HardState, LogIndex, Span, Term, WriteSeq};
use crate::wal::{Lsn, SegmentNo, SegmentOpen};

/// What matters of one block.
#[derive(Clone, Debug, Default)]
pub(super) struct BlockFacts {
    /// Logs that start anew behind an entry; `true`: what lies behind it stays.
    pub(super) resets: Vec<(GroupId, EntryId, bool)>,
    /// Hard states, the newest last.
    pub(super) states: Vec<(GroupId, HardState)>,
    /// Batches in order.
    pub(super) batches: Vec<(GroupId, Span)>,
    /// Which file it lies in.
    pub(super) segment: SegmentNo,
    /// The position behind it.
    pub(super) end: Lsn,
    /// What it says is durable.
    pub(super) durable_lsn: Lsn,
    /// Whether it says nothing else.
    pub(super) is_seal: bool,
    /// The opening that it is a part of.
    pub(super) opens: Option<SegmentOpen>,
}

/// One group on one device.
#[derive(Clone, Debug, Default)]
pub(super) struct Replica {
    /// The entry the log starts behind, as far as a reset or recovery told.
    pub(super) base: EntryId,
    /// The newest durable hard state.
    pub(super) state: HardState,
    /// By first index.
    spans: BTreeMap<LogIndex, Span>,
    /// What recovery knows by terms only: first index and term of each run, up to `runs_upto`.
    runs: Vec<(LogIndex, Term)>,
    runs_upto: LogIndex,
}

/// What recovery found of a group.
pub(super) struct Found<'a> {
    /// Whose log.
    pub(super) group: GroupId,
    /// The entry it starts behind.
    pub(super) base: EntryId,
    /// Its hard state.
    pub(super) state: HardState,
    /// Terms of everything behind `base`.
    pub(super) runs: Vec<(LogIndex, Term)>,
    /// The newest batches, up to the end.
    pub(super) spans: &'a [Span],
    /// The last index.
    pub(super) last: LogIndex,
}

impl Replica {
    /// Whether the log durably holds exactly this batch. Where only terms are known, equal terms
    /// at equal indexes are the same batch (Log Matching).
    pub(super) fn holds(&self, span: Span) -> bool {
        self.spans.get(&span.first) == Some(&span)
            || span.last() <= self.base.index
            || (self.run_at(span.first) == Some(span.term)
                && self.run_at(span.last()) == Some(span.term))
    }

    /// Whether the log durably holds this entry, behind its base.
    pub(super) fn has(&self, entry: EntryId) -> bool {
        let before = self.spans.range(..=entry.index).next_back().map(|(_, span)| span);
        let term = before.filter(|span| span.contains(entry.index)).map(|span| span.term);
        self.base.index < entry.index
            && term.or_else(|| self.run_at(entry.index)) == Some(entry.term)
    }

    /// The last index it holds.
    pub(super) fn last(&self) -> LogIndex {
        let known = self.base.index.max(self.runs_upto);
        self.spans.last_key_value().map_or(known, |(_, span)| span.last())
    }

    fn run_at(&self, index: LogIndex) -> Option<Term> {
        if index <= self.base.index || self.runs_upto < index {
            return None;
        }
        let run = self.runs.iter().rev().find(|(first, _)| *first <= index)?;
        Some(run.1)
    }

    /// Takes a batch as replay does: an equal one changes nothing, one of another term drops what
    /// it overlaps and everything behind (R-02, W-14).
    fn insert(&mut self, span: Span) {
        if self.holds(span) {
            return;
        }
        self.truncate(span.first);
        self.spans.insert(span.first, span);
    }

    fn truncate(&mut self, from: LogIndex) {
        while let Some(last) = self.spans.last_entry() {
            if last.get().last() < from {
                break;
            }
            last.remove();
        }
        if from <= self.runs_upto {
            self.runs_upto = from.previous();
        }
    }

    fn reset(&mut self, base: EntryId, keep_tail: bool) {
        if keep_tail {
            self.spans.retain(|_, span| base.index < span.last());
        } else {
            self.spans.clear();
            self.runs_upto = LogIndex::BEFORE_FIRST;
        }
        self.base = base;
    }
}

/// One per shard of a node; outlives the process, as the device does.
#[derive(Clone, Default)]
pub(super) struct Mirror {
    /// A block followed the first opening.
    has_begun: bool,
    groups: BTreeMap<GroupId, Replica>,
    /// Submitted and not yet in force; `true`: confirmed, but something before it is not.
    pending: BTreeMap<WriteSeq, (BlockFacts, bool)>,
    /// Groups whose log may or may not have been replaced when the process died.
    reset_in_doubt: BTreeSet<GroupId>,
    /// Batches that were on their way when the process died.
    in_doubt: BTreeMap<GroupId, Vec<Span>>,
    /// Files that recovery said hold nothing of the log.
    pub(super) spare: BTreeSet<SegmentNo>,
    /// The oldest segment that the newest durable opening of this run needs.
    oldest: Option<SegmentNo>,
    /// The end of the last durable block that is no seal, and the highest durable watermark.
    witnessed: (Lsn, Lsn),
    /// The highest watermark that ever was durable: what ends at or before it is known to be lost
    /// if it is.
    pub(super) vouched: Lsn,
    /// When the last write was confirmed.
    confirmed_at: Moment,
}

/// How long an idle log may be without a witness of its last block.
const WITNESS_WITHIN: Duration = Duration::from_secs(1);

impl Mirror {
    /// A block was submitted.
    pub(super) fn submitted(&mut self, write: WriteSeq, facts: BlockFacts) {
        self.has_begun |= facts.opens.is_none();
        self.pending.insert(write, (facts, false));
    }

    /// A block was confirmed.
    pub(super) fn confirmed(&mut self, write: WriteSeq, now: Moment) -> Check {
        self.confirmed_at = now;
        self.pending.get_mut(&write).expect("confirmed after it was submitted").1 = true;
        while let Some(entry) = self.pending.first_entry() {
            if !entry.get().1 {
                break;
            }
            let (facts, _) = entry.remove();
            self.apply(facts)?;
        }
        Ok(())
    }

    /// Whether the log has been idle for long and no durable block says that its last one is.
    pub(super) fn lacks_witness(&self, now: Moment) -> bool {
        let (data_end, watermark) = self.witnessed;
        self.pending.is_empty()
            && watermark < data_end
            && WITNESS_WITHIN < now.since(self.confirmed_at)
    }

    /// Whether the first opening of this run is durable.
    pub(super) fn is_opened(&self) -> bool {
        self.oldest.is_some()
    }

    /// Whether the log can do without the file of `segment`, which is gone from now on.
    pub(super) fn takes_back(&mut self, segment: SegmentNo) -> bool {
        self.spare.remove(&segment) || self.oldest.is_some_and(|oldest| segment < oldest)
    }

    /// Whether the device holds the batch and nothing on its way could replace it.
    pub(super) fn surely_holds(&self, group: GroupId, span: Span) -> bool {
        let concerns = |(facts, _): &(BlockFacts, bool)| {
            facts.batches.iter().any(|(of, _)| *of == group)
                || facts.resets.iter().any(|(of, _, _)| *of == group)
        };
        self.groups.get(&group).is_some_and(|replica| replica.holds(span))
            && !self.pending.values().any(concerns)
    }

    /// The process died: nothing is known of what was not in force.
    pub(super) fn crashed(&mut self) {
        let pending = core::mem::take(&mut self.pending);
        let resets = pending.values().flat_map(|(facts, _)| &facts.resets);
        self.reset_in_doubt = resets.map(|(group, _, _)| *group).collect();
        for (group, span) in pending.values().flat_map(|(facts, _)| &facts.batches) {
            self.in_doubt.entry(*group).or_default().push(*span);
        }
        self.oldest = None;
        self.witnessed = (Lsn::ZERO, Lsn::ZERO);
    }

    /// A group as the device certainly holds it.
    pub(super) fn replica(&self, group: GroupId) -> Option<&Replica> {
        self.groups.get(&group)
    }

    /// Recovery found this of a group: nothing that was certain may be missing. Takes it over.
    pub(super) fn recovered(&mut self, found: &Found<'_>) -> Check {
        let group = found.group;
        let before = self.groups.remove(&group).unwrap_or_default();
        if found.state.term < before.state.term {
            fail!(Durability, "{group:?}: recovered {:?}, was {:?}", found.state, before.state);
        }
        if found.state.term == before.state.term
            && before.state.vote.is_some()
            && found.state.vote != before.state.vote
        {
            fail!(Durability, "{group:?}: recovered {:?}, was {:?}", found.state, before.state);
        }
        let dense = found.spans.first().map_or(found.last.next(), |span| span.first);
        let now = Replica {
            base: found.base,
            state: found.state,
            spans: found.spans.iter().map(|span| (span.first, *span)).collect(),
            runs: found.runs.clone(),
            runs_upto: dense.previous(),
        };
        // What was in flight may have replaced a conflicting tail: a leader of a newer term may
        // well bring entries of an older term than the ones that go.
        let in_doubt = self.in_doubt.remove(&group).unwrap_or_default();
        let replaced = |lost: &Span| {
            let differs = |span: &&Span| span.first <= lost.last() && span.term != lost.term;
            in_doubt.iter().filter(differs).any(|span| now.holds(*span))
        };
        let lost = before.spans.values().find(|span| !now.holds(**span) && !replaced(span));
        if let Some(lost) = lost
            && !self.reset_in_doubt.contains(&group)
        {
            fail!(Durability, "{group:?}: recovery lost {lost:?} of {before:?}, found {now:?}");
        }
        self.groups.insert(group, now);
        Ok(())
    }

    /// Recovery found these groups and no others: none that was certain may be missing.
    pub(super) fn recovered_all(&self, found: &BTreeSet<GroupId>) -> Check {
        let empty = Replica::default();
        let is_missing = |(group, replica): &(&GroupId, &Replica)| {
            !found.contains(*group)
                && (replica.state != empty.state || replica.last() != empty.last())
                && !self.reset_in_doubt.contains(*group)
        };
        match self.groups.iter().find(is_missing) {
            Some((group, replica)) => fail!(Durability, "{group:?}: recovery lost {replica:?}"),
            None => Ok(()),
        }
    }

    /// Whether a block followed the first opening: from then on an empty log is a loss (W-17), and
    /// the real device has noted so durably before it issues that block.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    fn apply(&mut self, facts: BlockFacts) -> Check {
        if let Some(open) = facts.opens
            && open.part + 1 == open.parts
        {
            self.oldest = Some(open.oldest);
        }
        let (data_end, watermark) = &mut self.witnessed;
        *watermark = (*watermark).max(facts.durable_lsn);
        self.vouched = self.vouched.max(facts.durable_lsn);
        if !facts.is_seal {
            *data_end = facts.end;
        }
        let states = facts.states.clone();
        for (group, base, keep_tail) in facts.resets {
            self.groups.entry(group).or_default().reset(base, keep_tail);
        }
        for (group, state) in facts.states {
            self.groups.entry(group).or_default().state = state;
        }
        for (group, span) in facts.batches {
            self.groups.entry(group).or_default().insert(span);
        }
        for (group, state) in states {
            let last = self.groups.get(&group).map(Replica::last).unwrap_or_default();
            if last < state.commit {
                fail!(Recovery, "{group:?}: {state:?} is durable, the log ends at {last:?} (H-07)");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RecordCount;

    const G: GroupId = GroupId::new(1);

    fn span(term: u64, first: u64, count: u32) -> Span {
        Span { term: Term::new(term), first: LogIndex::new(first), count: RecordCount::new(count) }
    }

    fn batches(spans: &[Span]) -> BlockFacts {
        BlockFacts { batches: spans.iter().map(|s| (G, *s)).collect(), ..BlockFacts::default() }
    }

    fn found(spans: &[Span]) -> Found<'_> {
        Found {
            group: G,
            base: EntryId::BEFORE_FIRST,
            state: HardState::default(),
            runs: spans.iter().map(|span| (span.first, span.term)).collect(),
            spans,
            last: spans.last().expect("some").last(),
        }
    }

    #[test]
    fn only_the_contiguous_prefix_counts() {
        let mut mirror = Mirror::default();
        let (w1, w2) = (WriteSeq::new(1), WriteSeq::new(2));
        mirror.submitted(w1, batches(&[span(1, 1, 2)]));
        mirror.submitted(w2, batches(&[span(1, 3, 1)]));
        mirror.confirmed(w2, Moment::ZERO).expect("nothing is wrong");
        assert!(mirror.replica(G).is_none(), "w1 is in doubt, so w2 is");
        mirror.confirmed(w1, Moment::ZERO).expect("nothing is wrong");
        assert!(mirror.replica(G).expect("known").holds(span(1, 3, 1)));
    }

    #[test]
    fn a_newer_term_replaces_and_an_equal_batch_changes_nothing() {
        let mut replica = Replica::default();
        for s in [span(1, 1, 2), span(1, 3, 2), span(1, 5, 1), span(1, 3, 2)] {
            replica.insert(s);
        }
        assert_eq!(replica.last(), LogIndex::new(5));
        replica.insert(span(2, 3, 1));
        assert_eq!(replica.last(), LogIndex::new(3));
        assert!(replica.holds(span(2, 3, 1)) && !replica.holds(span(1, 5, 1)));
    }

    #[test]
    fn an_entry_is_there_with_its_term_only() {
        let mut replica = Replica::default();
        replica.insert(span(1, 1, 2));
        replica.insert(span(2, 3, 4));
        let has = |replica: &Replica, term: u64, index: u64| {
            replica.has(EntryId::new(Term::new(term), LogIndex::new(index)))
        };
        assert!(has(&replica, 1, 2) && has(&replica, 2, 3) && has(&replica, 2, 6));
        assert!(!has(&replica, 2, 2) && !has(&replica, 2, 7));
        replica.reset(EntryId::new(Term::new(2), LogIndex::new(4)), true);
        assert!(!has(&replica, 1, 2) && has(&replica, 2, 6), "behind the base only");
    }

    #[test]
    fn a_log_has_begun_with_the_first_block_behind_an_opening() {
        let mut mirror = Mirror::default();
        let open = SegmentOpen {
            part: 0,
            parts: 2,
            window_bytes: 0,
            segment_bytes: 65_536,
            void: crate::wal::Void::default(),
            oldest: SegmentNo(0),
        };
        let facts = BlockFacts { opens: Some(open), ..batches(&[]) };
        mirror.submitted(WriteSeq::new(1), facts);
        assert!(!mirror.has_begun(), "a crash may cut it off anywhere");
        mirror.submitted(WriteSeq::new(2), batches(&[span(1, 1, 1)]));
        assert!(mirror.has_begun());
    }

    #[test]
    fn recovery_may_not_lose_what_was_certain() {
        let mut mirror = Mirror::default();
        mirror.submitted(WriteSeq::new(1), batches(&[span(1, 1, 2), span(1, 3, 1)]));
        mirror.confirmed(WriteSeq::new(1), Moment::ZERO).expect("nothing is wrong");
        let failure = mirror.recovered(&found(&[span(1, 1, 2)])).expect_err("one is lost");
        assert!(failure.detail.contains("lost"), "{failure}");
    }

    #[test]
    fn recovery_may_find_more_and_may_find_a_replaced_tail() {
        let mut mirror = Mirror::default();
        mirror.submitted(WriteSeq::new(1), batches(&[span(1, 1, 2), span(1, 3, 1)]));
        mirror.confirmed(WriteSeq::new(1), Moment::ZERO).expect("nothing is wrong");
        mirror.submitted(WriteSeq::new(2), batches(&[span(2, 3, 1), span(2, 4, 1)]));
        mirror.crashed();
        let spans = [span(1, 1, 2), span(2, 3, 1), span(2, 4, 1)];
        mirror.recovered(&found(&spans)).expect("replaced");
        assert_eq!(mirror.replica(G).expect("known").last(), LogIndex::new(4));
    }

    #[test]
    fn only_what_was_in_flight_may_replace_and_its_term_may_be_older() {
        for in_flight in [true, false] {
            let mut mirror = Mirror::default();
            mirror.submitted(WriteSeq::new(1), batches(&[span(1, 1, 2), span(3, 3, 1)]));
            mirror.confirmed(WriteSeq::new(1), Moment::ZERO).expect("nothing is wrong");
            if in_flight {
                mirror.submitted(WriteSeq::new(2), batches(&[span(1, 3, 5)]));
            }
            mirror.crashed();
            let verdict = mirror.recovered(&found(&[span(1, 1, 2), span(1, 3, 5)]));
            assert_eq!(verdict.is_ok(), in_flight, "{verdict:?}");
        }
    }
}
