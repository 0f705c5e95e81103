//! What Ongaro's thesis ("Consensus: Bridging Theory and Practice", 2014) says, a test for each
//! sentence used, in our words, under its section.
//!
//! The golden scripts show how; these show that. After every step the oracle of `replicas` checks
//! the five properties of figure 3.2 besides.

mod replicas;

use std::time::Duration;

use catamaran::model::{BatchKind, HardState, LogIndex, Member, Membership, NodeId, Span, Term};
use catamaran::raft::{Message, RoleName};

use replicas::disk::Image;
use replicas::{Cluster, Options, entry, node, replica, span};

const MS: Duration = Duration::from_millis(1);

fn cluster(voters: u16) -> Cluster {
    with_others(voters, 0)
}

fn with_others(voters: u16, others: u16) -> Cluster {
    Cluster::new(voters, others, Options { tracing: false, ..Options::default() })
}

/// A cluster that `n1` leads, and everybody knows it.
fn led(voters: u16, others: u16) -> Cluster {
    let mut cluster = with_others(voters, others);
    elect(&mut cluster, 1);
    cluster
}

fn elect(cluster: &mut Cluster, id: u16) {
    cluster.timeout(node(id));
    cluster.stabilize();
    assert_eq!(cluster.leader(), Some(node(id)));
    beat(cluster, id, 1);
}

fn beat(cluster: &mut Cluster, id: u16, times: u32) {
    for _ in 0..times {
        cluster.heartbeat(node(id));
        cluster.stabilize();
    }
}

/// A replica that finds these entries, one a batch, by their terms.
fn boot(cluster: &mut Cluster, id: u16, term: u64, terms: &[u64]) {
    let mut image = Image::new(cluster.initial.clone());
    image.hard = HardState { term: Term::new(term), ..HardState::default() };
    for (at, term) in (1..).zip(terms) {
        image.spans.push((span(at, 1, *term), BatchKind::Records, 100));
    }
    cluster.boot(node(id), image);
}

fn terms(cluster: &Cluster, id: u16) -> Vec<u64> {
    let group = cluster.group(node(id));
    let term = |at| group.term_at(LogIndex::new(at)).expect("in the log").get();
    (1..=group.last().index.get()).map(term).collect()
}

fn isolate(cluster: &mut Cluster, id: u16) {
    let ids: Vec<NodeId> = cluster.nodes.keys().copied().collect();
    for peer in ids.into_iter().filter(|peer| *peer != node(id)) {
        cluster.cut(node(id), peer);
        cluster.cut(peer, node(id));
    }
}

fn pass(cluster: &mut Cluster, ms: u32) {
    cluster.now = cluster.now.after(MS * ms);
}

fn members(ids: &[u16]) -> Vec<Member> {
    ids.iter().map(|id| Member { node: node(*id), replica: replica(node(*id)) }).collect()
}

fn commit(cluster: &Cluster, id: u16) -> u64 {
    cluster.group(node(id)).commit().get()
}

#[test]
fn s3_3_who_learns_of_a_newer_term_becomes_a_follower_of_it() {
    let mut cluster = led(3, 0);
    cluster.speak(node(2), node(1), 9, Message::VoteReply { granted: false });
    assert_eq!(cluster.group(node(1)).role(), RoleName::Follower);
    assert_eq!(cluster.group(node(1)).term(), Term::new(9));
}

#[test]
fn s3_3_requests_of_a_stale_term_are_refused() {
    let mut cluster = led(3, 0);
    pass(&mut cluster, 200);
    cluster.speak(node(3), node(2), 0, Message::Vote { last: entry(99, 99) });
    let reply = cluster.packets.last().expect("a refusal");
    assert!(reply.text().ends_with("vote-reply t1 no"), "{}", reply.text());
}

#[test]
fn s3_4_a_server_stays_a_follower_while_it_hears_its_leader() {
    let mut cluster = led(5, 0);
    cluster.run(MS * 3000);
    assert_eq!(cluster.leader(), Some(node(1)));
    assert!((1..=5).all(|id| cluster.group(node(id)).term() == Term::new(1)));
}

#[test]
fn s3_4_a_candidate_wins_with_a_majority_and_not_with_less() {
    let mut cluster = cluster(5);
    isolate(&mut cluster, 4);
    isolate(&mut cluster, 5);
    isolate(&mut cluster, 3);
    cluster.run(MS * 2000);
    assert_eq!(cluster.leader(), None, "two of five");
    cluster.heal();
    isolate(&mut cluster, 4);
    isolate(&mut cluster, 5);
    cluster.run(MS * 2000);
    assert!(cluster.leader().is_some(), "three of five");
}

#[test]
fn s3_4_random_timeouts_resolve_split_votes_quickly() {
    for seed in 0..100 {
        let options = Options { seed, tracing: false, ..Options::default() };
        let mut cluster = Cluster::new(5, 0, options);
        cluster.run(MS * 700);
        assert!(cluster.leader().is_some(), "seed {seed}: none after some timeouts");
    }
}

/// Figure 3.6: a leader of term 8 and six followers, each wrong in its own way.
#[test]
fn s3_5_a_leader_brings_every_log_in_line_with_its_own() {
    let mut cluster = cluster(7);
    boot(&mut cluster, 1, 7, &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6]);
    boot(&mut cluster, 2, 7, &[1, 1, 1, 4, 4, 5, 5, 6, 6]);
    boot(&mut cluster, 3, 7, &[1, 1, 1, 4]);
    boot(&mut cluster, 4, 7, &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6]);
    boot(&mut cluster, 5, 7, &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7]);
    boot(&mut cluster, 6, 7, &[1, 1, 1, 4, 4, 4, 4]);
    boot(&mut cluster, 7, 7, &[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3]);
    pass(&mut cluster, 151);
    elect(&mut cluster, 1);
    let expected = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 8];
    for id in 1..=7 {
        assert_eq!(terms(&cluster, id), expected, "n{id}");
        assert_eq!(commit(&cluster, id), 11, "n{id}");
    }
}

#[test]
fn s3_5_a_leader_only_appends() {
    let mut cluster = led(3, 0);
    cluster.put(node(1), 1);
    let before = cluster.group(node(1)).last();
    // Whatever followers say about it.
    for prev in 0..4 {
        let message = Message::Rejected { prev: LogIndex::new(prev), hint: entry(0, 0) };
        cluster.speak(node(2), node(1), 1, message);
    }
    assert_eq!(cluster.group(node(1)).last(), before);
}

#[test]
fn s3_5_an_entry_is_committed_once_a_majority_has_it() {
    let mut cluster = led(5, 0);
    isolate(&mut cluster, 4);
    isolate(&mut cluster, 5);
    cluster.put(node(1), 1);
    cluster.deliver(node(2), None);
    cluster.deliver(node(1), None);
    assert_eq!(commit(&cluster, 1), 1, "two of five");
    cluster.deliver(node(3), None);
    cluster.deliver(node(1), None);
    assert_eq!(commit(&cluster, 1), 2, "three of five");
}

#[test]
fn s3_6_1_a_voter_denies_its_vote_to_a_log_less_up_to_date_than_its_own() {
    // (candidate's log, voter's log, granted)
    let cases: [(&[u64], &[u64], bool); 6] = [
        (&[1], &[1], true),
        (&[1, 1], &[1], true),
        (&[1], &[1, 1], false),
        (&[1, 2], &[1, 1, 1], true),
        (&[1, 1, 1], &[1, 2], false),
        (&[], &[1], false),
    ];
    for (candidate, voter, granted) in cases {
        let mut cluster = cluster(3);
        boot(&mut cluster, 2, 3, voter);
        pass(&mut cluster, 151);
        let last = entry(candidate.len() as u64, candidate.last().copied().unwrap_or(0));
        cluster.speak(node(1), node(2), 4, Message::Vote { last });
        let reply = cluster.packets.last().expect("an answer").text();
        assert_eq!(reply.ends_with("yes"), granted, "{candidate:?} {voter:?}");
    }
}

/// Figure 3.7, (e): once an entry of the own term is on a majority, the old rival cannot win.
#[test]
fn s3_6_2_an_entry_of_the_own_term_on_a_majority_settles_what_is_before_it() {
    let mut cluster = cluster(5);
    boot(&mut cluster, 1, 3, &[1, 2]);
    boot(&mut cluster, 2, 2, &[1, 2]);
    boot(&mut cluster, 3, 2, &[1]);
    boot(&mut cluster, 4, 2, &[1]);
    boot(&mut cluster, 5, 3, &[1, 3]);
    pass(&mut cluster, 151);
    isolate(&mut cluster, 5);
    elect(&mut cluster, 1);
    assert_eq!(commit(&cluster, 1), 3);
    cluster.crash(node(1), 0);
    cluster.heal();
    cluster.run(MS * 3000);
    assert_ne!(cluster.leader(), Some(node(5)), "it would overwrite committed entries");
    assert_eq!(terms(&cluster, 5)[..3], [1, 2, 4]);
}

#[test]
fn s3_7_a_request_that_comes_twice_is_harmless() {
    let mut cluster = led(3, 0);
    cluster.put(node(1), 2);
    let copies = cluster.packets.clone();
    cluster.stabilize();
    beat(&mut cluster, 1, 1);
    let before: Vec<_> = (1..=3).map(|id| cluster.group(node(id)).summary()).collect();
    for packet in copies {
        cluster.hand_over(packet);
    }
    cluster.stabilize();
    let after: Vec<_> = (1..=3).map(|id| cluster.group(node(id)).summary()).collect();
    assert_eq!(before, after);
}

#[test]
fn s3_7_a_follower_that_comes_back_is_brought_up_to_date() {
    let mut cluster = led(3, 0);
    cluster.crash(node(3), 0);
    for _ in 0..50 {
        cluster.put(node(1), 1);
        cluster.stabilize();
    }
    cluster.restart(node(3));
    beat(&mut cluster, 1, 2);
    assert_eq!(commit(&cluster, 3), 51);
}

#[test]
fn s3_8_term_vote_and_log_survive_a_crash() {
    let mut cluster = led(3, 0);
    cluster.put(node(1), 3);
    cluster.stabilize();
    let before = cluster.group(node(2)).summary();
    cluster.crash(node(2), 0);
    cluster.restart(node(2));
    let after = cluster.group(node(2)).summary();
    assert_eq!((before.term, before.vote, before.last), (after.term, after.vote, after.last));
}

#[test]
fn s3_9_a_group_is_available_again_soon_after_its_leader_died() {
    let mut cluster = led(3, 0);
    cluster.crash(node(1), 0);
    cluster.run(MS * 700);
    let leader = cluster.leader().expect("one of the others");
    cluster.put(leader, 1);
    cluster.stabilize();
    assert_eq!(cluster.group(leader).commit(), cluster.group(leader).last().index);
}

#[test]
fn s4_1_a_server_uses_the_newest_configuration_in_its_log_committed_or_not() {
    let mut cluster = led(3, 2);
    isolate(&mut cluster, 1);
    let next = Membership { outgoing: members(&[1, 2, 3]), ..Membership::default() };
    let next = Membership { voters: members(&[1, 4, 5]), ..next };
    cluster.configure(node(1), next.clone());
    assert_eq!(cluster.group(node(1)).membership(), &next);
    assert_eq!(commit(&cluster, 1), 1);
}

#[test]
fn s4_2_1_a_new_server_that_catches_up_does_not_count_towards_majorities() {
    let mut cluster = led(3, 2);
    let next = Membership { learners: members(&[4, 5]), ..cluster.initial.clone() };
    cluster.configure(node(1), next);
    cluster.stabilize();
    cluster.cut(node(2), node(1));
    cluster.cut(node(3), node(1));
    let before = commit(&cluster, 1);
    cluster.put(node(1), 1);
    cluster.stabilize();
    assert_eq!(cluster.group(node(1)).match_of(node(5)), Some(cluster.group(node(1)).last().index));
    assert_eq!(commit(&cluster, 1), before, "three of five have it, one of three voters");
}

#[test]
fn s4_2_2_a_leader_steps_down_once_the_configuration_without_it_is_committed() {
    let mut cluster = led(3, 0);
    cluster.configure(node(1), Membership { voters: members(&[2, 3]), ..Membership::default() });
    assert_eq!(cluster.group(node(1)).role(), RoleName::Leader, "it still has to replicate it");
    cluster.stabilize();
    assert_eq!(cluster.group(node(1)).role(), RoleName::Follower);
    assert!((2..=3).all(|id| commit(&cluster, id) == 2), "and it passed the commit on");
}

#[test]
fn s4_2_3_a_server_that_hears_its_leader_ignores_requests_for_votes() {
    let mut cluster = led(3, 0);
    let before: Vec<_> = (1..=2).map(|id| cluster.group(node(id)).summary()).collect();
    for id in 1..=2 {
        cluster.speak(node(3), node(id), 50, Message::Vote { last: entry(99, 49) });
    }
    let after: Vec<_> = (1..=2).map(|id| cluster.group(node(id)).summary()).collect();
    assert_eq!(before, after);
}

#[test]
fn s4_3_while_joint_neither_half_decides_alone() {
    for cut in [[2, 3], [4, 5]] {
        let mut cluster = led(3, 2);
        let voters = members(&[1, 4, 5]);
        let outgoing = members(&[1, 2, 3]);
        for id in cut {
            isolate(&mut cluster, id);
        }
        cluster.configure(node(1), Membership { voters, outgoing, learners: Vec::new() });
        cluster.stabilize();
        assert_eq!(commit(&cluster, 1), 1, "without {cut:?}");
        cluster.heal();
        beat(&mut cluster, 1, 1);
        assert_eq!(commit(&cluster, 1), 2, "with {cut:?}");
    }
}

#[test]
fn s5_1_a_follower_that_needs_discarded_entries_gets_a_snapshot() {
    let mut cluster = led(3, 0);
    isolate(&mut cluster, 3);
    for _ in 0..10 {
        cluster.put(node(1), 1);
        cluster.stabilize();
    }
    cluster.trim(node(1), 8);
    cluster.heal();
    beat(&mut cluster, 1, 2);
    assert_eq!(cluster.group(node(3)).base(), entry(8, 1));
    assert_eq!(commit(&cluster, 3), 11);
}

#[test]
fn s6_2_a_leader_steps_down_after_an_election_timeout_without_a_majority() {
    let mut cluster = led(5, 0);
    for id in 3..=5 {
        isolate(&mut cluster, id);
    }
    cluster.run(MS * 290);
    assert_eq!(cluster.group(node(1)).role(), RoleName::Leader);
    cluster.run(MS * 60);
    assert_ne!(cluster.group(node(1)).role(), RoleName::Leader);
}

#[test]
fn s6_4_a_leader_that_was_replaced_serves_no_read() {
    let mut cluster = led(3, 0);
    isolate(&mut cluster, 1);
    pass(&mut cluster, 200);
    // n1 has not noticed yet that the others chose n2 and committed more.
    cluster.timeout(node(2));
    cluster.stabilize();
    cluster.put(node(2), 1);
    cluster.stabilize();
    cluster.read(node(1), 1);
    cluster.heal();
    cluster.run(MS * 1000);
    assert_eq!(cluster.oracle.reads_ready, 0);
}

#[test]
fn s6_4_a_read_sees_everything_committed_before_it() {
    let mut cluster = led(3, 0);
    for _ in 0..20 {
        cluster.put(node(1), 1);
        cluster.stabilize();
        cluster.read(node(1), 1);
        cluster.stabilize();
    }
    // The oracle compares the index of each with what was committed when it was asked.
    assert_eq!(cluster.oracle.reads_ready, 20);
}

#[test]
fn s9_6_a_server_that_was_cut_off_disturbs_nobody_when_it_returns() {
    let mut cluster = led(3, 0);
    isolate(&mut cluster, 3);
    cluster.run(MS * 5000);
    cluster.heal();
    cluster.run(MS * 1000);
    assert_eq!(cluster.leader(), Some(node(1)));
    assert!((1..=3).all(|id| cluster.group(node(id)).term() == Term::new(1)));
}

#[test]
fn s10_2_1_a_leader_sends_before_its_own_write_is_done_and_may_commit_without_it() {
    let mut cluster = led(3, 0);
    cluster.hold(node(1), true);
    cluster.put(node(1), 1);
    assert!(!cluster.packets.is_empty(), "sent at once");
    cluster.stabilize();
    assert_eq!(commit(&cluster, 1), 2);
    assert_eq!(cluster.group(node(1)).durable(), LogIndex::new(1));
}

#[test]
fn s10_2_2_batches_are_pipelined_and_moved_whole() {
    let mut cluster = led(3, 0);
    for _ in 0..10 {
        cluster.put(node(1), 1000);
    }
    // Ten batches of a thousand records: ten messages to each of two followers, all on their way.
    assert_eq!(cluster.packets.len(), 20);
    cluster.stabilize();
    let last: Span = cluster.group(node(2)).span_at(LogIndex::new(10_001)).expect("held").span;
    assert_eq!(last, span(9002, 1000, 1));
}
