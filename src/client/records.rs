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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::batch::{encode_batch, encode_record};
    use crate::model::{RecordCount, ReplicaId, Span, Term};
    use crate::wire::client::{ReadReplyHead, encode_read_reply_head};

    const GROUP: GroupId = GroupId::new(5);

    fn batch(group: GroupId, first: u64, kind: BatchKind, records: &[&[u8]]) -> Vec<u8> {
        let mut body = Vec::new();
        records.iter().for_each(|record| encode_record(record, &mut body));
        let span = Span {
            term: Term::new(1),
            first: LogIndex::new(first),
            count: RecordCount::new(u32::try_from(records.len()).expect("few")),
        };
        encode_batch(group, ReplicaId::new(1), span, kind, &body)
    }

    fn decode(from: u64, next: u64, batches: &[Vec<u8>]) -> Result<ReadBatch, ReadError> {
        let head = ReadReplyHead {
            first_available: LogIndex::new(3),
            commit: LogIndex::new(9),
            next: LogIndex::new(next),
        };
        let parts = batches.iter().map(|batch| &batch[..]);
        let mut bytes = encode_read_reply_head(1, GROUP, &head, parts);
        bytes.extend(batches.concat());
        let frame = InFrame::from_checked(Bytes::from(bytes)).expect("one frame");
        ReadBatch::decode(&frame, GROUP, LogIndex::new(from))
    }

    fn indexes(read: Result<ReadBatch, ReadError>) -> Vec<u64> {
        read.expect("a valid reply").records.iter().map(|(index, _)| index.get()).collect()
    }

    #[test]
    fn what_lies_below_the_wanted_and_the_available_index_is_left_out() {
        let records = |first| batch(GROUP, first, BatchKind::Records, &[b"a", b"b", b"c"]);
        let noop = batch(GROUP, 5, BatchKind::Noop, &[b""]);
        assert_eq!(indexes(decode(3, 9, &[records(2), noop, records(6)])), [3, 4, 6, 7, 8]);
        assert_eq!(indexes(decode(4, 5, &[records(2)])), [4]);
        assert_eq!(indexes(decode(2, 5, &[records(2)])), [3, 4], "2 is trimmed");
        assert_eq!(indexes(decode(7, 7, &[])), []);
    }

    #[test]
    fn an_answer_that_does_not_fit_the_question_is_refused() {
        let records = |first| batch(GROUP, first, BatchKind::Records, &[b"a", b"b"]);
        let strange = batch(GroupId::new(6), 3, BatchKind::Records, &[b"a", b"b"]);
        let cases = [
            (3, 5, vec![strange]),
            (3, 8, vec![records(3), records(6)]),
            (3, 5, vec![records(3), records(3)]),
            (3, 6, vec![records(4)]),
            (5, 5, vec![records(3)]),
            (3, 6, vec![records(3)]),
            (3, 4, vec![]),
        ];
        for (from, next, batches) in cases {
            assert_eq!(decode(from, next, &batches), Err(ReadError::Nonsense), "{from} {next}");
        }
        let mut torn = records(3);
        torn.pop();
        assert!(matches!(decode(3, 5, &[torn]), Err(ReadError::Batch(BatchError::Short { .. }))));
    }
}
