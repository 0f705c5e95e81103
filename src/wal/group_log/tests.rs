//! What a block does to a group's log, rule by rule.

use super::*;
use crate::model::{NodeId, RecordCount};

const REPLICA: ReplicaId = ReplicaId::new(2);

fn entry(term: u64, index: u64) -> EntryId {
    EntryId::new(Term::new(term), LogIndex::new(index))
}

fn membership() -> Membership {
    Membership::of_voters(&[NodeId::new(1), NodeId::new(2)])
}

fn log() -> GroupLog {
    let mut log = GroupLog::new(&GroupCheckpoint {
        group: GroupId::new(1),
        replica: REPLICA,
        hard_state: HardState::default(),
        base: EntryId::BEFORE_FIRST,
        base_membership: membership(),
        last: EntryId::BEFORE_FIRST,
    });
    set_term(&mut log, 9).expect("the first term");
    log
}

fn set_term(log: &mut GroupLog, term: u64) -> Result<(), Fault> {
    let state = HardState { term: Term::new(term), ..log.hard_state };
    log.on_hard_state(REPLICA, state)
}

/// A batch of `count` records of `term` from `first`, in a block of the segment of `block`.
fn put(log: &mut GroupLog, term: u64, first: u64, count: u32, block: u64) -> Result<(), Fault> {
    let span =
        Span { term: Term::new(term), first: LogIndex::new(first), count: RecordCount::new(count) };
    let entry = DirectoryEntry {
        group: GroupId::new(1),
        replica: REPLICA,
        span,
        kind: BatchKind::Records,
        offset: 64,
        bytes: 100,
    };
    let outcome = log.on_batch(&entry, None, Lsn::new(block), SegmentNo(block / 65_536));
    if outcome.is_ok() {
        log.check();
    }
    outcome
}

fn fault(outcome: Result<(), Fault>) -> FaultKind {
    outcome.expect_err("a fault").kind
}

/// The pieces as "first-last@segment".
fn pieces(log: &GroupLog) -> String {
    let pieces: Vec<String> = log
        .pieces
        .iter()
        .map(|(first, piece)| format!("{first}-{}@{}", piece.last, piece.segment.0))
        .collect();
    pieces.join(" ")
}

#[test]
fn only_another_term_truncates() {
    let mut log = log();
    put(&mut log, 1, 1, 5, 0).expect("first");
    put(&mut log, 2, 6, 5, 4096).expect("second");
    put(&mut log, 1, 1, 5, 8192).expect("R-02: the same again");
    assert_eq!(log.last, entry(2, 10), "an equal batch truncates nothing");
    put(&mut log, 3, 6, 1, 12_288).expect("a conflict");
    assert_eq!(log.last, entry(3, 6));
    assert_eq!(log.term_at(LogIndex::new(5)), Some(Term::new(1)));
    assert_eq!(log.term_at(LogIndex::new(7)), None);
}

#[test]
fn a_batch_of_a_smaller_term_may_overwrite_a_larger_one() {
    // Thesis 3.7 (d): the new leader of term 9 still has to bring an entry of term 2.
    let mut log = log();
    put(&mut log, 1, 1, 1, 0).expect("first");
    put(&mut log, 3, 2, 4, 4096).expect("a tail that lost");
    put(&mut log, 2, 2, 1, 8192).expect("what the winner has");
    assert_eq!(log.last, entry(2, 2));
    let smaller = fault(put(&mut log, 1, 3, 1, 12_288));
    assert!(matches!(smaller, FaultKind::Term { .. }), "terms never go down along a log");
}

#[test]
fn a_batch_never_leaves_a_hole_or_outruns_the_hard_state() {
    let mut log = log();
    put(&mut log, 1, 1, 5, 0).expect("first");
    let gap = FaultKind::Gap { last: LogIndex::new(5), found: LogIndex::new(7) };
    assert_eq!(fault(put(&mut log, 1, 7, 1, 4096)), gap);
    let unknown = fault(put(&mut log, 10, 6, 1, 4096));
    assert!(matches!(unknown, FaultKind::Term { .. }), "H-03: term 10 is not in the hard state");
}

#[test]
fn what_is_committed_is_never_truncated() {
    let mut log = log();
    put(&mut log, 1, 1, 5, 0).expect("first");
    let commit = LogIndex::new(5);
    log.on_hard_state(REPLICA, HardState { commit, ..log.hard_state }).expect("progress");
    let below = FaultKind::BelowCommit { commit, found: LogIndex::new(5) };
    let mut split = log.clone();
    assert_eq!(fault(put(&mut split, 2, 5, 1, 4096)), below);
    put(&mut log, 2, 6, 1, 4096).expect("above it");
}

#[test]
fn batches_of_one_term_never_overlap_partially() {
    let mut log = log();
    put(&mut log, 1, 1, 5, 0).expect("first");
    assert!(matches!(fault(put(&mut log.clone(), 1, 3, 5, 4096)), FaultKind::Overlap { .. }));
    assert!(matches!(fault(put(&mut log.clone(), 1, 1, 3, 4096)), FaultKind::Overlap { .. }));
    // Another term in the middle of a batch: the batch is the atom.
    assert!(matches!(fault(put(&mut log, 2, 3, 1, 4096)), FaultKind::Overlap { .. }));
}

#[test]
fn a_hard_state_takes_nothing_back() {
    let mut log = log();
    let (term, vote) = (Term::new(9), Some(NodeId::new(1)));
    log.on_hard_state(REPLICA, HardState { term, vote, ..log.hard_state }).expect("a vote");
    let other = HardState { vote: Some(NodeId::new(2)), ..log.hard_state };
    assert!(matches!(fault(log.on_hard_state(REPLICA, other)), FaultKind::HardState { .. }));
    let none = HardState { vote: None, ..log.hard_state };
    assert!(matches!(fault(log.on_hard_state(REPLICA, none)), FaultKind::HardState { .. }));
    assert!(matches!(fault(set_term(&mut log, 8)), FaultKind::HardState { .. }));
    let foreign = log.on_hard_state(ReplicaId::new(7), log.hard_state);
    assert!(matches!(fault(foreign), FaultKind::Replica { .. }));
}

#[test]
fn rewriting_moves_the_place_and_nothing_else() {
    let mut log = log();
    for first in [1, 6, 11] {
        put(&mut log, 1, first, 5, first * 4096).expect("one after the other");
    }
    put(&mut log, 2, 16, 5, 2 * 65_536).expect("two segments later");
    assert_eq!(pieces(&log), "1-15@0 16-20@2");
    put(&mut log, 1, 6, 5, 3 * 65_536).expect("the middle goes forward");
    assert_eq!(pieces(&log), "1-5@0 6-10@3 11-15@0 16-20@2");
    put(&mut log, 1, 1, 5, 3 * 65_536 + 4096).expect("the front");
    put(&mut log, 1, 11, 5, 3 * 65_536 + 8192).expect("the back");
    assert_eq!(pieces(&log), "1-5@3 6-15@3 16-20@2");
    assert_eq!(log.last, entry(2, 20));
    assert_eq!(log.place_of(LogIndex::new(7)).expect("dense").block, Lsn::new(3 * 65_536));
    assert_eq!(log.check_complete(), Ok(()));
}

#[test]
fn islands_must_join_up() {
    // As a replay from a later segment sees it: entries 1 to 20 exist, in older segments.
    let mut log = GroupLog::new(&GroupCheckpoint { last: entry(2, 20), ..log().checkpoint() });
    log.hard_state.commit = LogIndex::new(18);
    log.runs = vec![
        TermRun { term: Term::new(1), first: LogIndex::new(1) },
        TermRun { term: Term::new(2), first: LogIndex::new(11) },
    ];
    put(&mut log, 2, 21, 1, 5 * 65_536).expect("behind the checkpoint");
    assert_eq!(fault(log.check_complete()), FaultKind::Missing { from: LogIndex::new(1) });
    put(&mut log, 2, 11, 10, 5 * 65_536 + 4096).expect("an island in front");
    put(&mut log, 1, 1, 5, 5 * 65_536 + 8192).expect("another");
    assert_eq!(fault(log.check_complete()), FaultKind::Missing { from: LogIndex::new(6) });
    put(&mut log, 1, 6, 5, 5 * 65_536 + 12_288).expect("the last one");
    assert_eq!(log.check_complete(), Ok(()));
    assert_eq!(log.last, entry(2, 21));
}

#[test]
fn a_commit_index_above_the_log_is_corruption() {
    let mut log = log();
    put(&mut log, 1, 1, 5, 0).expect("first");
    let commit = LogIndex::new(6);
    log.on_hard_state(REPLICA, HardState { commit, ..log.hard_state }).expect("not yet known");
    let last = LogIndex::new(5);
    assert_eq!(fault(log.check_complete()), FaultKind::CommitBeyondLog { commit, last });
}

#[test]
fn trimming_forgets_up_to_an_edge() {
    let mut log = log();
    for (term, first) in [(1, 1), (2, 6), (2, 11)] {
        put(&mut log, term, first, 5, first * 4096).expect("one after the other");
    }
    log.trim(entry(2, 10));
    log.check();
    assert_eq!(pieces(&log), "11-15@0");
    assert_eq!(log.runs, [TermRun { term: Term::new(2), first: LogIndex::new(11) }]);
    assert_eq!(log.term_at(LogIndex::new(10)), Some(Term::new(2)));
    assert_eq!(log.term_at(LogIndex::new(9)), None);
    log.trim(entry(2, 15));
    log.check();
    assert_eq!((pieces(&log), log.last), (String::new(), entry(2, 15)));
    put(&mut log, 2, 16, 1, 90_000 / 4096 * 4096).expect("goes on behind its base");
}

#[test]
fn a_reset_keeps_the_tail_only_of_its_own_history() {
    let reset = |last, keep_tail| LogReset {
        group: GroupId::new(1),
        replica: REPLICA,
        last,
        membership: membership(),
        keep_tail,
    };
    let mut log = log();
    put(&mut log, 1, 1, 5, 0).expect("first");
    put(&mut log, 2, 6, 5, 4096).expect("second");
    let check = |last, keep_tail, expected_last| {
        let mut log = log.clone();
        log.on_reset(&reset(last, keep_tail)).expect("not below the base");
        log.check();
        assert_eq!((log.base, log.last), (last, expected_last));
    };
    check(entry(1, 5), true, entry(2, 10));
    check(entry(1, 5), false, entry(1, 5));
    // S-04: the log has another entry there, so nothing behind it can stay.
    check(entry(3, 7), true, entry(3, 7));
    check(entry(3, 50), true, entry(3, 50));
    log.trim(entry(2, 10));
    assert!(matches!(fault(log.on_reset(&reset(entry(1, 5), true))), FaultKind::Checkpoint { .. }));
}
