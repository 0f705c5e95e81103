//! The leader's side of replication: probing, streaming, windows, heartbeats (thesis 3.5, 10.2.1).
//!
//! Batches leave through [`Group::next_append`], when the caller has credit on the bulk lane;
//! everything else goes out on the control lane as [`Effect::Send`](super::Effect::Send). Does
//! not: count commits (`commit.rs`) or confirm reads (`read.rs`).

use super::progress::{Phase, Progress};
use super::role::{Leader, Role};
use super::{Effects, Group, LogBatch, Message, NextAppend, OnItsWay};
use crate::base::Moment;
use crate::model::{BatchKind, EntryId, LogIndex, Member, Membership, NodeId};

/// So many denials in a row of what was acknowledged make an amnesiac. Streams keep order,
/// so one would do; the second makes sure that it answers the question of the first.
const DENIALS_MAX: u8 = 2;

impl Group {
    /// Takes the batch that this leader just made.
    ///
    /// # Panics
    /// If this replica does not lead, or the batch is not the next one of its term.
    pub fn propose(&mut self, batch: LogBatch, membership: Option<Membership>, fx: &mut Effects) {
        let span = batch.span;
        assert!(matches!(self.role, Role::Leader(_)), "only a leader proposes");
        assert_eq!(span.term, self.term, "a batch is born in its leader's term");
        assert_eq!(batch.kind == BatchKind::Configuration, membership.is_some());
        self.log.append(batch);
        self.durability.appended(span);
        if let Some(membership) = membership {
            // In force from now on, committed or not (thesis 4.1, M-02).
            self.configurations.push(span.first, membership);
            self.reconcile_peers(fx);
            // A smaller quorum may already have what was proposed before.
            self.advance_commit(fx);
        }
    }

    /// What to send to `peer` next on the bulk lane, at most `bytes_max` bytes. To be called until
    /// it says `Nothing`; each batch it returns counts as on its way.
    pub fn next_append(&mut self, peer: NodeId, bytes_max: u64) -> NextAppend {
        if !self.wants_append(peer) {
            return NextAppend::Nothing;
        }
        let Role::Leader(leader) = &mut self.role else { return NextAppend::Nothing };
        let Some(progress) = leader.peer_mut(peer) else { return NextAppend::Nothing };
        let in_memory = self.log.batch_at(progress.next).filter(|batch| batch.slice.is_some());
        let Some(found) = in_memory.or_else(|| progress.fetched_front()) else {
            mark!(R08_FETCH_ASKED);
            progress.fetching = true;
            return NextAppend::Fetch { from: progress.next };
        };
        let bytes = u64::from(found.bytes);
        let batch = found.clone();
        if bytes_max < bytes || !progress.has_room_for(bytes, &self.settings.window) {
            mark!(R08_NO_CREDIT_FOR_BATCH);
            return NextAppend::Nothing;
        }
        progress.sent(&batch.span, batch.bytes, self.now);
        progress.told = progress.told.max(self.commit.min(batch.span.last()));
        progress.told_at = self.now;
        let before = batch.span.first.previous();
        let term = self.log.term_at(before).expect("the batch lies behind the base");
        NextAppend::Batches { prev: EntryId::new(term, before), commit: self.commit, batch }
    }

    /// Whether [`Group::next_append`] would have something, given credit.
    pub fn wants_append(&self, peer: NodeId) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        let Some(progress) = leader.peer(peer) else { return false };
        let bytes = self.log.batch_at(progress.next).map_or(1, |batch| u64::from(batch.bytes));
        progress.phase == Phase::Stream
            && !progress.fetching
            && self.log.base().index < progress.next
            && progress.next <= self.log.last().index
            && progress.has_room_for(bytes, &self.settings.window)
    }

    /// Answers a [`NextAppend::Fetch`]: consecutive batches, the first of which contains the
    /// wanted index. Empty if it could not be read now; it is asked for again then. An answer
    /// that comes too late, or holds what the log no longer does, is dropped.
    pub fn fetched(&mut self, peer: NodeId, batches: Vec<LogBatch>) {
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.peer_mut(peer) else { return };
        let log = &self.log;
        let is_ours = |batch: &LogBatch| batch.slice.is_some() && log.holds(&batch.span);
        mark!(R08_NOTHING_FETCHED if batches.is_empty());
        progress.keep_fetched(batches.into_iter().filter(is_ours));
    }

    /// Whether an answer to a [`NextAppend::Fetch`] for `peer` is still waited for.
    pub fn is_fetching(&self, peer: NodeId) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        leader.peer(peer).is_some_and(|progress| progress.fetching)
    }

    /// What is on its way to `peer`. `None` if this replica does not lead: then everything it had
    /// sent is given up.
    pub fn on_its_way(&self, peer: NodeId) -> Option<OnItsWay> {
        let Role::Leader(leader) = &self.role else { return None };
        leader.peer(peer).map(Progress::on_its_way)
    }

    /// The bulk stream to `peer` is gone: what was given up does not lie in it any more.
    pub fn bulk_stream_ended(&mut self, peer: NodeId) {
        let Role::Leader(leader) = &mut self.role else { return };
        if let Some(progress) = leader.peer_mut(peer) {
            progress.stream_ended();
        }
    }

    /// A stream to `peer` is there (again): asks where it is without waiting for a heartbeat.
    pub fn link_up(&mut self, now: Moment, peer: NodeId, fx: &mut Effects) {
        self.clock(now);
        if !planted!(N06_WINDOW_OUTLIVES_STREAM) {
            self.link_reset(peer, fx);
        }
        if let Some(at) = self.peer_position(peer) {
            self.heartbeat_to(at, fx);
            self.nudge(at, fx);
        }
    }

    /// A stream to `peer` is gone, with whatever was on its way: its window is void and the next
    /// thing it hears is a question. Wishes for nothing; the signature leaves room for it.
    pub fn link_reset(&mut self, peer: NodeId, _fx: &mut Effects) {
        let last = self.log.last().index;
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.peer_mut(peer) else { return };
        mark!(R08_WINDOW_RESET if progress.status().in_flight_bytes > 0);
        let known = progress.matched > LogIndex::BEFORE_FIRST;
        progress.probe_from(if known { progress.matched.next() } else { last.next() });
        progress.told = LogIndex::BEFORE_FIRST;
    }

    pub(super) fn on_accepted(&mut self, from: Member, matched: LogIndex, fx: &mut Effects) {
        let (now, last) = (self.now, self.log.last().index);
        let Some(progress) = self.answering_peer(from) else { return };
        if last < matched {
            self.counters.nonsense += 1;
            return;
        }
        progress.accepted(matched, now);
        self.advance_commit(fx);
    }

    /// The peer's log does not contain the entry it was asked about.
    pub(super) fn on_rejected(
        &mut self,
        from: Member,
        prev: LogIndex,
        hint: EntryId,
        fx: &mut Effects,
    ) {
        let Some(progress) = self.answering_peer(from) else { return };
        mark!(R06_PEER_RETREATS if progress.phase == Phase::Probe);
        match progress.phase {
            Phase::Snapshot { .. } => return, // Its log is about to be replaced.
            // Only the question that stands; others were answered before.
            Phase::Probe if prev != progress.next.previous() => return,
            Phase::Probe if prev <= progress.matched => return self.on_denial(from, hint, fx),
            // Acknowledged meanwhile, or a batch behind one that was rejected already.
            Phase::Stream if prev <= progress.matched => return,
            Phase::Probe | Phase::Stream => {}
        }
        self.retreat(from.node, prev, hint);
        self.nudge_node(from.node, fx);
    }

    /// The peer denies an entry that it acknowledged in this very term: its disk lies, or it is
    /// another one. It gets the log again but is no longer believed in this term.
    fn on_denial(&mut self, from: Member, hint: EntryId, fx: &mut Effects) {
        let Some(progress) = self.answering_peer(from) else { return };
        progress.denials += 1;
        let prev = progress.matched;
        if progress.denials >= DENIALS_MAX {
            progress.is_amnesiac();
            self.counters.reversions += 1;
            self.retreat(from.node, prev, hint);
        }
        self.nudge_node(from.node, fx);
    }

    /// Moves `next` of `node` strictly back from `prev`, to where the hint and this log could
    /// agree.
    fn retreat(&mut self, node: NodeId, prev: LogIndex, hint: EntryId) {
        let log = &self.log;
        let base = log.base();
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.peer_mut(node) else { return };
        // A hint that does not move back is none.
        let below = hint.index.min(LogIndex::new(prev.get().saturating_sub(1)));
        let next = if below < base.index {
            // What follows is trimmed here: only a snapshot helps.
            base.index
        } else {
            let end = log.last_of_term_at_most(below, hint.term).index;
            // At a batch's end if the tail knows it. Elsewhere the terms differ there, so the
            // answer is another hint, or the batch that contains it is fetched from its start.
            log.edge_at_or_below(end).max(progress.matched).max(base.index).next()
        };
        progress.probe_from(if planted!(R06_HINT_IGNORED) { prev.next() } else { next });
    }

    /// The peer that `from` is, if this is the leader and it is the replica meant; it was heard
    /// (E-11). Answers of strangers and of former replicas count for nothing.
    pub(super) fn answering_peer(&mut self, from: Member) -> Option<&mut Progress> {
        let now = self.now;
        let Role::Leader(leader) = &mut self.role else { return None };
        let progress = leader.peer_mut(from.node).filter(|peer| peer.member == from);
        match progress {
            Some(progress) => {
                progress.heard = now;
                Some(progress)
            }
            None => {
                self.counters.nonsense += 1;
                None
            }
        }
    }

    /// The regular beat of a leader.
    pub(super) fn tick_leader(&mut self, fx: &mut Effects) {
        let Role::Leader(leader) = &self.role else { return };
        if self.quorum_lost_at(leader) <= self.now && !planted!(E10_LEADER_STAYS_WITHOUT_QUORUM) {
            // It may be cut off from a quorum that has elected another (E-10, thesis 6.2).
            self.step_down(fx);
        } else if leader.heartbeat_at <= self.now {
            self.beat(fx);
        }
    }

    /// When a quorum had last answered. The own voice counts if it is a voter's, and always.
    pub(super) fn quorum_heard_at(&self, leader: &Leader) -> Moment {
        self.membership().quorum_value(|node| {
            if node == self.settings.node {
                Moment::NEVER
            } else {
                leader.peer(node).map_or(Moment::ZERO, Progress::counted_heard)
            }
        })
    }

    pub(super) fn quorum_lost_at(&self, leader: &Leader) -> Moment {
        self.quorum_heard_at(leader).after(self.settings.timing.check_quorum)
    }

    /// A heartbeat for everyone; the question again for those being probed, since either may have
    /// been lost; and a look at those that stand still.
    pub(super) fn beat(&mut self, fx: &mut Effects) {
        let due = self.now.after(self.settings.timing.heartbeat);
        let Role::Leader(leader) = &mut self.role else { return };
        leader.heartbeat_at = due;
        let peers = leader.peers.len();
        self.send_round(fx);
        for at in 0..peers {
            self.watch(at);
            self.nudge(at, fx);
        }
    }

    /// One heartbeat for each peer, with a new round number (L-09).
    pub(super) fn send_round(&mut self, fx: &mut Effects) {
        let Role::Leader(leader) = &mut self.role else { return };
        leader.round += 1;
        for at in 0..leader.peers.len() {
            self.heartbeat_to(at, fx);
        }
    }

    pub(super) fn heartbeat_to(&mut self, at: usize, fx: &mut Effects) {
        let (commit, now) = (self.commit, self.now);
        let Role::Leader(leader) = &mut self.role else { return };
        let round = leader.round;
        let progress = &mut leader.peers[at];
        // No more than the follower surely has in common with this log.
        mark!(R07_HEARTBEAT_COMMIT_LIMITED if progress.matched < commit);
        let free = planted!(R07_COMMIT_BEYOND_VOUCHED);
        let commit = if free { commit } else { commit.min(progress.matched) };
        progress.told = progress.told.max(commit);
        progress.told_at = now;
        let member = progress.member;
        self.send(member, Message::Heartbeat { commit, round }, fx);
    }

    /// Starts over with a peer that has data to take and whose match stands still.
    fn watch(&mut self, at: usize) {
        let patience = self.settings.timing.watchdog();
        let (now, last) = (self.now, self.log.last().index);
        let Role::Leader(leader) = &mut self.role else { return };
        let progress = &mut leader.peers[at];
        let awaits = progress.phase == Phase::Stream && progress.awaits_answer();
        if !awaits || progress.matched == last {
            // Who waits for credit, or for its turn to be read back, waits for this node.
            progress.moved = now;
        } else if patience <= now.since(progress.moved) && !planted!(N06_WINDOW_OUTLIVES_STREAM) {
            mark!(R09_STALLED_PEER_STARTED_OVER);
            progress.probe_from(progress.matched.next());
            progress.moved = now;
            self.counters.stalled += 1;
        }
    }

    pub(super) fn nudge_node(&mut self, node: NodeId, fx: &mut Effects) {
        if let Some(at) = self.peer_position(node) {
            self.nudge(at, fx);
        }
    }

    /// Says on the control lane what the peer's phase calls for.
    pub(super) fn nudge(&mut self, at: usize, fx: &mut Effects) {
        self.offer_snapshot(at, fx);
        let Role::Leader(leader) = &self.role else { return };
        let progress = &leader.peers[at];
        if progress.phase != Phase::Probe {
            return;
        }
        let member = progress.member;
        let index = progress.next.previous();
        let term = self.log.term_at(index).expect("what precedes next is in the log or its base");
        let prev = EntryId::new(term, index);
        let commit = self.commit.min(index);
        self.send(member, Message::Probe { prev, commit }, fx);
    }

    fn peer_position(&self, node: NodeId) -> Option<usize> {
        let Role::Leader(leader) = &self.role else { return None };
        leader.peers.iter().position(|progress| progress.member.node == node)
    }

    /// Brings the list of peers in line with the configuration in force, and greets the new ones.
    fn reconcile_peers(&mut self, fx: &mut Effects) {
        let (now, next) = (self.now, self.log.last().index.next());
        let membership = self.configurations.newest();
        let Role::Leader(leader) = &mut self.role else { return };
        leader.peers.retain(|peer| membership.members().any(|member| member == peer.member));
        let mut new = Vec::new();
        for member in membership.members() {
            if member.node != self.settings.node && leader.peer(member.node).is_none() {
                leader.peers.push(Progress::new(member, next, now));
                new.push(member.node);
            }
        }
        leader.peers.sort_by_key(|peer| peer.member.node);
        for node in new {
            self.nudge_node(node, fx);
        }
    }
}
