//! The records in a read reply, every checksum on their way verified.
//!
//! Apart from the session because loadgen's verification and tools read replies too. Pure.

use core::fmt;

use bytes::Bytes;

use crate::model::{BatchError, BatchKind, BatchView, Doubt, GroupId, LogIndex, Refusal};
use crate::wire::InFrame;
use crate::wire::client::Reply;

/// Committed records of one group, as one read returned them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadBatch {
    /// The first index that can still be read.
    pub first_available: LogIndex,
    /// The commit index that the read saw: for a linearizable read at or above every append that
    /// was acknowledged before it.
    pub commit: LogIndex,
    /// What to ask for next. If it is above `commit`, there is nothing more at the moment.
    pub next: LogIndex,
    /// The records with their indexes, ascending. Indexes may have gaps: a leader's no-op and a
    /// configuration take one each. The bytes are slices of the received frame.
    pub records: Vec<(LogIndex, Bytes)>,
}

/// Why a read gave no records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// The cluster refused it.
    Refused(Refusal),
    /// No answer came.
    NoAnswer(Doubt),
    /// A batch in the answer is broken: a checksum does not hold.
    Batch(BatchError),
    /// The answer is not one to this read: another group's batch, or indexes that do not follow
    /// each other.
    Nonsense,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => write!(f, "refused: {refusal}"),
            Self::NoAnswer(doubt) => write!(f, "no answer: {doubt}"),
            Self::Batch(error) => write!(f, "broken batch in the answer: {error}"),
            Self::Nonsense => f.write_str("the answer does not belong to this read"),
        }
    }
}

impl std::error::Error for ReadError {}

impl ReadBatch {
    /// Reads a read reply that asked for `group` from `from` on, with everything verified.
    ///
    /// # Errors
    /// [`ReadError::Batch`] or [`ReadError::Nonsense`].
    pub fn decode(frame: &InFrame, group: GroupId, from: LogIndex) -> Result<Self, ReadError> {
        let body = frame.body();
        let Ok(Reply::Read(view)) = Reply::decode(&frame.header, body) else {
            return Err(ReadError::Nonsense);
        };
        let mut records = Vec::new();
        let mut expected: Option<LogIndex> = None;
        let mut at = frame.bytes.len() - view.batches.len();
        while at < frame.bytes.len() {
            let rest = &frame.bytes[at..];
            let batch = BatchView::decode(rest).map_err(ReadError::Batch)?;
            let span = batch.header.span;
            // The first batch holds `from`; each other begins where the one before ended.
            let follows = expected.map_or(span.contains(from), |index| span.first == index);
            if batch.header.group != group || !follows {
                return Err(ReadError::Nonsense);
            }
            expected = Some(span.last().next());
            if batch.header.kind == BatchKind::Records {
                for record in batch.records() {
                    let (index, record) = record.map_err(ReadError::Batch)?;
                    if index >= from && index >= view.head.first_available {
                        records.push((index, frame.bytes.slice_ref(record)));
                    }
                }
            }
            at += batch.header.batch_bytes();
        }
        if view.head.next != expected.unwrap_or(from) {
            return Err(ReadError::Nonsense);
        }
        Ok(Self {
            first_available: view.head.first_available,
            commit: view.head.commit,
            next: view.head.next,
            records,
        })
    }
}

impl IntoIterator for ReadBatch {
    type Item = (LogIndex, Bytes);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.records.into_iter()
    }
}
