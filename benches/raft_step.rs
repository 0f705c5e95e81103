//! The cost of Raft's decisions for one batch on a leader of three: propose, send to two peers,
//! durable here, two acknowledgements, commit. Batches of 16 records; the core never sees records.

#![expect(clippy::disallowed_methods, reason = "a bench reads a clock")]

mod harness;

use std::time::{Duration, Instant};

use catamaran::base::{Moment, Prng};
use catamaran::model::{
    BatchKind, EntryId, GroupId, HardState, LogIndex, Membership, NodeId, RecordCount, ReplicaId,
    Span, Term, WriteSeq,
};
use catamaran::raft::{
    Effects, Envelope, Group, LogBatch, Message, NextAppend, Recovered, RoleName, Settings, Timing,
    Window,
};

use harness::{Pass, measure, mix};

const RECORDS: u32 = 16;
const ME: NodeId = NodeId::new(1);
const PEERS: [NodeId; 2] = [NodeId::new(2), NodeId::new(3)];
const GROUP: GroupId = GroupId::new(1);

fn main() {
    measure("raft_step", 100_000, 100, pass);
}

/// One replica that was elected, and the number of its last write.
struct Leader {
    group: Group,
    membership: Membership,
    now: Moment,
    write: WriteSeq,
}

impl Leader {
    fn elected(fx: &mut Effects) -> Self {
        let membership = Membership::of_voters(&[ME, PEERS[0], PEERS[1]]);
        let replica = membership.replica_of(ME).expect("a voter");
        let settings = Settings {
            group: GROUP,
            node: ME,
            replica,
            timing: Timing::default(),
            window: Window::default(),
            tail_batches_max: 1024,
        };
        let nothing = EntryId { term: Term::ZERO, index: LogIndex::BEFORE_FIRST };
        let recovered = Recovered {
            hard_state: HardState::default(),
            base: nothing,
            base_membership: membership.clone(),
            before_spans: nothing,
            runs: Vec::new(),
            spans: Vec::new(),
            memberships: Vec::new(),
        };
        let now = Moment::from_nanos(1);
        let group = Group::new(settings, recovered, now, Prng::new(5));
        let mut leader = Self { group, membership, now, write: WriteSeq::NONE };
        leader.now = leader.now.after(Duration::from_secs(1));
        leader.group.tick(leader.now, fx);
        for _ in 0..2 {
            leader.persist_hard_state(fx);
            let is_asking = leader.group.role() == RoleName::PreCandidate;
            let (term, granted) = if is_asking {
                (leader.group.term().next(), Message::PreVoteReply { granted: true })
            } else {
                (leader.group.term(), Message::VoteReply { granted: true })
            };
            leader.hear(PEERS[0], term, granted, fx);
        }
        assert_eq!(leader.group.role(), RoleName::Leader);
        leader
    }

    fn persist_hard_state(&mut self, fx: &mut Effects) {
        if self.group.hard_state_dirty() {
            self.write = self.write.next();
            self.group.hard_state_submitted(self.write);
            self.group.persisted(self.now, self.write, fx);
        }
    }

    fn hear(&mut self, peer: NodeId, term: Term, message: Message, fx: &mut Effects) {
        let replica = |node| self.membership.replica_of(node).expect("a voter");
        let (from_replica, to_replica): (ReplicaId, ReplicaId) = (replica(peer), replica(ME));
        let envelope = Envelope { group: GROUP, peer, from_replica, to_replica, term, message };
        self.group.step(self.now, envelope, fx);
    }

    fn propose(&mut self, kind: BatchKind, count: u32, fx: &mut Effects) -> Span {
        let first = self.group.last().index.next();
        let span = Span { term: self.group.term(), first, count: RecordCount::new(count) };
        let batch = LogBatch { span, kind, bytes: 204 * count + 64, slice: None };
        self.group.propose(batch, None, fx);
        self.write = self.write.next();
        self.group.submitted(span, self.write);
        self.group.flush(self.now, fx);
        span
    }

    /// The batch is durable here and at both peers.
    fn finish(&mut self, span: Span, fx: &mut Effects) {
        self.group.persisted(self.now, self.write, fx);
        for peer in PEERS {
            let matched = span.last();
            self.hear(peer, self.group.term(), Message::Accepted { matched }, fx);
        }
        self.group.flush(self.now, fx);
        assert_eq!(self.group.commit(), span.last());
    }
}

fn pass(rounds: u32) -> Pass {
    let mut fx = Effects::default();
    let mut leader = Leader::elected(&mut fx);
    for peer in PEERS {
        leader.group.link_up(leader.now, peer, &mut fx);
    }
    let noop = leader.propose(BatchKind::Noop, 1, &mut fx);
    leader.finish(noop, &mut fx);
    let mut hash = 0;
    let start = Instant::now();
    for _ in 0..rounds {
        leader.now = leader.now.after(Duration::from_micros(100));
        let span = leader.propose(BatchKind::Records, RECORDS, &mut fx);
        for peer in PEERS {
            // What is not in memory is asked for; the decision costs the same.
            if let NextAppend::Batches { prev, .. } = leader.group.next_append(peer, 1 << 20) {
                hash = mix(hash, prev.index.get());
            }
        }
        leader.finish(span, &mut fx);
        hash = mix(hash, leader.group.commit().get() + fx.list.len() as u64);
        fx.list.clear();
    }
    let elapsed = start.elapsed();
    Pass { records: u64::from(rounds) * u64::from(RECORDS), elapsed, hash }
}
