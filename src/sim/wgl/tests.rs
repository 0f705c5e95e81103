//! The checker against brute force: thousands of small histories, good ones and spoilt ones.

use super::*;

/// The object without any shortcut: tries every order that the clocks allow, every index an
/// unanswered append may take or that it never happens, and entries of nobody anywhere between.
fn brute(ops: &[Op], shows: &[Vec<u64>]) -> bool {
    let mut log = Vec::new();
    let longest = ops.iter().map(|op| match op.does {
        Does::Append { index, count, .. } => index.unwrap_or(0) + count,
        Does::Read { commit, .. } => commit,
    });
    // What is appended behind everything that anybody was told is appended unseen.
    let limit = at(longest.max().unwrap_or(0) + 1);
    extend(ops, shows, &mut vec![false; ops.len()], &mut log, limit)
}

fn extend(
    ops: &[Op],
    shows: &[Vec<u64>],
    done: &mut Vec<bool>,
    log: &mut Vec<u64>,
    limit: usize,
) -> bool {
    let is_open = |at: usize, done: &[bool]| !done[at] && ops[at].returned.is_some();
    if (0..ops.len()).all(|at| !is_open(at, done)) {
        return true; // What is left was never answered and need not have happened.
    }
    let soonest = (0..ops.len()).filter(|at| is_open(*at, done));
    let soonest = soonest.filter_map(|at| ops[at].returned).min().unwrap_or(u64::MAX);
    for at in 0..ops.len() {
        if done[at] || soonest < ops[at].invoked {
            continue;
        }
        let before = log.len();
        // Any number of nobody's entries may come first.
        for padding in 0..=limit.saturating_sub(before) {
            log.resize(before + padding, NO_RECORD);
            let fits = match ops[at].does {
                Does::Append { first, count, index } => {
                    let fits = index.is_none_or(|index| index == log.len() as u64 + 1);
                    log.extend(first..first + count);
                    fits
                }
                Does::Read { from, commit, .. } => {
                    let from = super::at(from);
                    commit == log.len() as u64
                        && (shows[at].is_empty()
                            || log.get(from..from + shows[at].len()) == Some(&shows[at][..]))
                }
            };
            done[at] = true;
            if fits && extend(ops, shows, done, log, limit) {
                return true;
            }
            done[at] = false;
            log.truncate(before);
        }
    }
    false
}

/// A small history that is right: operations that took effect one by one, at moments inside of
/// intervals that overlap.
fn draw(prng: &mut Prng) -> (Vec<Op>, Vec<Vec<u64>>) {
    let count = prng.between(2, 7);
    let mut log: Vec<u64> = Vec::new();
    let (mut ops, mut shows) = (Vec::new(), Vec::new());
    for number in 0..count {
        if prng.chance(1, 6) {
            log.push(NO_RECORD);
        }
        let moment = 100 * (number + 1);
        let invoked = moment - prng.below(250).min(moment - 1);
        let answered = (!prng.chance(1, 5)).then(|| moment + 1 + prng.below(250));
        let (does, show, returned) = if prng.chance(1, 2) {
            let records = prng.between(1, 3);
            let first = 10 * (number + 1);
            let index = log.len() as u64 + 1;
            // One whose answer was lost has happened or not.
            if answered.is_some() || prng.chance(1, 2) {
                log.extend(first..first + records);
            }
            let index = answered.map(|_| index);
            (Does::Append { first, count: records, index }, Vec::new(), answered)
        } else {
            let commit = log.len() as u64;
            let from = prng.between(1, commit + 2);
            let next = prng.between(from, (commit + 1).max(from) + 1);
            let show = log[at(from)..at(next)].to_vec();
            // Reads without an answer tell nothing and are not recorded.
            (Does::Read { from, next, commit }, show, Some(answered.unwrap_or(moment + 1)))
        };
        ops.push(Op { invoked, returned, does });
        shows.push(show);
    }
    (ops, shows)
}

/// Spoils something, which may or may not make the history wrong.
fn spoil(ops: &mut [Op], shows: &mut [Vec<u64>], prng: &mut Prng) {
    let victim = usize::try_from(prng.below(ops.len() as u64)).expect("a few");
    let other = usize::try_from(prng.below(ops.len() as u64)).expect("a few");
    let op = &mut ops[victim];
    match prng.below(4) {
        0 => {
            // It came late, or ended early.
            let width = op.returned.map_or(50, |returned| returned - op.invoked);
            let shift = prng.below(400);
            op.invoked += shift;
            op.returned = op.returned.map(|_| op.invoked + width);
        }
        1 => match &mut op.does {
            Does::Append { index: Some(index), .. } => *index += prng.between(1, 3),
            Does::Append { index, .. } => {
                *index = Some(prng.between(1, 5));
                op.returned = Some(op.invoked + prng.between(1, 300));
            }
            Does::Read { commit, next, .. } => *commit = (*commit + 1).max(*next - 1),
        },
        2 => match &mut op.does {
            Does::Append { index: Some(index), .. } => *index = (*index).max(2) - 1,
            Does::Append { .. } => {}
            // A read that misses the end, as a stale one does.
            Does::Read { from, next, commit } if *commit > 0 => {
                *commit -= 1;
                *next = (*next).min(*commit + 1).max(*from);
                shows[victim].truncate(usize::try_from(*next - *from).expect("short"));
            }
            Does::Read { .. } => {}
        },
        _ => {
            // The two change their places in time.
            let (one, two) = (ops[victim], ops[other]);
            (ops[victim].invoked, ops[victim].returned) = (two.invoked, two.returned);
            (ops[other].invoked, ops[other].returned) = (one.invoked, one.returned);
            for op in [victim, other] {
                let answered =
                    matches!(ops[op].does, Does::Read { .. } | Does::Append { index: Some(_), .. });
                let later = ops[op].invoked + 60;
                ops[op].returned = answered.then(|| ops[op].returned.unwrap_or(later));
            }
        }
    }
}

/// Makes all times differ, in the order they have.
fn number_events(ops: &mut [Op]) {
    let mut times: Vec<(u64, usize, bool)> = Vec::new();
    for (at, op) in ops.iter().enumerate() {
        times.push((op.invoked, at, false));
        times.extend(op.returned.map(|returned| (returned, at, true)));
    }
    times.sort_unstable();
    for (number, (_, at, is_return)) in (1..).zip(times) {
        if is_return {
            ops[at].returned = Some(number);
        } else {
            ops[at].invoked = number;
        }
    }
}

/// What the reads show together; `None`: two disagree, which the recorder finds by itself.
fn seen_of(ops: &[Op], shows: &[Vec<u64>]) -> Option<Vec<u64>> {
    let mut seen = vec![UNSEEN; 64];
    for (op, show) in ops.iter().zip(shows) {
        let Does::Read { from, .. } = op.does else { continue };
        for (cell, token) in seen[at(from)..].iter_mut().zip(show) {
            if *cell != UNSEEN && *cell != *token {
                return None;
            }
            *cell = *token;
        }
    }
    Some(seen)
}

#[test]
fn the_search_and_brute_force_agree() {
    let mut prng = Prng::new(77);
    let (mut good, mut bad, mut unknown) = (0, 0, 0);
    for round in 0..24_000 {
        let (mut ops, mut shows) = draw(&mut prng);
        if round % 2 == 1 {
            for _ in 0..prng.between(1, 3) {
                spoil(&mut ops, &mut shows, &mut prng);
            }
        }
        number_events(&mut ops);
        let expected = brute(&ops, &shows);
        let found = seen_of(&ops, &shows).is_some_and(|seen| check(&ops, &seen).is_ok());
        assert_eq!(found, expected, "round {round}: {ops:#?} {shows:?}");
        assert!(expected || round % 2 == 1, "a history that happened: {ops:#?} {shows:?}");
        good += u32::from(expected);
        bad += u32::from(!expected);
        unknown += u32::from(ops.iter().any(|op| op.returned.is_none()));
    }
    assert!(good > 12_000 && bad > 3_000 && unknown > 5_000, "{good} {bad} {unknown}");
}

fn append(invoked: u64, returned: u64, first: u64, index: u64) -> Op {
    let does = Does::Append { first, count: 1, index: Some(index) };
    Op { invoked, returned: Some(returned), does }
}

fn read(invoked: u64, returned: u64, commit: u64) -> Op {
    let does = Does::Read { from: 1, next: 1, commit };
    Op { invoked, returned: Some(returned), does }
}

#[test]
fn a_read_that_misses_an_acknowledged_append_is_found() {
    let ops = [append(1, 2, 10, 1), read(3, 4, 0)];
    let violation = check(&ops, &[]).expect_err("stale");
    assert_eq!(violation.op, ops[0], "the answer to the append came before the read");
    check(&[append(1, 4, 10, 1), read(2, 3, 0)], &[]).expect("they overlap");
}

#[test]
fn an_unknown_append_takes_effect_when_it_is_seen_and_stays() {
    let append =
        Op { invoked: 1, returned: None, does: Does::Append { first: 10, count: 2, index: None } };
    let reads = |first: u64, second: u64| {
        let one = |invoked, commit: u64| Op {
            invoked,
            returned: Some(invoked + 1),
            does: Does::Read { from: 1, next: commit + 1, commit },
        };
        [append, one(2, first), one(4, second)]
    };
    check(&reads(0, 2), &[10, 11]).expect("it happened between the reads");
    check(&reads(2, 0), &[10, 11]).expect_err("it does not go away");
    check(&reads(0, 2), &[10, 12]).expect_err("half of it is another's");
    check(&reads(0, 2), &[11, 12]).expect_err("its beginning would lie before the log");
}

#[test]
fn long_histories_are_cut_into_windows_and_stay_right() {
    // A thousand operations at a time, three windows; each overlaps its neighbours.
    let count = 3 * WINDOW_OPS as u64;
    let mut ops: Vec<Op> = (1..=count).map(|n| append(2 * n, 2 * n + 1001, 10 + n, n)).collect();
    check(&ops, &[]).expect("in order");
    // One of the last window ends before one of the first begins.
    let last = ops.last_mut().expect("many");
    (last.invoked, last.returned) = (0, Some(1));
    check(&ops, &[]).expect_err("across windows");
}
