//! What is true of one group, whichever nodes live: its leaders, its batches, its committed log.
//!
//! Apart because this is the world's own account, against which every replica and every reply is
//! held. It only grows; whoever contradicts it is wrong. Does not: know nodes' memory or clients.

use std::collections::BTreeMap;

use super::record::RecordId;
use super::verdict::{Check, Failure, fail};
use crate::base::Checksum;
use crate::model::{BatchKind, BatchView, GroupId, LogIndex, NodeId, Span, Term};

/// One batch that somebody wrote somewhere.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    /// Term and indexes.
    pub(super) span: Span,
    /// What it carries.
    pub(super) kind: BatchKind,
    body_crc: Checksum,
    /// Its records, if it has any.
    pub(super) records: Vec<RecordId>,
}

/// One per group.
pub(super) struct Truth {
    group: GroupId,
    leaders: BTreeMap<Term, NodeId>,
    batches: BTreeMap<(Term, LogIndex), Batch>,
    /// By first index, with the term of the leader that committed it.
    committed: BTreeMap<LogIndex, (Span, Term)>,
    committed_upto: LogIndex,
    /// The last index that a client was told to be committed.
    pub(super) acked_upto: LogIndex,
}

impl Truth {
    /// Nothing happened yet.
    pub(super) fn new(group: GroupId) -> Self {
        Self {
            group,
            leaders: BTreeMap::new(),
            batches: BTreeMap::new(),
            committed: BTreeMap::new(),
            committed_upto: LogIndex::BEFORE_FIRST,
            acked_upto: LogIndex::BEFORE_FIRST,
        }
    }

    /// `node` says that it leads `term` (Election Safety).
    pub(super) fn leads(&mut self, term: Term, node: NodeId) -> Check {
        let first = *self.leaders.entry(term).or_insert(node);
        if first != node {
            fail!(ElectionSafety, "{:?} {term:?}: {first:?} led, now {node:?}", self.group);
        }
        Ok(())
    }

    /// Somebody wrote or sent these bytes as a batch (Log Matching). Answers its span.
    pub(super) fn saw_batch(&mut self, bytes: &[u8]) -> Result<Span, Failure> {
        let view = match BatchView::decode(bytes) {
            Ok(view) => view,
            Err(error) => fail!(LogMatching, "{:?}: a written batch: {error}", self.group),
        };
        let header = view.header;
        let key = (header.span.term, header.span.first);
        if header.group != self.group {
            fail!(LogMatching, "{:?}: a batch of {:?}", self.group, header.group);
        }
        if let Some(known) = self.batches.get(&key) {
            if known.span != header.span
                || known.body_crc != header.body_crc
                || known.kind != header.kind
            {
                fail!(LogMatching, "{:?}: {known:?} and {header:?}", self.group);
            }
            return Ok(header.span);
        }
        let mut records = Vec::new();
        for record in view.records() {
            match record {
                Err(error) => fail!(LogMatching, "{:?}: {key:?}: {error}", self.group),
                Ok((_, record)) if header.kind == BatchKind::Records => {
                    let Some(id) = RecordId::of(record) else {
                        fail!(LogMatching, "{:?}: {key:?} holds what nobody sent", self.group);
                    };
                    records.push(id);
                }
                Ok(_) => {}
            }
        }
        let (span, kind, body_crc) = (header.span, header.kind, header.body_crc);
        self.batches.insert(key, Batch { span, kind, body_crc, records });
        Ok(span)
    }

    /// Whether no earlier batch of its term was ever seen.
    pub(super) fn begins_term(&self, span: Span) -> bool {
        let before = (span.term, LogIndex::BEFORE_FIRST)..(span.term, span.first);
        self.batches.range(before).next().is_none()
    }

    /// The batch of `term` that holds `index`, if anybody ever wrote it.
    pub(super) fn batch_at(&self, term: Term, index: LogIndex) -> Option<&Batch> {
        let (_, batch) =
            self.batches.range((term, LogIndex::BEFORE_FIRST)..=(term, index)).next_back()?;
        batch.span.contains(index).then_some(batch)
    }

    /// The committed batch that holds `index`.
    pub(super) fn committed_at(&self, index: LogIndex) -> Option<Span> {
        let (_, (span, _)) = self.committed.range(..=index).next_back()?;
        span.contains(index).then_some(*span)
    }

    /// What a leader of `term` must have behind `after`: batches that were committed by leaders of
    /// earlier terms (Leader Completeness), in order.
    pub(super) fn committed_before(
        &self,
        term: Term,
        after: LogIndex,
    ) -> impl Iterator<Item = Span> {
        let from = self.committed_at(after).map_or(after, |span| span.first);
        let committed = self.committed.range(from..).map(|(_, entry)| *entry);
        committed.filter(move |(span, by)| after < span.last() && *by < term).map(|(span, _)| span)
    }

    /// The last index that is committed as far as the world has seen.
    pub(super) fn committed_upto(&self) -> LogIndex {
        self.committed_upto
    }

    /// The leader of `leader_term` committed the batch of `term` that follows everything committed
    /// so far. Answers the batch.
    pub(super) fn commit(&mut self, term: Term, leader_term: Term) -> Result<Batch, Failure> {
        let index = self.committed_upto.next();
        let Some(batch) = self.batch_at(term, index) else {
            fail!(AckDiscipline, "{:?}: {index:?} {term:?} committed, never written", self.group);
        };
        if batch.span.first != index {
            fail!(CommitAgreement, "{:?}: {:?} committed from within", self.group, batch.span);
        }
        let batch = batch.clone();
        self.committed.insert(index, (batch.span, leader_term));
        self.committed_upto = batch.span.last();
        Ok(batch)
    }

    /// The record at a committed index; `None` for what is no record.
    pub(super) fn record_at(&self, index: LogIndex) -> Option<RecordId> {
        let span = self.committed_at(index)?;
        let batch = self.batches.get(&(span.term, span.first))?;
        let at = usize::try_from(index.get() - span.first.get()).expect("a batch is small");
        batch.records.get(at).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::batch::{encode_batch, encode_record};
    use crate::model::{RecordCount, ReplicaId};
    use crate::sim::Oracle;

    const G: GroupId = GroupId::new(1);

    fn batch(term: u64, first: u64, ids: &[RecordId]) -> Vec<u8> {
        let mut body = Vec::new();
        for id in ids {
            encode_record(&id.payload(20), &mut body);
        }
        let span = Span {
            term: Term::new(term),
            first: LogIndex::new(first),
            count: RecordCount::new(u32::try_from(ids.len()).expect("few")),
        };
        encode_batch(G, ReplicaId::new(1), span, BatchKind::Records, &body)
    }

    fn id(request: u64) -> RecordId {
        RecordId::new(1, request, 0)
    }

    #[test]
    fn a_term_has_one_leader() {
        let mut truth = Truth::new(G);
        let (n1, n2) = (NodeId::new(1), NodeId::new(2));
        truth.leads(Term::new(1), n1).expect("the first");
        truth.leads(Term::new(1), n1).expect("the same");
        truth.leads(Term::new(2), n2).expect("another term");
        let failure = truth.leads(Term::new(2), n1).expect_err("a second one");
        assert_eq!(failure.oracle, Oracle::ElectionSafety);
    }

    #[test]
    fn a_term_and_first_index_name_one_batch() {
        let mut truth = Truth::new(G);
        truth.saw_batch(&batch(1, 1, &[id(1)])).expect("new");
        truth.saw_batch(&batch(1, 1, &[id(1)])).expect("equal");
        truth.saw_batch(&batch(2, 1, &[id(2)])).expect("another term");
        let failure = truth.saw_batch(&batch(1, 1, &[id(3)])).expect_err("another batch");
        assert_eq!(failure.oracle, Oracle::LogMatching);
    }

    #[test]
    fn commits_follow_each_other_and_name_their_records() {
        let mut truth = Truth::new(G);
        truth.saw_batch(&batch(1, 1, &[id(1), id(2)])).expect("new");
        truth.saw_batch(&batch(2, 3, &[id(3)])).expect("new");
        truth.commit(Term::new(1), Term::new(1)).expect("written");
        let last = truth.commit(Term::new(2), Term::new(3)).expect("written");
        assert_eq!(last.records, [id(3)]);
        assert_eq!(truth.record_at(LogIndex::new(2)), Some(id(2)));
        let firsts = |term, after| -> Vec<u64> {
            let spans = truth.committed_before(Term::new(term), LogIndex::new(after));
            spans.map(|span| span.first.get()).collect()
        };
        assert_eq!(firsts(4, 1), [1, 3], "the first one ends behind 1");
        assert_eq!(firsts(3, 0), [1], "the second one was committed in term 3");
        let failure = truth.commit(Term::new(2), Term::new(3)).expect_err("nobody wrote it");
        assert_eq!(failure.oracle, Oracle::AckDiscipline);
    }
}
