//! Random schedules over a few replicas: messages late, lost or twice, disks slow, crashes that
//! lose what was not durable, membership in motion. The oracle of `replicas` judges every step;
//! at the end everything is healed and the group must serve.
//!
//! `RAFT_SEEDS=N` runs N seeds of each kind, `RAFT_SEED=S` one of them and prints its trace.

mod replicas;

use std::time::Duration;

use catamaran::base::Prng;
use catamaran::model::{
    BatchKind, EntryId, LogIndex, Member, Membership, NodeId, RecordCount, Span, Term,
};
use catamaran::raft::{Append, LogBatch, Message, RoleName, Window};

use replicas::{Body, Cluster, Options, node, replica};

/// What the network may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Network {
    /// Streams, as the runtime has them: in order, or broken and made anew.
    Streams,
    /// Anything, each message for itself: lost, twice, overtaken. More than the product sees; the
    /// group must stay safe even so.
    Chaos,
}

struct Schedule {
    cluster: Cluster,
    prng: Prng,
    network: Network,
    /// Whether the membership moves.
    moving: bool,
}

impl Schedule {
    fn new(seed: u64, network: Network) -> Self {
        let mut prng = Prng::new(seed);
        let voters = [1, 2, 3, 3, 3, 5, 5][index(prng.below(7))];
        let moving = prng.chance(1, 2);
        let options = Options {
            seed: prng.next_u64(),
            tail_batches_max: index(prng.between(1, 20)),
            window: Window {
                bytes_max: prng.between(100, 2000),
                batches_max: u32::try_from(prng.between(1, 20)).expect("small"),
            },
            batch_bytes: 100,
            write_slots: index(prng.between(1, 5)),
            block_items_max: index(prng.between(1, 6)),
            tracing: std::env::var("RAFT_SEED").is_ok(),
        };
        let others = if moving { 2 } else { 0 };
        Self { cluster: Cluster::new(voters, others, options), prng, network, moving }
    }

    fn any_node(&mut self) -> NodeId {
        let count = self.cluster.nodes.len() as u64;
        node(u16::try_from(self.prng.below(count) + 1).expect("few nodes"))
    }

    fn any_leader(&mut self) -> Option<NodeId> {
        let leads = |n: &NodeId| {
            self.cluster.is_up(*n) && self.cluster.group(*n).role() == RoleName::Leader
        };
        let leaders: Vec<NodeId> = self.cluster.nodes.keys().copied().filter(leads).collect();
        if leaders.is_empty() {
            return None;
        }
        Some(leaders[index(self.prng.below(leaders.len() as u64))])
    }

    fn step(&mut self) {
        match self.prng.below(1000) {
            0..600 => self.deliver(),
            600..700 => self.pass_time(),
            700..790 => {
                if let Some(leader) = self.any_leader() {
                    let records = u32::try_from(self.prng.between(1, 5)).expect("few");
                    self.cluster.put(leader, records);
                }
            }
            790..820 => {
                if let Some(leader) = self.any_leader() {
                    self.cluster.read(leader, 1);
                }
            }
            820..880 => {
                let id = self.any_node();
                self.cluster.complete(id);
            }
            880..905 => {
                let id = self.any_node();
                let held = self.prng.chance(1, 2);
                self.cluster.hold(id, held);
            }
            905..920 => self.crash(),
            920..940 => {
                let id = self.any_node();
                if !self.cluster.is_up(id) {
                    self.cluster.restart(id);
                }
            }
            940..950 => {
                let (from, to) = (self.any_node(), self.any_node());
                if from != to {
                    self.cluster.cut(from, to);
                }
            }
            950..960 => self.cluster.heal(),
            960..970 => self.lose(),
            970..985 => self.trim(),
            985..990 => {
                let id = self.any_node();
                if self.cluster.is_up(id) {
                    let last = self.cluster.group(id).last().index.get();
                    let upto = self.prng.below(last + 1);
                    self.cluster.evict(id, upto);
                }
            }
            _ => self.configure(),
        }
    }

    /// Any stream's next message; in chaos any message, and perhaps not for the last time.
    fn deliver(&mut self) {
        let packets = &self.cluster.packets;
        if packets.is_empty() {
            return self.pass_time();
        }
        let pick = index(self.prng.below(packets.len() as u64));
        let at = match self.network {
            Network::Chaos => pick,
            Network::Streams => {
                let lane = |body: &Body| matches!(body, Body::Bulk(_));
                let chosen = &packets[pick];
                let same = |p: &replicas::Packet| {
                    (p.from, p.to, lane(&p.body)) == (chosen.from, chosen.to, lane(&chosen.body))
                };
                packets.iter().position(same).expect("at least itself")
            }
        };
        let again = self.network == Network::Chaos && self.prng.chance(1, 10);
        let packet = self.cluster.packets.remove(at);
        if again {
            self.cluster.packets.push(packet.clone());
        }
        self.cluster.hand_over(packet);
    }

    /// Some time passes; most nodes notice.
    fn pass_time(&mut self) {
        let ms = self.prng.between(1, 60);
        self.cluster.now = self.cluster.now.after(Duration::from_millis(ms));
        let ids: Vec<NodeId> = self.cluster.nodes.keys().copied().collect();
        for id in ids {
            if self.cluster.is_up(id) && self.prng.chance(4, 5) {
                self.cluster.tick(id);
            }
        }
    }

    fn crash(&mut self) {
        let id = self.any_node();
        if self.cluster.is_up(id) {
            let in_flight = self.cluster.in_flight(id).len() as u64;
            let survivors = self.prng.below(in_flight + 1);
            self.cluster.crash(id, index(survivors));
        }
    }

    fn lose(&mut self) {
        match self.network {
            Network::Streams => {
                let (a, b) = (self.any_node(), self.any_node());
                if a != b {
                    self.cluster.reset_link(a, b);
                }
            }
            Network::Chaos => {
                let packets = self.cluster.packets.len() as u64;
                for _ in 0..packets.min(5) {
                    let at = self.prng.below(self.cluster.packets.len() as u64);
                    self.cluster.packets.remove(index(at));
                }
            }
        }
    }

    fn trim(&mut self) {
        let id = self.any_node();
        if !self.cluster.is_up(id) {
            return;
        }
        let group = self.cluster.group(id);
        let upto = group.commit().min(group.durable());
        if upto <= group.base().index {
            return;
        }
        let at = self.prng.between(group.base().index.get() + 1, upto.get() + 1);
        let batch = self.cluster.nodes[&id].disk.image.batch(LogIndex::new(at));
        if batch.is_some_and(|(span, _, _)| span.last() <= upto) {
            self.cluster.trim(id, at);
        }
    }

    /// One change at a time, through a joint configuration (M-01, M-04).
    fn configure(&mut self) {
        if !self.moving {
            return;
        }
        let Some(leader) = self.any_leader() else { return };
        let group = self.cluster.group(leader);
        let settled = group.membership_at(group.commit()) == group.membership()
            && group.term_at(group.commit()) == Some(group.term());
        if !settled {
            return;
        }
        let current = group.membership().clone();
        let next = if current.outgoing.is_empty() {
            let mut next = Membership { outgoing: current.voters, ..Membership::default() };
            for id in self.cluster.nodes.keys() {
                let member = Member { node: *id, replica: replica(*id) };
                match self.prng.below(4) {
                    0 => {}
                    1 if !next.outgoing.contains(&member) => next.learners.push(member),
                    _ => next.voters.push(member),
                }
            }
            next
        } else {
            Membership { outgoing: Vec::new(), ..current }
        };
        if next.check().is_ok() {
            self.cluster.configure(leader, next);
        }
    }

    /// Everything works again: the group must elect, commit and agree.
    fn heal_and_serve(&mut self) {
        let ids: Vec<NodeId> = self.cluster.nodes.keys().copied().collect();
        self.cluster.heal();
        for id in &ids {
            self.cluster.hold(*id, false);
            if !self.cluster.is_up(*id) {
                self.cluster.restart(*id);
            }
        }
        self.cluster.run(Duration::from_secs(3));
        let leader = self.cluster.leader().expect("a healed group elects a leader");
        let ready = self.cluster.oracle.reads_ready;
        self.cluster.put(leader, 2);
        self.cluster.read(leader, 1);
        let last = self.cluster.group(leader).last();
        self.cluster.run(Duration::from_secs(1));
        self.cluster.check_all();
        assert_eq!(self.cluster.leader(), Some(leader), "a healed group stays calm");
        assert!(ready < self.cluster.oracle.reads_ready, "the read was not served");
        for member in self.cluster.group(leader).membership().members() {
            let group = self.cluster.group(member.node);
            assert_eq!((group.last(), group.commit()), (last, last.index), "{:?}", member.node);
            assert_eq!(group.durable(), last.index);
        }
        if self.network == Network::Streams {
            for id in &ids {
                assert_eq!(self.cluster.group(*id).counters().reversions, 0);
            }
        }
    }
}

fn index(value: u64) -> usize {
    usize::try_from(value).expect("small")
}

fn run(seed: u64, network: Network) -> u64 {
    let mut schedule = Schedule::new(seed, network);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for step in 0..800 {
            schedule.step();
            if step % 20 == 0 {
                schedule.cluster.check_all();
            }
        }
        schedule.heal_and_serve();
    }));
    if let Err(panic) = outcome {
        let trace = schedule.cluster.lines.join("\n");
        std::fs::write(std::env::temp_dir().join("raft_schedule.txt"), trace).ok();
        #[expect(clippy::print_stderr, reason = "tells how to see the failure again")]
        {
            eprintln!("RAFT_SEED={seed} of {network:?} fails");
        }
        std::panic::resume_unwind(panic);
    }
    schedule.cluster.oracle.committed.len() as u64
}

fn run_all(network: Network, base: u64) {
    if let Ok(seed) = std::env::var("RAFT_SEED") {
        run(seed.parse().expect("a number"), network);
        return;
    }
    let seeds = std::env::var("RAFT_SEEDS").map_or(200, |n| n.parse().expect("a number"));
    let committed: u64 = (base..base + seeds).map(|seed| run(seed, network)).sum();
    // A schedule in which nothing happens proves nothing.
    assert!(20 * seeds < committed, "only {committed} entries in {seeds} schedules");
}

/// Anything a peer could say, with small numbers so that it often nearly makes sense.
fn any_message(prng: &mut Prng) -> Message {
    let index = LogIndex::new(prng.below(12));
    let entry = EntryId::new(Term::new(prng.below(5)), LogIndex::new(prng.below(12)));
    match prng.below(10) {
        0 => Message::PreVote { last: entry },
        1 => Message::PreVoteReply { granted: prng.chance(1, 2) },
        2 => Message::Vote { last: entry },
        3 => Message::VoteReply { granted: prng.chance(1, 2) },
        4 => Message::Heartbeat { commit: index, round: prng.below(5) },
        5 => Message::HeartbeatReply { round: prng.below(5) },
        6 => Message::Probe { prev: entry, commit: index },
        7 => Message::Accepted { matched: index },
        8 => Message::Rejected { prev: index, hint: entry },
        _ => {
            let ids: Vec<NodeId> =
                (1..=u16::try_from(prng.below(4)).expect("few")).map(node).collect();
            Message::Snapshot { last: entry, membership: Membership::of_voters(&ids) }
        }
    }
}

fn any_append(prng: &mut Prng) -> Append {
    let prev = EntryId::new(Term::new(prng.below(4)), LogIndex::new(prng.below(12)));
    let wild = prng.chance(1, 8);
    let first = if wild { LogIndex::new(prng.below(12)) } else { prev.index.next() };
    let span = Span {
        term: Term::new(prev.term.get() + prng.below(3)),
        first,
        count: RecordCount::new(u32::try_from(prng.below(4)).expect("few")),
    };
    Append {
        from_replica: replica(node(1)),
        to_replica: replica(node(2)),
        term: Term::new(prng.below(8)),
        prev,
        commit: LogIndex::new(prng.below(6)),
        batch: LogBatch { span, kind: BatchKind::Records, bytes: 100, slice: None },
        membership: None,
    }
}

/// Peers that lie: nothing they say may panic a replica, except what contradicts a committed entry.
fn lie(seed: u64) {
    let mut prng = Prng::new(seed);
    let options = Options { seed, tracing: false, ..Options::default() };
    let mut cluster = Cluster::new(3, 0, options);
    cluster.oracle.blind = true;
    for _ in 0..150 {
        let from = node(if prng.chance(1, 2) { 1 } else { 3 });
        match prng.below(10) {
            0 => {
                cluster.now = cluster.now.after(Duration::from_millis(prng.below(200)));
                cluster.tick(node(2));
            }
            1 if cluster.group(node(2)).role() == RoleName::Leader => cluster.put(node(2), 2),
            2..6 => {
                cluster.append(from, node(2), any_append(&mut prng));
            }
            _ => {
                let huge = prng.chance(1, 50);
                let term = if huge { u64::MAX } else { prng.below(8) };
                let message = any_message(&mut prng);
                cluster.speak(from, node(2), term, message);
            }
        }
        cluster.packets.clear();
    }
}

#[test]
fn peers_that_lie() {
    let mut contradicted = 0;
    for seed in 0..1000 {
        let outcome = std::panic::catch_unwind(|| lie(seed));
        let Err(panic) = outcome else { continue };
        let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
        assert!(text.contains("contradicts"), "seed {seed}: {text}");
        contradicted += 1;
    }
    assert!(contradicted < 900, "most schedules should get further");
}

#[test]
fn streams_that_break() {
    run_all(Network::Streams, 0);
}

#[test]
fn messages_lost_twice_and_out_of_order() {
    run_all(Network::Chaos, 1_000_000);
}
