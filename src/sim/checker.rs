//! The oracles over replicas and replies: what they say is held against the truth.
//!
//! Apart from `truth` (what is true of a group) and `mirror` (what a device holds) because here
//! the two meet the nodes' memory and the clients' view. Called after every turn and for every
//! reply that leaves a node. Does not: change the world, or know the shard's types.

use std::collections::{BTreeMap, BTreeSet};

use super::history::History;
use super::mirror::Mirror;
use super::record::RecordId;
use super::truth::Truth;
use super::verdict::{Check, fail};
use crate::model::{BatchView, EntryId, GroupId, LogIndex, NodeId, Span, Term};
use crate::wire::client::{AppendReply, ReadReplyView};

/// One replica's memory, as it stands after a turn.
pub(super) struct ReplicaView<'a> {
    /// Where it lives.
    pub(super) node: NodeId,
    /// Whose log.
    pub(super) group: GroupId,
    /// Its current term.
    pub(super) term: Term,
    /// Whether it leads that term.
    pub(super) leads: bool,
    /// Its commit index.
    pub(super) commit: LogIndex,
    /// The index its log starts behind.
    pub(super) base: LogIndex,
    /// The last entry of its log.
    pub(super) last: EntryId,
    /// The term of the entry at an index behind the base.
    pub(super) term_at: &'a dyn Fn(LogIndex) -> Option<Term>,
    /// The batch at an index, if it is remembered one by one, as the newest are.
    pub(super) span_at: &'a dyn Fn(LogIndex) -> Option<Span>,
}

/// What was seen of one replica before. Starts anew with the process.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch {
    term: Term,
    commit: LogIndex,
    /// The term it led when it was seen last.
    led: Option<Term>,
    /// What its log ended with.
    last: EntryId,
    /// Index and term of each batch that it led and had not committed: a leader may commit them
    /// and trim its log in one turn.
    tail: BTreeMap<LogIndex, Term>,
    /// It was seen before.
    is_known: bool,
}

/// All truths. One per world.
pub(super) struct Checker {
    truths: BTreeMap<GroupId, Truth>,
    histories: BTreeMap<GroupId, History>,
    committed: BTreeMap<RecordId, (GroupId, LogIndex)>,
    refused: BTreeSet<RecordId>,
    quorum: usize,
}

impl Checker {
    /// For groups 1 to `groups` with `nodes` voters.
    pub(super) fn new(groups: u64, nodes: u16) -> Self {
        let truths = (1..=groups).map(GroupId::new).map(|g| (g, Truth::new(g))).collect();
        let quorum = usize::from(nodes) / 2 + 1;
        let histories = (1..=groups).map(GroupId::new).map(|g| (g, History::new(g))).collect();
        Self { truths, histories, committed: BTreeMap::new(), refused: BTreeSet::new(), quorum }
    }

    /// What clients did with a group and heard of it.
    pub(super) fn history(&mut self, group: GroupId) -> &mut History {
        self.histories.get_mut(&group).expect("clients ask for groups that exist")
    }

    /// The end: could everything that the clients saw have happened one after the other?
    pub(super) fn check_histories(&self) -> Check {
        self.histories.values().try_for_each(History::check)
    }

    /// The truth of a group.
    pub(super) fn truth(&mut self, group: GroupId) -> Result<&mut Truth, super::Failure> {
        match self.truths.get_mut(&group) {
            Some(truth) => Ok(truth),
            None => fail!(LogMatching, "{group:?} does not exist"),
        }
    }

    /// Holds a replica's memory against the truth. `mirrors`: the devices of this shard, one per
    /// node.
    pub(super) fn inspect(
        &mut self,
        view: &ReplicaView<'_>,
        watch: &mut Watch,
        mirrors: &[&Mirror],
    ) -> Check {
        let (node, group) = (view.node, view.group);
        if view.term < watch.term {
            fail!(HardState, "{node:?} {group:?}: {:?} after {:?}", view.term, watch.term);
        }
        if view.commit < watch.commit {
            fail!(CommitAgreement, "{node:?} {group:?}: {:?} after {watch:?}", view.commit);
        }
        watch.term = view.term;
        check_grows(view, watch)?;
        let leads = view.leads.then_some(view.term);
        if leads.is_some() && leads != watch.led {
            self.leads(view)?;
        }
        // A leader may commit and lose its office in one turn.
        let led = leads.or(watch.led);
        watch.led = leads;
        let known = self.truth(group)?.committed_upto();
        let mut at = watch.commit.max(view.base.min(known));
        while at < view.commit {
            let index = at.next();
            let term = (view.term_at)(index).or_else(|| watch.tail.get(&index).copied());
            at = self.check_commit(view, led, (index, term), mirrors)?;
        }
        if at > view.commit {
            fail!(CommitAgreement, "{node:?} {group:?}: commit {:?} within a batch", view.commit);
        }
        // C-01: what a leader counts is of its own term; older entries come along.
        if leads.is_some() && watch.commit < view.commit {
            let term = (view.term_at)(view.commit);
            if term != leads && watch.is_known && view.base < view.commit {
                fail!(CommitAgreement, "{node:?} {group:?}: {:?} commits {term:?}", view.term);
            }
        }
        watch.commit = view.commit;
        watch.is_known = true;
        watch.tail.clear();
        let mut at = view.commit.next();
        while view.leads
            && let Some(span) = (view.span_at)(at)
        {
            watch.tail.insert(span.first, span.term);
            at = span.last().next();
        }
        Ok(())
    }

    /// A committed index of a replica: either known to be, and then equal, or new, and then it
    /// must be right. Answers the end of its batch.
    fn check_commit(
        &mut self,
        view: &ReplicaView<'_>,
        led: Option<Term>,
        (index, term): (LogIndex, Option<Term>),
        mirrors: &[&Mirror],
    ) -> Result<LogIndex, super::Failure> {
        let (node, group) = (view.node, view.group);
        if let Some(span) = self.truth(group)?.committed_at(index) {
            if term != Some(span.term) {
                fail!(CommitAgreement, "{node:?} {group:?} {index:?}: {term:?}, not {span:?}");
            }
            return Ok(span.last());
        }
        let Some(term) = term else {
            fail!(CommitAgreement, "{node:?} {group:?} commits {index:?}, which it has not");
        };
        let Some(led) = led else {
            fail!(CommitAgreement, "{node:?} {group:?} commits {index:?} before any leader");
        };
        let batch = self.truth(group)?.commit(term, led)?;
        let span = batch.span;
        let holders = mirrors.iter().filter(|m| m.replica(group).is_some_and(|r| r.holds(span)));
        let holders = holders.count();
        if holders < self.quorum {
            fail!(AckDiscipline, "{node:?} {group:?} commits {span:?}, durable on {holders} only");
        }
        for (id, at) in batch.records.into_iter().zip(span.first.get()..) {
            if self.refused.contains(&id) {
                fail!(Ledger, "{group:?} {at}: {id:?} was refused and is committed");
            }
            if let Some(first) = self.committed.insert(id, (group, LogIndex::new(at))) {
                fail!(Ledger, "{group:?} {at}: {id:?} is committed again, first at {first:?}");
            }
        }
        Ok(span.last())
    }

    /// `node` began to lead: it must have everything that leaders before it committed.
    fn leads(&mut self, view: &ReplicaView<'_>) -> Check {
        let (node, group, term) = (view.node, view.group, view.term);
        let truth = self.truth(group)?;
        truth.leads(term, node)?;
        for span in truth.committed_before(term, view.base) {
            let found = (view.term_at)(span.last());
            if found != Some(span.term) {
                fail!(LeaderCompleteness, "{node:?} {group:?} {term:?}: {span:?} is {found:?}");
            }
        }
        Ok(())
    }

    /// An acknowledgement leaves a node for the client that sent these records.
    pub(super) fn acknowledges(
        &mut self,
        group: GroupId,
        ids: &[RecordId],
        reply: &AppendReply,
    ) -> Check {
        let truth = self.truth(group)?;
        for (id, at) in ids.iter().zip(reply.first.get()..) {
            let found = truth.record_at(LogIndex::new(at));
            if found != Some(*id) {
                fail!(Ledger, "{group:?} {at}: {id:?} is acknowledged, {found:?} is there");
            }
        }
        let span = truth.committed_at(reply.first);
        if span.map(|span| span.term) != Some(reply.term) {
            fail!(Ledger, "{group:?}: {reply:?} names another term than {span:?}");
        }
        Ok(())
    }

    /// A client received an acknowledgement: reads that it sends from now on must see it.
    pub(super) fn acknowledged(&mut self, group: GroupId, last: LogIndex) -> Check {
        let truth = self.truth(group)?;
        truth.acked_upto = truth.acked_upto.max(last);
        Ok(())
    }

    /// A client was told for good that these records have had no effect.
    pub(super) fn refused(&mut self, ids: &[RecordId]) -> Check {
        for id in ids {
            if let Some(at) = self.committed.get(id) {
                fail!(Ledger, "{id:?} is refused, it is committed at {at:?}");
            }
            self.refused.insert(*id);
        }
        Ok(())
    }

    /// A read reply: only committed records, all of them without a gap, and fresh enough.
    /// Answers the index to go on from.
    pub(super) fn read(
        &mut self,
        group: GroupId,
        from: LogIndex,
        must_see: LogIndex,
        reply: &ReadReplyView<'_>,
    ) -> Result<LogIndex, super::Failure> {
        let head = reply.head;
        let truth = self.truth(group)?;
        if head.commit < must_see {
            fail!(Linearizability, "{group:?}: {head:?}, {must_see:?} was acknowledged before");
        }
        if truth.committed_upto() < head.commit {
            fail!(Ledger, "{group:?}: {head:?} is beyond {:?}", truth.committed_upto());
        }
        // What was trimmed while the reply was put together may still be in it.
        if from < head.first_available && reply.batches.is_empty() {
            fail!(Protocol, "{group:?}: {head:?} answers a read from {from:?}");
        }
        let mut next = from;
        let mut rest = reply.batches;
        while !rest.is_empty() {
            let span = check_read_batch(truth, rest, next == from)?;
            if !span.contains(next) || head.commit < span.last() {
                fail!(Protocol, "{group:?}: {span:?} stands at {next:?} of {head:?}");
            }
            next = span.last().next();
            let view = BatchView::decode(rest).expect("checked above");
            rest = &rest[view.header.batch_bytes()..];
        }
        if head.next != next || (next == from && from <= head.commit) {
            fail!(Protocol, "{group:?}: a read from {from:?} ends at {next:?} with {head:?}");
        }
        Ok(next)
    }
}

/// A leader only adds to its log.
fn check_grows(view: &ReplicaView<'_>, watch: &mut Watch) -> Check {
    let before = core::mem::replace(&mut watch.last, view.last);
    if !view.leads || watch.led != Some(view.term) {
        return Ok(());
    }
    let is_there = before.index <= view.base || (view.term_at)(before.index) == Some(before.term);
    if view.last.index < before.index || !is_there {
        let (node, group, after) = (view.node, view.group, view.last);
        fail!(AppendOnly, "{node:?} {group:?} leads, its log ended with {before:?}, now {after:?}");
    }
    Ok(())
}

/// One batch of a read reply: whole, committed, and the very one.
fn check_read_batch(truth: &mut Truth, bytes: &[u8], first: bool) -> Result<Span, super::Failure> {
    let view = match BatchView::decode(bytes) {
        Ok(view) => view,
        Err(error) => fail!(Protocol, "a read reply's batch: {error}"),
    };
    let span = truth.saw_batch(&bytes[..view.header.batch_bytes()])?;
    let committed = truth.committed_at(span.first);
    if committed != Some(span) {
        fail!(Ledger, "a read (first batch: {first}) shows {span:?}, committed is {committed:?}");
    }
    Ok(span)
}
