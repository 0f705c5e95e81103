//! `kill -9` under load, again and again; the time without writes after a leader is lost.
//!
//! Clusters live for a leg of some rounds only: each start of a node begins a segment of 64 MiB, and
//! the log of a leg is read back whole at its end.

use std::time::{Duration, Instant};

use crate::load::{Load, Shape, percentile};
use crate::progress::Progress;
use crate::report::Report;
use crate::site::{Balance, Site, go_on};

/// Rounds of one cluster.
const LEG: u32 = 20;
/// Acknowledged records that show that the cluster serves: far more than can be on their way.
const SERVES: u64 = 100;
const SHAPE: Shape = Shape { writers: 8, per_second: 800, record_bytes: 200 };
/// The time without a write after a leader was killed, at default timers: what half of the times
/// and what 99 of 100 may take.
const GAP_P50_MS: f64 = 450.0;
const GAP_P99_MS: f64 = 700.0;
/// What one round may take on average, so that many can be afforded.
const ROUND_S: f64 = 4.0;
const SETTINGS: &str = "wal.segments_ahead = 1";

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Who {
    /// The leader, every time
    Leader,
    /// One that follows
    Follower,
    /// All three
    All,
    /// Leader, follower, leader, all, and so on
    Mix,
}

impl Who {
    fn in_round(self, round: u32) -> Self {
        match (self, round % 4) {
            (Self::Mix, 0 | 2) => Self::Leader,
            (Self::Mix, 1) => Self::Follower,
            (Self::Mix, _) => Self::All,
            (who, _) => who,
        }
    }
}

/// What the rounds came to.
#[derive(Default)]
struct Tally {
    leader_gaps_us: Vec<u64>,
    other_gaps_us: Vec<u64>,
    balance: Balance,
}

pub(crate) fn run(
    dir: &std::path::Path,
    rounds: u32,
    who: Who,
    progress: &mut Progress,
) -> Result<Report, String> {
    let mut report = Report::new("kill");
    let mut tally = Tally::default();
    let begun = Instant::now();
    for first in (0..rounds).step_by(LEG as usize) {
        let upto = rounds.min(first + LEG);
        leg(dir, first..upto, who, &mut tally, progress)?;
    }
    let gaps = &mut tally.leader_gaps_us;
    report.fact("rounds", f64::from(rounds), "");
    report.at_most(
        "time of a round",
        (begun.elapsed().as_secs_f64() / f64::from(rounds), ROUND_S),
        "s",
    );
    if !gaps.is_empty() {
        report.fact("leaders killed", gaps.len() as f64, "");
        report.at_most("write gap, p50", (percentile(gaps, 50) as f64 / 1e3, GAP_P50_MS), "ms");
        report.at_most("write gap, p99", (percentile(gaps, 99) as f64 / 1e3, GAP_P99_MS), "ms");
        report.fact("write gap, longest", percentile(gaps, 100) as f64 / 1e3, "ms");
    }
    let others = &mut tally.other_gaps_us;
    if !others.is_empty() {
        let longest = percentile(others, 100) as f64 / 1e3;
        report.fact("longest gap after a follower or all were killed", longest, "ms");
    }
    tally.balance.report(&mut report);
    Ok(report)
}

/// Some rounds with one cluster, and its account.
fn leg(
    dir: &std::path::Path,
    rounds: std::ops::Range<u32>,
    who: Who,
    tally: &mut Tally,
    progress: &mut Progress,
) -> Result<(), String> {
    let mut site = Site::open(dir, SETTINGS)?;
    let load = Load::start(&site.nodes, SHAPE)?;
    load.wait_more(&site.nodes, SERVES)?;
    for round in rounds {
        go_on()?;
        let victim = who.in_round(round);
        let gap = round_of(&mut site, &load, victim)?;
        progress.now(|| format!("round {}: {victim:?} killed, gap {gap:.0?}", round + 1));
        let gap_us = u64::try_from(gap.as_micros()).unwrap_or(u64::MAX);
        let gaps = match victim {
            Who::Leader => &mut tally.leader_gaps_us,
            Who::Follower | Who::All | Who::Mix => &mut tally.other_gaps_us,
        };
        gaps.push(gap_us);
    }
    let ledger = load.finish()?;
    let audit = site.settle(&ledger, progress)?;
    tally.balance.add(&ledger, &audit);
    Ok(())
}

/// Kills, waits until writes go on, and brings everybody back. Tells the time without a write.
fn round_of(site: &mut Site, load: &Load, victim: Who) -> Result<Duration, String> {
    let leader = site.leader()?;
    let killed_at = load.now();
    match victim {
        Who::Leader | Who::Mix => site.nodes.kill(leader)?,
        Who::Follower => site.nodes.kill(leader % 3 + 1)?,
        Who::All => {
            for node in site.nodes.all() {
                site.nodes.kill(node)?;
            }
            site.start_all()?;
        }
    }
    load.wait_more(&site.nodes, SERVES)?;
    let gap = load.longest_gap(killed_at);
    site.start_all()?;
    site.leader()?;
    Ok(gap)
}
