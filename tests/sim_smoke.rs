//! The simulated world in CI: a few hundred seeds, the regressions, and determinism.
//!
//! Bounded to seconds; `simrun` runs as many as one likes. A failure names the seed and the
//! command that shows everything that led to it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use catamaran::sim::{Failure, Plan, Summary, run};

/// Lives through one seed; panics with the seed's name if a promise is broken.
#[track_caller]
fn live(seed: u64) -> Summary {
    let verdict: Result<Result<Summary, Failure>, _> =
        catch_unwind(AssertUnwindSafe(|| run(&Plan::draw(seed), None)));
    let again = format!("cargo run --release --bin simrun -- --seed {seed} --trace");
    match verdict {
        Ok(Ok(summary)) => summary,
        Ok(Err(failure)) => panic!("seed {seed}: {failure}; reproduce: {again}"),
        Err(_) => panic!("seed {seed}: an assertion failed (above); reproduce: {again}"),
    }
}

fn live_all(seeds: impl Iterator<Item = u64>) -> Summary {
    let mut sum = Summary::default();
    for seed in seeds {
        sum.add(&live(seed));
    }
    sum
}

#[test]
fn the_first_hundred_worlds_keep_every_promise() {
    let sum = live_all(1..=120);
    // A world in which nothing happens keeps every promise too.
    assert!(sum.appends_done > 10_000, "{sum:?}");
    assert!(sum.reads > 5_000, "{sum:?}");
    assert!(sum.recoveries > 200, "{sum:?}");
    assert!(sum.cuts > 10, "{sum:?}");
    assert!(sum.recycles > 500, "{sum:?}");
    assert!(sum.elections > 300, "{sum:?}");
}

#[test]
fn the_second_hundred_worlds_keep_every_promise() {
    live_all(121..=240);
}

#[test]
fn what_once_found_a_bug_finds_none() {
    let text = include_str!("seeds.txt");
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let seeds: Vec<u64> = lines
        .map(|line| {
            let seed = line.split_whitespace().next().expect("not empty");
            seed.parse().unwrap_or_else(|_| panic!("seeds.txt: not a seed: {line}"))
        })
        .collect();
    assert!(!seeds.is_empty());
    live_all(seeds.into_iter());
}

#[test]
fn the_same_seed_does_the_same_again() {
    for seed in [3, 5, 11, 29] {
        assert_eq!(live(seed), live(seed), "seed {seed}");
    }
}

#[test]
fn seeds_differ() {
    assert_ne!(live(1).hash, live(2).hash);
}
