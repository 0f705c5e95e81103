//! A disk for one replica: writes that can be held, completed in order, and lost in a crash.
//!
//! What is durable is kept as what recovery would find, so that promises can be compared with it
//! at the instant they are made. Does not: know bytes; the write-ahead log has its own tests.

use std::collections::VecDeque;

use catamaran::model::{BatchKind, EntryId, HardState, LogIndex, Membership, Span, Term, WriteSeq};
use catamaran::raft::{LogBatch, Recovered};

/// One thing a block carries.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    Hard(HardState),
    Batch(Span, BatchKind, u32, Option<Membership>),
    Reset { last: EntryId, membership: Membership, keep_tail: bool },
}

/// What recovery would find.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) hard: HardState,
    pub(crate) base: EntryId,
    pub(crate) base_membership: Membership,
    pub(crate) spans: Vec<(Span, BatchKind, u32)>,
    pub(crate) memberships: Vec<(LogIndex, Membership)>,
}

impl Image {
    pub(crate) fn new(membership: Membership) -> Self {
        Self {
            hard: HardState::default(),
            base: EntryId::BEFORE_FIRST,
            base_membership: membership,
            spans: Vec::new(),
            memberships: Vec::new(),
        }
    }

    pub(crate) fn last(&self) -> EntryId {
        self.spans.last().map_or(self.base, |(span, _, _)| span.last_entry())
    }

    pub(crate) fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        let after = self.spans.partition_point(|(span, _, _)| span.first <= index);
        let (span, _, _) = self.spans.get(after.checked_sub(1)?)?;
        span.contains(index).then_some(span.term)
    }

    /// Whether `index` is safe here: in the log with this term, or covered by its base.
    pub(crate) fn has(&self, index: LogIndex, term: Term) -> bool {
        index < self.base.index || self.term_at(index) == Some(term)
    }

    pub(crate) fn batch(&self, index: LogIndex) -> Option<(Span, BatchKind, u32)> {
        self.spans.iter().find(|(span, _, _)| span.contains(index)).copied()
    }

    /// Replay, as the write-ahead log does it: only a different term truncates (R-02, W-14).
    pub(crate) fn apply(&mut self, item: &Item) {
        match item {
            Item::Hard(hard) => self.hard = *hard,
            Item::Batch(span, kind, bytes, membership) => {
                if span.last() <= self.base.index || self.term_at(span.first) == Some(span.term) {
                    return;
                }
                self.spans.retain(|(kept, _, _)| kept.first < span.first);
                self.memberships.retain(|(index, _)| *index < span.first);
                assert_eq!(self.last().index.next(), span.first, "the disk has a hole");
                self.spans.push((*span, *kind, *bytes));
                self.memberships.extend(membership.clone().map(|m| (span.first, m)));
            }
            Item::Reset { last, membership, keep_tail } => {
                if *keep_tail {
                    assert!(self.has(last.index, last.term), "a tail is kept that is not there");
                } else {
                    self.spans.clear();
                    self.memberships.clear();
                }
                self.trim(*last, membership.clone());
            }
        }
    }

    pub(crate) fn trim(&mut self, base: EntryId, membership: Membership) {
        if base.index < self.base.index {
            return;
        }
        self.spans.retain(|(span, _, _)| base.index < span.first);
        self.memberships.retain(|(index, _)| base.index < *index);
        self.base = base;
        self.base_membership = membership;
    }

    /// What a group is started with: of the oldest `sparse` batches only the terms are told, as
    /// the write-ahead log does for old segments.
    pub(crate) fn recovered(&self, sparse: usize) -> Recovered {
        let (old, new) = self.spans.split_at(sparse);
        let mut runs: Vec<(Term, LogIndex)> = Vec::new();
        for (span, _, _) in old {
            if runs.last().is_none_or(|(term, _)| *term != span.term) {
                runs.push((span.term, span.first));
            }
        }
        Recovered {
            hard_state: self.hard,
            base: self.base,
            base_membership: self.base_membership.clone(),
            before_spans: old.last().map_or(self.base, |(span, _, _)| span.last_entry()),
            runs,
            spans: new.to_vec(),
            memberships: self.memberships.clone(),
        }
    }
}

/// The disk of one replica. Survives its crashes.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) image: Image,
    pub(crate) in_flight: VecDeque<(WriteSeq, Vec<Item>)>,
    /// What the next block will carry.
    pub(crate) staged: Vec<Item>,
    pub(crate) held: bool,
    pub(crate) write: WriteSeq,
}

impl Disk {
    pub(crate) fn new(image: Image) -> Self {
        Self {
            image,
            in_flight: VecDeque::new(),
            staged: Vec::new(),
            held: false,
            write: WriteSeq::NONE,
        }
    }

    pub(crate) fn stage(&mut self, batch: &LogBatch, membership: Option<Membership>) {
        self.staged.push(Item::Batch(batch.span, batch.kind, batch.bytes, membership));
    }

    /// Makes the oldest write durable.
    pub(crate) fn complete_one(&mut self) -> Option<WriteSeq> {
        let (write, items) = self.in_flight.pop_front()?;
        for item in &items {
            self.image.apply(item);
        }
        Some(write)
    }

    /// Power is lost: of the writes in flight the first `survivors` reached the medium. (Of the
    /// others pieces may have; recovery cuts at the first hole, so they are gone.)
    pub(crate) fn crash(&mut self, survivors: usize) -> Vec<WriteSeq> {
        for _ in 0..survivors {
            self.complete_one();
        }
        let lost = self.in_flight.drain(..).map(|(write, _)| write).collect();
        self.staged.clear();
        self.write = WriteSeq::NONE;
        lost
    }
}
