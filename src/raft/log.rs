//! The log as the core knows it: which term each index has, and the newest batches one by one.
//!
//! Apart because its questions (which term, does it contain, how far back) have nothing to do
//! with roles. One per group. Work per batch is O(1) amortised and never depends on the number of
//! records. Does not: know what is durable, committed or configured, or hold bytes of its own.
//!
//! ```text
//!        base                              last
//!         |  run t1      | run t3 | run t4  |      terms: exact for every index behind base
//!                            [ b ][ b ][ b ]       tail: dense, at most `tail_batches_max`
//! ```

use std::collections::VecDeque;

use super::LogBatch;
use crate::model::{EntryId, LogIndex, Span, Term};

/// Consecutive entries of one term, up to the start of the next run.
#[derive(Clone, Copy, Debug)]
struct Run {
    first: LogIndex,
    term: Term,
}

/// What lies between `base` and `last`.
#[derive(Debug)]
pub(super) struct Log {
    /// The entry just before the first one kept. Always the end of a batch.
    base: EntryId,
    /// The last entry, or `base` if there is none.
    last: EntryId,
    /// By index and, since terms never fall along a log, by term.
    runs: VecDeque<Run>,
    /// The newest batches; ends at `last`, may begin anywhere behind `base`.
    tail: VecDeque<LogBatch>,
    tail_batches_max: usize,
    /// Slices of batches that end here or before were dropped already.
    evicted: LogIndex,
}

impl Log {
    pub(super) fn new(base: EntryId, tail_batches_max: usize) -> Self {
        assert!(tail_batches_max > 0, "the newest batch is always remembered");
        Self {
            base,
            last: base,
            runs: VecDeque::new(),
            tail: VecDeque::new(),
            tail_batches_max,
            evicted: base.index,
        }
    }

    /// A log behind `base` whose entries up to `last` are known by their terms only.
    pub(super) fn recovered(
        base: EntryId,
        last: EntryId,
        runs: &[(Term, LogIndex)],
        tail_batches_max: usize,
    ) -> Self {
        assert!(runs.is_empty() == (base == last), "{runs:?} between {base:?} and {last:?}");
        let runs = runs.iter().map(|(term, first)| Run { first: *first, term: *term }).collect();
        Self { last, runs, evicted: last.index, ..Self::new(base, tail_batches_max) }
    }

    pub(super) fn base(&self) -> EntryId {
        self.base
    }

    pub(super) fn last(&self) -> EntryId {
        self.last
    }

    /// The term of `index`, if it is `base` or behind it.
    pub(super) fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        if index < self.base.index || self.last.index < index {
            return None;
        }
        let run = self.runs.partition_point(|run| run.first <= index);
        assert!(run > 0, "{index:?} lies behind {:?} and so in a run", self.base);
        Some(self.runs[run - 1].term)
    }

    /// Whether the log, or its base, has this very entry.
    pub(super) fn contains(&self, entry: EntryId) -> bool {
        self.term_at(entry.index) == Some(entry.term)
    }

    /// Whether the log has the whole batch. (term, first) names it; the end is looked at too
    /// because the question may come from another node.
    pub(super) fn holds(&self, span: &Span) -> bool {
        self.base.index < span.first
            && self.term_at(span.first) == Some(span.term)
            && self.term_at(span.last()) == Some(span.term)
    }

    /// The batch that contains `index`, if it is among the newest.
    pub(super) fn batch_at(&self, index: LogIndex) -> Option<&LogBatch> {
        let after = self.tail.partition_point(|batch| batch.span.first <= index);
        let batch = self.tail.get(after.checked_sub(1)?)?;
        batch.span.contains(index).then_some(batch)
    }

    /// The last batch end at or below `index`, as far as the tail can tell; `index` itself where
    /// it cannot.
    pub(super) fn edge_at_or_below(&self, index: LogIndex) -> LogIndex {
        match self.batch_at(index) {
            Some(batch) if index < batch.span.last() => batch.span.first.previous(),
            Some(_) | None => index,
        }
    }

    /// The last entry at or below `index` whose term is at most `term`, or `base`.
    ///
    /// Both sides of a conflict use it, so that each exchange skips at least one whole term of one
    /// log (R-06, thesis 3.5: "the follower can include the term of the conflicting entry").
    pub(super) fn last_of_term_at_most(&self, index: LogIndex, term: Term) -> EntryId {
        let mut end = index.min(self.last.index);
        let below = self.runs.partition_point(|run| run.first <= end);
        for run in self.runs.range(..below).rev() {
            if run.term <= term {
                return EntryId::new(run.term, end);
            }
            end = run.first.previous();
        }
        self.base
    }

    /// Adds `batch` behind the last entry.
    pub(super) fn append(&mut self, batch: LogBatch) {
        let span = batch.span;
        assert_eq!(self.last.index.next(), span.first, "a log has no holes: {span:?}");
        assert!(self.last.term <= span.term, "terms never fall: {:?}, {span:?}", self.last);
        // The base's term says nothing about the run behind it: a trim keeps runs exact.
        if self.runs.back().is_none_or(|run| run.term != span.term) {
            self.runs.push_back(Run { first: span.first, term: span.term });
        }
        self.last = span.last_entry();
        self.tail.push_back(batch);
        if self.tail.len() > self.tail_batches_max {
            self.tail.pop_front();
        }
    }

    /// Drops everything from `from` on, which is where a batch begins.
    pub(super) fn truncate(&mut self, from: LogIndex) {
        assert!(self.base.index < from, "{from:?} lies before {:?}", self.base);
        assert!(from <= self.last.index, "{from:?} lies behind {:?}", self.last);
        let last = from.previous();
        let term = self.term_at(last).expect("from lies behind base, so what precedes it is known");
        while self.tail.back().is_some_and(|batch| from <= batch.span.first) {
            self.tail.pop_back();
        }
        if let Some(batch) = self.tail.back() {
            assert!(batch.span.last() == last, "{from:?} cuts {:?} in two", batch.span);
        }
        while self.runs.back().is_some_and(|run| from <= run.first) {
            self.runs.pop_back();
        }
        self.last = EntryId::new(term, last);
        self.evicted = self.evicted.min(last);
    }

    /// Forgets everything up to `upto`, which is where a batch ends.
    pub(super) fn trim(&mut self, upto: EntryId) {
        assert!(self.contains(upto), "{upto:?} is not in the log behind {:?}", self.base);
        while self.tail.front().is_some_and(|batch| batch.span.last() <= upto.index) {
            self.tail.pop_front();
        }
        if let Some(batch) = self.tail.front() {
            assert!(upto.index < batch.span.first, "{upto:?} cuts {:?} in two", batch.span);
        }
        while self.runs.get(1).is_some_and(|second| second.first <= upto.index.next()) {
            self.runs.pop_front();
        }
        if upto == self.last {
            self.runs.clear();
        } else if let Some(run) = self.runs.front_mut() {
            run.first = run.first.max(upto.index.next());
        }
        self.base = upto;
        self.evicted = self.evicted.max(upto.index);
    }

    /// Starts over behind `base`, without anything.
    pub(super) fn reset(&mut self, base: EntryId) {
        *self = Self::new(base, self.tail_batches_max);
    }

    /// Drops the memory of batches that end at or before `upto`; the batches stay.
    pub(super) fn evict(&mut self, upto: LogIndex) {
        let start = self.tail.partition_point(|batch| batch.span.last() <= self.evicted);
        for batch in self.tail.range_mut(start..) {
            if upto < batch.span.last() {
                break;
            }
            batch.slice = None;
            self.evicted = batch.span.last();
        }
    }

    /// Facts that hold between any two calls. O(terms + tail): for tests and the simulator.
    pub(super) fn check(&self) {
        assert!(self.base <= self.last);
        let mut at = self.base.index;
        let mut term = self.base.term;
        for run in &self.runs {
            let joins = if at == self.base.index { run.first == at.next() } else { at < run.first };
            assert!(joins, "{run:?} follows {at:?}");
            assert!(term <= run.term && (at == self.base.index || term < run.term), "{run:?}");
            (at, term) = (run.first, run.term);
        }
        assert_eq!(self.last.term, term, "the last run is the last entry's");
        assert!(at <= self.last.index);
        assert!(self.tail.len() <= self.tail_batches_max);
        for (batch, next) in self.tail.iter().zip(self.tail.iter().skip(1)) {
            assert_eq!(batch.span.last().next(), next.span.first);
        }
        if let (Some(first), Some(last)) = (self.tail.front(), self.tail.back()) {
            assert!(self.base.index < first.span.first);
            assert_eq!(self.last, last.span.last_entry());
        }
        for batch in &self.tail {
            assert!(self.holds(&batch.span), "{:?} is not of one term", batch.span);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Prng;
    use crate::model::{BatchKind, RecordCount};

    fn batch(first: u64, count: u32, term: u64) -> LogBatch {
        let (term, first) = (Term::new(term), LogIndex::new(first));
        let span = Span { term, first, count: RecordCount::new(count) };
        LogBatch { span, kind: BatchKind::Records, bytes: 100, slice: None }
    }

    fn entry(index: u64, term: u64) -> EntryId {
        EntryId::new(Term::new(term), LogIndex::new(index))
    }

    /// `(first, count, term)` behind `base`.
    fn log(base: EntryId, batches: &[(u64, u32, u64)], tail: usize) -> Log {
        let mut log = Log::new(base, tail);
        for (first, count, term) in batches {
            log.append(batch(*first, *count, *term));
        }
        log.check();
        log
    }

    #[test]
    fn hints_pass_over_newer_terms() {
        let log = log(entry(2, 1), &[(3, 3, 1), (6, 2, 4), (8, 3, 4), (11, 1, 6)], 8);
        let hint = |index, term| log.last_of_term_at_most(LogIndex::new(index), Term::new(term));
        assert_eq!(hint(99, 9), entry(11, 6));
        assert_eq!(hint(11, 5), entry(10, 4));
        assert_eq!(hint(9, 5), entry(9, 4));
        assert_eq!(hint(9, 3), entry(5, 1));
        assert_eq!(hint(9, 0), entry(2, 1), "at least the base");
    }

    #[test]
    fn edges_are_batch_ends_where_the_tail_knows_them() {
        let log = log(EntryId::BEFORE_FIRST, &[(1, 3, 1), (4, 3, 1), (7, 3, 1)], 2);
        let edge = |index| log.edge_at_or_below(LogIndex::new(index)).get();
        assert_eq!([edge(9), edge(8), edge(7), edge(6), edge(5)], [9, 6, 6, 6, 3]);
        assert_eq!(edge(2), 2, "too old for the tail");
    }

    #[test]
    #[should_panic(expected = "cuts")]
    fn a_batch_is_not_cut_by_a_trim() {
        log(EntryId::BEFORE_FIRST, &[(1, 3, 1), (4, 3, 1)], 8).trim(entry(4, 1));
    }

    #[test]
    #[should_panic(expected = "cuts")]
    fn a_batch_is_not_cut_by_a_truncation() {
        log(EntryId::BEFORE_FIRST, &[(1, 3, 1), (4, 3, 1)], 8).truncate(LogIndex::new(5));
    }

    /// Against a list of terms, one an entry.
    #[test]
    fn the_log_agrees_with_a_list_of_terms() {
        for seed in 0..200 {
            let mut prng = Prng::new(seed);
            let tail = usize::try_from(prng.between(1, 12)).expect("small");
            let mut log = Log::new(EntryId::BEFORE_FIRST, tail);
            // Index -> (term, first of its batch); index 0 is the position before the log.
            let mut model = vec![(0, 0)];
            for _ in 0..100 {
                let last = model.len() as u64 - 1;
                let base = log.base().index.get();
                match prng.below(10) {
                    0 if last > base => {
                        let at = usize::try_from(prng.between(base + 1, last + 1)).expect("small");
                        let first = model[at].1;
                        log.truncate(LogIndex::new(first));
                        model.truncate(usize::try_from(first).expect("small"));
                    }
                    1 if last > base => {
                        let at = usize::try_from(prng.between(base + 1, last + 1)).expect("small");
                        let first = model[at].1;
                        if first > base + 1 {
                            let before = usize::try_from(first - 1).expect("small");
                            log.trim(entry(first - 1, model[before].0));
                        }
                    }
                    _ => {
                        let count = u32::try_from(prng.between(1, 5)).expect("small");
                        let term = model.last().expect("never empty").0 + prng.below(2);
                        log.append(batch(last + 1, count, term));
                        model.extend((0..count).map(|_| (term, last + 1)));
                    }
                }
                log.check();
                for index in 0..model.len() as u64 + 2 {
                    let at = usize::try_from(index).expect("small");
                    let known = log.base().index.get() <= index && at < model.len();
                    let expected = known.then(|| Term::new(model[at].0));
                    assert_eq!(log.term_at(LogIndex::new(index)), expected, "seed {seed}, {index}");
                }
            }
        }
    }
}
