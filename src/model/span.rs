//! The span: what Raft knows of a batch.

use super::{EntryId, LogIndex, RecordCount, Term};

/// Consecutive records of one term: `count` of them from `first`. A batch without its bytes.
///
/// (term, first) names the batch: two replicas that hold the same index of the same term hold the
/// same batch, so spans of one term never overlap partially.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// Term the batch was born in; it keeps it when it is sent again.
    pub term: Term,
    /// Index of the first record.
    pub first: LogIndex,
    /// Number of records, at least 1.
    pub count: RecordCount,
}

impl Span {
    /// Index of the last record.
    pub fn last(&self) -> LogIndex {
        assert!(self.count.get() > 0, "a span holds at least one record: {self:?}");
        LogIndex::new(self.first.get() + u64::from(self.count.get()) - 1)
    }

    /// The last record.
    pub fn last_entry(&self) -> EntryId {
        EntryId::new(self.term, self.last())
    }

    /// Whether `index` is one of its records.
    pub fn contains(&self, index: LogIndex) -> bool {
        self.first <= index && index <= self.last()
    }
}
