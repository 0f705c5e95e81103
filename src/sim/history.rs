//! What the clients of one log did and heard, from the first request to the last answer.
//!
//! Written as it happens, by the clients' side alone: it knows requests and answers, no replica
//! and no truth. Two reads that contradict each other are found at once; whether all of it could
//! have happened one after the other is `wgl`'s question at the end. Requests that were refused are
//! struck out: they must have had no effect, so records that only they sent fit nowhere.

use super::record::RecordId;
use super::verdict::{Check, fail};
use super::wgl::{self, Does, NO_RECORD, Op, UNSEEN};
use crate::model::{BatchKind, BatchView, GroupId, LogIndex};

/// One request in a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry(usize);

/// One per log.
pub(super) struct History {
    group: GroupId,
    /// Counts requests and answers: the only clock a history needs.
    clock: u64,
    /// `None`: refused, or a read that nobody answered.
    ops: Vec<Option<Op>>,
    /// By index, from 1 on: what reads showed there, and when one did first.
    seen: Vec<u64>,
    seen_at: Vec<u64>,
}

impl History {
    /// Nothing was asked yet.
    pub(super) fn new(group: GroupId) -> Self {
        Self { group, clock: 0, ops: Vec::new(), seen: Vec::new(), seen_at: Vec::new() }
    }

    /// A client sends an append of these records, which are numbered without gaps.
    pub(super) fn sends_append(&mut self, ids: &[RecordId]) -> Entry {
        let first = ids.first().map_or(UNSEEN, |id| id.token());
        let count = ids.len() as u64;
        self.sends(Does::Append { first, count, index: None })
    }

    /// A client sends a read.
    pub(super) fn sends_read(&mut self, from: LogIndex) -> Entry {
        let from = from.get();
        self.sends(Does::Read { from, next: from, commit: 0 })
    }

    fn sends(&mut self, does: Does) -> Entry {
        self.clock += 1;
        self.ops.push(Some(Op { invoked: self.clock, returned: None, does }));
        Entry(self.ops.len() - 1)
    }

    /// The append is acknowledged at `index`.
    pub(super) fn acknowledged(&mut self, entry: Entry, index: LogIndex) {
        self.clock += 1;
        let now = self.clock;
        if let Some(op) = &mut self.ops[entry.0]
            && let Does::Append { index: at, .. } = &mut op.does
        {
            *at = Some(index.get());
            op.returned = Some(now);
        }
    }

    /// The request certainly had no effect, or was a read and nobody will know.
    pub(super) fn strike(&mut self, entry: Entry) {
        self.ops[entry.0] = None;
    }

    /// The read is answered: it shows `batches`, of a log that ends with `commit`. A read that
    /// promises nothing about time only leaves what it showed.
    pub(super) fn answered(
        &mut self,
        entry: Entry,
        commit: LogIndex,
        batches: &[u8],
        is_linearizable: bool,
    ) -> Check {
        self.clock += 1;
        let Some(op) = &mut self.ops[entry.0] else { return Ok(()) };
        op.returned = Some(self.clock);
        let Does::Read { from, .. } = op.does else { return Ok(()) };
        let next = self.shows(from, batches)?;
        if let Some(op) = &mut self.ops[entry.0] {
            op.does = Does::Read { from, next, commit: commit.get() };
        }
        if !is_linearizable {
            self.strike(entry);
        }
        Ok(())
    }

    /// Notes what stands at each index from `from` on. Answers the index behind it.
    fn shows(&mut self, from: u64, batches: &[u8]) -> Result<u64, super::Failure> {
        let (mut next, mut rest) = (from, batches);
        while !rest.is_empty() {
            let Ok(view) = BatchView::decode(rest) else {
                fail!(Protocol, "{:?}: a read shows what is no batch", self.group);
            };
            rest = &rest[view.header.batch_bytes()..];
            let mut index = view.header.span.first.get();
            for record in view.records() {
                let token = match record {
                    Ok((_, bytes)) if view.header.kind == BatchKind::Records => {
                        RecordId::of(bytes).map_or(UNSEEN, RecordId::token)
                    }
                    Ok(_) => NO_RECORD,
                    Err(error) => fail!(Protocol, "{:?}: a read shows {error}", self.group),
                };
                if from <= index {
                    self.show(index, token)?;
                }
                index += 1;
            }
            for index in index..view.header.span.last().get() + 1 {
                if from <= index {
                    self.show(index, NO_RECORD)?;
                }
            }
            next = view.header.span.last().get() + 1;
        }
        Ok(next)
    }

    fn show(&mut self, index: u64, token: u64) -> Check {
        let at = usize::try_from(index - 1).expect("short logs");
        if self.seen.len() <= at {
            self.seen.resize(at + 1, UNSEEN);
            self.seen_at.resize(at + 1, 0);
        }
        if self.seen[at] == UNSEEN {
            (self.seen[at], self.seen_at[at]) = (token, self.clock);
        } else if self.seen[at] != token {
            let before = RecordId::of_token(self.seen[at]);
            let now = RecordId::of_token(token);
            let group = self.group;
            fail!(Linearizability, "{group:?} {index}: a read shows {now:?}, another {before:?}");
        }
        Ok(())
    }

    /// Whether everything could have happened one after the other, and nothing was seen before it
    /// was sent.
    pub(super) fn check(&self) -> Check {
        let ops: Vec<Op> = self.ops.iter().flatten().filter(|op| is_known(op)).copied().collect();
        for op in &ops {
            if let Does::Append { first, index: Some(index), .. } = op.does
                && let Some(at) = usize::try_from(index - 1).ok().filter(|at| *at < self.seen.len())
                && self.seen[at] == first
                && self.seen_at[at] < op.invoked
            {
                let id = RecordId::of_token(first);
                fail!(
                    Linearizability,
                    "{:?} {index}: {id:?} was read before it was sent",
                    self.group
                );
            }
        }
        match wgl::check(&ops, &self.seen) {
            Ok(()) => Ok(()),
            Err(violation) => fail!(Linearizability, "{:?}: {violation}", self.group),
        }
    }
}

/// Whether it tells anything: a read that was never answered does not.
fn is_known(op: &Op) -> bool {
    matches!(op.does, Does::Append { .. }) || op.returned.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::batch::{encode_batch, encode_record};
    use crate::model::{RecordCount, ReplicaId, Span, Term};

    const G: GroupId = GroupId::new(1);

    fn ids(request: u64, count: u64) -> Vec<RecordId> {
        (0..count).map(|at| RecordId::new(1, request, at)).collect()
    }

    fn batch(first: u64, ids: &[RecordId]) -> Vec<u8> {
        let mut body = Vec::new();
        for id in ids {
            encode_record(&id.payload(20), &mut body);
        }
        let count = RecordCount::new(u32::try_from(ids.len()).expect("few"));
        let span = Span { term: Term::new(1), first: LogIndex::new(first), count };
        encode_batch(G, ReplicaId::new(1), span, BatchKind::Records, &body)
    }

    #[test]
    fn what_happened_may_have_happened() {
        let mut history = History::new(G);
        let append = history.sends_append(&ids(1, 2));
        let lost = history.sends_append(&ids(2, 1));
        let read = history.sends_read(LogIndex::new(3));
        history.acknowledged(append, LogIndex::new(2));
        let bytes = [batch(2, &ids(1, 2)), batch(4, &ids(2, 1))].concat();
        history.answered(read, LogIndex::new(4), &bytes, true).expect("the first read");
        history.check().expect("the lost one was appended");
        history.strike(lost);
        history.check().expect_err("a refused record is read");
    }

    #[test]
    fn a_stale_read_may_be_late_but_shows_the_same() {
        let mut history = History::new(G);
        let append = history.sends_append(&ids(1, 1));
        history.acknowledged(append, LogIndex::new(1));
        let late = history.sends_read(LogIndex::new(1));
        history.answered(late, LogIndex::new(0), &[], false).expect("nothing");
        history.check().expect("it promised nothing");
        let late = history.sends_read(LogIndex::new(1));
        history.answered(late, LogIndex::new(1), &batch(1, &ids(1, 1)), false).expect("right");
        let wrong = history.sends_read(LogIndex::new(1));
        let failure = history.answered(wrong, LogIndex::new(1), &batch(1, &ids(2, 1)), false);
        failure.expect_err("another record at the same index");
    }

    #[test]
    fn a_linearizable_read_may_not_be_late() {
        let mut history = History::new(G);
        let append = history.sends_append(&ids(1, 1));
        history.acknowledged(append, LogIndex::new(1));
        let late = history.sends_read(LogIndex::new(1));
        history.answered(late, LogIndex::new(0), &[], true).expect("shows nothing");
        history.check().expect_err("it missed the append");
    }
}
